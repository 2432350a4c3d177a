"""The way to `frontier`: designs under 200,000 parameters, compared. `python train.py --sweep experiments/06_frontier.py`

Every run trains on 45,000 images and is judged on the other 5,000. All designs keep the assignment's rules (model.check_assignment). What
is asked of each: how accurate is it after about the same time, and what does an epoch cost?
"""

import torch
from torch import nn

from model import (
    MODELS,
    NUM_CLASSES,
    FourBlocks,
    GlobalAveragePool,
    Residual,
    conv_block,
    separable_block,
)
from train import Run


class Residuals(FourBlocks):
    """Dense residual convolutions: `widths` channels at 32x32, 16x16 and 8x8, `depths` residual convolutions each; at 8x8 one more
    that is dilated and one that is depthwise-separable.
    """

    def __init__(self, widths, depths):
        super().__init__()
        a, b, c = widths
        self.c1 = nn.Sequential(
            conv_block(3, a), *(Residual(conv_block(a, a)) for _ in range(depths[0]))
        )
        self.c2 = nn.Sequential(
            conv_block(a, b, stride=2), *(Residual(conv_block(b, b)) for _ in range(depths[1]))
        )
        self.c3 = nn.Sequential(
            conv_block(b, c, stride=2), *(Residual(conv_block(c, c)) for _ in range(depths[2]))
        )
        self.c4 = nn.Sequential(
            Residual(conv_block(c, c, dilation=2)), Residual(separable_block(c, c))
        )
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(c, NUM_CLASSES))


class MixedDepthwise(nn.Module):
    """Depthwise convolution with four kinds of kernels, a quarter of the channels each: none, 3x3, 7x7, and 7x7 with dilation 3.

    The idea is InceptionNeXt's (arXiv:2303.16900); the kernels are those of xvel/cifar10-tiniest.
    """

    def __init__(self, channels):
        super().__init__()
        quarter = channels // 4
        self.small = nn.Conv2d(quarter, quarter, 3, padding=1, groups=quarter, bias=False)
        self.large = nn.Conv2d(quarter, quarter, 7, padding=3, groups=quarter, bias=False)
        self.dilated = nn.Conv2d(
            quarter, quarter, 7, padding=9, dilation=3, groups=quarter, bias=False
        )

    def forward(self, x):
        kept, small, large, dilated = x.chunk(4, 1)
        return torch.cat([kept, self.small(small), self.large(large), self.dilated(dilated)], 1)


def mixed_block(channels, inner):
    """Depthwise, normalisation, then two 1x1 convolutions with a ReLU between: (N, channels, H, W), residual."""
    mix = [
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, channels, 1, bias=False),
    ]
    return Residual(MixedDepthwise(channels), nn.BatchNorm2d(channels), *mix)


class Mixed(FourBlocks):
    """Large depthwise kernels at 32x32 and 16x16: 197,046 parameters. For a GPU: an epoch takes minutes on a CPU."""

    def __init__(self, widths=(64, 112), depths=(3, 3), expansion=1.5):
        super().__init__()
        a, b = widths
        first, second = (
            [mixed_block(width, int(expansion * width)) for _ in range(depth)]
            for width, depth in zip(widths, depths, strict=True)
        )
        self.c1 = nn.Sequential(conv_block(3, a), *first[:1])
        self.c2 = nn.Sequential(*first[1:])
        self.c3 = nn.Sequential(conv_block(a, b, kernel=2, stride=2, padding=0), *second[:1])
        self.c4 = nn.Sequential(*second[1:], nn.BatchNorm2d(b), nn.ReLU(inplace=True))
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(b, NUM_CLASSES))


def widened():
    """`net` with four more residual convolutions at 16x16: 182,986 parameters."""
    network = MODELS["net"]()
    for _ in range(4):
        network.c1.append(Residual(conv_block(32, 32)))
    return network


def design(name, epochs, what, build, **change):
    """A design with as many epochs as one core of a CPU does in 12 to 15 minutes."""

    def make():
        return build()

    make.__name__ = name
    return Run(
        name,
        "standard",
        1,
        change=LONG | dict(epochs=epochs, **change),
        model=make,
        validate=True,
        what=what,
    )


LONG = dict(augment="flip_shift", engine="device")
RUNS = [
    design(
        "16-32-64",
        19,
        "16, 32, 64 channels at 32x32, 16x16, 8x8",
        lambda: Residuals((16, 32, 64), (2, 3, 2)),
    ),
    design(
        "16-32-64-cutout",
        19,
        "the same with cutout",
        lambda: Residuals((16, 32, 64), (2, 3, 2)),
        augment="flip_shift_cutout",
    ),
    design(
        "16-32-64-decay",
        19,
        "the same with weight decay in Muon",
        lambda: Residuals((16, 32, 64), (2, 3, 2)),
        muon_decay=0.02,
    ),
    design("net-deeper", 28, "net with four more residual convolutions at 16x16", widened),
    design(
        "24-40-56",
        17,
        "24, 40, 56 channels, one residual convolution at 32x32",
        lambda: Residuals((24, 40, 56), (1, 3, 2)),
    ),
    design("net", 48, "net", MODELS["net"]),
    design("mixed", 2, "depthwise kernels of 3 and 7, dilated 7, at 32x32 and 16x16", Mixed),
]
