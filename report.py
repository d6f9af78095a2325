"""The report of a training run: console lines, progress bar, JSON lines, TensorBoard events, curves, speed.

A command describes its metrics in one table (`Metric`) and gets from `Report` everything that people look at. Log lines
go through `absl.logging`, which `start_logging` sends to the console and to a file.
"""
from __future__ import annotations

import contextlib
import json
import logging as python_logging
import os
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import tensorflow as tf
from absl import logging
from tqdm import tqdm

import files
from configuration import UserError

# --- Log lines ---


class _ConsoleHandler(python_logging.Handler):
    """Writes lines without tearing the progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def start_logging(log_dir: str, name: str, suffix: str = "log", on_console: bool = True):
    """Sends `absl.logging` to the console and, with time stamps, to `<log_dir>/<name>.<suffix>`.

    Raises: UserError: the folder or file cannot be written.
    """
    try:
        os.makedirs(log_dir, exist_ok=True)
        file = python_logging.FileHandler(os.path.join(log_dir, f"{name}.{suffix}"), encoding="utf-8")
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


# --- Metrics ---


class Metric(NamedTuple):
    """One row of a command's table of metrics."""

    name: str  # in the JSON lines and in TensorBoard
    console: str  # format of its value on the console
    panel: str = ""  # title of its panel among the curves; without one it is not drawn


def format_metrics(metrics: Dict[str, float], table: Sequence[Metric]) -> str:
    """The console's text: those of the table's metrics that are there, in its order."""
    return "  ".join(metric.console.format(metrics[metric.name]) for metric in table if metric.name in metrics)


class MetricsLog:
    """One JSON object per logged step, and the same numbers for TensorBoard.

    Args:
        path: the JSON-lines file; on resuming, lines beyond `step` are dropped, since those steps are run again.
        tensorboard_dir: folder of event files.
    Raises: UserError: the file cannot be written.
    """

    def __init__(self, path: str, tensorboard_dir: str, step: int = 0):
        self.path = path
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            kept = [entry for entry in read_metrics_log(path) if entry["step"] <= step] if step else []
            files.write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another file with "
                            "--json_summary.") from error
        self._writer = tf.summary.create_file_writer(tensorboard_dir)

    def write(self, step: int, kind: str, metrics: Dict[str, float]):
        """`kind` is `train` or `eval`."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **metrics}) + "\n")
        with self._writer.as_default():
            for name, value in metrics.items():
                tf.summary.scalar(f"{kind}/{name}", value, step=step)
        self._writer.flush()


def read_metrics_log(path: str) -> List[dict]:
    """Entries of a JSON-lines log; a last line that an interruption cut short is left out."""
    entries = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    entries.append(json.loads(line))
    return entries


# --- Speed ---


class Speed:
    """Sequences, tokens and updates per second: totals over totals, time spent waiting for input included.

    The first update, which traces and compiles, is timed separately; saving and evaluating (`excluded`) do not count.
    """

    def __init__(self):
        self._started = time.monotonic()
        self.first_update_seconds: Optional[float] = None
        self._updates = self._sequences = self._tokens = 0.0

    def after(self, updates: int, sequences: float, tokens: float) -> Dict[str, float]:
        """Counts the work since the last call; the first call must come after the first update.

        Returns: `first_update_seconds` on the first call, the rates since then on later ones.
        """
        if self.first_update_seconds is None:
            self.first_update_seconds = time.monotonic() - self._started
            self._started = time.monotonic()
            return {"first_update_seconds": self.first_update_seconds}
        self._updates += updates
        self._sequences += sequences
        self._tokens += tokens
        return self.rates()

    def rates(self) -> Dict[str, float]:
        """The rates so far; empty before the second update."""
        if not self._updates:
            return {}
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return {"updates_per_second": self._updates / elapsed, "sequences_per_second": self._sequences / elapsed,
                "tokens_per_second": self._tokens / elapsed}

    @contextlib.contextmanager
    def excluded(self):
        """Leaves the time spent inside out of every rate."""
        entered = time.monotonic()
        yield
        self._started += time.monotonic() - entered

    def summary(self) -> str:
        first = f"the first update took {self.first_update_seconds:.1f} s"
        rates = self.rates()
        if not rates:
            return f"{first[0].upper()}{first[1:]}."
        return (f"{rates['sequences_per_second']:.1f} sequences/s, {rates['tokens_per_second']:.0f} tokens/s; {first} "
                "and is not counted.")


def hours(seconds: float) -> str:
    """A duration as h:mm:ss."""
    seconds = int(seconds + 0.5)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def progress_bar(total: int, initial: int, description: str, hidden: bool = False) -> tqdm:
    """A bar over updates, drawn on stderr where that is a terminal.

    ELECTRA_PROGRESS=1, from a wrapper whose pipe ends on a terminal, draws it all the same.
    """
    drawn = sys.stderr.isatty() or os.environ.get("ELECTRA_PROGRESS") == "1"
    return tqdm(total=total, initial=initial, desc=description, unit="update", dynamic_ncols=True, smoothing=0.1,
                disable=hidden or not drawn)


# --- The report ---


class Report:
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
    """

    def __init__(self, title: str, name: str, table: Sequence[Metric], means: Callable, schedule: Callable, step: int,
                 num_train_steps: int, global_batch: int, json_file: str, plot_file: str, tensorboard_dir: str,
                 writes: bool = True, hide_bar: bool = False):
        self.title, self.name, self.table, self.means, self.schedule = title, name, table, means, schedule
        self.num_train_steps, self.global_batch, self.plot_file, self.writes = (num_train_steps, global_batch,
                                                                                plot_file, writes)
        self.step, self._logged, self._hide_bar = step, step, hide_bar or not writes
        if writes:
            self.log = MetricsLog(json_file, tensorboard_dir, step)

    def __enter__(self):
        self.speed = Speed()
        self._bar = progress_bar(self.num_train_steps, self.step, self.name, self._hide_bar)
        return self

    def __exit__(self, *_):
        self._bar.close()

    def advance(self):
        """Moves the bar by one update."""
        self._bar.update()

    def training(self, step: int, sums: Dict[str, float]):
        """Logs the updates since the last call."""
        if not self.writes:
            return
        updates, self._logged = step - self._logged, step
        metrics = {"loss": sums["loss"] / sums["micro_batches"], **self.means(sums),
                   "learning_rate": float(self.schedule(tf.constant(step - 1))),
                   "gradient_norm": sums["gradient_norm"] / updates}
        timing = self.speed.after(updates, sums.get("examples", updates * self.global_batch), sums["tokens"])
        self.log.write(step, "train", {**metrics, **timing})
        self._bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
        if "updates_per_second" in timing:
            left = (self.num_train_steps - step) / timing["updates_per_second"]
            pace = f"{timing['sequences_per_second']:.1f} sequences/s  {hours(left)} left"
        else:
            pace = f"first update took {timing['first_update_seconds']:.1f} s"
        logging.info("step %d/%d  %s  %s", step, self.num_train_steps, format_metrics(metrics, self.table), pace)

    def evaluation(self, step: int, metrics: Optional[Dict[str, float]]):
        """Logs held-out metrics and draws the curves; None, from an evaluation that was stopped, is left out."""
        if metrics and self.writes:
            self.log.write(step, "eval", metrics)
            logging.info("held out at step %d: %s", step, format_metrics(metrics, self.table))
            self.plot()

    def plot(self):
        plot_curves(self.log.path, self.plot_file, self.title, self.table)

    def summary(self):
        """The last line of a finished run, and the curves."""
        if not self.writes:
            return
        with self.speed.excluded():
            self.plot()
        logging.info("%s is finished: %d updates. %s Curves: %s", self.name, self.num_train_steps, self.speed.summary(),
                     self.plot_file)


def plot_curves(metrics_log: str, png: str, title: str, table: Sequence[Metric]):
    """Draws the curves of a metrics log, training and held out: one panel for each metric that has one and was logged.
    """
    # Imported here: it takes most of a second, and refusals of bad input should not wait for it.
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = read_metrics_log(metrics_log)
    panels = [metric for metric in table if metric.panel and any(metric.name in entry for entry in entries)]
    if not panels:
        return
    columns = -(-len(panels) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(3.6 * columns, 5.4), squeeze=False)
    for axis, (name, _, panel) in zip(axes.flat, panels):
        for kind, style in (("train", dict(linewidth=0.9, color="tab:blue", label="training")),
                            ("eval", dict(marker="o", markersize=3, color="tab:orange", label="held out"))):
            points = [(entry["step"], entry[name]) for entry in entries if entry["kind"] == kind and name in entry]
            if points:
                axis.plot(*zip(*points), **style)
        axis.set(title=panel, xlabel="update")
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels):]:
        axis.set_visible(False)
    axes.flat[0].legend()
    figure.suptitle(title)
    figure.tight_layout()
    with files.replacing(png) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
