"""The exported folder: ``config.json`` and ``model.safetensors``, written and read back, laid out as model hubs expect.

``config.json`` holds what ``attnlab.load`` needs under "attnlab", and beside it the keys that timm reads.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnlab import __version__, ledger
from attnlab.data import Preprocess
from attnlab.errors import InputError, first_line
from attnlab.ledger import shapes
from attnlab.trained.ensemble import Ensemble
from attnlab.trained.model import Trained

FORMAT = 1
WEIGHTS = "model.safetensors"
GROUPS = (
    *("backbone", "attention", "sites", "data", "augment", "optimizer", "scheduler", "loss", "trainer"),
    *("seed", "study"),
)
RESULT = ("test", "val", "best_epoch", "epochs", "cost", "sites", "classes", "preprocess", "device", "times")
SHAPE: shapes.Shape = {
    "attnlab": {
        "format": shapes.WHOLE,
        "points": [shapes.TEXT],
        "members": shapes.WHOLE,
        "config": {
            "backbone": {"name": shapes.TEXT},
            "attention": {"name": shapes.TEXT},
            "sites": shapes.MAPPING_OR_NULL,
            "seed": shapes.WHOLE,
        },
        "result": {"test": shapes.MAPPING, "cost": shapes.MAPPING},
        "classes": [shapes.TEXT],
        "preprocess": {"shape": [shapes.WHOLE], "mean": [shapes.NUMBER], "std": [shapes.NUMBER]},
        "files": {"*": shapes.MAPPING},
    },
}


def is_export(folder: Path) -> bool:
    """Whether an export was written there, or something that says it is one."""
    return (folder / "config.json").is_file() and not (folder / "point.json").exists()


def read_about(folder: Path) -> dict[str, Any]:
    """What config.json says under "attnlab". Raises InputError if it is no export, or of a newer attnlab."""
    record = ledger.read_json(folder / "config.json", SHAPE)
    if record.damage:
        raise InputError(f"{folder}/{record.damage}; attnlab export writes such folders")
    about = record["attnlab"]
    if about["format"] > FORMAT:
        raise InputError(
            f"{folder}/config.json: was written by attnlab {about.get('version')}, which is newer than this one, "
            f"{__version__}; upgrade attnlab"
        )
    return about


def read_export(folder: Path) -> Trained:
    """The network of an exported folder; ``folders`` is that one.

    Classes are imported only as ``attnlab.load`` says, and weights are all that is read of model.safetensors.
    Raises InputError if the folder has no weights, or some that do not fit.
    """
    from attnlab.trained.loading import build_empty  # which reads exports, too

    about = read_about(folder)
    if not (folder / WEIGHTS).is_file():
        others = ", ".join(about["files"]) or "nothing"
        raise InputError(f"{folder}: has no {WEIGHTS} (but {others}); attnlab export --to safetensors writes it")
    config = ledger.in_full(about["config"], ("backbone", "optimizer", "loss", "trainer"))
    classes, facts = about["classes"], about["preprocess"]
    try:
        preprocess = Preprocess.from_facts(facts)
    except TypeError as error:
        raise InputError(f"{folder}/config.json: preprocess: {first_line(error)}") from None
    members = [build_empty(config, len(classes), preprocess.shape) for _ in range(max(1, about["members"]))]
    net: nn.Module = members[0] if len(members) == 1 else Ensemble(members)
    try:
        from safetensors.torch import load_file

        net.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # of safetensors for any bytes, of PyTorch for other keys
        raise InputError(f"{folder}/{WEIGHTS}: not the weights of this config.json: {first_line(error)}") from None
    result = {**about["result"], "classes": classes, "preprocess": facts}
    return Trained(net.eval(), classes, preprocess, config, result, [folder])


def write_weights(net: nn.Module, path: Path) -> None:
    """All that a state dict holds, by its keys."""
    from safetensors.torch import save

    state = {key: value.detach().cpu().clone().contiguous() for key, value in net.state_dict().items()}
    ledger.write_bytes(path, save(state))


def about_of(trained: Trained, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What ``read_export`` needs, and the facts; ``files``: what was found about each exported file."""
    config = {key: _without_folders(value) for key, value in trained.config.items() if key in GROUPS}
    return {
        "format": FORMAT,
        "version": __version__,
        "points": [folder.name for folder in trained.folders],
        "members": len(trained.folders),
        "config": config,
        "result": {key: trained.result[key] for key in RESULT if key in trained.result},
        "classes": list(trained.classes),
        "preprocess": trained.preprocess.facts,
        "files": files,
    }


def _without_folders(value: Any) -> Any:
    """Absolute paths as their last part: where a machine keeps its files is nobody's business."""
    if isinstance(value, Mapping):
        return {key: _without_folders(inner) for key, inner in value.items()}
    return without_folders(value) if isinstance(value, str) else value


def without_folders(text: str) -> str:
    """``data.folder=photos`` for ``data.folder=/home/me/photos``"""
    return re.sub(r"(?<![\w.~-])(~|[A-Za-z]:\\|/)[^=\s]*?([^/\\=\s]+)[/\\]?(?=\s|$)", r"\2", text)


def timm_config(trained: Trained) -> dict[str, Any]:
    """timm's keys: ``architecture``, ``num_classes`` and ``pretrained_cfg``, with the input and the classes.

    The architecture is timm's own for a bare network of timm's (see ``timm_name``); else a name that timm does not
    know, so that it refuses the folder.
    """
    facts = trained.preprocess
    name = timm_name(trained)
    config, sites = trained.config, trained.config["sites"]
    ours = f"attnlab-{config['backbone']['name']}" + (f"-{config['attention']['name']}" if sites else "")
    own = dict(getattr(trained.net, "pretrained_cfg", {})) if name else {}
    kept = {key: own[key] for key in ("first_conv", "classifier", "fixed_input_size") if key in own}
    modes = {"crop": "center", "pad": "border", "stretch": "squash"}
    return {
        "architecture": name or ours,
        "num_classes": len(trained.classes),
        "pretrained_cfg": {
            **kept,
            "input_size": list(facts.shape),
            "interpolation": "bilinear",
            "crop_pct": facts.eval_share,
            **({"crop_mode": modes[facts.fit]} if facts.fit else {}),
            "mean": list(facts.mean),
            "std": list(facts.std),
            "num_classes": len(trained.classes),
            "label_names": list(trained.classes),
        },
    }


def timm_name(trained: Trained) -> str | None:
    """What timm calls the network, if it is one of timm's, bare and with its own stem."""
    ours = trained.config["sites"] is not None or trained.config["backbone"].get("stem", "imagenet") != "imagenet"
    if ours or not type(trained.net).__module__.startswith("timm."):
        return None
    return getattr(trained.net, "pretrained_cfg", {}).get("architecture")


@torch.no_grad()
def timm_reads(folder: Path, trained: Trained) -> bool:
    """Whether ``timm.create_model("local-dir:...")`` gives the same network, to the bit."""
    if timm_name(trained) is None:
        return False
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception:  # an older timm, or a network that it builds otherwise
        return False
    x = torch.rand(2, *trained.preprocess.shape, generator=torch.Generator().manual_seed(0))
    return torch.equal(theirs(x), trained.net(x))
