"""batching.py: every row once, and the same order after resuming."""
import json

import numpy as np
import pytest

import batching


@pytest.mark.parametrize("rows, size", [(37, 5), (40, 5), (3, 8), (1, 1)])
def test_every_row_comes_once_in_batches_that_hold_it(rows, size):
    rng = np.random.default_rng(rows)
    lengths, buckets = rng.integers(5, 49, rows), [16, 32, 48]
    order = rng.permutation(rows)
    batches = batching.plan_batches(lengths, buckets, size, order)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(rows))
    assert len(batches) == -(-rows // size)
    assert sum(len(batch.rows) < size for batch in batches) == (rows % size > 0)
    for batch in batches:
        assert batch.length in buckets and lengths[batch.rows].max() <= batch.length
    full = [batch for batch in batches if set(np.searchsorted(buckets, lengths[batch.rows])) ==
            {buckets.index(batch.length)}]
    assert len(full) >= len(batches) - len(buckets)  # only what is left over is padded to a longer bucket


def window_order(batch_size=4, limit=None, position=None):
    lengths = np.random.default_rng(0).integers(10, 49, 30)
    return batching.RowOrder(lengths, [16, 32, 48], batch_size, seed=1, limit=limit, position=position)


def take(source, count):
    return [next(source).rows.tolist() for _ in range(count)]


@pytest.mark.parametrize("limit, per_epoch", [(None, 8), (3, 3)])
def test_an_epoch_sees_every_example_once(limit, per_epoch):
    source = window_order(limit=limit)
    assert source.batches_per_epoch == per_epoch
    epochs = []
    for epoch in range(3):
        assert source.batches_since_epoch_end == 0 and source.batches_until(3) == (3 - epoch) * per_epoch
        epochs.append(sum(take(source, 1), []))
        assert source.batches_since_epoch_end == 1
        epochs[-1] += sum(take(source, per_epoch - 1), [])
    assert all(len(set(epoch)) == len(epoch) == (12 if limit else 30) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("limit", [None, 6])
@pytest.mark.parametrize("done", [0, 1, 5, 7, 8, 11, 16])
def test_resuming_takes_the_same_batches(limit, done):
    whole = window_order(limit=limit)
    take(whole, done)
    resumed = window_order(limit=limit, position=json.loads(json.dumps(whole.position)))
    assert resumed.batches_until(2.5) == whole.batches_until(2.5)
    assert take(resumed, 20) == take(whole, 20)
    assert resumed.position == whole.position


@pytest.mark.parametrize("sizes", [(4, 8), (8, 4), (4, 8, 1), (3, 5, 4)], ids=str)
def test_resuming_with_batches_of_another_size_sees_every_example_of_the_epoch_once(sizes):
    seen, position = [], None
    for size in sizes:
        source = window_order(batch_size=size, position=position)
        seen += sum(take(source, 2), [])
        position = source.position
    while source.batches_since_epoch_end:
        seen += next(source).rows.tolist()
    assert sorted(seen) == list(range(30))
    assert source.batches_until(2) == source.batches_per_epoch
