"""Does a network learn more from three of its kind than from the labels?

`python -m experiments.sweep experiments/07_teachers.py`

`net`, all training images, judged by the test images at the last epoch. The three that learn from
the labels are the teachers of the three that never see one: with `--jobs`, or in a second terminal,
these fail until their teachers are there; then repeat the command. The teachers' weights are in
nobody's git: to do `taught` anew, delete the records of `untaught`, too.
"""

from experiments.sweep import Run
from experiments.teaching import Taught

BASE = dict(epochs=30, mixup=0.3, ema=0.999, label_smoothing=0)
TEACHERS = [f"07_teachers/untaught-seed{seed}" for seed in range(3)]

RUNS = [
    Run("untaught", "frontier", 3, BASE, description="from the labels"),
    Run(
        "taught",
        "frontier",
        3,
        BASE | {"seed": 3},
        description="from the mean answer of three others",
        variants={"train_epoch": Taught(TEACHERS)},
    ),
]
