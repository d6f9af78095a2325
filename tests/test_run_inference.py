"""run_inference: questions by option, from standard input and from files, marked sentences, refusals."""
from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from support import WHERE, save_classifier, save_tagger, words

import files
import run_inference
import tagging
import training
import weights
from classifier import Classifier
from configuration import Interrupted
from reader import Reader
from run_inference import in_sentence

ROOT = pathlib.Path(__file__).parent.parent


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


# --- The command ---


def main(*arguments):
    run_inference.main(["run_inference.py", *arguments])


def test_the_command_reads_questions_from_standard_input(joint, tmp_path):
    (tmp_path / "article.txt").write_text(f"Bel bir.\n{words(18, 4000, 3)} .\nCan com.", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(ROOT / "run_inference.py"), f"--init_checkpoint={joint}", "--n_best_size=1",
         f"--context_file={tmp_path / 'article.txt'}"], input=f"{WHERE}\n\n  \n{WHERE}".encode(),
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
    main(f"--init_checkpoint={independent}", f"--question={WHERE}", f"--context={context}", "--n_best_size=2")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].endswith("%  zed") and ">>zed<<" in lines[1]


def test_on_a_terminal_questions_are_prompted_for(independent, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(WHERE + "\n"))
    main(f"--init_checkpoint={independent}", f"--context={words(18, 5001, 4)}", "--n_best_size=1")
    printed = capsys.readouterr().out
    assert printed.startswith("question: ") and printed.count("question: ") == 2 and ">>zed<<" in printed


def test_questions_that_are_not_utf_8_are_refused(independent, monkeypatch, refuses):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"where \xff ?\n"), encoding="utf-8"))
    assert "not UTF-8" in refuses(main, f"--init_checkpoint={independent}", "--context=bel")


# --- Files ---


def questions_file(path, count, **more):
    """JSON lines with the word `zed` in every text. Returns the path."""
    path.write_text("".join(json.dumps({
        "id": f"q{number}", "question": WHERE, "context": words(number % 50 + 4, number, number % 4), **more}) + "\n"
        for number in range(count)), encoding="utf-8")
    return str(path)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_of_questions_becomes_a_file_of_answers(joint, tmp_path, capsys):
    source = questions_file(tmp_path / "questions.jsonl", 70)
    main(f"--init_checkpoint={joint}", f"--input_file={source}", f"--output_file={tmp_path / 'answers.jsonl'}",
         "--n_best_size=2")
    found = lines_of(tmp_path / "answers.jsonl")
    assert [entry["id"] for entry in found] == [f"q{number}" for number in range(70)]
    for entry, asked in zip(found, lines_of(tmp_path / "questions.jsonl")):
        assert set(entry) == {"id", "question", "prediction", "answers", "null_odds"} and len(entry["answers"]) == 3
        assert entry["prediction"] == "zed" and entry["null_odds"] < 0
        for answer in entry["answers"]:
            assert answer["text"] == asked["context"][answer["start"]:answer["end"]]
            assert 0 <= answer["probability"] <= 1
    assert sorted(os.listdir(tmp_path)) == ["answers.jsonl", "questions.jsonl"]
    assert "answers.jsonl" in capsys.readouterr().out


def test_files_in_squads_format_and_lines_without_a_text_are_answered(independent, tmp_path):
    entries = [{"id": 7, "question": WHERE, "answers": [{"text": "elsewhere", "answer_start": 3}]},
               {"id": "b", "question": WHERE}]
    context = words(12, 5, 7) + "\u00e9 \ud800"  # a lone surrogate, which UTF-8 cannot hold
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": entries}]}]}))
    (tmp_path / "lines.jsonl").write_text(f'\ufeff{{"question": "{WHERE}"}}\n\n{{"question": "{WHERE}", "id": 1.5}}',
                                          encoding="utf-8")
    (tmp_path / "text.txt").write_text("\ufeff" + words(12, 5, 7), encoding="utf-8")
    model = f"--init_checkpoint={independent}"
    main(model, f"--input_file={tmp_path / 'squad.json'}", f"--output_file={tmp_path / 'a.jsonl'}")
    main(model, f"--input_file={tmp_path / 'lines.jsonl'}", f"--output_file={tmp_path / 'b.jsonl'}",
         f"--context_file={tmp_path / 'text.txt'}")
    first, second = lines_of(tmp_path / "a.jsonl"), lines_of(tmp_path / "b.jsonl")
    assert [entry["id"] for entry in first + second] == ["7", "b", 1, 1.5]
    start = context.index("zed")
    assert {(entry["prediction"], entry["answers"][0]["start"]) for entry in first + second} == {("zed", start)}


class StopLater:
    """Stands in for a signal that arrives while the second write is prepared."""

    signal_name = None

    def __enter__(self):
        self.writes = 0
        return self

    def __exit__(self, *_):
        pass

    def begin(self):
        pass


def test_an_interrupted_call_continues_when_it_is_repeated(independent, tmp_path, monkeypatch, capsys, refuses):
    call = [f"--init_checkpoint={independent}", f"--input_file={questions_file(tmp_path / 'q.jsonl', 200)}"]
    main(*call, f"--output_file={tmp_path / 'whole.jsonl'}")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    call.append(f"--output_file={tmp_path / 'answers.jsonl'}")
    answered, stop = [], StopLater()

    def results(self, questions, contexts, original=Reader.results):
        answered.extend(questions)
        if len(answered) > 64:
            stop.signal_name = "SIGTERM"
        return original(self, questions, contexts)

    monkeypatch.setattr(Reader, "results", results)
    monkeypatch.setattr(training, "StopRequest", lambda: stop)
    with pytest.raises(Interrupted, match="after 128 of 200"):
        main(*call)
    partial = tmp_path / "answers.jsonl.partial"
    assert not (tmp_path / "answers.jsonl").exists() and partial.read_bytes() == b"".join(
        whole.splitlines(True)[:128])
    with partial.open("ab") as file:
        file.write(b'{"id": "cut o')  # by a crash
    assert "--overwrite" in refuses(main, *call, "--n_best_size=2")
    monkeypatch.undo()
    main(*call)
    assert (tmp_path / "answers.jsonl").read_bytes() == whole and not partial.exists()
    assert "after 128 of 200" in capsys.readouterr().err
    assert "exists already" in refuses(main, *call)
    main(*call, "--overwrite", "--n_best_size=1")
    assert len(lines_of(tmp_path / "answers.jsonl")[0]["answers"]) == 1


def test_another_process_that_writes_the_same_file_is_refused(independent, tmp_path, refuses, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0)
    call = [f"--init_checkpoint={independent}", f"--input_file={questions_file(tmp_path / 'q.jsonl', 2)}",
            f"--output_file={tmp_path / 'a.jsonl'}"]
    with files.hold(str(tmp_path / "a.jsonl.lock")):
        assert "a.jsonl is being written" in refuses(main, *call)


@pytest.mark.parametrize("name", ["a.jsonl.partial", "a.jsonl.partial.json"])
def test_a_folder_where_unfinished_answers_should_be_is_refused(name, tmp_path, refuses):
    (tmp_path / name).mkdir()
    assert name in refuses(run_inference.resume, str(tmp_path / "a.jsonl.partial"), {}, True)


@pytest.mark.parametrize("line, parts", [
    ('{"question": "who?"}', ["line 2", "context", "missing", "--context_file"]),
    ('{"question": " ", "context": "bel"}', ["line 2", "question", "empty"]),
    ('{"question": 3, "context": "bel"}', ["line 2", "question"]),
    ('{"question": "who?", "context": "bel", "id": [1]}', ["line 2", "id"]),
    ('{"question": "who?"', ["line 2", "not valid JSON"]), ("[" * 100000, ["line 2", "JSON"])])
def test_files_that_cannot_be_answered_are_refused_before_the_model_is_read(line, parts, tmp_path, refuses):
    (tmp_path / "q.jsonl").write_text('{"question": "who?", "context": "bel"}\n' + line)
    text = refuses(main, "--init_checkpoint=no/model", f"--input_file={tmp_path / 'q.jsonl'}",
                   f"--output_file={tmp_path / 'a.jsonl'}")
    assert all(part in text for part in ["q.jsonl", *parts]), text


def test_options_of_files_are_refused(tmp_path, refuses):
    source, target = questions_file(tmp_path / "q.jsonl", 1), f"--output_file={tmp_path / 'a.jsonl'}"
    for arguments, part in (
            ([f"--input_file={source}"], "--output_file"), ([target, "--context=bel"], "--input_file"),
            ([f"--input_file={source}", target, "--question=who?"], "--question"),
            ([f"--input_file={tmp_path / 'gone.jsonl'}", target], "gone.jsonl"),
            ([f"--input_file={source}", f"--output_file={tmp_path}"], "is a directory"),
            ([f"--input_file={source}", f"--output_file={source}/a"], "is not a directory")):
        assert part in refuses(main, "--init_checkpoint=x", *arguments)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no questions" in refuses(main, "--init_checkpoint=x", f"--input_file={tmp_path / 'empty.jsonl'}", target)


def test_invalid_options_are_refused(reader_folder, independent, tmp_path, refuses):
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n\t")
    (tmp_path / "text.txt").write_text("bel")
    model, text = f"--init_checkpoint={independent}", f"--context_file={tmp_path / 'text.txt'}"

    def refusal(*arguments):
        return refuses(main, f"--question={WHERE}", *arguments)

    assert "--init_checkpoint" in refusal("--context=a")
    for arguments in ([], [text, "--context=bel"]):
        assert "--context" in refusal(model, *arguments) and "--context_file" in refusal(model, *arguments)
    assert "gone.txt cannot be read (No such file" in refusal(model, f"--context_file={tmp_path / 'gone.txt'}")
    assert "cannot be read (Is a directory)" in refusal(model, f"--context_file={tmp_path}")
    os.mkfifo(tmp_path / "fifo")
    for endless in (tmp_path / "fifo", "/dev/zero"):
        assert f"{endless} cannot be read (not a regular file)" in refusal(model, f"--context_file={endless}")
    assert "latin.txt is not UTF-8 (byte 3)" in refusal(model, f"--context_file={tmp_path / 'latin.txt'}")
    assert "the context is empty" in refusal(model, f"--context_file={tmp_path / 'empty.txt'}")
    assert "the context is empty" in refusal(model, "--context= ")
    for blank in ("", " \t"):
        assert "--question" in refuses(main, model, text, f"--question={blank}")
    assert "--n_best_size=0" in refusal(model, text, "--n_best_size=0")
    assert "--max_seq_length=7" in refusal(model, text, "--max_seq_length=7")
    assert "device=tpu" in refusal(model, text, "--device=tpu")
    assert "contexts" in refusal(model, text, "--contexts=y")
    assert "question-answering head" in refusal(f"--init_checkpoint={reader_folder / 'encoder'}", text)
    assert "/nowhere/at/all" in refusal("--init_checkpoint=/nowhere/at/all", text)
    assert "--vocab_file" in refusal(f"--init_checkpoint={bare(independent, tmp_path)}", text)


def bare(independent, tmp_path):
    """An exported model without its vocabulary."""
    run = weights.open_checkpoint(independent)
    weights.save_folder(run.model(), "question_answering", run.tokenizer, str(tmp_path / "bare"))
    (tmp_path / "bare" / "vocab.txt").unlink()
    return tmp_path / "bare"


# --- Classifiers and taggers ---


@pytest.fixture(scope="module")
def classifier(reader_folder, tmp_path_factory):
    return save_classifier(reader_folder, tmp_path_factory.mktemp("classifier") / "model",
                           weights.Labels(("no", "yes"), "single_label"))


@pytest.fixture(scope="module")
def tagger(reader_folder, tmp_path_factory):
    return save_tagger(reader_folder, tmp_path_factory.mktemp("tagger") / "model",
                       weights.Labels(("O", "I-Z"), None))


def test_the_model_decides_what_is_printed(classifier, tagger, tmp_path, capsys):
    main(f"--init_checkpoint={classifier}", "--context=ban bel", "--pair=bir")
    lines = capsys.readouterr().out.splitlines()
    found = Classifier.from_pretrained(classifier).classify("ban bel", "bir")
    assert lines == [f"{share:6.1%}  {name}" for name, share in found.probabilities.items()]
    (tmp_path / "text.txt").write_text("Ban zed zed. Bel zed.")
    main(f"--init_checkpoint={tagger}", f"--context_file={tmp_path / 'text.txt'}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines[::2]] == [["Z", "zed", "zed"], ["Z", "zed"]]
    assert lines[1].strip() == "Ban >>zed zed<<."


def test_a_file_of_texts_becomes_a_file_of_predictions(classifier, tagger, tmp_path, monkeypatch):
    monkeypatch.setattr(run_inference, "TOGETHER", 3)
    texts = [f"{words(number % 9 + 1, number)} zed" for number in range(8)]
    (tmp_path / "in.tsv").write_text("id\ttext\ttext_pair\n" + "".join(
        f"t{number}\t{text}\tban\n" for number, text in enumerate(texts)))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    main(f"--init_checkpoint={classifier}", f"--input_file={tmp_path / 'in.tsv'}", f"--output_file={tmp_path / 'a'}")
    found = lines_of(tmp_path / "a")
    expected = Classifier.from_pretrained(classifier).classify(texts, "ban")
    assert [entry["id"] for entry in found] == [f"t{number}" for number in range(8)]
    for entry, prediction in zip(found, expected):
        assert set(entry) == {"id", "text", "pair", "prediction", "probabilities"}
        assert entry["prediction"] == prediction.label
        assert entry["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-4)
    main(f"--init_checkpoint={tagger}", f"--input_file={tmp_path / 'in.jsonl'}",
         f"--output_file={tmp_path / 'b.jsonl'}")
    for number, (entry, text) in enumerate(zip(lines_of(tmp_path / "b.jsonl"), texts), 1):
        (span,) = entry["spans"]
        assert entry["id"] == number and span["label"] == "Z"
        assert entry["text"][span["start"]:span["end"]] == "zed" == text[-3:]
    tagged = tagging.read(str(tmp_path / "b.jsonl"))  # as training data
    assert all(sentence.tags == ("O",) * (len(sentence.words) - 1) + ("B-Z",) for sentence in tagged)


def test_options_and_files_that_do_not_fit_the_model_are_refused(classifier, tagger, tmp_path, refuses):
    assert "--question" in refuses(main, f"--init_checkpoint={classifier}", "--context=ban", "--question=who?")
    assert "--pair" in refuses(main, f"--init_checkpoint={tagger}", "--context=ban", "--pair=bel")
    for name, text, part in (("a.csv", "text,id\nban,1\n,2\n", "line 3"), ("b.csv", "id\n1\n", "text"),
                             ("c.jsonl", '{"text": "ban"}\n{"text": 3}', "line 2")):
        (tmp_path / name).write_text(text)
        assert part in refuses(main, "--init_checkpoint=no/model", f"--input_file={tmp_path / name}",
                               f"--output_file={tmp_path / 'out'}")
    questions = questions_file(tmp_path / "q.jsonl", 2)
    assert "text" in refuses(main, f"--init_checkpoint={tagger}", f"--input_file={questions}",
                             f"--output_file={tmp_path / 'out'}")
