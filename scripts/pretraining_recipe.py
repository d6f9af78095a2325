"""scripts/electra.sh: its options, and the commands of the two phases of pre-training, checked as a whole.

Only the standard library is used.
"""
from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from typing import Dict, List, Optional, Tuple

from corpus_recipe import CORPUS_OPTIONS, DEMO, MAKE_DEMO, corpus_data, records_step
from options import ROOT, Call, Table, exists, flag, own
from plans import DRY_RUN, ENV, ESTIMATE, HOSTFILE, MAX_RESTARTS, MIN_WORKERS, WORKERS, Plan, building, workers

import configuration
from configuration import UserError
from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig, split_weight, weighted_datasets

# Where the data of the full recipe is by convention.
CORPUS = "/data/tensorflow/bert/books_wiki_en_corpus/tfrecord/seq_len_{}/books_wiki_en_corpus/training/"


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
        of("report_samples"),
        of("keep_checkpoint_max"),
        of("keep_every_steps"),
        of("save_checkpoints_minutes"),
        of("skip_bad_updates"),
        of("profile_steps"),
        of("histograms"),
        of("tracker"),
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
    return weighted_datasets(data, f"data_dir_p{phase}", lambda path: exists(call.in_work_dir(path)))


def held_out_of(call: Call, data: str) -> str:
    """The held-out shards of one dataset, or of all in a mixture, with its weights; '' where there are none."""
    parts = [split_weight(part.strip(), lambda path: exists(call.in_work_dir(path)))
             for part in data.split(",")]
    folders = [os.path.join(path, "eval") for path, _ in parts]
    known = len(parts) == 1 or all(weight for _, weight in parts)
    if not known or not all(os.path.isdir(call.in_work_dir(folder)) for folder in folders):
        return ""
    return ",".join(folder + (f":{weight}" if weight else "") for folder, (_, weight) in zip(folders, parts))


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
