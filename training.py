"""What every training command shares: checkpoints, stopping on request, logs, curves, speed.

A checkpoint holds the model, the optimizer and a JSON state (step, phase, data position, configuration) under one
prefix. It is written under a temporary name, read back, and renamed, `.index` last, so that a file named `ckpt-*.index`
is a whole checkpoint. It is only cut between updates; randomness and data order are functions of what the state holds
(see pretrain_utils), so a resumed run equals an uninterrupted one.
"""
from __future__ import annotations

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

import configuration
from configuration import UserError

# --- Stopping on request ---


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that the loop meets between two updates. Used as a context manager.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self):
        self.signal_name: Optional[str] = None

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.signal_name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        logging.info("%s: finishing this update, then saving.", self.signal_name)


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
    """

    def __init__(self, folder: str, keep: int = 5):
        self.folder = folder
        self.keep = keep

    def list(self, phase: Optional[int] = None) -> List[Checkpoint]:
        """Whole checkpoints, oldest first (phase 1 before phase 2, by step)."""
        found = []
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            match = re.fullmatch(r"ckpt-(p2-)?(\d+)\.index", name)
            if match and phase in (None, 2 if match[1] else 1):
                found.append(Checkpoint(2 if match[1] else 1, int(match[2]),
                                        os.path.join(self.folder, name[:-len(".index")])))
        return sorted(found)

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
            except tf.errors.OpError as error:
                logging.warning("checkpoint %s is damaged (%s); trying the one before it.", checkpoint.prefix,
                                error.message.splitlines()[0])
        return None

    def clear(self):
        """Removes every checkpoint of both phases, and what an interrupted save left."""
        for checkpoint in self.list():
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


def read_back(prefix: str):
    """Reads every tensor, which checks its checksum. Raises: tf.errors.OpError: missing, damaged or half there."""
    reader = tf.train.load_checkpoint(prefix)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)


def read_state(prefix: str) -> dict:
    """The JSON state of a checkpoint. Raises: UserError: there is none at `prefix`, or it is not one of ours."""
    try:
        return json.loads(tf.train.load_checkpoint(prefix).get_tensor("state/.ATTRIBUTES/VARIABLE_VALUE"))
    except tf.errors.OpError as error:
        raise UserError(f"checkpoint {prefix} cannot be read ({error.message.splitlines()[0]}): give the prefix of an "
                        "existing one, such as .../checkpoints/ckpt-1000.") from error
    except RuntimeError as error:  # the reader's own, for an unknown name
        raise UserError(f"{prefix} is not a checkpoint of this project: give one of ours.") from error


def restore(prefix: str, model: tf.Module, optimizer: Optional[tf.Module] = None) -> dict:
    """Restores the model, and the optimizer where given, from a checkpoint; every variable must be found in it.

    Returns: the checkpoint's state.
    Raises: UserError: a variable is missing or has another shape.
    """
    state = read_state(prefix)
    parts = {"model": model} if optimizer is None else {"model": model, "optimizer": optimizer}
    try:
        status = tf.train.Checkpoint(**parts).read(prefix)
        status.assert_existing_objects_matched().expect_partial()  # what is left over is the optimizer and the state
    except (ValueError, AssertionError, tf.errors.InvalidArgumentError) as error:
        raise UserError(f"checkpoint {prefix} does not fit this model ({str(error).splitlines()[0]}): give one of the "
                        "same size and settings.") from error
    return state


# --- Logs ---


class _ConsoleHandler(python_logging.Handler):
    """Writes lines without tearing the progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def start_logging(log_dir: str, name: str):
    """Sends `absl.logging` to the console and, with the time, to `<log_dir>/<name>.log`."""
    try:
        os.makedirs(log_dir, exist_ok=True)
        file = python_logging.FileHandler(os.path.join(log_dir, f"{name}.log"), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{log_dir} cannot be written ({error.strerror}): give another --results_dir or --log_dir.") from error
    console = _ConsoleHandler()
    console.setFormatter(python_logging.Formatter("%(message)s"))
    file.setFormatter(python_logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.get_absl_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = False
    logger.addHandler(console)
    logger.addHandler(file)
    logging.set_verbosity(logging.INFO)


class MetricsLog:
    """One JSON object per logged step, and the same numbers for TensorBoard.

    Args:
        path: the JSON-lines file; on resuming, lines beyond `step` are dropped, since those steps come again.
        tensorboard_dir: folder of event files.
    """

    def __init__(self, path: str, tensorboard_dir: str, step: int = 0):
        self.path = path
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        kept = [entry for entry in read_metrics_log(path) if entry["step"] <= step] if step else []
        configuration.write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
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
    """Sequences and tokens per second: totals over totals, waiting for input included.

    The first update, which traces and compiles, is timed apart as `compile_seconds`.
    """

    def __init__(self):
        self.started = time.monotonic()
        self.compile_seconds: Optional[float] = None
        self.sequences = self.tokens = 0.0

    def first_update_done(self):
        self.compile_seconds = time.monotonic() - self.started
        self.started = time.monotonic()

    def add(self, sequences: int, tokens: float):
        self.sequences += sequences
        self.tokens += tokens

    def per_second(self) -> Dict[str, float]:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        return {"sequences_per_second": self.sequences / elapsed, "tokens_per_second": self.tokens / elapsed}


def progress_bar(total: int, initial: int, description: str) -> tqdm:
    """A bar over updates, drawn on a terminal only.

    Where the output goes through a pipe that ends on a terminal (the wrappers' log), ELECTRA_PROGRESS=tty asks for the
    bar on the terminal itself.
    """
    target = sys.stderr
    if not target.isatty() and os.environ.get("ELECTRA_PROGRESS") == "tty":
        try:
            target = open("/dev/tty", "w")
        except OSError:  # no controlling terminal after all
            target = sys.stderr
    return tqdm(total=total, initial=initial, desc=description, unit="update", dynamic_ncols=True, smoothing=0.1,
                file=target, disable=not target.isatty())


def environment() -> dict:
    """What bit-identical resumption depends on beside the checkpoint: TensorFlow, processor and thread counts."""
    processor = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    return {"tensorflow": tf.__version__, "processor": processor, "cores": os.cpu_count(),
            "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads()}
