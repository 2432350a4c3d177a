"""Dense against depthwise-separable convolutions: the runs behind 04_depthwise.ipynb.

`python -m experiments.sweep experiments/04_depthwise.py`

One plan, `net`'s, with every 3x3 convolution after the first of one kind. The sprint's recipe for
all; judged on held-out images. A line without records in results/ has not been run yet.
"""

from torch import nn

from experiments.sweep import Comparison, Run
from model import NUM_CLASSES, FourBlocks, GlobalAveragePool, Residual, conv_block, separable_block


class Plan(FourBlocks):
    """`net`'s plan with `block` for every convolution but the first, `width` channels at 16x16 and
    twice as many at 8x8.
    """

    def __init__(self, block, width, kernel=3):
        super().__init__()
        first, wide = conv_block(3, width, kernel=4, stride=2, padding=1), 2 * width
        self.c1 = nn.Sequential(first, Residual(block(width, width, kernel)))  # 16x16
        self.c2 = nn.Sequential(
            block(width, wide, kernel, stride=2), Residual(block(wide, wide, kernel))
        )  # 8x8
        self.c3 = nn.Sequential(
            Residual(block(wide, wide, kernel)), Residual(block(wide, wide, kernel))
        )
        self.c4 = block(wide, wide, kernel)
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(wide, NUM_CLASSES))


DENSE, SEPARABLE = 32, 92  # widths with the same number of parameters, within 1 %
# The width at which the dense network has the parameters of the separable one with DENSE channels,
# within 2 %.
NARROW = 12


def line(name, description, *plan, seeds=3, **change):
    def build():
        return Plan(*plan)

    build.__name__ = name
    return Run(
        name, "sprint", seeds, change=change, model=build, validate=True, description=description
    )


RUNS = [
    line("dense", "dense 3x3", conv_block, DENSE),
    line("separable", "separable 3x3, equal width", separable_block, DENSE),
    line("dense-narrow", "dense 3x3, the separable one's parameters", conv_block, NARROW, seeds=5),
    line("separable-wide", "separable 3x3, equal parameters", separable_block, SEPARABLE),
    line("separable-5", "separable 5x5, equal width", separable_block, DENSE, 5),
    line("separable-7", "separable 7x7, equal width", separable_block, DENSE, 7),
    line("dense-20epochs", "dense 3x3, 20 epochs", conv_block, DENSE, epochs=20),
    line(
        "separable-wide-20epochs",
        "separable 3x3, equal parameters, 20 epochs",
        separable_block,
        SEPARABLE,
        epochs=20,
    ),
]

COMPARISONS = [
    Comparison(
        "depthwise-separable against dense 3x3 convolutions",
        "dense",
        ("separable", "separable-wide", "separable-5", "separable-7"),
    ),
    Comparison(
        "larger depthwise kernels, at equal width", "separable", ("separable-5", "separable-7")
    ),
    Comparison(
        "against the dense ones in twice the epochs, about half of the time",
        "dense-20epochs",
        ("separable-wide",),
    ),
    Comparison("both in 20 epochs", "dense-20epochs", ("separable-wide-20epochs",)),
]
