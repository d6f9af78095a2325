"""What a corpus consists of."""
from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    name: str  # file and number, or the title of an article
    text: str  # a paragraph per line, without blank lines
