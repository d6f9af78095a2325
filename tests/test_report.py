"""report: logs that continue after a resume, metrics as text, curves, speed."""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

import report
from configuration import UserError

TABLE = (report.Metric("generator_loss", "generator {:.4f}", "generator loss"),
         report.Metric("generator_accuracy", "accuracy {:.1%}"),
         report.Metric("learning_rate", "rate {:.2e}", "learning rate"))

# --- Logs ---


def test_metrics_log_continues_after_a_resume_without_repeating_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = report.MetricsLog(str(path), str(tmp_path / "tensorboard"))
    for step in (1, 2, 3):
        log.write(step, "train", {"loss": float(step)})
    with open(path, "a") as file:
        file.write('{"step": 4, "kind": "tr')  # the machine went down here
    log = report.MetricsLog(str(path), str(tmp_path / "tensorboard"), step=2)
    log.write(3, "train", {"loss": 30.0})
    entries = report.read_metrics_log(str(path))
    assert [(entry["step"], entry["loss"]) for entry in entries] == [(1, 1), (2, 2), (3, 30)]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_a_fresh_metrics_log_drops_an_earlier_runs_lines(tmp_path):
    path = str(tmp_path / "metrics.jsonl")
    report.MetricsLog(path, str(tmp_path / "tb")).write(1, "train", {"loss": 1.0})
    report.MetricsLog(path, str(tmp_path / "tb"))
    assert report.read_metrics_log(path) == []


def test_a_metrics_log_that_cannot_be_written_names_the_option(tmp_path, refuses):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "log.jsonl", tmp_path / "folder"):
        for step in (0, 3):
            said = refuses(report.MetricsLog, str(path), str(tmp_path / "tb"), step)
            assert f"{path} cannot be written" in said and "--json_summary" in said
    assert not list(tmp_path.glob("folder*tmp*"))


def test_start_logging_names_a_folder_that_cannot_be_written(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="cannot be written .*choose another folder"):
        report.start_logging(str(blocker / "logs"), "rank0")


def test_a_damaged_line_is_left_out_on_resuming_and_the_rest_is_kept(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "kind": "train", "loss": float(step)}) for step in range(1, 5)]
    damage = [b"\x00\x00\xff", b'{"step": 3, "kind"', b"[1]", b'{"step": "x", "kind": "train"}', b"7"]
    lines = [good[0].encode(), *damage, *(line.encode() for line in good[1:])]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    report.MetricsLog(str(path), str(tmp_path / "tb"), step=3)
    assert path.read_text().splitlines() == good[:3]
    assert f"{len(damage)} damaged lines" in caplog.text


def test_a_full_disk_is_warned_about_once_and_lines_are_written_when_there_is_room(tmp_path, caplog, monkeypatch):
    """Also after half a line was written."""
    path = tmp_path / "metrics.jsonl"
    log = report.MetricsLog(str(path), str(tmp_path / "tb"))
    log.write(1, "train", {"loss": 1.0})
    full, real = [True], open

    class Half:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if full[0]:
                self.file.write(data[:9])
                raise OSError(28, "No space left on device")
            self.file.write(data)

    monkeypatch.setattr(report, "open", lambda *args, **kwargs: Half(real(*args, **kwargs)), raising=False)
    log.write(2, "train", {"loss": 2.0})
    log.write(3, "eval", {"loss": 3.0})
    assert caplog.text.count("No space left") == 1 and str(path) in caplog.text
    full[0] = False
    with caplog.at_level("INFO"):
        log.write(4, "train", {"loss": 4.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert "can be written again" in caplog.text
    full[0] = True
    log.write(5, "train", {"loss": 5.0})
    assert caplog.text.count("No space left") == 2


def test_the_curves_and_tensorboard_are_not_fatal_either(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(report.tf.summary, "scalar", lambda *_, **__: full())
    monkeypatch.setattr(report, "plot_curves", lambda *_: full())

    def full():
        raise OSError(28, "No space left on device")

    with a_report(tmp_path) as drawn:
        drawn.evaluation(1, {"generator_loss": 1.0})
        drawn.evaluation(2, {"generator_loss": 1.0})
    assert "TensorBoard" in caplog.text and str(tmp_path / "curves.png") in caplog.text
    assert caplog.text.count("No space left") == 2
    assert len(report.read_metrics_log(str(tmp_path / "metrics.jsonl"))) == 2


def a_report(folder, step=0, num_train_steps=10):
    return report.Report("title", "a run", TABLE, lambda sums: {}, lambda step: 0.1, step, num_train_steps, 8,
                         str(folder / "metrics.jsonl"), str(folder / "curves.png"), str(folder / "tb"))


def scalars(folder):
    """step -> value of train/loss, as TensorBoard shows it."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
    accumulator = accumulators.EventAccumulator(str(folder))
    accumulator.Reload()
    values = [(event.step, float(report.tf.make_ndarray(event.tensor_proto)))
              for event in accumulator.Tensors("train/loss")]
    assert len(dict(values)) == len(values)
    return dict(values)


def test_tensorboard_drops_the_steps_that_are_run_again_and_an_earlier_runs(tmp_path):
    def write(log, steps, offset):
        for step in steps:
            log.write(step, "train", {"loss": step + offset})

    def log(step):
        return report.MetricsLog(str(tmp_path / "metrics.jsonl"), str(tmp_path / "tb"), step)

    write(log(0), range(1, 8), 0)
    write(log(4), (5,), 10)
    assert scalars(tmp_path / "tb") == {1: 1, 2: 2, 3: 3, 4: 4, 5: 15}
    write(log(0), (1,), 20)
    assert scalars(tmp_path / "tb") == {1: 21}


@pytest.mark.parametrize("broken", ["tb", "metrics.jsonl"])
def test_files_that_cannot_be_written_are_refused_at_the_start(broken, tmp_path, refuses):
    (tmp_path / "file").write_text("")
    paths = {name: str(tmp_path / name) for name in ("metrics.jsonl", "tb")}
    paths[broken] = str(tmp_path / "file" / broken)
    assert paths[broken] in refuses(report.MetricsLog, paths["metrics.jsonl"], paths["tb"])


def test_a_folder_that_cannot_be_written_is_refused_by_its_flag(tmp_path, refuses, monkeypatch):
    report.check_writable(str(tmp_path / "new" / "folder"), "results_dir")
    assert (tmp_path / "new" / "folder").is_dir() and not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    said = refuses(report.check_writable, str(tmp_path / "file" / "x"), "results_dir")
    assert "--results_dir" in said and f"{tmp_path}/file/x" in said

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(report.tempfile, "TemporaryFile", read_only)
    assert "Read-only file system" in refuses(report.check_writable, str(tmp_path), "log_dir")


CONSOLE = """
import sys
import report
from absl import logging
report.start_logging(sys.argv[1], "run")
bar = report.progress_bar(3000, 0, "updates")
for number in range(3000):
    logging.info("line %d of a run whose reader has gone", number)
    bar.update()
bar.close()
sys.exit(75)
"""


@pytest.mark.parametrize("both", [False, True])
def test_a_closed_pipe_ends_the_console_output_only(tmp_path, both):
    """| head -1; also where standard error and the progress bar go into the same pipe."""
    process = subprocess.Popen([sys.executable, "-c", CONSOLE, str(tmp_path)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT if both else subprocess.PIPE,
                               env={**os.environ, "ELECTRA_PROGRESS": "1"})
    # TensorFlow 2.21 writes lines of its own to standard error while it is imported.
    assert any("line " in line for line in iter(process.stdout.readline, ""))
    process.stdout.close()
    errors = "" if both else process.stderr.read()
    assert process.wait(60) == 75 and "Error" not in errors
    assert len((tmp_path / "run.log").read_text().splitlines()) == 3000


def test_a_log_file_on_a_full_disk_is_warned_about_once(tmp_path, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    (tmp_path / "run.log").symlink_to("/dev/full")
    report.start_logging(str(tmp_path), "run")
    for number in range(3):
        report.logging.info("line %d", number)
    output = capsys.readouterr()
    assert output.err.count("cannot be written") == 1 and "Traceback" not in output.err and "line 2" in output.out
    handler = report.logging.get_absl_logger().handlers[-1]
    report.logging.get_absl_logger().removeHandler(handler)
    handler.stream = None  # or closing it at exit would try again


# --- Curves ---


def test_curves_are_drawn_for_whatever_the_log_has(tmp_path):
    path, png = str(tmp_path / "metrics.jsonl"), tmp_path / "curves.png"
    report.plot_curves(report.Curves(TABLE), str(png), "empty")
    assert not png.exists()
    log = report.MetricsLog(path, str(tmp_path / "tb"), table=TABLE)
    for step in range(1, 6):
        log.write(step, "train", {"generator_loss": 5 / step, "learning_rate": 1e-3 * step})
    log.write(5, "eval", {"generator_loss": 1.5})
    report.plot_curves(log.curves, str(png), "a run")
    assert png.read_bytes().startswith(b"\x89PNG") and not list(tmp_path.glob("*.tmp*"))
    resumed = report.MetricsLog(path, str(tmp_path / "tb"), step=5, table=TABLE)
    assert resumed.last_evaluation == 5 and len(log.curves.series) == 3
    for key, series in log.curves.series.items():
        assert resumed.curves.series[key].points() == series.points()


@pytest.mark.parametrize("count", [1, 5, 1999, 2000, 2001, 9999, 100_000])
def test_a_series_is_thinned_to_a_bounded_number_of_points_and_keeps_spikes(count):
    rng = np.random.default_rng(count)
    values = rng.normal(size=count)
    spike, dip = int(rng.integers(count)), int(rng.integers(count))
    values[spike], values[dip] = 50.0, -50.0
    series = report.Series()
    for step, value in enumerate(values):
        series.add(step, float(value))
    series.add(count, math.nan)
    points = series.points()
    assert len(points) == count if count < report.Series.LIMIT else len(points) <= report.Series.LIMIT + 1
    assert points == sorted(points) and all(values[step] == value for step, value in points)
    assert (dip, -50.0) in points and ((spike, 50.0) in points or spike == dip)
    assert points[0][0] <= count / 500 and points[-1][0] >= count - 1 - count / 500  # evenly, to both ends


# --- Speed ---


def test_speed_leaves_out_the_first_update_and_excluded_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    speed = report.Speed()
    now[0] = 30.0
    assert speed.after(1, 8, 100) == {"first_update_seconds": 30.0} and speed.average() == {}
    now[0] = 32.0
    assert speed.after(1, 8, 100)["sequences_per_second"] == 4
    with speed.excluded():
        now[0] += 1000
    now[0] += 2
    rates = speed.after(3, 24, 300)
    assert rates == {"updates_per_second": 1.0, "sequences_per_second": 8.0, "tokens_per_second": 100.0,
                     "average_sequences_per_second": 8.0}
    assert "8.0 sequences/s" in speed.summary() and "30.0 s" in speed.summary()


def test_a_slowdown_shows_in_the_rates_and_the_average_is_that_of_the_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    speed = report.Speed()
    speed.after(1, 8, 100)
    for seconds, count in ((1.0, 1000), (4.0, report.Speed.WINDOW)):
        for _ in range(count):
            now[0] += seconds
            rates = speed.after(1, 8, 100)
    assert rates["sequences_per_second"] == pytest.approx(2.0)
    assert rates["average_sequences_per_second"] == pytest.approx(8 * 1010 / 1040)
    assert speed.average()["sequences_per_second"] == pytest.approx(8 * 1010 / 1040)


def test_an_interval_without_an_applied_update_has_no_line(tmp_path):
    sums = {"loss": 8.0, "micro_batches": 4, "gradient_norm": 6.0, "updates": 3, "tokens": 100, "bad_step": 0}
    with a_report(tmp_path) as log:
        log.training(4, sums)  # of 4 updates one was skipped
        log.skipped(5, 2, "why")
        log.training(5, {name: 0.0 for name in sums})
    entries = report.read_metrics_log(str(tmp_path / "metrics.jsonl"))
    assert [(entry["step"], entry["kind"]) for entry in entries] == [(4, "train"), (5, "skipped")]
    assert entries[0]["gradient_norm"] == 2.0 and entries[0]["loss"] == 2.0 and entries[1]["skipped_updates"] == 2


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (360000, "100:00:00")])
def test_hours(seconds, text):
    assert report.hours(seconds) == text


def test_metrics_are_printed_in_the_tables_order_and_others_left_out():
    text = report.format_metrics({"learning_rate": 1e-3, "other": 1.0, "generator_loss": 2.5}, TABLE)
    assert text == "generator 2.5000  rate 1.00e-03"
