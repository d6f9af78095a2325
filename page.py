"""Self-contained HTML pages: the skeleton of templates/page.html, and the parts that reports are made of.

A page has no outside resource, follows the light or dark setting of the browser, and can be read on a phone and
printed. Every function takes text and escapes it; what is HTML already is `Markup`. Sections may bring scripts: the
policy of the page names each by its hash, so that no other script runs. Without scripts, text and tables still show.

Two kinds of plots: `plot` is SVG by matplotlib, inline, with the colors of the page, for a page without scripts. Curves
to zoom into are drawn by uPlot (templates/uplot, MIT). It was chosen by size and looks: 51 KB with zoom, cursor and
log scale, on a canvas that draws 100,000 points in milliseconds. Chart.js with its zoom plug-in has 230 KB, ECharts and
Plotly 1 MB or more, and SVG by D3 slows down from some thousand points on.
"""
from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
import string
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")


class Markup(str):
    """HTML, as opposed to text that is still to be escaped."""


def escape(text) -> Markup:
    """Text as HTML. Characters that HTML cannot hold, such as lone surrogates and control characters, become U+FFFD."""
    if isinstance(text, Markup):
        return text
    return Markup(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd",
                         html.escape(str(text))))


def join(parts: Sequence[str]) -> Markup:
    return Markup("".join(map(escape, parts)))


def element(name: str, *content: str, **attributes: str) -> Markup:
    """An element with its content. `class_` is the attribute class."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{words}>{join(content)}</{name}>")


def paragraph(text: str) -> Markup:
    return element("p", text)


def numbers(entries: Sequence[Tuple[str, str, str]]) -> Markup:
    """Headline numbers: (name, value, remark)."""
    return element("dl", *(element("div", element("dt", name), element("dd", value, element("small", remark)))
                           for name, value, remark in entries), class_="numbers")


def bar(percent: float) -> Markup:
    """A bar of 0 to 100%, then the number."""
    width = f"width: {min(max(percent, 0.0), 100.0):.1f}%"
    return join([element("span", element("i", style=width), class_="bar", aria_hidden="true"),
                 element("span", f"{percent:.1f}", class_="value")])


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = ()) -> Markup:
    """A table, which scrolls in itself where it is wider than the page.

    Args:
        texts: columns of text, which is wrapped. The first column is always text, the others are numbers.
    """
    def row_of(kind, cells, **attributes):
        cells = [(kind, attributes, cell) if cell else ("td", {}, "") for cell in cells]  # an empty head is none
        return element("tr", *(element(name, cell, **more, **({"class_": "text"} if number in texts else {}))
                               for number, (name, more, cell) in enumerate(cells)))

    head = element("thead", row_of("th", header, scope="col"))
    body = element("tbody", *(row_of("td", row) for row in rows))
    return element("div", element("table", element("caption", caption), head, body), class_="scroll", tabindex="0",
                   role="region", aria_label=caption)


def columns(*parts: Markup) -> Markup:
    """Parts beside each other where there is room."""
    return element("div", *parts, class_="columns")


# --- Plots ---

SERIES = ("#010111", "#010122", "#010133")  # colors to draw in: those of the page's series
_TEXT = "#010101"
_COLORS = {_TEXT: "currentColor", **{color: f"var(--series-{n})" for n, color in enumerate(SERIES, 1)}}
_STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False,
          "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
          **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color",
                           "grid.color"), _TEXT)}


def plot(draw: Callable, description: str, caption: str, name: str) -> Markup:
    """A figure.

    Args:
        draw: called with matplotlib's axes.
        description: what a screen reader says.
        name: of the figure, unique on its page: it keeps the ids of figures apart.
    """
    import matplotlib  # most of a second
    from matplotlib.figure import Figure
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.8, 3.2))  # in points as wide as a phone, so that its text has a legible size there
        axes = figure.add_axes((0.12, 0.16, 0.86, 0.8))
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg"):], flags=re.DOTALL)
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for color, role in _COLORS.items():
        svg = svg.replace(color, role)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    return element("figure", Markup(svg), element("figcaption", caption))


# --- Scripts ---


def template(*names: str) -> str:
    """The text of a file in templates/. Raises: OSError: it is missing."""
    with open(os.path.join(TEMPLATES, *names), encoding="utf-8") as file:
        return file.read()


def data_for_script(content: Any, key: str) -> Markup:
    """JSON for a script, in an element of class `data` with the attribute data-key. It cannot end its element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" class="data" data-key="{escape(key)}">{text}</script>')


def hashes(texts: Sequence[str]) -> str:
    """What a Content-Security-Policy calls scripts or styles with these texts."""
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)


# --- Pages ---


class Section(NamedTuple):
    """A section of a page.

    Args:
        script: JavaScript, run once when the page is there; sections with the same text share it. On a page that
            refreshes (`render`), a section that has changed gets its new content: its script is run again and finds
            form fields with the values that they had, unless it has set `refresh` of the section's element to a
            function of the new one.
        style: CSS.
    """

    title: str
    parts: Sequence[Markup]
    script: str = ""
    style: str = ""


def render(title: str, subtitle: str, sections: Sequence[Section], footer: str, refresh_seconds: int = 0) -> str:
    """A page.

    Args:
        refresh_seconds: for a page that a server answers with: it asks for its new content so often; 0: never.
    Raises: OSError: the template is missing.
    """
    live = [f"const REFRESH_SECONDS = {refresh_seconds};\n" + template("live.js")] if refresh_seconds else []
    scripts = [*dict.fromkeys(section.script for section in sections if section.script), *live]
    policy = f"; script-src {hashes(scripts)}" if scripts else ""
    policy += "; connect-src 'self'" if live else ""
    links: List[Markup] = []
    body: List[Markup] = []
    for number, section in enumerate(sections, 1):
        links.append(element("li", element("a", section.title, href=f"#section-{number}")))
        script = {"data_script": str(scripts.index(section.script))} if section.script else {}
        body.append(element("section", element("h2", section.title, id=f"section-{number}"), *section.parts,
                            aria_labelledby=f"section-{number}", **script))
    return string.Template(template("page.html")).substitute(
        title=escape(title), subtitle=escape(subtitle), links=join(links), body=Markup("\n").join(body),
        footer=escape(footer), policy=policy, style="\n".join(dict.fromkeys(section.style for section in sections)),
        scripts="\n".join(f"<script>{text}</script>" for text in scripts))
