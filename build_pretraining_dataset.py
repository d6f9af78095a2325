"""Builds pre-training records from plain text: ELECTRA's two-segment examples as TFRecord shards.

    python build_pretraining_dataset.py --corpus_dir=text --vocab_file=vocab.txt --output_dir=data/seq_len_128 \
        --max_seq_length=128 --num_out_files=64 --eval_fraction=0.005

The corpus is every regular, not hidden file directly in --corpus_dir: UTF-8, one sentence a line. A line of nothing but
ASCII white space is blank; it ends a document (`--noblanks_separate_docs`: it does nothing, a file is one document).
The end of a file always ends a document. A byte order mark at the start of a file is passed over.

The rule is that of the builder released with Clark et al. 2020 (arXiv:2003.10555), for one document at a time:

1.  An example takes whole sentences, in order, until they hold at least `target` tokens or the document ends. `target`
    is max_seq_length, or for 5% of the examples a whole number drawn uniformly from 5 .. max_seq_length.
2.  10% of the examples have one segment: all their sentences. In the others the first segment takes the first sentence,
    then further ones while it stays below (target - 3) // 2 tokens. The sentence that would end that is taken too with
    a chance of 50%, unless the first segment is there already. What follows goes to the second segment.
3.  The first segment is cut to max_seq_length - 2 tokens, the second to what then fits into
    `[CLS] first [SEP] second [SEP]`; an example whose second segment is empty is `[CLS] first [SEP]`.

What step 3 cuts, the end of an example's last sentences, is the only text that is lost; the summary says how much. Two
things differ from the release: once the second segment has begun no later sentence joins the first, so that text keeps
its order, and `target` is drawn for every example, where the release lets a document's first one inherit the last draw.

Where the release uses one random stream, a draw here is a function of (seed, file's name, byte offset of the document,
number of the example in the document); see `draw`. The corpus is cut into chunks by its size and --num_out_files alone,
chunk c goes to shard c % num_out_files, and a worker process owns whole shards: the same seed and --num_out_files give
the same bytes for any --num_processes. A document that goes on for more than `DOCUMENT_BOUND` bytes past the planned
end of a chunk is cut there, between lines; its parts make examples of their own but count, and are held out, as one.

Held-out documents (--eval_fraction) are chosen by a keyed hash of the document's first 64 KiB: two documents that begin
with the same 64 KiB, copies above all, are on the same side, and what is added to a corpus moves no other document.

Written, in a folder beside --output_dir that is renamed when complete: `train-00000-of-00016.tfrecord` ..., with
--eval_fraction also `eval/eval-00000-of-00001.tfrecord` ..., `vocab.txt`, `tokenizer_config.json`, `manifest.json`.
A record is a `tf.train.Example` of three int64 lists as long as max_seq_length: input_ids; input_mask, 1 on tokens;
segment_ids, 0 on the first segment, its [CLS] and [SEP], 1 on the second and its [SEP]; 0 on padding in all three
([PAD]'s id in input_ids). TensorFlow is not imported: protocol buffer and TFRecord framing are written with numpy.

A build cannot be resumed. It ends with status 0, 2 (a mistake to mend), 1 (a worker died), 130 (Ctrl-C) or 143
(SIGTERM); in all but the first nothing is left behind, and an older dataset in --output_dir is as it was.
"""
from __future__ import annotations

import bisect
import contextlib
import copy
import dataclasses
import errno
import fcntl
import hashlib
import itertools
import json
import math
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import re
import shutil
import signal
import struct
import sys
import time
import traceback
from typing import Iterator, NamedTuple, Optional

import google_crc32c
import numpy as np
import tokenizers
import tqdm
from absl import flags

import configuration
from configuration import UserError, option
from tokenization import ElectraTokenizer

DATASET_FORMAT = "electra-pretraining-tfrecord"
DATASET_VERSION = 1

CHUNK_BYTES = 4 << 20  # planned size of a chunk of a large corpus: what a worker holds in memory at a time
DOCUMENT_BOUND = 8 << 20  # a document is cut at the planned end of a chunk if it goes on for more than this
LINE_BOUND = 16 << 20  # a longer line, met where a document is cut, is refused
IDENTITY_BYTES = 64 << 10  # a document's beginning by which it is held out or not
TEXT_BYTES = 4000  # lines are joined to about this much for one call of the tokenizer
ROW_TOKENS = 1 << 16  # tokens of the batch of examples that is encoded at once: fits a core's cache
LOG_SECONDS = 30  # between two progress lines where there is no terminal
MUCH_CUT = 0.25  # larger shares of text in no record, and of padding, are pointed out with their usual reasons
MUCH_PADDING = 0.4

SINGLE_SEGMENT_SHARE = 0.10
SHORT_TARGET_SHARE = 0.05
SHORTEST_TARGET = 5

# What gzip, bzip2, xz, zstd and zip files begin with.
COMPRESSED = re.compile(rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|PK\x03\x04")
BLANK_LINE = re.compile(rb"\n[ \t\r\v\f]*\n")
TEXT = re.compile(rb"[^ \t\r\v\f\n]")


class BuildStopped(Exception):
    """The build ended without a dataset and through no mistake in what was asked: a signal, or a dead worker."""

    def __init__(self, text: str, exit_status: int):
        super().__init__(text)
        self.exit_status = exit_status


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """One build. Everything but the number of processes and the folders decides what is written."""

    corpus_dir: Optional[str] = option(None, "folder of UTF-8 text files, one sentence a line")
    vocab_file: Optional[str] = option(None, "WordPiece vocabulary, one token a line")
    output_dir: Optional[str] = option(None, "folder to make")
    max_seq_length: int = option(128, "length of every record, tokens", minimum=8)
    num_processes: Optional[int] = option(None, "worker processes (default: the cores this process may use)", minimum=1)
    num_out_files: Optional[int] = option(
        None, "training shards; a multiple of num_processes keeps all of them busy to the end (default: 16, or "
        "num_processes where that is more)", minimum=1, maximum=99999)
    blanks_separate_docs: bool = option(True, "a blank line ends a document; false: a file is one document")
    do_lower_case: bool = option(True, "lower-case the text, for uncased vocabularies")
    strip_accents: str = option("none", "strip accents (none: as do_lower_case)", choices=("none", "true", "false"))
    seed: int = option(42, "seed of lengths, segments and the held-out share", minimum=0, maximum=2**31 - 1)
    eval_fraction: float = option(0.0, "share of the documents held out in <output_dir>/eval", minimum=0.0, maximum=0.9)
    encoding_errors: str = option(
        "strict", "text that is not UTF-8: strict refuses it, replace drops the offending bytes",
        choices=("strict", "replace"))
    overwrite: bool = option(False, "replace the dataset in output_dir (and nothing but a dataset)")

    def __post_init__(self):
        configuration.check_options(self)
        for name in ("corpus_dir", "vocab_file", "output_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: give it (--help lists every option).")
        if None not in (self.num_out_files, self.num_processes) and self.num_out_files < self.num_processes:
            raise UserError(f"--num_out_files={self.num_out_files} is below --num_processes={self.num_processes}, and "
                            "every process writes whole files: ask for more files or fewer processes.")

    @property
    def processes(self) -> int:
        if self.num_processes is not None:
            return self.num_processes
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cores if self.num_out_files is None else min(cores, self.num_out_files)

    @property
    def out_files(self) -> int:
        return self.num_out_files if self.num_out_files is not None else max(16, self.processes)

    def tokenizer(self, vocab_file: str) -> ElectraTokenizer:
        accents = {"none": None, "true": True, "false": False}[self.strip_accents]
        return ElectraTokenizer(vocab_file, do_lower_case=self.do_lower_case, strip_accents=accents)


# --- The corpus and its chunks ---

class CorpusFile(NamedTuple):
    """A file of the corpus: name in corpus_dir, bytes, where its text begins (0, or 3 after a byte order mark).

    `has_text` is False for a file of blank lines only.
    """

    name: str
    size: int
    begin: int
    has_text: bool


class Cut(NamedTuple):
    """A place where a chunk may begin: file number and byte offset, the start of a line.

    `document` is None where a document begins, else the offset at which the document that is cut here began.
    """

    file: int
    offset: int
    document: int | None


class Span(NamedTuple):
    """Bytes `begin` to `end` of a file. `document`: see `Cut`."""

    name: str
    begin: int
    end: int
    document: int | None


def list_corpus(corpus_dir: str) -> list[CorpusFile]:
    """The files of the corpus in the order of their names.

    Raises: UserError: no such folder, no file, no text in any of them, or a compressed file.
    """
    try:
        names = sorted((name for name in os.listdir(corpus_dir) if not name.startswith(".")), key=os.fsencode)
    except OSError as error:
        raise UserError(f"--corpus_dir={corpus_dir} cannot be read ({error.strerror}): give a folder of text files."
                        ) from error
    files = []
    for name in names:
        path = os.path.join(corpus_dir, name)
        if not os.path.isfile(path):
            continue
        with mapped(path) as text:
            if COMPRESSED.match(text):
                raise UserError(f"{path} is compressed: decompress it, the corpus is plain text.")
            begin = 3 if text[:3] == b"\xef\xbb\xbf" else 0
            files.append(CorpusFile(name, len(text), begin, TEXT.search(text, begin) is not None))
    if not files:
        hint = " (its subfolders are not read)" if names else ""
        raise UserError(f"--corpus_dir={corpus_dir} holds no text file{hint}: put the corpus directly into it.")
    if not any(file.has_text for file in files):
        raise UserError(f"--corpus_dir={corpus_dir} holds no document: every line of its files is blank.")
    return files


@contextlib.contextmanager
def mapped(path: str):
    """The bytes of a file, mapped into memory, read-only. Raises: UserError: it cannot be read."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                yield b""  # an empty file cannot be mapped
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                yield text
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable or move it away.") from error


def plan_chunks(files: list[CorpusFile], config: BuildConfig) -> list[list[Span]]:
    """Cuts the corpus into chunks of about equal size, between documents.

    A function of the files, num_out_files and blanks_separate_docs only. Chunks run across files. There are as many as
    shards or a multiple of that; fewer where documents are long, down to one for each where there are fewer documents
    than shards.
    """
    files = [file for file in files if file.has_text]
    ends = list(itertools.accumulate(file.size for file in files))
    total, shards = ends[-1], config.out_files
    count = shards * math.ceil(total / (shards * CHUNK_BYTES))
    planned = [[] for _ in files]  # offsets near which a chunk is to begin, by file
    for position in (number * total // count for number in range(count)):
        number = bisect.bisect_right(ends, position)
        planned[number].append(position - (ends[number] - files[number].size))

    cuts = {cut for number in range(len(files)) if planned[number]
            for cut in cuts_near(files, number, planned[number], config)}
    if len(cuts) < shards:  # long documents hid short ones: look at every document
        cuts.update(cut for number in range(len(files)) for cut in document_starts(files, number, config))
        cuts = evenly(sorted(cuts, key=lambda cut: cut[:2]), shards,
                      lambda cut: ends[cut.file] - files[cut.file].size + cut.offset, total)
    return spans_between(sorted(cuts, key=lambda cut: cut[:2]), files)


def cuts_near(files: list[CorpusFile], number: int, planned: list[int], config: BuildConfig) -> Iterator[Cut]:
    """For each planned offset in a file, the next place where a document begins.

    Where that is more than `DOCUMENT_BOUND` away it is the next line, inside the document.
    """
    file = files[number]
    start_of_next = [Cut(number + 1, files[number + 1].begin, None)] if number + 1 < len(files) else []
    path = os.path.join(config.corpus_dir, file.name)
    if planned[0] <= file.begin:
        yield Cut(number, file.begin, None)
    with mapped(path) as text:
        begin = file.begin  # of the chunk that is to end
        document = next_line(text, begin)  # where the document began that reaches over `begin`
        searched = 0  # known to lie in the same document as the last cut
        for offset in planned:
            if offset <= begin:
                continue
            bound = offset + DOCUMENT_BOUND
            # From one byte earlier: the offset may be the start of a blank line.
            blank = BLANK_LINE.search(text, max(offset - 1, searched), bound) if config.blanks_separate_docs else None
            if not blank and bound >= file.size:
                yield from start_of_next
                return
            line = next_line(text, blank.end() if blank else end_of_line(path, text, offset))
            if line is None:  # the rest of the file is blank
                yield from start_of_next
                return
            if blank:
                document = line
            elif config.blanks_separate_docs:
                for ended in BLANK_LINE.finditer(text, begin, line):
                    document = ended.end()
                document = next_line(text, document)
                searched = max(searched, text.rfind(b"\n", offset, bound))
            begin = line
            yield Cut(number, line, document if document < line else None)


def next_line(text, offset: int) -> int | None:
    """Where the first line that is not blank begins, from `offset` on (the start of a line); None: there is none."""
    found = TEXT.search(text, offset)
    return max(offset, text.rfind(b"\n", offset, found.start()) + 1) if found else None


def end_of_line(path: str, text, offset: int) -> int:
    """Where the first line after `offset` begins. Raises: UserError: further than `LINE_BOUND` away."""
    newline = text.find(b"\n", offset, offset + LINE_BOUND)
    if newline < 0 and offset + LINE_BOUND < len(text):
        raise UserError(f"{path} has a line of more than {LINE_BOUND >> 20} MiB, around byte {offset}: put one "
                        "sentence on a line.")
    return newline + 1 if newline >= 0 else len(text)


def document_starts(files: list[CorpusFile], number: int, config: BuildConfig) -> Iterator[Cut]:
    """Where each document of a file begins."""
    file = files[number]
    yield Cut(number, file.begin, None)
    if config.blanks_separate_docs:
        with mapped(os.path.join(config.corpus_dir, file.name)) as text:
            line = next_line(text, file.begin)
            while line is not None:
                blank = BLANK_LINE.search(text, line)
                line = next_line(text, blank.end()) if blank else None
                if line is not None:
                    yield Cut(number, line, None)


def evenly(cuts: list[Cut], count: int, position_of, total: int) -> list[Cut]:
    """Of sorted cuts, the `count` (or all, if fewer) that lie nearest to even distances, the first among them."""
    positions = [position_of(cut) for cut in cuts]
    count = min(count, len(cuts))
    chosen = [0]
    for part in range(1, count):
        lowest, highest = chosen[-1] + 1, len(cuts) - (count - part)
        ideal = total * part / count
        nearest = bisect.bisect_left(positions, ideal)
        if nearest > 0 and (nearest == len(cuts) or ideal - positions[nearest - 1] < positions[nearest] - ideal):
            nearest -= 1
        chosen.append(min(max(nearest, lowest), highest))
    return [cuts[index] for index in chosen]


def spans_between(cuts: list[Cut], files: list[CorpusFile]) -> list[list[Span]]:
    """The chunks between neighbouring cuts, each as spans of the files it touches."""
    chunks = []
    for cut, after in zip(cuts, cuts[1:] + [Cut(len(files), 0, None)]):
        spans = []
        for number in range(cut.file, min(after.file + 1, len(files))):
            begin = cut.offset if number == cut.file else files[number].begin
            end = after.offset if number == after.file else files[number].size
            if begin < end:
                spans.append(Span(files[number].name, begin, end, cut.document if number == cut.file else None))
        chunks.append(spans)
    return chunks


# --- Draws ---

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mixed(word: int) -> int:
    """The 64-bit finalizer of SplitMix64 (Steele, Lea & Flood 2014)."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31


def file_key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(b"%d %s" % (seed, os.fsencode(name)), digest_size=8).digest(), "little")


def document_key(key_of_file: int, offset: int) -> int:
    """`offset` is that of the first byte of the document's first line that is not blank."""
    return mixed(key_of_file + (offset + 1) * _GOLDEN & _WORD)


class Draw(NamedTuple):
    """What is left to chance in one example: rule 1 and 2 of the module's docstring."""

    target: int
    single_segment: bool
    exceed: bool


def draw(key: int, number: int, max_seq_length: int) -> Draw:
    """The draws of example `number` (from 0) of the document with `key`: SplitMix64 at a position, cut into fields."""
    bits = mixed(key + (number + 1) * _GOLDEN & _WORD)
    target = max_seq_length
    if (bits & 0xFFFFF) < SHORT_TARGET_SHARE * (1 << 20):
        target = SHORTEST_TARGET + ((bits >> 41) * (max_seq_length - SHORTEST_TARGET + 1) >> 23)
    return Draw(target, (bits >> 20 & 0xFFFFF) < SINGLE_SEGMENT_SHARE * (1 << 20), bool(bits >> 40 & 1))


def is_held_out(beginning: bytes, seed: int, eval_fraction: float) -> bool:
    """Whether a document belongs to the held-out share, by a hash of its first `IDENTITY_BYTES`."""
    digest = hashlib.blake2b(beginning[:IDENTITY_BYTES].rstrip(), digest_size=8, key=b"%d" % seed).digest()
    return int.from_bytes(digest, "little") < eval_fraction * 2.0**64


# --- Text to ids ---

class Sentences(NamedTuple):
    """Tokenized lines, one behind the other. Line i is `ids[cumulative[i]:cumulative[i + 1]]`; none is empty.

    `documents` holds (first line, end line, key, held out) for each document.
    """

    ids: np.ndarray
    cumulative: list[int]
    documents: list[tuple[int, int, int, bool]]


class LineTokenizer:
    """Tokenizes many lines with few calls: lines are joined by a word that stands for a line's end.

    BERT's normalisation and WordPiece never look across white space, so the ids are those of the lines by themselves;
    at 50 bytes a line this saves a fifth of the time. The word is a letter of the Yi script that the vocabulary is
    given an id for, one above its own. Lines that contain the letter are tokenized one by one.
    """

    MARK = "\ua000"

    def __init__(self, tokenizer: ElectraTokenizer):
        self.by_line = tokenizer
        self.mark_id = tokenizer.vocab_size
        self.joined = copy.copy(tokenizer)
        backend = json.loads(tokenizer.backend.to_str())
        backend["model"]["vocab"][self.MARK] = self.mark_id
        self.joined.backend = tokenizers.Tokenizer.from_str(json.dumps(backend))

    def encode(self, lines: list[bytes], errors: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all lines (int32, flat) and the number of tokens of each. Raises: UnicodeDecodeError."""
        if not lines:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        mark = self.MARK.encode()
        separator = b" %s " % mark
        size_until = np.cumsum([len(line) for line in lines])
        borders = np.flatnonzero(np.diff(size_until // TEXT_BYTES)) + 1
        marked = []
        for begin, end in zip([0, *borders], [*borders, len(lines)]):
            text = separator.join(lines[begin:end]) + separator
            if text.count(mark) == end - begin:
                ids = self.joined.encode_batch([text.decode("utf-8", errors)])[0]
            else:
                texts = [line.decode("utf-8", errors) for line in lines[begin:end]]
                ids = [id_ for line in self.by_line.encode_batch(texts) for id_ in [*line, self.mark_id]]
            marked.append(np.array(ids, np.int32))
        marked = np.concatenate(marked)
        is_mark = marked == self.mark_id
        return marked[~is_mark], np.diff(np.flatnonzero(is_mark), prepend=-1) - 1


class ChunkReader:
    """Reads spans of the corpus and finds their documents."""

    def __init__(self, config: BuildConfig, tokenizer: ElectraTokenizer):
        self.config = config
        self.lines = LineTokenizer(tokenizer)

    def read(self, span: Span) -> tuple[Sentences, int]:
        """The sentences of a span, and the number of documents that begin in it.

        Raises: UserError: the file changed, or is not UTF-8.
        """
        path = os.path.join(self.config.corpus_dir, span.name)
        data = read_bytes(path, span.begin, span.end)
        if len(data) != span.end - span.begin:
            raise UserError(f"{path} became shorter while it was read: build again when the corpus is complete.")
        raw = data.split(b"\n")
        sizes = np.fromiter(map(len, raw), np.int64, len(raw)) + 1
        starts = np.cumsum(sizes) - sizes
        stripped = [line.strip() for line in raw]
        numbers = np.flatnonzero(np.fromiter(map(bool, stripped), bool, len(raw)))
        lines = [line for line in stripped if line]
        try:
            ids, lengths = self.lines.encode(lines, self.config.encoding_errors)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (byte {span.begin + first_invalid_byte(data)}): convert it, or drop "
                            "what cannot be read with --encoding_errors=replace.") from error

        # Lines that follow each other without a blank one between them are one document.
        is_first = np.diff(numbers, prepend=-2) > 1 if self.config.blanks_separate_docs else numbers == numbers[:1]
        firsts = np.flatnonzero(is_first)
        lasts = np.append(firsts[1:], len(numbers)) - 1
        begins = starts[numbers[firsts]].tolist()
        ends = (starts + sizes)[numbers[lasts]].tolist()
        key = file_key(self.config.seed, span.name)
        # Lines without a token (of control characters) are left out.
        kept_until = np.concatenate([[0], np.cumsum(lengths > 0)])
        first_lines, end_lines = kept_until[firsts].tolist(), kept_until[lasts + 1].tolist()
        cumulative = np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).tolist()
        documents = []
        for document, (begin, end) in enumerate(zip(begins, ends)):
            held_out = self.config.eval_fraction > 0 and is_held_out(
                data[begin:min(end, begin + IDENTITY_BYTES)] if document or span.document is None else
                read_bytes(path, span.document, span.document + IDENTITY_BYTES),
                self.config.seed, self.config.eval_fraction)
            documents.append((first_lines[document], end_lines[document], document_key(key, span.begin + begin),
                              held_out))
        return Sentences(ids, cumulative, documents), len(documents) - (bool(documents) and span.document is not None)


def read_bytes(path: str, begin: int, end: int) -> bytes:
    """Raises: UserError: the file cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            return file.read(end - begin)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): build again when the corpus is complete."
                        ) from error


def first_invalid_byte(data: bytes) -> int:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


# --- Sentences to examples ---

class Example(NamedTuple):
    """Where an example's two segments lie in `Sentences.ids`: begin and number of tokens (second: 0 for none)."""

    first_begin: int
    first_length: int
    second_begin: int
    second_length: int


def examples_of_document(cumulative: list[int], line: int, end_line: int, key: int, max_seq_length: int
                         ) -> Iterator[Example]:
    """Applies the rule in the module's docstring to lines `line` to `end_line`.

    Args:
        cumulative: number of tokens before each line; every line has one or more.
        key: `document_key`.
    """
    number = 0
    while line < end_line:
        target, single_segment, exceed = draw(key, number, max_seq_length)
        begin = cumulative[line]
        # The first line at whose start the target is reached, or the document's end.
        end = bisect.bisect_left(cumulative, begin + target, line + 1, end_line)
        if single_segment:
            split = end
        else:
            first_target = (target - 3) // 2
            split = max(line + 1, bisect.bisect_left(cumulative, begin + first_target, line, end + 1) - 1)
            if exceed and split < end and cumulative[split] - begin < first_target:
                split += 1
        first_length = min(cumulative[split] - begin, max_seq_length - 2)
        second_length = min(cumulative[end] - cumulative[split], max(0, max_seq_length - 3 - first_length))
        yield Example(begin, first_length, cumulative[split], second_length)
        line = end
        number += 1


# --- Examples to records ---

def varint(value: int) -> bytes:
    """Base-128 varint of the protocol buffer wire format."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def delimited(field: int, content_size: int) -> bytes:
    """Tag and size of a length-delimited field (wire type 2)."""
    return varint(field << 3 | 2) + varint(content_size)


def masked_crc(data: bytes) -> int:
    """The checksum of the TFRecord format: CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


class RecordEncoder:
    """Encodes examples as framed TFRecords of `tf.train.Example`, a batch at a time.

    Only input_ids vary in size (one to three bytes an id), so everything before them depends on their size alone and is
    made once per size; input_mask and segment_ids are runs of the bytes 0 and 1.
    """

    def __init__(self, max_seq_length: int, tokenizer: ElectraTokenizer):
        self.max_seq_length = max_seq_length
        self.cls_id, self.sep_id, self.pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.zeros, self.ones = b"\0" * max_seq_length, b"\1" * max_seq_length
        self.mask_head = self.feature_head(b"input_mask", max_seq_length)
        self.segment_head = self.feature_head(b"segment_ids", max_seq_length)
        self.heads = {}

    @staticmethod
    def feature_head(name: bytes, size: int) -> bytes:
        """What precedes `size` bytes of packed values: an entry of Features.feature, a map from name to Feature."""
        int64_list = delimited(1, size)  # Int64List.value
        feature = delimited(3, len(int64_list) + size) + int64_list  # Feature.int64_list
        value = delimited(2, len(feature) + size) + feature
        key = delimited(1, len(name)) + name
        return delimited(1, len(key) + len(value) + size) + key + value

    def head(self, size: int) -> tuple[bytes, bytes]:
        """For `size` bytes of input_ids: the frame before the message, and the message's beginning."""
        ids_head = self.feature_head(b"input_ids", size)
        features_size = (len(ids_head) + size + len(self.mask_head) + len(self.segment_head) + 2 * self.max_seq_length)
        message_head = delimited(1, features_size) + ids_head  # Example.features
        length = struct.pack("<Q", len(message_head) - len(ids_head) + features_size)
        return length + struct.pack("<I", masked_crc(length)), message_head

    def input_ids(self, ids: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """[CLS] first [SEP] second [SEP] and padding.

        Args:
            ids: int32 [tokens].
            examples: int64 [B, 4], rows of `Example`.
        Returns: int32 [B, max_seq_length].
        """
        first_begin, first_length, second_begin, second_length = examples.T[:, :, None]
        position = np.arange(self.max_seq_length)[None, :]
        first_end = first_length + 1  # position of the first [SEP]
        second_end = first_end + second_length + 1
        source = position + np.where(position < first_end, first_begin - 1, second_begin - first_end - 1)
        filled = ids[np.clip(source, 0, len(ids) - 1)]
        filled[position >= second_end] = self.pad_id
        filled[:, 0] = self.cls_id
        rows = np.arange(len(examples))
        filled[rows, first_end[:, 0]] = self.sep_id
        both = np.flatnonzero(second_length[:, 0])
        filled[both, second_end[both, 0]] = self.sep_id
        return filled

    def encode(self, ids: np.ndarray, examples: np.ndarray) -> list[bytes]:
        """Framed records of `examples` (see `input_ids`)."""
        values = self.input_ids(ids, examples)
        encoded = np.empty(values.shape + (3,), np.uint8)
        used = np.ones(values.shape + (3,), bool)
        used[..., 1] = values > 0x7F
        used[..., 2] = values > 0x3FFF
        encoded[..., 0] = values & 0x7F | used[..., 1].astype(np.int32) << 7
        encoded[..., 1] = values >> 7 & 0x7F | used[..., 2].astype(np.int32) << 7
        encoded[..., 2] = values >> 14
        packed = encoded[used].tobytes()
        sizes = np.count_nonzero(used, axis=(1, 2)).tolist()
        records, begin = [], 0
        for size, (_, first_length, _, second_length) in zip(sizes, examples.tolist()):
            head = self.heads.get(size)
            if head is None:
                head = self.heads[size] = self.head(size)
            first = first_length + 2
            second = second_length + 1 if second_length else 0
            padding = self.zeros[first + second:]
            message = b"".join((head[1], packed[begin:begin + size],
                                self.mask_head, self.ones[:first + second], padding,
                                self.segment_head, self.zeros[:first], self.ones[:second], padding))
            records += (head[0], message, struct.pack("<I", masked_crc(message)))
            begin += size
        return records


# --- Workers ---

@dataclasses.dataclass
class Counts:
    """What was written, of one shard or of all."""

    documents: int = 0
    train_records: int = 0
    eval_records: int = 0
    tokens: int = 0  # in records: text, [CLS] and [SEP]
    text_tokens: int = 0  # of the corpus
    cut_tokens: int = 0  # of those, in no record

    def add(self, other: Counts):
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def part_name(split: str, shard: int) -> str:
    return f"{split}-{shard:05d}.part"


class ShardBuilder:
    """Writes shards of one build: for shard s the files `train-<s>.part` and `eval-<s>.part` in `folder`."""

    def __init__(self, config: BuildConfig, folder: str):
        tokenizer = config.tokenizer(os.path.join(folder, "vocab.txt"))
        self.config, self.folder = config, folder
        self.reader = ChunkReader(config, tokenizer)
        self.encoder = RecordEncoder(config.max_seq_length, tokenizer)

    def build(self, shard: int, chunks: list[list[Span]], progress) -> Counts:
        """`progress(number of bytes)` is called after each chunk."""
        counts = Counts()
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(os.path.join(self.folder, part_name(split, shard)), "wb"))
                     for split in ("train", "eval")]
            for chunk in chunks:
                for span in chunk:
                    self.write(span, files, counts)
                progress(sum(span.end - span.begin for span in chunk))
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        return counts

    def write(self, span: Span, files, counts: Counts):
        """Appends the examples of a span to the (train, eval) files and adds them to `counts`."""
        sentences, num_documents = self.reader.read(span)
        examples = ([], [])
        for line, end_line, key, held_out in sentences.documents:
            examples[held_out].extend(
                examples_of_document(sentences.cumulative, line, end_line, key, self.config.max_seq_length))
        batch = max(1, ROW_TOKENS // self.config.max_seq_length)
        kept_tokens = special_tokens = 0
        for file, of_split in zip(files, examples):
            rows = np.array(of_split, np.int64).reshape(-1, 4)
            for begin in range(0, len(rows), batch):
                file.writelines(self.encoder.encode(sentences.ids, rows[begin:begin + batch]))
            kept_tokens += int(rows[:, 1].sum() + rows[:, 3].sum())
            special_tokens += 2 * len(rows) + int(np.count_nonzero(rows[:, 3]))
        counts.add(Counts(documents=num_documents, train_records=len(examples[0]), eval_records=len(examples[1]),
                          tokens=kept_tokens + special_tokens, text_tokens=len(sentences.ids),
                          cut_tokens=len(sentences.ids) - kept_tokens))


def run_worker(connection, config: BuildConfig, folder: str):
    """A worker process: receives (shard, chunks), sends ("progress", bytes), ("shard", shard, counts) or an error.

    It ends when None is received or the connection is lost, which is how it learns that its parent was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group: the parent sees to it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        builder = ShardBuilder(config, folder)
        for shard, chunks in iter(connection.recv, None):
            counts = builder.build(shard, chunks, lambda size: connection.send(("progress", size)))
            connection.send(("shard", shard, counts))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UserError as error:
        connection.send(("mistake", str(error)))
    except OSError as error:
        connection.send(("mistake", f"the records cannot be written ({error.strerror}): "
                         + ("make room or choose another --output_dir." if error.errno in (errno.ENOSPC, errno.EDQUOT)
                            else "see to the disk of --output_dir.")))
    except Exception as error:  # whatever it is, the parent must hear of it
        place = traceback.extract_tb(error.__traceback__)[-1]
        connection.send(("failure", f"{type(error).__name__} in {place.name}, line {place.lineno}: {error}"))


class WorkerPool:
    """Worker processes, each on a connection of its own: the death of one is seen at once and blocks no other."""

    def __init__(self, number: int, config: BuildConfig, folder: str):
        context = multiprocessing.get_context("spawn")  # fork is unsafe beside the threads of a test or a progress bar
        self.workers = {}
        # Until a worker ignores Ctrl-C by itself it must not see one; a blocked signal stays blocked in a new process.
        multiprocessing.resource_tracker.ensure_running()  # starting this helper later would unblock the signal
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(number):
                ours, theirs = context.Pipe()
                process = context.Process(target=run_worker, args=(theirs, config, folder), daemon=True)
                self.workers[ours] = process
                process.start()
                theirs.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def run(self, tasks, progress) -> list[Counts]:
        """Hands out `tasks` (shard, chunks) and returns the counts of each shard.

        Raises: UserError: a worker met a mistake. BuildStopped: a worker failed or died.
        """
        done, waiting, busy = {}, list(reversed(tasks)), set()
        for connection in self.workers:
            self.give(connection, waiting, busy)
        while busy:
            ready = multiprocessing.connection.wait(busy, timeout=1.0)
            for connection in ready:
                try:
                    kind, *content = connection.recv()
                except (EOFError, ConnectionResetError):
                    self.report_death(connection)
                if kind == "progress":
                    progress.advance(content[0])
                elif kind == "shard":
                    shard, done[shard] = content
                    self.give(connection, waiting, busy)
                elif kind == "mistake":
                    raise UserError(content[0])
                else:
                    raise BuildStopped(f"a worker failed ({content[0]}): nothing was written, please report this.", 1)
            progress.tick()
        return [done[shard] for shard, _ in tasks]

    def give(self, connection, waiting, busy):
        task = waiting.pop() if waiting else None
        (busy.discard if task is None else busy.add)(connection)
        try:
            connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            self.report_death(connection)

    def report_death(self, connection):
        process = self.workers[connection]
        process.join(5)
        code = process.exitcode
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        hint = " (often too little memory: try fewer --num_processes)" if code == -signal.SIGKILL else ""
        raise BuildStopped(f"worker process {process.pid} {how}{hint}: nothing was written.", 1)

    def stop(self):
        """Ends all workers, whatever they are doing."""
        for process in self.workers.values():
            if process.pid is not None:
                process.terminate()
        for process in self.workers.values():
            if process.pid is not None:
                process.join(5)
                if process.is_alive():
                    process.kill()
                    process.join()


class Progress:
    """Bytes of the corpus that are done: a bar on a terminal, else a line every `LOG_SECONDS`."""

    def __init__(self, total: int):
        self.total, self.done, self.start_time = total, 0, time.monotonic()
        self.next_line = self.start_time + LOG_SECONDS
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm.tqdm(total=total, unit="B", unit_scale=True, desc="building", disable=not self.terminal)

    def advance(self, size: int):
        self.done += size
        self.bar.update(size)

    def tick(self):
        now = time.monotonic()
        if self.terminal or now < self.next_line or not self.done:
            return
        self.next_line = now + LOG_SECONDS
        rate = self.done / (now - self.start_time)
        print(f"{self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB, {rate / 1e6:.2f} MB/s, about "
              f"{(self.total - self.done) / rate / 60:.0f} min left", flush=True)

    def close(self):
        self.bar.close()


# --- The output folder ---

_OUR_FILES = re.compile(r"(manifest\.json|vocab\.txt|tokenizer_config\.json|eval|"
                        r"(train|eval)-\d{5}(-of-\d{5}\.tfrecord|\.part))(\.tmp\d+)?")


def foreign_entry(folder: str) -> str | None:
    """The path of something below `folder` that no build has written, or None."""
    for path, folders, files in os.walk(folder):
        for name in sorted(folders + files):
            is_eval_folder = name == "eval" and name in folders and path == folder
            if not is_eval_folder and (name in folders or name == "eval" or not _OUR_FILES.fullmatch(name)):
                return os.path.join(path, name)
    return None


def check_output(output_dir: str, overwrite: bool):
    """Raises: UserError: `output_dir` exists and is not an empty folder, nor a dataset that may be replaced."""
    if not os.path.lexists(output_dir):
        return
    if not os.path.isdir(output_dir):
        raise UserError(f"--output_dir={output_dir} is not a folder: choose another.")
    if not os.listdir(output_dir):
        return
    manifest = os.path.join(output_dir, "manifest.json")
    is_dataset = os.path.isfile(manifest) and configuration.read_json_object(manifest).get("format") == DATASET_FORMAT
    if not is_dataset:
        raise UserError(f"--output_dir={output_dir} exists and holds no dataset of this kind: choose another folder.")
    if not overwrite:
        raise UserError(f"--output_dir={output_dir} holds a dataset: choose another folder or replace it with "
                        "--overwrite.")
    foreign = foreign_entry(output_dir)
    if foreign:
        raise UserError(f"--output_dir={output_dir} also holds {os.path.relpath(foreign, output_dir)}, which is no "
                        "part of a dataset: move it away before --overwrite.")


@contextlib.contextmanager
def building_folder(output_dir: str, overwrite: bool):
    """Yields the folder `<output_dir>.building`, renamed to `output_dir` at the end, or removed if the body raises.

    The dataset replaced stands at `<output_dir>.replaced` between the two renames; what a killed build left of either
    is seen to first. Raises: UserError: the folder cannot be made, another build has it, or `check_output` refuses.
    """
    building, replaced = output_dir + ".building", output_dir + ".replaced"
    for leftover in (building, replaced):
        foreign = foreign_entry(leftover)
        if foreign or (os.path.lexists(leftover) and not os.path.isdir(leftover)):
            raise UserError(f"{foreign or leftover} stands where the build needs a folder of its own: move it away.")
    try:
        os.makedirs(building, exist_ok=True)
        folder_handle = os.open(building, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written ({error.strerror}): choose another folder."
                        ) from error
    try:
        try:
            fcntl.flock(folder_handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another build is writing {output_dir}: wait for it, or choose another folder.") from None
        except OSError:
            pass  # a file system without locks
        if os.path.isdir(replaced):  # killed between two renames, or while removing
            if os.path.lexists(output_dir):
                shutil.rmtree(replaced)
            else:
                os.rename(replaced, output_dir)
        try:
            check_output(output_dir, overwrite)
            empty_folder(building)
            yield building
            check_output(output_dir, overwrite)
            with contextlib.suppress(BuildStopped), blocked_signals():  # a signal now comes too late to stop the build
                swap(building, output_dir, replaced)
        except BaseException:
            with blocked_signals():
                shutil.rmtree(building, ignore_errors=True)
            raise
    finally:
        os.close(folder_handle)


def swap(building: str, output_dir: str, replaced: str):
    """Renames `building` to `output_dir`; one of the old and the new dataset is complete at any moment."""
    old = os.path.isdir(output_dir) and os.listdir(output_dir)
    if old:
        os.rename(output_dir, replaced)
    try:
        os.rename(building, output_dir)
    except OSError:
        if old:
            os.rename(replaced, output_dir)
        raise
    if old:
        shutil.rmtree(replaced, ignore_errors=True)


def empty_folder(folder: str):
    for entry in os.scandir(folder):
        (shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.remove)(entry.path)


@contextlib.contextmanager
def blocked_signals():
    """Ctrl-C and SIGTERM wait until the body is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_room(config: BuildConfig, output_dir: str, corpus_bytes: int):
    """Raises: UserError: the disk certainly holds too little. Records take 1.1 to 2 times the bytes of their text."""
    folder = output_dir
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    needed = int(1.2 * corpus_bytes)
    if free < needed:
        raise UserError(f"--output_dir={config.output_dir} has {free / 1e9:,.1f} GB free and about "
                        f"{needed / 1e9:,.1f} GB are needed: make room or choose another disk.")


# --- The build ---

def build(config: BuildConfig) -> dict:
    """Writes the dataset and returns its manifest. Raises: UserError, BuildStopped."""
    start_time = time.monotonic()
    tokenizer = config.tokenizer(config.vocab_file)
    if tokenizer.vocab_size >= 1 << 21:
        raise UserError(f"{config.vocab_file} has {tokenizer.vocab_size:,} tokens: use fewer than {1 << 21:,}.")
    files = list_corpus(config.corpus_dir)
    output_dir, corpus_dir = os.path.realpath(config.output_dir), os.path.realpath(config.corpus_dir)
    if os.path.commonpath([output_dir, corpus_dir]) == corpus_dir:
        raise UserError(f"--output_dir={config.output_dir} lies in --corpus_dir: choose a folder outside.")
    check_output(output_dir, config.overwrite)
    check_room(config, output_dir, sum(file.size for file in files))
    with building_folder(output_dir, config.overwrite) as folder:
        chunks = plan_chunks(files, config)
        shards = min(config.out_files, len(chunks))
        if shards < config.out_files:
            print(f"the corpus has only {shards} documents: {shards} training files instead of {config.out_files}",
                  flush=True)
        tokenizer.save(folder)
        tasks = [(shard, chunks[shard::shards]) for shard in range(shards)]
        num_processes = min(config.processes, shards)
        progress = Progress(sum(span.end - span.begin for chunk in chunks for span in chunk))
        pool = None
        try:
            pool = WorkerPool(num_processes, config, folder)
            by_shard = pool.run(tasks, progress)
        finally:
            progress.close()
            if pool:
                with blocked_signals():
                    pool.stop()
        counts = Counts()
        for of_shard in by_shard:
            counts.add(of_shard)
        manifest = finish(config, tokenizer, files, counts, by_shard, folder)
    print(summary(config, manifest, counts, num_processes, time.monotonic() - start_time), flush=True)
    return manifest


def finish(config: BuildConfig, tokenizer: ElectraTokenizer, files: list[CorpusFile], counts: Counts,
           num_records: list[Counts], folder: str) -> dict:
    """Names the shards, joins the held-out parts, writes the manifest. `num_records`: the counts of each shard."""
    shards = range(len(num_records))
    train = [shard for shard in shards if num_records[shard].train_records]
    held_out = [shard for shard in shards if num_records[shard].eval_records]
    if not train:
        raise UserError("no training record came of the corpus: it holds no tokens, or --eval_fraction="
                        f"{config.eval_fraction} holds out everything.")
    if len(train) < len(shards):
        print(f"{len(shards) - len(train)} training files would be empty: {len(train)} are written", flush=True)
    if config.eval_fraction and not held_out:
        print(f"--eval_fraction={config.eval_fraction}: no document of this small corpus was held out", flush=True)
    os.makedirs(os.path.join(folder, "eval"), exist_ok=True)
    # The held-out share in as many files as keep them about as large as the training files.
    num_eval = min(len(held_out), math.ceil(len(train) * config.eval_fraction))
    groups = [held_out[len(held_out) * number // num_eval:len(held_out) * (number + 1) // num_eval]
              for number in range(num_eval)]
    written = {"train": [], "eval": []}
    for split, of_shards in (("train", [[shard] for shard in train]), ("eval", groups)):
        for number, group in enumerate(of_shards):
            name = f"{split}-{number:05d}-of-{len(of_shards):05d}.tfrecord"
            name = name if split == "train" else f"eval/{name}"
            path = os.path.join(folder, name)
            os.rename(os.path.join(folder, part_name(split, group[0])), path)
            with open(path, "ab") as file:  # TFRecord files are joined by writing one behind the other
                for shard in group[1:]:
                    with open(os.path.join(folder, part_name(split, shard)), "rb") as part:
                        shutil.copyfileobj(part, file, 1 << 20)
            written[split].append({"file": name, "bytes": os.path.getsize(path),
                                   "records": sum(getattr(num_records[shard], f"{split}_records") for shard in group)})
    for shard in shards:
        for split in written:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, part_name(split, shard)))
    if not groups:
        os.rmdir(os.path.join(folder, "eval"))
    manifest = {
        "format": DATASET_FORMAT, "version": DATASET_VERSION, "max_seq_length": config.max_seq_length,
        "vocab_size": tokenizer.vocab_size, "tokenizer_fingerprint": tokenizer.fingerprint,
        "do_lower_case": tokenizer.do_lower_case, "strip_accents": tokenizer.strip_accents,
        "blanks_separate_docs": config.blanks_separate_docs, "seed": config.seed, "eval_fraction": config.eval_fraction,
        "num_documents": counts.documents, "num_tokens": counts.tokens, "num_cut_tokens": counts.cut_tokens,
        # A file name need not be text.
        "corpus": [{"file": os.fsencode(file.name).decode("utf-8", "backslashreplace"), "bytes": file.size}
                   for file in files],
        **written}
    configuration.write_json(os.path.join(folder, "manifest.json"), manifest)
    return manifest


def summary(config: BuildConfig, manifest: dict, counts: Counts, num_processes: int, elapsed_seconds: float) -> str:
    records = counts.train_records + counts.eval_records
    padding = 1 - counts.tokens / (records * config.max_seq_length)
    cut = counts.cut_tokens / max(1, counts.text_tokens)
    size = sum(file["bytes"] for file in manifest["corpus"]) / 1e6
    lines = [f"{config.output_dir}: {counts.documents:,} documents, {records:,} records ({counts.eval_records:,} held "
             f"out), {counts.tokens:,} tokens, padding {padding:.1%}, cut off {cut:.1%} of the text; {size:,.1f} MB in "
             f"{elapsed_seconds:,.1f} s, {size / elapsed_seconds:.2f} MB/s, "
             f"{size / elapsed_seconds / num_processes:.2f} MB/s per core"]
    if cut > MUCH_CUT:
        lines.append(f"{cut:.0%} of the text is in no record, because its lines are long for --max_seq_length="
                     f"{config.max_seq_length}: put one sentence on a line to keep more")
    if padding > MUCH_PADDING:
        lines.append(f"{padding:.0%} of the records is padding, because documents are short for --max_seq_length="
                     f"{config.max_seq_length}" + (": if blank lines in this corpus separate paragraphs, use "
                                                   "--noblanks_separate_docs" if config.blanks_separate_docs else ""))
    return "\n".join(lines)


def stop_on_signals():
    """Turns Ctrl-C and SIGTERM into `BuildStopped` with the status a shell would give."""
    def stop(number, frame):
        raise BuildStopped(f"stopped by {signal.Signals(number).name}: nothing was written, the same command starts "
                           "over.", 128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def main(argv) -> int:
    flag_values = flags.FlagValues()
    configuration.define_flags(flag_values, BuildConfig)
    configuration.parse_command_line(argv, flag_values, "Builds ELECTRA's pre-training records from plain text, one "
                                     "sentence a line, a blank line between documents.")
    try:
        stop_on_signals()
        build(configuration.from_flags(BuildConfig, flag_values))
    except BuildStopped as stop:
        print(f"{os.path.basename(argv[0])}: {stop}", file=sys.stderr, flush=True)
        return stop.exit_status
    return 0


if __name__ == "__main__":
    configuration.run_command(main)
