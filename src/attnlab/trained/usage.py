"""Of a model card: which files there are, how they are used, and what an image must go through first."""

from collections.abc import Iterator, Mapping
from typing import Any

from attnlab.trained.hub import WEIGHTS
from attnlab.trained.model import Trained

Files = Mapping[str, Mapping[str, Any]]
MOST_LOST = 2  # points of accuracy by 8 bits, without a warning
FITS = {
    "crop": "bring the shorter side to {size} pixels, cut out the middle",
    "pad": "bring the longer side to {size} pixels, fill the rest with {background}",
    "stretch": "bring both sides to {size} pixels",
    None: "as the data set itself does it",
}


def how_to_use(trained: Trained, files: Files) -> str:
    """Of each format a few lines of code, and the preprocessing."""
    parts = ["## How do I use it?"]
    if WEIGHTS in files:
        parts += [
            "With attnlab; images may be paths, PIL images, arrays or tensors of any size:"
            if trained.preprocess.fit
            else "With attnlab; the data set's own code must first bring images to size, see below:",
            _python(
                "import attnlab",
                "",
                'trained = attnlab.load(".")  # this folder',
                *(['trained.predict("photo.jpg")  # [(class, probability)]'] if trained.preprocess.fit else []),
                "trained.net  # an nn.Module: normalised (N, C, H, W) -> logits",
            ),
        ]
        if files[WEIGHTS].get("by_timm"):
            parts += [
                "With timm alone:",
                _python("import timm", "", 'net = timm.create_model("local-dir:.", pretrained=True).eval()'),
            ]
        elif trained.config["sites"] is not None:
            parts.append("timm alone cannot load it: it does not know the attention.")
    if onnx := [name for name in files if name.endswith(".onnx")]:
        also = f" `{onnx[1]}` is used in the same way." if len(onnx) > 1 else ""
        parts += [f"With NumPy and onnxruntime alone:{also}", _python(*onnx_snippet(trained, onnx[0], files[onnx[0]]))]
    if "model.pt2" in files:
        about = files["model.pt2"]
        x = _pixels(trained) if about["input"] == "pixels" else _normalised(trained)
        parts += [
            "With PyTorch alone:",
            _python(
                "import torch",
                "",
                'program = torch.export.load("model.pt2").module()',
                f"{about['output']} = program({x})",
            ),
        ]
    return "\n\n".join([*parts, _preprocessing(trained, files)])


def _pixels(trained: Trained) -> str:
    channels, height, width = trained.preprocess.shape
    return f"torch.zeros(1, {height}, {width}, {channels}, dtype=torch.uint8)"


def _normalised(trained: Trained) -> str:
    return f"torch.zeros(1, {', '.join(map(str, trained.preprocess.shape))})"


def onnx_snippet(trained: Trained, file: str, about: Mapping[str, Any]) -> list[str]:
    """Lines of a script that imports onnxruntime and NumPy alone."""
    channels, height, width = trained.preprocess.shape
    own = about["input"] == "pixels"
    output = about["output"]
    lines = [
        "import json",
        "",
        "import numpy as np",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{file}")',
        "about = session.get_modelmeta().custom_metadata_map",
        'classes = json.loads(about["classes"])',
        f"images = np.zeros((1, {height}, {width}, {channels}), np.uint8)  # yours: (N, H, W, C), see below",
    ]
    if not own:
        lines += [
            'mean, std = (np.array(json.loads(about[key]), np.float32) for key in ("mean", "std"))',
            "images = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)",
        ]
    return [
        *lines,
        f'{output} = session.run(None, {{"images": images}})[0]  # (N, {len(trained.classes)})',
        f"print([classes[i] for i in {output}.argmax(1)])",
    ]


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _preprocessing(trained: Trained, files: Files) -> str:
    facts = trained.preprocess
    colours = "grey" if facts.shape[0] == 1 else "RGB"
    fit = FITS[facts.fit].format(size=facts.shape[-1], background=facts.background)
    how = [f"turn it upright as its EXIF says, make it {colours} (transparent pixels lie on {facts.background})", fit]
    if facts.fit is not None:
        how[-1] += " (bilinear, antialiased, as PIL's `resize`)"
        if facts.eval_share < 1:
            larger = round(facts.shape[-1] / facts.eval_share)
            how[-1] += f", but for an image of {larger} pixels, of which the middle {facts.shape[-1]} are cut out"
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (facts.mean, facts.std))
    by_whom = "`trained.predict` does all of it" if facts.fit else "fitting is up to you: the data set's code does it"
    text = (
        f"**What an image must go through** ({by_whom}): {'; '.join(how)}; divide by 255, "
        f"subtract the mean ({mean}), divide by the deviation ({std})."
    )
    if own := [f"`{name}`" for name, about in files.items() if about.get("input") == "pixels"]:
        text += (
            f" {' and '.join(own)} take{'s' * (len(own) == 1)} pixels and {'do' if len(own) > 1 else 'does'} the last "
            "three; resizing stays outside, because other libraries' does not agree with PIL's to the pixel."
        )
    if facts.flip:
        text += " The logits are the mean of those of the image and of its mirror image; `.onnx` and `.pt2` do that."
    return text


def table_of_files(files: Files) -> str:
    """A row a file: size, input, output, difference to PyTorch; and what else is to be said."""
    rows = ["| file | size | takes | gives | largest difference to PyTorch |", "|---|---:|---|---|---|"]
    for name, about in files.items():
        takes = {"pixels": "pixels, uint8 (N, H, W, C)", "images": "normalised images, float32 (N, C, H, W)"}
        if name == WEIGHTS:
            rows.append(f"| `{name}`, `config.json` | {size(about['bytes'])} | | | none: the same weights |")
            continue
        rows.append(
            f"| `{name}` | {size(about['bytes'])} | {takes[about['input']]} | {about['output']} | {agreement(about)} |"
        )
    notes = [f"- `{name}`: {text}." for name, about in files.items() for text in remarks(name, about)]
    return "\n".join(["## Which files are there?", "", *rows, *(["", *notes] if notes else [])])


def agreement(about: Mapping[str, Any]) -> str:
    """``3e-08 on random, 4e-08 on 32 validation images``"""
    if "random" not in about:
        return "8 bits: see below"
    random, real = (f"{about[key] or 0:.0e}".replace("0e+00", "0") for key in ("random", "real"))
    if about["real"] is None:
        return f"{random} on random images; no real ones: {about['no_real']}"
    return f"{random} on random, {real} on {about['real_images']} validation images"


def remarks(name: str, about: Mapping[str, Any]) -> Iterator[str]:
    """What else is to be said about a file."""
    if name.endswith(".onnx") and "free" in about:
        if "height" in about["free"]:
            sizes = ", ".join("×".join(map(str, each)) for each in about["other_sizes"])
            yield f"any batch, height and width; also compared at {sizes} pixels"
        else:
            yield f"any batch, but one height and width: {about['fixed_because']}"
    if lost := lost_by_int8(about):
        yield f"**Warning: it {lost}**"
    if "val_accuracy" in about:
        before, after = (100 * about["val_accuracy"][kind] for kind in ("float32", "int8"))
        slow, fast = (about["latency_ms"][kind] for kind in ("float32", "int8"))
        yield (
            f"accuracy on {about['images']:,} validation images {before:.1f} % before, {after:.1f} % after; "
            f"{size(about['float32_bytes'])} before, {size(about['bytes'])} after; {slow:.2f} ms for one image before, "
            f"{fast:.2f} ms after; calibrated on {about['calibrated_on']} training images"
        )


def lost_by_int8(about: Mapping[str, Any]) -> str:
    """``loses 3.1 points of accuracy on validation images``; empty up to ``MOST_LOST``, or if it is not in 8 bits."""
    accuracy = about.get("val_accuracy")
    lost = 100 * (accuracy["float32"] - accuracy["int8"]) if accuracy else 0
    return f"loses {lost:.1f} points of accuracy on validation images by its 8 bits" if lost > MOST_LOST else ""


def size(count: int) -> str:
    """``1.2 MB``"""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"
