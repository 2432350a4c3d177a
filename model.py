"""Small convolutional networks for CIFAR-10.

Eight networks answer one assignment: 85 % on CIFAR-10 with fewer than 200,000 parameters, four
convolution blocks C1 C2 C3 C4 and an output, no max pooling, at least one depthwise-separable and
one dilated convolution, global average pooling and a receptive field of more than 44 pixels. Not
all of them keep every rule; `analysis.check_assignment` says which do.

MODELS, name -> class: net, frontier and gated are ours; strided, wide, dilated, compact and
stacked are published student answers. All take normalised images (N, 3, 32, 32), float, and return
logits (N, 10). This file imports nothing of the others.
"""

import torch.nn.functional as F
from torch import nn

NUM_CLASSES = 10


def conv_block(
    inputs, outputs, kernel=3, stride=1, padding=None, dilation=1, groups=1, bias=False, dropout=0.0
):
    """Convolution, batch normalisation, ReLU, dropout: (N, inputs, H, W) -> (N, outputs, H', W').

    padding: in pixels; None keeps the size at stride 1, of an odd kernel.
    bias: of the convolution. Batch normalisation has one of its own, so it is not needed.
    dropout: the probability of each value to be zeroed; 0 leaves the layer out.
    """
    padding = dilation * (kernel - 1) // 2 if padding is None else padding
    block = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*block, *([nn.Dropout(dropout)] if dropout else []))


def separable_block(
    inputs, outputs, kernel=3, stride=1, padding=None, bias=False, dropout=0.0, pointwise_stride=1
):
    """Depthwise-separable convolution, then batch normalisation, ReLU and dropout.

    MobileNet, Howard et al. 2017, arXiv:1704.04861. (N, inputs, H, W) -> (N, outputs, H', W').

    The depthwise convolution filters every channel on its own (groups = channels); the 1x1
    pointwise convolution mixes them. kernel²·inputs + inputs·outputs weights instead of
    kernel²·inputs·outputs. The published networks put neither normalisation nor ReLU between the
    two, and neither do we.

    kernel, stride, padding: of the depthwise convolution; padding None: as in `conv_block`.
    pointwise_stride: of the 1x1 convolution.
    bias, dropout: as in `conv_block`.
    """
    padding = (kernel - 1) // 2 if padding is None else padding
    block = [
        nn.Conv2d(inputs, inputs, kernel, stride, padding, groups=inputs, bias=bias),  # depthwise
        nn.Conv2d(inputs, outputs, 1, pointwise_stride, bias=bias),  # pointwise
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*block, *([nn.Dropout(dropout)] if dropout else []))


class Residual(nn.Sequential):
    """x + layers(x), where the layers keep the shape (N, C, H, W).

    He et al. 2015, arXiv:1512.03385.
    """

    def forward(self, x):
        return x + super().forward(x)


def residuals(channels, count):
    """`count` residual 3x3 convolutions."""
    return [Residual(conv_block(channels, channels)) for _ in range(count)]


class NearAndFar(nn.Module):
    """Two depthwise 3x3 convolutions, added: (N, C, H, W) -> the same, normalised.

    One sees the map, the other the map at half the side, and so twice as far
    (experiments/07_frontier.ipynb has the price beside larger and dilated kernels).
    """

    def __init__(self, channels):
        super().__init__()
        self.near, self.far = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            for _ in range(2)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        far = self.far(F.avg_pool2d(x, 2))
        return self.norm(self.near(x) + F.interpolate(far, size=x.shape[2:]))


class Gate(nn.Module):
    """A 1x1 convolution times another one, squashed: (N, C, H, W) -> the same.

    Dauphin et al. 2016 (arXiv:1612.08083); as two layers, since halves of one map are slower.
    """

    def __init__(self, channels, squash=nn.ReLU):
        super().__init__()
        self.value = conv_block(channels, channels, 1)[:2]  # without the ReLU
        self.gate = nn.Sequential(*conv_block(channels, channels, 1)[:2], squash())

    def forward(self, x):
        return self.value(x) * self.gate(x)


def gated(channels, count, squash=nn.ReLU):
    """`count` residual blocks: near and far, gated (`squash` ends the gate), mixed by a 1x1 one."""
    blocks = []
    for _ in range(count):
        layers = NearAndFar(channels), Gate(channels, squash)
        blocks.append(Residual(*layers, nn.Conv2d(channels, channels, 1, bias=False)))
    return blocks


class GlobalAveragePool(nn.Module):
    """Mean over all positions: (N, C, H, W) -> (N, C, 1, 1).

    nn.AdaptiveAvgPool2d(1) computes the same, but hands back its gradient in NCHW order; where all
    else is channels-last, the ReLU before it then reads two orders (experiments/06_sprint.ipynb:
    a second a sprint, within the noise).
    """

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)[:, :, None, None]


class FourBlocks(nn.Module):
    """The common plan C1 C2 C3 C4 O: subclasses set `c1`..`c4`, `pool` and `output`."""

    def features(self, x):
        """The map before global pooling: (N, 3, 32, 32) -> (N, C, H, W)."""
        return self.c4(self.c3(self.c2(self.c1(x))))

    def forward(self, x):
        return self.output(self.pool(self.features(x)))  # (N, C, 1, 1) -> (N, 10)


class Net(FourBlocks):
    """`net`, ours: 145,866 parameters, receptive field 52, made to learn fast on a CPU.

    The first convolution halves the map at once, since maps of 32x32 cost most; in C1 to C3 what
    keeps its shape is residual; the dilated and the depthwise-separable convolution work at 8x8,
    where a weight is cheap and sees far.
    """

    def __init__(self):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 32, kernel=4, stride=2), Residual(conv_block(32, 32))
        )  # 16x16
        self.c2 = nn.Sequential(conv_block(32, 64, stride=2), Residual(conv_block(64, 64)))  # 8x8
        self.c3 = nn.Sequential(
            Residual(conv_block(64, 64, dilation=2)), Residual(separable_block(64, 64))
        )
        self.c4 = conv_block(64, 64)
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(64, NUM_CLASSES))


class FrontierNet(FourBlocks):
    """`frontier`, ours: 172,634 parameters, receptive field 65, made to be accurate.

    The plan of He et al. 2015 (arXiv:1512.03385) for CIFAR-10, with 16 channels at 32x32, twice as
    many at half the side; chosen on held-out images (experiments/07_frontier.ipynb).

    widths, depths: channels, and residual convolutions, at 32x32, 16x16 and 8x8, where a dilated
        and a depthwise-separable one follow.
    """

    def __init__(self, widths=(16, 32, 64), depths=(2, 3, 2)):
        super().__init__()
        a, b, c = widths
        self.c1 = nn.Sequential(conv_block(3, a), *residuals(a, depths[0]))  # 32x32
        self.c2 = nn.Sequential(conv_block(a, b, stride=2), *residuals(b, depths[1]))  # 16x16
        self.c3 = nn.Sequential(conv_block(b, c, stride=2), *residuals(c, depths[2]))  # 8x8
        self.c4 = nn.Sequential(
            Residual(conv_block(c, c, dilation=2)), Residual(separable_block(c, c))
        )
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(c, NUM_CLASSES))


class GatedNet(FourBlocks):
    """`gated`, ours: 188,130 parameters, receptive field 50, the most accurate one; for a GPU.

    The plan of xvel/cifar10-tiniest, wider: gated blocks at 32x32, then at 16x16; its far view is
    another one (see `NearAndFar`), and a convolution both dilated and depthwise-separable follows.

    squash: of the gates. With a ReLU the training broke down (experiments/07_frontier.ipynb).
    """

    def __init__(self, a=64, b=104, squash=nn.Sigmoid):
        super().__init__()
        dilated = nn.Conv2d(b, b, 3, padding=2, dilation=2, groups=b, bias=False)
        last = [Residual(dilated, conv_block(b, b, 1)), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        halved = [nn.BatchNorm2d(a), nn.Conv2d(a, b, 2, 2, bias=False)]  # 16x16
        self.c1 = nn.Sequential(conv_block(3, a), *gated(a, 1, squash))  # 32x32
        self.c2 = nn.Sequential(*gated(a, 2, squash))
        self.c3 = nn.Sequential(*halved, *gated(b, 1, squash))
        self.c4 = nn.Sequential(*gated(b, 2, squash), *last)
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(b, NUM_CLASSES))


class StridedNet(FourBlocks):
    """`strided`: 154,544 parameters, receptive field 37.

    Strides shrink the map, late layers are depthwise-separable.

    `padding` is the depthwise convolutions': 8x8 -> 8 -> 8 -> 4. The source's text writes 0
    (8x8 -> 6 -> 4 -> 1), which is less accurate (experiments/11_five_networks.py).
    """

    def __init__(self, padding=1, dropout=0.05):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 16, dropout=dropout),  # 32x32
            conv_block(16, 32, stride=2, dropout=dropout),  # 16x16
        )
        self.c2 = nn.Sequential(
            conv_block(32, 64, dropout=dropout),
            conv_block(64, 64, kernel=1, dropout=dropout),
            conv_block(64, 64, kernel=1),
        )
        self.c3 = nn.Sequential(
            conv_block(64, 96, stride=2, dropout=dropout),  # 8x8
            separable_block(96, 128, padding=padding, dropout=dropout),
            separable_block(128, 128, padding=padding, dropout=dropout),
        )
        self.c4 = nn.Sequential(
            separable_block(128, 128, stride=2, padding=padding, dropout=dropout),
            conv_block(128, 128, kernel=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Sequential(nn.Conv2d(128, NUM_CLASSES, 1, bias=False), nn.Flatten())


class WideNet(FourBlocks):
    """`wide`: 2,034,040 parameters, receptive field 33; its "depthwise" layer has 3 groups."""

    def __init__(self, dropout=0.01):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 32),  # 32x32
            conv_block(32, 30, padding=0),  # 30x30
            conv_block(30, 30, groups=3, bias=True),
            conv_block(30, 32, kernel=1, bias=True),
        )
        self.c2 = nn.Sequential(
            conv_block(32, 64, dilation=2, padding=1),  # 28x28
            conv_block(64, 64, dilation=2, padding=1),  # 26x26
            conv_block(64, 64, dilation=2, padding=1),  # 24x24
        )
        self.c3 = nn.Sequential(conv_block(64, 128), conv_block(128, 128), conv_block(128, 128))
        self.c4 = nn.Sequential(conv_block(128, 128), conv_block(128, 256), conv_block(256, 128))
        self.pool = nn.AvgPool2d(3)  # 24x24 -> 8x8: not global
        self.output = nn.Sequential(
            nn.Flatten(),  # (N, 8192)
            nn.Dropout(dropout),
            nn.Linear(128 * 8 * 8, 100),
            nn.Linear(100, NUM_CLASSES),
        )


class DilatedNet(FourBlocks):
    """`dilated`: 195,946 parameters, receptive field 45; padded in C4 alone; pointwise strides."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 32, padding=0), conv_block(32, 32, padding=0)
        )  # 28x28
        self.c2 = nn.Sequential(
            conv_block(32, 64, padding=0),  # 26x26
            separable_block(64, 64, padding=0, pointwise_stride=2),  # 24x24 -> 12x12
        )
        self.c3 = nn.Sequential(
            conv_block(64, 128, padding=0),  # 10x10
            separable_block(128, 128, padding=0, pointwise_stride=2),  # 8x8 -> 4x4
        )
        self.c4 = nn.Sequential(
            conv_block(128, 64, kernel=2, padding=3),  # 9x9
            conv_block(64, 64, dilation=3, bias=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, NUM_CLASSES))


class CompactNet(FourBlocks):
    """`compact`: 150,738 parameters, receptive field 55; strided dense and separable layers."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Sequential(conv_block(3, 16), separable_block(16, 24, bias=True))  # 32x32
        # 16x16
        self.c2 = nn.Sequential(conv_block(24, 32, stride=2), separable_block(32, 48, bias=True))
        self.c3 = nn.Sequential(
            conv_block(48, 64, stride=2), conv_block(64, 64, dilation=2, bias=True)
        )  # 8x8
        self.c4 = nn.Sequential(
            conv_block(64, 96, stride=2),  # 4x4
            separable_block(96, 128, bias=True),
            conv_block(128, 48, kernel=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(48, NUM_CLASSES))


class StackedNet(FourBlocks):
    """`stacked`: 118,546 parameters, receptive field 49; no stride, global *max* pooling."""

    def __init__(self, dropout=0.1):
        super().__init__()
        for number in (1, 2, 3, 4):
            inputs = 3 if number == 1 else 64
            block = nn.Sequential(
                # The two that are dilated lose 2 pixels each.
                conv_block(inputs, 24, dilation=2, padding=1, dropout=dropout),
                conv_block(24, 48, dilation=2, padding=1, dropout=dropout),
                separable_block(48, 64, dropout=dropout),
                separable_block(64, 64),
            )
            self.add_module(f"c{number}", block)
        self.pool = nn.AdaptiveMaxPool2d(1)  # 16x16 -> 1x1
        self.output = nn.Sequential(nn.Conv2d(64, NUM_CLASSES, 1), nn.Flatten())


MODELS = {
    "net": Net,
    "frontier": FrontierNet,
    "gated": GatedNet,
    "strided": StridedNet,
    "wide": WideNet,
    "dilated": DilatedNet,
    "compact": CompactNet,
    "stacked": StackedNet,
}


def count_parameters(model):
    """All parameters, frozen ones included, shared ones once (torchsummary counts them twice)."""
    return sum(p.numel() for p in model.parameters())
