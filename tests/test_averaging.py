"""Mixed images, and weights averaged over the steps."""

import dataclasses

import pytest
import torch
from conftest import QUICK, TABLE_HEAD, Tiny
from torch import nn

import train
from core.recipes import Recipe
from dataset import DeviceBatches, make_batches
from experiments import sweep


class Normed(Tiny):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def mixed(small, share, **options):
    """One epoch of images that nothing but the mixing changes: (images, labels), on the CPU."""
    images, labels = small.train_images, small.train_labels
    batches = make_batches(images, labels, 64, engine="device", **options)
    batches.mixup = share
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_images_and_labels_are_mixed_by_the_same_share(small):
    plain, truth = mixed(small, 0.0)
    images, labels = mixed(small, 0.4)
    assert torch.allclose(labels.sum(1), torch.ones(len(labels)))
    assert (labels.argmax(1) == truth).all()  # the order is the same, the larger part its own
    share = 1 - labels.gather(1, truth[:, None]).squeeze(1)
    assert share.max() <= 0.4
    assert 0.15 < share.mean() < 0.2  # half of 0.4, but for partners of the same class
    for image, own, part in zip(images, plain, share, strict=True):
        if part == 0:
            continue
        rest = ((image - (1 - part) * own) / part).flatten()  # the other image, whole
        distance = (plain.flatten(1) - rest).abs().amax(1).min()
        assert distance < 1e-3 / part


def test_an_epoch_is_mixed_the_same_way_again(small):
    for one, other in zip(mixed(small, 0.4), mixed(small, 0.4), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(mixed(small, 0.4)[0], mixed(small, 0.4, seed=1)[0])


def test_test_images_are_never_mixed(small):
    batches = make_batches(small.test_images, small.test_labels, 100, train=False)
    plain, labels = next(iter(batches))
    batches.mixup = 0.4
    images, same = next(iter(batches))
    assert torch.equal(images, plain) and torch.equal(same, labels)


def test_the_share_grows_over_the_first_half():
    recipe = Recipe(10, engine="device", mixup=0.5)
    assert [recipe.mixup_at(epoch) for epoch in range(10)] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5]
    )
    with pytest.raises(ValueError, match='mixup is the device engine\'s; set engine="device"'):
        Recipe(10, mixup=0.5)


def test_the_network_is_the_mean_of_its_steps(small):
    """By hand, over the weights after every step."""
    steps = []

    def make_optimizer(model, recipe):
        optimizer = train.make_optimizer(model, recipe)
        copy = lambda *_: steps.append([p.detach().clone() for p in model.parameters()])  # noqa: E731
        optimizer.register_step_post_hook(copy)
        return optimizer

    recipe = dataclasses.replace(QUICK, ema=0.9, precision="float32")
    options = dict(device="cpu", progress=False, make_optimizer=make_optimizer)
    network, _ = train.fit(Normed, recipe, small, **options)
    expected = steps[0]
    for weights in steps[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
    for ours, mean in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, mean, atol=1e-6, rtol=1e-5)
    # The bias before the normalisation stays what it was; what is learnt differs.
    assert not torch.allclose(network.fc.weight, steps[-1][-4])


def test_the_mean_has_batch_norm_statistics_of_its_own(small):
    recipe = dataclasses.replace(QUICK, ema=0.9, precision="float32", augment="none")
    network, _ = train.fit(Normed, recipe, small, device="cpu", progress=False)
    images, _ = next(iter(make_batches(small.train_images, small.train_labels, 600, train=False)))
    with torch.no_grad():
        maps = network.conv(images)
    assert torch.allclose(network.norm.running_mean, maps.mean((0, 2, 3)), atol=0.02)
    assert network.norm.momentum == 0.1


def test_a_mean_is_resumed_to_the_bit(small, tmp_path):
    recipe = dataclasses.replace(QUICK, epochs=3, ema=0.9, mixup=0.3)

    class Stopped(Exception):
        pass

    def stop(network, history):
        if len(history) == 2:
            raise Stopped

    options = dict(device="cpu", progress=False)
    whole, record = train.fit(Normed, recipe, small, **options)
    options |= dict(checkpoint=tmp_path / "run.pt")
    with pytest.raises(Stopped):
        train.fit(Normed, recipe, small, on_epoch=stop, **options)
    for _ in range(2):  # once with two epochs to do, once with none
        network, again = train.fit(Normed, recipe, small, resume=True, **options)
        assert [e["test_loss"] for e in again["history"]] == [
            e["test_loss"] for e in record["history"]
        ]
        assert again["test_accuracy_flip"] == record["test_accuracy_flip"]
        for name, value in whole.state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name


def test_records_and_checkpoints_older_than_a_field_are_known(small, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    table = tmp_path / "table.py"
    table.write_text(
        TABLE_HEAD + 'RUNS = [Run("a", "frontier", 1, change=dict(epochs=1), model=Tiny)]\n'
    )
    monkeypatch.setattr(train, "load_cifar10", lambda progress: small)
    sweep.sweep(table, "cpu")
    path = tmp_path / "results" / "table" / "a-seed0.json"
    text = path.read_text(encoding="utf-8")
    older = "\n".join(line for line in text.splitlines() if '"mixup"' not in line)
    assert older != text
    path.write_text(older)
    before = path.stat().st_mtime_ns
    sweep.sweep(table, "cpu")
    assert path.stat().st_mtime_ns == before
    (_, run, recipe), *_ = sweep.plan(table)
    checkpoint = tmp_path / "older.pt"
    options = dict(device="cpu", progress=False, checkpoint=checkpoint)
    train.fit(run.model, recipe, small, **options)
    state = torch.load(checkpoint, weights_only=True)
    del state["identity"]["recipe"]["mixup"]
    torch.save(state, checkpoint)
    assert len(train.fit(run.model, recipe, small, resume=True, **options)[1]["history"]) == 1


def test_images_for_the_statistics_are_drawn_in_full_precision(small):
    """Not in the context in which the network computes: colours would be of few digits there."""
    more = dict(augment="flip_shift_turn_colour", ema=0.9, mixup=0.5, precision="bfloat16")
    recipe = dataclasses.replace(QUICK, **more)
    drawn = []

    class Noted(DeviceBatches):
        def __iter__(self):
            for images, labels in super().__iter__():
                drawn.append((images.dtype, torch.is_autocast_enabled("cpu")))
                yield images, labels

    def make(images, labels, batch_size, augment, engine, seed, device):
        return Noted(images, labels, batch_size, augment, True, seed, device)

    train.fit(Normed, recipe, small, device="cpu", progress=False, make_batches=make)
    assert len(drawn) > recipe.epochs * len(small.train_labels) / recipe.batch_size  # and again
    assert set(drawn) == {(torch.float32, False)}
