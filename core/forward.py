"""What a network says of images: logits, of the shape that they must have, and the loss; and what
builds one.
"""

import math
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from core.arrays import CLASSES
from core.common import TrainingError, find
from core.device import autocast
from core.tracing import picture
from core.undisturbed import undisturbed

VIEW = "view size is not compatible"  # torch's words


def builder(model, known):
    """What builds the network `model`: a name in `known`, or what builds one when it is called.

    Raises ValueError for anything else; what is returned raises one where no network is built.
    """
    if isinstance(model, str):
        return find(known, model, "model")
    if isinstance(model, torch.nn.Module) or not callable(model):
        raise ValueError(
            f"model is of class {type(model).__name__}; fit builds the network itself, to begin "
            "afresh each time: give a name in MODELS, or the class, e.g. fit(Net, recipe)."
        )

    def build():
        network = model()
        if isinstance(network, torch.nn.Module):
            return network
        raise ValueError(
            f"model builds a {type(network).__name__}; it must build a network, a torch.nn.Module."
        )

    return build


class Evaluation(NamedTuple):
    """What a network says of a set of images."""

    loss: float  # mean cross-entropy
    accuracy: float  # 0..1
    probabilities: np.ndarray  # (N, 10) float32
    predictions: np.ndarray  # (N,) int64


def forward(model, images, labels, recipe, precision):
    """The loss to be minimised, a scalar, and the logits (N, 10) of images (N, 3, H, W).

    labels: (N,) int64, or probabilities (N, 10), of mixed images for one.

    Raises ValueError for other logits, for a batch of one image where batch normalisation needs
    two, or of none where a process has no share, for crops where the network takes images of 32x32
    alone, and for a .view that the memory order does not allow.
    """
    try:
        with autocast(images.device, precision):
            logits = logits_of(model, images)
    except (ValueError, RuntimeError) as error:
        if not len(images):
            raise ValueError(
                "The last batch has fewer images than there are processes, and this network "
                "cannot compute without an image; choose another batch_size or fewer processes."
            ) from None
        side = images.shape[3]
        if side != 32 and takes(model, 32) and not takes(model, side):
            raise ValueError(
                f"The network takes images of 32x32 alone, and the recipe trains on crops of "
                f"{side}x{side} pixels; average the last map with nn.AdaptiveAvgPool2d(1), or "
                "train on whole images: dataclasses.replace(recipe, views=())."
            ) from error
        if VIEW in str(error) and recipe.channels_last:
            raise ValueError(
                "The network has a .view that does not work in the memory order channels-last; "
                "write .reshape or .flatten instead, or train with "
                "dataclasses.replace(recipe, channels_last=False)."
            ) from error
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "The last batch has one image, which batch normalisation after the global pooling "
            "cannot be trained on; choose another batch_size."
        ) from None
    if not len(images):  # of a small last batch this process has none
        return logits.float().sum(), logits
    return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing), logits


def takes(model, side):
    """Whether the network turns an image of `side` x `side` pixels into logits."""
    with undisturbed(model) as network, suppress(Exception):
        return network(picture(network, (3, side, side))).shape == (1, len(CLASSES))
    return False


def check_finite(loss, epoch, recipe, what="training loss"):
    """Raises TrainingError where the training has diverged."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The {what} became {loss} in epoch {epoch + 1}; lower the learning rate ({recipe.lr})."
        )


def logits_of(model, images):
    """The model's output, (N, 10). Raises ValueError where it is anything else."""
    output = model(images)
    returned = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if returned == (len(images), len(CLASSES)):
        return output
    name = type(model.module if isinstance(model, DistributedDataParallel) else model).__name__
    raise ValueError(
        f"{name} returns {returned} for a batch of {len(images)} images; it must "
        f"return logits of shape ({len(images)}, {len(CLASSES)}): flatten after the global pooling "
        f"and end with nn.Linear(channels, {len(CLASSES)})."
    )


@contextmanager
def evaluating(model):
    """`model` in evaluation mode; afterwards each module has its own again: some may be frozen."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluation_batch(device):
    """How many images are classified at a time. On a CPU few: the map of a layer then fits into
    memory that is used again for the next one, instead of being fetched from the kernel each time.
    """
    return 125 if device.type == "cpu" else 1000


@torch.no_grad()
def classify(model, batches, precision, flip=False):
    """Logits (N, 10), float32, and labels (N,) of all `batches`, on their device.

    batches: of `dataset.make_batches` with train=False, on the model's device; one at least.
    precision: "float32", "bfloat16" or "float16", or "auto": see `core.device.autocast`.
    flip: average the logits with those of the mirrored images.

    Raises ValueError for other logits than (N, 10).
    """
    logits, labels, ordered = [], [], False

    def answers(images):
        """Of a network that was trained in NCHW, with a .view, in that order."""
        nonlocal ordered
        try:
            return logits_of(model, images.contiguous() if ordered else images).float()
        except RuntimeError as error:
            if ordered or VIEW not in str(error):
                raise
        ordered = True
        return answers(images)

    with evaluating(model):
        for images, truth in batches:
            with autocast(images.device, precision):
                output = answers(images)
                if flip:
                    output = (output + answers(images.flip(3))) / 2
            logits.append(output)
            labels.append(truth)
    return torch.cat(logits), torch.cat(labels)
