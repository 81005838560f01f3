"""show what attention adds to a backbone"""

from attnlab.cli.arguments import parser_of_a_network
from attnlab.errors import InputError

GROUP, PLACE, WORDS = "look", 2, "[key=value ...]"


def run(argv: list[str]) -> int:
    """Print the bare backbone beside the network with attention."""
    parser = parser_of_a_network(
        "cost",
        description="Shows what attention adds to a backbone: parameters, multiply-accumulates (MACs), element-wise "
        "operations, activation memory in training, and with --latency the time of a forward pass.",
        epilog="example: attnlab cost backbone=resnet50 attention=cbam sites=branch --input 3x224x224 --latency",
    )
    parser.add_argument("--latency", action="store_true", help="also time forward passes of 1 image and of a batch")
    parser.add_argument("--batch", metavar="N", type=int, help="with --latency: images in the batch (default: 32)")
    parser.add_argument("--compile", action="store_true", help="with --latency: use torch.compile, not eager mode")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="with --latency: run on this device (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_intermixed_args(argv)
    for option in ("batch", "compile", "device"):
        if getattr(args, option) and not args.latency:
            raise InputError(f"--{option}: needs --latency")
    if args.batch is not None and args.batch < 1:
        raise InputError(f"--batch {args.batch}: must be at least 1")

    from attnlab.cli.networks import print_cost
    from attnlab.config.compose import composing

    with composing(config_dir=args.config_dir) as compose_one:
        config = compose_one(args.overrides)
    batches = sorted({1, args.batch or 32}) if args.latency else []
    print_cost(config, args.input, batches, compiled=args.compile, device=args.device or "cpu", as_json=args.json)
    return 0
