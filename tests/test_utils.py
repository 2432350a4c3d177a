"""Pictures: what was drawn is returned, and is what was asked for."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import record, runs

import utils
from core.augment import MEAN, STD
from dataset import CLASSES

pytestmark = pytest.mark.usefixtures("no_windows")


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def words(texts):
    return [text.get_text() for text in texts]


def test_denormalise_undoes_the_normalisation(cifar):
    images = cifar.test_images[:5]
    batch = (
        torch.tensor(images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)
    ) / torch.tensor(STD).view(3, 1, 1)
    assert np.array_equal(utils.denormalise(batch), images)


def test_samples_stand_in_the_row_of_their_class(cifar):
    picked = utils.show_samples(cifar.train_images, cifar.train_labels, each=3)
    assert (cifar.train_labels[picked] == np.arange(10)[:, None]).all()
    axes = plt.gcf().axes
    assert [axis.get_ylabel() for axis in axes[::3]] == list(CLASSES)
    assert np.array_equal(axes[4].images[0].get_array(), cifar.train_images[picked[1, 1]])


def test_augmentation_strip_shows_differing_draws(cifar):
    draws = utils.show_augmentation(cifar.train_images[0], ("flip", "standard"), draws=6)
    assert draws.shape == (2, 6, 32, 32, 3)
    assert draws.dtype == np.uint8
    assert len({draw.tobytes() for draw in draws[1]}) > 3
    assert np.array_equal(plt.gcf().axes[1].images[0].get_array(), draws[0, 0])


def test_images_are_shown_in_order(cifar):
    utils.show_images(cifar.test_images[:5], columns=2)
    axes = plt.gcf().axes
    assert len(axes) == 6
    assert np.array_equal(axes[3].images[0].get_array(), cifar.test_images[3])


@pytest.mark.parametrize("part", ["test", "val"])
def test_curves_draw_the_record(part):
    series = utils.plot_curves(record([0.5, 0.9], part=part))
    assert series[f"{part}_accuracy"] == [0.5, 0.9]
    lines = plt.gcf().axes[1].lines
    assert list(lines[1].get_ydata()) == [0.5, 0.9]
    assert "90.00%" in titles(plt.gcf())[1]


def test_confusion_matrix_by_hand():
    labels, predictions = np.array([0, 0, 1, 9]), np.array([0, 3, 1, 8])
    counts = utils.confusion_matrix(labels, predictions)
    assert counts.sum() == 4
    assert [counts[0, 0], counts[0, 3], counts[1, 1], counts[9, 8]] == [1, 1, 1, 1]


def test_confusion_picture_has_the_accuracy_of_each_class():
    labels = np.repeat(np.arange(10), 10).astype(np.uint8)
    predictions = labels.astype(np.int64)
    predictions[:3] = 1  # class 0: 70 %
    utils.plot_confusion(labels, predictions)
    bars = [bar.get_width() for bar in plt.gcf().axes[1].patches]
    assert bars == pytest.approx([70] + 9 * [100])
    assert {text.get_text() for text in plt.gcf().axes[0].texts} == {"70", "30", "100", "·"}
    assert "97.00 %" in titles(plt.gcf())[1]


def test_mistakes_are_wrong_and_the_most_confident_come_first(cifar):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(10), 200)
    labels = cifar.test_labels[:200]
    shown = utils.show_mistakes(cifar.test_images[:200], labels, probabilities, count=7)
    confidence = probabilities[shown].max(1)
    assert (probabilities[shown].argmax(1) != labels[shown]).all()
    assert (np.diff(confidence) <= 0).all()
    wrong = probabilities.argmax(1) != labels
    assert confidence[0] == probabilities[wrong].max()
    assert len(utils.mistakes(labels, probabilities)) == wrong.sum()
    first = plt.gcf().axes[0]
    assert np.array_equal(first.images[0].get_array(), cifar.test_images[shown[0]])
    assert CLASSES[labels[shown[0]]] in first.get_title()
    assert f"{confidence[0]:.0%}" in first.get_title()


def test_no_mistakes_is_no_error(cifar):
    labels = cifar.test_labels[:5]
    assert len(utils.show_mistakes(cifar.test_images[:5], labels, np.eye(10)[labels])) == 0


def test_plot_effects_shows_the_best_first():
    groups = {
        "worse": runs(0.7, 0.72, description="no colours"),
        "base": runs(0.8, 0.81, description="nothing"),
        "better": runs(0.9, 0.91, seconds=5.0, description="twice the width and half of the depth"),
    }
    effects = utils.plot_effects(groups, "base")
    assert list(effects) == ["better", "worse"]
    assert effects["better"][0].points == pytest.approx(10)
    assert effects["better"][1] == pytest.approx(3)
    assert words(plt.gca().get_yticklabels()) == [
        "twice the width and half of\nthe depth",
        "no colours",
    ]
    assert words(plt.gca().texts) == ["seconds", "+3.0", "+0.0"]
    assert "nothing" not in plt.gca().get_xlabel()
    assert utils.plot_effects(groups, "base", seconds=False, span=(-20, 30)) == effects
    assert plt.gca().get_xlim() == (-20, 30)
    assert not plt.gca().texts
    utils.plot_effects(groups, "worse")
    assert "against no colours" in plt.gca().get_xlabel()


def test_a_run_without_a_description_is_shown_by_its_name():
    utils.plot_effects({"base": runs(0.8, 0.81), "better": runs(0.9, 0.91)}, "base")
    assert words(plt.gca().get_yticklabels()) == ["better"]


def test_race_finds_the_first_crossing():
    runs = {
        "a": [record([0.5, 0.86, 0.84], 10.0), record([0.5, 0.5, 0.9], 10.0)],
        "b": [record([0.5])],
    }
    assert utils.plot_race(runs) == {"a": [20.0, 30.0], "b": [None]}
    assert utils.plot_race({"at once": [record([0.5, 0.9], 0.2)]}) == {"at once": [0.4]}


def test_pareto_draws_our_means_and_others_points_and_no_label_on_another():
    ours = {
        name: [record([0.5, a]) | {"parameters": n} for a in (0.90, 0.92)]
        for name, n in (("one", 150_000), ("two", 152_000))
    }
    drawn = utils.plot_pareto(ours, utils.published())
    assert drawn["one"] == (150_000, pytest.approx(91))
    assert drawn["cifar10-tiniest"] == (97_530, pytest.approx(94.6))
    assert len(drawn) == 2 + len(utils.published())
    axis = plt.gca()
    axis.figure.canvas.draw()
    labels = [label for label in axis.texts if label.get_text()]  # the others are lines to them
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) == len(drawn) + 1  # and the limit's
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    limit = axis.transData.transform((200_000, 0))[0]
    assert not any(box.x0 < limit < box.x1 for box in boxes)
    assert all(axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1 for box in boxes)


def test_pareto_has_room_for_a_tiny_network():
    tiny = {"tiny": [record([0.1]) | {"parameters": 500}]}
    drawn = utils.plot_pareto(tiny, utils.published())
    axis = plt.gca()
    places = axis.transData.transform([*drawn.values()])
    assert all(axis.bbox.contains(*place) for place in places)
