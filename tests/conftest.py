import sys
from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dataset


class Tiny(nn.Module):
    """A learner's network: no BatchNorm, functional style."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.fixture(scope="session")
def cifar():
    return dataset.load_cifar10(progress=False)


@pytest.fixture
def small(cifar):
    """The first 600 training and 300 test images."""
    return dataset.Cifar10(
        cifar.train_images[:600],
        cifar.train_labels[:600],
        cifar.test_images[:300],
        cifar.test_labels[:300],
    )
