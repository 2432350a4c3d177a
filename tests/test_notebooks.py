"""`pytest --nbval` re-executes the notebooks; a broken one fails."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

TRAINS = 'net, record = train.fit("net", recipe, data)'
LOADS = 'net, record = train.load_weights(train.ROOT / "weights" / "net-sprint-seed0.pt")'


def execute(tmp_path, **replaced):
    """Runs the main notebook under nbval with `replaced` source lines; its training is loaded. Returns what pytest says."""
    book = json.loads((ROOT / "S9_Final.ipynb").read_text())
    changes = {TRAINS: LOADS} | replaced
    for old, new in changes.items():
        cells = [cell for cell in book["cells"] if old in "".join(cell["source"])]
        assert len(cells) == 1, old
        cells[0]["source"] = ["".join(cells[0]["source"]).replace(old, new)]
    path = tmp_path / "copy.ipynb"
    path.write_text(json.dumps(book))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RECIPE": "sprint"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "-q",
        "-rf",
        "-p",
        "no:cacheprovider",
        str(path),
    ]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    return run.returncode, run.stdout


@pytest.mark.slow
def test_the_main_notebook_passes_typed_into_a_cell(tmp_path, monkeypatch):
    """Jupyter sets these for every program that a cell starts; a progress bar must not take it for a reader."""
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/S9_Final.ipynb")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    code, said = execute(tmp_path)
    assert code == 0, said


READ = "data = dataset.load_cifar10()"
PASSES = "assert result.accuracy >= 0.85"
CONFUSES = 'assert {dataset.CLASSES[one], dataset.CLASSES[other]} == {"cat", "dog"}'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "fails"),
    [
        pytest.param(TRAINS, f'{LOADS}\nnet = model.MODELS["net"]()', PASSES, id="untrained"),
        pytest.param(
            READ,
            f"{READ}\ndata.test_labels[:] = data.test_labels[::-1]",
            PASSES,
            id="labels of other images",
        ),
        pytest.param(
            READ,
            f"{READ}\ndataset.CLASSES = dataset.CLASSES[::-1]",
            CONFUSES,
            id="names of other classes",
        ),
    ],
)
def test_a_broken_notebook_fails(old, new, fails, tmp_path):
    code, said = execute(tmp_path, **{old: new})
    assert code == 1, said
    assert fails in said
