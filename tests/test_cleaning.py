"""data/cleaning.py: what each filter leaves out and keeps, languages, keys, signatures against exact similarities."""
from __future__ import annotations

import random
import re
import sys

import numpy as np
import pytest
import support

sys.path.insert(0, str(support.ROOT / "data"))

import cleaning  # noqa: E402
from cleaning import Filters  # noqa: E402

PROSE = ("The harbour was quiet that morning, and nobody had seen the boat leave. A woman stood on the wall with a "
         "basket of fish; she waited for her brother, who was late again.")
DEFAULTS = dict(min_characters=50, min_letters=0.6, max_digits=0.2, max_markup=0.1, max_repeated_lines=0.3,
                min_distinct_words=0.15)


@pytest.mark.parametrize("text, reason", [
    (PROSE, None),
    ("It rained.", "short"),
    ("+-=/?!,.:; " * 20 + PROSE[:40], "few letters"),
    ("1894 12,5 77 31 2044 18:30 " * 9 + PROSE, "digits"),
    ('<div class="a"><p>{x}</p></div> ' * 9 + PROSE, "markup"),
    (PROSE + "\nAll rights reserved." * 9, "repeated lines"),
    ("buy now " * 200, "repeated words"),
    ("यह एक किताब है। वह कहाँ है? मुझे नहीं पता। " * 3, None),
    ("他们都在港口等那条船回来，可是没有人看见它离开。" * 3, None)])
def test_filters(text, reason):
    assert Filters(**DEFAULTS).reason(text) == reason


def test_each_filter_can_be_switched_off():
    off = Filters(min_characters=0, min_letters=0, max_digits=1, max_markup=1, max_repeated_lines=1,
                  min_distinct_words=0)
    for text in ("", "x", "1 2 3", "<<<>>>", "a\na\na\na", "buy now " * 200):
        assert off.reason(text) is None


def test_other_languages_are_left_out_where_the_language_is_filtered(refuses):
    pytest.importorskip("py3langid")
    german = "Der Hafen lag an jenem Morgen still da, und niemand hatte das Boot hinausfahren sehen. Sie wartete."
    assert Filters(**DEFAULTS, language="de").reason(german) is None
    assert Filters(**DEFAULTS, language="de-AT").reason(german) is None
    assert Filters(**DEFAULTS, language="de").reason(PROSE) == "language"
    cleaning.check_language("de")
    assert "--language=tlh" in refuses(cleaning.check_language, "tlh")


def test_keys_depend_on_text_and_seed_alone():
    assert cleaning.key_of(PROSE, 1) == cleaning.key_of(PROSE, 1) != cleaning.key_of(PROSE, 2)
    assert cleaning.key_of(PROSE, 1) != cleaning.key_of(PROSE[:-1], 1)
    assert len(cleaning.key_of("", 0)) == 16


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[begin:begin + cleaning.SHINGLE_WORDS])
            for begin in range(len(words) - cleaning.SHINGLE_WORDS + 1)}


def test_signatures_estimate_the_similarity_of_texts():
    """The standard deviation of one estimate is sqrt(s (1 - s) / 128), at most 0.044; the bound is five of them."""
    draw = random.Random(1)
    words = [f"word{draw.randrange(3000)}" for _ in range(1500)]
    for rate in (0.0, 0.01, 0.05, 0.2):
        other = [f"new{draw.randrange(3000)}" if draw.random() < rate else word for word in words]
        one, two = shingles(" ".join(words)), shingles(" ".join(other))
        exact = len(one & two) / len(one | two)
        estimate = np.mean(np.equal(cleaning.signature(" ".join(words)), cleaning.signature(" ".join(other))))
        assert abs(estimate - exact) <= 0.22 * (rate > 0), rate


def test_signatures_of_scripts_without_spaces_compare_characters():
    text = "".join(chr(0x4e00 + random.Random(2).randrange(200)) for _ in range(3)) + "".join(
        chr(0x4e00 + number * number % 997) for number in range(400))
    same = np.mean(np.equal(cleaning.signature(text), cleaning.signature(text[:200] + "好" + text[200:])))
    assert 0.8 < same < 1.0
    assert len(cleaning.signature("")) == cleaning.PERMUTATIONS
