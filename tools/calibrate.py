"""Fits the temperature of each network that app.py shows, and finds the mistakes that it shows.

    python -m tools.calibrate                    every weights/*-seed0.pt without -val-
    python -m tools.calibrate net-sprint-seed0   these

It leaves a record in results/calibration/, of those weights and no others. These networks were
trained on all 50,000 training images, and on what it was trained on a network is right too often:
so the temperature is fitted on every other test image and judged on those between. Nothing else is
chosen by it.
"""

import sys

import train
from core.arrays import mistakes
from core.calibration import calibrated, calibration_error, fit_temperature
from core.checkpoint import fingerprint
from core.common import ROOT, Parser, TrainingError, on_purpose, stoppable, write_json
from dataset import CLASSES, DataError, load_cifar10, make_batches

SHOWN = 24  # of each class, the most confident


def calibration(name, data):
    """The record of one network: a dictionary, ready for JSON. See results/calibration/."""
    path = ROOT / "weights" / f"{name}.pt"
    network, record = train.load_weights(path)
    augment = record["recipe"]["augment"]
    batches = make_batches(data.test_images, data.test_labels, 500, augment, train=False)
    logits, labels = (x.numpy() for x in train.classify(network, batches, "float32"))
    temperature = fit_temperature(logits[::2], labels[::2])
    probabilities = calibrated(logits, temperature)
    wrong = mistakes(labels, probabilities)
    return {
        "weights": fingerprint([path.read_bytes()]),
        "temperature": temperature,
        "fitted_on": len(labels[::2]),
        "calibration_error_before": calibration_error(calibrated(logits[1::2]), labels[1::2]),
        "calibration_error_after": calibration_error(probabilities[1::2], labels[1::2]),
        "test_accuracy": float((logits.argmax(1) == labels).mean()),
        "mistakes": {  # indices of test images by their true class
            label: [int(i) for i in wrong if labels[i] == number][:SHOWN]
            for number, label in enumerate(CLASSES)
        },
    }


def main():
    parser = Parser("-m tools.calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="runs, e.g. net-sprint-seed0")
    names = parser.parse_args().names
    files = sorted((ROOT / "weights").glob("*-seed0.pt"))
    names = names or [path.stem for path in files if "-val-" not in path.stem]
    failed = False
    try:
        data = load_cifar10()
        for name in names:
            try:
                found = calibration(name, data)
            except (TrainingError, ValueError) as error:
                if not on_purpose(error):
                    raise
                print(f"calibrate: {name}: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
            write_json(ROOT / "results" / "calibration" / f"{name}.json", found)
            before, after = (found[f"calibration_error_{when}"] for when in ("before", "after"))
            print(
                f"{name}: temperature {found['temperature']:.2f}, calibration error "
                f"{100 * before:.1f} points before, {100 * after:.1f} after",
                flush=True,
            )
    except (TrainingError, DataError) as error:
        sys.exit(f"calibrate: {error}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    with stoppable("calibrate", "what is printed above is written"):
        main()
