"""The ground that all else stands on: root folder, errors, names, files, command lines."""

import argparse
import difflib
import json
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class TrainingError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


def find(table, name, noun):
    """`table[name]`, or a ValueError that calls `name` an unknown `noun` and names the nearest."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? All" if near else "known"
    raise ValueError(f"Unknown {noun} {name!r}; {hint}: {', '.join(table)}.")


def write_atomically(path, write, advice="make the folder writable, then go on with --resume"):
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
        name = f".{path.name}-"
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=name, delete=False) as file:
            partial = Path(file.name)
            write(file)
        partial.chmod(0o644)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        if partial:
            partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(
            f"Cannot write {path} ({reason}); free some space or {advice}."
        ) from None


def check_writable(paths):
    """Raises TrainingError where one of `paths` could not be written: before the training."""
    for path in paths:
        trial = path.with_suffix(".test")
        write_atomically(trial, lambda file: None)
        trial.unlink()


def write_json(path, content):
    """Writes a record, a dictionary, as JSON; see `write_atomically`."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


class Parser(argparse.ArgumentParser):
    """A command line that refuses in one sentence."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} See python {self.prog} --help.\n")


def whole_number(text):
    """For a command line: an integer of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more.")
    return int(text)
