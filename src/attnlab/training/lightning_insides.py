"""Private parts of Lightning and torchmetrics that attnlab uses, all in one place.

Tested: Lightning 2.6.0 and 2.6.6, torchmetrics 1.8.0 and 1.9.0. If one of these is gone, a point fails in its first
step (AttributeError), or, for ``mark_updated``, a resumed point warns about a metric that was not updated.
"""

from typing import Any

from torchmetrics import Metric


def mid_accumulation(trainer: Any) -> bool:
    """Whether the gradients of this batch wait for those of later ones (``accumulate_grad_batches``)."""
    return trainer.fit_loop._should_accumulate()


def mark_updated(metric: Metric) -> None:
    """Mark a metric whose state was restored as one that has seen batches."""
    metric._update_count = 1
