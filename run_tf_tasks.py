"""Fine-tunes ELECTRA on classification, regression or tagging, predicts, and scores the predictions.

    python run_tf_tasks.py --task=rte --data_dir=GLUE --do_train --do_eval --output_dir=results/rte \\
        --init_checkpoint=results/models/base/checkpoints
    python run_tf_tasks.py --task=classification --train_file=train.csv --do_train --do_eval --output_dir=results/mine
    python run_tf_tasks.py --task=tagging --train_file=train.conll --do_train --do_eval --output_dir=results/names
    python run_tf_tasks.py --task=classification --test_file=new.csv --do_predict --output_dir=results/mine

Writes to --output_dir: checkpoints/ (one per epoch; best.json names the best one), predictions_dev.jsonl and
predictions_test.jsonl (JSON lines), submission/ (GLUE's test files for its leaderboard), results.json, logfile.txt,
logs/ (JSON lines, TensorBoard, curves), the vocabulary. scripts/electra_tasks.sh is the recipe.

task_data.py has the formats of files, tagging.py those for tagging, task_metrics.py the scores; fine_tuning.py has what
every fine-tuning does.
"""
from __future__ import annotations

import dataclasses
import json
import os
import statistics
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import command_line
import preflight
from configuration import RunFailed, UserError
from task_options import TaskConfig

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(TaskConfig, __doc__, resumable=True)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import numpy as np
import tensorflow as tf
from absl import logging

import batching
import configuration
import files
import fine_tuning
import flops
import modeling
import run_log
import tagging
import task_analysis
import task_data
import task_metrics
import training
import weights
from checkpoints import find_checkpoint
from curves import Metric
from fine_tuning import Best, Predictor, Split
from tokenization import ElectraTokenizer
from workers import Workers, catch_lost_workers

# Scores are in percent, `train_accuracy` is a fraction.
METRICS = (
    Metric("loss", "loss {:.4f}", "loss {loss:#.4g}", panel="loss"),
    Metric("train_accuracy", "accuracy {:.1%}", "accuracy {train_accuracy:.1%}", panel="accuracy in training"),
    Metric("matthews", "Matthews {:.2f}", "Matthews {matthews:.2f}", panel="Matthews correlation"),
    Metric("spearman", "Spearman {:.2f}", "Spearman {spearman:.2f}", panel="Spearman correlation"),
    Metric("pearson", "Pearson {:.2f}", "Pearson {pearson:.2f}"),
    Metric("f1", "F1 {:.2f}", "F1 {f1:.2f}", panel="F1"),
    Metric("precision", "precision {:.2f}", "precision {precision:.2f}"),
    Metric("recall", "recall {:.2f}", "recall {recall:.2f}"),
    Metric("micro_f1", "micro F1 {:.2f}", "micro F1 {micro_f1:.2f}", panel="micro F1"),
    Metric("macro_f1", "macro F1 {:.2f}", "macro F1 {macro_f1:.2f}"),
    Metric("accuracy", "accuracy {:.2f}", "accuracy {accuracy:.2f}", panel="accuracy"),
    Metric("mean_squared_error", "mean squared error {:.4g}"),
    Metric("learning_rate", "rate {:.2e}", "lr {learning_rate:.2e}", panel="learning rate", is_mean=False),
    Metric("gradient_norm", "gradient norm {:.2f}", panel="gradient norm"))
WORDS = {"f1": "F1", "micro_f1": "micro F1", "macro_f1": "macro F1", "matthews": "the Matthews correlation",
         "spearman": "the Spearman correlation", "pearson": "the Pearson correlation"}  # of scores, in messages

# --- The tasks ---


class Predictions(NamedTuple):
    """What a model predicts for a file."""

    entries: List[dict]  # by example: what is written besides the example itself
    values: Sequence  # as task_metrics.scores takes them
    gold: Optional[Sequence]  # the same of the labels; None: there are examples without


class LabelledTask(fine_tuning.Task):
    """Classification, regression or tagging, see `fine_tuning.Task`. It knows its labels once the training data or the
    fine-tuned weights have been read."""

    log_name = "tasks"
    title = "ELECTRA fine-tuning"
    doing = "predicting"
    splits = {"train": "train_file", "dev": "dev_file"}
    resumable = ("task", "dev_fraction", "split_seed", "labels")
    evaluated_on = ("task", "dev_file")
    metrics = METRICS
    way_out = weights.TASK_WAY_OUT

    def __init__(self):
        self.labels: Optional[weights.Labels] = None
        self.evaluated: Dict[str, Split] = {}  # what --do_eval scores, by name
        self.predicted: Dict[str, Split] = {}  # what --do_predict predicts

    # What its subclasses add

    def read(self, config: TaskConfig, path: str, labelled: bool) -> list:
        """The examples of a file. Raises: UserError."""
        raise NotImplementedError

    def find_labels(self, config: TaskConfig, examples: list, path: str) -> Tuple[list, weights.Labels]:
        """The training examples, with labels as the model has them, and these. Raises: UserError."""
        raise NotImplementedError

    def fit(self, config: TaskConfig, examples: list, labelled: bool) -> list:
        """Examples with labels as the model has them. Raises: UserError: it does not know one."""
        raise NotImplementedError

    def build(self, config: TaskConfig, examples: list, tokenizer: ElectraTokenizer, labelled: bool, training: bool):
        """The features."""
        raise NotImplementedError

    def strata(self, examples: list) -> Sequence:
        """What a held-out part should have the same share of, by example."""
        raise NotImplementedError

    def shares(self, examples: list) -> str:
        """The frequencies of the labels in the training data, for the log."""
        raise NotImplementedError

    def decode(self, config: TaskConfig, split: Split, logits: np.ndarray) -> Predictions:
        """The predictions for a file."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """The kind of `task_metrics.scores`."""
        raise NotImplementedError

    # Setting up

    def best(self, config: TaskConfig) -> Best:
        metric = config.metric or task_metrics.main_score(self.kind, config.task if config.is_glue else "")
        return Best(metric, WORDS.get(metric, metric), "{:.2f}")

    def describe(self, config: TaskConfig) -> str:
        if config.is_glue:
            return f"ELECTRA on {task_data.GLUE[config.task].folder} of GLUE"
        path = config.train_file or config.dev_file or config.test_file
        return f"ELECTRA on {config.task.replace('_', '-')} with {os.path.basename(path)}"

    def preflight(self, config: TaskConfig):
        preflight.check_folder(config.output_dir, "output_dir")
        preflight.check_weights(config.init_checkpoint or "")
        wanted = {"train": config.do_train, "dev": config.scores_dev, "test": config.do_predict}
        for name in [name for name, is_read in wanted.items() if is_read]:
            paths = task_data.data_files(config, name)
            if name == "dev" and not paths and config.dev_fraction and not config.is_glue:
                paths = task_data.data_files(config, "train")
            if not paths:
                where = f" in {task_data.glue_folder(config)}" if config.is_glue and config.data_dir else ""
                raise UserError(f"there is no {name} data{where}: name it with --{name}_file"
                                f"{', or the folder of GLUE with --data_dir' if config.is_glue else ''}.")
            for path in paths.values():
                try:
                    files.open_regular(path, "rb").close()
                except OSError as error:
                    raise UserError(f"{path} cannot be read ({error.strerror}): name the data with --{name}_file"
                                    f"{' or --data_dir' if config.is_glue else ''}.") from error

    def data_file(self, config: TaskConfig, split: str) -> str:
        paths = task_data.data_files(config, split) or task_data.data_files(config, "train")
        return next(iter(paths.values()))

    def trained(self, config: TaskConfig, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype
                ) -> Predictor:
        model, self.labels = weights.task_model(source, tokenizer, compute_dtype)
        problem = self.labels.problem or "tagging"
        if problem != config.problem:
            kinds = {"tagging": "tagging", "regression": "regression", "multi_label": "multi_label",
                     "single_label": "classification or pairs"}
            raise UserError(f"{source.name} was fine-tuned for {kinds[problem]}, not for --task={config.task}: correct "
                            "the option, or name another model.")
        local = os.path.exists(source.name) or find_checkpoint(source.name)
        return Predictor(model, outputs_of(model), path=source.path if local else None)

    def read_splits(self, config: TaskConfig, tokenizer: ElectraTokenizer) -> Tuple[Optional[Split], Optional[Split]]:
        return self._read(config, tokenizer)

    def check_data(self, config: TaskConfig, tokenizer: Optional[ElectraTokenizer]):
        self._read(config, None)

    def _read(self, config: TaskConfig, tokenizer: Optional[ElectraTokenizer]
              ) -> Tuple[Optional[Split], Optional[Split]]:
        """See `read_splits`; without a tokenizer there are no features."""
        def split_of(path: str, examples: list, labelled: bool = True, training: bool = False) -> Split:
            features = tokenizer and self.build(config, examples, tokenizer, labelled, training)
            if features:
                logging.info("%s: %d %ss, %d sequences of %.0f tokens on average.", path, len(examples), self.unit,
                             len(features.lengths), features.lengths.mean())
            return Split(path, examples, features)

        scored = config.scores_dev
        dev_files = task_data.data_files(config, "dev") if scored else {}
        train, held_out = None, []
        if config.do_train or scored and not dev_files:
            path = self.data_file(config, "train")
            examples = self.read(config, path, True)
            if config.do_train:
                examples, self.labels = self.find_labels(config, examples, path)
                logging.info("%s: %s.", path, self.shares(examples))
            elif self.labels:
                examples = self.fit(config, examples, True)
            if config.dev_fraction:
                examples, held_out = task_data.split(config, examples, self.strata(examples))
            train = split_of(path, examples, training=True) if config.do_train else None
        if scored and not dev_files:
            self.evaluated = {"dev": split_of(path, held_out)}
        for name, path in dev_files.items():
            self.evaluated[name] = split_of(path, self._fitted(config, path, True))
        for name, path in task_data.data_files(config, "test").items() if config.do_predict else ():
            labelled = self._has_labels(config, path)
            self.predicted[name] = split_of(path, self._fitted(config, path, labelled), labelled)
        dev = next(iter(self.evaluated.values()), None)
        if dev:
            self._check_metric(config)
        return train, dev

    def _fitted(self, config: TaskConfig, path: str, labelled: bool) -> list:
        examples = self.read(config, path, labelled)
        return self.fit(config, examples, labelled) if self.labels else examples

    def _has_labels(self, config: TaskConfig, path: str) -> bool:
        """Whether a test file has a label for every example."""
        return False

    def _check_metric(self, config: TaskConfig):
        if config.metric and self.labels and config.metric not in self.score_names:
            raise UserError(f"--metric={config.metric} is not a score of --task={config.task} with these labels: "
                            f"choose one of {', '.join(self.score_names)}.")

    @property
    def score_names(self) -> List[str]:
        """The scores of an evaluation."""
        raise NotImplementedError

    def about(self, config: TaskConfig, model: str) -> dict:
        labels = {} if self.labels is None else {"labels": list(self.labels.names)}
        evaluated = {"dev_file": self.data_file(config, "dev")} if config.do_eval else {}
        return {"task": config.task, "model": model, **labels, **evaluated}

    def to_start_from(self, source: weights.Source) -> weights.Source:
        return weights.without_other_head(source, self.labels)

    def state(self) -> dict:
        return {"labels": list(self.labels.names)}

    def predictor(self, model: modeling.TaskModel) -> Predictor:
        return Predictor(model, outputs_of(model))

    # Predicting

    def predict(self, config: TaskConfig, predictor: Predictor, dev: Split, workers: Workers,
                stop: Optional[training.StopRequest]) -> Tuple[Optional[dict], Optional[Dict[str, float]]]:
        found, _ = self.predictions(config, predictor, dev, workers, stop)
        if found is None:
            return None, None
        return ({}, self.scores(found)) if workers.is_chief else ({}, None)

    def predictions(self, config: TaskConfig, predictor: Predictor, split: Split, workers: Workers,
                    stop: Optional[training.StopRequest]
                    ) -> Tuple[Optional[Predictions], Optional[fine_tuning.Interval]]:
        """The predictions for a file, and their timing; None when stopped."""
        length = config.max_seq_length if config.problem == "tagging" else None
        outputs, interval = fine_tuning.run_model(self, config, predictor, split.features, workers, stop, length)
        if outputs is None:
            return None, None
        if not np.isfinite(outputs["logits"]).all():
            raise RunFailed("the model's logits are NaN or infinite: its weights are damaged, use another checkpoint.")
        return self.decode(config, split, outputs["logits"]), interval

    def scores(self, found: Predictions) -> Dict[str, float]:
        return task_metrics.scores(self.kind, found.values, found.gold)

    def answer(self, config: TaskConfig, predictor: Predictor, dev: Optional[Split], tokenizer: ElectraTokenizer,
               workers: Workers, stop: training.StopRequest) -> dict:
        results: dict = {}
        evaluated = self.evaluated if config.do_eval else {}
        for name, split in {**evaluated, **(self.predicted if config.do_predict else {})}.items():
            found, interval = self.predictions(config, predictor, split, workers, stop)
            if found is None:
                raise fine_tuning.stopped(self, stop)
            if not workers.is_chief:
                continue
            results = {**interval.results(config.predict_batch_size), **results}
            self.write(config, name, split, found)
            if found.gold is None:
                task_analysis.remove(config.output_dir, name)  # of other predictions
            else:
                task_analysis.write_after_evaluation(config.output_dir, name, self.kind, found.entries)
                scores = self.scores(found)
                run_log.log_metrics("" if split is dev else f"{name}: ", scores, METRICS)
                prefix = "" if split is dev else f"{name}_"
                results.update({f"{prefix}{score}": value for score, value in scores.items()})
        if results:
            fine_tuning.log_timing(results)
        return results

    def write(self, config: TaskConfig, name: str, split: Split, found: Predictions):
        """Writes the predictions for a file as JSON lines."""
        path = os.path.join(config.output_dir, f"predictions_{name}.jsonl")
        with files.replacing(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as \
                file:
            for entry in found.entries:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        logging.info("%s: the predictions for %d %ss are in %s.", split.path, len(found.entries), self.unit, path)


def outputs_of(model: modeling.TaskModel):
    return lambda features: {"logits": model.logits(features)}


class Sequences(LabelledTask):
    """Classification or regression of a text or of two."""

    name = "sequence_classification"
    unit = "example"
    resumable = (*LabelledTask.resumable, "text_column", "pair_column", "label_column", "label_separator",
                 "class_weights")

    def __init__(self, problem: str):
        super().__init__()
        self.problem = problem

    @property
    def kind(self) -> str:
        return self.problem

    def read(self, config: TaskConfig, path: str, labelled: bool) -> list:
        return task_data.read_examples(config, path, labelled)

    def _has_labels(self, config: TaskConfig, path: str) -> bool:
        return all(example.label is not None for example in task_data.read_examples(config, path, False))

    def find_labels(self, config: TaskConfig, examples: list, path: str) -> Tuple[list, weights.Labels]:
        names = task_data.label_names(config, examples, path) or ["score"]
        self.labels = weights.Labels(tuple(names), self.problem)
        return self.fit(config, examples, True), self.labels

    def fit(self, config: TaskConfig, examples: list, labelled: bool) -> list:
        if labelled:
            task_data.encode_labels(config, examples, self.labels.names)  # validates them
        return examples

    def build(self, config: TaskConfig, examples: list, tokenizer: ElectraTokenizer, labelled: bool, training: bool):
        encoded = task_data.encode_labels(config, examples, self.labels.names)
        class_weights = task_data.class_weights(config, encoded, self.labels.names) if training else None
        if class_weights is not None:
            logging.info("class weights: %s.", ", ".join(f"{name} {weight:.3g}" for name, weight in zip(
                self.labels.names, class_weights.tolist())))
        return task_data.build_features(examples, tokenizer, config.max_seq_length, encoded, class_weights)

    def strata(self, examples: list) -> Sequence:
        return [None if self.problem == "regression" else example.label for example in examples]

    def shares(self, examples: list) -> str:
        if self.problem == "regression":
            numbers = [example.label for example in examples]
            return f"numbers from {min(numbers):g} to {max(numbers):g}, {np.mean(numbers):.3g} on average"
        names = self.labels.names
        counts = [sum(name in task_data.names_of(example.label) for example in examples) for name in names[:20]]
        listed = ", ".join(f"{name} ({count / len(examples):.1%})" for name, count in zip(names, counts))
        return f"{len(names)} labels: {listed}{', ...' if len(names) > 20 else ''}"

    @property
    def score_names(self) -> List[str]:
        several = np.eye(max(2, len(self.labels.names)))
        sample = {"regression": np.arange(3.0), "multi_label": several[:, :len(self.labels.names)]}.get(
            self.problem, np.arange(max(2, len(self.labels.names))))
        return list(task_metrics.scores(self.kind, sample, sample))

    def new_model(self, config: TaskConfig, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype,
                  seed: int) -> modeling.SequenceClassification:
        encoder = dataclasses.replace(source.config, vocab_size=tokenizer.vocab_size)
        return modeling.SequenceClassification(encoder, len(self.labels.names), self.problem, compute_dtype, seed)

    def feed(self, features, batch: batching.Batch, batch_size: int, labels: bool = False,
             divisor: Optional[float] = None) -> Dict[str, tf.Tensor]:
        return task_data.feed(features, batch, batch_size, labels, divisor)

    def flops(self, config: TaskConfig, encoder, length: int, training: bool = True) -> float:
        return flops.of_classifier(encoder, length, len(self.labels.names), training)

    def ratios(self, config: TaskConfig, sums: Dict[str, float]) -> Dict[str, float]:
        return {} if self.problem == "regression" else {"train_accuracy": sums["correct"] / sums["examples"]}

    def decode(self, config: TaskConfig, split: Split, logits: np.ndarray) -> Predictions:
        names, logits = self.labels.names, logits.astype(np.float64)
        probabilities: List[Optional[dict]] = [None] * len(logits)
        if self.problem == "regression":
            values = logits[:, 0]
            predicted = values.tolist()
        else:
            if self.problem == "multi_label":
                shares, values = 1 / (1 + np.exp(-logits)), (logits > 0).astype(int)
                predicted = [[name for name, chosen in zip(names, row) if chosen] for row in values.tolist()]
            else:
                shares = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
                values = logits.argmax(axis=1)
                predicted = [names[number] for number in values.tolist()]
            probabilities = [dict(zip(names, row)) for row in shares.round(6).tolist()]
        entries = [task_data.prediction(*row) for row in zip(split.examples, predicted, probabilities)]
        known = all(example.label is not None for example in split.examples)
        return Predictions(entries, values, split.features.labels if known else None)

    def write(self, config: TaskConfig, name: str, split: Split, found: Predictions):
        super().write(config, name, split, found)
        path = task_data.write_submission(config, name, found.entries, os.path.join(config.output_dir, "submission"))
        if path:
            logging.info("the file for GLUE's leaderboard is %s.", path)


class Tagging(LabelledTask):
    """Labels of words or spans."""

    name = "token_classification"
    unit = "sentence"
    resumable = (*LabelledTask.resumable, "word_column", "tag_column", "scheme", "doc_stride")

    @property
    def kind(self) -> str:
        return "tags" if tagging.is_spans(self.labels.names) else "plain_tags"

    def scheme(self, config: TaskConfig) -> str:
        """That of the model's labels."""
        if not tagging.is_spans(self.labels.names):
            return "plain"
        return "bioes" if any(name[:2] in ("E-", "S-") for name in self.labels.names) else "bio"

    def read(self, config: TaskConfig, path: str, labelled: bool) -> list:
        return tagging.read(path, labelled, config.word_column, config.tag_column)

    def find_labels(self, config: TaskConfig, examples: list, path: str) -> Tuple[list, weights.Labels]:
        examples, scheme = tagging.with_scheme(examples, config.scheme)
        names = tuple(config.label_list) or tagging.labels_of(examples, scheme)
        if len(names) < 2:
            raise UserError(f"{path} has no tags other than {names[0] if names else 'none'}: name other training data.")
        tagging.check_labels(examples, names)
        return examples, weights.Labels(names, None)

    def fit(self, config: TaskConfig, examples: list, labelled: bool) -> list:
        if labelled:
            examples, _ = tagging.with_scheme(examples, self.scheme(config))
            tagging.check_labels(examples, self.labels.names)
        return examples

    def build(self, config: TaskConfig, examples: list, tokenizer: ElectraTokenizer, labelled: bool, training: bool):
        return tagging.build_features(examples, tokenizer, config.max_seq_length, config.stride,
                                      self.labels.names if labelled else ())

    def strata(self, examples: list) -> Sequence:
        return [None] * len(examples)

    def shares(self, examples: list) -> str:
        plain = self.kind == "plain_tags"
        words, spans = (sum(map(len, lists)) for lists in ((sentence.words for sentence in examples), (
            tagging.spans_in(sentence, sentence.tags, plain) for sentence in examples)))
        return f"{words} words, {spans} {'tagged words' if plain else 'spans'}, {len(self.labels.names)} labels"

    @property
    def score_names(self) -> List[str]:
        return list(task_metrics.scores(self.kind, [["O"]], [["O"]]))

    def new_model(self, config: TaskConfig, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype,
                  seed: int) -> modeling.TokenClassification:
        encoder = dataclasses.replace(source.config, vocab_size=tokenizer.vocab_size)
        return modeling.TokenClassification(encoder, len(self.labels.names), compute_dtype, seed)

    def feed(self, features, batch: batching.Batch, batch_size: int, labels: bool = False,
             divisor: Optional[float] = None) -> Dict[str, tf.Tensor]:
        return tagging.feed(features, batch, batch_size, labels, divisor)

    def divisor(self, features, batch: batching.Batch) -> float:
        return float(features.labelled[batch.rows].sum())

    def flops(self, config: TaskConfig, encoder, length: int, training: bool = True) -> float:
        return flops.of_tagger(encoder, length, len(self.labels.names), training)

    def ratios(self, config: TaskConfig, sums: Dict[str, float]) -> Dict[str, float]:
        return {"train_accuracy": sums["correct"] / max(sums["labelled"], 1.0)}

    def decode(self, config: TaskConfig, split: Split, logits: np.ndarray) -> Predictions:
        everything = batching.Batch(config.max_seq_length, np.arange(len(logits)))
        tagged = tagging.decode(split.features, [(everything, logits)], self.labels.names)
        entries, plain = [], self.kind == "plain_tags"
        for sentence, found in zip(split.examples, tagged):
            spans = tagging.spans_in(sentence, found.tags, plain, found.probabilities)
            entry = {"id": sentence.id, "text": sentence.text,
                     "words": [sentence.text[start:end] for start, end in sentence.words]}
            if sentence.tags is not None:
                entry["label"] = list(sentence.tags)
            entries.append({**entry, "prediction": list(found.tags),
                            "probabilities": found.probabilities.astype(float).round(6).tolist(),
                            "spans": [span._asdict() for span in spans]})
        known = all(sentence.tags is not None for sentence in split.examples)
        return Predictions(entries, [found.tags for found in tagged],
                           [sentence.tags for sentence in split.examples] if known else None)


def task_of(config: TaskConfig) -> LabelledTask:
    return Tagging() if config.problem == "tagging" else Sequences(config.problem)


# --- The command ---


def run(config: TaskConfig, stop: training.StopRequest):
    """See `fine_tuning.run`."""
    fine_tuning.run(task_of(config), config, stop)


SCORES = tuple(metric.name for metric in METRICS[2:-2])


def run_seeds(config: TaskConfig, stop: training.StopRequest):
    """One fine-tuning for each of --seeds, then the median and the range of their scores."""
    for seed in config.seed_list:
        run(config.with_seed(seed), stop)
    if command_line.launched_rank():
        return
    found = [configuration.read_json_object(os.path.join(config.with_seed(seed).output_dir, "results.json"))
             for seed in config.seed_list]
    names = [name for name in found[0] if name.endswith(SCORES)]
    scores = {name: [results[name] for results in found] for name in names}
    summary = {name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
               for name, values in scores.items()}
    for name, row in summary.items():
        logging.info("%s: median of %d seeds %.2f, from %.2f to %.2f.", name, len(found), *row.values())
    path = os.path.join(config.output_dir, "results.json")
    files.write_json(path, {"task": config.task, "seeds": config.seed_list, **summary})
    logging.info("the scores of all seeds are in %s.", path)


def main(argv):
    config = command_line.parse(TaskConfig, argv, __doc__)
    if config.check_only:
        for one in [config.with_seed(seed) for seed in config.seed_list] or [config]:
            fine_tuning.check_only(task_of(one), one)
        return
    with training.StopRequest() as stop, catch_lost_workers():
        (run_seeds if config.seeds else run)(config, stop)


if __name__ == "__main__":
    command_line.run_command(main)
