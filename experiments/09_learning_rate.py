"""A short sprint at wrong learning rates: the runs behind 09_learning_rate.ipynb.

`python -m experiments.sweep experiments/09_learning_rate.py`

Four epochs of the sprint's recipe. Both peaks, Muon's and SGD's, are multiplied by one factor;
judged on held-out images.
"""

from core.recipes import RECIPES
from experiments.sweep import Comparison, Run

FACTORS = {
    "right": ("the sprint's rates", 1),
    "tenfold": ("ten times both rates", 10),
    "tenth": ("a tenth of both rates", 0.1),
}


def line(name):
    description, factor = FACTORS[name]
    recipe = RECIPES["sprint"]
    change = dict(epochs=4, lr=recipe.lr * factor, muon_lr=recipe.muon_lr * factor)
    return Run(name, "sprint", 3, change=change, validate=True, description=description)


RUNS = [line(name) for name in FACTORS]

COMPARISONS = [
    Comparison("wrong learning rates, four epochs", "right", ("tenfold", "tenth")),
]
