"""The assignment's rules mean what the assignment means, however a network is written."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential

import analysis
from model import MODELS, count_parameters


def verdicts(network):
    return {rule.rule: rule for rule in analysis.check_assignment(network)}


def judged(network):
    """The verdicts in short: blocks, field, separable, dilated, no max pooling, average."""
    found = list(verdicts(network).values())
    blocks = int(found[0].measured.split()[0])
    return (blocks, found[2].measured, *(rule.passed for rule in found[3:]))


HEAD = [AdaptiveAvgPool2d(1), Flatten()]


class Depthwise(Conv2d):
    def __init__(self, channels, **options):
        super().__init__(channels, channels, 3, groups=channels, **options)


def test_a_subclassed_convolution_is_one():
    dilated = Depthwise(8, dilation=24, padding=24)
    network = Sequential(Conv2d(3, 8, 3, padding=1), dilated, Conv2d(8, 8, 1), *HEAD, Linear(8, 10))
    assert judged(network) == (3, "51", True, True, True, True)
    assert sum(layer.parameters for layer in analysis.layers(network)) == count_parameters(network)


class Listed(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Attribute(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.loss = network, nn.CrossEntropyLoss()

    def forward(self, x, return_features=False):
        return self.network(x)


def test_blocks_are_found_wherever_they_sit():
    one = MODELS["net"]()
    blocks = (one.c1, one.c2, one.c3, one.c4)
    stem = Conv2d(3, 3, 1)
    for network in (
        Sequential(Sequential(*blocks), one.pool, one.output),
        Sequential(Listed(*blocks), one.pool, one.output),
        Attribute(Sequential(Sequential(*blocks), one.pool, one.output)),
        Listed(*blocks, one.pool, one.output),
        Sequential(stem, Sequential(*blocks), one.pool, one.output),
    ):
        four = verdicts(network)["four convolution blocks and an output"]
        assert four.passed, four


def test_an_output_convolution_is_no_block():
    for ending in (
        (AdaptiveAvgPool2d(1), Conv2d(8, 10, 1), Flatten()),
        (Conv2d(8, 10, 1), AdaptiveAvgPool2d(1), Flatten()),
        (Conv2d(8, 10, 1), AdaptiveAvgPool2d(1), Flatten(), nn.LogSoftmax(1)),
    ):
        three = Sequential(Conv2d(3, 8, 3), Conv2d(8, 8, 3), Conv2d(8, 8, 3), *ending)
        assert judged(three)[0] == 3
    ten = Sequential(*[Conv2d(3 if n == 0 else 10, 10, 3) for n in range(4)], *HEAD, Linear(10, 10))
    assert judged(ten)[0] == 4


def test_three_blocks_of_four_layers_are_three_blocks():
    def block(inputs):
        layers = [Sequential(Conv2d(inputs if n == 0 else 8, 8, 3), ReLU()) for n in range(4)]
        return Sequential(*layers)

    network = Sequential(block(3), block(8), block(8), *HEAD, Linear(8, 10))
    assert judged(network)[0] == 3


class Mixed(nn.Module):
    """Its function puts a depthwise layer `dw` and a dense `pw` together in some way."""

    def __init__(self, together, dense):
        super().__init__()
        self.first, self.dw = Conv2d(3, 8, 3), Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.pw, self.output = BatchNorm2d(8), dense, Linear(8, 10)
        self.gate = Linear(8, 8)
        self.together = together

    def forward(self, x):
        return self.output(self.together(self, self.first(x)).mean((2, 3)))


def channels_last(net, x):
    return net.pw(net.dw(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def flattened(net, x):
    x = net.dw(x)
    return net.pw(x.flatten(2)).view_as(x)


def parts(net, x):
    return net.pw(torch.cat([net.dw(x)[:, :4], x[:, 4:]], 1))


def over_channels(net, x):
    """As ConvNeXt's LayerNorm."""
    x = net.dw(x)
    x = x - x.mean(1, keepdim=True)
    return net.pw(x / x.square().mean(1, keepdim=True).add(1e-6).sqrt())


def gated(net, x):
    x = net.dw(x)
    return net.pw(x * net.gate(x.mean((2, 3))).sigmoid()[:, :, None, None])


TOGETHER = {  # how, the dense layer, whether that is depthwise-separable
    "one after the other": (lambda net, x: net.pw(net.dw(x)), Conv2d(8, 8, 1), True),
    "activation between": (lambda n, x: n.pw(F.silu(n.norm(n.dw(x)))), Conv2d(8, 8, 1), True),
    "residual between": (lambda net, x: net.pw(x + net.dw(x)), Conv2d(8, 8, 1), True),
    "parts of the channels": (parts, Conv2d(8, 8, 1), True),
    "gate between": (gated, Conv2d(8, 8, 1), True),
    "Hardswish between": (lambda n, x: n.pw(F.hardswish(n.dw(x))), Conv2d(8, 8, 1), True),
    "PReLU between": (
        lambda n, x: n.pw(F.prelu(n.dw(x), torch.full((8,), 0.2))),
        Conv2d(8, 8, 1),
        True,
    ),
    "norm over the channels between": (over_channels, Conv2d(8, 8, 1), True),
    "linear on channels": (channels_last, Linear(8, 8), True),
    "Conv1d over positions": (flattened, nn.Conv1d(8, 8, 1), True),
    "beside each other": (lambda net, x: net.dw(x) + net.pw(x), Conv2d(8, 8, 1), False),
    "the other way round": (lambda net, x: net.dw(net.pw(x)), Conv2d(8, 8, 1), False),
    "after a sum with dense": (lambda n, x: n.pw(n.dw(x) + n.pw(x)), Conv2d(8, 8, 1), False),
    "grouped": (lambda net, x: net.pw(net.dw(x)), Conv2d(8, 8, 1, groups=2), False),
    "3x3": (lambda net, x: net.pw(net.dw(x)), Conv2d(8, 8, 3), False),
    "a fixed blur": (
        lambda net, x: net.pw(F.conv2d(x, torch.ones(8, 1, 3, 3), groups=8)),
        Conv2d(8, 8, 1),
        False,
    ),
    "not used": (lambda net, x: (net.pw(net.dw(x)), x)[1], Conv2d(8, 8, 1), False),
    "gate alone": (
        lambda net, x: x * net.pw(net.dw(x).mean((2, 3), keepdim=True)),
        Conv2d(8, 8, 1),
        False,
    ),
}


@pytest.mark.parametrize("way", TOGETHER)
def test_pointwise_follows_depthwise_in_the_flow_of_data(way):
    together, dense, separable = TOGETHER[way]
    rule = verdicts(Mixed(together, dense))["a depthwise-separable convolution"]
    assert rule.measured == ("dw" if separable else "none")


def test_a_depthwise_layer_may_multiply_its_channels():
    network = Sequential(Conv2d(8, 16, 3, groups=8), Conv2d(16, 8, 1))
    network = Sequential(Conv2d(3, 8, 1), *network, *HEAD, Linear(8, 10))
    assert verdicts(network)["a depthwise-separable convolution"].measured == "1"


def test_a_dilated_convolution_has_something_to_dilate():
    def measured(*kernel):
        network = Sequential(Conv2d(3, 10, kernel, dilation=(1, 2)), *HEAD)
        return verdicts(network)["a dilated convolution"].measured

    assert (measured(3, 3), measured(3, 1), measured(1, 1)) == ("0", "none", "none")


class Pooled(nn.Module):
    """A map 8x8, then some way to features, then a linear layer."""

    def __init__(self, features):
        super().__init__()
        self.conv, self.features = Conv2d(3, 8, 4, stride=4), features
        inputs = features(torch.zeros(1, 8, 8, 8)).shape[1]
        self.output = Linear(inputs, 10)

    def forward(self, x):
        return self.output(self.features(self.conv(x).relu()))


def average(x):
    return x.mean((2, 3))


WAYS = {  # features, is it global average pooling, is there no max pooling
    "mean": (average, True, True),
    "two means": (lambda x: x.mean(3).mean(2), True, True),
    "sum": (lambda x: x.sum((2, 3)) / 64, True, True),
    "of positions": (lambda x: x.flatten(2).transpose(1, 2).mean(1), True, True),
    "einsum": (lambda x: torch.einsum("nchw->nc", x) / 64, True, True),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 8).flatten(1), True, True),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), True, True),
    "in two steps": (lambda x: F.avg_pool2d(F.avg_pool2d(x, 4), 2).flatten(1), True, True),
    "course": (lambda x: MODELS["net"]().pool(x).flatten(1), True, True),
    "most of it": (lambda x: F.avg_pool2d(x, 7).flatten(1), False, True),
    "a part": (lambda x: x[:, :, :7, :7].mean((2, 3)), False, True),
    "to four": (lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1), False, True),
    "beside flatten": (lambda x: torch.cat([average(x), x.flatten(1)], 1), False, True),
    "with maximum": (lambda x: torch.cat([average(x), x.amax((2, 3))], 1), False, False),
    "flatten": (lambda x: x.flatten(1), False, True),
    "deviation": (lambda x: x.std((2, 3)), False, True),
    "maximum": (lambda x: F.adaptive_max_pool2d(x, 1).flatten(1), False, False),
    "flat maximum": (lambda x: x.flatten(2).max(2)[0], False, False),
    "maximum of means": (lambda x: x.mean(3).amax(2), False, False),
    "maximum before": (lambda x: F.max_pool2d(x, 2).mean((2, 3)), True, False),
    "fractional": (lambda x: F.fractional_max_pool2d(x, 2, 4).mean((2, 3)), True, False),
    "maximum of channels": (lambda x: x.amax(1, keepdim=True).mean((2, 3)), True, True),
    "maxout": (
        lambda x: x.unflatten(1, (-1, 2)).amax(2).repeat(1, 2, 1, 1).mean((2, 3)),
        True,
        True,
    ),
    "maximum by a view": (
        lambda x: x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5)).mean((2, 3)),
        True,
        False,
    ),
    "maximum of two parts": (
        lambda x: torch.maximum(x[:, :, ::2], x[:, :, 1::2]).mean((2, 3)),
        True,
        False,
    ),
    "maximum of a stack": (
        lambda x: torch.stack([x[:, :, ::2], x[:, :, 1::2]]).amax(0).mean((2, 3)),
        True,
        False,
    ),
    "maximum of a last axis": (
        lambda x: torch.stack([x[..., ::2], x[..., 1::2]], -1).max(-1)[0].mean((2, 3)),
        True,
        False,
    ),
    "mean of a stack": (
        lambda x: torch.stack([x[:, :, ::2], x[:, :, 1::2]]).mean((0, 3, 4)),
        True,
        True,
    ),
    "space to depth": (
        lambda x: (torch.cat([x[:, :4, ::2], x[:, :4, 1::2]], 1) + 1).relu().mean((2, 3)),
        True,
        True,
    ),
    "maxout of a stack": (
        lambda x: torch.stack([x[:, :4], x[:, 4:]]).amax(0).repeat(1, 2, 1, 1).mean((2, 3)),
        True,
        True,
    ),
    "maxout of two parts": (
        lambda x: torch.maximum(x[:, :4], x[:, 4:]).repeat(1, 2, 1, 1).mean((2, 3)),
        True,
        True,
    ),
    "cropped, then activated": (
        lambda x: torch.maximum(x[:, :, 1:-1], torch.zeros(1)).mean((2, 3)),
        True,
        True,
    ),
    "maximum of windows": (
        lambda x: F.unfold(x, 3, padding=1).unflatten(1, (8, 9)).amax(2).mean(2),
        True,
        False,
    ),
    "largest of all": (lambda x: x.flatten(2).topk(1)[0].flatten(1), False, False),
    "largest channels": (lambda x: x.topk(4, 1)[0].mean((2, 3)), True, True),
    "dropout that is never off": (lambda x: F.dropout(average(x), 0.1), True, True),
    "large numbers": (lambda x: average(1e6 * x), True, True),
    "standardised": (lambda x: average((x - x.mean()) / (x.std() + 1e-5)), True, True),
    "maxout after pooling": (
        lambda x: F.avg_pool2d(x, 2).unflatten(1, (-1, 2)).amax(2).repeat(1, 2, 1, 1).mean((2, 3)),
        True,
        True,
    ),
    "largest row": (  # as many rows as channels
        lambda x: F.layer_norm(x.mean(3).transpose(1, 2), (8,)).amax(1),
        False,
        False,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_pooling(way):
    features, averages, no_maximum = WAYS[way]
    assert judged(Pooled(features))[4:] == (no_maximum, averages)


def test_average_pooling_that_leaves_out_a_part_says_so():
    network = Sequential(Conv2d(3, 8, 8, 8), nn.AvgPool2d(3, 2), Flatten(), Linear(8, 10))
    measured = verdicts(network)["global average pooling"].measured
    assert measured == "the output sees more of the last map, 4x4 of 0, than its mean"


def test_a_head_of_zeros_can_be_judged():
    network = Pooled(average)
    nn.init.zeros_(network.output.weight)
    assert verdicts(network)["global average pooling"].passed


@pytest.mark.parametrize("accuracy", [50, 85.2, -0.1, float("nan"), "85 %", [0.9]])
def test_an_accuracy_is_a_fraction(accuracy):
    with pytest.raises(ValueError, match=r"is no fraction in 0\.\.1: 85 % are 0\.85\."):
        analysis.check_assignment(MODELS["net"](), accuracy=accuracy)


def test_logits_are_one_tensor():
    class Both(Attribute):
        def forward(self, x):
            return self.network(x), x

    class Squeezed(Attribute):
        def forward(self, x):
            return self.network(x).view(-1)

    with pytest.raises(ValueError, match="Both returns tuple"):
        analysis.check_assignment(Both(MODELS["net"]()))
    with pytest.raises(ValueError, match=r"Squeezed returns \(20,\).*needs logits"):
        analysis.check_assignment(Squeezed(MODELS["net"]()))
    with pytest.raises(ValueError, match="has no parameters"):
        analysis.check_assignment(Sequential(*HEAD))


def test_a_shared_layer_counts_once():
    shared = Conv2d(8, 8, 3)
    network = Sequential(Conv2d(3, 8, 3), shared, shared, *HEAD, Linear(8, 10))
    rules = verdicts(network)
    assert rules["fewer than 200,000 parameters"].measured == f"{224 + 584 + 90}"
    assert rules["receptive field > 44"].measured == "7"
    assert sum(layer.parameters for layer in analysis.layers(network)) == 224 + 584 + 90
