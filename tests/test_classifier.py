"""classifier: predictions of each problem, pairs, batches, truncation, temperature, refusals."""
from __future__ import annotations

import math
import pathlib
import shutil

import numpy as np
import pytest
from support import FILLERS, save_classifier

import predictor
import weights
from classifier import Classifier, prediction
from configuration import RunFailed

TINY = pathlib.Path(__file__).parent / "data" / "transformers_tiny"


@pytest.fixture(scope="module")
def models(reader_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")
    labels = {"single_label": ("no", "perhaps", "yes"), "multi_label": ("a", "b", "c", "d"), "regression": ("score",)}
    return {problem: save_classifier(reader_folder, folder / problem, weights.Labels(names, problem))
            for problem, names in labels.items()}


@pytest.fixture(scope="module")
def classifier(models):
    return Classifier.from_pretrained(models["single_label"])


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(FILLERS, rng.integers(1, 40))) for _ in range(count)]


def logits_of(classifier, text, pair=None):
    """Of the model for the input [CLS] text [SEP] pair [SEP]."""
    tokenizer = classifier.tokenizer
    first = [tokenizer.cls_id, *tokenizer.encode(text).ids, tokenizer.sep_id]
    second = [] if pair is None else [*tokenizer.encode(pair).ids, tokenizer.sep_id]
    ids = np.int32([first + second])
    segments = np.int32([[0] * len(first) + [1] * len(second)])
    return classifier.model.logits({"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": segments})[0]


def test_the_probabilities_are_those_of_the_logits(classifier):
    for text, pair in (("ban bel", None), ("ban bel bir", "com")):
        found = classifier.classify(text, pair)
        shares = np.exp(logits_of(classifier, text, pair))
        shares /= shares.sum()
        assert found.label == ("no", "perhaps", "yes")[np.argmax(shares)] and found.labels == (found.label,)
        assert list(found.probabilities) == sorted(found.probabilities, key=lambda name: -found.probabilities[name])
        assert found.probabilities == pytest.approx(dict(zip(("no", "perhaps", "yes"), shares.tolist())), abs=1e-5)


def test_several_labels_and_numbers(models):
    several, number = (Classifier.from_pretrained(models[problem]) for problem in ("multi_label", "regression"))
    found, logits = several.classify("ban bel"), logits_of(several, "ban bel")
    assert found.label is None and found.labels == tuple(name for name, x in zip("abcd", logits) if x > 0)
    assert [found.probabilities[name] for name in "abcd"] == pytest.approx(
        [1 / (1 + math.exp(-x)) for x in logits], abs=1e-5)
    found = number.classify("ban bel")
    assert found == (None, (), pytest.approx(float(logits_of(number, "ban bel")[0]), abs=1e-5), {})


def test_lists_are_computed_in_batches_and_traced_once(classifier, monkeypatch):
    monkeypatch.setattr(classifier, "buckets", [8, 16, 24, 32])
    many, pairs = texts(50), texts(50, seed=1)
    alone = [classifier.classify(text, pair) for text, pair in zip(many, pairs)]
    monkeypatch.setattr(predictor, "BATCH_SIZE", 7)
    together = classifier.classify(many, pairs)
    assert len({round(one.probabilities["yes"], 3) for one in together}) > 10
    for one, other in zip(together, alone):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    assert classifier.classify(many[:2], pairs[0])[1].probabilities == pytest.approx(
        classifier.classify(many[1], pairs[0]).probabilities, abs=1e-4)
    assert classifier._answers.experimental_get_tracing_count() == 1


def test_what_is_longer_than_the_input_is_truncated(classifier):
    text = " ".join(FILLERS[:30])  # 32 tokens with [CLS] and [SEP]
    assert classifier.classify(text + " ban bel").probabilities == classifier.classify(text).probabilities
    assert classifier.classify(text[:-4]).probabilities != classifier.classify(text).probabilities


def test_a_classifier_of_transformers_is_used_with_its_labels():
    found = Classifier.from_pretrained(str(TINY / "sequence_classification")).classify("the cat sat")
    assert set(found.probabilities) == {"no", "perhaps", "yes"}
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_the_temperature_kept_with_the_model_is_used(models, tmp_path):
    shutil.copytree(models["single_label"], tmp_path / "model")
    weights.keep_temperature(str(tmp_path / "model"), 1e6 - 1)
    found = Classifier.from_pretrained(str(tmp_path / "model")).classify("ban")
    assert list(found.probabilities.values()) == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_what_cannot_be_classified_is_refused(classifier, refuses):
    assert "text 2 of 2" in refuses(classifier.classify, ["ban", " "])
    assert "second text 1 of 1" in refuses(classifier.classify, "ban", "")
    assert "2 texts and 1" in refuses(classifier.classify, ["ban", "bel"], ["bir"])
    assert "--max_seq_length=33" in refuses(Classifier.from_pretrained, classifier.config.init_checkpoint,
                                            max_seq_length=33)
    assert "tagger" in refuses(Classifier.from_pretrained, str(TINY / "token_classification"))
    assert "head" in refuses(Classifier.from_pretrained, str(TINY / "discriminator"))


def test_logits_that_are_not_finite_are_no_prediction(classifier, monkeypatch):
    monkeypatch.setattr(classifier, "_answers", lambda features: {"logits": np.full([1, 3], np.nan)} and {
        "logits": type("Tensor", (), {"numpy": lambda self: np.full([1, 3], np.nan)})()})
    with pytest.raises(RunFailed):
        classifier.classify("ban")


def test_equal_probabilities_keep_the_order_of_the_labels():
    labels = weights.Labels(("a", "b", "c"), "single_label")
    assert list(prediction(labels, np.zeros(3)).probabilities) == ["a", "b", "c"]
    extreme = prediction(labels._replace(problem="multi_label"), np.array([-1e9, 0.0, 1e9]))
    assert list(extreme.probabilities.values()) == [1.0, 0.5, 0.0] and extreme.labels == ("c",)
