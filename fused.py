"""Elementwise operations of the networks on cpu, compiled by XLA, with gradients that keep fewer tensors.

TensorFlow makes one pass over memory for each elementwise operation: about fifteen for GELU and its gradient, two with
XLA. Matrix products, softmax, sums over rows and random numbers stay with TensorFlow, whose kernels (many of them
oneDNN's) are faster on cpu than XLA's. The gradients recompute what is cheap and keep dropout masks as bool.

All functions take float32 or bfloat16, return the same dtype, and compute in float32. `devices.open_device` decides
whether modeling.py uses them, on cpu only: Gaudi needs the ops of the plain path, and on gpu XLA compiles the whole
update. Results differ from the plain path by rounding; in bfloat16, where activations between the operations are
bfloat16 too, other units are dropped, at the same rate. Shape suffixes: see modeling.py.
"""
from __future__ import annotations

import math
import os
import sys

import tensorflow as tf

import pretrain_utils

ENABLED = False  # set by devices.open_device


def _compiled(function):
    """Compiles a function of tensors (and Python numbers) with XLA, once for each shape."""
    return tf.function(function, autograph=False, jit_compile=True)


def enable():
    """Compiles from now on.

    XLA logs its first compilation, and TensorFlow 2.15 an error that is none for as many compiled operations as run at
    once, whatever the log level. That happens here, where it is hidden.
    """
    global ENABLED
    ENABLED = True
    busy = _compiled(lambda x: tf.reduce_sum(tf.sin(tf.sin(tf.sin(tf.sin(x))))))
    at_once = tf.function(lambda x: [busy(x + number) for number in range(4 * os.cpu_count())], autograph=False)
    sys.stderr.flush()
    shown = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        at_once(tf.zeros([2 ** 18]))
    finally:
        os.dup2(shown, 2)
        os.close(shown)


def elementwise(function):
    """`function`, compiled where elementwise operations are."""
    return _compiled(function) if ENABLED else function


def _float32(*tensors):
    return [tf.cast(tensor, tf.float32) for tensor in tensors]


def _mixed(bits):
    """A bijection of uint32: the finalizer of MurmurHash3 (Appleby), in which each bit of the input changes half of the
    bits of the output."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32)))
        bits *= tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))


@_compiled
def _hashed(shape, rate, seed):
    """A dropout mask from a hash of the unit's number, keyed with `seed` before and between two rounds."""
    first, second = tf.unstack(tf.bitcast(seed, tf.uint32))
    numbers = tf.bitcast(tf.range(math.prod(shape)), tf.uint32)
    bits = _mixed(numbers * tf.constant(0x9E3779B1, tf.uint32) + first)
    bits = _mixed(tf.bitwise.bitwise_xor(bits, second))
    return tf.reshape(bits >= tf.constant(round(rate * 2 ** 32), tf.uint32), shape)


def _kept(x, rate: float, seed):
    """The dropout mask of `x` as bool, a function of `seed`. In float32 it is the same one as in modeling.dropout.

    In bfloat16, where TensorFlow's random numbers would be 4 to 7% of an update, it is a hash at a tenth of their cost.
    """
    if x.dtype == tf.float32:
        return pretrain_utils.uniform(x.shape, seed) >= rate
    return _hashed(tuple(x.shape), rate, seed)


@_compiled
def _scaled(x, keep, rate):
    return tf.cast(tf.cast(x, tf.float32) * (tf.cast(keep, tf.float32) * (1 / (1 - rate))), x.dtype)


def dropout(x, rate: float, seed):
    """See modeling.dropout; `rate` is above 0. Keeps the mask as bool for the gradient."""
    keep = _kept(x, rate, seed)

    @tf.custom_gradient
    def apply(x):
        return _scaled(x, keep, rate), lambda upstream: _scaled(upstream, keep, rate)

    return apply(x)


@_compiled
def _summed(*parts):
    total = tf.cast(parts[0], tf.float32)
    for part in parts[1:]:
        total += tf.cast(part, tf.float32)
    return tf.cast(total, parts[0].dtype)


def copies(x, count: int):
    """`x`, `count` times, for as many operations; its gradient sums theirs in that order, in one pass.

    TensorFlow would sum them in an order that graph optimization takes from the names of operations, which are others
    where a layer is computed again (modeling.recomputed).
    """

    @tf.custom_gradient
    def copied(x):
        return (x,) * count, lambda *upstream: _summed(*upstream)

    return copied(x)


# --- Dense layers and GELU ---


def dense(x, kernel, bias):
    """x [T, inputs], kernel float32 [inputs, outputs], bias float32 [outputs] -> [T, outputs] of the dtype of `x`."""
    return tf.nn.bias_add(tf.matmul(x, tf.cast(kernel, x.dtype)), tf.cast(bias, x.dtype))


@_compiled
def _gelu(x):
    return tf.cast(tf.nn.gelu(tf.cast(x, tf.float32)), x.dtype)


@_compiled
def _gelu_and_gradient(x, upstream):
    dtype = x.dtype
    x, upstream = _float32(x, upstream)
    cdf = 0.5 * (1 + tf.math.erf(x * 0.5 ** 0.5))
    density = tf.exp(-0.5 * tf.square(x)) * 0.3989422804014327
    return tf.cast(x * cdf, dtype), tf.cast(upstream * (cdf + x * density), dtype)


@tf.custom_gradient
def gelu(x):
    return _gelu(x), lambda upstream: _gelu_and_gradient(x, upstream)[1]


@tf.custom_gradient
def _gelu_product(x, kernel):
    """gelu(x) @ kernel; the gradient computes gelu(x) again instead of keeping it."""

    def gradient(upstream):
        inner, d_x = _gelu_and_gradient(x, tf.matmul(upstream, kernel, transpose_b=True))
        return d_x, tf.matmul(inner, upstream, transpose_a=True)

    return tf.matmul(_gelu(x), kernel), gradient


def gelu_dense(x, kernel, bias):
    """dense(gelu(x), kernel, bias)."""
    return tf.nn.bias_add(_gelu_product(x, tf.cast(kernel, x.dtype)), tf.cast(bias, x.dtype))


# --- Layer norm ---


@_compiled
def _normalise(x, gamma, beta, epsilon):
    dtype = x.dtype
    x, = _float32(x)
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    inverse_std = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    normal = centred * inverse_std
    return tf.cast(normal * gamma + beta, dtype), tf.cast(normal, dtype), inverse_std


@_compiled
def _normalise_sum(x, residual, keep, gamma, beta, rate, epsilon):
    factors = 1.0 if keep is None else tf.cast(keep, tf.float32) * (1 / (1 - rate))
    x, wide = _float32(x, residual)
    out, normal, inverse_std = _normalise(x * factors + wide, gamma, beta, epsilon)
    return tf.cast(out, residual.dtype), tf.cast(normal, residual.dtype), inverse_std


@_compiled
def _normalise_gradient(upstream, normal, inverse_std, gamma):
    """Gradient of the input, and the summands of gamma's."""
    dtype = upstream.dtype
    upstream, normal = _float32(upstream, normal)
    scaled = upstream * gamma
    projection = tf.reduce_mean(scaled * normal, axis=-1, keepdims=True)
    d_x = inverse_std * (scaled - tf.reduce_mean(scaled, axis=-1, keepdims=True) - normal * projection)
    return tf.cast(d_x, dtype), tf.cast(upstream * normal, dtype)


@_compiled
def _normalise_sum_gradient(upstream, normal, inverse_std, keep, gamma, rate):
    d_sum, d_gamma = _normalise_gradient(upstream, normal, inverse_std, gamma)
    return d_sum if keep is None else _scaled(d_sum, keep, rate), d_sum, d_gamma


def _sum_rows(x_TD):
    return tf.cast(tf.raw_ops.BiasAddGrad(out_backprop=x_TD), tf.float32)


def layer_norm(x, gamma, beta, epsilon: float):
    """See modeling.layer_norm."""

    @tf.custom_gradient
    def normalise(x, gamma, beta):
        out, normal, inverse_std = _normalise(x, gamma, beta, epsilon)

        def gradient(upstream):
            d_x, d_gamma = _normalise_gradient(upstream, normal, inverse_std, gamma)
            return d_x, _sum_rows(d_gamma), _sum_rows(upstream)

        return out, gradient

    return normalise(x, gamma, beta)


def dropout_add_norm(x, residual, rate: float, seed, gamma, beta, epsilon: float):
    """layer_norm(dropout(x) + residual), of the dtype of `residual`. `seed`: None for no dropout."""
    keep = None if seed is None or rate == 0 else _kept(x, rate, seed)

    @tf.custom_gradient
    def apply(x, residual, gamma, beta):
        out, normal, inverse_std = _normalise_sum(x, residual, keep, gamma, beta, rate, epsilon)

        def gradient(upstream):
            d_x, d_residual, d_gamma = _normalise_sum_gradient(upstream, normal, inverse_std, keep, gamma, rate)
            return d_x, d_residual, _sum_rows(d_gamma), _sum_rows(upstream)

        return out, gradient

    return apply(x, residual, gamma, beta)


# --- Attention ---


def _split_heads(y_TD, mask_bias, heads: int):
    """[T, D] -> [B, H, L, K]. Not compiled: XLA makes two passes where TensorFlow makes one."""
    length = mask_bias.shape[-1] or tf.shape(mask_bias)[-1]
    return tf.transpose(tf.reshape(y_TD, [-1, length, heads, y_TD.shape[-1] // heads]), [0, 2, 1, 3])


def _join_heads(y_BHLK):
    """[B, H, L, K] -> [T, D]."""
    return tf.reshape(tf.transpose(y_BHLK, [0, 2, 1, 3]), [-1, y_BHLK.shape[1] * y_BHLK.shape[3]])


@_compiled
def _masked(products_BHLL, mask_bias, scale):
    """Scores from products of queries and keys."""
    return tf.cast(tf.cast(products_BHLL, tf.float32) * scale + mask_bias, products_BHLL.dtype)


@_compiled
def _softmax_gradient(upstream, probs, keep, rate, scale):
    """Gradient of the products of queries and keys from that of the probabilities after dropout."""
    dtype = upstream.dtype
    upstream, probs = _float32(upstream, probs)
    if keep is not None:
        upstream = upstream * (tf.cast(keep, tf.float32) * (1 / (1 - rate)))
    product = upstream * probs
    return tf.cast((product - probs * tf.reduce_sum(product, axis=-1, keepdims=True)) * scale, dtype)


def attention(q_TD, k_TD, v_TD, mask_bias, heads: int, rate: float, seed):
    """Multi-head attention, see modeling.attention: three [T, D] -> [T, D]. `seed`: None for no dropout.

    For the gradient it keeps the heads' queries, keys and values, the probabilities, and the dropout mask as bool.
    """
    drops = seed is not None and rate > 0
    scale = (q_TD.shape[-1] // heads) ** -0.5

    @tf.custom_gradient
    def apply(q_TD, k_TD, v_TD):
        q, k, v = (_split_heads(y_TD, mask_bias, heads) for y_TD in (q_TD, k_TD, v_TD))
        products = tf.matmul(q, k, transpose_b=True)
        # Without its shape, which graph optimization does not see behind compiled code, it logs a warning in bfloat16.
        probs = tf.nn.softmax(tf.ensure_shape(_masked(products, mask_bias, scale), products.shape))
        keep = _kept(probs, rate, seed) if drops else None
        context = tf.matmul(_scaled(probs, keep, rate) if drops else probs, v)

        def gradient(upstream):
            d_context = _split_heads(upstream, mask_bias, heads)
            dropped = _scaled(probs, keep, rate) if drops else probs
            d_products = _softmax_gradient(tf.matmul(d_context, v, transpose_b=True), probs, keep, rate, scale)
            return tuple(_join_heads(d_BHLK) for d_BHLK in (
                tf.matmul(d_products, k), tf.matmul(d_products, q, transpose_a=True),
                tf.matmul(dropped, d_context, transpose_a=True)))

        return _join_heads(context), gradient

    return apply(q_TD, k_TD, v_TD)
