"""Finds Python interpreters: one that can create a virtual environment, or the packages that a given one lacks.

    python scripts/interpreters.py find DEVICE
    python scripts/interpreters.py packages NAME PYTHON DEVICE FOLDER [tools]

scripts/environment.sh calls both, scripts/matrix.py imports `probe`. `find` prints assignments for the shell: `base`,
the interpreter for .venv, and `file`, the requirements for DEVICE. An error is one sentence on standard output, with
exit status 2. Only the standard library is used: any Python 3.8 or newer runs this.
"""
from __future__ import annotations

import glob
import os
import shlex
import subprocess
import sys
from typing import NamedTuple, Optional, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from configuration import UserError  # noqa: E402

PACKAGES = ("absl", "google_crc32c", "h5py", "huggingface_hub", "matplotlib", "safetensors", "sentencepiece",
            "tensorflow", "tokenizers", "tqdm")
TOOLS = ("pytest", "ruff")
PIP_NAMES = {"absl": "absl-py", "google_crc32c": "google-crc32c"}
VENV = ("venv", "ensurepip")  # Debian leaves them out of its python3 package
OR_SET_PYTHON = "or set PYTHON to a Python that has the packages"

PROBE = """import importlib.util, sys
assert sys.version_info >= %r
print("%%d.%%d" %% sys.version_info[:2], *[name for name in %r if importlib.util.find_spec(name) is None])
print(sys.executable)"""


class Interpreter(NamedTuple):
    executable: str
    version: str  # such as 3.11
    missing: Tuple[str, ...]


def probe(python: str, modules, at_least=(3,)) -> Optional[Interpreter]:
    """What an interpreter is, and which of `modules` it lacks; None where it does not run or is too old."""
    try:
        answer = subprocess.run([python, "-c", PROBE % (at_least, tuple(modules))], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    if answer.returncode:
        return None
    first, executable, *_ = [*os.fsdecode(answer.stdout).splitlines(), "", ""]
    version, _, missing = first.partition(" ")
    return Interpreter(executable or python, version, tuple(missing.split()))


# --- Requirements ---

def synapse_version() -> str:
    """The version of the SynapseAI driver, such as 1.14.0-9e8ecf8; empty where it cannot be read."""
    for pattern in ("/sys/class/accel/accel[0-9]*/device/driver_ver", "/sys/class/habanalabs/hl[0-9]*/driver_ver"):
        for path in sorted(glob.glob(pattern)):
            try:
                with open(path) as file:
                    return file.readline().strip()
            except OSError:
                continue
    return ""


def requirements_for(device: str, version: str, synapse: str) -> str:
    """The requirements file for a device, on a Python of this version."""
    if device != "hpu":
        return f"requirements-{device}.txt"
    old = synapse.startswith("1.6.") or not synapse.startswith("1.14.") and version == "3.8"
    return "requirements-hpu-1.6.1.txt" if old else "requirements-hpu-1.14.txt"


def supported_versions(device: str, synapse: str):
    """Python versions for which a requirements file of the device has packages, the preferred one first."""
    if device != "hpu":
        return ("3.11", "3.10", "3.12", "3.13")
    if synapse.startswith("1.6."):
        return ("3.8", "3.10")
    if synapse.startswith("1.14."):
        return ("3.10",)
    if synapse:
        raise UserError(f"no requirements file matches SynapseAI {synapse} (there are files for 1.6.1 and 1.14): set "
                        "PYTHON to the Python of the vendor's image.")
    return ("3.10", "3.8")


# --- The two questions ---

def find(device: str) -> Tuple[str, str]:
    """Returns an interpreter that can create .venv for a device, and the requirements file for it.

    Raises: UserError: there is none; says what to install.
    """
    synapse = synapse_version()
    supported = supported_versions(device, synapse)
    seen = without_venv = ""
    for candidate in ("python3", *(f"python{version}" for version in supported)):
        found = probe(candidate, VENV)
        if found is None:
            continue
        seen = seen or f", but {candidate} is {found.version}"
        if found.version not in supported:
            continue
        if not found.missing:
            return candidate, requirements_for(device, found.version, synapse)
        without_venv = without_venv or found.version
    if without_venv:
        raise UserError(f"Python {without_venv} cannot create virtual environments here: install its venv package "
                        f"('apt-get install python{without_venv}-venv' on Debian), {OR_SET_PYTHON}.")
    *others, last = sorted(supported, key=lambda version: int(version.partition(".")[2]))
    versions = f"{', '.join(others)} or {last}" if others else last
    raise UserError(f"Python {versions} is needed{seen}: install one, {OR_SET_PYTHON}.")


def check_packages(name: str, python: str, device: str, folder: str, tools: bool = False):
    """Checks that an interpreter has the packages for a device (and the tools of the tests).

    Args:
        name: the interpreter as the user named it in PYTHON; `python` is the same from the current folder.
        folder: where the user is, for the path of the requirements file in the message.
    Raises: UserError with the pip command that installs what is missing.
    """
    modules = (*PACKAGES, *(["habana_frameworks"] if device == "hpu" else []), *(TOOLS if tools else []))
    found = probe(python, modules, at_least=(3, 8))
    if found is None:
        raise UserError(f"PYTHON={name} does not run as Python 3.8 or newer: set PYTHON to one that does, or unset it.")
    if not found.missing:
        return
    install = "requirements.txt"  # leaves the TensorFlow that is there alone
    if {"tensorflow", "habana_frameworks"} & set(found.missing):
        install = "requirements-dev.txt" if tools else requirements_for(device, found.version, synapse_version())
    elif set(TOOLS) & set(found.missing):
        install += " pytest ruff"
    if os.path.realpath(folder) != os.path.realpath(ROOT):
        install = os.path.join(ROOT, install)
    lacking = ", ".join(PIP_NAMES.get(module, module) for module in found.missing)
    raise UserError(f"PYTHON={name} lacks {lacking}: run {name} -m pip install -r {install}")


def main(argv) -> int:
    action, *arguments = argv
    try:
        if action == "find":
            base, file = find(*arguments)
            print(f"base={shlex.quote(base)} file={shlex.quote(file)}")
        else:
            check_packages(*arguments[:4], tools="tools" in arguments[4:])
    except UserError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
