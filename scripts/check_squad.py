#!/usr/bin/env python3
"""Fine-tunes on SQuAD 1.1 or a task beside Hugging Face transformers and PyTorch: a long check beside the tests.

    python scripts/check_squad.py --work_dir=/tmp/squad --encoder=FOLDER --data_dir=SQUAD
    python scripts/check_squad.py --work_dir=/tmp/squad --encoder=FOLDER --task=tagging --train_file=train.jsonl

The same encoder (a folder of BERT or ELECTRA), the same new independent head, the same batches in the same order, no
dropout, AdamW with the same settings, float32: the first 30 losses must agree within 1e-3 relative, and after one epoch
the F1 of the development set must differ by less than 1, else the status is 1. With --task only the losses of up to 40
updates are compared, and transformers starts from the encoder and the new head as this project exports them. Creates
the environment for transformers under --work_dir where it is not there (see check_weights.py).
"""
from __future__ import annotations

import dataclasses
import os
import sys
from typing import Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import command_line  # noqa: E402  (found through the line above, like the rest)
import configuration  # noqa: E402
from configuration import option  # noqa: E402


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    work_dir: Optional[str] = option(None, "folder for the environment and the outputs")
    encoder: Optional[str] = option(None, "encoder folder (BERT or ELECTRA)")
    data_dir: Optional[str] = option(None, "folder of train-v1.1.json and dev-v1.1.json")
    task: str = option("squad", "task to compare", choices=("squad", "classification", "tagging"))
    train_file: Optional[str] = option(None, "training data of --task=classification or tagging")
    batch_size: int = option(16, "examples per update", minimum=1)
    max_seq_length: int = option(384, "maximum length of question and context window together, in tokens", minimum=32)
    learning_rate: float = option(1e-4, "peak learning rate, linear warm-up over a tenth, linear decay")
    weight_decay_rate: float = option(0.01, "decoupled weight decay")

    def __post_init__(self):
        configuration.require_options(self, "work_dir", "encoder", "data_dir" if self.task == "squad" else "train_file")


if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(CheckConfig, __doc__)

import check_weights  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tqdm import tqdm  # noqa: E402

import batching  # noqa: E402
import files  # noqa: E402
import modeling  # noqa: E402
import optimization  # noqa: E402
import pretrain_utils  # noqa: E402
import run_tf_tasks  # noqa: E402
import squad_metrics  # noqa: E402
import squad_utils  # noqa: E402
import task_options  # noqa: E402
import weights  # noqa: E402


def score(examples, features, logits) -> dict:
    nbest, odds = squad_utils.independent_answers(examples, features, logits)
    return squad_metrics.evaluate(examples, squad_utils.predictions(nbest, odds), version_2=False)


def fine_tune(config: CheckConfig, model, feeds) -> list:
    """The loss of every update."""
    optimizer = optimization.AdamW(
        model.trainable_variables, optimization.Schedule(config.learning_rate, len(feeds), len(feeds) // 10, 1.0, 0.0),
        weight_decay_rate=config.weight_decay_rate)
    step = optimization.TrainStep(model.loss, model.metric_names, optimizer)
    seeds = tf.constant(pretrain_utils.fold_seeds([1], model.num_seeds))
    losses = []
    for feed in tqdm(feeds, desc="fine-tuning", unit="update"):
        step([(feed, seeds)])
        losses.append(step.read_metrics()["loss"])
    return losses


def write_settings(config: CheckConfig, folder: str, updates: int):
    files.write_json(os.path.join(folder, "settings.json"), {
        "encoder": os.path.abspath(config.encoder), "learning_rate": config.learning_rate,
        "weight_decay_rate": config.weight_decay_rate, "num_warmup_steps": updates // 10})


def compared(losses, theirs) -> float:
    """Prints both, and returns the largest relative difference of the first 30."""
    gaps = np.abs(np.array(losses) - theirs) / theirs
    print(f"{len(losses)} updates; losses {losses[0]:.4f} to {losses[-1]:.4f} here, {theirs[0]:.4f} to "
          f"{theirs[-1]:.4f} there; largest relative difference {gaps[:30].max():.1e} in the first 30, "
          f"{gaps.max():.1e} in all")
    print("by update: " + " ".join(f"{gap:.0e}" for gap in gaps))
    return gaps[:30].max()


def compare_task(config: CheckConfig) -> int:
    """The first 40 updates of a classifier or a tagger."""
    folder = os.path.join(config.work_dir, config.task)
    os.makedirs(folder, exist_ok=True)
    source = weights.read(config.encoder)
    source = source._replace(config=dataclasses.replace(source.config, hidden_dropout_prob=0.0,
                                                        attention_probs_dropout_prob=0.0))
    options = task_options.TaskConfig(task=config.task, do_train=True, train_file=config.train_file, output_dir=folder,
                                      max_seq_length=config.max_seq_length)
    task = run_tf_tasks.task_of(options)
    examples, task.labels = task.find_labels(options, task.read(options, config.train_file, True), config.train_file)
    features = task.build(options, examples, source.tokenizer, True, True)
    model = task.new_model(options, source, source.tokenizer, tf.float32, 1)
    weights.load(source, model.trainable_variables, source.tokenizer)
    weights.save_folder(model, task.name, source.tokenizer, os.path.join(folder, "start"), labels=task.labels)
    batches = [batch for batch in batching.plan_batches(
        features.lengths, [config.max_seq_length], config.batch_size,
        pretrain_utils.permutation([1], len(features.lengths))) if len(batch.rows) == config.batch_size][:40]
    feeds = [task.feed(features, batch, config.batch_size, labels=True) for batch in batches]
    np.savez(os.path.join(folder, "batches.npz"), real=[config.batch_size] * len(batches),
             **{name: np.stack([feed[name].numpy() for feed in feeds]) for name in feeds[0]})
    write_settings(config, folder, len(batches))
    losses = fine_tune(config, model, feeds)
    check_weights.peer(check_weights.peer_python("4", config.work_dir), "task", folder)
    with np.load(os.path.join(folder, "peer.npz")) as theirs:
        return 0 if compared(losses, theirs["losses"]) < 1e-3 else 1


def main(argv) -> int:
    config = command_line.parse(CheckConfig, argv, __doc__)
    if config.task != "squad":
        return compare_task(config)
    folder = os.path.join(config.work_dir, "squad")
    os.makedirs(folder, exist_ok=True)
    source = weights.read(config.encoder)
    encoder = dataclasses.replace(source.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    examples, features = {}, {}
    for split in ("train", "dev"):
        examples[split] = squad_utils.read_squad(os.path.join(config.data_dir, f"{split}-v1.1.json"), False)
        features[split] = squad_utils.build_features(examples[split], source.tokenizer, config.max_seq_length)
    train = features["train"]
    model = modeling.QuestionAnswering(encoder, joint_head=False, seed=1)
    weights.load(source, model.trainable_variables, source.tokenizer)
    batches = batching.plan_batches(train.lengths, [config.max_seq_length], config.batch_size,
                                        pretrain_utils.permutation([1], len(train.lengths)))
    feeds = [squad_utils.feed(train, batch, config.batch_size, labels=True) for batch in batches]
    arrays = {name: np.stack([feed[name].numpy() for feed in feeds]) for name in feeds[0]}
    np.savez(os.path.join(folder, "batches.npz"), real=[len(batch.rows) for batch in batches],
             head_kernel=model.head.dense.kernel.numpy(), head_bias=model.head.dense.bias.numpy(), **arrays)
    dev = features["dev"]
    np.savez(os.path.join(folder, "dev.npz"), **{name: getattr(dev, name) for name in ("input_ids", "input_mask",
                                                                                      "segment_ids")})
    write_settings(config, folder, len(batches))
    losses = fine_tune(config, model, feeds)
    answers = tf.function(model.answers, autograph=False)
    found = [answers(squad_utils.feed(dev, batching.Batch(config.max_seq_length, rows), 16)) for rows in
             np.array_split(np.arange(len(dev.lengths)), -(-len(dev.lengths) // 16))]
    sizes = [len(rows) for rows in np.array_split(np.arange(len(dev.lengths)), len(found))]
    ours = {name: np.concatenate([piece[name][:size].numpy() for piece, size in zip(found, sizes)])
            for name in found[0]}

    check_weights.peer(check_weights.peer_python("4", config.work_dir), "squad", folder)
    theirs = dict(np.load(os.path.join(folder, "peer.npz")))
    scores = score(examples["dev"], dev, ours), score(examples["dev"], dev, theirs)
    gap = compared(losses, theirs["losses"])
    print("dev F1 {:.2f} here, {:.2f} there (EM {:.2f}, {:.2f})".format(
        scores[0]["f1"], scores[1]["f1"], scores[0]["exact_match"], scores[1]["exact_match"]))
    return 0 if gap < 1e-3 and abs(scores[0]["f1"] - scores[1]["f1"]) < 1 else 1


if __name__ == "__main__":
    command_line.run_command(main)
