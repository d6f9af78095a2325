"""Several workers: refusals, and real processes that exchange through Horovod's Gloo.

The tests with processes are skipped where Horovod is not installed (scripts/install_horovod.sh).
"""
from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tensorflow as tf
from support import pretraining_config as make_config
from support import squad_config, squad_file

import configuration
import report
import training
import workers
from configuration import UserError

ROOT = pathlib.Path(__file__).parent.parent
needs_horovod = pytest.mark.skipif(importlib.util.find_spec("horovod") is None,
                                   reason="Horovod is not installed: bash scripts/install_horovod.sh")


@pytest.fixture(scope="module")
def data(pretraining_data):
    return pretraining_data


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OMPI_", "HOROVOD_")):
            monkeypatch.delenv(name)


# --- Who is there ---


def test_one_worker_asks_nobody():
    alone = workers.join(workers.place(0))
    assert alone is workers.place(1) is workers.ALONE
    assert (alone.rank, alone.size, alone.is_chief) == (0, 1, True)
    assert alone.gather(3) == [3] and alone.from_chief(4) == 4 and alone.mean([5.0]) == [5.0]
    assert alone.any(True) and not alone.any(False)


@pytest.mark.parametrize("num_workers, environment, words", [
    (2, {}, "--num_workers=2, but this process was started alone"),
    (2, {"OMPI_COMM_WORLD_SIZE": "4"}, "--num_workers=2, but the launcher started 4 processes"),
    (1, {"HOROVOD_SIZE": "2"}, "--num_workers=1, but the launcher started 2 processes")])
def test_another_number_of_workers_than_asked_for_is_refused(num_workers, environment, words, monkeypatch, refuses):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words in refuses(workers.place, num_workers)


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "PMI_SIZE"])
def test_processes_that_a_launcher_started_unknown_to_horovod_are_refused(name, monkeypatch, refuses):
    """`srun -n 8`: eight lone trainings would write into one folder."""
    monkeypatch.setenv(name, "8")
    assert f"{name}=8 says that this process is one of several" in refuses(workers.place, 0)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert workers.place(0) is workers.ALONE
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
    monkeypatch.setenv(name, "1")  # salloc's own shell
    assert workers.place(0) is workers.ALONE


def test_several_workers_without_horovod_are_refused(monkeypatch, refuses):
    """The ancestor trains as many identical models, all into one folder."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    assert "scripts/install_horovod.sh" in refuses(workers.place, 2)


class FakeHorovod:
    """A Horovod that joined nobody, as one without MPI under mpirun."""

    def __init__(self, size=1, mpi=False):
        self._size, self._mpi = size, mpi

    def init(self):
        pass

    def size(self):
        return self._size

    def mpi_built(self):
        return self._mpi


def test_horovod_that_counts_other_workers_than_the_launcher_is_refused(monkeypatch, refuses):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: True)
    package = type(sys)("horovod")
    package.tensorflow = FakeHorovod()
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", package.tensorflow)
    text = refuses(workers.join, workers.place(2))
    assert "Horovod counts 1" in text and "without MPI" in text and "horovodrun --gloo" in text


@pytest.mark.parametrize("local_size, shares", [(2, [[0, 1], [2, 3]]), (4, [[0], [1], [2], [3]]),
                                                (3, [[0], [1], [2, 3]]), (5, [None])])
def test_workers_of_a_machine_share_its_cores(local_size, shares, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for rank, share in enumerate(shares):
        taken = []
        monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores, taken=taken: taken.append(cores), raising=False)
        workers.pin_to_cores(rank, local_size)
        assert taken == ([share] if share else [])


@pytest.mark.parametrize("given, pin_cores, cycle", [(None, True, "5"), ("2", True, "2"), (None, False, None)])
def test_horovod_leaves_the_cores_to_the_computation(given, pin_cores, cycle, monkeypatch):
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    monkeypatch.setattr(workers, "pin_to_cores", lambda *_: None)
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", given or "")  # also so that it is put back in the end
    if given is None:
        monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    workers.place(2, pin_cores)
    assert os.environ.get("HOROVOD_CYCLE_TIME") == cycle


def test_cores_that_the_launcher_chose_stay(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("changed"), raising=False)
    workers.pin_to_cores(0, 1)


def test_every_worker_writes_its_exit_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELECTRA_STATUS_FILE", str(tmp_path / "status"))
    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setattr(configuration, "REPORT_SECONDS", 0)

    def main(argv):
        raise UserError("no.")

    with pytest.raises(SystemExit):
        configuration.run_command(main)
    assert (tmp_path / "status.1").read_text() == "2\n"
    assert capsys.readouterr().err.endswith("(worker 1): no.\n")


# --- Real processes ---


def launch(processes, command, **kwargs):
    """Arguments of Popen for `command` (after the interpreter) at that many workers; 1 starts without a launcher."""
    launcher = [] if processes == 1 else [sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np",
                                          str(processes), "-H", f"localhost:{processes}"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "CUDA_VISIBLE_DEVICES": "-1",
                   **kwargs.pop("env", {})}
    return dict(args=[*launcher, sys.executable, *map(str, command)], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


def complete(processes, command, status=0, **kwargs):
    result = subprocess.run(**launch(processes, command, **kwargs), timeout=300)
    assert (result.returncode == 0) == (status == 0), result.stdout
    return result.stdout


def flags_of(config, **changes):
    """A configuration as a command line."""
    config = dataclasses.replace(config, **changes)
    return [f"--{field.name}={getattr(config, field.name)}" for field in dataclasses.fields(config)
            if getattr(config, field.name) != field.default]


# Trains 5 updates on made-up batches. What is masked and what is sampled is fixed, in place of the random draws
# that differ between workers; all sequences have as many tokens.
EQUIVALENCE = """
    import sys
    import numpy as np, tensorflow as tf
    import modeling, optimization, pretrain_utils
    from configuration import ElectraConfig
    from workers import join, place

    kind, accumulation, batch, compression, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    workers = join(place(0, pin_cores=True), compression)

    def mask_tokens(input_ids, *_):
        positions = tf.stack([tf.range(2, 12, 3) for _ in range(input_ids.shape[0])])
        return pretrain_utils.MaskedBatch(
            pretrain_utils.replace_at(input_ids, positions, tf.fill(positions.shape, 4), tf.ones(positions.shape)),
            positions, tf.ones(positions.shape), pretrain_utils.values_at(input_ids, positions))

    pretrain_utils.mask_tokens = mask_tokens
    pretrain_utils.sample_tokens = lambda logits, seed: tf.range(logits.shape[0]) % 4 + 5
    config = ElectraConfig.of_size("tiny", vocab_size=60, max_position_embeddings=16, hidden_dropout_prob=0.0,
                                   attention_probs_dropout_prob=0.0, hidden_size=64)
    model = modeling.PretrainingModel(config, modeling.Objective((0, 1, 2, 3, 4), 4, 0.25, 4), seed=7)
    schedule = optimization.Schedule(2e-3, 5, 1)
    optimizer = {"lamb": optimization.LAMB, "adamw": optimization.AdamW}[kind](model.trainable_variables, schedule)
    step = optimization.TrainStep(model.loss, model.metric_names, optimizer, accumulation, workers=workers)
    data = np.random.default_rng(0).integers(5, 60, [5, accumulation, 8, 16])
    seeds = tf.zeros([model.num_seeds, 2], tf.int32)
    own = slice(workers.rank * batch, (workers.rank + 1) * batch)
    for update in data:
        step([(dict(input_ids=tf.constant(part[own], tf.int32), input_mask=tf.ones([batch, 16], tf.int32),
                    segment_ids=tf.zeros([batch, 16], tf.int32)), seeds) for part in update])
    metrics = step.read_metrics()
    np.savez(f"{out}.{workers.rank}", *[v.numpy() for v in model.trainable_variables], **metrics)
"""


@pytest.fixture(scope="module")
def equivalence(tmp_path_factory):
    script = tmp_path_factory.mktemp("equivalence") / "train.py"
    script.write_text(textwrap.dedent(EQUIVALENCE))

    def run(processes, kind, accumulation, compression="none"):
        out = script.parent / f"{processes}{kind}{accumulation}{compression}"
        complete(processes, [script, kind, accumulation, 8 // processes, compression, out])
        return [dict(np.load(f"{out}.{rank}.npz")) for rank in range(processes)]

    return run


@needs_horovod
@pytest.mark.parametrize("kind, accumulation", [("lamb", 1), ("adamw", 3)])
def test_two_workers_train_as_one_with_the_double_batch(kind, accumulation, equivalence):
    (one,), two = equivalence(1, kind, accumulation), equivalence(2, kind, accumulation)
    moved = 0.0
    for name, value in one.items():
        if not name.startswith("arr_"):
            continue
        np.testing.assert_array_equal(two[0][name], two[1][name])
        # Float32 summation error through 5 updates of normalised gradients of rate 2e-3.
        np.testing.assert_allclose(two[0][name], value, rtol=0, atol=2e-5, err_msg=name)
        moved = max(moved, np.abs(value).max())
    assert moved > 0.01
    assert two[0]["tokens"] == one["tokens"] == 5 * accumulation * 8 * 16
    assert two[0]["micro_batches"] == 2 * one["micro_batches"]
    np.testing.assert_allclose(two[0]["loss"] / 2, one["loss"], rtol=1e-4)
    np.testing.assert_allclose(two[0]["gradient_norm"], one["gradient_norm"], rtol=1e-3)


@needs_horovod
def test_compressed_gradients_train_nearly_the_same(equivalence):
    (one,), two = equivalence(1, "lamb", 1), equivalence(2, "lamb", 1, "fp16")
    differences = [np.abs(two[0][name] - value).max() for name, value in one.items() if name.startswith("arr_")]
    assert 1e-7 < max(differences) < 2e-2


@needs_horovod
def test_a_type_that_horovod_cannot_exchange_is_refused(tmp_path):
    script = tmp_path / "open.py"
    script.write_text("import configuration, workers\n"
                      "configuration.run_command(lambda argv: workers.join(workers.place(2), 'bf16') and None)\n")
    said = complete(2, [script], status=1, env={"ELECTRA_STATUS_FILE": str(tmp_path / "status")})
    assert "--gradient_compression=bf16: this Horovod cannot exchange that type; choose fp16 or none." in said
    assert (tmp_path / "status.0").read_text() == "2\n"


# habana-horovod has kernels for the card for HorovodAllreduce, and none for HorovodGroupedAllreduce.
ON_A_CARD = """
    import numpy as np, tensorflow as tf
    import horovod.tensorflow as horovod
    import workers

    class BuiltForGaudi:
        def hccl_built(self): return True
        def __getattr__(self, name): return getattr(horovod, name)

    horovod.init()
    joined = workers.HorovodWorkers(BuiltForGaudi(), "fp16")
    tensors = [tf.fill([2, 3], float(joined.rank)), tf.constant(float(joined.rank + 2)), tf.fill([4], 8.0)]
    mean = tf.function(joined.mean, autograph=False).get_concrete_function([tf.TensorSpec(t.shape) for t in tensors])
    print(sorted(op.type for op in mean.graph.get_operations() if "Horovod" in op.type))
    for found, expected in zip(mean(*tensors), (np.full([2, 3], 0.5), np.float32(2.5), np.full([4], 8.0))):
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found, expected)
"""


@needs_horovod
def test_gradients_travel_from_card_to_card_in_one_exchange(tmp_path):
    (tmp_path / "mean.py").write_text(textwrap.dedent(ON_A_CARD))
    assert complete(2, [tmp_path / "mean.py"]).count("['HorovodAllreduce']") == 2


@pytest.fixture(scope="module")
def two_phases_of_two(data, tmp_path_factory):  # noqa: F811
    """Phase 1 of two workers, 24 updates with evaluation: its configuration and output."""
    config = make_config(data, tmp_path_factory.mktemp("two"), eval_tfrecords=data["held_out"], num_eval_steps=5,
                         num_train_steps=8, gradient_accumulation_steps=2, log_freq=1, save_checkpoints_steps=4)
    return config, complete(2, ["run_pretraining.py", *flags_of(config, num_workers=2)])


@needs_horovod
def test_two_workers_pretrain_and_only_one_talks(two_phases_of_two):
    config, said = two_phases_of_two
    assert len(re.findall(r"held out at step 8:", said)) == 1
    assert f"{2 * 2 * 4} sequences ({2 * 2 * 4 * 32} tokens) an update" in said
    entries = report.read_metrics_log(os.path.join(config.logs, "pretraining_phase1.jsonl"))
    assert [entry["step"] for entry in entries if entry["kind"] == "train"] == list(range(1, 9))
    assert sorted(os.listdir(config.logs)) == sorted(set(os.listdir(config.logs)))
    assert os.path.exists(os.path.join(config.logs, "pretraining_phase1_rank1.log"))


@needs_horovod
def test_held_out_figures_are_the_same_to_the_bit_for_any_number_of_workers(two_phases_of_two):
    config, _ = two_phases_of_two
    command = ["run_pretraining.py", *flags_of(config, eval_only=True, restore_checkpoint="latest")]
    printed = [json.loads(re.search(r"\{\"checkpoint.*\}", complete(processes, command))[0]) for processes in (1, 2, 3)]
    assert printed[0] == printed[1] == printed[2]
    assert printed[0]["generator_loss"] > 0


@needs_horovod
def test_one_worker_goes_on_where_two_stopped(two_phases_of_two, data):  # noqa: F811
    config, _ = two_phases_of_two
    state = training.read_state(os.path.join(config.checkpoint_dir, "ckpt-4"))
    assert state["world_size"] == 2 and state["record"] == 4 * 2 * 2 * 4
    resumed = dataclasses.replace(config, restore_checkpoint=os.path.join(config.checkpoint_dir, "ckpt-4"),
                                  num_train_steps=6, log_dir=os.path.join(config.logs, "resumed"))
    said = complete(1, ["run_pretraining.py", *flags_of(resumed)])
    assert "2 workers wrote the checkpoint, 1 go on: an update is 8 sequences now" in said
    state = training.read_state(os.path.join(config.checkpoint_dir, "ckpt-6"))
    assert state["world_size"] == 1 and state["record"] == 4 * 16 + 2 * 8


@needs_horovod
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_predictions_are_the_same_for_any_number_of_workers(version, squad_data, tmp_path):  # noqa: F811
    config = squad_config(squad_data, tmp_path / "one", version_2_with_negative=version == "2.0",
                                           do_predict=False, do_eval=False, max_steps=3)
    said = complete(2, ["run_tf_squad.py", *flags_of(config, num_workers=2)])
    assert len(re.findall("3 updates of 8 examples", said)) == 1
    files = ["predictions.json", "nbest_predictions.json", *(["null_odds.json"] if version == "2.0" else [])]
    outputs = []
    for processes in (1, 2, 3):
        out = tmp_path / f"out{processes}"
        complete(processes, ["run_tf_squad.py", *flags_of(
            config, do_train=False, do_predict=True, do_eval=True, predict_batch_size=4, output_dir=str(out),
            init_checkpoint=config.checkpoint_dir)])
        results = json.loads((out / "results.json").read_text())
        outputs.append([(out / name).read_bytes() for name in files] + [results["f1"]])
    assert outputs[0] == outputs[1] == outputs[2]


@needs_horovod
def test_every_question_counts_alike_where_workers_have_unequal_parts(squad_data, tmp_path):  # noqa: F811
    """An update of 5 questions: 3 at one worker and 2 at the other, or all at one."""
    shutil.copytree(squad_data / "model", tmp_path / "model")
    encoder = json.loads((tmp_path / "model" / "config.json").read_text())
    encoder.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (tmp_path / "model" / "config.json").write_text(json.dumps(encoder))
    squad_file(tmp_path / "train-v1.1.json", "1.1", 5, seed=1)
    moments = []
    for processes in (1, 2):
        config = squad_config(
            tmp_path, tmp_path / str(processes), init_checkpoint=str(tmp_path / "model"), do_predict=False,
            do_eval=False, train_batch_size=6 // processes, length_buckets="48", max_steps=1, layerwise_lr_decay=1.0)
        complete(processes, ["run_tf_squad.py", *flags_of(config)])
        reader = tf.train.load_checkpoint(str(tmp_path / str(processes) / "checkpoints" / "ckpt-1"))
        moments.append({name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
                        if "/first_moments/" in name})
    assert max(np.abs(moment).max() for moment in moments[0].values()) > 1e-3
    for name, moment in moments[0].items():  # a tenth of the gradient
        np.testing.assert_allclose(moments[1][name], moment, rtol=1e-3, atol=1e-6, err_msg=name)


def rank_process(parent, rank, script):
    """The process id of a rank below the launcher `parent`."""
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if (script in words and f"HOROVOD_RANK={rank}".encode() in environment and not words[0].endswith(b"sh")
                and f"TEST_JOB={parent}".encode() in environment):
            return int(entry.name)
    return None


def start_and_wait(config, text, env):
    """A long job of two workers whose output has come to `text`: the process, its output so far."""
    process = subprocess.Popen(**launch(2, ["run_pretraining.py", *flags_of(config, num_train_steps=5000,
                                                                            num_workers=2)], env=env))
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return process, said
    pytest.fail(said)


@needs_horovod
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_worker_that_dies_ends_the_job_which_can_be_resumed(data, tmp_path):  # noqa: F811
    config = make_config(data, tmp_path, log_freq=1, save_checkpoints_steps=3)
    process, said = start_and_wait(config, "saved", {"TEST_JOB": "dies"})
    os.kill(rank_process("dies", 1, b"run_pretraining.py"), signal.SIGKILL)
    killed = time.monotonic()
    rest = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and time.monotonic() - killed < 60, said + rest
    newest = training.Checkpoints(config.checkpoint_dir).newest(1)
    resumed = complete(1, ["run_pretraining.py", *flags_of(config, num_train_steps=newest.step + 2,
                                                           restore_checkpoint="latest")])
    assert f"at step {newest.step}." in resumed and "phase 1 is done" in resumed


@needs_horovod
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_signal_to_one_worker_stops_all_after_saving(data, tmp_path):  # noqa: F811
    config = make_config(data, tmp_path, log_freq=1, save_checkpoints_steps=10_000)
    status = tmp_path / "status"
    process, said = start_and_wait(config, "step 3/", {"TEST_JOB": "stops", "ELECTRA_STATUS_FILE": str(status)})
    os.kill(rank_process("stops", 1, b"run_pretraining.py"), signal.SIGTERM)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "stopped by a signal to another worker at step" in rest, said + rest
    assert (tmp_path / "status.0").read_text() == "75\n"
    assert len(training.Checkpoints(config.checkpoint_dir).list()) == 1
