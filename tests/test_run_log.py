"""run_log: logs that continue after a resume, metrics as text, the console, curves, speed."""
from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time

import pytest
from support import ROOT

import curves
import run_log
import run_pretraining
import run_tf_squad
from configuration import UserError
from curves import Metric

FULL = "/dev/full"

TABLE = (Metric("generator_loss", "generator {:.4f}", "gen {generator_loss:.2f}", panel="generator loss"),
         Metric("generator_accuracy", "accuracy {:.1%}"),
         Metric("learning_rate", "rate {:.2e}", panel="learning rate", is_mean=False))

# --- Logs ---


def test_metrics_log_continues_after_a_resume_without_repeating_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = run_log.MetricsLog(str(path), str(tmp_path / "tensorboard"))
    for step in (1, 2, 3):
        log.write(step, "train", {"loss": float(step)})
    with open(path, "a") as file:
        file.write('{"step": 4, "kind": "tr')  # the machine went down here
    log = run_log.MetricsLog(str(path), str(tmp_path / "tensorboard"), step=2)
    log.write(3, "train", {"loss": 30.0})
    entries = run_log.read_metrics_log(str(path))
    assert [(entry["step"], entry["loss"]) for entry in entries] == [(1, 1), (2, 2), (3, 30)]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_a_fresh_metrics_log_drops_an_earlier_runs_lines(tmp_path):
    path = str(tmp_path / "metrics.jsonl")
    run_log.MetricsLog(path, str(tmp_path / "tb")).write(1, "train", {"loss": 1.0})
    run_log.MetricsLog(path, str(tmp_path / "tb"))
    assert run_log.read_metrics_log(path) == []


def test_a_metrics_log_that_cannot_be_written_names_the_option(tmp_path, refuses):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "log.jsonl", tmp_path / "folder"):
        for step in (0, 3):
            said = refuses(run_log.MetricsLog, str(path), str(tmp_path / "tb"), step)
            assert f"{path} cannot be written" in said and "--json_summary" in said
    assert not list(tmp_path.glob("folder*tmp*"))


def test_start_logging_names_a_folder_that_cannot_be_written(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="cannot be written .*choose another folder"):
        run_log.start_logging(str(blocker / "logs"), "rank0")


def test_a_damaged_line_is_left_out_on_resuming_and_the_rest_is_kept(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "kind": "train", "loss": float(step)}) for step in range(1, 5)]
    damage = [b"\x00\x00\xff", b'{"step": 3, "kind"', b"[1]", b'{"step": "x", "kind": "train"}', b"7"]
    lines = [good[0].encode(), *damage, *(line.encode() for line in good[1:])]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    run_log.MetricsLog(str(path), str(tmp_path / "tb"), step=3)
    assert path.read_text().splitlines() == good[:3]
    assert f"{len(damage)} damaged lines" in caplog.text


def test_a_full_disk_is_warned_about_once_and_lines_are_written_when_there_is_room(tmp_path, caplog, monkeypatch):
    """Also after half a line was written."""
    path = tmp_path / "metrics.jsonl"
    log = run_log.MetricsLog(str(path), str(tmp_path / "tb"))
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

    monkeypatch.setattr(run_log, "open", lambda *args, **kwargs: Half(real(*args, **kwargs)), raising=False)
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
    monkeypatch.setattr(run_log.tf.summary, "scalar", lambda *_, **__: full())
    monkeypatch.setattr(run_log, "plot_curves", lambda *_: full())

    def full():
        raise OSError(28, "No space left on device")

    with a_report(tmp_path) as drawn:
        drawn.evaluation(1, {"generator_loss": 1.0})
        drawn.evaluation(2, {"generator_loss": 1.0})
    assert "TensorBoard" in caplog.text and str(tmp_path / "curves.png") in caplog.text
    assert caplog.text.count("No space left") == 2
    assert len(run_log.read_metrics_log(str(tmp_path / "metrics.jsonl"))) == 2


def a_report(folder, step=0, num_train_steps=10):
    return run_log.RunLog("title", "a run", TABLE, lambda sums: {}, lambda step: 0.1, step, num_train_steps, 8,
                         str(folder / "metrics.jsonl"), str(folder / "curves.png"), str(folder / "tb"))


def scalars(folder):
    """step -> value of train/loss, as TensorBoard shows it."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
    accumulator = accumulators.EventAccumulator(str(folder))
    accumulator.Reload()
    values = [(event.step, float(run_log.tf.make_ndarray(event.tensor_proto)))
              for event in accumulator.Tensors("train/loss")]
    assert len(dict(values)) == len(values)
    return dict(values)


def test_tensorboard_drops_the_steps_that_are_run_again_and_an_earlier_runs(tmp_path):
    def write(log, steps, offset):
        for step in steps:
            log.write(step, "train", {"loss": step + offset})

    def log(step):
        return run_log.MetricsLog(str(tmp_path / "metrics.jsonl"), str(tmp_path / "tb"), step)

    write(log(0), range(1, 8), 0)
    # Names of event files have the second and a number that grows in the process, and .9. and .10. are read in the
    # order of their letters: within one second that is the wrong one.
    time.sleep(1 - time.time() % 1)
    write(log(4), (5,), 10)
    assert scalars(tmp_path / "tb") == {1: 1, 2: 2, 3: 3, 4: 4, 5: 15}
    write(log(0), (1,), 20)
    assert scalars(tmp_path / "tb") == {1: 21}


@pytest.mark.parametrize("broken", ["tb", "metrics.jsonl"])
def test_files_that_cannot_be_written_are_refused_at_the_start(broken, tmp_path, refuses):
    (tmp_path / "file").write_text("")
    paths = {name: str(tmp_path / name) for name in ("metrics.jsonl", "tb")}
    paths[broken] = str(tmp_path / "file" / broken)
    assert paths[broken] in refuses(run_log.MetricsLog, paths["metrics.jsonl"], paths["tb"])


def test_a_folder_that_cannot_be_written_is_refused_by_its_flag(tmp_path, refuses, monkeypatch):
    run_log.check_writable(str(tmp_path / "new" / "folder"), "results_dir")
    assert (tmp_path / "new" / "folder").is_dir() and not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    said = refuses(run_log.check_writable, str(tmp_path / "file" / "x"), "results_dir")
    assert "--results_dir" in said and f"{tmp_path}/file/x" in said

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(run_log.tempfile, "TemporaryFile", read_only)
    assert "Read-only file system" in refuses(run_log.check_writable, str(tmp_path), "log_dir")


CONSOLE = """
import sys
import run_log
from absl import logging
run_log.start_logging(sys.argv[1], "run")
bar = run_log.progress_bar(3000, 0, "updates")
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


def test_a_console_on_a_full_disk_does_not_change_the_exit_status(tmp_path):
    with open(FULL, "w") as console:
        ran = subprocess.run([sys.executable, "-c", CONSOLE, str(tmp_path)], cwd=ROOT, stdout=console, text=True,
                             stderr=subprocess.PIPE, env={**os.environ, "ELECTRA_PROGRESS": "0"}, timeout=120)
    assert ran.returncode == 75 and ran.stderr.count("cannot be written") == 1 and "rror:" not in ran.stderr
    assert len((tmp_path / "run.log").read_text().splitlines()) == 3000


def test_a_log_file_on_a_full_disk_is_warned_about_once(tmp_path, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    (tmp_path / "run.log").symlink_to("/dev/full")
    run_log.start_logging(str(tmp_path), "run")
    for number in range(3):
        run_log.logging.info("line %d", number)
    output = capsys.readouterr()
    assert output.err.count("cannot be written") == 1 and "Traceback" not in output.err and "line 2" in output.out
    handler = run_log.logging.get_absl_logger().handlers[-1]
    run_log.logging.get_absl_logger().removeHandler(handler)
    handler.stream = None  # or closing it at exit would try again


# --- Curves ---


def test_curves_are_drawn_for_whatever_the_log_has(tmp_path):
    path, png = str(tmp_path / "metrics.jsonl"), tmp_path / "curves.png"
    curves.plot_curves(curves.Curves(TABLE), str(png), "empty")
    assert not png.exists()
    log = run_log.MetricsLog(path, str(tmp_path / "tb"), table=TABLE)
    for step in range(1, 6):
        log.write(step, "train", {"generator_loss": 5 / step, "learning_rate": 1e-3 * step})
    log.write(5, "eval", {"generator_loss": 1.5})
    curves.plot_curves(log.curves, str(png), "a run")
    assert png.read_bytes().startswith(b"\x89PNG") and not list(tmp_path.glob("*.tmp*"))
    resumed = run_log.MetricsLog(path, str(tmp_path / "tb"), step=5, table=TABLE)
    assert resumed.last_evaluation == 5 and len(log.curves.series) == 3
    for key, series in log.curves.series.items():
        assert resumed.curves.series[key].points() == series.points()


class Missing:
    """As an import hook: no such module. As a path entry it would come too late for what is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("matplotlib"):
            raise RuntimeError("cannot find a folder for its cache")


@pytest.mark.parametrize("broken", ["import", "draw", "disk"])
def test_a_plot_that_fails_is_one_warning_and_the_run_continues(tmp_path, monkeypatch, caplog, broken):
    import matplotlib.figure
    if broken == "import":
        for name in [name for name in sys.modules if name.startswith("matplotlib")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    elif broken == "draw":
        monkeypatch.setattr(matplotlib.figure.Figure, "subplots", lambda *_, **__: 1 / 0)
    else:
        def full(self, path, **_):
            with open(FULL, "wb", buffering=0) as file:
                file.write(b"x")
        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", full)
    with a_report(tmp_path) as log:
        log.evaluation(1, {"generator_loss": 1.0})
        log.evaluation(2, {"generator_loss": 1.0})
        log.training(3, {"loss": 1.0, "micro_batches": 1, "gradient_norm": 1.0, "updates": 1, "tokens": 1})
        log.summary(4)
    assert caplog.text.count("warning: ") == 1 and str(tmp_path / "curves.png") in caplog.text
    assert {"import": "its cache", "draw": "division", "disk": "No space left"}[broken] in caplog.text
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "tb"]


# --- Speed ---


def test_speed_leaves_out_the_first_update_and_excluded_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    speed = run_log.Speed()
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


def test_the_models_flops_and_their_share_of_the_peak_are_logged_and_summed_up(tmp_path, monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    drawn = run_log.RunLog("title", "a run", TABLE, lambda sums: {}, lambda step: 0.1, 4, 10, 8,
                          str(tmp_path / "m.jsonl"), str(tmp_path / "c.png"), str(tmp_path / "tb"),
                          flops=lambda first, last: 3e9 * len(range(first, last + 1)), peak_flops=10e9)
    sums = {"loss": 1.0, "micro_batches": 1, "gradient_norm": 1.0, "updates": 1, "tokens": 1}
    with drawn, caplog.at_level("INFO"):
        for step, seconds in ((5, 30), (6, 1), (10, 4)):
            now[0] += seconds
            drawn.training(step, sums)
        drawn.summary(4)
    entries = run_log.read_metrics_log(str(tmp_path / "m.jsonl"))
    assert "model_flops_per_second" not in entries[0]
    assert [entry["model_flops_per_second"] for entry in entries[1:]] == pytest.approx([3e9, 3e9])
    assert entries[2]["model_flops_utilization"] == pytest.approx(0.3)
    assert "3 GFLOP/s of the model (30% of the peak)" in caplog.text.splitlines()[-1]


def test_a_profile_that_cannot_be_written_is_warned_about_and_an_interrupted_one_is_written(monkeypatch, caplog):
    calls = []
    profiler = run_log.tf.profiler.experimental
    monkeypatch.setattr(profiler, "start", lambda folder: calls.append("start"))
    monkeypatch.setattr(profiler, "stop", lambda: calls.append("stop"))
    for last in (4, 9):  # beyond the last update
        profile = run_log.Profile((2, last), "folder")
        for step in (3, 4, 5):  # resumed at 2
            with profile.of(step, lambda: calls.append("wait")):
                calls.append(step)
        profile.stop()
    assert calls == ["wait", "start", 3, 4, "wait", "stop", 5, "wait", "start", 3, 4, 5, "stop"]

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profiler, "start", full)
    profile = run_log.Profile((1, 1), "folder")
    with profile.of(1, lambda: None):
        pass
    assert caplog.text.count("--profile_steps") == 1 and "No space left" in caplog.text


def test_a_slowdown_shows_in_the_rates_and_the_average_is_that_of_the_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    speed = run_log.Speed()
    speed.after(1, 8, 100)
    for seconds, count in ((1.0, 1000), (4.0, run_log.Speed.WINDOW)):
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
    entries = run_log.read_metrics_log(str(tmp_path / "metrics.jsonl"))
    assert [(entry["step"], entry["kind"]) for entry in entries] == [(4, "train"), (5, "skipped")]
    assert entries[0]["gradient_norm"] == 2.0 and entries[0]["loss"] == 2.0 and entries[1]["skipped_updates"] == 2


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (359999, "99:59:59"),
                                           (360000, "4d 4h")])
def test_hours(seconds, text):
    assert run_log.hours(seconds) == text


def test_metrics_are_printed_in_the_tables_order_and_others_left_out():
    text = run_log.format_metrics({"learning_rate": 1e-3, "other": 1.0, "generator_loss": 2.5}, TABLE)
    assert text == "generator 2.5000  rate 1.00e-03"


# --- Console lines and the progress bar ---


@pytest.fixture
def start_logging(tmp_path):
    """Starts logging to the console and a file. Returns: a function that reads the file."""
    def start():
        run_log.start_logging(str(tmp_path), "run")
        return lambda: (tmp_path / "run.log").read_text(encoding="utf-8")

    yield start
    logger = run_log.logging.get_absl_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


PRETRAINING = dict(generator_loss=123.4567, generator_accuracy=1.0, discriminator_loss=0.0512345,
                   discriminator_accuracy=1.0, discriminator_precision=1.0, discriminator_recall=1.0,
                   discriminator_gain=-1.2345)
SQUAD = dict(start_accuracy=1.0, end_accuracy=1.0, answerability_accuracy=1.0)


@pytest.mark.parametrize("table, loss, means, held_out", [
    (run_pretraining.METRICS, 12345.678, PRETRAINING,
     {**PRETRAINING, "generator_perplexity": 123456.789, "discriminator_auc": 0.98765}),
    (run_tf_squad.METRICS, 987.6543, SQUAD, dict(exact_match=100.0, f1=100.0)),
    (run_tf_squad.METRICS, 987.6543, SQUAD, dict(exact=100.0, f1=100.0, null_score_diff_threshold=-12.3456,
                                                 best_exact=100.0, best_f1=100.0, best_f1_thresh=-12.3456))])
def test_console_lines_stay_under_120_columns_and_the_log_has_every_figure(tmp_path, capsys, monkeypatch, start_logging,
                                                                           table, loss, means, held_out):
    paces = iter([{"first_update_seconds": 12345.6}, {"updates_per_second": 0.3, "sequences_per_second": 123456.7},
                  {"updates_per_second": 3.0, "sequences_per_second": 99.9}])
    monkeypatch.setattr(run_log.Speed, "after", lambda *_: next(paces))
    log = start_logging()
    sums = {"loss": loss, "micro_batches": 1, "gradient_norm": 98765.432, "updates": 1, "tokens": 1}
    with run_log.RunLog("title", "a run", table, lambda sums: means, lambda step: 1.23456e-05, 0, 1_000_000, 8,
                       str(tmp_path / "m.jsonl"), str(tmp_path / "c.png"), str(tmp_path / "tb")) as drawn:
        monkeypatch.setattr(drawn, "plot", lambda: None)
        for step in (123_455, 123_456, 123_457):
            drawn.training(step, sums)
        drawn.evaluation(1_000_000, held_out)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) < 120, max(lines, key=len)
    assert "step 123456/1000000  loss " in lines[1] and "123457 seq/s  33d 19h left" in lines[1]
    assert lines[3].startswith("held out at step 1000000: ")
    full = log().splitlines()
    for line, metrics in zip(full[1:], (*2 * [{"loss": loss, **means, "gradient_norm": 98765.432}], held_out)):
        assert all(metric.text.format(metrics[metric.name]) in line for metric in table if metric.name in metrics)


class Terminal(io.StringIO):
    """Stands in for standard error on a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [20, 21, 30, 40, 60, 80, 132, 300])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_bar_fits_the_terminal_and_shows_the_share_done(monkeypatch, columns, wrapped):
    stream = io.StringIO() if wrapped else Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    if wrapped:  # a pipe, whose terminal the wrapper describes
        monkeypatch.setenv("ELECTRA_PROGRESS", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "1")
    else:
        monkeypatch.setattr(stream, "fileno", lambda: 2, raising=False)
        monkeypatch.setattr(run_log.os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    bar = run_log.progress_bar(1_000_000, 0, "fine-tuning")
    bar.start_t -= 3 * 86_400  # 21 days left
    bar.set_postfix(loss="12345.678", refresh=False)
    bar.n = 123_456
    bar.refresh()
    drawn = [text.rstrip() for text in stream.getvalue().split("\r")]
    bar.close()
    assert max(map(len, drawn)) < columns and "12%" in drawn[-1] and "hidden" not in drawn[-1]
    assert ("511:" in drawn[-1]) == (columns > 20)  # hours left
    assert ("loss=" in drawn[-1]) == (columns >= 60) and ("123456/1000000" in drawn[-1]) == (columns >= 80)


@pytest.mark.parametrize("size", ["0", "", "x"])
def test_a_terminal_without_a_size_has_80_columns(monkeypatch, size):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("COLUMNS", size)
    assert run_log.terminal_width() == 80


def test_a_console_without_the_letters_shows_them_escaped(monkeypatch, start_logging):
    """LANG=C, and names whose bytes are no UTF-8."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    log = start_logging()
    run_log.logging.info("model %s in %s", "日本", "caf\udce9")
    assert console.buffer.getvalue() == b"model \\u65e5\\u672c in caf\\udce9\n"
    assert log().endswith("model 日本 in caf\\udce9\n")


def test_a_full_console_is_warned_about_once_and_the_log_has_all_lines(monkeypatch, capsys, start_logging):
    log = start_logging()
    with open(FULL, "w") as console:
        monkeypatch.setattr(sys, "stdout", console)
        for number in range(3):
            run_log.logging.info("line %d", number)
    assert re.fullmatch("warning: standard output .*No space left.*\n", capsys.readouterr().err)
    assert len(log().splitlines()) == 3


@pytest.mark.parametrize("streams", [("stdout",), ("stdout", "stderr")])
def test_closed_and_full_streams_end_nothing(monkeypatch, start_logging, streams):
    monkeypatch.setenv("ELECTRA_PROGRESS", "1")
    log = start_logging()
    for broken in (None, open(FULL, "w")):
        for stream in streams:
            monkeypatch.setattr(sys, stream, broken)
        run_log.logging.info("a line")
        with run_log.progress_bar(2, 0, "updates") as bar:
            bar.update()
            run_log.logging.info("a line")
    assert len(log().splitlines()) == 4


@pytest.mark.parametrize("error, reason", [(None, "finished"), (run_log.Interrupted("stopped at step 2"), "stopped"),
                                           (ValueError("x"), "failed")])
def test_each_start_and_end_is_in_the_history_and_the_page_is_written(tmp_path, error, reason):
    written = []
    drawn = run_log.RunLog("title", "a run", TABLE, lambda sums: {}, lambda step: 0.1, 1, 10, 8, str(
        tmp_path / "m.jsonl"), str(tmp_path / "c.png"), str(tmp_path / "tb"), logs=str(tmp_path),
        about={"phase": 2, "data": {"records": 5}}, page=lambda: written.append(1))
    with contextlib.suppress(type(error) if error else ZeroDivisionError):
        with drawn:
            drawn.training(2, {"loss": 1.0, "micro_batches": 1, "gradient_norm": 1.0, "updates": 1, "tokens": 1})
            drawn.evaluation(2, {"loss": 1.0})
            if error:
                raise error
        drawn.summary(2)
    start, end = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    assert (start["event"], start["step"], start["phase"], start["num_train_steps"]) == ("start", 1, 2, 10)
    assert start["data"] == {"records": 5} and start["command"] and start["versions"]["python"]
    assert (end["event"], end["step"], end["reason"]) == ("end", 2, reason) and end["session"] == start["session"]
    assert end.get("message", "") == ("" if error is None else str(error)) and len(written) == 2


def test_a_history_and_a_page_that_cannot_be_written_are_warnings(tmp_path, caplog):
    (tmp_path / "history.jsonl").mkdir()

    def fail():
        raise OSError(None, "no space")

    drawn = run_log.RunLog("title", "a run", TABLE, lambda sums: {}, lambda step: 0.1, 0, 10, 8, str(
        tmp_path / "m.jsonl"), str(tmp_path / "c.png"), str(tmp_path / "tb"), logs=str(tmp_path), page=fail)
    with drawn, caplog.at_level("INFO"):
        for step in (1, 2):
            drawn.evaluation(step, {"loss": 1.0})
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert sum("history.jsonl" in line for line in warned) == 1 and sum("report" in line for line in warned) == 1
