"""Each transform is as strong as it says."""

import albumentations as A
import numpy as np
import pytest

from core import augment as a


@pytest.mark.parametrize("name", a.AUGMENTATIONS)
def test_pipelines_build_and_run(name, cifar):
    out = a.pipeline(name)(image=cifar.train_images[0])["image"]
    assert (out.shape, out.dtype) == ((32, 32, 3), np.float32)


def test_ignored_arguments_are_errors(monkeypatch):
    monkeypatch.setitem(
        a.AUGMENTATIONS,
        "old",
        a.Augmentation((lambda: A.CoarseDropout(max_holes=1, max_height=16, p=1),)),
    )
    with pytest.raises(UserWarning, match="max_h"):
        a.pipeline("old")


def test_the_hole_is_16x16_and_mean_coloured():
    white = np.full((32, 32, 3), 255, np.uint8)
    out = a.cutout(1.0)(image=white)["image"]
    assert ((out == (125, 123, 114)).all(2)).sum() == 256
    assert ((out == 255).all(2)).sum() == 32 * 32 - 256


def test_scale_is_relative_to_one(cifar):
    """scale 0.1 zooms by 0.9..1.1, not by 1.9..2.1: most of the corners stay in view."""
    A_ = a.shift_scale_rotate(1.0).scale
    assert {tuple(A_[axis]) for axis in ("x", "y")} == {(0.9, 1.1)}


@pytest.mark.parametrize(
    ("name", "chances"),
    [("standard", [0.5, 0.5, 0.5]), ("dilated", [0.5, 0.7]), ("stacked", [0.5, 0.2, 0.2])],
)
def test_how_often_the_published_pipelines_do_what(name, chances):
    assert [step.p for step in a.pipeline(name).transforms[: len(chances)]] == chances


def test_two_transforms_decide_apart():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    compose = a.pipeline("flip", normalise=False)
    compose = A.Compose([*compose.transforms, A.VerticalFlip(p=0.5)])
    a.reseed(compose, 0)
    drawn = [compose(image=noise)["image"].tobytes() for _ in range(400)]
    counts = [drawn.count(image) for image in set(drawn)]
    assert len(counts) == 4
    assert min(counts) > 70
