"""How good answers are: metrics of logits, and of each class. Imported by whoever measures, as torchmetrics is slow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
    MulticlassStatScores,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class BalancedAccuracy(MulticlassStatScores):
    """The mean recall of the classes that occur (torchmetrics' own counts a class that is only predicted as 0)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none")

    def compute(self) -> Tensor:
        right, _, _, _, occurs = super().compute().unbind(-1)  # (num_classes,) each
        return (right / occurs).nanmean()


def metrics(num_classes: int, prefix: str = "") -> MetricCollection:
    """Loss, top-1 accuracy, macro F1, balanced accuracy and expected calibration error (15 bins)."""
    return MetricCollection(
        {
            "loss": MeanMetric(),
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "f1": MulticlassF1Score(num_classes, average="macro"),
            "balanced_accuracy": BalancedAccuracy(num_classes),
            "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15),
        },
        prefix=prefix,
        compute_groups=False,
    )


def update(collection: MetricCollection, logits: Tensor, labels: Tensor) -> None:
    """Count a batch in: logits (N, classes), labels (N,)."""
    for name, metric in collection.items():
        if name.endswith("loss"):
            metric.update(nn.functional.cross_entropy(logits, labels), weight=len(labels))
        else:
            metric.update(logits, labels)


def per_class(answers: "ArrayLike", classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Precision, recall, F1 and number of images (support) of each class.

    ``answers`` (2, N): labels and predicted classes. None where nothing tells: the recall of a class without images,
    the precision of a class that is never predicted, the F1 of one that is neither.
    """
    labels, predicted = np.asarray(answers)

    def count(which: np.ndarray) -> list[int]:
        return np.bincount(which, minlength=len(classes)).tolist()

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    counts = zip(classes, count(labels[labels == predicted]), count(predicted), count(labels), strict=True)
    return {
        name: {
            "precision": share(right, called),
            "recall": share(right, support),
            "f1": share(2 * right, called + support),
            "support": support,
        }
        for name, right, called, support in counts
    }
