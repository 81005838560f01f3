"""A record of one forward pass of a network: the calls of each module, and where tensors are added or concatenated."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Shape = tuple[int, ...]


class Call(NamedTuple):
    """One call of a module. Shapes and numbers are None where the argument or result is not one tensor."""

    input: Shape | None
    output: Shape | None
    entered: int | None = None  # the number of the tensor: equal numbers, equal values
    returned: int | None = None
    begin: int = 0  # moments of the pass
    end: int = 0
    by_name: bool = False  # all of its arguments, ``conv(input=x)``


class Join(NamedTuple):
    """An addition or a channel-wise concatenation of feature maps."""

    within: tuple[str, ...]  # paths of the modules that were running, the innermost last
    added: bool
    operands: tuple[int, ...]
    result: int
    moment: int


class Run(dict[str, list[Call]]):
    """Module path -> its calls in one forward pass, in the order of first calls; "" is the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.image: Shape | None = None  # (N, C, H, W) of what the network is given, or else its first convolution
        self.larger: Run | None = None  # a pass at a larger size, where small maps are not yet 1×1
        self.joins: list[Join] = []
        self.depth: dict[int, int] = {}  # convolutions between the input and a tensor, at most
        self.scaled: dict[int, int] = {}  # tensor -> what it was before a multiplication by a constant


class Recorder(TorchDispatchMode):
    """Numbers the tensors that come from the network's input, and notes where they are added or concatenated.

    The input is what the outermost module is given.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self.clock, self.stack = run, 0, [""]
        self.numbers: dict[int, int] = {}
        self.alive: list[Tensor] = []  # so that no id is used twice

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def number(self, value: object) -> int | None:
        return self.numbers.get(id(value)) if isinstance(value, Tensor) else None

    def add(self, tensor: Tensor, depth: int) -> int:
        self.alive.append(tensor)
        self.numbers[id(tensor)] = number = self.tick()
        self.run.depth[number] = depth
        return number

    def begin(self, given: Iterable[object]) -> None:
        """The outermost module is given this."""
        for tensor in _flat(given):
            if id(tensor) not in self.numbers:
                self.add(tensor, depth=0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if len(self.stack) == 1:  # what runs outside of the modules
            return func(*args, **(kwargs or {}))
        maps = [value for value in _flat(args) if self.number(value) is not None]
        sources = [self.numbers[id(value)] for value in maps]
        result = func(*args, **(kwargs or {}))
        if not sources:
            return result
        name = func.overloadpacket.__name__.rstrip("_")
        depth = max(self.run.depth[source] for source in sources) + (name in ("convolution", "addmm", "mm", "bmm"))
        for tensor in _flat([result]):
            number = self.add(tensor, depth)
            if name == "mul" and len(sources) == 1 and tensor.shape == maps[0].shape:
                self.run.scaled[number] = sources[0]
            batch = self.run.image[0] if self.run.image else None
            joined = len(sources) > 1 and all(value.dim() == 4 and value.shape[0] == batch for value in maps)
            added = name == "add" and joined and maps[0].shape == maps[1].shape
            if added or (name == "cat" and joined and tensor.shape[2:] == maps[0].shape[2:]):
                self.run.joins.append(Join(tuple(self.stack), added, tuple(sources), number, self.clock))
        return result


def _flat(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _flat(value)
        elif isinstance(value, dict):
            yield from _flat(value.values())


@contextlib.contextmanager
def recorded_calls(net: nn.Module, joins: bool, image: Shape | None = None) -> Iterator[Run]:
    """Note the calls of each module while the body runs the network; with ``joins``, also where tensors are joined.

    ``image``: the shape of its input, if that is one tensor.
    """
    run = Run()
    run.image = image
    recorder = Recorder(run)
    paths = {module: path for path, module in net.named_modules()}
    begun: list[tuple[int | None, int]] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if len(recorder.stack) == 1:
            recorder.begin((*args, *kwargs.values()))
        if run.image is None and isinstance(module, nn.Conv2d) and args:
            run.image = _shape(args[0])
        recorder.stack.append(paths[module])
        begun.append((recorder.number(args[0]) if args else None, recorder.tick()))

    def leave(module: nn.Module, args: tuple, output: Any) -> Any:
        recorder.stack.pop()
        entered, begin = begun.pop()
        if joins and args and output is args[0] and entered is not None:
            output = torch.ops.aten.alias(output)  # what a module that does nothing returns has a number of its own
            run.scaled[recorder.numbers[id(output)]] = entered
        call = Call(
            _shape(args[0]) if args else None,
            _shape(output),
            entered,
            recorder.number(output),
            begin,
            recorder.tick(),
            by_name=not args,
        )
        run.setdefault(paths[module], []).append(call)
        return output

    handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in net.modules()]
    handles += [module.register_forward_hook(leave) for module in net.modules()]
    try:
        with recorder if joins else contextlib.nullcontext():
            yield run
    finally:
        for handle in handles:
            handle.remove()


def _shape(value: object) -> Shape | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
