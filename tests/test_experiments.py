"""What the tables in experiments/ put in the place of train.py's own does what it says."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn

import model
import train
from analysis import check_assignment, receptive_field
from core.augment import AUGMENTATIONS, pipeline
from core.optim import make_optimizer
from core.recipes import DEFAULTS, RECIPES, settings
from core.records import part_of
from dataset import AlbumentationsBatches, Cifar10, make_batches
from experiments.sweep import load_table, recipe_of


@pytest.fixture(scope="module")
def sprint():
    return load_table(ROOT / "experiments" / "06_sprint.py")


TABLES = sorted((ROOT / "experiments").glob("[0-9]*.py"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_record_is_a_run_of_its_table(path):
    runs = {run.name: run for run in load_table(path).RUNS}
    for file in (ROOT / "results" / path.stem).glob("*.json"):
        name, seed = file.stem.rsplit("-seed", 1)
        record, run = json.loads(file.read_text(encoding="utf-8")), runs[name]
        assert DEFAULTS | record["recipe"] == settings(recipe_of(run, int(seed))), file
        assert record["model"] == getattr(run.model, "__name__", run.model), file
        assert record["description"] == run.description, file
        assert part_of(record) == ("val" if run.validate else "test"), file
        assert int(seed) < run.seeds, file


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_comparisons_are_of_runs_of_the_table(path):
    table = load_table(path)
    names = [run.name for run in table.RUNS]
    assert len(set(names)) == len(names)
    for comparison in getattr(table, "COMPARISONS", []):
        assert {comparison.base, *comparison.others} <= set(names)
        assert comparison.base not in comparison.others


def test_a_table_does_nothing_when_it_is_imported():
    """It loads no data, and changes nothing that belongs to another module."""
    code = (
        "import importlib, pathlib, dataset, train; "
        "before = set(dataset.AUGMENTATIONS), train.fit, train.load_cifar10; "
        "tables = sorted(path.stem for path in pathlib.Path('experiments').glob('[0-9]*.py')); "
        "[importlib.import_module('experiments.' + table) for table in tables]; "
        "assert len(tables) > 6; "
        "assert before == (set(dataset.AUGMENTATIONS), train.fit, train.load_cifar10)"
    )
    nowhere = os.environ | {"CIFAR10_ROOT": "/nowhere"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=nowhere, check=True)


def test_whitened_filters_decorrelate_patches(sprint, cifar):
    network = sprint.whitened()
    first = network.c1[0][0]
    images, _ = next(iter(make_batches(cifar.test_images, cifar.test_labels, 1000, train=False)))
    with torch.no_grad():
        outputs = (
            first(images)[:, :, 1:-1, 1:-1].permute(1, 0, 2, 3).flatten(1)
        )  # (32, pixels), without the padded border
    assert torch.equal(outputs[:16], -outputs[16:])
    covariance = torch.cov(outputs[:16])
    strength = covariance.diagonal()
    assert (strength > 0.5).all()
    assert (strength < 1.3).all()
    assert (covariance - torch.diag(strength)).abs().max() < 0.15
    assert not first.weight.requires_grad


def test_dirac_convolutions_start_as_the_identity(sprint):
    convolution = sprint.dirac().c2[1][0][0]
    x = torch.randn(2, 64, 8, 8)
    assert torch.allclose(convolution(x), x)


def test_narrow_is_smaller_and_keeps_the_rules(sprint):
    network = sprint.narrow()
    assert model.count_parameters(network) < model.count_parameters(model.Net())
    assert all(rule.passed for rule in check_assignment(network))


def test_fast_biases_are_those_of_batchnorm_and_nothing_is_lost(sprint):
    network, recipe = model.Net(), RECIPES["sprint"]
    groups = sprint.fast_biases(network, recipe).param_groups
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(
        id(p) for p in network.parameters()
    )
    biases = {id(m.bias) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    assert {
        id(p) for group in groups if group["lr"] == 8 * recipe.lr for p in group["params"]
    } == biases
    assert groups[-1]["lr"] == recipe.lr  # the one that the record shows


def test_lookahead_goes_back_half_of_the_way(sprint):
    def after(steps, make):
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        optimizer = make(layer, RECIPES["sprint"])
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(1, 4)).square().sum().backward()
            optimizer.step()
        return layer.weight.detach()

    five, ten = after(5, make_optimizer), after(10, make_optimizer)
    assert torch.equal(after(5, sprint.lookahead), five)  # the first slow weights
    assert torch.allclose(after(10, sprint.lookahead), (five + ten) / 2)


def test_alternating_flip_mirrors_each_image_in_every_other_epoch(sprint, cifar):
    images, labels = cifar.train_images[:100], cifar.train_labels[:100]
    batches = sprint.make_alternating(images, labels, 100, "flip", "device", 0, "cpu")
    seen = []
    for epoch in range(3):
        batches.epoch = epoch
        order = batches.order(torch.Generator().manual_seed(1_000_003 * batches.seed + epoch))
        images, _ = next(iter(batches))
        seen.append(torch.empty_like(images).index_copy_(0, order, images))
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[0], seen[1].flip(3))
    plain, _ = next(
        iter(make_batches(cifar.train_images[:100], cifar.train_labels[:100], 100, train=False))
    )
    assert 20 < (seen[0] == plain).flatten(1).all(1).sum() < 80


def test_pruning_leaves_out_half_of_the_easy_and_keeps_the_mean_gradient(sprint):
    images, labels = np.zeros((1000, 32, 32, 3), np.uint8), np.zeros(1000)
    batches = sprint.make_pruned(images, labels, 100, "none", "device", 0, "cpu")
    batches.losses = torch.arange(1000.0)
    used = batches.order(torch.Generator().manual_seed(0))
    assert len(used) == len(set(used.tolist())) == 800
    assert set(range(400, 1000)) <= set(used.tolist())
    assert batches.weights[used].sum() == 1000
    assert len(batches) == len(list(batches)) == 8


def test_the_augmentations_are_as_strong_as_they_say():
    load_table(ROOT / "experiments" / "03_augmentation.py")  # adds its pipelines
    noise = np.random.default_rng(0).integers(1, 255, (32, 32, 3), dtype=np.uint8)

    def draws(name, count=400):
        compose = pipeline(name, normalise=False, seed=0)
        return np.array([compose(image=noise)["image"] for _ in range(count)])

    for name, side in (("cutout 8", 8), ("cutout", 16), ("cutout 24", 24)):
        hidden = (draws(name) != noise).any(3).sum((1, 2))
        assert set(hidden.tolist()) == {0, side**2}
        assert 150 < (hidden > 0).sum() < 250
    changed = {
        name: (draws(name) != noise).any((1, 2, 3)).mean()
        for name in ("none", "flip", "standard", "all, always")
    }
    assert changed["none"] == 0
    assert 0.4 < changed["flip"] < 0.6
    assert 0.8 < changed["standard"] < 0.95
    assert changed["all, always"] == 1
    mean = np.array([125, 123, 114])
    uncovered = [
        (abs(draws(name).astype(int) - mean) < 2).all(3).mean()
        for name in ("shift-scale-rotate", "ssr strong", "ssr extreme")
    ]
    assert uncovered[0] * 1.5 < uncovered[1] < uncovered[2] / 1.5


@pytest.fixture(scope="module")
def mistakes():
    return load_table(ROOT / "experiments" / "02_mistakes.py")


def test_the_wrong_pipelines_are_wrong_as_they_say(mistakes):
    white = np.full((32, 32, 3), 255, np.uint8)

    def draws(name):
        compose = pipeline(name, normalise=False, seed=0)
        return np.stack([compose(image=white)["image"] for _ in range(400)])

    black = (draws("mistakes: black") == 0).all(3).sum((1, 2))
    assert 150 < black.max() <= 256  # a whole hole, or what the frame left of it
    defaults = (draws("mistakes: defaults") == 0).all(3).sum((1, 2))
    assert defaults.max() < 100
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[12:20, 12:20] = 255
    compose = pipeline("mistakes: zoomed", normalise=False)
    areas = [(compose(image=picture)["image"] > 128).all(2).sum() for _ in range(200)]
    assert 190 < max(areas) < 300  # 64 pixels, magnified up to 2.1 times


def test_a_schedule_stepped_per_epoch_hardly_moves(mistakes):
    recipe = dataclasses.replace(RECIPES["compact"], epochs=3)
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    schedule = mistakes.stepped_per_epoch(optimizer, recipe, 10)
    rates = []
    for _ in range(30):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert len(set(rates[:10])) == len(set(rates[10:20])) == 1
    assert len(set(rates)) == 3
    assert max(rates) < recipe.lr / 5


def test_replayed_workers_repeat_themselves_and_ours_do_not(mistakes):
    noise = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8)
    images, labels = np.repeat(noise, 64, axis=0), np.zeros(64, np.uint8)

    def distinct(batches_class):
        batches = batches_class(images, labels, 8, "standard", seed=0, device="cpu", workers=2)
        return len(
            {image.numpy().tobytes() for _ in range(2) for batch, _ in batches for image in batch}
        )

    assert distinct(mistakes.Replayed) < 0.4 * distinct(AlbumentationsBatches)


def test_the_ways_to_see_far_differ_in_nothing_else():
    networks = {
        run.name: run.model() for run in load_table(ROOT / "experiments" / "05_dilated.py").RUNS
    }
    shapes = {
        name: [tuple(p.shape) for p in network.parameters()] for name, network in networks.items()
    }
    assert len({tuple(found) for found in shapes.values()}) == 1
    fields = {name: receptive_field(network) for name, network in networks.items()}
    assert (
        fields["plain-map"]
        < fields["dilated-map"]
        == fields["dilation-1"]
        < fields["dilation-2"]
        < fields["dilation-3"]
    )


def test_candidates_for_the_frontier_keep_every_rule():
    lines = load_table(ROOT / "experiments" / "07_frontier.py").RUNS
    for build in {line.model for line in lines}:
        assert all(rule.passed for rule in check_assignment(build())), build
    chosen = next(line for line in lines if line.name == "16-32-64").model()
    shapes = [(name, value.shape) for name, value in chosen.state_dict().items()]
    trained = model.MODELS["frontier"]().state_dict().items()
    assert shapes == [(name, value.shape) for name, value in trained]


def test_the_gpu_table_is_rehearsed(small):
    lines = load_table(ROOT / "experiments" / "07_frontier_gpu.py").RUNS
    for line in lines:
        dataclasses.replace(RECIPES[line.recipe], **line.change)  # its values are checked
    for build in {line.model for line in lines}:
        assert all(rule.passed for rule in check_assignment(build())), build
    few = Cifar10(*(part[:64] for part in small))
    kinds = {(line.model, *line.variants): line for line in lines}  # taught ones, too
    assert len(kinds) == 5
    for line in kinds.values():
        recipe = dataclasses.replace(RECIPES[line.recipe], **line.change | dict(epochs=1))
        _, record = train.fit(line.model, recipe, few, progress=False, **line.variants)
        assert 2 < record["history"][0]["train_loss"] < 2.5


@pytest.fixture(scope="module")
def leaner():
    return load_table(ROOT / "experiments" / "06_leaner.py")


def test_only_the_harder_half_is_trained_on_and_the_schedule_comes_to_its_end(small, leaner):
    rates, seen = [], []

    def epoch(model, batches, *rest):
        found = leaner.hard_epoch(model, batches, *rest)
        seen.append(None if batches.chosen is None else batches.chosen.clone())
        rates.append(rest[1].get_last_lr()[0])
        if len(seen) == leaner.BEGINS:  # what the next epoch has to choose by
            rest = model, batches, train_recipe, "float32"
            hardness.append(leaner.losses_of(*rest))
        return found

    hardness = []
    short = dict(epochs=5, batch_size=64, precision="float32")
    train_recipe = dataclasses.replace(RECIPES["lean"], **short)
    train.fit(
        "net",
        train_recipe,
        small,
        device="cpu",
        progress=False,
        make_batches=leaner.make_chosen,
        train_epoch=epoch,
    )
    assert seen[: leaner.BEGINS] == [None] * leaner.BEGINS
    chosen = seen[leaner.BEGINS]
    assert chosen.sum() == leaner.HARD * len(small.train_labels)
    assert hardness[0][chosen].min() >= hardness[0][~chosen].max()
    assert rates[-1] == pytest.approx(0, abs=1e-6)  # as many steps of the schedule as planned


def test_an_image_is_as_hard_as_its_own_loss_at_that_size(small, leaner):
    recipe = RECIPES["lean"]
    batches = make_batches(small.train_images, small.train_labels, 64, recipe.augment, "device")
    network = model.Net()
    found = leaner.losses_of(network, batches, recipe, "float32")
    mean, std = AUGMENTATIONS[recipe.augment].mean, AUGMENTATIONS[recipe.augment].std
    images = torch.tensor(small.train_images).permute(0, 3, 1, 2).float()  # (N, 3, 32, 32)
    size = (leaner.SIDE, leaner.SIDE)
    images = F.interpolate(images, size, mode="bilinear", antialias=True).round()
    images = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        logits = network.eval()(images)
    expected = F.cross_entropy(logits, torch.tensor(small.train_labels).long(), reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gelu_takes_the_place_of_every_relu(leaner):
    network, plain = leaner.gelu(), model.Net()
    kinds = [type(module) for module in network.modules()]
    assert nn.ReLU not in kinds
    assert kinds.count(nn.GELU) == sum(isinstance(m, nn.ReLU) for m in plain.modules())
