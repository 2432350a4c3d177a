"""More than 500 inputs mutated at random, from seeds: each ends right, or in one sentence.

A user's fault never ends in a traceback, and no damaged file passes for a good one.
"""

import dataclasses
import errno
import json
import random
import shutil
import warnings

import pytest
import torch
from conftest import QUICK, ROOT, Tiny, record
from torch import nn

import train
from core.checkpoint import CheckpointError
from core.common import TrainingError
from core.optim import make_optimizer, make_schedule
from core.recipes import Recipe
from core.records import load_records, results_table
from dataset import DataError, make_batches
from experiments import sweep


def mutated(content, generator):
    """`content`, bytes, with one accident."""
    content = bytearray(content)
    at = generator.randrange(len(content))
    accident = generator.choice(["flip", "cut", "zeros", "doubled", "foreign", "begin"])
    if accident == "flip":
        content[at] ^= 1 << generator.randrange(8)
    elif accident == "cut":
        del content[at:]
    elif accident == "zeros":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif accident == "doubled":
        content[at:at] = content[at : at + 16]
    elif accident == "foreign":
        content[at : at + 8] = generator.randbytes(8)
    else:
        del content[:at]
    return bytes(content)


def one_sentence(error):
    text = str(error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize("seed", range(120))
def test_damaged_checkpoints(seed, small, tmp_path):
    path = tmp_path / "run.pt"
    options = dict(data=small, checkpoint=path, progress=False)
    network, whole = train.fit(Tiny, QUICK, **options)
    path.write_bytes(mutated(path.read_bytes(), random.Random(seed)))
    try:
        again, resumed = train.fit(Tiny, QUICK, resume=True, **options)
    except CheckpointError as error:
        one_sentence(error)
        return
    assert resumed["history"] == whole["history"]  # what was hit stands for nothing
    assert torch.equal(again.conv.weight, network.conv.weight)


GOOD = ROOT / "weights" / "net-sprint-seed0.pt"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the weights of a run called net would lie, its record beside them."""
    monkeypatch.setattr(train, "ROOT", tmp_path)
    for folder in ("weights", "results"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "results" / "net-sprint-seed0.json", tmp_path / "results" / "net.json")
    return tmp_path / "weights" / "net.pt"


@pytest.mark.parametrize("seed", range(120))
def test_damaged_weights(seed, place):
    place.write_bytes(mutated(GOOD.read_bytes(), random.Random(seed)))
    try:
        network, _ = train.load_weights(place)
    except TrainingError as error:
        one_sentence(error)
        return
    expected = torch.load(GOOD, weights_only=True)["state"]
    pairs = zip(network.state_dict().values(), expected.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_folder_of_the_weights_may_be_a_link(place):
    folder = place.parent.rename(place.parent.with_name("big disk"))
    place.parent.symlink_to(folder, target_is_directory=True)
    shutil.copy(GOOD, place)
    assert train.load_weights(place)[1]["model"] == "net"


@pytest.mark.parametrize("record", ["[]", "{}", "compact-compact-seed0"])
def test_weights_beside_what_is_not_their_record(record, place):
    shutil.copy(GOOD, place)
    other = ROOT / "results" / f"{record}.json"
    text = other.read_text(encoding="utf-8") if other.exists() else record
    (place.parents[1] / "results" / "net.json").write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match="or has no record; train the model anew"):
        train.load_weights(place)


def test_weights_that_cannot_be_read_now_are_not_called_damaged(place, monkeypatch):
    def unreadable(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(train, "read_tensors", unreadable)
    with pytest.raises(TrainingError, match=r"cannot be read now \(Permission denied\)"):
        train.load_weights(place)


def test_weights_that_lie_elsewhere_have_no_record(tmp_path):
    shutil.copy(GOOD, tmp_path / "net.pt")
    with pytest.raises(TrainingError, match="lies outside"):
        train.load_weights(tmp_path / "net.pt")


ODD = [None, "", "x", -1, 0, 1e400, float("nan"), [], {}, [1], {"a": 1}, True, 10**30, "0.5"]


@pytest.mark.parametrize("seed", range(100))
def test_records_with_odd_values(seed, tmp_path):
    """A key with an odd value, or without one, or a file that is damaged."""
    generator = random.Random(seed)
    content = record([0.5, 0.6])
    text = json.dumps(content)
    if seed % 2:
        key = generator.choice(list(content))
        content[key] = generator.choice(ODD)
        if generator.random() < 0.3:
            del content[key]
        text = json.dumps(content)
    else:
        text = mutated(text.encode(), generator)
    path = tmp_path / "net-seed0.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        groups = load_records(root=tmp_path)
        assert "`net`" in results_table(groups)
    except ValueError as error:
        one_sentence(error)
        assert "is not a record of a run" in str(error)


FIELDS = [field.name for field in dataclasses.fields(Recipe)]
VALUES = [*ODD, 1, 2, 5, 0.1, 0.5, "sgd", "muon", "adam", "onecycle", "triangle", "step", "flip"]


@pytest.mark.parametrize("seed", range(150))
def test_recipes_of_odd_values(seed):
    """What is accepted can be trained by: ten steps of its optimiser and schedule. What cannot, is
    told by the recipe; but whether a schedule has enough steps depends on the images.
    """
    generator = random.Random(seed)
    chosen = {name: generator.choice(VALUES) for name in generator.sample(FIELDS, 2)}
    try:
        recipe = Recipe(**{"epochs": 2} | chosen)
    except ValueError as error:
        one_sentence(error)
        return
    layer = nn.Conv2d(3, 4, 3)
    optimizer = make_optimizer(layer, recipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            schedule = make_schedule(optimizer, recipe, 5)
        except ValueError as error:
            one_sentence(error)
            return
        for _ in range(10 if recipe.epochs > 1 else 5):
            layer(torch.ones(1, 3, 4, 4)).sum().backward()
            optimizer.step()
            schedule.step() if schedule.last_epoch < 9 else None


LINES = [
    'Run("a", "sprint", 1)',
    'Run("a", "sprint", 1)',
    'Run("b", "sprimt", 1)',
    'Run("c", "sprint", 0)',
    'Run("d", "sprint", 1, dict(epochs=0))',
    'Run("e", "sprint", 1, model="nett")',
    'Run("f", "sprint", 1, model=3)',
    'Run("g", "sprint", "2")',
    '("h", "sprint", 1)',
    "None",
    'Run("i", "sprint", 2, dict(augment="no"))',
    'Run("j", "standard", 1)',
    "Run()",
    "1 / 0",
]


@pytest.mark.parametrize("seed", range(60))
def test_tables_with_odd_lines(seed, tmp_path):
    generator = random.Random(seed)
    lines = generator.sample(LINES, generator.randrange(4))
    text = f"[{', '.join(lines)}]"
    if seed % 5 == 0:
        text = f"(run for run in {text})"  # a generator
    path = tmp_path / "table.py"
    path.write_text(f"from experiments.sweep import Run\nRUNS = {text}\n")
    fine = {LINES[0], LINES[11]}
    good = bool(lines) and set(lines) <= fine and len(set(lines)) == len(lines) and seed % 5
    try:
        planned = sweep.plan(path)
    except TrainingError as error:
        one_sentence(error)
        assert not good, error
        return
    assert good
    assert len(planned) == len(lines)


WORDS = {
    "--model": ["net", "nett", "", "compact", "../x", "NET"],
    "--recipe": ["sprint", "sprnt", "", "standard", "compact"],
    "--seed": ["0", "-1", "1e3", "x", str(10**20), "1.5", "²"],
    "--epochs": ["1", "0", "-3", "²", str(10**29), "many", "1.0"],
    "--device": ["cpu", "cpu:x", "gpu", "cuda:99", "", "mps"],
    "--validate": None,
    "--resume": None,
    "--sweep": ["t.py", ""],
    "-x": None,
}


@pytest.mark.parametrize("seed", range(80))
def test_odd_command_lines(seed, tmp_path, monkeypatch, capsys):
    """They reach the training, or end in one sentence; nothing is written then."""
    generator = random.Random(seed)
    words = []
    for option in generator.sample(list(WORDS), generator.randrange(1, 5)):
        words.append(option)
        if WORDS[option]:
            words.append(generator.choice(WORDS[option]))

    def no_data(progress):
        raise DataError("no data here")

    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "load_cifar10", no_data)
    with pytest.raises(SystemExit) as stop:
        train.main(words)
    said = capsys.readouterr().err.strip() or str(stop.value)
    assert said.count("\n") == 0
    assert said.startswith("train.py: ")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_right_command_line_reaches_the_data(tmp_path, monkeypatch):
    def no_data(progress):
        raise DataError("reached")

    monkeypatch.setattr(train, "ROOT", tmp_path)
    monkeypatch.setattr(train, "load_cifar10", no_data)
    with pytest.raises(SystemExit, match="reached"):
        train.main("--model net --recipe sprint --epochs 3 --device cpu --validate".split())


@pytest.mark.parametrize("seed", range(30))
def test_odd_arguments_of_make_batches(seed, small):
    generator = random.Random(seed)
    arguments = dict(batch_size=64, augment="flip", engine="device", seed=0, device="cpu")
    name = generator.choice(["batch_size", "augment", "engine"])
    arguments[name] = generator.choice([None, "", "x", -1, 0, 1.5, "standard", [], True, 10**9])
    try:
        batches = make_batches(small.train_images, small.train_labels, **arguments)
        images, labels = next(iter(batches))
        assert images.shape[1:] == (3, 32, 32)
        assert len(images) == len(labels) > 0
    except ValueError as error:
        one_sentence(error)
