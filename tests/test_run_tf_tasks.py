"""run_tf_tasks.py: small fine-tunings on every kind of task, resumed, evaluated and used to predict."""
import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from support import FILLERS, StopAfter

import fine_tuning
import run_tf_tasks
import training
import weights
from checkpoints import Checkpoints, read_state
from classifier import Classifier
from configuration import Interrupted
from electra_config import ElectraConfig
from tagger import Tagger
from task_options import TaskConfig

WORDS = {"neg": FILLERS[30:33], "pos": FILLERS[35:38]}


def sentences(count, seed):
    """Words of which a third say what the label is: (words, label)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        label = ("neg", "pos")[int(rng.integers(2))]
        yield [str(rng.choice(WORDS[label] if place % 3 == 1 else FILLERS[:30]))
               for place in range(rng.integers(4, 9))], label


def lines(words, label):
    return "".join(f"{word} {'B-' + label if word in WORDS[label] else 'O'}\n" for word in words)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with files of each kind of task; `reader_folder` has the encoder."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, count, seed in (("train", 40, 0), ("dev", 12, 1)):
        made = list(sentences(count, seed))
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(f"{' '.join(w)},{label}\n" for w, label in made))
        (folder / f"{name}.conll").write_text("\n".join(lines(*one) for one in made))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(
            {"id": f"x{number}", "text": " ".join(w), "label": [label, "all"], "other": " ".join(w[::-1]),
             "score": len(w)}) + "\n" for number, (w, label) in enumerate(made)))
    (folder / "new.csv").write_text("text\nban bel\n")
    return folder


@pytest.fixture
def config_of(data, reader_folder, tmp_path):
    def make(task="classification", out="out", kind="csv", **changes):
        return TaskConfig(**{**dict(
            task=task, do_train=True, do_eval=True, train_file=str(data / f"train.{kind}"),
            dev_file=str(data / f"dev.{kind}"), init_checkpoint=str(reader_folder / "encoder"),
            output_dir=str(tmp_path / out), max_seq_length=16, train_batch_size=8, num_train_epochs=2.0, seed=3,
            length_buckets="8,12", learning_rate=1e-3, layerwise_lr_decay=0.8, log_freq=3), **changes})
    return make


def run(config, stop=None):
    run_tf_tasks.run(config, stop or training.StopRequest())
    with open(os.path.join(config.output_dir, "results.json"), encoding="utf-8") as file:
        return json.load(file)


def predictions(config, name="dev"):
    with open(os.path.join(config.output_dir, f"predictions_{name}.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def tensors(config):
    reader = tf.train.load_checkpoint(Checkpoints(config.checkpoint_dir).list()[-1].prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
            if name.startswith(("model/", "optimizer/"))}


def test_several_seeds_have_a_folder_each_and_a_median(config_of):
    config = config_of(seed=None, seeds="4,1", max_steps=1)
    run_tf_tasks.run_seeds(config, training.StopRequest())
    with open(os.path.join(config.output_dir, "results.json"), encoding="utf-8") as file:
        results = json.load(file)
    scores = []
    for seed in (4, 1):
        with open(os.path.join(config.output_dir, f"seed-{seed}", "results.json"), encoding="utf-8") as file:
            scores.append(json.load(file)["accuracy"])
    assert results["seeds"] == [4, 1]
    assert results["accuracy"] == {"median": sum(scores) / 2, "min": min(scores), "max": max(scores)}


@pytest.mark.parametrize("task, kind, changes", [("classification", "csv", {"class_weights": "balanced"}),
                                                 ("tagging", "conll", {"gradient_accumulation_steps": 2})])
def test_a_run_learns_is_resumed_without_changing_a_bit_and_predicts(config_of, data, task, kind, changes):
    config = config_of(task, kind=kind, num_train_epochs=12.0, learning_rate=5e-3, layerwise_lr_decay=0.0,
                       eval_steps=20, **changes)
    results = run(config)
    assert results["f1"] > 80 and results["labels"] == (["neg", "pos"] if task == "classification" else
                                                        ["O", "B-neg", "I-neg", "B-pos", "I-pos"])
    assert results["best_checkpoint"]["step"] == Checkpoints(config.checkpoint_dir).best()[1]["step"]
    state = read_state(Checkpoints(config.checkpoint_dir).list()[-1].prefix)
    assert state["labels"] == results["labels"] and state["task"] in weights.TASKS

    other = dataclasses.replace(config, output_dir=config.output_dir + "2")
    with pytest.raises(Interrupted, match="at step 7 of"):
        run(other, StopAfter(7))
    assert {name: value for name, value in run(other).items() if name in results and "seconds" not in name and
            "second" not in name and "latency" not in name and name != "best_checkpoint"}.items() <= results.items()
    expected = tensors(config)
    for name, value in tensors(other).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)

    evaluated = run(dataclasses.replace(config, do_train=False, init_checkpoint=None, train_file=None))
    assert evaluated["f1"] == results["f1"] and evaluated["train_steps"] == results["train_steps"]
    known = predictions(config)
    assert os.path.exists(os.path.join(config.output_dir, "analysis.html"))
    newest = Checkpoints(config.checkpoint_dir).newest(1).prefix
    texts = [entry["text"] for entry in known[:8]]
    if task == "classification":
        again = Classifier.from_pretrained(newest).classify(texts)
        assert [one.label for one in again] == [entry["prediction"] for entry in known[:8]]
    else:
        again = [[span[:3] for span in spans] for spans in Tagger.from_pretrained(newest).tag(texts)]
        assert again == [[(span["start"], span["end"], span["label"]) for span in entry["spans"]]
                         for entry in known[:8]]
    test_file = str(data / "new.csv") if kind == "csv" else str(data / "dev.conll")
    run(dataclasses.replace(config, do_train=False, do_eval=False, do_predict=True, init_checkpoint=None,
                            train_file=None, dev_file=None, test_file=test_file))
    found = predictions(config, "test")
    if task == "classification":
        assert [entry["text"] for entry in found] == ["ban bel"] and "label" not in found[0]
        assert sum(found[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    else:
        assert [entry["prediction"] for entry in found] == [entry["prediction"] for entry in known]
        span = next(span for entry in known for span in entry["spans"])
        assert span["label"] in WORDS and span["text"] in FILLERS and 0 < span["probability"] <= 1


@pytest.mark.parametrize("task, changes, scores", [
    ("multi_label", {}, {"micro_f1", "accuracy"}),
    ("regression", {"label_column": "score", "pair_column": "other", "metric": "pearson", "eval_steps": 2},
     {"pearson", "spearman", "mean_squared_error"})])
def test_several_labels_and_numbers_are_learned_with_a_held_out_part_of_the_training_data(config_of, task, changes,
                                                                                           scores):
    config = config_of(task, kind="jsonl", dev_file=None, dev_fraction=0.2, max_steps=3, **changes)
    results = run(config)
    assert scores <= set(results) and results["train_steps"] == 3
    found = predictions(config)
    assert len(found) == 8 and all(entry["id"].startswith("x") for entry in found)
    if task == "multi_label":
        assert results["labels"] == ["all", "neg", "pos"]
        assert all(set(entry["prediction"]) <= set(results["labels"]) for entry in found)
    else:
        assert results["best_checkpoint"]["step"] in (2, 3) and "pearson" in results["best_checkpoint"]
        assert "pair" in found[0] and isinstance(found[0]["prediction"], float)


def test_mnli_is_scored_on_both_development_sets_and_writes_both_submissions(config_of, tmp_path):
    folder = tmp_path / "glue" / "MNLI"
    folder.mkdir(parents=True)
    for name in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"):
        label = "" if name.startswith("test") else "\tgold_label"
        rows = "".join(f"{number}\tban bel\tbir{f'{chr(9)}{value}' if label else ''}\n" for number, value in enumerate(
            ("entailment", "neutral", "contradiction")))
        (folder / f"{name}.tsv").write_text(f"index\tsentence1\tsentence2{label}\n{rows}")
    config = config_of("mnli", train_file=None, dev_file=None, data_dir=str(tmp_path / "glue"), do_predict=True,
                       max_steps=1)
    results = run(config)
    assert {"accuracy", "dev_mismatched_accuracy"} <= set(results)
    for name in ("MNLI-m", "MNLI-mm"):
        with open(os.path.join(config.output_dir, "submission", f"{name}.tsv"), encoding="utf-8") as file:
            assert [line.split("\t")[0] for line in file] == ["index", "0", "1", "2"]


@pytest.mark.parametrize("changes, words", [
    (dict(train_file="absent.csv"), ["absent.csv", "--train_file"]),
    (dict(dev_file="dev.conll"), ["dev.conll", ".csv"]),
    (dict(metric="bleu", evaluate_during_training=True), ["--metric=bleu", "accuracy"]),
    (dict(max_seq_length=2000), ["--max_seq_length=2000", "32"]),
    (dict(do_train=False), ["no head", "run_tf_tasks.py"]),
    (dict(task="cola", train_file=None, dev_file=None, data_dir="."), ["train", "--data_dir"])])
def test_bad_input_is_refused_before_training(config_of, data, refuses, monkeypatch, changes, words):
    monkeypatch.chdir(data)
    config = config_of(**changes)
    said = refuses(run, config)
    assert all(word in said for word in words), said
    assert not os.path.exists(config.checkpoint_dir) or not os.listdir(config.checkpoint_dir)
    assert refuses(fine_tuning.check_only, run_tf_tasks.task_of(config), config) == said


@pytest.mark.parametrize("changes, flag", [
    (dict(task=None), "--task"), (dict(train_file=None), "--train_file"), (dict(do_predict=True), "--test_file"),
    (dict(task="mnli", train_file=None), "--data_dir"), (dict(task="tagging", pair_column="b"), "--pair_column"),
    (dict(task="regression", class_weights="balanced"), "--class_weights"), (dict(labels="a,a"), "--labels"),
    (dict(task="tagging", doc_stride=15), "--doc_stride"), (dict(labels="a"), "--labels"),
    (dict(seeds="1,1", seed=None), "--seeds"), (dict(seeds="1,2"), "--seed"),
    (dict(dev_file=None, dev_fraction=0.0, eval_steps=1), "--dev_file")])
def test_options_that_contradict_each_other_are_refused(config_of, refuses, changes, flag):
    assert flag in refuses(config_of, **changes)


def test_a_checkpoint_of_another_task_is_refused_and_overwritten_only_if_asked(config_of, refuses):
    config = config_of(max_steps=1, do_eval=False)
    run(config)
    said = refuses(run, dataclasses.replace(config, label_separator=";"))
    assert "--label_separator=," in said and "--overwrite" in said
    tagging = config_of("tagging", kind="conll", max_steps=1, do_eval=False)
    assert "another task" in refuses(run, tagging)
    assert run(dataclasses.replace(tagging, overwrite=True))["labels"][0] == "O"


def test_defaults_are_those_of_the_paper():
    def fitted(task, size):
        config = TaskConfig(task=task, do_train=True, train_file="a.csv", output_dir="out", data_dir="glue")
        found = config.fitted(1, ElectraConfig.of_size(size))
        return found.learning_rate, found.layerwise_lr_decay, found.num_train_epochs

    assert fitted("rte", "small") == (3e-4, 0.8, 10) and fitted("stsb", "base") == (1e-4, 0.8, 10)
    assert fitted("mnli", "large") == (5e-5, 0.9, 3) and fitted("classification", "base")[2] == 3
    config = TaskConfig(task="cola", do_eval=True, data_dir="glue", output_dir="out")
    assert (config.train_batch_size, config.warmup_proportion, config.weight_decay_rate) == (32, 0.1, 0.0)
