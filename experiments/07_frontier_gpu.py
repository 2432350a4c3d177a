"""A design that begins at 32x32: `python -m experiments.sweep experiments/07_frontier_gpu.py`.

For a GPU: there an epoch takes seconds, on a CPU minutes. Runs that are cut off go on from their
last epoch. Several processes may be started at once, each takes the next run: a network as small
as these keeps no GPU busy alone.
"""

import torch

from experiments import designs
from experiments.sweep import Run

# 250 images: so many go into 45,000 and into 50,000 without a rest, and nothing is compiled twice.
LONG = dict(batch_size=250, mixup=0.3, label_smoothing=0)


def compiled(build):
    """What `build` builds, compiled in place where there is a GPU: names and weights stay."""
    network = build()
    if torch.cuda.is_available():
        network.compile(dynamic=False)
    return network


def gated():
    return compiled(designs.early)


def flat():
    return compiled(designs.flat)


def short(build, description):
    """As many epochs as the best design for a CPU had in experiments/07_designs.py."""
    change = LONG | dict(epochs=28, ema=0.99)
    name = f"{build.__name__}-28"
    return Run(name, "frontier", 1, change, build, validate=True, description=description)


RUNS = [
    Run(
        "gated-130",
        "frontier",
        3,
        LONG | dict(epochs=130, ema=0.999),
        gated,
        description="gated blocks from 32x32 on, all training images",
    ),
    short(gated, "gated blocks from 32x32 on"),
    short(flat, "gated blocks of 88 channels at 16x16"),
]
