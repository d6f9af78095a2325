#!/usr/bin/env python3
"""Runs scripts/test.sh on every supported TensorFlow for which this machine has a Python, each in its own environment.

    python3 scripts/matrix.py                            # everything on every stack
    python3 scripts/matrix.py 2.9.1 2.21-py3.12          # everything on these
    python3 scripts/matrix.py --fast                     # the fast subset (FAST below) on every stack
    python3 scripts/matrix.py 2.15.1 --fast 2.9.1 2.21   # everything on 2.15.1, the fast subset on two others
    python3 scripts/matrix.py 2.15.1 -- -x -k resume     # what follows -- goes to pytest
    python3 scripts/matrix.py --list                     # the stacks, with the Python found for each

A stack is a TensorFlow version, the packages that belong to it, and a Python version; STACKS below lists them all.
Pythons are searched on PATH (python3.10) and among pyenv's versions. Written to --folder:

    <stack>/         the virtual environment, created once and again when its requirements change
    <stack>.txt      its requirements
    <stack>.log      the console output
    <stack>.json     the result, and <stack>.xml the report of pytest
    table.md         the newest result of each stack

A stack without a Python on this machine is listed as "NOT RUN". The exit status is 1 where a stack failed, its
environment could not be created, or nothing ran; 2 for an invalid option; 130 or 143 after Ctrl-C or SIGTERM. A second
run keeps the environments, and with --skip_finished also the results of an unchanged source tree.
"""
import argparse
import collections
import datetime
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from typing import NamedTuple, Optional, Tuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import interpreters  # noqa: E402

import files  # noqa: E402

# Tests that show within about four minutes on two cores that the code runs on a TensorFlow: numbers against references,
# the op graph, weights in and out, a tiny pre-training and fine-tuning with their files, stopping and resuming.
FAST = """
tests/test_tokenization.py
tests/test_command_line.py
tests/test_preflight.py
tests/test_modeling.py
tests/test_optimization.py
tests/test_flops.py
tests/test_pretrain_utils.py
tests/test_squad_utils.py
tests/test_training_graph.py
tests/test_training.py
tests/test_checkpoints.py
tests/test_run_log.py
tests/test_curves.py
tests/test_tfrecord.py
tests/test_process_pool.py
tests/test_documents.py
tests/test_wikipedia.py
tests/test_devices.py
tests/test_weights.py
tests/test_run_pretraining.py::test_a_run_leaves_checkpoints_logs_configuration_vocabulary_and_curves
tests/test_run_pretraining.py::test_phase_2_starts_from_phase_1s_weights_with_a_fresh_optimizer
tests/test_run_pretraining.py::test_a_run_stopped_and_resumed_equals_an_uninterrupted_one
tests/test_run_pretraining.py::test_a_signal_finishes_the_update_saves_says_how_to_resume_and_exits_75
tests/test_run_pretraining.py::test_hpu_is_refused_without_a_card_also_where_its_bridge_is_installed
tests/test_run_tf_squad.py::test_the_files_of_the_design_are_written
tests/test_run_tf_squad.py::test_version_2_has_null_odds_and_both_thresholds
tests/test_reader.py::test_the_answer_is_found_with_its_place_and_probability
tests/test_postprocess_pretrained_ckpt.py::test_the_command_writes_both_networks_and_says_where
""".split()


class Family(NamedTuple):
    """A TensorFlow and its packages; one stack for each of its Pythons, the most important one first."""
    tensorflow: str
    pythons: Tuple[str, ...]
    requirements: str
    pins: Tuple[str, ...] = ()  # replace the lines of the requirements file for the same packages
    horovod: bool = False
    export: bool = False  # with what exports to ONNX


HPU_1_6 = "requirements-hpu-1.6.1.txt"
FAMILIES = (
    Family("2.8.2", ("3.8", "3.10"), HPU_1_6, ("tensorflow-cpu==2.8.2",)),
    Family("2.9.1", ("3.8", "3.10"), HPU_1_6),
    Family("2.15.0", ("3.10",), "requirements-hpu-1.14.txt"),
    Family("2.15.1", ("3.11", "3.10"), "requirements-cpu.txt", horovod=True, export=True),
    Family("2.21.0", ("3.12", "3.13"), "requirements-cpu.txt", export=True),
    # requirements-cpu.txt takes 2.15.1 on Python 3.11, where Horovod builds; 2.21 runs there as well.
    Family("2.21.0", ("3.11",), "requirements-cpu.txt", (
        "tensorflow-cpu==2.21.0", "tensorboard==2.20.0", "numpy==2.4.6", "protobuf==7.36.2", "wrapt",
        "onnx==1.23.2"), export=True),
)


class Stack(NamedTuple):
    name: str
    python: str
    family: Family


STACKS = [Stack(f"{family.tensorflow}-py{python}", python, family) for family in FAMILIES for python in family.pythons]


class Result(NamedTuple):
    """A row of the table; `state` is passed, FAILED, or NOT RUN."""
    stack: str
    state: str
    note: str = ""
    python: str = ""
    packages: str = ""
    tests: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    minutes: float = 0.0
    commit: str = ""
    source: str = ""
    date: str = ""


class Stopped(BaseException):
    """SIGINT or SIGTERM was received."""


# --- Command line ---

def main(argv) -> int:
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage="%(prog)s [STACK ...] [--fast [STACK ...]] [options] [-- PYTEST ARGUMENTS]")
    parser.add_argument("stacks", nargs="*", metavar="STACK", help="run everything on these (a name or its start)")
    parser.add_argument("--fast", nargs="*", metavar="STACK",
                        help="run the fast subset on these; without a name, on all stacks not named before it")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "matrix",
                        help="folder of the environments and results (default: build/matrix)")
    parser.add_argument("--one_python", action="store_true", help="run each TensorFlow on one of its Pythons only")
    parser.add_argument("--skip_finished", action="store_true",
                        help="keep the results of stacks that passed with the same tests and an unchanged source tree")
    parser.add_argument("--list", action="store_true", help="list the stacks and exit")
    options = parser.parse_args(argv[:cut])
    plan = planned(options.stacks, options.fast, parser)
    pythons = {python: find_python(python) for python in sorted({stack.python for stack in STACKS})}
    if options.list:
        for stack in STACKS:
            found = pythons[stack.python]
            print(f"{stack.name:14} {found[0] or 'NOT RUN: ' + found[1]}")
        return 0
    if options.one_python:
        plan = one_python(plan, pythons)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            parser.error(f"another run is using {folder}: wait until it ends, or choose another --folder")
        return run_all(plan, pythons, folder, argv[cut + 1:], options.skip_finished)


def planned(full_names, fast_names, parser):
    """[(stack, whether only the fast subset runs), ...] for the names before --fast and after it (None: no --fast)."""
    full, fast = chosen(full_names, parser), chosen(fast_names or [], parser)
    rest = [stack for stack in STACKS if stack not in full]
    if fast_names == []:
        fast = rest
    elif not full and not fast:
        full = rest
    return [(stack, stack not in full) for stack in STACKS if stack in full or stack in fast]


def chosen(names, parser):
    """The stacks that match the names: 2.9.1 matches each of its Pythons, 2.21 matches 2.21.0."""
    for name in names:
        if not any(matches(name, stack) for stack in STACKS):
            parser.error(f"unknown stack {name!r}: choose from {', '.join(stack.name for stack in STACKS)}")
    return [stack for stack in STACKS if any(matches(name, stack) for name in names)]


def matches(name, stack):
    version, _, python = name.partition("-py")
    return (stack.family.tensorflow + ".").startswith(version + ".") and python in ("", stack.python)


def one_python(plan, pythons):
    """One stack for each TensorFlow: the first whose Python is here, else the first."""
    kept = {}
    for stack, fast in plan:
        version = stack.family.tensorflow
        if version not in kept or not pythons[kept[version][0].python][0] and pythons[stack.python][0]:
            kept[version] = (stack, fast)
    return list(kept.values())


def stop(number, frame):
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


# --- Pythons ---

def find_python(version) -> Tuple[Optional[str], str]:
    """The newest Python of that version on PATH or in pyenv that can create environments, else None and the reason."""
    reason = f"no python{version} on PATH or in pyenv"
    for candidate in [shutil.which(f"python{version}"), *pyenv_pythons(version)]:
        found = candidate and interpreters.probe(candidate, interpreters.VENV)
        if not found or found.version != version:
            continue
        if not found.missing:
            return found.executable, ""
        reason = f"{candidate} cannot create virtual environments: install the package python{version}-venv"
    return None, reason


def pyenv_pythons(version):
    folder = os.environ.get("PYENV_ROOT")
    if not folder and shutil.which("pyenv"):
        folder = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True).stdout.strip()
    found = glob.glob(os.path.join(folder, "versions", f"{version}.*", "bin", "python")) if folder else []
    return sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path)], reverse=True)


# --- Environments ---

def requirements(stack) -> str:
    """The stack's requirements: those of its file with its own pins, and the tools of the tests."""
    pins = {package(pin) for pin in stack.family.pins}
    lines = [*lines_of(stack.family.requirements), *lines_of("requirements-dev.txt", include=False),
             *(lines_of("requirements-export.txt") if stack.family.export else ())]
    return "\n".join([*(line for line in lines if package(line) not in pins), *stack.family.pins, ""])


def lines_of(name, include=True):
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from lines_of(line[3:].strip()) if include else ()
        elif line and not line.startswith("#"):
            yield line


def package(line) -> str:
    return re.match(r"[\w.-]+", line).group().lower().replace("_", "-")


def make_environment(stack, base, folder, log) -> str:
    """Creates the stack's environment unless it is complete; returns what went wrong, or an empty text."""
    environment, listed = folder / stack.name, folder / f"{stack.name}.txt"
    python = str(environment / "bin" / "python")
    files.write_text(str(listed), requirements(stack))
    status = run(["bash", "scripts/make_venv.sh", str(environment), base, str(listed)], log)
    if status:
        return f"scripts/make_venv.sh ended with status {status}, see {stack.name}.log"
    if stack.family.horovod:  # the installer checks whether an installed Horovod still works
        status = run(["bash", "scripts/install_horovod.sh", "cpu"], log, {"PYTHON": python})
        if status:
            return f"scripts/install_horovod.sh ended with status {status}, see {stack.name}.log"
    return ""


PACKAGES_CODE = """
import importlib.metadata, json, sys
found = {(each.metadata["Name"] or "").lower().replace("_", "-"): each.version
         for each in importlib.metadata.distributions()}
print(json.dumps([sys.version.split()[0], {name: found[name] for name in sys.argv[1:] if name in found}]))
"""


def installed(python):
    names = ("tensorflow", "tensorflow-cpu", "habana-tensorflow", "horovod")
    answer = subprocess.run([python, "-c", PACKAGES_CODE, *names], stdout=subprocess.PIPE, text=True, check=True)
    version, packages = json.loads(answer.stdout)
    tensorflow = packages.pop("tensorflow-cpu", None) or packages.pop("tensorflow", "none")
    return version, tensorflow, ", ".join([tensorflow, *(f"{name} {packages[name]}" for name in sorted(packages))])


# --- Running ---

def run(command, log, more=None) -> int:
    """Runs a command and appends a copy of its output to `log`; returns its exit status."""
    child = subprocess.Popen(command, cwd=str(ROOT), env={**os.environ, **(more or {})}, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for chunk in iter(lambda: os.read(child.stdout.fileno(), 65536), b""):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            log.write(chunk)
            log.flush()
        return child.wait()
    except Stopped:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
        raise


def tests_of(fast, arguments) -> str:
    return " ".join(["fast" if fast else "full", *arguments])


def run_stack(stack, fast, base, folder, arguments) -> Result:
    """Creates the environment and runs the tests there."""
    commit, source = source_state()
    result = Result(stack.name, "FAILED", tests=tests_of(fast, arguments), commit=commit, source=source,
                    date=datetime.date.today().isoformat())
    report = folder / f"{stack.name}.xml"
    if report.exists():
        report.unlink()
    with open(folder / f"{stack.name}.log", "wb") as log:
        wrong = make_environment(stack, base, folder, log)
        if wrong:
            return result._replace(note=wrong)
        python = str(folder / stack.name / "bin" / "python")
        version, tensorflow, packages = installed(python)
        result = result._replace(python=version, packages=packages)
        if tensorflow != stack.family.tensorflow:
            return result._replace(note=f"TensorFlow {tensorflow} was installed instead of {stack.family.tensorflow}")
        start = time.monotonic()
        status = run(["bash", "scripts/test.sh", f"--junitxml={report}", *(FAST if fast else ()), *arguments], log,
                     {"PYTHON": python})
        result = result._replace(minutes=round((time.monotonic() - start) / 60, 1))
    if not report.exists():
        return result._replace(note=f"scripts/test.sh ended with status {status} and wrote no report")
    counts, skips = read_report(report)
    without_horovod = sum(count for reason, count in skips.items() if "horovod" in reason.lower())
    notes = [f"{count} skipped: {reason}" for reason, count in sorted(skips.items())]
    if status and not counts["failed"]:
        notes.insert(0, f"scripts/test.sh ended with status {status}")
    if stack.family.horovod and without_horovod:
        notes.insert(0, f"{without_horovod} skipped because of Horovod, although it is installed")
    good = status == 0 and not (stack.family.horovod and without_horovod)
    return result._replace(state="passed" if good else "FAILED", note="; ".join(notes), **counts)


def read_report(path):
    """Counts of passed, failed and skipped tests, and of the skipped ones by reason."""
    counts, skips = dict(passed=0, failed=0, skipped=0), collections.Counter()
    for case in xml.etree.ElementTree.parse(str(path)).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif skipped is not None:
            counts["skipped"] += 1
            skips[skipped.get("message", "")] += 1
        else:
            counts["passed"] += 1
    return counts, skips


def source_state() -> Tuple[str, str]:
    """The commit, with + if files differ from it, and a checksum of all files that git does not ignore."""
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=str(ROOT), capture_output=True, check=True).stdout
    try:
        commit = git("rev-parse", "--short", "HEAD").decode().strip()
        changed = bool(git("status", "--porcelain"))
        names = sorted(set(git("ls-files", "-z", "-co", "--exclude-standard").split(b"\0")) - {b""})
    except (OSError, subprocess.CalledProcessError):
        return "unknown", ""
    checksum = hashlib.sha256()
    for name in names:
        path = ROOT / os.fsdecode(name)
        checksum.update(name + b"\0" + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return commit + "+" * changed, checksum.hexdigest()


def run_all(plan, pythons, folder, arguments, skip_finished) -> int:
    results, stopped = [], 0
    for stack, fast in plan:
        base, reason = pythons[stack.python]
        finished = finished_result(folder, stack, fast, arguments) if skip_finished else None
        if stopped:
            results.append(Result(stack.name, "NOT RUN", "stopped before it"))
        elif finished:
            print(f"matrix: {stack.name} has already passed on this source tree")
            results.append(finished)
        elif base is None:
            print(f"matrix: {stack.name} NOT RUN: {reason}")
            results.append(Result(stack.name, "NOT RUN", reason))
        else:
            print(f"matrix: {stack.name}, {'fast subset' if fast else 'everything'}, with {base}", flush=True)
            try:
                results.append(run_stack(stack, fast, base, folder, arguments))
            except Stopped as signalled:
                stopped = signalled.args[0]
                results.append(Result(stack.name, "NOT RUN", "stopped while it was running"))
                continue
            files.write_text(str(folder / f"{stack.name}.json"), json.dumps(results[-1]._asdict(), indent=1) + "\n")
    files.write_text(str(folder / "table.md"), markdown(newest_results(folder, results)))
    print(f"\n{as_text(results)}\n\nmatrix: table in Markdown: {folder / 'table.md'}; console output: {folder}/*.log")
    if stopped:
        return 128 + stopped
    return int(any(result.state == "FAILED" for result in results) or
               not any(result.state == "passed" for result in results))


def stored_result(folder, stack) -> Optional[Result]:
    path = folder / f"{stack.name}.json"
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def finished_result(folder, stack, fast, arguments) -> Optional[Result]:
    """The stack's stored result, if it passed with the same tests on the same files."""
    result = stored_result(folder, stack)
    if result and result.state == "passed" and result.tests == tests_of(fast, arguments):
        return result if result.source and result.source == source_state()[1] else None
    return None


def newest_results(folder, results):
    """A row for each stack that has run in this folder, and for those that this call could not run."""
    rows = {result.stack: result for result in results}
    rows.update((stack.name, stored_result(folder, stack)) for stack in STACKS if stored_result(folder, stack))
    return [rows[stack.name] for stack in STACKS if stack.name in rows]


# --- The table ---

HEAD = ("stack", "Python", "TensorFlow", "tests", "result", "passed", "failed", "skipped", "minutes", "commit", "date")


def row(result):
    if result.state == "NOT RUN":
        return (result.stack, "", "", "", "NOT RUN", "", "", "", "", "", "")
    return (result.stack, result.python, result.packages, result.tests, result.state, str(result.passed),
            str(result.failed), str(result.skipped), f"{result.minutes:.1f}", result.commit, result.date)


def markdown(results) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(row(result)) + " |" for result in results]
    return "\n".join(lines + [""] + [f"- {result.stack}: {result.note}" for result in results if result.note]) + "\n"


def as_text(results) -> str:
    rows = [HEAD, *map(row, results)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip() for cells in rows]
    notes = [f"{result.state}: {result.stack}: {result.note}" for result in results if result.note]
    return "\n".join([*lines, "", *notes]).rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
