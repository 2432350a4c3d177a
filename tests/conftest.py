"""What tests share: a small synthetic data set, the real one, a learner's network, made-up records.

pytest -m "not real"    leaves out what needs CIFAR-10 itself
pytest -m "not slow"    leaves out what takes more than ten seconds
"""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dataset
from core.recipes import Recipe

# A shell lets what it starts in the background ignore Ctrl-C, and that passes on to all that the
# tests start; some of them press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["no_proxy"] = "127.0.0.1,localhost"  # the tests' own servers

QUICK = Recipe(epochs=2, batch_size=64, lr=0.05, augment="flip_shift", engine="device")


class Tiny(nn.Module):
    """A learner's network: no BatchNorm, functional style."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


# How a table of runs in a test begins.
TABLE_HEAD = """
import torch
from experiments.sweep import Run

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 10)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))
"""


def ours(pattern):
    """The files of the course that match; none of those that a learner has put beside them."""
    return [path for path in sorted(ROOT.glob(pattern)) if path not in others()]


@functools.cache
def others():
    command = ["git", "ls-files", "--others", "--exclude-standard", "-z"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    found = {ROOT / name for name in found.split("\0")}
    return set() if ROOT / "model.py" in found else found  # then all of it is in no repository


@pytest.fixture
def no_own_records():
    """Skips where somebody has added runs: README and pictures are of those that are committed."""
    for path in others():
        if path.is_relative_to(ROOT / "results"):
            pytest.skip(f"{path} is not committed: `make readme`, then commit both")


def pytest_collection_modifyitems(items):
    for item in items:
        if "cifar" in getattr(item, "fixturenames", ()):  # a notebook's cells have none
            item.add_marker(pytest.mark.real)


@pytest.fixture
def no_windows(monkeypatch):
    """Pictures are drawn and never shown."""
    matplotlib.use("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def cifar():
    """CIFAR-10 itself."""
    return dataset.load_cifar10(progress=False)


@pytest.fixture(scope="session")
def small():
    """600 training and 300 test images of ten classes: a coarse pattern each, under noise."""
    generator = np.random.default_rng(0)
    patterns = generator.uniform(0, 255, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)

    def images(count):
        labels = generator.permutation(np.arange(count) % 10).astype(np.uint8)
        noise = generator.uniform(0, 255, (count, 32, 32, 3))
        return (0.3 * patterns[labels] + 0.7 * noise).astype(np.uint8), labels

    return dataset.Cifar10(*images(600), *images(300))


def record(accuracies, seconds=1.0, part="test", **more):
    """A made-up record with these accuracies after each epoch, `seconds` an epoch."""
    history = [
        {
            "train_loss": 1.0,
            "train_accuracy": 0.5,
            f"{part}_loss": 1.1,
            f"{part}_accuracy": accuracy,
            "seconds": seconds,
        }
        for accuracy in accuracies
    ]
    return {
        "model": "net",
        "parameters": 1234,
        "recipe": {"epochs": len(accuracies)},
        "seed": 0,
        "device": "cpu: X, AVX2, 2 threads",
        "precision": "float32",
        "seconds": seconds * len(accuracies),
        f"{part}_accuracy": accuracies[-1],
        f"{part}_accuracy_flip": accuracies[-1] + 0.01,
        "history": history,
    } | more


def runs(*accuracies, seconds=2.0, **more):
    """Made-up validation records, one for each seed."""
    return [
        record([0.5, accuracy], seconds / 2, "val", seed=seed, **more)
        for seed, accuracy in enumerate(accuracies)
    ]
