"""Draws what README.md, results/README.md and images/ say of the records in results/.

python -m tools.readme
"""

import re
import sys
import textwrap
from statistics import mode

import matplotlib.pyplot as plt
import pandas as pd

from core.common import ROOT, Parser, TrainingError, read_json, write_atomically, write_text
from core.records import (
    THEN,
    changes_table,
    effect,
    effect_against,
    load_records,
    longest_trainings,
    markdown,
    mean_std,
    part_of,
    published,
    race_table,
    results_table,
)
from experiments.sweep import load_table
from utils import WIDTH, draw_effects, plot_pareto, plot_race, styled

LESSONS = {  # notebook: the question it asks
    "S9_Final": "How does one build and train such a network?",
    "experiments/01_noise": "When is a difference an effect, and when is it luck?",
    "experiments/02_mistakes": "What does each common mistake cost?",
    "experiments/03_augmentation": "Which augmentation pays, and from when on?",
    "experiments/04_depthwise": "What do depthwise-separable convolutions buy?",
    "experiments/05_dilated": "How should a network see far?",
    "experiments/06_sprint": "Which tricks make 85 % in a minute?",
    "experiments/07_frontier": "How accurate can 200,000 parameters be?",
    "experiments/08_look_inside": "Where does a network look, and how sure may it be?",
    "experiments/09_learning_rate": "How is a rate found, and how does a wrong one look?",
    "experiments/10_your_turn": "What is your change worth, and how far does your network go?",
    "experiments/11_five_networks": "Do five published answers hold when they are trained again?",
}
LARGE = "07_frontier_gpu/large-94-*.json"  # tested, too: all tables and pictures compare them
TABLES = {path.stem for path in (ROOT / "experiments").glob("*.py")}
TABLES = sorted(TABLES & {path.parent.name for path in (ROOT / "results").glob("*/*.json")})


# ---------------------------------------------------------------------------------------- README.md


def accuracy_of(records, unit=" %"):
    return mean_std([record["test_accuracy"] for record in records], 100, unit=unit)


def time_of(records):
    """ "58 s on 2 threads, AVX2": the mean of each place, of a run that moved of each in turn."""
    ways = {}
    for record in records:
        last, spent = record["device"].split(THEN)[-1], {}
        for epoch in record["history"]:
            where = place(epoch.get("device", last))
            spent[where] = spent.get(where, 0) + epoch["seconds"]
        ways.setdefault(tuple(spent), []).append(spent.values())
    told = []
    for way, times in ways.items():
        means = [sum(seconds) / len(seconds) for seconds in zip(*times, strict=True)]
        clock = [f"{s:.0f} s" if s < 600 else f"{s / 60:.0f} min" for s in means]
        told.append(THEN.join(map(" on ".join, zip(clock, way, strict=True))))
    return "; ".join(told)


def place(device):
    """ "2 threads, AVX512 with bfloat16", of "cpu: AMD EPYC, AVX512 with bfloat16, 2 threads"."""
    name, *details = device.split(", ")
    return ", ".join(details[::-1]) if name.startswith("cpu") else name.split(": ")[-1]


def numbers(groups):
    """The small table: what stands where, and the best of others."""
    rows = [
        ("`large`, `gated` with larger kernels, 94 epochs", groups["large-94"]),
        ("`gated`, 94 epochs, compiled, three seeds at once", groups["gated-gated"]),
        ("`frontier`, 100 epochs", groups["frontier-frontier"]),
        ("`net`, 50 epochs with the assignment's augmentation", groups["net-standard"]),
        ("`compact`, one of five student networks, 50 epochs", groups["compact-compact"]),
        ("`net`, the sprint of 10 epochs", groups["net-sprint"]),
        ("the same, another processor", load_records("06_processors/*.json")["avx2"]),
        ("`net`, the leaner sprint of 9 epochs, on another machine", groups["net-lean"]),
    ]
    table = [(n, f"{r[0]['parameters']:,}", accuracy_of(r, ""), time_of(r)) for n, r in rows]
    best = max((p for p in published() if p["parameters"] < 200_000), key=lambda p: p["accuracy"])
    name = f"best published below 200,000: {best['name']}"
    table.append((name, f"{best['parameters']:,}", f"{100 * best['accuracy']:.1f}", best["how"]))
    columns = ["", "parameters", "test accuracy, %", "training"]
    return markdown(pd.DataFrame(table, columns=columns), left=("training",))


def findings(groups):
    """What each lesson found, in one sentence: {notebook: sentence}."""
    tables = {name: load_records(f"{name}/*.json") for name in TABLES}

    def points(table, run, base):
        return f"{effect(tables[table][run], tables[table][base]).points:+.1f} points"

    depthwise = points("04_depthwise", "separable-wide", "dense")
    narrow = points("04_depthwise", "separable", "dense")
    larger = points("05_dilated", "plain-map", "dilation-1")
    dilated = effect(tables["05_dilated"]["dilated-map"], tables["05_dilated"]["plain-map"])
    early, late = (points("03_augmentation", f"net-all-{n}", f"net-none-{n}") for n in (3, 30))
    stepped = points("02_mistakes", "onecycle-per-epoch", "onecycle")
    half = [effect(*(tables["02_mistakes"][r][:n] for r in ("half", "right"))) for n in (3, 5)]
    muon = points("06_sprint", "sprint", "sgd")
    large, little = (points("09_learning_rate", run, "right") for run in ("tenfold", "tenth"))
    sure = recorded("calibration/net-sprint-seed0")
    off = [f"{100 * sure[f'calibration_error_{when}']:.1f}" for when in ("before", "after")]
    verdicts = claims(groups | tables["11_five_networks"])["verdict"]
    kept = verdicts[~verdicts.str.startswith("not")] != "missed"
    return {
        "S9_Final": f"In 10 epochs: {accuracy_of(groups['net-sprint'])}",
        "experiments/01_noise": f"Of three seeds {half[0].sentence}; of five {half[1].sentence}",
        "experiments/02_mistakes": f"OneCycleLR stepped once an epoch: {stepped}",
        "experiments/03_augmentation": f"All three: {early} in 3 epochs, {late} in 30",
        "experiments/04_depthwise": f"{depthwise} at equal parameters, {narrow} at equal width",
        "experiments/05_dilated": f"A larger map: {larger}; dilation on it: {dilated.sentence}",
        "experiments/06_sprint": f"Muon instead of SGD: {muon}",
        "experiments/07_frontier": (
            f"{accuracy_of(groups['frontier-frontier'])}; with a GPU "
            f"{accuracy_of(groups['gated-gated'])}; larger kernels "
            f"{accuracy_of(groups['large-94'])}"
        ),
        "experiments/08_look_inside": f"Confidence: {off[0]} points off; tempered, {off[1]}",
        "experiments/09_learning_rate": f"Ten times too large: {large}; too small: {little}",
        "experiments/10_your_turn": "That is yours to find",
        "experiments/11_five_networks": (
            f"{sum(kept)} of {len(kept)} trainings, of three networks, reach their text, or nearly"
        ),
    }


def course(groups):
    """The lessons as a table: question, finding, minutes on the machines of bench/lessons.json."""
    measured, sentences = recorded("bench/lessons"), findings(groups)
    rows = []
    for notebook, question in LESSONS.items():
        minutes = max(1, round(measured[f"{notebook}.ipynb"]["seconds"] / 60))
        link = f"[`{notebook.split('/')[-1]}`]({notebook}.ipynb)"
        rows.append((link, question, sentences[notebook], minutes))
    table = pd.DataFrame(rows, columns=["lesson", "question", "finding", "minutes"])
    text = markdown(table, left=("question", "finding"))
    places = " or ".join(sorted({place(measured[f"{name}.ipynb"]["device"]) for name in LESSONS}))
    return f"{text}\n\nMinutes to execute it: on {places}. Points are of accuracy."


def recorded(name):
    return read_json(ROOT / "results" / f"{name}.json")


def readme_parts():
    """The generated parts of README.md: {marker: Markdown}."""
    groups = load_records() | load_records(LARGE)
    return {"numbers": numbers(groups), "course": course(groups)}


def fill(text, marker, content):
    """Replaces what stands between <!-- marker --> and <!-- /marker --> in `text`.

    Raises ValueError where the markers are missing.
    """
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"The markers <!-- {marker} --> and <!-- /{marker} --> are missing.")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


# -------------------------------------------------------------------------------- results/README.md


def most_accurate(groups):
    """Accuracy, parameters and time of the records on a GPU and a CPU, and the best of others."""
    sentences = []
    for name in ("large-94", "gated-gated", "frontier-frontier"):
        runs = groups[name]
        flipped = mean_std([run["test_accuracy_flip"] for run in runs], 100, unit=" %")
        sentences.append(
            f"**{accuracy_of(runs)} of the test images with {runs[0]['parameters']:,} "
            f"parameters**: `{name.split('-')[0]}`, {runs[0]['recipe']['epochs']} epochs, "
            f"{time_of(runs)}. With the mirrored view averaged in: {flipped}."
        )
    best = max((p for p in published() if p["parameters"] < 200_000), key=lambda p: p["accuracy"])
    sentences.append(
        "`large` is `gated` with larger kernels; `gated` itself was trained with its three seeds "
        "at once on one GPU, compiled. The best that we found published below 200,000 parameters "
        f"is {100 * best['accuracy']:.1f} % ({best['name']}: {best['how']})."
    )
    return "\n\n".join(sentences)


def fastest(groups):
    """The leaner sprint and the first one: accuracy and time; and the race."""
    sentences = []
    for name in ("net-lean", "net-sprint"):
        runs = groups[name]
        sentences.append(
            f"`{name.split('-')[1]}`: **{accuracy_of(runs)} of the test images**, the worst seed "
            f"{100 * min(r['test_accuracy'] for r in runs):.2f} %, trained in {time_of(runs)}."
        )
    race = (
        "`lean` was recorded on another machine of the same kind, with an older torch. A race of "
        "whole trainings on one machine, in one run, each by a schedule that ends with about 85 % "
        "(with AVX2 it was rehearsed on the same processor, one thread, the other core busy):"
    )
    return "\n\n".join([*sentences, race, race_table(recorded("bench/sprint"))])


def claims(groups):
    """What the five texts say, and what was measured: a DataFrame."""
    said = recorded("published/accuracy")
    rows = []
    for name, runs in groups.items():
        epochs = runs[0]["recipe"]["epochs"]
        text = said.get(runs[0]["model"], {"points": {}})
        if str(epochs) not in text["points"] or part_of(runs[0]) == "val":
            continue
        claimed = text["points"][str(epochs)][-1][1]
        more = effect_against(runs, claimed)
        missed = "missed, within the interval" if more.high >= 0 else "missed"
        verdict = "reached" if more.points >= 0 else missed
        if tested := text.get("tested"):
            verdict = f"not comparable: the text tested {tested}"
        measured = f"{accuracy_of(runs, '')} in {epochs}"
        rows.append((f"`{name}`", f"{100 * claimed:.2f} in {epochs}", measured, str(more), verdict))
    columns = ["run", "its text, %", "measured here, %", "points more", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def lesson_effects(name):
    """One lesson's comparisons: its picture, and the tables behind it, folded away."""
    runs = load_records(f"{name}/*.json")
    question = LESSONS.get(f"experiments/{name}", "a second table of runs")
    file = f"{name}.ipynb" if f"experiments/{name}" in LESSONS else f"{name}.py"
    sections = [f"### [`{name}`](../experiments/{file}): {question}"]
    sections.append(f"![Effects with their intervals](../images/{name}.png)")
    sections.append("<details>\n<summary>The numbers</summary>")
    for comparison in comparisons_of(name):
        chosen = {run: runs[run] for run in (comparison.base, *comparison.others) if run in runs}
        sections.append(comparison.question[0].upper() + comparison.question[1:] + ":")
        sections.append(changes_table(chosen, comparison.base))
    return "\n\n".join([*sections, "</details>"])


def comparisons_of(name):
    found = getattr(load_table(ROOT / "experiments" / f"{name}.py"), "COMPARISONS", [])
    runs = load_records(f"{name}/*.json")
    return [one for one in found if one.base in runs and runs.keys() & {*one.others}]


def results_readme():
    """The text of results/README.md."""
    groups = load_records() | load_records(LARGE)
    networks = groups | load_records("11_five_networks/*.json")
    engines = recorded("bench/engines")
    speeds = [(name, f"{speed:,}") for name, speed in engines["images_per_second"].items()]
    engine_table = markdown(pd.DataFrame(speeds, columns=["engine", "images/s"]))
    effects = [lesson_effects(name) for name in TABLES if comparisons_of(name)]
    template = (ROOT / "tools" / "results.md").read_text(encoding="utf-8")
    return template.format(
        most_accurate=most_accurate(groups),
        fastest=fastest(groups),
        results=results_table(networks),
        claims=markdown(claims(networks)),
        cores=engines["cores"],
        engines=engine_table,
        effects="\n\n".join(effects),
    )


# ------------------------------------------------------------------------------------------- images


@styled
def draw_lesson(name):
    """images/<name>.png: the effects of each comparison of a lesson, one below the other."""
    runs = load_records(f"{name}/*.json")
    comparisons = comparisons_of(name)
    counts = [sum(run in runs for run in comparison.others) for comparison in comparisons]
    sizes = dict(figsize=(WIDTH, len(counts) + 0.48 * sum(counts)), height_ratios=counts)
    options = dict(sharex=True, squeeze=False, layout="constrained")
    _, axes = plt.subplots(len(comparisons), 1, **sizes, **options)
    for axis, comparison in zip(axes.flat, comparisons, strict=True):
        base = runs[comparison.base]
        effects = {r: effect(runs[r], base) for r in comparison.others if r in runs}
        draw_effects(axis, dict(sorted(effects.items(), key=lambda item: -item[1].points)), runs)
        plain = mean_std([run["val_accuracy"] for run in base], 100, 1, " %")
        question = comparison.question.replace("`", "")
        axis.set_title(textwrap.fill(f"{question}: {plain}", 50), loc="left", fontsize=11)
    axes[-1, 0].set_xlabel("points, 95 % interval; grey: no effect measured", fontsize=11)
    save_figure(name, 100)


def save_figure(name, dpi):
    path = ROOT / "images" / f"{name}.png"
    write_atomically(path, lambda file: plt.savefig(file, format="png", dpi=dpi))
    plt.close()


def draw_images():
    groups = load_records() | load_records(LARGE)
    plot_pareto(longest_trainings(groups), published())
    save_figure("pareto", 110)
    usual = mode(run["device"] for run in groups["net-sprint"])  # one may be a learner's
    on_it = {
        name: [run for run in runs if run["device"] == usual]
        for name, runs in groups.items()
        if name != "net-lean"  # recorded on another machine of that kind
    }
    plot_race({name: runs for name, runs in on_it.items() if runs})
    save_figure("race", 110)
    for name in TABLES:
        if comparisons_of(name):
            draw_lesson(name)


def write_readme():
    draw_images()
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for marker, content in readme_parts().items():
        text = fill(text, marker, content)
    write_text(path, text)
    write_text(ROOT / "results" / "README.md", results_readme())
    print("README.md, results/README.md and images/ are drawn from results/")


def main():
    Parser("-m tools.readme", description=__doc__.splitlines()[0]).parse_args()
    plt.switch_backend("Agg")
    try:
        write_readme()
    except (TrainingError, ValueError, OSError) as error:
        sys.exit(f"readme: {error}")
    except (KeyError, ZeroDivisionError) as error:
        sys.exit(f"readme: not all is recorded yet ({error}); finish the tables and the lessons.")


if __name__ == "__main__":
    main()
