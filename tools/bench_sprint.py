"""How long to 85 % on this machine: the sprint against the best published recipe, in one run.

    python -m tools.bench_sprint            3 seeds of each, alternating
    python -m tools.bench_sprint --seeds 1  a quicker look

Time to 85 % is the training time (evaluations not counted) up to the end of the first epoch with a
test accuracy of 85 % or more. The sprint is charged its whole run. For `compact` the first such
epoch counts, even if a later one falls below again: that errs in its favour. Writes
results/bench/sprint.json, and each run's record.
"""

import dataclasses
import statistics

from core.common import ROOT, Parser, whole_number, write_json
from core.records import seconds_to
from train import RECIPES, train_and_record

MARK = 0.85
RACERS = {"sprint": "net", "compact": "compact"}  # recipe: model


def race(seeds):
    """Trains each racer with each seed: {recipe: [record, ...]}."""
    records = {recipe: [] for recipe in RACERS}
    for seed in range(seeds):
        for recipe, model in RACERS.items():
            chosen = dataclasses.replace(RECIPES[recipe], seed=seed)
            name = f"{model}-{recipe}-seed{seed}"
            records[recipe].append(train_and_record(model, chosen, name, "cpu"))
    return records


def summary_of(records):
    """What results/bench/sprint.json holds of the records {recipe: [record, ...]}."""
    first = records["sprint"][0]
    summary = {"mark": MARK, "device": first["device"], "torch": first["versions"]["torch"]}
    for recipe, runs in records.items():
        seconds = [seconds_charged(recipe, run) for run in runs]
        reached = [value for value in seconds if value is not None]
        summary[recipe] = {
            "seconds": seconds,
            "median": statistics.median(reached) if reached else None,
            "test_accuracy": [run["test_accuracy"] for run in runs],
        }
    if all(summary[recipe]["median"] for recipe in RACERS):
        summary["times_faster"] = summary["compact"]["median"] / summary["sprint"]["median"]
    return summary


def seconds_charged(recipe, run):
    """Seconds to the mark, or None; the sprint pays for its whole run."""
    reached = seconds_to(MARK, run["history"])
    return run["seconds"] if recipe == "sprint" and reached else reached


def main():
    parser = Parser("-m tools.bench_sprint", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=whole_number, default=3, help="runs of each (default: 3)")
    summary = summary_of(race(parser.parse_args().seeds))
    for recipe in RACERS:
        reached = [value for value in summary[recipe]["seconds"] if value is not None]
        print(f"{recipe:8} {len(reached)} runs reached {MARK:.0%}; seconds: {reached}")
    if "times_faster" in summary:
        print(f"the sprint is {summary['times_faster']:.1f} times faster (medians)")
    write_json(ROOT / "results" / "bench" / "sprint.json", summary)


if __name__ == "__main__":
    main()
