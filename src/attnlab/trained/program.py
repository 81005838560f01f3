"""A trained network as a ``torch.export`` program, which PyTorch runs without attnlab."""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnlab.errors import first_line
from attnlab.trained.whole import Refused, Whole, difference, require_close

RUN = """
import sys, numpy, torch
program = torch.export.load(sys.argv[1]).module()
for n in sys.argv[3:]:
    x = torch.from_numpy(numpy.load(f"{sys.argv[2]}/in{n}.npy"))
    with torch.no_grad():
        numpy.save(f"{sys.argv[2]}/out{n}.npy", program(x).numpy())
assert "attnlab" not in sys.modules
"""


@torch.no_grad()
def write_program(whole: Whole, path: Path, about: Mapping[str, str], real: Tensor | None) -> dict[str, Any]:
    """Write the program, with free batch; returns its differences to the network, as a fresh process computes it.

    ``real``: inputs for the check beside random ones. Raises Refused if there is no program, or it computes
    something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(whole, (whole.random(2),), dynamic_shapes=shapes)
            for module in program.graph_module.modules():
                for node in getattr(getattr(module, "graph", None), "nodes", ()):
                    node.meta.pop("stack_trace", None)  # lines of source, with the paths of this machine
            torch.export.save(program, path, extra_files={"attnlab.json": json.dumps(dict(about), indent=1)})
    except Exception as error:  # whatever PyTorch's exporter raises
        raise Refused(f"{path.name}: cannot be exported: {type(error).__name__}: {first_line(error)}") from error
    inputs = [whole.random(n) for n in (1, 3, 8)] + ([] if real is None else [real])
    outputs = _in_a_fresh_process(path, inputs)
    off = [difference(whole(x), y, probabilities=whole.softmax) for x, y in zip(inputs, outputs, strict=True)]
    found = {"random": max(off[:3]), "real": None if real is None else off[3]}
    require_close(path.name, found)
    return {**found, "free": ["batch"]}


def _in_a_fresh_process(path: Path, inputs: list[Tensor]) -> list[Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        for n, x in enumerate(inputs):
            np.save(f"{folder}/in{n}.npy", x.numpy())
        command = [sys.executable, "-c", RUN, str(path), folder, *map(str, range(len(inputs)))]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode:
            last = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")
            raise Refused(f"{path.name}: a fresh process cannot run it: {last}")
        return [torch.from_numpy(np.load(f"{folder}/out{n}.npy")) for n in range(len(inputs))]
