"""FLOPs of the networks, and the peak rates of known GPUs: how much of a machine a run uses.

Model FLOPs (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): the multiplications and additions of the matrix
products, two for each pair, at the shapes that are computed. Padding counts, since it is computed too. Gathers of
embeddings, softmax, layer norm, GELU, dropout and the optimizer do not count. The backward pass multiplies twice for
every product of the forward pass: by the gradient, once for each factor. Recomputed activations do not count.

All functions are for one sequence of one forward pass, unless `training`, which adds the backward pass.
"""
from __future__ import annotations

import re
from typing import Optional

from electra_config import ElectraConfig
from preflight import generator_encoder
from pretraining_options import PretrainingConfig
from squad_options import SquadConfig

BEAM_SIZE = 5  # modeling.BEAM_SIZE, which needs TensorFlow


def dense(rows: int, inputs: int, outputs: int) -> int:
    """The product [rows, inputs] x [inputs, outputs]."""
    return 2 * rows * inputs * outputs


def of_encoder(encoder: ElectraConfig, length: int) -> int:
    """A Transformer encoder, with the projection of the embeddings where the sizes differ."""
    hidden, inner = encoder.hidden_size, encoder.intermediate_size
    query_key_value_output = 4 * dense(length, hidden, hidden)
    scores_and_context = 2 * dense(length, hidden, length)  # over all heads
    feed_forward = dense(length, hidden, inner) + dense(length, inner, hidden)
    projected = encoder.embedding_size != hidden
    return (encoder.num_hidden_layers * (query_key_value_output + scores_and_context + feed_forward)
            + projected * dense(length, encoder.embedding_size, hidden))


def of_pretraining(config: PretrainingConfig, encoder: ElectraConfig, training: bool = True) -> int:
    """Generator, its head at the masked positions, discriminator and its head.

    Args:
        encoder: the discriminator's, or that of objective `mlm`.
    """
    length, total = config.max_seq_length, 0
    generator = generator_encoder(config, encoder)
    if generator:
        masked, size = config.max_predictions_per_seq, generator.embedding_size
        total += of_encoder(generator, length)
        total += dense(masked, generator.hidden_size, size) + dense(masked, size, generator.padded_vocab_size)
    if config.objective == "electra":
        total += of_encoder(encoder, length)
        total += dense(length, encoder.hidden_size, encoder.hidden_size) + dense(length, encoder.hidden_size, 1)
    return 3 * total if training else total


def of_squad(config: SquadConfig, encoder: ElectraConfig, length: int, training: bool = True) -> int:
    """The encoder and a question-answering head, for a window that is padded to `length`.

    The joint head has one start per window in training and a beam of starts at inference.
    """
    size, total = encoder.hidden_size, of_encoder(encoder, length)
    if config.joint_head:
        starts = 1 if training else config.beam_size or BEAM_SIZE
        total += dense(length, size, 1)  # start logits
        total += dense(length + starts, size, size) + dense(starts * length, size, 1)  # end logits
        if config.version_2_with_negative:  # the expected start, and answerability
            expected = 0 if training and config.answerability_from_gold else dense(1, length, size)
            total += expected + dense(1, 2 * size, size) + dense(1, size, 1)
    else:
        total += dense(length, size, 2)
    return 3 * total if training else total


def of_classifier(encoder: ElectraConfig, length: int, num_labels: int, training: bool = True) -> int:
    """The encoder and a head for classification or regression."""
    size = encoder.hidden_size
    total = of_encoder(encoder, length) + dense(1, size, size) + dense(1, size, num_labels)
    return 3 * total if training else total


def of_tagger(encoder: ElectraConfig, length: int, num_labels: int, training: bool = True) -> int:
    """The encoder and a head for tagging."""
    total = of_encoder(encoder, length) + dense(length, encoder.hidden_size, num_labels)
    return 3 * total if training else total


# --- Peak rates ---
# TFLOP/s of dense matrix products as NVIDIA's data sheets state them; where a sheet states the rate "with sparsity",
# half of it. By the name that the driver reports. Other forms of these cards have other rates and are left out.

PEAKS = {
    "V100-SXM2": dict(fp32=15.7),
    "V100-PCIE": dict(fp32=14.0),
    "T4": dict(fp32=8.1),
    "A100": dict(fp32=19.5, tf32=156, bf16=312),
    "A30": dict(fp32=10.3, tf32=82, bf16=165),
    "A10": dict(fp32=31.2, tf32=62.5, bf16=125),
    "RTX A6000": dict(fp32=38.7, tf32=77.4, bf16=154.8),
    "L4": dict(fp32=30.3, tf32=60, bf16=121),
    "L40S": dict(fp32=91.6, tf32=183, bf16=362),
    "H100 PCIe": dict(fp32=51, tf32=378, bf16=756.5),
    "H100 80GB HBM3": dict(fp32=67, tf32=494.5, bf16=989.5),  # SXM5
    "H200": dict(fp32=67, tf32=494.5, bf16=989.5),
}


def peak(description: str, precision: str) -> Optional[float]:
    """FLOP/s of a GPU by its data sheet, or None where it is not known.

    Args:
        description: text with the name that the driver reports, such as `devices.Device.description`.
        precision: fp32, tf32 or bf16.
    """
    for name, rates in PEAKS.items():
        if re.search(rf"\b{name}\b", description) and precision in rates:
            return rates[precision] * 1e12
    return None


def in_words(rate: float) -> str:
    """A rate in FLOP/s with three digits, such as `312 GFLOP/s`."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if rate >= factor:
            return f"{rate / factor:.3g} {prefix}FLOP/s"
    return f"{rate / 1e6:.3g} MFLOP/s"
