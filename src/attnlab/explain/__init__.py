"""What a network looks at: gates, class activation maps, scores against known places, pictures and a page.

It takes any network and images, and knows nothing of points. May import ``data``, ``insertion``, ``attention`` and the
ground; ``study`` for the looks of its page.
"""

from attnlab.explain.cams import METHODS, cam, default_layer
from attnlab.explain.maps import channel_gates, gate_maps

__all__ = ["METHODS", "cam", "channel_gates", "default_layer", "gate_maps"]
