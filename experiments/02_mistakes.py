"""Common mistakes, each trained as it is made: the runs behind 02_mistakes.ipynb.

`python -m experiments.sweep experiments/02_mistakes.py`

The sprint's budget (`net`, 10 epochs, batch 512) on whole images with albumentations; 45,000
images, judged on the other 5,000. Mistakes that need no training (augmented test images, unweighted
averages, ...) are made in the notebook, on trained networks.
"""

import albumentations as A
from torch import nn

from core.augment import (
    MEAN,
    STANDARD,
    Augmentation,
    cutout,
    flip,
    reseed,
    shift_scale_rotate,
    to_bytes,
)
from core.optim import make_schedule
from dataset import AlbumentationsBatches
from experiments.sweep import Comparison, Run
from model import Net

HALF = (0.5, 0.5, 0.5)


def zoomed():
    """What `scale_limit=(0.9, 1.1)` asks of ShiftScaleRotate: 1 is added, so the images are
    magnified 1.9 to 2.1 times.
    """
    return A.Affine(
        translate_percent=(-0.0625, 0.0625),
        scale=(1.9, 2.1),
        rotate=(-15, 15),
        keep_ratio=True,
        fill=to_bytes(MEAN),
        p=0.5,
    )


def ignored():
    """What `CoarseDropout(max_holes=1, max_height=16, max_width=16, ...)` does in albumentations
    2.x: a warning, then its defaults.
    """
    return A.CoarseDropout(p=0.5)


def black():
    """`fill=(0.49, 0.48, 0.45)` on an image of 0..255: black."""
    return cutout(0.5, fill=tuple(value / 255 for value in MEAN))


AUGMENTATIONS = {
    "mistakes: defaults": Augmentation((flip, lambda: shift_scale_rotate(0.5), ignored)),
    "mistakes: black": Augmentation((flip, lambda: shift_scale_rotate(0.5), black)),
    "mistakes: zoomed": Augmentation((flip, zoomed, lambda: cutout(0.5))),
    "mistakes: half": Augmentation(STANDARD, mean=HALF, std=HALF),
}


class Replayed(AlbumentationsBatches):
    """Workers that are not seeded: each, in every epoch, draws the same random stream."""

    seed_worker = None


def make_replayed(images, labels, batch_size, augment, engine, seed, device):
    """dataset.make_batches, with Replayed."""
    batches = Replayed(images, labels, batch_size, augment, seed, device, workers=None)
    reseed(batches.data.compose, seed)  # the recorded runs had another stream, which is lost
    return batches


class PerEpoch:
    """A schedule made for every step of a training, stepped once an epoch."""

    def __init__(self, schedule, steps_per_epoch):
        self.schedule, self.steps_per_epoch, self.calls = schedule, steps_per_epoch, 0

    def step(self):
        self.calls += 1
        if self.calls % self.steps_per_epoch == 0:
            self.schedule.step()

    def __getattr__(self, name):
        return getattr(self.schedule, name)


def stepped_per_epoch(optimizer, recipe, steps_per_epoch):
    """train.make_schedule, then the mistake."""
    return PerEpoch(make_schedule(optimizer, recipe, steps_per_epoch), steps_per_epoch)


def log_softmax():
    """`net` with the log-softmax that nn.CrossEntropyLoss computes once more."""
    network = Net()
    network.output.append(nn.LogSoftmax(1))
    return network


WHOLE = dict(augment="standard", engine="albumentations", views=())
ONECYCLE = dict(optimizer="sgd", lr=0.5, schedule="onecycle", warmup=0.3)


def line(name, description, change=None, seeds=3, **details):
    return Run(
        name,
        "sprint",
        seeds,
        change=WHOLE | (change or {}),
        validate=True,
        description=description,
        **details,
    )


RUNS = [
    line("right", "nothing", seeds=5),
    line(
        "ignored-arguments",
        "CoarseDropout with 1.x argument names: ignored, default holes",
        dict(augment="mistakes: defaults"),
    ),
    line(
        "black-hole",
        "hole filled with 0.49 instead of 0.49 x 255: black",
        dict(augment="mistakes: black"),
    ),
    line(
        "zoomed",
        "scale_limit=(0.9, 1.1): magnified 1.9 to 2.1 times",
        dict(augment="mistakes: zoomed"),
    ),
    line("half", "normalised with mean 0.5 and std 0.5", dict(augment="mistakes: half"), seeds=5),
    line(
        "replayed",
        "workers that replay one random stream",
        variants=dict(make_batches=make_replayed),
    ),
    line("log-softmax", "log-softmax before the cross-entropy", model=log_softmax),
    line("onecycle", "SGD with OneCycleLR, stepped each batch", ONECYCLE),
    line(
        "onecycle-per-epoch",
        "SGD with OneCycleLR, stepped each epoch",
        ONECYCLE,
        variants=dict(make_schedule=stepped_per_epoch),
    ),
]

COMPARISONS = [
    Comparison(
        "common mistakes, against the same training without them",
        "right",
        ("ignored-arguments", "black-hole", "zoomed", "half", "replayed", "log-softmax"),
    ),
    Comparison(
        "one more, against the schedule as it is meant", "onecycle", ("onecycle-per-epoch",)
    ),
]
