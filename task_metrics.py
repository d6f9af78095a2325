"""Scores of classification, regression and tagging, in percent: 0 to 100, correlations -100 to 100.

Classification and correlations are scikit-learn's and scipy's. Spans of tags are those of seqeval, in its default mode:
as conlleval does, it takes an I- without a B- before it for the start of a span. A span is correct if its place and its
type are.

What has no value counts 0: the F1 of a class that neither occurs nor is predicted, and a correlation with constants,
which scipy says is NaN. The official metrics of GLUE are those of Wang et al. 2019, table 1.
"""
from __future__ import annotations

import warnings
from typing import Dict, List, NamedTuple, Sequence

import numpy as np

# The official metrics of GLUE's tasks. The first of each is the one in ELECTRA's paper (appendix D).
GLUE = {"cola": ("matthews",), "sst2": ("accuracy",), "mrpc": ("accuracy", "f1"), "stsb": ("spearman", "pearson"),
        "qqp": ("accuracy", "f1"), "mnli": ("accuracy",), "qnli": ("accuracy",), "rte": ("accuracy",),
        "wnli": ("accuracy",)}

# The score by which the best checkpoint is chosen, by kind of task.
MAIN = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "spearman", "tags": "f1",
        "plain_tags": "accuracy"}


def main_score(kind: str, glue_task: str = "") -> str:
    """The name of the score by which models are compared."""
    return GLUE[glue_task][0] if glue_task else MAIN[kind]


def scores(kind: str, predictions, labels) -> Dict[str, float]:
    """All scores of a kind of task.

    Args:
        kind: `single_label` (predictions and labels int [n]), `multi_label` (0 and 1, [n, labels]), `regression`
            (float [n]), `tags` (lists of lists of tags such as B-PER) or `plain_tags` (the same with tags that mark no
            spans, such as parts of speech).
    Returns:
        single_label: accuracy, matthews, macro_f1; f1 of class 1 where no other class than 0 and 1 occurs.
        multi_label: accuracy (all labels of an example are right), micro_f1, macro_f1.
        regression: pearson, spearman; mean_squared_error, which is no percentage.
        tags: f1, precision, recall of spans; accuracy of words.
        plain_tags: accuracy, macro_f1 of words.
    """
    if len(predictions) != len(labels) or not len(labels):
        raise ValueError(f"{len(predictions)} predictions, {len(labels)} labels")
    function = {"single_label": _single_label, "multi_label": _multi_label, "regression": _regression, "tags": _tags,
                "plain_tags": _plain_tags}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are not defined
        return {name: float(value) for name, value in function(predictions, labels).items()}


def glue_scores(task: str, predictions, labels) -> Dict[str, float]:
    """The official scores of a task of GLUE, a key of GLUE, the main one first."""
    found = scores("regression" if task == "stsb" else "single_label", predictions, labels)
    return {name: found.get(name, 0.0) for name in GLUE[task]}


def _single_label(predictions, labels) -> Dict[str, float]:
    from sklearn import metrics
    predictions, labels = (np.asarray(values, int) for values in (predictions, labels))
    found = {"accuracy": 100 * metrics.accuracy_score(labels, predictions),
             "matthews": 100 * metrics.matthews_corrcoef(labels, predictions),
             "macro_f1": 100 * metrics.f1_score(labels, predictions, average="macro", zero_division=0)}
    if max(labels.max(), predictions.max()) <= 1:
        found["f1"] = 100 * metrics.f1_score(labels, predictions, labels=[1], average="macro", zero_division=0)
    return found


def _multi_label(predictions, labels) -> Dict[str, float]:
    from sklearn import metrics
    predictions, labels = (np.asarray(values).astype(int) for values in (predictions, labels))
    if labels.shape[1] == 1:  # scikit-learn would take one label for two classes
        f1 = dict.fromkeys(("micro", "macro"), _single_label(predictions[:, 0], labels[:, 0])["f1"])
    else:
        f1 = {average: 100 * metrics.f1_score(labels, predictions, average=average, zero_division=0)
              for average in ("micro", "macro")}
    return {"accuracy": 100 * np.mean((predictions == labels).all(axis=1)), "micro_f1": f1["micro"],
            "macro_f1": f1["macro"]}


def _regression(predictions, labels) -> Dict[str, float]:
    from scipy import stats
    predictions, labels = (np.asarray(values, float) for values in (predictions, labels))
    found = {"pearson": 0.0, "spearman": 0.0}
    if np.ptp(predictions) > 0 and np.ptp(labels) > 0:
        found = {"pearson": 100 * stats.pearsonr(predictions, labels)[0],
                 "spearman": 100 * stats.spearmanr(predictions, labels)[0]}
    return {**found, "mean_squared_error": np.mean((predictions - labels) ** 2)}


def _tags(predictions, labels) -> Dict[str, float]:
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    flat = _flat(predictions, labels)
    predictions, labels = ([list(tags) for tags in sentences] for sentences in (predictions, labels))
    precision = recall = f1 = 0.0
    if any(tag != "O" for pair in flat for tag in pair):
        precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions, average="micro",
                                                                   zero_division=0)
    return {"f1": 100 * f1, "precision": 100 * precision, "recall": 100 * recall, "accuracy": _accuracy(flat)}


def _plain_tags(predictions, labels) -> Dict[str, float]:
    from sklearn import metrics
    flat = _flat(predictions, labels)
    f1 = metrics.f1_score([b for _, b in flat], [a for a, _ in flat], average="macro", zero_division=0) if flat else 0.0
    return {"accuracy": _accuracy(flat), "macro_f1": 100 * f1}


def _flat(predictions, labels) -> List[tuple]:
    """Pairs of a predicted and a gold tag, of all words."""
    for found, gold in zip(predictions, labels):
        if len(found) != len(gold):
            raise ValueError(f"{len(found)} predicted tags of {len(gold)} words")
    return [pair for found, gold in zip(predictions, labels) for pair in zip(found, gold)]


def _accuracy(flat) -> float:
    return 100 * float(np.mean([found == gold for found, gold in flat])) if flat else 0.0


class ClassScore(NamedTuple):
    """How well one class, label or type of span is predicted, in percent."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int  # how often it occurs in the gold labels
    predicted: int


def by_class(kind: str, predictions, labels, names: Sequence[str] = ()) -> List[ClassScore]:
    """The scores of each class (single_label), label (multi_label), type of span (tags) or tag (plain_tags).

    Args:
        names: of the classes or labels, by number.
    """
    if kind == "tags":
        found, gold = ([spans_of(tags) for tags in sentences] for sentences in (predictions, labels))
        names = sorted({span[0] for spans in (*found, *gold) for span in spans})
        counts = {name: [0, 0, 0] for name in names}  # right, predicted, gold
        for some, true in zip(found, gold):
            for place, spans in enumerate((set(some) & set(true), some, true)):
                for name, *_ in spans:
                    counts[name][place] += 1
        return [_class_score(name, *counts[name]) for name in names]
    if kind == "plain_tags":
        flat = _flat(predictions, labels)
        names = sorted({tag for pair in flat for tag in pair})
        numbers = {name: number for number, name in enumerate(names)}
        predictions, labels = ([numbers[pair[side]] for pair in flat] for side in (0, 1))
    if kind != "multi_label":
        predictions, labels = (np.eye(len(names), dtype=bool)[np.asarray(values, int)] for values in
                               (predictions, labels))
    predictions, labels = np.asarray(predictions).astype(bool), np.asarray(labels).astype(bool)
    return [_class_score(name, *(int(np.sum(part[:, i])) for part in (predictions & labels, predictions, labels)))
            for i, name in enumerate(names)]


def _class_score(name: str, right: int, predicted: int, gold: int) -> ClassScore:
    return ClassScore(name, 100 * right / max(predicted, 1), 100 * right / max(gold, 1),
                      100 * 2 * right / max(predicted + gold, 1), gold, predicted)


def spans_of(tags: Sequence[str]) -> List[tuple]:
    """The spans that tags mark, as seqeval reads them: (type, first word, last word)."""
    from seqeval.metrics.sequence_labeling import get_entities
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags without a prefix
        return get_entities(list(tags))
