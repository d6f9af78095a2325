"""ELECTRA networks: Transformer encoder, generator, discriminator, pre-training model, and heads for fine-tuning:
question answering, sequence classification and regression, token classification.

Clark et al. 2020 (arXiv:2003.10555) with BERT's encoder (Devlin et al. 2019): post-layer-norm blocks, exact GELU. The
generator and the discriminator share the word, position and token-type embeddings and their layer norm; each network
projects the embeddings to its own hidden size where the two sizes differ. The generator computes vocabulary logits only
at the masked positions.

Everything is a `tf.Module`, a `tf.Variable` or a function of tensors; shapes are static. Variable names match the
released google-research checkpoints. Matrix products run in `compute_dtype`; everything else (softmax, layer norm,
losses, noise) is float32 in every precision. On Gaudi, where habana-tensorflow decides what runs in bfloat16,
`in_float32` excludes operations from the conversion. All randomness comes from rows of one int32 seed tensor
(pretrain_utils.fold_seeds).

Shape suffixes:
B batch  L sequence  T = B * L  D hidden_size  E embedding_size  H heads  K head size  F feed-forward  N masked slots
V vocabulary (padded)  C labels
"""
from __future__ import annotations

import contextlib
import itertools
import math
from typing import Dict, Iterator, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf

import fused
import gaudi
import pretrain_utils
from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig
from tokenization import ElectraTokenizer

# --- Functions of tensors ---


def shape_list(x) -> list:
    """Shape of `x` as a list: a Python int for each static dimension (in training all are), else a scalar tensor."""
    return [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape)]


@contextlib.contextmanager
def in_float32():
    """Context manager or decorator that excludes operations and their gradients from Gaudi's bfloat16 conversion.

    On other devices it has no effect. Both data/bf16_electra.json and the built-in lists of habana-tensorflow
    (TF_BF16_CONVERSION=1) exclude operations by this name scope. Automatic gradients inherit the scope; a gradient
    defined with tf.custom_gradient does not.
    """
    with tf.name_scope("KEEP_FP32_PRECISION"):
        yield


def matmul(a, b, compute_dtype, **kwargs):
    """Matrix product in `compute_dtype`, cast to float32 (the result has been rounded to `compute_dtype`)."""
    return tf.cast(tf.matmul(tf.cast(a, compute_dtype), tf.cast(b, compute_dtype), **kwargs), tf.float32)


@in_float32()
def layer_norm(x, gamma, beta, epsilon: float):
    """Layer normalisation over the last axis (Ba et al. 2016). x float32 [T, D]; gamma, beta float32 [D].

    On Gaudi this is the fused kernel of habana-tensorflow. Elsewhere a custom gradient makes a third of the passes over
    memory that automatic differentiation of the formula makes.
    """
    if "layer_norm" in gaudi.FUSED:
        return gaudi.FUSED["layer_norm"](x, gamma, beta, epsilon)
    if fused.ENABLED:
        return fused.layer_norm(x, gamma, beta, epsilon)

    @tf.custom_gradient
    def normalise(x, gamma, beta):
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        inverse_std = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
        normal = centred * inverse_std

        def gradient(upstream):
            with in_float32():  # not a decorator: TensorFlow 2.9 would take its **kwargs for variables
                scaled = upstream * gamma
                projection = tf.reduce_mean(scaled * normal, axis=-1, keepdims=True)
                d_x = inverse_std * (scaled - tf.reduce_mean(scaled, axis=-1, keepdims=True) - normal * projection)
                return d_x, tf.reduce_sum(upstream * normal, axis=0), tf.reduce_sum(upstream, axis=0)

        return normal * gamma + beta, gradient

    return normalise(x, gamma, beta)


def dropout(x, rate: float, seed):
    """Inverted dropout (Srivastava et al. 2014). `seed` int32 [2], or None for no dropout.

    Gaudi's fused kernel (habana_dropout) is not used: its seeds are constants of the graph, so every step and worker
    would drop the same units, while all randomness here is a function of (seed, step, micro-batch, rank, purpose). The
    graph passes of habana-tensorflow recognise the pattern below.
    """
    if seed is None or rate == 0:
        return x
    if fused.ENABLED:
        return fused.dropout(x, rate, seed)
    keep = tf.cast(pretrain_utils.uniform(x.shape, seed) >= rate, tf.float32)
    return x * (keep * (1 / (1 - rate)))


def gelu(x):
    """Exact GELU (Hendrycks & Gimpel 2016). habana-tensorflow replaces tf.nn.gelu: look it up at each call."""
    return fused.gelu(x) if fused.ENABLED else tf.nn.gelu(x)


@tf.custom_gradient
def rows_at(table, ids):
    """Gathers rows of `table` float32 [R, D] at `ids` int32 [T]: float32 [T, D], with a dense gradient.

    TensorFlow's own gradient (IndexedSlices) would bring int64 arithmetic and dynamic shapes into the training graph,
    and the gradient of the word embeddings is added to the dense one of the tied output projection anyway.
    """

    def gradient(upstream):
        return tf.math.unsorted_segment_sum(upstream, ids, table.shape[0]), None

    return tf.gather(table, ids), gradient


def recomputed(function, x):
    """function(x), float tensors; its gradient runs `function` again instead of keeping what that computes.

    The same bits in float32 on cpu, where fused.copies sums the gradients of `x`. Elsewhere up to rounding: graph
    optimization sorts the summands by the names of their operations, which are others in the second run.
    """

    @tf.custom_gradient
    def run(x):
        def gradient(upstream, variables=()):
            # Two dependencies keep the second run after the forward pass: XLA ignores the control dependency, and a
            # number that is always 0 is none for the operations that draw the dropout masks.
            first = tf.reshape(upstream, [-1])[0]
            zero = tf.cast(tf.where(tf.equal(first, first), 0.0, np.nan), x.dtype)
            with tf.control_dependencies([upstream]), tf.GradientTape(watch_accessed_variables=False) as tape:
                again = x + zero
                tape.watch([again, *variables])
                y = function(again)
            d_x, *d_variables = tape.gradient(y, [again, *variables], upstream)
            return (d_x, d_variables) if variables else d_x

        return function(x), gradient

    return run(x)


def attention(query, key, value, mask_bias, dropout_rate, dropout_seed, compute_dtype):
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1).

    Args:
        query, key, value: float32 [B, H, L, K].
        mask_bias: float32 [B, 1, 1, L], 0 on tokens, -1e9 on padding (0 after the softmax, finite in bfloat16).
    Returns: float32 [B, H, L, K].
    """
    scores_BHLL = matmul(query * (query.shape[-1] ** -0.5), key, compute_dtype, transpose_b=True) + mask_bias
    with in_float32():
        probs_BHLL = tf.nn.softmax(scores_BHLL)
    probs_BHLL = dropout(probs_BHLL, dropout_rate, dropout_seed)
    return matmul(probs_BHLL, value, compute_dtype)


# --- Layers ---


class VariableMaker:
    """Creates named variables whose initial values depend only on the seed and the name."""

    draws = True  # see `without_initial_values`

    def __init__(self, seed: int, stddev: float):
        self.seed = seed
        self.stddev = stddev

    def normal(self, name: str, shape) -> tf.Variable:
        """Truncated normal, truncated at two standard deviations (BERT's initializer)."""
        if not self.draws:
            return tf.Variable(tf.zeros(shape), name=name)
        row = pretrain_utils.fold_seeds([self.seed, *name.encode()], 1)[0]
        with tf.device("CPU"):  # the same initial values on every device
            value = tf.random.stateless_truncated_normal(shape, seed=row, stddev=self.stddev)
        return tf.Variable(value, name=name)

    def constant(self, name: str, shape, value: float) -> tf.Variable:
        return tf.Variable(tf.fill(shape, value), name=name)


@contextlib.contextmanager
def without_initial_values(skip: bool = True):
    """Context manager: a model that is built inside has zeros in place of random numbers, whose drawing takes a tenth
    of the start-up. For models whose variables are all set afterwards, by a checkpoint or by rank 0."""
    VariableMaker.draws = not skip
    try:
        yield
    finally:
        VariableMaker.draws = True


class Dense(tf.Module):
    """Linear layer: x float32 [T, inputs] -> float32 [T, outputs]."""

    def __init__(self, inputs: int, outputs: int, scope: str, make: VariableMaker, compute_dtype):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.kernel = make.normal(f"{scope}/kernel", [inputs, outputs])
        self.bias = make.constant(f"{scope}/bias", [outputs], 0.0)

    def __call__(self, x):
        if fused.ENABLED:
            return fused.dense(tf.cast(x, self.compute_dtype), self.kernel, self.bias)
        return matmul(x, self.kernel, self.compute_dtype) + self.bias


class LayerNorm(tf.Module):
    def __init__(self, size: int, epsilon: float, scope: str, make: VariableMaker):
        super().__init__()
        self.epsilon = epsilon
        self.gamma = make.constant(f"{scope}/LayerNorm/gamma", [size], 1.0)
        self.beta = make.constant(f"{scope}/LayerNorm/beta", [size], 0.0)

    def __call__(self, x):
        return layer_norm(x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), self.epsilon)


class Embeddings(tf.Module):
    """Sum of word, position and token-type embeddings, followed by layer norm."""

    def __init__(self, config: ElectraConfig, scope: str, make: VariableMaker):
        super().__init__()
        self.config = config
        size = config.embedding_size
        self.word_embeddings = make.normal(f"{scope}/word_embeddings", [config.padded_vocab_size, size])
        self.position_embeddings = make.normal(f"{scope}/position_embeddings", [config.max_position_embeddings, size])
        self.token_type_embeddings = make.normal(f"{scope}/token_type_embeddings", [config.type_vocab_size, size])
        self.layer_norm = LayerNorm(size, config.layer_norm_eps, scope, make)

    def __call__(self, input_ids, segment_ids):
        """input_ids, segment_ids int32 [B, L] -> float32 [T, E], before dropout."""
        batch, length = shape_list(input_ids)
        size = self.config.embedding_size
        words = rows_at(tf.convert_to_tensor(self.word_embeddings), tf.reshape(input_ids, [-1]))
        types = rows_at(tf.convert_to_tensor(self.token_type_embeddings), tf.reshape(segment_ids, [-1]))
        summed_BLE = tf.reshape(words + types, [batch, length, size]) + self.position_embeddings[:length]
        return self.layer_norm(tf.reshape(summed_BLE, [batch * length, size]))


class EncoderLayer(tf.Module):
    """Self-attention and feed-forward blocks, each followed by dropout, residual connection and layer norm.

    `recompute`: the gradient keeps the layer's input only, and runs the layer again. Takes a quarter more time.
    """

    recompute = False  # see `recompute_layers`

    def __init__(self, config: ElectraConfig, scope: str, make: VariableMaker, compute_dtype):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        hidden, inner, epsilon = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.query, self.key, self.value = (
            Dense(hidden, hidden, f"{scope}/attention/self/{name}", make, compute_dtype)
            for name in ("query", "key", "value"))
        self.attention_output = Dense(hidden, hidden, f"{scope}/attention/output/dense", make, compute_dtype)
        self.attention_norm = LayerNorm(hidden, epsilon, f"{scope}/attention/output", make)
        self.intermediate = Dense(hidden, inner, f"{scope}/intermediate/dense", make, compute_dtype)
        self.output = Dense(inner, hidden, f"{scope}/output/dense", make, compute_dtype)
        self.output_norm = LayerNorm(hidden, epsilon, f"{scope}/output", make)

    def __call__(self, x_TD, mask_bias, batch, seeds: Iterator):
        rows = [next(seeds) for _ in range(3)]
        forward = self._plain
        if fused.ENABLED:
            forward, x_TD = self._fused, tf.cast(x_TD, self.compute_dtype)
        if self.recompute:
            return recomputed(lambda x: forward(x, mask_bias, batch, iter(rows)), x_TD)
        return forward(x_TD, mask_bias, batch, iter(rows))

    def _plain(self, x_TD, mask_bias, batch, seeds: Iterator):
        heads, rate = self.config.num_attention_heads, self.config.hidden_dropout_prob

        def split_heads(y_TD):
            return tf.transpose(tf.reshape(y_TD, [batch, -1, heads, y_TD.shape[-1] // heads]), [0, 2, 1, 3])

        context_BHLK = attention(split_heads(self.query(x_TD)), split_heads(self.key(x_TD)),
                                 split_heads(self.value(x_TD)), mask_bias,
                                 self.config.attention_probs_dropout_prob, next(seeds), self.compute_dtype)
        context_TD = tf.reshape(tf.transpose(context_BHLK, [0, 2, 1, 3]), [-1, x_TD.shape[-1]])
        x_TD = self.attention_norm(dropout(self.attention_output(context_TD), rate, next(seeds)) + x_TD)
        inner_TF = gelu(self.intermediate(x_TD))
        return self.output_norm(dropout(self.output(inner_TF), rate, next(seeds)) + x_TD)

    def _fused(self, x_TD, mask_bias, batch, seeds: Iterator):
        """The same with the functions of fused.py; activations are of the dtype of the products."""
        config = self.config
        for_query, for_key, for_value, residual = fused.copies(x_TD, 4)
        context_TD = fused.attention(self.query(for_query), self.key(for_key), self.value(for_value), mask_bias,
                                     config.num_attention_heads, config.attention_probs_dropout_prob, next(seeds))
        x_TD = self._add_norm(self.attention_output(context_TD), residual, next(seeds), self.attention_norm)
        inner_TF = self.intermediate(x_TD)
        outer_TD = fused.gelu_dense(inner_TF, tf.convert_to_tensor(self.output.kernel), self.output.bias)
        return self._add_norm(outer_TD, x_TD, next(seeds), self.output_norm)

    def _add_norm(self, x_TD, residual_TD, seed, norm: LayerNorm):
        return fused.dropout_add_norm(x_TD, residual_TD, self.config.hidden_dropout_prob, seed,
                                      tf.convert_to_tensor(norm.gamma), tf.convert_to_tensor(norm.beta), norm.epsilon)


def recompute_layers(model: tf.Module):
    """Sets `recompute` for all layers of a model, which is for training only."""
    for module in model.submodules:
        if isinstance(module, EncoderLayer):
            module.recompute = True


class Encoder(tf.Module):
    """Transformer encoder; projects the embeddings to hidden_size where the sizes differ."""

    def __init__(self, config: ElectraConfig, scope: str, make: VariableMaker, compute_dtype):
        super().__init__()
        self.config = config
        self.embeddings_project = None
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = Dense(config.embedding_size, config.hidden_size, f"{scope}/embeddings_project",
                                            make, compute_dtype)
        self.layers = [EncoderLayer(config, f"{scope}/encoder/layer_{i}", make, compute_dtype)
                       for i in range(config.num_hidden_layers)]

    @staticmethod
    def num_seeds(config: ElectraConfig) -> int:
        """Seed rows that one forward pass uses: one for the embedding dropout and three per layer."""
        return 1 + 3 * config.num_hidden_layers

    def __call__(self, embedded_TE, input_mask, seeds: Iterator):
        """Encodes embedded tokens.

        Args: embedded_TE float32 [T, E]; input_mask int32 [B, L]; seeds yields int32 [2], or None for no dropout.
        Returns: hidden states, float32 [T, D].
        """
        batch, length = shape_list(input_mask)
        mask_bias = (1 - tf.cast(tf.reshape(input_mask, [batch, 1, 1, length]), tf.float32)) * -1e9
        x = dropout(embedded_TE, self.config.hidden_dropout_prob, next(seeds))
        if self.embeddings_project is not None:
            x = self.embeddings_project(x)
        for layer in self.layers:
            x = layer(x, mask_bias, batch, seeds)
        return tf.cast(x, tf.float32)


# --- Generator and discriminator ---


class GeneratorHead(tf.Module):
    """Vocabulary logits from hidden states; the output matrix is tied to the word embeddings."""

    def __init__(self, config: ElectraConfig, make: VariableMaker, compute_dtype):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.dense = Dense(config.hidden_size, config.embedding_size, "generator_predictions/dense", make,
                           compute_dtype)
        self.layer_norm = LayerNorm(config.embedding_size, config.layer_norm_eps, "generator_predictions", make)
        self.output_bias = make.constant("generator_predictions/output_bias", [config.padded_vocab_size], 0.0)

    def __call__(self, hidden, word_embeddings):
        """hidden float32 [T, D], word_embeddings float32 [V, E] -> float32 [T, V]; padding entries are about -1e9."""
        x = self.layer_norm(gelu(self.dense(hidden)))
        logits = matmul(x, word_embeddings, self.compute_dtype, transpose_b=True)
        with in_float32():
            return logits + (self.output_bias + vocabulary_padding(self.config))


def vocabulary_padding(config: ElectraConfig):
    """Logit bias that excludes the padding entries of the vocabulary from sampling: float32 [V], 0 or -1e9."""
    return tf.constant([0.0] * config.vocab_size + [-1e9] * (config.padded_vocab_size - config.vocab_size))


class DiscriminatorHead(tf.Module):
    """One logit per position from hidden states; a logit above 0 predicts "replaced"."""

    def __init__(self, config: ElectraConfig, make: VariableMaker, compute_dtype):
        super().__init__()
        self.dense = Dense(config.hidden_size, config.hidden_size, "discriminator_predictions/dense", make,
                           compute_dtype)
        self.dense_prediction = Dense(config.hidden_size, 1, "discriminator_predictions/dense_1", make, tf.float32)

    def __call__(self, hidden):
        """float32 [T, D] -> float32 [T]."""
        inner = gelu(self.dense(hidden))
        with in_float32():
            return tf.reshape(self.dense_prediction(inner), [-1])


class Network(tf.Module):
    """One pre-trained network for inference: embeddings, encoder and one head, without dropout.

    Args:
        head: a DiscriminatorHead or a GeneratorHead, or None to return hidden states.
    """

    def __init__(self, embeddings: Embeddings, encoder: Encoder, head: Optional[tf.Module]):
        super().__init__()
        self.embeddings, self.encoder, self.head = embeddings, encoder, head

    def __call__(self, input_ids, input_mask, segment_ids):
        """input_ids, input_mask, segment_ids int32 [B, L], any B and L -> float32.

        Returns: discriminator logits [B, L], generator logits [B, L, vocab_size], or without a head hidden states
            [B, L, D].
        """
        batch, length = shape_list(input_ids)
        hidden_TD = self.encoder(self.embeddings(input_ids, segment_ids), input_mask, itertools.repeat(None))
        if self.head is None:
            return tf.reshape(hidden_TD, [batch, length, hidden_TD.shape[-1]])
        if isinstance(self.head, DiscriminatorHead):
            return tf.reshape(self.head(hidden_TD), [batch, length])
        logits_TV = self.head(hidden_TD, tf.convert_to_tensor(self.embeddings.word_embeddings))
        vocab_size = self.encoder.config.vocab_size
        return tf.reshape(logits_TV[:, :vocab_size], [batch, length, vocab_size])


class Objective(NamedTuple):
    """The pre-training objective. See the flags of the same names (pretraining_options.PretrainingConfig)."""

    special_ids: Sequence[int]  # never masked (ElectraTokenizer.special_ids)
    mask_id: int
    mask_prob: float
    max_predictions_per_seq: int
    disc_weight: float = 50.0  # lambda in the paper
    generator_fraction: float = 1.0  # hidden size of a separate generator, as a fraction of the discriminator's
    objective: str = "electra"
    generator: str = "separate"
    share_embeddings: bool = True
    disallow_correct: bool = False
    temperature: float = 1.0


class PretrainingOutput(NamedTuple):
    """Outputs of one forward pass over a micro-batch; None where the objective has no such network."""

    masked: pretrain_utils.MaskedBatch
    generator_logits: Optional[tf.Tensor]  # float32 [B*N, V]
    generator_losses: Optional[tf.Tensor]  # float32 [B, N], cross-entropy of the original token
    corrupted_ids: Optional[tf.Tensor]  # int32 [B, L], the discriminator's input
    labels: Optional[tf.Tensor]  # int32 [B, L], 1 where replaced
    discriminator_logits: Optional[tf.Tensor]  # float32 [B, L]
    discriminator_losses: Optional[tf.Tensor]  # float32 [B, L], binary cross-entropy


class PretrainingModel(tf.Module):
    """Generator and discriminator with shared embeddings, and their joint loss (ELECTRA, section 2).

    Variants from the paper (sections 3.2 and 3.4): a generator that shares all encoder weights with the discriminator
    (tied), one without weights that samples tokens uniformly (uniform), a generator with its own embeddings, and a
    plain masked language model (mlm).

    Args:
        config: the discriminator's encoder; the generator uses the same vocabulary.
        objective: the pre-training objective.
        compute_dtype: dtype of matrix products, tf.float32 or tf.bfloat16.
        seed: seed of the initial values.
    """

    def __init__(self, config: ElectraConfig, objective: Objective, compute_dtype=tf.float32, seed: int = 0):
        super().__init__()
        make = VariableMaker(seed, config.initializer_range)
        self.config, self.objective = config, objective
        self.has_discriminator = objective.objective == "electra"
        self.embeddings = Embeddings(config, "electra/embeddings", make)
        self.encoder = Encoder(config, "electra", make, compute_dtype)
        self.discriminator_head = DiscriminatorHead(config, make, compute_dtype) if self.has_discriminator else None
        # The generator's encoder: None for the uniform generator, `self.encoder` for a tied one.
        self.generator, self.generator_embeddings = self.encoder, self.embeddings
        if self.has_discriminator and objective.generator == "uniform":
            self.generator = None
        elif self.has_discriminator and objective.generator == "separate":
            self.generator = Encoder(config.generator(objective.generator_fraction), "generator", make, compute_dtype)
            if not objective.share_embeddings:
                self.generator_embeddings = Embeddings(self.generator.config, "generator/embeddings", make)
        self.generator_head = GeneratorHead(self.generator.config, make, compute_dtype) if self.generator else None

    def networks(self) -> Dict[str, Network]:
        """The networks to keep after pre-training, by name: `discriminator`, `generator`, or both."""
        found = {}
        if self.discriminator_head:
            found["discriminator"] = Network(self.embeddings, self.encoder, self.discriminator_head)
        if self.generator:
            found["generator"] = Network(self.generator_embeddings, self.generator, self.generator_head)
        return found

    @property
    def num_seeds(self) -> int:
        """Seed rows that one micro-batch needs: three for masking and sampling, the rest for dropout."""
        return 3 + sum(Encoder.num_seeds(encoder.config) for encoder in (self.generator, self.encoder) if encoder)

    def __call__(self, features: Dict[str, tf.Tensor], seeds, training: bool) -> PretrainingOutput:
        """One forward pass.

        Args:
            features: `input_ids`, `input_mask`, `segment_ids`, int32 [B, L].
            seeds: int32 [num_seeds, 2]. Only the first three rows are used if `training` is False.
            training: a Python bool; True enables dropout.
        """
        position_seed, keep_seed, sample_seed, *dropout_seeds = tf.unstack(seeds, num=self.num_seeds)
        seed_rows = iter(dropout_seeds if training else [None] * len(dropout_seeds))
        settings = self.objective
        masked = pretrain_utils.mask_tokens(
            features["input_ids"], features["input_mask"], settings.special_ids, settings.mask_id, settings.mask_prob,
            settings.max_predictions_per_seq, position_seed, keep_seed)
        logits, losses = self._generate(masked, features, seed_rows) if self.generator else (None, None)
        if not self.has_discriminator:
            return PretrainingOutput(masked, logits, losses, None, None, None, None)

        corrupted_ids = self._corrupt(masked, logits, features["input_ids"], sample_seed)
        labels = pretrain_utils.replaced_token_labels(features["input_ids"], corrupted_ids, features["input_mask"])
        hidden_TD = self.encoder(self.embeddings(corrupted_ids, features["segment_ids"]), features["input_mask"],
                                 seed_rows)
        discriminator_logits = tf.reshape(self.discriminator_head(hidden_TD), labels.shape)
        with in_float32():
            discriminator_losses = tf.nn.sigmoid_cross_entropy_with_logits(
                labels=tf.cast(labels, tf.float32), logits=discriminator_logits)
        return PretrainingOutput(masked, logits, losses, corrupted_ids, labels, discriminator_logits,
                                 discriminator_losses)

    def _generate(self, masked: pretrain_utils.MaskedBatch, features, seed_rows):
        """Masked language modelling: logits float32 [B*N, V] and losses float32 [B, N]."""
        hidden_TD = self.generator(self.generator_embeddings(masked.input_ids, features["segment_ids"]),
                                   features["input_mask"], seed_rows)
        at_masked = rows_at(hidden_TD, pretrain_utils.flat_positions(masked.positions, masked.input_ids.shape[1]))
        logits = self.generator_head(at_masked, tf.convert_to_tensor(self.generator_embeddings.word_embeddings))
        with in_float32():
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.reshape(masked.original_ids, [-1]),
                                                                    logits=logits)
        return logits, tf.reshape(losses, masked.weights.shape)

    @in_float32()
    def _corrupt(self, masked: pretrain_utils.MaskedBatch, logits, input_ids, sample_seed):
        """The discriminator's input: `input_ids` with a sampled token at every masked position, int32 [B, L]."""
        if logits is None:
            rows = masked.positions.shape[0] * masked.positions.shape[1]
            logits = tf.zeros([rows, self.config.padded_vocab_size]) + vocabulary_padding(self.config)
        if self.objective.temperature != 1:
            logits = logits / self.objective.temperature
        if self.objective.disallow_correct:
            logits += tf.one_hot(tf.reshape(masked.original_ids, [-1]), logits.shape[-1], on_value=-1e9, off_value=0.0)
        sampled = tf.reshape(pretrain_utils.sample_tokens(logits, sample_seed), masked.positions.shape)
        return pretrain_utils.replace_at(input_ids, masked.positions, sampled, masked.weights)

    # Metric sums over micro-batches, steps and workers; `ratios` turns them into means. A positive is a replaced token.
    metric_names = ("masked", "generator_loss", "generator_correct", "tokens", "discriminator_loss",
                    "discriminator_correct", "positives", "predicted_positives", "true_positives")

    def loss(self, features, seeds):
        """Training loss of a micro-batch, float32 [], and its metrics, a dict of float32 [] by `metric_names`."""
        return self.loss_of(self(features, seeds, training=True), features["input_mask"])

    @in_float32()
    def loss_of(self, output: PretrainingOutput, input_mask):
        """Loss and metric sums of one forward pass.

        The generator loss is the mean over masked positions, the discriminator loss the mean over all real tokens.
        """
        weights, mask = output.masked.weights, tf.cast(input_mask, tf.float32)
        sums = {name: tf.zeros([]) for name in self.metric_names}
        sums.update(masked=tf.reduce_sum(weights), tokens=tf.reduce_sum(mask))
        loss = tf.zeros([])
        if self.generator:
            predictions = tf.reshape(tf.argmax(output.generator_logits, axis=-1, output_type=tf.int32), weights.shape)
            correct = tf.cast(tf.equal(predictions, output.masked.original_ids), tf.float32)
            sums.update(generator_loss=tf.reduce_sum(output.generator_losses * weights),
                        generator_correct=tf.reduce_sum(correct * weights))
            loss += sums["generator_loss"] / tf.maximum(sums["masked"], 1.0)
        if self.has_discriminator:
            labels = tf.cast(output.labels, tf.float32)
            predicted = tf.cast(output.discriminator_logits > 0, tf.float32)
            sums.update(discriminator_loss=tf.reduce_sum(output.discriminator_losses * mask),
                        discriminator_correct=tf.reduce_sum(tf.cast(tf.equal(labels, predicted), tf.float32) * mask),
                        positives=tf.reduce_sum(labels), predicted_positives=tf.reduce_sum(predicted * mask),
                        true_positives=tf.reduce_sum(predicted * labels))
            loss += self.objective.disc_weight * sums["discriminator_loss"] / tf.maximum(sums["tokens"], 1.0)
        return loss, sums


def pretraining_model(encoder: ElectraConfig, config: PretrainingConfig, tokenizer: ElectraTokenizer,
                      compute_dtype=tf.float32) -> PretrainingModel:
    """The pre-training model for a configuration; `encoder` is the discriminator's encoder."""
    settings = {name: getattr(config, name) for name in Objective._fields if hasattr(config, name)}
    objective = Objective(special_ids=tokenizer.special_ids, mask_id=tokenizer.mask_id, **settings)
    return PretrainingModel(encoder, objective, compute_dtype, config.seed)


# --- Fine-tuning ---


class TaskModel(tf.Module):
    """An ELECTRA encoder to fine-tune. Subclasses add a head, `loss` for training, and what inference computes.

    `head_seeds`: seed rows that the head's dropout uses, besides the encoder's.
    """

    head_seeds = 0

    def __init__(self, config: ElectraConfig, make: VariableMaker, compute_dtype):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, "electra/embeddings", make)
        self.encoder = Encoder(config, "electra", make, compute_dtype)

    @property
    def num_seeds(self) -> int:
        return Encoder.num_seeds(self.config) + self.head_seeds

    def hidden(self, features: Dict[str, tf.Tensor], seeds: Iterator):
        """Hidden states of the encoder, float32 [B, L, D]."""
        batch, length = shape_list(features["input_ids"])
        embedded = self.embeddings(features["input_ids"], features["segment_ids"])
        hidden_TD = self.encoder(embedded, features["input_mask"], seeds)
        return tf.reshape(hidden_TD, [batch, length, self.config.hidden_size])


def count_correct(logits, labels, weights):
    """Sum of the weights of the rows whose largest logit is at the label. logits float32 [N, C]; others [N]."""
    predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.reduce_sum(tf.cast(tf.equal(predictions, labels), tf.float32) * weights)


# --- Question answering ---


BEAM_SIZE = 5  # default for the joint head
MASKED = -1e30  # logit of a position that cannot be part of an answer; its exponential is 0


class IndependentHead(tf.Module):
    """Start and end logits from one linear layer (BERT, Devlin et al. 2019, section 4.2; `qa_outputs` in Hugging Face).

    For unanswerable questions both start and end are [CLS].
    """

    def __init__(self, config: ElectraConfig, make: VariableMaker, compute_dtype):
        super().__init__()
        self.dense = Dense(config.hidden_size, 2, "qa_outputs", make, tf.float32)

    def __call__(self, hidden_BLD):
        """Returns: start and end logits, float32 [B, L]."""
        batch, length = shape_list(hidden_BLD)[:2]
        with in_float32():
            logits_TX = self.dense(tf.reshape(hidden_BLD, [-1, hidden_BLD.shape[-1]]))
        return tuple(tf.reshape(logits_TX[:, side], [batch, length]) for side in (0, 1))


class JointHead(tf.Module):
    """Start logits, end logits conditioned on a start, and answerability (as in XLNet, Yang et al. 2019; the head of
    NVIDIA's ELECTRA recipe).

    The first end layer takes the concatenation of two hidden states, that of the end and that of the start. Its matrix
    is multiplied with each half separately and the results are added, which avoids a [B, L, K, 2 D] tensor.

    Args:
        version_2: whether to predict answerability (SQuAD 2.0).
    """

    def __init__(self, config: ElectraConfig, version_2: bool, make: VariableMaker, compute_dtype):
        super().__init__()
        size = config.hidden_size
        self.compute_dtype = compute_dtype
        self.start = Dense(size, 1, "start_logits/start_logit_pooler_dense", make, tf.float32)
        self.end_joined = Dense(2 * size, size, "end_logits/end_logit_pooler_dense_0", make, compute_dtype)
        self.end_norm = LayerNorm(size, config.layer_norm_eps, "end_logits/end_logit_pooler", make)
        self.end = Dense(size, 1, "end_logits/end_logit_pooler_dense_1", make, tf.float32)
        self.answer_joined = self.answer_kernel = None
        if version_2:
            self.answer_joined = Dense(2 * size, size, "answer_class/pooler_answer_class_dense_0", make, compute_dtype)
            self.answer_kernel = make.normal("answer_class/pooler_answer_class_dense_1/kernel", [size, 1])

    def start_logits(self, hidden_BLD, p_mask):
        """Start logits, float32 [B, L]; `p_mask` int32 [B, L], 1 on positions that cannot be part of an answer."""
        with in_float32():
            logits = self.start(tf.reshape(hidden_BLD, [-1, hidden_BLD.shape[-1]]))
        return tf.where(p_mask > 0, MASKED, tf.reshape(logits, shape_list(hidden_BLD)[:2]))

    def end_logits(self, hidden_BLD, start_states_BKD, p_mask):
        """End logits for each of K starts, float32 [B, K, L]."""
        batch, length, size = shape_list(hidden_BLD)
        starts = shape_list(start_states_BKD)[1]
        kernel = tf.convert_to_tensor(self.end_joined.kernel)
        of_hidden = matmul(tf.reshape(hidden_BLD, [-1, size]), kernel[:size], self.compute_dtype)
        of_start = matmul(tf.reshape(start_states_BKD, [-1, size]), kernel[size:], self.compute_dtype)
        joined_BKLD = tf.tanh(tf.reshape(of_hidden, [batch, 1, length, size])
                              + tf.reshape(of_start + self.end_joined.bias, [batch, starts, 1, size]))
        with in_float32():
            logits = self.end(self.end_norm(tf.reshape(joined_BKLD, [-1, size])))
        return tf.where(p_mask[:, None] > 0, MASKED, tf.reshape(logits, [batch, starts, length]))

    def answerability_logits(self, start_state_BD, hidden_BLD):
        """Answerability logits, float32 [B]; a logit above 0 predicts that the question is unanswerable."""
        joined = tf.tanh(self.answer_joined(tf.concat([start_state_BD, hidden_BLD[:, 0]], axis=-1)))
        with in_float32():
            return tf.reshape(matmul(joined, self.answer_kernel, tf.float32), [-1])


class QuestionAnswering(TaskModel):
    """An ELECTRA encoder with a question-answering head (SQuAD): training loss and inference.

    The loss is the mean of start and end cross-entropy. With the joint head and SQuAD 2.0, half the binary
    cross-entropy of answerability is added (the weight of google-research/electra).

    In training the end logits are conditioned on the gold start. Answerability is conditioned on the expected start
    (the mean of the hidden states, weighted by the start probabilities), in training as at inference. NVIDIA's recipe
    trains it on the gold start (`answerability_from_gold`), which leaks the label: the gold start of an unanswerable
    question is [CLS].

    Args:
        joint_head: use the joint head; else the independent head.
        version_2: the data has unanswerable questions (SQuAD 2.0).
        beam_size: number of starts, and of ends per start, that `answers` returns (joint head).
    """

    metric_names = ("examples", "tokens", "start_correct", "end_correct", "answerability_correct")

    def __init__(self, config: ElectraConfig, joint_head: bool = True, version_2: bool = False,
                 beam_size: int = BEAM_SIZE, answerability_from_gold: bool = False, compute_dtype=tf.float32,
                 seed: int = 0):
        make = VariableMaker(seed, config.initializer_range)
        super().__init__(config, make, compute_dtype)
        self.joint_head, self.version_2, self.beam_size = joint_head, version_2, beam_size
        self.answerability_from_gold = answerability_from_gold
        self.head = (JointHead(config, version_2, make, compute_dtype) if joint_head
                     else IndependentHead(config, make, compute_dtype))

    @property
    def settings(self) -> dict:
        """Arguments besides the encoder's configuration that rebuild this model."""
        return {name: getattr(self, name) for name in ("joint_head", "version_2", "beam_size",
                                                       "answerability_from_gold")}

    def loss(self, features: Dict[str, tf.Tensor], seeds):
        """Training loss of a micro-batch, float32 [], and metric sums by `metric_names`.

        Args:
            features: `input_ids`, `input_mask`, `segment_ids`, `p_mask` int32 [B, L]; `start_positions`,
                `end_positions`, `is_impossible` int32 [B]; `weights` float32 [B], 0 for padding examples;
                `num_examples` float32 [], above 0, the divisor of the sums over examples.
            seeds: int32 [num_seeds, 2].
        """
        hidden_BLD = self.hidden(features, iter(tf.unstack(seeds, num=self.num_seeds)))
        starts, ends, weights = features["start_positions"], features["end_positions"], features["weights"]

        def mean(values):
            return tf.reduce_sum(values * weights) / features["num_examples"]

        @in_float32()
        def cross_entropy(labels, logits):
            return mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))

        answerability = None
        if self.joint_head:
            gold_BD = self._states_at(hidden_BLD, starts)
            start_logits = self.head.start_logits(hidden_BLD, features["p_mask"])
            end_logits = self.head.end_logits(hidden_BLD, gold_BD[:, None], features["p_mask"])[:, 0]
            if self.version_2:
                seen = gold_BD if self.answerability_from_gold else self._expected_start(start_logits, hidden_BLD)
                answerability = self.head.answerability_logits(seen, hidden_BLD)
        else:
            start_logits, end_logits = self.head(hidden_BLD)
        loss = (cross_entropy(starts, start_logits) + cross_entropy(ends, end_logits)) / 2
        tokens = tf.reduce_sum(tf.cast(features["input_mask"], tf.float32) * weights[:, None])
        sums = {"examples": tf.reduce_sum(weights), "tokens": tokens,
                "start_correct": count_correct(start_logits, starts, weights),
                "end_correct": count_correct(end_logits, ends, weights), "answerability_correct": tf.zeros([])}
        if answerability is not None:
            impossible = tf.cast(features["is_impossible"], tf.float32)
            with in_float32():
                loss += 0.5 * mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=impossible, logits=answerability))
            predicted = tf.cast(answerability > 0, tf.float32)
            sums["answerability_correct"] = tf.reduce_sum(
                tf.cast(tf.equal(predicted, impossible), tf.float32) * weights)
        return loss, sums

    @staticmethod
    def _states_at(hidden_BLD, positions):
        """Hidden states at `positions` int32 [B] or [B, K]: float32 [B, D] or [B, K, D]."""
        batch, length, size = shape_list(hidden_BLD)
        offsets = tf.reshape(tf.range(batch) * length, [-1] + [1] * (len(positions.shape) - 1))
        rows = rows_at(tf.reshape(hidden_BLD, [-1, size]), tf.reshape(positions + offsets, [-1]))
        return tf.reshape(rows, [*shape_list(positions), size])

    @staticmethod
    @in_float32()
    def _expected_start(start_logits, hidden_BLD):
        return tf.squeeze(tf.matmul(tf.nn.softmax(start_logits)[:, None], hidden_BLD), 1)

    def answers(self, features: Dict[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
        """Inputs of the answer search, computed without dropout; shapes are given in squad_utils."""
        hidden_BLD = self.hidden(features, itertools.repeat(None))
        if not self.joint_head:
            return dict(zip(("start_logits", "end_logits"), self.head(hidden_BLD)))
        start_logits = self.head.start_logits(hidden_BLD, features["p_mask"])
        with in_float32():
            start_log_probs, start_index = tf.math.top_k(tf.nn.log_softmax(start_logits), self.beam_size)
        end_logits = self.head.end_logits(hidden_BLD, self._states_at(hidden_BLD, start_index), features["p_mask"])
        with in_float32():
            end_log_probs, end_index = tf.math.top_k(tf.nn.log_softmax(end_logits), self.beam_size)
        found = {"start_log_probs": start_log_probs, "start_index": start_index, "end_log_probs": end_log_probs,
                 "end_index": end_index}
        if self.version_2:
            found["answerability_logits"] = self.head.answerability_logits(
                self._expected_start(start_logits, hidden_BLD), hidden_BLD)
        return found


# --- Classification, regression and tagging ---


PROBLEMS = ("single_label", "multi_label", "regression")


class ClassificationHead(tf.Module):
    """Logits of a sequence from its first token, [CLS] (`ElectraClassificationHead` in Hugging Face): dropout, dense
    layer, GELU, dropout, linear layer."""

    def __init__(self, config: ElectraConfig, num_labels: int, make: VariableMaker, compute_dtype):
        super().__init__()
        self.dropout_rate = config.hidden_dropout_prob
        self.dense = Dense(config.hidden_size, config.hidden_size, "classifier/dense", make, compute_dtype)
        self.out_proj = Dense(config.hidden_size, num_labels, "classifier/out_proj", make, tf.float32)

    def __call__(self, hidden_BLD, seeds: Iterator):
        """Returns: logits, float32 [B, C]. `seeds` yields two rows, or None for no dropout."""
        first_BD = dropout(hidden_BLD[:, 0], self.dropout_rate, next(seeds))
        inner_BD = dropout(tf.cast(gelu(self.dense(first_BD)), tf.float32), self.dropout_rate, next(seeds))
        with in_float32():
            return self.out_proj(inner_BD)


class SequenceClassification(TaskModel):
    """An ELECTRA encoder that classifies a text or a pair of texts, or gives it a number.

    Losses, as in Hugging Face: softmax cross-entropy (single_label), the mean of the binary cross-entropies of all
    labels (multi_label), the squared error (regression).

    Args:
        num_labels: classes, or labels of which each may be true; 1 for regression.
        problem: one of PROBLEMS.
    """

    head_seeds = 2

    def __init__(self, config: ElectraConfig, num_labels: int, problem: str = "single_label", compute_dtype=tf.float32,
                 seed: int = 0):
        make = VariableMaker(seed, config.initializer_range)
        super().__init__(config, make, compute_dtype)
        self.num_labels, self.problem = num_labels, problem
        self.head = ClassificationHead(config, num_labels, make, compute_dtype)

    # Sums of `loss`. An example is correct if the most likely class is, or all its labels are; in regression none is.
    metric_names = ("examples", "tokens", "correct")

    @property
    def settings(self) -> dict:
        """Arguments besides the encoder's configuration that rebuild this model."""
        return {"num_labels": self.num_labels, "problem": self.problem}

    def logits(self, features: Dict[str, tf.Tensor]):
        """Logits without dropout, float32 [B, C]."""
        seeds = itertools.repeat(None)
        return self.head(self.hidden(features, seeds), seeds)

    def loss(self, features: Dict[str, tf.Tensor], seeds):
        """Training loss of a micro-batch, float32 [], and metric sums by `metric_names`.

        Args:
            features: `input_ids`, `input_mask`, `segment_ids` int32 [B, L]; `labels` int32 [B] (single_label),
                float32 [B, C] of 0 and 1 (multi_label) or float32 [B] (regression); `weights` float32 [B], 0 for
                padding examples; `num_examples` float32 [], above 0, the divisor of the sums over examples. Optional
                `class_weights` float32 [C]: what an example of a class counts in the loss (single_label), or what a
                true label counts (multi_label).
            seeds: int32 [num_seeds, 2].
        """
        rows = iter(tf.unstack(seeds, num=self.num_seeds))
        logits_BC = self.head(self.hidden(features, rows), rows)
        labels, weights = features["labels"], features["weights"]
        with in_float32():
            loss = tf.reduce_sum(self._losses(logits_BC, labels, features.get("class_weights")) * weights)
            loss /= features["num_examples"]
        tokens = tf.reduce_sum(tf.cast(features["input_mask"], tf.float32) * weights[:, None])
        return loss, {"examples": tf.reduce_sum(weights), "tokens": tokens,
                      "correct": self._correct(logits_BC, labels, weights)}

    def _losses(self, logits_BC, labels, class_weights):
        """The loss of each example, float32 [B]."""
        if self.problem == "regression":
            return tf.square(logits_BC[:, 0] - labels)
        if self.problem == "multi_label":
            return tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(
                labels, logits_BC, 1.0 if class_weights is None else class_weights), axis=-1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits_BC)
        return losses if class_weights is None else losses * tf.gather(class_weights, labels)

    def _correct(self, logits_BC, labels, weights):
        if self.problem == "regression":
            return tf.zeros([])
        if self.problem == "single_label":
            return count_correct(logits_BC, labels, weights)
        right = tf.reduce_all(tf.equal(logits_BC > 0, labels > 0.5), axis=-1)
        return tf.reduce_sum(tf.cast(right, tf.float32) * weights)


class TokenClassification(TaskModel):
    """An ELECTRA encoder that tags tokens: dropout and a linear layer at every position. The loss is the mean
    cross-entropy of the tokens that have a label."""

    head_seeds = 1
    metric_names = ("examples", "tokens", "labelled", "correct")  # sums of `loss`; `correct` of the labelled tokens

    def __init__(self, config: ElectraConfig, num_labels: int, compute_dtype=tf.float32, seed: int = 0):
        make = VariableMaker(seed, config.initializer_range)
        super().__init__(config, make, compute_dtype)
        self.num_labels = num_labels
        self.head = Dense(config.hidden_size, num_labels, "classifier", make, tf.float32)

    @property
    def settings(self) -> dict:
        """Arguments besides the encoder's configuration that rebuild this model."""
        return {"num_labels": self.num_labels}

    def _logits(self, features, seeds: Iterator):
        hidden_BLD = self.hidden(features, seeds)
        hidden_TD = tf.reshape(hidden_BLD, [-1, self.config.hidden_size])
        dropped = dropout(hidden_TD, self.config.hidden_dropout_prob, next(seeds))
        with in_float32():
            return tf.reshape(self.head(dropped), [*shape_list(features["input_ids"]), self.num_labels])

    def logits(self, features: Dict[str, tf.Tensor]):
        """Logits without dropout, float32 [B, L, C]."""
        return self._logits(features, itertools.repeat(None))

    def loss(self, features: Dict[str, tf.Tensor], seeds):
        """Training loss of a micro-batch, float32 [], and metric sums by `metric_names`.

        Args:
            features: `input_ids`, `input_mask`, `segment_ids` int32 [B, L]; `labels` int32 [B, L], -1 where a token has
                none; `weights` float32 [B], 0 for padding examples; `num_labelled` float32 [], above 0, the divisor of
                the sum over labelled tokens. Optional `class_weights` float32 [C].
            seeds: int32 [num_seeds, 2].
        """
        logits_TC = tf.reshape(self._logits(features, iter(tf.unstack(seeds, num=self.num_seeds))),
                               [-1, self.num_labels])
        labels = tf.reshape(features["labels"], [-1])
        labelled = tf.reshape(tf.cast(features["labels"] >= 0, tf.float32) * features["weights"][:, None], [-1])
        known = tf.maximum(labels, 0)
        counts = labelled if "class_weights" not in features else labelled * tf.gather(features["class_weights"], known)
        with in_float32():
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=known, logits=logits_TC)
            loss = tf.reduce_sum(losses * counts) / features["num_labelled"]
        tokens = tf.reduce_sum(tf.cast(features["input_mask"], tf.float32) * features["weights"][:, None])
        return loss, {"examples": tf.reduce_sum(features["weights"]), "tokens": tokens,
                      "labelled": tf.reduce_sum(labelled), "correct": count_correct(logits_TC, known, labelled)}


def ratios(sums: Dict[str, float]) -> Dict[str, float]:
    """Metrics to log, from the sums of `PretrainingModel.loss`. Accuracy, precision and recall are between 0 and 1.

    A network that the objective does not have has a loss of exactly 0; its metrics are left out. `discriminator_gain`
    is 1 - loss / entropy, where the entropy of the share of replaced tokens is the loss of the best constant
    probability: above 0 the discriminator tells tokens apart, also while its recall is still 0; at 1 it is perfect.
    """

    def mean(part: str, whole: str) -> float:
        return sums[part] / sums[whole] if sums[whole] else 0.0

    means = {}
    if sums["generator_loss"]:
        means.update(generator_loss=mean("generator_loss", "masked"),
                     generator_accuracy=mean("generator_correct", "masked"))
    if sums["discriminator_loss"]:
        means.update(discriminator_loss=mean("discriminator_loss", "tokens"),
                     discriminator_accuracy=mean("discriminator_correct", "tokens"),
                     discriminator_precision=mean("true_positives", "predicted_positives"),
                     discriminator_recall=mean("true_positives", "positives"),
                     discriminator_gain=gain_over_constant(mean("discriminator_loss", "tokens"),
                                                           mean("positives", "tokens")))
    return means


def gain_over_constant(loss: float, share: float) -> float:
    """1 - loss / entropy of a binary classifier, both in nats; the entropy is that of the `share` of positives. 0 where
    one class is absent."""
    if not 0 < share < 1:
        return 0.0
    return 1 + loss / (share * math.log(share) + (1 - share) * math.log1p(-share))
