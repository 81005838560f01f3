"""The model card: README.md of an exported folder, from the point's own facts and its study's results."""

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from attnlab import __version__, ledger
from attnlab.config.signatures import locate
from attnlab.ledger import LATER
from attnlab.ledger.paths import without_folders, word_without_folders
from attnlab.study.collect import Variant
from attnlab.study.designs import place_of
from attnlab.study.metrics import METRICS
from attnlab.trained.hub import WEIGHTS
from attnlab.trained.licences import LICENCES, ON_THE_HUB, SPLIT_ON_THE_HUB
from attnlab.trained.model import Trained, design_in_words
from attnlab.trained.results import cost_of, metrics_of, study_of, verdict_of
from attnlab.trained.usage import Files, how_to_use, table_of_files

NOT_TOLD = ("name", "_target_", "eval_batch_size", "workers", "memory")
USUAL = {**LATER["augment"], "pad": 0, "flip": False}


def card_text(trained: Trained, files: Files, counts: Mapping[str, int] | None) -> str:
    """The text of README.md, with the hub's metadata on top.

    ``files``: what was found about each exported file; ``counts``: images of each split, None where the data are gone.
    """
    by_timm = bool(files.get(WEIGHTS, {}).get("by_timm"))
    study, variant, told = study_of(trained)
    parts = [
        _front_matter(trained, by_timm),
        f"# {_title(trained)}\n\n{_summary(trained)}",
        how_to_use(trained, files),
        table_of_files(files),
        _data(trained, counts),
        _recipe(trained),
        metrics_of(trained, variant),
        verdict_of(study, variant, told),
        cost_of(trained),
        _limits(trained, variant),
        _again(trained),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(trained: Trained) -> str:
    name = trained.folders[0].name
    return name if len(trained.folders) == 1 else f"{name} and {len(trained.folders) - 1} other seeds, as one"


def _summary(trained: Trained) -> str:
    config, shape = trained.config, "×".join(map(str, trained.preprocess.shape))
    design = design_in_words(config)
    with_attention = f" with {design}" if design else " without attention"
    seeds = "" if len(trained.folders) == 1 else f" The mean of the probabilities of {len(trained.folders)} seeds."
    return (
        f"{config['backbone']['name']}{with_attention}, trained on {_data_name(config)} by attnlab: it takes "
        f"images of {shape} and tells {len(trained.classes)} classes apart.{seeds}"
    )


def _data_name(config: Mapping[str, Any]) -> str:
    """What a reader calls the data: of the user's own, the folder's, file's or class's name."""
    data = config["data"]
    own = next((data[key] for key in ("folder", "table", "file", "target") if data.get(key)), None)
    return data["name"] if own is None else PurePath(without_folders(str(own))).name


def _front_matter(trained: Trained, by_timm: bool) -> str:
    config, name = trained.config, trained.config["data"]["name"]
    about: dict[str, Any] = {
        "library_name": "timm" if by_timm else "attnlab",
        "pipeline_tag": "image-classification",
        "tags": list(
            dict.fromkeys(
                [
                    "attnlab",
                    "image-classification",
                    *(["timm"] if by_timm else []),
                    config["backbone"]["name"],
                    *(placement["attention"]["name"] for placement in ledger.placements(config)),
                    *(["attention"] if config["sites"] is not None else []),
                ]
            )
        ),
        **({"datasets": [ON_THE_HUB[name]]} if name in ON_THE_HUB else {}),
        "metrics": ["accuracy", "f1"],
    }
    if len(trained.folders) == 1:  # what an ensemble reaches was not measured in training
        values = [("accuracy", "accuracy"), ("f1", "macro F1")]
        test = trained.metrics["test"]
        about["model-index"] = [
            {
                "name": _title(trained),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "name": _data_name(config),
                            "type": ON_THE_HUB.get(name, "imagefolder" if name == "image_folder" else name),
                            "split": SPLIT_ON_THE_HUB.get(name, "test"),
                        },
                        "metrics": [
                            {"type": key, "name": f"test {words}", "value": round(float(test[key]), 6)}
                            for key, words in values
                            if key in test
                        ],
                    }
                ],
            }
        ]
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _data(trained: Trained, counts: Mapping[str, int] | None) -> str:
    data = trained.config["data"]
    name = data["name"]
    licence = LICENCES.get(name)
    lines = ["## Which data?", "", f"{_data_name(trained.config)} (`data={name}`: {_settings(data)})."]
    if counts:
        lines.append("Images: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()) + ".")
    shown = ", ".join(list(map(str, trained.classes))[:20])
    lines.append(f"Classes: {shown}{', …' if len(trained.classes) > 20 else ''}.")
    said = f"{licence.words} ([its page]({licence.page}))" if licence else "unknown"
    pretrained = trained.config["backbone"].get("pretrained")
    first = " The licence of the pretrained weights that it began with applies, too." if pretrained else ""
    lines += [
        "",
        f"Licence of the data: {said}. Licence of these weights: not stated; whoever publishes them adds `license:` on "
        f"top of this page.{first}",
    ]
    return "\n".join(lines)


def _settings(node: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> str:
    """``lr 0.005, weight_decay 0.05``, without those that are as usual"""
    usual = usual or {}
    found = [
        f"{key} {without_folders(value)}"
        for key, value in node.items()
        if key not in NOT_TOLD and value is not None and not (key in usual and usual[key] == value)
    ]
    return ", ".join(found) or "no settings"


def _recipe(trained: Trained) -> str:
    config, result = trained.config, trained.result
    trainer, augment = config["trainer"], config.get("augment") or {"name": "none"}
    best, several = result.get("best_epoch"), len(trained.folders) > 1  # seeds, which differ in it
    pretrained = config["backbone"].get("pretrained")
    scheduler = config["scheduler"]
    rows = {
        "backbone": f"{config['backbone']['name']} ({_settings(config['backbone'])})",
        **_design(trained),
        "first weights": f"pretrained ({without_folders(str(pretrained))})" if pretrained else "random",
        "augmentation": f"{augment['name']} ({_settings(augment, USUAL)})",
        "optimiser": f"{config['optimizer']['name']} ({_settings(config['optimizer'])})",
        "schedule": f"{scheduler['name']} ({_settings(scheduler)})",
        "loss": f"cross-entropy ({_settings(config['loss'])})",
        "epochs": f"{trainer['max_epochs']}"
        + (
            ""
            if best is None or several
            else f"; the best by validation {METRICS[trainer['monitor']].words} was {best + 1}"
        ),
        "batch": str(config["data"].get("batch_size", "")),
        "precision": str(trainer["precision"]),
        "seed": ", ".join(str(ledger.read_config(folder)["seed"]) for folder in trained.folders),
        "device": f"{result['device']}, {result['times']['total_s'] / 60:.1f} minutes"
        if "device" in result and "times" in result and not several
        else "",
    }
    lines = ["## How was it trained?", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {key} | {_cell(value)} |" for key, value in rows.items() if value)])


def _design(trained: Trained) -> dict[str, str]:
    """Of the recipe: the attention with its settings and sites; of several placements a row each."""
    config = trained.config
    sites, found = ", ".join(map(str, trained.result.get("sites", ()))), ledger.placements(config)
    each = [
        (f"{placement['attention']['name']} ({_settings(placement['attention'])})", _settings(placement["sites"]))
        for placement in found
    ]
    if len(found) < 2:
        return {"attention": each[0][0] if each else "none", "sites": f"{sites} ({each[0][1]})" if each else ""}
    rows = {
        f"attention at {place_of(placement['sites'])}": f"{attention}; sites: {where}"
        for placement, (attention, where) in zip(found, each, strict=True)
    }
    return {**rows, "sites": sites}


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _limits(trained: Trained, variant: Variant | None) -> str:
    seeds = len(variant.points) if variant else 1
    error = trained.metrics["test"].get("calibration_error")
    lines = [
        "## What are its limits?",
        "",
        f"- All numbers are of the test images of {_data_name(trained.config)}. Images of other places, cameras "
        "or people may be classified worse; measure on yours first.",
        f"- It always answers with one of its {len(trained.classes)} classes, also for an image of none of them.",
    ]
    if trained.config["data"]["name"] == "imagenet":
        lines.append(
            "- The test images are the official validation images, as in the papers: the best epoch was chosen on "
            "them, too, so its numbers are a little too good."
        )
    if error is not None and len(trained.folders) == 1:
        lines.append(f"- Its probabilities are off by {100 * error:.1f} % on average (calibration error, test images).")
    if seeds < 5:
        few = f"{seeds} seeds are" if seeds > 1 else "One seed is"
        lines.append(f"- {few} few: differences to other networks may be chance.")
    return "\n".join(lines)


def _of_the_recipe(overrides: Sequence[str]) -> list[str]:
    """Without what belongs to the machine that trained it."""
    return [word for word in overrides if not re.match(r"\+*(hydra[./]|output_dir=)", word)]


def _papers(trained: Trained) -> str:
    """``, and of the attention, cbam (arXiv 1807.06521)``: of attnlab's modules, as their source says."""
    found = {}
    for placement in ledger.placements(trained.config):
        module = inspect.getmodule(locate(placement["attention"]["_target_"], "attention"))
        paper = re.search(r"arXiv (\d{4}\.\d{5})", module.__doc__ or "") if module else None
        found[placement["attention"]["name"]] = f" (arXiv {paper[1]})" if paper else ""
    *others, last = [f"{name}{paper}" for name, paper in found.items()] or [""]
    names = f"{', '.join(others)} and {last}" if others else last
    return f", and of the attention, {names}" if found else ""


def _again(trained: Trained) -> str:
    points = [ledger.read_json(folder / "point.json") for folder in trained.folders]
    about = points[0]
    commands = [
        shlex.join(["attnlab", "train", *map(word_without_folders, _of_the_recipe(point.get("overrides") or ()))])
        for point in points
    ]
    hashes = [point.get("hash", "unknown") for point in points]
    libraries = ", ".join(f"{name} {version}" for name, version in (about.get("libraries") or {}).items())
    code = about.get("code") or [{}]
    folder = trained.folders[0]
    study = "/".join(folder.absolute().parts[-3:-1])
    git = f" (git {code[-1]['git']})" if code[-1].get("git") else ""
    cores = f", CPU threads: {about['threads']}" if about.get("threads") else ""
    return "\n".join(
        [
            "## How do I repeat it?",
            "",
            "```sh",
            *commands,
            "```",
            "",
            f"Where its study lies, `attnlab repro {study} {folder.name[-8:]}` trains "
            f"{'it' if len(points) == 1 else 'the first'} again and says whether the result is the same to the bit.",
            f"Point{'s' * (len(points) > 1)} {', '.join(hashes)}; "
            f"trained with Python {about.get('python', 'unknown')}, {libraries or 'unknown libraries'}{git}{cores}; "
            f"exported by attnlab {__version__}.",
            "",
            "Cite attnlab (the attnlab authors, *attnlab: attention modules in CNNs by configuration, and which "
            f"differences are real*, version {__version__}, its CITATION.cff) and the papers of the backbone, "
            f"{trained.config['backbone']['name']}{_papers(trained)}.",
        ]
    )
