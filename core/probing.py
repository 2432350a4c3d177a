"""Runs of a network that was followed once, with something put in to see where it comes out.

Probe: NaN, "not a number", in the image; where does it arrive?
Push: a change of one map; which of the later results change with it?
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from core.tracing import BATCH_NORMS, CONVOLUTIONS, COPIES, UNCOUNTED, memory_of, tensors
from core.undisturbed import unchanged

# Pointwise operations that make a number of NaN, besides those that answer yes or no.
FORGETFUL = ("where", "sign", "sgn", "heaviside", "nan_to_num", "fmax", "fmin", "copysign")
LAYER_NORMS = ("native_layer_norm", "_fused_rms_norm")


class Rerun(TorchDispatchMode):
    """Runs a network again and hands each operation with its number to `step`.

    names: of the operations of the first run. Where another one comes, as for an image of another
        size it may, the rest cannot be compared and is not handed on.
    """

    def __init__(self, names):
        super().__init__()
        self.names, self.number, self.lost = names, 0, False

    def run(self, network, image):
        """An exception in `forward` ends it, as of a Linear layer after a map of another size."""
        image = image.clone()  # what is done to it in place is done to this run's alone
        try:
            with self, unchanged(list(network.modules())):
                network(image)
        except Exception:
            self.lost = True
        return self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, number, kwargs = func.overloadpacket.__name__, self.number, kwargs or {}
        if name in UNCOUNTED:
            return func(*args, **kwargs)
        self.number += 1
        self.lost = self.lost or number >= len(self.names) or self.names[number] != name
        if self.lost:
            return func(*args, **kwargs)
        return self.step(number, name, func, args, kwargs)


class Probe(Rerun):
    """Carries NaN from operation to operation, exactly.

    Torch's kernels do so themselves, with exceptions that are made good here. Convolutions: fast
    algorithms compute neighbours together, so NaN could arrive beside where it belongs; here their
    result is NaN where a window covers NaN, and else as it was without (which also costs less than
    to convolve). Comparisons and the like forget NaN. Upsampling multiplies some neighbours by
    zero. The statistics of normalisation layers look at the whole map; as those of BatchNorm in
    evaluation they are not counted as seeing.

    clean: the Probe of an image without NaN, whose `kept` are the results of convolutions, and the
        numbers by which a forward decides how it goes on: with NaN it is to decide alike.
    centres: number -> (dimension, index); `found`[number] tells whether NaN arrived there.
    """

    def __init__(self, names, clean=None, centres=None):
        super().__init__(names)
        self.clean, self.centres = clean, centres or {}
        self.kept, self.shapes, self.found, self.hidden = {}, {}, {}, {}

    def step(self, number, name, func, args, kwargs):
        if self.clean is None:
            output = func(*args, **kwargs)
            if name in CONVOLUTIONS or name in DECISIONS:
                self.kept[number] = output
        elif name in DECISIONS:
            output = self.clean.kept[number]
        elif func.namespace != "aten":  # NaN may crash it: as an offset of its own, for one
            output = self.whole(func, args, kwargs)
        elif name in CONVOLUTIONS:
            output = footprint(func, args, self.clean.kept[number])
        elif of_a_map(name, args):
            output = normalised(func, args, kwargs)
        elif name.startswith("upsample"):
            covered = func(args[0].isnan().to(args[0].dtype), *args[1:], **kwargs) != 0
            output = func(args[0].nan_to_num(), *args[1:], **kwargs).masked_fill(covered, torch.nan)
        elif torch.Tag.pointwise in func.tags or name in COPIES:
            output = self.pointwise(name, func, args, kwargs)
        else:
            output = func(*args, **kwargs)
        result = next(tensors(output), None)
        if result is not None:
            self.shapes[number] = tuple(result.shape)
        if number in self.centres:
            self.found[number] = result.select(*self.centres[number]).isnan().any()
        return output

    def whole(self, func, args, kwargs):
        """An operation that is not torch's own sees all of its operands."""
        lost = any(tensor.isnan().any() for tensor in tensors((args, kwargs)))
        output = func(*tree_map(without_nan, args), **tree_map(without_nan, kwargs))
        for result in tensors(output) if lost else ():
            result.fill_(torch.nan if result.is_floating_point() else 0)
        return output

    def pointwise(self, name, func, args, kwargs):
        """`hidden` keeps for yes and no, which cannot be NaN, where they were made of NaN."""
        operands = list(tensors((args, kwargs)))
        forgets = name in FORGETFUL or any(memory_of(t) in self.hidden for t in operands)
        to_whole = name == "_to_copy" and not kwargs.get("dtype", torch.float).is_floating_point
        forgets = forgets or to_whole or name in YES_OR_NO
        on_mps = name not in COPIES and any(t.device.type == "mps" for t in operands)
        forgets = forgets or on_mps  # where ReLU made 0 of NaN
        if not forgets and any(t.is_floating_point() for t in operands):
            return func(*args, **kwargs)
        masks = [self.hidden_in(operand) for operand in operands]
        output = func(*args, **kwargs)
        mask = torch.zeros_like(output, dtype=torch.bool)
        for part in masks:
            mask |= part
        if output.is_floating_point():
            return output.masked_fill_(mask, torch.nan)
        self.hidden[memory_of(output)] = (mask, output)
        return output

    def hidden_in(self, tensor):
        """Where a tensor was made of NaN."""
        mask, _ = self.hidden.get(memory_of(tensor), (None, None))
        if mask is None:
            return tensor.isnan()
        return mask if mask.shape == tensor.shape else mask.any()


def of_a_map(name, args):
    """Whether a normalisation takes its statistics from several positions.

    Of a layer norm over one axis that is taken for the channels'.
    """
    if name in LAYER_NORMS:
        return len(args[1]) > 1
    return name == "native_group_norm" or (name in BATCH_NORMS and args[5])


DECISIONS = ("_local_scalar_dense", "equal")  # a tensor's number, for Python's `if`
YES_OR_NO = ("gt", "ge", "lt", "le", "eq", "ne", "isnan", "isinf", "isfinite", "signbit")
YES_OR_NO += ("logical_not", "logical_and", "logical_or")


def without_nan(value):
    return value.nan_to_num() if isinstance(value, torch.Tensor) else value


def footprint(func, args, clean):
    """The result of a convolution, given that without NaN: NaN where a window covers NaN."""
    image, weight, groups = args[0], args[1], args[8]
    lost = image.unflatten(1, (groups, -1)).sum(2).isnan()
    if (lost == lost[:, :1]).all():  # all groups lose the same, and one tells of all
        lost = lost[:, :1]
    masks = lost.shape[1]
    ones = torch.ones(masks, 1, *weight.shape[2:], device=image.device)
    covered = func(lost.float(), ones, None, *args[3:8], masks, *args[9:]) > 0.5
    nan = torch.zeros_like(covered, dtype=clean.dtype).masked_fill_(covered, torch.nan)
    nan += weight.sum() * 0  # a weight may come from the image, too
    return (clean.unflatten(1, (groups, -1)) + nan.unsqueeze(2)).flatten(1, 2)


def normalised(func, args, kwargs):
    """The result of a normalisation with the statistics of the numbers alone."""
    lost = args[0].isnan()
    output = func(args[0].nan_to_num(), *args[1:], **kwargs)
    return (output[0].masked_fill(lost, torch.nan), *output[1:])


class Push(Rerun):
    """Adds `change` to the result of operation `at`, and keeps the results of `watched`.

    rough: whether some of these have fewer digits than float32.
    """

    def __init__(self, names, at, change, watched):
        super().__init__(names)
        self.at, self.change, self.watched, self.kept = at, change, watched, {}
        self.rough = False

    def step(self, number, name, func, args, kwargs):
        output = func(*args, **kwargs)
        result = next(tensors(output), None)
        if number == self.at:
            result += self.change.to(result.dtype)
        if number in self.watched:
            self.kept[number] = result.cpu().double()  # MPS has no float64
            self.rough = self.rough or result.dtype in (torch.bfloat16, torch.float16)
        return output
