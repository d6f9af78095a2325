"""checkpoints: complete or absent, found by any of their names, refused where damaged or foreign."""
from __future__ import annotations

import os
import pathlib
import shutil

import pytest
import tensorflow as tf
from absl import logging

from checkpoints import (
    Checkpoints,
    UnreadableCheckpoint,
    find_checkpoint,
    read_state,
    restore,
)
from configuration import UserError


class Model(tf.Module):
    def __init__(self, value, size=3):
        super().__init__()
        self.weight = tf.Variable(tf.fill([size], float(value)))


class Other(Model):
    def __init__(self, value):
        super().__init__(value)
        self.extra = tf.Variable(1.0)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(str(tmp_path / "checkpoints"), keep=2)


def save(checkpoints, step, phase=1, value=None):
    return checkpoints.save(phase, step, Model(step if value is None else value), Model(-step), {"note": "kept"})


def names(checkpoints):
    return sorted(os.listdir(checkpoints.folder))


def test_save_and_restore_give_model_optimizer_and_state_back(checkpoints):
    prefix = save(checkpoints, 7)
    assert os.path.basename(prefix) == "ckpt-7"
    model, optimizer = Model(0), Model(0)
    state = restore(prefix, model, optimizer)
    assert (model.weight.numpy() == 7).all() and (optimizer.weight.numpy() == -7).all()
    assert state == {"note": "kept", "phase": 1, "step": 7} == read_state(prefix)


def test_restore_without_optimizer_takes_the_weights_alone(checkpoints):
    model = Model(0)
    restore(save(checkpoints, 3), model)
    assert (model.weight.numpy() == 3).all()


def test_newest_are_kept_of_each_phase_by_number_not_by_name(checkpoints):
    for step in (8, 9, 10, 11):
        save(checkpoints, step)
    save(checkpoints, 2, phase=2)
    assert [os.path.basename(found.prefix) for found in checkpoints.list()] == ["ckpt-10", "ckpt-11", "ckpt-p2-2"]
    assert names(checkpoints) == sorted(f"{name}{end}" for name in ("ckpt-10", "ckpt-11", "ckpt-p2-2")
                                        for end in (".index", ".data-00000-of-00001"))
    assert checkpoints.newest(1).step == 11 and checkpoints.newest(2).step == 2


def test_an_interrupted_save_leaves_nothing_that_looks_whole(checkpoints, monkeypatch):
    save(checkpoints, 1)
    real_replace = os.replace

    def fail_at_index(source, target):
        if target.endswith(".index"):
            raise KeyboardInterrupt
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_index)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoints, 2)
    monkeypatch.undo()
    assert [found.step for found in checkpoints.list()] == [1]
    checkpoints.clean()
    assert names(checkpoints) == ["ckpt-1.data-00000-of-00001", "ckpt-1.index"]


def damage(prefix, how):
    data = pathlib.Path(prefix + ".data-00000-of-00001")
    content = bytearray(data.read_bytes())
    if how == "flipped":
        content[5] ^= 1
        data.write_bytes(content)
    elif how == "truncated":
        data.write_bytes(content[:10])
    elif how == "missing":
        data.unlink()
    else:
        pathlib.Path(prefix + ".index").write_bytes(b"no index")


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "index"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(checkpoints, how, monkeypatch):
    save(checkpoints, 1)
    damage(save(checkpoints, 2), how)
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda *args: warnings.append(args[0] % args[1:]))
    assert checkpoints.newest(1).step == 1
    assert len(warnings) == 1 and "ckpt-2 is damaged" in warnings[0]


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "index"])
def test_a_damaged_checkpoint_that_is_named_is_refused(checkpoints, how):
    prefix = save(checkpoints, 1)
    damage(prefix, how)
    with pytest.raises(UserError, match=f"{prefix} cannot be read"):
        restore(prefix, Model(0))


def test_read_back_after_writing_catches_a_bad_disk(checkpoints, monkeypatch):
    write = tf.train.Checkpoint.write

    def write_badly(self, prefix, *args, **kwargs):
        write(self, prefix, *args, **kwargs)
        damage(prefix, "flipped")

    monkeypatch.setattr(tf.train.Checkpoint, "write", write_badly)
    with pytest.raises(UnreadableCheckpoint):
        save(checkpoints, 1)
    assert checkpoints.list() == []


@pytest.mark.parametrize("model", [Model(0, size=4), Other(0)], ids=["other shape", "missing variable"])
def test_a_checkpoint_that_does_not_match_in_every_variable_is_refused(checkpoints, model):
    with pytest.raises(UserError, match="ckpt-1 does not fit this model"):
        restore(save(checkpoints, 1), model)


def test_a_checkpoint_is_found_by_prefix_index_folder_and_run(tmp_path):
    """A folder whose name holds `.index` once lost that part of its name."""
    run = Checkpoints(str(tmp_path / "a.index.d" / "checkpoints"))
    prefix = save(run, 3)
    assert find_checkpoint(prefix) == prefix == find_checkpoint(prefix + ".index")
    assert find_checkpoint(run.folder) == prefix == find_checkpoint(os.path.dirname(run.folder))
    second = save(run, 1, phase=2)
    assert find_checkpoint(run.folder) == second
    damage(second, "flipped")
    assert find_checkpoint(run.folder) == prefix
    assert find_checkpoint(str(tmp_path)) is None and find_checkpoint("no/such") is None


def test_a_folder_of_damaged_checkpoints_alone_is_refused(checkpoints, refuses):
    damage(save(checkpoints, 1), "truncated")
    assert checkpoints.folder in refuses(find_checkpoint, checkpoints.folder)


def test_restore_from_nothing_names_the_path(tmp_path):
    with pytest.raises(UserError, match="nowhere/ckpt-1 cannot be read"):
        restore(str(tmp_path / "nowhere" / "ckpt-1"), Model(0))


def test_restore_from_another_projects_checkpoint_is_refused(tmp_path):
    prefix = tf.train.Checkpoint(model=Model(1)).write(str(tmp_path / "foreign"))
    with pytest.raises(UserError, match="not written by this project"):
        restore(prefix, Model(0))


def test_too_little_disk_is_refused_before_anything_is_written(checkpoints, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * 12 * 3 - 1}))
    with pytest.raises(UserError, match="--keep_checkpoint_max"):  # 3 floats, 3 copies of each, 2 kept and 1 written
        checkpoints.check_disk(Model(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * 12 * 3}))
    checkpoints.check_disk(Model(1))


def test_too_little_disk_names_the_commands_own_option(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    for arguments, flag in (((2,), "results_dir"), ((2, "output_dir"), "output_dir")):
        with pytest.raises(UserError, match=f"or choose another --{flag}\\.$"):
            Checkpoints(str(tmp_path), *arguments).check_disk(Model(1))


def test_clear_removes_checkpoints_of_both_phases_and_nothing_else(checkpoints):
    save(checkpoints, 1)
    save(checkpoints, 1, phase=2)
    (pathlib.Path(checkpoints.folder) / "notes.txt").write_text("mine")
    checkpoints.clear()
    assert names(checkpoints) == ["notes.txt"]


# --- Stopping ---
