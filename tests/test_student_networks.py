"""Networks as students publish them for this assignment, cut down; the verdicts told by hand."""

import pytest
import torch
import torch.nn.functional as F
from test_assignment import judged
from torch import nn
from torch.nn import BatchNorm2d, Conv2d, Dropout, Linear, ReLU, Sequential


def block(inputs, outputs, kernel=3, **options):
    options = dict(padding=kernel // 2, bias=False) | options
    return [Conv2d(inputs, outputs, kernel, **options), ReLU(), BatchNorm2d(outputs), Dropout(0.1)]


class Numbered(nn.Module):
    """convblock1 ... convblock8, max pooling, a 1x1 convolution for the logits, view."""

    def __init__(self):
        super().__init__()
        self.convblock1 = Sequential(*block(3, 8))
        self.convblock2 = Sequential(*block(8, 16))
        self.pool1 = nn.MaxPool2d(2, 2)
        self.convblock3 = Sequential(*block(16, 8, 1))
        self.convblock4 = Sequential(*block(8, 16))
        self.convblock5 = Sequential(*block(16, 16, padding=0))
        self.gap = Sequential(nn.AvgPool2d(kernel_size=14))
        self.convblock6 = Sequential(Conv2d(16, 10, 1, bias=False))

    def forward(self, x):
        x = self.convblock3(self.pool1(self.convblock2(self.convblock1(x))))
        x = self.gap(self.convblock5(self.convblock4(x)))
        return F.log_softmax(self.convblock6(x).view(-1, 10), dim=-1)


class SeparableConv(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.depthwise = Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm = BatchNorm2d(inputs)
        self.pointwise = Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        return F.relu(self.pointwise(F.relu(self.norm(self.depthwise(x)))))


class Transitions(nn.Module):
    """C1C2C3C4O: blocks with 1x1 transitions, the last with dilation and a stride of 2."""

    def __init__(self):
        super().__init__()
        self.c1 = Sequential(*block(3, 16), SeparableConv(16, 16), SeparableConv(16, 16))
        self.c2 = Sequential(*block(16, 16, 1), SeparableConv(16, 24), SeparableConv(24, 24))
        self.c3 = Sequential(*block(24, 32, dilation=4, padding=4))
        self.c4 = Sequential(*block(32, 32, dilation=8, padding=8), Conv2d(32, 32, 1, stride=2))
        self.gap, self.fc = nn.AdaptiveAvgPool2d((1, 1)), Linear(32, 10)

    def forward(self, x):
        x = self.c4(self.c3(self.c2(self.c1(x))))
        x = self.gap(x)
        return self.fc(x.view(x.size(0), -1))


class PrepLayers(nn.Module):
    """Prep, layer1, layer2, layer3 with shortcuts and max pooling, for one-cycle training."""

    def __init__(self):
        super().__init__()
        self.prep = Sequential(*block(3, 8))
        self.layer1, self.res1 = self.layer(8, 16), Sequential(*block(16, 16), *block(16, 16))
        self.layer2 = self.layer(16, 16)
        self.pool, self.linear = nn.MaxPool2d(4), Linear(64, 10, bias=False)

    def layer(self, inputs, outputs):
        conv = Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return Sequential(conv, nn.MaxPool2d(2), BatchNorm2d(outputs), ReLU())

    def forward(self, x):
        x = self.layer1(self.prep(x))
        x = self.layer2(x + self.res1(x))
        return self.linear(self.pool(x).flatten(1))


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = Sequential()
        if stride > 1:
            self.shortcut = Sequential(Conv2d(inputs, outputs, 1, stride), BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """conv1, layer1 ... layer3, F.avg_pool2d over what is left."""

    def __init__(self):
        super().__init__()
        self.conv1, channels = Conv2d(3, 8, 3, 1, 1), 8
        for number, stride in ((1, 1), (2, 2), (3, 2)):
            first = BasicBlock(channels, channels * stride, stride)
            channels *= stride
            setattr(self, f"layer{number}", Sequential(first, BasicBlock(channels, channels, 1)))
        self.linear = Linear(32, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.conv1(x)))))
        return self.linear(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class InvertedResidual(nn.Module):
    def __init__(self, channels, excite):
        super().__init__()
        wide = 4 * channels
        self.expand, self.project = Conv2d(channels, wide, 1), Conv2d(wide, channels, 1)
        self.depthwise = Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.squeeze, self.excite = Conv2d(wide, channels, 1), Conv2d(channels, wide, 1)
        self.gated = excite

    def forward(self, x):
        y = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        if self.gated:
            gate = F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))
            y = y * F.hardsigmoid(self.excite(gate))
        return x + self.project(y)


def mobile(excite):
    features = [Conv2d(3, 16, 3, 2, 1), *[InvertedResidual(16, excite) for _ in range(4)]]
    return Sequential(Sequential(*features), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Linear(16, 10))


class LeNet(nn.Module):
    """The beginners' tutorial: max pooling, flatten, three linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = Conv2d(3, 6, 5), Conv2d(6, 16, 5)
        self.fc1, self.fc2 = Linear(16 * 5 * 5, 40), Linear(40, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


class Branches(nn.Module):
    """Branches with several dilations, concatenated."""

    def __init__(self):
        super().__init__()
        self.stem = Sequential(*block(3, 8, stride=2))
        self.branches = nn.ModuleList(
            Sequential(*block(8, 8, dilation=d, padding=d)) for d in (1, 4, 8, 12)
        )
        self.mix, self.output = Conv2d(32, 16, 1), Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([branch(x) for branch in self.branches], dim=1)
        return self.output(self.mix(x).mean(dim=[-2, -1]))


class Shuffled(nn.Module):
    """Grouped 1x1 convolutions and a channel shuffle: not dense, so not pointwise."""

    def __init__(self):
        super().__init__()
        self.stem = Sequential(*block(3, 8, stride=2))
        self.first, self.second = Conv2d(8, 8, 1, groups=2), Conv2d(8, 8, 1, groups=2)
        self.depthwise, self.output = Conv2d(8, 8, 3, padding=1, groups=8), Linear(8, 10)

    def forward(self, x):
        x = self.first(self.stem(x))
        x = x.view(x.size(0), 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.output(self.second(self.depthwise(x)).mean((2, 3)))


class Mixer(nn.Module):
    """Patches, then depthwise 9x9 with a residual and 1x1, as in ConvMixer."""

    def __init__(self):
        super().__init__()
        self.patches = Sequential(Conv2d(3, 16, 2, 2), nn.GELU(), BatchNorm2d(16))
        self.deep = nn.ModuleList(Conv2d(16, 16, 9, groups=16, padding="same") for _ in range(3))
        self.wide = nn.ModuleList(Conv2d(16, 16, 1) for _ in range(3))
        self.output = Linear(16, 10)

    def forward(self, x):
        x = self.patches(x)
        for deep, wide in zip(self.deep, self.wide, strict=True):
            x = F.gelu(wide(x + F.gelu(deep(x))))
        return self.output(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


class Twenty(nn.Module):
    """One long nn.Sequential; norms of groups; logits by a 3x3 convolution before the pooling."""

    def __init__(self):
        super().__init__()
        layers = [Conv2d(3, 8, 3, padding=1), nn.GroupNorm(1, 8), ReLU()]
        for dilation in (1, 2, 4, 8):
            layers += [Conv2d(8, 8, 3, padding=dilation, dilation=dilation), nn.GroupNorm(4, 8)]
        layers += [Conv2d(8, 10, 3), nn.AdaptiveAvgPool2d(1)]
        self.model = Sequential(*layers)

    def forward(self, x):
        return F.log_softmax(self.model(x).reshape(-1, 10), dim=1)


class Coordinates(nn.Module):
    """Two channels that say where one is, made once for each size, as in CoordConv."""

    def __init__(self, sized):
        super().__init__()
        self.sized, self.grid = sized, None
        self.layers = Sequential(*block(5, 8, dilation=2, padding=2), *block(8, 8), *block(8, 8))
        self.layers.append(Sequential(*block(8, 16, 9)))
        self.output = Linear(16, 10)

    def forward(self, x):
        if self.grid is None or (self.sized and self.grid.shape[2:] != x.shape[2:]):
            rows, columns = (torch.linspace(-1, 1, side) for side in x.shape[2:])
            self.grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        x = torch.cat([x, self.grid.expand(len(x), -1, -1, -1)], 1)
        return self.output(self.layers(x).mean((2, 3)))


class Odd(nn.Module):
    """Four equal blocks, with something that was once judged wrongly."""

    def __init__(self, how):
        super().__init__()
        self.how, self.skip = how, Conv2d(32, 32, 1)
        self.c1, self.c2, self.c3, self.c4 = (Sequential(*block(n, 32)) for n in (3, 32, 32, 32))
        self.output = Linear(32, 10)
        self.register_buffer("prototypes", torch.randn(32, 10))

    def forward(self, x):
        if self.how == "half precision inside":
            with torch.autocast(x.device.type, torch.bfloat16):
                return self.scores(x)
        if self.how == "shifted in place":
            x -= 0.5
        return self.scores(x)

    def scores(self, x):
        x = self.c1(x)
        skip = self.skip(x) if self.how == "shortcut first" else 0
        x = self.c3(self.c2(x)) + skip
        if self.how == "loudest channel":  # of 32, at 32x32
            x = x * x.permute(0, 2, 3, 1).amax(-1, keepdim=True).permute(0, 3, 1, 2)
        x = self.c4(x).mean((2, 3))
        return x @ self.prototypes if self.how == "prototypes" else self.output(x)


ODD = ("half precision inside", "shifted in place", "shortcut first", "loudest channel")
ALL = "at least 64: it sees all of an image of that size"
STUDENTS = {  # blocks, field, separable, dilated, no max pooling, average
    "numbered": (Numbered, (5, "14", False, False, False, True)),
    "transitions": (Transitions, (4, "35", True, True, True, True)),
    "prep": (PrepLayers, (4, "32", False, False, False, False)),
    "resnet": (ResNet, (4, "53", False, False, True, True)),
    "mobile": (lambda: mobile(excite=False), (5, "19", True, False, True, True)),
    "mobile, gated": (lambda: mobile(excite=True), (5, ALL, True, False, True, True)),
    "lenet": (LeNet, (2, "16", False, False, False, False)),
    "branches": (Branches, (3, "51", False, True, True, True)),
    "shuffled": (Shuffled, (4, "7", False, False, True, True)),
    "mixer": (Mixer, (3, "50", True, False, True, True)),
    "coordinates": (lambda: Coordinates(False), (4, "17", False, True, True, True)),
    "coordinates by size": (lambda: Coordinates(True), (4, "17", False, True, True, True)),
    "twenty": (Twenty, (5, "35", False, True, True, True)),
}


@pytest.mark.parametrize("how", [*ODD, "prototypes"])
def test_how_it_is_written_changes_no_verdict(how):
    assert judged(Odd(how)) == (4, "9", False, False, True, True)


@pytest.mark.parametrize("name", STUDENTS)
def test_students_networks_are_judged_rightly(name):
    network, expected = STUDENTS[name]
    assert judged(network()) == expected


def test_what_a_network_kept_of_an_earlier_batch_changes_no_verdict():
    """As long as its field lies within an image; else it has to take a larger one, too."""
    network, expected = Coordinates(True), STUDENTS["coordinates by size"][1]
    network(torch.zeros(1, 3, 32, 32))
    kept = network.grid
    assert judged(network) == expected
    assert network.grid is kept


def test_layers_in_a_plain_list_are_not_the_networks():
    """They would count as no parameters, and never be trained."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = [Conv2d(3, 8, 3), nn.BatchNorm2d(8)]
            self.output = Linear(8, 10)

        def forward(self, x):
            return self.output(self.blocks[1](self.blocks[0](x)).mean((2, 3)))

    with pytest.raises(ValueError, match="runs a Conv2d whose weights are not among its own"):
        judged(Hidden())
