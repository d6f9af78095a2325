"""Options that every fine-tuning has: what is done, from which weights, how long, how it is saved and evaluated.

`FineTuningOptions` is under `SquadConfig` (squad_options.py) and `TaskConfig` (task_options.py), which add their data
and their output. Only the standard library is imported, as in configuration.py.
"""
from __future__ import annotations

import dataclasses
import os
import typing

import configuration
from configuration import DeviceOptions, UserError, like, option, sole_user
from pretraining_options import PretrainingConfig


@dataclasses.dataclass(frozen=True)
class FineTuningOptions(DeviceOptions):
    """A fine-tuning, evaluation or prediction. Lengths are in tokens; a step is one optimizer update.

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
        "one with a fine-tuned head (their default: the newest checkpoint in --output_dir)")
    vocab_file: typing.Optional[str] = option(
        None, "vocabulary: a vocab.txt, a SentencePiece X.model or a tokenizer.json (default: the one beside the "
        "weights)")
    do_lower_case: typing.Optional[str] = option(
        None, "lower-case the text (default: as in the tokenizer of the weights)", choices=("true", "false"))
    # Data
    data_dir: typing.Optional[str] = option(None, "folder of the data files")
    train_file: typing.Optional[str] = option(None, "file of the training data")
    max_seq_length: int = option(384, "maximum length of a sequence, in tokens", minimum=8)
    length_buckets: str = option(
        "128,192,256,384", "batches are padded to the first of these lengths that fits their examples; lengths above "
        "max_seq_length are ignored, and it is always included. --length_buckets=384 pads everything to 384")
    # Optimization
    train_batch_size: int = option(16, "examples per micro-batch and worker", minimum=1)
    predict_batch_size: int = option(128, "examples per batch and worker", minimum=1)
    gradient_accumulation_steps: int = option(1, "micro-batches accumulated (averaged) per update", minimum=1)
    num_train_epochs: typing.Optional[float] = option(2.0, "number of epochs", minimum=0.001)
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
    layerwise_lr_decay: typing.Optional[float] = option(
        0.8, "learning rate of a layer relative to the layer above it", minimum=0.0, maximum=1.0)
    skip_bad_updates: int = option(
        0, "number of updates with a non-finite loss or gradient that are skipped, in the whole fine-tuning; after "
        "them such an update ends the run", minimum=0)
    seed: typing.Optional[int] = option(
        None, "seed of the new head, data order and dropout (default: random; logged, and kept for resuming)",
        minimum=0, maximum=2**31 - 1)
    # Output
    output_dir: typing.Optional[str] = option(None, "folder for checkpoints, predictions and results")
    overwrite: bool = option(
        False, "start from scratch; the checkpoints of another fine-tuning in output_dir are deleted after the first "
        "save")
    json_summary: typing.Optional[str] = option(
        None, "file for the metrics, one JSON line per logged step (default: in <output_dir>/logs)")
    log_freq: int = option(10, "updates between two logged lines", minimum=1)
    save_checkpoints_minutes: float = option(
        0.0, "minutes between two checkpoints, in addition to the one of every epoch (0: off)", minimum=0.0)
    evaluate_during_training: bool = option(
        False, "evaluate on the development set after every epoch; the checkpoint with the best score is kept")
    eval_steps: int = option(
        0, "evaluate on the development set every so many updates too, and save a checkpoint there (0: off)", minimum=0)
    early_stopping_patience: int = option(
        0, "end training when the score on the development set has not improved in so many evaluations, one per epoch "
        "or every --eval_steps (0: off)", minimum=0)
    profile_steps: typing.Optional[str] = like(PretrainingConfig, "profile_steps")
    histograms: int = like(PretrainingConfig, "histograms")
    tracker: typing.Optional[str] = like(PretrainingConfig, "tracker")
    skip_checkpoint: bool = like(PretrainingConfig, "skip_checkpoint")
    keep_checkpoint_max: int = option(2, "number of newest checkpoints kept", minimum=1)
    disable_progress_bar: bool = option(False, "hide the progress bar")

    def check(self):
        """Raises UserError: nothing to do, nowhere to write, or an invalid option."""
        configuration.check_options(self)
        if not (self.do_train or self.do_predict or self.do_eval):
            raise UserError("nothing to do: give --do_train, --do_predict, --do_eval or several of them.")
        if not self.output_dir:
            raise UserError("--output_dir is missing: name the folder for checkpoints, predictions and results.")
        self.buckets  # noqa: B018  (validates it)
        configuration.profiled(self)

    # Options whose default depends on other options, on the encoder or on the number of workers.
    FITTED: typing.ClassVar[typing.Tuple[str, ...]] = ()

    @property
    def not_given(self) -> typing.List[str]:
        """The options of FITTED that take their default."""
        return [name for name in self.FITTED if getattr(self, name) is None]

    def fitted(self, world_size: int, encoder=None) -> FineTuningOptions:
        """This configuration with the values in use of the options in FITTED.

        Args:
            encoder: ElectraConfig of the weights.
        """
        raise NotImplementedError

    def rate_follows(self, world_size: int) -> str:
        """What the learning rate follows where it is not given, for the log."""
        raise NotImplementedError

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
    def buckets(self) -> typing.List[int]:
        """Batch lengths, ascending; the last is max_seq_length."""
        try:
            lengths = {int(length) for length in self.length_buckets.split(",")}
        except ValueError as error:
            raise UserError(f"--length_buckets={self.length_buckets} is not a comma-separated list of lengths: give "
                            "one, such as 128,256,384.") from error
        return sorted({length for length in lengths if 0 < length < self.max_seq_length} | {self.max_seq_length})

    @property
    def shortest_batch(self) -> int:
        """The shortest length that batches may have, in tokens."""
        return 1

    @property
    def checkpoint_dir(self) -> str:
        return os.path.join(self.output_dir, "checkpoints")

    @property
    def folders(self) -> typing.List[str]:
        """Folders that are written to, besides output_dir."""
        logs = os.path.join(self.output_dir, "logs")
        return [self.checkpoint_dir, logs, os.path.dirname(os.path.abspath(self.json_summary or logs))]

    def sole_user(self, workers=None):
        """See `configuration.sole_user`: the lock of output_dir."""
        return sole_user(self.output_dir, "choose another --output_dir", workers, self.folders)
