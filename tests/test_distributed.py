"""One run on several processes is the run on one: the same images, losses, weights, one record.

As a script, below, this file is what torchrun starts.
"""

import contextlib
import copy
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import QUICK, Tiny
from torch import nn

import train
from core import distributed
from core.common import TrainingError
from core.spread import SyncBatchNorm, convert_sync_batchnorm, wrap_ddp
from dataset import Cifar10, make_batches

# 600 images: 13 batches of 46 and one of 2, of which the third of three processes has none.
RECIPE = dataclasses.replace(QUICK, batch_size=46, epochs=3, nesterov=True, precision="float32")
# Turned: of a small last batch a process may have none. Averaged: batch-norm statistics are new.
AVERAGED = dataclasses.replace(RECIPE, epochs=1, ema=0.9, augment="flip_shift_turn")


class Normed(Tiny):
    """A learner's network with BatchNorm, and a layer that is never used."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Stopped(Exception):
    pass


def stop(network, history):
    if len(history) == 2:
        raise Stopped


def numbered(count):
    """Images that carry their number in their first pixel; test images and labels as few."""
    images = np.zeros((count, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(count), 256)
    return images, np.zeros(count, np.uint8)


def seen(engine):
    """The numbers of the images of one epoch in this process, batch by batch."""
    options = dict(augment="none", engine=engine, workers=0)
    batches = make_batches(*numbered(600), 46, **options)
    mean, std = (torch.tensor(value) for value in ((0.4914, 0.4822), (0.2470, 0.2435)))
    pixels = [images[:, :2, 0, 0] * std + mean for images, _ in batches]
    return [(255 * p).round().long().matmul(torch.tensor([256, 1])).tolist() for p in pixels]


NORMS = (nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=None), nn.BatchNorm2d(4, affine=False))


def normalised(layer):
    """What BatchNorm makes of two images, in double precision: [statistics, outputs, gradient]."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, 5, 5) if isinstance(layer, nn.BatchNorm2d) else (2, 4)
    x = 3 + torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    network = nn.Sequential(copy.deepcopy(layer).double(), nn.Linear(1, 1))
    wrap_ddp(network)
    layer = network[0]
    for _ in range(2):
        here = distributed.shard(x).clone().requires_grad_()
        out = layer(here)
        (out.sin() * distributed.shard(weight)).sum().backward()
    statistics = torch.stack([layer.running_mean, layer.running_var])
    return [value.tolist() for value in (statistics, out, here.grad)]


def several(folder, data):
    """What each process does: a run, one that breaks off, and two counts of the images."""
    folder.mkdir(exist_ok=True)
    train.ROOT = folder
    with distributed.joined("cpu"):
        number = distributed.rank()
        options = dict(data=data, device="cpu", progress=False)
        record = train.train_and_record(Normed, RECIPE, "whole", **options)
        counts = {engine: seen(engine) for engine in ("device", "albumentations")}
        (folder / f"seen{number}.json").write_text(json.dumps(counts))
        half = folder.parent / "half.pt"
        resumed = None
        if half.exists():
            ours = folder / "half.pt"
            if number == 0:
                shutil.copy(half, ours)
            torch.distributed.barrier()
            options |= dict(checkpoint=ours, resume=True)
            resumed = train.fit(Normed, RECIPE, **options)[1]["history"]
        else:
            with contextlib.suppress(Stopped):
                train.fit(Normed, RECIPE, checkpoint=half, on_epoch=stop, **options)
        norms = [normalised(layer) for layer in NORMS]
        averaged = train.fit(Normed, AVERAGED, data, device="cpu", progress=False)[1]["history"]
        (folder / f"{number}.json").write_text(json.dumps([record, resumed, norms, averaged]))


def torchrun(processes, *words, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = dict(capture_output=True, text=True, timeout=300)
    return subprocess.run([*command, *map(str, words)], env=environment, **pipes, **options)


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """The folder of `several` with 2 processes, then 3: {processes: folder}."""
    root = tmp_path_factory.mktemp("several")
    np.savez(root / "small.npz", **small._asdict())
    folders = {count: root / str(count) for count in (2, 3)}
    for count, folder in folders.items():
        done = torchrun(count, __file__, folder, root / "small.npz")
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.fixture(scope="module")
def alone(small):
    """(network, record) of one process."""
    return train.fit(Normed, RECIPE, small, device="cpu", progress=False)


def told(folder, number):
    return json.loads((folder / f"{number}.json").read_text(encoding="utf-8"))


def curves(history):
    """(epochs, 4): losses and accuracies."""
    keys = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    return np.array([[epoch[key] for key in keys] for epoch in history])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_does(processes, runs, alone):
    network, record = alone
    folder = runs[processes]
    ours = json.loads((folder / "results" / "whole.json").read_text(encoding="utf-8"))
    assert curves(ours["history"])[:, :2] == pytest.approx(
        curves(record["history"])[:, :2], abs=1e-4
    )
    # An image in 600 may lie on the border between two classes.
    assert curves(ours["history"]) == pytest.approx(curves(record["history"]), abs=0.004)
    state = torch.load(folder / "weights" / "whole.pt", weights_only=True)["state"]
    expected = network.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=5e-4, rtol=0)
    assert ours["device"] == f"{record['device'].split(',')[0]}, " + ", ".join(
        [*record["device"].split(", ")[1:-1], "1 thread", f"{processes} processes"]
    )
    same = ("recipe", "model", "parameters", "seed", "precision")
    assert {key: ours[key] for key in same} == json.loads(
        json.dumps({key: record[key] for key in same})
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("number", range(len(NORMS)))
def test_batch_normalisation_is_over_the_whole_batch(number, processes, runs):
    statistics, *expected = normalised(NORMS[number])
    shares = [told(runs[processes], process)[2][number] for process in range(processes)]
    for ours, *_ in shares:
        assert np.array(ours) == pytest.approx(np.array(statistics), abs=1e-12)
    for which, whole in enumerate(expected, 1):
        together = list(chain(*(share[which] for share in shares)))  # one image each, or none
        assert np.array(together) == pytest.approx(np.array(whole), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_all_processes_say_the_same_and_one_writes(processes, runs):
    records = [told(runs[processes], number)[0] for number in range(processes)]
    for record in records[1:]:
        assert np.array_equal(curves(record["history"]), curves(records[0]["history"]))
    files = [str(p.relative_to(runs[processes])) for p in runs[processes].rglob("whole*")]
    assert sorted(files) == ["results/whole.json", "weights/whole.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("engine", ["device", "albumentations"])
def test_every_image_once_an_epoch_in_the_batches_of_one_process(processes, engine, runs):
    shares = [
        json.loads((runs[processes] / f"seen{number}.json").read_text(encoding="utf-8"))[engine]
        for number in range(processes)
    ]
    together = [sorted(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in seen(engine)]
    assert sorted(chain(*together)) == list(range(600))
    assert [len(share[-1]) for share in shares] == [1, 1, 0][:processes]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_averaged_weights_have_the_statistics_of_whole_batches(processes, runs, small):
    _, record = train.fit(Normed, AVERAGED, small, device="cpu", progress=False)
    expected = curves(record["history"])[:, :2]
    for number in range(processes):
        assert curves(told(runs[processes], number)[3])[:, :2] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_two_processes_begin_three_or_one_go_on(runs, alone, small, tmp_path):
    path = shutil.copy(runs[2].parent / "half.pt", tmp_path)
    keys = torch.load(path, weights_only=True)["model"]
    assert not [key for key in keys if key.startswith("module.")]
    options = dict(device="cpu", progress=False)
    _, record = train.fit(Normed, RECIPE, small, checkpoint=path, resume=True, **options)
    assert " 2 processes, then cpu: " in record["device"]
    expected = curves(alone[1]["history"])
    for history in (record["history"], told(runs[3], 2)[1]):
        assert len(history) == 3
        assert curves(history)[:, :2] == pytest.approx(expected[:, :2], abs=1e-4)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_in_one_sentence(small, tmp_path):
    np.savez(tmp_path / "small.npz", **small._asdict())
    done = torchrun(2, __file__, tmp_path, tmp_path / "small.npz", "killed")
    assert done.returncode != 0
    assert done.stderr.count("train.py: ") == 1
    assert "train.py: A process of this run was killed (out of memory?)" in done.stderr
    assert not list(tmp_path.rglob("*.json"))


def killed(folder, data):
    """train.py, whose second process is killed in its first step."""
    train.ROOT = folder
    train.load_cifar10 = lambda progress: data
    if os.environ["RANK"] == "1":
        train.scale_for_ddp = lambda *_: os.kill(os.getpid(), 9)
    train.main("--model net --recipe sprint --epochs 2 --device cpu".split())


def test_a_layer_of_two_names_stays_one(monkeypatch):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    network.again = network[0]
    monkeypatch.setattr("core.spread.size", lambda: 2)
    convert_sync_batchnorm(network)
    assert type(network[0]) is SyncBatchNorm and network.again is network[0]


def test_one_process_does_without(small):
    network, record = train.fit(Normed, QUICK, small, device="cpu", progress=False)
    assert not any(isinstance(module, SyncBatchNorm) for module in network.modules())
    assert "processes" not in record["device"]
    assert (distributed.rank(), distributed.size()) == (0, 1)


def test_a_device_that_several_cannot_share(monkeypatch):
    with pytest.raises(TrainingError, match="Several processes cannot share 'mps'"):
        distributed.take_device("mps", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match=r"more processes than GPUs here \(1\)"):
        distributed.take_device("cuda", 1)


def test_several_processes_have_a_device_each(monkeypatch):
    store = SimpleNamespace(add=lambda *_: 1)
    monkeypatch.setattr(distributed, "launched", lambda: True)
    module = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(module, "rendezvous", lambda _: iter([(store, 0, 2)]))
    refused = pytest.raises(TrainingError, match="leave out its number: --device cpu")
    with refused, distributed.joined("cpu:1"):
        pass


if __name__ == "__main__":
    folder, file, *kill = sys.argv[1:]
    with np.load(file) as arrays:
        data = Cifar10(*(arrays[name] for name in Cifar10._fields))
    (killed if kill else several)(Path(folder), data)
