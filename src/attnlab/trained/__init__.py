"""A finished point as a thing to use: its network, its classes, how its images become tensors, and its facts.

Needs neither Hydra nor Lightning. May import all floors below ``training``, which it does not know.
"""

from attnlab.trained.ensemble import Ensemble
from attnlab.trained.loading import load
from attnlab.trained.model import Trained

__all__ = ["Ensemble", "Trained", "load"]
