"""The benchmarks, on little data."""

import dataclasses
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, record
from torch.utils.flop_counter import FlopCounterMode

import analysis
from core.recipes import RECIPES
from core.records import race_table
from model import Net
from tools import bench_blocks, bench_engines, bench_growth, bench_sprint, readme


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
    before = (ROOT / "results" / "bench" / "engines.json").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "tools.bench_engines", "--images", "200"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("images/s") == 5
    assert (ROOT / "results" / "bench" / "engines.json").read_text(encoding="utf-8") == before


def test_every_racer_pays_for_its_whole_training():
    versions = {"versions": {"torch": "2"}}
    ours = [record([0.5, 0.86, 0.87], 10.0, **versions), record([0.5, 0.6, 0.85], 12.0)]
    theirs = [record([0.86, 0.84, 0.9], 100.0), record([0.5, 0.85, 0.9], 100.0)]
    work = {"lean": 33e9, "compact": 600e9}
    summary = bench_sprint.summary_of({"lean": ours, "compact": theirs}, work, 2e9)
    lean, compact = summary["racers"].values()
    assert lean["seconds"] == [30.0, 36.0]
    assert compact["seconds"] == [300.0, 300.0]
    assert lean["times_faster"] == pytest.approx(300 / 33)
    assert lean["share_of_matrix_product"] == pytest.approx(0.5)
    table = race_table({"cpu: X, AVX2, 2 threads": summary})
    assert re.search(r"`lean`, 3 epochs +\| X, AVX2, 2 threads.+\| +33 \| +9\.1 \|", table), table


def test_operations_agree_with_torchs_counter_where_nothing_is_depthwise():
    recipe = dataclasses.replace(RECIPES["sprint"], epochs=2)  # crops of 24, then of 28 pixels
    network, an_image = Net(), 0
    network.c3[1] = torch.nn.Identity()
    for side in (24, 28):
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(2, 3, side, side)).sum().backward()
        an_image += counter.get_total_flops() / 2
    sgd = dataclasses.replace(recipe, optimizer="sgd")
    assert analysis.operations(network, sgd, 10) == pytest.approx(10 * an_image)
    muons = analysis.operations(network, recipe, 512) - 512 * an_image  # one step an epoch
    assert 0 < muons < 0.1 * 512 * an_image
    nothing = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout())
    assert analysis.count_macs(nothing) == 0


def test_the_table_of_growth_is_drawn_from_its_record():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    content = bench_growth.table(readme.recorded("bench/growth"))
    assert readme.fill(text, "growth", content) == text, "run `make growth`"


def test_a_class_of_100_is_1000_epochs_of_50_000_images():
    images = {str(4 * bench_growth.IMAGES): {"seconds": [1.0, 7.2, 9.0]}}
    jobs = {"1": {"seconds": [4.0]}, "2": {"seconds": [3.0]}}
    said = bench_growth.class_of_100(dict(images=images, jobs=jobs, cores=2, device="cpu: X, Y"))
    assert "take 10 hours" in said
    assert "8 on two" in said


def test_four_plain_blocks_of_twice_the_width_have_four_times_the_parameters():
    small, large = (sum(p.numel() for p in bench_growth.Scaled(w).parameters()) for w in (32, 64))
    assert large / small == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("name", bench_blocks.BLOCKS)
def test_every_block_is_measured_and_keeps_its_shape(name):
    build = bench_blocks.BLOCKS[name]
    assert build(16)(torch.randn(2, 16, 8, 8)).shape == (2, 16, 8, 8)
    found = bench_blocks.measure(build, 16, 8, images=2, seconds=0.01)
    assert found["milliseconds"] > 0
    if name == "3x3, dilated 2":
        assert (found["parameters"], found["macs"]) == (16 * 16 * 9, 16 * 16 * 9 * 64)
    assert f"| {name} " in bench_blocks.table({name: {"16 at 8x8": found}})


def test_counting_leaves_the_network_as_it_was():
    network = Net()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    analysis.operations(network, RECIPES["lean"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
