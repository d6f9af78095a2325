"""devices.py: what opens here, and what is refused with the way out.

A GPU or Gaudi card is not needed: what happens without one is tested, and what happens with one is skipped.
"""
import glob

import numpy as np
import pytest
import tensorflow as tf

import devices
import modeling
from devices import open_device

GPU = bool(tf.config.list_physical_devices("GPU"))
GAUDI = bool(glob.glob("/sys/class/accel/accel*/device/device_type") or glob.glob("/dev/hl[0-9]*"))


@pytest.mark.parametrize("arguments, part", [
    (("tpu", "fp32"), "--device=tpu is unknown: choose one of cpu, gpu, hpu"),
    (("cpu", "fp16"), "--precision=fp16 is unknown: choose fp32, bf16 or tf32"),
    (("cpu", "tf32"), "--precision=tf32 exists on gpu only"),
    (("hpu", "tf32"), "--precision=tf32 exists on gpu only"),
])
def test_unknown_device_or_precision_is_refused_with_the_choices(arguments, part, refuses):
    assert part in refuses(open_device, *arguments)


@pytest.mark.skipif(GPU, reason="an NVIDIA GPU is here")
def test_gpu_is_refused_where_there_is_none_with_the_way_out(refuses):
    text = refuses(open_device, "gpu", "fp32")
    assert "--device=gpu" in text and "requirements-gpu.txt" in text and "--device=cpu" in text


@pytest.mark.skipif(GAUDI, reason="a Gaudi card is here")
def test_hpu_is_refused_where_there_is_none_with_the_way_out(refuses, monkeypatch):
    # The bridge aborts a process without a card, so it must not even be looked for.
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: pytest.fail(f"{name} was looked for"))
    text = refuses(open_device, "hpu", "bf16")
    assert "--device=hpu" in text and "--device=cpu" in text


def test_hpu_without_its_bridge_is_refused_with_the_requirements(refuses, monkeypatch):
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: [pattern])
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    text = refuses(open_device, "hpu", "bf16")
    assert "habana-tensorflow is not installed" in text and "requirements-hpu" in text


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
@pytest.mark.parametrize("precision, name, compute_dtype", [
    ("fp32", "fp32", tf.float32), ("bf16", "bf16", tf.bfloat16), ("hmp", "bf16", tf.bfloat16)])
def test_cpu_opens_in_its_precisions(precision, name, compute_dtype):
    device = open_device("cpu", precision)
    assert (device.kind, device.precision, device.compute_dtype) == ("cpu", name, compute_dtype)
    assert (device.rank, device.world_size, device.is_chief) == (0, 1, True)
    assert device.description.startswith("cpu (") and device.jit_compile is False


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
@pytest.mark.parametrize("xla, compiled", [("auto", False), ("true", True), ("false", False)])
def test_cpu_compiles_only_on_demand(xla, compiled):
    assert open_device("cpu", "fp32", xla).jit_compile is compiled


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
def test_bfloat16_is_the_type_of_products_and_not_of_variables():
    layers = {precision: modeling.Dense(64, 5, "dense", modeling.VariableMaker(0, 0.5),
                                        open_device("cpu", precision).compute_dtype) for precision in ("fp32", "bf16")}
    x = np.random.RandomState(0).randn(3, 64).astype(np.float32)
    exact = x.astype(np.float64) @ layers["fp32"].kernel.numpy().astype(np.float64)
    for precision, layer in layers.items():
        assert {variable.dtype for variable in layer.variables} == {tf.float32}
        y = layer(tf.constant(x))
        assert y.dtype == tf.float32
        error = np.abs(y.numpy() - exact).max() / np.abs(exact).max()
        # float32: 64 roundings of 2**-24. bfloat16: inputs and result rounded to 8 bits, so neither more nor much less.
        assert error < 1e-5 if precision == "fp32" else 1e-4 < error < 2e-2
    np.testing.assert_array_equal(layers["fp32"].kernel.numpy(), layers["bf16"].kernel.numpy())
