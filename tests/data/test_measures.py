"""Metrics of logits and of classes, against scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_recall_fscore_support

from attnlab.data.measures import BalancedAccuracy, metrics, per_class, update


def test_metrics_against_scikit_learn():
    logits, y = torch.randn(200, 10), torch.randint(0, 10, (200,))
    collection = metrics(10, "val/")
    for part in (slice(0, 128), slice(128, 200)):  # unequal batches
        update(collection, logits[part], y[part])
    found = {key: float(value) for key, value in collection.compute().items()}
    predicted, probabilities = logits.argmax(1), logits.softmax(1).max(1).values.numpy()
    right = (predicted == y).numpy()
    bins = np.clip(np.ceil(probabilities * 15).astype(int) - 1, 0, 14)
    error = sum(
        abs(right[bins == b].mean() - probabilities[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())
    )
    assert found["val/accuracy"] == pytest.approx(accuracy_score(y, predicted))
    assert found["val/f1"] == pytest.approx(f1_score(y, predicted, average="macro"))
    assert found["val/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, predicted))
    assert found["val/calibration_error"] == pytest.approx(error, abs=1e-5)
    assert found["val/loss"] == pytest.approx(float(F.cross_entropy(logits, y)))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_leaves_out_absent_classes():
    """Also those that are predicted."""
    y, predicted = torch.tensor([0, 0, 0, 1, 3]), torch.tensor([0, 0, 2, 1, 1])
    metric = BalancedAccuracy(5)
    metric.update(F.one_hot(predicted, 5).float(), y)
    assert float(metric.compute()) == pytest.approx(balanced_accuracy_score(y, predicted))


def test_metrics_of_each_class_are_scikit_learns():
    y, predicted = np.array([0, 0, 0, 1, 1, 4]), np.array([0, 0, 2, 1, 0, 4])
    found = per_class(np.stack([y, predicted]), ["zero", "one", "two", "three", "four"])
    reference = precision_recall_fscore_support(y, predicted, labels=range(5), zero_division=np.nan)
    for key, values in zip(("precision", "recall", "f1", "support"), reference, strict=True):
        mine = [np.nan if about[key] is None else about[key] for about in found.values()]
        np.testing.assert_allclose(mine, values, err_msg=key)
    assert found["three"] == {"precision": None, "recall": None, "f1": None, "support": 0}
