"""Every command line, as it is typed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from conftest import ROOT

import dataset
import train
from core.recipes import RECIPES
from model import MODELS


@pytest.fixture
def course(tmp_path):
    """A copy of the course without records: what a command writes there is the test's."""
    for path in [*ROOT.glob("*.py"), ROOT / "requirements.txt"]:
        shutil.copy(path, tmp_path)
    for name in ("core", "experiments", "tools"):
        ignored = shutil.ignore_patterns("*.ipynb", "__pycache__", "*checkpoints")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    return tmp_path


def start(course, command):
    """The process of `python <command>` in the copy, with this machine's data."""
    environment = os.environ | {"CIFAR10_ROOT": str(dataset.data_root())}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    words = [sys.executable, *command.split()]
    return subprocess.Popen(words, cwd=course, env=environment, **pipes)


def typed(course, command):
    """(exit status, stdout, stderr) of `python <command>`."""
    process = start(course, command)
    out, errors = process.communicate(timeout=600)
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def quickly():
    """`typed`, for what computes nothing: tests/warm.py saves each command the imports."""
    if sys.platform != "linux":  # elsewhere libraries may not survive a fork
        yield typed
        return
    words = [sys.executable, str(ROOT / "tests" / "warm.py")]
    environment = os.environ | {"CIFAR10_ROOT": str(dataset.data_root())}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen(words, env=environment, **pipes)

    def answer(course, command):
        print(json.dumps([str(course), *command.split()]), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield answer
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train.py --model nett", "Unknown model 'nett'; did you mean net"),
        ("train.py --recipe sprnt", "Unknown recipe 'sprnt'; did you mean sprint"),
        ("train.py --model zzz", "Unknown model 'zzz'; known: net, frontier"),
        ("train.py --epochs -3", "'-3' is not a whole number of 1 or more"),
        ("train.py --epochs many", "'many' is not a whole number of 1 or more"),
        ("train.py --epochs 0", "'0' is not a whole number of 1 or more"),
        ("train.py --device gpu", "Unknown device 'gpu'; known: cpu, cuda, mps"),
        ("train.py --sede 1", "unrecognized arguments: --sede"),
        ("dataset.py --bench", "unrecognized arguments: --bench"),
        ("-m experiments.sweep", "the following arguments are required: table"),
        ("-m experiments.sweep no.py", "no.py is not a table of runs"),
        ("-m experiments.sweep no.py --jobs 0", "'0' is not a whole number of 1 or more"),
        (
            "-m experiments.sweep no.py --jobs 2 --dask x",
            "--dask: not allowed with argument --jobs",
        ),
        ("-m tools.bench_engines --images 0", "'0' is not a whole number of 1 or more"),
        ("-m tools.bench_sprint --seeds x", "'x' is not a whole number of 1 or more"),
        ("-m tools.readme all", "unrecognized arguments: all"),
        ("-m tools.badges", "git remote add origin https://github.com/OWNER/NAME.git"),
        ("tools/grade.py no.py", "There is no no.py; give a file.py, file.py:Network or a folder"),
        ("-m tools.grade model.py --epochs 0", "'0' is not a whole number of 1 or more"),
        ("-m tools.run_notebook no.ipynb", "there is no notebook no.ipynb"),
        ("-m tools.run_notebook model.py", "model.py is no notebook"),
    ],
)
def test_bad_input_is_one_sentence_and_a_failure(command, message, course, quickly):
    files = sorted(course.rglob("*.[jp][st]*"))
    status, _, errors = quickly(course, command)
    assert status != 0
    assert message in errors
    assert errors.strip().count("\n") == 0
    assert sorted(course.rglob("*.[jp][st]*")) == files


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(course, quickly):
    _, _, errors = quickly(course, "train.py --device cuda")
    reason = "finds none here" if torch.backends.cuda.is_built() else "is built without CUDA"
    assert f"'cuda' was asked for, but torch {reason}" in errors
    assert "use --device cpu, or leave --device out" in errors


COMMANDS = ["train.py", "dataset.py", "-m experiments.sweep"]
COMMANDS += [
    f"-m tools.{path.stem}"
    for path in sorted((ROOT / "tools").glob("*.py"))
    if "def main(" in path.read_text(encoding="utf-8")
]
COMMANDS += ["tools/grade.py"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, course, quickly):
    status, out, errors = quickly(course, f"{command} --help")
    assert (status, errors) == (0, "")
    assert out.startswith("usage: ")


def test_list(course, quickly):
    _, listed, _ = quickly(course, "train.py --list")
    models, recipes = listed.removeprefix("models\n").split("recipes\n")
    for part, names in ((models, MODELS), (recipes, RECIPES)):
        assert [line.split()[0] for line in part.splitlines()] == list(names)
    assert "154,544" in listed


FEW = """

_all = load_cifar10


def load_cifar10(**options):
    return Cifar10(*(part[:6000] for part in _all(**options)))
"""


@pytest.mark.slow
def test_a_run_is_stopped_and_gone_on_with_as_it_says(course, cifar):
    """Ctrl-C keeps finished epochs; the command that it prints ends with a record."""
    with (course / "dataset.py").open("a", encoding="utf-8") as file:
        file.write(FEW)  # an epoch of all images takes a minute and more
    command = "train.py --model net --recipe sprint --epochs 3 --device cpu"
    name = "net-sprint-3epochs-seed0"
    checkpoint = course / "checkpoints" / f"{name}.pt"
    process = start(course, command)
    while not checkpoint.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in errors
    again = errors.split("go on: python ")[1].strip()
    assert again == f"{command} --resume"
    assert not list(course.glob("results/*.json"))

    status, out, errors = typed(course, again)
    assert status == 0, errors
    record = json.loads((course / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert "Epoch 1/3" not in out
    assert f"{record['test_accuracy']:.2%} at the last epoch" in out
    assert record["test_accuracy"] > 0.15
    assert (course / "weights" / f"{name}.pt").exists()


def test_ctrl_c_before_the_first_epoch_says_so(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "load_cifar10", interrupted)
    with pytest.raises(SystemExit, match="nothing to resume"):
        train.main(["--model", "net"])
    monkeypatch.setattr(train, "load_weights", interrupted)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "net-sprint-seed0.pt").touch()
    with pytest.raises(SystemExit, match="nothing to resume"):
        train.main(["--model", "net", "--export", "onnx"])


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_an_unfinished_run_is_not_replaced_in_silence(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "train_and_record", lambda *_, **__: sys.exit("trained"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "net-sprint-seed0.pt").touch()
    with pytest.raises(SystemExit, match="trained"):
        train.main(["--model", "net", *flags])
    said = "checkpoints/net-sprint-seed0.pt holds an unfinished run" in capsys.readouterr().out
    assert said is not bool(flags)


def test_a_run_writes_record_weights_and_checkpoint(small, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "load_cifar10", lambda progress: small)
    words = "--model net --recipe sprint --epochs 1 --seed 3 --device cpu".split()
    train.main(words)
    name = "net-sprint-1epochs-seed3"
    record = json.loads((tmp_path / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["recipe"]["epochs"]) == (3, 1)
    network, same = train.load_weights(tmp_path / "weights" / f"{name}.pt")
    assert same == record
    images, labels = small.test_images, small.test_labels
    again = train.evaluate(network, images, labels, precision=record["precision"])
    assert again.accuracy == pytest.approx(record["test_accuracy"], abs=0.004)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files == [f"{name}.json", f"{name}.pt"]  # what was there to be resumed is finished
    with pytest.raises(SystemExit, match=r"There is no checkpoint .* start without --resume"):
        train.main([*words, "--resume"])


def test_the_app_without_its_extra_says_what_to_install(course):
    command = [sys.executable, "-c", "import sys; sys.modules['gradio'] = None; import app"]
    run = subprocess.run(command, cwd=course, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == ("app.py needs gradio: python -m pip install -r requirements-app.txt\n")


def test_a_notebook_becomes_a_page(course):
    """What `make run` does with the main one."""
    cell = nbformat.v4.new_code_cell("print(6 * 7, 'pages')")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), course / "mine.ipynb")
    status, out, _ = typed(course, "-m tools.run_notebook mine.ipynb")
    assert (status, out.splitlines()[-1].endswith("mine.html in a browser.")) == (0, True)
    assert "42 pages" in (course / "mine.html").read_text(encoding="utf-8")
    cell.source = "1 / 0"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), course / "broken.ipynb")
    status, _, errors = typed(course, "-m tools.run_notebook broken.ipynb")
    assert (status, "a cell of broken.ipynb failed; nothing was written" in errors) == (1, True)
    assert not (course / "broken.html").exists()


FAILING = {  # what is wrong with a notebook: what is said
    "no kernel": "No such kernel named conda-env; choose python3 in faulty.ipynb",
    "dies": "its kernel died .too little memory..; nothing was written",
    "no page": "Cannot write .*faulty.html",
    "a list": "faulty.ipynb is no notebook",
}


@pytest.mark.parametrize("fault", FAILING)
def test_a_notebook_that_cannot_be_executed_is_one_sentence(fault, course, quickly):
    cell = nbformat.v4.new_code_cell("import os; os.abort()" if fault == "dies" else "1")
    book = nbformat.v4.new_notebook(cells=[cell])
    if fault == "no kernel":
        book.metadata.kernelspec = dict(name="conda-env", display_name="mine", language="python")
    nbformat.write(book, course / "faulty.ipynb")
    if fault == "a list":
        (course / "faulty.ipynb").write_text("[]")
    if fault == "no page":
        (course / "faulty.html").mkdir()
    status, _, errors = quickly(course, "-m tools.run_notebook faulty.ipynb")
    if fault == "no page":
        (course / "faulty.html").rmdir()
    assert status == 1 and re.fullmatch(f"run_notebook: .*{FAILING[fault]}.*", errors.strip())
