"""The dataset builder: records against a slow reference of its rule, the same bytes for any number of processes, what
it refuses, and how it ends when a worker dies or it is told to stop. Commands run as a user runs them, in a subprocess.
"""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

import build_pretraining_dataset as builder
from configuration import UserError
from tokenization import ElectraTokenizer

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "build_pretraining_dataset.py"
WORDS = ["river", "stone", "lamp", "green", "walk", "ing", "seven", "quiet", "house", "door", "paper", "light"]
# The fillers give the words ids of one, two and three bytes in the records.
VOCABULARY = (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "é", *WORDS[:4]]
              + [f"filler{number}" for number in range(200)] + WORDS[4:8]
              + [f"far{number}" for number in range(16500)] + WORDS[8:] + ["##s", "##ing", "##" + "x"])


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(token + "\n" for token in VOCABULARY), encoding="utf-8")
    return str(path)


def make_text(seed: int, num_documents: int, longest_document: int = 12) -> str:
    """Documents of sentences of 1 to 30 words, some of them not in the vocabulary, some not English."""
    draw = random.Random(seed)
    documents = []
    for _ in range(num_documents):
        lines = []
        for _ in range(draw.randint(1, longest_document)):
            words = [draw.choice([*WORDS, "rivers", "Stones", "walking", "zebra", "lampx", "Café", "石头"])
                     for _ in range(draw.randint(1, 30))]
            lines.append(" ".join(words) + draw.choice([".", "", " ,", "."]))
        documents.append("\n".join(lines) + "\n")
    return "\n".join(documents)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text(make_text(1, 60), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n  \n" + make_text(2, 90) + "\n \t\n", encoding="utf-8")
    (folder / "c.txt").write_bytes(b"\xef\xbb\xbf" + make_text(3, 30).replace("\n", "\r\n").encode().rstrip())
    (folder / "empty.txt").write_text("")
    (folder / ".hidden").write_text("river river\n")
    (folder / "subfolder").mkdir()
    return folder


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, **options)


def build(corpus, vocab_file, output, **options) -> subprocess.CompletedProcess:
    arguments = {"corpus_dir": corpus, "vocab_file": vocab_file, "output_dir": output, "max_seq_length": 32,
                 "num_processes": 1, "num_out_files": 4, **options}
    return run(*(f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
                 for name, value in arguments.items()))


def built(*args, **options) -> dict:
    """Builds, and returns the manifest."""
    result = build(*args, **options)
    assert result.returncode == 0, result.stderr
    return json.loads((pathlib.Path(args[2]) / "manifest.json").read_text(encoding="utf-8"))


def refused(result, *words):
    """One sentence on stderr, status 2, nothing left behind."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stderr.startswith("build_pretraining_dataset.py: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


def content(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(pathlib.Path(folder).rglob("*"))
            if path.is_file()}


def records(folder, files, max_seq_length=32) -> list[tuple]:
    """Records as (input_ids, input_mask, segment_ids), read by TensorFlow, which also verifies the checksums."""
    tf = pytest.importorskip("tensorflow")
    feature = tf.io.FixedLenFeature([max_seq_length], tf.int64)
    features = {"input_ids": feature, "input_mask": feature, "segment_ids": feature}
    result = []
    for file in files:
        for record in tf.data.TFRecordDataset(str(pathlib.Path(folder) / file["file"])).batch(10000):
            parsed = tf.io.parse_example(record, features)
            result += zip(*(parsed[name].numpy().tolist() for name in features))
    return result


# --- A slow reference, one token list at a time ---

def reference_documents(data: bytes, blanks_separate_docs=True):
    """(offset of the first line, lines as text) of each document of a file."""
    offset, document = 0, None
    if data.startswith(b"\xef\xbb\xbf"):
        offset, data = 3, data[3:]
    for line in data.split(b"\n"):
        if line.strip():
            if document is None:
                document = (offset, [])
            document[1].append(line.decode("utf-8"))
        elif document is not None and blanks_separate_docs:
            yield document
            document = None
        offset += len(line) + 1
    if document is not None:
        yield document


def reference_records(name, data, tokenizer, seed, length, **options):
    key_of_file = builder.file_key(seed, name)
    for offset, lines in reference_documents(data, **options):
        sentences = [ids for ids in (tokenizer.encode(line).ids for line in lines) if ids]
        number = 0
        while sentences:
            target, single, exceed = builder.draw(builder.document_key(key_of_file, offset), number, length)
            taken = []
            while sentences and sum(map(len, taken)) < target:
                taken.append(sentences.pop(0))
            first, second = [], []
            for sentence in taken:
                below = len(first) < (target - 3) // 2
                fits = len(first) + len(sentence) < (target - 3) // 2
                if single or (not second and (not first or fits or (below and exceed))):
                    first = first + sentence
                else:
                    second = second + sentence
            first = first[:length - 2]
            second = second[:max(0, length - 3 - len(first))]
            ids = [tokenizer.cls_id, *first, tokenizer.sep_id]
            segments = [0] * len(ids)
            if second:
                ids += [*second, tokenizer.sep_id]
                segments += [1] * (len(second) + 1)
            padding = [0] * (length - len(ids))
            yield ids + padding, [1] * len(ids) + padding, segments + padding
            number += 1


@pytest.mark.parametrize("length, blanks", [(32, True), (64, False), (300, True)])
def test_records_equal_a_slow_reference_of_the_rule(corpus, vocab_file, tmp_path, length, blanks):
    manifest = built(corpus, vocab_file, tmp_path / "out", max_seq_length=length, blanks_separate_docs=blanks, seed=7)
    tokenizer = ElectraTokenizer(vocab_file)
    expected = []
    for name in ("a.txt", "b.txt", "c.txt"):
        data = (corpus / name).read_bytes()
        expected += reference_records(name, data, tokenizer, 7, length, blanks_separate_docs=blanks)
    actual = records(tmp_path / "out", manifest["train"], length)
    assert len(expected) > 30
    # One chunk a shard in a corpus this small, so the shards in order are the corpus in order.
    assert actual == [tuple(map(list, record)) for record in expected]


def test_text_is_complete_and_in_order_where_nothing_is_cut(vocab_file, tmp_path):
    (tmp_path / "corpus").mkdir()
    text = make_text(5, 100, longest_document=3)  # up to 90 words a document, in records of 256
    (tmp_path / "corpus" / "text").write_text(text, encoding="utf-8")
    manifest = built(tmp_path / "corpus", vocab_file, tmp_path / "out", max_seq_length=256)
    tokenizer = ElectraTokenizer(vocab_file)
    kept = [id_ for ids, mask, _ in records(tmp_path / "out", manifest["train"], 256)
            for id_, real in zip(ids, mask) if real and id_ not in (tokenizer.cls_id, tokenizer.sep_id)]
    assert kept == tokenizer.encode(text).ids
    assert manifest["num_cut_tokens"] == 0
    assert manifest["num_documents"] == 100


def test_records_have_the_shape_of_one_or_two_segments(corpus, vocab_file, tmp_path):
    manifest = built(corpus, vocab_file, tmp_path / "out")
    cls_id, sep_id = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    kinds = set()
    for ids, mask, segments in records(tmp_path / "out", manifest["train"]):
        size = sum(mask)
        assert mask == [1] * size + [0] * (32 - size)
        assert ids[0] == cls_id and ids[size - 1] == sep_id and ids[size:] == [0] * (32 - size)
        ends = [position for position, id_ in enumerate(ids) if id_ == sep_id]
        first = ends[0] + 1
        assert len(ends) in (1, 2) and first > 2 and size != first + 1
        assert segments == [0] * first + [1] * (size - first) + [0] * (32 - size)
        kinds.add(len(ends))
    assert kinds == {1, 2}


def test_tokens_of_joined_lines_equal_those_of_single_lines(vocab_file):
    draw = random.Random(0)
    characters = ("abriverlamp .,-'\t\r\x00\x07\u0301\u0300\u00e9\u0130\u00a0\u200d\u2028\ufeff\ufffdΣσς石\u3000ꀀꀁ"
                  "\U0001f600ßK")
    lines = ["".join(draw.choice(characters) for _ in range(draw.randint(1, 60))).strip() for _ in range(3000)]
    lines = [line.encode() for line in lines if line.strip().replace("\x00", "")]
    for options in ({}, {"strip_accents": False}, {"do_lower_case": False}):
        tokenizer = ElectraTokenizer(vocab_file, **options)
        for kept in (lines, [line for line in lines if "ꀀ".encode() not in line]):
            ids, lengths = builder.LineTokenizer(tokenizer).encode(kept, "strict")
            expected = [tokenizer.encode(line.decode()).ids for line in kept]
            assert lengths.tolist() == list(map(len, expected))
            assert ids.tolist() == [id_ for line in expected for id_ in line]


def test_draws_have_the_shares_of_the_paper():
    draws = [builder.draw(builder.document_key(builder.file_key(1, "a"), offset), number, 128)
             for offset in range(0, 400000, 40) for number in range(5)]
    short = [draw.target for draw in draws if draw.target < 128]
    # 50,000 draws: four standard errors are 0.0054 of 0.1, 0.0039 of 0.05 and 0.009 of 0.5.
    assert abs(np.mean([draw.single_segment for draw in draws]) - 0.10) < 0.0054
    assert abs(len(short) / len(draws) - 0.05 * 123 / 124) < 0.0039
    assert abs(np.mean([draw.exceed for draw in draws]) - 0.5) < 0.009
    assert min(short) == 5 and max(short) == 127
    counts = np.bincount(short)[5:]
    assert abs(np.mean(short) - 66) < 4 * 35.5 / len(short)**0.5 and counts.max() < 3 * counts.mean()
    # The three are independent: single-segment examples are short as often as others.
    assert abs(np.mean([draw.target < 128 for draw in draws if draw.single_segment]) - 0.05) < 0.0125


def test_number_of_processes_does_not_change_a_byte(corpus, vocab_file, tmp_path):
    for processes in (1, 2, 3):
        built(corpus, vocab_file, tmp_path / str(processes), num_processes=processes, eval_fraction=0.2)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "3")
    assert "eval/eval-00000-of-00001.tfrecord" in content(tmp_path / "1")


def test_another_seed_gives_other_records(corpus, vocab_file, tmp_path):
    first = built(corpus, vocab_file, tmp_path / "1", seed=1)
    second = built(corpus, vocab_file, tmp_path / "2", seed=2)
    assert first["num_documents"] == second["num_documents"]
    assert content(tmp_path / "1")["train-00000-of-00004.tfrecord"] != (
        content(tmp_path / "2")["train-00000-of-00004.tfrecord"])


# --- Chunks ---

def plan(folder, **options):
    """Chunks of a folder, as lists of (name, bytes, document)."""
    config = builder.BuildConfig(corpus_dir=str(folder), vocab_file="v", output_dir="o", **options)
    files = builder.list_corpus(str(folder))
    return [[(span.name, (folder / span.name).read_bytes()[span.begin:span.end], span.document) for span in chunk]
            for chunk in builder.plan_chunks(files, config)]


def test_chunks_cover_the_corpus_and_begin_where_documents_begin(corpus, monkeypatch):
    monkeypatch.setattr(builder, "CHUNK_BYTES", 500)
    for shards in (1, 3, 4, 16):
        chunks = plan(corpus, num_out_files=shards)
        assert len(chunks) >= max(shards, 40)
        whole = {}
        for chunk in chunks:
            name, data, document = chunk[0]
            assert document is None
            before = whole.get(name, b"\n\n")
            assert not before.split(b"\n")[-2].strip(), (before[-20:], data[:20])
            for name, data, _ in chunk:
                whole[name] = whole.get(name, b"") + data
        assert whole["a.txt"] == (corpus / "a.txt").read_bytes()
        assert whole["b.txt"] == (corpus / "b.txt").read_bytes()
        assert whole["c.txt"] == (corpus / "c.txt").read_bytes()[3:]


def test_shards_of_many_documents_are_balanced(tmp_path, monkeypatch):
    (tmp_path / "large").write_text(make_text(1, 1500), encoding="utf-8")
    for number in range(40):
        (tmp_path / f"small{number}").write_text(make_text(number, 3), encoding="utf-8")
    for chunk_bytes in (10000, 4 << 20):
        monkeypatch.setattr(builder, "CHUNK_BYTES", chunk_bytes)
        chunks = plan(tmp_path, num_out_files=16)
        sizes = [sum(len(data) for chunk in chunks[shard::16] for _, data, _ in chunk) for shard in range(16)]
        assert 0.8 * np.mean(sizes) < min(sizes) and max(sizes) < 1.2 * np.mean(sizes)


def test_every_document_gets_a_shard_where_one_is_most_of_the_corpus(tmp_path):
    (tmp_path / "text").write_text("a\n\nb\n\n" + "long line\n" * 5000 + "\nc\n\n\n \n\nd\n", encoding="utf-8")
    chunks = plan(tmp_path, num_out_files=16)
    assert [chunk[0][1].split()[0] for chunk in chunks] == [b"a", b"b", b"long", b"c", b"d"]
    assert len(plan(tmp_path, num_out_files=3)) == 3


@pytest.mark.parametrize("blanks", [True, False])
def test_a_document_longer_than_the_bound_is_cut_at_a_line(tmp_path, monkeypatch, blanks):
    monkeypatch.setattr(builder, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(builder, "DOCUMENT_BOUND", 2000)
    text = "short one\n\n\n" + "a line of the long document\n" * 500 + "\nshort two\n"
    (tmp_path / "text").write_text(text, encoding="utf-8")
    chunks = plan(tmp_path, num_out_files=2, blanks_separate_docs=blanks)
    assert b"".join(chunk[0][1] for chunk in chunks) == text.encode()
    cut = [chunk[0] for chunk in chunks if chunk[0][2] is not None]
    assert len(cut) > 8 and all(data.startswith(b"a line") for _, data, _ in cut)
    assert {document for _, _, document in cut} == {text.index("a line") if blanks else 0}
    sizes = [len(chunk[0][1]) for chunk in chunks]
    assert max(sizes[:-2]) < 1000 + 50 and max(sizes) < 1000 + 2000 + 50


def test_parts_of_a_cut_document_count_and_are_held_out_as_one(vocab_file, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(builder, "DOCUMENT_BOUND", 2000)
    monkeypatch.setattr(builder, "IDENTITY_BYTES", 300)
    corpus, folder = tmp_path / "corpus", tmp_path / "parts"
    corpus.mkdir(), folder.mkdir()
    (corpus / "text").write_text("river\n\n" + "stone lamp green walk\n" * 500 + "\ndoor\n", encoding="utf-8")
    ElectraTokenizer(vocab_file).save(str(folder))
    sides = set()
    for seed in range(8):
        config = builder.BuildConfig(corpus_dir=str(corpus), vocab_file=vocab_file, output_dir="o", num_out_files=1,
                                     eval_fraction=0.5, seed=seed)
        chunks = builder.plan_chunks(builder.list_corpus(str(corpus)), config)
        assert len(chunks) > 5
        counts = builder.ShardBuilder(config, str(folder)).build(0, chunks, lambda size: None)
        assert counts.documents == 3
        small, large = sorted((counts.train_records, counts.eval_records))
        assert small <= 2 < large
        sides.add(counts.eval_records > 2)
    assert sides == {True, False}


def test_a_line_beyond_the_bound_is_refused_where_a_chunk_must_end(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "DOCUMENT_BOUND", 100)
    monkeypatch.setattr(builder, "LINE_BOUND", 1000)
    (tmp_path / "text").write_text("river " * 1000, encoding="utf-8")
    with pytest.raises(UserError, match="has a line of more than .* one sentence on a line"):
        plan(tmp_path, num_out_files=4)


# --- What is written ---

def test_manifest_counts_what_is_there(corpus, vocab_file, tmp_path):
    output = tmp_path / "out"
    manifest = built(corpus, vocab_file, output, eval_fraction=0.2, num_processes=2, strip_accents="false")
    assert manifest["format"] == "electra-pretraining-tfrecord" and manifest["version"] == 1
    tokenizer = ElectraTokenizer.from_folder(str(output))
    assert manifest["tokenizer_fingerprint"] == tokenizer.fingerprint
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (True, False)
    assert (manifest["do_lower_case"], manifest["strip_accents"]) == (True, False)
    assert manifest["vocab_size"] == len(VOCABULARY) and manifest["max_seq_length"] == 32
    assert [file["file"] for file in manifest["corpus"]] == ["a.txt", "b.txt", "c.txt", "empty.txt"]
    assert all(file["bytes"] == (corpus / file["file"]).stat().st_size for file in manifest["corpus"])
    assert manifest["num_documents"] == 180
    assert [file["file"] for file in manifest["train"]] == [f"train-{i:05d}-of-00004.tfrecord" for i in range(4)]
    num_tokens = 0
    for file in manifest["train"] + manifest["eval"]:
        assert file["bytes"] == (output / file["file"]).stat().st_size
        found = records(output, [file])
        assert file["records"] == len(found) > 0
        num_tokens += sum(sum(mask) for _, mask, _ in found)
    assert manifest["num_tokens"] == num_tokens
    assert sorted(content(output)) == sorted(
        ["manifest.json", "vocab.txt", "tokenizer_config.json",
         *(file["file"] for file in manifest["train"] + manifest["eval"])])
    assert str(tmp_path) not in (output / "manifest.json").read_text(encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == ["corpus", "out"]


def test_without_a_held_out_share_there_is_no_eval_folder(corpus, vocab_file, tmp_path):
    assert built(corpus, vocab_file, tmp_path / "out")["eval"] == []
    assert not (tmp_path / "out" / "eval").exists()


def marked_corpus(folder, numbers):
    """Documents whose every word is an own token of the vocabulary, so that a record names its document."""
    folder.mkdir()
    documents = "\n".join(f"far{number} " * 12 + "\n" + f"far{number} " * 9 + "\n" for number in numbers)
    (folder / "text").write_text(documents, encoding="utf-8")
    return folder


def documents_of(folder, files):
    found = []
    for ids, _, _ in records(folder, files):
        names = {VOCABULARY[id_] for id_ in ids} - {"[PAD]", "[CLS]", "[SEP]"}
        assert len(names) == 1, "a record crosses documents"
        found += names
    return set(found)


def test_held_out_documents_are_disjoint_and_stay_when_the_corpus_grows(vocab_file, tmp_path):
    small = marked_corpus(tmp_path / "small", range(400))
    # The same documents in another order, each twice, with more of them.
    large = marked_corpus(tmp_path / "large", [*range(399, -1, -1), *range(600)])
    sides = {}
    for name, folder in (("small", small), ("large", large)):
        manifest = built(folder, vocab_file, tmp_path / f"out_{name}", eval_fraction=0.25)
        sides[name] = [documents_of(tmp_path / f"out_{name}", manifest[split]) for split in ("train", "eval")]
        assert not sides[name][0] & sides[name][1]
    assert sum(map(len, sides["small"])) == 400 and sum(map(len, sides["large"])) == 600
    assert abs(len(sides["small"][1]) - 100) < 35  # four standard errors of 400 at 0.25
    assert sides["small"][1] == sides["large"][1] & {f"far{number}" for number in range(400)}
    other = built(small, vocab_file, tmp_path / "other", eval_fraction=0.25, seed=1)
    assert documents_of(tmp_path / "other", other["eval"]) != sides["small"][1]


def test_fewer_documents_than_shards_make_fewer_shards(vocab_file, tmp_path):
    corpus = marked_corpus(tmp_path / "corpus", range(3))
    result = build(corpus, vocab_file, tmp_path / "out", num_out_files=16, num_processes=4)
    assert result.returncode == 0, result.stderr
    assert "3 training files instead of 16" in result.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [file["file"] for file in manifest["train"]] == [f"train-{i:05d}-of-00003.tfrecord" for i in range(3)]


def test_paragraph_lines_are_pointed_out(vocab_file, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "text").write_text(("river stone " * 100 + "\n\n") * 20)
    result = build(tmp_path / "corpus", vocab_file, tmp_path / "out")
    assert "put one sentence on a line" in result.stdout and result.returncode == 0


# --- An existing output folder ---

def test_existing_dataset_is_replaced_only_with_overwrite(corpus, vocab_file, tmp_path):
    output = tmp_path / "out"
    built(corpus, vocab_file, output, seed=1, eval_fraction=0.2)
    before = content(output)
    refused(build(corpus, vocab_file, output, seed=2), "--overwrite")
    assert content(output) == before
    (output / "notes.md").write_text("mine")
    refused(build(corpus, vocab_file, output, seed=2, overwrite=True), "notes.md")
    (output / "notes.md").unlink()
    assert content(output) == before
    built(corpus, vocab_file, output, seed=2, overwrite=True)
    after = content(output)
    assert after["train-00000-of-00004.tfrecord"] != before["train-00000-of-00004.tfrecord"]
    assert not any(name.startswith("eval") for name in after)
    assert sorted(os.listdir(tmp_path)) == ["corpus", "out"]


def test_foreign_folder_is_never_replaced_and_an_empty_one_is_used(corpus, vocab_file, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.tex").write_text("mine")
    refused(build(corpus, vocab_file, output, overwrite=True), "no dataset")
    (output / "manifest.json").write_text('{"format": "something else"}')
    refused(build(corpus, vocab_file, output, overwrite=True), "no dataset")
    assert (output / "thesis.tex").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    refused(build(corpus, vocab_file, tmp_path / "file", overwrite=True), "not a folder")
    (tmp_path / "empty").mkdir()
    built(corpus, vocab_file, tmp_path / "empty")


def test_leftovers_of_a_killed_build_are_cleaned_up(corpus, vocab_file, tmp_path):
    output = tmp_path / "out"
    built(corpus, vocab_file, output)
    complete = content(output)
    # Killed while building, and between the two renames of --overwrite.
    shutil.copytree(output, tmp_path / "out.building")
    (tmp_path / "out.building" / "train-00009.part").write_text("half")
    output.rename(tmp_path / "out.replaced")
    refused(build(corpus, vocab_file, output, seed=3), "--overwrite")
    assert content(output) == complete
    assert sorted(os.listdir(tmp_path)) == ["corpus", "out"]
    (tmp_path / "out.building").mkdir()
    (tmp_path / "out.building" / "diary.txt").write_text("mine")
    refused(build(corpus, vocab_file, output, overwrite=True), "diary.txt")
    assert (tmp_path / "out.building" / "diary.txt").read_text() == "mine"


# --- Ends other than the good one ---

@pytest.fixture
def long_corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    text = make_text(9, 1000)
    (folder / "text").write_text(text * (60_000_000 // len(text.encode())), encoding="utf-8")
    return folder


def children(pid: int) -> list[int]:
    """Worker processes of `pid`, without multiprocessing's own helper."""
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()]


def start(corpus, vocab_file, output) -> subprocess.Popen:
    """Starts a build of two processes and waits until both have begun to write."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), f"--corpus_dir={corpus}", f"--vocab_file={vocab_file}", f"--output_dir={output}",
         "--num_processes=2", "--num_out_files=4"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    building = pathlib.Path(f"{output}.building")
    deadline = time.monotonic() + 30
    while len(list(building.glob("train-*.part"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds worker processes in /proc")
def test_killed_worker_ends_the_build_at_once(long_corpus, vocab_file, tmp_path):
    process = start(long_corpus, vocab_file, tmp_path / "out")
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    kill_time = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - kill_time < 5
    assert process.returncode == 1
    assert f"worker process {workers[0]} was ended by signal 9" in errors and errors.count("\n") == 1
    assert os.listdir(tmp_path) == ["corpus"]
    assert not os.path.exists(f"/proc/{workers[1]}")


@pytest.mark.parametrize("number, whole_group",
                         [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)])
def test_signal_stops_the_build_and_leaves_nothing(long_corpus, vocab_file, tmp_path, number, whole_group):
    """A terminal's Ctrl-C reaches the workers as well; a job scheduler's TERM may or may not."""
    process = start(long_corpus, vocab_file, tmp_path / "out")
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert f"stopped by {signal.Signals(number).name}" in errors and errors.count("\n") == 1
    assert os.listdir(tmp_path) == ["corpus"]


def test_second_build_of_the_same_folder_is_refused(long_corpus, vocab_file, tmp_path):
    process = start(long_corpus, vocab_file, tmp_path / "out")
    refused(build(long_corpus, vocab_file, tmp_path / "out"), "another build")
    assert process.poll() is None and (tmp_path / "out.building").is_dir()
    process.terminate()
    process.communicate(timeout=20)


def test_failing_worker_ends_the_build_with_a_sentence(corpus, vocab_file, tmp_path):
    """The failure is put into the worker by a module that the new interpreter imports before anything else."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "google_crc32c.py").write_text("def value(data):\n    raise ValueError('broken checksum')\n")
    result = run(f"--corpus_dir={corpus}", f"--vocab_file={vocab_file}", f"--output_dir={tmp_path / 'out'}",
                 "--num_processes=2", env={**os.environ, "PYTHONPATH": str(tmp_path / "path")})
    assert result.returncode == 1
    assert "a worker failed (ValueError in value, line 2: broken checksum)" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_a_dataset_survives_a_build_that_fails(corpus, vocab_file, tmp_path):
    built(corpus, vocab_file, tmp_path / "out")
    before = content(tmp_path / "out")
    (corpus / "z.txt").write_bytes(b"river\n\xff\n")
    refused(build(corpus, vocab_file, tmp_path / "out", overwrite=True), "UTF-8")
    assert content(tmp_path / "out") == before and sorted(os.listdir(tmp_path)) == ["corpus", "out"]


# --- What is refused ---

def test_text_that_is_not_utf8_is_refused_with_file_and_byte_or_dropped(corpus, vocab_file, tmp_path):
    valid = b"river stone\n\nlamp\n\n" * 20
    (corpus / "d.txt").write_bytes(valid + b"gre\xe9en lamp\n")
    refused(build(corpus, vocab_file, tmp_path / "out", num_processes=2), "d.txt", f"byte {len(valid) + 3})",
            "--encoding_errors")
    manifest = built(corpus, vocab_file, tmp_path / "out", encoding_errors="replace")
    last = records(tmp_path / "out", manifest["train"])[-1][0]
    assert [VOCABULARY[id_] for id_ in last[:5]] == ["[CLS]", "green", "lamp", "[SEP]", "[PAD]"]


def test_bad_input_is_refused_in_one_sentence(corpus, vocab_file, tmp_path):
    output = tmp_path / "out"
    refused(run("--output_dir=x"), "--corpus_dir is missing")
    refused(build(tmp_path / "nowhere", vocab_file, output), "nowhere", "No such file")
    refused(build(corpus, tmp_path / "no_vocab.txt", output), "no_vocab.txt")
    refused(build(corpus, vocab_file, output, max_seq_length=4), "--max_seq_length=4")
    refused(build(corpus, vocab_file, output, num_out_files=2, num_processes=3), "--num_out_files=2")
    refused(build(corpus, vocab_file, corpus / "out"), "lies in --corpus_dir")
    refused(build(corpus, vocab_file, corpus / "a.txt" / "out"), "--output_dir")
    refused(build(corpus, vocab_file, output, eval_fraction="nan"), "--eval_fraction")
    for name, text, words in (("none", None, "no text file"), ("blank", "\n \n\t\n", "no document"),
                              ("control", "\x01\n\x02\n", "no training record")):
        folder = tmp_path / name
        folder.mkdir()
        if text:
            (folder / "text").write_text(text)
        refused(build(folder, vocab_file, output), words)
    (corpus / "more.txt.gz").write_bytes(b"\x1f\x8b\x08\x00")
    refused(build(corpus, vocab_file, output), "more.txt.gz", "compressed")
    assert sorted(os.listdir(tmp_path)) == ["blank", "control", "corpus", "none"]


def test_full_disk_is_refused_before_the_build(corpus, vocab_file, tmp_path, monkeypatch):
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=100))
    config = builder.BuildConfig(corpus_dir=str(corpus), vocab_file=vocab_file, output_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="make room"):
        builder.build(config)
    assert os.listdir(tmp_path) == ["corpus"]


def test_every_field_of_the_configuration_is_a_flag_with_help():
    result = run("--help")
    assert result.returncode == 0
    for field in dataclasses.fields(builder.BuildConfig):
        assert f"--{field.name}=" in result.stdout


def test_tensorflow_is_not_imported():
    code = "import sys, build_pretraining_dataset; print([n for n in sys.modules if n.startswith('tensorflow')])"
    result = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_encode_batch_fast_equals_encode(vocab_file):
    tokenizer = ElectraTokenizer(vocab_file)
    lines = make_text(4, 50).split("\n")
    assert tokenizer.encode_batch(lines) == [tokenizer.encode(line).ids for line in lines]


def test_configuration_defaults_never_ask_for_fewer_files_than_processes():
    paths = dict(corpus_dir="c", vocab_file="v", output_dir="o")
    assert builder.BuildConfig(**paths, num_processes=40).out_files == 40
    assert builder.BuildConfig(**paths, num_processes=2).out_files == 16
    assert builder.BuildConfig(**paths, num_out_files=1).processes == 1
    with pytest.raises(UserError, match="num_processes=3"):
        builder.BuildConfig(**paths, num_out_files=2, num_processes=3)
