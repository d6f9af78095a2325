"""The traced training step stays fit for a Gaudi card: fixed shapes, int32, stateless randomness, known ops.

hpu_ops_habana_tensorflow_*.txt list the op names found in the device libraries of the habana-tensorflow wheels
1.14.0.493 and 1.6.1.92 (published on PyPI), with the kind of evidence: evidence, not proof, that an op runs on the
card. An op without a kernel falls back to the host, with a copy each way at every step.
"""
from __future__ import annotations

import pathlib

import pytest
import tensorflow as tf

import modeling
import optimization
from configuration import ElectraConfig

DATA = pathlib.Path(__file__).parent / "data"
# Ops placed on the host on purpose, with the reason. None so far.
ON_THE_HOST: dict = {}
# The only place for 64-bit numbers: a random op's key or counter.
RANDOM_OPS = {"StatelessRandomUniform"}
STATEFUL = {"ReadVariableOp", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}


def known_ops(version):
    lines = (DATA / f"hpu_ops_habana_tensorflow_{version}.txt").read_text().splitlines()
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def operations(function):
    """Every operation of a concrete function, those of nested functions included."""
    found, graphs = [], [function.graph]
    while graphs:
        graph = graphs.pop()
        found += graph.get_operations()
        assert not graph.as_graph_def().library.function, "a nested function would hide its ops from this test"
    return found


def make_step(optimizer_class=optimization.LAMB, accumulation_steps=1, loss_fn=None, **objective):
    config = ElectraConfig.of_size("tiny", vocab_size=100, max_position_embeddings=32)
    model = modeling.PretrainingModel(config, modeling.Objective(
        (0, 1, 2, 3, 4), 4, 0.15, 4, generator_fraction=0.5, **objective))
    optimizer = optimization_of(optimizer_class, model)
    loss = model.loss if loss_fn is None else lambda features, seeds: loss_fn(model, features, seeds)
    return model, optimization.TrainStep(loss, model.metric_names, optimizer, accumulation_steps)


def optimization_of(optimizer_class, model):
    return optimizer_class(model.trainable_variables, optimization.Schedule(6e-3, 100, 10, 0.5))


def traced(model, step):
    features = {name: tf.TensorSpec([2, 32], tf.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    seeds = tf.TensorSpec([model.num_seeds, 2], tf.int32)
    if step.accumulation_steps == 1:
        return [step._update_from.get_concrete_function(features, seeds)]
    return [step._accumulate.get_concrete_function(features, seeds), step._update.get_concrete_function()]


def complaints(functions):
    """What a card would trip over, a sentence each."""
    found = set()
    lists = {version: known_ops(version) for version in ("1.14.0.493", "1.6.1.92")}
    for operation in [operation for function in functions for operation in operations(function)]:
        for version, names in lists.items():
            if operation.type not in names and operation.type not in ON_THE_HOST:
                found.add(f"{operation.type} is not in the op list of {version}")
        if operation.op_def.is_stateful and operation.type not in STATEFUL:
            found.add(f"{operation.type} is stateful")
        for tensor in (*operation.inputs, *operation.outputs):
            if tensor.dtype != tf.resource and not tensor.shape.is_fully_defined():
                found.add(f"{operation.type} has a dynamic shape")
            if tensor.dtype in (tf.int64, tf.uint64, tf.float64) and operation.type not in RANDOM_OPS:
                found.add(f"{operation.type} computes in {tensor.dtype.name}")
    return sorted(found)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("optimizer_class", [optimization.LAMB, optimization.AdamW])
def test_training_step_is_fit_for_the_card(optimizer_class, accumulation_steps):
    assert complaints(traced(*make_step(optimizer_class, accumulation_steps))) == []


@pytest.mark.parametrize("objective", [
    dict(objective="mlm"), dict(generator="tied"), dict(generator="uniform"), dict(share_embeddings=False),
    dict(disallow_correct=True, temperature=0.5)], ids=str)
def test_other_objectives_are_fit_for_the_card(objective):
    assert complaints(traced(*make_step(**objective))) == []


def with_unsupported_op(model, features, seeds):
    loss, sums = model.loss(features, seeds)
    return loss + tf.math.bessel_i0e(loss), sums


def with_int64_and_dynamic_shape(model, features, seeds):
    loss, sums = model.loss(features, seeds)
    return loss + tf.cast(tf.reduce_sum(tf.where(features["input_ids"] > 7)), tf.float32), sums


def with_stateful_noise(model, features, seeds):
    loss, sums = model.loss(features, seeds)
    return loss + tf.random.uniform([]), sums


@pytest.mark.parametrize("loss_fn, words", [
    (with_unsupported_op, "BesselI0e is not in the op list"), (with_int64_and_dynamic_shape, "computes in int64"),
    (with_int64_and_dynamic_shape, "has a dynamic shape"), (with_stateful_noise, "RandomUniform is stateful")])
def test_the_check_sees_what_it_is_for(loss_fn, words):
    assert any(words in complaint for complaint in complaints(traced(*make_step(loss_fn=loss_fn))))


def test_vocabulary_is_projected_at_the_masked_positions_only():
    """The ancestor projects all L positions, seven times the work."""
    model, step = make_step()
    rows = {tensor.shape[0] for function in traced(model, step) for operation in operations(function)
            for tensor in operation.outputs if tensor.shape.rank == 2 and tensor.shape[1] == 104}
    assert max(rows) == 2 * 4
