"""modeling: golden outputs, numpy references written from the papers, and properties of ELECTRA."""
from __future__ import annotations

import dataclasses
import math
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

import fused
import modeling
import pretrain_utils
from electra_config import SIZES, ElectraConfig

# Outputs and weights of the NVIDIA/Habana TF2 recipe's discriminator and generator, random weights, TensorFlow 2.9.1,
# float32, cpu, 2026-11-22; inputs in/*, weights w/<model>/<variable>. Change only together with that source.
GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "tiny_electra.npz")
GOLDEN_CONFIG = ElectraConfig(
    vocab_size=120, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=40,
    initializer_range=0.2)

CONFIG = ElectraConfig(vocab_size=50, embedding_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                       intermediate_size=24, max_position_embeddings=24, initializer_range=0.2)
OBJECTIVE = modeling.Objective(special_ids=(0, 1, 2, 3, 4), mask_id=4, mask_prob=0.15, max_predictions_per_seq=3)
SMALL_STEP = 1e-5  # one float32 operation after another: rounding grows to a few times 1e-6


def make_model(seed=0, compute_dtype=tf.float32, config=CONFIG, **changes):
    return modeling.PretrainingModel(config, OBJECTIVE._replace(**changes), compute_dtype, seed)


def make_features(batch=3, length=20, seed=0, vocab_size=50):
    """Sequences of different lengths with [CLS] 2 and [SEP] 3."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, vocab_size, [batch, length]).astype(np.int32)
    mask = np.zeros([batch, length], np.int32)
    for row in range(batch):
        real = length - 4 * row
        mask[row, :real] = 1
        ids[row, 0], ids[row, real - 1] = 2, 3
    segments = (np.arange(length) > length // 2).astype(np.int32) * mask
    return {"input_ids": ids * mask, "input_mask": mask, "segment_ids": segments}


def make_seeds(model, number=0):
    return pretrain_utils.fold_seeds([7, number], model.num_seeds)


# --- Golden ---


def released_name(variable):
    """The name of our variable in the recipe that wrote the golden file."""
    name = variable.name.split(":")[0].replace("/layer_", "/layer_._")
    name = name.replace("discriminator_predictions/dense_1", "discriminator_predictions/dense_prediction")
    name = name.replace("end_logit_pooler/LayerNorm", "end_logit_pooler_LayerNorm")
    for ours, theirs in (("word_embeddings", "word_embeddings/weight"),
                         ("position_embeddings", "position_embeddings/embeddings"),
                         ("token_type_embeddings", "token_type_embeddings/embeddings"),
                         ("generator_predictions/output_bias", "generator_lm_head/bias")):
        name = name.replace(ours, theirs)
    return name


def golden_weights(which):
    """Golden weights by `released_name`, which omits the name of the model."""
    return {re.sub("^tf_[^/]*/", "", key[len(f"w/{which}/"):]): GOLDEN[key] for key in GOLDEN.files
            if key.startswith(f"w/{which}/")}


@pytest.mark.parametrize("which", ["discriminator", "generator"])
def test_logits_equal_the_golden_ones(which):
    make = modeling.VariableMaker(0, 0.2)
    embeddings = modeling.Embeddings(GOLDEN_CONFIG, "electra/embeddings", make)
    encoder = modeling.Encoder(GOLDEN_CONFIG, "electra", make, tf.float32)
    head_class = modeling.DiscriminatorHead if which == "discriminator" else modeling.GeneratorHead
    head = head_class(GOLDEN_CONFIG, make, tf.float32)
    weights = golden_weights(which)
    for variable in (*embeddings.variables, *encoder.variables, *head.variables):
        variable.assign(weights.pop(released_name(variable)))
    assert not weights, "every golden weight has its place"

    ids, mask, segments = (tf.constant(GOLDEN[f"in/{name}"])
                           for name in ("input_ids", "attention_mask", "token_type_ids"))
    hidden = encoder(embeddings(ids, segments), mask, iter([None] * 99))
    logits = head(hidden) if which == "discriminator" else head(hidden, embeddings.word_embeddings)
    expected = GOLDEN[f"{which}/logits"]
    np.testing.assert_allclose(logits.numpy().reshape(expected.shape), expected, rtol=1e-5, atol=5e-6)


# --- Question answering: golden ---


def question_answering(which, **changes):
    """The golden model with a head, its features, and the golden arrays by short name."""
    model = modeling.QuestionAnswering(GOLDEN_CONFIG, joint_head=which != "independent", beam_size=4,
                                       version_2=which == "joint_v2", **changes)
    weights = golden_weights(which)
    for variable in model.trainable_variables:
        variable.assign(weights.pop(released_name(variable)))
    assert not weights, "every golden weight has its place"
    features = {"input_ids": "input_ids", "input_mask": "attention_mask", "segment_ids": "token_type_ids",
                "p_mask": "p_mask", "start_positions": "start_positions", "end_positions": "end_positions",
                "is_impossible": "is_impossible"}
    features = {ours: tf.constant(GOLDEN[f"in/{theirs}"], tf.int32) for ours, theirs in features.items()}
    golden = {key[len(which) + 1:]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"{which}/")}
    return model, {**features, "weights": tf.ones([3]), "num_examples": tf.constant(3.0)}, golden


QA_ROUNDING = dict(rtol=1e-5, atol=1e-5)


def test_the_independent_head_equals_the_golden_one():
    model, features, golden = question_answering("independent")
    found = model.answers(features)
    for name in ("start_logits", "end_logits"):
        np.testing.assert_allclose(found[name], golden[name], **QA_ROUNDING)


@pytest.mark.parametrize("which", ["joint_v1", "joint_v2"])
def test_the_joint_head_equals_the_golden_one_at_inference(which):
    model, features, golden = question_answering(which)
    found = model.answers(features)
    assert ("answerability_logits" in found) == (which == "joint_v2")
    if which == "joint_v2":
        np.testing.assert_allclose(found["answerability_logits"], golden["infer/cls_logits"], **QA_ROUNDING)
    np.testing.assert_array_equal(found["start_index"], golden["infer/start_top_index"])
    possible = golden["infer/end_top_log_probs"] > -1e29  # ties among impossible ends are in no order
    for ours, theirs in (("start_log_probs", "start_top_log_probs"), ("end_log_probs", "end_top_log_probs")):
        np.testing.assert_allclose(np.reshape(found[ours], golden[f"infer/{theirs}"].shape),
                                   golden[f"infer/{theirs}"], **QA_ROUNDING)
    np.testing.assert_array_equal(np.reshape(found["end_index"], possible.shape)[possible],
                                  golden["infer/end_top_index"][possible])


@pytest.mark.parametrize("which", ["joint_v1", "joint_v2"])
def test_the_joint_heads_training_loss_is_that_of_the_golden_logits(which):
    model, features, golden = question_answering(which, answerability_from_gold=True)
    seeds = make_seeds(model)

    def cross_entropy(logits, labels):
        logits = np.where(logits < -1e29, -np.inf, logits.astype(np.float64))
        return np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(3), labels])

    starts, ends = golden["train/start_logits"], golden["train/end_logits"]
    gold_starts, gold_ends = GOLDEN["in/start_positions"], GOLDEN["in/end_positions"]
    expected = (cross_entropy(starts, gold_starts) + cross_entropy(ends, gold_ends)) / 2
    if which == "joint_v2":
        logits, impossible = golden["train/cls_logits"].astype(np.float64), GOLDEN["in/is_impossible"]
        expected += 0.5 * np.mean(np.log1p(np.exp(logits)) - logits * impossible)
    loss, sums = model.loss(features, seeds)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(sums["start_correct"]) == (starts.argmax(-1) == gold_starts).sum()
    assert float(sums["end_correct"]) == (ends.argmax(-1) == gold_ends).sum()


def test_answerability_in_training_does_not_see_the_gold_start():
    model, features, _ = question_answering("joint_v2")
    leaky, _, _ = question_answering("joint_v2", answerability_from_gold=True)
    possible = [np.flatnonzero(row == 0) for row in GOLDEN["in/p_mask"]]
    moved = {**features, "start_positions": tf.constant([row[-1] for row in possible], tf.int32)}

    def answerability_loss(model, features):
        """The difference of the losses with `is_impossible` and with its opposite: start and end losses cancel."""
        flipped = {**features, "is_impossible": 1 - features["is_impossible"]}
        seeds = make_seeds(model)
        return float(model.loss(features, seeds)[0] - model.loss(flipped, seeds)[0])

    assert answerability_loss(model, features) == pytest.approx(answerability_loss(model, moved), abs=1e-6)
    assert abs(answerability_loss(leaky, features) - answerability_loss(leaky, moved)) > 1e-3


@pytest.mark.parametrize("which", ["joint_v2", "independent"])
def test_examples_of_weight_0_and_padding_change_neither_loss_nor_gradient(which):
    model, features, _ = question_answering(which)
    features["num_examples"] = tf.constant(2.0)
    two = {name: value[:2] if len(value.shape) else value for name, value in features.items()}
    filled = {**features, "weights": tf.constant([1.0, 1.0, 0.0])}
    longer = {name: tf.pad(value, [[0, 0], [0, 5]], constant_values=int(name == "p_mask")) if len(value.shape) == 2
              else value for name, value in two.items()}
    results = []
    for batch in (two, filled, longer):
        with tf.GradientTape() as tape:
            loss, sums = model.loss(batch, make_seeds(model))
        results.append((loss, tape.gradient(loss, model.trainable_variables), sums))
    for loss, gradients, sums in results[1:]:
        if which == "independent" and loss is results[2][0]:
            continue  # its softmax is over all positions, padding too, as in Hugging Face
        assert float(loss) == pytest.approx(float(results[0][0]), rel=1e-5)
        assert float(sums["examples"]) == 2
        for gradient, expected in zip(gradients, results[0][1]):
            np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-6)


# --- Classification, regression and tagging ---


def task_model(kind, **config):
    config = dataclasses.replace(CONFIG, **config)
    if kind == "tags":
        return modeling.TokenClassification(config, 4, seed=3)
    return modeling.SequenceClassification(config, 1 if kind == "regression" else 4, kind, seed=3)


def task_features(kind, batch=3):
    features = make_features(batch)
    rng = np.random.default_rng(2)
    labels = {"single_label": rng.integers(0, 4, batch).astype(np.int32),
              "multi_label": rng.integers(0, 2, [batch, 4]).astype(np.float32),
              "regression": rng.normal(size=batch).astype(np.float32),
              "tags": np.where(features["input_mask"] * rng.integers(0, 2, [batch, 20]) > 0,
                               rng.integers(0, 4, [batch, 20]), -1).astype(np.int32)}[kind]
    return {**features, "labels": labels, "weights": np.ones(batch, np.float32),
            "num_labelled" if kind == "tags" else "num_examples":
                np.float32(np.sum(labels >= 0) if kind == "tags" else batch)}


NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
PROBLEMS = [*modeling.PROBLEMS, "tags"]


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_losses_of_classification_and_tagging_are_the_formulas(kind, weighted):
    model, features = task_model(kind, **NO_DROPOUT), task_features(kind)
    class_weights = np.float32([0.5, 2.0, 1.0, 3.0] if weighted else [1.0] * 4)
    given = {**features, **({"class_weights": class_weights} if weighted else {})}
    loss, sums = model.loss({name: tf.constant(value) for name, value in given.items()}, make_seeds(model))
    logits, labels = model.logits(features).numpy().astype(np.float64), features["labels"]
    if kind == "regression":
        expected, correct = np.mean((logits[:, 0] - labels) ** 2), 0
    elif kind == "multi_label":
        probability = 1 / (1 + np.exp(-logits))
        expected = -np.mean(class_weights * labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
        correct = np.sum(((logits > 0) == labels).all(-1))
    else:
        rows = labels >= 0
        chosen = np.take_along_axis(log_softmax(logits), np.maximum(labels, 0)[..., None], -1)[..., 0]
        expected = -np.mean((chosen * class_weights[labels])[rows])
        correct = np.sum((logits.argmax(-1) == labels)[rows])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(sums["correct"]) == correct and float(sums["examples"]) == 3
    assert float(sums["tokens"]) == features["input_mask"].sum()
    assert set(sums) == set(model.metric_names)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_padding_and_examples_of_weight_0_change_neither_loss_nor_gradient_of_a_task(kind):
    model, features = task_model(kind, **NO_DROPOUT), task_features(kind)
    divisor = "num_labelled" if kind == "tags" else "num_examples"
    features[divisor] = np.float32(2.0)
    two = {name: value[:2] if np.ndim(value) else value for name, value in features.items()}
    filled = {**features, "weights": np.float32([1, 1, 0])}
    longer = {name: np.pad(value, [[0, 0], [0, 4]], constant_values=-1 if name == "labels" else 0)
              if np.shape(value) == (2, 20) else value for name, value in two.items()}
    results = []
    for batch in (two, filled, longer):
        with tf.GradientTape() as tape:
            loss, sums = model.loss({name: tf.constant(value) for name, value in batch.items()}, make_seeds(model))
        results.append((float(loss), tape.gradient(loss, model.trainable_variables), sums))
    for loss, gradients, sums in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert {name: float(value) for name, value in sums.items()} == {
            name: float(value) for name, value in results[0][2].items()}
        for gradient, expected in zip(gradients, results[0][1]):
            np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("kind", ["single_label", "tags"])
def test_every_seed_row_of_a_task_head_drops_something_in_training(kind):
    """CONFIG has dropout; the last rows are the head's."""
    model, features = task_model(kind), task_features(kind)
    features = {name: tf.constant(value) for name, value in features.items()}
    seeds = make_seeds(model)
    loss = float(model.loss(features, seeds)[0])
    assert loss == float(model.loss(features, seeds)[0])
    for row in range(model.num_seeds - model.head_seeds, model.num_seeds):
        changed = np.array(seeds)
        changed[row] += 1
        assert float(model.loss(features, changed)[0]) != loss
    np.testing.assert_array_equal(model.logits(features), model.logits(features))


# --- Functions of tensors against numpy ---


def test_layer_norm_is_the_formula_and_its_gradient_the_differentiated_formula():
    rng = np.random.default_rng(1)
    x, gamma, beta, upstream = (tf.constant(rng.normal(size=size), tf.float32)
                                for size in ([7, 5], [5], [5], [7, 5]))

    def formula(x, gamma, beta):
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-12) * gamma + beta

    results = []
    for function in (lambda *args: modeling.layer_norm(*args, 1e-12), formula):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y = function(x, gamma, beta)
        results.append([y, *tape.gradient(y, [x, gamma, beta], upstream)])
    for ours, reference in zip(*results):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=SMALL_STEP)


def test_rows_at_gives_rows_and_adds_up_the_gradients_of_repeated_ids():
    table = tf.constant(np.arange(12.0).reshape(4, 3), tf.float32)
    ids = tf.constant([2, 0, 2])
    with tf.GradientTape() as tape:
        tape.watch(table)
        rows = modeling.rows_at(table, ids)
    np.testing.assert_array_equal(rows, table.numpy()[[2, 0, 2]])
    upstream = tf.constant([[1.0, 2, 3], [4, 5, 6], [10, 20, 30]])
    gradient = tape.gradient(rows, table, upstream)
    np.testing.assert_array_equal(gradient, [[4, 5, 6], [0, 0, 0], [11, 22, 33], [0, 0, 0]])


def test_attention_equals_a_float64_numpy_version():
    rng = np.random.default_rng(2)
    batch, heads, length, size = 2, 3, 5, 4
    query, key, value = (rng.normal(size=[batch, heads, length, size]) for _ in range(3))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = np.zeros_like(query)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                scores = np.array([query[b, h, i] @ key[b, h, j] / math.sqrt(size) for j in range(length)])
                weights = np.exp(scores - scores.max()) * mask[b]
                expected[b, h, i] = weights @ value[b, h] / weights.sum()
    bias = (1 - mask[:, None, None, :]) * -1e9
    actual = modeling.attention(*(tf.constant(x, tf.float32) for x in (query, key, value, bias)), 0.0, None, tf.float32)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=SMALL_STEP)


def test_dropout_keeps_the_mean_zeroes_its_share_and_follows_its_seed():
    x = tf.ones([200, 300])
    seed, other = pretrain_utils.fold_seeds([1], 2)
    y = modeling.dropout(x, 0.1, seed).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.9)}
    assert abs((y == 0).mean() - 0.1) < 0.005  # 4 standard deviations of 60,000 draws
    np.testing.assert_array_equal(y, modeling.dropout(x, 0.1, seed))
    assert (y != modeling.dropout(x, 0.1, other).numpy()).any()
    assert modeling.dropout(x, 0.1, None) is x


# --- The model ---


@pytest.mark.parametrize("size", list(SIZES))
def test_parameter_count_follows_from_the_sizes(size):
    """Computed by hand from the table of sizes, and for the encoders from the description of BERT."""
    config = dataclasses.replace(ElectraConfig.of_size(size), vocab_size=97, num_hidden_layers=1)
    width, inner, embedding = config.hidden_size, config.intermediate_size, config.embedding_size
    fraction = {"tiny": 1 / 2, "small": 1 / 4, "base": 1 / 3, "large": 1 / 4}[size]

    def encoder(width, inner):
        layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
        return layer + (embedding * width + width if embedding != width else 0)

    narrow = {"tiny": 64, "small": 64, "base": 256, "large": 256}[size]
    rows = 104  # 97 rounded up to a multiple of 8
    expected = ((rows + 512 + 2 + 2) * embedding + encoder(width, inner) + width * width + 2 * width + 1
                + encoder(narrow, 4 * narrow) + narrow * embedding + 3 * embedding + rows)
    model = make_model(config=config, generator_fraction=fraction)
    assert sum(variable.shape.num_elements() for variable in model.trainable_variables) == expected


def test_initial_values_depend_on_the_seed_and_the_name_alone():
    first, again, other = make_model(seed=3), make_model(seed=3), make_model(seed=4)
    wider = make_model(seed=3, config=dataclasses.replace(CONFIG, num_hidden_layers=3))
    for variable, same in zip(first.trainable_variables, again.trainable_variables):
        np.testing.assert_array_equal(variable, same)
    kernel = first.encoder.layers[1].query.kernel
    assert (kernel.numpy() != other.encoder.layers[1].query.kernel.numpy()).any()
    np.testing.assert_array_equal(kernel, wider.encoder.layers[1].query.kernel)
    values = first.encoder.layers[0].intermediate.kernel.numpy()
    assert abs(values).max() <= 2 * CONFIG.initializer_range  # cut at two standard deviations
    assert abs(values.std() / (0.8796 * CONFIG.initializer_range) - 1) < 0.1  # std of the cut normal is 0.8796
    assert (values != first.encoder.layers[0].output.kernel.numpy().T).any()
    with modeling.without_initial_values():
        empty = make_model(seed=3)
    assert not empty.encoder.layers[1].query.kernel.numpy().any()
    np.testing.assert_array_equal(make_model(seed=3).encoder.layers[1].query.kernel, kernel)  # drawn again outside


def test_variable_names_are_unique_and_those_of_the_released_checkpoints():
    names = [variable.name.split(":")[0] for variable in make_model().trainable_variables]
    assert len(set(names)) == len(names)
    assert {"electra/embeddings/word_embeddings", "electra/embeddings/LayerNorm/gamma",
            "generator/embeddings_project/bias", "generator/encoder/layer_1/attention/output/LayerNorm/beta",
            "electra/encoder/layer_0/output/dense/kernel", "generator_predictions/output_bias",
            "discriminator_predictions/dense_1/kernel"} <= set(names)


@pytest.mark.parametrize("padding_id", [0, 9, 49])
def test_padded_ids_do_not_matter(padding_id):
    model, features = make_model(), make_features()
    padding = features["input_mask"] == 0
    changed = {**features, "input_ids": np.where(padding, padding_id, features["input_ids"]).astype(np.int32)}
    seeds = make_seeds(model)
    before, after = (model(f, seeds, training=True) for f in (features, changed))
    real = ~padding
    np.testing.assert_allclose(before.discriminator_logits.numpy()[real], after.discriminator_logits.numpy()[real],
                               rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.loss_of(before, features["input_mask"])[0],
                               model.loss_of(after, features["input_mask"])[0], rtol=1e-6)


def gradient_sizes(model, loss_of):
    features = make_features()
    with tf.GradientTape() as tape:
        loss = loss_of(model(features, make_seeds(model), training=True), features)
    gradients = tape.gradient(loss, model.trainable_variables)
    return {v.name: 0.0 if g is None else float(tf.norm(g)) for v, g in zip(model.trainable_variables, gradients)}


def test_the_discriminator_does_not_train_the_generator_and_the_reverse():
    model = make_model()
    of_discriminator = gradient_sizes(model, lambda out, _: tf.reduce_sum(out.discriminator_losses))
    of_generator = gradient_sizes(model, lambda out, _: tf.reduce_sum(out.generator_losses))
    own_of_generator = [v.name for v in (*model.generator.trainable_variables,
                                         *model.generator_head.trainable_variables)]
    own_of_discriminator = [v.name for v in (*model.encoder.trainable_variables,
                                             *model.discriminator_head.trainable_variables)]
    assert all(of_discriminator[name] == 0 for name in own_of_generator)
    assert all(of_generator[name] == 0 for name in own_of_discriminator)
    assert of_generator[own_of_generator[0]] > 0 and of_discriminator[own_of_discriminator[0]] > 0
    shared = model.embeddings.word_embeddings.name
    assert of_discriminator[shared] > 0 and of_generator[shared] > 0


def test_loss_and_metrics_are_the_papers_formulas():
    model, features = make_model(disc_weight=50.0), make_features()
    output = model(features, make_seeds(model), training=False)
    loss, sums = model.loss_of(output, features["input_mask"])
    mask, weights, labels = features["input_mask"], output.masked.weights.numpy(), output.labels.numpy()

    logits = output.generator_logits.numpy().astype(np.float64).reshape(*weights.shape, -1)
    original = output.masked.original_ids.numpy()
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    cross_entropy = -np.take_along_axis(log_probs, original[..., None], -1)[..., 0]
    generator_loss = (cross_entropy * weights).sum() / weights.sum()
    probability = 1 / (1 + np.exp(-output.discriminator_logits.numpy().astype(np.float64)))
    binary = -(labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
    discriminator_loss = (binary * mask).sum() / mask.sum()
    np.testing.assert_allclose(loss, generator_loss + 50 * discriminator_loss, rtol=1e-5)

    share = labels.sum() / mask.sum()  # the best constant probability
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    predicted = (probability > 0.5) & (mask > 0)
    means = modeling.ratios({name: float(value) for name, value in sums.items()})
    expected = {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss,
                "generator_accuracy": ((logits.argmax(-1) == original) * weights).sum() / weights.sum(),
                "discriminator_accuracy": ((predicted == (labels > 0)) & (mask > 0)).sum() / mask.sum(),
                "discriminator_precision": (predicted & (labels > 0)).sum() / max(predicted.sum(), 1),
                "discriminator_recall": (predicted & (labels > 0)).sum() / max(labels.sum(), 1),
                "discriminator_gain": 1 - discriminator_loss / entropy}
    assert {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()} == means


def test_labels_mark_exactly_the_masked_positions_that_changed():
    model, features = make_model(), make_features(batch=4)
    output = model(features, make_seeds(model), training=True)
    changed = output.corrupted_ids.numpy() != features["input_ids"]
    np.testing.assert_array_equal(output.labels.numpy(), changed)
    for row in range(4):
        drawn = output.masked.positions.numpy()[row][output.masked.weights.numpy()[row] > 0]
        assert set(np.flatnonzero(changed[row])) <= set(drawn)


def test_eager_equals_graph_and_seeds_decide():
    model, features = make_model(), make_features()
    graph = tf.function(model.loss, autograph=False)
    seeds = make_seeds(model)
    np.testing.assert_allclose(graph(features, seeds)[0], model.loss(features, seeds)[0], rtol=1e-5)
    assert float(graph(features, seeds)[0]) == float(graph(features, seeds)[0])
    assert float(graph(features, seeds)[0]) != float(graph(features, make_seeds(model, 1))[0])


def test_every_row_of_seeds_is_used_once():
    """Too few rows would end the pass with StopIteration, too many would go unnoticed."""
    model, features = make_model(), make_features()
    losses = set()
    for row in range(model.num_seeds):
        seeds = make_seeds(model)
        seeds[row] += 1
        losses.add(float(model.loss(features, seeds)[0]))
    assert len(losses) == model.num_seeds


def test_padding_rows_of_the_vocabulary_are_never_sampled():
    model, features = make_model(), make_features(batch=4)
    model.embeddings.word_embeddings.assign(tf.zeros_like(model.embeddings.word_embeddings))  # flat logits
    assert CONFIG.padded_vocab_size == 56
    seen = set()
    for number in range(40):
        seen |= set(model(features, make_seeds(model, number), training=False).corrupted_ids.numpy().ravel())
    assert max(seen) < 50 and len(seen) > 45


def test_bfloat16_stays_near_float32_and_keeps_float32_variables():
    exact, rounded = make_model(), make_model(compute_dtype=tf.bfloat16)
    assert {variable.dtype for variable in rounded.variables} == {tf.float32}
    features, seeds = make_features(), make_seeds(exact)
    reference, actual = exact(features, seeds, training=False), rounded(features, seeds, training=False)
    assert actual.generator_logits.dtype == actual.discriminator_logits.dtype == tf.float32
    difference = np.abs(actual.generator_logits - reference.generator_logits)[:, :50].mean()
    size = np.abs(reference.generator_logits.numpy()[:, :50]).mean()
    assert 0 < difference < 0.03 * size  # bfloat16 keeps 8 bits, half a step is 0.2%; seeds 0 to 5 give 0.6 to 1.7%


# --- Objectives ---


def test_disallow_correct_never_samples_the_original_token():
    model, features = make_model(disallow_correct=True), make_features(batch=4)
    for number in range(5):
        output = model(features, make_seeds(model, number), training=True)
        np.testing.assert_array_equal(output.labels.numpy().sum(-1), output.masked.weights.numpy().sum(-1))


def test_low_temperature_samples_the_most_likely_token():
    model, features = make_model(temperature=0.01), make_features()
    output = model(features, make_seeds(model), training=False)
    best = output.generator_logits.numpy().argmax(-1).reshape(output.masked.positions.shape)
    sampled = np.take_along_axis(output.corrupted_ids.numpy(), output.masked.positions.numpy(), 1)
    used = output.masked.weights.numpy() > 0
    assert (sampled == best)[used].mean() > 0.7  # at temperature 1 about one in fifty


def test_mlm_trains_the_full_size_encoder_and_nothing_else():
    model = make_model(objective="mlm")
    sizes = gradient_sizes(model, lambda out, features: model.loss_of(out, features["input_mask"])[0])
    # A key's bias shifts all scores alike, so its gradient is rounding.
    assert all(size > 0 for name, size in sizes.items() if "/key/bias" not in name)
    assert {name.split("/")[0] for name in sizes} == {"electra", "generator_predictions"}


def test_tied_generator_is_the_discriminators_encoder():
    model = make_model(generator="tied")
    assert model.generator is model.encoder
    of_generator = gradient_sizes(model, lambda out, _: tf.reduce_sum(out.generator_losses))
    assert of_generator["electra/encoder/layer_0/attention/self/query/kernel:0"] > 0


def test_uniform_generator_has_no_weights_and_draws_every_token():
    model, features = make_model(generator="uniform"), make_features(batch=4)
    assert not any(variable.name.startswith("generator") for variable in model.variables)
    seen = set()
    for number in range(40):
        output = model(features, make_seeds(model, number), training=False)
        seen |= set(output.corrupted_ids.numpy()[output.labels.numpy() > 0])
    assert len(seen) > 45 and max(seen) < 50
    assert "generator_loss" not in modeling.ratios(
        {name: float(value) for name, value in model.loss_of(output, features["input_mask"])[1].items()})


def test_own_embeddings_are_trained_by_the_generator_alone():
    model = make_model(share_embeddings=False)
    of_generator = gradient_sizes(model, lambda out, _: tf.reduce_sum(out.generator_losses))
    assert of_generator["generator/embeddings/word_embeddings:0"] > 0
    assert of_generator["electra/embeddings/word_embeddings:0"] == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputed_layers_give_the_same_update_and_keep_less(compiled, monkeypatch):
    """Dropout included; the products of a layer are in the graph twice.

    Bit for bit where compiled; else graph optimization sums the gradients of a layer's input in another order.
    """
    monkeypatch.setattr(fused, "ENABLED", compiled)
    config = ElectraConfig.of_size("tiny", vocab_size=40, max_position_embeddings=16)
    rng = np.random.default_rng(3)
    features = {name: tf.constant(rng.integers(5, 40, [2, 16]), tf.int32) for name in ("input_ids", "segment_ids")}
    features.update(input_mask=tf.ones([2, 16], tf.int32), segment_ids=tf.zeros([2, 16], tf.int32))
    results, products = [], []
    for recompute in (False, True):
        model = modeling.PretrainingModel(config, modeling.Objective((0, 1, 2, 3, 4), 4, 0.15, 3))
        if recompute:
            modeling.recompute_layers(model)

        @tf.function(autograph=False)
        def gradients(features, seeds, model=model):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(model.trainable_variables)
                loss, _ = model.loss(features, seeds)
            return [loss, *tape.gradient(loss, model.trainable_variables)]

        seeds = tf.constant(np.random.default_rng(4).integers(0, 2 ** 30, [model.num_seeds, 2]), tf.int32)
        results.append([value.numpy() for value in gradients(features, seeds)])
        graph = gradients.get_concrete_function(features, seeds).graph
        products.append(sum(op.type in ("MatMul", "BatchMatMulV2") for op in graph.get_operations()))
    np.testing.assert_array_equal(results[1][0], results[0][0])  # the loss
    for plain, again in zip(*results):
        np.testing.assert_allclose(again, plain, rtol=0 if compiled else 1e-4, atol=0 if compiled else 1e-6)
    assert products[1] == products[0] + 8 * 2 * config.num_hidden_layers
