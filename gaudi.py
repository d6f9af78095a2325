"""Intel Gaudi (hpu) support through habana-tensorflow, the TensorFlow bridge of SynapseAI.

habana-tensorflow aborts the process if a component is missing. Every component is therefore checked first, in the order
in which they are installed, and the error names the first one that is missing.
"""
from __future__ import annotations

import ctypes
import glob
import importlib.metadata
import os
from typing import Callable, Dict, List, Optional, Tuple

import tensorflow as tf

import configuration
from configuration import UserError, in_short
from workers import Workers

SYS_CLASS, DEV = "/sys/class", "/dev"
SYNAPSE_LIBRARY = "libSynapse.so"

# TensorFlow versions that each release of habana-tensorflow supports.
SUPPORTED_TENSORFLOW = {"1.6.1": ("2.8.2", "2.9.1"), "1.8.0": ("2.8.4", "2.11.0"), "1.10.0": ("2.12.0",),
                        "1.12.0": ("2.13.0",), "1.13.0": ("2.13.1",), "1.14.0": ("2.15.0",)}

# Default lists for bf16. The built-in lists of habana-tensorflow (TF_BF16_CONVERSION=1) convert operations that stay
# float32 in every precision here: exponentials, comparisons and embedding look-ups.
BF16_LISTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "bf16_electra.json")
BF16_KEYS = ("allowlist", "conditional_list", "strict_conditional_list", "non_convertible_exceptions",
             "convertible_exceptions")

# Fused kernels of the opened device, by name; without one, modeling.py uses its own implementation.
# `layer_norm`: (x float32 [T, D], gamma, beta, epsilon) -> float32 [T, D], differentiable.
FUSED: Dict[str, Callable] = {}


# --- Opening ---


def open_hpu(precision: str, workers: Workers, bf16_config_path: Optional[str]) -> Tuple[str, str]:
    """Loads habana-tensorflow on this worker's card; see `devices.open_device`.

    Returns: a description, and a note for the user or ''.
    Raises: UserError: a component is missing or incompatible, or there are fewer cards than workers.
    """
    release = _check_habana_tensorflow()
    # The libraries of SynapseAI read these variables when they are loaded.
    note = _set_conversion(precision, bf16_config_path)
    if workers.local_size > 1 and not {"HABANA_VISIBLE_MODULES", "HLS_MODULE_ID"} & set(os.environ):
        os.environ["HLS_MODULE_ID"] = str(workers.local_rank)
    driver, cards = _check_card(release)
    if cards < workers.local_size:
        raise UserError(f"--device=hpu: this machine has {cards} Gaudi card(s) for {workers.local_size} workers: start "
                        "one worker per card.")
    try:
        from habana_frameworks.tensorflow import habana_ops, load_habana_module
        load_habana_module()
        found = tf.config.list_logical_devices("HPU")
    except Exception as error:  # 1.6.1 raises a bare Exception, 1.14 ImportError or AttributeError
        raise UserError(f"--device=hpu: habana-tensorflow could not be loaded ({in_short(error)}): install the "
                        f"release for TensorFlow {tf.__version__} and SynapseAI {driver}, or use --device=cpu."
                        ) from error
    if not found:
        raise UserError("--device=hpu: habana-tensorflow was loaded, but TensorFlow found no HPU device: check with "
                        "'hl-smi' whether another process is using the card, or use --device=cpu.")

    def layer_norm(x, gamma, beta, epsilon: float):
        # `axes` and `epsilon` are attributes of type tensor, which accept only a TensorProto. habana-tensorflow
        # registers the gradient (HabanaLayerNormGrad).
        return habana_ops.habana_layer_norm(x=x, beta=beta, gamma=gamma, axes=tf.make_tensor_proto([1]),
                                            epsilon=tf.make_tensor_proto(epsilon))[0]

    FUSED["layer_norm"] = layer_norm
    return f"hpu (Gaudi, SynapseAI driver {driver})", note


def _check_habana_tensorflow() -> str:
    """Returns the release, such as 1.14.0. Raises: UserError: not installed, or it does not support this TensorFlow."""
    try:
        version = importlib.metadata.version("habana-tensorflow")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("--device=hpu: habana-tensorflow is not installed: use the Python of Habana's container image, "
                        "install requirements-hpu-1.14.txt, or use --device=cpu.") from None
    release = ".".join(version.split(".")[:3])
    supported = SUPPORTED_TENSORFLOW.get(release)
    if supported is None:  # an unknown release reports an incompatible TensorFlow itself
        return release
    if tf.__version__ not in supported:
        raise UserError(f"--device=hpu: habana-tensorflow {version} requires TensorFlow {' or '.join(supported)}, but "
                        f"{tf.__version__} is installed: run 'python -m pip install tensorflow-cpu=={supported[-1]}', "
                        "or use --device=cpu.")
    if tf.test.is_built_with_cuda():
        # Seen with 1.6.1.92 and 1.14.0.493: "Already registered collective NcclReduce", and SIGABRT.
        raise UserError(f"--device=hpu: the installed TensorFlow {tf.__version__} is a CUDA build, which makes "
                        "habana-tensorflow abort: run 'python -m pip uninstall tensorflow' and 'python -m pip install "
                        f"tensorflow-cpu=={tf.__version__}', or use --device=cpu.")
    return release


def _check_card(release: str) -> Tuple[str, int]:
    """Returns the driver version and the number of cards. Raises: UserError: SynapseAI, driver or card is missing."""
    try:
        ctypes.CDLL(SYNAPSE_LIBRARY)
    except OSError as error:
        raise UserError(f"--device=hpu: the SynapseAI library could not be loaded ({in_short(error)}): install "
                        f"SynapseAI {release}, use Habana's container image, or use --device=cpu.") from error
    drivers = _driver_files("driver_ver")
    if not drivers:
        raise UserError("--device=hpu: the Gaudi driver is not loaded (no driver_ver under "
                        f"{SYS_CLASS}/accel or {SYS_CLASS}/habanalabs): install the driver of SynapseAI {release} and "
                        "run 'modprobe habanalabs', or use --device=cpu.")
    nodes = glob.glob(f"{DEV}/accel/accel[0-9]*") or glob.glob(f"{DEV}/hl[0-9]*")
    if not _driver_files("device_type") or not nodes:
        raise UserError("--device=hpu: the Gaudi driver is loaded, but no card was found (no device_type next to "
                        f"driver_ver, or neither {DEV}/accel/accel* nor {DEV}/hl*): check with 'hl-smi', start the "
                        "container with 'docker run --runtime=habana', or use --device=cpu.")
    with open(drivers[0], encoding="utf-8") as file:
        return file.read().strip(), len(nodes)


def _driver_files(name: str) -> List[str]:
    return sorted(glob.glob(f"{SYS_CLASS}/accel/accel*/device/{name}") + glob.glob(f"{SYS_CLASS}/habanalabs/*/{name}"))


# --- Conversion to bfloat16 ---


def _set_conversion(precision: str, bf16_config_path: Optional[str]) -> str:
    """Sets TF_BF16_CONVERSION unless the user has set it; returns the note of the device."""
    given = os.environ.get("TF_BF16_CONVERSION")
    if given and bf16_config_path:
        raise UserError(f"--bf16_config_path={bf16_config_path} conflicts with TF_BF16_CONVERSION={given} in the "
                        "environment: remove the option or unset the variable.")
    wanted = (bf16_config_path or BF16_LISTS) if precision == "bf16" else "0"
    os.environ["TF_BF16_CONVERSION"] = given or wanted
    if given and given != wanted:
        return f"TF_BF16_CONVERSION={given} in the environment decides which operations run in bfloat16."
    return "" if precision == "bf16" else "--precision=bf16 is faster on Gaudi."


def check_bf16_lists(path: str):
    """Checks a JSON file with lists of operations for TF_BF16_CONVERSION.

    Both releases of habana-tensorflow that were examined (1.6.1.92, 1.14.0.493) read the key `allowlist`. Habana's
    documentation says `allow_list`, with which nothing would be converted.

    Raises: UserError: habana-tensorflow would not accept the file.
    """
    try:
        lists = configuration.read_json_object(path)
    except UserError as error:
        raise UserError(f"--bf16_config_path={str(error).rstrip('.')} (see {BF16_LISTS} for an example).") from error
    names = set(lists)
    if "allow_list" in names:
        raise UserError(f"--bf16_config_path={path}: habana-tensorflow ignores the key 'allow_list' and would convert "
                        "nothing: rename it to 'allowlist'.")
    missing, unknown = [key for key in BF16_KEYS if key not in names], sorted(names - set(BF16_KEYS))
    if missing or unknown:
        reason = f"missing keys: {', '.join(missing)}" if missing else f"unknown keys: {', '.join(unknown)}"
        raise UserError(f"--bf16_config_path={path}: {reason}; the file must be a JSON object with the lists "
                        f"{', '.join(BF16_KEYS)}.")
    for key in BF16_KEYS:
        pairs = key.endswith("exceptions")
        if not isinstance(lists[key], list) or not all(_is_pair(item) if pairs else isinstance(item, str)
                                                       for item in lists[key]):
            raise UserError(f"--bf16_config_path={path}: {key} must be a list of "
                            f"{'pairs [name pattern, operation]' if pairs else 'operations'}: correct it; see "
                            f"{BF16_LISTS} for an example.")


def _is_pair(item) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)
