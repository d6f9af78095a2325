"""Sample data: reproducible, valid SQuAD, unseen names in dev, a corpus that neither a bigram nor an oracle masters."""
from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import support

SCRIPT = str(support.ROOT / "data" / "make_sample_data.py")
sys.path.insert(0, os.path.dirname(SCRIPT))

import make_sample_data  # noqa: E402
import sample_documents  # noqa: E402
import sample_guessers  # noqa: E402
import sample_tasks  # noqa: E402
import sample_templates  # noqa: E402
import sample_world  # noqa: E402
from sample_documents import REGISTERS, Document, DocumentWriter, Passage, Row  # noqa: E402

from tokenization import SPECIAL_TOKENS, ElectraTokenizer  # noqa: E402

SIZE = "0.3"


def generate(folder, size=SIZE, **options):
    return make_sample_data.make_sample_data(make_sample_data.SampleDataConfig(str(folder), size, **options))


def documents(*province, marking=False, **options):
    return list(DocumentWriter(sample_world.Province(*province), **options).documents(lambda: marking))


def content(folder):
    """{path: bytes} of every file under `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A small run, and its report."""
    folder = tmp_path_factory.mktemp("sample") / "made"
    return folder, make_sample_data.report(generate(folder, seed=3))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run with another seed that replaces an earlier one."""
    folder = tmp_path_factory.mktemp("other") / "made"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "part-0099.txt").write_text("old")
    generate(folder, seed=4, overwrite=True)
    return folder


@pytest.fixture(scope="module")
def squad(sample):
    return {name: json.loads((sample[0] / "squad" / name).read_text()) for name in make_sample_data.SQUAD_FILES}


def questions(dataset):
    """(context, question entry) pairs."""
    return [(paragraph["context"], qa) for article in dataset["data"] for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]]


def wording(question):
    """The question without what it asks about: names and works."""
    works = "|".join(sample_world.WORKS)
    question = re.sub(rf"\b(?:{works}) of (?=[A-Z])", "", question)
    return re.sub(r"(?<!^)\b[A-Z]\w+(?: [A-Z]\w+)?|^[A-Z]\w+ [A-Z]\w+", "X", question)


def names(dataset):
    """Capitalised words of titles, contexts and questions, except those that start a sentence."""
    text = [article["title"] for article in dataset["data"]]
    text += [part for context, qa in questions(dataset) for part in (context, qa["question"])]
    return set(re.findall(r"(?<=[a-z,] )[A-Z]\w+", "\n".join(text))) - set(sample_world.WEEKDAYS)


# --- Reproducibility ---

def test_the_command_gives_the_same_bytes_under_another_hash_seed(sample, tmp_path):
    command = [sys.executable, SCRIPT, f"--output_dir={tmp_path / 'again'}", f"--size={SIZE}", "--seed=3"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path,
                            env={**os.environ, "PYTHONHASHSEED": "12345"})
    assert result.returncode == 0, result.stderr
    assert content(tmp_path / "again") == content(sample[0])
    assert result.stdout == sample[1] + "\n"


def test_another_seed_gives_another_world(sample, other):
    assert json.loads((other / "manifest.json").read_text())["seed"] == 4
    first, second = content(sample[0]), content(other)
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_the_world_is_that_of_earlier_versions():
    """Accuracies in the documentation were measured in this world. Change the checksum only with them."""
    made = [*documents(1, 0, False), *documents(1, 1, True, gazetteers=60)]
    text = "\n".join(sentence for document in made for sentence in document.sentences)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "9d524dbdb94d6b1c"


def test_marking_draws_leaves_the_text_unchanged():
    plain, marked = documents(5, 0, False), documents(5, 0, False, marking=True)
    assert [make_sample_data.plain_document(document) for document in marked] == plain
    assert not any(document.draws for document in plain) and all(document.draws for document in marked)


# --- Data files and templates ---

def test_items_of_a_data_file_may_span_lines(tmp_path):
    (tmp_path / "list.txt").write_text("# comment\none\n    a [b|\n        c]\n    #2-3#\n\ntwo: x\n    -\n")
    assert sample_templates.read_blocks(str(tmp_path / "list.txt")) == {"one": ["a [b| c]", "#2-3#"], "two: x": [""]}


@pytest.mark.parametrize("text, line", [("one\n    a\none\n", 3), ("    a\n", 1), ("one\n        a\n", 2),
                                        ("one\n  a\n", 2)])
def test_a_broken_data_file_is_named_with_its_line(text, line, tmp_path):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=f"list.txt, line {line}"):
        sample_templates.read_blocks(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("text", ["a [b|c", "a {b", "a <no_such_list> b", "#1-x#"])
def test_a_broken_template_is_refused(text):
    with pytest.raises(ValueError, match="not a template|no list 'no_such_list'"):
        sample_templates.compile_template(text)


def test_templates_expand_to_sentences():
    def write(text, chance, **slots):
        writer = sample_templates.Writer(lambda: chance, slots, {}, marking=False)
        return writer.sentence(sample_templates.compile_template(text))

    assert write("a [red [cat|owl]|old] {x} , [|maybe] #10-20:5#.", 0, x="Y") == "A red cat Y, 10."
    assert write("a [red [cat|owl]|old] {x} , [|maybe] #10-20:5#.", 0.99, x="Y") == "An old Y, maybe 20."
    assert write("on <weekday> a one-eyed cat", 0) == "On Monday a one-eyed cat"


# --- The corpus and its vocabulary ---

def test_corpus_has_several_files_of_documents(sample):
    paths = sorted((sample[0] / "corpus").iterdir())
    manifest = json.loads((sample[0] / "manifest.json").read_text())
    text = "".join(path.read_text() for path in paths)
    parts = text.strip("\n").split("\n\n")
    assert len(paths) == manifest["corpus"]["files"] >= 4
    assert len(text) == manifest["corpus"]["bytes"] and abs(len(text) - 300_000) < 5_000
    assert len(parts) == manifest["corpus"]["documents"]
    lines = [line for part in parts for line in part.split("\n")]
    assert len(lines) == manifest["corpus"]["sentences"]
    assert all(re.fullmatch(r"[A-Z0-9][A-Za-z0-9 ,.;:-]*[.?]", line) for line in lines)
    assert not [line for line in lines if re.search(r"\ba [aeiou](?!ne-)|\ban [^aeiouAEIOUh]|\bthe the\b", line)]


def test_vocabulary_covers_the_corpus(sample):
    tokenizer = ElectraTokenizer(str(sample[0] / "vocab.txt"))
    assert tuple(tokenizer.tokens[:5]) == SPECIAL_TOKENS
    assert 2000 < tokenizer.vocab_size <= 4000
    for path in (sample[0] / "corpus").iterdir():
        for ids in tokenizer.encode_batch(path.read_text().split("\n")):
            assert not set(ids) & set(tokenizer.special_ids)


@pytest.mark.parametrize("size, expected", [("demo", 4000), ("4", 4000), ("20", 4000), ("100", 8000), ("900", 8000)])
def test_vocabulary_grows_with_the_corpus(size, expected):
    assert make_sample_data.SampleDataConfig("unused", size).vocab_size == expected


# --- SQuAD ---

def test_answers_are_at_their_offsets(squad):
    for name, dataset in squad.items():
        for context, qa in questions(dataset):
            accepted = qa["answers"] or qa["plausible_answers"]
            assert accepted and (len(accepted) == 1 or name.startswith("dev") and len(accepted) <= 3)
            for answer in accepted:
                assert answer["text"] and set(answer) == {"text", "answer_start"}
                assert context[answer["answer_start"]:][:len(answer["text"])] == answer["text"]


def test_files_have_the_official_format(squad):
    for name, dataset in squad.items():
        assert set(dataset) == {"version", "data"}
        entries = [qa for _, qa in questions(dataset)]
        assert len({qa["id"] for qa in entries}) == len(entries)
        for article in dataset["data"]:
            assert set(article) == {"title", "paragraphs"}
            assert all(set(paragraph) == {"context", "qas"} for paragraph in article["paragraphs"])
        for qa in entries:
            assert qa["question"].endswith("?") and qa["question"][0].isupper()
            if "v1.1" in name:
                assert set(qa) == {"id", "question", "answers"} and qa["answers"]
            else:
                assert bool(qa["answers"]) != qa["is_impossible"]
                assert ("plausible_answers" in qa) == qa["is_impossible"]


def test_question_counts(squad, sample):
    counts = {name: len(questions(dataset)) for name, dataset in squad.items()}
    assert counts == json.loads((sample[0] / "manifest.json").read_text())["squad_questions"]
    assert counts["train-v1.1.json"] == 45 and counts["dev-v1.1.json"] == 20
    assert 58 <= counts["train-v2.0.json"] <= 60 and 24 <= counts["dev-v2.0.json"] <= 26
    demo = make_sample_data.SampleDataConfig("unused", "demo").num_questions
    assert demo == {"train": 300, "dev": 60}
    assert make_sample_data.SampleDataConfig("unused", "10").num_questions == {"train": 1500, "dev": 150}


def test_contexts_are_documents_of_the_corpus(squad, sample):
    text = "".join(path.read_text() for path in sorted((sample[0] / "corpus").iterdir()))
    whole = {document.replace("\n", " ") for document in text.strip("\n").split("\n\n")}
    for dataset in squad.values():
        assert {context for context, _ in questions(dataset)} <= whole


def test_names_of_dev_do_not_occur_in_train(squad):
    for version in ("v1.1", "v2.0"):
        train, dev = names(squad[f"train-{version}.json"]), names(squad[f"dev-{version}.json"])
        assert len(train) > 50 and len(dev) > 20
        assert not train & dev


def test_wordings_without_an_answer_have_one_elsewhere(squad):
    for split in ("train", "dev"):
        entries = [qa for _, qa in questions(squad[f"{split}-v2.0.json"])]
        answerable = {wording(qa["question"]) for qa in entries if not qa["is_impossible"]}
        impossible = {wording(qa["question"]) for qa in entries if qa["is_impossible"]}
        assert impossible and impossible <= answerable


def test_questions_without_an_answer_name_an_entity_of_the_context(squad):
    for context, qa in questions(squad["train-v2.0.json"]):
        named = re.findall(r"(?<!^)\b[A-Z]\w+", qa["question"])
        assert named and all(name in context for name in named)


def test_a_spouse_named_in_the_partners_row_is_not_called_unanswerable():
    rows = [Row("people", "Ada Bo", "Ada Bo was a smith.", {"trade": "smith"}, ["spouse"]),
            *(Row("people", f"Cy {x}", f"Cy {x} married {spouse}.", {"spouse": spouse}, ["trade"])
              for x, spouse in (("Du", "Ada Bo"), ("Em", "Fi Ga"), ("Hu", "Io Ka")))]
    text = " ".join(row.text for row in rows)
    context = make_sample_data.Context("t", text, Passage("", rows))
    stated, unstated = make_sample_data.possible_questions(context)
    assert [text[slice(*question.span)] for question in stated] == ["smith", "Ada Bo", "Fi Ga", "Io Ka"]
    assert not unstated


def test_accepted_spans_add_article_and_unit():
    context = "Ada was a smith. It cost 40 crowns. Bo was an apothecary."
    found = [[context[slice(*span)] for span in make_sample_data.accepted_spans(context, start, start + len(value))]
             for value in ("smith", "40", "apothecary") for start in [context.index(value)]]
    assert found == [["smith", "a smith"], ["40", "40 crowns"], ["apothecary", "an apothecary"]]


def test_contexts_offer_several_values_of_the_right_type():
    """Five to seven entities state the same three facts, with few left out: more than five rivals on average."""
    rivals = []
    for document in documents(8, 0, True):
        for row in document.passage.rows if document.passage else ():
            rivals += [sum(fact in other.stated for other in document.passage.rows) for fact in row.stated]
    assert sum(rivals) / len(rivals) > 5


# --- Gazetteers ---

@pytest.fixture(scope="module")
def gazetteers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gazetteers") / "made"
    generate(folder, "0.2", passages="gazetteers")
    return {name: json.loads((folder / "squad" / name).read_text()) for name in make_sample_data.SQUAD_FILES}


def test_gazetteers_are_about_things_of_different_kinds():
    passages = [document.passage for document in documents(8, 0, True, gazetteers=10) if document.passage]
    assert len(passages) == 10  # a held-out province has no lessons
    assert all(3 <= len(passage.rows) <= 6 and not passage.opening for passage in passages)
    assert all(len({row.kind for row in passage.rows}) >= min(5, len(passage.rows)) for passage in passages)
    for passage in passages:
        assert len({row.entity for row in passage.rows}) == len(passage.rows)
        for row in passage.rows:
            assert set(row.stated) | set(row.unstated) == set(REGISTERS[row.kind].facts)
            assert not set(row.stated) & set(row.unstated)


def test_questions_on_gazetteers_are_sound(gazetteers):
    assert 74 < len(questions(gazetteers["train-v1.1.json"])) <= 80  # a short one has fewer facts than questions
    assert not names(gazetteers["train-v2.0.json"]) & names(gazetteers["dev-v2.0.json"])
    for name, dataset in gazetteers.items():
        assert all(article["title"].startswith("Gazetteers of ") for article in dataset["data"])
        entries = questions(dataset)
        assert len({qa["id"] for _, qa in entries}) == len(entries)
        for context, qa in entries:
            for answer in qa["answers"] or qa["plausible_answers"]:
                assert context[answer["answer_start"]:][:len(answer["text"])] == answer["text"]
        if "v2.0" in name:
            answerable = {wording(qa["question"]) for _, qa in entries if not qa["is_impossible"]}
            impossible = [wording(qa["question"]) for _, qa in entries if qa["is_impossible"]]
            assert len(impossible) > len(entries) / 6 and set(impossible) <= answerable


def test_an_unanswerable_question_needs_a_value_of_the_same_type():
    rows = [Row("people", "Ada Bo", "Ada Bo was born in 1300.", {"born": "1300"}, ["home", "spouse"]),
            Row("towns", "Du", "Du dates from 1200.", {"founded": "1200"}, ["founder"]),
            Row("ships", "Em", "The Em carried salt.", {"cargo": "salt"}, ["launched", "captain"])]
    text = " ".join(row.text for row in rows)
    context = make_sample_data.Context("t", text, Passage("", rows))
    _, unstated = make_sample_data.possible_questions(context)
    assert [(question.kind, question.fact, text[slice(*question.span)]) for question in unstated] == [
        ("ships", "launched", "1300")]


# --- Guessers ---

def test_oracle_beats_bigram_beats_unigram(sample):
    guessers = json.loads((sample[0] / "manifest.json").read_text())["masked_piece_accuracy"]
    assert guessers["scored_pieces"] > 5_000
    assert guessers["unigram"] < 0.10 < guessers["bigram"] < 0.35 < guessers["oracle"] <= 0.75
    assert all(f"{guessers[name]:.1%}" in sample[1] for name in ("unigram", "bigram", "oracle"))


def test_oracle_knows_everything_but_the_masked_draw(tmp_path):
    tokens = [*SPECIAL_TOKENS, "a", "an", "red", "old", "cat", "green", "cats", "14", "##1", "##2", ".", "owl", "ox"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    tokenizer = ElectraTokenizer(str(tmp_path / "vocab.txt"))

    def chances(text, *draws):
        marks = map(chr, range(sample_templates.FIRST_MARK, sample_templates.FIRST_MARK + 99))
        marked = re.sub("@", lambda _: next(marks), text)
        document = Document([marked], [sample_templates.Draw(*draw) for draw in draws], None)
        return sample_guessers.oracle_chances(document, tokenizer)[1].tolist()

    animals = ("cat", "owl", "ox")
    assert chances("a @red cat.", ("red", ("red", "green"), False)) == [1, 0.5, 1, 1]
    assert chances("an @old cat.", ("old", ("red", "green", "old"), False)) == [1, 1, 1, 1]   # after "an"
    assert chances("red @cat.", ("cat", animals, True)) == [1, 1 / 3, 1]
    assert chances("red @cat. green @cat.", ("cat", animals, True), ("cat", animals, True)) == [1] * 6  # occurs again
    assert chances("@141.", ("141", ("141", "142"), True)) == [1, 0.5, 1]                    # the first piece is shared


# --- Refusals and interruptions ---

@pytest.mark.parametrize("argument", ["--size=big", "--size=0.1", "--size=nan", "--seed=-1"])
def test_bad_options_are_refused(argument, tmp_path, refuses):
    assert argument in refuses(make_sample_data.main, [SCRIPT, f"--output_dir={tmp_path / 'made'}", argument])
    assert not list(tmp_path.iterdir())


def test_missing_output_dir_is_refused(refuses):
    assert "--output_dir" in refuses(make_sample_data.SampleDataConfig)


def test_existing_folder_is_refused_and_overwritten_only_when_ours(tmp_path, refuses):
    folder = tmp_path / "made"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "part-0000.txt").write_text("old")
    text = refuses(make_sample_data.refuse_foreign_folder, str(folder), overwrite=False)
    assert str(folder) in text and "--overwrite" in text
    make_sample_data.refuse_foreign_folder(str(folder), overwrite=True)
    (folder / "thesis.txt").write_text("precious")
    assert "thesis.txt" in refuses(generate, folder, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "precious"
    (tmp_path / "link").symlink_to(folder)
    for path in folder / "thesis.txt", tmp_path / "link":
        text = refuses(generate, path, overwrite=True)
        assert str(path) in text and "not a directory" in text


def test_unwritable_place_is_refused(tmp_path, refuses):
    (tmp_path / "file").write_text("")
    assert f"--output_dir={tmp_path / 'file' / 'made'}" in refuses(generate, tmp_path / "file" / "made")


@pytest.mark.parametrize("target", ["/", ".", "file", "file/x"])
def test_a_folder_that_cannot_be_replaced_is_refused(target, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    result = subprocess.run([sys.executable, SCRIPT, f"--output_dir={target}", "--overwrite"], capture_output=True,
                            text=True)
    assert result.returncode == 2 and "--output_dir" in result.stderr and result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("place", ["files.write_text", "files.write_json", "make_sample_data.write_corpus"])
def test_a_full_disk_ends_in_one_sentence_and_leaves_nothing(place, tmp_path, monkeypatch, refuses):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, full)
    text = refuses(generate, tmp_path / "made", "0.2")
    assert "--output_dir" in text and "No space left" in text
    assert not os.listdir(tmp_path)


def test_labelled_texts_have_every_label_and_the_names_in_dev_are_new(sample):
    files = {split: sample[0] / "tasks" for split in ("train", "dev")}
    kinds = {split: {row["label"] for row in csv.DictReader((folder / f"kinds-{split}.csv").read_text().splitlines())}
             for split, folder in files.items()}
    assert kinds["train"] == kinds["dev"] == set(sample_documents.STORIES)
    lines = {split: [json.loads(line) for line in (folder / f"names-{split}.jsonl").read_text().splitlines()]
             for split, folder in files.items()}
    names = {split: {(span["label"], line["text"][span["start"]:span["end"]]) for line in lines[split]
                     for span in line["spans"]} for split in lines}
    assert {label for label, _ in names["train"]} == {label for label, _ in names["dev"]} == set(sample_tasks.NAMES)
    assert not names["train"] & names["dev"] and all(name[0].isupper() for found in names.values() for _, name in found)
    assert any(name.count(" ") == 1 for label, name in names["dev"] if label == "people")


def test_overwrite_replaces_an_earlier_run(other):
    assert not (other / "corpus" / "part-0099.txt").exists() and (other / "manifest.json").exists()
    assert [path.name for path in other.parent.iterdir()] == ["made"]


def test_failure_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "part-0000.txt").write_text("old")

    def fail(*_):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(make_sample_data, "train_vocabulary", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        generate(folder, "0.2", overwrite=True)
    assert content(tmp_path) == {os.path.join("made", "corpus", "part-0000.txt"): b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_sigterm_ends_with_one_sentence_and_leaves_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, SCRIPT, f"--output_dir={tmp_path / 'made'}", "--size=500"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    support.wait_for(lambda: list(tmp_path.rglob("part-*.txt")), 30)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 75 and "nothing was kept" in stderr and stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_second_start_is_refused_and_what_a_killed_one_left_is_removed(tmp_path):
    command = [sys.executable, SCRIPT, f"--output_dir={tmp_path / 'made'}"]
    process = subprocess.Popen([*command, "--size=500"], stdout=subprocess.DEVNULL)
    support.wait_for(lambda: list(tmp_path.rglob("part-*.txt")), 30)
    second = subprocess.run([*command, "--size=0.2"], capture_output=True, text=True)
    assert second.returncode == 2 and f"process {process.pid} " in second.stderr
    process.kill()
    process.wait()
    assert list(tmp_path.rglob("part-*.txt"))
    subprocess.run([*command, "--size=0.2"], check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
