"""Preflight checks: what can be refused before TensorFlow is imported, which takes seconds.

The options have been checked (configuration.py). Here follow the files that they name, the run's folder, free disk and
memory. `--check_only` ends after these checks, and scripts/electra.sh makes them for both phases before the first one
starts. What needs the network's variables or the content of a checkpoint is checked by the command itself, before its
first update.
"""
from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.util
import os
import socket
from typing import Dict, NamedTuple, Optional

import files
import hub
import pretrain_utils
import squad_utils
import task_data
import trackers
from checkpoints import Checkpoints, find_checkpoint
from configuration import DeviceOptions, UserError, check_folder, launched
from electra_config import ElectraConfig
from fine_tuning_options import FineTuningOptions
from pretraining_options import PretrainingConfig
from squad_options import ExportConfig, InferenceConfig, SquadConfig

# --- Pre-training ---


def check_pretraining(config: PretrainingConfig) -> bool:
    """Checks one phase. Writes nothing but indices of shards that have none.

    Returns: whether the command was only to check. Raises: UserError.
    """
    checkpoints = Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max, keep_every=config.keep_every_steps)
    if not config.eval_only:
        check_folder(config.model_dir, "results_dir")
        check_folder(config.logs, "log_dir" if config.log_dir else "results_dir")
        refuse_second_run(config, checkpoints)
    refuse_missing_checkpoint(config, checkpoints)
    trackers.check(config.tracker)
    for name in (config.weights_dir or "").split(","):
        check_weights(name.strip())
    if config.eval_only:  # the checkpoint says what model it is
        pretrain_utils.open_tokenizer(config, pretrain_utils.find_shards(config.eval_tfrecords, "eval_tfrecords"))
        return config.check_only
    inputs = open_inputs(config)
    check_memory(config, pretraining_bytes(config, inputs.encoder), "train_batch_size")
    if not config.skip_checkpoint and not checkpoints.list(config.phase):  # else how many are to come is known later
        checkpoints.check_room(checkpoint_bytes(pretraining_parameters(config, inputs.encoder)), config.phase,
                               num_train_steps=config.num_train_steps, keep_best=inputs.held_out is not None)
    return config.check_only


class Inputs(NamedTuple):
    """What a phase reads, validated."""

    encoder: ElectraConfig
    data: pretrain_utils.Data
    held_out: Optional[pretrain_utils.Data]


def open_inputs(config: PretrainingConfig) -> Inputs:
    """Opens the records of a phase. Raises: UserError: they cannot be used."""
    shards = pretrain_utils.find_shards(config.pretrain_tfrecords, "pretrain_tfrecords")
    held_out = config.eval_tfrecords and pretrain_utils.find_shards(config.eval_tfrecords, "eval_tfrecords")
    tokenizer = pretrain_utils.open_tokenizer(config, shards)
    encoder = config.encoder_config(tokenizer.vocab_size)
    data = pretrain_utils.open_data(shards, config, tokenizer, remember=False)
    if data.order.records < config.train_batch_size:
        raise UserError(f"--pretrain_tfrecords hold {data.order.records} records, fewer than one micro-batch of "
                        f"--train_batch_size={config.train_batch_size}: lower it, or build a larger dataset.")
    return Inputs(encoder, data, pretrain_utils.open_data(held_out, config, tokenizer, remember=False)
                  if held_out else None)


# --- Where a run starts ---


def refuse_second_run(config: PretrainingConfig, checkpoints: Checkpoints):
    """Refuses to mix two runs in one folder. Phase 1 without a checkpoint to resume from is a new run."""
    found = checkpoints.list(2 if config.phase2 else None)
    is_new = not config.restore_checkpoint or config.restore_checkpoint == "auto" and not checkpoints.list(config.phase)
    if not (found and is_new) or config.overwrite:
        return
    resume = ""
    if checkpoints.newest(config.phase, quiet=True):
        resume = f"resume it {to_resume(config)}, "
    elif checkpoints.list(config.phase):
        raise none_readable(config, checkpoints)
    raise UserError(f"{config.checkpoint_dir} already holds {found[-1].name} of an earlier run: {resume}"
                    f"{start_again(config)}.")


def to_resume(config: PretrainingConfig) -> str:
    """How a run that has saved a checkpoint is resumed."""
    if config.restore_checkpoint == "auto":
        return "with the same command"
    replaced = " in place of --overwrite" if config.overwrite else ""
    if config.load_weights:
        replaced = " in place of --load_weights and --weights_dir"
    return f"with --restore_checkpoint=latest{replaced} (scripts/electra.sh: --resume_training=true)"


def start_again(config: PretrainingConfig) -> str:
    """How a new run is started although there are checkpoints."""
    if config.phase2:
        return "or start phase 2 again with --overwrite"
    without = ", both without --restore_checkpoint (scripts/electra.sh: --resume_training)"
    return "choose another --model_name, or delete it with --overwrite" + (without if config.restore_checkpoint else "")


def none_readable(config: PretrainingConfig, checkpoints: Checkpoints) -> UserError:
    """The refusal of a phase whose checkpoints are all damaged."""
    if config.eval_only:
        way_out = "give another checkpoint as --restore_checkpoint"
    elif config.phase2:
        way_out = "move ckpt-p2-* out of it, and the same command starts phase 2 again from phase 1"
    else:
        way_out = start_again(config)
    return UserError(f"{checkpoints.folder}: {checkpoints.list(config.phase)[-1].name} is damaged, and no other "
                     f"checkpoint of phase {config.phase} can be read: {way_out}.")


def refuse_missing_checkpoint(config: PretrainingConfig, checkpoints: Checkpoints):
    """Refuses what `checkpoint_to_restore` would, as far as names of files tell.

    --check_only of phase 2 does not ask for a phase 1, which scripts/electra.sh may be about to train.
    """
    name = config.restore_checkpoint
    if name not in (None, "latest", "auto"):
        if find_checkpoint(name, check=False) is None:
            raise no_checkpoint(name)
    elif (name or config.phase2) and not checkpoints.list() and not (config.phase2 and config.check_only):
        checkpoint_to_restore(config, checkpoints)


def no_checkpoint(name: str) -> UserError:
    return UserError(f"checkpoint {name} does not exist: give a prefix such as .../checkpoints/ckpt-1000, or a folder "
                     "of checkpoints.")


def checkpoint_to_restore(config: PretrainingConfig, checkpoints: Checkpoints) -> Optional[str]:
    """The checkpoint to start from, or None for a fresh start.

    In order: the one that --restore_checkpoint names; with `latest` and `auto` the newest of this phase; in phase 2 the
    newest of phase 1, which must have finished.
    """
    if config.restore_checkpoint not in (None, "latest", "auto"):
        return config.restore_checkpoint
    newest = checkpoints.newest(config.phase) if config.restore_checkpoint else None
    if newest is None and config.restore_checkpoint and checkpoints.list(config.phase):
        raise none_readable(config, checkpoints)
    if newest is None and config.phase2:
        newest = checkpoints.newest(1)
        if newest is None and checkpoints.list(1):
            raise UserError(f"--phase2: no checkpoint of phase 1 in {config.checkpoint_dir} can be read: train phase 1 "
                            "again, with --overwrite or another --model_name.")
        if newest is None:
            raise UserError(f"--phase2: {config.checkpoint_dir} holds no checkpoint of phase 1: run phase 1 first, or "
                            "name the run with --model_name.")
    if newest is None and (config.restore_checkpoint == "latest" or config.eval_only):
        new_run = "" if config.eval_only else "omit the option (scripts/electra.sh: resume_training) for a new run, or "
        raise UserError(f"--restore_checkpoint={config.restore_checkpoint}: {config.checkpoint_dir} holds no "
                        f"checkpoint: {new_run}correct "
                        "--model_name.")
    return newest.prefix if newest else None


def restores(config: PretrainingConfig, checkpoints: Checkpoints) -> bool:
    """Whether a checkpoint sets all variables, or the run is refused."""
    if config.restore_checkpoint and checkpoints.list(config.phase):
        return True
    if config.load_weights:
        return False
    return config.phase2 or config.restore_checkpoint not in (None, "latest", "auto")


# --- The other commands ---


def check_squad(config: SquadConfig) -> None:
    """Checks the files and folders of a fine-tuning, evaluation or prediction. Raises: UserError."""
    check_folder(config.output_dir, "output_dir")
    trackers.check(config.tracker)
    check_weights(config.init_checkpoint or "")
    if config.eval_script and not os.path.isfile(config.eval_script):
        raise UserError(f"--eval_script={config.eval_script} does not exist: correct the path or omit the option.")
    for split in config.splits:
        path = config.data_file(split)
        try:
            files.open_regular(path, "rb").close()
        except OSError as error:
            reason = "does not exist" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
            raise UserError(f"{path} {reason}: name the SQuAD files with --data_dir, --train_file and "
                            "--predict_file.") from error


def check_inference(config: InferenceConfig) -> None:
    """Raises UserError: the text or the questions cannot be read, the answers cannot be written, or there are no such
    weights."""
    context = config.read_context() if config.has_context else None
    if config.input_file:
        check_folder(os.path.dirname(os.path.abspath(config.output_file)), "output_file")
        if os.path.isdir(config.output_file):
            raise UserError(f"--output_file={config.output_file} is a directory: name a file.")
        if os.path.exists(config.output_file) and not config.overwrite:
            raise UserError(f"--output_file={config.output_file} exists already: choose another, or replace it with "
                            "--overwrite.")
        if task_data.has_questions(config.input_file):
            if not sum(1 for _ in squad_utils.read_questions(config.input_file, context)):
                raise UserError(f"--input_file={config.input_file} contains no questions: name a file with some.")
        else:
            task_data.read_texts(config.input_file)
    if config.serve:
        check_port(config.host, config.port)
    check_weights(config.init_checkpoint)


def check_port(host: str, port: int):
    """Raises UserError: no server can be bound to it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended does not count
            probe.bind(address)
    except OSError as error:
        raise UserError(f"--host={host} --port={port} cannot be used ({error.strerror}): choose another --port, or 0 "
                        "for any free one.") from error


def check_export(config: ExportConfig) -> None:
    """Raises UserError: there is no such checkpoint, the folder cannot be created or replaced, or nothing can be
    uploaded."""
    check_folder(config.output_dir, "output_dir", replaced=True)
    if find_checkpoint(config.pretrained_checkpoint, check=False) is None:
        raise no_checkpoint(config.pretrained_checkpoint)
    check_export_packages(config)
    if config.push_to_hub:
        hub.check_upload(config.push_to_hub)


def check_export_packages(config: ExportConfig) -> None:
    """Raises UserError: a package is missing that --onnx needs. TensorFlow brings all that --tflite needs."""
    needed = ("tf2onnx", "onnx", *(["onnxruntime"] if config.int8 else [])) if config.onnx else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {' and '.join(missing)}, which this Python does not have: run python -m pip "
                        "install -r requirements-export.txt (Python 3.10 or newer), or choose --tflite or "
                        "--savedmodel.")


# --- Weights ---


def check_weights(name: str):
    """Raises UserError where there are no weights of this name here, and none can be on the Hugging Face hub."""
    if name and not (os.path.exists(name) or os.path.exists(name + ".index") or os.path.basename(name) == "best"):
        hub.check_name(name)


# --- Memory ---
# An estimate, within about a fifth of what was measured on a CPU (tests/test_preflight.py has the figures). For each
# layer and token, the backward pass keeps about 17 values per hidden unit and 2.5 per attention weight.

PROCESS_BYTES = 0.7e9  # TensorFlow and the traced graphs
BYTES_PER_PARAMETER = 24  # weights, gradients, accumulated gradients, two moments, one more while updating
ACTIVATION_BYTES, ATTENTION_BYTES = 68, 10


def encoder_parameters(encoder: ElectraConfig, embedding_size: int) -> int:
    """The number of parameters of the layers, and of the projection from the embeddings."""
    hidden, inner = encoder.hidden_size, encoder.intermediate_size
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
    projection = (embedding_size + 1) * hidden if embedding_size != hidden else 0
    return projection + encoder.num_hidden_layers * layer


def embedding_parameters(encoder: ElectraConfig) -> int:
    rows = encoder.padded_vocab_size + encoder.max_position_embeddings + encoder.type_vocab_size + 2
    return rows * encoder.embedding_size


def pretraining_parameters(config: PretrainingConfig, encoder: ElectraConfig) -> int:
    """The number of parameters of both networks and their heads."""
    total = embedding_parameters(encoder) + encoder_parameters(encoder, encoder.embedding_size)
    generator = generator_encoder(config, encoder)
    if config.objective == "electra":
        total += encoder.hidden_size * (encoder.hidden_size + 2) + 1
    if generator and generator != encoder:
        total += encoder_parameters(generator, generator.embedding_size)
        total += 0 if config.share_embeddings else embedding_parameters(generator)
    if generator:
        total += (generator.hidden_size + 3) * generator.embedding_size + generator.padded_vocab_size
    return total


def squad_parameters(encoder: ElectraConfig) -> int:
    """The number of parameters of a fine-tuned model, without its small head."""
    return embedding_parameters(encoder) + encoder_parameters(encoder, encoder.embedding_size)


def checkpoint_bytes(parameters: int) -> int:
    """The size of a checkpoint: the weights and two moments."""
    return 12 * parameters


def generator_encoder(config: PretrainingConfig, encoder: ElectraConfig):
    """The masked language model: the generator's encoder, the only one of objective `mlm`, or None."""
    if config.objective == "mlm" or config.generator == "tied":
        return encoder
    return encoder.generator(config.generator_fraction) if config.generator == "separate" else None


def activation_bytes(encoder: ElectraConfig, batch_size: int, length: int, recompute: bool = False) -> int:
    """What an encoder keeps of a micro-batch for the gradient: with `recompute`, one layer and the inputs of all."""
    per_token = ACTIVATION_BYTES * encoder.hidden_size + ATTENTION_BYTES * encoder.num_attention_heads * length
    kept = per_token + 4 * encoder.hidden_size * encoder.num_hidden_layers
    return batch_size * length * (kept if recompute else encoder.num_hidden_layers * per_token)


def kept_share(config: DeviceOptions) -> float:
    """How much of `activation_bytes` is kept. On cpu fused.py keeps fewer tensors, and those of bf16 in bfloat16."""
    in_bfloat16 = config.precision in ("bf16", "hmp")
    if config.device == "cpu" and config.xla != "false":
        return 0.45 if in_bfloat16 else 0.65
    return 0.85 if in_bfloat16 else 1.0


def pretraining_bytes(config: PretrainingConfig, encoder: ElectraConfig) -> float:
    """The memory of a worker in an update."""
    generator = generator_encoder(config, encoder)
    networks = ([encoder] if config.objective == "electra" else []) + ([generator] if generator else [])
    total = sum(activation_bytes(network, config.train_batch_size, config.max_seq_length, config.recompute)
                for network in networks)
    total *= kept_share(config)
    if generator:  # logits over the vocabulary at the masked positions, and their gradients
        total += 8 * config.train_batch_size * config.max_predictions_per_seq * encoder.padded_vocab_size
    return PROCESS_BYTES + BYTES_PER_PARAMETER * pretraining_parameters(config, encoder) + total


def squad_bytes(config: FineTuningOptions, encoder: ElectraConfig, training: bool) -> float:
    """The memory of a worker in an update of a fine-tuning, or for a batch of answers."""
    parameters = squad_parameters(encoder)
    if training:
        activations = activation_bytes(encoder, config.train_batch_size, config.max_seq_length, config.recompute)
        return PROCESS_BYTES + BYTES_PER_PARAMETER * parameters + kept_share(config) * activations
    one_layer = dataclasses.replace(encoder, num_hidden_layers=1)  # nothing is kept for a backward pass
    return PROCESS_BYTES + 4 * parameters + 0.4 * activation_bytes(one_layer, config.predict_batch_size,
                                                                  config.max_seq_length)


def check_fine_tuning_memory(config: FineTuningOptions, encoder: ElectraConfig):
    """See `check_memory`. Raises: UserError."""
    if config.do_train:
        check_memory(config, squad_bytes(config, encoder, training=True), "train_batch_size")
    if config.predicts:
        check_memory(config, squad_bytes(config, encoder, training=False), "predict_batch_size")


def check_memory(config: DeviceOptions, needed: float, flag: str):
    """Raises UserError: the workers on this machine need more memory than it has free. An accelerator has memory of
    its own; there TensorFlow refuses."""
    free = free_memory()
    needed *= launched("LOCAL_SIZE") or 1
    if config.device != "cpu" or config.force or free is None or needed <= free:
        return
    keep = " and raise --gradient_accumulation_steps" if flag == "train_batch_size" else ""
    raise UserError(f"--{flag}={getattr(config, flag)} needs about {needed / 1e9:,.1f} GB of memory, and "
                    f"{free / 1e9:,.1f} GB are free: lower it{keep}, or start nevertheless with --force.")


def check_export_memory(parameters: int):
    """Raises UserError: converting a network for another runtime needs more memory than is free. Beside the process
    that opened it, `small` took 0.9 GB and `base` 3.5 GB, in float32 or int8: about eight times the weights."""
    needed, free = 0.4e9 + 32 * parameters, free_memory()
    if free is not None and needed > free:
        raise UserError(f"--onnx and --tflite need about {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB "
                        "are free: end other programs, or copy the run's folder to a larger machine and export there.")


def free_memory() -> Optional[int]:
    """Bytes that this process can still use: of the machine, with swap, and of its cgroup. None: not known."""
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        sizes = _table("/proc/meminfo")
        free.append(1024 * (sizes["MemAvailable:"] + sizes["SwapFree:"]))
    for limit, used in (("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
                        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            with open(limit, encoding="ascii") as most, open(used, encoding="ascii") as now:
                unused = int(most.read()) - int(now.read())
            cached = _table(os.path.join(os.path.dirname(limit), "memory.stat"))  # of files: given up when needed
            free.append(unused + sum(cached.get(f"{kind}_file", 0) for kind in ("active", "inactive")))
    return min(free) if free else None


def _table(path: str) -> Dict[str, int]:
    """A file of the kernel whose lines are a name and a number."""
    with open(path, encoding="ascii") as file:
        return {words[0]: int(words[1]) for words in map(str.split, file) if len(words) > 1}
