"""configuration.py: sizes, files, settings and command lines, against the design's and the papers' numbers."""
import dataclasses
import json
import os
import subprocess
import sys

import pytest

import configuration
import electra_config
import files
import squad_options
from configuration import UserError
from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig
from squad_options import SquadConfig

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def pretraining(**fields) -> PretrainingConfig:
    return PretrainingConfig(**{"pretrain_tfrecords": "shards", **fields})


# --- The encoder ---


@pytest.mark.parametrize("size, layers, hidden, heads, feed_forward, embedding", [
    # Clark et al. 2020, table 6; `tiny` is this project's.
    ("tiny", 2, 128, 2, 512, 64),
    ("small", 12, 256, 4, 1024, 128),
    ("base", 12, 768, 12, 3072, 768),
    ("large", 24, 1024, 16, 4096, 1024),
])
def test_sizes_are_those_of_the_paper(size, layers, hidden, heads, feed_forward, embedding):
    config = ElectraConfig.of_size(size)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size,
            config.embedding_size) == (layers, hidden, heads, feed_forward, embedding)


def test_what_all_sizes_share_is_that_of_the_paper():
    for size in electra_config.SIZES:
        config = ElectraConfig.of_size(size)
        assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
        assert (config.initializer_range, config.layer_norm_eps, config.hidden_act) == (0.02, 1e-12, "gelu")
        assert (config.max_position_embeddings, config.type_vocab_size, config.vocab_size) == (512, 2, 30522)


@pytest.mark.parametrize("size, fraction, width", [
    ("tiny", None, 64), ("small", None, 64), ("base", None, 256), ("large", None, 256),
    ("base", 1 / 3, 256),
    ("base", 0.3333333, 256),  # the recipe's spelling of a third, 255.99997
    ("base", 0.33333334, 256),  # 256.000005
    ("base", 0.333, 256),
    ("base", 0.34, 320),  # 261 rounds up
    ("base", 0.25, 192),  # google-research/electra's default
    ("small", 1.0, 256),  # the released small++
    ("tiny", 0.01, 64),  # never below one head
])
def test_generator_width_is_a_fraction_rounded_up_to_64(size, fraction, width):
    discriminator = ElectraConfig.of_size(size)
    if fraction is None:
        fraction = pretraining(model_size=size).generator_fraction
    generator = discriminator.generator(fraction)
    assert generator.hidden_size == width
    assert generator.num_attention_heads == max(1, width // 64)
    assert generator.intermediate_size == 4 * width
    assert generator.num_hidden_layers == discriminator.num_hidden_layers
    assert generator.embedding_size == discriminator.embedding_size


@pytest.mark.parametrize("vocab_size, padded", [(30522, 30528), (30528, 30528), (30529, 30536), (1, 8)])
def test_vocabulary_is_padded_to_a_multiple_of_8(vocab_size, padded):
    assert ElectraConfig(vocab_size=vocab_size).padded_vocab_size == padded


def test_config_json_round_trip_changes_nothing(tmp_path):
    config = ElectraConfig.of_size("small", vocab_size=1234, hidden_dropout_prob=0.25, layer_norm_eps=1e-7)
    path = str(tmp_path / "config.json")
    files.write_json(path, config.to_dict())
    assert json.load(open(path))["model_type"] == "electra"
    assert ElectraConfig.from_json_file(path) == config


def test_config_json_may_hold_keys_that_are_not_the_encoders(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": ["ElectraForMaskedLM"], "hidden_size": 64, "num_attention_heads": 4,
                                "summary_type": "first"}))  # and names no model_type, as the oldest files
    assert ElectraConfig.from_json_file(str(path)) == ElectraConfig(hidden_size=64, num_attention_heads=4)


@pytest.mark.parametrize("content, part", [
    ('{"model_type": "bert"}', "model_type is 'bert'"),
    ('{"hidden_size": 64', "not valid JSON"),
    ('[1, 2]', "is not a JSON object"),
    ('{"hidden_size": 0}', "hidden_size=0"),
    ('{"hidden_size": 64.0}', "hidden_size=64.0"),
    ('{"vocab_size": true}', "vocab_size=True"),
    ('{"hidden_dropout_prob": null}', "hidden_dropout_prob=None"),
    ('{"layer_norm_eps": "1e-12"}', "layer_norm_eps='1e-12'"),
    ('{"hidden_act": "relu"}', "hidden_act='relu'"),
    ('{"hidden_size": 100}', "num_attention_heads=12 does not divide hidden_size=100"),
    ('{"hidden_size": [64]}', "hidden_size=[64]"),
    ('{"hidden_size": 1000000000000}', "hidden_size=1000000000000"),
    ('{"hidden_dropout_prob": false}', "hidden_dropout_prob=False"),
    ('{"hidden_act": "' + "x" * 10**6 + '"}', "hidden_act='xxx"),
    ('{"model_type": ["electra"]}', "model_type is ['electra']"),
])
def test_config_json_that_cannot_be_used_is_refused_with_its_path(content, part, tmp_path, refuses):
    path = tmp_path / "config.json"
    path.write_text(content)
    text = refuses(ElectraConfig.from_json_file, str(path))
    assert part in text and str(path) in text


def test_missing_config_json_is_refused_with_its_path(tmp_path, refuses):
    assert str(tmp_path / "none.json") in refuses(ElectraConfig.from_json_file, str(tmp_path / "none.json"))


@pytest.mark.parametrize("field, value", [
    ("hidden_size", -768), ("num_hidden_layers", 0), ("vocab_size", "30522"), ("hidden_dropout_prob", 1.0),
    ("attention_probs_dropout_prob", -0.1), ("hidden_dropout_prob", float("nan")), ("initializer_range", 0.0),
    ("layer_norm_eps", float("nan")),
])
def test_encoder_value_out_of_bounds_is_refused_by_name(field, value, refuses):
    assert f"{field}={value!r}" in refuses(ElectraConfig, **{field: value})


@pytest.mark.parametrize("content, part", [
    ("[" * 200_000, "nested"),
    ('{"a": ' * 200_000, "nested"),
    ('{"a": ' + "7" * 5000 + "}", "5000 digits"),
    ('{"a": NaN}', "NaN"),
    ('{"a": -Infinity}', "Infinity"),
    ('{"a": 1e400}', "1e400"),
    ('{"hidden_size": 64, "hidden_size": 128}', "'hidden_size'"),
    ('{"a": 1}\0', "not valid JSON"),
    ('"text"', "not a JSON object"),
    ("", "not valid JSON"),
])
def test_json_that_python_would_fail_at_or_misread_is_refused_with_its_path(content, part, tmp_path, refuses):
    path = tmp_path / "config.json"
    path.write_text(content)
    text = refuses(configuration.read_json_object, str(path))
    assert part in text and str(path) in text and len(text) < 400


def test_deep_values_are_shown_briefly(refuses):
    deep = []
    for _ in range(10**5):
        deep = [deep]
    assert "hidden_size=[" in refuses(ElectraConfig, hidden_size=deep)


def test_a_byte_order_mark_before_json_is_accepted(tmp_path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert configuration.read_json_object(str(tmp_path / "config.json")) == {"a": 1}


def test_what_is_not_a_regular_file_is_refused_without_waiting_for_a_writer(tmp_path, refuses):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path, tmp_path / "broken", tmp_path / "latin"):
        assert str(path) in refuses(configuration.read_json_object, str(path))


def test_number_of_heads_must_divide_the_width(refuses):
    assert "num_attention_heads=5" in refuses(ElectraConfig.of_size, "tiny", num_attention_heads=5)


def test_unknown_size_is_refused_with_the_known_ones(refuses):
    text = refuses(ElectraConfig.of_size, "huge")
    assert "'huge'" in text and "tiny, small, base, large" in text


def test_unknown_field_is_refused_by_name_with_a_hint(refuses):
    assert "'hiden_size'" in (text := refuses(ElectraConfig.of_size, "tiny", hiden_size=64))
    assert "'hidden_size'" in text
    text = refuses(ElectraConfig.of_size, "tiny", qqq=1)
    assert "'qqq'" in text and "num_attention_heads" in text


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ElectraConfig().hidden_size = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        pretraining().seed = 1


# --- Pre-training settings ---


def test_defaults_are_the_recipes():
    config = pretraining()
    assert (config.optimizer, config.learning_rate, config.lr_decay_power, config.end_lr) == ("lamb", 6e-3, 0.5, 0.0)
    assert (config.opt_beta_1, config.opt_beta_2, config.weight_decay_rate, config.skip_adaptive) == (
        0.878, 0.974, 0.01, True)
    assert (config.num_train_steps, config.num_warmup_steps, config.max_seq_length) == (10000, 2000, 128)
    assert (config.mask_prob, config.disc_weight, config.keep_checkpoint_max) == (0.15, 50.0, 5)


@pytest.mark.parametrize("length, mask_prob, slots", [
    (128, 0.15, 19), (512, 0.15, 79),  # the recipe's max_predictions_per_seq
    (128, 0.25, 32), (8, 0.001, 1),  # never none
])
def test_slots_for_masked_positions(length, mask_prob, slots):
    assert pretraining(max_seq_length=length, mask_prob=mask_prob).max_predictions_per_seq == slots


@pytest.mark.parametrize("fields, part", [
    (dict(num_warmup_steps=20, num_train_steps=20), "--num_warmup_steps=20 must be below --num_train_steps=20"),
    (dict(num_warmup_steps=21, num_train_steps=20), "--num_warmup_steps=21"),
    (dict(train_batch_size=-16), "--train_batch_size=-16"),
    (dict(gradient_accumulation_steps=0), "--gradient_accumulation_steps=0"),
    (dict(num_train_steps=-1, num_warmup_steps=0), "--num_train_steps=-1"),
    (dict(mask_prob=0.0), "--mask_prob=0.0"),
    (dict(mask_prob=0.95), "--mask_prob=0.95"),
    (dict(opt_beta_1=1.0), "--opt_beta_1=1.0"),
    (dict(learning_rate=float("nan")), "--learning_rate=nan"),
    (dict(learning_rate=float("inf")), "--learning_rate=inf"),
    (dict(seed=-1), "--seed=-1"),
    (dict(seed=2**31), "--seed=2147483648"),
    (dict(train_batch_size=10**20 - 1), "--train_batch_size=99999999999999999999"),
    (dict(num_train_steps=10**4000), "--num_train_steps=1000"),
    (dict(keep_checkpoint_max=2**31), "--keep_checkpoint_max=2147483648"),
    (dict(learning_rate=1e39), "--learning_rate=1e+39"),
    (dict(model_size="huge"), "--model_size=huge"),
    (dict(generator_hidden_size=1.5), "--generator_hidden_size=1.5"),
    (dict(device="tpu"), "--device=tpu"),
    (dict(pretrain_tfrecords=None), "--pretrain_tfrecords is missing"),
    (dict(load_weights=True), "--weights_dir is missing"),
    (dict(weights_dir="x"), "--load_weights is missing"),
    (dict(load_weights=True, weights_dir="x", restore_checkpoint="latest"), "--restore_checkpoint"),
    (dict(overwrite=True, restore_checkpoint="latest"), "--overwrite"),
    (dict(eval_only=True, eval_tfrecords="x"), "--restore_checkpoint is missing"),
    (dict(eval_only=True, restore_checkpoint="x"), "--eval_tfrecords is missing"),
    *((dict(profile_steps=text), f"--profile_steps={text}") for text in ("10", "0:3", "5:4", "1-3", "a:b", "1:2:3")),
])
def test_setting_that_cannot_be_is_refused_by_its_flag(fields, part, refuses):
    assert part in refuses(pretraining, **fields)


def test_unknown_setting_is_no_setting():
    with pytest.raises(TypeError, match="learning_rat"):
        pretraining(learning_rat=1.0)


def test_folders_follow_the_name_of_the_run():
    config = pretraining(results_dir="out", model_size="small")
    assert config.checkpoint_dir == os.path.join("out", "models", "small", "checkpoints")
    assert pretraining(results_dir="out", model_name="mine").logs == os.path.join("out", "models", "mine", "logs")
    assert pretraining(log_dir="elsewhere").logs == "elsewhere"


def test_model_config_replaces_fields_of_the_size_and_the_vocabulary_comes_last(tmp_path, refuses):
    path = tmp_path / "model.json"
    path.write_text('{"model_type": "electra", "num_hidden_layers": 3, "vocab_size": 7}')
    config = pretraining(model_size="tiny", model_config=str(path))
    assert config.encoder_config(99) == ElectraConfig.of_size("tiny", num_hidden_layers=3, vocab_size=99)
    path.write_text('{"num_layers": 3}')
    assert "'num_layers'" in refuses(config.encoder_config, 99)


@pytest.mark.parametrize("value, part", [
    ("{", "not valid JSON"), ('{"a": ' * 10**5, "nested"), ("~", "~ cannot be read"), ("/", "Is a directory"),
    ('{"hidden_size": 65}', "hidden_size=65"), ('{"hidden": 64}', "'hidden'"), ('{"hidden_size": "64"}', "'64'"),
    ('{"hidden_size": 1e9}', "1000000000.0"), ('{"hidden_size": 100000000}', "100000000"),
])
def test_a_model_config_that_cannot_be_used_is_refused_by_its_flag(value, part, refuses):
    text = refuses(pretraining(model_size="tiny", model_config=value).encoder_config, 99)
    assert text.startswith("--model_config") and part in text


def test_sequences_longer_than_the_positions_are_refused(refuses):
    assert "--max_seq_length=513" in refuses(pretraining(max_seq_length=513).encoder_config, 99)


@pytest.mark.parametrize("module", ["configuration", "tokenization"])
def test_module_loads_without_tensorflow(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- Files ---


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    files.write_text(str(path), "old é\n")
    assert path.read_text(encoding="utf-8") == "old é\n"
    with pytest.raises(UnicodeEncodeError):
        files.write_text(str(path), "new " * 100000 + "\ud800")  # fails after much of it is written
    assert path.read_text(encoding="utf-8") == "old é\n"

    def interrupted(source, target):
        assert path.read_text(encoding="utf-8") == "old é\n"
        assert open(source, encoding="utf-8").read() == "new\n"  # whole before it takes the old one's place
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(OSError, match="no space"):
        files.write_text(str(path), "new\n")
    assert path.read_text(encoding="utf-8") == "old é\n"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_json_is_written_readable(tmp_path):
    path = tmp_path / "file.json"
    files.write_json(str(path), {"name": "é", "list": [1]})
    assert path.read_text(encoding="utf-8").startswith('{\n  "name": "é"')
    assert configuration.read_json_object(str(path)) == {"name": "é", "list": [1]}


def test_json_with_a_lone_surrogate_is_written_and_read_back(tmp_path):
    path = tmp_path / "file.json"
    files.write_json(str(path), {"id": "a\ud800", "path": os.fsdecode(b"\xff")})
    assert configuration.read_json_object(str(path)) == {"id": "a\ud800", "path": "\udcff"}


# --- The lock of a run's folder ---


class OtherRank:
    """A rank beside rank 0, which broadcasts `refusal`."""

    is_chief = False

    def __init__(self, refusal=None):
        self.from_chief = lambda value: refusal


def test_a_folder_in_use_is_refused_naming_the_process_and_the_way_out(tmp_path, monkeypatch, refuses):
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0)
    squad = SquadConfig(do_predict=True, data_dir="x", output_dir=str(tmp_path / "out"))

    def enter(config, workers=None):
        with config.sole_user(workers):
            pass

    with squad.sole_user():
        said = refuses(enter, squad)
        enter(squad, OtherRank())  # rank 0 alone holds the lock
    for word in (str(tmp_path / "out"), str(os.getpid()), "since 20", "--output_dir"):
        assert word in said
    assert not (tmp_path / "out").exists()  # it had nothing in it
    (tmp_path / "file").write_text("")
    config = PretrainingConfig(pretrain_tfrecords="x", results_dir=str(tmp_path / "file"))
    assert "--model_name" in refuses(enter, config) and "cannot be written" in refuses(enter, config)
    said = "refused on rank 0, as a sentence."
    assert refuses(enter, squad, OtherRank(UserError(said))) == said


def test_what_killed_runs_left_is_removed_by_whoever_holds_the_lock(tmp_path):
    config = PretrainingConfig(pretrain_tfrecords="x", results_dir=str(tmp_path))
    for folder in (config.model_dir, config.logs, config.checkpoint_dir):
        os.makedirs(folder, exist_ok=True)
        open(os.path.join(folder, f"x.tmp-{files.HOST}-99999999-1"), "w").close()
        open(os.path.join(folder, "mine"), "w").close()
    with config.sole_user():
        pass
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"mine"}


@pytest.mark.parametrize("batch, rate", [(1, 1e-4), (16, 1e-4), (24, 1.5e-4), (32, 2e-4), (64, 2.83e-4), (127, 3.98e-4),
                                         (128, 4e-4), (4096, 4e-4)])
def test_the_rate_of_a_fine_tuning_follows_the_global_batch(batch, rate):
    assert squad_options.fine_tuning_rate(batch) == rate
    config = SquadConfig(do_train=True, data_dir="d", output_dir="o", train_batch_size=batch)
    assert config.fitted(1).learning_rate == rate
    assert dataclasses.replace(config, learning_rate=4e-4).fitted(1).learning_rate == 4e-4
    help_text = SquadConfig.__dataclass_fields__["learning_rate"].metadata["meaning"]
    for size, value in squad_options.FINE_TUNING_RATES:
        assert f"{value:.0e} ".replace("e-0", "e-") in help_text and f"{size}" in help_text


def test_the_global_batch_counts_accumulation_and_workers():
    config = SquadConfig(do_train=True, data_dir="d", output_dir="o", train_batch_size=4, gradient_accumulation_steps=2)
    assert [config.global_batch(workers) for workers in (1, 4)] == [8, 32]
    assert [config.fitted(workers).learning_rate for workers in (1, 4, 16)] == [1e-4, 2e-4, 4e-4]


@pytest.mark.parametrize("given, expected", [
    ((384,), (128, 64)), ((258,), (128, 64)), ((256,), (127, 64)), ((128,), (63, 32)), ((8,), (3, 2)),
    ((128, 100), (100, 32)), ((128, None, 100), (32, 100)), ((128, None, 60), (63, 60)), ((128, None, 64), (61, 64)),
    ((384, 200, 100), (200, 100))])
def test_the_lengths_of_windows_fit_a_shorter_one(given, expected, refuses):
    assert squad_options.window_lengths(*given) == expected
    said = refuses(squad_options.window_lengths, given[0], given[0] - 2)
    assert f"--doc_stride={given[0] - 2}" in said and f"--max_seq_length={given[0]}" in said and "omit" in said


# --- Folders ---


@pytest.mark.parametrize("path, reason", [
    ("file", "not a directory"), ("file/below", "not a directory"), ("x" * 300, "more than 255 bytes"),
    ("new/" + "\u3042" * 100, "more than 255 bytes")])  # three bytes each
def test_a_folder_that_cannot_be_created_is_refused_with_the_reason(path, reason, tmp_path, refuses):
    (tmp_path / "file").write_text("")
    text = refuses(configuration.check_folder, str(tmp_path / path), "results_dir")
    assert "--results_dir" in text and reason in text
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_can_be_created_is_not(tmp_path):
    configuration.check_folder(str(tmp_path / "new" / "one"), "results_dir")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path, refuses):
    tmp_path.chmod(0o500)
    assert "permission" in refuses(configuration.check_folder, str(tmp_path / "new"), "log_dir")


@pytest.mark.parametrize("options, steps", [
    (dict(do_eval=True), []), (dict(do_eval=True, eval_steps=6), [6, 12]),
    (dict(do_eval=True, evaluate_during_training=True), [8]), (dict(evaluate_during_training=True), [8, 16]),
    (dict(do_eval=True, early_stopping_patience=2), [8]),
    (dict(early_stopping_patience=2, eval_steps=5), [5, 10, 15, 16])])
def test_evaluations_of_a_fine_tuning_are_due_by_epoch_and_by_updates(options, steps):
    config = SquadConfig(do_train=True, data_dir="x", output_dir="y", **options)
    assert [step for step in range(1, 17) if config.evaluates_after(step, step in (8, 16), 16)] == steps


def test_a_metric_and_a_language_that_do_not_fit_are_refused(refuses):
    common = dict(do_eval=True, data_dir="x", output_dir="y")
    for options in (dict(metric="mlqa"), dict(language="de"), dict(metric="cmrc", language="zh")):
        said = refuses(SquadConfig, **common, **options)
        assert "--metric" in said and "--language" in said
    for language in ("ar", "de", "en", "es", "hi", "vi", "zh"):
        assert SquadConfig(**common, metric="mlqa", language=language).language == language
    assert "--ensemble" in refuses(SquadConfig, do_train=True, data_dir="x", output_dir="y", ensemble="a,b")
