"""data/gutenberg.py: the text of books with every kind of header and footer, and what is in between."""
from __future__ import annotations

import random
import sys
import time

import pytest
import support

sys.path.insert(0, str(support.ROOT / "data"))

import gutenberg  # noqa: E402

DRAW = random.Random(5)
WORDS = "river mountain village century church bridge castle library station harbour garden school market".split()


def hard_wrapped(number):
    """A paragraph of several lines that ends with its number."""
    words = [*DRAW.choices(WORDS, k=40), f"number{number}."]
    return "\n".join(" ".join(words[place:place + 9]) for place in range(0, len(words), 9))


PARAGRAPHS = [hard_wrapped(number) for number in range(60)]
BODY = "\n\n".join(["CHAPTER I", "The Beginning", *PARAGRAPHS[:30], "\nCHAPTER II", *PARAGRAPHS[30:]])
EXPECTED = ["CHAPTER I", "The Beginning", *(" ".join(text.split()) for text in PARAGRAPHS[:30]), "CHAPTER II",
            *(" ".join(text.split()) for text in PARAGRAPHS[30:])]
LICENSE = "Section 1. General Terms of Use\n\nBy reading or using any part of this work you agree.\n" * 20


def clean(text):
    return gutenberg.clean(text).split("\n")


# --- Header and footer ---

@pytest.mark.parametrize("header", [
    "The Project Gutenberg eBook of A Book\n\nThis eBook is for the use of anyone anywhere.\n\nTitle: A Book\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n",
    "Project Gutenberg's A Book, by Nobody\n\n***START OF THE PROJECT GUTENBERG EBOOK A BOOK***\n\n\n"
    "E-text prepared by Somebody\nand the Online Distributed Proofreading Team\n",
    "*** START OF THIS PROJECT GUTENBERG EBOOK A VERY LONG TITLE OF A BOOK THAT IS\nCONTINUED IN THE NEXT LINE ***\n\n"
    "Produced by Judith Boss and David Widger\n",
    "**The Project Gutenberg Etext of A Book**\n\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n\n"
    "Why is this here?\n\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.12.12.00*END*\n\nThis etext was prepared by Somebody.\n",
    "Produced by An Anonymous Volunteer\n\n[Illustration]\n",
    "Transcribed from the 1890 edition by Somebody, email s@example.org\n", ""])
@pytest.mark.parametrize("footer", [
    "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n\n" + LICENSE,
    "***END OF THE PROJECT GUTENBERG EBOOK A BOOK***\n\n" + LICENSE,
    "End of the Project Gutenberg EBook of A Book\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ***\n" + LICENSE,
    "End of Project Gutenberg’s A Book, by Nobody\n", "End of this Project Gutenberg Etext of A Book\n\n" + LICENSE,
    "Updated editions will replace the previous one--the old editions\nwill be renamed.\n" + LICENSE,
    "Transcriber's Notes:\n\nPage 5: a comma was added.\n\n\n\nPage 6: another one.\n", ""])
def test_header_credits_and_footer_are_removed(header, footer):
    for ends in ("\n", "\r\n"):
        text = f"{header}\n\n\n{BODY}\n\n\n\n{footer}".replace("\n", ends)
        assert clean("\ufeff" + text) == EXPECTED


@pytest.mark.parametrize("beginning, end, known", [
    ("The Project Gutenberg eBook\n\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\n", "", True),
    ("A Title\n\n", "text.\n\nEnd of the Project Gutenberg EBook of X\n", True),
    ("Produced by Judith Boss\n\nA Title", "text.", True),
    ("A text about Project Gutenberg.\n\nIt began in 1971.", "This is the end.\n", False), ("", "", False)])
def test_books_are_recognised(beginning, end, known):
    assert gutenberg.is_book(beginning, end) == known


def test_a_footer_in_the_first_half_and_a_header_in_the_second_are_text():
    text = "\n\n".join([*PARAGRAPHS[:5], "*** END OF THE PROJECT GUTENBERG EBOOK X ***", *PARAGRAPHS[5:]])
    assert clean(text) == [" ".join(paragraph.split()) for paragraph in PARAGRAPHS]
    text = "\n\n".join([*PARAGRAPHS, "*** START OF THE PROJECT GUTENBERG EBOOK X ***", PARAGRAPHS[0]])
    assert len(clean(text)) > 60


# --- In between ---

@pytest.mark.parametrize("contents", [
    "CONTENTS\n\n     Chapter I      The Beginning\n     CHAPTER II     The End",
    "CONTENTS.\n\nCHAPTER I. The Beginning.--Somebody\nComes.--More of it.\n\nCHAPTER II. The\nEnd.--And more.",
    "TABLE OF CONTENTS\n\nCHAPTER I\n\nCHAPTER II", "Contents\nCHAPTER I\nCHAPTER II",
    "INHALT\n\nCHAPTER I  .  .  .  1\nCHAPTER II . . . . 70",
    "LIST OF ILLUSTRATIONS\n\nA castle   _Frontispiece_\nA bridge   17"])
def test_tables_of_contents_are_removed(contents):
    assert clean(f"A BOOK\n\nBy Nobody\n\n\n{contents}\n\n\n\n{BODY}") == ["A BOOK", "By Nobody", *EXPECTED]


def test_a_preface_between_contents_and_first_chapter_is_kept():
    text = f"CONTENTS\n\nCHAPTER I\n\nCHAPTER II\n\n\n\n\nPREFACE\n\n{PARAGRAPHS[7]}\n\n\n\n{BODY}"
    assert clean(text) == ["PREFACE", " ".join(PARAGRAPHS[7].split()), *EXPECTED]


@pytest.mark.parametrize("markup, text", [
    ("A line that is\nhard-wrapped.", "A line that is hard-wrapped."),
    ("_Italics_, =bold=, _over two\nlines_ and gentle_men_.", "Italics, bold, over two lines and gentlemen."),
    ("A blank of ____ pounds and 2 = 2.", "A blank of ____ pounds and 2 = 2."),
    ("It went on--\nand on.", "It went on--and on."), ("It went on—\nand on.", "It went on—and on."),
    ("It was a twenty-\nfive year old.", "It was a twenty-five year old."),
    ("A moun-\ntain and a mountain.", "A mountain and a mountain."),
    ("A re-\nform and a reform and a re-form.", "A re-form and a reform and a re-form."),
    ("[Illustration]\n\nText.", "Text."), ("[Illustration: A [very] old\n\ncastle]\nText.", "Text."),
    ("Text [Pg 17] goes {18} on.[1] And[A] on.[*]", "Text goes on. And on."),
    ("The year [1867] was.", "The year [1867] was."),
    ("[Transcriber's Note: the spelling\nis old.]\n\nText.", "Text."),
    ("[Footnote 1: A note\nof two lines.]", "A note of two lines."),
    ("*       *       *       *       *", ""), ("-----", ""),
    ("    Tiger, tiger, burning bright\n      In the forests of the night,\n\n    What immortal hand?",
     "Tiger, tiger, burning bright In the forests of the night,\nWhat immortal hand?"),
    ("Wheat     5 pounds\nRye       7 pounds", "Wheat 5 pounds\nRye 7 pounds"),
    ("", ""), ("\n\n\n", "")])
def test_paragraphs(markup, text):
    assert gutenberg.clean(markup) == text


def test_notes_of_transcribers_in_front_end_at_a_gap():
    assert clean(f"TRANSCRIBER'S NOTE\n\nThe spelling is old.\n\nSo is this.\n\n\n\n\n{BODY}") == EXPECTED
    assert clean(f"Transcriber's Note: the spelling is old.\n\n{BODY}") == EXPECTED


def test_any_text_is_cleaned_in_time_that_grows_with_its_length():
    pieces = ["[Illustration", "]", "[", "_", "\n", "\n\n", "CONTENTS", "-\n", "*** ", "a ", "  ", "=", "~",
              "Transcriber's Note", "END OF THE PROJECT GUTENBERG", "[Footnote"]
    start = time.process_time()
    for _ in range(50):
        lines = gutenberg.clean("".join(DRAW.choices(pieces, k=400))).split("\n")
        assert lines == [""] or all(line.strip() for line in lines)
    for piece in ("[Illustration", "[Illustration [", "_a", "_ ", "a-\n", "=a", "* ", "[", "\n", " ", "Contents\n\n"):
        gutenberg.clean(piece * 20_000)
    assert time.process_time() - start < 10
