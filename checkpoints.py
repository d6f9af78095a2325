"""Checkpoints: written, found, checked and restored.

A checkpoint holds the model, the optimizer and a JSON state (step, phase, data position, configuration) under one
prefix. It is written under a temporary name, read back, and renamed, `.index` last, so that a file named `ckpt-*.index`
is a complete checkpoint.
"""
from __future__ import annotations

import json
import os
import re
import shutil
from typing import List, NamedTuple, Optional

import tensorflow as tf
from absl import logging

from configuration import UserError


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
