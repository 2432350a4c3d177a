"""What cannot be meant is refused where it comes in, in one sentence that says what is wanted."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import QUICK, Tiny
from torch import nn

import dataset
import train
import utils
from core.arrays import Cifar10, held_out, mistakes, split
from core.calibration import calibration_error
from core.optim import make_optimizer, make_schedule
from core.recipes import Recipe

WRONG_IMAGES = {
    "floats in 0..1": lambda images: images / 255,
    "channels first": lambda images: images.transpose(0, 3, 1, 2),
    "64x64": lambda images: images.repeat(2, axis=1).repeat(2, axis=2),
    "28x28": lambda images: images[:, 2:30, 2:30],
    "grey": lambda images: images.mean(3).astype(np.uint8),
    "one image": lambda images: images[0],
    "none": lambda images: images[:0],
    "integers": lambda images: images.astype(np.int64),
    "names": lambda images: np.array(["cat.png"] * len(images)),
}
WRONG_LABELS = {
    "ten for all": lambda labels: np.arange(10),
    "a class too many": lambda labels: np.where(labels == 9, 10, labels),
    "negative": lambda labels: labels.astype(int) - 1,
    "one-hot": lambda labels: np.eye(10)[labels],
    "not a number": lambda labels: np.where(labels == 0, np.nan, labels),
    "halves": lambda labels: labels + 0.5,
    "names": lambda labels: np.array(utils.CLASSES)[labels],
    "one too few": lambda labels: labels[1:],
}


def doors(data):
    """{name: what takes images and labels}."""
    network = Tiny()
    return {
        "make_batches": lambda i, y: dataset.make_batches(i, y, 64),
        "albumentations": lambda i, y: dataset.make_batches(i, y, 64, "flip", "albumentations"),
        "evaluate": lambda i, y: train.evaluate(network, i, y),
        "fit": lambda i, y: train.fit(Tiny, QUICK, (i, y, *data[2:]), progress=False),
        "tested by": lambda i, y: train.fit(Tiny, QUICK, (*data[:2], i, y), progress=False),
        "show_samples": lambda i, y: utils.show_samples(i, y),
    }


@pytest.mark.parametrize("door", doors((None,) * 4))
@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_wrong_images(door, wrong, small):
    images = WRONG_IMAGES[wrong](small.train_images)
    with pytest.raises(ValueError, match=r"they must be uint8 \(N, 32, 32, 3\), RGB"):
        doors(small)[door](images, small.train_labels[: len(images)])


@pytest.mark.parametrize("door", doors((None,) * 4))
@pytest.mark.parametrize("wrong", WRONG_LABELS)
def test_wrong_labels(door, wrong, small):
    labels = WRONG_LABELS[wrong](small.train_labels)
    with pytest.raises(ValueError, match=r"whole numbers in 0\.\.9|give one for each"):
        doors(small)[door](small.train_images, labels)


def test_lists_are_taken_for_arrays(small):
    images, labels = small.test_images[:50], small.test_labels[:50]
    network = Tiny()
    one = train.evaluate(network, images, labels)
    two = train.evaluate(network, list(images), labels.tolist())
    assert one.accuracy == two.accuracy
    assert np.array_equal(
        split(small.train_labels, 100)[1], split(small.train_labels.tolist(), 100)[1]
    )
    images, labels = np.zeros((6000, 32, 32, 3), np.uint8), np.arange(6000) % 10
    kept = held_out(Cifar10(list(images), labels.tolist(), images, labels))
    assert [len(part) for part in kept] == [1000, 1000, 5000, 5000]


WRONG_RECIPES = [
    (dict(optimizer="muon"), "muon_lr is 0"),
    (dict(engine="albumentations", views=((0, 32, 0, 24),)), "views is the device engine's"),
    (dict(augment="standard"), "The device engine does not know the augmentation 'standard'"),
    (dict(warmup=-1), "warmup is -1; it must be a number from 0 to 0.9999"),
    (dict(warmup=1), "warmup is 1"),
    (dict(lr=-1), "lr is -1"),
    (dict(lr="0.1"), "lr is '0.1'; it must be a number"),
    (dict(lr=float("nan")), "lr is nan"),
    (dict(lr=float("inf")), "lr is inf"),
    (dict(step_epochs=0), "step_epochs is 0; it must be a whole number from 1"),
    (dict(label_smoothing=2), "label_smoothing is 2"),
    (dict(momentum=1.5), "momentum is 1.5"),
    (dict(weight_decay=-1e-4), "weight_decay is -0.0001"),
    (dict(seed=10**20), "seed is 1"),
    (dict(seed=-1), "seed is -1"),
    (dict(seed=2**32), "seed is 4294967296"),  # torch would take it for 0
    (dict(seed=1.0), "seed is 1.0"),
    (dict(epochs=10**29), "epochs is 1"),
    (dict(epochs=True), "epochs is True"),
    (dict(batch_size=0), "batch_size is 0"),
    (dict(nesterov="yes"), "nesterov is 'yes'; it must be True or False"),
    (dict(nesterov=True, momentum=0), "nesterov needs a momentum"),
    (dict(optimizer=["sgd"]), r"optimizer is \['sgd'\]"),
    (dict(views=24), "views is 24"),
    (dict(views=((0, 32, 32, 24),)), "pad < side"),
    (dict(views=((0, 32, 0, 24), (0.7, 32, 0, 28), (0.5, 32, 0, 28))), "they come in order"),
    (dict(views=((0, 32.0, 0, 24),)), "whole numbers of pixels"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_RECIPES)
def test_recipes_that_cannot_mean_it(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(QUICK, **change)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Tiny(), "model is of class Tiny; fit builds the network itself"),
        (None, "model is of class NoneType"),
        (3, "model is of class int"),
        ("nett", "Unknown model 'nett'; did you mean net"),
        (lambda: None, "model builds a NoneType; it must build a network"),
    ],
)
def test_what_builds_no_network(model, message, small):
    with pytest.raises(ValueError, match=message):
        train.fit(model, QUICK, small, progress=False)


@pytest.mark.parametrize("parts", [0, 2, 5])
def test_what_is_no_data_set(parts, small):
    with pytest.raises(ValueError, match="data must be a Cifar10: training images, their labels"):
        train.fit(Tiny, QUICK, [small.test_labels] * parts, progress=False)


@pytest.mark.parametrize("recipe", ["sprint", None, dict(epochs=1)])
def test_what_is_no_recipe(recipe, small):
    with pytest.raises(ValueError, match="it must be a Recipe"):
        train.fit(Tiny, recipe, small, progress=False)


def test_a_warm_up_of_one_step():
    recipe = Recipe(epochs=2, schedule="onecycle", warmup=0.25)
    with pytest.raises(ValueError, match="one of 4 steps, too short for OneCycle"):
        make_schedule(make_optimizer(nn.Linear(1, 1), recipe), recipe, 2)


def test_too_few_images_to_hold_some_out(small):
    with pytest.raises(ValueError, match="5000 images cannot be held out"):
        train.fit(Tiny, QUICK, small, validate=True, progress=False)
    with pytest.raises(ValueError, match="3 images cannot be held out"):
        split(small.train_labels, 3)
    with pytest.raises(ValueError, match=r"15 images cannot be held out: .*a multiple of 10 below"):
        split(small.train_labels, 15)
    with pytest.raises(ValueError, match="one class has 0"):
        split(small.train_labels[small.train_labels != 4], 100)


def test_wrong_test_images_are_told_before_the_training(small):
    def never(*_):
        raise AssertionError

    wrong = (*small[:3], small.test_labels[1:])
    with pytest.raises(ValueError, match="labels for"):
        train.fit(Tiny, QUICK, wrong, progress=False, train_epoch=never)


def test_what_a_network_returns_is_taken_as_it_is(small):
    """A tensor, with its graph: by all that take labels or probabilities."""
    labels = torch.tensor(small.test_labels)
    answers = torch.rand(len(labels), 10, requires_grad=True)
    plain = answers.detach().numpy()
    assert mistakes(labels, answers).tolist() == mistakes(small.test_labels, plain).tolist()
    error = calibration_error(answers / 10, labels)
    assert error == pytest.approx(calibration_error(plain / 10, small.test_labels))
    assert len(utils.show_mistakes(torch.tensor(small.test_images), labels, answers, count=3)) == 3
    with pytest.raises(ValueError, match="The images are float32"):
        dataset.make_batches(torch.rand(8, 32, 32, 3), labels[:8], 4)


def test_a_last_batch_of_one_image(small):
    class Pooled(Tiny):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x):
            return self.fc(self.norm(self.conv(x).mean((2, 3))))

    few = dataset.Cifar10(small.train_images[:129], small.train_labels[:129], *small[2:])
    with pytest.raises(ValueError, match="The last batch has one image"):
        train.fit(Pooled, QUICK, few, progress=False)


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_leaves_every_modules_mode_as_it_was(small, fails):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Tail(fails))
    network.train()
    network[1].eval()
    before = [module.training for module in network.modules()]
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            train.evaluate(network, small.test_images, small.test_labels)
    else:
        train.evaluate(network, small.test_images, small.test_labels)
    assert [module.training for module in network.modules()] == before


class Tail(nn.Module):
    def __init__(self, fails):
        super().__init__()
        self.fails = fails

    def forward(self, x):
        if self.fails:
            raise RuntimeError("on purpose")
        return x.mean((2, 3)) @ torch.ones(4, 10)


def test_pictures_of_missing_classes_and_wrong_shapes(small):
    labels = np.zeros(20, int)
    assert utils.plot_confusion(labels, labels)[0, 0] == 20
    with pytest.raises(ValueError, match=r"The probabilities are \(20,\); they must be \(N, 10\)"):
        utils.show_mistakes(small.test_images[:20], labels, labels)
    with pytest.raises(ValueError, match="There are 30 labels for 20 images"):
        utils.show_mistakes(small.test_images[:20], [0] * 30, np.eye(10)[[0] * 30])
    with pytest.raises(ValueError, match="There are not 500 images of each class, but 60"):
        utils.show_samples(small.train_images, small.train_labels, each=500)
