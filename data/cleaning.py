"""Which documents are left out of a corpus: filters, exact duplicates and near-duplicates.

Filters look at one document each (`Filters.reason`). Duplicates:

exact       the same text: the key of a document is a hash of its text, so they have the same key
near        an estimated Jaccard similarity of at least `near_duplicate_similarity` between the sets of SHINGLE_WORDS
            successive words (characters, where a language has no spaces). MinHash (Broder 1997) with PERMUTATIONS
            hashes by the library rensa; candidates agree in all rows of one of BANDS bands, and are then compared by
            their whole signatures.

Of documents that are the same, the first in the order of the input stays.
"""
from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import re
import unicodedata
from typing import List, Optional, Sequence

import numpy as np

from configuration import UserError

SHINGLE_WORDS = 5
PERMUTATIONS, BANDS = 128, 32  # four rows a band: finds 80% of the pairs at 0.47, 99.8% at 0.65
LANGUAGE_CHARACTERS = 3000  # of a document, from which its language is identified
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")

# --- Characters ---

OTHER, LETTER, DIGIT, MARKUP, SPACE = range(5)


@functools.lru_cache(maxsize=None)
def character_classes() -> np.ndarray:
    """The class of each code point: uint8 [1114112]. Marks count as letters: scripts of India consist of both."""
    classes = np.zeros(0x110000, np.uint8)
    for code in range(0x30000):  # beyond are rare ideographs, and nothing else
        category = unicodedata.category(chr(code))
        classes[code] = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE}.get(category[0], OTHER)
    classes[0x30000:0x32000] = LETTER
    classes[[ord(character) for character in "<>{}[]|\\=#~^`_*@$%&;"]] = MARKUP
    classes[[9, 10, 13]] = SPACE
    return classes


def count_classes(text: str) -> List[int]:
    """How many characters of each class a text has."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
    return np.bincount(character_classes()[codes], minlength=5).tolist()


# --- Filters ---

FILTERS = {
    "short": "fewer characters than --min_characters",
    "few letters": "letters are fewer than --min_letters of the characters",
    "digits": "digits are more than --max_digits of the characters",
    "markup": "characters of markup and code are more than --max_markup of the characters",
    "repeated lines": "lines that occurred before are more than --max_repeated_lines of the text",
    "repeated words": "distinct words are fewer than --min_distinct_words of the first 500",
    "language": "identified as another language than --language",
    "exact duplicate": "the same text as another document",
    "near duplicate": "nearly the same text as another document",
}


@dataclasses.dataclass(frozen=True)
class Filters:
    """The options of prepare_corpus.py that filters need; 0, or 1 for a maximum, switches one off."""

    min_characters: int
    min_letters: float
    max_digits: float
    max_markup: float
    max_repeated_lines: float
    min_distinct_words: float
    language: str = ""  # empty: of any language

    def reason(self, text: str) -> Optional[str]:
        """Why a document is left out, a key of FILTERS; None: it stays."""
        if len(text) < self.min_characters:
            return "short"
        counts = count_classes(text)
        visible = max(1, len(text) - counts[SPACE])
        if counts[LETTER] < self.min_letters * visible:
            return "digits" if counts[DIGIT] > self.max_digits * visible else "few letters"
        if counts[DIGIT] > self.max_digits * visible:
            return "digits"
        if counts[MARKUP] > self.max_markup * visible:
            return "markup"
        if self.max_repeated_lines < 1 and repeated_share(text) > self.max_repeated_lines:
            return "repeated lines"
        words = text[:5000].lower().split()[:500]
        if len(words) >= 100 and len(set(words)) < self.min_distinct_words * len(words):
            return "repeated words"
        if self.language and identify(text) != self.language.partition("-")[0].lower():
            return "language"
        return None


def repeated_share(text: str) -> float:
    """Share of the characters that are in lines which occurred before in the same text."""
    seen = collections.Counter(text.split("\n"))
    if len(seen) == text.count("\n") + 1:
        return 0.0
    return sum(len(line) * (count - 1) for line, count in seen.items()) / len(text)


def identify(text: str) -> str:
    """The language of a text, as ISO 639-1. The model is part of the library."""
    import py3langid  # takes 0.3 s, and most calls do not need it
    return py3langid.classify(text[:LANGUAGE_CHARACTERS])[0]


def check_language(language: str):
    """Raises UserError: the library does not identify the language."""
    import py3langid
    known = sorted(name for name, _ in py3langid.rank("text"))
    if language.partition("-")[0].lower() not in known:
        raise UserError(f"--filter_language does not know --language={language}, only {', '.join(known)}: omit "
                        "--filter_language.")


# --- Duplicates ---


def key_of(text: str, seed: int) -> bytes:
    """16 bytes, a pure function of the seed and the text: the place of a document in the corpus."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16, key=b"%d" % seed).digest()


def signature(text: str) -> List[int]:
    """MinHash of a text: PERMUTATIONS numbers of 32 bits."""
    import rensa  # prepare_corpus.check_libraries says how to install it
    lowered = text.lower()
    words: Sequence[str] = re.findall(r"\w+", lowered)
    between = " "
    if len(_NO_SPACES.findall(lowered[:2000])) > 0.3 * len(lowered[:2000]):
        words, between = "".join(words), ""
    size = SHINGLE_WORDS if between else 2 * SHINGLE_WORDS
    minhash = rensa.RMinHash(num_perm=PERMUTATIONS, seed=1)
    minhash.update([between.join(words[begin:begin + size]) for begin in range(max(1, len(words) - size + 1))])
    return minhash.digest()
