"""reader: answers, windows, batches, answerability, options that do not fit a model."""
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from support import WHERE, words

import devices
import predictor
import reader as reader_module
import weights
from checkpoints import Checkpoints
from configuration import RunFailed
from reader import Reader
from run_inference import describe, in_sentence
from squad_options import ReaderConfig
from tokenization import ElectraTokenizer


@pytest.fixture(scope="module", params=["joint", "independent"])
def reader(request, joint, independent):
    return Reader.from_pretrained(request.getfixturevalue(request.param))


def result(reader, context, question=WHERE):
    (found,) = reader.results([question], [context])
    return found


def report(reader, context):
    return describe(result(reader, context), context, reader.config.null_score_diff_threshold)


# --- Answers ---


@pytest.mark.parametrize("place", [0, 9, 17])
def test_the_answer_is_found_with_its_place_and_probability(reader, place):
    context = words(18, 1000 + place, place)
    answers, odds, answerable = result(reader, context)
    assert reader.answer(WHERE, context) == answers
    assert answers[0].text == "zed" == context[answers[0].start:answers[0].end]
    assert answers[0].probability > 0.5 and odds < 0 and answerable == (True if reader.version_2 else None)
    assert len(answers) == 3 + reader.version_2
    assert 0.5 < sum(answer.probability for answer in answers) <= 1 + 1e-9
    lines = [line for line in report(reader, context).splitlines() if "null odds" not in line]
    assert lines[0] == f"{answers[0].probability:6.1%}  zed"
    assert lines[1] == "        " + in_sentence(context, answers[0].start, answers[0].end)
    assert len(lines) == 2 * len(answers) - reader.version_2
    assert len([line for line in lines if line.endswith("%  (no answer)")]) == reader.version_2


def test_the_probability_does_not_depend_on_the_number_of_answers(joint, independent):
    context = words(40, 3, 20)
    for model in (joint, independent):
        found = [Reader.from_pretrained(model, n_best_size=n).answer(WHERE, context) for n in (1, 20)]
        assert [answer for answer in found[1] if answer.text][0] == [answer for answer in found[0] if answer.text][0]
        assert found[0][0].probability < 1


def test_the_temperature_kept_with_the_model_is_used(independent, tmp_path):
    run = weights.open_checkpoint(independent)
    folder = str(tmp_path / "exported")
    weights.save_folder(run.model(), "question_answering", run.tokenizer, folder)
    context = words(18, 3000, 6)
    before = Reader.from_pretrained(folder).answer(WHERE, context)[0]
    weights.keep_temperature(folder, 1e5)
    after = Reader.from_pretrained(folder).answer(WHERE, context)[0]
    assert after[:4] == before[:4] and before.probability > 0.5
    assert after.probability == pytest.approx(1 / (18 * 19 / 2), rel=1e-2)  # any of the spans of 18 words


def test_a_long_context_is_searched_completely_in_batches(reader, monkeypatch):
    monkeypatch.setattr(reader, "stride", 7)
    shapes = record_shapes(reader, monkeypatch)
    for place in (0, 311, 150, 288, 64):
        context = words(312, 7, place)  # a window of 32 tokens holds 25 of context
        shapes.clear()
        found = reader.answer(WHERE, context)
        assert shapes == [(32, 32), (10, 32)] and 32 < 1 + -(-(312 - 25) // 7) <= 48
        assert (found[0].text, found[0].start) == ("zed", context.index("zed"))
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "BATCH_SIZE", 1000)
            at_once = reader.answer(WHERE, context)
        assert [answer[:3] for answer in found] == [answer[:3] for answer in at_once]
        assert found[0].score == pytest.approx(at_once[0].score, abs=1e-4)


def record_shapes(reader, monkeypatch):
    shapes = []

    def record(features, answers=reader._answers):
        shapes.append(tuple(features["input_ids"].shape))
        return answers(features)

    monkeypatch.setattr(reader, "_answers", record)
    return shapes


# --- Lists ---


def test_lists_give_lists_computed_in_batches_of_similar_length(reader, monkeypatch):
    monkeypatch.setattr(reader, "buckets", [12, 20, 32])
    monkeypatch.setattr(reader_module, "TOGETHER", 20)
    counts = [4, 18, 12, 5, 60, 3] * 5
    contexts = [words(count, seed, seed % 3) for seed, count in enumerate(counts)]
    shapes = record_shapes(reader, monkeypatch)
    found = reader.answer([WHERE] * len(contexts), contexts)
    assert {length for _, length in shapes} == {12, 20, 32} and max(size for size, _ in shapes) <= 32
    assert len(shapes) == 6  # two groups of questions, each of three lengths
    for context, answers in zip(contexts, found):
        alone = reader.answer(WHERE, context)
        assert [answer[:3] for answer in answers] == [answer[:3] for answer in alone]
        assert [a.probability for a in answers] == pytest.approx([a.probability for a in alone], abs=1e-4)
    texts = [answer.text for answer in found[0]]
    for several in (reader.answer([WHERE] * 2, contexts[0]), reader.answer(WHERE, contexts[:1] * 2)):
        assert [[answer.text for answer in answers] for answers in several] == [texts] * 2
    assert reader.answer([], []) == []


def test_empty_questions_and_texts_are_refused(reader, refuses):
    assert "question 2 of 2" in refuses(reader.answer, [WHERE, " "], ["bel", "bel"])
    assert "text 1 of 1" in refuses(reader.answer, WHERE, "\n")
    assert "2 questions and 3 texts" in refuses(reader.answer, [WHERE] * 2, ["bel"] * 3)


def test_texts_of_any_length_are_answered_without_tracing_again(independent):
    reader = Reader.from_pretrained(independent)
    reader.buckets = [8, 12, 16, 24, 32]
    reader.answer(WHERE, "zed")
    for count in range(1, 41, 2):  # 20 lengths, up to several windows
        reader.answer([WHERE] * (count % 7 + 1), words(count, count))
    assert reader._answers.experimental_get_tracing_count() == 1


def test_on_hpu_every_graph_has_fixed_shapes_and_there_are_few(independent, monkeypatch):
    monkeypatch.setattr(devices, "open_device", lambda *_: type("Device", (), {
        "note": "", "kind": "hpu", "compute_dtype": tf.float32}))
    reader = Reader.from_pretrained(independent)
    traced, answers = [], reader.model.answers

    def trace(features):
        traced.append(tuple(features["input_ids"].shape))
        return answers(features)

    reader._answers = tf.function(trace, autograph=False, input_signature=reader.signature)
    for count in (3, 20, 7, 4, 18, 3):
        reader.answer([WHERE] * (count % 3 + 1), words(count, count))
    assert sorted(traced) == [(1, 32), (2, 32), (4, 32)]


# --- Answerability ---


def test_version_2_predicts_whether_the_question_is_answerable(joint):
    reader = Reader.from_pretrained(joint)
    without, with_answer = words(18, 2000), words(18, 2001, 5)
    for context, answerable, sign in ((without, False, 1), (with_answer, True, -1)):
        found = result(reader, context)
        assert found.answerable == answerable and sign * found.null_odds > 0
        assert found.prediction == ("zed" if answerable else "")
        verdict = "answerable" if answerable else "unanswerable"
        assert report(reader, context).startswith(f"{verdict} (null odds {found.null_odds:.2f}, threshold 0)\n")
    odds = result(reader, with_answer).null_odds
    for threshold, answerable in ((odds - 1, False), (odds + 1, True)):
        reader.config = dataclasses.replace(reader.config, null_score_diff_threshold=threshold)
        assert result(reader, with_answer).answerable == answerable


def test_a_squad_1_1_model_does_not_predict_answerability(independent):
    assert "null odds" not in report(Reader.from_pretrained(independent), words(18, 2000))


def test_no_answer_is_listed_by_probability(joint):
    reader = Reader.from_pretrained(joint, n_best_size=2)
    without = report(reader, words(18, 2000)).splitlines()
    assert without[1].endswith("%  (no answer)") and len(without) == 6
    context = words(18, 2001, 5)
    answers, odds, _ = result(reader, context)
    assert [answer.text for answer in answers].index("") > 0
    none = next(answer for answer in answers if not answer.text)
    assert none.probability == pytest.approx(1 / (1 + np.exp(-odds / reader.temperature)), rel=1e-6)  # the sigmoid


def foreign(independent, folder, **changes):
    """An exported model without the settings that this project adds to config.json, and with others."""
    run = weights.open_checkpoint(independent)
    weights.save_folder(run.model(), "question_answering", run.tokenizer, str(folder))
    content = {**json.loads((folder / "config.json").read_text()), **changes}
    del content["question_answering"]
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


def test_version_2_with_negative_applies_to_a_model_of_another_project(independent, tmp_path):
    context = words(18, 3000, 6)
    name = foreign(independent, tmp_path / "foreign")
    assert "(no answer)" not in report(Reader.from_pretrained(name), context)
    reader = Reader.from_pretrained(name, version_2_with_negative=True)
    first, *lines = report(reader, context).splitlines()
    assert first.startswith("answerable (null odds -") and lines[0].endswith("%  zed")
    assert len([line for line in lines if line.endswith("%  (no answer)")]) == 1
    answers, odds, _ = result(reader, context)
    none = next(answer for answer in answers if not answer.text)
    assert none.score == pytest.approx(odds + answers[0].score)
    assert none.probability == pytest.approx(answers[0].probability * np.exp(odds))


def test_a_model_of_this_project_records_its_squad_version(joint, independent, refuses):
    text = refuses(Reader.from_pretrained, independent, version_2_with_negative=True)
    assert "SQuAD 1.1" in text and "--version_2_with_negative" in text
    assert Reader.from_pretrained(joint, version_2_with_negative=True).version_2


def test_a_text_without_a_token_has_an_empty_answer(reader):
    answers, _, answerable = result(reader, "\u200b\u200b")
    assert [answer.text for answer in answers] == [""]
    assert answerable == (False if reader.version_2 else None)
    assert report(reader, "\u200b") == "100.0%  (no answer): the text has no words"


# --- Models ---


def test_weights_that_are_not_finite_are_refused(independent, tmp_path, refuses):
    run = weights.open_checkpoint(independent)
    model = run.model()
    bias = next(variable for variable in model.trainable_variables if variable.name.startswith("qa_outputs/bias"))
    bias.assign(bias * np.nan)
    Checkpoints(str(tmp_path / "run" / "checkpoints")).save(1, 3, model, tf.Module(), run.state)
    run.tokenizer.save(str(tmp_path / "run"))
    text = refuses(Reader.from_pretrained, str(tmp_path / "run"))
    assert "qa_outputs/bias" in text and "NaN" in text


def test_outputs_that_are_not_finite_are_no_answer(independent, monkeypatch):
    reader = Reader.from_pretrained(independent)
    monkeypatch.setattr(reader, "_answers", lambda features: {
        name: tf.constant(np.nan, shape=features["input_ids"].shape) for name in ("start_logits", "end_logits")})
    with pytest.raises(RunFailed, match="start_logits"):
        reader.answer(WHERE, "bel zed")


@pytest.mark.parametrize("length", range(8, 20))
def test_the_shortest_windows_hold_a_question_and_some_context(independent, length):
    reader = Reader.__new__(Reader)  # without loading the weights again
    reader.config, reader.version_2, reader.temperature = ReaderConfig("x", max_seq_length=length), False, 1.0
    reader.length, reader.query_length, reader.stride = reader_module.window(reader.config, 32)
    assert reader.length == length
    reader.buckets = [length]
    reader.tokenizer = ElectraTokenizer(f"{independent}/vocab.txt")
    rows = []

    def outputs(features):
        ids = features["input_ids"].numpy()
        rows.append(len(ids))
        logits = np.float32(ids == reader.tokenizer.tokens.index("zed"))
        return {"start_logits": tf.constant(logits), "end_logits": tf.constant(logits)}

    reader.model = type("Model", (), {"joint_head": False, "version_2": False})
    reader._answers, reader.signature = outputs, None
    context = words(40, 5, 33)
    assert reader.answer(WHERE * 5, context)[0].start == context.index("zed")
    assert sum(rows) > 1


def test_an_exported_model_and_one_named_vocabulary_answer_alike(independent, tmp_path):
    run = weights.open_checkpoint(independent)
    weights.save_folder(run.model(), "question_answering", run.tokenizer, str(tmp_path / "exported"))
    context = words(18, 3000, 6)
    expected = Reader.from_pretrained(independent).answer(WHERE, context)
    assert Reader.from_pretrained(str(tmp_path / "exported")).answer(WHERE, context) == expected
    (tmp_path / "exported" / "vocab.txt").rename(tmp_path / "vocab.txt")
    assert Reader.from_pretrained(str(tmp_path / "exported"),
                                  vocab_file=str(tmp_path / "vocab.txt")).answer(WHERE, context) == expected


@pytest.mark.parametrize("max_seq_length, positions, expected", [
    (None, 512, (384, 64, 128)), (None, 4096, (384, 64, 128)), (None, 128, (128, 32, 63)), (256, 512, (256, 64, 127)),
    (258, 512, (258, 64, 128)), (64, 128, (64, 16, 31)), (8, 8, (8, 2, 3))])
def test_windows_are_those_of_the_recipe_where_they_fit(max_seq_length, positions, expected):
    config = ReaderConfig("x", max_seq_length=max_seq_length)
    assert reader_module.window(config, positions) == expected


def test_options_of_a_window_are_used_or_refused(refuses):
    def window(positions=512, **named):
        return reader_module.window(ReaderConfig("x", **named), positions)

    assert window(doc_stride=300)[2] == 300 and window(doc_stride=1)[2] == 1
    assert window(max_seq_length=128, doc_stride=93)[2] == 93
    text = refuses(window, max_seq_length=128, doc_stride=94)
    assert "--doc_stride=94" in text and "128" in text and "at most 93" in text
    assert "--doc_stride=94" in refuses(window, positions=128, doc_stride=94)
    text = refuses(window, max_seq_length=513)
    assert "--max_seq_length=513" in text and "512" in text


def test_notes_of_the_device_and_the_weights_are_given(independent, tmp_path, monkeypatch):
    notes = []
    Reader(ReaderConfig(independent), log=notes.append)
    assert not notes
    name = foreign(independent, tmp_path / "foreign")
    tensors = safetensors.numpy.load_file(f"{name}/model.safetensors")
    tensors["electra.pooler.weight"] = np.zeros((2, 2), np.float32)
    safetensors.numpy.save_file(tensors, f"{name}/model.safetensors")
    monkeypatch.setattr(devices, "open_device", lambda *_: type("Device", (), {
        "note": "bf16 is slow here.", "kind": "cpu", "compute_dtype": tf.float32}))
    Reader(ReaderConfig(name), log=notes.append)
    assert notes[0] == "bf16 is slow here." and "not used: electra.pooler.weight" in notes[1] and len(notes) == 2


def test_the_device_is_opened_before_anything_uses_one(independent, monkeypatch):
    order = []

    def noted(name, function):
        def call(*args):
            order.append(name)
            return function(*args)
        return call

    monkeypatch.setattr(devices, "open_device", noted("open_device", devices.open_device))
    monkeypatch.setattr(weights, "read", noted("read", weights.read))
    Reader.from_pretrained(independent)
    assert order == ["open_device", "read"]
