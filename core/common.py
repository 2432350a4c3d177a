"""The ground that all else stands on: root folder, errors, names, files, command lines."""

import argparse
import contextlib
import difflib
import glob
import json
import math
import os
import sys
import tempfile
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parent.parent
PARTIAL = ".partial"  # the end of a temporary file's name


class TrainingError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


def on_purpose(error):
    """Whether `error` is a sentence for who reads it: a TrainingError, or a ValueError that a
    `raise` of this course made; else it is a fault, in a network for one, and the traceback says
    where.
    """
    if hasattr(error, "__notes__"):  # it brings its traceback along: see core.many
        return False
    if isinstance(error, TrainingError):
        return True
    last = [*traceback.extract_tb(error.__traceback__)][-1:]
    files = [
        Path(step.filename).resolve() for step in last if (step.line or "").startswith("raise")
    ]
    ours = [file for file in files if file.is_relative_to(ROOT)]
    ours = [file for file in ours if "site-packages" not in file.parts]  # of ROOT/.venv
    return isinstance(error, ValueError) and len(ours) == len(last)


def find(table, name, noun):
    """`table[name]`, or a ValueError that calls `name` an unknown `noun` and names the nearest."""
    if isinstance(name, str) and name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? All" if near else "known"
    raise ValueError(f"Unknown {noun} {name!r}; {hint}: {', '.join(table)}.")


def is_number(value, whole=False):
    """Whether `value` is a finite number, or a whole one; True and False are none."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return True
    return not whole and isinstance(value, float) and math.isfinite(value)


AGAIN = "make the folder writable, then repeat the command"
RESUMED = f"{AGAIN} (train.py with --resume)"


def write_atomically(path, write, advice=AGAIN):
    """Calls `write(file)` on a temporary file, then renames it to `path`.

    Nobody ever sees half a file: what stood there stays until the new one is whole.

    path: its folder is made where it is missing.
    write: gets a file that is open for bytes.
    advice: what to do beside freeing some space, for the message.

    Raises TrainingError where that cannot be written.
    """
    path, partial = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        options = dict(prefix=f".{path.name}-", suffix=PARTIAL, delete=False)
        with tempfile.NamedTemporaryFile(dir=path.parent, **options) as file:
            partial = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty file under this name
        with contextlib.suppress(OSError):  # a share may let nobody but its owner
            partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        raise TrainingError(
            f"Cannot write {path} ({error.strerror or error}); free some space or {advice}."
        ) from None
    finally:
        if partial:
            partial.unlink(missing_ok=True)  # gone already where all went well


def write_text(path, text, advice=AGAIN):
    """Writes a text file, "?" for what is no character; see `write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode(errors="replace")), advice)


def clear_leftovers(path):
    """Removes what a killed process has left of its attempts to write `path`."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}-*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def tell_of_unfinished(checkpoint):
    """Says, where a run begins anew, that it takes the place of one that was cut off."""
    if checkpoint.exists():
        print(
            f"checkpoints/{checkpoint.name} holds an unfinished run, which this one replaces after "
            "its first epoch. To go on from it instead: Ctrl-C, and the same command with --resume."
        )


def check_writable(paths):
    """Raises TrainingError where one of `paths` could not be written: before the training."""
    for path in paths:
        trial = path.with_suffix(".test")
        clear_leftovers(path)
        clear_leftovers(trial)
        write_atomically(trial, lambda file: None)
        trial.unlink()


class CheckpointError(TrainingError):
    """There is no checkpoint to go on from: missing, damaged, or of another run."""


class ClaimedError(TrainingError):
    """Another process is at this run."""


@contextlib.contextmanager
def claimed(path, name, wait=0):
    """Holds the run `name` for this process, by a lock on the file `path`.

    The operating system lets go of it when the process ends, however it ends. Between machines that
    holds for folders whose locks are shared: NFS 4, SMB, and NFS 3 unless mounted with nolock.

    wait: so many seconds for a process that has just died: its children may outlive it a little.

    Raises ClaimedError where another process holds it, TrainingError where no file can be made.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait)
    except Timeout:
        raise ClaimedError(f"Another process is at {name}; wait for it.") from None
    except OSError as error:
        raise TrainingError(f"Cannot write {path} ({error.strerror}); {AGAIN}.") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows lets nobody remove an open file
            path.unlink()
        lock.release()


def read_json(path, default=None):
    """What the JSON file `path` holds; `default`, unless that is None, where there is no file.

    Raises ValueError for a file that is damaged, missing or unreadable.
    """
    if default is not None and not path.exists():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"There is no {path}; make it, or git restore {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); git restore {path}") from None


def write_json(path, content, advice=AGAIN):
    """Writes a record, a dictionary, as JSON; see `write_atomically`."""
    write_text(path, json.dumps(content, indent=1) + "\n", advice)


@contextlib.contextmanager
def stoppable(program, kept="nothing was written"):
    """For a command: Ctrl-C ends it in a sentence."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(f"\n{program}: stopped; {kept}.")


class Parser(argparse.ArgumentParser):
    """A command line that refuses in one sentence."""

    def __init__(self, program, description):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(program, description=description, formatter_class=raw)
        if hasattr(sys.stdout, "reconfigure"):  # what a console has no character for is "?" there
            sys.stdout.reconfigure(errors="replace")

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} See python {self.prog} --help.\n")


def whole_number(text):
    """For a command line: an integer of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more.")
    return int(text)
