"""What a block costs to train on this machine: milliseconds forward and backward for 256 images.

    python -m tools.bench_blocks

One thread, in the precision that the processor multiplies fastest, channels-last. Writes
results/bench/blocks.json, which keeps one measurement for each kind of processor.
"""

import statistics
import sys
import time

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from analysis import count_macs
from core.common import (
    ROOT,
    Parser,
    TrainingError,
    check_writable,
    read_json,
    stoppable,
    write_json,
)
from core.device import autocast, describe_device, keep_freed_memory, pick_precision
from core.records import markdown
from experiments.designs import dilated
from experiments.mixed import DepthwiseConv2d, PhasedConv2d, mixed_block
from model import Gate, NearAndFar, Residual, conv_block, count_parameters, gated

IMAGES = 256
RESULT = ROOT / "results" / "bench" / "blocks.json"


def convolution(kernel, dilation=1, depthwise=False, kind=nn.Conv2d):
    """A layer that keeps the shape, as a function of its channels."""
    padding = dilation * (kernel - 1) // 2

    def build(channels):
        groups = channels if depthwise else 1
        options = dict(padding=padding, dilation=dilation, groups=groups, bias=False)
        return kind(channels, channels, kernel, **options)

    return build


def conv_mixer(channels):
    """A block of ConvMixer (Trockman & Kolter 2022, arXiv:2201.09792), with a kernel of 3x3."""
    depthwise = conv_block(channels, channels, groups=channels)
    return nn.Sequential(Residual(depthwise), conv_block(channels, channels, kernel=1))


def bottleneck(channels):
    """The bottleneck of He et al. 2015, with half the channels inside."""
    half = channels // 2
    inside = conv_block(channels, half, kernel=1), conv_block(half, half)
    return Residual(*inside, nn.Conv2d(half, channels, 1, bias=False), nn.BatchNorm2d(channels))


class PhasesAlone(PhasedConv2d):
    """Without bands."""

    def undilated(self, x, padding):
        return F.conv2d(x, self.weight, padding=padding, groups=self.groups)


class Quarters(nn.Module):
    """Depthwise kernels of 3x3, 5x5 and 7x7, in bands, a quarter of the channels each; the last
    quarter stays as it is: (N, C, H, W) -> the same shape.
    """

    def __init__(self, channels):
        super().__init__()
        kernels = [convolution(k, depthwise=True, kind=DepthwiseConv2d) for k in (3, 5, 7)]
        self.parts = nn.ModuleList([build(channels // 4) for build in kernels] + [nn.Identity()])

    def forward(self, x):
        return torch.cat([f(part) for f, part in zip(self.parts, x.chunk(4, 1), strict=True)], 1)


def gated_quarters(channels):
    """As `model.gated` has it, with these kernels instead of near and far."""
    normalised = Quarters(channels), nn.BatchNorm2d(channels)
    return Residual(*normalised, Gate(channels), nn.Conv2d(channels, channels, 1, bias=False))


BLOCKS = {
    "1x1": convolution(1),
    "3x3": convolution(3),
    "3x3, dilated 2": convolution(3, 2),
    "depthwise 3x3": convolution(3, depthwise=True),
    "depthwise 5x5": convolution(5, depthwise=True),
    "depthwise 7x7": convolution(7, depthwise=True),
    "depthwise 5x5, in bands": convolution(5, depthwise=True, kind=DepthwiseConv2d),
    "depthwise 7x7, in bands": convolution(7, depthwise=True, kind=DepthwiseConv2d),
    "depthwise 3x3, dilated 2": convolution(3, 2, depthwise=True),
    "depthwise 7x7, dilated 3": convolution(7, 3, depthwise=True),
    "the same, in nine phases": convolution(7, 3, depthwise=True, kind=PhasesAlone),
    "the same, in phases and bands": convolution(7, 3, depthwise=True, kind=PhasedConv2d),
    "near and far": NearAndFar,
    "residual 3x3": lambda channels: Residual(conv_block(channels, channels)),
    "residual 3x3, dilated 2": dilated,
    "bottleneck": bottleneck,
    "ConvMixer 3x3": conv_mixer,
    "gated, near and far": lambda channels: gated(channels, 1)[0],
    "gated, quarters 3, 5, 7": gated_quarters,
    "depthwise quarters 3, 7, 7 dilated 3": lambda channels: mixed_block(channels, 2 * channels),
}
MAPS = ((64, 16), (96, 16), (112, 8))  # channels, side


def measure(build, channels, side, images=IMAGES, seconds=1.0):
    """{parameters, macs of one image, milliseconds of a training step for `images` images}."""
    block = build(channels).to(memory_format=torch.channels_last)
    macs = count_macs(block, (channels, side, side))
    block.train()
    maps = torch.randn(images, channels, side, side).to(memory_format=torch.channels_last)
    maps = maps.to(getattr(torch, pick_precision("cpu"))).requires_grad_()  # as from a layer before
    with autocast("cpu"):
        gradient = torch.randn_like(block(maps))  # in the precision and order of the output

    def step():
        block.zero_grad()  # else gradients are added up, which a training does not do
        maps.grad = None
        with autocast("cpu"):
            output = block(maps)
        output.backward(gradient)

    step()
    spent = []
    while sum(spent) < seconds or len(spent) < 3:
        start = time.perf_counter()
        step()
        spent.append(time.perf_counter() - start)
    median = statistics.median(spent)
    return dict(parameters=count_parameters(block), macs=macs, milliseconds=1000 * median)


def table(measured):
    """A Markdown table of one processor's measurements: a row for each block."""
    rows = []
    for name, found in measured.items():
        row = {"block": name}
        for place, one in found.items():
            speed = 6 * one["macs"] * IMAGES / one["milliseconds"] / 1e6
            row[f"{place}: parameters"] = f"{one['parameters']:,}"
            row[f"{place}: ms"] = f"{one['milliseconds']:.0f}"
            row[f"{place}: 10⁹/s"] = f"{speed:.0f}"
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def main():
    Parser("-m tools.bench_blocks", description=__doc__.splitlines()[0]).parse_args()
    try:
        check_writable([RESULT])
        known, precision = read_json(RESULT, {}), pick_precision("cpu")
    except (TrainingError, ValueError) as error:
        sys.exit(f"bench_blocks: {error}")
    torch.set_num_threads(1)
    keep_freed_memory()
    measured = {}
    for name, build in BLOCKS.items():
        print(name, flush=True)
        measured[name] = {f"{c} at {side}x{side}": measure(build, c, side) for c, side in MAPS}
    device = f"{describe_device('cpu')}, {precision}"
    write_json(RESULT, known | {device: measured})
    print(table(measured))


if __name__ == "__main__":
    with stoppable("bench_blocks"):
        main()
