"""run_tf_squad: batches, fine-tuning and resuming to the bit, evaluation, prediction, refusals."""
from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support import SQUAD_ENCODER, StopAfter, squad_file
from support import squad_config as make_config

import files
import fine_tuning
import flops
import run_log
import run_tf_squad
import squad_metrics
import squad_utils
import training
import weights
from checkpoints import Checkpoints, read_state
from configuration import Interrupted, RunFailed, UserError
from squad_options import SquadConfig
from tokenization import ElectraTokenizer

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data(squad_data):
    return squad_data


def run(config, stop=None):
    run_tf_squad.run(config, stop or training.StopRequest())
    return results(config)


def results(config):
    return json.loads(pathlib.Path(config.output_dir, "results.json").read_text())


def written(config, name="predictions.json"):
    return json.loads(pathlib.Path(config.output_dir, name).read_text())


def tensors(config):
    newest = Checkpoints(config.checkpoint_dir).newest(1)
    reader = tf.train.load_checkpoint(newest.prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name[:5] != "state"}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    config = make_config(data, tmp_path_factory.mktemp("finished") / "out")
    return config, run(config)


def test_the_files_of_the_design_are_written(finished, data):
    config, found = finished
    assert set(os.listdir(config.output_dir)) == {
        "analysis.html", "analysis.json", "cache", "checkpoints", "logs", "logfile.txt", "predictions.json",
        "nbest_predictions.json", "report.html", "results.json", "vocab.txt", "tokenizer_config.json"}
    assert {"exact_match", "f1", "train_sequences_per_second", "inference_sequences_per_second", "latency_p50_ms",
            "latency_p99_ms", "seed", "train_steps"} <= set(found)
    predictions, nbest = written(config), written(config, "nbest_predictions.json")
    dev = json.loads((data / "dev-v1.1.json").read_text())["data"][0]["paragraphs"]
    assert list(predictions) == [paragraph["qas"][0]["id"] for paragraph in dev]
    for paragraph in dev:
        answers = nbest[paragraph["qas"][0]["id"]]
        assert answers[0]["text"] == predictions[paragraph["qas"][0]["id"]]
        assert 0 < sum(answer["probability"] for answer in answers) <= 1 + 1e-9
        for answer in answers:
            assert answer["text"] == paragraph["context"][answer["start"]:answer["end"]]
    assert [f.step for f in Checkpoints(config.checkpoint_dir).list()] == [8, 16]
    log = [json.loads(line) for line in pathlib.Path(config.output_dir, "logs", "squad.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 6, 8, 9, 12, 15, 16]
    assert all(entry["gradient_norm"] > 0 and 0 <= entry["start_accuracy"] <= 1 for entry in log)
    shortest, longest = (flops.of_squad(config, SQUAD_ENCODER, length) for length in (24, 48))
    for entry in log[1:]:  # a batch at the end of an epoch may have rows of padding too
        per_sequence = entry["model_flops_per_second"] / entry["sequences_per_second"]
        assert shortest <= per_sequence < 2 * longest
    assert "answerability_accuracy" not in log[0]
    said = pathlib.Path(config.output_dir, "logfile.txt").read_text()
    assert "step 16/16  loss " in said and "gradient norm " in said


@pytest.mark.parametrize("step", [3, 8, 11])
def test_a_run_stopped_and_resumed_equals_an_uninterrupted_one(data, tmp_path, finished, step):
    config = make_config(data, tmp_path / "out")
    with pytest.raises(Interrupted, match=f"at step {step} of 16; the same command resumes"):
        run(config, StopAfter(step))
    again = run(config)
    assert "an earlier version" not in log(config)
    expected, found = tensors(finished[0]), tensors(config)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert written(config) == written(finished[0]) and again["f1"] == finished[1]["f1"]


def test_a_finished_run_is_only_evaluated_again(data, tmp_path, finished):
    config = finished[0]
    before = tensors(config)
    found = run(config)
    kept = ("train_sequences_per_second", "train_steps", "seed", "f1")
    assert [found[name] for name in kept] == [finished[1][name] for name in kept]
    for name, value in tensors(config).items():
        np.testing.assert_array_equal(value, before[name])


def test_an_evaluation_finds_a_temperature_and_keeps_it_with_the_model(data, tmp_path, monkeypatch):
    monkeypatch.setattr(squad_utils, "FEWEST", 1)
    monkeypatch.setattr(squad_metrics, "score_each", lambda examples, *_: (
        {example.id: number % 2 for number, example in enumerate(examples)},) * 2)
    config = make_config(data, tmp_path / "out", version_2_with_negative=True, num_train_epochs=0.5)
    found = run(config)
    newest = Checkpoints(config.checkpoint_dir).newest(1).prefix
    assert weights.read(newest).temperature == found["temperature"] != 1
    assert found["expected_calibration_error"] >= 0 and found["expected_calibration_error_uncalibrated"] >= 0
    # What only predicts uses what was kept.
    nbest = written(config, "nbest_predictions.json")
    predicting = dataclasses.replace(config, do_train=False, do_eval=False, output_dir=str(tmp_path / "again"),
                                     init_checkpoint=newest)
    run(predicting)
    again = written(predicting, "nbest_predictions.json")
    assert again == nbest
    run(dataclasses.replace(config, do_eval=False))  # so does a finished run that is called again
    assert written(config, "nbest_predictions.json") == nbest
    weights.keep_temperature(newest, 2 * found["temperature"])
    run(predicting)
    assert written(predicting, "nbest_predictions.json") != nbest
    kept = {"temperatures": {os.path.basename(newest): -1}}
    pathlib.Path(config.output_dir, "calibration.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match="calibration.json"):
        weights.read(newest)


def test_wrong_offsets_are_skipped_in_training_and_do_not_matter_in_evaluation(data, tmp_path, refuses):
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        content = json.loads((data / name).read_text())
        questions = [q for paragraph in content["data"][0]["paragraphs"] for q in paragraph["qas"]]
        for number, question in enumerate(questions):
            question["id"] = number
        questions[0]["answers"][0].update(text="nowhere")
        questions[1]["answers"][0]["answer_start"] += 1
        questions[2]["answers"].append({"text": "nowhere", "answer_start": 0})
        (tmp_path / name).write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    config = dataclasses.replace(make_config(data, tmp_path / "out", num_train_epochs=0.5), data_dir=str(tmp_path))
    assert "f1" in run(config) and len(written(config)) == 14
    log = pathlib.Path(config.output_dir, "logfile.txt").read_text()
    assert "3 of 30 questions" in log and "29 questions" in log and "14 questions" in log
    text = refuses(run, dataclasses.replace(config, strict_answers=True, overwrite=True))
    assert "'0'" in text and "answer_start" in text


def test_the_seed_is_drawn_kept_and_found_again_on_resuming(data, tmp_path):
    config = make_config(data, tmp_path / "out", seed=None)
    with pytest.raises(Interrupted):
        run(config, StopAfter(2))
    seed = int(re.search(r"seed (\d+)$", pathlib.Path(config.output_dir, "logfile.txt").read_text(), re.MULTILINE)[1])
    assert run(config)["seed"] == seed


def test_learning_is_fast_where_the_answer_is_easy(data, tmp_path):
    """The word after the asked one cannot be learnt by this model in seconds, but its training set can be memorised."""
    config = make_config(data, tmp_path / "out", num_train_epochs=60.0, learning_rate=4e-3, layerwise_lr_decay=0.0,
                         predict_file=str(data / "train-v1.1.json"), log_freq=1000)
    assert run(config)["exact_match"] > 60


@pytest.mark.parametrize("joint_head", [True, False])
def test_version_2_has_null_odds_and_both_thresholds(data, tmp_path, joint_head):
    config = make_config(data, tmp_path / "out", version_2_with_negative=True, joint_head=joint_head,
                         num_train_epochs=1.0, gradient_accumulation_steps=2, evaluate_during_training=True,
                         null_score_diff_threshold=-0.2)
    found = run(config)
    odds, predictions = written(config, "null_odds.json"), written(config)
    assert {"exact", "f1", "best_exact", "best_f1", "best_f1_thresh", "HasAns_f1", "NoAns_f1"} <= set(found)
    assert found["null_score_diff_threshold"] == -0.2 and found["best_f1"] >= found["f1"]
    assert all((text == "") == (odds[id_] > -0.2) for id_, text in predictions.items())
    log = run_log.read_metrics_log(os.path.join(config.output_dir, "logs", "squad.jsonl"))
    train_entries = [entry for entry in log if entry["kind"] == "train"]
    assert all(("answerability_accuracy" in entry) == joint_head for entry in train_entries)
    if joint_head:
        assert all(0 <= entry["answerability_accuracy"] <= 1 for entry in train_entries)


# --- Evaluation during training ---


@pytest.fixture
def dev_f1(monkeypatch):
    """Replaces F1 on the development set: by the number of the evaluation, from the list that is returned."""
    values, evaluate = [], squad_metrics.evaluate

    def scored(*args, **kwargs):
        return {**evaluate(*args, **kwargs), "f1": values.pop(0)}

    monkeypatch.setattr(squad_metrics, "evaluate", scored)
    return values


def best_of(config):
    return Checkpoints(config.checkpoint_dir).best()[1]


def test_the_best_checkpoint_stays_beside_the_newest_and_both_are_named(data, tmp_path, dev_f1):
    config = make_config(data, tmp_path / "out", eval_steps=6, keep_checkpoint_max=1)
    dev_f1 += [60.0, 60.0, 30.0]  # after 6, 12 and at the end, 16
    results = run(config)
    assert [found.step for found in Checkpoints(config.checkpoint_dir).list()] == [6, 16] and not dev_f1
    assert best_of(config) == {"checkpoint": "ckpt-6", "step": 6, "f1": 60.0}
    assert results["best_checkpoint"]["step"] == 6 and results["f1"] == 30.0 and results["train_steps"] == 16
    named = next(line for line in log(config).splitlines() if "the best by F1" in line)
    assert "ckpt-16 (F1 30.00)" in named and "ckpt-6 (F1 60.00)" in named
    assert weights.read(os.path.join(config.output_dir, "best")).state["step"] == 6


def test_the_best_checkpoint_has_its_own_temperature_and_a_new_run_none_of_the_old(data, tmp_path, dev_f1, monkeypatch):
    monkeypatch.setattr(run_tf_squad, "calibrate", lambda *args: {"temperature": 1.0 + len(dev_f1)})
    config = make_config(data, tmp_path / "out", eval_steps=6)
    dev_f1 += [60.0, 60.0, 30.0]  # after 6, 12 and at the end, 16
    run(config)
    assert written(config, "calibration.json") == {"temperatures": {"ckpt-6": 4.0, "ckpt-16": 2.0}}
    assert weights.read(os.path.join(config.output_dir, "best")).temperature == 4.0
    run(dataclasses.replace(config, overwrite=True, seed=9, eval_steps=0, do_predict=False, do_eval=False))
    assert weights.read(os.path.join(config.checkpoint_dir, "ckpt-16")).temperature == 1.0


def test_answers_without_scores_leave_no_scores_of_others(data, tmp_path):
    config = make_config(data, tmp_path / "out", max_steps=1)
    run(config)
    assert os.path.exists(tmp_path / "out" / "analysis.html")
    other = tmp_path / "other.json"
    shutil.copy(data / "dev-v1.1.json", other)
    found = run(dataclasses.replace(config, do_train=False, do_eval=False, init_checkpoint=None,
                                    predict_file=str(other)))
    assert "f1" not in found and found["train_steps"] == 1 and "predict_file" in found
    assert not [name for name in os.listdir(config.output_dir) if name.startswith("analysis")]


def test_early_stopping_ends_the_run_and_a_resumed_one_at_the_same_step(data, tmp_path, dev_f1):
    config = make_config(data, tmp_path / "out", early_stopping_patience=2, eval_steps=2, num_train_epochs=8.0)
    scores = [10.0, 60.0, 60.0, 50.0, 50.0]  # after 2, 4, 6 and 8, and of the predictions
    dev_f1 += scores
    results = run(config)
    assert results["train_steps"] == 8 and best_of(config)["step"] == 4 and "early stopping" in log(config)
    other = dataclasses.replace(config, output_dir=str(tmp_path / "other"))
    dev_f1 += scores
    with pytest.raises(Interrupted):
        run(other, StopAfter(5))
    assert run(other)["train_steps"] == 8 and best_of(other)["step"] == 4 and not dev_f1
    expected = tensors(config)
    for name, value in tensors(other).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    dev_f1.append(50.0)
    assert run(other)["train_steps"] == 8  # and the same command trains no further


def test_a_fine_tuning_without_do_eval_is_evaluated_at_its_end_too(data, tmp_path, dev_f1):
    config = make_config(data, tmp_path / "out", evaluate_during_training=True, do_predict=False, do_eval=False)
    dev_f1 += [10.0, 20.0]
    assert run(config)["best_checkpoint"]["step"] == 16


def test_the_disk_check_counts_the_best_checkpoint(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Checkpoints, "check_room", lambda self, *args, **kwargs: asked.append(args[-1]))
    for eval_steps in (0, 100):
        run(make_config(data, tmp_path / str(eval_steps), max_steps=1, eval_steps=eval_steps, do_predict=False,
                        do_eval=False))
    assert asked == [False, True]


@pytest.mark.parametrize("saved", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run_and_its_advice_works(data, tmp_path, monkeypatch, saved):
    config = make_config(data, tmp_path / "out", do_predict=False, do_eval=False, max_steps=4, learning_rate=None)
    model, loss_of, bad = run_tf_squad.modeling.QuestionAnswering, run_tf_squad.modeling.QuestionAnswering.loss, True
    first = tf.Variable(1 if saved else 0)

    def loss(self, features, seeds):  # not finite at the second update, or at the first
        value, sums = loss_of(self, features, seeds)
        return tf.where(first.assign_sub(1) < 0 if bad else False, np.nan, value), sums

    monkeypatch.setattr(model, "loss", loss)
    with pytest.raises(RunFailed, match=rf"not finite at update {2 if saved else 1} ") as failed:
        run(config)
    said = str(failed.value)
    assert ("ckpt-1" in said and "--overwrite" in said) == saved != ("no checkpoint is saved yet" in said)
    assert "lower --learning_rate than 0.0001" in said and "--skip_bad_updates=1" in said
    bad = False
    skipping = dataclasses.replace(config, skip_bad_updates=1, output_dir=str(tmp_path / "skipping"))
    if saved:
        shutil.copytree(config.output_dir, skipping.output_dir)
    assert run(skipping)["train_steps"] == 4
    assert run(dataclasses.replace(config, learning_rate=1e-5, overwrite=saved))["train_steps"] == 4


def test_a_stop_within_an_update_and_saving_by_the_clock_change_no_bit(data, tmp_path):
    config = make_config(data, tmp_path / "out", gradient_accumulation_steps=3, do_predict=False, do_eval=False)
    run(config)
    expected = tensors(config)
    other = dataclasses.replace(config, output_dir=str(tmp_path / "other"))
    with pytest.raises(Interrupted, match="at step 4 of"):
        run(other, StopAfter(4, micro_batches=2))
    run(dataclasses.replace(other, save_checkpoints_minutes=1e-9))
    for name, value in tensors(other).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_bad_updates_are_skipped_and_resuming_changes_no_bit(data, tmp_path, monkeypatch):
    """The update that ends the run is noticed at the end of the epoch; the position before it is saved."""
    from pretrain_utils import FINE_TUNING, fold_seeds
    model, loss_of = run_tf_squad.modeling.QuestionAnswering, run_tf_squad.modeling.QuestionAnswering.loss

    def loss(self, features, seeds):
        bad = [fold_seeds([5, FINE_TUNING, step, 0, 0], self.num_seeds)[0] for step in (3, 7)]
        value, sums = loss_of(self, features, seeds)
        found = tf.reduce_any(tf.reduce_all(tf.equal(seeds[0], tf.constant(np.array(bad))), axis=1))
        return tf.where(found, np.nan, value), sums

    monkeypatch.setattr(model, "loss", loss)
    settings = dict(do_predict=False, do_eval=False, log_freq=10)
    config = make_config(data, tmp_path / "out", skip_bad_updates=2, **settings)
    run(config)
    other = dataclasses.replace(config, output_dir=str(tmp_path / "other"), skip_bad_updates=1)
    with pytest.raises(RunFailed, match="not finite at update 7 .*--skip_bad_updates=2"):
        run(other)
    assert [found.step for found in Checkpoints(other.checkpoint_dir).list()] == [6]
    run(dataclasses.replace(other, skip_bad_updates=2))
    expected = tensors(config)
    for name, value in tensors(other).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_max_steps_shapes_the_schedule(data, tmp_path):
    run(make_config(data, tmp_path / "out", max_steps=3, do_predict=False, do_eval=False, warmup_proportion=0.4))
    log = [json.loads(line) for line in (tmp_path / "out" / "logs" / "squad.jsonl").read_text().splitlines()]
    assert [entry["learning_rate"] for entry in log] == pytest.approx([0.0, 1e-3, 5e-4], rel=1e-5)


# --- Prediction ---


def test_predictions_do_not_depend_on_the_buckets_or_the_batch_size(data, finished, tmp_path):
    config = finished[0]
    nbest = []
    for changes in (dict(length_buckets="48"), dict(length_buckets="20,25,30,35,40"), dict(predict_batch_size=3)):
        other = dataclasses.replace(config, do_train=False, init_checkpoint=config.checkpoint_dir,
                                    output_dir=str(tmp_path / str(len(nbest))), **changes)
        run(other)
        nbest.append(written(other, "nbest_predictions.json"))
    for other in nbest:
        for id_, answers in written(config, "nbest_predictions.json").items():
            assert other[id_][0]["text"] == answers[0]["text"]
            assert other[id_][0]["score"] == pytest.approx(answers[0]["score"], abs=1e-4)


def test_questions_without_answers_are_answered_from_the_output_folder(data, finished, tmp_path):
    content = json.loads((data / "dev-v1.1.json").read_text())
    for paragraph in content["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"]
    (tmp_path / "questions.json").write_text(json.dumps(content))
    config = dataclasses.replace(finished[0], do_train=False, do_eval=False, init_checkpoint=None,
                                 predict_file=str(tmp_path / "questions.json"))
    expected = written(config)
    found = run(config)
    assert written(config) == expected and found["train_steps"] == finished[1]["train_steps"]
    assert "f1" not in found  # the scores were those of other questions


def test_an_official_script_is_run_and_a_disagreement_said(data, finished, tmp_path):
    config = dataclasses.replace(finished[0], do_train=False, init_checkpoint=None)
    scores = {name: finished[1][name] for name in ("exact_match", "f1")}
    for printed, said in ((scores, "--eval_script agrees"), ({**scores, "f1": 12.5}, "disagrees: f1 is 12.5 there"),
                          ("oops", "printed no JSON object")):
        script = tmp_path / "evaluate.py"
        text = printed if printed == "oops" else json.dumps(printed)
        script.write_text(f"import sys; assert len(sys.argv) == 3; print({text!r})")
        run(dataclasses.replace(config, eval_script=str(script)))
        assert said in pathlib.Path(config.output_dir, "logfile.txt").read_text()


# --- The command, signals, refusals ---


def command(config):
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
             for name, value in dataclasses.asdict(config).items() if value is not None]
    return [sys.executable, str(ROOT / "run_tf_squad.py"), *flags]


def test_a_signal_saves_and_exits_75(data, tmp_path, said, monkeypatch):
    config = make_config(data, tmp_path / "out", num_train_epochs=10000.0, log_freq=1)
    lock = os.path.join(config.output_dir, ".lock")
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0)
    process = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    for line in process.stdout:
        if line.startswith("step 3/"):
            with pytest.raises(files.Held, match=f"process {process.pid} "), files.hold(lock):
                pass
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=120)
    assert not os.path.exists(lock)
    assert process.returncode == 75 and len(said(errors).splitlines()) == 1, errors
    step = int(re.search(r"at step (\d+)", errors)[1])
    assert Checkpoints(config.checkpoint_dir).list()[-1].step == step >= 3


def test_bad_input_is_refused_before_training(data, tmp_path, finished, refuses):
    config = make_config(data, tmp_path / "out")
    replace = dataclasses.replace
    assert "does not exist" in refuses(run, replace(config, data_dir=str(tmp_path)))
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/zero"):
        text = refuses(run, replace(config, train_file=str(path)))
        assert str(path) in text and "--train_file" in text and "cannot be read" in text
    (tmp_path / "train-v1.1.json").write_text("{")
    assert "train-v1.1.json" in refuses(run, replace(config, train_file=str(tmp_path / "train-v1.1.json")))
    assert "2.0" in refuses(run, replace(config, version_2_with_negative=True,
                                         train_file=str(data / "train-v1.1.json")))
    assert "version_2_with_negative" in refuses(run, replace(config, train_file=str(data / "train-v2.0.json")))
    assert "doc_stride" in refuses(run, replace(config, doc_stride=45))  # skips tokens where a question has any
    assert "positions" in refuses(run, replace(config, max_seq_length=65))
    assert "does not exist" in refuses(run, replace(config, eval_script="nowhere.py"))
    assert "does not exist" in refuses(run, replace(config, init_checkpoint="nowhere/at/all"))
    assert "has no question-answering head" in refuses(run, replace(config, do_train=False))
    assert "holds no checkpoint" in refuses(run, replace(config, do_train=False, init_checkpoint=None))
    assert "was trained for SQuAD 1.1: omit" in refuses(run, replace(
        config, do_train=False, version_2_with_negative=True, init_checkpoint=finished[0].checkpoint_dir))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x"]))
    bare = tmp_path / "bare"
    os.makedirs(bare)
    for name in ("config.json", "model.safetensors"):
        os.link(data / "model" / name, bare / name)
    assert "no vocab.txt or tokenizer.json beside it" in refuses(run, replace(config, init_checkpoint=str(bare)))
    assert "vocabulary rows" in refuses(run, replace(config, init_checkpoint=str(bare),
                                                     vocab_file=str(tmp_path / "vocab.txt")))
    assert not os.path.exists(config.checkpoint_dir) or not os.listdir(config.checkpoint_dir)


def test_the_checkpoints_of_another_fine_tuning_are_refused_or_deleted(data, tmp_path, refuses):
    config = make_config(data, tmp_path / "out", num_train_epochs=1.0)
    run(config)
    changed = dataclasses.replace(config, learning_rate=5e-4)
    said = refuses(run, changed)
    assert "resume it with --learning_rate=0.001," in said and "--overwrite" in said
    assert "--seed=5" in refuses(run, dataclasses.replace(config, seed=6))
    assert run(dataclasses.replace(changed, overwrite=True))["train_steps"] == 8


def log(config):
    return pathlib.Path(config.output_dir, "logfile.txt").read_text()


def test_the_learning_rate_follows_the_global_batch_and_resuming_keeps_it(data, tmp_path, refuses, monkeypatch):
    common = dict(do_predict=False, do_eval=False, learning_rate=None, max_steps=3, gradient_accumulation_steps=8)
    config = make_config(data, tmp_path / "out", **common)
    with pytest.raises(Interrupted):
        run(config, StopAfter(1))
    assert "learning rate 0.0002, for a global batch of 32 examples; --learning_rate is not given." in log(config)
    # More workers have another rate by the table: a run that is resumed keeps its own.
    with monkeypatch.context() as patch:
        patch.setattr(SquadConfig, "global_batch", lambda self, world_size: 128)
        run(config)
    assert "learning rate 0.0002, as in the checkpoint." in log(config)
    assert results(config)["learning_rate"] == 2e-4
    assert run(dataclasses.replace(config, learning_rate=2e-4))["train_steps"] == 3  # the same, now given
    said = refuses(run, dataclasses.replace(config, learning_rate=4e-4))
    assert "resume it with --learning_rate=0.0002, " in said
    given = make_config(data, tmp_path / "given", **{**common, "learning_rate": 4e-4})
    run(given)
    assert "learning rate 0.0004, as given." in log(given) and "warning" not in log(given)
    assert "--learning_rate=0.0004" in refuses(run, dataclasses.replace(given, learning_rate=None))


def test_the_lengths_fit_a_shorter_window_and_older_checkpoints_resume(data, tmp_path, refuses):
    """Before, the defaults were recorded as numbers, whatever the window was."""
    config = make_config(data, tmp_path / "out", do_predict=False, do_eval=False, doc_stride=None,
                         max_query_length=None, max_steps=2)
    run(config)
    assert "windows of 48 tokens, one every 23 (doc_stride); questions of up to 12." in log(config)
    assert run(dataclasses.replace(config, doc_stride=23, max_query_length=12))["train_steps"] == 2
    assert "resume it with --doc_stride=23" in refuses(run, dataclasses.replace(config, doc_stride=22))
    old = make_config(data, tmp_path / "old", do_predict=False, do_eval=False, doc_stride=20, max_steps=2)
    run(old)
    checkpoints = Checkpoints(old.checkpoint_dir)
    prefix = checkpoints.newest(1).prefix
    state = {key: value for key, value in read_state(prefix).items() if key not in ("not_given", "phase", "step")}
    model = weights.open_checkpoint(prefix).model()
    for file in os.listdir(old.checkpoint_dir):
        os.remove(os.path.join(old.checkpoint_dir, file))
    checkpoints.save(1, 2, model, tf.Module(), state)
    find = functools.partial(fine_tuning.find_own_run, run_tf_squad.SQUAD)
    found = find(dataclasses.replace(old, learning_rate=None, doc_stride=None), checkpoints, state["identity"])
    assert found["step"] == 2
    refuses(find, dataclasses.replace(old, learning_rate=5e-4), checkpoints, state["identity"])


def test_several_evaluations_trace_each_length_once(data, tmp_path, monkeypatch):
    """Before, TensorFlow warned of retracing at the fifth evaluation."""
    lines = []
    monkeypatch.setattr(tf.get_logger(), "handle", lambda record: lines.append(record.getMessage()))
    traced = []
    answers = run_tf_squad.modeling.QuestionAnswering.answers
    monkeypatch.setattr(run_tf_squad.modeling.QuestionAnswering, "answers",
                        lambda self, features: traced.append(features["input_ids"].shape) or answers(self, features))
    config = make_config(data, tmp_path / "out", evaluate_during_training=True, num_train_epochs=6.0, log_freq=100,
                         predict_batch_size=2, length_buckets="24,32,40")
    run(config)
    assert len(run_log.read_metrics_log(os.path.join(config.output_dir, "logs", "squad.jsonl"))) > 5
    assert not [line for line in lines if "retracing" in line]
    assert len(traced) == len(set(map(str, traced))) > 2


def test_check_only_finds_what_a_run_would_and_writes_nothing(data, tmp_path, finished, refuses):
    check = functools.partial(fine_tuning.check_only, run_tf_squad.SQUAD)
    config = make_config(data, tmp_path / "out", check_only=True)
    replace = dataclasses.replace
    check(config)
    check(replace(config, do_train=False, init_checkpoint=finished[0].checkpoint_dir))
    check(replace(finished[0], check_only=True))
    assert not os.path.exists(config.output_dir)
    (tmp_path / "broken.json").write_text("{")
    for changes, words in (
            (dict(predict_file=str(tmp_path / "broken.json")), ["broken.json"]),
            (dict(train_file=str(tmp_path / "gone.json")), ["gone.json", "--data_dir"]),
            (dict(doc_stride=45), ["--doc_stride=45"]),
            (dict(max_seq_length=65), ["--max_seq_length=65", "64"]),
            (dict(init_checkpoint=str(tmp_path / "nowhere")), ["nowhere"]),
            (dict(do_train=False), ["question-answering head"]),
            (dict(vocab_file=str(tmp_path / "none.txt")), ["none.txt"]),
            (dict(output_dir=finished[0].output_dir, learning_rate=7e-4), ["resume it with --learning_rate=0.001"])):
        said = refuses(check, replace(config, **changes))
        assert all(word in said for word in words), said
    assert not os.path.exists(config.output_dir)
    run_tf_squad.main(command(config)[1:])
    assert not os.path.exists(config.output_dir)


@pytest.mark.parametrize("changes, problem", [
    (dict(do_train=False, do_predict=False, do_eval=False), "--do_train, --do_predict, --do_eval"),
    (dict(data_dir=None), "--train_file is missing"),
    (dict(output_dir=None), "--output_dir is missing"),
    (dict(length_buckets="128,x"), "--length_buckets=128,x"),
    (dict(train_batch_size=0), "--train_batch_size=0 is too small"),
    (dict(doc_stride=46), "--doc_stride=46 skips tokens: .* --max_seq_length=48 .* 45 "),
])
def test_settings_that_make_no_sense_are_refused(data, tmp_path, changes, problem):
    with pytest.raises(UserError, match=problem):
        make_config(data, **{"out": tmp_path, **changes})


def test_buckets_end_at_the_longest_sequence():
    config = SquadConfig(do_train=True, output_dir="o", data_dir="d", max_seq_length=300)
    assert config.buckets == [128, 192, 256, 300]
    assert dataclasses.replace(config, length_buckets="384").buckets == [300]


def test_the_tokenizer_keeps_the_casing_of_the_weights_unless_told(data):
    source = weights.read(str(data / "model"))
    cased = source._replace(tokenizer=ElectraTokenizer(source.tokenizer.vocab_file, do_lower_case=False))
    assert weights.open_tokenizer(cased).do_lower_case is False
    assert weights.open_tokenizer(cased, do_lower_case=True).do_lower_case
    assert weights.open_tokenizer(cased, str(data / "vocab.txt")).do_lower_case is False


def test_other_content_behind_the_same_names_is_another_fine_tuning(data, tmp_path, refuses):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    config = make_config(copy, tmp_path / "out", num_train_epochs=1.0)
    run(config)
    squad_file(copy / "train-v1.1.json", "1.1", 30, seed=9)
    assert "another --train_file" in refuses(run, config)
    shutil.copy(data / "train-v1.1.json", copy)
    moved = dataclasses.replace(config, data_dir=str(data), init_checkpoint=str(data / "model"))
    assert run(moved)["train_steps"] == 8  # the same content elsewhere is the same fine-tuning
    lines = (copy / "model" / "vocab.txt").read_text().split()
    (copy / "model" / "vocab.txt").write_text("\n".join(lines[:5] + lines[:4:-1]))
    assert "another --vocab_file" in refuses(run, config)


def test_pre_training_checkpoints_are_never_deleted_or_mixed(data, tmp_path, refuses):
    for phase in (1, 2):
        folder = tmp_path / str(phase) / "checkpoints"
        Checkpoints(str(folder)).save(phase, 3, tf.Module(), tf.Module(), {"config": {}})
        for overwrite in (False, True):
            config = make_config(data, tmp_path / str(phase), overwrite=overwrite)
            assert "holds pre-training checkpoints" in refuses(run, config)
        assert len(os.listdir(folder)) == 2


def test_a_damaged_newest_checkpoint_is_passed_over_and_damaged_ones_are_not_deleted_unasked(data, tmp_path, refuses):
    config = make_config(data, tmp_path / "out")
    run(config)
    found = Checkpoints(config.checkpoint_dir).list()
    for checkpoint, damaged in zip(reversed(found), (1, 2)):
        pathlib.Path(checkpoint.prefix + ".index").write_bytes(b"no index")
        if damaged == 1:
            assert run(config)["train_steps"] == 16  # from the one before it
            pathlib.Path(checkpoint.prefix + ".index").write_bytes(b"no index")
    said = refuses(run, config)
    assert "can be read" in said
    assert len([name for name in os.listdir(config.checkpoint_dir) if name.startswith("ckpt-")]) == 4
    assert run(dataclasses.replace(config, overwrite=True))["train_steps"] == 16


def test_overwrite_deletes_only_another_fine_tuning_and_only_when_the_new_one_can_start(data, tmp_path, refuses):
    config = make_config(data, tmp_path / "out", num_train_epochs=1.0)
    run(config)
    before = tensors(config)
    run(dataclasses.replace(config, overwrite=True))  # its own: nothing to do
    for name, value in tensors(config).items():
        np.testing.assert_array_equal(value, before[name])
    other = tmp_path / "other"
    shutil.copytree(data / "model", other)
    content = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**content, "intermediate_size": 65}))
    assert "intermediate_size is 65" in refuses(run, dataclasses.replace(
        config, overwrite=True, init_checkpoint=str(other)))
    assert "json_summary" in refuses(run, dataclasses.replace(
        config, overwrite=True, learning_rate=2e-3, json_summary="/proc/no/such.jsonl"))
    assert tensors(config).keys() == before.keys() and not os.path.exists(
        os.path.join(config.checkpoint_dir, "overwritten"))


def test_predicting_keeps_the_scores_of_the_same_model(data, tmp_path, finished):
    out = tmp_path / "out"
    shutil.copytree(finished[0].output_dir, out)
    config = dataclasses.replace(finished[0], do_train=False, do_eval=False, init_checkpoint=None, output_dir=str(out))
    assert run(config)["f1"] == finished[1]["f1"]


def test_evaluation_checks_the_model_before_the_data(data, tmp_path, finished, refuses):
    config = dataclasses.replace(finished[0], do_train=False, init_checkpoint=finished[0].checkpoint_dir,
                                 output_dir=str(tmp_path))
    assert "exceeds the 64 positions" in refuses(run, dataclasses.replace(config, max_seq_length=128))
    with pytest.raises(UserError, match="--beam_size=25 .* 24"):
        dataclasses.replace(config, beam_size=25)
    lines = (data / "vocab.txt").read_text().split()
    (tmp_path / "vocab.txt").write_text("\n".join(lines[:5] + lines[:4:-1]))
    assert "is not the vocabulary" in refuses(run, dataclasses.replace(config, vocab_file=str(tmp_path / "vocab.txt")))
