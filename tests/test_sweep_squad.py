"""sweep_squad: the plan, exporting and fine-tuning every checkpoint, failures, stopping, the tables, refusals.

Only the exports and fine-tunings are a stand-in's, which records them; a real sweep is in test_squad_scripts.py.
"""
from __future__ import annotations

import csv
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import pytest
import tensorflow as tf
from test_scripts import write_executable

import training
from configuration import Interrupted, RunFailed
from scripts import sweep_squad
from scripts.sweep_squad import SweepConfig

ROOT = pathlib.Path(__file__).parent.parent

# Stands in for the interpreter: an export makes the folders of $KINDS, a fine-tuning writes results.json, unless
# FAKE_EXPORT or FAKE_RUN, in bash, end it before. $sweep is the tests' process.
FAKE_PYTHON = r"""#!/usr/bin/env bash
[[ $1 != -c ]] || exit 0
for word; do
  case $word in --output_dir=*) out=${word#*=} ;; --seed=*) seed=${word#*=} ;; esac
done
echo "$*" >>"$CALLS"
case $1 in
  *postprocess_pretrained_ckpt.py)
    eval "${FAKE_EXPORT:-true}"
    for kind in ${KINDS-discriminator generator}; do mkdir -p "$out/$kind"; done ;;
  *run_tf_squad.py)
    eval "${FAKE_RUN:-true}"
    mkdir -p "$out"
    printf '%s' "${RESULTS-{\"exact_match\": 25.0, \"f1\": ${seed}0.5\}}" >"$out/results.json" ;;
esac
"""


def save_checkpoints(folder, *places, **state):
    """Checkpoints at (phase, step) that hold a state and nothing else."""
    for phase, step in places:
        training.Checkpoints(str(folder), keep=99).save(phase, step, tf.Module(), tf.Module(),
                                                        {"device": "cpu", **state})
    return str(folder)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs a sweep of three checkpoints of `run`, or of those named. Plots are empty files, which saves time."""
    monkeypatch.setattr("matplotlib.figure.Figure.tight_layout", lambda self: None)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **_: pathlib.Path(path).touch())
    calls = tmp_path / "calls.txt"
    monkeypatch.setattr(sys, "executable", write_executable(tmp_path / "python", FAKE_PYTHON))
    for name, value in dict(CALLS=calls, sweep=os.getpid()).items():
        monkeypatch.setenv(name, str(value))
    for name in ("squad_dir", "init_checkpoint", "checkpoints"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "squad").mkdir()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*options, arguments=(), checkpoints=None, **environment):
        if checkpoints is None:
            checkpoints = str(tmp_path / "run" / "checkpoints")
            if not os.path.exists(checkpoints):
                save_checkpoints(checkpoints, (2, 1), (1, 10), (1, 2))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        words = [f"--checkpoints={checkpoints}", f"--out_dir={tmp_path / 'out'}", *options, "--",
                 f"--squad_dir={tmp_path / 'squad'}", *arguments]
        try:
            sweep_squad.main(["sweep_squad.py", *words])
        finally:
            for name in environment:
                monkeypatch.delenv(name)

    def recorded(script):
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [shlex.split(line) for line in lines if line.split()[0].endswith(script)]

    call.exports = lambda: recorded("postprocess_pretrained_ckpt.py")
    call.fine_tunings = lambda: recorded("run_tf_squad.py")
    call.out = tmp_path / "out"
    call.checkpoints = tmp_path / "run" / "checkpoints"
    yield call
    for number, handler in previous.items():
        signal.signal(number, handler)


NAMES = ["ckpt-2", "ckpt-10", "ckpt-p2-1"]


def value(command, name):
    return next(word.partition("=")[2] for word in command if word.startswith(f"--{name}="))


def rows(sweep):
    with open(sweep.out / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


# --- The plan ---


def test_the_plan_goes_by_folder_phase_and_number(tmp_path):
    first = save_checkpoints(tmp_path / "z" / "checkpoints", (2, 30), (1, 1000), (1, 200), (2, 4))
    second = save_checkpoints(tmp_path / "a" / "checkpoints", (1, 7))
    jobs = sweep_squad.plan(SweepConfig(f"{first},{second},", "3,1", None, "out"))
    assert [(job.run, job.name) for job in jobs[::2]] == [
        ("z", "ckpt-200"), ("z", "ckpt-1000"), ("z", "ckpt-p2-4"), ("z", "ckpt-p2-30"), ("a", "ckpt-7")]
    assert [job.seed for job in jobs] == [3, 1] * 5
    assert jobs[4].folder == "out/z-ckpt-p2-4/seed-3"
    assert len({job.folder for job in jobs}) == 10


def test_the_run_is_named_by_the_folder_around_its_checkpoints_also_from_inside(tmp_path, monkeypatch):
    save_checkpoints(tmp_path / "mine" / "checkpoints", (1, 7))
    monkeypatch.chdir(tmp_path / "mine" / "checkpoints")
    for folder in (".", str(tmp_path / "mine" / "checkpoints") + "/"):
        assert [job.run for job in sweep_squad.plan(SweepConfig(folder))] == ["mine"]


def test_folders_and_seeds_that_make_no_plan_are_refused(tmp_path, refuses):
    one, two = (save_checkpoints(tmp_path / part / "run" / "checkpoints", (1, 7)) for part in "ab")
    assert "two runs of the same name" in refuses(sweep_squad.plan, SweepConfig(f"{one},{two}"))
    assert "a seed twice" in refuses(sweep_squad.plan, SweepConfig(one, "1,2,1"))
    assert "holds no checkpoint" in refuses(sweep_squad.plan, SweepConfig(str(tmp_path)))
    assert "nowhere holds no checkpoint" in refuses(sweep_squad.plan, SweepConfig("nowhere"))
    for seeds in ("1,x", "", "1,,2", "-1", "1.5"):
        assert f"--seeds={seeds} must be whole numbers" in refuses(sweep_squad.plan, SweepConfig(one, seeds))


# --- The sweep ---


def test_each_checkpoint_is_exported_once_and_fine_tuned_with_every_seed(sweep, capfd):
    sweep("--seeds=1,2,4", arguments=["--max_steps=2", "--batch_size=8"])
    exports, fine_tunings = sweep.exports(), sweep.fine_tunings()
    assert [value(export, "pretrained_checkpoint") for export in exports] == [f"{sweep.checkpoints}/{name}"
                                                                              for name in NAMES]
    assert [value(command, "output_dir") for command in fine_tunings] == [
        f"{sweep.out}/run-{name}/seed-{seed}" for name in NAMES for seed in (1, 2, 4)]
    for command in fine_tunings:
        folder = os.path.dirname(value(command, "output_dir"))
        assert value(command, "init_checkpoint") == f"{folder}/exported/discriminator"
        assert value(command, "output_dir").endswith("seed-" + value(command, "seed"))
        assert value(command, "device") == "cpu"
        assert {"--max_steps=2", "--train_batch_size=8", "--do_train", "--do_predict", "--do_eval"} < set(command)
    printed = capfd.readouterr().out
    assert "[1/9] run ckpt-2, seed 1\n" in printed and "[9/9] run ckpt-p2-1, seed 4\n" in printed
    table = (sweep.out / "sweep.txt").read_text()
    assert "run ckpt-10: F1 median 20.50, 10.50 to 40.50 (3 seeds)" in table.splitlines()
    assert table in printed
    assert [(row["checkpoint"], row["seed"], row["F1"]) for row in rows(sweep)] == [
        (name, seed, f"{seed}0.5") for name in NAMES for seed in "124"]


def test_a_finished_sweep_is_skipped_and_its_table_stays(sweep, capfd):
    sweep()
    written = {name: (sweep.out / name).read_text() for name in ("sweep.txt", "sweep.csv")}
    assert "median" not in written["sweep.txt"]  # of one seed there is none
    capfd.readouterr()
    sweep()
    assert len(sweep.fine_tunings()) == 3
    assert [line for line in capfd.readouterr().out.splitlines() if "done before" in line] == [
        f"[{number}/3] run {name}, seed 1: done before" for number, name in enumerate(NAMES, 1)]
    assert written == {name: (sweep.out / name).read_text() for name in written}
    save_checkpoints(sweep.checkpoints, (2, 5))  # pre-training has gone on
    sweep("--seeds=1,2")
    assert len(sweep.fine_tunings()) == 3 + 5
    assert len(sweep.exports()) == 4


def test_other_options_on_a_finished_sweep_are_refused(sweep, refuses):
    sweep(arguments=["--max_steps=2"])
    for arguments in ([], ["--max_steps=3"], ["--max_steps=2", "--squad_version=2.0"]):
        said = refuses(sweep, arguments=arguments)
        assert "was fine-tuned with other options" in said and "--max_steps=2)" in said and "--out_dir" in said
    assert len(sweep.fine_tunings()) == 3


def test_the_device_is_that_of_the_checkpoint_unless_named(sweep, tmp_path, capfd):
    checkpoints = save_checkpoints(tmp_path / "card" / "checkpoints", (1, 7), device="hpu")
    if not os.path.exists("/sys/class/accel/accel0"):
        with pytest.raises(RunFailed):
            sweep(checkpoints=checkpoints)
        assert "no Gaudi card is visible" in capfd.readouterr().err
    sweep("--device=cpu", checkpoints=checkpoints)
    assert [value(command, "device") for command in sweep.fine_tunings()][-1] == "cpu"


def test_a_generator_alone_is_fine_tuned_too(sweep):
    sweep(KINDS="generator")
    assert value(sweep.fine_tunings()[0], "init_checkpoint").endswith("exported/generator")


def test_version_2_has_its_best_f1_in_the_table(sweep):
    sweep(RESULTS='{"exact": 30.0, "f1": 31.25, "best_f1": 45.5}')
    assert (sweep.out / "sweep.txt").read_text().splitlines()[0].split() == [
        "run", "checkpoint", "phase", "step", "seed", "EM", "F1", "best", "F1", "seconds"]
    assert [(row["EM"], row["best F1"]) for row in rows(sweep)] == [("30.0", "45.5")] * 3


# --- What goes wrong ---


@pytest.mark.parametrize("what", ["FAKE_EXPORT", "FAKE_RUN"])
def test_a_failure_is_reported_the_others_are_done_and_the_next_start_tries_again(sweep, capfd, what):
    with pytest.raises(RunFailed) as failed:
        sweep(**{what: "[[ $out != */run-ckpt-10/* ]] || exit 3"})
    assert str(failed.value) == "1 of 3 fine-tunings failed: run ckpt-10 (seed 1, status 3)."
    assert "failed: run ckpt-10 (seed 1, status 3); the sweep goes on." in capfd.readouterr().err.splitlines()
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2", "ckpt-p2-1"]
    before = len(sweep.fine_tunings())
    sweep()
    assert len(sweep.fine_tunings()) == before + 1
    assert [row["checkpoint"] for row in rows(sweep)] == NAMES


@pytest.mark.parametrize("exported_before", [False, True])
def test_a_damaged_checkpoint_does_not_end_the_sweep(sweep, capfd, exported_before):
    save_checkpoints(sweep.checkpoints, (1, 2), (1, 10), (2, 1))
    (sweep.checkpoints / "ckpt-10.index").write_bytes(b"no checkpoint")
    if exported_before:
        (sweep.out / "run-ckpt-10" / "exported" / "discriminator").mkdir(parents=True)
    with pytest.raises(RunFailed, match=r"1 of 3 .* run ckpt-10 \(seed 1, status 2\)"):
        sweep()
    assert "ckpt-10 cannot be read" in capfd.readouterr().err
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2", "ckpt-p2-1"]


def test_checkpoints_of_a_fine_tuning_are_not_swept(sweep, tmp_path, capfd):
    checkpoints = save_checkpoints(tmp_path / "tuned" / "checkpoints", (1, 7), task="squad")
    with pytest.raises(RunFailed):
        sweep(checkpoints=checkpoints, KINDS="question_answering")
    assert "is fine-tuned already" in capfd.readouterr().err
    assert sweep.exports() == sweep.fine_tunings() == []


@pytest.mark.parametrize("number", ["TERM", "INT"])
@pytest.mark.parametrize("what", ["FAKE_EXPORT", "FAKE_RUN"])
def test_a_signal_ends_the_running_one_and_starts_nothing_later(sweep, what, number):
    stopping = f"[[ $out != */run-ckpt-10/* ]] || {{ kill -{number} $sweep; exec sleep 30; }}"
    with pytest.raises(Interrupted, match=r"stopped at run ckpt-10 \(seed 1\), 1 of 3 are done; the same call goes on"):
        sweep(**{what: stopping})
    assert len(sweep.exports()) == 2
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2"]
    sweep()
    assert [row["checkpoint"] for row in rows(sweep)] == NAMES


def test_an_interrupted_fine_tuning_stops_the_sweep_too(sweep):
    with pytest.raises(Interrupted):
        sweep(FAKE_RUN="exit 75")
    assert len(sweep.fine_tunings()) == 1
    assert not (sweep.out / "sweep.txt").exists()


def test_what_a_stopped_export_left_is_removed(sweep):
    left = sweep.out / "run-ckpt-2" / "exported.tmp123"
    left.mkdir(parents=True)
    sweep()
    assert not left.exists()


def test_relative_paths_belong_to_the_folder_of_the_call(sweep, tmp_path, monkeypatch):
    save_checkpoints(tmp_path / "run" / "checkpoints", (1, 2))
    monkeypatch.chdir(tmp_path)
    sweep("--out_dir=here", checkpoints="run/checkpoints", arguments=["--squad_dir=squad"])
    assert os.path.exists("here/sweep.png") and os.path.exists("here/run-ckpt-2/seed-1/sweep.json")
    assert value(sweep.fine_tunings()[0], "data_dir") == str(tmp_path / "squad")


# --- The table and the plot ---


def row(run="base", phase=1, step=5, seed=1, f1=50.0, **more):
    name = f"ckpt-p2-{step}" if phase == 2 else f"ckpt-{step}"
    return {"run": run, "checkpoint": name, "phase": phase, "step": step, "seed": seed, "EM": f1 / 2, "F1": f1,
            "seconds": 7.0, **more}


def test_the_table_has_aligned_columns_and_two_decimals():
    lines = sweep_squad.table([row(), row(step=1000, f1=66.666)]).splitlines()
    assert [line.split() for line in lines] == [
        ["run", "checkpoint", "phase", "step", "seed", "EM", "F1", "seconds"],
        ["base", "ckpt-5", "1", "5", "1", "25.00", "50.00", "7.00"],
        ["base", "ckpt-1000", "1", "1000", "1", "33.33", "66.67", "7.00"]]
    assert len(set(map(len, lines))) == 1


def test_median_and_spread_are_of_each_checkpoint_of_each_run():
    found = [row(seed=seed, f1=f1) for seed, f1 in ((1, 40.0), (2, 44.0), (3, 41.0))] + [row(run="small", f1=30.0)]
    assert sweep_squad.table(found).splitlines()[-2:] == [
        "base ckpt-5: F1 median 41.00, 40.00 to 44.00 (3 seeds)",
        "small ckpt-5: F1 median 30.00, 30.00 to 30.00 (1 seeds)"]


def test_the_plot_puts_phase_2_behind_phase_1(tmp_path, monkeypatch):
    import matplotlib.axes
    drawn = {}
    monkeypatch.setattr(matplotlib.axes.Axes, "legend", lambda self: None)
    monkeypatch.setattr(matplotlib.axes.Axes, "errorbar", lambda self, x, y, yerr, label, **_: drawn.update(
        {label: (x, y, yerr)}))
    sweep_squad.write_tables([row(step=5, f1=40.0), row(step=5, seed=2, f1=50.0), row(step=9, f1=60.0),
                              row(phase=2, step=3, f1=70.0), row(run="other", phase=2, step=3, f1=20.0)], str(tmp_path))
    assert drawn == {"base": ([5, 9, 12], [45.0, 60.0, 70.0], [[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]),
                     "other": ([3], [20.0], [[0.0], [0.0]])}
    assert sorted(os.listdir(tmp_path)) == ["sweep.csv", "sweep.png", "sweep.txt"]


# --- The command ---


def test_the_command_refuses_in_one_sentence(tmp_path):
    result = subprocess.run([sys.executable, str(ROOT / "scripts" / "sweep_squad.py"), "--seeds=1", "--", "--x=2"],
                            cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "sweep_squad.py: --checkpoints is missing: name one or more folders of checkpoints.\n"
    assert os.listdir(tmp_path) == []


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit) as ended:
        sweep_squad.main(["sweep_squad.py", "--help"])
    assert not ended.value.code
    assert re.findall(r"^  --(\w+)=", capsys.readouterr().out, flags=re.MULTILINE) == ["checkpoints", "seeds", "device",
                                                                                       "out_dir"]


def test_unknown_options_are_refused(refuses):
    assert "out_dirs" in refuses(sweep_squad.main, ["sweep_squad.py", "--checkpoints=x", "--out_dirs=y"])
    assert "belongs to no option" in refuses(sweep_squad.main, ["sweep_squad.py", "--checkpoints=x", "y"])
