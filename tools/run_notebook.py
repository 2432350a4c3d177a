"""Executes a notebook, shows that it is alive, and writes it as a page beside it.

    python -m tools.run_notebook S9_Final.ipynb           S9_Final.html, to be opened in a browser
    python -m tools.run_notebook --save S9_Final.ipynb    keeps the outputs in the notebook instead

It tells at the start about how long the main notebook will take on this machine, from a few
training steps made there, then each cell as it begins and each line that it prints. With --save the
seconds are recorded in results/bench/lessons.json.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

import dataset
import train
from core.common import (
    ROOT,
    Parser,
    TrainingError,
    check_writable,
    find,
    read_json,
    write_json,
    write_text,
)
from core.device import describe_device, pick_device, pick_precision

STARTING = 20  # seconds: the imports of a fresh kernel, reading the data, drawing
LOOPS = 4 * 5120  # images of the notebook's short trainings, by hand and by fit


def expected_seconds(recipe, data, images=2048):
    """How long the main notebook takes on this machine to train by `recipe` and to evaluate.

    images: so many training images are trained on, twice, to find out.
    """
    warm_up, few = (dataset.Cifar10(*(part[:count] for part in data)) for count in (512, images))
    short = dataclasses.replace(recipe, epochs=2)  # with views: an epoch of each half
    train.fit("net", short, warm_up, progress=False)
    _, record = train.fit("net", short, few, progress=False)
    training = record["seconds"] / 2 * (recipe.epochs * len(data.train_labels) + LOOPS) / images
    evaluation = record["evaluation_seconds"] / 2 * len(data.test_labels) / images
    return training + evaluation * (recipe.epochs + 6)


def announce(notebook):
    """Prints the device and the minutes that the main notebook will need on it."""
    device = pick_device()
    default = "standard" if device.type == "cuda" else "sprint"
    try:
        recipe = find(train.RECIPES, os.environ.get("RECIPE") or default, "recipe")
    except ValueError as error:
        raise ValueError(f"the environment variable RECIPE: {error}") from None
    seconds = STARTING + expected_seconds(recipe, dataset.load_cifar10())
    minutes = max(1, round(seconds / 60))
    where = f"{describe_device(device)}, in {pick_precision(device)}"
    print(f"Executing {notebook}: about {minutes} min on this machine ({where}).", flush=True)


class TellingClient(NotebookClient):
    """Prints which cell begins, and what the kernel prints, as it happens."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.begun = time.monotonic()
        self.on_cell_start = self.tell

    def clock(self):
        return f"[{time.monotonic() - self.begun:4.0f} s]"

    def tell(self, cell, cell_index):
        if cell.cell_type == "code" and cell.source.strip():
            first = cell.source.strip().splitlines()[0][:70]
            print(f"{self.clock()} cell {cell_index + 1}/{len(self.nb.cells)}  {first}", flush=True)

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream":
            print("    " + msg["content"]["text"].rstrip("\n").replace("\n", "\n    "), flush=True)
        return super().output(outs, msg, display_id, cell_index)


def keep(book, path, seconds):
    """Writes the executed notebook and how long it took."""
    write_text(path, nbformat.writes(book) + "\n")
    if not path.resolve().is_relative_to(ROOT):
        return  # it is no lesson of this course
    file = ROOT / "results" / "bench" / "lessons.json"
    lessons = read_json(file, {})
    name = path.resolve().relative_to(ROOT).as_posix()
    lessons[name] = {"seconds": round(seconds, 1), "device": describe_device(pick_device())}
    write_json(file, dict(sorted(lessons.items())))


def main():
    parser = Parser("-m tools.run_notebook", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--save", action="store_true", help="keep the outputs in the notebook")
    options = parser.parse_args()
    path = options.notebook
    if not path.exists():
        sys.exit(f"run_notebook: there is no notebook {path}.")
    try:
        book = nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError):
        sys.exit(f"run_notebook: {path} is no notebook.")
    try:
        check_writable([path if options.save else path.with_suffix(".html")])
        client = executed(book, path)
        if options.save:
            keep(book, path, time.monotonic() - client.begun)
            print(f"{client.clock()} {path} is executed anew.")
            return
        page, _ = HTMLExporter().from_notebook_node(book)
        write_text(path.with_suffix(".html"), page)
        print(f"{client.clock()} Open {path.with_suffix('.html').resolve()} in a browser.")
    except (TrainingError, ValueError, dataset.DataError) as error:
        sys.exit(f"run_notebook: {error}")


def executed(book, path):
    """Executes the notebook in place; returns its client. Exits where that does not end well."""
    try:
        if path.name == "S9_Final.ipynb":
            announce(path)
        client = TellingClient(
            book,
            timeout=None,
            record_timing=False,
            resources={"metadata": {"path": str(path.resolve().parent)}},
            extra_arguments=["--log-level=40"],  # the kernel's own warnings are not the reader's
        )
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"run_notebook: a cell of {path} failed; nothing was written.\n{error}")
    except NoSuchKernel as error:
        sys.exit(f"run_notebook: {error}; choose python3 in {path}, or install that one.")
    except DeadKernelError:
        sys.exit("run_notebook: its kernel died (too little memory?); nothing was written.")
    except KeyboardInterrupt:
        sys.exit("run_notebook: stopped; nothing was written.")
    return client


if __name__ == "__main__":
    main()
