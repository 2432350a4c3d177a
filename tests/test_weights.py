"""The weights that were handed over have the accuracy of their records."""

import math

import pytest
from conftest import ROOT

import train as t
from core.checkpoint import read_tensors
from core.records import part_of, read_record
from dataset import held_out
from experiments import mixed

FILES = sorted((ROOT / "weights").glob("*-seed0.pt"))
FILES += sorted((ROOT / "weights").glob("gated-gated-seed[12].pt"))  # the other teachers
WEIGHTS = [path.name for path in FILES if "-val-" not in path.name]  # those never saw the tests


def test_weights_are_there():
    assert "net-sprint-seed0.pt" in WEIGHTS


IMAGES = {
    "wide-wide-seed0.pt": 1000,
    "stacked-stacked-seed0.pt": 2000,
    **{f"gated-gated-seed{seed}.pt": 2000 for seed in range(3)},
}  # large: a minute or more for all of them


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_the_accuracy_of_their_record(name, cifar):
    """On all test images; on the first ones where that takes long, within three standard errors."""
    network, record = t.load_weights(ROOT / "weights" / name)
    count = IMAGES.get(name, 10_000)
    found = t.evaluate(
        network, cifar.test_images[:count], cifar.test_labels[:count], record["recipe"]["augment"]
    )
    accuracy = record["test_accuracy"]
    error = (
        3 * math.sqrt(accuracy * (1 - accuracy) / count) if name in IMAGES else 0.002
    )  # another precision rounds otherwise
    assert found.accuracy == pytest.approx(accuracy, abs=error)
    assert t.count_parameters(network) == record["parameters"]


LARGE = sorted(path.stem for path in (ROOT / "weights" / "07_frontier_gpu").glob("large-*.pt"))


@pytest.mark.parametrize("name", LARGE)
def test_larger_kernels_have_the_accuracy_of_their_record(name, cifar):
    """On 2,000 of the images that judged them, within three standard errors."""
    network = mixed.gated_large()
    saved = read_tensors(ROOT / "weights" / "07_frontier_gpu" / f"{name}.pt")
    network.load_state_dict(saved["state"])
    record = read_record(ROOT / "results" / "07_frontier_gpu" / f"{name}.json")
    part = part_of(record)
    _, _, images, labels = held_out(cifar) if part == "val" else cifar
    found = t.evaluate(network, images[:2000], labels[:2000], record["recipe"]["augment"])
    accuracy = record[f"{part}_accuracy"]
    error = 3 * math.sqrt(accuracy * (1 - accuracy) / 2000)
    assert found.accuracy == pytest.approx(accuracy, abs=error)
