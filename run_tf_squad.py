"""Fine-tunes ELECTRA on SQuAD 1.1 or 2.0, answers questions, and scores the answers.

    python run_tf_squad.py --do_train --do_predict --do_eval --data_dir=SQUAD --output_dir=results/squad \\
        --init_checkpoint=results/models/base/checkpoints
    python run_tf_squad.py --do_predict --predict_file=questions.json --output_dir=results/squad

Writes to --output_dir: checkpoints/ (one an epoch), predictions.json, nbest_predictions.json, null_odds.json (2.0),
results.json, logfile.txt, logs/ (JSON lines, TensorBoard, curves), vocab.txt. scripts/electra_squad.sh is the recipe.

AdamW with layer-wise learning rates: a layer's is `0.8 ** (num_layers + 2 - depth)` of the head's, with depth 0 for the
embeddings and i + 1 for layer i, so that the top layer has 0.8 squared, as google-research/electra released it.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow loads; its start-up notes would hide ours

import numpy as np
import tensorflow as tf
from absl import flags, logging
from tqdm import tqdm

import configuration
import devices
import modeling
import optimization
import pretrain_utils
import squad_utils
import training
import weights
from configuration import Interrupted, RunFailed, SquadConfig, UserError
from tokenization import ElectraTokenizer

# --- Batches ---


class Batch(NamedTuple):
    """Rows of the features that go through the network together, padded to `length`."""

    length: int
    rows: np.ndarray  # int [n], at most the batch size


def plan_batches(lengths: np.ndarray, buckets: List[int], batch_size: int, order: np.ndarray) -> List[Batch]:
    """Groups rows, taken in `order`, by the first bucket that holds them: ceil(n / batch_size) batches, one not full.

    What is left in a bucket at the end goes to the next longer one, so that every row comes exactly once.
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


NETWORK_INPUTS = ("input_ids", "input_mask", "segment_ids", "p_mask")
LABELS = ("start_positions", "end_positions", "is_impossible")


def feed(features: squad_utils.Features, batch: Batch, batch_size: int, labels: bool = False) -> Dict[str, tf.Tensor]:
    """The tensors of a batch, filled up to `batch_size` with its first row, which then has weight 0."""
    fill = batch_size - len(batch.rows)
    rows = np.concatenate([batch.rows, np.repeat(batch.rows[:1], fill)])
    tensors = {name: tf.constant(getattr(features, name)[rows, :batch.length]) for name in NETWORK_INPUTS}
    if labels:
        tensors.update({name: tf.constant(getattr(features, name)[rows]) for name in LABELS})
        tensors["weights"] = tf.constant([1.0] * len(batch.rows) + [0.0] * fill)
    return tensors


# --- Setting up ---


def read_source(config: SquadConfig) -> weights.Source:
    """The weights to start from. Without training they need a head: --init_checkpoint, else what output_dir holds."""
    if config.init_checkpoint:
        return weights.read(config.init_checkpoint)
    if config.do_train:
        return weights.read(config.electra_model)
    if not training.Checkpoints(config.checkpoint_dir).list():
        raise UserError(f"--init_checkpoint is missing and {config.checkpoint_dir} holds no checkpoint: name a "
                        "fine-tuned model, or add --do_train.")
    return weights.read(config.checkpoint_dir)


class Split(NamedTuple):
    """One SQuAD file."""

    path: str
    examples: List[squad_utils.Example]
    features: squad_utils.Features


def read_split(config: SquadConfig, name: str, tokenizer: ElectraTokenizer, needs_answers: bool) -> Split:
    path = config.data_file(name)
    examples = squad_utils.read_squad(path, config.version_2_with_negative, needs_answers)
    lengths = dict(max_seq_length=config.max_seq_length, doc_stride=config.doc_stride,
                   max_query_length=config.max_query_length)
    if config.skip_cache:
        features = squad_utils.build_features(examples, tokenizer, **lengths)
    else:
        features = squad_utils.cached_features(path, examples, tokenizer,
                                               config.cache_dir or os.path.join(config.output_dir, "cache"),
                                               config.version_2_with_negative, **lengths)
    logging.info("%s: %d questions, %d windows of %.0f tokens on average.", path, len(examples),
                 len(features.lengths), features.lengths.mean())
    return Split(path, examples, features)


# What decides the weights that training ends with, beside the content of files (`identity`): a run is only resumed
# where all of it is the same.
RESUMABLE = ("version_2_with_negative", "joint_head", "answerability_from_gold", "max_seq_length", "doc_stride",
             "max_query_length", "length_buckets", "train_batch_size", "gradient_accumulation_steps",
             "num_train_epochs", "max_steps", "train_iter_per_epoch", "learning_rate", "warmup_proportion",
             "weight_decay_rate", "layerwise_lr_decay", "precision")


def identity(config: SquadConfig, source: weights.Source, tokenizer: ElectraTokenizer) -> Dict[str, str]:
    """Fingerprints of what is read, by the option that names it."""
    with open(config.data_file("train"), "rb") as file:
        data = hashlib.sha256(file.read()).hexdigest()
    return {"init_checkpoint": weights.fingerprint(source), "train_file": data, "vocab_file": tokenizer.fingerprint}


def find_own_run(config: SquadConfig, checkpoints: training.Checkpoints, read: Dict[str, str]) -> Optional[dict]:
    """State of the newest checkpoint in output_dir, with its `prefix`; None where training starts anew.

    Raises: UserError: checkpoints of another fine-tuning without --overwrite, or any of pre-training.
    """
    newest = checkpoints.newest(1)
    state = training.read_state(newest.prefix) if newest else {"task": "squad"}
    if checkpoints.list(2) or state.get("task") != "squad":
        raise UserError(f"{config.checkpoint_dir} holds pre-training checkpoints: name another --output_dir.")
    if newest is None:
        if checkpoints.list() and not config.overwrite:
            raise UserError(f"{config.checkpoint_dir} holds no checkpoint that can be read: name another --output_dir, "
                            "or delete them with --overwrite.")
        return None
    theirs = state["config"]
    changed = [f"--{name}={theirs.get(name)}" for name in RESUMABLE if theirs.get(name) != getattr(config, name)]
    changed += [f"another --{name}" for name, value in read.items() if state["identity"].get(name) != value]
    if config.seed is not None and theirs["seed"] != config.seed:
        changed.append(f"--seed={theirs['seed']}")
    if not changed:
        return {**state, "prefix": newest.prefix}
    if config.overwrite:
        return None
    raise UserError(f"{config.checkpoint_dir} holds checkpoints of a fine-tuning with {changed[0]}: name another "
                    "--output_dir, or delete them with --overwrite.")


def check_model(config: SquadConfig, source: weights.Source):
    """Refuses, before anything expensive, weights that do not go with what is asked for."""
    if source.config is None:
        raise UserError(f"{source.name} has no config.json beside it: put the encoder's there.")
    if config.max_seq_length > source.config.max_position_embeddings:
        raise UserError(f"--max_seq_length={config.max_seq_length} exceeds the {source.config.max_position_embeddings} "
                        f"positions of {source.name}: choose a shorter one.")


# --- Training ---


class Plan(NamedTuple):
    """How many updates there are, and which batches each takes."""

    updates: int
    updates_per_epoch: int
    batches: Iterator[Batch]  # for ever, from the first update that is still to be done


def plan_training(config: SquadConfig, lengths: np.ndarray, seed: int, done: int) -> Plan:
    """Epochs follow each other without a gap: an update may take its micro-batches from two."""
    micro_batches = math.ceil(len(lengths) / config.train_batch_size)
    updates_per_epoch = math.ceil(micro_batches / config.gradient_accumulation_steps)
    if config.train_iter_per_epoch > 0 and config.train_iter_per_epoch < updates_per_epoch:
        updates_per_epoch = config.train_iter_per_epoch
        micro_batches = updates_per_epoch * config.gradient_accumulation_steps
    updates = math.ceil(config.num_train_epochs * micro_batches / config.gradient_accumulation_steps)

    def batches():
        epoch, first = divmod(done * config.gradient_accumulation_steps, micro_batches)
        while True:
            order = pretrain_utils.permutation([seed, epoch], len(lengths))
            yield from plan_batches(lengths, config.buckets, config.train_batch_size, order)[first:micro_batches]
            epoch, first = epoch + 1, 0

    return Plan(config.max_steps if config.max_steps > 0 else updates, updates_per_epoch, batches())


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


def train(config: SquadConfig, device: devices.Device, stop: training.StopRequest, source: weights.Source,
          tokenizer: ElectraTokenizer, found: Optional[dict], read: Dict[str, str], split: Split,
          dev: Optional[Split]) -> Tuple[modeling.QuestionAnswering, dict]:
    """Fine-tunes, or goes on with what `found` says. Returns: the model and what results.json says of training.

    Raises: Interrupted: stopped on request, after saving. RunFailed: a loss or gradient was not finite.
    """
    checkpoints = training.Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max)
    seed = found["config"]["seed"] if found else config.seed if config.seed is not None else random.randrange(2**31)
    encoder = dataclasses.replace(source.config, vocab_size=tokenizer.vocab_size)
    model = modeling.QuestionAnswering(encoder, config.joint_head, config.version_2_with_negative,
                                       config.beam_size or modeling.BEAM_SIZE, config.answerability_from_gold,
                                       device.compute_dtype, seed)
    done = found["step"] if found else 0
    plan = plan_training(config, split.features.lengths, seed, done)
    optimizer = make_optimizer(config, model, plan.updates)
    if not config.skip_checkpoint:
        checkpoints.check_disk(model)
    if found:
        training.restore(found["prefix"], model, optimizer)
        logging.info("going on from %s at step %d of %d.", found["prefix"], done, plan.updates)
        if found["environment"] != training.environment():
            logging.info("note: this machine or TensorFlow differs from the checkpoint's: results agree only to "
                         "rounding.")
    else:
        for line in weights.load(source, model.trainable_variables, tokenizer, weights.SQUAD_WAY_OUT):
            logging.info(line)
        checkpoints.clear()  # only now that the new training is known to be possible; empty without --overwrite
    tokenizer.save(config.output_dir)
    global_batch = config.train_batch_size * config.gradient_accumulation_steps * device.world_size
    logging.info("seed %d; %d updates of %d examples, %d an epoch; batches of lengths %s.", seed, plan.updates,
                 global_batch, plan.updates_per_epoch, ", ".join(map(str, config.buckets)))
    logs = os.path.join(config.output_dir, "logs")
    os.makedirs(logs, exist_ok=True)
    configuration.write_json(os.path.join(logs, "configuration.json"), {
        "config": {**dataclasses.asdict(config), "seed": seed}, "encoder": encoder.to_dict(),
        "device": device.description, "environment": training.environment()})

    step_function = optimization.TrainStep(model.loss, model.metric_names, optimizer,
                                           config.gradient_accumulation_steps, jit_compile=device.jit_compile)
    log = training.MetricsLog(config.json_summary or os.path.join(logs, "squad.jsonl"),
                              os.path.join(logs, "tensorboard"), done)
    speed = training.Speed()
    state = {"task": "squad", "config": {**dataclasses.asdict(config), "seed": seed}, "head": model.settings,
             "identity": read, "encoder": encoder.to_dict(), "tokenizer_fingerprint": tokenizer.fingerprint,
             "environment": training.environment(), "device": device.kind, "updates": plan.updates}
    stop.begin()
    step = logged = saved = done

    def report():
        sums = step_function.read_metrics()
        if sums["bad_step"]:
            raise RunFailed(f"the loss or its gradient is not finite at update {sums['bad_step']} (seed {seed}), which "
                            "was not applied: choose a lower --learning_rate or a longer --warmup_proportion.")
        metrics = {"loss": sums["loss"] / sums["micro_batches"],
                   **{name[:-len("_right")] + "_accuracy": sums[name] / sums["examples"]
                      for name in ("start_right", "end_right")},
                   "learning_rate": float(optimizer.schedule(tf.constant(step - 1)))}
        timing = speed.after(step - logged, sums["examples"], sums["tokens"])
        log.write(step, "train", {**metrics, **timing})
        pace = (f"{timing['sequences_per_second']:.1f} sequences/s  "
                f"{training.hours((plan.updates - step) / timing['updates_per_second'])} left"
                if "updates_per_second" in timing else f"first update took {timing['first_update_seconds']:.1f} s")
        logging.info("step %d/%d  loss %.4f  start %.1f%%  end %.1f%%  rate %.2e  %s", step, plan.updates,
                     metrics["loss"], 100 * metrics["start_accuracy"], 100 * metrics["end_accuracy"],
                     metrics["learning_rate"], pace)

    def save():
        logging.info("saved %s.", checkpoints.save(1, step, model, optimizer, state))

    with training.progress_bar(plan.updates, done, "fine-tuning", config.disable_progress_bar) as bar:
        while step < plan.updates and not stop.signal_name:
            step += 1
            step_function((feed(split.features, next(plan.batches), config.train_batch_size, labels=True),
                           tf.constant(pretrain_utils.fold_seeds([seed, 2, step, micro_batch, device.rank],
                                                                 model.num_seeds)))
                          for micro_batch in range(config.gradient_accumulation_steps))
            last = step == plan.updates
            epoch_end = last or step % plan.updates_per_epoch == 0
            if step <= done + 2 or step % config.log_freq == 0 or epoch_end:
                report()
                logged = step
            bar.update()
            with speed.apart():
                if epoch_end and not config.skip_checkpoint:
                    save()
                    saved = step
                if epoch_end and not last and config.evaluate_during_training and not stop.signal_name:
                    scores = predict(config, model, dev, stop)[1]
                    if scores:
                        log.write(step, "eval", scores)
                        logging.info("dev at step %d: %s", step, in_words(scores))
        if step < plan.updates:
            if step > logged:
                report()
            if step > saved and not config.skip_checkpoint:
                save()
            ahead = ("no checkpoint was asked for, so the same call starts again" if config.skip_checkpoint
                     else "the same call goes on from there")
            raise Interrupted(f"stopped by {stop.signal_name} at step {step} of {plan.updates}; {ahead}.")
    summary = {"train_steps": plan.updates, "seed": seed}
    if step > done:
        logging.info("fine-tuned: %s", speed.summary())
        summary["train_sequences_per_second"] = speed.after(0, 0, 0).get("sequences_per_second")
    training.plot_curves(log.path, os.path.join(logs, "squad.png"), "ELECTRA on SQuAD", training.SQUAD_PANELS)
    return model, summary


# --- Prediction ---


class Interval(NamedTuple):
    """How long prediction took."""

    sequences_per_second: float
    latencies: np.ndarray  # seconds per batch


def run_model(config: SquadConfig, model: modeling.QuestionAnswering, features: squad_utils.Features,
              stop: Optional[training.StopRequest]) -> Tuple[Optional[Dict[str, np.ndarray]], Optional[Interval]]:
    """Outputs of `QuestionAnswering.answers` for every window, in its order, and the time; None when asked to stop.

    Each length is traced before the clock starts.
    """
    answers = tf.function(model.answers, autograph=False)
    batches = plan_batches(features.lengths, config.buckets, config.predict_batch_size, np.argsort(features.lengths,
                                                                                                 kind="stable"))
    for length in sorted({batch.length for batch in batches}):
        first = next(batch for batch in batches if batch.length == length)
        answers(feed(features, first, config.predict_batch_size))
    outputs: Dict[str, np.ndarray] = {}
    latencies = []
    hidden = config.disable_progress_bar or not sys.stderr.isatty()
    for batch in tqdm(batches, desc="answering", unit="batch", leave=False, disable=hidden):
        if stop is not None and stop.signal_name:
            return None, None
        started = time.monotonic()
        found = {name: value.numpy() for name, value in answers(feed(features, batch,
                                                                     config.predict_batch_size)).items()}
        latencies.append(time.monotonic() - started)
        for name, value in found.items():
            if name not in outputs:
                shape = [config.max_seq_length] if not model.joint_head else value.shape[1:]
                outputs[name] = np.full([len(features.lengths), *shape], modeling.MASKED, value.dtype) \
                    if not model.joint_head else np.zeros([len(features.lengths), *shape], value.dtype)
            value = value[:len(batch.rows)]
            if model.joint_head:
                outputs[name][batch.rows] = value
            else:
                outputs[name][batch.rows, :batch.length] = value
    return outputs, Interval(len(features.lengths) / max(sum(latencies), 1e-9), np.array(latencies))


def predict(config: SquadConfig, model: modeling.QuestionAnswering, dev: Split,
            stop: Optional[training.StopRequest] = None, write: bool = False) -> Tuple[Optional[dict], Optional[dict]]:
    """Answers the questions of `dev`. Returns: what results.json says of it, and the scores (None without answers).

    Both are None when asked to stop. With `write` the predictions go to output_dir.
    """
    outputs, interval = run_model(config, model, dev.features, stop)
    if outputs is None:
        return None, None
    search = squad_utils.joint_answers if model.joint_head else squad_utils.independent_answers
    nbest, null_odds = search(dev.examples, dev.features, outputs, config.n_best_size, config.max_answer_length)
    version_2 = config.version_2_with_negative
    raw = squad_utils.predictions(nbest, null_odds)
    final = squad_utils.predictions(nbest, null_odds, config.null_score_diff_threshold) if version_2 else raw
    if write:
        written = {"predictions.json": final, "nbest_predictions.json": {
            id_: [answer._asdict() for answer in answers] for id_, answers in nbest.items()}}
        if version_2:
            written["null_odds.json"] = null_odds
        for name, content in written.items():  # in ASCII: half a surrogate pair of the data has no other spelling
            configuration.write_text(os.path.join(config.output_dir, name), json.dumps(content, indent=1) + "\n")
    scores = None
    if config.do_eval or config.evaluate_during_training:
        scores = squad_utils.evaluate(dev.examples, final, version_2)
        if version_2:
            searched = squad_utils.evaluate(dev.examples, raw, version_2, null_odds)
            scores.update({name: value for name, value in searched.items() if name.startswith("best_")},
                          null_score_diff_threshold=config.null_score_diff_threshold)
    percentiles = {f"latency_p{p}_ms": 1000 * float(np.percentile(interval.latencies, p)) for p in (50, 90, 95, 99)}
    return {"inference_sequences_per_second": interval.sequences_per_second,
            "predict_batch_size": config.predict_batch_size, **percentiles}, scores


def in_words(scores: Dict[str, float]) -> str:
    exact = scores.get("exact_match", scores.get("exact"))
    words = f"EM {exact:.2f}  F1 {scores['f1']:.2f}"
    if "best_f1" in scores:
        words = (f"EM {exact:.2f}  F1 {scores['f1']:.2f} at the fixed threshold {scores['null_score_diff_threshold']:g}"
                 f"; EM {scores['best_exact']:.2f}  F1 {scores['best_f1']:.2f} at the best one, "
                 f"{scores['best_f1_thresh']:.3f}")
    return words


def run_eval_script(config: SquadConfig, dev: Split, scores: Dict[str, float]):
    """Runs an official script on the written predictions and says whether it agrees."""
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


def run(config: SquadConfig, stop: training.StopRequest):
    """Does what is asked for. Everything is validated, and features are made, before the first update."""
    training.start_logging(config.output_dir, "logfile", suffix="txt")
    device = devices.open_device(config.device, config.precision, config.xla)
    logging.info("ELECTRA on SQuAD %s, on %s, %s.", "2.0" if config.version_2_with_negative else "1.1",
                 device.description, device.precision)
    if config.eval_script and not os.path.exists(config.eval_script):
        raise UserError(f"--eval_script={config.eval_script} does not exist: mend the path or leave the option out.")
    for split in (["train"] if config.do_train else []) + (["dev"] if config.predicts else []):
        if not os.path.exists(config.data_file(split)):  # before a download
            raise UserError(f"{config.data_file(split)} does not exist: name the SQuAD files with --data_dir, "
                            "--train_file and --predict_file.")
    source = read_source(config)
    casing = {} if config.do_lower_case is None else {"do_lower_case": config.do_lower_case == "true"}
    tokenizer = weights.open_tokenizer(source, config.vocab_file, **casing)
    check_model(config, source)
    if config.do_train:
        read = identity(config, source, tokenizer)
        found = find_own_run(config, training.Checkpoints(config.checkpoint_dir), read)
    else:
        model = weights.question_answering(source, tokenizer, config.beam_size, device.compute_dtype)
        if model.joint_head and model.version_2 != config.version_2_with_negative:
            raise UserError(f"{source.name} was trained for SQuAD {'2.0' if model.version_2 else '1.1'}: "
                            f"{'add' if model.version_2 else 'leave out'} --version_2_with_negative.")
    splits = {}
    if config.do_train:
        splits["train"] = read_split(config, "train", tokenizer, needs_answers=True)
    if config.predicts:
        needs_answers = config.do_eval or config.evaluate_during_training
        splits["dev"] = read_split(config, "dev", tokenizer, needs_answers)
    results = {"version_2": config.version_2_with_negative, "model": source.name}
    results_file = os.path.join(config.output_dir, "results.json")
    if os.path.exists(results_file) and (found if config.do_train else not config.init_checkpoint):
        results = {**configuration.read_json_object(results_file), **results}  # of the same model: what stays true
    if config.do_train:
        model, summary = train(config, device, stop, source, tokenizer, found, read, splits["train"], splits.get("dev"))
        results.update(summary)
    if config.do_predict or config.do_eval:
        timing, scores = predict(config, model, splits["dev"], stop, write=True)
        if timing is None:
            raise Interrupted(f"stopped by {stop.signal_name} while answering; the same call goes on from the last "
                              "checkpoint.")
        results.update(timing)
        if config.do_eval:
            results.update(scores)
            logging.info("%s", in_words(scores))
            if config.eval_script:
                run_eval_script(config, splits["dev"], scores)
        logging.info("%.1f sequences/s; a batch of %d takes %.0f ms (p50), %.0f ms (p99).",
                     timing["inference_sequences_per_second"], config.predict_batch_size, timing["latency_p50_ms"],
                     timing["latency_p99_ms"])
    configuration.write_json(results_file, results)
    logging.info("results are in %s.", results_file)


def main(argv):
    flag_values = flags.FlagValues()
    configuration.define_flags(flag_values, SquadConfig)
    configuration.parse_command_line(argv, flag_values, __doc__.split("\n\n    ")[0])
    config = configuration.from_flags(SquadConfig, flag_values)
    with training.StopRequest() as stop:
        run(config, stop)


if __name__ == "__main__":
    configuration.run_command(main)
