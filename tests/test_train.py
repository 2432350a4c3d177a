import dataclasses
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, Tiny
from torch import nn

import train as t

QUICK = t.Recipe(epochs=2, batch_size=64, lr=0.05, augment="flip_shift", engine="device")


# ------------------------------------------------------------------------------------------------------------- schedules


def rates(recipe, steps_per_epoch=391):
    """Learning rate after every epoch, as the sources' logs print it."""
    optimizer = t.make_optimizer(nn.Linear(1, 1), recipe)
    schedule = t.make_schedule(optimizer, recipe, steps_per_epoch)
    found = []
    for _ in range(recipe.epochs):
        for _ in range(
            steps_per_epoch - (len(found) == recipe.epochs - 1)
        ):  # OneCycleLR has no step after the last
            optimizer.step()
            schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("epochs", "logged"),
    [
        (
            30,
            {
                1: 0.001379,
                2: 0.003047,
                5: 0.012072,
                9: 0.020000,
                10: 0.019888,
                20: 0.009249,
                29: 0.000112,
                30: 0.000001,
            },
        ),
        (
            40,
            {
                1: 0.001127,
                6: 0.010403,
                12: 0.020000,
                20: 0.016233,
                30: 0.005659,
                39: 0.000063,
                40: 0.000001,
            },
        ),
    ],
)
def test_onecycle_is_the_one_in_the_sources_log(epochs, logged):
    found = rates(dataclasses.replace(t.RECIPES["dilated"], epochs=epochs))
    assert {epoch: round(found[epoch - 1], 6) for epoch in logged} == logged


def test_step_schedule_of_stacked():
    found = rates(t.RECIPES["stacked"], 10)
    assert found[3] == 0.05
    assert found[4:9] == pytest.approx([0.03] * 5)
    assert found[9] == pytest.approx(0.018)


def test_triangle_rises_then_falls_to_zero():
    recipe = t.Recipe(epochs=10, lr=1.0, schedule="triangle", warmup=0.2)
    schedule = t.make_schedule(t.make_optimizer(nn.Linear(1, 1), recipe), recipe, 10)
    values = [schedule.lr_lambdas[0](step) for step in range(101)]
    assert max(values) == pytest.approx(1.0, abs=0.01)
    assert np.argmax(values) in (19, 20)
    assert values[0] == pytest.approx(0.05)
    assert values[100] == 0


# ------------------------------------------------------------------------------------------------------------- optimisers


def test_orthogonalise_evens_out_singular_values():
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(16, 16))[0], torch.linalg.qr(torch.randn(72, 16))[0]
    matrix = left @ torch.diag(torch.logspace(0, -1, 16)) @ right.T
    before = torch.linalg.svdvals(matrix)
    after = torch.linalg.svdvals(t.orthogonalise(matrix, steps=5))
    assert before.max() / before.min() > 9
    assert after.min() > 0.5
    assert after.max() < 1.5
    assert torch.equal(t.orthogonalise(matrix.T), t.orthogonalise(matrix).T)


def test_muon_without_filters_is_nesterov_sgd():
    torch.manual_seed(0)
    one, two = nn.Linear(4, 3), nn.Linear(4, 3)
    two.load_state_dict(one.state_dict())
    recipe = t.Recipe(epochs=1, lr=0.1, nesterov=True, weight_decay=1e-2)
    optimizers = [
        t.make_optimizer(one, recipe),
        t.make_optimizer(two, dataclasses.replace(recipe, optimizer="muon")),
    ]
    for _ in range(5):
        x = torch.randn(8, 4)
        for network, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(one.weight, two.weight, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_every_optimiser_learns(optimizer, small):
    recipe = dataclasses.replace(
        QUICK,
        epochs=6,
        optimizer=optimizer,
        lr=0.003 if "adam" in optimizer else 0.05,
        muon_lr=0.02,
    )
    _, record = t.fit("net", recipe, data=small, progress=False)
    losses = [epoch["train_loss"] for epoch in record["history"]]
    assert losses[-1] < losses[0] - 0.3


# ------------------------------------------------------------------------------------------------------- fit and evaluate


def test_averages_are_weighted_by_samples(small):
    """600 images in batches of 256, 256 and 88; with a learning rate of 0 the training loss is that of the fixed network."""
    network, record = t.fit(
        Tiny,
        t.Recipe(epochs=1, batch_size=256, lr=1e-30, engine="device"),
        data=small,
        progress=False,
    )
    whole = t.evaluate(network, small.train_images, small.train_labels)
    parts = t.evaluate(network, small.train_images, small.train_labels, batch_size=256)
    assert record["history"][0]["train_loss"] == pytest.approx(whole.loss, abs=1e-5)
    assert record["history"][0]["train_accuracy"] == pytest.approx(whole.accuracy, abs=1e-6)
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)


def test_evaluate_leaves_the_network_as_it_was(small):
    network = t.MODELS["net"]().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = t.evaluate(network, small.test_images, small.test_labels)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert result.probabilities.shape == (300, 10)
    assert result.probabilities.sum(1) == pytest.approx(np.ones(300), abs=1e-5)
    assert (result.predictions == small.test_labels).mean() == pytest.approx(result.accuracy)


def test_flip_averages_two_views(small):
    mirrored = small.test_images[:, :, ::-1]
    network = t.MODELS["net"]()
    one = t.evaluate(network, small.test_images, small.test_labels, flip=True)
    two = t.evaluate(network, mirrored, small.test_labels, flip=True)
    assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)


def test_a_run_twice_is_the_same_run_and_leaves_a_whole_record(small):
    runs = [t.fit("net", QUICK, data=small, progress=False) for _ in range(2)]
    states = [network.state_dict() for network, _ in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    record = json.loads(json.dumps(runs[0][1]))
    assert record["test_accuracy"] == record["history"][-1]["test_accuracy"]
    assert (record["model"], record["parameters"], record["seed"]) == (
        "net",
        t.count_parameters(runs[0][0]),
        0,
    )
    assert set(record["recipe"]) == {field.name for field in dataclasses.fields(t.Recipe)}
    assert t.Recipe(**record["recipe"]) == QUICK
    assert {"lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"} <= set(
        record["history"][0]
    )
    assert record["seconds"] > 0
    assert {"device", "versions"} <= set(record)


def test_validation_never_touches_the_test_set(cifar):
    poisoned = cifar._replace(test_images=None, test_labels=None)
    recipe = dataclasses.replace(QUICK, epochs=1, batch_size=5000)
    _, record = t.fit(Tiny, recipe, data=poisoned, validate=True, progress=False)
    assert "val_accuracy" in record
    assert "test_accuracy" not in record


@pytest.mark.filterwarnings(
    "error:Detected call of `lr_scheduler.step"
)  # the first step was skipped: the scale was too large
def test_precisions_learn_the_same(small):
    losses = {}
    for precision in ("float32", "bfloat16", "float16"):
        recipe = dataclasses.replace(QUICK, epochs=6, precision=precision)
        _, record = t.fit(Tiny, recipe, data=small, device="cpu", progress=False)
        losses[precision] = record["history"][-1]["train_loss"]
    assert losses["float32"] < 2.15  # ln 10 = 2.30 is chance
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.02)
    assert losses["float16"] == pytest.approx(losses["float32"], abs=0.02)


@pytest.mark.parametrize("channels_last", [True, False])
def test_training_has_the_memory_order_of_its_recipe(small, channels_last):
    seen = set()

    class Watched(Tiny):
        def forward(self, x):
            if self.training:
                seen.add((x.is_contiguous(), x.is_contiguous(memory_format=torch.channels_last)))
            return super().forward(x)

    t.fit(
        Watched,
        dataclasses.replace(QUICK, epochs=1, channels_last=channels_last),
        small,
        progress=False,
    )
    assert seen == {(not channels_last, channels_last)}


def test_wrong_logits_are_explained(small):
    def wrong():
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))

    with pytest.raises(
        ValueError,
        match=r"returns \(64, 7\) for a batch of 64 images; it must return logits of shape \(64, 10\)",
    ):
        t.fit(wrong, QUICK, data=small, progress=False)


def test_diverged_training_stops(small):
    with pytest.raises(t.TrainingError, match="lower the learning rate"):
        t.fit(Tiny, dataclasses.replace(QUICK, lr=1e30, epochs=5), data=small, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(epochs=0), "epochs is 0"),
        (dict(epochs=2.5), "epochs is 2.5"),
        (dict(optimizer="sdg"), "optimizer is 'sdg'; it must be one of sgd"),
        (dict(augment="mixup"), "augment is 'mixup'"),
        (dict(precision="int8"), "precision is 'int8'"),
        (dict(views=((0, 24, 0, 28),)), "crop <= side"),
        (dict(views=((0.5, 32, 0, 28),)), "the first starts at 0"),
    ],
)
def test_recipes_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(QUICK, **change)


# ------------------------------------------------------------------------------------------------------------ checkpoints

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import dataset, train
data = dataset.load_cifar10(progress=False)
data = dataset.Cifar10(*(part[:600] for part in data))
recipe = train.Recipe(epochs=4, batch_size=50, lr=0.1, schedule="onecycle", augment="standard")
network, record = train.fit("strided", recipe, data=data, checkpoint={path!r}, resume={resume}, progress=True)
train.torch.save(network.state_dict(), {path!r} + ".final")
"""


def run_script(path, resume=False):
    code = SCRIPT.format(root=str(ROOT), path=str(path), resume=resume)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_identical_result(tmp_path):
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
    with pytest.raises(t.TrainingError, match="no checkpoint .*; start without --resume"):
        t.fit("net", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    t.fit("net", QUICK, data=small, checkpoint=path, progress=False)
    with pytest.raises(
        t.TrainingError, match="belongs to another run .*model: 'net' there, 'strided' here"
    ):
        t.fit("strided", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    with pytest.raises(t.TrainingError, match="lr: 0.05 there, 0.1 here"):
        t.fit(
            "net",
            dataclasses.replace(QUICK, lr=0.1),
            data=small,
            checkpoint=path,
            resume=True,
            progress=False,
        )
    for garbage in (b"", b"garbage", pickle.dumps(Evil()), path.read_bytes()[:5000]):
        path.write_bytes(garbage)
        with pytest.raises(t.TrainingError, match="is not a checkpoint of this program"):
            t.fit("net", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    torch.save(Evil(), path)
    with pytest.raises(t.TrainingError, match="is not a checkpoint of this program"):
        t.fit("net", QUICK, data=small, checkpoint=path, resume=True, progress=False)
    assert not (tmp_path / "owned").exists()


def test_nothing_half_written_on_a_full_disk(tmp_path):
    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "record.json").write_text("old")
    with pytest.raises(t.TrainingError, match="No space left on device"):
        t.write_atomically(tmp_path / "record.json", full)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("record.json", "old")
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(t.TrainingError, match="Cannot write"):
        t.write_atomically(tmp_path / "file" / "record.json", full)


# ----------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model nett", "Unknown model 'nett'; did you mean net"),
        ("--model net --recipe sprnt", "Unknown recipe 'sprnt'; did you mean sprint"),
        ("--model zzz", "Unknown model 'zzz'; known: net, frontier"),
        ("--epochs -3", "'-3' is not a number of epochs; give a whole number of 1 or more"),
        ("--epochs many", "'many' is not a number of epochs"),
        ("--epochs 0", "'0' is not a number of epochs"),
        ("--device gpu", "Unknown device 'gpu'; known: cpu, cuda, mps"),
        ("--sede 1", "unrecognized arguments: --sede"),
    ],
)
def test_bad_input_is_one_sentence_and_a_failure(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(t, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as stop:
        t.main(arguments.split())
    said = capsys.readouterr().err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert message in said
    assert said.strip().count("\n") == 0
    assert stop.value.code != 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(t, "ROOT", tmp_path)
    with pytest.raises(
        SystemExit, match="'cuda' was asked for, but torch finds none here; use --device cpu"
    ):
        t.main("--device cuda".split())


def test_help_and_list(capsys):
    with pytest.raises(SystemExit) as stop:
        t.main(["--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out
    t.main(["--list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*t.MODELS, *t.RECIPES])
    assert "154,544" in listed


def test_command_line_run_writes_record_weights_and_checkpoint(
    small, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(t, "ROOT", tmp_path)
    monkeypatch.setattr(t, "load_cifar10", lambda progress: small)
    t.main("--model net --recipe sprint --epochs 1 --seed 3 --device cpu".split())
    out = capsys.readouterr().out
    name = "net-sprint-1epochs-seed3"
    record = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert (record["seed"], record["recipe"]["epochs"]) == (3, 1)
    assert f"{record['test_accuracy']:.2%} at the last epoch" in out
    network, same = t.load_weights(tmp_path / "weights" / f"{name}.pt")
    assert same == record
    again = t.evaluate(network, small.test_images, small.test_labels, precision=record["precision"])
    assert again.accuracy == pytest.approx(record["test_accuracy"], abs=0.004)
    before = (tmp_path / "checkpoints" / f"{name}.pt").stat().st_mtime
    t.main(
        "--model net --recipe sprint --epochs 1 --seed 3 --device cpu --resume".split()
    )  # finished already: nothing to do
    assert (tmp_path / "checkpoints" / f"{name}.pt").stat().st_mtime == before
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        f"{name}.json",
        f"{name}.pt",
        f"{name}.pt",
    ]


def test_ctrl_c_before_the_first_epoch_says_so(tmp_path, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(t, "ROOT", tmp_path)
    monkeypatch.setattr(t, "load_cifar10", interrupted)
    with pytest.raises(SystemExit, match="nothing to resume"):
        t.main(["--model", "net"])


@pytest.mark.slow
def test_ctrl_c_keeps_the_checkpoint_and_prints_the_resume_command(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import dataset, train; from pathlib import Path; "
        f"train.ROOT = Path({str(tmp_path)!r}); data = dataset.Cifar10(*(part[:600] for part in dataset.load_cifar10())); "
        "train.load_cifar10 = lambda progress: data; train.main('--model net --recipe sprint --epochs 400'.split())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "checkpoints" / "net-sprint-400epochs-seed0.pt"
    deadline = time.time() + 120
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "go on with: python train.py --model net --recipe sprint --epochs 400 --resume" in errors
    assert "Traceback" not in errors
    assert len(torch.load(checkpoint, weights_only=True)["history"]) >= 1
    assert not list((tmp_path / "results").glob("*.json"))


# ---------------------------------------------------------------------------------------------------- what was handed over

WEIGHTS = sorted(path.name for path in (ROOT / "weights").glob("*-seed0.pt"))


def test_weights_are_there():
    assert "net-sprint-seed0.pt" in WEIGHTS


IMAGES = {
    "wide-wide-10epochs-seed0.pt": 1000,
    "stacked-stacked-seed0.pt": 2000,
}  # large: a minute or more for all of them


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_the_accuracy_of_their_record(name, cifar):
    """On all test images; on the first ones where that takes long, within three standard errors."""
    network, record = t.load_weights(ROOT / "weights" / name)
    count = IMAGES.get(name, 10_000)
    found = t.evaluate(
        network, cifar.test_images[:count], cifar.test_labels[:count], record["recipe"]["augment"]
    )
    accuracy = record["test_accuracy"]
    error = (
        3 * math.sqrt(accuracy * (1 - accuracy) / count) if name in IMAGES else 0.002
    )  # another precision rounds otherwise
    assert found.accuracy == pytest.approx(accuracy, abs=error)
    assert t.count_parameters(network) == record["parameters"]
