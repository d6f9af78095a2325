#!/usr/bin/env python3
"""Compares pre-training with an independent implementation in PyTorch, update by update: a long check beside the tests.

    python scripts/check_objective.py --work_dir=/tmp/objective
    python scripts/check_objective.py --work_dir=/tmp/objective --optimizer=adamw --learning_rate=5e-4
    python scripts/check_objective.py --work_dir=/tmp/objective --pretrain_tfrecords='DATA/train-*' --vocab_file=VOCAB

Both start from the same weights and get the same records, masks and sampled tokens; from then on each has its own
losses, gradients, moments and weights. tests/objective_peer.py is the other implementation, written from the papers.
Dropout is off. Prints, for some of the updates, the losses of both and how far losses, gradients and weights of the
generator, the discriminator and the shared embeddings are apart. Status 1 where a difference is beyond rounding: 1e-5
of a loss, and of a gradient's norm 1e-5 at the first update and 1e-3 later, as rounding differences grow.

Creates a virtual environment with PyTorch under --work_dir (about 1 GB), as scripts/check_weights.py does, and without
--pretrain_tfrecords the sample data.
"""
from __future__ import annotations

import dataclasses
import glob
import os
import subprocess
import sys
from typing import Dict, List, Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import command_line  # noqa: E402  (found through the line above, like the rest)
from configuration import UserError, like, option  # noqa: E402
from pretraining_options import PretrainingConfig  # noqa: E402


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    work_dir: Optional[str] = option(None, "folder for the environment, the data and what is compared")
    updates: int = option(200, "number of updates", minimum=10)
    pretrain_tfrecords: Optional[str] = option(None, "records to train on (default: sample data)")
    vocab_file: Optional[str] = like(PretrainingConfig, "vocab_file")
    model_size: str = like(PretrainingConfig, "model_size", "tiny")
    train_batch_size: int = like(PretrainingConfig, "train_batch_size", 16)
    max_seq_length: int = like(PretrainingConfig, "max_seq_length", 128)
    optimizer: str = like(PretrainingConfig, "optimizer")
    learning_rate: float = like(PretrainingConfig, "learning_rate", 1e-3)
    disc_weight: float = like(PretrainingConfig, "disc_weight")
    seed: int = like(PretrainingConfig, "seed")

    def __post_init__(self):
        if not self.work_dir:
            raise UserError("--work_dir is missing: name a folder with some GB free.")


if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(CheckConfig, __doc__)

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from check_weights import peer_python  # noqa: E402

import devices  # noqa: E402
import files  # noqa: E402
import optimization  # noqa: E402
import run_pretraining  # noqa: E402

# Relative differences that rounding may make: of a loss, and of gradients (their norm) at the first update and later.
LOSS_TOLERANCE, FIRST_GRADIENT_TOLERANCE, LATER_GRADIENT_TOLERANCE = 1e-5, 1e-5, 1e-3


def records(config: CheckConfig) -> List[str]:
    """The flags that name records and vocabulary; builds sample data where none are given."""
    if config.pretrain_tfrecords:
        return [config.pretrain_tfrecords, config.vocab_file or ""]
    data = os.path.join(config.work_dir, "sample")
    vocab_file, target = os.path.join(data, "vocab.txt"), os.path.join(data, f"tfrecord_{config.max_seq_length}")
    if not os.path.exists(vocab_file):
        subprocess.run([sys.executable, os.path.join(ROOT, "data", "make_sample_data.py"), f"--output_dir={data}"],
                       check=True)
    if not glob.glob(os.path.join(glob.escape(target), "*")):
        subprocess.run([sys.executable, os.path.join(ROOT, "build_pretraining_dataset.py"),
                        f"--corpus_dir={data}/corpus", f"--vocab_file={vocab_file}", f"--output_dir={target}",
                        f"--max_seq_length={config.max_seq_length}", "--num_out_files=2"], check=True)
    return [target, vocab_file]


def pretraining(config: CheckConfig) -> PretrainingConfig:
    tfrecords, vocab_file = records(config)
    given = {name: getattr(config, name) for name in ("model_size", "train_batch_size", "max_seq_length", "optimizer",
                                                      "learning_rate", "disc_weight", "seed")}
    return PretrainingConfig(
        pretrain_tfrecords=tfrecords, vocab_file=vocab_file or None, num_train_steps=config.updates,
        num_warmup_steps=config.updates // 5, gradient_accumulation_steps=1, skip_checkpoint=True, overwrite=True,
        results_dir=os.path.join(config.work_dir, "results"), log_dir=os.path.join(config.work_dir, "logs"),
        model_config='{"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}', **given)


def by_name(values, variables) -> Dict[str, np.ndarray]:
    return {variable.name.split(":")[0]: np.array(value) for variable, value in zip(variables, values)}


def train(settings: PretrainingConfig, folder: str, compared: List[int]) -> np.ndarray:
    """This project's run; what the other one needs goes to `folder`. Returns generator and discriminator loss of each
    update and its gradient norm, float64 [updates, 3]."""
    device = devices.open_for(settings)
    setup = run_pretraining.prepare(settings, device)
    model, variables = setup.model, setup.optimizer.trained
    step = optimization.TrainStep(model.loss, model.metric_names, setup.optimizer)
    np.savez(os.path.join(folder, "weights.npz"), **by_name(variables, variables))
    files.write_json(os.path.join(folder, "settings.json"), {
        "updates": settings.num_train_steps, "compared": compared, "disc_weight": settings.disc_weight,
        "encoder": model.config.to_dict(), "generator": model.generator.config.to_dict(), "optimizer": {
            "name": settings.optimizer, "peak": settings.learning_rate, "warmup": settings.num_warmup_steps,
            "total": settings.num_train_steps, "power": settings.lr_decay_power, "beta_1": settings.opt_beta_1,
            "beta_2": settings.opt_beta_2, "epsilon": setup.optimizer.epsilon, "clip_norm": step.clip_norm,
            "weight_decay_rate": settings.weight_decay_rate}})

    @tf.function(autograph=False)
    def batch_and_gradients(features, seeds):
        with tf.GradientTape() as tape:
            output = model(features, seeds, training=True)
            loss, _ = model.loss_of(output, features["input_mask"])
        return output.masked, output.corrupted_ids, tape.gradient(loss, variables)

    rows, micro_batches = [], run_pretraining.input_of(settings, setup, device.workers)
    for update in range(1, settings.num_train_steps + 1):
        (features, seeds), = micro_batches(update)
        masked, corrupted_ids, gradients = batch_and_gradients(features, seeds)
        masked_at = np.zeros(features["input_ids"].shape, np.int8)
        np.put_along_axis(masked_at, masked.positions.numpy(), masked.weights.numpy().astype(np.int8), axis=1)
        np.savez(os.path.join(folder, f"update_{update}.npz"), masked_ids=masked.input_ids, masked_at=masked_at,
                 corrupted_ids=corrupted_ids,
                 **{name: features[name] for name in ("input_ids", "input_mask", "segment_ids")})
        step([(features, seeds)])
        sums = step.read_metrics()
        rows.append((sums["generator_loss"] / sums["masked"], sums["discriminator_loss"] / sums["tokens"],
                     sums["gradient_norm"]))
        if update in compared:
            np.savez(os.path.join(folder, f"our_gradients_{update}.npz"), **by_name(gradients, variables))
            np.savez(os.path.join(folder, f"our_weights_{update}.npz"), **by_name(variables, variables))
        if update % 20 == 0:
            print(f"TensorFlow, update {update}: generator {rows[-1][0]:.4f}, discriminator {rows[-1][1]:.4f}",
                  flush=True)
    return np.array(rows)


def part_of(name: str) -> str:
    if name.startswith("electra/embeddings/"):
        return "embeddings"
    return "generator" if name.startswith("generator") else "discriminator"


def differences(folder: str, what: str, update: int) -> Dict[str, float]:
    """Norm of the difference by that of the values, of each part."""
    sums: Dict[str, List[float]] = {}
    with np.load(os.path.join(folder, f"our_{what}_{update}.npz")) as ours, \
            np.load(os.path.join(folder, f"{what}_{update}.npz")) as theirs:
        assert set(ours.files) == set(theirs.files)
        for name in ours.files:
            total = sums.setdefault(part_of(name), [0.0, 0.0])
            total[0] += float(np.sum((ours[name].astype(np.float64) - theirs[name]) ** 2))
            total[1] += float(np.sum(theirs[name].astype(np.float64) ** 2))
    return {part: (apart / size) ** 0.5 for part, (apart, size) in sums.items()}


def compare(folder: str, ours: np.ndarray, compared: List[int]) -> bool:
    with np.load(os.path.join(folder, "losses.npz")) as stored:
        theirs = stored["rows"]
    relative = np.abs(ours - theirs) / np.abs(theirs)
    print("\nupdate   generator loss        discriminator loss    gradients apart (generator, discriminator, "
          "embeddings)   weights")
    good = bool(relative[:, :2].max() <= LOSS_TOLERANCE)
    for update in compared:
        gradients, weights = (differences(folder, what, update) for what in ("gradients", "weights"))
        row = update - 1
        print(f"{update:6d}   {ours[row, 0]:.6f}  {theirs[row, 0]:.6f}   {ours[row, 1]:.6f}  {theirs[row, 1]:.6f}   "
              f"{gradients['generator']:.1e}  {gradients['discriminator']:.1e}  {gradients['embeddings']:.1e}"
              f"{'':28}{max(weights.values()):.1e}")
        allowed = FIRST_GRADIENT_TOLERANCE if update == 1 else LATER_GRADIENT_TOLERANCE
        good &= max(gradients.values()) <= allowed
    print(f"largest relative difference of all {len(ours)} updates: generator loss {relative[:, 0].max():.1e}, "
          f"discriminator loss {relative[:, 1].max():.1e}, gradient norm {relative[:, 2].max():.1e}")
    return good


def main(argv) -> int:
    config = command_line.parse(CheckConfig, argv, __doc__)
    folder = os.path.join(config.work_dir, "compared")
    os.makedirs(folder, exist_ok=True)
    python = peer_python("4", config.work_dir)
    compared = sorted({1, 10, 50, 100, 200, config.updates} & set(range(1, config.updates + 1)))
    ours = train(pretraining(config), folder, compared)
    subprocess.run([python, os.path.join(ROOT, "tests", "objective_peer.py"), folder], check=True)
    good = compare(folder, ours, compared)
    print("within rounding." if good else "NOT within rounding.")
    return 0 if good else 1


if __name__ == "__main__":
    command_line.run_command(main)
