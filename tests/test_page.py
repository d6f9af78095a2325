"""page.py: what is text stays text, the page needs nothing from outside, and its parts fit together."""
from __future__ import annotations

import html.parser
import re

import pytest

import page
from page import Section, element

ATTACKS = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "</title><b>",
           "&lt;b&gt;", "${title} $body", "javascript:alert(1)")


class Reader(html.parser.HTMLParser):
    """Collects elements and text, and fails on elements that are not closed in order."""

    VOID = ("meta", "path", "use", "br")

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def assert_self_contained(text: str):
    """No script, no handler, nothing that a browser would fetch."""
    reader = read(text)
    for tag, attributes in reader.elements:
        assert tag not in ("script", "img", "iframe", "link", "object", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")]
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import|https?:", text)
    assert "default-src 'none'" in text
    assert len(set(reader.ids)) == len(reader.ids)
    return reader


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_stays_text_wherever_it_is_given(attack):
    section = Section(attack, [
        page.paragraph(attack), page.numbers([(attack, attack, attack)]), page.table(attack, [attack], [[attack]]),
        element("span", attack, title=attack, class_=attack)])
    reader = assert_self_contained(page.render(attack, attack, [section], attack))
    assert "".join(reader.text).count(attack) == 14  # title and heading, subtitle, link and heading, 8 parts, footer


def test_markup_is_not_escaped_twice():
    once = element("b", "a < b")
    assert once == "<b>a &lt; b</b>" and element("p", once, " & ") == "<p><b>a &lt; b</b> &amp; </p>"


def test_characters_that_html_cannot_hold_are_replaced():
    text = page.render("a\ud800b\x00\x1b\uffff", "x\ty\n", [], "")
    assert "a\ufffdb\ufffd\ufffd\ufffd" in text
    text.encode("utf-8")


def test_two_plots_have_the_colors_of_the_page_and_ids_of_their_own():
    plots = [page.plot(lambda axes: (axes.plot([0, 1], [1, 0], color=page.SERIES[1], label="$a < b$"), axes.legend()),
                       "<described>", "caption", name) for name in ("one", "two")]
    text = page.render("t", "s", [Section("plots", plots)], "f")
    reader = assert_self_contained(text)
    assert "var(--series-2)" in text and "currentColor" in text and "#0101" not in text
    assert [attributes["aria-label"] for tag, attributes in reader.elements if tag == "svg"] == ["<described>"] * 2
    ids = set(reader.ids)
    assert all(reference in ids for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', text))


def test_a_bar_stays_within_its_frame():
    for percent, width in ((-3.0, "0.0"), (40.0, "40.0"), (130.0, "100.0")):
        assert f"width: {width}%" in page.bar(percent)
