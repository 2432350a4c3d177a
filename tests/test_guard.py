"""What watches over a submission, and what keeps it in its folder."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from core import limits
from tools import guard
from tools.verdict import notes


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


def test_an_output_that_was_kept_whole_is_not_called_short():
    output = guard.Output()
    output.add(b"x" * (guard.KEPT - 1) + "é and of 12 bytes …]\n".encode())
    assert "xé and" in output.told()["text"]
    assert notes(dict(output=output.told(), changed=[]), {}) == []


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
    (tmp_path / "grades" / "a.html").write_text("another grader's")
    changed = course.restore()
    assert changed == ["changed.py", "new.py", "notes.txt", "removed.py"]
    left = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.py")}
    assert left == dict.fromkeys(("changed.py", "removed.py", "same.py"), "before") | {
        "new.py": "new"
    }
    [note] = notes({"output": {"text": "", "bytes": 0}, "changed": changed}, {})
    assert "changed.py, new.py, notes.txt, removed.py. Changed code is as it was" in note


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
    command = [sys.executable, "-c", script, str(inside)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    version = limits.protects()  # connections since 4, signals since 6
    assert out.stdout.count("refused") == 2 + (version >= 4) + (version >= 6)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "new"]
