"""The designs that the course's lessons build: the rules, and what their layers do."""

import pytest
import torch
from torch import nn

import model
from analysis import check_assignment
from experiments import designs, mixed

DESIGNS = [designs.dense, designs.hybrid, designs.pyramid, designs.flat, mixed.gated_large]


@pytest.mark.parametrize("build", DESIGNS, ids=lambda build: build.__name__)
def test_a_design_keeps_the_rules_and_the_budget(build):
    network = build()
    assert 180_000 <= model.count_parameters(network) < 200_000
    assert all(rule.passed for rule in check_assignment(network))


def test_the_far_branch_sees_twice_as_far():
    layer = model.NearAndFar(4).eval()

    def seen():
        image = torch.zeros(1, 4, 16, 16, requires_grad=True)
        layer(image)[0, 0, 8, 8].backward()
        return (image.grad[0, 0] != 0).nonzero()

    near_and_far = seen()
    assert (near_and_far.max(0).values - near_and_far.min(0).values + 1).tolist() == [6, 6]
    nn.init.zeros_(layer.far.weight)
    assert len(seen()) == 9


@pytest.mark.parametrize("side", [16, 17, 32])
@pytest.mark.parametrize("dilation", [2, 3])
def test_a_convolution_in_phases_is_the_dilated_one(side, dilation):
    options = dict(padding=2 * dilation, dilation=dilation, groups=4, dtype=torch.float64)
    layer = mixed.PhasedConv2d(4, 8, 5, **options)
    images = torch.randn(3, 4, side, side, dtype=torch.float64)

    def passes(network):
        """What comes out, and the gradients of the images and the weights."""
        seen = images.clone().requires_grad_()
        output = network(seen)
        output.pow(2).sum().backward()
        weights = [parameter.grad for parameter in network.parameters()]
        network.zero_grad()
        return output, seen.grad, *weights

    plain = nn.Conv2d(4, 8, 5, **options)
    plain.load_state_dict(layer.state_dict())
    for ours, torchs in zip(passes(layer), passes(plain), strict=True):
        torch.testing.assert_close(ours, torchs)
    with torch.no_grad():
        assert layer.eval()(images).equal(plain(images))
