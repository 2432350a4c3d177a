"""What happens to a training image: named albumentations pipelines, and how images are normalised.

AUGMENTATIONS      name -> Augmentation: none, flip, flip_shift, standard, each published one's
pipeline(name)     an albumentations pipeline, uint8 (H, W, 3) -> normalised float (H, W, 3)
"""

import os
import random
import warnings
from typing import NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # at import it asks for a newer version

import albumentations as A
import cv2
import numpy as np

MEAN = (0.4914, 0.4822, 0.4465)  # of the training images, per channel, in 0..1
STD = (0.2470, 0.2435, 0.2616)
HOLE = 16  # side of the cutout in pixels
TURN = 15  # degrees, either way
ZOOM, COLOUR = 0.1, 0.2  # relative to 1


def flip():
    """Mirrors left and right with probability 0.5."""
    return A.HorizontalFlip(p=0.5)


def shift4():
    """Shifts by up to 4 pixels: pads by 4, crops at random.

    The border is mirrored: a black one would be an edge that no photograph has.
    """
    return [A.Pad(padding=4, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(32, 32)]


def shift_scale_rotate(p, shift=0.0625, scale=0.1, rotate=15):
    """Shifts, zooms and rotates; uncovered pixels get the data set's mean colour.

    albumentations 2.x wants Affine for what was ShiftScaleRotate. There as here `scale` is relative
    to 1: to ask for (0.9, 1.1) magnifies 1.9 to 2.1 times.

    p: the probability that it is done.
    shift: up to this fraction of the side, in both directions, but cut off to whole pixels by
        albumentations 2: 0.0625 of 32 pixels is -1, 0 or 1, half of the time 0.
    scale: the zoom is 1 - `scale` to 1 + `scale`.
    rotate: up to so many degrees, in both directions.
    """
    return A.Affine(
        translate_percent=(-shift, shift),
        scale=(1 - scale, 1 + scale),
        rotate=(-rotate, rotate),
        keep_ratio=True,
        fill=to_bytes(MEAN),
        p=p,
    )


def turn():
    """Turns by up to 15° either way and zooms by 0.9 to 1.1, with probability 0.5."""
    zoom = (1 - ZOOM, 1 + ZOOM)
    border = cv2.BORDER_REFLECT  # as core.turning mirrors it
    return A.Affine(scale=zoom, rotate=(-TURN, TURN), keep_ratio=True, border_mode=border, p=0.5)


def colour():
    """Multiplies brightness, contrast and saturation by 0.8 to 1.2."""
    factors = (1 - COLOUR, 1 + COLOUR)
    return A.ColorJitter(factors, factors, factors, hue=(0, 0), p=1.0)


def cutout(p, fill=MEAN, side=HOLE):
    """Blanks one square hole (DeVries & Taylor 2017, arXiv:1708.04552).

    p: the probability that it is done.
    fill: the hole's colour, in 0..1 for each channel. The mean is 0 once normalised: nothing there.
    side: in pixels.
    """
    return A.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(side, side),
        hole_width_range=(side, side),
        fill=to_bytes(fill),
        p=p,
    )


def to_bytes(colour):
    """A colour in 0..1 as albumentations' `fill` wants it before Normalize: in 0..255.

    0.49 would paint black.
    """
    return tuple(round(255 * value) for value in colour)


class Augmentation(NamedTuple):
    """What is done to a training image, and how every image, training or test, is normalised."""

    transforms: tuple  # functions without arguments that build a transform or a list of them
    mean: tuple = MEAN
    std: tuple = STD


FLIP_SSR = (flip, lambda: shift_scale_rotate(0.5))
STANDARD = (*FLIP_SSR, lambda: cutout(0.5))
WIDE = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
DILATED = (flip, lambda: shift_scale_rotate(0.7))
STACKED = (flip, lambda: shift_scale_rotate(0.2, 0.0625, 0.2, 10))
STACKED_COLOURS = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2463, 0.2428, 0.2607))
BLACK = (0, 0, 0)

AUGMENTATIONS = {
    "none": Augmentation(()),
    "flip": Augmentation((flip,)),
    "flip_shift": Augmentation((flip, shift4)),
    "flip_shift_cutout": Augmentation((flip, shift4, lambda: cutout(1.0))),
    "flip_shift_turn": Augmentation((flip, shift4, turn)),
    "flip_shift_turn_colour": Augmentation((flip, shift4, turn, colour)),
    "standard": Augmentation(STANDARD),
    # The published networks' own. Where a text gives no strength to a transform, it is
    # `standard`'s.
    "wide": Augmentation(STANDARD, **WIDE),
    "dilated": Augmentation((*DILATED, lambda: cutout(0.5))),
    # As it ran: the arguments of its cutout were not valid, albumentations took its defaults.
    "dilated_as_run": Augmentation((*DILATED, lambda: A.CoarseDropout(p=0.5))),
    "compact": Augmentation(STANDARD),
    "stacked": Augmentation((*STACKED, lambda: cutout(0.2)), **STACKED_COLOURS),
    # As written: 0.49 on a 0..255 image is black.
    "stacked_as_run": Augmentation((*STACKED, lambda: cutout(0.2, BLACK)), **STACKED_COLOURS),
}
DEVICE_AUGMENTATIONS = (  # both engines have them
    "none",
    "flip",
    "flip_shift",
    "flip_shift_cutout",
    "flip_shift_turn",
    "flip_shift_turn_colour",
)


def pipeline(name, normalise=True, seed=None):
    """Builds the albumentations pipeline `name`.

    name: in AUGMENTATIONS.
    normalise: end with float32 (H, W, 3), normalised; False ends with uint8 (H, W, 3).
    seed: its draws follow from it; None: other ones each time. See `reseed`.

    Raises ValueError for an unknown name, and a UserWarning as an error: albumentations 2.x only
    warns of an argument that it does not know, and then ignores it.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"Unknown augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}.")
    augmentation = AUGMENTATIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        steps = []
        for build in augmentation.transforms:
            built = build()
            steps += built if isinstance(built, list) else [built]
        if normalise:
            steps.append(A.Normalize(augmentation.mean, augmentation.std))
        compose = A.Compose(steps)
    if seed is not None:
        reseed(compose, seed)
    return compose


def reseed(compose, seed):
    """Lets all draws of a pipeline follow from `seed`, in one stream.

    By compose.set_random_seed each transform would have a stream of its own, and all the same
    numbers: of two that draw equally often both would be done or neither.
    """
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
