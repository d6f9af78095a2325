"""devices.py and gaudi.py: opening each device, refusals, and the environment set before libraries are loaded.

No GPU or Gaudi card is needed: TensorFlow's list of GPUs, the driver files, the SynapseAI library and habana-tensorflow
are replaced by fakes. Tests that depend on the absence of a device are skipped where it is present.
"""
import glob
import importlib.metadata
import json
import os
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

import devices
import fused
import gaudi
import modeling
from configuration import DeviceOptions
from devices import open_device
from workers import Workers

GPU = bool(tf.config.list_physical_devices("GPU"))
GAUDI = bool(glob.glob("/sys/class/accel/accel*/device/device_type") or glob.glob("/dev/hl[0-9]*"))


@pytest.mark.parametrize("arguments, part", [
    (("tpu", "fp32"), "--device=tpu"),
    (("cpu", "fp16"), "--precision=fp16"),
    (("cpu", "tf32"), "--precision=tf32"),
    (("hpu", "tf32"), "--precision=tf32"),
    (("cpu", "bf16", "auto", "lists.json"), "--bf16_config_path requires --device=hpu --precision=bf16"),
    (("hpu", "fp32", "auto", "lists.json"), "--bf16_config_path requires --device=hpu --precision=bf16"),
])
def test_an_unknown_or_unsupported_choice_is_refused(arguments, part, refuses):
    assert part in refuses(open_device, *arguments)


# --- CPU ---


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
@pytest.mark.parametrize("precision, name, compute_dtype", [
    ("fp32", "fp32", tf.float32), ("bf16", "bf16", tf.bfloat16), ("hmp", "bf16", tf.bfloat16)])
def test_cpu_opens_in_its_precisions(precision, name, compute_dtype):
    device = open_device("cpu", precision)
    assert (device.kind, device.precision, device.compute_dtype) == ("cpu", name, compute_dtype)
    assert (device.world_size, device.is_chief) == (1, True)
    assert device.description.startswith("cpu (") and device.jit_compile is False


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
@pytest.mark.parametrize("precision, xla, compiled", [
    ("fp32", "auto", True), ("fp32", "true", True), ("fp32", "false", False),
    ("bf16", "auto", True), ("bf16", "true", True), ("bf16", "false", False)])
def test_cpu_compiles_elementwise_operations_unless_refused(precision, xla, compiled):
    assert open_device("cpu", precision, xla).jit_compile is False
    assert fused.ENABLED is compiled


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
def test_a_device_knows_its_workers():
    device = open_device("cpu", "fp32", workers=Workers(5, 8, 1, 4))
    assert (device.workers.rank, device.world_size, device.is_chief) == (5, 8, False)


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
@pytest.mark.parametrize("precision, cpuinfo, slow", [
    ("bf16", "flags\t\t: fpu avx2 avx512f", True), ("fp32", "flags\t\t: fpu avx2 avx512f", False),
    ("bf16", "flags\t\t: fpu avx512_bf16 fma", False), ("bf16", "flags\t\t: fpu amx_bf16 fma", False),
    ("bf16", "Features\t: fp asimd bf16", False), ("bf16", None, False)])
def test_a_note_says_that_bf16_is_slow_on_a_cpu_without_support(precision, cpuinfo, slow, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "CPUINFO", str(tmp_path / "cpuinfo"))
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text("processor\t: 0\n" + cpuinfo + "\n")
    note = open_device("cpu", precision).note
    assert "bf16 is slow" in note and "--precision=fp32" in note and note.endswith(".") if slow else note == ""


@pytest.mark.skipif(GPU, reason="a visible GPU cannot be hidden after other tests used it")
def test_bf16_computes_products_in_bfloat16_and_keeps_float32_variables():
    layers = {precision: modeling.Dense(64, 5, "dense", modeling.VariableMaker(0, 0.5),
                                        open_device("cpu", precision).compute_dtype) for precision in ("fp32", "bf16")}
    x = np.random.RandomState(0).randn(3, 64).astype(np.float32)
    exact = x.astype(np.float64) @ layers["fp32"].kernel.numpy().astype(np.float64)
    for precision, layer in layers.items():
        assert {variable.dtype for variable in layer.variables} == {tf.float32}
        y = layer(tf.constant(x))
        assert y.dtype == layer.compute_dtype
        error = np.abs(y.numpy().astype(np.float64) - exact).max() / np.abs(exact).max()
        # float32: 64 roundings of 2**-24. bfloat16: inputs and result rounded to 8 bits, so neither more nor much less.
        assert error < 1e-5 if precision == "fp32" else 1e-4 < error < 2e-2
    np.testing.assert_array_equal(layers["fp32"].kernel.numpy(), layers["bf16"].kernel.numpy())


# --- GPU ---


@pytest.mark.skipif(GPU, reason="an NVIDIA GPU is here")
def test_gpu_without_a_gpu_is_refused_with_the_way_out(refuses):
    text = refuses(open_device, "gpu", "fp32")
    assert "--device=gpu" in text and "requirements-gpu.txt" in text and "--device=cpu" in text


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs of compute capability 7.5 and 9.0; returns the settings that TensorFlow received."""
    received = {}
    cards = [types.SimpleNamespace(name=f"/physical_device:GPU:{number}") for number in (0, 1)]
    details = {cards[0].name: {"device_name": "Turing", "compute_capability": (7, 5)},
               cards[1].name: {"device_name": "Hopper", "compute_capability": (9, 0)}}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: cards if kind == "GPU" else [])
    monkeypatch.setattr(tf.config, "set_visible_devices",
                        lambda shown, kind: received.update(shown=shown.name, kind=kind))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda card: details[card.name])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth",
                        lambda card, on: received.update(growth=(card.name, on)))
    monkeypatch.setattr(tf.config.experimental, "enable_tensor_float_32_execution",
                        lambda on: received.update(tf32=on))
    return received


@pytest.mark.parametrize("local_rank, name", [(0, "Turing"), (1, "Hopper")])
def test_each_local_worker_uses_its_own_gpu(local_rank, name, gpus):
    # Rank 4 + local rank: the local rank decides on the card, not the rank.
    device = open_device("gpu", "fp32", workers=Workers(4 + local_rank, 6, local_rank, 2))
    assert device.description == f"gpu ({name})"
    assert gpus == {"shown": f"/physical_device:GPU:{local_rank}", "kind": "GPU", "tf32": False,
                    "growth": (f"/physical_device:GPU:{local_rank}", True)}


@pytest.mark.parametrize("precision, tf32, compute_dtype", [
    ("tf32", True, tf.float32), ("fp32", False, tf.float32), ("bf16", False, tf.bfloat16)])
def test_tf32_is_on_for_its_precision_only(precision, tf32, compute_dtype, gpus):
    device = open_device("gpu", precision, workers=Workers(1, 2, 1, 2))
    assert gpus["tf32"] is tf32 and device.compute_dtype == compute_dtype


@pytest.mark.parametrize("xla, compiled", [("auto", True), ("true", True), ("false", False)])
def test_gpu_compiles_by_default(xla, compiled, gpus):
    assert open_device("gpu", "fp32", xla).jit_compile is compiled


def test_bf16_is_refused_on_an_old_gpu(gpus, refuses):
    text = refuses(open_device, "gpu", "bf16")
    assert "compute capability 8.0" in text and "7.5" in text and "--precision=fp32" in text
    assert gpus == {}


def test_the_only_visible_gpu_is_taken_whatever_the_local_rank(gpus, monkeypatch):
    """A scheduler shows each of the four workers of this machine its own GPU, as number 0."""
    cards = tf.config.list_physical_devices("GPU")[1:]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: cards)
    device = open_device("gpu", "fp32", workers=Workers(7, 8, 3, 4))
    assert device.description == "gpu (Hopper)" and gpus["shown"] == cards[0].name


class Cuda:
    """libcuda of a process that sees the GPUs with these UUIDs."""

    def __init__(self, uuids):
        self.uuids = uuids

    def cuInit(self, flags):
        return 0 if self.uuids else 100  # CUDA_ERROR_NO_DEVICE

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.uuids)
        return 0

    def cuDeviceGet(self, card, number):
        card._obj.value = number
        return 0

    def cuDeviceGetUuid(self, uuid, card):
        uuid.raw = self.uuids[card.value]
        return 0


@pytest.mark.parametrize("uuids, local_rank, found", [
    ([b"a" * 16, b"b" * 16], 1, b"b" * 16), ([b"a" * 16], 3, b"a" * 16), ([], 0, None)])
def test_a_gpu_is_known_by_its_uuid(uuids, local_rank, found, monkeypatch):
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Cuda(uuids))
    assert devices._gpu_uuid(Workers(local_rank, 4, local_rank, 4)) == found


@pytest.mark.parametrize("uuids, named", [
    ([b"a", b"b", b"c"], None), ([b"a", b"b", b"b"], "workers 1 and 2"), ([None, None, None], None)])
def test_workers_that_share_a_gpu_are_named_in_the_note(uuids, named, monkeypatch, gpus):
    workers = Workers(0, 3, 0, 1)
    monkeypatch.setattr(Workers, "gather", lambda self, value: uuids)
    monkeypatch.setattr(devices, "place", lambda *_, **__: workers)
    monkeypatch.setattr(devices, "join", lambda placed, options: placed)
    note = devices.open_for(DeviceOptions(device="gpu")).note
    assert named in note and "CUDA_VISIBLE_DEVICES" in note if named else note == ""


def test_more_workers_than_gpus_are_refused(gpus, refuses):
    text = refuses(open_device, "gpu", "fp32", workers=Workers(0, 3, 0, 3))
    assert "2 visible GPUs for 3 workers" in text and "CUDA_VISIBLE_DEVICES" in text


# --- Gaudi: missing components ---


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Unsets the variables that hpu reads, and restores them after the test, which may have set them."""
    for name in ("TF_BF16_CONVERSION", "HLS_MODULE_ID", "HABANA_VISIBLE_MODULES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(gaudi, "FUSED", {})


FAKE_MODULE = '''
import os
events = []

def load_habana_module():
    events.append({name: os.environ.get(name) for name in ("TF_BF16_CONVERSION", "HLS_MODULE_ID")})
    if os.environ.get("BRIDGE_FAILS"):
        raise AttributeError("'NoneType' object has no attribute 'split'")

class habana_ops:
    @staticmethod
    def habana_layer_norm(**arguments):
        events.append(arguments)
        return arguments["x"] + 1, "mean", "inverse of the deviation"
'''


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A fake Gaudi machine: habana-tensorflow 1.14.0.493, TensorFlow 2.15.0, SynapseAI, driver, two cards.

    `bridge(version, tensorflow)` changes versions; `sys`, `dev` and `logical` hold the driver's files and the devices.
    """
    site = tmp_path / "site"
    found = types.SimpleNamespace(sys=tmp_path / "sys", dev=tmp_path / "dev", logical=["HPU:0"])
    package = site / "habana_frameworks" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE_MODULE)

    def bridge(version, tensorflow=tf.__version__):
        def installed(name):
            assert name == "habana-tensorflow"
            if version is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(importlib.metadata, "version", installed)
        monkeypatch.setattr(tf, "__version__", tensorflow)

    monkeypatch.syspath_prepend(str(site))
    for name in [name for name in sys.modules if name.split(".")[0] == "habana_frameworks"]:
        monkeypatch.delitem(sys.modules, name)
    bridge("1.14.0.493", "2.15.0")
    for number in (0, 1):
        card = found.sys / "accel" / f"accel{number}" / "device"
        card.mkdir(parents=True)
        (card / "driver_ver").write_text("1.14.0-9e8ecf8\n")
        (card / "device_type").write_text("GAUDI\n")
        (found.dev / "accel").mkdir(parents=True, exist_ok=True)
        (found.dev / "accel" / f"accel{number}").write_text("")
        (found.dev / "accel" / f"accel_controlD{number}").write_text("")
    monkeypatch.setattr(gaudi, "SYS_CLASS", str(found.sys))
    monkeypatch.setattr(gaudi, "DEV", str(found.dev))
    monkeypatch.setattr(gaudi, "SYNAPSE_LIBRARY", None)  # dlopen of None is this program itself, and succeeds
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    listed = tf.config.list_logical_devices
    monkeypatch.setattr(tf.config, "list_logical_devices",
                        lambda kind=None: found.logical if kind == "HPU" else listed(kind))
    found.bridge = bridge
    yield found
    for name in [name for name in sys.modules if name.split(".")[0] == "habana_frameworks"]:
        del sys.modules[name]


def events():
    """The calls of the fake habana-tensorflow; empty if it was never imported."""
    module = sys.modules.get("habana_frameworks.tensorflow")
    return module.events if module else []


def remove(*paths):
    for path in paths:
        path.unlink()


@pytest.mark.skipif(GAUDI, reason="a Gaudi card is here")
def test_hpu_is_refused_here_with_the_way_out(refuses):
    text = refuses(open_device, "hpu", "bf16")
    assert text.startswith("--device=hpu: ") and "--device=cpu" in text


def without_bridge(machine, monkeypatch):
    machine.bridge(None)


def with_another_tensorflow(machine, monkeypatch):
    machine.bridge("1.14.0.493", "2.15.1")


def with_another_tensorflow_of_two(machine, monkeypatch):
    machine.bridge("1.6.1.92", "2.15.0")


def with_cuda(machine, monkeypatch):
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)


def without_synapse(machine, monkeypatch):
    monkeypatch.setattr(gaudi, "SYNAPSE_LIBRARY", "libSynapse-of-no-machine.so")


def without_driver(machine, monkeypatch):
    remove(*machine.sys.glob("accel/*/device/driver_ver"))


def without_card(machine, monkeypatch):
    remove(*machine.sys.glob("accel/*/device/device_type"))


def without_node(machine, monkeypatch):
    remove(*machine.dev.glob("accel/accel[0-9]*"))


def failing(machine, monkeypatch):
    monkeypatch.setenv("BRIDGE_FAILS", "1")


def showing_no_device(machine, monkeypatch):
    machine.logical = []


# In the order of the checks.
MISSING = [
    (without_bridge, ["habana-tensorflow is not installed", "requirements-hpu-1.14.txt"]),
    (with_another_tensorflow, ["1.14.0.493", "2.15.1", "tensorflow-cpu==2.15.0"]),
    (with_another_tensorflow_of_two, ["1.6.1.92", "2.8.2 or 2.9.1", "tensorflow-cpu==2.9.1"]),
    (with_cuda, ["TensorFlow 2.15.0 is a CUDA build", "tensorflow-cpu==2.15.0"]),
    (without_synapse, ["SynapseAI library", "libSynapse-of-no-machine.so", "install SynapseAI 1.14.0"]),
    (without_driver, ["driver is not loaded", "driver_ver", "modprobe habanalabs"]),
    (without_card, ["no card was found", "device_type", "hl-smi"]),
    (without_node, ["no card was found", "/dev/accel/accel*", "--runtime=habana"]),
    (failing, ["'NoneType' object has no attribute 'split'", "2.15.0", "1.14.0-9e8ecf8"]),
    (showing_no_device, ["found no HPU device", "hl-smi"]),
]


@pytest.mark.parametrize("lack, parts", MISSING, ids=lambda value: getattr(value, "__name__", ""))
def test_the_missing_component_of_hpu_is_named_with_the_way_out(lack, parts, machine, monkeypatch, refuses):
    lack(machine, monkeypatch)
    text = refuses(open_device, "hpu", "bf16")
    assert text.startswith("--device=hpu: ") and "--device=cpu" in text
    assert [part for part in parts if part not in text] == []
    # habana-tensorflow aborts if something is missing, so it is loaded only after all other checks.
    assert len(events()) == (1 if lack in (failing, showing_no_device) else 0)


@pytest.mark.parametrize("first", range(5))
def test_missing_components_are_named_in_the_order_of_installation(first, machine, monkeypatch, refuses):
    pieces = [without_bridge, with_another_tensorflow, without_synapse, without_driver, without_card]
    for lack in pieces[first + 1:] + [pieces[first]]:
        lack(machine, monkeypatch)
    words = ["is not installed", "requires TensorFlow", "SynapseAI library", "driver is not loaded",
             "no card was found"]
    assert words[first] in refuses(open_device, "hpu", "fp32")


def test_an_unknown_release_is_not_checked(machine):
    machine.bridge("1.99.0.1", "2.99.0")
    assert open_device("hpu", "bf16").kind == "hpu"


def test_files_of_an_older_driver_are_found(machine):
    for path in machine.sys.glob("accel/*/device/*"):
        path.unlink()
    for path in machine.dev.glob("accel/*"):
        path.unlink()
    card = machine.sys / "habanalabs" / "hl0"
    card.mkdir(parents=True)
    (card / "driver_ver").write_text("1.6.1-8d3a\n")
    (card / "device_type").write_text("GAUDI\n")
    (machine.dev / "hl0").write_text("")
    assert open_device("hpu", "bf16").description == "hpu (Gaudi, SynapseAI driver 1.6.1-8d3a)"


# --- Gaudi: environment before habana-tensorflow is loaded ---


@pytest.mark.parametrize("precision, conversion, note", [
    ("bf16", gaudi.BF16_LISTS, ""), ("hmp", gaudi.BF16_LISTS, ""), ("fp32", "0", "--precision=bf16")])
def test_habana_tensorflow_is_loaded_once_after_its_environment_is_set(precision, conversion, note, machine):
    device = open_device("hpu", precision)
    assert events() == [{"TF_BF16_CONVERSION": conversion, "HLS_MODULE_ID": None}]
    assert (device.kind, device.compute_dtype, device.jit_compile) == ("hpu", tf.float32, False)
    assert note in device.note and bool(note) == bool(device.note)
    assert str(device).startswith("hpu (Gaudi") and (note in str(device))  # the first line of a log
    assert os.path.exists(gaudi.BF16_LISTS)


@pytest.mark.parametrize("given, precision, noted", [
    ("1", "bf16", "TF_BF16_CONVERSION=1"), ("0", "bf16", "TF_BF16_CONVERSION=0"), ("full", "fp32", "=full"),
    ("0", "fp32", "--precision=bf16")])
def test_the_users_tf_bf16_conversion_is_kept_and_noted(given, precision, noted, machine, monkeypatch):
    monkeypatch.setenv("TF_BF16_CONVERSION", given)
    assert noted in open_device("hpu", precision).note
    assert events()[0]["TF_BF16_CONVERSION"] == given


@pytest.mark.parametrize("workers, environment, module", [
    (Workers(), {}, None), (Workers(3, 4, 1, 2), {}, "1"),
    (Workers(3, 4, 0, 1), {}, None),  # one worker per machine: any card
    (Workers(1, 2, 1, 2), {"HLS_MODULE_ID": "6"}, "6"), (Workers(1, 2, 1, 2), {"HABANA_VISIBLE_MODULES": "4,5"}, None)])
def test_the_local_rank_selects_the_card_unless_the_user_does(workers, environment, module, machine, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    open_device("hpu", "bf16", workers=workers)
    assert events()[0]["HLS_MODULE_ID"] == module


def test_more_workers_than_gaudi_cards_are_refused(machine, refuses):
    assert "2 Gaudi card(s) for 3 workers" in refuses(open_device, "hpu", "bf16", workers=Workers(0, 3, 0, 3))
    assert not events()


def test_layer_norm_is_the_fused_kernel_on_hpu(machine):
    x, gamma, beta = tf.ones([2, 4]), tf.ones([4]), tf.zeros([4])
    np.testing.assert_array_equal(modeling.layer_norm(x, gamma, beta, 1e-12), 0)
    open_device("hpu", "bf16")
    np.testing.assert_array_equal(modeling.layer_norm(x, gamma, beta, 1e-12), 2)
    arguments = events()[-1]
    assert arguments["x"] is x and arguments["gamma"] is gamma and arguments["beta"] is beta
    # Attributes of type tensor, as habana-tensorflow 1.6.1 and 1.14 expect.
    assert tf.make_ndarray(arguments["axes"]).tolist() == [1] and arguments["axes"].dtype == tf.int32
    assert tf.make_ndarray(arguments["epsilon"]) == np.float32(1e-12) and arguments["epsilon"].dtype == tf.float32


# --- Gaudi: lists of operations to convert ---

LISTS = {"allowlist": ["MatMul"], "conditional_list": [], "strict_conditional_list": [],
         "non_convertible_exceptions": [[".*head.*", ""]], "convertible_exceptions": []}


def test_bf16_config_path_replaces_the_default_lists(machine, tmp_path):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(LISTS))
    assert open_device("hpu", "bf16", bf16_config_path=str(path)).note == ""
    assert events()[0]["TF_BF16_CONVERSION"] == str(path)


def test_bf16_config_path_conflicts_with_the_environment(machine, tmp_path, monkeypatch, refuses):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(LISTS))
    monkeypatch.setenv("TF_BF16_CONVERSION", "full")
    text = refuses(open_device, "hpu", "bf16", bf16_config_path=str(path))
    assert f"--bf16_config_path={path}" in text and "TF_BF16_CONVERSION=full" in text and not events()


@pytest.mark.parametrize("content, part", [
    (None, "cannot be read (No such file or directory)"), ("{", "is not valid JSON"),
    (b"\xff", "is not valid JSON"), ("[]", "is not a JSON object"), ("[" * 200_000, "nested too deeply"),
    ("{}", "missing keys: allowlist, conditional_list"),
    (json.dumps({**LISTS, "allow": []}), "unknown keys: allow;"),
    (json.dumps({key: value for key, value in LISTS.items() if key != "convertible_exceptions"}),
     "missing keys: convertible_exceptions;"),
    (json.dumps({("allow_list" if key == "allowlist" else key): value for key, value in LISTS.items()}),
     "'allow_list'"),
    (json.dumps({**LISTS, "allowlist": "MatMul"}), "allowlist must be a list of operations"),
    (json.dumps({**LISTS, "allowlist": [["MatMul"]]}), "allowlist must be a list of operations"),
    (json.dumps({**LISTS, "convertible_exceptions": ["MatMul"]}), "convertible_exceptions must be a list of pairs")])
def test_invalid_lists_are_refused(content, part, machine, tmp_path, refuses):
    path = tmp_path / "lists.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refuses(open_device, "hpu", "bf16", bf16_config_path=str(path))
    assert text.startswith(f"--bf16_config_path={path}") and part in text and not events()
