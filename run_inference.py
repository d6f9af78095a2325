"""Extractive question answering: answers questions about a text with a fine-tuned model.

    python run_inference.py --init_checkpoint=results/squad --question="Who built it?" --context_file=article.txt
    python run_inference.py --init_checkpoint=results/squad --context="..."        reads questions from standard input
    python run_inference.py --init_checkpoint=results/squad --input_file=questions.jsonl --output_file=answers.jsonl
    python run_inference.py --init_checkpoint=results/squad --serve                a page at http://127.0.0.1:8000/

Prints the n best answers, each with its probability and the sentence that contains it, the answer marked by >> and <<.
With the joint head, which scores only the spans of its beam, the probability is among these.
A context longer than the model's window is split into overlapping windows (sliding window, --doc_stride). Questions are
truncated to 64 tokens, or to a quarter of the window if it is shorter than 256 tokens.

A model fine-tuned on SQuAD 2.0 also predicts whether the question is answerable, by comparing the null odds with a
threshold, and `(no answer)` is listed with its probability. The threshold is tuned on scores, not on probabilities, so
the prediction may differ from the first answer. A question-answering model from another project does not record its
SQuAD version: set --version_2_with_negative for SQuAD 2.0.

For --input_file, one line of JSON is written for each question; see docs/squad.md. reader.py is the same for programs.
"""
from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import sys
from typing import Optional

import command_line
import preflight
from configuration import Interrupted, UserError
from squad_options import InferenceConfig

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(InferenceConfig, __doc__, check=preflight.check_inference)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import dataclasses

from tqdm import tqdm

import configuration
import files
import squad_utils
import training
from reader import Reader, Result

TOGETHER = 64  # questions that are answered between two writes

# --- The console ---


def describe(result: Result, context: str, threshold: float) -> str:
    """The answers to a question as text for the console."""
    lines = []
    if not any(answer.text for answer in result.answers):
        return "100.0%  (no answer): the text has no words"
    if result.answerable is not None:
        verdict = "answerable" if result.answerable else "unanswerable"
        lines.append(f"{verdict} (null odds {result.null_odds:.2f}, threshold {threshold:g})")
    for answer in result.answers:
        lines.append(f"{answer.probability:6.1%}  {answer.text or '(no answer)'}")
        if answer.text:
            lines.append(f"        {in_sentence(context, answer.start, answer.end)}")
    return "\n".join(lines)


def in_sentence(context: str, start: int, end: int) -> str:
    """The sentence that contains characters [start, end), on one line, with the span marked by >> and <<."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)|\n", context)]
    first = max((position for position in ends if position <= start), default=0)
    last = min((position for position in ends if position >= end), default=len(context))
    marked = f"{context[first:start]}>>{context[start:end]}<<{context[end:last]}"
    return " ".join(marked.split())


def converse(reader: Reader, context: str, question: Optional[str]):
    """Prints the answers to a question, or to those of standard input. Raises: UserError: they are not UTF-8."""
    def reply(question: str):
        (result,) = reader.results([question], [context])
        print(describe(result, context, reader.config.null_score_diff_threshold), flush=True)

    if question:
        reply(question)
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
            reply(question)


# --- Files ---


def answer_file(config: InferenceConfig, reader: Reader, stop: training.StopRequest):
    """Answers the questions of --input_file into --output_file, which appears when complete.

    Until then the answers are in `<output_file>.partial`, where a repeated call continues. `.partial.json` beside it
    says what they are answers to.

    Raises: UserError: the partial answers are those of another call, or another process writes them. Interrupted.
    """
    partial = f"{config.output_file}.partial"
    try:
        with files.hold(f"{config.output_file}.lock", log=configuration.print_on_stderr):
            done = resume(partial, identity(config, reader), config.overwrite)
            answer_rest(config, reader, stop, partial, done)
            os.replace(partial, config.output_file)
            os.remove(f"{partial}.json")
    except files.Held as holder:
        raise UserError(f"--output_file={config.output_file} is being written by {holder}: wait until that has ended, "
                        "or choose another.") from holder
    print(f"the answers are in {config.output_file}.")


def identity(config: InferenceConfig, reader: Reader) -> dict:
    """What the answers depend on."""
    digest = hashlib.sha256((config.read_context() if config.has_context else "").encode(errors="backslashreplace"))
    with open(config.input_file, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    own = ("output_file", "input_file", "context", "context_file", "overwrite", "disable_progress_bar")
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in own}
    return {"input": digest.hexdigest(), "weights": reader.weights_id, "temperature": reader.temperature, **options}


def resume(partial: str, call: dict, overwrite: bool) -> int:
    """How many answers there are from an interrupted call; none are left of a line that was cut off.

    Raises: UserError: they are those of another call.
    """
    record = f"{partial}.json"
    for path in (partial, record):
        if os.path.lexists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is not a file: remove it, or choose another --output_file.")
    if os.path.exists(partial) and os.path.exists(record):
        if configuration.read_json_object(record) == call:
            done, end = 0, 0
            with open(partial, "rb+") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        done, end = done + 1, end + len(line)
                file.truncate(end)
            return done
        if not overwrite:
            raise UserError(f"{partial} holds answers of an interrupted call with other options, questions or weights: "
                            "repeat that call, or discard them with --overwrite.")
    open(partial, "w", encoding="utf-8").close()
    files.write_json(record, call)
    return 0


def answer_rest(config: InferenceConfig, reader: Reader, stop: training.StopRequest, partial: str, done: int):
    """Appends the answers to the questions after the first `done` ones."""
    context = config.read_context() if config.has_context else None
    total = sum(1 for _ in squad_utils.read_questions(config.input_file, context))
    questions = itertools.islice(squad_utils.read_questions(config.input_file, context), done, None)
    hidden = config.disable_progress_bar or not sys.stderr.isatty()
    if done:
        configuration.print_on_stderr(f"continuing after {done} of {total} questions.")
    with open(partial, "ab") as file, tqdm(total=total, initial=done, unit="question", disable=hidden) as bar:
        for chunk in iter(lambda: list(itertools.islice(questions, TOGETHER)), []):
            results = reader.results([each.question for each in chunk], [each.context for each in chunk])
            lines = [to_line(each, result) for each, result in zip(chunk, results)]
            file.write("".join(lines).encode("utf-8", errors="backslashreplace"))  # which makes a JSON escape
            file.flush()
            done += len(chunk)
            bar.update(len(chunk))
            if stop.signal_name and done < total:
                os.fsync(file.fileno())
                raise Interrupted(f"stopped by {stop.signal_name} after {done} of {total} questions; the same command "
                                  "continues there.")
        os.fsync(file.fileno())


def to_line(question: squad_utils.Question, result: Result) -> str:
    answers = [answer._asdict() for answer in result.answers]
    found = {"id": question.id, "question": question.question, "prediction": result.prediction, "answers": answers,
             "null_odds": result.null_odds}
    return json.dumps(found, ensure_ascii=False) + "\n"


def main(argv):
    config = command_line.parse(InferenceConfig, argv, __doc__)
    preflight.check_inference(config)
    context = config.read_context() if config.has_context else ""
    reader = Reader(config, log=lambda sentence: configuration.print_on_stderr(f"note: {sentence}"))
    if config.serve:
        import server
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        server.serve(reader, config.init_checkpoint, config.host, config.port, context, configuration.print_on_stderr)
        return
    if not config.input_file:
        converse(reader, context, config.question)
        return
    with training.StopRequest() as stop:
        stop.begin()
        answer_file(config, reader, stop)


if __name__ == "__main__":
    command_line.run_command(main)
