"""What every training command shares: the training loop, stopping on request, and the state of a run.

`run_updates` is the only training loop. Checkpoints are only written between updates; randomness and data order are
functions of what the state holds (see pretrain_utils), so a resumed run equals an uninterrupted one.
"""
from __future__ import annotations

import os
import signal
import time
from typing import Callable, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

import tensorflow as tf
from absl import logging

from configuration import Interrupted, RunFailed, UserError
from optimization import TrainStep
from run_log import RunLog
from workers import Workers

# --- Stopping on request ---


class StopRequest:
    """Turns signals into requests that the training loop looks at between two micro-batches. A context manager.

    SIGINT and SIGTERM: save and stop. SIGUSR1, which Slurm can send before the time limit: save and continue. Before
    `begin` there is nothing to lose, and SIGINT and SIGTERM end the command at once. Repeated signals are one request:
    Ctrl-C reaches a process both from the terminal and from the wrapper.
    """

    def __init__(self):
        self.signal_name: Optional[str] = None
        self.save_requested = False  # reset by the loop
        self._begun = False

    def __enter__(self):
        handlers = {signal.SIGINT: self._note, signal.SIGTERM: self._note, signal.SIGUSR1: self._note_save}
        self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def begin(self):
        """From now on a signal is a request. The loop calls this before every update."""
        self._begun = True

    def _note(self, number, frame):
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            if not self._begun:
                raise Interrupted(f"stopped by {self.signal_name} before the first update: run the same command again.")

    def _note_save(self, number, frame):
        self.save_requested = True


def stopped_by(stop) -> str:
    """What stopped the loop: a signal to this worker or to another."""
    return stop.signal_name or "a signal to another worker"


class Ended(Exception):
    """Raised on every worker between two micro-batches of an update, which is then dropped.

    `error` is what to end the run with; None after a stop request.
    """

    def __init__(self, error: Optional[Exception] = None):
        super().__init__(error)
        self.error = error


class Agreement:
    """What the workers agree on while an update runs: to stop, to end after an error, to save after the update.

    All workers ask at the same micro-batches: after every `_interval`, and after the last one was read, so that no
    worker waits in the all-reduce for one that could not read its data. The interval follows the time since the last
    time they asked, summed over the workers, so that they ask about once a second.

    Args:
        save_minutes: minutes after which rank 0 requests a checkpoint; 0: it does not.
    """

    ASK_EVERY_MS = 1000
    MAX_INTERVAL = 64  # on an accelerator the host is ahead of the device, and the time says little

    def __init__(self, stop: StopRequest, workers: Workers, save_minutes: float = 0.0):
        self.stop, self.workers, self.save_minutes = stop, workers, save_minutes
        self._interval, self._since = 1, 0  # micro-batches
        self._asked = self._saved = time.monotonic()
        self._save = False

    def during(self, micro_batches: Iterable[Tuple], count: int) -> Iterator[Tuple]:
        """Yields the `count` micro-batches of an update. Raises: Ended."""
        micro_batches, error = iter(micro_batches), None
        for number in range(1, count + 1):
            if error is None:
                try:
                    micro_batch = next(micro_batches)
                except Exception as caught:  # whatever keeps this worker from reading, the others must learn of it
                    error = caught
            self._since += 1
            if self.workers.size == 1 or self._since >= self._interval or number == count:
                self._ask(error)
            if error is None:
                yield micro_batch

    def _ask(self, error: Optional[Exception]):
        now = time.monotonic()
        due = self.save_minutes and self.workers.is_chief and now - self._saved >= 60 * self.save_minutes
        requests = [bool(self.stop.signal_name), error is not None, bool(self.stop.save_requested or due),
                    min(int(1000 * (now - self._asked)), 100_000)]
        self.stop.save_requested = False
        stops, errors, saves, milliseconds = self.workers.sum([int(request) for request in requests])
        if errors:
            raise Ended(self._shared(error))
        if stops:
            raise Ended()
        self._save |= saves > 0
        wanted = self.ASK_EVERY_MS * self.workers.size * self._since // max(1, milliseconds)
        self._interval = min(max(1, wanted), 2 * self._interval, self.MAX_INTERVAL)
        self._since, self._asked = 0, time.monotonic()

    def _shared(self, error: Optional[Exception]) -> Exception:
        """This worker's error, or that of another: rank 0 reports it."""
        found = self.workers.gather(error and (isinstance(error, UserError), str(error) or type(error).__name__))
        rank, (is_users, text) = next((rank, entry) for rank, entry in enumerate(found) if entry)
        return error or (UserError if is_users else RunFailed)(f"worker {rank}: {text}")

    def save_requested(self) -> bool:
        """Whether a checkpoint was requested during this update, by SIGUSR1 or by rank 0's clock."""
        return self._save

    def saved(self):
        self._save, self._saved = False, time.monotonic()


# --- The training loop ---


class Job(NamedTuple):
    """What a command gives to the training loop. A step is one update; steps are numbered from 1."""

    step: int  # updates done before
    num_train_steps: int
    micro_batches: Callable[[int], Iterable[Tuple]]  # step -> its pairs (features, seeds) of tensors
    log_every: int  # updates
    save_minutes: float  # minutes between two checkpoints, beside `saves_after`; 0: none
    saves_after: Callable[[int], bool]  # step -> whether a checkpoint is due; asked after the update
    evaluates_after: Callable[[int], bool]  # the same for a held-out evaluation
    # Starts to write the checkpoint of a step; with True, the last one of the run, waits for it. None: no checkpoints.
    # The step is that of the variables, which may be earlier than the last one whose micro-batches were read.
    save: Optional[Callable[[int, bool], None]]
    evaluate: Callable[[int], Optional[Dict[str, float]]]  # held-out metrics after a step; None when it was stopped
    bad_update: Callable[[int], str]  # what identifies the update of a step in a message, such as its seeds
    not_finite: Callable[[int], str]  # the sentence for an update whose loss or gradient was not finite
    interrupted: Callable[[str, int, bool], str]  # the sentence for a stop: what stopped it, step, anything new
    # Early stopping: whether to end the run, asked on every worker after an evaluation and before the first update.
    ends_early: Callable[[], bool] = lambda: False


class Progress:
    """What of a run has been logged, saved and evaluated. Every worker calls the methods alike."""

    def __init__(self, job: Job, train_step: TrainStep, run_log: RunLog, workers: Workers):
        self.job, self.train_step, self.run_log, self.workers = job, train_step, run_log, workers
        self.logged = self.saved = job.step
        self._skips = len(train_step.skipped())

    def log(self):
        """Logs the updates since the last call.

        Raises: RunFailed: a loss or gradient was not finite, after the last good update has been saved.
        """
        sums, step = self.train_step.read_metrics(), self.train_step.step_done()
        skipped = self.train_step.skipped()
        for count, skip in enumerate(skipped[self._skips:], self._skips + 1):
            self.run_log.skipped(skip, count, f"the loss or its gradient is not finite at {self.job.bad_update(skip)}: "
                                f"skipped, as number {count} of --skip_bad_updates={self.train_step.skip_budget}")
        self._skips = len(skipped)
        if step > self.logged:
            self.run_log.training(step, sums)
            self.logged = step
        if sums["bad_step"]:
            self.rescue()
            self.workers.from_chief(None)
            raise RunFailed(self.job.not_finite(sums["bad_step"]))

    def save(self, last: bool = False):
        """Saves the last update that was done. `last`: nothing follows, so it waits until the checkpoint is written.

        Raises: RunFailed: the last checkpoint could not be saved.
        """
        step = self.train_step.step_done()
        if step > (self.job.step if last else self.saved) and self.job.save:
            self.saved = step
            self.job.save(step, last)

    def rescue(self):
        """Saves after an error that is the one to report, and that only this worker may have had."""
        try:
            self.save(last=True)
        except Exception as error:
            logging.warning("warning: the last update could not be saved either (%s).", error)

    def evaluate(self, step: int) -> bool:
        """Evaluates and logs; whether that was completed."""
        metrics = self.job.evaluate(step)
        self.run_log.evaluation(step, metrics)
        return self.workers.from_chief(metrics is not None)

    def evaluation_is_missing(self) -> bool:
        """Whether the run was interrupted between the checkpoint that it resumes from and the evaluation after it."""
        due = self.job.step > 0 and self.job.evaluates_after(self.job.step)
        return self.workers.from_chief(due and not self.run_log.was_evaluated(self.job.step)) if due else False


def run_updates(job: Job, train_step: TrainStep, run_log: RunLog, stop: StopRequest, workers: Workers
                ) -> Dict[str, float]:
    """The training loop: update, log, save, evaluate, until all updates are done, or a stop is requested or early.

    The first update is logged because it traces and compiles, the second because it gives the pace. Every worker calls
    this with the same cadence. Whatever ends the loop early, the last update that was done is saved before.

    Returns: see `run_log.Speed.average`; empty where all updates had been done before.
    Raises: Interrupted: stopped on request, after saving. RunFailed: a loss or gradient was not finite, or the last
        checkpoint could not be saved. What reading the data raises.
    """
    progress = Progress(job, train_step, run_log, workers)
    complete = not progress.evaluation_is_missing() or progress.evaluate(job.step)
    if job.step >= job.num_train_steps or job.step and job.ends_early():
        if not complete:
            raise Interrupted(job.interrupted(stopped_by(stop), job.step, False))
        run_log.redraw()
        logging.info("%s has finished its %d updates already: nothing to train.", run_log.name, job.step)
        return {}
    agreement = Agreement(stop, workers, job.save_minutes)
    with run_log:
        try:
            for step in range(job.step + 1, job.num_train_steps + 1):
                stop.begin()
                with run_log.profile.of(step, wait=train_step.step_done), run_log.histograms.of(step, train_step):
                    train_step(agreement.during(job.micro_batches(step), train_step.accumulation_steps))
                save_due = step == job.num_train_steps or agreement.save_requested() or job.saves_after(step)
                evaluation_due = job.evaluates_after(step)
                if step <= job.step + 2 or step % job.log_every == 0 or save_due or evaluation_due:
                    progress.log()
                run_log.advance()
                with run_log.speed.excluded():
                    if save_due:
                        progress.save(last=step == job.num_train_steps)
                        agreement.saved()
                    if evaluation_due:
                        complete = progress.evaluate(step)
                        if complete and job.ends_early():
                            progress.save(last=True)
                            break
        except Ended as ended:
            if train_step.step_done() > progress.logged:
                progress.log()
            if ended.error:
                progress.rescue()
            else:
                progress.save(last=True)
            workers.from_chief(None)  # a worker that exits ends the others: not before rank 0 has saved
            if ended.error:
                raise ended.error from ended.error.__cause__
            step = train_step.step_done()
            raise Interrupted(job.interrupted(stopped_by(stop), step, step > job.step)) from None
        except RunFailed:  # the last update is saved, or could not be
            raise
        except Exception:
            progress.rescue()
            raise
    if not complete:
        raise Interrupted(job.interrupted(stopped_by(stop), job.num_train_steps, True))
    run_log.summary(step)
    return run_log.speed.average()


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
