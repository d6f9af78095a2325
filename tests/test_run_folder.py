"""run_folder: what is read of a run, of old, damaged and growing ones, and what the history records."""
from __future__ import annotations

import json

import pytest
import run_folders

import run_folder
from run_folder import Run


def test_a_run_says_what_ran_and_what_came_of_it(tmp_path):
    run = Run(str(run_folders.pretraining(tmp_path / "base")))
    assert run.kind == "pretraining" and run.name == "base" and not run.problems and run.state == "finished"
    assert [(part.title, part.steps) for part in run.parts] == [("phase 1", 40), ("phase 2", 20)]
    assert run.command[-1] == "--model_name=<b>"
    assert run.versions == {"python": "3.11.7", "tensorflow": "2.15.1", "code": "abc123"}
    assert run.machine["processor"] == "x" and run.machine["workers"] == "2"
    assert run.data()["records"] == 160 and run.data()["shards"] == 2
    assert run.data(run.parts[0])["sequences_per_update"] == 16 * 1 * 2
    assert run.held_out()["discriminator_auc"] == 0.9
    points = run.parts[0].points("eval", "generator_loss")
    assert [point.step for point in points] == [10, 20, 30, 40] and points[-1].value == 7.5
    assert run.parts[0].best["generator_loss"] == (7.5, 40) and run.parts[0].best["generator_accuracy"] == (0.3, 10)


def test_interruptions_and_resumes_are_those_of_the_history(tmp_path):
    run = Run(str(run_folders.pretraining(tmp_path / "base")))
    assert [session.reason for session in run.sessions] == ["stopped: stopped by SIGTERM", "finished"]
    (tmp_path / "base/logs/history.jsonl").write_text(json.dumps(
        {"event": "start", "session": "c", "pid": 2**22 + 1, "host": run_folder.socket.gethostname(), "step": 3}))
    assert "killed" in Run(str(tmp_path / "base")).sessions[0].reason and Run(str(tmp_path / "base")).state == "stopped"


def test_a_process_that_another_one_followed_is_not_running_any_more(tmp_path):
    folder = run_folders.pretraining(tmp_path / "base", history=False)
    starts = [{"event": "start", "session": name, "pid": pid, "host": name, "step": 0}
              for name, pid in (("a", 1), ("b", 2), ("c", 1.5))]  # killed on machines that are gone
    (folder / "logs/history.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts[:2]))
    assert [session.is_running for session in Run(str(folder)).sessions] == [False, True]
    (folder / "logs/history.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    assert Run(str(folder)).state == "stopped"


def test_a_run_of_an_earlier_release_has_no_history(tmp_path):
    run = Run(str(run_folders.pretraining(tmp_path / "old", history=False)))
    assert not run.problems and not run.sessions and run.state == "finished" and run.command == []
    assert run.machine["device"] == "cpu (2 cores)" and run.versions == {"tensorflow": "2.15.1"}


def test_only_new_lines_are_read_and_a_replaced_log_starts_anew(tmp_path):
    run = Run(str(run_folders.pretraining(tmp_path / "base", steps=(8,))))
    log = tmp_path / "base/logs/pretraining_phase1.jsonl"
    with open(log, "a") as file:
        file.write('{"step": 9, "kind": "train", "loss": 4.0}\n{"step": 10, "kind": "tr')
    run.refresh()
    assert run.parts[0].steps == 9 and run.parts[0].damaged == 0  # half a line is not damaged yet
    with open(log, "a") as file:
        file.write('ain", "loss": 3.0}\n')
    run.refresh()
    assert [point.step for point in run.parts[0].points("train", "loss")] == list(range(1, 11))
    (tmp_path / "new").write_text('{"step": 1, "kind": "train", "loss": 9.0}\n')
    (tmp_path / "new").replace(log)
    run.refresh()
    assert [point.value for point in run.parts[0].points("train", "loss")] == [9.0]


@pytest.mark.parametrize("name, content, part", [
    ("logs/configuration_phase1.json", "{", "configuration_phase1.json"),
    ("logs/configuration_phase1.json", None, "configuration_phase1.json is missing"),
    ("logs/pretraining_phase1.jsonl", None, "pretraining_phase1.jsonl cannot be read"),
    ("logs/pretraining_phase1.jsonl", 'x\n[]\n{"step": -1, "kind": "train"}\n{"step": 1, "kind": 2}\n', "4 damaged"),
    ("logs/history.jsonl", "[]\nnull\n{}\n\0\n", "4 damaged"), ("results.json", "[1]", "results.json"),
    ("checkpoints/best.json", "\xff", "best.json")])
def test_what_is_missing_or_damaged_is_one_sentence_and_the_rest_is_read(name, content, part, tmp_path):
    folder = run_folders.pretraining(tmp_path / "base")
    (folder / "checkpoints").mkdir()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, encoding="latin-1")
    run = Run(str(folder))
    (problem,) = run.problems
    assert part in problem and run.parts[1].steps == 20


def test_numbers_of_a_damaged_log_do_not_get_through(tmp_path):
    folder = run_folders.pretraining(tmp_path / "base", steps=(4,))
    with open(folder / "logs/pretraining_phase1.jsonl", "a") as file:
        entry = {"step": 5, "kind": "train", "loss": float("nan"), "f1": True, "x": "<b>"}
        file.write(json.dumps({**entry, **{f"m{number}": 1 for number in range(500)}}) + "\n")
        file.write('{"step": 99999999999, "kind": "train", "loss": 1}\n')
        file.write('{"step": 6, "kind": "eval", "loss": %s}\n' % ("9" * 400))
    run = Run(str(folder))
    assert "loss" not in run.parts[0].last["eval"]
    assert run.parts[0].damaged == 1 and len(run.parts[0].curves.series) <= 128
    assert len(run.parts[0].points("train", "loss")) == 4 and not run.parts[0].points("train", "f1")


def test_other_folders_are_refused(tmp_path, refuses):
    assert "does not exist" in refuses(Run, str(tmp_path / "no"))
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refuses(Run, str(tmp_path / "file"))
    assert "configuration" in refuses(Run, str(tmp_path))


def test_fine_tunings_and_sweeps_are_told_apart(tmp_path):
    run = Run(str(run_folders.fine_tuning(tmp_path / "squad")))
    assert run.kind == "fine-tuning" and run.scores == {"f1": 88.25, "exact_match": 80.5} and run.parts[0].steps == 20
    assert Run(str(tmp_path / "squad" / "logs")).folder == run.folder
    run = Run(str(run_folders.sweep(tmp_path / "sweep")))
    assert run.kind == "sweep" and len(run.rows) == 7 and run.rows[0]["F1"] == 62.0


def test_guessers_are_those_of_the_sample_that_the_records_are_of(tmp_path):
    records = tmp_path / "demo" / "tfrecord" / "seq_len_128"
    records.mkdir(parents=True)
    (records / "manifest.json").write_text('{"format": "electra-pretraining-tfrecord", "num_tokens": 7}')
    (tmp_path / "demo" / "manifest.json").write_text(
        '{"masked_piece_accuracy": {"unigram": 0.05, "bigram": 0.25, "oracle": 0.7, "scored_pieces": 9}}')
    found = run_folder.describe_data([str(records / "train-0.tfrecord")])
    assert found == {"dataset_tokens": 7, "guessers": {"unigram": 0.05, "bigram": 0.25, "oracle": 0.7}}


@pytest.mark.parametrize("documents, known", [(9, {"guessers": {"unigram": 0.05}}), (8, {})])
def test_the_sample_may_lie_beside_its_records_as_that_of_the_wrapper_does(documents, known, tmp_path):
    records = tmp_path / "sample" / "tfrecord" / "seq_len_128"
    records.mkdir(parents=True)
    (records / "manifest.json").write_text('{"format": "electra-pretraining-tfrecord", "num_documents": 9}')
    (tmp_path / "sample" / "demo").mkdir()
    (tmp_path / "sample" / "demo" / "manifest.json").write_text(json.dumps(
        {"corpus": {"documents": documents}, "masked_piece_accuracy": {"unigram": 0.05}}))
    assert run_folder.describe_data([str(records)]) == {"dataset_documents": 9, **known}


def test_the_history_has_a_line_for_each_start_and_end(tmp_path):
    for number in range(2):
        history = run_folder.History(str(tmp_path / "logs"))
        history.started(5 * number, {"phase": 1, "device": "cpu"})
        if number:
            with open(history.path, "a") as file:
                file.write('{"half')
        history.ended(5, "failed", "why")
    lines = (tmp_path / "logs/history.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["device"] == "cpu" and first["versions"]["python"] and first["pid"] and first["command"] and (
        first["directory"] and first["time"][10] == "T")
    assert json.loads(lines[1])["reason"] == "failed" and lines[3] == '{"half' and len(lines) == 5
    assert json.loads(lines[4])["session"] == json.loads(lines[2])["session"] != first["session"]
