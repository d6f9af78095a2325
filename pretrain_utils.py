"""Pre-training data: shards in a seekable, shuffled order; dynamic masking; replaced tokens and their labels.

Masking is ELECTRA's (Clark et al. 2020, section 2 and appendix A): 15% of the real tokens, of which 85% are replaced
with [MASK], redrawn at every step. Positions are drawn without replacement (Gumbel top-k; with equal weights, the
ranking of uniform noise), and never on a special token or padding. (NVIDIA's recipe draws with replacement, and where
it draws a position twice it writes an unrelated id.) Candidates, positions, samples and labels are pure functions of
tensors and one seed.

Data order is a function of (seed, epoch) over the whole corpus, in global record numbers; each worker reads its slice
of every global micro-batch. So a position in the data is a single number, any position can be computed without reading
the records before it, and the order depends on neither the number of workers nor the batch size. The same holds for a
mixture of weighted datasets (`Mixture`), of which each has an order and epochs of its own.
"""
from __future__ import annotations

import bisect
import collections
import concurrent.futures
import contextlib
import fractions
import functools
import hashlib
import os
import sys
import threading
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from absl import logging
from tqdm import tqdm

import configuration
import files
import pretraining_options
import tfrecord
from configuration import UserError
from deferred import tensorflow as tf
from pretraining_options import PretrainingConfig
from tokenization import ElectraTokenizer

# --- Randomness ---

TRAINING, EVALUATION, FINE_TUNING = 0, 1, 2  # purposes: part of the key of every seed


def fold_seeds(key: Sequence[int], count: int) -> np.ndarray:
    """`count` seeds for stateless draws, a pure function of `key` (numbers from 0 up): int32 [count, 2]."""
    return seed_sequence(key).generate_state(2 * count).view(np.int32).reshape(count, 2)


def seed_sequence(key: Sequence[int]) -> np.random.SeedSequence:
    """Gives unrelated values for keys that differ in one bit; numpy guarantees that they never change (NEP 19).

    The length comes first, because numpy treats [a, b] and [a, b, 0] as the same key.
    """
    return np.random.SeedSequence([len(key), *key])


def permutation(key: Sequence[int], size: int) -> np.ndarray:
    """int [size], a pure function of `key`; the values of Generator.permutation may change between numpy releases."""
    return np.argsort(np.random.Philox(seed_sequence(key)).random_raw(size), kind="stable")


def uniform(shape, seed):
    """float32 in [0, 1), a function of `seed` int32 [2] (Philox on every device).

    The raw op, because tf.random.stateless_uniform scrambles its seed with ops that SynapseAI 1.6.1 does not have.
    """
    return tf.raw_ops.StatelessRandomUniform(shape=list(shape), seed=seed, dtype=tf.float32)


# --- Masking, sampling, labels: B batch, L sequence, N masked slots, V vocabulary ---


class MaskedBatch(NamedTuple):
    """The generator's input, and the original tokens at the masked positions.

    Slots beyond a sequence's number of masked tokens have weight 0; their positions are valid, distinct from all
    others, and otherwise meaningless.
    """

    input_ids: tf.Tensor  # int32 [B, L]
    positions: tf.Tensor  # int32 [B, N]
    weights: tf.Tensor  # float32 [B, N], 1 or 0
    original_ids: tf.Tensor  # int32 [B, N]


def maskable(input_ids, input_mask, special_ids: Sequence[int]):
    """bool [B, L]: tokens that may be masked: all but padding and special tokens (including [UNK])."""
    candidates = tf.cast(input_mask, tf.bool)
    for special_id in special_ids:
        candidates = tf.logical_and(candidates, tf.not_equal(input_ids, special_id))
    return candidates


def draw_positions(candidates, input_mask, mask_prob: float, max_predictions_per_seq: int, seed):
    """Draws the positions to mask, without replacement, every candidate equally likely.

    A sequence gets max(1, min(N, round(mask_prob x real tokens))) positions, counting [CLS] and [SEP] as real tokens,
    but never more than it has candidates.

    Returns: positions int32 [B, N], weights float32 [B, N].
    """
    noise = tf.where(candidates, uniform(candidates.shape, seed), -tf.ones(candidates.shape))
    drawn, positions = tf.math.top_k(noise, k=max_predictions_per_seq, sorted=True)
    real_tokens = tf.reduce_sum(tf.cast(input_mask, tf.float32), axis=-1, keepdims=True)
    wanted = tf.clip_by_value(tf.round(mask_prob * real_tokens), 1.0, float(max_predictions_per_seq))
    slot = tf.range(max_predictions_per_seq, dtype=tf.float32)
    return positions, tf.cast(tf.logical_and(slot < wanted, drawn >= 0), tf.float32)


def flat_positions(positions, length: int):
    """Positions int32 [B, N] within sequences as row numbers of [B * length, ...]: int32 [B * N]."""
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
    """Masks a batch: 85% of the drawn positions become [MASK], the others keep their token (ELECTRA, appendix A)."""
    positions, weights = draw_positions(maskable(input_ids, input_mask, special_ids), input_mask, mask_prob,
                                        max_predictions_per_seq, position_seed)
    original_ids = values_at(input_ids, positions)
    shown = tf.where(uniform(positions.shape, keep_seed) < 0.85, mask_id, original_ids)
    return MaskedBatch(replace_at(input_ids, positions, shown, weights), positions, weights, original_ids)


def sample_tokens(logits, seed):
    """Samples from softmax(logits), float32 [T, V], with the Gumbel-max trick in float32: int32 [T].

    Gradients are stopped: the discriminator does not train the generator (ELECTRA, section 2).
    """
    noise = -tf.math.log(-tf.math.log(tf.maximum(uniform(logits.shape, seed), 1e-30)))
    return tf.argmax(tf.stop_gradient(logits) + noise, axis=-1, output_type=tf.int32)


def replaced_token_labels(original_ids, corrupted_ids, input_mask):
    """Labels the tokens that the generator replaced (ELECTRA, section 2): int32 [B, L], 1 where replaced.

    A sampled token equal to the original counts as original; padding is 0. All arguments are int32 [B, L].
    """
    return tf.cast(tf.not_equal(original_ids, corrupted_ids), tf.int32) * input_mask


# --- Shards ---

FEATURES = ("input_ids", "input_mask", "segment_ids")
STATIC_MASKS = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
# Features of BERT datasets whose records contain several sequences.
PACKED = ("positions", "next_sentence_positions", "next_sentence_weights")


class Shard(NamedTuple):
    path: str
    records: int
    index_path: Optional[str] = None  # None: gzip-compressed, and read from its beginning


class Part(NamedTuple):
    """One dataset of a mixture."""

    name: str  # the folder or glob that was given
    weight: float  # the weights of a mixture add up to 1
    paths: List[str]  # its shards


class ShardPaths(list):
    """Paths of shards. `mixture`: the datasets they belong to, in the same order; empty without weights."""

    mixture: Sequence[Part] = ()


def find_shards(spec: str, flag: str) -> ShardPaths:
    """Files given by a folder, a glob, or a comma-separated list of either, sorted within each.

    Of a folder, all `*tfrecord*` files are used except indices. A path that exists is not read as a glob. With weights
    (see `pretraining_options.weighted_datasets`) each part of the list is a dataset of a mixture.

    Raises: UserError, naming `flag`: a part matches no file, a file is given twice, or a weight cannot be used.
    """
    parts = []
    for name, weight in pretraining_options.weighted_datasets(spec, flag, lambda path: bool(files.matching(path))):
        matched = files.matching(os.path.join(name, "*tfrecord*") if os.path.isdir(name) else name)
        found = [path for path in matched if os.path.isfile(path) and not path.endswith(tfrecord.INDEX_SUFFIX)]
        if not found:
            what = "contains no *tfrecord* file" if os.path.isdir(name) else "matches no file"
            raise UserError(f"--{flag}: {name} {what}: fix the path, or build a dataset with "
                            "build_pretraining_dataset.py.")
        parts.append(Part(name, weight, found))
    paths = ShardPaths(path for part in parts for path in part.paths)
    paths.mixture = parts if parts[0].weight else ()
    twice = [path for path, count in collections.Counter(map(os.path.realpath, paths)).items() if count > 1]
    if twice:
        raise UserError(f"--{flag} includes {twice[0]} twice, which would count its records twice: remove one.")
    return paths


def dataset_folders(folder: str) -> Tuple[str, str]:
    """Where the manifest and vocabulary of the shards in a folder may be: there, or for held-out shards one above."""
    return folder, os.path.dirname(os.path.abspath(folder))


def read_manifests(shard_paths: Sequence[str]) -> Dict[str, dict]:
    """The manifests of the datasets that the shards belong to, by the shards' folders; folders without are left out."""
    manifests = {}
    for folder in dict.fromkeys(map(os.path.dirname, shard_paths)):
        for place in dataset_folders(folder):
            manifest = tfrecord.read_manifest(os.path.join(place, "manifest.json"))
            if manifest:
                manifests[folder] = manifest
                break
    return manifests


def check_manifests(shard_paths: Sequence[str], tokenizer: ElectraTokenizer, max_seq_length: int):
    """Raises UserError: a dataset was built with another vocabulary or casing, or for another sequence length."""
    for folder, manifest in read_manifests(shard_paths).items():
        if manifest.get("tokenizer_fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(f"--vocab_file: {tokenizer.vocab_file} is not the vocabulary of {folder}, or not with the "
                            "same casing (according to its manifest): use datasets built with one vocabulary and "
                            "--do_lower_case, and give that vocabulary.")
        length = manifest.get("max_seq_length", max_seq_length)
        if length != max_seq_length:
            raise UserError(f"{folder} has records of length {length} according to its manifest, not "
                            f"--max_seq_length={max_seq_length}: give --max_seq_length={length}, or records of length "
                            f"{max_seq_length}.")


def index_shards(paths: Sequence[str], folder: str, progress: Callable = lambda paths: paths, remember: bool = True
                 ) -> List[Shard]:
    """The shards with their numbers of records and their indices.

    A shard's index is the one beside it. If that is missing, damaged or of other data, one is written in `folder`. The
    records of a gzip-compressed shard are counted, unless the manifest lists a file of this name and size.
    `<folder>/shards.json` keeps the results until a shard or an index changes.

    Args:
        folder: created when needed. Temporary files that killed processes left there are removed.
        progress: wraps the list of shards that are not in shards.json (as tqdm does).
        remember: False: shards.json is only written if the folder is there, or a shard needs an index there.
    Raises: UserError: a damaged file, or no records at all.
    """
    results_file = os.path.join(folder, "shards.json")
    known = read_results(results_file)
    shards = {path: recall_shard(path, known.get(file_state(path))) for path in paths}
    unknown = [path for path in paths if shards[path] is None]
    if unknown:
        files.remove_junk(folder)
        manifests = read_manifests(paths)
        for path in progress(unknown):
            shards[path] = shard = index_shard(path, manifests.get(os.path.dirname(path), {}), folder)
            known[file_state(path)] = {"records": shard.records, "index": shard.index_path and file_state(
                shard.index_path)}
        with contextlib.suppress(OSError):  # only costs the next start the time to check the indices again
            if remember or os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
                files.write_json(results_file, known)
    if not sum(shard.records for shard in shards.values()):
        raise UserError(f"{paths[0]} and the other shards contain no records: rebuild the dataset.")
    return list(shards.values())


def read_results(path: str) -> dict:
    """The content of shards.json. Where it is damaged, a warning says so, and it is made again."""
    try:
        return configuration.read_json_object(path) if os.path.lexists(path) else {}
    except UserError:
        logging.warning("%s is damaged: the shards are checked again.", path)
        return {}


def recall_shard(path: str, result) -> Optional[Shard]:
    """The shard of an entry of shards.json, or None if there is none, it is damaged, or the index has changed."""
    if not isinstance(result, dict) or type(result.get("records")) is not int or "index" not in result:
        return None
    records, index = result["records"], result["index"]
    if index is None and records >= 0:
        return Shard(path, records)
    index_path = str(index).rsplit(" ", 2)[0]
    unchanged = os.path.exists(index_path) and file_state(index_path) == index
    return Shard(path, records, index_path) if unchanged and tfrecord.indexed_records(index_path) == records else None


def index_shard(path: str, manifest: dict, folder: str) -> Shard:
    """Finds or writes the index of a shard, or counts a gzip-compressed one; see `index_shards`."""
    if tfrecord.is_gzip(path):
        listed = {(os.path.basename(entry["file"]), entry["bytes"]): entry["records"]
                  for part in ("train", "eval") for entry in manifest.get(part, ())}
        known = listed.get((os.path.basename(path), os.path.getsize(path)))
        return Shard(path, tfrecord.open_shard(path, known).records)
    beside = path + tfrecord.INDEX_SUFFIX
    own = os.path.join(folder, hashed(os.path.abspath(path)) + tfrecord.INDEX_SUFFIX)
    for index_path in (beside, own):
        records = tfrecord.check_index(path, index_path)
        if records is not None:
            return Shard(path, records, index_path)
    if os.path.exists(beside):
        logging.warning("%s is damaged or does not belong to its shard: a new index is written to %s.", beside, own)
    try:
        os.makedirs(folder, exist_ok=True)
        return Shard(path, tfrecord.write_index(path, own), own)
    except OSError as error:
        raise UserError(f"{own}, the index of {path}, cannot be written ({error.strerror}): make room or fix the "
                        "permissions of the run's folder.") from error


def file_state(path: str) -> str:
    """Path, size and time of the last change: differs when the file has changed."""
    state = os.stat(path)
    return f"{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}"


def hashed(text: str) -> str:
    """A file name made of `text`."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


# --- Reading ---


class DamagedRecords:
    """The damaged records found so far and how many may be skipped. Threads may share it.

    With a limit, an empty file in `folder` marks each of them, so that all workers and resumed runs count each once.

    Args:
        limit: --skip_bad_records.
        folder: created when needed.
        shard_paths: shards whose damaged records count; a changed shard counts anew.
    """

    def __init__(self, limit: int = 0, folder: str = "", shard_paths: Sequence[str] = ()):
        self.limit, self.folder = limit, folder
        self._shards = {path: hashed(file_state(path)) for path in shard_paths} if limit else {}
        self._lock, self._logged = threading.Lock(), set()

    def add(self, path: str, number: int, place: str):
        """Counts a damaged record and logs it, both once. Raises: UserError: it exceeds the limit."""
        with self._lock:
            if (path, number) in self._logged:
                return
            failed = f"{path} fails its checksum in {place}"
            if not self.limit:
                raise UserError(f"{failed}: rebuild or remove the shard, or skip up to N damaged records with "
                                "--skip_bad_records=N.")
            try:
                count = self._mark(f"{self._shards[path]}-{number}")
            except OSError as error:
                raise UserError(f"{failed}, and {self.folder} cannot be written ({error.strerror}): make room or fix "
                                "its permissions.") from error
            if count > self.limit:
                raise UserError(f"{failed}, and is damaged record {count}, more than --skip_bad_records={self.limit} "
                                "allows: rebuild or remove the shard, or allow more.")
            self._logged.add((path, number))
            logging.warning("%s; the next intact record of the shard takes its place (damaged record %d; "
                            "--skip_bad_records=%d).", failed, count, self.limit)

    def _mark(self, name: str) -> int:
        """Marks a record, and returns how many are marked. Beyond the limit the mark is removed again."""
        mark = os.path.join(self.folder, name)
        marked_before = os.path.exists(mark)
        os.makedirs(self.folder, exist_ok=True)
        open(mark, "a", encoding="utf-8").close()
        # Listed after marking: of two workers that mark at the same time, at least one counts both.
        count = sum(other.rpartition("-")[0] in self._shards.values() for other in os.listdir(self.folder))
        if count > self.limit and not marked_before:
            os.remove(mark)
        return count


def read_records(reader, numbers: Sequence[int], damaged: DamagedRecords) -> List[bytes]:
    """Records of a shard by number, in ascending order.

    A damaged record is replaced by the next intact one of its shard; the first follows the last. So the content of the
    shard alone decides what is read, whatever the number of workers and wherever a run was resumed.

    Raises: UserError: see `DamagedRecords.add` and the readers.
    """
    records = reader.read(numbers)
    for i, record in enumerate(records):
        number = numbers[i]
        while record is None:
            damaged.add(reader.path, number, reader.place(number))
            number = (number + 1) % reader.records
            if number == numbers[i]:
                raise UserError(f"{reader.path} has no intact record: rebuild or remove the shard.")
            record, = reader.read([number])
        records[i] = record
    return records


# --- Order ---


class RecordOrder:
    """The order of all records in every epoch, which can be entered at any global record number.

    In each epoch the shards are shuffled and split into groups of `GROUP`. A group is divided into windows of at least
    `WINDOW` records (if it has that many), each with its share of every shard in the group, so that reading stays
    nearly sequential; the records of a window are shuffled.
    """

    GROUP = 16
    WINDOW = 10_000

    def __init__(self, shards: Sequence[Shard], seed: int):
        self.shards = list(shards)
        self.seed = seed
        self.records = self.distinct = sum(shard.records for shard in shards)

    def windows(self, start: int) -> Iterator[Tuple[List[Tuple[Shard, int, int]], np.ndarray]]:
        """Windows without end, starting with the one that contains global record `start`.

        Yields: parts, each (shard, first record, end record), and the order int [n] in which their records, numbered
            across the parts, are used. The first window's order starts with record `start`.
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
                group_number = self.shards.index(group[0])
                for window in range(first, count):
                    parts = [(shard, bound[window], bound[window + 1]) for shard, bound in zip(group, bounds)]
                    size = sum(last - first_record for _, first_record, last in parts)
                    key = [self.seed, epoch, group_number, window]
                    yield parts, permutation(key, size)[offset:]
                    offset = 0
            epoch += 1

    def _groups(self, epoch: int) -> Iterator[List[Shard]]:
        order = permutation([self.seed, epoch], len(self.shards))
        for first in range(0, len(order), self.GROUP):
            yield [self.shards[i] for i in order[first:first + self.GROUP]]


Windows = Iterator[Tuple[List[Tuple[Shard, int, int]], np.ndarray]]  # see RecordOrder.windows


class Mixture:
    """The order of the records of several datasets in fixed proportions, which can be entered at any record number.

    Of every `BLOCK` records, each dataset gives the same number: its share of the weights, rounded. A dataset gives its
    records in its own order, epoch after epoch, so that small ones repeat sooner. Which of a block's records come from
    which dataset is shuffled. There is no end: `records` counts the records of all datasets.

    Args:
        names, weights: of the datasets; the weights add up to 1, and none is below 1 / BLOCK.
        orders: of the datasets.
    """

    BLOCK = pretraining_options.MIXTURE_BLOCK

    def __init__(self, names: Sequence[str], weights: Sequence[float], orders: Sequence[RecordOrder], seed: int):
        self.names, self.orders, self.seed = list(names), list(orders), seed
        self.shares = shares(weights, self.BLOCK)  # records of each dataset in a block
        self.shards = [shard for order in orders for shard in order.shards]
        self.records = sum(order.records for order in orders)
        # How many records come before a dataset repeats.
        self.distinct = min(order.records * self.BLOCK // share for order, share in zip(orders, self.shares))

    def windows(self, start: int) -> Windows:
        """Blocks without end, see `RecordOrder.windows`."""
        block, offset = divmod(start, self.BLOCK)
        readers = [_Reader(order.windows(block * share)) for order, share in zip(self.orders, self.shares)]
        while True:
            source, chosen, parts = self._sources(block), np.empty(self.BLOCK, np.int64), []
            for number, (reader, share) in enumerate(zip(readers, self.shares)):
                before = sum(last - first for _, first, last in parts)
                own_parts, own = reader.take(share)
                parts += own_parts
                chosen[source == number] = own + before
            yield parts, chosen[offset:]
            block, offset = block + 1, 0

    def _sources(self, block: int) -> np.ndarray:
        """The number of the dataset of each record in a block: int [BLOCK]."""
        in_order = np.repeat(np.arange(len(self.shares)), self.shares)
        return in_order[permutation([self.seed, block, 0], self.BLOCK)]

    def given(self, count: int) -> List[int]:
        """How many of the first `count` records come from each dataset."""
        block, rest = divmod(count, self.BLOCK)
        partly = np.bincount(self._sources(block)[:rest], minlength=len(self.shares))
        return [block * share + int(more) for share, more in zip(self.shares, partly)]

    def epochs(self, count: int) -> List[Tuple[str, float]]:
        """The names of the datasets, and how many of their epochs `count` records are."""
        return [(name, count * share / self.BLOCK / order.records)
                for name, share, order in zip(self.names, self.shares, self.orders)]

    def contributions(self, count: int) -> str:
        """What each dataset gives to the first `count` records, in words."""
        return "; ".join(f"{name} {given:,} records ({given / order.records:.2f} of its epochs)"
                         for name, given, order in zip(self.names, self.given(count), self.orders))


class _Reader:
    """Reads on in the windows of an order, a given number of records at a time."""

    def __init__(self, windows: Windows):
        self._windows, self._parts, self._chosen = windows, [], np.zeros(0, np.int64)

    def take(self, count: int):
        """The next records, in the form of a window."""
        parts, pieces, before = [], [], 0
        while count:
            if not len(self._chosen):
                self._parts, self._chosen = next(self._windows)
            pieces.append(self._chosen[:count] + before)
            self._chosen = self._chosen[count:]
            parts += self._parts
            before += sum(last - first for _, first, last in self._parts)
            count -= len(pieces[-1])
        return parts, np.concatenate(pieces)


def shares(weights: Sequence[float], total: int) -> List[int]:
    """Integers in the proportions of the weights that add up to `total`: rounded down, the rest to the largest
    remainders."""
    exact = [fractions.Fraction(weight) for weight in weights]
    exact = [weight * total / sum(exact) for weight in exact]
    found = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: found[i] - exact[i])  # stable: ties as in the list
    for i in by_remainder[:total - sum(found)]:
        found[i] += 1
    return found


# --- Batches ---


class RecordFormat:
    """The features of a dataset's records, read from a shard's first record and checked against the configuration.

    Raises: UserError: another sequence length, a missing feature, packed sequences, or not a tf.train.Example.
    """

    def __init__(self, shard: Shard, max_seq_length: int, vocab_size: int, damaged: Optional[DamagedRecords] = None):
        path = shard.path
        self.path, self.max_seq_length, self.vocab_size = path, max_seq_length, vocab_size
        self.damaged = damaged or DamagedRecords()
        try:
            features = tfrecord.parse_example(read_records(tfrecord.open_shard(*shard), [0], self.damaged)[0])
        except ValueError as error:
            raise UserError(f"{path} has records that are not tf.train.Example: give pre-training shards.") from error
        lengths = {name: len(features[name]) for name in FEATURES if name in features}
        missing = [name for name in FEATURES if name not in lengths]
        packed = [name for name in PACKED if name in features]
        if missing:
            raise UserError(f"{path} has no feature {missing[0]!r}: give pre-training shards.")
        if packed:
            raise UserError(f"{path} contains packed multi-sequence records (feature {packed[0]!r}): use the "
                            "unpacked dataset.")
        for name, length in lengths.items():
            if features[name].dtype != np.int64:
                raise UserError(f"{path} has {name} that are not integers (int64_list): give pre-training shards.")
            if length != max_seq_length:
                raise UserError(f"{path} has {name} of length {length}, not --max_seq_length={max_seq_length}: "
                                f"give --max_seq_length={length}, or records of length {max_seq_length}.")
        masks = [name for name in STATIC_MASKS if name in features]
        if masks and len(masks) < len(STATIC_MASKS):
            raise UserError(f"{path} has {masks[0]} but not all of {', '.join(STATIC_MASKS)}: its masked tokens cannot "
                            "be restored; use records with all three features or none.")
        self.has_static_masks = bool(masks)
        self._slots = self.static_masks = len(features["masked_lm_positions"]) if masks else 0
        wrong = [name for name in (*FEATURES, *masks) if features[name].dtype != (
            np.float32 if name == "masked_lm_weights" else np.int64) or name in masks and len(
                features[name]) != self._slots]
        if wrong:
            raise UserError(f"{path} has a feature {wrong[0]!r} of another type or length than pre-training records "
                            "have: give pre-training shards.")
        self._checked({name: values[np.newaxis] for name, values in features.items() if name in (*FEATURES, *masks)})

    @functools.cached_property
    def _spec(self) -> dict:
        kinds = {**{name: ([self.max_seq_length], tf.int64) for name in FEATURES},
                 **{name: ([self._slots], kind) for name, kind in zip(STATIC_MASKS, (tf.int64, tf.int64, tf.float32))
                    if self.has_static_masks}}
        return {name: tf.io.FixedLenFeature(*kind) for name, kind in kinds.items()}

    def decode(self, records: List[bytes]) -> Dict[str, np.ndarray]:
        """Parses examples to `input_ids`, `input_mask`, `segment_ids`, int32 [B, L], with static masking undone."""
        try:
            parsed = tf.io.parse_example(tf.constant(records), self._spec)
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:  # the latter from TensorFlow's message
            raise UserError(f"{self.path} or another shard has a record with other features than the first record "
                            f"(of length {self.max_seq_length}): remove or rebuild that shard.") from error
        return self._checked({name: values.numpy() for name, values in parsed.items()})

    def _checked(self, features: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        batch = {name: features[name] for name in FEATURES}  # int64: what int32 cannot hold is refused below
        if self.has_static_masks:
            masks = [features[name] for name in STATIC_MASKS]
            positions = masks[0][masks[2] > 0]
            if not np.all((positions >= 0) & (positions < self.max_seq_length)):
                raise UserError(f"{self.path} or another shard has masked_lm_positions beyond the "
                                f"{self.max_seq_length} tokens of a record: remove or rebuild that shard.")
            batch["input_ids"] = restore_static_masks(batch["input_ids"], *masks)
        smallest, largest = batch["input_ids"].min(), batch["input_ids"].max()
        if largest >= self.vocab_size or smallest < 0:
            raise UserError(f"{self.path} or another shard has token id {smallest if smallest < 0 else largest}, "
                            f"outside the vocabulary of {self.vocab_size}: give the --vocab_file that the records were "
                            "built with.")
        if batch["segment_ids"].max() > 1 or batch["segment_ids"].min() < 0:
            raise UserError(f"{self.path} or another shard has segment_ids other than 0 and 1: give pre-training "
                            "shards.")
        if batch["input_mask"].max() > 1:
            raise UserError(f"{self.path} or another shard contains packed multi-sequence records (input_mask above "
                            "1): use the unpacked dataset.")
        if batch["input_mask"].min() < 0:
            raise UserError(f"{self.path} or another shard has an input_mask other than 0 and 1: give pre-training "
                            "shards.")
        return {name: values.astype(np.int32) for name, values in batch.items()}


def restore_static_masks(input_ids, masked_lm_positions, masked_lm_ids, masked_lm_weights) -> np.ndarray:
    """Restores the tokens that BERT's static masking replaced (records of create_pretraining_data.py).

    Only where `masked_lm_weights` is above 0: padding slots have position 0 and id 0, and would overwrite [CLS].

    Args: input_ids int [B, L]; the others int, int and float [B, N]. Returns: int [B, L].
    """
    restored = input_ids.copy()
    rows, slots = np.nonzero(masked_lm_weights > 0)
    restored[rows, masked_lm_positions[rows, slots]] = masked_lm_ids[rows, slots]
    return restored


def micro_batches(order: Union[RecordOrder, Mixture], record_format: RecordFormat, batch_size: int, start: int = 0,
                  rank: int = 0, world_size: int = 1) -> Iterator[Dict[str, np.ndarray]]:
    """Batches of `batch_size` for one worker, without end, starting at global record number `start`.

    The k-th batch of worker r of W is records [(k W + r) B, (k W + r + 1) B) of the global order. A worker reads no
    others, unless a shard is gzip-compressed. Threads read and decode ahead. For the features of a batch see
    `RecordFormat.decode`.
    """
    open_readers = collections.OrderedDict()

    def reader(shard, most):
        if shard.path not in open_readers:
            while len(open_readers) >= most:
                open_readers.popitem(last=False)
            open_readers[shard.path] = tfrecord.open_shard(*shard)
        open_readers.move_to_end(shard.path)
        return open_readers[shard.path]

    def own_parts():
        """Of every window its parts, and which of their records are this worker's, in order."""
        position = 0
        for parts, chosen in order.windows(start):
            batch = np.arange(position, position + len(chosen)) // batch_size
            yield parts, chosen[batch % world_size == rank]
            position += len(chosen)

    def read(window):
        parts, own = window
        in_file_order = np.argsort(own)
        numbers, begin, records = own[in_file_order], 0, [b""] * len(own)
        for shard, first, last in parts:
            end = begin + last - first  # numbers of this part: [begin, end)
            places = in_file_order[slice(*np.searchsorted(numbers, [begin, end]))]
            found = read_records(reader(shard, max(RecordOrder.GROUP, len(parts))), own[places] - begin + first,
                                 record_format.damaged)
            for place, record in zip(places.tolist(), found):
                records[place] = record
            begin = end
        return records

    def own_batches():
        buffer = []
        for records in ahead(read, own_parts(), workers=1, lookahead=1):
            buffer += records
            complete = len(buffer) // batch_size * batch_size
            for first in range(0, complete, batch_size):
                yield buffer[first:first + batch_size]
            buffer = buffer[complete:]

    return ahead(record_format.decode, own_batches(), workers=2, lookahead=4)


def ahead(function: Callable, items: Iterable, workers: int, lookahead: int) -> Iterator:
    """map(function, items) in threads, in order, with up to `lookahead` results computed ahead of the consumer."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > lookahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# --- The data of a run ---


class Data(NamedTuple):
    """A dataset: the order of its records, and how to decode them."""

    order: Union[RecordOrder, Mixture]
    record_format: RecordFormat

    @property
    def mixture(self) -> Optional[Mixture]:
        return self.order if isinstance(self.order, Mixture) else None

    @property
    def fingerprint(self) -> list:
        """The shards' names and sizes, and a mixture's shares, which a saved data position refers to."""
        shards = [[os.path.basename(shard.path), shard.records] for shard in self.order.shards]
        of_mixture = [["mixture", *([share, len(order.shards)] for share, order in zip(
            self.mixture.shares, self.mixture.orders))]] if self.mixture else []
        return shards + of_mixture


def open_tokenizer(config: PretrainingConfig, shards) -> ElectraTokenizer:
    """--vocab_file, else the vocabulary beside the first shard, with the casing of the first manifest if there is one.

    `open_data` compares it with all manifests.
    """
    manifest = next(iter(read_manifests(shards).values()), {})
    casing = {key: manifest[key] for key in ("do_lower_case", "strip_accents") if key in manifest}
    if config.vocab_file:
        tokenizer = ElectraTokenizer.from_folder(os.path.dirname(config.vocab_file), config.vocab_file, **casing)
    else:
        folder = os.path.dirname(shards[0])
        places = [place for place in dataset_folders(folder) if configuration.find_vocabulary(place)]
        if not places:
            raise UserError(f"{folder} has no vocabulary (vocab.txt or tokenizer.json) beside the shards: give the "
                            "vocabulary they were built with as --vocab_file.")
        tokenizer = ElectraTokenizer.from_folder(places[0], **casing)
    return tokenizer


def open_data(paths, config: PretrainingConfig, tokenizer: ElectraTokenizer, remember: bool = True) -> Data:
    """Checks manifests and every shard's first record, and finds or makes the shards' indices (see index_shards)."""
    check_manifests(paths, tokenizer, config.max_seq_length)
    folder = os.path.join(config.model_dir, "record_index")
    shards = index_shards(
        paths, folder, lambda new: tqdm(new, desc="indexing shards", unit="shard", disable=not sys.stderr.isatty()),
        remember)
    filled = [shard for shard in shards if shard.records]
    damaged = DamagedRecords(config.skip_bad_records, os.path.join(folder, "damaged"), paths)
    formats = [RecordFormat(shard, config.max_seq_length, tokenizer.vocab_size, damaged)
               for shard in filled]
    for other in formats:
        if other.static_masks != formats[0].static_masks:
            raise UserError(f"{formats[0].path} and {other.path} differ in BERT's static masks (masked_lm_positions): "
                            "use datasets of one kind.")
    return Data(mixed(paths.mixture, filled, config.seed) if getattr(paths, "mixture", ()) else RecordOrder(
        filled, config.seed), formats[0])


def mixed(parts: Sequence[Part], shards: Sequence[Shard], seed: int) -> Mixture:
    """The mixture of datasets whose shards with records are `shards`. Raises: UserError: a dataset cannot be mixed."""
    orders = []
    for number, part in enumerate(parts):
        of_part = [shard for shard in shards if shard.path in part.paths]
        compressed = next((shard.path for shard in of_part if shard.index_path is None), None)
        if not of_part:
            raise UserError(f"{part.name} contains no records: leave it out of the mixture, or rebuild it.")
        if compressed:
            raise UserError(f"{compressed} is gzip-compressed, and the records of a mixture are not read in order: "
                            "decompress the shards.")
        orders.append(RecordOrder(of_part, seed + number))
    return Mixture([part.name for part in parts], [part.weight for part in parts], orders, seed)


def held_out_batches(config: PretrainingConfig, data: Data) -> Tuple[int, int]:
    """The number of batches in an evaluation and their size: --train_batch_size, or all records if they are fewer.

    A mixture ends before one of its datasets repeats.
    """
    batch_size = min(config.train_batch_size, data.order.distinct)
    return min(config.num_eval_steps, data.order.distinct // batch_size), batch_size
