"""Nothing is lost: killed processes, two at once, full disks, folders that one may only read.

Seeded: the moments are the same each time, as far as a clock can be.
"""

import contextlib
import errno
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT, TABLE_HEAD
from test_download import official_archive, serve
from torch import nn

from core import download
from core.checkpoint import load_checkpoint, save_checkpoint
from core.common import CheckpointError, TrainingError
from core.recipes import settings

MOMENTS = 25
# A process that has imported everything and forks: a child begins at once. It must not compute
# before that: threads do not survive a fork.
PARENT = f"""
import json, os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
import numpy as np
import torch._dynamo  # torch's optimisers would, in each child, for seconds
import dataset, train
from experiments import sweep

with np.load(sys.argv[1]) as file:
    data = dataset.Cifar10(*(file[name] for name in dataset.Cifar10._fields))
train.load_cifar10 = lambda progress: data


def child(root, log, *words):
    train.ROOT = Path(root)
    pid = os.fork()
    if pid == 0:
        os.setsid()  # a group of its own, to be killed with all that it starts
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            sweep.sweep(words[1]) if words[0] == "sweep" else train.main(list(words))
        except SystemExit as stop:
            print(stop, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


print("ready", flush=True)
for line in sys.stdin:
    words = json.loads(line)
    if words[0] == "wait":
        print(os.waitpid(-1, 0)[1], flush=True)
        continue
    print(child(*words), flush=True)
"""


class Trainer:
    """Starts trainings in their own processes, and kills them."""

    def __init__(self, data, folder):
        np.savez(folder / "small.npz", **data._asdict())
        command = [sys.executable, "-c", PARENT, str(folder / "small.npz")]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.parent = subprocess.Popen(command, env=environment, **pipes)
        self.children = []
        assert self.parent.stdout.readline() == "ready\n"  # its imports are in no child's time

    def say(self, *words):
        print(json.dumps([str(word) for word in words]), file=self.parent.stdin, flush=True)
        return self.parent.stdout.readline().strip()

    def start(self, root, log, *words):
        self.children.append(int(self.say(root, log, *words)))

    def wait(self):
        """The exit status of a child that has ended."""
        return int(self.say("wait"))

    def kill(self):
        """kill -9 for all children, and whatever they have started."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        self.children.clear()


@pytest.fixture
def trainer(small, tmp_path):
    trainer = Trainer(small, tmp_path)
    yield trainer
    trainer.kill()
    trainer.parent.kill()


WORDS = "--model net --recipe sprint --epochs 4 --device cpu".split()
NAME = "net-sprint-4epochs-seed0"


def outcome(root):
    """(weights, history without times) of the run in `root`; and nothing else may lie there."""
    files = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    assert files == [f"{folder}/{NAME}.{end}" for folder, end in LEFT]
    record = json.loads((root / "results" / f"{NAME}.json").read_text(encoding="utf-8"))
    for epoch in record["history"]:
        del epoch["seconds"], epoch["evaluation_seconds"]
    state = torch.load(root / "weights" / f"{NAME}.pt", weights_only=True)["state"]
    return {key: value.numpy().tobytes() for key, value in state.items()}, record["history"]


LEFT = (("results", "json"), ("weights", "pt"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(trainer, tmp_path):
    begun = time.perf_counter()
    trainer.start(tmp_path / "whole", tmp_path / "log", *WORDS)
    assert trainer.wait() == 0, (tmp_path / "log").read_text(encoding="utf-8")
    length = time.perf_counter() - begun
    expected = outcome(tmp_path / "whole")
    generator, resumed = random.Random(0), 0
    for moment in range(MOMENTS):
        root, log = tmp_path / str(moment), tmp_path / f"log{moment}"
        trainer.start(root, log, *WORDS)
        time.sleep(generator.uniform(0, length))
        trainer.kill()
        trainer.wait()
        again = (root / "checkpoints" / f"{NAME}.pt").exists()
        resumed += again
        trainer.start(root, log, *WORDS, *["--resume"] * again)
        assert trainer.wait() == 0, log.read_text(encoding="utf-8")
        assert outcome(root) == expected, moment
    assert 3 < resumed < MOMENTS  # and one was killed before it had anything to go on from


TABLE = (
    TABLE_HEAD
    + """
CHANGE = dict(epochs=4, augment="none")
RUNS = [Run(f"run{number}", "sprint", 2, CHANGE, model=Tiny) for number in range(12)]
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_share_a_table_also_when_one_is_killed(trainer, tmp_path):
    path = tmp_path / "table.py"
    path.write_text(TABLE)
    logs = [tmp_path / f"log{number}" for number in range(3)]
    root = tmp_path / "root"
    for log in logs[:2]:
        trainer.start(root, log, "sweep", path)
    deadline = time.monotonic() + 120
    while not any((root / "results" / "table").glob("*.json")):
        assert time.monotonic() < deadline, [log.read_text(encoding="utf-8") for log in logs[:2]]
        time.sleep(0.01)
    trainer.kill()
    trainer.wait()
    trainer.wait()
    before = {p.name for p in (root / "results" / "table").glob("*.json")}
    for log in logs[1:]:
        trainer.start(root, log, "sweep", path)
    assert trainer.wait() == trainer.wait() == 0, [log.read_text(encoding="utf-8") for log in logs]
    records = {p.name for p in (root / "results" / "table").glob("*.json")}
    assert records == {f"run{number}-seed{seed}.json" for number in range(12) for seed in (0, 1)}
    names = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    names = [line for line in names if line.startswith("table/") and " " not in line]
    assert len(records) <= len(names) <= len(records) + 2  # the two that were killed, again
    assert len(set(names)) == len(records)
    assert before < records
    left = [p.suffix for p in root.rglob("*") if p.suffix in (".partial", ".lock", ".test")]
    # Who is killed between its record and the end leaves the lock of a run that is done.
    assert left in ([], [".lock"], [".lock"] * 2)


@pytest.mark.slow
def test_two_first_downloads_at_once_end_with_one_good_copy(cifar, tmp_path, monkeypatch):
    content = official_archive(cifar, tmp_path).read_bytes()
    asked = []

    def reply(request):
        asked.append(request.path)
        time.sleep(1)
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    address, stop = serve(reply)
    monkeypatch.setattr(download, "MIRRORS", (address,))
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    monkeypatch.setattr(download, "ARCHIVE_MD5", download.hashlib.md5(content).hexdigest())
    root, loaded = tmp_path / "data", []
    threads = [
        threading.Thread(target=lambda: loaded.append(download.load_cifar10(root, False)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop()
    assert len(loaded) == 2
    assert len(asked) == 1
    assert {p.name for p in root.iterdir()} <= {download.CACHE, ".lock"}
    assert all(np.array_equal(a, b) for data in loaded for a, b in zip(data, cifar, strict=True))


def may_mount():
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


FULL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import torch
from core import checkpoint, common, download
root = Path(sys.argv[1])
small, large = torch.zeros(100), torch.zeros(200_000)
states = dict(model=torch.nn.Linear(1, 1))
where = torch.device("cpu"), "float32"

def tried(write):
    try:
        write()
    except (common.TrainingError, download.DataError) as error:
        print(type(error).__name__, error)

for size in (small, large):
    tried(lambda: checkpoint.save_checkpoint(root / "c.pt", {{}}, states, [dict(x=size)], *where))
    tried(lambda: checkpoint.write_tensors(root / "w.pt", dict(x=size)))
    tried(lambda: common.write_json(root / "r.json", dict(x=size.tolist())))
    tried(lambda: download._save_cache(root, download.Cifar10(*[size.numpy()] * 4)))
print(sorted(path.name for path in root.iterdir()))
for name in ("c.pt", "w.pt"):
    content = torch.load(root / name, weights_only=True)
    print(len(content["x"] if name == "w.pt" else content["history"][0]["x"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="mounting needs root")
def test_a_full_disk_keeps_the_last_good_files(tmp_path):
    script = tmp_path / "full.py"
    script.write_text(FULL)
    folder = tmp_path / "disk"
    folder.mkdir()
    command = shlex.join([sys.executable, str(script), str(folder)])
    mount = f"mount -t tmpfs -o size=256k tmpfs {shlex.quote(str(folder))} && exec {command}"
    run = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *failures, files, checkpoint, weights = run.stdout.splitlines()
    assert len(failures) == 4
    assert all("No space left on device" in line and "free some space" in line for line in failures)
    assert sum("DataError" in line for line in failures) == 1
    assert files == "['c.pt', 'cifar10.npz', 'r.json', 'w.pt']"
    assert checkpoint == weights == "100"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
def test_data_in_a_folder_that_one_may_only_read_are_used_as_they_are(cifar, tmp_path, monkeypatch):
    """As Kaggle's inputs, or a class's network drive."""
    official_archive(cifar, tmp_path)
    monkeypatch.setattr(download.os, "access", lambda path, mode: mode != os.W_OK)  # root may all
    monkeypatch.setattr(
        download,
        "ARCHIVE_MD5",
        download.hashlib.md5((tmp_path / download.ARCHIVE).read_bytes()).hexdigest(),
    )
    data = download.load_cifar10(tmp_path, progress=False)
    assert np.array_equal(data.test_images, cifar.test_images)
    assert [path.name for path in tmp_path.iterdir()] == [download.ARCHIVE]


@pytest.mark.parametrize(
    ("value", "folder"),
    [("~/data", "{home}/data"), ("  ~/data ", "{home}/data"), (" ", str(ROOT / "data"))],
)
def test_the_home_folder_and_blanks_in_the_environment(value, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CIFAR10_ROOT", value)
    assert str(download.data_root()) == folder.format(home=tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (torch.OutOfMemoryError("CUDA out of memory.\nSee"), "CUDA out of memory."),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(error, said, tmp_path):
    """A sweep would set it aside, and days with it."""

    class Full:
        def load_state_dict(self, state):
            raise error

    path, device = tmp_path / "run.pt", torch.device("cpu")
    identity = {"recipe": settings(QUICK), "python": "3.11"}
    save_checkpoint(path, identity, {"model": nn.Linear(1, 1)}, [], device, "float32")
    with pytest.raises(TrainingError, match=rf"read now \({said}\); repeat the command") as found:
        load_checkpoint(path, identity, {"model": Full()}, device, "float32")
    assert not isinstance(found.value, CheckpointError)
