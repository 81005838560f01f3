"""The places of a network of no known family, from one forward pass: what is added, what is concatenated, what follows
a convolution. It ignores names of modules."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from attnlab.backbones.places import Place, Side, identity_places
from attnlab.backbones.recording import Call, Join, Run, Shape

HEADS = ("classifier", "head", "fc")  # behind the features, where no map is left to attend to
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTY = (*CONVS, nn.Linear)


class Block(NamedTuple):
    """A module in which a branch is added to a shortcut, or branches are concatenated."""

    path: str
    call: Call
    branches: list[str]  # modules whose outputs are joined
    shortcut: str | None  # the module on the other way, if there is one


def structural_places(net: nn.Module, run: Run) -> list[Place]:
    """Blocks, their branches, shortcuts and inputs; units; the stem; the ends of the stages (equal H × W).

    Units of ``depthwise`` convolutions are listed under that role too. timm's ``feature_info`` names the stages
    where a network has it.
    """
    if getattr(net, "output_fmt", "NCHW") != "NCHW":  # timm's word for (N, H, W, C) inside
        return []
    once = {path: calls[0] for path, calls in run.items() if len(calls) == 1 and path.partition(".")[0] not in HEADS}
    blocks = _blocks(net, run, once)
    units = _units(net, run, once)
    stages = _stages([b.call for b in blocks] or [once[path] for path, _ in units])

    def stage_at(moment: int) -> int:
        """The stage of the block that runs at that time, or of the last block before."""
        return max((stage for begin, _, stage, _ in stages if begin <= moment), default=0)

    places: list[Place] = []
    if blocks:
        places += _stem(blocks, run, once)
    for path, depthwise in units:
        call = once[path]
        around = [n for begin, end, _, n in stages if blocks and begin <= call.begin and call.end <= end]
        for role in ("unit", "depthwise")[: 1 + depthwise]:
            places.append(Place(role, path, stage_at(call.begin), around[0] if around else None))
    for block, (_, _, stage, n) in zip(blocks, stages, strict=False):
        places += [Place("pre", path, stage, n, side="input") for path in _inputs(block, once)]
        places += [Place("branch", path, stage, n) for path in block.branches]
        if block.shortcut is not None:
            places.append(Place("shortcut", block.shortcut, stage, n))
        elif block.path and block.branches:
            places += identity_places(net, block.path, stage, n)
        if block.path and block.path in once:
            places.append(Place("block", block.path, stage, n))
    places += _stage_ends(net, once, [b.call for b in blocks] or [once[path] for path, _ in units], stages)

    def moment(place: Place) -> int:
        call = once.get(place.module) or once[place.module.rpartition(".")[0]]
        return call.end if place.side == "output" else call.begin

    return [taken for place in sorted(places, key=moment) for taken in _out_of_containers(net, place, once)]


def _out_of_containers(net: nn.Module, place: Place, once: dict[str, Call]) -> list[Place]:
    """A container with a forward of its own would run what is added to it: who takes its output stands for it."""

    def runs_children(path: str, side: Side) -> bool:
        module = net.get_submodule(path) if path in once else None
        while type(module) is nn.Sequential and len(module):  # whose end, or beginning, stands for it
            module = module[-1 if side == "output" else 0]
        return isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and (
            type(module).forward is not nn.Sequential.forward
        )

    if not runs_children(place.module, place.side):
        return [place]
    if place.side == "input" or once[place.module].returned is None:
        return []
    returned = once[place.module].returned
    outer = _outermost(p for p, call in once.items() if call.entered == returned and not _inside(p, place.module))
    fits = len(outer) == 1 and not runs_children(outer[0], "input")
    return [replace(place, module=outer[0], side="input")] if fits else []


def _blocks(net: nn.Module, run: Run, once: dict[str, Call]) -> list[Block]:
    found: dict[str, Block] = {}
    joins: dict[str, list[Join]] = defaultdict(list)
    for join in run.joins:
        if (path := _which_joins(join, net, run)) is not None:
            joins[path].append(join)
    for added in (True, False):
        for path, of_module in joins.items():
            mine = [join for join in of_module if join.added == added]
            related = [other for other in found if _inside(other, path) or _inside(path, other)]
            if mine and path and path in once and not (related and not added):
                block = (_residual if added else _concatenated)(path, mine, run, once)
                if block is not None:
                    found[path] = block
    found = {p: block for p, block in found.items() if not any(_inside(other, p) for other in found if other != p)}
    # Others of such a class, or at such a place: where the resolution changes, many a block adds nothing.
    classes = {type(net.get_submodule(path)) for path in found} or _repeated(net, once)
    patterns = {re.sub(r"\d+", "#", path) for path in found}
    for path, call in once.items():
        module = net.get_submodule(path)
        kin = type(module) in classes or (re.sub(r"\d+", "#", path) in patterns and _convs(module) > 1)
        if path and kin and not any(_inside(path, other) or _inside(other, path) for other in found):
            last = _producer(path, call.returned, call.end, once, run)
            found[path] = Block(path, call, [last] if last else [], None)
    found |= _of_the_network_itself(joins[""], run, once) if not found else {}
    return sorted(found.values(), key=lambda block: block.call.begin)


def _which_joins(join: Join, net: nn.Module, run: Run) -> str | None:
    """The innermost module with convolutions that was running; a module that only adds stands for its caller.

    None for a sum within a module without them, such as ConvNeXt-V2's response normalisation.
    """
    for path in reversed(join.within):
        if _is_weighty(net.get_submodule(path)):
            return path
        call = next(call for call in run[path] if call.begin < join.moment < call.end)
        if max(join.operands) > call.begin:
            return None
    return ""


def _residual(path: str, adds: list[Join], run: Run, once: dict[str, Call]) -> Block | None:
    """What is added to the module's input, or to what has been made of it, and the projection if there is one."""
    call = once[path]
    sums = {join.result: join.operands for join in adds}
    stream, branches, shortcut, residual = {call.entered}, list[str | None](), None, False

    def terms(operands: Iterable[int]) -> Iterator[int]:
        for operand in operands:
            yield from terms(sums[operand]) if operand in sums and operand not in stream else [operand]

    for join in adds:
        operands = list(terms(join.operands))
        identity = [operand for operand in operands if stream & _origins(operand, run)]
        least = min(run.depth[operand] for operand in operands)
        if not identity and join is adds[-1]:
            short = [operand for operand in operands if run.depth[operand] == least]
            deep = [operand for operand in operands if operand not in short] or short
            shortcut = _producer(path, short[0], join.moment, once, run) if deep != short else None
        elif identity:
            deep = [operand for operand in operands if operand not in identity]
            shortcut = _producer(path, identity[0], join.moment, once, run)
            stream.add(join.result)
        else:
            continue
        residual = True
        branches += [_producer(path, operand, join.moment, once, run) for operand in deep]
    shortcut = _alone(shortcut, once)
    named = [branch for branch in branches if branch is not None and branch != shortcut]
    return Block(path, call, list(dict.fromkeys(named)), shortcut) if residual else None


def _concatenated(path: str, cats: list[Join], run: Run, once: dict[str, Call]) -> Block | None:
    operands = [(operand, join.moment) for join in cats for operand in join.operands]
    made = [_producer(path, operand, moment, once, run) for operand, moment in operands]
    named = list(dict.fromkeys(branch for branch in made if branch is not None))
    return Block(path, once[path], named, None) if named else None


def _of_the_network_itself(joins: list[Join], run: Run, once: dict[str, Call]) -> dict[str, Block]:
    """Sums written in the network's own forward: the branch is the longer way, and there is no block to name."""
    found = {}
    for join in joins:
        short, deep = sorted(join.operands[:2], key=run.depth.__getitem__)
        branch = _producer("", deep, join.moment, once, run)
        if join.added and branch is not None and run.depth[short] < run.depth[deep]:
            shortcut = _producer("", short, join.moment, once, run)
            found[f"+{join.moment}"] = Block("", once[branch], [branch], _alone(shortcut, once))
    return found


def _alone(shortcut: str | None, once: dict[str, Call]) -> str | None:
    """The shortcut's module, unless another module takes its output too: then it is no place of the shortcut alone."""
    if shortcut is None:
        return None
    returned = once[shortcut].returned
    return None if any(c.entered == returned and not _inside(p, shortcut) for p, c in once.items()) else shortcut


def _origins(number: int, run: Run) -> set[int]:
    """The tensor, and what it was before modules that do nothing, and scaling."""
    found = {number}
    while number in run.scaled:
        number = run.scaled[number]
        found.add(number)
    return found


def _producer(inside: str, number: int | None, moment: int, once: dict[str, Call], run: Run) -> str | None:
    """The module below ``inside`` that returned this tensor by then: the last to do so, which is the outermost."""
    if number is None:
        return None
    wanted = _origins(number, run)
    begin = once[inside].begin if inside in once else 0
    made = [
        (call.end, path)
        for path, call in once.items()
        if path != inside
        and _inside(path, inside)
        and call.returned in wanted
        and begin < call.begin <= call.end <= moment
    ]
    return max(made)[1] if made else None


def _inside(path: str, other: str) -> bool:
    """Whether ``path`` is ``other`` or below it."""
    return not other or path == other or path.startswith(other + ".")


def _outermost(paths: Iterable[str]) -> list[str]:
    """Those that are below no other of them."""
    paths = list(paths)
    return [path for path in paths if not any(path != other and _inside(path, other) for other in paths)]


def _repeated(net: nn.Module, once: dict[str, Call]) -> set[type]:
    """Classes of which there are several, of several convolutions each: the blocks of a plain network."""

    containers = (nn.Sequential, nn.ModuleList)
    modules = [net.get_submodule(path) for path in once if path]
    counts = Counter(type(m) for m in modules if type(m) not in containers and _convs(m) > 1)
    several = {kind for kind, count in counts.items() if count > 1}
    inner = {type(m) for module in modules if type(module) in several for m in module.modules() if m is not module}
    return several - inner


def _units(net: nn.Module, run: Run, once: dict[str, Call]) -> list[tuple[str, bool]]:
    """(path, whether depthwise) of the end of each convolution with its norm and activation.

    Where these are no modules anywhere in the network, of each convolution alone.
    """
    convs = {path: _convs(net.get_submodule(path)) for path in once}
    weighty = {path for path in once if _is_weighty(net.get_submodule(path))}
    after: dict[int, list[str]] = defaultdict(list)  # tensor -> convolutions, and modules without weights, that take it
    for path in sorted(once, key=lambda path: once[path].begin):
        simple = path not in weighty and path.rpartition(".")[0] in weighty
        if path and (simple or isinstance(net.get_submodule(path), CONVS)) and (entered := once[path].entered):
            after[entered].append(path)
    joining = {join.within[-1] for join in run.joins if join.within[-1] in once}
    units, bare = list[tuple[str, bool]](), list[tuple[str, bool]]()
    for path in [path for paths in after.values() for path in paths]:
        conv, output = net.get_submodule(path), once[path].output
        if not isinstance(conv, nn.Conv2d) or output is None or output[2:] == (1, 1):
            continue
        last = end = path
        while followers := [p for p in after[once[last].returned or -1] if once[p].begin > once[last].begin]:
            last = followers[0]
            module = net.get_submodule(last)
            elsewhere = not _inside(path, last.rpartition(".")[0])  # the norm with which the next block begins
            if elsewhere or last in weighty or "Pool" in type(module).__name__ or once[last].output != output:
                break
            empty = isinstance(module, nn.Sequential) and not len(module)
            if not (empty or isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d))):
                end = last
        parent = path.rpartition(".")[0]
        while parent and convs.get(parent, 1) == 1 and not any(_inside(join, parent) for join in joining):
            end = parent if parent in once and once[parent].output == output else end
            parent = parent.rpartition(".")[0]
        (units if end != path else bare).append((end, conv.groups == conv.in_channels > 1))
    return list(dict.fromkeys(units or (bare if len(bare) > 1 else [])))  # one alone makes tokens of patches


def _is_weighty(module: nn.Module) -> bool:
    return any(isinstance(m, WEIGHTY) for m in module.modules())


def _convs(module: nn.Module) -> int:
    return sum(isinstance(m, CONVS) for m in module.modules())


def _stages(calls: list[Call]) -> list[tuple[int, int, int, int]]:
    """(begin, end, stage, number within the stage) of each block; a stage is a run of equal H × W."""
    stages: list[tuple[int, int, int, int]] = []
    size: Shape | None = None
    stage = n = 0
    for call in calls:
        now = (call.output or ())[2:]
        stage, n = (stage, n + 1) if now == size else (stage + 1, 1)
        size = now
        stages.append((call.begin, call.end, stage, n))
    return stages


def _inputs(block: Block, once: dict[str, Call]) -> list[str]:
    """Where the branch begins: the module in the block that takes the block's input, if there is but one."""
    outer = _outermost(
        path
        for path, call in once.items()
        if block.path and path != block.path and _inside(path, block.path) and call.entered == block.call.entered
        if block.call.entered is not None and not (block.shortcut and _inside(path, block.shortcut))
        if call.begin > block.call.begin
    )
    return outer if len(outer) == 1 and len(block.branches) == 1 else []


def _stem(blocks: list[Block], run: Run, once: dict[str, Call]) -> list[Place]:
    first = blocks[0].call
    made = [
        (call.end, path)
        for path, call in once.items()
        if path and call.returned == first.entered is not None and call.end < first.begin
    ]
    if made:
        return [Place("stem", max(made)[1])]
    if first.entered is None or not run.depth[first.entered]:
        return []  # the first block takes the image itself
    inner = min(blocks, key=lambda block: block.call.begin)
    return [Place("stem", inner.path or inner.branches[0], side="input")]


def _stage_ends(
    net: nn.Module, once: dict[str, Call], calls: list[Call], stages: list[tuple[int, int, int, int]]
) -> list[Place]:
    ends: dict[int, str] = {}
    last = {stage: call for call, (_, _, stage, _) in zip(calls, stages, strict=True)}
    for path, call in sorted(once.items(), key=lambda item: item[1].end):  # an outer module ends after an inner one
        of = {stage for begin, end, stage, _ in stages if call.begin <= begin and end <= call.end}
        if path and len(of) == 1 and call.returned == last[min(of)].returned is not None:
            ends[min(of)] = path
    for info in _feature_info(net):
        module = info.get("module", "")
        before = [stage for _, end, stage, _ in stages if module in once and end <= once[module].end]
        shape = once[module].output if module in once else None
        if before and shape is not None and len(shape) == 4:
            ends.setdefault(max(before), module)
    return [Place("stage", path, stage) for stage, path in sorted(ends.items())]


def _feature_info(net: Any) -> list[dict[str, Any]]:
    info = getattr(net, "feature_info", None)
    info = getattr(info, "info", info)
    return [each for each in info if isinstance(each, dict)] if isinstance(info, list) else []
