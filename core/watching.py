"""For `fit(..., on_epoch=...)`: what a record keeps of each epoch where it is asked to.

ByClass(batches)    the accuracy of each class, and which are taken for which
"""

import json

from core.arrays import confusion_matrix
from core.forward import classify


def as_kept(epoch):
    """An epoch of a history as a record keeps it: numbers of NumPy and torch become Python's.

    Raises ValueError for what JSON has no words for, infinity and NaN among it.
    """
    try:
        text = json.dumps(epoch, default=lambda value: value.tolist(), allow_nan=False)
        return json.loads(text)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"There is something in history[-1] that a record cannot keep ({error}); on_epoch may "
            "put numbers, text, lists and dictionaries there, train_epoch return numbers."
        ) from None


class ByClass:
    """Adds to every epoch of the record `class_accuracy`, ten numbers in 0..1 (0 for a class that
    has no image), and `confusion`, counts (10, 10): row = true class, column = predicted class.

        batches = make_batches(images, labels, 1000, recipe.augment, train=False)
        by_class = ByClass(batches, recipe.precision)
        model, record = fit("net", recipe, on_epoch=by_class)

    It costs one evaluation an epoch, which is in none of the record's seconds.

    batches: images and labels, in order and only normalised.
    precision: the recipe's, else what is counted here need not add up to the record's accuracy.
    """

    def __init__(self, batches, precision="auto"):
        self.batches = batches
        self.precision = precision

    def __call__(self, model, history):
        device = next(model.parameters()).device
        batches = ((images.to(device), labels) for images, labels in self.batches)
        logits, labels = classify(model, batches, self.precision)
        counts = confusion_matrix(labels.cpu(), logits.argmax(1).cpu())
        accuracy = counts.diagonal() / counts.sum(1).clip(1)
        history[-1] |= {"class_accuracy": accuracy.tolist(), "confusion": counts.tolist()}
