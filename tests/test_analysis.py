"""The arithmetic of networks, and the verdicts on them."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import Tiny
from torch import nn

import analysis as a
import model as m


@pytest.mark.parametrize("name", m.MODELS)
def test_receptive_field_is_what_autograd_sees(name):
    """With positive weights and inputs nothing cancels: the pixels that move the centre output are
    those with a gradient.
    """
    network = m.MODELS[name]().double().eval()  # the farthest pixels count little
    for parameter in network.parameters():
        parameter.data.abs_().add_(0.01)
        if parameter.ndim > 1:  # gates multiply: what grew in each layer would be beyond numbers
            parameter.data /= parameter.data.flatten(1).sum(1).view(-1, *[1] * (parameter.ndim - 1))
    expected = a.receptive_field(network)
    side = 32 * math.ceil(3 * expected / 32)  # where it is halved, nothing is left over
    image = torch.ones(1, 3, side, side, dtype=torch.double, requires_grad=True)
    features = network.features(image)
    if name == "wide":
        features = network.pool(features)  # not global, so it counts
    features[0, :, features.shape[2] // 2, features.shape[3] // 2].sum().backward()
    touched = image.grad[0].abs().sum(0) > 0
    for axis in (0, 1):
        rows = touched.any(axis).nonzero()
        assert rows.max() - rows.min() + 1 == expected


@pytest.mark.parametrize("name", ["net", "frontier", "gated"])
def test_our_networks_keep_every_rule(name):
    assert all(rule.passed for rule in a.check_assignment(m.MODELS[name](), accuracy=0.85))


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("strided", {"receptive field > 44", "a dilated convolution"}),
        (
            "wide",
            {
                "fewer than 200,000 parameters",
                "receptive field > 44",
                "a depthwise-separable convolution",
                "global average pooling",
            },
        ),
        ("dilated", set()),
        ("compact", set()),
        ("stacked", {"no max pooling", "global average pooling"}),
    ],
)
def test_verdicts_on_the_published_networks(name, broken):
    assert {rule.rule for rule in a.check_assignment(m.MODELS[name]()) if not rule.passed} == broken


def test_accuracy_rule_is_measured_not_assumed():
    assert not a.check_assignment(m.MODELS["net"](), accuracy=0.8499)[-1].passed
    assert a.accuracy_rule(0.84997).measured == "84.9970%"  # not 85.00%


class Functional(nn.Module):
    """Pools by function calls, adds a shortcut, averages by mean()."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.long = nn.Conv2d(10, 10, 5, padding=4, dilation=2)
        self.output = nn.Linear(10, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = x + self.long(x)
        return self.output(x.mean((2, 3)))


def test_a_learners_functional_network():
    verdicts = {rule.rule: rule for rule in a.check_assignment(Functional())}
    assert a.receptive_field(Functional()) == 3 + 1 + (5 - 1) * 2 * 2
    assert not verdicts["no max pooling"].passed
    assert verdicts["global average pooling"].passed
    assert verdicts["a dilated convolution"].measured == "long"


def test_a_dilated_pooling_is_one():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(3, 1, 1, dilation=3))
    layer = a.layers(network)[-1]
    assert (layer.kernel, layer.dilation, layer.receptive_field) == (3, 3, 7)


def test_pooling_over_the_whole_map_adds_nothing():
    head = [nn.Flatten(), nn.Linear(4, 10)]
    assert (
        a.receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(32), *head))
        == 3
    )
    assert (
        a.receptive_field(
            nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), *head
            )
        )
        == 4
    )


def test_wrong_output_shape_is_explained():
    with pytest.raises(ValueError, match=r"returns \('N', 7\).*logits of shape \('N', 10\)"):
        a.check_assignment(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)))
    with pytest.raises(ValueError, match="cannot follow Sequential"):
        a.check_assignment(nn.Sequential(nn.Flatten(), nn.Linear(7, 10)))


def test_looking_changes_nothing(capsys):
    network = m.MODELS["net"]()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    a.summary(network)
    a.layers(network)
    a.check_assignment(network)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert drawn == torch.rand(1)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert f"Total params: {m.count_parameters(network):,}" in capsys.readouterr().out


def test_macs_by_hand():
    assert a.count_macs(Tiny()) == 15 * 15 * 8 * 27 + 80


@pytest.mark.parametrize("name", ["net", "compact", "stacked"])
def test_macs_are_those_of_the_layers(name):
    network = m.MODELS[name]()
    found = a.layers(network, (3, 28, 28))
    assert a.count_macs(network, (3, 28, 28)) == sum(layer.macs for layer in found) > 0
