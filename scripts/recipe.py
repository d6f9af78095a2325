"""Reads a call of a wrapper in this folder or of data/create_datasets_from_start.sh, and says what to run.

    python scripts/recipe.py WRAPPER START_DIR [ARGUMENT ...]

The wrappers (electra.sh, electra_squad.sh, electra_tasks.sh, finetune_ckpts_on_squad.sh, install_horovod.sh,
benchmark_*.sh) call this before they do anything else. It prints --help, or refuses a call in one sentence with status
2, or checks the call as a whole, both phases of pre-training included, and writes what to run to file descriptor 3:
bash assignments, every value quoted.

The recipes have their options, each written once, in pretraining_recipe.py, squad_recipe.py, tasks_recipe.py,
sweep_recipe.py, datasets_recipe.py and benchmark_recipe.py; those of install_horovod.sh are here. An option that sets a
field of the program's configuration takes meaning, type, choices and bounds from that field, and the default too where
the table states none. On the command line of the program stands what the table states, and what differs from the
program's own default. Only the standard library is needed, and no environment.
"""
from __future__ import annotations

import functools
import os
import shlex
import signal
import sys
import time
from typing import List

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "scripts")]

from benchmark_recipe import benchmark, benchmark_table  # noqa: E402
from datasets_recipe import create_datasets, datasets_table  # noqa: E402
from options import Call, Table, help_text, own  # noqa: E402
from plans import DEVICES, Plan, Variables  # noqa: E402
from pretraining_recipe import electra, electra_table  # noqa: E402
from squad_recipe import electra_squad, squad_table  # noqa: E402
from sweep_recipe import sweep, sweep_table  # noqa: E402
from tasks_recipe import electra_tasks, tasks_table  # noqa: E402

import configuration  # noqa: E402
import files  # noqa: E402
from configuration import UserError  # noqa: E402


def horovod_table() -> Table:
    return Table("""\
usage: bash scripts/install_horovod.sh [cpu|gpu|hpu] [--rebuild]
Builds and installs Horovod into the Python that the wrappers use ($PYTHON, else .venv). That takes some minutes.""", [
        own("device", "cpu", "cpu (over Gloo), gpu (over NCCL) or hpu (habana-horovod, over HCCL and MPI)", DEVICES),
    ], [
        own("rebuild", "false", "rebuild even if a working Horovod is installed"),
    ])


def install_horovod(call: Call) -> Plan:
    return Plan({"device": call["device"], "rebuild": "yes" if call["rebuild"] == "true" else ""}, [], [])


WRAPPERS = {"electra": (electra_table, electra), "create_datasets_from_start": (datasets_table, create_datasets),
            "electra_squad": (squad_table, electra_squad), "electra_tasks": (tasks_table, electra_tasks),
            "finetune_ckpts_on_squad": (sweep_table, sweep), "install_horovod": (horovod_table, install_horovod),
            **{f"benchmark_{task}": (functools.partial(benchmark_table, task), functools.partial(benchmark, task))
               for task in ("pretraining", "squad")}}


def plan(name: str, words: List[str], start_dir: str) -> Plan:
    """What wrapper `name` does for a call. Raises: UserError."""
    table, planner = WRAPPERS[name]
    return planner(Call(f"{name}.sh", table(), words, start_dir))


def bash(variables: Variables) -> str:
    """Assignments of the variables. Whatever a value holds, bash sees it as that text."""
    return "".join(
        f"{name}={shlex.quote(value) if isinstance(value, str) else '(' + ' '.join(map(shlex.quote, value)) + ')'}\n"
        for name, value in variables.items())


def check_places(call: Call, made: Plan):
    """Raises UserError: the run's folder cannot be created or written, or TMPDIR is not a folder that can be."""
    temporary = os.environ.get("TMPDIR") or "/tmp"
    if not (os.path.isdir(temporary) and os.access(temporary, os.W_OK)):
        raise UserError(f"TMPDIR={temporary} is not a folder that can be written: set it to one that is, or unset it.")
    os.chdir(call.work_dir)
    with call.own_words():
        for folder in (made.folder, *(config.logs for config in made.configs[:1] if made.flag == "results_dir")):
            configuration.check_folder(folder or ".", made.flag)


def clear_the_way(call: Call, made: Plan):
    """Removes the temporary folders of wrappers that were killed. Raises: UserError: the run's folder is in use."""
    files.remove_junk(os.environ.get("TMPDIR") or "/tmp")
    if made.folder and os.path.exists(os.path.join(made.folder, ".lock")):
        with call.own_words(), made.configs[0].sole_user():
            pass


def main(argv: List[str]) -> int:
    name, start_dir, *words = argv[1:]
    table, planner = WRAPPERS[name]
    if "--help" in words or "-h" in words:
        print(help_text(table()))
        os.write(3, b"exit 0\n")
        return 0
    rank, who = 0, f"{name}.sh"
    try:
        call = Call(who, table(), words, start_dir)
        rank = call.rank
        made = planner(call)
        if made.folder and not rank:
            check_places(call, made)
        if not call.dry_run and not rank:
            clear_the_way(call, made)
    except UserError as error:
        if rank:  # what the wrappers of all workers find is reported by that of rank 0, whose end ends the others
            time.sleep(3)
            who += f" (worker {rank})"
        print(f"{who}: {configuration.on_one_line(str(error))}", file=sys.stderr)
        return error.exit_status
    for note in made.notes if not rank else ():
        print(f"{who}: {note}")
    sys.stdout.flush()
    common = {"host": files.HOST, "process_space": files.process_space(), "rank": str(rank),
              "dry_run": "yes" if call.dry_run else "", "work_dir": call.work_dir}
    code = bash({**common, **made.variables})
    os.write(3, os.fsencode(code))
    return 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
    try:
        status = main(sys.argv)
        sys.stdout.flush()
    except OSError as error:  # standard output: a full disk, or closed
        print(f"{sys.argv[1]}.sh: the output could not be written ({error.strerror}).", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")
        status = 1
    sys.exit(status)
