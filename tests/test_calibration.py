"""Confidence against how often it is right, on cases that are counted by hand."""

import sys

import numpy as np
import pytest
import torch

from core.augment import AUGMENTATIONS
from core.calibration import calibrated, calibration_error, fit_temperature, reliability
from core.common import TrainingError
from tools import calibrate


def sure(confidence, count):
    """`count` answers "class 0" with this probability, the rest spread over the others."""
    rows = np.full((count, 10), (1 - confidence) / 9)
    rows[:, 0] = confidence
    return rows


def labels(right, count):
    return np.where(np.arange(count) < right, 0, 5)


def test_by_hand():
    """100 answers of 95 %, 80 of them right, and 50 of 55 %, 30 of them right."""
    probabilities = np.concatenate([sure(0.95, 100), sure(0.55, 50)])
    truth = np.concatenate([labels(80, 100), labels(30, 50)])
    assert calibration_error(probabilities, truth) == pytest.approx((100 * 0.15 + 50 * 0.05) / 150)
    found = [b for b in reliability(probabilities, truth) if b.count]
    assert [(b.count, b.confidence, b.accuracy) for b in found] == [
        (50, pytest.approx(0.55), pytest.approx(0.6)),
        (100, pytest.approx(0.95), pytest.approx(0.8)),
    ]


def test_every_answer_is_in_one_bin():
    """Those on an edge, too, and a confidence of 1."""
    probabilities = np.concatenate([sure(c, 10) for c in (1.0, 0.5, 0.2, 0.1)])
    for bins in (1, 2, 5, 10):
        found = reliability(probabilities, labels(20, 40), bins)
        assert sum(b.count for b in found) == 40
        assert len(found) == bins


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_put_on_is_found(factor):
    """Labels are drawn by the softmax of logits: then these are honest, and factor times as large
    ones are too sure by just that factor.
    """
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (20_000, 10))
    chance = calibrated(logits).astype(np.float64).cumsum(1)
    truth = (generator.random((20_000, 1)) > chance).sum(1).clip(0, 9)
    found = fit_temperature(factor * logits, truth)
    assert found == pytest.approx(factor, rel=0.05)
    assert calibration_error(calibrated(factor * logits, found), truth) < 0.015
    if factor != 1:
        assert calibration_error(calibrated(factor * logits), truth) > 0.04


def test_a_temperature_changes_no_answer():
    logits = np.random.default_rng(1).normal(0, 3, (500, 10))
    for temperature in (0.1, 1, 10):
        probabilities = calibrated(logits, temperature)
        assert (probabilities.argmax(1) == logits.argmax(1)).all()
        assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_no_temperature(temperature):
    with pytest.raises(ValueError, match="must be above 0"):
        calibrated(np.zeros((2, 10)), temperature)


@pytest.mark.parametrize("logits", [np.zeros((3, 9)), np.zeros(10), np.full((3, 10), np.nan)])
def test_no_logits(logits):
    with pytest.raises(ValueError, match=r"finite numbers, \(N, 10\)"):
        fit_temperature(logits, np.zeros(3))


def test_other_labels_are_refused():
    with pytest.raises(ValueError, match="3 images"):
        fit_temperature(np.zeros((3, 10)), np.zeros(2))
    with pytest.raises(ValueError, match="3 images"):
        calibration_error(np.full((3, 10), 0.1), np.zeros(2))


def test_an_answer_on_an_edge_counts_once():
    """500 answers of 60 %, 300 of them right, 500 of 95 %, all wrong; 0.6 is an edge of 15 bins."""
    probabilities = np.concatenate([sure(0.6, 500), sure(0.95, 500)])
    truth = np.concatenate([labels(300, 500), labels(0, 500)])
    assert calibration_error(probabilities, truth) == pytest.approx((500 * 0 + 500 * 0.95) / 1000)


@pytest.mark.parametrize("bad", [np.full((4, 10), np.nan), np.full((4, 10), 3.0), -sure(0.5, 4)])
def test_what_are_no_probabilities(bad):
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
        calibration_error(bad, labels(2, 4))
    with pytest.raises(ValueError, match="bins is 0"):
        calibration_error(sure(0.5, 4), labels(2, 4), bins=0)


def test_logits_may_be_a_tensor_as_classify_returns_it():
    logits = torch.randn(5, 10, requires_grad=True)
    expected = calibrated(logits.detach().numpy())
    assert np.array_equal(calibrated(logits), expected)
    assert calibration_error(expected, torch.arange(5)) == calibration_error(expected, range(5))


def test_an_apps_temperature_is_fitted_on_every_other_image(small, monkeypatch):
    """And judged on those between, which here are calibrated as they are."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 10, generator=generator)
    truth = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    logits[::2] *= 2
    monkeypatch.setattr(calibrate.train, "classify", lambda *_: (logits, truth))
    found = calibrate.calibration("net-sprint-seed0", small)
    assert found["temperature"] == pytest.approx(2, abs=0.05)
    assert found["calibration_error_before"] < 0.02
    assert found["calibration_error_after"] > 0.1
    wrong = found["mistakes"]["cat"]
    assert (truth[wrong] == 3).all()
    assert (logits[wrong].argmax(1) != 3).all()


def test_one_bad_file_keeps_no_other_network_from_its_calibration(monkeypatch, small, capsys):
    def calibration(name, data):
        if name == "bad":
            raise TrainingError("bad holds no weights")
        return {"temperature": 1, "calibration_error_before": 0, "calibration_error_after": 0}

    written = []
    monkeypatch.setattr(calibrate, "load_cifar10", lambda: small)
    monkeypatch.setattr(calibrate, "calibration", calibration)
    monkeypatch.setattr(calibrate, "write_json", lambda path, found: written.append(path.stem))
    monkeypatch.setattr(sys, "argv", ["calibrate", "bad", "good"])
    with pytest.raises(SystemExit, match="1"):
        calibrate.main()
    assert capsys.readouterr().err == "calibrate: bad: bad holds no weights\n"
    assert written == ["good"]


def test_a_recipe_that_only_a_table_has_is_one_sentence(monkeypatch, small, capsys):
    """Its augmentation is the table's."""
    monkeypatch.setattr(calibrate, "load_cifar10", lambda: small)
    monkeypatch.setattr(sys, "argv", ["calibrate", "03_augmentation/net-ssr-30-seed0"])
    # Whoever has read the table in this process knows it.
    monkeypatch.delitem(AUGMENTATIONS, "shift-scale-rotate", raising=False)
    with pytest.raises(SystemExit, match="1"):
        calibrate.main()
    assert "calibrate: 03_augmentation/net-ssr-30-seed0: Unknown" in capsys.readouterr().err
