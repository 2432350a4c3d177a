"""A table of runs: what is missing is trained, what is wrong is told in a sentence."""

import json
import subprocess
import sys
import weakref

import pytest
import torch
from conftest import ROOT, TABLE_HEAD

import train
from core.checkpoint import fingerprint
from core.common import TrainingError
from experiments import sweep

TABLE = (
    TABLE_HEAD
    + """

def adam(model, recipe):
    return torch.optim.Adam(model.parameters(), 0.0)

SHORT = dict(epochs=1, augment="none")
VARIANTS = dict(make_optimizer=adam)
RUNS = [
    Run("diverges", "sprint", 1, SHORT | dict(optimizer="sgd", lr=1e30, epochs=3), model=Tiny),
    Run("plain", "sprint", 2, SHORT),
    Run("own", "sprint", 1, SHORT, model=Tiny, description="my network", variants=VARIANTS),
]
"""
)


@pytest.fixture
def course(small, tmp_path, monkeypatch):
    """A root folder of its own, and 600 images."""
    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "load_cifar10", lambda progress: small)
    return tmp_path


def test_what_is_missing_is_trained_and_one_failure_stops_no_other(course, capsys):
    path = course / "05_table.py"
    path.write_text(TABLE)
    with pytest.raises(TrainingError, match="1 of 4 failed: 05_table/diverges-seed0"):
        sweep.sweep(path)
    assert "lower the learning rate" in capsys.readouterr().err
    records = sorted((course / "results" / "05_table").iterdir())
    names = ["own-seed0.json", "plain-seed0.json", "plain-seed1.json"]
    assert [record.name for record in records] == names
    own, plain = (
        json.loads(records[0].read_text(encoding="utf-8")),
        json.loads(records[2].read_text(encoding="utf-8")),
    )
    assert (plain["model"], plain["seed"], plain["recipe"]["augment"]) == ("net", 1, "none")
    assert (own["model"], own["description"], own["parameters"]) == ("Tiny", "my network", 40)
    saved = torch.load(course / "weights" / "05_table" / "own-seed0.pt", weights_only=True)
    torch.manual_seed(0)
    start = torch.nn.Linear(3, 10)
    assert torch.equal(saved["state"]["fc.weight"], start.weight)  # Adam with a rate of 0

    records[2].unlink()
    before = records[1].stat().st_mtime_ns
    with pytest.raises(TrainingError):
        sweep.sweep(path)
    assert records[1].stat().st_mtime_ns == before
    assert records[2].exists()


def test_a_table_behind_a_link_has_the_links_name(course):
    path = course / "mine.py"
    (course / "elsewhere.py").write_text(TABLE)
    path.symlink_to(course / "elsewhere.py")
    with pytest.raises(TrainingError, match=r"^1 of 4 failed: mine/diverges-seed0\.$"):
        sweep.sweep(path)
    assert (course / "results" / "mine" / "own-seed0.json").exists()


def test_seeds_go_on_from_a_tables_own(tmp_path):
    path = tmp_path / "table.py"
    path.write_text(
        "from experiments.sweep import Run\n"
        'RUNS = [Run("later", "sprint", 2, dict(seed=3)), Run("first", "sprint", 2)]'
    )
    seeds = {name.split("/")[1]: recipe.seed for name, _, recipe in sweep.plan(path)}
    assert seeds == {"later-seed0": 3, "later-seed1": 4, "first-seed0": 0, "first-seed1": 1}


OTHERS = ["another recipe", "another split", "another network"]


@pytest.mark.parametrize("damage", ["", '{"model": "net"', *OTHERS])
def test_what_only_looks_recorded_is_named_and_done_anew(damage, course, capsys):
    path = course / "table.py"
    path.write_text(
        "from experiments.sweep import Run\n"
        'RUNS = [Run("plain", "sprint", 1, dict(epochs=1, augment="none"))]\n'
    )
    sweep.sweep(path)
    file = course / "results" / "table" / "plain-seed0.json"
    good = json.loads(file.read_text(encoding="utf-8"))
    text = damage
    if damage == "another recipe":
        text = json.dumps(good | {"recipe": good["recipe"] | {"lr": 0.1}})
    if damage == "another split":
        text = json.dumps(good).replace('"test_accuracy', '"val_accuracy')
    if damage == "another network":
        text = json.dumps(good | {"model": "frontier"})
    file.write_text(text)
    sweep.sweep(path)
    said = capsys.readouterr().out
    assert f"{file} is {f'of {damage}' if 'another' in damage else 'damaged'}" in said
    again = json.loads(file.read_text(encoding="utf-8"))
    assert again["recipe"] == good["recipe"]
    assert again["test_accuracy"] == good["test_accuracy"]


def test_a_checkpoint_of_another_run_is_told_and_not_gone_on_from(course, capsys):
    path = course / "table.py"
    lines = 'from experiments.sweep import Run\nRUNS = [Run("plain", "sprint", 1, CHANGE)]\n'
    path.write_text(lines.replace("CHANGE", 'dict(epochs=1, augment="none")'))
    (_, run, recipe), *_ = sweep.plan(path)
    checkpoint = course / "checkpoints" / "table" / "plain-seed0.pt"
    sweep.train.fit(run.model, recipe, checkpoint=checkpoint, progress=False)
    before = checkpoint.read_bytes()
    other = course / "elsewhere" / "table.py"
    other.parent.mkdir()
    other.write_text(lines.replace("CHANGE", 'dict(epochs=1, augment="flip")'))
    sweep.sweep(other)
    assert "belongs to another run" in capsys.readouterr().out
    assert (course / "results" / "table" / "plain-seed0.json").exists()
    assert checkpoint.with_suffix(".other1.pt").read_bytes() == before
    checkpoint.write_bytes(b"another one")
    (course / "results" / "table" / "plain-seed0.json").unlink()
    sweep.sweep(other)
    assert checkpoint.with_suffix(".other1.pt").read_bytes() == before
    assert checkpoint.with_suffix(".other2.pt").read_bytes() == b"another one"


BAD = {
    "RUNS = [": "never closed",
    "": "no attribute 'RUNS'",
    'RUNS = [Run("x", "sprint", 1, change=dict(lrr=1))]': "lrr",
    'RUNS = [Run("x", "sprimt", 1)]': "Unknown recipe 'sprimt'; did you mean sprint",
    'RUNS = [Run("x", "sprint", 1, chnage={})]': "chnage",
    'RUNS = [Run("x", "sprint", 1, variants=dict(optimiser=print))]': "fit takes no optimiser",
    'RUNS = [Run("x", "sprint", 1, variants=dict(train_epoch=None))]': "must be a function",
    'AUGMENTATIONS = {"flip": None}\nRUNS = []': "there already: flip",
    'RUNS = (Run("x", "sprint", 1) for _ in range(2))': "RUNS must be a list of Run",
    "RUNS = []": "and not empty",
    'RUNS = [Run("x", "sprint", 1), Run("x", "standard", 1)]': "two runs called x",
    'RUNS = [Run("x", "sprint", 1), Run("y", "sprint", 1, model="nett")]': "Unknown model 'nett'",
    'RUNS = [Run("x", "sprint", 0)]': "x has 0 seeds",
}


@pytest.mark.parametrize("text", BAD)
def test_a_broken_table_is_refused_in_one_sentence(text, tmp_path):
    path = tmp_path / "table.py"
    path.write_text("from experiments.sweep import Run\n" + text)
    with pytest.raises(TrainingError, match=r"table\.py is not a table of runs") as caught:
        sweep.plan(path)
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line(tmp_path):
    def said(*arguments):
        command = [sys.executable, "-m", "experiments.sweep", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    table = ROOT / "experiments" / "06_processors.py"
    [(name, run, recipe)] = sweep.plan(table)
    assert sweep.recorded(name, run, recipe), "else the next line would train, and record"
    done = said(str(table))
    assert done.returncode == 0
    assert "1 runs, 1 recorded already" in done.stdout
    missing = said(str(tmp_path / "none.py"))
    assert missing.returncode == 1
    assert "there is no file" in missing.stderr
    assert missing.stderr.count("\n") == 1
    assert "a list RUNS of `Run`" in said("--help").stdout


class Kept:
    """A variant that may keep something from epoch to epoch, or says that it does not."""

    def __init__(self, **said):
        self.__dict__ |= said

    def __call__(self):
        raise AssertionError("nothing is trained here")


@pytest.mark.parametrize("said", [{}, {"keeps_nothing": True}])
def test_a_run_is_resumed_where_its_variants_keep_nothing(said, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    asked = []
    monkeypatch.setattr(
        train, "train_and_record", lambda *_, resume, **__: asked.append(resume) or {}
    )
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x-seed0.pt").touch()
    run = sweep.Run("x", "sprint", 1, variants={"train_epoch": Kept(**said)})
    sweep.train_once("x-seed0", run, sweep.recipe_of(run, 0), "cpu")
    assert asked == [bool(said)]


def test_a_process_with_an_older_table_trains_nothing(course):
    path = course / "table.py"
    path.write_text(TABLE)
    order = sweep.Order(str(path), "table/own-seed0", sweep.load_table(path).KNOWN, "cpu", False)
    path.write_text(TABLE.replace("model=Tiny", 'model="net"'))
    meant = order._replace(known=fingerprint([sweep.CODE.encode(), path.read_bytes()]))
    with pytest.raises(TrainingError, match="not the one that this run was planned with"):
        sweep.carry_out(meant)
    assert not (course / "results").exists()
    assert sweep.carry_out(order).startswith("test accuracy")


def test_what_a_failed_run_held_is_free_before_the_next():
    class Network:
        pass

    def train_it():
        network = Network()
        held.append(weakref.ref(network))
        raise RuntimeError("out of memory")

    held = []
    with pytest.raises(RuntimeError) as caught:
        train_it()
    sweep.forget(caught.value)
    assert held[0]() is None
