"""Small convolutional networks for CIFAR-10, and the arithmetic to judge them by.

Seven networks answer one assignment: 85 % on CIFAR-10 with fewer than 200,000 parameters, four convolution blocks C1 C2 C3 C4
and an output, no max pooling, at least one depthwise-separable and one dilated convolution, global average pooling and a
receptive field of more than 44 pixels. Not all of them keep every rule; `check_assignment` says which do.

    MODELS                   name -> class: net, frontier (ours), strided, wide, dilated, compact, stacked (published student answers)
    layers(model)            every layer with its output shape, parameters, multiply-accumulates and receptive field
    receptive_field(model)   the last of those receptive fields
    check_assignment(model)  each rule with the measured value and a verdict; works on your own network too
    summary(model)           the torchsummary table

All networks take normalised images (N, 3, 32, 32), float, and return logits (N, 10). This file imports nothing of the others.
"""

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import nn

INPUT_SHAPE = (3, 32, 32)  # (C, H, W)
NUM_CLASSES = 10


# ----------------------------------------------------------------------------------------------------------------- blocks


def conv_block(
    inputs, outputs, kernel=3, stride=1, padding=None, dilation=1, groups=1, bias=False, dropout=0.0
):
    """Convolution, batch normalisation, ReLU and, if `dropout` > 0, dropout: (N, inputs, H, W) -> (N, outputs, H', W').

    `padding=None` keeps the size at stride 1.
    """
    padding = dilation * (kernel - 1) // 2 if padding is None else padding
    block = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*block, *([nn.Dropout(dropout)] if dropout else []))


def separable_block(
    inputs, outputs, kernel=3, stride=1, padding=None, bias=False, dropout=0.0, pointwise_stride=1
):
    """Depthwise-separable convolution (MobileNet, arXiv:1704.04861), then batch normalisation, ReLU and dropout.

    The depthwise convolution filters every channel on its own (groups = channels); the 1x1 pointwise convolution mixes them.
    kernel²·inputs + inputs·outputs weights instead of kernel²·inputs·outputs. The published networks put neither
    normalisation nor ReLU between the two, and neither do we.
    """
    padding = (kernel - 1) // 2 if padding is None else padding
    block = [
        nn.Conv2d(inputs, inputs, kernel, stride, padding, groups=inputs, bias=bias),  # depthwise
        nn.Conv2d(inputs, outputs, 1, pointwise_stride, bias=bias),  # pointwise
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*block, *([nn.Dropout(dropout)] if dropout else []))


class Residual(nn.Sequential):
    """x + layers(x), where the layers keep the shape (N, C, H, W). He et al. 2015, arXiv:1512.03385."""

    def forward(self, x):
        return x + super().forward(x)


class GlobalAveragePool(nn.Module):
    """Mean over all positions: (N, C, H, W) -> (N, C, 1, 1).

    nn.AdaptiveAvgPool2d(1) computes the same, but hands back its gradient in NCHW order; where all else is channels-last, the ReLU
    before it then waits for its memory (experiments/05_sprint.ipynb has the price).
    """

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)[:, :, None, None]


# --------------------------------------------------------------------------------------------------------------- networks


class FourBlocks(nn.Module):
    """The common plan C1 C2 C3 C4 O: subclasses set `c1`..`c4`, `pool` and `output`."""

    def features(self, x):
        """The map before global pooling: (N, 3, 32, 32) -> (N, C, H, W)."""
        return self.c4(self.c3(self.c2(self.c1(x))))

    def forward(self, x):
        return self.output(self.pool(self.features(x)))  # (N, C, 1, 1) -> (N, 10)


class Net(FourBlocks):
    """`net`, ours: 145,866 parameters, receptive field 52, made to learn fast on a CPU.

    The first convolution halves the map at once, since maps of 32x32 cost most; everything that keeps its shape is
    residual; the dilated and the depthwise-separable convolution work at 8x8, where they are cheap and see far.
    """

    def __init__(self):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 32, kernel=4, stride=2), Residual(conv_block(32, 32))
        )  # 16x16
        self.c2 = nn.Sequential(conv_block(32, 64, stride=2), Residual(conv_block(64, 64)))  # 8x8
        self.c3 = nn.Sequential(
            Residual(conv_block(64, 64, dilation=2)), Residual(separable_block(64, 64))
        )
        self.c4 = conv_block(64, 64)
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(64, NUM_CLASSES))


class FrontierNet(FourBlocks):
    """`frontier`, ours: 172,634 parameters, receptive field 65, made to be accurate.

    The plan of He et al. 2015 (arXiv:1512.03385) for CIFAR-10: residual convolutions, 16 channels
    at 32x32, twice as many at half the side. It was chosen among others of this size by its
    accuracy on held-out images (experiments/06_frontier.ipynb).

    widths: channels at 32x32, 16x16 and 8x8.
    depths: residual convolutions there; at 8x8 a dilated and a depthwise-separable one follow.
    """

    def __init__(self, widths=(16, 32, 64), depths=(2, 3, 2)):
        super().__init__()
        a, b, c = widths
        self.c1 = nn.Sequential(conv_block(3, a), *residuals(a, depths[0]))  # 32x32
        self.c2 = nn.Sequential(conv_block(a, b, stride=2), *residuals(b, depths[1]))  # 16x16
        self.c3 = nn.Sequential(conv_block(b, c, stride=2), *residuals(c, depths[2]))  # 8x8
        self.c4 = nn.Sequential(
            Residual(conv_block(c, c, dilation=2)), Residual(separable_block(c, c))
        )
        self.pool = GlobalAveragePool()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(c, NUM_CLASSES))


def residuals(channels, count):
    """`count` residual 3x3 convolutions."""
    return [Residual(conv_block(channels, channels)) for _ in range(count)]


class StridedNet(FourBlocks):
    """`strided`: 154,544 parameters, receptive field 37. Strides shrink the map, late layers are depthwise-separable.

    `padding` is that of the three depthwise convolutions: 8x8 -> 8 -> 8 -> 4. The source's text writes 0 (8x8 -> 6 -> 4 -> 1), its
    parameter count fits both, and 0 is less accurate (experiments/00_five_networks.py).
    """

    def __init__(self, padding=1, dropout=0.05):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 16, dropout=dropout),  # 32x32
            conv_block(16, 32, stride=2, dropout=dropout),  # 16x16
        )
        self.c2 = nn.Sequential(
            conv_block(32, 64, dropout=dropout),
            conv_block(64, 64, kernel=1, dropout=dropout),
            conv_block(64, 64, kernel=1),
        )
        self.c3 = nn.Sequential(
            conv_block(64, 96, stride=2, dropout=dropout),  # 8x8
            separable_block(96, 128, padding=padding, dropout=dropout),
            separable_block(128, 128, padding=padding, dropout=dropout),
        )
        self.c4 = nn.Sequential(
            separable_block(128, 128, stride=2, padding=padding, dropout=dropout),
            conv_block(128, 128, kernel=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Sequential(nn.Conv2d(128, NUM_CLASSES, 1, bias=False), nn.Flatten())


class WideNet(FourBlocks):
    """`wide`: 2,034,040 parameters, receptive field 33. Ten times over budget; its "depthwise" convolution has 3 groups."""

    def __init__(self, dropout=0.01):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 32),  # 32x32
            conv_block(32, 30, padding=0),  # 30x30
            conv_block(30, 30, groups=3, bias=True),
            conv_block(30, 32, kernel=1, bias=True),
        )
        self.c2 = nn.Sequential(
            conv_block(32, 64, dilation=2, padding=1),  # 28x28
            conv_block(64, 64, dilation=2, padding=1),  # 26x26
            conv_block(64, 64, dilation=2, padding=1),  # 24x24
        )
        self.c3 = nn.Sequential(conv_block(64, 128), conv_block(128, 128), conv_block(128, 128))
        self.c4 = nn.Sequential(conv_block(128, 128), conv_block(128, 256), conv_block(256, 128))
        self.pool = nn.AvgPool2d(3)  # 24x24 -> 8x8: not global
        self.output = nn.Sequential(
            nn.Flatten(),  # (N, 8192)
            nn.Dropout(dropout),
            nn.Linear(128 * 8 * 8, 100),
            nn.Linear(100, NUM_CLASSES),
        )


class DilatedNet(FourBlocks):
    """`dilated`: 195,946 parameters, receptive field 45. No padding, stride in the pointwise convolutions, dilation 3."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.c1 = nn.Sequential(
            conv_block(3, 32, padding=0), conv_block(32, 32, padding=0)
        )  # 30x30, 28x28
        self.c2 = nn.Sequential(
            conv_block(32, 64, padding=0),  # 26x26
            separable_block(64, 64, padding=0, pointwise_stride=2),  # 24x24 -> 12x12
        )
        self.c3 = nn.Sequential(
            conv_block(64, 128, padding=0),  # 10x10
            separable_block(128, 128, padding=0, pointwise_stride=2),  # 8x8 -> 4x4
        )
        self.c4 = nn.Sequential(
            conv_block(128, 64, kernel=2, padding=3),  # 9x9
            conv_block(64, 64, dilation=3, bias=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, NUM_CLASSES))


class CompactNet(FourBlocks):
    """`compact`: 150,738 parameters, receptive field 55. Depthwise-separable layers alternate with strided dense ones."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Sequential(conv_block(3, 16), separable_block(16, 24, bias=True))  # 32x32
        self.c2 = nn.Sequential(
            conv_block(24, 32, stride=2), separable_block(32, 48, bias=True)
        )  # 16x16
        self.c3 = nn.Sequential(
            conv_block(48, 64, stride=2), conv_block(64, 64, dilation=2, bias=True)
        )  # 8x8
        self.c4 = nn.Sequential(
            conv_block(64, 96, stride=2),  # 4x4
            separable_block(96, 128, bias=True),
            conv_block(128, 48, kernel=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(48, NUM_CLASSES))


class StackedNet(FourBlocks):
    """`stacked`: 118,546 parameters, receptive field 49. Four equal blocks without any stride; global *max* pooling."""

    def __init__(self, dropout=0.1):
        super().__init__()
        for number in (1, 2, 3, 4):
            block = nn.Sequential(
                conv_block(
                    3 if number == 1 else 64, 24, dilation=2, padding=1, dropout=dropout
                ),  # each loses 2 pixels
                conv_block(24, 48, dilation=2, padding=1, dropout=dropout),
                separable_block(48, 64, dropout=dropout),
                separable_block(64, 64),
            )
            self.add_module(f"c{number}", block)
        self.pool = nn.AdaptiveMaxPool2d(1)  # 16x16 -> 1x1
        self.output = nn.Sequential(nn.Conv2d(64, NUM_CLASSES, 1), nn.Flatten())


MODELS = {
    "net": Net,
    "frontier": FrontierNet,
    "strided": StridedNet,
    "wide": WideNet,
    "dilated": DilatedNet,
    "compact": CompactNet,
    "stacked": StackedNet,
}


# ------------------------------------------------------------------------------------------------------------- arithmetic


@dataclass(frozen=True)
class Layer:
    """One line of `layers(model)`.

    `receptive_field` is in input pixels and includes this layer; `jump` is the distance, in input pixels, between
    neighbouring outputs of this layer. `operation` is the module class or function name.
    """

    name: str
    operation: str
    output: tuple  # without the batch: (C, H, W) or (features,)
    kernel: int
    stride: int
    dilation: int
    groups: int
    parameters: int
    macs: int  # multiply-accumulates for one image
    receptive_field: int
    jump: int


def layers(model, input_shape=INPUT_SHAPE):
    """Follows one image through `model.forward` and returns a list of `Layer`, in the order of execution.

    The receptive field grows by (kernel - 1)·dilation·jump, where the jump is the product of the strides *before* the
    layer; a layer's own stride counts from the next layer on (Araujo et al. 2019, distill.pub/2019/computing-receptive-fields).
    Where branches meet, the largest wins. Pooling over the whole map adds nothing.

    The model is copied; its weights, BatchNorm statistics and mode stay as they are.

    Raises ValueError where torch.fx cannot follow `forward` (branches that depend on the data) or the shapes do not fit.
    """
    network = copy.deepcopy(model).cpu().float().eval()
    try:
        graph = torch.fx.symbolic_trace(network)
        shapes = _Shapes(graph)
        with torch.no_grad():
            shapes.run(torch.zeros(1, *input_shape))
    except Exception as error:
        raise ValueError(
            f"cannot follow {type(model).__name__}.forward on a {tuple(input_shape)} image: {error} "
            "The layers must fit each other, and forward must not branch on its data."
        ) from error
    found, reach = [], {}  # reach: node -> (receptive field, jump) of its output
    for node in graph.graph.nodes:
        field, jump = max((reach[n] for n in node.all_input_nodes if n in reach), default=(1, 1))
        if node.op in ("call_module", "call_function", "call_method") and node in shapes.outputs:
            layer = _layer(node, graph, shapes.outputs, field, jump)
            field, jump = layer.receptive_field, layer.jump
            found.append(layer)
        reach[node] = (field, jump)
    return found


class _Shapes(torch.fx.Interpreter):
    """Remembers the output shape of every node that yields a tensor."""

    def __init__(self, graph):
        super().__init__(graph)
        self.outputs = {}

    def run_node(self, node):
        result = super().run_node(node)
        if isinstance(result, torch.Tensor):
            self.outputs[node] = tuple(result.shape[1:])
        return result


def _layer(node, graph, outputs, field, jump):
    module = graph.get_submodule(node.target) if node.op == "call_module" else None
    operation = (
        type(module).__name__ if module else getattr(node.target, "__name__", str(node.target))
    )
    output, before = outputs[node], outputs.get(node.all_input_nodes[0], ())
    kernel, stride, dilation, groups, macs = 1, 1, 1, 1, 0
    if isinstance(module, nn.Conv2d):
        kernel, stride, dilation, groups = (
            _largest(module.kernel_size),
            module.stride[0],
            module.dilation[0],
            module.groups,
        )
        macs = module.weight[0].numel() * torch.Size(output).numel()
    elif isinstance(module, nn.Linear):
        macs = module.weight.numel()
    elif (
        "pool" in operation.lower() and "adaptive" not in operation.lower() and output[1:] != (1, 1)
    ):
        arguments = (
            vars(module)
            if module
            else dict(zip(("kernel_size", "stride"), node.args[1:], strict=False)) | node.kwargs
        )
        kernel = _largest(arguments["kernel_size"])
        stride = _largest(arguments.get("stride") or kernel)
    elif len(before) == 3 == len(output) and before[1] > output[1] > 1:
        stride = before[1] // output[1]  # slicing, or adaptive pooling to more than one pixel
    return Layer(
        name=str(node.target) if module else node.name,
        operation=operation,
        output=output,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        groups=groups,
        parameters=sum(p.numel() for p in module.parameters()) if module else 0,
        macs=macs,
        receptive_field=field + (kernel - 1) * dilation * jump,
        jump=jump * stride,
    )


def _largest(size):
    return max(size) if isinstance(size, tuple) else size


def receptive_field(model, input_shape=INPUT_SHAPE):
    """Side, in input pixels, of the square that one position of the last map before global pooling can see."""
    return layers(model, input_shape)[-1].receptive_field


def count_parameters(model):
    """All parameters, frozen ones included (torchsummary counts shared layers twice; this does not)."""
    return sum(p.numel() for p in model.parameters())


@dataclass(frozen=True)
class Rule:
    """One rule of the assignment: what is asked, what was measured, and whether it holds."""

    rule: str
    measured: str
    passed: bool

    def __str__(self):
        return f"{'pass' if self.passed else 'FAIL'}  {self.rule}: {self.measured}"


def check_assignment(model, accuracy=None):
    """Returns a list of `Rule`, one for each rule of the assignment. `accuracy` is a fraction in 0..1, if already known.

    Raises ValueError where the network cannot be followed (see `layers`) or does not return logits (N, 10).
    """
    found = layers(model)
    if found[-1].output != (NUM_CLASSES,):
        raise ValueError(
            f"{type(model).__name__} returns {('N', *found[-1].output)} for images (N, 3, 32, 32); the assignment needs "
            f"logits of shape ('N', {NUM_CLASSES}). Flatten, then end with nn.Linear(channels, {NUM_CLASSES})."
        )
    convolutions = [layer for layer in found if layer.operation == "Conv2d"]
    pairs = [
        first.name
        for first, second in itertools.pairwise(convolutions)
        if first.groups == first.output[0] > 1
        and first.kernel > 1
        and second.kernel == 1
        and second.groups == 1
    ]
    dilated = [layer.name for layer in convolutions if layer.kernel > 1 and layer.dilation > 1]
    max_pools = [
        layer.name
        for layer in found
        if "max" in layer.operation.lower() and "pool" in layer.operation.lower()
    ]
    averages = [
        layer for layer in found if "avg" in layer.operation.lower() or layer.operation == "mean"
    ]
    global_averages = [layer.operation for layer in averages if layer.output[1:] in ((1, 1), ())]
    blocks = [
        n
        for n, child in model.named_children()
        if any(isinstance(m, nn.Conv2d) for m in child.modules())
    ]
    parameters, field = count_parameters(model), found[-1].receptive_field
    rules = [
        Rule(
            "four convolution blocks and an output",
            f"{len(blocks)} children with convolutions: {_few(blocks)}",
            len(blocks) >= 4,
        ),
        Rule("fewer than 200,000 parameters", f"{parameters:,}", parameters < 200_000),
        Rule("receptive field > 44", str(field), field > 44),
        Rule("a depthwise-separable convolution", _few(pairs), bool(pairs)),
        Rule("a dilated convolution", _few(dilated), bool(dilated)),
        Rule("no max pooling", _few(max_pools), not max_pools),
        Rule("global average pooling", _few(global_averages), bool(global_averages)),
    ]
    if accuracy is not None:
        rules.append(Rule("test accuracy >= 85 %", f"{accuracy:.2%}", accuracy >= 0.85))
    return rules


def _few(names):
    return (
        ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "none"
    )


def summary(model, input_shape=INPUT_SHAPE):
    """Prints the torchsummary table, for a copy on the CPU, and leaves the random state as it was.

    On the model itself torchsummary would move BatchNorm's running statistics and draw random numbers.
    """
    import torchsummary

    with torch.random.fork_rng(devices=[]):
        torchsummary.summary(copy.deepcopy(model).cpu().float(), tuple(input_shape), device="cpu")
