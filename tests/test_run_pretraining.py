"""run_pretraining: both phases as a user runs them, resuming to the bit, refusals, evaluation."""
from __future__ import annotations

import dataclasses
import errno
import glob
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from support import GAUDI_FILES, PRETRAINING_VOCABULARY, StopAfter, write_shards
from support import pretraining_config as make_config

import command_line
import devices
import files
import flops
import postprocess_pretrained_ckpt
import preflight
import run_log
import run_pretraining
import training
import weights
from checkpoints import Checkpoints, read_state, readable
from configuration import Interrupted, RunFailed, UserError
from pretraining_options import PretrainingConfig
from tokenization import ElectraTokenizer

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data(pretraining_data):
    return pretraining_data


def phase_2(config, data, **changes):
    return dataclasses.replace(config, phase2=True, restore_checkpoint="latest", max_seq_length=64, overwrite=False,
                               pretrain_tfrecords=data[64], num_train_steps=6, num_warmup_steps=1, **changes)


def train(config, stop_after=None):
    never = training.StopRequest()
    run_pretraining.train(config, devices.open_device("cpu", config.precision), stop_after or never)


def tensors(config, name):
    """Every tensor of a checkpoint's model and optimizer."""
    with readable(os.path.join(config.checkpoint_dir, name)) as alias:
        reader = tf.train.load_checkpoint(alias)
        return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()
                if key.startswith(("model/", "optimizer/"))}


def metrics(config, phase=1):
    return run_log.read_metrics_log(os.path.join(config.logs, f"pretraining_phase{phase}.jsonl"))


def of_model(tensors):
    return {key: value for key, value in tensors.items() if key.startswith("model/")}


def assert_same_bits(one, other):
    assert one.keys() == other.keys() and len(one) >= 50  # as many variables as the small model has
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def console(config, phase=1):
    return (pathlib.Path(config.logs) / f"pretraining_phase{phase}_rank0.log").read_text()


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Phases 1 and 2 without interruption, and their configurations."""
    config = make_config(data, tmp_path_factory.mktemp("finished"))
    train(config)
    second = phase_2(config, data)
    train(second)
    return config, second


# --- What a run leaves ---


def test_a_run_leaves_checkpoints_logs_configuration_vocabulary_and_curves(finished):
    config, second = finished
    checkpoints = Checkpoints(config.checkpoint_dir).list()
    assert [os.path.basename(found.prefix) for found in checkpoints] == ["ckpt-12", "ckpt-p2-6"]
    for name, phase, steps, one in (("pretraining_phase1", 1, 12, config), ("pretraining_phase2", 2, 6, second)):
        entries = metrics(config, phase)
        assert [entry["step"] for entry in entries] == list(range(1, steps + 1))
        assert all(np.isfinite(entry["loss"]) for entry in entries)
        sequence = flops.of_pretraining(one, one.encoder_config(61))
        assert all(entry["model_flops_per_second"] == pytest.approx(entry["sequences_per_second"] * sequence)
                   for entry in entries[1:])
        assert os.path.exists(os.path.join(config.logs, f"{name}.png"))
        saved = json.loads((pathlib.Path(config.logs) / f"configuration_phase{phase}.json").read_text())
        assert saved["config"]["num_train_steps"] == steps and saved["discriminator"]["vocab_size"] == 61
    assert (pathlib.Path(config.model_dir) / "vocab.txt").read_text().split() == PRETRAINING_VOCABULARY
    assert "parameters: 0.10 M" in console(config) and "FLOP/s of the model" in console(config)


def test_one_step_is_one_update_and_the_schedule_starts_at_zero(finished):
    config, _ = finished
    assert tensors(config, "ckpt-12")["optimizer/step/.ATTRIBUTES/VARIABLE_VALUE"] == 12
    rates = [entry["learning_rate"] for entry in metrics(config)]
    assert rates[0] == 0 and rates[2] == pytest.approx(6e-3) == max(rates) and rates[-1] > 0


def test_phase_2_starts_from_phase_1s_weights_with_a_fresh_optimizer(data, tmp_path, finished):
    config, _ = finished
    copy = dataclasses.replace(phase_2(config, data), learning_rate=0.0, model_name="tiny")
    results = tmp_path / "results" / "models" / "tiny" / "checkpoints"
    results.mkdir(parents=True)
    for file in pathlib.Path(config.checkpoint_dir).glob("ckpt-12.*"):
        (results / file.name).write_bytes(file.read_bytes())
    copy = dataclasses.replace(copy, results_dir=str(tmp_path / "results"), num_train_steps=2, weight_decay_rate=0.0)
    train(copy)
    first, second = tensors(config, "ckpt-12"), tensors(copy, "ckpt-p2-2")
    assert_same_bits(of_model(first), of_model(second))  # rate 0: as they were
    assert second["optimizer/step/.ATTRIBUTES/VARIABLE_VALUE"] == 2


# --- Bits ---


@pytest.mark.parametrize("step", [5, 8])
def test_a_run_stopped_and_resumed_equals_an_uninterrupted_one(data, tmp_path, finished, step):
    config = make_config(data, tmp_path)
    with pytest.raises(Interrupted, match=f"at step {step} of phase 1, which is saved; resume with"):
        train(config, StopAfter(step))
    assert f"ckpt-{step}.index" in os.listdir(config.checkpoint_dir)
    train(dataclasses.replace(config, restore_checkpoint="latest"))
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))
    assert [entry["step"] for entry in metrics(config)] == list(range(1, 13))
    if step == 5:
        second = phase_2(config, data)
        with pytest.raises(Interrupted, match="at step 3 of phase 2"):
            train(second, StopAfter(3))
        train(second)
        assert_same_bits(tensors(finished[1], "ckpt-p2-6"), tensors(second, "ckpt-p2-6"))


def test_a_mixture_resumes_to_the_bit_and_logs_what_each_dataset_gave(data, tmp_path):
    mixture = f"{data[32]}:3,{data['held_out']}:1"
    whole = make_config(data, tmp_path / "whole", pretrain_tfrecords=mixture, eval_tfrecords=mixture, num_train_steps=4)
    config = dataclasses.replace(whole, results_dir=str(tmp_path / "stopped"), eval_tfrecords=None)
    train(whole)
    with pytest.raises(Interrupted):
        train(config, StopAfter(2))
    train(dataclasses.replace(config, restore_checkpoint="latest"))
    assert_same_bits(tensors(whole, "ckpt-4"), tensors(config, "ckpt-4"))
    logged = [line for line in console(config).splitlines() if "mixture" in line and f"{data['held_out']} " in line]
    assert len(logged) == 4  # what it will have given and what it has, at both starts
    last = [line for line in console(whole).splitlines() if "the mixture has given" in line][-1]
    first, second = map(int, re.findall(r" ([0-9]+) records \(", last))
    assert first + second == 4 * 12 and 24 <= first <= 46 and f"({first / 90:.2f} of its epochs)" in last


def test_a_run_in_bf16_stopped_and_resumed_equals_an_uninterrupted_one(data, tmp_path):
    one, other = (make_config(data, tmp_path / name, precision="bf16", num_train_steps=4) for name in ("one", "other"))
    train(one)
    with pytest.raises(Interrupted, match="at step 2 of phase 1"):
        train(other, StopAfter(2))
    train(dataclasses.replace(other, restore_checkpoint="latest"))
    assert_same_bits(tensors(one, "ckpt-4"), tensors(other, "ckpt-4"))


def test_a_stop_within_an_update_drops_it_and_resuming_repeats_it(data, tmp_path, finished):
    config = make_config(data, tmp_path, log_freq=5)
    with pytest.raises(Interrupted, match="at step 7 of phase 1, which is saved"):
        train(config, StopAfter(7, micro_batches=2))
    assert read_state(os.path.join(config.checkpoint_dir, "ckpt-7"))["record"] == 7 * 12
    assert [entry["step"] for entry in metrics(config)] == [1, 2, 5, 7]
    train(dataclasses.replace(config, restore_checkpoint="latest"))
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))


def test_saving_by_the_clock_changes_no_bit(data, tmp_path, finished):
    config = make_config(data, tmp_path, save_checkpoints_minutes=1e-9, keep_checkpoint_max=99, log_freq=5)
    train(config)
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == list(range(1, 13))
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))


def test_a_profile_is_written_for_tensorboard_and_changes_no_bit(data, tmp_path, finished, refuses):
    config = make_config(data, tmp_path, profile_steps="3:4", log_freq=5)
    train(config)
    written, = pathlib.Path(config.logs, "tensorboard").glob("**/plugins/profile/*/*.xplane.pb")
    assert b"update" in written.read_bytes() and str(written.parent.parent) in console(config)
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))
    late = dataclasses.replace(config, overwrite=True, profile_steps="13:14")
    assert "--profile_steps=13:14" in refuses(train, late)


def test_data_that_cannot_be_read_loses_no_update(data, tmp_path, finished, monkeypatch):
    config = make_config(data, tmp_path)
    batches = run_pretraining.pretrain_utils.micro_batches

    def damaged(*arguments):
        yield from itertools.islice(batches(*arguments), 5 * 3 + 1)
        raise UserError("shard 2 is damaged: remove it.")

    with monkeypatch.context() as patch:
        patch.setattr(run_pretraining.pretrain_utils, "micro_batches", damaged)
        with pytest.raises(UserError, match="shard 2 is damaged"):
            train(config)
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == [5]
    train(dataclasses.replace(config, restore_checkpoint="latest"))
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))


@pytest.fixture
def bad_updates(monkeypatch):
    """Makes the loss of the second micro-batch of updates 3 and 8 NaN."""
    from pretrain_utils import TRAINING, fold_seeds
    model, loss_of = run_pretraining.modeling.PretrainingModel, run_pretraining.modeling.PretrainingModel.loss

    def loss(self, features, seeds):
        bad = [fold_seeds([42, TRAINING, 1, step, 1, 0], self.num_seeds)[0] for step in (3, 8)]
        value, sums = loss_of(self, features, seeds)
        found = tf.reduce_any(tf.reduce_all(tf.equal(seeds[0], tf.constant(np.array(bad))), axis=1))
        return tf.where(found, np.nan, value), sums

    monkeypatch.setattr(model, "loss", loss)


def test_bad_updates_are_skipped_up_to_the_budget_and_resuming_changes_no_bit(data, tmp_path, bad_updates):
    uninterrupted = make_config(data, tmp_path, skip_bad_updates=2, log_freq=5, model_name="uninterrupted")
    train(uninterrupted)
    expected = tensors(uninterrupted, "ckpt-12")
    assert read_state(os.path.join(uninterrupted.checkpoint_dir, "ckpt-12"))["skipped_updates"] == [3, 8]
    assert expected["optimizer/step/.ATTRIBUTES/VARIABLE_VALUE"] == 12
    assert all(np.isfinite(value).all() for value in expected.values())
    for number, step in ((1, 3), (2, 8)):
        assert re.search(rf"update {step} \(batch seed \[42, \d+, 1, {step}\]\).* number {number} of "
                         "--skip_bad_updates=2", console(uninterrupted))
    kinds = [(entry["step"], entry["kind"]) for entry in metrics(uninterrupted)]
    assert kinds == [(1, "train"), (2, "train"), (3, "skipped"), (5, "train"), (8, "skipped"), (10, "train"),
                     (12, "train")]
    assert all(np.isfinite(entry["loss"]) for entry in metrics(uninterrupted) if entry["kind"] == "train")

    config = make_config(data, tmp_path, log_freq=5)
    with pytest.raises(RunFailed, match=r"not finite at update 3 .*ckpt-2: .*--skip_bad_updates=1"):  # noticed at 5
        train(config)
    assert read_state(os.path.join(config.checkpoint_dir, "ckpt-2"))["record"] == 2 * 12
    one = dataclasses.replace(config, restore_checkpoint="latest", skip_bad_updates=1)
    with pytest.raises(Interrupted):
        train(one, StopAfter(5))
    with pytest.raises(RunFailed, match=r"not finite at update 8 .*ckpt-7: .*--skip_bad_updates=2"):
        train(one)
    train(dataclasses.replace(one, skip_bad_updates=2))
    assert_same_bits(expected, tensors(config, "ckpt-12"))


def test_evaluating_and_saving_change_no_bit_of_training(data, tmp_path, finished):
    config = make_config(data, tmp_path, eval_tfrecords=data["held_out"], eval_freq=5, save_checkpoints_steps=4)
    train(config)
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))
    held_out = [entry for entry in metrics(config) if entry["kind"] == "eval"]
    assert [entry["step"] for entry in held_out] == [5, 10, 12]
    assert held_out[0]["generator_perplexity"] == pytest.approx(np.exp(held_out[0]["generator_loss"]))
    assert {"generator_accuracy", "discriminator_loss", "discriminator_accuracy", "discriminator_precision",
            "discriminator_recall", "discriminator_auc"} <= held_out[0].keys()


def test_another_seed_gives_another_run(data, tmp_path, finished):
    config = make_config(data, tmp_path, seed=43, num_train_steps=3, lr_decay_power=0.0)
    train(config)
    key = "model/encoder/layers/0/query/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    assert (tensors(config, "ckpt-3")[key] != tensors(finished[0], "ckpt-12")[key]).any()


# --- As a user runs it ---


def command(config, *more):
    words = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
             for name, value in dataclasses.asdict(config).items()
             if value is not None and value != getattr(PretrainingConfig, name)]
    return [sys.executable, str(ROOT / "run_pretraining.py"), *words, *more]


def run(*words, **kwargs):
    return subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=ROOT, **kwargs)


def test_killed_at_random_moments_and_resumed_equals_an_uninterrupted_run(data, tmp_path, finished):
    """kill -9 whenever a checkpoint happens to be there, in the middle of whatever the process does."""
    config = make_config(data, tmp_path, save_checkpoints_steps=1, keep_checkpoint_max=2)
    folder = pathlib.Path(config.checkpoint_dir)
    for step, delay in ((2, 0.05), (6, 0.3)):
        resumed = dataclasses.replace(config, restore_checkpoint="latest" if folder.exists() else None)
        process = subprocess.Popen(command(resumed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        deadline = time.monotonic() + 120
        while not any(found.step >= step for found in Checkpoints(str(folder)).list()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.wait()
    done = run(*command(dataclasses.replace(config, restore_checkpoint="latest")))
    assert done.returncode == 0, done.stderr
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_update_saves_says_how_to_resume_and_exits_75(data, tmp_path, number, said, monkeypatch):
    config = make_config(data, tmp_path, num_train_steps=100_000, log_freq=1)
    lock = os.path.join(config.model_dir, ".lock")
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0)
    process = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    for line in process.stdout:
        if line.startswith("step 3/"):
            with pytest.raises(files.Held, match=f"process {process.pid} "), files.hold(lock):
                pass
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    assert not os.path.exists(lock)
    assert process.returncode == 75
    assert len(said(errors).splitlines()) == 1 and "resume with --restore_checkpoint=latest" in errors
    step = int(re.search(r"at step (\d+)", errors)[1])
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == [step] and step >= 3


def test_help_lists_every_option_with_its_default_and_exits_0(said):
    for word in ("-h", "--help"):
        done = run(sys.executable, str(ROOT / "run_pretraining.py"), word)
        assert done.returncode == 0 and said(done.stderr) == ""
        for field in dataclasses.fields(PretrainingConfig):
            assert f"--{field.name}=" in done.stdout
        assert "--learning_rate=0.006" in done.stdout and "--use_hpu=false" in done.stdout


@pytest.mark.parametrize("words, sentence", [
    (["--no_such_flag=1"], "no_such_flag"), (["--train_batch_size=many"], "train_batch_size"),
    (["--train_batch_size=0"], "--train_batch_size=0 is too small"), (["stray"], "'stray'"),
    (["--device=tpu"], "device"), (["--precision=fp8"], "precision"), ([], "--pretrain_tfrecords is missing"),
    (["--pretrain_tfrecords=/nowhere/*"], "/nowhere/* matches no file"),
    (["--pretrain_tfrecords=x", "--num_train_steps=5", "--num_warmup_steps=5"], "--num_warmup_steps=5 must be below"),
    (["--pretrain_tfrecords=DATA", "--max_seq_length=32", "--train_batch_size=2", "--device=gpu"], "--device=cpu")])
def test_a_mistake_ends_in_one_sentence_and_status_2(words, sentence, data, tmp_path, said):
    done = run(sys.executable, str(ROOT / "run_pretraining.py"), *(word.replace("DATA", data[32]) for word in words),
               *([] if "--no_such_flag=1" in words else [f"--results_dir={tmp_path}"]))
    assert done.returncode == 2
    assert sentence in done.stderr and len(said(done.stderr).splitlines()) == 1, done.stderr
    assert not (tmp_path / "models" / "base" / "checkpoints").exists() or not os.listdir(
        tmp_path / "models" / "base" / "checkpoints")


@pytest.mark.skipif(any(map(glob.glob, GAUDI_FILES)),
                    reason="a Gaudi card is here")
def test_hpu_is_refused_without_a_card_also_where_its_bridge_is_installed(data, tmp_path, said):
    """Without a card, habana-tensorflow aborts the process that loads it: it must not be loaded."""
    done = run(sys.executable, str(ROOT / "run_pretraining.py"), "--device=hpu", "--precision=bf16",
               f"--pretrain_tfrecords={data[32]}", "--max_seq_length=32", f"--results_dir={tmp_path}")
    assert done.returncode == 2, done.stderr
    assert "--device=cpu" in done.stderr and len(said(done.stderr).splitlines()) == 1, done.stderr


# --- Refusals and notes ---


def test_a_second_run_is_refused_with_the_three_ways_on_and_overwrite_starts_anew(data, tmp_path, finished):
    config = make_config(data, tmp_path, num_train_steps=3)
    train(config)
    train(phase_2(config, data))
    ways_on = "--restore_checkpoint=latest.*--resume_training=true.*--model_name.*--overwrite"
    with pytest.raises(UserError, match=ways_on):
        train(config)
    with pytest.raises(UserError, match="matches no file"):  # a mistake does not cost the old run
        train(dataclasses.replace(config, overwrite=True, pretrain_tfrecords="/nowhere"))
    assert len(Checkpoints(config.checkpoint_dir).list()) == 2
    train(dataclasses.replace(config, overwrite=True))
    assert [found.prefix[-6:] for found in Checkpoints(config.checkpoint_dir).list()] == ["ckpt-3"]


def content(folder):
    """Every file below a folder and its bytes, without console logs."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in pathlib.Path(folder).rglob("*")
            if path.is_file() and not path.name.endswith(".log")}


@pytest.mark.parametrize("mistake", [
    dict(load_weights=True, weights_dir="no/such/weights"), dict(json_summary="/proc/no/such.jsonl"),
    dict(model_config='{"hidden_size": 65}'), dict(model_config="no/such.json"), dict(vocab_file="no/such/vocab.txt")],
    ids=lambda mistake: next(reversed(mistake)))
def test_overwrite_with_a_mistake_leaves_everything_as_it_was(data, copied, mistake, refuses):
    config, _ = copied
    before = content(config.model_dir)
    refuses(train, dataclasses.replace(config, overwrite=True, **mistake))
    assert content(config.model_dir) == before


def test_overwrite_keeps_the_old_run_until_the_new_one_has_saved(data, copied):
    config, _ = copied
    kept = []

    class Look(StopAfter):
        def begin(self):
            super().begin()
            kept[:] = kept or Checkpoints(os.path.join(config.checkpoint_dir, "overwritten")).list()

    with pytest.raises(Interrupted):
        train(dataclasses.replace(config, overwrite=True), Look(2))
    assert [found.name for found in kept] == ["ckpt-12", "ckpt-p2-6"]
    assert sorted(os.listdir(config.checkpoint_dir)) == ["ckpt-2.data-00000-of-00001", "ckpt-2.index"]


# --- Rolling back, extending, keeping ---


@pytest.fixture
def copied(data, tmp_path, finished):
    """The two finished phases, in a copy of their folder."""
    shutil.copytree(finished[0].results_dir, tmp_path / "results")
    return [dataclasses.replace(config, results_dir=str(tmp_path / "results")) for config in finished]


def test_after_a_rollback_latest_takes_the_new_branch(data, tmp_path):
    """It once took the newest step, which was that of the run that had diverged."""
    config = make_config(data, tmp_path, num_train_steps=6, save_checkpoints_steps=2)
    train(config)
    second = os.path.join(config.checkpoint_dir, "ckpt-2")
    lower = dataclasses.replace(config, learning_rate=1e-3, restore_checkpoint=second, num_train_steps=7)
    with pytest.raises(Interrupted):
        train(lower, StopAfter(3, first=3))
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == [2, 3]
    aside = os.path.join(config.checkpoint_dir, "diverged-after-ckpt-2-1")
    assert [found.step for found in Checkpoints(aside).list()] == [4, 6] and aside in console(config)
    train(dataclasses.replace(lower, restore_checkpoint="latest"))
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == [2, 3, 4, 6, 7]
    rates = {entry["step"]: entry["learning_rate"] for entry in metrics(config)}
    assert rates[4] <= 1e-3 < rates[2]
    assert weights.open_checkpoint(os.path.join(aside, "ckpt-6")).state["step"] == 6  # its vocabulary is found
    train(dataclasses.replace(lower, restore_checkpoint=os.path.join(aside, "ckpt-4"), num_train_steps=4))
    assert len(Checkpoints(config.checkpoint_dir).list()) == 5  # nothing to train: nothing moves


def test_a_rollback_that_is_refused_moves_nothing(data, copied, refuses):
    config, second = copied
    before = content(config.model_dir)
    refuses(train, dataclasses.replace(second, restore_checkpoint=os.path.join(config.checkpoint_dir, "ckpt-12"),
                                       json_summary="/proc/no/such.jsonl"))
    assert content(config.model_dir) == before


def test_phase_2_says_so_when_phase_1_has_been_trained_since(data, copied):
    """Phase 1 was extended, and phase 2 once said "nothing to train" on the weights of before."""
    config, second = copied
    state = read_state(os.path.join(config.checkpoint_dir, "ckpt-p2-6"))
    assert state["phase_1"]["step"] == 12
    before = console(config, 2)
    train(second)
    assert "does not include" not in console(config, 2)[len(before):]
    train(dataclasses.replace(config, restore_checkpoint="latest", num_train_steps=13))
    before = console(config, 2)
    train(second)
    said = console(config, 2)[len(before):]
    warnings = [line for line in said.splitlines() if "phase 2 started from step 12" in line]
    assert len(warnings) == 1 and "ckpt-13" in warnings[0] and "move ckpt-p2-* out of" in warnings[0]
    assert "nothing to train" in said
    train(dataclasses.replace(second, restore_checkpoint=os.path.join(config.checkpoint_dir, "ckpt-13"),
                              num_train_steps=2))
    assert [found.name for found in Checkpoints(config.checkpoint_dir).list(2)] == ["ckpt-p2-2"]
    assert read_state(os.path.join(config.checkpoint_dir, "ckpt-p2-2"))["phase_1"]["step"] == 13


def test_a_phase_1_of_the_same_step_and_other_content_is_another(data, copied):
    config, second = copied
    train(dataclasses.replace(config, overwrite=False, model_name="other", seed=7, num_train_steps=12))
    for file in pathlib.Path(config.results_dir, "models", "other", "checkpoints").glob("ckpt-12.*"):
        shutil.copy(file, config.checkpoint_dir)
    train(second)
    assert "phase 2 started from step 12 of phase 1 and does not include" in console(config, 2)


def test_a_failed_save_does_not_stop_training_but_a_failed_last_one_does(data, tmp_path, finished, monkeypatch):
    config = make_config(data, tmp_path, save_checkpoints_steps=3, keep_checkpoint_max=9)
    write, full = Checkpoints._write_once, {6, 9}

    def write_unless_full(self, checkpoint, content):
        if checkpoint.step in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, checkpoint, content)

    monkeypatch.setattr(Checkpoints, "_write_once", write_unless_full)
    train(config)
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == [3, 12]
    assert console(config).count("ckpt-6 could not be saved (No space left on device)") == 2
    full.add(5)
    for stop in (None, StopAfter(5)):
        again = dataclasses.replace(config, overwrite=True, num_train_steps=9)
        with pytest.raises(RunFailed, match=rf"ckpt-{5 if stop else 9} could not be saved .*ckpt-3"):
            train(again, stop)


def test_the_best_checkpoint_and_milestones_are_kept(data, tmp_path):
    config = make_config(data, tmp_path, eval_tfrecords=data["held_out"], save_checkpoints_steps=1, num_train_steps=5,
                         num_warmup_steps=0, keep_checkpoint_max=1, keep_every_steps=2, learning_rate=0.05)
    train(config)
    losses = {entry["step"]: entry["generator_loss"] + 50 * entry["discriminator_loss"]
              for entry in metrics(config) if entry["kind"] == "eval"}
    best = min(losses, key=losses.get)
    named = json.loads((pathlib.Path(config.checkpoint_dir) / "best.json").read_text())["phase 1"]
    assert named == {"checkpoint": f"ckpt-{best}", "step": best, "loss": pytest.approx(losses[best])}
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == sorted({2, 4, 5, best})


def test_a_run_under_a_path_with_characters_of_patterns_trains_resumes_and_exports(data, tmp_path, finished):
    config = make_config(data, tmp_path, results_dir=str(tmp_path / r"a[1] *?\b"))
    with pytest.raises(Interrupted):
        train(config, StopAfter(5))
    train(dataclasses.replace(config, restore_checkpoint="latest"))
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))
    postprocess_pretrained_ckpt.export(postprocess_pretrained_ckpt.ExportConfig(
        pretrained_checkpoint=config.checkpoint_dir, output_dir=str(tmp_path / "[exported]")))
    assert (tmp_path / "[exported]" / "discriminator" / "model.safetensors").exists()
    assert weights.read(config.checkpoint_dir).tensors


# --- Resuming and refusals ---


def test_resuming_a_finished_phase_does_nothing_and_says_so(finished):
    config, _ = finished
    before = sorted(os.listdir(config.checkpoint_dir))
    train(dataclasses.replace(config, restore_checkpoint="latest"))
    assert "phase 1 has finished its 12 updates already" in console(config)
    assert sorted(os.listdir(config.checkpoint_dir)) == before


def test_an_evaluation_that_was_interrupted_is_done_on_resuming(data, tmp_path):
    config = make_config(data, tmp_path, eval_tfrecords=data["held_out"], eval_freq=2, num_train_steps=4,
                         save_checkpoints_steps=2)
    with pytest.raises(Interrupted, match="at step 4 of phase 1, which is saved"):
        train(config, StopAfter(3, micro_batches=3))
    log = pathlib.Path(config.logs, "pretraining_phase1.jsonl")
    pathlib.Path(config.logs, "pretraining_phase1.png").unlink()

    def evaluations():
        return [entry for entry in metrics(config) if entry["kind"] == "eval"]

    assert [entry["step"] for entry in evaluations()] == [2]
    resumed = dataclasses.replace(config, restore_checkpoint="latest")
    train(resumed)
    assert [entry["step"] for entry in evaluations()] == [2, 4]
    assert os.path.exists(os.path.join(config.logs, "pretraining_phase1.png"))
    expected = evaluations()
    # Killed after the checkpoint of update 2, before its evaluation.
    log.write_text("".join(json.dumps(entry) + "\n" for entry in metrics(config) if entry["kind"] != "eval"))
    train(dataclasses.replace(config, restore_checkpoint=os.path.join(config.checkpoint_dir, "ckpt-2")))
    assert evaluations() == expected
    assert [entry["step"] for entry in metrics(config)] == [1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("blocked", ["checkpoints", "logs"])
def test_a_folder_that_cannot_be_written_is_refused_before_training(data, tmp_path, refuses, blocked):
    config = make_config(data, tmp_path)
    os.makedirs(config.model_dir)
    pathlib.Path(config.model_dir, blocked).write_text("")
    said = refuses(train, config)
    assert f"{config.model_dir}/{blocked} cannot be written" in said and "--" in said


def test_resume_and_phase_2_refuse_what_is_not_there(data, tmp_path, finished):
    config = make_config(data, tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint"):
        train(dataclasses.replace(config, restore_checkpoint="latest"))
    with pytest.raises(UserError, match="no checkpoint of phase 1: run phase 1 first"):
        train(phase_2(config, data))
    with pytest.raises(UserError, match="nowhere/ckpt-9 does not exist"):
        train(dataclasses.replace(config, restore_checkpoint="nowhere/ckpt-9"))
    with pytest.raises(Interrupted):
        train(config, StopAfter(4))
    with pytest.raises(UserError, match="phase 1 stopped at step 4 of 12.*finish it first"):
        train(phase_2(config, data))
    second = os.path.join(finished[0].checkpoint_dir, "ckpt-p2-6")
    with pytest.raises(UserError, match="belongs to phase 2"):
        train(dataclasses.replace(config, restore_checkpoint=second))


def test_auto_starts_a_new_run_resumes_it_and_runs_phase_2(data, tmp_path, finished):
    config = make_config(data, tmp_path, restore_checkpoint="auto")
    with pytest.raises(Interrupted, match="at step 4 of phase 1"):
        train(config, StopAfter(4))
    train(config)
    assert "resuming from" in console(config) and "at step 4." in console(config)
    assert_same_bits(tensors(finished[0], "ckpt-12"), tensors(config, "ckpt-12"))
    second = dataclasses.replace(phase_2(config, data), restore_checkpoint="auto")
    train(second)
    assert_same_bits(tensors(finished[1], "ckpt-p2-6"), tensors(second, "ckpt-p2-6"))
    for found in Checkpoints(config.checkpoint_dir).list(1):
        pathlib.Path(f"{found.prefix}.index").unlink()
    with pytest.raises(UserError, match="already holds ckpt-p2-6"):  # a new phase 1 must not mix with it
        train(config)


def test_auto_prefers_the_checkpoint_to_the_given_weights_and_refuses_damaged_ones(data, tmp_path, finished):
    config = make_config(data, tmp_path, load_weights=True, weights_dir=finished[0].checkpoint_dir, num_train_steps=3,
                         restore_checkpoint="auto")
    with pytest.raises(Interrupted):
        train(config, StopAfter(2))
    assert "tensors of" in console(config)
    train(config)
    assert "at step 2." in console(config) and console(config).count("tensors of") == 1
    for index in pathlib.Path(config.checkpoint_dir).glob("*.index"):
        index.write_bytes(b"damaged")
    with pytest.raises(UserError, match="ckpt-3 is damaged, .* phase 1 can be read: .*without --restore_checkpoint"):
        train(config)
    empty = make_config(data, tmp_path, eval_only=True, eval_tfrecords=data["held_out"], restore_checkpoint="auto",
                        model_name="other")
    with pytest.raises(UserError, match="--restore_checkpoint=auto: .*other.* holds no checkpoint"):
        run_pretraining.evaluate_only(empty, devices.open_device("cpu", "fp32"))


def test_a_checkpoint_of_another_size_or_vocabulary_is_refused(data, tmp_path, finished):
    prefix = os.path.join(finished[0].checkpoint_dir, "ckpt-12")
    config = make_config(data, tmp_path, restore_checkpoint=prefix)
    with pytest.raises(UserError, match="does not fit this model"):
        train(dataclasses.replace(config, generator_hidden_size=1.0, model_config=None))
    other = tmp_path / "vocab.txt"
    other.write_text("\n".join(reversed(PRETRAINING_VOCABULARY)) + "\n")
    with pytest.raises(UserError, match="trained on another vocabulary"):
        train(dataclasses.replace(config, vocab_file=str(other)))


def test_changed_settings_and_data_are_said_on_resuming(data, tmp_path):
    config = make_config(data, tmp_path)
    with pytest.raises(Interrupted):
        train(config, StopAfter(4))
    changed = dataclasses.replace(config, restore_checkpoint="latest", train_batch_size=5, num_train_steps=6,
                                  pretrain_tfrecords=data["held_out"])
    train(changed)
    said = console(config)
    assert "--train_batch_size was 4 when the checkpoint was written and is 5 now" in said
    assert "the training data differs from the checkpoint's" in said


def test_a_changed_batch_size_continues_at_the_same_record(data, tmp_path):
    config = make_config(data, tmp_path)
    with pytest.raises(Interrupted):
        train(config, StopAfter(4))
    train(dataclasses.replace(config, restore_checkpoint="latest", train_batch_size=2, num_train_steps=6))
    record = read_state(os.path.join(config.checkpoint_dir, "ckpt-6"))["record"]
    assert record == 4 * 12 + 2 * 6


def damage(config, pattern="*"):
    for index in pathlib.Path(config.checkpoint_dir).glob(f"{pattern}.index"):
        index.write_bytes(b"damaged")


@pytest.mark.parametrize("restore", [None, "latest", "auto"])
def test_the_ways_out_of_a_damaged_only_checkpoint_work(data, tmp_path, refuses, restore):
    """Before, a new start said `resume it`, and resuming said `omit the option for a new run`."""
    config = make_config(data, tmp_path, num_train_steps=2, num_warmup_steps=1)
    with pytest.raises(Interrupted):
        train(config, StopAfter(1))
    damage(config)
    said = refuses(train, dataclasses.replace(config, restore_checkpoint=restore))
    assert "ckpt-1 is damaged" in said and "--model_name" in said and "--overwrite" in said and "resume it" not in said
    assert ("without --restore_checkpoint" in said) == bool(restore)
    train(dataclasses.replace(config, model_name="another"))
    train(dataclasses.replace(config, overwrite=True))
    assert [found.name for found in Checkpoints(config.checkpoint_dir).list()] == ["ckpt-2"]
    # An earlier run that can be read is resumed, and --overwrite replaces it.
    said = refuses(train, config)
    assert "resume it with --restore_checkpoint=latest" in said and "--overwrite" in said
    train(dataclasses.replace(config, restore_checkpoint="latest"))
    train(dataclasses.replace(config, overwrite=True))


def test_the_ways_out_of_a_damaged_phase_work(data, tmp_path, finished, refuses):
    shutil.copytree(finished[0].model_dir, tmp_path / "results" / "models" / "tiny")
    config = make_config(data, tmp_path)
    second = phase_2(config, data)
    damage(config, "ckpt-p2-*")
    for restore in (None, "latest", "auto"):  # before, `latest` started phase 2 again beside the damaged checkpoint
        said = refuses(train, dataclasses.replace(second, restore_checkpoint=restore))
        assert "ckpt-p2-6 is damaged" in said and "move ckpt-p2-* out" in said
    for file in pathlib.Path(config.checkpoint_dir).glob("ckpt-p2-*"):
        file.unlink()
    train(second)
    assert_same_bits(tensors(finished[1], "ckpt-p2-6"), tensors(second, "ckpt-p2-6"))
    said = refuses(train, dataclasses.replace(second, restore_checkpoint=None))
    assert "resume it with --restore_checkpoint=latest" in said and "phase 2 again with --overwrite" in said
    train(dataclasses.replace(second, restore_checkpoint=None, overwrite=True))
    damage(config)
    for file in pathlib.Path(config.checkpoint_dir).glob("ckpt-p2-*"):
        file.unlink()
    said = refuses(train, second)
    assert "no checkpoint of phase 1" in said and "can be read" in said and "--overwrite" in said
    held_out = dataclasses.replace(config, eval_only=True, eval_tfrecords=data["held_out"], restore_checkpoint="latest")
    said = refuses(run_pretraining.evaluate_only, held_out, devices.open_device("cpu", "fp32"))
    assert "is damaged" in said and "another checkpoint" in said and "--overwrite" not in said


def test_phase_2_alone_in_the_folder_is_not_resumed_by_phase_1(data, tmp_path, finished, refuses):
    shutil.copytree(finished[0].model_dir, tmp_path / "results" / "models" / "tiny")
    config = make_config(data, tmp_path, num_train_steps=2, num_warmup_steps=1)
    for file in pathlib.Path(config.checkpoint_dir).glob("ckpt-[0-9]*"):
        file.unlink()
    said = refuses(train, config)
    assert "already holds ckpt-p2-6" in said and "resume" not in said
    train(dataclasses.replace(config, overwrite=True))


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("more", [{}, dict(restore_checkpoint="auto")], ids=["new", "auto"])
def test_the_advice_after_a_loss_that_is_not_finite_works(data, tmp_path, monkeypatch, saved, more):
    model, bad = run_pretraining.modeling.PretrainingModel, True
    loss_of = model.loss
    first = tf.Variable(3 if saved else 0)  # micro-batches

    def loss(self, features, seeds):  # not finite at the second update, or at the first
        value, sums = loss_of(self, features, seeds)
        return tf.where(first.assign_sub(1) < 0 if bad else False, np.nan, value), sums

    monkeypatch.setattr(model, "loss", loss)
    config = make_config(data, tmp_path, num_train_steps=4, num_warmup_steps=1, **more)
    with pytest.raises(RunFailed, match=f"not finite at update {2 if saved else 1} ") as failed:
        train(config)
    said = str(failed.value)
    assert ("no checkpoint is saved yet: run the same command" in said) == (not saved)
    bad = False
    if saved:
        assert ("resume with the same command" if more else "resume with --restore_checkpoint=latest") in said
        config = dataclasses.replace(config, restore_checkpoint=config.restore_checkpoint or "latest")
    train(dataclasses.replace(config, learning_rate=1e-4))
    assert Checkpoints(config.checkpoint_dir).newest(1).step == 4


def test_resuming_names_the_options_to_leave_out(data, tmp_path, refuses):
    config = make_config(data, tmp_path, overwrite=True)
    assert "latest in place of --overwrite" in preflight.to_resume(config)
    refuses(dataclasses.replace, config, restore_checkpoint="latest")
    config = make_config(data, tmp_path, load_weights=True, weights_dir="w")
    assert "latest in place of --load_weights and --weights_dir" in preflight.to_resume(config)
    refuses(dataclasses.replace, config, restore_checkpoint="latest")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(data, tmp_path):
    config = make_config(data, tmp_path, optimizer="adamw", learning_rate=1e30, save_checkpoints_steps=1)
    with pytest.raises(RunFailed, match=r"not finite at update \d+ .*seed.*not applied; the last checkpoint is "):
        train(config)
    newest = Checkpoints(config.checkpoint_dir).newest(1)
    assert all(np.isfinite(value).all() for value in tensors(config, f"ckpt-{newest.step}").values())


def test_load_weights_takes_the_weights_and_starts_at_step_0(data, tmp_path, finished):
    config = make_config(data, tmp_path, load_weights=True, weights_dir=finished[0].checkpoint_dir, num_train_steps=1,
                         num_warmup_steps=0, learning_rate=0.0)
    train(config)
    after = tensors(config, "ckpt-1")
    assert_same_bits(of_model(tensors(finished[0], "ckpt-p2-6")), of_model(after))
    assert after["optimizer/step/.ATTRIBUTES/VARIABLE_VALUE"] == 1


@pytest.mark.parametrize("kinds", [("discriminator", "generator"), ("discriminator",)], ids=len)
def test_load_weights_takes_model_folders(data, tmp_path, finished, kinds):
    folder = str(tmp_path / "exported")
    postprocess_pretrained_ckpt.export(postprocess_pretrained_ckpt.ExportConfig(
        pretrained_checkpoint=finished[0].checkpoint_dir, output_dir=folder))
    config = make_config(data, tmp_path, load_weights=True, num_train_steps=1, num_warmup_steps=0, learning_rate=0.0,
                         weights_dir=", ".join(f"{folder}/{kind}" for kind in kinds))
    train(config)
    before, after = of_model(tensors(finished[0], "ckpt-p2-6")), of_model(tensors(config, "ckpt-1"))
    for name in before:
        size = 61 if "word_embeddings" in name or "output_bias" in name else None
        same = np.array_equal(before[name][:size], after[name][:size])
        assert same != ("generator" in name and len(kinds) == 1), name
    assert f"tensors of {config.weights_dir.replace(' ', '')} loaded." in console(config)
    assert ("newly initialised: the generator's" in console(config)) == (len(kinds) == 1)


def test_load_weights_refuses_what_does_not_fit(data, tmp_path, finished):
    config = make_config(data, tmp_path, load_weights=True, weights_dir=finished[0].checkpoint_dir)
    with pytest.raises(UserError, match="does not fit this model.*generator_hidden_size"):
        train(dataclasses.replace(config, generator_hidden_size=1.0, model_config='{"num_hidden_layers": 2}'))
    with pytest.raises(UserError, match="nowhere/at/all does not exist"):
        train(dataclasses.replace(config, weights_dir="nowhere/at/all"))


def test_wrong_vocabulary_for_the_manifest_is_refused(data, tmp_path):
    folder = tmp_path / "dataset"
    write_shards(folder, 32, records=6)
    (folder / "manifest.json").write_text(json.dumps({
        "format": "electra-pretraining-tfrecord", "tokenizer_fingerprint": "of another", "train": []}))
    with pytest.raises(UserError, match="is not the vocabulary of .*manifest"):
        train(make_config(data, tmp_path, pretrain_tfrecords=str(folder)))


def test_manifests_of_further_and_of_held_out_folders_are_checked(data, tmp_path):
    """Of a list, the second folder; the message names it."""
    first, second = tmp_path / "first", tmp_path / "second"
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_text("\n".join(PRETRAINING_VOCABULARY) + "\n")
    tokenizer = ElectraTokenizer(str(vocab_file))
    vocab_file.write_text("\n".join([*PRETRAINING_VOCABULARY[:5], *PRETRAINING_VOCABULARY[:4:-1]]) + "\n")
    for folder, built_with in ((first, tokenizer), (second, ElectraTokenizer(str(vocab_file)))):
        write_shards(folder, 32, records=24)
        (folder / "manifest.json").write_text(json.dumps({
            "format": "electra-pretraining-tfrecord", "tokenizer_fingerprint": built_with.fingerprint,
            "max_seq_length": 32}))
    for options in (dict(pretrain_tfrecords=f"{first},{second}"),
                    dict(pretrain_tfrecords=str(first), eval_tfrecords=str(second))):
        with pytest.raises(UserError, match=f"--vocab_file: .*{second}.*manifest"):
            train(make_config(data, tmp_path, **options))


def test_damaged_record_stops_a_run_unless_it_may_be_skipped(data, tmp_path):
    """In a folder whose name contains the signs of a glob. Resuming skips as the run without interruption did."""
    folder = tmp_path / "da[t]a*"
    shutil.copytree(data[32], folder)
    shard = folder / "train-1.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    config = make_config(data, tmp_path, pretrain_tfrecords=str(folder))
    with pytest.raises(UserError, match="train-1.tfrecord fails its checksum in the record at byte .*skip_bad_records"):
        train(config)
    config = dataclasses.replace(config, skip_bad_records=1, overwrite=True)
    train(config)
    assert console(config).count("--skip_bad_records=1") == 1
    resumed = dataclasses.replace(config, model_name="resumed", pretrain_tfrecords=f"{folder}/*.tfrecord")
    with pytest.raises(Interrupted):
        train(resumed, StopAfter(5))
    train(dataclasses.replace(resumed, overwrite=False, restore_checkpoint="latest"), StopAfter(99))
    assert_same_bits(tensors(config, "ckpt-12"), tensors(resumed, "ckpt-12"))


def test_fewer_held_out_records_than_a_batch_are_one_smaller_batch_with_a_note(data, tmp_path):
    small = make_config(data, tmp_path, eval_tfrecords=data["held_out"], train_batch_size=24, model_name="small",
                        num_train_steps=3, gradient_accumulation_steps=1)
    large = dataclasses.replace(small, train_batch_size=30, model_name="large")
    for config in (small, large):
        train(config)
    first, second = ([entry for entry in metrics(config) if entry["kind"] == "eval"] for config in (small, large))
    assert len(first) == len(second) == 1 and set(first[0]) == set(second[0])
    assert "held-out records (24)" in console(large) and "held-out records (" not in console(small)


def test_records_of_another_length_and_a_missing_vocabulary_are_refused(data, tmp_path):
    config = make_config(data, tmp_path)
    with pytest.raises(UserError, match="length 64, not --max_seq_length=32: give --max_seq_length=64"):
        train(dataclasses.replace(config, pretrain_tfrecords=data[64]))
    bare = tmp_path / "bare"
    write_shards(bare, 32, records=6)
    (bare / "vocab.txt").unlink()
    with pytest.raises(UserError, match="has no vocabulary .* beside the shards"):
        train(dataclasses.replace(config, pretrain_tfrecords=str(bare)))


def test_a_fine_tuned_checkpoint_is_refused(data, tmp_path, refuses):
    fine_tuned = Checkpoints(str(tmp_path / "squad" / "checkpoints")).save(
        1, 3, tf.Module(), tf.Module(), {"task": "squad", "tokenizer_fingerprint": "x", "encoder": {}, "config": {}})
    config = make_config(data, tmp_path, eval_tfrecords=data["held_out"])
    for changes in (dict(restore_checkpoint=fine_tuned), dict(restore_checkpoint=fine_tuned, phase2=True)):
        assert fine_tuned in refuses(train, dataclasses.replace(config, **changes))
    evaluated = dataclasses.replace(config, eval_only=True, restore_checkpoint=fine_tuned)
    said = refuses(run_pretraining.evaluate_only, evaluated, devices.open_device("cpu", "fp32"))
    assert fine_tuned in said and "SQuAD" in said


# --- Evaluation ---


def test_eval_only_repeats_the_held_out_figures_of_training(data, tmp_path, capsys, refuses):
    """The checkpoint says which model it is: its size and generator need not be given again, nor may they differ."""
    config = make_config(data, tmp_path, eval_tfrecords=data["held_out"], num_train_steps=3, mask_prob=0.3,
                         generator_hidden_size=1.0)
    train(config)
    logged = [entry for entry in metrics(config) if entry["kind"] == "eval"][-1]
    checkpoint = os.path.join(config.checkpoint_dir, "ckpt-3.index")
    alone = PretrainingConfig(eval_only=True, restore_checkpoint=checkpoint, eval_tfrecords=data["held_out"],
                              max_seq_length=32, train_batch_size=4)
    device = devices.open_device("cpu", "fp32")
    for evaluated in (dataclasses.replace(config, eval_only=True, restore_checkpoint="latest"), alone):
        capsys.readouterr()
        run_pretraining.evaluate_only(evaluated, device)
        printed = json.loads(capsys.readouterr().out.splitlines()[-1])
        for name, value in logged.items():
            if name not in ("step", "kind"):
                assert printed[name] == pytest.approx(value, rel=1e-6)
    said = refuses(run_pretraining.evaluate_only, dataclasses.replace(alone, model_size="small"), device)
    assert "--model_size=small" in said and "tiny" in said
    other = tmp_path / "vocab.txt"
    other.write_text("\n".join(reversed(PRETRAINING_VOCABULARY)) + "\n")
    said = refuses(run_pretraining.evaluate_only, dataclasses.replace(alone, vocab_file=str(other)), device)
    assert "ckpt-3 was trained on another vocabulary" in said


# --- Old command lines ---


def test_the_switches_of_habanas_recipe_are_mapped_and_noted(capsys):
    config = command_line.parse(PretrainingConfig, ["x", "--use_hpu", "--hmp", "--fp16_compression",
                                                     "--json-summary=s.jsonl", "--pretrain_tfrecords=x"], "",
                                 run_pretraining.OLD_NAMES)
    assert (config.device, config.precision, config.json_summary) == ("hpu", "bf16", "s.jsonl")
    notes = capsys.readouterr().out.splitlines()
    assert len(notes) == 3 and all(note.startswith("note: --") for note in notes)
