"""README and notebooks say what the records say, and are fit to be read on GitHub."""

import ast
import json
import re
import subprocess

import pytest
from conftest import ROOT

import utils

NOTEBOOKS = [
    "S9_Final.ipynb",
    *sorted(f"experiments/{path.name}" for path in (ROOT / "experiments").glob("*.ipynb")),
]


def test_readme_is_drawn_from_the_records():
    readme = (ROOT / "README.md").read_text()
    for marker, content in utils.readme_parts().items():
        assert utils.fill(readme, marker, content) == readme, "run `make readme`"


def test_badges_are_stamped():
    readme = (ROOT / "README.md").read_text()
    assert (
        utils.fill(readme, "badges", utils.badges("S9_Final.ipynb", utils.repository())) == readme
    ), "run `make badges`"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_clean(name):
    path = ROOT / name
    book = json.loads(path.read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert "widgets" not in book["metadata"]
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 1_000_000
    assert sorted(len(cell["source"]) for cell in code)[len(code) // 2] < 10
    assert utils.badges(name, utils.repository()) in "".join(book["cells"][0]["source"])
    assert any(f'REPOSITORY = "{utils.repository()}"' in "".join(cell["source"]) for cell in code)
    assert str(ROOT) not in path.read_text()


def solutions():
    """The Python blocks folded into <details> in the notebooks: solutions of exercises."""
    for name in NOTEBOOKS:
        for cell in json.loads((ROOT / name).read_text())["cells"]:
            for folded in re.findall(r"<details>.*?</details>", "".join(cell["source"]), re.DOTALL):
                for number, code in enumerate(
                    re.findall(r"```python\n(.*?)```", folded, re.DOTALL)
                ):
                    yield pytest.param(code, id=f"{name}-{number}")


@pytest.mark.parametrize("code", list(solutions()))
def test_the_solutions_of_exercises_run(code):
    assert "assert " in code
    exec(code, {})


def imports(name):
    tree = ast.parse((ROOT / f"{name}.py").read_text())
    found = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    return (
        found | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ) & {"model", "dataset", "train", "utils"}


def test_who_may_know_whom():
    assert imports("model") == set()
    assert imports("dataset") == set()
    assert imports("train") == {"dataset", "model"}
    assert imports("utils") == {"dataset"}


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
