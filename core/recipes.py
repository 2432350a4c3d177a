"""Recipes: all that decides a run, beside the model, as data."""

import json
from dataclasses import asdict, dataclass, replace

from core.augment import AUGMENTATIONS, DEVICE_AUGMENTATIONS
from core.common import is_number
from core.device import PRECISIONS

OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
SCHEDULES = ("constant", "step", "onecycle", "triangle")
ENGINES = ("albumentations", "device")


@dataclass(frozen=True)
class Recipe:
    """All that decides a run, beside the model. Nothing that changes a result hides in code, but
    for the number of albumentations' workers (`dataset.make_batches`), one a core up to four, and
    the memory order on a Mac's GPU (`on`).

    Frozen: vary one with `dataclasses.replace(recipe, epochs=10)`.

    epochs, batch_size: 1 or more.
    optimizer: in OPTIMIZERS; "muon" has Muon for the weights of convolutions that mix channels,
        and SGD for everything else.
    lr: the peak of the learning rate.
    momentum: of sgd and muon; with "onecycle" it goes from 0.95 to 0.85 and back instead, and so
        does the first beta of adam and adamw.
    nesterov: of sgd; muon always has it.
    weight_decay: L2, but decoupled for adamw.
    schedule: in SCHEDULES. "step" is StepLR, "onecycle" OneCycleLR (Smith and Topin 2017,
        arXiv:1708.07120), "triangle" linear up, then linear down to 0.
    warmup: onecycle and triangle: the fraction of all steps on the way up.
    step_epochs, step_gamma: step: every so many epochs the rate is multiplied by this.
    muon_lr, muon_decay: muon: peak and decoupled weight decay of the convolution weights.
    label_smoothing: this share of the probability goes to all classes alike (Szegedy et al. 2015,
        arXiv:1512.00567).
    mixup: device engine: the largest share of a second image in every image, and of its label
        (Zhang et al. 2017, arXiv:1710.09412, here drawn uniformly; 0 to 0.5). It grows from 0 over
        the first half of the epochs, as in xvel/cifar10-tiniest. 0 is off.
    ema: what is judged and kept are weights averaged over the steps, each step's mean being `ema`
        of the last one's, the rest its own weights; 0 is off. See core.averaging.
    augment: a name in core.augment.AUGMENTATIONS; it sets the normalisation, too.
    engine: in ENGINES: "albumentations" can do any pipeline, "device" is fast; see
        `dataset.make_batches`.
    views: device engine: (start, side, pad, crop) in order. From the fraction `start` of the
        epochs on, images are resized to `side`, padded by `pad`, cropped to `crop` pixels, in the
        place of the augmentation's own shift.
    precision: "float32", "bfloat16", "float16", or "auto": the one that the device multiplies
        fastest (core.device.pick_precision).
    channels_last: the memory order of images and convolutions.
    seed: initial weights, order and augmentation follow from it.

    Raises ValueError for a value outside its range.
    """

    epochs: int
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.3
    step_epochs: int = 10
    step_gamma: float = 0.1
    muon_lr: float = 0.0
    muon_decay: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    augment: str = "none"
    engine: str = "albumentations"
    views: tuple = ()
    precision: str = "auto"
    channels_last: bool = True
    seed: int = 0

    def __post_init__(self):
        for field, known in CHOICES.items():
            value = getattr(self, field)
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"{field} is {value!r}; it must be one of {', '.join(known)}.")
        for field, (kind, low, high) in RANGES.items():
            value = getattr(self, field)
            if not is_number(value, whole=kind == WHOLE) or not low <= value <= high:
                raise ValueError(
                    f"{field} is {value!r}; it must be {kind} from {low:,} to {high:,}."
                )
            if isinstance(value, float):
                object.__setattr__(self, field, float(value))  # NumPy's is one, in no checkpoint
        for field in ("nesterov", "channels_last"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be True or False.")
        self._check_views()
        self._check_together()

    def _check_views(self):
        views = self.views if isinstance(self.views, (list, tuple)) else None
        if views is None or not all(isinstance(v, (list, tuple)) and is_view(v) for v in views):
            raise ValueError(
                f"views is {self.views!r}; each is (start, side, pad, crop) with start in 0..1, "
                "whole numbers of pixels, pad < side and crop <= side + 2·pad."
            )
        starts = [view[0] for view in views]
        if starts != sorted(starts) or starts[:1] not in ([], [0]):
            raise ValueError(f"views is {views!r}; they come in order, the first starts at 0.")
        object.__setattr__(self, "views", tuple(tuple(v) for v in views))  # JSON has lists

    def _check_together(self):
        """What each value allows, and all of them do not."""
        if self.optimizer == "muon" and self.muon_lr == 0:
            raise ValueError("muon_lr is 0; with it no convolution learns; set it, e.g. to 0.05.")
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum of more than 0.")
        for field, off in (("views", ()), ("mixup", 0)):
            if self.engine == "albumentations" and getattr(self, field):
                raise ValueError(
                    f'{field} is the device engine\'s; set engine="device", or {field}={off}.'
                )
        if self.views and "shift" in self.augment:
            raise ValueError(
                f"views have shifts of their own, so that {self.augment!r} would not shift; set "
                "views=(), or an augmentation without shift."
            )
        if self.engine == "device" and self.augment not in DEVICE_AUGMENTATIONS:
            raise ValueError(
                f"The device engine does not know the augmentation {self.augment!r}, only "
                f'{", ".join(DEVICE_AUGMENTATIONS)}; set engine="albumentations".'
            )

    def on(self, device):
        """The same as this device can compute it: in channels-last the gradients of a Mac's GPU
        are wrong (pytorch/pytorch#175189).
        """
        return replace(self, channels_last=False) if device.type == "mps" else self

    def view_at(self, epoch):
        """(side, pad, crop) of the last one of `views` that has begun by this epoch, from 0 on."""
        begun = [v for v in self.views if epoch >= v[0] * self.epochs - 1e-9]  # 0.55·100 > 55
        return begun[-1][1:]

    def mixup_at(self, epoch):
        """The largest share of a second image in this epoch, from 0 on."""
        return self.mixup * min(1, 2 * epoch / self.epochs)


CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": ("auto", *PRECISIONS),
    "engine": ENGINES,
    "augment": AUGMENTATIONS,  # tables add to it
}
WHOLE, REAL = "a whole number", "a number"
RANGES = {  # field: what it is, the least, the most
    "epochs": (WHOLE, 1, 100_000),
    "batch_size": (WHOLE, 1, 1_000_000),
    "lr": (REAL, 1e-30, 1e30),
    "momentum": (REAL, 0, 0.9999),
    "weight_decay": (REAL, 0, 1),
    "warmup": (REAL, 0, 0.9999),
    "step_epochs": (WHOLE, 1, 100_000),
    "step_gamma": (REAL, 1e-6, 1),
    "muon_lr": (REAL, 0, 1e30),
    "muon_decay": (REAL, 0, 1),
    "label_smoothing": (REAL, 0, 0.9999),
    "mixup": (REAL, 0, 0.5),
    "ema": (REAL, 0, 0.99999),
    "seed": (WHOLE, 0, 2**32 - 1),  # torch's generator looks at no more of it
}


def is_view(view):
    """Whether `view` is (start, side, pad, crop), with a crop that fits."""
    if len(view) != 4 or not is_number(view[0]) or not 0 <= view[0] <= 1:
        return False
    _, side, pad, crop = view
    if not all(is_number(size, whole=True) for size in view[1:]):
        return False
    return 0 <= pad < side <= 256 and 1 <= crop <= side + 2 * pad


def settings(recipe):
    """A recipe as JSON keeps it: {field: value}."""
    return json.loads(json.dumps(asdict(recipe)))


# What a record or a checkpoint does not say that is older than a field.
DEFAULTS = settings(Recipe(1))
del DEFAULTS["epochs"]

OURS = dict(
    optimizer="muon", weight_decay=5e-4, schedule="triangle", warmup=0.25, label_smoothing=0.1
)
# Random crops of 24x24, in the second half of 28x28 pixels; tested on whole images.
CROPS = ((0, 32, 0, 24), (0.5, 32, 0, 28))
# Whole images shrunk to 20x20, then to 24x24, each shifted by up to 2 pixels; crops at the end.
SHRUNK = ((0, 20, 2, 20), (0.33, 24, 2, 24), (0.55, 32, 0, 28))
FAST = dict(engine="device", **OURS)
VARIED = dict(mixup=0.5, ema=0.999, label_smoothing=0, augment="flip_shift_turn_colour")

RECIPES = {
    "sprint": Recipe(10, 512, lr=0.6, muon_lr=0.1, augment="flip", views=CROPS, **FAST),
    "lean": Recipe(9, 256, lr=0.5, muon_lr=0.12, augment="flip", views=SHRUNK, **FAST),
    "standard": Recipe(50, 256, lr=0.4, muon_lr=0.07, augment="standard", **OURS),
    "frontier": Recipe(100, 256, lr=0.4, muon_lr=0.07, augment="flip_shift", **FAST),
    # For a GPU: batches of 250 leave no rest, so that nothing is compiled twice.
    "gated": Recipe(94, 250, lr=0.1, muon_lr=0.05, **FAST | VARIED),
    # The published networks' recipes. What a text leaves open is marked "ours".
    # strided: most of it ours.
    "strided": Recipe(50, lr=0.1, schedule="step", step_gamma=0.5, augment="flip_shift"),
    # wide: by its code; its text writes batches of 128.
    "wide": Recipe(20, 32, lr=0.01, augment="wide"),
    "dilated": Recipe(
        30, lr=0.02, schedule="onecycle", warmup=0.3, weight_decay=5e-4, augment="dilated"
    ),
    # compact: all but the epochs ours.
    "compact": Recipe(50, lr=0.1, schedule="onecycle", weight_decay=5e-4, augment="compact"),
    "stacked": Recipe(
        25, 64, lr=0.05, schedule="step", step_epochs=5, step_gamma=0.6, augment="stacked"
    ),
}

# What a field does, the lesson that prices it, and the run of 06_sprint that changes it.
EXPLAINED = {
    "epochs": ("so often is every training image shown", "06_sprint", "8-epochs"),
    "batch_size": ("images in one step", "06_sprint", "batch-256"),
    "optimizer": ("how a gradient becomes a step", "06_sprint", "sgd"),
    "lr": ("the peak of the learning rate, the factor of a step", "", ""),
    "momentum": ("this share of the last steps' direction is kept", "", ""),
    "nesterov": ("momentum that looks one step ahead", "", ""),
    "weight_decay": (
        "pulls weights towards 0 at every step; with muon not where muon_lr is the rate",
        "",
        "",
    ),
    "schedule": ("how the learning rate changes from step to step", "02_mistakes", ""),
    "warmup": ("the share of all steps on which the rate rises", "", ""),
    "step_epochs": ("after so many epochs the rate falls", "", ""),
    "step_gamma": ("by this factor", "", ""),
    "muon_lr": ("its peak for the convolutions that mix channels", "", ""),
    "muon_decay": ("pulls those convolutions' weights towards 0", "07_frontier", ""),
    "label_smoothing": (
        "this share of the wanted probability goes to all classes alike",
        "06_sprint",
        "no-label-smoothing",
    ),
    "mixup": ("each image is mixed with another, by up to this share", "07_frontier", ""),
    "ema": ("weights averaged over the steps; this share of the mean stays", "07_frontier", ""),
    "augment": ("how images are changed, at random", "03_augmentation", ""),
    "engine": ("what changes them: worker processes, or the device, batch by batch", "", ""),
    "views": (
        "(from this share of the epochs on, side, padding, crop): random crops, in pixels",
        "06_sprint",
        "whole-images",
    ),
    "precision": (
        "how many bits a number has; auto: what the device multiplies fastest",
        "06_sprint",
        "float32",
    ),
    "channels_last": (
        "in memory the channels of one pixel lie side by side; many processors like that",
        "06_sprint",
        "nchw",
    ),
    "seed": ("where chance begins: weights, order, augmentation", "", ""),
}
ONLY = {  # fields that only some choices read
    "momentum": ("sgd", "muon"),
    "nesterov": ("sgd",),
    "muon_lr": ("muon",),
    "muon_decay": ("muon",),
    "warmup": ("onecycle", "triangle"),
    "step_epochs": ("step",),
    "step_gamma": ("step",),
}


def in_use(recipe):
    """The fields that decide a training by `recipe`: all but what is off, or read by nothing."""
    chosen = (recipe.optimizer, recipe.schedule)
    read = [field for field in EXPLAINED if field not in ONLY or set(ONLY[field]) & set(chosen)]
    if recipe.schedule == "onecycle":  # it has momenta of its own
        read = [field for field in read if field != "momentum"]
    return [field for field in read if getattr(recipe, field) or field == "seed"]
