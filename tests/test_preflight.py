"""preflight.py: what is refused before TensorFlow is imported."""
import dataclasses
import os
import subprocess
import sys
import types

import pytest
from support import ROOT
from support import pretraining_config as make_config

import modeling
import preflight
from checkpoints import Checkpoints
from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig
from squad_options import ExportConfig, InferenceConfig, SquadConfig
from tokenization import ElectraTokenizer


@pytest.fixture(scope="module")
def data(pretraining_data):
    return pretraining_data


def test_a_valid_phase_passes_and_nothing_is_trained(data, tmp_path):
    config = make_config(data, tmp_path, eval_tfrecords=data["held_out"], check_only=True)
    assert preflight.check_pretraining(config) is True
    assert not preflight.check_pretraining(dataclasses.replace(config, check_only=False))
    assert not os.path.exists(config.checkpoint_dir) and not os.path.exists(config.logs)


@pytest.mark.parametrize("changes, flag", [
    (dict(pretrain_tfrecords="64"), "--max_seq_length"),
    (dict(train_batch_size=91), "--train_batch_size=91"),  # 90 records
    (dict(pretrain_tfrecords="nowhere"), "--pretrain_tfrecords"),
    (dict(max_seq_length=64), "--max_seq_length"),
    (dict(max_seq_length=64, pretrain_tfrecords="64", eval_tfrecords="held_out"), "--max_seq_length"),
    (dict(vocab_file="nowhere/vocab.txt"), "nowhere/vocab.txt"),
    (dict(load_weights=True, weights_dir="tests/nowhere"), "tests/nowhere"),  # `tests` is a folder here
    (dict(load_weights=True, weights_dir="a/b/c"), "a/b/c"),
])
def test_input_that_cannot_be_used_is_refused_by_name(changes, flag, data, tmp_path, refuses, monkeypatch):
    monkeypatch.chdir(ROOT)
    folders = {"64": data[64], "held_out": data["held_out"]}
    changes = {name: folders.get(value, value) for name, value in changes.items()}
    config = make_config(data, tmp_path, **changes)
    assert flag in refuses(preflight.check_pretraining, config)


def test_a_run_that_the_disk_has_no_room_for_is_refused(data, tmp_path, refuses, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    config = make_config(data, tmp_path)
    assert "--keep_checkpoint_max" in refuses(preflight.check_pretraining, config)
    preflight.check_pretraining(dataclasses.replace(config, skip_checkpoint=True))


def test_refusals_come_before_tensorflow_is_imported(data, tmp_path):
    """Of each command one, all in one process."""
    code = """import sys, runpy
calls = [
    ["run_pretraining.py", "--pretrain_tfrecords=" + sys.argv[1], "--max_seq_length=64"],
    ["run_tf_squad.py", "--do_train", "--data_dir=" + sys.argv[1], "--output_dir=" + sys.argv[2]],
    ["run_inference.py", "--init_checkpoint=x", "--context= "],
    ["postprocess_pretrained_ckpt.py", "--pretrained_checkpoint=x", "--output_dir=" + sys.argv[2]],
    ["build_pretraining_dataset.py", "--typo"], ["data/make_sample_data.py", "--typo"],
    ["scripts/sweep_squad.py", "--typo", "--", "--batch_size=2"]]
for call in calls + [[call[0], "--help"] for call in calls]:
    sys.argv[:] = call
    try:
        runpy.run_path(call[0], run_name="__main__")
    except SystemExit as ended:
        assert ended.code == (0 if call[1:] == ["--help"] else 2), (call, ended.code)
    else:
        raise AssertionError(call)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code, data[32], str(tmp_path / "out")], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 7  # one sentence each
    assert not (tmp_path / "out").exists()


def test_inference_and_export_refuse_what_does_not_exist(tmp_path, refuses):
    context = tmp_path / "context.txt"
    context.write_text(" \n")
    config = InferenceConfig(init_checkpoint=str(tmp_path), context_file=str(context))
    assert "empty" in refuses(preflight.check_inference, config)
    missing = dataclasses.replace(config, context_file=None, context="text", init_checkpoint="/nowhere/ckpt-3")
    assert "/nowhere/ckpt-3" in refuses(preflight.check_inference, missing)
    assert "/nowhere/ckpt-3" in refuses(preflight.check_export, ExportConfig("/nowhere/ckpt-3", str(tmp_path)))


# --- Memory ---


@pytest.mark.parametrize("settings", [
    dict(), dict(objective="mlm"), dict(generator="tied"), dict(generator="uniform"), dict(share_embeddings=False),
    dict(generator_hidden_size=1.0)])
@pytest.mark.parametrize("shape", [dict(), dict(embedding_size=64, hidden_size=128)])
def test_parameters_are_counted_as_the_model_has_them(settings, shape, vocab_file, tmp_path):
    encoder = ElectraConfig(**{**dict(vocab_size=41, num_hidden_layers=2, num_attention_heads=2, hidden_size=64,
                                      intermediate_size=96, embedding_size=64, max_position_embeddings=16), **shape})
    config = PretrainingConfig(pretrain_tfrecords="x", model_size="tiny", max_seq_length=16, **settings)
    model = modeling.pretraining_model(encoder, config, ElectraTokenizer(vocab_file), "float32")
    counted = sum(variable.shape.num_elements() for variable in model.trainable_variables)
    assert preflight.pretraining_parameters(config, encoder) == counted


@pytest.mark.parametrize("model_size, batch, length, precision, gigabytes", [
    # Peak resident memory of run_pretraining.py in two updates, vocabulary of 30,522, TensorFlow 2.15.1, 2026-11.
    ("tiny", 1, 128, "fp32", 0.66), ("tiny", 64, 128, "fp32", 1.19), ("tiny", 64, 512, "fp32", 3.99),
    ("small", 1, 128, "fp32", 1.20), ("small", 32, 128, "fp32", 2.23), ("small", 8, 512, "fp32", 2.92),
    ("small", 32, 128, "bf16", 1.93), ("base", 1, 128, "fp32", 3.66), ("base", 16, 128, "fp32", 4.78),
    ("base", 16, 128, "bf16", 4.33), ("base", 4, 512, "fp32", 5.97)])
def test_the_estimated_memory_is_near_the_measured_one(model_size, batch, length, precision, gigabytes):
    config = PretrainingConfig(pretrain_tfrecords="x", model_size=model_size, train_batch_size=batch,
                               max_seq_length=length, precision=precision)
    estimated = preflight.pretraining_bytes(config, config.encoder_config(30522)) / 1e9
    assert 0.75 * gigabytes < estimated < 1.3 * gigabytes


def test_recomputed_layers_need_less_memory():
    """Measured: base with 6 layers, batch 32, bf16, 3.34 GB and 2.70 GB with --recompute."""
    encoder = dataclasses.replace(ElectraConfig.of_size("base"), num_hidden_layers=6)
    plain, less = (preflight.pretraining_bytes(PretrainingConfig(
        pretrain_tfrecords="x", precision="bf16", train_batch_size=32, recompute=recompute), encoder)
                   for recompute in (False, True))
    assert 0.4e9 < plain - less < 1.4e9


@pytest.mark.parametrize("model_size, batch, training, gigabytes", [
    # Peak resident memory with the joint head at length 384, vocabulary of 30,522, TensorFlow 2.15.1, 2026-11.
    ("base", 16, False, 1.21), ("base", 64, False, 1.90), ("small", 128, False, 1.26), ("base", 8, True, 5.31),
    ("small", 16, True, 3.02)])
def test_the_estimated_memory_of_squad_is_near_the_measured_one(model_size, batch, training, gigabytes):
    config = SquadConfig(do_train=True, do_eval=True, data_dir="x", output_dir="x", max_seq_length=384,
                         train_batch_size=batch, predict_batch_size=batch)
    estimated = preflight.squad_bytes(config, ElectraConfig.of_size(model_size), training) / 1e9
    assert 0.75 * gigabytes < estimated < 1.3 * gigabytes


def test_a_batch_of_answers_beyond_the_free_memory_is_refused_by_its_own_flag(refuses, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda: 3e9)
    encoder = ElectraConfig.of_size("base")
    config = SquadConfig(do_eval=True, data_dir="x", output_dir="x", predict_batch_size=1000)
    assert "--predict_batch_size=1000" in refuses(preflight.check_fine_tuning_memory, config, encoder)
    preflight.check_fine_tuning_memory(dataclasses.replace(config, predict_batch_size=16), encoder)
    training = dataclasses.replace(config, do_eval=False, do_train=True)
    assert "--train_batch_size=16" in refuses(preflight.check_fine_tuning_memory, training, encoder)


def test_an_update_beyond_the_free_memory_is_refused_unless_forced(data, tmp_path, refuses, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda: 0.5e9)
    config = make_config(data, tmp_path)
    text = refuses(preflight.check_pretraining, config)
    assert "--train_batch_size=4" in text and "--force" in text and "0.5 GB" in text
    preflight.check_pretraining(dataclasses.replace(config, force=True))


def test_free_memory_is_that_of_this_machine():
    free = preflight.free_memory()
    assert free is None or 1e7 < free < 1e14


def test_checkpoints_that_are_there_leave_the_count_to_the_command(data, tmp_path, monkeypatch):
    config = make_config(data, tmp_path, restore_checkpoint="latest")
    os.makedirs(config.checkpoint_dir)
    open(os.path.join(config.checkpoint_dir, "ckpt-3.index"), "w").close()
    assert Checkpoints(config.checkpoint_dir).list()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    preflight.check_pretraining(config)


@pytest.mark.parametrize("options, has_checkpoint, expected", [
    (dict(), True, False), (dict(restore_checkpoint="latest"), True, True),
    (dict(restore_checkpoint="auto"), False, False),
    (dict(restore_checkpoint="ckpt-3"), False, True), (dict(phase2=True), False, True),
    (dict(load_weights=True, weights_dir="w", phase2=True), True, False),
    (dict(load_weights=True, weights_dir="w", restore_checkpoint="auto"), True, True),
    (dict(load_weights=True, weights_dir="w", restore_checkpoint="auto"), False, False)])
def test_initial_values_are_drawn_unless_a_checkpoint_sets_all_variables(options, has_checkpoint, expected):
    config = PretrainingConfig(pretrain_tfrecords="x", **options)
    checkpoints = types.SimpleNamespace(list=lambda phase: ["ckpt"] if has_checkpoint else [])
    assert preflight.restores(config, checkpoints) is expected
