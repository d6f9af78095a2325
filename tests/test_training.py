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

import run_log
import trackers
import training
from configuration import Interrupted, RunFailed, UserError
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
    """Stands in for TrainStep: two micro-batches an update."""

    accumulation_steps, skip_budget = 2, 3

    def __init__(self, events, bad_step, skips, done):
        self.events, self.bad_step, self.skips, self.done = events, bad_step, skips, done
        self.found = 0

    def __call__(self, micro_batches):
        step = list(micro_batches)[-1]
        self.events.append(f"update {step}")
        self.found = self.found or (step if step == self.bad_step else 0)
        self.done += not self.found

    def step_done(self):
        return self.done

    def skipped(self):
        return [step for step in self.skips if step <= self.done]

    def read_metrics(self):
        return {"bad_step": self.found}


class Figures:
    """Stands in for RunLog."""

    name = "a run"

    def __init__(self, events, evaluated):
        self.events, self.evaluated, self.speed = events, evaluated, run_log.Speed()
        self.profile, self.histograms = run_log.Profile(None, ""), trackers.Histograms(0, None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def training(self, step, sums):
        self.events.append(f"log {step}")

    def evaluation(self, step, metrics):
        self.events.append(f"evaluated {step}: {metrics}")

    def was_evaluated(self, step):
        return step in self.evaluated

    def skipped(self, step, count, why):
        self.events.append(f"skipped {step}, number {count}: {why}")

    def advance(self):
        pass

    def redraw(self):
        self.events.append("redraw")

    def summary(self, updates):
        self.events.append("summary")


def run_updates(events, stop=None, workers=ALONE, step=0, bad_step=0, skips=(), evaluated=(), **changes):
    """Runs updates of which every fourth is saved and every fourth and the seventh evaluated."""
    job = training.Job(
        step=step, num_train_steps=7, micro_batches=lambda step: [step, step], log_every=5, save_minutes=0.0,
        saves_after=lambda step: step % 4 == 0, evaluates_after=lambda step: step in (4, 7),
        save=lambda step, last: events.append(f"save {step}" + " last" * last), evaluate=lambda step: "figures",
        bad_update=lambda step: f"update {step}", not_finite=lambda step: f"not finite at {step}.",
        interrupted=lambda signal_name, step, anything_new: f"{signal_name} {step} {anything_new}")._replace(**changes)
    return training.run_updates(job, Steps(events, bad_step, skips, step), Figures(events, evaluated),
                                stop or training.StopRequest(), workers)


class Two(Workers):
    """Two workers, seen from rank 0: the other one's requests are added."""

    def __init__(self, events, *requests):
        super().__init__(0, 2)
        object.__setattr__(self, "events", events)
        object.__setattr__(self, "requests", list(requests))

    def from_chief(self, value):
        self.events.append("barrier")
        return value

    def gather(self, value):
        return [value, (True, "shard 3 is damaged.")]

    def sum(self, numbers):
        other = self.requests.pop(0) if self.requests else (0, 0, 0)
        return [a + b for a, b in zip(numbers, (*other, 10))]


STOP, ERROR, SAVE = (1, 0, 0), (0, 1, 0), (0, 0, 1)


def test_the_loop_updates_logs_saves_and_evaluates_in_this_order():
    events = []
    assert run_updates(events) == {}
    assert events == [
        "update 1", "log 1", "update 2", "log 2", "update 3", "update 4", "log 4", "save 4", "evaluated 4: figures",
        "update 5", "log 5", "update 6", "update 7", "log 7", "save 7 last", "evaluated 7: figures", "summary"]


def test_without_checkpoints_nothing_is_saved():
    events = []
    run_updates(events, save=None)
    assert events[-2:] == ["evaluated 7: figures", "summary"]
    assert not any(event.startswith("save") for event in events)


def test_a_stop_logs_and_saves_once_what_is_not_saved_and_waits_for_rank_0():
    for step, expected in ((3, ["update 3", "log 3", "save 3 last", "barrier"]),
                           (4, ["log 4", "save 4", "evaluated 4: figures", "barrier", "save 4 last", "barrier"])):
        events = []
        with pytest.raises(Interrupted, match=f"^SIGTERM {step} True$"):
            run_updates(events, StopAfter(step), Two(events))
        assert events[-len(expected):] == expected


def test_a_stop_between_two_micro_batches_drops_the_update():
    events = []
    with pytest.raises(Interrupted, match="^SIGTERM 3 True$"):
        run_updates(events, StopAfter(3, micro_batches=1))
    assert events[-3:] == ["update 3", "log 3", "save 3 last"]


def test_a_stop_before_the_first_update_saves_nothing():
    events = []
    with pytest.raises(Interrupted, match="SIGTERM 2 False"):
        run_updates(events, StopAfter(0), step=2)
    assert events == []


def test_a_worker_stops_where_another_was_asked_to():
    events = []
    with pytest.raises(Interrupted, match="a signal to another worker 0 False"):
        run_updates(events, workers=Two(events, (0, 0, 0), STOP))
    assert events == ["barrier"]


def test_an_update_that_is_not_finite_ends_the_run_after_the_last_good_one_is_saved():
    events = []
    with pytest.raises(RunFailed, match="not finite at 6"):
        run_updates(events, bad_step=6, log_every=1, saves_after=lambda step: False)
    assert events[-4:] == ["update 5", "log 5", "update 6", "save 5 last"]
    events = []
    with pytest.raises(RunFailed, match="not finite at 3"):  # noticed at update 4
        run_updates(events, workers=Two(events), bad_step=3, saves_after=lambda step: False)
    assert events[-4:] == ["update 3", "update 4", "save 2 last", "barrier"]
    events = []
    with pytest.raises(RunFailed, match="not finite at 1"):  # nothing to save
        run_updates(events, bad_step=1)
    assert events == ["update 1"]


def test_skipped_updates_are_logged_once_with_what_identifies_them():
    events = []
    run_updates(events, skips=(1, 3, 6), step=2, saves_after=lambda step: False)
    skipped = [event for event in events if event.startswith("skipped")]
    assert [event[:20] for event in skipped] == ["skipped 3, number 2:", "skipped 6, number 3:"]
    assert "update 6" in skipped[1] and "--skip_bad_updates=3" in skipped[1]


@pytest.mark.parametrize("error", [UserError("shard 3 is damaged."), OSError("no answer")])
def test_data_that_cannot_be_read_ends_the_run_after_the_last_update_is_saved(error):
    def micro_batches(step):
        yield step
        if step == 6:
            raise error
        yield step

    for barrier in (["barrier"], []):
        events = []
        with pytest.raises(type(error)) as caught:
            run_updates(events, workers=Two(events) if barrier else ALONE, micro_batches=micro_batches)
        assert caught.value is error
        expected = ["update 5", "log 5", "save 5 last", *barrier]
        assert events[-len(expected):] == expected


def test_a_worker_saves_and_ends_where_another_cannot_read_its_data():
    events = []
    with pytest.raises(UserError, match="worker 1: shard 3 is damaged."):  # rank 0 is the one that reports
        run_updates(events, workers=Two(events, *[(0, 0, 0)] * 4, ERROR))
    assert events[-3:] == ["log 3", "save 3 last", "barrier"]


def test_an_error_of_an_update_saves_the_last_one_without_the_other_workers(caplog, monkeypatch):
    """For example when another worker is lost, or device memory runs out."""
    events = []
    update = Steps.__call__

    def failing(self, micro_batches):
        if self.done == 2:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        update(self, micro_batches)

    def cannot_save(step, last):
        events.append(f"save {step}")
        raise OSError("disk full")

    monkeypatch.setattr(Steps, "__call__", failing)
    for save in (lambda step, last: events.append(f"save {step}"), cannot_save):
        events.clear()
        with pytest.raises(tf.errors.ResourceExhaustedError):
            run_updates(events, save=save)
        assert events == ["update 1", "log 1", "update 2", "log 2", "save 2"]
    assert "disk full" in caplog.text


def test_a_finished_run_is_left_alone_but_for_missing_curves():
    events = []
    assert run_updates(events, step=7, evaluated=[7]) == {} and events == ["redraw"]


def test_a_missing_evaluation_is_done_on_resuming():
    events = []
    assert run_updates(events, step=7) == {} and events == ["evaluated 7: figures", "redraw"]
    events = []
    run_updates(events, step=4)
    assert events[:2] == ["evaluated 4: figures", "update 5"]
    for step, evaluated in ((4, [4]), (5, []), (0, [])):
        events = []
        run_updates(events, step=step, evaluated=evaluated, evaluates_after=lambda step: step in (0, 4))
        assert events[0] == f"update {step + 1}"


def test_a_stop_in_the_last_evaluation_is_not_the_end_of_the_run():
    events = []
    with pytest.raises(Interrupted, match=" 7 True"):
        run_updates(events, evaluate=lambda step: None)
    assert events[-2:] == ["save 7 last", "evaluated 7: None"]
    with pytest.raises(Interrupted, match=" 7 False"):
        run_updates(events, evaluate=lambda step: None, step=7)


# --- Requests for a checkpoint ---


def test_sigusr1_saves_after_the_update_and_training_continues():
    events = []
    with training.StopRequest() as stop:
        def micro_batches(step):
            yield step
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            yield step

        run_updates(events, stop, micro_batches=micro_batches)
    assert events[5:9] == ["log 3", "save 3", "update 4", "log 4"] and events[-1] == "summary"


def test_a_request_to_another_worker_saves_on_all():
    events = []
    run_updates(events, workers=Two(events, (0, 0, 0), (0, 0, 0), SAVE))
    assert events[:5] == ["update 1", "log 1", "update 2", "log 2", "save 2"]


def test_rank_0s_clock_requests_a_checkpoint_every_some_minutes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])

    def micro_batches(step):
        now[0] += 25
        return [step, step]

    events = []
    run_updates(events, micro_batches=micro_batches, save_minutes=1.0, saves_after=lambda step: step == 4)
    assert [event for event in events if event.startswith("save")] == ["save 3", "save 4", "save 7 last"]


def test_workers_ask_each_other_at_the_same_micro_batches_about_once_a_second(monkeypatch):
    """The sum of their times decides, which is the same on all; before an all-reduce they always ask."""
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])

    class Pair(Workers):
        def sum(self, numbers):
            asked.append(position[0])
            return [2 * number for number in numbers]

    asked, position = [], [0]
    agreement = training.Agreement(training.StopRequest(), Pair(0, 2))
    for seconds, expected in ((0.1, [1, 3, 7, 15, 25, 30]), (0.001, [10, 30]), (5.0, [30]),
                              (5.0, list(range(1, 31)))):
        asked.clear()
        position[0] = 0
        for position[0], _ in enumerate(agreement.during(iter(range(30)), 30), 1):
            now[0] += seconds
        assert [number + 1 for number in asked] == expected


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
