"""Runs a network that belongs to others, `with undisturbed(model) as network`, leaving no trace."""

import copy
import itertools
import sys
import warnings
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


def unwrapped(model):
    """The network inside torch.compile, DataParallel or DistributedDataParallel.

    Raises ValueError where `model` is no network that can be run.
    """
    if isinstance(model, type):
        raise ValueError(f"{model.__name__} is a class; hand over a network, {model.__name__}().")
    if not isinstance(model, nn.Module):
        raise ValueError(f"{type(model).__name__} is no network; hand over a torch.nn.Module.")
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    weights = model.parameters()
    if any(isinstance(p, nn.parameter.UninitializedParameter) or p.is_meta for p in weights):
        raise ValueError(
            f"{type(model).__name__} has layers without weights (lazy, or on the meta device); "
            "give it some and run one batch through it."
        )
    return model


@contextmanager
def undisturbed(model):
    """Yields the network of `model`, ready to be run in evaluation mode, and then undoes all of it.

    Nothing is copied, for what keeps an activation cannot be. Weights, statistics, modes, the
    random state and whatever the modules keep on themselves are afterwards as they were; hooks on
    outputs, with which activations are kept elsewhere, do not run.
    """
    network = unwrapped(model)
    modules = list(network.modules())
    values = itertools.chain(network.parameters(), network.buffers())
    values = [(value, value.detach(), value.detach().clone()) for value in values]
    devices = {value.device for value, _, _ in values if value.device.type == "cuda"}
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(unchanged(modules))
        stack.enter_context(torch.random.fork_rng(devices=list(devices)))
        if any(value.device.type == "mps" for value, _, _ in values):
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        if "torch._dynamo" in sys.modules:  # else nothing here is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the others hide what they do
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for hooks in (vars(module).get(name) for module in modules for name in HOOKS):
                if hooks:
                    hooks.clear()
            for value, _, _ in values:
                if value.is_floating_point() and not value.isfinite().all():  # it has diverged
                    value.nan_to_num_(1, 1, -1)
            network.eval()
            yield network
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            restore(values)


@contextmanager
def unchanged(modules):
    """Whatever the modules keep on themselves is afterwards as it was, the numbers in it apart."""
    contents = [(vars(module), memory(module)) for module in modules]
    try:
        yield
    finally:
        for attributes, (kept, holders) in contents:
            attributes.clear()
            attributes.update(kept)
            for holder, content in holders:
                holder.clear()
                holder.extend(content) if isinstance(holder, list) else holder.update(content)


def memory(module):
    """The attributes of a module, and what lists, sets and dictionaries in them hold."""
    kept, holders = vars(module).copy(), {}
    waiting = list(kept.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | set) and id(value) not in holders:
            holders[id(value)] = value, copy.copy(value)
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return kept, list(holders.values())


def restore(values):
    for value, alias, content in values:
        if value.data_ptr() != alias.data_ptr():
            value.data = alias
        if not torch.equal(alias, content):  # a copy would void a backward pass still to come
            alias.copy_(content)
