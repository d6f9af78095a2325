"""ensemble.py by hand, its refusals, and the command without TensorFlow."""
from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from support import ROOT
from test_analysis import CONTEXT, answer, write_run

import ensemble
from squad_options import SquadConfig
from squad_results import Answers


def test_probabilities_are_averaged_by_text_and_null_odds_too():
    first = Answers({"q": [answer("1543", 0.6), answer("Ana Ruiz", 0.4)]}, {"q": -1.0})
    second = Answers({"q": [answer("Ana Ruiz", 0.9), answer("town", 0.1)]}, {"q": 4.0})
    found = ensemble.combine([first, second], 20)
    assert [(entry.text, pytest.approx(entry.probability)) for entry in found.nbest["q"]] == [
        ("Ana Ruiz", 0.65), ("1543", 0.3), ("town", 0.05)]
    assert all(CONTEXT[entry.start:entry.end] == entry.text and entry.score == pytest.approx(math.log(
        entry.probability)) for entry in found.nbest["q"])
    assert found.null_odds == {"q": 1.5}
    assert len(ensemble.combine([first, second], 2).nbest["q"]) == 2


def test_the_span_is_that_of_the_most_certain_member():
    context = "cat and cat"
    early, late = answer("cat", 0.4, context), answer("cat", 0.5, context)._replace(start=8, end=11)
    assert ensemble.combine([Answers({"q": [early]}, {}), Answers({"q": [late]}, {})], 20).nbest["q"][0].start == 8


def test_members_that_do_not_fit_are_refused_by_name(tmp_path, refuses):
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        write_run(tmp_path / name, seed=seed)
    dev = str(tmp_path / "dev-5.json")

    def run(*names, out="together"):
        folders = ",".join(str(tmp_path / name) for name in names)
        return ensemble.run(SquadConfig(do_eval=True, predict_file=dev, output_dir=str(tmp_path / out),
                                        version_2_with_negative=True, ensemble=folders))

    assert "none" in refuses(run, "one", "none") and "--ensemble" in refuses(run, "one")
    assert "different folders" in refuses(run, "one", "one") and "--output_dir" in refuses(run, "one", "two", out="two")
    nbest = json.loads((tmp_path / "two" / "nbest_predictions.json").read_text())
    for change, said in ((lambda: nbest.pop("q7"), "'q7'"), (lambda: nbest.update(q7=[], more=[]), "'more'"),
                         (lambda: (nbest.pop("more"), nbest.update(q7=[{"text": 3}])), "'q7'"),
                         (lambda: nbest.update(q7=[answer("1543")._asdict()], q8=[{**answer("1543")._asdict(),
                                                                                  "text": "1544"}]), "'q8'")):
        change()
        (tmp_path / "two" / "nbest_predictions.json").write_text(json.dumps(nbest))
        text = refuses(run, "one", "two")
        assert str(tmp_path / "two") in text and said in text, text
    assert not (tmp_path / "together").exists()


def test_the_command_scores_an_ensemble_without_tensorflow(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", changed=lambda entry: answer("Ana Ruiz", 0.5))
    words = ["--do_eval", "--version_2_with_negative", f"--predict_file={tmp_path}/dev-5.json",
             f"--output_dir={tmp_path}/together", f"--ensemble={tmp_path}/one,{tmp_path}/two"]
    code = ("import sys, runpy; sys.modules['tensorflow'] = None; sys.argv = sys.argv[1:]; sys.path.insert(0, '.'); "
            "runpy.run_path('run_tf_squad.py', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code, "run_tf_squad.py", *words], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "together" / "results.json").read_text())
    assert results["ensemble"] == [f"{tmp_path}/one", f"{tmp_path}/two"] and f"F1 {results['f1']:.2f}" in done.stdout
    one, two, together = (json.loads((tmp_path / name / "nbest_predictions.json").read_text())
                          for name in ("one", "two", "together"))
    best = {id_: max((one[id_][0], two[id_][0]), key=lambda entry: entry["probability"])["text"] for id_ in one}
    assert {id_: found[0]["text"] for id_, found in together.items()} == best
    assert best not in [{id_: found[0]["text"] for id_, found in member.items()} for member in (one, two)]
    assert {path.name for path in (tmp_path / "together").iterdir()} == {
        "analysis.html", "analysis.json", "logfile.txt", "nbest_predictions.json", "null_odds.json", "predictions.json",
        "results.json"}
