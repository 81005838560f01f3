"""The stages of a config's backbone, for designs that say what each one gets."""

import json
from collections.abc import Mapping
from typing import Any

from attnlab.config.cache import is_ours, recall, remember
from attnlab.errors import InputError

_of_users: dict[str, list[int]] = {}  # of the user's own classes: while this process runs they stay the same


def stages_of(config: Mapping[str, Any], role: str) -> list[int]:
    """The stages in which a checked config's backbone has sites of a role, in order; 0 is what comes before the first.

    Builds the backbone without memory unless the cache knows the answer. Raises InputError if it cannot be built, or
    has no such site.
    """
    groups = ("backbone", "data", "augment")
    key = json.dumps([role, *(config[group] for group in groups)], sort_keys=True)
    ours = all(is_ours(config[group]) for group in groups)
    if ours and (known := recall("stages", key)):
        return json.loads(known)
    if key in _of_users:
        return _of_users[key]
    from attnlab.config.build import build_backbone, build_data
    from attnlab.insertion import find_sites, select_sites

    data = build_data(config)
    net = build_backbone(config, data, meta=True)
    found = sorted({site.stage for site in select_sites(find_sites(net, data.shape), role)})
    if ours:
        remember("stages", key, json.dumps(found))
    else:
        _of_users[key] = found
    return found


def number_of_stages(config: Mapping[str, Any], role: str) -> int:
    """How many attentions ``attention=by_stage`` takes. Raises InputError as ``stages_of``."""
    numbered = [stage for stage in stages_of(config, role) if stage]
    if not numbered:
        raise InputError(f"sites={role}: {config['backbone']['name']} has no such site in a stage")
    return len(numbered)
