"""What a recipe cannot mean is refused when it is made."""

import dataclasses
import json

import pytest
import torch
from conftest import QUICK

from core.recipes import EXPLAINED, RECIPES, Recipe, in_use


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(epochs=0), "epochs is 0"),
        (dict(epochs=2.5), "epochs is 2.5"),
        (dict(optimizer="sdg"), "optimizer is 'sdg'; it must be one of sgd"),
        (dict(augment="mixup"), "augment is 'mixup'"),
        (dict(precision="int8"), "precision is 'int8'"),
        (dict(views=((0, 24, 0, 28),)), "crop <= side"),
        (dict(views=((0, 24, 0),)), "each is .start, side, pad, crop."),
        (dict(views=((0.5, 32, 0, 28),)), "the first starts at 0"),
        (dict(views=((0, 32, 0, 24),)), "views have shifts of their own, so that 'flip_shift'"),
    ],
)
def test_recipes_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(QUICK, **change)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_record(name):
    recipe = RECIPES[name]
    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


def test_the_last_view_that_has_begun_is_the_one_in_force():
    recipe = RECIPES["sprint"]
    assert [recipe.view_at(epoch) for epoch in (0, 4, 5, 9)] == [
        (32, 0, 24),
        (32, 0, 24),
        (32, 0, 28),
        (32, 0, 28),
    ]
    hundred = dataclasses.replace(RECIPES["lean"], epochs=100)  # 0.55 * 100 > 55
    assert [hundred.view_at(epoch)[2] for epoch in (54, 55)] == [24, 28]


def test_what_nothing_reads_is_not_in_use():
    fields = in_use(Recipe(3, optimizer="sgd", schedule="step", nesterov=True))
    assert {"momentum", "nesterov", "step_epochs", "step_gamma", "seed"} <= set(fields)
    assert not {"warmup", "muon_lr", "label_smoothing", "views"} & set(fields)
    assert not {"momentum", "nesterov", "step_gamma"} & set(in_use(Recipe(3, optimizer="adam")))
    assert "momentum" not in in_use(Recipe(3, schedule="onecycle"))  # which has its own
    assert "warmup" in in_use(Recipe(3, optimizer="adam", schedule="onecycle"))


def test_every_field_is_explained():
    assert list(EXPLAINED) == [field.name for field in dataclasses.fields(Recipe)]


def test_on_a_macs_gpu_a_recipe_is_computed_in_another_order():
    assert QUICK.on(torch.device("cpu")) is QUICK
    there = QUICK.on(torch.device("mps"))
    assert not there.channels_last
    assert dataclasses.replace(there, channels_last=True) == QUICK
