"""From the folder of a finished point, or of its study, to a ``Trained``."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from attnlab import ledger
from attnlab.backbones import without_weights
from attnlab.config.build import build_data, build_network
from attnlab.data import Preprocess
from attnlab.errors import InputError, first_line
from attnlab.ledger.evaluations import OF_TRAINING
from attnlab.ledger.identities import ONCE_DATA, in_full
from attnlab.study.collect import Point, Study, Variant, read_study
from attnlab.trained.ensemble import Ensemble
from attnlab.trained.hub import is_export, read_export
from attnlab.trained.model import Trained

Config = Mapping[str, Any]
# Settings of data with which validation images stay the same, though a network may see them otherwise.
SAME_IMAGES = {*OF_TRAINING, *ONCE_DATA, "size", "fit", "channels", "background", "duplicates"}


def load(
    path: str | Path,
    *,
    best: bool = False,
    seeds: Literal["all"] | None = None,
    device: str | torch.device = "cpu",
) -> Trained:
    """The trained network of a finished point, with what it takes to use it.

    ``path``: a point's folder; or a study's, with ``best=True``: the best seed of the variant whose mean validation
    metric is best (never by test images). ``seeds="all"``: all finished seeds of that variant as one ensemble, whose
    probabilities are the mean of theirs. Or the folder that ``attnlab export --to safetensors`` has written.

    >>> trained = attnlab.load("outputs/demo", best=True)
    >>> trained.predict("photo.jpg")
    [('3', 0.98)]

    Classes are imported only as the point's config names them, from attnlab, torch, torchvision, timm, lightning and
    the packages in ATTNLAB_ALLOW; weights are loaded as weights alone.
    Raises InputError if the folder holds no finished point, or no checkpoint of it.
    """
    folder = Path(path)
    if seeds not in (None, "all"):
        raise InputError(f"seeds={seeds}: must be 'all' or None")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a point's folder lies in its study's, such as outputs/demo")
    if is_export(folder):
        if best or seeds:
            what = "best=True" if best else "seeds='all'"
            raise InputError(f"{what}: {folder} is an exported network; give the folder of a study or of its point")
        exported = read_export(folder)
        exported.net.to(device)
        return exported
    if (folder / "point.json").exists() or (folder / "status.json").exists():
        if best:
            raise InputError(f"best=True: {folder} is one point; give its study's folder, {folder.parent}")
        folders = [folder] if seeds is None else _all_seeds(folder)
    elif best:
        ledger.refuse_published(folder)
        variant, point = best_of(read_study(folder))
        folders = [point.folder] if seeds is None else _points_of(variant, point)
    else:
        raise InputError(f"{folder}: not a point's folder; of a study, best=True takes the best point")
    members = [_load_point(each) for each in folders]
    first = members[0]
    if len(members) > 1:
        require_alike(members)
        net: nn.Module = Ensemble([member.net for member in members])
        first = Trained(net, first.classes, first.preprocess, first.config, first.result, folders)
    first.net.eval().to(device)
    return first


def best_of(study: Study) -> tuple[Variant, Point]:
    """The variant with the best mean of what chose its checkpoints on validation images, and its best point.

    In cross-validation the mean is over all its folds and seeds, and the point that of the best fold. Raises
    InputError if variants have other validation images, as then they cannot be compared.
    """

    def goodness(points: list[Point]) -> float:
        monitors = {point.folder: _monitor(point) for point in points}
        values = [
            -point.result["val"]["loss"] if monitor == "loss" else point.result["val"].get(monitor, math.nan)
            for point, monitor in zip(points, monitors.values(), strict=True)
        ]
        mean = sum(values) / len(values)
        return -math.inf if math.isnan(mean) else mean

    monitors = {_monitor(point) for variant in study.variants for point in variant.points.values()}
    if len(monitors) > 1:
        raise InputError(
            f"{study.folder}: its points were chosen by different metrics ({', '.join(sorted(monitors))}), so there is "
            "no best one; give a point's folder"
        )
    if differing := _differing([variant.settings["data"] for variant in study.variants]):
        raise InputError(
            f"{study.folder}: its variants differ in {', '.join(differing)}, so they have other validation images and "
            "there is no best one; give a point's folder"
        )
    lacking = [p.folder for v in study.variants for p in v.points.values() if not p.result.get("val")]
    if lacking:
        raise InputError(f"{lacking[0]}: an older attnlab has not kept its validation metrics; give a point's folder")
    variant = max(study.variants, key=lambda variant: goodness(list(variant.points.values())))
    return variant, max(variant.points.values(), key=lambda point: goodness([point]))


def _differing(data: list[Config]) -> list[str]:
    """``data.KEY``: the settings that differ, but for those that leave the validation images the same photographs."""
    full = [in_full({"data": each, "augment": {}}, ["data"])["data"] for each in data]
    keys = {key for each in full for key in each} - SAME_IMAGES
    return sorted(f"data.{key}" for key in keys if len({repr(each.get(key)) for each in full}) > 1)


def _monitor(point: Point) -> str:
    """The validation metric that chose its checkpoint."""
    config = ledger.read_config(point.folder)
    return config["trainer"]["monitor"]


def _points_of(variant: Variant, point: Point) -> list[Path]:
    """The folders of all seeds of a variant, in cross-validation of the same fold; the point itself first."""
    others = sorted((p for p in variant.points.values() if p.fold == point.fold), key=lambda p: p.seed)
    return [point.folder, *(p.folder for p in others if p.folder != point.folder)]


def _all_seeds(folder: Path) -> list[Path]:
    for variant in read_study(folder.parent).variants:
        for point in variant.points.values():
            if point.folder.name == folder.name:
                return _points_of(variant, point)
    raise InputError(f"{folder}: {_unfinished(folder)}")


def _unfinished(folder: Path) -> str:
    read = ledger.read_point(folder)
    return read.damage or f"not finished ({read.state}); attnlab status {folder.parent} tells more"


def require_alike(members: list[Trained]) -> None:
    """Raise InputError unless all have the same classes, and treat images alike."""
    first = members[0]
    for member in members[1:]:
        if member.classes != first.classes or member.preprocess.facts != first.preprocess.facts:
            raise InputError(
                f"{member.folders[0]}: has other classes or another preprocessing than {first.folders[0]}, so they "
                "make no ensemble"
            )


class _Task(NamedTuple):
    num_classes: int
    shape: tuple[int, int, int]


def _load_point(folder: Path) -> Trained:
    read = ledger.read_point(folder)
    if not read.result:
        raise InputError(f"{folder}: {_unfinished(folder)}")
    config = ledger.read_config(folder)
    classes, preprocess = _inputs(config, read.result)
    net = build_empty(config, len(classes), preprocess.shape)
    state = _weights(folder / "checkpoints" / "best.ckpt")
    own = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    try:
        net.load_state_dict(own)
    except RuntimeError as error:  # its second line names the first tensors that differ
        told = " ".join(str(error).split("\n\t", 2)[1:2]).strip()[:200]
        raise InputError(
            f"{folder}/checkpoints/best.ckpt: does not fit the network of its config.yaml: {told}; attnlab repro "
            "trains it again"
        ) from None
    return Trained(net.eval(), classes, preprocess, config, read.result, [folder])


def build_empty(config: Config, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The config's network, for weights that follow: pretrained ones are not looked for; random states stay."""
    with torch.random.fork_rng(devices=[]), without_weights():
        return build_network(config, _Task(num_classes, shape))[0]


def _inputs(config: Config, result: Mapping[str, Any]) -> tuple[list[str], Preprocess]:
    """Classes and preprocessing: as training wrote them down, or for an older point from its data."""
    classes, facts = result.get("classes"), result.get("preprocess")
    if classes and facts and facts["fit"] is not None:
        return list(classes), Preprocess.from_facts(facts)
    data = build_data(config)
    if facts:
        return list(classes or data.classes), Preprocess.from_facts(facts, data.fit)
    try:
        return list(classes or data.classes), Preprocess.of(data)
    except InputError as error:
        raise InputError(
            f"the point is of an older attnlab, which has not written down how images were normalised; its data must "
            f"tell: {error}"
        ) from None


def _weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.exists():
        raise InputError(f"{path}: no such file, so the point's weights are gone; attnlab repro trains it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except Exception as error:  # whatever pickle and zipfile make of any bytes
        raise InputError(f"{path}: cannot be read: {type(error).__name__}: {first_line(error)}") from None
