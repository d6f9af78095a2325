"""runtimes: exported models give the network's answers in onnxruntime and in TensorFlow Lite."""
from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support import ROOT, SQUAD_ENCODER, WHERE, words

import batching
import modeling
import postprocess_pretrained_ckpt
import preflight
import runtimes
import squad_utils
import weights
from configuration import RunFailed
from reader import Reader
from squad_options import ExportConfig

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("tf2onnx", "onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the packages of requirements-export.txt are not installed")


def export(checkpoint, target, **changes):
    postprocess_pretrained_ckpt.export(ExportConfig(pretrained_checkpoint=checkpoint, output_dir=str(target),
                                                    vocab_file=None, **changes))
    return target / "question_answering"


@pytest.fixture(scope="module")
def exported(independent, tmp_path_factory):
    """A question-answering model, exported to every runtime that can be written here."""
    return export(independent, tmp_path_factory.mktemp("exported") / "out", onnx=HAS_ONNX, tflite=True, int8=True)


RUNTIMES = [pytest.param("onnx", marks=needs_onnx), "tflite"]
CONTEXTS = [words(18, 1000 + place, place) for place in (0, 9, 17)] + [words(40, 3, 30), words(5, 4, 2)]


def answers_of(reader, model, contexts):
    """`Reader.results` with another network: windows of all lengths, in batches as they come."""
    examples = [squad_utils.Example(str(number), WHERE, context, (), False) for number, context in enumerate(contexts)]
    features = squad_utils.build_features(examples, reader.tokenizer, reader.length, reader.stride, reader.query_length)
    parts = []
    for rows in ([0], [1, 2, 3], list(range(4, len(features.lengths)))):
        batch = batching.Batch(int(features.lengths[rows].max()), np.array(rows))
        parts.append((batch, model({name: getattr(features, name)[rows, :batch.length]
                                    for name in weights.SERVING_INPUTS})))
    outputs = batching.join_outputs(parts, len(features.lengths), reader.length)
    found = squad_utils.search_answers(False, examples, features, outputs, 3, 30, False, reader.temperature)
    return [found.nbest[example.id] for example in examples]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_exported_model_gives_the_same_answers(runtime, exported, independent):
    reader = Reader.from_pretrained(independent)
    expected = reader.answer(WHERE, CONTEXTS)
    found = answers_of(reader, runtimes.open_model(str(exported / f"model.{runtime}")), CONTEXTS)
    assert all(answers[0].text == "zed" for answers in expected)
    for ours, theirs in zip(expected, found):
        assert [answer[:3] for answer in ours] == [answer[:3] for answer in theirs]
        np.testing.assert_allclose([answer[3:] for answer in theirs], [answer[3:] for answer in ours], rtol=0,
                                   atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_int8_model_is_smaller_and_answers_alike(runtime, exported, independent):
    reader = Reader.from_pretrained(independent)
    found = answers_of(reader, runtimes.open_model(str(exported / f"model_int8.{runtime}")), CONTEXTS)
    assert [answers[0].text for answers in found] == ["zed"] * len(CONTEXTS)
    exact = answers_of(reader, runtimes.open_model(str(exported / f"model.{runtime}")), CONTEXTS)
    assert found[0][0].score != exact[0][0].score
    assert os.path.getsize(exported / f"model_int8.{runtime}") < 0.75 * os.path.getsize(exported / f"model.{runtime}")


def test_the_vocabulary_and_configuration_lie_beside_the_files(exported, independent):
    there = set(os.listdir(exported))
    assert {"config.json", "vocab.txt", "tokenizer_config.json", "model.tflite", "model_int8.tflite"} <= there
    assert {"model.onnx", "model_int8.onnx"} <= there or not HAS_ONNX
    assert Reader.from_pretrained(str(exported)).answer(WHERE, CONTEXTS[0])[0].text == "zed"


@needs_onnx
def test_onnx_inputs_and_outputs_have_names_types_and_free_axes(exported):
    import onnxruntime
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
    assert {(value.name, value.type, tuple(value.shape)) for value in session.get_inputs()} == {
        (name, "tensor(int32)", ("batch", "length")) for name in ("input_ids", "input_mask", "segment_ids")}
    assert {(value.name, value.type, tuple(value.shape)) for value in session.get_outputs()} == {
        (name, "tensor(float)", ("batch", "length")) for name in ("start_logits", "end_logits")}


@needs_onnx
def test_the_example_of_the_documentation_answers_without_tensorflow(exported, independent):
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall("```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in block)
    example = example.replace('"exported_squad/question_answering"', repr(str(exported)))
    contexts = [context for context in CONTEXTS if len(context.split()) < 20]  # one window
    result = subprocess.run(
        [sys.executable, "-c", f"{example}\nimport sys\nfor context in {contexts!r}:\n"
         f"    print(json.dumps(answer({WHERE!r}, context)))\nassert 'tensorflow' not in sys.modules"],
        capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    expected = [answers[0] for answers in Reader.from_pretrained(independent).answer(WHERE, contexts)]
    assert [answer[:2] for answer in found] == [[answer.text, answer.start] for answer in expected]
    np.testing.assert_allclose([answer[2] for answer in found], [answer.score for answer in expected], atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_other_network_is_written_too(runtime, tmp_path):
    """Of the pre-training networks and the heads for classification and tagging, as SavedModels are."""
    make, ids = modeling.VariableMaker(0, 0.2), np.full((2, 9), 7, np.int32)
    features = {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    discriminator, generator = (
        modeling.Network(modeling.Embeddings(SQUAD_ENCODER, "electra/embeddings", make),
                         modeling.Encoder(SQUAD_ENCODER, "electra", make, tf.float32),
                         head(SQUAD_ENCODER, make, tf.float32))
        for head in (modeling.DiscriminatorHead, modeling.GeneratorHead))
    for name, network, shape in (("discriminator", discriminator, (2, 9)),
                                 ("generator", generator, (2, 9, SQUAD_ENCODER.vocab_size)),
                                 ("sequence", modeling.SequenceClassification(SQUAD_ENCODER, 3), (2, 3)),
                                 ("token", modeling.TokenClassification(SQUAD_ENCODER, 4), (2, 9, 4))):
        (tmp_path / name).mkdir()
        (file,) = runtimes.write(network, str(tmp_path / name), **{runtime: True})
        assert file.name == f"model.{runtime}"
        found = runtimes.open_model(str(tmp_path / name / file.name))(features)["logits"]
        assert found.shape == shape
        expected = weights.serving_module(network).serve(*(features[name] for name in weights.SERVING_INPUTS))
        np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-4)


# --- Refusals ---


def test_the_joint_head_is_refused_by_name(joint, tmp_path, refuses):
    for runtime in ("onnx", "tflite") if HAS_ONNX else ("tflite",):
        text = refuses(export, joint, tmp_path / "out", **{runtime: True})
        assert "joint head" in text and "--savedmodel" in text and "--nojoint_head" in text
    assert not os.listdir(tmp_path)


def test_onnx_without_its_packages_is_refused_before_the_checkpoint_is_opened(tmp_path, monkeypatch, refuses):
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else installed(name))
    (tmp_path / "ckpt-1.index").touch()
    config = ExportConfig(pretrained_checkpoint=str(tmp_path / "ckpt-1"), output_dir=str(tmp_path / "out"), onnx=True)
    for call in (preflight.check_export, postprocess_pretrained_ckpt.export):
        text = refuses(call, config)
        assert "tf2onnx" in text and "requirements-export.txt" in text and "--tflite" in text


def test_a_conversion_that_needs_more_memory_than_is_free_is_refused(independent, tmp_path, monkeypatch, refuses):
    monkeypatch.setattr(preflight, "free_memory", lambda: int(3e8))
    text = refuses(export, independent, tmp_path / "out", tflite=True)
    assert "--tflite" in text and "0.3 GB are free" in text
    assert not os.listdir(tmp_path)


def test_int8_without_a_runtime_is_refused(refuses):
    text = refuses(ExportConfig, pretrained_checkpoint="x", output_dir="y", int8=True)
    assert "--int8" in text and "--onnx" in text and "--tflite" in text


def test_a_conversion_that_fails_or_changes_the_logits_leaves_nothing(independent, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no such operation\nat x.py:7")

    monkeypatch.setattr(runtimes, "_write_tflite", broken)
    with pytest.raises(RunFailed, match=r"model\.tflite.*TensorFlow 2.*no such operation"):
        export(independent, tmp_path / "out", tflite=True)
    monkeypatch.undo()
    monkeypatch.setattr(runtimes, "TOLERANCE", -1.0)
    with pytest.raises(RunFailed, match=r"model\.tflite has other logits"):
        export(independent, tmp_path / "out", tflite=True)
    assert not os.listdir(tmp_path)
