"""Draws experiments/solutions.ipynb from the exercises that are folded into the lessons.

    python -m tools.solutions                                            question, words, code
    python -m tools.run_notebook --save experiments/solutions.ipynb      and what the code prints

A lesson keeps its solutions under their questions; here they are together, executed.
"""

import re
import sys

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from core.common import ROOT, Parser, TrainingError, write_text
from tools.readme import LESSONS

PATH = ROOT / "experiments" / "solutions.ipynb"
FOLDED = re.compile(r"<details><summary>.*?</summary>(.*?)</details>", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
TITLE = """# Solutions

The exercises of all lessons, each with its solution in words, in code, and with what the code
prints. **Try first**: a solution that one has found stays. After the first cell, each cell of code
stands alone."""


def solutions(lesson):
    """(question, words, code) of every solution that is folded into a lesson, as Markdown."""
    cells = nbformat.read(ROOT / f"{lesson}.ipynb", 4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    begin = text.find("## Exercises")
    if begin < 0:  # the lesson is one: the part whose solution is folded, without its heading
        begin = text.find("\n", text.rfind("\n## ", 0, text.find("<details>")) + 1)
    for found in FOLDED.finditer(text):
        question = text[begin : found.start()].removeprefix("## Exercises").strip()
        begin = found.end()
        words = re.sub(r"\n{3,}", "\n\n", CODE.sub("", found[1]).strip())
        words = words.replace("](experiments/", "](")
        yield question, words, "\n\n".join(CODE.findall(found[1])).strip()


def drawn():
    """The notebook, not executed. Badges and first cell are those of a lesson beside it."""
    like = nbformat.read(ROOT / "experiments" / "01_noise.ipynb", 4)
    head = like.cells[0].source.partition("# ")[0].replace("01_noise", "solutions")
    cells = [new_markdown_cell(head + TITLE), *like.cells[1:3]]
    for lesson in LESSONS:
        name = lesson.split("/")[-1]
        link = f"{name}.ipynb" if "/" in lesson else f"../{name}.ipynb"
        title = f"## [{name}]({link})\n\n"
        for question, words, code in solutions(lesson):
            cells.append(new_markdown_cell(f"{title}{question}\n\n**Solution.** {words}".strip()))
            cells.append(new_code_cell(code, metadata={"tags": ["nbval-ignore-output"]}))
            title = ""
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02}"
        cell["metadata"] = {key: cell["metadata"][key] for key in cell["metadata"] if key == "tags"}
    return new_notebook(cells=cells, metadata=like.metadata)


def main():
    Parser("-m tools.solutions", description=__doc__.splitlines()[0]).parse_args()
    try:
        write_text(PATH, nbformat.writes(drawn()) + "\n")
    except TrainingError as error:
        sys.exit(f"solutions: {error}")
    print("experiments/solutions.ipynb is drawn; execute it: see the head of tools/solutions.py")


if __name__ == "__main__":
    main()
