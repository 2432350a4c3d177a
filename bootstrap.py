"""What the first cell of every notebook needs, wherever it runs: Colab, Kaggle, a clone of yours.

After `import bootstrap` the modules of the course can be imported, the working folder is the root
folder, and what Colab and Kaggle lack is installed.
"""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

root = Path(__file__).resolve().parent
os.chdir(root)
sys.path.insert(0, str(root))

HOSTED = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
LACKED = ("albumentations", "captum", "torchsummary", "tabulate")


def missing():
    """The lines of requirements.txt for what is LACKED here."""
    lines = (root / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = {name: line for line in lines for name in LACKED if line.startswith(name)}
    return [line for name, line in wanted.items() if not fits(name, line)]


def fits(name, line):
    """Whether a package is here and, where the line pins a version with ==, in that one."""
    pinned = line.partition("==")[2]
    try:
        return version(name) == pinned or not pinned
    except PackageNotFoundError:
        return False


if HOSTED and missing():
    command = [sys.executable, "-m", "pip", "install", "--quiet", *missing()]
    if subprocess.run(command).returncode:
        raise SystemExit(
            "No packages: is there a network? In Kaggle: Settings, switch Internet on."
        )
