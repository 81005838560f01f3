"""Export: a trained network as files for other programs, each checked, with a model card beside them."""

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, export

from attnlab import __version__, ledger
from attnlab.data import Splits
from attnlab.errors import FULL, InputError, first_line
from attnlab.trained import hub, onnx_file
from attnlab.trained.card import card_text
from attnlab.trained.model import Trained
from attnlab.trained.onnx_file import runner, write_onnx
from attnlab.trained.program import write_program
from attnlab.trained.quantising import write_int8
from attnlab.trained.samples import chunks, evenly, load_splits
from attnlab.trained.whole import Refused, Whole

FORMATS = ("onnx", "torch", "safetensors")
REAL = 32  # validation images that each file is checked on
OLD_S = 86400  # a scratch folder of this age is of an export that was interrupted
ONNX, INT8, PROGRAM = "model.onnx", "model.int8.onnx", "model.pt2"
OURS = ("config.json", "README.md", ONNX, INT8, PROGRAM, hub.WEIGHTS)
Files = dict[str, dict[str, Any]]


def write_export(
    trained: Trained,
    folder: Path,
    formats: Collection[str],
    *,
    pixels: bool = False,
    softmax: bool = False,
    int8: bool = False,
    opset: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Files:
    """Write the formats (of FORMATS), config.json and README.md into the folder; returns the facts about each file.

    ``pixels`` and ``softmax``: see ``Whole``. ``int8``: also the ONNX file in 8-bit integers, calibrated on training
    images. What the folder holds of the same point in other formats stays, and stays in the card. ``tell`` hears what
    is being done. All is written and checked elsewhere first, so a failure leaves the folder as it was; while files are
    moved into it, its config.json says that it is incomplete.

    Raises InputError if a package or, for int8, the data are missing, or if the folder holds files of others, or of the
    point's earlier weights that would stay; Refused for a file that differs from PyTorch by more than the tolerance.
    """
    if "onnx" in formats:
        onnx_file.require_packages()
    if "safetensors" in formats:
        hub.require_safetensors("--to safetensors")
    names = {
        name
        for name, wanted in (
            (ONNX, "onnx" in formats),
            (INT8, "onnx" in formats),  # an older one goes with the ONNX file that it was made of
            (PROGRAM, "torch" in formats),
            (hub.WEIGHTS, "safetensors" in formats),
        )
        if wanted
    }
    weights = hub.mark_of(trained.net)
    before = _earlier(trained, folder, weights, names)
    splits, why = _data(trained, needed="--quantize int8" if int8 else "")
    whole = Whole(trained, pixels=pixels, softmax=softmax)
    trained = dataclasses.replace(trained, net=whole.net)  # on the CPU
    real = None if splits is None else _real(trained, whole, splits)
    about = onnx_file.metadata(_facts(trained, whole))
    checked = {
        "input": "pixels" if pixels else "images",
        "output": whole.output,
        **({"real_images": len(real)} if real is not None else {"no_real": why}),
    }
    made: Files = {}
    with _scratch(folder) as scratch:
        if "onnx" in formats:
            tell("writing and checking the ONNX file")
            made[ONNX] = {**checked, **write_onnx(whole, scratch / ONNX, about, real, opset)}
        if int8 and splits is not None:
            tell("quantising")
            made[INT8] = {
                "input": checked["input"],
                "output": whole.output,
                **write_int8(trained, whole, scratch / ONNX, scratch / INT8, about, splits),
                "float32_bytes": (scratch / ONNX).stat().st_size,
            }
        if "torch" in formats:
            tell("writing and checking the program")
            made[PROGRAM] = {**checked, **write_program(whole, scratch / PROGRAM, about, real)}
        if "safetensors" in formats:
            hub.write_weights(trained.net, scratch / hub.WEIGHTS)
            made[hub.WEIGHTS] = {}
        for name, facts in made.items():
            facts["bytes"] = (scratch / name).stat().st_size
        replaced = {ONNX, INT8} if ONNX in made else set()
        files = {name: made.get(name) or before.get(name, {}) for name in OURS if name in made or name in before}
        files = {name: facts for name, facts in files.items() if name in made or name not in replaced}
        tell("writing the card")
        config = {**hub.timm_config(trained), "attnlab": hub.about_of(trained, files, weights)}
        ledger.write_json(scratch / "config.json", config)
        if hub.WEIGHTS in made:
            files[hub.WEIGHTS]["by_timm"] = hub.timm_reads(scratch, trained)
            ledger.write_json(scratch / "config.json", config)
        counts = None if splits is None else {name: len(split) for name, split in splits._asdict().items()}
        ledger.write_text(scratch / "README.md", card_text(trained, files, counts))
        unfinished = {**config["attnlab"], "incomplete": sorted({*made, *replaced})}
        ledger.write_json(folder / "config.json", {**config, "attnlab": unfinished})
        for name in replaced - made.keys():
            (folder / name).unlink(missing_ok=True)
        for name in (*made, "README.md"):
            ledger.put(scratch / name, folder / name)
        for name in made:
            _require_whole(folder / name)
        ledger.put(scratch / "config.json", folder / "config.json")
    return files


def _require_whole(path: Path) -> None:
    """Raise Refused unless the file can be opened where it lies now: it may lack another beside it."""
    try:
        if path.name == PROGRAM:
            export.load(path)
        elif path.name == hub.WEIGHTS:
            hub.read_weights(path)
        else:
            runner(path)
    except Exception as error:  # of each format's own kinds
        raise Refused(f"{path}: cannot be opened: {type(error).__name__}: {first_line(error)}") from error


def _earlier(trained: Trained, folder: Path, weights: str, names: Collection[str]) -> Files:
    """What an earlier export of the same weights found about the files that it left in the folder.

    Raises InputError where a file of others would be overwritten, or one of other weights would stay beside the new
    files, which have these ``names``.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file, must be a folder")
    there = [name for name in OURS if (folder / name).exists()]
    if not there:
        return {}
    if "config.json" not in there:
        raise InputError(f"--output {folder}: {there[0]} there is not attnlab's; choose another folder")
    try:
        about = hub.read_about(folder)
    except InputError as error:
        raise InputError(f"--output {folder}: holds files of others ({error}); choose another folder") from None
    if about["points"] != [each.name for each in trained.folders]:
        raise InputError(
            f"--output {folder}: holds the export of {', '.join(about['points'])}; choose another folder, or delete it"
        )
    others = [name for name in there if name not in (*about["files"], "config.json", "README.md")]
    if others:
        raise InputError(f"--output {folder}: {others[0]} there is not attnlab's; choose another folder")
    left = [name for name in about["files"] if name in there]
    same = about.get("weights") == weights
    unsure = [name for name in left if not same or name in about.get("incomplete", ())]
    if stay := [name for name in unsure if name not in names]:
        why = "an export that was interrupted" if same else "other weights of the point, which was trained again"
        raise InputError(
            f"--output {folder}: {' and '.join(stay)} there: of {why}; export to that format too, delete it, or choose "
            "another folder"
        )
    return {name: about["files"][name] for name in left if name not in unsure}


def _data(trained: Trained, needed: str) -> tuple[Splits | None, str]:
    """The data, or that they are absent (not where they would be); InputError if they are ``needed``."""
    try:
        return load_splits(trained), ""
    except InputError as error:
        if needed:
            raise InputError(f"{needed}: needs the point's training and validation images: {error}") from None
        return None, "the data are not here"


def _real(trained: Trained, whole: Whole, splits: Splits) -> Tensor:
    found = [whole.takes(pixels) for pixels, _ in chunks(trained, splits.val, evenly(splits.val, REAL))]
    return found[0]  # one chunk holds more


def _facts(trained: Trained, whole: Whole) -> Mapping[str, Any]:
    """What a file tells about itself."""
    facts = trained.preprocess
    points = [ledger.read_json(folder / "point.json") for folder in trained.folders]
    channels, height, width = facts.shape
    shape = ["batch", height, width, channels] if whole.pixels else ["batch", channels, height, width]
    return {
        "classes": list(trained.classes),
        "input": "uint8 pixels (N, H, W, C)" if whole.pixels else "normalised float32 images (N, C, H, W)",
        "input_shape": shape,
        "output": whole.output,
        "mean": list(facts.mean),
        "std": list(facts.std),
        "preprocess": facts.facts,
        "points": [folder.name for folder in trained.folders],
        "hashes": [point.get("hash") for point in points],
        **({"test_accuracy": trained.result["test"]["accuracy"]} if len(points) == 1 else {}),
        "made_by": f"attnlab {__version__}",
    }


@contextlib.contextmanager
def _scratch(folder: Path) -> Any:
    """A folder beside ``folder``, so that files move in one step; ``folder`` goes away if nothing comes of it."""
    new, real = not folder.exists(), folder.resolve()
    place = real if real.is_mount() else real.parent
    prefix = f".{real.name}.export-"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in place.glob(f"{prefix}*"):
            if time.time() - old.stat().st_mtime > OLD_S:
                shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as scratch:
            yield Path(scratch)
    except OSError as error:
        if error.errno in FULL or not str(error.filename).startswith((str(folder), str(place))):
            raise
        raise InputError(f"--output {folder}: cannot be written: {error.strerror}") from None
    finally:
        if new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
