"""How long to 85 % on this machine, and how much arithmetic: the sprints against `compact`.

    python -m tools.bench_sprint            1 seed of each, one after the other
    python -m tools.bench_sprint --seeds 3  alternating

Each racer is charged its whole training, evaluations not counted. `compact` has 20 epochs, a few
fewer than its recorded trainings ask for (experiments/06_sprint.ipynb): that errs in its favour.
Seconds belong to a machine, arithmetic does not: so the operations of each training are counted,
and the share of what one large matrix product reaches here is told. Writes
results/bench/sprint.json, which keeps one race for each kind of processor.
"""

import dataclasses
import os
import statistics
import sys
import time

import torch

from analysis import operations
from core.common import (
    ROOT,
    Parser,
    TrainingError,
    check_writable,
    read_json,
    stoppable,
    whole_number,
    write_json,
)
from core.device import describe_device, pick_precision
from core.recipes import RECIPES
from core.records import race_table
from dataset import DataError
from model import MODELS
from train import fit

MARK, OPPONENT = 0.85, "compact"
RACERS = {  # name: (model, recipe)
    "lean": ("net", RECIPES["lean"]),
    "sprint": ("net", RECIPES["sprint"]),
    "compact": ("compact", dataclasses.replace(RECIPES["compact"], epochs=20)),
}
RESULT = ROOT / "results" / "bench" / "sprint.json"


def race(seeds):
    """Trains each racer with each seed: ({name: [record, ...]}, peaks in operations a second)."""
    records, peaks = {name: [] for name in RACERS}, []
    for seed in range(seeds):
        for name, (model, recipe) in RACERS.items():
            peaks.append(peak())
            print(f"{name}, seed {seed}", flush=True)
            seeded = dataclasses.replace(recipe, seed=seed)
            records[name].append(fit(model, seeded, device="cpu")[1])
    return records, peaks


def peak(side=4096, repeats=5):
    """Operations a second of a product of two (side, side) matrices, in the fastest precision."""
    one = torch.randn(side, side).to(getattr(torch, pick_precision("cpu")))
    seconds = []
    for _ in range(repeats + 1):  # one to warm up
        start = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[1:])


def summary_of(records, work, speed):
    """What results/bench/sprint.json holds of a race.

    records: {name: [record, ...]}.
    work: {name: operations of one training}.
    speed: operations a second that a matrix product reaches.
    """
    first = next(iter(records.values()))[0]
    opponent = statistics.median(run["seconds"] for run in records[OPPONENT])
    racers = {}
    for name, runs in records.items():
        seconds = [run["seconds"] for run in runs]
        median = statistics.median(seconds)
        racers[name] = {
            "epochs": runs[0]["recipe"]["epochs"],
            "seconds": seconds,
            "median": median,
            "test_accuracy": [run["test_accuracy"] for run in runs],
            "operations": work[name],
            "share_of_matrix_product": work[name] / median / speed,
            "times_faster": opponent / median,
        }
    return {
        "mark": MARK,
        "torch": first["versions"]["torch"],
        "precision": first["precision"],
        "operations_a_second": speed,
        "racers": racers,
    }


def main():
    parser = Parser("-m tools.bench_sprint", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=whole_number, default=1, help="runs of each (default: 1)")
    seeds = parser.parse_args().seeds
    try:
        check_writable([RESULT])
        races = read_json(RESULT, {})
        records, peaks = race(seeds)
    except (DataError, TrainingError, ValueError) as error:  # ValueError: of PRECISION, too
        sys.exit(f"bench_sprint: {error}")
    work = {name: operations(MODELS[model](), recipe) for name, (model, recipe) in RACERS.items()}
    summary = summary_of(records, work, statistics.median(peaks))
    device = describe_device("cpu")
    if os.environ.get("PRECISION"):  # it is a race of its own
        device += f", in {pick_precision('cpu')}"
    write_json(RESULT, races | {device: summary})
    print(race_table({device: summary}))


if __name__ == "__main__":
    with stoppable("bench_sprint"):
        main()
