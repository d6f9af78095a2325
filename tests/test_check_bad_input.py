"""scripts/check_bad_input.py: the inputs, what happens to files, a sample of the campaign, and planted violations.

The planted commands are small scripts in a folder that is laid out as the campaign's.
"""
from __future__ import annotations

import gzip
import itertools
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import bad_inputs  # noqa: E402  (found through the line above, like the next)
import check_bad_input  # noqa: E402
from bad_inputs import Call, Case  # noqa: E402

OPTIONS = {"run_pretraining.py": ["seed", "mask_prob"], "electra.sh": ["device", "seed"],
           "run_inference.py": ["question"]}

# --- The inputs ---


def test_inputs_are_the_same_for_the_same_seed():
    first, second, other = (list(itertools.islice(bad_inputs.cases(seed, OPTIONS), 80)) for seed in (1, 1, 2))
    assert first == second
    assert [case.number for case in first] == sorted({case.number for case in first})
    assert first[:6] == other[:6] and first[6:] != other[6:]  # --help comes first


def test_every_option_and_every_kind_get_their_turn():
    drawn = list(itertools.islice(bad_inputs.cases(1, OPTIONS), 400))
    assert {case.kind for case in drawn} == set(bad_inputs.KINDS)
    tried = {(case.program, case.option) for case in drawn if case.kind == "option"}
    assert tried == {(program, option) for program in OPTIONS for option in OPTIONS[program]}
    assert {case.program for case in drawn} == set(OPTIONS)
    files = {case.damage[0] for case in drawn if case.kind == "file"}
    assert {"data/train-*.tfrecord", "model.json", "data/vocab.txt", "data/manifest.json"} <= files


def test_choosing_by_kind_command_and_number():
    def chosen(only, **more):
        return bad_inputs.choose(bad_inputs.cases(1, OPTIONS), 9, set(only), **more)

    assert len(chosen(["option"])) == 9 and {case.kind for case in chosen(["option"])} == {"option"}
    both = chosen(["file", "run_pretraining.py"])
    assert {(case.kind, case.program) for case in both} == {("file", "run_pretraining.py")}
    assert [case.number for case in chosen(["17"])] == [17]
    assert not any(case.needs_models for case in chosen([], quick=True))


@pytest.mark.parametrize("file", ["shard.tfrecord", "settings.json", "model.safetensors", "cache.npz", "vocab.txt",
                                  "tf_model.h5"])
def test_every_damage_can_be_done_to_a_file(file, tmp_path):
    path = tmp_path / "folder" / file
    path.parent.mkdir()
    for name, damage in bad_inputs.damages_of(file).items():
        if file == "cache.npz":
            np.savez(path, lengths=np.arange(5))
        else:
            path.write_bytes(json.dumps({"a": [1, {"b": "c"}]}).encode() * (1 if file == "settings.json" else 30))
        if name != "gzip bomb":  # takes a second
            damage(path, random.Random(3))
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path.exists() or path.is_symlink():
            path.unlink()


def test_a_record_that_declares_a_huge_length_has_a_valid_checksum(tmp_path):
    import tfrecord
    path = tmp_path / "shard.tfrecord"
    path.write_bytes(bytes(100))
    bad_inputs.huge_record(path, random.Random(1))
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length >= 2**31 and path.read_bytes()[:12] == tfrecord.record_header(length)
    bad_inputs.gzip_bomb(path, random.Random(1))
    assert path.stat().st_size < 2 << 20
    with gzip.open(path) as file:
        assert len(file.read(1 << 20)) == 1 << 20


# --- Planted violations ---

PLANTED = {
    "nothing": ("print('fine')", []),
    "a refusal": ("sys.stderr.write('planted.py: --option=1 is wrong: give another.\\n'); sys.exit(2)", []),
    "a traceback": ("raise KeyError('planted')", ["status 1", "traceback: KeyError"]),
    "a caught traceback": ("import traceback\ntry: 1 / 0\nexcept ArithmeticError: traceback.print_exc()\nsys.exit(2)",
                           ["traceback: ZeroDivisionError"]),
    "status 3": ("sys.exit(3)", ["status 3"]),
    "a signal": ("os.kill(os.getpid(), 9)", ["status -9"]),
    "a temporary file": ("open('{case}/results.json.tmp-host-12-1', 'w')", ["left results.json.tmp-host-12-1"]),
    "a file in TMPDIR": ("open(os.environ['TMPDIR'] + '/pipe', 'w')", ["left tmp/pipe"]),
    "half a file": ("os.mkdir('{case}/results'); open('{case}/results/best.json', 'w').write('[1,')",
                    ["half-written results/best.json"]),
    "a checkpoint without data": ("os.mkdir('{case}/results'); open('{case}/results/ckpt-1.index', 'w')",
                                  ["half-written results/ckpt-1.index"]),
    "a folder after a refusal": ("os.mkdir('{case}/results'); sys.stderr.write('planted.py: --option is wrong.\\n'); "
                                 "sys.exit(2)", ["refused, and left results"]),
    "a changed input": ("open('{case}/mine', 'a').write('x'); sys.stderr.write('planted.py: --option is wrong.\\n'); "
                        "sys.exit(2)", ["refused, and changed mine"]),
    "a changed earlier run": ("open('{in}/run.txt', 'a').write('x')", ["touched in/run.txt"]),
    "a file in the repository": ("open('{code}/stray.txt', 'w')", ["touched code/stray.txt"]),
    "another folder": ("os.mkdir('{case}/elsewhere')", ["wrote elsewhere"]),
    "a smuggled command": ("open('{case}/INJECTED', 'w')", ["ran a command that was smuggled in"]),
    "two lines": ("sys.stderr.write('--option\\nplanted.py: --option is wrong.\\n'); sys.exit(2)",
                  ["a message of 2 lines"]),
    "silence": ("sys.exit(2)", ["status 2 without a message"]),
    "nothing named": ("sys.stderr.write('planted.py: invalid value given.\\n'); sys.exit(2)", ["names neither"]),
    "a long message": ("sys.stderr.write('planted.py: --option ' + 'x' * 9000 + '\\n'); sys.exit(2)",
                       ["a message of 90"]),
    "the shell's message": ("sys.stderr.write('mkdir: cannot create directory\\n'); sys.exit(2)",
                            ["raw message: mkdir"]),
    "a process": ("import subprocess; subprocess.Popen(['sleep', '30'])", ["left a running process: sleep"]),
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A campaign's folder with one command, planted.py."""
    monkeypatch.setitem(bad_inputs.PROGRAMS, "planted.py", "planted.py")
    monkeypatch.setitem(bad_inputs.CALLS, "planted", Call("planted.py", {"option": "1"}, models=False))
    found = check_bad_input.World(tmp_path)
    for folder in (found.code, found.inputs):
        folder.mkdir()
    (found.inputs / "run.txt").write_text("an earlier run\n")
    (found.inputs / "mine").write_text("an input\n")
    return found


def run_planted(world, code, **more):
    names = {"case": world.case_folder(7), "in": world.inputs, "code": world.code}
    for name, path in names.items():
        code = code.replace("{" + name + "}", str(path))
    (world.code / "planted.py").write_text(f"import os, sys\n{code}\n")
    shutil.rmtree(world.kept, ignore_errors=True)
    world.guard()
    settings = dict(kind="option", words=["--option=1"], copies={"mine": "mine"}, option="option")
    return check_bad_input.run_all(world, [Case(7, call="planted", what="", **{**settings, **more})], 1)[0]


@pytest.mark.parametrize("name", PLANTED)
def test_the_judge_finds_what_is_planted(name, world):
    code, expected = PLANTED[name]
    result = run_planted(world, code)
    assert bool(result.violations) == bool(expected), result.violations
    for part in expected:
        assert any(part in text for text in result.violations), result.violations
    assert world.case_folder(7).exists() == bool(expected)  # kept, so that the command can be run again
    assert (world.inputs / "run.txt").read_text() == "an earlier run\n" and not (world.code / "stray.txt").exists()


def test_the_command_that_is_printed_repeats_a_violation(world):
    result = run_planted(world, "print(sys.argv[1:]); sys.exit(3)", words=["--option=it's $(echo) `x`\n"])
    assert result.repeat in check_bad_input.describe(result)
    repeated = subprocess.run(result.repeat, shell=True, capture_output=True, text=True)
    assert repeated.returncode == 3 and repeated.stdout == f"{[*result.case.words]}\n"


@pytest.mark.parametrize("kind, expected", [("machine", []), ("option", ["status 1"])])
def test_status_1_is_right_only_where_the_machine_is_at_fault(kind, expected, world):
    code = "sys.stderr.write('planted.py: --option could not be written.\\n'); sys.exit(1)"
    assert run_planted(world, code, kind=kind, may_fail=kind == "machine").violations == expected


def test_a_command_that_hangs_is_killed(world, monkeypatch):
    monkeypatch.setattr(check_bad_input, "SECONDS", 0.5)
    assert run_planted(world, "import time; time.sleep(60)").violations == ["did not end within 0.5 s"]


def test_of_two_starts_one_must_finish(world):
    code = "sys.stderr.write('planted.py: --option is in use.\\n'); sys.exit(2)"
    assert run_planted(world, code, kind="together", machine={"together": "yes"}).violations == [
        "neither of two starts ended with 0 (2, 2)"]
    one = "try: os.mkdir('{case}/results')\nexcept OSError: " + code
    assert run_planted(world, one, kind="together", machine={"together": "yes"}).violations == []


def test_the_machine_is_as_bad_as_it_is_said_to_be(world):
    for machine, code in (({"close": "1"}, "os.fstat(1)"), ({"full": "1"}, "os.write(1, b'x')"),
                          ({"cwd": "deleted"}, "os.getcwd()"), ({"unset": "HOME"}, "os.environ['HOME']"),
                          ({"read_only": "yes"}, "open('{case}/locked/x', 'w')"),
                          ({"disk": "64k"}, "open('{case}/disk/x', 'wb').write(bytes(1 << 20))"),
                          ({"PYTHON": "/bin/true"}, "os.environ['PYTHON'] != '/bin/true' or 1 / 0")):
        result = run_planted(world, f"try: {code}\nexcept (OSError, KeyError, ArithmeticError): sys.exit(75)",
                             kind="machine", machine=machine, may_fail=True)
        assert result.status == 75, (machine, result)


def test_the_table_counts_by_command_and_by_kind(world):
    results = [run_planted(world, "raise KeyError('planted')"), run_planted(world, "print('fine')", kind="file")]
    rows = {line.split()[0]: line.split()[1:] for line in check_bad_input.table(results).splitlines()[1:]}
    assert rows["all"][:8] == ["2", "1", "0", "0", "1", "0", "1", "1"], rows
    assert rows["planted.py"][0] == "2" and rows["option"][0] == rows["file"][0] == "1"


# --- The campaign ---


def test_an_unknown_kind_is_refused_at_once():
    result = subprocess.run([sys.executable, "scripts/check_bad_input.py", "--only=electr.sh"], cwd=ROOT,
                            capture_output=True, text=True)
    assert result.returncode == 2 and "did you mean electra.sh?" in result.stderr


def test_a_sample_of_the_campaign_shows_no_violation(tmp_path):
    result = subprocess.run(
        [sys.executable, "scripts/check_bad_input.py", "--quick", "--inputs=40", "--only=typo,option,position,file",
         f"--folder={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "40 inputs of seed 1: 0 with violations" in result.stdout
