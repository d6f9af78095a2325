"""Reads text of many formats as documents: streaming, cleaned, one paragraph per line.

    .txt, .text, no suffix        text; see below for what a paragraph and a document are
    .jsonl, .ndjson               one JSON object per line; its key `text` is a document
    .xml                          a MediaWiki dump (wikipedia.py); an article is a document
    .parquet, .arrow              the column `text`; Hugging Face datasets folders hold such files (needs pyarrow)

All but the last two may be compressed: .gz, .bz2, .xz, .zst. Hidden files and folders, and what `datasets` and
data/download.py write beside the data, are left out; a folder that a symbolic link leads to is read once.

How lines of a text file belong together is detected from its first SAMPLE_BYTES (see `detect`), or stated:

    sentences    one sentence per line, and a blank line between documents: lines and documents stay as they are
    lines        one paragraph per line
    blank_lines  paragraphs are hard-wrapped and separated by blank lines, as in books

In the last two, blank lines separate documents only where the text between them has BLOCK_CHARACTERS on average. In
books they separate paragraphs: with each as a document, 54% of a record of 128 tokens would be padding, and 86% of one
of 512. So such a file is cut into documents of about DOCUMENT_CHARACTERS at ends of paragraphs, or before that at the
heading of a chapter. A book of Project Gutenberg is cleaned by gutenberg.py.

Text is decoded strictly, has its byte order mark removed, is brought to NFC, and loses control characters, soft hyphens
and repeated white space. Only the standard library is needed, except for .zst (zstandard), .parquet and .arrow.
"""
from __future__ import annotations

import bz2
import codecs
import concurrent.futures
import functools
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import sys
import unicodedata
import zlib
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from configuration import UserError, in_short  # noqa: E402  (found through the line above)

SAMPLE_BYTES = 1 << 18
BLOCK_CHARACTERS = 1000  # between blank lines that separate documents
DOCUMENT_CHARACTERS = 20_000  # of a piece of a book: about 5,000 tokens
LONGEST_DOCUMENT = 200_000  # in characters; a longer one, of any format, is cut at ends of paragraphs
LONGEST_LINE = 16 << 20  # in bytes
LONGEST_PARAGRAPH = 10_000  # in lines: without blank lines, a file is not read as one paragraph
GUTENBERG_BYTES = 64 << 20  # a book is cleaned as a whole
GUTENBERG_SAMPLE = 50_000  # at its beginning and end, by which it is recognized
PARAGRAPHS = ("auto", "blank_lines", "lines", "sentences")


class Document(NamedTuple):
    name: str  # file and number, or the title of an article
    text: str  # cleaned; one paragraph per line, no blank lines


# --- Files ---

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
KINDS = {".txt": "text", ".text": "text", "": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".xml": "xml",
         ".parquet": "parquet", ".arrow": "arrow"}
NEEDS_PYARROW = ("parquet", "arrow")
LEFT_OUT = re.compile(r"\.|manifest\.json$|dataset_info\.json$|dataset_dict\.json$|state\.json$|cache-.*\.arrow$")


def kind_of(path: str) -> Tuple[Optional[str], str]:
    """(kind, compression), such as ("jsonl", ".gz"). The kind is None where the suffix is unknown."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    compression = suffix.lower() if suffix.lower() in COMPRESSIONS else ""
    if compression:
        suffix = os.path.splitext(stem)[1]
    # wiki_00, part.3 and chapter-1.2 have no suffix
    kind = KINDS.get(suffix.lower(), "text" if re.fullmatch(r"\.[0-9]+", suffix) else None)
    return (None, compression) if compression and kind in NEEDS_PYARROW else (kind, compression)


def find(folder: str) -> Tuple[List[str], List[str]]:
    """The files of a folder and its subfolders, relative to it and in the order of their bytes.

    Returns: those that can be read, empty ones excepted, and those with an unknown suffix.
    Raises: UserError: the folder, or one in it, cannot be read.
    """
    def refuse(error):
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): fix that, or choose another folder.")

    known, unknown, seen = [], [], set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a symbolic link back, or to a sibling
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(place, name)
            if LEFT_OUT.match(name) or not os.path.isfile(path) or not os.path.getsize(path):
                continue
            (known if kind_of(name)[0] else unknown).append(os.path.relpath(path, folder))
    return sorted(known, key=os.fsencode), sorted(unknown, key=os.fsencode)


def digest_of(path: str) -> str:
    """Hash of a file's content."""
    hashed = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for block in iter(functools.partial(file.read, 1 << 20), b""):
            hashed.update(block)
    return hashed.hexdigest()


def content(folder: str, names: List[str], known: Iterable[dict] = ()) -> List[dict]:
    """Size, hash and time of the files in a folder. Hashes in `known`, of an earlier call, are taken over where size
    and time are the same."""
    hashes = {(entry["file"], entry["bytes"], entry["mtime_ns"]): entry["blake2b"] for entry in known}

    def of(name: str) -> dict:
        path = os.path.join(folder, name)
        status = os.stat(path)
        digest = hashes.get((name, status.st_size, status.st_mtime_ns)) or digest_of(path)
        return {"file": name, "bytes": status.st_size, "blake2b": digest, "mtime_ns": status.st_mtime_ns}

    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter's lock
        return list(pool.map(of, names))


def open_bytes(path: str) -> io.BufferedIOBase:
    """Opens a file for reading; a compressed one yields what it contains. Raises: UserError, OSError."""
    compression = kind_of(path)[1]
    if compression == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise UserError(f"{path} needs the library zstandard: pip install zstandard.") from error
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True,
                                                                            closefd=True), 1 << 20)
    return {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[compression](path, "rb")


# --- Lines ---


class Range(NamedTuple):
    """Part of a file: whole lines that begin at byte `begin` and before byte `end` (None: to its end)."""

    path: str
    begin: int = 0
    end: Optional[int] = None


class Source(NamedTuple):
    """How files are read."""

    paragraphs: str = "auto"
    encoding: str = "utf-8"
    encoding_errors: str = "strict"
    text_key: str = "text"
    processes: int = 1  # that parse a MediaWiki dump

    def decode(self, data: bytes, path: str, offset: int) -> str:
        """Raises: UserError: names the file and the byte, `offset` being where `data` begins."""
        try:
            return data.decode(self.encoding, "ignore" if self.encoding_errors == "replace" else "strict")
        except UnicodeError as error:
            at = offset + getattr(error, "start", 0)
            raise UserError(f"{path} is not {self.encoding} (byte {at}): give its --encoding, such as cp1252, or drop "
                            "such bytes with --encoding_errors=replace.") from error


def read_lines(part: Range, source: Source) -> Iterator[str]:
    """The lines of a part of a file, decoded, without their ends.

    Raises: UserError: bytes that are not text, a line without end, a damaged compressed file.
    """
    path, compression = part.path, kind_of(part.path)[1]
    try:
        with open_bytes(path) as file:
            start = file.peek(4)[:3]
            if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or "16" in source.encoding:
                yield from _utf16_lines(file, path, source)
                return
            offset = part.begin or 3 * (start == codecs.BOM_UTF8)
            if offset:
                file.seek(offset)
            while part.end is None or offset < part.end:
                line = file.readline(LONGEST_LINE)
                if not line:
                    return
                if len(line) >= LONGEST_LINE:
                    raise UserError(f"{path} has a line of more than {LONGEST_LINE >> 20} MiB at byte {offset}: split "
                                    "it.")
                text = source.decode(line, path, offset)
                offset += len(line)
                if "\r" in text:  # line ends of Windows, or of old Macs
                    yield from re.split("\r\n?", text.rstrip("\r\n"))
                else:
                    yield text[:-1] if text.endswith("\n") else text
    except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
        if compression and not getattr(error, "errno", None):
            raise _damaged(path, error) from error
        raise
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise _damaged(path, error) from error
        raise


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{path} is not a complete {kind_of(path)[1]} file ({in_short(error)}): copy or download it "
                     "again.")


def _utf16_lines(file, path: str, source: Source) -> Iterator[str]:
    encoding = source.encoding if "16" in source.encoding else "utf-16"
    try:
        for line in io.TextIOWrapper(file, encoding, "ignore" if source.encoding_errors == "replace" else "strict"):
            yield line.rstrip("\n")
    except UnicodeError as error:
        raise UserError(f"{path} is not {encoding} ({in_short(error)}): give its --encoding, or drop such bytes with "
                        "--encoding_errors=replace.") from error


# --- Cleaning ---

_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060\ufeff\ufffe"
                      "\uffff\ud800-\udfff]")


def clean(text: str) -> str:
    """One paragraph: NFC, without control characters, byte order marks and soft hyphens, and with single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(_REMOVED.sub("", text).split())


# --- Paragraphs ---

_FINAL = tuple(".!?…。！？؟۔।॥։።፧")
_CLOSING = "\"'”’»)）」』】]›*_"
_INNER = re.compile(rf"[.!?…؟۔।॥։።፧][{re.escape(_CLOSING)}]?\s+[“\"‘'«¿¡(„]?([^\W\d_])|"
                    rf"[。！？](?=[^{re.escape(_CLOSING)}\s])")
_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef]")  # Korean has spaces, also at line ends
_CHAPTER = re.compile(r"(chapter|book|part|volume|kapitel|teil|buch|chapitre|livre|partie|cap[ií]tulo|capitolo|parte|"
                      r"hoofdstuk|глава|часть|том|rozdział)\s+([0-9]+|[ivxlc]+|the|\w+)\b.{0,80}$|第.{1,6}[章回節节]",
                      re.IGNORECASE)
_ARTICLE = re.compile(r" ?= [^=]+ = ?$")  # the title of an article in WikiText


def _ends_sentence(line: str) -> bool:
    return line.rstrip(_CLOSING + " ")[-1:] in _FINAL


def _inner_ends(line: str) -> int:
    """How many sentences seem to end inside a line. Initials and most abbreviations are followed by a capital too."""
    return sum(1 for found in _INNER.finditer(line) if not (found[1] or "").islower())


class Layout(NamedTuple):
    """What the lines of a text file are."""

    paragraphs: str  # one of PARAGRAPHS, except auto
    blanks_separate_docs: bool  # else a file is cut into documents


def detect(lines: List[str], paragraphs: str = "auto") -> Layout:
    """The layout of text that begins with these lines."""
    filled = [line for line in lines if line.strip()][:5000]
    if not filled:
        return Layout("lines" if paragraphs == "auto" else paragraphs, paragraphs in ("auto", "sentences"))
    if paragraphs == "auto":
        ended = sum(map(_ends_sentence, filled)) / len(filled)
        lengths = sorted(map(len, filled))
        if ended >= 0.6:
            inner = sum(map(_inner_ends, filled)) / len(filled)
            paragraphs = "sentences" if inner < 0.5 else "lines"
        elif lengths[len(lengths) * 95 // 100] <= 120 and _wrapped_share(lines) >= 0.4:
            paragraphs = "blank_lines"
        else:
            paragraphs = "lines"
    if paragraphs == "sentences":
        return Layout(paragraphs, True)
    blocks = sum(1 for before, line in zip(["", *lines], lines) if line.strip() and not before.strip())
    return Layout(paragraphs, blocks > 1 and sum(map(len, filled)) / blocks >= BLOCK_CHARACTERS)


def _wrapped_share(lines: List[str]) -> float:
    """Share of the lines that do not end a sentence, among those that another line follows."""
    followed = [line for line, after in zip(lines, lines[1:]) if line.strip() and after.strip()]
    return sum(not _ends_sentence(line) for line in followed) / max(1, len(followed))


def join_wrapped(lines: List[str]) -> str:
    """The paragraph of hard-wrapped lines: no space after a hyphen or a dash, nor between Chinese and Japanese
    characters."""
    text = ""
    for line in map(str.strip, lines):
        tight = text.endswith(("-", "—")) and line[:1].isalpha()
        tight = tight or text and line and _CJK.match(text[-1]) and _CJK.match(line[0]) and not (
            "\uac00" <= text[-1] <= "\ud7a3")
        text += line if tight or not text else f" {line}"
    return text


def paragraphs_of(lines: Iterable[str], paragraphs: str) -> Iterator[str]:
    """The paragraphs (sentences, where the lines are) of text, cleaned, and an empty one for each blank line."""
    wrapped: List[str] = []
    for line in lines:
        if paragraphs == "blank_lines":
            if line.strip():
                wrapped.append(line)
            if wrapped and (not line.strip() or len(wrapped) > LONGEST_PARAGRAPH):
                yield clean(join_wrapped(wrapped))
                wrapped = []
            if not line.strip():
                yield ""
        else:
            yield line.strip() if paragraphs == "sentences" else clean(line)
    if wrapped:
        yield clean(join_wrapped(wrapped))


def cut(paragraphs: Iterable[str], blanks_separate_docs: bool) -> Iterator[str]:
    """Joins paragraphs to documents: up to an empty one where that ends them, else of about DOCUMENT_CHARACTERS."""
    bound = LONGEST_DOCUMENT if blanks_separate_docs else DOCUMENT_CHARACTERS
    document: List[str] = []
    size = 0
    for paragraph in paragraphs:
        starts = not blanks_separate_docs and (
            _ARTICLE.match(paragraph) or size > bound // 4 and _CHAPTER.match(paragraph))
        ended = blanks_separate_docs and not paragraph
        if document and (starts or ended or size + len(paragraph) > bound):
            yield "\n".join(document)
            document, size = [], 0
        if paragraph:
            document.append(paragraph)
            size += len(paragraph)
    if document:
        yield "\n".join(document)


# --- Formats ---

def read(part: Range, source: Source, name: str) -> Tuple[str, Iterator[Document]]:
    """The documents of a file or part of one.

    Args:
        name: of the file in names of documents.
    Returns: what the file is, such as `sentences` or `jsonl`, and its documents, which are read as they are used.
    Raises: UserError: it cannot be read; the iterator raises it too.
    """
    kind = kind_of(part.path)[0]
    if kind == "text":
        return _read_text(part, source, name)
    reader = {"jsonl": _json_texts, "parquet": _table_texts, "arrow": _table_texts}.get(kind)
    return kind, _number(_texts_as_documents(reader(part, source), source) if reader else _articles(part, source), name)


def _number(documents: Iterator, name: str) -> Iterator[Document]:
    for number, document in enumerate(documents, 1):
        yield document if isinstance(document, Document) else Document(f"{name}#{number}", document)


def head_of(path: str, source: Source) -> List[str]:
    """The first lines of a text file, about SAMPLE_BYTES."""
    lines, size = [], 0
    for line in read_lines(Range(path), source):
        lines.append(line)
        size += len(line) + 1
        if size > SAMPLE_BYTES:
            break
    return lines


def _read_text(part: Range, source: Source, name: str) -> Tuple[str, Iterator[Document]]:
    head = head_of(part.path, source)
    if part.begin == 0 and part.end is None and is_book(part.path, source, head):
        import gutenberg
        text = gutenberg.clean("\n".join(read_lines(part, source)))
        return "gutenberg", _number(cut(map(clean, text.split("\n")), blanks_separate_docs=False), name)
    layout = detect(head, source.paragraphs)
    paragraphs = paragraphs_of(read_lines(part, source), layout.paragraphs)
    return layout.paragraphs, _number(cut(paragraphs, layout.blanks_separate_docs), name)


def is_book(path: str, source: Source, head: List[str]) -> bool:
    """Whether a text file that begins with the lines `head` is cleaned as a book of Project Gutenberg, as a whole."""
    if source.paragraphs != "auto" or os.path.getsize(path) > GUTENBERG_BYTES:
        return False
    import gutenberg
    return gutenberg.is_book("\n".join(head)[:GUTENBERG_SAMPLE], _end_of(path))


def _end_of(path: str) -> str:
    """The last characters of a text file; none of a compressed one."""
    if kind_of(path)[1]:
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - GUTENBERG_SAMPLE))
        return file.read().decode("utf-8", "ignore")


def _texts_as_documents(texts: Iterator[str], source: Source) -> Iterator[str]:
    """Texts that are documents already: only those that are longer than LONGEST_DOCUMENT are cut."""
    for text in texts:
        lines = re.split("\r\n?|\n", text)
        paragraphs = detect(lines, source.paragraphs).paragraphs if len(lines) > 4 or (
            source.paragraphs == "sentences") else "lines"
        yield from cut(filter(None, paragraphs_of(lines, paragraphs)), blanks_separate_docs=True)


def _json_texts(part: Range, source: Source) -> Iterator[str]:
    where = f" of the part that begins at byte {part.begin}" if part.begin else ""
    for number, line in enumerate(read_lines(part, source), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[source.text_key]
            if not isinstance(text, str):
                raise TypeError(f"the value of {source.text_key!r} is not a string")
        except KeyError as error:
            raise UserError(f"{part.path}, line {number}{where}: there is no key {source.text_key!r}: name the key of "
                            "the text with --text_key.") from error
        except (RecursionError, TypeError, ValueError) as error:
            raise UserError(f"{part.path}, line {number}{where} is not a JSON object with a text "
                            f"({in_short(error)}): fix or remove that line.") from error
        yield re.sub("[\ud800-\udfff]", "", text)  # halves of a character, from a broken escape


def _table_texts(part: Range, source: Source) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({in_short(error)})"
        raise UserError(f"{part.path} needs the library pyarrow{reason}: pip install pyarrow, with NumPy 1 "
                        "pyarrow==17.0.0.") from error
    try:
        if kind_of(part.path)[0] == "parquet":
            table = pyarrow.parquet.ParquetFile(part.path)
            names, batches = table.schema_arrow.names, table.iter_batches(1000, columns=[source.text_key])
        else:
            stream = pyarrow.memory_map(part.path)
            try:
                table = pyarrow.ipc.open_stream(stream)
                batches = iter(table)
            except pyarrow.ArrowInvalid:
                table = pyarrow.ipc.open_file(stream)
                batches = map(table.get_batch, range(table.num_record_batches))
            names = table.schema.names
        if source.text_key not in names:
            raise UserError(f"{part.path} has no column {source.text_key!r}, only {', '.join(names)}: name the column "
                            "of the text with --text_key.")
        for batch in batches:
            column = batch.column(batch.schema.get_field_index(source.text_key))
            column.validate(full=True)  # damaged data would end the process
            for text in column.to_pylist():
                if isinstance(text, str):
                    yield text
                elif text is not None:
                    raise UserError(f"{part.path}: the column {source.text_key!r} does not hold text: name another "
                                    "with --text_key.")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if getattr(error, "errno", None):  # of the file system, not of pyarrow
            raise
        raise UserError(f"{part.path} is damaged ({in_short(error)}): copy or download it again.") from error


def _articles(part: Range, source: Source) -> Iterator[Document]:
    import wikipedia
    return wikipedia.read_dump(part.path, source.processes)
