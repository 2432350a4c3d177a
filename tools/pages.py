"""The pages of a graded class: one for each report, and an overview. A browser opens them as files.

Whatever comes from a submission is escaped by the templates, tools/report.html and class.html.
"""

import base64
import contextlib
import io
import json
import warnings

import jinja2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import utils
from core.common import ROOT, write_text
from dataset import CLASSES

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ROOT / "tools"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.filters["percent"] = lambda fraction: f"{fraction:.2%}".replace("%", " %")
TEMPLATES.filters["thousands"] = lambda number: f"{number:,}"


@contextlib.contextmanager
def off_screen():
    """Pictures are drawn, not shown: in a notebook, too."""
    before = matplotlib.get_backend()
    plt.switch_backend("Agg")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*non-interactive.*")
            yield
    finally:
        plt.switch_backend(before)


def picture(draw, *arguments, **options):
    """What a function of utils draws, as an address that an <img> takes."""
    figures = set(plt.get_fignums())
    draw(*arguments, **options)
    [new] = set(plt.get_fignums()) - figures
    buffer = io.BytesIO()
    plt.figure(new).savefig(buffer, format="png", dpi=80)
    plt.close(new)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures_of(report, data):
    """{caption: picture} of the training, the mistakes, the confusion matrix: what there is."""
    drawn = {}
    with off_screen():
        history = [epoch for epoch in report["history"] if None not in epoch.values()]
        if history:
            drawn["The training"] = picture(utils.plot_curves, {"history": history})
        if report["accuracy"] is None:
            return drawn
        shown = report["mistakes"]
        if shown:
            images = data.test_images[[one["image"] for one in shown]]
            probabilities = np.zeros((len(shown), len(CLASSES)))
            for row, one in zip(probabilities, shown, strict=True):
                row[one["predicted"]] = one["confidence"]
            labels = np.array([one["true"] for one in shown])
            caption = "The mistakes of which it was most sure: true class → its answer"
            drawn[caption] = picture(utils.show_mistakes, images, labels, probabilities)
        pairs = [
            pair for pair, n in np.ndenumerate(np.array(report["confusion"])) for _ in range(n)
        ]
        drawn["What it takes for what"] = picture(utils.plot_confusion, *zip(*pairs, strict=True))
    return drawn


def in_a_line(report):
    """The verdict for the terminal."""
    if report["accuracy"] is None:
        return f"{report['verdict']}. {report['reason']}"
    error = 100 * report["standard_error"]
    size = f"{report['accuracy']:.2%} ± {error:.2f}, {report['parameters']:,} parameters"
    return f"{report['verdict']}, {size}. {report['reason']}"


def write_page(report, data, out):
    """Writes the page of a report into the folder `out`.

    data: the `Cifar10` of whose test images the report speaks.
    """
    page = TEMPLATES.get_template("report.html").render(
        report=report, recipe=report["asked"]["recipe"], pictures=pictures_of(report, data)
    )
    write_text(out / f"{report['name']}.html", page)


NEEDED = {"name", "verdict", "reason", "accuracy", "standard_error", "parameters", "seconds"}


def reports_in(out):
    """All reports in a folder; what else lies there is none of ours, or damaged."""
    for path in sorted(out.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            report = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(report, dict) and report.keys() >= NEEDED:
                yield report


def write_overview(out):
    """Writes index.html: a line for each report in the folder `out`, the best first."""
    reports = list(reports_in(out))
    order = ["pass", "fail", "no grade"]
    order += [r["verdict"] for r in reports]  # a teacher's own word
    reports.sort(key=lambda report: (order.index(report["verdict"]), -(report["accuracy"] or 0)))
    counts = {word: [r["verdict"] for r in reports].count(word) for word in dict.fromkeys(order)}
    page = TEMPLATES.get_template("class.html").render(reports=reports, counts=counts)
    write_text(out / "index.html", page)
