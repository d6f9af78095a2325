"""tagging: files, schemes, words, windows, labels, predictions back to characters; refusals name file and line."""
from __future__ import annotations

import json

import numpy as np
import pytest
from support import FILLERS

import batching
import tagging
from configuration import RunFailed
from tagging import Sentence, spans_in, split_words, with_scheme
from tokenization import ElectraTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tagging") / "vocab.txt"
    words = [*FILLERS, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *"abcdefghijklmnopqrstuvwxyz.-"]))
    return ElectraTokenizer(str(path))


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def write_lines(tmp_path, *entries):
    return write(tmp_path, "data.jsonl", "\n".join(map(json.dumps, entries)) + "\n")


def words_of(sentence):
    return [sentence.text[start:end] for start, end in sentence.words]


# --- Files ---


def test_columns_are_read_as_sentences(tmp_path):
    path = write(tmp_path, "train.txt", "\ufeff-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\n# x\nSt A B-LOC")
    first, second = tagging.read(path)
    assert words_of(first) == ["EU", "rejects"] and first.tags == ("B-ORG", "O") and first.text == "EU rejects"
    assert words_of(second) == ["St"] and second.tags == ("B-LOC",) and "line 8" in second.where


def test_columns_by_number_tabs_and_words_with_spaces(tmp_path):
    path = write(tmp_path, "train.tsv", "# http://x [2009]\n1\tSt Louis\tB-LOC\tO\r\n2\t#\tO\tO\r\n\r\n1\tx\tO\tO\r\n")
    sentences = tagging.read(path, word_column=1, tag_column=2)
    assert [words_of(sentence) for sentence in sentences] == [["St Louis", "#"], ["x"]]
    assert sentences[0].tags == ("B-LOC", "O") and [sentence.id for sentence in sentences] == ["1", "2"]


def test_texts_without_tags_are_read_to_be_tagged(tmp_path):
    assert tagging.read(write(tmp_path, "a.txt", "a\nb\n"), needs_tags=False)[0].tags is None
    (found,) = tagging.read(write_lines(tmp_path, {"text": "a b."}), needs_tags=False)
    assert found.tags is None and words_of(found) == ["a", "b", "."]


@pytest.mark.parametrize("spans", [
    {"spans": [{"start": 4, "end": 12, "label": "PER"}, {"start": 0, "end": 3, "label": "ORG"}]},
    {"entities": [[0, 3, "ORG"], [4, 12, "PER"]]}, {"label": [[0, 3, "ORG"], [4, 12, "PER"]]}])
def test_json_lines_with_spans_of_characters(spans, tmp_path):
    (found,) = tagging.read(write_lines(tmp_path, {"id": 7, "text": "Öko Ann-Bo X!", **spans}))
    assert found.id == "7" and words_of(found) == ["Öko", "Ann", "-", "Bo", "X", "!"]
    assert found.tags == ("B-ORG", "B-PER", "I-PER", "I-PER", "I-PER", "O")
    assert [span[:4] for span in spans_in(found, found.tags)] == [(0, 3, "ORG", "Öko"), (4, 12, "PER", "Ann-Bo X")]


def test_json_lines_with_words_and_tags(tmp_path):
    found = tagging.read(write_lines(tmp_path, {"words": ["a", "b"], "tags": ["O", "B-X"]},
                                     {"tokens": ["c"], "ner_tags": ["O"]}))
    assert [sentence.text for sentence in found] == ["a b", "c"] and found[0].tags == ("O", "B-X")


def test_a_span_inside_a_word_is_extended_with_a_warning(tmp_path, caplog):
    (found,) = tagging.read(write_lines(tmp_path, {"text": "in Berlins Mitte", "spans": [[3, 9, "LOC"]]}))
    assert found.tags == ("O", "B-LOC", "O") and "data.jsonl, line 1" in caplog.text


@pytest.mark.parametrize("name, text, parts", [
    ("a.txt", "a O\nb\n", ["a.txt, line 2", "1 column", "2"]),
    ("a.txt", "a O\n\nb X O\n", ["a.txt, line 3", "3 columns", "line 1"]),
    ("a.txt", "a\nb\n", ["a.txt, line 1", "1 column"]),
    ("a.tsv", "a\tO\n\tO\n", ["a.tsv, line 2", "empty"]),
    ("a.txt", "\n\n", ["a.txt", "no sentences"]),
    ("a.jsonl", "{\n", ["a.jsonl, line 1", "JSON"]),
    ("a.jsonl", '{"text": "a"}', ["line 1", "spans"]),
    ("a.jsonl", '{"text": " ", "spans": []}', ["line 1", "text"]),
    ("a.jsonl", '{"spans": []}', ["line 1", "text is missing"]),
    ("a.jsonl", '{"text": "a", "id": [1], "spans": []}', ["line 1", "id"]),
    ("a.jsonl", '{"text": "a b", "spans": {"start": 0}}', ["line 1", "not a list"]),
    ("a.jsonl", '\n{"text": "a b", "spans": [[0, 9, "X"]]}', ["line 2", "0 to 9", "3 characters"]),
    ("a.jsonl", '{"text": "a b", "spans": [[0, 0, "X"]]}', ["line 1", "0 to 0"]),
    ("a.jsonl", '{"text": "a b", "spans": [[1, 2, "X"]]}', ["line 1", "1 to 2", "no word"]),
    ("a.jsonl", '{"text": "a b", "spans": [[0, 1, "X"], [0, 3, "Y"]]}', ["line 1", "overlaps"]),
    ("a.jsonl", '{"text": "a b", "spans": [[0, true, "X"]]}', ["line 1", "integers"]),
    ("a.jsonl", '{"text": "a b", "spans": [{"start": 0, "end": 1}]}', ["line 1", "label"]),
    ("a.jsonl", '{"words": ["a", "b"], "tags": ["O"]}', ["line 1", "2 words", "1 tags"]),
    ("a.jsonl", '{"words": ["a"], "tags": [0]}', ["line 1", "tags"]),
    ("a.jsonl", '{"words": [], "tags": []}', ["line 1", "0 words"])])
def test_a_wrong_file_is_refused_with_its_line(name, text, parts, tmp_path, refuses):
    said = refuses(tagging.read, write(tmp_path, name, text))
    assert all(part in said for part in parts), said


def test_other_files_are_refused(tmp_path, refuses):
    assert "none.txt" in refuses(tagging.read, str(tmp_path / "none.txt"))
    (tmp_path / "a.txt").write_bytes(b"a O\n\xff O\n")
    assert "UTF-8" in refuses(tagging.read, str(tmp_path / "a.txt"))


# --- Words ---


@pytest.mark.parametrize("text, words", [
    ("", []), ("  ", []), ("a", ["a"]), ("U.S.-based, 3.5%", "U . S . - based , 3 . 5 %".split()),
    ("中文ab漢", ["中", "文", "ab", "漢"]), ("かな", ["か", "な"]), ("हिन्दी में", ["हिन्दी", "में"]),
    ("Zu\u00adsam\u200b!", ["Zu\u00adsam", "!"]), ("a\u0301b\ud800", ["a\u0301b"]), ("👍🏽x", ["👍", "🏽", "x"])])
def test_words_are_berts(text, words):
    assert [text[start:end] for start, end in split_words(text)] == words


# --- Schemes ---


def tagged(*tags, where="f, line 1"):
    return tagging.joined([f"w{i}" for i in range(len(tags))], tags, "1", where)


@pytest.mark.parametrize("tags, bio, bioes", [
    ("B-X I-X O B-Y", None, "B-X E-X O S-Y"),
    ("I-X I-X B-X O", "B-X I-X B-X O", "B-X E-X S-X O"),  # IOB1
    ("B-X I-Y", "B-X B-Y", "S-X S-Y"),
    ("S-X B-Y I-Y E-Y", "B-X B-Y I-Y I-Y", None), ("O O", None, "O O")])
def test_schemes_are_converted(tags, bio, bioes):
    for scheme, expected in (("bio", bio), ("bioes", bioes)):
        (found,), used = with_scheme([tagged(*tags.split())], scheme)
        assert found.tags == tuple((expected or tags).split()) and used == scheme


def test_the_scheme_is_that_of_the_file():
    assert with_scheme([tagged("I-X")]) == ([tagged("B-X")], "bio")
    assert with_scheme([tagged("S-X"), tagged("O")])[1] == "bioes"
    assert with_scheme([tagged("NOUN", "VERB")])[1] == "plain"
    assert with_scheme([tagged("B-X", "NOUN")], "plain")[0] == [tagged("B-X", "NOUN")]


@pytest.mark.parametrize("scheme, tags, parts", [
    (None, ["O", "X-PER", "B-PER"], ["f, line 9", "word 2", "w1", "X-PER"]),
    (None, ["B-PER", "B-"], ["f, line 9", "'B-'"]), ("bio", ["N", "V"], ["f, line 9", "BIO"])])
def test_tags_of_no_scheme_are_refused_with_their_place(scheme, tags, parts, refuses):
    said = refuses(with_scheme, [tagged(*tags, where="f, line 9")], scheme)
    assert all(part.replace("'", "") in said.replace('"', "") for part in parts), said


def test_labels_are_all_tags_of_the_types_in_the_data(refuses):
    data = [tagged("B-Y", "O"), tagged("I-X")]
    assert tagging.labels_of(data, "bio") == ("O", "B-X", "I-X", "B-Y", "I-Y")
    assert tagging.labels_of([tagged("S-X")], "bioes") == ("O", "B-X", "I-X", "E-X", "S-X")
    assert tagging.labels_of([tagged("V", "N")], "plain") == ("N", "V")
    assert tagging.is_spans(("O", "B-X")) and not tagging.is_spans(("N", "V", "O"))
    assert "f, line 4" in refuses(tagging.check_labels, [tagged("B-Z", where="f, line 4")], ("O", "B-X"))


# --- Windows ---


def random_sentences(count, seed=0):
    """Sentences of 0 to 40 words, some of several tokens."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        words = ["".join(rng.choice(list("abcde"), rng.integers(1, 5))) if rng.random() < 0.3 else rng.choice(FILLERS)
                 for _ in range(rng.integers(0, 41))]
        tags = rng.choice(["O", "B-X", "I-X", "B-Y"], len(words)).tolist()
        found.append(tagging.joined(words, tags, str(number), ""))
    return with_scheme(found)[0]


LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")


def test_each_word_is_labelled_once_at_its_first_token_and_read_back(tokenizer):
    sentences = random_sentences(30)
    features = tagging.build_features(sentences, tokenizer, 16, 5, LABELS)
    assert len(features.lengths) > 60 and features.labelled.sum() == sum(len(one.words) for one in sentences)
    for sentence, of_word in zip(sentences, features.word_tokens):
        _, starts, _ = tokenizer.encode_spans([sentence.text])[0]
        assert starts[of_word].tolist() == [start for start, _ in sentence.words]
    # A model that is right where a token has a label and wrong elsewhere.
    logits = np.full([*features.labels.shape, 5], -1.0)
    logits[..., 3] = 1.0
    np.put_along_axis(logits, np.maximum(features.labels, 0)[..., None],
                      np.where(features.labels >= 0, 9.0, -1.0)[..., None], -1)
    batches = batching.plan_batches(features.lengths, [8, 16], 7, np.argsort(features.lengths))
    found = tagging.decode(features, [(batch, logits[batch.rows, :batch.length]) for batch in batches], LABELS)
    assert [one.tags for one in found] == [sentence.tags for sentence in sentences]
    assert all(np.all(one.probabilities > 0.9) for one in found)


def test_a_word_is_predicted_where_it_has_most_context(tokenizer):
    sentence = tagging.joined(FILLERS[:30], ["O"] * 30, "1", "")
    features = tagging.build_features([sentence], tokenizer, 12, 4, ("O",))
    assert features.first_token.tolist() == [0, 4, 8, 12, 16, 20]
    distance = {}
    for row, first in enumerate(features.first_token):
        for position in range(1, 11):
            token, inside = first + position - 1, min(position - 1, 10 - position)
            best = distance.setdefault(token, [])
            best.append((inside, bool(features.is_max_context[row, position])))
    for places in distance.values():
        assert sum(chosen for _, chosen in places) == 1
        assert max(places)[0] == next(inside for inside, chosen in places if chosen)


def test_texts_without_tokens_and_words_without_tokens(tokenizer):
    sentences = [Sentence("1", "", (), None, ""), tagging.joined(["\u200b", "ban", "\ufffd\ufffd"], ["O"] * 3, "2", "")]
    features = tagging.build_features(sentences, tokenizer, 8, 6, ("X", "O"))
    assert features.lengths[0] == 2 and features.word_tokens[1][0] == -1
    logits = np.zeros([2, 8, 2])
    found = tagging.decode(features, [(batching.Batch(8, np.arange(2)), logits)], ("X", "O"))
    assert found[0].tags == () and found[1].tags[:2] == ("O", "X")


def test_a_batch_is_padded_with_rows_of_weight_0(tokenizer):
    features = tagging.build_features(random_sentences(5), tokenizer, 16, 8, LABELS)
    batch = batching.Batch(16, np.array([2, 0, 1]))
    fed = tagging.feed(features, batch, 4, labels=True)
    assert fed["weights"].numpy().tolist() == [1, 1, 1, 0]
    assert float(fed["num_labelled"]) == (features.labels[:3] >= 0).sum()
    np.testing.assert_array_equal(fed["labels"], features.labels[[2, 0, 1, 2], :16])
    assert set(tagging.feed(features, batch, 4)) == {"input_ids", "input_mask", "segment_ids"}


def test_a_stride_that_skips_tokens_and_damaged_logits_are_refused(tokenizer, refuses):
    assert "--doc_stride=7" in refuses(tagging.build_features, [], tokenizer, 8, 7)
    features = tagging.build_features([tagged("O")], tokenizer, 8, 6)
    with pytest.raises(RunFailed):
        tagging.decode(features, [(batching.Batch(8, np.arange(1)), np.full([1, 8, 1], np.nan))], ("O",))


def test_spans_have_their_place_and_the_least_probability_of_their_words():
    sentence = tagged("B-X", "I-X", "O", "B-Y")
    spans = spans_in(sentence, sentence.tags, probabilities=np.array([0.9, 0.7, 1.0, 0.8]))
    assert spans == [(0, 5, "X", "w0 w1", 0.7), (9, 11, "Y", "w3", 0.8)]
    assert [span.label for span in spans_in(tagged("N", "O", "V"), ["N", "O", "V"], plain=True)] == ["N", "V"]
