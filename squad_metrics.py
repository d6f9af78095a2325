"""Scores of answers: exact match and F1, as SQuAD, MLQA and CMRC 2018 define them.

SQuAD: Rajpurkar et al. 2016 (1.1) and 2018 (2.0), the two official evaluation scripts: words, without ASCII punctuation
and English articles. MLQA: Lewis et al. 2020, appendix: the same with all punctuation of Unicode, the articles of the
language, and in Chinese a character is a word. CMRC 2018: Cui et al. 2019, section 3.3: F1 over the longest common
substring, in characters of Chinese and words of other text, without the punctuation of its official script's list. That
script splits other text with NLTK's word tokenizer; here a word is letters and digits, with `.`, `,` or `'` inside, and
any other character is a token of its own.

The results have the official keys of SQuAD with every metric.
"""
from __future__ import annotations

import collections
import re
import string
import sys
import unicodedata
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from absl import logging

from configuration import UserError
from squad_utils import Example


class AnswerMetric(NamedTuple):
    """How two answers are compared. Both match exactly where their normalized texts are equal."""

    normalize: Callable[[str], str]
    overlap: Callable[[str, str], Tuple[int, int, int]]  # of normalized prediction and gold: tokens in common, of each

    def f1(self, prediction: str, gold: str, version_2: bool) -> float:
        """F1 of two normalized texts; two empty texts score 1 in 2.0 and 0 in 1.1."""
        if version_2 and not (prediction and gold):
            return float(prediction == gold)
        common, predicted, expected = self.overlap(prediction, gold)
        if not common:
            return 0.0
        precision, recall = common / predicted, common / expected
        return 2 * precision * recall / (precision + recall)  # in this order: equal to the official script


def common_words(prediction: str, gold: str) -> Tuple[int, int, int]:
    predicted, expected = prediction.split(), gold.split()
    return sum((collections.Counter(predicted) & collections.Counter(expected)).values()), len(predicted), len(expected)


# --- SQuAD ---

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


SQUAD = AnswerMetric(normalize_answer, common_words)

# --- MLQA ---

_CHINESE = "\u4e00-\u9fa5"  # the range of both official scripts
_MLQA_ARTICLES = {
    "en": r"\b(?:a|an|the)\b", "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "ar": "ال",  # anywhere, as the official pattern in fact does
    "hi": None, "zh": None}


def mlqa(language: str) -> AnswerMetric:
    """The metric of MLQA for answers in a language."""
    articles = _MLQA_ARTICLES[language] and re.compile(_MLQA_ARTICLES[language])
    punctuation = dict.fromkeys(code for code in range(sys.maxunicode)
                                if unicodedata.category(chr(code)).startswith("P"))
    punctuation.update(_PUNCTUATION)

    def normalize(text: str) -> str:
        text = text.lower().translate(punctuation)
        if articles:
            text = articles.sub(" ", text)
        if language == "zh":
            text = re.sub(f"([{_CHINESE}])", r" \1 ", text)
        return " ".join(text.split())

    return AnswerMetric(normalize, common_words)


# --- CMRC 2018 ---

# The official list has the ellipsis as two characters in one entry, which no single character equals: it is kept.
_CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_TOKEN = re.compile(rf"[{_CHINESE}]|[^\W{_CHINESE}]+(?:[.,'][^\W{_CHINESE}]+)*|[^\w\s]")


def normalize_cmrc(text: str) -> str:
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def common_substring(prediction: str, gold: str) -> Tuple[int, int, int]:
    """Tokens of the longest common substring, and of each text."""
    predicted, expected = _CMRC_TOKEN.findall(prediction), _CMRC_TOKEN.findall(gold)
    longest, before = 0, [0] * (len(expected) + 1)  # [j]: length of the common substring that ends before expected[j]
    for token in predicted:
        here = [0] * (len(expected) + 1)
        for j, other in enumerate(expected):
            if token == other:
                here[j + 1] = before[j] + 1
        longest, before = max(longest, max(here)), here
    return longest, len(predicted), len(expected)


CMRC = AnswerMetric(normalize_cmrc, common_substring)


def named(name: str, language: Optional[str] = None) -> AnswerMetric:
    """The metric of --metric and --language."""
    return mlqa(language) if name == "mlqa" else {"squad": SQUAD, "cmrc": CMRC}[name]


# --- Scores ---


def score_each(examples: Sequence[Example], predictions: Dict[str, str], version_2: bool,
               metric: AnswerMetric = SQUAD) -> Tuple[Dict[str, int], Dict[str, float]]:
    """Exact match and F1 of each question by id, 0 to 1, the best over its gold answers."""
    exact, f1 = {}, {}
    for example in examples:
        golds = [metric.normalize(text) for text, _ in example.answers]
        if version_2:
            golds = [gold for gold in golds if gold] or [""]
        predicted = metric.normalize(predictions.get(example.id, ""))
        found = example.id in predictions
        exact[example.id] = max(int(found and predicted == gold) for gold in golds)
        f1[example.id] = max(metric.f1(predicted, gold, version_2) for gold in golds)
    return exact, f1


def evaluate(examples: Sequence[Example], predictions: Dict[str, str], version_2: bool,
             na_probs: Optional[Dict[str, float]] = None, na_prob_thresh: float = 1.0,
             metric: AnswerMetric = SQUAD) -> Dict[str, float]:
    """The official scores under the official keys, in percent.

    In 1.1 a question without a prediction scores 0.

    Args:
        predictions: text by id. With `na_probs`, predictions without a threshold: it is applied here.
        na_probs: 2.0: by id, higher means more likely unanswerable, on any scale; adds `best_*`, the scores at the
            best threshold.
        na_prob_thresh: above it the prediction counts as "". The official 1.0 is for probabilities.
    Raises: UserError: 2.0, a question without a prediction.
    """
    missing = [example.id for example in examples if example.id not in predictions]
    if missing and version_2:
        raise UserError(f"question {missing[0]!r} has no prediction: predict every question of the evaluation file.")
    if missing:
        logging.warning("%d of %d questions have no prediction and score 0.", len(missing), len(examples))
    raw_exact, raw_f1 = score_each(examples, predictions, version_2, metric)

    def percent(scores: Dict[str, float], ids: Sequence[str]) -> float:
        total = 0.0
        for id_ in ids:  # Python 3.12's sum() compensates for rounding, which changes the last digit
            total += scores[id_]
        return 100.0 * total / len(ids)

    if not version_2:
        return {"exact_match": percent(raw_exact, list(raw_exact)), "f1": percent(raw_f1, list(raw_f1))}
    answerable = {example.id: bool(example.answers) for example in examples}
    exact, f1 = ({id_: float(not answerable[id_]) if na_probs and na_probs[id_] > na_prob_thresh else score
                  for id_, score in raw.items()} for raw in (raw_exact, raw_f1))
    results = {}
    for prefix, ids in (("", list(answerable)), ("HasAns_", [id_ for id_ in answerable if answerable[id_]]),
                        ("NoAns_", [id_ for id_ in answerable if not answerable[id_]])):
        if ids:
            results.update({f"{prefix}exact": percent(exact, ids), f"{prefix}f1": percent(f1, ids),
                            f"{prefix}total": len(ids)})
    for name, raw in (("exact", raw_exact), ("f1", raw_f1)) if na_probs else ():
        best, threshold = _best_threshold(raw, predictions, answerable, na_probs)
        results.update({f"best_{name}": best, f"best_{name}_thresh": threshold})
    return results


def _best_threshold(scores: Dict[str, float], predictions: Dict[str, str], answerable: Dict[str, bool],
                    na_probs: Dict[str, float]) -> Tuple[float, float]:
    """The best score in percent over all thresholds on `na_probs`, and the lowest threshold that reaches it.

    Starts with every prediction "" and adds predictions by ascending `na_probs`, one question at a time even if
    `na_probs` are equal, as in the official script.
    """
    current = best = sum(not has_answer for has_answer in answerable.values())
    threshold = 0.0
    for id_ in sorted(na_probs, key=na_probs.__getitem__):
        if id_ in scores:
            current += scores[id_] if answerable[id_] else -bool(predictions[id_])
            if current > best:
                best, threshold = current, na_probs[id_]
    return 100.0 * best / len(scores), threshold
