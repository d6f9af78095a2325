"""build_pretraining_dataset.py: records against a slow reference of its rules, the same bytes for any number of
processes, what it refuses, and how it ends when a worker dies or a signal arrives.
"""
from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import pty
import random
import signal
import struct
import subprocess
import sys
import termios
import time
import types

import languages
import numpy as np
import pytest

import build_pretraining_dataset as builder
import files
import pretrain_utils
import process_pool
import tfrecord
import tokenization
from configuration import RunFailed
from pretraining_options import PretrainingConfig
from tokenization import ElectraTokenizer

COMMAND = [sys.executable, builder.__file__]
WORDS = ["river", "stone", "lamp", "green", "walk", "ing", "seven", "quiet", "house", "door", "paper", "light"]
# The fillers give the words ids of one, two and three bytes in the records.
VOCABULARY = (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "é", *WORDS[:4]]
              + [f"filler{number}" for number in range(200)] + WORDS[4:8]
              + [f"far{number}" for number in range(16500)] + WORDS[8:] + ["##s", "##ing", "##" + "x"])


def make_text(seed: int, num_documents: int) -> str:
    """Documents of 1 to 12 sentences of 1 to 30 words, some of them not in the vocabulary, some not English."""
    draw = random.Random(seed)
    words = [*WORDS, "rivers", "Stones", "walking", "zebra", "lampx", "Café", "石头", "\u0301a", "\u2028", "ΣΑΣ",
             "\x07", "e\u0301\u00a0\u200d", "\ufeff\ufffd", "\u0130ß", "ꀀꀁ", "\U0001f600-", "\t\r"]
    return "\n".join("".join(" ".join(draw.choices(words, k=draw.randint(1, 30))) + draw.choice(".,") + "\n"
                             for _ in range(draw.randint(1, 12))) for _ in range(num_documents))


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "subfolder").mkdir(parents=True)
    (folder / "a.txt").write_text(make_text(1, 60), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n  \n" + make_text(2, 90) + "\n\x01\n \t\n\x01\n", encoding="utf-8")
    (folder / "c.txt").write_bytes(b"\xef\xbb\xbf" + make_text(3, 30).replace("\n", "\r\n").encode().rstrip())
    (folder / "empty.txt").write_text("")
    (folder / ".hidden").write_text("river river\n")
    return folder


@pytest.fixture
def configure(corpus, tmp_path, tmp_path_factory):
    """Makes a BuildConfig: 4 shards of `corpus` in `tmp_path / "out"` by one process, but for what is given."""
    vocab_file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocab_file.write_text("".join(token + "\n" for token in VOCABULARY), encoding="utf-8")
    paths = dict(corpus_dir=str(corpus), vocab_file=str(vocab_file), output_dir=str(tmp_path / "out"))
    return lambda **options: builder.BuildConfig(
        **{**paths, "max_seq_length": 32, "num_processes": 1, "num_out_files": 4, **options})


@pytest.fixture
def in_process(monkeypatch):
    """Writes the shards in this process, where a test is not about workers: they take half a second to start."""
    def write_shards(config, folder, shards, finished):
        bytes_done = [0] * len(shards)
        monkeypatch.setattr(builder, "_worker", (config, folder, shards, bytes_done, config.tokenizer()))
        return [finished[shard] if shard in finished else builder.write_shard(shard) for shard in range(len(shards))]

    monkeypatch.setattr(builder, "write_shards", write_shards)


def arguments(config) -> list[str]:
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in dataclasses.asdict(config).items() if value is not None]


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def records(folder, shards, max_seq_length=32) -> list[tuple]:
    """Records as (input_ids, input_mask, segment_ids), read by TensorFlow, which also verifies the checksums."""
    tf = pytest.importorskip("tensorflow")
    feature = tf.io.FixedLenFeature([max_seq_length], tf.int64)
    features = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), feature)
    parsed = [tf.io.parse_example(batch, features) for batch in
              tf.data.TFRecordDataset([str(folder / file["file"]) for file in shards]).batch(10000)]
    return [record for batch in parsed for record in zip(*(batch[name].numpy().tolist() for name in features))]


# --- Records ---

def reference_documents(data: bytes, blanks_separate_docs):
    """(offset of the first line, lines as text) of each document of a file."""
    offset, document = 0, None
    for line in [*data.split(b"\n"), None]:
        if line is not None and line.strip():
            document = document or (offset, [])
            document[1].append(line.decode("utf-8"))
        elif document and (blanks_separate_docs or line is None):
            yield document
            document = None
        offset += len(line or b"") + 1


def reference_records(path, tokenizer, config):
    """A slow version of the rule, one token list at a time."""
    length = config.max_seq_length
    for offset, lines in reference_documents(path.read_bytes(), config.blanks_separate_docs):
        sentences = [ids for ids in (tokenizer.encode(line).ids for line in lines) if ids]
        number = 0
        while sentences:
            bits = builder.random_bits(config.seed, path.name.encode(), offset, number)
            target, single, exceed = builder.draw(bits, length)
            taken, first, second = [], [], []
            while sentences and sum(map(len, taken)) < target:
                taken.append(sentences.pop(0))
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


@pytest.mark.parametrize("length, options", [(32, {}), (64, dict(blanks_separate_docs=False, do_lower_case=False)),
                                             (300, dict(strip_accents="false"))])
def test_records_equal_a_slow_reference_of_the_rules(corpus, configure, in_process, tmp_path, length, options):
    config = configure(max_seq_length=length, seed=7, num_out_files=1, **options)
    actual = records(tmp_path / "out", builder.build(config)["train"], length)
    tokenizer = config.tokenizer()
    expected = [record for name in ("a.txt", "b.txt", "c.txt")
                for record in reference_records(corpus / name, tokenizer, config)]
    assert len(expected) > 30 and any(sum(segments) for _, _, segments in expected)
    assert sorted(actual) == sorted(expected)


def packed_reference(chunks, tokenizer, config):
    """A slow version of --pack_documents for the only shard, without held-out documents: one list of words, where
    None is the separator before a document."""
    sentences = []
    for _, data in chunks:
        for _, lines in reference_documents(data, config.blanks_separate_docs):
            of_document = [ids for ids in (tokenizer.encode(line).ids for line in lines) if ids]
            sentences += [[None, *of_document[0]], *of_document[1:]] if of_document else []

    def joined(part):
        ids = [id_ for sentence in part for id_ in sentence]
        return [tokenizer.sep_id if id_ is None else id_ for id_ in (ids[1:] if ids[:1] == [None] else ids)]

    length, number = config.max_seq_length, 0
    while sentences:
        target, single, exceed = builder.draw(builder.random_bits(config.seed, b"train", 0, number), length)
        end = next((end for end in range(1, len(sentences)) if len(joined(sentences[:end])) >= target), len(sentences))
        taken, sentences = sentences[:end], sentences[end:]
        half = (target - 3) // 2
        split = max([1, *(split for split in range(1, end + 1) if len(joined(taken[:split])) < half)])
        split += exceed and split < end and len(joined(taken[:split])) < half
        split = end if single else split
        first, second = joined(taken[:split])[:length - 2], joined(taken[split:])
        second = second[:max(0, length - 3 - len(first))]
        ids = [tokenizer.cls_id, *first, tokenizer.sep_id, *second, *[tokenizer.sep_id] * bool(second)]
        segments = [0] * (len(first) + 2) + [1] * (len(second) + 1) * bool(second)
        yield tuple(values + [0] * (length - len(ids)) for values in (ids, [1] * len(ids), segments))
        number += 1


@pytest.mark.parametrize("length, options", [(32, {}), (256, dict(blanks_separate_docs=False))])
def test_packed_records_equal_a_slow_reference_and_are_nearly_full(corpus, configure, in_process, tmp_path, length,
                                                                   options):
    (corpus / "short").write_text("river stone.\n\n" * 300 + "\x07\n\n")  # the last document has no tokens
    options = dict(max_seq_length=length, num_out_files=1, **options)
    manifest = builder.build(configure(pack_documents=True, **options))
    actual, config = records(tmp_path / "out", manifest["train"], length), configure(**options)
    (chunks,) = builder.plan_shards(builder.list_corpus(str(corpus)), config)
    parts = [(path, pathlib.Path(path).read_bytes()[begin:end]) for path, begin, end in chunks]
    assert actual == list(packed_reference(parts, config.tokenizer(), config)) and len(chunks) > 3
    assert max(ids.count(3) for ids, _, _ in actual) >= 3  # two segments end with one: others are separators
    assert manifest["padding"] < 0.08 and "padding_note" not in manifest
    full = sum(sum(mask) for _, mask, _ in actual)
    assert manifest["num_tokens"] == full
    plain = builder.build(configure(**options, output_dir=str(tmp_path / "plain")))
    assert plain["padding"] > manifest["padding"] and plain["num_documents"] == manifest["num_documents"]
    special = sum(ids.count(2) + ids.count(3) for ids, _, _ in actual)
    num_text_tokens = len(config.tokenizer().encode("".join(data.decode("utf-8-sig") for _, data in parts)).ids)
    assert manifest["num_cut_tokens"] == num_text_tokens - (full - special)


def test_packing_keeps_held_out_documents_apart_and_does_not_depend_on_processes(configure, tmp_path):
    folder = tmp_path / "marked"
    folder.mkdir()
    (folder / "text").write_text("".join(f"far{document} " * 3 + "\n\n" for document in range(3000)))
    made = [builder.build(configure(corpus_dir=str(folder), eval_fraction=0.3, pack_documents=True, max_seq_length=16,
                                    num_processes=processes, output_dir=str(tmp_path / f"{processes}")))
            for processes in (1, 2)]
    assert content(tmp_path / "1") == content(tmp_path / "2")
    train, held_out = ({id_ for ids, _, _ in records(tmp_path / "1", made[0][split], 16) for id_ in ids} - {0, 2, 3}
                       for split in ("train", "eval"))
    assert not train & held_out and len(train | held_out) > 2000


def test_shards_mix_the_corpus_and_are_nearly_equal(configure, tmp_path, in_process):
    folder = tmp_path / "marked"
    folder.mkdir()
    for part in range(4):  # four files; a document of four sentences whose word says where it is
        (folder / f"{part}").write_text("".join((f"far{part * 1000 + i} " * 20 + "\n") * 4 + "\n" for i in range(1000)))
    manifest = builder.build(configure(corpus_dir=str(folder), num_out_files=4))
    counts = [file["records"] for file in manifest["train"]]
    assert max(counts) < 1.1 * min(counts)
    places = [np.array([ids[1] for ids, _, _ in records(tmp_path / "out", [file])]) - VOCABULARY.index("far0")
              for file in manifest["train"]]
    assert all(set(of_shard // 1000) == {0, 1, 2, 3} for of_shard in places)
    for parts in zip(*(np.array_split(of_shard, 4) for of_shard in places)):  # a window of the order in training
        assert len(set(np.concatenate(parts) // 250)) >= 7 and len(set(np.concatenate(parts) // 1000)) == 4


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_sentencepiece_vocabulary_gives_the_records_of_the_rules_and_goes_with_them(
        kind, corpus, configure, in_process, tmp_path):
    text = (corpus / "a.txt").read_text(encoding="utf-8")
    path = languages.train_sentencepiece(tmp_path / "x.model", text.split("\n"), model_type=kind, vocab_size=300)
    config = configure(vocab_file=path, num_out_files=1)
    manifest = builder.build(config)
    expected = [record for name in ("a.txt", "b.txt", "c.txt")
                for record in reference_records(corpus / name, config.tokenizer(), config)]
    assert sorted(records(tmp_path / "out", manifest["train"])) == sorted(expected) and len(expected) > 30
    assert "do_lower_case" not in manifest
    assert {"tokenizer.json", "spiece.model", "tokenizer_config.json"} < set(os.listdir(tmp_path / "out"))
    training = PretrainingConfig(pretrain_tfrecords=str(tmp_path / "out"), max_seq_length=32)
    shards = [str(tmp_path / "out" / entry["file"]) for entry in manifest["train"]]
    tokenizer = pretrain_utils.open_tokenizer(training, shards)
    assert tokenizer.fingerprint == manifest["tokenizer_fingerprint"]
    pretrain_utils.check_manifests(shards, tokenizer, 32)
    builder.build(configure(vocab_file=path, overwrite=True))


def test_draws_have_the_shares_of_the_paper():
    draws = [builder.draw(builder.random_bits(1, b"a", offset, number), 128)
             for offset in range(0, 400000, 40) for number in range(5)]
    targets, single, exceed = map(np.array, zip(*draws))
    short = targets[targets < 128]
    # 50,000 draws: four standard errors are 0.0054 of 0.1, 0.0039 of 0.05 and 0.009 of 0.5.
    assert abs(single.mean() - 0.10) < 0.0054
    assert abs(len(short) / len(draws) - 0.05 * 123 / 124) < 0.0039
    assert abs(exceed.mean() - 0.5) < 0.009
    assert short.min() == 5 and short.max() == 127 and abs(short.mean() - 66) < 4 * 35.5 / len(short)**0.5
    # The three are independent: single-segment examples are short as often as others.
    assert abs((targets[single] < 128).mean() - 0.05) < 0.0125


def test_number_of_processes_does_not_change_a_byte(configure, tmp_path):
    for processes in (1, 2, 3):
        builder.build(configure(num_processes=processes, eval_fraction=0.2, output_dir=str(tmp_path / f"{processes}")))
    first = content(tmp_path / "1")
    assert first == content(tmp_path / "2") == content(tmp_path / "3") and "eval/eval-00000-of-00001.tfrecord" in first


def test_the_seed_changes_the_records(configure, in_process, tmp_path):
    for seed in (42, 1):
        builder.build(configure(seed=seed, output_dir=str(tmp_path / f"{seed}")))
    name = "train-00000-of-00004.tfrecord"
    assert content(tmp_path / "42")[name] != content(tmp_path / "1")[name]


# --- Chunks ---

def plan(folder, **options) -> list[list[tuple]]:
    """Shards of a folder, as lists of (name, first byte, bytes)."""
    config = builder.BuildConfig(corpus_dir=str(folder), vocab_file="v", output_dir="o", num_processes=1, **options)
    return [[(os.path.basename(path), begin, pathlib.Path(path).read_bytes()[begin:end]) for path, begin, end in shard]
            for shard in builder.plan_shards(builder.list_corpus(str(folder)), config)]


def test_chunks_cover_the_corpus_begin_with_documents_and_balance(corpus):
    (corpus / "large").write_text(make_text(4, 1500), encoding="utf-8")
    for num_shards in (1, 3, 16):
        shards = plan(corpus, num_out_files=num_shards)
        chunks = sorted(chunk for shard in shards for chunk in shard)
        for name in ("a.txt", "b.txt", "c.txt", "large"):
            parts = [data for of, _, data in chunks if of == name]
            assert b"".join(parts) == (corpus / name).read_bytes()
            assert all(not part.split(b"\n")[-2].strip() for part in parts[:-1])
        sizes = [sum(len(data) for _, _, data in shard) for shard in shards]
        assert len(sizes) == num_shards and 0.8 * np.mean(sizes) < min(sizes) and max(sizes) < 1.2 * np.mean(sizes)
        assert sum(name == "large" for name, _, _ in chunks) > 4 * num_shards  # processes share a large file


@pytest.mark.parametrize("blanks", [True, False])
def test_a_long_document_is_cut_at_a_line_and_a_long_line_refused(tmp_path, monkeypatch, refuses, blanks):
    monkeypatch.setattr(builder, "DOCUMENT_BOUND", 2000)
    text = "short one\n\n\n" + "a line of the long document\n" * 500 + "\nshort two\n"
    (tmp_path / "text").write_text(text, encoding="utf-8")
    chunks = sorted(chunk for shard in plan(tmp_path, num_out_files=2, blanks_separate_docs=blanks) for chunk in shard)
    assert b"".join(data for _, _, data in chunks) == text.encode() and len(chunks) > 8
    assert all(data.startswith((b"a line", b"short two")) for _, _, data in chunks[1:])
    assert max(len(data) for _, _, data in chunks) < 1024 + 2000 + 50
    monkeypatch.setattr(builder, "LINE_BOUND", 10)
    assert "one sentence" in refuses(plan, tmp_path, num_out_files=2)


# --- What is written ---

def test_manifest_and_summary_say_what_is_there(corpus, configure, tmp_path, capsys):
    output = tmp_path / "out"
    manifest = builder.build(configure(eval_fraction=0.2, num_processes=2, strip_accents="false"))
    assert json.loads((output / "manifest.json").read_text(encoding="utf-8")) == manifest
    tokenizer = ElectraTokenizer.from_folder(str(output))
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (True, False)
    names = [f"train-{number:05d}-of-00004.tfrecord" for number in range(4)] + ["eval/eval-00000-of-00001.tfrecord"]
    found = [records(output, [{"file": name}]) for name in names]
    shards = [{"file": name, "bytes": (output / name).stat().st_size, "records": len(of_file)}
              for name, of_file in zip(names, found)]
    num_tokens = sum(sum(mask) for of_file in found for _, mask, _ in of_file)
    num_special = sum(ids.count(2) + ids.count(3) for of_file in found for ids, _, _ in of_file)  # [CLS], [SEP]
    text = "".join((corpus / name).read_text(encoding="utf-8") for name in ("a.txt", "b.txt", "c.txt"))
    num_text_tokens = len(tokenizer.encode(text).ids)
    lengths = sorted(length for name in ("a.txt", "b.txt", "c.txt") for _, lines in reference_documents(
        (corpus / name).read_bytes(), True) if (length := len(tokenizer.encode("\n".join(lines)).ids)))
    assert manifest == {
        "format": "electra-pretraining-tfrecord", "version": 1, "max_seq_length": 32, "vocab_size": len(VOCABULARY),
        "tokenizer_fingerprint": tokenizer.fingerprint, "do_lower_case": True, "strip_accents": False,
        "blanks_separate_docs": True,
        "pack_documents": False, "seed": 42, "eval_fraction": 0.2, "num_documents": 180,
        "median_document_tokens": int(np.median(lengths)),
        "padding": round(1 - num_tokens / 32 / sum(map(len, found)), 4),
        "num_tokens": num_tokens, "num_cut_tokens": num_text_tokens - (num_tokens - num_special),
        "corpus": [{"file": name, "bytes": (corpus / name).stat().st_size}
                   for name in ("a.txt", "b.txt", "c.txt", "empty.txt")],
        "train": shards[:4], "eval": shards[4:]}
    indices = [name + ".idx" for name in names]
    assert sorted(content(output)) == sorted(["manifest.json", "vocab.txt", "tokenizer_config.json", *names, *indices])
    for index, shard in zip(indices, shards):
        assert tfrecord.check_index(str(output / shard["file"]), str(output / index)) == shard["records"]
    assert sorted(os.listdir(tmp_path)) == ["corpus", "out"]
    summary = capsys.readouterr().out
    assert "180 documents" in summary and f"{len(found[-1])} held-out records" in summary and "padding" in summary


def test_much_padding_is_explained_in_the_manifest_and_in_the_last_line(tmp_path, configure, in_process, capsys):
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "text").write_text("river stone.\n\n" * 600)
    options = dict(corpus_dir=str(tmp_path / "poems"), overwrite=True, num_out_files=2)
    for more, named in (({}, ["84%", "3 tokens", "32", "blank line", "--noblanks_separate_docs", "--pack_documents"]),
                        (dict(pack_documents=True), []), (dict(blanks_separate_docs=False), [])):
        manifest = builder.build(configure(**options, **more))
        last = capsys.readouterr().err
        assert manifest.get("padding_note", "") in last and bool(last) == ("padding_note" in manifest) == bool(named)
        assert all(word in last for word in named)
    assert "--noblanks" not in builder.padding_note(configure(blanks_separate_docs=False), 0.5, 7)
    assert "--pack" not in builder.padding_note(configure(pack_documents=True), 0.5, 7)


def test_held_out_documents_are_disjoint_and_stay_when_text_is_added(tmp_path, configure, in_process):
    def documents_of(shards) -> set[str]:  # whose every word is an own token, so that a record names its document
        names = [{VOCABULARY[id_] for id_ in ids} - {"[PAD]", "[CLS]", "[SEP]"}
                 for ids, _, _ in records(tmp_path / "out", shards)]
        assert all(len(of_record) == 1 for of_record in names), "a record crosses documents"
        return set().union(*names)

    folder, sides = tmp_path / "marked", []
    folder.mkdir()
    for number, seed in ((400, 42), (600, 42), (400, 1)):
        (folder / "text").write_text("".join((f"far{document} " * 12 + "\n") * 2 + "\n" for document in range(number)))
        (folder / "more").write_text("far16000\n" * (number - 400))
        manifest = builder.build(configure(corpus_dir=str(folder), eval_fraction=0.25, seed=seed, overwrite=True))
        train, held_out = documents_of(manifest["train"]), documents_of(manifest["eval"])
        assert not train & held_out and len(train | held_out) == number + (number > 400)
        sides.append(held_out & {f"far{document}" for document in range(400)})
    assert abs(len(sides[0]) - 100) < 35  # four standard errors of 400 at 0.25
    assert sides[0] == sides[1] != sides[2]


def test_fewer_documents_than_shards_make_fewer_shards(tmp_path, configure, in_process, capsys):
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "text").write_text(("\n" + "river\n" * 300) * 3 + "\n" * 3000)
    manifest = builder.build(configure(corpus_dir=str(tmp_path / "three"), num_out_files=16))
    assert "3 training files instead of 16" in capsys.readouterr().out
    assert [file["file"] for file in manifest["train"]] == [f"train-{i:05d}-of-00003.tfrecord" for i in range(3)]


# --- An existing output folder ---

def test_existing_folder_is_replaced_only_with_overwrite_and_only_a_dataset(configure, in_process, tmp_path, refuses):
    output = tmp_path / "out"
    output.mkdir()  # empty: used
    builder.build(configure(eval_fraction=0.2))
    before = content(output)
    assert "--overwrite" in refuses(builder.build, configure(seed=2))
    (output / "eval" / "notes.md").write_text("mine")
    assert "eval/notes.md" in refuses(builder.build, configure(seed=2, overwrite=True))
    (output / "eval" / "notes.md").unlink()
    (output / "other.tfrecord.idx").write_text("mine")
    assert "other.tfrecord.idx" in refuses(builder.build, configure(seed=2, overwrite=True))
    (output / "other.tfrecord.idx").unlink()
    assert content(output) == before
    builder.build(configure(seed=2, overwrite=True))
    assert not any(name.startswith("eval") for name in content(output))
    (output / "manifest.json").write_text('{"format": "something else"}')
    assert "manifest.json, which is not part of a dataset" in refuses(builder.build, configure(overwrite=True))
    (tmp_path / "file").write_text("mine")
    assert "not a directory" in refuses(builder.build, configure(output_dir=str(tmp_path / "file"), overwrite=True))
    assert sorted(os.listdir(tmp_path)) == ["corpus", "file", "out"]


def test_a_refused_build_leaves_no_parent_folder(configure, tmp_path):
    config = configure()
    result = subprocess.run([*COMMAND, f"--corpus_dir={tmp_path / 'none'}", f"--vocab_file={config.vocab_file}",
                             f"--output_dir={tmp_path / 'new' / 'a' / 'b'}"], text=True, capture_output=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["corpus"]


@pytest.mark.parametrize("target", ["/", ".", "..", "file", "file/x", "x/" * 1000])
def test_a_folder_that_cannot_be_replaced_is_refused(target, configure, tmp_path, monkeypatch, refuses):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    for overwrite in (False, True):
        assert "--output_dir" in refuses(builder.build, configure(output_dir=target, overwrite=overwrite))
    assert os.listdir(tmp_path / "here") == ["file"]


@pytest.mark.parametrize("place", ["tfrecord.write_index", "files.write_json",
                                   "build_pretraining_dataset.write_shards"])
def test_a_full_disk_ends_in_one_sentence_and_leaves_nothing(place, configure, in_process, tmp_path, monkeypatch,
                                                             refuses):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, full)
    text = refuses(builder.build, configure())
    assert str(tmp_path / "out") in text and "No space left" in text
    assert sorted(os.listdir(tmp_path)) == ["corpus"]


def test_leftovers_of_killed_builds_are_cleaned_up(configure, in_process, tmp_path, refuses):
    output, dead = tmp_path / "out", subprocess.Popen(["true"])
    dead.wait()
    mark = f"out.tmp-{files.HOST}"
    builder.build(configure())
    complete = content(output)
    for pid in (dead.pid, os.getppid()):  # the second one is another build that runs
        (tmp_path / f"{mark}-{pid}-1" / "new").mkdir(parents=True)
    output.rename(tmp_path / f"{mark}-{dead.pid}-1" / "old")  # killed between the two renames of --overwrite
    assert "--overwrite" in refuses(builder.build, configure(seed=3))
    assert content(output) == complete
    assert sorted(os.listdir(tmp_path)) == ["corpus", "out", f"{mark}-{os.getppid()}-1"]


def test_a_second_build_is_refused_while_one_runs(configure, tmp_path):
    config = configure()
    with files.hold(f"{tmp_path / 'out'}.lock"):
        result = subprocess.run([*COMMAND, f"--corpus_dir={config.corpus_dir}", f"--vocab_file={config.vocab_file}",
                                 f"--output_dir={tmp_path / 'out'}"], text=True, capture_output=True)
    assert result.returncode == 2 and str(os.getpid()) in result.stderr and "--output_dir" in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["corpus"]


def test_folders_with_the_signs_of_a_glob_are_taken_as_they_stand(corpus, configure, in_process, tmp_path):
    builder.build(configure())
    plain = content(tmp_path / "out")
    decoy, odd = tmp_path / "a", tmp_path / "[ab]*\\?"
    for folder in (decoy, odd):
        folder.mkdir()
    (decoy / "text").write_text("river")
    corpus.rename(odd / "corpus")
    options = dict(corpus_dir=str(odd / "corpus"), output_dir=str(odd / "out[1]"))
    builder.build(configure(**options))
    builder.build(configure(**options, overwrite=True))
    assert content(odd / "out[1]") == plain
    assert sorted(os.listdir(odd)) == ["corpus", "out[1]"]


# --- Failures and signals ---

def test_a_signal_while_the_folder_is_replaced_is_too_late_to_stop_the_build(configure, in_process, tmp_path,
                                                                             monkeypatch):
    def rename(source, destination, rename=os.rename):
        if destination == str(tmp_path / "out"):
            os.kill(os.getpid(), signal.SIGTERM)
        rename(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    handlers = {number: signal.getsignal(number) for number in files.STOP_SIGNALS}
    process_pool.stop_on_signals()
    try:
        manifest = builder.build(configure())
        assert all(signal.getsignal(number) == signal.SIG_IGN for number in files.STOP_SIGNALS)  # it arrived
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")) == manifest
    assert sorted(os.listdir(tmp_path)) == ["corpus", "out"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds worker processes in /proc")
@pytest.mark.parametrize("number, target, num_begun, status, sentence", [
    (signal.SIGKILL, "worker", 1, 1, "a worker process was killed"),
    (signal.SIGKILL, "parent", 2, -9, ""),
    (signal.SIGINT, "group", 1, 75, "stopped by SIGINT"),  # as a terminal's Ctrl-C
    (signal.SIGINT, "group", 0, 75, "stopped by SIGINT"),  # while the workers start
    (signal.SIGTERM, "group", 1, 75, "stopped by SIGTERM"),  # a job scheduler's TERM may or may not reach the workers
    (signal.SIGTERM, "parent", 2, 75, "stopped by SIGTERM")])
def test_killed_worker_or_signal_ends_the_build_at_once_and_the_same_command_continues(
        configure, corpus, tmp_path, number, target, num_begun, status, sentence):
    (corpus / "long").write_text(make_text(9, 1000) * 10, encoding="utf-8")
    command = [*COMMAND, *arguments(configure(num_processes=2, num_out_files=8))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    workers, deadline = [], time.monotonic() + 60
    while len(workers) < 2 or len(list(tmp_path.glob(".out.partial/shard-*.json"))) < num_begun:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
        time.sleep(0.02)
    time.sleep(0 if num_begun else 0.3)
    if target == "group":
        os.killpg(process.pid, number)
    else:
        os.kill(int(workers[0]) if target == "worker" else process.pid, number)
    deadline = time.monotonic() + 5
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in workers):  # not so for what is dead and not yet waited for
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if status > 0:
        assert sentence in errors and errors.count("\n") == 1 and time.monotonic() < deadline
        assert sorted(os.listdir(tmp_path)) == [".out.partial", "corpus"] if num_begun else ["corpus"]
        assert "same command" in errors
    if target == "parent":
        shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        assert "continuing" in shown and "of 8 shards" in shown
        builder.build(configure(num_processes=1, num_out_files=8, output_dir=str(tmp_path / "whole")))
        assert content(tmp_path / "out") == content(tmp_path / "whole")
        assert sorted(os.listdir(tmp_path)) == ["corpus", "out", "whole"]


@pytest.fixture
def broken_at(monkeypatch):
    """Makes `place` of the builder raise `error` when it is called for the shard with a number (None: always)."""
    def run(place, error, shard=None):
        original = getattr(builder, place)

        def breaking(*args):
            if shard is None or shard in args:
                raise error
            return original(*args)

        monkeypatch.setattr(builder, place, breaking)
        return lambda: monkeypatch.setattr(builder, place, original)

    return run


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("place, shard", [("write_shard", 2), ("save_finished", 2), ("finish", None),
                                          ("padding_note", None)])
def test_an_interrupted_build_continues_to_the_same_bytes(place, shard, pack, configure, in_process, tmp_path, capsys,
                                                          monkeypatch, broken_at):
    options = dict(eval_fraction=0.2, pack_documents=pack)
    builder.build(configure(**options, output_dir=str(tmp_path / "whole")))
    repair = broken_at(place, RunFailed("stopped"), shard)
    with pytest.raises(RunFailed):
        builder.build(configure(**options))
    partial = tmp_path / ".out.partial"
    finished = 4 if shard is None else 2
    assert len(list(partial.glob("shard-*.json"))) == finished and not (tmp_path / "out").exists()
    assert (partial / "new").exists() == (place == "padding_note")
    (partial / "shard-3.json.tmp-host-1-1").write_text("half")
    (partial / "train-3.part").touch()
    repair()
    written = []
    monkeypatch.setattr(builder, "save_finished", lambda folder, number, result, save=builder.save_finished:
                        written.append(number) or save(folder, number, result))
    builder.build(configure(**options))
    assert f"{finished} of 4 shards" in capsys.readouterr().out and written == list(range(finished, 4))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["corpus", "out", "whole"]


@pytest.mark.parametrize("change, reason", [
    ("option", "--seed was 42 and is 7 now"), ("text", "corpus"), ("time", "corpus"), ("vocabulary", "vocabulary"),
    ("program", "version"), ("state", "state.json"), ("format", "version"), ("processes", None), ("shard", "shard 1"),
    ("finished", None), ("index", "shard 0")])
def test_what_has_changed_is_discarded_with_a_line_that_says_so(change, reason, corpus, configure, in_process, tmp_path,
                                                                capsys, monkeypatch, broken_at):
    options = dict(eval_fraction=0.2)
    repair = broken_at("finish", RunFailed("stopped"))
    with pytest.raises(RunFailed):
        builder.build(configure(**options))
    repair()
    partial = tmp_path / ".out.partial"
    if change == "option":
        options["seed"] = 7
    elif change == "text":
        (corpus / "new").write_text("river stone\n")
    elif change == "time":
        os.utime(corpus / "a.txt", (1, 1))
    elif change == "vocabulary":
        options["vocab_file"] = str(tmp_path / "corpus" / "subfolder" / "vocab.txt")
        pathlib.Path(options["vocab_file"]).write_text("\n".join([*VOCABULARY, "##new"]), encoding="utf-8")
    elif change == "program":
        monkeypatch.setattr(tokenization.tokenizers, "__version__", "0.0")
    elif change == "processes":
        options["num_processes"] = 3
    else:
        name, text = {"state": ("state.json", "{"), "format": ("state.json", "{}"), "shard": ("eval-1.part", "damaged"),
                      "finished": ("shard-1.json", "[]"), "index": ("train-0.part.idx", "")}[change]
        (partial / name).write_text(text)
    capsys.readouterr()
    builder.build(configure(**options))
    lines = [line for line in capsys.readouterr().out.splitlines() if str(partial) in line and "discarded" in line]
    assert len(lines) == (reason is not None) and all(reason in line for line in lines)
    result = content(tmp_path / "out")
    builder.build(configure(**options, overwrite=True))
    assert content(tmp_path / "out") == result


def test_a_foreign_folder_of_that_name_is_left_alone(configure, in_process, tmp_path, refuses):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "thesis.txt").write_text("mine")
    assert "thesis.txt" in refuses(builder.build, configure())
    assert sorted(os.listdir(tmp_path)) == [".out.partial", "corpus"]


def test_a_full_disk_keeps_what_is_finished_and_an_old_dataset_until_the_new_one_is_complete(
        configure, in_process, tmp_path, refuses, broken_at):
    builder.build(configure())
    before = content(tmp_path / "out")
    repair = broken_at("save_finished", OSError(errno.ENOSPC, "No space left on device"), 3)
    sentence = refuses(builder.build, configure(seed=2, overwrite=True))
    assert "No space left" in sentence and "same command" in sentence and str(tmp_path / ".out.partial") in sentence
    assert content(tmp_path / "out") == before
    repair()
    builder.build(configure(seed=2, overwrite=True))
    after = content(tmp_path / "out")
    builder.build(configure(seed=2, output_dir=str(tmp_path / "whole")))
    assert after == content(tmp_path / "whole") != before


def test_text_that_changes_during_the_build_is_refused(corpus, configure, in_process, tmp_path, monkeypatch, refuses):
    def append(*args, save=builder.save_finished):
        with open(corpus / "a.txt", "a") as file:
            file.write("river\n")
        save(*args)

    monkeypatch.setattr(builder, "save_finished", append)
    assert "--corpus_dir" in refuses(builder.build, configure())
    assert os.listdir(tmp_path) == ["corpus"]


def test_failing_worker_ends_the_build_with_a_sentence(configure, tmp_path, monkeypatch):
    """The failure is put into the worker by a module that the new interpreter imports before anything else."""
    (tmp_path / "google_crc32c.py").write_text("def value(data):\n    raise ValueError('broken checksum')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RunFailed, match=r"a worker failed \(ValueError: broken checksum\)"):
        builder.build(configure(num_processes=2))
    assert not list(tmp_path.glob("out*"))


def test_progress_is_lines_in_a_log_and_a_bar_on_a_terminal(configure, monkeypatch, capsys):
    monkeypatch.setattr(process_pool, "LOG_SECONDS", 0)
    builder.build(configure())
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run([*COMMAND, *arguments(configure(overwrite=True))], stdout=subprocess.DEVNULL, stderr=theirs,
                   check=True)
    for shown in (capsys.readouterr().out, os.read(ours, 10000).decode()):
        assert "building: 100%" in shown and "B/s]" in shown and "<00:00" in shown


# --- What is refused ---

def test_text_that_is_not_utf8_is_refused_with_file_and_byte_or_dropped(corpus, configure, tmp_path, refuses):
    (tmp_path / "out").mkdir()
    dataset = {"format": tfrecord.DATASET_FORMAT, "train": [], "eval": []}
    files.write_json(str(tmp_path / "out" / "manifest.json"), dataset)
    before = content(tmp_path / "out")
    valid = b"river stone\n\nlamp\n\n" * 20
    (corpus / "d.txt").write_bytes(valid + b"gre\xe9en lamp\n")
    sentence = refuses(builder.build, configure(num_processes=2, overwrite=True))
    assert "d.txt" in sentence and f"(byte {len(valid) + 3})" in sentence and "--encoding_errors" in sentence
    assert content(tmp_path / "out") == before and sorted(os.listdir(tmp_path)) == ["corpus", "out"]
    manifest = builder.build(configure(encoding_errors="replace", num_out_files=1, overwrite=True))
    words = [[VOCABULARY[id_] for id_ in ids[:5]] for ids, _, _ in records(tmp_path / "out", manifest["train"])]
    assert ["[CLS]", "green", "lamp", "[SEP]", "[PAD]"] in words


def test_bad_input_is_refused_in_one_sentence(corpus, configure, in_process, tmp_path, monkeypatch, refuses):
    def sentence(**options):
        return refuses(lambda: builder.build(configure(**options)))

    assert "--corpus_dir=" in sentence(corpus_dir=str(tmp_path / "nowhere"))
    assert "--corpus_dir=," in sentence(corpus_dir=",")
    assert "no_vocab.txt" in sentence(vocab_file=str(tmp_path / "no_vocab.txt"))
    assert "--max_seq_length=4" in sentence(max_seq_length=4)
    assert "--num_out_files=2" in sentence(num_out_files=2, num_processes=3)
    assert "inside --corpus_dir" in sentence(output_dir=str(corpus / "out"))
    assert "/dev/null is not a directory" in sentence(output_dir="/dev/null/out")
    assert "--eval_fraction" in sentence(eval_fraction=float("nan"))
    for name, text, words in (("none", "", "contains no text"), ("blank", "\n \n\t\n\x01", "contains no documents")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(text)
        assert words in sentence(corpus_dir=str(tmp_path / name))
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=100))
    assert "free some space" in sentence()
    assert sorted(os.listdir(tmp_path)) == ["blank", "corpus", "none"]


def test_command_line_has_every_field_and_a_mistake_is_one_sentence_and_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        builder.main([builder.__file__, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"--{field.name}=" in shown for field in dataclasses.fields(builder.BuildConfig))
    result = subprocess.run([*COMMAND, "--output_dir=x"], capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1) and "--corpus_dir is missing" in result.stderr


def test_tensorflow_is_not_imported():
    code = "import sys, build_pretraining_dataset; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(builder.__file__), check=True)
