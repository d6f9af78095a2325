"""optimization.py against golden numbers (tests/data) and float64 numpy written from the papers."""
import contextlib
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

import fused
import modeling
import optimization
from electra_config import ElectraConfig
from optimization import LAMB, AdamW, Optimizer, Schedule, TrainStep, is_bias_or_norm, layerwise_multipliers
from workers import Workers


def constant_rate(rate):
    return Schedule(rate, num_train_steps=1000, num_warmup_steps=0, power=0.0)


def variables_of(values, names):
    return [tf.Variable(np.array(value, np.float32), name=name) for value, name in zip(values, names)]


def values_of(variables):
    return [variable.numpy() for variable in variables]


def update(optimizer, gradients, scale=1.0, finite=True):
    """One optimizer update, as TrainStep runs it."""
    optimizer.apply(gradients, tf.convert_to_tensor(optimizer.step), scale, finite)
    optimizer.count(finite)


# --- Schedule ---


def slow_schedule(step, peak, total, warmup, power, end):
    if step < warmup:
        return peak * step / warmup
    return (peak - end) * (1 - min(1.0, (step - warmup) / (total - warmup))) ** power + end


@pytest.mark.parametrize("case", range(3))
def test_rate_is_that_of_the_recipe_at_every_update(case, golden):
    expected = golden("schedules.json")["cases"][case]
    schedule = Schedule(expected["peak"], expected["total_steps"], expected["warmup_steps"], expected["power"],
                        expected["end"])
    rates = [float(schedule(tf.constant(step))) for step in range(len(expected["values"]))]
    # a few float32 roundings; near the end 1 - done cancels, which the last term allows for
    np.testing.assert_allclose(rates, expected["values"], rtol=2e-6, atol=1e-6 * expected["peak"])


@pytest.mark.parametrize("peak, total, warmup, power, end", [
    (6e-3, 10000, 2000, 0.5, 0.0), (1.0, 100, 10, 1.0, 0.0), (0.5, 7, 3, 2.0, 0.1), (0.5, 7, 0, 2.0, 0.1),
    (1.0, 2, 1, 0.5, 0.0)])
def test_rate_warms_up_to_the_peak_without_a_jump_and_decays_to_the_end(peak, total, warmup, power, end):
    schedule = Schedule(peak, total, warmup, power, end)

    def rate(step):
        return float(schedule(tf.constant(step)))

    for step in {0, 1, warmup - 1, warmup, warmup + 1, (warmup + total) // 2, total - 1, total, total + 5}:
        if step >= 0:
            expected = slow_schedule(step, peak, total, warmup, power, end)
            np.testing.assert_allclose(rate(step), expected, rtol=1e-5, atol=1e-6 * peak)  # float32
    assert rate(warmup) == np.float32(peak)
    np.testing.assert_allclose(rate(total), end, atol=1e-7)
    np.testing.assert_allclose(rate(total + 100), end, atol=1e-7)
    if warmup:
        assert rate(0) == 0.0
        np.testing.assert_allclose(rate(warmup) - rate(warmup - 1), peak / warmup, rtol=1e-3)  # the last warm-up step


# --- Weight decay and learning rates by variable ---


def pretraining_variables(size="tiny"):
    config = ElectraConfig.of_size(size, vocab_size=50)
    generator = config.generator(0.5)
    make = modeling.VariableMaker(0, 0.02)
    modules = [modeling.Embeddings(config, "electra/embeddings", make),
               modeling.Encoder(generator, "generator", make, tf.float32),
               modeling.GeneratorHead(generator, make, tf.float32),
               modeling.Encoder(config, "electra", make, tf.float32),
               modeling.DiscriminatorHead(config, make, tf.float32)]
    return list(itertools.chain.from_iterable(module.trainable_variables for module in modules))


def test_biases_and_norms_of_our_networks_are_recognised_by_name():
    variables = pretraining_variables()
    assert len(variables) == 5 + (2 * 16) + (2 + 2 * 16) + 5 + 4  # embeddings, encoders, heads
    for variable in variables:  # whatever the names: exactly vectors are biases, gammas and betas here
        assert is_bias_or_norm(variable.name) == (len(variable.shape) == 1), variable.name
        assert is_bias_or_norm(variable.name.split(":")[0]) == (len(variable.shape) == 1), variable.name


@pytest.mark.parametrize("name, exempt", [
    ("electra/encoder/layer_0/attention/self/query/kernel:0", False),
    ("electra/encoder/layer_0/attention/self/query/bias:0", True),
    ("electra/encoder/layer_0/output/LayerNorm/gamma:0", True),
    ("electra/embeddings/LayerNorm/beta", True),
    ("generator_predictions/output_bias:0", True),
    ("electra/embeddings/word_embeddings:0", False),
    ("bias/kernel:0", False),
    ("beta_head/kernel", False),
])
def test_the_last_part_of_a_name_decides_on_weight_decay(name, exempt):
    assert is_bias_or_norm(name) == exempt


def test_layerwise_multipliers_are_those_of_the_recipe(golden):
    expected = golden("optimizers.json")["layer_decay"]
    multipliers = expected["multipliers"]
    names = {
        "electra/embeddings/word_embeddings:0": multipliers["/embeddings/"],
        "electra/embeddings/LayerNorm/gamma:0": multipliers["/embeddings/"],
        "electra/embeddings_project/kernel:0": multipliers["/embeddings_project/"],
        "electra/encoder/layer_0/attention/self/query/kernel:0": multipliers["encoder/layer_._0/"],
        "electra/encoder/layer_1/output/dense/bias:0": multipliers["encoder/layer_._1/"],
        "electra/encoder/layer_._1/output/dense/bias": multipliers["encoder/layer_._1/"],
        "start_logits/dense_0/kernel:0": multipliers["/start_logits/"],
        "answer_class/dense_1/kernel:0": multipliers["/answer_class/"],
    }
    found = layerwise_multipliers(list(names), decay=expected["decay"], num_layers=expected["num_layers"])
    np.testing.assert_allclose(found, list(names.values()), rtol=1e-12)
    assert len(set(names.values())) == 4


def test_layerwise_multipliers_distinguish_layer_1_from_layer_11():
    names = [f"electra/encoder/layer_{i}/output/dense/kernel" for i in range(12)]
    names += ["electra/embeddings/word_embeddings", "head/kernel"]
    np.testing.assert_allclose(layerwise_multipliers(names, decay=0.8, num_layers=12),
                               [*(0.8 ** (13 - i) for i in range(12)), 0.8 ** 14, 1.0], rtol=1e-12)


# --- Update rules ---


@pytest.mark.parametrize("kind", ["lamb", "lamb_all_adaptive", "adamw", "adamw_layerwise"])
@pytest.mark.parametrize("in_graph", [False, True])
def test_variables_follow_the_golden_numbers(kind, in_graph, golden):
    data = golden("optimizers.json")
    hyper = data["hyper"][kind.split("_")[0]]
    variables = variables_of(data["init"], data["names"])
    settings = dict(variables=variables, schedule=constant_rate(hyper["learning_rate"]), beta_1=hyper["beta_1"],
                    beta_2=hyper["beta_2"], epsilon=hyper["epsilon"], weight_decay_rate=hyper["weight_decay"])
    if kind == "adamw_layerwise":
        settings["multipliers"] = layerwise_multipliers(
            data["names"], decay=data["layer_decay"]["decay"], num_layers=data["layer_decay"]["num_layers"])
    optimizer = (AdamW(**settings) if kind.startswith("adamw") else
                 LAMB(skip_adaptive=kind == "lamb", **settings))
    run = functools.partial(update, optimizer)
    if in_graph:
        run = tf.function(run, autograph=False)
    for number, gradients in enumerate(data["gradients"]):
        run([tf.constant(gradient, tf.float32) for gradient in gradients])
        for found, expected in zip(values_of(variables), data[kind][number]):
            # float32 state over six updates; the smallest change of an update is about 1e-4
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-7)
    assert int(optimizer.step) == 6


def slow_adamw(w, m, v, gradient, t, rate, b1, b2, epsilon, decay):
    """Loshchilov & Hutter 2019, algorithm 2, epsilon beside the uncorrected root (Kingma & Ba 2015, section 2)."""
    m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient ** 2
    epsilon = epsilon / np.sqrt(1 - b2 ** t)
    return w - rate * ((m / (1 - b1 ** t)) / (np.sqrt(v / (1 - b2 ** t)) + epsilon) + decay * w), m, v


def slow_lamb(w, m, v, gradient, t, rate, b1, b2, epsilon, decay, adaptive):
    """You et al. 2020, algorithm 2, phi the identity."""
    m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient ** 2
    r = (m / (1 - b1 ** t)) / (np.sqrt(v / (1 - b2 ** t)) + epsilon)
    update = r + decay * w
    if adaptive:
        norms = np.sqrt((w ** 2).sum()), np.sqrt((update ** 2).sum())
        update = update * (norms[0] / norms[1] if all(norms) else 1.0)
    return w - rate * update, m, v


NAMES = ["a/kernel", "a/bias", "b/LayerNorm/gamma", "b/LayerNorm/beta", "zeros/kernel"]


@pytest.mark.parametrize("kind", ["lamb", "lamb_all", "adamw"])
@pytest.mark.parametrize("b1, b2", [(0.9, 0.999), (0.878, 0.974)])
def test_variables_follow_the_papers_in_float64(kind, b1, b2):
    generator = np.random.RandomState(3)
    shapes = [(3, 4), (4,), (5,), (5,), (2, 3)]
    values = [generator.randn(*shape) for shape in shapes]
    values[4] = np.zeros(shapes[4])  # LAMB: a norm of 0 gives trust ratio 1
    multipliers = [1.0, 0.5, 1.0, 0.25, 1.0]
    schedule = (0.1, 8, 2, 0.5, 0.0)  # a large rate: the two pairs of betas then differ visibly
    variables = variables_of(values, NAMES)
    settings = dict(variables=variables, schedule=Schedule(*schedule), beta_1=b1, beta_2=b2, epsilon=1e-3,
                    weight_decay_rate=0.1, multipliers=multipliers)
    optimizer = AdamW(**settings) if kind == "adamw" else LAMB(skip_adaptive=kind == "lamb", **settings)
    state = [(value, np.zeros_like(value), np.zeros_like(value)) for value in values]
    for step, size in enumerate([5.0, -1.0, 0.3, 1e-3, 2.0, 0.0]):
        gradients = [size * generator.randn(*shape) for shape in shapes]
        update(optimizer, [tf.constant(gradient, tf.float32) for gradient in gradients])
        rate = slow_schedule(step, *schedule)
        for i, (name, gradient) in enumerate(zip(NAMES, gradients)):
            exempt = not name.endswith("kernel")
            arguments = (*state[i], gradient, step + 1, rate * multipliers[i], b1, b2, 1e-3, 0.0 if exempt else 0.1)
            state[i] = (slow_adamw(*arguments) if kind == "adamw" else
                        slow_lamb(*arguments, adaptive=kind == "lamb_all" or not exempt))
        for variable, (expected, _, _) in zip(variables, state):
            np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=1e-6)  # float32 over six updates
    np.testing.assert_allclose(optimizer.first_moments[0].numpy(), state[0][1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(optimizer.second_moments[0].numpy(), state[0][2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [LAMB, AdamW])
def test_vectors_that_are_updated_together_get_what_each_would_get_alone(kind):
    names = ["dense/kernel", "dense/bias", "dense_1/bias", "LayerNorm/gamma", "LayerNorm/beta"]
    rng = np.random.default_rng(3)
    values, gradients = ([rng.normal(size=[3, 4] if name.endswith("kernel") else [size])
                          for size, name in enumerate(names, 2)] for _ in range(2))
    results = []
    for together in (True, False):
        variables = variables_of(values, names)
        optimizer = kind(variables, constant_rate(0.1), multipliers=[1.0, 0.5, 0.25, 0.5, 1.0])
        if not together:
            optimizer.is_elementwise = lambda variable: False
        graph = tf.function(functools.partial(update, optimizer, [tf.constant(g, tf.float32) for g in gradients]),
                            autograph=False)
        operations = graph.get_concrete_function().graph.get_operations()
        assert len([op for op in operations if op.type == "MulNoNan"]) == (2 if together else len(names))
        graph()
        results.append(values_of([*variables, *optimizer.first_moments, *optimizer.second_moments]))
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [LAMB, AdamW])
def test_the_compiled_update_of_cpu_is_the_plain_one(kind, monkeypatch):
    rng = np.random.default_rng(4)
    value, bias, *gradients = (rng.normal(size=size) for size in ([3, 4], [4], [3, 4], [4]))
    results = []
    for compiled in (False, True):
        monkeypatch.setattr(fused, "ENABLED", compiled)
        monkeypatch.setattr(optimization, "COMPILED_SIZE", 1)
        variables = variables_of([value, bias], ["dense/kernel", "dense/bias"])
        optimizer = kind(variables, constant_rate(0.1))
        for scale, finite in ((1.0, True), (0.0, False), (0.5, True)):
            bad = [tf.constant(g if finite else np.full_like(g, np.nan), tf.float32) for g in gradients]
            update(optimizer, bad, scale, tf.constant(finite))
        results.append(values_of([*variables, *optimizer.first_moments, *optimizer.second_moments]))
    for plain, found in zip(*results):
        np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_an_update_changes_moments_in_place_and_keeps_no_zeros():
    """New tensors would leave gaps in memory, and constants of zeros as large as the gradients take 10% of it."""
    model = Linear(LAMB, accumulation_steps=2)
    operations = model.step._update.get_concrete_function().graph.get_operations()
    replaced = [op.inputs[0].name for op in operations if op.type == "AssignVariableOp"]
    kept_in_place = [*model.optimizer.first_moments, *model.optimizer.second_moments, model.kernel, model.bias]
    captured = {id(variable.handle): inner.name for variable in kept_in_place
                for outer, inner in model.step._update.get_concrete_function().graph.captures
                if outer is variable.handle}
    assert len(captured) == 6 and not set(captured.values()) & set(replaced)
    for op in operations:
        if op.type == "AssignVariableOp" and op.inputs[1].shape.rank:
            assert op.inputs[1].op.type not in ("Const", "Fill", "ZerosLike") or op.inputs[1].shape.rank < 2


def test_update_0_of_a_warm_up_changes_the_moments_only():
    variables = variables_of([[1.0, 2.0]], ["a/kernel"])
    optimizer = LAMB(variables, Schedule(1.0, 10, 5))
    update(optimizer, [tf.constant([1.0, -1.0])])
    assert variables[0].numpy().tolist() == [1.0, 2.0]
    assert (optimizer.first_moments[0].numpy() != 0).all() and int(optimizer.step) == 1


def test_a_non_finite_update_leaves_every_variable_bit_identical():
    for make in (AdamW, LAMB):
        variables = variables_of([[[1.0, -2.0]], [3.0]], ["a/kernel", "a/bias"])
        optimizer = make(variables, constant_rate(0.1))
        update(optimizer, [tf.constant([[0.5, -1.0]]), tf.constant([1.0])])
        state = [*variables, *optimizer.first_moments, *optimizer.second_moments, optimizer.step]
        before = [value.tobytes() for value in values_of(state)]
        update(optimizer, [tf.constant([[np.nan, np.inf]]), tf.constant([1.0])], 0.0, tf.constant(False))
        assert [value.tobytes() for value in values_of(state)] == before
        update(optimizer, [tf.constant([[0.5, -1.0]]), tf.constant([1.0])])
        assert all(value.tobytes() != old for value, old in zip(values_of(state), before))


# --- TrainStep, on a linear model ---


class Descent(Optimizer):
    """Plain gradient descent: unlike Adam's, its updates show the gradient's size."""

    def __init__(self, variables, rate):
        super().__init__(variables, constant_rate(rate), beta_1=0.0, beta_2=0.0, weight_decay_rate=0.0)

    def direction(self, value, first, second, correction_1, correction_2, weight_decay):
        return first


@tf.custom_gradient
def poisoned(x, poison):
    """x itself; its gradient is multiplied by `poison`."""
    return tf.identity(x), lambda upstream: (upstream * poison, None)


class Linear:
    """Mean squared error of x @ kernel + bias, and how often its loss was traced."""

    def __init__(self, optimizer=Descent, rate=0.1, **settings):
        generator = np.random.RandomState(0)
        self.kernel = tf.Variable(generator.randn(3, 2).astype(np.float32), name="linear/kernel")
        self.bias = tf.Variable(tf.zeros([2]), name="linear/bias")
        if optimizer is Descent:
            self.optimizer = Descent([self.kernel, self.bias], rate)
        else:
            self.optimizer = optimizer([self.kernel, self.bias], Schedule(rate, 20, 3))
        self.traces = self.applications = 0
        apply = self.optimizer.apply

        def counted(*arguments):
            self.applications += 1
            apply(*arguments)

        self.optimizer.apply = counted
        self.step = TrainStep(self.loss, ["examples", "absolute"], self.optimizer, **settings)

    def loss(self, features, seeds):
        self.traces += 1
        error = poisoned(features["x"] @ self.kernel + self.bias, features["poison"]) - features["y"]
        loss = tf.reduce_mean(tf.square(error)) + features["penalty"]
        return loss, {"examples": tf.cast(tf.shape(error)[0], tf.float32), "absolute": tf.reduce_sum(tf.abs(error))}

    def values(self):
        return [self.kernel.numpy(), self.bias.numpy()]


def batch(number, size=4, poison=1.0, penalty=0.0):
    generator = np.random.RandomState(number)
    features = {"x": tf.constant(generator.randn(size, 3), tf.float32),
                "y": tf.constant(generator.randn(size, 2), tf.float32),
                "poison": tf.constant(poison), "penalty": tf.constant(penalty)}
    return features, tf.constant([[number, 0]], tf.int32)


def joined(batches):
    features = {key: tf.concat([features[key] for features, _ in batches], 0) for key in ("x", "y")}
    return {**batches[0][0], **features}, batches[0][1]


def slow_gradients(values, features):
    x, y = (features[key].numpy().astype(np.float64) for key in ("x", "y"))
    error = x @ values[0] + values[1] - y
    return [2 * x.T @ error / error.size, 2 * error.sum(axis=0) / error.size], np.mean(error ** 2)


@pytest.mark.parametrize("optimizer", [Descent, AdamW, LAMB])
def test_gradient_accumulation_equals_one_large_batch(optimizer):
    for k in (2, 5):
        accumulated = Linear(optimizer, accumulation_steps=k, clip_norm=0.5)
        at_once = Linear(optimizer, clip_norm=0.5)
        for update in range(4):
            batches = [batch(update * k + i) for i in range(k)]
            accumulated.step(batches)
            at_once.step([joined(batches)])
            for found, expected in zip(accumulated.values(), at_once.values()):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # float32 sums in another order
        assert int(accumulated.optimizer.step) == int(at_once.optimizer.step) == 4
        assert (np.abs(at_once.values()[1]) > 1e-3).all()  # the variables moved


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_xla_compiled_functions_use_no_integer_variable(accumulation_steps, monkeypatch):
    """TensorFlow keeps int32 variables in host memory, which code that XLA compiles for GPU cannot access."""
    uncompiled, graphs = tf.function, []

    def recording(function, jit_compile=None, **settings):
        traced = uncompiled(function, jit_compile=jit_compile, **settings)

        def call(*arguments):
            if jit_compile:
                graphs.append(traced.get_concrete_function(*arguments))
            return traced(*arguments)

        return call

    monkeypatch.setattr(tf, "function", recording)
    compiled = Linear(AdamW, accumulation_steps=accumulation_steps, jit_compile=True)
    monkeypatch.undo()
    plain = Linear(AdamW, accumulation_steps=accumulation_steps)
    batches = [batch(i) for i in range(accumulation_steps)]
    for model in (compiled, plain):
        model.step(batches)
        assert model.step.read_metrics()["bad_step"] == 0 and int(model.optimizer.step) == 1
    np.testing.assert_allclose(compiled.values()[0], plain.values()[0], rtol=1e-5)
    used = [variable for graph in graphs for variable in graph.variables]
    assert compiled.kernel.ref() in {variable.ref() for variable in used}
    assert all(variable.dtype.is_floating for variable in used), [v.name for v in used if v.dtype.is_integer]


@pytest.mark.parametrize("accumulation_steps", [1, 3])
@pytest.mark.parametrize("clip_norm", [1e6, 1.0, 0.01])
def test_gradients_are_averaged_then_clipped_at_their_global_norm(clip_norm, accumulation_steps):
    model = Linear(rate=0.1, accumulation_steps=accumulation_steps, clip_norm=clip_norm)
    values = [value.astype(np.float64) for value in model.values()]
    norms = []
    for update in range(3):
        batches = [batch(update * accumulation_steps + i) for i in range(accumulation_steps)]
        model.step(batches)
        parts = [slow_gradients(values, features)[0] for features, _ in batches]
        gradients = [sum(part[i] for part in parts) / accumulation_steps for i in range(2)]
        norms.append(np.sqrt(sum((gradient ** 2).sum() for gradient in gradients)))
        factor = min(1.0, clip_norm / norms[-1])
        values = [value - 0.1 * factor * gradient for value, gradient in zip(values, gradients)]
        for found, expected in zip(model.values(), values):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # float32
    assert 1.0 < max(norms) < 1e6  # so that the cases differ
    np.testing.assert_allclose(model.step.read_metrics()["gradient_norm"], sum(norms), rtol=1e-5)  # before clipping


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("bad", [dict(poison=np.nan), dict(poison=np.inf), dict(penalty=np.nan), dict(penalty=np.inf),
                                 dict(poison=1e30)], ids=str)  # 1e30: finite, but the norm's square overflows
def test_no_update_is_applied_from_the_first_non_finite_loss_or_gradient_on(bad, accumulation_steps):
    model = Linear(AdamW, accumulation_steps=accumulation_steps)
    k = accumulation_steps

    def bits():
        variables = [model.kernel, model.bias, *model.optimizer.first_moments, *model.optimizer.second_moments,
                     model.optimizer.step]
        return [value.tobytes() for value in values_of(variables)]

    for update in range(3):
        model.step([batch(update * k + i) for i in range(k)])
    assert model.step.read_metrics()["bad_step"] == 0
    before = bits()
    model.step([batch(100, **bad), *[batch(101) for _ in range(k - 1)]])
    assert bits() == before
    metrics = model.step.read_metrics()
    assert metrics["bad_step"] == 4 and model.step.step_done() == 3  # counted from 1
    assert metrics["updates"] == metrics["loss"] == 0  # an update that is not applied has no metrics
    for update in range(2):
        model.step([batch(200 + update) for _ in range(k)])  # good again, but too late
    assert bits() == before
    assert model.step.read_metrics()["bad_step"] == 4


def test_a_non_finite_micro_batch_in_the_middle_is_detected():
    model = Linear(accumulation_steps=3)
    before = [value.tobytes() for value in model.values()]
    model.step([batch(0), batch(1, poison=np.nan), batch(2)])
    assert [value.tobytes() for value in model.values()] == before
    assert model.step.read_metrics()["bad_step"] == 1


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_budget_of_non_finite_updates_is_skipped_and_those_count_as_steps(accumulation_steps, jit_compile):
    """An update that is skipped leaves the variables alone, and the next one has the rate of its own step."""
    k = accumulation_steps
    bad = {2: dict(poison=np.nan), 3: dict(penalty=np.inf), 6: dict(poison=np.inf)}

    def run(model, steps):
        for step in steps:
            model.step([batch(step * k + i, **(bad.get(step, {}) if i == k - 1 else {})) for i in range(k)])

    model = Linear(AdamW, accumulation_steps=k, skip_budget=2, jit_compile=jit_compile)
    run(model, range(1, 6))
    assert model.step.skipped() == [2, 3] and model.step.step_done() == 5
    metrics = model.step.read_metrics()
    assert metrics["bad_step"] == 0 and (metrics["updates"], metrics["micro_batches"]) == (3, 3 * k)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    before = [value.tobytes() for value in model.values()]
    run(model, range(6, 9))  # the third is one too many
    assert model.step.read_metrics()["bad_step"] == 6 and model.step.step_done() == 5
    assert [value.tobytes() for value in model.values()] == before and model.step.skipped() == [2, 3]

    resumed = Linear(AdamW, accumulation_steps=k, skip_budget=2, skipped=[1], jit_compile=jit_compile)
    run(resumed, range(1, 4))  # one was skipped before: one is left
    assert resumed.step.skipped() == [1, 2] and resumed.step.read_metrics()["bad_step"] == 3

    reference = Linear(AdamW, accumulation_steps=k, jit_compile=jit_compile)
    for step in (1, 4, 5):  # the same data at the same rates, without the bad ones
        reference.optimizer.step.assign(step - 1)
        run(reference, [step])
    for found, expected in zip(model.values(), reference.values()):
        np.testing.assert_array_equal(found, expected)


def test_an_exception_between_micro_batches_drops_the_update():
    model, untouched = Linear(accumulation_steps=3), Linear(accumulation_steps=3)

    def interrupted():
        yield batch(8)
        yield batch(9, poison=np.nan)
        raise KeyError("no more")

    with pytest.raises(KeyError):
        model.step(interrupted())
    assert all(value == 0 for value in model.step.read_metrics().values())
    for each in (model, untouched):
        each.step([batch(number) for number in range(3)])
    assert [value.tobytes() for value in model.values()] == [value.tobytes() for value in untouched.values()]
    assert model.step.read_metrics() == untouched.step.read_metrics()


def test_metrics_are_sums_since_the_last_read():
    model = Linear(accumulation_steps=2)
    for count in (3, 1):
        losses, absolute = [], 0.0
        for update in range(count):
            batches = [batch(update * 2 + i) for i in range(2)]
            values = [value.astype(np.float64) for value in model.values()]
            for features, _ in batches:
                losses.append(slow_gradients(values, features)[1])
                absolute += np.abs(features["x"].numpy() @ values[0] + values[1] - features["y"].numpy()).sum()
            model.step(batches)
        metrics = model.step.read_metrics()
        assert set(metrics) == {"examples", "absolute", "loss", "micro_batches", "gradient_norm", "updates",
                                "bad_step"}
        assert (metrics["updates"], metrics["micro_batches"], metrics["examples"]) == (count, 2 * count, 8 * count)
        np.testing.assert_allclose(metrics["loss"], sum(losses), rtol=1e-5)  # float32
        np.testing.assert_allclose(metrics["absolute"], absolute, rtol=1e-5)
    assert all(value == 0 for value in model.step.read_metrics().values())


@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_every_function_is_traced_once(accumulation_steps):
    model = Linear(LAMB, accumulation_steps=accumulation_steps)
    for update in range(6):
        model.step([batch(update, penalty=float(update)) for _ in range(accumulation_steps)])
        model.step.read_metrics()
    assert (model.traces, model.applications) == (1, 1)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_eager_equals_graph(accumulation_steps):
    in_graph = Linear(LAMB, accumulation_steps=accumulation_steps)
    eager = Linear(LAMB, accumulation_steps=accumulation_steps)
    batches = [[batch(update * 2 + i) for i in range(accumulation_steps)] for update in range(5)]
    for micro_batches in batches:
        in_graph.step(micro_batches)
    tf.config.run_functions_eagerly(True)
    try:
        for micro_batches in batches:
            eager.step(micro_batches)
    finally:
        tf.config.run_functions_eagerly(False)
    assert (in_graph.traces, eager.traces) == (1, 5 * accumulation_steps)
    for found, expected in zip(in_graph.values(), eager.values()):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)  # the graph may fuse products and sums


def test_a_variable_that_the_loss_does_not_use_is_an_error():
    model = Linear()
    stray = tf.Variable([1.0], name="stray/kernel")
    step = TrainStep(model.loss, ["examples", "absolute"], Descent([model.kernel, stray], 0.1))
    with pytest.raises(ValueError, match="stray/kernel"):
        step([batch(0)])


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_part_of_an_update_that_waits_for_other_workers_is_watched(accumulation):
    """Reading the data, which can take any time, is not."""
    events = []

    class Watched(Workers):
        @contextlib.contextmanager
        def waiting(self):
            events.append("waits")
            yield
            events.append("done")

    weight = tf.Variable([1.0, 2.0], name="weight")
    optimizer = AdamW([weight], Schedule(0.1, 10, 0))
    step = TrainStep(lambda x, seeds: (tf.reduce_sum(weight * x), {}), [], optimizer, accumulation,
                     workers=Watched())

    def micro_batches():
        for number in range(accumulation):
            events.append(f"reads {number}")
            yield tf.ones([2]), tf.zeros([1, 2], tf.int32)

    step(micro_batches())
    assert events == [*(f"reads {number}" for number in range(accumulation)), "waits", "done"]
