"""What trackers show of a run beside its curves: TensorBoard, and with --tracker Weights & Biases or MLflow.

TensorBoard gets the command and the options as text, the options as hyperparameters (its HPARAMS tab shows them beside
the metrics), and with --histograms those of weights and gradients. The other trackers are separate packages, which are
called from a thread of their own: a slow or unreachable server neither delays nor ends a training. Their environment
variables and offline modes work as they document them (WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, ...). A resumed
run continues its tracker's run, whose id is kept beside the log of metrics. Only rank 0 calls anything here.
"""
from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import secrets
import shlex
import sys
import threading
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

from absl import logging

import configuration
import files
from configuration import UserError, in_short
from deferred import tensorflow as tf

PROJECT = "electra"  # of Weights & Biases, and experiment of MLflow, unless the environment names another
FINISH_SECONDS = 60  # how long the end of a training waits for a tracker


class Tracking(NamedTuple):
    """What a command tells about its run."""

    group: str = ""  # the runs of one model: both phases of a pre-training
    settings: Dict[str, object] = {}  # option -> value
    tracker: Optional[str] = None  # see CLIENTS
    histograms: int = 0  # updates between two histograms of weights and gradients; 0: none


class Start(NamedTuple):
    """What a tracker is started with."""

    name: str
    group: str
    settings: Dict[str, object]
    command: str
    folder: str  # for files that the tracker keeps
    known_id: Optional[str] = None  # of the run to continue


# --- TensorBoard ---


def describe_on_tensorboard(tracking: Tracking, metrics: Iterable[str], step: int):
    """Writes the command and options of a run to the default summary writer.

    Args:
        metrics: tags of the scalars that the HPARAMS tab has columns for.
        step: updates done before.
    """
    rows = "\n".join(f"| {name} | `{value}` |" for name, value in tracking.settings.items())
    tf.summary.text("command", f"```\n{command_line()}\n```", step=step)
    tf.summary.text("configuration", f"| option | value |\n|---|---|\n{rows}", step=step)
    try:
        from tensorboard.plugins.hparams import api
    except ImportError:  # TensorFlow from 2.20 on does without TensorBoard
        return
    plain = {name: value if isinstance(value, (bool, int, float, str)) else str(value)
             for name, value in tracking.settings.items()}
    api.hparams_config(hparams=[api.HParam(name) for name in plain], metrics=[api.Metric(tag) for tag in metrics])
    api.hparams(plain)  # a row for each phase


def command_line() -> str:
    return shlex.join([os.path.basename(sys.executable or "python"), *sys.argv])


class Histograms:
    """Histograms of all weights, and of their gradients, averaged and clipped, at every so many updates.

    The gradient follows from the first moments before and after the update, so that nothing is computed or kept at
    other updates.
    """

    def __init__(self, every: int, writer):
        self.every, self.writer = every, writer

    @contextlib.contextmanager
    def of(self, step: int, train_step):
        """The block is update `step`. `train_step`: an optimization.TrainStep."""
        if not self.every or step % self.every:
            yield
            return
        optimizer, done = train_step.optimizer, train_step.step_done()  # which waits for earlier updates
        before = [moment.numpy() for moment in optimizer.first_moments]
        yield
        if train_step.step_done() == done:  # this update was not applied
            return
        with self.writer.as_default():
            for variable, moment, previous in zip(optimizer.trained, optimizer.first_moments, before):
                name = variable.name.split(":")[0]
                gradient = (moment.numpy() - optimizer.beta_1 * previous) / (1 - optimizer.beta_1)
                tf.summary.histogram(f"weights/{name}", variable, step=step)
                tf.summary.histogram(f"gradients/{name}", gradient, step=step)


# --- Weights & Biases, MLflow ---


class Wandb:
    """A run of Weights & Biases. `start` returns its id."""

    def start(self, start: Start) -> str:
        import wandb
        folder = None if os.environ.get("WANDB_DIR") else start.folder
        identity = start.known_id or secrets.token_hex(4)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=identity, resume="allow", name=start.name,
            group=start.group, config={**start.settings, "command": start.command}, allow_val_change=True, dir=folder,
            settings=wandb.Settings(console="off"))  # it would redirect the console
        # Steps may be logged twice, after a resume, which its own count of steps does not allow.
        self.run.define_metric("*", step_metric="update")
        return identity

    def log(self, step: int, metrics: Dict[str, float]):
        self.run.log({"update": step, **metrics})

    def finish(self, reason: str):
        self.run.finish(exit_code=1 if reason == "failed" else 0)


class Mlflow:
    """A run of MLflow. `start` returns its id."""

    LONGEST = 500  # of a parameter's value, in characters, in older releases
    STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

    def start(self, start: Start) -> str:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient
        self.client = MlflowClient()
        if start.known_id:
            self.client.update_run(start.known_id, status="RUNNING")
            self.id = start.known_id
            return self.id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        tags = {"group": start.group, "command": start.command[:self.LONGEST]}
        self.id = self.client.create_run(experiment_id, run_name=start.name, tags=tags).info.run_id
        settings = list(start.settings.items())
        for first in range(0, len(settings), 100):  # as many as one call takes
            self.client.log_batch(self.id, params=[Param(key, str(value)[:self.LONGEST])
                                                   for key, value in settings[first:first + 100]])
        return self.id

    def log(self, step: int, metrics: Dict[str, float]):
        from mlflow.entities import Metric
        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()])

    def finish(self, reason: str):
        self.client.set_terminated(self.id, status=self.STATUSES.get(reason, "FAILED"))


CLIENTS = {"wandb": Wandb, "mlflow": Mlflow}


def check(name: Optional[str]):
    """Raises: UserError: the package of a tracker is not installed, or nobody is logged in."""
    if name is None:
        return
    if importlib.util.find_spec(name) is None:
        raise UserError(f"--tracker={name}: the package {name} is not installed: install it with `{sys.executable} -m "
                        f"pip install {name}`, or omit --tracker.")
    if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online" and not os.environ.get("WANDB_API_KEY"):
        import wandb
        if not getattr(getattr(wandb, "api", None), "api_key", None):
            raise UserError("--tracker=wandb: nobody is logged in: run `wandb login`, or set WANDB_API_KEY, or "
                            "WANDB_MODE=offline.")


class Background:
    """Calls a tracker in a thread of its own, in order. Its errors are one warning; after a failed start it is idle.

    Args:
        name: of CLIENTS.
        id_file: keeps the id of the tracker's run.
        resumes: whether this process continues the run of that id.
    """

    WAITING = 10_000  # calls that wait for the tracker; later ones are dropped

    def __init__(self, name: str, start: Start, id_file: str, resumes: bool):
        self.name, self.id_file = name, id_file
        self._client, self._calls, self._warned = CLIENTS[name](), queue.Queue(self.WAITING), False
        self._thread = threading.Thread(target=self._work, args=[start._replace(
            known_id=self._known() if resumes else None)], name=f"tracker {name}", daemon=True)
        self._thread.start()

    def _known(self) -> Optional[str]:
        try:
            return configuration.read_record(self.id_file, "delete it", id=str)["id"]
        except UserError:  # a run that was started without the tracker
            return None

    def _work(self, start: Start):
        try:
            identity = self._client.start(start)
            files.write_json(self.id_file, {"id": identity})
        except Exception as error:
            return self._warn(f"was not started ({in_short(error)})")
        while True:
            method, arguments = self._calls.get()
            try:
                getattr(self._client, method)(*arguments)
            except Exception as error:
                self._warn(f"failed ({in_short(error)})")
            if method == "finish":
                return

    def _warn(self, what: str):
        if not self._warned:
            self._warned = True
            logging.warning("warning: --tracker=%s %s: training continues, and the log has all metrics.", self.name,
                            what)

    def log(self, step: int, metrics: Dict[str, float]):
        try:
            self._calls.put_nowait(("log", (step, metrics)))
        except queue.Full:
            if self._thread.is_alive():
                self._warn("is too slow")

    def finish(self, reason: str):
        """Waits until all has been sent, for up to FINISH_SECONDS. `reason`: finished, stopped or failed."""
        with contextlib.suppress(queue.Full):
            self._calls.put_nowait(("finish", (reason,)))
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn(f"did not end within {FINISH_SECONDS} s")


class Silent:
    """In place of a tracker that is not asked for."""

    def log(self, step: int, metrics: Dict[str, float]):
        pass

    def finish(self, reason: str):
        pass


def open_tracker(tracking: Tracking, name: str, json_file: str, resumes: bool):
    """The tracker of a run, started. `json_file`: its log of metrics, beside which ids and files are kept."""
    if tracking.tracker is None:
        return Silent()
    stem = os.path.splitext(os.path.abspath(json_file))[0]
    title = f"{tracking.group} {name}".strip()
    start = Start(title, tracking.group, {key: _plain(value) for key, value in tracking.settings.items()},
                  command_line(), os.path.dirname(stem))
    return Background(tracking.tracker, start, f"{stem}_{tracking.tracker}.json", resumes)


def _plain(value):
    return value if isinstance(value, (bool, int, float, str)) or value is None else json.dumps(value)


def scalar_tags(table: Iterable[Tuple[str, ...]]) -> List[str]:
    """The held-out metrics of a table of run_log.Metric, and the loss, as TensorBoard's tags."""
    return ["train/loss", *(f"eval/{metric.name}" for metric in table if metric.name not in (
        "loss", "learning_rate", "gradient_norm"))]
