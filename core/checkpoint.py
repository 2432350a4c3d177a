"""The state of an unfinished run: written after every epoch, gone on from to the identical end."""

import errno
import hashlib
import inspect
import io
import lzma
import pickle
import platform
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from core.common import RESUMED, CheckpointError, TrainingError, write_atomically
from core.distributed import circumstances
from core.recipes import DEFAULTS, settings
from core.undisturbed import unwrapped

# What torch.load and a dictionary raise for files that are none of ours.
DAMAGE = (
    OSError,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    zipfile.BadZipFile,
    NotImplementedError,
    OverflowError,
    zlib.error,
    lzma.LZMAError,
)


def identity_of(name, recipe, validate, network, data, variants=()):
    """What decides a run, as JSON keeps it: only the same one goes on from its checkpoint.

    network: before its training; its layers, their settings and the code of its own classes count.
    data: the fingerprint of the images and labels.
    variants: the functions that `train.fit` calls; their names count, of other objects what their
        method `identity` returns, or else their repr.
    """
    names = [
        getattr(one, "__qualname__", None) or getattr(one, "identity", one.__repr__)()
        for one in variants
    ]
    layers, code = architecture(network)
    return {
        "model": name,
        "recipe": settings(recipe),
        "validate": validate,
        "network": fingerprint([layers.encode()]),
        "the network's code": fingerprint([code.encode()]),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "data": data,
        "variants": [*map(without_addresses, names)],
    }


def architecture(network):
    """Two texts: the layers of a network with their settings, and the code of its classes that are
    not torch's.
    """
    lines, classes = [str(network)], set()
    for module in network.modules():
        classes |= {cls for cls in type(module).__mro__ if not cls.__module__.startswith("torch.")}
        kept = {name: value for name, value in vars(module).items() if is_setting(name, value)}
        kept.pop("training", None)  # a traced one has none
        lines.append(f"{type(module).__qualname__} {sorted(kept.items())}")
    code = sorted(map(instructions, classes - {object}))
    return [without_addresses("\n".join(text)) for text in (lines, code)]


def is_setting(name, value):
    """Whether an attribute is plain data; torch keeps a module's parts in lists with a _."""
    inner = name.startswith("_") and isinstance(value, list | dict)
    return isinstance(value, int | float | str | tuple | list | dict) and not inner


def without_addresses(text):
    """That of a function, or of an object, is another one in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def instructions(cls):
    """The compiled methods of a class, and its settings."""
    steps = []
    for name, value in sorted(vars(cls).items()):
        if is_setting(name, value) and not name.startswith("__"):
            steps.append(f"{name} = {value}")
        parts = [getattr(value, part, None) for part in ("fget", "fset", "fdel")]  # a property
        for method in (getattr(value, "__func__", value), *parts):
            method = inspect.unwrap(method)  # of what torch.no_grad, for one, has put around it
            if code := getattr(method, "__code__", None):
                values = *(method.__defaults__ or ()), *(method.__kwdefaults__ or {}).values()
                steps.append(f"{name} {[*map(constant, values)]}: {steps_of(code)}")
    return "\n".join([cls.__qualname__, *steps])


def steps_of(code):
    """Compiled code: its steps, the names, numbers and texts in it, a docstring among them."""
    inner = [constant(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"


def constant(value):
    if isinstance(value, frozenset):
        return sorted(map(repr, value))  # its own order is another one in each process
    return steps_of(value) if hasattr(value, "co_code") else value


def fingerprint(contents):
    """The first digits of the SHA-256 of arrays, or bytes."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content if isinstance(content, bytes) else np.ascontiguousarray(content))
    return digest.hexdigest()[:16]


def write_tensors(path, content):
    """torch.save, by way of memory: a full disk then says so, and does not abort."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()), RESUMED)


def read_tensors(path):
    """torch.load of a dictionary of tensors and plain data, never of code; every byte's checksum is
    tried first.

    Raises one of DAMAGE for anything else than a whole file of torch.save.
    """
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # torch does not look
    if damaged:
        raise ValueError(f"{damaged} is damaged")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, no dictionary")
    return content


def save_weights(path, network, model):
    """Writes a trained network: the name that its record has, and the weights."""
    state = unwrapped(network).state_dict()
    write_tensors(path, dict(model=model, state={name: w.cpu() for name, w in state.items()}))


def save_checkpoint(path, identity, states, history, device, precision):
    """Writes the state after an epoch.

    path: of the file; see `load_checkpoint` for the others.
    """
    state = {
        "identity": identity,
        "history": history,
        "made": circumstances(device, precision),
        "random": torch.get_rng_state(),
        "device_random": None,
        **{name: holder.state_dict() for name, holder in states.items()},
    }
    if device.type == "cuda":
        state["device_random"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["device_random"] = torch.mps.get_rng_state()
    write_tensors(path, state)


def load_checkpoint(path, identity, states, device, precision):
    """Restores `states` in place and returns the history, one dictionary for each finished epoch.

    An epoch that was computed on another device, in another precision, or with other versions, says
    so.

    Never unpickles anything but tensors and plain data.

    path: of the file.
    identity: what decides the run; a checkpoint of another one is refused.
    states: {name: what has a state_dict: model, optimiser, schedule, scaler}.
    device: the torch.device of the run.
    precision: the one that it goes on in.

    Raises CheckpointError for a file that is missing, damaged or of another run, TrainingError for
    one that cannot be read now: it may be whole.
    """
    if path is None:
        raise CheckpointError("There is nothing to resume from; say which file: checkpoint=path.")
    if not Path(path).exists():
        raise CheckpointError(
            f"There is no checkpoint {path} to resume from: the run is finished (its record is in "
            "results/ then), or not begun; start without --resume."
        )
    try:
        state = read_tensors(path)
        saved = state["identity"]
        saved["recipe"] = DEFAULTS | saved["recipe"]
    except DAMAGE as error:
        raise_if_temporary(error, path)
        raise CheckpointError(
            f"{path} is not a checkpoint of this program, or is damaged; "
            "delete it and start without --resume."
        ) from None
    saved, asked = comparable(saved, identity)
    if saved != asked:
        raise CheckpointError(
            f"{path} belongs to another run ({differences(saved, asked)}); "
            "ask for that run, or start without --resume."
        )
    try:
        for name, holder in states.items():
            if name != "scaler" or state[name]:  # without float16 it has no state
                holder.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        stayed = state["made"]["device"].startswith(device.type)
        if stayed and device.type == "cuda":
            torch.cuda.set_rng_state(state["device_random"], device)
        elif stayed and device.type == "mps":
            torch.mps.set_rng_state(state["device_random"])
        here = circumstances(device, precision)
        others = {key: v for key, v in state["made"].items() if v != here[key]}
        return [others | epoch for epoch in state["history"]]
    except DAMAGE as error:
        raise_if_temporary(error, path)
        raise CheckpointError(
            f"{path} does not fit this run ({(str(error) or repr(error)).splitlines()[0]}); "
            "delete it and start without --resume."
        ) from None


def raise_if_temporary(error, path):
    """Raises TrainingError for what may be over soon: a disk or a network that fails, a full GPU.

    The checkpoint may be whole, and days may stand in it.
    """
    if isinstance(error, TrainingError):
        raise error  # a record says so itself
    own = (None, errno.EINVAL, errno.ENOENT)  # EINVAL: of a zip
    told = isinstance(error, OSError) and error.errno not in own
    if told or isinstance(error, torch.OutOfMemoryError):
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(f"{path} cannot be read now ({reason}); repeat the command.") from None


def comparable(saved, asked):
    """Two identities without what cannot be compared.

    Each version of Python compiles the same code otherwise: between two of them the layers count.
    """
    apart = {"python"}
    if saved.get("python") != asked["python"]:
        apart.add("the network's code")
    return [{key: run[key] for key in run if key not in apart} for run in (saved, asked)]


def differences(saved, asked):
    """Where two identities differ, in words: "lr: 0.05 there, 0.1 here"."""
    saved, asked = ({**run, **run["recipe"], "recipe": None} for run in (saved, asked))
    found = [
        f"{key}: {saved.get(key)!r} there, {value!r} here"
        for key, value in ((key, asked.get(key)) for key in saved | asked)
        if saved.get(key) != value
    ]
    return "; ".join(found)
