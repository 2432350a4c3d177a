"""Distillation (Hinton et al. 2015, arXiv:1503.02531): networks teach another what they would say.

Teachers and student see the same view of an image, as the recipe makes it (Beyer et al. 2021,
arXiv:2106.05237): no answer is ever kept for a second one.
"""

from typing import NamedTuple

import torch

import train
from core.checkpoint import fingerprint


class Answered(NamedTuple):
    """Batches whose labels are the mean of the teachers' probabilities, (B, 10)."""

    batches: object
    teachers: list
    precision: str

    @property
    def epoch(self):
        return self.batches.epoch

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for images, _ in self.batches:
            with torch.no_grad(), train.autocast(images.device, self.precision):
                answers = [teacher(images).float().softmax(1) for teacher in self.teachers]
            yield images, torch.stack(answers).mean(0)


class Taught:
    """In the place of `train.train_epoch`: the student never sees a label.

    The training accuracy of its record is agreement with the teachers.

    names: the teachers' files in weights/, loaded when the training begins.
    prepare: what is done to a teacher, e.g. compile it.

    Raises TrainingError where a file is not there, or holds something else.
    """

    keeps_nothing = True  # from epoch to epoch: a run that was cut off can go on

    def __init__(self, names, prepare=lambda network: network):
        self.names, self.prepare, self.teachers = names, prepare, []

    def identity(self):
        """A checkpoint goes on with the same teachers: their names, and what is in their files.

        Raises TrainingError where one is not there: the checkpoint may be of this run all the same.
        """
        files = [self.file(name) for name in self.names]
        for file in files:
            if not file.exists():
                raise train.TrainingError(
                    f"There is no {file}, a teacher's weights: train it first, then repeat this."
                )
        found = fingerprint(file.read_bytes() for file in files)
        return f"{type(self).__name__}({self.names}, {found})"

    def __call__(self, model, batches, optimizer, schedule, scaler, recipe, precision, progress):
        if not self.teachers:
            device = next(model.parameters()).device
            with torch.random.fork_rng(devices=[]):  # a network that is built draws its weights
                self.teachers = [self.teacher(name).to(device) for name in self.names]
        batches = Answered(batches, self.teachers, precision)
        rest = (optimizer, schedule, scaler, recipe, precision, progress)
        return train.train_epoch(model, batches, *rest)

    def file(self, name):
        return train.ROOT / "weights" / f"{name}.pt"

    def teacher(self, name):
        network, _ = train.load_weights(self.file(name))
        return self.prepare(network.to(memory_format=torch.channels_last))
