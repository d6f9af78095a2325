"""Builds a pre-training dataset from plain text: ELECTRA's two-segment examples in TFRecord shards.

    python build_pretraining_dataset.py --corpus_dir=text --vocab_file=vocab.txt --output_dir=data/seq_len_128 \
        --max_seq_length=128 --num_out_files=64 --eval_fraction=0.005

The corpus is every regular file directly in --corpus_dir that is not hidden: UTF-8, one sentence per line. A blank line
(empty or ASCII white space) ends a document, and so does the end of a file (with --noblanks_separate_docs, only that).

Examples are made as by the builder released with Clark et al. 2020 (arXiv:2003.10555), one document at a time:

1.  An example takes whole sentences, in order, until it has at least `target` tokens or the document ends. `target` is
    max_seq_length, or in 5% of the examples a length drawn uniformly from 5 .. max_seq_length.
2.  10% of the examples have one segment with all their sentences. In the others, the first segment takes the first
    sentence, then more while it stays below (target - 3) // 2 tokens. The next one, which would reach that length, is
    added with probability 50%, unless the first sentence alone has reached it. The rest form the second segment.
3.  The first segment is truncated to max_seq_length - 2 tokens, the second to the space left in
    `[CLS] first [SEP] second [SEP]`; an example with an empty second segment is `[CLS] first [SEP]`.

Two differences from that builder: once the second segment has started, no later sentence is added to the first, and
`target` is drawn for every example.

With --pack_documents, an example that reaches the end of its document continues with the next one, and [SEP] separates
the two ("full sentences" of Liu et al. 2019, arXiv:1907.11692): the documents of a shard that are on the same side of
the split between training and held-out ones form one long text, in the order of the corpus within each chunk. The rules
above apply to that text; [SEP] counts as a token of the sentence after it. So sentences stay in order, a document may
begin in one example and end in the next, and segment_ids still mark the two halves of an example, not documents: a
[SEP] between documents has the segment of the text around it, and where a segment ends, its own [SEP] is the separator.
ELECTRA has no objective about pairs of segments, which therefore may come from different documents, and [SEP] is never
masked. Attention does reach from one document to another.

Every random choice, including which documents are held out (--eval_fraction), is a hash of the seed, the file name and
the byte offset of the document (with --pack_documents, of the seed, the shard and the number of the example). The
corpus is cut into chunks of whole documents, which are sorted by such a hash and dealt out to the shards, so that each
shard has text from all over the corpus and the shards are nearly equal in size. Each shard is written by one process,
and the chunks depend only on the sizes of the files and --num_out_files. So any --num_processes gives the same bytes. A
document longer than `DOCUMENT_BOUND` may be split between lines; its parts are then separate documents, each held out
or not. Records are not shuffled: training does that, in windows of 10,000 records from 16 shards (pretrain_utils.py),
and as the chunks are in random order, such a window has text from 16 places of the corpus or more.

Output, in a folder that replaces --output_dir when it is complete: `train-00000-of-00016.tfrecord` ..., with
--eval_fraction `eval/eval-00000-of-00001.tfrecord`, beside each shard its index (`<shard>.idx`, see tfrecord.py),
the vocabulary, `tokenizer_config.json`, `manifest.json`. A record is a `tf.train.Example` with three int64 lists of
length max_seq_length: input_ids; input_mask, 1 on tokens; segment_ids, 1 on the second segment and its [SEP].
TensorFlow is not imported: records are encoded with numpy.

Exit status: 0, 2 (invalid option or input), 1 (a worker process failed), 75 (Ctrl-C or SIGTERM). Unless it is 0, an
existing dataset in --output_dir is unchanged. An interrupted build continues when the same command runs again, with
any --num_processes: finished shards are kept beside the output, in `.<name of the output>.partial`, and the dataset is
the same to the byte. They are used again if the options, the text (names, sizes and times of change), the vocabulary
and this program are unchanged and their checksums are right. Otherwise they are discarded, which a line of output says.
After invalid text nothing is kept.
"""
from __future__ import annotations

import bisect
import collections
import contextlib
import dataclasses
import functools
import hashlib
import heapq
import os
import pathlib
import re
import shutil
import sys
import time
from typing import Iterator, NamedTuple, Optional

import google_crc32c
import numpy as np

import command_line
import configuration
import files
import process_pool
import sentencepiece_model
import tfrecord
import tokenization
from configuration import Interrupted, UserError, option
from tokenization import ElectraTokenizer

CHUNK_BYTES = 1 << 20  # largest planned chunk: a worker has one in memory at a time
CHUNKS_PER_SHARD = 16  # or more
DOCUMENT_BOUND = 1 << 20  # a document that goes more bytes than this past a chunk's planned end is split there
LINE_BOUND = 16 << 20  # a longer line at a chunk's planned end is refused
ROW_TOKENS = 1 << 16  # tokens of the examples that are encoded at once: fits a core's cache
STRIP_ACCENTS = {"none": None, "true": True, "false": False}  # the option, for the tokenizer
FEW_RECORDS = 100  # a held-out loss of fewer is mostly chance
MUCH_PADDING = 1 / 3  # share of the positions above which a warning says so
STATE_FILE = "state.json"  # of an interrupted build: what its shards depend on
STATE_FORMAT = "electra-pretraining-build-1"


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """One build. Every option except the folders, the number of processes and --overwrite affects what is written."""

    corpus_dir: Optional[str] = option(None, "folder of UTF-8 text files, one sentence per line")
    vocab_file: Optional[str] = option(None, "vocabulary: a vocab.txt, a SentencePiece X.model or a tokenizer.json")
    output_dir: Optional[str] = option(None, "folder to create")
    max_seq_length: int = option(128, "length of every record, in tokens", minimum=8)
    num_processes: Optional[int] = option(None, "worker processes (default: the available cores)", minimum=1)
    num_out_files: Optional[int] = option(
        None, "training shards; a multiple of num_processes keeps all of them busy to the end (default: 16, or "
        "num_processes if that is larger)", minimum=1, maximum=99999)
    blanks_separate_docs: bool = option(True, "a blank line ends a document; false: each file is one document")
    do_lower_case: Optional[bool] = option(
        None, "lower-case the text (default: as the tokenizer_config.json beside the vocabulary says, else true)")
    strip_accents: Optional[str] = option(
        None, "strip accents: true, false, or none (as do_lower_case); default: as the tokenizer_config.json says, "
        "else none", choices=tuple(STRIP_ACCENTS))
    pack_documents: bool = option(
        False, "fill records from several documents, with [SEP] between them: little padding where documents are short")
    seed: int = option(42, "random seed for lengths, segments and held-out documents", minimum=0, maximum=2**31 - 1)
    eval_fraction: float = option(0.0, "fraction of documents held out in <output_dir>/eval", minimum=0.0, maximum=0.9)
    encoding_errors: str = option("strict", "bytes that are not valid UTF-8: strict stops with an error, replace drops "
                                  "them", choices=("strict", "replace"))
    overwrite: bool = option(
        False, "replace an existing dataset in output_dir (never other files) once the new one is complete; an "
        "interrupted build continues with or without it")

    def __post_init__(self):
        configuration.check_options(self)
        configuration.require_options(self, "corpus_dir", "vocab_file", "output_dir")
        if self.out_files < self.processes:
            raise UserError(f"--num_out_files={self.num_out_files} is less than --num_processes={self.num_processes}, "
                            "but each file is written by one process: use more files or fewer processes.")

    @property
    def processes(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.num_processes or min(cores, self.num_out_files or cores)

    @property
    def out_files(self) -> int:
        return self.num_out_files or max(16, self.processes)

    def tokenizer(self) -> ElectraTokenizer:
        given = {} if self.do_lower_case is None else {"do_lower_case": self.do_lower_case}
        if self.strip_accents is not None:
            given["strip_accents"] = STRIP_ACCENTS[self.strip_accents]
        return ElectraTokenizer.from_folder(os.path.dirname(self.vocab_file), self.vocab_file, **given)

    @property
    def content_options(self) -> dict:
        """The options that affect what is written, by flag."""
        others = ("corpus_dir", "vocab_file", "output_dir", "num_processes", "overwrite")
        values = {**dataclasses.asdict(self), "num_out_files": self.out_files}
        return {f"--{name}": value for name, value in values.items() if name not in others}


# --- The corpus and its chunks ---

Chunk = collections.namedtuple("Chunk", "path begin end")  # complete lines of a file, bytes `begin` to `end`


def list_corpus(corpus_dir: str) -> dict[str, int]:
    """Sizes of the corpus files in bytes, by path, sorted. Raises: UserError: all of them are empty."""
    try:
        listed = os.listdir(corpus_dir)
    except OSError as error:
        raise UserError(f"--corpus_dir={corpus_dir} cannot be read ({error.strerror}): give a folder of text "
                        "files.") from error
    names = sorted((name for name in listed if not name.startswith(".")), key=os.fsencode)
    paths = [os.path.join(corpus_dir, name) for name in names]
    sizes = {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}
    if not any(sizes.values()):
        raise UserError(f"--corpus_dir={corpus_dir} contains no text: put the text files there, not into subfolders.")
    return sizes


def plan_shards(sizes: dict[str, int], config: BuildConfig) -> list[list[Chunk]]:
    """Splits the files into chunks and assigns each, in random order, to the smallest shard so far.

    Leaves out empty shards. Raises: UserError: a line is too long.
    """
    planned_bytes = sum(sizes.values()) // (CHUNKS_PER_SHARD * config.out_files)
    planned_bytes = min(CHUNK_BYTES, max(1024, planned_bytes))
    chunks = []
    for path, size in sizes.items():
        with open(path, "rb") as file:
            begin = 0
            while begin < size:
                end = find_cut(file, begin + planned_bytes, size, config.blanks_separate_docs)
                chunks.append(Chunk(path, begin, end))
                begin = end
    chunks.sort(key=lambda chunk: random_bits(config.seed, os.fsencode(os.path.basename(chunk.path)), chunk.begin, -2))
    shards = [[] for _ in range(config.out_files)]
    loads = [(0, number) for number in range(config.out_files)]  # a heap of (bytes, shard)
    for chunk in chunks:
        load, least = heapq.heappop(loads)
        shards[least].append(chunk)
        heapq.heappush(loads, (load + chunk.end - chunk.begin, least))
    return [shard for shard in shards if shard]


def find_cut(file, planned: int, size: int, blanks_separate_docs: bool) -> int:
    """The end of a chunk that is planned to end at byte `planned`: after the next blank line, or the end of the file.

    If both are more than `DOCUMENT_BOUND` away, the chunk ends with its current line, inside a document.
    """
    file.seek(planned)
    next_line = position = planned + len(file.readline(LINE_BOUND))
    if position == planned + LINE_BOUND:
        raise UserError(f"{file.name} has a line of more than {LINE_BOUND >> 20} MiB around byte {planned}: put one "
                        "sentence on each line.")
    while position < min(size, planned + DOCUMENT_BOUND):
        line = file.readline(LINE_BOUND)
        position += len(line)
        if blanks_separate_docs and not line.strip():
            return position
    return size if position >= size else next_line


# --- Text to examples ---

def read_documents(chunk: Chunk, config: BuildConfig, tokenizer: ElectraTokenizer
                   ) -> tuple[np.ndarray, list[int], list[tuple[int, int, int]]]:
    """Tokenizes a chunk. Raises: UserError: it is not UTF-8.

    Returns: ids, int32 [tokens]; begins: sentence i is `ids[begins[i]:begins[i + 1]]`, and none is empty; for each
        document (byte offset in the file, first sentence, end sentence).
    """
    with open(chunk.path, "rb") as file:
        file.seek(chunk.begin)
        data = file.read(chunk.end - chunk.begin)
    lines, offsets, firsts = [], [], []  # the last two: byte offset and first line of each document
    offset, in_document = chunk.begin, False
    for line in data.split(b"\n"):
        if line.strip():
            if not in_document:
                offsets.append(offset)
                firsts.append(len(lines))
            in_document = True
            try:
                lines.append(line.decode("utf-8", config.encoding_errors))
            except UnicodeDecodeError as error:
                raise UserError(f"{chunk.path} is not UTF-8 (byte {offset + error.start}): convert it, or drop the "
                                "invalid bytes with --encoding_errors=replace.") from error
        elif config.blanks_separate_docs:
            in_document = False
        offset += len(line) + 1

    ids, lengths = tokenizer.encode_lines(lines)
    with_tokens = np.flatnonzero(lengths)  # not lines of control characters
    begins = [0, *np.cumsum(lengths[with_tokens]).tolist()]
    sentences = np.searchsorted(with_tokens, [*firsts, len(lines)]).tolist()
    documents = [document for document in zip(offsets, sentences, sentences[1:]) if document[1] < document[2]]
    return ids, begins, documents


def random_bits(*key: bytes | int) -> int:
    """64 bits, a pure function of `key`."""
    return int.from_bytes(hashlib.blake2b(b"%d %b %d %d" % key, digest_size=8).digest(), "little")


def draw(bits: int, max_seq_length: int) -> tuple[int, bool, bool]:
    """An example's (target, whether it has one segment, whether the first may exceed its half), from 64 random bits."""
    target = max_seq_length
    if (bits & 0xFFFFF) < 0.05 * 2**20:
        target = 5 + ((bits >> 41) * (max_seq_length - 4) >> 23)
    return target, (bits >> 20 & 0xFFFFF) < 0.10 * 2**20, bool(bits >> 40 & 1)


class Text(NamedTuple):
    """Sentences that examples are made of: sentence i is `ids[starts[i]:begins[i + 1]]`, and none is empty.

    In a packed text, a sentence that begins a document has [SEP] before it, at `begins[i] == starts[i] - 1`, which is
    left out where a segment begins with the sentence. Otherwise `starts` is `begins`.
    """

    ids: np.ndarray  # int32 [tokens]
    begins: list[int]  # one more than there are sentences
    starts: list[int]


def make_examples(text: Text, line: int, end_line: int, key, max_seq_length: int, number: int = 0,
                  complete: bool = True) -> tuple[list[tuple[int, int, int, int]], int, int]:
    """Makes examples of sentences `line` to `end_line` by the rules in the module's docstring.

    Args:
        key: begins the keys of the random draws.
        number: of the first example, the rest of the keys.
        complete: the document ends at `end_line`. Otherwise what is too short for an example there is left.
    Returns: for each example its two segments in `text.ids`: begin, number of tokens, begin, number of tokens (0: no
        second segment); the first sentence that is left, and the number of the next example.
    """
    examples, begins, starts = [], text.begins, text.starts
    while line < end_line:
        target, single_segment, exceed = draw(random_bits(*key, number), max_seq_length)
        begin = starts[line]
        # The first line by whose start the target is reached, or the end of the document.
        end = bisect.bisect_left(begins, begin + target, line + 1, end_line)
        if not complete and end == end_line and begins[end] - begin < target:
            break
        first_target = (target - 3) // 2
        split = max(line + 1, bisect.bisect_left(begins, begin + first_target, line, end + 1) - 1)
        if exceed and split < end and begins[split] - begin < first_target:
            split += 1
        if single_segment:
            split = end
        first_length = min(begins[split] - begin, max_seq_length - 2)
        second_length = min(begins[end] - starts[split], max_seq_length - 3 - first_length) if split < end else 0
        examples.append((begin, first_length, starts[split], max(0, second_length)))
        line = end
        number += 1
    return examples, line, number


# --- Several documents in one text ---

class Packer:
    """Makes examples of the documents of one split of a shard as one long text, chunk by chunk.

    What is too short for an example at the end of a chunk begins the text of the next one.
    """

    def __init__(self, config: BuildConfig, split: str, shard: int, sep_id: int):
        self.key = config.seed, split.encode(), shard
        self.max_seq_length, self.sep_id = config.max_seq_length, sep_id
        self.number = 0  # of the next example
        self.rest = Text(np.zeros(0, np.int32), [0], [0])

    def add(self, text: Text, documents: list[tuple[int, int]], last: bool) -> tuple[Text, list]:
        """The rest with some documents (first and end sentence in `text`) after it, and the examples of that."""
        pieces, begins, starts = [self.rest.ids], self.rest.begins[:-1], self.rest.starts[:-1]
        position = len(self.rest.ids)
        for line, end_line in documents:
            first, end = text.begins[line], text.begins[end_line]
            pieces += [np.array([self.sep_id], np.int32), text.ids[first:end]]
            shifted = [begin - first + position + 1 for begin in text.begins[line:end_line]]
            begins += [position, *shifted[1:]]
            starts += shifted
            position += end - first + 1
        packed = Text(np.concatenate(pieces), [*begins, position], [*starts, position])
        examples, line, self.number = make_examples(packed, 0, len(begins), self.key, self.max_seq_length, self.number,
                                                    complete=last)
        first = packed.begins[line]
        self.rest = Text(packed.ids[first:], *([place - first for place in places[line:]] for places in packed[1:]))
        return packed, examples


# --- Examples to records ---

def varint(value: int) -> bytes:
    """Base-128 varint of the protocol buffer wire format."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return varint(number << 3 | 2) + varint(len(content)) + content


@functools.lru_cache(maxsize=None)
def record_heads(ids_size: int, max_seq_length: int) -> tuple[bytes, bytes, bytes, bytes]:
    """The bytes before the values of input_ids (`ids_size` bytes), input_mask and segment_ids in a framed record.

    Returns: the record's header, and the message up to each of the three.
    """
    sizes = {b"input_ids": ids_size, b"input_mask": max_seq_length, b"segment_ids": max_seq_length}
    # Example.features is a map from name to Feature.int64_list, and Int64List.value is packed.
    features = [field(1, field(1, name) + field(2, field(3, field(1, bytes(size))))) for name, size in sizes.items()]
    message = field(1, b"".join(features))
    heads = [feature[:-size] for feature, size in zip(features, sizes.values())]
    header = tfrecord.record_header(len(message))
    return header, message[:-sum(map(len, features))] + heads[0], heads[1], heads[2]


def input_ids(ids: np.ndarray, examples: np.ndarray, max_seq_length: int, tokenizer: ElectraTokenizer) -> np.ndarray:
    """[CLS] first [SEP] second [SEP] and padding: int32 [B, max_seq_length], from int32 [tokens] and int64 [B, 4]."""
    first_begin, first_length, second_begin, second_length = examples.T[:, :, None]
    position = np.arange(max_seq_length)[None, :]
    first_end = first_length + 1  # position of the first [SEP]
    second_end = first_end + second_length + 1
    source = position + np.where(position < first_end, first_begin - 1, second_begin - first_end - 1)
    filled = ids[np.clip(source, 0, len(ids) - 1)]
    filled[position >= second_end] = tokenizer.pad_id
    filled[:, 0] = tokenizer.cls_id
    rows = np.arange(len(examples))
    filled[rows, first_end[:, 0]] = tokenizer.sep_id
    both = np.flatnonzero(second_length[:, 0])
    filled[both, second_end[both, 0]] = tokenizer.sep_id
    return filled


def encode_records(ids: np.ndarray, examples: np.ndarray, max_seq_length: int, tokenizer: ElectraTokenizer
                   ) -> Iterator[bytes]:
    """Framed records of `tf.train.Example`, in pieces. examples: int64 [B, 4], rows of `make_examples`.

    Only input_ids vary in size (varints of one to three bytes, for ids below 2**21); the other values are bytes 0 or 1.
    """
    values = input_ids(ids, examples, max_seq_length, tokenizer)
    used = np.stack([np.ones_like(values, bool), values > 0x7F, values > 0x3FFF], axis=-1)  # bytes of each varint
    encoded = np.stack([values, values >> 7, values >> 14], axis=-1).astype(np.uint8) & 0x7F
    encoded[..., :2] |= used[..., 1:].view(np.uint8) << 7  # another byte follows
    packed = encoded[used].tobytes()
    ends = np.cumsum(np.count_nonzero(used, axis=(1, 2))).tolist()
    for begin, end, (_, first, _, second) in zip([0, *ends], ends, examples.tolist()):
        header, ids_head, mask_head, segment_head = record_heads(end - begin, max_seq_length)
        first, second = first + 2, second and second + 1  # with [CLS] and [SEP]
        padding = bytes(max_seq_length - first - second)
        message = b"".join((ids_head, packed[begin:end], mask_head, b"\1" * (first + second), padding,
                            segment_head, bytes(first), b"\1" * second, padding))
        yield from (header, message, tfrecord.masked_crc(message))


# --- Workers ---

_worker = None  # in a worker process: the arguments of `start_worker` and the tokenizer


def start_worker(config: BuildConfig, folder: str, shards: list[list[Chunk]], bytes_done):
    global _worker
    process_pool.begin_worker()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = config, folder, shards, bytes_done, config.tokenizer()


class Written(NamedTuple):
    """A finished shard: counts of records, documents and tokens, and of the documents by their number of tokens."""

    counts: collections.Counter
    lengths: collections.Counter


def write_shard(shard: int) -> Written:
    """Writes `train-<shard>.part` with its index, and `eval-<shard>.part`, and then that the shard is finished."""
    config, folder, shards, bytes_done, tokenizer = _worker
    written = Written(collections.Counter(), collections.Counter())
    packers = {split: Packer(config, split, shard, tokenizer.sep_id) for split in ("train", "eval")}
    paths = [f"{folder}/{split}-{shard}.part" for split in ("train", "eval")]
    with open(paths[0], "wb") as train, open(paths[1], "wb") as held_out:
        for number, chunk in enumerate(shards[shard], 1):
            ids, begins, documents = read_documents(chunk, config, tokenizer)
            text, name = Text(ids, begins, begins), os.fsencode(os.path.basename(chunk.path))
            splits = {"train": [], "eval": []}
            for offset, line, end_line in documents:
                key = (config.seed, name, offset)
                split = splits["eval" if random_bits(*key, -1) < config.eval_fraction * 2**64 else "train"]
                if config.pack_documents:
                    split.append((line, end_line))
                else:
                    split += make_examples(text, line, end_line, key, config.max_seq_length)[0]
                written.lengths[rounded(begins[end_line] - begins[line])] += 1
            for split, file in (("train", train), ("eval", held_out)):
                of_split, examples = text, splits[split]
                if config.pack_documents:
                    of_split, examples = packers[split].add(text, examples, last=number == len(shards[shard]))
                written.counts.update(write_examples(file, of_split.ids, examples, config, tokenizer, split))
            written.counts.update(documents=len(documents), cut_tokens=len(ids))
            bytes_done[shard] += chunk.end - chunk.begin
    if written.counts["train"]:
        tfrecord.write_index(paths[0], paths[0] + tfrecord.INDEX_SUFFIX)
    save_finished(folder, shard, written)
    return written


def write_examples(file, ids: np.ndarray, examples: list, config: BuildConfig, tokenizer: ElectraTokenizer, split: str
                   ) -> dict[str, int]:
    """Writes the records of `make_examples` and returns their counts."""
    rows, batch = np.array(examples, np.int64).reshape(-1, 4), max(1, ROW_TOKENS // config.max_seq_length)
    for begin in range(0, len(rows), batch):
        file.writelines(encode_records(ids, rows[begin:begin + batch], config.max_seq_length, tokenizer))
    kept, special = int(rows[:, [1, 3]].sum()), 2 * len(rows) + int(np.count_nonzero(rows[:, 3]))
    tokens = kept
    if config.pack_documents:  # some of them are [SEP]
        before = np.cumsum(np.concatenate([[0], ids == tokenizer.sep_id]))
        tokens -= int((before[rows[:, [0, 2]] + rows[:, [1, 3]]] - before[rows[:, [0, 2]]]).sum())
    return {split: len(rows), "tokens": kept + special, "cut_tokens": -tokens}


def rounded(count: int) -> int:
    """To three digits: keeps the number of different lengths small."""
    return count if count < 1000 else int(f"{count:.2e}".replace(".", "").split("e")[0]) * 10 ** (len(str(count)) - 3)


def write_shards(config: BuildConfig, folder: str, shards: list[list[Chunk]], finished: dict[int, Written]
                 ) -> list[Written]:
    """Writes the shards that are not finished, in worker processes, and returns all.

    Raises: RunFailed: a worker failed; UserError, OSError: as in a worker.
    """
    todo = [number for number in range(len(shards)) if number not in finished]
    if not todo:
        return [finished[number] for number in range(len(shards))]
    sizes = [sum(chunk.end - chunk.begin for chunk in shard) for shard in shards]
    written = process_pool.run_tasks(write_shard, todo, sizes, config.processes, start_worker, (config, folder, shards),
                                  "building")
    return [finished[number] if number in finished else written[number] for number in range(len(shards))]


# --- What an interrupted build leaves ---

def content_key(config: BuildConfig, tokenizer: ElectraTokenizer, sizes: dict[str, int]) -> dict:
    """What the bytes of the shards depend on, for `STATE_FILE`."""
    modules = (sys.modules[__name__], tokenization, sentencepiece_model, tfrecord)
    sources = [pathlib.Path(module.__file__).read_bytes() for module in modules]
    return {"format": STATE_FORMAT, "options": config.content_options, "vocabulary": tokenizer.fingerprint,
            "corpus": corpus_state(sizes),
            "program": hashlib.sha256(b"".join(sources) + tokenization.tokenizers.__version__.encode()).hexdigest()}


def corpus_state(sizes: dict[str, int]) -> str:
    """A checksum of the names, sizes and times of change of the files."""
    files_and_times = [(os.path.basename(path), size, os.stat(path).st_mtime_ns) for path, size in sizes.items()]
    return hashlib.sha256(repr(files_and_times).encode("utf-8", "surrogateescape")).hexdigest()


def difference(saved: dict, key: dict) -> str:
    """What differs between two keys, for a sentence; empty: nothing."""
    if saved == key:
        return ""
    before = saved.get("options")
    if saved.get("format") == key["format"] and isinstance(before, dict):
        for flag, value in key["options"].items():
            if before.get(flag) != value:
                return f"{flag} was {str(before.get(flag))[:100]} and is {value} now"
        for name in ("corpus", "vocabulary"):
            if saved.get(name) != key[name]:
                return f"the {name} has changed"
    return "another version of this program made it"


def discard(folder: str, reason: str):
    """Deletes an interrupted build. Raises: UserError: the folder is not one."""
    names = os.listdir(folder) if os.path.isdir(folder) else [""] if os.path.lexists(folder) else []
    foreign = [name for name in names if not re.fullmatch(
        rf"({re.escape(STATE_FILE)}|(shard|train|eval)-[0-9]+\.(json|part(\.idx)?))(\.tmp-.*)?|new|old", name)]
    if foreign:
        raise UserError(f"{os.path.join(folder, foreign[0])} is not part of an interrupted build, which would be kept "
                        "there: move it away.")
    if reason and names:
        print(f"the interrupted build in {folder} is discarded: {reason}.", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def save_finished(folder: str, shard: int, written: Written):
    """Flushes a shard to disk, then writes `shard-<shard>.json`, which says that it is finished."""
    sizes = {}
    for name in shard_files(shard, written):
        files.sync(f"{folder}/{name}")
        sizes[name] = [os.path.getsize(f"{folder}/{name}"), file_checksum(f"{folder}/{name}")]
    files.write_json(f"{folder}/shard-{shard}.json", {
        "counts": written.counts, "lengths": {str(length): count for length, count in written.lengths.items()},
        "files": sizes})


def shard_files(shard: int, written: Written) -> list[str]:
    index = [f"train-{shard}.part{tfrecord.INDEX_SUFFIX}"] if written.counts["train"] else []
    return [f"train-{shard}.part", f"eval-{shard}.part", *index]


def file_checksum(path: str) -> int:
    """CRC-32C."""
    crc = 0
    with open(path, "rb") as file:
        for content in iter(lambda: file.read(1 << 20), b""):
            crc = google_crc32c.extend(crc, content)
    return crc


def read_finished(folder: str, num_shards: int) -> dict[int, Written]:
    """The finished shards of an interrupted build, by number, after their files were verified. Removes the others."""
    found, listed = {}, {}
    for shard in range(num_shards):
        try:
            saved = configuration.read_json_object(f"{folder}/shard-{shard}.json")
            found[shard] = Written(collections.Counter(saved["counts"]), collections.Counter(
                {int(length): count for length, count in saved["lengths"].items()}))
            listed[shard] = saved["files"]
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            continue
    if os.path.isdir(f"{folder}/new"):  # it was stopped while it gave the shards their names
        for shard, name in enumerate(training_names([found.get(n) for n in range(num_shards)])):
            for suffix in ("", tfrecord.INDEX_SUFFIX) if name else ():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{folder}/new/{name}{suffix}", f"{folder}/train-{shard}.part{suffix}")
        shutil.rmtree(f"{folder}/new")
    for shard, written in list(found.items()):
        try:
            intact = all(listed[shard].get(name) == [os.path.getsize(f"{folder}/{name}"), file_checksum(
                f"{folder}/{name}")] for name in shard_files(shard, written))
        except (OSError, AttributeError):
            intact = False
        if not intact:
            print(f"shard {shard} of the interrupted build in {folder} is damaged and discarded.", flush=True)
            del found[shard]
    for name in os.listdir(folder):  # a worker of a killed build ends a moment later, and may have them open
        shard = re.match(r"(train|eval|shard)-([0-9]+)\.", name)
        if shard and int(shard[2]) not in found:
            os.remove(f"{folder}/{name}")
    return found


def training_names(written: list[Optional[Written]]) -> list[str]:
    """The names of the training shards in the dataset; empty for those without records."""
    train = [shard for shard, of_shard in enumerate(written) if of_shard and of_shard.counts["train"]]
    names = [""] * len(written)
    for number, shard in enumerate(train):
        names[shard] = f"train-{number:05d}-of-{len(train):05d}.tfrecord"
    return names


# --- The output folder ---

def check_output(output_dir: str, overwrite: bool):
    """Raises: UserError: `output_dir` exists and is neither an empty folder nor a dataset that may be replaced."""
    configuration.check_folder(output_dir, "output_dir", replaced=True)
    present = {path.relative_to(output_dir).as_posix() for path in pathlib.Path(output_dir).rglob("*")
               if path.is_symlink() or not path.is_dir()}
    manifest = tfrecord.read_manifest(f"{output_dir}/manifest.json")
    foreign = set(present)
    if manifest:
        shards = {entry["file"] for entry in manifest["train"] + manifest["eval"]}
        foreign -= shards | {shard + tfrecord.INDEX_SUFFIX for shard in shards}
        foreign -= {"manifest.json", "tokenizer_config.json", *configuration.VOCABULARY_FILES}
    if foreign:
        raise UserError(f"--output_dir={output_dir} contains {min(foreign)}, which is not part of a dataset: choose "
                        "another folder.")
    if present and not overwrite:
        raise UserError(f"--output_dir={output_dir} contains a dataset: choose another folder, or replace it with "
                        "--overwrite.")


# --- The build ---

def build(config: BuildConfig) -> dict:
    """Writes the dataset and returns its manifest. Raises: UserError, RunFailed, Interrupted."""
    start_time = time.monotonic()
    tokenizer = config.tokenizer()
    output_dir, corpus_dir = os.path.realpath(config.output_dir), os.path.realpath(config.corpus_dir)
    if os.path.commonpath([output_dir, corpus_dir]) == corpus_dir:
        raise UserError(f"--output_dir={config.output_dir} is inside --corpus_dir: choose another folder.")
    partial = files.partial_name(output_dir)
    try:
        sizes = list_corpus(config.corpus_dir)
        files.remove_leftovers(output_dir)
        check_output(output_dir, config.overwrite)
        key, shards = content_key(config, tokenizer, sizes), plan_shards(sizes, config)
        finished = open_partial(partial, key, len(shards))
        check_space(config, shards, finished)
        with contextlib.ExitStack() as last, files.kept_folder(output_dir, replace=config.overwrite) as folder:
            with kept_if_useful(folder):
                files.write_json(f"{folder}/{STATE_FILE}", key)
                written = write_shards(config, folder, shards, finished)
                if corpus_state(list_corpus(config.corpus_dir)) != key["corpus"]:
                    raise UserError(f"the text in --corpus_dir={config.corpus_dir} changed during the build: run the "
                                    "command again.")
                manifest = finish(config, tokenizer, sizes, folder, written)
            check_output(output_dir, config.overwrite)  # another build may have written it in the meantime
            # From here on a signal is too late to stop the build: it waits until the folder is in place.
            last.enter_context(contextlib.suppress(Interrupted))
            last.enter_context(files.blocked_signals())
    except OSError as error:
        temporary = not error.filename or str(error.filename).startswith((f"{output_dir}.tmp-", partial))
        kept = f" (finished shards are kept in {partial})" if os.path.isdir(partial) else ""
        raise UserError(f"{config.output_dir if temporary else error.filename} could not be read or written "
                        f"({error.strerror}): make room and run the same command again to continue{kept}, or choose "
                        "another folder.") from error
    report(config, manifest, sum(sizes.values()) / 1e6, time.monotonic() - start_time)
    return manifest


def open_partial(partial: str, key: dict, num_shards: int) -> dict[int, Written]:
    """What is finished of an interrupted build that `key` belongs to; another one is discarded."""
    if not os.path.lexists(partial):
        return {}
    try:
        reason = difference(configuration.read_json_object(f"{partial}/{STATE_FILE}"), key)
    except UserError:
        reason = f"it has no valid {STATE_FILE}"
    if reason:
        discard(partial, reason)
        return {}
    finished = read_finished(partial, num_shards)
    if finished:
        print(f"continuing an interrupted build: {len(finished)} of {num_shards} shards are finished.", flush=True)
    return finished


def check_space(config: BuildConfig, shards: list[list[Chunk]], finished: dict[int, Written]):
    """Raises: UserError: too little room for the shards that are not finished; they take 1.1 to 2 times their text."""
    existing = os.path.realpath(config.output_dir)
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    needed = 1.2 * sum(chunk.end - chunk.begin for number, shard in enumerate(shards) if number not in finished
                       for chunk in shard)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(f"--output_dir={config.output_dir} has {free / 1e9:,.3g} GB free and needs about "
                        f"{needed / 1e9:,.3g} GB: free some space or choose another disk.")


@contextlib.contextmanager
def kept_if_useful(folder: str):
    """Deletes an interrupted build after invalid input, or if no shard of it is finished."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, UserError) or not any(name.startswith("shard-") for name in os.listdir(folder)):
            discard(folder, "")
        raise


def report(config: BuildConfig, manifest: dict, megabytes: float, elapsed_seconds: float):
    """Prints what was written and, last, what makes it worse than it could be."""
    train, held_out = (sum(file["records"] for file in manifest[split]) for split in ("train", "eval"))
    if config.eval_fraction and held_out < FEW_RECORDS:
        more = min(0.5, max(2 * config.eval_fraction, 2 * FEW_RECORDS / (train + held_out)))
        print(f"note: the held-out records ({held_out:,}) are too few for a steady held-out loss: --eval_fraction="
              f"{more:.2g} would hold out more.", flush=True)
    print(f"{config.output_dir}: {manifest['num_documents']:,} documents, {train:,} training and {held_out:,} held-out "
          f"records, {manifest['num_tokens']:,} tokens, {manifest['num_cut_tokens']:,} truncated, padding "
          f"{manifest['padding']:.1%}; {megabytes:,.1f} MB in {elapsed_seconds:,.1f} s, "
          f"{megabytes / elapsed_seconds:.2f} MB/s", flush=True)
    if "padding_note" in manifest:
        command_line.print_on_stderr(f"warning: {manifest['padding_note']}")


def padding_note(config: BuildConfig, padding: float, median: int) -> str:
    """What to do about much padding, in a few sentences; empty: there is little."""
    if padding <= MUCH_PADDING:
        return ""
    ends = "a blank line ends a document" if config.blanks_separate_docs else "each file is one document"
    paragraphs = "If blank lines only separate paragraphs, use --noblanks_separate_docs. " * config.blanks_separate_docs
    pack = "--pack_documents fills records from several documents." * (not config.pack_documents)
    return (f"{padding:.0%} of the positions in the records are padding, because the documents are short: half of them "
            f"have at most {median:,} tokens, and a record has {config.max_seq_length} ({ends}). {paragraphs}{pack}"
            ).rstrip()


def finish(config: BuildConfig, tokenizer: ElectraTokenizer, sizes: dict[str, int], folder: str,
           written: list[Written]) -> dict:
    """Makes the dataset in `<folder>/new` of the parts in `folder`; the held-out parts are joined."""
    names = training_names(written)
    num_train = sum(map(bool, names))
    if not num_train:
        raise UserError(f"--corpus_dir={config.corpus_dir} contains no documents, or all of them are held out: add "
                        "text.")
    if num_train < config.out_files:
        print(f"the corpus is small: {num_train} training files instead of {config.out_files}", flush=True)
    new, listed = f"{folder}/new", {"train": [], "eval": []}
    os.mkdir(new)
    for shard, name in enumerate(names):
        if name:
            for suffix in ("", tfrecord.INDEX_SUFFIX):
                os.rename(f"{folder}/train-{shard}.part{suffix}", f"{new}/{name}{suffix}")
            listed["train"].append((name, written[shard].counts["train"]))
    total, lengths = (sum(counters, collections.Counter()) for counters in zip(*written))
    if total["eval"]:
        name = "eval/eval-00000-of-00001.tfrecord"
        os.mkdir(f"{new}/eval")
        with open(f"{new}/{name}", "wb") as file:  # TFRecord files are joined by appending
            for shard in range(len(written)):
                with open(f"{folder}/eval-{shard}.part", "rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
        tfrecord.write_index(f"{new}/{name}", f"{new}/{name}{tfrecord.INDEX_SUFFIX}")
        listed["eval"].append((name, total["eval"]))
    tokenizer.save(new)
    padding = 1 - total["tokens"] / ((total["train"] + total["eval"]) * config.max_seq_length)
    median = median_of(lengths)
    note = padding_note(config, padding, median)
    manifest = {
        "format": tfrecord.DATASET_FORMAT, "version": 1, "max_seq_length": config.max_seq_length,
        "vocab_size": tokenizer.vocab_size, "tokenizer_fingerprint": tokenizer.fingerprint,
        **tokenizer.casing, "blanks_separate_docs": config.blanks_separate_docs,
        "pack_documents": config.pack_documents, "seed": config.seed, "eval_fraction": config.eval_fraction,
        "num_documents": total["documents"], "median_document_tokens": median, "num_tokens": total["tokens"],
        "num_cut_tokens": total["cut_tokens"], "padding": round(padding, 4), **({"padding_note": note} if note else {}),
        "corpus": [{"file": os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace"), "bytes": size}
                   for path, size in sizes.items()],  # a file name may be any bytes
        **{split: [{"file": name, "bytes": os.path.getsize(f"{new}/{name}"), "records": records}
                   for name, records in shards] for split, shards in listed.items()}}
    files.write_json(f"{new}/manifest.json", manifest)
    return manifest


def median_of(lengths: collections.Counter) -> int:
    """The median of numbers that are given with their counts."""
    left = sum(lengths.values()) / 2
    for length in sorted(lengths):
        left -= lengths[length]
        if left <= 0:
            return length
    return 0


def main(argv) -> int:
    config = command_line.parse(BuildConfig, argv, __doc__)
    process_pool.stop_on_signals()
    with configuration.sole_user(config.output_dir, "choose another --output_dir", beside=True):
        build(config)
    return 0


if __name__ == "__main__":
    command_line.run_command(main)
