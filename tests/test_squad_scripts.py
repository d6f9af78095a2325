"""electra_squad.sh and finetune_ckpts_on_squad.sh, run as a user runs them, in a copy of the repository.

Where nothing has to be trained, PYTHON is a stand-in that records how it was called and ends as the test wants.
"""
from __future__ import annotations

import concurrent.futures
import csv
import glob
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import plans
import pytest
import sweep_recipe
import tensorflow as tf
from support import (
    GAUDI_FILES,
    ROOT,
    SQUAD_VOCABULARY,
    STAND_IN,
    UNTIL_TERM,
    Clone,
    assert_refused,
    commands,
    make_folder,
    save_checkpoints,
    squad_file,
    wait_for,
    write_executable,
)

import command_line
import hub
import modeling
from checkpoints import Checkpoints
from fine_tuning import read_source
from pretraining_options import PretrainingConfig
from scripts import recipe, sweep_squad
from squad_options import SquadConfig
from tokenization import ElectraTokenizer

SQUAD, SWEEP = "electra_squad.sh", "finetune_ckpts_on_squad.sh"

# The order and defaults of Habana's electra_squad.sh, which people have in their fingers.
POSITIONS = """device=cpu precision=fp32 electra_model=google/electra-base-discriminator epochs=2 batch_size=16
infer_batch_size=128 learning_rate= num_workers=0 seed=RANDOM squad_version=1.1 squad_dir=squad_dir out_dir=results/
init_checkpoint=None mode=train_eval env=interactive cache_dir=None max_steps=-1 train_iter_per_epoch=-1""".split()

# Stands in for the interpreter: checks and locks (-c) succeed, sample data and exports are made as empty folders, and a
# fine-tuning writes results.json after it has done what FAKE_RUN says, in bash. The sweep is the real one, which starts
# the others with this file.
FAKE_PYTHON = STAND_IN + r"""
[[ $1 != -c ]] || exit 0
for word; do case $word in --output_dir=*) out=${word#*=} ;; esac; done
case "$*" in
  *sweep_squad.py*) exec REAL -c 'import runpy, sys
sys.executable, sys.argv = sys.argv[1], sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")' "$0" "$@" ;;
esac
echo "$*" >>"$CALLS"
case "$*" in
  *make_sample_data*) mkdir -p data/sample/demo/squad ;;
  *postprocess_pretrained_ckpt*) mkdir -p "$out/discriminator" ;;
  *run_tf_squad*)
    eval "${FAKE_RUN:-true}"
    if [[ $out ]]; then mkdir -p "$out"; echo '{"exact_match": 25.0, "f1": 50.0}' >"$out/results.json"; fi ;;
esac
"""


class Copy(Clone):
    """A copy of the repository, where wrappers can be called."""

    def __init__(self, folder):
        super().__init__(folder)
        for file in ROOT.glob("*.py"):
            shutil.copy(file, folder)
        shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("sample", "__pycache__"),
                        dirs_exist_ok=True)
        shutil.copytree(ROOT / "templates", folder / "templates")
        for name in ("squad_dir", "checkpoints"):
            self.environment.pop(name, None)

    def call(self, *arguments, wrapper=SQUAD, cwd=None, timeout=240, **environment):
        return subprocess.run(self.command(*arguments, wrapper=wrapper), cwd=cwd or self.folder, text=True,
                              capture_output=True, timeout=timeout, env={**self.environment, **environment})

    def start(self, *arguments, wrapper=SQUAD, **environment):
        return subprocess.Popen(self.command(*arguments, wrapper=wrapper), cwd=self.folder, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                env={**self.environment, **environment})

    def fine_tunings(self):
        return [call for call in self.recorded() if call.startswith("run_tf_squad.py")]


@pytest.fixture
def clone(tmp_path):
    return Copy(make_folder(tmp_path / "clone"))


@pytest.fixture
def fake(clone, tmp_path):
    """A copy whose PYTHON is the stand-in."""
    text = FAKE_PYTHON.replace("REAL", shlex.quote(sys.executable))
    clone.environment["PYTHON"] = write_executable(tmp_path / "fake" / "python", text)
    return clone


@pytest.fixture
def squad_dir(tmp_path):
    return make_folder(tmp_path / "squad")


def fine_tuning(result):
    """The one command of a dry run, as a list of words."""
    return next(command for command in commands(result) if "run_tf_squad.py" in command)


# --- electra_squad.sh: options ---


def test_help_lists_the_positions_with_their_order_and_defaults(clone):
    result = clone.call("--help")
    assert result.returncode == 0
    printed = re.findall(r"^ *(\d+)  --(\S+) +\S", result.stdout, flags=re.MULTILINE)
    assert printed == [(str(number), option) for number, option in enumerate(POSITIONS, 1)]
    sweep = clone.call("--help", wrapper=SWEEP).stdout
    assert max(map(len, (result.stdout + sweep).splitlines())) <= 120
    listed = re.findall(r"^ +--(\w+)=", sweep, flags=re.MULTILINE)
    own = listed.index("dry_run") + 1
    assert listed[:5] == ["checkpoints", "seeds", "device", "out_dir", "keep_checkpoint_max"] and own == 13
    for entry in recipe.squad_table().options:  # of electra_squad.sh: passed on, or set by the sweep and named so
        assert (entry.name in listed[own:]) != (entry.name in sweep_recipe.SET_BY_SWEEP or entry in plans.ESTIMATE)
    assert " ".join(", ".join(sweep_recipe.SET_BY_SWEEP[:-1]).split()) in " ".join(sweep.split())
    assert not re.search(r"^ +\d+  --", sweep, flags=re.MULTILINE)


def test_positions_and_names_print_the_same_command(clone, squad_dir):
    values = (f"cpu bf16 my/model 3 8 64 1e-4 1 7 2.0 {squad_dir} /out /ckpt-5 train cluster /cache 50 20").split()
    names = [position.partition("=")[0] for position in POSITIONS]
    assert len(values) == len(names) == 18
    pairs = list(zip(names, values))
    by_position = clone.call(*values, "--dry_run")
    by_name = clone.call("--dry_run", *[f"--{name}={value}" for name, value in reversed(pairs)])
    by_word = clone.call(*[word for name, value in pairs for word in ("--" + name.replace("_", "-"), value)],
                         "--dry-run")
    assert by_position.stdout == by_name.stdout == by_word.stdout
    assert {"--precision=bf16", "--electra_model=my/model", "--num_train_epochs=3",
            "--train_batch_size=8", "--predict_batch_size=64", "--learning_rate=1e-4", "--seed=7",
            "--version_2_with_negative", f"--data_dir={squad_dir}", "--output_dir=/out", "--init_checkpoint=/ckpt-5",
            "--do_train", "--cache_dir=/cache", "--max_steps=50", "--train_iter_per_epoch=20"} < set(
                fine_tuning(by_position))


def test_each_position_is_the_option_of_its_name(clone, squad_dir):
    """An empty argument keeps the default, so that one value can be given at its place."""
    others = ("gpu", "bf16", "m/m", "9", "99", "77", "1e-5", "4", "3", "2.0", str(squad_dir), "/o", "/i", "eval",
              "cluster", "/c", "5", "6")
    default = fine_tuning(clone.call("--dry_run"))
    for before, (position, other) in enumerate(zip(POSITIONS, others)):
        name = position.partition("=")[0]
        placed = clone.call(*[""] * before, other, "--dry_run")
        assert placed.stdout == clone.call(f"--{name}={other}", "--dry_run").stdout
        assert (fine_tuning(placed) == default) == (name == "env")  # then the scheduler is the launcher


def test_defaults_are_those_of_the_recipe(clone, squad_dir):
    command = fine_tuning(clone.call("--dry_run", f"--squad_dir={squad_dir}"))
    assert command[:2] == [".venv/bin/python", "run_tf_squad.py"]
    assert command_line.parse(SquadConfig, command[1:], "") == SquadConfig(
        device="cpu", precision="fp32", electra_model="google/electra-base-discriminator", data_dir=str(squad_dir),
        output_dir="results/", num_train_epochs=2.0, train_batch_size=16, predict_batch_size=128, max_steps=-1,
        learning_rate=None, train_iter_per_epoch=-1, gradient_accumulation_steps=1, warmup_proportion=0.05,
        weight_decay_rate=0.01, layerwise_lr_decay=0.8, max_seq_length=384, doc_stride=None,
        length_buckets="128,192,256,384", beam_size=None, joint_head=True, null_score_diff_threshold=0.0, log_freq=10,
        xla="auto", do_train=True, do_predict=True, do_eval=True)


def test_options_that_change_only_what_was_asked(clone):
    default = set(fine_tuning(clone.call("--dry_run")))

    def changes(*arguments):
        found = set(fine_tuning(clone.call("--dry_run", *arguments)))
        return sorted(default - found), sorted(found - default)

    assert changes("--mode=train") == (["--do_eval", "--do_predict"], [])
    assert changes("--mode=eval") == (["--do_train"], [])
    assert changes("--mode=prediction") == (["--do_eval", "--do_train"], [])
    assert changes("--mode=train_eval", "--seed=RANDOM", "--env=cluster", "--num_workers=1") == ([], [])
    assert changes("--seed=5") == ([], ["--seed=5"])
    assert changes("--squad_version=2.0") == ([], ["--version_2_with_negative"])
    assert changes("--joint_head=false") == ([], ["--joint_head=false"])
    assert changes("--epochs=2", "--joint_head") == ([], [])  # what the program has by itself is left out
    assert changes("--learning_rate=4e-4") == ([], ["--learning_rate=4e-4"])  # by default it follows the global batch
    assert changes("--answerability_from_gold", "--evaluate_during_training", "--skip_checkpoint", "--overwrite") == (
        [], ["--answerability_from_gold", "--evaluate_during_training", "--overwrite", "--skip_checkpoint"])
    assert changes("--null_score_diff_threshold", "-3.5") == ([], ["--null_score_diff_threshold=-3.5"])
    assert changes("hpu") == (["--device=cpu"], ["--device=hpu"])
    assert changes("--eval_script=e.py", "--vocab_file=v.txt") == ([], ["--eval_script=e.py", "--vocab_file=v.txt"])


@pytest.mark.parametrize("arguments, words", [
    (["--learning_rat=1"], "unknown option --learning_rat"),
    (["--phase=1"], "unknown option --phase"),
    (["-x"], "unknown option -x"),
    ([""] * 19, "too many arguments"),
    (["tpu"], "--device=tpu is unknown: choose one of cpu, gpu, hpu"),
    (["--squad_version=2"], "--squad_version=2 is unknown: choose one of 1.1, 2.0"),
    (["--mode=predict"], "--mode=predict is unknown"),
    (["--xla=yes"], "--xla=yes is unknown"),
    (["--overwrite=maybe"], "--overwrite=maybe must be true or false"),
    (["--seed"], "--seed needs a value"),
    (["--batch_size=0"], "--batch_size=0 is too small"),
    (["--gradient_accumulation_steps=1.5"], "--gradient_accumulation_steps=1.5"),
    (["--squad_dir=nowhere"], "--squad_dir=nowhere is not a directory"),
])
def test_a_mistake_is_one_sentence_and_status_2(fake, arguments, words):
    assert_refused(fake.call(*arguments), words)
    assert_refused(fake.call(*arguments, "--dry_run"), words)
    assert fake.recorded() == []


def test_a_missing_device_is_refused_with_the_way_out(fake):
    for device, name, files in (("hpu", "Gaudi card", GAUDI_FILES),
                                ("gpu", "NVIDIA GPU", ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"))):
        if not any(glob.glob(file) for file in files):  # else this machine has one
            assert_refused(fake.call(device), name, "bash scripts/electra_squad.sh cpu")


@pytest.mark.parametrize("arguments, given, used", [
    ([], None, 1e-4),
    (["--gradient_accumulation_steps=8"], None, 4e-4),
    (["--num_workers=2"], None, 2e-4),
    (["--learning_rate=4e-4"], 4e-4, 4e-4),
    ("cpu fp32 google/electra-base-discriminator 2 16 128 4e-4".split(), 4e-4, 4e-4),
])
def test_a_learning_rate_that_is_given_is_passed_and_else_follows_the_global_batch(clone, squad_dir, arguments, given,
                                                                                   used):
    result = clone.call(f"--squad_dir={squad_dir}", "--dry_run", *arguments)
    command = fine_tuning(result)
    config = command_line.parse(SquadConfig, command[command.index("run_tf_squad.py"):], "")
    assert config.learning_rate == given and config.fitted(max(1, config.num_workers)).learning_rate == used
    assert result.stdout.count("note:") <= 1  # that the data was not checked, and nothing about the rate


# --- electra_squad.sh: data and paths ---


def test_the_environment_names_data_and_weights_and_the_command_line_wins(clone, squad_dir, tmp_path):
    other = make_folder(tmp_path / "other")
    environment = dict(squad_dir=str(squad_dir), init_checkpoint="/e/ckpt-5")
    result = clone.call("--dry_run", **environment)
    assert "sample" not in result.stdout
    assert {f"--data_dir={squad_dir}", "--init_checkpoint=/e/ckpt-5"} < set(
        fine_tuning(result))
    given = fine_tuning(clone.call("--dry_run", f"--squad_dir={other}", "--init_checkpoint=/c/ckpt-9", **environment))
    assert {f"--data_dir={other}", "--init_checkpoint=/c/ckpt-9"} < set(given)
    assert not [word for word in fine_tuning(clone.call("--dry_run", init_checkpoint="None")) if "init_ch" in word]


def test_without_data_the_sample_is_made_once_and_the_first_line_says_so(fake):
    printed = fake.call("--dry_run")
    assert fake.recorded() == []
    assert [command[1] for command in commands(printed)] == ["data/make_sample_data.py", "run_tf_squad.py"]
    result = fake.call()
    assert result.returncode == 0
    assert result.stdout.splitlines()[0].startswith(f"{SQUAD}: no squad_dir is given: the bundled sample questions")
    assert [call.split()[0] for call in fake.recorded()] == ["data/make_sample_data.py", "run_tf_squad.py"]
    assert [" ".join(command[1:]) for command in commands(printed)] == fake.recorded()
    assert "--data_dir=data/sample/demo/squad" in fake.recorded()[1]
    fake.call()
    assert len(fake.recorded()) == 3


def test_paths_belong_to_the_folder_of_the_call(fake, tmp_path):
    here = make_folder(tmp_path / "my data")
    for name in ("ckpt-3.index", "vocab.txt", "evaluate.py"):
        (here / name).touch()
    for name in ("squad", "model", "cache"):
        make_folder(here / name)
    arguments = ["--vocab_file=vocab.txt", "--init_checkpoint=ckpt-3", "--out_dir=out", "--eval_script=evaluate.py",
                 "--electra_model=model", "--cache_dir=cache"]
    expected = {f"--data_dir={here}/squad", f"--vocab_file={here}/vocab.txt", f"--init_checkpoint={here}/ckpt-3",
                f"--output_dir={here}/out", f"--eval_script={here}/evaluate.py", f"--electra_model={here}/model",
                f"--cache_dir={here}/cache"}
    assert expected < set(fine_tuning(fake.call("--squad_dir=squad", *arguments, "--dry_run", cwd=here, CDPATH="/")))
    assert expected < set(fine_tuning(fake.call(*arguments, "--dry_run", cwd=here, squad_dir="squad")))
    assert fake.call("--squad_dir=squad", *arguments, cwd=here).returncode == 0
    assert (here / "out" / "console.log").exists()
    home = fine_tuning(fake.call("--out_dir=~/out", "--squad_dir=~/squad", "--dry_run", HOME=str(here)))
    assert {f"--output_dir={here}/out", f"--data_dir={here}/squad"} < set(home)
    assert fake.call(cwd=here).returncode == 0
    assert (fake.folder / "results" / "console.log").exists()


# --- electra_squad.sh: running ---


def test_python_is_the_named_interpreter_also_by_a_relative_path(fake, squad_dir, tmp_path):
    shutil.copy(fake.environment["PYTHON"], tmp_path / "interpreter")
    result = fake.call(f"--squad_dir={squad_dir}", cwd=tmp_path, PYTHON="./interpreter")
    assert result.returncode == 0, result.stderr
    assert f"running: {tmp_path}/./interpreter run_tf_squad.py" in result.stdout
    assert len(fake.fine_tunings()) == 1
    assert_refused(fake.call(f"--squad_dir={squad_dir}", "--mode=eval", PYTHON=str(tmp_path)), "does not run")


@pytest.mark.parametrize("status, words", [
    (0, None), (1, "ended with status 1; its output is in"), (75, "run the same command to resume"),
    (2, "ended with status 2; its output is in"), (137, "status 137")])
def test_exit_statuses_pass_through_and_the_log_keeps_the_output(fake, squad_dir, tmp_path, status, words):
    out = tmp_path / "out"
    result = fake.call(f"--squad_dir={squad_dir}", f"--out_dir={out}", "--init_checkpoint=/ckpt-1",
                       FAKE_RUN=f"echo answer; echo problem >&2; (( {status} == 0 )) || exit {status}")
    assert result.returncode == status
    if status == 2:  # the program has said why, and nothing else is left of the call
        assert result.stderr == "problem\n" and not out.exists()
        return
    log = (out / "console.log").read_text().splitlines()
    assert log[0].startswith("running: ") and sorted(log[1:]) == ["answer", "problem"]
    assert "answer" in result.stdout.splitlines()
    errors = result.stderr.splitlines()
    assert errors[0] == "problem" and len(errors) == 1 + bool(words)
    if words:
        assert words in errors[1]
    else:
        assert result.stdout.splitlines()[-1] == f"{SQUAD}: finished; results are in {out}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_fine_tuning_and_ends_in_75(fake, squad_dir, number):
    process = fake.start(f"--squad_dir={squad_dir}", FAKE_RUN=UNTIL_TERM)
    log = fake.folder / "results" / "console.log"
    wait_for(lambda: log.exists() and "ready" in log.read_text())
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert log.read_text().splitlines()[-1] == "saved"
    assert len(errors.splitlines()) == 1 and "run the same command to resume" in errors


def test_a_crash_is_restarted_by_the_same_call_and_a_refusal_is_not(fake, squad_dir, tmp_path):
    def run(status):
        fake.calls.unlink(missing_ok=True)
        crashing = f"[[ -e {tmp_path}/crashed{status} ]] || {{ touch {tmp_path}/crashed{status}; exit {status}; }}"
        result = fake.call(f"--squad_dir={squad_dir}", f"--out_dir={tmp_path / 'out'}", "--max_restarts=2",
                           FAKE_RUN=crashing, ELECTRA_RESTART_SECONDS="0")
        return result.returncode, [call for call in fake.recorded() if "run_tf_squad" in call]

    ended, calls = run(137)
    assert ended == 0 and len(calls) == 2 and calls[0] == calls[1]
    assert run(2)[0] == 2 and len(fake.recorded()) == 1


def test_weights_that_cannot_be_downloaded_name_the_newest_pretrained_checkpoint(tmp_path, monkeypatch, refuses):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_, **__):
        raise LocalEntryNotFoundError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **_k: None)
    monkeypatch.chdir(tmp_path)
    config = SquadConfig(do_train=True, data_dir="x", output_dir="y", electra_model="google/electra-none")
    said = refuses(read_source, config)
    assert "google/electra-none" in said and "no route to host" in said and "--init_checkpoint=CHECKPOINT" in said
    for age, name in ((50, "base/checkpoints/ckpt-9"), (10, "small/checkpoints/ckpt-p2-3"),
                      (30, "base/checkpoints/ckpt-10")):
        path = tmp_path / "results/models" / f"{name}.index"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    assert refuses(read_source, config).endswith(
        "--init_checkpoint=results/models/small/checkpoints/ckpt-p2-3.")
    monkeypatch.setattr(hub, "download", lambda *_: str(tmp_path))
    assert "--init_checkpoint" not in refuses(read_source, config)  # another problem with the weights


# --- finetune_ckpts_on_squad.sh: the call ---


def sweeping(result):
    """What a dry run of the sweep passes to sweep_squad.py, and behind -- to electra_squad.sh."""
    assert result.returncode == 0, result.stderr
    words = next(command for command in commands(result) if "scripts/sweep_squad.py" in command)
    split = words.index("--")
    return words[2:split], words[split + 1:]


def test_checkpoints_must_be_named_and_the_command_line_wins(fake, squad_dir):
    for arguments, environment in (([], {}), (["--checkpoints="], {}), ([], {"checkpoints": " , ,"})):
        assert_refused(fake.call(*arguments, wrapper=SWEEP, **environment), "--checkpoints is missing",
                       "checkpoints=results/models/base/checkpoints bash scripts/finetune_ckpts_on_squad.sh")
    assert "--checkpoints=/e" in sweeping(fake.call("--dry_run", wrapper=SWEEP, checkpoints="/e"))[0]
    given = sweeping(fake.call("--dry_run", "--checkpoints=/c", wrapper=SWEEP, checkpoints="/e"))[0]
    assert given == ["--checkpoints=/c"]
    assert fake.recorded() == []


@pytest.mark.parametrize("between", [",", " ", ", ", ",,", "\n"], ids=repr)
def test_folders_are_separated_by_commas_or_blanks_and_belong_to_the_folder_of_the_call(fake, tmp_path, between):
    for name in ("a", "b"):
        make_folder(tmp_path / name)
    own, _ = sweeping(fake.call("--dry_run", "--out_dir=out", wrapper=SWEEP, cwd=tmp_path,
                                checkpoints=between.join(["a", "b", "/gone"]) + between))
    assert f"--checkpoints={tmp_path}/a,{tmp_path}/b,/gone" in own
    assert f"--out_dir={tmp_path}/out" in own


def test_options_pass_through_and_data_of_the_environment_is_one(fake, squad_dir):
    arguments = ["--checkpoints=/c", "--dry_run"]
    own, passed = sweeping(fake.call(*arguments, "--seeds=1,2", "--device=hpu", "--batch_size=32", "--joint-head=false",
                                     "--squad_dir", str(squad_dir), "--max_steps", "-1", wrapper=SWEEP))
    assert own == ["--checkpoints=/c", "--seeds=1,2", "--device=hpu"]
    assert passed == ["--batch_size=32", f"--squad_dir={squad_dir}", "--max_steps=-1", "--joint_head=false"]
    assert sweeping(fake.call(*arguments, wrapper=SWEEP))[1] == []
    assert sweeping(fake.call(*arguments, wrapper=SWEEP, cwd=squad_dir.parent, squad_dir="squad"))[1] == [
        f"--squad_dir={squad_dir}"]
    home = sweeping(fake.call(*arguments, "--out_dir=~/sweep", wrapper=SWEEP, HOME="/h"))[0]
    assert "--out_dir=/h/sweep" in home


@pytest.mark.parametrize("arguments, words", [
    (["--mode=eval"], "unknown option --mode"),
    (["--seed=3"], "unknown option --seed"),
    (["--env=cluster"], "unknown option --env"),
    (["--init_checkpoint=x"], "unknown option --init_checkpoint"),
    (["cpu"], "too many arguments"),
    (["--device=tpu"], "device=tpu is unknown"),
    (["--seeds=1,x"], "--seeds=1,x"),
    (["--batch_size=0"], "--batch_size=0 is too small"),
    (["--doc_stride=0"], "--doc_stride=0 is too small"),
    (["--squad_version=3"], "--squad_version=3 is unknown"),
    (["--squad_dir=nowhere"], "--squad_dir=nowhere is not a directory"),
])
def test_mistakes_are_met_before_the_sweep_begins(fake, arguments, words):
    assert_refused(fake.call("--checkpoints=/c", *arguments, wrapper=SWEEP), words)
    assert fake.recorded() == []


def test_a_signal_stops_the_sweep_and_the_same_call_finishes_the_table(fake, squad_dir, tmp_path):
    checkpoints = save_checkpoints(tmp_path / "run" / "checkpoints", (1, 2), (1, 10), (2, 1))
    names = ["ckpt-2", "ckpt-10", "ckpt-p2-1"]
    arguments = [f"--checkpoints={checkpoints}", f"--squad_dir={squad_dir}", "--out_dir=out"]
    table = fake.folder / "out" / "sweep.txt"

    def interrupted(at, interrupt, done):
        """Stops the sweep while checkpoint `at` is fine-tuned."""
        (fake.folder / "ready").unlink(missing_ok=True)
        until_term = "trap 'exit 75' TERM; touch ready; for i in {1..600}; do sleep 0.05; done"
        process = fake.start(*arguments, wrapper=SWEEP, FAKE_RUN=f"[[ $out != */run-{at}/* ]] || {{ {until_term}; }}")
        wait_for((fake.folder / "ready").exists, seconds=90)
        interrupt(process)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 75, errors
        assert f"stopped at run {at} (seed 1), {done} of 3 are done" in errors
        assert "Traceback" not in errors
        started = [re.search(r"run-(ckpt[^/]*)/seed-1\b", call)[1] for call in fake.fine_tunings()]
        assert started[-1] == at
        return started

    assert interrupted("ckpt-10", lambda process: os.killpg(process.pid, signal.SIGINT), 1) == names[:2]
    assert len(table.read_text().splitlines()) == 2
    assert interrupted("ckpt-p2-1", lambda process: process.send_signal(signal.SIGTERM), 2) == [*names[:2], *names[1:]]
    result = fake.call(*arguments, wrapper=SWEEP)
    assert result.returncode == 0, result.stderr
    assert [line.split()[1] for line in table.read_text().splitlines()[1:]] == names
    assert result.stdout.count("already done") == 2
    assert len(fake.fine_tunings()) == 5


# --- The real thing ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with SQuAD files in `squad` and, in `tiny/checkpoints`, a pre-training's checkpoints."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, questions, seed in (("train", 12, 1), ("dev", 6, 2)):
        (folder / "squad").mkdir(exist_ok=True)
        squad_file(folder / "squad" / f"{name}-v1.1.json", "1.1", questions, seed)
    run = make_folder(folder / "tiny")
    (run / "vocab.txt").write_text("\n".join(SQUAD_VOCABULARY))
    tokenizer = ElectraTokenizer(str(run / "vocab.txt"))
    tokenizer.save(str(run))
    settings = PretrainingConfig(pretrain_tfrecords="gone", num_train_steps=9, num_warmup_steps=1, model_size="tiny",
                                 model_config='{"num_hidden_layers": 1, "max_position_embeddings": 128}')
    encoder = settings.encoder_config(tokenizer.vocab_size)
    model = modeling.pretraining_model(encoder, settings, tokenizer)
    state = {"config": vars(settings), "encoder": encoder.to_dict(), "tokenizer_fingerprint": tokenizer.fingerprint,
             "device": "cpu"}
    for phase, step in ((2, 3), (1, 9)):
        Checkpoints(str(run / "checkpoints")).save(phase, step, model, tf.Module(), state)
    return folder


SHORT = ["--max_steps=2", "--max_seq_length=48", "--doc_stride=12", "--length_buckets=48", "--batch_size=4",
         "--infer_batch_size=8", "--learning_rate=1e-4"]


def test_a_fine_tuning_writes_its_log_predictions_and_results(clone, tiny):
    result = clone.call("--squad_dir=squad", "--init_checkpoint=tiny/checkpoints", "--seed=3", "--out_dir=out", *SHORT,
                        cwd=tiny, PYTHON=sys.executable, XDG_CACHE_HOME=str(tiny / "xdg"))
    assert result.returncode == 0, result.stderr
    out = tiny / "out"
    assert result.stdout.splitlines()[-1] == f"{SQUAD}: finished; results are in {out}"
    assert len(json.loads((out / "predictions.json").read_text())) == 6
    results = json.loads((out / "results.json").read_text())
    assert results["seed"] == 3 and results["train_steps"] == 2 and 0 <= results["exact_match"] <= results["f1"] <= 100
    log = (out / "console.log").read_text()
    assert log.startswith("running: ") and f"EM {results['exact_match']:.2f}" in log
    assert [path.suffix for path in (tiny / "xdg" / "electra" / "features").iterdir()] == [".npz"] * 2
    assert not [path for path in (tiny / "squad").iterdir() if path.suffix == ".npz"]


def test_a_sweep_fine_tunes_every_checkpoint_in_its_order(clone, tiny, tmp_path, capfd, monkeypatch):
    out = tmp_path / "sweep"
    call = ["--squad_dir=squad", f"--out_dir={out}", *SHORT]

    def sweep(*more):
        return clone.call(*call, *more, wrapper=SWEEP, cwd=tiny, PYTHON=sys.executable, checkpoints="tiny/checkpoints")

    with concurrent.futures.ThreadPoolExecutor() as pool:  # too long where there is a question; at once
        for result in pool.map(lambda more: sweep("--doc_stride=45", *more), [
                [f"--out_dir={tmp_path / 'refused'}"], ["--dry_run"]]):
            assert result.returncode == 2
            assert re.fullmatch("sweep_squad.py: --doc_stride=45 skips tokens.*\n", result.stderr)
    assert not out.exists() and not (tmp_path / "refused").exists()
    result = sweep()
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^\[\d/2\] .*", result.stdout, flags=re.MULTILINE) == [
        "[1/2] tiny ckpt-9, seed 1", "[2/2] tiny ckpt-p2-3, seed 1"]
    with open(out / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["checkpoint"], row["phase"], row["step"]) for row in rows] == [
        ("tiny", "ckpt-9", "1", "9"), ("tiny", "ckpt-p2-3", "2", "3")]
    for row in rows:
        folder = out / f"tiny-{row['checkpoint']}"
        assert sorted(os.listdir(folder / "exported")) == ["discriminator", "generator"]
        results = json.loads((folder / "seed-1" / "results.json").read_text())
        assert (float(row["EM"]), float(row["F1"])) == (results["exact_match"], results["f1"])
        assert results["seed"] == 1 and results["train_steps"] == 2
        assert f"--init_checkpoint={folder}/exported/discriminator" in (folder / "seed-1/console.log").read_text()
    table = (out / "sweep.txt").read_text()
    assert table in result.stdout
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")

    # Started again, here with an interpreter that would fail.
    command = next(shlex.split(line)[2:] for line in result.stdout.splitlines() if line.startswith("running: "))
    again = command[1:]
    monkeypatch.setattr(sys, "executable", "/bin/false")
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        sweep_squad.main(["sweep_squad.py", *again])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    printed = capfd.readouterr().out
    assert printed.count("already done") == 2
    assert (out / "sweep.txt").read_text() == table
