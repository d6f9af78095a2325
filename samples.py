"""What a run learns, on held-out text: recorded at every evaluation of pre-training, and shown on the report page.

`<run>/logs/samples_phase<N>.jsonl`. The first line (`kind` is `passages`) has what stays the same: some held-out
passages, their masked positions, and the classes of word pieces by frequency. One line per evaluation (`kind` is
`evaluation`) follows: what the generator filled in, the discriminator's probability of "replaced" at every word piece,
and over all held-out tokens the calibration of the discriminator, its errors by frequency class, and the word pieces
with the highest and the lowest mean loss. With --objective=mlm there is no discriminator: the fills are the most
probable word pieces, and errors and losses are those of the masked language model.

Nothing here changes training or the held-out metrics: passages, masks and samples are those of the evaluation itself.
"""
from __future__ import annotations

import contextlib
import json
import os
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from absl import logging

import files
from configuration import in_short
from run_log import log_lines
from tokenization import ElectraTokenizer

LENGTH = 64  # word pieces of a passage
BINS = 20  # of the calibration
CLASSES = 5  # of frequency, with about equal shares of the text
LISTED = 12  # word pieces with the highest loss, and as many with the lowest
LEAST_COUNT = 20  # occurrences of a listed word piece, where the held-out text is long enough
EXAMPLES = 4  # word pieces named for a frequency class

# --- What a batch shows ---


class Passage(NamedTuple):
    """The beginning of a held-out record, without [CLS], [SEP] and padding: arrays of its K word pieces."""

    number: int  # of the record, in the order of the evaluation
    original: np.ndarray  # ids int32 [K]
    masked: np.ndarray  # the generator's input, ids int32 [K]
    filled: np.ndarray  # with the generator's fills, ids int32 [K]
    chosen: np.ndarray  # whether the position is masked, bool [K]
    logits: np.ndarray  # of the discriminator, float32 [K]; empty without one


class Observed(NamedTuple):
    """What is recorded of a held-out batch: T tokens that the discriminator judges, or the masked ones without one."""

    originals: np.ndarray  # ids of all real tokens
    pieces: np.ndarray  # ids int32 [T], what the discriminator sees, or the original of a masked token
    losses: np.ndarray  # float32 [T], of the masked language model; empty with a discriminator
    correct: np.ndarray  # bool [T], the same
    passages: Sequence[Passage]


def candidates(count: int, records: int) -> List[int]:
    """Numbers of twice as many records as passages are recorded, evenly spaced; `varied` chooses among them."""
    total = min(2 * count, records)
    return [(2 * i + 1) * records // (2 * total) for i in range(total)]


def observe(features: Dict[str, np.ndarray], outputs: Dict[str, np.ndarray], first: int, numbers: Sequence[int],
            edge_ids: Sequence[int]) -> Observed:
    """What is recorded of a batch.

    Args:
        features: see `RecordFormat.decode`.
        outputs: see `run_pretraining.evaluation_function`.
        first: number of the batch's first record.
        numbers: see `candidates`.
        edge_ids: of [CLS] and [SEP].
    """
    ids, real = features["input_ids"], features["input_mask"] > 0
    rows, slots = np.nonzero(outputs["weights"])
    masked_at = rows, outputs["positions"][rows, slots]
    chosen = np.zeros(ids.shape, bool)
    chosen[masked_at] = True
    has_discriminator = "logits" in outputs
    passages = []
    for number in numbers:
        row = number - first
        if 0 <= row < len(ids):
            at = np.flatnonzero(real[row] & ~np.isin(ids[row], edge_ids))[:LENGTH]
            passages.append(Passage(
                number, ids[row, at], outputs["masked_ids"][row, at], outputs["filled_ids"][row, at], chosen[row, at],
                outputs["logits"][row, at] if has_discriminator else np.zeros(0, np.float32)))
    if has_discriminator:
        return Observed(ids[real], outputs["filled_ids"][real], np.zeros(0, np.float32), np.zeros(0, bool), passages)
    return Observed(ids[real], ids[masked_at], outputs["losses"][rows, slots],
                    outputs["filled_ids"][masked_at] == ids[masked_at], passages)


def varied(passages: Sequence[Passage], count: int) -> List[Passage]:
    """`count` passages in the order of their numbers, each chosen because it has the most word pieces that the ones
    before it do not have. Passages without a masked position are left out."""
    left = sorted((passage for passage in passages if passage.chosen.any()), key=lambda passage: passage.number)
    found, seen = [], set()
    while left and len(found) < count:
        best = max(left, key=lambda passage: len(set(passage.original.tolist()) - seen))  # of equals the first
        left = [passage for passage in left if passage is not best]
        found.append(best)
        seen |= set(best.original.tolist())
    return sorted(found, key=lambda passage: passage.number)


# --- Statistics ---


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the fraction of (replaced, original) pairs that `scores` rank correctly.

    Ties count half; 0.5 if one of the classes is absent.
    """
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return 0.5
    average_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = average_rank[inverse][labels > 0].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, float64."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Binary cross-entropy in nats, float64."""
    return np.logaddexp(0.0, np.where(labels > 0, -1.0, 1.0) * logits.astype(np.float64))


def calibration(probability: np.ndarray, labels: np.ndarray) -> List[List[float]]:
    """Per bin of equal width that holds tokens: their number, mean probability and the share that was replaced."""
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    counts, sums, replaced = (np.bincount(bins, weights, BINS) for weights in (None, probability, labels))
    return [[int(counts[i]), rounded(sums[i] / counts[i]), rounded(replaced[i] / counts[i])]
            for i in np.flatnonzero(counts)]


def frequency_classes(counts: np.ndarray) -> np.ndarray:
    """The class of every word piece, 0 the most frequent, int [V]: the classes have about equal shares of the text.
    Word pieces that the text does not have are in the last class."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    classes = np.empty(len(counts), np.int64)
    classes[order] = np.minimum(before * CLASSES // max(1, counts.sum()), CLASSES - 1)
    classes[counts == 0] = CLASSES - 1
    return classes


def by_frequency(classes: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> List[Dict[str, float]]:
    """Errors of the discriminator at probability 1/2, and its AUC, per frequency class of what it sees. Arrays [T]."""
    rows = []
    for number in range(CLASSES):
        scores, replaced = logits[classes == number], labels[classes == number] > 0
        rows.append({"original": int((~replaced).sum()), "flagged": int((scores[~replaced] > 0).sum()),
                     "replaced": int(replaced.sum()), "found": int((scores[replaced] > 0).sum()),
                     "auc": rounded(area_under_curve(scores, replaced))})
    return rows


def masked_by_frequency(classes: np.ndarray, losses: np.ndarray, correct: np.ndarray) -> List[Dict[str, float]]:
    """Masked tokens, how many the language model predicts, and its mean loss, per frequency class. Arrays [T]."""
    return [{"masked": int(chosen.sum()), "correct": int(correct[chosen].sum()),
             "loss": rounded(losses[chosen].mean()) if chosen.any() else 0.0}
            for chosen in (classes == number for number in range(CLASSES))]


def extremes(pieces: np.ndarray, losses: np.ndarray, shares: Sequence[np.ndarray], names: Sequence[str]
             ) -> Dict[str, List[list]]:
    """The word pieces with the highest and the lowest mean loss, of those that occur often enough.

    Args:
        pieces, losses: ids and losses of tokens.
        shares: further values of the tokens.
        names: of the word pieces, by id.
    Returns: `worst` and `best`: [word piece, occurrences, mean loss, the mean of each of `shares`].
    """
    size = len(names)
    counts = np.bincount(pieces, minlength=size)
    there = np.sort(counts[counts > 0])
    least = min(LEAST_COUNT, there[-min(2 * LISTED, len(there))]) if len(there) else 1
    chosen = np.flatnonzero(counts >= least)
    columns = [np.bincount(pieces, values, size)[chosen] / counts[chosen] for values in (losses, *shares)]
    order = np.argsort(columns[0], kind="stable")
    rows = [[names[chosen[i]], int(counts[chosen[i]]), *(rounded(column[i]) for column in columns)] for i in order]
    listed = min(LISTED, len(rows) // 2)
    return {"worst": rows[::-1][:listed], "best": rows[:listed]}


def rounded(value: float) -> float:
    return round(float(value), 4)


# --- The file ---


def is_kept(number: int) -> bool:
    """Whether the `number`-th evaluation stays in the file when others follow: the first 16, then 8 of every doubling,
    so that a run of a week has some dozens, most of them early, where it learns fastest."""
    return number < 16 or number % 2 ** (number.bit_length() - 4) == 0


class SampleLog:
    """The JSON-lines file, written anew with every evaluation: it has under a megabyte.

    A file that cannot be written is warned about once and does not end the run: lines wait in memory.

    Args:
        step: updates done before; lines beyond it are dropped, since those steps are run again, and with 0 all.
    """

    def __init__(self, path: str, step: int):
        self.path, self._warned = path, False
        self._lines: List[Tuple[dict, str]] = []
        if not step:
            with contextlib.suppress(OSError):
                os.remove(path)
        found = [(entry, line) for line, entry in log_lines(path) if entry["step"] <= step] if step else []
        if found and found[0][0]["kind"] == "passages":
            self._lines = found

    def write(self, passages: dict, evaluation: dict):
        """Adds an evaluation. Lines of other passages, from before the options or the data changed, are dropped."""
        first = _line(passages)
        if self._lines and self._lines[0][1] != first:
            logging.info("note: the held-out passages differ from those of %s: the file starts again.", self.path)
            self._lines = []
        kept = [(entry, line) for entry, line in self._lines[1:] if entry["step"] < evaluation["step"]]
        if kept and not is_kept(kept[-1][0]["number"]):
            kept.pop()
        self._lines = [(passages, first), *kept, (evaluation, _line(evaluation))]
        try:
            files.write_text(self.path, "".join(line for _, line in self._lines))
        except OSError as error:
            if not self._warned:
                logging.warning("warning: %s cannot be written (%s): training continues, and it is written again once "
                                "that is fixed.", self.path, in_short(error))
            self._warned = True


def _line(entry: dict) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


class Recorder:
    """Records the evaluations of a phase; used on rank 0.

    Args:
        path: of the file.
        step: updates done before.
        updates_per_eval: updates between two evaluations.
        count: number of passages.
    """

    def __init__(self, path: str, step: int, updates_per_eval: int, count: int, tokenizer: ElectraTokenizer):
        self.log = SampleLog(path, step)
        self.updates_per_eval, self.count, self.tokenizer = updates_per_eval, count, tokenizer

    def add(self, step: int, *observed):
        """Writes an evaluation, see `_add`; whatever keeps it from that is only a warning."""
        try:
            self._add(step, *observed)
        except Exception as error:  # a run does not depend on its report
            logging.warning("warning: what the network shows at step %d is not recorded (%s).", step, in_short(error))

    def _add(self, step: int, metrics: Dict[str, float], logits: np.ndarray, labels: np.ndarray,
             batches: Sequence[Observed]):
        """Writes an evaluation.

        Args:
            logits, labels: of the discriminator at the tokens of all batches; empty without one.
        """
        if not np.isfinite(logits).all():
            raise ValueError("the discriminator's logits are not finite")
        names = self.tokenizer.tokens
        originals, pieces, losses, correct = (np.concatenate([getattr(batch, name) for batch in batches])
                                              for name in ("originals", "pieces", "losses", "correct"))
        passages = varied([passage for batch in batches for passage in batch.passages], self.count)
        counts = np.bincount(originals, minlength=len(names))
        counts[list(self.tokenizer.special_ids)] = 0
        classes = frequency_classes(counts)
        usual = ~np.isin(pieces, self.tokenizer.special_ids)
        entry = {"step": step, "kind": "evaluation", "number": -(-step // self.updates_per_eval),
                 "metrics": {name: rounded(value) for name, value in metrics.items()},
                 "fills": [[names[id_] for id_ in passage.filled[passage.chosen]] for passage in passages]}
        if len(logits):
            probability = probabilities(logits)
            entry.update(
                # Rounded down: 50 and more is the discriminator's "replaced".
                percent=[(100 * probabilities(passage.logits)).astype(int).tolist() for passage in passages],
                calibration=calibration(probability, labels),
                frequency=by_frequency(classes[pieces[usual]], logits[usual], labels[usual]),
                **extremes(pieces[usual], cross_entropies(logits, labels)[usual],
                           [labels[usual], probability[usual]], names))
        else:
            entry.update(frequency=masked_by_frequency(classes[pieces], losses, correct),
                         **extremes(pieces, losses, [correct], names))
        self.log.write(self._constant(passages, classes, counts), entry)

    def _constant(self, passages: Sequence[Passage], classes: np.ndarray, counts: np.ndarray) -> dict:
        """The first line of the file."""
        names = self.tokenizer.tokens
        frequent = [sorted(np.flatnonzero((classes == number) & (counts > 0)), key=lambda id_: (-counts[id_], id_))
                    for number in range(CLASSES)]
        return {"step": 0, "kind": "passages", "notation": self.tokenizer.notation,
                "passages": [{"pieces": [names[id_] for id_ in passage.original],
                              "positions": np.flatnonzero(passage.chosen).tolist(),
                              "hidden": np.flatnonzero(passage.masked == self.tokenizer.mask_id).tolist()}
                             for passage in passages],
                "frequency": [{"pieces": len(ids), "tokens": int(counts[ids].sum()),
                               "examples": [names[id_] for id_ in ids[:EXAMPLES]]} for ids in frequent]}
