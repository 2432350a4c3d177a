"""Stamps the repository's owner and name into README.md and the notebooks.

    python -m tools.badges

They are those of the git remote "origin", so that a fork's badges open the fork.
"""

import json
import re
import subprocess
import sys

from core.common import ROOT, Parser, TrainingError, write_text
from tools.readme import fill


def repository(remote):
    """ "owner/name" of a remote such as https://github.com/owner/name.git or git@github.com:...

    Raises ValueError for anything else.
    """
    match = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", remote)
    if not match:
        verb = "set-url" if remote else "add"
        raise ValueError(
            f"The git remote origin is {remote or 'not set'!r}; badges need one on GitHub: git "
            f"remote {verb} origin https://github.com/OWNER/NAME.git, then make badges."
        )
    return match[1]


def badges(notebook, repository):
    """Markdown that opens `notebook` (a path in the repository) in Colab and in Kaggle."""
    page = f"github.com/{repository}/blob/main/{notebook}"
    colab = f"https://colab.research.google.com/{page.replace('.com', '', 1)}"
    kaggle = f"https://kaggle.com/kernels/welcome?src=https://{page}"
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"({colab})\n[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"({kaggle})"
    )


def stamp(text, notebook, name):
    """`text` with the badges of `notebook` and the address to clone of the repository `name`."""
    if "<!-- badges -->" in text:
        text = fill(text, "badges", badges(notebook, name))
    return re.sub(r"(github\.com/)[\w.-]+/[\w.-]+( course)", rf"\1{name}\2", text)


def write_badges():
    command = ["git", "remote", "get-url", "origin"]
    remote = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    name = repository(remote)
    path = ROOT / "README.md"
    write_text(path, stamp(path.read_text(encoding="utf-8"), "S9_Final.ipynb", name))
    notebooks = ["S9_Final", *(f"experiments/{p.stem}" for p in ROOT.glob("experiments/*.ipynb"))]
    for notebook in notebooks:
        path = ROOT / f"{notebook}.ipynb"
        book = json.loads(path.read_text(encoding="utf-8"))
        for cell in book["cells"][:3]:
            text = stamp("".join(cell["source"]), f"{notebook}.ipynb", name)
            cell["source"] = text.splitlines(keepends=True)
        write_text(path, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    print(f"badges of {name} are in README.md and {len(notebooks)} notebooks")


def main():
    Parser("-m tools.badges", description=__doc__.splitlines()[0]).parse_args()
    try:
        write_badges()
    except (TrainingError, ValueError, OSError) as error:  # OSError: there is no git
        sys.exit(f"badges: {error}")


if __name__ == "__main__":
    main()
