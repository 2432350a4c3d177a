"""Pictures of a trained network show what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import utils
from core.photos import open_photo
from core.pictures import likeliest

pytestmark = pytest.mark.usefixtures("no_windows")


def test_the_overlay_is_bright_where_it_is_hot():
    image = np.full((64, 64, 3), 100, np.uint8)
    heat = np.zeros((32, 32))
    heat[:16, :16] = 1
    drawn = utils.overlay(image, heat)
    assert (drawn.shape, drawn.dtype) == ((64, 64, 3), np.uint8)
    assert drawn[:28, :28].mean() > 2 * drawn[36:, 36:].mean()
    assert np.array_equal(utils.overlay(image, heat, strength=0), image)


def test_each_image_stands_beside_its_heat():
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    heats = np.random.default_rng(1).random((4, 32, 32))
    drawn = utils.show_heat(images, heats, ["a", "b", "c", "d"])
    axes = plt.gcf().axes
    assert len(axes) == 12  # two rows of three pairs
    for number in range(4):
        assert np.array_equal(axes[2 * number].images[0].get_array(), images[number])
        assert np.array_equal(axes[2 * number + 1].images[0].get_array(), drawn[number])
    assert [axis.get_title(loc="left") for axis in axes[::2]] == ["a", "b", "c", "d", "", ""]


def test_filters_are_scaled_around_grey():
    weights = torch.zeros(3, 3, 2, 2)
    weights[0, 0, 0, 0], weights[1, 2, 1, 1] = 0.01, -5
    pictures = utils.show_filters(weights)
    assert pictures[0, 0, 0].tolist() == [1, 0.5, 0.5]
    assert pictures[1, 1, 1].tolist() == [0.5, 0.5, 0]
    assert (pictures[2] == 0.5).all()


def test_reliability_draws_the_share_that_is_right():
    probabilities = np.full((100, 10), 0.05 / 9)
    probabilities[:, 0] = 0.95
    labels = np.where(np.arange(100) < 80, 0, 1)
    errors = utils.plot_reliability({"one": probabilities, "two": probabilities}, labels, bins=10)
    assert errors == {"one": pytest.approx(0.15), "two": pytest.approx(0.15)}
    above, below = plt.gcf().axes
    (bar,) = above.patches
    assert (bar.get_x() + bar.get_width() / 2, bar.get_height()) == pytest.approx((0.95, 0.8))
    assert "15.0 points off" in below.get_title(loc="left")


def test_photos_with_their_likeliest_classes(tmp_path):
    Image.new("RGB", (80, 60), (9, 99, 199)).save(tmp_path / "sky.png")
    probabilities = np.array([0.5, 0, 0.3, 0, 0, 0, 0, 0, 0.15, 0.05])
    photo = open_photo(tmp_path / "sky.png")
    (answers,) = utils.show_photos([photo], np.zeros((1, 32, 32)), probabilities[None])
    assert answers == {"airplane": 0.5, "bird": 0.3, "ship": 0.15}
    axes = plt.gcf().axes
    assert np.array_equal(axes[1].images[0].get_array(), photo.small)
    assert [bar.get_width() for bar in axes[3].patches] == [0.5, 0.3, 0.15]
    assert likeliest(probabilities, 1) == {"airplane": 0.5}
