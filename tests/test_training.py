"""training: the training loop, checkpoints that are complete or absent, stops on request."""
from __future__ import annotations

import json
import os
import pathlib
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from support import StopAfter

import report
import training
from configuration import Interrupted, RunFailed, UserError
from workers import ALONE, Workers


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
    return training.Checkpoints(str(tmp_path / "checkpoints"), keep=2)


def save(checkpoints, step, phase=1, value=None):
    return checkpoints.save(phase, step, Model(step if value is None else value), Model(-step), {"note": "kept"})


def names(checkpoints):
    return sorted(os.listdir(checkpoints.folder))


def test_save_and_restore_give_model_optimizer_and_state_back(checkpoints):
    prefix = save(checkpoints, 7)
    assert os.path.basename(prefix) == "ckpt-7"
    model, optimizer = Model(0), Model(0)
    state = training.restore(prefix, model, optimizer)
    assert (model.weight.numpy() == 7).all() and (optimizer.weight.numpy() == -7).all()
    assert state == {"note": "kept", "phase": 1, "step": 7} == training.read_state(prefix)


def test_restore_without_optimizer_takes_the_weights_alone(checkpoints):
    model = Model(0)
    training.restore(save(checkpoints, 3), model)
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
        training.restore(prefix, Model(0))


def test_read_back_after_writing_catches_a_bad_disk(checkpoints, monkeypatch):
    write = tf.train.Checkpoint.write

    def write_badly(self, prefix, *args, **kwargs):
        write(self, prefix, *args, **kwargs)
        damage(prefix, "flipped")

    monkeypatch.setattr(tf.train.Checkpoint, "write", write_badly)
    with pytest.raises(training.UnreadableCheckpoint):
        save(checkpoints, 1)
    assert checkpoints.list() == []


@pytest.mark.parametrize("model", [Model(0, size=4), Other(0)], ids=["other shape", "missing variable"])
def test_a_checkpoint_that_does_not_match_in_every_variable_is_refused(checkpoints, model):
    with pytest.raises(UserError, match="ckpt-1 does not fit this model"):
        training.restore(save(checkpoints, 1), model)


def test_a_checkpoint_is_found_by_prefix_index_folder_and_run(tmp_path):
    """A folder whose name holds `.index` once lost that part of its name."""
    run = training.Checkpoints(str(tmp_path / "a.index.d" / "checkpoints"))
    prefix = save(run, 3)
    assert training.find_checkpoint(prefix) == prefix == training.find_checkpoint(prefix + ".index")
    assert training.find_checkpoint(run.folder) == prefix == training.find_checkpoint(os.path.dirname(run.folder))
    second = save(run, 1, phase=2)
    assert training.find_checkpoint(run.folder) == second
    damage(second, "flipped")
    assert training.find_checkpoint(run.folder) == prefix
    assert training.find_checkpoint(str(tmp_path)) is None and training.find_checkpoint("no/such") is None


def test_a_folder_of_damaged_checkpoints_alone_is_refused(checkpoints, refuses):
    damage(save(checkpoints, 1), "truncated")
    assert checkpoints.folder in refuses(training.find_checkpoint, checkpoints.folder)


def test_restore_from_nothing_names_the_path(tmp_path):
    with pytest.raises(UserError, match="nowhere/ckpt-1 cannot be read"):
        training.restore(str(tmp_path / "nowhere" / "ckpt-1"), Model(0))


def test_restore_from_another_projects_checkpoint_is_refused(tmp_path):
    prefix = tf.train.Checkpoint(model=Model(1)).write(str(tmp_path / "foreign"))
    with pytest.raises(UserError, match="not written by this project"):
        training.restore(prefix, Model(0))


def test_too_little_disk_is_refused_before_anything_is_written(checkpoints, monkeypatch):
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * 12 * 3 - 1}))
    with pytest.raises(UserError, match="--keep_checkpoint_max"):  # 3 floats, 3 copies of each, 2 kept and 1 written
        checkpoints.check_disk(Model(1))
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * 12 * 3}))
    checkpoints.check_disk(Model(1))


def test_too_little_disk_names_the_commands_own_option(tmp_path, monkeypatch):
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    for arguments, flag in (((2,), "results_dir"), ((2, "output_dir"), "output_dir")):
        with pytest.raises(UserError, match=f"or choose another --{flag}\\.$"):
            training.Checkpoints(str(tmp_path), *arguments).check_disk(Model(1))


def test_clear_removes_checkpoints_of_both_phases_and_nothing_else(checkpoints):
    save(checkpoints, 1)
    save(checkpoints, 1, phase=2)
    (pathlib.Path(checkpoints.folder) / "notes.txt").write_text("mine")
    checkpoints.clear()
    assert names(checkpoints) == ["notes.txt"]


# --- Stopping ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_request_and_the_old_handler_comes_back(number):
    before = signal.getsignal(number)
    with training.StopRequest() as stop:
        stop.begin()
        assert stop.signal_name is None
        os.kill(os.getpid(), number)
        assert stop.signal_name == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_repeated_signals_are_one_request():
    with training.StopRequest() as stop:
        stop.begin()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.signal_name == "SIGTERM"


def test_a_signal_before_the_first_update_ends_the_command_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM before the first update: run the same command again"):
        with training.StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


# --- The training loop ---


class Steps:
    """Stands in for TrainStep and Report: records the order of what the loop does."""

    name = "a run"

    def __init__(self, bad_step=0):
        self.events, self.bad_step, self.speed = [], bad_step, report.Speed()

    def __call__(self, micro_batches):
        self.events.append(f"update {micro_batches}")

    def read_metrics(self):
        return {"bad_step": self.bad_step}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def training(self, step, sums):
        self.events.append(f"log {step}")

    def evaluation(self, step, metrics):
        self.events.append(f"evaluated {step}: {metrics}")

    def advance(self):
        pass

    def summary(self):
        self.events.append("summary")


def run_updates(steps, stop=None, workers=ALONE, **changes):
    job = training.Job(
        step=0, num_train_steps=7, micro_batches=lambda step: step, log_every=5,
        saves_after=lambda step: step % 4 == 0, evaluates_after=lambda step: step in (4, 7),
        save=lambda step: steps.events.append(f"save {step}"), evaluate=lambda: "figures",
        not_finite=lambda step: f"not finite at {step}.",
        interrupted=lambda signal_name, step, anything_new: f"{signal_name} {step} {anything_new}")._replace(**changes)
    return training.run_updates(job, steps, steps, stop or training.StopRequest(), workers)


def test_the_loop_updates_logs_saves_and_evaluates_in_this_order():
    steps = Steps()
    assert run_updates(steps) == {}
    assert steps.events == [
        "update 1", "log 1", "update 2", "log 2", "update 3", "update 4", "log 4", "save 4", "evaluated 4: figures",
        "update 5", "log 5", "update 6", "update 7", "log 7", "save 7", "evaluated 7: figures", "summary"]


def test_without_checkpoints_nothing_is_saved():
    steps = Steps()
    run_updates(steps, save=None)
    assert steps.events[-2:] == ["evaluated 7: figures", "summary"]
    assert not any(event.startswith("save") for event in steps.events)


def test_a_stop_logs_and_saves_once_what_is_not_saved_and_waits_for_rank_0():
    class Two(Workers):
        def from_chief(self, value):
            steps.events.append("barrier")

    for step, events in ((3, ["update 3", "log 3", "save 3", "barrier"]),
                         (4, ["log 4", "save 4", "evaluated 4: figures", "barrier"])):
        steps = Steps()
        with pytest.raises(Interrupted, match=f"^SIGTERM {step} True$"):
            run_updates(steps, StopAfter(step), Two())
        assert steps.events[-len(events):] == events


def test_a_stop_before_the_first_update_saves_nothing():
    steps = Steps()
    with pytest.raises(Interrupted, match="SIGTERM 2 False"):
        run_updates(steps, StopAfter(0), step=2)
    assert steps.events == []


def test_a_worker_stops_where_another_was_asked_to():
    class AnotherStops(Workers):
        def any(self, flag):
            return True

    with pytest.raises(Interrupted, match="a signal to another worker 0 False"):
        run_updates(Steps(), workers=AnotherStops())


def test_an_update_that_is_not_finite_ends_the_run_before_it_is_logged_or_saved():
    steps = Steps(bad_step=2)
    with pytest.raises(RunFailed, match="not finite at 2"):
        run_updates(steps)
    assert steps.events == ["update 1"]


def test_a_finished_run_is_left_alone():
    steps = Steps()
    assert run_updates(steps, step=7) == {} and steps.events == []


# --- What a checkpoint says of its run ---


def test_what_differs_from_the_checkpoints_run_is_logged(caplog):
    state = {"environment": training.environment(), "world_size": 1}
    training.log_differences(state, ALONE, 8, "record")
    assert not caplog.records
    with caplog.at_level("INFO"):
        training.log_differences({"environment": {}, "world_size": 4}, ALONE, 8, "record")
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == 2 and "TensorFlow differs" in notes[0]
    assert "4 workers wrote" in notes[1] and "8 sequences" in notes[1] and "every record" in notes[1]


def test_environment_is_plain_json():
    assert json.loads(json.dumps(training.environment()))["tensorflow"] == tf.__version__
    assert np.isfinite(training.environment()["cores"])
