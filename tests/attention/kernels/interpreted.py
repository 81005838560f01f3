"""The Triton kernels on a CPU, by Triton's interpreter, which must be on when Triton is imported: a process of its own.

``python -m tests.attention.kernels.interpreted CASE ...`` prints their errors as JSON, and those of modules with them.
"""

import json
import os
import sys

os.environ |= {"TRITON_INTERPRET": "1", "ATTNLAB_KERNELS": "triton"}

import torch
from torch.utils.flop_counter import FlopCounterMode

from attnlab.attention import create
from tests.attention.kernels.compared import errors, errors_of_module, wanted

MODULES = ("se", "eca", "spatial", "cbam")


def falls_back() -> bool:
    """Whether export and functorch take the plain formula, and give its numbers."""
    module, x = create("cbam", 8, init="he_normal").eval(), torch.randn(2, 2, 8, 3, 3)
    with wanted(False), torch.no_grad():
        expected = module(x[0])
    exported = torch.export.export(module, (x[0],))
    assert not [node for node in exported.graph.nodes if "attnlab" in str(node.target)]
    torch.testing.assert_close(exported.module()(x[0]), expected, rtol=0, atol=0)
    torch.testing.assert_close(torch.func.vmap(module)(x)[0], expected)
    torch.testing.assert_close(torch.jit.script(module)(x[0]), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(x[0]), expected)
    with FlopCounterMode(display=False):  # it sees operators of PyTorch's, and knows no others
        torch.testing.assert_close(module(x[0]), expected)
    return True


def hooks_run() -> bool:
    """Whether hooks of CBAM's parts are heard."""
    module, x, heard = create("cbam", 8), torch.randn(2, 8, 3, 3), list[str]()
    module.channel.register_forward_pre_hook(lambda part, args: heard.append("before"))
    module.spatial.register_forward_hook(lambda part, args, y: heard.append("after"))
    module(x)
    return heard == ["before", "after"]


if __name__ == "__main__":
    found = {case: errors(case, programs=(2048, 1)[i % 2]) for i, case in enumerate(sys.argv[1:])}
    modules = {name: errors_of_module(name, "cpu", (2, 32, 5, 3)) for name in MODULES}
    print(json.dumps({"operators": found, "modules": modules, "falls back": falls_back(), "hooks": hooks_run()}))
