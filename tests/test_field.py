"""Receptive fields, measured: against the arithmetic, and where arithmetic does not reach."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import analysis


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def conv(inputs=4, outputs=4, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, **options)


def last(*modules, shape=(3, 32, 32)):
    layer = analysis.layers(nn.Sequential(*modules), shape)[-1]
    return layer.height, layer.width, layer.exact


def random_stack(seed):
    """Convolutions and poolings with rectangular windows, and their field by the arithmetic."""
    draw = random.Random(seed)
    modules, channels, sides, jumps, field = [], 3, [32, 32], [1, 1], [1, 1]
    for _ in range(draw.randint(3, 9)):
        kernel, stride, dilation = (
            tuple(draw.choice(sizes) for _ in sides)
            for sizes in ((1, 2, 3, 3, 5), (1, 1, 2, 3), (1, 1, 2, 3))
        )
        kind = draw.choice(("conv", "conv", "average", "maximum"))
        dilation = (1, 1) if kind == "average" else dilation
        padding = tuple(draw.randint(0, size // 2) for size in kernel)
        spans = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        after = [
            (side + 2 * pad - span - 1) // step + 1
            for side, pad, span, step in zip(sides, padding, spans, stride, strict=True)
        ]
        if min(after) < 2:
            continue
        if kind == "conv":
            modules += [nn.Conv2d(channels, 4, kernel, stride, padding, dilation), nn.ReLU()]
            channels = 4
        elif kind == "average":
            modules.append(nn.AvgPool2d(kernel, stride, padding))
        else:
            modules.append(nn.MaxPool2d(kernel, stride, padding, dilation))
        sides = after
        field = [size + span * jump for size, span, jump in zip(field, spans, jumps, strict=True)]
        jumps = [jump * step for jump, step in zip(jumps, stride, strict=True)]
    return modules, (*field, True)


@pytest.mark.parametrize("seed", range(50))
def test_plain_stacks_agree_with_the_arithmetic(seed):
    modules, field = random_stack(seed)
    assert last(*modules) == field


def pad_left(x):
    return F.pad(x, (8, 0, 0, 0))


def patches(x):
    return F.unfold(x, 4, stride=4).view(len(x), 48, x.shape[2] // 4, x.shape[3] // 4)


KINDS = {  # modules, height, width
    "rectangular": ([conv(3, 4, (1, 7)), conv(4, 4, (5, 1))], 5, 7),
    "all on one side": (
        [Do(pad_left), conv(3, 4, (1, 9)), Do(pad_left), conv(4, 4, (1, 9))],
        1,
        17,
    ),
    "holes wider than an image": ([conv(3), conv(dilation=100, padding=100)], 203, 203),
    "shortcut": ([conv(3), Do(lambda x: F.avg_pool2d(x, 3, 1, 1) + x), conv(kernel=1)], 5, 5),
    "dense": ([conv(3), Do(lambda x: torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)), conv(8)], 7, 7),
    "transposed": (
        [
            conv(3, stride=2, padding=1),
            nn.ConvTranspose2d(4, 4, 2, 2),
            conv(4, 4, 5),
            conv(4, 4, 5),
        ],
        11,
        11,
    ),
    "to a fixed size": (
        [nn.Upsample(size=(224, 224)), conv(3), *[conv() for _ in range(21)]],
        8,
        8,
    ),
    "bilinear": ([conv(3, 4, 2, stride=2), nn.Upsample(scale_factor=2, mode="bilinear")], 4, 4),
    "pixel shuffle": ([conv(3, 16, 2, stride=2), nn.PixelShuffle(2), conv()], 4, 4),
    "pixel unshuffle": ([nn.PixelUnshuffle(2), conv(12)], 6, 6),
    "slices": ([Do(lambda x: x[:, :, ::2, ::2]), conv(3), conv()], 9, 9),
    "patches by unfold": ([Do(patches), conv(48)], 12, 12),
    "a choice": ([conv(3), Do(lambda x: torch.where(x > 0, x, torch.zeros(1))), conv()], 5, 5),
    "a mask": ([conv(3), Do(lambda x: (x > 0).float()), conv()], 5, 5),
    "group norm": ([conv(3), nn.GroupNorm(2, 4), conv(), nn.InstanceNorm2d(4), conv()], 7, 7),
    "norm of a layer": ([conv(3), Do(lambda x: F.layer_norm(x, x.shape[1:])), conv()], 5, 5),
    "statistics of the batch": (
        [conv(3), nn.BatchNorm2d(4, track_running_stats=False), conv()],
        5,
        5,
    ),
    "one layer sees all": ([conv(3, 4, 4, stride=4), conv(4, 10, 8), nn.Flatten()], 32, 32),
    "strides to the end": ([conv(3, 3, stride=2, padding=1) for _ in range(5)], 63, 63),
    "flattened": (
        [
            conv(3, 4, 4, stride=4),
            *[conv(padding=1) for _ in range(8)],
            nn.Flatten(),
            nn.Linear(256, 10),
        ],
        68,
        68,
    ),
    "no layer": ([nn.Identity()], 1, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_no_formula_for_stacks_tells(kind):
    modules, height, width = KINDS[kind]
    assert last(*modules) == (height, width, True)


def squeeze(x):
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def attend(x):
    tokens = x.flatten(2)
    weights = (tokens.transpose(1, 2) @ tokens).softmax(-1)
    return x + (tokens @ weights).view_as(x)


@pytest.mark.parametrize("everything", [squeeze, attend])
def test_what_sees_all_of_any_image_says_at_least(everything):
    height, width, exact = last(conv(3, 4, 4, stride=4), Do(everything), conv())
    assert min(height, width) > 44
    assert not exact


class OneSize(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.patches, self.place = conv(3, 4, 4, stride=4), nn.Parameter(torch.zeros(4, 8, 8))
        self.layers = nn.Sequential(*[conv(padding=1) for _ in range(depth)])
        self.output = nn.Linear(4, 10)

    def forward(self, x):
        return self.output(self.layers(self.patches(x) + self.place).mean((2, 3)))


def test_the_field_of_a_network_for_one_size_is_told_by_arithmetic_where_it_sticks_out():
    inside, beyond = (analysis.layers(OneSize(depth))[-1] for depth in (1, 6))
    assert (inside.receptive_field, inside.exact) == (12, True)
    assert (beyond.receptive_field, beyond.exact) == (52, False)
    unsure = OneSize(1)
    unsure.layers = nn.Sequential(conv(), nn.ConvTranspose2d(4, 4, 2, 2), *[conv() for _ in "ab"])
    assert str(analysis.check_assignment(unsure)[2]).startswith("FAIL")
    enough, too_little = (analysis.check_assignment(OneSize(depth))[2] for depth in (6, 5))
    assert enough.measured.startswith("52, by arithmetic: the network takes no larger image, or")
    assert (enough.passed, too_little.passed) == (True, False)


def test_images_need_not_be_square():
    assert last(conv(3, 4, (1, 7)), conv(), shape=(3, 64, 48)) == (3, 9, True)


def test_weights_that_are_no_numbers_do_not_matter():
    network = nn.Sequential(conv(3), nn.BatchNorm2d(4), nn.ReLU(), conv())
    for value in network.parameters():
        value.data.fill_(torch.nan)
    assert analysis.receptive_field(network) == 5
    assert network[0].weight.isnan().all()


def test_a_map_without_rows_may_be_enlarged():
    class Enlarged(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.output = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 10)

        def forward(self, x):
            x = F.interpolate(self.conv(x).flatten(2), scale_factor=2)  # (N, C, L)
            return self.output(x.mean(2))

    assert analysis.receptive_field(Enlarged()) == 3
