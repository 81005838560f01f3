"""Export: a trained network as files for other programs, each checked, with a model card beside them."""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from attnlab import __version__, ledger
from attnlab.data import Splits
from attnlab.errors import FULL, InputError
from attnlab.trained import hub, onnx_file
from attnlab.trained.card import card_text
from attnlab.trained.model import Trained
from attnlab.trained.onnx_file import write_onnx
from attnlab.trained.program import write_program
from attnlab.trained.quantising import write_int8
from attnlab.trained.samples import chunks, evenly, load_splits
from attnlab.trained.whole import Whole

FORMATS = ("onnx", "torch", "safetensors")
REAL = 32  # validation images that each file is checked on
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
    is being done. All is written and checked elsewhere first, so a failure leaves the folder as it was.

    Raises InputError if a package or, for int8, the data are missing, or if the folder holds files of others; Refused
    for a file that differs from PyTorch by more than the tolerance.
    """
    if "onnx" in formats:
        onnx_file.require_packages()
    before = _earlier(trained, folder)
    splits, why = _data(trained, needed="--quantize int8" if int8 else "")
    whole = Whole(trained, pixels=pixels, softmax=softmax)
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
        config = {**hub.timm_config(trained), "attnlab": hub.about_of(trained, files)}
        ledger.write_json(scratch / "config.json", config)
        if hub.WEIGHTS in made:
            files[hub.WEIGHTS]["by_timm"] = hub.timm_reads(scratch, trained)
            ledger.write_json(scratch / "config.json", config)
        counts = None if splits is None else {name: len(split) for name, split in splits._asdict().items()}
        ledger.write_text(scratch / "README.md", card_text(trained, files, counts))
        for name in replaced - made.keys():
            (folder / name).unlink(missing_ok=True)
        for name in (*made, "config.json", "README.md"):
            ledger.put(scratch / name, folder / name)
    return files


def _earlier(trained: Trained, folder: Path) -> Files:
    """What an earlier export of the same point found about the files that it left in the folder.

    Raises InputError where a file of others would be overwritten.
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
    return {name: facts for name, facts in about["files"].items() if name in there}


def _data(trained: Trained, needed: str) -> tuple[Splits | None, str]:
    """The data, or why they are not there; InputError if they are ``needed`` for something."""
    try:
        return load_splits(trained), ""
    except InputError as error:
        if needed:
            raise InputError(f"{needed}: needs the point's training and validation images: {error}") from None
        return None, str(error).splitlines()[0]


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
        "test_accuracy": trained.result["test"]["accuracy"],
        "made_by": f"attnlab {__version__}",
    }


@contextlib.contextmanager
def _scratch(folder: Path) -> Any:
    """A folder inside ``folder``, so that files move in one step; both go away if nothing comes of it."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
            yield Path(scratch)
    except OSError as error:
        if error.errno in FULL or not str(error.filename).startswith(str(folder)):
            raise
        raise InputError(f"--output {folder}: cannot be written: {error.strerror}") from None
    finally:
        if new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
