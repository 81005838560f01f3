"""Attention in any ``nn.Module``: find sites, attach modules there, and count what they cost.

Plain PyTorch. May import ``attention``, ``backbones`` and the ground.
"""

from attnlab.insertion.attaching import attach
from attnlab.insertion.attended import (
    Attended,
    attached,
    detach,
    names_of,
    places_with_attention,
    split_parameters,
    without_attention,
)
from attnlab.insertion.checking import check
from attnlab.insertion.costs import Cost, cost, count, count_by_site
from attnlab.insertion.drawing import draw
from attnlab.insertion.heads import head_of
from attnlab.insertion.latency import Latency, time_forward, time_together
from attnlab.insertion.placements import Placement
from attnlab.insertion.published import Loaded, load_published
from attnlab.insertion.recording import Seen, gates_of, record
from attnlab.insertion.sites import Site, find_sites, select_sites
from attnlab.insertion.tracing import in_mode, trace

__all__ = [
    "Attended",
    "Cost",
    "Latency",
    "Loaded",
    "Placement",
    "Seen",
    "Site",
    "attach",
    "attached",
    "check",
    "cost",
    "count",
    "count_by_site",
    "detach",
    "draw",
    "find_sites",
    "gates_of",
    "head_of",
    "in_mode",
    "load_published",
    "names_of",
    "places_with_attention",
    "record",
    "select_sites",
    "split_parameters",
    "time_forward",
    "time_together",
    "trace",
    "without_attention",
]
