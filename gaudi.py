"""Gaudi through habana-tensorflow ("the bridge"): what must be there, what is set before it loads, what it offers.

The bridge aborts the process where a piece is missing, so every piece is looked for first, and what is missing is named
in the order in which a person would install it.
"""
from __future__ import annotations

import ctypes
import glob
import importlib.metadata
import json
import os
from typing import Callable, Dict, List, Optional, Tuple

import tensorflow as tf

from configuration import UserError
from workers import Workers

SYS_CLASS, DEV = "/sys/class", "/dev"
SYNAPSE_LIBRARY = "libSynapse.so"

# Release of habana-tensorflow: the TensorFlow versions that it loads with.
BRIDGE_NEEDS = {"1.6.1": ("2.8.2", "2.9.1"), "1.8.0": ("2.8.4", "2.11.0"), "1.10.0": ("2.12.0",),
                "1.12.0": ("2.13.0",), "1.13.0": ("2.13.1",), "1.14.0": ("2.15.0",)}

# The default of bf16. The bridge's own lists ("1") go further than this project allows in any precision: they convert
# exponentials, comparisons and table look-ups too.
BF16_LISTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "bf16_electra.json")
BF16_KEYS = ("allowlist", "conditional_list", "strict_conditional_list", "non_convertible_exceptions",
             "convertible_exceptions")

# Functions that the opened device has a fused kernel for, by name; modeling.py uses its own where there is none.
# `layer_norm`: (x float32 [T, D], gamma, beta, epsilon) -> float32 [T, D], differentiable.
FUSED: Dict[str, Callable] = {}


# --- Opening ---


def open_hpu(precision: str, workers: Workers, bf16_config_path: Optional[str]) -> Tuple[str, str]:
    """Loads the bridge with this worker's card; see `devices.open_device`.

    Returns: a description, and a note for the user or ''.
    Raises: UserError: a piece is missing or does not fit, or there are fewer cards than workers.
    """
    release = _check_bridge()
    # Set before any library of SynapseAI is in the process: they read it when they load.
    note = _set_conversion(precision, bf16_config_path)
    if workers.local_size > 1 and not {"HABANA_VISIBLE_MODULES", "HLS_MODULE_ID"} & set(os.environ):
        os.environ["HLS_MODULE_ID"] = str(workers.local_rank)
    driver, cards = _check_card(release)
    if cards < workers.local_size:
        raise UserError(f"--device=hpu: there are {cards} Gaudi card(s) for the {workers.local_size} workers of this "
                        "machine: start as many workers as there are cards.")
    try:
        from habana_frameworks.tensorflow import habana_ops, load_habana_module
        load_habana_module()
        found = tf.config.list_logical_devices("HPU")
    except Exception as error:  # 1.6.1 raises a bare Exception, 1.14 ImportError or AttributeError
        raise UserError(f"--device=hpu: habana-tensorflow does not load ({_first_line(error)}): match it to TensorFlow "
                        f"{tf.__version__} and to SynapseAI {driver}, or use --device=cpu.") from error
    if not found:
        raise UserError("--device=hpu: habana-tensorflow has loaded but offers TensorFlow no card: look at 'hl-smi', "
                        "whether another process holds it, or use --device=cpu.")

    def layer_norm(x, gamma, beta, epsilon: float):
        # `axes` and `epsilon` are attributes of type tensor, which take a TensorProto and nothing else. The bridge
        # registers the gradient (HabanaLayerNormGrad).
        return habana_ops.habana_layer_norm(x=x, beta=beta, gamma=gamma, axes=tf.make_tensor_proto([1]),
                                            epsilon=tf.make_tensor_proto(epsilon))[0]

    FUSED["layer_norm"] = layer_norm
    return f"hpu (Gaudi, SynapseAI driver {driver})", note


def _check_bridge() -> str:
    """The release of habana-tensorflow, e.g. 1.14.0. Raises: UserError: none, or none for this TensorFlow."""
    try:
        version = importlib.metadata.version("habana-tensorflow")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("--device=hpu: habana-tensorflow is not installed: use the Python of the vendor's image, "
                        "install requirements-hpu-1.14.txt, or use --device=cpu.") from None
    release = ".".join(version.split(".")[:3])
    needs = BRIDGE_NEEDS.get(release)
    if needs is None:  # a release that we do not know says by itself what it needs
        return release
    if tf.__version__ not in needs:
        raise UserError(f"--device=hpu: habana-tensorflow {version} loads with TensorFlow {' or '.join(needs)}, and "
                        f"{tf.__version__} is installed: run 'python -m pip install tensorflow-cpu=={needs[-1]}', or "
                        "use --device=cpu.")
    if tf.test.is_built_with_cuda():
        # Seen with 1.6.1.92 and 1.14.0.493: "Already registered collective NcclReduce", and SIGABRT.
        raise UserError(f"--device=hpu: TensorFlow {tf.__version__} is here in its CUDA build, next to which "
                        "habana-tensorflow aborts: run 'python -m pip uninstall tensorflow' and 'python -m pip install "
                        f"tensorflow-cpu=={tf.__version__}', or use --device=cpu.")
    return release


def _check_card(release: str) -> Tuple[str, int]:
    """The driver's version and the number of cards. Raises: UserError: SynapseAI, driver or card is missing."""
    try:
        ctypes.CDLL(SYNAPSE_LIBRARY)
    except OSError as error:
        raise UserError(f"--device=hpu: SynapseAI's library does not load ({_first_line(error)}): install SynapseAI "
                        f"{release} or use the vendor's image, or use --device=cpu.") from error
    drivers = _driver_files("driver_ver")
    if not drivers:
        raise UserError("--device=hpu: the Gaudi driver is not loaded (there is no driver_ver under "
                        f"{SYS_CLASS}/accel or {SYS_CLASS}/habanalabs): install the driver of SynapseAI {release} and "
                        "run 'modprobe habanalabs', or use --device=cpu.")
    nodes = glob.glob(f"{DEV}/accel/accel[0-9]*") or glob.glob(f"{DEV}/hl[0-9]*")
    if not _driver_files("device_type") or not nodes:
        raise UserError("--device=hpu: the Gaudi driver is loaded, but there is no card (no device_type beside its "
                        f"driver_ver, or neither {DEV}/accel/accel* nor {DEV}/hl*): look at 'hl-smi', give a container "
                        "the devices (docker run --runtime=habana), or use --device=cpu.")
    with open(drivers[0], encoding="utf-8") as file:
        return file.read().strip(), len(nodes)


def _driver_files(name: str) -> List[str]:
    return sorted(glob.glob(f"{SYS_CLASS}/accel/accel*/device/{name}") + glob.glob(f"{SYS_CLASS}/habanalabs/*/{name}"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


# --- Conversion to bfloat16 ---


def _set_conversion(precision: str, bf16_config_path: Optional[str]) -> str:
    """Sets TF_BF16_CONVERSION unless the user has; returns the device's note."""
    given = os.environ.get("TF_BF16_CONVERSION")
    if given and bf16_config_path:
        raise UserError(f"--bf16_config_path={bf16_config_path} and TF_BF16_CONVERSION={given} in the environment both "
                        "say what to convert: leave out the one or unset the other.")
    wanted = (bf16_config_path or BF16_LISTS) if precision == "bf16" else "0"
    os.environ["TF_BF16_CONVERSION"] = given or wanted
    if given and given != wanted:
        return f"TF_BF16_CONVERSION={given} in the environment decides what is computed in bf16."
    return "" if precision == "bf16" else "--precision=bf16 is the faster way on Gaudi."


def check_bf16_lists(path: str):
    """Raises: UserError: `path` is not a JSON file that the bridge takes.

    Both libraries examined (1.6.1.92, 1.14.0.493) read `allowlist`; the vendor's documentation writes `allow_list`,
    with which nothing would be converted.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lists = json.load(file)
    except OSError as error:
        raise UserError(f"--bf16_config_path={path} cannot be read ({error.strerror}): mend the path.") from error
    except ValueError as error:  # also a file that is not UTF-8
        raise UserError(f"--bf16_config_path={path} is not JSON ({_first_line(error)}): mend it, after "
                        f"{BF16_LISTS}.") from error
    names = set(lists) if isinstance(lists, dict) else set()
    if "allow_list" in names:
        raise UserError(f"--bf16_config_path={path}: habana-tensorflow reads 'allowlist' where this file has "
                        "'allow_list', and would convert nothing: rename it.")
    missing, unknown = [key for key in BF16_KEYS if key not in names], sorted(names - set(BF16_KEYS))
    if missing or unknown:
        reason = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise UserError(f"--bf16_config_path={path} {reason}: it must be a JSON object with the lists "
                        f"{', '.join(BF16_KEYS)}.")
    for key in BF16_KEYS:
        pairs = key.endswith("exceptions")
        if not isinstance(lists[key], list) or not all(_is_pair(item) if pairs else isinstance(item, str)
                                                       for item in lists[key]):
            raise UserError(f"--bf16_config_path={path}: {key} must be a list of "
                            f"{'pairs [pattern of names, operation]' if pairs else 'operations'}: mend it, after "
                            f"{BF16_LISTS}.")


def _is_pair(item) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)
