"""What there is to judge a network by: any network, not this course's alone.

    layers(model)            every layer: output shape, parameters, multiply-accumulates, field
    receptive_field(model)   of the last map
    count_macs(model)        multiply-accumulates for one image
    check_assignment(model)  each rule with the measured value and a verdict
    summary(model)           the torchsummary table
    operations(model, recipe)   the arithmetic of a whole training
    grad_cam(model, images)  where it looks (core/looking.py)
    calibrated, fit_temperature, calibration_error: how sure it may be (core/calibration.py)

Networks take images (N, 3, 32, 32), float, and return logits (N, 10). One image is run through the
network and what happens is watched (core/tracing.py), so it does not matter how the network is
written. It is left as it was.
"""

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from core import assignment
from core.assignment import LOGITS, plain
from core.calibration import (
    calibrated as calibrated,
    calibration_error as calibration_error,
    fit_temperature as fit_temperature,
)
from core.field import Sight
from core.looking import grad_cam as grad_cam
from core.optim import make_optimizer
from core.tracing import COPIES, Call, follow, picture, run
from core.undisturbed import undisturbed
from model import count_parameters

INPUT_SHAPE = (3, 32, 32)  # (C, H, W)


@dataclass(frozen=True)
class Layer:
    """One line of `layers(model)`.

    name: of the module; of what is no module the operation's, and the module's around it.
    operation: the module's class or the operation's name.
    output: its shape without the batch, (C, H, W) or (features,).
    kernel, stride, dilation: the larger side; 1 for what has no window or pools the whole map.
    sides: of the kernel, (rows, columns); () for these.
    groups: 1 for what is no convolution.
    inputs: channels, or features, before it; after it, where it computes nothing.
    parameters: shared ones count where they are first used.
    macs: multiply-accumulates for one image.
    receptive_field: of the middle of the output, this layer included, in input pixels: the larger
        of `height` and `width`. Behind the last map it stays that of the last map.
    exact: False where the field is at least that large, or told by arithmetic: see core.field.
    """

    name: str
    operation: str
    output: tuple
    sides: tuple
    stride: int
    dilation: int
    groups: int
    inputs: int
    parameters: int
    macs: int
    receptive_field: int
    height: int
    width: int
    exact: bool

    @property
    def kernel(self):
        return max(self.sides, default=1)


def layers(model, input_shape=INPUT_SHAPE):
    """Runs one image through `model`: a list of `Layer`, in the order of execution.

    The receptive field is measured (core/field.py). In a plain network it is what arithmetic says,
    too: with each layer it grows by (kernel - 1)·dilation·jump, where the jump is the product of
    the strides *before* the layer; a layer's own stride counts from the next layer on (Araujo et
    al. 2019, distill.pub/2019/computing-receptive-fields).

    input_shape: (C, H, W) of the image.

    Raises ValueError where `model` is no network, or has layers without weights, or its `forward`
    raises, or returns what does not come from the image.
    """
    with undisturbed(model) as network:
        trace = follow(network, input_shape)
        sight = Sight(network, trace, input_shape)
        sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
        found = {}
        for event in filter(is_layer, trace.events):
            used = parameters_of(event, network)
            name = event.name if isinstance(event, Call) else f"{event.call.name}.{plain(event)}"
            name = unused(name.strip(".") or "model", found)
            found[name] = make_layer(event, name, sight, sum(sizes.pop(p, 0) for p in used))
    return list(found.values())


def is_layer(event):
    """A module with one thing to compute is a layer; in any other each operation is one."""
    if isinstance(event, Call):
        return event.leaf and event.output is not None and len(event.computing) <= 1
    return not is_layer(event.call) and event.name not in COPIES


def parameters_of(event, network):
    """Names of the parameters that a layer uses."""
    if not isinstance(event, Call):
        return event.parameters
    own = {id(parameter) for parameter in event.module.parameters()}
    return [name for name, parameter in network.named_parameters() if id(parameter) in own]


def unused(name, taken):
    """`name`, or name_1, name_2, ... where a layer is run again."""
    again = 1
    while (f"{name}_{again}" if again > 1 else name) in taken:
        again += 1
    return f"{name}_{again}" if again > 1 else name


def make_layer(event, name, sight, parameters):
    if isinstance(event, Call):
        label, sources = type(event.module).__name__, event.sources
        operation = next(iter(event.computing), None)
    else:
        label, sources, operation = plain(event), {event.number}, event
    windowed = operation is not None and operation.kernel and not operation.pools_all
    before = operation.before if operation else event.output
    field = sight.field(sources)
    return Layer(
        name=name,
        operation=label,
        output=event.output[1:],
        sides=operation.kernel if windowed else (),
        stride=max(operation.stride) if windowed else 1,
        dilation=max(operation.dilation) if windowed else 1,
        groups=operation.groups if windowed else 1,
        inputs=next(iter(before[1:]), 1),
        parameters=parameters,
        macs=operation.macs if operation else 0,
        receptive_field=field.side,
        height=field.height,
        width=field.width,
        exact=not field.limit,
    )


def receptive_field(model, input_shape=INPUT_SHAPE):
    """Side in input pixels of the square that a position of the last map can see.

    The last map before global pooling. Where the network sees all of any image it is the most that
    could be measured; where it takes images of one size only and the square sticks out of them, it
    is told by arithmetic: see `Layer.exact`, and `layers`.

    input_shape: (C, H, W) of the image.

    Raises ValueError for the same as `layers`.
    """
    with undisturbed(model) as network:
        trace = follow(network, input_shape)
        return Sight(network, trace, input_shape).field(trace.exits).side


@dataclass(frozen=True)
class Rule:
    """One rule of the assignment: what is asked, what was measured, and whether it holds."""

    rule: str
    measured: str
    passed: bool

    def __str__(self):
        return f"{'pass' if self.passed else 'FAIL'}  {self.rule}: {self.measured}"


def check_assignment(model, accuracy=None):
    """A list of `Rule`, one for each of the assignment's rules about the network.

    Its rule about augmentation is not among them: that is in the recipe, not in the network.

    accuracy: of the trained network on the test images, a fraction in 0..1, if it is known.

    What each rule means is said in core/assignment.py. Only what the output depends on counts.

    Raises ValueError where the network cannot be run (see `layers`), has no parameters, does not
    return logits (N, 10), or where the accuracy is no fraction.
    """
    known = [] if accuracy is None else [accuracy_rule(accuracy)]
    with undisturbed(model) as network:
        trace = follow(network, INPUT_SHAPE)
        refuse_other_than_logits(network, trace.output)
        sight = Sight(network, trace, INPUT_SHAPE)
        return rules_of(network, sight) + known


def accuracy_rule(accuracy):
    """The `Rule` on the test images. Raises ValueError for anything but a number in 0..1."""
    try:
        value = float(accuracy)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"accuracy={accuracy!r} is no fraction in 0..1: 85 % are 0.85.")
    told = f"{value:.2%}"
    if value < 0.85 and told == "85.00%":  # that would be enough
        told = f"{value:.4%}"
    return Rule("test accuracy >= 85 %", told, value >= 0.85)


def refuse_other_than_logits(network, output):
    """Raises ValueError where two images do not yield logits (2, 10)."""
    name = type(network).__name__
    if not count_parameters(network):
        raise ValueError(f"{name} has no parameters, so there is nothing to train.")
    returned = type(output).__name__
    if isinstance(output, torch.Tensor):
        output = run(network, picture(network, INPUT_SHAPE).repeat(2, 1, 1, 1))
        if tuple(output.shape) == (2, LOGITS):
            return
        sizes = ["N" if size == 2 else size for size in output.shape[:1]]
        returned = (*sizes, *output.shape[1:])
    raise ValueError(
        f"{name} returns {returned} for images (N, 3, 32, 32); the assignment needs logits of "
        f"shape ('N', {LOGITS}), one tensor. Flatten after the global pooling, then end with "
        f"nn.Linear(channels, {LOGITS})."
    )


def rules_of(network, sight):
    blocks, (_, output) = assignment.blocks_in(sight), assignment.convolutions_in(sight)
    child = "child" if len(blocks) == 1 else "children"
    four = f"{len(blocks)} {child} with convolutions: {few(blocks)}"
    if output is not None:
        four += f"; {assignment.where(output)} makes the logits"
    parameters, field = count_parameters(network), sight.field(sight.trace.exits)
    separable, dilated = assignment.separable_in(sight), assignment.dilated_in(sight)
    maxima = assignment.max_pools_in(sight)
    averages, fault = assignment.global_average_in(network, sight)
    return [
        Rule("four convolution blocks and an output", four, len(blocks) >= assignment.BLOCKS),
        Rule("fewer than 200,000 parameters", f"{parameters:,}", parameters < 200_000),
        Rule("receptive field > 44", str(field), field.side > 44),
        Rule("a depthwise-separable convolution", few(separable), bool(separable)),
        Rule("a dilated convolution", few(dilated), bool(dilated)),
        Rule("no max pooling", few(maxima), not maxima),
        Rule("global average pooling", fault or few(averages), bool(averages)),
    ]


def few(names):
    """The first four names, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more or "none"


def count_macs(model, input_shape=INPUT_SHAPE):
    """Multiply-accumulates for one image (C, H, W): the sum of the layers', without their fields.

    Raises ValueError for the same as `layers`.
    """
    return sum(macs_of(model, input_shape))


def macs_of(model, input_shape):
    """Multiply-accumulates of all that multiplies or has parameters, in the order of execution."""
    with undisturbed(model) as network:
        done = follow(network, input_shape).operations.values()
    return [operation.macs for operation in done if operation.macs or operation.parameters]


def operations(network, recipe, images=50_000):
    """Multiplications and additions of a whole training; the evaluations are not in it.

    Nor are the images from which averaged weights take their batch-norm statistics.

    Two for each multiply-accumulate of a layer, in three passes: forward, the gradient of the
    weights, the gradient of the maps, which the first layer does without. To these come the
    optimiser's own matrix products, counted by torch (whose counter takes the backward pass of a
    depthwise convolution for a dense one, so it is not asked for the network's).

    network: left as it was; ValueError where it cannot be run, see `layers`.
    images: how many training images an epoch has.
    """
    twin = copy.deepcopy(network)  # the step is a real one
    optimizer = make_optimizer(twin, recipe)
    for weight in twin.parameters():
        weight.grad = torch.ones_like(weight)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    steps = recipe.epochs * -(-images // recipe.batch_size)
    total = steps * counter.get_total_flops()
    epochs = range(recipe.epochs)
    sides = Counter(recipe.view_at(epoch)[2] if recipe.views else 32 for epoch in epochs)
    for side, times in sides.items():
        macs = macs_of(network, (3, side, side))
        total += times * images * 2 * (3 * sum(macs) - sum(macs[:1]))
    return total


def summary(model, input_shape=INPUT_SHAPE):
    """Prints the torchsummary table; the model and the random state stay as they were.

    On the model itself torchsummary would move BatchNorm's running statistics and draw random
    numbers.
    """
    import torchsummary

    with undisturbed(model) as network:
        first = next(network.parameters(), torch.zeros(0))
        if (first.device.type, first.dtype) != ("cpu", torch.float32):  # it knows nothing else
            network = copy.deepcopy(network).cpu().float()
        torchsummary.summary(network, tuple(input_shape), device="cpu")
