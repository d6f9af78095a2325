"""Writes a MediaWiki dump in the format of dumps.wikimedia.org, with the text that a reader should find in it.

Multistream bz2: a stream with <siteinfo>, streams of up to `pages_per_stream` pages, a last stream that closes the root
element, and an index file. The articles are invented; their markup is what real articles hold: infoboxes, references,
tables, images with links in their captions, nested templates, lists, formulas, galleries, and mistakes.

    python tests/wiki_dump.py FOLDER [NUMBER_OF_PAGES] [LANGUAGE]

writes FOLDER/<language>wiki/20240101/... and the checksums, as a mirror serves them.
"""
from __future__ import annotations

import bz2
import hashlib
import pathlib
import random
import re
import sys
from typing import Dict, List, NamedTuple, Tuple
from xml.sax.saxutils import escape, quoteattr

DATE = "20240101"

# Names of the namespaces 6 (files), 14 (categories), 10 (templates), and of a redirect.
NAMES = {"en": dict(file="File", category="Category", template="Template", redirect="#REDIRECT", thumb="thumb",
                    disambiguation="disambiguation"),
         "de": dict(file="Datei", category="Kategorie", template="Vorlage", redirect="#WEITERLEITUNG", thumb="mini",
                    disambiguation="Begriffsklärung"),
         "fa": dict(file="پرونده", category="رده", template="الگو", redirect="#تغییر_مسیر", thumb="بندانگشتی",
                    disambiguation="ابهام‌زدایی")}
WORDS = {"en": """river mountain village century church bridge castle library station harbour garden school market
                  district family composer engineer painter winter summer built founded designed opened closed received
                  the a of in with under against between old new large small northern southern famous""",
         "de": """Fluss Berg Dorf Jahrhundert Kirche Brücke Schloss Bücherei Bahnhof Hafen Garten Schule Markt Bezirk
                  Familie Komponist Ingenieurin Maler Winter Sommer baute gründete entwarf öffnete schloss erhielt der
                  die das ein von in mit unter gegen zwischen alte neue große kleine nördliche südliche berühmte""",
         "fa": """رود کوه روستا سده پل کتابخانه ایستگاه باغ مدرسه بازار خانواده نقاش زمستان تابستان ساخت بست گرفت
                  در با از به و بزرگ کوچک شمالی جنوبی نامدار"""}


class Page(NamedTuple):
    title: str
    namespace: int
    markup: str
    redirect: str = ""  # target
    paragraphs: Tuple[str, ...] = ()  # that a reader should find; none: it is no article
    model: str = "wikitext"


class Writer:
    """Articles of one language."""

    def __init__(self, language: str, seed: int):
        self.language, self.draw = language, random.Random(f"{language}/{seed}")
        self.names, self.words = NAMES[language], WORDS[language].split()

    def phrase(self, least: int = 2, most: int = 4) -> str:
        return " ".join(self.draw.choices(self.words, k=self.draw.randint(least, most)))

    def fill(self, markup: str) -> str:
        """`@` is a phrase, `FILE`, `CATEGORY` and `THUMB` are words of the language, `REF` is maybe a reference."""
        markup = re.sub("REF", lambda _: self.reference() if self.draw.random() < 0.4 else "", markup)
        for word in ("file", "category", "thumb"):
            markup = markup.replace(word.upper(), self.names[word])
        return re.sub("@", lambda _: self.phrase(1, 3), markup)

    # --- Parts of a sentence: markup, and what is read ---

    def inline(self) -> Tuple[str, str]:
        word = self.phrase(1, 2)
        markup, text = self.draw.choice([
            ("[[W]]", "W"), ("[[@|W]]", "W"), ("[[@#W|''W'']]", "W"), ("[[W]]er", "Wer"), ("''W''", "W"),
            ("'''W'''", "W"), ("'''''W'''''", "W"), ("[https://example.org/a?b=c&d=1 W]", "W"),
            ("<small>W</small>", "W"), ('<span style="color:red">W</span>', "W"), ("W<!-- @ [[x]] {{y}} -->", "W"),
            ("W (2)", "W (2)"), ("<nowiki>[[W]]</nowiki>", "[[W]]"), ("{{nowrap|W}}", "W"), ("{{lang|fr|W}}", "W"),
            ("W&nbsp;5&ndash;7", "W 5–7"), ("W<sub>2</sub>", "W2"), ("[[:CATEGORY:W|W]]", "W"), ("[[wikt:@|W]]", "W"),
            ("W ({{IPA|@}})", "W"), (r"W<math>\sum_{i=1}^n x_i < y</math>", "W")])
        return self.fill(markup.replace("W", word)), text.replace("W", word)

    def reference(self) -> str:
        source = self.fill("{{cite book |last=@ |title=@ |url=https://example.org/{{x|1}} |publisher=[[@]] |year=1999 "
                           "|isbn=978-3-16-148410-0}}")
        return self.draw.choice([f"<ref>{source}</ref>", f'<ref name="a">{source} @</ref>', '<ref name="a" />',
                                 "<ref name=a/>", "{{sfn|@|1999|p=5}}"]).replace("@", self.phrase(1, 2))

    def sentence(self) -> Tuple[str, str]:
        parts = [(word, word) for word in self.draw.choices(self.words, k=self.draw.randint(6, 16))]
        for place in sorted(self.draw.sample(range(1, len(parts)), self.draw.randint(0, 2)), reverse=True):
            parts.insert(place, self.inline())
        markup, text = (" ".join(part[side] for part in parts) for side in (0, 1))
        return markup + "." + (self.reference() if self.draw.random() < 0.4 else ""), text + "."

    def paragraph(self) -> Tuple[str, str]:
        sentences = [self.sentence() for _ in range(self.draw.randint(2, 6))]
        joint = self.draw.choice([" ", " ", "\n"])  # a single line break does not end a paragraph
        return joint.join(sentence[0] for sentence in sentences), " ".join(sentence[1] for sentence in sentences)

    # --- What stands between paragraphs ---

    def infobox(self) -> str:
        values = self.draw.choices(["@", "[[@]]", "[[@]] REF", "{{convert|5|km|mi}}"], k=self.draw.randint(5, 15))
        return self.fill("{{Infobox @\n" + "".join(f"| @ = {value}\n" for value in values)
                         + "| map = {{Location map|@|caption=[[@]]}}\n}}")

    def table(self, depth: int = 0) -> str:
        rows = '|-\n| style="x" | @ || [[@]] REF || {{flag|@}}\n' * self.draw.randint(2, 8)
        inner = f"|-\n|\n{self.table(1)}\n" if depth == 0 and self.draw.random() < .2 else ""
        return self.fill(f'{{| class="wikitable sortable"\n|+ @\n! @ !! @\n{rows}{inner}|}}')

    def between(self) -> str:
        return self.fill(self.draw.choice([
            "[[FILE:@.jpg|THUMB|200px|@ [[@]] {{nowrap|@}} [[@|@]].REF]]",
            '<gallery mode="packed">\nFILE:A.jpg|@ [[@]]\nFile:B.png|@\n</gallery>',
            '<syntaxhighlight lang="c">\nint a[2] = {{1}, {2}};\n</syntaxhighlight>',
            r':<math display="block">\frac{{a}}{b} [[x]]</math>',
            "{{Quote box|quote=@ [[@]]|source={{citation needed|date=May}}}}", "__NOTOC__\n{{clear}}", "----",
            "<!--\n@\n-->", "{{main|@}}", f'<div class="x">\n{self.table()}\n</div>']))

    def bullets(self) -> Tuple[str, List[str]]:
        """A list whose items are sentences, or one of links, which nobody should read."""
        if self.draw.random() < .5:
            items = [self.sentence() for _ in range(self.draw.randint(2, 4))]
            mark = self.draw.choice(["*", "#", ":", "**"])
            return "\n".join(f"{mark} {item[0]}" for item in items), [item[1] for item in items]
        return self.fill("* [[@]]\n" * self.draw.randint(2, 6)), []

    def article(self, number: int) -> Page:
        blocks = [self.infobox()] if self.draw.random() < .6 else []
        paragraphs: List[str] = []
        for section in range(self.draw.randint(1, 5)):
            if section:
                blocks.append(self.fill(f"{'=' * (2 + section % 2)} @ {'=' * (2 + section % 2)}"))
            for _ in range(self.draw.randint(1, 4)):
                kind = self.draw.random()
                if kind < .12:
                    blocks.append(self.table())
                elif kind < .34:
                    blocks.append(self.between())
                elif kind < .46:
                    markup, found = self.bullets()
                    blocks.append(markup)
                    paragraphs += found
                markup, text = self.paragraph()
                blocks.append(markup)
                paragraphs.append(text)
        blocks.append(self.fill("== @ ==\n<references />\n{{Reflist|2}}\n* [https://example.org/1 @]\n* REF\n"
                                "{{Authority control}}\n{{DEFAULTSORT:@}}\n[[CATEGORY:@]]\n[[Category:@| ]]\n[[fr:@]]"))
        return Page(f"{self.phrase(1, 2).capitalize()} {number}", 0, "\n\n".join(blocks), paragraphs=tuple(paragraphs))

    def others(self, number: int) -> List[Page]:
        """Pages that are no articles."""
        disambiguation, text = self.names["disambiguation"], self.paragraph()[0]
        return [
            Page(f"R{number}", 0, self.fill(f"{self.names['redirect']} [[@]]"), redirect="X"),
            Page(f"{self.names['template']}:T{number}", 10, f"<includeonly>{{{{{{1|}}}}}}</includeonly>{text}"),
            Page(f"D{number}", 0, f"'''D''' [[D]]:\n* [[E]], {text}\n{{{{{disambiguation}}}}}"),
            Page(f"E{number} ({disambiguation})", 0, f"'''E''':\n* [[E]]\n* {text}"),
            Page(f"Talk:A{number}", 1, text),
            Page(f"{self.names['category']}:C{number}", 14, text),
            Page(f"J{number}", 0, '{"a": "A sentence in JSON."}', model="json"),
            Page(f"MediaWiki:M{number}.css", 8, "body {}", model="css")]


def make_pages(number: int, language: str = "en", seed: int = 1) -> List[Page]:
    """`number` pages, about three quarters of them articles."""
    writer, pages = Writer(language, seed), []
    while len(pages) < number:
        pages += [writer.article(len(pages)) for _ in range(24)] + writer.others(len(pages))
    return pages[:number]


# --- The files ---

def siteinfo(language: str) -> str:
    names = NAMES[language]
    local = {-2: "Media", -1: "Special", 0: "", 1: "Talk", 2: "User", 6: names["file"], 8: "MediaWiki",
             10: names["template"], 14: names["category"]}
    spaces = "".join(f'      <namespace key="{key}" case="first-letter"{f">{name}</namespace>" if name else " />"}\n'
                     for key, name in local.items())
    schema = "http://www.mediawiki.org/xml/export-0.11"
    return f"""<mediawiki xmlns="{schema}/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="{schema}/ {schema}.xsd" version="0.11" xml:lang="{language}">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>{language}wiki</dbname>
    <base>https://{language}.wikipedia.org/wiki/</base>
    <generator>MediaWiki 1.42.0-wmf.9</generator>
    <case>first-letter</case>
    <namespaces>
{spaces}    </namespaces>
  </siteinfo>
"""


def page_xml(page: Page, number: int) -> str:
    size = len(page.markup.encode())
    redirect = f"    <redirect title={quoteattr(page.redirect)} />\n" if page.redirect else ""
    return f"""  <page>
    <title>{escape(page.title)}</title>
    <ns>{page.namespace}</ns>
    <id>{number}</id>
{redirect}    <revision>
      <id>{number + 1000}</id>
      <parentid>{number}</parentid>
      <timestamp>2024-01-01T00:00:00Z</timestamp>
      <contributor>
        <username>Nobody &amp; Co</username>
        <id>7</id>
      </contributor>
      <comment>/* a */ &lt;b&gt;</comment>
      <origin>{number + 1000}</origin>
      <model>{page.model}</model>
      <format>text/x-wiki</format>
      <text bytes="{size}" sha1="x" xml:space="preserve">{escape(page.markup)}</text>
      <sha1>x</sha1>
    </revision>
  </page>
"""


def streams(pages: List[Page], language: str = "en", pages_per_stream: int = 100) -> List[str]:
    """The XML of each stream: their concatenation is one document."""
    parts = [siteinfo(language)]
    for first in range(0, len(pages), pages_per_stream):
        parts.append("".join(page_xml(page, number + 1) for number, page in
                             enumerate(pages[first:first + pages_per_stream], first)))
    return [*parts, "</mediawiki>\n"]


def write_multistream(path, pages: List[Page], language: str = "en", pages_per_stream: int = 100) -> str:
    with open(path, "wb") as file:
        for text in streams(pages, language, pages_per_stream):
            file.write(bz2.compress(text.encode()))
    return str(path)


def write_mirror(folder, pages: List[Page], language: str = "en", parts: int = 1) -> Dict[str, bytes]:
    """Writes the folder of one dump, and returns path -> content as a mirror serves it."""
    wiki = f"{language}wiki"
    place = pathlib.Path(folder) / wiki / DATE
    place.mkdir(parents=True)
    each = -(-len(pages) // parts)
    for part in range(parts):
        first = part * each
        suffix = "" if parts == 1 else f"{part + 1}"
        end = "" if parts == 1 else f"-p{first + 1}p{min(first + each, len(pages))}"
        write_multistream(place / f"{wiki}-{DATE}-pages-articles-multistream{suffix}.xml{end}.bz2",
                          pages[first:first + each], language)
    names = sorted(path.name for path in place.iterdir())
    for kind in ("md5", "sha1"):
        (place / f"{wiki}-{DATE}-{kind}sums.txt").write_text("".join(
            f"{hashlib.new(kind, (place / name).read_bytes()).hexdigest()}  {name}\n" for name in names))
    content = {f"/{path.relative_to(folder)}": path.read_bytes() for path in place.iterdir()}
    content[f"/{wiki}/"] = f'<html><a href="../">..</a><a href="{DATE}/">{DATE}/</a><a href="latest/">x</a>'.encode()
    return content


if __name__ == "__main__":
    language = sys.argv[3] if len(sys.argv) > 3 else "en"
    write_mirror(sys.argv[1], make_pages(int(sys.argv[2]) if len(sys.argv) > 2 else 800, language), language)
