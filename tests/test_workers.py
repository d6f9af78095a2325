"""workers: refusals, and data-parallel training in real processes with Horovod and Gloo.

A launch takes seconds, so several tests look at one: `collectives` and `two_workers` run two processes each,
`three_workers` three. The tests with processes are skipped if Horovod is not installed (scripts/install_horovod.sh).
"""
from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from support import pretraining_config as make_config
from support import squad_config, squad_file

import command_line
import modeling
import optimization
import pretrain_utils
import pretraining_options
import squad_options
import workers
from checkpoints import Checkpoints, read_state
from configuration import DeviceOptions, UserError
from electra_config import ElectraConfig

ROOT = pathlib.Path(__file__).parent.parent
needs_horovod = pytest.mark.skipif(importlib.util.find_spec("horovod") is None,
                                   reason="Horovod is not installed: bash scripts/install_horovod.sh")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OMPI_", "HOROVOD_", "SLURM_")):
            monkeypatch.delenv(name)


# --- Ranks and refusals ---


def test_a_single_worker_needs_no_horovod():
    alone = workers.join(workers.place(0), DeviceOptions())
    assert alone is workers.place(1) is workers.ALONE
    assert (alone.rank, alone.size, alone.is_chief) == (0, 1, True)
    assert alone.gather(3) == [3] and alone.from_chief(4) == 4 and alone.mean([5.0]) == [5.0]
    assert alone.sum([2, 0]) == [2, 0]


@pytest.mark.parametrize("num_workers, environment, words", [
    (2, {}, "--num_workers=2, but only one process"),
    (2, {"OMPI_COMM_WORLD_SIZE": "4"}, "--num_workers=2, but the launcher started 4 processes"),
    (1, {"HOROVOD_SIZE": "2"}, "--num_workers=1, but the launcher started 2 processes")])
def test_another_number_of_workers_than_num_workers_is_refused(num_workers, environment, words, monkeypatch, refuses):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words in refuses(workers.place, num_workers)


def test_several_workers_without_horovod_are_refused(monkeypatch, refuses):
    """NVIDIA's recipe would train identical models, all in one folder."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    assert "scripts/install_horovod.sh" in refuses(workers.place, 2)


class FakeHorovod:
    """A Horovod of size 1, as one without MPI under mpirun."""

    def __init__(self, size=1, mpi=False):
        self._size, self._mpi = size, mpi

    def init(self):
        pass

    def size(self):
        return self._size

    def mpi_built(self):
        return self._mpi


def test_a_horovod_size_that_differs_from_the_launchers_is_refused(monkeypatch, refuses):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: True)
    package = type(sys)("horovod")
    package.tensorflow = FakeHorovod()
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", package.tensorflow)
    text = refuses(workers.join, workers.place(2), DeviceOptions())
    assert "2 processes" in text and "size is 1" in text and "without MPI" in text and "horovodrun --gloo" in text


@pytest.mark.parametrize("local_size, shares", [(2, [[0, 1], [2, 3]]), (4, [[0], [1], [2], [3]]),
                                                (3, [[0], [1], [2, 3]]), (5, [None])])
def test_each_worker_of_a_machine_is_pinned_to_its_own_cores(local_size, shares, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for rank, share in enumerate(shares):
        taken = []
        monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores, taken=taken: taken.append(cores), raising=False)
        workers.pin_to_cores(rank, local_size)
        assert taken == ([share] if share else [])


@pytest.mark.parametrize("given, pin_cores, cycle", [(None, True, "5"), ("2", True, "2"), (None, False, None)])
def test_the_cycle_time_of_horovod_is_longer_on_cpu(given, pin_cores, cycle, monkeypatch):
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    monkeypatch.setattr(workers, "pin_to_cores", lambda *_: None)
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", given or "")  # so that it is restored at the end
    if given is None:
        monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    workers.place(2, pin_cores)
    assert os.environ.get("HOROVOD_CYCLE_TIME") == cycle


def test_the_launchers_core_binding_is_kept(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("changed"), raising=False)
    workers.pin_to_cores(0, 1)


def test_every_worker_writes_its_exit_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELECTRA_STATUS_FILE", str(tmp_path / "status"))
    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setattr(command_line, "REPORT_SECONDS", 0)

    def main(argv):
        raise UserError("no.")

    with pytest.raises(SystemExit):
        command_line.run_command(main)
    assert (tmp_path / "status.1").read_text() == "2\n"
    assert capsys.readouterr().err.endswith("(worker 1): no.\n")


class Gathered(workers.Workers):
    """Workers of which the others have given facts."""

    def __init__(self, *others):
        super().__init__(size=1 + len(others))
        object.__setattr__(self, "others", others)

    def gather(self, value):
        return [value, *(("node-2", facts) for facts in self.others)]


def test_workers_that_are_the_same_pass():
    Gathered({"a": 1, "b": "x"}, {"b": "x", "a": 1}).compare({"a": 1, "b": "x"})
    workers.ALONE.compare({"a": 1})


@pytest.mark.parametrize("others, words", [
    ([{"--seed": 1}, {"--seed": 2}], "--seed is 2 in worker 2 on node-2, and 1 in worker 0"),
    ([{}], "--seed is none in worker 1"),
    ([{"--seed": 1, "--phase2": True}], "--phase2 is True in worker 1")])
def test_the_first_worker_that_differs_is_named_with_what_differs(others, words, refuses):
    assert words in refuses(Gathered(*others).compare, {"--seed": 1})


def test_software_and_options_are_compared_but_no_paths(tmp_path, monkeypatch):
    (tmp_path / "workers.py").write_text("1")
    before = workers.software()
    assert before == workers.software() and tf.__version__ in before.values() and np.__version__ in before.values()
    monkeypatch.setattr(workers, "__file__", str(tmp_path / "workers.py"))
    assert workers.software() != before
    found = workers.settings(pretraining_options.PretrainingConfig(pretrain_tfrecords="shards", seed=3))
    assert found["--seed"] == 3 and "--pretrain_tfrecords" not in found
    assert found["the command"] != workers.settings(squad_config(tmp_path, tmp_path))["the command"]
    fields = {**pretraining_options.PretrainingConfig.__dataclass_fields__,
              **squad_options.SquadConfig.__dataclass_fields__}
    assert set(workers.PATHS) <= set(fields)


@pytest.mark.parametrize("given, seconds", [(None, "1800"), ("0", "0")])
def test_a_stalled_job_is_shut_down_unless_the_user_says_otherwise(given, seconds, monkeypatch):
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", given or "")  # so that it is restored at the end
    if given is None:
        monkeypatch.delenv("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS")
    workers.place(2)
    assert os.environ["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == seconds


# --- Real processes ---


def launch(processes, command, **kwargs):
    """Arguments of Popen that start `command` (without the interpreter) as several workers."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "CUDA_VISIBLE_DEVICES": "-1",
                   **kwargs.pop("env", {})}
    return dict(args=[sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np", str(processes), "-H",
                      f"localhost:{processes}", sys.executable, *map(str, command)],
                cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


def complete(processes, script, argument):
    """Runs a function of this file in several workers with a JSON argument; returns the output."""
    program = f"import json, sys, test_workers; test_workers.{script.__name__}(json.loads(sys.argv[1]))"
    result = subprocess.run(**launch(processes, ["-c", program, json.dumps(argument)]), timeout=300)
    assert result.returncode == 0, result.stdout
    return result.stdout


def run_commands(commands):
    """Runs commands, each a list of words, one after the other in this process."""
    for script, *arguments in commands:
        importlib.import_module(script[:-len(".py")]).main([script, *arguments])


def run_alone(*commands):
    """Runs commands in this process as a single worker; returns the output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        run_commands(commands)
    return output.getvalue()


def flags_of(config, **changes):
    """A configuration as a command line."""
    config = dataclasses.replace(config, **changes)
    return [f"--{field.name}={getattr(config, field.name)}" for field in dataclasses.fields(config)
            if getattr(config, field.name) != field.default]


def train_on_fixed_masks(kind, accumulation, joined):
    """Trains 5 updates on random batches of 8 sequences in all; returns variables and metrics.

    Masking and sampling are fixed, because the random draws differ between workers; all sequences have the same length.
    """
    def mask_tokens(input_ids, *_):
        positions = tf.stack([tf.range(2, 12, 3) for _ in range(input_ids.shape[0])])
        return pretrain_utils.MaskedBatch(
            pretrain_utils.replace_at(input_ids, positions, tf.fill(positions.shape, 4), tf.ones(positions.shape)),
            positions, tf.ones(positions.shape), pretrain_utils.values_at(input_ids, positions))

    config = ElectraConfig.of_size("tiny", vocab_size=60, max_position_embeddings=16, num_hidden_layers=1,
                                   hidden_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = modeling.PretrainingModel(config, modeling.Objective((0, 1, 2, 3, 4), 4, 0.25, 4), seed=7)
    schedule = optimization.Schedule(2e-3, 5, 1)
    optimizer = {"lamb": optimization.LAMB, "adamw": optimization.AdamW}[kind](model.trainable_variables, schedule)
    step = optimization.TrainStep(model.loss, model.metric_names, optimizer, accumulation, workers=joined)
    data = np.random.default_rng(0).integers(5, 60, [5, accumulation, 8, 16])
    seeds = tf.zeros([model.num_seeds, 2], tf.int32)
    batch = 8 // joined.size
    own = slice(joined.rank * batch, (joined.rank + 1) * batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_utils, "mask_tokens", mask_tokens)
        patch.setattr(pretrain_utils, "sample_tokens", lambda logits, seed: tf.range(logits.shape[0]) % 4 + 5)
        for update in data:
            step([(dict(input_ids=tf.constant(part[own], tf.int32), input_mask=tf.ones([batch, 16], tf.int32),
                        segment_ids=tf.zeros([batch, 16], tf.int32)), seeds) for part in update])
    return [variable.numpy() for variable in model.trainable_variables], step.read_metrics()


def mean_on_a_card(horovod):
    """The Horovod ops of an all-reduce on Gaudi, and the means of three tensors.

    habana-horovod has kernels for HorovodAllreduce, and none for HorovodGroupedAllreduce.
    """
    class BuiltForGaudi:
        def hccl_built(self):
            return True

        def __getattr__(self, name):
            return getattr(horovod, name)

    joined = workers.HorovodWorkers(BuiltForGaudi(), "fp16")
    tensors = [tf.fill([2, 3], float(joined.rank)), tf.constant(float(joined.rank + 2)), tf.fill([4], 8.0)]
    mean = tf.function(joined.mean, autograph=False).get_concrete_function([tf.TensorSpec(t.shape) for t in tensors])
    return [op.type for op in mean.graph.get_operations() if "Horovod" in op.type], [m.numpy() for m in mean(*tensors)]


def means_of_large_gradients(joined):
    """Compressed means: beyond the range of float16 at both ends, and not finite."""
    def mean(*values):
        return np.concatenate([m.numpy() for m in joined.mean([tf.constant([value]) for value in values])])

    return {"large": mean(6e4 * (1 + joined.rank), -1e9, 3e3), "small": mean(3e-9, -2e-12 * joined.rank),
            "zero": mean(0.0, 0.0), "nan": mean(np.nan if joined.rank else 1.0, 1.0),
            "infinity": mean(1.0, np.inf if joined.rank else 1.0)}


TRAININGS = [("lamb", 1, "none"), ("adamw", 3, "none"), ("lamb", 1, "fp16")]


def run_collectives(folder):
    """What each worker does for `collectives`, and saves."""
    placed = workers.place(0, pin_cores=True)
    found = {}
    for name in TRAININGS:
        found[name] = train_on_fixed_masks(*name[:2], workers.join(placed, DeviceOptions(gradient_compression=name[2])))
    import horovod.tensorflow as horovod
    found["card"] = mean_on_a_card(horovod)
    found["large"] = means_of_large_gradients(workers.HorovodWorkers(horovod, "fp16"))
    try:
        workers.join(placed, DeviceOptions(gradient_compression="bf16"))
    except UserError as error:
        found["bf16"] = str(error)
    np.save(f"{folder}/{placed.rank}.npy", np.array([found], object))


@pytest.fixture(scope="module")
def collectives(tmp_path_factory):
    """The results of two workers: trainings, an all-reduce as on Gaudi, an unsupported data type."""
    folder = tmp_path_factory.mktemp("collectives")
    complete(2, run_collectives, str(folder))
    return [np.load(folder / f"{rank}.npy", allow_pickle=True)[0] for rank in (0, 1)]


@needs_horovod
@pytest.mark.parametrize("kind, accumulation", [("lamb", 1), ("adamw", 3)])
def test_two_workers_train_like_one_with_twice_the_batch(kind, accumulation, collectives):
    variables, one = train_on_fixed_masks(kind, accumulation, workers.ALONE)
    (first, two), (second, _) = (found[kind, accumulation, "none"] for found in collectives)
    for value, other, expected in zip(first, second, variables):
        np.testing.assert_array_equal(value, other)
        # Float32 summation error through 5 updates of normalised gradients of rate 2e-3.
        np.testing.assert_allclose(value, expected, rtol=0, atol=2e-5)
    assert max(np.abs(value).max() for value in variables) > 0.01
    assert two["tokens"] == one["tokens"] == 5 * accumulation * 8 * 16
    assert two["micro_batches"] == 2 * one["micro_batches"]
    np.testing.assert_allclose(two["loss"] / 2, one["loss"], rtol=1e-4)
    np.testing.assert_allclose(two["gradient_norm"], one["gradient_norm"], rtol=1e-3)


@needs_horovod
def test_compressed_gradients_train_nearly_the_same(collectives):
    exact, compressed = (collectives[0]["lamb", 1, compression][0] for compression in ("none", "fp16"))
    assert 1e-7 < max(np.abs(value - other).max() for value, other in zip(exact, compressed)) < 2e-2


@needs_horovod
def test_an_unsupported_gradient_compression_is_refused(collectives):
    for found in collectives:
        assert "--gradient_compression=bf16" in found["bf16"] and "fp16 or none" in found["bf16"]


@needs_horovod
def test_gradients_are_averaged_in_one_all_reduce_on_gaudi(collectives):
    for found in collectives:
        ops, means = found["card"]
        assert ops == ["HorovodAllreduce"] * 2  # the first finds the scale of the compressed gradients
        for mean, expected in zip(means, (np.full([2, 3], 0.5), np.float32(2.5), np.full([4], 8.0))):
            assert mean.dtype == np.float32
            np.testing.assert_allclose(mean, expected, rtol=2**-10)


@needs_horovod
def test_compressed_gradients_neither_overflow_nor_vanish(collectives):
    """Rounded to 11 bits in a sum of two."""
    for found in collectives:
        np.testing.assert_allclose(found["large"]["large"], [9e4, -1e9, 3e3], rtol=2**-10)
        np.testing.assert_allclose(found["large"]["small"], [3e-9, -1e-12], rtol=2**-10)
        np.testing.assert_array_equal(found["large"]["zero"], [0, 0])


@needs_horovod
@pytest.mark.parametrize("name, place", [("nan", 0), ("infinity", 1)])
def test_a_gradient_that_is_not_finite_in_one_worker_is_not_finite_in_all(collectives, name, place):
    for found in collectives:
        assert not np.isfinite(found["large"][name][place])


class Jobs:
    """Command lines of the jobs that are run with several numbers of workers, and where they write."""

    def __init__(self, data, squad_data, folder):
        self.folder = folder
        self.pretraining = make_config(
            data, folder / "pretraining", eval_tfrecords=data["held_out"], num_eval_steps=5, num_train_steps=8,
            gradient_accumulation_steps=2, log_freq=1, save_checkpoints_steps=4)
        self.squad = {version: squad_config(
            squad_data, folder / version, version_2_with_negative=version == "2.0", do_predict=False, do_eval=False,
            max_steps=3) for version in ("1.1", "2.0")}
        self.unequal = folder / "unequal"
        shutil.copytree(squad_data / "model", self.unequal / "model")
        encoder = json.loads((self.unequal / "model" / "config.json").read_text())
        encoder.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        (self.unequal / "model" / "config.json").write_text(json.dumps(encoder))
        squad_file(self.unequal / "train-v1.1.json", "1.1", 5, seed=1)

    def evaluation(self):
        return ["run_pretraining.py", *flags_of(self.pretraining, eval_only=True, restore_checkpoint="latest")]

    def predictions(self, processes):
        return [["run_tf_squad.py", *flags_of(
            config, do_train=False, do_predict=True, do_eval=True, predict_batch_size=4,
            output_dir=f"{self.folder}/{version}-{processes}", init_checkpoint=config.checkpoint_dir)]
            for version, config in self.squad.items()]

    def one_update(self, processes):
        """An update of 5 questions: 3 of one worker and 2 of the other, or all of one."""
        return ["run_tf_squad.py", *flags_of(squad_config(
            self.unequal, self.unequal / str(processes), init_checkpoint=str(self.unequal / "model"), do_predict=False,
            do_eval=False, train_batch_size=6 // processes, length_buckets="48", max_steps=1, layerwise_lr_decay=1.0))]


@pytest.fixture(scope="module")
def two_workers(pretraining_data, squad_data, tmp_path_factory):
    """Jobs that two workers have run: training and evaluation of all kinds; and the output."""
    jobs = Jobs(pretraining_data, squad_data, tmp_path_factory.mktemp("jobs"))
    training = [["run_pretraining.py", *flags_of(jobs.pretraining, num_workers=2)],
                *(["run_tf_squad.py", *flags_of(config, num_workers=2)] for config in jobs.squad.values())]
    return jobs, complete(2, run_commands, [*training, jobs.evaluation(), *jobs.predictions(2), jobs.one_update(2)])


@pytest.fixture(scope="module")
def three_workers(two_workers):
    """The output of evaluation by three workers."""
    jobs, _ = two_workers
    return complete(3, run_commands, [jobs.evaluation(), *jobs.predictions(3)])


@needs_horovod
def test_only_rank_0_of_two_workers_logs_to_the_console(two_workers):
    jobs, output = two_workers
    logs = jobs.pretraining.logs
    assert output.count("step 8/8 ") == 1 and output.count("held out at step 8") == 1
    assert output.count("8 examples an update") == len(jobs.squad)
    assert f"{2 * 2 * 4} sequences ({2 * 2 * 4 * 32} tokens)" in output
    with open(os.path.join(logs, "pretraining_phase1.jsonl"), encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    assert [entry["step"] for entry in entries if entry["kind"] == "train"] == list(range(1, 9))
    assert os.path.exists(os.path.join(logs, "pretraining_phase1_rank1.log"))
    with open(os.path.join(logs, "samples_phase1.jsonl"), encoding="utf-8") as file:
        assert [json.loads(line)["step"] for line in file] == [0, 4, 8]


@needs_horovod
def test_held_out_metrics_are_bit_identical_for_any_number_of_workers(two_workers, three_workers):
    jobs, output = two_workers
    alone = run_alone(jobs.evaluation())
    results = [json.loads(line) for text in (alone, output, three_workers)
               for line in re.findall(r"\{\"checkpoint.*\}", text)]
    assert len(results) == 3 and results[0] == results[1] == results[2]
    assert results[0]["generator_loss"] > 0


@needs_horovod
def test_one_worker_resumes_a_run_of_two(two_workers):
    config = two_workers[0].pretraining
    state = read_state(os.path.join(config.checkpoint_dir, "ckpt-4"))
    assert state["world_size"] == 2 and state["record"] == 4 * 2 * 2 * 4
    output = run_alone(["run_pretraining.py", *flags_of(
        config, restore_checkpoint=os.path.join(config.checkpoint_dir, "ckpt-4"), num_train_steps=6,
        log_dir=os.path.join(config.logs, "resumed"))])
    assert re.search("note: .*2 workers.* 8 sequences", output)
    state = read_state(os.path.join(config.checkpoint_dir, "ckpt-6"))
    assert state["world_size"] == 1 and state["record"] == 4 * 16 + 2 * 8


@needs_horovod
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_predictions_are_identical_for_any_number_of_workers(version, two_workers, three_workers):
    jobs, _ = two_workers
    run_alone(jobs.predictions(1)[list(jobs.squad).index(version)])
    files = ["predictions.json", "nbest_predictions.json", *(["null_odds.json"] if version == "2.0" else [])]
    outputs = []
    for processes in (1, 2, 3):
        folder = jobs.folder / f"{version}-{processes}"
        outputs.append([(folder / name).read_bytes() for name in files])
        outputs[-1].append(json.loads((folder / "results.json").read_text())["f1"])
    assert outputs[0] == outputs[1] == outputs[2]


@needs_horovod
def test_each_question_has_the_same_weight_if_workers_have_unequal_parts(two_workers):
    jobs, _ = two_workers
    run_alone(jobs.one_update(1))
    moments = []
    for processes in (1, 2):
        reader = tf.train.load_checkpoint(str(jobs.unequal / str(processes) / "checkpoints" / "ckpt-1"))
        moments.append({name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
                        if "/first_moments/" in name})
    assert max(np.abs(moment).max() for moment in moments[0].values()) > 1e-3
    for name, moment in moments[0].items():  # a tenth of the gradient
        np.testing.assert_allclose(moments[1][name], moment, rtol=1e-3, atol=1e-6, err_msg=name)


def run_differing(argument):
    """Commands of which rank 1 changes an option each; prints how each of them was refused."""
    rank = int(os.environ["HOROVOD_RANK"])
    for script, arguments, change in argument["calls"]:
        try:
            run_commands([[script, *arguments, *(change if rank else [])]])
        except UserError as error:
            pathlib.Path(argument["folder"], f"{script}.{change[0].split('=')[0]}.{rank}").write_text(str(error))


@needs_horovod
def test_workers_that_differ_are_refused_before_the_first_update(pretraining_data, squad_data, tmp_path):
    other = tmp_path / "other"
    for folder in (pretraining_data[32], squad_data):
        shutil.copytree(folder, other, dirs_exist_ok=True)
    os.remove(other / "train-2.tfrecord")
    squad_file(other / "dev-v1.1.json", "1.1", 13, seed=3)
    pretraining = "run_pretraining.py", flags_of(make_config(pretraining_data, tmp_path))
    squad = "run_tf_squad.py", flags_of(squad_config(squad_data, tmp_path / "squad"))
    calls = [(*pretraining, ["--learning_rate=0.5"]), (*pretraining, [f"--pretrain_tfrecords={other}"]),
             (*squad, ["--gradient_compression=fp16"]), (*squad, [f"--predict_file={other / 'dev-v1.1.json'}"])]
    output = complete(2, run_differing, {"folder": str(tmp_path), "calls": calls})
    assert "step 1" not in output and not list(tmp_path.glob("**/ckpt-*"))
    for script, _, (change,) in calls:
        texts = {(tmp_path / f"{script}.{change.split('=')[0]}.{rank}").read_text() for rank in (0, 1)}
        assert len(texts) == 1 and f"{change.split('=')[0]} is " in texts.pop()
    text = (tmp_path / "run_pretraining.py.--learning_rate.0").read_text()
    assert "0.5 in worker 1 on" in text and "0.006 in worker 0" in text
    assert "60 records" in (tmp_path / "run_pretraining.py.--pretrain_tfrecords.1").read_text()


def hang_on_rank_1(how):
    """Rank 1 hangs for good: its whole process, or only its own program while Horovod's thread goes on."""
    joined = workers.join(workers.place(0), DeviceOptions())
    if joined.rank:
        os.kill(os.getpid(), signal.SIGSTOP) if how == "stopped" else time.sleep(300)
    with workers.catch_lost_workers():
        joined.sum([1])


@needs_horovod
def test_a_worker_that_hangs_ends_the_job(tmp_path):
    """Two jobs at once, since they mostly wait."""
    jobs = []
    for how, gloo_timeout, words in (("stopped", 2, "another worker exited"),
                                     ("asleep", 300, "no answer from another worker for 2 s")):
        program = f"import test_workers; test_workers.hang_on_rank_1({how!r})"
        variables = {"HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "2" if gloo_timeout > 2 else "300",
                     "HOROVOD_GLOO_TIMEOUT_SECONDS": str(gloo_timeout), "ELECTRA_STATUS_FILE": str(tmp_path / how)}
        jobs.append((subprocess.Popen(**launch(2, ["-c", program], env=variables)), words))
    for job, words in jobs:
        output = job.communicate(timeout=180)[0]  # 7 s where nothing else runs
        assert job.returncode != 0 and words in output


def rank_process(parent, rank, script):
    """The process id of a rank of the job with TEST_JOB=`parent`."""
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
    """A long job of two workers: the process, and its output up to the line with `text`."""
    process = subprocess.Popen(**launch(2, ["run_pretraining.py", *flags_of(config, num_train_steps=5000,
                                                                            num_workers=2)], env=env))
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return process, output
    pytest.fail(output)


@needs_horovod
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_job_ends_when_a_worker_dies_and_can_be_resumed(pretraining_data, tmp_path):
    config = make_config(pretraining_data, tmp_path, log_freq=1, save_checkpoints_steps=3)
    process, output = start_and_wait(config, "saved", {"TEST_JOB": "dies"})
    os.kill(rank_process("dies", 1, b"run_pretraining.py"), signal.SIGKILL)
    killed = time.monotonic()
    rest = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and time.monotonic() - killed < 60, output + rest
    newest = Checkpoints(config.checkpoint_dir).newest(1)
    output = run_alone(["run_pretraining.py", *flags_of(config, num_train_steps=newest.step + 2,
                                                        restore_checkpoint="latest")])
    assert f"at step {newest.step}." in output
    assert Checkpoints(config.checkpoint_dir).newest(1).step == newest.step + 2


@needs_horovod
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_signal_to_one_worker_stops_all_workers_after_saving(pretraining_data, tmp_path):
    """In the middle of an update of many micro-batches, most likely."""
    config = make_config(pretraining_data, tmp_path, log_freq=1, save_checkpoints_steps=10_000,
                         gradient_accumulation_steps=40)
    status = tmp_path / "status"
    process, output = start_and_wait(config, "step 3/", {"TEST_JOB": "stops", "ELECTRA_STATUS_FILE": str(status)})
    os.kill(rank_process("stops", 1, b"run_pretraining.py"), signal.SIGTERM)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "signal to another worker" in rest, output + rest
    assert (tmp_path / "status.0").read_text() == "75\n"
    assert len(Checkpoints(config.checkpoint_dir).list()) == 1
