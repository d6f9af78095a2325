"""data/download.py: Wikipedia, Gutenberg and questions from a local mirror; what is there is not downloaded again."""
from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest
import support
import web_server
import wiki_dump
from web_server import Fault

SCRIPT = str(support.ROOT / "data" / "download.py")
sys.path.insert(0, os.path.dirname(SCRIPT))

import download  # noqa: E402
import downloads  # noqa: E402
import question_sets  # noqa: E402
import wikipedia  # noqa: E402
from download import DownloadConfig  # noqa: E402

PAGES = wiki_dump.make_pages(30, "de")


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "PIECE_BYTES", 1000)
    waits = []
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    with web_server.serving() as running:
        running.waits = waits
        yield running


@pytest.fixture
def run(server, tmp_path):
    def run(dataset, folder="out", mirror=None, **options):
        return download.download(DownloadConfig(dataset=dataset, output_dir=str(tmp_path / folder),
                                                mirror=mirror or server.url, **options))

    return run


# --- Wikipedia ---

NAME = f"dewiki-{wiki_dump.DATE}-pages-articles-multistream.xml.bz2"


def test_the_newest_dump_is_downloaded_verified_and_read(server, run, tmp_path):
    server.content.update(wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de"))
    manifest = run("wikipedia", language="de")
    path = tmp_path / "out" / NAME
    assert path.read_bytes() == server.content[f"/dewiki/{wiki_dump.DATE}/{NAME}"]
    assert manifest["date"] == wiki_dump.DATE and "sha1" in manifest["files"][NAME]["verified_by"]
    assert manifest == json.loads((tmp_path / "out/manifest.json").read_text())
    titles = [document.name for document in wikipedia.read_dump(str(path), processes=1)]
    assert titles == [page.title for page in PAGES if page.paragraphs]
    server.requests.clear()
    assert run("wikipedia", language="de")["files"] == manifest["files"]
    assert run("wikipedia", language="de", offline=True)["files"] == manifest["files"]
    assert not server.requests


def test_a_dump_that_is_not_complete_yet_is_passed_over(server, run, tmp_path):
    server.content.update(wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de"))
    server.content["/dewiki/"] += b'<a href="20250101/"></a><a href="/dewiki/20240601/"></a><a href="20230101/"></a>'
    server.content["/dewiki/20240601/dewiki-20240601-sha1sums.txt"] = b"0" * 40 + b"  dewiki-20240601-page.sql.gz\n"
    assert run("wikipedia", language="de")["date"] == wiki_dump.DATE


def test_what_was_begun_is_resumed_although_a_newer_dump_has_appeared(server, run, tmp_path, refuses):
    server.content.update(wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de"))
    place = f"/dewiki/{wiki_dump.DATE}/{NAME}"
    server.always[place] = Fault(503)
    server.faults[place] = [Fault(cut=5000)]
    refuses(run, "wikipedia", language="de")
    server.always.clear()
    server.content["/dewiki/"] += b'<a href="20250101/"></a>'
    server.requests.clear()
    assert run("wikipedia", language="de")["date"] == wiki_dump.DATE
    assert [(path, headers["Range"]) for path, headers in server.requests] == [(place, "bytes=5000-")]
    assert "20250101" in refuses(run, "wikipedia", language="de", date="20250101")


def test_the_parts_of_a_large_dump_are_downloaded(server, run, tmp_path, refuses):
    server.content.update(wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de", parts=3))
    manifest = run("wikipedia", language="de", date=wiki_dump.DATE, num_parts=2)
    stem = f"dewiki-{wiki_dump.DATE}-pages-articles-multistream"
    assert sorted(manifest["files"]) == [f"{stem}1-p1p10.xml.bz2", f"{stem}2-p11p20.xml.bz2"]
    assert len(run("wikipedia", language="de")["files"]) == 3  # and now the rest
    found = [document.name for name in sorted(os.listdir(tmp_path / "out")) if name.endswith(".bz2")
             for document in wikipedia.read_dump(str(tmp_path / "out" / name), processes=1)]
    assert found == [page.title for page in PAGES if page.paragraphs]


def test_a_corrupt_mirror_is_left_for_the_next_one(server, run, tmp_path):
    content = wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de")
    server.content.update({f"/a{path}": text for path, text in content.items()})
    server.content.update({f"/b{path}": text for path, text in content.items()})
    server.always[f"/a/dewiki/{wiki_dump.DATE}/{NAME}"] = Fault(flip=True)
    manifest = run("wikipedia", language="de", mirror=f"{server.url}/a/,{server.url}/b")
    assert manifest["files"][NAME]["url"].startswith(f"{server.url}/b/")


def test_md5_sums_serve_where_sha1_sums_are_missing(server, run, tmp_path):
    server.content.update(wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de"))
    del server.content[f"/dewiki/{wiki_dump.DATE}/dewiki-{wiki_dump.DATE}-sha1sums.txt"]
    assert "md5" in run("wikipedia", language="de")["files"][NAME]["verified_by"]


def test_unknown_dumps_are_refused(server, run, tmp_path, refuses):
    server.content.update(wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de"))
    assert "--language" in refuses(run, "wikipedia", language="fr")
    assert "20200101" in refuses(run, "wikipedia", language="de", date="20200101")
    assert "--num_parts" in refuses(run, "wikipedia", language="de", num_parts=1)
    assert "--offline" in refuses(run, "wikipedia", language="de", offline=True)
    run("wikipedia", language="de")
    assert "choose another folder" in refuses(run, "wikipedia", language="fr")
    assert "choose another folder" in refuses(run, "gutenberg", books="1")


def test_a_stopped_download_is_resumed(server, run, tmp_path):
    server.content.update(wiki_dump.write_mirror(tmp_path / "mirror", PAGES, "de"))
    place = f"/dewiki/{wiki_dump.DATE}/{NAME}"
    server.faults[place] = [Fault(stall=4000)]
    command = [sys.executable, SCRIPT, "--dataset=wikipedia", "--language=de", f"--output_dir={tmp_path / 'out'}",
               f"--mirror={server.url}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    support.wait_for(lambda: place in server.paths())
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 75 and "SIGTERM" in errors and len(errors.splitlines()) == 1, (output, errors)
    run("wikipedia", language="de")
    assert (tmp_path / "out" / NAME).read_bytes() == server.content[place]


# --- Gutenberg ---

@pytest.fixture
def books(server):
    server.content.update({"/cache/epub/1342/pg1342.txt": "\ufeffPride and Prejudice.\r\n".encode(),
                           "/8/84/84-0.txt": "Frankenstein; or, “The Modern Prometheus”\n".encode(),
                           "/0/8/8-8.txt": "Caf\xe9 \x93quoted\x94\n".encode("latin-1"),
                           "/1/2/3/4/12345/12345.txt": b"ASCII\n"})


def test_books_are_downloaded_by_number_as_utf_8(server, books, run, tmp_path):
    (tmp_path / "list").write_text("# novels\n84  # Frankenstein\n\n8\n1342\n")
    manifest = run("gutenberg", books="1342, 12345", book_list=str(tmp_path / "list"))
    folder = tmp_path / "out"
    assert sorted(os.listdir(folder)) == ["12345.txt", "1342.txt", "8.txt", "84.txt", "manifest.json"]
    assert (folder / "1342.txt").read_bytes() == b"Pride and Prejudice.\r\n"
    assert (folder / "8.txt").read_text(encoding="utf-8") == "Café “quoted”\n"
    assert server.waits == [download.PAUSE_SECONDS] * 3
    assert manifest["files"]["84.txt"]["url"] == server.url + "/8/84/84-0.txt"
    server.requests.clear()
    (folder / "84.txt").unlink()
    (folder / "8.txt").write_bytes(b"damaged")
    run("gutenberg", books="1342,84,8,12345")
    assert (folder / "8.txt").read_text(encoding="utf-8") == "Café “quoted”\n"
    assert not any("1342" in path or "12345" in path for path in server.paths())


def test_a_missing_book_does_not_stop_the_others(server, books, run, tmp_path, refuses):
    server.content["/cache/epub/9/pg9.txt"] = b"<!DOCTYPE html>"
    assert " 77" in refuses(run, "gutenberg", books="77,84")
    assert (tmp_path / "out" / "84.txt").exists()
    assert "9.txt" in refuses(run, "gutenberg", books="9")
    assert "85.txt" in refuses(run, "gutenberg", books="84,85", offline=True)
    run("gutenberg", books="84", offline=True)


@pytest.mark.parametrize("text", ["x", "1342.txt", "-5", "0", "99999999"])
def test_what_is_no_number_of_a_book_is_refused(run, refuses, tmp_path, text):
    assert "--books" in refuses(run, "gutenberg", books=f"1,{text}")
    (tmp_path / "list").write_text(text)
    assert str(tmp_path / "list") in refuses(run, "gutenberg", book_list=str(tmp_path / "list"))
    assert "--book_list" in refuses(run, "gutenberg", book_list=str(tmp_path / "none"))
    (tmp_path / "list").write_text("# none")
    refuses(run, "gutenberg", book_list=str(tmp_path / "list"))


# --- Questions ---

def squad(*questions, context="Anna lives in Rome. Rome is old.", **extra):
    """(id, answer, start) of each question."""
    entries = [{"id": identity, "question": "Where?", "answers": [{"text": text, "answer_start": start}], **extra}
               for identity, text, start in questions]
    return json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": [
        {"context": context, "qas": entries}]}]}).encode()


def answers(path):
    data = json.loads(path.read_text(encoding="utf-8"))
    return data["version"], {entry["id"]: [(answer["text"], answer["answer_start"]) for answer in entry["answers"]]
                             for article in data["data"] for paragraph in article["paragraphs"]
                             for entry in paragraph["qas"]}


@pytest.fixture
def small_squad(server, monkeypatch):
    """SQuAD's four files, smaller ones."""
    entry = question_sets.QUESTION_SETS["squad"]
    sources = {}
    for name in entry.files:
        server.content[f"/{name}"] = content = squad((name, "Rome", 14))
        sources[name] = entry.files[name]._replace(size=len(content),
                                                   digest="sha256:" + hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(question_sets.QUESTION_SETS, "squad", entry._replace(files=sources))


def test_squad_is_downloaded_as_it_is(server, small_squad, run, tmp_path, refuses):
    manifest = run("squad")
    assert sorted(manifest["files"]) == ["dev-v1.1.json", "dev-v2.0.json", "train-v1.1.json", "train-v2.0.json"]
    assert (tmp_path / "out/train-v2.0.json").read_bytes() == server.content["/train-v2.0.json"]
    server.requests.clear()
    run("squad", offline=True)
    assert not server.requests
    (tmp_path / "out/dev-v1.1.json").unlink()
    assert "dev-v1.1.json" in refuses(run, "squad", offline=True)


def test_files_of_others_are_not_replaced(server, small_squad, run, tmp_path, refuses):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/dev-v1.1.json").write_bytes(squad(("mine", "Rome", 14)))
    before = (tmp_path / "out/dev-v1.1.json").read_bytes()
    assert "dev-v1.1.json" in refuses(run, "squad")
    (tmp_path / "out/manifest.json").unlink()
    assert "did not write it" in refuses(run, "cmrc2018")
    assert (tmp_path / "out/dev-v1.1.json").read_bytes() == before


def test_an_error_page_is_not_taken_for_questions(server, run, tmp_path, refuses):
    server.content["/cmrc2018_train.json"] = b"<html>Please log in</html>"
    assert "not a SQuAD file" in refuses(run, "cmrc2018")
    assert not (tmp_path / "out/train-v1.1.json").exists()


def test_a_file_without_a_published_checksum_is_compared_with_the_first_download(server, run, tmp_path, refuses):
    server.content.update({"/cmrc2018_train.json": squad(("a", "Rome", 14)),
                           "/cmrc2018_dev.json": squad(("b", "Rome", 14))})
    manifest = run("cmrc2018")
    entry = manifest["files"]["original/cmrc2018_train.json"]
    assert entry["sha256"] == hashlib.sha256(server.content["/cmrc2018_train.json"]).hexdigest()
    assert "first download" in entry["verified_by"]
    original = tmp_path / "out/original/cmrc2018_train.json"
    original.write_bytes(original.read_bytes().replace(b"Rome", b"Roma"))
    run("cmrc2018")
    assert original.read_bytes() == server.content["/cmrc2018_train.json"]
    original.unlink()
    server.content["/cmrc2018_train.json"] = squad(("c", "Rome", 14))
    assert "checksum" in refuses(run, "cmrc2018")


def test_answers_are_moved_to_their_text_and_questions_without_one_are_dropped(server, run, tmp_path):
    server.content["/arcd-train.json"] = squad(("right", "Rome", 14), ("near", "Rome", 19), ("far", "Rome", -1),
                                               ("none", "Paris", 0), ("right", "old", 28))
    server.content["/arcd-test.json"] = squad(("b", "Anna", 0))
    manifest = run("arcd")
    assert answers(tmp_path / "out/train-v1.1.json") == ("1.1", {"right": [("Rome", 14)], "near": [("Rome", 20)],
                                                                 "far": [("Rome", 14)]})
    entry = manifest["files"]["train-v1.1.json"]
    assert (entry["questions"], entry["moved_answers"], entry["dropped_questions"]) == (3, 3, 2)


def test_questions_of_an_archive_and_one_language_are_read(server, run, tmp_path, monkeypatch, refuses):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("MLQA_V1/test/test-context-de-question-de.json", squad(("q", "Rome", 14)))
    server.content["/MLQA_V1.zip"] = buffer.getvalue()
    entry = question_sets.QUESTION_SETS["mlqa"]
    source = entry.files["dev-v1.1.json"]._replace(digest="")
    monkeypatch.setitem(question_sets.QUESTION_SETS, "mlqa", entry._replace(files={"dev-v1.1.json": source}))
    run("mlqa", language="de")
    assert answers(tmp_path / "out/dev-v1.1.json") == ("1.1", {"q": [("Rome", 14)]})
    assert sorted(os.listdir(tmp_path / "out")) == ["dev-v1.1.json", "manifest.json", "original"]
    assert "test-context-vi" in refuses(run, "mlqa", folder="vi", language="vi")
    for split in ("train", "dev"):
        server.content[f"/tydiqa-goldp-v1.1-{split}.json"] = squad(("finnish-1", "Rome", 14), ("arabic-1", "old", 28))
    run("tydiqa", folder="fi", language="fi")
    assert answers(tmp_path / "fi/train-v1.1.json")[1] == {"finnish-1": [("Rome", 14)]}


def test_unanswerable_questions_become_squad_2(server, run, tmp_path):
    data = json.loads(squad(("x", "Rome", 14)))
    entries = data["data"][0]["paragraphs"][0]["qas"]
    entries[0]["guid"] = entries[0].pop("id")
    entries.append({"guid": "y", "question": "Who?", "answers": [], "is_impossible": True,
                    "plausible_answers": [{"text": "Anna", "answer_start": 0}]})
    for split in ("train", "dev"):
        server.content[f"/klue-mrc-v1.1_{split}.json"] = json.dumps(data).encode()
    run("klue-mrc")
    assert answers(tmp_path / "out/dev-v2.0.json") == ("v2.0", {"x": [("Rome", 14)], "y": []})


def test_rows_of_parquet_files_become_articles():
    rows = [{"id": number, "context": "Rome is old.", "question": "?",
             "answers": {"text": [text], "answer_start": [at]}}
            for number, text, at in ((1, "Rome", 0), (2, "old", 8))]
    content = question_sets.convert(question_sets.articles_of(rows), "1.1", "rows").content
    (paragraph,) = content["data"][0]["paragraphs"]
    assert [entry["id"] for entry in paragraph["qas"]] == ["1", "2"]


def test_without_pyarrow_parquet_files_are_refused_by_name(server, run, refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    server.content["/train.parquet"] = b"PAR1"
    assert "pyarrow" in refuses(run, "germanquad")


def test_a_damaged_parquet_file_is_refused(server, run, refuses):
    pytest.importorskip("pyarrow")
    server.content["/train.parquet"] = server.content["/0000.parquet"] = b"PAR1 is not all of it"
    assert "damaged" in refuses(run, "germanquad")


def test_an_empty_folder_is_not_left_where_nothing_was_downloaded(run, refuses, tmp_path):
    refuses(run, "cmrc2018")
    refuses(run, "cmrc2018", offline=True)
    assert not (tmp_path / "out").exists()


def test_questions_of_another_structure_are_refused(server, run, refuses):
    for content in ({"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}, {"data": [{"paragraphs": []}]}):
        server.content["/cmrc2018_train.json"] = json.dumps(content).encode()
        assert "cmrc2018_train.json" in refuses(run, "cmrc2018", folder=str(len(content["data"][0]["paragraphs"])))


def test_every_set_has_an_address_a_license_and_names_that_the_wrapper_reads():
    names = {f"{split}-v{version}.json" for split in ("train", "dev") for version in ("1.1", "2.0")}
    for entry in question_sets.QUESTION_SETS.values():
        assert entry.license and entry.page.startswith("https://") and set(entry.files) <= names
        for source in entry.files.values():
            digests = [source.digest, *(source.digests or {}).values()]
            assert source.url.startswith("https://")
            assert all(not digest or digest.startswith("sha256:") and len(digest) == 71 for digest in digests)
            assert set(source.digests or ()) <= set(entry.languages)
        downloaded = [source.file(entry.languages[0]) for source in entry.files.values()]
        assert len(set(downloaded)) == len(downloaded)


# --- Options ---

@pytest.mark.parametrize("options, word", [
    (dict(dataset="bookcorpus"), "prepare_corpus"), (dict(dataset="wikipedia"), "--language"),
    (dict(dataset="wikipedia", language="../x"), "--language"), (dict(dataset="squad", language="de"), "--language=de"),
    (dict(dataset="xquad"), "--language"), (dict(dataset="xquad", language="xx"), "--language=xx"),
    (dict(dataset="wikipedia", language="de", date="2024"), "--date"),
    (dict(dataset="squad", date="20240101"), "--date"),
    (dict(dataset="gutenberg"), "--books"), (dict(dataset="gutenberg", books="1", language="de"), "--language"),
    (dict(dataset="squad", books="1"), "--books"), (dict(dataset="squad", num_parts=1), "--num_parts"),
    (dict(dataset="squad", mirror="ftp://x"), "--mirror"), (dict(dataset="other"), "--dataset"), (dict(), "--dataset")])
def test_invalid_options_are_refused(refuses, options, word):
    assert word in refuses(DownloadConfig, output_dir="out", **options)
