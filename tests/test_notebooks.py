"""`pytest --nbval` re-executes the notebooks; a broken one fails."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT

TRAINS = 'net, record = train.fit("net", recipe, data)'
LOADS = 'net, record = train.load_weights("weights/net-sprint-seed0.pt")'
FEW, FEWER = "[:5120]", "[:640]"  # images for the loop that is written by hand


def execute(tmp_path, **replaced):
    """Runs the main notebook under nbval with `replaced` source lines; its training is loaded, and
    its other trainings are short.

    Returns what pytest says.
    """
    book = json.loads((ROOT / "S9_Final.ipynb").read_text(encoding="utf-8"))
    changes = {TRAINS: LOADS, FEW: FEWER} | replaced
    for old, new in changes.items():
        code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        cells = [cell for cell in code if old in "".join(cell["source"])]
        assert len(cells) == 1, old
        cells[0]["source"] = ["".join(cells[0]["source"]).replace(old, new)]
    path = tmp_path / "lesson" / "copy.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps(book))
    (tmp_path / "bootstrap.py").symlink_to(ROOT / "bootstrap.py")  # no need to clone it
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RECIPE": "sprint"}
    options = ["--nbval", "-q", "-rf", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    pipes = dict(capture_output=True, text=True, timeout=900)
    run = subprocess.run(command, cwd=path.parent, env=environment, **pipes)
    return run.returncode, run.stdout


@pytest.mark.slow
def test_the_main_notebook_passes_typed_into_a_cell(cifar, tmp_path, monkeypatch):
    """Jupyter sets these for every program that a cell starts; a progress bar must not take it for
    a reader.
    """
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/S9_Final.ipynb")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    code, said = execute(tmp_path)
    assert code == 0, said


READ = "data = dataset.load_cifar10()"
PASSES = "assert result.accuracy >= 0.85"
CONFUSES = 'assert {one, other} == {"cat", "dog"}'
RECIPE = "    lr=0.05,\n"
EQUALS = 'assert math.isclose(ours, epoch["train_loss"]'


UNTRAINED = (TRAINS, f'{LOADS}\nnet = model.MODELS["net"]()')
OTHER_LABELS = (READ, f"{READ}\ndata.test_labels[:] = data.test_labels[::-1]")
OTHER_NAMES = (READ, f"{READ}\ndataset.CLASSES = dataset.CLASSES[::-1]")
OTHER_RATE = (RECIPE, "    lr=0.06,\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "fails"),
    [
        pytest.param([UNTRAINED], [PASSES], id="untrained"),
        pytest.param([OTHER_LABELS], [PASSES], id="labels of other images"),
        # Each of these two fails in a cell that the other one leaves alone.
        pytest.param([OTHER_NAMES, OTHER_RATE], [CONFUSES, EQUALS], id="names, and another loop"),
    ],
)
def test_a_broken_notebook_fails(faults, fails, cifar, tmp_path):
    code, said = execute(tmp_path, **dict(faults))
    assert code == 1, said
    assert [line for line in fails if line not in said] == []


def first_cell(name):
    """The code of the cell that fetches the course."""
    cells = json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]
    return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def run_first_cell(folder, code, **environment):
    """What Python says of `code` in `folder`, then of where it is and what it can import."""
    code += "\nimport model, train; print(os.getcwd()); print(model.__file__)"
    command = [sys.executable, "-c", code]
    environment = os.environ | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["S9_Final.ipynb", "experiments/06_sprint.ipynb"])
def test_the_first_cell_finds_the_course(name):
    run = run_first_cell((ROOT / name).parent, first_cell(name))
    assert run.stdout.splitlines() == [str(ROOT), str(ROOT / "model.py")], run.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone")
def test_where_the_course_is_not_there_the_first_cell_clones_it(tmp_path):
    """As in Colab: an empty folder. GitHub's address stands for this clone here."""
    code = first_cell("S9_Final.ipynb")
    address = re.search(r"https://\S+", code)[0]
    config, folder = tmp_path / "config", tmp_path / "empty"
    config.write_text(
        f'[url "file://{ROOT}"]\n insteadOf = {address}\n[safe]\n directory = *\n'
    )  # safe: also where the folder is another user's
    folder.mkdir()
    instead = {"GIT_CONFIG_GLOBAL": str(config), "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
    run = run_first_cell(folder, code, **instead)
    assert run.stdout.splitlines() == [
        str(folder / "course"),
        str(folder / "course" / "model.py"),
    ]


def test_what_colab_lacks_is_pinned(monkeypatch):
    sys.path.insert(0, str(ROOT))
    import bootstrap

    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert bootstrap.missing() == []  # nothing here
    assert [line for line in lines if line.startswith(bootstrap.LACKED)] == [
        "albumentations==2.0.8",
        "tabulate>=0.9",
        "captum>=0.9",
        "torchsummary==1.5.1",
    ]
    monkeypatch.setattr(bootstrap, "version", lambda name: "1.4.24")  # what a host may have
    assert bootstrap.missing() == ["albumentations==2.0.8", "torchsummary==1.5.1"]


def test_a_misspelt_recipe_in_the_environment_is_one_sentence():
    command = [sys.executable, "-m", "tools.run_notebook", "S9_Final.ipynb"]
    environment = os.environ | {"RECIPE": "sprnt"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "RECIPE: Unknown recipe 'sprnt'; did you mean sprint" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("PRECISION", "bf16", "variable PRECISION", marks=pytest.mark.real),
        ("CIFAR10_ROOT", "/dev/null/no", "no"),
    ],
)
def test_other_faults_in_the_environment_are_one_sentence(name, value, message):
    command = [sys.executable, "-m", "tools.run_notebook", "S9_Final.ipynb"]
    environment = os.environ | {name: value}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("run_notebook: ") and message in run.stderr
    assert "RECIPE" not in run.stderr and run.stderr.count("\n") == 1


def test_an_empty_cell_is_no_obstacle(tmp_path):
    """Jupyter leaves one at the end of most notebooks."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in ("print(1)", "")])
    path = tmp_path / "a.ipynb"
    nbformat.write(book, path)
    command = [sys.executable, "-m", "tools.run_notebook", "--save", path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert nbformat.read(path, 4).cells[0].outputs[0].text == "1\n"
