"""Where a network computes, and in which precision.

    pick_device()              the accelerator if there is one, else the CPU
    pick_precision(device)     the number format that this device multiplies fastest
    autocast(device)           the context in which a forward pass computes in it
    describe_device(device)    for the record: "cpu: AMD EPYC, AVX2, 2 threads"

bfloat16 is fast only where the hardware multiplies it. Emulated, it is far slower than float32
(pytorch/pytorch#183815). So a recipe says "auto", and this file decides. The environment variable
PRECISION says what "auto" means; with it either kind of processor can be rehearsed on the other.
"""

import contextlib
import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

from core.common import TrainingError

PRECISIONS = ("float32", "bfloat16", "float16")
# As torch.cpu.get_capabilities() names them: AVX-512 and AMX on x86, the last one on ARM.
CPU_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
CPU_FLOAT16 = {"avx512_fp16", "amx_fp16", "fp16_arith"}


def pick_device(name=None):
    """A torch.device.

    name: such as "cpu" or "cuda:1"; None takes the accelerator that torch finds, else the CPU;
        with a line of warning also instead of a GPU that is too old, or too new, for this torch.

    Raises TrainingError for one that is unknown, or asked for and not there.
    """
    default = torch.device("cpu")
    if torch.accelerator.is_available():
        default = torch.accelerator.current_accelerator()
    if name is None and default.type == "cuda" and not has_kernels(default):
        _warn_once(
            f"torch {torch.__version__} has no kernels for this GPU ({describe_device(default)}); "
            "the CPU computes. An older torch may have some for an old GPU, a newer one for a new "
            "one: pytorch.org/get-started."
        )
        return torch.device("cpu")
    if name is None:
        return default
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TrainingError(f"Unknown device {name!r}; known: cpu, cuda, mps.") from None
    available = device.type in ("cpu", default.type)
    if available and device.type == "cuda" and device.index is not None:
        available = device.index < torch.cuda.device_count()
    if not available:
        built = device.type != "cuda" or torch.backends.cuda.is_built()
        none = "finds none here" if built else "is built without CUDA (see pytorch.org/get-started)"
        raise TrainingError(
            f"Device {str(name)!r} was asked for, but torch {none}; "
            "use --device cpu, or leave --device out."
        )
    return device


def has_kernels(device):
    """Whether this torch was built for a CUDA device; else the first operation on it fails.

    Machine code ("sm_86") is for that generation of GPUs and what is newer in it; what a driver
    translates ("compute_90"), for all that are newer.
    """
    here = torch.cuda.get_device_capability(device)
    built = [re.match(r"(sm|compute)_(\d+)(\d)", name) for name in torch.cuda.get_arch_list()]
    built = [(found[1], (int(found[2]), int(found[3]))) for found in built if found]  # no "gfx942"
    return not built or any(
        made_for <= here and (kind == "compute" or made_for[0] == here[0])
        for kind, made_for in built
    )


def native_precisions(device_type, features=(), capability=(0, 0)):
    """The precisions that a device multiplies in hardware, the fastest first, float32 the last.

    GPUs of capability 7.x (V100, T4) have tensor cores for float16, from 8.0 on for bfloat16 too;
    those before 7.0 (P100) gain little from float16. What is not known here computes in float32.

    device_type: the type of a torch.device.
    features: for a CPU, names as in torch.cpu.get_capabilities().
    capability: for CUDA, (major, minor).
    """
    if device_type == "cuda" and tuple(capability) >= (8, 0):
        return "bfloat16", "float16", "float32"
    if device_type == "cuda" and tuple(capability) >= (7, 0):
        return "float16", "float32"
    if device_type != "cpu":
        return ("float32",)
    fast = ["bfloat16"] if CPU_BFLOAT16 & set(features) else []
    fast += ["float16"] if fast and CPU_FLOAT16 & set(features) else []
    return *fast, "float32"


def cpu_features():
    """The instruction sets that torch can use here, as a set of names.

    Before torch 2.11 it tells fewer of them. Not told by
    torch.ops.mkldnn._is_mkldnn_bf16_supported(), which is true for every AVX-512 processor.
    """
    forbidden = {"AVX2", "NO AVX"}  # what ATEN_CPU_CAPABILITY forbids does not count
    if platform.machine() in ("x86_64", "AMD64"):
        forbidden.add("DEFAULT")  # elsewhere that is nothing special
    if torch.backends.cpu.get_cpu_capability() in forbidden:
        return set()
    if not torch.backends.mkldnn.is_available():
        return set()  # it alone multiplies them; for macOS torch is built without
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities().items()
        return {name for name, supported in capabilities if supported is True}
    told = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return {"avx512_bf16"} if told() else set()


def _native(device):
    if device.type == "cuda":
        return native_precisions("cuda", capability=torch.cuda.get_device_capability(device))
    return native_precisions(device.type, cpu_features() if device.type == "cpu" else ())


def pick_precision(device, wanted="auto"):
    """The precision to compute in on `device`: "float32", "bfloat16" or "float16".

    For "auto" it is the environment variable PRECISION if that is set, else the fastest that the
    device multiplies in hardware. Anything else is obeyed, with a line of warning where the device
    is not known to multiply it.

    Raises ValueError for an unknown precision.
    """
    device = torch.device(device)
    native = _native(device)
    source = "precision"
    if wanted == "auto":
        source, wanted = "the environment variable PRECISION", os.environ.get("PRECISION") or "auto"
    if wanted == "auto":
        return native[0]
    if wanted not in PRECISIONS:
        raise ValueError(
            f"{source} is {wanted!r}; it must be one of auto, {', '.join(PRECISIONS)}."
        )
    if wanted not in native:
        slow = "is emulated on" if device.type == "cpu" else "is not known to be faster on"
        _warn_once(
            f"{wanted} {slow} this device ({describe_device(device)}); {native[0]} is fast here."
        )
    return wanted


@functools.cache
def _warn_once(text):
    print(f"Warning: {text}", file=sys.stderr)


def autocast(device, precision="auto"):
    """The context in which a forward pass on `device` computes in `precision`.

    precision: "float32", "bfloat16", "float16", or "auto": what `pick_precision` picks, which
        raises ValueError for a wrong PRECISION.
    """
    device = torch.device(device)
    if precision == "auto":
        precision = pick_precision(device)
    if precision == "float32":
        # Named, an older torch warns of it on a Mac.
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, getattr(torch, precision))


def keep_freed_memory():
    """Lets glibc keep the large blocks that a training step frees.

    Returned to the kernel, every page of them is faulted in, and wiped, again in the next step.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own, unmapped when freed
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def planes(images):
    """Images (N, H, W, 3) as (N, 3, H, W): the same numbers in channels-last order; on a Mac's GPU
    in the usual one, since it computes some things wrongly in the other: see `Recipe.on`, and
    pytorch/pytorch#174339 for grid_sample.
    """
    images = images.permute(0, 3, 1, 2)
    return images.contiguous() if images.device.type == "mps" else images


def describe_device(device):
    """For the record: "cuda: Tesla T4, capability 7.5" or "cpu: AMD EPYC, AVX2, 2 threads".

    The instruction set is the one that torch uses; "AVX512 with bfloat16" where the processor
    multiplies that, too. The processor's name alone does not tell: two that differ
    several times over both call themselves "AMD EPYC".
    """
    device = torch.device(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda: {torch.cuda.get_device_name(device)}, capability {major}.{minor}"
    if device.type != "cpu":
        return f"{device.type}: {_processor()}"
    instructions = torch.backends.cpu.get_cpu_capability()
    if "bfloat16" in _native(device):
        instructions += " with bfloat16"
    threads = torch.get_num_threads()
    return f"cpu: {_processor()}, {instructions}, {threads} thread{'s' if threads > 1 else ''}"


def _processor():
    if sys.platform == "darwin":  # where Python says "arm" of all of them
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError):
            told = subprocess.run(command, capture_output=True, text=True).stdout.strip()
            return told or platform.machine()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return name.replace(",", "")  # which parts the description
