"""data/create_datasets_from_start.sh: its options, and the commands from downloads or text to records.

Only the standard library is used.
"""
from __future__ import annotations

import os
import re
import shlex
from typing import Dict, List

from corpus_recipe import CORPUS_OPTIONS, preparation_options, records_step, vocabulary
from options import Call, Table, own
from plans import DRY_RUN, Plan, building
from pretraining_recipe import electra_table

import configuration
from configuration import UserError

DATASETS = ("wiki", "wiki_books", "books", "squad", "corpus")


def datasets_table() -> Table:
    """The first position is that of NVIDIA's create_datasets_from_start.sh."""
    shared = {entry.name: entry for entry in [*CORPUS_OPTIONS, *electra_table().options]}
    return Table("""\
usage: bash data/create_datasets_from_start.sh [wiki|wiki_books|books|squad|corpus FOLDER] [--option=value ...]
Makes a dataset from its beginning, in data_dir: downloads, prepares the text, trains a vocabulary, and builds the
records of both phases of pre-training. What is there already is used again. squad only downloads.

BookCorpus can no longer be downloaded: wiki_books and books take a folder of books (books_dir), or books of Project
Gutenberg (books or book_list).""", [
        own("dataset", "wiki_books", "wiki (also wiki_only), wiki_books, books, squad, or corpus for text of your own",
            (*DATASETS, "wiki_only")),
        own("corpus_dir", "", "corpus: folder of the text", path="input"),
    ], [
        own("data_dir", "", "folder for the data (default: data/<dataset>)", path="output"),
        *(shared[name] for name in ("language", "prepare_options")),
        own("vocab_file", "", "a vocabulary, in place of a new one", path="input"),
        *(shared[name] for name in ("vocab_type", "vocab_size", "pack_documents", "max_seq_length_p1",
                                    "max_seq_length_p2")),
        own("date", "latest", "wiki: date of the dump, such as 20250101"),
        own("books_dir", "", "books: folder of text files", path="input"),
        own("books", "", "books: numbers of Project Gutenberg, separated by commas"),
        own("book_list", "", "books: file with numbers of Project Gutenberg, one per line", path="input"),
        own("mirror", "", "URL of a mirror to download from"),
        own("offline", "false", "use only what has been downloaded"),
        own("num_out_files", "64", "training shards of each length"),
        own("eval_fraction", "0.005", "fraction of the documents that is held out"),
        DRY_RUN,
    ])


def create_datasets(call: Call) -> Plan:
    """The data of a run alone. The commands that download and prepare run every time: they find what is done."""
    dataset = {"wiki_only": "wiki"}.get(call["dataset"], call["dataset"])
    folder = call.path("data_dir") or f"data/{dataset}"
    if (dataset == "corpus") != bool(call["corpus_dir"]):
        raise UserError("a folder of text belongs to the dataset corpus: bash data/create_datasets_from_start.sh "
                        "corpus FOLDER.")
    gutenberg = [f"--{name}={call.path(name)}" for name in ("books", "book_list") if call[name]]
    if dataset.endswith("books") and bool(call["books_dir"]) == bool(gutenberg):
        raise UserError("BookCorpus can no longer be downloaded: give a folder of text files with --books_dir, or "
                        "books of Project Gutenberg with --books or --book_list, but not both.")
    for name in ("books_dir", "corpus_dir"):
        if call[name] and not os.path.isdir(call.path(name)):
            raise UserError(f"--{name}={call[name]} is not a directory: give the folder of the text files.")
    if not re.fullmatch("[1-9][0-9]{0,4}", call["num_out_files"]):
        raise UserError(f"--num_out_files={call['num_out_files']} must be an integer from 1 to 99999.")
    if not re.fullmatch(r"0?\.[0-8][0-9]*|0|0?\.90*", call["eval_fraction"]):
        raise UserError(f"--eval_fraction={call['eval_fraction']} must be a number from 0 to 0.9, such as 0.005.")
    common = [f"--{name}={call[name]}" for name in ("mirror",) if call[name]] + ["--offline"] * (
        call["offline"] == "true")

    def download(name: str, place: str, *options: str) -> List[str]:
        return ["data/download.py", f"--dataset={name}", f"--output_dir={place}", *options, *common]

    if dataset == "squad":
        return Plan({"device": "cpu", **building({"": download("squad", folder)}), "finished": folder}, [], [])
    options = preparation_options(call)
    if {"--overwrite", "--overwrite=true"} & set(options):
        raise UserError("--prepare_options=--overwrite would leave the vocabulary and the records of the old text: "
                        f"delete {folder}, or choose another folder with --data_dir.")
    commands, sources = [], []
    if dataset.startswith("wiki"):
        sources.append(f"{folder}/download/wikipedia")
        commands.append(download("wikipedia", sources[-1], f"--language={call['language']}", f"--date={call['date']}"))
    if gutenberg:
        sources.append(f"{folder}/download/gutenberg")
        commands.append(download("gutenberg", sources[-1], *gutenberg))
    sources += [call.path(name) for name in ("books_dir", "corpus_dir") if call[name]]
    commands.append(["data/prepare_corpus.py", f"--input_dir={','.join(sources)}", f"--output_dir={folder}/prepared",
                     *options])
    steps: Dict[str, List[str]] = {}
    place, vocab_file = vocabulary(call, f"{folder}/prepared/text", folder, steps)
    packed = call["pack_documents"] == "true"
    training = "bash scripts/electra.sh cpu"
    for phase in (1, 2):
        length = call[f"max_seq_length_p{phase}"]
        records = f"{place}/seq_len_{length}" + "_packed" * packed
        refuse_other_fraction(call, records)
        training += f" --data_dir_p{phase}={shlex.quote(records)}"
        steps[records] = records_step(f"{folder}/prepared/text", vocab_file, records, length, call["num_out_files"],
                                      call["eval_fraction"]) + ["--pack_documents"] * packed
    built = building(steps)
    moved = {f"build_{number + len(commands)}": command for number, command in enumerate(steps.values())}
    return Plan({"device": "cpu", "built_folders": [""] * len(commands) + built["built_folders"],
                 **{f"build_{number}": command for number, command in enumerate(commands)}, **moved,
                 "finished": f"train with {training}"}, [], [])


def refuse_other_fraction(call: Call, records: str):
    """Raises UserError: the records were built before, with another part of the documents held out."""
    manifest = call.in_work_dir(os.path.join(records, "manifest.json"))
    if not os.path.exists(manifest):
        return
    built = configuration.read_json_object(manifest).get("eval_fraction")
    if built != float(call["eval_fraction"]):
        raise UserError(f"{records} was built with --eval_fraction={built}, not {call['eval_fraction']}: delete that "
                        "folder to build it again, or choose another --data_dir.")
