"""The state of an unfinished run: written after every epoch, gone on from to the identical end."""

import dataclasses
import json
import pickle
from pathlib import Path

import torch

from core.common import TrainingError, write_atomically

# What torch.load and a dictionary raise for files that are none of ours.
DAMAGE = (
    OSError,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
)


def identity_of(name, recipe, precision, validate):
    """What decides a run, as JSON keeps it: a checkpoint can be gone on from by the same alone."""
    used = dataclasses.asdict(recipe) | {"precision": precision}
    return dict(model=name, recipe=json.loads(json.dumps(used)), validate=validate)


def save_weights(path, network, model, record):
    """Writes a trained network: the name in MODELS, the file of its record, the weights."""
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    saved = dict(model=model, record=record, state=state)
    write_atomically(path, lambda file: torch.save(saved, file))


def save_checkpoint(path, identity, states, history, device):
    """Writes the state after an epoch.

    path: of the file; see `load_checkpoint` for the others.
    """
    state = {
        "identity": identity,
        "history": history,
        "random": torch.get_rng_state(),
        "device_random": None,
        **{name: holder.state_dict() for name, holder in states.items()},
    }
    if device.type == "cuda":
        state["device_random"] = torch.cuda.get_rng_state(device)
    write_atomically(path, lambda file: torch.save(state, file))


def load_checkpoint(path, identity, states, device):
    """Restores `states` in place and returns the history, one dictionary for each finished epoch.

    Never unpickles anything but tensors and plain data.

    path: of the file.
    identity: what decides the run; a checkpoint of another one is refused.
    states: {name: what has a state_dict: model, optimiser, schedule, scaler}.
    device: the torch.device of the run.

    Raises TrainingError for a file that is missing, damaged or of another run.
    """
    if path is None or not Path(path).exists():
        raise TrainingError(
            f"There is no checkpoint {path} to resume from; start without --resume."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["identity"]
    except DAMAGE:
        raise TrainingError(
            f"{path} is not a checkpoint of this program, or is damaged; "
            "delete it and start without --resume."
        ) from None
    if saved != identity:
        raise TrainingError(
            f"{path} belongs to another run ({differences(saved, identity)}); "
            "ask for that run, or start without --resume."
        )
    for name, holder in states.items():
        holder.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device_random"], device)
    return state["history"]


def differences(saved, asked):
    """Where two identities differ, in words: "lr: 0.05 there, 0.1 here"."""
    saved, asked = ({**run, **run["recipe"], "recipe": None} for run in (saved, asked))
    return "; ".join(
        f"{key}: {saved.get(key)!r} there, {value!r} here"
        for key, value in asked.items()
        if saved.get(key) != value
    )
