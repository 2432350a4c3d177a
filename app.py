"""Your own photo, seen by the course's networks.

    python -m pip install -r requirements-app.txt
    python app.py                                   then open the address that it prints

Drop a photo: how a network sees it at 32 x 32 pixels, its three answers with calibrated confidence,
and where it looks; and the mistakes it makes on the test images. It runs on your machine alone:
nothing is fetched from elsewhere, and your photos are deleted when it ends.
"""

import functools
import json
import os
import signal
import sys
import tempfile
import threading
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import train
from core.calibration import calibrated
from core.checkpoint import fingerprint, raise_if_temporary
from core.common import ROOT, Parser, TrainingError, whole_number
from core.download import load_local
from core.looking import grad_cam
from core.photos import PhotoError, open_photo
from core.pictures import likeliest, overlay
from dataset import CLASSES, DataError, make_batches

# Photos that are dropped go there: else into one folder for all users of the machine, for good.
UPLOADS = tempfile.TemporaryDirectory(prefix="app-")
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ["GRADIO_TEMP_DIR"] = UPLOADS.name
try:
    import gradio as gr
except ImportError:
    sys.exit("app.py needs gradio: python -m pip install -r requirements-app.txt")

CALIBRATIONS = ROOT / "results" / "calibration"
HEIGHT = 300  # pixels, of the pictures
TURN = threading.Lock()  # who explains a network hangs hooks into it: one question at a time
STYLE = "#says {min-height: 3em} #seen img {image-rendering: pixelated}"


class Trained(NamedTuple):
    """A network of weights/, and what tools/calibrate.py found about it."""

    network: torch.nn.Module
    augment: str  # its normalisation
    calibration: dict


@functools.cache
def load(name):
    """The `Trained` of the run `name`. Raises TrainingError where its files are not those recorded.

    The temperature and the mistakes belong to these very weights: their fingerprints must agree.
    """
    path, recorded = ROOT / "weights" / f"{name}.pt", CALIBRATIONS / f"{name}.json"
    network, record = train.load_weights(path)
    try:
        calibration = json.loads(recorded.read_text(encoding="utf-8"))
        same = calibration["weights"] == fingerprint([path.read_bytes()])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_temporary(error, recorded)
        raise TrainingError(f"{recorded} is damaged: python -m tools.calibrate {name}") from None
    if not same:
        raise TrainingError(
            f"weights/{name}.pt is not the file that its calibration belongs to: git restore "
            f"weights/{name}.pt results/{name}.json, or python -m tools.calibrate {name}"
        )
    return Trained(network, record["recipe"]["augment"], calibration)


def names():
    """The networks to choose from: the runs of results/calibration/, the sprint's first."""
    paths = [path.relative_to(CALIBRATIONS) for path in CALIBRATIONS.rglob("*.json")]
    found = sorted(path.with_suffix("").as_posix() for path in paths)
    return sorted(found, key=lambda name: name != "net-sprint-seed0")


def ask(trained, images, heat=True):
    """What a network says of uint8 images (N, 32, 32, 3): probabilities (N, 10), and where it
    looks, (N, 32, 32), or None without `heat`, or without a block c4.

    In float32: for a few images no other precision is faster.
    """
    unknown = np.zeros(len(images), int)
    batches = make_batches(images, unknown, len(images), trained.augment, train=False)
    normalised, _ = next(iter(batches))
    heat = heat and isinstance(getattr(trained.network, "c4", None), torch.nn.Module)
    with TURN:
        logits, _ = train.classify(trained.network, batches, "float32")
        looks = grad_cam(trained.network, normalised) if heat else None
    return calibrated(logits.numpy(), trained.calibration["temperature"]), looks


def answer(file, name):
    """What the page shows of a photo: (a sentence, the 32 x 32 pixels, the answers, the heat)."""
    if file is None:
        return "", None, None, None
    try:
        photo, trained = open_photo(file), load(name)
    except (PhotoError, TrainingError) as error:
        return f"**{error}**", None, None, None
    probabilities, heat = ask(trained, photo.small[None])
    answers = likeliest(probabilities[0])
    best = next(iter(answers))
    says = f"**{best}**, says the network, and gives that {answers[best]:.0%}. "
    says += " ".join(photo.notes)
    if heat is None:
        says += " Where it looks cannot be shown: it has no block c4."
    looks = None if heat is None else overlay(photo.square, heat[0])
    return says, enlarged(photo.small), answers, looks


def enlarged(image, times=8):
    """A small image with each pixel as a square: nothing is smoothed."""
    return np.asarray(image).repeat(times, 0).repeat(times, 1)


@functools.cache
def test_images():
    data = load_local()
    return data.test_images, data.test_labels


def gallery(label, name):
    """The surest mistakes on test images of one class: (a sentence, [(image, what it says)])."""
    try:
        (images, _), trained = test_images(), load(name)
    except (DataError, TrainingError) as error:
        return f"**{error}**", []
    picked = trained.calibration["mistakes"][label]
    if not picked:
        return f"No test image of this class is mistaken: {label}.", []
    probabilities, _ = ask(trained, images[picked], heat=False)
    shown = []
    for index, row in zip(picked, probabilities, strict=True):
        ((said, share),) = likeliest(row, 1).items()
        shown.append((Image.fromarray(enlarged(images[index], 4)), f"{said} {share:.0%}"))
    return f"Labelled {label}, taken for something else: the {len(shown)} surest.", shown


def describe(name):
    """One sentence about a network, for the page."""
    try:
        found = load(name).calibration
    except TrainingError as error:
        return f"**{error}**"
    return (
        f"Right on {found['test_accuracy']:.1%} of the test images. Calibrated with a temperature "
        f"of {found['temperature']:.2f}: its confidence is off by "
        f"{100 * found['calibration_error_after']:.1f} points on average, "
        f"{100 * found['calibration_error_before']:.1f} without. It knows only: "
        f"{', '.join(CLASSES)}. It will call a face one of these, too."
    )


def dropped(file, name):
    """`answer`, of what the page hands over: {"path": ..., "orig_name": ...}, or None.

    The page asks for no preprocessing: Gradio would open the file itself, and has no sentence where
    it cannot.
    """
    return answer(file and file["path"], name)


def page():
    """The page: a gr.Blocks."""
    with gr.Blocks(title="What does the network see?", analytics_enabled=False) as blocks:
        gr.Markdown("# What does the network see?")
        known = names()
        name = gr.Dropdown(known, value=known[0], label="network", elem_id="network")
        about = gr.Markdown(describe(known[0]))
        with gr.Tab("Your photo"):
            with gr.Row():
                place = dict(type="filepath", height=HEIGHT, buttons=[], elem_id="photo")
                file = gr.Image(label="photo", sources=["upload", "clipboard"], **place)
                answers = gr.Label(label="three likeliest", num_top_classes=3, elem_id="answers")
            says = gr.Markdown(elem_id="says")
            with gr.Row():
                options = dict(height=HEIGHT, interactive=False, format="png", buttons=[])
                seen = gr.Image(label="as it is seen: 32 × 32", elem_id="seen", **options)
                heat = gr.Image(label="where it looks", elem_id="heat", **options)
        with gr.Tab("Its mistakes") as tab:
            label = gr.Dropdown(list(CLASSES), value="cat", label="class", elem_id="class")
            told = gr.Markdown()
            shown = gr.Gallery(
                columns=6, height="auto", format="png", elem_id="mistakes", show_label=False
            )
        asked = dict(inputs=[file, name], outputs=[says, seen, answers, heat], preprocess=False)
        gr.on([file.change, name.change], dropped, show_progress="minimal", **asked)
        name.change(describe, name, about)
        gr.on([tab.select, label.change, name.change], gallery, [label, name], [told, shown])
    return blocks


def start(port, block=True):
    """Serves the page on this machine alone, at http://127.0.0.1:<port>."""
    for name in ("no_proxy", "NO_PROXY"):  # Gradio asks its own page whether it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    fonts = dict(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none from the web
    return page().launch(
        server_name="127.0.0.1",
        server_port=port,
        theme=gr.themes.Default(**fonts),
        css=STYLE,
        footer_links=[],
        share=False,
        ssr_mode=False,
        run_history=False,
        prevent_thread_lock=not block,
        quiet=not block,
    )


def main():
    parser = Parser("app.py", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=whole_number, default=7860, help="default: 7860")
    port = parser.parse_args().port
    if port > 65_535:
        sys.exit(f"app.py: there is no port {port}; the largest is 65535.")
    for number in {getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")} - {None}:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda *_: sys.exit())  # else UPLOADS would stay
    if not names():
        sys.exit("app.py: no network is calibrated yet: python -m tools.calibrate")
    try:
        start(port)
    except OSError:  # Gradio's, which it raises for nothing else
        other = port + 1 if 1024 <= port < 65_535 else 7861
        sys.exit(f"app.py: port {port} is taken, or not allowed; choose another: --port {other}")


if __name__ == "__main__":
    main()
