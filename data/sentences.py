"""Splits paragraphs into sentences, in about 300 languages, with the library `sentencex` and three corrections.

The library was the best of six in speed and in hand-checked cases (docs/corpus.md has the figures), and its rules and
abbreviations are part of it: nothing is downloaded. Corrections:

1.  It keeps a quotation together. One of more than LONG_QUOTATION characters is split at the sentences inside it,
    because the dataset builder truncates what is longer than a record.
2.  What begins with a lower-case letter belongs to the sentence before it (`"Who?" asked the man.`), unless that has
    no capitals; so does what has no letters or digits, such as a closing quotation mark.
3.  Abbreviations and ordinal numbers that it does not know do not end a sentence (NOT_FINAL, GERMAN_ORDINAL).

The text of a paragraph is kept; only white space between sentences is dropped.
"""
from __future__ import annotations

import re
from typing import Iterable, List

LONG_QUOTATION = 250  # characters

# By language; after these a full stop does not end a sentence, although a capital or a number follows.
NOT_FINAL = {
    "en": {"app", "ch", "eq", "fig", "figs", "hon", "lieut", "messrs", "mme", "op", "pp", "ref", "rev", "sec", "vol",
           "vols"},
    "fr": {"av", "chap", "fig", "m", "me", "mgr", "mlle", "mm", "mme", "mmes", "st", "ste", "vol"},
    "de": {"abb", "abs", "art", "aufl", "bd", "evtl", "frl", "hl", "hrsg", "kap", "nr", "sog", "st", "tab", "verf"},
    "es": {"cap", "da", "dra", "fig", "lic", "pág", "sra", "srta", "sto", "vol"},
    "it": {"avv", "cap", "dott", "fig", "ing", "pag", "prof", "sig", "vol"},
    "pt": {"cap", "dra", "fig", "pág", "sra", "vol"},
    "nl": {"afb", "blz", "dhr", "dr", "hfst", "mevr", "mr", "nr"},
    "pl": {"al", "dr", "im", "inż", "mgr", "nr", "pl", "prof", "rys", "św", "tys", "ul"},
    "ru": {"г", "гг", "им", "илл", "рис", "св", "стр", "табл", "ул"},
}
GERMAN_ORDINAL = re.compile(
    r"(Jahrhundert|Jahrtausend|Jh|Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|"
    r"Lebensjahr|Jahrestag|Geburtstag|Platz|Mal|Tag|Stock|Etage|Klasse|Auflage|Kapitel|Band|Armee|Division|Liga|"
    r"Bundestag|Spieltag|Minute|Runde|Weltkrieg)")
_LAST_WORD = re.compile(r"(?<![\w.])([^\W\d_]+)\.\s*$")
_OPENING = re.compile(r"(?<![^\s(\[—–-])[\"“„«‘'‹]")
_WORD = re.compile(r"[^\W_]")
_AFTER_JAPANESE = re.compile(r"(と|って|など|の|は|が|を|に|も|とか)")


def _segment(language: str, text: str) -> Iterable[str]:
    import sentencex  # prepare_corpus.check_libraries says how to install it
    return sentencex.segment(language, text)


def split(paragraph: str, language: str) -> List[str]:
    """The sentences of a paragraph.

    Args:
        language: a code of ISO 639, such as `de`; one that the library does not know gets its general rules.
    """
    found: List[str] = []
    for piece in _segment(language, paragraph):
        found += _split_quotation(piece, language) if len(piece) > LONG_QUOTATION else [piece]
    if len(found) > 1:
        found = _join(found, language)
    return [sentence for sentence in map(str.strip, found) if sentence]


def _split_quotation(piece: str, language: str) -> List[str]:
    """Splits as if there were no opening quotation marks, so that nothing counts as quoted."""
    masked = _OPENING.sub("\u2060", piece)
    if masked == piece:
        return [piece]
    parts, begin = [], 0
    for part in _segment(language, masked):
        parts.append(piece[begin:begin + len(part)])
        begin += len(part)
    return [*parts, piece[begin:]]


def _join(pieces: List[str], language: str) -> List[str]:
    language = language.partition("-")[0].lower()
    known, joined = NOT_FINAL.get(language, ()), pieces[:1]
    for piece in pieces[1:]:
        before = joined[-1]
        if piece[:1].islower() and not before.islower() or not _WORD.search(piece):
            together = True
        elif language == "ja" and before.endswith(("」", "』")) and _AFTER_JAPANESE.match(piece):
            together = True
        elif language == "de" and re.search(r"\b[0-9]{1,3}\.\s*$", before) and GERMAN_ORDINAL.match(piece):
            together = True
        else:
            last = known and _LAST_WORD.search(before)
            together = last and last[1].lower() in known
        if together:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
