"""CIFAR-10, and batches of it.

    load_cifar10()      60,000 images as uint8 arrays, from the first source that answers
    split(labels)       the fixed, stratified 45,000/5,000 train/validation split
    make_batches(...)   an iterable of (images, labels) on the device, augmented afresh every epoch
    AUGMENTATIONS       name -> Augmentation, an albumentations pipeline
    python dataset.py   fetches and verifies the data

One way for a batch: uint8 (N, 32, 32, 3) in memory -> augmented, normalised float (N, 3, 32, 32) on
the device. Two engines go it: albumentations in worker processes, for any pipeline, and whole-batch
tensor operations where the network is, for speed.
"""

import os
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, get_worker_info

from core.arrays import (
    CLASSES as CLASSES,
    Cifar10 as Cifar10,
    checked_images,
    checked_labels,
    held_out as held_out,
    split as split,
)
from core.augment import AUGMENTATIONS, DEVICE_AUGMENTATIONS, HOLE, pipeline, reseed
from core.common import Parser
from core.device import planes
from core.distributed import rank, shard
from core.download import DataError, data_root, load_cifar10
from core.photos import load_photos as load_photos, open_photo as open_photo
from core.turning import colours, recoloured, turned, turns

# As many workers as were asked for, also where there are fewer processors: the draws depend on it.
warnings.filterwarnings("ignore", "This DataLoader will create", module="torch.utils.data")


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
    """An iterable of (images, labels) on `device`.

    They come as normalised float32 (N, 3, H, W), in the memory order of core.device.planes, and
    int64 (N,).

    images: uint8 (N, 32, 32, 3).
    labels: (N,) integers in 0..9.
    batch_size: 1 or more; the last batch may be smaller.
    augment: a name in AUGMENTATIONS; it sets the normalisation, too.
    engine: "albumentations" works image by image in worker processes; "device" knows
        DEVICE_AUGMENTATIONS, and works on whole batches where the network is.
    train: True makes each pass one epoch, a new order and fresh random augmentation: a function of
        (seed, `.epoch`) and, for albumentations, the number of workers; set `.epoch` to replay one.
        Of each batch a process of several has its share (core.distributed), which may be no image.
        With False the images come in order and only normalised, as test images must.
    workers: albumentations: how many processes; 0 for this one, None for one a core, but four at
        most. The draws depend on their number.

    Raises ValueError for other images and labels, an unknown engine or augmentation, one that the
    engine does not know, or a batch size below 1.
    """
    images = checked_images(images)
    labels = checked_labels(labels, len(images))
    if not isinstance(augment, str) or augment not in AUGMENTATIONS:
        raise ValueError(f"Unknown augmentation {augment!r}; known: {', '.join(AUGMENTATIONS)}.")
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"The batch size is {batch_size!r}; it must be an int, 1 or more.")
    if engine not in ("albumentations", "device"):
        raise ValueError(f"Unknown engine {engine!r}; known: albumentations, device.")
    if train and engine == "albumentations":
        return AlbumentationsBatches(images, labels, batch_size, augment, seed, device, workers)
    return DeviceBatches(images, labels, batch_size, augment, train, seed, device)


def epoch_generator(seed, epoch):
    """The source of an epoch's random numbers, another one for each seed and epoch.

    1,000,003 is prime and more than anyone's epochs: of seeds below 4,000 none shares an epoch's
    stream with another. (torch looks at 32 bits; those of larger seeds may, but hardly will, meet.)
    """
    return torch.Generator().manual_seed(1_000_003 * seed + epoch)


class View(NamedTuple):
    """How the device engine cuts its images, in pixels.

    Resized to `side`, padded by reflection (a black border would be an edge that no photograph
    has), cropped at random.
    """

    side: int = 32
    pad: int = 0
    crop: int = 32


class DeviceBatches:
    """Whole-batch augmentation on the device: flips, crops and holes by indexing, turns, colours.

    See `make_batches`.

    One epoch a pass. `.view` and `.mixup` may change between them; where images are mixed the
    labels are probabilities, (B, 10).
    """

    def __init__(self, images, labels, batch_size, augment, train, seed, device):
        if train and augment not in DEVICE_AUGMENTATIONS:
            raise ValueError(
                f"The device engine does not know the augmentation {augment!r}, only "
                f'{", ".join(DEVICE_AUGMENTATIONS)}; use engine="albumentations".'
            )
        self.images = torch.as_tensor(np.ascontiguousarray(images), device=device)  # (N, 32, 32, 3)
        self.labels = torch.as_tensor(np.asarray(labels), device=device).long()  # (N,)
        self.batch_size = batch_size
        self.train = train
        self.seed = seed
        self.epoch = 0
        self.flip = train and "flip" in augment
        self.cutout, self.turn, self.colour = (
            train and name in augment for name in ("cutout", "turn", "colour")
        )
        self.view = View(pad=4 if train and "shift" in augment else 0)
        self.mixup = 0.0  # the largest share of a second image
        self.mean = 255 * torch.tensor(AUGMENTATIONS[augment].mean, device=device)
        self.std = 255 * torch.tensor(AUGMENTATIONS[augment].std, device=device)
        self._resized_for = self._resized = None

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self):
        count, crop = len(self.labels), self.view.crop
        side = self.view.side + 2 * self.view.pad
        # Drawn on the CPU, so that every device has the same; in this order, which seeds depend on.
        generator = epoch_generator(self.seed, self.epoch)
        order = self.order(generator) if self.train else torch.arange(count)
        corner = torch.randint(side - crop + 1, (2, count, 1), generator=generator)
        hole = torch.randint(max(crop - HOLE, 0) + 1, (2, count, 1), generator=generator)
        mirrored = torch.zeros(count, 1, dtype=torch.bool)
        if self.flip:
            mirrored = self.mirrored(generator)

        pixels = self._pixels()  # (N·side·side, 3)
        device = pixels.device
        order, corner, hole = order.to(device), corner.to(device), hole.to(device)
        across = torch.arange(crop, device=device)
        rows = corner[0] + across  # (N, H): of the padded image
        columns = corner[1] + torch.where(mirrored.to(device), across.flip(0), across)  # (N, W)
        # A row of numbers for a whole image: faster than three at a time.
        mean, std = self.mean.repeat(crop * crop), self.std.repeat(crop * crop)
        if mixed := self.train and self.mixup:
            partner = torch.randperm(count, generator=generator).to(device)
            share = torch.rand(count, 1, generator=generator).to(device) * self.mixup
        if self.turn:
            maps = turns(count, generator).to(device)
        if self.colour:
            factors = colours(count, generator).to(device)

        def cut(picked):
            """The images of these numbers, (B, H, W, 3)."""
            # Which line of all images' lines, then which pixel of all their pixels.
            lines = picked[:, None] * side + rows[picked]  # (B, H)
            index = lines[:, :, None] * side + columns[picked][:, None, :]  # (B, H, W)
            batch = pixels.index_select(0, index.flatten()).view(*index.shape, 3).float()
            if self.turn:
                batch = turned(batch, maps[picked])
            if self.colour:
                batch = recoloured(batch, factors[:, picked])
            batch = batch.reshape(-1, len(mean)).sub_(mean).div_(std).view(*index.shape, 3)
            if self.cutout:
                batch[self._inside(hole[:, picked], across)] = 0  # the mean, once normalised
            return batch

        self.epoch += self.train
        for picked in order.split(self.batch_size):
            if self.train:
                picked = shard(picked)
            batch, labels = cut(picked), self.labels[picked]
            if mixed:
                other = partner[picked]
                batch = torch.lerp(batch, cut(other), share[picked][:, None, None])
                labels = torch.lerp(
                    self._one_hot(labels), self._one_hot(self.labels[other]), share[picked]
                )
            yield planes(batch), labels

    @staticmethod
    def _one_hot(labels):
        return F.one_hot(labels, len(CLASSES)).float()

    def order(self, generator):
        """Which images, and in which order: (N,) indices."""
        return torch.randperm(len(self.labels), generator=generator)

    def mirrored(self, generator):
        """Which images are mirrored: (N, 1) bool."""
        return torch.rand(len(self.labels), 1, generator=generator) < 0.5

    @staticmethod
    def _inside(corner, across):
        """(B, H, W) bool: which pixels lie in the hole that begins at `corner`, (2, B, 1)."""
        down, right = ((across >= start) & (across < start + HOLE) for start in corner)
        return down[:, :, None] & right[:, None, :]

    def _pixels(self):
        """All images resized and padded for this view: uint8 (N·S·S, 3) with S = side + 2·pad.

        Made once for each view.
        """
        if self._resized_for != self.view[:2]:
            images = self.images.permute(0, 3, 1, 2)  # (N, 3, 32, 32)
            # In pieces: as floats all images would take four times the memory.
            self._resized = torch.cat([self._resize(piece) for piece in images.split(1000)])
            self._resized_for = self.view[:2]
        return self._resized

    def _resize(self, images):
        """(n, 3, 32, 32) uint8 -> (n·S·S, 3) uint8."""
        side, pad, _ = self.view
        if side != 32:
            images = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        if pad:
            images = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect")
        if images.dtype != torch.uint8:
            images = images.round().byte()
        return images.permute(0, 2, 3, 1).reshape(-1, 3)


def seed_worker(_):
    """Gives each worker of each epoch random numbers of its own.

    albumentations 2.0.8 would give all of them the same ones; torch's worker seed differs.
    """
    worker = get_worker_info()
    reseed(worker.dataset.compose, worker.seed % 2**32)


class AlbumentationsBatches:
    """Any pipeline of AUGMENTATIONS, image by image, in DataLoader workers; see `make_batches`.

    One epoch a pass.
    """

    seed_worker = staticmethod(seed_worker)

    def __init__(self, images, labels, batch_size, augment, seed, device, workers):
        self.data = _Augmented(images, labels, pipeline(augment))
        self.workers = min(4, cores()) if workers is None else workers
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.epoch = 0

    def __len__(self):
        return -(-len(self.data.labels) // self.batch_size)

    def __iter__(self):
        for images, labels in self.arrays():
            yield planes(to_device(images, self.device)), to_device(labels, self.device)

    def arrays(self):
        """One epoch as NumPy arrays: images float32 (B, 32, 32, 3), labels int64 (B,)."""
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(len(self.data.labels), generator=generator)
        torch.rand(rank(), generator=generator)  # each process has draws of its own
        if self.workers == 0:
            seed = generator.initial_seed() + 500_000 * rank()
            reseed(self.data.compose, seed % 2**32)
        self.epoch += 1
        return DataLoader(
            self.data,
            batch_size=None,  # the sampler yields whole batches of indices
            sampler=[shard(indices).numpy() for indices in order.split(self.batch_size)],
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=self.seed_worker,
            generator=generator,
        )


def cores():
    """How many processors this process may use: in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Augmented(Dataset):
    """A batch of augmented images for a batch of indices."""

    def __init__(self, images, labels, compose):
        self.images = images
        self.labels = np.asarray(labels).astype(np.int64)
        self.compose = compose

    def __getitem__(self, indices):
        images = [self.compose(image=self.images[index])["image"] for index in indices]
        images = np.stack(images) if images else np.empty((0, 32, 32, 3), np.float32)
        return images, self.labels[indices]  # (B, 32, 32, 3), (B,)


def _as_it_is(batch):
    """Arrays go to the workers and back, not tensors.

    Tensors travel through shared memory, of which Docker gives 64 MB, and where one finds no room
    there the loop waits for ever.
    """
    return batch


def to_device(array, device):
    """A tensor of `array` on `device`.

    For a GPU from pinned memory: the copy then does not hold up the training. Elsewhere the memory
    may be gone before it is copied, on a Mac it was (pytorch/pytorch#189690).
    """
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def main():
    Parser("dataset.py", description="Fetches CIFAR-10 and verifies it to the bit.").parse_args()
    start = time.perf_counter()
    try:
        load_cifar10()
    except DataError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\ndataset.py: stopped; the same command begins anew.")
    seconds = time.perf_counter() - start
    print(f"{data_root()}: 50,000 + 10,000 images, verified in {seconds:.1f} s")


if __name__ == "__main__":
    main()
