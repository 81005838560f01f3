"""Check each setting of a config's classes against the signature that it will call.

Imports the classes that the config names, and builds nothing.
"""

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from attnlab.attention import register
from attnlab.attention.hybrid import COMMON, name_of, require_identity
from attnlab.config.settings import (
    CROSSED,
    GROUPS,
    NAME,
    OURS,
    Settings,
    checked_own,
    checked_value,
    require_known,
    shown,
)
from attnlab.errors import InputError
from attnlab.ledger import LATER, present_name
from attnlab.targets import PACKAGES, find, home, parameters, require_allowed


def locate(target: str, group: str) -> Any:
    """The class or function that ``_target_`` names, if a config of this group may call it.

    An attention may be given by its registered name; then it is attnlab's, or an installed package's entry point.

    Only names in attnlab, torch, torchvision, timm, lightning and the packages that the user lists in the
    environment variable ATTNLAB_ALLOW, and only classes that fit the group: someone else's config runs no other code.
    """
    if group == "attention" and "." not in target:
        return register.named(target)
    allowed = require_allowed(f"{group}._target_", target)
    found = find(target)
    at_home = home(found, target)
    kind = GROUPS[group]
    base = find(kind.base)
    if inspect.isclass(found):
        fits = issubclass(found, base) and at_home.partition(".")[0] in allowed
    else:
        mine = set(allowed) - set(PACKAGES)
        fits = callable(found) and (at_home.startswith(kind.functions) or at_home.partition(".")[0] in mine)
    if found is None or not fits:
        what = "not found (PYTHONPATH=. looks here)" if found is None else f"no {base.__name__} class"
        raise InputError(f"{group}._target_={target}: {what}; it must be a {kind.base} of an allowed package")
    return found


def call(node: Mapping[str, Any], group: str, **given: Any) -> Any:
    """Call a checked node's target with its settings and what the program gives (what it takes of that).

    A target gets the choice's ``name`` only if it has a parameter of this name.
    """
    target = locate(node["_target_"], group)
    takes, open_ended = parameters(target)
    settings = settings_of_target(node, group)
    for key, value in LATER.get(group, {}).items():  # in the config of an older point, of a target that has no such
        if key not in takes and not open_ended and settings.get(key) == value:
            settings.pop(key, None)
    given = {key: value for key, value in given.items() if key in takes or (open_ended and key != "name")}
    return target(**given, **settings)


def settings_of_target(node: Mapping[str, Any], group: str) -> Settings:
    """Without the choice's name, its target, and what attnlab acts on itself."""
    return {key: value for key, value in node.items() if key not in ("name", "_target_", *OURS.get(group, ()))}


def checked_target(group: str, node: Settings) -> Settings:
    """A group's node in normal form: the settings of its target by the target's signature, defaults filled in."""
    name, target = node.get("name"), node.get("_target_")
    if isinstance(target, str):
        target = present_name(target)
    checked_value(f"{group}.name", name, NAME)
    settings = settings_of_target(node, group)
    ours = {key: checked_own(group, key, node.get(key, LATER[group][key])) for key in OURS.get(group, ())}
    if name == "custom" and target is not None and settings.get("target") == target:  # conf/backbone/custom.yaml
        name = str(settings.pop("target")).rpartition(".")[2]
    if group == "attention":
        for key in CROSSED.keys() & settings.keys():
            checked_value(f"attention.{key}", settings[key], CROSSED[key])
    if target is not None and not isinstance(target, str):
        raise InputError(f"{group}._target_={shown(target)}: must be the dotted path of a class")
    if target is None:
        if group not in ("attention", "scheduler"):
            raise InputError(f"{group}._target_ is missing: it names the class to build")
        for key in settings:
            require_known(group, key, (*CROSSED, "init") if group == "attention" else ())
        return {"name": "none"}

    found = locate(target, group)
    takes, open_ended = parameters(found)
    takes = {key: p for key, p in takes.items() if key not in GROUPS[group].given}
    # Defaults of torch's own stay implicit: a new one in its next release is no new experiment.
    checked: Settings = {
        key: _default(p)
        for key, p in takes.items()
        if p.default is not p.empty and _jsonable(p.default) and not target.startswith("torch.")
    }
    for key, value in settings.items():
        if key in takes:
            checked[key] = checked_value(f"{group}.{key}", value, takes[key].annotation)
        elif group == "attention" and key in CROSSED and (value is None or not open_ended):
            pass  # no effect
        else:
            if not open_ended:
                require_known(group, key, (*takes, *ours))
            checked[key] = value
    for key in OURS.get(group, {}).keys() & takes.keys():
        if ours[key] != LATER[group][key]:
            raise InputError(
                f"{group}.{key}: attnlab uses this setting itself, but {name} has a setting of that name; rename that"
            )
    missing = [key for key, p in takes.items() if p.default is p.empty and key not in checked]
    if missing:
        raise InputError(f"{group}.{missing[0]} is missing: {name} needs it")
    if group == "attention" and "parts" in checked and "parts" in takes:
        checked |= _normal_parts(checked, takes)
    for key in getattr(found, "without_effect", lambda settings: ())({"name": name, **checked}):
        checked.pop(key, None)
    return {"name": name, "_target_": _canonical(target, found) if group == "attention" else target, **checked, **ours}


def _canonical(target: str, found: Any) -> str:
    """One path for what has several: ``attnlab.attention.CBAM`` is ``cbam``, and ``attnlab.attention.cbam.CBAM``."""
    name = getattr(found, "__qualname__", "")
    for path in (f"attnlab.attention.{name}", f"{getattr(found, '__module__', '')}.{name}"):
        if find(path) is found:
            return path
    return target


def _normal_parts(settings: Settings, takes: typing.Iterable[str]) -> Settings:
    """The parts of a hybrid in full, with the settings that were given to all of them."""
    common = {key: settings[key] for key in COMMON if settings.get(key) is not None}
    parts = []
    for part in settings["parts"]:
        name, own = name_of(part), {} if isinstance(part, str) else part
        found = locate(name, "attention")
        given, open_ended = parameters(found)
        if common.get("init") == "identity" and not ("init" in given or open_ended):
            require_identity(name, getattr(found, "starts_as_identity", False))
        shared = {key: value for key, value in common.items() if key in given or open_ended}
        try:
            node = checked_target("attention", {**shared, **own, "name": name, "_target_": name})
        except InputError as error:
            raise InputError(f"attention.parts: {name}: {error}") from None
        parts.append({"name": node.pop("_target_"), **{key: node[key] for key in node if key != "name"}})
    return {"parts": parts, **{key: None for key in COMMON if key in takes}}


def _default(parameter: inspect.Parameter) -> Any:
    """The default as the annotated type (16 for a float is 16.0), or as it is where it is not of that type."""
    try:
        return checked_value(parameter.name, parameter.default, parameter.annotation)
    except InputError:
        return parameter.default


def _jsonable(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, dict))
