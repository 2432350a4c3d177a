"""How a class is graded, without a process of any submission: what is asked, shared, believed."""

import errno
import io
import itertools
import json
import os
import sys

import numpy as np
import pytest
from conftest import ROOT
from torch import nn

from core.common import TrainingError, claimed
from tools import grade, grading, pages, submission
from tools.verdict import Heard, minutes, report_of


def test_what_torch_refuses_is_told_with_its_line():
    """Where torch is installed inside of the course, too, as `make` does it."""
    code = compile("from torch import nn\nnn.Conv2d(3, 16, 3, groups=2)", "mine.py", "exec")
    with pytest.raises(ValueError) as raised:
        exec(code, {})
    said = submission.sentence(raised.value, "mine.py")
    assert said == "ValueError in line 2: in_channels must be divisible by groups"


def test_images_are_read_from_their_beginning(small):
    """A second reader of an open file begins where the last one stopped."""
    with grading.opened(small) as images:
        for _ in range(2):
            found = submission.read_data(images.file.fileno())
            assert all(np.array_equal(a, b) for a, b in zip(found, small, strict=True))
            assert os.lseek(images.file.fileno(), 0, os.SEEK_CUR) > 0  # it is the same place


def test_another_device_is_graded_anew(small, tmp_path):
    [one] = grading.submissions_of([__file__])
    with grading.opened(small) as images:
        terms = (grading.terms_of(device=name) for name in ("cpu", "cuda"))
        on = [grading.asked(one, each, images) for each in terms]
    assert on[0] != on[1]


def test_other_test_images_are_graded_anew(small, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "run", lambda *_: made_up(str(next(numbers))))
    numbers = itertools.count()
    (tmp_path / "a.py").write_text("")
    hidden = small._replace(test_images=255 - small.test_images)
    for data, number in ((small, "0"), (small, "0"), (hidden, "1")):
        [report] = grade.grade_class([str(tmp_path)], grading.terms_of(), tmp_path / "o", data)
        assert report["reason"] == number


def test_a_report_that_another_class_has_just_written_stays(small, tmp_path, monkeypatch, capsys):
    """Two teachers, one folder: both submissions are called `net`, and one is graded first."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(f"# {name}")
    out, real = tmp_path / "out", grading.claimed

    def claimed_late(path, name):
        monkeypatch.setattr(grading, "claimed", real)
        grade.grade_class([str(tmp_path / "a")], grading.terms_of(), out, small)
        return real(path, name)

    monkeypatch.setattr(grading, "run", lambda one, *_: made_up(one.source.decode()))
    monkeypatch.setattr(grading, "claimed", claimed_late)
    grade.grade_class([str(tmp_path / "b")], grading.terms_of(), out, small)
    assert "is another file's by now; repeat the command" in capsys.readouterr().out
    assert json.loads((out / "net.json").read_text(encoding="utf-8"))["reason"] == "# a"
    grade.grade_class([str(tmp_path / "b")], grading.terms_of(), out, small)
    assert json.loads((out / "b-net.json").read_text(encoding="utf-8"))["reason"] == "# b"


def test_a_disk_that_is_too_full_for_the_images(small, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(grading.tempfile, "NamedTemporaryFile", full)
    sentence = pytest.raises(TrainingError, match=r"No space left on device.*set TMPDIR")
    with sentence, grading.opened(small):
        pass


def test_other_processes_cannot_be_handed_data(small, tmp_path):
    with pytest.raises(ValueError, match="leave out data, or jobs and dask"):
        grade.grade_class([__file__], grading.terms_of(), tmp_path, small, jobs=2)


def made_up(words):
    """What the process of a submission leaves, with these words in it."""
    return {
        "verdict": "no grade",
        "reason": words,
        "notes": [words],
        "rules": [],
        "history": [],
        "output": {"text": words, "bytes": 1, "lines": 1},
        "seconds": 1.0,
        "memory": 1,
        "network": words,
        **dict.fromkeys(("accuracy", "standard_error", "parameters", "receptive_field", "device")),
    }


def test_a_broken_off_class_goes_on_where_it_stopped(small, tmp_path, monkeypatch, capsys):
    graded = []

    def run(one, *_):
        graded.append(one.path.stem)
        if graded == ["a", "b"]:
            raise KeyboardInterrupt
        return made_up("all in vain")

    monkeypatch.setattr(grading, "run", run)
    monkeypatch.setattr(grading, "load_cifar10", lambda: small)
    for name in "abc":
        (tmp_path / f"{name}.py").write_text("")
    words = [str(tmp_path), "--out", str(tmp_path / "grades")]
    with pytest.raises(SystemExit, match="Go on with the same command"):
        grade.main(words)
    assert "a" in (tmp_path / "grades" / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    (tmp_path / "grades" / "c.json").write_text('{"asked"')  # damaged: as if there were none
    grade.main(words)
    assert graded == ["a", "b", "b", "c"]
    first, *_, last, hint = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/3] a: reported already (")
    assert last.startswith("[3/3] c: no grade. all in vain (")
    assert "index.html in a browser" in hint
    (tmp_path / "a.py").write_text("# another file")
    grade.main(words)
    assert graded[4:] == ["a"]


def test_two_graders_share_a_class(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.py").write_text("")
    out = tmp_path / "grades"
    with claimed(out / ".a.lock", "a"):
        reports = grade.grade_class([str(tmp_path)], grading.terms_of(), out, small)
    assert reports == []
    assert "[1/1] a: no report now: Another process is at a" in capsys.readouterr().out


@pytest.mark.slow
def test_two_at_a_time(cifar, tmp_path):
    """Each process reads the images itself, so these are the real ones."""
    pytest.importorskip("joblib")
    (tmp_path / "a.py").write_text("def (")
    (tmp_path / "b.py").write_text("raise KeyError('it')")
    (tmp_path / "c.py").write_text("import sys\nsys.exit(3)")
    out = tmp_path / "grades"
    grade.main([str(tmp_path), "--jobs", "2", "--out", str(out)])
    reasons = [
        json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["reason"] for name in "abc"
    ]
    for reason, word in zip(reasons, ("SyntaxError", "KeyError", "sys.exit(3)"), strict=True):
        assert word in reason
    assert all(f"{name}.html" in (out / "index.html").read_text(encoding="utf-8") for name in "abc")


def test_which_files_are_meant(tmp_path):
    for name in ("one/net.py", "two/net.py", "three.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    words = [tmp_path / "one", tmp_path / "two" / "net.py", f"{tmp_path}/three.py:Net"]
    found = grading.submissions_of([*map(str, words), str(tmp_path / "one")])
    assert [one.network for one in found] == [None, None, "Net"]
    assert grading.names_of(found, tmp_path) == ["one-net", "two-net", "three"]
    for hidden in ("._three.py", ".#three.py"):
        (tmp_path / hidden).symlink_to("nowhere")
    (tmp_path / "four.py").mkdir()
    assert [one.path.name for one in grading.submissions_of([str(tmp_path)])] == ["three.py"]
    with pytest.raises(ValueError, match="/one holds 2 files; give one"):
        (tmp_path / "one" / "other.py").write_text("")
        grade.grade(tmp_path / "one")


def test_a_submission_keeps_the_name_of_its_report(tmp_path):
    """Graded alone, then with the class: one report, not two."""
    for name in ("anna", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text("")
    both = grading.submissions_of([str(tmp_path / name) for name in ("anna", "bob")])
    report = {"file": str(both[0].path), "asked": {"sha256": "", "network": None}}
    (tmp_path / "net.json").write_text(json.dumps(report))
    assert grading.names_of(both, tmp_path) == ["net", "bob-net"]


def test_a_report_does_not_give_way_to_another_students(tmp_path):
    for name in ("anna", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text("")
    anna, bob = (grading.submissions_of([str(tmp_path / name)]) for name in ("anna", "bob"))
    assert grading.names_of(anna, tmp_path) == grading.names_of(bob, tmp_path) == ["net"]
    report = {"file": str(anna[0].path), "asked": {"sha256": grading.digest(anna[0])}}
    (tmp_path / "net.json").write_text(json.dumps(report))
    assert grading.names_of(anna, tmp_path) == ["net"]
    assert grading.names_of(bob, tmp_path) == ["bob-net"]  # the same text, and both are there
    (tmp_path / "anna").rename(tmp_path / "moved")
    moved = grading.submissions_of([str(tmp_path / "moved")])
    assert grading.names_of(moved, tmp_path) == ["net"]
    (tmp_path / "moved" / "net.py").write_text("# another text")
    moved = grading.submissions_of([str(tmp_path / "moved")])
    assert grading.names_of(moved, tmp_path) == ["moved-net"]


@pytest.mark.parametrize("reason", ["caf\udce9", "\ud800", "\x1b]0;title\x07"])
def test_what_a_submission_says_cannot_break_the_class_off(reason, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", screen)
    grade.Progress(1).finished("a", reason, True)
    line = screen.buffer.getvalue().decode()
    assert "?" in line and line.rstrip("\n").isprintable()


FOUND = {  # what a file defines: what is meant, or what is said
    "class Swish(nn.Module): pass\nclass Mine(Net): pass": "Mine",
    "class Block(nn.Module):\n  def __init__(self, c): super().__init__()\n"
    "class Mine(nn.Module):\n  def __init__(self): Blok(3)": "Mine",
    "class Swish(nn.Module): pass\nclass Loss(nn.Module): pass": "more than one network, Swish, L",
    "class A(Net): pass\nclass B(Net): pass": "more than one network, A, B; name the one",
    "class A(nn.Module):\n  def __init__(self, c): pass\nclass B(A): pass": "No network was found",
}


@pytest.mark.parametrize(("text", "said"), FOUND.items())
def test_which_network_is_meant(text, said, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"import torch.nn as nn\nimport model\nNet = model.Net\n{text}")
    try:
        found, _ = submission.find(submission.load(path), None)
    except submission.Refused as error:
        found = str(error)
    assert said in found


def test_a_network_that_grows_each_time_it_is_built_is_refused():
    widths = []

    def grows():
        widths.append(8)
        return nn.Linear(3, sum(widths))

    with pytest.raises(submission.Refused, match="each time: 32 parameters, then 64"):
        submission.rebuilt("Mine", grows, grows())
    assert len(submission.rebuilt("Mine", nn.Identity, nn.Identity()).state_dict()) == 0


def test_names_that_files_can_have(tmp_path):
    for name in ("index.py", "M\udcfcller.py", "__init__.py", f"{'ж' * 118}.py"):
        (tmp_path / name).write_text("")
    found = grading.submissions_of([str(tmp_path)])
    names = sorted(grading.names_of(found, tmp_path))
    assert names[:2] == ["M?ller", "index_"]  # index.html is the overview
    assert len(names) == 3 and names[2].startswith(f"{'ж' * 75}-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("no.py", "There is no no.py; give a file.py, file.py:Network or a folder"),
        ("no.py:Net", "There is no no.py"),
        ("README.md", "README.md is no Python file, nor a folder"),
        ("images", "images is no Python file, nor a folder"),
        ("model.py:1", "'1' is no name of a class"),
        ("model.py --recipe sprnt", "Unknown recipe 'sprnt'; did you mean sprint"),
        ("model.py --minutes 0", "minutes is 0.0; it must be a number greater than 0"),
        ("model.py --memory nan", "memory is nan; it must be a number greater than 0"),
        ("model.py --seed -1", "seed is -1; it must be a whole number"),
    ],
)
def test_bad_input_is_one_sentence(words, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=message.replace("(", r"\(")) as stop:
        grade.main(words.split())
    assert "\n" not in str(stop.value)


def test_what_does_not_have_the_form_of_a_result_is_not_believed():
    heard = Heard()
    assert heard.add('{"stage": "training"}') is not None
    forged = ["no JSON", "[]", '{"accuracy": 1}', '{"parameters": true}', '{"predictions": [11]}']
    forged.append(json.dumps({"epoch": an_epoch(10**400)}))  # more than any float
    for line in forged:
        heard.spoiled = False
        assert heard.add(line) is None
        assert heard.spoiled
    assert heard.facts == {} and heard.history == []


def test_what_a_submission_says_cannot_become_part_of_a_page(small, tmp_path):
    evil = "<script>alert(1)</script>"
    report = made_up(evil) | {"name": "evil", "file": evil}
    report["rules"] = [{"rule": evil, "measured": evil, "passed": False}]
    names = ("epochs", "optimizer", "batch_size", "augment", "seed")
    report["asked"] = {"recipe": dict.fromkeys(names, 1), "minutes": 1, "memory": 1}
    report["asked"] |= {"sha256": "", "images": [1, 1]}
    report["limits"] = {"memory": 2**30}
    pages.write_page(report, small, tmp_path)
    (tmp_path / "evil.json").write_text(json.dumps(report))
    pages.write_overview(tmp_path)
    for name in ("evil.html", "index.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "<script>" not in text
        assert "&lt;script&gt;" in text


def an_epoch(value):
    measured = [f"{part}_{what}" for part in ("train", "test") for what in ("loss", "accuracy")]
    return dict.fromkeys([*measured, "seconds"], value)


def told(epochs=1, broken=False, **more):
    """The report of a process that said all this, and took every image for an airplane: it is one,
    but for three in twenty.
    """
    heard = Heard()
    rule = {"rule": "r", "measured": "m", "passed": not broken}
    heard.add(json.dumps({"stage": "testing"}))
    for _ in range(epochs):
        heard.add(json.dumps({"epoch": an_epoch(0.5)}))
    found = {"rules": [rule], "record": {}, "predictions": [0] * 20, "confidence": [0.5] * 20}
    found = {name: value for name, value in (found | more).items() if value is not None}
    assert heard.add(json.dumps(found)) is not None
    ended = {"ended": 0, "cause": None, "seconds": 1.0, "memory": 1, "changed": []}
    ended["output"] = {"text": "", "bytes": 0, "lines": 0}
    limits = {"seconds": 60, "memory": 1, "processes": 1}
    return report_of(heard, ended, np.arange(20).clip(16) - 16, 1, limits)


def test_who_keeps_every_rule_passes():
    """At the very mark, too, and whatever the process says of its accuracy."""
    report = told()
    assert (report["verdict"], report["accuracy"]) == ("pass", 0.85)
    assert report["rules"][-1]["rule"] == "test accuracy >= 85 %"
    missed = told(predictions=[0] * 16 + [9] * 4)
    assert (missed["verdict"], missed["accuracy"]) == ("fail", 0.8)
    assert told(broken=True)["verdict"] == "fail"
    assert told(epochs=0)["verdict"] == "no grade"
    assert told(predictions=None)["verdict"] == "no grade"
    assert told(predictions=[0.0] * 20) == report  # JSON knows one kind of number


def test_minutes_are_told_as_they_were_given():
    given = (45, 90, 1440 * 60, 60 * 0.75 * 60)
    assert [minutes(seconds) for seconds in given] == ["45 s", "1.5 min", "1440 min", "45 min"]
