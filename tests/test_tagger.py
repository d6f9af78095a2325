"""tagger: spans with their places, long texts by windows, batches, plain tags, refusals."""
from __future__ import annotations

import pathlib

import numpy as np
import pytest
from support import FILLERS, save_tagger

import predictor
import tagging
import weights
from tagger import Tagger

TINY = pathlib.Path(__file__).parent / "data" / "transformers_tiny"


@pytest.fixture(scope="module")
def tagger(reader_folder, tmp_path_factory):
    return Tagger.from_pretrained(save_tagger(reader_folder, tmp_path_factory.mktemp("tagger") / "model",
                                              weights.Labels(("O", "I-Z", "B-Z"), None)))


def test_spans_have_their_place_label_and_probability(tagger):
    text = "\U0001f600 bel  zed zed. (zed)"
    spans = tagger.tag(text)
    assert [(span.text, span.label) for span in spans] == [("zed zed", "Z"), ("zed", "Z")]
    assert all(text[span.start:span.end] == span.text and 0.9 < span.probability < 1 for span in spans)
    assert tagger.tag("bel bir") == []


def test_a_document_of_any_length_is_tagged_in_overlapping_windows(tagger):
    places = (0, 21, 22, 23, 44, 199, 200, 311)
    words = ["zed" if place in places else FILLERS[place % 40] for place in range(312)]
    spans = tagger.tag(" ".join(words))
    assert [span.text for span in spans] == ["zed", "zed zed zed", "zed", "zed zed", "zed"]
    starts = np.cumsum([0] + [len(word) + 1 for word in words])
    assert [span.start for span in spans] == [starts[place] for place in (0, 21, 44, 199, 311)]


def test_lists_are_computed_in_batches_and_traced_once(tagger, monkeypatch):
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice([*FILLERS[:3], "zed"], rng.integers(1, 70))) for _ in range(30)]
    alone = [tagger.tag(text) for text in texts]
    assert sum(map(bool, alone)) > 20
    monkeypatch.setattr(predictor, "BATCH_SIZE", 5)
    monkeypatch.setattr(tagger, "buckets", [8, 16, 24, 32])
    for spans, expected in zip(tagger.tag(texts), alone):
        assert [span[:4] for span in spans] == [span[:4] for span in expected]
        assert [span.probability for span in spans] == pytest.approx([span.probability for span in expected], abs=1e-4)
    assert tagger._answers.experimental_get_tracing_count() == 1


def test_plain_tags_are_a_span_a_word(reader_folder, tmp_path):
    tagger = Tagger.from_pretrained(save_tagger(reader_folder, tmp_path / "model",
                                                weights.Labels(("NOUN", "VERB"), None)))
    assert [(span.text, span.label) for span in tagger.tag("bel zed bir")] == [
        ("bel", "NOUN"), ("zed", "VERB"), ("bir", "NOUN")]


def test_words_of_a_file_keep_their_tags(tagger):
    sentences = [tagging.joined(["bel", "zed", "zed"], None, "1", ""), tagging.joined(["zed"], None, "2", "")]
    assert [tagged.tags for tagged in tagger.tagged(sentences)] == [("O", "I-Z", "I-Z"), ("I-Z",)]


def test_a_tagger_of_transformers_is_used_with_its_labels():
    tagger = Tagger.from_pretrained(str(TINY / "token_classification"))
    assert tagger.labels.names == ("O", "B-PER", "I-PER", "B-LOC") and not tagger.plain
    assert {span.label for span in tagger.tag("the cat sat on the mat " * 20)} <= {"PER", "LOC"}


def test_what_cannot_be_tagged_is_refused(tagger, refuses):
    assert "text 1 of 1" in refuses(tagger.tag, " ")
    assert "--doc_stride=31" in refuses(Tagger.from_pretrained, tagger.config.init_checkpoint, doc_stride=31)
    assert "classifier" in refuses(Tagger.from_pretrained, str(TINY / "sequence_classification"))
