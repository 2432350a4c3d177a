"""What README.md and results/README.md say of made-up records, and badges."""

import json
import shutil
import subprocess

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import ROOT, ours, record
from PIL import Image, ImageChops

from tools import badges, readme


def trained(*accuracies, epochs=2, **more):
    return [record([0.5] * (epochs - 1) + [a], 60.0, **more) for a in accuracies]


def test_the_record_is_the_last_epochs_mean_beside_the_best_published_within_the_budget():
    runs = trained(0.91, 0.93, epochs=20, parameters=190_000, device="cpu: X, AVX2, 1 thread")
    gpu = trained(0.95, parameters=188_130, device="cuda: NVIDIA T4, capability 7.5")
    groups = {"large-94": trained(0.94), "frontier-frontier": runs, "gated-gated": gpu}
    text = readme.most_accurate(groups)
    assert "**92.00 ± 1.41 % (n = 2) of the test images with 190,000 parameters**" in text
    assert "20 epochs, 20 min on 1 thread, AVX2" in text
    assert "`gated`, 2 epochs, 120 s on NVIDIA T4." in text
    assert "94.6 % (cifar10-tiniest: one run of 300 epochs, by others;" in text


def test_the_times_of_two_machines_are_not_passed_for_one():
    runs = trained(0.9) + trained(0.9, device="cpu: Y, AVX512 with bfloat16, 1 thread")
    said = "120 s on 2 threads, AVX2; 120 s on 1 thread, AVX512 with bfloat16"
    assert readme.time_of(runs) == said


def test_a_run_that_moved_was_in_both_places():
    moved = "cuda: NVIDIA T4, capability 7.5, then cpu: Y, AVX512 with bfloat16, 1 thread"
    runs = trained(0.9, 0.9, device=moved)
    for run in runs:
        run["history"][0]["device"] = "cuda: NVIDIA T4, capability 7.5"
    runs[1]["history"][1]["seconds"] = 100
    said = "60 s on NVIDIA T4, then 80 s on 1 thread, AVX512 with bfloat16"
    assert readme.time_of(runs) == said


def test_a_text_is_reached_or_missed():
    groups = {
        "dilated-30": trained(0.86, epochs=30, model="dilated"),
        "dilated-40": trained(0.86, 0.85, epochs=40, model="dilated"),
        "wide": trained(0.75, epochs=20, model="wide"),
        "wide-10": trained(0.75, epochs=10, model="wide"),  # of so few its text says nothing
        "net": trained(0.9),  # no text
    }
    table = readme.claims(groups).set_index("run")
    assert table["its text, %"].to_dict() == {
        "`dilated-30`": "85.52 in 30",
        "`dilated-40`": "86.39 in 40",
        "`wide`": "73.20 in 20",
    }
    assert table["points more"].tolist() == [
        "+0.48 (n = 1)",
        "-0.89 (-7.24 to +5.46)",
        "+1.80 (n = 1)",
    ]
    assert table["verdict"].tolist() == [
        "reached",
        "missed, within the interval",
        "not comparable: the text tested on augmented images",
    ]
    assert isinstance(table, pd.DataFrame)


def test_the_race_is_among_runs_on_one_device(monkeypatch):
    """Seconds of the same run on another number of threads belong into another race."""
    elsewhere = trained(0.8, device="cpu: X, AVX2, 1 thread")
    groups = {"net-sprint": trained(0.9), "mixed": trained(0.8) + elsewhere, "other": elsewhere}
    raced = {}
    monkeypatch.setattr(readme, "TABLES", ())
    monkeypatch.setattr(readme, "load_records", lambda *_: groups)
    monkeypatch.setattr(readme, "longest_trainings", lambda groups: groups)
    for name in ("plot_pareto", "save_figure"):
        monkeypatch.setattr(readme, name, lambda *_: None)
    monkeypatch.setattr(readme, "plot_race", raced.update)
    readme.draw_images()
    assert {name: len(runs) for name, runs in raced.items()} == {"net-sprint": 1, "mixed": 1}


def test_every_lesson_has_a_finding():
    groups = readme.load_records() | readme.load_records(readme.LARGE)
    assert readme.findings(groups).keys() == readme.LESSONS.keys()


def test_what_is_not_recorded_yet_is_one_sentence(monkeypatch, no_windows):
    monkeypatch.setattr("sys.argv", ["readme"])
    monkeypatch.setattr(readme, "draw_images", lambda: None)
    monkeypatch.setitem(readme.LESSONS, "experiments/12_new", "What is new?")
    with pytest.raises(SystemExit, match="^readme: not all is recorded yet .'experiments/12_new"):
        readme.main()


def test_fill_replaces_between_markers_only():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert readme.fill(text, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="markers"):
        readme.fill("a", "x", "new")


def test_the_pictures_are_drawn_from_the_records(tmp_path, monkeypatch, no_own_records):
    """Pixel for pixel, where Matplotlib is of the version that drew them."""
    drawn = []

    def save(name, dpi):
        plt.savefig(file, dpi=dpi)
        plt.close()
        with Image.open(ROOT / "images" / f"{name}.png") as old, Image.open(file) as new:
            drawn.append(name)
            if old.info["Software"] == new.info["Software"]:
                difference = ImageChops.difference(old.convert("RGB"), new.convert("RGB"))
                largest = max(high for _, high in difference.getextrema())
                assert largest < 40, f"{name}: run `make readme`"  # of 255; a processor may round

    file = tmp_path / "new.png"
    monkeypatch.setattr(readme, "save_figure", save)
    plt.switch_backend("Agg")
    readme.draw_images()
    assert sorted(drawn) == sorted(path.stem for path in ours("images/*.png"))


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/some-one/course.git",
        "https://github.com/some-one/course",
        "git@github.com:some-one/course.git",
        "https://token@github.com/some-one/course/",
    ],
)
def test_the_repository_is_that_of_the_remote(remote):
    assert badges.repository(remote) == "some-one/course"


@pytest.mark.parametrize("remote", ["", "/home/me/course", "https://example.org/a/b.git"])
def test_where_there_is_none_a_sentence_says_what_to_set(remote):
    verb = "set-url" if remote else "add"
    with pytest.raises(ValueError, match=rf"git remote {verb} origin https://github\.com/OWNER/N"):
        badges.repository(remote)


def test_stamping_changes_badges_and_the_address_to_clone():
    text = "<!-- badges -->\n<!-- /badges -->\ngit clone https://github.com/OWNER/REPOSITORY course"
    stamped = badges.stamp(text, "a/b.ipynb", "some-one/course")
    assert "colab.research.google.com/github/some-one/course/blob/main/a/b.ipynb" in stamped
    assert "src=https://github.com/some-one/course/blob/main/a/b.ipynb" in stamped
    assert "git clone https://github.com/some-one/course course" in stamped
    assert badges.stamp(stamped, "a/b.ipynb", "OWNER/REPOSITORY").endswith(text[-60:])


def test_the_name_reaches_the_cell_that_fetches_the_course(tmp_path, monkeypatch):
    """Of a fork's notebooks, the third cell."""
    (tmp_path / "experiments").mkdir()
    for name in ("README.md", "S9_Final.ipynb", "experiments/11_five_networks.ipynb"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(badges, "ROOT", tmp_path)
    remote = subprocess.CompletedProcess([], 0, "https://github.com/some-one/fork.git\n")
    monkeypatch.setattr(badges.subprocess, "run", lambda *_, **__: remote)
    badges.write_badges()
    for path in tmp_path.rglob("*.ipynb"):
        book = json.loads(path.read_text(encoding="utf-8"))
        cell = next(cell for cell in book["cells"] if cell["cell_type"] == "code")
        assert "https://github.com/some-one/fork course" in "".join(cell["source"])
        assert "OWNER" not in "".join(book["cells"][0]["source"])
