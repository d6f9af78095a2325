"""Fine-tuning, whatever the task: reading weights, resuming, training, evaluating in training, and ending a run.

`run_on` is a whole call of a command, from the device to results.json; a `Task` says what is particular to it. There is
one for SQuAD (run_tf_squad.py), and there are two for classification and tagging (run_tf_tasks.py). The training loop
itself is training.run_updates.

AdamW with layer-wise learning rates: a layer's is `decay ** (num_layers + 2 - depth)` of the head's, with depth 0 for
the embeddings and i + 1 for layer i, so that the top layer has the decay squared, as google-research/electra released
it.
"""
from __future__ import annotations

import dataclasses
import glob
import hashlib
import math
import os
import random
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

import batching
import configuration
import console
import devices
import files
import hub
import modeling
import optimization
import preflight
import pretrain_utils
import run_log
import run_page
import trackers
import training
import weights
from checkpoints import Checkpoints, find_checkpoint, read_state
from configuration import Interrupted, UserError
from curves import Metric
from electra_config import ElectraConfig
from fine_tuning_options import FineTuningOptions
from pretraining_options import PretrainingConfig
from run_log import RunLog
from tokenization import ElectraTokenizer
from workers import ALONE, Workers, checksum

# --- What is particular to a task ---


class Split(NamedTuple):
    """One file of data."""

    path: str
    examples: list
    features: Any  # a NamedTuple of arrays, among them `lengths`: int32 [N], tokens


class Best(NamedTuple):
    """The score that chooses the best checkpoint; higher is better."""

    metric: str  # name among the scores of an evaluation
    words: str  # what messages call it
    form: str  # its format there


class Task:
    """What one kind of fine-tuning does in its own way. `run_on` calls the methods in the order in which they stand
    here; `config` is a FineTuningOptions, later one with the values in use of all options.

    `predict` and `answer` are called on every worker; rank 0 returns what counts.
    """

    name = ""  # `task` in the state of its checkpoints
    title = ""  # of the plot and of messages
    log_name = ""  # of the files in logs/
    unit = ""  # what the data consists of
    doing = ""  # what a prediction is called on the progress bar
    splits: Dict[str, str] = {}  # for `train` and `dev`: the option that names the file
    resumable: Tuple[str, ...] = ()  # options that decide the result of training, besides RESUMABLE
    of_training: Tuple[str, ...] = ()  # its results in results.json that are about training, besides OF_TRAINING
    evaluated_on: Tuple[str, ...] = ()  # what its scores in results.json depend on besides the model
    metrics: Sequence[Metric] = ()
    way_out = ""  # of weights that do not fit, see `weights.load`

    def best(self, config) -> Best:
        raise NotImplementedError

    def describe(self, config) -> str:
        """The first line of the log, without the device."""
        raise NotImplementedError

    def preflight(self, config):
        """Checks the files and folders, before anything is read. Raises: UserError."""
        raise NotImplementedError

    def data_file(self, config, split: str) -> str:
        """The file of `train` or `dev`."""
        raise NotImplementedError

    def trained(self, config, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype) -> Predictor:
        """A fine-tuned model, to predict with. Raises: UserError."""
        raise NotImplementedError

    def log_fitted(self, config):
        """Logs further values in use of options that follow others."""

    def read_splits(self, config, tokenizer: ElectraTokenizer) -> Tuple[Optional[Split], Optional[Split]]:
        """The data to train on, and the development data; None where they are not used."""
        raise NotImplementedError

    def check_data(self, config, tokenizer: Optional[ElectraTokenizer]):
        """Validates what `read_splits` reads, for --check_only; without a tokenizer only the files. Raises: UserError.
        """
        raise NotImplementedError

    def about(self, config, model: str) -> dict:
        """The first entries of results.json. `model`: the name of the weights."""
        raise NotImplementedError

    def new_model(self, config, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype, seed: int
                  ) -> modeling.TaskModel:
        """The model of a fine-tuning, with initial values."""
        raise NotImplementedError

    def to_start_from(self, source: weights.Source) -> weights.Source:
        """The weights that a new model takes."""
        return source

    def state(self) -> dict:
        """Its own entries of the state of a checkpoint."""
        return {}

    def predictor(self, model: modeling.TaskModel) -> Predictor:
        """To predict with a model in training."""
        raise NotImplementedError

    def feed(self, features, batch: batching.Batch, batch_size: int, labels: bool = False,
             divisor: Optional[float] = None) -> Dict[str, tf.Tensor]:
        """The tensors of a batch, padded to `batch_size` rows.

        Args:
            labels: add what training needs.
            divisor: of the loss's sums (default: `divisor` of the batch).
        """
        raise NotImplementedError

    def divisor(self, features, batch: batching.Batch) -> float:
        """What the sums of the loss over a batch are divided by."""
        return float(len(batch.rows))

    def flops(self, config, encoder, length: int, training: bool = True) -> float:
        """The model's FLOPs on one example."""
        raise NotImplementedError

    def ratios(self, config, sums: Dict[str, float]) -> Dict[str, float]:
        """Metrics to log, from the sums of the model's loss."""
        raise NotImplementedError

    def predict(self, config, predictor: Predictor, dev: Split, workers: Workers, stop: Optional[training.StopRequest]
                ) -> Tuple[Optional[dict], Optional[Dict[str, float]]]:
        """Predicts `dev`. Returns: what `note_best` gets, and the scores; both None when stopped."""
        raise NotImplementedError

    def note_best(self, prefix: str, found: dict):
        """Called for a new best checkpoint."""

    def new_run(self, config):
        """Called before the first update of a fine-tuning that starts from scratch."""

    def answer(self, config, predictor: Predictor, dev: Optional[Split], tokenizer: ElectraTokenizer, workers: Workers,
               stop: training.StopRequest) -> dict:
        """Predicts, scores, logs and writes, at the end. Returns: its part of results.json; {} on all ranks but 0.

        Raises: Interrupted: stopped on request.
        """
        raise NotImplementedError

    def finish(self, config, results: dict):
        """Called on rank 0 with what results.json will hold."""

    def reached(self, config, results: dict) -> str:
        """The scores of a run in words, for its last lines; "" without any."""
        best = self.best(config)
        return f"{best.words} {best.form.format(results[best.metric])}" if best.metric in results else ""


# --- Setting up ---


def read_weights(config: FineTuningOptions, workers: Workers) -> Tuple[weights.Source, ElectraTokenizer]:
    """The weights to start from, validated, and their vocabulary. Raises: UserError."""
    with workers.chief_first():  # rank 0 downloads
        source = read_source(config)
    casing = {} if config.do_lower_case is None else {"do_lower_case": config.do_lower_case == "true"}
    tokenizer = weights.open_tokenizer(source, config.vocab_file, **casing)
    if source.config is None:
        raise UserError(f"{source.name} has no config.json beside it: put the encoder's there.")
    if config.max_seq_length > source.config.max_position_embeddings:
        raise UserError(f"--max_seq_length={config.max_seq_length} exceeds the {source.config.max_position_embeddings} "
                        f"positions of {source.name}: choose a shorter one.")
    preflight.check_fine_tuning_memory(config, source.config)
    return source, tokenizer


def read_source(config: FineTuningOptions) -> weights.Source:
    """The weights to start from. Without training they need a head: --init_checkpoint, else what output_dir holds."""
    if config.init_checkpoint:
        return weights.read(config.init_checkpoint, config.vocab_file)
    if config.do_train:
        try:
            return weights.read(config.electra_model)
        except hub.Unavailable as error:
            raise UserError(f"{error.sentence}; or start from your own weights, with {own_weights()}.") from error
    if not Checkpoints(config.checkpoint_dir).list():
        raise UserError(f"--init_checkpoint is missing and {config.checkpoint_dir} holds no checkpoint: name a "
                        "fine-tuned model, or add --do_train.")
    return weights.read(config.checkpoint_dir, config.vocab_file)


def own_weights() -> str:
    """The option that names the newest pre-trained checkpoint of this folder."""
    found = glob.glob(os.path.join(PretrainingConfig.results_dir, "models", "*", "checkpoints", "ckpt-*.index"))
    newest = max(found, key=os.path.getmtime, default=None)
    return f"--init_checkpoint={newest[:-len('.index')] if newest else 'CHECKPOINT (scripts/electra.sh makes some)'}"


# The options that decide the result of training, besides the content of files (`identity`) and those of the task: a run
# is only resumed if all of them are the same.
RESUMABLE = ("max_seq_length", "length_buckets", "train_batch_size", "gradient_accumulation_steps", "num_train_epochs",
             "max_steps", "train_iter_per_epoch", "learning_rate", "warmup_proportion", "weight_decay_rate",
             "layerwise_lr_decay", "precision")


def identity(task: Task, config: FineTuningOptions, source: weights.Source, tokenizer: ElectraTokenizer
             ) -> Dict[str, str]:
    """Fingerprints of the input, by the option that names it."""
    with open(task.data_file(config, "train"), "rb") as file:
        data = hashlib.sha256(file.read()).hexdigest()
    return {"init_checkpoint": weights.fingerprint(source), "train_file": data, "vocab_file": tokenizer.fingerprint}


def find_own_run(task: Task, config: FineTuningOptions, checkpoints: Checkpoints, read: Dict[str, str],
                 world_size: int = 1, encoder=None) -> Optional[dict]:
    """State of the newest checkpoint in output_dir, with its `prefix`; None where training starts from scratch.

    Raises: UserError: checkpoints of another fine-tuning without --overwrite, or any of pre-training.
    """
    newest = checkpoints.newest(1)
    state = read_state(newest.prefix) if newest else {"task": task.name}
    if checkpoints.list(2) or state.get("task") not in weights.TASKS:
        raise UserError(f"{config.checkpoint_dir} holds pre-training checkpoints: choose another --output_dir.")
    if newest is None:
        if checkpoints.list() and not config.overwrite:
            raise UserError(f"none of the checkpoints in {config.checkpoint_dir} can be read: choose another "
                            "--output_dir, or delete them with --overwrite.")
        return None
    changed, others = [], ["another task"]
    if state["task"] == task.name:
        theirs, ours = state["config"], as_resumed(config, state).fitted(world_size, encoder)
        changed = [f"--{name}={theirs.get(name)}" for name in task.resumable + RESUMABLE
                   if theirs.get(name) != getattr(ours, name)]
        if config.seed is not None and theirs["seed"] != config.seed:
            changed.append(f"--seed={theirs['seed']}")
        others = [f"another --{name}" for name, value in read.items() if state["identity"].get(name) != value]
    if not changed and not others:
        return {**state, "prefix": newest.prefix}
    if config.overwrite:
        return None
    resume = f"resume it with {' '.join(changed)}, " if changed and not others else ""
    raise UserError(f"{config.checkpoint_dir} holds checkpoints of a fine-tuning with {', '.join(changed + others)}: "
                    f"{resume}choose another --output_dir, or delete them with --overwrite.")


def as_resumed(config: FineTuningOptions, state: dict) -> FineTuningOptions:
    """The configuration with the values of a checkpoint for the options of its `FITTED` that neither this call nor the
    one that wrote it has given: they may follow a number of workers that has changed since."""
    free = [name for name in config.not_given if name in state.get("not_given", config.FITTED)]
    return dataclasses.replace(config, **{name: state["config"].get(name) for name in free})


class Inputs(NamedTuple):
    """What a fine-tuning reads, validated."""

    source: weights.Source
    tokenizer: ElectraTokenizer
    identity: Dict[str, str]
    found: Optional[dict]  # see `find_own_run`
    not_given: Sequence[str]  # see `FineTuningOptions.not_given`
    train: Split
    dev: Optional[Split]


# --- Training ---


def make_optimizer(config: FineTuningOptions, model: modeling.TaskModel, updates: int) -> optimization.AdamW:
    warmup = int(config.warmup_proportion * updates)
    schedule = optimization.Schedule(config.learning_rate, updates, warmup, 1.0, 0.0)
    multipliers = None
    if 0 < config.layerwise_lr_decay < 1:
        multipliers = optimization.layerwise_multipliers(
            [variable.name for variable in model.trainable_variables], decay=config.layerwise_lr_decay,
            num_layers=model.config.num_hidden_layers)
    return optimization.AdamW(model.trainable_variables, schedule, weight_decay_rate=config.weight_decay_rate,
                              multipliers=multipliers)


class Setup(NamedTuple):
    """A fine-tuning, validated and ready to train."""

    checkpoints: Checkpoints
    seed: int
    model: modeling.TaskModel
    optimizer: optimization.AdamW
    order: batching.RowOrder
    step: int  # updates done before
    skipped: Sequence[int]  # of these, the updates that were skipped
    num_train_steps: int


def prepare(task: Task, config: FineTuningOptions, device: devices.Device, inputs: Inputs) -> Setup:
    """Builds the model and sets its variables, from the newest checkpoint in output_dir or from the given weights."""
    workers, found = device.workers, inputs.found
    checkpoints = Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max, "output_dir")
    seed = found["config"]["seed"] if found else config.seed if config.seed is not None else random.randrange(2**31)
    seed = workers.from_chief(seed)
    with modeling.without_initial_values(found is not None or not workers.is_chief):
        model = task.new_model(config, inputs.source, inputs.tokenizer, device.compute_dtype, seed)
    # Epochs follow each other without a gap: an update may take its micro-batches from two.
    accumulation = config.gradient_accumulation_steps
    limit = config.train_iter_per_epoch * accumulation if config.train_iter_per_epoch > 0 else None
    order = batching.RowOrder(inputs.train.features.lengths, config.buckets, config.train_batch_size * workers.size,
                             seed, limit, found and found["position"])
    done = found["step"] if found else 0
    updates = config.max_steps
    if updates <= 0:
        updates = done + math.ceil(order.batches_until(config.num_train_epochs) / accumulation)
    optimizer = make_optimizer(config, model, updates)
    skipped = found.get("skipped_updates", ()) if found else ()
    setup = Setup(checkpoints, seed, model, optimizer, order, done, skipped, updates)
    if workers.is_chief:
        checkpoints.clean()
        restore_or_load(task, setup, inputs, workers)
        if not config.skip_checkpoint:
            checkpoints.check_disk(model, step=done, num_train_steps=updates, replace=found is None,
                                   keep_best=config.evaluates_in_training)
    workers.broadcast([*model.variables, *optimizer.variables])
    return setup


def restore_or_load(task: Task, setup: Setup, inputs: Inputs, workers: Workers):
    """Sets the variables and logs where they come from."""
    if inputs.found:
        saved = weights.open_checkpoint(inputs.found["prefix"], tokenizer=inputs.tokenizer)
        saved.restore(setup.model, setup.optimizer)
        logging.info("resuming from %s at step %d of %d.", saved.prefix, setup.step, setup.num_train_steps)
        training.log_differences(saved.state, workers, setup.order.batch_size, task.unit)
        warn_of_other_rates(saved.state, setup.optimizer)
        return
    for line in weights.load(task.to_start_from(inputs.source), setup.model.trainable_variables, inputs.tokenizer,
                             task.way_out):
        logging.info(line)


def warn_of_other_rates(state: dict, optimizer: optimization.AdamW):
    """Versions that did not save `lowest_multiplier` gave the layers wrong learning rates on SQuAD."""
    if min(optimizer.multipliers) < 1 and "lowest_multiplier" not in state:
        logging.warning("an earlier version wrote this checkpoint and, with --layerwise_lr_decay below 1, gave the "
                        "layers wrong learning rates; updates from here on have the right ones. Fine-tune again, with "
                        "--overwrite or another --output_dir.")


def describe_run(task: Task, config: FineTuningOptions, device: devices.Device, setup: Setup, inputs: Inputs):
    """Logs and saves what is about to run."""
    console.show(first_screen(task, config, device, setup, inputs))
    logs = os.path.join(config.output_dir, "logs")
    os.makedirs(logs, exist_ok=True)
    files.write_json(os.path.join(logs, "configuration.json"), {
        "config": {**dataclasses.asdict(config), "seed": setup.seed}, "encoder": setup.model.config.to_dict(),
        "device": device.description, "world_size": device.workers.size, "environment": training.environment()})


def first_screen(task: Task, config: FineTuningOptions, device: devices.Device, setup: Setup, inputs: Inputs
                 ) -> List[console.Line]:
    """What will happen, when its duration is known, and where to look."""
    accumulation, encoder, dev = config.gradient_accumulation_steps, setup.model.config, inputs.dev
    parameters = sum(variable.shape.num_elements() for variable in setup.model.trainable_variables) / 1e6
    per_epoch = math.ceil(setup.order.batches_per_epoch / accumulation)
    ahead = (f"updates {setup.step + 1:,} to {setup.num_train_steps:,}" if setup.step < setup.num_train_steps
             else "no update is left")
    examples = f"{setup.order.batch_size * accumulation:,} examples an update"
    rate = f"peak learning rate {config.learning_rate:g}, seed {setup.seed}"
    windows = len(inputs.train.features.lengths)
    return [
        console.Line("model", f"{inputs.source.name}, "
                     f"{console.counted(encoder.num_hidden_layers, 'layer')} of width {encoder.hidden_size}; "
                     f"parameters: {parameters:.2f} M"),
        console.Line("data", console.counted(len(inputs.train.examples), task.unit)
                     + (f" in {windows:,} windows" if windows != len(inputs.train.examples) else "")
                     + (f"; evaluated on {console.counted(len(dev.examples), task.unit)}" if dev else "")),
        console.Line("training", f"{ahead}, {per_epoch:,} an epoch; {examples}, {rate}",
                     f"{ahead}, {per_epoch:,} an epoch; {examples}, in batches of lengths "
                     f"{', '.join(map(str, config.buckets))}; {rate}"),
        console.Line("device", f"{device}, {console.counted(device.world_size, 'worker')}"),
        console.time_ahead(setup.step, setup.num_train_steps),
        console.places(config.output_dir, os.path.join(config.output_dir, "logfile.txt"),
                       os.path.join(config.output_dir, "logs", "tensorboard"), not config.skip_checkpoint)]


def last_screen(task: Task, config: FineTuningOptions, results: dict) -> List[console.Line]:
    """What was reached, and what to do next. `results`: the content of results.json."""
    lines, best, score = [], results.get("best_checkpoint"), task.best(config)
    reached = task.reached(config, results)
    if reached:
        dev_file = task.data_file(config, "dev")
        part = "a held-out part of " if dev_file == task.data_file(config, "train") else ""
        lines.append(console.Line("reached", f"{reached}, on {part}{console.short_path(dev_file)}"))
    if best:
        lines.append(console.Line("best", f"{console.short_path(best['checkpoint'])} ({score.words} "
                                  f"{score.form.format(best[score.metric])}, step {best['step']:,})"))
    lines.append(console.Line("report", console.short_path(os.path.join(config.output_dir, "report.html"))))
    return lines + console.after_fine_tuning(config)


def take_output_dir(task: Task, config: FineTuningOptions, device: devices.Device, setup: Setup, inputs: Inputs):
    """Writes what is there before the first update; called when nothing can be refused any more."""
    describe_run(task, config, device, setup, inputs)
    if not inputs.found and not config.skip_checkpoint:
        setup.checkpoints.set_replaced_aside()  # there are none without --overwrite
        task.new_run(config)
    inputs.tokenizer.save(config.output_dir)


def input_of(task: Task, config: FineTuningOptions, setup: Setup, features, workers: Workers, step: int
             ) -> Iterator[Tuple]:
    """This worker's micro-batches of an update: its rows of each batch, and seeds."""
    for micro_batch in range(config.gradient_accumulation_steps):
        batch = next(setup.order)
        own = batch._replace(rows=np.array_split(batch.rows, workers.size)[workers.rank])
        key = [setup.seed, pretrain_utils.FINE_TUNING, step, micro_batch, workers.rank]
        # Averaged over the workers, gradients are those of the whole batch, also where they have unequal parts.
        divisor = task.divisor(features, batch) / workers.size
        yield (task.feed(features, own, config.train_batch_size, True, divisor),
               tf.constant(pretrain_utils.fold_seeds(key, setup.model.num_seeds)))


def flops_of(task: Task, config: FineTuningOptions, model: modeling.TaskModel, features: Dict[str, tf.Tensor]) -> float:
    """The model's FLOPs in training on a micro-batch."""
    batch, length = features["input_ids"].shape
    return batch * task.flops(config, model.config, length)


def train(task: Task, config: FineTuningOptions, device: devices.Device, stop: training.StopRequest, inputs: Inputs
          ) -> Tuple[Predictor, dict]:
    """Fine-tunes, or resumes. Returns: the model, to predict with, and the part of results.json about training.

    Raises: see `training.run_updates`.
    """
    workers, accumulation = device.workers, config.gradient_accumulation_steps
    setup = prepare(task, config, device, inputs)
    model, order, checkpoints, predictor = setup.model, setup.order, setup.checkpoints, task.predictor(setup.model)
    work: Dict[int, float] = {}  # FLOPs of each update since the last log
    log = make_log(task, config, setup, device, work)
    if workers.is_chief:
        take_output_dir(task, config, device, setup, inputs)
    positions = {}  # by step: a checkpoint may be of an earlier update than the last one that has begun

    def micro_batches(step: int):
        positions[step - 1] = order.position
        positions.pop(step - 2 - config.log_freq, None)  # a bad update has been noticed by then
        for features, seeds in input_of(task, config, setup, inputs.train.features, workers, step):
            if workers.is_chief:  # which logs
                work[step] = work.get(step, 0.0) + workers.size * flops_of(task, config, model, features)
            yield features, seeds

    common = {"task": task.name, "head": model.settings, "identity": inputs.identity, "updates": setup.num_train_steps,
              "not_given": list(inputs.not_given), "lowest_multiplier": min(setup.optimizer.multipliers),
              **task.state(),
              **training.run_state({**dataclasses.asdict(config), "seed": setup.seed}, model,
                                   inputs.tokenizer.fingerprint, device.kind, workers)}

    def save(step: int, last: bool):
        if workers.is_chief:
            state = {**common, "position": positions.get(step, order.position),
                     "skipped_updates": [skipped for skipped in train_step.skipped() if skipped <= step]}
            checkpoints.start(1, step, model, setup.optimizer, state)
            if last:
                checkpoints.complete()

    def epoch_ended() -> bool:
        return order.batches_since_epoch_end < accumulation

    def evaluation_due(step: int) -> bool:
        return config.evaluates_after(step, epoch_ended(), setup.num_train_steps)

    progress = DevProgress(task, config, checkpoints, log, workers)
    job = training.Job(
        setup.step, setup.num_train_steps, micro_batches, config.log_freq, config.save_checkpoints_minutes,
        saves_after=lambda step: epoch_ended() or evaluation_due(step),
        evaluates_after=evaluation_due,
        save=None if config.skip_checkpoint else save,
        evaluate=lambda step: progress.note(step, *task.predict(config, predictor, inputs.dev, workers, stop)),
        bad_update=lambda step: f"update {step} (seed {setup.seed})",
        not_finite=lambda step: not_finite(step, setup, config),
        interrupted=lambda *stopped: resume_hint(config, setup.num_train_steps, *stopped),
        ends_early=progress.ends_early)
    if config.recompute:
        modeling.recompute_layers(model)
    train_step = optimization.TrainStep(model.loss, model.metric_names, setup.optimizer, accumulation,
                                        jit_compile=device.jit_compile, workers=workers,
                                        skip_budget=config.skip_bad_updates, skipped=setup.skipped)
    with checkpoints:
        rates = training.run_updates(job, train_step, log, stop, workers)
    speed = {"train_sequences_per_second": rates["sequences_per_second"]} if rates else {}
    return predictor, {"train_steps": train_step.step_done(), "seed": setup.seed,
                       "learning_rate": config.learning_rate, **speed}


class DevProgress:
    """The score on the development set during a fine-tuning: which checkpoint is the best, and when to end early.

    All of it follows from the log of metrics, so that a resumed run decides as an uninterrupted one does.
    """

    def __init__(self, task: Task, config: FineTuningOptions, checkpoints: Checkpoints, log: RunLog, workers: Workers):
        self.task, self.best = task, task.best(config)
        self.patience, self.checkpoints, self.workers = config.early_stopping_patience, checkpoints, workers
        entries = run_log.read_metrics_log(log.log.path) if workers.is_chief else []
        self.scores = {entry["step"]: entry[self.best.metric] for entry in entries
                       if entry["kind"] == "eval" and self.best.metric in entry}

    def note(self, step: int, found: Optional[dict], scores: Optional[Dict[str, float]]) -> Optional[Dict[str, float]]:
        """Called with what `Task.predict` returns; returns `scores`, which are None where it was stopped."""
        if scores:
            self.scores[step] = scores[self.best.metric]
            self.checkpoints.evaluated(1, step, scores[self.best.metric], self.best.metric, self.best.words)
            best = self.checkpoints.best().get(1, {})
            if best.get("step") == step:
                self.task.note_best(os.path.join(self.checkpoints.folder, best["checkpoint"]), found)
        return scores

    def ends_early(self) -> bool:
        """Whether the score has not improved in `patience` evaluations. Every worker calls this alike."""
        if not self.patience:
            return False
        best = max(self.scores, key=lambda step: (self.scores[step], -step), default=0)
        without = sum(step > best for step in self.scores)
        if without >= self.patience:
            logging.info("early stopping: %s on the development set has not improved in %d evaluations; it was %s at "
                         "step %d.", self.best.words, without, self.best.form.format(self.scores[best]), best)
        return self.workers.from_chief(without >= self.patience)


# The part of results.json that is about training.
OF_TRAINING = ("train_steps", "seed", "learning_rate", "train_sequences_per_second", "best_checkpoint")


def name_best(best: Best, config: FineTuningOptions, results: dict) -> dict:
    """Logs which checkpoint is the last and which is the best. Returns: its part of results.json.

    Args:
        results: what is known about the last one.
    """
    checkpoints = Checkpoints(config.checkpoint_dir)
    found, last = checkpoints.best().get(1), checkpoints.list(1)[-1:]
    if not found or not last or best.metric not in found:
        return {}

    def in_words(score: float) -> str:
        return f"({best.words} {best.form.format(score)})"

    of_last = f" {in_words(results[best.metric])}" if best.metric in results else ""
    prefix = os.path.join(config.checkpoint_dir, found["checkpoint"])
    logging.info("the last checkpoint is %s%s; the best by %s on the development set is %s %s.", last[0].prefix,
                 of_last, best.words, prefix if found["step"] != last[0].step else "the same",
                 in_words(found[best.metric]))
    return {"best_checkpoint": {"checkpoint": prefix, "step": found["step"], best.metric: found[best.metric]}}


def make_log(task: Task, config: FineTuningOptions, setup: Setup, device: devices.Device, work: Dict[int, float]
             ) -> RunLog:
    """`work`: the FLOPs of each update, which the log takes out."""
    logs = os.path.join(config.output_dir, "logs")
    return RunLog(
        task.title, "fine-tuning", task.metrics, lambda sums: task.ratios(config, sums),
        setup.optimizer.schedule, setup.step, setup.num_train_steps,
        setup.order.batch_size * config.gradient_accumulation_steps,
        json_file=config.json_summary or os.path.join(logs, f"{task.log_name}.jsonl"),
        plot_file=os.path.join(logs, f"{task.log_name}.png"),
        tensorboard_dir=os.path.join(logs, "tensorboard"), writes=device.is_chief,
        hide_bar=config.disable_progress_bar,
        flops=lambda first, last: sum(work.pop(step, 0.0) for step in range(first, last + 1)),
        peak_flops=device.peak_flops, profile=configuration.profiled(config), logs=logs,
        about={"device": device.description, "workers": device.world_size},
        page=run_page.Writer(config.output_dir), tracking=trackers.Tracking(
            os.path.basename(os.path.abspath(config.output_dir)), {**dataclasses.asdict(config), "seed": setup.seed},
            config.tracker, config.histograms))


def not_finite(step: int, setup: Setup, config: FineTuningOptions) -> str:
    setup.checkpoints.finish()
    saved = setup.checkpoints.list()
    kept, overwrite = "no checkpoint is saved yet", ""
    if saved:
        kept, overwrite = f"the last checkpoint is {saved[-1].prefix}", " and --overwrite"
    return (f"the loss or its gradient is not finite at update {step} (seed {setup.seed}), which was not applied; "
            f"{kept}: run the same command with a lower --learning_rate than {config.learning_rate:g} or a longer "
            f"--warmup_proportion{overwrite}, or skip such updates with "
            f"--skip_bad_updates={config.skip_bad_updates + 1}.")


def resume_hint(config: FineTuningOptions, num_train_steps: int, signal_name: str, step: int, anything_new: bool
                ) -> str:
    way_on = ("no checkpoint was to be written, so the same command starts from scratch" if config.skip_checkpoint
              else "the same command resumes from there")
    return f"stopped by {signal_name} at step {step} of {num_train_steps}; {way_on}."


# --- Prediction ---


class Interval(NamedTuple):
    """The timing of a prediction."""

    sequences_per_second: float
    latencies: np.ndarray  # seconds per batch

    def results(self, batch_size: int) -> Dict[str, float]:
        """Its part of results.json."""
        percentiles = {f"latency_p{p}_ms": 1000 * float(np.percentile(self.latencies, p)) for p in (50, 90, 95, 99)}
        return {"inference_sequences_per_second": self.sequences_per_second, "predict_batch_size": batch_size,
                **percentiles}


class Predictor:
    """A function of features as graphs, one for each shape of a batch, which every evaluation of a run uses again.

    Args:
        function: features -> tensors by name.
        temperature: of the probabilities of answers.
        path: of the weights, where a temperature can be kept.
    """

    def __init__(self, model: modeling.TaskModel, function: Callable, temperature: float = 1.0,
                 path: Optional[str] = None):
        self.model, self.temperature, self.path = model, temperature, path
        self._function = tf.function(function, autograph=False)
        self._graphs: Dict[tuple, Callable] = {}

    def is_traced(self, features: Dict[str, tf.Tensor]) -> bool:
        return tuple(features["input_ids"].shape) in self._graphs

    def __call__(self, features: Dict[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
        shape = tuple(features["input_ids"].shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._function.get_concrete_function(features)
        return self._graphs[shape](features)


LENGTH_STEP = 32  # tokens between the batch lengths of a large prediction
LARGE_PREDICTION = 2e14  # FLOPs: below, tracing more lengths takes longer than their padding saves


def prediction_lengths(task: Task, config: FineTuningOptions, encoder: ElectraConfig, features) -> List[int]:
    """Batch lengths of a prediction: --length_buckets, with finer steps on cpu where there is much to compute.

    On SQuAD, 92% of the work is on tokens with finer steps, after 82%; the rest is padding.
    """
    work = len(features.lengths) * task.flops(config, encoder, int(features.lengths.mean()), training=False)
    if config.device != "cpu" or work < LARGE_PREDICTION:
        return config.buckets
    return fine_lengths(config)


def fine_lengths(config: FineTuningOptions) -> List[int]:
    """--length_buckets and, between several of them, all multiples of LENGTH_STEP."""
    if len(config.buckets) == 1:
        return config.buckets
    finer = [length for length in range(LENGTH_STEP, config.max_seq_length, LENGTH_STEP)
             if length >= config.shortest_batch]
    return sorted({*config.buckets, *finer})


def run_model(task: Task, config: FineTuningOptions, predictor: Predictor, features, workers: Workers,
              stop: Optional[training.StopRequest], length: Optional[int] = None, lengths: Optional[List[int]] = None
              ) -> Tuple[Optional[Dict[str, np.ndarray]], Optional[Interval]]:
    """The predictor's outputs for every row of the features, in order, and the timing; None when stopped.

    The workers share the batches; the result does not depend on their number. Batches that trace a new length are not
    timed.

    Args:
        length: see `batching.join_outputs`.
        lengths: of batches (default: see `prediction_lengths`).
    """
    lengths = lengths or prediction_lengths(task, config, predictor.model.config, features)
    shares = workers.gather(own_outputs(task, config, predictor, features, lengths, workers, stop))
    if None in shares:
        return None, None
    outputs = batching.join_outputs((part for parts, _ in shares for part in parts), len(features.lengths), length)

    def seconds(parts, timed) -> float:
        """Of a share, had all its batches been timed: a batch takes time in proportion to its length."""
        return sum(timed.values()) * sum(batch.length for batch, _ in parts) / max(
            1, sum(parts[number][0].length for number in timed))

    slowest = max(seconds(*share) for share in shares)
    return outputs, Interval(len(features.lengths) / max(slowest, 1e-9),
                             np.array([latency for _, timed in shares for latency in timed.values()]))


def own_outputs(task: Task, config: FineTuningOptions, predictor: Predictor, features, lengths: List[int],
                workers: Workers, stop: Optional[training.StopRequest]) -> Optional[Tuple[list, Dict[int, float]]]:
    """This worker's share: each of its batches with its outputs by name, and the latencies of those that are timed."""
    planned = batching.plan_batches(features.lengths, lengths, config.predict_batch_size,
                                    np.argsort(features.lengths, kind="stable"))
    planned = planned[workers.rank::workers.size]
    parts, timed = [], {}
    hidden = config.disable_progress_bar or not (workers.is_chief and sys.stderr.isatty())
    for number, batch in enumerate(tqdm(planned, desc=task.doing, unit="batch", leave=False, disable=hidden)):
        if stop is not None and stop.signal_name:
            return None
        started = time.monotonic()
        tensors = task.feed(features, batch, config.predict_batch_size)
        is_timed = predictor.is_traced(tensors)
        if not is_timed and not timed and number == len(planned) - 1:  # so that at least one is
            predictor(tensors)
            started, is_timed = time.monotonic(), True
        found = {name: value.numpy() for name, value in predictor(tensors).items()}
        if is_timed:
            timed[number] = time.monotonic() - started
        parts.append((batch, {name: value[:len(batch.rows)] for name, value in found.items()}))
    return parts, timed


def log_timing(timing: dict):
    """Logs what `Interval.results` returns."""
    logging.info("%.1f sequences/s; a batch of %d takes %.0f ms (p50), %.0f ms (p99).",
                 timing["inference_sequences_per_second"], timing["predict_batch_size"], timing["latency_p50_ms"],
                 timing["latency_p99_ms"])


def stopped(task: Task, stop: training.StopRequest) -> Interrupted:
    """What to raise where `run_model` was stopped."""
    return Interrupted(f"stopped by {training.stopped_by(stop)} while {task.doing}; the same command resumes from the "
                       "last checkpoint.")


# --- A call of a command ---


def check_only(task: Task, config: FineTuningOptions):
    """Validates what a call reads, as `run_on` does, on the CPU, and writes nothing. Raises: UserError."""
    devices.open_device("cpu", "fp32", "false")
    world_size = max(1, config.num_workers)
    task.preflight(config)
    name = config.init_checkpoint or (config.electra_model if config.do_train else config.checkpoint_dir)
    if not os.path.exists(name) and find_checkpoint(name) is None and name != config.checkpoint_dir:
        print(f"note: {name} is downloaded at the start, and was not checked.")
        task.check_data(config, None)
        return
    source, tokenizer = read_weights(config, ALONE)
    if config.do_train:
        fingerprints = identity(task, config, source, tokenizer)
        found = find_own_run(task, config, Checkpoints(config.checkpoint_dir), fingerprints, world_size, source.config)
        config = as_resumed(config, found) if found else config
        task.check_data(config.fitted(world_size, source.config), tokenizer)
        model = task.new_model(config, source, tokenizer, tf.float32, seed=0)
        weights.load(task.to_start_from(source), model.trainable_variables, tokenizer, task.way_out)
    else:
        task.trained(config, source, tokenizer, tf.float32)
        task.check_data(config.fitted(world_size, source.config), tokenizer)


def run(task: Task, config: FineTuningOptions, stop: training.StopRequest):
    """Trains, predicts and scores, as the options say, while no other process uses output_dir."""
    device = devices.open_for(config)
    with config.sole_user(device.workers):
        run_on(task, device, config, stop)


def run_on(task: Task, device: devices.Device, config: FineTuningOptions, stop: training.StopRequest):
    """Everything is validated before the first update."""
    workers = device.workers
    run_log.start_logging(config.output_dir, f"logfile_rank{workers.rank}" if workers.rank else "logfile",
                          suffix="txt", on_console=workers.is_chief)
    if workers.is_chief and config.do_train:
        for folder in ("logs", *([] if config.skip_checkpoint else ["checkpoints"])):
            run_log.check_writable(os.path.join(config.output_dir, folder), "output_dir")
    logging.info("%s, on %s.", task.describe(config), device)
    task.preflight(config)
    source, tokenizer = read_weights(config, workers)
    fingerprints, found, predictor = {}, None, None
    if config.do_train:
        fingerprints = identity(task, config, source, tokenizer)
        if workers.is_chief:
            found = find_own_run(task, config, Checkpoints(config.checkpoint_dir), fingerprints, workers.size,
                                 source.config)
        found = workers.from_chief(found)
    else:
        predictor = task.trained(config, source, tokenizer, device.compute_dtype)
    not_given = config.not_given
    config = (as_resumed(config, found) if found else config).fitted(workers.size, source.config)
    log_rate(config, not_given, found, workers)
    task.log_fitted(config)
    with workers.chief_first():  # rank 0 writes the feature cache
        train_split, dev = task.read_splits(config, tokenizer)
    compare_inputs(task, config, source, tokenizer, dev, workers)
    results_file = os.path.join(config.output_dir, "results.json")
    results = {**known_results(task, config, source, found, results_file), **task.about(config, source.name)}
    if config.do_train:
        predictor, summary = train(task, config, device, stop, Inputs(
            source, tokenizer, fingerprints, found, not_given, train_split, dev))
        results.update(summary)
    if config.do_predict or config.do_eval:
        results.update(task.answer(config, predictor, dev, tokenizer, workers, stop))
    if workers.is_chief:
        if config.do_train and not config.skip_checkpoint:
            best = task.best(config)
            if config.do_eval:
                Checkpoints(config.checkpoint_dir).evaluated(1, results["train_steps"], results[best.metric],
                                                             best.metric, best.words)
            results.update(name_best(best, config, results if config.do_eval else {}))
        task.finish(config, results)
        files.write_json(results_file, results)
        logging.info("results are in %s.", results_file)
        if config.do_train or config.do_eval:
            run_page.write_or_warn(config.output_dir)
        if config.do_train:
            console.show(last_screen(task, config, results))


def log_rate(config: FineTuningOptions, not_given: Sequence[str], found: Optional[dict], workers: Workers):
    """Logs the learning rate and where it comes from."""
    origin = "as given"
    if "learning_rate" in not_given:
        origin = ("as in the checkpoint" if found
                  else f"{config.rate_follows(workers.size)}; --learning_rate is not given")
    if config.do_train:
        logging.info("learning rate %g, %s.", config.learning_rate, origin)


def known_results(task: Task, config: FineTuningOptions, source: weights.Source, found: Optional[dict], path: str
                  ) -> dict:
    """What of an earlier results.json still holds: of the same model, perhaps on other data."""
    if not os.path.exists(path) or not (found if config.do_train else not config.init_checkpoint):
        return {}
    known, now = configuration.read_json_object(path), task.about(config, source.name)
    scored_alike = not config.do_train and all(known.get(name) == now.get(name) for name in task.evaluated_on)
    return {name: known[name] for name in known if scored_alike or name in OF_TRAINING + task.of_training}


def compare_inputs(task: Task, config: FineTuningOptions, source: weights.Source, tokenizer: ElectraTokenizer,
                   dev: Optional[Split], workers: Workers):
    """Raises UserError: a worker reads other data, weights or another vocabulary than rank 0 does."""
    if workers.size == 1:
        return  # large weights take seconds
    facts = {"--init_checkpoint": f"one with checksum {weights.fingerprint(source)[:12]}",
             "--vocab_file": f"one with checksum {tokenizer.fingerprint[:12]}"}
    for split, flag in task.splits.items():
        if config.do_train if split == "train" else dev is not None:
            with open(task.data_file(config, split), "rb") as file:
                facts[f"--{flag}"] = f"one with checksum {checksum(file.read())}"
    workers.compare(facts)
