"""Finds names, chunks or other spans in texts, or tags their words, with a fine-tuned model.

    from tagger import Tagger
    spans = Tagger.from_pretrained("results/ner").tag("Ada Lovelace lived in London.")
    spans[0].text, spans[0].label, spans[0].start, spans[0].end, spans[0].probability

Lists of texts give lists of spans, computed in batches of similar length. A text longer than the model's window is
split into overlapping windows, and each word is tagged in the one where it has most context (tagging.py). A model with
plain tags, such as parts of speech, gives a span for every word whose tag is not O.
"""
from __future__ import annotations

from typing import Iterator, List, Sequence, Union

import predictor
import tagging
import weights
from configuration import UserError
from predictor import TOGETHER, Predictor
from tagging import Sentence, Span, Tagged


class Tagger(Predictor):
    """A fine-tuned model that tags words: this project's or an ElectraForTokenClassification."""

    kind = "token_classification"

    def _load(self, source, compute_dtype, log):
        if weights.fine_tuned_for(source) == "sequence_classification":
            raise UserError(f"{source.name} is a classifier: use classifier.Classifier, or name a tagger.")
        self.model, self.labels = weights.task_model(source, self.tokenizer, compute_dtype, log)
        self.plain = not tagging.is_spans(self.labels.names)
        self.length = self._length()
        self.stride = self.config.doc_stride or tagging.default_stride(self.length)
        if self.stride > self.length - 2:
            raise UserError(f"--doc_stride={self.stride} would skip tokens: a window of {self.length} tokens holds "
                            f"{self.length - 2} of text; choose at most that.")
        self._compile(lambda features: {"logits": self.model.logits(features)}, tagging.NETWORK_INPUTS, self.length)

    def tag(self, text: Union[str, Sequence[str]]) -> Union[List[Span], List[List[Span]]]:
        """The spans in a text, in order, with their places in characters; for a list of texts, a list of these.

        Raises: UserError: an empty text.
        """
        texts = [text] if isinstance(text, str) else list(text)
        found = [spans for _, spans in self.results(texts)]
        return found[0] if isinstance(text, str) else found

    def results(self, texts: Sequence[str]) -> Iterator[tuple]:
        """The sentence of each text, split into words, and its spans. Raises: UserError: an empty text."""
        predictor.check_texts({"text": texts})
        sentences = [Sentence(str(number), text, tagging.split_words(text), None, "")
                     for number, text in enumerate(texts, 1)]
        return ((sentence, self.spans(sentence, tagged)) for sentence, tagged in zip(sentences, self.tagged(sentences)))

    def tagged(self, sentences: Sequence[Sentence]) -> Iterator[Tagged]:
        """The tags of the words of sentences, TOGETHER sentences at a time."""
        for first in range(0, len(sentences), TOGETHER):
            part = sentences[first:first + TOGETHER]
            features = tagging.build_features(part, self.tokenizer, self.length, self.stride)
            parts = ((batch, outputs["logits"] / self.temperature)
                     for batch, outputs in self._outputs(features, tagging.feed))
            yield from tagging.decode(features, parts, self.labels.names)

    def spans(self, sentence: Sentence, tagged: Tagged) -> List[Span]:
        return tagging.spans_in(sentence, tagged.tags, self.plain, tagged.probabilities)
