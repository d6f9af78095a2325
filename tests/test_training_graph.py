"""The graphs of training, evaluation and inference can run on Gaudi: static shapes, supported data types, stateless
random ops, known ops; and what is converted to bfloat16.

hpu_ops_habana_tensorflow_*.txt list the op names found in the device libraries of the habana-tensorflow wheels
1.14.0.493 and 1.6.1.92 (published on PyPI), with the kind of evidence: evidence, not proof, that an op runs on the
card. An op without a kernel falls back to the host, with a copy in each direction at every step.
"""
from __future__ import annotations

import functools
import json
import pathlib
import re

import pytest
import tensorflow as tf

import gaudi
import modeling
import optimization
import run_pretraining
from electra_config import ElectraConfig

DATA = pathlib.Path(__file__).parent / "data"
# Ops placed on the host on purpose, with the reason. None so far.
ON_THE_HOST: dict = {}
CARD_TYPES = {tf.float32, tf.bfloat16, tf.int32, tf.int8, tf.bool}
# The only ops with 64-bit numbers: their key and counter.
RANDOM_OPS = {"StatelessRandomUniform"}
# Ops for which a library contains the name but no kernel class, the weaker evidence. All of them occur in any
# Transformer except TopKV2 (masked positions, answer search) and StatelessRandomUniform (a class in 1.6.1).
NAME_ONLY = {"AddV2", "ArgMax", "AssignAddVariableOp", "AssignSubVariableOp", "BatchMatMulV2", "Const", "LogSoftmax",
             "Mean", "Neg", "Placeholder", "StatelessRandomUniform", "StopGradient", "Sum", "TopKV2"}
VERSIONS = ("1.14.0.493", "1.6.1.92")
STATEFUL = {"ReadVariableOp", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}


@functools.lru_cache(maxsize=None)
def known_ops(version):
    """Op -> kinds of evidence."""
    lines = (DATA / f"hpu_ops_habana_tensorflow_{version}.txt").read_text().splitlines()
    return {line.split()[0]: line.split()[1].split(",") for line in lines if line and not line.startswith("#")}


def operations(function):
    """All operations of a concrete function."""
    found, graphs = [], [function.graph]
    while graphs:
        graph = graphs.pop()
        found += graph.get_operations()
        assert not graph.as_graph_def().library.function, "a nested function would hide its ops from this test"
    return found


# One layer: a second one would add no op, and half of the tracing time.
CONFIG = ElectraConfig.of_size("tiny", vocab_size=100, max_position_embeddings=32, num_hidden_layers=1)


def make_step(optimizer_class=optimization.LAMB, accumulation_steps=1, loss_fn=None, compute_dtype=tf.float32,
              skip_budget=0, **objective):
    model = modeling.PretrainingModel(CONFIG, modeling.Objective(
        (0, 1, 2, 3, 4), 4, 0.15, 4, generator_fraction=0.5, **objective), compute_dtype)
    optimizer = optimization_of(optimizer_class, model)
    loss = model.loss if loss_fn is None else lambda features, seeds: loss_fn(model, features, seeds)
    return model, optimization.TrainStep(loss, model.metric_names, optimizer, accumulation_steps,
                                         skip_budget=skip_budget)


def optimization_of(optimizer_class, model):
    return optimizer_class(model.trainable_variables, optimization.Schedule(6e-3, 100, 10, 0.5))


def question_answering(joint_head, version_2, accumulation_steps=1, compute_dtype=tf.float32):
    model = modeling.QuestionAnswering(CONFIG, joint_head, version_2, compute_dtype=compute_dtype)
    return model, optimization.TrainStep(model.loss, model.metric_names, optimization_of(optimization.AdamW, model),
                                         accumulation_steps)


def features_of(model, training):
    names = ["input_ids", "input_mask", "segment_ids"]
    found = {}
    if isinstance(model, modeling.QuestionAnswering):
        names.append("p_mask")
        if training:
            labels = ("start_positions", "end_positions", "is_impossible")
            found = {name: tf.TensorSpec([2], tf.int32) for name in labels}
            found.update(weights=tf.TensorSpec([2], tf.float32), num_examples=tf.TensorSpec([], tf.float32))
    return {**{name: tf.TensorSpec([2, 32], tf.int32) for name in names}, **found}


def traced(model, step):
    features, seeds = features_of(model, True), tf.TensorSpec([model.num_seeds, 2], tf.int32)
    if step.accumulation_steps == 1:
        return [step._update_from.get_concrete_function(features, seeds)]
    return [step._accumulate.get_concrete_function(features, seeds), step._update.get_concrete_function()]


def traced_evaluation(**settings):
    """The function that run_pretraining traces for evaluation, with what it records for the report page."""
    model, _ = make_step(**settings)
    return [run_pretraining.evaluation_function(model, records=True).get_concrete_function(
        features_of(model, False), tf.TensorSpec([model.num_seeds, 2], tf.int32))]


def traced_answers(*settings, compute_dtype=tf.float32):
    model, _ = question_answering(*settings, compute_dtype=compute_dtype)
    return [tf.function(model.answers, autograph=False).get_concrete_function(features_of(model, False))]


# All graphs that run on a card, by name. On hpu the graph is float32 in every precision; the bfloat16 graphs are traced
# for their data types.
GRAPHS = {}
for _optimizer in (optimization.LAMB, optimization.AdamW):
    for _steps in (1, 2):
        GRAPHS[f"pretraining {_optimizer.__name__} {_steps}"] = functools.partial(
            lambda **settings: traced(*make_step(**settings)), optimizer_class=_optimizer, accumulation_steps=_steps)
for _objective in (dict(objective="mlm"), dict(generator="tied"), dict(generator="uniform"),
                   dict(share_embeddings=False), dict(disallow_correct=True, temperature=0.5)):
    GRAPHS[f"pretraining {_objective}"] = functools.partial(
        lambda **settings: traced(*make_step(**settings)), **_objective)
for _type in (tf.float32, tf.bfloat16):
    GRAPHS[f"evaluation {_type.name}"] = functools.partial(traced_evaluation, compute_dtype=_type)
    for _joint in (True, False):
        for _version_2 in (True, False):
            _name = f"{'joint' if _joint else 'independent'} {'2.0' if _version_2 else '1.1'} {_type.name}"
            GRAPHS[f"answers {_name}"] = functools.partial(traced_answers, _joint, _version_2, compute_dtype=_type)
            for _steps in (1, 2) if _type == tf.float32 else (1,):
                GRAPHS[f"squad {_name} {_steps}"] = functools.partial(
                    lambda *settings: traced(*question_answering(*settings)), _joint, _version_2, _steps, _type)
GRAPHS["pretraining bfloat16"] = lambda: traced(*make_step(compute_dtype=tf.bfloat16))
GRAPHS["pretraining, skipping updates"] = lambda: traced(*make_step(accumulation_steps=2, skip_budget=2))
GRAPHS["evaluation uniform"] = lambda: traced_evaluation(generator="uniform")
GRAPHS["evaluation mlm"] = lambda: traced_evaluation(objective="mlm")


@functools.lru_cache(maxsize=None)
def graph(name):
    return GRAPHS[name]()


def folded(operation):
    """Whether constant folding removes this operation before the graph runs.

    TensorFlow 2.9.1 traces an op that computes from constant shapes which axes the gradient of a broadcast sums over;
    2.15 computes them during tracing. Grappler removes all of them (seen with 2.9.1).
    """
    return operation.type == "BroadcastGradientArgs" and all(tensor.op.type == "Const" for tensor in operation.inputs)


def type_of(operation):
    """The op type. tf.nn.gelu, which habana-tensorflow replaces, uses Erf up to TensorFlow 2.15, the last supported
    version, and Erfc in 2.21, which counts as Erf here."""
    return "Erf" if operation.type == "Erfc" and "Gelu" in operation.name else operation.type


@functools.lru_cache(maxsize=None)
def used_types():
    return {type_of(operation) for name in GRAPHS for function in graph(name) for operation in operations(function)
            if not folded(operation)}


def problems(functions):
    """Reasons why graphs cannot run on a card, as sentences."""
    found = set()
    lists = {version: known_ops(version) for version in VERSIONS}
    for operation in [operation for function in functions for operation in operations(function)]:
        for version, names in lists.items():
            if type_of(operation) not in names and not (operation.type in ON_THE_HOST and "CPU" in operation.device):
                found.add(f"{operation.type} is not in the op list of {version}")
        if operation.op_def.is_stateful and operation.type not in STATEFUL:
            found.add(f"{operation.type} is stateful")
        if folded(operation) or any(folded(tensor.op) for tensor in operation.inputs):
            continue  # its outputs are the axes of a sum, whose shape is static once they are constants
        for tensor in (*operation.inputs, *operation.outputs):
            if tensor.dtype != tf.resource and not tensor.shape.is_fully_defined():
                found.add(f"{operation.type} has a dynamic shape")
            if tensor.dtype not in CARD_TYPES | {tf.resource} and operation.type not in RANDOM_OPS:
                found.add(f"{operation.type} computes in {tensor.dtype.name}")
    return sorted(found)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_can_run_on_the_card(name):
    assert problems(graph(name)) == []


def test_ops_without_a_kernel_class_are_the_expected_ones():
    assert {op for op in used_types() for version in VERSIONS if "class" not in known_ops(version)[op]} == NAME_ONLY


def with_unsupported_op(model, features, seeds):
    loss, sums = model.loss(features, seeds)
    return loss + tf.math.bessel_i0e(loss), sums


def with_int64_and_dynamic_shape(model, features, seeds):
    loss, sums = model.loss(features, seeds)
    return loss + tf.cast(tf.reduce_sum(tf.where(features["input_ids"] > 7)), tf.float32), sums


def with_stateful_noise(model, features, seeds):
    loss, sums = model.loss(features, seeds)
    return loss + tf.random.uniform([]), sums


@pytest.mark.parametrize("loss_fn, expected", [
    (with_unsupported_op, ["BesselI0e is not in the op list"]), (with_stateful_noise, ["RandomUniform is stateful"]),
    (with_int64_and_dynamic_shape, ["computes in int64", "has a dynamic shape"])])
def test_the_check_finds_each_problem(loss_fn, expected):
    found = problems(traced(*make_step(loss_fn=loss_fn, generator="uniform")))
    assert all(any(words in problem for problem in found) for words in expected)


def test_vocabulary_logits_are_computed_at_the_masked_positions_only():
    """NVIDIA's recipe computes them at all L positions, seven times the work."""
    rows = {tensor.shape[0] for function in graph("pretraining LAMB 1") for operation in operations(function)
            for tensor in operation.outputs if tensor.shape.rank == 2 and tensor.shape[1] == 104}
    assert max(rows) == 2 * 4


# --- Conversion to bfloat16 (data/bf16_electra.json) ---

LISTS = json.loads(pathlib.Path(gaudi.BF16_LISTS).read_text(encoding="utf-8"))
ALLOWED = {*LISTS["allowlist"], *LISTS["conditional_list"]}
# The GELU ops of habana-tensorflow, which are not in the op lists: those contain TensorFlow's ops only.
FUSED = {"HabanaGelu", "HabanaGeluGrad"}
# Deliberately float32.
KEPT_FLOAT32 = {
    "softmax, losses and metrics": "Softmax LogSoftmax SparseSoftmaxCrossEntropyWithLogits Exp Log Log1p Reciprocal "
                                   "Equal NotEqual Greater GreaterEqual Less LogicalAnd ArgMax TopKV2",
    "statistics and sums: layer norm's mean and deviation, gradients of biases": "Mean Sum Square Rsqrt Sub AddN",
    "TensorFlow's GELU and its gradient, which habana-tensorflow replaces": "Erf Neg",
    "the question-answering head, small": "Tanh TanhGrad",
    "masking and sampling": "StatelessRandomUniform Maximum Minimum Round Select SelectV2 OneHot",
    "the optimizer": "L2Loss SplitV Sqrt MulNoNan RealDiv Pow IsFinite LogicalOr",
    "embedding tables, which would be cast at every step": "GatherV2 UnsortedSegmentSum TensorScatterUpdate",
    "variables, and ops that move values without computing":
        "AssignAddVariableOp AssignSubVariableOp AssignVariableOp ReadVariableOp Cast Const ConcatOffset ConcatV2 "
        "ExpandDims Fill FloorMod IdentityN InvertPermutation NoOp Pack Placeholder Range Slice Squeeze StopGradient "
        "StridedSlice StridedSliceGrad Tile Unpack",
}


def converted(function):
    """The operations that the pass converts according to Habana's documentation (the pass itself needs a card).

    Ops of the allowlist always, ops of the conditional list if a neighbour is converted; never an exception.
    """
    found, waiting = set(), set()
    for operation in operations(function):
        excluded = any(re.fullmatch(pattern, operation.name) and type_ in ("", operation.type)
                       for pattern, type_ in LISTS["non_convertible_exceptions"])
        if not excluded and operation.type in LISTS["allowlist"]:
            found.add(operation)
        elif not excluded and operation.type in LISTS["conditional_list"]:
            waiting.add(operation)
    while True:
        more = {operation for operation in waiting if found & neighbours(operation)}
        if not more:
            return found
        found |= more
        waiting -= more


def neighbours(operation):
    return ({tensor.op for tensor in operation.inputs if tensor.dtype == tf.float32}
            | {consumer for tensor in operation.outputs if tensor.dtype == tf.float32
               for consumer in tensor.consumers()})


def of_type(function, *types):
    return [operation for operation in operations(function) if operation.type in types]


def test_the_lists_contain_known_ops_once():
    gaudi.check_bf16_lists(gaudi.BF16_LISTS)
    names = LISTS["allowlist"] + LISTS["conditional_list"]
    assert len(names) == len(set(names))
    for version in VERSIONS:
        assert set(names) - set(known_ops(version)) == FUSED


def test_every_traced_op_is_listed_for_bfloat16_or_for_float32():
    float32 = set(" ".join(KEPT_FLOAT32.values()).split())
    assert not ALLOWED & float32
    assert used_types() | FUSED == ALLOWED | float32


@pytest.mark.parametrize("name", [name for name in GRAPHS if "bfloat16" not in name])
def test_matrix_products_of_the_encoder_are_converted_and_losses_are_not(name):
    for function in graph(name):
        changed = converted(function)
        for product in of_type(function, "MatMul", "BatchMatMulV2"):
            assert (product in changed) == ("KEEP_FP32_PRECISION" not in product.name)
        assert {operation.type for operation in changed} <= ALLOWED
        # Inputs and outputs of losses, sampling and answer search.
        for operation in of_type(function, "SparseSoftmaxCrossEntropyWithLogits", "Log1p", "Log", "ArgMax", "TopKV2",
                                 "LogSoftmax", "Rsqrt"):
            assert not neighbours(operation) & changed, operation.name
        # The output of a softmax may be the input of a product, so only its own scope is checked.
        for operation in of_type(function, "Softmax"):
            assert "KEEP_FP32_PRECISION" in operation.name


def test_the_number_of_converted_products_is_that_of_the_encoders():
    forward = [operation for operation in converted(graph("evaluation float32")[0])
               if operation.type in ("MatMul", "BatchMatMulV2")]
    layers = CONFIG.num_hidden_layers + CONFIG.generator(0.5).num_hidden_layers
    # Per layer: query, key, value, output, two of feed-forward and two of attention. In addition: the discriminator's
    # embedding projection, the first layer of both heads, and the vocabulary logits.
    assert len(forward) == 8 * layers + 4


@pytest.mark.parametrize("name", ["pretraining LAMB 2", "pretraining AdamW 2", "squad joint 2.0 float32 2"])
def test_no_op_of_an_update_is_converted(name):
    accumulate, update = graph(name)
    assert converted(accumulate) and not converted(update)
    whole, = graph(name[:-1] + "1")
    assert len(converted(whole)) == len(converted(accumulate))
