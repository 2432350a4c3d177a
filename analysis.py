"""The arithmetic to judge a network by: any network, not this course's alone.

    layers(model)            every layer: output shape, parameters, multiply-accumulates, field
    receptive_field(model)   the last of those receptive fields
    check_assignment(model)  each rule with the measured value and a verdict
    summary(model)           the torchsummary table

Networks take images (N, 3, 32, 32), float, and return logits (N, 10). This file imports none of
the others.
"""

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp

INPUT_SHAPE = (3, 32, 32)  # (C, H, W)
LOGITS = 10


@dataclass(frozen=True)
class Layer:
    """One line of `layers(model)`.

    name: of the module, or of the function's node.
    operation: the module's class or the function's name.
    output: its shape without the batch, (C, H, W) or (features,).
    kernel, stride, dilation, groups: 1 for what is no convolution and no pooling.
    macs: multiply-accumulates for one image.
    receptive_field: side in input pixels, this layer included.
    jump: input pixels between neighbouring outputs of this layer.
    """

    name: str
    operation: str
    output: tuple
    kernel: int
    stride: int
    dilation: int
    groups: int
    parameters: int
    macs: int
    receptive_field: int
    jump: int


def layers(model, input_shape=INPUT_SHAPE):
    """Follows one image through `model.forward`: a list of `Layer`, in the order of execution.

    The receptive field grows by (kernel - 1)·dilation·jump, where the jump is the product of the
    strides *before* the layer; a layer's own stride counts from the next layer on (Araujo et al.
    2019, distill.pub/2019/computing-receptive-fields). Where branches meet, the largest wins.
    Pooling over the whole map adds nothing.

    The model is copied; its weights, BatchNorm statistics and mode stay as they are.

    input_shape: (C, H, W) of the image.

    Raises ValueError where torch.fx cannot follow `forward` (branches that depend on the data) or
    the shapes do not fit.
    """
    graph = _trace(model, input_shape)
    traced = []
    reach = {}  # node -> (receptive field, jump) of its output
    for node in graph.graph.nodes:
        before = [reach[source] for source in node.all_input_nodes if source in reach]
        field, jump = max(before, default=(1, 1))
        if node.op.startswith("call") and _shape(node) is not None:
            layer = _layer(node, graph, field, jump)
            field, jump = layer.receptive_field, layer.jump
            traced.append(layer)
        reach[node] = (field, jump)
    return traced


def _trace(model, input_shape):
    """The graph of a copy of `model`, every node with the shape of its output."""
    network = copy.deepcopy(model).cpu().float().eval()
    try:
        graph = torch.fx.symbolic_trace(network)
        with torch.no_grad():
            ShapeProp(graph).propagate(torch.zeros(1, *input_shape))
    except Exception as error:
        raise ValueError(
            f"cannot follow {type(model).__name__}.forward on a {tuple(input_shape)} image: "
            f"{error} The layers must fit each other, and forward must not branch on its data."
        ) from error
    return graph


def _shape(node):
    """The output shape of a node without the batch; None where it yields no tensor."""
    tensor = node.meta.get("tensor_meta")
    return tuple(tensor.shape[1:]) if hasattr(tensor, "shape") else None


def _layer(node, graph, field, jump):
    module = graph.get_submodule(node.target) if node.op == "call_module" else None
    operation = type(module).__name__
    if module is None:
        operation = getattr(node.target, "__name__", str(node.target))
    output, before = _shape(node), _shape(node.all_input_nodes[0]) or ()
    kernel, stride, dilation, groups, macs = 1, 1, 1, 1, 0
    if isinstance(module, nn.Conv2d):
        kernel, stride, dilation = largest(module.kernel_size), module.stride[0], module.dilation[0]
        groups = module.groups
        macs = module.weight[0].numel() * torch.Size(output).numel()
    elif isinstance(module, nn.Linear):
        macs = module.weight.numel()
    elif _pools_locally(operation, output):
        kernel, stride = _window(node, module)
    elif len(before) == 3 == len(output) and before[1] > output[1] > 1:
        stride = before[1] // output[1]  # slicing, or adaptive pooling to more than one pixel
    return Layer(
        name=node.name if module is None else str(node.target),
        operation=operation,
        output=output,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        groups=groups,
        parameters=count(module) if module is not None else 0,
        macs=macs,
        receptive_field=field + (kernel - 1) * dilation * jump,
        jump=jump * stride,
    )


def _pools_locally(operation, output):
    word = operation.lower()
    return "pool" in word and "adaptive" not in word and output[1:] != (1, 1)


def _window(node, module):
    """Kernel and stride of a pooling module or of a call such as F.max_pool2d(x, 2)."""
    if module is not None:
        arguments = vars(module)
    else:
        named = zip(("kernel_size", "stride"), node.args[1:], strict=False)
        arguments = dict(named) | node.kwargs
    kernel = largest(arguments["kernel_size"])
    return kernel, largest(arguments.get("stride") or kernel)


def largest(size):
    """The larger of two sides, or the one number that stands for both."""
    return max(size) if isinstance(size, tuple) else size


def count(module):
    """All parameters, frozen ones included, shared ones once (torchsummary counts them twice)."""
    return sum(parameter.numel() for parameter in module.parameters())


def receptive_field(model, input_shape=INPUT_SHAPE):
    """Side in input pixels of the square that a position of the last map can see.

    The last map before global pooling; see `layers`.
    """
    return layers(model, input_shape)[-1].receptive_field


@dataclass(frozen=True)
class Rule:
    """One rule of the assignment: what is asked, what was measured, and whether it holds."""

    rule: str
    measured: str
    passed: bool

    def __str__(self):
        return f"{'pass' if self.passed else 'FAIL'}  {self.rule}: {self.measured}"


def check_assignment(model, accuracy=None):
    """A list of `Rule`, one for each rule of the assignment.

    accuracy: of the trained network on the test images, in 0..1, if it is known.

    Raises ValueError where the network cannot be followed (see `layers`) or does not return logits
    (N, 10).
    """
    traced = layers(model)
    if traced[-1].output != (LOGITS,):
        raise ValueError(
            f"{type(model).__name__} returns {('N', *traced[-1].output)} for images "
            f"(N, 3, 32, 32); the assignment needs logits of shape ('N', {LOGITS}). "
            f"Flatten, then end with nn.Linear(channels, {LOGITS})."
        )
    blocks = blocks_of(model)
    parameters, field = count(model), traced[-1].receptive_field
    separable, dilated = separable_in(traced), dilated_in(traced)
    maxima, averages = max_pools_in(traced), global_averages_in(traced)
    four = f"{len(blocks)} children with convolutions: {few(blocks)}"
    rules = [
        Rule("four convolution blocks and an output", four, len(blocks) >= 4),
        Rule("fewer than 200,000 parameters", f"{parameters:,}", parameters < 200_000),
        Rule("receptive field > 44", str(field), field > 44),
        Rule("a depthwise-separable convolution", few(separable), bool(separable)),
        Rule("a dilated convolution", few(dilated), bool(dilated)),
        Rule("no max pooling", few(maxima), not maxima),
        Rule("global average pooling", few(averages), bool(averages)),
    ]
    if accuracy is not None:
        rules.append(Rule("test accuracy >= 85 %", f"{accuracy:.2%}", accuracy >= 0.85))
    return rules


def blocks_of(model):
    """Names of the children of `model` that have convolutions."""
    children = model.named_children()
    return [name for name, child in children if any(map(is_convolution, child.modules()))]


def is_convolution(module):
    return isinstance(module, nn.Conv2d)


def separable_in(traced):
    """Names of depthwise convolutions that a dense 1x1 convolution follows."""
    convolutions = [layer for layer in traced if layer.operation == "Conv2d"]
    return [
        depthwise.name
        for depthwise, pointwise in itertools.pairwise(convolutions)
        if depthwise.groups == depthwise.output[0] > 1
        and depthwise.kernel > 1
        and pointwise.kernel == pointwise.groups == 1
    ]


def dilated_in(traced):
    """Names of dilated convolutions; a 1x1 kernel cannot be."""
    return [layer.name for layer in traced if layer.kernel > 1 and layer.dilation > 1]


def max_pools_in(traced):
    """Names of maximum poolings."""
    words = {layer.name: layer.operation.lower() for layer in traced}
    return [name for name, word in words.items() if "max" in word and "pool" in word]


def global_averages_in(traced):
    """Operations that average over all positions of a map."""
    return [
        layer.operation
        for layer in traced
        if ("avg" in layer.operation.lower() or layer.operation == "mean")
        and layer.output[1:] in ((1, 1), ())
    ]


def few(names):
    """The first four names, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more or "none"


def summary(model, input_shape=INPUT_SHAPE):
    """Prints the torchsummary table for a copy on the CPU; the random state stays as it was.

    On the model itself torchsummary would move BatchNorm's running statistics and draw random
    numbers.
    """
    import torchsummary

    with torch.random.fork_rng(devices=[]):
        torchsummary.summary(copy.deepcopy(model).cpu().float(), tuple(input_shape), device="cpu")
