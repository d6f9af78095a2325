"""task_analysis and analysis_parts: scores from sums, confusion, worst, two runs; pages and files; damaged files."""
from __future__ import annotations

import json

import numpy as np
import pytest
import test_page

import analysis
import analysis_parts
import task_analysis
import task_metrics

TAGS = ("O", "O", "B-PER", "I-PER", "B-LOC")


def entries_of(kind, seed=0, count=60):
    """Predictions for random examples, of which most are right."""
    rng, found = np.random.default_rng(seed), []
    data = np.random.default_rng(9)  # the same examples for every seed
    for number in range(count):
        entry = {"id": number, "text": "<b>word</b> " * int(data.integers(1, 30))}
        if kind == "regression":
            entry["label"] = float(data.integers(0, 6))
            entry["prediction"] = entry["label"] + float(rng.normal())
        elif kind == "single_label":
            entry.update(label=str(data.choice(["a", "b", "c"])), pair="second <i>")
            shares = rng.dirichlet((1, 1, 1)) + 0.6 * np.eye(3)["abc".index(entry["label"])]
            entry["probabilities"] = dict(zip("abc", (shares / shares.sum()).tolist()))
            entry["prediction"] = max("abc", key=entry["probabilities"].get)
        elif kind == "multi_label":
            gold = data.integers(0, 2, 3)
            shares = np.clip(gold * 0.5 + rng.random(3) * 0.7, 0, 1)
            entry.update(label=[n for n, x in zip("abc", gold) if x],
                         prediction=[n for n, x in zip("abc", shares) if x > 0.5],
                         probabilities=dict(zip("abc", shares.tolist())))
        else:
            words = [f"w{i}" for i in range(int(data.integers(1, 9)))]
            gold = data.choice(TAGS if kind == "tags" else ("N", "V"), len(words)).tolist()
            noisy = [tag if rng.random() < 0.8 else "O" if kind == "tags" else "V" for tag in gold]
            entry.update(text=" ".join(words), words=words, label=gold, prediction=noisy,
                         probabilities=rng.uniform(0.5, 1, len(words)).tolist())
        found.append(entry)
    return found


KINDS = tuple(task_analysis.RESAMPLED)


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_from_sums_is_that_of_the_metrics(kind):
    run = task_analysis.run_of(entries_of(kind), kind)
    assert run.kind == kind
    content = task_analysis.analyse(run)
    score = content["resampled"]
    sums = task_analysis.statistics(run).sum(axis=0)
    assert float(task_analysis.score_of(kind, sums)) == pytest.approx(content["scores"][score])
    low, high = content["interval"]
    assert low < content["scores"][score] < high
    assert sum(row["examples"] for row in content["groups"].values()) == 60
    bins = content["calibration"]["bins"]
    counted = {"single_label": 60, "multi_label": 180, "regression": 0}
    words = sum(len(entry.get("words", ())) for entry in run.entries)
    assert sum(count for *_, count in bins) == counted.get(kind, words)
    json.dumps(content)


def test_the_interval_is_that_of_resampled_examples():
    rng = np.random.default_rng(3)
    right = (rng.random(400) < 0.7).astype(float)
    low, high = analysis_parts.interval_of(lambda sums: 100 * sums[:, 0] / 400, right[:, np.newaxis])
    width = 1.96 * 100 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert high - low == pytest.approx(2 * width, rel=0.1)
    same = analysis_parts.interval_of(lambda sums: sums[:, 0], right[:, np.newaxis], right[:, np.newaxis])
    assert same == [0, 0]  # of a run and itself


def test_confusion_counts_labels_and_boundaries_of_spans():
    labels = task_analysis.run_of([{"id": 1, "text": "x", "label": gold, "prediction": found}
                                   for gold, found in ("aa", "ab", "ab", "ba")], "single_label")
    assert task_analysis.confusion(labels) == {"a": {"a": 1, "b": 2}, "b": {"a": 1}}
    words = [f"w{i}" for i in range(9)]
    gold = "B-P I-P O B-L O B-P I-P O O".split()
    found = "B-P I-P O B-P O B-P O O B-L".split()
    spans = task_analysis.run_of([{"id": 1, "text": "", "words": words, "label": gold, "prediction": found}], "tags")
    assert task_analysis.confusion(spans) == {
        "P": {"P": 1, task_analysis.ELSEWHERE: 1}, "L": {"P": 1}, task_analysis.INVENTED: {"L": 1}}


def test_the_worst_are_the_most_certain_or_largest_errors():
    for kind in KINDS:
        run = task_analysis.run_of(entries_of(kind), kind)
        rows, right = task_analysis.worst(run), task_analysis.right(run)
        assert rows and not right[rows].any()
        if kind == "regression":
            size = np.abs(run.predicted - run.gold)
        elif kind == "single_label":
            size = np.array([max(entry["probabilities"].values()) for entry in run.entries])
        else:
            size = np.array([np.sum(np.array(a) != np.array(b)) for a, b in zip(run.predicted, run.gold)])
        assert rows[0] == max((row for row in range(60) if not right[row]), key=lambda row: size[row])
        assert len(rows) == min(task_analysis.WORST, (~right).sum())


def test_two_runs_are_compared_example_by_example():
    first, second = (task_analysis.run_of(entries_of("single_label", seed), "single_label") for seed in (0, 1))
    compared = task_analysis.compare(first, second)
    right = [task_analysis.right(run) for run in (first, second)]
    assert compared["won"] == np.flatnonzero(~right[0] & right[1]).tolist()
    assert compared["examples_lost"] == len(compared["lost"]) == (right[0] & ~right[1]).sum()
    assert compared["difference"] == pytest.approx(100 * (right[1].mean() - right[0].mean()))
    assert compared["interval"][0] < compared["difference"] < compared["interval"][1]
    numbers = [task_analysis.run_of(entries_of("regression", seed), "regression") for seed in (0, 1)]
    error = [abs(run.predicted - run.gold) for run in numbers]
    assert len(task_analysis.compare(*numbers)["won"]) == (error[1] < error[0]).sum()


def write(folder, entries, split="dev"):
    folder.mkdir(exist_ok=True)
    (folder / f"predictions_{split}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(folder)


def main(*folders):
    analysis.main(["analysis.py", f"--runs={','.join(folders)}"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_a_page_for_a_run_and_for_two(kind, tmp_path, capsys):
    folders = [write(tmp_path / f"run{seed}", entries_of(kind, seed)) for seed in (0, 1)]
    main(folders[0])
    main(*folders)
    said = capsys.readouterr().out
    assert "analysis.html" in said and "comparison.html" in said
    for name in ("analysis", "comparison"):
        text = (tmp_path / "run0" / f"{name}.html").read_text(encoding="utf-8")
        test_page.assert_self_contained(text)
        assert "<b>word" not in text and "second <i>" not in text
        assert json.loads((tmp_path / "run0" / f"{name}.json").read_text())["kind"] == kind


def test_an_evaluation_writes_what_the_command_writes(tmp_path):
    entries = entries_of("tags")
    folder = write(tmp_path / "run", entries)
    task_analysis.write_after_evaluation(folder, "dev", "tags", entries)
    written = (tmp_path / "run" / "analysis.html").read_text()
    main(folder)
    assert (tmp_path / "run" / "analysis.html").read_text() == written
    task_analysis.remove(folder, "dev")
    assert not (tmp_path / "run" / "analysis.html").exists()
    assert task_analysis.file_name("test") == "analysis_test"


def test_other_and_damaged_files_are_refused(tmp_path, refuses):
    entries = entries_of("single_label", count=3)
    good = write(tmp_path / "good", entries)
    for name, lines, part in (
            ("unlabelled", [{"id": 1, "text": "x", "prediction": "a"}], "no gold labels"),
            ("mixed", [entries[0], {"id": 1, "text": "x", "label": 1.0, "prediction": 2.0}], "line 1"),
            ("words", [{"id": 1, "text": "x", "words": ["x"], "label": ["O"], "prediction": []}], "line 1"),
            ("empty", [], "no predictions")):
        assert part in refuses(main, write(tmp_path / name, lines))
    others = write(tmp_path / "others", entries_of("single_label", count=4))
    assert "other examples" in refuses(main, good, others)
    assert "same split" in refuses(main, good, write(tmp_path / "split", entries, "test"))
    (tmp_path / "squad").mkdir()
    assert "one kind" in refuses(main, good, str(tmp_path / "squad"))


def test_a_class_that_never_occurs_and_one_example_have_scores():
    run = task_analysis.run_of([{"id": 1, "text": "x", "label": "a", "prediction": "a",
                                 "probabilities": {"a": 0.9, "b": 0.1}}], "single_label")
    content = task_analysis.analyse(run)
    assert content["interval"] == [100, 100] and content["worst"] == []
    assert content["classes"][1]["f1"] == 0 and task_metrics.MAIN["single_label"] == content["resampled"]
    assert "The worst" in task_analysis.render("run", run, content)
    one = task_analysis.run_of([{"id": 1, "text": "x", "label": 1.0, "prediction": 1.0}], "regression")
    assert task_analysis.analyse(one)["interval"] == [0, 0]
