"""Trains every run of a table, and leaves a record of each.

    python -m experiments.sweep experiments/06_sprint.py

A table is a Python file with a list RUNS of `Run`; COMPARISONS, a list of `Comparison`, says which
of them are compared with which, and AUGMENTATIONS adds pipelines of its own. What is recorded in
results/<table>/ is skipped, what was cut off is resumed.

    python -m experiments.sweep TABLE --jobs 4                     four at a time
    python -m experiments.sweep TABLE --dask tcp://10.0.0.5:8786   on a cluster: CONTRIBUTING.md
"""

import dataclasses
import functools
import importlib
import importlib.util
import itertools
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from torch import nn

import train
from core.augment import AUGMENTATIONS
from core.checkpoint import fingerprint
from core.common import (
    ROOT,
    CheckpointError,
    ClaimedError,
    Parser,
    TrainingError,
    claimed,
    find,
    on_purpose,
    whole_number,
)
from core.many import run_all
from core.recipes import RECIPES
from core.records import epoch_line, is_recorded, part_of, paths_of
from dataset import DataError
from model import MODELS

# What of `fit` a run may put something else in the place of.
VARIANTS = {"make_batches", "make_optimizer", "make_schedule", "train_epoch"}
# What a run computes with, beside its table: a worker keeps what it has imported.
CODE = ("model.py", "dataset.py", "train.py", "core/*.py", "experiments/[a-z]*.py")
CODE = fingerprint(path.read_bytes() for each in CODE for path in sorted(ROOT.glob(each)))


class Run(NamedTuple):
    """A line of a table: one configuration, trained with `seeds` seeds: 0, 1, 2 and so on.

    name: of the record, results/<table>/<name>-seed<k>.json, where k counts from 0.
    recipe: a name in RECIPES.
    change: {field of the recipe: its value here}; a seed is the first one's.
    model: a name in MODELS, or a function that builds a network.
    validate: train on 45,000 images, judged on the other 5,000.
    description: what differs, in words.
    variants: {argument of train.fit: what this run passes}, one of VARIANTS.
    """

    name: str
    recipe: str
    seeds: int
    change: dict = {}  # noqa: RUF012
    model: object = "net"
    validate: bool = False
    description: str = ""
    variants: dict = {}  # noqa: RUF012


class Comparison(NamedTuple):
    """A question that a table answers: what do `others`, names of runs, change against `base`?"""

    question: str
    base: str
    others: tuple


def load_table(path):
    """The module of the table `path`, run once; from then on recipes can name its AUGMENTATIONS.

    Raises ValueError where there is no such file, or a name in AUGMENTATIONS is taken.
    """
    return _load(Path(path).resolve())


@functools.cache
def _load(path):
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    table = importlib.util.module_from_spec(spec)
    table.KNOWN = fingerprint([CODE.encode(), path.read_bytes()])
    spec.loader.exec_module(table)
    own = getattr(table, "AUGMENTATIONS", {})
    if taken := own.keys() & AUGMENTATIONS.keys():
        raise ValueError(
            f"{path.name} names augmentations that are there already: {', '.join(taken)}; "
            "choose other names."
        )
    AUGMENTATIONS.update(own)
    return table


def plan(path):
    """All runs of the table `path`: a list of (name of the record, Run, Recipe).

    Raises TrainingError for a file that is no table, a recipe that does not exist or cannot be.
    """
    path = Path(path)
    try:
        runs = load_table(path).RUNS
        check(runs)
        return [
            (f"{path.stem}/{run.name}-seed{seed}", run, recipe_of(run, seed))
            for run in runs
            for seed in range(run.seeds)
        ]
    except Exception as error:
        raise TrainingError(
            f"{path} is not a table of runs ({error!r}); experiments/sweep.py says what one is."
        ) from error


def check(runs):
    """Raises ValueError where `runs` is no list of `Run`, empty, or has a name twice."""
    if not isinstance(runs, list) or not runs or not all(isinstance(run, Run) for run in runs):
        raise ValueError("RUNS must be a list of Run, and not empty")
    names = [run.name for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"there are two runs called {', '.join(twice)}")
    for run in runs:
        if not isinstance(run.seeds, int) or run.seeds < 1:
            raise ValueError(f"{run.name} has {run.seeds!r} seeds; it must be 1 or more")
        if isinstance(run.model, str):
            find(MODELS, run.model, "model")
        elif not callable(run.model) or isinstance(run.model, nn.Module):
            raise ValueError(f"the model of {run.name} is neither a name nor builds a network")


def recipe_of(run, seed):
    """The Recipe of a `Run` with this seed. Raises ValueError for unknown names and bad values."""
    if unknown := run.variants.keys() - VARIANTS:
        raise ValueError(f"fit takes no {', '.join(unknown)}, only {', '.join(sorted(VARIANTS))}")
    for name, variant in run.variants.items():
        if not callable(variant):
            raise ValueError(f"{name} of {run.name} is {variant!r}; it must be a function")
    recipe = find(RECIPES, run.recipe, "recipe")
    first = run.change.get("seed", 0)
    return dataclasses.replace(recipe, **run.change | {"seed": first + seed})


def sweep(path, device=None, jobs=1, dask=None):
    """Trains what the table `path` plans and results/ lacks. One run's failure is told at the end.

    A run with variants starts anew where it was cut off, since what they keep is in no checkpoint;
    one that keeps nothing says so: `keeps_nothing = True`.

    jobs, dask: so many runs at a time, or those of a cluster; see core.many.run_all.

    Raises TrainingError for a file that is no table, or if a run failed; DataError without data.
    """
    planned = plan(path)
    missing = [line for line in planned if not recorded(*line)]
    print(f"{path}: {len(planned)} runs, {len(planned) - len(missing)} recorded already")
    failed, several = [], jobs > 1 or dask is not None
    place, known = str(place_of(path)), load_table(path).KNOWN
    orders = [Order(place, name, known, device, several) for name, *_ in missing]
    for number, (order, outcome) in enumerate(run_all(carry_out, orders, jobs, dask), 1):
        if isinstance(outcome, DataError):
            raise outcome
        if isinstance(outcome, ClaimedError):
            print(outcome, flush=True)
        elif isinstance(outcome, Exception):
            explain(order.name, outcome)
            forget(outcome)
            failed.append(order.name)
        elif several:
            print(f"{order.name}: {outcome} ({number} of {len(orders)})", flush=True)
    if failed:
        raise TrainingError(f"{len(failed)} of {len(orders)} failed: {', '.join(failed)}.")


class Order(NamedTuple):
    """What a process needs to know to train a run: where it finds the rest."""

    table: str
    name: str
    known: str  # of the code that the run was planned with
    device: str | None
    several: bool  # it is one of several processes whose lines are mixed


def place_of(path):
    """The table's path as other machines know it, too: in the course's folder, if it lies there."""
    path = Path(path)
    path = path.parent.resolve() / path.name  # the runs have the name of a link, if it is one
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def carry_out(order):
    """Trains the run of an `Order`, whose table is loaded in this process; returns how it ended."""
    if order.known != load_table(ROOT / order.table).KNOWN:
        raise TrainingError(
            "the table, or the course, is not the one that this run was planned with; start the "
            "workers, or the command, anew."
        )
    (found,) = [line for line in plan(ROOT / order.table) if line[0] == order.name]
    record = train_once(*found, order.device, order.several)
    if record is None:
        return "is recorded by another process"
    part = part_of(record)
    return f"{part} accuracy {record[f'{part}_accuracy']:.4f}, {record['seconds']:.0f} s"


def explain(name, error):
    """Says why a run failed: in a sentence; and where, if nobody raised that on purpose."""
    if not on_purpose(error):
        traceback.print_exception(error)
    text = str(error) or type(error).__name__
    print(f"{name}: {text}", file=sys.stderr, flush=True)


def forget(error):
    """Frees what the failed functions held, networks and images: the next run needs the memory."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def recorded(name, run, recipe):
    return is_recorded(paths_of(name, train.ROOT).record, recipe, run.validate, run.model)


def train_once(name, run, recipe, device, several=False):
    """Trains a run, unless another process has done so in the meantime, or is at it.

    several: other processes print, too; each line says whose it is.
    """
    paths = paths_of(name, train.ROOT)

    def tell(network, history):
        print(f"{name}: {epoch_line(history, recipe.epochs)}", flush=True)

    with claimed(paths.lock, name, wait=30 if several else 0):
        if recorded(name, run, recipe):
            return None
        print(name, flush=True)
        options = dict(validate=run.validate, description=run.description, **run.variants)
        options |= dict(progress=False, on_epoch=tell) if several else {}
        keeping = [v for v in run.variants.values() if not getattr(v, "keeps_nothing", False)]
        resume = paths.checkpoint.exists() and not keeping
        try:
            return train.train_and_record(run.model, recipe, name, device, resume=resume, **options)
        except CheckpointError as error:
            names = (paths.checkpoint.with_suffix(f".other{n}.pt") for n in itertools.count(1))
            aside = next(path for path in names if not path.exists())
            paths.checkpoint.replace(aside)  # days may stand in it, and one word have changed
            print(f"{error} The run is done anew; that file is kept as {aside}.", flush=True)
            forget(error)
        return train.train_and_record(run.model, recipe, name, device, **options)


def main():
    parser = Parser("-m experiments.sweep", description=__doc__)
    parser.add_argument("table", help="a table of runs, e.g. experiments/06_sprint.py")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=whole_number, default=1, help="runs at a time (default: 1)")
    where.add_argument("--dask", help="the address of a Dask scheduler, e.g. tcp://10.0.0.5:8786")
    options = parser.parse_args()
    try:
        sweep(options.table, options.device, options.jobs, options.dask)
    except (TrainingError, DataError) as error:
        sys.exit(f"sweep: {error}")
    except KeyboardInterrupt:
        sys.exit("\nsweep: stopped. Go on with the same command.")


if __name__ == "__main__":
    # The module that tables import: this copy of it has another Run.
    importlib.import_module("experiments.sweep").main()
