"""trackers: what TensorBoard, Weights & Biases and MLflow get; a tracker that fails ends nothing."""
from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import optimization
import run_log
import trackers
from configuration import Interrupted

SETTINGS = {"learning_rate": 0.006, "model_size": "tiny", "phase2": False, "seed": 7, "log_dir": None}
TABLE = (run_log.Metric("loss", "{}"), run_log.Metric("auc", "{}"))


def make_log(folder, step=0, tracker=None, **changes):
    given = dict(tracking=trackers.Tracking("base", SETTINGS, tracker))
    return run_log.RunLog("t", "phase 1", TABLE, lambda sums: {}, lambda step: 1.0, step, 10, 4,
                          str(folder / "phase1.jsonl"), str(folder / "x.png"), str(folder / "tb"), hide_bar=True,
                          **{**given, **changes})


def sums(loss):
    return {"loss": loss, "micro_batches": 1, "gradient_norm": 1.0, "updates": 1, "tokens": 10.0}


def train(log, *steps, error=None):
    try:
        with log:
            for step in steps:
                log.training(step, sums(float(step)))
                log.evaluation(step, {"auc": step / 10})
            if error:
                raise error
    except Exception as raised:
        assert raised is error


# --- TensorBoard ---


def events_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def text_of(events, tag):
    return b"".join(events.Tensors(tag)[-1].tensor_proto.string_val).decode()


def test_tensorboard_has_the_command_the_options_and_hyperparameters_beside_metrics(tmp_path):
    train(make_log(tmp_path), 1, 2)
    events = events_of(tmp_path / "tb")
    assert os.path.basename(sys.argv[0]) in text_of(events, "command")
    assert "| learning_rate | `0.006` |" in text_of(events, "configuration")
    content = [plugin_data_pb2.HParamsPluginData.FromString(value) for value in
               events.PluginTagToContent("hparams").values()]
    started = next(entry for entry in content if entry.HasField("session_start_info")).session_start_info
    assert started.hparams["learning_rate"].number_value == 0.006
    assert started.hparams["model_size"].string_value == "tiny"
    columns = next(entry for entry in content if entry.HasField("experiment")).experiment.metric_infos
    tags = {column.name.tag for column in columns}
    assert tags == {"train/loss", "eval/auc"} and tags <= set(events.Tags()["tensors"])


def test_histograms_are_of_the_weights_and_of_the_clipped_mean_gradient(tmp_path):
    weight = tf.Variable([3.0, 4.0], name="layer/kernel")
    optimizer = optimization.AdamW([weight], optimization.Schedule(0.1, 10, 0, 1.0, 0.0))
    gradients = {1: [6.0, 8.0], 2: [0.3, 0.4], 3: [0.0, 0.1], 4: [-0.5, 0.2]}

    def loss(features, seeds):
        return tf.reduce_sum(features["x"] * weight), {}

    step = optimization.TrainStep(loss, [], optimizer)
    writer = tf.summary.create_file_writer(str(tmp_path))
    histograms = trackers.Histograms(2, writer)
    for number, gradient in gradients.items():
        with histograms.of(number, step):
            step([({"x": tf.constant(gradient)}, tf.constant(0))])
    writer.flush()
    events = events_of(tmp_path)
    assert [entry.step for entry in events.Tensors("gradients/layer/kernel")] == [2, 4]
    for entry in events.Tensors("gradients/layer/kernel"):
        buckets = tf.make_ndarray(entry.tensor_proto)
        found = (buckets[0, 0], buckets[-1, 1])  # of the lowest and the highest
        np.testing.assert_allclose(found, sorted(gradients[entry.step]), rtol=1e-4)
    assert len(events.Tensors("weights/layer/kernel")) == 2


def test_no_histogram_costs_nothing(tmp_path):
    with trackers.Histograms(0, None).of(1, None), trackers.Histograms(5, None).of(4, None):
        pass  # neither the optimizer nor the writer is touched


# --- Others ---


class FakeWandb(types.ModuleType):
    """The part of wandb's interface that is used, which records its calls."""

    def __init__(self, calls):
        super().__init__("wandb")
        self.calls, self.error = calls, None
        self.Settings, self.api = dict, types.SimpleNamespace(api_key="k")
        self.__spec__ = importlib.util.spec_from_loader("wandb", None)

    def init(self, **options):
        if self.error:
            raise self.error
        self.calls.append(("init", options))
        return types.SimpleNamespace(
            define_metric=lambda *names, **options: self.calls.append(("define_metric", names, options)),
            log=lambda metrics: self.calls.append(("log", metrics)),
            finish=lambda exit_code: self.calls.append(("finish", exit_code)))


@pytest.fixture
def wandb(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    module = FakeWandb([])
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_tracker_gets_options_metrics_and_the_end(wandb, tmp_path):
    train(make_log(tmp_path, tracker="wandb"), 1, 2)
    (_, options), *calls = wandb.calls
    assert options["project"] == "electra" and options["group"] == "base" and options["name"] == "base phase 1"
    assert options["config"]["learning_rate"] == 0.006 and options["dir"] == str(tmp_path)
    logged = [call[1] for call in calls if call[0] == "log"]
    assert [entry["update"] for entry in logged] == [1, 1, 2, 2]
    assert logged[0]["train/loss"] == 1.0 and logged[3]["eval/auc"] == 0.2
    assert calls[-1] == ("finish", 0)


def test_a_resumed_run_continues_the_same_one_and_a_new_run_does_not(wandb, tmp_path):
    train(make_log(tmp_path, tracker="wandb"), 1, error=Interrupted("stopped"))
    assert wandb.calls[-1] == ("finish", 0)
    train(make_log(tmp_path, step=1, tracker="wandb"), 2, error=ValueError("x"))
    assert wandb.calls[-1] == ("finish", 1)
    train(make_log(tmp_path, tracker="wandb"), 1)
    first, second, third = [call[1] for call in wandb.calls if call[0] == "init"]
    assert first["id"] == second["id"] != third["id"] and second["resume"] == "allow"
    assert json.loads((tmp_path / "phase1_wandb.json").read_text()) == {"id": third["id"]}


def test_the_environment_names_project_and_folder(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_DIR", "/elsewhere")
    train(make_log(tmp_path, tracker="wandb"), 1)
    assert wandb.calls[0][1]["project"] == "mine" and wandb.calls[0][1]["dir"] is None


@pytest.mark.parametrize("where", ["start", "log"])
def test_a_tracker_that_fails_is_one_warning(where, wandb, tmp_path, monkeypatch, caplog):
    if where == "start":
        wandb.error = OSError("no route")
    else:
        def fails(self, step, metrics):
            raise OSError("no route")
        monkeypatch.setattr(trackers.Wandb, "log", fails)
    train(make_log(tmp_path, tracker="wandb"), 1, 2)
    assert caplog.text.count("--tracker=wandb") == 1 and "no route" in caplog.text
    assert len(run_log.read_metrics_log(str(tmp_path / "phase1.jsonl"))) == 4


def test_a_slow_tracker_delays_nothing_and_is_left_behind(wandb, tmp_path, monkeypatch, caplog):
    waiting = threading.Event()
    monkeypatch.setattr(trackers.Wandb, "log", lambda self, step, metrics: waiting.wait(30))
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.1)
    train(make_log(tmp_path, tracker="wandb"), 1, 2)
    waiting.set()
    assert "did not end within 0.1 s" in caplog.text


def test_only_rank_0_tracks(wandb, tmp_path):
    train(make_log(tmp_path, tracker="wandb", writes=False), 1)
    assert not wandb.calls and not os.listdir(tmp_path)


def test_a_tracker_that_is_not_installed_or_not_logged_in_is_refused(wandb, monkeypatch, refuses):
    trackers.check(None)
    trackers.check("wandb")
    wandb.api.api_key = None
    assert "wandb login" in refuses(trackers.check, "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trackers.check("wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = refuses(trackers.check, "mlflow")
    assert "--tracker=mlflow" in text and "pip install mlflow" in text


# --- The packages themselves, where they are installed ---


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trackers.check("wandb")
    train(make_log(tmp_path, tracker="wandb"), 1, 2)
    train(make_log(tmp_path, step=2, tracker="wandb"), 3)
    identity = json.loads((tmp_path / "phase1_wandb.json").read_text())["id"]
    written = [path for path in (tmp_path / "wandb").glob("offline-run-*") if path.name.endswith(identity)]
    assert written and all(list(path.glob("*.wandb")) for path in written)


def test_mlflow_in_local_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # releases from 3.10 on want it said
    trackers.check("mlflow")
    train(make_log(tmp_path, tracker="mlflow"), 1, 2, error=Interrupted("stopped"))
    train(make_log(tmp_path, step=2, tracker="mlflow"), 3)
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("electra").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["learning_rate"] == "0.006"
    assert [entry.step for entry in client.get_metric_history(run.info.run_id, "eval/auc")] == [1, 2, 3]
