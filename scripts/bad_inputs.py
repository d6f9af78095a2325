"""The inputs of scripts/check_bad_input.py: valid calls of every command, and what can be wrong with one.

`cases` draws numbered inputs from a seed; each is data (`Case`) that check_bad_input.py prepares, runs and judges.
"""
from __future__ import annotations

import bz2
import copy
import gzip
import io
import itertools
import json
import lzma
import os
import pathlib
import random
import re
import shlex
import struct
import zipfile
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

MARKER = "INJECTED"  # name of the file that smuggled commands create
SMUGGLED = f"touch @case@/{MARKER}"

# --- The commands, each with a small valid call ---
# @in@ is the folder of the earlier run and its data, @case@ that of the input, which is also where output goes.

PROGRAMS = {
    "run_pretraining.py": "run_pretraining.py", "run_tf_squad.py": "run_tf_squad.py",
    "run_tf_tasks.py": "run_tf_tasks.py", "electra_tasks.sh": "scripts/electra_tasks.sh",
    "run_inference.py": "run_inference.py", "postprocess_pretrained_ckpt.py": "postprocess_pretrained_ckpt.py",
    "build_pretraining_dataset.py": "build_pretraining_dataset.py", "make_sample_data.py": "data/make_sample_data.py",
    "build_vocab.py": "data/build_vocab.py", "prepare_corpus.py": "data/prepare_corpus.py",
    "download.py": "data/download.py", "analysis.py": "analysis.py",
    "create_datasets_from_start.sh": "data/create_datasets_from_start.sh", "electra.sh": "scripts/electra.sh",
    "electra_squad.sh": "scripts/electra_squad.sh", "finetune_ckpts_on_squad.sh": "scripts/finetune_ckpts_on_squad.sh",
    "sweep_squad.py": "scripts/sweep_squad.py", "install_horovod.sh": "scripts/install_horovod.sh",
    "matrix.py": "scripts/matrix.py", "make_venv.sh": "scripts/make_venv.sh", "test.sh": "scripts/test.sh"}

WITH_TENSORFLOW = ("run_pretraining.py", "run_tf_squad.py", "run_tf_tasks.py", "run_inference.py",
                   "postprocess_pretrained_ckpt.py", "sweep_squad.py")


class Call(NamedTuple):
    """A valid call of a command."""

    program: str
    flags: Dict[str, Optional[str]]  # None: the option is left out
    copies: Dict[str, str] = {}  # folders or files of the earlier run that it changes, by name in the input's folder
    models: bool = True  # it needs the trained models of the earlier run
    trains: bool = False  # it logs before it refuses, and may leave the log behind


_PRETRAINING = {"model_size": "tiny", "model_config": "@in@/model.json", "model_name": "run", "max_seq_length": "32",
                "pretrain_tfrecords": "@in@/data/32", "num_train_steps": "1", "num_warmup_steps": "0",
                "train_batch_size": "2", "results_dir": "@case@/results", "num_eval_steps": "1"}
_SQUAD = {"data_dir": "@in@/squad", "output_dir": "@case@/answers", "max_seq_length": "48", "doc_stride": "12",
          "max_query_length": "8", "length_buckets": "48", "train_batch_size": "4", "predict_batch_size": "8",
          "seed": "1"}
_WRAPPED_SQUAD = {"squad_dir": "@in@/squad", "max_seq_length": "48", "doc_stride": "12", "length_buckets": "48",
                  "batch_size": "4", "infer_batch_size": "8", "max_steps": "1"}
_TASK = {"train_file": "@in@/labelled.csv", "dev_file": "@in@/labelled.csv", "task": "classification",
         "init_checkpoint": "@in@/exported", "max_seq_length": "32", "max_steps": "1", "seed": "1"}
_TAGGING = {**_TASK, "task": "tagging", "train_file": "@in@/labelled.conll", "dev_file": "@in@/labelled.jsonl"}
_BOTH_PHASES = {"electra_model": "tiny", "model_config": "@in@/model.json", "model_name": "run",
                "results_dir": "@case@/results", "data_dir_p1": "@in@/data/32", "data_dir_p2": "@in@/data/64",
                "max_seq_length_p1": "32", "max_seq_length_p2": "64", "train_steps_p1": "1", "train_steps_p2": "1",
                "warmup_steps_p1": "0", "warmup_steps_p2": "0", "gradient_accumulation_steps_p1": "1",
                "gradient_accumulation_steps_p2": "1", "num_eval_steps": "1"}
CALLS = {
    "check": Call("run_pretraining.py", {**_PRETRAINING, "check_only": "true", "eval_tfrecords": "@in@/data/32/eval"},
                  models=False),
    "train": Call("run_pretraining.py", _PRETRAINING, models=False, trains=True),
    "start from weights": Call("run_pretraining.py", {**_PRETRAINING, "load_weights": "true", "weights_dir":
                                                      "@in@/exported"}, trains=True),
    "resume": Call("run_pretraining.py", {**_PRETRAINING, "num_train_steps": "3", "restore_checkpoint": "latest",
                                          "eval_tfrecords": "@in@/data/32/eval"},
                   {"results": "results"}, trains=True),
    "phase 2": Call("run_pretraining.py", {**_PRETRAINING, "phase2": "true", "pretrain_tfrecords": "@in@/data/64",
                                           "max_seq_length": "64", "num_train_steps": "3",
                                           "restore_checkpoint": "auto"}, {"results": "results"}, trains=True),
    "evaluate": Call("run_pretraining.py", {"eval_only": "true", "eval_tfrecords": "@in@/data/64/eval",
                                            "restore_checkpoint": "@in@/results/models/run/checkpoints",
                                            "max_seq_length": "64", "train_batch_size": "2", "num_eval_steps": "1",
                                            "results_dir": "@case@/results"}, trains=True),
    "fine-tune": Call("run_tf_squad.py", {**_SQUAD, "do_train": "true", "init_checkpoint": "@in@/exported",
                                          "max_steps": "1"}, trains=True),
    "answer": Call("run_tf_squad.py", {**_SQUAD, "do_eval": "true", "init_checkpoint": "@in@/answerer"}, trains=True),
    "infer": Call("run_inference.py", {"init_checkpoint": "@in@/answerer", "question": "who follows ban ?",
                                       "context_file": "@in@/article.txt"}),
    "export": Call("postprocess_pretrained_ckpt.py", {"pretrained_checkpoint": "@in@/results/models/run/checkpoints",
                                                      "output_dir": "@case@/exported"}),
    "build": Call("build_pretraining_dataset.py", {
        "corpus_dir": "@in@/corpus", "vocab_file": "@in@/vocab.txt", "output_dir": "@case@/built",
        "max_seq_length": "32", "num_out_files": "2", "num_processes": "1", "eval_fraction": "0.2"}, models=False),
    "build again": Call("build_pretraining_dataset.py", {
        "corpus_dir": "@in@/corpus", "vocab_file": "@in@/vocab.txt", "output_dir": "@case@/built", "overwrite": "true",
        "max_seq_length": "32", "num_out_files": "2", "num_processes": "1"}, {"built": "data/32"}, models=False),
    "sample": Call("make_sample_data.py", {"output_dir": "@case@/demo", "size": "0.2"}, models=False),
    "vocabulary": Call("build_vocab.py", {"corpus_dir": "@in@/corpus", "output_dir": "@case@/vocabulary",
                                          "vocab_size": "90"}, models=False),
    "pieces": Call("build_vocab.py", {"corpus_dir": "@in@/corpus", "output_dir": "@case@/vocabulary",
                                      "type": "sentencepiece", "vocab_size": "120"}, models=False),
    "report": Call("build_vocab.py", {"corpus_dir": "@in@/corpus", "report": "true",
                                      "vocab_file": "@in@/pieces/spiece.model"}, models=False),
    "prepare": Call("prepare_corpus.py", {"input_dir": "@in@/texts", "output_dir": "@case@/prepared",
                                          "num_processes": "2"}, models=False),
    "fetch questions": Call("download.py", {"dataset": "cmrc2018", "output_dir": "@case@/questions",
                                            "offline": "true"}, {"questions": "questions"}, models=False, trains=True),
    "fetch archives": Call("download.py", {"dataset": "fquad", "output_dir": "@case@/questions", "offline": "true"},
                           {"questions": "archives"}, models=False, trains=True),
    "fetch books": Call("download.py", {"dataset": "gutenberg", "books": "1342", "output_dir": "@case@/books",
                                        "book_list": "@in@/books.txt", "offline": "true"}, {"books": "books"},
                        models=False, trains=True),
    "make data": Call("create_datasets_from_start.sh", {
        "dataset": "corpus", "corpus_dir": "@in@/texts", "data_dir": "@case@/made", "vocab_size": "120",
        "max_seq_length_p1": "32", "max_seq_length_p2": "64", "num_out_files": "2", "eval_fraction": "0.2"},
        models=False, trains=True),
    "plan data": Call("create_datasets_from_start.sh", {
        "dry_run": "true", "dataset": "corpus", "corpus_dir": "@in@/texts", "data_dir": "@case@/made",
        "vocab_size": "120"}, models=False),
    "infer a file": Call("run_inference.py", {"init_checkpoint": "@in@/answerer", "context_file": "@in@/article.txt",
                                              "input_file": "@in@/questions.jsonl",
                                              "output_file": "@case@/answers/found.jsonl"}, {"answers": "found"}),
    "analyse": Call("analysis.py", {"runs": "@case@/answers"}, {"answers": "evaluated"}),
    "compare": Call("analysis.py", {"runs": "@case@/answers,@in@/evaluated"}, {"answers": "evaluated"}),
    "combine": Call("run_tf_squad.py", {**_SQUAD, "do_eval": "true", "ensemble": "@in@/evaluated,@case@/evaluated"},
                    {"evaluated": "evaluated"}, trains=True),
    "classify": Call("run_tf_tasks.py", {**_TASK, "do_train": "true", "do_eval": "true",
                                         "output_dir": "@case@/answers"}, trains=True),
    "tag": Call("run_tf_tasks.py", {**_TAGGING, "do_train": "true", "do_eval": "true", "output_dir": "@case@/answers"},
                trains=True),
    "label": Call("run_tf_tasks.py", {"task": "classification", "do_predict": "true", "max_seq_length": "32",
                                      "test_file": "@in@/labelled.csv", "output_dir": "@case@/answers"},
                  {"answers": "classified"}, trains=True),
    "label a text": Call("run_inference.py", {"init_checkpoint": "@in@/classified", "context": "ban bel"}),
    "plan a task": Call("electra_tasks.sh", {"dry_run": "true", **_TASK, "out_dir": "@case@/answers"}, models=False),
    "run a task": Call("electra_tasks.sh", {**_TAGGING, "out_dir": "@case@/answers"}, trains=True),
    "plan": Call("electra.sh", {"dry_run": "true", **_BOTH_PHASES}, models=False),
    "pre-train": Call("electra.sh", _BOTH_PHASES, models=False, trains=True),
    "plan SQuAD": Call("electra_squad.sh", {"dry_run": "true", **_WRAPPED_SQUAD, "out_dir": "@case@/answers",
                                            "init_checkpoint": "@in@/exported"}, models=False),
    "run SQuAD": Call("electra_squad.sh", {**_WRAPPED_SQUAD, "out_dir": "@case@/answers", "seed": "1",
                                           "cache_dir": "@case@/answers/cache", "init_checkpoint": "@in@/exported"},
                      trains=True),
    "plan a sweep": Call("finetune_ckpts_on_squad.sh", {"dry_run": "true", "out_dir": "@case@/sweep", **_WRAPPED_SQUAD,
                                                        "checkpoints": "@in@/last/run/checkpoints"}, models=False),
    "plan a search": Call("finetune_ckpts_on_squad.sh", {
        "dry_run": "true", "out_dir": "@case@/sweep", **_WRAPPED_SQUAD, "checkpoints": "@in@/last/run/checkpoints",
        "batch_size": None, "batch_sizes": "2,4", "learning_rates": "1e-4,2e-4", "trials": "3"}, models=False),
    "sweep again": Call("finetune_ckpts_on_squad.sh", {"out_dir": "@case@/sweep", **_WRAPPED_SQUAD,
                                                       "checkpoints": "@in@/last/run/checkpoints"},
                        {"sweep": "sweep"}, trains=True),
    "sweep": Call("sweep_squad.py", {"out_dir": "@case@/sweep", "checkpoints": "@in@/none"}, models=False),
    "install": Call("install_horovod.sh", {"device": "tpu"}, models=False),
    "list stacks": Call("matrix.py", {"list": ""}, models=False),
    "make a venv": Call("make_venv.sh", {}, models=False),
    "test": Call("test.sh", {}, models=False)}
# The calls whose options get bad values; several times where that is what should be drawn more often.
OPTION_CALLS = {
    "run_pretraining.py": ["check", "check", "check", "train"], "run_tf_squad.py": ["fine-tune", "answer", "combine"],
    "run_tf_tasks.py": ["classify", "tag", "label"], "electra_tasks.sh": ["plan a task"],
    "run_inference.py": ["infer", "infer a file", "label a text"], "postprocess_pretrained_ckpt.py": ["export"],
    "build_pretraining_dataset.py": ["build"], "make_sample_data.py": ["sample"],
    "build_vocab.py": ["vocabulary", "pieces", "report"],
    "prepare_corpus.py": ["prepare"], "download.py": ["fetch questions", "fetch books"],
    "analysis.py": ["analyse", "compare"], "create_datasets_from_start.sh": ["plan data"],
    "electra.sh": ["plan"], "electra_squad.sh": ["plan SQuAD"],
    "finetune_ckpts_on_squad.sh": ["plan a sweep", "plan a search"], "sweep_squad.py": ["sweep"]}
OUTPUT_OPTIONS = ("results_dir", "log_dir", "output_dir", "out_dir", "cache_dir", "json_summary", "output_file",
                  "data_dir")
OUTPUTS = ("results", "answers", "exported", "built", "vocabulary", "demo", "sweep", "prepared", ".prepared.partial",
           "questions", "books", "made")


def words_of(call: Call, changes: Dict[str, Optional[str]]) -> List[str]:
    flags = {**call.flags, **changes}
    return [f"--{name}={value}" if value or name in changes else f"--{name}" for name, value in flags.items()
            if value is not None]


# --- Inputs ---


class Case(NamedTuple):
    """One input."""

    number: int
    kind: str
    call: str  # a key of CALLS
    what: str  # is wrong, in a few words
    words: List[str]
    copies: Dict[str, str] = {}
    damage: Tuple[str, str] = ("", "")  # a file in the input's folder (a pattern), and what happens to it
    machine: Dict[str, str] = {}  # what is wrong around the command, by the keys that `enter` and `prepare` know
    option: str = ""  # whose value is wrong: a refusal names it
    may_fail: bool = False  # the machine is at fault: status 1 is right

    @property
    def program(self) -> str:
        return CALLS[self.call].program

    @property
    def needs_models(self) -> bool:
        return CALLS[self.call].models

    @property
    def in_own_process(self) -> bool:
        """Not in a fork of this process."""
        return self.kind not in ("setup", "option", "file") or self.program.endswith(".sh")


VALUES = [
    "", "0", "-1", "1", "99999999999999999999", "nan", "inf", "-inf", "1e400", "1000000000", "0.5", "abc", "true",
    "None", "0x10", "1_000", " 7", "\uff17", "\u65e5\u672c\u8a9e", "\u00e9", "a b", "it's", 'a"b', "a\nb",
    f"$({SMUGGLED})", f"`{SMUGGLED}`", f"; {SMUGGLED}", f"' ; {SMUGGLED} ; '", f"\n {SMUGGLED}", f"a[$({SMUGGLED})]",
    "../../x", ".", "/", "~", "-", "--", "*", "[", "\\", "%s%n", "{}", '{"a": 1}', "x" * 300, "x" * 5000, "\x1b[31m",
    ",", "a,b", "@case@/missing/file", "/dev/null", "/etc/passwd", "\udcff\udcfe", "[" * 100_000]
_DATASETS = ["@in@/data/32:0.7,@in@/data/gzip:0.3", "@in@/data/32:0.7,@in@/data/pieces:0.3", "@in@/data/32:0.7",
             "@in@/data/32:1,@in@/data/32:1", "@in@/data/32:1,@in@/data/64", "@in@/data/32:nan,@in@/data/pieces:1",
             "@in@/data/32:-1,@in@/data/pieces:1", "@in@/data/32:1e-9,@in@/data/pieces:1", ":", ":1,:2", "a:1,,b:1",
             "@in@/data/32:1,@in@/data/none:1", "@in@/data/32/eval:1e308,@in@/data/64/eval:1e308", "@in@/data/32:0x1"]
_NUMBERS = ["1e-4,", "1e-4,,2e-4", "1e-4,x", "1e-4 2e-4", "0,1", "1e-4,nan", ",".join(map(str, range(1, 3000)))]
_FOLDERS = ["@in@/evaluated,", "@in@/evaluated,@in@/evaluated", "@in@/evaluated,@in@/squad_run", "@in@/evaluated,,x",
            "@in@/evaluated,@in@/none", "@in@/evaluated,@in@/squad", ",@in@/evaluated", "@in@/evaluated"]
LIKELY_VALUES = {  # of some options, drawn as often as VALUES
    **dict.fromkeys(("pretrain_tfrecords", "eval_tfrecords", "data_dir_p1", "data_dir_p2"), _DATASETS),
    **dict.fromkeys(("learning_rates", "batch_sizes", "epoch_counts", "layerwise_lr_decays"), _NUMBERS),
    **dict.fromkeys(("ensemble", "runs"), _FOLDERS), "books": ["0", "1342,x", "1342,,84", "1342;84", "12345678"],
    "mirror": ["http://", "http://[::bad", "ftp://x/y", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://\udcff"],
    "vocab_file": ["@in@/pieces/spiece.model", "@in@/pieces/tokenizer.json", "@in@/pieces/vocab_report.json",
                   "@in@/model.json", "@in@/pieces", "@in@/article.txt", "x.model", "x.json"],
    "input_file": ["@in@/questions.jsonl", "@in@/squad/dev-v2.0.json", "@in@/article.txt", "@in@/model.json"],
    "prepare_options": ["--paragraphs=", "--nonsense", "--language=xx yy", "--shard_megabytes=0", "'", "a b"]}



def option_case(rng: random.Random, subject: Tuple[str, str]) -> dict:
    program, option = subject
    call = rng.choice(OPTION_CALLS[program])
    likely = LIKELY_VALUES.get(option)
    value = rng.choice(likely if likely and rng.random() < 0.5 else VALUES)
    return dict(call=call, what=f"--{option}={shorten(value)}", option=option,
                words=words_of(CALLS[call], {option: value}), copies=CALLS[call].copies, machine={"cwd": "@case@/a/b"})


def typo_case(rng: random.Random, subject: Tuple[str, str]) -> dict:
    program, option = subject
    call = rng.choice(OPTION_CALLS[program])
    position = rng.randrange(len(option))
    before, after = option[:position], option[position:]
    wrong = rng.choice([before + after[1:] or "x", option + "s", before + "x" + after])
    return dict(call=call, what=f"--{wrong}", words=[*words_of(CALLS[call], {}), f"--{wrong}=1"], option=wrong)


def position_case(rng: random.Random, program: str) -> dict:
    if program == "install_horovod.sh":
        words = [rng.choice([value for value in VALUES if value])]
        words += rng.choice([[], ["--rebuild=" + rng.choice(["maybe", "1", f"$({SMUGGLED})"])]])
    elif program in ("make_venv.sh", "test.sh"):
        words = [rng.choice(VALUES) for _ in range(rng.randrange(3))] if program == "make_venv.sh" else ["--hlep"]
    elif program == "matrix.py":
        words = ["--list", rng.choice(VALUES)]
    else:
        named = words_of(CALLS[OPTION_CALLS[program][0]], {})
        words = [rng.choice(["cpu", "fp32", *VALUES]) for _ in range(rng.choice([1, 2, 3, 5, 10, 40]))] + named
    call = next(name for name, call in CALLS.items() if call.program == program)
    return dict(call=call, what=shorten(" ".join(words[:3])), words=words)


# --- Damaged files ---


class Subject(NamedTuple):
    """A kind of input file, and the calls that read it from a copy in the input's folder."""

    name: str
    copies: Dict[str, str]
    file: str  # pattern in the input's folder
    calls: List[Tuple[str, Dict[str, str]]]  # of CALLS, with the options that name the copy


def _model_files() -> Iterator[Subject]:
    for file in ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"):
        yield Subject(f"{file} of a model", {"model": "exported/discriminator"}, f"model/{file}", [
            ("fine-tune", {"init_checkpoint": "@case@/model"}),
            ("start from weights", {"weights_dir": "@case@/model"})])
        yield Subject(f"{file} of an answering model", {"model": "answerer"}, f"model/{file}", [
            ("infer", {"init_checkpoint": "@case@/model"}), ("answer", {"init_checkpoint": "@case@/model"})])
        yield Subject(f"{file} in the hub's cache", {"hub": "hub"}, f"hub/*/snapshots/*/{file}",
                      [("fine-tune", {"init_checkpoint": None, "electra_model": "org/model"})])


SUBJECTS = [
    *(Subject(name, {"data": folder}, f"data/{file}", [
        (call, {"pretrain_tfrecords": "@case@/data"}) for call in ("check", "check", "train")])
      for name, folder, file in (
          ("shard", "data/32", "train-*.tfrecord"), ("index of a shard", "data/32", "train-*.idx"),
          ("gzip shard", "data/gzip", "train-*.tfrecord"), ("vocab.txt of a dataset", "data/32", "vocab.txt"),
          ("tokenizer_config.json of a dataset", "data/32", "tokenizer_config.json"),
          ("manifest.json", "data/32", "manifest.json"))),
    Subject("held-out shard", {"data": "data/32"}, "data/eval/*.tfrecord", [
        ("check", {"eval_tfrecords": "@case@/data/eval"}), ("resume", {"eval_tfrecords": "@case@/data/eval"})]),
    Subject("manifest.json to replace", {"built": "data/32"}, "built/manifest.json", [("build again", {})]),
    Subject("vocab.txt", {"vocab.txt": "vocab.txt"}, "vocab.txt", [
        ("build", {"vocab_file": "@case@/vocab.txt"}), ("check", {"vocab_file": "@case@/vocab.txt"})]),
    Subject("corpus", {"corpus": "corpus"}, "corpus/*", [("build", {"corpus_dir": "@case@/corpus"}),
                                                         ("vocabulary", {"corpus_dir": "@case@/corpus"})]),
    Subject("model_config", {"model.json": "model.json"}, "model.json", [
        ("check", {"model_config": "@case@/model.json"}), ("train", {"model_config": "@case@/model.json"}),
        ("plan", {"model_config": "@case@/model.json"})]),
    *_model_files(),
    Subject("tf_model.h5", {"model": "h5"}, "model/tf_model.h5", [
        ("fine-tune", {"init_checkpoint": "@case@/model"}), ("start from weights", {"weights_dir": "@case@/model"})]),
    Subject("refs in the hub's cache", {"hub": "hub"}, "hub/*/refs/*",
            [("fine-tune", {"init_checkpoint": None, "electra_model": "org/model"})]),
    *(Subject(f"{file} of a checkpoint", {"results": "results"}, f"results/models/run/checkpoints/{file}", [
        ("resume", {}), ("phase 2", {}),
        ("evaluate", {"restore_checkpoint": "@case@/results/models/run/checkpoints"}),
        ("export", {"pretrained_checkpoint": "@case@/results/models/run/checkpoints"}),
        ("fine-tune", {"init_checkpoint": "@case@/results/models/run"})])
      for file in ("ckpt-2.index", "ckpt-p2-2.index", "ckpt-p2-2.data*", "ckpt-2.data*")),
    *(Subject(f"{name} of a run", {"results": "results"}, f"results/models/run/{file}", [
        ("resume", {}), ("phase 2", {})])
      for name, file in (("best.json", "checkpoints/best.json"), ("shards.json", "record_index/shards.json"),
                         ("vocab.txt", "vocab.txt"), ("metrics", "logs/*.jsonl"), (".lock", ".lock"))),
    Subject("vocab.txt beside checkpoints", {"results": "results"}, "results/models/run/vocab.txt", [
        ("export", {"pretrained_checkpoint": "@case@/results/models/run/checkpoints"}),
        ("evaluate", {"restore_checkpoint": "@case@/results/models/run/checkpoints"})]),
    Subject("train-v1.1.json", {"squad": "squad"}, "squad/train-v1.1.json", [
        ("fine-tune", {"data_dir": "@case@/squad"})]),
    Subject("dev-v1.1.json", {"squad": "squad"}, "squad/dev-v1.1.json", [("answer", {"data_dir": "@case@/squad"})]),
    Subject("dev-v2.0.json", {"squad": "squad"}, "squad/dev-v2.0.json", [
        ("answer", {"data_dir": "@case@/squad", "version_2_with_negative": "true"})]),
    Subject("feature cache", {"cache": "cache"}, "cache/*.npz", [
        ("fine-tune", {"cache_dir": "@case@/cache"})]),
    *(Subject(f"{name} of a fine-tuning", {"answers": "squad_run"}, f"answers/{file}", [
        ("fine-tune", {"max_steps": "2"}), ("answer", {"init_checkpoint": None})])
      for name, file in (("checkpoint", "checkpoints/*.data*"), ("index", "checkpoints/*.index"),
                         ("results.json", "results.json"), ("vocab.txt", "vocab.txt"))),
    *(Subject(f"{name} of a sweep", {"sweep": "sweep"}, f"sweep/{file}", [("sweep again", {})])
      for name, file in (("sweep.json", "*/seed-*/sweep.json"), ("checkpoint.json", "*/checkpoint.json"))),
    Subject("bf16 list", {"bf16.json": "bf16.json"}, "bf16.json", [
        ("plan", {"device": "hpu", "precision": "bf16", "bf16_config_path": "@case@/bf16.json"}),
        ("check", {"device": "hpu", "precision": "bf16", "bf16_config_path": "@case@/bf16.json"})]),
    Subject("hostfile", {"hosts": "hosts"}, "hosts", [("plan", {"num_workers": "2", "hostfile": "@case@/hosts"})]),
    Subject("context file", {"article.txt": "article.txt"}, "article.txt", [
        ("infer", {"context_file": "@case@/article.txt"})]),
    *(Subject(f"{file} of a vocabulary", {"pieces": folder}, f"pieces/{file}", [
        ("build", {"vocab_file": f"@case@/pieces/{file}"}), ("check", {"vocab_file": f"@case@/pieces/{file}"}),
        ("report", {"vocab_file": f"@case@/pieces/{file}"})])
      for folder in ("pieces", "bpe") for file in ("spiece.model", "tokenizer.json")),
    *(Subject(f"{file} of a dataset", {"data": "data/pieces"}, f"data/{file}", [
        ("check", {"pretrain_tfrecords": "@case@/data"}), ("train", {"pretrain_tfrecords": "@case@/data"}),
        ("check", {"pretrain_tfrecords": "@case@/data:2,@in@/data/pieces:1"})])
      for file in ("tokenizer.json", "train-*.tfrecord", "manifest.json")),
    *(Subject(f"{file} to prepare", {"texts": "texts"}, f"texts/{file}", [
        ("prepare", {"input_dir": "@case@/texts"}), ("prepare", {"input_dir": "@case@/texts"}),
        ("make data", {"corpus_dir": "@case@/texts"})])
      for file in ("plain.txt", "lines.jsonl", "packed.jsonl.gz", "dump.xml.bz2", "dump.xml", "packed.txt.xz",
                   "packed.txt.zst", "table.parquet")),
    *(Subject(f"{file} of a prepared corpus", {"prepared": "prepared"}, f"prepared/{file}", [
        ("prepare", {}), ("prepare", {"overwrite": "true"})]) for file in ("manifest.json", "text/*.txt")),
    Subject("downloaded questions", {"questions": "questions"}, "questions/original/*.json", [("fetch questions", {})]),
    Subject("downloaded archive", {"questions": "archives"}, "questions/original/*.zip", [("fetch archives", {})]),
    Subject("manifest.json of a download", {"questions": "downloaded"}, "questions/manifest.json", [
        ("fetch questions", {})]),
    Subject("downloaded book", {"books": "books"}, "books/*.txt", [("fetch books", {})]),
    Subject("list of books", {"books.txt": "books.txt"}, "books.txt", [
        ("fetch books", {"book_list": "@case@/books.txt"})]),
    *(Subject(f"questions in {file}", {file: source}, file, [("infer a file", {"input_file": f"@case@/{file}"})])
      for file, source in (("questions.jsonl", "questions.jsonl"), ("dev.json", "squad/dev-v2.0.json"))),
    *(Subject(f"{file} of interrupted answers", {"answers": "found"}, f"answers/{file}", [
        ("infer a file", {}), ("infer a file", {"overwrite": "true"})])
      for file in ("found.jsonl.partial", "found.jsonl.partial.json")),
    *(Subject(f"{file} of an evaluation", {"answers": "evaluated"}, f"answers/{file}", [("analyse", {}), (
        "compare", {})])
      for file in ("results.json", "predictions.json", "nbest_predictions.json")),
    *(Subject(f"{file} of an ensemble", {"evaluated": "evaluated"}, f"evaluated/{file}", [("combine", {})])
      for file in ("results.json", "predictions.json", "nbest_predictions.json")),
    *(Subject(f"{file} with labels", {file: file}, file, [
        (call, {"train_file": f"@case@/{file}"}), (call, {"dev_file": f"@case@/{file}"})])
      for file, call in (("labelled.csv", "classify"), ("labelled.conll", "tag"), ("labelled.jsonl", "tag"))),
    *(Subject(f"{name} of a classifier", {"answers": "classified"}, f"answers/{file}", [
        ("label", {}), ("classify", {"max_steps": "2"})])
      for name, file in (("checkpoint", "checkpoints/*.data*"), ("index", "checkpoints/*.index"),
                         ("results.json", "results.json"), ("vocab.txt", "vocab.txt"),
                         ("best.json", "checkpoints/best.json"))),
    Subject("predictions of a classifier", {"answers": "classified"}, "answers/predictions_dev.jsonl", [
        ("analyse", {})]),
    Subject("evaluation script", {"evaluate.py": "evaluate.py"}, "evaluate.py", [
        ("answer", {"eval_script": "@case@/evaluate.py"})])]


def change_bytes(change: Callable[[bytearray, random.Random], bytes]) -> Callable[[pathlib.Path, random.Random], None]:
    def damage(path, rng):
        path.write_bytes(change(bytearray(path.read_bytes()), rng))
    return damage


def flip(data: bytearray, rng: random.Random, count: int = 1) -> bytes:
    for _ in range(count if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def zero(data: bytearray, rng: random.Random) -> bytes:
    begin = rng.randrange(len(data) + 1)
    end = min(len(data), begin + rng.randrange(1, 500))
    data[begin:end] = bytes(end - begin)
    return bytes(data)


def link(target: str) -> Callable[[pathlib.Path, random.Random], None]:
    def damage(path, rng):
        path.unlink()
        path.symlink_to(target.replace("@self@", path.name))
    return damage


def replace_by_folder(path: pathlib.Path, rng: random.Random):
    path.unlink()
    path.mkdir()


STRANGE = [None, True, -1, 0, 1.5, float("inf"), float("nan"), "", "x", [], {}, [None], {"x": []}, 10**30, -10**30,
           "\ud800", "../../x", 2**31, 10**9]


def change_json(path: pathlib.Path, rng: random.Random):
    """A random value of another type, a key that is missing, or one too many."""
    try:
        content = json.loads(path.read_text(encoding="utf-8").splitlines()[0] if path.suffix == ".jsonl" else
                             path.read_text(encoding="utf-8"))
    except (ValueError, IndexError):  # not JSON
        path.write_text(json.dumps(rng.choice(STRANGE)))
        return
    places = []

    def walk(node):
        if isinstance(node, (dict, list)):
            for key in node if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                walk(node[key])

    walk(content)
    shallow = places[:12] if rng.random() < 0.5 else places  # settings, not the thousandth question
    if not shallow or rng.random() < 0.1:
        content = rng.choice(STRANGE)
    else:
        node, key = rng.choice(shallow)
        if rng.random() < 0.3:
            del node[key]
        else:
            node[key] = copy.deepcopy(rng.choice(STRANGE))
    path.write_text(json.dumps(content))


def huge_record(path: pathlib.Path, rng: random.Random):
    """A record that declares a huge length, with a valid checksum."""
    import tfrecord
    header = tfrecord.record_header(rng.choice([2**62, 2**40, 2**31, 2**63 - 1]))
    path.write_bytes(header + path.read_bytes()[len(header):])


def gzip_bomb(path: pathlib.Path, rng: random.Random):
    """A few kB that unpack to a gigabyte: zeros, or a record of that length."""
    header = b""
    if rng.random() < 0.5:
        import tfrecord
        header = tfrecord.record_header(2**30)
    part = gzip.compress(bytes(1 << 26))
    path.write_bytes(gzip.compress(header) + part * 16)


def bomb(path: pathlib.Path, rng: random.Random):
    """A few kB that unpack to a gigabyte of zeros, in the format that the name says."""
    zeros = bytes(1 << 26)
    if path.suffix == ".zip":
        names = zipfile.ZipFile(path).namelist()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(names[0], "w") as member:
            for _ in range(16):
                member.write(zeros)
    elif path.suffix == ".zst":
        import zstandard
        path.write_bytes(zstandard.compress(zeros) * 16)
    else:
        path.write_bytes({".bz2": bz2, ".xz": lzma, ".gz": gzip}[path.suffix].compress(zeros) * 16)


def unsafe_member(path: pathlib.Path, rng: random.Random):
    """A zip file with a member that leads out of the folder, or is a link."""
    names = zipfile.ZipFile(path).namelist()
    with zipfile.ZipFile(path, "a") as archive:
        if rng.random() < 0.5:
            archive.writestr(rng.choice(["../../x", "/x", "..\\x", "a/../../x", names[0]]), "x")
        else:
            info = zipfile.ZipInfo("link")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")


def huge_header(path: pathlib.Path, rng: random.Random):
    """A safetensors file whose header is, or whose tensors are, huge."""
    if rng.random() < 0.5:
        path.write_bytes(struct.pack("<Q", rng.choice([2**62, 2**31, 99_000_000])) + path.read_bytes()[8:])
    else:
        text = json.dumps({"electra.embeddings.word_embeddings.weight": {
            "dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4 * 10**15]}}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text)


def huge_array(path: pathlib.Path, rng: random.Random):
    """A feature cache with an array that declares a huge shape, or is a pickle that runs a command."""
    import numpy as np
    with np.load(path) as content:
        arrays = dict(content)
    name = rng.choice(sorted(arrays))
    if rng.random() < 0.5:
        class Pickled:
            def __reduce__(self):
                return os.system, (f"touch {shlex.quote(str(path.parent.parent / MARKER))}",)
        arrays[name] = np.array([Pickled()], dtype=object)
        np.savez(path, **arrays)
        return
    with zipfile.ZipFile(path, "w") as archive:
        for field, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            data = buffer.getvalue()
            if field == name:
                data = re.sub(rb"\((\d+),", lambda found: b"(" + b"9" * len(found[1]) + b",", data, count=1)
            archive.writestr(f"{field}.npy", data)


ANY = {"truncated": change_bytes(lambda data, rng: bytes(data[:rng.randrange(len(data) + 1)])),
       "one bit flipped": change_bytes(flip), "many bits flipped": change_bytes(lambda data, rng: flip(data, rng, 100)),
       "zeros inside": change_bytes(zero), "empty": change_bytes(lambda data, rng: b""),
       "random bytes": change_bytes(lambda data, rng: bytes(rng.randrange(256) for _ in range(rng.randrange(1, 3000)))),
       "appended to": change_bytes(lambda data, rng: bytes(data) + b"\x00\xffmore\n" * 9),
       "missing": lambda path, rng: path.unlink(), "a folder": replace_by_folder, "a link to itself": link("@self@"),
       "a dangling link": link("nowhere"), "unreadable": lambda path, rng: path.chmod(0), "gzip bomb": gzip_bomb}
TEXT = {"NUL bytes": change_bytes(lambda data, rng: bytes(data[:20]) + b"\x00" * 9 + bytes(data[20:])),
        "not UTF-8": change_bytes(lambda data, rng: bytes(data[:9]) + b"\xff\xfe\xc3" + bytes(data[9:])),
        "byte order mark": change_bytes(lambda data, rng: b"\xef\xbb\xbf" + bytes(data)),
        "UTF-16": change_bytes(lambda data, rng: bytes(data).decode("utf-8", "replace").encode("utf-16")),
        "CRLF": change_bytes(lambda data, rng: bytes(data).replace(b"\n", b"\r\n")),
        "blank lines": change_bytes(lambda data, rng: bytes(data).replace(b"\n", b"\n\n")),
        "every line twice": change_bytes(lambda data, rng: bytes(data) * 2),
        "a line of 20 MB": change_bytes(lambda data, rng: bytes(data) + b"a" * 20_000_000 + b"\n")}
JSON = {"wrong type": change_json,
        "deep lists": change_bytes(lambda data, rng: b"[" * 200_000),
        "deep objects": change_bytes(lambda data, rng: b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
        "huge numbers": change_bytes(lambda data, rng: re.sub(rb"\b[0-9]+\b", b"9" * 30, bytes(data))),
        "too many digits": change_bytes(lambda data, rng: re.sub(rb"\b[0-9]+\b", b"9" * 9000, bytes(data), count=1)),
        "NaN": change_bytes(lambda data, rng: re.sub(rb"\b[0-9]+\b", b"NaN", bytes(data)))}


OFTEN = ("wrong type", "huge record", "huge header", "huge array or pickle")


def damages_of(file: str) -> Dict[str, Callable[[pathlib.Path, random.Random], None]]:
    """What can happen to a file of this name."""
    suffix = pathlib.PurePath(file).suffix
    found = dict(ANY)
    if suffix in (".txt", ".py", ".csv", ".conll", "") or file.endswith(("corpus/*", "refs/*")):
        found.update(TEXT)
    if suffix in (".json", ".jsonl", ".lock") or file.endswith(".lock"):
        found.update({**TEXT, **JSON})
    if suffix == ".tfrecord":
        found["huge record"] = huge_record
    if suffix == ".safetensors":
        found["huge header"] = huge_header
    if suffix in (".bz2", ".xz", ".zst", ".zip", ".gz"):
        found["bomb"] = bomb
    if suffix == ".zip":
        found["unsafe member"] = unsafe_member
    if suffix in (".partial", ".xml"):
        found.update(TEXT)
    if suffix == ".npz":
        found["huge array or pickle"] = huge_array
    return found


def file_case(rng: random.Random, subject: Subject) -> dict:
    call, changes = rng.choice(subject.calls)
    hows = list(damages_of(subject.file))
    how = rng.choice([*hows, *[often for often in OFTEN if often in hows] * 3])
    changes = {name: value for name, value in changes.items() if CALLS[call].flags.get(name) is not None or value}
    around = {"hub": "@case@/hub"} if "hub" in subject.copies else {}
    return dict(call=call, what=f"{subject.name}: {how}", words=words_of(CALLS[call], changes),
                copies={**CALLS[call].copies, **subject.copies}, damage=(subject.file, how), machine=around)


# --- What is wrong around a command ---

WRITERS = {"train": "results_dir", "resume": "results_dir", "fine-tune": "output_dir", "export": "output_dir",
           "build": "output_dir", "sample": "output_dir", "pre-train": "results_dir", "run SQuAD": "out_dir",
           "sweep again": "out_dir", "vocabulary": "output_dir", "pieces": "output_dir", "prepare": "output_dir",
           "fetch questions": "output_dir", "make data": "data_dir", "combine": "output_dir", "classify": "output_dir",
           "tag": "output_dir", "run a task": "out_dir"}  # what names its output
READERS = ["check", "evaluate", "answer", "infer", "infer a file", "label", "analyse", "report", "plan data", "plan",
           "plan SQuAD", "plan a sweep", "plan a task"]
ODD_PATHS = {"blanks": "a b  c", "quotes": "it's \"it\"", "shell code": f"$(touch {MARKER})",
             "not UTF-8": "\udcff\udcfe", "a newline": "a\nb", "Japanese": "\u65e5\u672c\u8a9e",
             "a long name": "x" * 250, "a very long name": "x" * 300, "a deep path": "/".join(["d" * 100] * 30),
             "a bracket": "a[1]*", "a leading dash": "-x", "percent": "100%d"}
MACHINES = {
    **{f"disk full after {size}": {"disk": size} for size in ("4k", "64k", "400k", "1m")},
    "read-only output folder": {"read_only": "yes"}, "output is a file": {"output": "file"},
    "output is a link": {"output": "link"}, "output is a dangling link": {"output": "dangling"},
    "output is a link to itself": {"output": "loop"}, "standard input closed": {"close": "0"},
    "standard output closed": {"close": "1"}, "standard error closed": {"close": "2"},
    "all streams closed": {"close": "012"}, "standard output full": {"full": "1"}, "standard error full": {"full": "2"},
    "no HOME": {"unset": "HOME"}, "HOME does not exist": {"HOME": "/nonexistent"}, "LANG=C": {
        "LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "ASCII output": {"PYTHONIOENCODING": "ascii"}, "no TMPDIR": {"TMPDIR": "/nonexistent"},
    "PYTHON=/bin/true": {"PYTHON": "/bin/true"}, "PYTHON empty": {"PYTHON": ""},
    "PYTHON does not exist": {"PYTHON": "/nonexistent/python"}, "PYTHON is a folder": {"PYTHON": "/tmp"},
    "working folder elsewhere": {"cwd": "@case@"}, "working folder deleted": {"cwd": "deleted"},
    "working folder /": {"cwd": "/"}, "called through a link": {"cwd": "@case@", "through": "link"},
    "called from elsewhere by a relative path": {"cwd": "@case@", "through": "relative"},
    "binary standard input": {"stdin": "binary"}, "few open files": {"files": "30"},
    "a rank that is not a number": {"OMPI_COMM_WORLD_RANK": "x", "OMPI_COMM_WORLD_SIZE": "y"},
    "garbage in COLUMNS": {"COLUMNS": "x", "LINES": "-1"},
    **{f"output path with {name}": {"path": path} for name, path in ODD_PATHS.items()}}
FAULTS = ("disk", "close", "full", "files")  # of the machine: status 1 is right


def machine_case(rng: random.Random, what: str) -> dict:
    machine = MACHINES[what]
    about_output = {"disk", "read_only", "output", "path"} & set(machine)
    call = rng.choice([*WRITERS] if about_output or rng.random() < 0.5 else READERS)
    changes = {}
    if "PYTHON" in machine:
        call = rng.choice(["plan", "pre-train", "run SQuAD", "sweep again"]) if machine["PYTHON"] else "plan"
    if what == "binary standard input":
        call, changes = "infer", {"question": None}
    copies = CALLS[call].copies
    if about_output:
        name = {"disk": "disk", "read_only": "locked", "output": "output"}.get(*about_output) or machine["path"]
        if CALLS[call].copies:
            call = "train"
        below = "" if "output" in machine or "path" in machine else "/new"
        changes, copies = {WRITERS[call]: f"@case@/{name}{below}"}, {}
    return dict(call=call, what=what, words=words_of(CALLS[call], changes), copies=copies, machine=machine,
                may_fail=any(fault in machine for fault in FAULTS))


def signal_case(rng: random.Random, call: str) -> dict:
    name = rng.choice(["SIGTERM", "SIGTERM", "SIGINT"])
    delay = rng.uniform(0.0, 4.0) if rng.random() < 0.6 else rng.uniform(0.0, 0.8)
    return dict(call=call, what=f"{name} after {delay:.2f} s", words=words_of(CALLS[call], {}),
                copies=CALLS[call].copies, machine={"signal": name, "delay": str(delay)})


def together_case(rng: random.Random, call: str) -> dict:
    return dict(call=call, what="two starts", words=words_of(CALLS[call], {}), copies=CALLS[call].copies,
                machine={"together": "yes"})


# --- All inputs ---

WEIGHTS = {"typo": 5, "option": 43, "position": 4, "file": 33, "machine": 10, "signal": 3, "together": 2}
MAKERS = {"typo": typo_case, "option": option_case, "position": position_case, "file": file_case,
          "machine": machine_case, "signal": signal_case, "together": together_case}
KINDS = ("help", *WEIGHTS)


def cases(seed: int, options: Dict[str, List[str]]) -> Iterator[Case]:
    """Numbered inputs without end; the same for the same seed and options.

    Subjects (options, files, ...) take turns in a random order, so that each has its share.

    Args:
        options: of each command that exists.
    """
    def readable(subject: Subject) -> Subject:
        return subject._replace(calls=[entry for entry in subject.calls if CALLS[entry[0]].program in options])

    calls = [name for name in [*WRITERS, *READERS] if CALLS[name].program in options]
    pairs = [(program, option) for program in OPTION_CALLS for option in options.get(program, ()) if option != "help"]
    subjects = {"typo": pairs, "option": pairs, "machine": list(MACHINES), "signal": calls, "together": calls,
                "position": [program for program in PROGRAMS if program in options and (
                    program.endswith(".sh") or program == "matrix.py")],
                "file": [subject for subject in map(readable, SUBJECTS) if subject.calls]}
    turns = {kind: in_turns(random.Random(f"{seed}/{kind}"), found) for kind, found in subjects.items()}
    number = 0
    for program in options:
        for word in ("--help", "-h"):
            number += 1
            call = next(name for name, call in CALLS.items() if call.program == program)
            yield Case(number, "help", call, word, [word])
    while True:
        number += 1
        rng = random.Random(f"{seed}/{number}")
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        case = Case(number, kind, **MAKERS[kind](rng, next(turns[kind])))
        if case.program in options:
            yield case


def in_turns(rng: random.Random, subjects: list) -> Iterator:
    while True:
        yield from rng.sample(subjects, len(subjects))


def choose(drawn: Iterator[Case], count: int, only: Set[str], quick: bool = False) -> List[Case]:
    """The first `count` inputs of the kinds, commands or numbers."""
    numbers = {int(word) for word in only if word.isdigit()}
    if numbers:
        return [case for case in itertools.islice(drawn, max(numbers) + 1000) if case.number in numbers]
    kinds, programs = only & set(KINDS), only & set(PROGRAMS)
    drawn = itertools.islice(drawn, 1000 * count)
    wanted = (case for case in drawn if (not kinds or case.kind in kinds) and (not programs or case.program in programs)
              and not (quick and (case.needs_models or CALLS[case.call].trains)))
    return list(itertools.islice(wanted, count))


def shorten(value: str, length: int = 60) -> str:
    text = ascii(value)[1:-1]
    return text if len(text) <= length else f"{text[:length - 12]}... ({len(value)})"
