"""The test metrics that a report can be about."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A metric as result.json has it, and how it is written: ``84.3`` %, or ``0.512``."""

    name: str
    words: str
    lower: bool = False  # is better
    scale: float = 100  # of what is shown
    digits: int = 1
    unit: str = "%"
    difference: str = "percentage points"
    gain: str = "points"  # what a headline calls a difference

    @property
    def head(self) -> str:
        """Of a table's column: ``accuracy %``"""
        return f"{self.words} {self.unit}".strip()

    @property
    def suffix(self) -> str:
        """Of the names of a report's files: ``report-f1.md``"""
        return "" if self.name == "accuracy" else f"-{self.name}"

    @property
    def label(self) -> str:
        """Of an axis: ``accuracy, %``"""
        return f"{self.words}, {self.unit}" if self.unit else self.words

    @property
    def sign(self) -> int:
        """A better value times this is a higher one."""
        return -1 if self.lower else 1

    def text(self, value: float | None, half_width: float | None = None, sign: str = "") -> str:
        """``84.3 ± 1.2``, in percent or percentage points; nothing for None."""
        if value is None:
            return ""
        mean = f"{round(self.scale * value, self.digits) + 0.0:{sign}.{self.digits}f}"  # no -0.0
        return mean if half_width is None else f"{mean} ± {self.scale * half_width:.{self.digits}f}"


ACCURACY = Metric("accuracy", "accuracy")
METRICS = {
    metric.name: metric
    for metric in (
        ACCURACY,
        Metric("f1", "macro F1", gain="points in macro F1"),
        Metric("balanced_accuracy", "balanced accuracy", gain="points in balanced accuracy"),
        Metric("loss", "loss", lower=True, scale=1, digits=3, unit="", difference="nats", gain="nats"),
        Metric("calibration_error", "calibration error", lower=True, gain="points in calibration error"),
    )
}


def metric_of(told: Mapping[str, Any]) -> Metric:
    """What the results of a study, see ``analysis``, are about."""
    return Metric(**told["metric"])
