"""What every training command shares: the training loop, stopping on request, and the state of a run.

`run_updates` is the only training loop. Checkpoints are only written between updates; randomness and data order are
functions of what the state holds (see pretrain_utils), so a resumed run equals an uninterrupted one.
"""
from __future__ import annotations

import os
import signal
from typing import Callable, Dict, Iterable, NamedTuple, Optional, Tuple

import tensorflow as tf
from absl import logging

from configuration import Interrupted, RunFailed
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
    # Starts to write the checkpoint of a step; with True, the last one of the run, waits for it. None: no checkpoints.
    save: Optional[Callable[[int, bool], None]]
    evaluate: Callable[[int], Optional[Dict[str, float]]]  # held-out metrics after a step; None when it was stopped
    not_finite: Callable[[int], str]  # the sentence for an update whose loss or gradient was not finite
    interrupted: Callable[[str, int, bool], str]  # the sentence for a stop: what stopped it, step, anything new


def run_updates(job: Job, train_step: TrainStep, report: Report, stop: StopRequest, workers: Workers
                ) -> Dict[str, float]:
    """The training loop: update, log, save, evaluate, until all updates are done or a stop is requested.

    The first update is logged because it traces and compiles, the second because it gives the pace. Every worker calls
    this with the same cadence.

    Returns: see `report.Speed.rates`; empty where all updates had been done before.
    Raises: Interrupted: stopped on request, after saving. RunFailed: a loss or gradient was not finite, or the last
        checkpoint could not be saved.
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
    step = logged = job.step
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
                    job.save(step, last)
                if job.evaluates_after(step):
                    report.evaluation(step, job.evaluate(step))
        if step < job.num_train_steps:
            if step > logged:
                log(step)
            if step > job.step and job.save:
                job.save(step, True)
            workers.from_chief(None)  # a worker that exits ends the others: not before rank 0 has saved
            raise Interrupted(job.interrupted(stopped_by(stop), step, step > job.step))
    report.summary()
    return report.speed.rates()


# --- The state of a run, as checkpoints hold it ---


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
