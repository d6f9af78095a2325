"""Answers questions about a text with a fine-tuned model.

    python run_inference.py --init_checkpoint=results/squad --question="Who built it?" --context_file=article.txt
    python run_inference.py --init_checkpoint=results/squad --context="..."        asks for questions, one a line

Prints the best answers with their probabilities and the sentence that each stands in, the answer between >> and <<. A
model trained on SQuAD 2.0 also says where it finds no answer. Long contexts are read in overlapping windows.
"""
from __future__ import annotations

import dataclasses
import os
import re
import sys
from typing import Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow loads; its start-up notes would hide ours

import numpy as np
import tensorflow as tf
from absl import flags

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
    null_score_diff_threshold: float = option(
        -5.6, "null odds above which the model is said to find no answer (2.0); results.json of the fine-tuning has "
        "the best one as best_f1_thresh")
    max_seq_length: int = option(384, "question and window together, tokens", minimum=8)
    doc_stride: int = option(128, "tokens from one window to the next", minimum=1)
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
        source = weights.read(config.init_checkpoint)
        self.tokenizer = weights.open_tokenizer(source, config.vocab_file)
        self.model = weights.question_answering(source, self.tokenizer, compute_dtype=device.compute_dtype)
        self.length = min(config.max_seq_length, self.model.config.max_position_embeddings)
        if self.model.joint_head and self.model.beam_size > self.length:
            raise UserError(f"--max_seq_length={config.max_seq_length} is shorter than the model's beam of "
                            f"{self.model.beam_size}: choose a longer one.")
        self._answers = tf.function(self.model.answers, autograph=False)

    def answer(self, question: str, context: str):
        """The n best squad_utils.Answer of a question, and its null odds, None where the model has none."""
        config = self.config
        examples = [squad_utils.Example("0", question, context, (), False)]
        features = squad_utils.build_features(examples, self.tokenizer, self.length,
                                              min(config.doc_stride, self.length // 2 - 1), min(64, self.length // 4))
        pieces = []
        for first in range(0, len(features.lengths), WINDOWS):
            found = self._answers({name: tf.constant(getattr(features, name)[first:first + WINDOWS])
                                   for name in ("input_ids", "input_mask", "segment_ids", "p_mask")})
            pieces.append({name: value.numpy() for name, value in found.items()})
        outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        search = squad_utils.joint_answers if self.model.joint_head else squad_utils.independent_answers
        nbest, odds = search(examples, features, outputs, config.n_best_size, config.max_answer_length)
        return nbest["0"], odds.get("0")

    def report(self, question: str, context: str) -> str:
        answers, odds = self.answer(question, context)
        lines = []
        if self.model.version_2:
            verdict = "no answer in this text" if odds > self.config.null_score_diff_threshold else "answerable"
            lines.append(f"{verdict} (null odds {odds:.2f}, threshold {self.config.null_score_diff_threshold:g})")
        for answer in answers:
            lines.append(f"{answer.probability:6.1%}  {answer.text or '(no answer)'}")
            if answer.text:
                lines.append(f"        {in_sentence(context, answer.start, answer.end)}")
        return "\n".join(lines)


def in_sentence(context: str, start: int, end: int) -> str:
    """The sentence around characters [start, end), on one line, with the span between >> and <<."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)|\n", context)]
    first = max((position for position in ends if position <= start), default=0)
    last = min((position for position in ends if position >= end), default=len(context))
    marked = f"{context[first:start]}>>{context[start:end]}<<{context[end:last]}"
    return " ".join(marked.split())


def main(argv):
    flag_values = flags.FlagValues()
    configuration.define_flags(flag_values, InferenceConfig)
    configuration.parse_command_line(argv, flag_values, __doc__.split("\n\n    ")[0])
    config = configuration.from_flags(InferenceConfig, flag_values)
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
