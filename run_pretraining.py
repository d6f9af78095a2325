"""Pre-trains ELECTRA, one phase per run.

    python run_pretraining.py --model_size=small --pretrain_tfrecords=DIR --max_seq_length=128 \\
        --num_train_steps=10000 --num_warmup_steps=2000 --train_batch_size=64
    python run_pretraining.py --model_size=small --pretrain_tfrecords=DIR512 --max_seq_length=512 --phase2 \\
        --restore_checkpoint=latest --num_train_steps=933 --num_warmup_steps=200 --train_batch_size=16

Writes under <results_dir>/models/<model_name>: checkpoints/, logs/ (metrics as JSON lines and for TensorBoard, curves,
the console log, the full configuration), and the vocabulary. scripts/electra.sh runs both phases of the recipe.
"""
from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import command_line
import preflight
from configuration import UserError
from pretraining_options import OLD_NAMES, PretrainingConfig

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(PretrainingConfig, __doc__, OLD_NAMES, preflight.check_pretraining, resumable=True)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

import comparison
import configuration
import console
import devices
import files
import flops
import modeling
import optimization
import pretrain_utils
import run_folder
import run_log
import run_page
import samples
import trackers
import training
import weights
from checkpoints import Checkpoints, checkpoint_fingerprint
from curves import Metric
from tokenization import ElectraTokenizer
from workers import Workers, catch_lost_workers, checksum

# --- The optimizer ---


def make_optimizer(config: PretrainingConfig, variables) -> optimization.Optimizer:
    settings = dict(variables=variables, beta_1=config.opt_beta_1, beta_2=config.opt_beta_2,
                    weight_decay_rate=config.weight_decay_rate, schedule=optimization.Schedule(
                        config.learning_rate, config.num_train_steps, config.num_warmup_steps, config.lr_decay_power,
                        config.end_lr))
    if config.optimizer == "lamb":
        return optimization.LAMB(skip_adaptive=config.skip_adaptive, **settings)
    return optimization.AdamW(**settings)


# --- Where a run starts ---


class Start(NamedTuple):
    """Where a phase starts, and from what."""

    step: int  # updates done in this phase
    record: int  # global number of the next record
    restored: Optional[str] = None  # the checkpoint that was restored
    phase_1: Optional[dict] = None  # in phase 2: `step` and `fingerprint` of the phase-1 checkpoint it started from
    skipped: Sequence[int] = ()  # the updates that were skipped


def restore_or_initialise(config, model, optimizer, data: pretrain_utils.Data, tokenizer, checkpoints,
                          workers: Workers) -> Start:
    """Sets the variables and logs where they come from: a checkpoint, else --load_weights, else fresh values."""
    name = preflight.checkpoint_to_restore(config, checkpoints)
    if config.load_weights and not (config.restore_checkpoint and checkpoints.list(config.phase)):
        parts = config.weights_dir.split(",")
        source = weights.merge([weights.read(part.strip(), config.vocab_file) for part in parts])
        for line in weights.load(source, model.trainable_variables, tokenizer):
            logging.info(line)
        return Start(0, 0)
    if name is None:
        return Start(0, 0)
    saved = weights.open_checkpoint(name, tokenizer=tokenizer, pretraining=True)
    state = saved.state
    if state["phase"] == 1 and config.phase2:
        if state["step"] < state["config"]["num_train_steps"]:
            raise UserError(f"--phase2: phase 1 stopped at step {state['step']} of "
                            f"{state['config']['num_train_steps']} ({saved.prefix}): finish it first with "
                            "--restore_checkpoint=latest (scripts/electra.sh: --resume_training=true).")
        saved.restore(model)
        logging.info("phase 2 starts from the weights of %s, with a fresh optimizer.", saved.prefix)
        return Start(0, 0, saved.prefix, {"step": state["step"], "fingerprint": checkpoint_fingerprint(saved.prefix)})
    if state["phase"] != config.phase:
        raise UserError(f"checkpoint {saved.prefix} belongs to phase {state['phase']}, this run is phase "
                        f"{config.phase}: {'omit' if config.phase2 else 'add'} --phase2 or name another checkpoint.")
    saved.restore(model, optimizer)
    logging.info("resuming from %s at step %d.", saved.prefix, state["step"])
    report_other_phase_1(state, checkpoints)
    training.log_differences(state, workers, config.train_batch_size * config.gradient_accumulation_steps
                             * workers.size, "record")
    for option, value in dataclasses.asdict(config).items():
        before = state["config"].get(option, value)
        if option not in ("restore_checkpoint", "overwrite", "num_workers", "profile_steps", "tracker",
                          "histograms") and before != value:
            logging.info("note: --%s was %s when the checkpoint was written and is %s now.", option, before, value)
    if state["data"] != data.fingerprint:
        logging.info("note: the training data differs from the checkpoint's: its first epoch starts at the first "
                     "record.")
    record = state["record"] if state["data"] == data.fingerprint else 0
    return Start(state["step"], record, saved.prefix, state.get("phase_1"), state.get("skipped_updates", ()))


def report_other_phase_1(state: dict, checkpoints: Checkpoints):
    """Logs that phase 1 has another newest checkpoint than the one that phase 2 started from."""
    origin, newest = state.get("phase_1"), checkpoints.list(1)[-1:]
    if not origin or not newest:
        return
    if origin == {"step": newest[0].step, "fingerprint": checkpoint_fingerprint(newest[0].prefix)}:
        return
    logging.warning("warning: phase 2 started from step %d of phase 1 and does not include %s, the newest checkpoint "
                    "of phase 1 now: to train phase 2 from that one, move ckpt-p2-* out of %s and run the same "
                    "command.", origin["step"], newest[0].prefix, checkpoints.folder)


def make_way(config: PretrainingConfig, checkpoints: Checkpoints, start: Start):
    """Moves checkpoints aside that would be taken for this run's: with --overwrite all of an earlier run, after an
    explicit --restore_checkpoint the newer ones. Called when nothing can be refused any more."""
    if config.skip_checkpoint or start.step >= config.num_train_steps:
        return
    if config.overwrite:
        checkpoints.set_replaced_aside(2 if config.phase2 else None)
    elif start.restored and config.restore_checkpoint not in (None, "latest", "auto"):
        moved = checkpoints.set_newer_aside(config.phase, start.step, start.restored)
        second = checkpoints.list(2)
        if moved and not config.phase2 and second:
            logging.info("note: phase 2, up to %s, is not moved; it started from an earlier phase 1.",
                         second[-1].prefix)


# --- Evaluation ---


class Scored(NamedTuple):
    """The result of one held-out batch: metric sums, the discriminator's logit and label at every real token, and what
    the report page shows of it."""

    number: int
    sums: Dict[str, float]
    scores: np.ndarray
    labels: np.ndarray
    observed: Optional[samples.Observed] = None


def evaluation_function(model: modeling.PretrainingModel, records: bool = False):
    """A tf.function of a held-out batch: features and seeds -> metric sums, and arrays by name.

    The arrays: `logits` float32 and `labels` int32 [B, L] of the discriminator. With `records` also, for the report
    page: `positions` int32 and `weights` float32 [B, N] of the masked tokens; `masked_ids` int32 [B, L], the
    generator's input; `filled_ids` int32 [B, L], its samples in place of them, or without a discriminator its most
    probable tokens; then `losses` float32 [B, N] too.
    """
    @tf.function(autograph=False)
    def evaluate_batch(features, seeds):
        output, masked, arrays = model(features, seeds, training=False), None, {}
        if model.has_discriminator:
            arrays.update(logits=output.discriminator_logits, labels=output.labels)
        if records:
            masked = output.masked
            arrays.update(positions=masked.positions, weights=masked.weights, masked_ids=masked.input_ids,
                          filled_ids=output.corrupted_ids)
        if records and not model.has_discriminator:
            best = tf.reshape(tf.argmax(output.generator_logits, axis=-1, output_type=tf.int32),
                              masked.positions.shape)
            arrays.update(losses=output.generator_losses, filled_ids=pretrain_utils.replace_at(
                features["input_ids"], masked.positions, best, masked.weights))
        return model.loss_of(output, features["input_mask"])[1], arrays

    return evaluate_batch


def make_evaluator(model: modeling.PretrainingModel, config: PretrainingConfig, tokenizer: ElectraTokenizer,
                   workers: Workers):
    """A function that evaluates the model on the held-out records and returns a dict of floats.

    Records, masks and samples are the same at every call: they depend on --seed alone. The function takes a callable
    that returns whether to stop early, and then returns None. Every worker calls it and evaluates its share of the
    batches; the result does not depend on the number of workers. Rank 0 passes the metrics of each batch to `keep` and,
    with --report_samples, the metrics and what the batches show to `record`, callables (see `samples.Recorder.add`).
    """
    held_out = pretrain_utils.find_shards(config.eval_tfrecords, "eval_tfrecords")
    data = pretrain_utils.open_data(held_out, config, tokenizer)
    batches, batch_size = pretrain_utils.held_out_batches(config, data)
    if batch_size < config.train_batch_size:
        logging.info("note: the held-out records (%d) are fewer than a batch of %d, so the held-out figures are "
                     "uncertain: hold out more (build_pretraining_dataset.py --eval_fraction), or omit "
                     "--eval_tfrecords (scripts/electra.sh: --eval=none).", batch_size, config.train_batch_size)

    evaluate_batch = evaluation_function(model, records=config.report_samples > 0)
    shown = samples.candidates(config.report_samples, batches * batch_size)

    def own_batches(should_stop) -> Optional[List[Scored]]:
        scored = []
        stream = pretrain_utils.micro_batches(data.order, data.record_format, batch_size, 0, workers.rank, workers.size)
        for number in tqdm(range(workers.rank, batches, workers.size), desc="evaluating", leave=False,
                           disable=not (workers.is_chief and sys.stderr.isatty())):
            if should_stop():
                return None
            features = next(stream)
            seeds = pretrain_utils.fold_seeds([config.seed, pretrain_utils.EVALUATION, number], model.num_seeds)
            sums, arrays = evaluate_batch(*as_tensors(features, seeds))
            arrays = {name: value.numpy() for name, value in arrays.items()}
            real = features["input_mask"] > 0
            by_token = (arrays["logits"][real], arrays["labels"][real]) if model.has_discriminator else ([], [])
            observed = samples.observe(features, arrays, number * batch_size, shown, (
                tokenizer.cls_id, tokenizer.sep_id)) if config.report_samples else None
            scored.append(Scored(number, {name: float(value) for name, value in sums.items()}, *by_token, observed))
        stream.close()
        return scored

    def evaluate(should_stop=lambda: False, keep=lambda batches: None, record: Optional[Callable] = None
                 ) -> Optional[Dict[str, float]]:
        shares = workers.gather(own_batches(should_stop))
        if None in shares:
            return None
        # In the order of the data, so that the sums are bit-identical for any number of workers.
        scored = sorted((batch for share in shares for batch in share), key=lambda batch: batch.number)
        if workers.is_chief:
            keep([modeling.ratios(batch.sums) for batch in scored])
        metrics = modeling.ratios({name: sum(batch.sums[name] for batch in scored) for name in model.metric_names})
        if model.generator:
            metrics["generator_perplexity"] = math.exp(min(metrics["generator_loss"], 700.0))
        scores, labels = (np.concatenate([getattr(batch, name) for batch in scored]) for name in ("scores", "labels"))
        if model.has_discriminator:
            metrics["discriminator_auc"] = samples.area_under_curve(scores, labels)
        if record and config.report_samples and workers.is_chief:
            record(metrics, scores, labels, [batch.observed for batch in scored])
        return metrics

    return evaluate


# --- Training ---

def as_tensors(features: Dict[str, np.ndarray], seeds: np.ndarray):
    return {name: tf.constant(value) for name, value in features.items()}, tf.constant(seeds)


class Setup(NamedTuple):
    """A phase, validated and ready to train."""

    checkpoints: Checkpoints
    tokenizer: ElectraTokenizer
    data: pretrain_utils.Data
    model: modeling.PretrainingModel
    optimizer: optimization.Optimizer
    evaluate: Optional[Callable]  # see `make_evaluator`; None without held-out data
    start: Start
    global_batch: int  # sequences of an update


def prepare(config: PretrainingConfig, device: devices.Device) -> Setup:
    """Opens the data, builds the model and restores it: everything that can be refused, before the first update."""
    workers = device.workers
    checkpoints = Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max, keep_every=config.keep_every_steps)
    preflight.refuse_second_run(config, checkpoints)
    if workers.is_chief:
        run_log.check_writable(config.model_dir, "results_dir")
        if not config.skip_checkpoint:
            run_log.check_writable(config.checkpoint_dir, "results_dir")
    run_log.check_writable(config.logs, "log_dir")
    run_log.start_logging(config.logs, f"pretraining_phase{config.phase}_rank{workers.rank}",
                         on_console=workers.is_chief)
    logging.info("ELECTRA %s, phase %d, on %s.", config.run_name, config.phase, device)
    shards = pretrain_utils.find_shards(config.pretrain_tfrecords, "pretrain_tfrecords")
    tokenizer = pretrain_utils.open_tokenizer(config, shards)
    with workers.chief_first():  # rank 0 writes the indices that are missing
        data = pretrain_utils.open_data(shards, config, tokenizer)
        with modeling.without_initial_values(preflight.restores(config, checkpoints) or not workers.is_chief):
            model = modeling.pretraining_model(config.encoder_config(tokenizer.vocab_size), config, tokenizer,
                                               device.compute_dtype)
        evaluate = make_evaluator(model, config, tokenizer, workers) if config.eval_tfrecords else None
    compare_inputs(config, data, tokenizer, workers)
    optimizer = make_optimizer(config, model.trainable_variables)
    global_batch = config.train_batch_size * config.gradient_accumulation_steps * workers.size
    start = None
    if workers.is_chief:
        checkpoints.clean()
        start = restore_or_initialise(config, model, optimizer, data, tokenizer, checkpoints, workers)
        if not config.skip_checkpoint:
            checkpoints.check_disk(model, config.phase, start.step, config.num_train_steps, config.overwrite,
                                   keep_best=evaluate is not None)
    start = workers.from_chief(start)
    workers.broadcast([*model.variables, *optimizer.variables])
    return Setup(checkpoints, tokenizer, data, model, optimizer, evaluate, start, global_batch)


def compare_inputs(config: PretrainingConfig, data: pretrain_utils.Data, tokenizer: ElectraTokenizer, workers: Workers):
    """Raises UserError: a worker reads other shards or another vocabulary than rank 0 does."""
    def sizes(paths):
        weights = [part.weight for part in paths.mixture]
        return checksum([(os.path.basename(path), os.path.getsize(path)) for path in paths] + weights)

    shards = pretrain_utils.find_shards(config.pretrain_tfrecords, "pretrain_tfrecords")
    facts = {"--pretrain_tfrecords": f"{data.order.records} records with checksum {sizes(shards)}",
             "--vocab_file": f"one with checksum {tokenizer.fingerprint[:12]}"}
    if config.eval_tfrecords:
        held_out = pretrain_utils.find_shards(config.eval_tfrecords, "eval_tfrecords")
        facts["--eval_tfrecords"] = f"{len(held_out)} shards with checksum {sizes(held_out)}"
    workers.compare(facts)


def input_of(config: PretrainingConfig, setup: Setup, workers: Workers) -> Callable[[int], Iterator[Tuple]]:
    """What `training.Job` calls for this worker's micro-batches of each update, in order: step -> (features, seeds)."""
    batches = pretrain_utils.micro_batches(setup.data.order, setup.data.record_format, config.train_batch_size,
                                           setup.start.record, workers.rank, workers.size)

    def micro_batches(step: int):
        for micro_batch in range(config.gradient_accumulation_steps):
            key = [config.seed, pretrain_utils.TRAINING, config.phase, step, micro_batch, workers.rank]
            yield as_tensors(next(batches), pretrain_utils.fold_seeds(key, setup.model.num_seeds))

    return micro_batches


def train(config: PretrainingConfig, device: devices.Device, stop: training.StopRequest):
    """Runs one phase to its end, or until a stop is requested.

    Raises: see `training.run_updates`.
    """
    workers = device.workers
    setup = prepare(config, device)
    model, data, start, checkpoints = setup.model, setup.data, setup.start, setup.checkpoints
    run_report = make_report(config, setup, device)
    if workers.is_chief:  # nothing can be refused any more
        describe_run(config, device, setup)
        make_way(config, checkpoints, start)
        setup.tokenizer.save(config.model_dir)
    recorder = workers.is_chief and samples.Recorder(
        os.path.join(config.logs, f"samples_phase{config.phase}.jsonl"), start.step, config.updates_per_eval,
        config.report_samples, setup.tokenizer)
    common = training.run_state(dataclasses.asdict(config), model, setup.tokenizer.fingerprint, device.kind, workers)

    def save(step: int, last: bool):
        if workers.is_chief:
            state = {**common, "data": data.fingerprint,
                     "record": start.record + (step - start.step) * setup.global_batch,
                     "skipped_updates": [skipped for skipped in train_step.skipped() if skipped <= step]}
            if start.phase_1:
                state["phase_1"] = start.phase_1
            checkpoints.start(config.phase, step, model, setup.optimizer, state)
            if last:
                checkpoints.complete()

    evaluated: Dict[str, float] = {}  # the last held-out metrics

    def evaluate(step: int) -> Optional[Dict[str, float]]:
        def keep(batches: List[Dict[str, float]]):
            with run_report.log.surviving(comparison.batches_file(config.logs, config.phase)):
                comparison.write_batches(config.logs, config.phase, step, batches)

        metrics = setup.evaluate(lambda: stop.signal_name, keep, recorder and functools.partial(recorder.add, step))
        if metrics and workers.is_chief:
            evaluated.update(metrics)
            checkpoints.evaluated(config.phase, step, held_out_loss(metrics, config))
        return metrics

    job = training.Job(
        start.step, config.num_train_steps, input_of(config, setup, workers), config.updates_per_log,
        config.save_checkpoints_minutes,
        saves_after=lambda step: step % config.save_checkpoints_steps == 0,
        evaluates_after=lambda step: setup.evaluate and (step == config.num_train_steps
                                                         or step % config.updates_per_eval == 0),
        save=None if config.skip_checkpoint else save,
        evaluate=evaluate,
        bad_update=lambda step: bad_update(step, config),
        not_finite=lambda step: not_finite(step, config, checkpoints),
        interrupted=lambda *stopped: resume_hint(config, *stopped))
    if config.recompute:
        modeling.recompute_layers(model)
    train_step = optimization.TrainStep(model.loss, model.metric_names, setup.optimizer,
                                        config.gradient_accumulation_steps, jit_compile=device.jit_compile,
                                        workers=workers, skip_budget=config.skip_bad_updates, skipped=start.skipped)
    try:
        with checkpoints:
            training.run_updates(job, train_step, run_report, stop, workers)
        if workers.is_chief:
            console.show(last_screen(config, device, checkpoints, evaluated))
    finally:
        if data.mixture:
            done = start.record + (train_step.step_done() - start.step) * setup.global_batch
            logging.info("the mixture has given %s.", data.mixture.contributions(done))


def held_out_loss(metrics: Dict[str, float], config: PretrainingConfig) -> float:
    """The objective on held-out data: the generator's loss plus --disc_weight times the discriminator's, those there
    are."""
    return metrics.get("generator_loss", 0.0) + config.disc_weight * metrics.get("discriminator_loss", 0.0)


def evaluate_only(config: PretrainingConfig, device: devices.Device):
    """Prints the held-out metrics of one checkpoint, as one line and as JSON.

    Model and objective are those of the checkpoint.
    """
    shards = pretrain_utils.find_shards(config.eval_tfrecords, "eval_tfrecords")
    tokenizer = pretrain_utils.open_tokenizer(config, shards)
    name = preflight.checkpoint_to_restore(config, Checkpoints(config.checkpoint_dir))
    saved = weights.open_checkpoint(name, tokenizer=tokenizer, pretraining=True)
    config = config.with_model_of(PretrainingConfig.from_saved(saved.state["config"]))
    with modeling.without_initial_values():
        model = modeling.pretraining_model(saved.encoder, config, tokenizer, device.compute_dtype)
    with device.workers.chief_first():  # rank 0 writes the indices that are missing
        evaluate = make_evaluator(model, config, tokenizer, device.workers)
    saved.restore(model)
    prefix, state, metrics = saved.prefix, saved.state, evaluate()
    if not device.is_chief:
        return
    held_out = run_log.format_metrics(metrics, METRICS, short=True)
    print(f"{prefix}, step {state['step']} of phase {state['phase']}, held out: {held_out}")
    print(json.dumps({"checkpoint": prefix, "step": state["step"], "phase": state["phase"], **metrics}))


def describe_run(config, device, setup: Setup):
    """Logs and saves what is about to run."""
    model, data, start, global_batch = setup.model, setup.data, setup.start, setup.global_batch
    console.show(first_screen(config, device, setup))
    if data.mixture:
        shares = ", ".join(f"{name} {share / data.mixture.BLOCK:.2%}"
                           for name, share in zip(data.mixture.names, data.mixture.shares))
        updates = max(0, config.num_train_steps - start.step)
        logging.info("mixture: %s; after update %d it will have given %s.", shares, config.num_train_steps,
                     data.mixture.contributions(start.record + updates * global_batch))
    if data.record_format.has_static_masks:
        logging.info("the records hold BERT's static masks: the original tokens are restored before dynamic masking.")
    files.write_json(os.path.join(config.logs, f"configuration_phase{config.phase}.json"), {
        "config": dataclasses.asdict(config), "discriminator": model.config.to_dict(),
        "generator": model.generator.config.to_dict() if model.generator else None, "data": data.fingerprint,
        "device": device.description, "world_size": device.world_size, "environment": training.environment()})


def first_screen(config: PretrainingConfig, device: devices.Device, setup: Setup) -> List[console.Line]:
    """What will happen, when its duration is known, and where to look."""
    model, data, start, global_batch = setup.model, setup.data, setup.start, setup.global_batch

    def millions(*parts) -> float:
        unique = {id(variable): variable for part in parts if part for variable in part.trainable_variables}
        return sum(variable.shape.num_elements() for variable in unique.values()) / 1e6

    own_generator = model.generator if model.generator is not model.encoder else None
    size = (f"{config.model_size}, {console.counted(model.config.num_hidden_layers, 'layer')} of width "
            f"{model.config.hidden_size}; parameters: {millions(model):.2f} M")
    parts = (f" (embeddings {millions(model.embeddings, model.generator_embeddings):.2f} M, encoder "
             f"{millions(model.encoder):.2f} M, separate generator {millions(own_generator):.2f} M, heads "
             f"{millions(model.generator_head, model.discriminator_head):.2f} M)")
    updates = config.num_train_steps - start.step
    ahead = (f"updates {start.step + 1:,} to {config.num_train_steps:,}, "
             f"{updates * global_batch / data.order.records:.2f} epochs" if updates > 0 else "no update is left")
    return [
        console.Line("model", size, size + parts),
        console.Line("data", f"{console.counted(data.order.records, 'record')} of {config.max_seq_length} tokens in "
                     f"{console.counted(len(data.order.shards), 'shard')}"
                     + ("; evaluated on held-out records" if setup.evaluate else "; no held-out records")),
        console.Line("training", f"{ahead}; {console.counted(global_batch, 'sequence')} "
                     f"({global_batch * config.max_seq_length:,} tokens) an update",
                     f"{ahead}; {global_batch:,} sequences ({global_batch * config.max_seq_length:,} tokens) an "
                     f"update; {config.optimizer}, peak learning rate {config.learning_rate:g}"),
        console.Line("device", f"{device}, {console.counted(device.world_size, 'worker')}"),
        console.time_ahead(start.step, config.num_train_steps),
        console.places(config.model_dir, log_file(config), tensorboard_dir(config), not config.skip_checkpoint)]


def log_file(config: PretrainingConfig) -> str:
    return os.path.join(config.logs, f"pretraining_phase{config.phase}_rank0.log")


def tensorboard_dir(config: PretrainingConfig) -> str:
    return os.path.join(config.logs, "tensorboard", f"phase{config.phase}")


def last_screen(config: PretrainingConfig, device: devices.Device, checkpoints: Checkpoints,
                metrics: Optional[Dict[str, float]]) -> List[console.Line]:
    """What was reached, and what to do next. `metrics`: those of the last evaluation, where this call made one."""
    lines, best, last = [], checkpoints.best().get(config.phase), checkpoints.list(config.phase)[-1:]
    prefix = last[0].prefix if last else None
    if metrics:
        lines.append(console.Line("reached", f"held out: {run_log.format_metrics(metrics, METRICS, short=True)}"))
    if best:
        prefix = os.path.join(config.checkpoint_dir, best["checkpoint"])
        lines.append(console.Line("best", f"{console.short_path(prefix)} (held-out loss {best['loss']:.4g}, step "
                                  f"{best['step']:,})"))
    elif prefix:
        lines.append(console.Line("last", console.short_path(prefix)))
    lines.append(console.Line("report", console.short_path(os.path.join(config.model_dir, "report.html"))))
    return lines + console.after_pretraining(config, device.kind, prefix)


METRICS = (
    Metric("loss", "loss {:.4f}", "loss {loss:#.4g}"),
    Metric("generator_loss", "generator {:.4f}", "gen {generator_loss:#.4g} {generator_accuracy:.1%}",
           panel="generator loss"),
    Metric("generator_perplexity", "perplexity {:.2f}"),
    Metric("generator_accuracy", "accuracy {:.1%}", panel="generator accuracy"),
    Metric("discriminator_loss", "discriminator {:.4f}", "disc {discriminator_loss:#.4g} {discriminator_accuracy:.1%}",
           panel="discriminator loss"),
    Metric("discriminator_accuracy", "accuracy {:.1%}"),
    Metric("discriminator_precision", "precision {:.1%}"),
    Metric("discriminator_recall", "recall {:.1%}"),
    Metric("discriminator_gain", "gain {:+.2%}", panel="discriminator gain"),
    Metric("discriminator_auc", "AUC {:.4f}", "AUC {discriminator_auc:.4f} gain {discriminator_gain:+.1%}",
           panel="discriminator AUC"),
    Metric("learning_rate", "rate {:.2e}", "lr {learning_rate:.2e}", panel="learning rate", is_mean=False),
    Metric("gradient_norm", "gradient norm {:.2f}", panel="gradient norm"))


def make_report(config: PretrainingConfig, setup: Setup, device: devices.Device) -> run_log.RunLog:
    sequence_flops = flops.of_pretraining(config, setup.model.config)
    name = f"pretraining_phase{config.phase}"
    return run_log.RunLog(
        f"ELECTRA {config.run_name}, phase {config.phase}", f"phase {config.phase}", METRICS, modeling.ratios,
        setup.optimizer.schedule, setup.start.step, config.num_train_steps, setup.global_batch,
        json_file=config.json_summary or os.path.join(config.logs, f"{name}.jsonl"),
        plot_file=os.path.join(config.logs, f"{name}.png"),
        tensorboard_dir=tensorboard_dir(config), writes=device.is_chief,
        flops=lambda first, last: (last - first + 1) * setup.global_batch * sequence_flops,
        peak_flops=device.peak_flops, profile=configuration.profiled(config), logs=config.logs,
        about={"phase": config.phase, "device": device.description, "workers": device.world_size, "data": {
            "sequences_per_update": setup.global_batch, **run_folder.describe_data(
                [shard.path for shard in setup.data.order.shards])}} if device.is_chief else {},
        page=run_page.Writer(config.model_dir, config.logs), tracking=trackers.Tracking(
            config.run_name, dataclasses.asdict(config), config.tracker, config.histograms))


def bad_update(step: int, config: PretrainingConfig) -> str:
    return f"update {step} (batch seed {[config.seed, pretrain_utils.TRAINING, config.phase, step]})"


def not_finite(step: int, config: PretrainingConfig, checkpoints: Checkpoints) -> str:
    checkpoints.finish()
    newest = checkpoints.list(config.phase)
    kept, way_out = "no checkpoint is saved yet", "run the same command"
    if newest:
        kept, way_out = f"the last checkpoint is {newest[-1].prefix}", f"resume {preflight.to_resume(config)}"
    return (f"the loss or its gradient is not finite at {bad_update(step, config)}, which was not applied; {kept}: "
            f"{way_out}, but give a lower --learning_rate or a longer warm-up (--num_warmup_steps), or skip such "
            f"updates with --skip_bad_updates={config.skip_bad_updates + 1}.")


def resume_hint(config: PretrainingConfig, signal_name: str, step: int, anything_new: bool) -> str:
    stopped = f"stopped by {signal_name} at step {step} of phase {config.phase}"
    if config.skip_checkpoint or not anything_new:
        return f"{stopped}; there was nothing new to save."
    return f"{stopped}, which is saved; resume {preflight.to_resume(config)}."


def main(argv):
    config = command_line.parse(PretrainingConfig, argv, __doc__, OLD_NAMES)
    if config.check_only:
        preflight.check_pretraining(config)
        return
    device = devices.open_for(config)
    with catch_lost_workers():
        if config.eval_only:
            evaluate_only(config, device)
            return
        with training.StopRequest() as stop, config.sole_user(device.workers):
            train(config, device, stop)


if __name__ == "__main__":
    command_line.run_command(main)
