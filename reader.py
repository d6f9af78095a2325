"""Answers questions about texts with a fine-tuned model.

    from reader import Reader
    reader = Reader.from_pretrained("results/squad")
    answers = reader.answer("Who built it?", "The bridge was built by Brunel.")   # the best first
    answers[0].text, answers[0].start, answers[0].end, answers[0].score, answers[0].probability

Lists of questions and texts give lists of answers, computed in batches of similar length.

A text longer than the model's window is split into overlapping windows (sliding window, doc_stride). Questions are
truncated to 64 tokens, or to a quarter of the window if it is shorter than 256 tokens. A model fine-tuned on SQuAD 2.0
also lists "no answer", an answer whose text is empty.
"""
from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import batching
import predictor
import squad_utils
import weights
from configuration import UserError
from predictor import TOGETHER, Predictor
from squad_options import ReaderConfig, window_lengths
from squad_utils import Answer


class Result(NamedTuple):
    """The answer to a question."""

    answers: List[Answer]  # n best, the most probable first; in SQuAD 2.0 with "no answer", which has an empty text
    null_odds: Optional[float]  # higher: no answer is more likely; None if the model does not predict it
    answerable: Optional[bool]  # as predicted by the threshold of the null odds; None in SQuAD 1.1

    @property
    def prediction(self) -> str:
        """The best text, or "" if the question is predicted to be unanswerable."""
        return "" if self.answerable is False else next((answer.text for answer in self.answers if answer.text), "")


class Reader(Predictor):
    """A fine-tuned model that answers questions."""

    Config, kind = ReaderConfig, "question_answering"

    def _load(self, source, compute_dtype, log):
        self.model = weights.question_answering(source, self.tokenizer, compute_dtype=compute_dtype, log=log)
        if self.config.version_2_with_negative and not self.model.version_2 and (source.head or self.model.joint_head):
            raise UserError(f"{source.name} was fine-tuned on SQuAD 1.1: remove --version_2_with_negative.")
        self.version_2 = self.model.version_2 or self.config.version_2_with_negative
        self.length, self.query_length, self.stride = window(self.config, self.model.config.max_position_embeddings)
        if self.model.joint_head and self.model.beam_size > self.length:
            raise UserError(f"--max_seq_length={self.length} is smaller than the model's beam_size of "
                            f"{self.model.beam_size}: choose a larger one.")
        # The shortest batch has room for the beam, of which top-k takes so many positions.
        beam = self.model.beam_size if self.model.joint_head else 1
        self._compile(self.model.answers, squad_utils.NETWORK_INPUTS, self.length, beam)

    def answer(self, question: Union[str, Sequence[str]], context: Union[str, Sequence[str]]
               ) -> Union[List[Answer], List[List[Answer]]]:
        """Answers a question about a text, or a list of questions about a list of texts, or about one.

        Returns: the answers to a question, the most probable first; for a list of questions, a list of these.
        Raises: UserError: an empty question, an empty text, or lists of different lengths.
        """
        if isinstance(question, str) and isinstance(context, str):
            return next(self.results([question], [context])).answers
        questions = [question] * len(context) if isinstance(question, str) else list(question)
        contexts = [context] * len(questions) if isinstance(context, str) else list(context)
        if len(questions) != len(contexts):
            raise UserError(f"{len(questions)} questions and {len(contexts)} texts: pass as many, or one text.")
        return [result.answers for result in self.results(questions, contexts)]

    def results(self, questions: Sequence[str], contexts: Sequence[str]) -> Iterator[Result]:
        """The result of each question about the text in the same place, TOGETHER questions at a time.

        Raises: UserError: an empty question or text.
        """
        predictor.check_texts({"question": questions, "text": contexts})
        return self._results(questions, contexts)

    def _results(self, questions, contexts) -> Iterator[Result]:
        for first in range(0, len(questions), TOGETHER):
            part = slice(first, first + TOGETHER)
            examples = [squad_utils.Example(str(number), question, context, (), False)
                        for number, (question, context) in enumerate(zip(questions[part], contexts[part]))]
            features = squad_utils.build_features(examples, self.tokenizer, self.length, self.stride, self.query_length)
            parts = self._outputs(features, squad_utils.feed)
            outputs = batching.join_outputs(parts, len(features.lengths),
                                            None if self.model.joint_head else self.length)
            found = squad_utils.search_answers(
                self.model.joint_head, examples, features, outputs, self.config.n_best_size,
                self.config.max_answer_length, self.version_2, self.temperature)
            for example in examples:
                yield self._result(found, example.id)

    def _result(self, found: squad_utils.Found, id_: str) -> Result:
        answers, odds = found.nbest[id_], found.null_odds.get(id_)
        if not self.version_2:
            return Result(answers, odds, None)
        if not answers[0].text:  # the text has no tokens
            return Result(answers, odds, False)
        score = odds if self.model.joint_head else odds + answers[0].score
        none = Answer("", 0, 0, float(score), float(found.no_answer[id_]))
        answers = sorted([*answers, none], key=lambda answer: -answer.probability)
        return Result(answers, odds, odds <= self.config.null_score_diff_threshold)


def window(config: ReaderConfig, positions: int) -> Tuple[int, int, int]:
    """Returns max_seq_length, the maximum length of the question, and doc_stride, in tokens.

    Raises: UserError: an option does not fit the model or the window.
    """
    length = predictor.input_length(config, positions)
    stride, query_length = window_lengths(length, config.doc_stride)
    room = length - query_length - 3  # [CLS] and two [SEP]
    if stride > room:
        raise UserError(f"--doc_stride={stride} would skip tokens: a window of {length} tokens holds {room} tokens of "
                        f"context if the question is long; choose at most {room}.")
    return length, query_length, stride
