"""report: logs that continue after a resume, metrics as text, curves, speed."""
from __future__ import annotations

import json

import pytest

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


def test_curves_are_drawn_for_whatever_the_log_has(tmp_path):
    path, png = str(tmp_path / "metrics.jsonl"), tmp_path / "curves.png"
    report.plot_curves(path, str(png), "empty", TABLE)
    assert not png.exists()
    log = report.MetricsLog(path, str(tmp_path / "tb"))
    for step in range(1, 6):
        log.write(step, "train", {"generator_loss": 5 / step, "learning_rate": 1e-3 * step})
    log.write(5, "eval", {"generator_loss": 1.5})
    report.plot_curves(path, str(png), "a run", TABLE)
    assert png.read_bytes().startswith(b"\x89PNG") and not list(tmp_path.glob("*.tmp*"))


def test_speed_is_totals_over_totals_without_the_first_update_and_without_excluded_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    speed = report.Speed()
    now[0] = 30.0
    assert speed.after(1, 8, 100) == {"first_update_seconds": 30.0}
    now[0] = 32.0
    assert speed.after(1, 8, 100)["sequences_per_second"] == 4
    with speed.excluded():
        now[0] += 1000
    now[0] += 2
    rates = speed.after(3, 24, 300)
    assert rates == {"updates_per_second": 1.0, "sequences_per_second": 8.0, "tokens_per_second": 100.0}
    assert "8.0 sequences/s" in speed.summary() and "30.0 s" in speed.summary()


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (360000, "100:00:00")])
def test_hours(seconds, text):
    assert report.hours(seconds) == text


def test_metrics_are_printed_in_the_tables_order_and_others_left_out():
    text = report.format_metrics({"learning_rate": 1e-3, "other": 1.0, "generator_loss": 2.5}, TABLE)
    assert text == "generator 2.5000  rate 1.00e-03"
