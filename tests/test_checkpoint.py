"""A run that was cut off goes on to the identical end; nothing else is gone on from."""

import dataclasses
import inspect
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import QUICK, ROOT, Tiny
from torch import nn

import train
from core.checkpoint import architecture, comparable, identity_of, without_addresses
from core.common import TrainingError
from core.device import pick_precision
from core.distributed import circumstances
from experiments import sweep
from experiments.teaching import Taught
from model import MODELS

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import dataset, train
from core.recipes import Recipe
data = dataset.load_cifar10(progress=False)
data = dataset.Cifar10(*(part[:600] for part in data))
recipe = Recipe(epochs=4, batch_size=50, lr=0.1, schedule="onecycle", augment="standard")
options = dict(device="cpu", checkpoint={path!r}, resume={resume}, progress=True)
network, record = train.fit("strided", recipe, data, **options)
train.torch.save(network.state_dict(), {path!r} + ".final")
"""


def run_script(path, resume=False):
    code = SCRIPT.format(root=str(ROOT), path=str(path), resume=resume)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_identical_result(cifar, tmp_path):
    """Dropout, worker augmentation, OneCycle and momentum all have to go on where they were."""
    whole = run_script(tmp_path / "whole.pt")
    assert whole.wait() == 0, whole.stderr.read()
    killed = run_script(tmp_path / "killed.pt")
    deadline = time.time() + 120
    while not (tmp_path / "killed.pt").exists() and time.time() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed.pt.final").exists(), (
        "it ran to its end before it could be killed"
    )
    resumed = run_script(tmp_path / "killed.pt", resume=True)
    assert resumed.wait() == 0, resumed.stderr.read()
    assert "Epoch 1/4" not in resumed.stdout.read()
    one, two = (
        torch.load(tmp_path / f"{name}.pt.final", weights_only=True) for name in ("whole", "killed")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_checkpoints_of_others_and_garbage_are_refused(small, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "run.pt"
    with pytest.raises(TrainingError, match="no checkpoint .*; start without --resume"):
        train.fit("net", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    train.fit("net", QUICK, data=small, checkpoint=path, progress=False)
    with pytest.raises(
        TrainingError, match="belongs to another run .*model: 'net' there, 'strided' here"
    ):
        train.fit("strided", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    with pytest.raises(TrainingError, match="lr: 0.05 there, 0.1 here"):
        train.fit(
            "net",
            dataclasses.replace(QUICK, lr=0.1),
            data=small,
            checkpoint=path,
            resume=True,
            progress=False,
        )
    for garbage in (b"", b"garbage", pickle.dumps(Evil()), path.read_bytes()[:5000]):
        path.write_bytes(garbage)
        with pytest.raises(TrainingError, match="is not a checkpoint of this program"):
            train.fit("net", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    for other in (Evil(), torch.zeros(3), [1, 2], {"identity": 3}):
        torch.save(other, path)
        with pytest.raises(TrainingError, match="is not a checkpoint of this program"):
            train.fit("net", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def checkpoint(small, tmp_path):
    """The checkpoint of a finished run of `Tiny` with QUICK."""
    path = tmp_path / "run.pt"
    train.fit(Tiny, QUICK, small, checkpoint=path, progress=False)
    return path


def resume(model, data, path):
    return train.fit(model, QUICK, data, checkpoint=path, resume=True, progress=False)


def test_no_file_to_resume_from_is_a_sentence(small):
    with pytest.raises(TrainingError, match="say which file: checkpoint=path"):
        resume(Tiny, small, None)


def test_other_data_are_another_run(small, checkpoint):
    other = small._replace(train_labels=small.train_labels[::-1].copy())
    with pytest.raises(TrainingError, match="belongs to another run .*data"):
        resume(Tiny, other, checkpoint)


def test_another_network_of_the_same_name_and_shapes_is_another_run(small, checkpoint):
    class Edited(Tiny):
        def forward(self, x):
            return self.fc(self.conv(x).sigmoid().mean((2, 3)))

    Edited.__name__ = Edited.__qualname__ = "Tiny"
    with pytest.raises(TrainingError, match="belongs to another run .*network"):
        resume(Edited, small, checkpoint)

    class Louder(Tiny):
        def forward(self, x):
            return self.fc(2.5 * self.conv(x).relu().mean((2, 3)))

    Louder.__name__ = Louder.__qualname__ = "Tiny"
    with pytest.raises(TrainingError, match="belongs to another run .*network"):
        resume(Louder, small, checkpoint)

    class Wider(Tiny):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 5, stride=2)

    Wider.__name__ = "Tiny"
    with pytest.raises(TrainingError, match="belongs to another run .*network"):
        resume(Wider, small, checkpoint)


def test_a_run_that_moved_to_another_machine_goes_on_and_says_so(small, tmp_path):
    """Another Python compiles the same code otherwise: that makes no other network of it."""
    path = tmp_path / "run.pt"

    def stop(network, history):
        if len(history) == 2:
            raise KeyboardInterrupt

    options = dict(progress=False, device="cpu")
    whole, _ = train.fit(Tiny, QUICK, small, **options)
    with pytest.raises(KeyboardInterrupt):
        train.fit(Tiny, QUICK, small, checkpoint=path, on_epoch=stop, **options)
    state = torch.load(path, weights_only=True)
    state["identity"] |= {"python": "3.99", "the network's code": "compiled otherwise"}
    made = {"device": "cuda: NVIDIA T4, capability 7.5", "precision": "float16"}
    made |= {"versions": {"torch": "9.9"}}
    torch.save(state | {"made": made}, path)
    moved, record = train.fit(Tiny, QUICK, small, checkpoint=path, resume=True, **options)
    assert len(state["history"]) == 1 and len(record["history"]) == 2
    here = circumstances(torch.device("cpu"), pick_precision("cpu"))
    for kind in ("device", "precision"):
        assert record[kind] == f"{made[kind]}, then {here[kind]}"
    assert record["versions"] == here["versions"]
    first, second = record["history"]
    assert {key: first[key] for key in made} == made and not made.keys() & second.keys()
    pairs = zip(whole.state_dict().values(), moved.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_checkpoint_of_a_later_version_says_what_is_new_there(small, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    state["identity"]["recipe"]["sharpness"] = 0.1
    torch.save(state, checkpoint)
    with pytest.raises(TrainingError, match="another run .sharpness: 0.1 there, None here"):
        resume(Tiny, small, checkpoint)


@pytest.mark.parametrize("key", ["model", "optimizer", "schedule", "random", "history"])
def test_a_key_that_is_missing(key, small, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    del state[key]
    torch.save(state, checkpoint)
    with pytest.raises(TrainingError, match="does not fit this run .*; delete it and start"):
        resume(Tiny, small, checkpoint)


def test_a_precision_that_the_recipe_names_is_kept_to(small, checkpoint):
    recipe = dataclasses.replace(QUICK, precision="float32")
    with pytest.raises(TrainingError, match="another run .precision: 'auto' there, 'float32' here"):
        train.fit(Tiny, recipe, small, checkpoint=checkpoint, resume=True, progress=False)


class Scaled(nn.Module):
    """A network whose method, setting or text another one may have otherwise."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.output = nn.Linear(3, 10)

    def features(self, x):
        return x.mean((2, 3)) * 2

    def forward(self, x):
        return self.scale * self.output(self.features(x))


def test_a_network_is_the_same_in_another_process():
    """A set of words and a function among its settings have another order, or place, in each."""
    code = """
import torch.nn.functional as F
from torch import nn
from core.checkpoint import architecture

class Chosen(nn.Module):
    def __init__(self, kind="relu"):
        super().__init__()
        assert kind in {"relu", "gelu", "silu", "tanh"}
        self.steps = (F.relu, F.gelu)

print(architecture(Chosen()))
"""
    found = set()
    for seed in "123":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = dict(cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found.add(subprocess.run([sys.executable, "-c", code], **command).stdout)
    assert len(found) == 1


def test_addresses_are_no_part_of_a_network():
    """Windows writes them in capitals."""
    for address in ("0x7f3a2c", "0x000002A1B3C4D5E0"):
        assert without_addresses(f"<function relu at {address}>") == "<function relu>"


def test_an_edited_network_is_another_run():
    class Edited(Scaled):
        def features(self, x):
            return x.mean((2, 3)) * 3

    class Same(Scaled):
        def features(self, x):
            return x.mean((2, 3)) * 2

    class Default(Scaled):
        def features(self, x, scale=1):
            return x.mean((2, 3)) * 2

    class Other(Scaled):
        def features(self, x, scale=3):
            return x.mean((2, 3)) * 2

    class Twice(Scaled):
        @property
        def scaled(self):
            return 2

    class Thrice(Scaled):
        @property
        def scaled(self):
            return 3

    class Decorated(Scaled):
        @torch.no_grad()
        def features(self, x):
            return x.mean((2, 3)) * 2

    class DecoratedOther(Scaled):
        @torch.no_grad()
        def features(self, x):
            return x.mean((2, 3)) * 3

    class Sloped(Scaled):
        slope = 0.1

    class Steeper(Scaled):
        slope = 0.3

    for one in (Edited, Same, Default, Other, Twice, Thrice):
        one.__name__ = one.__qualname__ = "Scaled"
    for one in (Decorated, DecoratedOther, Sloped, Steeper):
        one.__name__ = one.__qualname__ = "Scaled"
    assert architecture(Scaled()) == architecture(Scaled())
    assert architecture(Scaled()) != architecture(Scaled(2.0))
    assert architecture(Edited()) != architecture(Same())
    assert architecture(Default()) != architecture(Other())
    assert architecture(Twice()) != architecture(Thrice())
    assert architecture(Decorated()) != architecture(DecoratedOther())
    assert architecture(Sloped()) != architecture(Steeper())
    assert architecture(Scaled([1, 2])) != architecture(Scaled([1, 3]))


def test_other_teachers_are_another_run():
    def variants(*names):
        arguments = ("net", QUICK, False, Tiny(), "", [Taught(names), len, Tiny])
        return identity_of(*arguments)["variants"]

    one, two, three = (f"gated-gated-seed{seed}" for seed in range(3))
    assert variants(one, two) == variants(one, two) != variants(one, three)
    assert variants(one)[1:] == ["len", "Tiny"]


def test_an_unfinished_run_that_is_in_git_can_be_gone_on_with():
    """One word changed in the code of its network, and days of training are lost."""
    command = ["git", "ls-files", "checkpoints/*.pt"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not listed:
        pytest.skip("no run is unfinished")
    for path in map(Path, listed):
        planned = sweep.plan(ROOT / "experiments" / f"{path.parent.name}.py")
        (found,) = [line for line in planned if line[0] == f"{path.parent.name}/{path.stem}"]
        _, run, recipe = found
        saved = torch.load(ROOT / path, weights_only=True)["identity"]
        defaults = inspect.signature(train.fit).parameters
        parts = ("make_batches", "make_optimizer", "make_schedule", "train_epoch")
        variants = [run.variants.get(part, defaults[part].default) for part in parts]
        network = train.builder(run.model, MODELS)()
        name = train.name_of(run.model)
        asked = identity_of(name, recipe, run.validate, network, saved["data"], variants)
        saved, asked = comparable(saved, asked)
        assert saved == asked, path
