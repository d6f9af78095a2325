"""Device selection (cpu, gpu, hpu): availability, precision, and the card of each worker.

`open_device` returns a `Device`, the only description of the hardware that other modules use. On hpu, bf16 means that
habana-tensorflow converts operations of a float32 graph to bfloat16 (gaudi.py); on cpu and gpu it means float32
weights with bfloat16 matrix products. The two mechanisms are never combined.
"""
from __future__ import annotations

import ctypes
import dataclasses
import os
from typing import Optional, Tuple

import tensorflow as tf

import flops
import fused
import gaudi
from configuration import DeviceOptions, UserError
from workers import ALONE, Workers, join, place

CPUINFO = "/proc/cpuinfo"


@dataclasses.dataclass(frozen=True)
class Device:
    """An opened device and its numerical settings.

    `description` appears in the first log line; `note` is an additional sentence for the user, or empty.
    """

    kind: str
    precision: str
    compute_dtype: tf.DType
    jit_compile: bool
    description: str
    note: str = ""
    workers: Workers = ALONE

    def __str__(self):
        """Device, precision and note for the first log line, without a final full stop."""
        return f"{self.description}, {self.precision}" + (f" ({self.note.rstrip('.')})" if self.note else "")

    @property
    def world_size(self) -> int:
        return self.workers.size

    @property
    def peak_flops(self) -> Optional[float]:
        """FLOP/s of the devices of all workers by their data sheets, where known."""
        peak = flops.peak(self.description, self.precision)
        return peak and peak * self.world_size

    @property
    def is_chief(self) -> bool:
        return self.workers.is_chief


def open_device(kind: str, precision: str, xla: str = "auto", bf16_config_path: Optional[str] = None,
                workers: Workers = ALONE) -> Device:
    """Configures TensorFlow for the device; call it once, before anything else uses a device.

    Args:
        kind: cpu, gpu or hpu.
        precision: fp32; bf16 (hmp is its old name); tf32 (gpu only).
        xla: auto or true compile the whole update on gpu, and elementwise operations on cpu; hpu ignores it.
        bf16_config_path: hpu with bf16 only: a JSON file with the lists of operations to convert (default:
            data/bf16_electra.json).
        workers: ranks of this process; on gpu and hpu each worker of a machine uses its own card.
    Raises: UserError: the device is not available, has too few cards, or does not support the precision.
    """
    precision = {"hmp": "bf16"}.get(precision, precision)
    if kind not in _OPENERS:
        raise UserError(f"--device={kind} is unknown: choose one of {', '.join(_OPENERS)}.")
    if precision not in ("fp32", "bf16", "tf32"):
        raise UserError(f"--precision={precision} is unknown: choose fp32, bf16 or tf32.")
    if precision == "tf32" and kind != "gpu":
        raise UserError(f"--precision=tf32 is supported on gpu only: choose fp32 or bf16 for --device={kind}.")
    if bf16_config_path is not None:
        if kind != "hpu" or precision != "bf16":
            raise UserError("--bf16_config_path requires --device=hpu --precision=bf16: remove it.")
        gaudi.check_bf16_lists(bf16_config_path)
    description, note = _OPENERS[kind](precision, workers, bf16_config_path)
    compute_dtype = tf.bfloat16 if precision == "bf16" and kind != "hpu" else tf.float32
    jit_compile = kind == "gpu" and xla != "false"
    fused.ENABLED = False
    if kind == "cpu" and xla != "false":
        fused.enable()
    return Device(kind, precision, compute_dtype, jit_compile, description, note, workers)


def open_for(options: DeviceOptions) -> Device:
    """Opens the device of a training command and joins its workers; Gaudi needs habana-tensorflow before Horovod.

    Raises: UserError: see `open_device`, `workers.place` and `workers.join`.
    """
    placed = place(options.num_workers, pin_cores=options.device == "cpu")
    device = open_device(options.device, options.precision, options.xla, options.bf16_config_path, placed)
    device = dataclasses.replace(device, workers=join(placed, options))
    if device.kind == "gpu" and device.world_size > 1:
        return dataclasses.replace(device, note=_shared_gpu_note(device.workers))
    return device


def _open_cpu(precision: str, workers: Workers, _) -> Tuple[str, str]:
    tf.config.set_visible_devices([], "GPU")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu ({cores} cores)", _slow_bf16_note() if precision == "bf16" else ""


def _slow_bf16_note() -> str:
    try:
        with open(CPUINFO, encoding="utf-8") as file:
            words = set(file.read().split())
    except OSError:  # not Linux
        return ""
    if words & {"avx512_bf16", "amx_bf16", "bf16"}:  # bf16: Arm
        return ""
    return "bf16 is slow on this CPU, which supports neither AVX512-BF16 nor AMX: --precision=fp32 is faster."


def _open_gpu(precision: str, workers: Workers, _) -> Tuple[str, str]:
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        raise UserError("--device=gpu: TensorFlow found no NVIDIA GPU; install the driver and requirements-gpu.txt, or "
                        "use --device=cpu.")
    if 1 < len(cards) < workers.local_size:
        raise UserError(f"--device=gpu: this machine has {len(cards)} visible GPUs for {workers.local_size} workers: "
                        "start one worker per GPU, and make either all GPUs or its own one visible to every worker "
                        "(CUDA_VISIBLE_DEVICES).")
    card = cards[_gpu_number(workers, len(cards))]
    details = tf.config.experimental.get_device_details(card)
    capability = details.get("compute_capability", (0, 0))
    if precision == "bf16" and capability < (8, 0):
        raise UserError("--precision=bf16 requires compute capability 8.0 or higher, this GPU has "
                        f"{'.'.join(map(str, capability))}: use --precision=fp32.")
    tf.config.set_visible_devices(card, "GPU")
    tf.config.experimental.set_memory_growth(card, True)
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    return f"gpu ({details.get('device_name', card.name)})", ""


def _gpu_number(workers: Workers, visible: int) -> int:
    """Which of the visible GPUs this worker uses. A scheduler may show each worker its own one, which is GPU 0 then."""
    return 0 if visible == 1 else workers.local_rank


def _shared_gpu_note(workers: Workers) -> str:
    """A sentence that names two workers on the same GPU, or "". A collective operation: all workers must call it."""
    first = {}
    for rank, uuid in enumerate(workers.gather(_gpu_uuid(workers))):
        if uuid and first.setdefault(uuid, rank) != rank:
            return (f"workers {first[uuid]} and {rank} share one GPU: start one worker per GPU, or show each worker "
                    "another one (CUDA_VISIBLE_DEVICES).")
    return ""


def _gpu_uuid(workers: Workers) -> Optional[bytes]:
    """UUID of this worker's GPU. None if the driver does not tell."""
    count, card, uuid = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(16)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        failed = (cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
                  or cuda.cuDeviceGet(ctypes.byref(card), _gpu_number(workers, count.value))
                  or cuda.cuDeviceGetUuid(uuid, card))
    except (OSError, AttributeError):  # no such library, or an old driver
        return None
    return None if failed else uuid.raw


_OPENERS = {"cpu": _open_cpu, "gpu": _open_gpu, "hpu": gaudi.open_hpu}
