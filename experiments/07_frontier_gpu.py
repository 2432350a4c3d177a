"""The large design, for a GPU: `python -m experiments.sweep experiments/07_frontier_gpu.py`.

Cut off, it goes on from the last epoch.

Depthwise kernels of 7x7 at 32x32 take minutes an epoch on a CPU. First its lengths and cutout on
45,000 images, judged on the other 5,000, then the long run on all. Rehearsed on a CPU only, with
one epoch of 256 images (tests/test_experiments.py).
"""

import torch

from experiments.mixed import Mixed
from experiments.sweep import Run


def mixed():
    """`Mixed`, compiled in place where there is a GPU: names and weights stay as they are."""
    network = Mixed()
    if torch.cuda.is_available():
        network.compile()
    return network


def line(name, epochs, seeds, description, augment="flip_shift", **details):
    return Run(
        name,
        "frontier",
        seeds,
        change=dict(epochs=epochs, augment=augment),
        model=mixed,
        description=description,
        **details,
    )


RUNS = [
    line("mixed-30", 30, 2, "30 epochs", validate=True),
    line("mixed-100", 100, 2, "100 epochs", validate=True),
    line("mixed-100-cutout", 100, 2, "100 epochs with cutout", "flip_shift_cutout", validate=True),
    # The one that is tested: set "flip_shift_cutout" here if the held-out images above prefer it.
    line("mixed-250", 250, 3, "250 epochs on all training images"),
]
