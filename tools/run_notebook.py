"""Executes a notebook, shows that it is alive, and writes it as a page beside it.

    python tools/run_notebook.py S9_Final.ipynb      S9_Final.html, to be opened in a browser

It tells at the start about how long it will take on this machine, from a few training steps made there, then each cell
as it begins and each line that it prints.
"""

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import dataset
import train
from core.device import describe_device, pick_device, pick_precision

STARTING = 20  # seconds: the imports of a fresh kernel, reading the data, drawing


def expected_seconds(recipe, data, images=2048):
    """How long `fit("net", recipe)` takes on this machine with its evaluations, from 2 x `images` training images."""
    few = dataset.Cifar10(*(part[:images] for part in data))
    short = dataclasses.replace(recipe, epochs=2)  # with views: an epoch of each half
    train.fit(
        "net", short, dataset.Cifar10(*(part[:512] for part in data)), progress=False
    )  # warms up
    _, record = train.fit("net", short, few, progress=False)
    training = record["seconds"] * recipe.epochs / 2 * len(data.train_labels) / images
    evaluating = (
        record["evaluation_seconds"] / 2 * (recipe.epochs + 4) * len(data.test_labels) / images
    )
    return training + evaluating


def announce(notebook):
    """Prints the device and the minutes that the main notebook will need on it."""
    device = pick_device()
    recipe = train.RECIPES[
        os.environ.get("RECIPE") or ("standard" if torch.cuda.is_available() else "sprint")
    ]
    seconds = STARTING + expected_seconds(recipe, dataset.load_cifar10(progress=False))
    where = f"{describe_device(device)}, in {pick_precision(device)}"
    print(
        f"Executing {notebook}: about {max(1, round(seconds / 60))} minutes on this machine ({where}).",
        flush=True,
    )


class TellingClient(NotebookClient):
    """Prints which cell begins, and what the kernel prints, as it happens."""

    def told(self, cell, cell_index):
        if cell.cell_type == "code":
            first = cell.source.strip().splitlines()[0]
            print(
                f"[{time.monotonic() - self.begun:4.0f} s] cell {cell_index + 1}/{len(self.nb.cells)}  {first[:70]}",
                flush=True,
            )

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream":
            print("    " + msg["content"]["text"].rstrip("\n").replace("\n", "\n    "), flush=True)
        return super().output(outs, msg, display_id, cell_index)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    if not path.exists():
        sys.exit(f"run_notebook.py: there is no notebook {path}.")
    book = nbformat.read(path, as_version=4)
    announce(path)
    client = TellingClient(
        book,
        timeout=None,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        extra_arguments=["--log-level=40"],  # the kernel's own warnings are not the reader's
    )
    client.begun, client.on_cell_start = time.monotonic(), client.told
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(
            f"run_notebook.py: a cell of {path} failed; {path.stem}.html was not written.\n{error}"
        )
    except (KeyboardInterrupt, DeadKernelError):
        sys.exit(f"run_notebook.py: stopped; {path.stem}.html was not written.")
    page, _ = HTMLExporter().from_notebook_node(book)
    path.with_suffix(".html").write_text(page)
    print(
        f"[{time.monotonic() - client.begun:4.0f} s] Open {path.with_suffix('.html').resolve()} in a browser."
    )


if __name__ == "__main__":
    main()
