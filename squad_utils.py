"""SQuAD: files to features, features to batches, model outputs to answers.

Data: Rajpurkar et al. 2016 (1.1) and 2018 (2.0, with unanswerable questions). Windows, the maximum-context rule and the
n-best list are BERT's (Devlin et al. 2019, run_squad.py); the null score of the joint head is ELECTRA's (Clark et al.
2020): the answerability logit. Scores are in squad_metrics.py.

Answers are character spans of the context: every token keeps its character offsets, and a predicted text is a slice of
the context. So nothing needs to be re-aligned, as in BERT's get_final_text.

A Features array has one row per window: N windows, L max_seq_length. K is the beam size of the joint head.
"""
from __future__ import annotations

import hashlib
import math
import os
import unicodedata
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from absl import logging

import configuration
import files
import pretrain_utils
import tokenization
from configuration import UserError
from deferred import tensorflow as tf

# --- Files ---


class Example(NamedTuple):
    """A question. Answers are (text, first character in the context); the first one is trained on."""

    id: str
    question: str
    context: str
    answers: Tuple[Tuple[str, int], ...]
    is_impossible: bool


def read_squad(path: str, version_2: bool, needs_answers: bool = True) -> List[Example]:
    """Reads a SQuAD file and checks it.

    Args:
        version_2: as --version_2_with_negative; must agree with the data.
        needs_answers: False for questions to predict, whose `answers` and `is_impossible` are optional.
    Raises: UserError: unreadable, not in SQuAD's format, of the other version, a repeated id, an answer that is not in
        the context at its answer_start, or a question without an answer.
    """
    def field(holder, key, kind, where):
        if not isinstance(holder, dict) or type(holder.get(key)) is not kind:
            name = {list: "list", str: "text", int: "integer", bool: "true or false"}[kind]
            raise UserError(f"{path}: {where} has no {key!r} ({name}): give a file in SQuAD's format.")
        return holder[key]

    def refuse_version_2(why):
        raise UserError(f"{path} holds SQuAD 2.0 data ({why}): give --version_2_with_negative, or a 1.1 file.")

    content = configuration.read_json_object(path)
    said_version_2 = str(content.get("version")).startswith("v2")
    if said_version_2 and not version_2:
        refuse_version_2(f"version {configuration.in_brief(content['version'])}")
    examples, seen, marked = [], set(), False
    for a, article in enumerate(field(content, "data", list, "the file")):
        for p, paragraph in enumerate(field(article, "paragraphs", list, f"data[{a}]")):
            where = f"data[{a}].paragraphs[{p}]"
            context = field(paragraph, "context", str, where)
            for q, entry in enumerate(field(paragraph, "qas", list, where)):
                id_ = field(entry, "id", str, f"{where}.qas[{q}]")
                where_q = f"question {configuration.in_brief(id_)}"
                if id_ in seen:
                    raise UserError(f"{path} has the id {configuration.in_brief(id_)} twice: ids must be unique.")
                seen.add(id_)
                is_impossible = "is_impossible" in entry and field(entry, "is_impossible", bool, where_q)
                marked = marked or "is_impossible" in entry
                if is_impossible and not version_2:
                    refuse_version_2(f"{where_q} is impossible")
                answers = []
                for answer in field(entry, "answers", list, where_q) if needs_answers or "answers" in entry else ():
                    text = field(answer, "text", str, f"an answer of {where_q}")
                    start = field(answer, "answer_start", int, f"an answer of {where_q}")
                    if start < 0 or context[start:start + len(text)] != text:
                        raise UserError(f"{path}: {where_q} has an answer {text[:60]!r} that is not in the context at "
                                        f"answer_start={start}: correct it or remove the question.")
                    answers.append((text, start))
                if needs_answers and not answers and not is_impossible:
                    raise UserError(f"{path}: {where_q} has no answers: add one or remove the question.")
                question = field(entry, "question", str, where_q)
                examples.append(Example(id_, question, context, tuple(answers), is_impossible))
    if not examples:
        raise UserError(f"{path} contains no questions: give a SQuAD file with some.")
    if version_2 and needs_answers and not marked and not said_version_2:
        raise UserError(f"{path} holds SQuAD 1.1 data (no question has 'is_impossible'): omit "
                        "--version_2_with_negative, or give a 2.0 file.")
    return examples


# --- Features ---

FEATURE_VERSION = 1  # increased when features change for a reason outside this file


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
    """Ids, first characters and end characters of the tokens of every context, int32 [tokens] each.

    The normalizer drops combining accents (category Mn), and its offsets exclude those after a token's last letter;
    here they belong to the token.
    """
    tokenized = {}
    for first in range(0, len(contexts), 1000):  # an Encoding takes far more memory than an array
        part = contexts[first:first + 1000]
        whole = [tokenization._LONE_SURROGATE.sub("\ufffd", context) for context in part]
        for context, encoding in zip(part, tokenizer.backend.encode_batch(whole, add_special_tokens=False)):
            starts, ends = np.array(encoding.offsets, np.int32).reshape(-1, 2).T.copy()
            if not context.isascii():
                dropped = np.array([unicodedata.category(character) == "Mn" for character in context] + [False])
                dropped[starts] = False
                other = np.flatnonzero(~dropped)
                ends = other[np.searchsorted(other, ends)].astype(np.int32)
            tokenized[context] = np.array(encoding.ids, np.int32), starts, ends
    return tokenized


def answer_tokens(example: Example, first_chars: np.ndarray, end_chars: np.ndarray) -> Tuple[int, int]:
    """First and last token of the context that overlap the first answer; (-1, -1) if there is none."""
    if example.is_impossible or not example.answers:
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


def cached_features(path: str, examples: Sequence[Example], tokenizer: tokenization.ElectraTokenizer, cache_dir: str,
                    version_2: bool, **lengths: int) -> Features:
    """`build_features`, cached in `cache_dir` under a hash of everything that the features depend on.

    A damaged or foreign file is rebuilt; if the cache cannot be written, a warning says so.

    Args:
        path: the file that `examples` were read from.
        lengths: `max_seq_length`, `doc_stride`, `max_query_length` of `build_features`.
    """
    key = hashlib.sha256()
    for part in (path, __file__):
        with open(part, "rb") as file:
            key.update(hashlib.sha256(file.read()).digest())
    ids = [example.id for example in examples]
    key.update(repr((FEATURE_VERSION, tokenizer.fingerprint, version_2, sorted(lengths.items()), ids)).encode())
    name = os.path.join(cache_dir, f"squad-{key.hexdigest()[:32]}.npz")
    if os.path.exists(name):
        try:
            return _load_features(name, examples, tokenizer, **lengths)
        except Exception as error:  # numpy, zipfile and zlib raise many kinds of errors for a damaged file
            logging.warning("%s is damaged or foreign (%s): rebuilding the features.", name, error)
    features = build_features(examples, tokenizer, **lengths)
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with files.replacing(name) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{field: array for field, array in features._asdict().items() if field not in _DERIVED})
    except OSError as error:
        logging.warning("%s could not be written (%s): features will be rebuilt at every start.", name, error)
    return features


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


class Batch(NamedTuple):
    """Rows of the features that go through the network together, padded to `length`."""

    length: int
    rows: np.ndarray  # int [n], at most the batch size


def plan_batches(lengths: np.ndarray, buckets: List[int], batch_size: int, order: np.ndarray) -> List[Batch]:
    """Groups rows, in `order`, by the first bucket that holds them: ceil(n / batch_size) batches, at most one not full.

    The rest of a bucket at the end goes to the next longer one, so that every row comes exactly once.
    """
    bucket_of = np.searchsorted(buckets, lengths)
    waiting: List[List[int]] = [[] for _ in buckets]
    batches = []
    for row in order.tolist():
        bucket = bucket_of[row]
        waiting[bucket].append(row)
        if len(waiting[bucket]) == batch_size:
            batches.append(Batch(buckets[bucket], np.array(waiting[bucket])))
            waiting[bucket] = []
    rest: List[int] = []
    longest = 0
    for bucket, rows in enumerate(waiting):
        rest += rows
        longest = bucket if rows else longest
        if len(rest) >= batch_size:
            batches.append(Batch(buckets[longest], np.array(rest[:batch_size])))
            rest = rest[batch_size:]
    if rest:
        batches.append(Batch(buckets[longest], np.array(rest)))
    return batches


class WindowOrder:
    """The training windows in order, without end: epoch after epoch, each shuffled by (seed, epoch).

    `position` says how far it is. A run resumes from there, also with batches of another size: no window of the epoch
    is lost or seen twice.

    Args:
        lengths: int [n], tokens of every window.
        batch_size: of all workers together.
        limit: batches of an epoch, at most; None for all.
        position: of an earlier run, to resume from.
    """

    def __init__(self, lengths: np.ndarray, buckets: List[int], batch_size: int, seed: int,
                 limit: Optional[int] = None, position: Optional[dict] = None):
        self.lengths, self.buckets, self.batch_size, self.seed, self.limit = lengths, buckets, batch_size, seed, limit
        # Of the current epoch: [batch size, batches done], in order.
        self.epoch, self._taken = (position["epoch"], list(position["taken"])) if position else (0, [])
        self._left = self._rest_of_epoch()

    def _rest_of_epoch(self) -> List[Batch]:
        order = pretrain_utils.permutation([self.seed, self.epoch], len(self.lengths))
        for batch_size, count in self._taken:
            done = plan_batches(self.lengths, self.buckets, batch_size, order)[:count]
            order = order[~np.isin(order, np.concatenate([batch.rows for batch in done]))]
        left = plan_batches(self.lengths, self.buckets, self.batch_size, order)
        return left if self.limit is None else left[:max(0, self.limit - sum(count for _, count in self._taken))]

    @property
    def position(self) -> dict:
        return {"epoch": self.epoch, "taken": [list(entry) for entry in self._taken]}

    @property
    def batches_since_epoch_end(self) -> int:
        """0 right after the last batch of an epoch."""
        return sum(count for _, count in self._taken) if self._left else 0

    @property
    def batches_per_epoch(self) -> int:
        batches = math.ceil(len(self.lengths) / self.batch_size)
        return batches if self.limit is None else min(batches, self.limit)

    def batches_until(self, epochs: float) -> int:
        """How many batches are left until `epochs` epochs are done."""
        return max(0, math.ceil((epochs - self.epoch - 1) * self.batches_per_epoch + len(self._left)))

    def __next__(self) -> Batch:
        if not self._left:
            self.epoch, self._taken = self.epoch + 1, []
            self._left = self._rest_of_epoch()
        if not self._taken or self._taken[-1][0] != self.batch_size:
            self._taken.append([self.batch_size, 0])
        self._taken[-1][1] += 1
        return self._left.pop(0)


NETWORK_INPUTS = ("input_ids", "input_mask", "segment_ids", "p_mask")
LABELS = ("start_positions", "end_positions", "is_impossible")


def feed(features: Features, batch: Batch, batch_size: int, labels: bool = False,
         num_examples: Optional[float] = None) -> Dict[str, tf.Tensor]:
    """The tensors of a batch, padded to `batch_size` rows with its first row, which then has weight 0.

    Args:
        labels: add what training needs.
        num_examples: divisor of the loss's sums over examples (default: the number of rows).
    """
    fill = batch_size - len(batch.rows)
    rows = np.concatenate([batch.rows, np.repeat(batch.rows[:1] if len(batch.rows) else [0], fill)]).astype(int)
    tensors = {name: tf.constant(getattr(features, name)[rows, :batch.length]) for name in NETWORK_INPUTS}
    if labels:
        tensors.update({name: tf.constant(getattr(features, name)[rows]) for name in LABELS})
        tensors["weights"] = tf.constant([1.0] * len(batch.rows) + [0.0] * fill)
        tensors["num_examples"] = tf.constant(float(num_examples or len(batch.rows)))
    return tensors


# --- Answers ---


class Answer(NamedTuple):
    """A span of the context, characters [start, end). `probability` is the softmax of `score` over the n best."""

    text: str
    start: int
    end: int
    score: float
    probability: float


def search_answers(joint_head: bool, *args, **kwargs) -> Tuple[Dict[str, List[Answer]], Dict[str, float]]:
    """`joint_answers` or `independent_answers`, whichever the head needs."""
    return (joint_answers if joint_head else independent_answers)(*args, **kwargs)


def joint_answers(examples: Sequence[Example], features: Features, outputs: Dict[str, np.ndarray],
                  n_best_size: int = 20, max_answer_length: int = 30,
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
    ends, scores = outputs["end_index"], outputs["start_log_probs"][:, :, np.newaxis] + outputs["end_log_probs"]
    starts = np.broadcast_to(outputs["start_index"][:, :, np.newaxis], ends.shape)
    rows = np.broadcast_to(np.arange(len(ends))[:, np.newaxis, np.newaxis], ends.shape)
    valid = (features.is_max_context[rows, starts] & (features.char_start[rows, ends] >= 0)
             & (starts <= ends) & (ends - starts < max_answer_length))
    answers = _n_best(examples, features, rows[valid], starts[valid], ends[valid], scores[valid], n_best_size)
    if "answerability_logits" not in outputs:
        return answers, {}
    return answers, _least(examples, features, outputs["answerability_logits"])


def independent_answers(examples: Sequence[Example], features: Features, outputs: Dict[str, np.ndarray],
                        n_best_size: int = 20, max_answer_length: int = 30,
                        ) -> Tuple[Dict[str, List[Answer]], Dict[str, float]]:
    """As `joint_answers`, from the independent head: scores all spans and keeps the `n_best_size` best of each window.

    Args:
        outputs: `start_logits`, `end_logits` [N, L].
    Returns: answers by id, best first, and null odds by id: the minimum score of [CLS] as start and end over the
        question's windows, minus the score of the best answer.
    """
    count, length = features.input_ids.shape
    kept = min(n_best_size, length * max_answer_length)
    found = []
    for first in range(0, count, 64):  # so that the scores of all spans fit into the CPU cache
        part = slice(first, first + 64)
        start_scores = np.where(features.is_max_context[part], outputs["start_logits"][part], -np.inf)
        end_scores = np.where(features.char_start[part] >= 0, outputs["end_logits"][part], -np.inf)
        end_scores = np.pad(end_scores, ((0, 0), (0, max_answer_length - 1)), constant_values=-np.inf)
        later_ends = np.lib.stride_tricks.sliding_window_view(end_scores, max_answer_length, axis=1)
        scores = (start_scores[:, :, np.newaxis] + later_ends).reshape(len(start_scores), -1)
        spans = np.sort(np.argpartition(scores, -kept, axis=1)[:, -kept:], axis=1)
        best = np.take_along_axis(scores, spans, axis=1)
        rows, columns = np.nonzero(best > -np.inf)
        starts, reach = np.divmod(spans[rows, columns], max_answer_length)
        found.append((rows + first, starts, starts + reach, best[rows, columns]))
    answers = _n_best(examples, features, *(np.concatenate(parts) for parts in zip(*found)), n_best_size)
    null_scores = _least(examples, features, outputs["start_logits"][:, 0] + outputs["end_logits"][:, 0])
    return answers, {id_: score - answers[id_][0].score for id_, score in null_scores.items()}


def _least(examples, features: Features, scores: np.ndarray) -> Dict[str, float]:
    """The minimum of `scores` [N] over the windows of each question."""
    least = np.full(len(examples), np.inf)
    np.minimum.at(least, features.example_index, scores)
    return {example.id: score for example, score in zip(examples, least.tolist())}


def _n_best(examples, features: Features, rows, starts, ends, scores, n_best_size: int) -> Dict[str, List[Answer]]:
    """The n best of the spans [spans] of each question; equal scores keep their order."""
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
        best = best or {"": (0, 0, 0.0)}
        top = next(iter(best.values()))[2]
        weights = [math.exp(score - top) for _, _, score in best.values()]
        answers[example.id] = [Answer(text, *span, weight / sum(weights))
                               for (text, span), weight in zip(best.items(), weights)]
    return answers


def predictions(nbest: Dict[str, List[Answer]], null_odds: Dict[str, float],
                threshold: Optional[float] = None) -> Dict[str, str]:
    """The best text of every question, or "" if its null odds exceed `threshold` (None: never)."""
    return {id_: "" if threshold is not None and null_odds[id_] > threshold else answers[0].text
            for id_, answers in nbest.items()}
