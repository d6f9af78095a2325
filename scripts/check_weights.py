#!/usr/bin/env python3
"""Compares weights in and out with Hugging Face transformers 4 and 5 on PyTorch: a long check beside the tests.

    python scripts/check_weights.py --work_dir=/tmp/weights
    python scripts/check_weights.py --work_dir=/tmp/weights --encoder=FOLDER  also a real encoder (BERT, ELECTRA)
    python scripts/check_weights.py --work_dir=/tmp/weights --regenerate      only writes tests/data/transformers_tiny

Creates one virtual environment per release under --work_dir (PyTorch, about 1 GB each; later calls use them again). For
tiny, small, base and a size with projected embeddings: a random ElectraForPreTraining, ElectraForMaskedLM,
ElectraForQuestionAnswering, ElectraForSequenceClassification and ElectraForTokenClassification, each saved by
transformers, are read here, and what this project writes from them is loaded there, without a missing or unexpected
key, tokenizer and labels included. Prints the largest difference of any logit; above 1e-5 the status is 1.
"""
from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from typing import Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import command_line  # noqa: E402  (found through the line above, like the rest)
import electra_config  # noqa: E402
from configuration import UserError, option  # noqa: E402
from electra_config import ElectraConfig  # noqa: E402


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    work_dir: Optional[str] = option(None, "folder for the environments and models")
    encoder: Optional[str] = option(None, "folder of a real encoder whose hidden states are compared too")
    regenerate: bool = option(False, "regenerate tests/data/transformers_tiny and stop")

    def __post_init__(self):
        if not self.work_dir:
            raise UserError("--work_dir is missing: name a folder with some GB free.")


if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(CheckConfig, __doc__)

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import files  # noqa: E402
import modeling  # noqa: E402
import tokenization  # noqa: E402
import weights  # noqa: E402

# transformers 4 wants huggingface_hub below 1, transformers 5 a newer one than ours: hence an environment each.
PEERS = {"4": ["transformers==4.57.6", "huggingface_hub<1"], "5": ["transformers==5.23.0"]}
TORCH = "torch==2.13.0"
TOLERANCE = 1e-5
KINDS = ("discriminator", "generator")
LABELS = {"sequence_classification": ["no", "perhaps", "yes"], "token_classification": ["O", "B-PER", "I-PER", "B-LOC"]}
SENTENCES = ["The cat sat on the mat.", "Unwanted, running café!", "lower [MASK] est"]
WORDS = [*tokenization.SPECIAL_TOKENS,
         *"the cat sat on mat un ##want ##ed run ##ning cafe low ##er est . , ! a".split()]


def peer_python(release: str, work_dir: str) -> str:
    python = os.path.join(work_dir, f"transformers{release}", "bin", "python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(python))], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", TORCH, *PEERS[release]], check=True)
    return python


def peer(python: str, verb: str, folder: str):
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    subprocess.run([python, os.path.join(ROOT, "tests", "transformers_peer.py"), verb, folder], check=True,
                   stdout=subprocess.DEVNULL, env=environment)


def all_sizes(vocab_size: int) -> dict:
    """Settings of every size, discriminator and generator."""
    discriminators = {size: ElectraConfig.of_size(size, vocab_size=vocab_size) for size in ("tiny", "small", "base")}
    discriminators["projected"] = ElectraConfig(vocab_size=vocab_size, embedding_size=48, hidden_size=96,
                                                num_hidden_layers=3, num_attention_heads=3, intermediate_size=200)
    fractions = {**electra_config.GENERATOR_FRACTIONS, "projected": 2 / 3}
    return {size: {"discriminator": encoder.to_dict(), "generator": encoder.generator(fractions[size]).to_dict(),
                   "question_answering": encoder.to_dict(), **with_labels(encoder)}
            for size, encoder in discriminators.items()}


def with_labels(encoder: ElectraConfig) -> dict:
    """Settings of a classifier and a tagger, by kind."""
    return {kind: {**encoder.to_dict(), "id2label": dict(enumerate(names)),
                   "label2id": {name: number for number, name in enumerate(names)}} for kind, names in LABELS.items()}


def write_inputs(folder: str, vocab_size: int, batch: int, length: int):
    rng = np.random.default_rng(1)
    mask = (np.arange(length) < np.linspace(length, length // 3, batch).astype(int)[:, None]).astype(np.int64)
    np.savez(os.path.join(folder, "inputs.npz"), input_ids=rng.integers(5, vocab_size, (batch, length)) * mask,
             attention_mask=mask, token_type_ids=(np.arange(length) > length // 2) * mask)


def network_of(source: weights.Source, kind: Optional[str], tokenizer) -> tf.Module:
    """A network with the weights of one folder."""
    if kind == "question_answering":
        return weights.question_answering(source, tokenizer)
    if kind in LABELS:
        model, labels = weights.task_model(source, tokenizer)
        assert list(labels.names) == LABELS[kind]
        return model
    make = modeling.VariableMaker(0, 0.02)
    embeddings = modeling.Embeddings(source.config, "electra/embeddings", make)
    encoder = modeling.Encoder(source.config, "electra", make, tf.float32)
    head = {"discriminator": modeling.DiscriminatorHead, "generator": modeling.GeneratorHead}.get(kind)
    network = modeling.Network(embeddings, encoder, head and head(source.config, make, tf.float32))
    lines = weights.load(source, network.trainable_variables, tokenizer)
    assert kind is None or len(lines) == 1, lines  # every tensor of the folder has its place
    return network


def outputs(network: tf.Module, folder: str) -> np.ndarray:
    inputs = np.load(os.path.join(folder, "inputs.npz"))
    tensors = [tf.constant(inputs[name], tf.int32) for name in ("input_ids", "attention_mask", "token_type_ids")]
    if isinstance(network, modeling.QuestionAnswering):
        found = network.answers(dict(zip(("input_ids", "input_mask", "segment_ids"), tensors)))
        return np.stack([found["start_logits"], found["end_logits"]])
    if isinstance(network, modeling.TaskModel):
        return network.logits(dict(zip(("input_ids", "input_mask", "segment_ids"), tensors))).numpy()
    return network(*tensors).numpy()


def difference(ours: np.ndarray, folder: str, theirs: str, mask=None) -> float:
    gap = np.abs(ours - np.load(os.path.join(folder, theirs)))
    return float((gap if mask is None else gap[mask > 0]).max())


def compare(release: str, work_dir: str, tokenizer) -> bool:
    python = peer_python(release, work_dir)
    theirs, ours = (os.path.join(work_dir, f"{whose}{release}") for whose in ("theirs", "ours"))
    for folder in (theirs, ours):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        write_inputs(folder, tokenizer.vocab_size, batch=3, length=40)
    sizes = all_sizes(tokenizer.vocab_size)
    files.write_json(os.path.join(theirs, "sizes.json"), sizes)
    files.write_text(os.path.join(ours, "sentences.json"), json.dumps(SENTENCES))
    peer(python, "make", theirs)
    rows, good = [], True
    for size, kinds in sizes.items():
        for kind in kinds:
            network = network_of(weights.read(os.path.join(theirs, size, kind)), kind, tokenizer)
            logits = outputs(network, theirs)
            labels = weights.labels_of(weights.read(os.path.join(theirs, size, kind))) if kind in LABELS else None
            weights.save_folder(network, kind, tokenizer, os.path.join(ours, size, kind), labels=labels)
            rows.append((size, kind, logits, difference(logits, os.path.join(theirs, size, kind), "logits.npy")))
    peer(python, "check", ours)
    expected_ids = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in tokenizer.encode_batch(SENTENCES)]
    for size, kind, logits, loaded in rows:
        exported = difference(logits, os.path.join(ours, size, kind), "peer_logits.npy")
        with open(os.path.join(ours, size, kind, "peer_ids.json"), encoding="utf-8") as file:
            same_ids = json.load(file)[:2] == expected_ids[:2]  # theirs keeps the third one's [MASK] whole
        good &= max(loaded, exported) <= TOLERANCE and same_ids
        print(f"transformers {release}  {size:10} {kind:23} in {loaded:.1e}  out {exported:.1e}  "
              f"{'same token ids' if same_ids else 'OTHER TOKEN IDS'}", flush=True)
    return good


def compare_encoder(encoder: str, work_dir: str) -> bool:
    folder = os.path.join(work_dir, "encoder")
    os.makedirs(folder, exist_ok=True)
    tokenizer = tokenization.ElectraTokenizer.from_folder(encoder)
    write_inputs(folder, tokenizer.vocab_size, batch=4, length=64)
    files.write_text(os.path.join(folder, "encoder.txt"), os.path.abspath(encoder))
    peer(peer_python("4", work_dir), "encode", folder)
    gap = difference(outputs(network_of(weights.read(encoder), None, tokenizer), folder), folder, "hidden.npy",
                     np.load(os.path.join(folder, "inputs.npz"))["attention_mask"])
    print(f"{encoder}: hidden states of real tokens differ by at most {gap:.1e}")
    return gap <= TOLERANCE


def regenerate(work_dir: str, tokenizer):
    """A model of each kind, small enough to commit, as transformers 4 saves it."""
    folder = os.path.join(work_dir, "transformers_tiny")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    encoder = ElectraConfig(vocab_size=tokenizer.vocab_size, embedding_size=8, hidden_size=16, num_hidden_layers=2,
                            num_attention_heads=2, intermediate_size=24, max_position_embeddings=16)
    files.write_json(os.path.join(folder, "sizes.json"), {"tiny": {**dict.fromkeys(KINDS, encoder.to_dict()),
                                                                   **with_labels(encoder)}})
    write_inputs(folder, tokenizer.vocab_size, batch=3, length=11)
    peer(peer_python("4", work_dir), "make", folder)
    target = os.path.join(ROOT, "tests", "data", "transformers_tiny")
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(os.path.join(folder, "tiny"), target)
    shutil.copy(os.path.join(folder, "inputs.npz"), target)
    for kind in (*KINDS, *LABELS):
        shutil.copy(tokenizer.vocab_file, os.path.join(target, kind))
    print(f"written: {target}")


def main(argv) -> int:
    config = command_line.parse(CheckConfig, argv, __doc__)
    os.makedirs(config.work_dir, exist_ok=True)
    vocab_file = os.path.join(config.work_dir, "vocab.txt")
    fillers = [] if config.regenerate else [f"[unused{i}]" for i in range(30522 - len(WORDS))]
    files.write_text(vocab_file, "\n".join(WORDS + fillers) + "\n")
    tokenizer = tokenization.ElectraTokenizer(vocab_file)
    if config.regenerate:
        regenerate(config.work_dir, tokenizer)
        return 0
    good = all([compare(release, config.work_dir, tokenizer) for release in PEERS])
    if config.encoder:
        good &= compare_encoder(config.encoder, config.work_dir)
    return 0 if good else 1


if __name__ == "__main__":
    command_line.run_command(main)
