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

import dataclasses
import math
import os
import re
import sys
from typing import List, Optional, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import numpy as np
import tensorflow as tf

import command_line
import configuration
import devices
import squad_utils
import weights
from configuration import UserError, option

WINDOWS = 32  # windows per batch


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    init_checkpoint: Optional[str] = option(
        None, "fine-tuned model: the output folder of run_tf_squad.py, one of its checkpoints, an exported folder, or "
        "the name of an ELECTRA question-answering model on the Hugging Face Hub")
    question: Optional[str] = option(None, "question (default: read questions from standard input, one per line)")
    context: Optional[str] = option(None, "text that contains the answer")
    context_file: Optional[str] = option(None, "UTF-8 file with the text")
    vocab_file: Optional[str] = option(None, "vocabulary file (default: the vocab.txt of the model)")
    n_best_size: int = option(3, "number of answers to print", minimum=1)
    max_answer_length: int = option(30, "maximum length of an answer, in tokens", minimum=1)
    version_2_with_negative: bool = option(
        False, "the model was fine-tuned on unanswerable questions too (SQuAD 2.0); only needed for models from other "
        "projects")
    null_score_diff_threshold: float = option(
        0.0, "SQuAD 2.0: null odds above which a question is predicted to be unanswerable; for the best threshold on "
        "the dev set see best_f1_thresh in the results.json of the fine-tuning run")
    max_seq_length: Optional[int] = option(
        None, "length of a window including the question, in tokens (default: 384, or the model's "
        "max_position_embeddings if that is smaller)", minimum=8)
    doc_stride: Optional[int] = option(
        None, "stride between overlapping windows, in tokens (default: 128, or just under half of a window shorter "
        "than 258 tokens)", minimum=1)
    device: str = option("cpu", "device to run on", choices=("cpu", "gpu", "hpu"))
    precision: str = option("fp32", "numerical precision: fp32, bf16 (hmp is its old name), or tf32 (gpu only)",
                            choices=("fp32", "bf16", "hmp", "tf32"))

    def __post_init__(self):
        configuration.check_options(self)
        if not self.init_checkpoint:
            raise UserError("--init_checkpoint is required: set it to a model fine-tuned with run_tf_squad.py.")
        if bool(self.context) == bool(self.context_file):
            raise UserError("exactly one of --context and --context_file is required: pass the text or a file with it.")

    def read_context(self) -> str:
        if self.context:
            return self.context
        try:
            with open(self.context_file, encoding="utf-8") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"--context_file={self.context_file} cannot be read ({error.strerror}): correct the "
                            "path.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--context_file={self.context_file} is not UTF-8 (byte {error.start}): convert "
                            "it.") from error


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
    stride, query_length = configuration.window_lengths(length, config.doc_stride)
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
    if not context.strip():
        raise UserError("the context is empty: pass a text with --context or --context_file.")
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
