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
import functools
import glob
import io
import itertools
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Optional, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "scripts")]

from sweep_recipe import SweepConfig  # noqa: E402  (found through the line above, like the rest)

import command_line  # noqa: E402

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that TensorFlow takes
    command_line.refuse_early(SweepConfig, __doc__, resumable=True)

import search_squad  # noqa: E402
import squad_recipe  # noqa: E402
import sweep_recipe  # noqa: E402
from plans import Plan  # noqa: E402

import configuration  # noqa: E402
import curves  # noqa: E402
import files  # noqa: E402
import run_page  # noqa: E402
from checkpoints import (  # noqa: E402
    Checkpoint,
    Checkpoints,
    checkpoint_fingerprint,
    find_checkpoint,
    read_state,
    remove_checkpoint,
    shapes,
)
from configuration import Interrupted, RunFailed, UserError, in_short  # noqa: E402
from deferred import tensorflow as tf  # noqa: E402
from squad_options import SquadConfig  # noqa: E402


class Job(NamedTuple):
    """One fine-tuning."""

    run: str
    checkpoint: Checkpoint
    seed: int
    folder: str
    setting: search_squad.Setting = ()

    @property
    def name(self) -> str:
        return os.path.basename(self.checkpoint.prefix)

    @property
    def place(self) -> str:
        """The folder of the checkpoint."""
        return os.path.dirname(os.path.dirname(self.folder) if self.setting else self.folder)

    @property
    def exported(self) -> str:
        return os.path.join(self.place, "exported")

    @property
    def record(self) -> str:
        """File that says of which checkpoint the folder is."""
        return os.path.join(self.place, "checkpoint.json")

    @property
    def words(self) -> str:
        """What messages call it."""
        setting = f" {search_squad.label_of({'setting': dict(self.setting)})}" if self.setting else ""
        return f"{self.run} {self.name}{setting}"

    @property
    def fine_tuned(self) -> Checkpoints:
        return Checkpoints(os.path.join(self.folder, "checkpoints"))


def paths_of(name: str) -> List[str]:
    """What a name or a glob in --checkpoints matches."""
    return [*files.matching(name), *files.matching(f"{name}.index")]


def at(path: str) -> List[Checkpoint]:
    """All checkpoints of a folder or a run, or the one that a path names (see `checkpoints.find_checkpoint`)."""
    for folder in (path, os.path.join(path, "checkpoints")):
        if Checkpoints(folder).list():
            return Checkpoints(folder).list()
    prefix = find_checkpoint(path)
    there = Checkpoints(os.path.dirname(prefix) or ".").list() if prefix else []
    return [found for found in there if found.name == os.path.basename(prefix)]


def named(name: str) -> List[Checkpoint]:
    """The checkpoints of a name in --checkpoints, folder by folder, phase 1 before phase 2, by step.

    Raises: UserError: there are none.
    """
    found = {checkpoint.prefix: checkpoint for path in paths_of(name) or [name] for checkpoint in at(path)}
    if not found:
        what = "contains no checkpoints" if os.path.isdir(name) else (
            "is not a checkpoint of this project" if paths_of(name) else "does not exist")
        raise UserError(f"--checkpoints: {name} {what}: give folders such as results/models/base/checkpoints, or "
                        "checkpoints such as results/models/base/checkpoints/ckpt-1000.")
    return sorted(found.values(), key=lambda checkpoint: (os.path.dirname(checkpoint.prefix), checkpoint))


def plan(config: SweepConfig, settings: Sequence[search_squad.Setting] = ((),)) -> List[Job]:
    """The fine-tunings, in the order of --checkpoints. Raises: UserError: a name without a checkpoint."""
    seeds = config.seed_list
    jobs, seen = [], set()
    for name in sweep_recipe.checkpoint_names(config.checkpoints, lambda name: bool(paths_of(name))):
        for checkpoint in named(name):
            if os.path.realpath(checkpoint.prefix) in seen:
                continue
            seen.add(os.path.realpath(checkpoint.prefix))
            run = os.path.basename(os.path.dirname(os.path.dirname(os.path.abspath(checkpoint.prefix))))
            place = os.path.join(config.out_dir, f"{run}-{os.path.basename(checkpoint.prefix)}")
            for setting in settings:
                folder = os.path.join(place, search_squad.folder_of(setting)) if setting else place
                jobs += [Job(run, checkpoint, int(seed), os.path.join(folder, f"seed-{seed}"), setting)
                         for seed in seeds]
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
    """The contents of the checkpoints by prefix, without those that cannot be read."""
    contents = {}
    for prefix in dict.fromkeys(job.checkpoint.prefix for job in jobs):
        try:
            state, tensors, digest = read_state(prefix), shapes(prefix), checkpoint_fingerprint(prefix)
        except (UserError, OSError, tf.errors.OpError):  # reported by `check_checkpoints`
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
        folder = job.place
        used = os.path.exists(job.exported) or any(
            glob.glob(os.path.join(glob.escape(folder), pattern)) for pattern in ("seed-*", "*/seed-*"))
        theirs = read_origin(job.record)
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
    for file in sorted(itertools.chain(*(glob.glob(os.path.join(glob.escape(config.out_dir), *pattern, "sweep.json"))
                                         for pattern in (("*", "seed-*"), ("*", "*", "seed-*"))))):
        folder = os.path.dirname(file)
        row = read_row(file)
        if row["run"] not in place_of:
            continue
        if row["arguments"] != deciding(arguments):
            theirs = " ".join(map(str, row["arguments"])) or "none"
            raise UserError(f"{folder} was fine-tuned with other options ({theirs}): choose another --out_dir, or "
                            "delete it.")
        place = os.path.dirname(os.path.dirname(folder) if row.get("setting") else folder)
        record = read_origin(os.path.join(place, "checkpoint.json"))
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


def read_row(path: str) -> dict:
    """The row of a finished fine-tuning. Raises: UserError."""
    number = (int, float)
    row = configuration.read_record(path, "delete it, and the sweep fine-tunes again", run=str, checkpoint=str,
                                    arguments=list, phase=int, step=int, seed=int, EM=number, F1=number)
    setting = row.get("setting", {})
    if not isinstance(setting, dict) or not set(setting) <= set(search_squad.SHORT):
        raise UserError(f"{path}: setting is {configuration.in_brief(setting)}, the file is damaged: delete it, and "
                        "the sweep fine-tunes again.")
    return {**row, **setting}


def read_origin(path: str) -> Optional[dict]:
    """What a fine-tuning was made from, if there is such a file. Raises: UserError."""
    way_out = f"delete {os.path.dirname(path)}, and the sweep fine-tunes again"
    return configuration.read_record(path, way_out, checkpoint=str, fingerprint=str) if os.path.exists(path) else None


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
    best = int(squad.evaluates_in_training)  # kept beside the newest ones
    kept = [missing(job, config.keep_checkpoint_max + (best if config.keep_checkpoint_max else 0)) for job in left]
    while_running = [missing(job, squad.keep_checkpoint_max + 1 + best) - size for job, size in zip(left, kept)]
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

    def run(self, command: List[str], environment: Optional[dict] = None, said: Optional[List[str]] = None) -> int:
        """Runs a command. Returns its status. Its standard error is added to `said`, if given, in lines."""
        if self.asked:
            return 75
        # The child ends when this process is killed, as it does with its wrapper.
        chain = os.environ.get("ELECTRA_WRAPPER", "")
        here = files.process_space() + ":"
        chain = f"{chain},{os.getpid()}" if chain.startswith(here) else f"{here}{os.getpid()}"
        pipe = None if said is None else subprocess.PIPE
        self.child = subprocess.Popen(command, env={**(environment or os.environ), "ELECTRA_WRAPPER": chain},
                                      stderr=pipe, text=True, errors="replace")
        if self.asked:  # the signal came while the process started
            self.child.terminate()
        errors, status = self.child.communicate()[1], self.child.wait()
        if said is not None:
            said.extend(errors.splitlines())
        self.child = None
        return status


def fine_tune(job: Job, config: SweepConfig, arguments: List[str], stop: Stop, content: Optional[Content]) -> int:
    """Exports the checkpoint and fine-tunes it. Returns: 0, or the status of what failed.

    Raises: UserError: the fine-tuning was rejected, for the reason that was printed.
    """
    if content is None or not os.path.exists(f"{job.checkpoint.prefix}.index") and not os.path.isdir(job.exported):
        print(f"{job.checkpoint.prefix} is gone: pre-training has deleted it since.", file=sys.stderr, flush=True)
        return UserError.exit_status
    if not os.path.isdir(job.exported):
        files.remove_leftovers(job.exported)  # of an export that was stopped
        os.makedirs(job.place, exist_ok=True)
        files.write_json(job.record, {"checkpoint": os.path.abspath(job.checkpoint.prefix),
                                              "fingerprint": content.fingerprint})
        vocabulary = vocabulary_of(job.checkpoint.prefix, arguments)
        status = stop.run([sys.executable, os.path.join(ROOT, "postprocess_pretrained_ckpt.py"),
                           f"--pretrained_checkpoint={job.checkpoint.prefix}", f"--output_dir={job.exported}",
                           *([f"--vocab_file={vocabulary}"] if vocabulary else [])])
        if status:
            return status
    weights = next((os.path.join(job.exported, kind) for kind in ("discriminator", "generator")
                    if os.path.isdir(os.path.join(job.exported, kind))), None)
    started = time.monotonic()
    words = sweep_recipe.fine_tuning(config.device or content.state["device"], job.seed, weights, job.folder,
                               [*arguments, *search_squad.words_of(job.setting)])
    status = stop.run(["bash", os.path.join(ROOT, "scripts", "electra_squad.sh"), *words],
                      {**os.environ, "PYTHON": sys.executable})
    if status == UserError.exit_status:
        raise UserError(f"the fine-tuning of {job.run} {job.name} was rejected (see above): fix the problem and start "
                        "the sweep again.")
    if status == 0:
        results = configuration.read_json_object(os.path.join(job.folder, "results.json"))
        files.write_json(os.path.join(job.folder, "sweep.json"), {
            "arguments": deciding(arguments), "run": job.run, "checkpoint": job.name, "phase": job.checkpoint.phase,
            "step": job.checkpoint.step, **({"setting": dict(job.setting)} if job.setting else {}),
            "seed": job.seed, "seconds": round(time.monotonic() - started, 1),
            "EM": results.get("exact_match", results.get("exact")), "F1": results["f1"],
            **({"best F1": results["best_f1"]} if "best_f1" in results else {})})
        fine_tuned, best = job.fine_tuned.list(), job.fine_tuned.best().get(1, {}).get("step")
        for old in fine_tuned[:max(0, len(fine_tuned) - config.keep_checkpoint_max)]:
            if not config.keep_checkpoint_max or old.step != best:
                remove_checkpoint(old.prefix)
    return status


# --- The table and the plot ---

COLUMNS = ("run", "checkpoint", "phase", "step", *search_squad.SHORT, "seed", "EM", "F1", "best F1", "seconds", "gone")


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
            f"{min(row['F1'] for row in group):.2f} to {max(row['F1'] for row in group):.2f} ({_seeds(group)})"
            for name, group in groups.items()) + "\n"
    return text


def _seeds(group) -> str:
    return f"{len(group)} seeds" if len(group) > 1 else "one seed"


def _cell(value) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def by_checkpoint(rows: List[dict]) -> Dict[str, List[dict]]:
    groups: Dict[str, List[dict]] = {}
    for row in rows:
        groups.setdefault(" ".join(filter(None, (row["run"], row["checkpoint"], search_squad.label_of(row)))),
                          []).append(row)
    return groups


def write_tables(rows: List[dict], out_dir: str):
    """sweep.txt, sweep.csv, sweep.png and report.html."""
    if not rows:
        return
    files.write_text(os.path.join(out_dir, "sweep.txt"), table(rows))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(os.path.join(out_dir, "sweep.csv"), buffer.getvalue())
    png = os.path.join(out_dir, "sweep.png")
    try:
        (search_squad.plot if any(row.get("setting") for row in rows) else plot)(rows, png)
    except OSError as error:
        warn_once(f"warning: {png} cannot be written ({in_short(error)}): the sweep continues.")
    run_page.write_or_warn(out_dir)


def plot(rows: List[dict], png: str):
    """Median F1 of each checkpoint by step, and its range over seeds. Raises: OSError: see `curves.saved_figure`."""
    with curves.saved_figure(png, figsize=(7, 4.5)) as figure:
        axis = figure.subplots()
        at = set()
        for run in dict.fromkeys(row["run"] for row in rows):
            groups = [group for group in by_checkpoint(rows).values() if group[0]["run"] == run]
            first_phase = max([group[0]["step"] for group in groups if group[0]["phase"] == 1], default=0)
            steps = [group[0]["step"] + (first_phase if group[0]["phase"] == 2 else 0) for group in groups]
            medians = [statistics.median(row["F1"] for row in group) for group in groups]
            low = [median - min(row["F1"] for row in group) for median, group in zip(medians, groups)]
            high = [max(row["F1"] for row in group) - median for median, group in zip(medians, groups)]
            label = " " * run.startswith("_") + run  # matplotlib leaves one that begins with _ out of the legend
            axis.errorbar(steps, medians, yerr=[low, high], marker="o", capsize=3, label=label)
            at.update(steps)
        axis.set(xlabel="pre-training updates (phase 2 after phase 1)", ylabel="F1", title="SQuAD by checkpoint",
                 xlim=curves.limits(min(at), max(at)))
        curves.tidy_axes(axis)
        axis.legend()


@functools.lru_cache(maxsize=None)
def warn_once(text: str):
    print(text, file=sys.stderr, flush=True)


# --- The command ---


def sweep(config: SweepConfig, arguments: List[str]):
    """Does what is left to do, and writes the tables after each fine-tuning.

    Raises: Interrupted: stopped on request. RunFailed: some have failed.
    """
    settings, max_steps = search_squad.settings_of(config), 0
    if settings != [()]:
        max_steps = squad_recipe.squad(arguments, dry_run=True).configs[0].max_steps
        config.check_passed([word.partition("=")[0][2:] for word in arguments], max_steps)
    rounds = search_squad.rounds_of(config.halving, max_steps, len(plan(config, settings)) // len(config.seed_list))
    if config.halving:  # each round has its own
        arguments = [word for word in arguments if not word.startswith("--max_steps=")]
    jobs = plan(config, [search_squad.with_steps(setting, rounds[0]) for setting in settings])
    contents = look_at(jobs)
    rows = finished_rows(config, jobs, arguments)
    refuse_other_contents(jobs, contents)
    stop, failed, asked = Stop(), [], len(jobs)
    left = [job for job in jobs if job.folder not in rows]
    check_checkpoints(left, arguments)
    prepare(config, left, contents, arguments, stop)
    if config.check_only:
        return
    run_jobs(config, arguments, jobs, rows, contents, stop, failed)
    for steps in rounds[1:]:
        jobs = next_round(config, jobs, rows, steps)
        asked += len(jobs)
        left = [job for job in jobs if job.folder not in rows]
        if left:
            check_disk(config, squad_recipe.squad(arguments, dry_run=True).configs[0], left, contents)
        run_jobs(config, arguments, jobs, rows, contents, stop, failed)
    if rows:
        print(table(in_order(rows, jobs)), end="")
        if len(settings) > 1:
            print(best_of(config, jobs, rows, contents, arguments), end="")
        print(f"Results are in {config.out_dir}: sweep.txt, sweep.csv, sweep.png, report.html.")
    if failed:
        raise RunFailed(f"{len(failed)} of {asked} fine-tunings failed: {', '.join(failed)}.")


def candidates(jobs: List[Job], rows: Dict[str, dict]) -> Dict[tuple, List[dict]]:
    """The rows of each checkpoint and setting of the jobs, without those of which none has finished."""
    groups: Dict[tuple, List[dict]] = {}
    for job in jobs:
        if job.folder in rows:
            groups.setdefault((job.run, job.checkpoint, job.setting), []).append(rows[job.folder])
    return groups


def next_round(config: SweepConfig, jobs: List[Job], rows: Dict[str, dict], steps: int) -> List[Job]:
    """The fine-tunings of the best candidates with so many updates."""
    kept = search_squad.promoted(candidates(jobs, rows), config.halving)
    longer = {job.folder: job for setting in dict.fromkeys(setting for _, _, setting in kept)
              for job in plan(config, [search_squad.with_steps(setting, steps)])}
    wanted = {(checkpoint, search_squad.with_steps(setting, steps)) for _, checkpoint, setting in kept}
    print(f"the best {len(kept)} continue with {steps} updates.", flush=True)
    return [job for job in longer.values() if (job.checkpoint, job.setting) in wanted]


def best_of(config: SweepConfig, jobs: List[Job], rows: Dict[str, dict], contents: Dict[str, Content],
            arguments: List[str]) -> str:
    """The winner among the jobs of the last round, and the command that fine-tunes with its settings."""
    groups = candidates(jobs, rows)
    if not groups:
        return ""
    (run, checkpoint, setting), = search_squad.promoted(groups, len(groups))
    found = groups[run, checkpoint, setting]
    seed = max(found, key=lambda row: row["F1"])["seed"]
    device = config.device or contents[checkpoint.prefix].state["device"]
    words = sweep_recipe.fine_tuning(device, seed, checkpoint.prefix, os.path.join(config.out_dir, "best"),
                               [*arguments, *search_squad.words_of(setting)])
    spread = f"{min(row['F1'] for row in found):.2f} to {max(row['F1'] for row in found):.2f}, "
    spread += _seeds(found)
    return (f"\nbest: {run} {os.path.basename(checkpoint.prefix)} {search_squad.label_of({'setting': dict(setting)})}: "
            f"F1 median {search_squad.median_f1(found):.2f} ({spread}). Fine-tune with its settings:\n"
            f"bash scripts/electra_squad.sh {shlex.join(words)}\n")


def run_jobs(config: SweepConfig, arguments: List[str], jobs: List[Job], rows: Dict[str, dict],
             contents: Dict[str, Content], stop: Stop, failed: List[str]):
    """Fine-tunes what is left of the jobs, and adds to `rows` and `failed`. Raises: Interrupted: stopped on request."""
    for number, job in enumerate(jobs, 1):
        done_before = job.folder in rows
        word = ": already done" if done_before else ""
        print(f"[{number}/{len(jobs)}] {job.words}, seed {job.seed}{word}", flush=True)
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
            raise Interrupted(f"the sweep was stopped at {job.words} (seed {job.seed}), "
                              f"{sum(job.folder in rows for job in jobs)} of {len(jobs)} are done: run the "
                              "same command to resume.")
        if status:
            failed.append(f"{job.words} (seed {job.seed}, status {status})")
            print(f"failed: {failed[-1]}; the sweep continues.", file=sys.stderr, flush=True)
        elif not done_before:
            rows[job.folder] = read_row(os.path.join(job.folder, "sweep.json"))
        write_tables(in_order(rows, jobs), config.out_dir)


def prepare(config: SweepConfig, left: List[Job], contents: Dict[str, Content], arguments: List[str], stop: Stop):
    """Validates options, data and disk space before anything is done.

    Raises: UserError, with the options of electra_squad.sh. Interrupted: stopped on request.
    """
    kinds: Dict[tuple, Job] = {}  # a job of each device, encoder and setting
    for job in left:
        if job.checkpoint.prefix in contents:
            state = contents[job.checkpoint.prefix].state
            kinds.setdefault((config.device or state["device"], json.dumps(state["encoder"]), job.setting), job)
    plans: Dict[tuple, Plan] = {}  # of each device and encoder, that with the largest batch
    for (device, encoder, _), job in kinds.items():
        words = sweep_recipe.fine_tuning(device, job.seed, os.path.abspath(job.checkpoint.prefix), os.path.join(
            config.out_dir, "check"), [*arguments, *search_squad.words_of(job.setting)])
        made = squad_recipe.squad(words, dry_run=config.check_only)
        known = plans.get((device, encoder))
        if known is None or made.configs[0].train_batch_size > known.configs[0].train_batch_size:
            plans[device, encoder] = made
    if plans:
        check_disk(config, next(iter(plans.values())).configs[0], left, contents)
    for made in plans.values():
        check_fine_tuning(made, stop)


def check_fine_tuning(made: Plan, stop: Stop):
    """Has run_tf_squad.py validate the data, the lengths and the weights of a fine-tuning. Raises: see `prepare`."""
    if not all(os.path.isdir(os.path.join(ROOT, folder)) for folder in made.variables["built_folders"]):
        return  # the sample questions are made by the first fine-tuning
    said: List[str] = []
    program, *flags = made.variables["command"]
    status = stop.run([sys.executable, os.path.join(ROOT, program), *flags, "--check_only"], said=said)
    if stop.asked or status == Interrupted.exit_status:
        raise Interrupted("the sweep was stopped before the first fine-tuning: run the same command again.")
    if status:
        reason = next((line for line in reversed(said) if line.startswith(f"{program}: ")), "".join(said[-1:]))
        error = UserError if status == UserError.exit_status else RunFailed
        raise error(squad_recipe.squad_table().translate(reason[len(program) + 2:] if error is UserError else
                                                   f"{program} --check_only ended with status {status}: {reason}"))


def vocabulary_of(prefix: str, arguments: List[str]) -> Optional[str]:
    """The --vocab_file of electra_squad.sh for a checkpoint that has no vocabulary beside it."""
    from weights import run_folder  # imports TensorFlow
    given = [word.partition("=")[2] for word in arguments if word.startswith("--vocab_file=")]
    return given[-1] if given and not configuration.find_vocabulary(run_folder(prefix)) else None


def check_checkpoints(left: List[Job], arguments: List[str]):
    """Raises UserError naming a checkpoint that cannot be fine-tuned, unless pre-training has deleted it meanwhile."""
    from weights import open_checkpoint
    damaged = []
    for prefix in dict.fromkeys(job.checkpoint.prefix for job in left):
        try:
            read_state(prefix)
        except UserError:
            if os.path.exists(f"{prefix}.index"):
                damaged.append(prefix)
            continue
        open_checkpoint(prefix, vocabulary_of(prefix, arguments), pretraining=True)
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise UserError(f"--checkpoints: {', '.join(damaged[:3])}{more} cannot be read: move the files of what is "
                        "damaged to another folder, or name the others one by one, separated by commas.")


def in_order(rows: Dict[str, dict], jobs: List[Job]) -> List[dict]:
    """By run as they are named, phase, step, round of the search, settings and seed."""
    runs = list(dict.fromkeys(job.run for job in jobs))
    return sorted(rows.values(), key=lambda row: (
        runs.index(row["run"]), row["phase"], row["step"], int(row.get("max_steps", 0)),
        [float(value) for value in row.get("setting", {}).values()], row["seed"]))


def main(argv):
    split = argv.index("--") if "--" in argv else len(argv)
    arguments = argv[split + 1:]
    config = command_line.parse(SweepConfig, argv[:split], __doc__)
    configuration.require_options(config, "checkpoints")
    if config.check_only:
        sweep(config, arguments)
        return
    with config.sole_user():
        sweep(config, arguments)


if __name__ == "__main__":
    command_line.run_command(main)
