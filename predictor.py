"""What reader.Reader, classifier.Classifier and tagger.Tagger share: a fine-tuned model, computed in batches.

Inputs are padded to one of a few lengths. On cpu and gpu the graph is traced once for all shapes. On hpu, which needs
fixed shapes, batches are padded to a power of two, and it is traced once for each of these few.
"""
from __future__ import annotations

import glob
import os
from typing import Callable, ClassVar, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

import devices
import weights
from batching import Batch
from configuration import UserError
from squad_options import PredictorConfig

BUCKETS = (32, 64, 96, 128, 192, 256, 320)  # tokens that inputs are padded to, besides the longest input
BATCH_SIZE = 32  # inputs, at most
TOGETHER = 256  # texts that are tokenized and sorted by length together


class Predictor:
    """A fine-tuned model to predict with.

    Args:
        log: called with what is to be known about the device and the weights.
        source: the weights, where they have been read already.
    Raises: UserError: no such model, or options that do not fit it.
    """

    Config: ClassVar[type] = PredictorConfig
    kind: ClassVar[str]  # a key of weights.HEADS

    def __init__(self, config: PredictorConfig, log: Callable[[str], None] = logging.info,
                 source: Optional[weights.Source] = None):
        self.config = config
        device = devices.open_device(config.device, config.precision, "false")
        if device.note:
            log(device.note)
        source = source or weights.read(config.init_checkpoint, config.vocab_file)
        self.tokenizer = weights.open_tokenizer(source, config.vocab_file)
        self.temperature, self.weights_id = source.temperature, weights_id(source.path)
        self._fixed_shapes, self.signature = device.kind == "hpu", None
        self._load(source, device.compute_dtype, log)

    def _load(self, source: weights.Source, compute_dtype, log: Callable[[str], None]):
        """Sets `model` and everything that depends on it, and calls `_compile`."""
        raise NotImplementedError

    def _compile(self, function: Callable, names: Sequence[str], longest: int, shortest: int = 1):
        """Sets what `_outputs` computes.

        Args:
            function: features by `names` -> tensors by name.
            longest, shortest: tokens of an input.
        """
        self.buckets = sorted({*(length for length in BUCKETS if shortest <= length < longest), longest})
        if not self._fixed_shapes:
            self.signature = [{name: tf.TensorSpec([None, None], tf.int32) for name in names}]
        self._answers = tf.function(function, autograph=False, input_signature=self.signature)

    @classmethod
    def from_pretrained(cls, name: str, **options):
        """Loads a model: the output folder of a fine-tuning, one of its checkpoints, an exported folder, or a model of
        the Hugging Face Hub, `name` or `name@revision`.

        Args:
            options: fields of squad_options.PredictorConfig, such as device or precision, and for a Reader those of
                ReaderConfig, such as n_best_size.
        Raises: UserError: no such model, or options that do not fit it.
        """
        return cls(cls.Config(init_checkpoint=name, **options))

    def _length(self) -> int:
        """The longest input, in tokens. Raises: UserError: --max_seq_length does not fit the model."""
        return input_length(self.config, self.model.config.max_position_embeddings)

    def _outputs(self, features, feed: Callable[..., Dict[str, tf.Tensor]]
                 ) -> Iterator[Tuple[Batch, Dict[str, np.ndarray]]]:
        """The model's outputs by batches.

        Args:
            features: inputs, with `lengths`: int [n], the tokens of each.
            feed: (features, batch, size) -> the tensors of a batch, padded to `size` rows.
        """
        bucket_of = np.searchsorted(self.buckets, features.lengths)
        for number, length in enumerate(self.buckets):
            rows = np.flatnonzero(bucket_of == number)
            for first in range(0, len(rows), BATCH_SIZE):
                batch = Batch(length, rows[first:first + BATCH_SIZE])
                # On hpu, where each shape is compiled, the next power of two.
                size = len(batch.rows) if self.signature else 1 << (len(batch.rows) - 1).bit_length()
                outputs = self._answers(feed(features, batch, size))
                yield batch, {name: value.numpy()[:len(batch.rows)] for name, value in outputs.items()}


def weights_id(path: str) -> List[str]:
    """Names the files of weights that were read, with their sizes and times."""
    names = glob.glob(glob.escape(path) + ("/*" if os.path.isdir(path) else ".*"))
    return [f"{os.path.abspath(name)} {os.path.getsize(name)} {os.stat(name).st_mtime_ns}" for name in sorted(names)
            if os.path.isfile(name)]


def input_length(config: PredictorConfig, positions: int) -> int:
    """The longest input, in tokens. Raises: UserError: --max_seq_length exceeds the model's positions."""
    length = config.max_seq_length or min(384, positions)
    if length > positions:
        raise UserError(f"--max_seq_length={length} exceeds the model's max_position_embeddings of {positions}: choose "
                        "a smaller one.")
    return length


def check_texts(named: Dict[str, Sequence[str]]):
    """Raises UserError: a text, by its name, is empty."""
    for name, texts in named.items():
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{name} {number} of {len(texts)} is empty: pass one with words in it.")
