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
import glob
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow loads; its start-up notes would hide ours

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

import configuration
import devices
import files
import hub
import modeling
import optimization
import pretrain_utils
import squad_utils
import training
import weights
from configuration import Interrupted, PretrainingConfig, RunFailed, SquadConfig, UserError
from tokenization import ElectraTokenizer
from workers import Workers, lost_workers_told

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


class Questions:
    """The training windows in their order, for ever: an epoch after another, each shuffled by (seed, epoch).

    Where it stands is kept in `position`, from which training goes on, also with batches of another size: no window of
    the epoch is lost or seen twice.

    Args:
        lengths: int [n], tokens of every window.
        batch_size: of all workers together.
        limit: batches of an epoch, at most; None for all.
        position: where an earlier run stood.
    """

    def __init__(self, lengths: np.ndarray, buckets: List[int], batch_size: int, seed: int,
                 limit: Optional[int] = None, position: Optional[dict] = None):
        self.lengths, self.buckets, self.batch_size, self.seed, self.limit = lengths, buckets, batch_size, seed, limit
        # Of the current epoch: how many batches of which size are done.
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
        return {"epoch": self.epoch, "taken": self._taken}

    @property
    def epochs_done(self) -> int:
        return self.epoch + (not self._left)

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


NETWORK_INPUTS = ("input_ids", "input_mask", "segment_ids", "p_mask")
LABELS = ("start_positions", "end_positions", "is_impossible")


def feed(features: squad_utils.Features, batch: Batch, batch_size: int, labels: bool = False,
         num_examples: Optional[float] = None) -> Dict[str, tf.Tensor]:
    """The tensors of a batch, filled up to `batch_size` with its first row, which then has weight 0.

    num_examples: what sums over examples are divided by for the loss, by default the number of rows.
    """
    fill = batch_size - len(batch.rows)
    rows = np.concatenate([batch.rows, np.repeat(batch.rows[:1] if len(batch.rows) else [0], fill)]).astype(int)
    tensors = {name: tf.constant(getattr(features, name)[rows, :batch.length]) for name in NETWORK_INPUTS}
    if labels:
        tensors.update({name: tf.constant(getattr(features, name)[rows]) for name in LABELS})
        tensors["weights"] = tf.constant([1.0] * len(batch.rows) + [0.0] * fill)
        tensors["num_examples"] = tf.constant(float(num_examples or len(batch.rows)))
    return tensors


# --- Setting up ---


def read_source(config: SquadConfig) -> weights.Source:
    """The weights to start from. Without training they need a head: --init_checkpoint, else what output_dir holds."""
    if config.init_checkpoint:
        return weights.read(config.init_checkpoint)
    if config.do_train:
        try:
            return weights.read(config.electra_model)
        except hub.Unavailable as error:
            raise UserError(f"{str(error)[:-1]}; or start from your own weights, with {own_weights()}.") from error
    if not training.Checkpoints(config.checkpoint_dir).list():
        raise UserError(f"--init_checkpoint is missing and {config.checkpoint_dir} holds no checkpoint: name a "
                        "fine-tuned model, or add --do_train.")
    return weights.read(config.checkpoint_dir)


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
    workers = device.workers
    checkpoints = training.Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max, "output_dir")
    seed = found["config"]["seed"] if found else config.seed if config.seed is not None else random.randrange(2**31)
    seed = workers.from_chief(seed)
    encoder = dataclasses.replace(source.config, vocab_size=tokenizer.vocab_size)
    model = modeling.QuestionAnswering(encoder, config.joint_head, config.version_2_with_negative,
                                       config.beam_size or modeling.BEAM_SIZE, config.answerability_from_gold,
                                       device.compute_dtype, seed)
    done = found["step"] if found else 0
    # Epochs follow each other without a gap: an update may take its micro-batches from two.
    accumulation = config.gradient_accumulation_steps
    limit = config.train_iter_per_epoch * accumulation if config.train_iter_per_epoch > 0 else None
    questions = Questions(split.features.lengths, config.buckets, config.train_batch_size * workers.size, seed, limit,
                          found and found["position"])
    updates = config.max_steps
    if updates <= 0:
        updates = done + math.ceil(questions.batches_until(config.num_train_epochs) / accumulation)
    optimizer = make_optimizer(config, model, updates)
    logs = os.path.join(config.output_dir, "logs")
    if workers.is_chief:
        if not config.skip_checkpoint:
            checkpoints.check_disk(model)
        if found:
            training.restore(found["prefix"], model, optimizer)
            logging.info("going on from %s at step %d of %d.", found["prefix"], done, updates)
            if found["environment"] != training.environment():
                logging.info("note: this machine or TensorFlow differs from the checkpoint's: results agree only to "
                             "rounding.")
            if found["world_size"] != workers.size:
                logging.info("note: %d workers wrote the checkpoint, %d go on: updates are of another size now; every "
                             "question of the epoch is still seen once.", found["world_size"], workers.size)
        else:
            for line in weights.load(source, model.trainable_variables, tokenizer, weights.SQUAD_WAY_OUT):
                logging.info(line)
            checkpoints.clear()  # only now that the new training is known to be possible; empty without --overwrite
        tokenizer.save(config.output_dir)
        logging.info("seed %d; %d updates of %d examples, %d an epoch; batches of lengths %s.", seed, updates,
                     questions.batch_size * accumulation, math.ceil(questions.batches_per_epoch / accumulation),
                     ", ".join(map(str, config.buckets)))
        os.makedirs(logs, exist_ok=True)
        files.write_json(os.path.join(logs, "configuration.json"), {
            "config": {**dataclasses.asdict(config), "seed": seed}, "encoder": encoder.to_dict(),
            "device": device.description, "world_size": workers.size, "environment": training.environment()})
    workers.broadcast([*model.variables, *optimizer.variables])

    step_function = optimization.TrainStep(model.loss, model.metric_names, optimizer, accumulation,
                                           jit_compile=device.jit_compile, workers=workers)
    if workers.is_chief:
        log = training.MetricsLog(config.json_summary or os.path.join(logs, "squad.jsonl"),
                                  os.path.join(logs, "tensorboard"), done)
    speed = training.Speed()
    state = {"task": "squad", "config": {**dataclasses.asdict(config), "seed": seed}, "head": model.settings,
             "identity": read, "encoder": encoder.to_dict(), "tokenizer_fingerprint": tokenizer.fingerprint,
             "environment": training.environment(), "device": device.kind, "updates": updates,
             "world_size": workers.size}
    stop.begin()
    step = logged = saved = done

    def report():
        sums = step_function.read_metrics()
        if sums["bad_step"]:
            raise RunFailed(f"the loss or its gradient is not finite at update {sums['bad_step']} (seed {seed}), which "
                            "was not applied: choose a lower --learning_rate or a longer --warmup_proportion.")
        if not workers.is_chief:
            return
        metrics = {"loss": sums["loss"] / sums["micro_batches"],
                   **{name[:-len("_right")] + "_accuracy": sums[name] / sums["examples"]
                      for name in ("start_right", "end_right")},
                   "learning_rate": float(optimizer.schedule(tf.constant(step - 1)))}
        timing = speed.after(step - logged, sums["examples"], sums["tokens"])
        log.write(step, "train", {**metrics, **timing})
        pace = (f"{timing['sequences_per_second']:.1f} sequences/s  "
                f"{training.hours((updates - step) / timing['updates_per_second'])} left"
                if "updates_per_second" in timing else f"first update took {timing['first_update_seconds']:.1f} s")
        logging.info("step %d/%d  loss %.4f  start %.1f%%  end %.1f%%  rate %.2e  %s", step, updates,
                     metrics["loss"], 100 * metrics["start_accuracy"], 100 * metrics["end_accuracy"],
                     metrics["learning_rate"], pace)

    def save():
        if workers.is_chief:
            logging.info("saved %s.", checkpoints.save(1, step, model, optimizer,
                                                       {**state, "position": questions.position}))

    def micro_batches():
        """Of one update: this worker's rows of each batch, and seeds."""
        for micro_batch in range(accumulation):
            batch = next(questions)
            own = batch._replace(rows=np.array_split(batch.rows, workers.size)[workers.rank])
            key = [seed, 2, step, micro_batch, workers.rank]
            # Averaged over the workers, gradients are those of the whole batch, also where they have unequal parts.
            yield (feed(split.features, own, config.train_batch_size, True, len(batch.rows) / workers.size),
                   tf.constant(pretrain_utils.fold_seeds(key, model.num_seeds)))

    with training.progress_bar(updates, done, "fine-tuning",
                               config.disable_progress_bar or not workers.is_chief) as bar:
        while step < updates and not workers.any(bool(stop.signal_name)):
            step += 1
            epochs_done = questions.epochs_done
            step_function(micro_batches())
            last = step == updates
            epoch_end = last or questions.epochs_done > epochs_done
            if step <= done + 2 or step % config.log_freq == 0 or epoch_end:
                report()
                logged = step
            bar.update()
            with speed.apart():
                if epoch_end and not config.skip_checkpoint:
                    save()
                    saved = step
                if epoch_end and not last and config.evaluate_during_training:
                    scores = predict(config, model, dev, workers, stop)[1]
                    if scores:
                        log.write(step, "eval", scores)
                        logging.info("dev at step %d: %s", step, in_words(scores))
        if step < updates:
            if step > logged:
                report()
            if step > saved and not config.skip_checkpoint:
                save()
            workers.from_chief(None)  # the end of any worker ends the others: not before the chief has saved
            ahead = ("no checkpoint was asked for, so the same call starts again" if config.skip_checkpoint
                     else "the same call goes on from there")
            raise Interrupted(f"stopped by {training.stopped_by(stop)} at step {step} of {updates}; {ahead}.")
    summary = {"train_steps": updates, "seed": seed}
    if not workers.is_chief:
        return model, summary
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


def run_model(config: SquadConfig, model: modeling.QuestionAnswering, features: squad_utils.Features, workers: Workers,
              stop: Optional[training.StopRequest]) -> Tuple[Optional[Dict[str, np.ndarray]], Optional[Interval]]:
    """Outputs of `QuestionAnswering.answers` for every window, in its order, and the time; None when asked to stop.

    The workers share the batches; which of them answers changes nothing. Each length is traced before the clock starts.
    """
    shares = workers.gather(own_outputs(config, model, features, workers, stop))
    if None in shares:
        return None, None
    outputs: Dict[str, np.ndarray] = {}
    for rows, length, found in (part for parts, _ in shares for part in parts):
        for name, value in found.items():
            if name not in outputs:
                shape = value.shape[1:] if model.joint_head else [config.max_seq_length]
                outputs[name] = np.full([len(features.lengths), *shape], 0 if model.joint_head else modeling.MASKED,
                                        value.dtype)
            if model.joint_head:
                outputs[name][rows] = value
            else:
                outputs[name][rows, :length] = value
    slowest = max(sum(latencies) for _, latencies in shares)
    return outputs, Interval(len(features.lengths) / max(slowest, 1e-9),
                             np.array([latency for _, latencies in shares for latency in latencies]))


def own_outputs(config, model, features, workers, stop) -> Optional[Tuple[list, List[float]]]:
    """This worker's part: (rows, padded length, outputs by name) of each of its batches, and their seconds."""
    answers = tf.function(model.answers, autograph=False)
    batches = plan_batches(features.lengths, config.buckets, config.predict_batch_size, np.argsort(features.lengths,
                                                                                                 kind="stable"))
    batches = batches[workers.rank::workers.size]
    for length in sorted({batch.length for batch in batches}):
        first = next(batch for batch in batches if batch.length == length)
        answers(feed(features, first, config.predict_batch_size))
    parts, latencies = [], []
    hidden = config.disable_progress_bar or not (workers.is_chief and sys.stderr.isatty())
    for batch in tqdm(batches, desc="answering", unit="batch", leave=False, disable=hidden):
        if stop is not None and stop.signal_name:
            return None
        started = time.monotonic()
        found = {name: value.numpy() for name, value in answers(feed(features, batch,
                                                                     config.predict_batch_size)).items()}
        latencies.append(time.monotonic() - started)
        parts.append((batch.rows, batch.length, {name: value[:len(batch.rows)] for name, value in found.items()}))
    return parts, latencies


def predict(config: SquadConfig, model: modeling.QuestionAnswering, dev: Split, workers: Workers,
            stop: Optional[training.StopRequest] = None, write: bool = False) -> Tuple[Optional[dict], Optional[dict]]:
    """Answers the questions of `dev`. Returns: what results.json says of it, and the scores (None without answers).

    Both are None when asked to stop. With `write` the predictions go to output_dir. Rank 0 alone searches the answers;
    the others return an empty dict and None.
    """
    outputs, interval = run_model(config, model, dev.features, workers, stop)
    if outputs is None:
        return None, None
    if not workers.is_chief:
        return {}, None
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
            files.write_text(os.path.join(config.output_dir, name), json.dumps(content, indent=1) + "\n")
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
    device = devices.open_for(config)
    workers = device.workers
    training.start_logging(config.output_dir, f"logfile_rank{workers.rank}" if workers.rank else "logfile",
                           suffix="txt", on_console=workers.is_chief)
    logging.info("ELECTRA on SQuAD %s, on %s.", "2.0" if config.version_2_with_negative else "1.1", device)
    if config.eval_script and not os.path.exists(config.eval_script):
        raise UserError(f"--eval_script={config.eval_script} does not exist: mend the path or leave the option out.")
    for split in (["train"] if config.do_train else []) + (["dev"] if config.predicts else []):
        if not os.path.exists(config.data_file(split)):  # before a download
            raise UserError(f"{config.data_file(split)} does not exist: name the SQuAD files with --data_dir, "
                            "--train_file and --predict_file.")
    with workers.chief_first():  # who downloads
        source = read_source(config)
    casing = {} if config.do_lower_case is None else {"do_lower_case": config.do_lower_case == "true"}
    tokenizer = weights.open_tokenizer(source, config.vocab_file, **casing)
    check_model(config, source)
    if config.do_train:
        read = identity(config, source, tokenizer)
        found = None
        if workers.is_chief:
            found = find_own_run(config, training.Checkpoints(config.checkpoint_dir), read)
        found = workers.from_chief(found)
    else:
        model = weights.question_answering(source, tokenizer, config.beam_size, device.compute_dtype)
        if model.joint_head and model.version_2 != config.version_2_with_negative:
            raise UserError(f"{source.name} was trained for SQuAD {'2.0' if model.version_2 else '1.1'}: "
                            f"{'add' if model.version_2 else 'leave out'} --version_2_with_negative.")
    splits = {}
    with workers.chief_first():  # who writes the feature cache
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
        timing, scores = predict(config, model, splits["dev"], workers, stop, write=True)
        if timing is None:
            raise Interrupted(f"stopped by {training.stopped_by(stop)} while answering; the same call goes on from the "
                              "last checkpoint.")
        if not workers.is_chief:
            return
        results.update(timing)
        if config.do_eval:
            results.update(scores)
            logging.info("%s", in_words(scores))
            if config.eval_script:
                run_eval_script(config, splits["dev"], scores)
        logging.info("%.1f sequences/s; a batch of %d takes %.0f ms (p50), %.0f ms (p99).",
                     timing["inference_sequences_per_second"], config.predict_batch_size, timing["latency_p50_ms"],
                     timing["latency_p99_ms"])
    if not workers.is_chief:
        return
    files.write_json(results_file, results)
    logging.info("results are in %s.", results_file)


def main(argv):
    config = configuration.parse(SquadConfig, argv, __doc__)
    with training.StopRequest() as stop, lost_workers_told():
        run(config, stop)


if __name__ == "__main__":
    configuration.run_command(main)
