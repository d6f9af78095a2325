"""Preflight checks: what can be refused before TensorFlow is imported, which takes seconds.

The options have been checked (configuration.py). Here follow the files that they name, the run's folder, free disk and
memory. `--check_only` ends after these checks, and scripts/electra.sh makes them for both phases before the first one
starts. What needs the network's variables or the content of a checkpoint is checked by the command itself, before its
first update.
"""
from __future__ import annotations

import contextlib
import os

import hub
import pretrain_utils
from checkpoints import Checkpoints, find_checkpoint
from configuration import (
    DeviceOptions,
    ElectraConfig,
    ExportConfig,
    InferenceConfig,
    PretrainingConfig,
    SquadConfig,
    UserError,
    check_folder,
    launched,
)

# --- Pre-training ---


def check_pretraining(config: PretrainingConfig) -> bool:
    """Checks one phase. Writes nothing but indices of shards that have none.

    Returns: whether the command was only to check. Raises: UserError.
    """
    if not config.eval_only:
        check_folder(config.model_dir, "results_dir")
        check_folder(config.logs, "log_dir" if config.log_dir else "results_dir")
    for name in (config.weights_dir or "").split(","):
        check_weights(name.strip())
    shards = pretrain_utils.find_shards(config.pretrain_tfrecords, "pretrain_tfrecords") if not config.eval_only else []
    held_out = config.eval_tfrecords and pretrain_utils.find_shards(config.eval_tfrecords, "eval_tfrecords")
    tokenizer = pretrain_utils.open_tokenizer(config, shards or held_out)
    if config.eval_only:  # the checkpoint says what model it is
        return config.check_only
    encoder = config.encoder_config(tokenizer.vocab_size)
    data = pretrain_utils.open_data(shards, config, tokenizer, remember=False)
    if data.order.records < config.train_batch_size:
        raise UserError(f"--pretrain_tfrecords hold {data.order.records} records, fewer than one micro-batch of "
                        f"--train_batch_size={config.train_batch_size}: lower it, or build a larger dataset.")
    if held_out:
        pretrain_utils.open_data(held_out, config, tokenizer, remember=False)
    check_memory(config, pretraining_bytes(config, encoder), config.train_batch_size)
    checkpoints = Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max, keep_every=config.keep_every_steps)
    if not config.skip_checkpoint and not checkpoints.list(config.phase):  # else how many are to come is known later
        checkpoints.check_room(12 * pretraining_parameters(config, encoder), config.phase,
                               num_train_steps=config.num_train_steps, keep_best=bool(held_out))
    return config.check_only


# --- The other commands ---


def check_squad(config: SquadConfig) -> None:
    """Checks the files and folders of a fine-tuning, evaluation or prediction. Raises: UserError."""
    check_folder(config.output_dir, "output_dir")
    check_weights(config.init_checkpoint or "")
    if config.eval_script and not os.path.exists(config.eval_script):
        raise UserError(f"--eval_script={config.eval_script} does not exist: correct the path or omit the option.")
    for split in (["train"] if config.do_train else []) + (["dev"] if config.predicts else []):
        if not os.path.exists(config.data_file(split)):
            raise UserError(f"{config.data_file(split)} does not exist: name the SQuAD files with --data_dir, "
                            "--train_file and --predict_file.")


def check_inference(config: InferenceConfig) -> None:
    """Raises UserError: the text cannot be read, or there are no such weights."""
    config.read_context()
    check_weights(config.init_checkpoint)


def check_export(config: ExportConfig) -> None:
    """Raises UserError: there is no such checkpoint."""
    if find_checkpoint(config.pretrained_checkpoint, check=False) is None:
        raise UserError(f"checkpoint {config.pretrained_checkpoint} does not exist: give a prefix such as "
                        ".../checkpoints/ckpt-1000, or a folder of checkpoints.")


# --- Weights ---


def check_weights(name: str):
    """Raises UserError where there are no weights of this name here, and none can be on the Hugging Face hub."""
    prefix = name[:-len(".index")] if name.endswith(".index") else name
    if name and not (os.path.exists(name) or os.path.exists(prefix + ".index") or os.path.basename(name) == "best"):
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


def generator_encoder(config: PretrainingConfig, encoder: ElectraConfig):
    """The masked language model: the generator's encoder, the only one of objective `mlm`, or None."""
    if config.objective == "mlm" or config.generator == "tied":
        return encoder
    return encoder.generator(config.generator_fraction) if config.generator == "separate" else None


def activation_bytes(encoder: ElectraConfig, batch_size: int, length: int) -> int:
    """What the backward pass of an encoder keeps of a micro-batch."""
    per_token = ACTIVATION_BYTES * encoder.hidden_size + ATTENTION_BYTES * encoder.num_attention_heads * length
    return batch_size * length * encoder.num_hidden_layers * per_token


def pretraining_bytes(config: PretrainingConfig, encoder: ElectraConfig) -> float:
    """The memory of a worker in an update."""
    generator = generator_encoder(config, encoder)
    networks = ([encoder] if config.objective == "electra" else []) + ([generator] if generator else [])
    total = sum(activation_bytes(network, config.train_batch_size, config.max_seq_length) for network in networks)
    if generator:  # logits over the vocabulary at the masked positions, and their gradients
        total += 8 * config.train_batch_size * config.max_predictions_per_seq * encoder.padded_vocab_size
    total *= 0.85 if config.precision in ("bf16", "hmp") else 1
    return PROCESS_BYTES + BYTES_PER_PARAMETER * pretraining_parameters(config, encoder) + total


def check_memory(config: DeviceOptions, needed: float, batch_size: int, flag: str = "train_batch_size"):
    """Raises UserError: the workers on this machine need more memory than it has free. An accelerator has memory of
    its own; there TensorFlow refuses."""
    free = free_memory()
    needed *= launched("LOCAL_SIZE") or 1
    if config.device != "cpu" or config.force or free is None or needed <= free:
        return
    raise UserError(f"an update with --{flag}={batch_size} needs about {needed / 1e9:,.1f} GB of memory, and "
                    f"{free / 1e9:,.1f} GB are free: lower it (more --gradient_accumulation_steps keep the global "
                    "batch), or start nevertheless with --force.")


def free_memory():
    """Bytes that this process can still use: of the machine, with swap, and of its cgroup. None: not known."""
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in file if line.endswith("kB\n")}
        free.append(sizes["MemAvailable"] + sizes["SwapFree"])
    for limit, used in (("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
                        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            with open(limit, encoding="ascii") as most, open(used, encoding="ascii") as now:
                free.append(int(most.read()) - int(now.read()))
    return min(free) if free else None
