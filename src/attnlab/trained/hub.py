"""The exported folder: ``config.json`` and ``model.safetensors``, written and read back, laid out as model hubs expect.

``config.json`` holds what ``attnlab.load`` needs under "attnlab", and beside it the keys that timm reads.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from attnlab import __version__, ledger
from attnlab.data import Preprocess
from attnlab.data.decode import Background, Fit
from attnlab.errors import InputError, first_line
from attnlab.ledger import shapes
from attnlab.ledger.paths import without_folders
from attnlab.trained.ensemble import Ensemble
from attnlab.trained.model import Trained

FORMAT = 1
MOST_MEMBERS = 1000
WEIGHTS = "model.safetensors"
GROUPS = (
    *("backbone", "attention", "sites", "placements", "data", "augment", "optimizer", "scheduler", "loss", "trainer"),
    *("seed", "study"),
)
RESULT = ("test", "val", "best_epoch", "epochs", "cost", "sites", "classes", "preprocess", "device", "times")
MEMBERS = shapes.Kind(
    f"a whole number from 1 to {MOST_MEMBERS}", lambda value: type(value) is int and 1 <= value <= MOST_MEMBERS
)
TRUE_OR_FALSE = shapes.Kind("true or false", lambda value: isinstance(value, bool))
SIZES = shapes.Kind(
    "channels, height and width",
    lambda value: isinstance(value, list) and len(value) == 3 and all(type(n) is int and 0 < n < 1e6 for n in value),
)
FITS, BACKGROUNDS = get_args(Fit), get_args(Background)
PREPROCESS: shapes.Shape = {
    "shape": SIZES,
    "mean": [shapes.NUMBER],
    "std": [shapes.NUMBER],
    "fit?": shapes.Kind(f"null or one of {', '.join(FITS)}", lambda value: value in FITS),
    "background?": shapes.Kind(f"one of {', '.join(BACKGROUNDS)}", lambda value: value in BACKGROUNDS),
    "eval_share?": shapes.Kind(
        "a number above 0, at most 1", lambda value: type(value) in (int, float) and 0 < value <= 1
    ),
    "flip?": TRUE_OR_FALSE,
}
SHAPE: shapes.Shape = {
    "attnlab": {
        "format": shapes.WHOLE,
        "points": [shapes.TEXT],
        "members": MEMBERS,
        "config": {
            "backbone": {"name": shapes.TEXT},
            "attention": {"name": shapes.TEXT},
            "sites": shapes.MAPPING_OR_NULL,
            "placements?": [
                {"attention": {"name": shapes.TEXT, "_target_": shapes.TEXT}, "sites": {"role": shapes.TEXT}}
            ],
            "seed": shapes.WHOLE,
        },
        "result": {"test": shapes.MAPPING, "cost": shapes.MAPPING},
        "classes": [shapes.TEXT],
        "preprocess": PREPROCESS,
        "files": {"*": shapes.MAPPING},
        "weights?": shapes.TEXT,
        "incomplete?": [shapes.TEXT],
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
    if about.get("incomplete"):
        raise InputError(f"{folder}: an export into it was interrupted; run attnlab export again")
    if not (folder / WEIGHTS).is_file():
        others = ", ".join(about["files"]) or "nothing"
        raise InputError(f"{folder}: has no {WEIGHTS} (but {others}); attnlab export --to safetensors writes it")
    config = ledger.in_full(about["config"], ("backbone", "optimizer", "loss", "trainer"))
    classes, facts = about["classes"], about["preprocess"]
    try:
        preprocess = Preprocess.from_facts(facts)
    except TypeError as error:
        raise InputError(f"{folder}/config.json: preprocess: {first_line(error)}") from None
    if not len(preprocess.mean) == len(preprocess.std) == preprocess.shape[0]:
        raise InputError(f"{folder}/config.json: preprocess: mean and std must have {preprocess.shape[0]} numbers each")
    require_safetensors(str(folder))
    try:
        state = read_weights(folder / WEIGHTS)
    except Exception as error:  # of safetensors for any bytes
        raise InputError(f"{folder}/{WEIGHTS}: not the weights of this config.json: {first_line(error)}") from None
    held = len({key.split(".")[1] for key in state if key.startswith("members.")}) or 1
    if held != about["members"]:
        raise InputError(
            f"{folder}/{WEIGHTS}: not the weights of this config.json, which has {about['members']} members: it holds "
            f"{held}"
        )
    members = [build_empty(config, len(classes), preprocess.shape) for _ in range(held)]
    net: nn.Module = members[0] if held == 1 else Ensemble(members)
    try:
        net.load_state_dict(state)
    except Exception as error:  # of PyTorch for other keys
        raise InputError(f"{folder}/{WEIGHTS}: not the weights of this config.json: {first_line(error)}") from None
    result = {**about["result"], "classes": classes, "preprocess": facts}
    return Trained(net.eval(), classes, preprocess, config, result, [folder])


def require_safetensors(what: str) -> None:
    """Raise InputError if the package is missing."""
    if importlib.util.find_spec("safetensors") is None:
        raise InputError(f"{what}: safetensors is missing: pip install safetensors")


def read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def mark_of(net: nn.Module) -> str:
    """Names the weights: SHA-256 of all that the state dict holds."""
    found = hashlib.sha256()
    for key, value in net.state_dict().items():
        found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def write_weights(net: nn.Module, path: Path) -> None:
    """All that a state dict holds, by its keys."""
    from safetensors.torch import save

    state = {key: value.detach().cpu().clone().contiguous() for key, value in net.state_dict().items()}
    ledger.write_bytes(path, save(state))


def about_of(trained: Trained, files: Mapping[str, Mapping[str, Any]], weights: str) -> dict[str, Any]:
    """What ``read_export`` needs, and the facts; ``files``: what was found about each exported file."""
    config = {key: without_folders(value) for key, value in trained.config.items() if key in GROUPS}
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
        "weights": weights,
    }


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
