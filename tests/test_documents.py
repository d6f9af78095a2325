"""data/documents.py: formats, encodings, layouts of text files, and what is refused by file, line and byte."""
from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import os
import random
import sys

import pytest
import support

sys.path.insert(0, str(support.ROOT / "data"))

import documents  # noqa: E402
from documents import Layout, Range, Source, detect, find, read  # noqa: E402

SENTENCES = ["The cat sat on the mat.", "It was warm.", "A dog came in.", "The cat left at once."]


def texts(path, source=None, part=None):
    return [document.text for document in read(part or Range(str(path)), source or Source(), path.name)[1]]


def layout_of(path):
    return read(Range(str(path)), Source(), path.name)[0]


@pytest.fixture
def write(tmp_path):
    def run(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return run


def book(seed=1, paragraphs=120):
    """Hard-wrapped paragraphs of prose, as in books, with chapters."""
    draw, lines = random.Random(seed), []
    for number in range(paragraphs):
        if number % 40 == 0:
            lines += ["", "", f"CHAPTER {number // 40 + 1}", "", ""]
        words = " ".join(draw.choice(["the", "old", "house", "stood", "there", "quietly,", "and", "nobody", "came"])
                         for _ in range(draw.randint(20, 120))).capitalize() + "."
        line = ""
        for word in words.split():
            if len(line) + len(word) > 70:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        lines += [line, ""]
    return "\n".join(lines) + "\n"


# --- Formats ---


@pytest.mark.parametrize("suffix, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress),
                                          (".bz2", bz2.compress)])
def test_text_and_jsonl_are_read_through_compression(write, suffix, pack):
    text = write(f"a.txt{suffix}", pack("\n".join([*SENTENCES[:2], "", *SENTENCES[2:]]).encode()))
    assert texts(text) == ["\n".join(SENTENCES[:2]), "\n".join(SENTENCES[2:])]
    lines = write(f"b.jsonl{suffix}", pack(b'{"text": "One.\\nTwo."}\n\n{"text": "Three.", "id": 1}\n'))
    assert texts(lines) == ["One.\nTwo.", "Three."]


def test_zst_is_read_in_several_frames_and_names_its_library_where_that_is_missing(write, monkeypatch, refuses):
    zstandard = pytest.importorskip("zstandard")
    packed = b"".join(zstandard.compress(f"{line}\n".encode()) for line in SENTENCES)
    path = write("a.txt.zst", packed)
    assert texts(path) == ["\n".join(SENTENCES)]
    assert "a.txt.zst" in refuses(texts, write("a.txt.zst", b"no zstandard at all"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "pip install zstandard" in refuses(texts, path)


def test_parquet_and_arrow_are_read_or_name_their_library(write, tmp_path, refuses):
    path = write("a.parquet", b"PAR1 and nothing else")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        assert "a.parquet" in refuses(texts, path) and "pip install pyarrow" in refuses(texts, path)
        return
    assert "a.parquet" in refuses(texts, path)
    table = pyarrow.table({"text": ["One.", None, "Two."], "label": [1, 2, 3]})
    pyarrow.parquet.write_table(table, path)
    with pyarrow.OSFile(str(tmp_path / "data-0.arrow"), "wb") as file:
        with pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    assert texts(path) == texts(tmp_path / "data-0.arrow") == ["One.", "Two."]
    assert "--text_key" in refuses(texts, path, Source(text_key="body"))
    assert "--text_key" in refuses(texts, path, Source(text_key="label"))
    content = (tmp_path / "data-0.arrow").read_bytes()
    offset = content.index(b"One.Two.")
    write("data-0.arrow", content[:offset - 20] + b"\x7f" * 20 + content[offset:])
    assert "data-0.arrow" in refuses(texts, tmp_path / "data-0.arrow")


def test_files_are_found_in_subfolders_once_and_in_the_order_of_bytes(write, tmp_path):
    for name in ("b/x.txt", "a.jsonl.gz", "Z.txt", "b/wiki_00", ".hidden.txt", ".git/y.txt", "notes.pdf",
                 "set/data-00000-of-00001.arrow", "set/dataset_info.json", "set/state.json", "set/cache-1f.arrow"):
        write(name, "text")
    write("empty.txt", "")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "b")
    known, unknown = find(str(tmp_path))
    assert unknown == ["notes.pdf"]
    assert sorted(os.path.basename(name) for name in known) == [
        "Z.txt", "a.jsonl.gz", "data-00000-of-00001.arrow", "wiki_00", "x.txt"]
    assert known == sorted(known)


def test_content_is_hashed_again_only_where_size_or_time_differ(write, tmp_path):
    path = write("a.txt", "one")
    first = documents.content(str(tmp_path), ["a.txt"])
    forged = [{**first[0], "blake2b": "of before"}]
    assert documents.content(str(tmp_path), ["a.txt"], forged)[0]["blake2b"] == "of before"
    os.utime(path, (1, 1))
    assert documents.content(str(tmp_path), ["a.txt"], forged)[0]["blake2b"] == first[0]["blake2b"]


# --- Bytes ---


@pytest.mark.parametrize("encode", [lambda text: codecs.BOM_UTF8 + text.encode(), lambda text: text.encode("utf-16"),
                                    lambda text: text.replace("\n", "\r\n").encode(),
                                    lambda text: text.replace("\n", "\r").encode()])
def test_byte_order_marks_and_line_ends_do_not_reach_the_text(write, encode):
    assert texts(write("a.txt", encode("Überall Käse.\nUnd Brot.\n"))) == ["Überall Käse.\nUnd Brot."]


def test_other_encodings_are_refused_by_file_and_byte_or_named(write, refuses):
    path = write("a.txt", "Plain text here.\nCafé au lait.\n".encode("cp1252"))
    text = refuses(texts, path)
    assert "a.txt" in text and "byte 20" in text and "--encoding" in text
    assert texts(path, Source(encoding="cp1252")) == ["Plain text here.\nCafé au lait."]
    assert texts(path, Source(encoding_errors="replace")) == ["Plain text here.\nCaf au lait."]


def test_text_is_composed_and_cleaned_of_characters_that_are_not_seen():
    assert documents.clean("\ufeffCafe\u0301 \t\u00a0au\u00ad lait\x00\u200b  ") == "Café au lait"


@pytest.mark.parametrize("line, word", [("not JSON", "line 2"), ('{"body": "x"}', "--text_key"), ("[1]", "line 2"),
                                        ('{"text": 3}', "line 2"), ("[" * 100_000, "line 2")])
def test_a_bad_line_of_json_is_refused_by_file_and_line(write, refuses, line, word):
    path = write("a.jsonl", f'{{"text": "Fine."}}\n{line}\n')
    text = refuses(texts, path)
    assert "a.jsonl, line 2" in text and word in text


@pytest.mark.parametrize("suffix, content", [
    (".gz", gzip.compress(b"text " * 1000, mtime=0)[:40]), (".gz", b"no gzip"),
    (".xz", lzma.compress(b"text " * 1000)[:40]),
    (".bz2", bz2.compress(b"text " * 1000)[:30]),
    (".gz", gzip.compress(bytes(range(97, 123)) * 9, mtime=0)[:10] + b"\x07" * 50)])
def test_damaged_compression_is_refused(write, refuses, suffix, content):
    assert f"a.txt{suffix}" in refuses(texts, write(f"a.txt{suffix}", content))


def test_a_line_without_end_is_refused(write, refuses, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_LINE", 1000)
    assert "byte 6" in refuses(texts, write("a.txt", "Line.\n" + 2000 * "x"))


# --- Layouts ---


def test_hard_wrapped_lines_become_paragraphs_and_books_documents_of_chapters(write):
    path = write("book.txt", book())
    assert layout_of(path) == "blank_lines"
    found = texts(path)
    paragraphs = [paragraph for text in found for paragraph in text.split("\n")]
    assert len(paragraphs) == 123 and all(len(paragraph) > 70 or "CHAPTER" in paragraph for paragraph in paragraphs)
    assert " ".join(paragraphs).split() == book().split()
    assert [text.split("\n")[0] for text in found] == ["CHAPTER 1", "CHAPTER 2", "CHAPTER 3"]


def test_one_sentence_per_line_passes_through_unchanged(write):
    draw = random.Random(2)
    content = [["  ".join(draw.choices(SENTENCES, k=1)) for _ in range(draw.randint(1, 9))] for _ in range(30)]
    path = write("a.txt", "\n\n".join("\n".join(document) for document in content))
    assert layout_of(path) == "sentences"
    assert texts(path) == ["\n".join(document) for document in content]


def test_one_paragraph_per_line_is_recognised_and_blank_lines_separate_documents_where_they_are_long(write):
    paragraph = " ".join(SENTENCES)
    path = write("a.txt", "\n".join([paragraph] * 3) + "\n\n" + "\n".join([paragraph] * 2))
    assert layout_of(path) == "lines"
    assert texts(path) == ["\n".join([paragraph] * 5)]  # 300 characters are a section, not a document
    long = write("b.txt", "\n\n".join("\n".join([paragraph] * 20) for _ in range(3)))
    assert texts(long) == ["\n".join([paragraph] * 20)] * 3


def test_a_long_file_is_cut_into_documents_of_similar_size(write):
    path = write("a.txt", "\n".join([" ".join(SENTENCES * 5)] * 500))
    sizes = [len(text) for text in texts(path)]
    assert len(sizes) > 5 and max(sizes) <= documents.DOCUMENT_CHARACTERS + 1000
    assert min(sizes[:-1]) > documents.DOCUMENT_CHARACTERS / 2


def test_articles_of_wikitext_are_documents(write):
    article = " = {} = \n \n One sentence . And one more . \n \n = = Part = = \n \n Third one . And more . \n \n"
    found = texts(write("wiki.txt", article.format("Crab") + article.format("Boat")))
    assert [text.split("\n")[0] for text in found] == ["= Crab =", "= Boat ="]


def test_chinese_lines_are_joined_without_spaces_and_korean_ones_with():
    assert documents.join_wrapped(["吾輩は", "猫である。"]) == "吾輩は猫である。"
    assert documents.join_wrapped(["안녕", "하세요"]) == "안녕 하세요"
    assert documents.join_wrapped(["a well-", "known man--", "or not"]) == "a well-known man--or not"


def test_the_layout_can_be_stated(write):
    path = write("a.txt", "First line\nsecond line.\n\nThird line.\n")
    for paragraphs, expected in (("sentences", ["First line\nsecond line.", "Third line."]),
                                 ("lines", ["First line\nsecond line.\nThird line."]),
                                 ("blank_lines", ["First line second line.\nThird line."])):
        assert texts(path, Source(paragraphs=paragraphs)) == expected


def test_halves_of_characters_from_json_are_dropped(write):
    lines = "\\n".join(f"Line {number} \\ud800here." for number in range(9))
    assert "".join(texts(write("a.jsonl", f'{{"text": "{lines}"}}\n'))).encode().count(b"here") == 9


def test_wrapped_text_in_json_is_joined_too(write):
    path = write("a.jsonl", json.dumps({"text": book(paragraphs=5)}) + "\n")
    (text,) = texts(path)
    assert text.count("\n") == 5


@pytest.mark.parametrize("lines, expected", [
    (["他说：你好。", "他走了。"] * 9, "sentences"), (["他走了。她也走了。他们都走了。"] * 9, "lines"),
    ([], "lines"), (["A list", "of words", ""] * 9, "blank_lines"), (["أين أنت؟", "أنا هنا."] * 9, "sentences")])
def test_layouts_of_other_scripts(lines, expected):
    assert detect(lines).paragraphs == expected


def test_parts_of_a_file_give_the_documents_of_the_whole(write):
    content = "\n\n".join("\n".join(SENTENCES) for _ in range(50))
    path = write("a.txt", content)
    cut = content.index("\n\n", 1000) + 2
    parts = texts(path, part=Range(str(path), 0, cut)) + texts(path, part=Range(str(path), cut, len(content)))
    assert parts == texts(path)


def test_detected_layouts_keep_a_stated_one():
    assert detect(["x"], "sentences") == Layout("sentences", True)


def test_books_of_project_gutenberg_are_recognized_and_cleaned(write):
    licence = "Redistribution is subject to the trademark license.\n" * 30
    path = write("1342.txt", "The Project Gutenberg eBook of A House\n\n*** START OF THE PROJECT GUTENBERG EBOOK A "
                 f"HOUSE ***\n\n{book()}\n\n*** END OF THE PROJECT GUTENBERG EBOOK A HOUSE ***\n\n{licence}")
    assert layout_of(path) == "gutenberg"
    found = "\n".join(texts(path))
    assert "Gutenberg" not in found and "trademark" not in found
    assert found.split()[:2] == ["CHAPTER", "1"] and found.count("\n") >= 120
    assert read(Range(str(path)), Source(paragraphs="blank_lines"), "x")[0] == "blank_lines"
