"""The shell wrappers, run as a user runs them, in a copy of the repository's scripts and requirements.

Nothing is trained or downloaded: where a wrapper would start Python, PYTHON is a stand-in that records how it was
called and ends as the test wants.
"""
import glob
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import (
    GAUDI_FILES,
    STAND_IN,
    UNTIL_TERM,
    Clone,
    assert_refused,
    commands,
    make_folder,
    wait_for,
    write_executable,
)

import command_line
import files
from pretraining_options import PretrainingConfig

ROOT = Path(__file__).resolve().parent.parent

# The order and defaults that people have in their fingers, of the wrapper's predecessors.
POSITIONS = """device=cpu precision=fp32 train_batch_size_p1=2 learning_rate_p1=6e-3 num_workers=0 xla=xla
warmup_steps_p1=5 train_steps_p1=20 save_checkpoint_steps=20 resume_training=false optimizer=lamb
accumulate_gradients=true gradient_accumulation_steps_p1=4 seed=100 job_name=electra_lamb_pretraining
train_batch_size_p2=2 learning_rate_p2=4e-3 warmup_steps_p2=5 train_steps_p2=20 gradient_accumulation_steps_p2=4
electra_model=base data_dir_p1=DATASET_P1 data_dir_p2=DATASET_P2 code_dir=. init_checkpoint=None""".split()

# Stands in for the interpreter: checks and locks (-c) succeed, the sample data is made as empty folders, and a phase
# does what FAKE_PHASE1 or FAKE_PHASE2 says, in bash.
FAKE_PYTHON = STAND_IN + r"""
[[ $1 != -c ]] || exit 0
echo "$*" >>"$CALLS"
case "$*" in
  *make_sample_data*) mkdir -p data/sample/demo ;;
  *build_pretraining_dataset*) for word; do case $word in --output_dir=*) mkdir -p "${word#*=}/eval" ;; esac; done ;;
  *--phase2*) eval "${FAKE_PHASE2:-true}" ;;
  *run_pretraining*) eval "${FAKE_PHASE1:-true}" ;;
esac
"""


needs_no_corpus = pytest.mark.skipif(os.path.exists("/data/tensorflow/bert/books_wiki_en_corpus/tfrecord"),
                                     reason="this machine has the full data in its default place")


@pytest.fixture
def clone(tmp_path):
    return Clone(make_folder(tmp_path / "clone"))


@pytest.fixture
def training(clone, tmp_path):
    """A clone whose PYTHON is the stand-in."""
    clone.environment["PYTHON"] = write_executable(tmp_path / "fake" / "python", FAKE_PYTHON)
    return clone


def trainings(result):
    return [command for command in commands(result) if "run_pretraining.py" in command]


# --- Options ---

def test_help_lists_the_positions_with_their_order_and_defaults(clone):
    result = clone.call("--help")
    assert result.returncode == 0
    printed = re.findall(r"^ *(\d+)  --(\S+) +\S", result.stdout, flags=re.MULTILINE)
    assert printed == [(str(number), option) for number, option in enumerate(POSITIONS, 1)]
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_positions_and_names_print_the_same_commands(clone, tmp_path):
    first, second = (make_folder(tmp_path / name) for name in ("p1", "p2"))
    values = ("cpu bf16 16 1e-3 1 false 200 1000 100 true adamw true 8 7 night 4 5e-4 20 300 3 small "
              f"{first} {second} . None").split()
    by_position = clone.call(*values, "--dry_run")
    names = [position.partition("=")[0] for position in POSITIONS]
    pairs = list(zip(names, values))
    by_name = clone.call("--dry_run", *[f"--{name}={value}" for name, value in reversed(pairs)])
    words = [word for name, value in pairs for word in ("--" + name.replace("_", "-"), value)]
    by_word = clone.call(*words, "--dry-run")
    assert by_position.stdout == by_name.stdout == by_word.stdout
    phase1, phase2 = trainings(by_position)
    assert {"--train_batch_size=16", "--learning_rate=1e-3", "--num_warmup_steps=200", "--num_train_steps=1000",
            "--gradient_accumulation_steps=8", "--max_seq_length=128", f"--pretrain_tfrecords={first}", "--xla=false",
            "--save_checkpoints_steps=100", "--restore_checkpoint=latest", "--opt_beta_2=0.999"} < set(phase1)
    assert {"--train_batch_size=4", "--learning_rate=5e-4", "--num_warmup_steps=20", "--num_train_steps=300",
            "--gradient_accumulation_steps=3", "--max_seq_length=512", f"--pretrain_tfrecords={second}", "--phase2",
            "--seed=7", "--model_size=small", "--precision=bf16", "--optimizer=adamw"} < set(phase2)
    assert "--phase2" not in phase1


def test_defaults_are_those_of_the_recipe(clone):
    phase1, phase2 = trainings(clone.call("--dry_run"))
    assert phase1[:2] == phase2[:2] == [".venv/bin/python", "run_pretraining.py"]
    both = dict(optimizer="lamb", skip_adaptive=True, opt_beta_1=0.878, opt_beta_2=0.974, lr_decay_power=0.5,
                disc_weight=50.0, generator_hidden_size=0.3333333, seed=100, xla="auto", precision="fp32", device="cpu",
                train_batch_size=2, gradient_accumulation_steps=4, num_train_steps=20, num_warmup_steps=5,
                save_checkpoints_steps=20, num_eval_steps=20, model_size="base", results_dir="results")
    second = dict(max_seq_length=512, learning_rate=4e-3, phase2=True, restore_checkpoint="latest")
    for words, more in (phase1, dict(max_seq_length=128, learning_rate=6e-3)), (phase2, second):
        data = f"data/sample/tfrecord/seq_len_{more['max_seq_length']}"
        assert command_line.parse(PretrainingConfig, words[1:], "") == PretrainingConfig(
            pretrain_tfrecords=data, eval_tfrecords=f"{data}/eval", **both, **more)


def test_switches_stand_alone_or_with_a_value_and_positions_may_surround_names(clone):
    alone = clone.call("cpu", "--overwrite", "--train_steps_p1", "7", "fp32", "--dry_run")
    assert alone.stdout == clone.call("--overwrite=true", "--train_steps_p1=7", "--dry_run").stdout
    assert "--overwrite" in trainings(alone)[0]
    assert "--overwrite" not in trainings(alone)[1]
    assert clone.call("--overwrite", "false", "--dry_run").stdout == clone.call("--dry_run").stdout


def test_options_that_change_only_what_was_asked(clone):
    default = trainings(clone.call("--dry_run"))
    single = trainings(clone.call("--dry_run", "--accumulate_gradients=false"))
    assert set(single[0]) ^ set(default[0]) == {"--gradient_accumulation_steps=4", "--gradient_accumulation_steps=1"}
    options = {"--model_name=mine", "--mask_prob=0.25", "--generator_hidden_size=0.5", "--objective=mlm",
               "--generator=tied"}
    named = trainings(clone.call("--dry_run", *sorted(options)))
    assert set(named[1]) - set(default[1]) == options
    assert_refused(clone.call("--dry_run", "--phase=2"), "--phase=2", "phase 1")
    write_executable(clone.folder / "results/models/base/checkpoints/ckpt-20.index", "")
    assert trainings(clone.call("--dry_run", "--phase=2")) == default[1:]
    assert trainings(clone.call("--dry_run", "--phase=1")) == default[:1]
    assert not [word for word in trainings(clone.call("hpu", "--dry_run"))[0] if "xla" in word]


@needs_no_corpus
@pytest.mark.parametrize("arguments, words", [
    (["cpu", "--train_steps_p2=4"], "--warmup_steps_p2=5 must be below --train_steps_p2=4"),
    (["--learning_rate=1"], "unknown option --learning_rate: did you mean --learning_rate_p"),
    (["--a[b]=1"], "unknown option --a[b]"),
    (["-x"], "unknown option -x"),
    ([""] * 26, "too many arguments"),
    (["tpu"], "--device=tpu is unknown: choose one of cpu, gpu, hpu"),
    (["tpu", "--dry_run"], "device=tpu is unknown"),
    (["--seed"], "--seed needs a value"),
    (["--seed", "--overwrite"], "--seed needs a value"),
    (["--overwrite=maybe"], "overwrite=maybe must be true or false"),
    (["--xla=yes"], "xla=yes is unknown"),
    (["--phase=3"], "phase=3 is unknown"),
    (["--resume_training=latest"], "resume_training=latest must be true, false or auto"),
    (["--min_workers=2"], "give --hostfile and --max_restarts"),
    (["--max_restarts=x"], "--max_restarts=x"),
    (["--max_restarts=1", "--env=cluster"], "--max_restarts cannot be combined with --env=cluster"),
    (["--phase=2", "--overwrite"], "--phase=2"),
    (["--job_name=a/b"], "must be a file name"),
    (["--code_dir=nowhere"], "--code_dir=nowhere is not a directory"),
    (["--data_dir_p1=/somewhere"], "phase 2"),
    (["--data_dir_p1=/", "--data_dir_p2=/nowhere/*.gz"], "the data of phase 2, /nowhere/*.gz, does not exist"),
])
def test_a_mistake_is_one_sentence_and_status_2(training, arguments, words):
    assert_refused(training.call(*arguments), words)
    assert training.recorded() == []


def test_a_missing_device_is_refused_with_the_way_out(training):
    for device, name, places in (("hpu", "Gaudi card", GAUDI_FILES),
                                 ("gpu", "NVIDIA GPU", ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"))):
        if any(glob.glob(file) for file in places):
            continue  # this machine has one
        assert_refused(training.call(device), name, "bash scripts/electra.sh cpu")
        assert trainings(training.call(device, "--dry_run"))


# --- Estimates ---


@pytest.mark.parametrize("status", [0, 2, 75])
def test_an_estimate_is_of_both_phases_and_trains_nothing(training, tmp_path, status):
    data = make_folder(tmp_path / "data")
    words = [f"--data_dir_p1={data}", f"--data_dir_p2={data}", "--estimate", "--timed_updates=5"]
    result = training.call(*words, FAKE_PHASE2=f"exit {status}")
    call, = training.recorded()
    own, first, second = call.split(" -- ")
    assert own == "estimate.py --timed_updates=5"
    assert first.startswith("run_pretraining.py --disc_weight") and "--phase2" not in first
    assert second.startswith("run_pretraining.py --phase2 --restore_checkpoint=latest")
    assert result.returncode == status
    assert commands(training.call(*words, "--dry_run"))[0][1:] == call.split()
    assert not (training.folder / "results").exists()


def test_a_signal_reaches_the_estimate(training, tmp_path):
    data = make_folder(tmp_path / "data")
    process = training.start(f"--data_dir_p1={data}", f"--data_dir_p2={data}", "--estimate",
                             FAKE_PHASE2=UNTIL_TERM)
    wait_for(training.recorded)
    wait_for(lambda: "ready" in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 75


# --- Data and paths ---

@needs_no_corpus
def test_without_data_the_sample_is_built_once_and_the_first_line_says_so(training):
    first = training.call()
    assert first.returncode == 0
    assert "sample data is used" in first.stdout.splitlines()[0]
    made = [call.split()[0] for call in training.recorded()]
    assert made == ["data/make_sample_data.py", "build_pretraining_dataset.py", "build_pretraining_dataset.py",
                    "run_pretraining.py", "run_pretraining.py"]
    assert "--pretrain_tfrecords=data/sample/tfrecord/seq_len_512" in training.recorded()[4]
    assert "--eval_tfrecords=data/sample/tfrecord/seq_len_512/eval" in training.recorded()[4]
    training.call()
    assert len(training.recorded()) == 7


def test_a_dry_run_prints_what_a_real_run_calls_and_touches_nothing(training):
    def present():
        return {path for path in training.folder.rglob("*") if "__pycache__" not in path.parts}

    before = present()
    printed = commands(training.call("--dry_run"))
    assert training.recorded() == [] and present() == before
    assert training.call().returncode == 0
    assert [" ".join(command[1:]) for command in printed] == training.recorded()


def test_the_environment_names_data_and_weights_and_the_command_line_wins(clone, tmp_path):
    e1, e2, c1 = (str(make_folder(tmp_path / name)) for name in ("e1", "e2", "c1"))
    environment = dict(DATASET_P1=e1, DATASET_P2=e2, init_checkpoint="/e/ckpt-5")
    phase1, phase2 = trainings(clone.call("--dry_run", **environment))
    assert {f"--pretrain_tfrecords={e1}", "--load_weights", "--weights_dir=/e/ckpt-5"} < set(phase1)
    assert f"--pretrain_tfrecords={e2}" in phase2
    assert "--load_weights" not in phase2
    result = clone.call("--dry_run", f"--data_dir_p1={c1}", "--init_checkpoint=/c/ckpt-9", **environment)
    assert "sample" not in result.stdout
    assert {f"--pretrain_tfrecords={c1}", "--weights_dir=/c/ckpt-9"} < set(trainings(result)[0])
    assert f"--pretrain_tfrecords={e2}" in trainings(result)[1]
    resumed = trainings(clone.call("--dry_run", "--resume_training", **environment))[0]
    assert "--restore_checkpoint=latest" in resumed
    assert "--load_weights" not in resumed


def test_held_out_shards_are_passed_on_where_the_data_has_them(clone, tmp_path):
    (tmp_path / "with" / "eval").mkdir(parents=True)
    (tmp_path / "without").mkdir()
    phase1, phase2 = trainings(clone.call("--dry_run", f"--data_dir_p1={tmp_path}/with/",
                                          f"--data_dir_p2={tmp_path}/without"))
    assert f"--eval_tfrecords={tmp_path}/with/eval" in phase1
    assert not [word for word in phase2 if "eval" in word]
    without = trainings(clone.call("--dry_run", f"--data_dir_p1={tmp_path}/with", "--phase=1", "--eval=none"))[0]
    assert not [word for word in without if "eval" in word]


def test_paths_belong_to_the_folder_of_the_call(training, tmp_path):
    here = make_folder(tmp_path / "my data")
    for name in ("a.tfrecord", "b.tfrecord", "ckpt-3.index", "vocab.txt"):
        (here / name).touch()
    result = training.call("--data_dir_p1=*.tfrecord", "--data_dir_p2=a.tfrecord,b.tfrecord", "--vocab_file=vocab.txt",
                           "--init_checkpoint=ckpt-3", "--results_dir=out", "--dry_run", cwd=here, CDPATH="/")
    phase1, phase2 = trainings(result)
    assert {f"--pretrain_tfrecords={here}/*.tfrecord", f"--vocab_file={here}/vocab.txt", f"--results_dir={here}/out",
            f"--weights_dir={here}/ckpt-3"} < set(phase1)
    assert f"--pretrain_tfrecords={here}/a.tfrecord,{here}/b.tfrecord" in phase2
    assert training.call(cwd=here).returncode == 0
    assert (training.folder / "results/models/base/logs/electra_lamb_pretraining_phase2.log").exists()


def test_data_folders_with_the_signs_of_a_glob_are_found_as_they_stand(training, tmp_path):
    here = make_folder(tmp_path / "da[t]a*\\?")
    (here / "eval").mkdir()
    for name in ("a[1].tfrecord", "b.tfrecord"):
        (here / name).touch()
    result = training.call(f"--data_dir_p1={here}", "--data_dir_p2=a[1].tfrecord,b*", cwd=here)
    assert result.returncode == 0, result.stderr
    phase1, phase2 = [call for call in training.recorded() if "run_pretraining.py" in call]
    assert f"--pretrain_tfrecords={here} " in phase1 and f"--eval_tfrecords={here}/eval" in phase1
    assert f"--pretrain_tfrecords={here}/a[1].tfrecord,{here}/b* " in phase2
    result = training.call(f"--data_dir_p1={here}/c*", "--data_dir_p2=b.tfrecord", cwd=here)
    assert result.returncode == 2 and "data_dir_p1" in result.stderr


# --- Running ---

@pytest.mark.parametrize("status", [1, 2, 75, 137])
def test_phase_2_is_not_started_after_a_phase_1_that_ends_badly(training, status):
    result = training.call(FAKE_PHASE1=f"exit {status}")
    assert result.returncode == status
    assert training.phases() == [1]
    assert ("phase 2 was not started" in result.stderr) == (status != 2)  # the program has said why, and that is all
    assert "--resume_training=true" not in result.stderr  # nothing was saved
    saved = "mkdir -p results/models/base/checkpoints; touch results/models/base/checkpoints/ckpt-1.index"
    result = training.call(FAKE_PHASE1=f"{saved}; exit {status}")
    assert ("--resume_training=true" in result.stderr) == (status == 75)


def test_both_phases_run_and_the_status_of_the_second_is_kept(training):
    assert training.call().returncode == 0
    assert training.phases() == [1, 2]
    assert training.call(FAKE_PHASE2="exit 3").returncode == 3


# A signal to the whole group comes twice, also from the wrapper, and bash that meets it in its trap may end with 255.



@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_training_and_its_last_words_are_logged(training, number, whole_group):
    process = training.start(FAKE_PHASE1=UNTIL_TERM)
    log = training.folder / "results/models/base/logs/electra_lamb_pretraining_phase1.log"
    wait_for(lambda: log.exists() and "ready" in log.read_text())
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert output.splitlines()[-1] == "saved"
    assert log.read_text().splitlines()[-1] == "saved"
    assert "phase 2 was not started" in errors
    assert training.phases() == [1]


def test_a_signal_in_the_last_moment_of_phase_1_keeps_phase_2_from_starting(training):
    process = training.start(FAKE_PHASE1="trap 'exit 0' TERM; touch ready; while :; do sleep 0.05; done")
    wait_for((training.folder / "ready").exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "--phase=2" in errors
    assert training.phases() == [1]


def test_the_log_has_all_output_and_the_streams_stay_apart(training):
    result = training.call(FAKE_PHASE1="seq 20000; seq 30001 30500 >&2", FAKE_PHASE2="echo two")
    numbers = [str(number) for number in range(1, 20001)]
    problems = [str(number) for number in range(30001, 30501)]
    logs = training.folder / "results/models/base/logs"
    log = (logs / "electra_lamb_pretraining_phase1.log").read_text().splitlines()
    assert result.stderr.splitlines() == problems
    assert [line for line in result.stdout.splitlines() if line.isdigit()] == numbers
    assert log[0].startswith("running: ")
    assert "run_pretraining.py" in log[0]
    assert sorted(log[1:], key=int) == numbers + problems
    assert (logs / "electra_lamb_pretraining_phase2.log").read_text().splitlines()[1:] == ["two"]
    training.call("--phase=1", FAKE_PHASE1="echo again")
    assert (logs / "electra_lamb_pretraining_phase1.log").read_text().splitlines()[-1] == "again"


def test_on_a_terminal_the_bar_is_drawn_there_and_kept_out_of_the_log(training):
    bar = r"printf '\r 50%%'; printf '\r     \r'; echo line; printf '\r 99%%' >&2; echo ' end' >&2; "
    main, terminal = pty.openpty()
    told = "echo progress=$ELECTRA_PROGRESS columns=$COLUMNS $PYTHONUNBUFFERED"
    process = subprocess.Popen(training.command("--phase=1"), cwd=training.folder, stdin=terminal, stdout=terminal,
                               stderr=terminal, env={**training.environment, "FAKE_PHASE1": bar + told})
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(main, 4096)
        except OSError:  # the last writer has closed the terminal
            break
    os.close(main)
    assert process.wait(timeout=30) == 0
    log = training.folder / "results/models/base/logs/electra_lamb_pretraining_phase1.log"
    assert b"50%" in shown
    assert re.fullmatch(r"running: .*\nline\n 99% end\nprogress=1 columns=\d+ 1\n", log.read_text())
    training.call("--phase=1", FAKE_PHASE1="echo progress=$ELECTRA_PROGRESS")
    assert log.read_text().endswith("progress=\n")


# --- Two starts, and kill -9 ---


def test_a_second_start_is_refused_before_any_work(training):
    lock = training.folder / "results/models/base/.lock"
    lock.parent.mkdir(parents=True)
    with files.hold(str(lock)):
        result = training.call()
        assert training.call("--model_name=other", "--phase=1").returncode == 0
        assert training.call("--dry_run").returncode == 0
    assert_refused(result, f"process {os.getpid()} ", "--model_name", "results/models/base")
    assert training.phases() == [1]


# A training as far as the wrapper sees it, with the end that run_command gives it.
REAL_PYTHON = f"""exec {shlex.quote(sys.executable)} -c 'import os, signal, sys, time, command_line, configuration
if os.environ.get("SLOW"): open("ready", "w").close(); time.sleep(2)
def stop(*_): open("saved", "w").close(); raise configuration.Interrupted("saved.")
def pause(*_): open("continues", "w").close()
def main(argv):
    signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGUSR1, pause)
    open("ready", "w").close()
    while True: time.sleep(0.05)
command_line.run_command(main)'"""


@pytest.mark.parametrize("slow", ["", "yes"])  # killed while Python trains, or while it still imports TensorFlow
def test_a_training_whose_wrapper_was_killed_saves_and_ends_and_the_next_start_tidies_up(training, tmp_path, slow):
    training.environment["TMPDIR"] = str(make_folder(tmp_path / "temporary"))
    process = training.start("--phase=1", FAKE_PHASE1=REAL_PYTHON, SLOW=slow)
    wait_for((training.folder / "ready").exists)
    assert len(os.listdir(tmp_path / "temporary")) == 1
    process.kill()
    process.communicate(timeout=10)  # the output ends with the training
    assert (training.folder / "saved").exists() or slow
    assert training.call("--phase=1").returncode == 0
    assert os.listdir(tmp_path / "temporary") == []


# At its first starts it writes a checkpoint and dies.
CRASHING = r"""
folder=results/models/base/checkpoints; mkdir -p $folder
number=$(ls $folder | wc -l)
(( number >= {crashes} )) || {{ touch $folder/ckpt-$number.index; echo crashed; exit {status}; }}
"""


@pytest.mark.parametrize("status, crashes, restarts, ended", [
    (1, 2, 2, 0), (137, 2, 3, 0), (1, 3, 2, 1), (2, 1, 5, 2), (75, 1, 5, 75), (1, 1, 0, 1)])
def test_a_crash_is_restarted_so_often_and_an_invalid_option_or_an_interruption_never(training, status, crashes,
                                                                                      restarts, ended):
    result = training.call("--phase=1", f"--max_restarts={restarts}", ELECTRA_RESTART_SECONDS="0",
                           FAKE_PHASE1=CRASHING.format(crashes=crashes, status=status))
    assert result.returncode == ended, result.stderr
    calls = [call for call in training.recorded() if "run_pretraining" in call]
    assert len(calls) == (1 if status in (2, 75) or not restarts else min(crashes, restarts) + 1)
    assert "--restore_checkpoint" not in calls[0]
    assert all("--restore_checkpoint=auto" in call for call in calls[1:])
    assert result.stdout.count(f"of {restarts} in") == len(calls) - 1
    log = training.folder / "results/models/base/logs/electra_lamb_pretraining_phase1.log"
    assert log.exists() == (status != 2)  # a refusal leaves none
    assert status == 2 or log.read_text().count(f"ended with status {status}: restart ") == len(calls) - 1


def test_a_restart_overwrites_again_only_while_nothing_was_saved(training):
    aside = "rm -f results/models/base/checkpoints/ckpt-old.index"  # as --overwrite does, moved to another folder
    crashing = (f"{aside}; touch tried$(ls | grep -c tried); [[ -e tried1 ]] || exit 1; "
                + CRASHING.format(crashes=1, status=1))
    (training.folder / "results/models/base/checkpoints").mkdir(parents=True)
    (training.folder / "results/models/base/checkpoints/ckpt-old.index").touch()
    training.call("--phase=1", "--overwrite", "--max_restarts=3", ELECTRA_RESTART_SECONDS="0", FAKE_PHASE1=crashing)
    calls = [call for call in training.recorded() if "run_pretraining" in call]
    assert ["--overwrite" in call for call in calls] == [True, True, False]
    assert ["--restore_checkpoint=auto" in call for call in calls] == [False, False, True]


def test_a_signal_during_the_pause_before_a_restart_ends_in_75(training):
    process = training.start("--phase=1", "--max_restarts=3", ELECTRA_RESTART_SECONDS="100",
                             FAKE_PHASE1="exit 1")
    log = training.folder / "results/models/base/logs/electra_lamb_pretraining_phase1.log"
    wait_for(lambda: log.exists() and "in 100 s" in log.read_text())
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75 and "same command" in errors
    assert training.phases() == [1]


def test_resume_training_auto_resumes_or_starts(clone):
    for value in ("auto", "--resume_training=auto"):
        words = ["--resume_training", value] if value == "auto" else [value]
        phase1, phase2 = trainings(clone.call("--dry_run", *words, "--init_checkpoint=/e/ckpt-5"))
        assert {"--restore_checkpoint=auto", "--load_weights", "--weights_dir=/e/ckpt-5"} < set(phase1)
        assert "--restore_checkpoint=latest" in phase2
    assert "--restore_checkpoint=latest" in trainings(clone.call("--dry_run", "--resume_training"))[0]


def test_sigusr1_reaches_the_training_which_continues(training):
    process = training.start("--phase=1", FAKE_PHASE1=REAL_PYTHON)
    wait_for((training.folder / "ready").exists)
    os.killpg(process.pid, signal.SIGUSR1)
    wait_for((training.folder / "continues").exists)
    assert process.poll() is None and not (training.folder / "saved").exists()
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_a_training_that_cannot_even_start_ends_the_wrapper(training):
    training.environment["PYTHON"] = write_executable(training.folder / "python", STAND_IN + "[[ $1 == -c ]]\n")
    assert training.call("--data_dir_p1=/", "--data_dir_p2=/").returncode == 1


# --- Files ---

def test_requirements_leave_the_image_s_tensorflow_alone():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    names = {re.match(r"[\w-]+", line).group() for line in lines}
    assert not names & {"tensorflow", "tensorflow-cpu", "keras", "numpy", "protobuf", "tensorboard"}
    for name in ("cpu", "gpu", "hpu-1.6.1", "hpu-1.14"):
        assert "\n-r requirements.txt\n" in (ROOT / f"requirements-{name}.txt").read_text()
    assert "\n-r requirements-cpu.txt\n" in (ROOT / "requirements-dev.txt").read_text()


@pytest.mark.parametrize("script", sorted([*ROOT.glob("scripts/*.sh"), *ROOT.glob("data/*.sh")]),
                         ids=lambda path: path.name)
def test_scripts_parse_and_pass_shellcheck(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("shellcheck is not installed (requirements-dev.txt)")
    result = subprocess.run([shellcheck, "-x", str(script)], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout


def test_phase_2_is_checked_before_phase_1_is_trained(training):
    result = training.call("--train_steps_p1=7", FAKE_CHECK='echo "the reason: $*" >&2; exit 2')
    assert result.returncode == 2 and training.phases() == []
    reason, said = result.stderr.splitlines()
    assert "--phase2" not in reason and "phase 1" in said
    result = training.call(FAKE_CHECK='[[ $* != *--phase2* ]] || { echo "the reason: $*" >&2; exit 2; }')
    assert result.returncode == 2 and training.phases() == []
    reason, said = result.stderr.splitlines()
    assert "--phase2" in reason and "--train_batch_size" in reason and "phase 2" in said
    assert not (training.folder / "results").exists()


def test_data_of_two_vocabularies_and_empty_parts_are_refused(training):
    for name in ("one", "two"):
        (training.folder / name).mkdir()
        (training.folder / name / "vocab.txt").write_text(name)
    assert_refused(training.call("--data_dir_p1=one", "--data_dir_p2=two"), "--data_dir_p1", "--data_dir_p2")
    assert_refused(training.call("--data_dir_p1=one", "--data_dir_p2=one,"), "--data_dir_p2=one,")


@pytest.mark.parametrize("streams, status", [("2>&-", 2), (">&-", 2), ("<&-", 2), ("<&- >&- 2>&-", 2)])
def test_closed_streams_change_nothing(clone, streams, status):
    done = subprocess.run(["bash", "-c", f"bash scripts/electra.sh --typo {streams}"], cwd=clone.folder, text=True,
                          capture_output=True, env=clone.environment)
    assert done.returncode == status and done.stdout == ""
    assert "--typo" in done.stderr if "2>" not in streams else done.stderr == ""


def test_a_full_disk_behind_the_output_is_said_in_one_sentence(clone):
    for words in ("--help", "--dry_run"):
        done = subprocess.run(["bash", "-c", f"bash scripts/electra.sh {words} >/dev/full"], cwd=clone.folder,
                              text=True, capture_output=True, env=clone.environment)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_link_to_a_wrapper_works_from_elsewhere(clone, tmp_path):
    os.symlink(clone.folder / "scripts" / "electra.sh", tmp_path / "pretrain")
    done = subprocess.run(["bash", str(tmp_path / "pretrain"), "--train_step_p1=3"], cwd=tmp_path, text=True,
                          capture_output=True, env=clone.environment)
    assert done.returncode == 2 and "--train_steps_p1" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words, environment, named", [
    (["--model_name=../x"], {}, "--model_name"), (["--model_name=."], {}, "--model_name"),
    (["--results_dir=scripts/test.sh"], {}, "--results_dir"), (["--results_dir=" + "x" * 300], {}, "--results_dir"),
    (["--job_name=" + "x" * 300], {}, "--job_name"), ([], {"TMPDIR": "/nowhere"}, "TMPDIR"),
    ([], {"PYTHON": "/bin/true"}, "PYTHON=/bin/true")])
def test_a_place_that_cannot_be_used_is_refused_and_nothing_is_written(clone, words, environment, named):
    before = sorted(clone.folder.rglob("*"))
    assert_refused(clone.call(*words, "--data_dir_p1=/", "--data_dir_p2=/", **environment), named)
    assert [path for path in sorted(clone.folder.rglob("*")) if "__pycache__" not in str(path)] == [
        path for path in before if "__pycache__" not in str(path)]


def test_an_empty_value_keeps_the_default(clone):
    words = ["--results_dir=", "--model_name=", "--out_dir="]
    assert clone.call("--dry_run", *words[:2]).stdout == clone.call("--dry_run").stdout
    squad = [clone.call("--dry_run", *more, wrapper="electra_squad.sh").stdout for more in ([], words[2:])]
    assert squad[0] == squad[1]


def test_a_signal_before_anything_has_begun_ends_with_75(training, tmp_path):
    python = write_executable(tmp_path / "python", STAND_IN.replace("[[", """[[ $1 != */scripts/recipe.py ]] ||
kill -TERM "$(cut -d' ' -f5 /proc/$$/stat)"  # the leader of the process group: the wrapper
[[""", 1))
    process = training.start("--phase=1", "--data_dir_p1=/", PYTHON=python)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75 and "same command" in errors
    assert training.phases() == [] and not (training.folder / "results").exists()


def test_a_dataset_whose_building_is_stopped_ends_with_75_and_no_later_step_starts(training, tmp_path):
    (tmp_path / "text").mkdir()
    python = write_executable(tmp_path / "python", FAKE_PYTHON.replace('case "$*" in', """case "$*" in
  *prepare_corpus*) kill -TERM "$(cut -d' ' -f5 /proc/$$/stat)"; exec 2>/dev/null; exit "${ENDS:-75}" ;;"""))
    script = training.folder / "data" / "create_datasets_from_start.sh"
    for ends in ("75", "143"):  # the step had a handler for the signal, or not yet
        done = subprocess.run(["bash", script, "corpus", tmp_path / "text"], env={
            **training.environment, "PYTHON": python, "ENDS": ends}, capture_output=True, text=True, timeout=30,
            start_new_session=True)
        assert done.returncode == 75 and "same command" in done.stderr, done.stderr
    assert not any("build_vocab" in call for call in training.recorded())


def test_help_of_the_scripts_without_options_builds_nothing(clone):
    for script in ("test.sh", "make_venv.sh"):
        done = clone.call("--help", wrapper=script)
        assert done.returncode == 0 and f"bash scripts/{script}" in done.stdout
    assert not (clone.folder / ".venv").exists()
