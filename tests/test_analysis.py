"""analysis.py: groups, curves and tests by hand or by trying everything; the pages hold text as text."""
from __future__ import annotations

import itertools
import json
import math
import pathlib
import random
import shutil

import numpy as np
import pytest
import test_page

import analysis
import files
import squad_metrics
import squad_results
from squad_options import AnalysisConfig, SquadConfig
from squad_utils import Answer, Example

CONTEXT = "The hall was built in 1543 by Ana Ruiz for the town."


def question(id_, gold=None, context=CONTEXT, text="Who built the hall?"):
    answers = ((gold, context.index(gold)),) if gold else ()
    return Example(id_, text, context, answers, gold is None)


def answer(text, probability=0.9, context=CONTEXT):
    start = context.index(text)
    return Answer(text, start, start + len(text), 1.0, probability)


def config_of(folder="out", version_2=False, **changes):
    return SquadConfig(do_eval=True, predict_file="dev.json", output_dir=str(folder),
                       version_2_with_negative=version_2, **changes)


def scored(examples, found, null_odds=None, **changes):
    config = config_of(version_2=null_odds is not None, **changes)
    answers = squad_results.Answers({example.id: [entry] for example, entry in zip(examples, found)}, null_odds or {})
    return config, analysis.score(config, examples, answers)


def random_run(seed, count=60):
    """Questions of SQuAD 2.0 that are right or wrong by chance."""
    rng = random.Random(seed)
    golds = [rng.choice((None, "1543", "Ana Ruiz", "the town")) for _ in range(count)]
    examples = [question(f"q{number}", gold) for number, gold in enumerate(golds)]
    found = [answer(rng.choice(("1543", "Ana Ruiz", "Ruiz", "for the town")), rng.random()) for _ in examples]
    return examples, found, {example.id: rng.gauss(0, 1) for example in examples}


# --- Groups ---


@pytest.mark.parametrize("text, word", [
    ("Who built it?", "who"), ("In what year was it built?", "when"), ("What did they build?", "what"),
    ("By whom, and how many, were they built?", "who"), ("How many towers?", "how many"), ("How did he die?", "how"),
    ("Name the hall.", "other"), ("¿Cuándo fue construido?", "when"), ("¿Por qué?", "why"),
    ("Wie viele Türme hat sie?", "how many"), ("Wie heißt er?", "how"), ("Welches Haus?", "which"),
    ("谁建造了它？", "who"), ("它建于什么时候？", "when"), ("有多少座塔？", "how many"), ("Somewhat tall?", "other")])
def test_the_kind_of_a_question_is_told_by_its_first_question_word(text, word):
    assert analysis.question_word(text) == word


def test_every_question_is_in_one_group_of_each_grouping():
    rng = random.Random(1)
    examples = [question(f"q{n}", None if n % 5 == 0 else "w" * (n % 3 + 1), "w " * rng.randint(2, 300) + "www www")
                for n in range(50)]
    found = [answer("w", context=example.context) for example in examples]
    _, questions = scored(examples, found, dict.fromkeys([example.id for example in examples], 0.0))
    groups = analysis.groups_of(questions)
    assert len(groups) == 5
    for members in groups.values():
        assert sorted(itertools.chain(*members.values())) == list(range(50))
    lengths = groups["Context length (characters)"]
    assert len(lengths) == 5 and all(8 <= len(members) <= 12 for members in lengths.values())
    assert list(lengths) == sorted(lengths, key=lambda name: int(name.split("–")[0]))


def test_groups_by_the_answer():
    examples = [question("a", "The hall"), question("b", "town"), question("c", "1543"), question("d")]
    _, questions = scored(examples, [answer("The hall")] * 4, {id_: 0.0 for id_ in "abcd"})
    assert [analysis.answer_length(one) for one in questions] == ["1", "1", "1", "no answer"]  # without articles
    assert [analysis.answer_position(one) for one in questions] == ["0–20%", "80–100%", "40–60%", "no answer"]


def test_the_position_of_an_answer_is_found_by_its_text_where_the_offset_is_wrong():
    for start in (-1, 0, 99):
        example = question("a", "town")._replace(answers=(("town", start),))
        assert analysis.answer_position(scored([example], [answer("1543")])[1][0]) == "80–100%"
    example = example._replace(answers=(("tower", 3),))
    assert analysis.answer_position(scored([example], [answer("1543")])[1][0]) == "not in the context"


# --- Numbers ---


def test_the_curve_is_that_of_trying_every_threshold():
    examples, found, odds = random_run(3)
    _, questions = scored(examples, found, odds)
    curve = analysis.threshold_curve(questions)
    assert curve["threshold"] == sorted(odds.values())
    raw = {example.id: entry.text for example, entry in zip(examples, found)}
    for threshold, f1, exact in zip(*(curve[name] for name in ("threshold", "f1", "exact"))):
        tried = squad_metrics.evaluate(examples, {id_: "" if odds[id_] > threshold else text
                                                  for id_, text in raw.items()}, True)
        assert (f1, exact) == (pytest.approx(tried["f1"]), pytest.approx(tried["exact"]))


def test_a_long_curve_has_at_most_200_points_and_keeps_its_ends():
    examples, found, odds = random_run(4, 700)
    _, questions = scored(examples, found, odds)
    thresholds = analysis.threshold_curve(questions)["threshold"]
    assert len(thresholds) == 200 and (thresholds[0], thresholds[-1]) == (min(odds.values()), max(odds.values()))


def test_confusion_counts_by_hand():
    examples = [question("a", "1543"), question("b", "1543"), question("c"), question("d"), question("e")]
    _, questions = scored(examples, [answer("1543")] * 5, {"a": -1.0, "b": 2.0, "c": 2.0, "d": 0.4, "e": 1.0},
                          null_score_diff_threshold=0.5)
    assert analysis.confusion(questions) == {
        "answerable, answered": 1, "answerable, left unanswered": 1, "unanswerable, answered": 1,
        "unanswerable, left unanswered": 2}


def test_calibration_by_hand():
    """Two of four are right at 0.95, one of one at 0.6: the error is 4/5 x 0.45 + 1/5 x 0.4."""
    examples = [question(f"q{n}", "1543" if n < 2 or n == 4 else "town") for n in range(5)]
    _, questions = scored(examples, [answer("1543", 0.95)] * 4 + [answer("1543", 0.6)])
    found = analysis.calibration(questions)
    assert found["expected_calibration_error"] == pytest.approx(0.8 * 0.45 + 0.2 * 0.4)
    assert found["bins"] == [{"probability": 60.0, "exact": 100.0, "questions": 1},
                             {"probability": 95.0, "exact": 50.0, "questions": 4}]


def test_the_worst_are_the_confidently_wrong():
    examples = [question(id_, gold) for id_, gold in zip("abcd", ("1543", "Ana Ruiz", "Ana Ruiz", "Ana Ruiz"))]
    found = [answer("1543", 0.99), answer("Ruiz", 0.99), answer("1543", 0.3), answer("1543", 0.8)]
    assert analysis.worst(scored(examples, found)[1]) == [3, 2, 1]


@pytest.mark.parametrize("won, lost, p", [(0, 5, 0.0625), (5, 0, 0.0625), (3, 3, 1.0), (0, 0, 1.0), (1, 9, 22 / 1024)])
def test_mcnemar_by_hand(won, lost, p):
    assert analysis.mcnemar(won, lost) == pytest.approx(p)


def test_mcnemar_of_many_questions_is_near_its_normal_approximation():
    expected = math.erfc((200 - 1) / math.sqrt(6200) / math.sqrt(2))
    assert analysis.mcnemar(3000, 3200) == pytest.approx(expected, rel=0.01)


def test_an_interval_is_near_that_of_the_normal_distribution_and_is_the_same_again():
    values = [0.0, 1.0] * 200
    low, high = analysis.interval(values)
    assert (low, high) == (pytest.approx(50 - 4.9, abs=0.6), pytest.approx(50 + 4.9, abs=0.6))
    assert analysis.interval(values) == [low, high]


def test_two_runs_are_compared_question_by_question():
    examples = [question(id_, "Ana Ruiz") for id_ in "abcd"]
    first = scored(examples, [answer("1543"), answer("Ana Ruiz"), answer("Ana Ruiz"), answer("Ruiz")])[1]
    second = scored(examples, [answer("Ana Ruiz"), answer("Ruiz"), answer("1543"), answer("Ruiz")])[1]
    found = analysis.compare(first, second)
    assert (found["won"], found["lost"]) == (["a"], ["c", "b"])
    assert (found["exact_won"], found["exact_lost"], found["mcnemar_p"]) == (1, 2, 1.0)
    assert found["f1_difference"] == pytest.approx(100 * (1 - 1 / 3 - 1) / 4)


# --- Pages ---


def hostile_run(version_2=True):
    """Every text that comes from a user is an attack."""
    examples, found, odds = [], [], {}
    for number, attack in enumerate(test_page.ATTACKS):
        context = f"before {attack} after \ud800 \x00 end"
        examples.append(Example(f"{attack}-{number}", attack, context, ((attack, 7),), False))
        found.append(answer("after", context=context))
        odds[examples[-1].id] = -1.0
    return scored(examples, found, odds if version_2 else None)


@pytest.mark.parametrize("version_2", [True, False])
def test_the_page_shows_text_as_text(version_2):
    config, questions = hostile_run(version_2)
    text = analysis.render(test_page.ATTACKS[0], questions, analysis.analyse(config, questions))
    reader = test_page.assert_self_contained(text)
    shown = "".join(reader.text)
    assert all(shown.count(attack) >= 3 for attack in test_page.ATTACKS)  # question, gold answer, context
    contents = [analysis.analyse(config, questions)] * 2
    compared = analysis.render_comparison(test_page.ATTACKS[:2], [questions, questions], contents,
                                          analysis.compare(questions, questions))
    test_page.assert_self_contained(compared)


def test_gold_and_prediction_are_marked_where_they_are():
    example = question("a", "by Ana Ruiz")
    questions = scored([example], [answer("Ruiz for")])[1]
    marked = analysis.marked_context(questions[0], [("predicted", questions[0].span)])
    assert '<mark class="gold" title="gold">by Ana </mark>' in marked
    assert '<mark class="predicted gold" title="predicted and gold">Ruiz</mark>' in marked
    assert '<mark class="predicted" title="predicted"> for</mark>' in marked
    assert "".join(test_page.read(marked).text) == CONTEXT


def test_a_long_context_is_cut_around_the_answers_and_a_wrong_offset_is_found_again():
    context = "x " * 5000 + "Ana Ruiz" + " y" * 5000
    example = Example("a", "Who?", context, (("Ana Ruiz", 3),), False)
    questions = scored([example], [answer("Ana", context=context)])[1]
    marked = "".join(test_page.read(analysis.marked_context(questions[0], [("predicted", questions[0].span)])).text)
    assert 800 < len(marked) < 830 and marked[:2] == marked[-1:-3:-1] == "… " and "Ana Ruiz" in marked


# --- The command ---


def write_run(folder, version_2=True, seed=5, changed=None):
    """A folder as run_tf_squad.py leaves it, and its questions."""
    examples, found, odds = random_run(seed)
    if not version_2:
        examples, found = zip(*((e, f) for e, f in zip(examples, found) if e.answers))
    entries = [{"id": e.id, "question": e.question, "is_impossible": e.is_impossible,
                "answers": [{"text": text, "answer_start": start} for text, start in e.answers]} for e in examples]
    for entry in entries:
        if not version_2:
            del entry["is_impossible"]
    folder.mkdir()
    dev = folder.parent / f"dev-{seed}.json"
    dev.write_text(json.dumps({"version": "v2.0" if version_2 else "1.1", "data": [{"title": "t", "paragraphs": [
        {"context": CONTEXT, "qas": entries}]}]}))
    config = config_of(folder, version_2)
    if changed:
        found = [changed(entry) for entry in found]
    answers = squad_results.Answers({e.id: [f] for e, f in zip(examples, found)}, odds if version_2 else {})
    squad_results.write(config, answers)
    results = squad_results.scores_of(config, examples, answers)
    (folder / "results.json").write_text(json.dumps({
        "version_2": version_2, "predict_file": str(dev), "metric": "squad", "language": None, **results}))
    return results


def call(*words):
    analysis.main(["analysis.py", *words])


@pytest.mark.parametrize("version_2", [True, False])
def test_a_finished_run_gets_its_page_and_numbers(tmp_path, version_2, capsys):
    results = write_run(tmp_path / "run", version_2)
    call(f"--runs={tmp_path}/run")
    found = json.loads((tmp_path / "run" / "analysis.json").read_text())
    assert found["f1"] == pytest.approx(results["f1"]) and ("answerability" in found) == version_2
    assert str(tmp_path / "run" / "analysis.html") in capsys.readouterr().out
    for groups in found["groups"].values():
        assert sum(group["questions"] for group in groups.values()) == found["questions"]
        assert np.average([group["f1"] for group in groups.values()], weights=[
            group["questions"] for group in groups.values()]) == pytest.approx(found["f1"])


def test_two_finished_runs_are_compared(tmp_path, capsys):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", changed=lambda entry: answer("1543"))
    call(f"--runs={tmp_path}/one,{tmp_path}/two")
    found = json.loads((tmp_path / "one" / "comparison.json").read_text())
    assert found["won"] and found["lost"] and found["questions"] == 60
    assert "two against one" in (tmp_path / "one" / "comparison.html").read_text()
    assert "comparison.html" in capsys.readouterr().out and not (tmp_path / "one" / "analysis.html").exists()


def test_runs_that_cannot_be_analysed_are_refused_by_name(tmp_path, refuses):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", seed=6)
    assert str(tmp_path / "none") in refuses(call, f"--runs={tmp_path}/none")
    assert "different questions" in refuses(call, f"--runs={tmp_path}/one,{tmp_path}/two")
    assert "--runs" in refuses(call, "--runs=a,b,c") and "--runs" in refuses(call)
    other = pathlib.Path(tmp_path / "dev-6.json")
    content = json.loads(other.read_text())
    content["data"][0]["paragraphs"][0]["context"] += " It has a tower."
    content["data"][0]["paragraphs"][0]["qas"].pop()
    other.write_text(json.dumps(content))
    said = refuses(call, f"--runs={tmp_path}/one", f"--predict_file={other}")
    assert str(tmp_path / "one") in said and "'q59'" in said and str(other) in said
    shutil.copy(tmp_path / "one" / "results.json", tmp_path / "kept.json")
    (tmp_path / "one" / "results.json").unlink()
    assert "--predict_file" in refuses(call, f"--runs={tmp_path}/one")
    (tmp_path / "one" / "results.json").write_text('{"predict_file": {"x": []}}')
    assert "results.json: predict_file" in refuses(call, f"--runs={tmp_path}/one")
    shutil.copy(tmp_path / "kept.json", tmp_path / "one" / "results.json")
    pathlib.Path(tmp_path / "dev-5.json").unlink()
    assert "dev-5.json" in refuses(call, f"--runs={tmp_path}/one")


def test_the_settings_of_the_run_are_used_unless_others_are_given(tmp_path):
    write_run(tmp_path / "run")
    settings = analysis.settings_of(str(tmp_path / "run"), AnalysisConfig(runs="x"))
    assert settings.version_2_with_negative and settings.metric == "squad"
    given = AnalysisConfig(runs="x", metric="mlqa", language="de", null_score_diff_threshold=-2.0)
    settings = analysis.settings_of(str(tmp_path / "run"), given)
    assert (settings.metric, settings.language, settings.null_score_diff_threshold) == ("mlqa", "de", -2.0)


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path, caplog, monkeypatch):
    examples, found, odds = random_run(7)
    answers = squad_results.Answers({e.id: [f] for e, f in zip(examples, found)}, odds)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_text", fail)
    analysis.write_after_evaluation(config_of(tmp_path, True), examples, answers)
    assert "No space left" in caplog.text
