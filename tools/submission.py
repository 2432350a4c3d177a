"""The process of one submission: loads it, measures the rules, trains it. tools/guard.py starts it.

    python -m tools.submission request.json 7    results as lines of JSON to file descriptor 7

What the submission prints goes elsewhere and cannot spoil the results. But it runs in the same
process as this code: one that wants to deceive can. See tools/grade.py.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import os
import sys
import traceback
from errno import EACCES, EFBIG, EPERM, EROFS, EXDEV
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

import analysis
import train
from core import limits
from core.common import Parser, on_purpose
from core.device import describe_device, pick_device, pick_precision
from core.forward import takes
from core.recipes import Recipe
from core.undisturbed import unwrapped
from dataset import Cifar10
from model import count_parameters

USUAL = ("Network", "Net", "Model")  # names by which a network is found
MORE_THREADS = 512  # than this user has already: for libraries, and DataLoader's workers


class Refused(Exception):
    """There is no network to be graded; the message says why, and what would be right."""


class Results:
    """The way back to the grader."""

    def __init__(self, descriptor):
        os.set_inheritable(descriptor, False)
        self.descriptor, self.process = descriptor, os.getpid()

    def send(self, **message):
        if os.getpid() != self.process:
            os._exit(0)  # a copy that the submission has made of this process
        line = (json.dumps(message) + "\n").encode()
        while line:
            line = line[os.write(self.descriptor, line) :]

    def stage(self, name):
        self.send(stage=name)


# ----------------------------------------------------------------------------------- the network


def load(path):
    """The submission as a module. Raises whatever it raises."""
    spec = importlib.util.spec_from_file_location("submission", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module  # dataclasses, for one, look there
    spec.loader.exec_module(module)
    return module


def find(module, name):
    """(name, what builds the network): the one asked for, a usual one, or the only one there is.

    Raises Refused where there is none, or more than one.
    """
    own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
    }
    if name is not None:
        if not hasattr(module, name):
            raise Refused(f"There is no {name} in it; {defined(own)}")
        return name, getattr(module, name)
    file = Path(module.__file__).name
    chosen = [key for key in USUAL if key in own] or list(own)
    chosen = [key for n, key in enumerate(chosen) if own[key] not in map(own.get, chosen[:n])]
    if len(chosen) > 1:
        alone = [key for key in chosen if takes_nothing(own[key])]
        chosen = [key for key in alone if key in USUAL or learns(own[key])] or alone
    if len(chosen) == 1:
        return chosen[0], own[chosen[0]]
    if chosen:
        raise Refused(
            f"It defines more than one network, {', '.join(chosen)}; "
            f"name the one that is meant, e.g. {file}:{chosen[-1]}."
        )
    raise Refused(
        f"No network was found in it; {defined(own)} A subclass of nn.Module is looked for that "
        "is built without arguments."
    )


def defined(own):
    return f"it defines {', '.join(own) or 'no subclass of nn.Module'}."


def takes_nothing(cls):
    """Whether the class asks for no argument: a block of a network does."""
    with contextlib.suppress(TypeError, ValueError):
        inspect.signature(cls).bind()
        return True
    return False


def learns(cls):
    """Whether it has parameters: an activation, or a loss, of one's own has none."""
    with contextlib.suppress(Exception):
        return any(True for _ in cls().parameters())
    return False


def build(name, make):
    """A network. Raises Refused where `make` does not build one that can be trained."""
    if isinstance(make, nn.Module) or not callable(make):
        raise Refused(
            f"{name} is of class {type(make).__name__}; name the network's class, "
            "which is built without arguments."
        )
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise Refused(
            f"{name} cannot be built without arguments ({error}); give them default values."
        ) from None
    network = make()
    if not isinstance(network, nn.Module):
        raise Refused(f"{name}() is of class {type(network).__name__}, which is no nn.Module.")
    unwrapped(network)  # raises ValueError for layers that have no weights yet
    if count_parameters(network) == 0:
        raise Refused(f"{name} has no parameters: there is nothing to be trained.")
    return network


def rebuilt(name, make, network):
    """Another network of the kind of `network`. Raises Refused where it has other parameters."""
    another = make()
    one, two = ([p.shape for p in net.parameters()] for net in (network, another))
    if one != two:
        raise Refused(
            f"{name} builds another network each time: {count_parameters(network):,} parameters, "
            f"then {count_parameters(another):,} (a list as a default value? a random choice?)."
        )
    return another


# ------------------------------------------------------------------------------------ the judging


def judge(request, results):
    """All that is asked, in the order of what it costs. Sends each result when it is there."""
    results.stage("reading")
    path = Path(request["file"])
    compile(path.read_bytes(), path, "exec")
    results.stage("importing")
    module = load(path)
    results.stage("building")
    name, make = find(module, request["network"])
    torch.manual_seed(request["recipe"]["seed"])
    network = build(name, make)
    results.send(network=name, parameters=count_parameters(network))
    results.stage("measuring")
    rules = [dataclasses.asdict(rule) for rule in analysis.check_assignment(network)]
    (field,) = [rule["measured"] for rule in rules if rule["rule"].startswith("receptive field")]
    results.send(rules=rules, receptive_field=field)
    results.stage("training")
    data = read_data(request["data"])
    device = pick_device(request["device"])
    results.send(device=describe_device(device))
    recipe = Recipe(**request["recipe"])
    # One that ends with nn.AvgPool2d(8) keeps every rule, but takes images of 32x32 alone.
    if not all(takes(network, side) for *_, side in recipe.views):
        recipe = dataclasses.replace(recipe, views=())
        results.send(whole_images=True)
    if recipe.channels_last and not allows_channels_last(name, make, network):
        recipe = dataclasses.replace(recipe, channels_last=False)
        results.send(contiguous=True)
    options = dict(device=device, progress=False)
    options["on_epoch"] = lambda _, history: results.send(epoch=history[-1])
    trained, record = train.fit(lambda: rebuilt(name, make, network), recipe, data, **options)
    results.stage("testing")
    seen = train.evaluate(trained, *data[2:], recipe.augment, record["precision"])
    confidence = np.nan_to_num(seen.probabilities.max(1).astype(float))
    results.send(
        record={key: record[key] for key in ("seconds", "evaluation_seconds", "precision")},
        predictions=seen.predictions.tolist(),
        confidence=confidence.round(4).tolist(),
    )


def allows_channels_last(name, make, network):
    """Whether it is no fault of that memory order's if it does not run: a .view over a map is."""
    another = rebuilt(name, make, network).train()
    for order in (torch.channels_last, torch.contiguous_format):
        with contextlib.suppress(Exception):
            another.to(memory_format=order)(torch.rand(2, 3, 32, 32).to(memory_format=order))
            return order == torch.channels_last
    return True  # the training will tell of it


def read_data(descriptor):
    """The images that the grader has put into an open file."""
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)  # the place is shared with whoever has read it before
        arrays = np.load(file)
        return Cifar10(*(arrays[name] for name in Cifar10._fields))


def sentence(error, path):
    """What an exception says, in one line, and where in the submission it was raised."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"SyntaxError in line {error.lineno}: {error.msg}"
    message = " ".join(text_of(error).split())[:300]
    if isinstance(error, Refused) or on_purpose(error):
        return message
    lines = [call for call in traceback.extract_tb(error.__traceback__) if call.filename == path]
    where = f" in line {lines[-1].lineno}" if lines else ""
    if isinstance(error, SystemExit):
        return f"It called sys.exit({message}){where}"
    return f"{type(error).__name__}{where}: {message}".removesuffix(": ")


def text_of(error):
    try:
        return str(error)
    except Exception:
        return "(its message cannot be printed)"


def kind_of(error):
    """Which limit was met, "memory", "writing", "size" (of a file) or "network", else "error"."""
    words = text_of(error) if isinstance(error, (RuntimeError, OSError)) else ""
    if isinstance(error, torch.OutOfMemoryError) or words.startswith("MPS"):
        return "error"  # the GPU's memory, which has no limit
    short = ("allocate memory", "bad_alloc", "out of memory", "not enough memory")
    if isinstance(error, MemoryError) or any(part in words.lower() for part in short):
        return "memory"
    named = isinstance(error, OSError) and error.filename  # a connection, or a signal, has no file
    if named and error.errno in (EPERM, EACCES, EXDEV, EROFS):
        return "writing"
    reason = getattr(error, "reason", error)  # urllib's error holds the system's
    if isinstance(reason, PermissionError) and reason.errno == EACCES and not named:
        return "network"
    return "size" if isinstance(error, OSError) and error.errno == EFBIG else "error"


def limit(request):
    """Takes from this process what the submission shall not have."""
    limits.die_with_parent()
    os.nice(10)  # the guard has to get its turn, whatever happens here
    on_gpu = torch.cuda.is_available() and request["device"] != "cpu"  # that reserves too much
    memory = None if on_gpu else request["limits"]["memory"]
    if limits.sees_all_processes():
        mine = [p for p in psutil.process_iter(["uids", "num_threads"]) if p.info["uids"]]
        threads = [p.info["num_threads"] or 0 for p in mine if p.info["uids"].real == os.getuid()]
        limits.limit_processes(sum(threads) + MORE_THREADS)
    limits.confine(Path(request["file"]).parent, memory, request["protect"])


def main():
    parser = Parser("-m tools.submission", description=__doc__.splitlines()[0])
    parser.add_argument("request", type=Path, help="what tools/guard.py has written")
    parser.add_argument("results", type=int, help="an open file descriptor")
    options = parser.parse_args()
    request = json.loads(options.request.read_text(encoding="utf-8"))
    results = Results(options.results)
    # A wrong device, or PRECISION, is no fault of the submission: nothing of it has begun.
    pick_precision(pick_device(request["device"]), request["recipe"]["precision"])
    limit(request)
    try:
        judge(request, results)
    except BaseException as error:  # SystemExit, too
        results.send(refused=sentence(error, request["file"]), kind=kind_of(error))
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(0)  # no thread or exit handler of the submission's goes on


if __name__ == "__main__":
    main()
