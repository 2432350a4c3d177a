"""The sprint on other processors.

`python -m experiments.sweep experiments/06_processors.py` on two cores of one of them. The records
of ten seeds (results/net-sprint-seed*.json) are from processors that multiply bfloat16; this one is
not.
"""

from experiments.sweep import Run

RUNS = [Run("avx2", "sprint", 1, description="two cores with AVX2 and nothing newer, in float32")]
