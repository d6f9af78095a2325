"""Batches of examples by length: which rows go through the network together, in which order, and how they are padded.

Fine-tuning, evaluation and prediction of every task use these. N rows of features.
"""
from __future__ import annotations

import math
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

import pretrain_utils


class Batch(NamedTuple):
    """Rows of the features that go through the network together, padded to `length`."""

    length: int
    rows: np.ndarray  # int [n], at most the batch size


def plan_batches(lengths: np.ndarray, buckets: List[int], batch_size: int, order: np.ndarray) -> List[Batch]:
    """Groups rows, in `order`, by the first bucket that holds them: ceil(n / batch_size) batches, at most one not full.

    The rest of a bucket at the end goes to the next longer one, so that every row comes exactly once.
    """
    bucket_of = np.searchsorted(buckets, lengths)
    waiting: List[List[int]] = [[] for _ in buckets]
    batches = []
    for row in order.tolist():
        bucket = bucket_of[row]
        waiting[bucket].append(row)
        if len(waiting[bucket]) == batch_size:
            batches.append(Batch(buckets[bucket], np.array(waiting[bucket])))
            waiting[bucket] = []
    rest: List[int] = []
    longest = 0
    for bucket, rows in enumerate(waiting):
        rest += rows
        longest = bucket if rows else longest
        if len(rest) >= batch_size:
            batches.append(Batch(buckets[longest], np.array(rest[:batch_size])))
            rest = rest[batch_size:]
    if rest:
        batches.append(Batch(buckets[longest], np.array(rest)))
    return batches


class RowOrder:
    """The training rows in order, without end: epoch after epoch, each shuffled by (seed, epoch).

    `position` says how far it is. A run resumes from there, also with batches of another size: no row of the epoch is
    lost or seen twice.

    Args:
        lengths: int [n], tokens of every row.
        batch_size: of all workers together.
        limit: batches of an epoch, at most; None for all.
        position: of an earlier run, to resume from.
    """

    def __init__(self, lengths: np.ndarray, buckets: List[int], batch_size: int, seed: int,
                 limit: Optional[int] = None, position: Optional[dict] = None):
        self.lengths, self.buckets, self.batch_size, self.seed, self.limit = lengths, buckets, batch_size, seed, limit
        # Of the current epoch: [batch size, batches done], in order.
        self.epoch, self._taken = (position["epoch"], list(position["taken"])) if position else (0, [])
        self._left = self._rest_of_epoch()

    def _rest_of_epoch(self) -> List[Batch]:
        order = pretrain_utils.permutation([self.seed, self.epoch], len(self.lengths))
        for batch_size, count in self._taken:
            done = plan_batches(self.lengths, self.buckets, batch_size, order)[:count]
            order = order[~np.isin(order, np.concatenate([batch.rows for batch in done]))]
        left = plan_batches(self.lengths, self.buckets, self.batch_size, order)
        return left if self.limit is None else left[:max(0, self.limit - sum(count for _, count in self._taken))]

    @property
    def position(self) -> dict:
        return {"epoch": self.epoch, "taken": [list(entry) for entry in self._taken]}

    @property
    def batches_since_epoch_end(self) -> int:
        """0 right after the last batch of an epoch."""
        return sum(count for _, count in self._taken) if self._left else 0

    @property
    def batches_per_epoch(self) -> int:
        batches = math.ceil(len(self.lengths) / self.batch_size)
        return batches if self.limit is None else min(batches, self.limit)

    def batches_until(self, epochs: float) -> int:
        """How many batches are left until `epochs` epochs are done."""
        return max(0, math.ceil((epochs - self.epoch - 1) * self.batches_per_epoch + len(self._left)))

    def __next__(self) -> Batch:
        if not self._left:
            self.epoch, self._taken = self.epoch + 1, []
            self._left = self._rest_of_epoch()
        if not self._taken or self._taken[-1][0] != self.batch_size:
            self._taken.append([self.batch_size, 0])
        self._taken[-1][1] += 1
        return self._left.pop(0)


def filled_rows(batch: Batch, batch_size: int) -> Tuple[np.ndarray, np.ndarray]:
    """The rows of a batch, padded to `batch_size` with its first one, and their weights: float32, 0 for padding."""
    fill = batch_size - len(batch.rows)
    rows = np.concatenate([batch.rows, np.repeat(batch.rows[:1] if len(batch.rows) else [0], fill)]).astype(int)
    return rows, np.float32([1.0] * len(batch.rows) + [0.0] * fill)


def join_outputs(parts: Iterable[Tuple[Batch, Dict[str, np.ndarray]]], count: int, length: Optional[int] = None
                 ) -> Dict[str, np.ndarray]:
    """The outputs of batches as arrays [count, ...], in the order of the rows; padding rows are left out.

    Args:
        length: for outputs [batch, the batch's length, ...]: the length of all, filled with 0 where there is no token.
    """
    outputs: Dict[str, np.ndarray] = {}
    for batch, found in parts:
        for name, value in found.items():
            if name not in outputs:
                shape = [length, *value.shape[2:]] if length else value.shape[1:]
                outputs[name] = np.zeros([count, *shape], value.dtype)
            if length:
                outputs[name][batch.rows, :batch.length] = value[:len(batch.rows)]
            else:
                outputs[name][batch.rows] = value[:len(batch.rows)]
    return outputs
