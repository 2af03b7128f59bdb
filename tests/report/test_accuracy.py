"""Accuracies, errors and agreement of outputs that are known."""

import numpy as np
import pytest

from tfmix.errors import TfmixError
from tfmix.fakequant.data import Samples
from tfmix.report.accuracy import score_outputs

X = np.zeros((4, 2))
CLASSES = np.array([[9, 0, 1], [0, 9, 1], [0, 1, 9], [9, 0, 1]], np.float32)


@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 1], [[0], [1], [2], [1]], np.eye(3)[[0, 1, 2, 1]]], ids=str
)
def test_accuracy(labels):
    scores = score_outputs({"float": CLASSES}, Samples(X, np.array(labels)))
    assert (scores.measure, scores.samples, scores.values) == ("accuracy", 4, {"float": 0.75})


def test_numbers_have_a_squared_error():
    y = np.array([1.0, 2.0, 3.0, 4.5])
    scores = score_outputs({"float": y[:, None] + 0.5, "integer": y[:, None]}, Samples(X, y))
    assert scores.measure == "mean_squared_error"
    assert scores.values == {"float": 0.25, "integer": 0.0}


def test_without_labels_networks_agree_or_not():
    scores = score_outputs({"float": CLASSES, "integer": CLASSES[::-1]}, Samples(X))
    assert (scores.measure, scores.values) == ("agreement", {"float": 1.0, "integer": 0.5})


def test_labels_that_do_not_fit():
    with pytest.raises(TfmixError, match="labels are 0 to 3; the network has 3 classes"):
        score_outputs({"float": CLASSES}, Samples(X, np.array([0, 1, 2, 3])))
    with pytest.raises(TfmixError, match=r"labels of shape \(4, 2\); the outputs'"):
        score_outputs({"float": CLASSES}, Samples(X, np.full((4, 2), 0.3)))
