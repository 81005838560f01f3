"""attnlab explain: where a finished point looks, as a page and as figures."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from attnlab import ledger
from attnlab.cli.dataset import of_different_classes
from attnlab.config.build import build_data
from attnlab.data import Images, Lazy
from attnlab.data.decode import Files
from attnlab.data.sets.files import plural
from attnlab.errors import InputError, choices
from attnlab.explain import METHODS, channel_gates, default_layer
from attnlab.explain.cams import CAMS, require_libraries
from attnlab.explain.looking import NAMES, PATIENCE, Subjects, require_methods, seconds_of_score_cam, see
from attnlab.explain.maps import last_of_stages
from attnlab.explain.page import to_html
from attnlab.explain.pictures import ROWS, draw_channels, draw_grid, save
from attnlab.explain.sanity import ALIKE, Sanity, check_sanity, draw_sanity, stages_of
from attnlab.insertion import places_with_attention
from attnlab.ledger import write_text
from attnlab.terminal import plain_console, with_progress
from attnlab.trained import Trained, load
from attnlab.trained.listing import Listed, list_images
from attnlab.trained.model import design_in_words

POOL = 1000  # images among which right and wrong ones are looked for, where training has written down no answers
FOR_CHANNELS = 500  # images whose channel gates are averaged
BATCH = 64
GATES = (
    "Above, the gates of each image sorted from the most open channel to the least: the median image, and a band from "
    "the lowest image to the highest. Below, the mean gate of each channel for some classes (as in figures 5 and 6 of "
    "the SE paper, 1709.01507): where the lines part, the gates depend on the class; where they lie on one another, "
    "they only rescale."
)
SANITY = (
    "A map that depends on what the network has learned must change when its weights are random (Adebayo et al. 2018, "
    "1810.03292). Stage after stage, from the head down, the numbers in each weight change places; the line is the "
    "rank correlation (Spearman) of each image's map with that of the trained network, on average. A method changes "
    f"if in the end it is below {ALIKE}: a map of chance would be at 0, and what stays above comes from the image and "
    "the architecture, not from what was learned."
)


@dataclass(frozen=True)
class _Many:
    """Images for the channel gates: normalised, and a class of each."""

    x: Tensor
    labels: Sequence[int]
    what: str


def explain_point(
    point: str,
    words: Sequence[str] = (),
    *,
    best: bool = False,
    against: str | None = None,
    of: str | None = None,
    methods: Sequence[str] | None = None,
    count: int = 16,
    split: str = "test",
    sanity: bool = False,
    output: Path | None = None,
) -> None:
    """Write the page and the figures; see ``attnlab explain --help``. Raises InputError before any work."""
    require_methods(methods or ())
    require_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first = load(point, best=best, device=device)
    other = load(against, device=device) if against else None
    if other and list(other.classes) != list(first.classes):
        raise InputError(f"{against}: has other classes than {point}, so the two cannot be compared")
    if of is not None and of not in first.classes:
        raise InputError(f"--class {of}: {choices(of, first.classes)}")
    asked = None if of is None else list(first.classes).index(of)
    subjects, many, about = _given(first, words, count) if words else _own(first, split, count)
    x = first.preprocess.normalised(subjects.pixels)
    probabilities = _probabilities(first, x)
    subjects = Subjects(
        subjects.pixels,
        subjects.names,
        subjects.truth,
        probabilities.argmax(1).tolist() if asked is None else [asked] * len(x),
        subjects.classes,
    )
    names = _names(first, other)
    notes = []
    if not places_with_attention(first.net):
        notes.append(f"{point}: is a bare network, so there are no gates to show")
    chosen, more = _methods(first, x, methods, sanity)
    seen = [see(first.net, x, subjects.asked, chosen, name=names[0], probabilities=probabilities, bar=True)]
    if other:
        x2 = _as_seen_by(other, first, subjects.pixels)
        seen.append(
            see(other.net, x2, subjects.asked, chosen, name=names[1], probabilities=_probabilities(other, x2), bar=True)
        )
    layers = list(dict.fromkeys(each.layer for each in seen if each.layer))
    at = f", of the output of {' and '.join(layers)}" if layers else ""
    maps_of = f"of {of}" if of else f"of the class that {names[0]} predicts"
    for line in [about, *notes, *more, f"maps are {maps_of}{at}"]:
        print(line)

    folder = output or first.folders[0] / "explain"
    grid = draw_grid(subjects, seen)
    written = save(grid, folder, "grid")
    figures: dict[str, Any] = {}
    if places_with_attention(first.net):
        title = f"Channel gates of {names[0]}, {many.what}"
        drawn = draw_channels(_channels(first, many), many.labels, first.classes, title)
        if drawn is None:
            notes.append(f"{names[0]}: its attention tells no channels apart, so there is no figure of channel gates")
            print(notes[-1])
        else:
            figures["Channel gates"] = (GATES, drawn)
            written += save(drawn, folder, "channels")
    if sanity:
        found = check_sanity(first.net, x, subjects.asked, chosen, bar=True)
        drawn = draw_sanity(found, f"Sanity of the maps of {names[0]}, {plural(len(x), 'image')}")
        figures["Sanity check"] = (SANITY, drawn)
        written += save(drawn, folder, "sanity")
        _print_sanity(found)
    facts = {
        "Network": _full_name(first),
        **({"Against": _full_name(other)} if other else {}),
        "Images": about,
        "Maps": f"{maps_of}{at}",
        **{f"Note{'' if i == 0 else f' {i + 1}'}": note for i, note in enumerate([*notes, *more])},
    }
    page = to_html(subjects, seen, title=f"Where {names[0]} looks", made=point, facts=facts, figures=figures)
    write_text(folder / "page.html", page)
    rows = f" (the grid shows the first {ROWS} images)" if len(subjects) > ROWS else ""
    print(f"written to {folder}: page.html, {', '.join(path.name for path in written)}{rows}")
    _log(first.folders[0], [path for path in written if path.suffix == ".png"])


def _given(trained: Trained, words: Sequence[str], count: int) -> tuple[Subjects, _Many, str]:
    """The images of files and folders; of more than ``count``, evenly spaced ones."""
    listed, notes = list_images(words, trained.classes)
    print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    asked = [listed[i] for i in _evenly(len(listed), count)]
    few, made = list[Listed](), list[Tensor]()
    for image in asked:
        try:
            made.append(trained.preprocess.pixels(image.path))
            few.append(image)
        except InputError as error:
            print(f"attnlab: skipped {error}", file=sys.stderr)
    if not few:
        raise InputError(f"{words[0]}: none of {plural(len(asked), 'image')} can be read")
    truth = [image.label for image in few]
    about = f"{len(few)} of {plural(len(listed), 'image')}, evenly spaced: --images says how many"
    about = about if len(asked) < len(listed) else plural(len(few), "image")
    pixels = torch.stack(made)
    x = trained.preprocess.normalised(pixels)
    labels = [p if label is None else label for label, p in zip(truth, _answers(trained, x), strict=True)]
    subjects = Subjects(pixels, [image.path for image in few], truth, [], list(trained.classes))
    return subjects, _Many(x, labels, f"{plural(len(few), 'image')} by class"), about


def _own(trained: Trained, split: str, count: int) -> tuple[Subjects, _Many, str]:
    """Images of the point's own split: half of them wrongly classified, if there are so many, and of all classes."""
    data = build_data(trained.config)
    data.moments = (torch.tensor(trained.preprocess.mean), torch.tensor(trained.preprocess.std))
    part: Images | Lazy = getattr(data.loaded, split)
    labels = part.labels.cpu().numpy()
    pool, predicted = _known_answers(trained, split, labels)
    if pool is None:
        pool = np.asarray(_evenly(len(labels), POOL))
        x, _ = data.shown(part.take(torch.from_numpy(pool)))
        predicted = np.asarray(_answers(trained, x))
    of_pool = labels[pool]
    wrong = pool[of_pool != predicted]
    right = pool[of_pool == predicted]
    half = min(len(wrong), max(count // 2, count - len(right)))
    wrong = wrong[of_different_classes(labels[wrong], half)]
    right = right[of_different_classes(labels[right], count - len(wrong), labels[wrong])]
    chosen = _in_turn(wrong.tolist(), right.tolist())
    few = part.take(torch.tensor(chosen))
    x, truth = data.shown(few)
    names = [_name_of(few, i) or f"{split} image {chosen[i]}" for i in range(len(chosen))]
    subjects = Subjects(data.unnormalised(x), names, truth.tolist(), [], list(trained.classes))
    for_channels = of_different_classes(labels, min(FOR_CHANNELS, len(labels)))
    x_many, labels_many = data.shown(part.take(torch.from_numpy(for_channels)))
    many = _Many(x_many, labels_many.tolist(), f"{plural(len(for_channels), f'{split} image')}")
    about = f"{plural(len(chosen), f'{split} image')} of {len(labels):,}: {len(wrong)} wrong, {len(right)} right"
    return subjects, many, f"{about}, as many of each class as can be"


def _name_of(images: Images | Lazy, i: int) -> str | None:
    """Of its file, relative to the data's folder."""
    if isinstance(images, Lazy) and isinstance(images.read, Files):
        return os.fsdecode(images.read.names[int(images.indices[i])])
    return None


def _known_answers(trained: Trained, split: str, labels: np.ndarray) -> Any:
    """Indices of all images and what the point predicted of them, as training wrote it down; else (None, None)."""
    answers, _ = ledger.read_array(trained.folders[0] / "test.npy") if split == "test" else (None, "")
    if answers is None or answers.shape[1] != len(labels) or not np.array_equal(answers[0], labels):
        return None, None
    return np.arange(len(labels)), answers[1]


def _in_turn(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The first of each, the second of each, ..., then what is left."""
    both = min(len(one), len(other))
    return [i for pair in zip(one, other, strict=False) for i in pair] + [*one[both:], *other[both:]]


def _evenly(total: int, most: int) -> list[int]:
    return sorted({i * total // min(total, most) for i in range(min(total, most))})


def _probabilities(trained: Trained, x: Tensor) -> Tensor:
    """As the point was evaluated."""
    return torch.cat([trained.logits(part).softmax(1).cpu() for part in x.split(BATCH)])


def _answers(trained: Trained, x: Tensor) -> list[int]:
    return _probabilities(trained, x).argmax(1).tolist()


def _as_seen_by(other: Trained, first: Trained, pixels: Tensor) -> Tensor:
    if other.preprocess.shape == first.preprocess.shape:
        return other.preprocess.normalised(pixels)
    return torch.stack([other.preprocess(image) for image in pixels])


def _channels(trained: Trained, many: _Many) -> dict[str, Tensor]:
    """Title -> (images, C), of the last site of each stage."""
    parts = many.x.split(BATCH)
    gates = [channel_gates(trained.net, part) for part in with_progress(parts, len(parts), "channel gates")]
    titles = last_of_stages(trained.net, many.x, gates[0])
    return {title: torch.cat([part[site] for part in gates]) for site, title in titles.items()}


def _methods(trained: Trained, x: Tensor, asked: Sequence[str] | None, sanity: bool) -> tuple[Sequence[str], list[str]]:
    """The methods, and which of all are left out, and why."""
    if asked is not None:
        return list(dict.fromkeys(asked)), []
    try:
        default_layer(trained.net, x)
    except InputError as error:
        return [method for method in METHODS if method not in CAMS], [f"no class activation maps: {error}"]
    seconds = seconds_of_score_cam(trained.net, x) * (2 + len(stages_of(trained.net, x)) if sanity else 1)
    if seconds < PATIENCE:
        return METHODS, []
    minutes = max(2, round(seconds / 60))
    told = f"without Score-CAM, which would take about {minutes} minutes: --methods {','.join(METHODS)} runs it"
    return [method for method in METHODS if method != "scorecam"], [told]


def _names(first: Trained, other: Trained | None) -> list[str]:
    names = [_short_name(each) for each in (first, other) if each]
    if len(names) == 2 and names[0] == names[1]:
        return [each.folders[0].name for each in (first, other) if each]
    return names


def _short_name(trained: Trained) -> str:
    return design_in_words(trained.config) or f"bare {trained.config['backbone']['name']}"


def _full_name(trained: Trained) -> str:
    accuracy = 100 * trained.result["test"]["accuracy"]
    sites, backbone = trained.config["sites"], trained.config["backbone"]["name"]
    name = _short_name(trained) if sites is None else f"{backbone}, {_short_name(trained)}"
    return f"{name}, test accuracy {accuracy:.1f} %: {trained.folders[0]}"


def _print_sanity(found: Sanity) -> None:
    table = Table("map", *found.stages, "")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for method, values in found.alike.items():
        verdict = "changes" if found.changes(method) else "does not change"
        table.add_row(NAMES[method], *(f"{value:.2f}" for value in values[1:]), verdict)
    plain_console().print(table)
    print(
        "Rank correlation of the maps with those of the trained network, randomised from the head down to each stage.\n"
        f"A map changes if it is below {ALIKE} in the end; what does not change shows the image, not what was learned."
    )


def _log(point: Path, pictures: Sequence[Path]) -> None:
    """Add the pictures to the point's W&B run, if it has one."""
    from attnlab.tracking.pictures import log_pictures

    if told := log_pictures(point, {f"explain/{path.stem}": path for path in pictures}):
        print(told, file=sys.stderr)
