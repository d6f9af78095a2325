"""scripts/matrix.py: which stacks are chosen, what is installed for each, and what is reported.

Where stacks run, the script is in a small repository whose scripts/test.sh writes the report that a test wants, and
every Python on PATH is a stand-in that creates environments without installing anything.
"""
import ast
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Answers like the Python whose name it has: `made` gets a line for each environment, `pip_status` holds the exit status
# of pip. In an environment, the TensorFlow is that of the requirements that pip was given.
FAKE_PYTHON = r"""#!/usr/bin/env bash
here=$(dirname "$0")
case "$*" in
  *ensurepip*) version=${0##*/python}; echo "${version}"; echo "$0" ;;
  "-m venv "*) mkdir "$3/bin"; cp "$0" "$3/bin/python"; echo "$3" >>"$FAKE/made" ;;
  "-m pip "*) if [[ -e $FAKE/pip_status ]]; then exit "$(<"$FAKE/pip_status")"; fi ;;
  *metadata*) tensorflow=$(sed -n 's/^tensorflow[a-z-]*==\([0-9.]*\).*/\1/p' "$(cd "$here/.." && pwd).txt" | head -1)
    echo "[\"3.0.1\", {\"tensorflow-cpu\": \"$tensorflow\", \"horovod\": \"0.28.1\"}]" ;;
esac
"""
FAKE_TEST = r"""#!/usr/bin/env bash
echo "$PYTHON $*" >>"$FAKE/tests"
echo "the console"
if [[ -e $FAKE/slow ]]; then touch "$FAKE/started"; sleep 60; fi
for word; do case $word in --junitxml=*) cp "$FAKE/report" "${word#*=}" ;; esac; done
exit "$(<"$FAKE/status")"
"""
PASSED = "<testcase name='a'/>"
FAILED = "<testcase name='b'><failure message='x'/></testcase>"


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location("matrix", str(ROOT / "scripts" / "matrix.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["matrix"] = module
    spec.loader.exec_module(module)
    return module


class Repository:
    """A small repository with the script; `pythons` are the versions that PATH has."""

    def __init__(self, folder, pythons):
        self.root, self.fake, self.folder = folder / "repository", folder / "fake", folder / "envs"
        (self.root / "scripts").mkdir(parents=True)
        (self.fake / "bin").mkdir(parents=True)
        self.script = self.root / "scripts" / "matrix.py"
        for name in ("matrix.py", "interpreters.py", "make_venv.sh", "venv.sh", "environment.sh", "restarts.sh"):
            shutil.copy(ROOT / "scripts" / name, self.root / "scripts")
        for path in (*ROOT.glob("requirements*.txt"), ROOT / "configuration.py", ROOT / "files.py"):
            shutil.copy(path, self.root)
        self.executable(self.root / "scripts" / "test.sh", FAKE_TEST)
        self.executable(self.root / "scripts" / "install_horovod.sh", 'echo "$PYTHON $*" >>"$FAKE/horovod"\n')
        for version in pythons:
            self.executable(self.fake / "bin" / f"python{version}", FAKE_PYTHON)
        self.environment = {**os.environ, "FAKE": str(self.fake), "PYENV_ROOT": str(folder / "no_pyenv"),
                            "PATH": f"{self.fake / 'bin'}:/usr/bin:/bin"}
        self.tests_do(0, PASSED)

    @staticmethod
    def executable(path, text):
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def tests_do(self, status, *cases):
        (self.fake / "status").write_text(str(status))
        (self.fake / "report").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")

    def command(self, *arguments):
        return [sys.executable, str(self.script), "--folder", str(self.folder), *arguments]

    def call(self, *arguments):
        return subprocess.run(self.command(*arguments), env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60)

    def lines(self, name):
        path = self.fake / name
        return path.read_text().splitlines() if path.exists() else []

    def rows(self):
        """The Markdown table, by stack: (result, passed, failed, skipped)."""
        rows = [[cell.strip() for cell in line.strip("|").split("|")]
                for line in (self.folder / "table.md").read_text().splitlines() if re.match(r"\| \d", line)]
        return {cells[0]: tuple(cells[4:8]) for cells in rows}


@pytest.fixture
def repository(tmp_path):
    """Python 3.8 and 3.11 are there, the others are not (where /usr/bin has others, they are hidden)."""
    made = Repository(tmp_path, ["3.8", "3.11"])
    for version in ("3.10", "3.12", "3.13"):
        made.executable(made.fake / "bin" / f"python{version}", "#!/bin/sh\nexit 1\n")
    return made


# --- Which stacks ---

@pytest.mark.parametrize("names, stacks", [
    (["2.9.1"], ["2.9.1-py3.8", "2.9.1-py3.10"]), (["2.9.1-py3.10"], ["2.9.1-py3.10"]),
    (["2.21-py3.12"], ["2.21.0-py3.12"]), (["2.15"], ["2.15.0-py3.10", "2.15.1-py3.11", "2.15.1-py3.10"]),
    (["2.8", "2.15.0"], ["2.8.2-py3.8", "2.8.2-py3.10", "2.15.0-py3.10"])])
def test_a_name_chooses_the_stacks_that_begin_with_it(matrix, names, stacks):
    assert [stack.name for stack in matrix.chosen(names, None)] == stacks


@pytest.mark.parametrize("name", ["2.1", "2.9.1-py3.1", "2.9.1-py3.12", "3", "py3.8"])
def test_an_unknown_stack_is_refused_with_the_choices(matrix, capsys, name):
    with pytest.raises(SystemExit) as ended:
        matrix.main([name])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and f"unknown stack {name!r}" in error and "2.15.0-py3.10" in error


def test_without_a_name_all_stacks_are_chosen(matrix):
    def planned(full_names, fast_names):
        plan = matrix.planned(full_names, fast_names, None)
        return [[stack.name for stack, only_fast in plan if only_fast == fast] for fast in (False, True)]

    every = [stack.name for stack in matrix.STACKS]
    one, other = "2.9.1-py3.8", "2.9.1-py3.10"
    assert planned([], None) == [every, []]
    assert planned([], []) == [[], every]
    assert planned([one], None) == [[one], []]
    assert planned([], [one]) == [[], [one]]
    assert planned([one], ["2.9.1"]) == [[one], [other]]
    assert planned([one], []) == [[one], [name for name in every if name != one]]


def test_fast_and_full_are_run_as_chosen(repository, matrix):
    assert repository.call("2.15.1-py3.11", "--fast", "2.9.1-py3.8", "--", "-x", "-k", "one two").returncode == 0
    fast, full = repository.lines("tests")  # in the order of the table
    python = f"{repository.folder}/%s/bin/python --junitxml={repository.folder}/%s.xml "
    assert full == python % (("2.15.1-py3.11",) * 2) + "-x -k one two"
    assert fast == python % (("2.9.1-py3.8",) * 2) + " ".join([*matrix.FAST, "-x -k one two"])


def test_one_python_takes_the_first_that_is_installed(matrix):
    pythons = {stack.python: (None, "") for stack in matrix.STACKS}
    pythons.update({"3.8": ("python3.8", ""), "3.11": ("python3.11", "")})
    plan = matrix.one_python(matrix.planned(["2.9.1", "2.21", "2.15.0", "2.15.1"], None, None), pythons)
    assert [stack.name for stack, _ in plan] == ["2.9.1-py3.8", "2.15.0-py3.10", "2.15.1-py3.11", "2.21.0-py3.11"]


def test_pyenv_is_searched_and_its_newest_version_taken(matrix, monkeypatch, tmp_path):
    for version in ("3.10.9", "3.10.13", "3.10.20"):
        folder = tmp_path / "pyenv" / "versions" / version / "bin"
        folder.mkdir(parents=True)
        missing = " ensurepip" * (version == "3.10.20")
        Repository.executable(folder / "python", f'#!/bin/sh\necho "3.10{missing}"; echo "$0"\n')
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert matrix.find_python("3.10") == (str(tmp_path / "pyenv/versions/3.10.13/bin/python"), "")
    shutil.rmtree(tmp_path / "pyenv/versions/3.10.13")
    shutil.rmtree(tmp_path / "pyenv/versions/3.10.9")
    found, reason = matrix.find_python("3.10")
    assert found is None and "python3.10-venv" in reason
    assert "no python3.13 on PATH or in pyenv" in matrix.find_python("3.13")[1]


def test_fast_tests_exist(matrix):
    for name in matrix.FAST:
        path, _, test = name.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not test or test.partition("[")[0] in functions, name


# --- Requirements ---

def test_each_stack_pins_its_tensorflow_and_nothing_twice(matrix):
    for stack in matrix.STACKS:
        environment = {"python_version": stack.python}
        wanted = [Requirement(line) for line in matrix.requirements(stack).splitlines()]
        wanted = [each for each in wanted if each.marker is None or each.marker.evaluate(environment)]
        tensorflow = [str(each.specifier) for each in wanted if each.name in ("tensorflow", "tensorflow-cpu")]
        assert tensorflow == [f"=={stack.family.tensorflow}"], stack.name
        pinned = [each.name.lower() for each in wanted if str(each.specifier).startswith("==")]
        assert len(pinned) == len(set(pinned)), stack.name
        assert {"pytest", "ruff", "tokenizers"} <= set(pinned), stack.name


# --- Environments ---

def test_an_environment_is_created_once_and_again_when_its_requirements_change(repository):
    for _ in range(2):
        assert repository.call("2.9.1").returncode == 0
    assert len(repository.lines("made")) == 1 and len(repository.lines("tests")) == 2
    with open(repository.root / "requirements-hpu-1.6.1.txt", "a") as file:
        file.write("wheel\n")
    assert repository.call("2.9.1", "2.15.1").returncode == 0
    assert len(repository.lines("made")) == 3 and "wheel" in (repository.folder / "2.9.1-py3.8.txt").read_text()
    # Horovod is for one family; its installer checks whether an installed one still works.
    assert repository.call("2.9.1", "2.15.1").returncode == 0
    assert repository.lines("horovod") == [f"{repository.folder}/2.15.1-py3.11/bin/python cpu"] * 2
    assert len(repository.lines("made")) == 3


def test_an_environment_that_cannot_be_created_fails_and_is_tried_again(repository):
    (repository.fake / "pip_status").write_text("9")
    result = repository.call("2.9.1")
    assert result.returncode == 1 and "status 9" in result.stdout and repository.rows()["2.9.1-py3.8"][0] == "FAILED"
    assert not repository.lines("tests")
    (repository.fake / "pip_status").unlink()
    assert repository.call("2.9.1").returncode == 0 and repository.rows()["2.9.1-py3.8"][0] == "passed"


def test_horovod_that_cannot_be_installed_fails(repository):
    repository.executable(repository.root / "scripts" / "install_horovod.sh", "exit 2\n")
    result = repository.call("2.15.1")
    assert result.returncode == 1 and "scripts/install_horovod.sh ended with status 2" in result.stdout
    assert not repository.lines("tests")


def test_a_folder_of_somebody_else_is_left_alone(repository):
    mine = repository.folder / "2.9.1-py3.8" / "mine"
    mine.parent.mkdir(parents=True)
    mine.touch()
    result = repository.call("2.9.1")
    assert result.returncode == 1 and "make_venv.sh ended with status 2" in result.stdout and mine.exists()


def test_another_tensorflow_fails(repository):
    repository.executable(repository.fake / "bin" / "python3.8", FAKE_PYTHON.replace("$tensorflow\\\"", "2.9.9\\\""))
    result = repository.call("2.9.1")
    assert result.returncode == 1 and "TensorFlow 2.9.9 was installed instead of 2.9.1" in result.stdout


# --- Results ---

def test_a_stack_without_its_python_is_said_and_fails_nothing(repository):
    result = repository.call("2.9.1", "2.21-py3.12")
    assert result.returncode == 0
    assert "NOT RUN: 2.21.0-py3.12: no python3.12 on PATH or in pyenv" in result.stdout
    assert {name: row[0] for name, row in repository.rows().items()} == {
        "2.9.1-py3.8": "passed", "2.9.1-py3.10": "NOT RUN", "2.21.0-py3.12": "NOT RUN"}


def test_the_table_keeps_the_newest_result_of_each_stack(repository):
    for status, names in ((1, ["2.8.2", "2.9.1"]), (0, ["2.9.1-py3.8", "2.21-py3.12"])):
        repository.tests_do(status, *([FAILED] if status else [PASSED]))
        assert repository.call(*names).returncode == status
    assert [(name, row[0]) for name, row in repository.rows().items()] == [
        ("2.8.2-py3.8", "FAILED"), ("2.9.1-py3.8", "passed"), ("2.21.0-py3.12", "NOT RUN")]


def test_nothing_run_is_no_success(repository):
    assert repository.call("2.15.0").returncode == 1


def test_a_failure_is_counted_and_the_other_stacks_still_run(repository):
    repository.tests_do(1, PASSED, FAILED, "<testcase name='c'><skipped message='no card'/></testcase>", PASSED)
    result = repository.call("2.8.2", "2.9.1")
    assert result.returncode == 1 and "1 skipped: no card" in result.stdout and "the console" in result.stdout
    assert repository.rows()["2.8.2-py3.8"] == repository.rows()["2.9.1-py3.8"] == ("FAILED", "2", "1", "1")
    assert "the console" in (repository.folder / "2.8.2-py3.8.log").read_text()


def test_a_lint_error_and_a_crash_fail(repository):
    repository.tests_do(1, PASSED)
    result = repository.call("2.9.1")
    assert result.returncode == 1 and "scripts/test.sh ended with status 1" in result.stdout
    repository.tests_do(134)
    (repository.fake / "report").unlink()
    result = repository.call("2.9.1")
    assert result.returncode == 1 and "status 134 and wrote no report" in result.stdout


def test_where_horovod_is_installed_no_test_may_be_skipped_for_lack_of_it(repository):
    repository.tests_do(0, PASSED, "<testcase name='c'><skipped message='Horovod is not installed'/></testcase>")
    result = repository.call("2.9.1", "2.15.1")
    assert result.returncode == 1 and "1 skipped because of Horovod" in result.stdout
    assert (repository.rows()["2.9.1-py3.8"][0], repository.rows()["2.15.1-py3.11"][0]) == ("passed", "FAILED")


def test_finished_stacks_of_the_same_source_are_skipped_on_request(repository):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repository.root)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)

    def runs(*arguments, status=0):
        before = len(repository.lines("tests"))
        assert repository.call(*arguments).returncode == status
        return len(repository.lines("tests")) - before

    assert runs("2.9.1") == runs("2.9.1") == 1
    assert runs("2.9.1", "--skip_finished") == 0 and repository.rows()["2.9.1-py3.8"] == ("passed", "1", "0", "0")
    assert runs("--skip_finished", "--fast", "2.9.1") == 1  # other tests
    assert runs("--skip_finished", "--fast", "2.9.1") == 0
    (repository.root / "new.py").touch()
    repository.tests_do(1, FAILED)
    assert runs("--skip_finished", "--fast", "2.9.1", status=1) == 1
    assert runs("--skip_finished", "--fast", "2.9.1", status=1) == 1  # a failure is never kept
    assert json.loads((repository.folder / "2.9.1-py3.8.json").read_text())["commit"].endswith("+")


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_tests_and_leaves_a_table(repository, number, status):
    (repository.fake / "slow").touch()
    process = subprocess.Popen(repository.command("2.8.2", "2.9.1"), env=repository.environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (repository.fake / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    other = repository.call("2.9.1")
    assert other.returncode == 2 and "another run is using" in other.stdout
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == status and "stopped while it was running" in output and "stopped before it" in output
    assert {row[0] for row in repository.rows().values()} == {"NOT RUN"}
