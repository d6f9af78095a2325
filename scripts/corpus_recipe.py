"""From text to the records of pre-training: the options of both wrappers that do so, and the commands.

scripts/electra.sh builds the records of --corpus_dir or of the sample data, data/create_datasets_from_start.sh those of
downloads. Only the standard library is used.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import sys
from typing import Dict, List, Tuple

from options import ROOT, Call, own

import configuration
import files
from configuration import UserError

VOCABULARIES = {"wordpiece": "vocab.txt", "sentencepiece": "spiece.model", "bpe": "spiece.model"}
CORPUS_OPTIONS = [  # of text that is prepared, and of its vocabulary
    own("language", "en", "language of the text, as ISO 639, for splitting sentences"),
    own("prepare", "auto", "auto: prepare corpus_dir unless it has one sentence per line; true: always; false: never",
        ("auto", "true", "false")),
    own("prepare_options", "", "further options of data/prepare_corpus.py, such as '--paragraphs=lines "
        "--filter_language'"),
    own("vocab_type", "wordpiece", "type of a new vocabulary: wordpiece, sentencepiece or bpe", tuple(VOCABULARIES)),
    own("vocab_size", "30522", "maximum size of a new vocabulary, in tokens"),
    own("pack_documents", "false", "fill records from several short documents, with [SEP] between them"),
]
DEMO = "data/sample/demo"
MAKE_DEMO = {DEMO: ["data/make_sample_data.py", f"--output_dir={DEMO}", "--size=demo"]}


def records_step(corpus: str, vocab_file: str, folder: str, length: str, num_out_files: int, eval_fraction: float):
    return ["build_pretraining_dataset.py", f"--corpus_dir={corpus}", f"--vocab_file={vocab_file}",
            f"--output_dir={folder}", f"--max_seq_length={length}", f"--num_out_files={num_out_files}",
            f"--eval_fraction={eval_fraction}"]


def corpus_data(call: Call, lengths: Dict[int, str]) -> Tuple[Dict[int, str], Dict[str, List[str]]]:
    """The records that are built from --corpus_dir, see `electra_data`.

    Raises: UserError: data_dir is given too, the folder has no text, or the records that are there are of other text.
    """
    for phase in lengths:
        if f"data_dir_p{phase}" in call.given:
            raise UserError(f"--corpus_dir and --data_dir_p{phase} are both given: omit one of them.")
    corpus, base = call.path("corpus_dir"), f"data/{call['model_name'] or call['electra_model']}"
    folder = call.in_work_dir(corpus)
    if not os.path.isdir(folder):
        raise UserError(f"--corpus_dir={call['corpus_dir']} is not a directory: give the folder of the text files.")
    sizes = {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)
             if not name.startswith(".") and os.path.isfile(os.path.join(folder, name))}
    steps: Dict[str, List[str]] = {}
    if needs_preparing(call, folder, sizes):
        base, steps, num_bytes = preparing(call, corpus, base)
        corpus = f"{base}/prepared/text"
    elif not any(sizes.values()):
        raise UserError(f"--corpus_dir={call['corpus_dir']} contains no text: put the text files there.")
    else:
        num_bytes = sum(sizes.values())
    base, vocab_file = vocabulary(call, corpus, base, steps)
    packed = call["pack_documents"] == "true"
    data = {phase: f"{base}/seq_len_{length}" + "_packed" * packed for phase, length in lengths.items()}
    for phase, length in lengths.items():
        if not corpus.endswith("/prepared/text"):
            refuse_other_corpus(call, data[phase], sizes)
        steps[data[phase]] = records_step(corpus, vocab_file, data[phase], length, 16,
                                          0.005 if num_bytes > 1e8 else 0.05) + ["--pack_documents"] * packed
    missing = [folder for folder in steps if not os.path.isdir(call.in_work_dir(folder))]
    if missing and call["estimate"] == "true":
        raise UserError(f"--estimate needs the records of --corpus_dir, and {missing[0]} is not built yet: build it "
                        "with the commands that --dry_run prints, or give other records with --data_dir_p1 and "
                        "--data_dir_p2.")
    return data, steps


def text_formats():
    """data/documents.py."""
    folder = os.path.join(ROOT, "data")
    if folder not in sys.path:
        sys.path.append(folder)
    import documents
    return documents


def needs_preparing(call: Call, folder: str, sizes: Dict[str, int]) -> bool:
    """Whether the text is not in the builder's own format: files in one folder, one sentence per line."""
    if call["prepare"] != "auto":
        return call["prepare"] == "true"
    manifest = os.path.join(os.path.dirname(os.path.realpath(folder)), "manifest.json")
    with contextlib.suppress(UserError):
        if configuration.read_json_object(manifest).get("format") == "electra-corpus":
            return False  # the folder text/ of a prepared corpus
    documents = text_formats()
    if any(os.path.dirname(name) for name in documents.find(folder)[0]):
        return True
    names = sorted(name for name, size in sizes.items() if size)
    for name in names[::len(names) // 100 + 1]:
        if documents.kind_of(name) not in (("text", ""), (None, "")):
            return True
        try:
            head = documents.head_of(os.path.join(folder, name), documents.Source(encoding_errors="replace"))
        except OSError as error:
            raise UserError(f"{os.path.join(folder, name)} cannot be read ({error.strerror}): fix that.") from error
        if documents.detect(head).paragraphs != "sentences":
            return True
    return False


def preparing(call: Call, corpus: str, base: str) -> Tuple[str, Dict[str, List[str]], int]:
    """The folder of what is built from text, named by a hash of its content and of the options, so that other text or
    options never meet what was built before; the command that prepares the text; its size in bytes."""
    documents, folder = text_formats(), call.in_work_dir(corpus)
    names, unknown = documents.find(folder)
    if not names:
        others = f", only others such as {unknown[0]}" if unknown else ""
        raise UserError(f"--corpus_dir={call['corpus_dir']} contains no text{others}: put .txt, .jsonl, .xml, .parquet "
                        "or .arrow files there.")
    known = []
    for name in ("*/prepared/manifest.json", "*/.prepared.partial/plan.json"):
        for path in files.matching(call.in_work_dir(os.path.join(base, name))):
            with contextlib.suppress(UserError):
                known += configuration.read_json_object(path).get("input", [])
    try:
        content = documents.content(folder, names, known)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): fix that, or remove it.") from error
    options = preparation_options(call)
    deciding = [options, [[entry["file"], entry["bytes"], entry["blake2b"]] for entry in content]]
    place = f"{base}/{hashlib.blake2b(json.dumps(deciding).encode(), digest_size=5).hexdigest()}"
    return place, {f"{place}/prepared": ["data/prepare_corpus.py", f"--input_dir={corpus}",
                                         f"--output_dir={place}/prepared", *options]}, sum(
        entry["bytes"] for entry in content)


def preparation_options(call: Call) -> List[str]:
    try:
        return [f"--language={call['language']}", *shlex.split(call["prepare_options"])]
    except ValueError as error:
        raise UserError(f"--prepare_options={call['prepare_options']} is not a list of options ({error}).") from error


def vocabulary(call: Call, corpus: str, base: str, steps: Dict[str, List[str]]) -> Tuple[str, str]:
    """The folder of the records and the vocabulary file; adds the command that trains it to the steps."""
    given = [name for name in ("vocab_type", "vocab_size") if name in call.given]
    if call["vocab_file"]:
        if given:
            raise UserError(f"--{given[0]} is for a new vocabulary, and --vocab_file names one: omit one of them.")
        if corpus.endswith("/prepared/text"):
            with contextlib.suppress(OSError), open(call.in_work_dir(call.path("vocab_file")), "rb") as file:
                base += f"/vocab_{hashlib.blake2b(file.read(), digest_size=4).hexdigest()}"
        return base, call.path("vocab_file")
    if not re.fullmatch("[0-9]{1,7}", call["vocab_size"]):
        raise UserError(f"--vocab_size={call['vocab_size']} must be an integer, such as 8000.")
    folder = "/".join([base, "_".join(["vocab", *(call[name] for name in given)])])
    options = {"vocab_type": "type", "vocab_size": "vocab_size"}
    steps[folder] = ["data/build_vocab.py", f"--corpus_dir={corpus}", f"--output_dir={folder}",
                     *(f"--{options[name]}={call[name]}" for name in given)]
    return folder if given else base, f"{folder}/{VOCABULARIES[call['vocab_type']]}"


def refuse_other_corpus(call: Call, data: str, sizes: Dict[str, int]):
    """Raises UserError: records that were built before are of other text than that of --corpus_dir."""
    manifest = call.in_work_dir(os.path.join(data, "manifest.json"))
    if not os.path.exists(manifest):
        return
    try:
        built = {entry["file"]: entry["bytes"] for entry in configuration.read_json_object(manifest)["corpus"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{manifest} is damaged: delete the folder to build it again.") from error
    if built != sizes:
        raise UserError(f"{data} was built from other text than that of --corpus_dir={call['corpus_dir']} now: delete "
                        "that folder to build it again, or choose another --model_name.")
