"""checkpoints: complete or absent, found by any of their names, refused where damaged or foreign."""
from __future__ import annotations

import json
import os
import pathlib
import resource
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from checkpoints import (
    Checkpoints,
    find_checkpoint,
    read_state,
    restore,
)
from configuration import RunFailed, UserError


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


def test_data_whose_index_is_a_broken_link_is_not_removed(tmp_path):
    (tmp_path / "ckpt-2.data-00000-of-00001").write_text("weights")
    os.symlink("elsewhere", tmp_path / "ckpt-2.index")
    Checkpoints(str(tmp_path)).clean()
    assert len(os.listdir(tmp_path)) == 2


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
    with pytest.raises(RunFailed, match="ckpt-1 could not be saved"):
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
    with pytest.raises(UserError, match="nowhere/ckpt-1 does not exist"):
        restore(str(tmp_path / "nowhere" / "ckpt-1"), Model(0))


def test_restore_from_another_projects_checkpoint_is_refused(tmp_path):
    prefix = tf.train.Checkpoint(model=Model(1)).write(str(tmp_path / "foreign"))
    with pytest.raises(UserError, match="not written by this project"):
        restore(prefix, Model(0))


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_a_checkpoint_that_is_not_a_regular_file_is_refused_and_passed_over(checkpoints, suffix, refuses):
    save(checkpoints, 1)
    prefix = save(checkpoints, 2)
    os.remove(f"{prefix}.{suffix}")
    os.mkfifo(f"{prefix}.{suffix}")
    assert "not a regular file" in refuses(restore, prefix, Model(0))
    assert find_checkpoint(checkpoints.folder).endswith("ckpt-1")


@pytest.mark.parametrize("state, part", [
    ("[" * 200_000, "nested"), ("{", "not valid JSON"), ("[]", "not a JSON object"), (b"\xff\x00", "not valid JSON"),
    (7, "not written by this project"), (["{}", "{}"], "not written by this project"),
    ("{}", "not written by this project"), ('{"step": "7", "phase": 1}', "not written by this project"),
    ('{"step": 7, "phase": 1, "encoder": []}', "not written by this project"),
    ('{"step": 7, "phase": 1, "tokenizer_fingerprint": 5}', "not written by this project"),
])
def test_a_state_that_is_not_ours_is_refused(state, part, tmp_path, refuses):
    prefix = tf.train.Checkpoint(state=tf.Variable(state)).write(str(tmp_path / "foreign"))
    text = refuses(read_state, prefix)
    assert prefix in text and part in text


def disk_needed(checkpoints, **arguments):
    """Checkpoints of `Model` that must fit on the disk: each has 3 floats, 3 times."""
    for count in range(20):
        usage = type("Usage", (), {"free": count * 36})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
            try:
                checkpoints.check_disk(Model(1), **arguments)
                return count
            except UserError as error:
                assert "--keep_checkpoint_max" in str(error)
    raise AssertionError("more than 20")


def test_too_little_disk_is_refused_before_anything_is_written(checkpoints):
    assert disk_needed(checkpoints) == 3  # 2 kept and 1 written


def test_disk_space_is_counted_for_the_phase_that_runs(checkpoints):
    """Checkpoints of the other phase, newer ones that a rollback moves aside, and milestones are not going to be
    replaced: they once counted as room."""
    save(checkpoints, 2)
    save(checkpoints, 4)
    assert disk_needed(checkpoints, phase=1, step=4) == 1
    assert disk_needed(checkpoints, phase=2) == 3
    assert disk_needed(checkpoints, phase=1, step=2) == 2
    assert disk_needed(checkpoints, phase=1, replace=True) == 1
    assert disk_needed(checkpoints, phase=2, keep_best=True) == 4
    checkpoints.keep_every = 4
    assert disk_needed(checkpoints, phase=1, step=4, num_train_steps=12) == 2 + 2  # of 2 + 1, ckpt-2 is there


def test_too_little_disk_names_the_commands_own_option(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    for arguments, flag in (((2,), "results_dir"), ((2, "output_dir"), "output_dir")):
        with pytest.raises(UserError, match=f"or choose another --{flag}\\.$"):
            Checkpoints(str(tmp_path), *arguments).check_disk(Model(1))


# --- Writing in the background ---


@pytest.fixture
def held(monkeypatch):
    """Holds back every write until the event is set; a second event says that one has begun."""
    begun, released = threading.Event(), threading.Event()
    write = tf.train.Checkpoint.write

    def wait(self, *args, **kwargs):
        begun.set()
        assert released.wait(20)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(tf.train.Checkpoint, "write", wait)
    yield begun, released
    released.set()


@tf.function
def update(model):
    model.weight.assign_sub(tf.ones_like(model.weight))


def test_updates_during_the_write_do_not_reach_the_file(checkpoints, held):
    model, optimizer = Model(1), Model(2)
    checkpoints.start(1, 5, model, optimizer, {"note": "kept"})
    update(model)
    optimizer.weight.assign_add([1.0, 1.0, 1.0])
    assert held[0].wait(20) and checkpoints.list() == []
    update(model)
    optimizer.weight.assign([9.0, 9.0, 9.0])
    held[1].set()
    read = Model(0), Model(0)
    assert restore(checkpoints.complete(), *read)["step"] == 5
    assert (read[0].weight.numpy() == 1).all() and (read[1].weight.numpy() == 2).all()
    assert (model.weight.numpy() == -1).all() and (optimizer.weight.numpy() == 9).all()


def test_a_save_waits_for_the_write_before_it_and_leaving_for_the_last(checkpoints, held):
    with checkpoints:
        checkpoints.start(1, 1, Model(1), Model(1), {})
        assert held[0].wait(20)
        threading.Timer(0.2, held[1].set).start()
        checkpoints.start(1, 2, Model(2), Model(2), {})
        assert held[1].is_set() and [found.step for found in checkpoints.list()][:1] == [1]
    assert [found.step for found in checkpoints.list()] == [1, 2]


def test_the_file_holds_what_tensorflow_alone_would_write(checkpoints, tmp_path):
    """Shared modules, lists and names included: earlier versions read it."""
    model, optimizer = Other(3), Model(4)
    model.layers, model.again = [Model(5), Model(6)], optimizer
    model.layers[1].shared = model.layers[0]
    expected = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "expected"))
    prefix = checkpoints.save(1, 1, model, optimizer, {})
    one, other = map(tf.train.load_checkpoint, (prefix, expected))
    tensors = {name for name in other.get_variable_to_shape_map() if name.startswith(("model/", "optimizer/"))}
    assert len(tensors) == 5
    assert {name for name in one.get_variable_to_shape_map() if name.startswith(("model/", "optimizer/"))} == tensors
    for name in tensors:
        np.testing.assert_array_equal(one.get_tensor(name), other.get_tensor(name))
    tf.train.Checkpoint(model=model, optimizer=optimizer).read(prefix).assert_existing_objects_matched()


def test_files_and_folder_are_flushed_before_the_checkpoint_counts_and_before_old_ones_go(tmp_path, monkeypatch):
    checkpoints = Checkpoints(str(tmp_path / "run"), keep=1)
    save(checkpoints, 1)
    events = []

    def record(name, describe):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (real(*args), events.append(f"{name} {describe(args)}"))[0])

    def opened(args):
        return os.path.relpath(os.readlink(f"/proc/self/fd/{args[0]}"), tmp_path)

    record("fsync", opened)
    record("replace", lambda args: os.path.basename(args[1]))
    record("remove", lambda args: os.path.basename(args[0]))
    save(checkpoints, 2)
    monkeypatch.undo()
    data, index = "ckpt-2.data-00000-of-00001", "ckpt-2.index"
    assert sorted(events[:2]) == [f"fsync run/.writing-ckpt-2/{data}", f"fsync run/.writing-ckpt-2/{index}"]
    assert events[2:] == [f"replace {data}", "fsync run", f"replace {index}", "fsync run", "remove ckpt-1.index",
                          "fsync run", "remove ckpt-1.data-00000-of-00001"]


def allow_calls(patch, operations, number):
    """The first `number` calls of the operations happen, the rest end the program."""
    calls = iter(range(number))

    def counted(real):
        def call(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(*args, **kwargs)
        return call

    for place, name in operations:
        patch.setattr(place, name, counted(getattr(place, name)))


def test_killed_at_any_moment_of_a_save_every_checkpoint_is_complete_or_absent(tmp_path, monkeypatch):
    operations = [(os, "makedirs"), (tf.train.Checkpoint, "write"), (os, "fsync"), (os, "replace"), (os, "rmdir"),
                  (os, "remove")]
    for allowed in range(16):
        checkpoints = Checkpoints(str(tmp_path / str(allowed)), keep=1)
        save(checkpoints, 1)
        with monkeypatch.context() as patch:
            allow_calls(patch, operations, allowed)
            try:
                save(checkpoints, 2)
                whole = True
            except KeyboardInterrupt:
                whole = False
        after = Checkpoints(checkpoints.folder, keep=1)
        after.clean()
        steps = [found.step for found in after.list()]
        assert steps and set(steps) <= {1, 2} and (not whole or steps == [2])
        for step in steps:
            model = Model(0)
            assert restore(os.path.join(after.folder, f"ckpt-{step}"), model)["step"] == step
            assert (model.weight.numpy() == step).all()
        assert len(names(after)) == 2 * len(steps)
    assert whole  # the loop has reached the end of a save


# --- A save that fails ---


@pytest.fixture
def small_disk():
    """Files of at most 4 kB can be written, as on a disk that is full after that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(full):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if full else limits[0], limits[1]))

    yield fill
    fill(False)


def test_after_a_failed_save_nothing_partial_is_left_and_the_next_save_works(checkpoints, small_disk, caplog):
    save(checkpoints, 1)
    small_disk(True)
    checkpoints.start(1, 2, Model(2, size=9999), Model(2), {})
    error = checkpoints.finish()
    small_disk(False)
    assert error is not None and names(checkpoints) == ["ckpt-1.data-00000-of-00001", "ckpt-1.index"]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and all("ckpt-2 could not be saved" in warning for warning in warnings)
    assert "the last complete checkpoint is" in caplog.text and "ckpt-1" in caplog.text.splitlines()[-1]
    assert save(checkpoints, 3) and [found.step for found in checkpoints.list()] == [1, 3]


def test_a_failed_save_is_tried_once_more(checkpoints, small_disk, caplog, monkeypatch):
    monkeypatch.setattr("checkpoints.RETRY_SECONDS", 0)
    attempts, write = [], tf.train.Checkpoint.write

    def counted(self, *args):
        attempts.append(1)
        small_disk(len(attempts) == 1)
        return write(self, *args)

    monkeypatch.setattr(tf.train.Checkpoint, "write", counted)
    checkpoints.start(1, 2, Model(2, size=9999), Model(2), {})
    assert checkpoints.finish() is None and len(attempts) == 2
    assert [found.step for found in checkpoints.list()] == [2] and len(names(checkpoints)) == 2


def test_a_failed_last_save_is_a_failed_run_that_names_the_last_complete_checkpoint(checkpoints, small_disk):
    small_disk(True)
    with pytest.raises(RunFailed, match="ckpt-1 could not be saved .*no complete checkpoint"):
        checkpoints.save(1, 1, Model(2, size=9999), Model(2), {})
    small_disk(False)
    good = save(checkpoints, 2)
    small_disk(True)
    checkpoints.start(1, 3, Model(2, size=9999), Model(2), {})
    with pytest.raises(RunFailed, match=f"ckpt-3 could not be saved .*last complete checkpoint is {good}"):
        checkpoints.complete()
    small_disk(False)
    checkpoints.start(1, 3, Model(3, size=9999), Model(3), {})  # the same step is not taken for saved
    assert checkpoints.complete().endswith("ckpt-3")


def test_a_step_is_written_once(checkpoints, monkeypatch):
    save(checkpoints, 1)
    monkeypatch.setattr(tf.train.Checkpoint, "write", None)
    save(checkpoints, 1)


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk(checkpoints, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_write_once", lambda *_: {}["bug"])
    with pytest.raises(KeyError):
        save(checkpoints, 1)


# --- Which are kept ---


def steps(checkpoints, phase=1):
    return [found.step for found in checkpoints.list(phase)]


def test_milestones_are_kept_for_ever(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), keep=2, keep_every=4)
    for step in range(1, 12):
        save(checkpoints, step)
    assert steps(checkpoints) == [4, 8, 10, 11]


def test_the_checkpoint_with_the_lowest_held_out_loss_is_kept_and_named(checkpoints):
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0), (4, float("nan")), (5, 3.0)):
        save(checkpoints, step)
        checkpoints.evaluated(1, step, loss)
    checkpoints.evaluated(1, 99, 0.0)  # there is no checkpoint of this step
    assert steps(checkpoints) == [2, 4, 5]
    assert checkpoints.best() == {1: {"checkpoint": "ckpt-2", "step": 2, "loss": 3.0}}
    assert find_checkpoint(os.path.join(checkpoints.folder, "best")).endswith("ckpt-2")
    save(checkpoints, 1, phase=2)
    checkpoints.evaluated(2, 1, 7.0)
    run = os.path.dirname(checkpoints.folder)
    assert find_checkpoint(os.path.join(run, "best")).endswith("ckpt-p2-1")  # as of a folder: phase 2 first
    save(checkpoints, 6)
    checkpoints.evaluated(1, 6, 2.0)
    save(checkpoints, 7)
    assert steps(checkpoints) == [6, 7] and checkpoints.best()[1]["step"] == 6
    good = checkpoints.best()[1]
    for content in ("damaged", "[" * 200_000, "[]", "", "\0", '{"": 1}', *(json.dumps({"phase 1": entry}) for entry in (
            None, 7, [], {}, {**good, "step": "6"}, {**good, "loss": "2"}, {**good, "checkpoint": ["ckpt-6"]},
            {**good, "checkpoint": "../checkpoints/ckpt-6"}, {**good, "step": 7}))):
        (pathlib.Path(checkpoints.folder) / "best.json").write_text(content)
        assert checkpoints.best() == {} and find_checkpoint(os.path.join(checkpoints.folder, "best")) is None


def test_the_checkpoint_with_the_highest_f1_is_kept_and_named(checkpoints):
    for step, f1 in ((1, 5.0), (2, 70.0), (3, 4.0), (4, float("nan")), (5, 70.0)):
        save(checkpoints, step)
        checkpoints.evaluated(1, step, f1, "f1")
    assert steps(checkpoints) == [2, 4, 5]
    assert checkpoints.best() == {1: {"checkpoint": "ckpt-2", "step": 2, "f1": 70.0}}
    assert find_checkpoint(os.path.join(checkpoints.folder, "best")).endswith("ckpt-2")


def test_what_was_just_written_is_not_pruned_where_newer_ones_are_there(tmp_path):
    """Once the newest steps were kept: a run resumed from an old checkpoint deleted what it had just written."""
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    for step in (8, 10):
        save(checkpoints, step)
    for step in (3, 4, 5):
        save(checkpoints, step)
        assert step in steps(checkpoints)
    assert steps(checkpoints) == [4, 5, 8, 10]


# --- Making way ---


def test_a_rollback_moves_newer_checkpoints_of_its_phase_aside(tmp_path, caplog):
    caplog.set_level("INFO")
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    for step in (2, 4, 6):
        save(checkpoints, step)
        save(checkpoints, step, phase=2)
    checkpoints.evaluated(1, 4, 1.0)
    checkpoints.evaluated(2, 4, 1.0)
    assert checkpoints.set_newer_aside(1, 2, checkpoints.list(1)[0].prefix)
    aside = os.path.join(checkpoints.folder, "diverged-after-ckpt-2-1")
    assert steps(checkpoints) == [2] and steps(checkpoints, 2) == [2, 4, 6]
    assert steps(Checkpoints(aside)) == [4, 6] and Checkpoints(aside).newest(1).step == 6
    assert set(checkpoints.best()) == {2}  # that of phase 1 is not of this branch any more
    said = [record.message for record in caplog.records if aside in record.message]
    assert len(said) == 1 and "ckpt-6" in said[0] and "2 newer checkpoints" in said[0]
    assert not checkpoints.set_newer_aside(1, 2, checkpoints.list(1)[0].prefix)
    save(checkpoints, 3)
    checkpoints.set_newer_aside(1, 2, checkpoints.list(1)[0].prefix)  # once more: beside the first
    assert steps(Checkpoints(aside[:-1] + "2")) == [3] and steps(Checkpoints(aside)) == [4, 6]


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_an_interrupted_move_is_completed_by_the_next_start(tmp_path, monkeypatch, allowed):
    """Data without an index are removed there; data whose index was moved must follow it."""
    checkpoints = Checkpoints(str(tmp_path / "run"))
    for step in (1, 2, 3):
        save(checkpoints, step)
    allow_calls(monkeypatch, [(os, "replace")], allowed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.set_newer_aside(1, 1, checkpoints.list(1)[0].prefix)
    monkeypatch.undo()
    checkpoints.clean()
    aside = Checkpoints(os.path.join(checkpoints.folder, "diverged-after-ckpt-1-1"))
    assert sorted(steps(checkpoints) + steps(aside)) == [1, 2, 3]
    for found in checkpoints.list() + aside.list():
        restore(found.prefix, Model(0))


def test_overwrite_removes_the_old_checkpoints_only_after_the_first_save(checkpoints, small_disk):
    save(checkpoints, 1)
    save(checkpoints, 1, phase=2)
    (pathlib.Path(checkpoints.folder) / "notes.txt").write_text("mine")
    checkpoints.set_replaced_aside()
    old = Checkpoints(os.path.join(checkpoints.folder, "overwritten"))
    assert checkpoints.list() == [] and len(old.list()) == 2
    small_disk(True)
    checkpoints.start(1, 5, Model(2, size=9999), Model(2), {})
    assert checkpoints.finish() and len(old.list()) == 2 and old.newest(2).step == 1
    small_disk(False)
    save(checkpoints, 6)
    assert names(checkpoints) == ["ckpt-6.data-00000-of-00001", "ckpt-6.index", "notes.txt"]


# --- Paths ---


@pytest.mark.parametrize("name", ["a[1]", "b*c", "d?", "e\\f", "g{1,2}", "h [x] *"])
def test_a_path_with_characters_of_patterns_is_an_ordinary_path(tmp_path, name):
    """TensorFlow writes there and then does not find the file."""
    (tmp_path / "a1").mkdir()  # what a pattern would match
    checkpoints = Checkpoints(str(tmp_path / name / "checkpoints"), keep=2)
    for step in (1, 2, 3):
        save(checkpoints, step)
    checkpoints.clean()
    assert steps(checkpoints) == [2, 3] and checkpoints.newest(1).step == 3
    assert find_checkpoint(str(tmp_path / name)) == checkpoints.list()[-1].prefix
    model = Model(0)
    assert restore(checkpoints.list()[-1].prefix, model, Model(0))["step"] == 3 and (model.weight.numpy() == 3).all()
    damage(checkpoints.list()[-1].prefix, "flipped")
    assert checkpoints.newest(1).step == 2
    checkpoints.set_newer_aside(1, 2, checkpoints.list()[0].prefix)
    assert steps(checkpoints) == [2]
