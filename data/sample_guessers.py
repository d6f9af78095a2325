"""Guessers: what can be guessed at a masked position without a neural network, for comparison with a trained model.

The score is the accuracy of the best single guess for one masked WordPiece. Unigram guesses the most frequent piece,
bigram the most frequent follower of the preceding piece; both are counted on nine documents out of ten, in the first
8 MB, and all three are scored on the tenth document. The oracle knows the grammar, the province and every draw but the
masked one. It is an upper bound: a piece counts as certain (1.0) unless it belongs to a single word drawn from a list;
then it counts as the share of its likeliest value among the words of that list that agree with the other pieces of the
word, and with "a" or "an" before it. Values (names, years, numbers, trades) whose word occurs again in the document are
certain, and a year is taken as known to 20 years, a quantity to 20% or 10.
"""
from __future__ import annotations

import collections
import functools
import os
import re
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np
from sample_documents import Document
from sample_templates import FIRST_MARK, MARKS

from tokenization import ElectraTokenizer

GUESSER_BYTES = 8_000_000  # guessers look at no more than this
SCORED_EVERY = 10


def score_guessers(corpus_dir: str, scored: List[Document], tokenizer: ElectraTokenizer) -> dict:
    """Accuracy of the unigram, bigram and oracle guessers at the pieces of the `scored` documents, which are marked."""
    size, start = tokenizer.vocab_size, tokenizer.vocab_size  # `start` precedes a document's first piece
    counted = [np.array([start, *ids]) for ids in tokenizer.encode_batch(list(_counted_documents(corpus_dir)))]
    unigrams = np.bincount(np.concatenate([ids[1:] for ids in counted]), minlength=size)
    pairs, pair_counts = np.unique(np.concatenate([ids[:-1] * size + ids[1:] for ids in counted]), return_counts=True)
    order = np.lexsort((-pairs, pair_counts))  # the most frequent last; of equals the lowest id
    follower = np.full(size + 1, unigrams.argmax())
    follower[pairs[order] // size] = pairs[order] % size  # later assignments win

    hits, oracle, total = collections.Counter(), 0.0, 0
    for document in scored:
        ids, chances = oracle_chances(document, tokenizer)
        before = np.array([start, *ids[:-1]])
        hits.update(unigram=int((ids == unigrams.argmax()).sum()), bigram=int((ids == follower[before]).sum()))
        oracle += float(chances.sum())
        total += len(ids)
    _rivals.cache_clear()  # they keep the tokenizer in memory
    _pieces.cache_clear()
    return dict(scored_pieces=total, unigram=round(hits["unigram"] / total, 4), bigram=round(hits["bigram"] / total, 4),
                oracle=round(oracle / total, 4))


def _counted_documents(corpus_dir: str) -> Iterator[str]:
    """Documents of the first megabytes as one line each, without those that are scored."""
    index = size = 0
    for name in sorted(os.listdir(corpus_dir)):
        with open(os.path.join(corpus_dir, name), encoding="utf-8") as file:
            lines: List[str] = []
            for line in file:
                if line != "\n":
                    lines.append(line.rstrip("\n"))
                    continue
                if size >= GUESSER_BYTES:
                    return
                if index % SCORED_EVERY != SCORED_EVERY - 1:
                    yield " ".join(lines)
                index, size, lines = index + 1, size + sum(map(len, lines)), []


def oracle_chances(document: Document, tokenizer: ElectraTokenizer) -> Tuple[np.ndarray, np.ndarray]:
    """Ids of a marked document's pieces, and for each the chance that the oracle's guess is right."""
    text, *rest = MARKS.split(" ".join(document.sentences))
    draws = {}
    for mark, piece in zip(rest[::2], rest[1::2]):
        draws[len(text)] = document.draws[ord(mark) - FIRST_MARK]
        text += piece
    occurrences = collections.Counter(re.findall(r"\w+", text.lower()))
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    words = collections.defaultdict(list)
    for position, word in enumerate(encoding.word_ids):
        words[word].append(position)
    ids, offsets = encoding.ids, encoding.offsets  # properties that make a list at every call
    chances = np.ones(len(ids))
    for positions in words.values():
        start, end = offsets[positions[0]][0], offsets[positions[-1]][1]
        draw, shown = draws.get(start), text[start:end].lower()
        stem = draw.word.lower() if draw else ""
        if not draw or not shown.startswith(stem):
            continue
        if draw.is_value and occurrences[stem] + occurrences[stem + "s"] > 1:
            continue
        article = re.search(r"\b(an?) $", text[max(0, start - 3):start].lower())
        rivals = _rivals(tokenizer, draw.pool, shown[len(stem):], article and article.group(1))
        pieces = tuple(ids[position] for position in positions)
        for place, position in enumerate(positions):
            chances[position] = rivals.get((place, pieces[:place], pieces[place + 1:]), 1.0)
    return np.array(ids), chances


@functools.lru_cache(maxsize=None)
def _rivals(tokenizer: ElectraTokenizer, pool: Sequence, suffix: str, article: Optional[str]) -> dict:
    """{(place, pieces before, pieces after): share of the likeliest piece there}, over the words of `pool`."""
    found = collections.defaultdict(collections.Counter)
    for word in pool:
        word = str(word).lower() + suffix
        if article and article != ("an" if re.match("[aeiou]|honest", word) else "a"):
            continue
        pieces = _pieces(tokenizer, word)
        for place, piece in enumerate(pieces):
            found[place, pieces[:place], pieces[place + 1:]][piece] += 1
    return {key: max(counts.values()) / sum(counts.values()) for key, counts in found.items()}


@functools.lru_cache(maxsize=None)
def _pieces(tokenizer: ElectraTokenizer, word: str) -> Tuple[int, ...]:
    return tuple(tokenizer.encode(word).ids)
