"""Many runs at a time, on local processes and on a cluster: none is lost, none recorded twice."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import psutil
import pytest
from conftest import ROOT

from core import many
from core.common import TrainingError

RUNS = 6
# The table finds data and root folder beside itself, and each process that trains says so there.
TABLE = f"""
import os, time
from pathlib import Path
import numpy as np, torch
import dataset, train
from experiments.sweep import Run

HERE = Path(__file__).parent
with np.load(HERE / "small.npz") as file:
    DATA = dataset.Cifar10(*(file[name] for name in dataset.Cifar10._fields))
train.load_cifar10 = lambda progress: DATA
train.ROOT = HERE / "root"

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 10)

    def forward(self, x):
        (HERE / f"training-{{os.getpid()}}").touch()
        time.sleep(0.2)
        return self.fc(x.mean((2, 3)))

SHORT = dict(epochs=2, augment="none", batch_size=200)
RUNS = [Run(f"run{{number}}", "sprint", 1, SHORT, model=Slow) for number in range({RUNS})]
RUNS += [Run("workers", "standard", 1, dict(epochs=1), model=Slow)]
RUNS += [Run("bug", "sprint", 1, SHORT, model=lambda: torch.nn.Linear(3, 3))]
"""
GOOD = [*(f"run{number}-seed0" for number in range(RUNS)), "workers-seed0"]


def double(number):
    if number == 3:
        raise ValueError("three is none of them")
    return 2 * number


def test_in_this_process_what_fails_is_an_outcome():
    outcomes = dict(many.run_all(double, [1, 3, 4]))
    assert (outcomes[1], outcomes[4]) == (2, 8)
    assert str(outcomes[3]) == "three is none of them"


def test_an_engine_that_is_not_installed_is_named(monkeypatch):
    for name, options in (("joblib", dict(jobs=2)), ("distributed", dict(dask="tcp://x:1"))):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(TrainingError, match=f"needs {name}: .*requirements-cluster.txt"):
            list(many.run_all(double, [1], **options))


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}")


@needs("distributed")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_a_scheduler_that_does_not_answer(address):
    with pytest.raises(TrainingError, match="No Dask scheduler answers at"):
        list(many.run_all(double, [1], dask=address))


@pytest.mark.slow
@needs("joblib")
def test_an_item_that_always_kills_its_process_takes_no_other_with_it():
    deadly, *others = ["__import__('os').abort()", "1 + 1", "2 + 2", "3 + 3", "4 + 4"]
    unsent = "(_ for _ in ()).throw(ValueError(open(__import__('os').devnull)))"  # with its file
    outcomes = dict(many.run_all(eval, [deadly, unsent, *others], jobs=2))
    assert "Its process was killed" in str(outcomes.pop(deadly))
    assert str(outcomes.pop(unsent)).startswith("ValueError: <_io.TextIOWrapper")
    assert outcomes == {sums: eval(sums) for sums in others}


class Programs:
    """Programs in the course's folder, each in a group of its own, to be killed at the end."""

    def __init__(self, folder):
        self.folder = folder
        self.started = []

    def start(self, name, *words):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment["DASK_DISTRIBUTED__WORKER__DAEMON"] = "False"
        command = [sys.executable, "-m", *map(str, words)]
        with open(self.folder / f"{name}.log", "wb") as log:
            options = dict(stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            program = subprocess.Popen(command, cwd=ROOT, env=environment, **options)
        self.started.append(program)
        return program

    def said(self, name):
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def end(self):
        for program in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()


@pytest.fixture
def programs(small, tmp_path):
    np.savez(tmp_path / "small.npz", **small._asdict())
    (tmp_path / "table.py").write_text(TABLE)
    programs = Programs(tmp_path)
    yield programs
    programs.end()


def wait_for(found, seconds=240):
    """What `found()` returns as soon as that is something."""
    deadline = time.time() + seconds
    while not (value := found()):
        assert time.time() < deadline, "nothing has come"
        time.sleep(0.05)
    return value


def check(programs, sweep, logs):
    """All good runs have one record, the broken one is told, and no run came to its end twice."""
    assert sweep.wait(240) == 1
    said = programs.said("sweep")
    assert "failed: table/bug-seed0." in said
    assert "mat1 and mat2 shapes cannot be multiplied" in said
    records = sorted((programs.folder / "root" / "results" / "table").iterdir())
    assert [path.stem for path in records] == GOOD, said
    assert all(json.loads(path.read_text(encoding="utf-8"))["history"] for path in records)
    lines = "".join(map(programs.said, logs))
    ends = re.findall(r"^table/(\S+): Epoch (?:2/2|1/1)", lines, re.MULTILINE)
    assert Counter(ends) == dict.fromkeys(GOOD, 1)
    told = re.findall(r"^table/(\S+): test accuracy", said, re.MULTILINE)
    assert sorted(told) == GOOD
    left = [
        p
        for p in (programs.folder / "root").rglob("*")
        if p.suffix in (".partial", ".lock", ".test")
    ]
    assert not left
    begun = Counter(re.findall(r"^table/(\S+)$", lines, re.MULTILINE))
    assert begun.total() <= len(GOOD) + 1 + 2  # the bug, and what was at work in the pool


def training(programs):
    """The ids of the processes that have begun to train."""
    return [int(path.stem.split("-")[1]) for path in programs.folder.glob("training-*")]


@pytest.mark.slow
@needs("distributed")
def test_a_cluster_of_which_a_worker_is_killed(programs, tmp_path):
    """A scheduler and two workers over TCP; one is killed in the middle of a training."""
    place = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", place]
    programs.start("scheduler", "dask", "scheduler", *options)
    wait_for(place.exists)
    address = json.loads(place.read_text(encoding="utf-8"))["address"]
    options = [address, "--nthreads", "1", "--no-dashboard", "--local-directory", tmp_path]
    killed = programs.start("killed", "dask", "worker", *options, "--no-nanny")
    programs.start("other", "dask", "worker", *options)
    table = tmp_path / "table.py"
    sweep = programs.start("sweep", "experiments.sweep", table, "--dask", address)
    wait_for(lambda: killed.pid in training(programs))
    os.kill(killed.pid, signal.SIGKILL)
    check(programs, sweep, ["killed", "other"])


@pytest.mark.slow
@needs("joblib")
def test_local_processes_of_which_one_is_killed(programs, tmp_path):
    sweep = programs.start("sweep", "experiments.sweep", tmp_path / "table.py", "--jobs", "2")
    os.kill(wait_for(lambda: training(programs))[0], signal.SIGKILL)
    check(programs, sweep, ["sweep"])


@pytest.mark.slow
@needs("joblib")
def test_ctrl_c_ends_all_local_processes(programs, tmp_path):
    sweep = programs.start("sweep", "experiments.sweep", tmp_path / "table.py", "--jobs", "2")
    wait_for(lambda: len(training(programs)) == 2)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    assert sweep.wait(60) == 1
    wait_for(lambda: not any(map(psutil.pid_exists, training(programs))))
    said = programs.said("sweep")
    assert said.rstrip().endswith("sweep: stopped. Go on with the same command.")
    assert "Traceback" not in said
