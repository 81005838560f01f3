"""The model card: README.md of an exported folder, from the point's own facts and its study's results."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from attnlab import __version__, ledger
from attnlab.ledger import LATER
from attnlab.study.collect import Variant
from attnlab.study.metrics import METRICS
from attnlab.trained.hub import WEIGHTS, without_folders
from attnlab.trained.licences import LICENCES, ON_THE_HUB
from attnlab.trained.model import Trained
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


def _attention(trained: Trained) -> str:
    """``cbam at branch``; empty without attention"""
    sites = trained.config["sites"]
    return "" if sites is None else f"{trained.config['attention']['name']} at {sites['role']}"


def _summary(trained: Trained) -> str:
    config, shape = trained.config, "×".join(map(str, trained.preprocess.shape))
    with_attention = f" with {_attention(trained)}" if _attention(trained) else " without attention"
    seeds = "" if len(trained.folders) == 1 else f" The mean of the probabilities of {len(trained.folders)} seeds."
    return (
        f"{config['backbone']['name']}{with_attention}, trained on {config['data']['name']} by attnlab: it takes "
        f"images of {shape} and tells {len(trained.classes)} classes apart.{seeds}"
    )


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
                    *([config["attention"]["name"], "attention"] if config["sites"] is not None else []),
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
                        "dataset": {"name": name, "type": ON_THE_HUB.get(name, name), "split": "test"},
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
    lines = ["## Which data?", "", f"`{name}` ({_settings(data)})."]
    if counts:
        lines.append("Images: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()) + ".")
    shown = ", ".join(list(map(str, trained.classes))[:20])
    lines.append(f"Classes: {shown}{', …' if len(trained.classes) > 20 else ''}.")
    said = f"{licence.words} ([its page]({licence.page}))" if licence else "unknown"
    lines += [
        "",
        f"Licence of the data: {said}. Licence of these weights: not stated; whoever publishes them adds `license:` on "
        "top of this page.",
    ]
    return "\n".join(lines)


def _settings(node: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> str:
    """``lr 0.005, weight_decay 0.05``, without those that are as usual"""
    usual = usual or {}
    found = [
        f"{key} {without_folders(value) if isinstance(value, str) else value}"
        for key, value in node.items()
        if key not in NOT_TOLD and value is not None and not (key in usual and usual[key] == value)
    ]
    return ", ".join(found) or "no settings"


def _recipe(trained: Trained) -> str:
    config, result = trained.config, trained.result
    trainer, augment = config["trainer"], config.get("augment") or {"name": "none"}
    best = result.get("best_epoch")
    pretrained = config["backbone"].get("pretrained")
    scheduler = config["scheduler"]
    of_attention = config["attention"]
    rows = {
        "backbone": f"{config['backbone']['name']} ({_settings(config['backbone'])})",
        "attention": f"{of_attention['name']} ({_settings(of_attention)})" if config["sites"] else "none",
        "sites": f"{', '.join(map(str, result.get('sites', ())))} ({_settings(config['sites'])})"
        if config["sites"]
        else "",
        "first weights": f"pretrained ({without_folders(str(pretrained))})" if pretrained else "random",
        "augmentation": f"{augment['name']} ({_settings(augment, USUAL)})",
        "optimiser": f"{config['optimizer']['name']} ({_settings(config['optimizer'])})",
        "schedule": f"{scheduler['name']} ({_settings(scheduler)})",
        "loss": f"cross-entropy ({_settings(config['loss'])})",
        "epochs": f"{trainer['max_epochs']}"
        + ("" if best is None else f"; the best by validation {METRICS[trainer['monitor']].words} was {best + 1}"),
        "batch": str(config["data"].get("batch_size", "")),
        "precision": str(trainer["precision"]),
        "seed": ", ".join(str(ledger.read_config(folder)["seed"]) for folder in trained.folders),
        "device": f"{result['device']}, {result['times']['total_s'] / 60:.1f} minutes"
        if "device" in result and "times" in result
        else "",
    }
    lines = ["## How was it trained?", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {key} | {_cell(value)} |" for key, value in rows.items() if value)])


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _limits(trained: Trained, variant: Variant | None) -> str:
    seeds = len(variant.points) if variant else 1
    error = trained.metrics["test"].get("calibration_error")
    lines = [
        "## What are its limits?",
        "",
        f"- All numbers are of the test images of `{trained.config['data']['name']}`. Images of other places, cameras "
        "or people may be classified worse; measure on yours first.",
        f"- It always answers with one of its {len(trained.classes)} classes, also for an image of none of them.",
    ]
    if error is not None:
        lines.append(f"- Its probabilities are off by {100 * error:.1f} % on average (calibration error, test images).")
    if seeds < 5:
        few = f"{seeds} seeds are" if seeds > 1 else "One seed is"
        lines.append(f"- {few} few: differences to other networks may be chance.")
    return "\n".join(lines)


def _again(trained: Trained) -> str:
    about = ledger.read_json(trained.folders[0] / "point.json")
    words = [without_folders(word) for word in about.get("overrides") or ()]
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
            shlex.join(["attnlab", "train", *words]),
            "```",
            "",
            f"Where its study lies, `attnlab repro {study} {folder.name[-8:]}` trains it again and "
            "says whether the result is the same to the bit.",
            f"Point {about.get('hash', 'unknown')}; trained with Python {about.get('python', 'unknown')}, "
            f"{libraries or 'unknown libraries'}{git}{cores}; exported by attnlab {__version__}.",
            "",
            "Cite attnlab (the attnlab authors, *attnlab: attention modules in CNNs by configuration, and which "
            f"differences are real*, version {__version__}, its CITATION.cff) and the papers of the backbone and the "
            "attention.",
        ]
    )
