"""A class with every fault is graded: each gets a report that says so, and the next its grade."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from conftest import ROOT

from core import limits
from core.common import ClaimedError, TrainingError
from tools import grade, grading, pages

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is graded there")
GOOD = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""
WHOLE = GOOD.replace(
    "self.conv(x).relu().mean((2, 3))", "nn.AvgPool2d(15)(self.conv(x)).flatten(1)"
)
SHAPES = "from torch import nn\nNetwork = lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 9))"
VIEW = GOOD.replace("(8, 10)", "(1800, 10)").replace(".relu().mean((2, 3))", ".view(-1, 1800)")
# name: (the file, words of the report's reason)
FAULTS = {
    "a_syntax": ("def f(:", ["SyntaxError in line 1: invalid syntax"]),
    "b_shape:Network": (SHAPES, ["logits"]),
    "c_memory": ("x = bytearray(10 * 2**30)", ["more memory than the limit, 4 GiB", "line 1"]),
    "d_exit": ("import sys\nsys.exit('bye')", ["sys.exit(bye) in line 2", "imported"]),
    "e_processes": (
        "import os, time\nfor _ in range(7): os.fork()\ntime.sleep(99)",
        ["more than 64 processes", "imported"],
    ),
    "f_writing": (
        "from core.common import ROOT\n(ROOT / 'model.py').write_text('spoiled')",
        ["its own folder alone", "PermissionError in line 2", "model.py"],
    ),
    "i_argument": (
        GOOD.replace("class Network", "class Mine").replace(", 3, stride=2", ""),
        ["TypeError in line 7", "missing 1 required positional argument: 'kernel_size'"],
    ),
    "j_signal": ("import os\nos.kill(os.getpid(), 40)", ["killed by the signal 40"]),
    "k_no_character": ("raise RuntimeError('caf\\udce9')", ["RuntimeError", "caf"]),
    "l_whole": (WHOLE, []),
    "o_view": (VIEW, []),
    "m_file": (
        "with open('large', 'wb') as file:\n    file.write(bytes(2**28 + 1))",
        ["larger than the limit", "OSError in line"],
    ),
    "n_printing": ("while True: print('x' * 10**6)", ["printed more than anyone could read"]),
    "g_two": (GOOD + "class A(Network): pass\nclass B(Network): pass", []),  # Network is usual
    "h_printing": ("for i in range(200_000): print('line', i)\n" + GOOD, []),
}
TERMS = dict(epochs=1, minutes=3, memory=4, device="cpu")


@pytest.fixture(scope="module")
def graded(small, tmp_path_factory):
    """(folder of the reports, {name: report}) of a class with every fault."""
    folder = tmp_path_factory.mktemp("class")
    words = []
    for name, (source, _) in FAULTS.items():
        path = folder / f"{name.split(':')[0]}.py"
        path.write_text(source)
        words.append(str(folder / f"{name.split(':')[0]}.py") + name[len(path.stem) :])
    out = folder / "grades"
    reports = grade.grade_class(words, grading.terms_of(**TERMS), out, small)
    return out, {report["name"]: report for report in reports}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, words) in FAULTS.items() if words])
def test_a_fault_gets_a_report_that_says_so(name, graded):
    if name == "f_writing" and not limits.protects():
        pytest.skip("this system cannot forbid writing")
    report = graded[1][name.split(":")[0]]
    assert report["verdict"] == "no grade"
    for word in FAULTS[name][1]:
        assert word in report["reason"]
    assert report["reason"].endswith(".")
    assert (ROOT / "model.py").read_text(encoding="utf-8") != "spoiled"


@pytest.mark.slow
def test_the_next_one_is_graded(graded):
    out, reports = graded
    report = reports["g_two"]
    assert (report["verdict"], report["network"], report["parameters"]) == ("fail", "Network", 314)
    kept = {rule["rule"]: rule["passed"] for rule in report["rules"]}
    assert kept["fewer than 200,000 parameters"]
    assert not kept["test accuracy >= 85 %"]
    p = report["accuracy"]
    assert report["standard_error"] == pytest.approx((p * (1 - p) / 300) ** 0.5)
    assert p == pytest.approx(report["history"][-1]["test_accuracy"])
    right = sum(report["confusion"][label][label] for label in range(10))
    assert right == round(300 * p)
    assert json.loads((out / "g_two.json").read_text(encoding="utf-8")) == report


@pytest.mark.slow
def test_whole_images_and_another_memory_order_where_a_network_needs_them(graded):
    notes = "It takes images of 32x32 alone", "does not run in the memory order channels-last"
    for name, note in zip(("l_whole", "o_view"), notes, strict=True):
        report = graded[1][name]
        assert (report["verdict"], report["accuracy"] is None) == ("fail", False)
        assert note in report["notes"][-1]


@pytest.mark.slow
def test_many_printed_lines_are_told_not_kept(graded):
    report = graded[1]["h_printing"]
    assert report["verdict"] == "fail"
    assert "It printed 200,000 lines" in report["notes"][0]
    assert len(report["output"]["text"]) < 9000
    assert report["output"]["text"].startswith("line 0\nline 1\n")
    assert report["output"]["text"].endswith("line 199999\n")
    assert report["accuracy"] == graded[1]["g_two"]["accuracy"]


@pytest.mark.slow
def test_pages(graded):
    out, reports = graded
    overview = (out / "index.html").read_text(encoding="utf-8")
    assert f"Submissions graded: {len(FAULTS)}" in overview
    for name, report in reports.items():
        assert f'href="{name}.html"' in overview
        page = (out / f"{name}.html").read_text(encoding="utf-8")
        assert report["verdict"] in page
        assert "http" not in page  # it stands alone
    good = (out / "g_two.html").read_text(encoding="utf-8")
    assert good.count("<img") == 3
    assert "Rule by rule" in good
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_nothing_is_graded_twice(graded, small, capsys, monkeypatch):
    out, reports = graded
    monkeypatch.setattr(grading, "run", None)
    path = str(out.parent / "g_two.py")
    again = grade.grade(path, out=out, data=small, **TERMS)
    assert again == reports["g_two"]
    (out / "index.html").unlink()
    grade.grade(path, out=out, data=small, **TERMS)
    assert (out / "index.html").exists()
    grade.grade_class([path], grading.terms_of(**TERMS), out, small)
    assert "[1/1] g_two: reported already" in capsys.readouterr().out
    with pytest.raises(TypeError):  # another seed is another run
        grade.grade(path, out=out, data=small, **TERMS, seed=1)


LOOP = """
import subprocess, sys
from pathlib import Path
script = "import time; time.sleep(600)  # " + sys.argv[1]
subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
while True:
    pass
"""


def sleeping(word):
    """Processes that the endless loop of a test has started."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if any(f"# {word}" in part for part in command)]


@pytest.mark.slow
def test_an_endless_loop_ends_with_all_that_it_started(small, tmp_path):
    file = tmp_path / "endless.py"
    file.write_text(LOOP.replace("sys.argv[1]", f"'{tmp_path.name}'"))
    terms = TERMS | {"minutes": 0.05}
    report = grade.grade(file, out=tmp_path / "grades", data=small, **terms)
    assert report["reason"] == (
        "Stopped while the file was imported: it was not done after 3 s, the limit."
    )
    assert not sleeping(tmp_path.name)


CLASS = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import numpy as np
import dataset
from tools import grade, grading, pages

with np.load(sys.argv[1]) as file:
    data = dataset.Cifar10(*(file[name] for name in dataset.Cifar10._fields))
grading.load_cifar10 = lambda: data
grade.main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, getattr(signal, "SIGKILL", None)])
def test_a_broken_off_class_leaves_nothing_running(number, small, tmp_path):
    """And no report; the next start grades it: see test_nothing_is_graded_twice."""
    np.savez(tmp_path / "small.npz", **small._asdict())
    file, out = tmp_path / "endless.py", tmp_path / "grades"
    file.write_text(LOOP.replace("sys.argv[1]", f"'{tmp_path.name}'"))
    command = [sys.executable, "-c", CLASS.format(root=str(ROOT)), str(tmp_path / "small.npz")]
    words = [str(file), "--out", str(out), "--epochs", "1"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command + words, **pipes)
    until(lambda: sleeping(tmp_path.name) or process.poll() is not None)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    if number == signal.SIGINT:
        assert errors.strip().endswith("Go on with the same command.")
        assert "Traceback" not in errors
    until(lambda: not sleeping(tmp_path.name))
    assert not list(out.glob("*.json"))


def until(true, seconds=240):
    for _ in range(10 * seconds):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.mark.slow
def test_a_test_cell_of_otter_grader(small, tmp_path, monkeypatch):
    """The one in CONTRIBUTING.md."""
    test_files = pytest.importorskip("otter.test_files")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(from otter.*?)```", text, re.DOTALL)
    quick = code.replace('grade("network.py")', 'grade("network.py", epochs=1)')
    assert quick != code
    (tmp_path / "test.py").write_text(quick)
    (tmp_path / "network.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grading, "load_cifar10", lambda: small)
    file = test_files.ExceptionTestFile.from_file("test.py")
    file.run({})
    small_enough, every_rule = file.test_case_results
    assert small_enough.passed
    assert not every_rule.passed
    assert "rules are not kept" in every_rule.message


def test_what_is_left_out_of_a_folder_is_named(tmp_path):
    for name in ("a.py", "b.ipynb", ".hidden", "grades.csv"):
        (tmp_path / name).write_text("")
    for folder in ("carol", "grades"):
        (tmp_path / folder).mkdir()
    assert [
        Path(name).name for name in grading.left_out([str(tmp_path), "no.py"], tmp_path / "grades")
    ] == [
        "b.ipynb",
        "carol",
        "grades.csv",
    ]
    with pytest.raises(ValueError, match=r"a folder for each student is given as .*/\*$"):
        grading.submissions_of([str(tmp_path / "carol")])
    for word in ("grades.csv:Net", "carol:Net"):
        with pytest.raises(ValueError, match="is no Python file, nor a folder with some"):
            grading.submissions_of([str(tmp_path / "a.py"), str(tmp_path / word)])
    words = [str(tmp_path / name) for name in ("a.py", "carol", "grades.csv")]
    assert [one.path.name for one in grading.submissions_of(words)] == ["a.py"]
    left_out = grading.left_out(words, tmp_path / "grades")
    assert [Path(name).name for name in left_out] == ["carol", "grades.csv"]


def test_a_machine_that_cannot_begin_makes_no_report(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "net.py").write_text(GOOD)
    monkeypatch.setattr(grading.sys, "executable", shutil.which("false"))
    with pytest.raises(TrainingError, match=r"net.py: Stopped before it began.*It said: nothing"):
        grade.grade(tmp_path / "net.py", out=tmp_path / "grades", data=small, **TERMS)
    (tmp_path / "other.py").write_text(GOOD)
    reports = grade.grade_class([str(tmp_path)], grading.terms_of(**TERMS), tmp_path, small)
    assert reports == []
    assert capsys.readouterr().out.count("no report now: ") == 2  # the class goes on
    assert not list((tmp_path / "grades").glob("*.json"))


def test_no_submission_can_change_the_images_of_the_next(small):
    with grading.opened(small) as images, pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(images.file.fileno(), b"spoiled", 0)


def test_a_class_without_a_report_does_not_end_well(small, tmp_path, monkeypatch, capsys):
    def elsewhere(*_):
        raise ClaimedError("another process is at it")

    (tmp_path / "net.py").write_text(GOOD)
    monkeypatch.setattr(grade, "grade_one", elsewhere)
    monkeypatch.setattr(grading, "load_cifar10", lambda: small)
    with pytest.raises(SystemExit, match="no report for 1 of 1; go on"):
        grade.main([str(tmp_path), "--out", str(tmp_path / "grades")])
    assert "in a browser" not in capsys.readouterr().out


def test_a_teachers_own_verdict_stays_in_the_overview(tmp_path):
    report = {"name": "net", "verdict": "pass (late)", "reason": "By me.", "accuracy": None}
    report |= dict.fromkeys(("standard_error", "parameters"), None) | {"seconds": 1}
    (tmp_path / "net.json").write_text(json.dumps(report))
    (tmp_path / "other.json").write_text('{"verdict": "pass"}')
    pages.write_overview(tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Submissions graded: 1<" in text
    assert "0 pass, 0 fail, 0 no grade, 1 pass (late)." in text


def test_a_limit_that_nobody_set_is_the_machines_and_makes_no_other_report(small, monkeypatch):
    [one], terms = grading.submissions_of([__file__]), grading.terms_of()
    seen = []
    with grading.opened(small) as images:
        for gigabytes in (4, 64):
            there = SimpleNamespace(total=gigabytes * 2**30)
            monkeypatch.setattr(psutil, "virtual_memory", lambda there=there: there)
            seen.append((terms.allowed["memory"] / 2**30, grading.asked(one, terms, images)))
    assert [memory for memory, _ in seen] == [3, 8]
    assert seen[0][1] == seen[1][1]


@pytest.mark.slow
def test_what_a_submission_does_is_told_as_it_comes(small, tmp_path):
    (tmp_path / "network.py").write_text(GOOD)
    told = []
    options = TERMS | dict(epochs=2, data=small, out=tmp_path / "grades")
    grade.grade(
        tmp_path / "network.py",
        tell=lambda heard: told.append((heard.stage, len(heard.history))),
        **options,
    )
    assert [told.count(("training", epochs)) > 0 for epochs in (0, 1, 2)] == [True] * 3
    assert told[-1] == ("testing", 2)
