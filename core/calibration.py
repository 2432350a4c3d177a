"""How sure a network says that it is, and how often it is then right.

calibrated(logits, temperature)     probabilities
fit_temperature(logits, labels)     the one number that makes them honest
calibration_error(p, labels)        how far from honest they are
reliability(p, labels)              the same, bin by bin
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from core.arrays import CLASSES, as_array, checked_labels


class Bin(NamedTuple):
    """The images whose confidence lies in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float  # mean, 0..1; NaN where there is no image
    accuracy: float  # 0..1; NaN where there is no image


def _logits(logits):
    array = as_array(logits).astype(np.float64)
    if array.ndim != 2 or array.shape[1] != len(CLASSES) or not np.isfinite(array).all():
        raise ValueError(
            f"The logits are {array.shape}; they must be finite numbers, (N, {len(CLASSES)})."
        )
    return array


def calibrated(logits, temperature=1.0):
    """Probabilities (N, 10), float32: the softmax of logits / temperature.

    logits: (N, 10).
    temperature: above 1 makes the network less sure, below 1 surer; the answers stay the same.

    Raises ValueError for other logits, or a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature!r}; it must be above 0.")
    return np.exp(log_softmax(_logits(logits) / temperature, axis=1)).astype(np.float32)


def fit_temperature(logits, labels):
    """The temperature with the smallest mean cross-entropy; between 0.05 and 20.

    C. Guo et al. 2017, "On calibration of modern neural networks" (arXiv:1706.04599): one number
    for the whole network, fitted on images that the network was not trained on. On those that it
    was trained on it is more often right than elsewhere, and would be told to be too sure.

    logits: (N, 10).
    labels: (N,) integers in 0..9.

    Raises ValueError for other logits and labels.
    """
    logits = _logits(logits)
    labels = checked_labels(labels, len(logits))

    def cost(log_temperature):
        logs = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -logs[np.arange(len(labels)), labels].mean()

    return float(np.exp(minimize_scalar(cost, bounds=np.log((0.05, 20)), method="bounded").x))


def reliability(probabilities, labels, bins=15):
    """A list of `Bin`, equally wide, from confidence 0 to 1.

    The confidence of an answer is its probability, the largest of the ten.

    probabilities: (N, 10).
    labels: (N,) integers in 0..9.
    bins: how many.

    Raises ValueError for other probabilities, labels and bins.
    """
    probabilities = as_array(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(CLASSES):
        raise ValueError(f"The probabilities are {probabilities.shape}; they must be (N, 10).")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all():  # NaN is neither
        raise ValueError(
            "The probabilities must lie in 0..1; logits go through `calibrated` first."
        )
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be 1 or more.")
    right = probabilities.argmax(1) == checked_labels(labels, len(probabilities))
    confidence = probabilities.max(1)
    number = np.clip(np.ceil(confidence * bins - 1e-6), 1, bins)  # of its bin: 0.2 ends the third
    found = []
    for one in range(1, bins + 1):
        low, high, inside = (one - 1) / bins, one / bins, number == one
        count = int(inside.sum())
        means = (float(x[inside].mean()) if count else np.nan for x in (confidence, right))
        found.append(Bin(low, high, count, *means))
    return found


def calibration_error(probabilities, labels, bins=15):
    """The expected calibration error: the mean distance of confidence and accuracy, 0..1.

    Over equally wide bins, each weighted with its images (M. Naeini et al. 2015, "Obtaining well
    calibrated probabilities using Bayesian binning", AAAI). 0.05: "90 %" means 85 or 95.

    probabilities, labels, bins: as in `reliability`.
    """
    found = [b for b in reliability(probabilities, labels, bins) if b.count]
    gaps = sum(b.count * abs(b.confidence - b.accuracy) for b in found)
    return gaps / sum(b.count for b in found)
