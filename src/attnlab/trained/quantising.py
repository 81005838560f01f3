"""An ONNX file in 8-bit integers: static quantisation by onnxruntime, calibrated on training images."""

import contextlib
import io
import logging
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnlab.data import Splits
from attnlab.errors import first_line
from attnlab.terminal import with_progress
from attnlab.trained.model import Trained
from attnlab.trained.onnx_file import runner
from attnlab.trained.samples import CHUNK, chunks, evenly
from attnlab.trained.whole import Refused, Whole

CALIBRATION = 256  # training images


def write_int8(
    trained: Trained, whole: Whole, source: Path, path: Path, about: Mapping[str, str], splits: Splits
) -> dict[str, Any]:
    """Quantise the ONNX file ``source`` into ``path``; returns accuracy on validation and latency of both.

    Weights by channel, in 7 of 8 bits so that no sum overflows on older processors; activations in 8 bits, of the
    range that they have on ``CALIBRATION`` training images, seen as in evaluation. Raises Refused if onnxruntime
    cannot quantise it.
    """
    images = [whole.takes(x) for x, _ in chunks(trained, splits.train, evenly(splits.train, CALIBRATION))]
    try:
        _quantise(source, path, images, about)
    except Exception as error:  # whatever onnxruntime raises
        raise Refused(f"{path.name}: cannot be quantised: {type(error).__name__}: {first_line(error)}") from error
    before, after = runner(source), runner(path)
    right = np.zeros(2, int)
    every = torch.arange(len(splits.val))
    total = -(-len(every) // CHUNK)
    for pixels, labels in with_progress(chunks(trained, splits.val, every), total, "Measuring"):
        x = whole.takes(pixels)
        right += [int((run(x).argmax(1) == labels.numpy()).sum()) for run in (before, after)]
    accuracies = (right / len(every)).tolist()
    times = _latencies([before, after], whole.random(1))
    return {
        "calibrated_on": sum(map(len, images)),
        "images": len(every),
        "val_accuracy": {"float32": accuracies[0], "int8": accuracies[1]},
        "latency_ms": {"float32": times[0], "int8": times[1]},
    }


def _quantise(source: Path, path: Path, images: list[Tensor], about: Mapping[str, str]) -> None:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.left, None)
            return None if x is None else {"images": x.numpy()}

    prepared = path.with_name("prepared.onnx")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            last = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "Softmax"][-1:]
            quantization.quantize_static(
                prepared,
                path,
                Reader(),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                nodes_to_exclude=last if about["output"] == "probabilities" else [],
            )
    finally:
        logging.disable(before)
        prepared.unlink(missing_ok=True)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(about))
    onnx.save(model, path)


def _latencies(runs: list[Any], x: Tensor, seconds: float = 1.0) -> list[float]:
    """Median milliseconds of a pass of one image; they take turns, so that disturbances hit all alike."""
    array = x.numpy()
    times: list[list[float]] = [[] for _ in runs]
    for warm in (True, False):
        started = time.perf_counter()
        while len(times[0]) < 5 or (len(times[0]) < 200 and time.perf_counter() - started < seconds):
            for run, mine in zip(runs, times, strict=True):
                begun = time.perf_counter()
                run(array)
                mine.append(1000 * (time.perf_counter() - begun))
        if warm:
            times = [[] for _ in runs]
    return [statistics.median(mine) for mine in times]
