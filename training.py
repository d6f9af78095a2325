"""What every training command shares: checkpoints, stopping on request, logs, curves, speed.

A checkpoint holds the model, the optimizer and a JSON state (step, phase, data position, configuration) under one
prefix. It is written under a temporary name, read back, and renamed, `.index` last, so that a file named `ckpt-*.index`
is a whole checkpoint. It is only cut between updates; randomness and data order are functions of what the state holds
(see pretrain_utils), so a resumed run equals an uninterrupted one.
"""
from __future__ import annotations

import contextlib
import json
import logging as python_logging
import os
import re
import shutil
import signal
import sys
import time
from typing import Dict, List, NamedTuple, Optional

import tensorflow as tf
from absl import logging
from tqdm import tqdm

import files
from configuration import Interrupted, UserError

# --- Stopping on request ---


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that the loop meets between two updates. Used as a context manager.

    Until `begin` nothing has been done that could be lost, and a signal ends the command at once. Repeated signals are
    one request: a Ctrl-C reaches a process both from the terminal and from the wrapper.
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
        """From here on a signal is a request."""
        self._begun = True

    def _note(self, number, frame):
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            if not self._begun:
                raise Interrupted(f"stopped by {self.signal_name} before the first update; the same call starts again.")


def stopped_by(stop) -> str:
    """What ended the loop: this worker's signal, or another's."""
    return stop.signal_name or "a signal to another worker"


# --- Checkpoints ---


class Checkpoint(NamedTuple):
    phase: int
    step: int
    prefix: str


class Checkpoints:
    """The checkpoints of one run: `ckpt-<step>` of phase 1 and `ckpt-p2-<step>` of phase 2, in one folder.

    Args:
        folder: made on the first save.
        keep: newest checkpoints kept, of each phase.
        flag: the option that names the folder in the user's command.
    """

    def __init__(self, folder: str, keep: int = 5, flag: str = "results_dir"):
        self.folder = folder
        self.keep = keep
        self.flag = flag

    def list(self, phase: Optional[int] = None) -> List[Checkpoint]:
        """Whole checkpoints, oldest first (phase 1 before phase 2, by step)."""
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
                            "make room, lower --keep_checkpoint_max, or give another "
                            f"--{self.flag}.")

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
    """Removes the index first: what is left after an interruption is not taken for a checkpoint."""
    folder, name = os.path.split(prefix)
    os.remove(prefix + ".index")
    for file in os.listdir(folder):
        if file.startswith(name + ".data-"):
            os.remove(os.path.join(folder, file))


class UnreadableCheckpoint(Exception):
    """Missing, damaged or half there."""


STATE_KEY = "state/.ATTRIBUTES/VARIABLE_VALUE"
_DAMAGE = (tf.errors.OpError, IndexError, RuntimeError, ValueError)  # what TensorFlow raises, by kind of damage


def in_short(error: Exception) -> str:
    return str(getattr(error, "message", error)).splitlines()[0]


def unreadable(prefix: str, error: Exception) -> UserError:
    return UserError(f"checkpoint {prefix} cannot be read ({in_short(error)}): give the prefix of a whole one, such as "
                     ".../checkpoints/ckpt-1000.")


def read_back(prefix: str):
    """Reads every tensor, which checks its checksum. Raises: UnreadableCheckpoint."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except _DAMAGE as error:
        raise UnreadableCheckpoint(in_short(error)) from error


def read_state(prefix: str) -> dict:
    """The JSON state of a checkpoint. Raises: UserError: there is none at `prefix`, or it is not one of ours."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        text = reader.get_tensor(STATE_KEY) if reader.has_tensor(STATE_KEY) else None
    except _DAMAGE as error:
        raise unreadable(prefix, error) from error
    if text is None:
        raise UserError(f"{prefix} is not a checkpoint of this project: give one of ours.")
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


# --- Logs ---


class _ConsoleHandler(python_logging.Handler):
    """Writes lines without tearing the progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def start_logging(log_dir: str, name: str, suffix: str = "log", on_console: bool = True):
    """Sends `absl.logging` to the console and, with the time, to `<log_dir>/<name>.<suffix>`."""
    try:
        os.makedirs(log_dir, exist_ok=True)
        file = python_logging.FileHandler(os.path.join(log_dir, f"{name}.{suffix}"), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{log_dir} cannot be written ({error.strerror}): "
                        "give another folder.") from error
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


class MetricsLog:
    """One JSON object per logged step, and the same numbers for TensorBoard.

    Args:
        path: the JSON-lines file; on resuming, lines beyond `step` are dropped, since those steps come again.
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
            raise UserError(f"{path} cannot be written ({error.strerror}): name another file with "
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


# --- Progress ---


class Speed:
    """Sequences, tokens and updates per second: totals over totals, waiting for input included.

    The first update, which traces and compiles, is timed apart; saving and evaluating (`apart`) do not count.
    """

    def __init__(self):
        self._started = time.monotonic()
        self.first_update_seconds: Optional[float] = None
        self._updates = self._sequences = self._tokens = 0.0

    def after(self, updates: int, sequences: int, tokens: float) -> Dict[str, float]:
        """Counts what was done since the last call; the first call must come after the first update.

        Returns: `first_update_seconds` after that, the rates since then afterwards.
        """
        if self.first_update_seconds is None:
            self.first_update_seconds = time.monotonic() - self._started
            self._started = time.monotonic()
            return {"first_update_seconds": self.first_update_seconds}
        self._updates += updates
        self._sequences += sequences
        self._tokens += tokens
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return {"updates_per_second": self._updates / elapsed, "sequences_per_second": self._sequences / elapsed,
                "tokens_per_second": self._tokens / elapsed}

    @contextlib.contextmanager
    def apart(self):
        """Leaves the time spent inside out of every rate."""
        entered = time.monotonic()
        yield
        self._started += time.monotonic() - entered

    def summary(self) -> str:
        first = f"the first update took {self.first_update_seconds:.1f} s"
        if not self._updates:
            return f"In all, {first}."
        rates = self.after(0, 0, 0)
        return (f"{rates['sequences_per_second']:.1f} sequences/s, {rates['tokens_per_second']:.0f} tokens/s; {first}, "
                "which is not counted.")


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


def environment() -> dict:
    """What bit-identical resumption depends on beside the checkpoint: TensorFlow, processor and thread counts."""
    processor = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    return {"tensorflow": tf.__version__, "processor": processor, "cores": os.cpu_count(),
            "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads()}


PRETRAINING_PANELS = {
    "generator_loss": "generator loss", "generator_accuracy": "generator accuracy",
    "discriminator_loss": "discriminator loss", "discriminator_auc": "discriminator AUC",
    "discriminator_recall": "discriminator recall", "learning_rate": "learning rate"}
SQUAD_PANELS = {"loss": "loss", "start_accuracy": "start accuracy", "end_accuracy": "end accuracy", "f1": "F1",
                "learning_rate": "learning rate"}


def plot_curves(metrics_log: str, png: str, title: str, panels: Dict[str, str]):
    """Draws the curves of a metrics log, training and held out: metrics with their labels, those that there are."""
    # Imported here: it takes most of a second, and refusals of bad input should not wait for it.
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = read_metrics_log(metrics_log)
    panels = [(name, label) for name, label in panels.items() if any(name in entry for entry in entries)]
    if not panels:
        return
    figure, axes = plt.subplots(2, -(-len(panels) // 2), figsize=(4.2 * -(-len(panels) // 2), 6), squeeze=False)
    for axis, (name, label) in zip(axes.flat, panels):
        for kind, style in (("train", dict(linewidth=0.9, color="tab:blue", label="training")),
                            ("eval", dict(marker="o", markersize=3, color="tab:orange", label="held out"))):
            points = [(entry["step"], entry[name]) for entry in entries if entry["kind"] == kind and name in entry]
            if points:
                axis.plot(*zip(*points), **style)
        axis.set(title=label, xlabel="update")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels):]:
        axis.set_visible(False)
    axes.flat[0].legend()
    figure.suptitle(title)
    figure.tight_layout()
    temporary = f"{png}.tmp{os.getpid()}"
    figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    os.replace(temporary, png)
