"""Extractive question answering: answers questions about a text with a fine-tuned model.

    python run_inference.py --init_checkpoint=results/squad --question="Who built it?" --context_file=article.txt
    python run_inference.py --init_checkpoint=results/squad --context="..."        reads questions from standard input

Prints the n best answers, each with its probability and the sentence that contains it, the answer marked by >> and <<.
A context longer than the model's window is split into overlapping windows (sliding window, --doc_stride). Questions are
truncated to 64 tokens, or to a quarter of the window if it is shorter than 256 tokens.

A model fine-tuned on SQuAD 2.0 also predicts whether the question is answerable, by comparing the null odds with a
threshold, and `(no answer)` is listed with its probability (`with_no_answer`). A question-answering model from another
project does not record its SQuAD version: set --version_2_with_negative for SQuAD 2.0.
"""
from __future__ import annotations

import math
import os
import re
import sys
from typing import List, Optional, Tuple

import command_line
import preflight
from configuration import InferenceConfig, UserError, window_lengths

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(InferenceConfig, __doc__, check=preflight.check_inference)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import numpy as np
import tensorflow as tf

import devices
import squad_utils
import weights

WINDOWS = 32  # windows per batch


class Reader:
    """A fine-tuned model that answers questions."""

    def __init__(self, config: InferenceConfig):
        self.config = config
        device = devices.open_device(config.device, config.precision, "false")
        if device.note:
            print(f"note: {device.note}", file=sys.stderr, flush=True)
        source = weights.read(config.init_checkpoint, config.vocab_file)
        self.tokenizer = weights.open_tokenizer(source, config.vocab_file)
        self.model = weights.question_answering(source, self.tokenizer, compute_dtype=device.compute_dtype)
        if config.version_2_with_negative and not self.model.version_2 and (source.head or self.model.joint_head):
            raise UserError(f"{source.name} was fine-tuned on SQuAD 1.1: remove --version_2_with_negative.")
        self.version_2 = self.model.version_2 or config.version_2_with_negative
        self.length, self.query_length, self.stride = window(config, self.model.config.max_position_embeddings)
        if self.model.joint_head and self.model.beam_size > self.length:
            raise UserError(f"--max_seq_length={self.length} is smaller than the model's beam_size of "
                            f"{self.model.beam_size}: choose a larger one.")
        self._answers = tf.function(self.model.answers, autograph=False)

    def answer(self, question: str, context: str) -> Tuple[List[squad_utils.Answer], Optional[float]]:
        """Answers a question.

        Returns: the n best answers, for SQuAD 2.0 including "no answer" (an empty text), and the null odds, or None if
            the model has none.
        """
        config = self.config
        examples = [squad_utils.Example("0", question, context, (), False)]
        features = squad_utils.build_features(examples, self.tokenizer, self.length, self.stride, self.query_length)
        pieces = []
        for first in range(0, len(features.lengths), WINDOWS):
            found = self._answers({name: tf.constant(getattr(features, name)[first:first + WINDOWS])
                                   for name in squad_utils.NETWORK_INPUTS})
            pieces.append({name: value.numpy() for name, value in found.items()})
        outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        nbest, odds = squad_utils.search_answers(self.model.joint_head, examples, features, outputs,
                                                 config.n_best_size, config.max_answer_length)
        if self.version_2:
            return with_no_answer(nbest["0"], odds["0"], self.model.joint_head), odds["0"]
        return nbest["0"], odds.get("0")

    def report(self, question: str, context: str) -> str:
        """The answers to a question as text for the console."""
        answers, odds = self.answer(question, context)
        lines = []
        if self.version_2:
            verdict = "unanswerable" if odds > self.config.null_score_diff_threshold else "answerable"
            lines.append(f"{verdict} (null odds {odds:.2f}, threshold {self.config.null_score_diff_threshold:g})")
        for answer in answers:
            lines.append(f"{answer.probability:6.1%}  {answer.text or '(no answer)'}")
            if answer.text:
                lines.append(f"        {in_sentence(context, answer.start, answer.end)}")
        return "\n".join(lines)


def window(config: InferenceConfig, positions: int) -> Tuple[int, int, int]:
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


def with_no_answer(answers: List[squad_utils.Answer], null_odds: float, joint_head: bool) -> List[squad_utils.Answer]:
    """Adds "no answer" (an empty text) to the answers, sorted by probability.

    With the joint head its probability is the sigmoid of the answerability logit. With the independent head it is the
    softmax over the scores of `answers` and the score of [CLS] as both start and end. The probabilities of `answers`
    are scaled to the remainder. With several windows the smallest logit or [CLS] score counts, as in `null_odds`. The
    threshold is tuned on scores, not on probabilities, so the predicted answerability may differ from the first answer.
    """
    if not any(answer.text for answer in answers):
        return answers  # the context has no tokens
    log_odds = null_odds  # of no answer against all answers together
    if not joint_head:  # here null_odds compare no answer with the best answer
        log_odds += math.log(answers[0].probability)
    with_answer = math.exp(-np.logaddexp(0.0, log_odds))
    none = squad_utils.Answer("", 0, 0, null_odds if joint_head else null_odds + answers[0].score,
                              math.exp(-np.logaddexp(0.0, -log_odds)))
    scaled = [answer._replace(probability=answer.probability * with_answer) for answer in answers]
    return sorted([*scaled, none], key=lambda answer: -answer.probability)


def in_sentence(context: str, start: int, end: int) -> str:
    """The sentence that contains characters [start, end), on one line, with the span marked by >> and <<."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)|\n", context)]
    first = max((position for position in ends if position <= start), default=0)
    last = min((position for position in ends if position >= end), default=len(context))
    marked = f"{context[first:start]}>>{context[start:end]}<<{context[end:last]}"
    return " ".join(marked.split())


def main(argv):
    config = command_line.parse(InferenceConfig, argv, __doc__)
    context = config.read_context()
    reader = Reader(config)
    if config.question:
        print(reader.report(config.question, context))
        return
    prompt = "question: " if sys.stdin.isatty() else ""
    while True:
        try:
            question = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError as error:
            raise UserError(f"a question on standard input is not UTF-8 ({error.reason}): convert it.") from error
        if question:
            print(reader.report(question, context), flush=True)


if __name__ == "__main__":
    command_line.run_command(main)
