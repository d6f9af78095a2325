#!/usr/bin/env python3
"""The sweep behind scripts/finetune_ckpts_on_squad.sh: exports and fine-tunes every checkpoint, and tabulates.

    python scripts/sweep_squad.py --checkpoints=DIR,DIR --seeds=1,2,3 --out_dir=results/squad_sweep -- [electra_squad.sh
        options]

For each checkpoint and seed <out_dir>/<run>-<checkpoint>/seed-<seed>/ holds what run_tf_squad.py writes, and sweep.json
once it is finished; exported/ beside it the Hugging Face folders.
"""
from __future__ import annotations

import csv
import dataclasses
import glob
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from absl import flags  # noqa: E402  (found through the line above, like the rest)

import configuration  # noqa: E402
import training  # noqa: E402
from configuration import Interrupted, RunFailed, UserError, option  # noqa: E402


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    checkpoints: Optional[str] = option(None, "folders of checkpoints, separated by commas")
    seeds: str = option("1", "seeds, separated by commas")
    device: Optional[str] = option(None, "device (default: the one that the checkpoint was trained on)")
    out_dir: str = option("results/squad_sweep", "folder of the sweep")


class Job(NamedTuple):
    """One fine-tuning."""

    run: str
    checkpoint: training.Checkpoint
    seed: int
    folder: str

    @property
    def name(self) -> str:
        return os.path.basename(self.checkpoint.prefix)


def plan(config: SweepConfig) -> List[Job]:
    """Every checkpoint, folder by folder, phase 1 before phase 2, by step. Raises: UserError: a folder without one."""
    seeds = config.seeds.split(",")
    if not all(re.fullmatch("[0-9]+", seed) for seed in seeds):
        raise UserError(f"--seeds={config.seeds} must be whole numbers separated by commas: give some, such as 1,2,3.")
    jobs = []
    for folder in filter(None, config.checkpoints.split(",")):
        found = training.Checkpoints(folder).list()
        if not found:
            raise UserError(f"checkpoints={folder} holds no checkpoint: name folders such as "
                            "results/models/base/checkpoints.")
        run = os.path.basename(os.path.dirname(os.path.abspath(folder)))
        for checkpoint in found:
            for seed in seeds:
                target = os.path.join(config.out_dir, f"{run}-{os.path.basename(checkpoint.prefix)}", f"seed-{seed}")
                jobs.append(Job(run, checkpoint, int(seed), target))
    if len({job.folder for job in jobs}) < len(jobs):
        raise UserError("checkpoints names two runs of the same name, or a seed twice: sweep them into different "
                        "--out_dir.")
    return jobs


class Stop:
    """SIGTERM and SIGINT go to the running fine-tuning; the sweep ends after it."""

    def __init__(self):
        self.asked, self.child = False, None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number, frame):
        self.asked = True
        if self.child is not None:
            self.child.terminate()

    def run(self, command: List[str], environment: Optional[dict] = None) -> int:
        if self.asked:
            return 75
        self.child = subprocess.Popen(command, env=environment)
        if self.asked:  # the signal came while the process started
            self.child.terminate()
        status = self.child.wait()
        self.child = None
        return status


def fine_tune(job: Job, config: SweepConfig, arguments: List[str], stop: Stop) -> int:
    """Exports the checkpoint and fine-tunes it. Returns: 0, or the status of what failed."""
    exported = os.path.join(os.path.dirname(job.folder), "exported")
    try:
        state = training.read_state(job.checkpoint.prefix)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_status
    if state.get("task") == "squad":
        print(f"{job.checkpoint.prefix} is fine-tuned already: name folders of pre-training checkpoints.",
              file=sys.stderr, flush=True)
        return UserError.exit_status
    if not os.path.isdir(exported):
        for unfinished in glob.glob(glob.escape(exported) + ".tmp*"):  # of an export that was stopped
            shutil.rmtree(unfinished)
        status = stop.run([sys.executable, os.path.join(ROOT, "postprocess_pretrained_ckpt.py"),
                           f"--pretrained_checkpoint={job.checkpoint.prefix}", f"--output_dir={exported}"])
        if status:
            return status
    weights = next((os.path.join(exported, kind) for kind in ("discriminator", "generator")
                    if os.path.isdir(os.path.join(exported, kind))), None)
    device = config.device or state["device"]
    started = time.monotonic()
    status = stop.run(["bash", os.path.join(ROOT, "scripts", "electra_squad.sh"), f"--device={device}",
                       f"--seed={job.seed}", f"--init_checkpoint={weights}", f"--out_dir={job.folder}", *arguments],
                      {**os.environ, "PYTHON": sys.executable})
    if status == 0:
        with open(os.path.join(job.folder, "results.json"), encoding="utf-8") as file:
            results = json.load(file)
        configuration.write_json(os.path.join(job.folder, "sweep.json"), {
            "arguments": arguments, "run": job.run, "checkpoint": job.name, "phase": job.checkpoint.phase,
            "step": job.checkpoint.step, "seed": job.seed, "seconds": round(time.monotonic() - started, 1),
            "EM": results.get("exact_match", results.get("exact")), "F1": results["f1"],
            **({"best F1": results["best_f1"]} if "best_f1" in results else {})})
    return status


def finished(job: Job) -> Optional[dict]:
    path = os.path.join(job.folder, "sweep.json")
    return configuration.read_json_object(path) if os.path.exists(path) else None


# --- The table and the plot ---

COLUMNS = ("run", "checkpoint", "phase", "step", "seed", "EM", "F1", "best F1", "seconds")


def table(rows: List[dict]) -> str:
    """The rows, and below them, where there are several seeds, median and spread of each checkpoint."""
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    lines = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines) + "\n"
    groups = by_checkpoint(rows)
    if any(len(group) > 1 for group in groups.values()):
        text += "\n" + "\n".join(
            f"{name}: F1 median {statistics.median(row['F1'] for row in group):.2f}, "
            f"{min(row['F1'] for row in group):.2f} to {max(row['F1'] for row in group):.2f} ({len(group)} seeds)"
            for name, group in groups.items()) + "\n"
    return text


def _cell(value) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def by_checkpoint(rows: List[dict]) -> Dict[str, List[dict]]:
    groups: Dict[str, List[dict]] = {}
    for row in rows:
        groups.setdefault(f"{row['run']} {row['checkpoint']}", []).append(row)
    return groups


def write_tables(rows: List[dict], out_dir: str):
    """sweep.txt, sweep.csv and sweep.png."""
    if not rows:
        return
    configuration.write_text(os.path.join(out_dir, "sweep.txt"), table(rows))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    configuration.write_text(os.path.join(out_dir, "sweep.csv"), buffer.getvalue())

    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for run in dict.fromkeys(row["run"] for row in rows):
        groups = [group for group in by_checkpoint(rows).values() if group[0]["run"] == run]
        first_phase = max([group[0]["step"] for group in groups if group[0]["phase"] == 1], default=0)
        steps = [group[0]["step"] + (first_phase if group[0]["phase"] == 2 else 0) for group in groups]
        medians = [statistics.median(row["F1"] for row in group) for group in groups]
        low = [median - min(row["F1"] for row in group) for median, group in zip(medians, groups)]
        high = [max(row["F1"] for row in group) - median for median, group in zip(medians, groups)]
        axis.errorbar(steps, medians, yerr=[low, high], marker="o", capsize=3, label=run)
    axis.set(xlabel="pre-training updates (phase 2 after phase 1)", ylabel="F1", title="SQuAD by checkpoint")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    temporary = os.path.join(out_dir, f"sweep.png.tmp{os.getpid()}")
    figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    os.replace(temporary, os.path.join(out_dir, "sweep.png"))


def main(argv):
    split = argv.index("--") if "--" in argv else len(argv)
    arguments = argv[split + 1:]
    flag_values = flags.FlagValues()
    configuration.define_flags(flag_values, SweepConfig)
    configuration.parse_command_line(argv[:split], flag_values, __doc__.split("\n\n    ")[0])
    config = configuration.from_flags(SweepConfig, flag_values)
    if not config.checkpoints:
        raise UserError("--checkpoints is missing: name one or more folders of checkpoints.")
    jobs = plan(config)
    for job in jobs:
        found = finished(job)
        if found and found["arguments"] != arguments:
            theirs = " ".join(found["arguments"]) or "none"
            raise UserError(f"{job.folder} was fine-tuned with other options ({theirs}): name another --out_dir, or "
                            "delete it.")
    stop, rows, failed = Stop(), [], []
    os.makedirs(config.out_dir, exist_ok=True)
    for number, job in enumerate(jobs, 1):
        row = finished(job)
        print(f"[{number}/{len(jobs)}] {job.run} {job.name}, seed {job.seed}" + (": done before" if row else ""),
              flush=True)
        status = 0 if row else fine_tune(job, config, arguments, stop)
        if status == 75 or stop.asked:
            write_tables(rows, config.out_dir)
            raise Interrupted(f"the sweep was stopped at {job.run} {job.name} (seed {job.seed}), {len(rows)} of "
                              f"{len(jobs)} are done; the same call goes on.")
        if status:
            failed.append(f"{job.run} {job.name} (seed {job.seed}, status {status})")
            print(f"failed: {failed[-1]}; the sweep goes on.", file=sys.stderr, flush=True)
        else:
            rows.append(row or finished(job))
        write_tables(rows, config.out_dir)
    if rows:
        print(table(rows), end="")
        print(f"The same in {config.out_dir}: sweep.txt, sweep.csv, sweep.png.")
    if failed:
        raise RunFailed(f"{len(failed)} of {len(jobs)} fine-tunings failed: {', '.join(failed)}.")


if __name__ == "__main__":
    configuration.run_command(main)
