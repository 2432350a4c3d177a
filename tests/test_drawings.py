"""Pictures and tables of a network and its recipe: what was drawn is returned, and is right."""

import dataclasses
import html
import inspect
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Tiny, runs

import analysis
import model
import train
import utils
from core import drawings

pytestmark = pytest.mark.usefixtures("no_windows")


PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def test_a_convolutions_picture_has_the_image_the_numbers_and_the_sums():
    grey, nine, sums = PHOTO.mean(2) / 255, np.eye(3), np.ones((30, 30))
    assert utils.show_convolution(grey, nine, sums) is sums
    axes = plt.gcf().axes
    assert [axis.images[0].get_array().shape for axis in axes] == [(32, 32), (3, 3), (30, 30)]
    assert [text.get_text() for text in axes[1].texts] == list("100010001")


def test_in_the_drawing_a_dense_convolution_has_more_lines():
    utils.show_blocks()
    axes = {axis.get_title().split(":")[0]: axis for axis in plt.gcf().axes}

    def lines(name):
        return sum(len(line.get_xdata()) == 2 for line in axes[name].lines)

    assert lines("dense 3×3") == 4 * 4
    assert lines("depthwise-separable") == 4 + 4 * 4
    assert "x + f(x)" in [text.get_text() for text in axes["residual block"].texts]


def test_receptive_field_picture():
    layers = analysis.layers(model.MODELS["compact"]())
    fields = utils.show_receptive_field(layers, PHOTO)
    assert list(fields.values()) == sorted(fields.values())
    assert max(fields.values()) == 55
    above, below = plt.gcf().axes
    assert [patch.get_width() for patch in above.patches] == sorted(set(fields.values()))
    assert [label.get_text() for label in below.get_xticklabels()][:2] == ["C1", "C1"]


def test_layers_of_a_learners_network_draw_too():
    assert utils.show_receptive_field(analysis.layers(Tiny()), PHOTO) == {"conv": 3}
    assert plt.gcf().axes[1].get_ylim()[1] > 44  # the assignment's line is in the picture
    with pytest.raises(ValueError, match="larger than 1x1"):
        utils.show_receptive_field([], PHOTO)


def test_a_field_that_is_not_exact_is_marked():
    layer = dataclasses.replace(analysis.layers(Tiny())[0], exact=False)
    utils.show_receptive_field([layer], PHOTO)
    above, below = plt.gcf().axes
    assert "about 3 × 3" in above.get_title()
    assert [text.get_text() for text in below.texts] == ["≈ 3"]
    assert utils.layer_table([layer]).splitlines()[-1].split("|")[-2].strip() == "≈ 3"


def test_maps_are_those_that_the_network_computes():
    network, images = model.Net().eval(), torch.randn(1, 3, 32, 32)
    assert len(utils.show_maps(network, images, each=40)) == 4  # C1 has 32
    maps = utils.show_maps(network, images, each=3)
    assert [block.shape for block in maps] == [(32, 16, 16), *3 * [(64, 8, 8)]]
    assert np.allclose(maps[-1], network.features(images)[0].detach(), atol=1e-6)
    assert len(plt.gcf().axes) == 4 * 3


def test_maps_are_seen_as_the_network_chains_its_blocks():
    """With a pooling between two of them, and with one that works in its input's place."""

    class Pooled(model.Net):
        def features(self, x):
            return self.c4(self.c3(F.max_pool2d(self.c2(self.c1(x)), 2)).relu_())

    network, images = Pooled().eval(), torch.randn(1, 3, 32, 32)
    maps = utils.show_maps(network, images)
    assert [block.shape[1] for block in maps] == [16, 8, 4, 4]
    assert np.allclose(maps[-1], network.features(images)[0].detach(), atol=1e-6)
    assert not any(block._forward_hooks for block in network.children())


@pytest.mark.parametrize("network", [model.Net(), Tiny().eval()], ids=["training", "no blocks"])
def test_maps_of_another_network_are_refused(network):
    with pytest.raises(ValueError, match="must have the blocks c1, c2, c3, c4"):
        utils.show_maps(network, torch.randn(1, 3, 32, 32))


def test_code_is_shown_as_it_stands_and_its_lines_are_not_broken():
    shown = utils.code_of(model.conv_block, model.Residual)
    text = html.unescape(re.sub("<[^>]*>", "", shown)).strip()
    one, other = map(inspect.getsource, (model.conv_block, model.Residual))
    assert text == f"{one}\n{other}".strip()
    assert "white-space: pre;" in shown


def test_the_layer_table_has_every_parameter_of_a_layer_with_weights():
    table = utils.layer_table(analysis.layers(model.Net()))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    blocks, layers = zip(*(row[0].split(": ") for row in rows), strict=True)
    assert " ".join(blocks) == "C1 C1 C2 C2 C3 C3 C3 C4 OUTPUT"
    assert layers[0] == "4×4, stride 2"
    assert layers[4:6] == ("3×3, dilation 2", "3×3 depthwise")
    modules = [m for m in model.Net().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    weights = sum(map(model.count_parameters, modules))
    assert sum(int(row[2].replace(",", "")) for row in rows) == weights


def test_the_layer_table_calls_a_layer_what_it_is():
    grouped = torch.nn.Conv2d(8, 4, 3, groups=4)  # two channels each: depthwise is one
    layers = torch.nn.Conv2d(3, 4, (1, 3)), torch.nn.Conv2d(4, 8, 3, groups=4), grouped
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.LazyLinear(10))
    network(torch.zeros(1, 3, 32, 32))
    rows = utils.layer_table(analysis.layers(network)).splitlines()[2:]
    words = [row.split("|")[1].split(": ")[1].strip() for row in rows]
    assert words == ["1×3", "3×3 depthwise", "3×3, 4 groups", "linear"]


def test_a_drawing_draws_no_random_number():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    utils.show_schedule(train.RECIPES["sprint"], 10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["sprint", "compact", "strided"])
def test_the_drawn_schedule_is_the_one_that_trains(name):
    recipe = train.RECIPES[name]
    rates = utils.show_schedule(recipe, 10)
    assert len(rates) == 10 * recipe.epochs
    assert rates.max(0) == pytest.approx([r for r in (recipe.muon_lr, recipe.lr) if r], rel=0.01)
    assert rates[-1, -1] < 0.1 * recipe.lr
    drawn = [line.get_ydata() for line in plt.gca().lines]
    assert np.array_equal(np.transpose(drawn), rates)


def test_the_recipes_table_has_what_is_used_and_its_price():
    changed = {
        run: runs(0.8, 0.81, description=f"without {run}")
        for _, _, run in drawings.EXPLAINED.values()
        if run
    }
    groups = changed | {"sprint": runs(0.9, 0.91)}
    table = utils.recipe_table(train.RECIPES["sprint"], groups)
    muon = next(row for row in table.splitlines() if "`optimizer` = muon" in row)
    assert "without sgd: -10.00 (-13.04 to -6.96) points" in muon
    assert "experiments/06_sprint.ipynb" in muon
    assert "nesterov" not in table


@pytest.mark.parametrize("path", sorted({entry[1] for entry in drawings.EXPLAINED.values()} - {""}))
def test_the_lessons_that_price_a_field_are_there(path):
    assert (train.ROOT / "experiments" / f"{path}.ipynb").exists()
