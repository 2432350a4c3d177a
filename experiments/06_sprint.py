"""The sprint, one change at a time: the runs behind 06_sprint.ipynb.

`python -m experiments.sweep experiments/06_sprint.py`

Every run trains on 45,000 images and is judged on the other 5,000. A change that is no field of a
Recipe is a network, or a function that `train.fit` gets in the place of its own.
"""

import functools
import os
import tempfile

import torch
import torch._inductor.utils
import torch.nn.functional as F
from torch import nn

from core.augment import MEAN, STD
from core.device import autocast
from core.optim import Muon, make_optimizer, muon_groups
from dataset import DeviceBatches, load_cifar10, split
from experiments.sweep import Comparison, Run
from model import Net, Residual, conv_block
from train import train_epoch

# -------------------------------------------------------------------------------------- the network


def whitened():
    """First filters: the leading principal components of 4x4 patches, scaled to unit variance, and
    their negatives; not trained.

    The images are read here, so a part of its seconds is no training.

    D. Page 2019, "How to train your ResNet"; K. Jordan 2024, airbench (arXiv:2404.00498).
    """
    network = Net()
    data = load_cifar10(progress=False)
    chosen, _ = split(data.train_labels)
    images = torch.from_numpy(data.train_images[chosen[::9]]).float() / 255
    images = ((images - torch.tensor(MEAN)) / torch.tensor(STD)).permute(
        0, 3, 1, 2
    )  # (5000, 3, 32, 32)
    patches = F.unfold(images, 4, stride=2).permute(0, 2, 1).reshape(-1, 48)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + 0.01).sqrt()).T[-16:].reshape(16, 3, 4, 4)
    first = network.c1[0][0]
    first.weight.data = torch.cat([filters, -filters])
    first.weight.requires_grad_(False)
    return network


def dirac():
    """Dense 3x3 convolutions start as the identity (as many outputs as have an input), the rest at
    random. airbench.
    """
    network = Net()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size == (3, 3):
            nn.init.dirac_(module.weight.data[: module.in_channels])
    return network


def narrow():
    """16 instead of 32 channels at 16x16, where they cost most."""
    network = Net()
    network.c1 = nn.Sequential(conv_block(3, 16, kernel=4, stride=2), Residual(conv_block(16, 16)))
    network.c2[0] = conv_block(16, 64, stride=2)
    return network


def adaptive_pool():
    """The usual layer for the global average: same numbers, its gradient in NCHW order."""
    network = Net()
    network.pool = nn.AdaptiveAvgPool2d(1)
    return network


# ------------------------------------------------------------------------------------ the optimiser


def fast_biases(model, recipe, factor=8):
    """The biases of BatchNorm learn `factor` times as fast, at the same decay a step.

    airbench (64 times, other units).
    """
    optimizer = make_optimizer(model, recipe)
    biases = [module.bias for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    others = optimizer.param_groups[-1]
    others["params"] = [p for p in others["params"] if all(p is not bias for bias in biases)]
    optimizer.add_param_group(
        dict(params=biases, lr=factor * recipe.lr, weight_decay=recipe.weight_decay / factor)
    )
    optimizer.param_groups.insert(
        0, optimizer.param_groups.pop()
    )  # the last group's learning rate is the one recorded
    return optimizer


class Lookahead(Muon):
    """Every 5 steps the weights go back half of the way to where they were 5 steps ago.

    Zhang et al. 2019, arXiv:1907.08610, who begin with the first weights; here those of step 5.
    """

    steps = 0

    @torch.no_grad()
    def step(self):
        super().step()
        self.steps += 1
        for weight in (
            w for group in self.param_groups for w in group["params"] if self.steps % 5 == 0
        ):
            slow = self.state[weight].setdefault("slow", weight.clone())
            weight.copy_(slow.lerp_(weight, 0.5))


def lookahead(model, recipe):
    """The sprint's optimiser with Lookahead."""
    return Lookahead(muon_groups(model, recipe), recipe.lr, recipe.momentum)


# -------------------------------------------------------------------------------- images and epochs


class Alternating(DeviceBatches):
    """Each image is mirrored in every other epoch, half of them in the even ones.

    Jordan 2024, arXiv:2404.00498.
    """

    def mirrored(self, generator):
        first = (
            torch.rand(len(self.labels), 1, generator=torch.Generator().manual_seed(self.seed))
            < 0.5
        )
        return first ^ bool(self.epoch % 2)


class Pruned(DeviceBatches):
    """Of the 40 % of the images with the smallest last loss, half are left out, at random; the
    others count twice.

    An epoch's gradients add up to what they did, in four fifths of the steps: a step's mean is a
    quarter longer. After Qin et al. 2024, InfoBatch, arXiv:2303.04947.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.losses = torch.full((len(self.labels),), torch.inf)  # at first all are alike
        self.weights = torch.ones(len(self.labels))

    def __len__(self):
        return -(-int(0.8 * len(self.labels)) // self.batch_size)

    def order(self, generator):
        easy = self.losses.argsort()[: int(0.4 * len(self.losses))]
        easy = easy[torch.randperm(len(easy), generator=generator)]
        self.weights[:] = 1
        self.weights[easy] = 2  # those left out are not used
        left_out = torch.zeros(len(self.losses), dtype=torch.bool)
        left_out[easy[: len(self.losses) - int(0.8 * len(self.losses))]] = True
        kept = (~left_out).nonzero().flatten()
        self.used = kept[torch.randperm(len(kept), generator=generator)]
        return self.used


def make_pruned(images, labels, batch_size, augment, engine, seed, device):
    """dataset.make_batches, with Pruned."""
    return Pruned(images, labels, batch_size, augment, True, seed, device)


def make_alternating(images, labels, batch_size, augment, engine, seed, device):
    """dataset.make_batches, with Alternating."""
    return Alternating(images, labels, batch_size, augment, True, seed, device)


def pruned_epoch(model, batches, optimizer, schedule, scaler, recipe, precision, progress):
    """train.train_epoch with a weight for each image and a note of its loss.

    Loss and accuracy are those of the images that were used.
    """
    model.train()
    total, correct, count = 0.0, 0, 0
    for images, labels in batches:
        used = batches.used[count : count + len(labels)]
        with autocast(images.device, precision):
            logits = model(images)
        losses = F.cross_entropy(
            logits.float(), labels, label_smoothing=recipe.label_smoothing, reduction="none"
        )
        optimizer.zero_grad(set_to_none=True)
        loss = (losses * batches.weights[used].to(losses.device)).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        batches.losses[used] = losses.detach().cpu()
        total += losses.sum().item()
        correct += (logits.argmax(1) == labels).sum().item()
        count += len(labels)
    return total / count, correct / count


@functools.lru_cache(maxsize=1)  # the last one alone: a network and its code are large
def compiled(model):
    """torch.compile without what earlier runs have left, in memory or on disk: every run pays for
    its own compilation.
    """
    torch.compiler.reset()
    torch._inductor.utils.clear_inductor_caches()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    torch._inductor.config.force_disable_caches = True
    return torch.compile(model)


def compiled_epoch(model, *rest):
    """train.train_epoch on the compiled network."""
    return train_epoch(compiled(model), *rest)


# ---------------------------------------------------------------------------------------- the table


def validated(name, description, seeds=3, **details):
    return Run(name, "sprint", seeds, description=description, validate=True, **details)


GROWING = ((0, 24, 2, 24), (0.5, 32, 4, 32))
LATER = ((0.3, 32, 0, 24), (0.5, 32, 0, 28))
PRUNED = dict(make_batches=make_pruned, train_epoch=pruned_epoch)
RUNS = [
    validated("sprint", "nothing", seeds=5),
    validated(
        "sgd",
        "SGD (Nesterov, lr 0.5) for all weights instead of Muon",
        change=dict(optimizer="sgd", nesterov=True, lr=0.5),
    ),
    validated("8-epochs", "8 epochs instead of 10", change=dict(epochs=8)),
    validated("pruned", "half of the 40 % easiest images left out", variants=PRUNED),
    validated(
        "pruned-12-epochs",
        "half of the 40 % easiest images left out, 12 epochs",
        change=dict(epochs=12),
        variants=PRUNED,
    ),
    validated("whitened", "first layer whitens the patches and is frozen", model=whitened),
    validated("dirac", "dense 3x3 convolutions start as the identity", model=dirac),
    validated(
        "fast-biases",
        "BatchNorm biases learn 8 times as fast",
        variants=dict(make_optimizer=fast_biases),
    ),
    validated(
        "alternating-flip",
        "each image mirrored in every other epoch",
        variants=dict(make_batches=make_alternating),
    ),
    validated(
        "lookahead",
        "Lookahead: every 5 steps half of the way back",
        variants=dict(make_optimizer=lookahead),
    ),
    validated("narrow", "16 instead of 32 channels at 16x16", model=narrow),
    validated(
        "adaptive-pool", "nn.AdaptiveAvgPool2d instead of a channels-last mean", model=adaptive_pool
    ),
    validated(
        "crops-22-26",
        "22x22 crops, in the second half 26x26",
        change=dict(views=((0, 32, 0, 22), (0.5, 32, 0, 26))),
    ),
    validated(
        "batch-256",
        "batch 256 (lr 0.4, Muon 0.07) instead of 512",
        change=dict(batch_size=256, lr=0.4, muon_lr=0.07),
    ),
    validated("nchw", "NCHW memory instead of channels-last", change=dict(channels_last=False)),
    validated("float32", "float32 instead of bfloat16", change=dict(precision="float32")),
    validated(
        "progressive-resizing",
        "images shrunk to 24x24, then whole, instead of crops",
        change=dict(views=GROWING),
    ),
    validated(
        "compiled",
        "torch.compile, its compilation counted",
        variants=dict(train_epoch=compiled_epoch),
    ),
    validated(
        "whole-images",
        "whole images, shifted by up to 4 pixels, instead of crops",
        change=dict(augment="flip_shift", views=()),
    ),
    validated("no-label-smoothing", "no label smoothing", change=dict(label_smoothing=0.0)),
    validated(
        "crops-24-longer",
        "28x28 crops from 0.7 of the epochs on, not half",
        change=dict(views=((0, 32, 0, 24), (0.7, 32, 0, 28))),
    ),
    validated(
        "crops-20-first",
        "20x20 crops in the first 0.3 of the epochs",
        change=dict(views=((0, 32, 0, 20), *LATER)),
    ),
]

COMPARISONS = [
    Comparison(
        "what the sprint's parts are worth, and what did not pay",
        "sprint",
        tuple(run.name for run in RUNS if run.name != "sprint"),
    )
]
