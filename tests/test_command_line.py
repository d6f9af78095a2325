"""command_line.py: parsing, help, errors and exit statuses, also of calls that are refused before TensorFlow loads."""
import dataclasses
import errno
import os
import signal
import subprocess
import sys

import pytest

import command_line
import configuration
from pretraining_options import PretrainingConfig

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def pretraining(**fields) -> PretrainingConfig:
    return PretrainingConfig(**{"pretrain_tfrecords": "shards", **fields})


# --- Parsing ---


def parse(*words) -> PretrainingConfig:
    return command_line.parse(PretrainingConfig, ["train.py", "--pretrain_tfrecords=shards", *words], "Trains.")


def test_defaults_of_the_flags_are_those_of_the_fields():
    assert parse() == pretraining()


@pytest.mark.parametrize("words, field, value", [
    (["--seed=7"], "seed", 7),
    (["--seed", "7"], "seed", 7),
    (["--learning_rate=4e-3"], "learning_rate", 4e-3),
    (["--optimizer=adamw"], "optimizer", "adamw"),
    (["--json_summary=out.jsonl"], "json_summary", "out.jsonl"),
    (["--json-summary=out.jsonl"], "json_summary", "out.jsonl"),
    (["--json-summary", "out-1.jsonl"], "json_summary", "out-1.jsonl"),  # the value keeps its dash
    (["--model-name=my-run"], "model_name", "my-run"),
    (["--skip_adaptive"], "skip_adaptive", True),
    (["--skip_adaptive", "true"], "skip_adaptive", True),
    (["--skip_adaptive", "false"], "skip_adaptive", False),
    (["--skip-adaptive", "False"], "skip_adaptive", False),
    (["--skip_adaptive=false"], "skip_adaptive", False),
    (["--skip_adaptive", "0"], "skip_adaptive", False),
    (["--noskip_adaptive"], "skip_adaptive", False),
    (["--noskip-adaptive"], "skip_adaptive", False),
    (["--skip_adaptive", "--phase2"], "phase2", True),
    (["--xla", "false"], "xla", "false"),  # a choice of words, no switch
    (["--generator_hidden_size=0.3333333"], "generator_hidden_size", 0.3333333),
    (["--eval_freq=10"], "eval_freq", 10),
])
def test_flag_sets_its_field_and_no_other(words, field, value):
    others = {"skip_adaptive": True} if field == "phase2" else {}
    assert parse(*words) == pretraining(**{field: value, **others})


@pytest.mark.parametrize("words, part", [
    (["--learning_rte=1"], "learning_rte"),
    (["--seed=x"], "seed"),
    (["--num_train_steps=1.5"], "num_train_steps"),
    (["--device=tpu"], "tpu"),
    (["--seed"], "seed"),
    (["stray"], "'stray'"),
    (["--phase2", "false", "stray"], "'stray'"),
    (["--skip_adaptive", "no"], "'no'"),
    (["--mask_prob=2"], "--mask_prob=2"),
    (["--train_batch_size=99999999999999999999"], "--train_batch_size=9999"),
    (["--learning_rate=1e400"], "--learning_rate=inf"),
])
def test_wrong_command_line_is_refused_in_one_sentence(words, part, refuses):
    assert part in refuses(parse, *words)


@pytest.mark.parametrize("word", ["-h", "--help", "-help"])
def test_help_lists_every_flag_with_its_default_and_ends_well(word, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--seed=x", word)  # help is given whatever else is wrong
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Trains." in lines
    for field in dataclasses.fields(PretrainingConfig):
        default = "none" if field.default is None else field.default
        assert f"  --{field.name}={str(default).lower() if isinstance(default, bool) else default}" in lines
        assert field.metadata["meaning"] in " ".join(" ".join(lines).split())
    assert ": lamb, adam, adamw" in " ".join(" ".join(lines).split())


# --- Running ---


@pytest.mark.parametrize("end, status, said", [
    (configuration.UserError("Mend it."), 2, "train.py: Mend it.\n"),
    (configuration.RunFailed("It broke."), 1, "train.py: It broke.\n"),
    (configuration.Interrupted("Resume it."), 75, "train.py: Resume it.\n"),
    (configuration.UserError("--x=" + "a" * 9999 + " is bad."), 2,
     "train.py: --x=" + "a" * 96 + "..." + "a" * 30 + " is bad.\n"),
    (configuration.UserError("--device=a\n\tb is unknown."), 2, "train.py: --device=a\\n\\tb is unknown.\n"),
    (None, 0, ""),
    (OSError(errno.ENOSPC, "No space left on device", "results.json"), 1,
     "train.py: results.json could not be read or written (No space left on device): make room or fix that, and start "
     "again.\n"),
    (OSError(errno.EROFS, "Read-only file system"), 1,
     "train.py: the output could not be read or written (Read-only file system): make room or fix that, and start "
     "again.\n"),
])
def test_command_ends_in_one_sentence_and_its_status(end, status, said, monkeypatch, capsys):
    def main(argv):
        if end:
            raise end

    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    with pytest.raises(SystemExit) as caught:
        command_line.run_command(main)
    assert caught.value.code == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [
    MemoryError(), type("ResourceExhaustedError", (Exception,), {})("OOM [64,512]\nmore")])
def test_memory_that_ran_out_is_one_sentence(error, monkeypatch, capsys):
    def main(argv):
        raise error

    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    with pytest.raises(SystemExit) as caught:
        command_line.run_command(main)
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.startswith("train.py: memory ran out") and said.count("\n") == 1


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    with pytest.raises(KeyError):
        command_line.run_command(lambda argv: {}["x"])


def test_the_status_of_a_command_does_not_depend_on_a_reader_of_its_output(tmp_path):
    """2>&1 | head -1: the last sentence cannot be written."""
    program = ("import command_line, configuration, sys\n"
               "def main(argv):\n    print('first', flush=True)\n    sys.stdin.read()\n"
               "    raise configuration.Interrupted('stopped.')\ncommand_line.run_command(main)")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 75


EARLY = """import contextlib, dataclasses, os, signal, sys, time
import command_line
from configuration import option
@dataclasses.dataclass(frozen=True)
class Config:
    x: int = option(1, "a number")
when, resumable, number = sys.argv.pop(), sys.argv.pop() == "True", int(sys.argv.pop())
def stop():
    os.kill(os.getpid(), number)
    time.sleep(30)
@contextlib.contextmanager
def held():
    try:
        yield
    finally:
        print("released", flush=True)
def main(argv):
    with held():
        stop()
command_line.refuse_early(Config, "doc", resumable=resumable)
if when == "importing":
    stop()
command_line.run_command(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("when", ["importing", "running"])
def test_a_signal_before_the_command_handles_them_ends_it_in_one_sentence(when, resumable, number):
    done = subprocess.run([sys.executable, "-c", EARLY, str(int(number)), str(resumable), when], cwd=ROOT, text=True,
                          capture_output=True)
    kill = when == "running" and not resumable and number == signal.SIGTERM  # as any program
    assert done.returncode == (75 if resumable else -number if kill else 128 + number)
    assert len(done.stderr.splitlines()) == (0 if kill else 1) and (kill or number.name in done.stderr)
    assert done.stdout == ("released\n" if when == "running" and not kill else "")
