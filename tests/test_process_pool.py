"""process_pool.py with real worker processes. What stops a build is tested with the commands."""
from __future__ import annotations

import os
import signal

import pytest

import process_pool
from configuration import RunFailed, UserError

_worker = None  # in a worker: the argument and the progress of each task


def start_worker(scale, done):
    global _worker
    process_pool.begin_worker()
    _worker = scale, done


def task(number):
    scale, done = _worker
    if scale == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if scale == "wrong":
        raise UserError(f"--corpus_dir: file {number} is wrong.")
    if scale == "broken":
        raise ZeroDivisionError(f"in task {number}")
    done[number] += 10 * scale  # more than its size
    return scale * number, list(done)


def run(tasks, scale):
    return process_pool.run_tasks(task, tasks, [1, 2, 4, 8], 2, start_worker, (scale,), "testing")


def test_results_come_by_number_and_finished_tasks_count_as_progress(monkeypatch, capfd):
    monkeypatch.setattr(process_pool, "LOG_SECONDS", -1)
    results = run([3, 1], 5)
    assert {number: result for number, (result, _) in results.items()} == {3: 15, 1: 5}
    for _, done in results.values():
        assert (done[0], done[2]) == (1, 4)  # by an earlier call
    assert "100%" in capfd.readouterr().out  # not above


@pytest.mark.parametrize("scale, error, words", [
    ("wrong", UserError, "--corpus_dir"), ("broken", RunFailed, "ZeroDivisionError"),
    ("killed", RunFailed, "--num_processes")])
def test_a_failed_worker_ends_the_call(scale, error, words):
    with pytest.raises(error, match=words):
        run([0], scale)
