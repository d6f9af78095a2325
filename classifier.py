"""Classifies texts, or pairs of texts, with a fine-tuned model; a model for regression gives them a number.

    from classifier import Classifier
    classifier = Classifier.from_pretrained("results/sst2")
    found = classifier.classify("A fine film.")          # for two texts: classify(text, pair)
    found.label, found.labels, found.value, found.probabilities

Lists of texts give lists of predictions, computed in batches of similar length. A text that is longer than the model's
input is truncated, of a pair the longer text.
"""
from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

import predictor
import task_data
import weights
from configuration import RunFailed, UserError
from predictor import TOGETHER, Predictor


class Prediction(NamedTuple):
    """What is predicted for a text."""

    label: Optional[str]  # the most likely class; None where any number of labels may be true, and in regression
    labels: Tuple[str, ...]  # the labels that are more likely true than not; (label,) of a class
    value: Optional[float]  # regression
    probabilities: Dict[str, float]  # by label, the most likely first; empty in regression


class Classifier(Predictor):
    """A fine-tuned model that classifies texts: this project's or an ElectraForSequenceClassification."""

    kind = "sequence_classification"

    def _load(self, source, compute_dtype, log):
        if weights.fine_tuned_for(source) == "token_classification":
            raise UserError(f"{source.name} is a tagger: use tagger.Tagger, or name a classifier.")
        self.model, self.labels = weights.task_model(source, self.tokenizer, compute_dtype, log)
        self.length = self._length()
        self._compile(lambda features: {"logits": self.model.logits(features)}, task_data.INPUTS, self.length)

    def classify(self, text: Union[str, Sequence[str]], pair: Union[None, str, Sequence[str]] = None
                 ) -> Union[Prediction, List[Prediction]]:
        """Classifies a text or a list of texts; with `pair`, a second text or as many, pairs of texts.

        Returns: the prediction for a text; for a list, a list of these.
        Raises: UserError: an empty text, or lists of different lengths.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pairs = [None] * len(texts) if pair is None else [pair] * len(texts) if isinstance(pair, str) else list(pair)
        if len(texts) != len(pairs):
            raise UserError(f"{len(texts)} texts and {len(pairs)} second texts: pass as many.")
        found = list(self.results(texts, pairs))
        return found[0] if isinstance(text, str) else found

    def results(self, texts: Sequence[str], pairs: Sequence[Optional[str]]) -> Iterator[Prediction]:
        """The prediction for each text, or pair with the second text in the same place, TOGETHER texts at a time.

        Raises: UserError: an empty text.
        """
        predictor.check_texts({"text": texts, "second text": [pair for pair in pairs if pair is not None]})
        return self._results(texts, pairs)

    def _results(self, texts, pairs) -> Iterator[Prediction]:
        for first in range(0, len(texts), TOGETHER):
            part = slice(first, first + TOGETHER)
            examples = [task_data.Example(number, text, pair, None, "") for number, (text, pair) in
                        enumerate(zip(texts[part], pairs[part]))]
            features = task_data.build_features(examples, self.tokenizer, self.length, np.zeros(0))
            logits = np.zeros([len(examples), len(self.labels.names)])
            for batch, outputs in self._outputs(features, task_data.feed):
                logits[batch.rows] = outputs["logits"]
            if not np.isfinite(logits).all():
                raise RunFailed("the model's logits are NaN or infinite: its weights are damaged, use another "
                                "checkpoint.")
            yield from (prediction(self.labels, row / self.temperature) for row in logits)


def prediction(labels: weights.Labels, logits: np.ndarray) -> Prediction:
    """The prediction that logits [labels] say."""
    if labels.problem == "regression":
        return Prediction(None, (), float(logits[0]), {})
    of_label = probabilities(labels.problem, logits)
    order = np.argsort(-of_label, kind="stable")
    by_label = {labels.names[place]: float(of_label[place]) for place in order}
    if labels.problem == "single_label":
        label = labels.names[order[0]]
        return Prediction(label, (label,), None, by_label)
    true = tuple(name for name, logit in zip(labels.names, logits) if logit > 0)
    return Prediction(None, true, None, by_label)


def probabilities(problem: str, logits: np.ndarray) -> np.ndarray:
    """Of each class, or of each label being true, from logits [..., labels]."""
    if problem == "multi_label":
        return np.exp(-np.logaddexp(0.0, -logits))
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
