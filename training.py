"""What every training command shares: the training loop, checkpoints, and stopping on request.

`run_updates` is the only training loop. A checkpoint holds the model, the optimizer and a JSON state (step, phase, data
position, configuration) under one prefix. It is written under a temporary name, read back, and renamed, `.index` last,
so that a file named `ckpt-*.index` is a complete checkpoint. Checkpoints are only written between updates; randomness
and data order are functions of what the state holds (see pretrain_utils), so a resumed run equals an uninterrupted one.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

import tensorflow as tf
from absl import logging

from configuration import Interrupted, RunFailed, UserError
from optimization import TrainStep
from report import Report
from workers import Workers

# --- Stopping on request ---


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that the loop honours between two updates. A context manager.

    Before `begin` there is nothing to lose, and a signal ends the command at once. Repeated signals are one request:
    Ctrl-C reaches a process both from the terminal and from the wrapper.
    """

    def __init__(self):
        self.signal_name: Optional[str] = None
        self._begun = False

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def begin(self):
        """From now on a signal is a request."""
        self._begun = True

    def _note(self, number, frame):
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            if not self._begun:
                raise Interrupted(f"stopped by {self.signal_name} before the first update: run the same command again.")


def stopped_by(stop) -> str:
    """What stopped the loop: a signal to this worker or to another."""
    return stop.signal_name or "a signal to another worker"


# --- The training loop ---


class Job(NamedTuple):
    """What a command gives to the training loop. A step is one update; steps are numbered from 1."""

    step: int  # updates done before
    num_train_steps: int
    micro_batches: Callable[[int], Iterable[Tuple]]  # step -> its pairs (features, seeds) of tensors
    log_every: int  # updates
    saves_after: Callable[[int], bool]  # step -> whether a checkpoint is due; asked after the update
    evaluates_after: Callable[[int], bool]  # the same for a held-out evaluation
    save: Optional[Callable[[int], None]]  # writes the checkpoint of a step; None: no checkpoints
    evaluate: Callable[[], Optional[Dict[str, float]]]  # held-out metrics; None when it was stopped
    not_finite: Callable[[int], str]  # the sentence for an update whose loss or gradient was not finite
    interrupted: Callable[[str, int, bool], str]  # the sentence for a stop: what stopped it, step, anything new


def run_updates(job: Job, train_step: TrainStep, report: Report, stop: StopRequest, workers: Workers
                ) -> Dict[str, float]:
    """The training loop: update, log, save, evaluate, until all updates are done or a stop is requested.

    The first update is logged because it traces and compiles, the second because it gives the pace. Every worker calls
    this with the same cadence.

    Returns: see `report.Speed.rates`; empty where all updates had been done before.
    Raises: Interrupted: stopped on request, after saving. RunFailed: a loss or gradient was not finite.
    """
    if job.step >= job.num_train_steps:
        logging.info("%s has finished its %d updates already: nothing to train.", report.name, job.step)
        return {}

    def log(step: int):
        sums = train_step.read_metrics()
        if sums["bad_step"]:
            raise RunFailed(job.not_finite(sums["bad_step"]))
        report.training(step, sums)

    stop.begin()
    step = logged = saved = job.step
    with report:
        while step < job.num_train_steps and not workers.any(bool(stop.signal_name)):
            step += 1
            train_step(job.micro_batches(step))
            last = step == job.num_train_steps
            save_due = last or job.saves_after(step)
            if step <= job.step + 2 or step % job.log_every == 0 or save_due:
                log(step)
                logged = step
            report.advance()
            with report.speed.excluded():
                if save_due and job.save:
                    job.save(step)
                    saved = step
                if job.evaluates_after(step):
                    report.evaluation(step, job.evaluate())
        if step < job.num_train_steps:
            if step > logged:
                log(step)
            if step > saved and job.save:
                job.save(step)
            workers.from_chief(None)  # a worker that exits ends the others: not before rank 0 has saved
            raise Interrupted(job.interrupted(stopped_by(stop), step, step > job.step))
    report.summary()
    return report.speed.rates()


# --- Checkpoints ---


class Checkpoint(NamedTuple):
    phase: int
    step: int
    prefix: str


class Checkpoints:
    """The checkpoints of one run: `ckpt-<step>` of phase 1 and `ckpt-p2-<step>` of phase 2, in one folder.

    Args:
        folder: created by the first save.
        keep: newest checkpoints kept, of each phase.
        flag: the option that names the folder in the user's command.
    """

    def __init__(self, folder: str, keep: int = 5, flag: str = "results_dir"):
        self.folder = folder
        self.keep = keep
        self.flag = flag

    def list(self, phase: Optional[int] = None) -> List[Checkpoint]:
        """Complete checkpoints, oldest first (phase 1 before phase 2, by step)."""
        found = []
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            match = re.fullmatch(r"ckpt-(p2-)?(\d+)\.index", name)
            if match and phase in (None, 2 if match[1] else 1):
                found.append(Checkpoint(2 if match[1] else 1, int(match[2]),
                                        os.path.join(self.folder, name[:-len(".index")])))
        return sorted(found)

    def check_disk(self, model: tf.Module):
        """Raises UserError where the disk has no room for `keep` checkpoints and the one being written."""
        os.makedirs(self.folder, exist_ok=True)
        size = 3 * sum(variable.shape.num_elements() * variable.dtype.size for variable in model.trainable_variables)
        needed = size * max(1, self.keep + 1 - len(self.list()))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(f"{self.folder} has {free / 1e9:.1f} GB free, the checkpoints need {needed / 1e9:.1f} GB: "
                            f"free some space, lower --keep_checkpoint_max, or choose another --{self.flag}.")

    def save(self, phase: int, step: int, model: tf.Module, optimizer: tf.Module, state: dict) -> str:
        """Writes one checkpoint and removes the oldest beyond `keep`. Returns its prefix."""
        os.makedirs(self.folder, exist_ok=True)
        name = f"ckpt-{'p2-' if phase == 2 else ''}{step}"
        temporary = os.path.join(self.folder, f".writing-{name}", name)
        shutil.rmtree(os.path.dirname(temporary), ignore_errors=True)
        os.makedirs(os.path.dirname(temporary))
        with tf.device("CPU"):
            text = tf.Variable(json.dumps({**state, "phase": phase, "step": step}), trainable=False)
        tf.train.Checkpoint(model=model, optimizer=optimizer, state=text).write(temporary)
        read_back(temporary)
        prefix = os.path.join(self.folder, name)
        for file in sorted(os.listdir(os.path.dirname(temporary)), key=lambda file: file.endswith(".index")):
            os.replace(os.path.join(os.path.dirname(temporary), file), os.path.join(self.folder, file))
        os.rmdir(os.path.dirname(temporary))
        for old in self.list(phase)[:-self.keep]:
            remove_checkpoint(old.prefix)
        return prefix

    def newest(self, phase: int) -> Optional[Checkpoint]:
        """The newest checkpoint that can be read; damaged ones are passed over with a warning."""
        for checkpoint in reversed(self.list(phase)):
            try:
                read_back(checkpoint.prefix)
                return checkpoint
            except UnreadableCheckpoint as error:
                logging.warning("checkpoint %s is damaged (%s); trying the one before it.", checkpoint.prefix, error)
        return None

    def clear(self, phase: Optional[int] = None):
        """Removes every checkpoint (of one phase), and what an interrupted save left."""
        for checkpoint in self.list(phase):
            remove_checkpoint(checkpoint.prefix)
        self.clean()

    def clean(self):
        """Removes what an interrupted save left: half a checkpoint under its temporary name, data without index."""
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            path = os.path.join(self.folder, name)
            if name.startswith(".writing-ckpt-"):
                shutil.rmtree(path)
            match = re.fullmatch(r"(ckpt-(?:p2-)?\d+)\.data-\d+-of-\d+", name)
            if match and not os.path.exists(os.path.join(self.folder, match[1] + ".index")):
                os.remove(path)


def remove_checkpoint(prefix: str):
    """Removes the index first, so that what an interruption leaves is not taken for a checkpoint."""
    folder, name = os.path.split(prefix)
    os.remove(prefix + ".index")
    for file in os.listdir(folder):
        if file.startswith(name + ".data-"):
            os.remove(os.path.join(folder, file))


class UnreadableCheckpoint(Exception):
    """Missing, damaged or incomplete."""


STATE_KEY = "state/.ATTRIBUTES/VARIABLE_VALUE"
_DAMAGE = (tf.errors.OpError, IndexError, RuntimeError, ValueError)  # raised by TensorFlow, depending on the damage


def in_short(error: Exception) -> str:
    return str(getattr(error, "message", error)).splitlines()[0]


def unreadable(prefix: str, error: Exception) -> UserError:
    return UserError(f"checkpoint {prefix} cannot be read ({in_short(error)}): give the prefix of a complete one, such "
                     "as .../checkpoints/ckpt-1000.")


def find_checkpoint(name: str) -> Optional[str]:
    """The checkpoint prefix that `name` stands for, or None where there is no checkpoint.

    Args:
        name: a prefix, its `.index` file, a folder of checkpoints, or the folder of a run: of a folder the newest
            checkpoint of phase 2, else of phase 1.
    Raises: UserError: the folder has checkpoints, and none of them can be read.
    """
    for prefix in (name, name[:-len(".index")] if name.endswith(".index") else name):
        if os.path.exists(prefix + ".index"):
            return prefix
    for folder in (name, os.path.join(name, "checkpoints")):
        checkpoints = Checkpoints(folder)
        if checkpoints.list():
            newest = checkpoints.newest(2) or checkpoints.newest(1)
            if newest is None:
                raise UserError(f"none of the checkpoints in {folder} can be read: choose another.")
            return newest.prefix
    return None


def read_back(prefix: str):
    """Reads every tensor, which checks its checksum. Raises: UnreadableCheckpoint."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except _DAMAGE as error:
        raise UnreadableCheckpoint(in_short(error)) from error


def read_state(prefix: str) -> dict:
    """The JSON state of a checkpoint. Raises: UserError: there is none at `prefix`, or another program wrote it."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        text = reader.get_tensor(STATE_KEY) if reader.has_tensor(STATE_KEY) else None
    except _DAMAGE as error:
        raise unreadable(prefix, error) from error
    if text is None:
        raise UserError(f"checkpoint {prefix} was not written by this project: give one that run_pretraining.py or "
                        "run_tf_squad.py wrote.")
    return json.loads(text)


def restore(prefix: str, model: tf.Module, optimizer: Optional[tf.Module] = None) -> dict:
    """Restores the model, and the optimizer where given, from a checkpoint; every variable must be found in it.

    Returns: the checkpoint's state.
    Raises: UserError: the checkpoint is damaged, or a variable is missing, has another shape, or is left over.
    """
    state = read_state(prefix)
    saved = [name for name in tf.train.load_checkpoint(prefix).get_variable_to_shape_map() if name.startswith("model/")]
    parts = {"model": model} if optimizer is None else {"model": model, "optimizer": optimizer}
    try:
        status = tf.train.Checkpoint(**parts).read(prefix).expect_partial()  # the state, and perhaps the optimizer
        status.assert_existing_objects_matched()
    except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError) as error:
        raise unreadable(prefix, error) from error
    except (ValueError, AssertionError, tf.errors.InvalidArgumentError) as error:
        tf.get_logger().setLevel("ERROR")  # or each variable not restored gets a line after our sentence
        raise UserError(f"checkpoint {prefix} does not fit this model ({in_short(error)}): give one of the "
                        "same size and settings.") from error
    if len(saved) != len(model.variables):
        raise UserError(f"checkpoint {prefix} does not fit this model (it holds {len(saved)} variables, the model has "
                        f"{len(model.variables)}): give one of the same size and settings.")
    return state


# --- What a checkpoint says of its run ---


def environment() -> dict:
    """What bit-identical resumption depends on beside the checkpoint: TensorFlow, processor and thread counts."""
    processor = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    return {"tensorflow": tf.__version__, "processor": processor, "cores": os.cpu_count(),
            "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads()}


def run_state(config: dict, model: tf.Module, tokenizer_fingerprint: str, device_kind: str, workers: Workers) -> dict:
    """The part of a checkpoint's state that every command writes, read by `weights.open_checkpoint`."""
    return {"config": config, "encoder": model.config.to_dict(), "tokenizer_fingerprint": tokenizer_fingerprint,
            "world_size": workers.size, "environment": environment(), "device": device_kind}


def log_differences(state: dict, workers: Workers, update_size: int, unit: str):
    """Logs what differs from the run that wrote a checkpoint and keeps a resumed run from being the same.

    Args:
        update_size: sequences of an update from now on.
        unit: what the data consists of: `record` or `question`.
    """
    if state["environment"] != environment():
        logging.info("note: this machine or TensorFlow differs from the checkpoint's: results agree only to rounding.")
    if state["world_size"] != workers.size:
        logging.info("note: %d workers wrote the checkpoint and %d resume: an update is %d sequences now; every %s of "
                     "the epoch is still seen once.", state["world_size"], workers.size, update_size, unit)
