"""flops: against a count of the products that a network makes, and against sums by hand."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import flops
import modeling
from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig
from squad_options import SquadConfig

# Sizes that are all different: no two terms can stand in for each other.
ENCODER = ElectraConfig(vocab_size=61, embedding_size=48, hidden_size=96, num_hidden_layers=3, num_attention_heads=6,
                        intermediate_size=200, max_position_embeddings=40)
L = 40


def pretraining(**changes) -> PretrainingConfig:
    settings = dict(pretrain_tfrecords="x", max_seq_length=L, model_size="small", generator_hidden_size=0.5)
    return PretrainingConfig(**{**settings, **changes})


def squad(**changes) -> SquadConfig:
    return SquadConfig(do_train=True, data_dir="x", output_dir="y", max_seq_length=L, length_buckets="40", **changes)


def products(function, *arguments) -> int:
    """FLOPs of the matrix products in the graph of a function, from their shapes. Broadcasts and sums do not count."""
    total = 0
    for op in tf.function(function, autograph=False).get_concrete_function(*arguments).graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            summed = op.inputs[0].shape[-2 if transposed else -1]
            total += 2 * op.outputs[0].shape.num_elements() * summed
    return total


def model_of(config: PretrainingConfig) -> modeling.PretrainingModel:
    objective = modeling.Objective(
        special_ids=[0, 1, 2, 3, 4], mask_id=4, mask_prob=config.mask_prob, objective=config.objective,
        max_predictions_per_seq=config.max_predictions_per_seq, generator=config.generator,
        generator_fraction=config.generator_fraction)
    return modeling.PretrainingModel(ENCODER, objective)


@pytest.mark.parametrize("changes", [dict(), dict(objective="mlm"), dict(generator="tied"), dict(generator="uniform")])
def test_pretraining_counts_every_product_of_the_network_and_of_its_gradient(changes):
    config = pretraining(**changes)
    model = model_of(config)
    features = {name: tf.ones([2, L], tf.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    seeds = tf.constant(np.arange(2 * model.num_seeds).reshape(-1, 2), tf.int32)
    forward = products(lambda features, seeds: model.loss(features, seeds)[0], features, seeds)
    assert forward == 2 * flops.of_pretraining(config, ENCODER, training=False)

    def gradients(features, seeds):
        with tf.GradientTape() as tape:
            loss, _ = model.loss(features, seeds)
        return tape.gradient(loss, model.trainable_variables)

    assert products(gradients, features, seeds) == 2 * flops.of_pretraining(config, ENCODER)


@pytest.mark.parametrize("changes", [
    dict(joint_head=False), dict(), dict(version_2_with_negative=True),
    dict(version_2_with_negative=True, answerability_from_gold=True), dict(beam_size=3)])
def test_squad_counts_every_product_of_both_heads(changes):
    config = squad(**changes)
    model = modeling.QuestionAnswering(ENCODER, config.joint_head, config.version_2_with_negative,
                                       config.beam_size or modeling.BEAM_SIZE, config.answerability_from_gold)
    features = {name: tf.ones([2, L], tf.int32) for name in ("input_ids", "input_mask", "segment_ids", "p_mask")}
    assert products(model.answers, features) == 2 * flops.of_squad(config, ENCODER, L, training=False)
    features.update({name: tf.ones([2], tf.int32) for name in ("start_positions", "end_positions", "is_impossible")},
                    weights=tf.ones([2]), num_examples=tf.constant(2.0))
    seeds = tf.zeros([model.num_seeds, 2], tf.int32)

    def gradients(features, seeds):
        with tf.GradientTape() as tape:
            loss, _ = model.loss(features, seeds)
        return tape.gradient(loss, model.trainable_variables)

    assert products(gradients, features, seeds) == 2 * flops.of_squad(config, ENCODER, L)
    assert flops.BEAM_SIZE == modeling.BEAM_SIZE


def test_base_at_length_128_is_what_a_sum_by_hand_gives():
    """Per layer and token: 4 D D for query, key, value and output, 2 L D for scores and context, 2 D F; each twice."""
    layers = 12 * 128 * 2 * (4 * 768 * 768 + 2 * 128 * 768 + 2 * 768 * 3072)
    generator = 12 * 128 * 2 * (4 * 256 * 256 + 2 * 128 * 256 + 2 * 256 * 1024) + 2 * 128 * 768 * 256
    heads = 19 * 2 * (256 * 768 + 768 * 30528) + 128 * 2 * (768 * 768 + 768)
    found = flops.of_pretraining(PretrainingConfig(pretrain_tfrecords="x"), ElectraConfig())
    assert found == 3 * (layers + generator + heads) and found == pytest.approx(78e9, rel=0.01)


@pytest.mark.parametrize("name, precision, expected", [
    ("gpu (NVIDIA A100-SXM4-40GB), bf16", "bf16", 312e12), ("gpu (NVIDIA A10)", "fp32", 31.2e12),
    ("gpu (NVIDIA A10G)", "fp32", None), ("gpu (NVIDIA L40S)", "tf32", 183e12), ("gpu (NVIDIA L4)", "bf16", 121e12),
    ("gpu (NVIDIA H100 80GB HBM3)", "bf16", 989.5e12), ("gpu (NVIDIA H100 PCIe)", "bf16", 756.5e12),
    ("gpu (Tesla T4)", "bf16", None), ("gpu (Tesla V100-SXM2-16GB)", "fp32", 15.7e12), ("cpu (2 cores)", "fp32", None)])
def test_the_peak_is_that_of_the_very_card(name, precision, expected):
    assert flops.peak(name, precision) == expected


@pytest.mark.parametrize("rate, text", [(215.4e9, "215 GFLOP/s"), (1.5e12, "1.5 TFLOP/s"), (2.5e6, "2.5 MFLOP/s")])
def test_rates_in_words(rate, text):
    assert flops.in_words(rate) == text
