"""What each augmentation buys, and when: the runs behind 03_augmentation.ipynb. `python train.py --sweep experiments/03_augmentation.py`

`net` with the sprint's optimiser on whole images, and `compact` with its own recipe; 45,000 images, judged on the other 5,000. The budgets
are 3 (`net` alone), 10 and 30 epochs; the schedule is stretched to each.
"""

from dataset import AUGMENTATIONS, Augmentation, cutout, flip, shift_scale_rotate
from train import Run


def holes(side):
    """The assignment's cutout, `side` pixels instead of 16."""
    hole = cutout(0.5)
    hole.hole_height_range = hole.hole_width_range = (side, side)
    return hole


AUGMENTATIONS |= {
    "shift-scale-rotate": Augmentation((lambda: shift_scale_rotate(0.5),)),
    "cutout": Augmentation((lambda: cutout(0.5),)),
    "cutout 8": Augmentation((lambda: holes(8),)),
    "cutout 24": Augmentation((lambda: holes(24),)),
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
    augment, what = (SINGLE | STRENGTHS)[name]
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
        what=what,
    )


RUNS = [
    *(line(name, 3, seeds=5) for name in SINGLE),
    *(line(name, 10) for name in SINGLE | STRENGTHS),
    *(line(name, 30) for name in SINGLE),
    *(line(name, epochs, "compact") for epochs in (10, 30) for name in ("none", "all")),
]
