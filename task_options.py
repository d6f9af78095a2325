"""Options of run_tf_tasks.py: classification, regression and tagging. See fine_tuning_options.py for the shared ones.

Defaults are those of ELECTRA's appendix B, table 7 (Clark et al. 2020): 3 epochs (10 for RTE and STS-B), batches of 32,
a warm-up of 10 %, no weight decay, and by the size of the model the learning rate (3e-4 small, 1e-4 base, 5e-5 large)
and its decay over the layers (0.8, large 0.9). Only the standard library is imported.
"""
from __future__ import annotations

import dataclasses
import math
import os
import re
import typing

from configuration import UserError, like, option
from fine_tuning_options import FineTuningOptions

GLUE_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
OWN_TASKS = ("classification", "pairs", "regression", "multi_label", "tagging")
# The problem of a task as `transformers` names it, without `_classification`; tagging has no such name.
PROBLEMS = {"stsb": "regression", "regression": "regression", "multi_label": "multi_label", "tagging": "tagging"}
LONG_TASKS = ("rte", "stsb")  # little data: 10 epochs


def of_paper(hidden_size: int) -> typing.Tuple[float, float]:
    """Learning rate and layer-wise decay by the width of the encoder: as small, base or large, whichever it reaches."""
    if hidden_size >= 1024:
        return 5e-5, 0.9
    return (1e-4 if hidden_size >= 768 else 3e-4), 0.8


@dataclasses.dataclass(frozen=True)
class TaskConfig(FineTuningOptions):
    """A fine-tuning, evaluation or prediction on a task of GLUE or on own data."""

    # What is done
    task: typing.Optional[str] = option(
        None, "a task of GLUE, read from --data_dir: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli; or own "
        "data: classification (of a text, or with --pair_column of two), pairs (classification of two texts), "
        "regression (a number for a text or two), multi_label (any number of labels for a text) or tagging (labels of "
        "words or spans)", choices=GLUE_TASKS + OWN_TASKS)
    do_predict: bool = option(False, "predict the labels of --test_file")
    do_eval: bool = option(False, "score the predictions for the development set")
    # Data
    data_dir: typing.Optional[str] = option(
        None, "for GLUE: the folder of the task's files (train.tsv, ...), or of the tasks' folders (CoLA, ...)")
    train_file: typing.Optional[str] = option(
        None, "training data: .tsv (without quoting), .csv or .jsonl; for tagging also CoNLL columns")
    dev_file: typing.Optional[str] = option(
        None, "development data (default: --dev_fraction of the training data, which is not trained on)")
    test_file: typing.Optional[str] = option(None, "data to predict, with or without labels")
    text_column: str = option("text", "column (or JSON key) of the text")
    pair_column: typing.Optional[str] = option(
        None, "column of the second text (default: none; text_pair with --task=pairs)")
    label_column: str = option("label", "column of the label, or of the labels with --task=multi_label")
    id_column: str = option("id", "column that identifies an example, where there is one (else its number, from 0)")
    label_separator: str = option(",", "what separates the labels of an example in a column")
    labels: typing.Optional[str] = option(
        None, "all labels, separated by commas, in the order of the model's classes (default: those of the training "
        "data, sorted)")
    class_weights: typing.Optional[str] = option(
        None, "weights of the classes in the loss: balanced (inverse to their number of examples), or by label, such "
        "as spam:5,ham:1 (default: 1)")
    dev_fraction: float = option(
        0.1, "fraction of the training data that is held out where there is no --dev_file, stratified by label (0: "
        "none)", minimum=0.0, maximum=0.9)
    split_seed: int = option(0, "seed of that split", minimum=0, maximum=2**31 - 1)
    word_column: int = option(0, "tagging: column of the word in a file of columns, from 0; negative from the last")
    tag_column: int = option(-1, "tagging: column of its tag")
    scheme: typing.Optional[str] = option(
        None, "tagging: scheme of the model's labels, bio or bioes (default: that of the training data)",
        choices=("bio", "bioes"))
    doc_stride: typing.Optional[int] = option(
        None, "tagging: stride between the windows of a text that is longer than max_seq_length, in tokens (default: "
        "half of max_seq_length)", minimum=1)
    # Optimization
    max_seq_length: int = like(FineTuningOptions, "max_seq_length", 128)
    length_buckets: str = like(FineTuningOptions, "length_buckets", "16,32,48,64,96,128,192,256,384")
    train_batch_size: int = like(FineTuningOptions, "train_batch_size", 32)
    num_train_epochs: typing.Optional[float] = option(
        None, "number of epochs (default: 3; 10 for rte and stsb)", minimum=0.001)
    learning_rate: typing.Optional[float] = option(
        None, "peak learning rate, of the head (default: by the size of the model, 3e-4 for small, 1e-4 for base, 5e-5 "
        "for large)", minimum=0.0)
    warmup_proportion: float = like(FineTuningOptions, "warmup_proportion", 0.1)
    weight_decay_rate: float = like(FineTuningOptions, "weight_decay_rate", 0.0)
    layerwise_lr_decay: typing.Optional[float] = option(
        None, "learning rate of a layer relative to the layer above it (default: 0.8; 0.9 for large)", minimum=0.0,
        maximum=1.0)
    seeds: typing.Optional[str] = option(
        None, "several seeds, separated by commas, such as 1,2,3: one fine-tuning for each, in seed-<N> of "
        "--output_dir, and the median and the range of their scores in results.json")
    metric: typing.Optional[str] = option(
        None, "metric that chooses the best checkpoint and ends training early, one of those in results.json "
        "(default: matthews for cola, spearman for regression, micro_f1 for multi_label, f1 for spans, else accuracy)")

    def __post_init__(self):
        self.check()
        if not self.task:
            raise UserError(f"--task is missing: choose one of {', '.join(GLUE_TASKS + OWN_TASKS)}.")
        if self.is_glue and not self.data_dir and self.do_train and not self.train_file:
            raise UserError(f"--data_dir is missing: name the folder of GLUE's files for {self.task}.")
        if not self.is_glue and not self.train_file and (self.do_train or self.do_eval and not self.dev_file):
            raise UserError("--train_file is missing: name the training data.")
        if not self.is_glue and self.do_predict and not self.test_file:
            raise UserError("--test_file is missing: name the data to predict, or omit --do_predict.")
        if self.task == "tagging" and (self.pair_column or self.class_weights):
            other = "pair_column" if self.pair_column else "class_weights"
            raise UserError(f"--{other} is not for --task=tagging: omit it.")
        if self.class_weights and self.problem == "regression":
            raise UserError(f"--class_weights needs classes, and --task={self.task} has none: omit it.")
        if self.stride > self.max_seq_length - 2:
            raise UserError(f"--doc_stride={self.doc_stride} skips tokens: a window of "
                            f"--max_seq_length={self.max_seq_length} holds {self.max_seq_length - 2} tokens of text: "
                            "lower --doc_stride, or omit it.")
        if self.scores_dev and not (self.is_glue or self.dev_file or self.dev_fraction):
            raise UserError("there is no development data to evaluate on: name a --dev_file, or give a --dev_fraction.")
        if self.seeds and (self.seed is not None or self.json_summary):
            other = "json_summary" if self.seed is None else "seed"
            raise UserError(f"--seeds and --{other} are both given: omit one of them.")
        self.weight_of_class, self.label_list, self.seed_list  # noqa: B018  (validates them)

    FITTED = ("num_train_epochs", "learning_rate", "layerwise_lr_decay")

    def fitted(self, world_size: int, encoder=None) -> TaskConfig:
        rate, decay = of_paper(encoder.hidden_size)
        defaults = {"num_train_epochs": 10.0 if self.task in LONG_TASKS else 3.0, "learning_rate": rate,
                    "layerwise_lr_decay": decay}
        held_out = 0.0 if self.is_glue or self.dev_file else self.dev_fraction
        return dataclasses.replace(self, dev_fraction=held_out, **{name: defaults[name] for name in self.not_given})

    def rate_follows(self, world_size: int) -> str:
        return "by the size of the model"

    @property
    def is_glue(self) -> bool:
        return self.task in GLUE_TASKS

    @property
    def problem(self) -> str:
        """single_label, multi_label, regression or tagging."""
        return PROBLEMS.get(self.task, "single_label")

    @property
    def second_column(self) -> typing.Optional[str]:
        """The column of the second text of own data; None: there is one text."""
        return self.pair_column or ("text_pair" if self.task == "pairs" else None)

    @property
    def seed_list(self) -> typing.List[int]:
        """The seeds of --seeds. Raises: UserError: one is no integer from 0 to 2147483647, or is there twice."""
        words = [word.strip() for word in self.seeds.split(",")] if self.seeds else []
        if len(set(words)) < len(words) or not all(re.fullmatch("[0-9]{1,10}", word) and int(word) < 2**31
                                                   for word in words):
            raise UserError(f"--seeds={self.seeds} is not a list of different integers, such as 1,2,3: correct it.")
        return [int(word) for word in words]

    def with_seed(self, seed: int) -> TaskConfig:
        """The fine-tuning of one of the seeds."""
        folder = os.path.join(self.output_dir, f"seed-{seed}")
        return dataclasses.replace(self, seeds=None, seed=seed, output_dir=folder)

    @property
    def scores_dev(self) -> bool:
        """Whether the development data is scored, in training or at the end."""
        return self.do_eval or self.do_train and self.evaluates_in_training

    @property
    def stride(self) -> int:
        """Tokens between two windows, for tagging."""
        return self.doc_stride or self.max_seq_length // 2

    @property
    def label_list(self) -> typing.List[str]:
        """The labels of --labels. Raises: UserError: one is there twice, or there is only one."""
        names = [name.strip() for name in (self.labels or "").split(",") if name.strip()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"--labels has {twice} twice: name each label once.")
        if self.labels and len(names) < 2 and self.problem == "single_label":
            raise UserError(f"--labels={self.labels} has fewer than two labels: name all classes.")
        return names

    @property
    def weight_of_class(self) -> typing.Dict[str, float]:
        """The weights of --class_weights by label; empty if `balanced`. Raises: UserError: one is no weight."""
        weights = {}
        for part in self.class_weights.split(",") if self.class_weights not in (None, "balanced") else ():
            name, colon, weight = part.rpartition(":")
            try:
                weights[name.strip()] = float(weight)
            except ValueError:
                colon = ""
            if not colon or not (0 < weights[name.strip()] < math.inf):
                raise UserError(f"--class_weights={self.class_weights} is neither balanced nor a list such as "
                                "spam:5,ham:1 of labels and positive weights: correct it.")
        return weights
