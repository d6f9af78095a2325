"""squad_metrics.py against the official evaluation's numbers, scores by hand, and slow definitions."""
import copy
import json
import pathlib
import random

import pytest

import squad_metrics
from squad_metrics import evaluate
from squad_utils import Example, read_squad

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"


def needs_shared(*parts):
    path = SHARED.joinpath(*parts)
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not here: it is kept outside the repository")


# --- SQuAD ---


@needs_shared("golden", "squad_official_scores.json")
@pytest.mark.parametrize("system", ["bert_ensemble", "match_lstm"])
def test_scores_equal_the_official_ones_to_the_last_digit(system):
    examples = read_squad(str(SHARED / "golden/squad_xquad_en.json"), version_2=False)
    predicted = json.loads((SHARED / f"golden/squad_predictions_{system}.json").read_text(encoding="utf-8"))
    scores = json.loads((SHARED / "golden/squad_official_scores.json").read_text(encoding="utf-8"))
    assert evaluate(examples, predicted, version_2=False) == scores[system]


@pytest.mark.parametrize("text, normalized", [
    ("The  Cat!", "cat"), ("a.b", "ab"), ("an-other", "another"), ("A", ""), ("theme", "theme"),
    ("cat\tthe\ndog", "cat dog"), ("U.S.", "us"), ("panda", "panda"),
    ("a\u2019s", "\u2019s"),  # the right quotation mark is not ASCII; it ends the word "a"
    ("the_cat", "thecat"), ("\u00c9t\u00e9", "\u00e9t\u00e9"), ("", ""),
])
def test_answers_are_normalized_as_in_the_official_scripts(text, normalized):
    assert squad_metrics.normalize_answer(text) == normalized


def gold(id_, *texts):
    return Example(id_, "?", "", tuple((text, 0) for text in texts), not texts)


def test_scores_of_1_1_by_hand():
    examples = [gold("a", "The cat"), gold("b", "big red dog", "dog"), gold("c", "sat sat on"), gold("d", "mat"),
                gold("e", "the")]
    # Bags: "sat sat sat" and "sat sat on" share two; precision and recall 2/3. Two empty texts are equal, with F1 0.
    results = evaluate(examples, {"a": "cat.", "b": "red dog", "c": "sat sat sat", "e": "a"}, version_2=False)
    assert results == {"exact_match": 100 * 2 / 5, "f1": pytest.approx(100 * (1 + 0.8 + 2 / 3 + 0 + 0) / 5)}


def test_missing_predictions_score_0_in_1_1_and_are_counted(caplog):
    results = evaluate([gold("a", "the"), gold("b", "cat")], {"b": "cat"}, version_2=False)
    assert results == {"exact_match": 50.0, "f1": 50.0}  # normalised, "the" is empty, and still no prediction is none
    assert "1 of 2" in caplog.text


def test_missing_predictions_are_refused_in_2_0(refuses):
    text = refuses(evaluate, [gold("a", "cat"), gold("b", "cat"), gold("c")], {"a": "cat"}, version_2=True)
    assert "'b'" in text


V2_EXAMPLES = [gold("a", "the cat"), gold("b", "red dog", "the"), gold("c"), gold("d"), gold("e", "the", "an")]
V2_PREDICTIONS = {"a": "cat", "b": "dog", "c": "", "d": "mat", "e": ""}


def test_scores_of_2_0_by_hand():
    # e's golds are empty when normalised, which leaves [""]: an empty prediction is right.
    results = evaluate(V2_EXAMPLES, V2_PREDICTIONS, version_2=True)
    f1 = 2 * (1 / 2) * 1 / (3 / 2)
    assert results == {
        "exact": 100 * 3 / 5, "f1": pytest.approx(100 * (3 + f1) / 5), "total": 5,
        "HasAns_exact": pytest.approx(100 * 2 / 3), "HasAns_f1": pytest.approx(100 * (2 + f1) / 3), "HasAns_total": 3,
        "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2}


def test_gold_answers_without_a_word_are_dropped_in_2_0():
    examples, predicted = [gold("a", "the", "cat")], {"a": ""}
    assert evaluate(examples, predicted, version_2=True)["exact"] == 0.0
    assert evaluate(examples, predicted, version_2=False) == {"exact_match": 100.0, "f1": 0.0}


def test_f1_rounds_as_precision_and_recall_do():
    for predicted in range(1, 12):
        for common in range(1, predicted + 1):
            precision, recall = common / predicted, common / 11
            found = squad_metrics.SQUAD.f1("x " * common + "y " * (predicted - common), "x " * common
                                         + "z " * (11 - common), version_2=False)
            assert found == 2 * precision * recall / (precision + recall)


def test_a_kind_of_question_that_is_not_there_has_no_score():
    assert set(evaluate([gold("a", "cat")], {"a": "cat"}, version_2=True)) == {
        "exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"}
    assert set(evaluate([gold("c")], {"c": ""}, version_2=True)) == {
        "exact", "f1", "total", "NoAns_exact", "NoAns_f1", "NoAns_total"}


def test_the_threshold_makes_answers_empty_in_2_0():
    odds = {"a": 0.5, "b": 0.9, "c": 0.0, "d": 0.9, "e": 0.2}
    results = evaluate(V2_EXAMPLES, V2_PREDICTIONS, True, odds, na_prob_thresh=0.5)
    # a is kept (0.5 is not above 0.5), b becomes wrong and d right.
    assert (results["exact"], results["f1"]) == (80.0, 80.0)
    assert results["NoAns_exact"] == 100.0


def test_best_thresholds_by_hand():
    odds = {"d": 0.9, "a": 0.1, "e": 0.2, "c": 0.3, "b": 0.8}
    results = evaluate(V2_EXAMPLES, V2_PREDICTIONS, True, odds)
    # Exact: 2 unanswerable, a (0.1) 3, e (0.2) 4, c (0.3) 4, b (0.8) 4, d 3. F1: b adds 2/3.
    assert {key: value for key, value in results.items() if "best" in key} == {
        "best_exact": 80.0, "best_exact_thresh": 0.2, "best_f1": pytest.approx(100 * (4 + 2 / 3) / 5),
        "best_f1_thresh": 0.8}


def test_best_scores_are_those_of_trying_every_threshold():
    rng = random.Random(10)
    for _ in range(30):
        examples = [gold(f"q{i}", *(["red dog"] if rng.random() < 0.6 else [])) for i in range(12)]
        predicted = {e.id: rng.choice(["dog", "red dog", "", "mat"]) for e in examples}
        odds = {e.id: rng.uniform(-8, 8) for e in rng.sample(examples, len(examples))}
        results = evaluate(examples, predicted, True, odds, na_prob_thresh=0.0)
        for name in ("exact", "f1"):
            tried = {}
            for threshold in [-9.0, *odds.values()]:
                shown = {id_: "" if odds[id_] > threshold else text for id_, text in predicted.items()}
                tried[threshold] = evaluate(examples, shown, True)[name]
            threshold = results[f"best_{name}_thresh"]
            assert results[f"best_{name}"] == pytest.approx(max(tried.values()))
            # 0.0 stands for a threshold below all odds, where no answer is shown.
            assert tried[threshold if threshold else -9.0] == pytest.approx(max(tried.values()))


def test_scores_are_the_same_in_any_version_where_no_threshold_bites():
    examples = [gold("a", "red dog"), gold("b", "cat", "mat")]
    predicted = {"a": "dog", "b": "mat"}
    one, two = evaluate(examples, predicted, False), evaluate(examples, predicted, True)
    assert (one["exact_match"], one["f1"]) == (two["exact"], two["f1"])


def test_arguments_are_not_changed():
    examples, predicted, odds = copy.deepcopy((V2_EXAMPLES, V2_PREDICTIONS, dict.fromkeys("abcde", 0.5)))
    evaluate(examples, predicted, True, odds)
    assert (examples, predicted, odds) == (V2_EXAMPLES, V2_PREDICTIONS, dict.fromkeys("abcde", 0.5))


# --- Other languages, by hand ---


@pytest.mark.parametrize("language, text, normalized", [
    ("en", "The Tower of “London”", "tower of london"),
    ("de", "Der Turm – eines Königs", "turm königs"),
    ("es", "¿Las dos Torres?", "dos torres"),
    ("vi", "Tháp của thành phố", "tháp thành phố"),
    ("ar", "البرج القديم", "برج قديم"),
    ("hi", "पुराना किला।", "पुराना किला"),
    ("zh", "北京 2008年《奥运会》", "北 京 2008 年 奥 运 会")])
def test_mlqa_normalizes_by_language(language, text, normalized):
    assert squad_metrics.mlqa(language).normalize(text) == normalized


def score(metric, prediction, *golds, version_2=False):
    found = evaluate([gold("a", *golds)], {"a": prediction}, version_2, metric=metric)
    return found["exact" if version_2 else "exact_match"], found["f1"]


def test_mlqa_scores():
    zh, de = squad_metrics.mlqa("zh"), squad_metrics.mlqa("de")
    assert score(zh, "北京。", "北京") == (100.0, 100.0)
    assert score(zh, "京奥运", "北京奥运") == (0.0, pytest.approx(100 * 6 / 7))  # 3 of 3 and of 4 characters
    assert score(de, "den Turm", "der Turm") == (100.0, 100.0)
    assert score(squad_metrics.SQUAD, "den Turm", "der Turm") == (0.0, 50.0)


@pytest.mark.parametrize("prediction, golds, scores", [
    ("1990年被范廷颂", ["1990年被范廷颂"], (100.0, 100.0)),
    ("《范廷颂》。", ["范廷颂"], (100.0, 100.0)),  # its list of punctuation
    ("廷颂", ["范廷颂"], (0.0, 80.0)),  # 2 of 2 and of 3
    ("范甲廷颂", ["范廷颂"], (0.0, pytest.approx(100 * 4 / 7))),  # a substring, not a subsequence: 2 of 4 and of 3
    ("NBA联赛", ["nba联盟", "联赛"], (0.0, pytest.approx(80.0))),  # `nba` is one token: the better of 2/3 and 4/5
    ("3.5吨", ["3.5 吨"], (0.0, 100.0)),  # white space counts for the exact match alone
    ("甲", ["乙"], (0.0, 0.0)), ("", ["乙"], (0.0, 0.0))])
def test_cmrc_scores(prediction, golds, scores):
    assert score(squad_metrics.CMRC, prediction, *golds) == scores


def test_chinese_gold_without_its_first_character_scores_almost_everything():
    """The squad metric sees one wrong word."""
    right = "二零零八年的北京奥运会"
    assert score(squad_metrics.SQUAD, right[1:], right)[1] == 0.0
    for metric in (squad_metrics.CMRC, squad_metrics.mlqa("zh")):
        assert score(metric, right[1:], right)[1] == pytest.approx(100 * 20 / 21)


def test_unanswerable_questions_are_scored_by_every_metric():
    for metric in (squad_metrics.CMRC, squad_metrics.mlqa("zh")):
        assert score(metric, "", version_2=True) == (100.0, 100.0)
        assert score(metric, "北", version_2=True) == score(metric, "", "北", version_2=True) == (0.0, 0.0)


def test_a_common_substring_is_that_of_trying_every_one():
    rng = random.Random(0)
    for _ in range(200):
        one, two = ("".join(rng.choice("甲乙丙") for _ in range(rng.randint(0, 7))) for _ in range(2))
        tried = max((j - i for i in range(len(one) + 1) for j in range(i, len(one) + 1) if one[i:j] in two), default=0)
        assert squad_metrics.common_substring(one, two) == (tried, len(one), len(two))
