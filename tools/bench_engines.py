"""Images per second of both engines of dataset.py, and of torchvision's transforms.

python -m tools.bench_engines                writes results/bench/engines.json
python -m tools.bench_engines --images 200   a look: writes nothing
"""

import importlib.metadata
import sys
import time

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from core.augment import MEAN, STD
from core.common import (
    ROOT,
    Parser,
    TrainingError,
    check_writable,
    stoppable,
    whole_number,
    write_json,
)
from dataset import DataError, cores, load_cifar10, make_batches

RESULT = ROOT / "results" / "bench" / "engines.json"
WORKERS = 2
SHIFTS = {
    "albumentations": ("flip_shift", "standard"),
    "device": ("flip_shift", "flip_shift_cutout"),
}


class Plain(Dataset):
    """Flip, 4-pixel shift, normalisation by torchvision, image by image."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def benchmark(images, labels, seconds=5.0, device="cpu"):
    """Images per second: {engine and augmentation: speed}.

    images: uint8 (N, 32, 32, 3); labels: (N,).
    seconds: for each of them.
    """
    plain = DataLoader(Plain(images, labels), batch_size=128, shuffle=True, num_workers=WORKERS)
    loaders = {f"torchvision transforms, {WORKERS} workers": plain}
    for engine, names in SHIFTS.items():
        for name in names:
            title = f"{engine} {name}" + f", {WORKERS} workers" * (engine == "albumentations")
            options = dict(device=device, workers=WORKERS)
            loaders[title] = make_batches(images, labels, 128, name, engine, **options)
    return {title: round(speed(loader, seconds)) for title, loader in loaders.items()}


def speed(loader, seconds):
    """Images per second of one pass after another, for `seconds` or a little more."""
    count, start = 0, time.perf_counter()
    while True:
        for images, _ in loader:
            count += len(images)
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                return count / elapsed


def main():
    parser = Parser("-m tools.bench_engines", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=whole_number, help="only so many; writes nothing")
    count = parser.parse_args().images
    try:
        check_writable([] if count else [RESULT])
        data = load_cifar10()
    except (DataError, TrainingError) as error:
        sys.exit(f"bench_engines: {error}")
    images, labels = data.train_images[:count], data.train_labels[:count]
    speeds = benchmark(images, labels, seconds=0.2 if count else 5.0)
    for name, images_per_second in speeds.items():
        print(f"{images_per_second:>9,} images/s  {name}")
    if count:
        return
    record = {
        "cores": cores(),
        "torch": torch.__version__,
        "albumentations": importlib.metadata.version("albumentations"),
        "images_per_second": speeds,
    }
    write_json(RESULT, record)


if __name__ == "__main__":
    with stoppable("bench_engines"):
        main()
