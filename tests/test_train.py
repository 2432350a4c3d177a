"""Training and evaluation."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import QUICK, Tiny
from torch import nn

import train as t
from core.common import TrainingError
from core.recipes import Recipe
from dataset import make_batches


def test_averages_are_weighted_by_samples(small):
    """600 images in batches of 256, 256 and 88; with a learning rate of 0 the training loss is that
    of the fixed network.
    """
    network, record = t.fit(
        Tiny,
        Recipe(epochs=1, batch_size=256, lr=1e-30, engine="device"),
        data=small,
        progress=False,
    )
    whole = t.evaluate(network, small.train_images, small.train_labels)
    parts = t.evaluate(network, small.train_images, small.train_labels, batch_size=256)
    assert record["history"][0]["train_loss"] == pytest.approx(whole.loss, abs=1e-5)
    assert record["history"][0]["train_accuracy"] == pytest.approx(whole.accuracy, abs=1e-6)
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)


@pytest.mark.parametrize("size", [1, 7, 300])
def test_how_many_images_are_evaluated_at_a_time_changes_nothing(size, small):
    few = small.test_images[:150], small.test_labels[:150]
    network = Tiny()
    usual, other = t.evaluate(network, *few), t.evaluate(network, *few, batch_size=size)
    assert usual.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert usual.loss == pytest.approx(other.loss, abs=1e-6)


def test_evaluate_leaves_the_network_as_it_was(small):
    network = t.MODELS["net"]().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = t.evaluate(network, small.test_images, small.test_labels)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert result.probabilities.shape == (300, 10)
    assert result.probabilities.sum(1) == pytest.approx(np.ones(300), abs=1e-5)
    # Exactly: 85.00 % are not to be missed by a rounding.
    assert result.accuracy == (result.predictions == small.test_labels).mean()
    with pytest.raises(ValueError, match="batch size is 0"):
        t.evaluate(network, small.test_images, small.test_labels, batch_size=0)


def test_a_run_twice_is_the_same_run_and_leaves_a_whole_record(small):
    runs = [t.fit("net", QUICK, small, device="cpu", progress=False) for _ in range(2)]
    states = [network.state_dict() for network, _ in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    record = json.loads(json.dumps(runs[0][1]))
    assert record["test_accuracy"] == record["history"][-1]["test_accuracy"]
    assert (record["model"], record["parameters"], record["seed"]) == (
        "net",
        t.count_parameters(runs[0][0]),
        0,
    )
    assert set(record["recipe"]) == {field.name for field in dataclasses.fields(t.Recipe)}
    assert Recipe(**record["recipe"]) == QUICK
    assert {"lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"} <= set(
        record["history"][0]
    )
    assert record["seconds"] > 0
    assert {"device", "versions"} <= set(record)


def test_validation_never_touches_the_test_set(cifar):
    poisoned = cifar._replace(test_images=None, test_labels=None)
    recipe = dataclasses.replace(QUICK, epochs=1, batch_size=5000)
    _, record = t.fit(Tiny, recipe, data=poisoned, validate=True, progress=False)
    assert "val_accuracy" in record
    assert "test_accuracy" not in record


class Watched(Tiny):
    """Notes in what precision and memory order its convolution computes while it is trained."""

    seen = set()  # noqa: RUF012

    def forward(self, x):
        if self.training:
            order = x.is_contiguous(memory_format=torch.channels_last)
            self.seen.add((self.conv(x).dtype, order, x.is_contiguous()))
        return super().forward(x)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.filterwarnings("error:Detected call of `lr_scheduler.step")
def test_precisions_compute_in_what_they_say_and_learn_the_same(small, precision):
    Watched.seen.clear()
    recipe = dataclasses.replace(QUICK, epochs=6, lr=0.3, precision=precision)
    _, record = t.fit(Watched, recipe, data=small, device="cpu", progress=False)
    assert {dtype for dtype, *_ in Watched.seen} == {getattr(torch, precision)}
    plain = dataclasses.replace(recipe, precision="float32")
    _, expected = t.fit(Tiny, plain, data=small, device="cpu", progress=False)
    losses = [run["history"][-1]["train_loss"] for run in (expected, record)]
    assert losses[0] < 2  # ln 10 = 2.30 is chance
    assert losses[1] == pytest.approx(losses[0], abs=0.03)
    assert record["precision"] == precision


@pytest.mark.parametrize("channels_last", [True, False])
def test_training_has_the_memory_order_of_its_recipe(small, channels_last):
    Watched.seen.clear()
    recipe = dataclasses.replace(QUICK, epochs=1, channels_last=channels_last)
    t.fit(Watched, recipe, small, device="cpu", progress=False)
    assert {tuple(orders) for _, *orders in Watched.seen} == {(channels_last, not channels_last)}


def test_a_variant_is_an_argument(small):
    """Each of fit's steps can be another function; nothing stays changed."""
    called = []

    def note(name, function):
        def instead(*arguments, **options):
            called.append(name)
            return function(*arguments, **options)

        return instead

    names = ("make_batches", "make_optimizer", "make_schedule", "train_epoch")
    variants = {name: note(name, getattr(t, name)) for name in names}
    epochs = []
    variants["on_epoch"] = lambda model, history: epochs.append(len(history))
    one, _ = t.fit("net", QUICK, small, progress=False, **variants)
    assert called == [*names, "train_epoch"]
    assert epochs == [1, 2]
    two, _ = t.fit("net", QUICK, small, progress=False)
    assert len(called) == 5
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_wrong_logits_are_explained(small):
    def wrong():
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))

    with pytest.raises(
        ValueError,
        match=r"returns \(64, 7\) for a batch of 64 images; .* logits of shape \(64, 10\)",
    ):
        t.fit(wrong, QUICK, data=small, progress=False)


def test_diverged_training_stops(small):
    with pytest.raises(TrainingError, match="lower the learning rate"):
        t.fit(Tiny, dataclasses.replace(QUICK, lr=1e30, epochs=5), data=small, progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_is_the_same_training_whoever_augments(small, workers):
    def batches(*arguments, **options):
        return make_batches(*arguments, **options, workers=workers)

    recipe = dataclasses.replace(QUICK, augment="standard", engine="albumentations")
    options = dict(data=small, device="cpu", progress=False, make_batches=batches)
    pairs = zip(*(t.fit(Tiny, recipe, **options)[1]["history"] for _ in range(2)), strict=True)
    for one, two in pairs:
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in two.items() if "seconds" not in k
        }


@pytest.mark.parametrize(("ema", "spent"), [(0, [5 + 10, 10]), (0.9, [5 + 10 + 9, 10 + 9])])
def test_seconds_are_those_of_the_training_alone(ema, spent, small, monkeypatch):
    """Building the network is one of its parts, statistics for the averaged one another."""
    now = [0.0]

    class Timed(Tiny):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            now[0] += 5

        def forward(self, x):
            now[0] += 1 if self.training else 10 * len(x)
            return super().forward(self.norm(x))

    monkeypatch.setattr(t.time, "perf_counter", lambda: now[0])
    recipe = dataclasses.replace(QUICK, ema=ema)
    _, record = t.fit(Timed, recipe, small, device="cpu", progress=False)
    assert [epoch["seconds"] for epoch in record["history"]] == spent  # 10 batches of 64, or less
    assert record["seconds"] == sum(spent)
    assert record["evaluation_seconds"] == 2 * 10 * 300


def test_each_epoch_has_the_view_and_the_mixture_of_its_recipe(small):
    seen = []

    def epoch(model, batches, *rest):
        seen.append((tuple(batches.view), batches.mixup))
        return t.train_epoch(model, batches, *rest)

    views = ((0, 32, 0, 24), (0.5, 32, 0, 28))
    recipe = dataclasses.replace(QUICK, augment="flip", views=views, mixup=0.4)
    t.fit(Tiny, recipe, small, progress=False, train_epoch=epoch)
    assert seen == [((32, 0, 24), 0.0), ((32, 0, 28), 0.4)]


def test_flip_is_the_mean_of_logits(small):
    network, labels = Tiny(), small.test_labels
    options = dict(batch_size=100, train=False)
    views = [
        t.classify(network, make_batches(images, labels, **options), "float32")[0]
        for images in (small.test_images, small.test_images[:, :, ::-1])
    ]
    flipped = t.evaluate(network, small.test_images, labels, precision="float32", flip=True)
    expected = (sum(views) / 2).softmax(1).numpy()
    assert flipped.probabilities == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])  # one of them is not "auto"
def test_a_run_is_judged_with_its_own_normalisation_and_precision(precision, small, monkeypatch):
    flips, evaluate = [], t.evaluate

    def noted(*arguments):
        flips.append(arguments[-1])
        return evaluate(*arguments)

    monkeypatch.setattr(t, "evaluate", noted)
    recipe = Recipe(1, batch_size=300, augment="wide", precision=precision)
    network, record = t.fit(Tiny, recipe, small, device="cpu", progress=False)
    asked = network, small.test_images, small.test_labels, "wide", precision
    again, flipped = (evaluate(*asked, flip=flip) for flip in (False, True))
    assert record["history"][0]["test_loss"] == pytest.approx(again.loss, abs=1e-6)
    assert record["test_accuracy_flip"] == flipped.accuracy
    assert flips == [False, True]


def test_another_seed_is_another_network_in_another_order(small):
    seen = []

    def epoch(model, batches, *rest):
        seen.append((model.conv.weight.detach().clone(), next(iter(batches))[0]))
        return 1.0, 0.1

    for seed in (0, 1, 0):
        recipe = dataclasses.replace(QUICK, epochs=1, seed=seed)
        t.fit(Tiny, recipe, small, progress=False, train_epoch=epoch)
    first, other, again = seen
    assert not any(map(torch.equal, first, other))
    assert all(map(torch.equal, first, again))


def test_a_network_for_whole_images_alone_is_told_so(small):
    def network():
        pooled = nn.Conv2d(3, 8, 8, 8), nn.AvgPool2d(4), nn.Flatten()
        return nn.Sequential(*pooled, nn.Linear(8, 10))

    recipe = dataclasses.replace(QUICK, views=((0, 32, 0, 24),), augment="flip")
    with pytest.raises(
        ValueError,
        match="32x32 alone.* crops of 24x24 .*AdaptiveAvgPool2d",
    ):
        t.fit(network, recipe, small, device="cpu", progress=False)


def test_a_view_over_a_map_is_told_and_trained_in_the_order_that_it_needs(small):
    class Viewed(nn.Sequential):
        def forward(self, x):
            return self[2](self[1](self[0](x)).view(-1, 8 * 16))

    def network():
        return Viewed(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.Linear(8 * 16, 10))

    with pytest.raises(ValueError, match=r"\.reshape or \.flatten .*channels_last=False"):
        t.fit(network, QUICK, small, device="cpu", progress=False)
    recipe = dataclasses.replace(QUICK, channels_last=False, ema=0.9)
    _, record = t.fit(network, recipe, small, device="cpu", progress=False)
    assert record["test_accuracy_flip"] is not None


@pytest.mark.parametrize(
    ("last", "message"), [(nn.Linear(8, 9), "returns .*, 9"), (nn.Linear(9, 10), "cannot be mult")]
)
def test_crops_are_not_blamed_for_other_faults(last, message, small):
    def network():
        return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)

    recipe = dataclasses.replace(QUICK, views=((0, 32, 0, 24),), augment="flip")
    with pytest.raises((ValueError, RuntimeError), match=message):
        t.fit(network, recipe, small, device="cpu", progress=False)
