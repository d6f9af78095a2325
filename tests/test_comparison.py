"""comparison: what differs between two runs, and what noise is."""
from __future__ import annotations

import json
import random

import numpy as np
import pytest
from support import squad_file

import comparison
import report
from run_folder import Run

CONFIG = {"learning_rate": 6e-3, "num_train_steps": 100, "train_batch_size": 4, "gradient_accumulation_steps": 1,
          "seed": 1, "eval_tfrecords": "held", "max_seq_length": 128, "results_dir": "results"}


def make_run(folder, losses, batches=None, settings=(), **config):
    """A pre-training with an evaluation every 10 updates."""
    logs = folder / "logs"
    logs.mkdir(parents=True)
    (logs / "configuration_phase1.json").write_text(json.dumps({
        "config": {**CONFIG, **config}, "device": "cpu (2 cores)", "world_size": 1, "data": [["x", 90]],
        "environment": {"tensorflow": "2.15.1"}, **dict(settings)}))
    (logs / "pretraining_phase1.jsonl").write_text("".join(
        json.dumps({"step": 10 * number, "kind": "eval", "generator_loss": loss}) + "\n"
        for number, loss in enumerate(losses, 1)))
    if batches is not None:
        comparison.write_batches(str(logs), 1, 10 * len(losses), [{"generator_loss": loss} for loss in batches])
    return Run(str(folder))


def noisy(level, spread, count, seed):
    random_numbers = random.Random(seed)
    return [level + random_numbers.gauss(0, spread) for _ in range(count)]


def test_settings_data_versions_and_machine_that_differ_are_listed_and_places_are_not(tmp_path):
    a = make_run(tmp_path / "a", [3.0])
    b = make_run(tmp_path / "b", [3.0], {}, learning_rate=3e-3, results_dir="elsewhere", data_dir=None, settings={
        "device": "gpu (x)", "data": [["x", 50], ["y", 40]], "environment": {"tensorflow": "2.21.0"}}.items())
    text = comparison.in_words(a, b)
    for line in ("learning_rate: 0.006 -> 0.003", "shards: 1 -> 2", "tensorflow: 2.15.1 -> 2.21.0",
                 "device: cpu (2 cores) -> gpu (x)"):
        assert line in text
    assert "elsewhere" not in text and "records:" not in text
    same = comparison.in_words(a, make_run(tmp_path / "c", [3.0]))
    for what in ("settings", "data", "versions", "machine"):
        assert f"{what}: the same" in same
    assert "noise unknown" in same


@pytest.mark.parametrize("shift, batches_spread, evaluations_spread, verdict", [
    (0.5, 0.01, 0.01, ": beyond noise\n"), (0.001, 0.01, 0.01, ": within noise\n"),
    (0.05, 0.001, 0.3, ": within noise\n"),  # clear on these records, but each run scatters by more
    (0.05, 1.0, 0.001, ": within noise\n")])
def test_a_difference_must_exceed_both_kinds_of_noise(shift, batches_spread, evaluations_spread, verdict, tmp_path):
    level = noisy(3.0, 0.5, 40, 0)  # some batches are harder than others, which is no noise of the difference
    runs = []
    for number, name in enumerate("ab"):
        evaluations = noisy(3.0 + number * shift, evaluations_spread, 9, number + 1)
        own = [one + number * shift + noise for one, noise in zip(level, noisy(0, batches_spread, 40, number + 5))]
        runs.append(make_run(tmp_path / name, [*evaluations, 3.0 + number * shift], own))
    assert verdict in comparison.in_words(*runs)


def test_batches_count_only_where_they_are_the_same_and_of_the_last_evaluation(tmp_path):
    losses = [3.0, 2.9, 2.8, 2.71, 2.6]
    a = make_run(tmp_path / "a", losses, noisy(2.6, 0.1, 20, 1))
    (one,) = a.parts
    for name, changes in (("seed", {"seed": 2}), ("old", {})):
        b = make_run(tmp_path / name, losses, noisy(2.6, 0.1, 20, 1), **changes)
        if name == "old":
            comparison.write_batches(b.logs, 1, 40, [{"generator_loss": 1.0}] * 20)
        (difference,) = comparison.differences(a, b, one, b.parts[0])
        assert difference.paired is None and difference.trend > 0
    assert "seed" in comparison.in_words(a, Run(str(tmp_path / "seed"))).partition("strictly comparable")[0]


def test_the_margins_are_those_of_students_t():
    rng = np.random.default_rng(0)
    for degrees, exact in ((4, 2.776), (8, 2.306), (30, 2.042), (1000, 1.962)):  # tables of the distribution
        assert comparison.t_quantile(degrees) == pytest.approx(exact, rel=0.02)
    covered = [abs(sample.mean()) <= comparison.paired_margin(sample) for sample in rng.normal(size=(2000, 10))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    steps = np.arange(6)
    covered = []
    for first, second in rng.normal(size=(2000, 2, 6)):
        margin = comparison.trend_margin(list(zip(steps, first - 3 * steps)), list(zip(steps, second + steps)))
        covered.append(abs(rng.normal() - rng.normal()) <= margin)  # whatever the slope
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    assert comparison.paired_margin([1.0] * 4) is None
    assert comparison.trend_margin([(1, 1.0)] * 3, [(1, 1.0)] * 9) is None


def fine_tuning(folder, questions, right):
    """The answers of a fine-tuning: the first `right` of them are correct."""
    folder.mkdir()
    content = json.loads(questions.read_text())
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    found = {}
    for number, paragraph in enumerate(paragraphs):
        gold, first = paragraph["qas"][0]["answers"][0], paragraph["context"].split()[0]
        text, start = (gold["text"], gold["answer_start"]) if number < right else (first, 0)
        found[paragraph["qas"][0]["id"]] = [{"text": text, "start": start, "end": start + len(text), "score": 1.0,
                                             "probability": 1.0}]
    (folder / "nbest_predictions.json").write_text(json.dumps(found))
    (folder / "results.json").write_text(json.dumps({"f1": right / len(paragraphs) * 100, "exact_match": right * 1.0,
                                                     "predict_file": str(questions), "metric": "squad"}))
    return Run(str(folder))


def test_scores_of_fine_tunings_are_compared_question_by_question(tmp_path):
    squad_file(tmp_path / "dev.json", "1.1", 40, seed=1)
    a, b, c = (fine_tuning(tmp_path / f"run{right}", tmp_path / "dev.json", right) for right in (10, 11, 30))
    text = comparison.in_words(a, c)
    assert "f1: 25.00 -> 75.00" in text and "wins 20 questions and loses 0: beyond noise (McNemar" in text
    text = comparison.in_words(a, b)
    assert "within noise (McNemar" in text and "F1 +2.50" in text
    (tmp_path / "run11" / "nbest_predictions.json").unlink()
    assert "cannot be compared one by one" in comparison.in_words(a, b)


def test_runs_of_different_kinds_have_nothing_to_compare(tmp_path):
    squad_file(tmp_path / "dev.json", "1.1", 4, seed=1)
    text = comparison.in_words(make_run(tmp_path / "a", [3.0]), fine_tuning(tmp_path / "b", tmp_path / "dev.json", 1))
    assert "pretraining" in text and "fine-tuning" in text and "in common" in text


def test_the_command_prints_it(tmp_path, capsys):
    make_run(tmp_path / "a", [3.0])
    make_run(tmp_path / "b", [2.0])
    report.main(["report.py", "--compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "generator_loss: 3.0000 -> 2.0000 (-1.0000" in capsys.readouterr().out


def test_scores_of_classifiers_are_compared_and_those_of_other_tasks_are_not(tmp_path):
    results = {"a": {"task": "classification", "accuracy": 50.0, "f1": 40.0, "train_steps": 9},
               "b": {"task": "classification", "accuracy": 62.5, "f1": 41.0, "train_steps": 9},
               "squad": {"f1": 80.0, "exact_match": 70.0}}
    for name, content in results.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    a, b, squad = (Run(str(tmp_path / name)) for name in results)
    text = comparison.in_words(a, b)
    assert "accuracy: 50.00 -> 62.50" in text and "f1: 40.00 -> 41.00" in text and "train_steps" not in text
    assert "seeds" in text
    assert "different tasks" in comparison.in_words(a, squad) and "->" not in comparison.in_words(a, squad)
