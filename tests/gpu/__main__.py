"""Check and measure attnlab on a GPU in a few minutes: see README.md beside this file.

python -m tests.gpu [MINUTES] [--cpu]
"""

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from attnlab import ledger
from attnlab.training.version import own_source
from tests.gpu.parts import LINES, run_line, say


def failures(found: Any, path: str = "") -> Iterator[str]:
    """What went wrong: errors, and checks outside their tolerance."""
    if not isinstance(found, dict):
        return
    if "error" in found:
        yield f"{path}: {found['error']}"
    if found.get("ok") is False:
        yield f"{path}: {found['value']} is beyond {found['tolerance']}"
    for key, value in found.items():
        yield from failures(value, f"{path} / {key}" if path else key)


def about(device: str) -> dict[str, Any]:
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        gpu = {"card": card.name, "memory_gib": round(card.total_memory / 2**30, 1)}
    else:
        gpu = {"card": "cpu"}
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    return {**gpu, **versions, "code": own_source()[:8], "date": time.strftime("%Y-%m-%d")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description="Check and measure attnlab on a GPU.")
    parser.add_argument("minutes", nargs="?", type=float, default=7, help="how long it may take (default: 7)")
    parser.add_argument("--cpu", action="store_true", help="the same script, small, on the CPU: a rehearsal")
    parser.add_argument("--only", metavar="PART", help="this part alone, such as zoo_fashion")
    args = parser.parse_args()
    started = time.monotonic()
    os.environ["ATTNLAB_GPU_ENDS"] = str(started + 60 * args.minutes)
    device = "cpu" if args.cpu else "cuda"
    if args.cpu:
        os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    elif not torch.cuda.is_available():
        print("no GPU: PyTorch sees none (--cpu rehearses without)", file=sys.stderr)
        return 2
    else:  # many parts at once
        os.environ |= {"OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "4"}

    with tempfile.TemporaryDirectory() as folder:
        results = Path(tempfile.mkdtemp()) / "results" if args.cpu else Path(__file__).parent / "results"
        kept: dict[str, Any] = {**about(device), "parts": {}}
        places = [results, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
        name = re.sub(r"[^a-z0-9]+", "-", f"{kept['card']} {args.only or ''}".lower()).strip("-") + ".json"
        for limit_s, parts in LINES:
            left = 60 * args.minutes - (time.monotonic() - started)
            parts = [part for part in parts if (part.on_cpu or not args.cpu) and args.only in (None, part.name)]
            parts = [part for part in parts if args.cpu or left >= 60 or not part.spare]
            if not parts:
                continue
            say(started, "start: " + ", ".join(part.name for part in parts))
            limit_s = 10 * limit_s if args.cpu else min(limit_s, left)
            for part, found in run_line(parts, limit_s, device, Path(folder), started):
                kept["parts"][part] = found
                for place in places:
                    ledger.write_json(place / name, kept)
    wrong = list(failures(kept["parts"]))
    for line in wrong:
        print(f"✗ {line}")
    print(f"{len(kept['parts'])} parts, {len(wrong)} failures: " + ", ".join(str(place / name) for place in places))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
