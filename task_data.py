"""Data of tasks besides SQuAD: files to examples, examples to features, predictions to files.

A file is TSV (no quoting: a quotation mark is a character like any other, as in GLUE), CSV (RFC 4180: quoted fields
may hold commas, quotation marks and line breaks) or JSON lines, by its extension. Columns are named by the first line
or by the keys. GLUE's tasks (Wang et al. 2019, arXiv:1804.07461) are read from the files of its own download, whose
columns `GLUE` lists.

Labels are texts, in a fixed order that is kept with the model; regression has numbers. Sequences are
[CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with segment 1 on the second; too long pairs lose tokens at the end of
the longer text first (BERT, Devlin et al. 2019, run_classifier.py).

A Features array has one row per example: N examples, L max_seq_length, C labels.
"""
from __future__ import annotations

import csv
import json
import math
import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from absl import logging

import batching
import configuration
import files
import pretrain_utils
import tokenization
from configuration import UserError, in_brief
from deferred import tensorflow as tf
from task_options import TaskConfig

# --- Files ---

EXTENSIONS = (".tsv", ".csv", ".jsonl", ".json")
FIELD_BYTES = 2**31 - 1  # of a CSV field; the module's own limit of 131,072 refuses long documents
FEW = 1000  # of so many lines of a GLUE file, one may be damaged: the published train.tsv of QQP has such lines


class Row(NamedTuple):
    """A line of a file: its cells by the name of their column, and where it is."""

    cells: Dict[str, object]
    where: str  # for messages, such as `train.tsv, line 7`


def read_rows(path: str, header: Optional[Sequence[str]] = None, skips: bool = False) -> List[Row]:
    """The lines of a table.

    Args:
        header: names of the columns of a TSV file whose first line has none.
        skips: leave out lines with another number of columns, with a warning, as long as they are few.
    Raises: UserError naming the file and the line.
    """
    extension = os.path.splitext(path)[1].lower()
    reader = {".tsv": _tsv_lines, ".csv": _csv_lines}.get(extension, _json_lines)
    if extension not in EXTENSIONS:
        raise UserError(f"{path} is neither .tsv, .csv nor .jsonl: name a file in one of these formats, with its "
                        "extension.")
    rows, damaged = [], []
    try:
        with files.open_regular(path, encoding="utf-8-sig", newline="" if extension == ".csv" else "\n") as file:
            lines = reader(file, path)
            if reader is _json_lines:
                rows = [Row(cells, f"{path}, line {number}") for number, cells in lines]
            else:
                names = list(header) if header else next(lines, (1, []))[1]
                _check_header(names, path)
                for number, cells in lines:
                    if len(cells) == len(names):
                        rows.append(Row(dict(zip(names, cells)), f"{path}, line {number}"))
                    else:
                        damaged.append((number, len(cells), len(names)))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it.") from error
    _check_damaged(path, damaged, len(rows), skips)
    if not rows:
        raise UserError(f"{path} has no examples: name a file with some.")
    return rows


def _check_header(names: List[str], path: str):
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), "")
        raise UserError(f"{path}: the first line must name the columns, each once"
                        f"{f', but {in_brief(twice)} is there twice' if twice else ''}: correct it.")


def _check_damaged(path: str, damaged: List[Tuple[int, int, int]], intact: int, skips: bool):
    if not damaged:
        return
    number, found, expected = damaged[0]
    if not skips or FEW * len(damaged) > intact:
        raise UserError(f"{path}, line {number} has {found} column{'s' if found > 1 else ''}, and the file has "
                        f"{expected}: correct the line (in TSV, tabs separate columns and there is no quoting).")
    logging.warning("%s: %d lines with another number of columns were left out (the first is line %d).", path,
                    len(damaged), number)


def _tsv_lines(file, path: str) -> Iterator[Tuple[int, List[str]]]:
    for number, line in enumerate(file, 1):
        line = line.rstrip("\r\n")
        if line:
            yield number, line.split("\t")


def _csv_lines(file, path: str) -> Iterator[Tuple[int, List[str]]]:
    csv.field_size_limit(FIELD_BYTES)
    reader = csv.reader(file, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is not valid CSV ({error}): correct it.") from error


def _json_lines(file, path: str) -> Iterator[Tuple[int, dict]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, configuration.parse_json_object(line, f"{path}, line {number}")


# --- GLUE ---


class Glue(NamedTuple):
    """A task of GLUE: its folder, the columns of its files, its labels in the order of GLUE's own code."""

    folder: str
    columns: Tuple[str, ...]  # of a text, or of two texts
    label: str
    labels: Tuple[str, ...]  # empty: regression
    submitted: Tuple[str, ...]  # files of a submission, one for each test file
    dev: Tuple[str, ...] = ("dev",)
    test: Tuple[str, ...] = ("test",)
    header: Tuple[str, ...] = ()  # of train and dev, where the files have none


_BINARY, _ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")
GLUE: Dict[str, Glue] = {
    "cola": Glue("CoLA", ("sentence",), "label", _BINARY, ("CoLA",), header=("source", "label", "star", "sentence")),
    "sst2": Glue("SST-2", ("sentence",), "label", _BINARY, ("SST-2",)),
    "mrpc": Glue("MRPC", ("#1 String", "#2 String"), "Quality", _BINARY, ("MRPC",)),
    "stsb": Glue("STS-B", _SENTENCES, "score", (), ("STS-B",)),
    "qqp": Glue("QQP", ("question1", "question2"), "is_duplicate", _BINARY, ("QQP",)),
    "mnli": Glue("MNLI", _SENTENCES, "gold_label", ("contradiction", "entailment", "neutral"), ("MNLI-m", "MNLI-mm"),
                 dev=("dev_matched", "dev_mismatched"), test=("test_matched", "test_mismatched")),
    "qnli": Glue("QNLI", ("question", "sentence"), "label", _ENTAILMENT, ("QNLI",)),
    "rte": Glue("RTE", _SENTENCES, "label", _ENTAILMENT, ("RTE",)),
    "wnli": Glue("WNLI", _SENTENCES, "label", _BINARY, ("WNLI",)),
}
LARGEST_SIMILARITY = 5.0  # of STS-B: the leaderboard accepts scores from 0 to 5


def glue_folder(config: TaskConfig) -> str:
    """The folder of a GLUE task's files: data_dir, or its subfolder of the name that the download gives it."""
    inside = os.path.join(config.data_dir, GLUE[config.task].folder)
    return inside if os.path.isdir(inside) else config.data_dir


def data_files(config: TaskConfig, split: str) -> Dict[str, str]:
    """The files of `train`, `dev` or `test` by the name of their split; empty where none is given, or GLUE's is not
    there."""
    given = getattr(config, f"{split}_file")
    if given:
        return {split: given}
    if config.task not in GLUE or not config.data_dir:
        return {}
    task = GLUE[config.task]
    names = {"train": ("train",), "dev": task.dev, "test": task.test}[split]
    paths = {name: os.path.join(glue_folder(config), f"{name}.tsv") for name in names}
    return paths if split == "train" else {name: path for name, path in paths.items() if os.path.exists(path)}


# --- Examples ---

Label = Union[None, str, Tuple[str, ...], float]  # by the problem: one label, several, or a number; None: not known


class Example(NamedTuple):
    """A text, or two, and what is to be predicted."""

    id: Union[str, int, float]  # of the file, else the number of the example from 0
    text: str
    pair: Optional[str]
    label: Label
    where: str  # for messages


def read_examples(config: TaskConfig, path: str, labelled: bool = True) -> List[Example]:
    """The examples of a file. Raises: UserError naming the file, and the line or the column.

    Args:
        labelled: whether every example must have a label; else the column may be absent.
    """
    task = GLUE.get(config.task)
    columns = list(task.columns) if task else [config.text_column, *filter(None, [config.second_column])]
    label_column = task.label if task else config.label_column
    header = task.header if task and (labelled or _has_no_header(path, task)) else ()
    rows = read_rows(path, header, skips=task is not None)
    needed = columns + [label_column] * labelled
    for column in needed:
        if column not in rows[0].cells:
            flag = {config.text_column: " as --text_column", config.second_column: " as --pair_column",
                    config.label_column: " as --label_column"}.get(column, "") if not task else ""
            raise UserError(f"{path} has no column {in_brief(column)} (it has {in_brief(list(rows[0].cells))}): name "
                            f"the right column{flag}, or another file.")
    examples = []
    for number, row in enumerate(rows):
        texts = [_text(row, column) for column in columns]
        label = row.cells.get(label_column)
        label = _label(config, label, label_column, row.where) if labelled or label not in (None, "") else None
        examples.append(Example(_id(row.cells.get("index" if task else config.id_column, number)), texts[0],
                                texts[1] if len(texts) > 1 else None, label, row.where))
    empty = sum(not example.text.strip() for example in examples)
    if empty:
        logging.warning("%s: %d examples have an empty text.", path, empty)
    return examples


def _has_no_header(path: str, task: Glue) -> bool:
    """Whether a file without labels to read is laid out like CoLA's training data, not like its test data."""
    if not task.header:
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return len(file.readline().split("\t")) == len(task.header)


def _id(value) -> Union[str, int, float]:
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else json.dumps(value)


def _text(row: Row, column: str) -> str:
    value = row.cells.get(column)
    if not isinstance(value, str):
        raise UserError(f"{row.where}: {column} is {'missing' if value is None else f'{in_brief(value)}, not a text'}: "
                        "correct it.")
    return value


def _label(config: TaskConfig, value, column: str, where: str) -> Label:
    if value is None or value == "" and config.problem != "multi_label":
        raise UserError(f"{where}: {column} is missing: add it.")
    if config.problem == "regression":
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise UserError(f"{where}: {column} is {in_brief(value)}, not a number: correct it, or choose a --task "
                            "with classes.")
        return number
    if config.problem == "multi_label":
        parts = value if isinstance(value, list) else str(value).split(config.label_separator)
        names = [_name(part, column, where) for part in parts]
        return tuple(dict.fromkeys(name for name in names if name))
    return _name(value, column, where)


def _name(value, column: str, where: str) -> str:
    if isinstance(value, (dict, list)) or value is None:
        raise UserError(f"{where}: {column} is {in_brief(value)}, not a label: correct it (several labels of an "
                        "example need --task=multi_label).")
    return value.strip() if isinstance(value, str) else json.dumps(value)


def has_questions(path: str) -> bool:
    """Whether a file holds questions (see squad_utils.read_questions), as opposed to texts: SQuAD's format, or JSON
    lines of which the first has no `text`."""
    extension = os.path.splitext(path)[1].lower()
    if extension in (".tsv", ".csv"):
        return False
    if extension == ".json":
        return True
    for where, line in configuration.read_lines(path):
        if line.strip():
            return "text" not in configuration.parse_json_object(line, where)
    return True


def read_texts(path: str) -> List[Example]:
    """The texts of a table or of JSON lines to predict: `text`, and optionally `text_pair` (or `pair`) and `id`.

    Raises: UserError: the file cannot be read, has no texts, or a text is empty.
    """
    examples = []
    for number, row in enumerate(read_rows(path), 1):
        pair = next((name for name in ("text_pair", "pair") if row.cells.get(name) is not None), None)
        texts = [_text(row, name) for name in ("text", *filter(None, [pair]))]
        if not all(text.strip() for text in texts):
            raise UserError(f"{row.where}: a text is empty: add it, or remove the line.")
        examples.append(Example(_id(row.cells.get("id", number)), texts[0], texts[1] if pair else None, None,
                                row.where))
    return examples


# --- Labels ---


def label_names(config: TaskConfig, examples: Sequence[Example], path: str) -> List[str]:
    """The names of all labels: GLUE's, those of --labels, else those of the training data, sorted (numbers by their
    value). Empty for regression.

    Raises: UserError: fewer than two classes.
    """
    if config.problem == "regression":
        return []
    given = list(GLUE[config.task].labels) if config.task in GLUE else config.label_list
    if given:
        return given
    found = {name for example in examples for name in names_of(example.label)}
    if len(found) < (1 if config.problem == "multi_label" else 2):
        raise UserError(f"{path} has {len(found) or 'no'} label{'s' if len(found) != 1 else ''}"
                        f"{f' ({min(found)})' if found else ''}, and a classifier needs two: name other training data, "
                        "or all labels with --labels.")
    return sorted(found, key=lambda name: (_number(name), name))


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.inf


def names_of(label: Label) -> Tuple[str, ...]:
    """The labels of an example."""
    return label if isinstance(label, tuple) else () if label is None else (label,)


def encode_labels(config: TaskConfig, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
    """The labels as the network takes them: int32 [N], float32 [N, C] for several labels, float32 [N] for regression.
    An example without a label has -1, or 0.

    Raises: UserError: a label that the model does not know.
    """
    number_of = {name: number for number, name in enumerate(labels)}
    for example in examples:
        for name in names_of(example.label) if config.problem != "regression" else ():
            if name not in number_of:
                raise UserError(f"{example.where}: the label {in_brief(name)} is not one of those of the training data "
                                f"({_listed(labels)}): correct it, or name all labels with --labels in training.")
    if config.problem == "regression":
        return np.array([example.label or 0.0 for example in examples], np.float32)
    if config.problem == "multi_label":
        encoded = np.zeros([len(examples), len(labels)], np.float32)
        for row, example in enumerate(examples):
            encoded[row, [number_of[name] for name in names_of(example.label)]] = 1.0
        return encoded
    return np.array([-1 if example.label is None else number_of[example.label] for example in examples], np.int32)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def class_weights(config: TaskConfig, encoded: np.ndarray, labels: Sequence[str]) -> Optional[np.ndarray]:
    """The weights of the classes in the loss, float32 [C], or None: all alike.

    `balanced`: N / (C n) for a class with n of N examples, so that they are 1 on average over the examples; where an
    example may have several labels (N - n) / n, the weight of the examples that have the label.

    Raises: UserError: --class_weights names an unknown label, or `balanced` meets one without examples.
    """
    if not config.class_weights:
        return None
    if config.class_weights == "balanced":
        multi = config.problem == "multi_label"
        counts = encoded.sum(axis=0) if multi else np.bincount(encoded, minlength=len(labels))
        for name, count in zip(labels, counts):
            if not count or multi and count == len(encoded):
                raise UserError(f"--class_weights=balanced: {'all' if count else 'no'} training examples have the "
                                f"label {in_brief(name)}: give the weights by label, such as {name}:1.")
        weights = (len(encoded) - counts) / counts if multi else len(encoded) / (len(labels) * counts)
        return weights.astype(np.float32)
    given = config.weight_of_class
    for name in given:
        if name not in labels:
            raise UserError(f"--class_weights: {in_brief(name)} is not a label ({_listed(labels)}): correct it.")
    return np.array([given.get(name, 1.0) for name in labels], np.float32)


def split(config: TaskConfig, examples: Sequence, strata: Sequence) -> Tuple[list, list]:
    """Training examples and held-out ones, --dev_fraction of all, the same for the same --split_seed and data.

    Stratified: every value in `strata` has the same share of both, up to one example; one that occurs once is trained
    on. Raises: UserError: too few examples.
    """
    of_stratum: Dict[object, List[int]] = {}
    for row in pretrain_utils.permutation([config.split_seed], len(examples)).tolist():
        of_stratum.setdefault(strata[row], []).append(row)
    wanted = {stratum: config.dev_fraction * len(rows) if len(rows) > 1 else 0.0
              for stratum, rows in of_stratum.items()}
    counts = {stratum: int(share) for stratum, share in wanted.items()}
    left = round(config.dev_fraction * len(examples)) - sum(counts.values())
    for stratum in sorted(wanted, key=lambda one: counts[one] - wanted[one])[:max(0, left)]:
        counts[stratum] += 0 < wanted[stratum]
    held_out = {row for stratum, rows in of_stratum.items() for row in rows[:counts[stratum]]}
    if not held_out:
        raise UserError(f"--dev_fraction={config.dev_fraction:g} of {len(examples)} examples leaves none to evaluate "
                        "on: raise it, or name a --dev_file.")
    return ([example for row, example in enumerate(examples) if row not in held_out],
            [example for row, example in enumerate(examples) if row in held_out])


# --- Features ---


class Features(NamedTuple):
    """[CLS] text [SEP] or [CLS] text [SEP] pair [SEP], padded, for every example in order."""

    input_ids: np.ndarray  # int32 [N, L]
    lengths: np.ndarray  # int32 [N], tokens
    first_lengths: np.ndarray  # int32 [N], tokens of segment 0: [CLS], the first text and its [SEP]
    labels: np.ndarray  # see `encode_labels`
    class_weights: Optional[np.ndarray] = None  # float32 [C]


def build_features(examples: Sequence[Example], tokenizer: tokenization.ElectraTokenizer, max_seq_length: int,
                   labels: np.ndarray, weights: Optional[np.ndarray] = None) -> Features:
    """Tokenizes examples and truncates those that do not fit, the longer text first."""
    texts = list(dict.fromkeys(text for example in examples for text in (example.text, example.pair or "")))
    ids_of = dict(zip(texts, tokenizer.encode_batch(texts)))
    input_ids = np.full((len(examples), max_seq_length), tokenizer.pad_id, np.int32)
    lengths, first_lengths = (np.zeros(len(examples), np.int32) for _ in range(2))
    shortened = 0
    for row, example in enumerate(examples):
        first, second = ids_of[example.text], None if example.pair is None else ids_of[example.pair]
        kept = truncated(len(first), len(second or ()), max_seq_length - (2 if second is None else 3))
        shortened += kept != (len(first), len(second or ()))
        ids = [tokenizer.cls_id, *first[:kept[0]], tokenizer.sep_id]
        first_lengths[row] = len(ids)
        if second is not None:
            ids += [*second[:kept[1]], tokenizer.sep_id]
        lengths[row] = len(ids)
        input_ids[row, :len(ids)] = ids
    if shortened:
        logging.info("%d of %d examples are longer than --max_seq_length=%d tokens and were truncated.", shortened,
                     len(examples), max_seq_length)
    return Features(input_ids, lengths, first_lengths, labels, weights)


def truncated(first: int, second: int, room: int) -> Tuple[int, int]:
    """How many tokens of two texts are kept: the longer one loses its last token until both fit (the second one where
    they are equally long)."""
    excess = first + second - room
    if excess <= 0:
        return first, second
    gap = min(excess, abs(first - second))  # taken from the longer one alone
    first, second = (first - gap, second) if first > second else (first, second - gap)
    excess -= gap
    return first - excess // 2, second - (excess + 1) // 2


INPUTS = ("input_ids", "input_mask", "segment_ids")


def feed(features: Features, batch: batching.Batch, batch_size: int, labels: bool = False,
         num_examples: Optional[float] = None) -> Dict[str, tf.Tensor]:
    """The tensors of a batch, see `batching.filled_rows`.

    Args:
        labels: add what training needs.
        num_examples: divisor of the loss's sums over examples (default: the number of rows).
    """
    rows, weights = batching.filled_rows(batch, batch_size)
    position = np.arange(batch.length)
    inside = position < features.lengths[rows, np.newaxis]
    second = inside & (position >= features.first_lengths[rows, np.newaxis])
    tensors = {"input_ids": tf.constant(features.input_ids[rows, :batch.length]),
               "input_mask": tf.constant(inside.astype(np.int32)),
               "segment_ids": tf.constant(second.astype(np.int32))}
    if labels:
        tensors["labels"] = tf.constant(features.labels[rows])
        if features.class_weights is not None:
            tensors["class_weights"] = tf.constant(features.class_weights)
        tensors["weights"] = tf.constant(weights)
        tensors["num_examples"] = tf.constant(float(num_examples or len(batch.rows)))
    return tensors


# --- Predictions ---


def prediction(example: Example, predicted, probabilities: Optional[dict]) -> dict:
    """An entry of a file of predictions: `id`, `text`, `pair` (of two texts), `label` (where known), `prediction`, and
    `probabilities` by label, which regression has not."""
    entry = {"id": example.id, "text": example.text, "pair": example.pair, "label": example.label,
             "prediction": predicted, "probabilities": probabilities}
    return {name: value for name, value in entry.items() if value is not None}


def write_submission(config: TaskConfig, name: str, entries: Sequence[dict], folder: str) -> Optional[str]:
    """Writes the file that GLUE's leaderboard takes for a test file. Returns: its path; None where it has none.

    Args:
        name: of the split, such as `test_matched`.
        entries: see `prediction`.
    Raises: OSError.
    """
    task = GLUE.get(config.task)
    if task is None or name not in task.test:
        return None
    path = os.path.join(folder, f"{task.submitted[task.test.index(name)]}.tsv")
    os.makedirs(folder, exist_ok=True)
    lines = ["index\tprediction"]
    for entry in entries:
        predicted = entry["prediction"]
        if config.problem == "regression":
            predicted = f"{min(max(predicted, 0.0), LARGEST_SIMILARITY):.3f}"
        lines.append(f"{entry['id']}\t{predicted}")
    files.write_text(path, "\n".join(lines) + "\n")
    return path
