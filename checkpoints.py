"""Checkpoints: written, found, checked and restored.

A checkpoint holds the model, the optimizer and a JSON state (step, phase, data position, configuration) under one
prefix. Between two updates the variables are copied to host memory; a background thread writes the copy under a
temporary name, flushes it to disk, reads it back and renames it, `.index` last, so that a file named `ckpt-*.index` is
a complete checkpoint. Only then are older ones removed. While it is written, the copy takes as much host memory as the
checkpoint has bytes, 12 per parameter.

Checkpoints that a rollback or --overwrite replaces are moved to a subfolder, never deleted unasked.
"""
from __future__ import annotations

import contextlib
import copy
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from typing import Dict, Iterator, List, NamedTuple, Optional

from absl import logging

import configuration
import files
from configuration import RunFailed, UserError, in_short
from deferred import tensorflow as tf

RETRY_SECONDS = 30  # between the two attempts to write a checkpoint
BEST = "best.json"
OVERWRITTEN = "overwritten"


class Checkpoint(NamedTuple):
    phase: int
    step: int
    prefix: str

    @property
    def name(self) -> str:
        return os.path.basename(self.prefix)


class UnreadableCheckpoint(Exception):
    """Missing, damaged or incomplete."""


def _not_written() -> tuple:
    """Raised by a full or broken disk: training continues without this checkpoint."""
    return OSError, tf.errors.OpError, UnreadableCheckpoint


class Checkpoints:
    """The checkpoints of one run: `ckpt-<step>` of phase 1 and `ckpt-p2-<step>` of phase 2, in one folder.

    A context manager: leaving it waits for the write in flight.

    Args:
        folder: created by the first save.
        keep: newest checkpoints kept, of each phase.
        flag: the option that names the folder in the user's command.
        keep_every: checkpoints at multiples of this step are never removed; 0: none. `best.json` names one more of
            each phase that is not, see `evaluated`.
    """

    def __init__(self, folder: str, keep: int = 5, flag: str = "results_dir", keep_every: int = 0):
        self.folder = folder
        self.keep = keep
        self.flag = flag
        self.keep_every = keep_every
        self._thread: Optional[threading.Thread] = None  # writes a checkpoint
        self._hurry = threading.Event()  # the second attempt need not wait any longer
        self._begun: Optional[Checkpoint] = None  # the last one whose write was started
        self._failure: Optional[BaseException] = None  # of that write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.finish()

    # --- Finding ---

    def list(self, phase: Optional[int] = None) -> List[Checkpoint]:
        """Complete checkpoints, oldest first (phase 1 before phase 2, by step)."""
        found = []
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            match = re.fullmatch(r"ckpt-(p2-)?(\d+)\.index", name)
            if match and phase in (None, 2 if match[1] else 1):
                found.append(self._named(2 if match[1] else 1, int(match[2])))
        return sorted(found)

    def _named(self, phase: int, step: int) -> Checkpoint:
        return Checkpoint(phase, step, os.path.join(self.folder, f"ckpt-{'p2-' if phase == 2 else ''}{step}"))

    def newest(self, phase: int, quiet: bool = False) -> Optional[Checkpoint]:
        """The newest checkpoint that can be read; damaged ones are passed over with a warning, unless `quiet`."""
        for checkpoint in reversed(self.list(phase)):
            try:
                read_back(checkpoint.prefix)
                return checkpoint
            except UnreadableCheckpoint as error:
                if not quiet:
                    logging.warning("checkpoint %s is damaged (%s); trying the one before it.", checkpoint.prefix,
                                    error)
        return None

    def best(self) -> Dict[int, dict]:
        """By phase, what `best.json` says about the best checkpoint, see `evaluated`."""
        try:
            content = configuration.read_json_object(os.path.join(self.folder, BEST))
        except UserError:  # absent or damaged: none is known
            return {}
        best = {}
        for phase in (1, 2):
            entry = content.get(f"phase {phase}")
            if isinstance(entry, dict) and type(entry.get("step")) is int and any(
                    type(value) in (int, float) for name, value in entry.items() if name not in ("step", "checkpoint")):
                checkpoint = self._named(phase, entry["step"])
                if entry.get("checkpoint") == checkpoint.name and os.path.exists(checkpoint.prefix + ".index"):
                    best[phase] = entry
        return best

    # --- Saving ---

    def check_disk(self, model: tf.Module, phase: int = 1, step: int = 0, num_train_steps: int = 0,
                   replace: bool = False, keep_best: bool = False):
        """Raises UserError where the disk has no room for the checkpoints to come and the one being written.

        Args:
            step, num_train_steps: updates done, and done in the end.
            replace: whether the run removes what is there of its phase (--overwrite).
            keep_best: whether one more checkpoint is kept, see `evaluated`.
        """
        size = 3 * sum(variable.shape.num_elements() * variable.dtype.size for variable in model.trainable_variables)
        self.check_room(size, phase, step, num_train_steps, replace, keep_best)

    def check_room(self, size: int, phase: int = 1, step: int = 0, num_train_steps: int = 0, replace: bool = False,
                   keep_best: bool = False):
        """`check_disk` for checkpoints of `size` bytes each. The folder need not exist yet."""
        there = [found for found in self.list(phase) if replace or found.step <= step and not self._is_milestone(found)]
        needed = size * max(1, self.most_kept(step, num_train_steps, keep_best) - len(there))
        free = self.free_bytes()
        if free < needed:
            every = ", raise --keep_every_steps" if self.keep_every else ""
            raise UserError(f"{self.folder} has {free / 1e9:.1f} GB free, the checkpoints need {needed / 1e9:.1f} GB: "
                            f"free some space, lower --keep_checkpoint_max{every}, or choose another --{self.flag}.")

    def most_kept(self, step: int = 0, num_train_steps: int = 0, keep_best: bool = False) -> int:
        """How many checkpoints of a phase are there at once, at most, with the one being written; see `check_disk`."""
        more = int(keep_best)
        if self.keep_every:
            more += max(0, num_train_steps // self.keep_every - step // self.keep_every)
        return self.keep + 1 + more

    def free_bytes(self) -> int:
        """Free disk space in the folder, which need not exist yet."""
        present = os.path.abspath(self.folder)
        while not os.path.exists(present):
            present = os.path.dirname(present)
        return shutil.disk_usage(present).free

    def save(self, phase: int, step: int, model: tf.Module, optimizer: tf.Module, state: dict) -> str:
        """Writes one checkpoint, waits for it, and returns its prefix. See `start` and `complete`."""
        self.start(phase, step, model, optimizer, state)
        return self.complete()

    def start(self, phase: int, step: int, model: tf.Module, optimizer: tf.Module, state: dict):
        """Copies the variables and writes them, and the JSON state, in a background thread.

        Waits for the write before this one. A failed write removes its files, is logged and is tried once more after
        RETRY_SECONDS; after that the run does without this checkpoint. Does nothing if the last write was of this step
        and succeeded.
        """
        checkpoint = self._named(phase, step)
        if self.finish() is None and self._begun == checkpoint:
            return
        content = _snapshot(model, optimizer, {**state, "phase": phase, "step": step})
        self._begun, self._failure = checkpoint, None
        self._hurry.clear()
        self._thread = threading.Thread(target=self._write, args=(checkpoint, content), name=checkpoint.name)
        self._thread.start()

    def finish(self) -> Optional[BaseException]:
        """Waits for the write in flight. Returns why the last write failed, or None."""
        if self._thread:
            self._hurry.set()
            self._thread.join()
            self._thread = None
        if self._failure is not None and not isinstance(self._failure, _not_written()):
            raise self._failure
        return self._failure

    def complete(self) -> str:
        """Waits for the write in flight. Returns the prefix of the last write. Raises: RunFailed: it failed."""
        error = self.finish()
        if error is not None:
            raise RunFailed(f"{self._begun.prefix} could not be saved ({in_short(error)}); "
                            f"{self._last(self._begun.phase)}: check that {self.folder} can be written and has free "
                            f"space, then {'resume' if self.list(self._begun.phase) else 'start again'}.")
        return self._begun.prefix

    def _last(self, phase: int) -> str:
        found = self.list(phase)
        return f"the last complete checkpoint is {found[-1].prefix}" if found else "there is no complete checkpoint"

    def _write(self, checkpoint: Checkpoint, content: tf.train.Checkpoint):
        """The background thread."""
        try:
            self._failure = self._write_twice(checkpoint, content)
            if self._failure is None:
                logging.info("saved %s.", checkpoint.prefix)
                self._prune(checkpoint)
        except BaseException as error:  # a mistake in the program: raised by `finish`
            self._failure = error

    def _write_twice(self, checkpoint: Checkpoint, content: tf.train.Checkpoint) -> Optional[Exception]:
        """Writes the files, in two attempts if the first one fails. Returns: why the second one failed."""
        then = f"trying again in {RETRY_SECONDS} s"
        for attempt in (1, 2):
            try:
                self._write_once(checkpoint, content)
                return None
            except _not_written() as error:
                failure = error
            self._remove_partial(checkpoint)
            logging.warning("warning: %s could not be saved (%s); %s.", checkpoint.prefix, in_short(failure), then)
            if attempt == 1:
                self._hurry.wait(RETRY_SECONDS)
                then = f"training continues without it until the next save; {self._last(checkpoint.phase)}"
        return failure

    def _write_once(self, checkpoint: Checkpoint, content: tf.train.Checkpoint):
        folder = os.path.join(self.folder, f".writing-{checkpoint.name}")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        content.write(os.path.join(folder, checkpoint.name))
        for file in os.listdir(folder):
            files.sync(os.path.join(folder, file))
        read_back(os.path.join(folder, checkpoint.name))
        for file in sorted(os.listdir(folder), key=lambda file: file.endswith(".index")):
            os.replace(os.path.join(folder, file), os.path.join(self.folder, file))
            files.sync(self.folder)  # or after a power failure the index may be there without the data
        os.rmdir(folder)

    def _remove_partial(self, checkpoint: Checkpoint):
        shutil.rmtree(os.path.join(self.folder, f".writing-{checkpoint.name}"), ignore_errors=True)
        if not os.path.exists(checkpoint.prefix + ".index"):
            with contextlib.suppress(OSError):
                _remove_data(checkpoint.prefix)

    def _is_milestone(self, checkpoint: Checkpoint) -> bool:
        return bool(self.keep_every) and checkpoint.step % self.keep_every == 0

    def _prune(self, written: Checkpoint):
        """Removes what --overwrite replaced, and the oldest checkpoints beyond `keep`. Never newer ones: they are of
        another branch."""
        shutil.rmtree(os.path.join(self.folder, OVERWRITTEN), ignore_errors=True)
        best = self.best().get(written.phase, {}).get("step")
        branch = [found for found in self.list(written.phase) if found.step <= written.step]
        for old in branch[:-self.keep]:
            if not self._is_milestone(old) and old.step != best:
                try:
                    remove_checkpoint(old.prefix)
                except OSError as error:
                    logging.warning("warning: %s could not be removed (%s).", old.prefix, in_short(error))

    def evaluated(self, phase: int, step: int, value: float, metric: str = "loss", words: str = ""):
        """Keeps the checkpoint of this step, if there is one, where its held-out loss is the lowest of the phase so
        far, or another metric, which `words` name in the log, the highest: `best.json` names it."""
        self.finish()
        checkpoint, best, sign = self._named(phase, step), self.best(), 1 if metric == "loss" else -1
        known = best.get(phase, {}).get(metric, sign * float("inf"))
        if not os.path.exists(checkpoint.prefix + ".index") or not sign * value < sign * known:
            return
        best[phase] = {"checkpoint": checkpoint.name, "step": step, metric: value}
        try:
            self._write_best(best)
        except OSError as error:
            logging.warning("warning: %s could not be written (%s).", os.path.join(self.folder, BEST), in_short(error))
            return
        what = f"highest {words or metric} on the development set" if metric != "loss" else "lowest held-out loss"
        logging.info("%s has the %s so far, %.4f, and is kept (%s).", checkpoint.prefix, what, value, BEST)

    def _write_best(self, best: Dict[int, dict]):
        files.write_json(os.path.join(self.folder, BEST),
                         {f"phase {phase}": best[phase] for phase in sorted(best)})

    # --- Making way ---

    def set_aside(self, moved: List[Checkpoint], name: str) -> str:
        """Moves checkpoints to a subfolder of this name. Returns its path. Raises: UserError."""
        folder = os.path.join(self.folder, name)
        best = self.best()
        kept = {phase: entry for phase, entry in best.items()
                if (phase, entry["step"]) not in {(found.phase, found.step) for found in moved}}
        try:
            with files.blocked_signals():
                os.makedirs(folder, exist_ok=True)
                for checkpoint in moved:  # the index first: it alone counts as a checkpoint
                    os.replace(checkpoint.prefix + ".index", os.path.join(folder, checkpoint.name + ".index"))
                    for file in _data_files(checkpoint.prefix):
                        os.replace(file, os.path.join(folder, os.path.basename(file)))
                if kept != best:
                    self._write_best(kept)
            files.sync(folder)
            files.sync(self.folder)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): choose another "
                            f"--{self.flag}.") from error
        return folder

    def set_newer_aside(self, phase: int, step: int, restored: str) -> bool:
        """After an explicit restore of an older checkpoint: moves the newer ones of the phase aside, so that `latest`
        takes the new branch. Returns: whether there were any."""
        newer = [found for found in self.list(phase) if found.step > step]
        if not newer:
            return False
        base = f"diverged-after-{os.path.basename(restored)}"
        number = next(n for n in range(1, 10**9) if not os.path.exists(os.path.join(self.folder, f"{base}-{n}")))
        folder = self.set_aside(newer, f"{base}-{number}")
        logging.info("note: %s is older than %s; %s moved to %s, so that `latest` finds the checkpoints of this run.",
                     restored, newer[-1].name,
                     f"{len(newer)} newer checkpoint{'s were' if len(newer) > 1 else ' was'}", folder)
        return True

    def set_replaced_aside(self, phase: Optional[int] = None):
        """For --overwrite: moves the checkpoints (of one phase) aside; they are removed after the first save."""
        replaced = self.list(phase)
        if replaced:
            logging.info("note: the checkpoints of the earlier run (%d) were moved to %s, which is deleted after the "
                         "first save.", len(replaced), self.set_aside(replaced, OVERWRITTEN))

    def clean(self):
        """Removes what an interrupted save left: half a checkpoint under its temporary name, data without index.

        Data whose index was moved by an interrupted `set_aside` follow it.
        """
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            path = os.path.join(self.folder, name)
            if name.startswith(".writing-ckpt-"):
                shutil.rmtree(path)
            match = re.fullmatch(r"(ckpt-(?:p2-)?\d+)\.data-\d+-of-\d+", name)
            if match and not os.path.lexists(os.path.join(self.folder, match[1] + ".index")):
                indices = glob.glob(os.path.join(glob.escape(self.folder), "*", match[1] + ".index"))
                moved = [index for index in indices if not os.path.exists(os.path.join(os.path.dirname(index), name))]
                if moved:
                    os.replace(path, os.path.join(os.path.dirname(moved[0]), name))
                else:
                    os.remove(path)


def _snapshot(model: tf.Module, optimizer: tf.Module, state: dict) -> tf.train.Checkpoint:
    """A copy of all variables in host memory, in modules of the same structure: later updates do not change it.

    On a CPU a copy shares the memory of its variable, and TensorFlow copies it when the variable is updated.
    """
    with tf.device("CPU"):
        text = tf.Variable(json.dumps(state), trainable=False)
        copies = {id(variable): tf.Variable(tf.identity(variable), trainable=variable.trainable,
                                            name=variable.name.split(":")[0])
                  for variable in (*model.variables, *optimizer.variables)}
    model, optimizer = copy.deepcopy((model, optimizer), copies)  # with the copies in place of the variables
    return tf.train.Checkpoint(model=model, optimizer=optimizer, state=text)


def _data_files(prefix: str) -> List[str]:
    return glob.glob(glob.escape(prefix) + ".data-*")


def _remove_data(prefix: str):
    for file in _data_files(prefix):
        os.remove(file)


def remove_checkpoint(prefix: str):
    """Removes the index first, so that what an interruption leaves is not taken for a checkpoint."""
    os.remove(prefix + ".index")
    files.sync(os.path.dirname(prefix) or ".")
    _remove_data(prefix)


def checkpoint_fingerprint(prefix: str) -> str:
    """SHA-256 of a checkpoint's index, which holds the checksum of every tensor. Raises: OSError."""
    with open(prefix + ".index", "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


# --- Reading ---


STATE_KEY = "state/.ATTRIBUTES/VARIABLE_VALUE"


def damage() -> tuple:
    """Raised by TensorFlow, depending on the damage."""
    return tf.errors.OpError, IndexError, RuntimeError, ValueError


@contextlib.contextmanager
def readable(prefix: str) -> Iterator[str]:
    """Yields a name under which TensorFlow can read a checkpoint: it takes `[` and a backslash in a path for a pattern.

    Such a path gets an alias, symbolic links in a temporary folder, during the block.

    Raises: RuntimeError: a file is a FIFO, which TensorFlow would wait for, or anything else that is not regular.
    """
    for file in [prefix + ".index", *_data_files(prefix)]:
        if os.path.exists(file) and not os.path.isfile(file):
            raise RuntimeError(f"{os.path.basename(file)} is not a regular file")
    if not any(character in prefix for character in "*?[]\\"):
        yield prefix
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in [prefix + ".index", *_data_files(prefix)]:
            if os.path.exists(file):
                os.symlink(os.path.abspath(file), os.path.join(folder, "checkpoint" + file[len(prefix):]))
        yield os.path.join(folder, "checkpoint")


def unreadable(prefix: str, error: Exception) -> UserError:
    return UserError(f"checkpoint {prefix} cannot be read ({in_short(error)}): give the prefix of a complete one, such "
                     "as .../checkpoints/ckpt-1000.")


def find_checkpoint(name: str, check: bool = True) -> Optional[str]:
    """The checkpoint prefix that `name` stands for, or None where there is no checkpoint.

    Args:
        name: a prefix, one of its files, a folder of checkpoints, or the folder of a run: of a folder the newest
            checkpoint of phase 2, else of phase 1. A folder followed by `/best`: the one that `best.json` names.
        check: of a folder, pass over damaged checkpoints, which takes reading them. False: its newest one.
    Raises: UserError: the folder has checkpoints, and none of them can be read.
    """
    for prefix in (name, re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", name)):
        if os.path.exists(prefix + ".index"):
            return prefix
    parent, last = os.path.split(name)
    for folder in (parent, os.path.join(parent, "checkpoints")) if last == "best" else ():
        best = Checkpoints(folder).best()
        if best:
            return os.path.join(folder, best[max(best)]["checkpoint"])
    for folder in (name, os.path.join(name, "checkpoints")):
        checkpoints = Checkpoints(folder)
        if checkpoints.list():
            newest = checkpoints.newest(2) or checkpoints.newest(1) if check else checkpoints.list()[-1]
            if newest is None:
                raise UserError(f"none of the checkpoints in {folder} can be read: give another checkpoint or folder.")
            return newest.prefix
    return None


def read_back(prefix: str):
    """Reads every tensor, which checks its checksum. Raises: UnreadableCheckpoint."""
    try:
        with readable(prefix) as alias:
            reader = tf.train.load_checkpoint(alias)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
    except damage() as error:
        raise UnreadableCheckpoint(in_short(error)) from error


def shapes(prefix: str) -> Dict[str, List[int]]:
    """The shape of every tensor in a checkpoint by its name there. Raises: one of TensorFlow's errors."""
    with readable(prefix) as alias:
        return tf.train.load_checkpoint(alias).get_variable_to_shape_map()


def read_state(prefix: str) -> dict:
    """The JSON state of a checkpoint. Raises: UserError: there is none at `prefix`, or another program wrote it."""
    if not os.path.exists(prefix + ".index"):
        raise UserError(f"checkpoint {prefix} does not exist: give a prefix such as .../checkpoints/ckpt-1000, or a "
                        "folder of checkpoints.")
    try:
        with readable(prefix) as alias:
            reader = tf.train.load_checkpoint(alias)
            text = reader.get_tensor(STATE_KEY) if reader.has_tensor(STATE_KEY) else None
    except damage() as error:
        raise unreadable(prefix, error) from error
    foreign = UserError(f"checkpoint {prefix} was not written by this project: give one that run_pretraining.py or "
                        "run_tf_squad.py wrote.")
    if not isinstance(text, bytes):
        raise foreign
    state = configuration.parse_json_object(text.decode("utf-8", "replace"), f"the state in checkpoint {prefix}")
    if type(state.get("step")) is not int or type(state.get("phase")) is not int:
        raise foreign
    for key, kind in (("config", dict), ("encoder", dict), ("tokenizer_fingerprint", str)):
        if type(state.get(key, kind())) is not kind:
            raise foreign
    return state


def restore(prefix: str, model: tf.Module, optimizer: Optional[tf.Module] = None) -> dict:
    """Restores the model, and the optimizer where given, from a checkpoint; every variable must be found in it.

    Returns: the checkpoint's state.
    Raises: UserError: the checkpoint is damaged, or a variable is missing, has another shape, or is left over.
    """
    state = read_state(prefix)
    saved = [name for name in shapes(prefix) if name.startswith("model/")]
    parts = {"model": model} if optimizer is None else {"model": model, "optimizer": optimizer}
    try:
        with readable(prefix) as alias:
            status = tf.train.Checkpoint(**parts).read(alias).expect_partial()  # the state, and perhaps the optimizer
            status.assert_existing_objects_matched()
    except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError, IndexError) as error:
        raise unreadable(prefix, error) from error
    except (ValueError, AssertionError, tf.errors.InvalidArgumentError) as error:
        tf.get_logger().setLevel("ERROR")  # or each variable not restored gets a line after our sentence
        raise UserError(f"checkpoint {prefix} does not fit this model ({in_short(error)}): give one of the "
                        "same size and settings.") from error
    if len(saved) != len(model.variables):
        raise UserError(f"checkpoint {prefix} does not fit this model (it holds {len(saved)} variables, the model has "
                        f"{len(model.variables)}): give one of the same size and settings.")
    return state
