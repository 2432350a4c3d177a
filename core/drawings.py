"""A network and its recipe as pictures and tables; what all pictures of the course look like.

Handed on by utils. Every function draws with matplotlib and returns what it has drawn. Figures are
at most WIDTH inches wide and their panels stand one below the other: so they can be read on a
phone. Colours are Okabe and Ito's, safe for the colour-blind.
"""

import inspect
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from core.optim import make_optimizer, make_schedule
from core.recipes import EXPLAINED, in_use
from core.records import effect, markdown

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WIDTH = 6.5  # inches
CHANNELS = 4  # in the drawing of a depthwise-separable convolution
styled = plt.rc_context(
    {
        "font.size": 11,
        "axes.labelsize": 12,
        "axes.titlesize": 12,
        "grid.alpha": 0.3,
        "figure.facecolor": "white",  # not transparent: dark mode would swallow the text
    }
)


def grid_of(rows, columns, cell=1.0, caption=0.0):
    """Axes (rows, columns) for images, `cell` inches each, with room for a `caption` above."""
    size = (columns * cell, rows * (cell + caption))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    figure.set_layout_engine("tight", pad=0.4)
    return axes


def show_grid(pictures, columns):
    """Pictures (N, H, W, 3), `columns` in a row."""
    axes = grid_of(-(-len(pictures) // columns), columns, cell=WIDTH / columns)
    for axis, picture in zip(axes.flat, pictures, strict=False):
        axis.imshow(picture, interpolation="nearest")
    plt.show()


def draw_row(axes, name, images, **options):
    """Images side by side, and the name before the first of them.

    options: of `imshow`.
    """
    for axis, image in zip(axes, images, strict=True):
        axis.imshow(image, interpolation="nearest", **options)
    axes[0].set_ylabel(name, rotation=0, ha="right", va="center")


# ------------------------------------------------------------------------------------- one network


@styled
def show_convolution(grey, kernel, result):
    """A grey image, the numbers slid over it, and what came out. Returns `result`.

    grey: (H, W), 0..1.
    kernel: (3, 3).
    result: (H - 2, W - 2), of either sign; it is drawn blue below zero, red above.
    """
    _, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.7), layout="tight", width_ratios=(2, 1, 2))
    axes[0].imshow(grey, cmap="gray", vmin=0, vmax=1)
    axes[1].imshow(kernel, cmap="RdBu_r", vmin=-3, vmax=3)
    for (row, column), number in np.ndenumerate(kernel):
        axes[1].text(column, row, f"{number:g}", ha="center", va="center")
    most = np.abs(result).max()
    axes[2].imshow(result, cmap="RdBu_r", vmin=-most, vmax=most)
    titles = ("image\n{} × {}".format(*grey.shape), "nine\nnumbers")
    for axis, title in zip(axes, (*titles, "sums\n{} × {}".format(*result.shape)), strict=True):
        axis.set(xticks=[], yticks=[], title=title)
    plt.show()
    return result


@styled
def show_blocks():
    """Drawings: the residual block, and a dense beside a depthwise-separable convolution."""
    layout = [["residual", "residual"], ["dense", "separable"]]
    options = dict(figsize=(WIDTH, 5.4), layout="tight", width_ratios=(1, 1.45))
    axes = plt.subplot_mosaic(layout, height_ratios=(1, 1.6), **options)[1]
    for axis in axes.values():
        axis.set_axis_off()
    draw_residual(axes["residual"])
    draw_channels(axes["dense"], 2)
    axes["dense"].set_title("dense 3×3:\nall channels at once")
    draw_channels(axes["separable"], 3)
    axes["separable"].set_title("depthwise-separable:\neach on its own, then all mixed")
    plt.show()


def draw_residual(axis):
    """x goes through three layers, and around them."""
    places = {"x": 0, "conv\n3×3": 1.6, "batch\nnorm": 3.2, "ReLU": 4.8, "+": 6.2, "x + f(x)": 7.8}
    for name, place in places.items():
        box = dict(boxstyle="round,pad=0.35", facecolor="#E3F0F8" if name != "+" else "#FBE3D6")
        plain = name.startswith("x")
        axis.text(place, 0, name, ha="center", va="center", bbox=None if plain else box)
    arrow = dict(arrowstyle="->", color="black", shrinkA=17, shrinkB=17)
    for start, end in itertools.pairwise(places.values()):
        room = 0.5 if end > 7 else 0.12  # for the longest name
        axis.annotate("", (end - room, 0), (start, 0), arrowprops=arrow | dict(shrinkB=14))
    around = arrow | dict(color=ORANGE, connectionstyle="arc3,rad=-0.28", linewidth=2)
    axis.annotate("", (6.2, 0.1), (0, 0.1), arrowprops=around)
    axis.text(3.1, 1.12, "x, unchanged", ha="center", color=ORANGE)
    axis.text(3.2, -0.85, "f(x): the block", ha="center", color=BLUE)
    axis.set(xlim=(-0.4, 8.6), ylim=(-1, 1.5), title="residual block")


def draw_channels(axis, columns):
    """Which channel reads which: two columns are one dense step, three a depthwise and a 1x1."""
    names = ("in", "out") if columns == 2 else ("in", "3×3\neach", "out\n1×1")
    for left in range(columns - 1):
        depthwise = columns == 3 and left == 0
        for one in range(CHANNELS):
            for other in range(CHANNELS):
                if one == other or not depthwise:
                    colour = COLOURS[one] if depthwise else GREY
                    axis.plot([left, left + 1], [one, other], color=colour, linewidth=1.5)
    for column, name in enumerate(names):
        for channel in range(CHANNELS):
            mixed = column == columns - 1  # such a channel comes from all the inputs
            colour = GREY if mixed else COLOURS[channel]
            axis.plot(column, channel, "s", color=colour, markersize=15)
        axis.text(column, -0.6, name, ha="center", va="top")
    axis.set(xlim=(-0.35, columns - 0.65), ylim=(-1.6, CHANNELS - 0.5))


@styled
def show_receptive_field(layers, image):
    """The square that each convolution's centre output sees, on one image, uint8 (32, 32, 3).

    layers: of analysis.layers. Returns {layer name: side in pixels}.

    Raises ValueError where no layer has a kernel larger than 1x1.
    """
    fields = {layer.name: layer.receptive_field for layer in layers if layer.kernel > 1}
    if not fields:
        raise ValueError("No layer has a kernel larger than 1x1: there is no field to be drawn.")
    sides = sorted(set(fields.values()))
    colours = dict(zip(sides, plt.cm.viridis(np.linspace(0, 0.85, len(sides))), strict=True))
    _, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 8), layout="tight")
    side = max(*sides, 32) + 4
    corner = (side - 32) // 2
    canvas = np.full((side, side, 3), 255, np.uint8)
    canvas[corner : corner + 32, corner : corner + 32] = image
    above.imshow(canvas, interpolation="nearest")
    for field, colour in colours.items():
        low = corner + 15.5 - field / 2
        square = plt.Rectangle((low, low), field, field, fill=False, linewidth=2, color=colour)
        above.add_patch(square)
    above.set_axis_off()
    exact = {layer.name: layer.exact for layer in layers}
    limit = "up to" if all(exact[name] for name in fields) else "about"
    above.set_title(f"seen by the centre of the map: {limit} {sides[-1]} × {sides[-1]} pixels")
    steps = range(len(fields))
    below.step(steps, list(fields.values()), where="mid", color=GREY, linewidth=1)
    below.scatter(steps, list(fields.values()), color=[colours[f] for f in fields.values()], s=60)
    for step, (name, field) in enumerate(fields.items()):
        told = f"{'' if exact[name] else '≈ '}{field}"
        below.annotate(told, (step, field), (0, 8), textcoords="offset points", ha="center")
    below.axhline(44, color=GREY, linestyle=":", label="the assignment: more than 44")
    below.axhline(32, color=GREY, linestyle="--", label="the whole image")
    below.set_xticks(steps, [name.split(".")[0].upper() for name in fields])
    below.set(xlabel="convolutions larger than 1×1, in order", ylabel="receptive field, pixels")
    below.set_ylim(0, max(sides[-1], 44) + 8)
    below.grid()
    below.legend(loc="lower right")
    plt.show()
    return fields


@styled
@torch.no_grad()
def show_maps(network, images, each=7):
    """What the blocks C1 to C4 make of one image: the `each` channels that vary most of each.

    network: with blocks c1 to c4, evaluating: `.eval()`.
    images: (1, 3, 32, 32), normalised.

    Returns the maps of the four blocks, each (C, H, W). Raises ValueError for a network without
    these blocks, or one that is training.
    """
    from captum.attr import LayerActivation  # a second, which others need not wait

    blocks = {name: getattr(network, name, None) for name in ("c1", "c2", "c3", "c4")}
    if network.training or not all(isinstance(b, torch.nn.Module) for b in blocks.values()):
        raise ValueError(
            f"{type(network).__name__} must have the blocks {', '.join(blocks)} (see "
            "model.FourBlocks), and evaluate: call network.eval() first."
        )
    found = LayerActivation(network, list(blocks.values())).attribute(images)
    maps = [block[0].float().cpu().numpy() for block in found]
    each = min(each, *map(len, maps))
    axes = grid_of(len(maps), each, cell=WIDTH / (each + 1))
    for row, name, block in zip(axes, blocks, maps, strict=True):
        strongest = np.sort(np.argsort(-block.std((1, 2)))[:each])
        side = block.shape[1]
        draw_row(row, f"{name.upper()}\n{side} × {side}", block[strongest], cmap="gray")
    plt.show()
    return maps


def code_of(*parts):
    """The source of these functions and classes as HTML. Long lines are to be scrolled: Jupyter
    would break them in the middle of a word.
    """
    source = "\n\n".join(inspect.getsource(part).rstrip() for part in parts)
    style = "white-space: pre; word-break: normal; overflow-x: auto; font: 0.85em monospace"
    return highlight(source, PythonLexer(), HtmlFormatter(noclasses=True, prestyles=style))


def layer_table(layers):
    """A Markdown table of the layers that multiply and add; their work, in thousands of that.

    layers: of analysis.layers. Batch normalisation is left out, its parameters, too.
    """
    rows = [
        {
            "layer": f"{layer.name.split('.')[0].upper()}: {words_of(layer)}",
            "output": "×".join(map(str, layer.output)),
            "weights": f"{layer.parameters:,}",
            "work, k": f"{layer.macs / 1000:,.0f}",
            "sees": f"{'' if layer.exact else '≈ '}{layer.receptive_field}",
        }
        for layer in layers
        if layer.macs
    ]
    return markdown(pd.DataFrame(rows))


def words_of(layer):
    """A layer with weights in words: "3×3 depthwise, stride 2"."""
    if layer.operation != "Conv2d":
        return layer.operation.lower()
    words = "×".join(map(str, layer.sides))
    if layer.groups > 1:
        words += " depthwise" if layer.groups == layer.inputs else f", {layer.groups} groups"
    words += f", stride {layer.stride}" if layer.stride > 1 else ""
    return words + (f", dilation {layer.dilation}" if layer.dilation > 1 else "")


# -------------------------------------------------------------------------------------- one recipe


@styled
def show_schedule(recipe, steps_per_epoch):
    """The learning rates over the epochs. Returns them, (steps, groups of parameters)."""
    # A filter and a bias: a parameter of each group. Their values do not count, and are not drawn.
    layer = torch.nn.utils.skip_init(torch.nn.Conv2d, 2, 2, 3)
    optimizer = make_optimizer(layer, recipe)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch)
    rates = []
    for _ in range(recipe.epochs * steps_per_epoch):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    rates = np.array(rates)
    _, axis = plt.subplots(figsize=(WIDTH, 3.2), layout="tight")
    names = ("muon_lr", "lr") if rates.shape[1] == 2 else ("lr",)
    for name, values, colour in zip(names, rates.T, COLOURS, strict=False):
        axis.plot(np.arange(len(values)) / steps_per_epoch, values, color=colour, label=name)
    axis.set(xlabel="epoch", ylabel="learning rate")
    axis.grid()
    axis.legend()
    plt.show()
    return rates


def recipe_table(recipe, groups, base="sprint"):
    """A Markdown table of the fields that decide this recipe: value, meaning, price.

    groups: of `load_records`, for the prices: `base`, and runs that differ from it in one change.
        KeyError where one that EXPLAINED names for a field in use is missing.
    """
    rows = []
    for field in in_use(recipe):
        sentence, lesson, run = EXPLAINED[field]
        price = f"[{lesson[:2]}](experiments/{lesson}.ipynb)" if lesson else ""
        if run:
            change = effect(groups[run], groups[base])
            price += f" {groups[run][0]['description']}: {change.sentence}"
        value = f"`{field}` = {getattr(recipe, field)}"
        rows.append({"field": value, "what it does": sentence, "a change and its price": price})
    return markdown(pd.DataFrame(rows), left=("what it does", "a change and its price"))
