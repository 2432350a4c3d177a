"""What each augmentation buys, and when: the runs behind 03_augmentation.ipynb.

`python -m experiments.sweep experiments/03_augmentation.py`

`net` with the sprint's optimiser on whole images, and `compact` with its own recipe; 45,000 images,
judged on the other 5,000. The budgets are 3 (`net` alone), 10 and 30 epochs; the schedule is
stretched to each.
"""

from core.augment import Augmentation, cutout, flip, shift_scale_rotate
from experiments.sweep import Comparison, Run

AUGMENTATIONS = {
    "shift-scale-rotate": Augmentation((lambda: shift_scale_rotate(0.5),)),
    "cutout": Augmentation((lambda: cutout(0.5),)),
    "cutout 8": Augmentation((lambda: cutout(0.5, side=8),)),
    "cutout 24": Augmentation((lambda: cutout(0.5, side=24),)),
    "ssr strong": Augmentation((lambda: shift_scale_rotate(0.5, 0.125, 0.2, 30),)),
    "ssr extreme": Augmentation((lambda: shift_scale_rotate(0.5, 0.25, 0.4, 60),)),
    "all, always": Augmentation((flip, lambda: shift_scale_rotate(1.0), lambda: cutout(1.0))),
}
SINGLE = {  # name of the run -> (name in AUGMENTATIONS, in words)
    "none": ("none", "no augmentation"),
    "flip": ("flip", "flip alone"),
    "ssr": ("shift-scale-rotate", "shift-scale-rotate alone"),
    "cutout": ("cutout", "cutout of 16x16 alone"),
    "all": ("standard", "flip, shift-scale-rotate and cutout"),
}
STRENGTHS = {
    "cutout-8": ("cutout 8", "cutout of 8x8 alone"),
    "cutout-24": ("cutout 24", "cutout of 24x24 alone"),
    "ssr-strong": ("ssr strong", "shift 0.125, scale 0.2, rotate 30 degrees, alone"),
    "ssr-extreme": ("ssr extreme", "shift 0.25, scale 0.4, rotate 60 degrees, alone"),
    "all-always": ("all, always", "all three, shift-scale-rotate and cutout on every image"),
}


def line(name, epochs, network="net", seeds=3):
    augment, description = (SINGLE | STRENGTHS)[name]
    change = dict(augment=augment, epochs=epochs)
    if network == "net":
        change |= dict(engine="albumentations", views=())
    recipe = "sprint" if network == "net" else network
    return Run(
        f"{network}-{name}-{epochs}",
        recipe,
        seeds,
        change=change,
        model=network,
        validate=True,
        description=description,
    )


RUNS = [
    *(line(name, 3, seeds=5) for name in SINGLE),
    *(line(name, 10) for name in SINGLE | STRENGTHS),
    *(line(name, 30) for name in SINGLE),
    *(line(name, epochs, "compact") for epochs in (10, 30) for name in ("none", "all")),
]

ALONE = ("flip", "ssr", "cutout", "all")
COMPARISONS = [
    *(
        Comparison(
            f"augmentation against none, {epochs} epochs",
            f"net-none-{epochs}",
            tuple(f"net-{name}-{epochs}" for name in ALONE),
        )
        for epochs in (3, 10, 30)
    ),
    *(
        Comparison(
            f"`compact` with its own recipe, {epochs} epochs",
            f"compact-none-{epochs}",
            (f"compact-all-{epochs}",),
        )
        for epochs in (10, 30)
    ),
    Comparison(
        "other holes than the assignment's 16x16, 10 epochs",
        "net-cutout-10",
        ("net-cutout-8-10", "net-cutout-24-10"),
    ),
    Comparison(
        "stronger than shift 0.0625, scale 0.1, rotate 15 degrees, 10 epochs",
        "net-ssr-10",
        ("net-ssr-strong-10", "net-ssr-extreme-10"),
    ),
    Comparison(
        "all three, each on half of the images, 10 epochs", "net-all-10", ("net-all-always-10",)
    ),
]
