"""Trains a network on CIFAR-10 and leaves a record of the run.

    python train.py --model net --recipe sprint          85 % on two CPU cores in about a minute
    python train.py --model compact --recipe compact     a published network with its own recipe
    python train.py --list                               all models and recipes

In a notebook: `model, record = fit("net", RECIPES["sprint"])`, then `evaluate(model, images, labels)`.

A `Recipe` is data: all that changes a result stands in it. Choices are made with `--validate`, on 5,000 training images held
out. The test curve is drawn and nothing is chosen by it: the accuracy that counts is the last epoch's.
"""

import argparse
import dataclasses
import importlib
import json
import math
import pickle
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import albumentations
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from core.common import ROOT, TrainingError, find, write_atomically
from core.device import (
    PRECISIONS,
    autocast,
    describe_device,
    keep_freed_memory,
    pick_device,
    pick_precision,
)
from dataset import AUGMENTATIONS, DataError, View, load_cifar10, make_batches, split
from model import MODELS, NUM_CLASSES, count_parameters

# ---------------------------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Recipe:
    """All that decides a run, beside the model. Frozen: vary one with `dataclasses.replace(recipe, epochs=10)`.

    Raises ValueError for a value outside its range.
    """

    epochs: int
    batch_size: int = 128
    optimizer: str = (
        "sgd"  # sgd, adam, adamw, muon (convolution weights by Muon, everything else by SGD)
    )
    lr: float = 0.1  # the peak
    momentum: float = 0.9  # sgd and muon
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"  # constant, step (StepLR), onecycle (OneCycleLR), triangle (linear up, linear down to 0)
    warmup: float = 0.3  # onecycle, triangle: the fraction of all steps on the way up
    step_epochs: int = 10  # step: every so many epochs ...
    step_gamma: float = 0.1  # ... the learning rate is multiplied by this
    muon_lr: float = 0.0  # muon: peak for the convolution weights
    muon_decay: float = 0.0  # muon: decoupled weight decay of the convolution weights
    label_smoothing: float = 0.0
    augment: str = "none"  # a name in dataset.AUGMENTATIONS
    engine: str = "albumentations"  # albumentations, or device: see dataset.make_batches
    views: tuple = ()  # device engine: (from this fraction of the epochs on, side, pad, crop) in pixels, in order
    precision: str = "auto"  # float32, bfloat16, float16, or auto: the fastest of the device (core.device.pick_precision)
    channels_last: bool = True
    seed: int = 0

    def __post_init__(self):
        choices = {
            "optimizer": ("sgd", "adam", "adamw", "muon"),
            "schedule": ("constant", "step", "onecycle", "triangle"),
            "precision": ("auto", *PRECISIONS),
            "engine": ("albumentations", "device"),
            "augment": tuple(AUGMENTATIONS),
        }
        for field, known in choices.items():
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"{field} is {value!r}; it must be one of {', '.join(known)}.")
        for field in ("epochs", "batch_size"):
            if not isinstance(value := getattr(self, field), int) or value < 1:
                raise ValueError(f"{field} is {value!r}; it must be a whole number of 1 or more.")
        object.__setattr__(
            self, "views", tuple(tuple(view) for view in self.views)
        )  # JSON has lists
        if self.views and (
            self.views[0][0] != 0 or any(len(v) != 4 or v[3] > v[1] + 2 * v[2] for v in self.views)
        ):
            raise ValueError(
                f"views is {self.views!r}; each is (start, side, pad, crop) with crop <= side + 2·pad, the first starts at 0."
            )


SOURCE_SGD = dict(optimizer="sgd", momentum=0.9)
OURS = dict(
    optimizer="muon", weight_decay=5e-4, schedule="triangle", warmup=0.25, label_smoothing=0.1
)
CROPS = (
    (0, 32, 0, 24),
    (0.5, 32, 0, 28),
)  # random crops of 24x24, in the second half of 28x28 pixels; tested on whole images
RECIPES = {
    "sprint": Recipe(
        epochs=10,
        batch_size=512,
        lr=0.6,
        muon_lr=0.1,
        augment="flip",
        engine="device",
        views=CROPS,
        **OURS,
    ),
    "standard": Recipe(epochs=50, batch_size=256, lr=0.4, muon_lr=0.07, augment="standard", **OURS),
    "frontier": Recipe(
        epochs=100,
        batch_size=256,
        lr=0.4,
        muon_lr=0.07,
        augment="flip_shift",
        engine="device",
        **OURS,
    ),
    # The published networks' recipes. What a text leaves open is marked "ours".
    "strided": Recipe(
        epochs=50, lr=0.1, schedule="step", step_gamma=0.5, augment="flip_shift", **SOURCE_SGD
    ),  # most of it ours
    "wide": Recipe(epochs=20, batch_size=32, lr=0.01, augment="wide", **SOURCE_SGD),
    "dilated": Recipe(
        epochs=30,
        lr=0.02,
        schedule="onecycle",
        warmup=0.3,
        weight_decay=5e-4,
        augment="dilated",
        **SOURCE_SGD,
    ),
    "compact": Recipe(
        epochs=50, lr=0.1, schedule="onecycle", weight_decay=5e-4, augment="compact", **SOURCE_SGD
    ),  # all but epochs ours
    "stacked": Recipe(
        epochs=25,
        batch_size=64,
        lr=0.05,
        schedule="step",
        step_epochs=5,
        step_gamma=0.6,
        augment="stacked",
        **SOURCE_SGD,
    ),
}


# ----------------------------------------------------------------------------------------------------- optimiser, schedule


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum; in groups with `orthogonal=True` the update is orthogonalised first.

    K. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon): a
    convolution's update, seen as a matrix (outputs, inputs·kernel²), is replaced by the nearest matrix with orthonormal rows
    or columns, so that every direction moves by the same amount. Weight decay: decoupled there, L2 elsewhere.
    """

    def __init__(self, groups, lr, momentum=0.9, weight_decay=0.0):
        super().__init__(
            groups, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, orthogonal=False)
        )

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = (
                    weight.grad
                    if group["orthogonal"]
                    else weight.grad.add(weight, alpha=group["weight_decay"])
                )
                velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
                velocity.mul_(group["momentum"]).add_(gradient)
                update = gradient.add(velocity, alpha=group["momentum"])  # Nesterov
                if group["orthogonal"]:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    update = orthogonalise(update.flatten(1)).view_as(weight)
                weight.add_(update, alpha=-group["lr"])


def orthogonalise(matrix, steps=3):
    """Moves the singular values of `matrix` (rows, columns) towards 1 by a quintic Newton-Schulz iteration; no SVD needed."""
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = torch.addmm(
            x, torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )  # 3.4445 x + (2.0315 a a - 4.7750 a) x
    return x.T if tall else x


def make_optimizer(model, recipe):
    """The recipe's optimiser for the trainable parameters of `model`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            recipe.lr,
            recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
    if recipe.optimizer in ("adam", "adamw"):
        make = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        return make(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    return Muon(muon_groups(model, recipe), recipe.lr, recipe.momentum)


def muon_groups(model, recipe):
    """The parameter groups of `Muon`: convolution weights, to be orthogonalised, and all others."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    filters = [p for p in parameters if is_filter(p)]
    others = [p for p in parameters if not is_filter(p)]
    return [
        dict(params=filters, lr=recipe.muon_lr, orthogonal=True, weight_decay=recipe.muon_decay),
        dict(params=others, weight_decay=recipe.weight_decay),
    ]


def is_filter(parameter):
    """Whether it is the weight of a convolution. Not of a depthwise one: each of its rows has one
    input, there are no directions to even out.
    """
    return parameter.ndim == 4 and parameter.size(1) > 1


def make_schedule(optimizer, recipe, steps_per_epoch):
    """The recipe's learning-rate schedule, to be stepped after *every batch* (OneCycleLR stepped per epoch never gets going)."""
    steps = recipe.epochs * steps_per_epoch
    if (
        recipe.schedule == "onecycle"
    ):  # max/25 up to max, down to max/25/1000, cosine; momentum 0.95 down to 0.85 and up again
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            steps,
            pct_start=recipe.warmup,
            final_div_factor=1000,
        )
    if recipe.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(
            optimizer, recipe.step_epochs * steps_per_epoch, recipe.step_gamma
        )
    if recipe.schedule == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def triangle(step):
        rising, falling = (
            (step + 1) / (recipe.warmup * steps + 1e-9),
            (steps - step) / ((1 - recipe.warmup) * steps),
        )
        return max(0.0, min(rising, falling))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, triangle)


# --------------------------------------------------------------------------------------------------- training, evaluation


class Evaluation(NamedTuple):
    """What a network says of a set of images. `loss` is the mean cross-entropy, `accuracy` a fraction in 0..1."""

    loss: float
    accuracy: float
    probabilities: np.ndarray  # (N, 10) float32
    predictions: np.ndarray  # (N,) int64


def evaluate(model, images, labels, augment="none", precision="auto", flip=False, batch_size=1000):
    """Classifies images, only normalised, as `augment` normalises them. The model's mode and statistics stay as they are.

    images: uint8 (N, 32, 32, 3); labels: (N,). `flip=True` averages the logits with those of the mirrored image; that is
    test-time augmentation, to be reported apart.

    Raises ValueError where the network does not return logits (N, 10).
    """
    device = next(model.parameters()).device
    precision = pick_precision(device, precision)
    batches = make_batches(images, labels, batch_size, augment, train=False, device=device)
    was_training = model.training
    model.eval()
    logits, truth = classify(model, batches, precision, flip)
    model.train(was_training)
    predictions = logits.argmax(1)
    return Evaluation(
        F.cross_entropy(logits, truth).item(),
        (predictions == truth).float().mean().item(),
        logits.softmax(1).cpu().numpy(),
        predictions.cpu().numpy(),
    )


@torch.no_grad()
def classify(model, batches, precision, flip=False):
    """Logits (N, 10), float32, and labels (N,), both on the device, of all that `batches` yields; see `evaluate`."""
    logits, labels = [], []
    for images, truth in batches:
        with autocast(images.device, precision):
            output = _logits(model, images).float()
            if flip:
                output = (output + _logits(model, images.flip(3)).float()) / 2
        logits.append(output)
        labels.append(truth)
    return torch.cat(logits), torch.cat(labels)


def _logits(model, batch):
    output = model(batch)
    if not isinstance(output, torch.Tensor) or output.shape != (len(batch), NUM_CLASSES):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(
            f"{type(model).__name__} returns {found} for a batch of {len(batch)} images; it must return logits of shape "
            f"({len(batch)}, {NUM_CLASSES}): flatten after the global pooling and end with nn.Linear(channels, {NUM_CLASSES})."
        )
    return output


def train_epoch(model, batches, optimizer, schedule, scaler, recipe, precision, progress=False):
    """One pass over the training images.

    Returns the mean loss and accuracy, as seen during training, on augmented images.
    """
    model.train()
    total, count = 0.0, 0
    # Elsewhere than on a terminal, in a notebook for one, a bar would be litter in the outputs.
    shown = progress and sys.stderr.isatty()
    title = f"epoch {batches.epoch + 1}"
    for images, labels in tqdm(batches, title, leave=False, disable=not shown, mininterval=1):
        # They come in channels-last.
        images = images if recipe.channels_last else images.contiguous()  # (N, 3, H, W)
        loss, logits = forward(model, images, labels, recipe, precision)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        correct = (logits.detach().argmax(1) == labels).sum()
        # The sums stay on the device: nobody waits for them.
        total = total + torch.stack([loss.detach() * len(labels), correct])
        count += len(labels)
    return (total / count).tolist()


def forward(model, images, labels, recipe, precision):
    """The loss to be minimised, a scalar, and the logits (N, 10) of images (N, 3, H, W)."""
    with autocast(images.device, precision):
        logits = _logits(model, images)
    return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing), logits


def fit(
    model,
    recipe,
    data=None,
    *,
    device=None,
    validate=False,
    checkpoint=None,
    resume=False,
    progress=True,
    make_batches=make_batches,
    make_optimizer=make_optimizer,
    make_schedule=make_schedule,
    train_epoch=train_epoch,
    on_epoch=None,
):
    """Trains a fresh network by `recipe` and returns (model, record).

    model: a name in MODELS, or anything that builds a network when called, e.g. your class; it is
        built here, after seeding, so that a cell run twice trains anew.
    recipe: a `Recipe`.
    data: a `Cifar10`; None loads it.
    device: "cpu", "cuda", "mps", or None for the best there is.
    validate: hold out 5,000 training images and report on them instead of on the test set.
    checkpoint: a path, written after every epoch.
    resume: go on from `checkpoint`, to the bit-identical end on the same machine.
    progress: print a line an epoch.
    make_batches, make_optimizer, make_schedule, train_epoch: what is done in the place of this
        program's own functions of these names. A variant is an argument.
    on_epoch: called as on_epoch(model, history) after every epoch.

    The record (a dict, ready for JSON) has the recipe, the history and `seconds`: training alone,
    from the arrays in memory to the trained network, without the evaluations. Averages are weighted
    by the number of samples.

    Raises ValueError (unknown names, wrong logits), TrainingError (checkpoint, device, folder, a
    loss that is no number), DataError (no data).
    """
    name = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
    build = find(MODELS, model, "model") if isinstance(model, str) else model
    device = pick_device(device)
    precision = pick_precision(device, recipe.precision)
    if device.type == "cpu":
        keep_freed_memory()
    part = "val" if validate else "test"
    images, labels, test_images, test_labels = _sets(data, validate, progress)

    importlib.import_module("torch._dynamo")  # else the first optimiser of a process imports it
    clock = time.perf_counter()
    torch.manual_seed(recipe.seed)
    network = build().to(device)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    batches = make_batches(
        images,
        labels,
        recipe.batch_size,
        recipe.augment,
        recipe.engine,
        seed=recipe.seed,
        device=device,
    )
    optimizer = make_optimizer(network, recipe)
    schedule = make_schedule(optimizer, recipe, len(batches))
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    identity = _identity(name, recipe, precision, validate)
    states = dict(model=network, optimizer=optimizer, schedule=schedule, scaler=scaler)
    history = load_checkpoint(checkpoint, identity, states, device) if resume else []
    setup = time.perf_counter() - clock

    for epoch in range(len(history), recipe.epochs):
        clock = time.perf_counter()
        rate = schedule.get_last_lr()[-1]
        batches.epoch = epoch
        if recipe.views:
            batches.view = view_at(epoch, recipe)
        loss, accuracy = train_epoch(
            network, batches, optimizer, schedule, scaler, recipe, precision, progress
        )
        seconds = time.perf_counter() - clock + (setup if epoch == 0 else 0)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The training loss became {loss} in epoch {epoch + 1}; "
                f"lower the learning rate ({recipe.lr})."
            )
        clock = time.perf_counter()
        seen = evaluate(network, test_images, test_labels, recipe.augment, precision)
        history.append(
            {
                "lr": rate,
                "train_loss": loss,
                "train_accuracy": accuracy,
                f"{part}_loss": seen.loss,
                f"{part}_accuracy": seen.accuracy,
                "seconds": seconds,
                "evaluation_seconds": time.perf_counter() - clock,
            }
        )
        if progress:
            tqdm.write(epoch_line(history, recipe.epochs))
        if on_epoch:
            on_epoch(network, history)
        if checkpoint:
            save_checkpoint(checkpoint, identity, states, history, device)
    flipped = evaluate(network, test_images, test_labels, recipe.augment, precision, flip=True)
    return network, make_record(
        name, network, recipe, device, precision, validate, history, flipped.accuracy
    )


def _sets(data, validate, progress):
    """Images and labels to train on, and those to judge by."""
    data = data or load_cifar10(progress=progress)
    if not validate:
        return data
    chosen, held_out = split(data.train_labels)
    images, labels = data.train_images, data.train_labels
    return images[chosen], labels[chosen], images[held_out], labels[held_out]


def _identity(name, recipe, precision, validate):
    """What a checkpoint must be of, to be gone on from."""
    used = dataclasses.asdict(recipe) | {"precision": precision}
    return dict(model=name, recipe=json.loads(json.dumps(used)), validate=validate)


def view_at(epoch, recipe):
    """The `View` of this epoch, counted from 0: the last one of recipe.views that has begun."""
    begun = [view for view in recipe.views if epoch >= view[0] * recipe.epochs]
    return View(*begun[-1][1:])


def epoch_line(history, epochs):
    """The last epoch in one line: learning rate, loss and accuracy of training and test, seconds."""
    last, kind = history[-1], "val" if "val_loss" in history[-1] else "test"
    return (
        f"Epoch {len(history)}/{epochs} | LR {last['lr']:.6f} | train loss {last['train_loss']:.4f} acc {last['train_accuracy']:.4f} | "
        f"{kind} loss {last[f'{kind}_loss']:.4f} acc {last[f'{kind}_accuracy']:.4f} | {last['seconds']:.1f} s"
    )


def make_record(name, model, recipe, device, precision, validate, history, flip_accuracy):
    """What a run leaves: the only source of the numbers in the README and the notebooks."""
    kind = "val" if validate else "test"
    return {
        "model": name,
        "parameters": count_parameters(model),
        "recipe": dataclasses.asdict(recipe),
        "seed": recipe.seed,
        "device": describe_device(device),
        "precision": precision,
        "versions": {module.__name__: module.__version__ for module in (torch, albumentations, np)}
        | {"python": platform.python_version()},
        "seconds": sum(epoch["seconds"] for epoch in history),
        "evaluation_seconds": sum(epoch["evaluation_seconds"] for epoch in history),
        f"{kind}_accuracy": history[-1][f"{kind}_accuracy"],
        f"{kind}_accuracy_flip": flip_accuracy,  # with test-time augmentation: mirrored view averaged in
        "history": history,
    }


# ------------------------------------------------------------------------------------------------------ files, atomically


def save_checkpoint(path, identity, parts, history, device):
    """Model, optimiser, schedule, random states and history after an epoch."""
    state = {
        "identity": identity,
        "history": history,
        "random": torch.get_rng_state(),
        "device_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        **{name: part.state_dict() for name, part in parts.items()},
    }
    write_atomically(path, lambda file: torch.save(state, file))


def load_checkpoint(path, identity, parts, device):
    """Restores `parts` in place and returns the history. Never unpickles anything but tensors and plain data."""
    if path is None or not Path(path).exists():
        raise TrainingError(
            f"There is no checkpoint {path} to resume from; start without --resume."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
    ):
        raise TrainingError(
            f"{path} is not a checkpoint of this program, or is damaged; delete it and start without --resume."
        ) from None
    if found != identity:
        there, here = ({**run, **run["recipe"], "recipe": None} for run in (found, identity))
        differs = "; ".join(
            f"{key}: {there.get(key)!r} there, {here[key]!r} here"
            for key in here
            if there.get(key) != here[key]
        )
        raise TrainingError(
            f"{path} belongs to another run ({differs}); ask for that run, or start without --resume."
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device_random"], device)
    return state["history"]


def load_weights(path):
    """Builds the network of a file in weights/ and returns (model, record of its run), in evaluation mode, on the CPU."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        network = MODELS[saved["model"]]()
        network.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in saved["state"].items()
            }
        )
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise TrainingError(
            f"{path} holds no weights of this program ({type(error).__name__}); train the model anew."
        ) from None
    return network.eval(), json.loads((ROOT / "results" / saved["record"]).read_text())


# ----------------------------------------------------------------------------------------------------------- command line


class Paths(NamedTuple):
    """Where a run leaves its record, its network, and the state to resume from."""

    record: Path
    weights: Path
    checkpoint: Path


def paths_of(name):
    """The `Paths` of the run `name`, e.g. "net-sprint-seed0"."""
    return Paths(
        ROOT / "results" / f"{name}.json",
        ROOT / "weights" / f"{name}.pt",
        ROOT / "checkpoints" / f"{name}.pt",
    )


def train_and_record(model, recipe, name, device=None, *, resume=False, description="", **options):
    """Trains, then writes the record and the weights of the run `name`; see `paths_of`.

    description: what is special about it, in words, for the record.
    options: of `fit`.
    """
    paths = paths_of(name)
    for path in paths:  # an unwritable folder is found now, not after the training
        write_atomically(path.with_suffix(".test"), lambda file: None)
        path.with_suffix(".test").unlink()
    network, record = fit(
        model, recipe, device=device, checkpoint=paths.checkpoint, resume=resume, **options
    )
    record |= {"description": description} if description else {}
    state = {key: value.cpu() for key, value in network.state_dict().items()}
    saved = dict(model=record["model"], record=f"{name}.json", state=state)
    write_atomically(paths.weights, lambda file: torch.save(saved, file))
    text = json.dumps(record, indent=1) + "\n"
    write_atomically(paths.record, lambda file: file.write(text.encode()))
    return record


def whole_number(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of epochs; give a whole number of 1 or more."
        )
    return int(text)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} See python {self.prog} --help.\n")


def parse(arguments):
    parser = Parser(
        prog="train.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains a small network on CIFAR-10.\n\n"
        "A run prints a line for every epoch and leaves results/<model>-<recipe>-seed<k>.json (the record), weights/... (the network)\n"
        "and checkpoints/... (to resume from). The accuracy that counts is the last epoch's.",
        epilog="examples:\n"
        "  python train.py --model net --recipe sprint            85 %% on two CPU cores in about a minute\n"
        "  python train.py --recipe standard --epochs 10 --validate    shorter, judged on 5,000 held-out training images\n"
        "  python train.py --model compact --recipe compact --resume    go on after Ctrl-C or a crash\n",
    )
    parser.add_argument("--model", default="net", help="a network in model.MODELS (default: net)")
    parser.add_argument(
        "--recipe", help="a recipe in RECIPES (default: the model's own; sprint for net)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="initial weights, order and augmentation follow from it (default: 0)",
    )
    parser.add_argument(
        "--epochs",
        type=whole_number,
        metavar="N",
        help="instead of the recipe's; the schedule is stretched to it",
    )
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="train on 45,000 images, report on the other 5,000: for choosing",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last epoch's checkpoint, to the identical result",
    )
    parser.add_argument("--list", action="store_true", help="print all models and recipes")
    return parser.parse_args(arguments)


def show_list():
    print("models")
    for name, build in MODELS.items():
        print(
            f"  {name:9} {count_parameters(build()):>9,} parameters  {build.__doc__.split(': ', 1)[-1].splitlines()[0]}"
        )
    print("recipes")
    for name, r in RECIPES.items():
        print(
            f"  {name:9} {r.epochs} epochs, batch {r.batch_size}, {r.optimizer} lr {r.lr:g} {r.schedule}, {r.augment}"
        )


def main(arguments=None):
    options = parse(arguments)
    if options.list:
        show_list()
        return
    name = ""
    try:
        recipe_name = options.recipe or (options.model if options.model in RECIPES else "sprint")
        find(MODELS, options.model, "model")
        recipe = dataclasses.replace(find(RECIPES, recipe_name, "recipe"), seed=options.seed)
        if options.epochs:
            recipe = dataclasses.replace(recipe, epochs=options.epochs)
            recipe_name += f"-{options.epochs}epochs"
        name = f"{options.model}-{recipe_name}{'-val' * options.validate}-seed{options.seed}"
        record = train_and_record(
            options.model,
            recipe,
            name,
            options.device,
            validate=options.validate,
            resume=options.resume,
        )
    except (ValueError, TrainingError, DataError) as error:
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        if not paths_of(name).checkpoint.exists():
            sys.exit(
                "\ntrain.py: stopped before the first epoch was finished; there is nothing to resume, start again."
            )
        again = [argument for argument in (arguments or sys.argv[1:]) if argument != "--resume"]
        sys.exit(
            f"\ntrain.py: stopped. Every finished epoch is kept; go on with: python train.py {' '.join([*again, '--resume'])}"
        )

    accuracy, flipped = (
        record[f"{'val' if options.validate else 'test'}_accuracy{end}"] for end in ("", "_flip")
    )
    print(
        f"{accuracy:.2%} at the last epoch ({flipped:.2%} with the mirrored view averaged in), {record['seconds']:.1f} s of training"
    )
    print(f"record: results/{name}.json   weights: weights/{name}.pt")


if __name__ == "__main__":
    main()
