"""What stands around a training: which images judge it, who is at it, whose recipe it had."""

import json

import pytest
from conftest import ROOT, TABLE_HEAD

import train
from core.recipes import DEFAULTS, settings
from core.records import part_of
from experiments import sweep


def part_of_the_training_images(data):
    return data._replace(test_images=data.train_images[:100], test_labels=data.train_labels[:100])


def test_validate_reaches_the_run(small, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "load_cifar10", lambda progress: small)
    monkeypatch.setattr(train, "held_out", part_of_the_training_images)
    train.main("--model net --epochs 1 --device cpu --validate".split())
    record = json.loads(
        (tmp_path / "results" / "net-sprint-1epochs-val-seed0.json").read_text(encoding="utf-8")
    )
    assert "val_accuracy" in record and "test_accuracy" not in record


def test_validate_of_a_table(small, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "load_cifar10", lambda progress: small)
    monkeypatch.setattr(train, "held_out", part_of_the_training_images)
    path = tmp_path / "table.py"
    path.write_text(TABLE_HEAD + 'RUNS = [Run("a", "sprint", 1, dict(epochs=1), Tiny, True)]\n')
    sweep.sweep(path)
    record = json.loads(
        (tmp_path / "results" / "table" / "a-seed0.json").read_text(encoding="utf-8")
    )
    assert "val_accuracy" in record and "test_accuracy" not in record


def test_a_folder_that_cannot_be_written_is_told_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "fit", None)
    (tmp_path / "weights").write_text("a file in the folder's place")
    with pytest.raises(SystemExit, match="Cannot write .*weights"):
        train.main("--model net --epochs 1 --device cpu".split())


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "fit", None)
    lock = train.paths_of("net-sprint-1epochs-seed0", tmp_path).lock
    with (
        train.common.claimed(lock, "it"),
        pytest.raises(SystemExit, match="Another process is at"),
    ):
        train.main("--model net --epochs 1 --device cpu".split())


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda p: p.stem)
def test_every_record_of_train_py_is_a_run_of_its_recipe(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    model = record["model"]
    recipe, *more = path.stem.removeprefix(f"{model}-").split("-")
    words = ["--model", model, "--recipe", recipe, "--seed", more[-1].removeprefix("seed")]
    words += [w for part in more if part.endswith("epochs") for w in ("--epochs", part[:-6])]
    name, asked = train.asked(train.parse(words + ["--validate"] * ("val" in more)))
    assert name == path.stem
    assert part_of(record) == ("val" if "val" in more else "test")
    assert DEFAULTS | record["recipe"] == settings(asked)
