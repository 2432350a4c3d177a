"""Networks that teach another: it learns their answers to the views that it sees, and no label."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import QUICK

import train
from core.common import TrainingError
from dataset import make_batches
from experiments.teaching import Answered, Taught

MIXED = dataclasses.replace(QUICK, mixup=0.5)


@pytest.fixture
def teachers(small, tmp_path, monkeypatch):
    """The names of two networks in weights/."""
    monkeypatch.setattr(train, "ROOT", tmp_path)
    for seed in (0, 1):
        recipe = dataclasses.replace(QUICK, seed=seed)
        train.train_and_record("net", recipe, f"own/teacher-seed{seed}", data=small, progress=False)
    return [f"own/teacher-seed{seed}" for seed in (0, 1)]


def taught(data, names):
    network, record = train.fit("net", MIXED, data, progress=False, train_epoch=Taught(names))
    return network.state_dict(), record


def test_the_student_never_sees_a_label(teachers, small):
    weights, record = taught(small, teachers)
    other = small._replace(train_labels=np.roll(small.train_labels, 7))
    again, _ = taught(other, teachers)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    alone, _ = taught(small, teachers[:1])
    assert not torch.equal(weights["c1.0.0.weight"], alone["c1.0.0.weight"])
    assert record["history"][-1]["train_loss"] < record["history"][0]["train_loss"]


def test_an_answer_is_the_mean_of_the_teachers_to_the_same_view(teachers, small):
    networks = [train.load_weights(train.ROOT / "weights" / f"{name}.pt")[0] for name in teachers]
    made = (small.train_images, small.train_labels, 100, "flip_shift", "device")
    answered = Answered(make_batches(*made, seed=5), networks, "float32")
    assert len(answered) == 6
    for (images, answers), (same, _) in zip(answered, make_batches(*made, seed=5), strict=True):
        assert torch.equal(images, same)
        with torch.no_grad():
            expected = sum(network(same).softmax(1) for network in networks) / 2
        torch.testing.assert_close(answers, expected)


def test_a_damaged_teacher_is_told(teachers, small):
    taught = Taught([*teachers, "own/nobody"])
    taught.file("own/nobody").write_bytes(b"damaged")
    for _ in range(2):  # a sweep goes on to the next seed, which must not have two teachers
        with pytest.raises(TrainingError, match=r"nobody\.pt holds no weights of a network"):
            train.fit("net", MIXED, small, progress=False, train_epoch=taught)


def test_a_missing_teacher_is_told_and_no_reason_to_set_a_checkpoint_aside(
    teachers, small, tmp_path
):
    taught = Taught(teachers)
    options = dict(progress=False, checkpoint=tmp_path / "run.pt", train_epoch=taught)
    train.fit("net", MIXED, small, **options)
    taught.file(teachers[0]).unlink()
    with pytest.raises(TrainingError, match=r"There is no .*seed0\.pt, a teacher's") as told:
        train.fit("net", MIXED, small, resume=True, **options)
    assert told.type is TrainingError  # at a CheckpointError a sweep begins anew


def test_teachers_that_were_trained_anew_are_others(teachers, small):
    before = Taught(teachers).identity()
    recipe = dataclasses.replace(QUICK, seed=7)
    train.train_and_record("net", recipe, teachers[0], data=small, progress=False)
    assert Taught(teachers).identity() != before


def test_a_taught_run_that_was_cut_off_goes_on_to_the_bit(teachers, small, tmp_path):
    """A student with dropout: loading the teachers again must not take its random numbers."""
    recipe = dataclasses.replace(MIXED, epochs=2)
    options = dict(progress=False, device="cpu")
    whole, _ = train.fit("dilated", recipe, small, **options, train_epoch=Taught(teachers))

    def stop(model, history):
        if len(history) > 1:  # the first one's checkpoint is written
            raise KeyboardInterrupt

    options |= dict(checkpoint=tmp_path / "run.pt")
    with pytest.raises(KeyboardInterrupt):
        train.fit("dilated", recipe, small, **options, on_epoch=stop, train_epoch=Taught(teachers))
    options |= dict(resume=True)
    again, _ = train.fit("dilated", recipe, small, **options, train_epoch=Taught(teachers))
    same = zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in same)
