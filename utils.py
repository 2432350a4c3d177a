"""What a notebook shows: samples, augmentations, curves, confusion matrix, mistakes, comparisons.

Every function draws with matplotlib and returns what it has drawn (indices, matrix, series), so
that a notebook can assert on the data. Images are uint8 (N, 32, 32, 3) unless said otherwise.
Pictures of a network and its recipe are handed on from core.drawings, those of what a trained one
does from core.pictures, records from core.records.
"""

import itertools
import math
import statistics
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import Bbox

from core.arrays import (
    as_array,
    checked_images,
    checked_labels,
    confusion_matrix as confusion_matrix,
    mistakes,
)
from core.drawings import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    WIDTH,
    code_of as code_of,
    draw_row,
    grid_of,
    layer_table as layer_table,
    recipe_table as recipe_table,
    show_blocks as show_blocks,
    show_convolution as show_convolution,
    show_grid,
    show_maps as show_maps,
    show_receptive_field as show_receptive_field,
    show_schedule as show_schedule,
    styled,
)
from core.pictures import (
    overlay as overlay,
    plot_classes as plot_classes,
    plot_confusion as plot_confusion,
    plot_reliability as plot_reliability,
    show_filters as show_filters,
    show_heat as show_heat,
    show_photos as show_photos,
)
from core.records import (
    changes_table as changes_table,
    effect,
    effect_against as effect_against,
    frame,
    load_records as load_records,
    longest_trainings as longest_trainings,
    markdown as markdown,
    mean_std as mean_std,
    part_of,
    published as published,
    race_table as race_table,
    results_table as results_table,
    seconds_to,
)
from dataset import AUGMENTATIONS, CLASSES, pipeline


def denormalise(batch, augment="none"):
    """Undoes the normalisation of `augment`.

    batch: float tensor (N, 3, H, W); returns a uint8 array (N, H, W, 3), ready for `imshow`.
    """
    pixels = batch.detach().float().cpu().permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
    colours = pixels * np.array(AUGMENTATIONS[augment].std) + np.array(AUGMENTATIONS[augment].mean)
    return (255 * colours).round().clip(0, 255).astype(np.uint8)


@styled
def show_samples(images, labels, each=8, seed=0):
    """A row of `each` random images for every class. Returns their indices, (10, each).

    Raises ValueError for other images and labels, or where a class has fewer images.
    """
    generator = np.random.default_rng(seed)
    images, labels = checked_images(images), checked_labels(labels, len(images))
    fewest = np.bincount(labels, minlength=len(CLASSES)).min()
    if each > fewest:
        raise ValueError(f"There are not {each} images of each class, but {fewest} of one.")
    picked = []
    for label in range(len(CLASSES)):
        picked.append(generator.choice(np.flatnonzero(labels == label), each, replace=False))
    axes = grid_of(len(CLASSES), each, cell=WIDTH / (each + 1))
    for row, name, indices in zip(axes, CLASSES, picked, strict=True):
        draw_row(row, name, images[indices])
    plt.show()
    return np.stack(picked)


@styled
def show_images(images, columns=8):
    """Images, row by row. Returns them."""
    images = checked_images(images)
    show_grid(images, columns)
    return images


@styled
def show_augmentation(image, names=("flip", "flip_shift", "standard"), draws=8, seed=0):
    """One image, uint8 (32, 32, 3), drawn `draws` times through each pipeline.

    names: in AUGMENTATIONS; ValueError for others.

    Returns the draws, (len(names), draws, 32, 32, 3) uint8.
    """
    axes = grid_of(len(names), draws + 1, cell=WIDTH / (draws + 1))
    drawn = []
    for row, name in zip(axes, names, strict=True):
        compose = pipeline(name, normalise=False, seed=seed)
        drawn.append([compose(image=image)["image"] for _ in range(draws)])
        draw_row(row, name, [image, *drawn[-1]])
    axes[0, 0].set_title("original", fontsize=11)
    plt.show()
    return np.array(drawn)


@styled
def show_mistakes(images, labels, probabilities, count=20, columns=4):
    """The most confident mistakes: true class, predicted class, confidence.

    labels, probabilities: (N,) integers in 0..9, and (N, 10). Returns the indices of those shown.

    Raises ValueError for others.
    """
    images, probabilities = checked_images(images), as_array(probabilities)
    labels = checked_labels(labels, len(images))
    shown = mistakes(labels, probabilities)[:count]
    axes = grid_of(max(1, -(-len(shown) // columns)), columns, cell=WIDTH / columns, caption=0.45)
    for axis, index in zip(axes.flat, shown, strict=False):
        predicted = probabilities[index].argmax()
        confidence = f"{probabilities[index, predicted]:.0%}"
        axis.imshow(images[index], interpolation="nearest")
        axis.set_title(f"{CLASSES[labels[index]]}\n→ {CLASSES[predicted]} {confidence}")
    plt.show()
    return shown


@styled
def plot_curves(record):
    """Loss and accuracy by epoch: training (as seen while training, on augmented images), and test
    or, of a validation run, held-out images.

    Returns the four series, {"train_loss": [a number for each epoch], ...}.
    """
    history = record["history"]
    judged = part_of(record)
    epochs = range(1, len(history) + 1)
    _, axes = plt.subplots(2, 1, figsize=(WIDTH, 6.5), layout="tight")
    dots = dict(marker="o", markersize=4 if len(history) < 20 else 0)
    series = {}
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for part, colour, line in (("train", BLUE, "--"), (judged, ORANGE, "-")):
            name = f"{part}_{quantity}"
            series[name] = [epoch[name] for epoch in history]
            axis.plot(epochs, series[name], line, color=colour, label=part, **dots)
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.grid()
        axis.legend()
    axes[1].axhline(0.85, color=GREY, linestyle=":", label="pass mark")
    axes[1].set_title(f"last epoch: {history[-1][f'{judged}_accuracy']:.2%}")
    axes[1].legend()
    plt.show()
    return series


# --------------------------------------------------------------------------------------- many runs


def draw_effects(axis, effects, groups):
    """Effects, {run: Effect}, as points with their intervals, the first on top.

    groups: the records of these runs; a row is labelled with what differs in them.
    """
    for row, change in enumerate(effects.values()):
        colour = GREEN if change.points > 0 else ORANGE
        if not change.measured:
            colour = GREY
        axis.plot([change.low, change.high], [row, row], color=colour, linewidth=2)
        axis.plot(change.points, row, "o", color=colour)
    labels = [textwrap.fill(in_words(run, groups), 28) for run in effects]
    axis.set_yticks(range(len(effects)), labels, fontsize=10)
    axis.set_ylim(len(effects) - 0.5, -0.5)
    axis.axvline(0, color="black", linewidth=1)
    axis.grid()


def in_words(run, groups):
    """What differs in `run`, as its records say; its name where they do not."""
    return groups[run][0].get("description") or run


@styled
def plot_effects(groups, base, seconds=True, span=None):
    """Each run of `groups` against the run `base`: points of validation accuracy, with intervals.

    groups: {run: records} of `load_records`, judged on held-out images; KeyError for others.
    seconds: and at the right the seconds of training more or less than `base`.
    span: the least and the most points on the axis, so that two charts can be compared.

    Returns {name: (Effect, seconds more than `base`)}, the most accurate first.
    """
    time = frame(groups).groupby("run")["seconds"].mean()
    effects = {name: effect(runs, groups[base]) for name, runs in groups.items() if name != base}
    effects = dict(sorted(effects.items(), key=lambda item: -item[1].points))
    more = {name: float(time[name] - time[base]) for name in effects}
    _, axis = plt.subplots(figsize=(WIDTH, 1.2 + 0.5 * len(effects)), layout="tight")
    draw_effects(axis, effects, groups)
    plain = in_words(base, groups)
    plain = "the same without the change" if plain == "nothing" else plain
    axis.set_xlabel(
        f"points against {plain},\n95 % interval; grey: no effect measured", fontsize=11
    )
    axis.set_xlim(span)
    if seconds:
        right = dict(transform=axis.get_yaxis_transform(), va="center")
        axis.text(1.03, -0.75, "seconds", **right)
        for row, value in enumerate(more.values()):
            axis.text(1.03, row, f"{value:+.1f}", **right)
    plt.show()
    return {name: (change, more[name]) for name, change in effects.items()}


@styled
def plot_race(groups, mark=0.85):
    """Test accuracy against training seconds, mean over the seeds; validation runs are left out.

    mark: a fraction in 0..1.

    Returns {name: [seconds to `mark` of each run, None where it is not reached]}.
    """
    _, axis = plt.subplots(figsize=(WIDTH, 4.5), layout="tight")
    raced = {name: runs for name, runs in groups.items() if part_of(runs[0]) == "test"}
    reached = {}
    for (name, runs), colour in zip(raced.items(), COLOURS * 9, strict=False):
        histories = [run["history"] for run in runs]
        seconds = np.array([[epoch["seconds"] for epoch in history] for history in histories])
        accuracy = [[epoch["test_accuracy"] for epoch in history] for history in histories]
        dots = dict(color=colour, marker="o", markersize=3, label=f"{name} (n = {len(runs)})")
        axis.plot(seconds.cumsum(1).mean(0), 100 * np.mean(accuracy, axis=0), **dots)
        reached[name] = [seconds_to(mark, history) for history in histories]
    axis.axhline(100 * mark, color=GREY, linestyle=":")
    axis.set_xscale("log")
    ticks = (5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 7200)
    ticks = [tick for tick in ticks if tick < max(10, 2 * axis.get_xlim()[1])]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.text(ticks[0], 100 * mark + 0.5, f"pass mark, {mark:.0%}", color=GREY)
    lowest = min(min(line.get_ydata()) for line in axis.get_lines())
    axis.set(
        ylim=(min(40, lowest - 2), 95),
        xlabel="training time, seconds (log scale)",
        ylabel="test accuracy, %",
    )
    axis.grid()
    axis.legend(loc="lower right")
    return reached


@styled
def plot_pareto(groups, published):
    """Test accuracy against parameters (log scale).

    groups: {name: records} of runs that were tested.
    published: dictionaries with "name", "parameters" and "accuracy", 0..1.
    Returns {name: (parameters, accuracy in percent)} of all that is drawn.
    """
    _, axis = plt.subplots(figsize=(WIDTH, 6.5), layout="tight")
    ours = {}
    for name, runs in groups.items():
        accuracy = statistics.mean(run["test_accuracy"] for run in runs)
        ours[name] = runs[0]["parameters"], 100 * accuracy
    theirs = {point["name"]: (point["parameters"], 100 * point["accuracy"]) for point in published}
    label = "trained here, last epoch"
    dots = dict(color=BLUE, markersize=9, zorder=3)  # in front: a square must not hide one
    axis.plot(*zip(*ours.values(), strict=True), "o", label=label, **dots)
    label = "published by others, by their own rules"
    axis.plot(*zip(*theirs.values(), strict=True), "s", color=GREY, markersize=7, label=label)
    limit = axis.axvline(200_000, color=ORANGE, linestyle="--")
    axis.axhline(85, color=GREY, linestyle=":")
    axis.set_xscale("log")
    sizes, accuracies = zip(*(ours | theirs).values(), strict=True)
    axis.set(xlabel="parameters (log scale)", ylabel="test accuracy, %")
    axis.set_xlim(min(40_000, 0.8 * min(sizes)), max(3_500_000, 1.25 * max(sizes)))
    axis.set_ylim(min(69, min(accuracies) - 2), 98)
    axis.text(208_000, 97.2, "the assignment's 200,000", color=ORANGE, fontsize=10)
    ticks = (50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
    axis.set_xticks(ticks, ["50k", "100k", "200k", "500k", "1M", "2M"])
    axis.minorticks_off()
    axis.grid()
    axis.legend(loc="lower right")
    axis.figure.canvas.draw()  # the layout is final now: labels can be placed
    label_points(axis, ours | theirs, bold=ours, around=[limit.get_window_extent().padded(4)])
    return ours | theirs


def label_points(axis, points, bold, around):
    """Writes the name of each of `points`, {name: (x, y)}, beside it, and none over another.

    around: boxes in pixels that no name may lie on either.
    """
    taken = list(around)
    for x, y in axis.transData.transform(list(points.values())):
        taken.append(Bbox.from_bounds(x - 9, y - 7, 18, 14))  # the dot itself
    offsets = itertools.product((-45, -9, 0, 9, 45), (0, 14, -14, 28, -28, 42, -42))
    places = sorted(offsets, key=lambda place: math.hypot(place[0] / 2, place[1]))[1:]
    sides = {-1: "right", 0: "center", 1: "left"}
    for name, point in points.items():
        style = dict(fontsize=10, color=GREY)
        if name in bold:
            style = dict(fontsize=12, fontweight="bold", color=BLUE)
        for x, y in places:
            offset = dict(xytext=(x, y), textcoords="offset points")
            side = dict(ha=sides[np.sign(x)], va="center_baseline")
            label = axis.annotate(name, point, **offset, **side, **style)
            box = label.get_window_extent()
            inside = axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:
            axis.add_artist(label)  # no free place: over another one after all
        taken.append(box)
        if math.hypot(x, y) > 15:  # a line leads to a name that is not beside its point
            line = dict(arrowstyle="-", color=GREY, shrinkA=7)
            axis.annotate("", point, arrowprops=line, **offset)
