"""For `fit(..., on_epoch=...)`: what a record keeps of each epoch where it is asked to.

ByClass(batches)    the accuracy of each class, and which are taken for which
"""

from core.arrays import confusion_matrix
from core.forward import classify


class ByClass:
    """Adds to every epoch of the record `class_accuracy`, ten numbers in 0..1 (0 for a class that
    has no image), and `confusion`, counts (10, 10): row = true class, column = predicted class.

        by_class = ByClass(make_batches(images, labels, 1000, recipe.augment, train=False))
        model, record = fit("net", recipe, on_epoch=by_class)

    It costs one evaluation an epoch, which is in none of the record's seconds.

    batches: images and labels, in order and only normalised, on the network's device.
    precision: as in a Recipe, but "auto" is not known here: "float32", "bfloat16" or "float16".
    """

    def __init__(self, batches, precision="float32"):
        self.batches = batches
        self.precision = precision

    def __call__(self, model, history):
        logits, labels = classify(model, self.batches, self.precision)
        counts = confusion_matrix(labels.cpu(), logits.argmax(1).cpu())
        accuracy = counts.diagonal() / counts.sum(1).clip(1)
        history[-1] |= {"class_accuracy": accuracy.tolist(), "confusion": counts.tolist()}
