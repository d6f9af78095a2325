"""cpu, gpu or hpu: whether it is there, its precision, and this process's place among the workers.

`open_device` looks before it loads anything, since the Gaudi bridge aborts a process without a card, and returns a
`Device`, all that the rest of the project knows of the hardware. On hpu bf16 means habana-tensorflow's conversion pass
over a float32 graph (TF_BF16_CONVERSION, read when the module loads); on cpu and gpu float32 weights and bfloat16
matrix products. The two mechanisms are never used together.
"""
from __future__ import annotations

import dataclasses
import glob
import importlib.util
import os

import tensorflow as tf

from configuration import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """Where and how to compute. `rank` of `world_size` workers; rank 0 writes files."""

    kind: str
    precision: str
    compute_dtype: tf.DType
    jit_compile: bool
    description: str
    rank: int = 0
    world_size: int = 1

    @property
    def is_chief(self) -> bool:
        return self.rank == 0


def open_device(kind: str, precision: str, xla: str = "auto") -> Device:
    """Prepares the device; call it once, before any other TensorFlow device use.

    Args:
        kind: cpu, gpu or hpu.
        precision: fp32; bf16 (or hmp, its old name); tf32, on gpu alone.
        xla: auto (gpu only), true or false.
    Raises: UserError: no such device here, or a precision it does not have.
    """
    precision = {"hmp": "bf16"}.get(precision, precision)
    if kind not in _OPENERS:
        raise UserError(f"--device={kind} is unknown: choose one of {', '.join(_OPENERS)}.")
    if precision not in ("fp32", "bf16", "tf32"):
        raise UserError(f"--precision={precision} is unknown: choose fp32, bf16 or tf32.")
    if precision == "tf32" and kind != "gpu":
        raise UserError(f"--precision=tf32 exists on gpu only: give fp32 or bf16 for --device={kind}.")
    description = _OPENERS[kind](precision)
    compute_dtype = tf.bfloat16 if precision == "bf16" and kind != "hpu" else tf.float32
    jit_compile = kind != "hpu" and (xla == "true" or xla == "auto" and kind == "gpu")
    return Device(kind, precision, compute_dtype, jit_compile, description)


def _open_cpu(precision: str) -> str:
    tf.config.set_visible_devices([], "GPU")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu ({cores} cores)"


def _open_gpu(precision: str) -> str:
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        raise UserError("--device=gpu: TensorFlow sees no NVIDIA GPU; install a driver and requirements-gpu.txt, "
                        "or use --device=cpu.")
    details = tf.config.experimental.get_device_details(cards[0])
    capability = details.get("compute_capability", (0, 0))
    if precision == "bf16" and capability < (8, 0):
        raise UserError("--precision=bf16 needs compute capability 8.0, this GPU has "
                        f"{'.'.join(map(str, capability))}: use --precision=fp32.")
    tf.config.set_visible_devices(cards[0], "GPU")
    tf.config.experimental.set_memory_growth(cards[0], True)
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    return f"gpu ({details.get('device_name', cards[0].name)})"


def _open_hpu(precision: str) -> str:
    if not glob.glob("/sys/class/accel/accel*/device/device_type") and not glob.glob("/dev/hl[0-9]*"):
        raise UserError("--device=hpu: no Gaudi card or driver is here (nothing under /sys/class/accel or /dev/hl*); "
                        "use --device=cpu or run on a Gaudi machine.")
    if importlib.util.find_spec("habana_frameworks") is None:
        raise UserError("--device=hpu: habana-tensorflow is not installed; use the vendor's image or "
                        "requirements-hpu-1.14.txt, or use --device=cpu.")
    os.environ.setdefault("TF_BF16_CONVERSION", "1" if precision == "bf16" else "0")  # read when the module loads
    from habana_frameworks.tensorflow import load_habana_module
    try:
        load_habana_module()
    except Exception as error:  # 1.6.1 raises a bare Exception, 1.14 ImportError or AttributeError
        raise UserError(f"--device=hpu: habana-tensorflow does not load ({error}); match it to TensorFlow "
                        f"{tf.__version__} and SynapseAI, or use --device=cpu.") from error
    return "hpu (Gaudi)"


_OPENERS = {"cpu": _open_cpu, "gpu": _open_gpu, "hpu": _open_hpu}
