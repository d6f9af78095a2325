"""Configuration: model sizes, options of the commands, errors and exit statuses.

`ElectraConfig` is one Transformer encoder, with the field names of Hugging Face's `config.json`. `PretrainingConfig`,
`SquadConfig`, `InferenceConfig` and `ExportConfig` are the options of the commands that use TensorFlow, and
`ReaderConfig` those of reader.Reader: every field is a flag, whose name, default, bounds and help text are written
once, here. All are frozen dataclasses, validated when created.

Sizes follow Clark et al. 2020 (arXiv:2003.10555), table 6 (small, base, large); `tiny` is for tests and laptops. The
exceptions set a command's exit status: `UserError` 2, `RunFailed` 1, `Interrupted` 75 (EX_TEMPFAIL).

Only the standard library is imported: scripts/recipe.py reads the options before any environment exists. Command lines
are parsed in command_line.py.
"""
from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import re
import reprlib
import sys
import typing

import files


class UserError(Exception):
    """An error the user can fix. Its text is one sentence that names the flag, file or key and the way out."""

    exit_status = 2


class RunFailed(Exception):
    """The run failed although its options and input were valid. Its text says what happened and what is kept."""

    exit_status = 1


class Interrupted(Exception):
    """The run was stopped on request and can be resumed. Its text says how."""

    exit_status = 75


def in_short(error: BaseException) -> str:
    """The reason in an exception, in one line without a full stop: TensorFlow's texts go on for pages."""
    text = getattr(error, "strerror", None) or str(getattr(error, "message", error))
    first = (text.splitlines() or [type(error).__name__])[0]
    return re.sub(r"\{\{.*?\}\} ", "", first).rstrip(".")  # without TensorFlow's name of the operation


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring = 2, 60
in_brief = _brief.repr  # of a value from a file, for a message: however long or deep it is


def on_one_line(text: str) -> str:
    """A message with values of users: escapes in place of line breaks and control characters, long words shortened."""
    escaped = re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], text)
    return re.sub(r"\S{400,}", lambda found: f"{found[0][:100]}...{found[0][-30:]}", escaped)


# --- The encoder ---

SIZES = {
    "tiny": dict(num_hidden_layers=2, hidden_size=128, num_attention_heads=2, intermediate_size=512, embedding_size=64),
    "small": dict(num_hidden_layers=12, hidden_size=256, num_attention_heads=4, intermediate_size=1024,
                  embedding_size=128),
    "base": dict(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072,
                 embedding_size=768),
    "large": dict(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096,
                  embedding_size=1024),
}
# The generator's width as a fraction of the discriminator's (table 6: 1/4, 1/3, 1/4).
GENERATOR_FRACTIONS = {"tiny": 1 / 2, "small": 1 / 4, "base": 1 / 3, "large": 1 / 4}


# Largest sizes: beyond all published models, and small enough that no product of two overflows.
LARGEST_VOCABULARY = 2**21 - 1  # the dataset builder writes token ids of up to 21 bits
LARGEST = dict(vocab_size=LARGEST_VOCABULARY, hidden_size=2**16, embedding_size=2**16, num_hidden_layers=2**10,
               num_attention_heads=2**10, intermediate_size=2**18, max_position_embeddings=2**20, type_vocab_size=2**10)


# Keys of a `config.json` that would make it another network, and the values that this project implements.
IMPLEMENTED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
               "pruned_heads": {}}


@dataclasses.dataclass(frozen=True)
class ElectraConfig:
    """One encoder. Field names are those of Hugging Face's `config.json` for `model_type: electra`."""

    vocab_size: int = 30522
    embedding_size: int = 768
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise UserError(f"{name}={in_brief(value)} must be an integer from 1 to {most}.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise UserError(f"{name}={in_brief(value)} must be at least 0 and below 1.")
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise UserError(f"{name}={in_brief(value)} must be a number above 0, of at most 1.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"num_attention_heads={self.num_attention_heads} does not divide "
                            f"hidden_size={self.hidden_size}: choose a number of heads that does.")
        if self.hidden_act != "gelu":
            raise UserError(f"hidden_act={in_brief(self.hidden_act)} is not supported: ELECTRA uses 'gelu'.")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word embedding: `vocab_size` rounded up to a multiple of 8, for the matrix units."""
        return round_up(self.vocab_size, 8)

    @classmethod
    def of_size(cls, size: str, **overrides) -> ElectraConfig:
        """The discriminator of a named size, with any field replaced.

        Raises: UserError: an unknown size or field.
        """
        if size not in SIZES:
            raise UserError(f"model_size={size!r} is unknown: choose one of {', '.join(SIZES)}.")
        refuse_unknown_keys(overrides, cls, "the model configuration")
        return cls(**{**SIZES[size], **overrides})

    @classmethod
    def from_json_file(cls, path: str) -> ElectraConfig:
        """Reads a Hugging Face `config.json`; keys that do not describe the encoder are ignored.

        Raises: UserError: not a readable JSON object, another `model_type`, or an unsupported value.
        """
        content = read_json_object(path)
        model_type = content.get("model_type", "electra")  # Google's and the oldest Hugging Face files have none
        if model_type != "electra":
            raise UserError(f"{path}: model_type is {in_brief(model_type)}, not 'electra': name an ELECTRA model "
                            "folder.")
        return cls.from_content(content, path)

    @classmethod
    def from_content(cls, content: dict, where: str) -> ElectraConfig:
        """The encoder that a `config.json` describes; keys that do not describe it are ignored.

        Raises: UserError naming `where` the content comes from, also where it describes what is not implemented.
        """
        for key, implemented in IMPLEMENTED.items():
            if content.get(key) not in (None, implemented):
                raise UserError(f"{where}: {key} is {in_brief(content[key])}, which is not implemented: use a model "
                                f"with {json.dumps(implemented)}.")
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in known})
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def to_dict(self) -> dict:
        """The content of a Hugging Face `config.json` for this encoder."""
        return {"model_type": "electra", **dataclasses.asdict(self)}

    def generator(self, fraction: float) -> ElectraConfig:
        """The generator beside this discriminator (ELECTRA, section 3.2 and table 6).

        Width is `fraction` of `hidden_size` rounded up to a multiple of 64, with heads of 64 and a feed-forward layer
        of 4 times the width; embeddings are shared, so `embedding_size` stays.
        """
        # 0.33333334 of 768 is 256.000005: the small slack keeps a rounded third from growing by 64.
        width = round_up(math.ceil(fraction * self.hidden_size - 1e-3), 64)
        return dataclasses.replace(self, hidden_size=width, num_attention_heads=max(1, width // 64),
                                   intermediate_size=4 * width)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def refuse_unknown_keys(given, config_class, where: str):
    """Raises UserError naming the first key of `given` that `config_class` does not have."""
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}."
            raise UserError(f"unknown key {key!r} in {where}: {hint}")


VOCABULARY_FILES = ("vocab.txt", "tokenizer.json", "spiece.model")  # in order of preference


def find_vocabulary(folder: str) -> typing.Optional[str]:
    """The vocabulary file in a folder (see tokenization.py), or None."""
    paths = [os.path.join(folder, name) for name in VOCABULARY_FILES]
    return next((path for path in paths if os.path.exists(path)), None)


def read_json_object(path: str) -> dict:
    """Reads a JSON object, see `parse_json_object`. Raises: UserError naming the file."""
    try:
        with files.open_regular(path, encoding="utf-8-sig") as file:  # Windows may put a byte order mark in front
            text = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): fix or replace it.") from error
    return parse_json_object(text, path)


def read_record(path: str, way_out: str, **kinds) -> dict:
    """Reads a JSON object that has these keys, each of a type or one of several. Raises: UserError naming the key."""
    content = read_json_object(path)
    for key, kind in kinds.items():
        if type(content.get(key)) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise UserError(f"{path}: {key} is {in_brief(content.get(key))}, the file is damaged: {way_out}.")
    return content


def parse_json_object(text: str, where: str) -> dict:
    """Parses a JSON object: all JSON that this project reads from files goes through here.

    Stricter than Python's json, by which NaN and Infinity are numbers and the last of two equal keys wins.

    Raises: UserError naming `where` the text comes from.
    """
    try:
        content = json.loads(text, parse_int=_json_integer, parse_float=_json_float, parse_constant=_json_constant,
                             object_pairs_hook=_json_object)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}): fix or replace it.") from error
    except RecursionError as error:
        raise UserError(f"{where} is not usable JSON (nested too deeply): fix or replace it.") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} is not a JSON object: fix or replace it.")
    return content


def _json_integer(text: str) -> int:
    if len(text) > 300:  # beyond float64, and from 4300 digits on Python refuses
        raise ValueError(f"it contains an integer of {len(text)} digits")
    return int(text)


def _json_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _json_constant(text[:20])


def _json_constant(text: str):
    raise ValueError(f"it contains {text}, which is not a finite number")


def _json_object(pairs) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it contains the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


# --- Options: dataclass fields that are also flags ---

def option(default, meaning, *, choices=None, minimum=None, maximum=None):
    """A dataclass field with its help text, choices and bounds. `minimum` and `maximum` are inclusive."""
    return dataclasses.field(default=default, metadata=dict(meaning=meaning, choices=choices, minimum=minimum,
                                                            maximum=maximum))


def help_of(field: dataclasses.Field) -> str:
    """The help text of a field made by `option`, with its choices where the text does not name them."""
    meaning, choices = field.metadata["meaning"], field.metadata["choices"] or ()
    return meaning if all(choice in meaning for choice in choices) else f"{meaning}: {', '.join(choices)}"


LARGEST_OPTION = {bool: 1, int: 2**31 - 1, float: 1e38}  # what int32 and float32 hold


def check_options(config):
    """Checks every field created by `option` against its choices and bounds. Raises: UserError naming the flag."""
    for field in dataclasses.fields(config):
        value, rule = getattr(config, field.name), field.metadata
        if value is None or not rule:
            continue
        if value == "":
            raise UserError(f"--{field.name}= is empty: give a value or omit the option.")
        if rule["choices"] and value not in rule["choices"]:
            raise UserError(f"--{field.name}={value} is unknown: choose one of {', '.join(rule['choices'])}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{field.name}={value} is not a finite number: give a finite one.")
        if isinstance(value, (int, float)) and abs(value) > LARGEST_OPTION[type(value)]:
            size = "large" if value > 0 else "small"
            raise UserError(f"--{field.name}={in_brief(value)} is too {size}: the limit is "
                            f"{LARGEST_OPTION[type(value)]:.10g}.")
        if rule["minimum"] is not None and value < rule["minimum"]:
            raise UserError(f"--{field.name}={value} is too small: it must be at least {rule['minimum']}.")
        if rule["maximum"] is not None and value > rule["maximum"]:
            raise UserError(f"--{field.name}={value} is too large: it must be at most {rule['maximum']}.")


def profiled(config) -> typing.Optional[typing.Tuple[int, int]]:
    """The first and last update of --profile_steps. Raises: UserError."""
    if config.profile_steps is None:
        return None
    found = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", config.profile_steps)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--profile_steps={config.profile_steps} must be the first and the last update of the profile, "
                        "such as 10:15.")
    return int(found[1]), int(found[2])


def user_cache() -> str:
    """This project's folder in the user's cache folder (XDG base directory specification: absolute paths only)."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(named if os.path.isabs(named) else os.path.expanduser("~/.cache"), "electra")


def require_options(config, *names: str):
    """Raises UserError naming the first of `names` that was not given."""
    for name in names:
        if not getattr(config, name):
            raise UserError(f"--{name} is missing: give it (--help lists every option).")


def kinds_of(config_class) -> typing.Dict[str, type]:
    """The type of every field by name: bool, int, float or str, also where None is allowed."""
    hints = typing.get_type_hints(config_class)
    return {name: next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
            for name, hint in hints.items()}


def from_words(config_class, words: typing.Dict[str, str]):
    """Makes `config_class` from texts by field name, without absl.

    Raises: UserError: an unknown name, a text that is not of the field's type, or what `config_class` refuses.
    """
    refuse_unknown_keys(words, config_class, "the options")
    kinds, values = kinds_of(config_class), {}
    names = {int: "an integer", float: "a number", bool: "true or false"}
    for name, word in words.items():
        try:
            values[name] = {"true": True, "false": False}[word] if kinds[name] is bool else kinds[name](word)
        except (KeyError, ValueError) as error:
            raise UserError(f"--{name}={word} must be {names[kinds[name]]}.") from error
    return config_class(**values)


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """The device of a training command, its precision, and its workers."""

    device: str = option("cpu", "device to run on", choices=("cpu", "gpu", "hpu"))
    precision: str = option("fp32", "precision: fp32, bf16 (hmp is an alias), or tf32 on gpu",
                            choices=("fp32", "bf16", "hmp", "tf32"))
    xla: str = option("auto", "compile with XLA: all on gpu, elementwise operations on cpu (auto is true there); "
                      "ignored on hpu", choices=("auto", "true", "false"))
    bf16_config_path: typing.Optional[str] = option(
        None, "hpu with bf16: JSON file that lists the operations to convert (default: data/bf16_electra.json)")
    recompute: bool = option(False, "run the forward pass of each layer again in the backward pass: less memory, more "
                             "time, the same results up to rounding")
    num_workers: int = option(
        0, "number of workers the launcher must have started, one device each (0: any number)", minimum=0)
    gradient_compression: str = option(
        "none", "type to which gradients are cast for the all-reduce; bf16 where Horovod supports it",
        choices=("none", "fp16", "bf16"))
    force: bool = option(False, "start although the estimated memory of an update exceeds the free memory")


# Switches of Habana's run_pretraining.py: the option that each one sets, and its value.
OLD_NAMES = {"use_hpu": ("device", "hpu"), "hmp": ("precision", "bf16"), "bfloat16": ("precision", "bf16"),
             "fp16_compression": ("gradient_compression", "fp16")}


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(DeviceOptions):
    """One phase of a pre-training run. Lengths are in tokens; a step is one optimizer update.

    The global batch of an update is train_batch_size x gradient_accumulation_steps x workers.
    """

    # What is trained
    model_size: str = option("base", "size of the model", choices=tuple(SIZES))
    model_name: typing.Optional[str] = option(
        None, "name of the run's folder under <results_dir>/models (default: the model size)")
    model_config: typing.Optional[str] = option(
        None, "encoder settings that replace those of the model size: a JSON file, or JSON such as "
        "{\"hidden_dropout_prob\": 0}")
    generator_hidden_size: typing.Optional[float] = option(
        None, "generator width as a fraction of the discriminator's (default: by size; tiny 1/2, base 1/3, others 1/4)",
        minimum=0.001, maximum=1.0)
    load_weights: bool = option(
        False, "start at step 0 with the weights named by --weights_dir")
    weights_dir: typing.Optional[str] = option(
        None, "with --load_weights: a checkpoint (of this project or google-research; a prefix or its folder), a model "
        "folder, or a model on the Hugging Face hub; a discriminator and a generator separated by a comma, such as "
        "google/electra-small-discriminator,google/electra-small-generator")
    # Data
    pretrain_tfrecords: typing.Optional[str] = option(
        None, "training shards: a folder, a glob, or a comma-separated list of either; with a weight after each, such "
        "as wiki:0.7,books:0.3, a mixture of datasets in these proportions")
    eval_tfrecords: typing.Optional[str] = option(
        None, "held-out shards, in the same forms; evaluated every --eval_freq updates and at the end")
    eval_freq: typing.Optional[int] = option(
        None, "updates between two evaluations (default: --save_checkpoints_steps)", minimum=1)
    num_eval_steps: int = option(
        100, "maximum number of held-out batches of --train_batch_size per evaluation; always the same ones", minimum=1)
    eval_only: bool = option(
        False, "only evaluate the checkpoint named by --restore_checkpoint on --eval_tfrecords, and print the metrics")
    check_only: bool = option(False, "only validate the options, the data and the vocabulary")
    skip_bad_records: int = option(
        0, "number of damaged records that may be skipped, in the training shards and in the held-out ones; the next "
        "intact record of the same shard takes the place of each", minimum=0)
    vocab_file: typing.Optional[str] = option(
        None, "vocabulary: a vocab.txt, a SentencePiece X.model or a tokenizer.json (default: the one beside the "
        "training shards)")
    max_seq_length: int = option(128, "sequence length of the records, in tokens", minimum=8)
    mask_prob: float = option(0.15, "fraction of the real tokens that is masked", minimum=0.001, maximum=0.9)
    # Optimization
    num_train_steps: int = option(10000, "number of optimizer updates", minimum=1)
    num_warmup_steps: int = option(2000, "number of updates of linear warm-up", minimum=0)
    train_batch_size: int = option(16, "sequences per micro-batch and worker", minimum=1)
    gradient_accumulation_steps: int = option(1, "micro-batches accumulated (averaged) per update", minimum=1)
    optimizer: str = option("lamb", "optimizer to train with", choices=("lamb", "adam", "adamw"))
    learning_rate: float = option(6e-3, "peak learning rate, reached at the end of warm-up", minimum=0.0)
    end_lr: float = option(0.0, "learning rate at the end of the decay", minimum=0.0)
    lr_decay_power: float = option(0.5, "power of the polynomial decay (1 is linear)", minimum=0.0)
    opt_beta_1: float = option(0.878, "decay rate of the first moment", minimum=0.0, maximum=0.999999)
    opt_beta_2: float = option(0.974, "decay rate of the second moment", minimum=0.0, maximum=0.999999)
    weight_decay_rate: float = option(
        0.01, "decoupled weight decay, of everything except biases and layer norms", minimum=0.0)
    skip_bad_updates: int = option(
        0, "number of updates with a non-finite loss or gradient that are skipped, in the whole phase; after them such "
        "an update ends the run", minimum=0)
    skip_adaptive: bool = option(True, "LAMB: trust ratio 1 for biases and layer norms")
    disc_weight: float = option(50.0, "weight of the discriminator's loss", minimum=0.0)
    objective: str = option(
        "electra", "electra (replaced-token detection), or mlm (the full-size encoder as a masked language model)",
        choices=("electra", "mlm"))
    generator: str = option(
        "separate", "separate (a smaller network), tied (the discriminator's own encoder), or uniform (random tokens)",
        choices=("separate", "tied", "uniform"))
    share_embeddings: bool = option(True, "generator and discriminator share their embeddings")
    disallow_correct: bool = option(False, "the generator never samples the original token")
    temperature: float = option(1.0, "sampling temperature of the generator", minimum=0.01)
    phase2: bool = option(False, "second phase: start from the phase-1 checkpoint of the same run")
    seed: int = option(
        42, "seed of weight initialization, data order, masks, samples and dropout", minimum=0, maximum=2**31 - 1)
    # Output
    results_dir: str = option("results", "folder for all results")
    log_dir: typing.Optional[str] = option(None, "folder for logs (default: <results_dir>/models/<model_name>/logs)")
    json_summary: typing.Optional[str] = option(
        None, "file for the metrics, one JSON line per logged step (default: <log_dir>/pretraining_phase<1|2>.jsonl)")
    log_freq: typing.Optional[int] = option(
        None, "updates between two logged lines (default: 1 in phases of up to 100 updates, else 10)", minimum=1)
    save_checkpoints_steps: int = option(1000, "updates between two checkpoints", minimum=1)
    save_checkpoints_minutes: float = option(
        0.0, "minutes between two checkpoints, in addition to --save_checkpoints_steps (0: off)", minimum=0.0)
    keep_checkpoint_max: int = option(
        5, "number of newest checkpoints kept, of each phase; the one with the lowest held-out loss is kept too",
        minimum=1)
    keep_every_steps: int = option(
        0, "checkpoints at multiples of this number of updates are never deleted (0: none)", minimum=0)
    profile_steps: typing.Optional[str] = option(
        None, "first and last update to profile, such as 10:15; the profile is written to the TensorBoard logs")
    skip_checkpoint: bool = option(False, "write no checkpoints (for timing)")
    restore_checkpoint: typing.Optional[str] = option(
        None, "resume from 'latest', or from a checkpoint such as results/models/base/checkpoints/ckpt-1000; newer "
        "checkpoints of its phase are then moved to a subfolder; 'auto' resumes from the newest checkpoint if there is "
        "one, and starts a new run if not")
    overwrite: bool = option(
        False, "start from scratch; the checkpoints of an earlier run in the run's folder are deleted after the first "
        "save")

    def __post_init__(self):
        check_options(self)
        if os.path.basename(self.run_name) != self.run_name or self.run_name in (".", "..") or len(
                os.fsencode(self.run_name)) > 200:
            raise UserError(f"--model_name={self.run_name} must be the name of one folder, without / and of at most "
                            "200 bytes: choose another, and the place with --results_dir.")
        if self.num_warmup_steps >= self.num_train_steps:
            raise UserError(f"--num_warmup_steps={self.num_warmup_steps} must be below "
                            f"--num_train_steps={self.num_train_steps}: warm up for fewer updates or train for more.")
        if self.generator != "separate" and not self.share_embeddings:
            raise UserError(f"--noshare_embeddings needs a generator with its own embeddings, not "
                            f"--generator={self.generator}: give --generator=separate, or omit --noshare_embeddings.")
        profiled(self)
        if self.load_weights != bool(self.weights_dir):
            missing = "--weights_dir" if self.load_weights else "--load_weights"
            raise UserError(f"--load_weights and --weights_dir go together: {missing} is missing.")
        if self.load_weights and self.restore_checkpoint not in (None, "auto"):
            raise UserError("--load_weights starts at step 0 and --restore_checkpoint resumes: give one of them.")
        if self.overwrite and self.restore_checkpoint:
            raise UserError("--overwrite deletes what --restore_checkpoint would resume from: give one of them.")
        if self.eval_only and not (self.restore_checkpoint and self.eval_tfrecords):
            missing = "--eval_tfrecords" if self.restore_checkpoint else "--restore_checkpoint"
            raise UserError(f"--eval_only needs a checkpoint and held-out shards: {missing} is missing.")
        if not self.eval_only and not self.pretrain_tfrecords:
            raise UserError("--pretrain_tfrecords is missing: name a folder of shards "
                            "(build_pretraining_dataset.py makes one).")

    @classmethod
    def from_saved(cls, settings: dict) -> PretrainingConfig:
        """The settings saved in a checkpoint; those that this version does not know are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in known})

    def with_model_of(self, saved: PretrainingConfig) -> PretrainingConfig:
        """This configuration with the model size, generator and objective of a checkpoint's.

        Raises: UserError: an option given here contradicts the checkpoint's.
        """
        taken = {}
        for name in ("model_size", "model_config", "generator_hidden_size", "objective", "generator",
                     "share_embeddings", "mask_prob", "disallow_correct", "temperature"):
            ours, taken[name] = getattr(self, name), getattr(saved, name)
            if ours not in (taken[name], type(self).__dataclass_fields__[name].default):
                raise UserError(f"--{name}={ours}, but the checkpoint was trained with {taken[name]}: omit the option.")
        return dataclasses.replace(self, model_name=self.run_name, **taken)

    @property
    def run_name(self) -> str:
        return self.model_name or self.model_size

    @property
    def model_dir(self) -> str:
        return os.path.join(self.results_dir, "models", self.run_name)

    @property
    def checkpoint_dir(self) -> str:
        return os.path.join(self.model_dir, "checkpoints")

    @property
    def logs(self) -> str:
        return self.log_dir or os.path.join(self.model_dir, "logs")

    def sole_user(self, workers=None):
        """See `sole_user`: the lock of the run."""
        metrics = os.path.abspath(self.json_summary or self.logs)
        return sole_user(self.model_dir, "choose another --model_name", workers,
                         [self.checkpoint_dir, self.logs, os.path.dirname(metrics)])

    @property
    def phase(self) -> int:
        return 2 if self.phase2 else 1

    @property
    def updates_per_log(self) -> int:
        return self.log_freq or (1 if self.num_train_steps <= 100 else 10)

    @property
    def updates_per_eval(self) -> int:
        return self.eval_freq or self.save_checkpoints_steps

    @property
    def max_predictions_per_seq(self) -> int:
        """Maximum number of masked positions in a sequence, N in the code: 19 at length 128, 79 at 512."""
        return max(1, int((self.mask_prob + 0.005) * self.max_seq_length))

    def encoder_config(self, vocab_size: int) -> ElectraConfig:
        """The discriminator's encoder: the model size, then --model_config, then the size of the vocabulary."""
        config = ElectraConfig.of_size(self.model_size, vocab_size=vocab_size)
        if self.model_config:
            inline = self.model_config.lstrip().startswith("{")
            try:
                overrides = parse_json_object(self.model_config, "the value") if inline else read_json_object(
                    self.model_config)
                overrides.pop("model_type", None)
                config = ElectraConfig.of_size(self.model_size, **{**overrides, "vocab_size": vocab_size})
            except UserError as error:
                raise UserError(f"--model_config: {error}") from error
        if self.max_seq_length > config.max_position_embeddings:
            raise UserError(f"--max_seq_length={self.max_seq_length} exceeds the model's "
                            f"max_position_embeddings={config.max_position_embeddings}: use shorter records.")
        return config

    @property
    def generator_fraction(self) -> float:
        return self.generator_hidden_size or GENERATOR_FRACTIONS[self.model_size]


# Peak learning rates of fine-tuning by global batch, those of NVIDIA's ELECTRA recipe for SQuAD.
FINE_TUNING_RATES = ((16, 1e-4), (32, 2e-4), (128, 4e-4))


def fine_tuning_rate(global_batch: int) -> float:
    """The learning rate for a global batch: FINE_TUNING_RATES, between two of them along a straight line in log-log
    coordinates (square-root scaling above 32), and constant outside. Rounded to three digits, as it is logged."""
    batches, rates = zip(*FINE_TUNING_RATES)
    if global_batch <= batches[0]:
        return rates[0]
    for (low, rate), (high, next_rate) in zip(FINE_TUNING_RATES, FINE_TUNING_RATES[1:]):
        if global_batch <= high:
            share = math.log(global_batch / low) / math.log(high / low)
            return float(f"{rate * (next_rate / rate) ** share:.2e}")
    return rates[-1]


def window_lengths(max_seq_length: int, doc_stride: typing.Optional[int] = None,
                   max_query_length: typing.Optional[int] = None) -> typing.Tuple[int, int]:
    """doc_stride and max_query_length for windows of `max_seq_length` tokens; where not given, 128 and 64, or what fits
    a shorter window.

    Raises: UserError: a stride that skips tokens even if the question is empty.
    """
    query_length = max_query_length or min(64, max_seq_length // 4)
    room = max_seq_length - 3  # [CLS] and two [SEP]
    if doc_stride and doc_stride > room:
        raise UserError(f"--doc_stride={doc_stride} skips tokens: a window of --max_seq_length={max_seq_length} holds "
                        f"at most {room} tokens of context: lower --doc_stride, or omit it.")
    return doc_stride or min(128, max_seq_length // 2 - 1, max(room - query_length, max_seq_length // 4)), query_length


@dataclasses.dataclass(frozen=True)
class SquadConfig(DeviceOptions):
    """A fine-tuning, evaluation or prediction on SQuAD. Lengths are in tokens; a step is one optimizer update.

    The global batch of an update is train_batch_size x gradient_accumulation_steps x workers.
    """

    # What is done
    do_train: bool = option(False, "fine-tune on --train_file")
    do_predict: bool = option(False, "predict answers to the questions of --predict_file")
    do_eval: bool = option(False, "score the predictions (implies --do_predict)")
    check_only: bool = option(False, "only validate the options, the data, the weights and the vocabulary")
    # Model
    electra_model: str = option(
        "google/electra-base-discriminator", "weights to start from: a model on the Hugging Face hub, or its folder")
    init_checkpoint: typing.Optional[str] = option(
        None, "weights to start from in place of --electra_model: a checkpoint of this project (a prefix, or its "
        "folder), a model folder, a TF1 checkpoint, or a model on the Hugging Face hub; evaluation and prediction need "
        "one with a question-answering head (their default: the newest checkpoint in --output_dir)")
    vocab_file: typing.Optional[str] = option(
        None, "vocabulary: a vocab.txt, a SentencePiece X.model or a tokenizer.json (default: the one beside the "
        "weights)")
    do_lower_case: typing.Optional[str] = option(
        None, "lower-case the text (default: as in the tokenizer of the weights)", choices=("true", "false"))
    joint_head: bool = option(
        True, "joint head (the end depends on the start, plus answerability); false: independent start and end")
    beam_size: typing.Optional[int] = option(
        None, "joint head: beam size of the answer search, for starts and for the ends of each (default: 5 in "
        "training, else that of the trained model)", minimum=1)
    answerability_from_gold: bool = option(
        False, "joint head, 2.0: train answerability on the gold start, as NVIDIA's recipe does")
    # Data
    data_dir: typing.Optional[str] = option(None, "folder of the SQuAD files")
    train_file: typing.Optional[str] = option(None, "default: <data_dir>/train-v1.1.json or train-v2.0.json")
    predict_file: typing.Optional[str] = option(None, "default: <data_dir>/dev-v1.1.json or dev-v2.0.json")
    version_2_with_negative: bool = option(False, "SQuAD 2.0: some questions have no answer")
    strict_answers: bool = option(
        False, "refuse training data in which an answer is not at its answer_start (default: the answer is found by "
        "its text where that occurs once, else the question is skipped, with a warning)")
    max_seq_length: int = option(384, "maximum length of question and context window together, in tokens", minimum=8)
    doc_stride: typing.Optional[int] = option(
        None, "stride between the windows of a long context, in tokens (default: 128, or what fits a max_seq_length "
        "below 258)", minimum=1)
    max_query_length: typing.Optional[int] = option(
        None, "maximum length of a question, in tokens; longer ones are truncated (default: 64, or a quarter of a "
        "max_seq_length below 256)", minimum=1)
    length_buckets: str = option(
        "128,192,256,384", "batches are padded to the first of these lengths that fits their examples; lengths above "
        "max_seq_length are ignored, and it is always included. --length_buckets=384 pads everything to 384")
    cache_dir: typing.Optional[str] = option(
        None, "folder of the feature cache (default: electra/features in $XDG_CACHE_HOME, or in "
        "~/.cache)")
    skip_cache: bool = option(False, "neither read nor write the feature cache")
    # Optimization
    train_batch_size: int = option(16, "examples per micro-batch and worker", minimum=1)
    predict_batch_size: int = option(128, "examples per batch and worker", minimum=1)
    gradient_accumulation_steps: int = option(1, "micro-batches accumulated (averaged) per update", minimum=1)
    num_train_epochs: float = option(2.0, "number of epochs", minimum=0.001)
    max_steps: int = option(
        -1, "number of updates, in place of num_train_epochs if above 0; sets the learning-rate schedule too")
    train_iter_per_epoch: int = option(-1, "maximum number of updates per epoch, if above 0")
    learning_rate: typing.Optional[float] = option(
        None, "peak learning rate, of the head (default: by the global batch of an update, 1e-4 for 16 examples, 2e-4 "
        "for 32, 4e-4 for 128)", minimum=0.0)
    warmup_proportion: float = option(
        0.05, "fraction of the updates spent in linear warm-up", minimum=0.0, maximum=0.99)
    weight_decay_rate: float = option(
        0.01, "decoupled weight decay, of everything except biases and layer norms", minimum=0.0)
    layerwise_lr_decay: float = option(0.8, "learning rate of a layer relative to the layer above it", minimum=0.0,
                                       maximum=1.0)
    skip_bad_updates: int = option(
        0, "number of updates with a non-finite loss or gradient that are skipped, in the whole fine-tuning; after "
        "them such an update ends the run", minimum=0)
    seed: typing.Optional[int] = option(
        None, "seed of the new head, data order and dropout (default: random; logged, and kept for resuming)",
        minimum=0, maximum=2**31 - 1)
    # Answers
    n_best_size: int = option(20, "number of answers kept per question", minimum=1)
    max_answer_length: int = option(30, "maximum length of an answer, in tokens", minimum=1)
    null_score_diff_threshold: float = option(
        0.0, "2.0: null-odds threshold above which a question is left unanswered (the -5.6 of NVIDIA's recipe belongs "
        "to --answerability_from_gold)")
    metric: str = option(
        "squad", "how answers are scored: squad, mlqa (all languages of MLQA, see --language) or cmrc (CMRC 2018, "
        "Chinese)", choices=("squad", "mlqa", "cmrc"))
    language: typing.Optional[str] = option(
        None, "language of the answers, for --metric=mlqa", choices=("ar", "de", "en", "es", "hi", "vi", "zh"))
    ensemble: typing.Optional[str] = option(
        None, "answer as an ensemble, with --do_predict or --do_eval: two or more output folders of evaluations on the "
        "same questions, separated by commas; no model is loaded")
    eval_script: typing.Optional[str] = option(
        None, "official evaluation script to run on the predictions and compare with")
    # Output
    output_dir: typing.Optional[str] = option(None, "folder for checkpoints, predictions and results")
    overwrite: bool = option(
        False, "start from scratch; the checkpoints of another fine-tuning in output_dir are deleted after the first "
        "save")
    json_summary: typing.Optional[str] = option(
        None, "file for the metrics, one JSON line per logged step (default: <output_dir>/logs/squad.jsonl)")
    log_freq: int = option(10, "updates between two logged lines", minimum=1)
    save_checkpoints_minutes: float = option(
        0.0, "minutes between two checkpoints, in addition to the one of every epoch (0: off)", minimum=0.0)
    evaluate_during_training: bool = option(
        False, "evaluate on the development set after every epoch; the checkpoint with the best F1 is kept")
    eval_steps: int = option(
        0, "evaluate on the development set every so many updates too, and save a checkpoint there (0: off)", minimum=0)
    early_stopping_patience: int = option(
        0, "end training when F1 on the development set has not improved in so many evaluations, one per epoch or "
        "every --eval_steps (0: off)", minimum=0)
    profile_steps: typing.Optional[str] = option(
        None, "first and last update to profile, such as 10:15; the profile is written to the TensorBoard logs")
    skip_checkpoint: bool = option(False, "write no checkpoints (for timing)")
    keep_checkpoint_max: int = option(2, "number of newest checkpoints kept", minimum=1)
    disable_progress_bar: bool = option(False, "hide the progress bar")

    def __post_init__(self):
        check_options(self)
        if not (self.do_train or self.do_predict or self.do_eval):
            raise UserError("nothing to do: give --do_train, --do_predict, --do_eval or several of them.")
        if not self.output_dir:
            raise UserError("--output_dir is missing: name the folder for checkpoints, predictions and results.")
        wanted = {"train_file": self.do_train, "predict_file": self.predicts}
        for name, needed in wanted.items():
            if needed and not (getattr(self, name) or self.data_dir):
                raise UserError(f"--{name} is missing: name it, or the folder of the SQuAD files as --data_dir.")
        if (self.beam_size or 1) > self.buckets[0]:
            raise UserError(f"--beam_size={self.beam_size} exceeds the shortest batch length, {self.buckets[0]}: "
                            "choose a smaller beam or longer --length_buckets.")
        if self.ensemble and self.do_train:
            raise UserError("--ensemble and --do_train are both given: omit one of them.")
        if (self.metric == "mlqa") != (self.language is not None):
            raise UserError(f"--metric={self.metric} and --language={self.language} do not fit: --metric=mlqa needs "
                            "the language of the answers, and the other metrics have none.")
        window_lengths(self.max_seq_length, self.doc_stride, self.max_query_length)
        profiled(self)

    # Options whose default depends on other options or on the number of workers.
    FITTED = ("learning_rate", "doc_stride", "max_query_length")

    @property
    def not_given(self) -> typing.List[str]:
        """The options of FITTED that take their default."""
        return [name for name in self.FITTED if getattr(self, name) is None]

    def fitted(self, world_size: int) -> SquadConfig:
        """This configuration with the values in use of the options in FITTED."""
        stride, query_length = window_lengths(self.max_seq_length, self.doc_stride, self.max_query_length)
        rate = self.learning_rate
        if rate is None:
            rate = fine_tuning_rate(self.global_batch(world_size))
        return dataclasses.replace(self, learning_rate=rate, doc_stride=stride, max_query_length=query_length)

    def global_batch(self, world_size: int) -> int:
        """Examples of an update."""
        return self.train_batch_size * self.gradient_accumulation_steps * world_size

    @property
    def predicts(self) -> bool:
        return self.do_predict or self.do_eval or self.evaluates_in_training

    @property
    def evaluates_in_training(self) -> bool:
        return bool(self.evaluate_during_training or self.eval_steps or self.early_stopping_patience)

    def evaluates_after(self, step: int, epoch_ended: bool, num_train_steps: int) -> bool:
        """Whether an evaluation is due after an update, besides that of --do_eval after the last one."""
        if step == num_train_steps:
            return self.evaluates_in_training and not self.do_eval
        every_epoch = self.evaluate_during_training or self.early_stopping_patience and not self.eval_steps
        return bool(every_epoch and epoch_ended or self.eval_steps and step % self.eval_steps == 0)

    @property
    def splits(self) -> typing.List[str]:
        """The SQuAD files that are read: of `train` and `dev`."""
        return ["train"] * self.do_train + ["dev"] * self.predicts

    @property
    def buckets(self) -> typing.List[int]:
        """Batch lengths, ascending; the last is max_seq_length."""
        try:
            lengths = {int(length) for length in self.length_buckets.split(",")}
        except ValueError as error:
            raise UserError(f"--length_buckets={self.length_buckets} is not a comma-separated list of lengths: give "
                            "one, such as 128,256,384.") from error
        return sorted({length for length in lengths if 0 < length < self.max_seq_length} | {self.max_seq_length})

    def data_file(self, split: str) -> str:
        """The file of `train` or `dev`."""
        named = self.train_file if split == "train" else self.predict_file
        return named or os.path.join(self.data_dir, f"{split}-v{'2.0' if self.version_2_with_negative else '1.1'}.json")

    @property
    def checkpoint_dir(self) -> str:
        return os.path.join(self.output_dir, "checkpoints")

    @property
    def features_dir(self) -> str:
        """Folder of the feature cache."""
        return self.cache_dir or os.path.join(user_cache(), "features")

    def sole_user(self, workers=None):
        """See `sole_user`: the lock of output_dir."""
        logs = os.path.join(self.output_dir, "logs")
        return sole_user(self.output_dir, "choose another --output_dir", workers, [
            self.checkpoint_dir, logs, self.features_dir, os.path.dirname(os.path.abspath(self.json_summary or logs))])


@dataclasses.dataclass(frozen=True)
class ReaderConfig:
    """A model that answers questions. Lengths are in tokens."""

    init_checkpoint: typing.Optional[str] = option(
        None, "fine-tuned model: the output folder of run_tf_squad.py, one of its checkpoints, an exported folder, or "
        "the name of an ELECTRA question-answering model on the Hugging Face Hub (name or name@revision)")
    vocab_file: typing.Optional[str] = option(None, "vocabulary file (default: the one of the model)")
    n_best_size: int = option(3, "number of answers to a question", minimum=1)
    max_answer_length: int = option(30, "maximum length of an answer, in tokens", minimum=1)
    version_2_with_negative: bool = option(
        False, "the model was fine-tuned on unanswerable questions too (SQuAD 2.0); only needed for models from other "
        "projects")
    null_score_diff_threshold: float = option(
        0.0, "SQuAD 2.0: null odds above which a question is predicted to be unanswerable; for the best threshold on "
        "the dev set see best_f1_thresh in the results.json of the fine-tuning run")
    max_seq_length: typing.Optional[int] = option(
        None, "length of a window including the question, in tokens (default: 384, or the model's "
        "max_position_embeddings if that is smaller)", minimum=8)
    doc_stride: typing.Optional[int] = option(
        None, "stride between overlapping windows, in tokens (default: 128, or just under half of a window shorter "
        "than 258 tokens)", minimum=1)
    device: str = option("cpu", "device to run on", choices=("cpu", "gpu", "hpu"))
    precision: str = option("fp32", "numerical precision: fp32, bf16 (hmp is its old name), or tf32 (gpu only)",
                            choices=("fp32", "bf16", "hmp", "tf32"))

    def __post_init__(self):
        check_options(self)
        if not self.init_checkpoint:
            raise UserError("--init_checkpoint is required: set it to a model fine-tuned with run_tf_squad.py.")


@dataclasses.dataclass(frozen=True)
class InferenceConfig(ReaderConfig):
    """Questions about a text, a file of questions and texts, or a page to ask them on."""

    question: typing.Optional[str] = option(
        None, "question (default: read questions from standard input, one per line)")
    context: typing.Optional[str] = option(None, "text that contains the answer")
    context_file: typing.Optional[str] = option(None, "UTF-8 file with the text")
    input_file: typing.Optional[str] = option(
        None, "file of questions and texts: JSON lines with `question`, `context` (default: --context or "
        "--context_file) and optionally `id`, or a file in SQuAD's format (.json)")
    output_file: typing.Optional[str] = option(
        None, "file for the answers to --input_file, in JSON lines; an interrupted call continues when it is repeated")
    overwrite: bool = option(False, "replace --output_file")
    serve: bool = option(
        False, "serve a page to ask questions, until Ctrl-C; --context or --context_file is the text that it shows")
    host: str = option(
        "127.0.0.1", "address to serve at; 0.0.0.0 lets other machines use the model, without a password")
    port: int = option(8000, "port to serve at; 0 for any free one", minimum=0, maximum=65535)
    disable_progress_bar: bool = option(False, "hide the progress bar")

    def __post_init__(self):
        super().__post_init__()
        if self.question is not None and not self.question.strip():
            raise UserError(f"--question={self.question!r} is empty: pass a question, or omit the option to read "
                            "questions from standard input.")
        if self.context and self.context_file:
            raise UserError("--context and --context_file are both given: pass one of them.")
        if bool(self.input_file) != bool(self.output_file):
            raise UserError("--input_file and --output_file belong together: pass both.")
        if self.input_file and self.question:
            raise UserError("--question and --input_file are both given: pass one of them.")
        if self.serve and (self.question or self.input_file):
            other = "question" if self.question else "input_file"
            raise UserError(f"--serve and --{other} are both given: pass one of them.")
        if not (self.serve or self.input_file or self.has_context):
            raise UserError("exactly one of --context and --context_file is required: pass the text or a file with it.")

    def read_context(self) -> str:
        """The text. Raises: UserError: it cannot be read, or is empty."""
        text = self.context or self._read_file()
        if not text.strip():
            raise UserError("the context is empty: pass a text with --context or --context_file.")
        return text

    @property
    def has_context(self) -> bool:
        return bool(self.context or self.context_file)

    def _read_file(self) -> str:
        try:
            with files.open_regular(self.context_file, encoding="utf-8-sig") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"--context_file={self.context_file} cannot be read ({error.strerror}): correct the "
                            "path.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--context_file={self.context_file} is not UTF-8 (byte {error.start}): convert "
                            "it.") from error


def like(config_class, name: str, default=dataclasses.MISSING):
    """An option that another configuration has too, with its meaning, choices and bounds."""
    known = config_class.__dataclass_fields__[name]
    return dataclasses.field(default=known.default if default is dataclasses.MISSING else default,
                             metadata=known.metadata)


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """An error analysis of one evaluation, or a comparison of two."""

    runs: typing.Optional[str] = option(
        None, "output folder of run_tf_squad.py, or two separated by a comma, which are compared")
    predict_file: typing.Optional[str] = option(
        None, "file of the questions (default: the one in results.json of the run)")
    version_2_with_negative: bool = like(SquadConfig, "version_2_with_negative")
    null_score_diff_threshold: typing.Optional[float] = option(
        None, "2.0: null-odds threshold above which a question is left unanswered (default: that of the run)")
    metric: typing.Optional[str] = option(
        None, "metric: squad, mlqa or cmrc (default: that of the run)", choices=("squad", "mlqa", "cmrc"))
    language: typing.Optional[str] = like(SquadConfig, "language")

    def __post_init__(self):
        check_options(self)
        require_options(self, "runs")
        if not 1 <= len(self.folders) <= 2:
            raise UserError(f"--runs={self.runs} must name one folder, or two separated by a comma.")

    @property
    def folders(self) -> typing.List[str]:
        return [folder.strip() for folder in self.runs.split(",") if folder.strip()]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """An export of a checkpoint to Hugging Face's formats."""

    pretrained_checkpoint: typing.Optional[str] = option(
        None, "checkpoint to export: a prefix such as .../checkpoints/ckpt-1000, or a folder of checkpoints (its "
        "newest)")
    output_dir: typing.Optional[str] = option(None, "folder to create")
    savedmodel: bool = option(False, "also write a TensorFlow SavedModel with a serving signature")
    vocab_file: typing.Optional[str] = option(None, "vocabulary (default: the one in the run's folder)")
    overwrite: bool = option(False, "replace the export of an earlier call in output_dir")

    def __post_init__(self):
        require_options(self, "pretrained_checkpoint", "output_dir")


@dataclasses.dataclass(frozen=True)
class EstimateConfig:
    """An estimate of how long a run takes and what it needs."""

    sequences_per_second: typing.Optional[str] = option(
        None, "for --estimate: training speed of one worker, in place of timing it on this machine: one value (of the "
        "first phase), or one of each phase separated by a comma")
    timed_updates: int = option(
        3, "for --estimate: number of updates that are timed, after the first one, which compiles", minimum=1)
    network_gbits: float = option(
        100.0, "for --estimate: bandwidth of the network of each worker, in Gb/s", minimum=0.001)
    estimate_file: typing.Optional[str] = option(
        None, "for --estimate: JSON file to write the estimate to, in addition to the table")

    def __post_init__(self):
        check_options(self)
        self.rates  # noqa: B018  (validates it)

    @property
    def rates(self) -> typing.List[float]:
        """The values of --sequences_per_second. Raises: UserError: one is not a positive number."""
        words = self.sequences_per_second.split(",") if self.sequences_per_second else []
        try:
            rates = [float(word) for word in words]
        except ValueError:
            rates = [0.0]
        if not all(0 < rate < LARGEST_OPTION[float] for rate in rates):
            raise UserError(f"--sequences_per_second={self.sequences_per_second} must be a number above 0, or two "
                            "separated by a comma, such as 340,80.")
        return rates


# --- Folders and workers of a command ---


def check_folder(path: str, flag: str, replaced: bool = False):
    """Raises UserError where a folder cannot be created or used, see `files.obstacle`."""
    reason = files.obstacle(path, replaced)
    if reason:
        shown = path if len(path) < 400 else f"{path[:400]}..."
        raise UserError(f"{shown} {reason}: choose another --{flag}.")


MIXTURE_BLOCK = 10_000  # records of a mixture in which each dataset has exactly its share


def split_weight(part: str, is_there: typing.Callable[[str], bool]) -> typing.Tuple[str, str]:
    """The path and the weight in a part of a list of datasets, such as `wiki:0.7`; '' without a weight.

    What is there as it stands is a path, whatever follows its last colon.
    """
    name, colon, weight = part.rpartition(":")
    with contextlib.suppress(ValueError):
        if colon and not is_there(part):
            float(weight)
            return name.rstrip(), weight.strip()
    return part, ""


def weighted_datasets(spec: str, flag: str, is_there: typing.Callable[[str], bool]
                      ) -> typing.List[typing.Tuple[str, float]]:
    """The parts of a comma-separated list of datasets and their weights, which add up to 1, or are all 0 without any.

    Args:
        is_there: whether a path exists, or matches as a glob.
    Raises: UserError, naming `flag` and the part: an empty one, or a weight that cannot be used.
    """
    parts = [split_weight(part.strip(), is_there) for part in spec.split(",")]
    weighted = any(weight for _, weight in parts)
    for path, weight in parts:
        if not path:
            raise UserError(f"--{flag}={spec} has an empty part: give a folder, a glob, or a comma-separated list.")
        if weighted and not weight:
            raise UserError(f"--{flag}: {path} has no weight: give every dataset one, such as wiki:0.7,books:0.3, or "
                            "none of them.")
        if weighted and not 0 < float(weight) < 1e12:
            raise UserError(f"--{flag}: {path} has weight {weight}: give it a positive number, or leave it out.")
    total = sum(float(weight) for _, weight in parts if weight)
    for path, weight in parts if weighted else ():
        if float(weight) / total * MIXTURE_BLOCK < 1 - 1e-9:
            raise UserError(f"--{flag}: the weight of {path} is {float(weight) / total:.2g} of their sum: give it at "
                            f"least {1 / MIXTURE_BLOCK:g}, or leave it out.")
    return [(path, float(weight) / total if weighted else 0.0) for path, weight in parts]


@contextlib.contextmanager
def sole_user(folder: str, way_out: str, workers=None, junk=(), beside: bool = False):
    """Keeps every other process out of a command's folder during the block, and removes what killed ones left there.

    Args:
        folder: created if missing, and removed again if it stays empty.
        way_out: how to choose another folder, for the message.
        workers: rank 0 of these holds the lock, and all end where it is refused.
        junk: further folders that the command writes to.
        beside: the command replaces the folder as a whole: the lock is beside it, and the parent is what is created.
    Raises: UserError: another process is using the folder, or it cannot be written.
    """
    refusal = None

    def remove_if_empty(*created: str):
        for path in created:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    with contextlib.ExitStack() as held:
        if workers is None or workers.is_chief:
            try:
                reason = files.obstacle(folder, replaced=beside)
                if reason:
                    raise UserError(f"{folder if len(folder) < 400 else folder[:400] + '...'} {reason}: {way_out}.")
                lock_file = os.path.realpath(folder) + ".lock" if beside else os.path.join(folder, ".lock")
                missing, existing = [], os.path.dirname(os.path.abspath(lock_file))
                while not os.path.isdir(existing):
                    missing.append(existing)
                    existing = os.path.dirname(existing)
                held.callback(remove_if_empty, *missing)
                os.makedirs(os.path.dirname(lock_file), exist_ok=True)
                held.enter_context(files.hold(lock_file, log=print_on_stderr))
                files.remove_junk(*junk, *([] if beside else [folder]))
            except UserError as error:
                refusal = error
            except files.Held as holder:
                refusal = UserError(f"{folder} is in use by {holder}: wait until that has ended, or {way_out}.")
            except OSError as error:
                refusal = UserError(f"{folder} cannot be written ({error.strerror}): {way_out}.")
        if workers is not None:
            refusal = workers.from_chief(refusal)
        if refusal:
            raise refusal
        yield


def print_on_stderr(line: str):
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
        print(line, file=sys.stderr, flush=True)


def launched(word: str) -> typing.Optional[int]:
    """RANK, SIZE, LOCAL_RANK or LOCAL_SIZE (`word`) from mpirun, horovodrun or srun. None without a launcher."""
    for name in (f"OMPI_COMM_WORLD_{word}", f"HOROVOD_{word}"):
        if os.environ.get(name):
            return integer(name)
    if not started_by_srun():
        return None
    if word == "LOCAL_SIZE":
        return srun_tasks_per_node()[integer("SLURM_NODEID")]
    return integer({"RANK": "SLURM_PROCID", "SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}[word])


def integer(name: str) -> int:
    """An environment variable of a launcher. Raises: UserError: it is not an integer."""
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise UserError(f"{name}={os.environ[name]} in the environment must be an integer: unset it, or start the "
                        "workers with srun, mpirun or horovodrun.") from error


def started_by_srun() -> bool:
    """Whether Slurm's srun alone started this process, as one of several. (mpirun and horovodrun may use srun.)"""
    return (bool(os.environ.get("SLURM_STEP_NUM_TASKS")) and integer("SLURM_STEP_NUM_TASKS") > 1
            and not (os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("HOROVOD_SIZE")))


def srun_tasks_per_node() -> typing.List[int]:
    """Processes of the job step on each of its hosts: '2(x3),1' is [2, 2, 2, 1]."""
    counts = []
    for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts
