"""Designs for the long run of 07_frontier: under 200,000 parameters, by the assignment's rules.

Those for a CPU begin with a 4x4 convolution of stride 2, since maps of 32x32 cost most. What then
is computed at 16x16 and at 8x8 differs: dense 3x3 convolutions, or gated blocks of depthwise ones.
`model.GatedNet` has maps of 32x32: with a GPU these can be paid for.
"""

from torch import nn

from model import (
    NUM_CLASSES,
    FourBlocks,
    GlobalAveragePool,
    Residual,
    conv_block,
    gated,
    residuals,
    separable_block,
)


def last(channels):
    """The separable convolution that the assignment wants, and the end of the residual path."""
    norm = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return [Residual(separable_block(channels, channels)), *norm]


class Design(FourBlocks):
    """Four lists of layers, and how many channels the last one has."""

    def __init__(self, c1, c2, c3, c4, channels):
        super().__init__()
        self.c1, self.c2 = nn.Sequential(*c1), nn.Sequential(*c2)
        self.c3, self.c4 = nn.Sequential(*c3), nn.Sequential(*c4)
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(channels, NUM_CLASSES))


def stem(channels):
    """(N, 3, 32, 32) -> (N, channels, 16, 16)."""
    return conv_block(3, channels, kernel=4, stride=2)


def dilated(channels):
    return Residual(conv_block(channels, channels, dilation=2))


def dense():
    """Residual 3x3 convolutions of 48 channels at 16x16, of 64 at 8x8: 192,938 parameters."""
    return Design(
        [stem(48), *residuals(48, 1)],
        [*residuals(48, 1), dilated(48), *residuals(48, 1)],
        [conv_block(48, 64, stride=2), *residuals(64, 1)],
        [dilated(64), Residual(separable_block(64, 64))],
        64,
    )


def hybrid():
    """Residual 3x3 convolutions of 48 channels at 16x16, gated blocks of 96 at 8x8."""
    return Design(
        [stem(48), *residuals(48, 1)],
        [*residuals(48, 1), dilated(48)],
        [conv_block(48, 96, kernel=2, stride=2, padding=0), *gated(96, 1)],
        [*gated(96, 2), *last(96)],
        96,
    )


def pyramid():
    """Gated blocks, of 64 channels at 16x16, of 112 at 8x8."""
    return Design(
        [stem(32), conv_block(32, 64, dilation=2), *gated(64, 1)],
        gated(64, 2),
        [nn.BatchNorm2d(64), nn.Conv2d(64, 112, 2, 2, bias=False), *gated(112, 1)],
        [*gated(112, 1), *last(112)],
        112,
    )


def flat(squash=nn.ReLU):
    """Gated blocks of 88 channels, all of them at 16x16; `squash`: of their gates."""
    return Design(
        [stem(32), conv_block(32, 88, dilation=2), *gated(88, 1, squash)],
        gated(88, 2, squash),
        gated(88, 2, squash),
        [*gated(88, 1, squash), *last(88)],
        88,
    )
