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
`target` is drawn for every example. Every random choice, including which documents are held out (--eval_fraction), is a
hash of the seed, the file name and the byte offset of the document; each shard is written by one process, from parts of
the corpus that depend only on its size and --num_out_files. So any --num_processes gives the same bytes. A document
longer than `DOCUMENT_BOUND` may be split between lines; its parts are then separate documents, each held out or not.

Output, in a folder that replaces --output_dir when it is complete: `train-00000-of-00016.tfrecord` ..., with
--eval_fraction `eval/eval-00000-of-00001.tfrecord`, beside each shard its index (`<shard>.idx`, see tfrecord.py),
the vocabulary, `tokenizer_config.json`, `manifest.json`. A record is a `tf.train.Example` with three int64 lists of
length max_seq_length: input_ids; input_mask, 1 on tokens; segment_ids, 1 on the second segment and its [SEP].
TensorFlow is not imported: records are encoded with numpy.

Exit status: 0, 2 (invalid option or input), 1 (a worker process failed), 130 (Ctrl-C) or 143 (SIGTERM). Unless it is 0,
nothing is left behind, and an existing dataset in --output_dir is unchanged.
"""
from __future__ import annotations

import bisect
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
import time
from typing import Iterator, Optional

import numpy as np
import tqdm

import command_line
import configuration
import files
import tfrecord
from configuration import Interrupted, RunFailed, UserError, option
from tokenization import ElectraTokenizer

CHUNK_BYTES = 4 << 20  # largest planned chunk: a worker has one in memory at a time
DOCUMENT_BOUND = 1 << 20  # a document that goes more bytes than this past a chunk's planned end is split there
LINE_BOUND = 16 << 20  # a longer line at a chunk's planned end is refused
ROW_TOKENS = 1 << 16  # tokens of the examples that are encoded at once: fits a core's cache
STRIP_ACCENTS = {"none": None, "true": True, "false": False}  # the option, for the tokenizer
FEW_RECORDS = 100  # a held-out loss of fewer is mostly chance
LOG_SECONDS = 30  # between progress lines if the output is not a terminal


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """One build. Every option except the folders and the number of processes affects what is written."""

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
    seed: int = option(42, "random seed for lengths, segments and held-out documents", minimum=0, maximum=2**31 - 1)
    eval_fraction: float = option(0.0, "fraction of documents held out in <output_dir>/eval", minimum=0.0, maximum=0.9)
    encoding_errors: str = option("strict", "bytes that are not valid UTF-8: strict stops with an error, replace drops "
                                  "them", choices=("strict", "replace"))
    overwrite: bool = option(False, "replace an existing dataset in output_dir (never other files)")

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
    """Splits the files into chunks and assigns each to the smallest shard so far. Leaves out empty shards."""
    planned_bytes = sum(sizes.values()) // (8 * config.out_files)  # eight chunks per shard, if not too large
    planned_bytes = min(CHUNK_BYTES, max(1024, planned_bytes))
    shards, loads = [[] for _ in range(config.out_files)], [0] * config.out_files
    for path, size in sizes.items():
        with open(path, "rb") as file:
            begin = 0
            while begin < size:
                end = find_cut(file, begin + planned_bytes, size, config.blanks_separate_docs)
                least = loads.index(min(loads))
                shards[least].append(Chunk(path, begin, end))
                loads[least] += end - begin
                begin = end
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


def examples_of_document(begins: list[int], line: int, end_line: int, key, max_seq_length: int
                         ) -> Iterator[tuple[int, int, int, int]]:
    """Makes examples of sentences `line` to `end_line` (see `read_documents`) by the rules in the module's docstring.

    Yields: the two segments in `ids`: begin, number of tokens, begin, number of tokens (0 without a second segment).
    """
    number = 0
    while line < end_line:
        target, single_segment, exceed = draw(random_bits(*key, number), max_seq_length)
        begin = begins[line]
        # The first line by whose start the target is reached, or the end of the document.
        end = bisect.bisect_left(begins, begin + target, line + 1, end_line)
        first_target = (target - 3) // 2
        split = max(line + 1, bisect.bisect_left(begins, begin + first_target, line, end + 1) - 1)
        if exceed and split < end and begins[split] - begin < first_target:
            split += 1
        if single_segment:
            split = end
        first_length = min(begins[split] - begin, max_seq_length - 2)
        second_length = min(begins[end] - begins[split], max(0, max_seq_length - 3 - first_length))
        yield begin, first_length, begins[split], second_length
        line = end
        number += 1


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
    """Framed records of `tf.train.Example`, in pieces. examples: int64 [B, 4], rows of `examples_of_document`.

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


def begin_worker():
    """Sets up a worker process. It starts with SIGINT and SIGTERM blocked; SIGINT is left to the parent."""
    def end_with_parent():  # otherwise the workers of a killed parent would wait forever
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def start_worker(config: BuildConfig, folder: str, shards: list[list[Chunk]], bytes_done):
    global _worker
    begin_worker()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = config, folder, shards, bytes_done, config.tokenizer()


def write_shard(shard: int) -> collections.Counter:
    """Writes `train-<shard>.part` with its index, and `eval-<shard>.part`.

    Returns: counts of records, documents and tokens.
    """
    config, folder, shards, bytes_done, tokenizer = _worker
    length, counts = config.max_seq_length, collections.Counter()
    batch = max(1, ROW_TOKENS // length)
    with open(f"{folder}/train-{shard}.part", "wb") as train, open(f"{folder}/eval-{shard}.part", "wb") as held_out:
        for chunk in shards[shard]:
            ids, begins, documents = read_documents(chunk, config, tokenizer)
            name, examples = os.fsencode(os.path.basename(chunk.path)), {"train": [], "eval": []}
            for offset, line, end_line in documents:
                key = (config.seed, name, offset)
                split = "eval" if random_bits(*key, -1) < config.eval_fraction * 2**64 else "train"
                examples[split] += examples_of_document(begins, line, end_line, key, length)
            for split, file in (("train", train), ("eval", held_out)):
                rows = np.array(examples[split], np.int64).reshape(-1, 4)
                for begin in range(0, len(rows), batch):
                    file.writelines(encode_records(ids, rows[begin:begin + batch], length, tokenizer))
                kept, special = int(rows[:, [1, 3]].sum()), 2 * len(rows) + int(np.count_nonzero(rows[:, 3]))
                counts.update({split: len(rows), "tokens": kept + special, "cut_tokens": -kept})
            counts.update(documents=len(documents), cut_tokens=len(ids))
            bytes_done[shard] += chunk.end - chunk.begin
    if counts["train"]:
        tfrecord.write_index(f"{folder}/train-{shard}.part", f"{folder}/train-{shard}.part{tfrecord.INDEX_SUFFIX}")
    return counts


def write_shards(config: BuildConfig, folder: str, shards: list[list[Chunk]]) -> list[collections.Counter]:
    """Writes all shards in worker processes. Raises: RunFailed: a worker failed; UserError, OSError: as in a worker."""
    total = sum(chunk.end - chunk.begin for shard in shards for chunk in shard)
    context = multiprocessing.get_context("spawn")  # fork is unsafe with the threads of a progress bar
    bytes_done = context.RawArray("q", len(shards))  # one writer each: no lock that a killed worker could hold
    pool = concurrent.futures.ProcessPoolExecutor(
        min(config.processes, len(shards)), context, start_worker, (config, folder, shards, bytes_done))
    bar = tqdm.tqdm(total=total, unit="B", unit_scale=True, desc="building", disable=None)
    start_time = log_time = time.monotonic()
    try:
        with files.blocked_signals(in_new_processes=True):  # they start here
            futures = waiting = [pool.submit(write_shard, shard) for shard in range(len(shards))]
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_EXCEPTION)
            bar.update(sum(bytes_done) - bar.n)
            if bar.disable and time.monotonic() > log_time + LOG_SECONDS:
                log_time = time.monotonic()
                print(bar.format_meter(sum(bytes_done), total, log_time - start_time, 0, "building", unit="B",
                                       unit_scale=True), flush=True)
            for future in done:
                future.result()
        return [future.result() for future in futures]
    except (UserError, OSError, Interrupted):
        raise
    except concurrent.futures.BrokenExecutor as error:
        raise RunFailed("a worker process was killed (if memory ran out, use fewer --num_processes); nothing was "
                        "written.") from error
    except Exception as error:
        raise RunFailed(f"a worker failed ({type(error).__name__}: {error}); nothing was written.") from error
    finally:
        bar.close()
        for process in multiprocessing.active_children():  # idle, or still working although the build has failed
            process.terminate()
        pool.shutdown()


def stop_on_signals():
    """Makes the first Ctrl-C or SIGTERM raise `Interrupted` with the shell's exit status; later ones are ignored."""
    def stop(number, frame):
        for other in files.STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        error = Interrupted(f"stopped by {signal.Signals(number).name}; nothing was written: run the command again.")
        error.exit_status = 128 + number
        raise error

    for number in files.STOP_SIGNALS:
        signal.signal(number, stop)


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
    try:
        sizes = list_corpus(config.corpus_dir)
        files.remove_leftovers(output_dir)
        check_output(output_dir, config.overwrite)
        with contextlib.ExitStack() as last, files.new_folder(output_dir, replace=config.overwrite) as folder:
            needed, free = 1.2 * sum(sizes.values()), shutil.disk_usage(folder).free  # records take 1.1 to 2 times that
            if free < needed:
                raise UserError(f"--output_dir={config.output_dir} has {free / 1e9:,.1f} GB free and needs about "
                                f"{needed / 1e9:,.1f} GB: free some space or choose another disk.")
            counts = write_shards(config, folder, plan_shards(sizes, config))
            total = sum(counts, collections.Counter())
            manifest = finish(config, tokenizer, sizes, folder, counts, total)
            check_output(output_dir, config.overwrite)  # another build may have written it in the meantime
            # From here on a signal is too late to stop the build: it waits until the folder is in place.
            last.enter_context(contextlib.suppress(Interrupted))
            last.enter_context(files.blocked_signals())
    except OSError as error:
        temporary = not error.filename or str(error.filename).startswith(f"{output_dir}.tmp-")
        raise UserError(f"{config.output_dir if temporary else error.filename} could not be read or written "
                        f"({error.strerror}): make room or choose another folder.") from error
    padding = 1 - total["tokens"] / ((total["train"] + total["eval"]) * config.max_seq_length)
    megabytes, elapsed_seconds = sum(sizes.values()) / 1e6, time.monotonic() - start_time
    if config.eval_fraction and total["eval"] < FEW_RECORDS:
        print(f"note: the held-out records ({total['eval']:,}) are too few for a steady held-out loss: --eval_fraction="
              f"{min(0.5, 2 * FEW_RECORDS / (total['train'] + total['eval'])):.2g} would hold out more.", flush=True)
    print(f"{config.output_dir}: {total['documents']:,} documents, {total['train']:,} training and {total['eval']:,} "
          f"held-out records, {total['tokens']:,} tokens, {total['cut_tokens']:,} truncated, padding {padding:.1%}; "
          f"{megabytes:,.1f} MB in {elapsed_seconds:,.1f} s, {megabytes / elapsed_seconds:.2f} MB/s", flush=True)
    return manifest


def finish(config: BuildConfig, tokenizer: ElectraTokenizer, sizes: dict[str, int], folder: str,
           counts: list[collections.Counter], total: collections.Counter) -> dict:
    """Turns the parts in `folder` into the dataset; the held-out parts are joined. counts: of each shard."""
    train = [shard for shard, count in enumerate(counts) if count["train"]]
    if not train:
        raise UserError(f"--corpus_dir={config.corpus_dir} contains no documents, or all of them are held out: add "
                        "text.")
    if len(train) < config.out_files:
        print(f"the corpus is small: {len(train)} training files instead of {config.out_files}", flush=True)
    written = {"train": [], "eval": []}
    for number, shard in enumerate(train):
        name = f"train-{number:05d}-of-{len(train):05d}.tfrecord"
        for suffix in ("", tfrecord.INDEX_SUFFIX):
            os.rename(f"{folder}/train-{shard}.part{suffix}", f"{folder}/{name}{suffix}")
        written["train"].append((name, counts[shard]["train"]))
    if total["eval"]:
        name = "eval/eval-00000-of-00001.tfrecord"
        os.mkdir(f"{folder}/eval")
        with open(f"{folder}/{name}", "wb") as file:  # TFRecord files are joined by appending
            for shard in range(len(counts)):
                with open(f"{folder}/eval-{shard}.part", "rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
        tfrecord.write_index(f"{folder}/{name}", f"{folder}/{name}{tfrecord.INDEX_SUFFIX}")
        written["eval"].append((name, total["eval"]))
    for part in pathlib.Path(folder).glob("*.part"):  # joined, or without records
        part.unlink()
    tokenizer.save(folder)
    manifest = {
        "format": tfrecord.DATASET_FORMAT, "version": 1, "max_seq_length": config.max_seq_length,
        "vocab_size": tokenizer.vocab_size, "tokenizer_fingerprint": tokenizer.fingerprint,
        **tokenizer.casing,
        "blanks_separate_docs": config.blanks_separate_docs, "seed": config.seed, "eval_fraction": config.eval_fraction,
        "num_documents": total["documents"], "num_tokens": total["tokens"], "num_cut_tokens": total["cut_tokens"],
        "corpus": [{"file": os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace"), "bytes": size}
                   for path, size in sizes.items()],  # a file name may be any bytes
        **{split: [{"file": name, "bytes": os.path.getsize(f"{folder}/{name}"), "records": records}
                   for name, records in shards] for split, shards in written.items()}}
    files.write_json(f"{folder}/manifest.json", manifest)
    return manifest


def main(argv) -> int:
    config = command_line.parse(BuildConfig, argv, __doc__)
    stop_on_signals()
    with configuration.sole_user(config.output_dir, "choose another --output_dir", beside=True):
        build(config)
    return 0


if __name__ == "__main__":
    command_line.run_command(main)
