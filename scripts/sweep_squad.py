#!/usr/bin/env python3
"""The sweep behind scripts/finetune_ckpts_on_squad.sh: exports and fine-tunes every checkpoint, and tabulates.

    python scripts/sweep_squad.py --checkpoints=DIR,DIR --seeds=1,2,3 --out_dir=results/squad_sweep -- [electra_squad.sh
        options]

For each checkpoint and seed <out_dir>/<run>-<checkpoint>/seed-<seed>/ holds what run_tf_squad.py writes, and sweep.json
once it is finished. Beside it, exported/ has the Hugging Face folders, and checkpoint.json says which checkpoint they
are of, by content. The table has every finished fine-tuning of the runs that are named, also where pre-training has
deleted the checkpoint since.

Disk: an export takes the size of the weights, a fine-tuned checkpoint three times that of the discriminator (base: 0.5
and 1.3 GB). One fine-tuned checkpoint is kept of each fine-tuning; the running one has up to three. The first line
printed says how much is needed.
"""
from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Optional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "scripts")]

from recipe import SweepConfig  # noqa: E402  (found through the line above, like the rest)

import command_line  # noqa: E402

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that TensorFlow takes
    command_line.refuse_early(SweepConfig, __doc__, resumable=True)

import recipe  # noqa: E402
import tensorflow as tf  # noqa: E402

import configuration  # noqa: E402
import files  # noqa: E402
from checkpoints import (  # noqa: E402
    Checkpoint,
    Checkpoints,
    checkpoint_fingerprint,
    find_checkpoint,
    read_state,
    remove_checkpoint,
    shapes,
)
from configuration import Interrupted, RunFailed, SquadConfig, UserError  # noqa: E402


class Job(NamedTuple):
    """One fine-tuning."""

    run: str
    checkpoint: Checkpoint
    seed: int
    folder: str

    @property
    def name(self) -> str:
        return os.path.basename(self.checkpoint.prefix)

    @property
    def exported(self) -> str:
        return os.path.join(os.path.dirname(self.folder), "exported")

    @property
    def record(self) -> str:
        """File that says of which checkpoint the folder is."""
        return os.path.join(os.path.dirname(self.folder), "checkpoint.json")

    @property
    def fine_tuned(self) -> Checkpoints:
        return Checkpoints(os.path.join(self.folder, "checkpoints"))


def named(name: str) -> List[Checkpoint]:
    """All checkpoints of a folder or a run, or the one that `name` stands for (see `checkpoints.find_checkpoint`)."""
    for folder in (name, os.path.join(name, "checkpoints")):
        if Checkpoints(folder).list():
            return Checkpoints(folder).list()
    prefix = find_checkpoint(name)
    return [found for found in Checkpoints(os.path.dirname(prefix)).list() if found.prefix == prefix] if prefix else []


def plan(config: SweepConfig) -> List[Job]:
    """Every checkpoint, folder by folder, phase 1 before phase 2, by step. Raises: UserError: a folder without one."""
    seeds = config.seeds.split(",")
    jobs = []
    for name in filter(None, config.checkpoints.split(",")):
        found = named(name)
        if not found:
            raise UserError(f"--checkpoints: {name} contains no checkpoints: give folders such as "
                            "results/models/base/checkpoints.")
        for checkpoint in found:
            run = os.path.basename(os.path.dirname(os.path.dirname(os.path.abspath(checkpoint.prefix))))
            for seed in seeds:
                target = os.path.join(config.out_dir, f"{run}-{os.path.basename(checkpoint.prefix)}", f"seed-{seed}")
                jobs.append(Job(run, checkpoint, int(seed), target))
    if len({job.folder for job in jobs}) < len(jobs):
        raise UserError("--checkpoints contains two runs of the same name, or --seeds a seed twice: use a different "
                        "--out_dir for each run.")
    return jobs


# --- Checks before anything is run ---


class Content(NamedTuple):
    """What a checkpoint of pre-training holds."""

    state: dict
    fingerprint: str  # of every tensor
    size: int  # bytes of the weights
    fine_tuned_size: int  # bytes of those that are fine-tuned


def look_at(jobs: List[Job]) -> Dict[str, Content]:
    """The contents of the checkpoints by prefix, without those that cannot be read: fine_tune reports them."""
    contents = {}
    for prefix in dict.fromkeys(job.checkpoint.prefix for job in jobs):
        try:
            state, tensors, digest = read_state(prefix), shapes(prefix), checkpoint_fingerprint(prefix)
        except (UserError, OSError, tf.errors.OpError):  # a running pre-training may delete it meanwhile
            continue
        sizes = {name: 4 * math.prod(shape) for name, shape in tensors.items() if name.startswith("model/")}  # float32
        has_discriminator = any(name.startswith("model/encoder/") for name in sizes)
        fine_tuned = sum(size for name, size in sizes.items()
                         if not (has_discriminator and name.startswith("model/generator")))
        contents[prefix] = Content(state, digest, sum(sizes.values()), fine_tuned)
    return contents


def refuse_other_contents(jobs: List[Job], contents: Dict[str, Content]):
    """Raises UserError where a folder holds the export or fine-tunings of another checkpoint of the same name."""
    for job in jobs:
        folder = os.path.dirname(job.folder)
        used = os.path.exists(job.exported) or glob.glob(os.path.join(glob.escape(folder), "seed-*"))
        theirs = read_if_there(job.record)
        if used and job.checkpoint.prefix in contents and (
                not theirs or theirs["fingerprint"] != contents[job.checkpoint.prefix].fingerprint):
            raise UserError(f"{folder} was made from another {job.name} than {job.checkpoint.prefix} now is: name "
                            "another --out_dir, or delete it.")


def finished_rows(config: SweepConfig, jobs: List[Job], arguments: List[str]) -> Dict[str, dict]:
    """The rows of finished fine-tunings in out_dir of the runs that are swept, by folder: those of jobs, and earlier
    ones of other seeds or of checkpoints that are no longer there, which have `gone`.

    Raises: UserError: one with other options, or of another run of the same name.
    """
    folders = {job.folder for job in jobs}
    place_of = {job.run: os.path.dirname(job.checkpoint.prefix) for job in jobs}
    rows = {}
    for file in sorted(glob.glob(os.path.join(glob.escape(config.out_dir), "*", "seed-*", "sweep.json"))):
        folder = os.path.dirname(file)
        row = configuration.read_json_object(file)
        if row["run"] not in place_of:
            continue
        if row["arguments"] != deciding(arguments):
            theirs = " ".join(row["arguments"]) or "none"
            raise UserError(f"{folder} was fine-tuned with other options ({theirs}): choose another --out_dir, or "
                            "delete it.")
        record = read_if_there(os.path.join(os.path.dirname(folder), "checkpoint.json"))
        if folder not in folders and record:
            theirs = os.path.dirname(record["checkpoint"])
            if os.path.isdir(theirs) and not os.path.samefile(theirs, place_of[row["run"]]):
                raise UserError(f"{folder} was made from {record['checkpoint']}, of another run of the same name: name "
                                "another --out_dir, or delete it.")
            if not os.path.exists(record["checkpoint"] + ".index"):
                row["gone"] = "yes"
        rows[folder] = row
    return rows


def deciding(arguments: List[str]) -> List[str]:
    """Those arguments of a fine-tuning that may change its result."""
    return [word for word in arguments if not word.startswith(("--max_restarts=", "--min_workers="))]


def read_if_there(path: str) -> Optional[dict]:
    return configuration.read_json_object(path) if os.path.exists(path) else None


def check_disk(config: SweepConfig, squad: SquadConfig, left: List[Job], contents: Dict[str, Content]):
    """Prints how much disk space the remaining fine-tunings need. Raises: UserError: there is less.

    That is an export of each checkpoint, and its fine-tuned checkpoints, which have two moments beside the weights: of
    each fine-tuning those that are kept, of the running one all that it writes.
    """
    def missing(job, count):
        size = 0 if squad.skip_checkpoint else 3 * contents[job.checkpoint.prefix].fine_tuned_size
        return size * max(0, count - len(job.fine_tuned.list()))

    left = [job for job in left if job.checkpoint.prefix in contents]
    exports = {job.exported: contents[job.checkpoint.prefix].size for job in left if not os.path.isdir(job.exported)}
    kept = [missing(job, config.keep_checkpoint_max) for job in left]
    while_running = [missing(job, squad.keep_checkpoint_max + 1) - size for job, size in zip(left, kept)]
    needed = sum(exports.values()) + sum(kept) + max(while_running)
    folder = os.path.abspath(config.out_dir)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    sizes = f"{needed / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free"
    if free < needed:
        raise UserError(f"--out_dir={config.out_dir} needs {sizes}: make room, lower --keep_checkpoint_max, or name "
                        "another --out_dir.")
    print(f"{len(left)} fine-tunings to run; {config.out_dir} needs {sizes}.", flush=True)


# --- The fine-tunings ---


class Stop:
    """SIGTERM and SIGINT go to the running fine-tuning; the sweep ends after it. SIGUSR1 (save) goes there too."""

    def __init__(self):
        self.asked, self.child = False, None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        signal.signal(signal.SIGUSR1, self._pass_on)

    def _pass_on(self, number, frame):
        if self.child is not None:
            self.child.send_signal(number)

    def _note(self, number, frame):
        self.asked = True
        if self.child is not None:
            self.child.terminate()

    def run(self, command: List[str], environment: Optional[dict] = None) -> int:
        if self.asked:
            return 75
        # The child ends when this process is killed, as it does with its wrapper.
        chain = os.environ.get("ELECTRA_WRAPPER", "")
        here = files.process_space() + ":"
        chain = f"{chain},{os.getpid()}" if chain.startswith(here) else f"{here}{os.getpid()}"
        self.child = subprocess.Popen(command, env={**(environment or os.environ), "ELECTRA_WRAPPER": chain})
        if self.asked:  # the signal came while the process started
            self.child.terminate()
        status = self.child.wait()
        self.child = None
        return status


def fine_tune(job: Job, config: SweepConfig, arguments: List[str], stop: Stop, content: Optional[Content]) -> int:
    """Exports the checkpoint and fine-tunes it. Returns: 0, or the status of what failed.

    Raises: UserError: the fine-tuning was rejected, for the reason that was printed.
    """
    if content is None:
        try:
            read_state(job.checkpoint.prefix)
        except UserError as error:
            print(error, file=sys.stderr, flush=True)
        return UserError.exit_status
    if content.state.get("task") == "squad":
        print(f"{job.checkpoint.prefix} is fine-tuned already: name folders of pre-training checkpoints.",
              file=sys.stderr, flush=True)
        return UserError.exit_status
    if not os.path.isdir(job.exported):
        files.remove_leftovers(job.exported)  # of an export that was stopped
        os.makedirs(os.path.dirname(job.folder), exist_ok=True)
        files.write_json(job.record, {"checkpoint": os.path.abspath(job.checkpoint.prefix),
                                              "fingerprint": content.fingerprint})
        status = stop.run([sys.executable, os.path.join(ROOT, "postprocess_pretrained_ckpt.py"),
                           f"--pretrained_checkpoint={job.checkpoint.prefix}", f"--output_dir={job.exported}"])
        if status:
            return status
    weights = next((os.path.join(job.exported, kind) for kind in ("discriminator", "generator")
                    if os.path.isdir(os.path.join(job.exported, kind))), None)
    started = time.monotonic()
    words = recipe.fine_tuning(config.device or content.state["device"], job.seed, weights, job.folder, arguments)
    status = stop.run(["bash", os.path.join(ROOT, "scripts", "electra_squad.sh"), *words],
                      {**os.environ, "PYTHON": sys.executable})
    if status == UserError.exit_status:
        raise UserError(f"the fine-tuning of {job.run} {job.name} was rejected (see above): fix the problem and start "
                        "the sweep again.")
    if status == 0:
        with open(os.path.join(job.folder, "results.json"), encoding="utf-8") as file:
            results = json.load(file)
        files.write_json(os.path.join(job.folder, "sweep.json"), {
            "arguments": deciding(arguments), "run": job.run, "checkpoint": job.name, "phase": job.checkpoint.phase,
            "step": job.checkpoint.step, "seed": job.seed, "seconds": round(time.monotonic() - started, 1),
            "EM": results.get("exact_match", results.get("exact")), "F1": results["f1"],
            **({"best F1": results["best_f1"]} if "best_f1" in results else {})})
        fine_tuned = job.fine_tuned.list()
        for old in fine_tuned[:max(0, len(fine_tuned) - config.keep_checkpoint_max)]:
            remove_checkpoint(old.prefix)
    return status


# --- The table and the plot ---

COLUMNS = ("run", "checkpoint", "phase", "step", "seed", "EM", "F1", "best F1", "seconds", "gone")


def table(rows: List[dict]) -> str:
    """The rows, and below them what `gone` means and, where there are several seeds, median and spread of each
    checkpoint."""
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    lines = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines) + "\n"
    if "gone" in columns:
        text += "\ngone: pre-training has deleted the checkpoint since; the result stands.\n"
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
    files.write_text(os.path.join(out_dir, "sweep.txt"), table(rows))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(os.path.join(out_dir, "sweep.csv"), buffer.getvalue())

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
    with files.replacing(os.path.join(out_dir, "sweep.png")) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


# --- The command ---


def sweep(config: SweepConfig, arguments: List[str]):
    """Does what is left to do, and writes the tables after each fine-tuning.

    Raises: Interrupted: stopped on request. RunFailed: some have failed.
    """
    jobs = plan(config)
    contents = look_at(jobs)
    rows = finished_rows(config, jobs, arguments)
    refuse_other_contents(jobs, contents)
    stop, failed = Stop(), []
    prepare(config, [job for job in jobs if job.folder not in rows], contents, arguments)
    for number, job in enumerate(jobs, 1):
        done_before = job.folder in rows
        word = ": already done" if done_before else ""
        print(f"[{number}/{len(jobs)}] {job.run} {job.name}, seed {job.seed}{word}", flush=True)
        status = 0
        if not done_before:
            try:
                status = fine_tune(job, config, arguments, stop, contents.get(job.checkpoint.prefix))
            except UserError as error:
                if not rows:
                    raise  # the others would be refused for the same reason
                print(error, file=sys.stderr, flush=True)
                status = error.exit_status
        if status in (Interrupted.exit_status, -signal.SIGTERM) or stop.asked:
            write_tables(in_order(rows, jobs), config.out_dir)
            raise Interrupted(f"the sweep was stopped at {job.run} {job.name} (seed {job.seed}), "
                              f"{sum(job.folder in rows for job in jobs)} of {len(jobs)} are done: run the "
                              "same command to resume.")
        if status:
            failed.append(f"{job.run} {job.name} (seed {job.seed}, status {status})")
            print(f"failed: {failed[-1]}; the sweep continues.", file=sys.stderr, flush=True)
        elif not done_before:
            rows[job.folder] = configuration.read_json_object(os.path.join(job.folder, "sweep.json"))
        write_tables(in_order(rows, jobs), config.out_dir)
    if rows:
        print(table(in_order(rows, jobs)), end="")
        print(f"Results are in {config.out_dir}: sweep.txt, sweep.csv, sweep.png.")
    if failed:
        raise RunFailed(f"{len(failed)} of {len(jobs)} fine-tunings failed: {', '.join(failed)}.")


def prepare(config: SweepConfig, left: List[Job], contents: Dict[str, Content], arguments: List[str]):
    """Validates options and disk space before anything is done. Raises: UserError."""
    first_of: Dict[str, Job] = {}  # a job for each device
    for job in left:
        if job.checkpoint.prefix in contents:
            first_of.setdefault(config.device or contents[job.checkpoint.prefix].state["device"], job)
    squads = [recipe.squad(recipe.fine_tuning(device, job.seed, job.exported, job.folder, arguments))
              for device, job in first_of.items()]
    if squads:
        check_disk(config, squads[0], left, contents)


def in_order(rows: Dict[str, dict], jobs: List[Job]) -> List[dict]:
    """By run as they are named, phase, step and seed."""
    runs = list(dict.fromkeys(job.run for job in jobs))
    return sorted(rows.values(), key=lambda row: (runs.index(row["run"]), row["phase"], row["step"], row["seed"]))


def main(argv):
    split = argv.index("--") if "--" in argv else len(argv)
    arguments = argv[split + 1:]
    config = command_line.parse(SweepConfig, argv[:split], __doc__)
    configuration.require_options(config, "checkpoints")
    with config.sole_user():
        sweep(config, arguments)


if __name__ == "__main__":
    command_line.run_command(main)
