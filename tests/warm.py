"""Runs many short commands: a process that has imported the libraries forks one for each.

    python tests/warm.py    reads [folder, word, ...] as a line of JSON, answers [status, out, err]

The course's own modules are imported anew each time, from `folder`. What is saved are the seconds
that torch and others need to be imported. A child begins before this process has computed anything:
threads do not survive a fork.
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path

LIBRARIES = "torch albumentations matplotlib.pyplot pandas scipy.stats nbclient nbconvert".split()


def run(folder, words):
    """What `python <words>` does in `folder`. Exits as Python does."""
    os.chdir(folder)
    if words[0] == "-m":
        sys.path[0], sys.argv = folder, words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(words[0]).resolve().parent), words
        runpy.run_path(words[0], run_name="__main__")


def child(folder, words, files):
    """[status, stdout, stderr] of a command that a fork runs."""
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        try:
            run(folder, words)
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        else:
            status = 0
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for file in files:
        file.seek(0)
    return [status, *(file.read() for file in files)]


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        folder, *words = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            print(json.dumps(child(folder, words, (out, err))), flush=True)
