"""How one submission is graded: what it is, on what terms, its process, its report.

tools/grade.py is the command and says what a submission is kept from.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from core import limits
from core.arrays import checked_data, checked_labels
from core.checkpoint import fingerprint
from core.common import (
    ROOT,
    ClaimedError,
    TrainingError,
    check_writable,
    claimed,
    find,
    is_number,
    write_json,
)
from core.recipes import RECIPES, Recipe
from dataset import Cifar10, data_root, load_cifar10
from tools import pages
from tools.verdict import Heard, problem_of, report_of

PROCESSES = 64
LONGEST = 150  # bytes of a report's name: a file's has 255, with what is put around it
# What decides a grade, beside the submission: after a change all is graded anew.
JUDGES = ["analysis.py", "dataset.py", "model.py", "train.py", "core/*.py"]
JUDGES += [f"tools/{name}.py" for name in ("grading", "guard", "submission", "verdict")]


class NotBegunError(TrainingError):
    """Nothing of a submission has run: it is no fault of its own, and no report is made of it."""


class Submission(NamedTuple):
    """One file, read once: what happens to it later changes nothing."""

    path: Path
    network: str | None  # the name after the colon
    source: bytes


class Terms(NamedTuple):
    """On what terms all are graded."""

    recipe: Recipe
    minutes: float
    memory: float | None  # GiB
    device: str | None = None

    @property
    def allowed(self):
        """The limits as the guard wants them: seconds, bytes, processes."""
        there = psutil.virtual_memory().total / 2**30
        memory = self.memory or min(8, round(0.75 * there, 1))
        used = {"seconds": 60 * self.minutes, "memory": int(memory * 2**30)}
        return used | {"processes": PROCESSES}


def terms_of(recipe="sprint", epochs=None, seed=0, minutes=60, memory=None, device=None):
    """The `Terms`.

    recipe: a name in RECIPES.
    epochs: instead of the recipe's; the schedule is stretched, but for steps.
    minutes: until a submission is stopped.
    memory: GiB that all processes of a submission may use together; None for 8, or three quarters
        of what the machine has.
    device: see train.fit.

    Raises ValueError for an unknown recipe and values outside their ranges, and on Windows.
    """
    if sys.platform == "win32":
        raise ValueError("Windows cannot limit a submission; grade in WSL, on Linux or macOS.")
    for name, value in (("minutes", minutes), ("memory", 8 if memory is None else memory)):
        if not is_number(value) or value <= 0:
            raise ValueError(f"{name} is {value!r}; it must be a number greater than 0.")
    recipe = dataclasses.replace(find(RECIPES, recipe, "recipe"), seed=seed)
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    return Terms(recipe, minutes, memory, device)


# -------------------------------------------------------------------------------------- submissions


def submissions_of(words):
    """The submissions that paths, path:name or folders stand for, in their order, each once.

    What holds no Python file is passed over. Raises ValueError for what is not there or cannot be
    read, and where there are none.
    """
    found = {}
    for word in words:
        path, network = Path(word), None
        if not os.access(path, os.F_OK) and ":" in word:  # Path.exists may raise an error
            path, network = Path(word.rpartition(":")[0]), word.rpartition(":")[2]
        if not os.access(path, os.F_OK):
            raise ValueError(f"There is no {path}; give a file.py, file.py:Network or a folder.")
        files = [file for file in inside(path) or [path] if is_python(file)]
        if not files and (network is not None or len(words) == 1):
            each = f"; a folder for each student is given as {path}/*" if path.is_dir() else "."
            raise ValueError(f"{path} is no Python file, nor a folder with some{each}")
        if network is not None and not network.isidentifier():
            raise ValueError(f"{network!r} is no name of a class; give file.py:Network.")
        for file in files:
            found[file.resolve(), network] = Submission(file.resolve(), network, read(file))
    if not found:
        raise ValueError(f"There are no Python files in {', '.join(words)}.")
    return list(found.values())


def inside(path):
    """What a folder holds, in order; nothing of a file."""
    try:
        return sorted(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise ValueError(f"Cannot read {path} ({error.strerror}); make it readable.") from None


def is_python(path):
    if path.name == "__init__.py" and path.is_file() and not path.stat().st_size:
        return False  # it only makes a package of the folder
    return path.suffix == ".py" and path.name[0] != "." and path.is_file()


def left_out(words, out):
    """What is not graded of `words`, and in the folders among them: all but Python files, hidden
    ones and `out`.
    """
    there = [Path(word) for word in words if os.access(word, os.F_OK)]
    paths = [one for path in there for one in inside(path) or [path]]
    others = [path for path in paths if not is_python(path) and path.resolve() != out]
    return [str(path) for path in others if not path.name.startswith((".", "_"))]


def read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"Cannot read {path} ({error.strerror}); make it readable.") from None


def names_of(submissions, out):
    """A name for each report: the one that it has in the folder `out`; else that of its file,
    with folders or class where that is not enough, or another submission's report has that name.
    """
    parts, known = [1] * len(submissions), known_in(out)
    while True:
        names = [
            known.get((str(one.path), one.network)) or name_of(one, count)
            for one, count in zip(submissions, parts, strict=True)
        ]
        taken = [
            names.count(name) > 1 or is_of_another(out / f"{name}.json", one)
            for one, name in zip(submissions, names, strict=True)
        ]
        if not any(taken) or max(parts) > 9:
            return names
        parts = [n + more for n, more in zip(parts, taken, strict=True)]


def known_in(out):
    """{(file, network): its name} of the reports in a folder."""
    found = {}
    for path in sorted(out.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            report = json.loads(path.read_text(encoding="utf-8"))
            found[report["file"], report["asked"]["network"]] = path.stem
    return found


def is_of_another(path, one):
    """Whether `path` is the report of another file. (One of the same gives way: its network may
    have been named since. The same file may have moved: then nothing is where it was.)
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        report = json.loads(path.read_text(encoding="utf-8"))
        same = report["asked"]["sha256"] == digest(one) and not Path(report["file"]).exists()
        return report["file"] != str(one.path) and not same
    return False


def digest(one):
    return hashlib.sha256(one.source).hexdigest()


def name_of(one, parts):
    words = [*one.path.parts[1:][-parts:-1], one.path.stem]
    name = "-".join(words + ([one.network] if parts > 1 and one.network else []))
    # Some zip files unpack what is no character; another one may steer the terminal.
    name = "".join(c if c.isprintable() else "?" for c in name)
    if len(name.encode()) > LONGEST:
        whole = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[:LONGEST].decode(errors='ignore')}-{whole}"
    return name + "_" * (name == "index")  # index.html is the overview


# ------------------------------------------------------------------------------------------ grading


class Images(NamedTuple):
    data: Cifar10
    file: object  # the same, for the submissions' processes
    known: str  # their fingerprint


@contextlib.contextmanager
def opened(data=None):
    """The `Images`, in a file that has no name and is gone with this process, however it ends.

    Raises ValueError for other `data`, TrainingError where they cannot be written.
    """
    data = load_cifar10() if data is None else checked_data(data)
    with contextlib.ExitStack() as stack:
        try:
            with tempfile.NamedTemporaryFile(delete=False) as written:
                # Only to be read: no submission may change what the next ones see.
                file = stack.enter_context(open(written.name, "rb"))
                Path(written.name).unlink()
                np.savez(written, **data._asdict())
        except OSError as error:
            raise TrainingError(
                f"Cannot write the images to {tempfile.gettempdir()} ({error.strerror or error}); "
                "free 200 MB there, or set TMPDIR to another folder."
            ) from None
        yield Images(data, file, fingerprint(data))


def asked(one, terms, images):
    """All that decides a report, as JSON keeps it."""
    judges = [path.read_bytes() for each in JUDGES for path in sorted(ROOT.glob(each))]
    asked = {
        "sha256": digest(one),
        "network": one.network,
        "recipe": dataclasses.asdict(terms.recipe),
        "minutes": terms.minutes,
        "memory": terms.memory,
        "device": terms.device,
        "images": [len(images.data.train_labels), len(images.data.test_labels)],
        "data": images.known,
        "course": fingerprint(judges),
    }
    return json.loads(json.dumps(asked))


def report_in(path, wanted):
    """The report in the file `path`, if it answers what is `wanted`; else None."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return report if report["asked"] == wanted else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def grade_one(one, name, terms, images, out, tell=None):
    """The report of a submission, from the folder `out` or made and written there.

    Raises ClaimedError where another process is at it, or has just given another file the name.
    """
    path = out / f"{name}.json"
    wanted = asked(one, terms, images)
    with claimed(out / f".{name}.lock", name):
        if is_of_another(path, one):
            raise ClaimedError(f"{path} is another file's by now; repeat the command.")
        report = report_in(path, wanted)
        if report is None:
            check_writable([path])
            report = {"name": name, "file": str(one.path), "asked": wanted}
            report |= {"limits": terms.allowed}
            report |= run(one, terms, images, out, tell)
            pages.write_page(report, images.data, out)
            write_json(path, report)
        return report


def grade_item(item):
    """`grade_one` in a process that has no images yet: what core.many.run_all spreads."""
    one, name, terms, out = item
    with opened() as images:
        return grade_one(one, name, terms, images, out)


def run(one, terms, images, out, tell):
    """Has the guard run the submission. Returns what was found; see `tools.verdict.report_of`."""
    request = {
        "file": one.path.name,
        "source": base64.b64encode(one.source).decode(),
        "network": one.network,
        "recipe": dataclasses.asdict(terms.recipe),
        "device": terms.device,
        "data": images.file.fileno(),
        "limits": terms.allowed,
        "protect": limits.protects() > 0,
        "elsewhere": [str(path.resolve()) for path in (out, data_root(), one.path.parent)],
    }
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    heard, ended, begun = Heard(), None, time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tools.guard"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[images.file.fileno()],
        start_new_session=True,  # Ctrl-C is for this process, which then ends that one
    ) as guard:
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                guard.stdin.write((json.dumps(request) + "\n").encode())
                guard.stdin.flush()
            for line in guard.stdout:
                message = json.loads(line)
                if "said" not in message:
                    ended = message
                elif heard.add(message["said"]) is not None and tell:
                    tell(heard)
        finally:
            with contextlib.suppress(BrokenPipeError):
                guard.stdin.close()
            guard.stdout.read()
    if ended is None:  # it was killed
        ended = {"ended": guard.returncode, "cause": "guard", "memory": 0, "changed": []}
        ended |= {"output": {"text": "", "bytes": 0, "lines": 0}}
        ended |= {"seconds": time.monotonic() - begun}
    labels = checked_labels(images.data.test_labels)
    if heard.stage is None:
        problem = problem_of(heard, ended, len(labels), terms.recipe.epochs, terms.allowed)
        said = ended["output"]["text"].strip().splitlines()[-1:] or ["nothing"]
        raise NotBegunError(f"{one.path.name}: {problem} (It said: {said[0]})")
    return report_of(heard, ended, labels, terms.recipe.epochs, terms.allowed)
