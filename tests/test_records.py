"""Records and what is said of them."""

import errno
import json
from pathlib import Path

import pytest
from conftest import record, runs

from core import records as r
from core.common import TrainingError


def test_records_are_grouped_by_run_and_averaged(tmp_path):
    for seed, accuracy in enumerate((0.85, 0.87)):
        content = record([0.5, accuracy]) | {"seed": seed}
        (tmp_path / f"net-sprint-seed{seed}.json").write_text(json.dumps(content))
    (tmp_path / "net-sprint-val-seed0.json").write_text(json.dumps(record([0.5], part="val")))
    groups = r.load_records(root=tmp_path)
    assert {name: len(records) for name, records in groups.items()} == {
        "net-sprint": 2,
        "net-sprint-val": 1,
    }
    (row,) = cells(r.results_table(groups))  # no validation runs
    assert row[:4] == ["`net-sprint`", "1,234", "2", "86.00 ± 1.41 (n = 2)"]
    assert row[4:7] == ["85.00", "87.00 ± 1.41 (n = 2)", "2"]
    assert row[7:] == ["cpu: X, AVX2, 2 threads", "float32"]
    assert cells(r.results_table(groups, short=True)) == [row[:4]]


def cells(table):
    """The rows of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_a_table_names_every_device_and_precision_of_a_run_and_the_seconds_on_each_device():
    runs = [record([0.5]), record([0.6], device="cuda: T4", precision="float16"), record([0.5])]
    runs[0]["seconds"], runs[1]["seconds"], runs[2]["seconds"] = 1000, 10, 3000
    (row,) = cells(r.results_table({"net": runs}))
    assert row[6:] == ["2,000; 10", "cpu: X, AVX2, 2 threads; cuda: T4", "float32; float16"]


def test_effect_is_the_difference_with_students_interval():
    found = r.effect(runs(0.90, 0.91, 0.92), runs(0.80, 0.81, 0.82))
    # t(0.975, 4 degrees of freedom) times the standard error; the pooled deviation is 1 point.
    half = 2.7764 * (1 / 3 + 1 / 3) ** 0.5
    assert (found.points, found.low, found.high) == pytest.approx(
        (10, 10 - half, 10 + half), abs=1e-3
    )
    assert found.measured
    assert str(found) == "+10.00 (+7.73 to +12.27)"
    assert not r.effect(runs(0.80, 0.82), runs(0.81, 0.82)).measured
    alone = r.effect(runs(0.9), runs(0.8, 0.8))
    assert (alone.measured, str(alone)) == (False, "+10.00 (n = 1)")
    assert alone.sentence == "+10.00 points; one run on a side has no interval"


def test_a_claim_has_no_seeds_the_interval_is_that_of_our_mean():
    found = r.effect_against(runs(0.90, 0.91, 0.92), 0.905, "val_accuracy")
    half = 4.3027 / 3**0.5  # t(0.975, 2 degrees of freedom) times the standard error of 1 point
    assert (found.points, found.low, found.high) == pytest.approx(
        (0.5, 0.5 - half, 0.5 + half), abs=1e-3
    )
    assert str(r.effect_against(runs(0.9), 0.905, "val_accuracy")) == "-0.50 (n = 1)"


def test_changes_name_what_differs():
    groups = {
        "base": runs(0.80, 0.81, description="nothing"),
        "longer": runs(0.90, 0.92, description="more", seconds=4.0),
    }
    assert cells(r.changes_table(groups, "base")) == [
        [
            "`longer`",
            "more",
            "91.00 ± 1.41 (n = 2)",
            "+10.50 (+5.69 to +15.31)",
            "4.0 ± 0.0 (n = 2)",
        ],
        ["`base`", "nothing", "80.50 ± 0.71 (n = 2)", "", "2.0 ± 0.0 (n = 2)"],
    ]
    assert cells(r.changes_table(groups, "base", short=True)) == [
        ["more", "91.00 ± 1.41 (n = 2)", "+10.50 (+5.69 to +15.31)"],
        ["nothing", "80.50 ± 0.71 (n = 2)", ""],
    ]


def test_an_effect_says_when_there_is_none():
    assert r.effect(runs(0.9, 0.91), runs(0.8, 0.81)).sentence == "+10.00 (+6.96 to +13.04) points"
    same = r.effect(runs(0.8, 0.82), runs(0.81, 0.82)).sentence
    assert same.endswith("points: no effect was measured")


def test_the_longest_training_of_a_network_is_taken():
    groups = {
        "a-50epochs": [record([0.5] * 3)],
        "a": [record([0.5] * 2)],
        "b": [record([0.6]) | {"model": "wide"}],
    }
    groups["val"] = [record([0.5] * 9, part="val")]
    assert r.longest_trainings(groups) == {"wide": groups["b"], "net": groups["a-50epochs"]}


def test_a_record_that_cannot_be_read_now_is_not_called_bad(tmp_path, monkeypatch):
    """A sweep would train the run anew."""

    def fail(*_, **options):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "x-seed0.json").write_text("{}")
    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(TrainingError, match=r"x-seed0\.json cannot be read \(Input/output error\)"):
        r.load_records(root=tmp_path)


def test_bad_records_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.py writes them"):
        r.load_records(root=tmp_path)
    (tmp_path / "x-seed0.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x-seed0\.json is not a record"):
        r.load_records(root=tmp_path)


def test_mean_std_says_n():
    assert r.mean_std([0.5], 100) == "50.00 (n = 1)"
    assert r.mean_std([1, 3]) == "2.00 ± 1.41 (n = 2)"


def test_seconds_to_the_mark_are_those_of_the_first_crossing():
    history = record([0.5, 0.86, 0.84], 10.0)["history"]
    assert r.seconds_to(0.85, history) == 20.0
    assert r.seconds_to(0.9, history) is None


def test_the_published_points_are_whole():
    for point in r.published():
        assert 0.5 < point["accuracy"] < 1
        assert point["parameters"] > 10_000
        assert {"name", "how", "source"} <= point.keys()


def test_the_line_of_an_epoch_fits_on_a_phone():
    line = r.epoch_line(record([0.5, 0.8765], 123.4)["history"], 100)
    assert line == "Epoch 2/100: 123 s, train 50.0%, test 87.6%"
    assert len(line) <= 45
