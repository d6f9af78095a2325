"""The log of a training run: console lines, progress bar, JSON lines, TensorBoard events, curves, speed.

A command describes its metrics in one table (`Metric`) and gets from `RunLog` everything that people look at. Log lines
go through `absl.logging`, which `start_logging` sends to the console and to a file.
"""
from __future__ import annotations

import collections
import contextlib
import glob
import json
import logging as python_logging
import os
import sys
import tempfile
import time
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from absl import logging
from tqdm import tqdm

import console
import files
import flops
import run_folder
import trackers
from configuration import Interrupted, UserError, in_short
from curves import Curves, Metric, plot_curves
from deferred import tensorflow as tf

# --- Log lines ---


class _ConsoleHandler(python_logging.Handler):
    """Writes lines, the short ones where there are some, without tearing the progress bar.

    What the console's encoding does not have is escaped. A console that cannot be written is given up: without a word
    where the reader of the output (`| head`) is gone, else with a warning on standard error.
    """

    def emit(self, record):
        if sys.stdout is None:  # closed
            return
        text = getattr(record, "console", None) or self.format(record)
        encoding = sys.stdout.encoding or "utf-8"
        try:
            tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            _silence(sys.stdout)
            if not isinstance(error, BrokenPipeError):
                _warn(f"warning: standard output cannot be written ({in_short(error)}): the run continues, and its log "
                      "file has all lines.")


def _silence(stream):
    """Sends what is still in a stream that cannot be written, and all that follows, to nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _warn(text: str):
    """Warns on standard error, for what cannot be logged."""
    if sys.stderr is not None:
        try:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()
        except OSError:
            _silence(sys.stderr)


class _LogFile(python_logging.FileHandler):
    """A log file that warns once when it cannot be written; what it could not write stays in its buffer.

    It is UTF-8; what that does not have, such as the bytes of a path in another encoding, is escaped.
    """

    warned = False

    def _open(self):
        return open(self.baseFilename, self.mode, encoding="utf-8", errors="backslashreplace")

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.warned:
            self.warned = True
            _warn(f"warning: {self.baseFilename} cannot be written ({in_short(error)}): the run continues.")


def start_logging(log_dir: str, name: str, suffix: str = "log", on_console: bool = True):
    """Sends `absl.logging` to the console and, with time stamps, to `<log_dir>/<name>.<suffix>`.

    Raises: UserError: the folder or file cannot be written.
    """
    try:
        os.makedirs(log_dir, exist_ok=True)
        file = _LogFile(os.path.join(log_dir, f"{name}.{suffix}"))
    except OSError as error:
        raise UserError(f"{log_dir} cannot be written ({error.strerror}): choose another folder.") from error
    console = _ConsoleHandler()
    console.setFormatter(python_logging.Formatter("%(message)s"))
    file.setFormatter(python_logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.get_absl_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = False
    if on_console:
        logger.addHandler(console)
    logger.addHandler(file)
    logging.set_verbosity(logging.INFO)


def check_writable(folder: str, flag: str):
    """Creates a folder, and refuses one that cannot be written before anything is computed. Raises: UserError."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): change its permissions, or choose another "
                        f"--{flag}.") from error


# --- Metrics ---


def format_metrics(metrics: Dict[str, float], table: Sequence[Metric], short: bool = False) -> str:
    """Those of the table's metrics that are there, in its order; `short`, those that the console shows."""
    there = [metric for metric in table if metric.name in metrics]
    if short:
        return "  ".join(metric.console.format_map(metrics) for metric in there if metric.console)
    return "  ".join(metric.text.format(metrics[metric.name]) for metric in there)


def log_metrics(before: str, metrics: Dict[str, float], table: Sequence[Metric], after: str = ""):
    """Logs a line with all metrics; on the console it is under 120 columns."""
    full, short = (f"{before}{format_metrics(metrics, table, short)}{after}" for short in (False, True))
    logging.info("%s", full, extra={"console": short})


class MetricsLog:
    """One JSON object per logged step, the same numbers for TensorBoard, and the points of the curves.

    A file that cannot be written later on, for example on a full disk, is warned about once and does not end the run:
    JSON lines wait in memory until they can be written.

    Args:
        path: the JSON-lines file; on resuming, lines beyond `step` are dropped, since those steps are run again.
        tensorboard_dir: folder of event files.
        step: updates done before; 0: both are those of an earlier run and are emptied.
        table: the metrics, of which those with a panel have curves.
    Raises: UserError: the files cannot be written.
    """

    MAX_WAITING = 10_000  # lines

    def __init__(self, path: str, tensorboard_dir: str, step: int = 0, table: Sequence[Metric] = ()):
        self.path, self.curves = path, Curves(table)
        self.last_evaluation = 0  # the step of the last evaluation in the log
        self._waiting: List[str] = []
        self._warned: Set[str] = set()
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            with files.replacing(path) as temporary:
                with open(temporary, "w", encoding="utf-8") as file:
                    for line, entry in log_lines(path) if step else ():
                        if entry["step"] <= step:
                            file.write(line)
                            self._note(entry)
            self._size = os.path.getsize(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another file with "
                            "--json_summary.") from error
        try:
            _restart_tensorboard(tensorboard_dir, step)
            self.writer = tf.summary.create_file_writer(tensorboard_dir)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"{tensorboard_dir} cannot be written ({in_short(error)}): change its permissions, or "
                            "choose another folder.") from error

    def _note(self, entry: dict):
        self.curves.add(entry)
        if entry["kind"] == "eval":
            self.last_evaluation = entry["step"]

    def write(self, step: int, kind: str, metrics: Dict[str, float]):
        """`kind` is `train`, `eval` or `skipped`."""
        entry = {"step": step, "kind": kind, **metrics}
        self._note(entry)
        self._waiting = [*self._waiting[1 - self.MAX_WAITING:], json.dumps(entry) + "\n"]
        with self.surviving(self.path):
            with open(self.path, "ab") as file:
                file.truncate(min(file.tell(), self._size))  # without half a line of a write that failed
                file.write("".join(self._waiting).encode())
            self._size = os.path.getsize(self.path)
            self._waiting = []
        with self.surviving("TensorBoard's event file"):
            with self.writer.as_default():
                for name, value in metrics.items():
                    tf.summary.scalar(f"{kind}/{name}", value, step=step)
            self.writer.flush()

    @contextlib.contextmanager
    def surviving(self, what: str):
        """Turns an error of writing `what` into a warning, once until it can be written again."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if what not in self._warned:
                logging.warning("warning: %s cannot be written (%s): training continues, and it is written again once "
                                "that is fixed.", what, in_short(error))
            self._warned.add(what)
        else:
            if what in self._warned:
                logging.info("%s can be written again.", what)
            self._warned.discard(what)


def log_lines(path: str) -> Iterator[Tuple[str, dict]]:
    """The lines of a JSON-lines log with their entries. Damaged ones are left out with a warning, silently the last
    one where an interruption cut it short.
    """
    if not os.path.exists(path):
        return
    damaged = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                entry = run_folder.parse_entry(line)
                if entry is None:
                    damaged += 1
                else:
                    yield line, entry
    if damaged:
        logging.warning("%s: %d damaged lines were left out.", path, damaged)


def read_metrics_log(path: str) -> List[dict]:
    """Entries of a JSON-lines log; damaged lines are left out."""
    return [entry for _, entry in log_lines(path)]


def _restart_tensorboard(folder: str, step: int):
    """Removes the event files of an earlier run, or makes TensorBoard drop the steps beyond `step`.

    A restart of the session in the events does so. Summary writers of TensorFlow 2 have no `purge_step`: it gets a file
    of its own, which TensorBoard reads, by its name, after those that are there and before the next one.
    """
    os.makedirs(folder, exist_ok=True)
    events = glob.glob(os.path.join(glob.escape(folder), "events.out.tfevents.*"))
    if not step:
        for file in events:
            os.remove(file)
    elif events:
        now = time.time()
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        with tf.io.TFRecordWriter(f"{max(events)}.start") as writer:
            writer.write(tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            for _ in range(2):  # TensorBoard takes the first start for that of the run, later ones for restarts
                event = tf.compat.v1.Event(wall_time=now, step=step + 1, session_log=start)
                writer.write(event.SerializeToString())


# --- Speed ---


class Speed:
    """Sequences, tokens and updates per second, time spent waiting for input included.

    The rates are those of the last `WINDOW` logged intervals, so that a slowdown shows; `average` is over the run. The
    first update, which traces and compiles, is timed separately; saving and evaluating (`excluded`) do not count.
    """

    WINDOW = 10

    def __init__(self):
        self._excluded, self._started = 0.0, time.monotonic()
        self.first_update_seconds: Optional[float] = None
        # (seconds, updates, sequences, tokens, FLOPs) since the first update, at each log of the window.
        self._marks = collections.deque([(0.0, 0.0, 0.0, 0.0, 0.0)], self.WINDOW + 1)

    def _seconds(self) -> float:
        return time.monotonic() - self._excluded - self._started

    def after(self, updates: int, sequences: float, tokens: float, flops: float = 0.0) -> Dict[str, float]:
        """Counts the work since the last call; the first call must come after the first update.

        Args:
            flops: see flops.py; 0: not known.

        Returns: `first_update_seconds` on the first call; on later ones the rates of the window, and the average
            sequences per second.
        """
        if self.first_update_seconds is None:
            self.first_update_seconds = self._seconds()
            self._started += self.first_update_seconds
            return {"first_update_seconds": self.first_update_seconds}
        _, *done = self._marks[-1]
        self._marks.append((self._seconds(), *(a + b for a, b in zip(done, (updates, sequences, tokens, flops)))))
        return {**rates(self._marks[0], self._marks[-1]),
                "average_sequences_per_second": self.average()["sequences_per_second"]}

    def average(self) -> Dict[str, float]:
        """The rates of the run; empty before the second update."""
        _, *done = self._marks[-1]
        return rates((0.0, 0.0, 0.0, 0.0, 0.0), (self._seconds(), *done)) if done[0] else {}

    @contextlib.contextmanager
    def excluded(self):
        """Leaves the time spent inside out of every rate."""
        entered = time.monotonic()
        yield
        self._excluded += time.monotonic() - entered

    def summary(self, peak_flops: Optional[float] = None) -> str:
        first = f"the first update took {self.first_update_seconds:.1f} s"
        average = self.average()
        if not average:
            return f"{first[0].upper()}{first[1:]}."
        used = ""
        if "model_flops_per_second" in average:
            used = f", {flops.in_words(average['model_flops_per_second'])} of the model"
            if peak_flops:
                used += f" ({average['model_flops_per_second'] / peak_flops:.0%} of the peak)"
        return (f"{average['sequences_per_second']:.1f} sequences/s, {average['tokens_per_second']:.0f} tokens/s{used} "
                f"on average; {first} and is not counted.")


def rates(start: Sequence[float], end: Sequence[float]) -> Dict[str, float]:
    """Rates between two moments: (seconds, updates, sequences, tokens, FLOPs) that were done at each of them."""
    seconds, updates, sequences, tokens, model_flops = (b - a for a, b in zip(start, end))
    seconds = max(seconds, 1e-9)
    found = {"updates_per_second": updates / seconds, "sequences_per_second": sequences / seconds,
             "tokens_per_second": tokens / seconds}
    return {**found, "model_flops_per_second": model_flops / seconds} if model_flops else found


def hours(seconds: float) -> str:
    """A duration as h:mm:ss, from 100 hours on as days and hours."""
    seconds = int(seconds + 0.5)
    if seconds >= 360_000:
        return f"{seconds // 86400}d {seconds // 3600 % 24}h"
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class _Bar(tqdm):
    """A progress bar that shows what its terminal has room for, and that ends where it can no longer be drawn."""

    LAYOUTS = ("{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
               "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
               "{percentage:3.0f}%|{bar}| {remaining} left{postfix}",
               "{percentage:3.0f}%, {remaining} left",
               "{percentage:3.0f}%")

    def __str__(self):
        # Some terminals begin a new line after their last column.
        shown, width = {**self.format_dict, "ncols": None}, terminal_width() - 1
        for layout in self.LAYOUTS:
            shown["bar_format"] = layout
            if len(self.format_meter(**shown)) <= width:  # with a bar of 10 columns
                break
        return self.format_meter(**{**shown, "ncols": width})

    def display(self, *args, **kwargs):
        with self._surviving():
            return super().display(*args, **kwargs)

    def clear(self, *args, **kwargs):
        with self._surviving():
            super().clear(*args, **kwargs)

    def close(self):
        with self._surviving():
            super().close()

    @contextlib.contextmanager
    def _surviving(self):
        try:
            yield
        except OSError:
            _silence(sys.stderr)


def terminal_width() -> int:
    """Columns of the terminal that standard error is, else those that a wrapper gives in COLUMNS, else 80."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        text = os.environ.get("COLUMNS", "")
        columns = int(text) if text.isdecimal() else 0
    return columns or 80


def progress_bar(total: int, initial: int, description: str, hidden: bool = False) -> tqdm:
    """A bar over updates, drawn on stderr where that is a terminal.

    ELECTRA_PROGRESS=1, from a wrapper whose pipe ends on a terminal, draws it all the same.
    """
    drawn = sys.stderr is not None and (sys.stderr.isatty() or os.environ.get("ELECTRA_PROGRESS") == "1")
    # Its own idea of the terminal, whose height it would need as well, is replaced by `terminal_width`.
    return _Bar(total=total, initial=initial, desc=description, unit="update", ncols=80, nrows=24, smoothing=0.1,
                disable=hidden or not drawn)


# --- Profiles ---


class Profile:
    """Writes a profile of the updates `first` to `last` for TensorBoard (its plug-in: tensorboard-plugin-profile).

    A resumed run that is beyond `first` begins with its first update. A profile that cannot be written is warned about
    and does not end the run.

    Args:
        steps: (first, last); None: no profile.
    """

    def __init__(self, steps: Optional[Tuple[int, int]], folder: str):
        self.steps, self.folder, self._running = steps, folder, False

    @contextlib.contextmanager
    def of(self, step: int, wait: Callable):
        """The block is update `step`. `wait` returns when the device has done it."""
        if self.steps is None or not self.steps[0] <= step <= self.steps[1]:
            yield
            return
        if not self._running:
            wait()  # what is still to be done of earlier updates
            self._running = self._surviving(tf.profiler.experimental.start, self.folder)
        with tf.profiler.experimental.Trace("update", step_num=step, _r=1):
            yield
        if step == self.steps[1]:
            wait()
            self.stop()

    def stop(self):
        if self._running:
            self._running = False
            if self._surviving(tf.profiler.experimental.stop):
                logging.info("the profile is in %s.", os.path.join(self.folder, "plugins", "profile"))

    @staticmethod
    def _surviving(action, *arguments) -> bool:
        try:
            action(*arguments)
        except (OSError, tf.errors.OpError) as error:
            logging.warning("warning: --profile_steps: the profile could not be written (%s): training continues.",
                            in_short(error))
            return False
        return True


# --- The log of a run ---


class RunLog:
    """Turns the metrics of a run into everything that people look at. Only rank 0 writes.

    A context manager: inside, the progress bar is drawn and the clock runs.

    Args:
        title: of the curves.
        name: of the run, for the bar and the last line, such as `phase 1`.
        table: the command's metrics, in the console's order.
        means: metric sums (`TrainStep.read_metrics`) -> metrics by name.
        schedule: learning rate by number of updates done.
        step, num_train_steps: updates done, and done in the end.
        global_batch: sequences of an update; an `examples` among the sums counts them exactly.
        json_file, plot_file, tensorboard_dir: where the numbers and curves go.
        writes: whether this process is rank 0.
        hide_bar: draw no progress bar.
        flops: the model's FLOPs (see flops.py) of the updates from a first to a last step, of all workers.
        peak_flops: FLOP/s of all devices by their data sheets, where known.
        profile: first and last update of a TensorBoard profile.
        logs: folder of the history of the run (run_folder.History); None: it is not recorded.
        about: what the history says of each start: phase, device, workers, data.
        tracking: what trackers show besides, and which ones.
        page: writes the page of the run (run_page.Writer) at every evaluation and at the end. Raises: OSError.
    Raises: UserError: the profile would begin after the last update, or a file cannot be written.
    """

    def __init__(self, title: str, name: str, table: Sequence[Metric], means: Callable, schedule: Callable, step: int,
                 num_train_steps: int, global_batch: int, json_file: str, plot_file: str, tensorboard_dir: str,
                 writes: bool = True, hide_bar: bool = False, flops: Optional[Callable[[int, int], float]] = None,
                 peak_flops: Optional[float] = None, profile: Optional[Tuple[int, int]] = None,
                 logs: Optional[str] = None, about: Optional[dict] = None, page: Optional[Callable] = None,
                 tracking: Optional[trackers.Tracking] = None):
        self.title, self.name, self.table, self.means, self.schedule = title, name, table, means, schedule
        self.num_train_steps, self.global_batch, self.plot_file, self.writes = (num_train_steps, global_batch,
                                                                                plot_file, writes)
        self.step, self._logged, self._hide_bar = step, step, hide_bar or not writes
        self._flops, self.peak_flops = flops or (lambda first, last: 0.0), peak_flops
        if profile and profile[0] > num_train_steps:
            raise UserError(f"--profile_steps={profile[0]}:{profile[1]} begins after the last update, "
                            f"{num_train_steps}: give earlier ones.")
        self.profile = Profile(profile if writes else None, tensorboard_dir)
        self.about, self._page = {**(about or {}), "num_train_steps": num_train_steps}, page
        self.history = run_folder.History(logs) if logs and writes else None
        self.tracking, self._json_file = tracking or trackers.Tracking(), json_file
        self._tracker = trackers.Silent()  # until the training starts
        if writes:
            self.log = MetricsLog(json_file, tensorboard_dir, step, table)
        self.histograms = trackers.Histograms(self.tracking.histograms if writes else 0, writes and self.log.writer)

    def __enter__(self):
        if self.writes:
            self._tracker = self._start_tracker()
        if self.history:
            with self.log.surviving(self.history.path):
                self.history.started(self.step, self.about)
        self.speed = Speed()
        self._bar = progress_bar(self.num_train_steps, self.step, self.name, self._hide_bar)
        return self

    def __exit__(self, kind, error, _):
        self.profile.stop()
        self._bar.close()
        reason = "finished" if error is None else "stopped" if isinstance(error, Interrupted) else "failed"
        self._tracker.finish(reason)
        if self.history:
            message = "" if error is None else in_short(error)
            with self.log.surviving(self.history.path):
                self.history.ended(self._logged, reason, message)
        if error is not None:
            self.write_page()

    def _start_tracker(self):
        with self.log.surviving("TensorBoard's event file"), self.log.writer.as_default():
            trackers.describe_on_tensorboard(self.tracking, trackers.scalar_tags(self.table), self.step)
        return trackers.open_tracker(self.tracking, self.name, self._json_file, resumes=self.step > 0)

    def _write(self, step: int, kind: str, metrics: Dict[str, float]):
        self.log.write(step, kind, metrics)
        self._tracker.log(step, {f"{kind}/{name}": value for name, value in metrics.items()})

    def advance(self):
        """Moves the bar by one update."""
        self._bar.update()

    def training(self, step: int, sums: Dict[str, float]):
        """Logs the updates since the last call."""
        if not self.writes:
            return
        updates, model_flops = step - self._logged, self._flops(self._logged + 1, step)
        self._logged = step
        if not sums["updates"]:  # all were skipped
            return
        metrics = {"loss": sums["loss"] / sums["micro_batches"], **self.means(sums),
                   "learning_rate": float(self.schedule(tf.constant(step - 1))),
                   "gradient_norm": sums["gradient_norm"] / sums["updates"]}
        timing = self.speed.after(updates, sums.get("examples", updates * self.global_batch), sums["tokens"],
                                  model_flops)
        if self.peak_flops and "model_flops_per_second" in timing:
            timing["model_flops_utilization"] = timing["model_flops_per_second"] / self.peak_flops
        self._write(step, "train", {**metrics, **timing})
        self._bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
        if "updates_per_second" in timing:
            left = (self.num_train_steps - step) / timing["updates_per_second"]
            rate = timing["sequences_per_second"]
            pace = f"{rate:.{1 if rate < 100 else 0}f} seq/s  {hours(left)} left"
        else:
            pace = f"first update took {timing['first_update_seconds']:.1f} s"
        log_metrics(f"step {step}/{self.num_train_steps}  ", metrics, self.table, f"  {pace}")
        if step == self.step + 2 and "updates_per_second" in timing and left >= 60:
            console.show([console.time_left(left, self.num_train_steps - step)])

    def evaluation(self, step: int, metrics: Optional[Dict[str, float]]):
        """Logs held-out metrics and draws the curves; None, from an evaluation that was stopped, is left out."""
        if metrics and self.writes:
            self._write(step, "eval", metrics)
            log_metrics(f"held out at step {step}: ", metrics, self.table)
            self.plot()
            self.write_page()

    def was_evaluated(self, step: int) -> bool:
        """Whether the log holds the evaluation of this step, the last one that was done before."""
        return self.writes and self.log.last_evaluation == step

    def skipped(self, step: int, count: int, why: str):
        """Logs a non-finite update that was not applied, the `count`-th of the run."""
        if self.writes:
            self._write(step, "skipped", {"skipped_updates": count})
            logging.warning("warning: %s.", why)

    def plot(self):
        with self.log.surviving(self.plot_file):
            plot_curves(self.log.curves, self.plot_file, self.title)

    def write_page(self):
        if self._page and self.writes:
            with self.log.surviving("the report of the run"):
                self._page()

    def redraw(self):
        """Draws the curves of a finished run, and writes its page, where they are missing."""
        if self.writes and not os.path.exists(self.plot_file):
            self.plot()
            self.write_page()

    def summary(self, updates: int):
        """The last line of a finished run, and the curves."""
        if not self.writes:
            return
        with self.speed.excluded():
            self.plot()
            self.write_page()
        curves = f" Curves: {self.plot_file}" if os.path.exists(self.plot_file) else ""
        text = f"{self.name} is finished: {updates} updates. {self.speed.summary(self.peak_flops)}{curves}"
        logging.info("%s", text, extra={"console": console.folded(text)})
