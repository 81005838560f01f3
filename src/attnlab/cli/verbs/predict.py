"""say what a trained network sees in images"""

import argparse
from pathlib import Path

from attnlab.cli.arguments import require_trained
from attnlab.errors import InputError

GROUP, PLACE, WORDS = "use", 0, "POINT IMAGE|FOLDER ..."


def run(argv: list[str]) -> int:
    """Predict the classes of images; return 1 if some could not be read."""
    parser = argparse.ArgumentParser(
        prog="attnlab predict",
        description="Says what a finished point sees in images: the most probable classes of each. Where labels are "
        "known (subfolders that bear the classes' names, or a CSV with the column label), it also prints the accuracy "
        "and precision, recall and F1 of each class, and draws the confusion matrix. Uses the GPU if there is one. "
        "Exit code: 0, 1 if files could not be read (they are named and skipped), 2 for bad input.",
        epilog="example: attnlab predict outputs/demo --best photos --format csv --output predictions.csv",
    )
    parser.add_argument("point", metavar="POINT", help="a finished point's folder; with --best a study's")
    parser.add_argument(
        "images",
        metavar="IMAGE|FOLDER|CSV",
        nargs="+",
        help="images, folders of images, or CSVs with a header: paths, relative to the CSV, are in the column file, "
        "path or image, else in the first; labels in the column label or class",
    )
    parser.add_argument("--top", type=int, default=3, metavar="K", help="how many classes of each image (default: 3)")
    parser.add_argument(
        "--format", choices=["csv", "json"], help="for machines (default: a table, or as --output's name ends)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the predictions there, not to the terminal")
    parser.add_argument(
        "--confusion",
        type=Path,
        metavar="FILE",
        help="where the confusion matrix goes (default: beside --output, or confusion.png here, unless another's)",
    )
    parser.add_argument("--tta", choices=["flip"], help="average with the mirror image (default: as in its training)")
    parser.add_argument("--seeds", choices=["all"], help="the mean of all seeds of the point's variant")
    parser.add_argument("--best", action="store_true", help="of a study, the point that is best on validation images")
    args = parser.parse_intermixed_args(argv)
    if args.top < 1:
        raise InputError(f"--top {args.top}: must be at least 1")
    if args.confusion and args.confusion.suffix.lower() != ".png":
        raise InputError(f"--confusion {args.confusion}: must end in .png")
    if args.output and args.output.is_dir():
        raise InputError(f"--output {args.output}: is a folder; must be a file")
    if absent := [word for word in args.images if not Path(word).exists()]:
        raise InputError(f"{absent[0]}: no such file or folder; must be an image, a folder of images or a CSV of paths")

    require_trained(args.point, args.best)

    import sys

    import torch

    from attnlab.cli.predictions import print_predictions, require_others
    from attnlab.terminal import printable
    from attnlab.trained import load
    from attnlab.trained.listing import list_images

    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = load(args.point, best=args.best, seeds=args.seeds, device=device)
    images, notes = list_images(args.images, trained.classes)
    require_others([args.output, args.confusion], args.images, images)
    notes = [printable(note) for note in notes]
    print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    ending = args.output.suffix.lower().removeprefix(".") if args.output else ""
    skipped = print_predictions(
        trained,
        images,
        top=args.top,
        form=args.format or (ending if ending in ("csv", "json") else "table"),
        flip=True if args.tta else None,
        output=args.output,
        confusion=args.confusion,
    )
    if skipped:
        print(f"attnlab: {skipped} of {len(images)} images could not be read", file=sys.stderr)
    return 1 if skipped else 0
