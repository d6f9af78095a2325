"""SQuAD: files to features, features to batches, model outputs to answers.

Data: Rajpurkar et al. 2016 (1.1) and 2018 (2.0, with unanswerable questions). Windows, the maximum-context rule and the
n-best list are BERT's (Devlin et al. 2019, run_squad.py); the null score of the joint head is ELECTRA's (Clark et al.
2020): the answerability logit. Scores are in squad_metrics.py.

Answers are character spans of the context: every token keeps its character offsets, and a predicted text is a slice of
the context. So nothing needs to be re-aligned, as in BERT's get_final_text.

A Features array has one row per window: N windows, L max_seq_length. K is the beam size of the joint head.
"""
from __future__ import annotations

import contextlib
import enum
import glob
import hashlib
import json
import math
import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from absl import logging

import configuration
import files
import tokenization
from batching import Batch, filled_rows
from configuration import RunFailed, UserError
from deferred import tensorflow as tf

# --- Files ---


class Example(NamedTuple):
    """A question. Answers are (text, first character in the context, or -1: unknown); the first one is trained on."""

    id: str
    question: str
    context: str
    answers: Tuple[Tuple[str, int], ...]
    is_impossible: bool


class Offsets(enum.Enum):
    """What `read_squad` does with an answer that is not in the context at its `answer_start`."""

    REFUSE = "refuse"
    REPAIR = "repair"  # for training: finds it by its text where that occurs once, else skips the answer
    IGNORE = "ignore"  # for evaluation, which compares texts: as REPAIR, but keeps the answer, at -1


def read_squad(path: str, version_2: bool, needs_answers: bool = True, offsets: Offsets = Offsets.REFUSE
               ) -> List[Example]:
    """Reads a SQuAD file and checks it.

    Args:
        version_2: as --version_2_with_negative; must agree with the data.
        needs_answers: False for questions to predict, whose `answers` and `is_impossible` are optional.
        offsets: what to do about a wrong `answer_start`. With REPAIR, a question none of whose answers is left is
            skipped, and a warning has the numbers and examples.
    Raises: UserError: unreadable, not in SQuAD's format, of the other version, a repeated id, a question without an
        answer, or with REFUSE an answer that is not in the context at its answer_start.
    """
    def refuse_version_2(why):
        raise UserError(f"{path} holds SQuAD 2.0 data ({why}): give --version_2_with_negative, or a 1.1 file.")

    content = configuration.read_json_object(path)
    said_version_2 = str(content.get("version")).startswith("v2")
    if said_version_2 and not version_2:
        refuse_version_2(f"version {configuration.in_brief(content['version'])}")
    examples, seen, marked = [], set(), False
    moved, dropped, skipped = [], [], []  # ids of questions with a wrong answer_start, by what was done
    for context, entry, where in _questions(content, path):
        id_ = _id_of(entry, path, where)
        where = f"question {configuration.in_brief(id_)}"
        if id_ in seen:
            raise UserError(f"{path} has the id {configuration.in_brief(id_)} twice: ids must be unique.")
        seen.add(id_)
        is_impossible = "is_impossible" in entry and _field(entry, "is_impossible", bool, where, path)
        marked = marked or "is_impossible" in entry
        if is_impossible and not version_2:
            refuse_version_2(f"{where} is impossible")
        answers, wrong = [], []
        for answer in _field(entry, "answers", list, where, path) if needs_answers or "answers" in entry else ():
            text, given = _field(answer, "text", str, f"an answer of {where}", path), answer.get("answer_start")
            if offsets is not Offsets.IGNORE:
                _field(answer, "answer_start", int, f"an answer of {where}", path)
            start = _find_answer(context, text, given)
            if start != given and offsets is Offsets.REFUSE:
                raise UserError(f"{path}: {where} has an answer {text[:60]!r} that is not in the context at "
                                f"answer_start={given}: correct it or remove the question.")
            if start != given:
                wrong.append(start)
            if start >= 0 or offsets is Offsets.IGNORE:
                answers.append((text, start))
        if needs_answers and not answers and not wrong and not is_impossible:
            raise UserError(f"{path}: {where} has no answers: add one or remove the question.")
        if wrong:
            (skipped if not answers else dropped if -1 in wrong else moved).append(id_)
        question = _field(entry, "question", str, where, path)
        if answers or not wrong:
            examples.append(Example(id_, question, context, tuple(answers), is_impossible))
    if offsets is Offsets.REPAIR and (moved or dropped or skipped):
        _report_offsets(path, len(seen), moved, dropped, skipped)
    if not examples:
        why = " with an answer at its answer_start" if skipped else ""
        raise UserError(f"{path} contains no questions{why}: give a SQuAD file with some.")
    if version_2 and needs_answers and not marked and not said_version_2:
        raise UserError(f"{path} holds SQuAD 1.1 data (no question has 'is_impossible'): omit "
                        "--version_2_with_negative, or give a 2.0 file.")
    return examples


def _field(holder, key: str, kind: type, where: str, path: str):
    if not isinstance(holder, dict) or type(holder.get(key)) is not kind:
        name = {list: "list", str: "text", int: "integer", bool: "true or false"}[kind]
        raise UserError(f"{path}: {where} has no {key!r} ({name}): give a file in SQuAD's format.")
    return holder[key]


def _questions(content: dict, path: str) -> Iterator[Tuple[str, dict, str]]:
    """The context, the entry and the place of every question."""
    for a, article in enumerate(_field(content, "data", list, "the file", path)):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"data[{a}]", path)):
            where = f"data[{a}].paragraphs[{p}]"
            context = _field(paragraph, "context", str, where, path)
            for q, entry in enumerate(_field(paragraph, "qas", list, where, path)):
                yield context, entry, f"{where}.qas[{q}]"


def _id_of(entry, path: str, where: str) -> str:
    """The id as text: GermanQuAD has integers, and the keys of a file of predictions are texts."""
    value = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(value, (str, int, float)):  # a bool is an int
        raise UserError(f"{path}: {where} has no 'id' (text or number): give a file in SQuAD's format.")
    return value if isinstance(value, str) else json.dumps(value)


def _find_answer(context: str, text: str, start) -> int:
    """`start` if `text` is there, else its place if it occurs once, else -1."""
    if type(start) is int and start >= 0 and context[start:start + len(text)] == text:
        return start
    first = context.find(text) if text else -1
    return first if first == context.rfind(text) else -1


def _report_offsets(path: str, total: int, moved: List[str], dropped: List[str], skipped: List[str]):
    """Logs what was done about wrong offsets in training data."""
    done = [f"{len(ids)} {what} (such as {', '.join(map(configuration.in_brief, ids[:3]))})"
            for ids, what in ((moved, "found again by their text"), (dropped, "used with their other answers"),
                              (skipped, "skipped")) if ids]
    logging.warning("%s: %d of %d questions have an answer that is not at its answer_start: %s. --strict_answers "
                    "refuses such files.", path, len(moved) + len(dropped) + len(skipped), total, ", ".join(done))


class Question(NamedTuple):
    """A question to answer."""

    id: Union[str, int, float, bool]
    question: str
    context: str


def read_questions(path: str, context: Optional[str] = None) -> Iterator[Question]:
    """The questions of a file in SQuAD's format (`.json`), or of JSON lines, which are read one by one.

    Args:
        context: the text for lines that have none.
    Raises: UserError: the file cannot be read, or a question or text is missing or empty.
    """
    if path.endswith(".json"):
        for number, example in enumerate(read_squad(path, True, needs_answers=False, offsets=Offsets.IGNORE), 1):
            yield _checked(Question(*example[:3]), f"{path}: question {number}")
        return
    for number, (where, line) in enumerate(configuration.read_lines(path), 1):
        if line.strip():
            entry = configuration.parse_json_object(line, where)
            id_ = entry.get("id", number)
            if not isinstance(id_, (str, int, float)):
                raise UserError(f"{where}: id is {configuration.in_brief(id_)}, not text or a number: correct it.")
            yield _checked(Question(id_, entry.get("question"), entry.get("context", context)), where)


def _checked(question: Question, where: str) -> Question:
    for key in ("question", "context"):
        value = getattr(question, key)
        if not isinstance(value, str) or not value.strip():
            way_out = " or pass the text with --context_file" if key == "context" else ""
            raise UserError(f"{where}: {key} is {'missing' if value is None else 'empty or not a text'}: add "
                            f"it{way_out}.")
    return question


# --- Features ---

FEATURE_VERSION = 2  # increased when the same files give other features


class Features(NamedTuple):
    """[CLS] question [SEP] window of the context [SEP], padded, for every window of every example in order.

    A window that does not contain all of the first answer, and every window of an unanswerable question, is trained to
    point at [CLS]: positions 0 and 0, and `is_impossible` 1, in 1.1 as in 2.0. So is an answer of white space.
    """

    input_ids: np.ndarray  # int32 [N, L]
    input_mask: np.ndarray  # int32 [N, L], 1 on tokens, 0 on padding
    segment_ids: np.ndarray  # int32 [N, L], 1 on the window and the [SEP] after it
    p_mask: np.ndarray  # int32 [N, L], 1 where no answer is possible: all but the window and [CLS]
    lengths: np.ndarray  # int32 [N], tokens
    example_index: np.ndarray  # int32 [N]
    char_start: np.ndarray  # int32 [N, L], first character of a window's token in the context, elsewhere -1
    char_end: np.ndarray  # int32 [N, L], end of the token in the context (exclusive), elsewhere -1
    is_max_context: np.ndarray  # bool [N, L], True in the one window with the most context around the token
    start_positions: np.ndarray  # int32 [N], first token of the answer
    end_positions: np.ndarray  # int32 [N], last token of the answer (inclusive)
    is_impossible: np.ndarray  # int32 [N]


_DERIVED = ("input_mask", "segment_ids", "p_mask")
_PER_TOKEN = ("input_ids", "char_start", "char_end", "is_max_context")


def tokenize_questions(examples: Sequence[Example], tokenizer: tokenization.ElectraTokenizer, max_seq_length: int,
                       doc_stride: int, max_query_length: int) -> Dict[str, List[int]]:
    """The ids of each question, at most `max_query_length`.

    Raises: UserError: lengths that leave no room for the context, or a stride that skips tokens.
    """
    for name, value in (("doc_stride", doc_stride), ("max_query_length", max_query_length)):
        if value < 1:
            raise UserError(f"--{name}={value} is too small: it must be at least 1.")
    questions = list(dict.fromkeys(example.question for example in examples))
    query_of = {question: ids[:max_query_length] for question, ids in zip(questions, tokenizer.encode_batch(questions))}
    longest = max(examples, key=lambda example: len(query_of[example.question]))
    room = max_seq_length - len(query_of[longest.question]) - 3
    if room < 1:
        raise UserError(f"--max_seq_length={max_seq_length} leaves no room for a context with question {longest.id!r}: "
                        f"increase it, or lower --max_query_length={max_query_length}.")
    if doc_stride > room:
        raise UserError(f"--doc_stride={doc_stride} skips tokens: with question {longest.id!r} a window of "
                        f"--max_seq_length={max_seq_length} holds {room} tokens of context, give at most that.")
    return query_of


def build_features(examples: Sequence[Example], tokenizer: tokenization.ElectraTokenizer, max_seq_length: int = 384,
                   doc_stride: int = 128, max_query_length: int = 64) -> Features:
    """Tokenizes examples and splits their contexts into windows.

    A window starts every `doc_stride` tokens until one reaches the end; a context without tokens has one empty window.
    If an answer starts or ends inside a token, it includes the whole token.

    Raises: UserError: see `tokenize_questions`.
    """
    query_of = tokenize_questions(examples, tokenizer, max_seq_length, doc_stride, max_query_length)
    context_of = tokenize_contexts(list(dict.fromkeys(example.context for example in examples)), tokenizer)

    rooms = np.array([max_seq_length - 3 - len(query_of[example.question]) for example in examples])
    tokens = np.array([len(context_of[example.context][0]) for example in examples])
    windows = 1 + -(-np.maximum(tokens - rooms, 0) // doc_stride)  # [examples]
    count = int(windows.sum())
    input_ids = np.full((count, max_seq_length), tokenizer.pad_id, np.int32)
    char_start, char_end = (np.full((count, max_seq_length), -1, np.int32) for _ in range(2))
    is_max_context = np.zeros((count, max_seq_length), bool)
    lengths, starts, ends = (np.zeros(count, np.int32) for _ in range(3))
    is_impossible = np.ones(count, np.int32)
    row = 0
    for example, room, num_windows in zip(examples, rooms.tolist(), windows.tolist()):
        ids, first_chars, end_chars = context_of[example.context]
        head = [tokenizer.cls_id, *query_of[example.question], tokenizer.sep_id]
        base = len(head)
        answer_start, answer_end = answer_tokens(example, first_chars, end_chars)
        best = max_context_windows(len(ids), room, doc_stride, num_windows) if num_windows > 1 else None
        for window in range(num_windows):
            first = window * doc_stride
            last = min(first + room, len(ids))
            end = base + last - first
            input_ids[row, :base] = head
            input_ids[row, base:end] = ids[first:last]
            input_ids[row, end] = tokenizer.sep_id
            char_start[row, base:end] = first_chars[first:last]
            char_end[row, base:end] = end_chars[first:last]
            is_max_context[row, base:end] = True if best is None else best[first:last] == window
            lengths[row] = end + 1
            if first <= answer_start <= answer_end < last:
                starts[row], ends[row] = base + answer_start - first, base + answer_end - first
                is_impossible[row] = 0
            row += 1
    return _complete(dict(
        input_ids=input_ids, lengths=lengths, char_start=char_start, char_end=char_end, is_max_context=is_max_context,
        example_index=np.repeat(np.arange(len(examples), dtype=np.int32), windows), start_positions=starts,
        end_positions=ends, is_impossible=is_impossible))


def _complete(arrays: Dict[str, np.ndarray]) -> Features:
    """Adds the masks, which are derived from the other arrays."""
    lengths, in_window = arrays["lengths"][:, np.newaxis], arrays["char_start"] >= 0
    position = np.arange(in_window.shape[1])
    p_mask = (~in_window).astype(np.int32)
    p_mask[:, 0] = 0
    return Features(input_mask=(position < lengths).astype(np.int32), p_mask=p_mask,
                    segment_ids=(in_window | (position == lengths - 1)).astype(np.int32), **arrays)


def tokenize_contexts(contexts: List[str], tokenizer: tokenization.ElectraTokenizer) -> Dict[str, Tuple]:
    """Ids, first characters and end characters of the tokens of every context, int32 [tokens] each."""
    tokenized = {}
    for first in range(0, len(contexts), 1000):  # an Encoding takes far more memory than an array
        part = contexts[first:first + 1000]
        tokenized.update(zip(part, tokenizer.encode_spans(part)))
    return tokenized


def answer_tokens(example: Example, first_chars: np.ndarray, end_chars: np.ndarray) -> Tuple[int, int]:
    """First and last token of the context that overlap the first answer; (-1, -1) if there is none."""
    if example.is_impossible or not example.answers or example.answers[0][1] < 0:
        return -1, -1
    text, start = example.answers[0]
    first = int(np.searchsorted(end_chars, start, side="right"))
    last = int(np.searchsorted(first_chars, start + len(text), side="left")) - 1
    return (first, last) if first <= last else (-1, -1)


def max_context_windows(tokens: int, room: int, doc_stride: int, windows: int) -> np.ndarray:
    """The window with maximum context for every token of a context: int [tokens].

    BERT's rule: min(tokens before, tokens after) + 0.01 x the window's length; the first window wins ties.
    """
    token = np.arange(tokens)
    newest = np.minimum(token // doc_stride, windows - 1)  # the last window that contains the token
    best, best_score = np.zeros(tokens, int), np.full(tokens, -1)
    for back in range(-(-room // doc_stride)):  # no other window contains it: memory and time are linear in `tokens`
        window = newest - back
        first = window * doc_stride
        last = np.minimum(first + room, tokens) - 1
        score = 100 * np.minimum(token - first, last - token) + last - first + 1
        better = (window >= 0) & (last >= token) & (score >= best_score)
        best, best_score = np.where(better, window, best), np.where(better, score, best_score)
    return best


# --- Cache ---

CACHE_BYTES = 4 << 30  # of all caches in a folder: the training set of SQuAD 2.0 takes 0.8 GB


def cached_features(path: str, examples: Sequence[Example], tokenizer: tokenization.ElectraTokenizer, cache_dir: str,
                    version_2: bool, **lengths: int) -> Features:
    """`build_features`, cached in `cache_dir` under a hash of everything that the features depend on.

    A damaged or foreign file is rebuilt; if the cache cannot be written, a warning says so. The caches that were not
    used for the longest time are deleted when together they take more than CACHE_BYTES.

    Args:
        path: the file that `examples` were read from.
        lengths: `max_seq_length`, `doc_stride`, `max_query_length` of `build_features`.
    """
    with open(path, "rb") as file:
        key = hashlib.sha256(hashlib.sha256(file.read()).digest())
    chosen = [(example.id, example.answers[:1]) for example in examples]
    key.update(repr((FEATURE_VERSION, tokenizer.fingerprint, version_2, sorted(lengths.items()), chosen)).encode(
        errors="backslashreplace"))
    name = os.path.join(cache_dir, f"squad-{key.hexdigest()[:32]}.npz")
    if os.path.exists(name):
        try:
            features = _load_features(name, examples, tokenizer, **lengths)
            os.utime(name)  # used now
            return features
        except Exception as error:  # numpy, zipfile and zlib raise many kinds of errors for a damaged file
            logging.warning("%s is damaged or foreign (%s): rebuilding the features.", name, error)
    features = build_features(examples, tokenizer, **lengths)
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with files.replacing(name) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{field: array for field, array in features._asdict().items() if field not in _DERIVED})
        _limit_cache(cache_dir, name)
    except OSError as error:
        logging.warning("%s could not be written (%s): features will be rebuilt at every start.", name, error)
    return features


def _limit_cache(cache_dir: str, newest: str):
    """Deletes caches but the newest, those used longest ago first, until they take at most CACHE_BYTES."""
    kept, caches = os.path.getsize(newest), []
    for path in glob.glob(os.path.join(glob.escape(cache_dir), "squad-*.npz")):
        with contextlib.suppress(OSError):  # another process has just deleted it
            if path != newest:
                caches.append((os.path.getmtime(path), os.path.getsize(path), path))
    for _, size, path in sorted(caches, reverse=True):
        kept += size
        if kept > CACHE_BYTES:
            with contextlib.suppress(OSError):
                os.remove(path)


def _load_features(name: str, examples, tokenizer, max_seq_length: int = 384, **_) -> Features:
    with np.load(name, allow_pickle=False) as content:
        arrays = dict(content)
    rows = len(arrays["lengths"])
    for field in Features._fields:
        if field not in _DERIVED:
            shape = (rows, max_seq_length) if field in _PER_TOKEN else (rows,)
            kind = bool if field == "is_max_context" else np.int32
            if arrays[field].shape != shape or arrays[field].dtype != kind:
                raise ValueError(f"{field} is {arrays[field].dtype} {arrays[field].shape}")
    if not np.array_equal(np.unique(arrays["example_index"]), np.arange(len(examples))):
        raise ValueError("other examples")
    if arrays["input_ids"].min() < 0 or arrays["input_ids"].max() >= tokenizer.vocab_size:
        raise ValueError("ids beyond the vocabulary")
    return _complete(arrays)


# --- Batches ---

NETWORK_INPUTS = ("input_ids", "input_mask", "segment_ids", "p_mask")
LABELS = ("start_positions", "end_positions", "is_impossible")


def feed(features: Features, batch: Batch, batch_size: int, labels: bool = False,
         num_examples: Optional[float] = None) -> Dict[str, tf.Tensor]:
    """The tensors of a batch, see `batching.filled_rows`.

    Args:
        labels: add what training needs.
        num_examples: divisor of the loss's sums over examples (default: the number of rows).
    """
    rows, weights = filled_rows(batch, batch_size)
    tensors = {name: tf.constant(getattr(features, name)[rows, :batch.length]) for name in NETWORK_INPUTS}
    if labels:
        tensors.update({name: tf.constant(getattr(features, name)[rows]) for name in LABELS})
        tensors["weights"] = tf.constant(weights)
        tensors["num_examples"] = tf.constant(float(num_examples or len(batch.rows)))
    return tensors


# --- Answers ---


class Answer(NamedTuple):
    """A span of the context, characters [start, end), or "no answer", whose text is empty.

    `probability` is exp(score / T), divided by the sum of this over all valid spans of all windows of the question,
    with T the temperature. It does not depend on how many answers are kept. With the joint head, the spans are those of
    its beams. See `search_answers` for SQuAD 2.0.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


class Found(NamedTuple):
    """The answers to questions, by id."""

    nbest: Dict[str, List[Answer]]  # best first, without "no answer"
    null_odds: Dict[str, float]  # higher: no answer is more likely; empty if the model does not predict it
    no_answer: Dict[str, float]  # SQuAD 2.0: the probability of no answer


def search_answers(joint_head: bool, examples: Sequence[Example], features: Features, outputs: Dict[str, np.ndarray],
                   n_best_size: int = 20, max_answer_length: int = 30, version_2: bool = False,
                   temperature: float = 1.0) -> Found:
    """`joint_answers` or `independent_answers`, whichever the head needs, with probabilities.

    In SQuAD 2.0 the probabilities of all spans and of "no answer" add up to 1. That of "no answer" is the sigmoid of
    the answerability logit / T with the joint head. With the independent head, "no answer" is one more span, [CLS] to
    [CLS]. With several windows, the smallest logit or score of [CLS] counts, as in the null odds.

    Raises: RunFailed: the model's outputs are not finite.
    """
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise RunFailed(f"the model's {name} are NaN or infinite: its weights are damaged, use another checkpoint.")
    search = joint_answers if joint_head else independent_answers
    nbest, null_odds = search(examples, features, outputs, n_best_size, max_answer_length, temperature)
    if not version_2:
        return Found(nbest, null_odds, {})
    scaled, no_answer = {}, {}
    for id_, answers in nbest.items():
        no_answer[id_] = 1.0
        if answers[0].text:
            no_answer[id_] = _sigmoid(_null_logit(joint_head, null_odds[id_], answers[0].probability, temperature))
        scaled[id_] = [answer._replace(probability=answer.probability * (1.0 - no_answer[id_]))
                       if answer.text else answer for answer in answers]
    return Found(scaled, null_odds, no_answer)


def _null_logit(joint_head: bool, null_odds, best_probability, temperature: float):
    """The logarithm of the odds of no answer against all spans. The independent head's null odds are against the best
    span alone, whose probability among all spans is `best_probability`."""
    return null_odds / temperature + (0.0 if joint_head else np.log(best_probability))


def _sigmoid(logit):
    return np.exp(-np.logaddexp(0.0, -logit))


def log_sums(joint_head: bool, examples: Sequence[Example], features: Features, outputs: Dict[str, np.ndarray],
             max_answer_length: int, temperature: float = 1.0) -> np.ndarray:
    """The logarithm of the sum of exp(score / temperature) over all valid spans of each question.

    Exact for the independent head. The joint head scores ends only for the starts of its beam: there the sum is over
    the valid spans in the beams of all windows.

    Returns: float64 [examples]; -inf without a valid span.
    """
    totals = np.full(len(examples), -np.inf)
    with np.errstate(divide="ignore"):  # the logarithm of 0, where a window has no valid span
        if joint_head:
            _, _, _, scores = _joint_spans(features, outputs, max_answer_length)
            flat = scores.reshape(len(scores), -1).astype(np.float64) / temperature
            top = np.maximum(flat.max(axis=1), -1e300)
            of_window = np.log(np.exp(flat - top[:, np.newaxis]).sum(axis=1)) + top
        else:
            of_window = np.concatenate([
                _independent_log_sums(*(scores.astype(np.float64) / temperature for scores in parts), max_answer_length)
                for parts in _independent_scores(features, outputs)])
    np.logaddexp.at(totals, features.example_index, of_window)
    return totals


def _independent_log_sums(start_scores, end_scores, max_answer_length: int) -> np.ndarray:
    """For each window [n]: a sum over starts, of the exponential times the sum over the ends that it reaches."""
    top_start, top_end = (np.maximum(scores.max(axis=1, keepdims=True), -1e300)
                          for scores in (start_scores, end_scores))
    ends = np.pad(np.exp(end_scores - top_end), ((0, 0), (0, max_answer_length - 1)))
    reached = np.lib.stride_tricks.sliding_window_view(ends, max_answer_length, axis=1).sum(axis=-1)
    return np.log((np.exp(start_scores - top_start) * reached).sum(axis=1)) + (top_start + top_end)[:, 0]


def joint_answers(examples: Sequence[Example], features: Features, outputs: Dict[str, np.ndarray],
                  n_best_size: int = 20, max_answer_length: int = 30, temperature: float = 1.0,
                  ) -> Tuple[Dict[str, List[Answer]], Dict[str, float]]:
    """The n-best answers of every question from the joint head, and their null odds.

    A span is valid if both ends are in the window and in order, it has at most `max_answer_length` tokens, and the
    window has the maximum context for its start. A text found more than once counts once, with its best score. A
    question without any valid span gets one empty answer.

    Args:
        outputs: `start_log_probs`, `start_index` [N, K]; `end_log_probs`, `end_index` [N, K, K], for start k the best
            ends; in 2.0 also `answerability_logits` [N], above 0 if there is no answer.
    Returns: answers by id, best first, and null odds by id: the minimum answerability logit of the question's windows;
        empty without such logits.
    """
    rows, starts, ends, scores = _joint_spans(features, outputs, max_answer_length)
    valid = scores > -np.inf
    sums = log_sums(True, examples, features, outputs, max_answer_length, temperature)
    answers = _n_best(examples, features, rows[valid], starts[valid], ends[valid], scores[valid], n_best_size, sums,
                      temperature)
    if "answerability_logits" not in outputs:
        return answers, {}
    return answers, _least(examples, features, outputs["answerability_logits"])


def _joint_spans(features: Features, outputs: Dict[str, np.ndarray], max_answer_length: int) -> Tuple[np.ndarray, ...]:
    """Windows, starts, ends and scores of the spans in the beams, [N, K, K]; the score of an invalid one is -inf."""
    ends, scores = outputs["end_index"], outputs["start_log_probs"][:, :, np.newaxis] + outputs["end_log_probs"]
    starts = np.broadcast_to(outputs["start_index"][:, :, np.newaxis], ends.shape)
    rows = np.broadcast_to(np.arange(len(ends))[:, np.newaxis, np.newaxis], ends.shape)
    valid = (features.is_max_context[rows, starts] & (features.char_start[rows, ends] >= 0)
             & (starts <= ends) & (ends - starts < max_answer_length))
    return rows, starts, ends, np.where(valid, scores, -np.inf)


def independent_answers(examples: Sequence[Example], features: Features, outputs: Dict[str, np.ndarray],
                        n_best_size: int = 20, max_answer_length: int = 30, temperature: float = 1.0,
                        ) -> Tuple[Dict[str, List[Answer]], Dict[str, float]]:
    """As `joint_answers`, from the independent head: scores all spans and keeps the `n_best_size` best of each window.

    Args:
        outputs: `start_logits`, `end_logits` [N, L].
    Returns: answers by id, best first, and null odds by id: the minimum score of [CLS] as start and end over the
        question's windows, minus the score of the best answer.
    """
    kept = min(n_best_size, features.input_ids.shape[1] * max_answer_length)
    found, first = [], 0
    for start_scores, end_scores in _independent_scores(features, outputs):
        end_scores = np.pad(end_scores, ((0, 0), (0, max_answer_length - 1)), constant_values=-np.inf)
        later_ends = np.lib.stride_tricks.sliding_window_view(end_scores, max_answer_length, axis=1)
        scores = (start_scores[:, :, np.newaxis] + later_ends).reshape(len(start_scores), -1)
        spans = np.sort(np.argpartition(scores, -kept, axis=1)[:, -kept:], axis=1)
        best = np.take_along_axis(scores, spans, axis=1)
        rows, columns = np.nonzero(best > -np.inf)
        starts, reach = np.divmod(spans[rows, columns], max_answer_length)
        found.append((rows + first, starts, starts + reach, best[rows, columns]))
        first += len(start_scores)
    sums = log_sums(False, examples, features, outputs, max_answer_length, temperature)
    answers = _n_best(examples, features, *(np.concatenate(parts) for parts in zip(*found)), n_best_size, sums,
                      temperature)
    null_scores = _least(examples, features, outputs["start_logits"][:, 0] + outputs["end_logits"][:, 0])
    return answers, {id_: score - answers[id_][0].score for id_, score in null_scores.items()}


def _independent_scores(features: Features, outputs: Dict[str, np.ndarray]) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Start and end scores [at most 64, L], -inf where no answer may start or end: the scores of all spans of so many
    windows fit into the CPU cache."""
    for first in range(0, len(features.input_ids), 64):
        part = slice(first, first + 64)
        yield (np.where(features.is_max_context[part], outputs["start_logits"][part], -np.inf),
               np.where(features.char_start[part] >= 0, outputs["end_logits"][part], -np.inf))


def _least(examples, features: Features, scores: np.ndarray) -> Dict[str, float]:
    """The minimum of `scores` [N] over the windows of each question."""
    least = np.full(len(examples), np.inf)
    np.minimum.at(least, features.example_index, scores)
    return {example.id: score for example, score in zip(examples, least.tolist())}


def _n_best(examples, features: Features, rows, starts, ends, scores, n_best_size: int, sums: np.ndarray,
            temperature: float) -> Dict[str, List[Answer]]:
    """The n best of the spans [spans] of each question; equal scores keep their order. `sums`: see `log_sums`."""
    of_example = features.example_index[rows]
    order = np.lexsort((-scores, of_example))
    bounds = np.searchsorted(of_example[order], np.arange(len(examples) + 1)).tolist()
    first_chars = features.char_start[rows, starts][order].tolist()
    end_chars = features.char_end[rows, ends][order].tolist()
    scores = scores[order].tolist()
    answers = {}
    for index, example in enumerate(examples):
        best: Dict[str, Tuple[int, int, float]] = {}
        for i in range(bounds[index], bounds[index + 1]):
            best.setdefault(example.context[first_chars[i]:end_chars[i]], (first_chars[i], end_chars[i], scores[i]))
            if len(best) == n_best_size:
                break
        if not best:
            answers[example.id] = [Answer("", 0, 0, 0.0, 1.0)]
            continue
        # No sum of exponentials is below its largest term, also where rounding has left nothing of it.
        total = max(float(sums[index]), next(iter(best.values()))[2] / temperature)
        answers[example.id] = [Answer(text, *span, math.exp(span[2] / temperature - total))
                               for text, span in best.items()]
    return answers


def predictions(nbest: Dict[str, List[Answer]], null_odds: Dict[str, float],
                threshold: Optional[float] = None) -> Dict[str, str]:
    """The best text of every question, or "" if its null odds exceed `threshold` (None: never)."""
    return {id_: "" if threshold is not None and null_odds[id_] > threshold else answers[0].text
            for id_, answers in nbest.items()}


# --- Calibration ---

TEMPERATURES = (0.05, 20.0)  # between which the temperature is searched
FEWEST = 10  # right and wrong answers, below which it is not


class Calibration(NamedTuple):
    """A temperature, and the expected calibration error of all questions, 0 to 1 (Naeini et al. 2015)."""

    temperature: float
    error: float  # of probabilities at this temperature
    error_uncalibrated: float  # of those at 1


def calibrate(joint_head: bool, examples: Sequence[Example], features: Features, outputs: Dict[str, np.ndarray],
              found: Found, predicted: Dict[str, str], right: Dict[str, float], max_answer_length: int = 30
              ) -> Optional[Calibration]:
    """Finds the temperature at which the probability of the predicted answer says best whether it is right: the one
    with the smallest log loss. None if nearly all predictions are right, or wrong.

    Args:
        found: of `search_answers` for the same outputs, at any temperature.
        predicted: text by id; empty where "no answer" is predicted.
        right: by id, 1 where the prediction is right, else 0.
    """
    ids = [example.id for example in examples]
    is_right = np.array([right[id_] > 0 for id_ in ids])
    if min(is_right.sum(), (~is_right).sum()) < FEWEST:
        return None
    scores = np.array([found.nbest[id_][0].score for id_ in ids])
    has_span = np.array([bool(found.nbest[id_][0].text) for id_ in ids])
    is_empty = np.array([not predicted[id_] for id_ in ids])
    odds = np.array([found.null_odds[id_] for id_ in ids]) if found.no_answer else None

    def confidence(temperature: float) -> np.ndarray:
        sums = log_sums(joint_head, examples, features, outputs, max_answer_length, temperature)
        with np.errstate(invalid="ignore"):  # without a span, the sum is 0
            best = np.where(has_span, np.exp(np.minimum(scores / temperature - sums, 0.0)), 1.0)
        if odds is None:
            return best
        none = _sigmoid(_null_logit(joint_head, odds, best, temperature))
        return np.where(~has_span, 1.0, np.where(is_empty, none, best * (1.0 - none)))

    def loss(log_temperature: float) -> float:
        probability = np.clip(confidence(math.exp(log_temperature)), 1e-12, 1 - 1e-12)
        return -float(np.mean(np.log(np.where(is_right, probability, 1.0 - probability))))

    temperature = math.exp(_minimum(loss, *map(math.log, TEMPERATURES)))
    return Calibration(temperature, *(expected_calibration_error(confidence(t), is_right) for t in (temperature, 1.0)))


def _minimum(function, low: float, high: float, steps: int = 20) -> float:
    """Where a function of one number is smallest, by golden-section search: within 0.0004 for TEMPERATURES."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """The mean difference between confidence and accuracy over bins of equal width, weighted by their sizes.

    Args:
        confidence: [n], 0 to 1.
        right: bool [n].
    """
    bin_of = np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, np.asarray(confidence) - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(bin_of))
