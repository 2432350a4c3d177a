"""A trained network as an ONNX file, for programs that have no PyTorch.

export_onnx(network, augment, path)
"""

import importlib.util

import torch
from torch import nn

from core.arrays import CLASSES
from core.augment import AUGMENTATIONS
from core.common import TrainingError, write_atomically

NEEDED = ("onnx", "onnxscript")


class FromPixels(nn.Module):
    """A network and its normalisation: uint8 images (N, 32, 32, 3) -> logits (N, 10)."""

    def __init__(self, network, augment):
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(AUGMENTATIONS[augment].mean))
        self.register_buffer("std", 255 * torch.tensor(AUGMENTATIONS[augment].std))

    def forward(self, images):
        return self.network(((images.float() - self.mean) / self.std).permute(0, 3, 1, 2))


def export_onnx(network, augment, path):
    """Writes `network` to `path`.

    The file has one input, "images": uint8 (N, 32, 32, 3), RGB in 0..255, any N of 1 or more. It
    normalises them itself: whoever uses it has pixels, and should not need to know with which mean
    the network was trained. It has one output, "logits": float32 (N, 10). The names of the classes
    are in its metadata, under "classes", separated by commas.

    network: evaluating, on the CPU.
    augment: a name in AUGMENTATIONS, for its normalisation: that of the network's recipe.

    Raises TrainingError where onnx and onnxscript are not installed, or nothing can be written.
    """
    if missing := [name for name in NEEDED if not importlib.util.find_spec(name)]:
        raise TrainingError(
            f"The export needs {' and '.join(missing)}: "
            "python -m pip install -r requirements-app.txt"
        )
    example = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        FromPixels(network, augment).eval(),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}},
    )
    program.model.metadata_props["classes"] = ",".join(CLASSES)
    content = program.model_proto.SerializeToString()
    write_atomically(path, lambda file: file.write(content), "make the folder writable")
