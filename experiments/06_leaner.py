"""The leaner sprint, one change at a time: less arithmetic to the same 85 %.

`python -m experiments.sweep experiments/06_leaner.py`

As in 06_sprint.py every run is judged on the 5,000 images held out. Their records are not mixed
with those: they were measured on another machine of that kind, with another release of torch.
"""

import torch
import torch.nn.functional as F
from torch import nn

from core.device import autocast
from dataset import DeviceBatches, View
from experiments.sweep import Comparison, Run
from model import Net
from train import train_epoch

# ------------------------------------------------------------------- backward for hard images alone

HARD = 0.5  # this share of the images is kept,
BEGINS = 3  # from this epoch on, counted from 0,
SIDE = 20  # judged at this size, in pixels


class Chosen(DeviceBatches):
    """Batches of the images in `chosen`, (N,) bool: all of them at first."""

    chosen = None

    def order(self, generator):
        everything = super().order(generator)
        return everything if self.chosen is None else everything[self.chosen[everything]]

    def __len__(self):
        count = len(self.labels) if self.chosen is None else int(self.chosen.sum())
        return -(-count // self.batch_size)


def make_chosen(images, labels, batch_size, augment, engine, seed, device):
    """dataset.make_batches, with Chosen."""
    return Chosen(images, labels, batch_size, augment, True, seed, device)


def hard_epoch(model, batches, optimizer, schedule, scaler, recipe, precision, progress):
    """train.train_epoch on the hardest images alone, once the first epochs are over.

    After Jiang et al. 2019, "Accelerating deep learning by focusing on the biggest losers",
    arXiv:1910.00762, who draw, so that easy images still come. The look at all images is a forward
    pass at SIDE pixels: cheap, and fresh.
    """
    steps_of_all = -(-len(batches.labels) // batches.batch_size)
    if batches.epoch >= BEGINS:
        hardness = losses_of(model, batches, recipe, precision)
        hardest = hardness.argsort(descending=True)[: int(HARD * len(hardness))]
        batches.chosen = torch.zeros(len(hardness), dtype=torch.bool)
        batches.chosen[hardest] = True
    steps = Stretched(schedule, steps_of_all, len(batches))
    return train_epoch(model, batches, optimizer, steps, scaler, recipe, precision, progress)


class Stretched:
    """A schedule made for `planned` steps an epoch, run through in the `taken` ones."""

    def __init__(self, schedule, planned, taken):
        self.schedule, self.planned, self.taken = schedule, planned, taken
        self.count = 0

    def step(self):
        before, self.count = self.count, self.count + 1
        due = self.count * self.planned // self.taken - before * self.planned // self.taken
        for _ in range(due):
            self.schedule.step()


@torch.no_grad()
def losses_of(model, batches, recipe, precision):
    """The loss of every training image, plain and shrunk to SIDE pixels: (N,)."""
    arrays = batches.images.cpu().numpy(), batches.labels.cpu().numpy()
    plain = DeviceBatches(*arrays, 1000, recipe.augment, False, 0, batches.images.device)
    plain.view = View(SIDE, 0, SIDE)
    model.eval()
    losses = []
    for images, labels in plain:
        with autocast(images.device, precision):
            logits = model(images)
        losses.append(F.cross_entropy(logits.float(), labels, reduction="none"))
    return torch.cat(losses).cpu()


# -------------------------------------------------------------------------------------- the network


def gelu():
    """`net` with GELU instead of ReLU. Hendrycks and Gimpel 2016, arXiv:1606.08415."""
    network = Net()
    for block in network.modules():
        if isinstance(block, nn.Sequential) and isinstance(block[-1], nn.ReLU):
            block[-1] = nn.GELU()
    return network


# ---------------------------------------------------------------------------------------- the table


def validated(name, description, seeds=3, **details):
    return Run(name, "lean", seeds, description=description, validate=True, **details)


CUT = ((0, 32, 0, 20), (0.33, 32, 0, 24), (0.55, 32, 0, 28))
FOUR_LARGE = ((0, 20, 2, 20), (0.25, 24, 2, 24), (0.5, 32, 0, 28))
RUNS = [
    validated("lean", "nothing"),
    validated(
        "8-epochs",
        "8 epochs: two instead of three at 20 pixels",
        change=dict(epochs=8, views=FOUR_LARGE),
    ),
    validated("crops", "crops of 20, 24, 28 pixels, nothing shrunk", change=dict(views=CUT)),
    validated(
        "sprints-rates",
        "the sprint's batches and rates: 512, lr 0.6, Muon 0.1",
        change=dict(batch_size=512, lr=0.6, muon_lr=0.1),
    ),
    validated("gelu", "GELU instead of ReLU", model=gelu),
    validated(
        "hard-10-epochs",
        "from the 4th of 10 epochs on only the harder half of the images",
        seeds=2,
        change=dict(epochs=10),
        variants=dict(make_batches=make_chosen, train_epoch=hard_epoch),
    ),
]

COMPARISONS = [
    Comparison(
        "what the leaner sprint's parts are worth",
        "lean",
        tuple(run.name for run in RUNS if run.name != "lean"),
    )
]
