"""samples_page: text is put together as it was, states are right, and the section holds what every evaluation said."""
from __future__ import annotations

import json
import re
import types

import pytest
from test_page import read

import page
import samples_page
from samples_page import Piece, as_text

ATTACK = "<script>alert(1)</script>"


def text_of(pieces):
    return "".join(f"{' ' if piece.space else ''}{piece.text}" for piece in pieces)


@pytest.mark.parametrize("pieces, notation, text", [
    (["the", "walk", "##ing", "man", ",", "3", ".", "5", "(", "old", ")", "."], "##", "the walking man, 3.5 (old)."),
    (["he", "isn", "'", "t", "well", "-", "known"], "##", "he isn't well-known"),
    (["##ing", "##", "a"], "##", "ing ## a"),
    (["北", "京", "is", "北"], "##", "北京 is 北"),
    (["▁the", "▁walk", "ing", "▁man", "."], "▁", "the walking man."),
    (["Ġthe", "Ġm", "Ã¼", "de"], "other", "the müde"),
    (["שלום", "##ים", "עולם", "؟"], "##", "שלוםים עולם؟"), ([], "##", "")])
def test_word_pieces_are_joined_to_text(pieces, notation, text):
    assert text_of(as_text(pieces, notation)) == text


def test_the_direction_is_that_of_most_letters():
    assert samples_page.direction(as_text(["שלום", "a", "עולם"], "##")) == "rtl"
    assert samples_page.direction(as_text(["hello", "ע", "12"], "##")) == "ltr"
    assert samples_page.direction([Piece("١٢", False)]) == "ltr"


def test_what_is_right_and_what_is_wrong():
    original, filled = ["a", "b", "c", "d", "e", "f"], ["a", "x", "c", "y", "e", "f"]
    assert samples_page.states(original, filled, [1, 2, 3, 4], [10, 50, 49, 49, 50, 50]) == "-fkmxx"
    assert samples_page.states(original, filled, [1, 2, 3], None) == "-ece--"


PASSAGE = {"pieces": ["the", ATTACK, "walk", "##ing", "."], "positions": [0, 1, 3], "hidden": [1, 3]}
CONSTANT = {"step": 0, "kind": "passages", "notation": "##", "passages": [PASSAGE] * 6,
            "frequency": [{"pieces": 3, "tokens": 9, "examples": ["the", "of", ATTACK]}] * 5}


def evaluation(step, fills, percent):
    class_ = {"original": 8, "flagged": 2, "replaced": 4, "found": 1, "auc": 0.75}
    return {"step": step, "kind": "evaluation", "number": step // 10, "fills": [fills] * 6, "percent": [percent] * 6,
            "metrics": {"discriminator_auc": 0.7, "discriminator_gain": 0.0123, "discriminator_recall": 0.25,
                        "generator_accuracy": 0.5},
            "calibration": [[100, 0.12, 0.1], [10, 0.6, 0.7]], "frequency": [class_] * 5,
            "worst": [["walk", 20, 0.9, 0.5, 0.2]], "best": [["the", 30, 0.01, 0.0, 0.01]]}


def run_with(tmp_path, *entries, phase=1):
    (tmp_path / f"samples_phase{phase}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return types.SimpleNamespace(logs=str(tmp_path))


def test_the_section_shows_the_last_evaluation_and_holds_all(tmp_path):
    run = run_with(tmp_path, CONSTANT, evaluation(10, ["the", "x", "##ed"], [5, 5, 5, 5, 60]),
                   evaluation(20, ["a", ATTACK, "man"], [80, 5, 5, 20, 5]))
    text = page.render("t", "s", [samples_page.section(run)], "f")
    assert ATTACK not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    reader = read(re.sub("<input[^>]*>", "", re.sub(r"(?s)<script[^>]*>.*?</script>", "", text)))
    classes = [attributes["class"] for tag, attributes in reader.elements
               if tag == "span" and attributes.get("class", "").startswith("piece")]
    assert classes.count("piece found") == classes.count("piece missed") == 6 + 1  # with the legend
    assert classes.count("piece hole") == 2 * 6 and classes.count("piece kept") == 2 * 6 + 2
    shown = "".join(reader.text)
    assert "update 20: AUC 0.700, gain +1.2%, recall 25.0%" in shown and "2 more passages" in shown
    assert "replaced, found; originally the; 80% replaced" in shown
    content = json.loads(re.search(r'data-key="samples-1">(.*?)</script>', text)[1])
    first, last = content["steps"]
    assert first["label"].startswith("update 10: ") and first["passages"][0]["states"] == "km-mx"
    assert last["passages"][0]["states"] == "fk-m-"
    assert first["passages"][0]["changed"] == [[1, "x", 1], [3, "ed", 0]]
    assert last["passages"][0]["changed"] == [[0, "a", 0], [3, "man", 1]]
    assert first["tables"][0][0] == [f"3: the · of · {ATTACK}", "25.0%", "25.0%", "4", "0.750"]
    assert first["tables"][3] == [["12.0%", "10.0%", "100"], ["60.0%", "70.0%", "10"]]
    assert 'max="1"' in text and 'aria-valuetext="update 20' in text


def test_a_masked_language_model_has_fills_and_no_probabilities(tmp_path):
    entry = evaluation(10, ["the", "x", "##ing"], None)
    for name in ("percent", "calibration"):
        del entry[name]
    entry.update(metrics={"generator_accuracy": 0.5}, frequency=[{"masked": 3, "correct": 2, "loss": 1.5}] * 5,
                 worst=[["walk", 20, 0.9, 0.5]], best=[["the", 20, 0.1, 1.0]])
    text = page.render("t", "s", [samples_page.section(run_with(tmp_path, CONSTANT, entry, phase=2))], "f")
    assert "phase 2" in text and "update 10: generator right 50.0%" in text and "<svg" not in text
    assert text.count('class="piece found"') == 2 * 6 + 1


def test_without_a_record_there_is_no_section_and_a_damaged_one_is_a_sentence(tmp_path):
    run = types.SimpleNamespace(logs=str(tmp_path))
    assert samples_page.section(run) is None
    run_with(tmp_path, CONSTANT)
    assert samples_page.section(run) is None
    run_with(tmp_path, CONSTANT, {"step": 10, "kind": "evaluation"})
    assert "samples_phase1.jsonl" in page.join(samples_page.section(run).parts)


def test_several_runs_show_the_last_evaluation_of_each(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "none").mkdir()
    first = run_with(tmp_path / "a", CONSTANT, evaluation(10, ["the", "x", "##ed"], [5, 5, 5, 5, 60]), phase=1)
    run_with(tmp_path / "a", CONSTANT, evaluation(30, ["a", ATTACK, "man"], [80, 5, 5, 20, 5]), phase=2)
    damaged = run_with(tmp_path / "b", CONSTANT, {"step": 10, "kind": "evaluation"})
    neither = types.SimpleNamespace(logs=str(tmp_path / "none"))
    section = samples_page.side_by_side([first, neither, damaged], ["<b>one", "none", "other"])
    text = page.render("t", "s", [section], "f")
    reader = read(text)
    shown = "".join(reader.text)
    assert ATTACK not in text and "Phase 2, update 30" in shown and "update 10" not in shown
    assert shown.count("Passage ") == samples_page.FIRST and "<b>one" in shown and "damaged" in shown
    assert samples_page.side_by_side([neither, neither], ["a", "b"]) is None
