"""What a notebook shows: samples, augmentations, curves, confusion matrix, mistakes, and tables drawn from results/.

Every function draws with matplotlib and returns what it has drawn (indices, matrix, series), so that a notebook can assert
on the data. Images are uint8 (N, 32, 32, 3) unless said otherwise; colours are Okabe and Ito's, safe for the colour-blind.

    python utils.py readme     redraws images/ and the tables of README.md from results/
    python utils.py badges     stamps the repository's owner/name (pyproject.toml) into README.md and the notebooks
"""

import json
import math
import re
import statistics
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import Bbox
from scipy import stats

from dataset import AUGMENTATIONS, CLASSES, pipeline

ROOT = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def denormalise(batch, augment="none"):
    """Undoes the normalisation of `augment`: float tensor (N, 3, H, W) -> uint8 array (N, H, W, 3), ready for `imshow`."""
    pixels = batch.detach().float().cpu().permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
    colours = pixels * np.array(AUGMENTATIONS[augment].std) + np.array(AUGMENTATIONS[augment].mean)
    return (255 * colours).round().clip(0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------- pictures


def _grid(rows, columns, cell=1.0, caption=0.0):
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * cell, rows * (cell + caption)), squeeze=False
    )
    figure.set_facecolor("white")  # not transparent: dark mode would swallow the text
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    return figure, axes


def show_samples(images, labels, each=8, seed=0):
    """A row of `each` random images for every class. Returns their indices, (10, each)."""
    generator = np.random.default_rng(seed)
    picked = np.stack(
        [
            generator.choice(np.flatnonzero(labels == c), each, replace=False)
            for c in range(len(CLASSES))
        ]
    )
    _, axes = _grid(len(CLASSES), each, cell=0.9)
    for row, name in enumerate(CLASSES):
        for column in range(each):
            axes[row, column].imshow(images[picked[row, column]], interpolation="nearest")
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12)
    plt.tight_layout(pad=0.3)
    plt.show()
    return picked


def show_augmentation(image, names=("flip", "flip_shift", "standard"), draws=8, seed=0):
    """One image (32, 32, 3), drawn `draws` times through each pipeline. Returns the draws, (len(names), draws, 32, 32, 3) uint8."""
    _, axes = _grid(len(names), draws + 1, cell=0.9)
    rows = []
    for row, name in enumerate(names):
        compose = pipeline(name, normalise=False)
        compose.set_random_seed(seed)
        rows.append([compose(image=image)["image"] for _ in range(draws)])
        axes[row, 0].imshow(image, interpolation="nearest")
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12)
        for column in range(draws):
            axes[row, column + 1].imshow(rows[row][column], interpolation="nearest")
    axes[0, 0].set_title("original", fontsize=11)
    plt.tight_layout(pad=0.3)
    plt.show()
    return np.array(rows)


def plot_curves(record):
    """Loss and accuracy by epoch, training (as seen while training, on augmented images) and test. Returns the four series."""
    history = record["history"]
    kind = "val" if "val_loss" in history[0] else "test"
    epochs = range(1, len(history) + 1)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), facecolor="white")
    series = {}
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for part, colour, style in (("train", BLUE, "--"), (kind, ORANGE, "-")):
            values = series[f"{part}_{quantity}"] = [
                epoch[f"{part}_{quantity}"] for epoch in history
            ]
            axis.plot(
                epochs,
                values,
                style,
                color=colour,
                marker="o",
                markersize=4 if len(history) < 20 else 0,
                label=part,
            )
        axis.set_xlabel("epoch", fontsize=12)
        axis.set_ylabel(quantity, fontsize=12)
        axis.grid(alpha=0.3)
    axes[1].axhline(0.85, color=GREY, linestyle=":", label="pass mark")
    axes[1].set_title(f"last epoch: {history[-1][f'{kind}_accuracy']:.2%}", fontsize=12)
    axes[1].legend(fontsize=11)
    figure.tight_layout()
    plt.show()
    return series


def confusion_matrix(labels, predictions):
    """Counts (10, 10): row = true class, column = predicted class. labels, predictions: (N,) integers in 0..9."""
    return np.bincount(10 * labels.astype(np.int64) + predictions, minlength=100).reshape(10, 10)


def plot_confusion(labels, predictions):
    """Confusion matrix in percent of the true class, and the accuracy of each class beside it. Returns the counts (10, 10)."""
    counts = confusion_matrix(labels, predictions)
    shares = 100 * counts / counts.sum(1, keepdims=True)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 6), width_ratios=(2.2, 1), facecolor="white"
    )
    errors = np.where(np.eye(10, dtype=bool), np.nan, shares)
    left.imshow(errors, cmap="Blues", vmin=0)
    for (row, column), share in np.ndenumerate(shares):
        dark = row != column and share > 0.6 * np.nanmax(errors)
        text = f"{share:.0f}" if share >= 0.5 else "·"
        left.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color="white" if dark else "black",
            fontsize=11,
        )
    left.set_xticks(range(10), CLASSES, rotation=45, ha="right", fontsize=11)
    left.set_yticks(range(10), CLASSES, fontsize=11)
    left.set_xlabel("predicted", fontsize=12)
    left.set_ylabel("true", fontsize=12)
    left.set_title("percent of each true class; errors coloured", fontsize=12)
    right.barh(range(10), shares.diagonal(), color=BLUE)
    for row, share in enumerate(shares.diagonal()):
        right.text(
            share - 1, row, f"{share:.1f} %", ha="right", va="center", color="white", fontsize=11
        )
    right.set_yticks(range(10), CLASSES, fontsize=11)
    right.invert_yaxis()
    right.set_xlim(0, 100)
    right.set_title(
        f"accuracy of each class; all: {100 * counts.trace() / counts.sum():.2f} %", fontsize=12
    )
    figure.tight_layout()
    plt.show()
    return counts


def mistakes(labels, probabilities):
    """Indices of the misclassified images, the most confident mistake first. labels: (N,); probabilities: (N, 10)."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]


def show_mistakes(images, labels, probabilities, count=20, columns=5):
    """The most confident mistakes: true class, predicted class, confidence. Returns their indices."""
    shown = mistakes(labels, probabilities)[:count]
    _, axes = _grid(max(1, -(-len(shown) // columns)), columns, cell=1.9, caption=0.6)
    for axis, index in zip(axes.flat, shown, strict=False):
        predicted = probabilities[index].argmax()
        axis.imshow(images[index], interpolation="nearest")
        axis.set_title(
            f"{CLASSES[labels[index]]}\n→ {CLASSES[predicted]} {probabilities[index, predicted]:.0%}",
            fontsize=12,
        )
    plt.tight_layout(pad=0.4)
    plt.show()
    return shown


def show_receptive_field(layers, image):
    """The square that each convolution's centre output sees, on one image (32, 32, 3). Returns {layer name: side in pixels}."""
    fields = {layer.name: layer.receptive_field for layer in layers if layer.kernel > 1}
    reach = max(fields.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), facecolor="white")
    canvas = np.full((max(reach, 32) + 4,) * 2 + (3,), 255, np.uint8)
    corner = (len(canvas) - 32) // 2
    canvas[corner : corner + 32, corner : corner + 32] = image
    left.imshow(canvas, interpolation="nearest")
    for number, side in enumerate(sorted(set(fields.values()))):
        low = corner + 15.5 - side / 2
        left.add_patch(
            plt.Rectangle(
                (low, low),
                side,
                side,
                fill=False,
                linewidth=2,
                color=COLOURS[number % len(COLOURS)],
            )
        )
    left.set_axis_off()
    left.set_title(
        f"seen by the centre, layer by layer: up to {reach} x {reach} pixels", fontsize=12
    )
    right.step(
        range(1, len(fields) + 1), list(fields.values()), where="mid", color=BLUE, marker="o"
    )
    right.axhline(44, color=GREY, linestyle=":", label="the assignment: more than 44")
    right.axhline(32, color=GREY, linestyle="--", label="the whole image")
    right.set_xlabel("layer with a kernel larger than 1x1", fontsize=12)
    right.set_ylabel("receptive field, pixels", fontsize=12)
    right.grid(alpha=0.3)
    right.legend(fontsize=11)
    figure.tight_layout()
    plt.show()
    return fields


# ----------------------------------------------------------------------------------------------------- tables from results


def load_records(pattern="*.json", root=None):
    """The records results/<pattern>, as {run name without its seed: [record, ...]}, seeds in order.

    Raises FileNotFoundError if none matches, ValueError for a file that is no record.
    """
    root = Path(root) if root else ROOT / "results"
    groups = {}
    for path in sorted(root.glob(pattern)):
        try:
            record = json.loads(path.read_text())
            record["history"][-1], record["recipe"]["epochs"], record["model"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise ValueError(
                f"{path} is not a record of a run; delete it or write it anew with train.py."
            ) from None
        groups.setdefault(re.sub(r"-seed\d+$", "", path.stem), []).append(record)
    if not groups:
        raise FileNotFoundError(f"No record matches {root / pattern}; train.py writes them.")
    return {
        name: sorted(records, key=lambda record: record["seed"]) for name, records in groups.items()
    }


def mean_std(values, scale=1.0, digits=2, unit=""):
    """ "86.10 ± 0.20 % (n = 5)", or "86.10 % (n = 1)" where there is no spread to tell."""
    values = [scale * value for value in values]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}{unit} (n = {len(values)})"


def results_table(groups):
    """A Markdown table of records, best first: mean ± standard deviation over the seeds of the last epoch's test accuracy."""
    rows = []
    for name, records in groups.items():
        if "test_accuracy" not in records[0]:
            continue
        accuracy = [record["test_accuracy"] for record in records]
        flipped = [record["test_accuracy_flip"] for record in records]
        seconds = statistics.mean(record["seconds"] for record in records)
        first = records[0]
        cells = (
            f"`{name}`",
            f"{first['parameters']:,}",
            first["recipe"]["epochs"],
            mean_std(accuracy, 100),
            f"{100 * min(accuracy):.2f}",
        )
        cells += (mean_std(flipped, 100), f"{seconds:,.0f}", first["device"], first["precision"])
        rows.append((-statistics.mean(accuracy), f"| {' | '.join(map(str, cells))} |"))
    head = (
        "| model-recipe | parameters | epochs | test accuracy, % | worst seed | with flip at test | training, s | device | precision |\n"
        "|---|---:|---:|---:|---:|---:|---:|---|---|"
    )
    return "\n".join([head, *(row for _, row in sorted(rows))])


class Effect(NamedTuple):
    """A difference in accuracy in percentage points, and its 95 % confidence interval (NaN where a side has one run only)."""

    points: float
    low: float
    high: float

    def __str__(self):
        return (
            f"{self.points:+.2f} ({self.low:+.2f} to {self.high:+.2f})"
            if self.low == self.low
            else f"{self.points:+.2f} (n = 1)"
        )

    @property
    def measured(self):
        """Whether the interval leaves out zero. If not: no effect was measured."""
        return self.low > 0 or self.high < 0


def effect(records, base, key="val_accuracy"):
    """The `Effect` of a change: mean accuracy of `records` minus that of `base`. Student's t for independent samples; the seed
    noise of both is taken to be the same.
    """
    ours, theirs = ([100 * record[key] for record in group] for group in (records, base))
    if min(len(ours), len(theirs)) < 2:
        return Effect(statistics.mean(ours) - statistics.mean(theirs), math.nan, math.nan)
    interval = stats.ttest_ind(ours, theirs).confidence_interval(0.95)
    return Effect(statistics.mean(ours) - statistics.mean(theirs), *map(float, interval))


def changes_table(groups, base):
    """A Markdown table of validation runs that differ from `base` (a name in `groups`) in one change, in the order of accuracy."""
    plain, rows = groups[base], []
    for name, records in groups.items():
        accuracy, seconds = (
            [record[key] for record in records] for key in ("val_accuracy", "seconds")
        )
        difference = "" if name == base else str(effect(records, plain))
        cells = (
            f"`{name}`",
            records[0]["description"],
            mean_std(accuracy, 100),
            difference,
            mean_std(seconds, digits=1),
        )
        rows.append((-statistics.mean(accuracy), f"| {' | '.join(cells)} |"))
    head = "| run | what differs | validation accuracy, % | difference, points (95 % interval) | training, s |\n|---|---|---:|---:|---:|"
    return "\n".join([head, *(row for _, row in sorted(rows))])


def findings(groups, base, seconds=True):
    """Markdown: each measured effect on the accuracy as a line, then the changes for which none was measured; `seconds`: and the time."""
    plain, lines, without = statistics.mean(record["seconds"] for record in groups[base]), [], []
    for name, records in groups.items():
        found, what = effect(records, groups[base]), records[0]["description"]
        more = (
            f", {statistics.mean(record['seconds'] for record in records) - plain:+.0f} s"
            if seconds
            else ""
        )
        if found.measured:
            accuracy = mean_std([record["val_accuracy"] for record in records], 100, 1, " %")
            points = f"**{found.points:+.1f} points** ({found.low:+.1f} to {found.high:+.1f})"
            lines.append((found.points, f"* {what}: {points}{more}; {accuracy}"))
        elif name != base:
            without.append(f"{what} ({found.points:+.1f}{more}; n = {len(records)})")
    return "\n".join(
        [line for _, line in sorted(lines)]
        + [f"* no effect on the accuracy was measured: {'; '.join(without)}"] * bool(without)
    )


def plot_effects(groups, base, seconds=True):
    """Each run of `groups` against the run `base`: points of validation accuracy with their interval; `seconds`: and of training.

    Returns {name: (Effect, seconds more than `base`)}, the most accurate first.
    """
    time = {
        name: statistics.mean(record["seconds"] for record in records)
        for name, records in groups.items()
    }
    effects = {
        name: (effect(records, groups[base]), time[name] - time[base])
        for name, records in groups.items()
        if name != base
    }
    effects = dict(sorted(effects.items(), key=lambda item: -item[1][0].points))
    size, widths = (11, 1.5 + 0.36 * len(effects)), (2, 1) if seconds else (1,)
    figure, axes = plt.subplots(
        1,
        len(widths),
        figsize=size,
        width_ratios=widths,
        sharey=True,
        squeeze=False,
        facecolor="white",
    )
    for row, (found, more) in enumerate(effects.values()):
        colour = (GREEN if found.points > 0 else ORANGE) if found.measured else GREY
        axes[0, 0].plot([found.low, found.high], [row, row], color=colour, linewidth=2)
        axes[0, 0].plot(found.points, row, "o", color=colour)
        if seconds:
            axes[0, 1].barh(row, more, color=ORANGE if more > 0 else GREEN)
            axes[0, 1].set_xlabel("seconds of training", fontsize=11)
    axes[0, 0].set_yticks(range(len(effects)), effects, fontsize=12)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlabel(
        f"points of accuracy against {base}, 95 % interval; grey: no effect measured", fontsize=11
    )
    for axis in axes.flat:
        axis.axvline(0, color="black", linewidth=1)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    plt.show()
    return effects


def seconds_to(mark, history):
    """Training seconds up to the end of the first epoch with a test accuracy of `mark` (0..1) or more; None if there is none."""
    total = 0.0
    for epoch in history:
        total += epoch["seconds"]
        if epoch["test_accuracy"] >= mark:
            return total
    return None


def plot_race(groups, mark=0.85):
    """Test accuracy against training seconds, mean over the seeds. Returns {name: [seconds to `mark` of each run]}."""
    figure, axis = plt.subplots(figsize=(9, 5), facecolor="white")
    reached = {}
    raced = {
        name: records for name, records in groups.items() if "test_accuracy" in records[0]
    }  # no validation runs
    for (name, records), colour in zip(raced.items(), COLOURS * 9, strict=False):
        seconds = np.cumsum(
            [[epoch["seconds"] for epoch in record["history"]] for record in records], axis=1
        ).mean(0)
        accuracy = np.mean(
            [[epoch["test_accuracy"] for epoch in record["history"]] for record in records], axis=0
        )
        axis.plot(
            seconds,
            100 * accuracy,
            color=colour,
            marker="o",
            markersize=3,
            label=f"{name} (n = {len(records)})",
        )
        reached[name] = [seconds_to(mark, record["history"]) for record in records]
    axis.axhline(100 * mark, color=GREY, linestyle=":")
    axis.set_xscale("log")
    ticks = [
        s
        for s in (5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 7200)
        if s < 2 * axis.get_xlim()[1]
    ]
    axis.set_xticks(ticks, [str(s) for s in ticks])
    axis.minorticks_off()
    axis.text(ticks[0], 100 * mark + 0.5, f"pass mark, {mark:.0%}", color=GREY, fontsize=11)
    axis.set_ylim(40, 95)
    axis.set_xlabel("training time, seconds (log scale)", fontsize=12)
    axis.set_ylabel("test accuracy, %", fontsize=12)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=11, loc="lower right")
    figure.tight_layout()
    return reached


def plot_pareto(groups, published):
    """Test accuracy against parameters (log scale): `groups` of records, and `published` points (name, parameters, accuracy 0..1).

    Returns {name: (parameters, accuracy in percent)} of all that is drawn.
    """
    figure, axis = plt.subplots(figsize=(9, 6), facecolor="white")
    ours = {
        name: (
            records[0]["parameters"],
            100 * statistics.mean(record["test_accuracy"] for record in records),
        )
        for name, records in groups.items()
    }
    theirs = {point["name"]: (point["parameters"], 100 * point["accuracy"]) for point in published}
    axis.plot(
        *zip(*ours.values(), strict=True),
        "o",
        color=BLUE,
        markersize=9,
        label="trained here, last epoch",
    )
    axis.plot(
        *zip(*theirs.values(), strict=True),
        "s",
        color=GREY,
        markersize=7,
        label="published by others, by their own rules",
    )
    axis.axvline(200_000, color=ORANGE, linestyle="--")
    axis.axhline(85, color=GREY, linestyle=":")
    axis.set_xscale("log")
    axis.set_xlim(40_000, 4_000_000)
    axis.set_ylim(top=98)
    ticks = (50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("parameters (log scale)", fontsize=12)
    axis.set_ylabel("test accuracy, %", fontsize=12)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=11, loc="lower right")
    figure.tight_layout()
    drawn = ours | theirs
    taken = [
        Bbox.from_bounds(x - 9, y - 7, 18, 14)
        for x, y in axis.transData.transform(list(drawn.values()))
    ]
    for name, point in drawn.items():
        style = (
            dict(fontsize=12, fontweight="bold", color=BLUE)
            if name in ours
            else dict(fontsize=10, color=GREY)
        )
        places = [
            (9 * s, y - 4, side)
            for y in (0, 12, -12, 24, -24, 36, -36)
            for s, side in ((1, "left"), (-1, "right"), (0, "center"))
        ]
        for x, y, side in places:
            label = axis.annotate(
                name, point, xytext=(x, y), textcoords="offset points", ha=side, **style
            )
            box = label.get_window_extent(figure.canvas.get_renderer())
            if box.x0 > axis.bbox.x0 and not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:
            axis.add_artist(label)
        taken.append(box)
    return drawn


# --------------------------------------------------------------------------------------------------------------- commands


def fill(text, marker, content):
    """Replaces what stands between <!-- marker --> and <!-- /marker --> in `text`."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"The markers <!-- {marker} --> and <!-- /{marker} --> are missing.")
    return pattern.sub(lambda match: match[1] + content + "\n" + match[2], text)


def repository():
    """The repository's owner/name, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["course"]["repository"]


def badges(notebook, repository):
    """Markdown that opens `notebook` (a path in the repository) in Colab and in Kaggle."""
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/{notebook}"
    kaggle = f"https://kaggle.com/kernels/welcome?src=https://github.com/{repository}/blob/main/{notebook}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})\n"
        f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle})"
    )


def stamp_badges():
    """Writes the badges into README.md and the first cell of every notebook, and the repository into the bootstrap cells."""
    name = repository()
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(), "badges", badges("S9_Final.ipynb", name)))
    for path in [ROOT / "S9_Final.ipynb", *sorted((ROOT / "experiments").glob("*.ipynb"))]:
        book = json.loads(path.read_text())
        first = book["cells"][0]
        first["source"] = fill(
            "".join(first["source"]), "badges", badges(path.relative_to(ROOT), name)
        ).splitlines(keepends=True)
        for cell in book["cells"]:
            cell["source"] = [
                re.sub(r'^REPOSITORY = ".*"', f'REPOSITORY = "{name}"', line)
                for line in cell["source"]
            ]
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")
        print(f"{path.name}: {name}")


def networks(groups):
    """The longest training of each network that was tested: {network: records}."""
    tested = [records for records in groups.values() if "test_accuracy" in records[0]]
    return {
        records[0]["model"]: records
        for records in sorted(tested, key=lambda records: records[0]["recipe"]["epochs"])
    }


def published():
    """What others have published, at the edge of the budget: a list of dicts, see results/published/frontier.json."""
    return json.loads((ROOT / "results" / "published" / "frontier.json").read_text())


def most_accurate(groups):
    """The record: accuracy, parameters and time of `frontier`, beside the best that others have published within the budget."""
    records = groups["frontier-frontier"]
    accuracy, flipped = (
        [record[key] for record in records] for key in ("test_accuracy", "test_accuracy_flip")
    )
    best = max(
        (point for point in published() if point["parameters"] < 200_000),
        key=lambda point: point["accuracy"],
    )
    minutes = statistics.mean(record["seconds"] for record in records) / 60
    return (
        f"**{mean_std(accuracy, 100, unit=' %')} on the test set with {records[0]['parameters']:,} parameters**: `frontier`, "
        f"{records[0]['recipe']['epochs']} epochs, {minutes:.0f} minutes of training on {records[0]['device'].split(', ')[-1].split()[0]} "
        f"CPU core. With the mirrored view averaged in: {mean_std(flipped, 100, unit=' %')}. The best that we found published "
        f"below 200,000 parameters is {100 * best['accuracy']:.1f} % ({best['name']})."
    )


def headline(groups):
    """The sprint: its accuracy, time and parameters, from its records."""
    records = groups["net-sprint"]
    accuracy = [record["test_accuracy"] for record in records]
    flipped = [record["test_accuracy_flip"] for record in records]
    seconds = [record["seconds"] for record in records]
    text = (
        f"**{mean_std(accuracy, 100, unit=' %')} on the test set after {mean_std(seconds, digits=1, unit=' seconds')} of training "
        f"on two CPU cores that multiply bfloat16**, with {records[0]['parameters']:,} parameters: "
        f"`net`, recipe `sprint`; the worst seed has "
        f"{100 * min(accuracy):.2f} %. With the mirrored view averaged in at test time: {mean_std(flipped, 100, unit=' %')}."
    )
    older = load_records("05_processors/*.json")["avx2"]
    text += (
        f" On two cores with AVX2 and nothing newer, in {older[0]['precision']}: "
        f"{mean_std([record['test_accuracy'] for record in older], 100, unit=' %')} after "
        f"{statistics.mean(record['seconds'] for record in older):,.0f} seconds."
    )
    race = ROOT / "results" / "bench" / "sprint.json"
    if race.exists() and "times_faster" in (found := json.loads(race.read_text())):
        ours, theirs, n = (
            found["sprint"]["median"],
            found["compact"]["median"],
            len(found["sprint"]["seconds"]),
        )
        text += (
            f"\n\n`compact`, the best of five published student networks, takes {theirs:,.0f} s to its first epoch at 85 % on the same "
            f"machine in the same run, the sprint {ours:,.0f} s: **{found['times_faster']:.1f} times faster** (medians, n = {n} each; the "
            "optimiser and learning rate that `compact`'s text leaves open are ours)."
        )
    return text


COMPARED = (  # (notebook, what is compared with what, the latter's run, the others: a pattern)
    (
        "01_depthwise",
        "depthwise-separable against dense 3x3 convolutions",
        "dense",
        "(?!.*20epochs)separable.*",
    ),
    ("01_depthwise", "larger depthwise kernels, at equal width", "separable", "separable-[57]"),
    (
        "01_depthwise",
        "against the dense ones in twice the epochs, about half of the time",
        "dense-20epochs",
        "separable-wide",
    ),
    ("01_depthwise", "both in 20 epochs", "dense-20epochs", "separable-wide-20epochs"),
    (
        "02_dilated",
        "other ways to see far, against two strides and no dilation",
        "dilation-1",
        "(?!.*epochs).*",
    ),
    ("02_dilated", "on the larger map, against no dilation", "plain-map", "dilated-map"),
    ("02_dilated", "no dilation in 20 epochs", "dilation-1-20epochs", "dilation-2-20epochs"),
    ("03_augmentation", "augmentation against none, 3 epochs", "net-none-3", "net-.*-3"),
    (
        "03_augmentation",
        "augmentation against none, 10 epochs",
        "net-none-10",
        "net-(flip|ssr|cutout|all)-10",
    ),
    ("03_augmentation", "augmentation against none, 30 epochs", "net-none-30", "net-.*-30"),
    (
        "03_augmentation",
        "`compact` with its own recipe, 10 epochs",
        "compact-none-10",
        "compact-all-10",
    ),
    (
        "03_augmentation",
        "`compact` with its own recipe, 30 epochs",
        "compact-none-30",
        "compact-all-30",
    ),
    (
        "03_augmentation",
        "other holes than the assignment's 16x16, 10 epochs",
        "net-cutout-10",
        r"net-cutout-\d+-10",
    ),
    (
        "03_augmentation",
        "stronger than shift 0.0625, scale 0.1, rotate 15 degrees, 10 epochs",
        "net-ssr-10",
        "net-ssr-[a-z]+-10",
    ),
    (
        "03_augmentation",
        "all three, each on half of the images, 10 epochs",
        "net-all-10",
        "net-all-always-10",
    ),
    (
        "04_mistakes",
        "common mistakes, against the same training without them",
        "right",
        "(?!onecycle).*",
    ),
    (
        "04_mistakes",
        "one more, against the schedule as it is meant",
        "onecycle",
        "onecycle-per-epoch",
    ),
)


def found():
    """What the notebooks of `COMPARED` found, as Markdown."""
    lines = []
    for notebook, title, base, pattern in COMPARED:
        groups = load_records(f"{notebook}/*.json")
        chosen = {
            name: records
            for name, records in groups.items()
            if name == base or re.fullmatch(pattern, name)
        }
        plain = mean_std([record["val_accuracy"] for record in groups[base]], 100, 1, " %")
        lines += [
            f"[`{notebook}`](experiments/{notebook}.ipynb): {title}, {plain}\n",
            findings(chosen, base, seconds=False) + "\n",
        ]
    return "\n".join(lines).strip()


def readme_parts():
    """The generated parts of README.md: {marker: Markdown}."""
    groups = load_records()
    speeds = json.loads((ROOT / "results" / "bench" / "engines.json").read_text())
    rows = [f"| {name} | {speed:,} |" for name, speed in speeds["images_per_second"].items()]
    engines = "\n".join(
        [f"| making batches, {speeds['cores']} cores | images/s |", "|---|---:|", *rows]
    )
    changes = findings(load_records("05_sprint/*.json"), "sprint")
    table = results_table(
        groups | load_records("00_five_networks/*.json")
    )  # its validation runs are left out
    record = most_accurate(groups)
    return {
        "record": record,
        "headline": headline(groups),
        "results": table,
        "found": found(),
        "changes": changes,
        "engines": engines,
    }


def write_readme():
    """Redraws images/ and the tables of README.md."""
    (ROOT / "images").mkdir(exist_ok=True)
    groups = load_records()
    plot_pareto(networks(groups), published())
    plt.savefig(ROOT / "images" / "pareto.png", dpi=110)
    device = groups["net-sprint"][0][
        "device"
    ]  # a race is run on one machine, with as many threads for each
    plot_race({name: records for name, records in groups.items() if records[0]["device"] == device})
    plt.savefig(ROOT / "images" / "race.png", dpi=110)
    readme = ROOT / "README.md"
    text = readme.read_text()
    for marker, content in readme_parts().items():
        text = fill(text, marker, content)
    readme.write_text(text)
    print("README.md and images/ are drawn from results/")


if __name__ == "__main__":
    commands = {"readme": write_readme, "badges": stamp_badges}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(f"utils.py: give one of the commands {', '.join(commands)}.")
    plt.switch_backend("Agg")
    commands[sys.argv[1]]()
