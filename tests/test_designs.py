"""The designs that the course's lessons build: the rules, and what their layers do."""

import pytest
import torch
from torch import nn

import model
from analysis import check_assignment
from experiments import designs, mixed

DESIGNS = [designs.dense, designs.hybrid, designs.pyramid, designs.flat, mixed.gated_large]
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.02}  # of the largest value


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


def names_behind(tensor):
    """The steps that a tensor was computed by, last first."""
    steps = [tensor.grad_fn]
    for step in steps:
        steps += [before for before, _ in step.next_functions if before and before not in steps]
    return " ".join(step.name() for step in steps)


def passes(layer, images, precision):
    """What comes out, and the gradients of the images and the weights."""
    seen = images.clone().requires_grad_()
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        output = layer(seen)
    banded = type(layer) is not nn.Conv2d and layer.kernel_size[1] > 3
    assert ("Banded" in names_behind(output)) == banded
    output.float().pow(2).mean().backward()
    found = output, seen.grad, layer.weight.grad
    layer.weight.grad = None
    return found


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("side", [8, 16, 17])
@pytest.mark.parametrize("kernel, dilation", [(3, 2), (5, 1), (7, 1), (5, 2), (7, 3)])
def test_a_convolution_in_bands_and_phases_is_torchs(kernel, dilation, side, precision):
    padding = dilation * (kernel - 1) // 2
    options = dict(padding=padding, dilation=dilation, groups=4, bias=False)
    kind = mixed.DepthwiseConv2d if dilation == 1 else mixed.PhasedConv2d
    layer, plain = kind(4, 4, kernel, **options), nn.Conv2d(4, 4, kernel, **options)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(3, 4, side, side).to(memory_format=torch.channels_last)
    both = zip(passes(layer, images, precision), passes(plain, images, precision), strict=True)
    for ours, torchs in both:
        assert ours.dtype == torchs.dtype
        assert (ours - torchs).abs().max() <= ROUNDING[precision] * torchs.abs().max()
    with torch.no_grad():
        assert layer.eval()(images).equal(plain(images))
