"""run_page: what the page of a run says, that it is self-contained and small, and when training writes it."""
from __future__ import annotations

import dataclasses
import json
import re

import pytest
import run_folders
from test_page import read

import page
import run_page
from run_folder import Run


def content_of(text: str) -> dict:
    """What the script of a page draws."""
    return json.loads(re.search(r'data-key="curves">(.*?)</script>', text, re.DOTALL)[1])


def assert_self_contained(text: str):
    """Nothing that a browser would fetch, no handlers, and no script but those that the policy names."""
    reader = read(text)
    for tag, attributes in reader.elements:
        assert tag not in ("img", "iframe", "link", "object", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert not re.search(r"url\((?!#)|@import", text)
    scripts = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    assert not scripts or f"script-src {page.hashes(scripts)}" in text
    assert "default-src 'none'" in text
    assert len(set(reader.ids)) == len(reader.ids)
    return "".join(reader.text)


@pytest.fixture
def run(tmp_path):
    return Run(str(run_folders.pretraining(tmp_path / "<i>base")))


def test_the_page_of_a_run_has_its_curves_over_both_phases_and_what_ran(run):
    text = run_page.render([run], run.folder)
    words = assert_self_contained(text)
    content = content_of(text)
    charts = {chart["title"]: chart for chart in content["charts"]}
    assert list(charts)[:3] == ["loss", "generator loss", "generator accuracy"] and "model FLOP/s" in charts
    training, held_out = charts["generator loss"]["series"]
    assert training["x"][0] == 1 and training["x"][-1] == 60 and len(training["x"]) == 60
    assert held_out["x"] == [10, 20, 30, 40, 45, 50, 55, 60] and held_out["heldOut"]
    assert charts["loss"]["series"][1]["y"][-1] == 7.5 + 50 * 0.1  # generator plus disc_weight times discriminator
    assert content["parts"] == [{"title": "phase 1", "offset": 0}, {"title": "phase 2", "offset": 40}]
    for part in ("--model_name=<b>", "160", "stopped by SIGTERM", "10, resumed", "abc123", "2 min", "37.5%"):
        assert part in words, part


def test_options_that_differ_from_the_recipe_are_marked(run):
    table, _ = run_page.settings_table(run.parts)
    rows = dict(re.findall("<tr><td>--([a-z_0-9]+)</td>(.*?)</tr>", table))
    assert set(rows) == {"model_size", "num_train_steps", "num_warmup_steps", "learning_rate", "max_seq_length"}
    assert "●" in rows["model_size"] and "base" in rows["model_size"]
    # Phase 2 of the recipe has its own: here it is phase 2 that keeps the defaults of phase 1.
    assert rows["learning_rate"].count("●") == 1 and "0.006 / 0.004" in rows["learning_rate"]


@pytest.mark.parametrize("config_class", run_page.CONFIGURATIONS)
def test_the_recipe_of_a_run_is_that_of_its_own_command(config_class, tmp_path):
    config = {field.name: field.default for field in dataclasses.fields(config_class)}
    config.pop("seed")  # options come and go from release to release
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/configuration.json").write_text(json.dumps({"config": {**config, "of_an_old_release": 1}}))
    (part,) = Run(str(tmp_path)).parts
    assert set(run_page.defaults_of(part)) == set(config) | {"seed"}
    assert "●</td>" not in run_page.settings_table([part])[0]


def test_text_of_a_run_stays_text(tmp_path):
    attack = "</script><script>alert(1)</script><!--"
    folder = run_folders.pretraining(tmp_path / "<b>", generator_hidden_size=None)
    with open(folder / "logs/pretraining_phase1.jsonl", "a") as file:
        file.write(json.dumps({"step": 41, "kind": "train", attack: 1.0, "loss": 3.0}) + "\n")
    (folder / "logs/configuration_phase2.json").write_text(json.dumps({"config": {attack: attack}, "device": attack}))
    text = run_page.render([Run(str(folder))], str(folder))
    assert "alert(1)" in assert_self_contained(text) and "<script>alert" not in text
    assert attack in [chart["title"] for chart in content_of(text)["charts"]]


def test_several_runs_share_their_charts(tmp_path):
    runs = [Run(str(run_folders.pretraining(tmp_path / name / "run", steps=(steps,), seed=seed)))
            for name, steps, seed in (("a", 40, 1), ("b", 80, 2))]
    text = run_page.render(runs, str(tmp_path))
    words, content = assert_self_contained(text), content_of(text)
    assert content["runs"] == [run.folder for run in runs]  # their names are the same
    assert [series["run"] for series in content["charts"][0]["series"]] == [0, 0, 1, 1] and content["last"] == 80
    assert "--seed" in words and "--learning_rate" in words
    differing = re.search('aria-label="Options that differ between.*?</table>', text, re.DOTALL)
    assert set(re.findall(r"<td>(--\w+)</td>", differing[0])) == {"--seed", "--num_train_steps"}


def test_guessers_are_reference_lines_of_the_accuracy(run):
    run.parts[0].settings["config"]["pretrain_tfrecords"] = ""
    run.history[-2]["data"] = {"guessers": {"unigram": 0.05, "oracle": 0.7, "other": "x"}}
    (chart,) = [chart for chart in run_page.curves_content([run])["charts"] if chart["references"]]
    assert chart["key"] == "generator_accuracy"
    assert chart["references"] == [{"label": "unigram", "value": 0.05}, {"label": "oracle", "value": 0.7}]


def test_a_fine_tuning_has_its_scores_and_the_way_to_the_error_analysis(tmp_path):
    folder = run_folders.fine_tuning(tmp_path / "squad")
    assert "analysis.html" not in run_page.render([Run(str(folder))], str(folder))
    (folder / "analysis.html").write_text("")
    text = run_page.render([Run(str(folder))], str(tmp_path))
    assert 'href="squad/analysis.html"' in text and "88.25" in assert_self_contained(text)


def test_a_classifier_has_the_score_that_chose_its_checkpoint(tmp_path):
    folder = run_folders.fine_tuning(tmp_path / "topics")
    (folder / "analysis.html").write_text("")
    best = {"checkpoint": "c", "step": 9, "accuracy": 62.5}
    (folder / "results.json").write_text(json.dumps({"task": "classification", "f1": 40.5, "accuracy": 62.5,
                                                     "best_checkpoint": best}))
    run = Run(str(folder))
    assert [(name, value) for name, value, _ in run_page.headlines(run)][1:3] == [("Accuracy", "62.5"), ("F1", "40.5")]
    assert "question" not in run_page.page.join(run_page.overview(run, str(folder)).parts)


def test_a_sweep_has_the_median_and_spread_of_each_checkpoint(tmp_path):
    text = run_page.render([Run(str(run_folders.sweep(tmp_path / "sweep")))], str(tmp_path))
    assert_self_contained(text)
    (series,) = content_of(text)["charts"][0]["series"]
    assert series["x"] == [10, 20, 25] and series["y"] == [63, 64, 70]  # phase 2 follows phase 1
    assert series["low"] == [62, 63, 70] and series["high"] == [64, 65, 70]


def test_problems_are_on_the_page(tmp_path):
    folder = run_folders.pretraining(tmp_path / "base")
    (folder / "logs/pretraining_phase2.jsonl").unlink()
    assert "pretraining_phase2.jsonl cannot be read" in assert_self_contained(run_page.render([Run(str(folder))], "."))
    for name in ("pretraining_phase1.jsonl", "configuration_phase1.json", "configuration_phase2.json"):
        (folder / "logs" / name).write_text("")
    assert "Nothing has been logged yet" in assert_self_contained(run_page.render([Run(str(folder))], "."))


def test_a_long_run_makes_a_small_page(tmp_path):
    folder = run_folders.pretraining(tmp_path / "long", steps=(20_000,))
    text = run_page.render([Run(str(folder))], str(folder))
    longest = max(len(series["x"]) for chart in content_of(text)["charts"] for series in chart["series"])
    assert 900 <= longest <= 2000 and len(text) < 1_000_000


def test_a_writer_reads_what_is_new_and_turns_every_failure_into_an_oserror(tmp_path, monkeypatch):
    folder = run_folders.pretraining(tmp_path / "base", steps=(8,))
    write = run_page.Writer(str(folder))
    write()
    with open(folder / "logs/pretraining_phase1.jsonl", "a") as file:
        file.write('{"step": 9, "kind": "train", "loss": 4.125}\n')
    write()
    assert content_of((folder / "report.html").read_text())["charts"][0]["series"][0]["y"][-1] == 4.125
    monkeypatch.setattr(run_page, "render", lambda *_: 1 / 0)
    with pytest.raises(OSError, match="division"):
        write()
    run_page.write_or_warn(str(folder))  # only logs
