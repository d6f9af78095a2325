"""estimate.py: what a call is going to do, the model of its time, and the timing of a few updates."""
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest
from support import ROOT, squad_config, wait_for
from support import pretraining_config as make_config

import estimate
import files
from estimate import Pace, Phase, Work
from pretraining_options import EstimateConfig


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def run(tmp_path, temporary):
    """Estimates configurations and returns the JSON; checks that nothing else is written."""
    def call(*commands, options=(), program=None):
        file = tmp_path / "estimate.json"
        words = ["estimate.py", f"--estimate_file={file}", *options]
        for config in commands:
            name = "run_pretraining.py" if hasattr(config, "pretrain_tfrecords") else "run_tf_squad.py"
            words += ["--", program or str(ROOT / name), *estimate.words_of(config)]
        before = set(os.listdir(tmp_path))
        estimate.main(words)
        assert set(os.listdir(tmp_path)) == before | {"estimate.json"} and not os.listdir(temporary)
        return json.loads(file.read_text())
    return call


# --- The work of a call ---


def test_the_work_of_a_phase_is_that_of_its_options_and_data(pretraining_data, tmp_path, run, capsys):
    config = make_config(pretraining_data, tmp_path, eval_tfrecords=pretraining_data["held_out"], eval_freq=5,
                         num_workers=2, save_checkpoints_steps=4)
    phase, = run(config, options=["--sequences_per_second=10"])["phases"]
    # 12 updates of 4 x 3 x 2 sequences of 32 tokens; 90 records. 24 held-out ones, after updates 5, 10 and 12.
    assert (phase["updates"], phase["warmup"], phase["sequences"], phase["tokens"], phase["records"]) == (
        12, 2, 288, 9216, 90)
    assert (phase["evaluations"], phase["evaluated"], phase["saves"]) == (3, 24, 3)
    assert phase["disk"] == 3 * 12 * phase["parameters"]
    one, two = phase["seconds"]["1"], phase["seconds"]["2"]
    assert (one["accumulation"], two["accumulation"]) == (6, 3)
    assert one["training"] == pytest.approx(28.8) and one["exchange"] == 0
    assert two["training"] == pytest.approx(14.4 + two["exchange"])
    assert one["evaluation"] == pytest.approx(3 * 24 / 30 + 4 * estimate.CURVES_SECONDS)
    table = capsys.readouterr().out
    assert all(text in table for text in ("3.20", "9,216", "64 workers", "[4 x 3]", "10.00 (given)"))
    assert max(len(line) for line in table.splitlines() if str(tmp_path) not in line) <= 120


def test_a_mixture_has_the_epochs_of_each_dataset(pretraining_data, tmp_path, run, capsys):
    mixture = f"{pretraining_data[32]}:3,{pretraining_data['held_out']}:1"
    phase, = run(make_config(pretraining_data, tmp_path, pretrain_tfrecords=mixture),
                 options=["--sequences_per_second=10"])["phases"]
    assert phase["mixture"] == [[pretraining_data[32], 144 * 0.75 / 90],
                                [pretraining_data["held_out"], 144 * 0.25 / 24]]
    table = capsys.readouterr().out
    assert f"epochs of {pretraining_data['held_out']}" in table and "1.50" in table and "1.20" in table


def test_one_speed_is_that_of_the_first_phase_and_two_are_of_each(pretraining_data, tmp_path, run):
    first = make_config(pretraining_data, tmp_path)
    second = make_config(pretraining_data, tmp_path, phase2=True, restore_checkpoint="latest", max_seq_length=64,
                         pretrain_tfrecords=pretraining_data[64])
    one = run(first, second, options=["--sequences_per_second=10"])["phases"]
    assert one[0]["speed"]["sequences_per_second"] == 10
    assert 3 < one[1]["speed"]["sequences_per_second"] < 5  # twice the tokens, and attention grows with the square
    two = run(first, second, options=["--sequences_per_second=10,4"])["phases"]
    assert [phase["speed"]["sequences_per_second"] for phase in two] == [10, 4]
    assert two[1]["seconds"]["1"]["training"] == 36


def test_a_resumed_phase_has_its_rest_to_do(pretraining_data, tmp_path, run):
    config = make_config(pretraining_data, tmp_path, restore_checkpoint="latest")
    second = dataclasses.replace(config, phase2=True)
    os.makedirs(config.checkpoint_dir)
    for name in ("ckpt-9", "ckpt-p2-12"):
        open(os.path.join(config.checkpoint_dir, f"{name}.index"), "w").close()
    phases = run(config, second, options=["--sequences_per_second=10"])["phases"]
    assert [(phase["done"], phase["updates"]) for phase in phases] == [(9, 3), (12, 0)]
    assert phases[1]["seconds"]["1"]["total"] == 0
    new = run(dataclasses.replace(config, restore_checkpoint=None), second, options=["--sequences_per_second=10"])
    assert [phase["done"] for phase in new["phases"]] == [0, 0]  # its phase 2 starts anew as well


def test_a_fine_tuning_has_the_windows_of_its_epochs(squad_data, tmp_path, run):
    config = squad_config(squad_data, tmp_path / "out", evaluate_during_training=True, max_seq_length=32)
    phase, = run(config, options=["--sequences_per_second=10"])["phases"]
    windows, batches = phase["records"], -(-phase["records"] // 4)
    assert windows > 30  # questions
    assert (phase["updates"], phase["sequences"], phase["saves"]) == (2 * batches, 2 * windows, 2)
    assert 24 * phase["sequences"] < phase["tokens"] <= 32 * 4 * phase["updates"]
    assert phase["evaluations"] == 2 and phase["evaluated"] >= 14
    assert phase["seconds"]["1"]["training"] == pytest.approx(phase["sequences"] / 10)


# --- The model of the time ---


def make_phase(**changes) -> Phase:
    settings = dict(name="phase 1", length=128, done=0, updates=100, warmup=10, workers=1, batch_size=8,
                    micro_batches=16, sequences=12_800, tokens=1_638_400, flops=1e9, records=1000, evaluations=0,
                    evaluated=0, saves=0, parameters=119_400_000, memory=0.0, disk=0.0, folder="", compressed=False,
                    config=None, timed=[Work(8, 8 * 10**9, False)] * 100)
    return Phase(**{**settings, **changes})


@pytest.mark.parametrize("workers, gbits, compressed, seconds", [
    (1, 100, False, 0.0),
    (8, 100, False, 0.066864 + 14 * estimate.LATENCY),  # 835.8 MB at 12.5 GB/s
    (32, 100, True, 0.037014 + 62 * estimate.LATENCY),
    (8, 10, False, 0.66864 + 14 * estimate.LATENCY),
])
def test_gradients_are_exchanged_in_a_ring(workers, gbits, compressed, seconds):
    assert estimate.exchange_seconds(119_400_000, workers, gbits, compressed) == pytest.approx(seconds)


@pytest.mark.parametrize("workers, batch_size, accumulation, per_update", [
    (1, 8, 16, 12.8), (8, 8, 2, 1.6), (64, 2, 1, 0.2), (128, 1, 1, 0.1),
    (5, 8, 4, 3.2),  # 16 micro-batches are not 5 equal shares
    (48, 3, 1, 0.3),  # nor are 128 sequences 48
])
def test_workers_share_the_sequences_of_an_update(workers, batch_size, accumulation, per_update):
    times = estimate.times_on(make_phase(), Pace(10.0), workers, 100)
    assert (times.batch_size, times.accumulation) == (batch_size, accumulation)
    assert times.training == pytest.approx(100 * per_update + times.exchange)
    assert times.exchange == pytest.approx(100 * estimate.exchange_seconds(119_400_000, workers, 100))


def test_an_update_cannot_be_shared_by_more_workers_than_it_has_sequences():
    assert estimate.times_on(make_phase(), Pace(10.0), 129, 100) is None


def test_checkpoints_take_a_copy_each_and_the_last_one_until_it_is_written():
    times = estimate.times_on(make_phase(saves=5, disk=1.0), Pace(10.0), 1, 100)
    size = 12 * 119_400_000
    assert times.saving == pytest.approx(5 * size / estimate.COPY_BYTES + size / estimate.WRITE_BYTES)


def test_the_first_evaluation_traces_and_the_start_of_the_wrapper_counts(monkeypatch):
    pace = Pace(10.0, start_seconds=20.0)
    without, once = (estimate.times_on(make_phase(evaluations=count, evaluated=30), pace, 1, 100) for count in (0, 1))
    assert once.evaluation - without.evaluation == pytest.approx(1 + estimate.CURVES_SECONDS + 0.12 * 20)
    for wrappers, expected in ((f"{os.getppid()},{os.getpid()}", estimate.age(os.getppid()) - estimate.age("self")),
                               ("", 0.0), ("999999999", 0.0)):
        monkeypatch.setenv("ELECTRA_WRAPPER", f"{files.process_space()}:{wrappers}")
        assert estimate.wrapper_seconds() == pytest.approx(expected, abs=0.5)
    monkeypatch.setenv("ELECTRA_WRAPPER", f"elsewhere:{os.getppid()}")
    assert estimate.wrapper_seconds() == 0


@pytest.mark.parametrize("done, last, every, expected", [(0, 20, 20, 1), (0, 20, 8, 3), (8, 20, 8, 2), (20, 20, 8, 0),
                                                         (0, 5, 100, 1)])
def test_what_is_due_every_few_updates_is_due_after_the_last_one_too(done, last, every, expected):
    assert estimate.times(done, last, every) == expected == sum(
        step % every == 0 or step == last for step in range(done + 1, last + 1))


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h"),
                                           (10 * 86400, "240.0 h (10.0 days)")])
def test_durations_are_in_the_unit_that_people_would_use(seconds, text):
    assert estimate.duration(seconds) == text


# --- Timing ---


def test_the_speed_is_that_of_the_updates_that_do_not_compile():
    # After the first update: 4, 1 and 2 s for 8 sequences each; the first of these has a new length, the last is twice
    # as long.
    ends = (4, 5, 7)
    entries = [{"step": 1}, *({"step": 1 + n, "average_sequences_per_second": 8 * n / end}
                              for n, end in enumerate(ends, 1))]
    phase = make_phase(flops=50.0, timed=[Work(8, 800, True), Work(8, 800, True), Work(8, 800, False),
                                          Work(8, 1600, False)])
    pace = estimate.pace_of(phase, entries, first=20.0)
    assert pace.updates == 2
    assert pace.sequences_per_second == pytest.approx(800 / 50)  # 2400 FLOPs in 3 s
    assert pace.start_seconds == pytest.approx(20 - 1 + 4 - 1)
    assert estimate.pace_of(phase, [*entries[:2], entries[3]], first=20.0) == pace  # two updates in one line
    assert not estimate.enough(entries, phase.timed, 2)  # 3 s are too few
    slow = [entries[0], *({**entry, "average_sequences_per_second": entry["average_sequences_per_second"] / 10}
                          for entry in entries[1:])]
    assert estimate.enough(slow, phase.timed, 2) and not estimate.enough(slow, phase.timed, 3)


def test_updates_are_timed_with_the_command_itself(pretraining_data, tmp_path, run):
    config = make_config(pretraining_data, tmp_path, eval_tfrecords=pretraining_data["held_out"], overwrite=True)
    phase, = run(config, options=["--timed_updates=2"])["phases"]
    speed = phase["speed"]
    assert speed["updates"] == 11  # all of the run: they take less than LEAST_SECONDS
    assert speed["sequences_per_second"] > 1 and 1 < speed["start_seconds"] < 300
    assert 1e8 < speed["memory"] < 1e10
    assert phase["seconds"]["1"]["total"] > speed["start_seconds"]


@pytest.mark.parametrize("code, error, words", [
    ("print('run_pretraining.py: --this is wrong: correct it.'); exit(2)", 2, "--this is wrong: correct it."),
    ("print('it is broken'); exit(9)", 1, "status 9: it is broken"),
])
def test_an_error_of_the_timed_command_is_that_of_the_estimate(pretraining_data, tmp_path, run, code, error, words):
    program = tmp_path / "run_pretraining.py"
    program.write_text(code)
    with pytest.raises(Exception) as caught:
        run(make_config(pretraining_data, tmp_path), program=str(program))
    assert caught.value.exit_status == error and words in str(caught.value)


@pytest.mark.parametrize("number", files.STOP_SIGNALS)
def test_a_signal_stops_the_timed_command_and_leaves_nothing(pretraining_data, tmp_path, temporary, number):
    program = tmp_path / "run_pretraining.py"
    program.write_text(f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
                       "time.sleep(60)\n")
    process = subprocess.Popen([sys.executable, ROOT / "estimate.py", "--", program, *estimate.words_of(
        make_config(pretraining_data, tmp_path))], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 75 and said.count("\n") == 1 and signal.Signals(number).name in said
    assert not os.listdir(temporary) and not files.is_running(int((tmp_path / "pid").read_text()))


# --- What is refused ---


@pytest.mark.parametrize("options, named", [
    (["--sequences_per_second=0"], "--sequences_per_second=0"), (["--sequences_per_second=x"], "340,80"),
    (["--sequences_per_second=nan"], "--sequences_per_second=nan"), (["--sequences_per_second=1,2"], "2 values"),
    (["--sequences_per_second=1,"], "--sequences_per_second=1,"), (["--network_gbits=0"], "--network_gbits=0"),
    (["--timed_updates=0"], "--timed_updates=0"), (["--estimate_file=/dev/null/y"], "--estimate_file"),
    (["--estimate_file=/"], "--estimate_file=/"),
])
def test_options_that_make_no_estimate_are_refused(pretraining_data, tmp_path, refuses, options, named):
    words = estimate.words_of(make_config(pretraining_data, tmp_path))
    assert named in refuses(estimate.main, ["estimate.py", *options, "--", "run_pretraining.py", *words])


@pytest.mark.parametrize("words, named", [
    ([], "run_pretraining.py"), (["--", "run_inference.py"], "run_inference.py"),
    (["--", "run_pretraining.py", "--eval_only", "--restore_checkpoint=x", "--eval_tfrecords=x"], "run_pretraining.py"),
    (["--", "run_tf_squad.py", "--do_predict", "--data_dir=x", "--output_dir=x"], "run_tf_squad.py"),
    (["--", "run_pretraining.py", "--pretrain_tfrecords=nowhere"], "nowhere"),
    (["--", "run_tf_squad.py", "--do_train", "--data_dir=nowhere", "--output_dir=x"], "nowhere"),
])
def test_calls_that_cannot_be_estimated_are_refused(refuses, words, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named in refuses(estimate.main, ["estimate.py", *words])
    assert os.listdir(tmp_path) == ["temporary"]


def test_memory_that_the_timed_updates_do_not_have_is_refused_and_with_a_given_speed_said(
        pretraining_data, tmp_path, refuses, run, monkeypatch, capsys):
    monkeypatch.setattr("preflight.free_memory", lambda: 1000)
    config = make_config(pretraining_data, tmp_path)
    assert "--train_batch_size=4" in refuses(run, config)
    run(config, options=["--sequences_per_second=10"])
    assert "NOT ENOUGH MEMORY" in capsys.readouterr().out


def test_the_speed_is_a_list_of_positive_numbers():
    assert EstimateConfig(sequences_per_second="340,8e1").rates == [340.0, 80.0]
    assert EstimateConfig().rates == []
