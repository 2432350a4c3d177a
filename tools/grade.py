"""Grades submissions: each in a process of its own, the rules first, then a training, then a page.

    python tools/grade.py alice.py bob.py:Network    these two
    python tools/grade.py submissions                every .py file in the folder

In a test cell of otter-grader or nbgrader: `report = grade("network.py", epochs=1)`.

A submission is one file with a network, a subclass of nn.Module that is built without arguments. It
may import the course's modules, but no file beside it. Every report is a JSON file and a page in
the folder --out; index.html there is the overview. What is reported already, for the same file,
recipe, seed and limits, is not graded again: a broken-off class goes on with the same command, and
the same command in a second terminal shares the work, and so do --jobs and --dask.

The limits: minutes, memory, 64 processes, output, 256 MiB a file. On Linux 5.13 and newer nothing
is written outside a temporary folder and /dev/shm, from 6.7 on no TCP connection is made, from 6.12
on no other process gets a signal. Elsewhere the course's code is compared and put back after each
submission.

This guards against mistakes, not against malice. A submission runs as you: it can read your files,
the test images and other submissions, and one that is made to deceive can send a forged result. For
work of people you do not trust, run the whole command in a container or a virtual machine.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # python tools/grade.py

from core.common import ClaimedError, Parser, TrainingError, whole_number
from core.device import pick_device, pick_precision
from core.many import run_all
from dataset import DataError
from tools import pages
from tools.grading import (
    NotBegunError,
    asked,
    grade_item,
    grade_one,
    left_out,
    names_of,
    opened,
    report_in,
    submissions_of,
    terms_of,
)
from tools.verdict import few


def grade(submission, *, data=None, out="grades", tell=None, **terms):
    """Grades one file and returns its report, a dictionary.

    submission: a path, "network.py", or with the network's name, "network.py:Network".
    data: a `Cifar10`; None loads it.
    out: the folder for the report, a JSON file and a page, and the overview of all that lie there.
    tell: called with what the submission's process says, as it comes.
    terms: recipe, epochs, seed, minutes, memory, device; see tools.grading.terms_of.

    The report has "verdict" ("pass", "fail", or "no grade" where something kept it from being
    trained and tested to the end), "reason" (why, in a sentence), "rules" (each with "rule",
    "measured", "passed"), "parameters", "receptive_field" as text, "accuracy" on the test images at
    the last epoch and its "standard_error", both in 0..1, "history", "seconds" of its process from
    start to end, "memory", its peak, in bytes, and "output", what it printed: {"text", "bytes",
    "lines"}. With "no grade" what was not measured is None, "rules" may be empty; only with a grade
    are there "confusion" (10, 10) and "mistakes", the ten that it was surest of.

    Raises ValueError for bad arguments, DataError (no data), TrainingError (`out` not writable,
    another process is at this file, or the submission's could not begin).
    """
    found = submissions_of([str(submission)])
    if len(found) > 1:
        raise ValueError(f"{submission} holds {len(found)} files; give one, or grade_class all.")
    [name] = names_of(found, Path(out))
    chosen = terms_of(**terms)
    with opened(data) as images:
        report = grade_one(*found, name, chosen, images, Path(out), tell)
    pages.write_overview(Path(out))
    return report


# ------------------------------------------------------------------------------------ a whole class


class Progress:
    """A line for each report; on a terminal, beneath it, what is being done now."""

    def __init__(self, count):
        self.count, self.done, self.graded = count, 0, 0
        self.begun = time.monotonic()

    def now(self, name, epochs):
        def tell(heard):
            now = min(len(heard.history) + 1, epochs)
            epoch = f", epoch {now}/{epochs}" if heard.stage == "training" else ""
            line = f"[{self.done + 1}/{self.count}] {name}: {heard.stage}{epoch}"
            print(f"\r{line:78.78}", end="", flush=True)

        return tell if sys.stdout.isatty() else None

    def finished(self, name, words, graded):
        self.done += 1
        self.graded += graded
        elapsed = time.monotonic() - self.begun
        left = elapsed / max(1, self.graded) * (self.count - self.done)
        clock = f"{span(elapsed)} elapsed"
        clock += f", about {span(left)} left" if self.graded and left else ""
        start = "\r" if sys.stdout.isatty() else ""
        # A submission's words may hold half a character, or steer the terminal.
        words = "".join(c if c.isprintable() else "?" for c in words)
        print(f"{start}[{self.done}/{self.count}] {name}: {words} ({clock})", flush=True)


def span(seconds):
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def grade_class(words, terms, out, data=None, jobs=1, dask=None):
    """Grades all that `words` stand for, tells how far it is, returns the reports in order.

    words, terms: see `submissions_of` and `terms_of` of tools/grading.py.
    out: the folder for the reports, a Path.
    jobs, dask: so many at a time, or those of a cluster; see core.many.run_all. Their processes
        load the images themselves; what goes wrong there is told, and has no report.

    Raises ValueError for bad words, other `data`, or `data` beside one of these two; DataError (no
    data), TrainingError (nothing can be written, no engine).
    """
    several = jobs > 1 or dask is not None
    if several and data is not None:
        raise ValueError("Other processes cannot be handed data; leave out data, or jobs and dask.")
    out = out.resolve()  # they may be in another folder
    submissions = submissions_of(words)
    if ignored := left_out(words, out):
        print(f"Not graded, as only the Python files in the named folders are: {few(ignored)}.")
    names = names_of(submissions, out)
    progress, reports = Progress(len(names)), {}
    with opened(data) as images:
        left = []
        for one, name in zip(submissions, names, strict=True):
            if known := report_in(out / f"{name}.json", asked(one, terms, images)):
                reports[name] = known
                progress.finished(name, "reported already", False)
            else:
                left.append((one, name, terms, out))

        def here(item):
            return grade_one(*item[:3], images, out, progress.now(item[1], terms.recipe.epochs))

        for (_, name, *_), outcome in run_all(grade_item if several else here, left, jobs, dask):
            if isinstance(outcome, (ClaimedError, NotBegunError)):
                progress.finished(name, f"no report now: {outcome}", False)
            elif isinstance(outcome, Exception) and not several:
                raise outcome
            elif isinstance(outcome, Exception):
                progress.finished(name, f"no report: {outcome}", True)
            else:
                reports[name] = outcome
                pages.write_overview(out)
                progress.finished(name, pages.in_a_line(outcome), True)
    if reports:
        pages.write_overview(out)
    return [reports[name] for name in names if name in reports]


JOBS = "at a time (default: 1); each may use that much memory"


def parse(arguments):
    parser = Parser("tools/grade.py", description=__doc__)
    add = parser.add_argument
    add("submissions", nargs="+", help="file.py, file.py:Network, or a folder of files")
    add("--out", type=Path, default=Path("grades"), help="folder for the reports (default: grades)")
    add("--recipe", default="sprint", help="a recipe in RECIPES (default: sprint, 10 epochs)")
    add("--epochs", type=whole_number, help="instead of the recipe's")
    add("--seed", type=int, default=0, help="weights, order and augmentation follow from it")
    add("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    add("--minutes", type=float, default=60, help="limit for each submission (default: 60)")
    add("--memory", type=float, help="limit for each, in GiB (default: 8, or 3/4 of the machine's)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=whole_number, default=1, help=JOBS)
    where.add_argument("--dask", help="the address of a Dask scheduler; see CONTRIBUTING.md")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = vars(parse(arguments))
    words, out = options.pop("submissions"), options.pop("out")
    engine = {name: options.pop(name) for name in ("jobs", "dask")}
    try:
        count, terms = len(submissions_of(words)), terms_of(**options)
        if not engine["dask"]:  # whose machines may have other devices
            pick_precision(pick_device(terms.device), terms.recipe.precision)
        reports = grade_class(words, terms, out, **engine)
    except (ValueError, TrainingError, DataError) as error:
        sys.exit(f"grade: {error}")
    except KeyboardInterrupt:
        sys.exit("\ngrade: stopped; finished reports are kept. Go on with the same command.")
    if reports:
        print(f"Open {(out / 'index.html').resolve()} in a browser.")
    if len(reports) < count:
        missing = count - len(reports)
        sys.exit(f"grade: no report for {missing} of {count}; go on with the same command.")


if __name__ == "__main__":
    main()
