"""Optimisers do what their papers say, schedules what the sources' logs print."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import QUICK, Tiny
from torch import nn

import train
from core.optim import is_filter, make_optimizer, make_schedule, orthogonalise
from core.recipes import RECIPES, Recipe
from model import MODELS


def rates(recipe, steps_per_epoch=391):
    """Learning rate after every epoch, as the sources' logs print it."""
    optimizer = make_optimizer(nn.Linear(1, 1), recipe)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch)
    found = []
    for epoch in range(recipe.epochs):
        last = epoch == recipe.epochs - 1  # OneCycleLR has no step after the last
        for _ in range(steps_per_epoch - last):
            optimizer.step()
            schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


LOGGED = {  # epochs: {epoch: learning rate}
    30: {1: 0.001379, 2: 0.003047, 5: 0.012072, 9: 0.02, 10: 0.019888, 20: 0.009249, 29: 0.000112},
    40: {1: 0.001127, 6: 0.010403, 12: 0.02, 20: 0.016233, 30: 0.005659, 39: 0.000063, 40: 1e-6},
}


@pytest.mark.parametrize("epochs", LOGGED)
def test_onecycle_is_the_one_in_the_sources_log(epochs):
    found = rates(dataclasses.replace(RECIPES["dilated"], epochs=epochs))
    assert {epoch: round(found[epoch - 1], 6) for epoch in LOGGED[epochs]} == LOGGED[epochs]


def test_step_schedule_of_stacked():
    found = rates(RECIPES["stacked"], 10)
    assert found[3] == 0.05
    assert found[4:9] == pytest.approx([0.03] * 5)
    assert found[9] == pytest.approx(0.018)


def test_triangle_rises_then_falls_to_zero():
    recipe = Recipe(epochs=10, lr=1.0, schedule="triangle", warmup=0.2)
    schedule = make_schedule(make_optimizer(nn.Linear(1, 1), recipe), recipe, 10)
    values = [schedule.lr_lambdas[0](step) for step in range(101)]
    assert max(values) == pytest.approx(1.0, abs=0.01)
    assert np.argmax(values) in (19, 20)
    assert values[0] == pytest.approx(0.05)
    assert values[100] == 0


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 98])
@pytest.mark.parametrize("warmup", [0, 0.25, 0.5])
def test_no_rate_of_a_triangle_is_above_its_peak(warmup, steps):
    """Also where the peak lies between two steps."""
    recipe = Recipe(epochs=1, lr=1.0, schedule="triangle", warmup=warmup)
    schedule = make_schedule(make_optimizer(nn.Linear(1, 1), recipe), recipe, steps)
    values = [schedule.lr_lambdas[0](step) for step in range(steps + 1)]
    assert 0.5 < max(values) <= 1 and min(values) == values[steps] == 0


def test_orthogonalise_evens_out_singular_values():
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(16, 16))[0], torch.linalg.qr(torch.randn(72, 16))[0]
    matrix = left @ torch.diag(torch.logspace(0, -1, 16)) @ right.T
    before = torch.linalg.svdvals(matrix)
    after = torch.linalg.svdvals(orthogonalise(matrix, steps=5))
    assert before.max() / before.min() > 9
    assert after.min() > 0.5
    assert after.max() < 1.5
    assert torch.equal(orthogonalise(matrix.T), orthogonalise(matrix).T)
    several = torch.stack([3 * matrix, matrix])
    assert torch.allclose(orthogonalise(several), orthogonalise(matrix), atol=1e-5)


def test_three_rounds_lift_the_smallest_values_40_fold():
    matrix = torch.diag(torch.tensor([1.0, 1e-5]))
    assert orthogonalise(matrix)[1, 1] == pytest.approx(3.4445**3 * 1e-5, rel=0.01)
    values = torch.linspace(0.02, 1, 50)
    before = values / values.norm()
    after = orthogonalise(torch.diag(before)).diagonal()[before >= 0.02]
    assert 0.68 < after.min() < after.max() < 1.21


def test_what_has_directions_is_a_filter():
    dense, depthwise = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, groups=24)
    scale, bias = nn.Parameter(torch.ones(1, 24, 1, 1)), dense.bias
    weights = (dense.weight, depthwise.weight, scale, bias)
    assert [is_filter(weight) for weight in weights] == [True, False, False, False]


@pytest.mark.parametrize("warmup", [0, 0.0])
def test_onecycle_without_a_warmup_begins_at_its_peak(warmup):
    recipe = Recipe(1, lr=0.1, schedule="onecycle", warmup=warmup)
    optimizer = make_optimizer(nn.Linear(1, 1), recipe)
    make_schedule(optimizer, recipe, 100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1, rel=0.01)


def test_onecycle_takes_momentum_from_095_to_085_and_back():
    recipe = Recipe(1, lr=0.1, schedule="onecycle", warmup=0.3)
    optimizer = make_optimizer(nn.Linear(1, 1), recipe)
    schedule, momenta = make_schedule(optimizer, recipe, 100), []
    for _ in range(100):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.step()
    assert (momenta[0], momenta[-1]) == (0.95, pytest.approx(0.95, abs=1e-3))
    assert min(momenta) == pytest.approx(0.85, abs=1e-3)
    assert 25 < momenta.index(min(momenta)) < 35


def test_muon_without_filters_is_nesterov_sgd():
    torch.manual_seed(0)
    one, two = nn.Linear(4, 3), nn.Linear(4, 3)
    two.load_state_dict(one.state_dict())
    recipe = Recipe(epochs=1, lr=0.1, momentum=0.8, nesterov=True, weight_decay=1e-2)
    optimizers = [
        make_optimizer(one, recipe),
        make_optimizer(two, dataclasses.replace(recipe, optimizer="muon", muon_lr=0.1)),
    ]
    for _ in range(5):
        x = torch.randn(8, 4)
        for network, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(one.weight, two.weight, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_every_optimiser_learns(optimizer, small):
    recipe = dataclasses.replace(
        QUICK,
        epochs=6,
        optimizer=optimizer,
        lr=0.003 if "adam" in optimizer else 0.05,
        muon_lr=0.02,
    )
    _, record = train.fit("net", recipe, data=small, progress=False)
    losses = [epoch["train_loss"] for epoch in record["history"]]
    assert losses[-1] < losses[0] - 0.3


def steps(network, optimizer, count=5):
    """So many steps on the same random images; the weights after them."""
    torch.manual_seed(0)
    for _ in range(count):
        images = torch.randn(8, 3, 32, 32)
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(
    ("recipe", "same"),
    [
        (
            Recipe(epochs=1, lr=0.1, momentum=0.8, nesterov=True, weight_decay=1e-2),
            lambda p: torch.optim.SGD(p, 0.1, 0.8, weight_decay=1e-2, nesterov=True),
        ),
        (
            Recipe(epochs=1, optimizer="adam", lr=0.01, weight_decay=1e-2),
            lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-2),
        ),
        (
            Recipe(epochs=1, optimizer="adamw", lr=0.01, weight_decay=1e-2),
            lambda p: torch.optim.AdamW(p, 0.01, weight_decay=1e-2),
        ),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_a_recipes_optimiser_is_torchs_own(recipe, same):
    one, two = Tiny(), Tiny()
    two.load_state_dict(one.state_dict())
    ours = steps(one, make_optimizer(one, recipe))
    assert torch.equal(ours, steps(two, same(two.parameters())))


def first_update(network, recipe):
    """{name: the first update of each parameter, divided by its learning rate}."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    steps(network, make_optimizer(network, recipe), count=1)
    rate = {True: recipe.muon_lr, False: recipe.lr}
    return {
        name: (before[name] - p.detach()) / rate[is_filter(p)]
        for name, p in network.named_parameters()
    }


def test_the_first_muon_update_of_a_convolution_is_orthogonal_a_depthwise_ones_is_not():
    torch.manual_seed(0)
    dense, depthwise = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3, groups=24)
    network = nn.Sequential(dense, nn.ReLU(), depthwise, nn.Flatten(), nn.Linear(24 * 28 * 28, 10))
    recipe = Recipe(epochs=1, optimizer="muon", lr=0.1, muon_lr=0.02)
    update = first_update(network, recipe)
    values = torch.linalg.svdvals(update["0.weight"].flatten(1))  # 24 of (24, 27)
    assert values.max() < 1.3
    assert values.median() > 0.5
    values = torch.linalg.svdvals(update["2.weight"].flatten(1))
    assert values.max() < 0.2  # the plain gradient, which is small here


def test_every_parameter_is_in_one_group_of_muon():
    network = MODELS["net"]()
    recipe = Recipe(epochs=1, optimizer="muon", muon_lr=0.02)
    groups = make_optimizer(network, recipe).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    assert all(p.ndim == 4 and p.size(1) > 1 for p in groups[0]["params"])
    assert sum(p.ndim == 4 for p in groups[1]["params"]) == 1  # the depthwise one


def test_muons_decay_is_decoupled():
    layer = nn.Conv2d(3, 4, 3, bias=False)
    before, layer.weight.grad = layer.weight.detach().clone(), torch.zeros_like(layer.weight)
    make_optimizer(layer, Recipe(1, optimizer="muon", muon_lr=0.1, muon_decay=0.5)).step()
    torch.testing.assert_close(layer.weight.detach(), 0.95 * before)
