"""write a trained network as ONNX, torch.export or safetensors, with a model card"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from attnlab.cli.arguments import require_trained
from attnlab.errors import InputError, choices

if TYPE_CHECKING:
    from attnlab.trained import Trained

GROUP, PLACE, WORDS = "use", 0, "POINT --to onnx|torch|safetensors"
FORMATS = ("onnx", "torch", "safetensors")


def run(argv: list[str]) -> int:
    """Write the files and README.md into the point's folder ``export``, and print what they are."""
    parser = argparse.ArgumentParser(
        prog="attnlab export",
        description="Writes a finished point's network for other programs: ONNX (for onnxruntime), a torch.export "
        "program (for PyTorch without attnlab), safetensors with config.json (for attnlab.load and model hubs). Each "
        "file is compared with PyTorch on random and on validation images; one whose logits differ by more than 1e-4 "
        "of their spread is refused, exit code 1. README.md, a model card, is written beside.",
        epilog="example: attnlab export outputs/demo --best --to onnx,safetensors",
    )
    parser.add_argument("folder", metavar="POINT", help="the point's folder; with --best its study's", type=Path)
    parser.add_argument(
        "--to", action="append", default=[], metavar="FORMAT", help="onnx, torch, safetensors, or several: onnx,torch"
    )
    parser.add_argument("--best", action="store_true", help="the best point of the study, by validation")
    parser.add_argument("--seeds", choices=["all"], help="all: the point's seeds as one network, an ensemble")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder to write into (default: POINT/export)")
    parser.add_argument("--preprocess", action="store_true", help="the file takes uint8 pixels (N, H, W, C)")
    parser.add_argument("--softmax", action="store_true", help="the file gives probabilities, not logits")
    parser.add_argument("--quantize", choices=["int8"], help="also model.int8.onnx, calibrated on training images")
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default: PyTorch's)")
    args = parser.parse_args(argv)
    formats = [name for words in args.to for name in words.split(",")]
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"--to {name}: no such format; {choices(name, FORMATS)}")
    if not formats:
        raise InputError("--to is missing: onnx, torch or safetensors, or several of them: --to onnx,safetensors")
    for option, given in (("--quantize int8", args.quantize), ("--opset", args.opset is not None)):
        if given and "onnx" not in formats:
            raise InputError(f"{option}: needs --to onnx")
    for option, given in (("--preprocess", args.preprocess), ("--softmax", args.softmax)):
        if given and formats == ["safetensors"]:
            raise InputError(f"{option}: needs --to onnx or torch; safetensors holds weights alone")

    require_trained(str(args.folder), args.best)

    from rich.console import Console

    from attnlab.trained import load
    from attnlab.trained.exporting import write_export
    from attnlab.trained.hub import is_export
    from attnlab.trained.usage import lost_by_int8
    from attnlab.trained.whole import Refused

    if is_export(args.folder):
        raise InputError(f"{args.folder}: is an export already; give the folder of the point that it was made of")
    trained = load(args.folder, best=args.best, seeds=args.seeds)
    name = "export" if len(trained.folders) == 1 else "export-all-seeds"
    folder = args.output or trained.folders[0] / name
    with Console(stderr=True).status("reading") as status:
        try:
            files = write_export(
                trained,
                folder,
                formats,
                pixels=args.preprocess,
                softmax=args.softmax,
                int8=bool(args.quantize),
                opset=args.opset,
                tell=status.update,
            )
        except Refused as error:
            print(f"attnlab: {error}", file=sys.stderr)
            return 1
    _print(trained, folder, files)
    for name, about in files.items():
        if lost := lost_by_int8(about):
            print(f"attnlab: warning: {name} {lost}", file=sys.stderr)
    return 0


def _print(trained: "Trained", folder: Path, files: dict[str, dict]) -> None:
    from attnlab.trained.usage import agreement, onnx_snippet, remarks, size

    seeds = f" (all {len(trained.folders)} seeds)" if len(trained.folders) > 1 else ""
    print(f"{trained.folders[0].name}{seeds}, written to {folder}:")
    for name, about in files.items():
        told = [f"differs from PyTorch by {agreement(about)}"] if "random" in about else []
        print(f"  {name:18} {size(about['bytes']):>8}  {'; '.join([*told, *remarks(name, about)])}".rstrip())
    print("  README.md, config.json")
    if "model.safetensors" in files:
        use = 'predict("photo.jpg")' if trained.preprocess.fit else "logits(x)"  # of a data set that fits them itself
        folder_in_quotes = json.dumps(str(folder), ensure_ascii=False)
        code = f"import attnlab; print(attnlab.load({folder_in_quotes}).{use})"
        print(f"use it: python -c {shlex.quote(code)}")
        print(f"publish it: hf upload USER/NAME {shlex.quote(str(folder))}")
    elif "model.onnx" in files:
        print("use it:", *onnx_snippet(trained, str(folder / "model.onnx"), files["model.onnx"]), sep="\n  ")
    else:
        print(f"use it: README.md in {folder} shows how")
