"""Reads MediaWiki dumps: `pages-articles-multistream.xml.bz2` and its part files, also .xml.bz2, .xml.gz and .xml.

`read_dump` yields one document for each article: its prose, one paragraph per line. Wikitext is parsed by
mwparserfromhell; this module decides what of the tree is read. Dropped are infoboxes and other templates, tables,
references, images with their captions, galleries, formulas, code, headings, categories, and items of lists that do not
end like a sentence. Redirects, disambiguation pages and pages outside the main namespace are left out. Text of links,
<nowiki> and the few templates that stand for a word (`nowrap`, `lang`, `convert`) is kept.

A multistream dump consists of bz2 streams with 100 complete pages each, which worker processes decompress and parse in
parallel. Other files are decompressed by one process and parsed by the workers. Memory does not depend on the size of
the dump, and the order of documents is that of the dump.

Names of namespaces come from the dump's <siteinfo>; `Image`, `File` and `Category` are valid in every language.
Format: https://www.mediawiki.org/wiki/Help:Export
"""
from __future__ import annotations

import bz2
import collections
import concurrent.futures
import functools
import gzip
import html
import itertools
import multiprocessing
import os
import re
import unicodedata
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple
from xml.etree import ElementTree

import mwparserfromhell
from documents import Document
from mwparserfromhell import nodes

import files
from configuration import RunFailed, UserError, in_short
from process_pool import end_with_parent

BLOCK_BYTES = 1 << 22  # read at once
CHUNK_BYTES = 1 << 20  # of XML, for a worker
SMALL_DUMP = 8 << 20  # in bytes of the file: it is read before processes would have started
LARGEST_HEADER = 16 << 20  # before the first page
LARGEST_PAGE = 256 << 20
STREAM_START = re.compile(rb"BZh[1-9]1AY&SY")  # in a bz2 file, by chance once in 10^24 bytes


# --- The dump ---

class Site(NamedTuple):
    """What <siteinfo> says, for the workers."""

    file_names: FrozenSet[str]  # of the namespaces File and Media, in lower case
    category_names: FrozenSet[str]


def read_dump(path: str, processes: Optional[int] = None,
              progress: Optional[Callable[[int], None]] = None) -> Iterator[Document]:
    """The articles of a dump.

    Args:
        processes: that parse (default: the available cores, for a small dump 1); 1 parses in this process.
        progress: called with the number of bytes of the file that have been processed since the last call.
    Raises: UserError: no MediaWiki dump, or a damaged one. RunFailed: a worker process was killed. OSError.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = processes or (1 if os.path.getsize(path) < SMALL_DUMP else cores)
    site, chunks = _open(path)
    work = functools.partial(_articles, path, site)
    results = map(work, chunks) if processes == 1 else _in_parallel(work, chunks, processes)
    for documents, size in results:
        yield from documents
        if progress:
            progress(size)


class _Chunk(NamedTuple):
    """Complete pages: a range of bytes in the file that is a bz2 stream, or XML."""

    begin: int
    end: int
    xml: bytes = b""


def _open(path: str) -> Tuple[Site, Iterator[_Chunk]]:
    if path.endswith(".bz2"):
        ranges = _streams(path)
        first, second = next(ranges, None), next(ranges, None)
        if first is None:
            raise UserError(f"{path} is not a bz2 file: download it again.")
        if second is not None and _decompress(path, *second).lstrip().startswith(b"<page>"):
            return _site(path, _decompress(path, *first)), _stream_chunks(path, itertools.chain([second], ranges))
    pages = _page_chunks(path)
    header = next(pages)
    return _site(path, header.xml), pages


def _stream_chunks(path: str, ranges: Iterator[Tuple[int, int]]) -> Iterator[_Chunk]:
    last = (0, 0)
    for last in ranges:
        yield _Chunk(*last)
    if not _decompress(path, *last).rstrip().endswith(b"</mediawiki>"):
        raise UserError(f"{path} ends before </mediawiki>: download it again.")


def _streams(path: str) -> Iterator[Tuple[int, int]]:
    """The ranges of bytes of the streams of a bz2 file, one after the other."""
    begin, tail, place = None, b"", 0
    with files.open_regular(path, "rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            window = tail + block
            for match in STREAM_START.finditer(window):
                start = place - len(tail) + match.start()
                if begin is None and start:
                    return
                if begin is not None and start > begin:
                    yield begin, start
                begin = start
            place += len(block)
            tail = window[-9:]  # a start may lie across two blocks
            if not block:
                break
    if begin is not None:
        yield begin, place


def _decompress(path: str, begin: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(begin)
        packed = file.read(end - begin)
    parts = []
    try:
        while packed:  # an empty stream may follow, which has no start that _streams looks for
            unpacker = bz2.BZ2Decompressor()
            parts.append(unpacker.decompress(packed))
            if not unpacker.eof:
                raise UserError(f"{path} is cut off in the stream at byte {begin:,}: download it again.")
            packed = unpacker.unused_data
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged in the stream at byte {begin:,} ({in_short(error)}): download it again.") \
            from error
    return b"".join(parts)


def _page_chunks(path: str) -> Iterator[_Chunk]:
    """What precedes the first page, then complete pages. Positions are those in the compressed file."""
    with files.open_regular(path, "rb") as raw:
        stream = bz2.open(raw) if path.endswith(".bz2") else gzip.open(raw) if path.endswith(".gz") else raw
        rest, begin, header = b"", 0, True
        while True:
            try:
                block = stream.read(CHUNK_BYTES)
            except (OSError, EOFError, gzip.zlib.error) as error:
                raise UserError(f"{path} is damaged or cut off ({in_short(error)}): download it again.") from error
            rest += block
            if header:
                cut = rest.find(b"<page>")
                if cut < 0 and block and len(rest) < LARGEST_HEADER:
                    continue
                header, found = False, rest if cut < 0 else rest[:cut]
                rest = b"" if cut < 0 else rest[cut:]
                yield _Chunk(begin, begin, found)
            cut = rest.rfind(b"</page>")
            if cut >= 0:
                end = raw.tell()
                yield _Chunk(begin, end, rest[:cut + len(b"</page>")])
                begin, rest = end, rest[cut + len(b"</page>"):]
            if len(rest) > LARGEST_PAGE:
                raise UserError(f"{path} has a page of more than {LARGEST_PAGE >> 20} MiB, as dumps with the full "
                                "history do: use a pages-articles dump.")
            if not block:
                break
        if b"</mediawiki>" not in rest:
            raise UserError(f"{path} ends before </mediawiki>: download it again.")


def _site(path: str, header: bytes) -> Site:
    """Raises: UserError: not the beginning of a dump."""
    match = re.search(rb"<siteinfo>.*</siteinfo>", header, re.DOTALL)
    if not match or b"<mediawiki" not in header:
        raise UserError(f"{path} is not a MediaWiki dump: it has no <siteinfo>. Use a file such as "
                        "enwiki-20240101-pages-articles-multistream.xml.bz2.")
    names: Dict[str, str] = {}
    for namespace in _parse(path, match[0], 0).iter("namespace"):
        names[namespace.get("key", "")] = (namespace.text or "").casefold()
    every = {"file", "image", "media", "category"}
    return Site(frozenset({names.get("6", ""), names.get("-2", ""), *every - {"category"}} - {""}),
                frozenset({names.get("14", ""), "category"} - {""}))


def _parse(path: str, xml: bytes, place: int) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(b"<pages>" + xml + b"</pages>")
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid XML after byte {place:,} ({in_short(error)}): download it again.") \
            from error


def _articles(path: str, site: Site, chunk: _Chunk) -> Tuple[List[Document], int]:
    """The articles of a chunk and its size in the file."""
    xml = chunk.xml or _decompress(path, chunk.begin, chunk.end)
    xml = re.sub(rb"\s*</mediawiki>\s*$", b"", xml)
    documents = []
    for page in _parse(path, xml, chunk.begin).iter("page"):
        title, markup = page.findtext("title") or "", _article_markup(page)
        if markup:
            text = extract(markup, site)
            if text:
                documents.append(Document(title, text))
    return documents, chunk.end - chunk.begin


def _article_markup(page: ElementTree.Element) -> str:
    """The wikitext of a page, or nothing if the page is no article."""
    revisions = page.findall("revision")
    if page.findtext("ns") != "0" or page.find("redirect") is not None or not revisions:
        return ""
    markup = revisions[-1].findtext("text") or ""
    is_wikitext = (revisions[-1].findtext("model") or "wikitext") == "wikitext"
    title = page.findtext("title") or ""
    if not is_wikitext or REDIRECT.match(markup) or DISAMBIGUATION_TITLE.search(title) \
            or DISAMBIGUATION.search(markup):
        return ""
    return markup


def _in_parallel(work, chunks: Iterator[_Chunk], processes: int) -> Iterator[Tuple[List[Document], int]]:
    """`map(work, chunks)` by processes, with few results waiting."""
    pending = collections.deque()
    with concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"),
                                                end_with_parent) as pool:  # signals stay blocked: workers finish
        try:
            for chunk in chunks:
                with files.blocked_signals(in_new_processes=True):  # they start here
                    pending.append(pool.submit(work, chunk))
                if len(pending) >= 3 * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except concurrent.futures.BrokenExecutor as error:
            raise RunFailed("a process that reads the dump was killed: if memory ran out, use fewer processes.") \
                from error
        finally:  # those that run end soon
            for future in pending:
                future.cancel()


# --- Which pages ---

REDIRECT = re.compile(r"\s*#\s*[^\W\d]\w*\s*:?\s*\[\[")  # #REDIRECT [[target]] in any language
# Templates that mark disambiguation pages, by language. MediaWiki's own mark, __DISAMBIG__, is mostly inside them.
DISAMBIGUATION_WORDS = """
    disambiguation disambig disamb dab hndis geodis disambiguation_cleanup human_name_disambiguation
    place_name_disambiguation begriffsklärung homonymie paronymie patronyme toponymie desambiguación desambiguacion
    desambiguação desambiguació disambigua doorverwijspagina dp ujednoznacznienie неоднозначность багатозначність
    неадназначнасць rozcestník rozlišovacia_stránka dezambiguizare egyért αποσαφήνιση anlam_ayrımı توضيح ابهام‌زدایی
    פירושונים 消歧义 消歧義 曖昧さ回避 aimai 동음이의 định_hướng förgrening flertydig peker täsmennyssivu aðgreining
""".split()
_words = "|".join(word.replace("_", "[ _]") for word in DISAMBIGUATION_WORDS)
DISAMBIGUATION = re.compile(rf"\{{\{{\s*(?:{_words})\s*(?:\||\}}\}})|__DISAMBIG__", re.IGNORECASE)
DISAMBIGUATION_TITLE = re.compile(rf"\((?:{_words})\)$", re.IGNORECASE)

# --- The text of a page ---

# What contributes no text and is found without a parser, which takes five times as long to build a tree of it: most of
# an article's bytes are references, infoboxes and tables. <nowiki> is matched too, so that what it holds is not.
_UNREAD = "ref|math|chem|ce|gallery|timeline|score|syntaxhighlight|source|pre|hiero|imagemap|graph|mapframe|maplink|" \
    "templatestyles|templatedata|inputbox|categorytree|section|indicator|references|includeonly|style|s|del|strike"
UNREAD = re.compile(rf"<!--.*?(?:-->|$)|<nowiki>(.*?)</nowiki>|<({_UNREAD})\b(?:[^<>]*/>|[^<>]*>.*?</\2\s*>)",
                    re.DOTALL | re.IGNORECASE)
UNREAD_TAGS = frozenset(_UNREAD.split("|")) | {"table"}
BLOCK_TAGS = frozenset("p div blockquote center poem hr ul ol dl h1 h2 h3 h4 h5 h6".split())
LIST_TAGS = frozenset(["li", "dd", "dt"])
MEDIA_FILE = re.compile(r"\.(jpe?g|png|gif|svg|tiff?|webp|ogg|oga|ogv|webm|mp3|mp4|wav|mid|flac|pdf|djvu|stl)$", re.I)
LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(-[a-z]{2,10})*")
VARIANTS = re.compile(r"-\{(.*?)\}-", re.DOTALL)  # of a script or region, in Chinese, Serbian, ...
# Templates that stand for a word, with what they show of their parameters.
TEXT_TEMPLATES = {
    **dict.fromkeys(["nowrap", "nobr", "nobreak", "nowr", "small", "big", "em", "strong", "abbr", "tooltip", "sup",
                     "sub", "math", "mvar", "sic", "flag", "ill", "interlanguage link", "val"], "{1}"),
    **dict.fromkeys(["lang", "transl", "transliteration", "script"], "{2}"),
    "convert": "{1} {2}", "cvt": "{1} {2}", "frac": "{1}/{2}", "circa": "c. {1}", "as of": "as of {1}", '"': '"{1}"'}
CHARACTER_TEMPLATES = {"ndash": "–", "mdash": "—", "snd": " – ", "spaced ndash": " – ", "nbsp": " ", "'": "'", "!": "|",
                       "=": "=", "·": " · ", "bullet": " • ", "dot": " · "}
_kept = "|".join(map(re.escape, [*TEXT_TEMPLATES, *CHARACTER_TEMPLATES]))
# A template without others inside, of which nothing is shown.
_shown = rf"\s*(?:(?:{_kept}|lang-[a-z-]+)\s*[|}}]|formatnum:)"
UNREAD_TEMPLATE = re.compile(rf"(?<!\{{)\{{\{{(?!\{{|{_shown})[^{{}}]*\}}\}}(?!\}})", re.IGNORECASE)
DEEPEST_TEMPLATE = 5  # deeper ones are left to the parser
# A place where a paragraph ends, and the beginning of an item of a list.
BREAK, ITEM = "\x02", "\x03"
MARKUP = "[]{}'|_<>&"  # inside <nowiki>, these are put aside as characters of the private use area
LITERAL = {ord(character): 0xE000 + number for number, character in enumerate(MARKUP)}
RESTORED = {code: character for character, code in LITERAL.items()}
SENTENCE_END = re.compile(r"[.!?。．！？…؟۔।॥።։།။។][\"'”’»«“」』)）\]]*$")
LONG_LINE = 100  # characters: prose also where a language has no full stop, such as Thai


def extract(markup: str, site: Site) -> str:
    """The prose of an article, one paragraph per line."""
    markup = UNREAD.sub(lambda match: (match[1] or "").translate(LITERAL), markup.replace("\r", ""))
    for _ in range(DEEPEST_TEMPLATE):
        markup, count = UNREAD_TEMPLATE.subn("", markup)
        if not count:
            break
    if "{|" in markup:
        markup = _without_tables(markup)
    if "-{" in markup:
        markup = VARIANTS.sub(_variant, markup)
    tree = mwparserfromhell.parse(markup, skip_style_tags=True)
    parts: List[str] = []
    _read(tree, site, parts)
    return _paragraphs("".join(parts))


def _without_tables(markup: str) -> str:
    """Without tables, which begin and end at the beginning of a line. One that does not end is left to the parser."""
    kept: List[str] = []
    begins: List[int] = []  # lines kept before each open table
    for line in markup.split("\n"):
        start = line.lstrip(" \t:")
        kept.append(line)
        if start.startswith("{|"):
            begins.append(len(kept) - 1)
        elif begins and start.startswith("|}") and not start.startswith("|}}"):
            begin = begins.pop()
            kept[begin:] = [BREAK + start[2:]]
    return "\n".join(kept)


def _variant(match) -> str:
    """`-{zh-hans:a; zh-hant:b}-` shows the first of them. Flags such as `A|` precede; with `H` or `T` nothing is shown.
    """
    flags, bar, rule = match[1].rpartition("|")
    if bar and re.fullmatch(r"[A-Z;\-]+", flags.strip()):
        if set(flags) & set("HT-"):
            return ""
    else:
        rule = match[1]
    first = re.match(r"\s*[a-z-]+\s*:\s*(.*?)\s*(?:;|$)", rule, re.DOTALL)
    return first[1] if first else rule


def _read(tree, site: Site, parts: List[str]):
    """Appends what is read of a tree, with marks."""
    for node in tree.nodes:
        if isinstance(node, nodes.Text):
            parts.append(node.value)
        elif isinstance(node, nodes.Wikilink):
            _read_link(node, site, parts)
        elif isinstance(node, nodes.Template):
            _read_template(node, site, parts)
        elif isinstance(node, nodes.Tag):
            _read_tag(node, site, parts)
        elif isinstance(node, nodes.ExternalLink):
            if node.brackets and node.title:
                _read(node.title, site, parts)
        elif isinstance(node, nodes.Heading):
            parts.append(BREAK)
        elif isinstance(node, nodes.HTMLEntity):
            parts.append(html.unescape(str(node)))
        elif isinstance(node, nodes.Argument) and node.default:
            _read(node.default, site, parts)


def _read_link(node, site: Site, parts: List[str]):
    target = str(node.title).strip()
    visible = target.startswith(":")
    target = target.lstrip(":").strip()
    prefix, colon, rest = target.partition(":")
    prefix = prefix.strip().casefold()
    if colon and not visible:
        if prefix in site.file_names or prefix in site.category_names or MEDIA_FILE.search(rest.partition("#")[0]):
            return
        if node.text is None and LANGUAGE_LINK.fullmatch(prefix):
            return
    if node.text is not None:
        _read(node.text, site, parts)
    else:
        parts.append(html.unescape(target.lstrip("#")))


def _read_template(node, site: Site, parts: List[str]):
    name = str(node.name).strip().replace("_", " ").casefold()
    if name in CHARACTER_TEMPLATES:
        parts.append(CHARACTER_TEMPLATES[name])
    elif name.startswith("formatnum:"):
        parts.append(name.partition(":")[2])
    elif name in TEXT_TEMPLATES or re.fullmatch("lang-[a-z-]+", name):
        for number, piece in enumerate(re.split(r"\{(\d)\}", TEXT_TEMPLATES.get(name, "{1}"))):
            if number % 2 == 0:
                parts.append(piece)
            elif node.has(piece):
                _read(node.get(piece).value, site, parts)


def _read_tag(node, site: Site, parts: List[str]):
    name = str(node.tag).strip().lower()
    if name in UNREAD_TAGS:
        parts.append(BREAK if name == "table" else "")
    elif name in LIST_TAGS and node.wiki_markup:
        parts.append(ITEM)
    elif name == "br":
        parts.append("\n")
    else:
        ends = BREAK if name in BLOCK_TAGS else BREAK + ITEM if name in LIST_TAGS else ""
        parts.append(ends)
        if node.contents is not None:
            _read(node.contents, site, parts)
        parts.append(BREAK if ends else "")


# What markup that was never closed, or closed twice, leaves behind.
LEFTOVER_LINE = re.compile(r"^\s*(?:\{\||\|\}|\|-|\||![^\n]*(?:!!|\|)).*$|\{\{.*$", re.MULTILINE)
LEFTOVERS = re.compile(r"'{2,5}|\[\[|\]\]|\}\}|\{\{|__[^\W\d_][^\W\d]*?__|</?[a-zA-Z][^<>\n]{0,200}>"
                       "|[\xad\u200e\u200f\u2060\ufeff]")
EMPTY_BRACKETS = re.compile(r" ?(?:\([\s,;:/–-]*\)|（[\s,;:、，；：]*）)")
REPEATED_COMMA = re.compile(r"([,;、，；])(?:\s*[,;、，；])+")
FIRST_IN_BRACKETS = re.compile(r"([(（])\s*[,;、，；]\s*")


def _paragraphs(text: str) -> str:
    """Marked text as paragraphs: blank lines and marks end them, single line breaks do not."""
    paragraphs = []
    text = LEFTOVER_LINE.sub(BREAK, text) if "|" in text or "!" in text or "{{" in text else text
    for block in re.split(rf"\n[ \t]*\n+|\n?{BREAK}\n?|\n?(?={ITEM})", text):
        is_item = block.lstrip("\n ").startswith(ITEM)
        lines = block.split("\n") if is_item else [block]  # a line break ends an item
        for number, line in enumerate(lines):
            line = FIRST_IN_BRACKETS.sub(r"\1", EMPTY_BRACKETS.sub("", LEFTOVERS.sub("", line).replace(ITEM, "")))
            line = REPEATED_COMMA.sub(r"\1", line)
            line = re.sub(r" ([,.])(?=\s|$)", r"\1", " ".join(line.split())).translate(RESTORED)
            if not any(unicodedata.category(character)[0] in "LN" for character in line[:200]):
                continue
            if not (is_item and number == 0) or _is_prose(line):
                paragraphs.append(line)
    return "\n".join(paragraphs) if any(map(_is_prose, paragraphs)) else ""


def _is_prose(line: str) -> bool:
    return len(line) >= LONG_LINE or bool(SENTENCE_END.search(line))
