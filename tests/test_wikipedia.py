"""data/wikipedia.py: articles of generated dumps in three languages, awkward markup, damaged dumps."""
from __future__ import annotations

import bz2
import gzip
import random
import sys
import time

import pytest
import support
import wiki_dump

sys.path.insert(0, str(support.ROOT / "data"))

import wikipedia  # noqa: E402

PAGES = {language: wiki_dump.make_pages(130, language) for language in ("en", "de", "fa")}
SITES = {language: wikipedia._site("dump", wiki_dump.siteinfo(language).encode()) for language in PAGES}


def expected(pages):
    return [(page.title, "\n".join(" ".join(line.split()) for line in page.paragraphs))
            for page in pages if page.paragraphs]


def read(path, **options):
    return [tuple(document) for document in wikipedia.read_dump(str(path), **{"processes": 1, **options})]


def extract(markup, language="en"):
    return wikipedia.extract(markup, SITES[language])


# --- Files ---

@pytest.mark.parametrize("language", list(PAGES))
def test_every_article_of_a_multistream_dump_is_read_exactly(tmp_path, language):
    path = wiki_dump.write_multistream(tmp_path / "dump.xml.bz2", PAGES[language], language, pages_per_stream=25)
    found = read(path)
    assert found == expected(PAGES[language]) and len(found) > 90


@pytest.mark.parametrize("suffix", ["xml", "xml.gz", "xml.bz2"])
def test_a_dump_in_one_stream_is_read_as_well(tmp_path, suffix, monkeypatch):
    text = "".join(wiki_dump.streams(PAGES["en"])).encode()
    path = tmp_path / f"dump.{suffix}"
    path.write_bytes({"xml": bytes, "xml.gz": gzip.compress, "xml.bz2": bz2.compress}[suffix](text))
    monkeypatch.setattr(wikipedia, "CHUNK_BYTES", 10_000)
    assert read(path) == expected(PAGES["en"])


def test_streams_that_do_not_end_between_pages_are_read_as_one(tmp_path):
    text, path = "".join(wiki_dump.streams(PAGES["en"])).encode(), tmp_path / "dump.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(text[place:place + 50_000]) for place in range(0, len(text), 50_000)))
    assert read(path) == expected(PAGES["en"])


def test_streams_are_found_across_blocks(tmp_path, monkeypatch):
    path = wiki_dump.write_multistream(tmp_path / "dump.xml.bz2", PAGES["en"], pages_per_stream=10)
    whole = list(wikipedia._streams(path))
    for size in (7, 64, 1000):
        monkeypatch.setattr(wikipedia, "BLOCK_BYTES", size)
        assert list(wikipedia._streams(path)) == whole
    assert len(whole) == 15 and whole[0][0] == 0


def test_processes_yield_the_same_in_the_same_order(tmp_path):
    path = wiki_dump.write_multistream(tmp_path / "dump.xml.bz2", PAGES["de"], "de", pages_per_stream=10)
    sizes = []
    assert read(path, processes=2, progress=sizes.append) == expected(PAGES["de"])
    assert len(sizes) == 14
    next(wikipedia.read_dump(path, processes=2))  # and then no more


def test_a_cut_or_damaged_dump_is_refused(tmp_path, refuses):
    whole = open(wiki_dump.write_multistream(tmp_path / "dump.xml.bz2", PAGES["en"], pages_per_stream=40), "rb").read()
    path = tmp_path / "bad.xml.bz2"
    ends = [end for _, end in wikipedia._streams(str(tmp_path / "dump.xml.bz2"))]
    for cut in (ends[-2], ends[-2] - 5, ends[2] + 100, ends[1], 40):
        path.write_bytes(whole[:cut])
        assert "bad.xml.bz2" in refuses(read, path)
    damaged = bytearray(whole)
    damaged[ends[1] + 500] ^= 255
    path.write_bytes(damaged)
    assert "damaged" in refuses(read, path)
    for text in (b"", b"text", bz2.compress(b"<html><page></page></html>"), bz2.compress(b"")):
        path.write_bytes(text)
        refuses(read, path)
    plain = tmp_path / "bad.xml"
    plain.write_text("".join(wiki_dump.streams(PAGES["en"]))[:-200])
    assert "bad.xml" in refuses(read, plain)
    plain.write_text("".join(wiki_dump.streams(PAGES["en"])).replace("<ns>", "<ns", 1))
    assert "XML" in refuses(read, plain)


def test_a_page_with_its_full_history_is_refused_and_of_several_revisions_the_last_is_read(tmp_path, refuses,
                                                                                           monkeypatch):
    text = "".join(wiki_dump.streams([wiki_dump.Page("A", 0, "A first sentence.")]))
    begin, end = text.index("    <revision>"), text.index("  </page>")
    revision = text[begin:end]
    text = text[:end] + revision.replace("first", "last") + text[end:]
    path = tmp_path / "dump.xml"
    path.write_text(text)
    assert read(path) == [("A", "A last sentence.")]
    monkeypatch.setattr(wikipedia, "LARGEST_PAGE", 100)
    monkeypatch.setattr(wikipedia, "CHUNK_BYTES", 300)
    assert "pages-articles" in refuses(read, path)


# --- Markup ---

@pytest.mark.parametrize("markup, text", [
    ("A '''[[ship|boat]]s''' trip.", "A boats trip."),
    ("One.\nTwo.\n\nThree.", "One. Two.\nThree."),
    ("Before.<ref>A [[x]].</ref> After.<ref name=a /> End.", "Before. After. End."),
    ("{{Infobox\n| a = {{b|{{c|{{d|{{e|{{f|{{g}}}}}}}}}}}}\n| x = [[y]]\n}}\nText.", "Text."),
    ("{|\n| a\n{|\n| b\n|}\n|}\nText.", "Text."),
    ("First.\n{|\n| a\n|}\nSecond.", "First.\nSecond."),
    ("<table><tr><td>A cell.</td></tr></table>Text.", "Text."),
    ("[[File:a.jpg|thumb|A [[caption]] with [[File:b.jpg]].]]Text.", "Text."),
    ("[[Bild:a.svg|mini|A caption.]]Text.", "Text."),  # a namespace's old name
    ("[[:File:a.jpg]] and [[:Category:B|b]].", "File:a.jpg and b."),
    ("Text.\n[[Category:A]]\n[[de:B]]\n[[zh-min-nan:C]]", "Text."),
    ("See [[wikt:word|word]] and [[doi:1|this]].", "See word and this."),
    ("[https://example.org A site] and [https://example.org].", "A site and."),
    ("<nowiki>'''[[a]]''' {{b}} <ref></nowiki> is kept.", "'''[[a]]''' {{b}} <ref> is kept."),
    ("<nowiki><!-- {{x}}</nowiki> one <!-- [[two]] --> three.", "<!-- {{x}} one three."),
    ("A<br>b<br />c.", "A b c."),
    ("x<sup>2</sup> &amp; H<sub>2</sub>O &lt; 3&nbsp;km&#8201;&mdash; ok.", "x2 & H2O < 3 km — ok."),
    ("Berlin ({{IPA|bɛʁˈliːn}}; {{audio|a.ogg}}) is.", "Berlin is."),
    ("Rome ({{IPA|x}}, founded 753 BC) is.", "Rome (founded 753 BC) is."),
    ("It is {{convert|5|km|mi}} and {{lang|fr|''deux''}} {{lang-de|drei}}{{ndash}}{{formatnum:1234}}.",
     "It is 5 km and deux drei–1234."),
    ("A (from {{lang-la|b}}; {{IPA|c}}; {{circa|1500}}) {{sup|2}}{{\"|d}} is.", 'A (from b; c. 1500) 2"d" is.'),
    ("!Kung are\u200e people.", "!Kung are people."),
    ("== A == <!-- b -->\nText.\n==C==", "Text."), ("A<REF\nname=x>b</REF>.", "A."),
    ("* [[A]]\n* A whole sentence.\n* [[B]], painter\n# Another one!\nText.",
     "A whole sentence.\nAnother one!\nText."),
    ("; Term : A definition.\n: Indented text.", "A definition.\nIndented text."),
    ("<ul><li>An item.</li><li>[[Link]]</li></ul>", "An item."),
    ("== Heading ==\nText.\n=== Second ===\n", "Text."),
    ("<blockquote>Quoted text.</blockquote>Own text.", "Quoted text.\nOwn text."),
    ("__NOTOC__ Text.__KEIN_INHALTSVERZEICHNIS__ {{DEFAULTSORT:x}}", "Text."),
    ("<gallery>\nFile:a.jpg|A caption.\n</gallery><math>x</math><score>c</score><pre>A.</pre>Text.", "Text."),
    ("-{zh-hans:计算机;zh-hant:電腦;}-是-{机器}-。-{H|zh:x;zh-hant:y}-", "计算机是机器。"),
    ("soft\xadhyphen می\u200cروم.", "softhyphen می\u200cروم."),
    ("Only [[links]] here", ""), ("''", ""), ("", ""), ("{{a}}\n----\n|}", ""),
    ("'''X''' may refer to:\n* [[X (town)]]\n* [[X (river)]]", ""),
    # Markup that is broken
    ("Text. {{never closed", "Text."),
    ("{{never closed\n| a = b\n| c = d\nText after it.", "Text after it."),
    ("{|\n| never closed\n\nText after it.", "Text after it."),
    ("[[never closed and text.", "never closed and text."),
    ("'''Never closed text.", "Never closed text."),
    ("Closed twice]] and }} text.", "Closed twice and text."),
    ("A <ref>never closed reference.", "A never closed reference."),
    ("An <b>open tag and </i> another.", "An open tag and another.")])
def test_markup(markup, text):
    assert extract(markup) == text


def test_namespace_names_are_those_of_the_dump():
    assert extract("[[Datei:a|mini|Eine [[Unterschrift]].]]Text.[[Kategorie:B]]", "de") == "Text."
    assert "Unterschrift" in extract("[[Datei:a|mini|Eine [[Unterschrift]].]]Text.", "en")
    assert extract("[[Image:a|thumb|A caption.]][[Category:B]]متن.", "fa") == "متن."


@pytest.mark.parametrize("markup", ["{{Disambiguation}}", "{{ dab |x}}", "{{Begriffsklärung}}", "{{消歧义}}",
                                    "{{Human name disambiguation}}", "__DISAMBIG__"])
def test_disambiguation_pages_are_left_out(tmp_path, markup):
    path = tmp_path / "dump.xml"
    pages = [wiki_dump.Page("A", 0, f"A sentence.\n{markup}"), wiki_dump.Page("B (disambiguation)", 0, "A sentence."),
             wiki_dump.Page("C", 0, "#WEITERLEITUNG [[A sentence]]."), wiki_dump.Page("D", 0, "A dab. {{dabble}}")]
    path.write_text("".join(wiki_dump.streams(pages)))
    assert read(path) == [("D", "A dab.")]


def test_random_markup_never_fails():
    draw = random.Random(3)
    pieces = ["{{", "}}", "[[", "]]", "{|", "|}", "|", "\n", "'''", "<ref>", "</ref>", "<nowiki>", "-{", "}-",
              "*", "=", "<!--", "-->", "File:", "a", " ", "http://x ", "[", "]", "&amp;", "{{{", "}}}", "<b",
              ">", "\x02", "\ue000"]
    for _ in range(300):
        text = extract("".join(draw.choices(pieces, k=60)))
        assert all(line.strip() for line in text.split("\n")) or not text


def test_much_broken_markup_takes_little_time():
    start = time.process_time()
    for piece in ("{{", "[[", "{|\n", "<ref>", "'''", "{{a|", "[[a|", "-{", "<!--", "(", "[http://a ", "* [[a]]\n"):
        extract(piece * 400)
    assert time.process_time() - start < 5
