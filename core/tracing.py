"""One image through a network, and what happened to it: every operation, by whom, from what.

    with undisturbed(model) as network:
        trace = follow(network, (3, 32, 32))

Nothing is read off the code: torch reports each operation while it runs (a TorchDispatchMode, as
torch.utils.flop_counter has one), and each module's beginning and end. So it does not matter how a
forward is written. What descends from the image is told by the memory it lies in, and so are the
parameters that took part.
"""

import contextlib
import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from core.undisturbed import unchanged

CONVOLUTIONS = ("convolution", "_convolution")
POOLS = ("avg_pool2d", "max_pool2d_with_indices", "fractional_max_pool2d", "max_pool1d")
POOLS += ("max_pool2d",)  # on MPS, where a linear layer is no addmm, either
ADAPTIVE = ("_adaptive_avg_pool2d", "adaptive_max_pool2d")
MAXIMA = ("amax", "max", "topk")
PRODUCTS = {"mv": 0, "addmv": 1, "dot": 0}  # with a vector: which operand each number is used of
UNCOUNTED = ("detach", "alias", "lift_fresh")  # torch adds them as it likes
COPIES = ("clone", "_unsafe_view", "_to_copy", "copy_", "contiguous")
BATCH_NORMS = ("native_batch_norm", "_native_batch_norm_legit")
BATCH_NORMS += ("cudnn_batch_norm", "miopen_batch_norm")  # what a GPU calls it
LOCAL = (*BATCH_NORMS, "native_group_norm", "native_layer_norm", "native_dropout")
LOCAL += ("_fused_rms_norm", "channel_shuffle", "native_channel_shuffle", "glu")
# Activations that torch does not tag as pointwise.
LOCAL += ("hardswish", "hardswish_", "mish_", "_prelu_kernel", "log_sigmoid_forward")
LOCAL += ("rrelu_with_noise", "rrelu_with_noise_")


@dataclass
class Call:
    """One run of a module. `leaf`: no other module in it touched the image."""

    name: str
    module: nn.Module
    leaf: bool = True
    operations: list = field(default_factory=list)
    output: tuple = None  # shape; None where no tensor descends from the image
    sources: frozenset = frozenset()  # numbers of the operations that the output comes from

    @property
    def computing(self):
        """Its operations that multiply or have a window."""
        return [operation for operation in self.operations if operation.macs or operation.kernel]


@dataclass
class Operation:
    """What torch did once with something that descends from the image.

    number: how many operations torch had counted before, those on weights included.
    name: torch's own, e.g. "convolution" or "mean".
    call: of the innermost module that it belongs to.
    inputs: numbers of the operations that its operands come from.
    before, output: shapes of the (first) operand and of the result, the batch of 1 included.
    parameters: names of the parameters that took part, shared ones by their first.
    operands: how many of its operands come from the image.
    local: whether each position of the result comes from the same position alone.
    reduced: the dimensions that it reduces to one, where it is told so.
    kernel, stride, dilation: one number an axis; empty for what has no window.
    """

    number: int
    name: str
    call: Call
    inputs: frozenset
    before: tuple
    output: tuple
    parameters: frozenset
    operands: int
    local: bool
    reduced: tuple
    macs: int = 0
    kernel: tuple = ()
    stride: tuple = ()
    dilation: tuple = ()
    groups: int = 1
    transposed: bool = False

    @property
    def convolves(self):
        return self.name in CONVOLUTIONS

    @property
    def learns(self):
        """Whether it has weights, or takes them from the image: a fixed filter does neither."""
        return bool(self.parameters) or self.operands > 1

    @property
    def multiplies(self):
        """Whether it multiplies what comes from the image with what comes from the image."""
        return self.macs > 0 and self.operands > 1 and not self.parameters

    @property
    def positions_before(self):
        return math.prod(self.before[2:])

    @property
    def pools_all(self):
        """Whether it leaves one position of many, other than by a convolution."""
        many = len(self.before) > 2 and max(self.before[2:]) > 1
        return many and not self.convolves and max(self.output[2:], default=1) == 1


@dataclass
class Trace:
    """names: of all operations in their order; events: `Call` and `Operation` as they began."""

    names: list
    events: list
    output: object
    exits: frozenset

    def __post_init__(self):
        found = (event for event in self.events if isinstance(event, Operation))
        self.operations = {operation.number: operation for operation in found}
        self.live = self.ancestors(self.exits)

    def ancestors(self, numbers):
        """`numbers` and the numbers of all operations that they come from."""
        found, waiting = set(), list(numbers)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting.extend(self.operations[number].inputs)
        return found

    def flow(self):
        """The operations that the output comes from, in their order."""
        return [self.operations[number] for number in sorted(self.live)]


def picture(network, shape):
    """An image (1, C, H, W) of noise, of the network's kind and device."""
    first = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(0))
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    return noise.to(first.device, first.dtype)


SQUEEZED = " With two it runs: does a .squeeze() drop the batch's axis, too? Write x.flatten(1)."


def run(network, images):
    """What `forward` returns. Raises ValueError where it raises.

    What it keeps on itself, as a grid that it builds once, the next run builds again: so all runs
    have the same operations.
    """
    try:
        with unchanged(list(network.modules())):
            return network(images)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        advice = SQUEEZED if len(images) == 1 and runs(network, images.repeat(2, 1, 1, 1)) else ""
        raise ValueError(
            f"cannot follow {type(network).__name__}.forward on {len(images)} x "
            f"{tuple(images.shape[1:])} images: {reason}.{advice}"
        ) from error


def runs(network, images):
    with unchanged(list(network.modules())), contextlib.suppress(Exception):
        network(images)
        return True
    return False


def follow(network, shape):
    """The `Trace` of one image (C, H, W) through an `undisturbed` network.

    Raises ValueError where `forward` raises, or returns what does not come from the image.
    """
    image = picture(network, shape)
    watch = Watch(network, image)
    before = register_module_forward_pre_hook(watch.enter)
    after = register_module_forward_hook(watch.leave)
    try:
        with watch:
            output = run(network, image)
    finally:
        before.remove()
        after.remove()
    if not any(watch.of(tensor).image for tensor in tensors(output)):
        raise ValueError(
            f"What {type(network).__name__}.forward returns does not come from the image, or not "
            "by torch alone (NumPy?), so it cannot be followed; use tensors throughout."
        )
    return Trace(watch.names, watch.events, output, watch.sources(output))


@dataclass(frozen=True)
class Descent:
    """Where a piece of memory comes from: the image or not, which operations and parameters."""

    image: bool = False
    sources: frozenset = frozenset()
    parameters: frozenset = frozenset()


class Watch(TorchDispatchMode):
    """Writes down `names` and `events`; modules are told apart by `enter` and `leave`."""

    def __init__(self, network, image):
        super().__init__()
        self.names, self.events, self.alive = [], [], [image]
        self.known = {id(m): n.replace("_orig_mod.", "") for n, m in network.named_modules()}
        self.descent = {memory_of(image): Descent(image=True)}
        for name, parameter in network.named_parameters():
            self.descent[memory_of(parameter)] = Descent(parameters=frozenset({name}))
        self.stack = [Call("", network)]

    def enter(self, module, _inputs):
        if any(memory_of(p) not in self.descent for p in module.parameters(recurse=False)):
            raise ValueError(
                f"The network runs a {type(module).__name__} whose weights are not among its own; "
                "if it keeps layers in a list, make it an nn.ModuleList."
            )
        name = self.known.get(id(module), type(module).__name__.lower())
        self.stack.append(Call(name, module))
        self.events.append(self.stack[-1])

    def leave(self, _module, _inputs, output):
        call = self.stack.pop()
        tensor = next(tensors(output), None)
        if tensor is not None and self.of(tensor).image:
            call.output, call.sources = tuple(tensor.shape), self.of(tensor).sources
            self.stack[-1].leaf = False

    def of(self, tensor):
        return self.descent.get(memory_of(tensor), Descent())

    def sources(self, output):
        return frozenset().union(*(self.of(tensor).sources for tensor in tensors(output)))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name in UNCOUNTED:
            return func(*args, **kwargs)
        number = len(self.names)
        self.names.append(name)
        operands = list(tensors((args, kwargs)))
        output = func(*args, **kwargs)
        results = list(tensors(output))
        places = {memory_of(tensor) for tensor in operands}
        if not name.endswith("_") and all(memory_of(result) in places for result in results):
            return output  # another view of the same memory
        found = [self.of(tensor) for tensor in operands]
        looks = not name.endswith("_like") and not name.startswith("new_")  # or at the shape alone
        image = looks and any(descent.image for descent in found)
        parameters = frozenset().union(*(d.parameters for d in found if not d.image))
        sources = frozenset({number}) if image else frozenset()
        for result in results:
            self.alive.append(result)  # or its place in memory would be given to another
            self.descent[memory_of(result)] = Descent(
                image, sources, frozenset() if image else parameters
            )
        if image and results:
            first = next(t for t, d in zip(operands, found, strict=True) if d.image)
            operation = Operation(
                number,
                name,
                self.stack[-1],
                frozenset().union(*(descent.sources for descent in found)),
                tuple(first.shape),
                tuple(results[0].shape),
                parameters,
                sum(descent.image for descent in found),
                torch.Tag.pointwise in func.tags or name in LOCAL + COPIES,
                reduced(name, args, first.dim()) if name in MAXIMA else (),
                **arithmetic(func, args, kwargs, output),
            )
            self.stack[-1].operations.append(operation)
            self.events.append(operation)
        return output


def arithmetic(func, args, kwargs, output):
    """Multiply-accumulates, kernel, stride, ... of an operation, as `Operation` names them."""
    name, found = func.overloadpacket.__name__, {}
    if func.overloadpacket in flop_registry:
        found["macs"] = flop_registry[func.overloadpacket](*args, **kwargs, out_val=output) // 2
    elif name == "linear":
        found["macs"] = output.numel() * args[1].shape[1]
    elif name in PRODUCTS:
        found["macs"] = args[PRODUCTS[name]].numel()
    if name in CONVOLUTIONS:
        weight, stride, dilation = args[1], args[3], args[5]
        found |= dict(kernel=tuple(weight.shape[2:]), stride=tuple(stride))
        found |= dict(dilation=tuple(dilation), groups=args[8], transposed=args[6])
    elif name in POOLS:
        kernel = tuple(args[1])
        stride = tuple(args[2]) if len(args) > 2 and args[2] else kernel
        if name.startswith("fractional"):
            stride = kernel
        spread = args[4] if name.startswith("max_pool") and len(args) > 4 else (1,) * len(kernel)
        found |= dict(kernel=kernel, stride=stride, dilation=tuple(spread))
    elif name in ADAPTIVE:
        sides = zip(args[0].shape[-2:], args[1], strict=True)
        kernel = tuple(-(-before // after) for before, after in sides)
        found |= dict(kernel=kernel, stride=kernel, dilation=(1, 1))
    return found


def reduced(name, args, dimensions):
    """The dimensions that amax(x, dims), max(x, dim) or topk(x, k, dim) reduces; without any the
    first two reduce all, topk the last.
    """
    if name == "topk":
        return ((args[2] if len(args) > 2 else -1) % dimensions,)
    given = args[1] if len(args) > 1 and not isinstance(args[1], torch.Tensor) else ()
    given = (given,) if isinstance(given, int) else tuple(given)
    return tuple(axis % dimensions for axis in given) or tuple(range(dimensions))


def memory_of(tensor):
    """What tells the memory of a tensor from all other memory in use."""
    return tensor.untyped_storage().data_ptr()


def tensors(value):
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)
