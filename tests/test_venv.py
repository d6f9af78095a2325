"""scripts/venv.sh: how .venv and the environments of matrix.py are created, filled, and created again.

Nothing is downloaded: `python3` is a stand-in, and in the environments that it creates so is pip. Which interpreter is
chosen: tests/test_interpreters.py.
"""
from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from support import Clone, assert_refused, make_folder, wait_for, write_executable

# Says that its version is FAKE_VERSION, and creates an environment whose pip writes a line to CALLS and then does what
# FAKE_PIP says, in bash.
FAKE_PYTHON3 = r"""#!/usr/bin/env bash
case "$1 $2" in
  "-c "*ensurepip*) echo "${FAKE_VERSION-3.11}" ;;
  "-m venv")
    echo "venv" >>"$CALLS"
    mkdir -p "$3/bin"
    printf '#!/usr/bin/env bash\nif [[ $2 == pip ]]; then echo "$*" >>"$CALLS"; eval "${FAKE_PIP:-true}"; fi\n' \
      >"$3/bin/python"
    chmod +x "$3/bin/python" ;;
  *) exec REAL "$@" ;;
esac
"""
SET_UP = "set_up.sh"  # what a wrapper does before it starts Python


class SetUp(Clone):
    """A clone where PYTHON is unset and every `python3` of PATH is the stand-in or broken."""

    def __init__(self, folder):
        super().__init__(folder / "clone")
        self.python3 = write_executable(folder / "bin" / "python3",
                                        FAKE_PYTHON3.replace("REAL", shlex.quote(sys.executable)))
        for minor in range(8, 14):
            write_executable(folder / "bin" / f"python3.{minor}", "#!/bin/sh\nexit 127\n")
        self.environment["PATH"] = f"{folder / 'bin'}:{self.environment['PATH']}"
        self.venv = self.folder / ".venv"
        write_executable(self.folder / "scripts" / SET_UP,
                         'source "$(dirname "$0")/environment.sh"; cd "$root"; use_python "$@"\n')

    def call(self, *arguments, wrapper=SET_UP, **more):
        return super().call(*arguments, wrapper=wrapper, **more)

    def start(self, *arguments, wrapper=SET_UP, **environment):
        return subprocess.Popen(self.command(*arguments, wrapper=wrapper), text=True, stdout=subprocess.PIPE,
                                cwd=self.folder, stderr=subprocess.PIPE, env={**self.environment, **environment})

    def steps(self):
        return [call.split()[0] for call in self.recorded()]


@pytest.fixture
def setting_up(tmp_path):
    make_folder(tmp_path / "clone")
    return SetUp(tmp_path)


# --- .venv ---

def test_venv_is_created_and_filled_once_and_filled_again_when_the_requirements_change(setting_up):
    first = setting_up.call("cpu")
    assert first.returncode == 0, first.stderr
    assert "creating .venv with python3" in first.stdout
    assert setting_up.steps() == ["venv", "-m"] and "requirements-cpu.txt" in setting_up.recorded()[1]
    assert setting_up.call("cpu").stdout == "" and len(setting_up.recorded()) == 2
    for file in ("requirements.txt", "requirements-cpu.txt"):
        with open(setting_up.folder / file, "a") as text:
            text.write("something\n")
        assert "requirements of .venv have changed" in setting_up.call("cpu").stdout
    assert setting_up.steps() == ["venv", "-m", "-m", "-m"]
    with open(setting_up.folder / "requirements-dev.txt", "a") as text:
        text.write("something\n")
    assert setting_up.call("cpu").stdout == ""


def test_the_tools_are_added_to_the_same_venv_and_survive(setting_up):
    assert setting_up.call("cpu").returncode == setting_up.call("cpu", "tools").returncode == 0
    assert setting_up.steps() == ["venv", "-m", "-m"]
    tools = setting_up.venv / "requirements-tools.txt"
    assert f"-r {tools}" in setting_up.recorded()[2] and f"-r {tools}" not in setting_up.recorded()[1]
    assert "pytest" in tools.read_text() and "-r requirements-cpu.txt" not in tools.read_text()
    assert setting_up.call("cpu").stdout == setting_up.call("cpu", "tools").stdout == ""
    with open(setting_up.folder / "requirements-dev.txt", "a") as text:
        text.write("something\n")
    assert setting_up.call("cpu").returncode == 0
    assert f"-r {tools}" in setting_up.recorded()[3] and "something" in tools.read_text()


def test_another_device_creates_the_venv_again_and_any_venv_serves_the_cpu(setting_up):
    assert setting_up.call("gpu").returncode == 0
    assert "requirements-gpu.txt" in setting_up.recorded()[-1]
    assert setting_up.call("cpu").stdout == ""
    again = setting_up.call("hpu", FAKE_VERSION="3.10")
    assert "requirements-gpu.txt" in again.stdout and "for hpu" in again.stdout
    assert "requirements-hpu-1.14.txt" in setting_up.recorded()[-1]
    shutil.rmtree(setting_up.venv)
    assert setting_up.call("hpu", FAKE_VERSION="3.8").returncode == 0
    assert "requirements-hpu-1.6.1.txt" in setting_up.recorded()[-1]
    assert setting_up.call("hpu").stdout == ""


def test_a_venv_whose_python_no_longer_runs_is_created_again(setting_up):
    setting_up.call("cpu")
    (setting_up.venv / "bin" / "python").unlink()
    again = setting_up.call("cpu")
    assert again.returncode == 0 and "again" in again.stdout and "no longer runs" in again.stdout
    assert setting_up.steps() == ["venv", "-m"] * 2


def test_a_failed_installation_is_reported_and_the_next_start_creates_the_venv_again(setting_up):
    failed = setting_up.call("cpu", FAKE_PIP="echo no route >&2; exit 7")
    assert failed.returncode == 7
    assert failed.stderr.splitlines()[0] == "no route"
    assert "requirements-cpu.txt" in failed.stderr.splitlines()[1] and "network" in failed.stderr.splitlines()[1]
    again = setting_up.call("cpu")
    assert again.returncode == 0
    assert "creating .venv again" in again.stdout and "did not finish" in again.stdout


def test_an_interrupted_installation_is_stopped_and_done_again(setting_up):
    process = setting_up.start("cpu", FAKE_PIP="touch started; while :; do sleep 0.05; done")
    wait_for((setting_up.folder / "started").exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "stopped while setting up .venv" in errors
    assert "did not finish" in setting_up.call("cpu").stdout


def test_two_starts_at_once_install_once(setting_up):
    first = setting_up.start("cpu", FAKE_PIP="touch started; until [[ -e waiting ]]; do sleep 0.02; done")
    wait_for((setting_up.folder / "started").exists)
    second = setting_up.start("cpu")
    line = second.stdout.readline()
    assert "waiting" in line
    (setting_up.folder / "waiting").touch()
    assert first.wait(timeout=30) == second.wait(timeout=30) == 0
    assert setting_up.steps() == ["venv", "-m"]
    for process in (first, second):
        process.communicate()


def test_a_venv_created_by_somebody_else_is_left_alone(setting_up):
    theirs = make_folder(setting_up.venv)
    (theirs / "pyvenv.cfg").touch()
    assert_refused(setting_up.call("cpu"), ".venv", "PYTHON=.venv/bin/python")
    assert [path.name for path in theirs.iterdir()] == ["pyvenv.cfg"]


@pytest.mark.parametrize("version, words", [("3.9", ["3.9", "3.13"]), ("3.11 ensurepip", ["python3.11-venv"])])
def test_a_python_that_cannot_create_it_is_refused(setting_up, version, words):
    assert_refused(setting_up.call("cpu", FAKE_VERSION=version), *words)
    assert not setting_up.venv.exists()


# --- PYTHON ---

def test_an_interpreter_named_by_PYTHON_is_checked_and_nothing_is_installed(setting_up, tmp_path):
    bare = write_executable(tmp_path / "bare", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S "$@"\n')
    assert_refused(setting_up.call("cpu", PYTHON=bare), "PYTHON=", f"{bare} -m pip install -r requirements-cpu.txt")
    elsewhere = setting_up.call("cpu", PYTHON="./bare", cwd=tmp_path)
    assert_refused(elsewhere, f"./bare -m pip install -r {setting_up.folder}/requirements-cpu.txt")
    assert_refused(setting_up.call("cpu", PYTHON=str(tmp_path / "none")), f"PYTHON={tmp_path}/none", "3.8")
    good = write_executable(tmp_path / "good", f'#!/bin/sh\n[ "$1" != -c ] || exec {sys.executable} "$@"\n')
    assert setting_up.call("cpu", PYTHON=good).returncode == 0
    assert setting_up.recorded() == [] and not setting_up.venv.exists()


def test_without_any_python_the_refusal_says_what_to_install(setting_up):
    write_executable(setting_up.folder.parent / "bin" / "python3", "#!/bin/sh\nexit 127\n")
    assert_refused(setting_up.call("cpu"), "3.8", "PYTHON")


# --- make_venv.sh ---

@pytest.fixture
def making(setting_up, tmp_path):
    """Calls make_venv.sh for one environment."""
    (tmp_path / "wanted.txt").write_text("one\n")

    def make(python=setting_up.python3, **environment):
        return setting_up.call(tmp_path / "one", python, tmp_path / "wanted.txt", wrapper="make_venv.sh", **environment)
    return make


def test_make_venv_creates_an_environment_once_and_again_when_something_changes(making, setting_up, tmp_path):
    for expected in (1, 1):
        assert making().returncode == 0
        assert setting_up.steps() == ["venv", "-m"] * expected
    assert f"-r {tmp_path}/wanted.txt" in setting_up.recorded()[1]
    other = write_executable(tmp_path / "other", (tmp_path / "bin" / "python3").read_text())
    (tmp_path / "wanted.txt").write_text("two\n")
    assert making().returncode == 0 and setting_up.steps().count("venv") == 2
    assert making(other).returncode == 0 and setting_up.steps().count("venv") == 3
    (tmp_path / "one" / "bin" / "python").unlink()
    assert making(other).returncode == 0 and setting_up.steps().count("venv") == 4
    assert making(other, FAKE_PIP="exit 1").returncode == 0 and not setting_up.venv.exists()


def test_make_venv_leaves_other_folders_alone_and_needs_three_arguments(making, setting_up, tmp_path):
    (make_folder(tmp_path / "one") / "mine").touch()
    assert_refused(making(), f"{tmp_path}/one", "not created by")
    assert (tmp_path / "one" / "mine").exists()
    assert_refused(setting_up.call("folder", wrapper="make_venv.sh"), "usage")
