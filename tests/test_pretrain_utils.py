"""pretrain_utils.py: masking against a slow numpy version, shards and their manifest, and the order of records.

Ids, masks, labels, records and orders are exact. Seeds are fixed, so that statistical bounds (5 standard deviations or
as said) either hold always or never.
"""
import collections
import fractions
import gzip
import itertools
import json
import math
import os
import pathlib
import random
import subprocess
import threading
import time

import numpy as np
import pytest
import support
import tensorflow as tf

import files
import pretrain_utils
import tfrecord
from pretrain_utils import DamagedRecords, RecordFormat, RecordOrder, Shard, find_shards, fold_seeds
from pretraining_options import PretrainingConfig
from tokenization import ElectraTokenizer

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


def test_an_index_is_not_a_shard(tmp_path, write):
    path = write("a/x.tfrecord", [b"1"])
    tfrecord.write_index(path, path + ".idx")
    assert find_shards(str(tmp_path / "a"), "data") == find_shards(str(tmp_path / "a" / "x*"), "data") == [path]


@pytest.mark.parametrize("folder", ["c[1]", "[1]", "st*r", "wh?t", "back\\slash", "[!a]*"])
def test_paths_with_the_signs_of_a_glob_are_found_as_they_stand(folder, tmp_path, write):
    for name in (f"{folder}/x[0].tfrecord", f"{folder}/y.tfrecord", "decoy1/z.tfrecord", "star/z.tfrecord", "what/z"):
        write(name, [b"1"])
    here = str(tmp_path / folder)
    assert names(find_shards(here, "data"), here) == ["x[0].tfrecord", "y.tfrecord"]
    assert names(find_shards(f"{here}/x[0].tfrecord", "data"), here) == ["x[0].tfrecord"]
    assert names(find_shards(f"{here}/*.tfrecord", "data"), here) == ["x[0].tfrecord", "y.tfrecord"]
    assert names(find_shards(f"{here}/y*,{here}/[x][[]0].tfrecord", "data"), here) == ["y.tfrecord", "x[0].tfrecord"]


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


def test_manifests_are_found_beside_the_shards_and_one_folder_up(tmp_path, write):
    shards = [write("set/x.tfrecord", [b"1"]), write("set/eval/y.tfrecord", [b"1"]), write("bare/z.tfrecord", [b"1"])]
    folders = [os.path.dirname(shard) for shard in shards]
    assert pretrain_utils.read_manifests(shards) == {}
    manifest = tmp_path / "set" / "manifest.json"
    manifest.write_text('{"format": "another"}')
    assert pretrain_utils.read_manifests(shards) == {}
    manifest.write_text('{"format": "electra-pretraining-tfrecord", "n": 1}')
    found = pretrain_utils.read_manifests(shards)
    assert list(found) == folders[:2] and all(entry["n"] == 1 for entry in found.values())


def test_manifests_of_all_folders_are_compared_with_the_tokenizer_and_the_length(tmp_path, write, vocab_file, refuses):
    tokenizer = ElectraTokenizer(vocab_file)
    cased = ElectraTokenizer(vocab_file, do_lower_case=False)
    shards = [write(f"{name}/x.tfrecord", [b"1"]) for name in ("first", "bare", "last/eval")]

    def describe(name, tokenizer=tokenizer, length=8):
        (tmp_path / name / "manifest.json").write_text(json.dumps({
            "format": "electra-pretraining-tfrecord", "tokenizer_fingerprint": tokenizer.fingerprint,
            "max_seq_length": length}))

    describe("first")
    describe("last")
    pretrain_utils.check_manifests(shards, tokenizer, 8)
    for changed in ("first", "last"):
        describe(changed, cased)
        text = refuses(pretrain_utils.check_manifests, shards, tokenizer, 8)
        assert str(tmp_path / changed) in text and "--vocab_file" in text and "casing" in text
        describe(changed, length=9)
        text = refuses(pretrain_utils.check_manifests, shards, tokenizer, 8)
        assert str(tmp_path / changed) in text and "length 9" in text and "--max_seq_length=8" in text
        describe(changed)


# --- Indices ---


@pytest.fixture
def indexed(tmp_path):
    """Returns the shards of some paths, and the paths that were not known before. Indices are kept in `index`."""
    def run(paths):
        new = []
        shards = pretrain_utils.index_shards(paths, str(tmp_path / "index"), lambda paths: new.extend(paths) or paths)
        return shards, new

    return run


def test_a_shard_without_an_index_gets_one_in_the_folder_of_the_run(tmp_path, write, indexed, refuses):
    paths = [write("a/b.tfrecord", [b"x"] * 5), write("c/b.tfrecord", []), write("d.tfrecord", [b"x"] * 7, "GZIP")]
    shards, new = indexed(paths)
    assert new == paths and [shard.path for shard in shards] == paths
    assert [shard.records for shard in shards] == [5, 0, 7]
    assert shards[2].index_path is None and shards[0].index_path != shards[1].index_path
    assert sorted(os.listdir(tmp_path / "index")) == sorted(
        ["shards.json", *(os.path.basename(shard.index_path) for shard in shards[:2])])
    assert sorted(os.listdir(tmp_path)) == ["a", "c", "d.tfrecord", "index"]
    assert tfrecord.open_shard(*shards[0]).read([4]) == [b"x"]
    assert indexed(paths) == (shards, [])
    assert paths[1] in refuses(pretrain_utils.index_shards, paths[1:2], str(tmp_path / "index"))


def test_an_index_beside_its_shard_is_used_and_no_header_is_read(write, indexed, monkeypatch):
    path = write("a.tfrecord", [b"x"] * 3)
    tfrecord.write_index(path, path + ".idx")
    monkeypatch.setattr(tfrecord, "record_offsets", None)
    assert indexed([path]) == ([Shard(path, 3, path + ".idx")], [path])
    monkeypatch.setattr(tfrecord, "check_index", None)  # a resumed run does not even read the index
    assert indexed([path]) == ([Shard(path, 3, path + ".idx")], [])


@pytest.mark.parametrize("damage", ["damaged", "stale", "of another format", "gone"])
def test_an_index_that_is_of_no_use_is_replaced(damage, tmp_path, write, indexed, caplog):
    path = write("a.tfrecord", [b"x" * length for length in range(9)])
    beside = tmp_path / "a.tfrecord.idx"
    tfrecord.write_index(path, str(beside))
    assert indexed([path])[0][0].index_path == str(beside)
    if damage == "damaged":
        beside.write_bytes(beside.read_bytes()[:-1] + b"x")
    elif damage == "stale":
        write("a.tfrecord", [b"x" * length for length in range(8, -1, -1)])
    elif damage == "of another format":
        beside.write_text("0 19\n19 19\n")
    else:
        beside.unlink()
    [shard], new = indexed([path])
    assert new == [path] and shard.records == 9 and os.path.dirname(shard.index_path) == str(tmp_path / "index")
    lengths = range(8, -1, -1) if damage == "stale" else range(9)
    assert tfrecord.open_shard(*shard).read(range(9)) == [b"x" * length for length in lengths]
    assert (str(beside) in caplog.text) == (damage != "gone")
    changed = pathlib.Path(shard.index_path)
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")  # so is one in the run's folder
    assert indexed([path]) == ([shard], [path])
    assert tfrecord.open_shard(*shard).read([0]) == [b"x" * lengths[0]]


def test_a_changed_shard_is_indexed_again(write, indexed):
    paths = [write("a.tfrecord", [b"x"] * 3), write("b.tfrecord", [b"x"] * 5), write("c.tfrecord", [b"x"] * 2, "GZIP")]
    assert [shard.records for shard in indexed(paths)[0]] == [3, 5, 2]
    write("a.tfrecord", [b"x"] * 4)
    write("c.tfrecord", [b"x"] * 6, "GZIP")
    shards, new = indexed(paths)
    assert [shard.records for shard in shards] == [4, 5, 6] and new == [paths[0], paths[2]]


def test_a_compressed_shard_that_its_manifest_lists_is_not_counted(write, tmp_path, indexed):
    paths = [write("a/x.tfrecord", [b"x"] * 3, "GZIP"), write("b/x.tfrecord", [b"x"] * 3, "GZIP")]
    for name, size in (("a", os.path.getsize(paths[0])), ("b", 1)):  # one more byte: another file
        (tmp_path / name / "manifest.json").write_text(json.dumps({
            "format": "electra-pretraining-tfrecord", "train": [{"file": "x.tfrecord", "bytes": size, "records": 99}]}))
    assert [shard.records for shard in indexed(paths)[0]] == [99, 3]


def test_damaged_results_are_made_again(write, tmp_path, indexed, caplog):
    paths = [write("a.tfrecord", [b"x"] * 3), write("b.tfrecord.gz", [b"x"] * 4, "GZIP")]
    shards, _ = indexed(paths)
    results = tmp_path / "index" / "shards.json"
    good = json.loads(results.read_text())
    for content in ("", "[" * 200_000, "[]", "{", '{"a": NaN}', "\0"):
        results.write_text(content)
        assert indexed(paths) == (shards, paths)
        assert str(results) in caplog.text and json.loads(results.read_text()) == good
    for change in (None, 3, "x", {}, {"records": 5}, {"records": "3"}, {"records": 4}, {"records": -1}, {"index": 7},
                   {"index": "no file 1 2"}, {"index": "a\0b 1 2"}):
        key = next(key for key in good if "a.tfrecord" in key)
        changed = {**good[key], **change} if isinstance(change, dict) and change else change
        results.write_text(json.dumps({**good, key: changed}))
        if change == {"records": 5}:
            assert indexed(paths) == (shards, paths[:1])
        assert indexed(paths)[0] == shards


def test_a_folder_that_cannot_be_written_is_refused_only_where_an_index_is_missing(write, tmp_path, refuses):
    path, folder = write("a.tfrecord", [b"x"] * 3), str(tmp_path / "a.tfrecord" / "index")
    assert folder in refuses(pretrain_utils.index_shards, [path], folder)
    tfrecord.write_index(path, path + ".idx")
    assert pretrain_utils.index_shards([path], folder) == [Shard(path, 3, path + ".idx")]


def test_temporary_files_of_killed_starts_are_removed(write, tmp_path, indexed):
    folder = tmp_path / "index"
    folder.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in ("shards.json", "0123456789abcdef.idx"):
        (folder / f"{name}.tmp-{files.HOST}-{dead.pid}-1").write_text("half")
        (folder / f"{name}.tmp-{files.HOST}-{os.getppid()}-1").write_text("of a process that runs")
    indexed([write("a.tfrecord", [b"x"])])
    left = [name.split("-")[-2] for name in os.listdir(folder) if ".tmp-" in name]
    assert left == [str(os.getppid())] * 2


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


# --- Mixtures ---


def test_weights_make_a_mixture_of_the_parts_of_a_list(tmp_path, write, monkeypatch):
    for name in ("wiki/x.tfrecord", "wiki/y.tfrecord", "books/z.tfrecord", "odd:0.5/v.tfrecord", "4:2/w.tfrecord"):
        write(name, [b"1"])
    monkeypatch.chdir(tmp_path)
    found = find_shards("wiki:7, books/*.tfrecord:2.5 ,odd:0.5:0.5", "data")
    assert found == ["wiki/x.tfrecord", "wiki/y.tfrecord", "books/z.tfrecord", "odd:0.5/v.tfrecord"]
    assert [part.name for part in found.mixture] == ["wiki", "books/*.tfrecord", "odd:0.5"]
    assert [part.weight for part in found.mixture] == [0.7, 0.25, 0.05]
    assert [part.paths for part in found.mixture] == [found[:2], found[2:3], found[3:]]
    for plain in ("wiki,books", "odd:0.5", "4:2,odd:0.5"):  # folders whose names end like weights
        assert not find_shards(plain, "data").mixture


@pytest.mark.parametrize("spec, part", [
    ("wiki:0,books:1", "wiki has weight 0"), ("wiki:-1,books:1", "wiki has weight -1"),
    ("wiki:nan,books:1", "wiki has weight nan"), ("wiki:1,books:inf", "books has weight inf"),
    ("wiki:1e308,books:1e308", "wiki has weight 1e308"), ("wiki:0,books:0", "weight 0"),
    ("wiki:1,books", "books has no weight"), ("wiki,books:0.3", "wiki has no weight"),
    ("wiki:1,books:0.00009", "the weight of books is 9e-05"), ("wiki:1,", "empty part"), (":0.5,wiki:1", "empty part"),
    ("wiki:1,none:2", "none matches no file"), ("wiki:much", "wiki:much matches no file"),
    ("wiki:1,wiki:2", "twice")])
def test_weights_that_cannot_be_used_are_refused_by_flag_and_name(spec, part, tmp_path, write, monkeypatch, refuses):
    write("wiki/x.tfrecord", [b"1"])
    write("books/x.tfrecord", [b"1"])
    monkeypatch.chdir(tmp_path)
    text = refuses(find_shards, spec, "data")
    assert "--data" in text and part in text


@pytest.mark.parametrize("weights, expected", [
    ([0.7, 0.3], [7000, 3000]), ([1 / 3] * 3, [3334, 3333, 3333]), ([1.0], [10000]),
    ([0.9999, 0.0001], [9999, 1]), ([0.12345, 0.87655], [1234, 8766])])
def test_shares_are_the_weights_rounded_and_complete(weights, expected):
    assert pretrain_utils.shares(weights, 10_000) == expected


class SmallMixture(pretrain_utils.Mixture):
    BLOCK = 20


def mixture(kind=SmallMixture, order=SmallOrder, seed=1):
    """A dataset of 37 records and one of 5 that has 3 of 10 records."""
    orders = [order([Shard(f"a{i}", size) for i, size in enumerate((30, 7))], seed),
              order([Shard("b0", 5)], seed + 1)]
    return kind(["a", "b"], [0.7, 0.3], orders, seed)


def test_a_mixture_gives_each_dataset_its_share_in_its_own_order_and_epochs():
    mixed = mixture()
    found = list(itertools.islice(stream(mixed), 400))
    for number, name in enumerate("ab"):
        own = [record for record in found if record[0].startswith(name)]
        assert own == list(itertools.islice(stream(mixed.orders[number]), len(own))) and len(own) == (280, 120)[number]
        for first in range(0, 400, 20):
            assert sum(path.startswith(name) for path, _ in found[first:first + 20]) == (14, 6)[number]
    assert len({tuple(path[0] for path, _ in found[first:first + 20]) for first in range(0, 400, 20)}) > 10
    assert mixed.records == 42 and mixed.distinct == 16  # after 5 of `b`
    for count in (0, 1, 19, 20, 57, 400):
        assert mixed.given(count) == [sum(path.startswith(name) for path, _ in found[:count]) for name in "ab"]
    assert mixed.epochs(400) == [("a", 400 * 0.7 / 37), ("b", 24.0)]
    assert "b 120 records (24.00 of its epochs)" in mixed.contributions(400)
    assert list(itertools.islice(stream(mixture(seed=2)), 400)) != found


def test_a_mixture_of_one_dataset_is_that_dataset():
    order = SmallOrder([Shard("a", 30), Shard("b", 7)], 1)
    alone = SmallMixture(["a"], [1.0], [order], 1)
    for start in (0, 33, 90):
        assert starting_at(alone, start, 50) == starting_at(order, start, 50)


def test_seeking_in_a_mixture_finds_what_reading_through_would():
    mixed = mixture()
    through = list(itertools.islice(stream(mixed), 200))
    for position in range(150):
        assert starting_at(mixed, position, 25) == through[position:position + 25], position
    far = 1000 * 20 * 37 + 11
    assert starting_at(mixed, far, 25)[1:] == starting_at(mixed, far + 1, 24)


def test_a_far_record_of_a_large_mixture_is_found_at_once():
    orders = [RecordOrder([Shard(f"{name}{i}", 1_500_000) for i in range(64)], seed) for seed, name in enumerate("ab")]
    mixed = pretrain_utils.Mixture(["a", "b"], [0.7, 0.3], orders, 1)
    start = time.perf_counter()
    parts, chosen = next(mixed.windows(1_234_567_890))
    assert len(parts) and len(chosen) == 10_000 - 7_890 and time.perf_counter() - start < 0.5  # 0.02 s


def test_the_order_of_a_mixture_is_the_one_that_old_checkpoints_were_trained_in():
    # Computed with numpy 1.26.4, 2026-11-24. A change breaks resuming.
    mixed = SmallMixture(["a", "b"], [0.7, 0.3], [RecordOrder([Shard("a", 5)], 7), RecordOrder([Shard("b", 3)], 8)], 7)
    assert " ".join(f"{path}{i}" for path, i in itertools.islice(stream(mixed), 24)) == (
        "a4 a1 b2 b0 a2 a0 b1 a3 b0 a2 b2 a4 a1 a0 a3 b1 a4 a1 a2 a0 b1 a3 a3 a0")


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


def shard(path):
    """With its index, at `<path>.idx`."""
    if tfrecord.is_gzip(path):
        return Shard(path, tfrecord.open_shard(path).records)
    return Shard(path, tfrecord.write_index(path, path + ".idx"), path + ".idx")


def test_decoded_records_are_what_was_written(write):
    path = write("x.tfrecord", [example([2, 10, 3, 0], [1, 1, 1, 0], segment_ids=[0, 0, 1, 0]),
                                example([2, 11, 12, 3])])
    record_format = RecordFormat(shard(path), 4, VOCAB_SIZE)
    batch = record_format.decode(tfrecord.open_shard(*shard(path)).read([0, 1]))
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
    (example([2, 10, 2**32 + 5, 3]), "token id 4294967301"),  # 5, in 32 bits
    (example([2, 10, -1, 3]), "token id -1"),
    (example([2, 10, 11, 3], mask=[1, 1, 1, -1]), "input_mask other than 0 and 1"),
    (example([2, 10, 11, 3], mask=[1, 1, 1, 2**32]), "input_mask above 1"),
    (example([2, 10, 11, 3], masked_lm_positions=[4], masked_lm_ids=[10], masked_lm_weights=[1.0]),
     "masked_lm_positions beyond the 4 tokens"),
    (example([2, 10, 11, 3], masked_lm_positions=[-1], masked_lm_ids=[10], masked_lm_weights=[1.0]),
     "masked_lm_positions beyond the 4 tokens"),
    (example([2, 10, 11, 3], masked_lm_positions=[1], masked_lm_ids=[-10], masked_lm_weights=[1.0]), "token id -10"),
    (tf.train.Example().SerializeToString(), "'input_ids'"),
    (tf.train.Example(features=tf.train.Features(feature={
        name: tf.train.Feature(float_list=tf.train.FloatList(value=[1, 1, 1, 1]))
        for name in pretrain_utils.FEATURES})).SerializeToString(), "int64_list"),
    (tf.train.Example(features=tf.train.Features(feature={
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"1"] * 4))
        for name in pretrain_utils.FEATURES})).SerializeToString(), "int64_list"),
])
def test_records_of_another_kind_are_refused_by_their_file(record, part, write, refuses):
    path = write("x.tfrecord", [] if record is None else [record])
    text = refuses(RecordFormat, shard(path), 4, VOCAB_SIZE)
    assert path in text and part in text


def test_compressed_shard_without_records_is_refused_by_name(write, refuses):
    path = write("x.tfrecord.gz", [], "GZIP")
    text = refuses(RecordFormat, shard(path), 4, VOCAB_SIZE)
    assert path in text and "ends after 0 records" in text


def test_record_unlike_the_first_is_refused_where_it_comes(write, refuses):
    path = write("x.tfrecord", [example([2, 10, 11, 3])])
    record_format = RecordFormat(shard(path), 4, VOCAB_SIZE)
    for record, part in [(example([2, 10, 3]), "other features"), (example([2, 10, 200, 3]), "token id 200"),
                         (b"\xff\xff no protobuf", "other features")]:
        text = refuses(record_format.decode, [example([2, 10, 11, 3]), record])
        assert path in text and part in text


def test_static_masks_are_undone_on_the_way_from_file_to_batch(write):
    masks = dict(masked_lm_positions=[1, 3, 0], masked_lm_ids=[10, 12, 0], masked_lm_weights=[1.0, 1.0, 0.0],
                 next_sentence_labels=[1])
    path = write("x.tfrecord", [example([CLS, MASK, 11, 55, SEP, 0], [1, 1, 1, 1, 1, 0], **masks)] * 4)
    record_format = RecordFormat(shard(path), 6, VOCAB_SIZE)
    batch = next(pretrain_utils.micro_batches(RecordOrder([shard(path)], 1), record_format, 2))
    assert batch["input_ids"].tolist() == [[CLS, 10, 11, 12, SEP, 0]] * 2


@pytest.fixture
def corpus(write, monkeypatch):
    """87 numbered records in two plain and a compressed shard, in windows of 10, and how to read batches of it."""
    monkeypatch.setattr(RecordOrder, "WINDOW", 10)
    monkeypatch.setattr(RecordOrder, "GROUP", 2)
    shards = [shard(write("a.tfrecord", numbered(0, 30))), shard(write("b.tfrecord", numbered(30, 50), "GZIP")),
              shard(write("c.tfrecord", numbered(80, 7)))]
    record_format = RecordFormat(shards[0], 8, VOCAB_SIZE)

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


@pytest.mark.parametrize("world_size", [1, 4])
def test_workers_read_only_their_own_records(world_size, write, monkeypatch):
    shards = [shard(write("a.tfrecord", numbered(0, 24))), shard(write("b.tfrecord", numbered(24, 24)))]
    record_format = RecordFormat(shards[0], 8, VOCAB_SIZE)
    read, counts = tfrecord.PlainReader.read, collections.Counter()
    monkeypatch.setattr(tfrecord.PlainReader, "read", lambda self, numbers: counts.update(
        int(number) + 24 * self.path.endswith("b.tfrecord") for number in numbers) or read(self, numbers))
    # Without reading ahead.
    monkeypatch.setattr(pretrain_utils, "ahead", lambda function, items, workers, lookahead: map(function, items))
    for rank in range(world_size):
        before = counts.copy()
        batches = pretrain_utils.micro_batches(RecordOrder(shards, 5), record_format, 3, 0, rank, world_size)
        used = [number for _ in range(16 // world_size) for number in numbers(next(batches))]
        assert counts - before == collections.Counter(used)
    assert counts == collections.Counter(range(48))


@pytest.fixture
def mixed_batches(write, monkeypatch):
    """A mixture of 30 and 7 numbered records, and how to read batches of it."""
    monkeypatch.setattr(RecordOrder, "WINDOW", 10)
    monkeypatch.setattr(RecordOrder, "GROUP", 1)
    monkeypatch.setattr(pretrain_utils.Mixture, "BLOCK", 20)
    orders = [RecordOrder([shard(write(f"{name}{i}.tfrecord", numbered(first + i * count, count)))
                           for i in range(2)], 5) for name, first, count in (("a", 0, 15), ("b", 30, 4))]
    mixed = pretrain_utils.Mixture(["a", "b"], [0.7, 0.3], orders, 5)
    record_format = RecordFormat(mixed.shards[0], 8, VOCAB_SIZE)

    def read(count, batch_size=3, **where):
        batches = pretrain_utils.micro_batches(mixed, record_format, batch_size, **where)
        found = [numbers(next(batches)) for _ in range(count)]
        batches.close()
        return found

    read.through = [mixed_record for mixed_record in sum(read(200, 1), [])]
    return read


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_workers_share_one_order_of_a_mixture(world_size, mixed_batches):
    assert sum(number >= 30 for number in mixed_batches.through) == 60
    assert all(set(mixed_batches.through[first:first + 120]) == set(range(38)) for first in (0, 80))
    start, rounds = 4, 180 // (3 * world_size)
    by_rank = [mixed_batches(rounds, start=start, rank=rank, world_size=world_size) for rank in range(world_size)]
    union = [number for k in range(rounds) for rank in range(world_size) for number in by_rank[rank][k]]
    assert union == mixed_batches.through[start:start + 180]


def test_datasets_that_do_not_go_together_are_refused_by_name(write, tmp_path, vocab_file, monkeypatch, refuses):
    monkeypatch.chdir(tmp_path)
    tokenizer, cased = ElectraTokenizer(vocab_file), ElectraTokenizer(vocab_file, do_lower_case=False)
    config = PretrainingConfig(pretrain_tfrecords="a", max_seq_length=8, num_train_steps=9, num_warmup_steps=1)

    def dataset(name, length=8, tokenizer=tokenizer, records=3, compression="", **more):
        ids = [2, *[7] * (length - 2), 3]
        write(f"{name}/x.tfrecord", [example(ids, **more)] * records, compression)
        (tmp_path / name / "manifest.json").write_text(json.dumps({
            "format": tfrecord.DATASET_FORMAT, "max_seq_length": length,
            "tokenizer_fingerprint": tokenizer.fingerprint}))

    def opened(spec):
        return pretrain_utils.open_data(find_shards(spec, "pretrain_tfrecords"), config, tokenizer)

    masks = dict(masked_lm_positions=[1], masked_lm_ids=[9], masked_lm_weights=[1.0])
    dataset("a")
    dataset("b", records=5)
    dataset("long", length=9)
    dataset("cased", tokenizer=cased)
    dataset("empty", records=0)
    dataset("packed", compression="GZIP")
    dataset("masked", **masks)
    for name, words in (("long", "length 9"), ("cased", "casing"), ("empty", "no records"), ("packed", "gzip"),
                        ("masked", "static masks")):
        text = refuses(opened, f"a:0.5,{name}:0.5")
        assert name in text and words in text
    mixed, plain = opened("a:0.5,b:0.5"), opened("a,b")
    assert mixed.mixture.shares == [5000, 5000] and mixed.order.records == plain.order.records == 8
    assert plain.mixture is None and plain.fingerprint == [["x.tfrecord", 3], ["x.tfrecord", 5]]
    assert mixed.fingerprint == [*plain.fingerprint, ["mixture", [5000, 1], [5000, 1]]]
    assert json.loads(json.dumps(mixed.fingerprint)) == mixed.fingerprint != opened("a:0.4,b:0.6").fingerprint
    assert pretrain_utils.held_out_batches(config, mixed) == (1, 6)  # then `a` would repeat


# --- Damaged records ---


def damage(path, *records):
    """Changes a byte in each of these records, given by number."""
    content = bytearray(pathlib.Path(path).read_bytes())
    tfrecord.write_index(path, path + ".idx")
    offsets = np.concatenate(list(tfrecord.record_offsets(path))).tolist()
    for number in records:
        content[offsets[number] + 30] ^= 1
    pathlib.Path(path).write_bytes(content)
    return [offsets[number] for number in records]


def read_epoch(shards, damaged, rank=0, world_size=1, start=0):
    """The numbers of the records of an epoch, or of one worker's share of it."""
    record_format = RecordFormat(shards[0], 8, VOCAB_SIZE, damaged)
    batches = pretrain_utils.micro_batches(RecordOrder(shards, 5), record_format, 2, start, rank, world_size)
    found = [numbers(next(batches)) for _ in range((40 - start) // 2 // world_size)]
    batches.close()
    return found


def test_damaged_record_ends_the_batches_with_shard_byte_and_option(write, refuses):
    path = write("x.tfrecord", numbered(0, 40))
    [byte] = damage(path, 39)
    whole = Shard(path, 40, path + ".idx")
    text = refuses(read_epoch, [whole], None)
    assert path in text and f"byte {byte}" in text and "--skip_bad_records" in text


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_next_intact_record_takes_the_place_of_a_damaged_one(world_size, write, tmp_path, caplog):
    path = write("x.tfrecord", numbered(0, 40))
    whole = shard(path)
    expected = {number: {0: 1, 7: 9, 8: 9, 39: 1}.get(number, number) for number in range(40)}
    intact = read_epoch([whole], None)
    places = damage(path, 0, 7, 8, 39)
    for start in (0, 20):  # from the beginning, and resumed
        caplog.clear()
        by_rank = [read_epoch([whole], DamagedRecords(4, str(tmp_path / "damaged"), [path]), rank, world_size, start)
                   for rank in range(world_size)]
        found = [batch for round_ in zip(*by_rank) for batch in round_]
        assert found == [[expected[number] for number in batch] for batch in intact[start // 2:]]
    assert all(f"byte {byte};" in caplog.text for byte in places)
    assert len(os.listdir(tmp_path / "damaged")) == 4


def test_each_damaged_record_is_counted_and_logged_once(write, tmp_path, refuses, caplog):
    path, other = write("x.tfrecord", numbered(0, 40)), write("y.tfrecord", numbered(0, 3))
    first, second, third = damage(path, 10, 20, 30)
    folder, whole = str(tmp_path / "damaged"), Shard(path, 40, path + ".idx")

    def read(limit, numbers, paths=(path, other)):
        return pretrain_utils.read_records(tfrecord.open_shard(*whole), numbers, DamagedRecords(limit, folder, paths))

    damaged = DamagedRecords(2, folder, [path])
    for _ in range(3):
        assert pretrain_utils.read_records(tfrecord.open_shard(*whole), [10], damaged)
    assert caplog.text.count(f"byte {first}") == 1 and path in caplog.text
    read(2, [10, 20])  # another worker, or a resumed run
    text = refuses(read, 2, [30])
    assert path in text and f"byte {third}" in text and "--skip_bad_records=2" in text
    read(2, [10, 20])  # the third is not counted: it was not skipped
    assert f"byte {second}" in refuses(read, 1, [20])
    read(3, [30])
    assert path in refuses(pretrain_utils.read_records, tfrecord.open_shard(*whole), [10], DamagedRecords(
        9, os.path.join(path, "no folder"), [path]))
    write("x.tfrecord", numbered(0, 41))  # rebuilt: what was damaged no longer counts
    damage(path, 5)
    read(1, [5])


def test_a_shard_without_an_intact_record_is_refused(write, tmp_path, refuses):
    path = write("x.tfrecord", numbered(0, 3))
    damage(path, 0, 1, 2)
    damaged = DamagedRecords(9, str(tmp_path / "damaged"), [path])
    text = refuses(pretrain_utils.read_records, tfrecord.open_shard(path, 3, path + ".idx"), [1], damaged)
    assert path in text and "no intact record" in text


def test_damaged_record_of_a_compressed_shard_is_replaced_too(write, tmp_path):
    framed = [tfrecord.record_header(3) + record + tfrecord.masked_crc(record) for record in (b"abc", b"def", b"ghi")]
    framed[1] = framed[1].replace(b"def", b"dEf")
    path = str(tmp_path / "x.tfrecord.gz")
    pathlib.Path(path).write_bytes(gzip.compress(b"".join(framed)))
    damaged = DamagedRecords(1, str(tmp_path / "damaged"), [path])
    assert pretrain_utils.read_records(tfrecord.open_shard(path), [0, 1], damaged) == [b"abc", b"ghi"]
    assert pretrain_utils.read_records(tfrecord.open_shard(path), [1, 2], damaged) == [b"ghi", b"ghi"]


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
    batches = pretrain_utils.micro_batches(RecordOrder([shard(path)], 5), RecordFormat(shard(path), 8, VOCAB_SIZE), 4)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not set(threading.enumerate()) - before


def test_manifest_is_json_of_this_project_or_refused(tmp_path, write, refuses):
    shard = write("set/x.tfrecord", [b"1"])
    (tmp_path / "set" / "manifest.json").write_text(json.dumps([1]))
    assert "manifest.json" in refuses(pretrain_utils.read_manifests, [shard])


@pytest.mark.parametrize("key, value", [
    ("max_seq_length", "8"), ("max_seq_length", True), ("max_seq_length", [8]), ("tokenizer_fingerprint", 12),
    ("tokenizer_fingerprint", None), ("do_lower_case", "yes"), ("strip_accents", 1), ("train", {}), ("train", ["x"]),
    ("eval", [{"file": "x", "bytes": 1}]), ("eval", [{"file": 1, "bytes": 1, "records": 1}]),
    ("train", [{"file": "x", "bytes": 1, "records": "1"}]),
])
def test_manifest_with_a_wrong_type_is_refused_by_file_and_key(key, value, tmp_path, write, refuses):
    shard = write("set/x.tfrecord", [b"1"])
    (tmp_path / "set" / "manifest.json").write_text(json.dumps({"format": tfrecord.DATASET_FORMAT, key: value}))
    text = refuses(pretrain_utils.read_manifests, [shard])
    assert str(tmp_path / "set" / "manifest.json") in text and key in text
