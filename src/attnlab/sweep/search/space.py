"""The space of a search: dimensions from words of the command line, and the overrides of one design in it."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override

from attnlab.config.compose import parse_overrides
from attnlab.errors import InputError

Value = str | float  # the text of a value as a command line has it, or a number between two ends
Params = Mapping[str, Value]  # a design: values by the keys of their dimensions
STAGES = "attention.stages"


@dataclass(frozen=True)
class Dimension:
    """What a search chooses: one of ``values``, or a number from ``low`` to ``high``, both included.

    ``key`` as it is typed, such as ``attention``, ``+attention.kernel``; ``attention.stages.1`` for the first stage.
    ``values`` are texts that Hydra reads back. ``log``: equal ratios are equally likely. ``whole``: whole numbers.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def stage(self) -> int | None:
        """The stage, from 1, that it chooses an attention for."""
        found = re.fullmatch(rf"{re.escape(STAGES)}\.(\d+)", self.key)
        return int(found[1]) if found else None


def parse(words: Sequence[str], stages: Callable[[], int]) -> tuple[list[Dimension], list[str]]:
    """The dimensions among ``key=value`` words, those that others depend on first; and the other words as they are.

    Several values (``a,b``, ``range(1,5)``, ``choice(a,b)``, ...) make a dimension as Hydra's sweeps have it, and so do
    ``interval(low,high)``, ``log(low,high)``, ``int(low,high)``, ``int(low,high,log)``. ``attention.stages=each(a,b)``
    makes one for each stage; ``stages`` gives their number.

    Raises InputError for ends or values that make no dimension, and for a key that is given twice.
    """
    dimensions: list[Dimension] = []
    fixed: list[str] = []
    given: dict[str, bool] = {}  # by name, whether it is a dimension
    for word in words:
        override, found = _read(word, stages)
        if not found:
            fixed.append(word)
        name = STAGES if override.key_or_group.startswith(f"{STAGES}.") else override.key_or_group
        if name in given and (found or given[name]):
            raise InputError(f"{word}: {name} is given twice")
        if found and (reason := _controls(override.key_or_group)):
            raise InputError(f"{word}: {reason}")
        given[name] = bool(found)
        dimensions += found
    if given.get("backbone") and any(d.stage for d in dimensions):
        raise InputError(f"{STAGES}=each(...): needs one backbone; its number of stages is that of the list")
    return sorted(dimensions, key=_place), fixed


def overrides(dimensions: Sequence[Dimension], params: Params) -> list[str]:
    """The words of one design for Hydra, groups first. Stages without a value get no attention."""
    words = []
    each = [d for d in dimensions if d.stage]
    for dimension in sorted(dimensions, key=_place):
        if dimension.stage == 1 and any(d.key in params for d in each):
            entries = (str(params.get(d.key, "none")) for d in sorted(each, key=_place))
            words.append(f"{STAGES}=[{','.join(entries)}]")
        elif not dimension.stage and dimension.key in params:
            words.append(f"{dimension.key}={params[dimension.key]}")
    return words


def size(dimensions: Sequence[Dimension]) -> int | None:
    """The number of combinations; None if there are numbers between two ends that are not whole."""
    if any(not d.values and not d.whole for d in dimensions):
        return None
    return math.prod(len(d.values) or int(d.high - d.low) + 1 for d in dimensions)


def matters(
    dimensions: Sequence[Dimension], dimension: Dimension, params: Params, identity: Callable[[list[str]], str | None]
) -> bool:
    """Whether a dimension has an effect beside these values of others: two of its values make different designs.

    A value of its own among ``params`` is one of the two. ``identity`` gives the hash of the normal form of what these
    overrides compose, and None if they do not fit.
    """
    values: Sequence[Value] = dimension.values
    if not values:
        values = (int(dimension.low), int(dimension.high)) if dimension.whole else (dimension.low, dimension.high)
    designs = ({**params, dimension.key: value} for value in (params.get(dimension.key, values[0]), *values))
    first, *others = (overrides(dimensions, design) for design in designs)
    return any(identity(words) != identity(first) for words in others if words != first)


def _read(word: str, stages: Callable[[], int]) -> tuple[Override, list[Dimension]]:
    """The word as Hydra reads it, and the dimensions that it makes: none for a single value."""
    key, _, value = word.partition("=")
    function = re.fullmatch(r"\s*(log|interval|int|each)\s*\((.*)\)\s*", value, re.DOTALL)
    if function and (function[1] != "int" or "," in function[2]):
        override = _parsed(word, f"{key}=choice({function[2]})")
        texts = _texts(word, override)
        if function[1] != "each":
            return override, [_numbers(word, override.get_key_element(), function[1], texts)]
        if override.key_or_group != STAGES:
            raise InputError(f"{word}: each(...) is for {STAGES} alone; write {key}={function[2]}")
        values = _several(word, texts)
        return override, [Dimension(f"{STAGES}.{stage}", values) for stage in range(1, stages() + 1)]
    override = _parsed(word, word)
    if not override.is_sweep_override():
        return override, []
    if getattr(override.value(), "shuffle", False):
        raise InputError(f"{word}: the order of the values has no meaning here; leave out shuffle")
    if not override.is_discrete_sweep():
        raise InputError(f"{word}: write interval(low,high) by itself")
    return override, [Dimension(override.get_key_element(), _several(word, _texts(word, override)))]


def _parsed(word: str, readable: str) -> Override:
    loader = GlobalHydra.instance().config_loader() if GlobalHydra.instance().is_initialized() else None
    try:
        return parse_overrides([readable], loader)[0]
    except InputError as error:
        raise InputError(str(error).replace(readable, word)) from None


def _texts(word: str, override: Override) -> list[str]:
    try:
        return list(override.sweep_string_iterator())
    except Exception as error:  # such as a range whose step is 0
        raise InputError(f"{word}: {error}") from None


def _several(word: str, values: Sequence[str]) -> tuple[str, ...]:
    if len(values) < 2:
        raise InputError(f"{word}: nothing to choose from: needs two values or more")
    if twice := [value for value in values if values.count(value) > 1]:
        raise InputError(f"{word}: {twice[0]} is listed twice")
    return tuple(values)


def _numbers(word: str, key: str, function: str, texts: Sequence[str]) -> Dimension:
    form = f"{function}(low,high)" + (" or int(low,high,log)" if function == "int" else "")
    ends = texts[:2] if function == "int" and texts[2:] == ["log"] else texts
    try:
        low, high = map(float, ends)
    except ValueError:
        raise InputError(f"{word}: must be {form} with two numbers") from None
    log, whole = function == "log" or len(ends) < len(texts), function == "int"
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{word}: must be {form} with low below high")
    if whole and not (low.is_integer() and high.is_integer()):
        raise InputError(f"{word}: int needs whole numbers; for others, interval(low,high)")
    if log and low <= 0:
        raise InputError(f"{word}: the logarithm needs numbers above 0")
    return Dimension(key, (), low, high, log, whole)


def is_shared(dimension: Dimension) -> bool:
    """Whether the network without attention has this setting, too, such as optimizer.lr."""
    return not re.match(r"(attention|sites|placements)\b|optimizer\.attention_lr_scale$", _name(dimension.key))


def _controls(name: str) -> str:
    """Why this setting cannot be a dimension, if it cannot."""
    if name == "seed":
        return "a search trains each design with one seed; confirm=4 trains the best again with four fresh ones"
    if re.match(
        r"trainer\.monitor$|data(\.(seed|folds?|split_column|val|test|folder|root|dataset|table|clutter))?$", name
    ):
        return "changes which images or which metric designs are compared by, so it cannot be searched; fix it"
    if re.match(r"(logger|explain|checkpoint|baseline)\b|tags$|trainer\.(accelerator|devices|num_nodes)$", name):
        return "changes nothing that is learned, so it cannot be searched; fix it"
    if re.match(r"(hydra|sweep|search)\b|(study|output_dir)$", name):
        return "controls the search, so it cannot be searched"
    if re.match(rf"{re.escape(STAGES)}\.\d", name):
        return f"write {STAGES}=each(none,se,eca) for a choice at each stage"
    return ""


def _name(key: str) -> str:
    return key.lstrip("+")


def _place(dimension: Dimension) -> tuple[int, int, str]:
    """Groups, then the attentions at stages and of placements, then what depends on them."""
    name = _name(dimension.key)
    if "." not in name:
        return 0, 0, name
    if dimension.stage or re.fullmatch(r"placements\.\w+\.attention", name):
        return 1, dimension.stage or 0, name
    return 2, 0, name
