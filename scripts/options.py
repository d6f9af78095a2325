"""Options of a command line that are written once: a table of them gives --help, reads a call, and names what is wrong.

An option sets a field of a program's configuration, and then takes meaning, type, choices and bounds from it, or is the
wrapper's own. The modules of the recipes (scripts/*_recipe.py) have the tables. Only the standard library is used.
"""
from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
import textwrap
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import configuration  # noqa: E402  (found through the line above)
import files  # noqa: E402
import pretraining_options  # noqa: E402
from configuration import UserError  # noqa: E402

# --- Tables ---

SWITCH = ("true", "false")


class Option(NamedTuple):
    """An option of a wrapper."""

    name: str
    default: str  # as help shows it; an empty value keeps it
    meaning: str
    choices: Tuple[str, ...]  # that the wrapper itself checks; an option whose first are SWITCH needs no value
    config_class: Optional[type] = None  # of the program's configuration; None: the wrapper's own option
    field: Optional[str] = None  # what it sets there
    phase: Optional[int] = None  # the one phase that it is for
    stated: bool = True  # the recipe states the default, and passes it also where it is the program's
    path: Optional[str] = None  # "input" or "output", see Call.path
    environment: Optional[str] = None  # variable that has the value where the call has none ('': no variable)
    also: Tuple[str, ...] = ()  # further fields that it sets
    alias: str = ""


def own(name: str, default: str, meaning: str, choices=(), **more) -> Option:
    """An option that the wrapper acts on itself."""
    return Option(name, default, meaning, tuple(choices) or (SWITCH if default in SWITCH else ()), **more)


def flag(config_class, name: str, default: Optional[str] = None, field: Optional[str] = None, *, phase=None,
         meaning: Optional[str] = None, choices=(), **more) -> Option:
    """An option that sets a field. The name ends in _p1 or _p2 where it is for one phase alone."""
    base, suffix = (name[:-3], int(name[-1])) if name[-3:] in ("_p1", "_p2") else (name, None)
    field, phase = field or base, phase or suffix
    described = config_class.__dataclass_fields__[field]
    kind = configuration.kinds_of(config_class)[field]
    if meaning is None:
        meaning = configuration.help_of(described)
    if suffix:
        meaning = f"phase {suffix}: {meaning}"
    return Option(name, text_of(described.default) if default is None else default, meaning,
                  SWITCH if kind is bool else tuple(choices), config_class, field, phase, default is not None, **more)


def text_of(value) -> str:
    """A default as one would type it: 4e-4, 2, true."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    if isinstance(value, float):
        short, exponent = f"{value:g}", re.sub(r"e([+-])0?", lambda found: "e" + found[1].strip("+"), f"{value:.0e}")
        return exponent if float(exponent) == value and len(exponent) < len(short) else short
    return str(value)


class Table(NamedTuple):
    """The options of a wrapper."""

    usage: str
    positional: List[Option]  # in their order
    by_name: List[Option]

    @property
    def options(self) -> List[Option]:
        return self.positional + self.by_name

    def translate(self, sentence: str, phase: Optional[int] = None, prefix: str = "--") -> str:
        """A sentence about the program's flags (of one phase, or of any) as one about the wrapper's options."""
        names: Dict[str, List[str]] = {}
        for entry in self.options:
            for field in (entry.field, *entry.also):
                if phase in (None, entry.phase or phase):
                    names.setdefault(field, []).append(entry.name)
        return re.sub(f"({prefix})([a-z0-9_]+)", lambda found: " or ".join(
            found[1] + name for name in names.get(found[2], [found[2]])), sentence)


def help_text(table: Table) -> str:
    lines = [table.usage, "", "Options with their defaults; the numbered ones also by position, in this order:"]

    def add(number, word, meaning):
        lines.extend(textwrap.wrap(table.translate(meaning, prefix=r"--|\b"), 118, break_on_hyphens=False,
                                   initial_indent=f" {number:>2}  --{word:<36} ", subsequent_indent=" " * 44))

    for number, entry in enumerate(table.positional, 1):
        add(number, f"{entry.name}={entry.default}", entry.meaning)
    if table.positional:
        lines.append("by name only:")
    else:
        lines[-1] = "Options with their defaults:"
    for entry in table.by_name:
        add("", f"{entry.name}={entry.default}", entry.meaning)
    add("", "help", "this text")
    return "\n".join(lines)


# --- Calls ---


class Call:
    """The options of one call of a wrapper: `call[name]` is the value given, else that of the environment, else the
    default; '' where there is none.

    Args:
        wrapper: its name, such as electra.sh.
        words: the arguments. Dashes and underscores in names are the same.
        start_dir: absolute folder of the call, to which relative paths belong.
    Raises: UserError: an unknown option, one without its value, or a value that is not one of the option's choices.
    """

    def __init__(self, wrapper: str, table: Table, words: List[str], start_dir: str):
        self.wrapper, self.table, self.start_dir, self.work_dir = wrapper, table, start_dir, ROOT
        self.by_name = {name: entry for entry in table.options for name in (entry.name, entry.alias) if name}
        self.given: Dict[str, str] = {}
        self._read(list(words))
        self.given = {name: value for name, value in self.given.items() if value}  # an empty one keeps the default
        for name, value in self.given.items():
            choices = self.by_name[name].choices
            if choices[:2] == SWITCH and value not in choices:
                raise UserError(f"--{name}={value} must be {', '.join(choices[:-1])} or {choices[-1]}.")
            if choices and value not in choices:
                raise UserError(f"--{name}={value} is unknown: choose one of {', '.join(choices)}.")

    def _read(self, words: List[str]):
        position = 0
        while words:
            word = words.pop(0)
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                entry = self._option(name)
                if not equals and entry.choices[:2] == SWITCH:
                    value = words.pop(0) if words and words[0] in entry.choices else "true"
                elif not equals:
                    if not words or words[0].startswith("--"):
                        raise UserError(f"--{entry.name} needs a value (see --help).")
                    value = words.pop(0)
            elif re.match("-[^0-9.]", word):
                raise UserError(f"unknown option {word} (see --help).")
            elif position == len(self.table.positional):
                raise UserError(f"too many arguments, beginning with {word!r} (see --help).")
            else:
                entry, value, position = self.table.positional[position], word, position + 1
            if value or word.startswith("--"):
                self.given[entry.name] = value

    def _option(self, word: str) -> Option:
        name = word.replace("-", "_")
        if name not in self.by_name:
            close = difflib.get_close_matches(name, self.by_name, n=1)
            hint = f": did you mean --{close[0]}?" if close else " (see --help)."
            raise UserError(f"unknown option --{word}{hint}")
        return self.by_name[name]

    def __getitem__(self, name: str) -> str:
        entry, value = self.by_name[name], self.given.get(name, "")
        if entry.environment is None:
            return value or entry.default
        if value in ("", "None", entry.default):
            value = os.environ.get(entry.environment, "")
        return "" if value == "None" else value

    # --- Paths ---

    def path(self, name: str) -> str:
        """The value as the wrapper's commands need it, which run in `work_dir`: inputs, several with commas, belong to
        the folder of the call where they are there; outputs do unless they are the default."""
        entry, text = self.by_name[name], self[name]
        if entry.path == "output":
            return self.in_start_dir(text) if name in self.given else text
        return ",".join(map(self.input_path, text.split(","))) if entry.path else text

    def in_start_dir(self, path: str) -> str:
        path = os.path.expanduser(path) if path.startswith("~/") else path
        return path if self.work_dir == self.start_dir else os.path.join(self.start_dir, path)

    def input_path(self, path: str) -> str:
        path, weight = pretraining_options.split_weight(path, lambda path: exists(path, self.start_dir))  # wiki:0.7
        found = self.in_start_dir(path) if path else ""
        there = exists(path, self.start_dir) or os.path.exists(found + ".index")
        return (found if there or path.startswith("~/") else path) + (f":{weight}" if weight else "")

    def in_work_dir(self, path: str) -> str:
        return os.path.join(self.work_dir, path)

    # --- What options of every wrapper say ---

    @property
    def dry_run(self) -> bool:
        return "dry_run" in self.by_name and self["dry_run"] == "true"

    @property
    def cluster(self) -> bool:
        """Whether a scheduler has started this wrapper, once for each worker."""
        return "env" in self.by_name and self["env"] == "cluster"

    @property
    def rank(self) -> int:
        return configuration.launched("RANK") or 0 if self.cluster else 0

    # --- The program ---

    def flags(self, config_class, phase: Optional[int] = None) -> Dict[str, str]:
        """The values of the fields that options set, those that have one."""
        flags = {entry.field: self.path(entry.name) for entry in self.table.options
                 if entry.config_class is config_class and entry.phase in (None, phase)}
        return {field: value for field, value in flags.items() if value}

    @contextlib.contextmanager
    def own_words(self, phase: Optional[int] = None) -> Iterator[None]:
        """An error about the program's flags becomes one about the wrapper's options."""
        try:
            yield
        except UserError as error:
            raise UserError(self.table.translate(str(error), phase)) from error

    def flag_words(self, flags: Dict[str, str], config) -> List[str]:
        """The flags as words, in the order of the configuration, without those that are the program's default and not
        stated by the recipe."""
        unstated = {entry.field for entry in self.table.options if not entry.stated}
        unstated -= {"device", "precision", "model_size"}  # shown in any case
        words = []
        for field, described in config.__dataclass_fields__.items():
            value = getattr(config, field)
            if field not in flags or value == described.default and field in unstated:
                continue
            if field == "num_workers":
                words += [f"--{field}={value}"] if value > 1 else []
            else:
                words.append(f"--{field}" if value is True else f"--{field}={flags[field]}")
        return words

    def command(self, program: str, flags: Dict[str, str], config) -> List[str]:
        return [program, *self.flag_words(flags, config)]


def exists(pattern: str, folder: str = "") -> bool:
    """Whether there is such a file or folder, or one that the pattern matches."""
    return bool(files.matching(os.path.join(folder, pattern)))
