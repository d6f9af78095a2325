"""Fine-tunes ELECTRA on SQuAD 1.1 or 2.0, answers questions, and scores the answers.

    python run_tf_squad.py --do_train --do_predict --do_eval --data_dir=SQUAD --output_dir=results/squad \\
        --init_checkpoint=results/models/base/checkpoints
    python run_tf_squad.py --do_predict --predict_file=questions.json --output_dir=results/squad

Writes to --output_dir: checkpoints/ (one per epoch; best.json names the one with the best F1), predictions.json,
nbest_predictions.json, null_odds.json (2.0), results.json, logfile.txt, logs/ (JSON lines, TensorBoard, curves),
the vocabulary. scripts/electra_squad.sh is the recipe.

AdamW with layer-wise learning rates: a layer's is `0.8 ** (num_layers + 2 - depth)` of the head's, with depth 0 for the
embeddings and i + 1 for layer i, so that the top layer has 0.8 squared, as google-research/electra released it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import math
import os
import random
import subprocess
import sys
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import command_line
import ensemble
import preflight
from configuration import Interrupted, UserError
from pretraining_options import PretrainingConfig
from squad_options import SquadConfig

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(SquadConfig, __doc__, check=ensemble.before_tensorflow, resumable=True)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

import analysis
import configuration
import devices
import files
import flops
import hub
import modeling
import optimization
import pretrain_utils
import run_log
import squad_metrics
import squad_results
import squad_utils
import training
import weights
from checkpoints import Checkpoints, find_checkpoint, read_state
from curves import Metric
from tokenization import ElectraTokenizer
from workers import ALONE, Workers, catch_lost_workers, checksum

# --- Setting up ---


def read_weights(config: SquadConfig, workers: Workers) -> Tuple[weights.Source, ElectraTokenizer]:
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
    preflight.check_squad_memory(config, source.config)
    return source, tokenizer


def read_source(config: SquadConfig) -> weights.Source:
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


class Split(NamedTuple):
    """One SQuAD file."""

    path: str
    examples: List[squad_utils.Example]
    features: squad_utils.Features


def read_examples(config: SquadConfig, name: str) -> List[squad_utils.Example]:
    needs_answers = name == "train" or config.do_eval or config.evaluates_in_training
    offsets = squad_utils.Offsets.IGNORE
    if name == "train":
        offsets = squad_utils.Offsets.REFUSE if config.strict_answers else squad_utils.Offsets.REPAIR
    return squad_utils.read_squad(config.data_file(name), config.version_2_with_negative, needs_answers, offsets)


def lengths(config: SquadConfig) -> Dict[str, int]:
    """Arguments of `squad_utils.build_features`."""
    return dict(max_seq_length=config.max_seq_length, doc_stride=config.doc_stride,
                max_query_length=config.max_query_length)


def read_split(config: SquadConfig, name: str, tokenizer: ElectraTokenizer) -> Split:
    path, examples = config.data_file(name), read_examples(config, name)
    if config.skip_cache:
        features = squad_utils.build_features(examples, tokenizer, **lengths(config))
    else:
        features = squad_utils.cached_features(path, examples, tokenizer, config.features_dir,
                                               config.version_2_with_negative, **lengths(config))
    logging.info("%s: %d questions, %d windows of %.0f tokens on average.", path, len(examples),
                 len(features.lengths), features.lengths.mean())
    return Split(path, examples, features)


# The options that decide the result of training, besides the content of files (`identity`): a run is only resumed if
# all of them are the same.
RESUMABLE = ("version_2_with_negative", "joint_head", "answerability_from_gold", "max_seq_length", "doc_stride",
             "max_query_length", "length_buckets", "train_batch_size", "gradient_accumulation_steps",
             "num_train_epochs", "max_steps", "train_iter_per_epoch", "learning_rate", "warmup_proportion",
             "weight_decay_rate", "layerwise_lr_decay", "precision")


def identity(config: SquadConfig, source: weights.Source, tokenizer: ElectraTokenizer) -> Dict[str, str]:
    """Fingerprints of the input, by the option that names it."""
    with open(config.data_file("train"), "rb") as file:
        data = hashlib.sha256(file.read()).hexdigest()
    return {"init_checkpoint": weights.fingerprint(source), "train_file": data, "vocab_file": tokenizer.fingerprint}


def find_own_run(config: SquadConfig, checkpoints: Checkpoints, read: Dict[str, str], world_size: int = 1
                 ) -> Optional[dict]:
    """State of the newest checkpoint in output_dir, with its `prefix`; None where training starts from scratch.

    Raises: UserError: checkpoints of another fine-tuning without --overwrite, or any of pre-training.
    """
    newest = checkpoints.newest(1)
    state = read_state(newest.prefix) if newest else {"task": "squad"}
    if checkpoints.list(2) or state.get("task") != "squad":
        raise UserError(f"{config.checkpoint_dir} holds pre-training checkpoints: choose another --output_dir.")
    if newest is None:
        if checkpoints.list() and not config.overwrite:
            raise UserError(f"none of the checkpoints in {config.checkpoint_dir} can be read: choose another "
                            "--output_dir, or delete them with --overwrite.")
        return None
    theirs, ours = state["config"], as_resumed(config, state).fitted(world_size)
    changed = [f"--{name}={theirs.get(name)}" for name in RESUMABLE if theirs.get(name) != getattr(ours, name)]
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


def as_resumed(config: SquadConfig, state: dict) -> SquadConfig:
    """The configuration with the values of a checkpoint for the options of `SquadConfig.FITTED` that neither this call
    nor the one that wrote it has given: they may follow a number of workers that has changed since."""
    free = [name for name in config.not_given if name in state.get("not_given", SquadConfig.FITTED)]
    return dataclasses.replace(config, **{name: state["config"].get(name) for name in free})


def log_fitted(config: SquadConfig, not_given: Sequence[str], found: Optional[dict], workers: Workers):
    """Logs the values in use of the options of `SquadConfig.FITTED`, and where the learning rate comes from."""
    origin = "as given"
    if "learning_rate" in not_given:
        origin = "as in the checkpoint" if found else (
            f"for a global batch of {config.global_batch(workers.size)} examples; --learning_rate is not given")
    if config.do_train:
        logging.info("learning rate %g, %s.", config.learning_rate, origin)
    logging.info("windows of %d tokens, one every %d (doc_stride); questions of up to %d.", config.max_seq_length,
                 config.doc_stride, config.max_query_length)


def trained_model(config: SquadConfig, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype
                  ) -> modeling.QuestionAnswering:
    """A fine-tuned model, to answer with. Raises: UserError: it has no head, or one of the other SQuAD version."""
    model = weights.question_answering(source, tokenizer, config.beam_size, compute_dtype)
    if model.joint_head and model.version_2 != config.version_2_with_negative:
        raise UserError(f"{source.name} was trained for SQuAD {'2.0' if model.version_2 else '1.1'}: "
                        f"{'add' if model.version_2 else 'omit'} --version_2_with_negative.")
    return model


def new_model(config: SquadConfig, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype, seed: int
              ) -> modeling.QuestionAnswering:
    """The model of a fine-tuning, with initial values."""
    encoder = dataclasses.replace(source.config, vocab_size=tokenizer.vocab_size)
    return modeling.QuestionAnswering(encoder, config.joint_head, config.version_2_with_negative,
                                      config.beam_size or modeling.BEAM_SIZE, config.answerability_from_gold,
                                      compute_dtype, seed)


class Inputs(NamedTuple):
    """What a fine-tuning reads, validated."""

    source: weights.Source
    tokenizer: ElectraTokenizer
    identity: Dict[str, str]
    found: Optional[dict]  # see `find_own_run`
    not_given: Sequence[str]  # see `SquadConfig.not_given`
    train: Split
    dev: Optional[Split]


# --- Training ---


def make_optimizer(config: SquadConfig, model: modeling.QuestionAnswering, updates: int) -> optimization.AdamW:
    warmup = int(config.warmup_proportion * updates)
    schedule = optimization.Schedule(config.learning_rate, updates, warmup, 1.0, 0.0)
    multipliers = None
    if 0 < config.layerwise_lr_decay < 1:
        multipliers = optimization.layerwise_multipliers(
            [variable.name for variable in model.trainable_variables], model.config.num_hidden_layers,
            config.layerwise_lr_decay)
    return optimization.AdamW(model.trainable_variables, schedule, weight_decay_rate=config.weight_decay_rate,
                              multipliers=multipliers)


class Setup(NamedTuple):
    """A fine-tuning, validated and ready to train."""

    checkpoints: Checkpoints
    seed: int
    model: modeling.QuestionAnswering
    optimizer: optimization.AdamW
    windows: squad_utils.WindowOrder
    step: int  # updates done before
    skipped: Sequence[int]  # of these, the updates that were skipped
    num_train_steps: int


def prepare(config: SquadConfig, device: devices.Device, inputs: Inputs) -> Setup:
    """Builds the model and sets its variables, from the newest checkpoint in output_dir or from the given weights."""
    workers, found = device.workers, inputs.found
    checkpoints = Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max, "output_dir")
    seed = found["config"]["seed"] if found else config.seed if config.seed is not None else random.randrange(2**31)
    seed = workers.from_chief(seed)
    model = new_model(config, inputs.source, inputs.tokenizer, device.compute_dtype, seed)
    # Epochs follow each other without a gap: an update may take its micro-batches from two.
    accumulation = config.gradient_accumulation_steps
    limit = config.train_iter_per_epoch * accumulation if config.train_iter_per_epoch > 0 else None
    windows = squad_utils.WindowOrder(inputs.train.features.lengths, config.buckets,
                                      config.train_batch_size * workers.size, seed, limit, found and found["position"])
    done = found["step"] if found else 0
    updates = config.max_steps
    if updates <= 0:
        updates = done + math.ceil(windows.batches_until(config.num_train_epochs) / accumulation)
    optimizer = make_optimizer(config, model, updates)
    skipped = found.get("skipped_updates", ()) if found else ()
    setup = Setup(checkpoints, seed, model, optimizer, windows, done, skipped, updates)
    if workers.is_chief:
        checkpoints.clean()
        restore_or_load(setup, inputs, workers)
        if not config.skip_checkpoint:
            checkpoints.check_disk(model, step=done, num_train_steps=updates, replace=found is None,
                                   keep_best=config.evaluates_in_training)
    workers.broadcast([*model.variables, *optimizer.variables])
    return setup


def restore_or_load(setup: Setup, inputs: Inputs, workers: Workers):
    """Sets the variables and logs where they come from."""
    if inputs.found:
        saved = weights.open_checkpoint(inputs.found["prefix"], tokenizer=inputs.tokenizer)
        saved.restore(setup.model, setup.optimizer)
        logging.info("resuming from %s at step %d of %d.", saved.prefix, setup.step, setup.num_train_steps)
        training.log_differences(saved.state, workers, setup.windows.batch_size, "question")
        return
    for line in weights.load(inputs.source, setup.model.trainable_variables, inputs.tokenizer, weights.SQUAD_WAY_OUT):
        logging.info(line)


def describe_run(config: SquadConfig, device: devices.Device, setup: Setup):
    """Logs and saves what is about to run."""
    accumulation = config.gradient_accumulation_steps
    logging.info("seed %d; %d updates of %d examples, %d an epoch; batches of lengths %s.", setup.seed,
                 setup.num_train_steps, setup.windows.batch_size * accumulation,
                 math.ceil(setup.windows.batches_per_epoch / accumulation), ", ".join(map(str, config.buckets)))
    logs = os.path.join(config.output_dir, "logs")
    os.makedirs(logs, exist_ok=True)
    files.write_json(os.path.join(logs, "configuration.json"), {
        "config": {**dataclasses.asdict(config), "seed": setup.seed}, "encoder": setup.model.config.to_dict(),
        "device": device.description, "world_size": device.workers.size, "environment": training.environment()})


def take_output_dir(config: SquadConfig, device: devices.Device, setup: Setup, inputs: Inputs):
    """Writes what is there before the first update; called when nothing can be refused any more."""
    describe_run(config, device, setup)
    if not inputs.found and not config.skip_checkpoint:
        setup.checkpoints.set_replaced_aside()  # there are none without --overwrite
        with contextlib.suppress(FileNotFoundError):  # the temperatures of those
            os.remove(os.path.join(config.output_dir, weights.CALIBRATION))
    inputs.tokenizer.save(config.output_dir)


def input_of(config: SquadConfig, setup: Setup, features: squad_utils.Features, workers: Workers, step: int
             ) -> Iterator[Tuple]:
    """This worker's micro-batches of an update: its rows of each batch, and seeds."""
    for micro_batch in range(config.gradient_accumulation_steps):
        batch = next(setup.windows)
        own = batch._replace(rows=np.array_split(batch.rows, workers.size)[workers.rank])
        key = [setup.seed, pretrain_utils.FINE_TUNING, step, micro_batch, workers.rank]
        # Averaged over the workers, gradients are those of the whole batch, also where they have unequal parts.
        yield (squad_utils.feed(features, own, config.train_batch_size, True, len(batch.rows) / workers.size),
               tf.constant(pretrain_utils.fold_seeds(key, setup.model.num_seeds)))


def flops_of(config: SquadConfig, model: modeling.QuestionAnswering, features: Dict[str, tf.Tensor]) -> float:
    """The model's FLOPs in training on a micro-batch."""
    batch, length = features["input_ids"].shape
    return batch * flops.of_squad(config, model.config, length)


def train(config: SquadConfig, device: devices.Device, stop: training.StopRequest, inputs: Inputs
          ) -> Tuple[Answers, dict]:
    """Fine-tunes, or resumes. Returns: the model, to answer with, and the part of results.json about training.

    Raises: see `training.run_updates`.
    """
    workers, accumulation = device.workers, config.gradient_accumulation_steps
    setup = prepare(config, device, inputs)
    model, windows, checkpoints, answers = setup.model, setup.windows, setup.checkpoints, Answers(setup.model)
    work: Dict[int, float] = {}  # FLOPs of each update since the last log
    run_report = make_report(config, setup, device, work)
    if workers.is_chief:
        take_output_dir(config, device, setup, inputs)
    positions = {}  # by step: a checkpoint may be of an earlier update than the last one that has begun

    def micro_batches(step: int):
        positions[step - 1] = windows.position
        positions.pop(step - 2 - config.log_freq, None)  # a bad update has been noticed by then
        for features, seeds in input_of(config, setup, inputs.train.features, workers, step):
            if workers.is_chief:  # which logs
                work[step] = work.get(step, 0.0) + workers.size * flops_of(config, model, features)
            yield features, seeds

    common = {"task": "squad", "head": model.settings, "identity": inputs.identity, "updates": setup.num_train_steps,
              "not_given": list(inputs.not_given),
              **training.run_state({**dataclasses.asdict(config), "seed": setup.seed}, model,
                                   inputs.tokenizer.fingerprint, device.kind, workers)}

    def save(step: int, last: bool):
        if workers.is_chief:
            state = {**common, "position": positions.get(step, windows.position),
                     "skipped_updates": [skipped for skipped in train_step.skipped() if skipped <= step]}
            checkpoints.start(1, step, model, setup.optimizer, state)
            if last:
                checkpoints.complete()

    def epoch_ended() -> bool:
        return windows.batches_since_epoch_end < accumulation

    def evaluation_due(step: int) -> bool:
        return config.evaluates_after(step, epoch_ended(), setup.num_train_steps)

    progress = DevProgress(config, checkpoints, run_report, workers)
    job = training.Job(
        setup.step, setup.num_train_steps, micro_batches, config.log_freq, config.save_checkpoints_minutes,
        saves_after=lambda step: epoch_ended() or evaluation_due(step),
        evaluates_after=evaluation_due,
        save=None if config.skip_checkpoint else save,
        evaluate=lambda step: progress.note(step, *predict(config, answers, inputs.dev, workers, stop)),
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
        rates = training.run_updates(job, train_step, run_report, stop, workers)
    newest = newest_prefix(config, answers)
    if newest:  # a finished run may have been evaluated before
        answers.temperature = weights.read_temperature(newest)
    speed = {"train_sequences_per_second": rates["sequences_per_second"]} if rates else {}
    return answers, {"train_steps": train_step.step_done(), "seed": setup.seed,
                     "learning_rate": config.learning_rate, **speed}


class DevProgress:
    """F1 on the development set during a fine-tuning: which checkpoint is the best, and when to end early.

    All of it follows from the log of metrics, so that a resumed run decides as an uninterrupted one does.
    """

    def __init__(self, config: SquadConfig, checkpoints: Checkpoints, run_report: run_log.RunLog, workers: Workers):
        self.patience, self.checkpoints, self.workers = config.early_stopping_patience, checkpoints, workers
        entries = run_log.read_metrics_log(run_report.log.path) if workers.is_chief else []
        self.f1 = {entry["step"]: entry["f1"] for entry in entries if entry["kind"] == "eval" and "f1" in entry}

    def note(self, step: int, found: Optional[dict], scores: Optional[Dict[str, float]]) -> Optional[Dict[str, float]]:
        """Called with what `predict` returns; returns `scores`, which are None where it was stopped."""
        if scores:
            self.f1[step] = scores["f1"]
            self.checkpoints.evaluated(1, step, scores["f1"], "f1")
            best = self.checkpoints.best().get(1, {})
            if best.get("step") == step:
                keep_temperature(os.path.join(self.checkpoints.folder, best["checkpoint"]), found)
        return scores

    def ends_early(self) -> bool:
        """Whether F1 has not improved in `patience` evaluations. Every worker calls this alike."""
        if not self.patience:
            return False
        best = max(self.f1, key=lambda step: (self.f1[step], -step), default=0)
        without = sum(step > best for step in self.f1)
        if without >= self.patience:
            logging.info("early stopping: F1 on the development set has not improved in %d evaluations; it was %.2f at "
                         "step %d.", without, self.f1[best], best)
        return self.workers.from_chief(without >= self.patience)


EVALUATED_ON = ("predict_file", "metric", "language")  # what scores in results.json depend on besides the model
# The part of results.json that is about training.
OF_TRAINING = ("train_steps", "seed", "learning_rate", "train_sequences_per_second", "best_checkpoint")


def name_best(config: SquadConfig, results: dict) -> dict:
    """Logs which checkpoint is the last and which is the best. Returns: its part of results.json.

    Args:
        results: what is known about the last one.
    """
    checkpoints = Checkpoints(config.checkpoint_dir)
    best, last = checkpoints.best().get(1), checkpoints.list(1)[-1:]
    if not best or not last:
        return {}
    f1 = f" (F1 {results['f1']:.2f})" if "f1" in results else ""
    prefix = os.path.join(config.checkpoint_dir, best["checkpoint"])
    logging.info("the last checkpoint is %s%s; the best by F1 on the development set is %s (F1 %.2f).",
                 last[0].prefix, f1, prefix if best["step"] != last[0].step else "the same", best["f1"])
    return {"best_checkpoint": {"checkpoint": prefix, "step": best["step"], "f1": best["f1"]}}


METRICS = (
    Metric("loss", "loss {:.4f}", "loss {loss:#.4g}", panel="loss"),
    Metric("start_accuracy", "start {:.1%}", "start {start_accuracy:.1%} end {end_accuracy:.1%}",
           panel="start accuracy"),
    Metric("end_accuracy", "end {:.1%}", panel="end accuracy"),
    Metric("answerability_accuracy", "answerability {:.1%}", "answerable {answerability_accuracy:.1%}",
           panel="answerability accuracy"),
    Metric("exact_match", "EM {:.2f}", "EM {exact_match:.2f}"),
    Metric("exact", "EM {:.2f}", "EM {exact:.2f}"),
    Metric("f1", "F1 {:.2f}", "F1 {f1:.2f}", panel="F1"),
    Metric("null_score_diff_threshold", "at the fixed threshold {:g}", "at threshold {null_score_diff_threshold:g}"),
    Metric("best_exact", "EM {:.2f}", "EM {best_exact:.2f}"),
    Metric("best_f1", "F1 {:.2f}", "F1 {best_f1:.2f}"),
    Metric("best_f1_thresh", "at the best threshold {:.3f}", "at the best, {best_f1_thresh:.3f}"),
    Metric("learning_rate", "rate {:.2e}", "lr {learning_rate:.2e}", panel="learning rate", is_mean=False),
    Metric("gradient_norm", "gradient norm {:.2f}", panel="gradient norm"))


def accuracies(sums: Dict[str, float], answerability: bool) -> Dict[str, float]:
    """Shares of correct examples, 0 to 1, from the sums of `QuestionAnswering.loss`."""
    names = ("start", "end", "answerability") if answerability else ("start", "end")
    return {f"{name}_accuracy": sums[f"{name}_correct"] / sums["examples"] for name in names}


def make_report(config: SquadConfig, setup: Setup, device: devices.Device, work: Dict[int, float]) -> run_log.RunLog:
    """`work`: the FLOPs of each update, which the report takes out."""
    logs = os.path.join(config.output_dir, "logs")
    answerability = config.joint_head and config.version_2_with_negative
    return run_log.RunLog(
        "ELECTRA on SQuAD", "fine-tuning", METRICS, lambda sums: accuracies(sums, answerability),
        setup.optimizer.schedule, setup.step, setup.num_train_steps,
        setup.windows.batch_size * config.gradient_accumulation_steps,
        json_file=config.json_summary or os.path.join(logs, "squad.jsonl"), plot_file=os.path.join(logs, "squad.png"),
        tensorboard_dir=os.path.join(logs, "tensorboard"), writes=device.is_chief,
        hide_bar=config.disable_progress_bar,
        flops=lambda first, last: sum(work.pop(step, 0.0) for step in range(first, last + 1)),
        peak_flops=device.peak_flops, profile=configuration.profiled(config))


def not_finite(step: int, setup: Setup, config: SquadConfig) -> str:
    setup.checkpoints.finish()
    saved = setup.checkpoints.list()
    kept, overwrite = "no checkpoint is saved yet", ""
    if saved:
        kept, overwrite = f"the last checkpoint is {saved[-1].prefix}", " and --overwrite"
    return (f"the loss or its gradient is not finite at update {step} (seed {setup.seed}), which was not applied; "
            f"{kept}: run the same command with a lower --learning_rate than {config.learning_rate:g} or a longer "
            f"--warmup_proportion{overwrite}, or skip such updates with "
            f"--skip_bad_updates={config.skip_bad_updates + 1}.")


def resume_hint(config: SquadConfig, num_train_steps: int, signal_name: str, step: int, anything_new: bool) -> str:
    way_on = ("no checkpoint was to be written, so the same command starts from scratch" if config.skip_checkpoint
              else "the same command resumes from there")
    return f"stopped by {signal_name} at step {step} of {num_train_steps}; {way_on}."


# --- Prediction ---


class Interval(NamedTuple):
    """The timing of a prediction."""

    sequences_per_second: float
    latencies: np.ndarray  # seconds per batch


class Answers:
    """`model.answers` as graphs, one for each shape of a batch, which every evaluation of a run uses again."""

    def __init__(self, model: modeling.QuestionAnswering, temperature: float = 1.0, path: Optional[str] = None):
        self.model, self.temperature = model, temperature
        self.path = path  # of the weights, where a temperature can be kept
        self._function = tf.function(model.answers, autograph=False)
        self._graphs: Dict[tuple, Callable] = {}

    def __call__(self, features: Dict[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
        shape = tuple(features["input_ids"].shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._function.get_concrete_function(features)
        return self._graphs[shape](features)


def run_model(config: SquadConfig, answers: Answers, features: squad_utils.Features, workers: Workers,
              stop: Optional[training.StopRequest]) -> Tuple[Optional[Dict[str, np.ndarray]], Optional[Interval]]:
    """Outputs of `QuestionAnswering.answers` for every window, in its order, and the timing; None when stopped.

    The workers share the batches; the result does not depend on their number. Each length is traced before timing.
    """
    model, shares = answers.model, workers.gather(own_outputs(config, answers, features, workers, stop))
    if None in shares:
        return None, None
    outputs = squad_utils.join_outputs((part for parts, _ in shares for part in parts), len(features.lengths),
                                       None if model.joint_head else config.max_seq_length)
    slowest = max(sum(latencies) for _, latencies in shares)
    return outputs, Interval(len(features.lengths) / max(slowest, 1e-9),
                             np.array([latency for _, latencies in shares for latency in latencies]))


def own_outputs(config, answers: Answers, features, workers, stop) -> Optional[Tuple[list, List[float]]]:
    """This worker's share: each of its batches with its outputs by name, and their latencies."""
    batches = squad_utils.plan_batches(features.lengths, config.buckets, config.predict_batch_size,
                                       np.argsort(features.lengths, kind="stable"))
    batches = batches[workers.rank::workers.size]
    for length in sorted({batch.length for batch in batches}):
        first = next(batch for batch in batches if batch.length == length)
        answers(squad_utils.feed(features, first, config.predict_batch_size))
    parts, latencies = [], []
    hidden = config.disable_progress_bar or not (workers.is_chief and sys.stderr.isatty())
    for batch in tqdm(batches, desc="answering", unit="batch", leave=False, disable=hidden):
        if stop is not None and stop.signal_name:
            return None
        started = time.monotonic()
        tensors = squad_utils.feed(features, batch, config.predict_batch_size)
        found = {name: value.numpy() for name, value in answers(tensors).items()}
        latencies.append(time.monotonic() - started)
        parts.append((batch, {name: value[:len(batch.rows)] for name, value in found.items()}))
    return parts, latencies


def predict(config: SquadConfig, answers: Answers, dev: Split, workers: Workers,
            stop: Optional[training.StopRequest] = None, write: bool = False) -> Tuple[Optional[dict], Optional[dict]]:
    """Answers the questions of `dev`. Returns: its part of results.json, and the scores (None without gold answers).

    Both are None when stopped. With `write` the predictions go to output_dir. Only rank 0 searches for answers; the
    others return an empty dict and None.
    """
    outputs, interval = run_model(config, answers, dev.features, workers, stop)
    if outputs is None:
        return None, None
    if not workers.is_chief:
        return {}, None

    def search(temperature: float) -> squad_utils.Found:
        return squad_utils.search_answers(
            answers.model.joint_head, dev.examples, dev.features, outputs, config.n_best_size, config.max_answer_length,
            config.version_2_with_negative, temperature)

    found = search(answers.temperature)
    result = squad_results.Answers(found.nbest, found.null_odds)
    calibration, scores = {}, None
    if config.do_eval or config.evaluates_in_training:
        calibration = calibrate(config, answers, dev, outputs, found, result.predictions(config))
        scores = squad_results.scores_of(config, dev.examples, result)
    if write and config.do_eval:
        if calibration:
            result = result._replace(nbest=search(calibration["temperature"]).nbest)
            keep_temperature(newest_prefix(config, answers), calibration)
        analysis.write_after_evaluation(config, dev.examples, result)
    if write:
        squad_results.write(config, result)
    percentiles = {f"latency_p{p}_ms": 1000 * float(np.percentile(interval.latencies, p)) for p in (50, 90, 95, 99)}
    return {"inference_sequences_per_second": interval.sequences_per_second,
            "predict_batch_size": config.predict_batch_size, **percentiles, **calibration}, scores


def calibrate(config: SquadConfig, answers: Answers, dev: Split, outputs: Dict[str, np.ndarray],
              found: squad_utils.Found, predicted: Dict[str, str]) -> dict:
    """Finds the temperature of the probabilities. Returns: its part of results.json; empty where there are too few
    right or wrong answers to find one."""
    metric = squad_metrics.named(config.metric, config.language)
    right, _ = squad_metrics.score_each(dev.examples, predicted, config.version_2_with_negative, metric)
    calibration = squad_utils.calibrate(answers.model.joint_head, dev.examples, dev.features, outputs, found, predicted,
                                        right, config.max_answer_length)
    if calibration is None:
        return {}
    logging.info("probabilities: expected calibration error %.3f at temperature %.2f, %.3f without.", calibration.error,
                 calibration.temperature, calibration.error_uncalibrated)
    return {"temperature": calibration.temperature, "expected_calibration_error": calibration.error,
            "expected_calibration_error_uncalibrated": calibration.error_uncalibrated}


def newest_prefix(config: SquadConfig, answers: Answers) -> Optional[str]:
    """Where the temperature of the model that has answered is kept: its checkpoint or folder; None if nowhere."""
    if not config.do_train:
        return answers.path
    newest = None if config.skip_checkpoint else Checkpoints(config.checkpoint_dir).newest(1, quiet=True)
    return newest and newest.prefix


def keep_temperature(path: Optional[str], calibration: dict):
    """Keeps what `calibrate` has found with the weights that it was found for."""
    if not path or "temperature" not in calibration:
        return
    try:
        weights.keep_temperature(path, calibration["temperature"])
    except OSError as error:
        logging.warning("the temperature could not be kept with the model: %s could not be written (%s).",
                        error.filename, error.strerror)


def run_eval_script(config: SquadConfig, dev: Split, scores: Dict[str, float]):
    """Runs an official script on the written predictions and logs whether it agrees."""
    command = [sys.executable, config.eval_script, dev.path, os.path.join(config.output_dir, "predictions.json")]
    result = subprocess.run(command, capture_output=True, text=True)
    try:
        theirs = configuration.parse_json_object(result.stdout, config.eval_script)
    except UserError:
        logging.warning("--eval_script=%s printed no JSON object (status %d): %s", config.eval_script,
                        result.returncode, (result.stderr.strip().splitlines() or ["nothing"])[-1])
        return
    differ = [name for name in ("exact_match", "exact", "f1") if name in theirs and name in scores
              and abs(theirs[name] - scores[name]) > 1e-9]
    if differ:
        logging.warning("--eval_script disagrees: %s is %s there and %s here.", differ[0], theirs[differ[0]],
                        scores[differ[0]])
    else:
        logging.info("--eval_script agrees.")


# --- The command ---


def check_only(config: SquadConfig):
    """Validates what a call reads, as `run_on` does, on the CPU, and writes nothing. Raises: UserError."""
    devices.open_device("cpu", "fp32", "false")
    world_size = max(1, config.num_workers)
    preflight.check_squad(config)
    name = config.init_checkpoint or (config.electra_model if config.do_train else config.checkpoint_dir)
    if not os.path.exists(name) and find_checkpoint(name) is None and name != config.checkpoint_dir:
        print(f"note: {name} is downloaded at the start, and was not checked.")
        for split in config.splits:
            read_examples(config, split)
        return
    source, tokenizer = read_weights(config, ALONE)
    if config.do_train:
        fingerprints = identity(config, source, tokenizer)
        found = find_own_run(config, Checkpoints(config.checkpoint_dir), fingerprints, world_size)
        config = as_resumed(config, found) if found else config
        model = new_model(config, source, tokenizer, tf.float32, seed=0)
        weights.load(source, model.trainable_variables, tokenizer, weights.SQUAD_WAY_OUT)
    else:
        trained_model(config, source, tokenizer, tf.float32)
    config = config.fitted(world_size)
    for split in config.splits:
        squad_utils.tokenize_questions(read_examples(config, split), tokenizer, **lengths(config))


def run(config: SquadConfig, stop: training.StopRequest):
    """Trains, answers and scores, as the options say, while no other process uses output_dir."""
    device = devices.open_for(config)
    with config.sole_user(device.workers):
        run_on(device, config, stop)


def run_on(device: devices.Device, config: SquadConfig, stop: training.StopRequest):
    """Everything is validated before the first update."""
    workers = device.workers
    run_log.start_logging(config.output_dir, f"logfile_rank{workers.rank}" if workers.rank else "logfile",
                         suffix="txt", on_console=workers.is_chief)
    if workers.is_chief and config.do_train:
        for folder in ("logs", *([] if config.skip_checkpoint else ["checkpoints"])):
            run_log.check_writable(os.path.join(config.output_dir, folder), "output_dir")
    logging.info("ELECTRA on SQuAD %s, on %s.", "2.0" if config.version_2_with_negative else "1.1", device)
    preflight.check_squad(config)
    source, tokenizer = read_weights(config, workers)
    fingerprints, found, answers = {}, None, None
    if config.do_train:
        fingerprints = identity(config, source, tokenizer)
        if workers.is_chief:
            found = find_own_run(config, Checkpoints(config.checkpoint_dir), fingerprints, workers.size)
        found = workers.from_chief(found)
    else:
        local = os.path.exists(source.name) or find_checkpoint(source.name)  # else it lies in the cache of the Hub
        answers = Answers(trained_model(config, source, tokenizer, device.compute_dtype), source.temperature,
                          source.path if local else None)
    not_given = config.not_given
    config = (as_resumed(config, found) if found else config).fitted(workers.size)
    log_fitted(config, not_given, found, workers)
    with workers.chief_first():  # rank 0 writes the feature cache
        train_split = read_split(config, "train", tokenizer) if config.do_train else None
        dev = read_split(config, "dev", tokenizer) if config.predicts else None
    compare_inputs(config, source, tokenizer, workers)
    results_file = os.path.join(config.output_dir, "results.json")
    results = {"version_2": config.version_2_with_negative, "model": source.name,
               **(squad_results.evaluated_on(config) if config.do_predict or config.do_eval else {})}
    if os.path.exists(results_file) and (found if config.do_train else not config.init_checkpoint):
        known = configuration.read_json_object(results_file)  # of the same model, perhaps on other questions
        scored_alike = not config.do_train and all(known.get(name) == results.get(name) for name in EVALUATED_ON)
        results = {**{name: known[name] for name in known if scored_alike or name in OF_TRAINING}, **results}
    if config.do_train:
        answers, summary = train(config, device, stop, Inputs(
            source, tokenizer, fingerprints, found, not_given, train_split, dev))
        results.update(summary)
    if config.do_predict or config.do_eval:
        results.update(answer(config, answers, dev, workers, stop))
    if workers.is_chief and config.do_train and not config.skip_checkpoint:
        if config.do_eval:
            Checkpoints(config.checkpoint_dir).evaluated(1, results["train_steps"], results["f1"], "f1")
        results.update(name_best(config, results if config.do_eval else {}))
    if workers.is_chief:
        if config.do_predict and "f1" not in results:
            analysis.remove(config.output_dir)  # of other answers
        files.write_json(results_file, results)
        logging.info("results are in %s.", results_file)


def compare_inputs(config: SquadConfig, source: weights.Source, tokenizer: ElectraTokenizer, workers: Workers):
    """Raises UserError: a worker reads other questions, weights or another vocabulary than rank 0 does."""
    if workers.size == 1:
        return  # large weights take seconds
    facts = {"--init_checkpoint": f"one with checksum {weights.fingerprint(source)[:12]}",
             "--vocab_file": f"one with checksum {tokenizer.fingerprint[:12]}"}
    for split, flag in (("train", "--train_file"), ("dev", "--predict_file")):
        if config.do_train if split == "train" else config.predicts:
            with open(config.data_file(split), "rb") as file:
                facts[flag] = f"one with checksum {checksum(file.read())}"
    workers.compare(facts)


def answer(config: SquadConfig, answers: Answers, dev: Split, workers: Workers,
           stop: training.StopRequest) -> dict:
    """Answers and scores, with a log line for each. Returns: its part of results.json; {} on all ranks but 0.

    Raises: Interrupted: stopped on request.
    """
    timing, scores = predict(config, answers, dev, workers, stop, write=True)
    if timing is None:
        raise Interrupted(f"stopped by {training.stopped_by(stop)} while answering; the same command resumes from the "
                          "last checkpoint.")
    if not workers.is_chief:
        return {}
    if config.do_eval:
        run_log.log_metrics("", scores, METRICS)
        if config.eval_script:
            run_eval_script(config, dev, scores)
    logging.info("%.1f sequences/s; a batch of %d takes %.0f ms (p50), %.0f ms (p99).",
                 timing["inference_sequences_per_second"], config.predict_batch_size, timing["latency_p50_ms"],
                 timing["latency_p99_ms"])
    return {**timing, **(scores if config.do_eval else {})}


def main(argv):
    config = command_line.parse(SquadConfig, argv, __doc__)
    if config.ensemble:
        ensemble.before_tensorflow(config)
        return
    if config.check_only:
        check_only(config)
        return
    with training.StopRequest() as stop, catch_lost_workers():
        run(config, stop)


if __name__ == "__main__":
    command_line.run_command(main)
