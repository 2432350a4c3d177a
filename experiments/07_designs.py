"""Which design is worth the next long run? Four of them, trained for about the same time.

`python -m experiments.sweep experiments/07_designs.py`

Every run trains on 45,000 images and is judged on the other 5,000, with the long run's
regularisation in miniature: mixed images, averaged weights.
"""

from experiments import designs
from experiments.sweep import Run


def line(build, epochs, description):
    """A design with as many epochs as one core of a CPU with bfloat16 does in about 25 minutes."""
    change = dict(epochs=epochs, mixup=0.3, ema=0.99, label_smoothing=0)
    return Run(
        build.__name__,
        "frontier",
        1,
        change=change,
        model=build,
        validate=True,
        description=description,
    )


RUNS = [
    line(designs.dense, 28, "residual 3x3 convolutions: 48 channels at 16x16, 64 at 8x8"),
    line(designs.hybrid, 28, "residual 3x3 convolutions at 16x16, gated blocks at 8x8"),
    line(designs.flat, 9, "gated blocks of 88 channels at 16x16"),
    line(designs.pyramid, 20, "gated blocks: 64 channels at 16x16, 112 at 8x8"),
]
