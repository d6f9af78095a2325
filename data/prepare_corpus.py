#!/usr/bin/env python3
"""Prepares a folder of text for pre-training: reads, filters, removes duplicates, splits sentences, shards.

    python data/prepare_corpus.py --input_dir=mytexts --output_dir=data/mine/prepared --language=de
    python data/build_vocab.py --corpus_dir=data/mine/prepared/text --output_dir=data/mine/vocab
    python build_pretraining_dataset.py --corpus_dir=data/mine/prepared/text --vocab_file=data/mine/vocab/vocab.txt \
        --output_dir=data/mine/seq_len_128

Reads .txt, .jsonl, .xml (MediaWiki), .parquet and .arrow in --input_dir and its subfolders (documents.py has the
formats, and how lines become paragraphs and documents), leaves out documents (cleaning.py) and splits the rest into
sentences (sentences.py). Writes a folder that replaces --output_dir when it is complete:
    text/corpus-00000-of-00012.txt ...   UTF-8, one sentence per line, a blank line after each document; of equal size
    manifest.json                        options, input files, counts, checksums
    report.md, report.json               what was left out and why, with examples

The place of a document is a hash of --seed and its text, so the corpus is shuffled, and the same text and options give
the same bytes for any --num_processes and any names of the files; only which one of near-duplicates stays depends on
the order of the files.

The work is done in pieces of up to 16 MB. Finished pieces and shards are kept in `.<name of the output>.partial` beside
the output: after a kill or a crash the same command checks them by size and hash and continues. They take the size of
the text twice. A folder that is up to date is left as it is. Memory does not grow with the size of the text, except by
about 50 bytes a document for near-duplicates.

Exit status: 0, 2 (invalid option or input), 1 (a worker process failed), 75 (Ctrl-C or SIGTERM: run the same command
again).
"""
from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import cleaning  # noqa: E402  (found through the lines above)
import documents  # noqa: E402
import sentences  # noqa: E402

import build_pretraining_dataset as builder  # noqa: E402
import command_line  # noqa: E402
import configuration  # noqa: E402
import files  # noqa: E402
import process_pool  # noqa: E402
from configuration import UserError, option  # noqa: E402

PIECE_BYTES = 16 << 20  # of input at most; also the text that a worker holds before it writes it
BLOCK_BYTES = 32 << 20  # of a shard, sorted in memory at a time
EXAMPLES, EXAMPLE_CHARACTERS = 3, 200
CORPUS_FORMAT = "electra-corpus"
COMPRESSION_RATIO = 4  # of compressed text, to estimate what it needs


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """One preparation. Every option except the folders and the number of processes affects what is written."""

    input_dir: Optional[str] = option(None, "folder of text, or several separated by commas; subfolders are read too")
    output_dir: Optional[str] = option(None, "folder to create")
    language: str = option("en", "language of the text, as ISO 639, for splitting sentences")
    paragraphs: str = option("auto", "what the lines of text files are: sentences (one per line, blank lines between "
                             "documents), lines (one paragraph per line), blank_lines (hard-wrapped paragraphs, as in "
                             "books); auto detects it for each file", choices=documents.PARAGRAPHS)
    encoding: str = option("utf-8", "encoding of the files, such as cp1252 or gb18030")
    encoding_errors: str = option("strict", "bytes that are not valid in the encoding: strict stops with an error, "
                                  "replace drops them", choices=("strict", "replace"))
    text_key: str = option("text", "key or column of the text in .jsonl, .parquet and .arrow")
    min_characters: int = option(50, "shorter documents are left out", minimum=0)
    min_letters: float = option(0.6, "minimum fraction of letters among the characters of a document except white "
                                "space", minimum=0.0, maximum=1.0)
    max_digits: float = option(0.2, "maximum fraction of digits", minimum=0.0, maximum=1.0)
    max_markup: float = option(0.1, "maximum fraction of characters of markup and code, such as < { | =",
                               minimum=0.0, maximum=1.0)
    max_repeated_lines: float = option(0.3, "maximum fraction of the text in lines that occurred before in the same "
                                       "document", minimum=0.0, maximum=1.0)
    min_distinct_words: float = option(0.15, "minimum fraction of distinct words among the first 500",
                                       minimum=0.0, maximum=1.0)
    filter_language: bool = option(False, "leave out documents in a language other than --language")
    deduplicate: str = option("near", "remove documents with the same text (exact), or nearly the same (near)",
                              choices=("near", "exact", "none"))
    near_duplicate_similarity: float = option(0.8, "near: minimum estimated Jaccard similarity of the sets of five "
                                              "successive words", minimum=0.5, maximum=1.0)
    shard_megabytes: int = option(64, "approximate size of a shard", minimum=1, maximum=100_000)
    seed: int = option(42, "random seed for the order of documents", minimum=0, maximum=2**31 - 1)
    num_processes: Optional[int] = option(None, "worker processes (default: the available cores)", minimum=1)
    overwrite: bool = option(False, "replace a prepared corpus in output_dir (never other files)")

    def __post_init__(self):
        configuration.check_options(self)
        configuration.require_options(self, "input_dir", "output_dir")
        if not re.fullmatch("[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", self.language):
            raise UserError(f"--language={self.language} must be a code of ISO 639, such as en, de or zh.")
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise UserError(f"--encoding={self.encoding} is unknown: give one such as utf-8, cp1252 or gb18030."
                            ) from error

    @property
    def processes(self) -> int:
        return self.num_processes or len(os.sched_getaffinity(0))

    @property
    def source(self) -> documents.Source:
        return documents.Source(self.paragraphs, self.encoding, self.encoding_errors, self.text_key)

    @property
    def filters(self) -> cleaning.Filters:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(cleaning.Filters)}
        return cleaning.Filters(**{**own, "language": self.language if self.filter_language else ""})

    def deciding(self) -> Dict[str, object]:
        """The options that decide what is written."""
        return {name: value for name, value in dataclasses.asdict(self).items()
                if name not in ("input_dir", "output_dir", "num_processes", "overwrite")}


# --- The plan ---

Pieces = List[List[documents.Range]]  # each with paths relative to the input folder


def plan_pieces(folder: str, sizes: Dict[str, int], source: documents.Source) -> Pieces:
    """Divides the files into pieces: large ones that lines separate are cut, small ones are put together.

    Args:
        sizes: bytes of each file, by its path in the folder.
    """
    bound = min(PIECE_BYTES, max(1 << 20, sum(sizes.values()) // 64))
    pieces, small, small_size = [], [], 0
    for name, size in sizes.items():
        for part in parts_of(folder, name, size, bound, source):
            part_size = (part.end or size) - part.begin
            if small and small_size + part_size > bound:
                pieces.append(small)
                small, small_size = [], 0
            small.append(part)
            small_size += part_size
    return pieces + ([small] if small else [])


def parts_of(folder: str, name: str, size: int, bound: int, source: documents.Source) -> Iterator[documents.Range]:
    kind, compression = documents.kind_of(name)
    path = os.path.join(folder, name)
    if compression or kind not in ("text", "jsonl") or size <= 4 * bound or (
            kind == "text" and documents.is_book(path, source, documents.head_of(path, source))):
        yield documents.Range(name)
        return
    with open(path, "rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16, whose lines bytes do not show
            yield documents.Range(name)
            return
        begin = 0
        while begin < size:
            end = size
            if begin + bound < size and kind == "text":  # at a blank line, else at the end of a line
                end = builder.find_cut(file, begin + bound, size, blanks_separate_docs=True)
            elif begin + bound < size:
                file.seek(begin + bound)
                end = begin + bound + len(file.readline(documents.LONGEST_LINE))
            yield documents.Range(name, begin, end)
            begin = end


def find_input(config: PrepareConfig) -> Tuple[str, List[str]]:
    """The folder that names of files are relative to, and the files.

    Raises: UserError: a folder is missing, contains no text, or contains the output.
    """
    output_dir, names, unknown = os.path.realpath(config.output_dir), [], []
    folders = [config.input_dir] if os.path.isdir(config.input_dir) else config.input_dir.split(",")
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(f"--input_dir={folder} is not a directory: give the folder of the text.")
        if os.path.commonpath([output_dir, os.path.realpath(folder)]) in (output_dir, os.path.realpath(folder)):
            raise UserError(f"--output_dir={config.output_dir} and --input_dir={folder} contain each other: choose "
                            "another folder.")
    base = folders[0] if len(folders) == 1 else os.path.commonpath(list(map(os.path.abspath, folders)))
    for folder in folders:
        for all_of, found in zip((names, unknown), documents.find(folder)):
            all_of += [os.path.relpath(os.path.join(folder, name), base) for name in found]
    if not names:
        others = f", only others such as {unknown[0]}" if unknown else ""
        raise UserError(f"--input_dir={config.input_dir} contains no text{others}: put .txt, .jsonl, .xml, .parquet or "
                        ".arrow files there.")
    if unknown:
        print(f"note: {len(unknown):,} files with an unknown suffix are not read, such as {unknown[0]}", flush=True)
    return base, sorted(set(names), key=os.fsencode)


def make_plan(config: PrepareConfig, base: str, content: List[dict]) -> dict:
    sizes = {entry["file"]: entry["bytes"] for entry in content}
    return {"version": 1, "options": config.deciding(), "base": base, "input": content,
            "pieces": [[list(part) for part in piece] for piece in plan_pieces(base, sizes, config.source)]}


def same_input(one: dict, other: dict) -> bool:
    """Whether two plans or manifests have the same options and the same text, whenever the files were written."""
    def of(made):
        return made.get("options"), [{key: value for key, value in entry.items() if key != "mtime_ns"}
                                     for entry in made.get("input", [])]

    return of(one) == of(other)


# --- Finished work ---


def digest_of(path: str) -> List:
    """[bytes, hash] of a file."""
    return [os.path.getsize(path), documents.digest_of(path)]


def finish(path: str, written: List[str], **content):
    """Records in `path` that the files beside it are complete."""
    folder = os.path.dirname(path)
    files.write_json(path, {**content, "files": {name: digest_of(os.path.join(folder, name)) for name in written}})


def read_record(path: str) -> dict:
    """A JSON object of this command's own; empty where it is missing or damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            made = json.load(file)
        files_of = [*made.get("input", []), *made.get("text", [])]
        whole = all(isinstance(entry["file"], str) and isinstance(entry["bytes"], int) and isinstance(
            entry["blake2b"], str) and isinstance(entry.get("mtime_ns", 0), int) for entry in files_of)
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return {}
    return made if whole else {}


def finished(path: str) -> Optional[dict]:
    """What `finish` recorded, or None where it did not, or the files are not as they were."""
    made, folder = read_record(path), os.path.dirname(path)
    with contextlib.suppress(OSError, KeyError, AttributeError):
        if all(digest_of(os.path.join(folder, name)) == digest for name, digest in made["files"].items()):
            return made
    return None


# --- Stage 1: pieces of documents ---

# A run is part of a piece: documents sorted by key, one after the other in <run>.docs, each as lines of sentences and a
# blank line; <run>.index.npy has a row for each. <run>.signatures.npy and <run>.names are in the order of the input.
ROW = np.dtype([("high", np.uint64), ("low", np.uint64), ("offset", np.uint64), ("size", np.uint32),
                ("order", np.uint32)])


class Run:
    """Collects documents, and writes them."""

    def __init__(self):
        self.keys, self.texts, self.names, self.signatures, self.bytes = [], [], [], [], 0

    def add(self, name: str, key: bytes, text: bytes, signature: Optional[List[int]]):
        self.keys.append(key)
        self.texts.append(text)
        self.names.append(re.sub(r"\s+", " ", name))
        self.bytes += len(text)
        if signature is not None:
            self.signatures.append(signature)

    def write(self, folder: str, name: str) -> List[str]:
        """Writes the files of the run; returns their names."""
        order = sorted(range(len(self.keys)), key=self.keys.__getitem__)
        rows = np.zeros(len(order), ROW)
        keys = np.frombuffer(b"".join(self.keys[number] for number in order), ">u8").reshape(-1, 2)
        rows["high"], rows["low"], rows["order"] = keys[:, 0], keys[:, 1], order
        rows["size"] = [len(self.texts[number]) for number in order]
        rows["offset"] = np.cumsum(rows["size"], dtype=np.uint64) - rows["size"]
        written = [f"{name}.docs", f"{name}.names", f"{name}.index.npy"]
        with files.replacing(f"{folder}/{name}.docs") as temporary, open(temporary, "wb") as file:
            file.writelines(self.texts[number] for number in order)
        files.write_text(f"{folder}/{name}.names", "".join(f"{line}\n" for line in self.names))
        save_array(f"{folder}/{name}.index.npy", rows)
        if self.signatures:
            written.append(f"{name}.signatures.npy")
            save_array(f"{folder}/{name}.signatures.npy", np.array(self.signatures, np.uint32))
        return written


def save_array(path: str, array: np.ndarray):
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def example(name: str, text: str, **more) -> dict:
    shown = " ".join(text[:2 * EXAMPLE_CHARACTERS].split())[:EXAMPLE_CHARACTERS]
    return {"document": name, "text": shown, **more}


def read_piece(number: int):
    """Reads, filters and splits the documents of a piece, and writes their runs and `<number>.json`."""
    config, folder, plan, done = _worker
    run, runs, written = Run(), [], []
    # A dump that is alone is parsed by all processes.
    source = config.source._replace(processes=max(1, config.processes // len(plan["pieces"])))
    filters, counts, layouts, dropped = config.filters, collections.Counter(), collections.Counter(), {}

    def write():
        nonlocal run
        if run.keys:
            runs.append([f"{number:06d}-{len(runs):04d}", len(run.keys)])
            written.extend(run.write(f"{folder}/pieces", runs[-1][0]))
            run = Run()

    for part in map(documents.Range._make, plan["pieces"][number]):
        name = os.fsencode(part.path).decode("utf-8", "backslashreplace")  # a file name may be any bytes
        name += f"@{part.begin}" if part.begin else ""
        layout, found = documents.read(part._replace(path=os.path.join(plan["base"], part.path)), source, name)
        layouts[layout] += not part.begin  # the first part stands for the file
        for document in found:
            counts.update(documents=1, characters=len(document.text))
            done[number] += len(document.text)
            reason = filters.reason(document.text)
            if reason:
                left_out = dropped.setdefault(reason, {"documents": 0, "characters": 0, "examples": []})
                left_out["documents"] += 1
                left_out["characters"] += len(document.text)
                if len(left_out["examples"]) < EXAMPLES:
                    left_out["examples"].append(example(document.name, document.text))
                continue
            lines = document.text.split("\n")
            if layout != "sentences":
                lines = [sentence for line in lines for sentence in sentences.split(line, config.language)]
            counts.update(sentences=len(lines))
            signature = cleaning.signature(document.text) if config.deduplicate == "near" else None
            run.add(document.name, cleaning.key_of(document.text, config.seed),
                    "\n".join([*lines, "", ""]).encode("utf-8"), signature)
            if run.bytes >= PIECE_BYTES:
                write()
    write()
    finish(f"{folder}/pieces/{number:06d}.json", written, runs=runs, counts=counts, layouts=layouts, dropped=dropped)


# --- Stage 2: duplicates and the division into shards ---


class Corpus:
    """The documents of all runs. A document's rank is its place in the order of the input."""

    def __init__(self, folder: str, runs: List[Tuple[str, int]]):
        self.folder, self.names = folder, [name for name, _ in runs]
        self.base = np.concatenate([[0], np.cumsum([size for _, size in runs], dtype=np.int64)])

    @property
    def size(self) -> int:
        return int(self.base[-1])

    def rows(self, run: int, mapped: bool = False) -> np.ndarray:
        """The index of a run; `mapped`: only what is looked at is read."""
        return np.load(f"{self.folder}/pieces/{self.names[run]}.index.npy", "r" if mapped else None)

    def signatures(self, run: int, mapped: bool = False) -> np.ndarray:
        return np.load(f"{self.folder}/pieces/{self.names[run]}.signatures.npy", "r" if mapped else None)

    def example(self, rank: int, kept: int) -> dict:
        """A duplicate, and where the document is that stays."""
        (name, text), (kept_name, _) = self._document(rank), self._document(kept)
        return example(name, text, kept=kept_name)

    def _document(self, rank: int) -> Tuple[str, str]:
        run = int(np.searchsorted(self.base, rank, "right")) - 1
        order, path = rank - int(self.base[run]), f"{self.folder}/pieces/{self.names[run]}"
        rows = self.rows(run)
        row = rows[np.flatnonzero(rows["order"] == order)[0]]
        with open(f"{path}.docs", "rb") as file:
            file.seek(int(row["offset"]))
            text = file.read(min(int(row["size"]), 8 * EXAMPLE_CHARACTERS)).decode("utf-8", "ignore")
        with open(f"{path}.names", encoding="utf-8") as file:
            return next(line.rstrip("\n") for number, line in enumerate(file) if number == order), text


def exact_duplicates(corpus: Corpus) -> np.ndarray:
    """(dropped, kept): int64 [n, 2], ranks. Keys are looked at in ranges of about a million."""
    pairs = [np.zeros((0, 2), np.int64)]
    parts = corpus.size // 1_000_000 + 1
    bounds = [np.uint64(part * (1 << 64) // parts) for part in range(parts)]
    for begin, end in zip(bounds, [*bounds[1:], None]):
        high, low, rank = [], [], []
        for run in range(len(corpus.names)):
            rows = corpus.rows(run, mapped=True)
            first = np.searchsorted(rows["high"], begin)
            last = len(rows) if end is None else np.searchsorted(rows["high"], end)
            high.append(rows["high"][first:last])
            low.append(rows["low"][first:last])
            rank.append(rows["order"][first:last].astype(np.int64) + corpus.base[run])
        high, low, rank = map(np.concatenate, (high, low, rank))
        order = np.lexsort((rank, low, high))
        high, low, rank = high[order], low[order], rank[order]
        same = np.concatenate([[False], (high[1:] == high[:-1]) & (low[1:] == low[:-1])])
        kept = rank[np.maximum.accumulate(np.where(same, 0, np.arange(len(rank))))]  # the first of each group
        pairs.append(np.stack([rank[same], kept[same]], axis=1))
    return np.concatenate(pairs)


def band_hashes(corpus: Corpus, first: int, last: int) -> np.ndarray:
    """Hashes of the bands `first` to `last` of all signatures: uint64 [bands, documents]."""
    hashes = np.zeros((last - first, corpus.size), np.uint64)
    rows = cleaning.PERMUTATIONS // cleaning.BANDS
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
    for run in range(len(corpus.names)):
        signatures = corpus.signatures(run)
        for band in range(first, last):
            columns = signatures[:, band * rows:(band + 1) * rows].astype(np.uint64)
            mixed = (columns * factors[:rows]).sum(axis=1, dtype=np.uint64)
            hashes[band - first, corpus.base[run]:corpus.base[run + 1]] = mixed ^ (mixed >> np.uint64(29))
    return hashes


def near_duplicates(corpus: Corpus, dropped: np.ndarray, similarity: float) -> np.ndarray:
    """(dropped, kept): int64 [n, 2], ranks. dropped: bool [documents], those that are not looked at."""
    at_once = max(1, min(cleaning.BANDS, (128 << 20) // (8 * max(1, corpus.size))))
    found = np.zeros((0, 2), np.int64)
    for first in range(0, cleaning.BANDS, at_once):
        for hashes in band_hashes(corpus, first, min(cleaning.BANDS, first + at_once)):
            ranks = np.flatnonzero(~dropped)
            ranks = ranks[np.argsort(hashes[ranks], kind="stable")]
            ordered = hashes[ranks]
            same = np.concatenate([[False], ordered[1:] == ordered[:-1]])[:len(ranks)]
            leader = ranks[np.maximum.accumulate(np.where(same, 0, np.arange(len(ranks))))] if len(ranks) else ranks
            pairs = np.stack([ranks[same], leader[same]], axis=1)
            found = np.unique(np.concatenate([found, pairs]), axis=0)
    similar = found[similarities(corpus, found) >= similarity]
    gone, kept = set(), []
    for rank, other in similar.tolist():  # in the order of rank: whether `other` stays is known
        if rank not in gone and other not in gone:
            gone.add(rank)
            kept.append((rank, other))
    return np.array(kept, np.int64).reshape(-1, 2)


def similarities(corpus: Corpus, pairs: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of pairs of documents (ranks, int64 [n, 2])."""
    mapped = functools.lru_cache(maxsize=256)(functools.partial(corpus.signatures, mapped=True))
    result = np.zeros(len(pairs))
    runs = np.searchsorted(corpus.base, pairs, "right") - 1
    for number, ((rank, other), (run, other_run)) in enumerate(zip(pairs.tolist(), runs.tolist())):
        same = mapped(run)[rank - corpus.base[run]] == mapped(other_run)[other - corpus.base[other_run]]
        result[number] = np.count_nonzero(same) / cleaning.PERMUTATIONS
    return result


BINS = 20  # bits of the key: shards are cut between bins


def order_documents(config: PrepareConfig, folder: str, corpus: Corpus) -> dict:
    """Decides which documents stay (dropped.npy, bool by rank) and which bins each shard has (order.json)."""
    path = f"{folder}/order.json"
    made = finished(path)
    if made:
        return made
    dropped, left_out = np.zeros(corpus.size, bool), {}
    for reason, wanted in (("exact duplicate", config.deduplicate != "none"),
                           ("near duplicate", config.deduplicate == "near")):
        if not wanted:
            continue
        pairs = exact_duplicates(corpus) if reason.startswith("exact") else near_duplicates(
            corpus, dropped, config.near_duplicate_similarity)
        dropped[pairs[:, 0]] = True
        if len(pairs):
            pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
            left_out[reason] = {"documents": len(pairs), "ranks": pairs[:, 0],
                                "examples": [corpus.example(*pair) for pair in pairs[:EXAMPLES].tolist()]}
    sizes = np.zeros(1 << BINS)
    lost = {reason: 0 for reason in left_out}
    for run in range(len(corpus.names)):
        rows = corpus.rows(run)
        ranks = rows["order"].astype(np.int64) + corpus.base[run]
        stays = ~dropped[ranks]
        sizes += np.bincount((rows["high"] >> np.uint64(64 - BINS)).astype(np.int64),
                             rows["size"] * stays, minlength=1 << BINS)
        for reason, entry in left_out.items():
            lost[reason] += int(rows["size"][np.isin(ranks, entry["ranks"])].sum())
    for reason, entry in left_out.items():
        entry.update(ranks=None, bytes=lost[reason])
    total = sizes.sum()
    shards = max(1, round(total / (config.shard_megabytes * 1e6)))
    ends = np.searchsorted(np.cumsum(sizes), [total * (shard + 1) / shards for shard in range(shards - 1)]) + 1
    bounds = [0, *ends.tolist(), 1 << BINS]
    save_array(f"{folder}/dropped.npy", dropped)
    finish(path, ["dropped.npy"], bounds=bounds, sizes=[int(sizes[begin:end].sum()) for begin, end in zip(
        bounds, bounds[1:])], dropped=left_out)
    return read_record(path)


# --- Stage 3: shards ---


def write_shard(number: int):
    """Writes `corpus-<number>.txt` with its documents in the order of their keys, and `<number>.json`."""
    config, folder, plan, done = _worker
    corpus, dropped = Corpus(folder, plan["runs"]), np.load(f"{folder}/dropped.npy")
    counts, name = collections.Counter(), f"corpus-{number:06d}.txt"
    total = max(1, plan["order"]["sizes"][number])
    begin, end = plan["order"]["bounds"][number:number + 2]
    steps = max(1, min(end - begin, total // BLOCK_BYTES + 1))
    bounds = [begin + (end - begin) * step // steps for step in range(steps + 1)]
    with files.replacing(f"{folder}/shards/{name}") as temporary, open(temporary, "wb") as file:
        for first, last in zip(bounds, bounds[1:]):
            block = []
            for run in range(len(corpus.names)):
                block += documents_between(corpus, run, dropped, first, last)
            block.sort(key=lambda document: document[:2])
            file.writelines(text for _, _, text in block)
            counts.update(documents=len(block), bytes=sum(len(text) for _, _, text in block),
                          sentences=sum(text.count(b"\n") - 1 for _, _, text in block))
            done[number] = counts["bytes"]
    finish(f"{folder}/shards/{number:06d}.json", [name], counts=counts)


def documents_between(corpus: Corpus, run: int, dropped: np.ndarray, first: int, last: int
                      ) -> List[Tuple[Tuple[int, int], int, bytes]]:
    """(key, rank, text) of the documents of a run in the bins `first` to `last`."""
    rows = corpus.rows(run, mapped=True)
    bins = rows["high"] >> np.uint64(64 - BINS)
    rows = np.array(rows[np.searchsorted(bins, first):np.searchsorted(bins, last)])
    if not len(rows):
        return []
    start = int(rows["offset"][0])
    with open(f"{corpus.folder}/pieces/{corpus.names[run]}.docs", "rb") as file:
        file.seek(start)
        text = file.read(int(rows["offset"][-1]) + int(rows["size"][-1]) - start)
    found = []
    for high, low, offset, size, order in rows.tolist():
        rank = order + int(corpus.base[run])
        if not dropped[rank]:
            found.append(((high, low), rank, text[offset - start:offset - start + size]))
    return found


# --- Workers ---

_worker = None  # in a worker process: the configuration, the working folder, the plan, and the progress of each task


def start_worker(config: PrepareConfig, folder: str, plan: dict, done):
    global _worker
    process_pool.begin_worker()
    _worker = config, folder, plan, done


def run_stage(config: PrepareConfig, folder: str, plan: dict, function: Callable, sizes: List[int], place: str,
              what: str) -> List[dict]:
    """Runs a function for each number in worker processes, except where it has finished before.

    Args:
        sizes: of each task, for the progress bar; a task that has finished counts as that.
        place: folder and format of what `finish` writes for a task.
    Returns: what `finish` recorded of each task.
    Raises: RunFailed: a worker failed; UserError, OSError: as in a worker.
    """
    results = [finished(place.format(number)) for number in range(len(sizes))]
    missing = [number for number, result in enumerate(results) if result is None]
    if len(missing) < len(sizes):
        print(f"{what}: {len(sizes) - len(missing):,} of {len(sizes):,} pieces were finished before", flush=True)
    if not missing:
        return results
    os.makedirs(os.path.dirname(place), exist_ok=True)
    files.remove_junk(os.path.dirname(place))
    process_pool.run_tasks(function, missing, sizes, config.processes, start_worker, (config, folder, plan), what)
    return [result or read_record(place.format(number)) for number, result in enumerate(results)]


# --- The report ---


class Result(NamedTuple):
    counts: Dict[str, int]  # documents and characters that were read, and what was written
    layouts: Dict[str, int]  # files by what they are
    dropped: Dict[str, dict]  # by reason: documents, characters (bytes, of duplicates), examples


def summarise(pieces: List[dict], order: dict, shards: List[dict]) -> Result:
    counts, layouts, dropped = collections.Counter(), collections.Counter(), {}
    for piece in pieces:
        counts.update({f"{name}_read": count for name, count in piece["counts"].items()})
        layouts.update(piece["layouts"])
        for reason, entry in piece["dropped"].items():
            all_of = dropped.setdefault(reason, {"documents": 0, "characters": 0, "examples": []})
            all_of["documents"] += entry["documents"]
            all_of["characters"] += entry["characters"]
            all_of["examples"] = (all_of["examples"] + entry["examples"])[:EXAMPLES]
    for reason, entry in order["dropped"].items():
        dropped[reason] = {name: value for name, value in entry.items() if name != "ranks"}
    for shard in shards:
        counts.update(shard["counts"])
    return Result(dict(counts), dict(layouts), {reason: dropped[reason] for reason in cleaning.FILTERS
                                                if reason in dropped})


def report_of(config: PrepareConfig, result: Result) -> str:
    """The report as Markdown."""
    counts = result.counts
    read = max(1, counts.get("documents_read", 0))
    lines = [f"# Corpus of {config.input_dir}", "",
             f"{counts.get('documents', 0):,} of {counts.get('documents_read', 0):,} documents stay: "
             f"{counts.get('sentences', 0):,} sentences, {counts.get('bytes', 0) / 1e6:,.1f} MB.", "",
             "| files | read as |", "|---|---|",
             *(f"| {number:,} | {layout} |" for layout, number in sorted(result.layouts.items())), ""]
    if result.dropped:
        lines += ["| left out | documents | share | text (MB) | because |", "|---|---|---|---|---|"]
    for reason, entry in result.dropped.items():
        size = entry.get("characters", entry.get("bytes", 0)) / 1e6
        lines.append(f"| {reason} | {entry['documents']:,} | {entry['documents'] / read:.1%} | {size:,.1f} | "
                     f"{cleaning.FILTERS[reason]} |")
    for reason, entry in result.dropped.items():
        lines += ["", f"## {reason}", ""]
        for shown in entry["examples"]:
            kept = f" (stays: {shown['kept']})" if "kept" in shown else ""
            lines.append(f"- `{shown['document']}`{kept}: {shown['text']}")
    return "\n".join(lines) + "\n"


# --- The command ---


def check_output(config: PrepareConfig, content: List[dict]) -> bool:
    """Whether output_dir is up to date. Raises: UserError: it holds something else that may not be replaced."""
    configuration.check_folder(config.output_dir, "output_dir", replaced=True)
    if not os.path.isdir(config.output_dir) or not os.listdir(config.output_dir):
        return False
    path = os.path.join(config.output_dir, "manifest.json")
    made = read_record(path)
    own = {"manifest.json", "report.md", "report.json", *(entry["file"] for entry in made.get("text", []))}
    foreign = {os.path.relpath(os.path.join(place, name), config.output_dir)
               for place, _, names in os.walk(config.output_dir) for name in names} - own
    if made.get("format") != CORPUS_FORMAT or foreign:
        raise UserError(f"--output_dir={config.output_dir} contains {min(foreign or own)}, which is not part of a "
                        "prepared corpus: choose another folder.")
    if same_input(made, {"options": config.deciding(), "input": content}) and all(
            os.path.exists(os.path.join(config.output_dir, entry["file"])) for entry in made.get("text", [])):
        return True
    if not config.overwrite:
        raise UserError(f"--output_dir={config.output_dir} contains a corpus of other text or options: choose another "
                        "folder, or replace it with --overwrite.")
    return False


def check_disk(config: PrepareConfig, content: List[dict], folder: str):
    text = sum(entry["bytes"] * (COMPRESSION_RATIO if documents.kind_of(entry["file"])[1] or documents.kind_of(
        entry["file"])[0] == "parquet" else 1) for entry in content)
    have = sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)
    needed, free = 2.2 * text - have, shutil.disk_usage(os.path.dirname(folder)).free
    if free < needed:
        raise UserError(f"--output_dir={config.output_dir} has {free / 1e9:,.1f} GB free and needs about "
                        f"{needed / 1e9:,.1f} GB: free some space or choose another disk.")


def check_libraries(config: PrepareConfig):
    """Raises UserError: a library is not installed."""
    needed = {"sentencex": True, "rensa": config.deduplicate == "near", "py3langid": config.filter_language}
    missing = [name for name, used in needed.items() if used and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be installed: run pip install -r requirements.txt.")


def prepare(config: PrepareConfig):
    """Writes the prepared corpus. Raises: UserError, RunFailed, Interrupted."""
    start_time = time.monotonic()
    check_libraries(config)
    output_dir = os.path.realpath(config.output_dir)
    partial = files.partial_name(output_dir)
    if config.filter_language:
        cleaning.check_language(config.language)
    before = read_record(f"{partial}/plan.json")
    base, names = find_input(config)
    content = documents.content(base, names, [
        entry for made in (before, read_record(f"{output_dir}/manifest.json")) for entry in made.get("input", [])])
    files.remove_leftovers(output_dir)
    if check_output(config, content):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed at its very end
        print(f"{config.output_dir} is up to date", flush=True)
        return
    check_disk(config, content, partial)
    plan = make_plan(config, base, content)
    if before and not (same_input(before, plan) and before.get("pieces") == plan["pieces"]):
        print("the text, the options or this program have changed since the run that was not finished: starting again",
              flush=True)
        shutil.rmtree(partial)
    with files.kept_folder(output_dir, replace=config.overwrite) as folder:
        files.remove_junk(folder)
        files.write_json(f"{folder}/plan.json", plan)
        result, num_bytes = write_corpus(config, folder, plan)
    say_result(config, result, num_bytes, time.monotonic() - start_time)


def write_corpus(config: PrepareConfig, folder: str, plan: dict) -> Tuple[Result, int]:
    """The stages, and the folder `new` that replaces --output_dir. Returns: what was done, and the bytes of input."""
    sizes = [sum((part[2] or os.path.getsize(os.path.join(plan["base"], part[0]))) - part[1] for part in piece)
             for piece in plan["pieces"]]
    pieces = run_stage(config, folder, plan, read_piece, sizes, f"{folder}/pieces/{{:06d}}.json", "reading")
    runs = [tuple(run) for piece in pieces for run in piece["runs"]]
    if not runs:
        raise UserError(f"--input_dir={config.input_dir}: every document was left out "
                        f"({', '.join(sorted({reason for piece in pieces for reason in piece['dropped']})) or 'empty'}"
                        "): loosen the filters, see --help.")
    order = order_documents(config, folder, Corpus(folder, runs))
    shards = run_stage(config, folder, {"runs": runs, "order": {name: order[name] for name in ("bounds", "sizes")}},
                       write_shard, order["sizes"], f"{folder}/shards/{{:06d}}.json", "writing")
    result = summarise(pieces, order, shards)
    new, text = f"{folder}/new", []
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed here: shards that it had moved are written again
    os.makedirs(f"{new}/text")
    for number, shard in enumerate(shards):
        name = f"text/corpus-{number:05d}-of-{len(shards):05d}.txt"
        (old, digest), = shard["files"].items()
        os.rename(f"{folder}/shards/{old}", f"{new}/{name}")
        text.append({"file": name, **shard["counts"], "blake2b": digest[1]})
    files.write_text(f"{new}/report.md", report_of(config, result))
    files.write_json(f"{new}/report.json", result._asdict())
    files.write_json(f"{new}/manifest.json", {
        "format": CORPUS_FORMAT, "version": 1, "options": plan["options"], "counts": result.counts,
        "text": text, "input": plan["input"]})
    return result, sum(sizes)


def say_result(config: PrepareConfig, result: Result, num_bytes: int, seconds: float):
    counts = result.counts
    read_as = ", ".join(f"{number:,} {layout}" for layout, number in sorted(result.layouts.items()))
    print(f"files: {read_as}", flush=True)
    for reason, entry in result.dropped.items():
        print(f"left out: {entry['documents']:,} documents ({reason})", flush=True)
    if counts["documents"] < counts["documents_read"] / 2:
        print(f"note: more than half of the documents were left out: see {config.output_dir}/report.md", flush=True)
    print(f"{config.output_dir}: {counts['documents']:,} of {counts['documents_read']:,} documents, "
          f"{counts['sentences']:,} sentences, {counts['bytes'] / 1e6:,.1f} MB; {num_bytes / 1e6:,.1f} MB in "
          f"{seconds:,.1f} s, {num_bytes / 1e6 / seconds:.2f} MB/s", flush=True)


def main(argv) -> int:
    config = command_line.parse(PrepareConfig, argv, __doc__)
    process_pool.stop_on_signals()
    with configuration.sole_user(config.output_dir, "choose another --output_dir", beside=True):
        try:
            prepare(config)
        except OSError as error:
            raise UserError(f"{error.filename or config.output_dir} could not be read or written ({error.strerror}): "
                            "fix that or choose another folder, and run the same command again.") from error
    return 0


if __name__ == "__main__":
    command_line.run_command(main)
