"""Pictures of what a trained network does: where it looks, how sure it is, what it takes for what.

Handed on by utils. As in core.drawings, every function draws with matplotlib and returns what it
has drawn. Images are uint8 (N, H, W, 3).
"""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from core.arrays import CLASSES, confusion_matrix
from core.calibration import calibration_error, reliability
from core.drawings import BLUE, COLOURS, GREY, ORANGE, WIDTH, grid_of, show_grid, styled
from core.records import part_of


def overlay(image, heat, strength=0.6):
    """An image with the heat of `grad_cam` over it: dark where it is cold, bright where it is hot.

    image: uint8 (H, W, 3).
    heat: (h, w), 0..1; it is enlarged smoothly.
    strength: the share of the colour, 0..1. Returns uint8 (H, W, 3).
    """
    size = (image.shape[1], image.shape[0])
    heat = np.asarray(Image.fromarray(np.float32(heat)).resize(size, Image.Resampling.BILINEAR))
    colours = 255 * plt.cm.inferno(heat)[..., :3]  # (H, W, 3)
    return ((1 - strength) * image + strength * colours).round().clip(0, 255).astype(np.uint8)


@styled
def show_heat(images, heats, titles, columns=3):
    """Each image beside itself with its heat, `columns` such pairs in a row.

    heats: (N, h, w), 0..1, of `grad_cam`.
    titles: N texts. Returns the pictures with the heat over them.
    """
    drawn = [overlay(image, heat) for image, heat in zip(images, heats, strict=True)]
    cell, rows = WIDTH / (2 * columns), -(-len(images) // columns)
    axes = grid_of(rows, 2 * columns, cell=cell, caption=0.45).reshape(-1, 2)
    for pair, image, hot, title in zip(axes, images, drawn, titles, strict=False):
        pair[0].imshow(image, interpolation="nearest")
        pair[1].imshow(hot, interpolation="nearest")
        pair[0].set_title(title, loc="left", fontsize=10)
    plt.show()
    return drawn


@styled
def show_filters(weights, columns=8):
    """The filters of a first convolution as small pictures. Returns these, (outputs, k, k, 3).

    weights: (outputs, 3, k, k). Grey is 0; each is scaled by its own largest value.
    """
    filters = np.asarray(weights.detach().float().cpu()).transpose(0, 2, 3, 1)
    pictures = 0.5 + 0.5 * filters / np.abs(filters).max((1, 2, 3), keepdims=True).clip(1e-12)
    show_grid(pictures, columns)
    return pictures


@styled
def plot_reliability(groups, labels, bins=15):
    """How often answers of each confidence are right, one panel for each network.

    groups: {name: probabilities (N, 10)}.
    labels: (N,) integers in 0..9. Returns {name: expected calibration error, 0..1}.
    """
    size = dict(figsize=(WIDTH, 2.9 * len(groups)), sharex=True, squeeze=False, layout="tight")
    _, axes = plt.subplots(len(groups), 1, **size)
    errors = {}
    for axis, (name, probabilities) in zip(axes[:, 0], groups.items(), strict=True):
        found = [b for b in reliability(probabilities, labels, bins) if b.count]
        widths = [b.high - b.low for b in found]
        places = [(b.low + b.high) / 2 for b in found]
        axis.bar(places, [b.accuracy for b in found], 0.92 * np.array(widths), color=BLUE)
        axis.plot([0, 1], [0, 1], color=ORANGE, label="honest: as often right as it says")
        axis.plot([b.confidence for b in found], [b.accuracy for b in found], ".", color="black")
        errors[name] = calibration_error(probabilities, labels, bins)
        axis.set_title(f"{name}: {100 * errors[name]:.1f} points off", loc="left")
        axis.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
        axis.grid()
    axes[0, 0].legend(loc="upper left", fontsize=10)
    axes[-1, 0].set_xlabel("confidence")
    plt.show()
    return errors


@styled
def plot_confusion(labels, predictions):
    """Confusion matrix in percent of the true class, and below it the accuracy of each class.

    Returns the counts (10, 10).
    """
    counts = confusion_matrix(labels, predictions)
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(1)  # a class may be missing
    size = dict(figsize=(WIDTH, 10), height_ratios=(1.8, 1))
    _, (above, below) = plt.subplots(2, 1, **size, layout="tight")
    errors = np.where(np.eye(10, dtype=bool), np.nan, shares)
    above.imshow(errors, cmap="Blues", vmin=0)
    for (row, column), share in np.ndenumerate(shares):
        dark = row != column and share > 0.6 * np.nanmax(errors)
        text = f"{share:.0f}" if share > 0.5 else "·"
        colour = "white" if dark else "black"
        above.text(column, row, text, ha="center", va="center", color=colour)
    above.set_xticks(range(10), CLASSES, rotation=45, ha="right")
    title = "percent of each true class; ·: at most half a percent"
    above.set(xlabel="predicted", ylabel="true", title=title)
    below.barh(range(10), shares.diagonal(), color=BLUE)
    for row, share in enumerate(shares.diagonal()):
        inside = share > 15  # percent: else the bar is shorter than the number
        place = dict(ha="right" if inside else "left", color="white" if inside else "black")
        below.text(share + (-1 if inside else 1), row, f"{share:.1f} %", va="center", **place)
    below.invert_yaxis()
    below.set_xlim(0, 100)
    below.set_title(f"accuracy of each class; all: {100 * counts.trace() / counts.sum():.2f} %")
    for axis in (above, below):
        axis.set_yticks(range(10), CLASSES)
    plt.show()
    return counts


@styled
def plot_classes(record, columns=5):
    """What core.watching.ByClass has kept: accuracy of each class by epoch, and the confusions.

    Returns the confusions, (epochs, 10, 10) shares of the true class. Raises ValueError for a
    record without them.
    """
    history = record["history"]
    if not all("confusion" in epoch for epoch in history):
        raise ValueError(
            "This record has no confusion of each epoch; train with "
            "fit(..., on_epoch=ByClass(batches)), see core/watching.py."
        )
    counts = np.array([epoch["confusion"] for epoch in history])  # (epochs, 10, 10)
    shares = counts / counts.sum(2, keepdims=True).clip(1)
    rows = -(-len(history) // columns)
    figure = plt.figure(figsize=(WIDTH, 4.2 + 1.6 * rows), layout="tight")
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=(4, *[1.6] * rows))
    above = figure.add_subplot(grid[0, :])
    epochs = np.arange(1, len(history) + 1)
    for label, name in enumerate(CLASSES):
        line = dict(color=COLOURS[label % 7], linestyle="-" if label < 7 else "--")
        above.plot(epochs, 100 * shares[:, label, label], marker=".", label=name, **line)
    above.set(xlabel="epoch", ylabel=f"{part_of(record)} accuracy, %", ylim=(0, 100))
    above.set_xticks(epochs[:: max(1, len(epochs) // 10)])
    above.grid()
    above.legend(ncols=5, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for epoch, share in enumerate(shares):
        axis = figure.add_subplot(grid[1 + epoch // columns, epoch % columns])
        axis.imshow(np.where(np.eye(10, dtype=bool), 0, share), cmap="Blues", vmin=0, vmax=0.5)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"epoch {epoch + 1}", fontsize=10, color=GREY)
    plt.show()
    return shares


@styled
def show_photos(photos, heats, probabilities):
    """A row for each photo: its square, what the network gets, the heat, its three likeliest.

    photos: of core.photos.
    heats: (N, 32, 32), 0..1.
    probabilities: (N, 10). Returns the three likeliest of each, [{class: probability}].
    """
    size = dict(figsize=(WIDTH, 1.9 * len(photos)), squeeze=False, layout="tight")
    _, axes = plt.subplots(len(photos), 4, width_ratios=(1, 1, 1, 1.3), **size)
    answers = [likeliest(row) for row in probabilities]
    for row, photo, heat, answer in zip(axes, photos, heats, answers, strict=True):
        row[0].imshow(photo.square)
        row[1].imshow(photo.small, interpolation="nearest")
        row[2].imshow(overlay(photo.square, heat))
        row[0].set_title(photo.name[:24], loc="left", fontsize=9)
        for axis in row[:3]:
            axis.set_axis_off()
        bars = row[3].barh(list(answer), list(answer.values()), color=BLUE)
        row[3].bar_label(bars, [f" {p:.0%}" for p in answer.values()], fontsize=9)
        row[3].set(xlim=(0, 1.4), xticks=[], frame_on=False)
        row[3].invert_yaxis()
        row[3].tick_params(labelsize=9, length=0)
    plt.show()
    return answers


def likeliest(probabilities, count=3):
    """{class: probability} of the likeliest classes of one image, (10,), the likeliest first."""
    order = np.argsort(-np.asarray(probabilities), kind="stable")[:count]
    return {CLASSES[label]: float(probabilities[label]) for label in order}
