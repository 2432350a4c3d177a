"""CIFAR-10 as arrays: what they must be, how some are held out, where predictions are wrong."""

from typing import NamedTuple

import numpy as np

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def as_array(values):
    """A NumPy array of a tensor, too, wherever it lies."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if "bfloat16" in str(values.dtype) else values).numpy()  # it has none


class Cifar10(NamedTuple):
    """uint8 arrays in the official order: images (N, 32, 32, 3) RGB, labels (N,) in 0..9."""

    train_images: np.ndarray  # (50000, 32, 32, 3)
    train_labels: np.ndarray  # (50000,)
    test_images: np.ndarray  # (10000, 32, 32, 3)
    test_labels: np.ndarray  # (10000,)


def split(labels, validation=5000, seed=0):
    """Stratified, fixed split: returns the indices (train, validation), sorted.

    Choices (architecture, recipe) are made on the validation images, never on the test set.

    labels: (N,) integers in 0..9.
    validation: how many images are held out, a tenth of them of each class; a multiple of 10.

    Raises ValueError for other labels, another number, or a class that has too few images to hold
    so many out.
    """
    labels = checked_labels(labels)
    fewest = np.bincount(labels, minlength=len(CLASSES)).min()
    if validation not in range(len(CLASSES), len(CLASSES) * fewest, len(CLASSES)):
        raise ValueError(
            f"{validation!r} images cannot be held out: one class has {fewest}, and as many "
            f"of each are held out, not all; give a multiple of 10 below {len(CLASSES) * fewest}."
        )
    count = int(validation) // len(CLASSES)
    generator = np.random.default_rng(seed)
    chosen = []
    for label in range(len(CLASSES)):
        chosen.append(generator.permutation(np.flatnonzero(labels == label))[:count])
    rest = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), rest), rest


def checked_labels(labels, count=None):
    """`labels` as int64 (N,). Raises ValueError for anything but N = `count` classes in 0..9."""
    array = as_array(labels)
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iuf":
        raise ValueError(
            f"The labels are {array.dtype} {array.shape}; they must be whole numbers in 0..9, (N,)."
        )
    whole = np.nan_to_num(array, nan=-1).astype(np.int64)
    if (whole != array).any() or whole.min() < 0 or whole.max() >= len(CLASSES):
        raise ValueError(
            f"The labels range from {array.min()} to {array.max()}; "
            f"they must be whole numbers in 0..{len(CLASSES) - 1}."
        )
    if count is not None and len(whole) != count:
        raise ValueError(f"There are {len(whole)} labels for {count} images; give one for each.")
    return whole


def checked_images(images):
    """`images` as an array. Raises ValueError for anything but uint8 (N, 32, 32, 3)."""
    array = as_array(images)
    if array.dtype == np.uint8 and array.shape[1:] == (32, 32, 3) and len(array):
        return array
    raise ValueError(
        f"The images are {array.dtype} {array.shape}; they must be uint8 (N, 32, 32, 3), RGB in "
        "0..255, as load_cifar10 returns them: they are normalised and permuted here."
    )


def checked_data(data, test=True):
    """`data` as a `Cifar10` of arrays, whose test images are looked at if `test`.

    Raises ValueError for anything else than images and labels, twice.
    """
    if not isinstance(data, tuple | list) or len(data) != 4:
        raise ValueError(
            "data must be a Cifar10: training images, their labels, test images, their labels, as "
            "load_cifar10 returns them."
        )
    data = Cifar10(*map(as_array, data))
    for images, labels in (data[:2], data[2:]) if test else (data[:2],):
        checked_labels(labels, len(checked_images(images)))
    return data


def held_out(data):
    """A `Cifar10` for choosing: 5,000 training images in place of the test set, and the others.

    Raises ValueError where a class has 500 images or fewer.
    """
    images, labels = as_array(data.train_images), as_array(data.train_labels)
    chosen, rest = split(labels)
    return Cifar10(images[chosen], labels[chosen], images[rest], labels[rest])


def confusion_matrix(labels, predictions):
    """Counts (10, 10): row = true class, column = predicted class.

    labels, predictions: (N,) integers in 0..9. Raises ValueError for anything else.
    """
    labels = checked_labels(labels)
    predictions = checked_labels(predictions, len(labels))
    return np.bincount(10 * labels + predictions, minlength=100).reshape(10, 10)


def mistakes(labels, probabilities):
    """Indices of the misclassified images, the most confident mistake first.

    labels: (N,) integers in 0..9.
    probabilities: (N, 10).

    Raises ValueError for anything else.
    """
    probabilities = as_array(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(CLASSES):
        raise ValueError(f"The probabilities are {probabilities.shape}; they must be (N, 10).")
    labels = checked_labels(labels, len(probabilities))
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]
