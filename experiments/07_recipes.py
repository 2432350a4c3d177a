"""Which recipe for the long run? `hybrid` and `flat` of experiments/07_designs.py, changed.

`python -m experiments.sweep experiments/07_recipes.py`

The bases are that table's runs of them. Every run trains on 45,000 images and is judged on the
other 5,000.
"""

from torch import nn

from experiments import designs
from experiments.sweep import Run

BASE = dict(epochs=28, mixup=0.3, ema=0.99, label_smoothing=0)


def line(name, description, model=designs.hybrid, **change):
    return Run(
        name,
        "frontier",
        1,
        change=BASE | change,
        model=model,
        validate=True,
        description=description,
    )


def squashed():
    """`flat`, a sigmoid in its gates instead of a ReLU."""
    return designs.flat(nn.Sigmoid)


STRONG = dict(mixup=0.5, augment="flip_shift_turn_colour")
LONG = dict(epochs=80, ema=0.999)

RUNS = [
    line("mixup-half", "mixed with up to a half of another image", mixup=0.5),
    line(
        "strong-80", "80 epochs; up to a half mixed, turned, recoloured; ema 0.999", **STRONG | LONG
    ),
    line("base-80", "80 epochs; ema 0.999", **LONG),
    line("strong", "up to a half mixed, turned by up to 15° and zoomed, recoloured", **STRONG),
    line("no-mixup", "no mixed images", mixup=0),
    line("decay", "weight decay of 0.02 in Muon", muon_decay=0.02),
    line("flat-squashed", "`flat` in 9 epochs, a sigmoid in its gates", squashed, epochs=9),
]
