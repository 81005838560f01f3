"""show what a data set holds, and how its images look as batches"""

from attnlab.cli.arguments import parser_of_a_config
from attnlab.errors import InputError

GROUP, PLACE, WORDS = "look", 0, "data=... [key=value ...]"


def run(argv: list[str]) -> int:
    """Print counts, sizes, moments, what was left out and the time of an epoch; draw a sheet of images."""
    parser = parser_of_a_config(
        "data",
        description="Shows a data set: images per class and split, what was converted, skipped or found twice, the "
        "mean and deviation, and how long an epoch takes to read; draws images as they are and as augmented.",
        epilog="example: attnlab data data=image_folder data.folder=photos augment=trivial",
    )
    parser.add_argument("--sheet", metavar="FILE", help="the picture (default: OUTPUT_DIR/data-NAME.png)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_intermixed_args(argv)
    if args.sheet and not args.sheet.lower().endswith(".png"):
        raise InputError(f"--sheet {args.sheet}: must end in .png")

    from attnlab.cli.dataset import print_data
    from attnlab.config.compose import composing

    with composing(config_dir=args.config_dir) as compose_one:
        config = compose_one(args.overrides)
    print_data(config, sheet=args.sheet, as_json=args.json)
    return 0
