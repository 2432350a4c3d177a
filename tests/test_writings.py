"""Networks written in ways that were once judged wrongly; what is right was told by hand."""

import pytest
import torch
import torch.nn.functional as F
from test_assignment import judged, verdicts
from torch import nn
from torch.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential
from torchvision.ops import DeformConv2d

from core.field import FIXED, STACKED


class Do(nn.Module):
    """`forward` as a function of the module and the image."""

    def __init__(self, way, **parts):
        super().__init__()
        self.way = way
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.way(self, x)


def conv(inputs=8, outputs=8, kernel=3, **options):
    return Conv2d(inputs, outputs, kernel, **dict(padding=kernel // 2) | options)


def depthwise(channels=8, kernel=3):
    return conv(channels, channels, kernel, groups=channels)


def deep(*rest):
    """It sees 51 pixels before `rest`."""
    wide = dict(dilation=12, padding=12)
    return Sequential(conv(3), ReLU(), conv(**wide), conv(**wide), *rest)


def small():
    """It sees 5 pixels."""
    return Sequential(conv(3), ReLU(), conv(), AdaptiveAvgPool2d(1), Flatten(), Linear(8, 10))


def stop_at_nan(net, x):
    if torch.isnan(x).any():
        raise RuntimeError
    return net.n(x)


def tokens(net, x):
    return net.o(net.a(net.c(x).flatten(2).transpose(1, 2)).mean(1))


def spread_out(net, x):
    low = x.amin((1, 2, 3), keepdim=True)
    return net.n((x - low) / (x.amax((1, 2, 3), keepdim=True) - low))


HEAD = (AdaptiveAvgPool2d(1), Flatten(), Linear(8, 10))
ALL = "it sees all of an image of that size"
FIELDS = {
    "a fixed size inside": (deep(AdaptiveAvgPool2d(8), conv(), *HEAD), f"62, {STACKED}: {FIXED}"),
    "a head on 2x2": (
        deep(AdaptiveAvgPool2d(2), Flatten(), Linear(32, 10)),
        f"66, {STACKED}: {FIXED}",
    ),
    "whole numbers inside": (
        deep(Do(lambda _, x: (16 * x).int().float() / 16), conv(), *HEAD),
        "53",
    ),
    "bytes or fractions": (Do(lambda s, x: s.n(x / 255 if x.max() > 9 else x), n=small()), "5"),
    "stops at NaN": (Do(stop_at_nan, n=small()), "5"),
    "scaled": (Do(spread_out, n=small()), f"at least 64: {ALL}"),
    "an operation of others": (
        Do(
            lambda s, x: s.o(s.d(s.c(x), s.w(s.c(x))).mean((2, 3))),
            c=conv(3),
            w=conv(8, 18),
            d=DeformConv2d(8, 8, 3, padding=1),
            o=Linear(8, 10),
        ),
        f"at least 64: {ALL}",
    ),
}


@pytest.mark.parametrize("way", FIELDS)
def test_field(way):
    network, field = FIELDS[way]
    assert judged(network)[1] == field


def test_no_map_is_pooled_by_what_only_scales():
    assert judged(Do(spread_out, n=small()))[4]


def test_the_mean_of_tokens_is_global_average_pooling_and_sees_all():
    attend = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = Do(tokens, c=conv(3, 8, stride=4), a=attend, o=Linear(8, 10))
    _, field, *_, average = judged(network)
    assert average
    least, why = field.split(": ")
    assert int(least.removeprefix("at least ")) > 44 and why == ALL


def test_tokens_of_a_fixed_number_see_all_of_32_pixels():
    def attend(net, x):
        t = net.c(x).flatten(2).transpose(1, 2) + net.place
        return net.o(((t @ t.transpose(1, 2)).softmax(-1) @ t).mean(1))

    place = nn.Parameter(torch.zeros(64, 8))
    assert judged(Do(attend, c=conv(3, 8, stride=4), o=Linear(8, 10), place=place))[1] == (
        f"at least 32: {ALL}"
    )


def test_the_one_channel_of_a_last_map_is_averaged_or_not():
    network = Sequential(conv(3, stride=4), conv(8, 1), ReLU(), Flatten(), Linear(64, 10))
    assert not judged(network)[5]
    network = Sequential(conv(3), conv(8, 1), ReLU(), AdaptiveAvgPool2d(1), Flatten())
    assert judged(Sequential(*network, Linear(1, 10)))[5]


def simple_gate(net, x):
    one, other = net.d(net.e(x)).chunk(2, 1)
    return net.p(one * other)


MIXED = {  # how a depthwise layer `d` comes to its pointwise one `p`
    "pre-norm residual": (lambda s, x: s.p(x + s.d(s.n(x))), {}),
    "pre-activation": (lambda s, x: s.p(x + s.d(F.relu(x))), {}),
    "three branches": (
        lambda s, x: s.p(F.relu(s.d(x) + s.one(x) + s.n(x))),
        dict(one=depthwise(kernel=1)),
    ),
    "simple gate": (simple_gate, dict(e=conv(8, 16, 1), d=depthwise(16))),
    "glu": (lambda s, x: s.p(F.glu(s.d(x), 1)), dict(p=conv(4, 8, 1))),
    "gate of the input": (
        lambda s, x: s.p(s.d(x) * s.g(x.mean((2, 3), keepdim=True)).sigmoid()),
        dict(g=conv(8, 8, 1)),
    ),
    "shuffled": (lambda s, x: s.p(s.s(s.d(x))), dict(s=nn.ChannelShuffle(2))),
}


@pytest.mark.parametrize("way", MIXED)
def test_separable(way):
    forward, others = MIXED[way]
    parts = dict(d=depthwise(), p=conv(8, 8, 1), n=BatchNorm2d(8)) | others
    assert judged(Sequential(conv(3), Do(forward, **parts), *HEAD))[2]


def test_a_dense_branch_beside_the_depthwise_layer_is_not_separable():
    network = Do(lambda s, x: s.p(s.d(x) + s.c(x)), d=depthwise(), c=conv(), p=conv(8, 8, 1))
    assert not judged(Sequential(conv(3), network, *HEAD))[2]


def test_what_leaves_torch_cannot_be_followed():
    network = Do(lambda s, x: s.n(torch.from_numpy(2 * x.cpu().numpy())), n=small())
    with pytest.raises(ValueError, match="does not come from the image"):
        judged(network)


def test_which_children_are_the_blocks():
    one, two = (Sequential(Conv2d(inputs, 8, 3), Conv2d(8, 8, 3)) for inputs in (3, 8))
    four = Sequential(*[Conv2d(8, 8, 3) for _ in range(4)])
    assert judged(Sequential(one, two, four, *HEAD))[0] == 3
    stem = Sequential(*[Conv2d(3 if n == 0 else 8, 8, 3) for n in range(4)])
    body = Sequential(*[Sequential(Conv2d(8, 8, 3), ReLU()) for _ in range(4)])
    assert judged(Sequential(stem, body, *HEAD))[0] == 5


def test_a_network_without_convolutions_has_no_block():
    rules = verdicts(Sequential(Flatten(), Linear(3072, 10)))
    (blocks,) = [rule for name, rule in rules.items() if "four" in name]
    assert blocks.measured.startswith("0 children with convolutions: none")


def test_a_depthwise_layer_may_stand_on_the_image():
    first = Conv2d(3, 3, 3, padding=1, groups=3), Conv2d(3, 8, 1)
    assert judged(Sequential(*first, *HEAD))[2]
