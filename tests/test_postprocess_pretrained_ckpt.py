"""postprocess_pretrained_ckpt: what is exported, and refusals."""
from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import languages
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import tokenizers
from huggingface_hub import ModelCard

import modeling
import postprocess_pretrained_ckpt
import weights
from checkpoints import Checkpoints, read_state
from postprocess_pretrained_ckpt import ExportConfig
from pretraining_options import PretrainingConfig
from tokenization import ElectraTokenizer

ROOT = pathlib.Path(__file__).parent.parent


def make_run(folder, vocab_file, **changes):
    """A run's folder with a checkpoint of each phase. Returns the phase 2 model."""
    tokenizer = ElectraTokenizer(vocab_file)
    settings = PretrainingConfig(pretrain_tfrecords="gone", num_train_steps=3, num_warmup_steps=1, model_size="tiny",
                                 model_config='{"num_hidden_layers": 1, "max_position_embeddings": 128}', **changes)
    encoder = settings.encoder_config(tokenizer.vocab_size)
    tokenizer.save(str(folder))
    for phase in (1, 2):
        model = modeling.pretraining_model(encoder, settings, tokenizer)
        for variable in model.trainable_variables:
            variable.assign_add(tf.fill(variable.shape, 0.01 * phase))
        state = {"config": vars(settings), "encoder": encoder.to_dict(), "tokenizer_fingerprint": tokenizer.fingerprint}
        Checkpoints(str(folder / "checkpoints")).save(phase, 3, model, tf.Module(), state)
    return model


@pytest.fixture
def run(tmp_path, vocab_file):
    make_run(tmp_path / "run", vocab_file)
    return tmp_path / "run"


def export(run, target, **changes):
    settings = {"pretrained_checkpoint": str(run / "checkpoints"), "output_dir": str(target), **changes}
    postprocess_pretrained_ckpt.export(ExportConfig(**settings))


def test_the_command_writes_both_networks_and_says_where(tmp_path, vocab_file):
    model = make_run(tmp_path / "run", vocab_file)
    result = subprocess.run(
        [sys.executable, str(ROOT / "postprocess_pretrained_ckpt.py"), "--savedmodel", "--output_dir=out",
         "--pretrained_checkpoint=run/checkpoints/ckpt-p2-3"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"{kind} of run/checkpoints/ckpt-p2-3 (step 3 of phase 2): out/{kind}"
        for kind in ("discriminator", "generator")]
    for kind in ("discriminator", "generator"):
        assert sorted(os.listdir(tmp_path / "out" / kind)) == [
            "README.md", "config.json", "model.safetensors", "saved_model", "tokenizer_config.json", "vocab.txt"]
    found = weights.read(str(tmp_path / "out")).tensors
    for variable in model.trainable_variables:
        name = variable.name.split(":")[0]
        rows = slice(0, 41) if name.endswith(weights.VOCABULARY_TENSORS) else slice(None)
        np.testing.assert_array_equal(found[name], variable.numpy()[rows], err_msg=name)
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]


def test_a_sentencepiece_vocabulary_is_exported_as_itself(tmp_path):
    lines = [line for line in languages.corpus("german", 100) if line]
    make_run(tmp_path / "run", languages.train_sentencepiece(tmp_path / "x.model", lines, vocab_size=101))
    export(tmp_path / "run", tmp_path / "out")
    folder = tmp_path / "out" / "discriminator"
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors", "spiece.model",
                                          "tokenizer.json", "tokenizer_config.json"]
    assert (folder / "spiece.model").read_bytes() == (tmp_path / "x.model").read_bytes()
    source = weights.read(str(tmp_path / "out"))
    assert source.tokenizer.fingerprint == ElectraTokenizer(str(tmp_path / "x.model")).fingerprint
    assert weights.open_tokenizer(source).encode("Köln") == source.tokenizer.encode("Köln")
    # What transformers adds around the text of this file:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    pair, own = theirs.encode("In Köln.", "Wo?"), source.tokenizer.encode
    first, second = own("In Köln.").ids, own("Wo?").ids
    assert pair.ids == [2, *first, 3, *second, 3] and pair.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_a_checkpoints_folder_means_its_newest(run, tmp_path, capsys):
    export(run, tmp_path / "out")
    assert "ckpt-p2-3 (step 3 of phase 2)" in capsys.readouterr().out


def test_a_truncated_checkpoint_named_by_any_of_its_files_is_refused(run, tmp_path, refuses):
    prefix = run / "checkpoints" / "ckpt-3"
    data = prefix.with_name("ckpt-3.data-00000-of-00001")
    export(run, tmp_path / "whole", pretrained_checkpoint=str(data))
    content = data.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 0):
        data.write_bytes(content[:length])
        for name in (prefix, data, f"{prefix}.index"):
            text = refuses(export, run, tmp_path / "out", pretrained_checkpoint=str(name))
            assert str(prefix) in text and "cannot be read" in text


@pytest.mark.parametrize("changes, kinds", [({"objective": "mlm"}, ["generator"]),
                                            ({"generator": "uniform"}, ["discriminator"]),
                                            ({"share_embeddings": False}, ["discriminator", "generator"])], ids=str)
def test_the_networks_of_the_objective_are_written(changes, kinds, tmp_path, vocab_file):
    make_run(tmp_path / "run", vocab_file, **changes)
    export(tmp_path / "run", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == kinds


def test_a_checkpoint_that_does_not_match_its_settings_in_every_variable_is_refused(run, tmp_path, vocab_file, refuses):
    prefix = str(run / "checkpoints" / "ckpt-3")
    tokenizer = ElectraTokenizer(vocab_file)
    state = read_state(prefix)
    settings = PretrainingConfig.from_saved(state["config"])
    encoder = settings.encoder_config(tokenizer.vocab_size)
    for change in ({"generator": "uniform"}, {"generator_hidden_size": 1.0}):
        changed = PretrainingConfig(**{**vars(settings), **change})
        model = modeling.pretraining_model(encoder, changed, tokenizer)
        Checkpoints(str(run / "checkpoints")).save(1, 4, model, tf.Module(), state)
        assert "ckpt-4" in refuses(export, run, tmp_path / "out", pretrained_checkpoint=str(
            run / "checkpoints" / "ckpt-4"))
    more = PretrainingConfig(**{**vars(settings), "generator": "uniform"})  # the checkpoint has a generator too
    state = {**state, "config": vars(more)}
    Checkpoints(str(run / "checkpoints")).save(
        1, 5, modeling.pretraining_model(encoder, settings, tokenizer), tf.Module(), state)
    text = refuses(export, run, tmp_path / "out", pretrained_checkpoint=str(run / "checkpoints" / "ckpt-5"))
    assert "ckpt-5" in text and "variables" in text
    assert not (tmp_path / "out").exists()


def test_an_earlier_export_is_replaced_only_with_overwrite_and_other_folders_never(run, tmp_path, refuses):
    export(run, tmp_path / "out")
    assert "--overwrite" in refuses(export, run, tmp_path / "out")
    (tmp_path / "out" / "generator" / "config.json").unlink()
    export(run, tmp_path / "out", overwrite=True)
    assert json.loads((tmp_path / "out" / "generator" / "config.json").read_text())["vocab_size"] == 41
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    text = refuses(export, run, tmp_path / "out", overwrite=True)
    assert "--output_dir" in text and "--overwrite" not in text
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_card_that_was_edited_is_kept_and_another_is_written_again(run, tmp_path, capsys, vocab_file, refuses):
    cards = [tmp_path / "out" / kind / "README.md" for kind in ("discriminator", "generator")]
    export(run, tmp_path / "out")
    assert ModelCard.load(cards[0]).data.license == "unknown" and "update 3 of 3 in phase 2" in cards[0].read_text()
    cards[1].write_text("# Mine")
    capsys.readouterr()
    export(run, tmp_path / "out", overwrite=True, license="mit", language="de")
    data = ModelCard.load(cards[0]).data
    assert (data.license, data.language) == ("mit", "de") and cards[1].read_text() == "# Mine"
    said = capsys.readouterr().out
    assert f"{cards[1]} was edited, and is kept" in said and str(cards[0]) not in said
    make_run(tmp_path / "other", vocab_file, generator="uniform")
    assert str(cards[1]) in refuses(export, tmp_path / "other", tmp_path / "out", overwrite=True)
    assert cards[1].read_text() == "# Mine"


def test_both_networks_are_pushed_to_repositories_of_their_own(run, tmp_path, capsys, monkeypatch):
    pushed = []
    monkeypatch.setattr(postprocess_pretrained_ckpt.hub, "upload", lambda folders, public, is_own_card: (
        pushed.append((folders, public, is_own_card("# Mine"))) or {name: f"https://hub/{name}" for name in folders}))
    export(run, tmp_path / "out", push_to_hub="me/tiny", public=True)
    folders = {f"me/tiny-{kind}": str(tmp_path / "out" / kind) for kind in ("discriminator", "generator")}
    assert pushed == [(folders, True, False)]
    assert "pushed: https://hub/me/tiny-generator" in capsys.readouterr().out
    assert 'from_pretrained("me/tiny-discriminator")' in (tmp_path / "out/discriminator/README.md").read_text()


@pytest.mark.parametrize("changes", [{"license": "MIT License"}, {"language": "English"}, {"public": True}], ids=str)
def test_invalid_metadata_is_refused_by_its_flag(changes, refuses):
    name = next(iter(changes))
    assert f"--{name}" in refuses(ExportConfig, pretrained_checkpoint="c", output_dir="o", **changes)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target, part", [
    ("/", "mount point"), ("//", "mount point"), (".", "current folder"), ("..", "current folder"),
    ("sub/..", "current folder"), ("file", "not a directory"), ("file/", "not a directory"),
    ("fifo", "not a directory"),
    ("file/x", "not a directory"), ("loop", "not a directory"), ("x/" * 1000, "too long"),
    ("x" * 300, "more than 255 bytes"),
    ("foreign", "exists already"), ("link", "exists already"),
])
def test_a_folder_that_cannot_be_replaced_is_refused_and_left_alone(target, part, overwrite, run, tmp_path, monkeypatch,
                                                                    refuses):
    """With --overwrite --output_dir=/ the export once replaced the current folder."""
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (here / "foreign").mkdir()
    (here / "foreign" / "thesis.txt").write_text("mine")
    (here / "file").write_text("mine")
    (here / "link").symlink_to("foreign")
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "fifo")
    monkeypatch.chdir(here)
    before = sorted(map(str, here.rglob("*")))
    text = refuses(export, run, target, overwrite=overwrite)
    assert "--output_dir" in text and part in text and target[:200] in text
    assert sorted(map(str, here.rglob("*"))) == before


def test_a_symbolic_link_is_followed(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    export(run, tmp_path / "link")
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["discriminator", "generator"]
    export(run, f"{tmp_path / 'link'}/", overwrite=True)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("place, error", [
    ("safetensors.numpy.save_file", safetensors.SafetensorError("I/O error: No space left on device (os error 28)")),
    ("files.write_json", OSError(errno.ENOSPC, "No space left on device")),
    ("files.write_text", OSError(errno.ENOSPC, "No space left on device")),
    ("tensorflow.saved_model.save", tf.errors.ResourceExhaustedError(None, None, "x; No space left on device\nmore")),
])
def test_a_full_disk_ends_in_one_sentence_and_leaves_nothing(place, error, run, tmp_path, monkeypatch, refuses):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(place, full)
    before = sorted(os.listdir(tmp_path))
    text = refuses(export, run, tmp_path / "out", savedmodel=True)
    assert f"--output_dir={tmp_path / 'out'}" in text and "No space left" in text
    assert sorted(os.listdir(tmp_path)) == before


def test_a_checkpoint_without_its_vocabulary_needs_vocab_file(run, tmp_path, vocab_file, refuses):
    moved = tmp_path / "moved" / "checkpoints"
    shutil.copytree(run / "checkpoints", moved)
    assert "--vocab_file" in refuses(export, run, tmp_path / "out", pretrained_checkpoint=str(moved))
    export(run, tmp_path / "out", pretrained_checkpoint=str(moved), vocab_file=vocab_file)
    assert weights.read(str(moved), vocab_file).tokenizer.vocab_file == vocab_file
    (tmp_path / "other.txt").write_text("\n".join(reversed(pathlib.Path(vocab_file).read_text().split())))
    assert "other.txt" in refuses(export, run, tmp_path / "out2", vocab_file=str(tmp_path / "other.txt"))


def test_a_fine_tuned_checkpoint_becomes_one_folder(tmp_path, vocab_file, capsys):
    tokenizer = ElectraTokenizer(vocab_file)
    encoder = PretrainingConfig(pretrain_tfrecords="x", model_size="tiny", model_config='{"num_hidden_layers": 1}'
                                ).encoder_config(tokenizer.vocab_size)
    model = modeling.QuestionAnswering(encoder, joint_head=False, version_2=True)
    tokenizer.save(str(tmp_path / "squad"))
    Checkpoints(str(tmp_path / "squad" / "checkpoints")).save(1, 7, model, tf.Module(), {
        "task": "squad", "head": model.settings, "encoder": encoder.to_dict(), "config": {},
        "tokenizer_fingerprint": tokenizer.fingerprint})
    export(tmp_path / "squad", tmp_path / "out")
    assert "question_answering of" in capsys.readouterr().out and os.listdir(tmp_path / "out") == ["question_answering"]
    again = weights.question_answering(weights.read(str(tmp_path / "out" / "question_answering")), tokenizer)
    assert again.settings == model.settings
    np.testing.assert_array_equal(again.head.dense.kernel, model.head.dense.kernel)
    weights.keep_temperature(str(tmp_path / "squad" / "checkpoints" / "ckpt-7"), 1.5)
    export(tmp_path / "squad", tmp_path / "calibrated")
    assert weights.read(str(tmp_path / "calibrated" / "question_answering")).temperature == 1.5


@pytest.mark.parametrize("arguments, problem", [
    ([], "--pretrained_checkpoint"),
    (["--pretrained_checkpoint=nowhere/ckpt-1"], "--output_dir"),
    (["--pretrained_checkpoint=nowhere/ckpt-1", "--output_dir=out"], "nowhere/ckpt-1"),
    (["--pretrained_checkpoint=nowhere/ckpt-1", "--outputdir=out"], "outputdir"),
], ids=["nothing", "no output", "nowhere", "unknown"])
def test_invalid_options_are_refused(arguments, problem, tmp_path, monkeypatch, refuses):
    monkeypatch.chdir(tmp_path)
    assert problem in refuses(postprocess_pretrained_ckpt.main, ["postprocess_pretrained_ckpt.py", *arguments])
    assert os.listdir(tmp_path) == []
