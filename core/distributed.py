"""One run on several processes, as torchrun starts them; a process alone does without.

    with joined(device):     the processes know each other
    shard(indices)           this process's share of a batch, or of the test images
    mean(sums, count)        over the samples of all processes

A run means the same whatever their number: each batch of the recipe is split among them, and
core.spread trains as if one process saw it whole.
"""

import contextlib
import importlib.metadata
import os
import platform
import signal
import sys

import numpy as np
import torch
import torch.distributed as dist

from core.common import TrainingError
from core.device import describe_device, pick_device

KILLED = (
    "A process of this run was killed (out of memory?); finished epochs are kept: repeat the "
    "command with --resume, with as many processes as you like."
)


def launched():
    """Whether torchrun has started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def size():
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """Which of them this one is, from 0 on. The first one writes what is written."""
    return dist.get_rank() if size() > 1 else 0


def circumstances(device, precision):
    """What a run is computed with, as a record says it: `device`, `precision` and `versions`."""
    company = f", {size()} processes" if size() > 1 else ""
    versions = {
        "torch": str(torch.__version__),
        "albumentations": importlib.metadata.version("albumentations"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    where = describe_device(device) + company
    return {"device": where, "precision": precision, "versions": versions}


@contextlib.contextmanager
def joined(device=None):
    """Joins the processes that torchrun has started, by NCCL on CUDA, by gloo on CPUs.

    device: as for `pick_device`; "cuda" is the GPU of this process's number on its machine.

    What goes wrong in several of them is told by one: the others exit in silence. Raises
    TrainingError for a device that they cannot share, or where another process has died: that is
    seen from a broken connection, or from torchrun's SIGTERM, whichever is first.
    """
    if not launched():
        yield
        return
    from torch.distributed.rendezvous import rendezvous  # not every torch is built with it

    store, number, count = next(rendezvous("env://"))
    before = signal.signal(signal.SIGTERM, stopped)
    try:
        kind, index = pick_device(device).type, torch.device(device or "cpu").index
        if index is not None and count > 1:
            raise TrainingError(
                f"{count} processes have a device each; leave out its number: --device {kind}"
            )
        take_device(kind, int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count)
        yield
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if store.add("told", 1) > 1:
            sys.exit(1)
        if "closed by peer" in str(error) or "reset by peer" in str(error):
            raise TrainingError(KILLED) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if dist.is_initialized():
            dist.destroy_process_group()


def stopped(*_):
    raise TrainingError(KILLED)


def take_device(kind, number):
    """Makes "cuda" mean the GPU of this number."""
    if kind not in ("cpu", "cuda"):
        raise TrainingError(f"Several processes cannot share {kind!r}; use --device cpu.")
    if kind == "cuda" and number >= torch.cuda.device_count():
        raise TrainingError(
            f"There are more processes than GPUs here ({torch.cuda.device_count()}); "
            "lower --nproc-per-node, or use --device cpu."
        )
    if kind == "cuda":
        torch.cuda.set_device(number)


def shard(items):
    """This process's share of `items`: every so many-th. It may be empty."""
    return items[rank() :: size()]


def reseed(seed, epoch):
    """Other dropout in every process, the same after a resume: no checkpoint has to keep it."""
    if size() > 1:
        torch.manual_seed((1_000_003 * seed + epoch) * size() + rank())


def all_reduce(tensor):
    """The sum of `tensor` over all processes; it is overwritten."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def mean(sums, count):
    """`sums`, (K,) of `count` samples in this process, over all samples of all processes: (K,)."""
    if size() == 1:
        return sums / count
    *sums, count = all_reduce(torch.cat([sums, sums.new_tensor([count])])).split(1)
    return torch.cat(sums) / count


def judged(evaluation, labels, network):
    """(loss, accuracy) over the images of all processes.

    evaluation: a train.Evaluation of this process's share, whose labels are `labels`, (n,).
    """
    if size() == 1:
        return evaluation.loss, evaluation.accuracy
    correct = (evaluation.predictions == labels).sum()  # a whole number, its sum exact
    device = next(network.parameters()).device
    sums = [evaluation.loss * len(labels), correct]
    return mean(torch.tensor(sums, dtype=torch.float64, device=device), len(labels)).tolist()
