"""Turned and recoloured batches are what albumentations makes of single images."""

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

import dataset as d
from core import augment, turning


def test_half_are_turned_by_up_to_15_degrees_and_zoomed_by_a_tenth():
    maps = turning.turns(4000, torch.Generator().manual_seed(0))
    plain = (maps == torch.eye(2, 3)).all(2).all(1)
    assert 1850 < plain.sum() < 2150
    angle = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    zoom = maps[:, :, :2].det() ** -0.5
    for value, low, high in ((angle, -15, 15), (zoom, 0.9, 1.1)):
        assert low <= value.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < value.max() <= high + 1e-5


def test_colours_are_a_fifth_more_or_less():
    factors = turning.colours(4000, torch.Generator().manual_seed(0))
    assert 0.8 <= factors.min() < 0.801
    assert 1.199 < factors.max() <= 1.2
    assert augment.colour().brightness == (0.8, 1.2)
    assert augment.turn().rotate == (-15, 15)


@pytest.mark.parametrize(("angle", "zoom"), [(12, 1.0), (0, 0.9), (-8, 1.1)])
def test_a_map_turns_as_albumentations_does(cifar, angle, zoom):
    border = augment.turn().border_mode
    affine = A.Affine(rotate=(angle, angle), scale=(zoom, zoom), border_mode=border, p=1)
    image = cv2.GaussianBlur(cifar.train_images[7], (0, 0), 2)  # no detail to be interpolated
    radians, none = torch.deg2rad(torch.tensor(float(angle))), torch.zeros(())
    cosine, sine = radians.cos() / zoom, radians.sin() / zoom
    maps = torch.stack([cosine, -sine, none, sine, cosine, none]).view(1, 2, 3)
    ours = turning.turned(torch.tensor(image)[None].float(), maps)[0].numpy()
    error = np.abs(ours - affine(image=image)["image"])
    # Theirs are rounded; OpenCV 4 also samples in steps of 1/32 pixel.
    assert error.max() < 1 < np.abs(ours - image).mean()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_factor_recolours_as_albumentations_does(cifar, which):
    ranges = [(1.0, 1.0)] * 3
    ranges[which] = (0.8, 0.8)
    factors = torch.ones(3, 1)
    factors[which] = 0.8
    image = cifar.train_images[7]
    ours = turning.recoloured(torch.tensor(image)[None].float(), factors)[0].numpy()
    theirs = A.ColorJitter(*ranges, hue=(0, 0), p=1)(image=image)["image"]
    assert np.abs(ours - theirs).max() < 2 < np.abs(ours - image).max()


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_a_batch_has_turned_and_recoloured_images(cifar, engine):
    images = np.repeat(cifar.train_images[7:8], 300, axis=0)
    windows, turned, coloured = (
        {image.tobytes() for batch in batches for image in batch[0].numpy()}
        for batches in (
            d.make_batches(images, np.zeros(300), 100, name, engine, workers=0)
            for name in ("flip_shift", "flip_shift_turn", "flip_shift_turn_colour")
        )
    )
    assert len(windows) <= 162 < len(turned) < 295 < len(coloured)  # two mirrorings, 81 shifts
