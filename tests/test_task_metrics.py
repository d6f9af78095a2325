"""task_metrics: scikit-learn's, scipy's and seqeval's values on random cases, and awkward ones."""
from __future__ import annotations

import math

import numpy as np
import pytest

import task_metrics
from task_metrics import by_class, glue_scores, scores, spans_of

TAGS = ("O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def random_tags(rng, sentences=40, tags=TAGS):
    return [list(rng.choice(tags, rng.integers(0, 12))) for _ in range(sentences)]


# --- Random cases, by the formulas ---


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_scores_are_the_formulas(classes):
    rng = np.random.default_rng(classes)
    gold, found = rng.integers(0, classes, 200), rng.integers(0, classes, 200)
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (gold, found), 1)
    f1 = [200 * matrix[c, c] / (matrix[c].sum() + matrix[:, c].sum()) for c in range(classes)]
    # Gorodkin 2004, the multi-class form of Matthews 1975
    right, total, rows, columns = np.trace(matrix), matrix.sum(), matrix.sum(1), matrix.sum(0)
    matthews = (right * total - rows @ columns) / math.sqrt((total**2 - columns @ columns) * (total**2 - rows @ rows))
    values = scores("single_label", found, gold)
    assert values["accuracy"] == pytest.approx(100 * np.mean(gold == found))
    assert values["macro_f1"] == pytest.approx(np.mean(f1)) and values["matthews"] == pytest.approx(100 * matthews)
    assert values.get("f1", f1[1]) == pytest.approx(f1[1]) and ("f1" in values) == (classes == 2)
    assert [row.f1 for row in by_class("single_label", found, gold, "abcde"[:classes])] == pytest.approx(f1)


def test_multi_label_scores_are_the_formulas():
    rng = np.random.default_rng(1)
    gold, found = rng.integers(0, 2, (2, 60, 4))
    f1 = 200 * (gold & found).sum(0) / (gold.sum(0) + found.sum(0))
    values = scores("multi_label", found, gold)
    assert values["macro_f1"] == pytest.approx(f1.mean())
    assert values["micro_f1"] == pytest.approx(200 * (gold & found).sum() / (gold.sum() + found.sum()))
    assert values["accuracy"] == pytest.approx(100 * np.mean((gold == found).all(1)))
    assert [row.f1 for row in by_class("multi_label", found, gold, "abcd")] == pytest.approx(f1)
    alone = scores("multi_label", found[:, :1], gold[:, :1])
    assert alone["micro_f1"] == alone["macro_f1"] == pytest.approx(f1[0])


def test_correlations_are_the_formulas_with_ties():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 6, 50) / 1.0
    found = gold + rng.normal(size=50)

    def ranks(x):
        return np.array([np.mean(np.flatnonzero(np.sort(x) == value)) for value in x])

    values = scores("regression", found, gold)
    assert values["pearson"] == pytest.approx(100 * np.corrcoef(found, gold)[0, 1])
    assert values["spearman"] == pytest.approx(100 * np.corrcoef(ranks(found), ranks(gold))[0, 1])
    assert values["mean_squared_error"] == pytest.approx(np.mean((found - gold) ** 2))


def test_span_scores_are_those_of_sets_of_spans():
    rng = np.random.default_rng(1)
    gold = random_tags(rng)
    found = [[tag if rng.random() < 0.7 else rng.choice(TAGS) for tag in tags] for tags in gold]
    spans = [{(number, *span) for number, tags in enumerate(sentences) for span in spans_of(tags)}
             for sentences in (found, gold)]
    right = len(spans[0] & spans[1])
    values = scores("tags", found, gold)
    assert 0 < right < min(map(len, spans))
    assert values["precision"] == pytest.approx(100 * right / len(spans[0]))
    assert values["recall"] == pytest.approx(100 * right / len(spans[1]))
    assert values["f1"] == pytest.approx(200 * right / (len(spans[0]) + len(spans[1])))
    rows = by_class("tags", found, gold)
    assert [row.name for row in rows] == ["LOC", "PER"]
    assert sum(row.support for row in rows) == len(spans[1]) and sum(row.predicted for row in rows) == len(spans[0])


# --- Awkward cases ---


@pytest.mark.parametrize("found, gold, expected", [
    ([0, 0], [0, 0], {"accuracy": 100, "matthews": 0, "f1": 0, "macro_f1": 100}),  # one class only
    ([1, 1], [1, 1], {"accuracy": 100, "matthews": 0, "f1": 100, "macro_f1": 100}),
    ([0, 0, 0], [0, 1, 0], {"accuracy": 200 / 3, "matthews": 0, "f1": 0, "macro_f1": 40}),  # constant
    ([1], [0], {"accuracy": 0, "matthews": 0, "f1": 0, "macro_f1": 0})])
def test_one_class_and_constant_predictions(found, gold, expected):
    assert scores("single_label", found, gold) == pytest.approx(expected)


@pytest.mark.parametrize("found, gold", [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1.0], [1.0])])
def test_a_correlation_with_constants_is_0(found, gold):
    values = scores("regression", found, gold)
    assert values["pearson"] == values["spearman"] == 0


def test_labels_that_never_occur_count_0():
    assert scores("multi_label", np.zeros((3, 2)), np.zeros((3, 2))) == {"accuracy": 100, "micro_f1": 0, "macro_f1": 0}
    assert by_class("single_label", [0], [0], ("a", "b"))[1] == task_metrics.ClassScore("b", 0, 0, 0, 0, 0)


@pytest.mark.parametrize("tags, spans", [
    ([], []), (["O", "O"], []),
    (["I-PER", "I-PER", "O", "I-LOC"], [("PER", 0, 1), ("LOC", 3, 3)]),  # I- without B-: a span starts there
    (["B-PER", "I-LOC"], [("PER", 0, 0), ("LOC", 1, 1)]),
    (["B-PER", "B-PER", "I-PER"], [("PER", 0, 0), ("PER", 1, 2)]),
    (["S-PER", "B-LOC", "I-LOC", "E-LOC", "E-LOC"], [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),
    (["B-a-b", "I-a-b"], [("a-b", 0, 1)])])
def test_spans_are_read_as_conlleval_does(tags, spans):
    assert spans_of(tags) == spans
    if spans:
        assert scores("tags", [tags], [tags])["f1"] == 100


def test_sentences_without_words_or_spans():
    assert scores("tags", [[], ["O"]], [[], ["O"]]) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 100}
    assert scores("tags", [[]], [[]])["accuracy"] == 0 and by_class("tags", [[]], [[]]) == []
    assert scores("tags", [["B-X"], []], [["O"], []])["precision"] == 0
    assert scores("plain_tags", [[], ["N"]], [[], ["V"]]) == {"accuracy": 0, "macro_f1": 0}
    assert [row.name for row in by_class("plain_tags", [["N", "V"]], [["V", "V"]])] == ["N", "V"]


@pytest.mark.parametrize("found, gold", [([], []), ([1], [1, 0])])
def test_other_numbers_of_predictions_are_an_error(found, gold):
    with pytest.raises(ValueError):
        scores("single_label", found, gold)
    with pytest.raises(ValueError):
        scores("tags", [["O"]], [["O", "O"]])


# --- GLUE ---


def test_glue_has_its_official_scores_the_papers_first():
    assert glue_scores("mrpc", [1, 0, 1], [1, 1, 1]) == pytest.approx({"accuracy": 200 / 3, "f1": 80})
    assert list(glue_scores("stsb", [1.0, 2.0, 5.0], [1.0, 2.5, 4.0])) == ["spearman", "pearson"]
    assert glue_scores("cola", [1, 1], [1, 0]) == {"matthews": 0}
    assert glue_scores("mnli", [0, 2, 1], [0, 2, 2]) == pytest.approx({"accuracy": 200 / 3})
    assert task_metrics.main_score("single_label", "cola") == "matthews"
    assert task_metrics.main_score("tags") == "f1"
