"""Recipes for `gated`, on a GPU: `python -m experiments.sweep experiments/07_frontier_gpu.py`.

There an epoch of it takes seconds, on a CPU minutes. Every run trains on 45,000 images and is
judged on the other 5,000; runs that are cut off go on from their last epoch. The sweep may be
started several times at once, each takes the next run: networks as small as these keep no GPU busy
alone.
"""

import torch

from experiments import designs
from experiments.sweep import Run
from model import MODELS


def compiled(build):
    """What `build` builds, compiled in place where there is a GPU: names and weights stay."""
    network = build()
    if torch.cuda.is_available():
        network.compile(dynamic=False)
    return network


def gated():
    return compiled(MODELS["gated"])


def flat():
    return compiled(designs.flat)


def short(build, description):
    """28 epochs at the rates of experiments/07_designs.py, as `hybrid` had them there."""
    change = dict(epochs=28, ema=0.99, lr=0.4, muon_lr=0.07)
    return Run(f"{build.__name__}-28", "gated", 1, change, build, True, description)


def long(name, description, **change):
    """The recipe of `python train.py --model gated`, changed; its records were compiled, too."""
    return Run(f"gated-65{name}", "gated", 3, change, gated, True, description)


RUNS = [
    short(gated, "gated blocks from 32x32 on"),
    short(flat, "gated blocks of 88 channels at 16x16"),
    long("", "65 epochs, rates an eighth and two thirds of those"),
    long("-mixup-half", "the same, mixed with up to a half of another image", mixup=0.5),
    long("-turn-colour", "the same, turned and recoloured", augment="flip_shift_turn_colour"),
    long("-decay", "the same with weight decay in Muon", muon_decay=0.02),
]
