"""Checks that interrupted runs equal an uninterrupted one, bit for bit. Takes about ten minutes on two cores.

    bash scripts/electra.sh cpu --electra_model=tiny --model_name=trial    # once, makes .venv and the sample data
    .venv/bin/python scripts/check_resume.py

Runs 60 + 30 updates of `tiny` (dropout, 3 micro-batches per update, more than one epoch in each phase): once through,
once killed with -9 at three random moments of each phase, once with SIGTERM and once with SIGINT in each phase, and
compares every tensor of the final checkpoints. Exit status 0 where all are equal.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from checkpoints import Checkpoints
from deferred import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARD = "data/sample/tfrecord/seq_len_{}/train-00000-of-00004.tfrecord"
FINAL = ("ckpt-60", "ckpt-p2-30")


def phase_commands(results_dir: str):
    """The two commands of scripts/electra.sh for this check."""
    call = ["bash", "scripts/electra.sh", "cpu", "--dry_run", "--electra_model=tiny", f"--results_dir={results_dir}",
            "--train_steps_p1=60", "--train_steps_p2=30", "--gradient_accumulation_steps_p1=3",
            "--gradient_accumulation_steps_p2=3", "--train_batch_size_p1=10", "--train_batch_size_p2=5",
            "--save_checkpoint_steps=7", f"--data_dir_p1={SHARD.format(128)}", f"--data_dir_p2={SHARD.format(512)}"]
    lines = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True,
                           env={**os.environ, "PYTHON": sys.executable}).stdout.splitlines()
    return [shlex.split(line[len("running:"):]) for line in lines if line.startswith("running:")]


def run(command, interruption=None, delay: float = 0.0) -> int:
    """Runs a phase; sends the signal `interruption` `delay` seconds after the first logged update."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if line.startswith("step ") and interruption:
            time.sleep(delay)
            process.send_signal(interruption)
            break
    process.stdout.read()
    return process.wait()


def interrupted_run(results_dir: str, interruptions, generator: random.Random):
    checkpoints = Checkpoints(os.path.join(results_dir, "models", "tiny", "checkpoints"))
    for phase, command in enumerate(phase_commands(results_dir), start=1):
        for interruption in [*interruptions, None]:
            resume = [] if phase == 2 or not checkpoints.list(1) else ["--restore_checkpoint=latest"]
            delay = generator.uniform(0, 6)
            status = run([*command, *resume], interruption, delay)
            expected = {None: (0,), signal.SIGKILL: (-signal.SIGKILL, 0)}.get(interruption, (75, 0))
            newest = checkpoints.list(phase)[-1:]
            print(f"  phase {phase}: {interruption.name if interruption else 'to the end'}"
                  f"{f' after {delay:.2f} s' if interruption else ''}, status {status}, "
                  f"newest checkpoint {os.path.basename(newest[0].prefix) if newest else 'none'}", flush=True)
            if status not in expected:
                sys.exit(f"unexpected exit status {status}")


def tensors(results_dir: str, name: str):
    reader = tf.train.load_checkpoint(os.path.join(results_dir, "models", "tiny", "checkpoints", name))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()
            if key.startswith(("model/", "optimizer/"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments")
    generator = random.Random(parser.parse_args().seed)
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = os.path.join(folder, "whole")
        print("uninterrupted:")
        interrupted_run(whole, [], generator)
        for name, interruptions in (("killed", [signal.SIGKILL] * 3), ("terminated", [signal.SIGTERM]),
                                    ("ctrl-c", [signal.SIGINT])):
            print(f"{name}:")
            interrupted_run(os.path.join(folder, name), interruptions, generator)
            for final in FINAL:
                expected, actual = tensors(whole, final), tensors(os.path.join(folder, name), final)
                unequal = [key for key in expected if not np.array_equal(expected[key], actual.get(key))]
                different += len(unequal)
                print(f"  {final}: {len(expected) - len(unequal)} of {len(expected)} tensors equal bit for bit")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
