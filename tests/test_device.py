"""Which device, which precision; and every recipe on a GPU that is only pretended."""

import contextlib
import platform
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, Tiny
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import train
from core import device as d
from core.tracing import BATCH_NORMS, arithmetic
from dataset import View, make_batches, to_device
from experiments.mixed import gated_large
from model import MODELS


@pytest.mark.parametrize(
    ("device_type", "details", "fastest_first"),
    [
        (
            "cpu",
            dict(features={"avx2", "avx512_f"}),
            ("float32",),
        ),  # AVX-512 without bfloat16 emulates it, too
        ("cpu", dict(features={"avx512_f", "avx512_bf16"}), ("bfloat16", "float32")),
        ("cpu", dict(features={"amx_bf16", "amx_fp16"}), ("bfloat16", "float16", "float32")),
        ("cpu", dict(features={"neon", "bf16"}), ("bfloat16", "float32")),
        ("cpu", dict(features=()), ("float32",)),
        ("cuda", dict(capability=(6, 0)), ("float32",)),  # P100
        ("cuda", dict(capability=(7, 0)), ("float16", "float32")),  # V100
        ("cuda", dict(capability=(7, 5)), ("float16", "float32")),  # T4
        ("cuda", dict(capability=(8, 0)), ("bfloat16", "float16", "float32")),  # A100
        ("cuda", dict(capability=(12, 0)), ("bfloat16", "float16", "float32")),
        ("mps", {}, ("float32",)),
        ("xpu", {}, ("float32",)),
    ],
)
def test_what_made_up_devices_multiply(device_type, details, fastest_first):
    assert d.native_precisions(device_type, **details) == fastest_first


@pytest.mark.parametrize(
    ("capability", "built_for", "works"),
    [
        ((6, 0), ["sm_75", "sm_80", "sm_90a", "compute_90"], False),  # P100
        ((7, 5), ["sm_75", "sm_80", "sm_90a", "compute_90"], True),
        ((12, 0), ["sm_75", "sm_80", "sm_90a", "compute_90"], True),
        ((12, 0), ["sm_75", "sm_80", "sm_90"], False),  # nothing that its driver could translate
        ((8, 6), ["sm_75", "sm_80", "sm_90"], True),
        ((9, 0), ["gfx90a", "gfx942"], True),  # AMD's names
    ],
)
def test_a_gpu_that_this_torch_was_not_built_for(capability, built_for, works, monkeypatch, capsys):
    gpu = torch.device("cuda")
    for name, found in {
        "accelerator.is_available": True,
        "accelerator.current_accelerator": gpu,
        "cuda.get_device_capability": capability,
        "cuda.get_device_name": "Old",
        "cuda.get_arch_list": built_for,
    }.items():
        monkeypatch.setattr(f"torch.{name}", lambda *_, found=found: found)
    d._warn_once.cache_clear()
    assert d.pick_device() == (gpu if works else torch.device("cpu"))
    assert d.pick_device("cuda") == gpu  # who asks for it gets it
    told = f"no kernels for this GPU (cuda: Old, capability {'.'.join(map(str, capability))}); the"
    assert (told in capsys.readouterr().err) != works


@pytest.fixture
def old_processor(monkeypatch):
    """A processor that multiplies float32 only, and nothing said before."""
    monkeypatch.delenv("PRECISION", raising=False)
    monkeypatch.setattr(d, "cpu_features", lambda: {"avx2"})
    d._warn_once.cache_clear()


@pytest.fixture
def new_processor(monkeypatch):
    monkeypatch.delenv("PRECISION", raising=False)
    monkeypatch.setattr(d, "cpu_features", lambda: {"avx2", "avx512_bf16"})
    d._warn_once.cache_clear()


def test_auto_is_what_the_processor_multiplies(old_processor, capsys):
    assert d.pick_precision("cpu") == d.pick_precision(torch.device("cpu"), "auto") == "float32"
    assert d.pick_precision("cpu", "float32") == "float32"
    assert capsys.readouterr().err == ""


def test_auto_on_a_newer_processor(new_processor, capsys):
    assert d.pick_precision("cpu") == "bfloat16"
    assert d.pick_precision("cpu", "float32") == "float32"
    assert "with bfloat16, " in d.describe_device("cpu")
    assert capsys.readouterr().err == ""


def test_an_explicit_choice_is_obeyed_with_one_line(old_processor, capsys):
    assert d.pick_precision("cpu", "bfloat16") == "bfloat16"
    assert d.pick_precision("cpu", "bfloat16") == "bfloat16"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "bfloat16 is emulated on this device (cpu: " in said
    assert "float32 is fast here" in said


def test_a_device_of_which_little_is_known_is_not_called_an_emulator(monkeypatch, capsys):
    monkeypatch.setattr(d, "describe_device", lambda device: "mps: Apple M1")
    assert d.pick_precision(torch.device("mps"), "float16") == "float16"
    assert "float16 is not known to be faster on this device (mps: " in capsys.readouterr().err


def test_the_environment_says_what_auto_means_and_no_more(new_processor, monkeypatch, capsys):
    monkeypatch.setenv("PRECISION", "float32")
    assert d.pick_precision("cpu") == "float32"
    assert d.pick_precision("cpu", "bfloat16") == "bfloat16"
    monkeypatch.setenv("PRECISION", "float8")
    with pytest.raises(
        ValueError,
        match="environment variable PRECISION is 'float8'; it must be one of auto, float32",
    ):
        d.pick_precision("cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_computes_in_its_precision(precision, small):
    """The dtype inside is looked at; the loss is float32 all the same."""
    inside = []
    network = MODELS["net"]()
    network.output.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    images, labels = next(iter(make_batches(small.train_images, small.train_labels, 8)))
    loss, _ = train.forward(network, images, labels, train.RECIPES["sprint"], precision)
    train.classify(network.eval(), [(images, labels)], precision)
    assert inside == [getattr(torch, precision)] * 2
    assert loss.dtype == torch.float32


def test_fit_records_the_precision_that_was_used(small, new_processor):
    recipe = train.Recipe(epochs=1, batch_size=300, augment="none", engine="device")
    _, record = train.fit(Tiny, recipe, data=small, device="cpu", progress=False)
    assert (record["recipe"]["precision"], record["precision"]) == ("auto", "bfloat16")
    assert record["device"] == d.describe_device("cpu")


@pytest.mark.parametrize(
    "moves", [["float32", "float16", "bfloat16"], ["float16", "float32", "float16"]]
)
def test_a_run_goes_on_in_the_precision_of_where_it_is(moves, small, monkeypatch, tmp_path):
    """With or without the scale of the loss, which float16 alone needs."""
    recipe = train.Recipe(epochs=len(moves), batch_size=300, engine="device")
    options = dict(device="cpu", checkpoint=tmp_path / "run.pt", progress=False)
    for number, precision in enumerate(moves):

        def stop(model, history, after=number + 1):
            if len(history) > after:
                raise KeyboardInterrupt

        monkeypatch.setenv("PRECISION", precision)
        with contextlib.suppress(KeyboardInterrupt):
            options |= dict(resume=number > 0, on_epoch=stop)
            _, record = train.fit(Tiny, recipe, small, **options)
    assert record["precision"] == ", then ".join(moves)
    said = [epoch.get("precision", moves[-1]) for epoch in record["history"]]
    assert said == moves


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="torch heeds it on x86")
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_what_torch_was_forbidden_does_not_count(capability):
    """The rehearsal of an older processor on a newer one."""
    code = "from core.device import *; print(pick_precision('cpu'), describe_device('cpu'))"
    environment = {"ATEN_CPU_CAPABILITY": capability, "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.stdout.startswith("float32 cpu: "), run.stderr
    assert "bfloat16" not in run.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library has no such setting")
def test_a_freed_block_is_kept_however_large():
    code = """
import resource, torch
from core.device import keep_freed_memory
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12_500_000)  # 50 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fetched = min(pages() for _ in range(10))
keep_freed_memory()
print(fetched, min(pages() for _ in range(10)))  # before its place has settled, some are new
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    otherwise, kept = map(int, run.stdout.split())
    assert kept < 10 < otherwise  # some 50 where the kernel gives pages of 2 MB


def test_pick_device():
    assert d.pick_device("cpu").type == "cpu"
    assert d.pick_device() == (
        torch.accelerator.current_accelerator()
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )
    with pytest.raises(train.TrainingError, match="Unknown device 'gpu'; known: cpu, cuda, mps"):
        d.pick_device("gpu")


# ---------------------------------------------------------------------------------- a pretended GPU


def on_a_pretended_gpu(small, recipe, build):
    """One batch of training and one of evaluation with everything on "cuda"; only shapes and
    devices are computed.
    """
    chosen = small.train_images, small.train_labels, 64, recipe.augment, recipe.engine
    if recipe.engine == "albumentations":  # works on arrays, which cannot be pretended
        arrays = next(iter(make_batches(*chosen, workers=0).arrays()))
    with FakeTensorMode():
        with torch.device("cuda"):
            network = build()
        if recipe.engine == "albumentations":
            images, labels = (to_device(array, "cuda") for array in arrays)
            images = images.permute(0, 3, 1, 2)
        else:
            batches = make_batches(*chosen, device="cuda")
            batches.mixup = recipe.mixup
            if recipe.views:
                batches.view = View(*recipe.view_at(0))
            images, labels = next(iter(batches))
        test_batches = make_batches(
            small.test_images, small.test_labels, 100, recipe.augment, train=False, device="cuda"
        )
        loss, logits = train.forward(network, images, labels, recipe, "float32")
        found, truth = train.classify(network.eval(), test_batches, "float32", flip=True)
        return images, labels, loss, logits, found, truth


def pretends():
    """Whether this torch does without a driver where the GPU is none: 2.6 does not."""
    try:
        with FakeTensorMode(), torch.device("cuda"):
            torch.empty(2).uniform_()
    except RuntimeError:
        return False
    return True


pretended = pytest.mark.skipif(not pretends(), reason="this torch cannot pretend a GPU")


@pretended
@pytest.mark.parametrize("name", train.RECIPES)
def test_every_recipe_on_a_pretended_gpu(name, small):
    """A tensor that was left on the CPU raises an error when it meets one on the GPU."""
    recipe = train.RECIPES[name]
    side = recipe.view_at(0)[2] if recipe.views else 32
    tensors = on_a_pretended_gpu(small, recipe, MODELS.get(name, MODELS["net"]))
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    assert [tuple(tensor.shape) for tensor in tensors] == [
        (64, 3, side, side),
        (64, 10) if recipe.mixup else (64,),
        (),
        (64, 10),
        (300, 10),
        (300,),
    ]


@pretended
def test_larger_kernels_on_a_pretended_gpu(small):
    tensors = on_a_pretended_gpu(small, train.RECIPES["gated"], gated_large)
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


@pretended
def test_a_forgotten_tensor_is_found(small):
    class Forgetful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = MODELS["net"]()
            self.mean = torch.zeros(1, 3, 1, 1, device="cpu")  # not a buffer: stays where it is

        def forward(self, x):
            return self.net(x - self.mean)

    with pytest.raises(RuntimeError, match="device"):
        on_a_pretended_gpu(small, train.RECIPES["frontier"], Forgetful)


@pretended
@pytest.mark.parametrize("evaluating", [True, False])
def test_a_batch_norm_has_another_name_on_a_gpu(evaluating):
    """The rules know it by that one, too: a verdict must not depend on the device."""

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **kwargs or {})

    names = []
    with FakeTensorMode(), torch.device("cuda"):
        norm, image = nn.BatchNorm2d(8).train(not evaluating), torch.empty(2, 8, 4, 4)
        with Names():
            norm(image)
    assert {name for name in names if name.endswith("batch_norm")} <= set(BATCH_NORMS)
    assert any(name.endswith("batch_norm") for name in names)


def test_a_linear_layer_on_a_mac_is_counted_as_anywhere():
    linear = torch.ops.aten.linear.default
    image, weight = torch.zeros(2, 3), torch.zeros(4, 3)
    assert arithmetic(linear, (image, weight), {}, linear(image, weight)) == {"macs": 2 * 3 * 4}
