"""Tagging of words (named entities, chunks, parts of speech): files to words and tags, words to windows, tags to spans.

Files (`read`), one sentence or document of any length at a time:

    columns     one word a line, its columns separated by tabs or spaces, the last one its tag; a blank line ends a
                sentence (CoNLL 2003). Lines of -DOCSTART-, and lines that begin with # and have another number of
                columns, are left out.
    .jsonl      JSON lines: {"text": "...", "spans": [{"start": 0, "end": 5, "label": "PER"}]} with places in characters
                (`entities` or `label` in place of `spans`, and [0, 5, "PER"], are read too), or
                {"words": ["..."], "tags": ["B-PER"]} (or `tokens`, `ner_tags`)

Schemes: `bio` (B- begins a span, I- continues it, O is outside), `bioes` (E- ends it, S- is a span of one word), or
`plain`: every word has a tag, such as its part of speech. Spans are read as conlleval and seqeval do, so that IOB1,
where I- may begin a span, becomes BIO.

A tag belongs to the first token of its word (Devlin et al. 2019, section 5.3); the other tokens have none. A text that
is longer than a window is split into overlapping windows; each word is trained on and predicted in the one window where
it has most context (squad_utils.max_context_windows).
"""
from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from absl import logging

import batching
import configuration
import squad_utils
import task_metrics
import tokenization
from configuration import RunFailed, UserError
from deferred import tensorflow as tf

SCHEMES = ("bio", "bioes", "plain")
OUTSIDE = "O"

# --- Files ---


class Sentence(NamedTuple):
    """A sentence or document."""

    id: str
    text: str
    words: Tuple[Tuple[int, int], ...]  # first character and end (exclusive) of each word in the text
    tags: Optional[Tuple[str, ...]]  # of each word, as in the file; None: unknown
    where: str  # file and line


def read(path: str, needs_tags: bool = True, word_column: int = 0, tag_column: int = -1) -> List[Sentence]:
    """Reads a file; see the formats above.

    Args:
        needs_tags: False for texts to tag, whose tags are optional.
        word_column, tag_column: of a file of columns, from 0; negative ones count from the last.
    Raises: UserError: the file cannot be read or is in no such format, or there is no sentence.
    """
    if path.endswith((".jsonl", ".json")):
        sentences = list(_read_json_lines(path, needs_tags))
    else:
        sentences = list(_read_columns(path, needs_tags, word_column, tag_column))
    if not sentences:
        raise UserError(f"{path} contains no sentences: name a file with some.")
    return sentences


def joined(words: Sequence[str], tags: Optional[Sequence[str]], id_: str, where: str) -> Sentence:
    """A sentence of words, with one space between them."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    places = tuple((int(end) - len(word), int(end)) for word, end in zip(words, ends))
    return Sentence(id_, " ".join(words), places, None if tags is None else tuple(tags), where)


def _read_columns(path: str, needs_tags: bool, word_column: int, tag_column: int) -> Iterator[Sentence]:
    rows: List[List[str]] = []
    begin, separator, count, first = "", None, 0, ""  # of the file: columns, and where the first line with words is
    number = 0
    for where, line in itertools.chain(configuration.read_lines(path), [("", "")]):
        line = line.rstrip("\r\n")
        if not line.strip() or line.startswith("-DOCSTART-"):
            if rows:
                number += 1
                words, tags = ([row[column] for row in rows] for column in (word_column, tag_column))
                yield joined(words, tags if needs_tags or count > 1 else None, str(number), begin)
            rows = []
            continue
        if not first and not line.startswith("#"):
            separator = "\t" if "\t" in line else None
            count, first = len(line.split(separator)), where
            fewest = max(column + 1 if column >= 0 else -column for column in (word_column, tag_column))
            if count < max(fewest, 2 if needs_tags else 1):
                raise UserError(f"{where}: {_columns(count)}, which is too few: give a word and its tag, separated by "
                                "a tab or spaces, on each line.")
        row = line.split(separator)
        if line.startswith("#") and len(row) != count:
            continue
        if len(row) != count:
            raise UserError(f"{where}: {_columns(len(row))}, but the first line with words ({first}) has {count}: give "
                            "every line as many, and an empty line after each sentence.")
        if not row[word_column].strip() or not row[tag_column].strip():
            raise UserError(f"{where}: the word or its tag is empty: give both.")
        begin = begin if rows else where
        rows.append([cell.strip() for cell in row])


def _columns(count: int) -> str:
    return f"{count} column{'s' if count != 1 else ''}"


def _read_json_lines(path: str, needs_tags: bool) -> Iterator[Sentence]:
    misplaced: List[str] = []
    for number, (where, line) in enumerate(configuration.read_lines(path), 1):
        if not line.strip():
            continue
        entry = configuration.parse_json_object(line, where)
        id_ = entry.get("id", str(number))
        if not isinstance(id_, (str, int, float)):
            raise UserError(f"{where}: id is {configuration.in_brief(id_)}, not text or a number: correct it.")
        words = entry.get("words", entry.get("tokens"))
        if words is not None:
            yield _of_words(entry, words, str(id_), where, needs_tags)
            continue
        text = entry.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: text is {'missing' if text is None else 'empty or not a text'}: add it, or "
                            "`words` and `tags`.")
        spans = next((entry[key] for key in ("spans", "entities", "label", "labels") if key in entry), None)
        if spans is None and needs_tags:
            raise UserError(f"{where}: spans are missing: add them, [] where there are none.")
        words = split_words(text)
        tags = None if spans is None else _tags_of_spans(spans, text, words, where, misplaced)
        yield Sentence(str(id_), text, words, tags, where)
    if misplaced:
        logging.warning("%s: %d spans begin or end inside a word, and were extended to the whole word; the first is at "
                        "%s.", path, len(misplaced), misplaced[0])


def _of_words(entry: dict, words, id_: str, where: str, needs_tags: bool) -> Sentence:
    tags = next((entry[key] for key in ("tags", "ner_tags", "labels") if key in entry), None)
    for name, values in (("words", words), ("tags", tags)):
        if values is None and not needs_tags:
            continue
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise UserError(f"{where}: {name} is {configuration.in_brief(values)}, not a list of texts: correct it.")
    if not words or tags is not None and len(tags) != len(words):
        raise UserError(f"{where}: {len(words)} words and {len(tags or ())} tags: give a tag for every word.")
    return joined(words, tags, id_, where)


class Span(NamedTuple):
    """A part of a text."""

    start: int  # first character
    end: int  # exclusive
    label: str
    text: str
    probability: float = 1.0


def _tags_of_spans(spans, text: str, words, where: str, misplaced: List[str]) -> Tuple[str, ...]:
    """The tags, in BIO, of the words that spans of characters overlap."""
    starts, ends = np.array(words, int).reshape(-1, 2).T
    tags = [OUTSIDE] * len(words)
    for span in sorted((_span(span, text, where) for span in _as_list(spans, where)), key=lambda span: span[:2]):
        first, last = int(np.searchsorted(ends, span.start, "right")), int(np.searchsorted(starts, span.end)) - 1
        if first > last:
            raise UserError(f"{where}: the span {span.start} to {span.end} contains no word: correct or remove it.")
        if any(tag != OUTSIDE for tag in tags[first:last + 1]):
            raise UserError(f"{where}: the span {span.start} to {span.end} overlaps another, and a word has one tag: "
                            "keep one of them.")
        if not text[span.start:span.end].strip() == text[starts[first]:ends[last]]:
            misplaced.append(where)
        tags[first:last + 1] = [f"B-{span.label}", *[f"I-{span.label}"] * (last - first)]
    return tuple(tags)


def _as_list(spans, where: str) -> list:
    if not isinstance(spans, list):
        raise UserError(f"{where}: spans is {configuration.in_brief(spans)}, not a list: correct it.")
    return spans


def _span(entry, text: str, where: str) -> Span:
    values = [entry.get(key) for key in ("start", "end", "label")] if isinstance(entry, dict) else entry
    if not isinstance(values, list) or [type(value) for value in values] != [int, int, str] or not values[2].strip():
        raise UserError(f"{where}: the span {configuration.in_brief(entry)} has no start, end (integers) and label "
                        "(text): correct it.")
    start, end, label = values
    if not 0 <= start < end <= len(text):
        raise UserError(f"{where}: the span {start} to {end} is not within the {len(text)} characters of the text: "
                        "correct it.")
    return Span(start, end, label, text[start:end])


# --- Words ---


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """`space`, `letter` (letters, digits, marks), `alone`, or `nothing` (control characters, which BERT removes)."""
    category = unicodedata.category(character)
    if character.isspace():
        return "space"
    if category in ("Cc", "Cf", "Cs"):
        return "nothing"
    if "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or (
            "\U00020000" <= character <= "\U0003ffff"):
        return "alone"  # Chinese and Japanese do not separate words
    return "letter" if category[0] in "LNM" else "alone"


def split_words(text: str) -> Tuple[Tuple[int, int], ...]:
    """The words of a text, as BERT splits it: at white space, and every punctuation character and ideograph by itself.

    Returns: first character and end (exclusive) of each.
    """
    words: List[List[int]] = []
    inside = False  # a word of letters
    for place, character in enumerate(text):
        kind = _kind(character)
        if kind == "letter" and inside:
            words[-1][1] = place + 1
        elif kind in ("letter", "alone"):
            words.append([place, place + 1])
        if kind != "nothing":
            inside = kind == "letter"
    return tuple((start, end) for start, end in words)


# --- Schemes ---

_PREFIXES = {"bio": "BI", "bioes": "BIES"}


def find_scheme(sentences: Iterable[Sentence]) -> str:
    """The scheme of the tags in a file: `plain` if no tag has a prefix of BIOES."""
    prefixes = {tag[0] for sentence in sentences for tag in set(sentence.tags) if re.fullmatch("[BIES]-.+", tag)}
    return "plain" if not prefixes else "bioes" if prefixes & {"E", "S"} else "bio"


def with_scheme(sentences: Sequence[Sentence], scheme: Optional[str] = None) -> Tuple[List[Sentence], str]:
    """Sentences with their tags in a scheme (default: that of the file), and the scheme.

    Raises: UserError: a tag that does not belong to a scheme, with its place.
    """
    found = find_scheme(sentences)
    if found == "plain":
        tagged = any(tag != OUTSIDE for sentence in sentences for tag in sentence.tags)
        if scheme in _PREFIXES and tagged:
            raise UserError(f"{sentences[0].where}: no tag has a prefix such as B- or I-, which {scheme.upper()} "
                            "needs: use the scheme plain, or correct the tags.")
        return list(sentences), scheme or "plain"
    if scheme == "plain":
        return list(sentences), scheme
    rewritten, changed = [], 0
    for sentence in sentences:
        wrong = next((place for place, tag in enumerate(sentence.tags)
                      if tag != OUTSIDE and not re.fullmatch(f"[{_PREFIXES[found]}]-.+", tag)), None)
        if wrong is not None:
            word = sentence.text[slice(*sentence.words[wrong])]
            raise UserError(f"{sentence.where}: word {wrong + 1}, {configuration.in_brief(word)}, has the tag "
                            f"{configuration.in_brief(sentence.tags[wrong])}: tags are {OUTSIDE}, or a prefix "
                            f"({', '.join(_PREFIXES[found])}) and a type, such as B-PER.")
        spans = task_metrics.spans_of(sentence.tags)
        changed += write_tags(spans, len(sentence.words), found) != sentence.tags
        rewritten.append(sentence._replace(tags=write_tags(spans, len(sentence.words), scheme or found)))
    if changed:
        logging.info("%d of %d sentences have spans that begin without B- or end without E-; they were read as "
                     "conlleval reads them.", changed, len(sentences))
    return rewritten, scheme or found


def write_tags(spans: Iterable[Tuple[str, int, int]], count: int, scheme: str) -> Tuple[str, ...]:
    """Tags of `count` words. spans: (type, first word, last word), which do not overlap."""
    tags = [OUTSIDE] * count
    for type_, first, last in spans:
        tags[first:last + 1] = ["B-" + type_, *["I-" + type_] * (last - first)]
        if scheme == "bioes":
            tags[last] = ("S-" if first == last else "E-") + type_
    return tuple(tags)


def labels_of(sentences: Iterable[Sentence], scheme: str) -> Tuple[str, ...]:
    """The labels of a model: all tags that the types in the data can have, O first."""
    tags = {tag for sentence in sentences for tag in sentence.tags}
    if scheme == "plain":
        return tuple(sorted(tags, key=lambda tag: (tag != OUTSIDE, tag)))
    types = sorted({tag[2:] for tag in tags - {OUTSIDE}})
    return (OUTSIDE, *(f"{prefix}-{type_}" for type_ in types for prefix in _PREFIXES[scheme]))


def check_labels(sentences: Iterable[Sentence], labels: Sequence[str]):
    """Raises UserError: a tag that is not one of a model's labels, with its place."""
    known = set(labels)
    for sentence in sentences:
        for tag in sentence.tags:
            if tag not in known:
                raise UserError(f"{sentence.where}: the tag {configuration.in_brief(tag)} does not occur in the "
                                f"training data, whose tags are {configuration.in_brief(list(labels))}: correct it, or "
                                "train with data that has it.")


def is_spans(labels: Iterable[str]) -> bool:
    """Whether labels are tags of spans, as opposed to plain ones."""
    return any(re.fullmatch("[BIES]-.+", label) for label in labels)


# --- Windows ---


class Features(NamedTuple):
    """[CLS] window of the text [SEP], padded, for every window of every sentence in order. N windows of length L."""

    input_ids: np.ndarray  # int32 [N, L]
    input_mask: np.ndarray  # int32 [N, L], 1 on tokens, 0 on padding
    segment_ids: np.ndarray  # int32 [N, L], 0
    labels: np.ndarray  # int32 [N, L], -1 where a token has none
    lengths: np.ndarray  # int32 [N], tokens
    sentence_index: np.ndarray  # int32 [N]
    first_token: np.ndarray  # int32 [N], of the text, at position 1
    is_max_context: np.ndarray  # bool [N, L], True in the one window with the most context around the token
    word_tokens: List[np.ndarray]  # by sentence: int [words], the first token of each word in the text, -1: none

    @property
    def labelled(self) -> np.ndarray:
        """Tokens with a label in each window, int [N]."""
        return (self.labels >= 0).sum(axis=1)


def default_stride(max_seq_length: int) -> int:
    """Three quarters of a window: every word but those at the ends of the text has an eighth of a window around it."""
    room = max_seq_length - 2  # [CLS] and [SEP]
    return room - room // 4


def build_features(sentences: Sequence[Sentence], tokenizer: tokenization.ElectraTokenizer, max_seq_length: int,
                   doc_stride: int, labels: Sequence[str] = ()) -> Features:
    """Tokenizes sentences and splits them into windows.

    A window starts every `doc_stride` tokens until one reaches the end; a text without tokens has one empty window.

    Args:
        labels: a model's; without them no token is labelled.
    Raises: UserError: a stride that skips tokens.
    """
    room = max_seq_length - 2  # [CLS] and [SEP]
    if not 1 <= doc_stride <= room:
        raise UserError(f"--doc_stride={doc_stride} must be between 1 and {room}, the tokens of text in a window of "
                        f"--max_seq_length={max_seq_length}.")
    tokenized = squad_utils.tokenize_contexts(list(dict.fromkeys(sentence.text for sentence in sentences)), tokenizer)
    number_of = {label: number for number, label in enumerate(labels)}
    windows = [1 + -(-max(len(tokenized[sentence.text][0]) - room, 0) // doc_stride) for sentence in sentences]
    count = sum(windows)
    input_ids = np.full((count, max_seq_length), tokenizer.pad_id, np.int32)
    label_ids, is_max_context = np.full((count, max_seq_length), -1, np.int32), np.zeros((count, max_seq_length), bool)
    lengths, first_token = (np.zeros(count, np.int32) for _ in range(2))
    word_tokens, row = [], 0
    for sentence, num_windows in zip(sentences, windows):
        ids, first_chars, end_chars = tokenized[sentence.text]
        of_word = _word_tokens(sentence, first_chars, end_chars)
        word_tokens.append(of_word)
        token_labels = np.full(len(ids), -1, np.int32)
        if labels and sentence.tags is not None:
            for token, tag in reversed(list(zip(of_word.tolist(), sentence.tags))):  # the first word of a token wins
                if token >= 0:
                    token_labels[token] = number_of[tag]
        best = squad_utils.max_context_windows(len(ids), room, doc_stride, num_windows)
        for window in range(num_windows):
            first = window * doc_stride
            last = min(first + room, len(ids))
            own = best[first:last] == window
            input_ids[row, :last - first + 2] = [tokenizer.cls_id, *ids[first:last], tokenizer.sep_id]
            is_max_context[row, 1:1 + last - first] = own
            label_ids[row, 1:1 + last - first] = np.where(own, token_labels[first:last], -1)
            lengths[row], first_token[row] = last - first + 2, first
            row += 1
    mask = (np.arange(max_seq_length) < lengths[:, np.newaxis]).astype(np.int32)
    return Features(input_ids, mask, np.zeros_like(mask), label_ids, lengths,
                    np.repeat(np.arange(len(sentences), dtype=np.int32), windows), first_token, is_max_context,
                    word_tokens)


def _word_tokens(sentence: Sentence, first_chars: np.ndarray, end_chars: np.ndarray) -> np.ndarray:
    """The first token of each word, int [words]; -1 for a word without one, such as a lone control character."""
    words = np.array(sentence.words, int).reshape(-1, 2)
    token = np.searchsorted(end_chars, words[:, 0], side="right")
    inside = token < len(first_chars)
    inside[inside] = first_chars[token[inside]] < words[inside, 1]
    return np.where(inside, token, -1)


NETWORK_INPUTS = ("input_ids", "input_mask", "segment_ids")


def feed(features: Features, batch: batching.Batch, batch_size: int, labels: bool = False,
         num_labelled: Optional[float] = None) -> Dict[str, tf.Tensor]:
    """The tensors of a batch, padded to `batch_size` rows with its first row, which then has weight 0.

    Args:
        labels: add what training needs.
        num_labelled: divisor of the loss's sum over labelled tokens (default: those of the batch).
    """
    rows, weights = batching.filled_rows(batch, batch_size)
    names = (*NETWORK_INPUTS, "labels") if labels else NETWORK_INPUTS
    tensors = {name: tf.constant(getattr(features, name)[rows, :batch.length]) for name in names}
    if labels:
        tensors["weights"] = tf.constant(weights)
        own = num_labelled if num_labelled is not None else features.labelled[batch.rows].sum()
        tensors["num_labelled"] = tf.constant(max(float(own), 1.0))
    return tensors


# --- Predictions ---


class Tagged(NamedTuple):
    """What a model predicts for a sentence."""

    tags: Tuple[str, ...]  # of each word
    probabilities: np.ndarray  # float32 [words], of these tags


def decode(features: Features, parts: Iterable[Tuple[batching.Batch, np.ndarray]], labels: Sequence[str]
           ) -> List[Tagged]:
    """The tags of every sentence.

    Args:
        parts: batches and the logits of their rows, float [n, length, labels].
    Raises: RunFailed: logits are not finite.
    """
    tokens = [int(of_word.max(initial=-1)) + 1 for of_word in features.word_tokens]
    best = [np.zeros(count, int) for count in tokens]
    certain = [np.ones(count, np.float32) for count in tokens]
    for batch, logits in parts:
        if not np.isfinite(logits).all():
            raise RunFailed("the model's logits are NaN or infinite: its weights are damaged, use another checkpoint.")
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chosen, probability = logits.argmax(axis=-1), 1.0 / shifted.sum(axis=-1)  # the largest is exp(0)
        for place, row in enumerate(batch.rows.tolist()):
            sentence = features.sentence_index[row]
            positions = np.flatnonzero(features.is_max_context[row])
            token = positions - 1 + features.first_token[row]
            kept = token < tokens[sentence]
            best[sentence][token[kept]] = chosen[place, positions[kept]]
            certain[sentence][token[kept]] = probability[place, positions[kept]]
    return [_tagged(of_word, best[number], certain[number], labels)
            for number, of_word in enumerate(features.word_tokens)]


def _tagged(of_word: np.ndarray, best: np.ndarray, certain: np.ndarray, labels: Sequence[str]) -> Tagged:
    outside = labels.index(OUTSIDE) if OUTSIDE in labels else 0
    chosen = np.where(of_word < 0, outside, np.append(best, 0)[of_word])
    return Tagged(tuple(labels[number] for number in chosen.tolist()),
                  np.where(of_word < 0, 1.0, np.append(certain, 1.0)[of_word]).astype(np.float32))


def spans_in(sentence: Sentence, tags: Sequence[str], plain: bool = False, probabilities: Optional[np.ndarray] = None
             ) -> List[Span]:
    """The spans that tags mark, with their places in the text. A span is as probable as its least probable word.

    Args:
        plain: the tags are plain ones: a span for every word whose tag is not O.
    """
    spans = ([(tag, place, place) for place, tag in enumerate(tags) if tag != OUTSIDE] if plain
             else task_metrics.spans_of(tags))
    found = []
    for label, first, last in spans:
        start, end = sentence.words[first][0], sentence.words[last][1]
        probability = 1.0 if probabilities is None else float(np.min(probabilities[first:last + 1]))
        found.append(Span(start, end, label, sentence.text[start:end], probability))
    return found
