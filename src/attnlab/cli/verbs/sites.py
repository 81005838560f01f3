"""show where attention can go in a backbone"""

from attnlab.cli.arguments import parser_of_a_network

GROUP, PLACE, WORDS = "look", 1, "[key=value ...]"


def run(argv: list[str]) -> int:
    """Print a drawing and a table of the sites; mark those that the config selects."""
    parser = parser_of_a_network(
        "sites",
        description="Shows where attention can go in a backbone, and marks the sites that sites=... selects; with "
        "attention=... it also shows what each costs.",
        epilog="example: attnlab sites backbone=resnet50 attention=cbam sites.blocks=last --input 3x224x224",
    )
    args = parser.parse_intermixed_args(argv)

    from attnlab.cli.networks import print_sites
    from attnlab.config.compose import composing

    with composing(config_dir=args.config_dir) as compose_one:
        print_sites(compose_one(args.overrides), args.input)
    return 0
