"""data/prepare_corpus.py: the same shards for any processes and after kill -9, order, duplicates, reports, refusals."""
from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import support

SCRIPT = str(support.ROOT / "data" / "prepare_corpus.py")
sys.path.insert(0, os.path.dirname(SCRIPT))

import documents  # noqa: E402
import prepare_corpus  # noqa: E402
from prepare_corpus import PrepareConfig  # noqa: E402

import process_pool  # noqa: E402
from configuration import RunFailed  # noqa: E402


class Inline(concurrent.futures.Executor):
    """Runs tasks in this process, when they are submitted."""

    def __init__(self, processes, context, initializer, arguments):
        initializer(*arguments)

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def in_process(monkeypatch):
    """No worker processes, which take half a second each to start."""
    monkeypatch.setattr(process_pool.concurrent.futures, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(process_pool, "begin_worker", lambda: None)


@pytest.fixture
def small_pieces(monkeypatch):
    """Several pieces, although they have at least a megabyte otherwise."""
    def plan(folder, sizes, source, bound=8000):
        return [[part] for name, size in sizes.items()
                for part in prepare_corpus.parts_of(folder, name, size, bound, source)]

    monkeypatch.setattr(prepare_corpus, "plan_pieces", plan)


def prose(draw, sentences=8):
    words = ["harbour", "morning", "quiet", "nobody", "boat", "basket", "brother", "waited", "wall", "fish", "letter"]
    return [f"{' '.join(draw.choices(words, k=draw.randint(5, 12))).capitalize()} {draw.randrange(9)}."
            for _ in range(sentences)]


@pytest.fixture
def text(tmp_path):
    """A folder of text: paragraphs in one file, JSON lines in another, with duplicates."""
    draw, folder = random.Random(1), tmp_path / "text"
    folder.mkdir()
    made = [" ".join(prose(draw)) for _ in range(60)]
    long = " ".join("".join(draw.choices("aeioumnrst", k=6)) for _ in range(300)).capitalize() + "."
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": part}) + "\n" for part in [
        *made, made[5], "Too short.", "1 2 3 4 5 6 7 8 9 " * 9, long, f"{long[:-1]} end."]))
    (folder / "b.txt").write_text("\n\n".join("\n".join(prose(draw)) for _ in range(100)))
    return folder


def config(text, name="out", **options):
    return PrepareConfig(**{"input_dir": str(text), "output_dir": str(text.parent / name), "num_processes": 1,
                            **options})


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder):
    return b"".join(path.read_bytes() for path in sorted((folder / "text").iterdir()))


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


# --- What is written ---


def test_documents_are_split_ordered_by_hash_and_none_is_lost(text, in_process, small_pieces):
    prepare_corpus.prepare(config(text, deduplicate="none", min_characters=0, max_digits=1, min_letters=0,
                                  min_distinct_words=0))
    written = shards(text.parent / "out").decode().split("\n\n")[:-1]
    read = [document.text for name in ("a.jsonl", "b.txt")
            for document in documents.read(documents.Range(str(text / name)), documents.Source(), name)[1]]
    assert sorted(part.replace("\n", " ") for part in written) == sorted(part.replace("\n", " ") for part in read)
    keys = [prepare_corpus.cleaning.key_of(part, 42) for part in read]
    expected = [part for _, part in sorted(zip(keys, read))]
    assert [part.replace("\n", " ") for part in written] == [part.replace("\n", " ") for part in expected]
    assert all(line.endswith(".") or line[-1].isdigit() for part in written for line in part.split("\n"))


def test_duplicates_and_bad_documents_are_left_out_and_reported(text, in_process):
    prepare_corpus.prepare(config(text))
    out = text.parent / "out"
    report = json.loads((out / "report.json").read_text())
    dropped = report["dropped"]
    assert {reason: entry["documents"] for reason, entry in dropped.items()} == {
        "short": 1, "digits": 1, "exact duplicate": 1, "near duplicate": 1}
    assert dropped["exact duplicate"]["examples"][0]["document"] == "a.jsonl#61"
    assert dropped["exact duplicate"]["examples"][0]["kept"] == "a.jsonl#6"
    assert dropped["short"]["examples"] == [{"document": "a.jsonl#62", "text": "Too short."}]
    assert dropped["near duplicate"]["examples"][0]["kept"] == "a.jsonl#64"
    assert report["counts"]["documents"] == report["counts"]["documents_read"] - 4
    assert report["layouts"] == {"jsonl": 1, "sentences": 1}
    markdown = (out / "report.md").read_text()
    assert "| short | 1 |" in markdown and "`a.jsonl#61` (stays: a.jsonl#6)" in markdown


def test_shards_have_equal_sizes_and_the_manifest_describes_them(text, in_process, monkeypatch):
    real = prepare_corpus.PrepareConfig.shard_megabytes
    small = dataclasses.replace(config(text))
    object.__setattr__(small, "shard_megabytes", 0.01)
    prepare_corpus.prepare(small)
    assert real == 64
    entries = manifest(text.parent / "out")["text"]
    sizes = [entry["bytes"] for entry in entries]
    assert len(sizes) == round(sum(sizes) / 10_000) >= 5
    assert max(sizes) - min(sizes) < 2000
    for entry in entries:
        path = text.parent / "out" / entry["file"]
        assert path.stat().st_size == entry["bytes"]
        assert path.read_text().count("\n\n") == entry["documents"]
        assert len(path.read_text().split()) and entry["sentences"] == len(path.read_text().replace(
            "\n\n", "\n").splitlines())


def test_names_and_division_of_files_do_not_change_the_text(text, in_process, tmp_path):
    prepare_corpus.prepare(config(text))
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    lines = (text / "a.jsonl").read_text().splitlines(True)
    (other / "sub" / "1.jsonl").write_text("".join(lines[:30]))
    (other / "sub" / "2.jsonl").write_text("".join(lines[30:]))
    (other / "z.txt").write_bytes((text / "b.txt").read_bytes())
    prepare_corpus.prepare(config(other, "out2"))
    assert shards(tmp_path / "out") == shards(tmp_path / "out2")


def test_large_files_are_cut_at_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "x" * number}) + "\n" for number in range(300)))
    (tmp_path / "b.txt").write_text("\n\n".join("Line one.\nLine two." for _ in range(2000)))
    for name in ("a.jsonl", "b.txt"):
        size = (tmp_path / name).stat().st_size
        parts = list(prepare_corpus.parts_of(str(tmp_path), name, size, 5000, documents.Source()))
        assert len(parts) > 3 and parts[0].begin == 0 and parts[-1].end == size
        assert all(one.end == other.begin for one, other in zip(parts, parts[1:]))
        text = (tmp_path / name).read_bytes()
        assert all(text[:part.end].endswith(b"\n") for part in parts[:-1])


def test_a_large_book_of_project_gutenberg_is_one_piece(tmp_path):
    book = tmp_path / "100.txt"
    book.write_text("*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\n" + "A line\nof prose.\n\n" * 2000)
    size = book.stat().st_size
    assert list(prepare_corpus.parts_of(str(tmp_path), "100.txt", size, 5000, documents.Source())) == [
        documents.Range("100.txt")]
    assert len(list(prepare_corpus.parts_of(str(tmp_path), "100.txt", size, 5000, documents.Source("lines")))) > 3


def test_file_names_may_be_any_bytes(text, in_process):
    (text / "a.jsonl").rename(text / "\udcff a\n.jsonl")
    prepare_corpus.prepare(config(text))
    assert "\\xff a" in (text.parent / "out" / "report.md").read_text()
    prepare_corpus.prepare(config(text))  # up to date


# --- Duplicates ---


@pytest.fixture
def corpus(tmp_path):
    """Makes a Corpus of runs from signatures and keys: int rows by run."""
    def make(*runs):
        (tmp_path / "pieces").mkdir(exist_ok=True)
        named = []
        for number, texts in enumerate(runs):
            run = prepare_corpus.Run()
            for place, text in enumerate(texts):
                run.add(f"{number}#{place}", prepare_corpus.cleaning.key_of(text, 1), text.encode() + b"\n\n",
                        prepare_corpus.cleaning.signature(text))
            run.write(str(tmp_path / "pieces"), f"{number}")
            named.append((f"{number}", len(texts)))
        return prepare_corpus.Corpus(str(tmp_path), named)

    return make


def test_the_first_of_equal_documents_stays(corpus):
    made = corpus(["a", "b", "a"], ["c", "b"], ["a"])
    pairs = prepare_corpus.exact_duplicates(made)
    assert sorted(pairs.tolist()) == [[2, 0], [4, 1], [5, 0]]


def test_near_duplicates_are_found_across_runs_and_chains_do_not_remove_what_is_not_similar(corpus):
    draw = random.Random(3)
    words = [f"w{draw.randrange(10**6)}" for _ in range(800)]

    def changed(by, number):
        return [f"{by}{place}" if place < number else word for place, word in enumerate(words)]

    other = [f"v{draw.randrange(10**6)}" for _ in range(800)]
    # Similarities: first and second 0.80, second and third 0.80, first and third 0.66; the standard deviation is 0.04.
    chain = [" ".join(part) for part in (words, changed("x", 84), [*changed("x", 84)[:-84], *other[:84]])]
    made = corpus([" ".join(other), chain[0]], [chain[1]], [chain[2], " ".join(other[:790])])
    pairs = prepare_corpus.near_duplicates(made, np.zeros(5, bool), 0.73)
    assert pairs.tolist() == [[2, 1], [4, 0]]


# --- Starting again ---


def test_a_folder_that_is_up_to_date_is_left_and_other_text_is_refused_or_replaced(text, in_process, refuses, capsys):
    prepare_corpus.prepare(config(text))
    before = content(text.parent / "out")
    os.utime(text / "b.txt", (1, 1))
    prepare_corpus.prepare(config(text))
    assert "up to date" in capsys.readouterr().out and content(text.parent / "out") == before
    assert "--overwrite" in refuses(prepare_corpus.prepare, config(text, seed=1))
    (text / "c.txt").write_text("\n".join(prose(random.Random(5))))
    assert "--overwrite" in refuses(prepare_corpus.prepare, config(text))
    prepare_corpus.prepare(config(text, overwrite=True))
    assert manifest(text.parent / "out")["counts"]["documents"] == json.loads(before["manifest.json"])[
        "counts"]["documents"] + 1
    for damaged in ("[" * 100_000, json.dumps({"input": 3}), json.dumps({"text": [{"file": []}]})):
        (text.parent / "damaged").mkdir(exist_ok=True)
        (text.parent / "damaged" / "manifest.json").write_text(damaged)
        assert "manifest.json" in refuses(prepare_corpus.prepare, config(text, "damaged", overwrite=True))
    (text.parent / "out" / "notes").write_text("x")
    assert "notes" in refuses(prepare_corpus.prepare, config(text, seed=3, overwrite=True))
    (text.parent / "mine").mkdir()
    (text.parent / "mine" / "notes").write_text("x")
    assert "--output_dir" in refuses(prepare_corpus.prepare, config(text, "mine", overwrite=True))


def test_finished_pieces_are_kept_and_damaged_ones_done_again(text, in_process, small_pieces, monkeypatch):
    prepare_corpus.prepare(config(text))
    expected, real, calls = content(text.parent / "out"), prepare_corpus.read_piece, []

    def fail_at_the_third(number):
        calls.append(number)
        if len(calls) == 3:
            raise RuntimeError("the third piece")
        real(number)

    monkeypatch.setattr(prepare_corpus, "read_piece", fail_at_the_third)
    with pytest.raises(RunFailed, match="the third piece"):
        prepare_corpus.prepare(config(text, "again"))
    assert not (text.parent / "again").exists()
    pieces = text.parent / ".again.partial" / "pieces"
    done = sorted(path.name for path in pieces.glob("*.json"))
    assert "000002.json" not in done and len(done) == len(calls) - 1 > 3
    damaged = pieces / "000001-0000.docs"
    damaged.write_bytes(damaged.read_bytes().replace(b"Harbour", b"Harbor "))
    calls[:] = [None] * 3
    prepare_corpus.prepare(config(text, "again"))
    assert calls[3:] == [1, 2]
    assert content(text.parent / "again") == expected and not pieces.exists()


def test_changed_options_start_again(text, in_process, monkeypatch, capsys):
    def fail(number):
        raise RuntimeError("stopped")

    monkeypatch.setattr(prepare_corpus, "write_shard", fail)
    with pytest.raises(RunFailed):
        prepare_corpus.prepare(config(text))
    monkeypatch.undo()
    monkeypatch.setattr(process_pool.concurrent.futures, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(process_pool, "begin_worker", lambda: None)
    prepare_corpus.prepare(config(text, seed=7))
    assert "starting again" in capsys.readouterr().out
    assert manifest(text.parent / "out")["options"]["seed"] == 7


def test_kill_9_leaves_what_the_next_start_continues(text, tmp_path):
    """With processes: killed while it reads, then finished by two processes; the shards are those of one process."""
    with open(text / "big.txt", "w") as file:
        draw = random.Random(9)
        for _ in range(1500):
            file.write(" ".join(prose(draw, 30)) + "\n")
    words = [sys.executable, SCRIPT, f"--input_dir={text}", "--min_distinct_words=0", "--deduplicate=exact"]
    out = tmp_path / "killed"
    running = subprocess.Popen([*words, f"--output_dir={out}", "--num_processes=2"], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".killed.partial/pieces/*.json")) and running.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and not out.exists()
    subprocess.run([*words, f"--output_dir={out}", "--num_processes=2"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*words, f"--output_dir={tmp_path / 'one'}", "--num_processes=1"], check=True,
                   stdout=subprocess.DEVNULL)
    assert content(out) == content(tmp_path / "one")


def end_at(rename, *words):
    """Prepares a corpus in this process, which ends at its `rename`-th rename as by kill -9."""
    left, real = [rename], os.rename

    def counted(*args):
        left[0] -= 1
        if not left[0]:
            os._exit(9)
        real(*args)

    os.rename, process_pool.begin_worker = counted, lambda: None
    process_pool.concurrent.futures.ProcessPoolExecutor = Inline
    prepare_corpus.main([SCRIPT, *words])


@pytest.mark.parametrize("rename, there", [
    (1, {"out"}),  # before the only shard is moved to the new folder
    (2, {"out"}),  # before the old folder is moved away
    (3, set())])  # before the new one takes its place
def test_kill_9_while_the_result_is_put_in_its_place_loses_nothing(rename, there, text, tmp_path, in_process):
    prepare_corpus.prepare(config(text, seed=7))
    words = [f"--input_dir={text}", f"--output_dir={tmp_path / 'out'}", "--num_processes=1", "--overwrite"]
    ended = subprocess.run([sys.executable, "-c", f"import test_prepare_corpus as t; t.end_at({rename}, *{words})"],
                           cwd=os.path.dirname(__file__), env={**os.environ, "PYTHONPATH": str(support.ROOT)})
    assert ended.returncode == 9
    assert set(os.listdir(tmp_path)) - {"out.lock"} == {"text", ".out.partial", *there}
    prepare_corpus.prepare(config(text, overwrite=True))
    assert set(os.listdir(tmp_path)) - {"out.lock"} == {"text", "out"}
    prepare_corpus.prepare(config(text, "whole"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# --- Refusals ---


def test_calls_that_cannot_work_are_refused(text, tmp_path, refuses, in_process, monkeypatch):
    prepare = prepare_corpus.prepare
    assert "--input_dir" in refuses(prepare, config(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "no text" in refuses(prepare, config(tmp_path / "empty"))
    (tmp_path / "empty" / "a.pdf").write_text("x")
    assert "a.pdf" in refuses(prepare, config(tmp_path / "empty"))
    assert "--output_dir" in refuses(prepare, config(text, "text/out"))
    assert "--language" in refuses(config, text, language="../x")
    assert "--encoding" in refuses(config, text, encoding="klingon")
    assert "min_characters" in refuses(config, text, min_characters=-1)
    assert "loosen" in refuses(prepare, config(text, min_characters=10**6))
    (text / "broken.jsonl").write_text("{\n")
    assert "broken.jsonl, line 1" in refuses(prepare, config(text))
    monkeypatch.setattr(prepare_corpus.importlib.util, "find_spec", lambda name: None)
    text_of_refusal = refuses(prepare, config(text, filter_language=True))
    assert "sentencex and rensa and py3langid" in text_of_refusal and "requirements.txt" in text_of_refusal
    monkeypatch.setattr(prepare_corpus.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(prepare_corpus.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    assert "GB free" in refuses(prepare, config(text, "new"))


def test_several_folders_are_read_as_one(text, tmp_path, in_process, refuses):
    prepare_corpus.prepare(config(text))
    for name in ("a.jsonl", "b.txt"):
        (tmp_path / "parts" / name).mkdir(parents=True)
        (text / name).rename(tmp_path / "parts" / name / name)
    folders = [str(tmp_path / "parts" / name) for name in ("a.jsonl", "b.txt")]
    prepare_corpus.prepare(config(text, "several", input_dir=",".join(folders)))
    assert shards(tmp_path / "several") == shards(tmp_path / "out")
    assert [entry["file"] for entry in manifest(tmp_path / "several")["input"]] == ["a.jsonl/a.jsonl", "b.txt/b.txt"]
    assert "none" in refuses(prepare_corpus.prepare, config(text, "x", input_dir=f"{folders[0]},none"))
