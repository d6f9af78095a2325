"""Answers questions about texts with a fine-tuned model.

    from reader import Reader
    reader = Reader.from_pretrained("results/squad")
    answers = reader.answer("Who built it?", "The bridge was built by Brunel.")   # the best first
    answers[0].text, answers[0].start, answers[0].end, answers[0].score, answers[0].probability

Lists of questions and texts give lists of answers, computed in batches of similar length.

A text longer than the model's window is split into overlapping windows (sliding window, doc_stride). Questions are
truncated to 64 tokens, or to a quarter of the window if it is shorter than 256 tokens. A model fine-tuned on SQuAD 2.0
also lists "no answer", an answer whose text is empty.

Windows are padded to one of a few lengths. On cpu and gpu the graph is traced once for all shapes. On hpu, which needs
fixed shapes, batches are padded to a power of two, and it is traced once for each of these few.
"""
from __future__ import annotations

import glob
import os
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import tensorflow as tf
from absl import logging

import devices
import squad_utils
import weights
from configuration import UserError
from squad_options import ReaderConfig, window_lengths
from squad_utils import Answer

BUCKETS = (32, 64, 96, 128, 192, 256, 320)  # tokens that windows are padded to, besides the longest window
BATCH_SIZE = 32  # windows, at most
TOGETHER = 256  # questions that are tokenized and sorted by length together


class Result(NamedTuple):
    """The answer to a question."""

    answers: List[Answer]  # n best, the most probable first; in SQuAD 2.0 with "no answer", which has an empty text
    null_odds: Optional[float]  # higher: no answer is more likely; None if the model does not predict it
    answerable: Optional[bool]  # as predicted by the threshold of the null odds; None in SQuAD 1.1

    @property
    def prediction(self) -> str:
        """The best text, or "" if the question is predicted to be unanswerable."""
        return "" if self.answerable is False else next((answer.text for answer in self.answers if answer.text), "")


class Reader:
    """A fine-tuned model that answers questions.

    Args:
        log: called with what is to be known about the device and the weights.
    Raises: UserError: no such model, or options that do not fit it.
    """

    def __init__(self, config: ReaderConfig, log: Callable[[str], None] = logging.info):
        self.config = config
        device = devices.open_device(config.device, config.precision, "false")
        if device.note:
            log(device.note)
        source = weights.read(config.init_checkpoint, config.vocab_file)
        self.tokenizer = weights.open_tokenizer(source, config.vocab_file)
        self.model = weights.question_answering(source, self.tokenizer, compute_dtype=device.compute_dtype, log=log)
        if config.version_2_with_negative and not self.model.version_2 and (source.head or self.model.joint_head):
            raise UserError(f"{source.name} was fine-tuned on SQuAD 1.1: remove --version_2_with_negative.")
        self.version_2 = self.model.version_2 or config.version_2_with_negative
        self.temperature, self.weights_id = source.temperature, weights_id(source.path)
        self.length, self.query_length, self.stride = window(config, self.model.config.max_position_embeddings)
        if self.model.joint_head and self.model.beam_size > self.length:
            raise UserError(f"--max_seq_length={self.length} is smaller than the model's beam_size of "
                            f"{self.model.beam_size}: choose a larger one.")
        # The shortest batch has room for the beam, of which top-k takes so many positions.
        beam = self.model.beam_size if self.model.joint_head else 1
        self.buckets = sorted({*(length for length in BUCKETS if beam <= length < self.length), self.length})
        any_shape = {name: tf.TensorSpec([None, None], tf.int32) for name in squad_utils.NETWORK_INPUTS}
        self.signature = None if device.kind == "hpu" else [any_shape]
        self._answers = tf.function(self.model.answers, autograph=False, input_signature=self.signature)

    @classmethod
    def from_pretrained(cls, name: str, **options) -> Reader:
        """Loads a model: the output folder of run_tf_squad.py, one of its checkpoints, an exported folder, or a model
        of the Hugging Face Hub, `name` or `name@revision`.

        Args:
            options: fields of ReaderConfig, such as n_best_size, device or precision.
        Raises: UserError: no such model, or options that do not fit it.
        """
        return cls(ReaderConfig(init_checkpoint=name, **options))

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
        for name, texts in (("question", questions), ("text", contexts)):
            for number, text in enumerate(texts, 1):
                if not isinstance(text, str) or not text.strip():
                    raise UserError(f"{name} {number} of {len(texts)} is empty: pass one with words in it.")
        return self._results(questions, contexts)

    def _results(self, questions, contexts) -> Iterator[Result]:
        for first in range(0, len(questions), TOGETHER):
            part = slice(first, first + TOGETHER)
            examples = [squad_utils.Example(str(number), question, context, (), False)
                        for number, (question, context) in enumerate(zip(questions[part], contexts[part]))]
            features = squad_utils.build_features(examples, self.tokenizer, self.length, self.stride, self.query_length)
            found = squad_utils.search_answers(
                self.model.joint_head, examples, features, self._outputs(features), self.config.n_best_size,
                self.config.max_answer_length, self.version_2, self.temperature)
            for example in examples:
                yield self._result(found, example.id)

    def _outputs(self, features: squad_utils.Features) -> Dict[str, np.ndarray]:
        """`model.answers` for all windows, in their order."""
        parts = []
        bucket_of = np.searchsorted(self.buckets, features.lengths)
        for number, length in enumerate(self.buckets):
            rows = np.flatnonzero(bucket_of == number)
            for first in range(0, len(rows), BATCH_SIZE):
                batch = squad_utils.Batch(length, rows[first:first + BATCH_SIZE])
                # On hpu, where each shape is compiled, the next power of two.
                size = len(batch.rows) if self.signature else 1 << (len(batch.rows) - 1).bit_length()
                outputs = self._answers(squad_utils.feed(features, batch, size))
                parts.append((batch, {name: value.numpy() for name, value in outputs.items()}))
        return squad_utils.join_outputs(parts, len(features.lengths), None if self.model.joint_head else self.length)

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


def weights_id(path: str) -> List[str]:
    """Names the files of weights that were read, with their sizes and times."""
    names = glob.glob(glob.escape(path) + ("/*" if os.path.isdir(path) else ".*"))
    return [f"{os.path.abspath(name)} {os.path.getsize(name)} {os.stat(name).st_mtime_ns}" for name in sorted(names)
            if os.path.isfile(name)]


def window(config: ReaderConfig, positions: int) -> Tuple[int, int, int]:
    """Returns max_seq_length, the maximum length of the question, and doc_stride, in tokens.

    Raises: UserError: an option does not fit the model or the window.
    """
    length = config.max_seq_length or min(384, positions)
    if length > positions:
        raise UserError(f"--max_seq_length={length} exceeds the model's max_position_embeddings of {positions}: choose "
                        "a smaller one.")
    stride, query_length = window_lengths(length, config.doc_stride)
    room = length - query_length - 3  # [CLS] and two [SEP]
    if stride > room:
        raise UserError(f"--doc_stride={stride} would skip tokens: a window of {length} tokens holds {room} tokens of "
                        f"context if the question is long; choose at most {room}.")
    return length, query_length, stride
