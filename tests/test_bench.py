"""The benchmarks, on little data."""

import subprocess
import sys

import pytest
from conftest import ROOT, record

from tools import bench_engines, bench_growth, bench_sprint, readme


def test_all_engines_are_measured_on_200_images(small):
    speeds = bench_engines.benchmark(small.train_images[:200], small.train_labels[:200], 0.1)
    assert list(speeds) == [
        "torchvision transforms, 2 workers",
        "albumentations flip_shift, 2 workers",
        "albumentations standard, 2 workers",
        "device flip_shift",
        "device flip_shift_cutout",
    ]
    assert all(speed > 0 for speed in speeds.values())


@pytest.mark.slow
def test_the_command_that_measures_engines_only_looks_at_few_images(cifar):
    before = (ROOT / "results" / "bench" / "engines.json").read_text()
    command = [sys.executable, "-m", "tools.bench_engines", "--images", "200"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("images/s") == 5
    assert (ROOT / "results" / "bench" / "engines.json").read_text() == before


def test_the_sprint_pays_for_its_whole_run_and_the_opponent_until_the_mark():
    versions = {"versions": {"torch": "2"}}
    sprint = [record([0.5, 0.86, 0.87], 10.0, **versions), record([0.5, 0.6, 0.85], 12.0)]
    compact = [record([0.86, 0.84, 0.9], 100.0), record([0.5, 0.85, 0.9], 100.0)]
    summary = bench_sprint.summary_of({"sprint": sprint, "compact": compact})
    assert summary["sprint"]["seconds"] == [30.0, 36.0]
    assert summary["compact"]["seconds"] == [100.0, 200.0]
    assert summary["times_faster"] == pytest.approx(150 / 33)


def test_a_race_that_nobody_finishes_has_no_winner():
    runs = [record([0.5], versions={"torch": "2"})]
    summary = bench_sprint.summary_of({"sprint": runs, "compact": runs})
    assert summary["sprint"]["median"] is None
    assert "times_faster" not in summary


def test_the_table_of_growth_is_drawn_from_its_record():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    content = bench_growth.table(readme.bench("growth"))
    assert readme.fill(text, "growth", content) == text, "run `make growth`"


def test_a_class_of_100_is_1000_epochs_of_50_000_images():
    images = {str(4 * bench_growth.IMAGES): {"seconds": [1.0, 7.2, 9.0]}}
    jobs = {"1": {"seconds": [4.0]}, "2": {"seconds": [3.0]}}
    said = bench_growth.class_of_100(dict(images=images, jobs=jobs, cores=2, device="cpu: X, Y"))
    assert "take 10.0 hours" in said
    assert "7.5 on two" in said


def test_four_plain_blocks_of_twice_the_width_have_four_times_the_parameters():
    small, large = (sum(p.numel() for p in bench_growth.Scaled(w).parameters()) for w in (32, 64))
    assert large / small == pytest.approx(4, rel=0.03)
