"""console: the first and last lines of a training command fit a terminal and can be copied."""
from __future__ import annotations

import os
import pathlib
import shlex
import subprocess

import pytest

import console
from pretraining_options import PretrainingConfig
from squad_options import SquadConfig


def shown(lines):
    return "\n".join(line.wrapped() for line in lines)


def test_lines_are_wrapped_at_80_columns_and_whole_in_the_log(caplog):
    text = "word " * 40
    with caplog.at_level("INFO", "absl"):
        console.show([console.Line("data", text.strip(), "all of it")])
    lines = caplog.records[-1].console.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80 and lines[0].startswith("data      word")
    assert all(line.startswith(" " * 10 + "word") for line in lines[1:])
    assert caplog.records[-1].getMessage() == "data: all of it"


def test_a_long_path_is_not_cut_and_has_a_line_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "/" + "long-folder-name/" * 6 + "ckpt-1"
    lines = console.Line("best", f"{path} (held-out loss 1.0)").wrapped().splitlines()
    assert any(line.endswith(f" {path}") for line in lines)


def test_paths_are_relative_or_begin_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "here" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path, short in (("x", "x"), (str(tmp_path / "here" / "x"), "x"), (".", "."), ("../other", "~/other"),
                        ("/usr/bin", "/usr/bin")):
        assert console.short_path(path) == short
    monkeypatch.setenv("HOME", "/")
    assert console.short_path("/usr/bin") == "/usr/bin"


@pytest.mark.parametrize("folder", ["results", "it's a folder", "a $HOME `x`", "long-name-" * 12])
def test_commands_reach_the_shell_as_they_are(folder, tmp_path, monkeypatch):
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ["printf", "%s\\n", console.option("init", str(tmp_path / "here" / folder)),
             console.option("out", str(tmp_path / "home" / folder)), "--serve"]
    text = console.command(words)
    out = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out == [f"--init={folder}", f"--out={tmp_path / 'home' / folder}", "--serve"]
    assert all(len(line) <= 70 or len(line.split()) <= 6 for line in text.splitlines())


def test_the_interpreter_of_a_virtual_environment_is_named_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(console.ROOT)
    monkeypatch.setattr(console.sys, "executable", os.path.join(console.ROOT, ".venv", "bin", "python"))
    assert console.python("run_inference.py") == [".venv/bin/python", "run_inference.py"]
    assert console.wrapper("electra.sh") == ["bash", "scripts/electra.sh"]


@pytest.mark.parametrize("seconds, words", [(4, "4 s"), (95, "2 min"), (3600, "1 h 00 min"), (90_000, "25 h 00 min"),
                                            (200_000, "2 days 7 h")])
def test_durations_in_words(seconds, words):
    assert console.in_words(seconds) == words


def test_the_time_is_promised_for_the_second_update_of_this_call():
    assert "update 2 " in console.time_ahead(0, 100).text and "update 12 " in console.time_ahead(10, 100).text
    assert "estimated after" not in console.time_ahead(98, 100).text
    assert "7,000 updates" in console.time_left(7200, 7000).text and "2 h 00 min" in console.time_left(7200, 7000).text


def test_places_below_and_outside_the_folder_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = console.places("results/models/x", "results/models/x/logs/a.log", "results/models/x/logs/tb", True)
    assert inside.text.startswith("results/models/x: report.html, checkpoints/, logs/") and "logs/a.log" in inside.full
    outside = console.places("results/models/x", "/elsewhere/a.log", "/elsewhere/tb", False)
    assert "/elsewhere/a.log" in outside.text and "checkpoints" not in outside.text


def commands_of(lines):
    return {line.label: shlex.split(line.text.replace("\\\n", "")) for line in lines}


def test_after_pretraining_come_a_fine_tuning_and_an_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ELECTRA_WRAPPER", raising=False)
    monkeypatch.delenv("ELECTRA_THEN", raising=False)
    config = PretrainingConfig(pretrain_tfrecords="x", phase2=True)
    found = commands_of(console.after_pretraining(config, "gpu", "results/models/base/checkpoints/ckpt-p2-7"))
    assert list(found) == ["fine-tune", "export"]
    assert found["fine-tune"][1].endswith("scripts/electra_squad.sh") and found["fine-tune"][2:] == [
        "gpu", "--init_checkpoint=results/models/base/checkpoints/ckpt-p2-7"]
    assert "--pretrained_checkpoint=results/models/base/checkpoints/ckpt-p2-7" in found["export"]
    first = PretrainingConfig(pretrain_tfrecords="x")
    assert "--phase2" in shown(console.after_pretraining(first, "cpu", "c"))
    monkeypatch.setenv("ELECTRA_WRAPPER", "1:2")
    assert "--phase=2" in shown(console.after_pretraining(first, "cpu", "c"))
    assert console.after_pretraining(config, "cpu", None) == []
    monkeypatch.setenv("ELECTRA_THEN", "phase 2")
    assert shown(console.after_pretraining(first, "cpu", "c")).splitlines() == ["next      phase 2, which starts now"]


def test_after_a_fine_tuning_come_questions_an_export_and_the_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = SquadConfig(do_train=True, data_dir="d", output_dir="out")
    found = commands_of(console.after_fine_tuning(config))
    assert list(found) == ["try", "export"] and "--init_checkpoint=out" in found["try"]
    pathlib.Path("out/checkpoints").mkdir(parents=True)
    pathlib.Path("out/checkpoints/best.json").write_text("{}")
    pathlib.Path("out/analysis.html").write_text("")
    found = commands_of(console.after_fine_tuning(config))
    assert list(found) == ["errors", "try", "export"] and "--init_checkpoint=out/best" in found["try"]
    assert "--pretrained_checkpoint=out/best" in found["export"]
    without = SquadConfig(do_train=True, data_dir="d", output_dir="out", skip_checkpoint=True)
    assert console.after_fine_tuning(without) == []
