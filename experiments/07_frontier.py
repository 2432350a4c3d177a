"""The way to `frontier`: designs under 200,000 parameters, compared.

`python -m experiments.sweep experiments/07_frontier.py`

Every run trains on 45,000 images and is judged on the other 5,000. All designs keep the
assignment's rules (analysis.check_assignment). What is asked of each: how accurate is it after
about the same time, and what does an epoch cost?
"""

from experiments.mixed import Mixed
from experiments.sweep import Run
from model import MODELS, FrontierNet, Residual, conv_block


def widened():
    """`net` with four more residual convolutions at 16x16: 182,986 parameters."""
    network = MODELS["net"]()
    for _ in range(4):
        network.c1.append(Residual(conv_block(32, 32)))
    return network


def design(name, epochs, description, build, **change):
    """A design with as many epochs as one core of a CPU does in 12 to 15 minutes."""

    def make():
        return build()

    make.__name__ = name
    return Run(
        name,
        "standard",
        1,
        change=LONG | dict(epochs=epochs, **change),
        model=make,
        validate=True,
        description=description,
    )


LONG = dict(augment="flip_shift", engine="device")
RUNS = [
    design(
        "16-32-64",
        19,
        "16, 32, 64 channels at 32x32, 16x16, 8x8",
        FrontierNet,
    ),
    design(
        "16-32-64-cutout",
        19,
        "the same with cutout",
        FrontierNet,
        augment="flip_shift_cutout",
    ),
    design(
        "16-32-64-decay",
        19,
        "the same with weight decay in Muon",
        FrontierNet,
        muon_decay=0.02,
    ),
    design("net-deeper", 28, "net with four more residual convolutions at 16x16", widened),
    design(
        "24-40-56",
        17,
        "24, 40, 56 channels, one residual convolution at 32x32",
        lambda: FrontierNet((24, 40, 56), (1, 3, 2)),
    ),
    design("net", 48, "net", MODELS["net"]),
    design("mixed", 2, "depthwise kernels of 3 and 7, dilated 7, at 32x32 and 16x16", Mixed),
]
