"""Makes running text of Project Gutenberg's plain text books.

    python -c 'import gutenberg; print(gutenberg.clean(open("1342.txt").read()))'

`clean` removes the header, the license and the credits, illustrations, notes of transcribers and tables of contents;
joins hard-wrapped lines, so that each paragraph is a line; and keeps chapter headings, verse (a stanza is a paragraph)
and footnotes. Underscores and equal signs for italics and bold are removed, as are numbers of pages and notes.

The markers have changed over fifty years, and several books have none, so nothing here relies on a single one of them.
"""
from __future__ import annotations

import re
from typing import Iterator, List, NamedTuple, Optional, Set

HEADER_SHARE, FOOTER_SHARE = 0.4, 0.5  # of the text: header markers lie before, footer markers after
CREDITS_SHARE, CREDIT_CHARACTERS = 0.04, 800  # of the text, where credits stand; of the longest credit
CONTENTS_SHARE = 0.1  # the longest table of contents

_END_OF_LINE = r"[^\n]*(?:\n[^\n]+)?"  # a long title goes on in the next line
HEADERS = re.compile(
    r"^[ \t]*(?:\*{2,3} ?START OF (?:THE |THIS )?PROJECT GUTENBERG" + _END_OF_LINE +  # since 2004
    r"|\*+ ?END ?\*? ?(?:OF )?(?:THE )?SMALL PRINT" + _END_OF_LINE +  # 1993 to 2004
    r"|\*+ ?BEGIN(?:NING)? OF (?:THE |THIS )?PROJECT GUTENBERG" + _END_OF_LINE + r")",
    re.MULTILINE | re.IGNORECASE)
FOOTERS = re.compile(
    r"^[ \t]*(?:\*{2,3} ?END OF (?:THE |THIS )?PROJECT GUTENBERG|\*+ ?START ?\*? ?(?:OF )?(?:THE )?SMALL PRINT"
    r"|(?:The )?End of (?:the |this )?Project Gutenberg|Ende? d(?:ieses|es) Project Gutenberg|Fin d[eu] (?:l'|ce )?"
    r"Project Gutenberg|End of (?:the |this )?(?:e-?text|e-?book)\b|This (?:file|e-?book) should be named\b"
    r"|Updated editions will replace the previous one)", re.MULTILINE | re.IGNORECASE)
# Bracketed, over any number of lines, with brackets inside.
BRACKETED = re.compile(r"[\[{](?:illustrations?|decoration|transcriber['’]?s['’]? notes?|editor['’]s note"
                       r"|project gutenberg)\b[^\[\]{}]{0,3000}(?:\[[^\[\]]{0,500}\][^\[\]{}]{0,3000}){0,20}[\]}]",
                       re.IGNORECASE)
CREDITS = re.compile(
    r"(?:(?:re-?|co-?)?(?:produced|prepared|transcribed|scanned|proof-?read|typed|created|digiti[sz]ed|submitted)\b.{0,60}"
    r"\b(?:by|from)\b|e-?(?:text|book)\b.{0,40}\b(?:prepared|produced|scanned|by)\b"
    r"|this (?:e-?text|e-?book|file|text)\b.{0,40}\b(?:was|is|were)\b|html (?:file|version)|\(?this file was)"
    r"|.*(?:project gutenberg|distributed proofread|pgdp\.net|internet archive|gutenberg\.(?:org|net))",
    re.IGNORECASE | re.DOTALL)
FIRST_LINE = re.compile(r"[\s\ufeff*]*(?:(?:the )?project gutenberg(?:['’]s)? (?:e-?book|e-?text)|produced by |e-?text "
                        r"prepared by )", re.IGNORECASE)
NOTES_HEADING = re.compile(r"transcriber['’]?s['’]? (?:end)?notes?:?", re.IGNORECASE)
CONTENTS_HEADING = re.compile(r"(?:the |table of |list of )?(?:contents|illustrations|chapters|inhalt(?:sverzeichnis)?|"
                              r"table des mati[eè]res|[ií]ndice|inhoud|sis[aä]lt[oö]|inneh[aå]ll)(?: of .{1,40})?[.:]?",
                              re.IGNORECASE)
PAGE_OR_NOTE = re.compile(r" ?(?:\[(?:pg\.?|page|p\.) ?[\divxlc]{1,6}\]|\{\d{1,4}\}|(?<=\S)\[(?:\d{1,3}|[A-Z*†])\])",
                          re.IGNORECASE)
# _italics_, also of a part of a word; =bold= and ~other type~. A row of underscores is a blank.
EMPHASIS = re.compile(r"(?<!_)_(?!_)([^_]{1,2000})(?<!_)_(?!_)|(?<![\w=])=([^=\s](?:[^=]{0,300}[^=\s])?)=(?![\w=])"
                      r"|(?<![\w~])~([^~\s][^~]{0,300})~(?![\w~])")
FOOTNOTE = re.compile(r"\[(?:footnote|note|anm\.|fußnote) ?[\dA-Z*]{0,4}:? ?", re.IGNORECASE)


class Block(NamedTuple):
    """Lines between blank lines, without white space at their ends."""

    lines: List[str]
    blanks: int  # blank lines before it


def is_book(beginning: str, end: str) -> bool:
    """Whether a text comes from Project Gutenberg, by its first and last thousands of characters."""
    return bool(HEADERS.search(beginning) or FOOTERS.search(end) or FIRST_LINE.match(beginning))


def clean(text: str) -> str:
    """The text of a book, one paragraph per line, without blank lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    text = BRACKETED.sub("", _body(text))
    blocks = _without_transcriber_notes(_without_credits(list(_blocks(text))))
    words = _hyphenated_words(text)
    paragraphs: List[str] = []
    for block in _without_contents(blocks):
        paragraphs += _paragraphs(block, words)
    return "\n".join(paragraphs)


def _body(text: str) -> str:
    """What lies between header and footer."""
    begin = 0
    for match in HEADERS.finditer(text, 0, int(len(text) * HEADER_SHARE) + 2000):
        begin = match.end()
    footer = FOOTERS.search(text, max(begin, int(len(text) * FOOTER_SHARE)))
    return text[begin:footer.start() if footer else len(text)]


def _blocks(text: str) -> Iterator[Block]:
    lines: List[str] = []
    blanks = 0
    for line in text.split("\n"):
        line = line.rstrip().expandtabs()
        if line:
            lines.append(line)
        else:
            if lines:
                yield Block(lines, blanks)
                lines, blanks = [], 0
            blanks += 1
    if lines:
        yield Block(lines, blanks)


def _flat(block: Block) -> str:
    return " ".join(line.strip() for line in block.lines)


def _without_credits(blocks: List[Block]) -> List[Block]:
    """Without who produced the file, and how."""
    kept, place = [], 0
    last = CREDITS_SHARE * sum(len(_flat(block)) for block in blocks) + CREDIT_CHARACTERS
    for block in blocks:
        text = _flat(block).lstrip("[(*_ ")
        if place > last or len(text) > CREDIT_CHARACTERS or not CREDITS.match(text):
            kept.append(block)
        place += len(text)
    return kept


def _without_transcriber_notes(blocks: List[Block]) -> List[Block]:
    """Without notes under a heading of their own: at the end of the book to its end, elsewhere to the next gap."""
    kept: List[Block] = []
    skipping = False
    for number, block in enumerate(blocks):
        text = _flat(block).strip("*_= ")
        if NOTES_HEADING.match(text) and len(text) < 3000:
            if number > 0.9 * len(blocks):
                break
            skipping = len(text) < 40  # the heading alone
            continue
        skipping = skipping and block.blanks < 3
        if not skipping:
            kept.append(block)
    return kept


def _without_contents(blocks: List[Block]) -> List[Block]:
    """Without tables of contents: they end where their first entry comes again, as a heading."""
    kept, number = [], 0
    longest = CONTENTS_SHARE * sum(len(_flat(block)) for block in blocks)
    while number < len(blocks):
        first = blocks[number].lines[0].strip("*_= ")
        if CONTENTS_HEADING.fullmatch(first) and number < len(blocks) / 2:
            end = _end_of_contents(blocks, number, longest)
            if end:
                number = end
                continue
        kept.append(blocks[number])
        number += 1
    return kept


def _end_of_contents(blocks: List[Block], begin: int, longest: float) -> Optional[int]:
    """The block after the table of contents that begins with block `begin`, or None if it is none.

    It ends where its first entry comes again, or with the first prose: then before the gap that precedes that.
    """
    start = begin + 1 if blocks[begin].lines[1:] else begin + 2
    entries = blocks[begin].lines[1:] or (blocks[begin + 1].lines if begin + 1 < len(blocks) else [""])
    first, size = _heading(entries[0]), 0
    for number in range(start, len(blocks)):
        heading = _heading(blocks[number].lines[0])
        if heading and (heading == first or f"{first} ".startswith(f"{heading} ") and len(heading) > 6):
            return number
        if _is_prose(blocks[number]) and heading.split()[:1] != first.split()[:1]:
            gaps = [place for place in range(max(start, number - 3), number + 1) if blocks[place].blanks >= 3]
            return gaps[-1] if gaps else number
        size += len(_flat(blocks[number]))
        if size > longest:
            break
    return None


def _heading(line: str) -> str:
    """For comparison: words in lower case, without the number of the page."""
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"[ .]{2,}\d+$", "", line.strip()).casefold()))


def _is_prose(block: Block) -> bool:
    words = _flat(block).split()
    return len(block.lines) > 2 and len(_flat(block)) > 40 * len(block.lines) and (
        sum(word.islower() for word in words) > len(words) / 2)


# --- Paragraphs ---


def _hyphenated_words(text: str) -> Set[str]:
    """All words of the book, in lower case, if lines of it end with hyphens."""
    return set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text.casefold())) if re.search(r"[^\W\d_]-\n", text) else set()


def _paragraphs(block: Block, words: Set[str]) -> List[str]:
    if not any(character.isalnum() for line in block.lines for character in line):  # * * *
        return []
    columns = sum(bool(re.search(r"\S {3,}\S", line)) for line in block.lines)
    if columns * 2 > len(block.lines):  # a table
        lines = [" ".join(line.split()) for line in block.lines]
    else:
        lines = [_join(block.lines, words)]
    found = []
    for line in lines:
        line = EMPHASIS.sub(lambda match: match[1] or match[2] or match[3], PAGE_OR_NOTE.sub("", line))
        note = FOOTNOTE.match(line)
        if note:
            line = line[note.end():].rstrip("]")
        if any(map(str.isalnum, line)):
            found.append(line.strip())
    return found


def _join(lines: List[str], words: Set[str]) -> str:
    """One line. A hyphen at the end of a line is kept, unless the book has the word without it, and not with it."""
    text = " ".join(lines[0].split())
    for line in lines[1:]:
        line = " ".join(line.split())
        if text.endswith("--") or text.endswith("—"):
            text += line
        elif text.endswith("-") and line[:1].isalpha() and text[-2:-1].isalpha():
            left = re.search(r"[^\W\d_]+(?:-[^\W\d_]+)*-$", text[-100:])[0].casefold()
            right = re.match(r"[^\W\d_]+", line)[0]
            whole = (left[:-1] + right).casefold()
            text = (text[:-1] if whole in words and left + right.casefold() not in words else text) + line
        else:
            text += " " + line
    return text
