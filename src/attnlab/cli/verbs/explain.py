"""show where a trained network looks: gates, class activation maps"""

import argparse
from pathlib import Path

from attnlab.cli.arguments import require_trained
from attnlab.errors import InputError

GROUP, PLACE, WORDS = "look", 3, "POINT [IMAGE|FOLDER ...]"


def run(argv: list[str]) -> int:
    """Write page.html, a grid and a figure of the channel gates into the point's explain/."""
    parser = argparse.ArgumentParser(
        prog="attnlab explain",
        description="Shows where a finished point looks: the gates at each site over the image and over channels, and "
        "Grad-CAM, Grad-CAM++, HiResCAM, Score-CAM and integrated gradients of the class that it predicts. Writes a "
        "page, a grid of images and a figure of the channel gates. Needs pip install 'attnlab[explain]'.",
        epilog="example: attnlab explain outputs/demo/mini_xception-cbam-branch-s0-0b89e057 --sanity",
    )
    parser.add_argument("point", metavar="POINT", help="a finished point's folder; with --best a study's")
    parser.add_argument(
        "images",
        metavar="IMAGE|FOLDER",
        nargs="*",
        help="images, or folders of them (default: from the point's own test images, half of them wrongly classified, "
        "and of all classes)",
    )
    parser.add_argument("--best", action="store_true", help="of a study, the point that is best on validation images")
    parser.add_argument(
        "--against", metavar="POINT2", help="show another point's maps beside it, of the same images and classes"
    )
    parser.add_argument("--class", dest="of", metavar="NAME", help="the class that maps are of (default: as predicted)")
    parser.add_argument(
        "--methods",
        metavar="LIST",
        help="of gradcam, gradcam++, hirescam, scorecam, integrated_gradients (default: all; without scorecam, which "
        "runs the network once for each channel, where that would take minutes)",
    )
    parser.add_argument("--images", dest="count", type=int, metavar="N", help="at most (default: 16; scored: 256)")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="of the point's own (default: test)")
    parser.add_argument(
        "--sanity", action="store_true", help="also check that maps change when the weights are randomised (1810.03292)"
    )
    parser.add_argument(
        "--score",
        action="store_true",
        help="measure instead what explain=score measures when a point ends; POINT may be a study: then of all its "
        "points that lack it. Writes explain.json into the points' folders, for attnlab report",
    )
    parser.add_argument("--boxes", metavar="PATH", help="with --score: where the objects are (as explain.boxes)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to (default: explain/ in the point's folder)")
    args = parser.parse_intermixed_args(argv)
    if args.count is not None and args.count < 1:
        raise InputError(f"--images {args.count}: must be at least 1")
    methods = args.methods.split(",") if args.methods else None
    if args.against:
        require_trained(args.against)
    if args.score:
        if not Path(args.point).is_dir():
            raise InputError(f"{args.point}: no such folder; must be a point's or a study's")
        of_maps = {
            "--best": args.best,
            "--against": args.against,
            "--class": args.of,
            "--sanity": args.sanity,
            "--output": args.output,
        }
        unused = [*args.images, *(word for word, given in of_maps.items() if given)]
        if unused or args.split != "test":
            raise InputError(f"{[*unused, '--split val'][0]}: has no effect with --score")
        from attnlab.cli.scoring import score_points

        return score_points(args.point, methods=methods, images=args.count, boxes=args.boxes)
    if args.boxes is not None:
        raise InputError(f"--boxes {args.boxes}: has an effect with --score alone")

    require_trained(args.point, args.best)
    if absent := [word for word in args.images if not Path(word).exists()]:
        raise InputError(f"{absent[0]}: no such file or folder; must be an image or a folder of images")

    from attnlab.cli.explaining import explain_point

    explain_point(
        args.point,
        args.images,
        best=args.best,
        against=args.against,
        of=args.of,
        methods=methods,
        count=16 if args.count is None else args.count,
        split=args.split,
        sanity=args.sanity,
        output=args.output,
    )
    return 0
