"""The options of the wrappers in this folder, each written once, and the commands that a call of a wrapper runs.

    python scripts/recipe.py WRAPPER START_DIR [ARGUMENT ...]

The wrappers (electra.sh, electra_squad.sh, finetune_ckpts_on_squad.sh, install_horovod.sh, benchmark_*.sh) call this
before they do anything else. It prints --help, or refuses a call in one sentence with status 2, or checks the call as a
whole, both phases of pre-training included, and writes what to run to file descriptor 3: bash assignments, every value
quoted.

An option that sets a field of the program's configuration takes meaning, type, choices and bounds from that field, and
the default too where the table states none. On the command line of the program stands what the table states, and what
differs from the program's own default. Only the standard library is needed, and no environment.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import shlex
import signal
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple, Union

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "scripts")]

import launcher  # noqa: E402  (found through the line above, like the rest)
from options import Call, Table, exists, flag, help_text, own  # noqa: E402

import configuration  # noqa: E402
import files  # noqa: E402
import pretraining_options  # noqa: E402
from configuration import DeviceOptions, UserError, like, option  # noqa: E402
from electra_config import ElectraConfig  # noqa: E402
from pretraining_options import EstimateConfig, PretrainingConfig  # noqa: E402
from squad_options import SquadConfig  # noqa: E402

DEVICES = DeviceOptions.__dataclass_fields__["device"].metadata["choices"]


# The lists of a search, and the option of electra_squad.sh that each of their values is.
SEARCHED = {"learning_rates": "learning_rate", "batch_sizes": "batch_size", "epoch_counts": "epochs",
            "layerwise_lr_decays": "layerwise_lr_decay"}


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """One call of scripts/sweep_squad.py."""

    checkpoints: Optional[str] = option(
        None, "folders of checkpoints, runs or single checkpoints, separated by commas, or a glob")
    seeds: str = option("1", "seeds, separated by commas; of several, the table has median and spread")
    device: Optional[str] = option(None, "device (default: the one that the checkpoint was trained on)",
                                   choices=DEVICES)
    out_dir: str = option("results/squad_sweep", "folder of the sweep")
    keep_checkpoint_max: int = option(
        1, "newest fine-tuned checkpoints kept of each finished fine-tuning; 0: results and predictions alone",
        minimum=0, maximum=SquadConfig.keep_checkpoint_max)
    check_only: bool = option(False, "only check the checkpoints, the options, the data and the disk space")
    learning_rates: Optional[str] = option(None, "search: values of learning_rate, separated by commas")
    batch_sizes: Optional[str] = option(None, "search: values of batch_size, separated by commas")
    epoch_counts: Optional[str] = option(None, "search: values of epochs, separated by commas")
    layerwise_lr_decays: Optional[str] = option(None, "search: values of layerwise_lr_decay, separated by commas")
    trials: int = option(0, "search: number of random combinations of the lists (0: all combinations)", minimum=0)
    trials_seed: int = option(0, "search: seed of the random combinations", minimum=0)
    halving: int = option(
        0, "search: successive halving; fine-tune all combinations for a fraction of max_steps, and again, so many "
        "times as long, the best one in so many of them, until max_steps is reached (0: off)", minimum=0, maximum=100)

    def __post_init__(self):
        configuration.check_options(self)
        for plural in SEARCHED:
            try:
                list(map(float, (getattr(self, plural) or "1").split(",")))
            except ValueError as error:
                raise UserError(f"--{plural}={getattr(self, plural)} must be numbers separated by commas.") from error
        searched = [plural for plural in SEARCHED if getattr(self, plural)]
        if (self.trials or self.halving) and not searched:
            raise UserError(f"--{'trials' if self.trials else 'halving'} needs lists to search: give one or more of "
                            f"--{', --'.join(SEARCHED)}.")
        if self.halving == 1:
            raise UserError("--halving=1 would keep all of them: give 2 or more.")
        if not re.fullmatch("[0-9]+(,[0-9]+)*", self.seeds):
            raise UserError(f"--seeds={self.seeds} must be integers separated by commas, such as "
                            "1,2,3.")

    @property
    def seed_list(self) -> List[str]:
        return self.seeds.split(",")

    def check_passed(self, names: List[str], max_steps: int):
        """Raises UserError where options of electra_squad.sh (their names, and max_steps) do not fit the search."""
        for plural, name in SEARCHED.items():
            if getattr(self, plural) and name in names:
                raise UserError(f"--{plural} and --{name} are both given: omit one of them.")
        if self.halving and max_steps <= 0:
            raise UserError(f"--halving={self.halving} needs --max_steps, the updates of the last round.")
        if self.epoch_counts and max_steps > 0:
            raise UserError("--epoch_counts and --max_steps are both given: omit one of them.")

    def sole_user(self):
        return configuration.sole_user(self.out_dir, "choose another --out_dir")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """One call of scripts/benchmark.py."""

    task: str = option("pretraining", "what is measured", choices=("pretraining", "squad"))
    device: str = like(DeviceOptions, "device")
    precision: str = like(DeviceOptions, "precision")
    model_size: str = like(PretrainingConfig, "model_size")
    train_batch_size: int = option(8, "sequences per micro-batch", minimum=1)
    gradient_accumulation_steps: int = like(PretrainingConfig, "gradient_accumulation_steps", 4)
    max_seq_length: int = option(128, "sequence length, in tokens", minimum=16)
    predict_batch_size: int = option(16, "squad: examples per batch of inference", minimum=1)
    updates: int = option(8, "updates of training in each turn", minimum=1)
    warmup_updates: int = option(2, "updates before the first turn", minimum=1)
    repeats: int = option(3, "turns; the result is their median", minimum=1)
    ceiling_seconds: float = option(1.0, "time spent on each matrix product of the ceiling and on reading input, in "
                                    "seconds", minimum=0.001)
    against: str = option("none", "none, or hf: Hugging Face transformers on PyTorch does the same work in turns; its "
                          "environment is created in <out_dir>/transformers4 (about 1 GB)", choices=("none", "hf"))
    model_config: Optional[str] = like(PretrainingConfig, "model_config")
    objective: str = like(PretrainingConfig, "objective")
    generator: str = like(PretrainingConfig, "generator")
    generator_hidden_size: Optional[float] = like(PretrainingConfig, "generator_hidden_size")
    optimizer: str = like(PretrainingConfig, "optimizer")
    joint_head: bool = like(SquadConfig, "joint_head")
    length_buckets: str = like(SquadConfig, "length_buckets")
    xla: str = like(DeviceOptions, "xla")
    bf16_config_path: Optional[str] = like(DeviceOptions, "bf16_config_path")
    force: bool = like(DeviceOptions, "force")
    out_dir: str = option("results/benchmark", "folder for the results")
    plot: Optional[str] = option(None, "measure nothing: draw the share of the ceiling and the memory in all JSON "
                                 "files of the task in out_dir to this PNG file")

    def __post_init__(self):
        configuration.check_options(self)
        self.program()
        self.encoder()
        if self.against == "hf" and self.device == "hpu":
            raise UserError("--against=hf is supported on cpu and gpu: omit it for --device=hpu.")
        if self.against == "hf" and (self.objective, self.generator) != ("electra", "separate"):
            raise UserError("--against=hf measures ELECTRA with a separate generator: omit --objective and "
                            "--generator.")

    def program(self, folder: str = "x") -> Union[PretrainingConfig, SquadConfig]:
        """The configuration of the program that is measured, with its data and results in one folder."""
        own = {field.name for field in dataclasses.fields(self)}
        of_task = SquadConfig if self.task == "squad" else PretrainingConfig
        common = {field.name: getattr(self, field.name) for field in dataclasses.fields(of_task) if field.name in own}
        if self.task == "squad":
            return SquadConfig(**common, do_train=True, do_predict=True, data_dir=folder, output_dir=folder, seed=1,
                               skip_cache=True, skip_checkpoint=True, disable_progress_bar=True)
        return PretrainingConfig(
            **common, pretrain_tfrecords=folder, eval_tfrecords=folder, results_dir=folder, seed=1,
            num_eval_steps=self.updates * self.gradient_accumulation_steps, num_train_steps=1_000_000,
            skip_checkpoint=True)

    def encoder(self) -> ElectraConfig:
        return PretrainingConfig(model_size=self.model_size, model_config=self.model_config, pretrain_tfrecords="x",
                                 max_seq_length=self.max_seq_length).encoder_config(ElectraConfig.vocab_size)

    @property
    def json_file(self) -> str:
        shape = f"{self.train_batch_size}x{self.max_seq_length}"
        name = "_".join((self.task, self.model_size, self.device, self.precision, shape))
        return os.path.join(self.out_dir, f"{name}.json")

    def sole_user(self):
        return configuration.sole_user(self.out_dir, "choose another --out_dir")


# --- The tables ---

VOCABULARIES = {"wordpiece": "vocab.txt", "sentencepiece": "spiece.model", "bpe": "spiece.model"}

WORKERS = dict(meaning="number of workers, one device each; 0 and 1 both mean one (alias: --num_hpu)", alias="num_hpu")
HOSTFILE = own("hostfile", "", "hosts of the workers, in lines like 'host1 slots=8' (default: this machine)",
               path="input")
ENV = own("env", "interactive", "interactive or cluster (a scheduler starts the wrapper for each worker)",
          ("interactive", "cluster"))
MAX_RESTARTS = own("max_restarts", "0", "maximum number of automatic restarts after a crash, each from the newest "
                   "checkpoint and after a longer pause")
MIN_WORKERS = own("min_workers", "", "with max_restarts and hostfile: leave out hosts that no longer answer, as long "
                  "as this many workers remain (default: all hosts are needed)")
DRY_RUN = own("dry_run", "false", "print the commands and run nothing")
ESTIMATE = [
    own("estimate", "false", "train nothing; print how long this call would take on 1, 8 and 64 workers, its memory, "
        "disk, tokens and epochs"),
    *(flag(EstimateConfig, name) for name in ("sequences_per_second", "timed_updates", "network_gbits")),
    flag(EstimateConfig, "estimate_file", path="output")]


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


def electra_table() -> Table:
    """Positions and defaults are those of Habana's electra.sh."""
    def of(name, *words, **more):
        return flag(PretrainingConfig, name, *words, **more)

    return Table(f"""\
usage: bash scripts/electra.sh [value ...] [--option=value ...]
Pre-trains ELECTRA in two phases. The defaults are a small trial; docs/pretraining.md has the full recipe.

A data folder that is not given is taken from DATASET_P1 or DATASET_P2 in the environment, else from
{CORPUS.format("<length>")}
if that exists, else the bundled sample data is used. Switches can be given without a value.""", [
        of("device"),
        of("precision"),
        of("train_batch_size_p1", "2"),
        of("learning_rate_p1", "6e-3"),
        of("num_workers", **WORKERS),
        of("xla", "xla", meaning="compile with XLA: true (also: xla, auto) or false; ignored on hpu",
           choices=("xla", "auto", "true", "false")),
        of("warmup_steps_p1", "5", "num_warmup_steps"),
        of("train_steps_p1", "20", "num_train_steps"),
        of("save_checkpoint_steps", "20", "save_checkpoints_steps"),
        own("resume_training", "false", "resume from the newest checkpoint of this run; auto: start if there is none",
            ("true", "false", "auto"), also=("restore_checkpoint",)),
        of("optimizer"),
        own("accumulate_gradients", "true", "false: every micro-batch is an update"),
        of("gradient_accumulation_steps_p1", "4"),
        of("seed", "100"),
        own("job_name", "electra_lamb_pretraining", "prefix of the names of the log files"),
        of("train_batch_size_p2", "2"),
        of("learning_rate_p2", "4e-3"),
        of("warmup_steps_p2", "5", "num_warmup_steps"),
        of("train_steps_p2", "20", "num_train_steps"),
        of("gradient_accumulation_steps_p2", "4"),
        of("electra_model", None, "model_size"),
        of("data_dir_p1", "DATASET_P1", "pretrain_tfrecords", path="input", environment="DATASET_P1"),
        of("data_dir_p2", "DATASET_P2", "pretrain_tfrecords", path="input", environment="DATASET_P2"),
        own("code_dir", ".", "folder of run_pretraining.py, relative to the repository"),
        of("init_checkpoint", "None", "weights_dir", phase=1, also=("load_weights",), path="input",
           environment="init_checkpoint",
           meaning="start phase 1 at step 0 from these weights: a checkpoint, a folder, or a model of the Hugging Face "
                   "hub"),
    ], [
        own("corpus_dir", "", "in place of data_dir_p1 and data_dir_p2: folder of text, which is prepared "
            "(docs/corpus.md) unless its files have one sentence per line already; builds the records in data/<name of "
            "the run> once, with the vocabulary of vocab_file or a new one", path="input"),
        *CORPUS_OPTIONS,
        own("phase", "both", "both, 1 or 2 (2 needs a finished phase 1 of the same run)", ("both", "1", "2")),
        of("model_name"),
        of("results_dir", path="output"),
        of("overwrite", phase=1),
        of("skip_bad_records"),
        of("vocab_file", path="input"),
        of("model_config", path="input"),
        of("generator_hidden_size"),
        of("objective"),
        of("generator"),
        of("mask_prob"),
        of("max_seq_length_p1", "128"),
        of("max_seq_length_p2", "512"),
        of("log_freq"),
        of("eval_freq"),
        own("eval", "auto", "auto: evaluate on the held-out shards in <data_dir>/eval, if there are any; none: do not",
            ("auto", "none")),
        of("num_eval_steps", "20"),
        of("keep_checkpoint_max"),
        of("keep_every_steps"),
        of("save_checkpoints_minutes"),
        of("skip_bad_updates"),
        of("profile_steps"),
        of("force"),
        HOSTFILE,
        of("bf16_config_path", path="input"),
        of("gradient_compression"),
        of("recompute"),
        ENV,
        MAX_RESTARTS,
        MIN_WORKERS,
        *ESTIMATE,
        DRY_RUN,
    ])


def squad_table() -> Table:
    """Positions and defaults are those of Habana's electra_squad.sh."""
    def of(name, *words, **more):
        return flag(SquadConfig, name, *words, **more)

    return Table("""\
usage: bash scripts/electra_squad.sh [value ...] [--option=value ...]
Fine-tunes ELECTRA on SQuAD 1.1 or 2.0, answers the questions of the development set, and scores the answers. Without
squad_dir (given here or in the environment) the bundled sample questions are used. Switches can be given without a
value.\
""", [
        of("device"),
        of("precision"),
        of("electra_model", path="input"),
        of("epochs", None, "num_train_epochs"),
        of("batch_size", None, "train_batch_size"),
        of("infer_batch_size", None, "predict_batch_size"),
        of("learning_rate"),
        of("num_workers", **WORKERS),
        of("seed", "RANDOM"),
        own("squad_version", "1.1", "1.1 or 2.0", ("1.1", "2.0"), also=("version_2_with_negative",)),
        of("squad_dir", "squad_dir", "data_dir", path="input", environment="squad_dir",
           meaning="folder of train-v1.1.json, dev-v1.1.json (2.0 likewise)"),
        of("out_dir", "results/", "output_dir", path="output"),
        of("init_checkpoint", "None", path="input", environment="init_checkpoint"),
        own("mode", "train_eval", "train, eval, train_eval or prediction",
            ("train", "eval", "train_eval", "prediction"), also=("do_train",)),
        ENV,
        of("cache_dir", "None", path="input", environment=""),
        of("max_steps"),
        of("train_iter_per_epoch"),
    ], [
        of("vocab_file", path="input"),
        of("strict_answers"),
        of("gradient_accumulation_steps"),
        of("warmup_proportion"),
        of("weight_decay_rate"),
        of("layerwise_lr_decay"),
        of("max_seq_length"),
        of("doc_stride"),
        of("length_buckets"),
        of("beam_size"),
        of("joint_head"),
        of("answerability_from_gold"),
        of("null_score_diff_threshold"),
        of("evaluate_during_training"),
        of("eval_steps"),
        of("early_stopping_patience"),
        of("save_checkpoints_minutes"),
        of("skip_bad_updates"),
        of("profile_steps"),
        of("force"),
        of("metric"),
        of("language"),
        of("eval_script", path="input"),
        of("log_freq"),
        of("xla"),
        HOSTFILE,
        of("bf16_config_path", path="input"),
        of("gradient_compression"),
        of("recompute"),
        of("skip_checkpoint"),
        of("overwrite"),
        MAX_RESTARTS,
        MIN_WORKERS,
        *ESTIMATE,
        DRY_RUN,
    ])


SET_BY_SWEEP = ("device", "seed", "init_checkpoint", "out_dir", "electra_model", "mode", "env", "overwrite", "dry_run")


def sweep_table() -> Table:
    def of(name, **more):
        return flag(SweepConfig, name, **more)

    return Table(f"""\
usage: checkpoints=FOLDER[,FOLDER...] bash scripts/finetune_ckpts_on_squad.sh [--option=value ...]
Exports and fine-tunes each checkpoint in its own folder under out_dir, in the order of training, and writes a table
(sweep.txt, sweep.csv) and a plot (sweep.png). Everything is checked before the first fine-tuning. With lists, such as
learning_rates, it searches for the best settings and prints the command of the best ones.

The options after dry_run are passed to scripts/electra_squad.sh. The sweep itself sets its other options:
{", ".join(SET_BY_SWEEP[:-1])}.\
""", [], [
        of("checkpoints", environment="checkpoints",
           meaning="folders of checkpoints, runs or single checkpoints, separated by commas or blanks, or a glob; also "
                   "the environment variable of this name"),
        of("seeds"),
        of("device"),
        of("out_dir", path="output"),
        of("keep_checkpoint_max"),
        *map(of, SEARCHED),
        of("trials"),
        of("trials_seed"),
        of("halving"),
        DRY_RUN,
        *(entry for entry in squad_table().options if entry.name not in SET_BY_SWEEP and entry not in ESTIMATE),
    ])


def horovod_table() -> Table:
    return Table("""\
usage: bash scripts/install_horovod.sh [cpu|gpu|hpu] [--rebuild]
Builds and installs Horovod into the Python that the wrappers use ($PYTHON, else .venv). That takes some minutes.""", [
        own("device", "cpu", "cpu (over Gloo), gpu (over NCCL) or hpu (habana-horovod, over HCCL and MPI)", DEVICES),
    ], [
        own("rebuild", "false", "rebuild even if a working Horovod is installed"),
    ])


def benchmark_table(task: str) -> Table:
    """The options that the task has; where it states a default, that one in place of the program's."""
    defaults = {"squad": {"gradient_accumulation_steps": "1", "max_seq_length": "384", "updates": "16"}}.get(task, {})
    others = {"pretraining": ("joint_head", "length_buckets", "predict_batch_size"),
              "squad": ("objective", "generator", "generator_hidden_size", "optimizer")}[task]
    names = [name for name in BenchmarkConfig.__dataclass_fields__ if name not in ("task", *others)]
    renamed = {"model_size": "electra_model", "train_batch_size": "batch_size", "predict_batch_size":
               "infer_batch_size"}
    paths = {"model_config": "input", "bf16_config_path": "input", "out_dir": "output",
             "plot": "output"}
    entries = [flag(BenchmarkConfig, renamed.get(name, name), defaults.get(name), name, path=paths.get(name))
               for name in names]
    what = {"pretraining": "pre-training", "squad": "fine-tuning on SQuAD"}[task]
    return Table(f"""\
usage: bash scripts/benchmark_{task}.sh [value ...] [--option=value ...]
Measures the speed of {what} and inference on this machine, on generated data with the
lengths of real data, beside the fastest matrix products that TensorFlow reaches here. Prints a table and writes JSON to
out_dir. It uses one device; training logs have the speed of several workers (docs/performance.md).\
""", entries[:4], [*entries[4:], DRY_RUN])


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


# --- The plans ---


Variables = Dict[str, Union[str, List[str]]]  # of bash: texts and arrays


class Plan(NamedTuple):
    """What a wrapper does."""

    variables: Variables
    notes: List[str]  # what it says first
    configs: list  # of the programs that it runs
    folder: str = ""  # of the run, used by one process at a time
    flag: str = ""  # the program's option that names its place


DEVICE_FILES = {
    "gpu": ("NVIDIA GPU", ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"]),
    "hpu": ("Gaudi card", ["/sys/class/habanalabs", "/sys/class/accel/accel[0-9]*", "/dev/accel/accel[0-9]*",
                           "/dev/hl[0-9]*"])}


def workers(call: Call, config: DeviceOptions) -> Variables:
    """The variables about device and workers. Raises: UserError: they contradict each other, or are not there."""
    hostfile = os.path.join(call.start_dir, os.path.expanduser(call["hostfile"])) if call["hostfile"] else ""
    launcher.check(config.num_workers, hostfile, call.cluster, call.dry_run, call.wrapper)
    made = estimate(call)
    needs_device = not (made and call["sequences_per_second"])
    if needs_device:
        check_device(call, config.device)
    if made:  # one process
        return {"device": config.device if needs_device else "cpu", "num_workers": "1", "hostfile": "", "cluster": "",
                "estimate": made, "checkpoints": config.checkpoint_dir}
    return {"device": config.device, "num_workers": str(config.num_workers), "hostfile": hostfile, "estimate": [],
            "cluster": "yes" if call.cluster else "", "max_restarts": str(max_restarts(call)),
            "min_workers": min_workers(call, config.num_workers, hostfile), "checkpoints": config.checkpoint_dir}


def estimate(call: Call) -> List[str]:
    """The command of --estimate, without those that it is about; empty without the option.

    Raises: UserError: an option of an estimate without --estimate, or several processes.
    """
    given = [entry.name for entry in ESTIMATE[1:] if entry.name in call.given]
    if call["estimate"] == "false":
        if given:
            raise UserError(f"--{given[0]} is for an estimate: add --estimate, or omit it.")
        return []
    if call.cluster:
        raise UserError("--estimate is for one process: omit --env=cluster, and do not use srun or mpirun.")
    flags = call.flags(EstimateConfig)
    return call.command("estimate.py", flags, configuration.from_words(EstimateConfig, flags))


def check_device(call: Call, device: str):
    """Raises UserError: there is no such device on this machine."""
    kind, places = DEVICE_FILES.get(device, ("", ["/"]))
    if not call.dry_run and not any(map(exists, places)):
        raise UserError(f"no {kind} is visible on this machine (or in this container): use the CPU with "
                        f"'bash scripts/{call.wrapper} cpu'.")


def max_restarts(call: Call) -> int:
    """Raises: UserError: not a number, or the scheduler is the one to restart."""
    if not re.fullmatch("[0-9]{1,6}", call["max_restarts"]):
        raise UserError(f"--max_restarts={call['max_restarts']} must be an integer, such as 3.")
    if call.cluster and int(call["max_restarts"]):
        raise UserError("--max_restarts cannot be combined with --env=cluster, where the scheduler starts the workers: "
                        "have it requeue the job, with --resume_training=auto.")
    return int(call["max_restarts"])


def min_workers(call: Call, num_workers: int, hostfile: str) -> str:
    """Raises: UserError: not a number from 2 to that of the workers, or without the options that it belongs to."""
    text = call["min_workers"]
    if text and not (hostfile and int(call["max_restarts"])):
        raise UserError("--min_workers is for restarts on other hosts: give --hostfile and --max_restarts too.")
    if text and not (re.fullmatch("[0-9]{1,6}", text) and 2 <= int(text) <= num_workers):
        raise UserError(f"--min_workers={text} must be an integer from 2 to --num_workers={num_workers}.")
    return text


DEMO = "data/sample/demo"
MAKE_DEMO = {DEMO: ["data/make_sample_data.py", f"--output_dir={DEMO}", "--size=demo"]}


def building(steps: Dict[str, List[str]]) -> Variables:
    """Folders that are built if they are missing as `built_folders`, and the commands that do so as `build_0`, ..."""
    return {"built_folders": list(steps), **{f"build_{i}": command for i, command in enumerate(steps.values())}}


def records_step(corpus: str, vocab_file: str, folder: str, length: str, num_out_files: int, eval_fraction: float):
    return ["build_pretraining_dataset.py", f"--corpus_dir={corpus}", f"--vocab_file={vocab_file}",
            f"--output_dir={folder}", f"--max_seq_length={length}", f"--num_out_files={num_out_files}",
            f"--eval_fraction={eval_fraction}"]


# Where the data of the full recipe is by convention.
CORPUS = "/data/tensorflow/bert/books_wiki_en_corpus/tfrecord/seq_len_{}/books_wiki_en_corpus/training/"


def electra(call: Call) -> Plan:
    """Phase 1, then phase 2 from its weights, or one of them. Both are checked here, before the first starts."""
    phases = [1, 2] if call["phase"] == "both" else [int(call["phase"])]
    notes: List[str] = []
    if not re.fullmatch("[A-Za-z0-9._-]{1,200}", call["job_name"]):
        raise UserError(f"--job_name={call['job_name']} must be a file name: use up to 200 letters, digits, . _ and -.")
    for name in ("overwrite", "init_checkpoint"):
        if phases == [2] and call.given.get(name, "None") not in ("None", "false"):
            raise UserError(f"--{name} applies to phase 1 and cannot be combined with --phase=2: omit one of them.")
    if call.cluster and len(phases) > 1 and int(os.environ.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        raise UserError("one mpirun call can run only one phase: run the wrapper with --phase=1, then with "
                        "--phase=2.")
    call.work_dir = os.path.normpath(os.path.join(ROOT, call["code_dir"]))
    if not os.path.isdir(call.work_dir):
        raise UserError(f"--code_dir={call['code_dir']} is not a directory: omit it, or give the one that holds "
                        "run_pretraining.py.")
    data, steps = electra_data(call, phases, notes)
    commands, configs = {}, []
    for phase in phases:
        held_out = os.path.join(data[phase], "eval") if data[phase] in steps else held_out_of(call, data[phase])
        flags = electra_flags(call, phase, data[phase], held_out if call["eval"] == "auto" else "")
        with call.own_words(phase):
            configs.append(configuration.from_words(PretrainingConfig, flags))
            check_encoder(call, configs[-1])
        if phase == 2:
            flags = {field: text for field, text in flags.items() if field not in PHASE_2}
        commands[f"options_p{phase}"] = call.flag_words(flags, configs[-1])
        flags.pop("overwrite", None)  # a restart never removes what this call has saved
        if phase == 1:
            flags.setdefault("restore_checkpoint", "auto")
        commands[f"restart_p{phase}"] = call.flag_words(flags, configs[-1])
        commands[f"log_p{phase}"] = os.path.join(configs[-1].logs, f"{call['job_name']}_phase{phase}.log")
    phase_1 = os.path.join(call.in_work_dir(configs[0].checkpoint_dir), "ckpt-*.index")
    if phases == [2] and call["estimate"] == "false" and not exists(phase_1):
        raise UserError(f"--phase=2: {configs[0].checkpoint_dir} holds no checkpoint of phase 1: run phase 1 first, or "
                        "name the run with --model_name.")
    if configs[0].device == "hpu" and call.given.get("xla", "auto") not in ("auto", "false"):
        notes.append(f"note: xla={call['xla']} is ignored on hpu, where the bridge compiles the graph")
    if call["resume_training"] == "true" and call["init_checkpoint"]:
        notes.append("note: a resumed run continues from its own checkpoint: init_checkpoint is not loaded again")
    return Plan({**workers(call, configs[0]), **commands, **building(steps),
                 "phases": [str(phase) for phase in phases], "optimizer": configs[0].optimizer,
                 "logs": configs[0].logs, "to_resume": "--resume_training=true", "to_continue": "--phase=2"},
                notes, configs, "" if call["estimate"] == "true" else configs[0].model_dir, "results_dir")


def check_encoder(call: Call, config: PretrainingConfig):
    """Raises UserError: a model_config that cannot be read, or records longer than the model's positions."""
    if config.model_config and not config.model_config.lstrip().startswith("{"):
        config = dataclasses.replace(config, model_config=call.in_work_dir(config.model_config))
    config.encoder_config(ElectraConfig.vocab_size)


def electra_data(call: Call, phases: List[int], notes: List[str]) -> Tuple[Dict[int, str], Dict[str, List[str]]]:
    """Training shards by phase, and the commands that build what is missing of them (sample data or --corpus_dir).

    Raises: UserError: one phase has data and the other has not, or they do not exist.
    """
    lengths = {phase: call[f"max_seq_length_p{phase}"] for phase in phases}
    data = {phase: call.path(f"data_dir_p{phase}") for phase in phases}
    if call["corpus_dir"]:
        return corpus_data(call, lengths)
    for phase in phases:
        if not data[phase] and os.path.isdir(CORPUS.format(lengths[phase])):
            data[phase] = CORPUS.format(lengths[phase])
    sample = [phase for phase in phases if not data[phase]]
    if sample and sample == phases:
        notes.append("no data is given: the bundled sample data is used (data/sample), which only shows that "
                     "everything works; give yours with --data_dir_p1 and --data_dir_p2, or DATASET_P1 and DATASET_P2")
        data = {phase: f"data/sample/tfrecord/seq_len_{lengths[phase]}" for phase in phases}
        return data, {**MAKE_DEMO, **{data[phase]: records_step(
            f"{DEMO}/corpus", f"{DEMO}/vocab.txt", data[phase], lengths[phase], 4, 0.05) for phase in phases}}
    if sample:
        raise UserError(f"no data was given for phase {sample[0]}, only for the other phase: set "
                        f"--data_dir_p{sample[0]} or DATASET_P{sample[0]}, or run one phase with --phase.")
    for phase in phases:
        for piece, _ in datasets(call, data[phase], phase):
            if not exists(call.in_work_dir(piece)):
                raise UserError(f"the data of phase {phase}, {piece}, does not exist: check --data_dir_p{phase} or "
                                f"DATASET_P{phase}.")
    vocabularies = {vocabulary_beside(call.in_work_dir(datasets(call, data[phase], phase)[0][0])) for phase in phases}
    vocabularies.discard(None)
    if len(vocabularies) > 1 and not call["vocab_file"]:
        raise UserError("the vocabulary of --data_dir_p1 and that of --data_dir_p2 differ: phase 2 continues with the "
                        "weights of phase 1, so build both datasets with the same vocabulary.")
    return data, {}


def datasets(call: Call, data: str, phase: int) -> List[Tuple[str, float]]:
    """The folders and globs of --data_dir_p1 or _p2 and their weights, 0 without any. Raises: UserError."""
    return pretraining_options.weighted_datasets(data, f"data_dir_p{phase}",
                                                 lambda path: exists(call.in_work_dir(path)))


def held_out_of(call: Call, data: str) -> str:
    """The held-out shards of one dataset, or of all in a mixture, with its weights; '' where there are none."""
    parts = [pretraining_options.split_weight(part.strip(), lambda path: exists(call.in_work_dir(path)))
             for part in data.split(",")]
    folders = [os.path.join(path, "eval") for path, _ in parts]
    known = len(parts) == 1 or all(weight for _, weight in parts)
    if not known or not all(os.path.isdir(call.in_work_dir(folder)) for folder in folders):
        return ""
    return ",".join(folder + (f":{weight}" if weight else "") for folder, (_, weight) in zip(folders, parts))


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
    for name in ("*/prepared/manifest.json", "*/prepared.partial/plan.json"):
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


def vocabulary_beside(data: str) -> Optional[bytes]:
    """The content of the vocabulary that belongs to shards, or None where it cannot be told."""
    folder = data if os.path.isdir(data) else os.path.dirname(data)
    for place in (folder, os.path.dirname(os.path.abspath(folder))):
        path = configuration.find_vocabulary(place)
        with contextlib.suppress(OSError):
            if path:
                with open(path, "rb") as file:
                    return file.read()
    return None


PHASE_2 = {"phase2": "true", "restore_checkpoint": "latest"}  # as scripts/electra.sh passes them


def electra_flags(call: Call, phase: int, data: str, held_out: str) -> Dict[str, str]:
    """The options of run_pretraining.py for one phase that a call decides; scripts/electra.sh has those that it does
    not. held_out: shards, or ''."""
    flags = call.flags(PretrainingConfig, phase)
    flags["pretrain_tfrecords"] = data
    if flags["model_size"] == "base":
        flags.setdefault("generator_hidden_size", "0.3333333")
    if call["accumulate_gradients"] == "false":
        flags["gradient_accumulation_steps"] = "1"
    if flags["device"] == "hpu":
        del flags["xla"]
    elif flags["xla"] == "xla":
        flags["xla"] = "auto"
    if held_out:
        flags["eval_tfrecords"] = held_out
    else:
        del flags["num_eval_steps"]
    if phase == 2:
        flags.update(PHASE_2)
    elif call["resume_training"] == "true":
        flags.pop("weights_dir", None)
        flags["restore_checkpoint"] = "latest"
    elif call["resume_training"] == "auto":
        flags["restore_checkpoint"] = "auto"
    if "weights_dir" in flags:
        flags["load_weights"] = "true"
    return flags


def electra_squad(call: Call) -> Plan:
    """One fine-tuning, evaluation or prediction."""
    flags, sample, notes = call.flags(SquadConfig), False, []
    if "data_dir" not in flags:
        sample, flags["data_dir"] = True, f"{DEMO}/squad"
        notes.append(f"no squad_dir is given: the bundled sample questions are used ({flags['data_dir']}), which only "
                     "show that everything works")
    elif not os.path.isdir(call.in_work_dir(flags["data_dir"])):
        raise UserError(f"--squad_dir={flags['data_dir']} is not a directory: give the one that holds the SQuAD files.")
    if call["estimate"] == "true" and not call["mode"].startswith("train"):
        raise UserError(f"--estimate is for training, not for --mode={call['mode']}: omit one of them.")
    if flags["seed"] == "RANDOM":
        del flags["seed"]
    if call["squad_version"] == "2.0":
        flags["version_2_with_negative"] = "true"
    mode = call["mode"]
    flags.update({name: "true" for name, wanted in (
        ("do_train", mode.startswith("train")), ("do_predict", mode != "train"), ("do_eval", mode.endswith("eval")))
        if wanted})
    if flags["device"] == "hpu":
        del flags["xla"]
    with call.own_words():
        config = configuration.from_words(SquadConfig, flags)
    return Plan({**workers(call, config), "command": call.command("run_tf_squad.py", flags, config),
                 **building(MAKE_DEMO if sample else {}), "results": config.output_dir,
                 "log": os.path.join(config.output_dir, "console.log")}, notes, [config],
                "" if call["estimate"] == "true" else config.output_dir, "output_dir")


def sweep(call: Call) -> Plan:
    """Fine-tunings of several checkpoints. What electra_squad.sh refuses is refused here, before the first export."""
    flags = call.flags(SweepConfig)
    names = checkpoint_names(call["checkpoints"], lambda name: exists(call.input_path(name), ROOT) or os.path.exists(
        os.path.join(ROOT, call.input_path(name) + ".index")))
    if not names:
        raise UserError("--checkpoints is missing: name the folder, as in checkpoints=results/models/base/checkpoints "
                        f"bash scripts/{call.wrapper}.")
    flags["checkpoints"] = ",".join(map(call.input_path, names))
    config = configuration.from_words(SweepConfig, flags)
    passed = [f"--{entry.name}={call.path(entry.name)}" for entry in call.table.options
              if entry.config_class is not SweepConfig and entry is not DRY_RUN
              and (entry.name in call.given or entry.environment and call[entry.name])]
    made = plan("electra_squad", [*passed, f"--{DRY_RUN.name}"], call.start_dir)
    config.check_passed([entry.name for entry in call.table.options if entry.name in call.given],
                        made.configs[0].max_steps)
    command = [*call.command("scripts/sweep_squad.py", flags, config), "--", *passed]
    return Plan({"device": config.device or "cpu", "command": command}, [], [config], config.out_dir, "out_dir")


def checkpoint_names(text: str, is_there: Callable[[str], bool]) -> List[str]:
    """The names in --checkpoints: the whole text if that is there; else what commas separate, and blanks where the text
    between two commas is not there."""
    parts = [text] if text and is_there(text) else list(filter(None, map(str.strip, text.split(","))))
    return [name for part in parts for name in ([part] if is_there(part) else part.split())]


def fine_tuning(device: str, seed: int, weights: str, folder: str, arguments: List[str]) -> List[str]:
    """The arguments of electra_squad.sh in a sweep."""
    return [f"--device={device}", f"--seed={seed}", f"--init_checkpoint={weights}", f"--out_dir={folder}", *arguments]


def install_horovod(call: Call) -> Plan:
    return Plan({"device": call["device"], "rebuild": "yes" if call["rebuild"] == "true" else ""}, [], [])


def benchmark(task: str, call: Call) -> Plan:
    """A measurement of speed, which does nothing else."""
    flags = {"task": task, **call.flags(BenchmarkConfig)}
    if flags["device"] == "hpu":
        flags.pop("xla", None)
    with call.own_words():
        config = configuration.from_words(BenchmarkConfig, flags)
    check_device(call, config.device)
    return Plan({"device": config.device, "command": call.command("scripts/benchmark.py", flags, config)}, [], [config],
                config.out_dir, "out_dir")


WRAPPERS = {"electra": (electra_table, electra), "create_datasets_from_start": (datasets_table, create_datasets),
            "electra_squad": (squad_table, electra_squad),
            "finetune_ckpts_on_squad": (sweep_table, sweep), "install_horovod": (horovod_table, install_horovod),
            **{f"benchmark_{task}": (functools.partial(benchmark_table, task), functools.partial(benchmark, task))
               for task in ("pretraining", "squad")}}


def plan(name: str, words: List[str], start_dir: str) -> Plan:
    """What wrapper `name` does for a call. Raises: UserError."""
    table, planner = WRAPPERS[name]
    return planner(Call(f"{name}.sh", table(), words, start_dir))


def squad(words: List[str], dry_run: bool) -> Plan:
    """A call of electra_squad.sh in this folder. Raises: UserError: it is refused."""
    return plan("electra_squad", [*words, f"--{DRY_RUN.name}={str(dry_run).lower()}"], os.getcwd())


def bash(variables: Variables) -> str:
    """Assignments of the variables. Whatever a value holds, bash sees it as that text."""
    return "".join(
        f"{name}={shlex.quote(value) if isinstance(value, str) else '(' + ' '.join(map(shlex.quote, value)) + ')'}\n"
        for name, value in variables.items())


def check_places(call: Call, made: Plan):
    """Raises UserError: the run's folder cannot be created or written, or TMPDIR is not a folder that can be."""
    temporary = os.environ.get("TMPDIR") or "/tmp"
    if not (os.path.isdir(temporary) and os.access(temporary, os.W_OK)):
        raise UserError(f"TMPDIR={temporary} is not a folder that can be written: set it to one that is, or unset it.")
    os.chdir(call.work_dir)
    with call.own_words():
        for folder in (made.folder, *(config.logs for config in made.configs[:1] if made.flag == "results_dir")):
            configuration.check_folder(folder or ".", made.flag)


def clear_the_way(call: Call, made: Plan):
    """Removes the temporary folders of wrappers that were killed. Raises: UserError: the run's folder is in use."""
    files.remove_junk(os.environ.get("TMPDIR") or "/tmp")
    if made.folder and os.path.exists(os.path.join(made.folder, ".lock")):
        with call.own_words(), made.configs[0].sole_user():
            pass


def main(argv: List[str]) -> int:
    name, start_dir, *words = argv[1:]
    table, planner = WRAPPERS[name]
    if "--help" in words or "-h" in words:
        print(help_text(table()))
        os.write(3, b"exit 0\n")
        return 0
    rank, who = 0, f"{name}.sh"
    try:
        call = Call(who, table(), words, start_dir)
        rank = call.rank
        made = planner(call)
        if made.folder and not rank:
            check_places(call, made)
        if not call.dry_run and not rank:
            clear_the_way(call, made)
    except UserError as error:
        if rank:  # what the wrappers of all workers find is reported by that of rank 0, whose end ends the others
            time.sleep(3)
            who += f" (worker {rank})"
        print(f"{who}: {configuration.on_one_line(str(error))}", file=sys.stderr)
        return error.exit_status
    for note in made.notes if not rank else ():
        print(f"{who}: {note}")
    sys.stdout.flush()
    common = {"host": files.HOST, "process_space": files.process_space(), "rank": str(rank),
              "dry_run": "yes" if call.dry_run else "", "work_dir": call.work_dir}
    code = bash({**common, **made.variables})
    os.write(3, os.fsencode(code))
    return 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
    try:
        status = main(sys.argv)
        sys.stdout.flush()
    except OSError as error:  # standard output: a full disk, or closed
        print(f"{sys.argv[1]}.sh: the output could not be written ({error.strerror}).", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")
        status = 1
    sys.exit(status)
