"""Templates of sentences, and the writer that fills them in.

    [a|b|c]     one of the alternatives, equally likely, nested to any depth; an empty one leaves the phrase out
    {slot}      a value of the document: a name, a year, a pronoun
    <list>      one of the alternatives of that list in world/words.txt
    #12-40#     a whole number from that range; #100-900:50# in steps of 50
"a" becomes "an" before a vowel, and sentences are capitalized.

The oracle of sample_guessers.py has to know what could have stood in a word's place. With `Writer.marking`, every
single word that was drawn is preceded by a mark: a private-use character whose index is that of the draw. Words of
alternatives with several words are not marked: the rest of the alternative gives them away.
"""
from __future__ import annotations

import os
import re
from typing import Dict, List, NamedTuple, Sequence

WORLD_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "world")
FIRST_MARK = 0xE000  # marks are the private-use characters U+E000 to U+F8FF
MAX_MARKS = 0x1900   # words beyond stay unmarked, which only raises the oracle
MARKS = re.compile(f"([{chr(FIRST_MARK)}-{chr(FIRST_MARK + MAX_MARKS - 1)}])")

# --- Data files ---


def read_blocks(path: str) -> Dict[str, List[str]]:
    """Reads a data file: {heading: its items}.

    A heading starts at the start of a line; its items are indented by four spaces, one a line. A line that is indented
    further continues the item above it. "-" is an empty item. Lines that start with "#" are comments.

    Raises: ValueError: the file breaks these rules or repeats a heading.
    """
    blocks: Dict[str, List[str]] = {}
    items = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if not text or line[0] == "#":
                continue
            indent = len(line) - len(line.lstrip())
            if indent == 0 and text not in blocks:
                items = blocks[text] = []
            elif indent == 4 and items is not None:
                items.append("" if text == "-" else text)
            elif indent > 4 and items:
                items[-1] += " " + text
            else:
                problem = "repeated heading" if indent == 0 else "wrong indentation"
                raise ValueError(f"{path}, line {number}: {problem}")
    return blocks


def read_world(name: str) -> Dict[str, List[str]]:
    return read_blocks(os.path.join(WORLD_DIR, name))


def by_key(items: List[str]) -> Dict[str, List[str]]:
    """Values of `key: value` items by key; "-" is an empty value."""
    values: Dict[str, List[str]] = {}
    for item in items:
        key, value = item.split(": ", 1)
        values.setdefault(key, []).append("" if value == "-" else value)
    return values


WORDS = read_world("words.txt")


def words(name: str) -> tuple:
    """The words of a list that has nothing else in it."""
    return tuple(word for line in WORDS[name] for word in line.split("|"))


# --- Templates ---


class Choice:
    """Alternatives, each a tuple of parts. `words` are the alternatives of one plain word each."""

    def __init__(self, options: List[tuple]):
        self.options = options
        self.count = len(options)
        self.words = tuple(option[0] for option in options
                           if len(option) == 1 and isinstance(option[0], str) and option[0].isalnum())


class Slot(NamedTuple):
    name: str


class Number(NamedTuple):
    low: int
    high: int
    step: int


_TOKEN = re.compile(r"[\[\]|]|\{\w+\}|<\w+>|#\d+-\d+(?::\d+)?#|[^\[\]|{}<>#]+")
_lists: Dict[str, Choice] = {}


def compile_template(text: str) -> tuple:
    """Parts of a template: strings, `Choice`, `Slot` and `Number`. Raises: ValueError: it cannot be read."""
    options = _alternatives(text)
    return options[0] if len(options) == 1 else (Choice(options),)


def _alternatives(text: str) -> List[tuple]:
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text or text.count("[") != text.count("]"):
        raise ValueError(f"not a template, see {os.path.basename(__file__)}: {text}")
    stack: List[list] = [[[]]]  # of the open brackets: alternatives, each a list of parts
    for token in tokens:
        parts = stack[-1][-1]
        if token == "[":
            stack.append([[]])
        elif token == "]":
            options = stack.pop()
            stack[-1][-1].append(Choice([tuple(option) for option in options]))
        elif token == "|":
            stack[-1].append([])
        elif token[0] == "{":
            parts.append(Slot(token[1:-1]))
        elif token[0] == "<":
            parts.append(_list(token[1:-1]))
        elif token[0] == "#":
            parts.append(Number(*([int(number) for number in re.findall(r"\d+", token)] + [1])[:3]))
        else:
            parts.append(token)
    return [tuple(option) for option in stack[0]]


def _list(name: str) -> Choice:
    if name not in WORDS:
        raise ValueError(f"world/words.txt has no list '{name}'")
    if name not in _lists:
        _lists[name] = Choice(_alternatives("|".join(WORDS[name])))
    return _lists[name]


# --- The writer ---

_ARTICLE = re.compile("\\b([Aa]) (?=[\ue000-\uf8ff]?(?:[aeiouAEIOU]|honest))(?![\ue000-\uf8ff]?one-)")
_SPACE_BEFORE_PUNCTUATION = re.compile(" +([,.;:])")


class Draw(NamedTuple):
    """One marked word: what was drawn, what could have been, and whether it is a value (that may show again)."""

    word: str
    pool: Sequence[str]
    is_value: bool


class Writer:
    """Turns templates into the sentences of one document.

    Args:
        random: a source of numbers in [0, 1), `Random.random`.
        slots: values of `{slot}`.
        pools: the values that a slot could have had: words, or "years" or "numbers" near the actual one. Without a pool
            a value is not marked.
        marking: precede drawn words by marks, see the module's docstring; the draws are the same.
    """

    def __init__(self, random, slots: dict, pools: Dict[str, Sequence[str]], marking: bool):
        self.random, self.slots, self.pools, self.marking = random, slots, pools, marking
        self.draws: List[Draw] = []

    def sentence(self, parts: tuple) -> str:
        out: List[str] = []
        self._expand(parts, out)
        text = _SPACE_BEFORE_PUNCTUATION.sub(r"\1", " ".join("".join(out).split()))
        text = _ARTICLE.sub(r"\1n ", text)
        first = 1 if text and FIRST_MARK <= ord(text[0]) < FIRST_MARK + MAX_MARKS else 0
        return text[:first] + capitalized(text[first:])

    def pick(self, options: Sequence):
        return options[int(self.random() * len(options))]

    def _expand(self, parts: tuple, out: List[str]):
        for part in parts:
            kind = part.__class__
            if kind is str:
                out.append(part)
            elif kind is Choice:
                option = part.options[int(self.random() * part.count)]
                if len(option) == 1 and option[0].__class__ is str:
                    word = option[0]
                    out.append(self._mark(word, part.words, False) if self.marking and word in part.words else word)
                else:
                    self._expand(option, out)
            elif kind is Slot:
                value = str(self.slots[part.name])
                out.append(self._mark_value(part.name, value) if self.marking else value)
            else:
                numbers = range(part.low, part.high + 1, part.step)
                value = str(numbers[int(self.random() * len(numbers))])
                out.append(self._mark(value, numbers, True) if self.marking else value)

    def _mark(self, word: str, pool: Sequence, is_value: bool) -> str:
        if len(self.draws) >= MAX_MARKS:
            return word
        self.draws.append(Draw(word, pool, is_value))
        return chr(FIRST_MARK + len(self.draws) - 1) + word

    def _mark_value(self, slot: str, value: str) -> str:
        pool = self.pools.get(slot)
        if pool is None:
            return value
        if pool == "years":
            pool = range(int(value) - 20, int(value) + 21)
        elif pool == "numbers":
            reach = max(10, int(value) // 5)
            pool = range(max(1, int(value) - reach), int(value) + reach + 1)
        return " ".join(self._mark(word, pool, True) if word.isalnum() else word for word in value.split())


def capitalized(text: str) -> str:
    """The text with its first character in upper case, and the rest as it is."""
    return text[:1].upper() + text[1:]
