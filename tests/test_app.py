"""app.py, first as functions, then in a real browser. Needs requirements-app.txt, and Chromium."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from core.checkpoint import fingerprint
from core.common import TrainingError

pytest.importorskip("gradio", reason="pip install -r requirements-app.txt")
import app

SPRINT = "net-sprint-seed0"
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, cifar):
    """Files that one may drop: {what: path}."""
    folder = tmp_path_factory.mktemp("photos")
    label = int(np.flatnonzero(cifar.test_labels == 8)[1])
    ship = Image.fromarray(cifar.test_images[label]).resize((512, 512), Image.Resampling.BICUBIC)
    files = {what: folder / what for what in ("ship.png", "cmyk.jpg", "words.jpg", "empty.png")}
    ship.save(files["ship.png"])
    ship.convert("CMYK").save(files["cmyk.jpg"])
    files["words.jpg"].write_text("This is no photograph.")
    files["empty.png"].touch()
    return files


def test_a_photo_has_three_answers_and_heat(photos):
    says, seen, answers, heat = app.answer(photos["ship.png"], SPRINT)
    assert next(iter(answers)) == "ship"
    assert len(answers) == 3
    assert 1 >= sum(answers.values()) > 0.7
    assert f"**ship**, says the network, and gives that {answers['ship']:.0%}" in says
    assert seen.shape == (256, 256, 3)
    assert heat.shape == (384, 384, 3)
    assert (seen[::8, ::8] == seen[7::8, 7::8]).all()  # squares, nothing smoothed


def test_a_network_without_a_last_block_answers_all_the_same(photos, monkeypatch):
    class Own(torch.nn.Sequential):
        pass

    trained = app.load(SPRINT)
    monkeypatch.setattr(app, "load", lambda name: trained._replace(network=Own(trained.network)))
    says, _, answers, heat = app.answer(photos["ship.png"], SPRINT)
    assert next(iter(answers)) == "ship"
    assert "cannot be shown: it has no block c4" in says
    assert heat is None


def test_dropped_photos_are_gone_when_the_app_ends(tmp_path):
    """Also when its terminal is closed, or it is killed."""
    code = """if True:
        import sys, time
        import app

        def start(port):
            print(app.UPLOADS.name, flush=True)
            time.sleep(60)

        app.start = start
        app.main()
    """
    command = dict(cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        with subprocess.Popen([sys.executable, "-c", code], **command) as process:
            folder = Path(process.stdout.readline().strip())
            assert folder.is_dir()
            process.send_signal(ending)
        assert not folder.exists()


def test_no_photo_is_a_sentence_and_nothing_else(photos):
    for what, words in {"words.jpg": "is no image", "empty.png": "is empty"}.items():
        says, *rest = app.answer(photos[what], SPRINT)
        assert what in says and words in says
        assert rest == [None] * 3
    assert app.answer(None, SPRINT) == ("", None, None, None)


@pytest.mark.parametrize("name", app.names())
def test_calibrations_are_of_these_weights_and_mistakes_are_mistakes(name, cifar):
    trained = app.load(name)
    for label, indices in trained.calibration["mistakes"].items():
        number = app.CLASSES.index(label)
        assert (cifar.test_labels[indices] == number).all()
        probabilities, _ = app.ask(trained, cifar.test_images[indices])
        # Another processor rounds otherwise: an answer near a tie may change.
        assert (probabilities.argmax(1) != number).mean() > 0.9
    assert trained.calibration["calibration_error_after"] < 0.025


@pytest.mark.parametrize("damage", ["weights", "calibration", "other weights"])
def test_files_are_checked_when_they_are_opened(damage, tmp_path, monkeypatch):
    for part in ("weights", "results", "results/calibration"):
        (tmp_path / part).mkdir()
    for file in (f"weights/{SPRINT}.pt", f"results/{SPRINT}.json"):
        shutil.copy(ROOT / file, tmp_path / file)
    calibration = tmp_path / "results" / "calibration" / f"{SPRINT}.json"
    shutil.copy(app.CALIBRATIONS / f"{SPRINT}.json", calibration)
    weights = tmp_path / "weights" / f"{SPRINT}.pt"
    if damage == "weights":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "calibration":
        calibration.write_text("{}")
    else:
        shutil.copy(ROOT / "weights" / "net-standard-seed0.pt", weights)
    monkeypatch.setattr(app, "ROOT", tmp_path)
    monkeypatch.setattr(app.train, "ROOT", tmp_path)
    monkeypatch.setattr(app, "CALIBRATIONS", calibration.parent)
    app.load.cache_clear()
    with pytest.raises(TrainingError, match=r"train the model anew|tools\.calibrate"):
        app.load(SPRINT)
    app.load.cache_clear()


def test_without_the_test_images_the_gallery_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    app.test_images.cache_clear()
    says, shown = app.gallery("cat", SPRINT)
    assert "python dataset.py fetches them" in says
    assert shown == []
    assert list(tmp_path.iterdir()) == []
    app.test_images.cache_clear()


def test_a_network_is_asked_one_question_at_a_time(photos, monkeypatch):
    """Whoever explains it hangs hooks into it, which another question would set off."""
    begun, go_on, order = threading.Event(), threading.Event(), []

    def slow(network, images):
        begun.set()
        go_on.wait(60)
        order.append("photo")
        return np.zeros((len(images), 32, 32))

    app.test_images()  # else reading them would take the second one's time
    monkeypatch.setattr(app, "grad_cam", slow)
    first = threading.Thread(target=app.answer, args=(photos["ship.png"], SPRINT))
    first.start()
    begun.wait(60)
    second = threading.Thread(target=lambda: order.append(app.gallery("cat", SPRINT) and "gallery"))
    second.start()
    second.join(2)
    go_on.set()
    first.join(60)
    second.join(60)
    assert order == ["photo", "gallery"]


def test_the_fingerprint_is_of_the_file():
    path = ROOT / "weights" / f"{SPRINT}.pt"
    assert app.load(SPRINT).calibration["weights"] == fingerprint([path.read_bytes()])


def typed(*words):
    command = [sys.executable, "app.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_port_that_is_none_or_taken_is_a_sentence():
    assert "'x' is not a whole number" in typed("--port", "x").stderr
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run = typed("--port", str(port))
    assert run.returncode == 1
    other = port + 1 if 1024 <= port < 65_535 else 7861
    assert (
        f"app.py: port {port} is taken, or not allowed; choose another: --port {other}"
        in run.stderr
    )
    assert "Traceback" not in run.stderr


# --------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def address(cifar):
    """`python app.py`, as it is typed, where a proxy is set and does not answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port)]
    around = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    around |= {"PYTHONUNBUFFERED": "1", "http_proxy": "http://127.0.0.1:9"}
    process = subprocess.Popen(command, cwd=ROOT, env=around)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        assert process.poll() is None
        try:
            urllib.request.urlopen(url, timeout=2)
            break
        except OSError:
            time.sleep(0.2)
    yield url
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="requirements-app.txt")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as player:
        options = ["--no-sandbox", "--disable-background-networking", "--disable-sync"]
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, address):
    """The page, open; afterwards: it has asked nobody but this machine, and reported no error."""
    page = browser.new_page()
    page.set_default_timeout(180_000)  # milliseconds; it may share its core
    asked, broken = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(address)
    page.get_by_text("three likeliest").first.wait_for()
    yield page
    page.close()
    assert asked and broken == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def drop(page, path):
    page.locator("#photo input[type=file]").set_input_files(path)


def size(page, picture):
    """(width, height) of a picture once it is loaded."""
    image = page.locator(f"{picture} img")
    image.wait_for()
    page.wait_for_function("s => document.querySelector(s).naturalWidth > 0", arg=f"{picture} img")
    return tuple(image.evaluate("i => [i.naturalWidth, i.naturalHeight]"))


@pytest.mark.slow
def test_a_photo_is_answered_and_another_network_asked(opened, photos):
    drop(opened, photos["ship.png"])
    opened.locator("#says").get_by_text("ship, says the network").wait_for()
    assert opened.locator("#answers").inner_text().count("%") == 3
    assert size(opened, "#seen") == (256, 256)
    assert size(opened, "#heat") == (384, 384)
    before = opened.locator("#heat img").get_attribute("src")

    opened.locator("#network input").click()
    opened.get_by_role("option", name="frontier-frontier-seed0").click()
    accuracy = app.load("frontier-frontier-seed0").calibration["test_accuracy"]
    opened.get_by_text(f"Right on {accuracy:.1%}").wait_for()
    other = "before => document.querySelector('#heat img').src !== before"
    opened.wait_for_function(other, arg=before)
    assert "ship, says the network" in opened.locator("#says").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [("words.jpg", "words.jpg is no image"), ("empty.png", "empty.png is empty (0 bytes)")],
)
def test_a_bad_file_is_a_sentence(what, words, opened, photos):
    drop(opened, photos[what])
    opened.locator("#says").get_by_text(words).wait_for()
    assert opened.locator("#heat img").count() == 0


@pytest.mark.slow
def test_after_a_bad_file_a_good_one_is_answered(opened, photos):
    drop(opened, photos["words.jpg"])
    opened.locator("#says").get_by_text("is no image").wait_for()
    opened.locator("#photo").get_by_label("Remove Image").click()
    drop(opened, photos["cmyk.jpg"])
    opened.locator("#says").get_by_text("ship, says the network").wait_for()
    assert "CMYK" in opened.locator("#says").inner_text()


@pytest.mark.slow
def test_the_gallery_shows_mistakes_of_a_class(opened):
    opened.get_by_role("tab", name="Its mistakes").click()
    opened.get_by_text("Labelled cat, taken for something else").wait_for()
    pictures = opened.locator("#mistakes img")
    pictures.first.wait_for()
    assert pictures.count() == 24
    opened.locator("#class input").click()
    opened.get_by_role("option", name="frog").click()
    opened.get_by_text("Labelled frog, taken for something else").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_of_the_window(width, opened, photos):
    opened.set_viewport_size({"width": width, "height": 900})
    drop(opened, photos["ship.png"])
    assert size(opened, "#heat") == (384, 384)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("PICTURES"):  # to be looked at
        opened.screenshot(path=f"{folder}/app-{width}.png", full_page=True)
