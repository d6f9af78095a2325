"""Answers questions about a text with a fine-tuned model.

    python run_inference.py --init_checkpoint=results/squad --question="Who built it?" --context_file=article.txt
    python run_inference.py --init_checkpoint=results/squad --context="..."        asks for questions, one a line

Prints the best answers with their probabilities and the sentence that each stands in, the answer between >> and <<.
Long contexts are read in overlapping windows. Of a question the first 64 tokens are read, in windows below 256 tokens
as many as a quarter of one.

A model trained on SQuAD 2.0 also says whether it finds an answer at all, by comparing the null odds with a threshold,
and `(no answer)` stands among the answers by its probability (`with_no_answer`). A question-answering model that is not
of this project does not say what it was trained on: --version_2_with_negative does.
"""
from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
from typing import List, Optional, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow loads; hides its start-up messages

import numpy as np
import tensorflow as tf

import configuration
import devices
import squad_utils
import weights
from configuration import UserError, option

WINDOWS = 32  # that go through the network at once


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    init_checkpoint: Optional[str] = option(
        None, "fine-tuned model: the output folder of run_tf_squad.py, one of its checkpoints, an exported folder, or "
        "a question-answering ELECTRA of the Hugging Face hub")
    question: Optional[str] = option(None, "the question; without one, questions are read from standard input")
    context: Optional[str] = option(None, "the text that has the answer")
    context_file: Optional[str] = option(None, "a UTF-8 file that holds the text")
    vocab_file: Optional[str] = option(None, "vocabulary (default: the one beside the weights)")
    n_best_size: int = option(3, "answers printed", minimum=1)
    max_answer_length: int = option(30, "longest answer, tokens", minimum=1)
    version_2_with_negative: bool = option(
        False, "the model knows unanswerable questions (SQuAD 2.0); models of this project say so themselves")
    null_score_diff_threshold: float = option(
        0.0, "null odds above which the model is said to find no answer (2.0); results.json of the fine-tuning has "
        "the best one as best_f1_thresh")
    max_seq_length: Optional[int] = option(
        None, "question and window together, tokens (default: 384, or as many as the model has positions)", minimum=8)
    doc_stride: Optional[int] = option(
        None, "tokens from one window to the next (default: 128, or nearly half of a window below 258)", minimum=1)
    device: str = option("cpu", "device", choices=("cpu", "gpu", "hpu"))
    precision: str = option("fp32", "arithmetic: fp32, bf16 (hmp is the same), or tf32 on gpu",
                            choices=("fp32", "bf16", "hmp", "tf32"))

    def __post_init__(self):
        configuration.check_options(self)
        if not self.init_checkpoint:
            raise UserError("--init_checkpoint is missing: name a fine-tuned model (run_tf_squad.py makes one).")
        if bool(self.context) == bool(self.context_file):
            raise UserError("one of --context and --context_file is needed: give the text, or the file that holds it.")

    def read_context(self) -> str:
        if self.context:
            return self.context
        try:
            with open(self.context_file, encoding="utf-8") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"--context_file={self.context_file} cannot be read ({error.strerror}): mend the "
                            "path.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--context_file={self.context_file} is not UTF-8 (byte {error.start}): convert "
                            "it.") from error


class Reader:
    """A fine-tuned model, ready to answer."""

    def __init__(self, config: InferenceConfig):
        self.config = config
        device = devices.open_device(config.device, config.precision, "false")
        if device.note:
            print(f"note: {device.note}", file=sys.stderr, flush=True)
        source = weights.read(config.init_checkpoint)
        self.tokenizer = weights.open_tokenizer(source, config.vocab_file)
        self.model = weights.question_answering(source, self.tokenizer, compute_dtype=device.compute_dtype)
        if config.version_2_with_negative and not self.model.version_2 and (source.head or self.model.joint_head):
            raise UserError(f"{source.name} was trained for SQuAD 1.1: leave out --version_2_with_negative.")
        self.version_2 = self.model.version_2 or config.version_2_with_negative
        self.length, self.query_length, self.stride = window(config, self.model.config.max_position_embeddings)
        if self.model.joint_head and self.model.beam_size > self.length:
            raise UserError(f"--max_seq_length={self.length} is shorter than the model's beam of "
                            f"{self.model.beam_size}: choose a longer one.")
        self._answers = tf.function(self.model.answers, autograph=False)

    def answer(self, question: str, context: str) -> Tuple[List[squad_utils.Answer], Optional[float]]:
        """The n best answers of a question, in 2.0 with none among them, and its null odds, None where there are none.
        """
        config = self.config
        examples = [squad_utils.Example("0", question, context, (), False)]
        features = squad_utils.build_features(examples, self.tokenizer, self.length, self.stride, self.query_length)
        pieces = []
        for first in range(0, len(features.lengths), WINDOWS):
            found = self._answers({name: tf.constant(getattr(features, name)[first:first + WINDOWS])
                                   for name in ("input_ids", "input_mask", "segment_ids", "p_mask")})
            pieces.append({name: value.numpy() for name, value in found.items()})
        outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        search = squad_utils.joint_answers if self.model.joint_head else squad_utils.independent_answers
        nbest, odds = search(examples, features, outputs, config.n_best_size, config.max_answer_length)
        if self.version_2:
            return with_no_answer(nbest["0"], odds["0"], self.model.joint_head), odds["0"]
        return nbest["0"], odds.get("0")

    def report(self, question: str, context: str) -> str:
        answers, odds = self.answer(question, context)
        lines = []
        if self.version_2:
            verdict = "no answer in this text" if odds > self.config.null_score_diff_threshold else "answerable"
            lines.append(f"{verdict} (null odds {odds:.2f}, threshold {self.config.null_score_diff_threshold:g})")
        for answer in answers:
            lines.append(f"{answer.probability:6.1%}  {answer.text or '(no answer)'}")
            if answer.text:
                lines.append(f"        {in_sentence(context, answer.start, answer.end)}")
        return "\n".join(lines)


def window(config: InferenceConfig, positions: int) -> Tuple[int, int, int]:
    """Tokens of a window with its question, of the question at most, and from one window to the next.

    Raises: UserError: what was named does not fit the model, or the window.
    """
    length = config.max_seq_length or min(384, positions)
    if length > positions:
        raise UserError(f"--max_seq_length={length} exceeds the {positions} positions of the model: choose a shorter "
                        "one.")
    query_length = min(64, length // 4)
    stride = config.doc_stride or min(128, length // 2 - 1)
    room = length - query_length - 3  # [CLS] and two [SEP]
    if stride > room:
        raise UserError(f"--doc_stride={stride} skips tokens: a window of {length} tokens holds {room} beside a long "
                        "question, give at most that.")
    return length, query_length, stride


def with_no_answer(answers: List[squad_utils.Answer], null_odds: float, joint_head: bool) -> List[squad_utils.Answer]:
    """Answers by probability, with an empty one for "no answer" in its place.

    Its probability is, with the joint head, the sigmoid of the answerability logit; with the independent head, that of
    the softmax over the scores of `answers` and the score of [CLS] as start and end. The answers share the rest as they
    shared the whole. Of several windows the least logit or [CLS] score counts, as in `null_odds`. The threshold is not
    of this scale: it is tuned on scores, and a verdict may differ from what stands first.
    """
    if not any(answer.text for answer in answers):
        return answers  # the context has no token: nothing else can be said
    log_odds = null_odds  # of no answer against all answers
    if not joint_head:  # there null_odds are against the best one
        log_odds += math.log(answers[0].probability)
    with_answer = math.exp(-np.logaddexp(0.0, log_odds))
    none = squad_utils.Answer("", 0, 0, null_odds if joint_head else null_odds + answers[0].score,
                              math.exp(-np.logaddexp(0.0, -log_odds)))
    shared = [answer._replace(probability=answer.probability * with_answer) for answer in answers]
    return sorted([*shared, none], key=lambda answer: -answer.probability)


def in_sentence(context: str, start: int, end: int) -> str:
    """The sentence around characters [start, end), on one line, with the span between >> and <<."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)|\n", context)]
    first = max((position for position in ends if position <= start), default=0)
    last = min((position for position in ends if position >= end), default=len(context))
    marked = f"{context[first:start]}>>{context[start:end]}<<{context[end:last]}"
    return " ".join(marked.split())


def main(argv):
    config = configuration.parse(InferenceConfig, argv, __doc__)
    context = config.read_context()
    if not context.strip():
        raise UserError("the context is empty: give a text that can hold an answer.")
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
    configuration.run_command(main)
