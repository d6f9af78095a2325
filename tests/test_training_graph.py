"""What is traced for training, evaluation and answers stays fit for a Gaudi card: fixed shapes, the card's types,
stateless randomness, known ops; and what its conversion to bfloat16 leaves alone.

hpu_ops_habana_tensorflow_*.txt list the op names found in the device libraries of the habana-tensorflow wheels
1.14.0.493 and 1.6.1.92 (published on PyPI), with the kind of evidence: evidence, not proof, that an op runs on the
card. An op without a kernel falls back to the host, with a copy each way at every step.
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
from configuration import ElectraConfig

DATA = pathlib.Path(__file__).parent / "data"
# Ops placed on the host on purpose, with the reason. None so far.
ON_THE_HOST: dict = {}
CARD_TYPES = {tf.float32, tf.bfloat16, tf.int32, tf.int8, tf.bool}
# The only place for 64-bit numbers: a random op's key or counter.
RANDOM_OPS = {"StatelessRandomUniform"}
# Ops for which a library shows the bare name and no kernel class: the weaker evidence, taken note of here. All are in
# any Transformer's graph but TopKV2 (masked positions, answer search) and StatelessRandomUniform (a class in 1.6.1).
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
    """Every operation of a concrete function, those of nested functions included."""
    found, graphs = [], [function.graph]
    while graphs:
        graph = graphs.pop()
        found += graph.get_operations()
        assert not graph.as_graph_def().library.function, "a nested function would hide its ops from this test"
    return found


CONFIG = ElectraConfig.of_size("tiny", vocab_size=100, max_position_embeddings=32)


def make_step(optimizer_class=optimization.LAMB, accumulation_steps=1, loss_fn=None, compute_dtype=tf.float32,
              **objective):
    model = modeling.PretrainingModel(CONFIG, modeling.Objective(
        (0, 1, 2, 3, 4), 4, 0.15, 4, generator_fraction=0.5, **objective), compute_dtype)
    optimizer = optimization_of(optimizer_class, model)
    loss = model.loss if loss_fn is None else lambda features, seeds: loss_fn(model, features, seeds)
    return model, optimization.TrainStep(loss, model.metric_names, optimizer, accumulation_steps)


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
    """As run_pretraining.make_evaluator traces it."""
    model, _ = make_step(**settings)

    @tf.function(autograph=False)
    def evaluate_batch(features, seeds):
        output = model(features, seeds, training=False)
        return model.loss_of(output, features["input_mask"])[1], output.discriminator_logits, output.labels

    return [evaluate_batch.get_concrete_function(features_of(model, False),
                                                 tf.TensorSpec([model.num_seeds, 2], tf.int32))]


def traced_answers(*settings, compute_dtype=tf.float32):
    model, _ = question_answering(*settings, compute_dtype=compute_dtype)
    return [tf.function(model.answers, autograph=False).get_concrete_function(features_of(model, False))]


# Every graph that runs on a card, by name. On hpu the graph is float32 in every precision; the one of bfloat16 is
# traced for its types.
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
GRAPHS["evaluation mlm"] = lambda: traced_evaluation(objective="mlm")


@functools.lru_cache(maxsize=None)
def graph(name):
    return GRAPHS[name]()


def folded(operation):
    """Whether TensorFlow turns this into a constant before the graph runs.

    2.9.1 traces which axes the gradient of a broadcast sums over, from constant shapes; 2.15 does so while it traces.
    Grappler leaves none (seen with 2.9.1).
    """
    return operation.type == "BroadcastGradientArgs" and all(tensor.op.type == "Const" for tensor in operation.inputs)


def type_of(operation):
    """Its type. tf.nn.gelu, which the bridge replaces, is made of Erf up to the last TensorFlow that a bridge loads
    with (2.15) and of Erfc in 2.21, where it counts as Erf."""
    return "Erf" if operation.type == "Erfc" and "Gelu" in operation.name else operation.type


def used_types():
    return {type_of(operation) for name in GRAPHS for function in graph(name) for operation in operations(function)
            if not folded(operation)}


def complaints(functions):
    """What a card would trip over, a sentence each."""
    found = set()
    lists = {version: known_ops(version) for version in VERSIONS}
    for operation in [operation for function in functions for operation in operations(function)]:
        for version, names in lists.items():
            if type_of(operation) not in names and not (operation.type in ON_THE_HOST and "CPU" in operation.device):
                found.add(f"{operation.type} is not in the op list of {version}")
        if operation.op_def.is_stateful and operation.type not in STATEFUL:
            found.add(f"{operation.type} is stateful")
        if folded(operation) or any(folded(tensor.op) for tensor in operation.inputs):
            continue  # what it yields are the axes of a sum, whose shape is known once they are
        for tensor in (*operation.inputs, *operation.outputs):
            if tensor.dtype != tf.resource and not tensor.shape.is_fully_defined():
                found.add(f"{operation.type} has a dynamic shape")
            if tensor.dtype not in CARD_TYPES | {tf.resource} and operation.type not in RANDOM_OPS:
                found.add(f"{operation.type} computes in {tensor.dtype.name}")
    return sorted(found)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_is_fit_for_the_card(name):
    assert complaints(graph(name)) == []


def test_ops_known_by_their_bare_name_only_are_the_expected_ones():
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


# --- Conversion to bfloat16 (data/bf16_electra.json) ---

LISTS = json.loads(pathlib.Path(gaudi.BF16_LISTS).read_text(encoding="utf-8"))
ALLOWED = {*LISTS["allowlist"], *LISTS["conditional_list"]}
# The bridge's own GELU, which is in its libraries and not in the op lists: those name TensorFlow's ops.
FUSED = {"HabanaGelu", "HabanaGeluGrad"}
# Float32 on purpose.
LEFT_ALONE = {
    "softmax, losses and metrics": "Softmax LogSoftmax SparseSoftmaxCrossEntropyWithLogits Exp Log Log1p Reciprocal "
                                   "Equal NotEqual Greater GreaterEqual Less LogicalAnd ArgMax TopKV2",
    "statistics and sums: layer norm's mean and deviation, gradients of biases": "Mean Sum Square Rsqrt Sub AddN",
    "the plain GELU and its gradient, which the bridge replaces": "Erf Neg",
    "the question-answering head, small": "Tanh TanhGrad",
    "masking and sampling": "StatelessRandomUniform Maximum Minimum Round Select SelectV2 OneHot",
    "the optimizer": "L2Loss Sqrt MulNoNan RealDiv Pow IsFinite LogicalOr",
    "tables, whose rows would be cast at every step": "GatherV2 UnsortedSegmentSum TensorScatterUpdate",
    "variables, and what moves values between ops of either type":
        "AssignAddVariableOp AssignSubVariableOp AssignVariableOp ReadVariableOp Cast Const ConcatOffset ConcatV2 "
        "ExpandDims Fill FloorMod IdentityN InvertPermutation NoOp Pack Placeholder Range Slice Squeeze StopGradient "
        "StridedSlice StridedSliceGrad Tile Unpack",
}


def converted(function):
    """The operations that Habana's documentation lets the pass convert (not the pass itself, which needs a card).

    The allow-list always; the conditional list where a neighbour is converted; never an exception's name.
    """
    found, waiting = set(), set()
    for operation in operations(function):
        spared = any(re.fullmatch(pattern, operation.name) and type_ in ("", operation.type)
                     for pattern, type_ in LISTS["non_convertible_exceptions"])
        if not spared and operation.type in LISTS["allowlist"]:
            found.add(operation)
        elif not spared and operation.type in LISTS["conditional_list"]:
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


def test_lists_name_known_ops_once():
    gaudi.check_bf16_lists(gaudi.BF16_LISTS)
    names = LISTS["allowlist"] + LISTS["conditional_list"]
    assert len(names) == len(set(names))
    for version in VERSIONS:
        assert set(names) - set(known_ops(version)) == FUSED


def test_every_traced_op_is_allowed_or_left_alone_on_purpose():
    alone = set(" ".join(LEFT_ALONE.values()).split())
    assert not ALLOWED & alone
    assert used_types() | FUSED == ALLOWED | alone


@pytest.mark.parametrize("name", [name for name in GRAPHS if "bfloat16" not in name])
def test_encoder_products_are_converted_and_the_rest_of_the_mathematics_is_not(name):
    for function in graph(name):
        changed = converted(function)
        for product in of_type(function, "MatMul", "BatchMatMulV2"):
            assert (product in changed) == ("KEEP_FP32_PRECISION" not in product.name)
        assert {operation.type for operation in changed} <= ALLOWED
        # What goes into a loss, a sample or an answer, and what comes out of it.
        for operation in of_type(function, "SparseSoftmaxCrossEntropyWithLogits", "Log1p", "Log", "ArgMax", "TopKV2",
                                 "LogSoftmax", "Rsqrt"):
            assert not neighbours(operation) & changed, operation.name
        # What comes out of a softmax may enter a product at once; its gradient is softmax mathematics.
        for operation in of_type(function, "Softmax"):
            assert "KEEP_FP32_PRECISION" in operation.name


def test_as_many_products_are_converted_as_the_encoders_have():
    forward = [operation for operation in converted(graph("evaluation float32")[0])
               if operation.type in ("MatMul", "BatchMatMulV2")]
    layers = CONFIG.num_hidden_layers + CONFIG.generator(0.5).num_hidden_layers
    # In a layer query, key, value, output, two of the feed-forward and two of attention; besides the discriminator's
    # projection of the embeddings, the heads' first layers and the projection to the vocabulary.
    assert len(forward) == 8 * layers + 4


@pytest.mark.parametrize("name", ["pretraining LAMB 2", "pretraining AdamW 2", "squad joint 2.0 float32 2"])
def test_nothing_of_an_update_is_converted(name):
    accumulate, update = graph(name)
    assert converted(accumulate) and not converted(update)
    whole, = graph(name[:-1] + "1")
    assert len(converted(whole)) == len(converted(accumulate))
