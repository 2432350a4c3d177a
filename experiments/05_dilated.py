"""Ways to see far: the runs behind 05_dilated.ipynb.

`python -m experiments.sweep experiments/05_dilated.py`

All networks have the same layers with the same weights' shapes; they differ in dilation, or in how
the map gets smaller on the way to the last layers. The sprint's recipe for all; judged on held-out
images.
"""

from torch import nn

from experiments.sweep import Comparison, Run
from model import NUM_CLASSES, FourBlocks, GlobalAveragePool, Residual, conv_block


class Dilated(FourBlocks):
    """`net` with three dense residual convolutions at 8x8, dilated by `dilations`."""

    def __init__(self, *dilations):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 32, kernel=4, stride=2, padding=1), Residual(conv_block(32, 32))
        )  # 16x16
        self.c2 = nn.Sequential(conv_block(32, 64, stride=2), Residual(conv_block(64, 64)))  # 8x8
        self.c3 = nn.Sequential(*(Residual(conv_block(64, 64, dilation=d)) for d in dilations[:2]))
        self.c4 = Residual(conv_block(64, 64, dilation=dilations[2]))
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(64, NUM_CLASSES))


class Reach(Dilated):
    """The same layers without the second stride: C2 sees farther by "average" pooling, by
    "dilation", or by "nothing"; with the last two the map stays at 16x16.
    """

    def __init__(self, way):
        d = 2 if way == "dilation" else 1
        super().__init__(d, d, d)
        shrink = [nn.AvgPool2d(2)] if way == "average" else []
        self.c2 = nn.Sequential(
            conv_block(32, 64), *shrink, Residual(conv_block(64, 64, dilation=d))
        )


def line(name, description, network, *plan, seeds=3, **change):
    def build():
        return network(*plan)

    build.__name__ = name
    return Run(
        name, "sprint", seeds, change=change, model=build, validate=True, description=description
    )


RUNS = [
    line("dilation-1", "no dilation at 8x8", Dilated, 1, 1, 1, seeds=5),
    line("dilation-2", "dilation 2 at 8x8", Dilated, 2, 2, 2),
    line("dilation-3", "dilation 3 at 8x8", Dilated, 3, 3, 3),
    line("dilation-123", "dilations 1, 2, 3 at 8x8", Dilated, 1, 2, 3),
    line("average", "average pooling instead of the second stride", Reach, "average"),
    line(
        "dilated-map",
        "dilation 2 instead of the second stride, 16x16 to the end",
        Reach,
        "dilation",
    ),
    line("plain-map", "no second stride, 16x16 to the end", Reach, "nothing"),
    line("dilation-1-20epochs", "no dilation at 8x8, 20 epochs", Dilated, 1, 1, 1, epochs=20),
    line("dilation-2-20epochs", "dilation 2 at 8x8, 20 epochs", Dilated, 2, 2, 2, epochs=20),
]

COMPARISONS = [
    Comparison(
        "other ways to see far, against two strides and no dilation",
        "dilation-1",
        ("dilation-2", "dilation-3", "dilation-123", "average", "dilated-map", "plain-map"),
    ),
    Comparison("on the larger map, against no dilation", "plain-map", ("dilated-map",)),
    Comparison("no dilation in 20 epochs", "dilation-1-20epochs", ("dilation-2-20epochs",)),
]
