"""Grad-CAM on networks of which one knows where they look."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

import train
from core.looking import grad_cam


class Corner(nn.Module):
    """Class 3 is the brightness of the top left quarter, class 7 that of the bottom right one."""

    def __init__(self):
        super().__init__()
        self.c4 = nn.Conv2d(3, 2, 4, stride=4, bias=False)  # (N, 2, 8, 8)
        nn.init.ones_(self.c4.weight)
        self.c4.register_forward_hook(self.window)

    def window(self, layer, inputs, maps):
        kept = torch.zeros_like(maps)
        kept[:, 0, :4, :4] = maps[:, 0, :4, :4]
        kept[:, 1, 4:, 4:] = maps[:, 1, 4:, 4:]
        return kept

    def forward(self, x):
        brightness = self.c4(x).mean((2, 3))  # (N, 2)
        return brightness @ torch.eye(10)[[3, 7]]


@pytest.fixture
def corner():
    return Corner().eval()


@pytest.mark.parametrize(("label", "turned"), [(3, 1), (7, -1)])
def test_it_is_hot_in_the_corner_that_the_network_looks_at(label, turned, corner):
    heat = grad_cam(corner, torch.rand(4, 3, 32, 32), [label] * 4)
    assert heat.shape == (4, 32, 32)
    assert heat.dtype == np.float32
    heat = heat[:, ::turned, ::turned]  # the corner is now at the top left
    assert heat[:, :14, :14].min() > 0.1
    assert heat[:, 18:].max() == heat[:, :, 18:].max() == 0  # between: enlarged smoothly
    assert heat.max((1, 2)) == pytest.approx(np.ones(4))


def test_the_answer_is_explained_where_no_class_is_given(corner):
    images = torch.zeros(2, 3, 32, 32)
    images[0, :, :16, :16] = 1
    images[1, :, 16:, 16:] = 1
    assert corner(images).argmax(1).tolist() == [3, 7]
    assert np.array_equal(grad_cam(corner, images), grad_cam(corner, images, [3, 7]))


def test_where_nothing_speaks_for_a_class_it_is_cold(corner):
    assert grad_cam(corner, torch.rand(2, 3, 32, 32), [0, 0]).max() == 0
    assert grad_cam(corner, -torch.rand(2, 3, 32, 32), [3, 3]).max() == 0


def test_by_the_formula():
    """The channels of the map, weighted with the mean of their gradients, added up, cut at 0."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 10))
    images = torch.rand(3, 3, 8, 8)
    maps = network[0](images)
    maps.retain_grad()
    network[2](maps.flatten(1))[:, 6].sum().backward()
    weights = maps.grad.mean((2, 3), keepdim=True)
    expected = (weights * maps).sum(1).relu().detach()
    expected = expected / expected.amax((1, 2), keepdim=True)
    heat = grad_cam(network.eval(), images, [6, 6, 6], layer=network[0])
    assert heat == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("name", sorted(train.MODELS))
def test_of_every_network_and_it_is_left_as_it_was(name):
    torch.manual_seed(0)
    network = train.MODELS[name]().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    heat = grad_cam(network, torch.rand(2, 3, 32, 32))
    assert heat.shape == (2, 32, 32)
    assert np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_trained_network_looks_where_the_object_is(cifar):
    """The hottest fifth of an image, covered, costs more than the coldest one."""
    network, _ = train.load_weights(ROOT / "weights" / "net-sprint-seed0.pt")
    batches = train.make_batches(cifar.test_images[:200], cifar.test_labels[:200], 200, train=False)
    images, labels = next(iter(batches))
    order = torch.tensor(grad_cam(network, images)).flatten(1).argsort(1)

    def covered(places):
        places = places[:, None].expand(-1, 3, -1)
        with torch.no_grad():
            answers = network(images.flatten(2).scatter(2, places, 0.0).view_as(images)).argmax(1)
        return (answers == labels).float().mean()

    assert covered(order[:, -204:]) < covered(order[:, :204]) - 0.1


def test_what_cannot_be_asked(corner):
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"call network\.eval\(\) first"):
        grad_cam(Corner(), images)
    with pytest.raises(ValueError, match=r"layer=network\.conv"):
        grad_cam(nn.Flatten().eval(), images)
