"""training: the training loop, and stops on request."""
from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from support import StopAfter

import report
import training
from configuration import Interrupted, RunFailed
from workers import ALONE, Workers


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
        save=lambda step, last: steps.events.append(f"save {step}" + " last" * last), evaluate=lambda step: "figures",
        not_finite=lambda step: f"not finite at {step}.",
        interrupted=lambda signal_name, step, anything_new: f"{signal_name} {step} {anything_new}")._replace(**changes)
    return training.run_updates(job, steps, steps, stop or training.StopRequest(), workers)


def test_the_loop_updates_logs_saves_and_evaluates_in_this_order():
    steps = Steps()
    assert run_updates(steps) == {}
    assert steps.events == [
        "update 1", "log 1", "update 2", "log 2", "update 3", "update 4", "log 4", "save 4", "evaluated 4: figures",
        "update 5", "log 5", "update 6", "update 7", "log 7", "save 7 last", "evaluated 7: figures", "summary"]


def test_without_checkpoints_nothing_is_saved():
    steps = Steps()
    run_updates(steps, save=None)
    assert steps.events[-2:] == ["evaluated 7: figures", "summary"]
    assert not any(event.startswith("save") for event in steps.events)


def test_a_stop_logs_and_saves_once_what_is_not_saved_and_waits_for_rank_0():
    class Two(Workers):
        def from_chief(self, value):
            steps.events.append("barrier")

    for step, events in ((3, ["update 3", "log 3", "save 3 last", "barrier"]),
                         (4, ["log 4", "save 4", "evaluated 4: figures", "save 4 last", "barrier"])):
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
