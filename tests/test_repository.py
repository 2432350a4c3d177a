"""README and notebooks say what the records say, and are fit to be read on GitHub."""

import ast
import base64
import html
import inspect
import json
import os
import re
import subprocess

import nbformat
import pytest
from conftest import ROOT, ours

import model
from core.records import load_records, results_table
from tools import badges, readme, solutions

NOTEBOOKS = [f"{name}.ipynb" for name in readme.LESSONS]
MOVED = [
    path
    for path in ours("experiments/*.ipynb")
    if f"experiments/{path.name}" not in (*NOTEBOOKS, "experiments/solutions.ipynb")
]


@pytest.mark.parametrize("path", MOVED, ids=lambda path: path.name)
def test_old_addresses_of_lessons_lead_on(path):
    first, *rest = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (new,) = re.findall(r"\]\((\w+\.ipynb)\)", "".join(first["source"]))
    assert f"experiments/{new}" in NOTEBOOKS
    assert [cell["execution_count"] for cell in rest] == [1, 2]
    picture = ROOT / re.search(r"images/\w+\.png", "".join(rest[-1]["source"]))[0]
    shown = base64.b64decode(rest[-1]["outputs"][0]["data"]["image/png"])
    assert shown == picture.read_bytes(), "execute it anew"


def test_readme_is_drawn_from_the_records(no_own_records):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for marker, content in readme.readme_parts().items():
        assert readme.fill(text, marker, content) == text, "run `make readme`"
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == readme.results_readme()


def test_the_main_lesson_shows_the_records(no_own_records):
    """Its table is not compared when it is executed: a learner may have records of his own."""
    text = (ROOT / "S9_Final.ipynb").read_text(encoding="utf-8")
    table = results_table(load_records(), short=True)
    assert all(json.dumps(line, ensure_ascii=False)[1:-1] in text for line in table.splitlines())


def repository():
    """Whose badges README.md has: "owner/name"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob", text)[1]


def test_badges_are_stamped():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert badges.stamp(text, "S9_Final.ipynb", repository()) == text, "run `make badges`"
    command = ["git", "remote", "get-url", "origin"]
    remote = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if "github.com" in remote:
        assert repository() != "OWNER/REPOSITORY", "run `make badges`"


def first_cell(name):
    cells = json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]
    return "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])


def test_a_course_that_cannot_be_fetched_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda command: 32768 * ("git clone" in command))
    [cell] = {first_cell(path.relative_to(ROOT)) for path in ours("experiments/*.ipynb")}
    assert cell == first_cell("S9_Final.ipynb")
    with pytest.raises(SystemExit, match="is there a network.* switch Internet on"):
        exec(cell, {})


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_clean(name):
    path = ROOT / name
    book = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert "widgets" not in book["metadata"]
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 1_000_000
    assert sorted(len(cell["source"]) for cell in code)[len(code) // 2] < 10
    assert badges.badges(name, repository()) in "".join(book["cells"][0]["source"])
    assert f"https://github.com/{repository()} course" in first_cell(name)
    assert first_cell(name).endswith("import bootstrap")
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_only_guards_a_page_is_out_of_the_readers_way(name):
    """A cell of nothing but assertions is tagged "check", folded and short. No cell prints whether
    something is true: a reader wants the number.
    """
    for cell in json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        parts = ast.parse("".join(cell["source"])).body
        guards = bool(parts) and all(isinstance(part, ast.Assert) for part in parts)
        assert guards == ("check" in cell["metadata"].get("tags", [])), cell["source"]
        if guards:
            assert cell["metadata"]["jupyter"] == {"source_hidden": True}
            assert len(cell["source"]) < 5
        for output in cell["outputs"]:
            assert not re.search(r": (True|False)$", "".join(output.get("text", "")), re.MULTILINE)


def test_the_solutions_are_those_of_the_lessons():
    """They are executed as a notebook of their own."""
    book = nbformat.read(solutions.PATH, 4)
    drawn = solutions.drawn()
    assert [cell.source for cell in book.cells] == [cell.source for cell in drawn.cells]
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert sum("assert " in cell.source for cell in code) == len(code) - 1


def test_the_code_that_the_main_lesson_shows_is_the_courses():
    """That output is not compared when it is executed: Pygments colours it as it likes."""
    found = 0
    for cell in json.loads((ROOT / "S9_Final.ipynb").read_text(encoding="utf-8"))["cells"]:
        if parts := re.search(r"utils\.code_of\((.*)\)\)\)$", "".join(cell["source"])):
            named = [getattr(model, part.split(".")[1]) for part in parts[1].split(", ")]
            source = "\n\n".join(inspect.getsource(part).rstrip() for part in named)
            shown = re.sub("<[^>]*>", "", "".join(cell["outputs"][0]["data"]["text/html"]))
            assert html.unescape(shown).strip() == source, f"execute {cell['id']} anew"
            found += 1
    assert found == 2


# Who may know whom. No arrow runs back; what a room may know, the rooms above it may, too.
FLOORS = {
    "core.common": set(),
    "core.augment": set(),
    "core.device": {"core.common"},
    "core.arrays": set(),
    "core.calibration": {"core.arrays"},
    "core.looking": set(),
    "core.photos": set(),
    "core.turning": {"core.augment", "core.device"},
    "core.listing": set(),
    "core.limits": set(),
    "core.distributed": {"core.common", "core.device"},
    "core.spread": {"core.distributed"},
    "core.forward": {
        "core.arrays",
        "core.common",
        "core.device",
        "core.tracing",
        "core.undisturbed",
    },
    "core.watching": {"core.arrays", "core.forward"},
    "core.export": {"core.arrays", "core.augment", "core.common"},
    "core.many": {"core.common"},
    "core.download": {"core.arrays", "core.common"},
    "core.recipes": {"core.augment", "core.common", "core.device"},
    "core.undisturbed": set(),
    "core.tracing": {"core.undisturbed"},
    "core.probing": {"core.tracing", "core.undisturbed"},
    "core.field": {"core.probing", "core.tracing"},
    "core.assignment": {"core.probing", "core.tracing"},
    "core.optim": set(),
    "core.averaging": {"core.device", "core.spread"},
    "core.checkpoint": {"core.common", "core.distributed", "core.recipes", "core.undisturbed"},
    "core.records": {"core.common", "core.distributed", "core.recipes"},
    "core.drawings": {"core.optim", "core.recipes", "core.records"},
    "core.pictures": {"core.arrays", "core.calibration", "core.drawings", "core.records"},
    "model": set(),
    "analysis": {
        "core.assignment",
        "core.calibration",
        "core.field",
        "core.looking",
        "core.optim",
        "core.tracing",
        "core.undisturbed",
        "model",
    },
    "bootstrap": set(),
    "dataset": {
        "core.arrays",
        "core.augment",
        "core.common",
        "core.device",
        "core.distributed",
        "core.download",
        "core.photos",
        "core.turning",
    },
    "train": {"model", "dataset", "core"},
    "utils": {"dataset", "core.arrays", "core.drawings", "core.pictures", "core.records"},
    "app": {"train", "dataset", "core"},
    "experiments.sweep": {"train", "dataset", "model", "core"},
    "experiments.mixed": {"model"},
    "experiments.designs": {"model"},
    "experiments.teaching": {"train", "core.checkpoint"},
}
TABLE = {
    "experiments.sweep",
    "experiments.teaching",
    "experiments.mixed",
    "experiments.designs",
    "train",
    "dataset",
    "model",
    "core",
}
TOOL = TABLE | {"utils", "analysis", "tools"}


def modules():
    for folder in ("", "core", "experiments", "tools"):
        for path in ours(f"{folder}/*.py" if folder else "*.py"):
            yield path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def known_to(module):
    """The course's own modules that `module` imports."""
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("core", "tools", "experiments"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name for name in found if name in set(modules())}


@pytest.mark.parametrize("module", [m for m in modules() if m != "core.__init__"])
def test_who_may_know_whom(module):
    floors = {"tools": TOOL, "experiments": TABLE}  # a new room elsewhere has one of its own
    allowed = FLOORS[module] if module in FLOORS else floors[module.split(".")[0]]
    for name in known_to(module):
        assert name in allowed or name.split(".")[0] in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", [*modules()])
def test_a_room_is_small_and_says_its_job(module):
    path = ROOT / (module.replace(".", "/") + ".py")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 350
    assert lines[0].startswith('"""')


def test_the_readme_leads_to_every_room_of_the_core():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "core").glob("*.py")} - {"__init__.py"}
    assert {name for name in rooms if f"`{name}`" not in text} == set()


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert "      - run: make test" in workflow.splitlines()
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


DECIMAL = re.compile(r"(?<![\w.,/:])\d[\d,]*\.\d+(?![\w]|\.\d)")


def decimals(markdown):
    """The decimals in prose: not those in code, links, badges or names of papers."""
    for ignored in (r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"arXiv:[\d.]+", r"https?://\S+"):
        markdown = re.sub(ignored, "", markdown, flags=re.DOTALL)
    return DECIMAL.findall(markdown)


def shown(book):
    """All numbers in the outputs of a notebook."""
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    text = ["".join(output.get("text", "")) for output in outputs]
    for output in outputs:
        text += ["".join(v) for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return [number.replace(",", "") for number in re.findall(r"\d[\d,]*\.?\d*", "\n".join(text))]


def recorded(pattern):
    """All numbers in these files of results/, as they stand and in percent; no epochs' history."""
    numbers = []
    for path in (ROOT / "results").glob(pattern):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content.pop("history", None)
        numbers += [float(n) for n in re.findall(r"(?<![\w\"])\d+\.\d+", json.dumps(content))]
    return numbers + [100 * number for number in numbers]


def is_rounded(decimal, numbers):
    """Whether one of `numbers` is `decimal`, to as many places as that has."""
    half = 0.5 * 10 ** -len(decimal.split(".")[1]) + 1e-9
    return any(abs(float(decimal.replace(",", "")) - float(number)) <= half for number in numbers)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_decimals_in_prose_come_from_records_or_outputs(name):
    book = json.loads((ROOT / name).read_text(encoding="utf-8"))
    known = shown(book) + recorded("published/*.json")
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            for decimal in decimals("".join(cell["source"])):
                assert is_rounded(decimal, known), f"{decimal} is in no record and no output"


def test_the_readme_types_no_number_by_hand():
    """All that are in its generated parts, see above; Python's version is none."""
    text = re.sub(
        r"<!-- (\w+) -->.*?<!-- /\1 -->",
        "",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        flags=re.S,
    )
    assert set(decimals(text)) <= {"3.11"}


def test_a_number_that_nobody_measured_is_found():
    assert decimals("It has 91.84 % (`0.5`, arXiv:1512.03385, [x](1.5)), 3 seeds.") == ["91.84"]
    assert is_rounded("91.8", ["91.84"])
    assert not is_rounded("91.9", ["91.84"])
