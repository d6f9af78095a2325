"""scripts/interpreters.py: which interpreter and requirements are chosen, and which packages are missing."""
from __future__ import annotations

import os
import shlex
import sys

import pytest
from support import ROOT, write_executable

from scripts import interpreters


@pytest.fixture
def machine(monkeypatch):
    """A machine with the given interpreters, as {name: (version, *missing)}, and SynapseAI driver."""
    def arrange(synapse="", **found):
        def probe(python, modules, at_least=(3,)):
            version, *missing = found.get(python.replace(".", "_"), (None,))
            return version and interpreters.Interpreter(python, version, tuple(missing))
        monkeypatch.setattr(interpreters, "probe", probe)
        monkeypatch.setattr(interpreters, "synapse_version", lambda: synapse)
    return arrange


@pytest.mark.parametrize("device, synapse, found, chosen", [
    ("cpu", "", dict(python3=("3.12",), python3_11=("3.11",)), ("python3", "requirements-cpu.txt")),
    ("gpu", "", dict(python3=("3.9",), python3_10=("3.10",)), ("python3.10", "requirements-gpu.txt")),
    ("cpu", "", dict(python3_12=("3.12",), python3_11=("3.11",)), ("python3.11", "requirements-cpu.txt")),
    ("cpu", "", dict(python3=("3.11", "ensurepip"), python3_10=("3.10",)), ("python3.10", "requirements-cpu.txt")),
    ("hpu", "", dict(python3=("3.10",)), ("python3", "requirements-hpu-1.14.txt")),
    ("hpu", "", dict(python3=("3.8",)), ("python3", "requirements-hpu-1.6.1.txt")),
    ("hpu", "1.6.1-0", dict(python3=("3.10",), python3_8=("3.8",)), ("python3", "requirements-hpu-1.6.1.txt")),
    ("hpu", "1.14.0-9e", dict(python3=("3.8",), python3_10=("3.10",)), ("python3.10", "requirements-hpu-1.14.txt")),
])
def test_the_first_interpreter_that_fits_is_chosen(machine, device, synapse, found, chosen):
    machine(synapse, **found)
    assert interpreters.find(device) == chosen


@pytest.mark.parametrize("device, synapse, found, words", [
    ("cpu", "", dict(python3=("3.9",)), ["Python 3.10, 3.11, 3.12 or 3.13", "python3 is 3.9", "PYTHON"]),
    ("cpu", "", {}, ["3.10, 3.11, 3.12 or 3.13", "PYTHON"]),
    ("hpu", "1.14.0", dict(python3=("3.8",)), ["Python 3.10 is needed", "python3 is 3.8"]),
    ("hpu", "", dict(python3=("3.11",)), ["3.8 or 3.10"]),
    ("cpu", "", dict(python3=("3.11", "ensurepip")), ["apt-get install python3.11-venv"]),
    ("hpu", "1.20.0", dict(python3=("3.10",)), ["SynapseAI 1.20.0", "1.6.1 and 1.14", "PYTHON"]),
])
def test_no_fitting_interpreter_is_refused_with_what_to_install(machine, refuses, device, synapse, found, words):
    machine(synapse, **found)
    text = refuses(interpreters.find, device)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("missing, device, tools, words", [
    (["absl", "google_crc32c", "tensorflow"], "cpu", False,
     ["absl-py, google-crc32c, tensorflow", "requirements-cpu.txt"]),
    (["tensorflow"], "gpu", False, ["requirements-gpu.txt"]),
    (["habana_frameworks"], "hpu", False, ["requirements-hpu-1.14.txt"]),
    (["tensorflow", "pytest"], "cpu", True, ["requirements-dev.txt"]),
    (["tqdm", "ruff"], "cpu", True, ["tqdm, ruff", "requirements.txt pytest ruff"]),
    (["tqdm"], "hpu", False, ["tqdm", "requirements.txt"]),
])
def test_missing_packages_are_named_with_the_pip_command(machine, missing, device, tools, words):
    machine(python=("3.10", *missing))
    for folder, prefix in ((str(ROOT), ""), ("/", f"{ROOT}/")):
        with pytest.raises(interpreters.UserError) as caught:
            interpreters.check_packages("vendor/python", "python", device, folder, tools)
        *names, file = words
        text = str(caught.value)
        assert text.endswith(f": run vendor/python -m pip install -r {prefix}{file}")
        assert text.startswith("PYTHON=vendor/python lacks ") and all(name in text for name in names)
    machine(python=("3.10",))
    interpreters.check_packages("vendor/python", "python", device, "/", tools)


def test_a_python_that_does_not_run_is_refused(tmp_path, refuses):
    failing = write_executable(tmp_path / "failing", "#!/bin/sh\nexit 1\n")
    for python in (str(tmp_path / "none"), str(tmp_path), failing):
        text = refuses(interpreters.check_packages, python, python, "cpu", "/")
        assert f"PYTHON={python} " in text and "3.8" in text


def test_the_probe_names_missing_modules_and_the_executable(tmp_path):
    bare = write_executable(tmp_path / "bare",
                            f'#!/bin/sh\necho noise >&2; exec {shlex.quote(sys.executable)} -I -S "$@"\n')
    found = interpreters.probe(bare, ("json", "h5py", "venv", "no_such_module"), at_least=(3, 8))
    assert found.version == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert found.missing == ("h5py", "no_such_module")
    assert os.path.samefile(found.executable, sys.executable)
    assert interpreters.probe(bare, (), at_least=(4, 0)) is None


def test_the_command_line_prints_assignments_or_an_error(machine, capsys):
    machine(python3=("3.11",))
    assert interpreters.main(["find", "cpu"]) == 0
    assert capsys.readouterr().out == "base=python3 file=requirements-cpu.txt\n"
    machine(python3=("3.11", "tqdm", "ruff"))
    assert interpreters.main(["packages", "p", "python3", "cpu", "/", "tools"]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1
    machine()
    assert interpreters.main(["find", "cpu"]) == 2 and "3.11" in capsys.readouterr().out
