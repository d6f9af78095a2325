"""Folders of runs for tests, without training: what the commands write, with a curve that is known."""
from __future__ import annotations

import dataclasses
import json

from pretraining_options import PretrainingConfig


def entries(steps, every=1, evaluations=4):
    """Lines of a log: the loss falls from 10 to 5."""
    for step in range(every, steps + 1, every):
        yield {"step": step, "kind": "train", "loss": 10 - 5 * step / steps, "generator_loss": 8 - step / steps,
               "generator_accuracy": 0.1 + 0.2 * step / steps, "learning_rate": 1e-3, "gradient_norm": 2.0,
               "sequences_per_second": 50.0, "tokens_per_second": 4000.0, "model_flops_per_second": 1e9}
        if step % max(1, steps // evaluations) == 0:
            yield {"step": step, "kind": "eval", "generator_loss": 8.5 - step / steps, "discriminator_loss": 0.1,
                   "generator_accuracy": 0.3, "discriminator_auc": 0.9}


def pretraining(folder, steps=(40, 20), history=True, **options):
    """A run of pre-training with a phase for each number of steps."""
    logs = folder / "logs"
    logs.mkdir(parents=True)
    for number, count in enumerate(steps, 1):
        config = PretrainingConfig(pretrain_tfrecords="data", num_train_steps=count, num_warmup_steps=1,
                                   phase2=number == 2, model_size="tiny", **options)
        (logs / f"configuration_phase{number}.json").write_text(json.dumps({
            "config": dataclasses.asdict(config), "data": [["a.tfrecord", 100], ["b.tfrecord", 60]],
            "device": "cpu (2 cores)", "world_size": 2, "environment": {"tensorflow": "2.15.1", "processor": "x"}}))
        (logs / f"pretraining_phase{number}.jsonl").write_text(
            "".join(json.dumps(entry) + "\n" for entry in entries(count)))
    if history:
        about = dict(phase=1, host="one", pid=0, device="cpu", workers=2, code="abc123", versions={"python": "3.11.7"},
                     command=["python", "run_pretraining.py", "--model_name=<b>"], num_train_steps=steps[0])
        lines = [dict(event="start", time="2026-01-01T10:00:00+00:00", session="a", step=0, **about),
                 dict(event="end", time="2026-01-01T10:01:00+00:00", session="a", step=10, reason="stopped",
                      message="stopped by SIGTERM"),
                 dict(event="start", time="2026-01-01T10:05:00+00:00", session="b", step=10, **about),
                 dict(event="end", time="2026-01-01T10:06:30+00:00", session="b", step=steps[0], reason="finished")]
        (logs / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def fine_tuning(folder, steps=20):
    logs = folder / "logs"
    logs.mkdir(parents=True)
    (logs / "configuration.json").write_text(json.dumps({"config": {"joint_head": True, "learning_rate": 1e-4}}))
    (logs / "squad.jsonl").write_text("".join(json.dumps(
        {"step": step, "kind": "train", "loss": 5 - step / steps}) + "\n" for step in range(1, steps + 1)))
    (folder / "results.json").write_text(json.dumps({"f1": 88.25, "exact_match": 80.5, "model": "x"}))
    return folder


def sweep(folder):
    folder.mkdir(parents=True)
    rows = ["run,checkpoint,phase,step,seed,EM,F1,seconds"]
    rows += [f"base,ckpt-{step},1,{step},{seed},{50 + seed},{60 + step / 10 + seed},9" for step in (10, 20)
             for seed in (1, 2, 3)]
    (folder / "sweep.csv").write_text("\n".join([*rows, "base,ckpt-p2-5,2,5,1,60,70,9"]) + "\n")
    return folder
