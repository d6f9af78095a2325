"""The folder of a run: what was run, where, on what data, and what came of it. The one reader of these files.

    results/models/<name>/logs/       configuration_phase<1|2>.json, pretraining_phase<1|2>.jsonl, history.jsonl
    <output_dir>/logs/                configuration.json, <task>.jsonl, history.jsonl   (and <output_dir>/results.json)
    <sweep>/                          sweep.csv

`history.jsonl` has a line for each start and each end of a training process. Runs of earlier releases have none.
Everything else that is missing or damaged is a sentence in `Run.problems`; what can be read is used. `Run.refresh`
reads what has been added since, so that a running run can be followed at the price of the new lines.
"""
from __future__ import annotations

import csv
import datetime
import functools
import glob
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import configuration
import files
import pretraining_options
from configuration import UserError
from curves import Curves

ROOT = os.path.dirname(os.path.abspath(__file__))
HISTORY = "history.jsonl"
LARGEST_STEP = 2**31 - 1
MOST_METRICS = 64  # of one entry; more names come from a damaged file
PACKAGES = ("tensorflow", "tensorflow-cpu", "numpy", "tokenizers", "sentencepiece", "safetensors", "horovod",
            "habana-tensorflow")

# --- JSON lines ---


def parse_entry(line: bytes) -> Optional[dict]:
    """An entry of a log of metrics; None where the line is damaged."""
    try:
        entry = json.loads(line)
        step, kind = entry["step"], entry["kind"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return entry if type(step) is int and 0 <= step <= LARGEST_STEP and type(kind) is str else None


class Lines:
    """The complete lines of a file that grows; each call of `new` returns those added since the last one.

    An interruption may have cut the last line short: it is left for the next call.
    """

    def __init__(self, path: str):
        self.path, self._offset, self._file = path, 0, None

    def new(self) -> Tuple[bool, Iterator[bytes]]:
        """Whether the file was replaced, so that earlier lines no longer count, and the lines. Raises: OSError."""
        with files.open_regular(self.path, "rb") as file:
            status = os.fstat(file.fileno())
        identity = status.st_dev, status.st_ino
        replaced = self._file is not None and (identity != self._file or status.st_size < self._offset)
        if replaced:
            self._offset = 0
        self._file = identity
        return replaced, self._read()

    def _read(self) -> Iterator[bytes]:
        with files.open_regular(self.path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield line


# --- History ---


class History:
    """Writes `history.jsonl`. Only rank 0 does. Raises: OSError."""

    def __init__(self, folder: str):
        self.path = os.path.join(folder, HISTORY)
        self._session = secrets.token_hex(8)

    def started(self, step: int, about: dict):
        self._write({"event": "start", "step": step, **about, **process()})

    def ended(self, step: int, reason: str, message: str = ""):
        """`reason` is `finished`, `stopped` or `failed`."""
        self._write({"event": "end", "step": step, "reason": reason, **({"message": message} if message else {})})

    def _write(self, entry: dict):
        line = json.dumps({"time": now(), "session": self._session, **entry}) + "\n"
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "ab") as file:
            if file.tell():  # after half a line of a write that failed, a line of its own
                with open(self.path, "rb") as written:
                    written.seek(-1, os.SEEK_END)
                    line = line if written.read(1) == b"\n" else "\n" + line
            file.write(line.encode())


def now() -> str:
    """The time, with its zone, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def process() -> dict:
    """What identifies this process: its command line, where it runs, and the versions of what it runs."""
    return {"command": [os.path.basename(sys.executable or "python"), *sys.argv], "directory": os.getcwd(),
            "host": socket.gethostname(), "pid": os.getpid(), "versions": versions(), "code": code_version()}


def versions() -> Dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.lru_cache(maxsize=None)
def code_version() -> str:
    """The commit of this code, with `-dirty` where files differ from it; empty outside a clone."""
    if not os.path.exists(os.path.join(ROOT, ".git")):
        return ""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, timeout=10,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.decode(errors="replace").strip() if found.returncode == 0 else ""


class Session(NamedTuple):
    """One process that trained: from its start to its end."""

    start: dict
    end: Optional[dict]  # None: it is running, or was killed
    is_last: bool = True  # a run has one process at a time: those before the last one are not running

    @property
    def phase(self) -> int:
        return number_in(self.start, "phase", 1)

    @property
    def is_running(self) -> bool:
        """Whether it has no end yet and, where it was started on this machine, its process exists."""
        pid = self.start.get("pid")
        if self.end is not None or not self.is_last or type(pid) is not int or pid < 1:
            return False
        return self.start.get("host") != socket.gethostname() or files.is_running(pid)

    @property
    def reason(self) -> str:
        if self.end is None:
            return "running" if self.is_running else "killed, or crashed without a word"
        words = text_in(self.end, "reason") or "ended"
        message = text_in(self.end, "message")
        return f"{words}: {message}" if message else words


# --- Values of files that may be damaged ---


def text_in(entry: dict, key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def number_in(entry: dict, key: str, default=None):
    """A finite number of a dictionary, not a truth value; else the default."""
    value = entry.get(key)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return value if good else default  # a NaN compares as false


def dict_in(entry: dict, key: str) -> dict:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


# --- Data ---


def describe_data(places: Sequence[str]) -> dict:
    """What is known about datasets: tokens, documents, sequence length, and the scores of the sample's guessers.

    Args:
        places: shards, or folders of them.
    """
    found: Dict[str, dict] = {}
    guessers: dict = {}
    for place in places:
        folder = os.path.abspath(place if os.path.isdir(place) else os.path.dirname(place))
        for _ in range(4):  # a dataset lies in a folder of the sample data, or beside its text
            content = _manifest(os.path.join(folder, "manifest.json"))
            if content.get("format") == "electra-pretraining-tfrecord":
                found[folder] = content
            beside = _manifest(os.path.join(folder, "demo", "manifest.json"))  # data/sample/demo and .../tfrecord
            if number_in(dict_in(beside, "corpus"), "documents", 0) not in {
                    manifest.get("num_documents") for manifest in found.values()}:
                beside = {}  # the records are of other text
            guessers = guessers or dict_in(content, "masked_piece_accuracy") or dict_in(beside, "masked_piece_accuracy")
            folder = os.path.dirname(folder)
    totals = {f"dataset_{name}": sum(number_in(manifest, f"num_{name}", 0) for manifest in found.values())
              for name in ("documents", "tokens")}
    return {**{name: value for name, value in totals.items() if value},
            **({"guessers": {name: value for name, value in guessers.items() if number_in(guessers, name) is not None
                             and name in ("unigram", "bigram", "oracle")}} if guessers else {})}


def _manifest(path: str) -> dict:
    try:
        return configuration.read_json_object(path) if os.path.isfile(path) else {}
    except UserError:  # the command that reads the dataset reports it
        return {}


# --- A run ---


class Part:
    """A phase of pre-training, or a fine-tuning.

    Attributes:
        number, title: 1, `phase 1`.
        settings: the content of its configuration file: `config`, `device`, `world_size`, `environment`, and more.
        path: its log of metrics.
        curves: their series by (kind, name), thinned.
        first, last: the first and the last entry by kind: `train`, `eval`, `skipped`.
    """

    def __init__(self, number: int, title: str, settings: dict, path: str):
        self.number, self.title, self.settings, self.path = number, title, settings, path
        self._lines = Lines(path)
        self._reset()

    def _reset(self):
        self.curves, self.damaged = Curves(()), 0
        self.first: Dict[str, dict] = {}
        self.last: Dict[str, dict] = {}
        self.best: Dict[str, Tuple[float, int]] = {}  # of a held-out metric: its lowest loss or highest score, step

    def refresh(self):
        """Reads what has been added to the log. Raises: OSError."""
        replaced, lines = self._lines.new()
        if replaced:
            self._reset()
        for line in lines:
            entry = parse_entry(line)
            if entry is None:
                self.damaged += 1
                continue
            self._add(entry)

    def _add(self, entry: dict):
        kind = entry["kind"]
        numbers = {name: number_in(entry, name) for name in list(entry)[:MOST_METRICS]}
        entry = {"step": entry["step"], "kind": kind,  # without integers that no float holds
                 **{name: entry[name] for name in numbers if numbers[name] is not None or type(entry[name]) is not int}}
        self.first.setdefault(kind, entry)
        self.last[kind] = entry
        self.curves.add({**{name: value for name, value in numbers.items() if value is not None}, "step": entry["step"],
                         "kind": kind})
        for name, value in numbers.items() if kind == "eval" else ():
            if value is not None and name != "step":
                sign = 1 if is_better_low(name) else -1
                if name not in self.best or sign * value < sign * self.best[name][0]:
                    self.best[name] = value, entry["step"]

    @property
    def config(self) -> dict:
        return dict_in(self.settings, "config")

    @property
    def steps(self) -> int:
        """Updates that are in the log."""
        return self.curves.last_step

    def points(self, kind: str, name: str) -> list:
        """The points of a metric (see curves.Point), in the order of their steps."""
        series = self.curves.series.get((kind, name))
        return series.points() if series else []


def is_better_low(name: str) -> bool:
    return "loss" in name or "perplexity" in name


class Run:
    """A run of pre-training, a fine-tuning, or a sweep of fine-tunings.

    Attributes:
        folder, logs, name: where it is; logs are in <folder>/logs unless --log_dir says otherwise.
        kind: `pretraining`, `fine-tuning` or `sweep`.
        parts: its phases, or its one fine-tuning.
        history: the entries of history.jsonl.
        results: the content of results.json, of a fine-tuning.
        best: the content of checkpoints/best.json, by phase.
        rows: of a sweep: the finished fine-tunings.
        problems: a sentence for each file that is missing or damaged.
    Raises: UserError: the folder is not that of a run.
    """

    def __init__(self, folder: str, logs: Optional[str] = None):
        self.folder = os.path.abspath(folder)
        self.logs = os.path.abspath(logs or os.path.join(self.folder, "logs"))
        if not os.path.isdir(self.logs) and glob.glob(os.path.join(glob.escape(self.folder), "configuration*.json")):
            self.logs = self.folder  # that of --log_dir, or logs/ itself
            if os.path.basename(self.folder) == "logs":
                self.folder = os.path.dirname(self.folder)
        self.name = os.path.basename(self.folder) or self.folder
        self._parts: Dict[str, Part] = {}  # by log
        if not os.path.isdir(self.folder):
            what = "is not a folder" if os.path.lexists(self.folder) else "does not exist"
            raise UserError(f"{folder} {what}: name the folder of a run, such as results/models/base or results/squad.")
        self.refresh()
        if self.kind is None:
            raise UserError(f"{folder} is not the folder of a run: it has neither logs/configuration*.json nor "
                            "results.json or sweep.csv. Name one such as results/models/base or results/squad.")

    def refresh(self):
        """Reads what is new."""
        self.problems: List[str] = []
        self.history = self._read_history()
        self.rows = self._read_rows()
        self.results = self._read_object(os.path.join(self.folder, "results.json"))
        self.best = self._read_object(os.path.join(self.folder, "checkpoints", "best.json"))
        self.kind, self.parts = self._read_parts()

    # --- Files ---

    def _read_object(self, path: str) -> dict:
        """A JSON object; empty where there is no such file, or a damaged one."""
        if not os.path.lexists(path):
            return {}
        try:
            return configuration.read_json_object(path)
        except UserError as error:
            self.problems.append(f"{error}")
            return {}

    def _read_history(self) -> List[dict]:
        path, entries, damaged = os.path.join(self.logs, HISTORY), [], 0
        try:
            with files.open_regular(path, "rb") as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                    except (ValueError, RecursionError):
                        entry = None
                    if isinstance(entry, dict) and entry.get("event") in ("start", "end"):
                        entries.append(entry)
                    else:
                        damaged += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problems.append(f"{path} cannot be read ({configuration.in_short(error)}).")
        if damaged:
            self.problems.append(f"{path}: {damaged} damaged {'line was' if damaged == 1 else 'lines were'} left out.")
        return entries

    def _read_rows(self) -> List[dict]:
        path = os.path.join(self.folder, "sweep.csv")
        if not os.path.lexists(path):
            return []
        try:
            with files.open_regular(path, encoding="utf-8", errors="replace", newline="") as file:
                found = list(csv.DictReader(io.StringIO(file.read().replace("\0", ""))))
        except (OSError, csv.Error) as error:
            self.problems.append(f"{path} cannot be read ({configuration.in_short(error)}).")
            return []
        rows = []
        for row in found:
            numbers = {name: _number(row.get(name)) for name in ("phase", "step", "seed", "EM", "F1", "best F1",
                                                                 "seconds")}
            if None in (numbers["phase"], numbers["step"], numbers["F1"]):
                continue
            rows.append({**{name: value for name, value in row.items() if name and value},
                         **{name: value for name, value in numbers.items() if value is not None}})
        if len(rows) < len(found):
            self.problems.append(f"{path}: {len(found) - len(rows)} damaged rows were left out.")
        return rows

    def _read_parts(self) -> Tuple[Optional[str], List[Part]]:
        parts = []
        for number in (1, 2):
            log = os.path.join(self.logs, f"pretraining_phase{number}.jsonl")
            settings = os.path.join(self.logs, f"configuration_phase{number}.json")
            if os.path.lexists(log) or os.path.lexists(settings):
                parts.append(self._part(number, f"phase {number}", settings, log))
        if parts:
            return "pretraining", parts
        settings = os.path.join(self.logs, "configuration.json")
        if os.path.lexists(settings):
            logs = [path for path in sorted(glob.glob(os.path.join(glob.escape(self.logs), "*.jsonl")))
                    if not re.match(rf"{re.escape(HISTORY)}|samples_", os.path.basename(path))]
            newest = max(logs, key=os.path.getmtime, default=os.path.join(self.logs, "squad.jsonl"))
            return "fine-tuning", [self._part(1, "fine-tuning", settings, newest)]
        if self.rows or os.path.lexists(os.path.join(self.folder, "sweep.csv")):
            return "sweep", []
        return ("fine-tuning", []) if self.results else (None, [])

    def _part(self, number: int, title: str, settings_path: str, log: str) -> Part:
        settings = self._read_object(settings_path)
        if not os.path.lexists(settings_path):
            self.problems.append(f"{settings_path} is missing: the configuration of {title} is not known.")
        elsewhere = text_in(dict_in(settings, "config"), "json_summary")
        if elsewhere and not os.path.lexists(log):
            log = elsewhere
        part = self._parts.setdefault(log, Part(number, title, settings, log))
        part.settings = settings
        try:
            part.refresh()
        except OSError as error:
            self.problems.append(f"{log} cannot be read ({configuration.in_short(error)}): {title} has no curves.")
        if part.damaged:
            lines = "line was" if part.damaged == 1 else "lines were"
            self.problems.append(f"{log}: {part.damaged} damaged {lines} left out.")
        return part

    # --- What they say ---

    @property
    def sessions(self) -> List[Session]:
        """The processes that trained, in the order of their starts."""
        ends = {}
        for entry in self.history:
            if entry["event"] == "end":
                ends[json.dumps(entry.get("session"))] = entry
        starts = [entry for entry in self.history if entry["event"] == "start"]
        return [Session(entry, ends.get(json.dumps(entry.get("session"))), number == len(starts))
                for number, entry in enumerate(starts, 1)]

    def started(self, part: Optional[Part] = None) -> dict:
        """The last start of a phase in the history; {} where there is none."""
        wanted = part.number if part else None
        return next((session.start for session in reversed(self.sessions)
                     if wanted is None or session.phase == wanted), {})

    @property
    def config(self) -> dict:
        """The options of the last phase."""
        return self.parts[-1].config if self.parts else {}

    @property
    def command(self) -> List[str]:
        """The command line of the last start."""
        words = self.started().get("command")
        return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []

    @property
    def machine(self) -> Dict[str, str]:
        """host, device, processor, cores, workers: those that are known."""
        start, settings = self.started(), self.parts[-1].settings if self.parts else {}
        environment = dict_in(settings, "environment")
        found = {"host": text_in(start, "host"), "device": text_in(start, "device") or text_in(settings, "device"),
                 "processor": text_in(environment, "processor"), "cores": number_in(environment, "cores"),
                 "workers": number_in(start, "workers") or number_in(settings, "world_size")}
        return {name: str(value) for name, value in found.items() if value}

    @property
    def versions(self) -> Dict[str, str]:
        """Versions of Python, TensorFlow and other packages, and `code`, the commit; those that are known."""
        start, settings = self.started(), self.parts[-1].settings if self.parts else {}
        recorded = dict_in(start, "versions")
        found = {name: text_in(recorded, name) for name in recorded if isinstance(name, str)}
        found.setdefault("tensorflow", text_in(dict_in(settings, "environment"), "tensorflow"))
        found["code"] = text_in(start, "code")
        return {name: version for name, version in found.items() if version}

    def data(self, part: Optional[Part] = None) -> dict:
        """What a phase (the last one) was trained on: records, shards, guessers, sequences_per_update and more; those
        that are known."""
        part = part or (self.parts[-1] if self.parts else None)
        if part is None:
            return {}
        facts, shards = {}, part.settings.get("data")
        sizes = [entry[1] for entry in shards if isinstance(entry, list) and len(entry) == 2 and
                 isinstance(entry[1], int)] if isinstance(shards, list) else []
        if sizes:
            facts.update(records=sum(sizes), shards=len(sizes))
        config = part.config
        if number_in(config, "train_batch_size") and number_in(config, "gradient_accumulation_steps"):
            facts["sequences_per_update"] = (config["train_batch_size"] * config["gradient_accumulation_steps"] *
                                             max(1, number_in(part.settings, "world_size", 1)))
        recorded = dict_in(self.started(part), "data") or self._described(text_in(config, "pretrain_tfrecords"))
        return {**facts, **recorded}

    @functools.lru_cache(maxsize=8)  # noqa: B019  (a run is looked at for as long as its page)
    def _described(self, spec: str) -> dict:
        """Of a run without a history, the datasets that its option names, if they are still there."""
        places = [pretraining_options.split_weight(part.strip(), os.path.exists)[0] for part in spec.split(",") if spec]
        return describe_data([place for place in places if os.path.exists(place)])

    def held_out(self) -> Dict[str, float]:
        """The last held-out metrics: of the last phase that has some."""
        for part in reversed(self.parts):
            if "eval" in part.last:
                return {name: value for name, value in part.last["eval"].items() if isinstance(value, (int, float))}
        return {}

    @property
    def scores(self) -> Dict[str, float]:
        """The numbers of results.json."""
        return {name: value for name in self.results for value in [number_in(self.results, name)] if value is not None}

    @property
    def state(self) -> str:
        """`running`, `finished`, `stopped`, `failed`, or `unknown`."""
        sessions = self.sessions
        if sessions:
            last = sessions[-1]
            return ("running" if last.is_running else "stopped") if last.end is None else (
                text_in(last.end, "reason") or "unknown")
        planned = [number_in(part.config, "num_train_steps") for part in self.parts]
        if self.kind == "pretraining" and all(planned):
            return "finished" if all(part.steps >= steps for part, steps in zip(self.parts, planned)) else "unknown"
        return "finished" if self.results or self.rows else "unknown"


def _number(text: Optional[str]) -> Optional[float]:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
