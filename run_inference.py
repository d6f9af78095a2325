"""Predicts with a fine-tuned model: answers questions about a text, classifies texts, or tags them.

    python run_inference.py --init_checkpoint=results/squad --question="Who built it?" --context_file=article.txt
    python run_inference.py --init_checkpoint=results/squad --context="..."        reads questions from standard input
    python run_inference.py --init_checkpoint=results/rte --context="It rains." --pair="It is dry."
    python run_inference.py --init_checkpoint=results/names --context_file=article.txt
    python run_inference.py --init_checkpoint=results/squad --input_file=questions.jsonl --output_file=answers.jsonl
    python run_inference.py --init_checkpoint=results/squad --serve                a page at http://127.0.0.1:8000/

The model decides which of these it does. A reader prints the n best answers, each with its probability and the sentence
that contains it, the answer marked by >> and <<. With the joint head, which scores only the spans of its beam, the
probability is among these. A classifier prints the probability of every label, a tagger every span with its label.

A context longer than the model's window is split into overlapping windows (sliding window, --doc_stride); a classifier
truncates it. Questions are truncated to 64 tokens, or to a quarter of the window if it is shorter than 256 tokens.

A model fine-tuned on SQuAD 2.0 also predicts whether the question is answerable, by comparing the null odds with a
threshold, and `(no answer)` is listed with its probability. The threshold is tuned on scores, not on probabilities, so
the prediction may differ from the first answer. A question-answering model from another project does not record its
SQuAD version: set --version_2_with_negative for SQuAD 2.0.

For --input_file, one line of JSON is written for each question or text; see docs/squad.md and docs/tasks.md. reader.py,
classifier.py and tagger.py are the same for programs.
"""
from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import sys
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence

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
import task_data
import training
import weights
from classifier import Classifier, Prediction
from predictor import Predictor
from reader import Reader, Result
from tagger import Tagger
from tagging import Sentence, Span

TOGETHER = 64  # questions or texts between two writes

# --- The model ---

PREDICTORS = {"sequence_classification": Classifier, "token_classification": Tagger}


def open_model(config: InferenceConfig, log: Callable[[str], None]) -> Predictor:
    """The model of --init_checkpoint. Raises: UserError: there is none, or an option does not fit it."""
    source = weights.read(config.init_checkpoint, config.vocab_file)
    kind = PREDICTORS.get(weights.fine_tuned_for(source), Reader)
    if kind is not Reader and config.question:
        raise UserError(f"--question is for a model that answers questions, and {source.name} is a "
                        f"{kind.__name__.lower()}: omit it.")
    if kind is not Classifier and config.pair:
        raise UserError(f"--pair is for a classifier, and {source.name} is a {kind.__name__.lower()}: omit it.")
    return kind(config, log, source)


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


def describe_prediction(found: Prediction) -> str:
    """A prediction as text for the console."""
    if found.value is not None:
        return f"{found.value:.4f}"
    return "\n".join(f"{probability:6.1%}  {name}{'  *' if not found.label and name in found.labels else ''}"
                     for name, probability in found.probabilities.items())


def describe_spans(sentence: Sentence, spans: Sequence[Span]) -> str:
    """Spans as text for the console."""
    if not spans:
        return "(nothing was found)"
    return "\n".join(f"{span.probability:6.1%}  {span.label:<8} {span.text}\n"
                     f"        {in_sentence(sentence.text, span.start, span.end)}" for span in spans)


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


class Work(NamedTuple):
    """What is done with --input_file."""

    unit: str
    read: Callable[[], Iterator]  # its entries
    lines: Callable[[list], List[str]]  # a line of the output for each of some entries


def work_of(config: InferenceConfig, model: Predictor) -> Work:
    if isinstance(model, Reader):
        context = config.read_context() if config.has_context else None
        return Work("question", lambda: squad_utils.read_questions(config.input_file, context), lambda asked: [
            to_line(*pair) for pair in zip(asked, model.results([each.question for each in asked],
                                                                [each.context for each in asked]))])
    lines = classified if isinstance(model, Classifier) else tagged
    return Work("text", lambda: iter(task_data.read_texts(config.input_file)), lambda examples: [
        json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines(model, examples)])


def classified(model: Classifier, examples: Sequence[task_data.Example]) -> List[dict]:
    entries = []
    for example, found in zip(examples, model.results([each.text for each in examples],
                                                      [each.pair for each in examples])):
        predicted = found.value if found.value is not None else found.label or list(found.labels)
        entries.append(task_data.prediction(example, predicted, found.probabilities or None))
    return entries


def tagged(model: Tagger, examples: Sequence[task_data.Example]) -> List[dict]:
    return [{"id": example.id, "text": example.text, "spans": [span._asdict() for span in spans]}
            for example, (_, spans) in zip(examples, model.results([each.text for each in examples]))]


def predict_file(config: InferenceConfig, model: Predictor, stop: training.StopRequest):
    """Predicts for --input_file into --output_file, which appears when complete.

    Until then the predictions are in `<output_file>.partial`, where a repeated call continues. `.partial.json` beside
    it says what they are for.

    Raises: UserError: the partial predictions are those of another call, or another process writes them. Interrupted.
    """
    partial, work = f"{config.output_file}.partial", work_of(config, model)
    try:
        with files.hold(f"{config.output_file}.lock", log=configuration.print_on_stderr):
            done = resume(partial, identity(config, model), config.overwrite)
            predict_rest(config, work, stop, partial, done)
            os.replace(partial, config.output_file)
            os.remove(f"{partial}.json")
    except files.Held as holder:
        raise UserError(f"--output_file={config.output_file} is being written by {holder}: wait until that has ended, "
                        "or choose another.") from holder
    what = "answers" if work.unit == "question" else "predictions"
    print(f"the {what} are in {config.output_file}.")


def identity(config: InferenceConfig, model: Predictor) -> dict:
    """What the predictions depend on."""
    digest = hashlib.sha256((config.read_context() if config.has_context else "").encode(errors="backslashreplace"))
    with open(config.input_file, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    own = ("output_file", "input_file", "context", "context_file", "overwrite", "disable_progress_bar")
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in own}
    return {"input": digest.hexdigest(), "weights": model.weights_id, "temperature": model.temperature, **options}


def resume(partial: str, call: dict, overwrite: bool) -> int:
    """How many predictions there are from an interrupted call; none are left of a line that was cut off.

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
            raise UserError(f"{partial} holds predictions of an interrupted call with other options, input or weights: "
                            "repeat that call, or discard them with --overwrite.")
    open(partial, "w", encoding="utf-8").close()
    files.write_json(record, call)
    return 0


def predict_rest(config: InferenceConfig, work: Work, stop: training.StopRequest, partial: str, done: int):
    """Appends the predictions for all entries after the first `done` ones."""
    total = sum(1 for _ in work.read())
    entries = itertools.islice(work.read(), done, None)
    hidden = config.disable_progress_bar or not sys.stderr.isatty()
    if done:
        configuration.print_on_stderr(f"continuing after {done} of {total} {work.unit}s.")
    with open(partial, "ab") as file, tqdm(total=total, initial=done, unit=work.unit, disable=hidden) as bar:
        for chunk in iter(lambda: list(itertools.islice(entries, TOGETHER)), []):
            file.write("".join(work.lines(chunk)).encode("utf-8", errors="backslashreplace"))  # makes a JSON escape
            file.flush()
            done += len(chunk)
            bar.update(len(chunk))
            if stop.signal_name and done < total:
                os.fsync(file.fileno())
                raise Interrupted(f"stopped by {stop.signal_name} after {done} of {total} {work.unit}s; the same "
                                  "command continues there.")
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
    model = open_model(config, log=lambda sentence: configuration.print_on_stderr(f"note: {sentence}"))
    if config.serve:
        import server
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        server.serve(model, config.init_checkpoint, config.host, config.port, context, configuration.print_on_stderr)
    elif config.input_file:
        with training.StopRequest() as stop:
            stop.begin()
            predict_file(config, model, stop)
    elif isinstance(model, Reader):
        converse(model, context, config.question)
    elif isinstance(model, Classifier):
        print(describe_prediction(model.classify(context, config.pair)))
    else:
        print(*(describe_spans(*found) for found in model.results([context])), sep="\n")


if __name__ == "__main__":
    command_line.run_command(main)
