"""Batches: fresh, repeatable, the same from both engines."""

import hashlib
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

import dataset as d
from core import augment
from utils import denormalise


def test_split_is_fixed_and_stratified(cifar):
    train, held_out = d.split(cifar.train_labels)
    assert (len(train), len(held_out), len(np.intersect1d(train, held_out))) == (45_000, 5_000, 0)
    assert (np.bincount(cifar.train_labels[held_out]) == 500).all()
    assert hashlib.sha256(held_out.astype(np.int64)).hexdigest()[:16] == "7957d060fcc34aef"


@pytest.fixture
def restless(monkeypatch):
    """A pipeline of which no two draws are alike."""
    monkeypatch.setitem(
        d.AUGMENTATIONS,
        "restless",
        augment.Augmentation((lambda: augment.shift_scale_rotate(1.0, rotate=45),)),
    )


def distinct(batches):
    return {image.numpy().tobytes() for images, _ in batches for image in images}


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_every_sample_of_every_epoch_is_fresh_and_repeatable(cifar, restless, workers):
    images = np.repeat(cifar.train_images[:1], 192, axis=0)
    batches = d.make_batches(
        images, np.zeros(192), 16, "restless", "albumentations", seed=5, workers=workers
    )
    first, second = distinct(batches), distinct(batches)
    assert (len(first), len(second), len(first | second)) == (192, 192, 384)
    batches.epoch = 0
    assert distinct(batches) == first
    other = d.make_batches(
        images, np.zeros(192), 16, "restless", "albumentations", seed=6, workers=workers
    )
    assert not distinct(other) & (first | second)


@pytest.mark.parametrize("name", d.AUGMENTATIONS)
def test_test_images_are_only_normalised(cifar, name):
    batches = d.make_batches(
        cifar.test_images[:100], cifar.test_labels[:100], 64, name, train=False
    )
    assert np.array_equal(
        np.concatenate([denormalise(images, name) for images, _ in batches]),
        cifar.test_images[:100],
    )
    assert torch.equal(
        torch.cat([labels for _, labels in batches]), torch.tensor(cifar.test_labels[:100]).long()
    )


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_engines_agree_on_the_interface(cifar, engine):
    batches = d.make_batches(
        cifar.train_images[:100], cifar.train_labels[:100], 64, "flip_shift", engine, workers=0
    )
    sizes = [(images.shape, images.dtype, labels.dtype) for images, labels in batches]
    assert sizes == [((n, 3, 32, 32), torch.float32, torch.int64) for n in (64, 36)]
    assert len(batches) == 2
    assert images_are_channels_last(batches)
    assert distinct(batches) != distinct(batches)


def images_are_channels_last(batches):
    return all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in batches)


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_flip_mirrors_half_the_images_and_does_nothing_else(cifar, engine):
    images = np.repeat(cifar.train_images[:1], 400, axis=0)
    pixels = np.concatenate(
        [
            denormalise(x)
            for x, _ in d.make_batches(images, np.zeros(400), 100, "flip", engine, workers=0)
        ]
    )
    mirrored = (pixels == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (pixels == images).all((1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_shift_cuts_windows_from_the_reflected_image(cifar, engine):
    image = cifar.train_images[7]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {padded[y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    windows |= {np.frombuffer(w, np.uint8).reshape(32, 32, 3)[:, ::-1].tobytes() for w in windows}
    images = np.repeat(image[None], 2000, axis=0)
    pixels = np.concatenate(
        [
            denormalise(x)
            for x, _ in d.make_batches(images, np.zeros(2000), 500, "flip_shift", engine, workers=0)
        ]
    )
    assert {p.tobytes() for p in pixels} == windows  # all 162 of them, and nothing else


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_cutout_blanks_one_hole_of_256_pixels(engine):
    images = np.full((1000, 32, 32, 3), 255, np.uint8)
    options = dict(engine=engine, workers=0)
    ((batch, _),) = d.make_batches(images, np.zeros(1000), 1000, "flip_shift_cutout", **options)
    holes = (batch.abs() < 0.02).all(1)  # (N, H, W)
    assert (holes.sum((1, 2)) == 256).all()
    for axis in (1, 2):  # it begins in any row and column where all of it is inside
        assert set(holes.any(axis).int().argmax(1).tolist()) == set(range(17))


def test_device_engine_resizes_and_crops(cifar):
    batches = d.make_batches(cifar.train_images[:64], cifar.train_labels[:64], 64, "flip", "device")
    batches.view = d.View(side=24, pad=2, crop=20)
    images, _ = next(iter(batches))
    assert images.shape == (64, 3, 20, 20)
    batches.view = d.View()
    assert next(iter(batches))[0].shape == (64, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(augment="fliip"), "Unknown augmentation 'fliip'; known: none, flip"),
        (dict(engine="gpu"), "Unknown engine 'gpu'; known: albumentations, device"),
        (dict(augment="standard", engine="device"), "does not know the augmentation 'standard'"),
        (dict(batch_size=0), "batch size is 0"),
    ],
)
def test_bad_arguments(cifar, arguments, message):
    with pytest.raises(ValueError, match=message):
        d.make_batches(cifar.test_images, cifar.test_labels, **{"batch_size": 8, **arguments})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
def test_workers_need_no_shared_memory():
    """In Docker /dev/shm has 64 MB; here it has a quarter of one, and a single batch would need
    fifty times that.
    """
    code = (
        "import numpy as np, dataset; images = np.zeros((4096, 32, 32, 3), np.uint8); "
        "options = dict(engine='albumentations', workers=4); "
        "batches = dataset.make_batches(images, np.zeros(4096), 1024, 'standard', **options); "
        "print(sum(len(labels) for _, labels in batches))"
    )
    command = shlex.join([sys.executable, "-c", code])
    inside = f"mount -t tmpfs -o size=256k tmpfs /dev/shm && exec {command}"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "4096", run.stderr


@pytest.mark.parametrize("module", ["train", "tools.bench_engines"])
def test_albumentations_asks_nobody_for_a_newer_version(module):
    """It would, at its import: nothing here is fetched from elsewhere, or waits for a network."""
    script = f"""
import os, sys
class Watch:
    def find_spec(name, *_):
        if name == "albumentations":
            print(os.environ.get("NO_ALBUMENTATIONS_UPDATE"))
sys.meta_path.insert(0, Watch)
import {module}
"""
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("1\n", "")
