"""samples: what is recorded at an evaluation is what the model does, costs no bit and no retrace, and stays small."""
from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
from support import PRETRAINING_VOCABULARY
from support import pretraining_config as make_config

import devices
import modeling
import run_log
import run_pretraining
import samples
import training
from samples import Passage


@pytest.fixture(scope="module")
def data(pretraining_data):
    return pretraining_data


def evaluated(data, tmp_path, **changes):
    """A run of 4 updates with 2 evaluations of 5 batches."""
    settings = dict(eval_tfrecords=data["held_out"], eval_freq=2, num_eval_steps=5, num_train_steps=4,
                    save_checkpoints_steps=2, report_samples=6)
    return make_config(data, tmp_path, **{**settings, **changes})


def train(config):
    run_pretraining.train(config, devices.open_device("cpu", config.precision), training.StopRequest())


def evaluate(config, *steps):
    """Evaluates and records as a run does, without training: the metrics."""
    setup = run_pretraining.prepare(config, devices.open_device("cpu", config.precision))
    recorder = samples.Recorder(str(file_of(config)), 0, config.updates_per_eval, config.report_samples,
                                setup.tokenizer)
    return [setup.evaluate(record=functools.partial(recorder.add, step)) for step in steps]


def file_of(config) -> pathlib.Path:
    return pathlib.Path(config.logs, "samples_phase1.jsonl")


def entries(config):
    return [json.loads(line) for line in file_of(config).read_text(encoding="utf-8").splitlines()]


def held_out(config):
    return [entry for entry in run_log.read_metrics_log(os.path.join(config.logs, "pretraining_phase1.jsonl"))
            if entry["kind"] == "eval"]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    config = evaluated(data, tmp_path_factory.mktemp("finished"))
    train(config)
    return config


# --- What is recorded ---


def test_the_record_is_what_the_model_does_with_the_held_out_text(finished):
    constant, *evaluations = entries(finished)
    assert [entry["step"] for entry in evaluations] == [2, 4]
    assert len(constant["passages"]) == 6
    # The same batches, once more, with the model of the last checkpoint.
    device = devices.open_device("cpu", "fp32")
    setup = run_pretraining.prepare(dataclasses.replace(finished, restore_checkpoint="latest"), device)
    ids, logits, labels = [], [], []
    model = setup.model
    data = run_pretraining.pretrain_utils.open_data(run_pretraining.pretrain_utils.find_shards(
        finished.eval_tfrecords, "eval_tfrecords"), finished, setup.tokenizer)
    stream = run_pretraining.pretrain_utils.micro_batches(data.order, data.record_format, 4)
    rows = {}
    for number in range(5):
        features = next(stream)
        seeds = run_pretraining.pretrain_utils.fold_seeds(
            [finished.seed, run_pretraining.pretrain_utils.EVALUATION, number], model.num_seeds)
        tensors = {name: tf.constant(value) for name, value in features.items()}
        output = model(tensors, tf.constant(seeds), training=False)
        real = features["input_mask"] > 0
        ids.append(output.corrupted_ids.numpy()[real])
        logits.append(output.discriminator_logits.numpy()[real])
        labels.append(output.labels.numpy()[real])
        for row in range(4):
            inside = np.flatnonzero(real[row])[1:-1]  # without [CLS] and [SEP]
            words = [PRETRAINING_VOCABULARY[id_] for id_ in features["input_ids"][row, inside]]
            rows[tuple(words)] = (
                [PRETRAINING_VOCABULARY[id_] for id_ in output.corrupted_ids.numpy()[row, inside]],
                output.discriminator_logits.numpy()[row, inside].astype(np.float64),
                output.masked.input_ids.numpy()[row, inside] == 4,
                sorted(output.masked.positions.numpy()[row][output.masked.weights.numpy()[row] > 0] - 1))
    stream.close()
    last = evaluations[-1]
    for passage, fills, percent in zip(constant["passages"], last["fills"], last["percent"]):
        corrupted, row_logits, hidden, positions = rows[tuple(passage["pieces"])]
        assert passage["positions"] == positions and passage["hidden"] == np.flatnonzero(hidden).tolist()
        assert fills == [corrupted[at] for at in positions]
        np.testing.assert_array_equal(percent, np.floor(100 / (1 + np.exp(-row_logits))))
    ids, logits, labels = (np.concatenate(part).astype(np.float64) for part in (ids, logits, labels))
    p = 1 / (1 + np.exp(-logits))
    losses = -np.where(labels == 1, np.log(p), np.log(1 - p))
    share = labels.mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert held_out(finished)[-1]["discriminator_gain"] == pytest.approx(1 - losses.mean() / entropy, abs=1e-6)
    for count, mean, replaced in last["calibration"]:
        bin_ = (p >= np.floor(mean * 20) / 20) & (p < np.floor(mean * 20) / 20 + 0.05)
        assert count == bin_.sum()
        assert (mean, replaced) == pytest.approx((p[bin_].mean(), labels[bin_].mean()), abs=1e-4)
    assert sum(row[0] for row in last["calibration"]) == len(p)
    usual = ids >= 5
    assert sum(row["original"] + row["replaced"] for row in last["frequency"]) == usual.sum()
    assert sum(row["found"] for row in last["frequency"]) == ((logits > 0) & (labels == 1) & usual).sum()
    assert sum(row["flagged"] for row in last["frequency"]) == ((logits > 0) & (labels == 0) & usual).sum()
    means = [row[2] for row in last["worst"] + last["best"][::-1]]
    assert means == sorted(means, reverse=True) and len(last["worst"]) == len(last["best"]) == samples.LISTED
    for name, count, loss, replaced, probability in last["worst"]:
        own = ids == PRETRAINING_VOCABULARY.index(name)
        assert count == own.sum()
        assert (loss, replaced, probability) == pytest.approx((losses[own].mean(), labels[own].mean(), p[own].mean()),
                                                              abs=1e-4)


def test_the_masked_language_model_records_its_best_guesses(data, tmp_path):
    config = evaluated(data, tmp_path, objective="mlm")
    metrics, = evaluate(config, 2)
    constant, last = entries(config)
    assert "percent" not in last and "calibration" not in last
    masked = sum(row["masked"] for row in last["frequency"])
    assert sum(row["correct"] for row in last["frequency"]) / masked == pytest.approx(metrics["generator_accuracy"])
    assert sum(row["loss"] * row["masked"] for row in last["frequency"]) / masked == pytest.approx(
        metrics["generator_loss"], abs=1e-3)
    assert [len(fills) for fills in last["fills"]] == [len(passage["positions"]) for passage in constant["passages"]]


def test_the_classes_of_frequency_have_equal_shares_of_the_text():
    counts = np.array([0, 40, 10, 10, 20, 5, 5, 5, 5])
    assert samples.frequency_classes(counts).tolist() == [4, 0, 3, 3, 2, 4, 4, 4, 4]


def test_area_under_curve_counts_pairs_with_ties_half():
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 6, 60).astype(np.float32), rng.integers(0, 2, 60)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    assert samples.area_under_curve(scores, labels) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert samples.area_under_curve(np.arange(4.0), np.zeros(4)) == 0.5


def test_extreme_logits_have_finite_losses():
    logits, labels = np.array([-800.0, 800.0, 800.0], np.float32), np.array([0, 1, 0])
    assert samples.cross_entropies(logits, labels).tolist() == [0.0, 0.0, 800.0]
    assert samples.probabilities(logits).tolist() == [0.0, 1.0, 1.0]


def test_passages_differ_from_each_other():
    def passage(number, ids, chosen=True):
        ids = np.array(ids)
        return Passage(number, ids, ids, ids, np.array([chosen] * len(ids)), np.zeros(len(ids)))

    same, longer, other, without = (passage(3, [7, 8]), passage(2, [7, 8, 9]), passage(1, [5, 6]),
                                    passage(0, [1, 2, 3, 4], False))
    assert [found.number for found in samples.varied([same, longer, other, without], 2)] == [1, 2]
    assert samples.candidates(3, 100) == [8, 25, 41, 58, 75, 91] and samples.candidates(9, 3) == [0, 1, 2]


# --- What it leaves as it was ---


def test_recording_changes_no_bit_of_the_metrics_and_traces_once(data, tmp_path, finished, monkeypatch):
    traced, function = [], run_pretraining.evaluation_function

    def counted(*arguments, **options):
        traced.append(function(*arguments, **options))
        return traced[-1]

    monkeypatch.setattr(run_pretraining, "evaluation_function", counted)
    for count in (6, 0):
        first, second = evaluate(dataclasses.replace(finished, report_samples=count, restore_checkpoint="latest",
                                                     log_dir=str(tmp_path / str(count))), 4, 4)
        assert {"step": 4, "kind": "eval", **first} == held_out(finished)[-1]
        assert first == second
    assert [each.experimental_get_tracing_count() for each in traced] == [1, 1]
    assert os.path.exists(tmp_path / "6" / "samples_phase1.jsonl") and not list(tmp_path.glob("0/samples*"))


def test_two_workers_record_what_one_does(finished, tmp_path):
    device = devices.open_device("cpu", "fp32")
    config = dataclasses.replace(finished, restore_checkpoint="latest", log_dir=str(tmp_path))
    setup = run_pretraining.prepare(config, device)
    sent = []

    def evaluator(rank, gather):
        workers = types.SimpleNamespace(rank=rank, size=2, is_chief=rank == 0, gather=gather)
        return run_pretraining.make_evaluator(setup.model, config, setup.tokenizer, workers)

    def stops(share):
        sent.append(share)
        return [None]

    recorder = samples.Recorder(str(file_of(config)), 0, config.updates_per_eval, 6, setup.tokenizer)
    record = functools.partial(recorder.add, 4)
    assert evaluator(1, stops)(record=record) is None
    evaluator(0, lambda share: [share, *sent])(record=record)
    assert len(sent[0]) == 2  # of five batches
    expected = file_of(finished).read_text(encoding="utf-8").splitlines()
    assert file_of(config).read_text(encoding="utf-8").splitlines() == [expected[0], expected[-1]]


def test_a_resumed_run_records_what_an_uninterrupted_one_does(tmp_path, finished):
    shutil.copytree(finished.results_dir, tmp_path / "results")
    config = dataclasses.replace(finished, results_dir=str(tmp_path / "results"))
    config = dataclasses.replace(config, restore_checkpoint=os.path.join(config.checkpoint_dir, "ckpt-2"))
    expected = file_of(config).read_text(encoding="utf-8")
    wrong = json.dumps({**json.loads(expected.splitlines()[-1]), "fills": []}) + "\n"
    lines = expected.splitlines(keepends=True)[:-1]
    file_of(config).write_text("".join(lines) + wrong + '{"step": 5, "ki', encoding="utf-8")  # of a run that died at 5
    train(config)
    assert file_of(config).read_text(encoding="utf-8") == expected


# --- The file ---


def evaluation(number):
    return {"step": 10 * number, "kind": "evaluation", "number": number}


def kept(path):
    return [entry["step"] // 10 for _, entry in run_log.log_lines(str(path))][1:]


def test_a_long_run_keeps_some_dozens_of_evaluations_whenever_it_was_resumed(tmp_path):
    whole, resumed = (samples.SampleLog(str(tmp_path / name), 0) for name in ("whole", "resumed"))
    passages = {"step": 0, "kind": "passages"}
    for number in range(1, 131):
        whole.write(passages, evaluation(number))
    assert kept(whole.path) == [*range(1, 17), *range(18, 33, 2), *range(36, 65, 4), *range(72, 129, 8), 130]
    for number in range(1, 91):
        resumed.write(passages, evaluation(number))
    resumed = samples.SampleLog(resumed.path, 457)
    for number in range(46, 131):
        resumed.write(passages, evaluation(number))
    assert kept(resumed.path) == kept(whole.path)
    assert sum(map(samples.is_kept, range(1, 10_001))) < 100


def test_other_passages_and_a_fresh_run_start_the_file_again(tmp_path, caplog):
    path = str(tmp_path / "samples.jsonl")
    log = samples.SampleLog(path, 0)
    for number in (1, 2):
        log.write({"step": 0, "kind": "passages"}, evaluation(number))
    log = samples.SampleLog(path, 20)
    log.write({"step": 0, "kind": "passages", "more": 1}, evaluation(3))
    assert kept(path) == [3]
    samples.SampleLog(path, 0)
    assert not os.path.exists(path)


def test_a_file_that_cannot_be_written_is_warned_about_once(tmp_path, caplog):
    log = samples.SampleLog(str(tmp_path / "missing" / "samples.jsonl"), 0)
    for number in (1, 2):
        log.write({"step": 0, "kind": "passages"}, evaluation(number))
    assert caplog.text.count("warning: ") == 1
    (tmp_path / "missing").mkdir()
    log.write({"step": 0, "kind": "passages"}, evaluation(3))
    assert kept(log.path) == [1, 2, 3]


def test_what_cannot_be_recorded_is_a_warning_and_does_not_end_the_run(tmp_path, caplog):
    recorder = samples.Recorder(str(tmp_path / "samples.jsonl"), 0, 10, 4, types.SimpleNamespace(tokens=["a"]))
    recorder.add(10, {}, np.array([0.5, np.nan], np.float32), np.array([0, 1]), [])
    recorder.add(20, {}, np.array([], np.float32), np.array([], np.int32), [])
    assert "step 10 is not recorded (the discriminator's logits are not finite)" in caplog.text
    assert "step 20 is not recorded" in caplog.text and not list(tmp_path.iterdir())


# --- The gain over a constant predictor ---


def test_the_gain_is_0_for_the_constant_predictor_and_1_for_a_perfect_one():
    share = 0.1
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert modeling.gain_over_constant(entropy, share) == pytest.approx(0.0, abs=1e-12)
    assert modeling.gain_over_constant(0.0, share) == 1.0
    assert modeling.gain_over_constant(np.log(2), share) == pytest.approx(1 - np.log(2) / entropy)
    assert modeling.gain_over_constant(0.3, 0.0) == modeling.gain_over_constant(0.3, 1.0) == 0.0
