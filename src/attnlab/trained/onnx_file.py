"""A trained network as an ONNX file that onnxruntime alone can run, checked against PyTorch."""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlab.errors import InputError, first_line
from attnlab.trained.whole import TOLERANCE, Refused, Whole, difference, require_close

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
BATCHES = (1, 3, 8)
MOST = 2**31 - 2**24  # bytes of weights: a protobuf file holds less than 2 GiB


def require_packages() -> None:
    """Raise InputError if a package is missing."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"--to onnx: {' and '.join(missing)} missing: pip install 'attnlab[onnx]'")


def write_onnx(
    whole: Whole, path: Path, about: Mapping[str, str], real: Tensor | None, opset: int | None = None
) -> dict[str, Any]:
    """Write the file; returns what was found about it: differences to PyTorch, which axes are free, opset.

    Batch is free; height and width are, if PyTorch takes other sizes and the file agrees with it there. ``real``:
    inputs for the check beside random ones. Raises Refused if the file cannot be made, or computes something else.
    """
    if (held := sum(each.numel() * each.element_size() for each in whole.state_dict().values())) > MOST:
        raise Refused(
            f"{path.name}: cannot hold {held / 1e9:.1f} GB of weights, at most {MOST / 1e9:.1f}; export to torch or "
            "safetensors"
        )
    found: dict[str, Any] = {}
    why = _one_size(whole)
    if not why:
        why = _write(whole, path, about, opset, free=True) or _wrong_at_other_sizes(whole, path, found)
    if why:
        if failed := _write(whole, path, about, opset, free=False):
            raise Refused(f"{path.name}: cannot be exported: {failed}")
        found = {"fixed_because": why}
    run = runner(path)
    found["random"] = max(_off(whole, run, whole.random(n)) for n in BATCHES)
    found["real"] = None if real is None else max(_off(whole, run, x) for x in real.split(max(BATCHES)))
    require_close(path.name, {"random": found["random"], "real": found["real"]})
    return {**found, "opset": _opset(path), "free": ["batch"] if why else ["batch", "height", "width"]}


def runner(path: Path, threads: int = 0) -> Any:
    """A function of the file's input, a tensor or an array, to its output (an array)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads  # a size that fails is told by its exception
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy() if isinstance(x, Tensor) else x})[0]


def _write(whole: Whole, path: Path, about: Mapping[str, str], opset: int | None, free: bool) -> str:
    """Returns why it could not be exported; empty if it is written."""
    height, width = whole.axes
    shapes = {0: "batch", **({height: "height", width: "width"} if free else {})}
    try:
        with _quiet():
            program = torch.onnx.export(
                whole,
                (whole.random(2),),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["images"],
                output_names=[whole.output],
                dynamic_shapes=(shapes,),
            )
            assert program is not None
            from onnx_ir import save
            from onnx_ir.passes.common import ClearMetadataAndDocStringPass

            ClearMetadataAndDocStringPass()(program.model)  # lines of source, with the paths of this machine
            program.model.metadata_props.clear()
            program.model.metadata_props.update(about)
            save(program.model, path)  # program.save writes a second file for weights of 1.5 GB
    except Exception as error:  # whatever PyTorch's exporter raises
        return _reason(error)
    if opset is not None and (got := _opset(path)) != opset:
        raise InputError(f"--opset {opset}: PyTorch's exporter gives opset {got} here")
    return ""


def _reason(error: BaseException) -> str:
    """The innermost exception's words: the exporter wraps them in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def _other_sizes(whole: Whole) -> list[tuple[int, int]]:
    """Larger by what most strides divide, larger by odd numbers, and smaller."""
    _, h, w = whole.shape
    return [(h + 32, w + 64), (h + 5, w + 3), (max(1, h - 7), max(1, w // 2))]


@torch.no_grad()
def _one_size(whole: Whole) -> str:
    """Why PyTorch itself takes no other size; empty if it does."""
    h, w = _other_sizes(whole)[0]
    try:
        whole(whole.random(1, h, w))
    except Exception:  # whatever a network raises; its words may hold paths of this machine
        return f"the network takes no {h}×{w} images"
    return ""


@torch.no_grad()
def _wrong_at_other_sizes(whole: Whole, path: Path, found: dict[str, Any]) -> str:
    """At which size the file differs from PyTorch, or does not run; empty if at none that PyTorch takes."""
    run, sizes = runner(path), []
    for h, w in _other_sizes(whole):
        x = whole.random(2, h, w)
        try:
            expected = whole(x)
        except Exception:  # too small for the network, say
            continue
        try:
            off = difference(expected, torch.from_numpy(run(x)), probabilities=whole.softmax)
        except Exception:  # onnxruntime's own kinds
            return f"with a free size, the file does not run on {h}×{w} images, which PyTorch takes"
        if off > TOLERANCE:
            return f"with a free size, the file differs from PyTorch by {off:.1e} on {h}×{w} images"
        sizes.append([h, w])
    found["other_sizes"] = sizes
    return ""


@torch.no_grad()
def _off(whole: Whole, run: Any, x: Tensor) -> float:
    return difference(whole(x), torch.from_numpy(run(x)), probabilities=whole.softmax)


def _opset(path: Path) -> int:
    import onnx

    imports = onnx.load(path, load_external_data=False).opset_import
    return next(each.version for each in imports if each.domain in ("", "ai.onnx"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporter prints and warns about its own insides."""
    nowhere = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """As an ONNX file holds it: text as it is, all else as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in facts.items()}
