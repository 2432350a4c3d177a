"""Runs many short commands: a process that has imported the libraries forks one for each.

    python tests/warm.py    reads [folder, word, ...] as a line of JSON, answers [status, out, err]

The course's own modules are imported anew each time, from `folder`. What is saved are the seconds
that torch and others need to be imported. A child begins before this process has computed anything:
threads do not survive a fork.
"""

import importlib
import json
import os
import runpy
import signal
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


def child(folder, words, null, files):
    """[status, stdout, stderr] of a command that a fork runs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(600)  # a command that hangs is killed
        for number, descriptor in enumerate([null, *(file.fileno() for file in files)]):
            os.dup2(descriptor, number)
        status = 0
        try:
            run(folder, words)
        except SystemExit as stop:
            status = stop.code or 0
            if not isinstance(status, int):
                print(status, file=sys.stderr)
                status = 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        sys.stdout.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for file in files:
        file.seek(0)
    return [status, *(file.read() for file in files)]


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    null = os.open(os.devnull, os.O_RDONLY)  # what a command reads is none of the lines here
    for line in sys.stdin:
        folder, *words = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            print(json.dumps(child(folder, words, null, (out, err))), flush=True)
