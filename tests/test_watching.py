"""What a record keeps of each epoch where it is asked to, and the shown example of a writer."""

import dataclasses
import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT, Tiny, record

import train
import utils
from core.watching import ByClass
from dataset import make_batches


def test_accuracy_and_confusion_of_every_epoch_are_in_the_record(small):
    batches = make_batches(small.test_images, small.test_labels, 100, QUICK.augment, train=False)
    options = dict(device="cpu", progress=False, on_epoch=ByClass(batches))
    recipe = dataclasses.replace(QUICK, precision="float32")
    network, found = train.fit(Tiny, recipe, small, **options)
    for epoch in found["history"]:
        counts = np.array(epoch["confusion"])
        assert counts.sum(1).tolist() == np.bincount(small.test_labels).tolist()
        assert epoch["class_accuracy"] == pytest.approx(counts.diagonal() / counts.sum(1))
        assert counts.trace() / counts.sum() == pytest.approx(epoch["test_accuracy"])
    last = train.evaluate(network, small.test_images, small.test_labels, precision="float32")
    expected = utils.confusion_matrix(small.test_labels, last.predictions)
    assert found["history"][-1]["confusion"] == expected.tolist()
    assert json.loads(json.dumps(found))["history"] == found["history"]  # it can be written


def test_it_changes_nothing_in_the_training(small):
    batches = make_batches(small.test_images, small.test_labels, 100, train=False)
    options = dict(device="cpu", progress=False)
    losses = []
    for on_epoch in (None, ByClass(batches)):
        _, found = train.fit(Tiny, QUICK, small, on_epoch=on_epoch, **options)
        losses.append([epoch["train_loss"] for epoch in found["history"]])
    assert losses[0] == losses[1]


def test_a_class_without_an_image_has_no_accuracy(small):
    few = small.test_labels != 3
    batches = make_batches(small.test_images[few], small.test_labels[few], 100, train=False)
    history = [{}]
    ByClass(batches)(Tiny(), history)
    assert history[0]["class_accuracy"][3] == 0
    assert sum(history[0]["confusion"][3]) == 0


def test_the_picture_has_a_confusion_for_each_epoch(no_windows):
    kept = record([0.5, 0.7, 0.9])
    for epoch, right in zip(kept["history"], (5, 7, 9), strict=True):
        counts = right * np.eye(10, dtype=int)
        counts[np.arange(10), (np.arange(10) + 1) % 10] += 10 - right
        epoch["confusion"] = counts.tolist()
    shares = utils.plot_classes(kept)
    assert shares.shape == (3, 10, 10)
    assert shares[1].diagonal() == pytest.approx(0.7)
    above, *below = plt.gcf().axes
    assert list(above.lines[3].get_ydata()) == pytest.approx([50, 70, 90])
    assert len(below) == 3


def test_a_record_without_them_is_refused(no_windows):
    with pytest.raises(ValueError, match=r"on_epoch=ByClass\(batches\)"):
        utils.plot_classes(record([0.5]))


def test_the_lessons_tensorboard_writer_writes(small, tmp_path, monkeypatch):
    """The code as it stands in the lesson, with fewer images."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    book = json.loads((ROOT / "experiments" / "09_learning_rate.ipynb").read_text(encoding="utf-8"))
    text = "".join("".join(cell["source"]) for cell in book["cells"])
    (code,) = re.findall(r"```python\n(from torch.utils.tensorboard .*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"net"', "Tiny"), dict(train=train, muon=QUICK, few=small, Tiny=Tiny))
    written = EventAccumulator(str(tmp_path / "runs" / "short")).Reload()
    assert {"train_loss", "test_accuracy", "lr"} <= set(written.Tags()["scalars"])
    assert [event.step for event in written.Scalars("train_loss")] == [1, 2]


def test_what_is_added_is_kept_as_a_record_can(small, tmp_path):
    """Numbers of NumPy and torch, too, in the record and in the checkpoint alike."""
    checkpoint = tmp_path / "run.pt"
    options = dict(device="cpu", progress=False, checkpoint=checkpoint)

    def add(model, history):
        assert not model.training
        history[-1] |= {"one": np.int64(1), "two": np.float64(2), "three": torch.ones(3)}

    network, found = train.fit(Tiny, QUICK, small, on_epoch=add, **options)
    assert not network.training
    assert [(e["one"], e["two"], e["three"]) for e in found["history"]] == [(1, 2.0, [1, 1, 1])] * 2
    again = train.fit(Tiny, QUICK, small, resume=True, **options)[1]
    assert again["history"] == found["history"]
    with pytest.raises(ValueError, match=r"history\[-1\] that a record cannot keep"):
        train.fit(Tiny, QUICK, small, on_epoch=lambda _, h: h[-1].update(x=object()), **options)
    with pytest.raises(ValueError, match=r"history\[-1\] that a record cannot keep .*float"):
        train.fit(Tiny, QUICK, small, on_epoch=lambda _, h: h[-1].update(x=math.nan), **options)


def test_numbers_of_numpy_and_torch_in_recipe_and_variant_can_be_kept_and_gone_on_from(
    small, tmp_path
):
    def numbers(*arguments):
        loss, accuracy = train.train_epoch(*arguments)
        return np.float64(loss), torch.tensor(accuracy)

    recipe = dataclasses.replace(QUICK, lr=np.float64(QUICK.lr))
    options = dict(device="cpu", progress=False, checkpoint=tmp_path / "run.pt")
    options |= dict(train_epoch=numbers)
    found = train.fit(Tiny, recipe, small, **options)[1]
    again = train.fit(Tiny, recipe, small, resume=True, **options)[1]
    assert json.loads(json.dumps(found))["history"] == again["history"]
