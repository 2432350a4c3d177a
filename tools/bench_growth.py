"""How the cost of a training grows with images, epochs, parameters and processes, on this machine.

python -m tools.bench_growth    writes results/bench/growth.json, and its table in CONTRIBUTING.md

Each process computes on one thread. In three to five minutes on an idle machine of two cores.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import statistics
import subprocess
import sys
import time

import pandas as pd
import torch
from torch import nn

from core import distributed
from core.common import (
    ROOT,
    Parser,
    TrainingError,
    check_writable,
    stoppable,
    write_json,
    write_text,
)
from core.device import describe_device
from core.many import needed, run_all
from core.records import markdown
from dataset import Cifar10, DataError, cores, load_cifar10
from model import NUM_CLASSES, FourBlocks, GlobalAveragePool, conv_block
from tools.readme import fill, recorded
from train import RECIPES, fit

RESULT = ROOT / "results" / "bench" / "growth.json"

IMAGES, RUNS = 2500, 3
RECIPE = dataclasses.replace(RECIPES["sprint"], epochs=1, views=(), augment="flip_shift")
PROCESSES = (1, 2)


class Scaled(FourBlocks):
    """Four plain blocks whose parameters grow with the square of their width."""

    def __init__(self, width):
        super().__init__()
        self.c1 = conv_block(3, width, stride=2)
        self.c2 = conv_block(width, 2 * width, stride=2)
        self.c3, self.c4 = (conv_block(2 * width, 2 * width) for _ in range(2))
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(2 * width, NUM_CLASSES))


def train(model="net", images=IMAGES, epochs=1):
    """The record of a training on so many images."""
    data = load_cifar10(progress=False)
    data = Cifar10(data[0][:images], data[1][:images], data[2][:200], data[3][:200])
    recipe = dataclasses.replace(RECIPE, epochs=epochs)
    return fit(model, recipe, data, device="cpu", progress=False)[1]


def repeated(**options):
    """{"parameters": of the network, "seconds": of each of the trainings}."""
    records = [train(**options) for _ in range(RUNS)]
    return dict(
        parameters=records[0]["parameters"], seconds=[record["seconds"] for record in records]
    )


def shared(processes):
    """As `repeated`, one training on several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["-m", "tools.bench_growth", "--inside"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}, no message"]
        own = [line for line in said if line.startswith("bench_growth:")]
        raise TrainingError(f"torchrun failed: {(own or said)[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def at_once(jobs):
    """Seconds from the start to the end of max(PROCESSES) trainings, `jobs` at a time."""
    count = max(PROCESSES)
    for _ in run_all(one, range(count), jobs):
        pass  # the processes have started
    seconds = []
    for _ in range(RUNS):
        clock = time.perf_counter()
        for _, outcome in run_all(one, range(count), jobs):
            if isinstance(outcome, Exception):
                raise outcome
        seconds.append(time.perf_counter() - clock)
    return dict(seconds=seconds)


def one(_):
    torch.set_num_threads(1)
    return train()["seconds"]


def measure():
    """What results/bench/growth.json holds."""
    torch.set_num_threads(1)
    train()  # warms up
    widths = [functools.partial(Scaled, width) for width in (16, 32, 64)]
    return {
        "device": describe_device("cpu"),
        "torch": torch.__version__,
        "cores": cores(),
        "images": {str(n * IMAGES): repeated(images=n * IMAGES) for n in (1, 2, 4)},
        "epochs": {str(n): repeated(epochs=n) for n in (1, 2, 4)},
        "parameters": {
            str(row["parameters"]): row for row in (repeated(model=width) for width in widths)
        },
        "processes": {str(n): shared(n) for n in PROCESSES},
        "jobs": {str(n): at_once(n) for n in PROCESSES},
    }


GROWS = {
    "images": f"images, `net`, 1 epoch (batches of {RECIPE.batch_size})",
    "epochs": f"epochs of {IMAGES:,} images, `net`",
    "parameters": f"parameters of four plain blocks, 1 epoch of {IMAGES:,} images",
    "processes": f"processes of one run (torchrun), `net`, 1 epoch of {IMAGES:,} images",
    "jobs": f"runs at a time (`--jobs`), {max(PROCESSES)} such runs from start to end",
}


def table(record):
    """The record as Markdown: a row a measurement, and what follows for a class of 100."""
    rows = []
    for kind, title in GROWS.items():
        first = None
        for value, row in record[kind].items():
            seconds = statistics.median(row["seconds"])
            first = first or seconds
            spread = f"{min(row['seconds']):.2f} to {max(row['seconds']):.2f}"
            rows.append((title, f"{int(value):,}", f"{seconds:.2f}", spread, seconds / first))
            title = ""
    frame = pd.DataFrame(rows, columns=["what grows", "", "seconds", "least to most", "times"])
    frame["times"] = frame["times"].map("{:.2f}".format)
    return f"{markdown(frame)}\n\n{class_of_100(record)}"


def class_of_100(record):
    most = record["images"][str(4 * IMAGES)]["seconds"]
    hours = 100 * 10 * statistics.median(most) * 50_000 / (4 * IMAGES) / 3600
    alone, together = (statistics.median(record["jobs"][str(n)]["seconds"]) for n in PROCESSES)
    return (
        f"Medians of {RUNS}, one thread a process, on {record['cores']} cores "
        f"({record['device'].split(', ')[1]}). At this speed 100 networks as costly as `net` take "
        f"{hours:.0f} hours for 10 epochs of 50,000 whole images each on one core, "
        f"{hours * together / alone:.0f} on two; the sprint's crops have two thirds of the pixels."
    )


def write_table():
    path = ROOT / "CONTRIBUTING.md"
    write_text(
        path, fill(path.read_text(encoding="utf-8"), "growth", table(recorded("bench/growth")))
    )


def main():
    parser = Parser("-m tools.bench_growth", description=__doc__.splitlines()[0])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    try:
        if parser.parse_args().inside:
            with distributed.joined("cpu"):
                row = repeated()
                if distributed.rank() == 0:
                    print(json.dumps(row))
            return
        needed("joblib", "It")
        check_writable([RESULT])
        write_json(RESULT, measure())
        write_table()
    except (TrainingError, DataError, ValueError) as error:
        sys.exit(f"bench_growth: {error}")
    print(table(recorded("bench/growth")))


if __name__ == "__main__":
    with stoppable("bench_growth"):
        importlib.import_module("tools.bench_growth").main()
