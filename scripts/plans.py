"""What the plans of all recipes share: their form, the options about workers, restarts and estimates, and the checks.

A plan is what a call of a wrapper runs, as bash variables. Only the standard library is used.
"""
from __future__ import annotations

import os
import re
from typing import Dict, List, NamedTuple, Union

import launcher
from options import Call, exists, flag, own

import configuration
from configuration import DeviceOptions, UserError
from pretraining_options import EstimateConfig

WORKERS = dict(meaning="number of workers, one device each; 0 and 1 both mean one (alias: --num_hpu)", alias="num_hpu")
HOSTFILE = own("hostfile", "", "hosts of the workers, in lines like 'host1 slots=8' (default: this machine)",
               path="input")
ENV = own("env", "interactive", "interactive or cluster (a scheduler starts the wrapper for each worker)",
          ("interactive", "cluster"))
MAX_RESTARTS = own("max_restarts", "0", "maximum number of automatic restarts after a crash, each from the newest "
                   "checkpoint and after a longer pause")
MIN_WORKERS = own("min_workers", "", "with max_restarts and hostfile: leave out hosts that no longer answer, as long "
                  "as this many workers remain (default: all hosts are needed)")
DRY_RUN = own("dry_run", "false", "print the commands and run nothing")
ESTIMATE = [
    own("estimate", "false", "train nothing; print how long this call would take on 1, 8 and 64 workers, its memory, "
        "disk, tokens and epochs"),
    *(flag(EstimateConfig, name) for name in ("sequences_per_second", "timed_updates", "network_gbits")),
    flag(EstimateConfig, "estimate_file", path="output")]
Variables = Dict[str, Union[str, List[str]]]  # of bash: texts and arrays


class Plan(NamedTuple):
    """What a wrapper does."""

    variables: Variables
    notes: List[str]  # what it says first
    configs: list  # of the programs that it runs
    folder: str = ""  # of the run, used by one process at a time
    flag: str = ""  # the program's option that names its place


DEVICES = DeviceOptions.__dataclass_fields__["device"].metadata["choices"]
DEVICE_FILES = {
    "gpu": ("NVIDIA GPU", ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"]),
    "hpu": ("Gaudi card", ["/sys/class/habanalabs", "/sys/class/accel/accel[0-9]*", "/dev/accel/accel[0-9]*",
                           "/dev/hl[0-9]*"])}


def workers(call: Call, config: DeviceOptions) -> Variables:
    """The variables about device and workers. Raises: UserError: they contradict each other, or are not there."""
    hostfile = os.path.join(call.start_dir, os.path.expanduser(call["hostfile"])) if call["hostfile"] else ""
    launcher.check(config.num_workers, hostfile, call.cluster, call.dry_run, call.wrapper)
    made = estimate(call)
    needs_device = not (made and call["sequences_per_second"])
    if needs_device:
        check_device(call, config.device)
    if made:  # one process
        return {"device": config.device if needs_device else "cpu", "num_workers": "1", "hostfile": "", "cluster": "",
                "estimate": made, "checkpoints": config.checkpoint_dir}
    return {"device": config.device, "num_workers": str(config.num_workers), "hostfile": hostfile, "estimate": [],
            "cluster": "yes" if call.cluster else "", "max_restarts": str(max_restarts(call)),
            "min_workers": min_workers(call, config.num_workers, hostfile), "checkpoints": config.checkpoint_dir}


def estimate(call: Call) -> List[str]:
    """The command of --estimate, without those that it is about; empty without the option.

    Raises: UserError: an option of an estimate without --estimate, or several processes.
    """
    if ESTIMATE[0] not in call.table.options:
        return []
    given = [entry.name for entry in ESTIMATE[1:] if entry.name in call.given]
    if call["estimate"] == "false":
        if given:
            raise UserError(f"--{given[0]} is for an estimate: add --estimate, or omit it.")
        return []
    if call.cluster:
        raise UserError("--estimate is for one process: omit --env=cluster, and do not use srun or mpirun.")
    flags = call.flags(EstimateConfig)
    return call.command("estimate.py", flags, configuration.from_words(EstimateConfig, flags))


def check_device(call: Call, device: str):
    """Raises UserError: there is no such device on this machine."""
    kind, places = DEVICE_FILES.get(device, ("", ["/"]))
    if not call.dry_run and not any(map(exists, places)):
        raise UserError(f"no {kind} is visible on this machine (or in this container): use the CPU with "
                        f"'bash scripts/{call.wrapper} cpu'.")


def max_restarts(call: Call) -> int:
    """Raises: UserError: not a number, or the scheduler is the one to restart."""
    if not re.fullmatch("[0-9]{1,6}", call["max_restarts"]):
        raise UserError(f"--max_restarts={call['max_restarts']} must be an integer, such as 3.")
    if call.cluster and int(call["max_restarts"]):
        raise UserError("--max_restarts cannot be combined with --env=cluster, where the scheduler starts the workers: "
                        "have it requeue the job, with --resume_training=auto.")
    return int(call["max_restarts"])


def min_workers(call: Call, num_workers: int, hostfile: str) -> str:
    """Raises: UserError: not a number from 2 to that of the workers, or without the options that it belongs to."""
    text = call["min_workers"]
    if text and not (hostfile and int(call["max_restarts"])):
        raise UserError("--min_workers is for restarts on other hosts: give --hostfile and --max_restarts too.")
    if text and not (re.fullmatch("[0-9]{1,6}", text) and 2 <= int(text) <= num_workers):
        raise UserError(f"--min_workers={text} must be an integer from 2 to --num_workers={num_workers}.")
    return text


def building(steps: Dict[str, List[str]]) -> Variables:
    """Folders that are built if they are missing as `built_folders`, and the commands that do so as `build_0`, ..."""
    return {"built_folders": list(steps), **{f"build_{i}": command for i, command in enumerate(steps.values())}}
