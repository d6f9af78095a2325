#!/usr/bin/env python3
"""Takes vocabularies of every kind from text to Hugging Face transformers: a long check beside the tests.

    python scripts/check_vocabularies.py --work_dir=/tmp/vocabularies
    python scripts/check_vocabularies.py --work_dir=/tmp/vocabularies --squad_dir=SQUAD    also English, on SQuAD 1.1

For German, Chinese and Arabic text of tests/languages.py, and each --type of data/build_vocab.py: trains the
vocabulary, builds a dataset, pre-trains `tiny` for a few updates, and exports it. Prints the share of lines with the
ids of the `sentencepiece` library, the share of questions whose answer is recovered from its tokens to the character,
and for transformers 4 and 5 whether the exported folder gives the same ids and logits. The status is 1 if a share of
answers is below 99% with SentencePiece, an id differs, or a logit by more than 1e-5. Environments are made as by
check_weights.py.
"""
from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from typing import List, NamedTuple, Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "data"), os.path.join(ROOT, "tests")]

import command_line  # noqa: E402  (found through the line above, like the rest)
from configuration import UserError, option  # noqa: E402


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    work_dir: Optional[str] = option(None, "folder for the environments, vocabularies and models")
    squad_dir: Optional[str] = option(None, "folder with train-v1.1.json and dev-v1.1.json: English is checked too")

    def __post_init__(self):
        if not self.work_dir:
            raise UserError("--work_dir is missing: name a folder with some GB free.")


if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(CheckConfig, __doc__)

import build_vocab  # noqa: E402
import check_weights  # noqa: E402
import languages  # noqa: E402
import numpy as np  # noqa: E402
import sentencepiece  # noqa: E402

import files  # noqa: E402
import postprocess_pretrained_ckpt  # noqa: E402
import squad_utils  # noqa: E402
import weights  # noqa: E402
from tokenization import ElectraTokenizer  # noqa: E402

TYPES = ("wordpiece", *build_vocab.MODEL_TYPES)
SHARE = 0.99  # of the answers
SENTENCES = 60  # of each language, for transformers


class Material(NamedTuple):
    """Text of one language, and questions."""

    lines: List[str]
    examples: List[squad_utils.Example]
    vocab_size: int


def read_material(config: CheckConfig, folder: str) -> dict:
    """Text and questions by language."""
    found = {}
    for language in languages.LANGUAGES:
        path = os.path.join(folder, f"{language}.json")
        files.write_json(path, languages.squad(language, 1000))
        examples = squad_utils.read_squad(path, version_2=False)
        found[language] = Material(languages.corpus(language, 4000), examples, 1000)
    if config.squad_dir:
        train, dev = (squad_utils.read_squad(os.path.join(config.squad_dir, f"{part}-v1.1.json"), version_2=False)
                      for part in ("train", "dev"))
        lines = [line for context in dict.fromkeys(example.context for example in train) for line in (context, "")]
        found["english"] = Material(lines, dev, 8000)
    return found


def recovered_share(examples, tokenizer: ElectraTokenizer) -> float:
    """The share of questions whose first answer is, to the character, the text of its tokens."""
    features = squad_utils.build_features(examples, tokenizer, max_seq_length=512)
    exact = set()
    for row in np.flatnonzero(features.is_impossible == 0):
        example = examples[features.example_index[row]]
        text = example.context[features.char_start[row, features.start_positions[row]]:
                               features.char_end[row, features.end_positions[row]]]
        if text == example.answers[0][0].strip():
            exact.add(example.id)
    return len(exact) / len(examples)


def library_share(lines: List[str], tokenizer: ElectraTokenizer) -> float:
    """The share of lines that have the ids of the sentencepiece library."""
    theirs = sentencepiece.SentencePieceProcessor(model_file=os.path.join(
        os.path.dirname(tokenizer.vocab_file), "spiece.model")).encode(lines)
    return float(np.mean([ours == expected for ours, expected in zip(tokenizer.encode_batch(lines), theirs)]))


def run(program: str, **options):
    flags = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([sys.executable, os.path.join(ROOT, program), *flags],
                   check=True, stdout=subprocess.DEVNULL)


def make_model(material: Material, kind: str, folder: str, target: str) -> float:
    """Trains a vocabulary and a model, and exports it to `target`. Returns: the share of exact answers."""
    corpus, vocabulary, data, results = (os.path.join(folder, name) for name in ("text", "vocab", "data", "results"))
    os.makedirs(corpus)
    files.write_text(os.path.join(corpus, "text.txt"), "\n".join(material.lines) + "\n")
    run("data/build_vocab.py", corpus_dir=corpus, output_dir=vocabulary, type=kind, vocab_size=material.vocab_size)
    tokenizer = ElectraTokenizer.from_folder(vocabulary)
    run("build_pretraining_dataset.py", corpus_dir=corpus, vocab_file=tokenizer.vocab_file, output_dir=data,
        num_processes=1, num_out_files=1)
    run("run_pretraining.py", pretrain_tfrecords=data, results_dir=results, model_size="tiny", num_train_steps=4,
        num_warmup_steps=1, train_batch_size=4, max_seq_length=128)
    postprocess_pretrained_ckpt.export(postprocess_pretrained_ckpt.ExportConfig(
        pretrained_checkpoint=os.path.join(results, "models", "tiny", "checkpoints"), output_dir=target))
    lines = [line for line in material.lines if line]
    share = recovered_share(material.examples, tokenizer)
    same = f", {library_share(lines, tokenizer):.2%} of the lines as in sentencepiece" if kind != "wordpiece" else ""
    print(f"{os.path.basename(target)}: {tokenizer.vocab_size:,} tokens, {share:.2%} of {len(material.examples):,} "
          f"answers exact{same}", flush=True)
    return share


def compare(release: str, work_dir: str, folder: str, sentences: List[str]) -> bool:
    """Compares all exported models with what transformers makes of them."""
    check_weights.peer(check_weights.peer_python(release, work_dir), "check", folder)
    good = True
    for name in sorted(os.listdir(folder)):
        for kind in check_weights.KINDS:
            exported = os.path.join(folder, name, kind)
            if not os.path.isdir(exported):
                continue
            source = weights.read(exported)
            ours = source.tokenizer
            network = check_weights.network_of(source, kind, ours)
            gap = check_weights.difference(check_weights.outputs(network, folder), exported, "peer_logits.npy")
            with open(os.path.join(exported, "peer_ids.json"), encoding="utf-8") as file:
                theirs = json.load(file)
            expected = [[ours.cls_id, *ids, ours.sep_id] for ids in ours.encode_batch(sentences)]
            same = sum(ids == other for ids, other in zip(expected, theirs))
            good &= gap <= check_weights.TOLERANCE and same == len(sentences)
            print(f"transformers {release}  {name:24} {kind:14} logits {gap:.1e}  "
                  f"{same} of {len(sentences)} sentences with the same ids", flush=True)
    return good


def main(argv) -> int:
    config = command_line.parse(CheckConfig, argv, __doc__)
    folder, exported = (os.path.join(config.work_dir, name) for name in ("runs", "exported"))
    for path in (folder, exported):
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
    materials = read_material(config, folder)
    shares = {(language, kind): make_model(material, kind, os.path.join(folder, f"{language}-{kind}"),
                                           os.path.join(exported, f"{language}-{kind}"))
              for language, material in materials.items() for kind in TYPES}
    smallest = min(ElectraTokenizer.from_folder(os.path.join(exported, name, "discriminator")).vocab_size
                   for name in os.listdir(exported))
    sentences = [line for material in materials.values()
                 for line in [line for line in material.lines if line.strip()][:SENTENCES]]
    check_weights.write_inputs(exported, smallest, batch=3, length=40)
    files.write_text(os.path.join(exported, "sentences.json"), json.dumps(sentences))
    good = all([compare(release, config.work_dir, exported, sentences) for release in check_weights.PEERS])
    return 0 if good and all(
        share >= SHARE for (_, kind), share in shares.items() if kind != "wordpiece") else 1


if __name__ == "__main__":
    command_line.run_command(main)
