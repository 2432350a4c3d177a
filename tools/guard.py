"""Runs one submission in a process of its own, and watches over it. tools/grade.py starts this.

    python -m tools.guard    a request on stdin, lines of JSON on stdout

The guard is small, so that it answers while a submission does its worst: it reads what the
submission prints and keeps the beginning and the end, adds up the memory and the number of all
processes that descend from it, and kills every one of them at the end, those in a session of their
own too (on macOS not those whose parent has ended). It does the same when its stdin ends: when the
grader is gone, however it went.
"""

import base64
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from core import limits
from core.common import ROOT, Parser, write_atomically

KEPT = 4000  # bytes of the output, at its beginning and at its end
PRINTED = 2**26  # bytes of output that are borne
SENT = 2**24  # bytes of results
STARTING = 300  # seconds for the imports, before a submission's own time begins
INTERVAL = 0.25  # seconds between two looks at the processes


class Output:
    """What was printed: the beginning and the end of it, and how much it was."""

    def __init__(self):
        self.head, self.tail, self.bytes, self.lines = b"", b"", 0, 0

    def add(self, chunk):
        room = KEPT - len(self.head)
        self.head += chunk[:room]
        self.tail = (self.tail + chunk[room:])[-KEPT:]
        self.bytes += len(chunk)
        self.lines += chunk.count(b"\n")

    def told(self):
        left_out = self.bytes - len(self.head) - len(self.tail)
        gap = f"\n[… {left_out:,} bytes …]\n" if left_out else ""
        text = (self.head + gap.encode() + self.tail).decode(errors="replace")
        return {"text": text, "bytes": self.bytes, "lines": self.lines}


class Watch:
    """One submission while it runs. `cause` says why it was stopped, None where it ended itself."""

    def __init__(self, process, results, allowed):
        self.process, self.allowed = process, allowed
        self.output, self.cause, self.peak = Output(), None, 0
        self.begun, self.limit = time.monotonic(), STARTING
        self.unfinished, self.sent = b"", 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(process.stdout, selectors.EVENT_READ, self.output.add)
        self.selector.register(results, selectors.EVENT_READ, self.hand_on)
        self.selector.register(sys.stdin, selectors.EVENT_READ)

    def hand_on(self, chunk):
        """Whole lines go to the grader as they come; the first starts the submission's time."""
        self.sent += len(chunk)
        if self.sent == len(chunk):
            self.begun, self.limit = time.monotonic(), self.allowed["seconds"]
        *lines, self.unfinished = (self.unfinished + chunk).split(b"\n")
        for line in lines:
            tell({"said": line.decode(errors="replace")})

    def read(self, seconds):
        """Takes what has come within `seconds`. Returns whether there was anything."""
        ready = self.selector.select(seconds)
        for key, _ in ready:
            chunk = os.read(key.fd, 2**16)
            if not chunk:
                self.selector.unregister(key.fileobj)
            if key.data is None:
                self.cause = "grader"
            elif chunk:
                key.data(chunk)
        return bool(ready)

    def run(self):
        """Until the submission ends, or is to be stopped."""
        looked = 0
        while self.process.poll() is None and self.cause is None:
            self.read(INTERVAL)
            if time.monotonic() > looked + INTERVAL:
                self.cause = self.cause or self.exceeded()
                looked = time.monotonic()

    def exceeded(self):
        """The limit that is exceeded now, or None."""
        family = psutil.Process().children(recursive=True)
        if len(family) > self.allowed["processes"]:
            return "processes"
        memory = resident(family)
        if memory > self.allowed["memory"]:
            memory = resident(family, shared_once=True)
        self.peak = max(self.peak, memory)
        if memory > self.allowed["memory"]:
            return "memory"
        if self.output.bytes > PRINTED or self.sent > SENT:
            return "output"
        return "time" if time.monotonic() > self.begun + self.limit else None


def resident(processes, shared_once=False):
    """Bytes of memory in use.

    shared_once: what several of them share counts once, as well as the system tells; it is slow.
    """
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended in the meantime
            total += shared_fairly(process) if shared_once else process.memory_info().rss
    return total


def shared_fairly(process):
    """Bytes of a process; of what several share, a part where the system tells it, or nothing."""
    try:
        used = process.memory_full_info()
    except psutil.AccessDenied:  # macOS tells it to root alone
        return process.memory_info().rss
    return getattr(used, "pss", used.uss)


def listed(elsewhere):
    """{file of the course: (size, time of its last change)}, but for hidden ones and `elsewhere`.

    elsewhere: folders that others write into.
    """
    files = {}
    for folder, folders, names in os.walk(ROOT):
        inside = [name for name in folders if name[0] != "." and name != "__pycache__"]
        folders[:] = [name for name in inside if str(Path(folder, name)) not in elsewhere]
        for path in (Path(folder, name) for name in names if name[0] != "."):
            with contextlib.suppress(OSError):
                files[path] = path.stat().st_size, path.stat().st_mtime_ns
    return files


class Course:
    """The course's files before a submission, for a system that cannot protect them."""

    def __init__(self, elsewhere):
        self.elsewhere, self.files = elsewhere, listed(elsewhere)
        self.code = {path: path.read_bytes() for path in self.files if path.suffix == ".py"}

    def restore(self):
        """Puts changed code back. Returns the names of all files that were changed or made."""
        after = listed(self.elsewhere)
        both = self.files.keys() | after.keys()
        changed = sorted(path for path in both if self.files.get(path) != after.get(path))
        for path in self.code.keys() & set(changed):
            write_atomically(path, lambda file, path=path: file.write(self.code[path]))
        return [str(path.relative_to(ROOT)) for path in changed]


def send_all(number):
    """Sends a signal to all descendants. Returns them."""
    family = psutil.Process().children(recursive=True)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    return family


def kill_all(process):
    """Kills the submission's group, then every other descendant, until there are none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # a group at once: no fork gets away
    known = None
    while known != (known := set(send_all(signal.SIGSTOP))):
        pass  # what stands still does not fork: soon there are no new ones
    while send_all(signal.SIGKILL):
        process.poll()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def start(folder, request, results):
    """The submission's process, in folder/work; it writes its results to the file `results`."""
    work = folder / "work"
    work.mkdir()
    file = work / request.pop("file")
    file.write_bytes(base64.b64decode(request.pop("source")))
    asked = folder / "request.json"
    asked.write_text(json.dumps(request | {"file": str(file)}))
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "Agg",
        **dict.fromkeys(("TMPDIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"), str(work)),
    }
    return subprocess.Popen(
        # -P: a submission called model.py must not be taken for the course's.
        [sys.executable, "-P", "-m", "tools.submission", asked, str(results)],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[results, request["data"]],
        start_new_session=True,
    )


def guard(request):
    """Runs the submission of a request, see tools.grading.run, and tells how it ended."""
    limits.adopt_orphans()
    course = None if request["protect"] else Course(request["elsewhere"])
    folder = Path(tempfile.mkdtemp(prefix="submission-"))
    begun = time.monotonic()
    try:
        incoming, outgoing = os.pipe()
        process = start(folder, request, outgoing)
        os.close(outgoing)
        watch = Watch(process, incoming, request["limits"])
        try:
            watch.run()
        finally:
            kill_all(process)
        while watch.cause != "grader" and len(watch.selector.get_map()) > 1 and watch.read(1):
            pass  # what it had said before it ended
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tell(
        {
            "ended": process.returncode,
            "cause": watch.cause,
            "seconds": time.monotonic() - begun,
            "memory": watch.peak,
            "output": watch.output.told(),
            "changed": course.restore() if course else [],
        }
    )


def tell(message):
    with contextlib.suppress(BrokenPipeError):  # the grader is gone; see `Watch.read`
        print(json.dumps(message), flush=True)


def main():
    Parser("-m tools.guard", description=__doc__.splitlines()[0]).parse_args()
    # Unbuffered: what `selectors` is asked about must not lie in Python's own buffer.
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(sys.stdin.fileno(), 2**16)
        if not chunk:
            sys.exit(f"guard: no request on stdin; python -m tools.grade, in {ROOT}, sends one.")
        line += chunk
    guard(json.loads(line))


if __name__ == "__main__":
    main()
