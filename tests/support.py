"""What several test files use: copies of the repository, stand-ins, small data and small models.

Fixtures are in conftest.py; this module holds plain functions and classes.
"""
from __future__ import annotations

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
from squad_questions import SQUAD_WORDS, squad_file  # noqa: F401  (test files import it from here)

from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig
from squad_options import SquadConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
GAUDI_FILES = ("/sys/class/habanalabs", "/sys/class/accel/accel[0-9]*", "/dev/accel/accel[0-9]*", "/dev/hl[0-9]*")

# --- The wrappers ---

# What a stand-in for the interpreter does until it is told to end, in bash: as a training that saves.
UNTIL_TERM = """exec 2>/dev/null; trap 'trap "" TERM; echo saved; exit 75' TERM
echo ready; while :; do sleep 0.05; done"""


# First lines of a stand-in for the interpreter, in bash: the wrappers' own programs run.
STAND_IN = f"""#!/usr/bin/env bash
[[ $1 != */scripts/@(recipe|launcher|interpreters).py ]] || exec {shlex.quote(sys.executable)} "$@"
[[ $1 != -c || $2 != *"version_info < (3, 8)"* ]] || exec {shlex.quote(sys.executable)} "$@"
[[ $* != *--check_only* ]] || {{ eval "${{FAKE_CHECK:-true}}"; exit; }}
"""


class Clone:
    """A folder with the scripts and what they need of the repository, where wrappers can be called."""

    def __init__(self, folder):
        self.folder = folder
        self.calls = folder / "calls.txt"
        self.environment = {name: value for name, value in os.environ.items()
                            if name not in ("PYTHON", "DATASET_P1", "DATASET_P2", "init_checkpoint", "CDPATH")}
        self.environment["CALLS"] = str(self.calls)
        # The wrappers' python3 is this one: a script of pyenv in its place takes 0.1 s at every start.
        self.environment["PATH"] = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        modules = [ROOT / f"{module}.py" for module in ("command_line", "configuration", "electra_config", "files",
                                                        "fine_tuning_options", "pretraining_options", "squad_options",
                                                        "task_options")]
        for file in (*ROOT.glob("requirements*.txt"), *modules):
            shutil.copy(file, folder)
        (folder / "data").mkdir()
        for name in ("documents.py", "create_datasets_from_start.sh"):
            shutil.copy(ROOT / "data" / name, folder / "data")

    def command(self, *arguments, wrapper="electra.sh"):
        return ["bash", str(self.folder / "scripts" / wrapper), *map(str, arguments)]

    def call(self, *arguments, cwd=None, wrapper="electra.sh", **environment):
        return subprocess.run(self.command(*arguments, wrapper=wrapper), cwd=cwd or self.folder, text=True,
                              capture_output=True, timeout=60, env={**self.environment, **environment})

    def start(self, *arguments, **environment):
        return subprocess.Popen(self.command(*arguments), cwd=self.folder, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env={**self.environment, **environment}, start_new_session=True)

    def recorded(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def phases(self):
        return [2 if "--phase2" in call else 1 for call in self.recorded() if "run_pretraining.py" in call]


def write_executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def make_folder(path):
    path.mkdir()
    return path


def commands(result):
    """The commands that a dry run printed, as lists of words."""
    assert result.returncode == 0, result.stderr
    return [shlex.split(line)[1:] for line in result.stdout.splitlines() if line.startswith("running: ")]


def assert_refused(result, *words, status=2):
    """Nothing on standard output, one sentence on standard error."""
    assert result.returncode == status
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


# --- Stopping ---


class StopAfter:
    """Stands in for a signal that arrives before update `step + 1` has read its first micro-batch.

    With `micro_batches` it arrives when that many micro-batches of update `step + 1` have been computed.
    """

    save_requested = False

    def __init__(self, step, first=1, micro_batches=0):
        self.updates_left, self.micro_batches_left = step - first + 1, micro_batches

    def begin(self):
        self.updates_left -= 1

    @property
    def signal_name(self):
        if self.updates_left < 0:
            self.micro_batches_left -= 1
        return "SIGTERM" if self.updates_left < 0 and self.micro_batches_left < 0 else None


# --- Pre-training ---

PRETRAINING_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(56))]  # 61 tokens


def write_records(path, records, compression="") -> str:
    """Writes a TFRecord file with TensorFlow's writer, and its folder. compression: "" or "GZIP"."""
    import tensorflow as tf
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as file:
        for record in records:
            file.write(record)
    return str(path)


def write_shards(folder, length, records=90, shards=3, seed=0, features=()):
    """Records with a pattern to learn: each token is often followed by its successor."""
    import tensorflow as tf
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(PRETRAINING_VOCABULARY) + "\n")
    rng = np.random.default_rng(seed)

    def int64(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"train-{shard}.tfrecord")) as writer:
            for _ in range(shard, records, shards):
                real = int(rng.integers(length // 2, length + 1))
                ids = (5 + (rng.integers(56) + np.cumsum(rng.random(real) < 0.8)) % 56).tolist()
                ids[0], ids[-1] = 2, 3
                padding = [0] * (length - real)
                content = {"input_ids": int64(ids + padding), "input_mask": int64([1] * real + padding),
                           "segment_ids": int64([0] * length), **dict(features)}
                writer.write(tf.train.Example(features=tf.train.Features(feature=content)).SerializeToString())
    return str(folder)


def pretraining_config(data, tmp_path, **changes):
    """Phase 1 of 12 updates of 3 x 4 sequences: 90 records make 7.5 updates, so an epoch ends inside an update."""
    settings = dict(model_size="tiny", model_config=data["model"], pretrain_tfrecords=data[32], max_seq_length=32,
                    num_train_steps=12, num_warmup_steps=2, train_batch_size=4, gradient_accumulation_steps=3,
                    save_checkpoints_steps=100, results_dir=str(tmp_path / "results"))
    return PretrainingConfig(**{**settings, **changes})


# --- SQuAD ---

SQUAD_ENCODER = ElectraConfig(vocab_size=5 + len(SQUAD_WORDS) + 5, embedding_size=16, hidden_size=32,
                              num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                              max_position_embeddings=64)
SQUAD_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SQUAD_WORDS, "who", "follows", "?"]


def squad_config(data, out, **changes):
    settings = dict(do_train=True, do_predict=True, do_eval=True, data_dir=str(data), output_dir=str(out),
                    cache_dir=str(pathlib.Path(out) / "cache"), init_checkpoint=str(data / "model"),
                    max_seq_length=48, doc_stride=12, max_query_length=8,
                    length_buckets="24,32", train_batch_size=4, predict_batch_size=8, num_train_epochs=2.0,
                    learning_rate=1e-3, seed=5, log_freq=3)
    return SquadConfig(**{**settings, **changes})


def save_checkpoints(folder, *places, model=None, **state):
    """Checkpoints of pre-training at (phase, step): a state and, where given, a model. Writes their vocabulary too."""
    import tensorflow as tf

    from checkpoints import Checkpoints
    from tokenization import ElectraTokenizer
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "vocab.txt").write_text("\n".join(SQUAD_VOCABULARY))
    fingerprint = ElectraTokenizer(str(folder.parent / "vocab.txt")).fingerprint
    for phase, step in places:
        Checkpoints(str(folder), keep=99).save(phase, step, model or tf.Module(), tf.Module(), {
            "device": "cpu", "encoder": SQUAD_ENCODER.to_dict(), "tokenizer_fingerprint": fingerprint, **state})
    return str(folder)


# --- Question answering ---

FILLERS = [f"{a}{b}" for a in "bcdfglmn" for b in ("an", "el", "ir", "om", "us")]
READER_ENCODER = ElectraConfig(vocab_size=5 + len(FILLERS) + 6, embedding_size=16, hidden_size=32, num_hidden_layers=1,
                               num_attention_heads=2, intermediate_size=64, max_position_embeddings=32,
                               hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
WHERE = "where is it ?"


def words(count, seed, zed=None):
    """A context of invented words, with `zed` at a place in it."""
    chosen = list(np.random.default_rng(seed).choice(FILLERS, count))
    if zed is not None:
        chosen[zed] = "zed"
    return " ".join(chosen)


def fine_tune_reader(folder, name, joint_head):
    """Makes <folder>/<name>, a model that finds `zed` in a context; where the head is joint, of version 2.0: it also
    predicts that the word is missing. Returns its path."""
    import run_tf_squad
    import training
    paragraphs = []
    for number in range(64):
        impossible = joint_head and number % 2 == 1
        context = words(18, number, None if impossible else number * 7 % 18)
        answers = [] if impossible else [{"text": "zed", "answer_start": context.index("zed")}]
        paragraphs.append({"context": context, "qas": [{
            "id": str(number), "question": WHERE, "answers": answers,
            **({"is_impossible": impossible} if joint_head else {})}]})
    (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    run_tf_squad.run(SquadConfig(
        do_train=True, train_file=str(folder / f"{name}.json"), output_dir=str(folder / name), skip_cache=True,
        init_checkpoint=str(folder / "encoder"), version_2_with_negative=joint_head, joint_head=joint_head,
        max_seq_length=32, doc_stride=8, max_query_length=8, length_buckets="32", train_batch_size=16, max_steps=150,
        learning_rate=1e-2, layerwise_lr_decay=0.0, seed=1, log_freq=1000), training.StopRequest())
    return str(folder / name)


# --- Classification and tagging ---


def save_classifier(folder, where, labels):
    """A classifier with random weights and the vocabulary of `folder` in `where`. Returns its path."""
    import modeling
    import weights
    from tokenization import ElectraTokenizer
    model = modeling.SequenceClassification(READER_ENCODER, len(labels.names), labels.problem, seed=4)
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:  # at initial values all texts have nearly the same logits
        variable.assign_add(rng.normal(scale=0.3, size=variable.shape).astype(np.float32))
    weights.save_folder(model, "sequence_classification", ElectraTokenizer(str(folder / "vocab.txt")), str(where),
                        labels=labels)
    return str(where)


def save_tagger(folder, where, labels, words=("zed",)):
    """A tagger in `where`, with the vocabulary of `folder`, that gives `words` the second label, and others the first:
    the embedding of a word says which it is, and the encoder passes that on. Returns its path."""
    import modeling
    import weights
    from tokenization import ElectraTokenizer
    model = modeling.TokenClassification(READER_ENCODER, len(labels.names), seed=4)
    tokenizer = ElectraTokenizer(str(folder / "vocab.txt"))
    embeddings = np.zeros(model.embeddings.word_embeddings.shape, np.float32)
    embeddings[:, 0] = 1.0
    for word in words:
        (id_,) = tokenizer.encode(word).ids
        embeddings[id_, :2] = 0.0, 1.0
    projection = np.zeros(model.encoder.embeddings_project.kernel.shape, np.float32)
    projection[0, 0] = projection[1, 1] = 1.0
    for variable in model.trainable_variables:
        if "LayerNorm" not in variable.name:
            variable.assign(np.zeros(variable.shape))
    model.embeddings.word_embeddings.assign(embeddings)
    model.encoder.embeddings_project.kernel.assign(projection)
    kernel = np.zeros(model.head.kernel.shape, np.float32)
    kernel[0, 0] = kernel[1, 1] = 2.0
    model.head.kernel.assign(kernel)
    weights.save_folder(model, "token_classification", tokenizer, str(where), labels=labels)
    return str(where)
