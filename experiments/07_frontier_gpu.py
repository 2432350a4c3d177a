"""Recipes for `gated`, on a GPU: `python -m experiments.sweep experiments/07_frontier_gpu.py`.

There an epoch of it takes seconds, on a CPU minutes. What has 28 in its name trains on 45,000
images and is judged on the other 5,000; what is longer trains on all and is judged by the test
images at its last epoch. Nothing was chosen by comparing those; but that `rectified-65` fitted its
training images better than the test images led to more varied ones. Runs that are cut off go on
from their last epoch. The sweep may be started several times at once, each takes the next run:
networks as small as these keep no GPU busy alone.

The long run of `gated` itself has the recipe of `python train.py --model gated`, which does not
compile and is slower; the network of its records was compiled. So were those here, on a GPU;
`large-28`, `large-94` and what is trained after them replay a recording of their kernels, too. The
last epochs of `taught-94` and `large-94` were computed on a processor, as they are.
"""

import torch
from torch import nn
from torch.utils._triton import has_triton

from experiments import designs, mixed
from experiments.sweep import Run
from experiments.teaching import Taught
from model import MODELS, GatedNet


def compiled(network):
    """`network`, compiled in place where there is a GPU that Triton knows: names and weights stay.

    Its kernels are so short that starting them takes longer: a recording of them is replayed.
    """
    if torch.cuda.is_available() and has_triton():
        network.compile(dynamic=False, mode="reduce-overhead")
    return network


def gated():
    return compiled(MODELS["gated"]())


def rectified():
    return compiled(GatedNet(squash=nn.ReLU))


def large():
    return compiled(mixed.gated_large())


def flat():
    return compiled(designs.flat())


def short(name, build, description, **change):
    """28 epochs as `hybrid` had them in experiments/07_designs.py: rates, shifts, mixed images."""
    base = dict(epochs=28, ema=0.99, lr=0.4, muon_lr=0.07, mixup=0.3, augment="flip_shift")
    return Run(name, "gated", 1, base | change, build, True, description)


FIRST = dict(epochs=65, lr=0.05, mixup=0.3, augment="flip_shift")
TEACHERS = [f"gated-gated-seed{seed}" for seed in range(3)]
RUNS = [
    short("rectified-28", rectified, "gated blocks from 32x32 on"),
    short("flat-28", flat, "gated blocks of 88 channels at 16x16"),
    short("gated-28", gated, "the gate a sigmoid instead of a ReLU"),
    short("gated-28-decay", gated, "the same, weight decay of 0.02 in Muon", muon_decay=0.02),
    short("large-28", large, "depthwise kernels of 3x3, 7x7 and dilated 7x7"),
    Run(
        "rectified-65",
        "gated",
        3,
        FIRST,
        rectified,
        description="gated blocks from 32x32 on, all training images",
    ),
    Run(
        "large-94",
        "gated",
        3,
        {},
        large,
        description="depthwise kernels of 3x3, 7x7 and dilated 7x7, all training images",
    ),
    Run(
        "taught-94",
        "gated",
        3,
        dict(seed=3),
        gated,
        description="taught by three networks of the same recipe",
        variants={"train_epoch": Taught(TEACHERS, compiled)},
    ),
]
