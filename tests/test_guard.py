"""What watches over a submission, and what keeps it in its folder."""

import errno
import os
import subprocess
import sys
import urllib.error

import psutil
import pytest
import torch
from conftest import ROOT

from core import limits
from tools import grade, grading, guard, submission
from tools.verdict import Heard, notes, problem_of


def test_output_keeps_its_beginning_and_its_end():
    output = guard.Output()
    for number in range(5000):
        output.add(f"{number}\n".encode())
    told = output.told()
    assert told["lines"] == 5000
    assert told["text"].startswith("0\n1\n")
    assert told["text"].endswith("4999\n")
    assert len(told["text"]) < 8100
    ended = dict(output=told, changed=[])
    assert "only the beginning and the end were kept" in notes(ended, {})[0]


def test_memory_counts_where_the_system_does_not_tell_what_is_shared(monkeypatch):
    """macOS tells it to root alone."""

    def refuse(self):
        raise psutil.AccessDenied

    me = psutil.Process()
    assert guard.resident([me], shared_once=True) > 0
    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert guard.resident([me], shared_once=True) == pytest.approx(me.memory_info().rss, rel=0.1)


def test_a_file_is_refused_for_writing_and_a_connection_for_itself(tmp_path):
    with pytest.raises(OSError) as opened:
        (tmp_path / "none" / "file").write_text("")
    opened.value.errno = errno.EACCES
    refused = PermissionError(errno.EACCES, "Permission denied")  # of a connection
    errors = opened.value, refused, urllib.error.URLError(refused)
    assert [submission.kind_of(e) for e in errors] == ["writing", "network", "network"]
    assert submission.kind_of(PermissionError(errno.EPERM, "of a signal")) == "error"


@pytest.mark.parametrize("kind", [Exception, RuntimeError])
def test_an_error_without_words_is_an_error(kind):
    mute = type("Mute", (kind,), {"__str__": lambda self: 1 / 0})
    with pytest.raises(mute) as raised:
        raise mute
    assert submission.kind_of(raised.value) == "error"
    told = submission.sentence(raised.value, "mine.py")
    assert told == "Mute: (its message cannot be printed)"


def test_the_memory_of_a_gpu_is_not_that_of_the_limit():
    for error in (torch.OutOfMemoryError("CUDA"), RuntimeError("MPS backend out of memory")):
        assert submission.kind_of(error) == "error"
    assert submission.kind_of(RuntimeError("can't allocate memory")) == "memory"


def test_an_output_that_was_kept_whole_is_not_called_short():
    output = guard.Output()
    output.add(b"x" * (guard.KEPT - 1) + "é and of 12 bytes …]\n".encode())
    assert "xé and" in output.told()["text"]
    assert notes(dict(output=output.told(), changed=[]), {}) == []


@pytest.mark.parametrize(
    ("reorder", "allowed"),
    [
        (lambda x: x.reshape(-1, 1, 8, 8), True),
        (lambda x: x.view(-1, 1, 8, 8), False),  # of one image it works
        (lambda x: x.permute(0, 2, 3, 1).view(-1, 1, 8, 8), True),  # works in neither
    ],
)
def test_a_memory_order_is_blamed_where_the_other_one_works(reorder, allowed):
    class Reordered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 4, stride=4)

        def forward(self, x):
            return reorder(self.conv(x)).unflatten(0, (len(x), -1)).flatten(1)

    assert submission.allows_channels_last("Reordered", Reordered, Reordered()) == allowed


def test_imports_that_take_too_long_are_told_with_their_own_limit():
    allowed = dict(seconds=3600, memory=2**32, processes=9)
    told = problem_of(Heard(), dict(cause="time"), images=10, epochs=1, allowed=allowed)
    assert told == "Stopped before it began: it was not done after 5 min, the limit."


def test_where_the_system_cannot_protect_the_code_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "ROOT", tmp_path)
    (tmp_path / "grades").mkdir()
    for name in ("changed.py", "removed.py", "same.py", "notes.txt"):
        (tmp_path / name).write_text("before")
    course = guard.Course([str(tmp_path / "grades")])
    (tmp_path / "changed.py").write_text("spoiled")
    (tmp_path / "removed.py").unlink()
    (tmp_path / "new.py").write_text("new")
    (tmp_path / "notes.txt").write_text("other")
    (tmp_path / ".DS_Store").write_text("a file manager's")
    (tmp_path / "grades" / "a.html").write_text("another grader's")
    changed = course.restore()
    assert changed == ["changed.py", "new.py", "notes.txt", "removed.py"]
    left = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.py")}
    assert left == dict.fromkeys(("changed.py", "removed.py", "same.py"), "before") | {
        "new.py": "new"
    }
    [note] = notes({"output": {"text": "", "bytes": 0}, "changed": changed}, {})
    assert "changed.py, new.py, notes.txt, removed.py. Changed code is as it was" in note


def printed(script, folder):
    """What a process of its own prints: limits are never raised again."""
    command = [sys.executable, "-c", script, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_limit_that_is_lower_already_stays(tmp_path):
    script = (
        "import resource, sys\nfrom core import limits\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, resource.RLIM_INFINITY))\n"
        "limits.confine(sys.argv[1], protect=False)\n"
        "print(*resource.getrlimit(resource.RLIMIT_FSIZE))\n"
    )
    assert printed(script, tmp_path) == "1000000 1000000\n"


@pytest.mark.skipif(not limits.protects(), reason="this system cannot forbid writing")
def test_confined_writes_in_its_folder_alone(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    script = (
        "import os, socket, sys\nfrom core import limits\nlimits.confine(sys.argv[1])\n"
        "open('/dev/null', 'w').close()\nopen(sys.argv[1] + '/new', 'w').close()\n"
        "def signal(p): os.kill(os.getppid(), 0)\n"
        "def connect(p): socket.create_connection(('127.0.0.1', 9))\n"
        "for change in (lambda p: open(p, 'w'), os.mkdir, signal, connect):\n"
        "    try: change(sys.argv[1] + '/../outside')\n"
        "    except PermissionError: print('refused')\n"
        "    except OSError: print('nobody listens there')\n"
    )
    said = printed(script, inside)
    version = limits.protects()  # connections since 4, signals since 6
    assert said.count("refused") == 2 + (version >= 4) + (version >= 6)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "new"]


def test_a_wrong_device_is_no_fault_of_a_submission(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="Unknown device 'gpu'"):
        grade.main(["model.py:Net", "--device", "gpu"])
    monkeypatch.setenv("PRECISION", "bf16")
    with pytest.raises(SystemExit, match="the environment variable PRECISION is 'bf16'"):
        grade.main(["model.py:Net"])


def test_one_network_of_two_names(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import torch.nn as nn\nclass Net(nn.Module): pass\nModel = Net\nOther = Net")
    name, _ = submission.find(submission.load(path), None)
    assert name == "Net"


def test_a_notebook_is_no_folder(tmp_path):
    (tmp_path / "anna.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="is no Python file, nor a folder with some.$"):
        grading.submissions_of([str(tmp_path / "anna.ipynb")])
