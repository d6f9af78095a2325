"""pretrain_utils.py: masking against a slow numpy version, shards and their manifest, and the order of records.

Ids, masks, labels, records and orders are exact. Seeds are fixed, so that statistical bounds (5 standard deviations or
as said) either hold always or never.
"""
import fractions
import itertools
import json
import math
import os
import random
import threading
import time

import numpy as np
import pytest
import support
import tensorflow as tf

import pretrain_utils
import tfrecord
from pretrain_utils import RecordFormat, RecordOrder, Shard, find_shards, fold_seeds

PAD, UNK, CLS, SEP, MASK = SPECIAL = (0, 1, 2, 3, 4)
VOCAB_SIZE = 100


def seed_row(*key):
    return tf.constant(fold_seeds(key, 1)[0])


def sentences(lengths, width, seed=0):
    """input_ids and input_mask, int32 [B, width]: [CLS], ordinary ids, [SEP], padding; `lengths` counts real tokens."""
    generator = np.random.RandomState(seed)
    ids = np.zeros([len(lengths), width], np.int32)
    for row, length in zip(ids, lengths):
        row[:length] = generator.randint(5, VOCAB_SIZE, length)
        row[0] = CLS
        row[length - 1] = SEP
    return ids, (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)


# --- Seeds and noise ---


def test_seeds_are_those_that_old_checkpoints_were_trained_with():
    # Computed with numpy 1.26.4, 2026-11-22; numpy guarantees SeedSequence's values (NEP 19). A change breaks resuming.
    assert (pretrain_utils.TRAINING, pretrain_utils.EVALUATION, pretrain_utils.FINE_TUNING) == (0, 1, 2)
    np.testing.assert_array_equal(fold_seeds([42, 0, 1, 7, 0, 3], 3), [
        [-467508021, 286844275], [1827428877, 488412836], [-1605698173, -654453130]])


def test_seeds_depend_on_every_part_of_the_key_and_on_nothing_else():
    key = [42, 0, 1, 1000, 3, 2]  # seed, purpose, phase, step, micro-batch, rank
    seeds = fold_seeds(key, 50)
    assert seeds.shape == (50, 2) and seeds.dtype == np.int32
    np.random.seed(1)
    np.testing.assert_array_equal(fold_seeds(key, 50), seeds)
    np.testing.assert_array_equal(fold_seeds(tuple(key), 7), seeds[:7])
    neighbours = [key]
    for i, j in itertools.product(range(len(key)), repeat=2):
        for change in (1, 2, 2**16):
            neighbour = list(key)
            neighbour[i] += change
            neighbours.append(neighbour)
            swapped = list(key)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            neighbours.append(swapped)
    unique = {tuple(neighbour) for neighbour in neighbours}
    rows = {tuple(row) for neighbour in unique for row in fold_seeds(neighbour, 50).tolist()}
    assert len(rows) == 50 * len(unique)


def test_noise_is_a_function_of_its_seed_in_graph_and_eager():
    in_graph = tf.function(lambda seed: pretrain_utils.uniform([50, 40], seed), autograph=False)
    noise = pretrain_utils.uniform([50, 40], seed_row(1)).numpy()
    for _ in range(2):
        np.testing.assert_array_equal(pretrain_utils.uniform([50, 40], seed_row(1)), noise)
        np.testing.assert_array_equal(in_graph(seed_row(1)), noise)
    np.testing.assert_array_equal(in_graph(seed_row(2)), pretrain_utils.uniform([50, 40], seed_row(2)))
    assert noise.dtype == np.float32 and 0 <= noise.min() and noise.max() < 1
    assert len(np.unique(np.round(noise, 6))) > 1990
    assert abs(noise.mean() - 0.5) < 5 * (1 / 12 / 2000) ** 0.5
    assert abs(np.corrcoef(noise.ravel(), pretrain_utils.uniform([2000], seed_row(2)))[0, 1]) < 5 / 2000 ** 0.5


# --- Masking ---


def slow_mask(ids, mask, position_noise, keep_noise, mask_prob, slots):
    """Position by position; returns the masked ids and, per row, the drawn positions in order."""
    masked, drawn = ids.copy(), []
    for b in range(len(ids)):
        candidates = [i for i in range(ids.shape[1]) if mask[b, i] and ids[b, i] not in SPECIAL]
        wanted = max(1, min(slots, round(mask_prob * int(mask[b].sum()))))
        candidates.sort(key=lambda i: -position_noise[b, i])
        drawn.append(candidates[:wanted])
        for slot, position in enumerate(drawn[b]):
            if keep_noise[b, slot] < 0.85:
                masked[b, position] = MASK
    return masked, drawn


@pytest.mark.parametrize("mask_prob, slots", [(0.15, 6), (0.4, 9), (0.9, 36)])
def test_masking_agrees_with_a_slow_reference_on_the_same_noise(mask_prob, slots):
    ids, mask = sentences([40, 23, 11, 3, 6, 17, 40], 40)  # no share of which is an exact half
    ids[0, 5:20] = UNK
    ids[1, 1:22] = SEP  # no candidate at all
    position_seed, keep_seed = seed_row(3), seed_row(4)
    expected, drawn = slow_mask(ids, mask, pretrain_utils.uniform(ids.shape, position_seed).numpy(),
                                pretrain_utils.uniform([len(ids), slots], keep_seed).numpy(), mask_prob, slots)
    arguments = tf.constant(ids), tf.constant(mask), SPECIAL, MASK, mask_prob, slots, position_seed, keep_seed
    in_graph = tf.function(lambda ids, mask: pretrain_utils.mask_tokens(ids, mask, *arguments[2:]), autograph=False)
    for batch in (pretrain_utils.mask_tokens(*arguments), in_graph(*arguments[:2])):
        np.testing.assert_array_equal(batch.input_ids, expected)
        for b, row in enumerate(drawn):
            weights = batch.weights.numpy()[b]
            np.testing.assert_array_equal(weights, [1.0] * len(row) + [0.0] * (slots - len(row)))
            np.testing.assert_array_equal(batch.positions.numpy()[b, :len(row)], row)
            np.testing.assert_array_equal(batch.original_ids.numpy()[b, :len(row)], ids[b, row])
    assert (expected != ids).any(axis=1).sum() >= 3  # the inputs say something


def test_masked_positions_differ_are_real_and_are_undone():
    lengths = list(range(3, 65)) * 4
    ids, mask = sentences(lengths, 64)
    ids[::3, 2] = UNK
    batch = pretrain_utils.mask_tokens(tf.constant(ids), tf.constant(mask), SPECIAL, MASK, 0.15, 9, seed_row(5),
                                       seed_row(6))
    positions, used = batch.positions.numpy(), batch.weights.numpy() > 0
    for b, length in enumerate(lengths):
        assert len(set(positions[b])) == 9  # unused slots too
        chosen = positions[b][used[b]]
        assert (chosen < length - 1).all() and (chosen > 0).all()
        assert not np.isin(ids[b, chosen], SPECIAL).any()
    changed = batch.input_ids.numpy() != ids
    assert changed.any() and (batch.input_ids.numpy()[changed] == MASK).all()
    unmasked = pretrain_utils.replace_at(batch.input_ids, batch.positions, batch.original_ids, batch.weights)
    np.testing.assert_array_equal(unmasked, ids)


@pytest.mark.parametrize("width, mask_prob, slots", [
    (128, "0.15", 19), (512, "0.15", 79), (128, "0.25", 32), (128, "0.25", 19)])
def test_number_of_masked_tokens_for_every_length(width, mask_prob, slots):
    lengths = list(range(3, width + 1))
    ids, mask = sentences(lengths, width)
    candidates = pretrain_utils.maskable(tf.constant(ids), tf.constant(mask), SPECIAL)
    _, weights = pretrain_utils.draw_positions(candidates, tf.constant(mask), float(mask_prob), slots, seed_row(7))
    for length, count in zip(lengths, weights.numpy().sum(axis=1)):
        share = fractions.Fraction(mask_prob) * length  # of all real tokens, [CLS] and [SEP] among them
        rounded = {math.floor(share), math.ceil(share)} if share % 1 == fractions.Fraction(1, 2) else {round(share)}
        assert count in {max(1, min(slots, number)) for number in rounded}, length
    # float32, as in google-research/electra, decides which way an exact half goes


def test_no_more_tokens_are_masked_than_can_be():
    ids, mask = sentences([20, 20, 20], 20)
    ids[0, 1:18] = UNK  # one candidate, three wanted
    ids[1, 1:19] = UNK  # none
    batch = pretrain_utils.mask_tokens(tf.constant(ids), tf.constant(mask), SPECIAL, MASK, 0.15, 3, seed_row(8),
                                       seed_row(9))
    assert batch.weights.numpy().sum(axis=1).tolist() == [1, 0, 3]
    assert batch.positions.numpy()[0, 0] == 18
    np.testing.assert_array_equal(batch.input_ids.numpy()[1], ids[1])


def test_every_candidate_is_drawn_equally_often():
    rows, candidates, drawn = 6000, 13, 4
    ids, mask = sentences([15] * rows, 16)
    positions, weights = pretrain_utils.draw_positions(
        pretrain_utils.maskable(tf.constant(ids), tf.constant(mask), SPECIAL), tf.constant(mask), 0.25, 4, seed_row(10))
    assert weights.numpy().min() == 1
    counts = np.bincount(positions.numpy().ravel(), minlength=16)
    assert counts[[0, 14, 15]].tolist() == [0, 0, 0]
    expected = rows * drawn / candidates
    # Pearson's statistic for draws without replacement has 12 degrees of freedom: above 45 one time in 100,000.
    variance_of_one = expected * (1 - drawn / candidates)
    statistic = ((counts[1:14] - expected) ** 2).sum() / variance_of_one * (candidates - 1) / candidates
    assert statistic < 45
    # Pairs come equally often too: neighbours are not favoured.
    pairs = sum(1 for row in positions.numpy() if {1, 2} <= set(row))
    share = drawn * (drawn - 1) / (candidates * (candidates - 1))
    assert abs(pairs - rows * share) < 5 * (rows * share * (1 - share)) ** 0.5


def test_85_percent_of_the_masked_tokens_show_the_mask():
    ids, mask = sentences([64] * 2000, 64)
    batch = pretrain_utils.mask_tokens(tf.constant(ids), tf.constant(mask), SPECIAL, MASK, 0.15, 10, seed_row(11),
                                       seed_row(12))
    total = int(batch.weights.numpy().sum())
    shown = int((batch.input_ids.numpy() == MASK).sum())
    assert total == 20000
    assert abs(shown - 0.85 * total) < 5 * (total * 0.85 * 0.15) ** 0.5  # 0.8375 to 0.8625


def test_masks_differ_between_seeds_and_rows():
    ids, mask = sentences([128] * 8, 128)
    draws = [pretrain_utils.mask_tokens(tf.constant(ids), tf.constant(mask), SPECIAL, MASK, 0.15, 19, seed_row(step, 0),
                                        seed_row(step, 1)).positions.numpy() for step in range(4)]
    rows = {tuple(sorted(row)) for positions in draws for row in positions}
    assert len(rows) == 32


# --- Sampling and labels ---


def test_samples_follow_the_softmax_and_never_hit_a_padded_id():
    logits = np.array([1.0, -1.0, 0.0, 2.0, -3.0, -1e9], np.float32)
    rows = 40000
    samples = pretrain_utils.sample_tokens(tf.constant(np.tile(logits, [rows, 1])), seed_row(13)).numpy()
    expected = np.exp(logits.astype(np.float64))
    expected = rows * expected / expected.sum()
    counts = np.bincount(samples, minlength=6)
    assert samples.dtype == np.int32 and counts[5] == 0
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected / rows)) + 1e-9).all(), (counts, expected)


def test_samples_are_finite_at_any_logits_and_noise(monkeypatch):
    logits = tf.constant([[0.0, 1.0, -1e9, -1e9]] * 2)
    monkeypatch.setattr(pretrain_utils, "uniform", lambda shape, seed: tf.constant(
        [[0.0, 0.0, 0.0, 0.99999994], [0.99999994, 0.5, 0.99999994, 0.99999994]]))  # both ends of [0, 1)
    assert pretrain_utils.sample_tokens(logits, None).numpy().tolist() == [1, 0]


def test_no_gradient_passes_through_a_sample():
    logits = tf.Variable([[0.0, 1.0]])
    with tf.GradientTape() as tape:
        sampled = tf.cast(pretrain_utils.sample_tokens(logits, seed_row(1)), tf.float32)
    assert tape.gradient(sampled, logits) is None


def test_label_is_zero_where_the_sample_equals_the_original_and_on_padding():
    original = tf.constant([[2, 10, 11, 12, 3, 0, 0], [2, 10, 11, 3, 0, 0, 0]])
    corrupted = tf.constant([[2, 10, 99, 12, 3, 7, 0], [2, 50, 11, 3, 0, 0, 8]])
    mask = tf.constant([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0]])
    labels = pretrain_utils.replaced_token_labels(original, corrupted, mask)
    assert labels.dtype == tf.int32
    assert labels.numpy().tolist() == [[0, 0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]


def test_values_are_read_and_replaced_at_their_positions():
    generator = np.random.RandomState(0)
    ids = generator.randint(0, 100, [3, 7]).astype(np.int32)
    positions = np.stack([generator.permutation(7)[:4] for _ in range(3)]).astype(np.int32)
    values = generator.randint(100, 200, [3, 4]).astype(np.int32)
    weights = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
    expected, read = ids.copy(), np.zeros([3, 4], np.int32)
    for b, n in itertools.product(range(3), range(4)):
        read[b, n] = ids[b, positions[b, n]]
        if weights[b, n]:
            expected[b, positions[b, n]] = values[b, n]
    np.testing.assert_array_equal(pretrain_utils.values_at(tf.constant(ids), tf.constant(positions)), read)
    np.testing.assert_array_equal(
        pretrain_utils.replace_at(tf.constant(ids), tf.constant(positions), tf.constant(values), weights), expected)


def test_static_masks_are_undone_and_padding_slots_are_not():
    masked = np.array([[CLS, MASK, 11, 55, SEP, 0], [CLS, 20, MASK, SEP, 0, 0]])
    positions = np.array([[1, 3, 0, 0], [2, 0, 0, 0]])
    ids = np.array([[10, 12, 0, 0], [21, 0, 0, 0]])
    weights = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    before = masked.copy()
    restored = pretrain_utils.restore_static_masks(masked, positions, ids, weights)
    assert restored.tolist() == [[CLS, 10, 11, 12, SEP, 0], [CLS, 20, 21, SEP, 0, 0]]
    np.testing.assert_array_equal(masked, before)


# --- Finding and counting shards ---


@pytest.fixture
def write(tmp_path):
    """Writes a shard with TensorFlow's own writer."""
    return lambda name, records, compression="": support.write_records(tmp_path / name, records, compression)


def names(paths, folder):
    return [os.path.relpath(path, folder) for path in paths]


def test_shards_are_found_by_folder_glob_and_list(tmp_path, write):
    for name in ("a/x.tfrecord-1", "a/x.tfrecord-0", "a/y.tfrecord.gz", "a/vocab.txt", "b/z.tfrecord",
                 "b/deeper.tfrecord/w", "c[1]/v.tfrecord"):
        write(name, [b"1"])
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert names(find_shards(a, "data"), a) == ["x.tfrecord-0", "x.tfrecord-1", "y.tfrecord.gz"]
    assert names(find_shards(b, "data"), b) == ["z.tfrecord"]  # a folder of such a name is no shard
    assert names(find_shards(os.path.join(a, "x*"), "data"), a) == ["x.tfrecord-0", "x.tfrecord-1"]
    assert names(find_shards(f"{b}, {a}/y*", "data"), str(tmp_path)) == ["b/z.tfrecord", "a/y.tfrecord.gz"]
    assert names(find_shards(str(tmp_path / "c[1]"), "data"), str(tmp_path)) == ["c[1]/v.tfrecord"]


def test_shards_that_cannot_be_found_are_refused_by_flag_and_name(tmp_path, write, refuses):
    path = write("a/x.tfrecord", [b"1"])
    folder = os.path.dirname(path)
    (tmp_path / "empty").mkdir()
    os.symlink(folder, tmp_path / "link")
    for spec, part in [("", "--data="), (f"{folder},", "empty part"), (str(tmp_path / "none"), "none matches no file"),
                       (str(tmp_path / "empty"), "empty contains no *tfrecord* file"), (folder + "/*.gz", "*.gz"),
                       (f"{folder},{path}", "twice"), (f"{folder},{tmp_path / 'link'}", "twice")]:
        text = refuses(find_shards, spec, "data")
        assert "--data" in text and part in text


def test_manifest_is_found_beside_the_shards_and_one_folder_up(tmp_path, write):
    shard, held_out = write("set/x.tfrecord", [b"1"]), write("set/eval/y.tfrecord", [b"1"])
    assert pretrain_utils.read_manifest([shard]) is None
    manifest = tmp_path / "set" / "manifest.json"
    manifest.write_text('{"format": "another"}')
    assert pretrain_utils.read_manifest([shard]) is None
    manifest.write_text('{"format": "electra-pretraining-tfrecord", "n": 1}')
    assert pretrain_utils.read_manifest([shard])["n"] == pretrain_utils.read_manifest([held_out])["n"] == 1


def test_records_are_counted_where_the_manifest_does_not_know_the_file(write, refuses):
    paths = [write("a.tfrecord", [b"x"] * 3), write("b.tfrecord", [b"x"] * 5), write("c.tfrecord", [b"x"] * 7, "GZIP"),
             write("d.tfrecord", [])]
    size = os.path.getsize(paths[0])
    manifest = {"train": [{"file": "a.tfrecord", "bytes": size, "records": 99}],  # believed: nobody reads the file
                "eval": [{"file": "b.tfrecord", "bytes": 1, "records": 99}]}  # another size: not this file
    counted = []
    shards = pretrain_utils.count_shards(paths, manifest, progress=lambda paths: counted.extend(paths) or paths)
    assert shards == [Shard(paths[0], 99), Shard(paths[1], 5), Shard(paths[2], 7), Shard(paths[3], 0)]
    assert counted == paths[1:]
    assert [shard.records for shard in pretrain_utils.count_shards(paths, None)] == [3, 5, 7, 0]
    assert paths[3] in refuses(pretrain_utils.count_shards, paths[3:], None)


def test_counts_are_remembered_until_a_file_changes(write, tmp_path):
    paths = [write("a.tfrecord", [b"x"] * 3), write("b.tfrecord", [b"x"] * 5)]
    counts_file = str(tmp_path / "run" / "counts.json")

    def counted(paths):
        seen = []
        shards = pretrain_utils.count_shards(paths, None, counts_file, lambda paths: seen.extend(paths) or paths)
        return [shard.records for shard in shards], seen

    assert counted(paths[:1]) == ([3], paths[:1])
    assert counted(paths) == ([3, 5], paths[1:])
    assert counted(paths) == ([3, 5], [])
    write("a.tfrecord", [b"x"] * 4)
    assert counted(paths) == ([4, 5], paths[:1])


# --- Order ---


class SmallOrder(RecordOrder):
    GROUP = 4
    WINDOW = 10


def stream(order):
    """(shard's path, record in it) for ever."""
    for parts, chosen in order.windows(0):
        records = [(shard.path, i) for shard, first, last in parts for i in range(first, last)]
        yield from (records[i] for i in chosen)


def starting_at(order, position, count):
    found = []
    for parts, chosen in order.windows(position):
        assert len(chosen)
        records = [(shard.path, i) for shard, first, last in parts for i in range(first, last)]
        found += [records[i] for i in chosen]
        if len(found) >= count:
            return found[:count]


CORPORA = {
    "one shard": [7],
    "one record": [1],
    "uneven": [1, 50, 3],
    "more shards than a group": [5] * 23,
    "very uneven and empty ones": [1, 0, 0, 200, 2, 1, 0, 90, 3, 0, 0, 0, 0, 0, 1],
    "windows that divide": [20, 20, 20, 20],
}


@pytest.mark.parametrize("kind", [RecordOrder, SmallOrder])
@pytest.mark.parametrize("sizes", CORPORA.values(), ids=CORPORA)
def test_every_epoch_holds_every_record_once_in_an_order_of_its_own(sizes, kind):
    order = kind([Shard(f"s{i}", size) for i, size in enumerate(sizes)], seed=1)
    everything = sorted((f"s{i}", record) for i, size in enumerate(sizes) for record in range(size))
    assert order.records == len(everything)
    reading = stream(order)
    epochs = [list(itertools.islice(reading, len(everything))) for _ in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    if len(everything) > 5:
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        assert list(itertools.islice(stream(kind(order.shards, seed=2)), len(everything))) != epochs[0]
    assert list(itertools.islice(stream(kind(order.shards, seed=1)), len(everything))) == epochs[0]


@pytest.mark.parametrize("kind", [RecordOrder, SmallOrder])
@pytest.mark.parametrize("sizes", CORPORA.values(), ids=CORPORA)
def test_seeking_finds_what_reading_through_would(sizes, kind):
    order = kind([Shard(f"s{i}", size) for i, size in enumerate(sizes)], seed=1)
    through = list(itertools.islice(stream(order), 3 * order.records + 25))
    for position in range(2 * order.records + 2):
        assert starting_at(order, position, 25) == through[position:position + 25], position
    far = 1000 * order.records + order.records // 2
    assert starting_at(order, far, 25)[1:] == starting_at(order, far + 1, 24)


@pytest.mark.parametrize("sizes", [[1000], [333, 333, 333, 1], [7] * 40, [999, 1, 1, 1, 500, 3], [39] * 4, [3] * 4])
def test_windows_hold_enough_records_to_shuffle_and_not_many_more(sizes):
    order = SmallOrder([Shard(f"s{i}", size) for i, size in enumerate(sizes)], seed=1)
    seen = 0
    for parts, chosen in order.windows(0):
        available = sum(shard.records for shard, _, _ in parts)
        assert len(chosen) == sum(last - first for _, first, last in parts) > 0
        assert len(chosen) >= min(order.WINDOW, available)
        assert len(chosen) <= 2 * (order.WINDOW + order.GROUP) + order.GROUP  # what has to be kept in memory
        assert len(parts) <= order.GROUP
        seen += len(chosen)
        if seen >= order.records:
            break


def test_a_window_mixes_the_shards_of_its_group():
    order = SmallOrder([Shard(f"s{i}", 100) for i in range(4)], seed=1)
    parts, chosen = next(order.windows(0))
    assert all(last > first for _, first, last in parts) and len(parts) == 4
    assert sorted(chosen) != list(chosen)


def test_shards_meet_other_shards_in_every_epoch_and_every_window_is_shuffled_anew():
    order = SmallOrder([Shard(f"s{i}", 28) for i in range(40)], seed=1)  # 10 groups of 4, each of 8 windows of 12 or 16
    windows = list(itertools.islice(order.windows(0), 3 * 80))
    groups = [[frozenset(shard.path for shard, _, _ in parts) for parts, _ in windows[start:start + 80:8]]
              for start in (0, 80, 160)]
    assert [len(set(epoch)) for epoch in groups] == [10, 10, 10]
    assert len({group for epoch in groups for group in epoch}) > 25
    assert [len(chosen) for _, chosen in windows[:8]] == [12, 16] * 4
    assert len({tuple(chosen) for _, chosen in windows}) == len(windows)


def test_order_is_the_one_that_old_checkpoints_were_trained_in():
    # Computed with numpy 1.26.4, 2026-11-22. A change breaks resuming.
    order = RecordOrder([Shard("a", 5), Shard("b", 4), Shard("c", 3)], seed=7)
    assert " ".join(f"{path}{i}" for path, i in itertools.islice(stream(order), 24)) == (
        "c1 a1 c2 a2 b1 b3 b0 a3 c0 a0 a4 b2 "
        "c0 b3 c1 b2 a3 b1 a1 a0 b0 a4 a2 c2")


# --- Records and batches ---


def example(ids, mask=None, **more) -> bytes:
    ids = [int(i) for i in ids]
    features = {"input_ids": ids, "input_mask": [1] * len(ids) if mask is None else mask, "segment_ids": [0] * len(ids),
                **more}
    return tf.train.Example(features=tf.train.Features(feature={
        name: tf.train.Feature(float_list=tf.train.FloatList(value=values)) if name == "masked_lm_weights" else
        tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in features.items() if values is not None})).SerializeToString()


def numbered(first, count):
    """Records of length 8 whose second and third ids tell their number, 50 to the digit."""
    return [example([CLS, 10 + n // 50, 10 + n % 50, 7, 7, 7, 7, SEP]) for n in range(first, first + count)]


def numbers(batch):
    return [(int(row[1]) - 10) * 50 + int(row[2]) - 10 for row in batch["input_ids"]]


def test_decoded_records_are_what_was_written(write):
    path = write("x.tfrecord", [example([2, 10, 3, 0], [1, 1, 1, 0], segment_ids=[0, 0, 1, 0]),
                                example([2, 11, 12, 3])])
    record_format = RecordFormat(path, 4, VOCAB_SIZE)
    batch = record_format.decode(tfrecord.open_shard(path).read(0, 2))
    assert set(batch) == {"input_ids", "input_mask", "segment_ids"}
    assert all(value.dtype == np.int32 for value in batch.values())
    assert batch["input_ids"].tolist() == [[2, 10, 3, 0], [2, 11, 12, 3]]
    assert batch["input_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["segment_ids"].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("record, part", [
    (example([2, 10, 3]), "input_ids of length 3, not --max_seq_length=4: give --max_seq_length=3"),
    (example([2, 10, 11, 3], segment_ids=None), "'segment_ids'"),
    (example([2, 10, 11, 3], input_mask=None), "'input_mask'"),
    (example([2, 10, 11, 3], segment_ids=[0]), "segment_ids of length 1"),
    (example([2, 10, 11, 3], next_sentence_positions=[0]), "packed multi-sequence records"),
    (example([2, 10, 11, 3], positions=[0, 1, 0, 1]), "'positions'"),
    (example([2, 10, 11, 3], mask=[1, 1, 2, 2]), "packed multi-sequence records"),
    (example([2, 10, 100, 3]), "token id 100, outside the vocabulary of 100"),
    (example([2, 10, -1, 3]), "vocabulary of 100"),
    (example([2, 10, 11, 3], segment_ids=[0, 0, 2, 0]), "segment_ids other than 0 and 1"),
    (b"\xff\xff no protobuf", "not tf.train.Example"),
    (None, "ends after 0 records"),
    (example([2, 10, 11, 3], masked_lm_positions=[1]), "masked_lm_positions but not all of"),
])
def test_records_of_another_kind_are_refused_by_their_file(record, part, write, refuses):
    path = write("x.tfrecord", [] if record is None else [record])
    text = refuses(RecordFormat, path, 4, VOCAB_SIZE)
    assert path in text and part in text


def test_compressed_shard_without_records_is_refused_by_name(write, refuses):
    path = write("x.tfrecord.gz", [], "GZIP")
    text = refuses(RecordFormat, path, 4, VOCAB_SIZE)
    assert path in text and "ends after 0 records" in text


def test_record_unlike_the_first_is_refused_where_it_comes(write, refuses):
    path = write("x.tfrecord", [example([2, 10, 11, 3])])
    record_format = RecordFormat(path, 4, VOCAB_SIZE)
    for record, part in [(example([2, 10, 3]), "other features"), (example([2, 10, 200, 3]), "token id 200"),
                         (b"\xff\xff no protobuf", "other features")]:
        text = refuses(record_format.decode, [example([2, 10, 11, 3]), record])
        assert path in text and part in text


def test_static_masks_are_undone_on_the_way_from_file_to_batch(write):
    masks = dict(masked_lm_positions=[1, 3, 0], masked_lm_ids=[10, 12, 0], masked_lm_weights=[1.0, 1.0, 0.0],
                 next_sentence_labels=[1])
    path = write("x.tfrecord", [example([CLS, MASK, 11, 55, SEP, 0], [1, 1, 1, 1, 1, 0], **masks)] * 4)
    record_format = RecordFormat(path, 6, VOCAB_SIZE)
    batch = next(pretrain_utils.micro_batches(RecordOrder([Shard(path, 4)], 1), record_format, 2))
    assert batch["input_ids"].tolist() == [[CLS, 10, 11, 12, SEP, 0]] * 2


@pytest.fixture
def corpus(write, monkeypatch):
    """87 numbered records in two plain and a compressed shard, in windows of 10, and how to read batches of it."""
    monkeypatch.setattr(RecordOrder, "WINDOW", 10)
    monkeypatch.setattr(RecordOrder, "GROUP", 2)
    shards = [Shard(write("a.tfrecord", numbered(0, 30)), 30), Shard(write("b.tfrecord", numbered(30, 50), "GZIP"), 50),
              Shard(write("c.tfrecord", numbered(80, 7)), 7)]
    record_format = RecordFormat(shards[0].path, 8, VOCAB_SIZE)

    def read(count, batch_size=3, **where):
        batches = pretrain_utils.micro_batches(RecordOrder(shards, 5), record_format, batch_size, **where)
        found = [numbers(next(batches)) for _ in range(count)]
        batches.close()
        return found

    read.through = [int(n) for n in sum(read(200, 1), [])]
    return read


def test_batches_are_the_order_cut_in_pieces(corpus):
    assert sorted(corpus.through[:87]) == sorted(corpus.through[87:174]) == list(range(87))
    assert corpus.through[:87] != corpus.through[87:174]
    assert sum(corpus(60), []) == corpus.through[:180]  # across the end of an epoch, whose 87 records 3 divides
    assert sum(corpus(25, 7), []) == corpus.through[:175]  # and 7 does not


def test_batches_start_anywhere(corpus):
    for start in (1, 5, 29, 86, 87, 88, 100, 173):
        assert sum(corpus(5, start=start), []) == corpus.through[start:start + 15]


@pytest.mark.parametrize("world_size", [1, 2, 5, 20])  # 20 workers of 3 take most of an epoch at once
def test_workers_share_one_order_whatever_their_number(world_size, corpus):
    start, rounds = 4, 180 // (3 * world_size)
    by_rank = [corpus(rounds, start=start, rank=rank, world_size=world_size) for rank in range(world_size)]
    union = [number for k in range(rounds) for rank in range(world_size) for number in by_rank[rank][k]]
    assert union == corpus.through[start:start + 180]


def test_damaged_shard_ends_the_batches_with_its_name(write, refuses):
    path = write("x.tfrecord", numbered(0, 40))
    content = bytearray(open(path, "rb").read())
    content[-10] ^= 1  # in the last record
    open(path, "wb").write(content)
    batches = pretrain_utils.micro_batches(RecordOrder([Shard(path, 40)], 5), RecordFormat(path, 8, VOCAB_SIZE), 4)
    assert path in refuses(lambda: [next(batches) for _ in range(20)])


# --- Reading ahead ---


def test_results_come_in_order_whichever_thread_is_first():
    def slow(i):
        time.sleep(random.Random(i).random() / 200)
        return i * i

    for workers, lookahead in [(1, 1), (4, 8), (3, 0)]:
        assert list(pretrain_utils.ahead(slow, range(30), workers, lookahead)) == [i * i for i in range(30)]
    assert list(pretrain_utils.ahead(slow, [], 2, 2)) == []


def test_work_ahead_is_bounded():
    taken = []

    def items():
        for i in itertools.count():
            taken.append(i)
            yield i

    results = pretrain_utils.ahead(lambda i: i, items(), workers=2, lookahead=3)
    assert taken == []  # nothing before the first is asked for
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(taken) == 5 + 3
    results.close()


def test_an_exception_comes_where_its_result_would_have():
    results = pretrain_utils.ahead(lambda i: 10 // (3 - i), range(10), workers=2, lookahead=5)
    assert [next(results) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_closing_the_batches_ends_their_threads(write):
    path = write("x.tfrecord", numbered(0, 40))
    before = set(threading.enumerate())
    batches = pretrain_utils.micro_batches(RecordOrder([Shard(path, 40)], 5), RecordFormat(path, 8, VOCAB_SIZE), 4)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not set(threading.enumerate()) - before


def test_manifest_is_json_of_this_project_or_refused(tmp_path, write, refuses):
    shard = write("set/x.tfrecord", [b"1"])
    (tmp_path / "set" / "manifest.json").write_text(json.dumps([1]))
    assert "manifest.json" in refuses(pretrain_utils.read_manifest, [shard])
