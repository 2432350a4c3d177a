"""What a run leaves, and the tables that are made of it.

make_record(...)     the record of a run, ready for JSON: the only source of every number
load_records(...)    results/*.json, by run
effect(...)          the difference that a change makes, with its 95 % interval
results_table, changes_table    Markdown
"""

import dataclasses
import json
import math
import re
import statistics
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy import stats

from core.common import ROOT, TrainingError, is_number, read_json
from core.distributed import circumstances
from core.recipes import DEFAULTS, settings

THEN = ", then "  # between the devices, or the precisions, of a run that moved


def make_record(name, parameters, recipe, device, precision, part, history, flip_accuracy):
    """What a run leaves: a dictionary, ready for JSON.

    name, parameters: of the network.
    precision: the one at the end, where the recipe may say "auto".
    part: "val" or "test": the images that it was judged by.
    history: one dictionary for each epoch, with `device`, `precision` and `versions` where they
        were others.
    flip_accuracy: with test-time augmentation, the mirrored view averaged in; 0..1.
    """
    here = circumstances(device, precision)
    moves = {kind: [at.get(kind, here[kind]) for at in history] for kind in KINDS}
    return {
        "model": name,
        "parameters": parameters,
        "recipe": dataclasses.asdict(recipe),
        "seed": recipe.seed,
        **{kind: THEN.join(at for at, _ in groupby(where)) for kind, where in moves.items()},
        "versions": here["versions"],
        "seconds": sum(epoch["seconds"] for epoch in history),
        "evaluation_seconds": sum(epoch["evaluation_seconds"] for epoch in history),
        f"{part}_accuracy": history[-1][f"{part}_accuracy"],
        f"{part}_accuracy_flip": flip_accuracy,
        "history": history,
    }


class Paths(NamedTuple):
    """Where a run leaves its record, its network, and the state to resume from."""

    record: Path
    weights: Path
    checkpoint: Path

    @property
    def lock(self):
        """The file by which a process claims the run."""
        return self.checkpoint.with_suffix(".lock")


def name_of(model):
    """What a record calls the network: its name in MODELS, or that of what builds it."""
    return model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)


def is_recorded(path, recipe, validate, model):
    """Whether `path` holds the record of `model` by this recipe. What else it holds is told."""
    if not path.exists():
        return False
    try:
        record = read_record(path)
    except ValueError:
        print(f"{path} is damaged: the run is done anew.", flush=True)
        return False
    found = DEFAULTS | record["recipe"], part_of(record), record["model"]
    wanted = settings(recipe), "val" if validate else "test", name_of(model)
    for what, one, other in zip(("recipe", "split", "network"), found, wanted, strict=True):
        if one != other:
            print(f"{path} is of another {what}: the run is done anew.", flush=True)
            return False
    return True


def paths_of(name, root=ROOT):
    """The `Paths` of the run `name`, e.g. "net-sprint-seed0"."""
    return Paths(
        root / "results" / f"{name}.json",
        root / "weights" / f"{name}.pt",
        root / "checkpoints" / f"{name}.pt",
    )


def part_of(epoch):
    """What an epoch of a history, or a record, was judged by: "val" or "test"."""
    return "val" if "val_accuracy" in epoch else "test"


def epoch_line(history, epochs):
    """The last epoch in one line, short enough for a phone: seconds of training, accuracies."""
    last = history[-1]
    part = part_of(last)
    return (
        f"Epoch {len(history)}/{epochs}: {last['seconds']:.0f} s, "
        f"train {last['train_accuracy']:.1%}, {part} {last[f'{part}_accuracy']:.1%}"
    )


def load_records(pattern="*.json", root=None):
    """The records results/<pattern>: {run name without its seed: [record, ...]}, seeds in order.

    root: instead of results/.

    Raises FileNotFoundError if none matches, ValueError for no record, TrainingError if unreadable.
    """
    root = Path(root) if root else ROOT / "results"
    groups = {}
    for path in sorted(root.glob(pattern)):
        name = re.sub(r"-seed\d+$", "", path.stem)
        groups.setdefault(name, []).append(read_record(path))
    if not groups:
        raise FileNotFoundError(f"No record matches {root / pattern}; train.py writes them.")
    return {name: sorted(records, key=lambda r: r["seed"]) for name, records in groups.items()}


def read_record(path):
    """The record at `path`. Raises ValueError for anything else, TrainingError if unreadable."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        part = part_of(record)
        shares = [record[f"{part}_accuracy"], record[f"{part}_accuracy_flip"]]
        shares += [epoch[f"{part}_accuracy"] for epoch in record["history"]]
        numbers = [record["seconds"], record["parameters"], record["seed"]]
        texts = [record["model"], record["device"], record["precision"]]
        whole = (
            len(record["history"]) == record["recipe"]["epochs"]
            and all(is_number(number) and number >= 0 for number in (*numbers, *shares))
            and all(share <= 1 for share in shares)
            and all(isinstance(text, str) for text in texts)
        )
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror}); try again.") from None
    except (ValueError, KeyError, IndexError, TypeError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} is not a record of a run; delete it or write it anew with train.py."
        )
    return record


def published():
    """What others have published at the edge of the budget: see results/published/frontier.json."""
    return read_json(ROOT / "results" / "published" / "frontier.json")


def longest_trainings(groups):
    """The longest training of each network that was tested: {network: records}."""
    tested = [records for records in groups.values() if part_of(records[0]) == "test"]
    by_length = sorted(tested, key=lambda records: records[0]["recipe"]["epochs"])
    return {records[0]["model"]: records for records in by_length}


def seconds_to(mark, history):
    """Training seconds up to the end of the first epoch with a test accuracy of `mark` or more.

    mark: 0..1. Returns None if there is none.
    """
    total = 0.0
    for epoch in history:
        total += epoch["seconds"]
        if epoch["test_accuracy"] >= mark:
            return total
    return None


# -------------------------------------------------------------------------------------- statistics


def mean_std(values, scale=1.0, digits=2, unit=""):
    """ "86.10 ± 0.20 % (n = 5)", or "86.10 % (n = 1)" where there is no spread to tell."""
    values = [scale * value for value in values]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}{unit} (n = {len(values)})"


class Effect(NamedTuple):
    """A difference of accuracy in percentage points, and its 95 % confidence interval.

    The interval is NaN where a side has one run only.
    """

    points: float
    low: float
    high: float

    def __str__(self):
        if math.isnan(self.low):
            return f"{self.points:+.2f} (n = 1)"
        return f"{self.points:+.2f} ({self.low:+.2f} to {self.high:+.2f})"

    @property
    def measured(self):
        """Whether the interval leaves out zero. If not: no effect was measured."""
        return self.low > 0 or self.high < 0

    @property
    def sentence(self):
        """ "+1.21 (+0.39 to +2.04) points", and whether that is an effect."""
        if math.isnan(self.low):
            return f"{self.points:+.2f} points; one run on a side has no interval"
        return f"{self} points" + ("" if self.measured else ": no effect was measured")


def effect(records, base, key="val_accuracy"):
    """The `Effect` of a change: mean accuracy of `records` minus that of `base`, lists of records.

    Student's t for independent samples; the seed noise of both is taken to be the same.
    key: an accuracy in each record, 0..1; KeyError without it: tested runs have "test_accuracy".
    """
    changed, plain = ([100 * record[key] for record in group] for group in (records, base))
    points = statistics.mean(changed) - statistics.mean(plain)
    if min(len(changed), len(plain)) < 2:
        return Effect(points, math.nan, math.nan)
    low, high = stats.ttest_ind(changed, plain).confidence_interval(0.95)
    return Effect(points, float(low), float(high))


def effect_against(records, claimed, key="test_accuracy"):
    """The `Effect`: mean accuracy of `records` minus `claimed`, a fraction that someone states.

    The interval, Student's t, is that of our mean alone: a claim has no seeds.
    """
    found = [100 * (record[key] - claimed) for record in records]
    if len(found) < 2:
        return Effect(found[0], math.nan, math.nan)
    low, high = stats.ttest_1samp(found, 0).confidence_interval(0.95)
    return Effect(statistics.mean(found), float(low), float(high))


# ------------------------------------------------------------------------------------------ tables


def frame(groups):
    """A pandas DataFrame of records, a row for each run; accuracies in percent."""
    return pd.DataFrame(
        {
            "run": name,
            "description": record.get("description", ""),
            "part": part_of(record),
            "parameters": record["parameters"],
            "epochs": record["recipe"]["epochs"],
            "accuracy": 100 * record[f"{part_of(record)}_accuracy"],
            "flip": 100 * record[f"{part_of(record)}_accuracy_flip"],
            "seconds": record["seconds"],
            "device": record["device"],
            "precision": record["precision"],
        }
        for name, records in groups.items()
        for record in records
    )


def markdown(table, left=()):
    """A DataFrame as a Markdown table. Columns are aligned right, but the first and `left`."""
    sides = ["left" if name in (table.columns[0], *left) else "right" for name in table.columns]
    return table.to_markdown(index=False, disable_numparse=True, colalign=sides)


def results_table(groups, short=False):
    """A Markdown table of records, best first: mean ± standard deviation over the seeds.

    The accuracy is that of the last epoch on the test images; validation runs are left out.

    short: name, parameters, epochs and accuracy alone, which fit on a phone.
    """
    runs = frame(groups)
    runs = runs[runs["part"] == "test"].groupby("run")
    kinds = {name: runs[name].agg(lambda values: "; ".join(values.unique())) for name in KINDS}
    means = [run.groupby("device", sort=False)["seconds"].mean() for _, run in runs]
    mean = runs["accuracy"].mean()
    table = pd.DataFrame(
        {
            "model-recipe": [f"`{run}`" for run in mean.index],
            "parameters": runs["parameters"].first().map("{:,}".format),
            "epochs": runs["epochs"].first(),
            "test accuracy, %": runs["accuracy"].agg(mean_std),
            "worst seed": runs["accuracy"].min().map("{:.2f}".format),
            "with flip at test": runs["flip"].agg(mean_std),
            "training, s": ["; ".join(map("{:,.0f}".format, seconds)) for seconds in means],
            **kinds,
        }
    )
    table = table.loc[mean.sort_values(ascending=False).index]
    return markdown(table.iloc[:, :4]) if short else markdown(table, left=KINDS)


KINDS = ("device", "precision")


def changes_table(groups, base, short=False):
    """A Markdown table of validation runs that differ from `base` in one change, best first.

    base: a name in `groups`.
    short: without the names of the runs and the seconds, so that it fits on a phone.
    """
    runs = frame(groups).groupby("run")
    mean = runs["accuracy"].mean()
    table = pd.DataFrame(
        {
            "run": [f"`{run}`" for run in mean.index],
            "what differs": runs["description"].first(),
            "validation accuracy, %": runs["accuracy"].agg(mean_std),
            "difference, points (95 % interval)": [
                "" if run == base else str(effect(groups[run], groups[base])) for run in mean.index
            ],
            "training, s": runs["seconds"].agg(mean_std, digits=1),
        }
    )
    table = table.loc[mean.sort_values(ascending=False).index]
    return markdown(table.iloc[:, 1:4] if short else table, left=("what differs",))


def race_table(races):
    """A Markdown table of results/bench/sprint.json: a row for each training on each processor.

    races: {device: summary}, see tools.bench_sprint.summary_of.
    """
    rows = [
        {
            "training": f"`{name}`, {told['epochs']} epochs",
            "on": device.removeprefix("cpu: "),
            "test accuracy, %": mean_std(told["test_accuracy"], 100),
            "training, s": f"{told['median']:,.0f}",
            "times as fast as `compact`": f"{told['times_faster']:.1f}",
            "operations, 10¹²": f"{told['operations'] / 1e12:.1f}",
            "of a matrix product's speed": f"{told['share_of_matrix_product']:.0%}",
        }
        for device, race in races.items()
        for name, told in race["racers"].items()
    ]
    return markdown(pd.DataFrame(rows), left=("on",))
