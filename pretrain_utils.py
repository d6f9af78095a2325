"""Records to masked batches: reading shards in a seekable order, dynamic masking, corrupting.

Masking is ELECTRA's (Clark et al. 2020, section 2 and appendix A): 15% of the real tokens, 85% of them shown as [MASK],
redrawn at every step. Positions are drawn without replacement (Gumbel top-k; with equal weights the ranking of uniform
noise), never a special token or padding. (NVIDIA's recipe draws with replacement, and where a position comes up twice
writes an unrelated id.) Candidates, positions, sampling and labels are pure functions of tensors and one seed.

Data order is a function of (seed, epoch) over the whole corpus, in global record numbers; a worker takes its slice of
every global micro-batch. So a position in the data is one number, any position is found by arithmetic without reading
what lies before it, and the order depends neither on the number of workers nor on the batch size.
"""
from __future__ import annotations

import bisect
import collections
import concurrent.futures
import glob
import gzip
import mmap
import os
import struct
import zlib
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import google_crc32c
import numpy as np
import tensorflow as tf

import configuration
import files
from configuration import UserError

# --- Randomness ---

TRAINING, EVALUATION, FINE_TUNING = 0, 1, 2  # purposes: part of the key of every seed


def fold_seeds(key: Sequence[int], count: int) -> np.ndarray:
    """`count` seeds for stateless draws, a pure function of `key` (numbers from 0 up): int32 [count, 2]."""
    return seed_sequence(key).generate_state(2 * count).view(np.int32).reshape(count, 2)


def seed_sequence(key: Sequence[int]) -> np.random.SeedSequence:
    """Spreads keys that differ in one bit; numpy promises to keep its values (NEP 19).

    The length comes first, because numpy takes [a, b] and [a, b, 0] for the same key.
    """
    return np.random.SeedSequence([len(key), *key])


def permutation(key: Sequence[int], size: int) -> np.ndarray:
    """int [size], a pure function of `key`; Generator.permutation's values may change between numpy's releases."""
    return np.argsort(np.random.Philox(seed_sequence(key)).random_raw(size), kind="stable")


def uniform(shape, seed):
    """float32 in [0, 1), a function of `seed` int32 [2] (Philox on every device).

    The raw op, because tf.random.stateless_uniform scrambles its seed with ops that SynapseAI 1.6.1 does not have.
    """
    return tf.raw_ops.StatelessRandomUniform(shape=list(shape), seed=seed, dtype=tf.float32)


# --- Masking, sampling, labels: B batch, L sequence, N masked slots, V vocabulary ---


class MaskedBatch(NamedTuple):
    """The generator's input, and what was taken out of it.

    Slots beyond a sequence's number of masked tokens have weight 0; their positions are real, distinct from all
    others, and mean nothing.
    """

    input_ids: tf.Tensor  # int32 [B, L]
    positions: tf.Tensor  # int32 [B, N]
    weights: tf.Tensor  # float32 [B, N], 1 or 0
    original_ids: tf.Tensor  # int32 [B, N]


def maskable(input_ids, input_mask, special_ids: Sequence[int]):
    """bool [B, L]: tokens that may be masked, all but padding and special tokens ([UNK] among them)."""
    candidates = tf.cast(input_mask, tf.bool)
    for special_id in special_ids:
        candidates = tf.logical_and(candidates, tf.not_equal(input_ids, special_id))
    return candidates


def draw_positions(candidates, input_mask, mask_prob: float, max_predictions_per_seq: int, seed):
    """Draws the positions to mask, without replacement, every candidate equally likely.

    A sequence gets max(1, min(N, round(mask_prob x real tokens))) of them, [CLS] and [SEP] counted as real, and never
    more than it has candidates.

    Returns: positions int32 [B, N], weights float32 [B, N].
    """
    noise = tf.where(candidates, uniform(candidates.shape, seed), -tf.ones(candidates.shape))
    drawn, positions = tf.math.top_k(noise, k=max_predictions_per_seq, sorted=True)
    real_tokens = tf.reduce_sum(tf.cast(input_mask, tf.float32), axis=-1, keepdims=True)
    wanted = tf.clip_by_value(tf.round(mask_prob * real_tokens), 1.0, float(max_predictions_per_seq))
    slot = tf.range(max_predictions_per_seq, dtype=tf.float32)
    return positions, tf.cast(tf.logical_and(slot < wanted, drawn >= 0), tf.float32)


def flat_positions(positions, length: int):
    """Positions int32 [B, N] in sequences as rows of [B * length, ...]: int32 [B * N]."""
    first = tf.range(positions.shape[0])[:, tf.newaxis] * length
    return tf.reshape(positions + first, [-1])


def values_at(ids, positions):
    """`ids` int32 [B, L] at `positions` int32 [B, N]: int32 [B, N]."""
    return tf.reshape(tf.gather(tf.reshape(ids, [-1]), flat_positions(positions, ids.shape[1])), positions.shape)


def replace_at(ids, positions, values, weights):
    """`ids` int32 [B, L] with `values` [B, N] written at `positions` [B, N] where `weights` [B, N] is above 0.

    Positions of one sequence must differ from each other, those of unused slots included.
    """
    kept = tf.where(weights > 0, values, values_at(ids, positions))
    rows = flat_positions(positions, ids.shape[1])[:, tf.newaxis]
    return tf.reshape(tf.tensor_scatter_nd_update(tf.reshape(ids, [-1]), rows, tf.reshape(kept, [-1])), ids.shape)


def mask_tokens(input_ids, input_mask, special_ids, mask_id: int, mask_prob: float, max_predictions_per_seq: int,
                position_seed, keep_seed) -> MaskedBatch:
    """Masks a batch: 85% of the drawn positions show [MASK], the others their own token (ELECTRA, appendix A)."""
    positions, weights = draw_positions(maskable(input_ids, input_mask, special_ids), input_mask, mask_prob,
                                        max_predictions_per_seq, position_seed)
    original_ids = values_at(input_ids, positions)
    shown = tf.where(uniform(positions.shape, keep_seed) < 0.85, mask_id, original_ids)
    return MaskedBatch(replace_at(input_ids, positions, shown, weights), positions, weights, original_ids)


def sample_tokens(logits, seed):
    """Draws from softmax(logits) float32 [T, V]: int32 [T], by the Gumbel-max trick, in float32.

    No gradient passes: the discriminator does not train the generator (ELECTRA, section 2).
    """
    noise = -tf.math.log(-tf.math.log(tf.maximum(uniform(logits.shape, seed), 1e-30)))
    return tf.argmax(tf.stop_gradient(logits) + noise, axis=-1, output_type=tf.int32)


def replaced_token_labels(original_ids, corrupted_ids, input_mask):
    """Marks tokens that the generator changed (ELECTRA, section 2): int32 [B, L], 1 where replaced.

    A sampled token equal to the original counts as original. All arguments int32 [B, L]; 0 on padding.
    """
    return tf.cast(tf.not_equal(original_ids, corrupted_ids), tf.int32) * input_mask


# --- Shards ---

FEATURES = ("input_ids", "input_mask", "segment_ids")
STATIC_MASKS = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
# Features of BERT corpora whose records hold several sequences.
PACKED = ("positions", "next_sentence_positions", "next_sentence_weights")


class Shard(NamedTuple):
    path: str
    records: int


def find_shards(spec: str, flag: str) -> List[str]:
    """Files named by a folder, a glob, or a comma-separated list of either, sorted within each.

    A folder means the `*tfrecord*` files in it.

    Raises: UserError naming `flag`: a part that matches nothing, or a file named twice.
    """
    paths: List[str] = []
    for part in (part.strip() for part in spec.split(",")):
        if not part:
            raise UserError(f"--{flag}={spec} has an empty part: name a folder, a glob, or a comma-separated list.")
        pattern = os.path.join(glob.escape(part), "*tfrecord*") if os.path.isdir(part) else part
        found = sorted(path for path in glob.glob(pattern) if os.path.isfile(path))
        if not found:
            what = "holds no *tfrecord* file" if os.path.isdir(part) else "matches no file"
            raise UserError(f"--{flag}: {part} {what}: build one with build_pretraining_dataset.py, or mend the path.")
        paths += found
    twice = [path for path, count in collections.Counter(map(os.path.realpath, paths)).items() if count > 1]
    if twice:
        raise UserError(f"--{flag} names {twice[0]} twice: its records would count double.")
    return paths


def read_manifest(shard_paths: Sequence[str]) -> Optional[dict]:
    """The manifest of the dataset that the shards belong to, or None. Held-out shards lie one folder deeper."""
    folder = os.path.dirname(shard_paths[0])
    for place in (folder, os.path.dirname(os.path.abspath(folder))):
        path = os.path.join(place, "manifest.json")
        if os.path.exists(path):
            manifest = configuration.read_json_object(path)
            if manifest.get("format") == "electra-pretraining-tfrecord":
                return manifest
    return None


class _PlainReader:
    """Random access to the records of an uncompressed TFRecord file through a table of their offsets."""

    def __init__(self, path: str):
        self.path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        offsets, position = [], 0
        unpack = struct.Struct("<QI").unpack_from
        while position < size:
            if position + 12 > size:
                raise damaged(path, f"ends inside the header at byte {position}")
            length, crc = unpack(self._bytes, position)
            if position + 16 + length > size or not offsets and crc != masked_crc(self._bytes[position:position + 8]):
                raise damaged(path, f"has no whole record at byte {position}")
            offsets.append(position)
            position += 16 + length
        self._offsets = np.array([*offsets, position], np.int64)
        self.records = len(offsets)

    def read(self, first: int, last: int) -> List[bytes]:
        """Records [first, last)."""
        if last > self.records:
            raise damaged(self.path, f"ends after {self.records} records")
        records = []
        for start, end in zip(self._offsets[first:last].tolist(), self._offsets[first + 1:last + 1].tolist()):
            record = self._bytes[start + 12:end - 4]
            if masked_crc(record) != int.from_bytes(self._bytes[end - 4:end], "little"):
                raise damaged(self.path, f"fails its checksum in the record at byte {start}")
            records.append(record)
        return records


class _SequentialReader:
    """Access in order to a TFRecord file, gzip-compressed or not; going back starts again, going on skips."""

    def __init__(self, path: str, records: Optional[int] = None):
        self.path = path
        self._file, self._next = (gzip.open if is_gzip(path) else open)(path, "rb"), 0
        self.records = records
        if records is None:
            self.records = sum(1 for _ in iter(self._skip, False))

    def _bytes(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(self.path, f"cannot be decompressed ({error})") from error

    def _record(self) -> Optional[bytes]:
        header = self._bytes(12)
        if not header:
            return None
        length, crc = struct.unpack("<QI", header) if len(header) == 12 else (0, -1)
        if crc != masked_crc(header[:8]):
            raise damaged(self.path, f"has no whole record after {self._next} records")
        body = self._bytes(length + 4)
        if len(body) < length + 4 or masked_crc(body[:-4]) != int.from_bytes(body[-4:], "little"):
            raise damaged(self.path, f"fails its checksum in record {self._next}")
        self._next += 1
        return body[:-4]

    def _skip(self) -> bool:
        return self._record() is not None

    def read(self, first: int, last: int) -> List[bytes]:
        if first < self._next:
            self._file.seek(0)
            self._next = 0
        while self._next < first and self._skip():
            pass
        records = [self._record() for _ in range(first, last)]
        if None in records or self._next < first:
            raise damaged(self.path, f"ends after {self._next} records")
        return records


def masked_crc(content: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(bytes(content))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def damaged(path: str, how: str) -> UserError:
    return UserError(f"{path} {how}: it is damaged or no TFRecord file; remove or rebuild it.")


def is_gzip(path: str) -> bool:
    """Told by the first bytes. Raises: UserError: the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend its permissions or leave it out.") from error


def open_shard(path: str, records: Optional[int] = None):
    """A reader with `records` and `read(first, last)`; given the number of records, a gzip file is not counted."""
    return _SequentialReader(path, records) if is_gzip(path) else _PlainReader(path)


def count_shards(paths: Sequence[str], manifest: Optional[dict], counts_file: Optional[str] = None,
                 progress: Callable = lambda paths: paths) -> List[Shard]:
    """Every shard with its number of records.

    The number comes from the manifest where it knows the file at its size; else from `counts_file`, which remembers
    what earlier calls counted; else the file is counted.

    Args:
        counts_file: JSON, made when needed; entries of files that changed are counted anew.
        progress: wraps the list of files to be counted (tqdm does).
    Raises: UserError: a damaged file, or no record at all.
    """
    known = {}
    for part in ("train", "eval"):
        for entry in (manifest or {}).get(part, []):
            known[os.path.basename(entry["file"]), entry["bytes"]] = entry["records"]
    remembered = {}
    if counts_file and os.path.exists(counts_file):
        remembered = configuration.read_json_object(counts_file)

    def key(path):
        state = os.stat(path)
        return f"{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}"

    counts = {path: known.get((os.path.basename(path), os.path.getsize(path)), remembered.get(key(path)))
              for path in paths}
    uncounted = [path for path in paths if counts[path] is None]
    for path in progress(uncounted):
        counts[path] = open_shard(path).records
    if counts_file and uncounted:
        os.makedirs(os.path.dirname(counts_file), exist_ok=True)
        files.write_json(counts_file, {**remembered, **{key(path): counts[path] for path in uncounted}})
    shards = [Shard(path, counts[path]) for path in paths]
    if not sum(shard.records for shard in shards):
        raise UserError(f"{paths[0]} and the shards beside it hold no record: rebuild the dataset.")
    return shards


# --- Order ---


class RecordOrder:
    """The order of all records in every epoch, and where any global record number lies in it.

    In an epoch the shards are permuted and taken in groups of `GROUP`. A group is cut into windows of at least `WINDOW`
    records (if it has as many), each with its share of every shard in the group, so that reading stays nearly
    sequential; a window's records are permuted.
    """

    GROUP = 16
    WINDOW = 10_000

    def __init__(self, shards: Sequence[Shard], seed: int):
        self.shards = list(shards)
        self.seed = seed
        self.records = sum(shard.records for shard in shards)

    def windows(self, start: int) -> Iterator[Tuple[List[Tuple[Shard, int, int]], np.ndarray]]:
        """Windows from the one that holds global record `start` on, for ever.

        Yields: parts, each (shard, first, last record in it), and the order int [n] in which their records, counted
            through the parts, are used. The first window's order begins with the record asked for.
        """
        epoch, offset = divmod(start, self.records)
        while True:
            for group in self._groups(epoch):
                total = sum(shard.records for shard in group)
                if offset >= total:
                    offset -= total
                    continue
                # Shares are rounded down: a window can miss one record of every shard.
                count = max(1, total // (self.WINDOW + len(group)))
                bounds = [[shard.records * window // count for window in range(count + 1)] for shard in group]
                ends = [sum(bound[window + 1] for bound in bounds) for window in range(count)]
                first = bisect.bisect_right(ends, offset)
                offset -= ends[first - 1] if first else 0
                for window in range(first, count):
                    parts = [(shard, bound[window], bound[window + 1]) for shard, bound in zip(group, bounds)]
                    size = sum(last - first_record for _, first_record, last in parts)
                    key = [self.seed, epoch, self.shards.index(group[0]), window]
                    yield parts, permutation(key, size)[offset:]
                    offset = 0
            epoch += 1

    def _groups(self, epoch: int) -> Iterator[List[Shard]]:
        order = permutation([self.seed, epoch], len(self.shards))
        for first in range(0, len(order), self.GROUP):
            yield [self.shards[i] for i in order[first:first + self.GROUP]]


# --- Batches ---


class RecordFormat:
    """What the records of a dataset hold, learnt from its first record and checked against what is asked for.

    Raises: UserError: another sequence length, a missing feature, packed sequences, or no tf.train.Example.
    """

    def __init__(self, path: str, max_seq_length: int, vocab_size: int):
        self.path, self.max_seq_length, self.vocab_size = path, max_seq_length, vocab_size
        record = _SequentialReader(path, records=1).read(0, 1)
        try:
            features = tf.train.Example.FromString(record[0]).features.feature
        except Exception as error:  # protobuf's DecodeError moved between its releases
            raise UserError(f"{path} holds records that are no tf.train.Example: name pre-training shards.") from error
        lengths = {name: len(features[name].int64_list.value) for name in FEATURES if name in features}
        missing = [name for name in FEATURES if name not in lengths]
        packed = [name for name in PACKED if name in features]
        if missing:
            raise UserError(f"{path} has no feature {missing[0]!r}: name pre-training shards.")
        if packed:
            raise UserError(f"{path} holds packed multi-sequence records (feature {packed[0]!r}): use the unpacked "
                            "corpus.")
        for name, length in lengths.items():
            if length != max_seq_length:
                raise UserError(f"{path} has {name} of length {length}, not --max_seq_length={max_seq_length}: "
                                f"give --max_seq_length={length} or records of the other length.")
        self.spec = {name: tf.io.FixedLenFeature([max_seq_length], tf.int64) for name in FEATURES}
        masks = [name for name in STATIC_MASKS if name in features]
        if masks and len(masks) < len(STATIC_MASKS):
            raise UserError(f"{path} has {masks[0]} but not all of {', '.join(STATIC_MASKS)}: its masked tokens cannot "
                            "be restored, use records that hold all three or none.")
        self.has_static_masks = bool(masks)
        if self.has_static_masks:
            slots = len(features["masked_lm_positions"].int64_list.value)
            kinds = (tf.int64, tf.int64, tf.float32)
            self.spec.update({name: tf.io.FixedLenFeature([slots], kind) for name, kind in zip(STATIC_MASKS, kinds)})
        self.decode(record)

    def decode(self, records: List[bytes]) -> Dict[str, np.ndarray]:
        """Serialized examples to `input_ids`, `input_mask`, `segment_ids`, int32 [B, L], with static masks undone."""
        try:
            parsed = tf.io.parse_example(tf.constant(records), self.spec)
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:  # the latter from TensorFlow's message
            raise UserError(f"{self.path} or a shard beside it holds a record unlike the first one of the dataset "
                            f"(of length {self.max_seq_length}): remove or rebuild it.") from error
        batch = {name: parsed[name].numpy().astype(np.int32) for name in FEATURES}
        if self.has_static_masks:
            batch["input_ids"] = restore_static_masks(batch["input_ids"],
                                                      *(parsed[name].numpy() for name in STATIC_MASKS))
        if batch["input_ids"].max() >= self.vocab_size or batch["input_ids"].min() < 0:
            raise UserError(f"{self.path} or a shard beside it has token id {batch['input_ids'].max()}, beyond the "
                            f"vocabulary of {self.vocab_size}: give the --vocab_file that the records were built with.")
        if batch["segment_ids"].max() > 1 or batch["segment_ids"].min() < 0:
            raise UserError(f"{self.path} or a shard beside it has segment_ids other than 0 and 1: name pre-training "
                            "shards.")
        if batch["input_mask"].max() > 1:
            raise UserError(f"{self.path} or a shard beside it holds packed multi-sequence records (input_mask above "
                            "1): use the unpacked corpus.")
        return batch


def restore_static_masks(input_ids, masked_lm_positions, masked_lm_ids, masked_lm_weights) -> np.ndarray:
    """Writes back the tokens that BERT's static masking took out (create_pretraining_data.py's records).

    Only where `masked_lm_weights` is above 0: padding slots say position 0, id 0, and would overwrite [CLS].

    Args: input_ids int [B, L]; the others int, int and float [B, N]. Returns: int [B, L].
    """
    restored = input_ids.copy()
    rows, slots = np.nonzero(masked_lm_weights > 0)
    restored[rows, masked_lm_positions[rows, slots]] = masked_lm_ids[rows, slots]
    return restored


def micro_batches(order: RecordOrder, record_format: RecordFormat, batch_size: int, start: int = 0, rank: int = 0,
                  world_size: int = 1) -> Iterator[Dict[str, np.ndarray]]:
    """Batches of `batch_size` for one worker, for ever, from global record number `start` on.

    Worker r of W takes records [(k W + r) B, (k W + r + 1) B) of the global order as its k-th batch. Reading and
    decoding run in threads ahead of the consumer. See `RecordFormat.decode` for the content.
    """
    def window_records(window):
        parts, chosen = window
        records = [record for shard, first, last in parts for record in readers(shard).read(first, last)]
        return [records[i] for i in chosen]

    open_readers = collections.OrderedDict()

    def readers(shard):
        if shard.path not in open_readers:
            if len(open_readers) >= RecordOrder.GROUP:
                open_readers.popitem(last=False)
            open_readers[shard.path] = open_shard(shard.path, shard.records)
        open_readers.move_to_end(shard.path)
        return open_readers[shard.path]

    def own_batches():
        buffer, skip = [], rank * batch_size
        for records in ahead(window_records, order.windows(start), workers=1, lookahead=1):
            buffer += records
            position = 0
            while position + skip + batch_size <= len(buffer):
                yield buffer[position + skip:position + skip + batch_size]
                position += skip + batch_size
                skip = (world_size - 1) * batch_size
            buffer = buffer[position:]

    return ahead(record_format.decode, own_batches(), workers=2, lookahead=4)


def ahead(function: Callable, items: Iterable, workers: int, lookahead: int) -> Iterator:
    """map(function, items) in threads, in order, with up to `lookahead` results computed before they are asked for."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > lookahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
