"""The compiled elementwise operations against those of modeling.py, which test_modeling.py holds to numpy."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import fused
import modeling
from electra_config import ElectraConfig

# Sizes that all differ: 3 sequences of 5 tokens, 2 heads of 4 units.
CONFIG = dataclasses.replace(ElectraConfig.of_size("tiny", vocab_size=40, max_position_embeddings=8), hidden_size=8,
                             num_attention_heads=2, intermediate_size=12, num_hidden_layers=2, embedding_size=6)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], np.int32)


def gradients(compiled, dtype, dropout, monkeypatch):
    """Output of an encoder, and gradients by name; `x` is that of its input."""
    monkeypatch.setattr(fused, "ENABLED", compiled)
    encoder = modeling.Encoder(CONFIG, "electra", modeling.VariableMaker(1, 0.5), dtype)
    rng = np.random.default_rng(2)
    x = tf.constant(rng.normal(size=[15, 6]), tf.float32)
    seeds = tf.constant(rng.integers(0, 2 ** 30, [encoder.num_seeds(CONFIG), 2]), tf.int32)

    @tf.function(autograph=False)
    def run(x, upstream):
        rows = tf.unstack(seeds) if dropout else [None] * seeds.shape[0]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x, *encoder.trainable_variables])
            y = encoder(x, tf.constant(MASK), iter(rows))
        return y, tape.gradient(y, [x, *encoder.trainable_variables], upstream)

    y, found = run(x, tf.constant(rng.normal(size=[15, 8]), tf.float32))
    return y.numpy(), dict(zip(["x", *(v.name for v in encoder.trainable_variables)], (g.numpy() for g in found)))


@pytest.mark.parametrize("dropout", [True, False])
def test_output_and_gradients_are_those_of_the_plain_operations(dropout, monkeypatch):
    """With dropout too: in float32 the same units are dropped."""
    y, plain = gradients(False, tf.float32, dropout, monkeypatch)
    z, compiled = gradients(True, tf.float32, dropout, monkeypatch)
    np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-4)  # a two-layer model in float32
    assert len(plain) == 1 + 2 + 2 * 16
    for name, expected in plain.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(compiled[name], expected, rtol=1e-4, atol=1e-4 * max(scale, 1e-2), err_msg=name)


def test_bfloat16_agrees_to_its_precision(monkeypatch):
    y, plain = gradients(False, tf.float32, False, monkeypatch)
    z, compiled = gradients(True, tf.bfloat16, False, monkeypatch)
    assert z.dtype == np.float32
    assert np.sqrt(np.mean((z - y) ** 2) / np.mean(y ** 2)) < 0.03  # a spacing of 2 ** -7, over two layers
    for name, expected in plain.items():
        if "key/bias" not in name:  # 0 but for rounding: a softmax does not change with it
            error = np.sqrt(np.mean((compiled[name] - expected) ** 2) / np.mean(expected ** 2))
            assert compiled[name].dtype == np.float32 and error < 0.1, name


@pytest.mark.parametrize("shape", [[999, 101], [64, 1000]])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_dropout_drops_at_its_rate_and_by_its_seed(shape, dtype):
    x = tf.ones(shape, dtype)
    seed, other = tf.constant([3, 4]), tf.constant([3, 5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = fused.dropout(x, 0.1, seed)
    kept = y.numpy().astype(np.float32) > 0
    assert abs(kept.mean() - 0.9) < 0.006  # 6 standard deviations
    flat = kept.reshape(-1)
    for distance in (1, 2, shape[1]):  # neighbours are independent, also those that share a random number
        assert abs((flat[distance:] & flat[:-distance]).mean() - 0.81) < 0.01
    np.testing.assert_array_equal(tape.gradient(y, x), y)  # the gradient drops the same units
    np.testing.assert_array_equal(fused.dropout(x, 0.1, seed), y)
    assert np.mean((fused.dropout(x, 0.1, other).numpy() > 0) == kept) < 0.85


def test_gelu_keeps_its_input_only():
    @tf.function(autograph=False)
    def run(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = fused.gelu_dense(x, kernel, tf.zeros([2]))
        return y, tape.gradient(y, [x, kernel])

    x, kernel = tf.constant([[-1.5, 0.2, 3.0]]), tf.constant([[1.0, 2.0], [3.0, -4.0], [0.5, 1.0]])
    y, (d_x, d_kernel) = run(x, kernel)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        expected = tf.matmul(tf.nn.gelu(x), kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    for found, wanted in zip((d_x, d_kernel), tape.gradient(expected, [x, kernel])):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    products = [op for op in run.get_concrete_function(x, kernel).graph.get_operations() if op.type == "MatMul"]
    assert {op.inputs[0].op.type for op in products if op.get_attr("transpose_a")} == {"PartitionedCall"}
