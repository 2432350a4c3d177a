"""The large design of 07_frontier: depthwise kernels of several sizes."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_weight

from model import (
    NUM_CLASSES,
    FourBlocks,
    GatedNet,
    GlobalAveragePool,
    NearAndFar,
    Residual,
    conv_block,
)

BAND = 3


class Banded(torch.autograd.Function):
    """A depthwise convolution of stride 1, with gradients in the way that is fast on a CPU.

    The same sums. That of the weights, BAND columns at a time: with bfloat16, oneDNN's depthwise
    kernel for it goes up to that width; beyond, it takes one for dense convolutions, many times as
    slow. (In float32 it was not measured.) That of the maps: a convolution, mirrored.
    """

    @staticmethod
    def forward(ctx, x, weight, padding):
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        rows, columns = ctx.padding
        groups, _, height, width = weight.shape
        maps = weights = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.to(gradient.dtype).flip(2, 3)
            margins = height - 1 - rows, width - 1 - columns
            maps = F.conv2d(gradient, mirrored, padding=margins, groups=groups)
        if ctx.needs_input_grad[1]:
            x, bands = F.pad(x.to(gradient.dtype), (columns, columns)), []
            for left in range(0, width, BAND):
                size = groups, 1, height, min(BAND, width - left)
                seen = x[..., left : left + gradient.shape[3] + size[3] - 1]
                bands.append(conv2d_weight(seen, size, gradient, padding=(rows, 0), groups=groups))
            weights = torch.cat(bands, 3).to(weight.dtype)
        return maps, weights, None


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, trained in bands on a CPU (see `Banded`): (N, C, H, W) -> the same.

    For an odd kernel, stride 1, no bias, and a padding, in numbers, that keeps the shape.
    Evaluating, it is torch's own convolution: what is exported, and what analysis watches.
    """

    def forward(self, x):
        return self.undilated(x, self.padding) if self.training else super().forward(x)

    def undilated(self, x, padding):
        if x.device.type == "cpu" and self.kernel_size[1] > BAND:
            return Banded.apply(x, self.weight, padding)
        return F.conv2d(x, self.weight, padding=padding, groups=self.groups)


class PhasedConv2d(DepthwiseConv2d):
    """A dilated depthwise convolution, trained without dilation: (N, C, H, W) -> the same shape.

    A kernel with dilation d never joins two pixels whose rows or columns differ by anything else
    than a multiple of d. So the map falls apart into d·d coarser ones, its phases, and each has an
    undilated convolution with the same weights: the same sums. On a CPU that is several times
    faster, with bfloat16 if it is done in bands as well (tools/bench_blocks.py). TensorFlow
    computes atrous convolutions so, by space_to_batch.

    For a square kernel, and one dilation for both axes.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        d, padding = self.dilation[0], self.padding[0] // self.dilation[0]
        count, _, height, width = x.shape
        x = F.pad(x, (0, -width % d, 0, -height % d)).permute(0, 2, 3, 1)
        x = x.unflatten(2, (-1, d)).unflatten(1, (-1, d))  # (N, H/d, d, W/d, d, C)
        x = x.permute(0, 4, 2, 1, 3, 5)  # (N, d, d, H/d, W/d, C)
        # Those that begin in one column are stacked, `padding` rows apart: of many maps of few
        # pixels the weights' gradient is slow.
        x = F.pad(x, (0, 0, 0, 0, 0, padding)).flatten(2, 3).flatten(0, 1).permute(0, 3, 1, 2)
        x = self.undilated(x, (padding, padding))
        x = x.permute(0, 2, 3, 1).unflatten(0, (count, d)).unflatten(2, (d, -1))
        x = x[:, :, :, : x.shape[3] - padding].permute(0, 3, 2, 4, 1, 5)
        x = x.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return x.permute(0, 3, 1, 2)


class MixedDepthwise(nn.Module):
    """Depthwise convolution with four kinds of kernels, a quarter of the channels each: none, 3x3,
    7x7, and 7x7 with dilation 3.

    The idea is InceptionNeXt's (arXiv:2303.16900); the kernels are those of xvel/cifar10-tiniest,
    which averages 3x3 places before the dilated one.
    """

    def __init__(self, channels):
        super().__init__()
        quarter = channels // 4
        self.small = nn.Conv2d(quarter, quarter, 3, padding=1, groups=quarter, bias=False)
        self.large = DepthwiseConv2d(quarter, quarter, 7, padding=3, groups=quarter, bias=False)
        self.dilated = PhasedConv2d(
            quarter, quarter, 7, padding=9, dilation=3, groups=quarter, bias=False
        )

    def forward(self, x):
        kept, small, large, dilated = x.chunk(4, 1)
        return torch.cat([kept, self.small(small), self.large(large), self.dilated(dilated)], 1)


def mixed_block(channels, inner):
    """Depthwise, normalisation, then two 1x1 convolutions with a ReLU between: (N, channels, H, W),
    residual.

    channels: a multiple of 4. inner: those between the two 1x1 convolutions.
    """
    mix = [
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, channels, 1, bias=False),
    ]
    return Residual(MixedDepthwise(channels), nn.BatchNorm2d(channels), *mix)


class Mixed(FourBlocks):
    """Large depthwise kernels at 32x32 and 16x16: 197,046 parameters.

    For a GPU: an epoch takes minutes on a CPU.
    """

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


def gated_large():
    """`gated`, with these kernels instead of near and far: 192,540 parameters; for a GPU."""
    network = GatedNet()
    for block in [m for m in network.modules() if isinstance(m, Residual)]:
        if isinstance(block[0], NearAndFar):
            channels = block[0].norm.num_features
            block[0] = nn.Sequential(MixedDepthwise(channels), nn.BatchNorm2d(channels))
        else:  # the dilated one at the end, which is slower to train than all its neighbours
            channels, weight = block[0].in_channels, block[0].weight
            block[0] = PhasedConv2d(
                channels, channels, 3, padding=2, dilation=2, groups=channels, bias=False
            )
            block[0].weight = weight
    return network
