"""What the five published texts leave open or got wrong, tried.

`python -m experiments.sweep experiments/11_five_networks.py`

Some of what a text leaves open is tried in short runs on 45,000 images, judged on the other 5,000:
`strided`'s recipe in core.recipes was chosen by them, `compact`'s was there before; the lesson says
what is untried. The "as-run" lines train on all 50,000 with a text's own
mistake. A line without records in results/ has not been run yet. The long runs without mistakes are
`python train.py --model compact` and so on; their records lie in results/ itself.
"""

from experiments.sweep import Run
from model import StridedNet


def strided_unpadded():
    """`strided` as its text writes it, no padding in its depthwise convolutions: 8x8 -> 6 -> 4 -> 1
    instead of 8x8 -> 8 -> 8 -> 4.
    """
    return StridedNet(padding=0)


def compact(name, description, seeds=1, **change):
    return Run(
        f"compact-{name}",
        "compact",
        seeds,
        change=dict(epochs=12, **change),
        model="compact",
        validate=True,
        description=description,
    )


def strided(name, description, network="strided", **change):
    change = dict(epochs=12, step_gamma=0.1, augment="flip") | change
    return Run(
        f"strided-{name}",
        "strided",
        1,
        change=change,
        model=network,
        validate=True,
        description=description,
    )


def as_run(name, description, suffix="", seeds=3, **change):
    return Run(
        f"{name}-as-run{suffix}",
        name,
        seeds,
        change=dict(augment=f"{name}_as_run", **change),
        model=name,
        description=description,
    )


FIFTEEN = dict(epochs=15, step_epochs=3)  # the 50 epochs with steps after every 10, in short

RUNS = [
    compact("onecycle", "SGD, OneCycle to 0.1, weight decay 5e-4", seeds=3),
    compact("onecycle-0.3", "SGD, OneCycle to 0.3, weight decay 5e-4", lr=0.3),
    compact(
        "step",
        "SGD 0.05, a tenth after every 5 epochs, weight decay 5e-4",
        lr=0.05,
        schedule="step",
        step_epochs=5,
    ),
    compact(
        "adam",
        "Adam 0.001, constant, no weight decay",
        optimizer="adam",
        lr=0.001,
        schedule="constant",
        weight_decay=0.0,
    ),
    strided("sgd", "SGD 0.1, a tenth after 10 epochs; no padding", strided_unpadded),
    strided("sgd-padded", "SGD 0.1, a tenth after 10 epochs; padding 1"),
    strided(
        "adam",
        "Adam 0.001, a tenth after 10 epochs; no padding",
        strided_unpadded,
        optimizer="adam",
        lr=0.001,
    ),
    strided(
        "adam-padded", "Adam 0.001, a tenth after 10 epochs; padding 1", optimizer="adam", lr=0.001
    ),
    strided(
        "15-shift",
        "15 epochs, a tenth after every 3; padding 1, shifts",
        augment="flip_shift",
        **FIFTEEN,
    ),
    strided(
        "15-shift-half",
        "15 epochs, halved after every 3; padding 1, shifts",
        augment="flip_shift",
        step_gamma=0.5,
        **FIFTEEN,
    ),
    strided("15-half", "15 epochs, halved after every 3; padding 1", step_gamma=0.5, **FIFTEEN),
    compact(
        "float32",
        "SGD, OneCycle to 0.1, weight decay 5e-4; float32 instead of bfloat16",
        seeds=3,
        precision="float32",
    ),
    as_run("dilated", "invalid cutout arguments, as its log shows: the library's default holes"),
    as_run("dilated", "the library's default holes, 40 epochs", "-40epochs", epochs=40),
    as_run("stacked", "a hole filled with 0.49 of 255: black", seeds=2),
    Run("again-stacked", "stacked", 1, {}, "stacked", False, "seed 0 once more, with torch 2.14.1"),
]
