"""run_inference: questions by option and from standard input, windows, marked sentences, answerability, refusals.

Two tiny models are fine-tuned here to find the word `zed` in a context; the one with the joint head, on SQuAD 2.0, also
to predict that it is missing.
"""
from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import devices
import modeling
import run_inference
import run_tf_squad
import squad_utils
import training
import weights
from configuration import ElectraConfig, SquadConfig
from run_inference import InferenceConfig, Reader, in_sentence, with_no_answer
from tokenization import ElectraTokenizer

ROOT = pathlib.Path(__file__).parent.parent
FILLERS = [f"{a}{b}" for a in "bcdfglmn" for b in ("an", "el", "ir", "om", "us")]
CONFIG = ElectraConfig(vocab_size=5 + len(FILLERS) + 6, embedding_size=16, hidden_size=32, num_hidden_layers=1,
                       num_attention_heads=2, intermediate_size=64, max_position_embeddings=32,
                       hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
QUESTION = "where is it ?"


def words(count, seed, zed=None):
    """A context of invented words, with `zed` at a place in it."""
    chosen = list(np.random.default_rng(seed).choice(FILLERS, count))
    if zed is not None:
        chosen[zed] = "zed"
    return " ".join(chosen)


def squad_file(path, version_2):
    paragraphs = []
    for number in range(64):
        impossible = version_2 and number % 2 == 1
        context = words(18, number, None if impossible else number * 7 % 18)
        answers = [] if impossible else [{"text": "zed", "answer_start": context.index("zed")}]
        paragraphs.append({"context": context, "qas": [{
            "id": str(number), "question": QUESTION, "answers": answers,
            **({"is_impossible": impossible} if version_2 else {})}]})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an encoder's weights in `encoder`."""
    folder = tmp_path_factory.mktemp("inference")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, "where", "is",
                                                 "it", "?", "zed", "."]))
    make = modeling.VariableMaker(3, 0.2)
    network = modeling.Network(modeling.Embeddings(CONFIG, "electra/embeddings", make),
                               modeling.Encoder(CONFIG, "electra", make, tf.float32),
                               modeling.DiscriminatorHead(CONFIG, make, tf.float32))
    weights.save_folder(network, "discriminator", ElectraTokenizer(str(folder / "vocab.txt")), str(folder / "encoder"))
    return folder


def fine_tune(folder, name, joint_head):
    """Makes <folder>/<name>, with version 2.0 where the head is joint. Returns its path."""
    squad_file(folder / f"{name}.json", version_2=joint_head)
    run_tf_squad.run(SquadConfig(
        do_train=True, train_file=str(folder / f"{name}.json"), output_dir=str(folder / name), skip_cache=True,
        init_checkpoint=str(folder / "encoder"), version_2_with_negative=joint_head, joint_head=joint_head,
        max_seq_length=32, doc_stride=8, max_query_length=8, length_buckets="32", train_batch_size=16, max_steps=150,
        learning_rate=1e-2, layerwise_lr_decay=0.0, seed=1, log_freq=1000), training.StopRequest())
    return str(folder / name)


@pytest.fixture(scope="module")
def joint(folder):
    return fine_tune(folder, "joint", joint_head=True)


@pytest.fixture(scope="module")
def independent(folder):
    return fine_tune(folder, "independent", joint_head=False)


@pytest.fixture(scope="module", params=["joint", "independent"])
def reader(request, joint, independent):
    return Reader(InferenceConfig(init_checkpoint=request.getfixturevalue(request.param), context="x"))


# --- The sentence around an answer ---


@pytest.mark.parametrize("context, marked", [
    ("One is here. [Two] is there. Three.", ">>Two<< is there."),
    ("One is here. Two is [there]. Three.", "Two is >>there<<."),
    ("One is here. Two is [there.] Three.", "Two is >>there.<<"),
    ("[One] is here. Two.", ">>One<< is here."),
    ("One is here. Two is [there]", "Two is >>there<<"),
    ("One is here. Two is there[.]", "Two is there>>.<<"),
    ("[Only]", ">>Only<<"),
    ("Why? Because [so]! Then?", "Because >>so<<!"),
    ("A title\nThe [text] of it\nand more", "The >>text<< of it"),
    ("A title\n[text]", ">>text<<"),
    ("A title\n\n[text]", ">>text<<"),
    ("[a]\n", ">>a<<"),
    ("One. Two [is here. And] three. Four.", "Two >>is here. And<< three."),
    ("One. Two [is\nhere] now. Three.", "Two >>is here<< now."),
    ("It cost 3.50 [in] v1.2 then. So.", "It cost 3.50 >>in<< v1.2 then."),
    ("One.\tTwo   is [here].", "Two is >>here<<."),
])
def test_the_answer_is_marked_in_its_sentence(context, marked):
    start, end = context.index("["), context.index("]") - 1
    assert in_sentence(context.replace("[", "").replace("]", ""), start, end) == marked


def test_every_span_is_marked_once_and_on_one_line():
    context = "One is\nhere. Two? Three is there."
    for start in range(len(context)):
        for end in range(start + 1, len(context) + 1):
            line = in_sentence(context, start, end)
            assert "\n" not in line
            assert " ".join(line[line.index(">>") + 2:line.index("<<")].split()) == " ".join(context[start:end].split())


# --- Answers ---


@pytest.mark.parametrize("place", [0, 9, 17])
def test_the_answer_is_found_with_its_place_and_probability(reader, place):
    context = words(18, 1000 + place, place)
    answers, odds = reader.answer(QUESTION, context)
    assert answers[0].text == "zed" == context[answers[0].start:answers[0].end]
    assert answers[0].probability > 0.5 and odds < 0
    assert len(answers) <= 3 + reader.version_2
    assert sum(answer.probability for answer in answers) == pytest.approx(1)
    lines = [line for line in reader.report(QUESTION, context).splitlines() if "null odds" not in line]
    assert lines[0] == f"{answers[0].probability:6.1%}  zed"
    assert lines[1] == "        " + in_sentence(context, answers[0].start, answers[0].end)
    assert len(lines) == 2 * len(answers) - reader.version_2
    assert len([line for line in lines if line.endswith("%  (no answer)")]) == reader.version_2


@pytest.mark.parametrize("place", [0, 311, 150, 288, 64])
def test_a_long_context_is_searched_completely_in_batches(reader, monkeypatch, place):
    context = words(312, 7, place)  # doc_stride is at most 15 of 32 tokens, 25 of which hold context
    seen = []

    def record(features, answers=reader._answers):
        seen.append(len(features["input_ids"]))
        return answers(features)

    monkeypatch.setattr(reader, "_answers", record)
    monkeypatch.setattr(reader, "stride", 7)
    found, _ = reader.answer(QUESTION, context)
    assert seen == [32, 10] and sum(seen) == 1 + -(-(312 - 25) // 7)
    assert (found[0].text, found[0].start) == ("zed", context.index("zed"))
    monkeypatch.setattr(run_inference, "WINDOWS", 1000)
    at_once, _ = reader.answer(QUESTION, context)
    assert [answer[:3] for answer in found] == [answer[:3] for answer in at_once]
    assert found[0].score == pytest.approx(at_once[0].score, abs=1e-4)


def test_version_2_predicts_whether_the_question_is_answerable(joint):
    reader = Reader(InferenceConfig(init_checkpoint=joint, context="x", null_score_diff_threshold=0.0))
    without, with_answer = words(18, 2000), words(18, 2001, 5)
    for context, verdict, sign in ((without, "unanswerable", 1), (with_answer, "answerable", -1)):
        first = reader.report(QUESTION, context).splitlines()[0]
        match = re.fullmatch(r"(.*) \(null odds (-?\d+\.\d\d), threshold 0\)", first)
        assert match[1] == verdict and sign * float(match[2]) > 0
    odds = reader.answer(QUESTION, with_answer)[1]
    for threshold, verdict in ((odds - 1, "unanswerable"), (odds + 1, "answerable")):
        strict = Reader(InferenceConfig(init_checkpoint=joint, context="x", null_score_diff_threshold=threshold))
        assert strict.report(QUESTION, with_answer).startswith(verdict)


def test_a_squad_1_1_model_does_not_predict_answerability(independent):
    reader = Reader(InferenceConfig(init_checkpoint=independent, context="x"))
    assert "null odds" not in reader.report(QUESTION, words(18, 2000))


def test_no_answer_is_listed_by_probability(joint):
    reader = Reader(InferenceConfig(init_checkpoint=joint, context="x", n_best_size=2))
    without = reader.report(QUESTION, words(18, 2000)).splitlines()
    assert re.fullmatch(r" *\d+\.\d%  \(no answer\)", without[1]) and len(without) == 6
    context = words(18, 2001, 5)
    answers, odds = reader.answer(QUESTION, context)
    assert [answer.text for answer in answers].index("") > 0
    none = next(answer for answer in answers if not answer.text)
    assert none.probability == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-6)  # the sigmoid of the logit
    assert sum(answer.probability for answer in answers) == pytest.approx(1)


@pytest.mark.parametrize("odds", [-8.0, 0.3, 1.0, 30.0, 2000.0, -2000.0])
def test_the_joint_heads_no_answer_is_the_sigmoid_of_its_logit(odds):
    spans = [squad_utils.Answer("a", 0, 1, -0.1, 0.75), squad_utils.Answer("b", 2, 3, -1.2, 0.25)]
    found = {answer.text: answer.probability for answer in with_no_answer(spans, odds, joint_head=True)}
    none = float(tf.math.sigmoid(tf.constant(odds, tf.float64)))
    expected = {"a": 0.75 * (1 - none), "b": 0.25 * (1 - none), "": none}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert list(found) == sorted(expected, key=lambda text: -expected[text])


@pytest.mark.parametrize("null_score", [-3.0, 1.4, 2.5, 9.0, 3000.0, -3000.0])
def test_the_independent_heads_no_answer_is_one_of_the_softmax(null_score):
    scores = {"a": 2.0, "b": 1.5, "c": -1.0}
    among = np.exp(np.array(list(scores.values())))
    spans = [squad_utils.Answer(text, 0, 1, score, probability / among.sum())
             for (text, score), probability in zip(scores.items(), among)]
    scores[""] = null_score
    found = with_no_answer(spans, null_score - 2.0, joint_head=False)
    shifted = np.exp(np.array(list(scores.values())) - max(scores.values()))
    assert {answer.text: answer.probability for answer in found} == pytest.approx(
        dict(zip(scores, shifted / shifted.sum())), rel=1e-9, abs=1e-15)
    assert [answer.text for answer in found] == sorted(scores, key=lambda text: -scores[text])
    assert [answer.score for answer in found if not answer.text] == pytest.approx([null_score])


def foreign(independent, folder):
    """An exported model without the settings that this project adds to config.json."""
    run = weights.open_checkpoint(independent)
    weights.save_folder(run.model(), "question_answering", run.tokenizer, str(folder))
    content = json.loads((folder / "config.json").read_text())
    del content["question_answering"]
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


def test_version_2_with_negative_applies_to_a_model_of_another_project(independent, tmp_path):
    context = words(18, 3000, 6)
    plain = InferenceConfig(init_checkpoint=foreign(independent, tmp_path / "foreign"), context="x")
    assert "answer" not in Reader(plain).report(QUESTION, context)
    reader = Reader(dataclasses.replace(plain, version_2_with_negative=True, null_score_diff_threshold=0.0))
    first, *lines = reader.report(QUESTION, context).splitlines()
    assert first.startswith("answerable (null odds -") and lines[0].endswith("%  zed")
    assert len([line for line in lines if line.endswith("%  (no answer)")]) == 1
    answers, odds = reader.answer(QUESTION, context)
    none = next(answer for answer in answers if not answer.text)
    assert none.score == pytest.approx(odds + answers[0].score)
    assert none.probability == pytest.approx(answers[0].probability * np.exp(odds))


def test_a_model_of_this_project_records_its_squad_version(joint, independent, refuses):
    version_2 = InferenceConfig(init_checkpoint=independent, context="x", version_2_with_negative=True)
    text = refuses(Reader, version_2)
    assert "SQuAD 1.1" in text and "--version_2_with_negative" in text
    assert Reader(dataclasses.replace(version_2, init_checkpoint=joint)).version_2


def test_a_text_without_a_token_has_an_empty_answer(reader):
    answers, _ = reader.answer(QUESTION, "\u200b\u200b")
    assert [answer.text for answer in answers] == [""]
    assert reader.report(QUESTION, "\u200b").splitlines()[-1] == "100.0%  (no answer)"


@pytest.mark.parametrize("length", range(8, 20))
def test_the_shortest_windows_hold_a_question_and_some_context(independent, length):
    config = InferenceConfig(init_checkpoint=independent, context="x", max_seq_length=length)
    reader = Reader.__new__(Reader)  # without loading the weights again
    reader.config, reader.version_2 = config, False
    reader.length, reader.query_length, reader.stride = run_inference.window(config, 32)
    assert reader.length == length
    reader.tokenizer = ElectraTokenizer(f"{independent}/vocab.txt")
    rows = []

    def outputs(features):
        ids = features["input_ids"].numpy()
        rows.append(len(ids))
        logits = np.float32(ids == reader.tokenizer.tokens.index("zed"))
        return {"start_logits": tf.constant(logits), "end_logits": tf.constant(logits)}

    reader.model = type("Model", (), {"joint_head": False, "version_2": False})
    reader._answers = outputs
    context = words(40, 5, 33)
    assert reader.answer(QUESTION * 5, context)[0][0].start == context.index("zed")
    assert sum(rows) > 1


def test_an_exported_model_and_one_named_vocabulary_answer_alike(folder, independent, tmp_path):
    run = weights.open_checkpoint(independent)
    weights.save_folder(run.model(), "question_answering", run.tokenizer, str(tmp_path / "exported"))
    context = words(18, 3000, 6)
    expected = Reader(InferenceConfig(init_checkpoint=independent, context="x")).report(QUESTION, context)
    exported = InferenceConfig(init_checkpoint=str(tmp_path / "exported"), context="x")
    assert Reader(exported).report(QUESTION, context) == expected
    (tmp_path / "exported" / "vocab.txt").rename(tmp_path / "vocab.txt")
    named = dataclasses.replace(exported, vocab_file=str(tmp_path / "vocab.txt"))
    assert Reader(named).report(QUESTION, context) == expected


@pytest.mark.parametrize("max_seq_length, positions, expected", [
    (None, 512, (384, 64, 128)), (None, 4096, (384, 64, 128)), (None, 128, (128, 32, 63)), (256, 512, (256, 64, 127)),
    (258, 512, (258, 64, 128)), (64, 128, (64, 16, 31)), (8, 8, (8, 2, 3))])
def test_windows_are_those_of_the_recipe_where_they_fit(max_seq_length, positions, expected):
    config = InferenceConfig(init_checkpoint="x", context="x", max_seq_length=max_seq_length)
    assert run_inference.window(config, positions) == expected


def test_options_of_a_window_are_used_or_refused(refuses):
    def window(positions=512, **named):
        return run_inference.window(InferenceConfig(init_checkpoint="x", context="x", **named), positions)

    assert window(doc_stride=300)[2] == 300 and window(doc_stride=1)[2] == 1
    assert window(max_seq_length=128, doc_stride=93)[2] == 93
    text = refuses(window, max_seq_length=128, doc_stride=94)
    assert "--doc_stride=94" in text and "128" in text and "at most 93" in text
    assert "--doc_stride=94" in refuses(window, positions=128, doc_stride=94)
    text = refuses(window, max_seq_length=513)
    assert "--max_seq_length=513" in text and "512" in text


def test_a_note_of_the_device_goes_to_standard_error(independent, monkeypatch, capsys):
    for note, expected in (("", ""), ("bf16 is slow here.", "note: bf16 is slow here.\n")):
        monkeypatch.setattr(devices, "open_device", lambda *_, note=note: type("Device", (), {
            "note": note, "compute_dtype": tf.float32}))
        Reader(InferenceConfig(init_checkpoint=independent, context="x"))
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", expected)


def test_the_device_is_opened_before_anything_uses_one(independent, monkeypatch):
    order = []

    def noted(name, function):
        def call(*args):
            order.append(name)
            return function(*args)
        return call

    monkeypatch.setattr(devices, "open_device", noted("open_device", devices.open_device))
    monkeypatch.setattr(weights, "read", noted("read", weights.read))
    Reader(InferenceConfig(init_checkpoint=independent, context="x"))
    assert order == ["open_device", "read"]


# --- The command ---


def main(*arguments):
    run_inference.main(["run_inference.py", *arguments])


def test_the_command_reads_questions_from_standard_input(joint, tmp_path):
    (tmp_path / "article.txt").write_text(f"Bel bir.\n{words(18, 4000, 3)} .\nCan com.", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(ROOT / "run_inference.py"), f"--init_checkpoint={joint}", "--n_best_size=1",
         f"--context_file={tmp_path / 'article.txt'}"], input=f"{QUESTION}\n\n  \n{QUESTION}".encode(),
        capture_output=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.decode().splitlines()
    assert len(lines) == 8 and lines[:4] == lines[4:]  # no prompt without a terminal
    assert lines[0].startswith("answerable (null odds ") and float(lines[1].partition("%  zed")[0]) > 95
    assert float(lines[3].partition("%  (no answer)")[0]) < 5
    assert ">>zed<<" in lines[2] and lines[2].endswith(" .") and "Bel" not in lines[2] and "Can" not in lines[2]


def test_a_question_by_flag_is_answered_and_nothing_is_read(independent, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    context = words(18, 5000, 4)
    main(f"--init_checkpoint={independent}", f"--question={QUESTION}", f"--context={context}", "--n_best_size=2")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].endswith("%  zed") and ">>zed<<" in lines[1]


def test_on_a_terminal_questions_are_prompted_for(independent, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(QUESTION + "\n"))
    main(f"--init_checkpoint={independent}", f"--context={words(18, 5001, 4)}", "--n_best_size=1")
    printed = capsys.readouterr().out
    assert printed.startswith("question: ") and printed.count("question: ") == 2 and ">>zed<<" in printed


def test_questions_that_are_not_utf_8_are_refused(independent, monkeypatch, refuses):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"where \xff ?\n"), encoding="utf-8"))
    assert "not UTF-8" in refuses(main, f"--init_checkpoint={independent}", "--context=bel")


def test_invalid_options_are_refused(folder, independent, tmp_path, refuses):
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n\t")
    (tmp_path / "text.txt").write_text("bel")
    model, text = f"--init_checkpoint={independent}", f"--context_file={tmp_path / 'text.txt'}"

    def refusal(*arguments):
        return refuses(main, f"--question={QUESTION}", *arguments)

    assert "--init_checkpoint" in refusal("--context=a")
    for arguments in ([], [text, "--context=bel"]):
        assert "--context and --context_file" in refusal(model, *arguments)
    assert "gone.txt cannot be read (No such file" in refusal(model, f"--context_file={tmp_path / 'gone.txt'}")
    assert "cannot be read (Is a directory)" in refusal(model, f"--context_file={tmp_path}")
    os.mkfifo(tmp_path / "fifo")
    for endless in (tmp_path / "fifo", "/dev/zero"):
        assert f"{endless} cannot be read (not a regular file)" in refusal(model, f"--context_file={endless}")
    assert "latin.txt is not UTF-8 (byte 3)" in refusal(model, f"--context_file={tmp_path / 'latin.txt'}")
    assert "the context is empty" in refusal(model, f"--context_file={tmp_path / 'empty.txt'}")
    assert "the context is empty" in refusal(model, "--context= ")
    assert "--n_best_size=0" in refusal(model, text, "--n_best_size=0")
    assert "--max_seq_length=7" in refusal(model, text, "--max_seq_length=7")
    assert "device=tpu" in refusal(model, text, "--device=tpu")
    assert "contexts" in refusal(model, text, "--contexts=y")
    assert "question-answering head" in refusal(f"--init_checkpoint={folder / 'encoder'}", text)
    assert "/nowhere/at/all" in refusal("--init_checkpoint=/nowhere/at/all", text)
    assert "--vocab_file" in refusal(f"--init_checkpoint={bare(independent, tmp_path)}", text)


def bare(independent, tmp_path):
    """An exported model without its vocabulary."""
    run = weights.open_checkpoint(independent)
    weights.save_folder(run.model(), "question_answering", run.tokenizer, str(tmp_path / "bare"))
    (tmp_path / "bare" / "vocab.txt").unlink()
    return tmp_path / "bare"
