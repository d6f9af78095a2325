"""Options of pre-training, of its estimate, and lists of datasets. See configuration.py for what a field means.

Only the standard library is imported: scripts/recipe.py reads the options before any environment exists.
"""
from __future__ import annotations

import contextlib
import dataclasses
import os
import typing

from configuration import (
    LARGEST_OPTION,
    DeviceOptions,
    UserError,
    check_options,
    option,
    parse_json_object,
    profiled,
    read_json_object,
    sole_user,
)
from electra_config import GENERATOR_FRACTIONS, SIZES, ElectraConfig

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
    report_samples: int = option(
        16, "number of held-out passages recorded at every evaluation for the report page, with the generator's fills "
        "and the discriminator's probabilities, in <log_dir>/samples_phase<1|2>.jsonl (0: none)", minimum=0,
        maximum=100)
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
    histograms: int = option(
        0, "updates between two histograms of all weights and gradients in the TensorBoard logs (0: none)", minimum=0)
    tracker: typing.Optional[str] = option(
        None, "also log to this tracker, whose package must be installed: wandb (Weights & Biases) or mlflow",
        choices=("wandb", "mlflow"))
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
