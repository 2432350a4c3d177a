"""train.py --export onnx: another program computes the same logits from the pixels themselves."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, Tiny

import train
from core.common import TrainingError
from core.export import FromPixels, export_onnx
from dataset import CLASSES, make_batches


def logits_of(network, images, augment):
    batches = make_batches(images, np.zeros(len(images)), 500, augment, train=False)
    return train.classify(network, batches, "float32")[0].numpy()


def test_pixels_are_normalised_as_in_training(small):
    torch.manual_seed(0)
    network = Tiny().eval()
    with torch.no_grad():
        logits = FromPixels(network, "flip")(torch.from_numpy(small.test_images)).numpy()
    assert logits == pytest.approx(logits_of(network, small.test_images, "flip"), abs=1e-5)


def test_without_the_extra_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"pip install -r requirements-app\.txt"):
        export_onnx(Tiny().eval(), "none", tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_trained_is_not_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="holds no weights of a network"):
        train.main(["--model", "net", "--export", "onnx"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net-sprint", "compact-compact"])
def test_onnxruntime_has_the_same_logits(name, tmp_path, monkeypatch, cifar, capsys):
    runtime = pytest.importorskip("onnxruntime", reason="requirements-app.txt")
    pytest.importorskip("onnxscript", reason="requirements-app.txt")
    for file in (f"weights/{name}-seed0.pt", f"results/{name}-seed0.json"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    monkeypatch.setattr(train, "ROOT", tmp_path)
    train.main(["--model", name.split("-")[0], "--export", "onnx"])
    assert "uint8 images (N, 32, 32, 3) in" in capsys.readouterr().out

    session = runtime.InferenceSession(tmp_path / "weights" / f"{name}-seed0.onnx")
    assert session.get_modelmeta().custom_metadata_map["classes"] == ",".join(CLASSES)
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    network, record = train.load_weights(tmp_path / "weights" / f"{name}-seed0.pt")
    ours = logits_of(network, cifar.test_images[:500], record["recipe"]["augment"])
    for count in (1, 3, 500):
        (theirs,) = session.run(["logits"], {"images": cifar.test_images[:count]})
        assert theirs.shape == (count, 10)
        assert np.abs(theirs - ours[:count]).max() < 1e-4
