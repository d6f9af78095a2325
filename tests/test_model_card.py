"""model_card: what a card says, and that the Hub's own library reads it."""
from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

import model_card

STATE = {"step": 933, "phase": 2, "world_size": 8, "device": "gpu", "environment": {"tensorflow": "2.15.1"},
         "encoder": {"num_hidden_layers": 12, "hidden_size": 768},
         "config": {"model_size": "base", "num_train_steps": 933, "train_batch_size": 16, "objective": "electra",
                    "gradient_accumulation_steps": 2, "optimizer": "lamb",
                    "pretrain_tfrecords": "/home/me/data/wiki/seq_len_512",
                    "eval_tfrecords": "/home/me/data/wiki/eval"}}
SQUAD = {**STATE, "task": "squad", "updates": 40, "step": 40, "phase": 1,
         "config": {"data_dir": "/data/squad", "train_batch_size": 8}}


def facts(kind="discriminator", **changes):
    given = dict(kind=kind, name="base", state=SQUAD if kind == "question_answering" else STATE, parameters=1_234_567,
                 vocabulary="WordPiece vocabulary of 30522 tokens", scores={}, scored_on="")
    return model_card.Facts(**{**given, **changes})


@pytest.mark.parametrize("kind, pipeline, scores", [
    ("discriminator", "feature-extraction", {"discriminator_auc": 0.97, "discriminator_loss": 0.1}),
    ("generator", "fill-mask", {"generator_perplexity": 12.5}),
    ("question_answering", "question-answering", {"f1": 90.96, "exact_match": 85.04})])
def test_the_hubs_library_reads_the_metadata_and_the_results(kind, pipeline, scores):
    text = model_card.text(facts(kind, scores=scores, scored_on="/home/me/data/wiki/eval", language="en",
                                 license="apache-2.0", repository="someone/electra-x"))
    data = ModelCard(text).data
    assert (data.language, data.license, data.pipeline_tag, data.library_name) == (
        "en", "apache-2.0", pipeline, "transformers")
    assert "electra" in data.tags and data.model_name == "electra-x"
    assert sorted(result.metric_value for result in data.eval_results) == sorted(scores.values())
    assert {result.dataset_name for result in data.eval_results} == {"wiki/eval"}
    assert all(f"{value:g}" in text for value in scores.values())
    assert "from_pretrained(\"someone/electra-x\")" in text or "model=\"someone/electra-x\"" in text


def test_what_the_run_does_not_know_is_to_be_filled_in_and_nothing_of_the_machine_is_told():
    text = model_card.text(facts())
    data = ModelCard(text).data
    assert data.license == "unknown" and data.language is None and not data.eval_results
    assert text.count("**To fill in:**") == 4 and "language: en" in text and "was not evaluated" in text
    assert "/home/me" not in text and "`wiki/seq_len_512`" in text
    assert "| global batch | 256 (8 workers) |" in text and "update 933 of 933 in phase 2" in text


def test_a_joint_head_does_not_claim_to_load_in_transformers():
    text = model_card.text(facts("question_answering", loads_in_transformers=False))
    assert ModelCard(text).data.library_name == "tensorflow" and "import pipeline" not in text
    assert "run_inference.py" in text and "update 40 of 40," in text and "squad/train-v1.1.json" in text


def test_a_card_of_an_unknown_run_is_valid():
    for kind in model_card.TASKS:
        assert ModelCard(model_card.text(facts(kind, state={}))).data.tags


@pytest.mark.parametrize("change, edited", [
    (lambda text: text, False), (lambda text: text.replace("\n", "\r\n"), False), (lambda text: text + "\n", False),
    (lambda text: text.replace("unknown", "mit"), True), (lambda text: "# Mine\n", True), (lambda text: "", True),
    (lambda text: text + "More.\n", True)], ids=["as written", "dos", "line", "licence", "own", "empty", "more"])
def test_an_edited_card_is_recognised(change, edited, tmp_path):
    (tmp_path / "README.md").write_bytes(change(model_card.text(facts())).encode())
    assert (model_card.edited(str(tmp_path)) is not None) == edited


def test_the_scores_are_those_of_the_checkpoint(tmp_path):
    def entry(step, kind, **metrics):
        return json.dumps({"step": step, "kind": kind, **metrics}) + "\n"

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "pretraining_phase2.jsonl").write_text(
        entry(900, "eval", generator_loss=3.0) + entry(933, "train", generator_loss=2.0)
        + entry(933, "eval", generator_loss=2.5))
    found, where = model_card.scores_of(str(tmp_path), STATE)
    assert found["generator_loss"] == 2.5 and where == "/home/me/data/wiki/eval"
    assert model_card.scores_of(str(tmp_path), {**STATE, "step": 5}) == ({}, "")
    assert model_card.scores_of(str(tmp_path), {}) == ({}, "")
    (tmp_path / "results.json").write_text('{"train_steps": 40, "f1": 80.5, "predict_file": "dev.json"}')
    found, where = model_card.scores_of(str(tmp_path), SQUAD)
    assert found["f1"] == 80.5 and where == "dev.json"
    assert model_card.scores_of(str(tmp_path), {**SQUAD, "step": 20}) == ({}, "")
    task = {**STATE, "task": "classification", "step": 9, "config": {"task": "classification", "train_file": "/a.csv"}}
    for dev, where in (("/d/b.csv", "/d/b.csv"), ("/a.csv", "")):  # a part of the training data
        (tmp_path / "results.json").write_text(json.dumps({"train_steps": 9, "accuracy": 75.0, "dev_file": dev}))
        found, scored_on = model_card.scores_of(str(tmp_path), task)
        assert found["accuracy"] == 75.0 and scored_on == where
    (tmp_path / "results.json").write_text("{")
    assert model_card.scores_of(str(tmp_path), SQUAD) == ({}, "")


@pytest.mark.parametrize("options, where", [
    ({"train_file": "/d/train.csv", "dev_file": "/d/dev.csv"}, "/d/dev.csv"), ({"train_file": "/d/train.csv"}, ""),
    ({"data_dir": "/d", "task": "mnli"}, "GLUE/mnli")])
def test_the_scores_of_a_task_are_found(tmp_path, options, where):
    state = {**SQUAD, "task": "sequence_classification", "config": options}
    path = tmp_path / "logs" / "tasks.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"step": 20, "kind": "eval", "accuracy": 71.5}) + "\n")
    found, found_on = model_card.scores_of(str(tmp_path), {**state, "step": 20})
    assert found["accuracy"] == 71.5 and found_on == where
    used = options.get("dev_file") or options.get("train_file") or "/d/MNLI/dev_matched.tsv"
    (tmp_path / "results.json").write_text(json.dumps({"train_steps": 40, "accuracy": 80.5, "dev_file": used}))
    found, found_on = model_card.scores_of(str(tmp_path), state)
    assert found["accuracy"] == 80.5 and found_on == (used if where else "")
    text = model_card.text(facts("sequence_classification", state=state, scores=found, scored_on=found_on))
    assert "| accuracy | 80.5 |" in text and "/d/" not in text
