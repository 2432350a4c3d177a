"""How long to 85 % on this machine, and how much arithmetic: the sprints against `compact`.

    python -m tools.bench_sprint            1 seed of each, one after the other
    python -m tools.bench_sprint --seeds 3  alternating

Each racer's schedule is the shortest found whose last epoch has 85 %, and each is charged its whole
training, evaluations not counted. The opponent's was looked for on held-out images, like ours.
Seconds belong to a machine, arithmetic does not: so the operations of each training are counted,
and the share of what one large matrix product reaches here is told. Writes
results/bench/sprint.json, which keeps one race for each kind of processor.
"""

import dataclasses
import json
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from core.common import ROOT, Parser, whole_number, write_json
from core.device import describe_device, pick_precision
from core.forward import forward
from core.optim import make_optimizer
from core.recipes import RECIPES
from model import MODELS
from train import fit

MARK = 0.85
IMAGES = 50_000
RACERS = {  # name: (model, recipe)
    "lean": ("lean", RECIPES["lean"]),
    "sprint": ("net", RECIPES["sprint"]),
    "compact": ("compact", dataclasses.replace(RECIPES["compact"], epochs=22)),
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


def operations(model, recipe, images=IMAGES):
    """Multiplications and additions of convolutions and matrices in a whole training.

    Counted by torch in one step, forward, backward and the optimiser's own, at each of the sizes
    that the recipe shows; the evaluations are not in it.
    """
    network = MODELS[model]()
    optimizer = make_optimizer(network, recipe)
    steps = -(-images // recipe.batch_size)
    total = 0
    for epoch in range(recipe.epochs):
        crop = recipe.view_at(epoch)[2] if recipe.views else 32
        batch = torch.randn(2, 3, crop, crop)  # two: batch normalisation needs more than one
        with FlopCounterMode(display=False) as learning:
            forward(network, batch, torch.zeros(2).long(), recipe, "float32")[0].backward()
        with FlopCounterMode(display=False) as stepping:
            optimizer.step()
        optimizer.zero_grad()
        total += images * learning.get_total_flops() / 2 + steps * stepping.get_total_flops()
    return total


def summary_of(records, work, speed):
    """What results/bench/sprint.json holds of a race.

    records: {name: [record, ...]}.
    work: {name: operations of one training}.
    speed: operations a second that a matrix product reaches.
    """
    first = next(iter(records.values()))[0]
    summary = {"mark": MARK, "torch": first["versions"]["torch"], "precision": first["precision"]}
    summary["operations_a_second"] = speed
    for name, runs in records.items():
        seconds = [run["seconds"] for run in runs]
        median = statistics.median(seconds)
        summary[name] = {
            "epochs": runs[0]["recipe"]["epochs"],
            "seconds": seconds,
            "median": median,
            "test_accuracy": [run["test_accuracy"] for run in runs],
            "operations": work[name],
            "share_of_matrix_product": work[name] / median / speed,
        }
    for name in records:
        summary[name]["times_faster"] = summary["compact"]["median"] / summary[name]["median"]
    return summary


def main():
    parser = Parser("-m tools.bench_sprint", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=whole_number, default=1, help="runs of each (default: 1)")
    records, peaks = race(parser.parse_args().seeds)
    work = {name: operations(*racer) for name, racer in RACERS.items()}
    summary = summary_of(records, work, statistics.median(peaks))
    for name in RACERS:
        told = summary[name]
        accuracy = ", ".join(f"{value:.2%}" for value in told["test_accuracy"])
        print(
            f"{name:8} {told['epochs']} epochs: {told['median']:.0f} s, {accuracy}, "
            f"{told['operations'] / 1e12:.1f}e12 operations, "
            f"{told['share_of_matrix_product']:.0%} of a matrix product's speed, "
            f"{told['times_faster']:.1f} times as fast as compact"
        )
    races = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    write_json(RESULT, races | {describe_device("cpu"): summary})


if __name__ == "__main__":
    main()
