"""sweep_squad: the plan, exporting and fine-tuning every checkpoint, failures, stopping, the tables, refusals.

Only the exports and fine-tunings are a stand-in's, which records them; a real sweep is in test_squad_scripts.py.
"""
from __future__ import annotations

import csv
import glob
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import tensorflow as tf
from support import GAUDI_FILES, STAND_IN, save_checkpoints, write_executable

import command_line
import files
from checkpoints import remove_checkpoint
from configuration import Interrupted, RunFailed, UserError
from scripts import sweep_squad
from scripts.sweep_squad import SweepConfig
from squad_options import SquadConfig

ROOT = pathlib.Path(__file__).parent.parent

# Stands in for the interpreter: an export makes the folders of $KINDS, a fine-tuning writes results.json, unless
# FAKE_EXPORT or FAKE_RUN, in bash, end it before. $sweep is the tests' process.
FAKE_PYTHON = STAND_IN + r"""
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
    mkdir -p "$out/checkpoints"
    touch "$out"/checkpoints/ckpt-{3,6}.{index,data-00000-of-00001}
    printf '%s' "${RESULTS-{\"exact_match\": 25.0, \"f1\": ${seed}0.5\}}" >"$out/results.json" ;;
esac
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs a sweep of three checkpoints of `run`, or of those named. Plots are empty files, which saves time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **_: pathlib.Path(path).touch())
    calls = tmp_path / "calls.txt"
    monkeypatch.setattr(sys, "executable", write_executable(tmp_path / "python", FAKE_PYTHON))
    for name, value in dict(CALLS=calls, sweep=os.getpid()).items():
        monkeypatch.setenv(name, str(value))
    for name in ("squad_dir", "init_checkpoint", "checkpoints"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "squad").mkdir()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

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


def squad_config(command):
    return command_line.parse(SquadConfig, command, "")


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
    assert "--out_dir" in refuses(sweep_squad.plan, SweepConfig(f"{one},{two}"))
    assert "a seed twice" in refuses(sweep_squad.plan, SweepConfig(one, "1,2,1"))
    save_checkpoints(tmp_path / "three" / "checkpoints", (1, 1), (1, 2))
    names = [[job.name for job in sweep_squad.plan(SweepConfig(str(tmp_path / name)))] for name in (
        "three", "three/checkpoints", "three/checkpoints/ckpt-2", "three/checkpoints/ckpt-1.index")]
    assert names == [["ckpt-1", "ckpt-2"], ["ckpt-1", "ckpt-2"], ["ckpt-2"], ["ckpt-1"]]
    assert f"{tmp_path} contains no checkpoints" in refuses(sweep_squad.plan, SweepConfig(str(tmp_path)))
    for name, words in (("nowhere", "does not exist"), ("no*where", "does not exist"), ("a/run", "vocab.txt is not"),
                        ("three/checkpoints/ckpt-9", "ckpt-9 does not exist")):
        name = str(tmp_path / name) + ("/vocab.txt" if name == "a/run" else "")
        assert words in refuses(sweep_squad.plan, SweepConfig(name))
    for seeds in ("1,x", "", "1,,2", "-1", "1.5"):
        assert f"--seeds={seeds} " in refuses(SweepConfig, one, seeds)


def test_names_with_blanks_commas_and_globs_are_found(tmp_path, monkeypatch):
    for number, folder in enumerate(("a b", "c,d", "e")):
        save_checkpoints(tmp_path / "my runs" / folder / "checkpoints", (1, 10 + number), (1, 2), (2, 3))

    def found(text):
        return [f"{job.run}/{job.name}" for job in sweep_squad.plan(SweepConfig(text))]

    monkeypatch.chdir(tmp_path / "my runs")
    assert found("a b") == ["a b/ckpt-2", "a b/ckpt-10", "a b/ckpt-p2-3"]
    assert found(f"{tmp_path}/my runs/a b/checkpoints , e") == [*found("a b"), *found("e")]
    assert found("c,d") == ["c,d/ckpt-2", "c,d/ckpt-11", "c,d/ckpt-p2-3"]
    assert found("e/checkpoints/ckpt-2 e/checkpoints/ckpt-12.index") == ["e/ckpt-2", "e/ckpt-12"]
    assert found("*/checkpoints") == found("*") == [*found("a b"), *found("c,d"), *found("e")]
    assert found("a b/checkpoints/ckpt-*") == found("a b")
    assert found("e/checkpoints/ckpt-p2-*") == ["e/ckpt-p2-3"]
    assert found("e,e/checkpoints/ckpt-2,e/checkpoints") == found("e")  # each once
    monkeypatch.chdir("e/checkpoints")
    assert found("ckpt-2") == ["e/ckpt-2"]


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
        assert squad_config(command).device == "cpu"
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
    assert [line for line in capfd.readouterr().out.splitlines() if "already done" in line] == [
        f"[{number}/3] run {name}, seed 1: already done" for number, name in enumerate(NAMES, 1)]
    assert written == {name: (sweep.out / name).read_text() for name in written}
    save_checkpoints(sweep.checkpoints, (2, 5))  # pre-training has gone on
    sweep("--seeds=1,2")
    assert len(sweep.fine_tunings()) == 3 + 5
    assert len(sweep.exports()) == 4


def test_a_checkpoint_is_known_by_its_content_not_by_its_name(sweep, refuses):
    model = tf.Module()
    model.weight = tf.Variable([1.0, 2.0])
    save_checkpoints(sweep.checkpoints, (1, 2), (1, 10), model=model)
    sweep()
    save_checkpoints(sweep.checkpoints, (1, 10), model=model)  # written again, as before
    sweep()
    assert len(sweep.fine_tunings()) == 2
    model.weight.assign([1.0, 2.0000002])
    save_checkpoints(sweep.checkpoints, (1, 10), model=model)
    before = (sweep.out / "sweep.csv").read_text()
    said = refuses(sweep)
    assert f"{sweep.out}/run-ckpt-10 was made from another ckpt-10 than {sweep.checkpoints}/ckpt-10 now is" in said
    assert "--out_dir" in said
    assert len(sweep.fine_tunings()) == 2 and (sweep.out / "sweep.csv").read_text() == before
    shutil.rmtree(sweep.out / "run-ckpt-10")  # the way out
    sweep()
    assert len(sweep.fine_tunings()) == 3


def test_an_export_of_another_content_is_refused_although_nothing_is_finished(sweep, refuses):
    with pytest.raises(RunFailed):
        sweep(FAKE_RUN="exit 3")
    save_checkpoints(sweep.checkpoints, (2, 1), retrained=True)
    assert "run-ckpt-p2-1 was made from another" in refuses(sweep)
    (sweep.out / "run-ckpt-2" / "checkpoint.json").unlink()
    assert "run-ckpt-2 was made from another" in refuses(sweep)  # nobody knows of which


@pytest.mark.parametrize("name", ["run-ckpt-2/checkpoint.json", "run-ckpt-2/seed-1/sweep.json"])
def test_a_damaged_record_is_refused_by_its_name_with_a_way_out(name, sweep, refuses):
    sweep()
    good = json.loads((sweep.out / name).read_text())
    for content in ("", "[" * 100_000, "[]", "{}", *(json.dumps({**good, key: value}) for key, value in (
            ("checkpoint", 7), ("fingerprint" if "checkpoint.json" in name else "F1", None)))):
        (sweep.out / name).write_text(content)
        assert str(sweep.out / name) in refuses(sweep)


def test_options_of_a_damaged_result_are_other_options(sweep, refuses):
    sweep()
    file = sweep.out / "run-ckpt-2/seed-1/sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "arguments": [7, None]}))
    assert "other options (7 None)" in refuses(sweep)


def test_a_result_stays_where_pre_training_has_deleted_the_checkpoint(sweep, capfd):
    sweep("--seeds=1,2")
    remove_checkpoint(str(sweep.checkpoints / "ckpt-2"))
    save_checkpoints(sweep.checkpoints, (1, 20))
    sweep()  # without seed 2, whose results stay too
    found = [(row["checkpoint"], row["seed"], row["F1"], row["gone"]) for row in rows(sweep)]
    assert found == [("ckpt-2", "1", "10.5", "yes"), ("ckpt-2", "2", "20.5", "yes"), ("ckpt-10", "1", "10.5", ""),
                     ("ckpt-10", "2", "20.5", ""), ("ckpt-20", "1", "10.5", ""), ("ckpt-p2-1", "1", "10.5", ""),
                     ("ckpt-p2-1", "2", "20.5", "")]
    text = (sweep.out / "sweep.txt").read_text()
    assert text in capfd.readouterr().out
    lines = text.splitlines()
    assert lines[0].split()[-1] == "gone" and lines[1].split()[1] == "ckpt-2" and lines[1].split()[-1] == "yes"
    assert lines[3].split()[1] == "ckpt-10" and lines[3].split()[-1] != "yes"
    assert "gone: pre-training has deleted the checkpoint since; the result stands." in lines
    assert "run ckpt-2: F1 median 15.50, 10.50 to 20.50 (2 seeds)" in lines


def test_an_interrupted_sweep_counts_its_own_and_keeps_the_rows_of_deleted_checkpoints(sweep):
    sweep()
    remove_checkpoint(str(sweep.checkpoints / "ckpt-2"))
    save_checkpoints(sweep.checkpoints, (1, 20))
    with pytest.raises(Interrupted, match=r"stopped at run ckpt-20 \(seed 1\), 2 of 3 are done"):
        sweep(FAKE_RUN="exit 75")
    assert [row["checkpoint"] for row in rows(sweep)] == NAMES


def test_results_of_another_run_are_not_mixed_in(sweep, tmp_path, refuses):
    sweep()
    other = save_checkpoints(tmp_path / "second" / "checkpoints", (1, 7))
    sweep(checkpoints=other)
    assert [row["run"] for row in rows(sweep)] == ["second"]
    same_name = save_checkpoints(tmp_path / "elsewhere" / "run" / "checkpoints", (1, 7))
    said = refuses(sweep, checkpoints=same_name)
    assert "run-ckpt-10/seed-1" in said and "of another run of the same name" in said
    (tmp_path / "run").rename(tmp_path / "gone")  # a run that was moved is the same run
    sweep(checkpoints=same_name)
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2", "ckpt-7", "ckpt-10", "ckpt-p2-1"]


def test_one_fine_tuned_checkpoint_is_kept_unless_asked_otherwise(sweep):
    kept = {}
    for number in (1, 0, 2):
        options = [f"--keep_checkpoint_max={number}"] if number != 1 else []
        sweep(f"--seeds={number + 1}", *options)
        kept[number] = sorted(os.listdir(sweep.out / "run-ckpt-2" / f"seed-{number + 1}" / "checkpoints"))
    pair = ["ckpt-3.data-00000-of-00001", "ckpt-3.index"]
    newest = ["ckpt-6.data-00000-of-00001", "ckpt-6.index"]
    assert kept == {1: newest, 0: [], 2: pair + newest}
    # Those of a fine-tuning that has failed are left for the next start.
    with pytest.raises(RunFailed):
        sweep("--seeds=7", FAKE_RUN="mkdir -p $out/checkpoints; touch $out/checkpoints/ckpt-{3,6}.index; exit 3")
    assert sorted(os.listdir(sweep.out / "run-ckpt-2" / "seed-7" / "checkpoints")) == ["ckpt-3.index", "ckpt-6.index"]


def make_model(discriminator, generator):
    """A model of so many numbers; the discriminator's name is that of pre-training's."""
    model, model.encoder, model.generator = tf.Module(), tf.Module(), tf.Module()
    model.encoder.weight = tf.Variable(tf.zeros(discriminator))
    model.generator.weight = tf.Variable(tf.zeros(generator))
    return model


def test_the_disk_that_is_needed_is_said_first_and_must_be_there(sweep, capfd, monkeypatch, refuses):
    free = []
    monkeypatch.setattr(sweep_squad.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free[-1]}))
    save_checkpoints(sweep.checkpoints, (1, 2), (1, 10), model=make_model(1_000_000, 100_000))
    # 2 exports of 4.4 MB; 2 x 2 fine-tunings that keep one checkpoint of 12 MB; two more while one runs.
    needed = 2 * 4_400_000 + 4 * 12_000_000 + 2 * 12_000_000
    free.append(needed - 1)
    said = refuses(sweep, "--seeds=1,2")
    assert f"--out_dir={sweep.out} needs 0.1 GB, and its disk has 0.1 GB free" in said
    assert "lower --keep_checkpoint_max" in said
    assert sweep.exports() == [] and not sweep.out.exists()
    free.append(needed)
    capfd.readouterr()  # where an earlier test has started logging, the checkpoints' log lines
    with pytest.raises(Interrupted):
        sweep("--seeds=1,2", FAKE_RUN="[[ $seed != 2 ]] || exit 75")
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"4 fine-tunings to run; {sweep.out} needs 0.1 GB, and its disk has 0.1 GB free."
    # One export and one fine-tuning are there.
    free.append(4_400_000 + 5 * 12_000_000)  # three that are kept and two more
    with pytest.raises(Interrupted):
        sweep("--seeds=1,2", FAKE_RUN="mkdir -p $out/checkpoints; touch $out/checkpoints/ckpt-3.index; exit 75")
    assert capfd.readouterr().out.startswith("3 fine-tunings to run;")
    free.append(free[-1] - 12_000_000 - 1)  # the interrupted one has written one of its own
    assert "needs" in refuses(sweep, "--seeds=1,2")
    free.append(4_400_000 + 3 * 12_000_000)  # none is kept: those of the running one alone
    sweep("--seeds=1,2", "--keep_checkpoint_max=0")
    free.append(0)
    capfd.readouterr()
    sweep("--seeds=1,2")  # nothing is left, so nothing is needed
    assert "GB" not in capfd.readouterr().out
    assert "--keep_checkpoint_max=3 is too large" in refuses(sweep, "--keep_checkpoint_max=3")


def test_what_an_interrupted_fine_tuning_has_written_needs_no_more_disk(sweep, monkeypatch):
    size = [10**12]
    monkeypatch.setattr(sweep_squad.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": size[0]}))
    save_checkpoints(sweep.checkpoints, (1, 2), model=make_model(1_000_000, 100_000))
    with pytest.raises(Interrupted):
        sweep(FAKE_RUN="mkdir -p $out/checkpoints; touch $out/checkpoints/ckpt-3.index; exit 75")
    size[0] = 2 * 12_000_000
    sweep()


def test_without_checkpoints_only_the_exports_need_disk(sweep, monkeypatch):
    monkeypatch.setattr(sweep_squad.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2 * 4_400_000}))
    save_checkpoints(sweep.checkpoints, (1, 2), (1, 10), model=make_model(1_000_000, 100_000))
    sweep("--seeds=1,2", arguments=["--skip_checkpoint"])


def test_a_generator_alone_needs_disk_too(sweep, refuses, monkeypatch):
    monkeypatch.setattr(sweep_squad.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10 * 4000 - 1}))
    model, model.generator = tf.Module(), tf.Module()
    model.generator.weight = tf.Variable(tf.zeros(1000))
    save_checkpoints(sweep.checkpoints, (1, 2), model=model)  # an export and three checkpoints, each of three copies
    assert "needs" in refuses(sweep)


def test_other_options_on_a_finished_sweep_are_refused(sweep, refuses):
    sweep(arguments=["--max_steps=2"])
    for arguments in ([], ["--max_steps=3"], ["--max_steps=2", "--squad_version=2.0"]):
        said = refuses(sweep, arguments=arguments)
        assert "was fine-tuned with other options" in said and "--max_steps=2)" in said and "--out_dir" in said
    assert len(sweep.fine_tunings()) == 3


def test_the_device_is_that_of_the_checkpoint_unless_named(sweep, tmp_path, refuses):
    checkpoints = save_checkpoints(tmp_path / "card" / "checkpoints", (1, 7), device="hpu")
    if not any(map(glob.glob, GAUDI_FILES)):
        assert "no Gaudi card is visible" in refuses(sweep, checkpoints=checkpoints)
        assert sweep.exports() == []
    sweep("--device=cpu", checkpoints=checkpoints)
    assert squad_config(sweep.fine_tunings()[-1]).device == "cpu"


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
    assert "failed: run ckpt-10 (seed 1, status 3); the sweep continues." in capfd.readouterr().err.splitlines()
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2", "ckpt-p2-1"]
    before = len(sweep.fine_tunings())
    sweep()
    assert len(sweep.fine_tunings()) == before + 1
    assert [row["checkpoint"] for row in rows(sweep)] == NAMES


@pytest.mark.parametrize("arguments, words", [
    (["--precision=fp8"], "fp8"),
    (["--learning_rate=abc"], "learning_rate"),
    (["--infer_batch_size=0"], "--infer_batch_size=0 is too small"),
    (["--length_buckets=a,b"], "--length_buckets=a,b"),
    (["--beam_size=999"], "--beam_size=999"),
    (["--squad_dir=nowhere"], "--squad_dir=nowhere is not a directory"),
    (["--mood=1"], "unknown option --mood"),
])
def test_a_wrong_value_ends_the_sweep_before_anything_is_run(sweep, refuses, arguments, words):
    assert words in refuses(sweep, arguments=arguments)
    assert sweep.exports() == sweep.fine_tunings() == [] and not sweep.out.exists()


def test_a_refused_fine_tuning_ends_the_sweep_unless_one_has_come_to_its_end(sweep, capfd):
    with pytest.raises(UserError, match=r"the fine-tuning of run ckpt-2 was rejected"):
        sweep(FAKE_RUN="exit 2")
    assert len(sweep.fine_tunings()) == 1
    with pytest.raises(RunFailed, match=r"1 of 3 .* run ckpt-10 \(seed 1, status 2\)"):
        sweep(FAKE_RUN="[[ $out != */run-ckpt-10/* ]] || exit 2")
    assert "the fine-tuning of run ckpt-10 was rejected" in capfd.readouterr().err
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2", "ckpt-p2-1"]


def test_a_folder_that_cannot_be_made_is_refused(sweep, tmp_path, refuses):
    (tmp_path / "file").write_text("")
    assert "file/out cannot be written, because" in refuses(sweep, f"--out_dir={tmp_path / 'file' / 'out'}")


@pytest.mark.parametrize("way_out", ["move", "name the others"])
def test_a_damaged_checkpoint_is_named_before_the_first_fine_tuning_and_can_be_left_out(sweep, refuses, way_out):
    save_checkpoints(sweep.checkpoints, (1, 2), (1, 10), (2, 1))
    (sweep.checkpoints / "ckpt-10.index").write_bytes(b"no checkpoint")
    said = refuses(sweep)
    assert f"{sweep.checkpoints}/ckpt-10 cannot be read" in said and way_out in said
    assert sweep.exports() == sweep.fine_tunings() == []
    if way_out == "move":
        (sweep.checkpoints / "damaged").mkdir()
        for file in sweep.checkpoints.glob("ckpt-10.*"):
            file.rename(sweep.checkpoints / "damaged" / file.name)
        sweep()
    else:
        sweep(checkpoints=f"{sweep.checkpoints}/ckpt-2,{sweep.checkpoints}/ckpt-p2-1")
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2", "ckpt-p2-1"]


def test_what_cannot_be_fine_tuned_is_refused_before_anything_is_run(sweep, tmp_path, refuses):
    tuned = save_checkpoints(tmp_path / "tuned" / "checkpoints", (1, 7), task="squad")
    assert "is a SQuAD fine-tuning" in refuses(sweep, checkpoints=tuned)
    lost = save_checkpoints(tmp_path / "lost" / "checkpoints", (1, 7))
    vocabulary = (tmp_path / "lost" / "vocab.txt").rename(tmp_path / "vocab.txt")
    said = refuses(sweep, checkpoints=lost)
    assert "vocab.txt" in said and "--vocab_file" in said
    other = save_checkpoints(tmp_path / "other" / "checkpoints", (1, 7), tokenizer_fingerprint="x")
    assert "another vocabulary" in refuses(sweep, checkpoints=other)
    assert sweep.exports() == sweep.fine_tunings() == []
    sweep(checkpoints=lost, arguments=[f"--vocab_file={vocabulary}"])  # the way out
    assert value(sweep.exports()[0], "vocab_file") == str(vocabulary)


def test_data_and_lengths_are_checked_once_for_all_checkpoints(sweep, tmp_path, refuses, monkeypatch):
    """run_tf_squad.py --check_only does it; its sentence is passed on in the names of electra_squad.sh."""
    log = tmp_path / "checks.txt"
    said = refuses(sweep, FAKE_CHECK=f'echo "$*" >>{log}; echo "run_tf_squad.py: --num_train_epochs=2 and '
                   '--data_dir=d: no." >&2; exit 2')
    assert said == "--epochs=2 and --squad_dir=d: no."
    assert sweep.exports() == sweep.fine_tunings() == [] and not sweep.out.exists()
    checks = log.read_text().splitlines()
    assert len(checks) == 1 and f"--init_checkpoint={sweep.checkpoints}/ckpt-2" in checks[0]
    with pytest.raises(RunFailed, match="status 1: no memory"):
        sweep(FAKE_CHECK="echo no memory >&2; exit 1")
    with pytest.raises(Interrupted, match="before the first fine-tuning"):
        sweep(FAKE_CHECK="kill -TERM $sweep; exec sleep 30")
    sweep("--check_only")
    assert sweep.exports() == sweep.fine_tunings() == [] and not sweep.out.exists()


def test_a_checkpoint_that_pre_training_deletes_meanwhile_does_not_end_the_sweep(sweep, capfd):
    with pytest.raises(RunFailed, match=r"1 of 3 .* run ckpt-10 \(seed 1, status 2\)"):
        sweep(FAKE_RUN="rm -f $out/../../../run/checkpoints/ckpt-10.*")
    assert "ckpt-10 is gone" in capfd.readouterr().err
    assert [row["checkpoint"] for row in rows(sweep)] == ["ckpt-2", "ckpt-p2-1"]


@pytest.mark.parametrize("number", ["TERM", "INT"])
@pytest.mark.parametrize("what", ["FAKE_EXPORT", "FAKE_RUN"])
def test_a_signal_ends_the_running_one_and_starts_nothing_later(sweep, what, number):
    stopping = f"[[ $out != */run-ckpt-10/* ]] || {{ kill -{number} $sweep; exec sleep 30; }}"
    with pytest.raises(Interrupted, match=r"stopped at run ckpt-10 \(seed 1\), 1 of 3 are done"):
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


def test_sigusr1_does_not_end_the_sweep(sweep):
    sweep(FAKE_RUN="kill -USR1 $sweep")
    assert [row["checkpoint"] for row in rows(sweep)] == NAMES


def test_a_second_sweep_of_the_same_folder_is_refused(sweep, refuses, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0)
    sweep.out.mkdir()
    with files.hold(str(sweep.out / ".lock")):
        said = refuses(sweep)
    assert str(os.getpid()) in said and "--out_dir" in said
    sweep()
    assert not (sweep.out / ".lock").exists()


def test_what_a_stopped_export_left_is_removed(sweep):
    left = sweep.out / "run-ckpt-2" / f"exported.tmp-{files.HOST}-99999999-1" / "new"  # of no process
    left.mkdir(parents=True)
    sweep()
    assert not left.parent.exists()


def test_relative_paths_belong_to_the_folder_of_the_call(sweep, tmp_path, monkeypatch):
    save_checkpoints(tmp_path / "run" / "checkpoints", (1, 2))
    monkeypatch.chdir(tmp_path)
    sweep("--out_dir=here", checkpoints="run/checkpoints", arguments=["--squad_dir=squad"])
    assert os.path.exists("here/sweep.png") and os.path.exists("here/run-ckpt-2/seed-1/sweep.json")
    assert value(sweep.fine_tunings()[0], "data_dir") == str(tmp_path / "squad")


# --- Searches ---

RATES = ("1e-4", "2e-4", "3e-4", "4e-4")
BY_RATE = ("case $* in *rate=2e-4*) f1=60 ;; *rate=3e-4*) f1=50 ;; *) f1=10 ;; esac; "
           "RESULTS='{\"exact_match\": 1.0, \"f1\": '$f1'.0}'; ")


def test_a_search_is_halved_resumed_and_ends_with_the_command_of_the_winner(sweep, capfd, tmp_path):
    checkpoint = os.path.join(save_checkpoints(tmp_path / "run" / "checkpoints", (1, 2)), "ckpt-2")
    options = dict(arguments=["--max_steps=40", "--weight_decay_rate=0.02"], checkpoints=checkpoint)
    words = [f"--learning_rates={','.join(RATES)}", "--halving=2"]
    with pytest.raises(Interrupted, match="lr 3e-4 steps 10 .*2 of 4"):
        sweep(*words, FAKE_RUN=BY_RATE + "[[ $* != *rate=3e-4* ]] || exit 75", **options)
    sweep(*words, FAKE_RUN=BY_RATE, **options)
    done = [(value(command, "max_steps"), value(command, "learning_rate")) for command in sweep.fine_tunings()
            if "--check_only" not in command]
    assert done == [("10", "1e-4"), ("10", "2e-4"), ("10", "3e-4"), ("10", "3e-4"), ("10", "4e-4"), ("20", "2e-4"),
                    ("20", "3e-4"), ("40", "2e-4")]
    said = capfd.readouterr().out
    command = shlex.split(said.rpartition("bash scripts/electra_squad.sh ")[2].splitlines()[0])
    assert "F1 median 60.00" in said and len(sweep.exports()) == 1
    assert {f"--init_checkpoint={checkpoint}", "--learning_rate=2e-4", "--max_steps=40", "--seed=1",
            "--weight_decay_rate=0.02"} <= set(command)
    best = sweep_squad.squad_recipe.squad(command, dry_run=True).configs[0]
    assert best.learning_rate == 2e-4 and best.output_dir == str(sweep.out / "best")
    assert [(row["max_steps"], row["learning_rate"], row["F1"]) for row in rows(sweep)][-3:] == [
        ("20", "2e-4", "60.0"), ("20", "3e-4", "50.0"), ("40", "2e-4", "60.0")]
    before = len(sweep.fine_tunings())
    sweep(*words, FAKE_RUN=BY_RATE, **options)
    assert len(sweep.fine_tunings()) == before and "best: run ckpt-2 lr 2e-4" in capfd.readouterr().out


def test_a_search_keeps_what_other_lists_have_tried(sweep, tmp_path):
    checkpoint = os.path.join(save_checkpoints(tmp_path / "run" / "checkpoints", (1, 2)), "ckpt-2")
    for rates in ("1e-4", "1e-4,2e-4"):
        sweep(f"--learning_rates={rates}", FAKE_RUN=BY_RATE, checkpoints=checkpoint)
    trained = [command for command in sweep.fine_tunings() if "--check_only" not in command]
    assert [value(command, "learning_rate") for command in trained] == ["1e-4", "2e-4"] and len(rows(sweep)) == 2


@pytest.mark.parametrize("options, arguments, part", [
    (["--learning_rates=1e-4,2e-4"], ["--learning_rate=1e-4"], "--learning_rate "),
    (["--batch_sizes=8,16", "--halving=2"], [], "--max_steps"), (["--batch_sizes=8,0"], [], "--batch_size=0"),
    (["--epoch_counts=1,2"], ["--max_steps=3"], "--epoch_counts")])
def test_a_search_that_does_not_fit_is_refused_before_anything_is_run(sweep, refuses, options, arguments, part):
    assert part in refuses(sweep, *options, arguments=arguments)
    assert not sweep.exports() and not sweep.fine_tunings()


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
        "small ckpt-5: F1 median 30.00, 30.00 to 30.00 (one seed)"]


@pytest.fixture
def axes(monkeypatch):
    """The axes of the figures that are saved, which are empty files."""
    figures = []

    def savefig(self, path, **_):
        pathlib.Path(path).touch()
        figures.extend(self.axes)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    return figures


def test_the_plot_puts_phase_2_behind_phase_1(tmp_path, axes):
    sweep_squad.write_tables([row(step=5, f1=40.0), row(step=5, seed=2, f1=50.0), row(step=9, f1=60.0),
                              row(phase=2, step=3, f1=70.0), row(run="other", phase=2, step=3, f1=20.0)], str(tmp_path))
    base, other = axes[0].containers
    assert base[0].get_xydata().tolist() == [[5, 45], [9, 60], [12, 70]]
    assert other[0].get_xydata().tolist() == [[3, 20]]
    ranges = [segment[:, 1].tolist() for segment in base[2][0].get_segments()]
    assert ranges == [[40, 50], [60, 60], [70, 70]]
    assert sorted(os.listdir(tmp_path)) == ["report.html", "sweep.csv", "sweep.png", "sweep.txt"]


def test_around_a_lone_checkpoint_the_axes_start_at_zero(tmp_path, axes):
    sweep_squad.write_tables([row(run="_cost$_{1$", step=20)], str(tmp_path))
    assert axes[0].get_xlim() == (0, 40) and axes[0].get_ylim() == (0, 100)
    legend = axes[0].get_legend().get_texts()
    assert [(text.get_text().strip(), text.get_parse_math()) for text in legend] == [("_cost$_{1$", False)]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a broken font")])
def test_a_plot_that_fails_is_one_warning_and_the_tables_are_written(tmp_path, monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    for _ in range(2):
        sweep_squad.write_tables([row()], str(tmp_path))
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and str(tmp_path / "sweep.png") in said and str(error.args[-1]) in said
    assert sorted(os.listdir(tmp_path)) == ["report.html", "sweep.csv", "sweep.txt"]


# --- The command ---


def test_the_command_refuses_in_one_sentence(tmp_path, said):
    result = subprocess.run([sys.executable, str(ROOT / "scripts" / "sweep_squad.py"), "--seeds=1", "--", "--x=2"],
                            cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert re.fullmatch("sweep_squad.py: --checkpoints is missing: .*\n", said(result.stderr))
    assert os.listdir(tmp_path) == []


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit) as ended:
        sweep_squad.main(["sweep_squad.py", "--help"])
    assert not ended.value.code
    assert re.findall(r"^  --(\w+)=", capsys.readouterr().out, flags=re.MULTILINE) == [
        "checkpoints", "seeds", "device", "out_dir", "keep_checkpoint_max", "check_only",
        *sweep_squad.sweep_recipe.SEARCHED, "trials", "trials_seed", "halving"]


def test_unknown_options_are_refused(refuses):
    assert "out_dirs" in refuses(sweep_squad.main, ["sweep_squad.py", "--checkpoints=x", "--out_dirs=y"])
    assert "'y'" in refuses(sweep_squad.main, ["sweep_squad.py", "--checkpoints=x", "y"])
