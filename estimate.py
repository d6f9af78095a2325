"""Estimates how long a training takes and what it needs. Nothing is trained, and no result is written.

    python estimate.py -- run_pretraining.py --pretrain_tfrecords=DIR ... [-- run_pretraining.py --phase2 ...]
    python estimate.py --sequences_per_second=340 -- run_tf_squad.py --do_train ...

scripts/electra.sh and scripts/electra_squad.sh call this with --estimate. Each command after -- is one phase. Its speed
is --sequences_per_second, or is timed: the command itself runs for a few updates, without checkpoints and held-out
evaluation, with its results in a temporary folder. Records, memory and disk are those of preflight.py.

The model of the time on W workers, which share the micro-batches of an update:

    updates x (sequences of a worker / speed + exchange) + evaluations + checkpoints + start

- exchange, once per update, after its last micro-batch: a ring all-reduce sends and receives 2 (W - 1) / W times the
  bytes of the gradients, 4 per parameter (2 with --gradient_compression), in 2 (W - 1) messages of LATENCY seconds.
- evaluations: a forward pass takes a third of a training step; drawing the curves takes CURVES_SECONDS.
- checkpoints: a copy in memory, and the last one until it is on disk.
- start: of the wrapper; of the command to the end of its first update, and its end, if timed.
"""
from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import batching
import command_line
import configuration
import files
import flops
import preflight
import pretrain_utils
from checkpoints import Checkpoints
from configuration import Interrupted, RunFailed, UserError
from electra_config import ElectraConfig
from pretraining_options import OLD_NAMES, EstimateConfig, PretrainingConfig
from squad_options import SquadConfig

WORKERS = (1, 8, 64)
LATENCY = 30e-6  # seconds of a message between two workers
FORWARD = 1 / 3  # of the time of a training step: the backward pass takes twice as long as the forward pass
COPY_BYTES, WRITE_BYTES = 1e9, 2e8  # per second: a checkpoint to host memory; to disk, read back
CURVES_SECONDS = 0.5  # after each evaluation, and at the end
EVALUATION_START = 0.12  # of the start: the first evaluation traces and compiles the forward pass
LEAST_SECONDS = 10  # of timed updates: with a small model three of them are over too soon
MOST_MICRO_BATCHES = 8  # of a timed update: longer ones are extrapolated

# --- The work of a phase ---


class Work(NamedTuple):
    """One update of one worker."""

    sequences: int
    flops: int
    compiles: bool  # batches of this length are traced here


class Phase(NamedTuple):
    """What a command is going to do, and what it needs. Sequences are those of all workers."""

    name: str
    length: int
    done: int  # updates, before
    updates: int  # to come
    warmup: int
    workers: int  # of the call
    batch_size: int  # sequences of a micro-batch
    micro_batches: int  # of an update
    sequences: int
    tokens: int  # with padding
    flops: float  # of a sequence, on average
    records: int
    evaluations: int
    evaluated: int  # sequences, each time
    saves: int
    parameters: int
    memory: float  # bytes, of a worker
    disk: float  # bytes
    folder: str  # of the checkpoints
    compressed: bool  # gradients, to 16 bits
    config: Union[PretrainingConfig, SquadConfig]  # of the timed run
    timed: Sequence[Work]  # the updates of the timed run
    mixture: Sequence[Tuple[str, float]] = ()  # datasets and how many of their epochs are to come


def times(done: int, last: int, every: int) -> int:
    """How often something happens that is due every so many updates and after the last one."""
    return 0 if last <= done else last // every - done // every + (last % every > 0)


def pretraining(config: PretrainingConfig, folder: str, timed_updates: int, resumes: bool) -> Phase:
    """A phase of pre-training.

    Args:
        folder: temporary.
        timed_updates: the log gets a line after the first update, and one after so many more.
        resumes: whether checkpoints of this phase are resumed from.
    Raises: UserError.
    """
    checkpoints = Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max, keep_every=config.keep_every_steps)
    there = checkpoints.list(config.phase) if resumes and config.restore_checkpoint else []
    done = min(there[-1].step, config.num_train_steps) if there else 0
    timed = dataclasses.replace(
        config, results_dir=folder, log_dir=None, json_summary=os.path.join(folder, f"phase{config.phase}.jsonl"),
        model_name=config.run_name, phase2=False, restore_checkpoint=None, overwrite=False, load_weights=False,
        weights_dir=None, eval_tfrecords=None, skip_checkpoint=True, profile_steps=None, num_workers=0,
        tracker=None, histograms=0, log_freq=min(config.updates_per_log, 1 + timed_updates),
        gradient_accumulation_steps=min(config.gradient_accumulation_steps, MOST_MICRO_BATCHES))
    index = os.path.join(timed.model_dir, "record_index")
    os.makedirs(index, exist_ok=True)
    with contextlib.suppress(OSError):  # what an earlier run has found out about the shards
        shutil.copy(os.path.join(config.model_dir, "record_index", "shards.json"), index)
    inputs = preflight.open_inputs(dataclasses.replace(timed, eval_tfrecords=config.eval_tfrecords))
    batches, batch_size = (pretrain_utils.held_out_batches(config, inputs.held_out) if inputs.held_out else (0, 0))
    workers = max(1, config.num_workers)
    micro_batches = config.gradient_accumulation_steps * workers
    updates = config.num_train_steps - done
    sequences = updates * micro_batches * config.train_batch_size
    parameters = preflight.pretraining_parameters(config, inputs.encoder)
    saves = times(done, config.num_train_steps, config.save_checkpoints_steps)
    kept = checkpoints.most_kept(done, config.num_train_steps, keep_best=batches > 0)
    sequence = flops.of_pretraining(config, inputs.encoder)
    update = timed.train_batch_size * timed.gradient_accumulation_steps
    return Phase(
        name=f"phase {config.phase}", length=config.max_seq_length, done=done, updates=updates,
        warmup=config.num_warmup_steps, workers=workers, batch_size=config.train_batch_size,
        micro_batches=micro_batches, sequences=sequences, tokens=sequences * config.max_seq_length, flops=sequence,
        records=inputs.data.order.records, evaluated=batches * batch_size,
        evaluations=times(done, config.num_train_steps, config.updates_per_eval) if batches else 0, saves=saves,
        parameters=parameters, memory=preflight.pretraining_bytes(config, inputs.encoder),
        disk=disk_bytes(config, kept, saves, parameters), folder=config.checkpoint_dir,
        compressed=config.gradient_compression != "none", config=timed,
        timed=[Work(update, update * sequence, False)] * config.num_train_steps,
        mixture=inputs.data.mixture.epochs(sequences) if inputs.data.mixture else ())


def disk_bytes(config, kept: int, saves: int, parameters: int) -> int:
    """The checkpoints that are on disk at once, at most."""
    if config.skip_checkpoint:
        return 0
    return preflight.checkpoint_bytes(parameters) * (kept if config.save_checkpoints_minutes else min(kept, saves))


def fine_tuning(config: SquadConfig, folder: str, timed_updates: int) -> Phase:
    """A fine-tuning from its beginning; see `pretraining`. Raises: UserError."""
    import fine_tuning as tuning  # TensorFlow, to read weights
    import run_tf_squad
    from workers import ALONE
    workers = max(1, config.num_workers)
    preflight.check_squad(config)
    source, tokenizer = tuning.read_weights(config, ALONE)
    config = config.fitted(workers)
    timed = dataclasses.replace(
        config, output_dir=folder, cache_dir=os.path.join(folder, "cache"), skip_cache=False, overwrite=False,
        json_summary=os.path.join(folder, "squad.jsonl"), do_predict=False, do_eval=False, eval_script=None,
        evaluate_during_training=False, eval_steps=0, early_stopping_patience=0, skip_checkpoint=True,
        log_freq=min(config.log_freq, 1 + timed_updates),
        profile_steps=None, tracker=None, histograms=0, num_workers=0, seed=config.seed or 0,
        gradient_accumulation_steps=min(config.gradient_accumulation_steps, MOST_MICRO_BATCHES))
    train = run_tf_squad.read_split(timed, "train", tokenizer).features
    dev = run_tf_squad.read_split(timed, "dev", tokenizer).features if config.predicts else None
    accumulation = config.gradient_accumulation_steps
    limit = config.train_iter_per_epoch * accumulation if config.train_iter_per_epoch > 0 else None
    windows = batching.RowOrder(train.lengths, config.buckets, config.train_batch_size * workers, timed.seed,
                                      limit)
    updates = config.max_steps
    if updates <= 0:
        updates = math.ceil(windows.batches_until(config.num_train_epochs) / accumulation)
    epoch = [next(windows) for _ in range(windows.batches_per_epoch)]
    epochs, examples = updates * accumulation / len(epoch), sum(len(batch.rows) for batch in epoch)
    ends = {min(updates, math.ceil(number * len(epoch) / accumulation)) for number in range(1, math.ceil(epochs) + 1)}
    evaluated = [step for step in range(1, updates) if config.evaluates_after(step, step in ends, updates)]
    saves = max(1, len({*ends, *evaluated}))
    parameters = preflight.squad_parameters(source.config)
    checkpoints = Checkpoints(config.checkpoint_dir, config.keep_checkpoint_max)
    alone = batching.RowOrder(train.lengths, config.buckets, config.train_batch_size, timed.seed, limit)
    return Phase(
        name="fine-tuning", length=config.max_seq_length, done=0, updates=updates,
        warmup=int(config.warmup_proportion * updates), workers=workers, batch_size=config.train_batch_size,
        micro_batches=accumulation * workers, sequences=round(epochs * examples),
        tokens=round(epochs * sum(batch.length for batch in epoch) * windows.batch_size),
        flops=flops_of(epoch, config, source.config) * workers / examples, records=len(train.lengths),
        evaluated=len(dev.lengths) if dev else 0,
        evaluations=len(evaluated) + (config.do_predict or config.do_eval or config.evaluates_in_training),
        saves=saves, parameters=parameters, memory=preflight.squad_bytes(config, source.config, training=True),
        disk=disk_bytes(config, checkpoints.most_kept(keep_best=bool(evaluated)), saves, parameters),
        folder=config.checkpoint_dir,
        compressed=config.gradient_compression != "none", config=timed,
        timed=list(itertools.islice(window_updates(alone, timed, source.config), min(updates, 1000))))


def flops_of(batches: Sequence[batching.Batch], config: SquadConfig, encoder: ElectraConfig) -> int:
    """FLOPs of one worker's batches, which are padded to the full batch size."""
    counts = collections.Counter(batch.length for batch in batches)
    return config.train_batch_size * sum(number * flops.of_squad(config, encoder, length)
                                         for length, number in counts.items())


def window_updates(windows: batching.RowOrder, config: SquadConfig, encoder: ElectraConfig) -> Iterator[Work]:
    """The updates of a fine-tuning by one worker."""
    seen = set()
    while True:
        batches = [next(windows) for _ in range(config.gradient_accumulation_steps)]
        lengths = {batch.length for batch in batches}
        yield Work(sum(len(batch.rows) for batch in batches), flops_of(batches, config, encoder), not lengths <= seen)
        seen |= lengths


# --- Timing ---


class Pace(NamedTuple):
    """The speed of one worker."""

    sequences_per_second: float
    start_seconds: float = 0.0  # in addition to updates: imports, data, tracing, compiling, the end of the process
    updates: int = 0  # that were timed; 0: the speed was given
    memory: Optional[int] = None  # peak, in bytes


def time_updates(phase: Phase, program: str, updates: int) -> Pace:
    """Runs the command of a phase until so many updates are timed.

    Raises: UserError, RunFailed: it ended with an error.
    """
    timed, metrics = phase.config, phase.config.json_summary
    print(f"timing {phase.name}: {updates} or more updates of {phase.timed[0].sequences} sequences, after one that "
          "compiles ...", flush=True)
    output, memory, first = f"{metrics}.out", None, None
    started = time.monotonic()
    with running([sys.executable, program, *words_of(timed)], output) as process:
        while process.poll() is None and not enough(read_entries(metrics), phase.timed, updates):
            time.sleep(0.1 if first is None else 0.5)  # reading the log takes processor time from what is timed
            memory = peak_memory(process.pid) or memory
            if first is None and read_entries(metrics):
                first = time.monotonic() - started
        status, ended = process.poll(), time.monotonic()
        end(process)
        first_and_end = (first or 0.0) + time.monotonic() - ended
    if status:
        raise failure(program, output, status)
    return pace_of(phase, read_entries(metrics), first_and_end, memory)


@contextlib.contextmanager
def running(command: List[str], output: str) -> Iterator[subprocess.Popen]:
    """A command that is stopped at the end of the block, or when this process or its wrapper is killed."""
    space, _, wrappers = os.environ.get("ELECTRA_WRAPPER", "").partition(":")
    if space != files.process_space():
        wrappers = ""
    environment = {name: value for name, value in os.environ.items() if name != "ELECTRA_STATUS_FILE"}
    environment["TMPDIR"] = os.path.dirname(output)
    environment["ELECTRA_WRAPPER"] = f"{files.process_space()}:{wrappers}{',' if wrappers else ''}{os.getpid()}"
    with open(output, "wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                                   start_new_session=True)  # Ctrl-C reaches this process alone
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def words_of(config) -> List[str]:
    """The command line of a configuration."""
    return [f"--{field.name}={getattr(config, field.name)}" for field in dataclasses.fields(config)
            if getattr(config, field.name) != field.default]


def read_entries(path: str) -> List[dict]:
    """The training entries of a JSON-lines log that is being written."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")[:-1]  # the last one may not be complete
    except OSError:
        return []
    return [entry for entry in (configuration.parse_json_object(line, path) for line in lines)
            if entry["kind"] == "train"]


class Interval(NamedTuple):
    """The updates between two lines of the log."""

    seconds: float
    updates: int
    flops: int
    compiles: bool


def measured(entries: List[dict], works: Sequence[Work]) -> List[Interval]:
    """The updates after the first one: the log has the average speed since then."""
    end, sequences, found = 0.0, 0, []
    for before, entry in zip(entries, entries[1:]):
        done = works[before["step"]:entry["step"]]
        sequences += sum(work.sequences for work in done)
        begun, end = end, sequences / entry["average_sequences_per_second"]
        found.append(Interval(end - begun, len(done), sum(work.flops for work in done),
                              any(work.compiles for work in done)))
    return found


def enough(entries: List[dict], works: Sequence[Work], updates: int) -> bool:
    """Whether so many updates, and LEAST_SECONDS, have been timed."""
    steady = [found for found in measured(entries, works) if not found.compiles]
    return sum(found.updates for found in steady) >= updates and sum(
        found.seconds for found in steady) >= LEAST_SECONDS


def pace_of(phase: Phase, entries: List[dict], first: float, memory: Optional[int] = None) -> Pace:
    """The speed in the timed updates, those left out that compile.

    Args:
        first: seconds from the start of the command to the end of its first update, and those of its own end.
    Raises: RunFailed: there is no such update.
    """
    found = measured(entries, phase.timed)
    steady = [interval for interval in found if not interval.compiles] or found
    if not steady:
        raise RunFailed(f"{phase.name} has too few updates to time its speed: give it with --sequences_per_second.")
    per_flop = sum(interval.seconds for interval in steady) / sum(interval.flops for interval in steady)
    compiling = sum(interval.seconds - interval.flops * per_flop for interval in found if interval.compiles)
    start = max(0.0, first - phase.timed[0].flops * per_flop + compiling)
    return Pace(1 / (phase.flops * per_flop), start, sum(interval.updates for interval in steady), memory)


def age(process: Union[int, str]) -> Optional[float]:
    """Seconds since a process, by its id or `self`, was started; None where that is not known."""
    with contextlib.suppress(OSError, ValueError):  # no /proc, or it has ended
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stat, \
                open("/proc/uptime", encoding="ascii") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    return None


def wrapper_seconds() -> float:
    """What the wrapper of this process took before it started it, as it will before a training."""
    space, _, wrappers = os.environ.get("ELECTRA_WRAPPER", "").partition(":")
    outer = age(wrappers.partition(",")[0]) if wrappers and space == files.process_space() else None
    return max(0.0, outer - (age("self") or outer)) if outer else 0.0


def peak_memory(pid: int) -> Optional[int]:
    """Bytes that a process has used at most so far; None where that is not known."""
    with contextlib.suppress(OSError, ValueError, StopIteration):  # no /proc, or it has ended
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            return 1024 * int(next(line for line in file if line.startswith("VmHWM:")).split()[1])
    return None


def failure(program: str, output: str, status: int) -> Exception:
    """The error of a timed command."""
    with open(output, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    last = lines[-1] if lines else "no output"
    if status == UserError.exit_status:
        return UserError(last.partition(f"{os.path.basename(program)}: ")[2] or last)
    return RunFailed(f"the timed updates of {program} ended with status {status}: {last}")


# --- The estimate ---


class Times(NamedTuple):
    """Seconds of a phase on a number of workers."""

    batch_size: int  # of a worker
    accumulation: int
    training: float
    exchange: float  # included in `training`
    evaluation: float  # with the curves, and what the first one traces
    saving: float
    start: float

    @property
    def total(self) -> float:
        return self.training + self.evaluation + self.saving + self.start


def exchange_seconds(parameters: int, workers: int, gbits: float, compressed: bool = False) -> float:
    """A ring all-reduce of the gradients, see above."""
    sent = 2 * (workers - 1) / workers * (2 if compressed else 4) * parameters
    return 8 * sent / (1e9 * gbits) + 2 * (workers - 1) * LATENCY


def times_on(phase: Phase, pace: Pace, workers: int, gbits: float) -> Optional[Times]:
    """The time of a phase whose updates are shared by so many workers; None where an update has fewer sequences."""
    global_batch = phase.batch_size * phase.micro_batches
    if not phase.updates:
        return Times(phase.batch_size, phase.micro_batches, 0.0, 0.0, 0.0, 0.0, 0.0)
    if global_batch < workers:
        return None
    batch_size = min(phase.batch_size, math.ceil(global_batch / workers))
    accumulation = math.ceil(phase.micro_batches / workers)
    unequal = batch_size * accumulation * workers / global_batch  # above 1 where the micro-batches cannot be shared
    exchange = phase.updates * exchange_seconds(phase.parameters, workers, gbits, phase.compressed)
    rate = pace.sequences_per_second
    size = preflight.checkpoint_bytes(phase.parameters)
    saving = phase.saves * size / COPY_BYTES + size / WRITE_BYTES if phase.disk else 0.0
    return Times(batch_size, accumulation, phase.sequences * unequal / workers / rate + exchange, exchange,
                 phase.evaluations * (phase.evaluated * FORWARD / rate / workers + CURVES_SECONDS) + CURVES_SECONDS
                 + (EVALUATION_START * pace.start_seconds if phase.evaluations else 0.0),
                 saving, pace.start_seconds)


def paces(config: EstimateConfig, phases: Sequence[Phase], programs: Sequence[str]) -> List[Pace]:
    """The speed in each phase, given or timed. One value is that of the first phase; in the second one, with longer
    sequences, the FLOPs per second are the same."""
    rates = config.rates
    if not rates:
        found = [time_updates(phase, program, config.timed_updates) if phase.updates else Pace(0.0)
                 for phase, program in zip(phases, programs)]
        return [found[0]._replace(start_seconds=found[0].start_seconds + wrapper_seconds()), *found[1:]]
    if len(rates) == 1:
        rates = [rates[0] * phases[0].flops / phase.flops for phase in phases]
    return [Pace(rate) for rate in rates]


def as_json(config: EstimateConfig, phases: Sequence[Phase], speeds: Sequence[Pace]) -> dict:
    """Everything in the table, in bytes and seconds."""
    left_out = ("config", "timed", "folder")
    described = [{**{name: value for name, value in phase._asdict().items() if name not in left_out},
                  "speed": pace._asdict(), "seconds": {
                      str(workers): times and {**times._asdict(), "total": times.total}
                      for workers in worker_counts(phases)
                      for times in [times_on(phase, pace, workers, config.network_gbits)]}}
                 for phase, pace in zip(phases, speeds)]
    return {"network_gbits": config.network_gbits, "phases": described}


def worker_counts(phases: Sequence[Phase]) -> List[int]:
    """The numbers of workers to estimate for."""
    return sorted({*WORKERS, *(phase.workers for phase in phases)})


# --- The table ---


def count(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:,.2f} {letter}"
    return f"{number:,.0f}"


def gigabytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.0f} MB"


def speed(rate: float) -> str:
    return f"{rate:,.{0 if rate >= 100 else 2}f}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = f"{seconds / 3600:,.1f} h"
    return hours if seconds < 48 * 3600 else f"{hours} ({seconds / 86400:,.1f} days)"


def rows(phases: Sequence[Phase], speeds: Sequence[Pace]) -> Iterator[List[str]]:
    """The rows of the first table: a name, and a cell for each phase."""
    yield ["", *(phase.name for phase in phases)]
    yield ["sequence length, tokens", *(f"{phase.length:,}" for phase in phases)]
    if any(phase.done for phase in phases):
        yield ["updates done before", *(f"{phase.done:,}" for phase in phases)]
    yield ["updates", *(f"{phase.updates:,}" for phase in phases)]
    yield ["warm-up, updates", *(f"{phase.warmup:,}" for phase in phases)]
    yield ["sequences per update (global batch)", *(f"{phase.batch_size * phase.micro_batches:,}" for phase in phases)]
    yield ["sequences", *(count(phase.sequences) for phase in phases)]
    yield ["tokens, with padding", *(count(phase.tokens) for phase in phases)]
    yield ["sequences in the data", *(count(phase.records) for phase in phases)]
    yield ["epochs", *(f"{phase.sequences / phase.records:,.2f}" for phase in phases)]
    for name in dict.fromkeys(name for phase in phases for name, _ in phase.mixture):
        own = [dict(phase.mixture).get(name) for phase in phases]
        yield [f"epochs of {name}", *("-" if epochs is None else f"{epochs:,.2f}" for epochs in own)]
    yield ["parameters", *(count(phase.parameters) for phase in phases)]
    yield ["memory per worker", *(gigabytes(phase.memory) for phase in phases)]
    if any(pace.memory for pace in speeds):
        yield ["memory of the timed process", *(gigabytes(pace.memory or 0) for pace in speeds)]
    yield ["checkpoints on disk, at most", *(gigabytes(phase.disk) for phase in phases)]
    yield ["speed of one worker, sequences/s", *(
        f"{speed(pace.sequences_per_second)} ({f'{pace.updates} updates timed' if pace.updates else 'given'})"
        for pace in speeds)]
    yield ["model FLOPs per second", *(flops.in_words(pace.sequences_per_second * phase.flops)
                                       for phase, pace in zip(phases, speeds))]


def time_rows(config: EstimateConfig, phases: Sequence[Phase], speeds: Sequence[Pace]) -> Iterator[List[str]]:
    """The rows of the second table: a number of workers, a cell for each phase, and the total."""
    yield ["time on", *(phase.name for phase in phases), *(["in all"] if len(phases) > 1 else [])]
    for workers in worker_counts(phases):
        found = [times_on(phase, pace, workers, config.network_gbits) for phase, pace in zip(phases, speeds)]
        cells = [f"{duration(times.total)} [{times.batch_size} x {times.accumulation}]" if times else "-"
                 for times in found]
        if len(phases) > 1:
            cells.append(duration(sum(times.total for times in found)) if all(found) else "-")
        yield [f"{workers} worker{'s' * (workers > 1)}", *cells]


def aligned(table: Sequence[List[str]]) -> List[str]:
    widths = [max(map(len, column)) for column in zip(*table)]
    return ["   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table]


def text_of(config: EstimateConfig, phases: Sequence[Phase], speeds: Sequence[Pace], device: str) -> str:
    """The two tables, and how to read them."""
    exchange = exchange_seconds(phases[0].parameters, 8, config.network_gbits, phases[0].compressed)
    start_up = "the start-up was timed" if any(pace.updates for pace in speeds) else "the start-up is not included"
    notes = [
        "In brackets: batch size x gradient accumulation of each worker, for the same updates; - where an update has "
        "fewer sequences than there are workers. Each worker is one device with the speed above. 8 workers exchange "
        f"their gradients in {exchange:.3f} s per update (--network_gbits={config.network_gbits:g}).",
        f"Memory, checkpoints and evaluations are estimated; {start_up}. Nothing was trained."]
    free, disk = Checkpoints(phases[0].folder).free_bytes(), sum(phase.disk for phase in phases)
    notes.append(f"{'NOT ENOUGH DISK SPACE: ' if free < disk else ''}{gigabytes(free)} are free for the checkpoints in "
                 f"{phases[0].folder}.")
    memory = preflight.free_memory()
    if device == "cpu" and memory is not None:
        refusal = "NOT ENOUGH MEMORY: " if memory < max(phase.memory for phase in phases) else ""
        notes.append(f"{refusal}{gigabytes(memory)} of memory are free on this machine.")
    notes = [line for note in notes
             for line in textwrap.wrap(note, 110, break_long_words=False, break_on_hyphens=False)]
    return "\n".join([*aligned(list(rows(phases, speeds))), "", *aligned(list(time_rows(config, phases, speeds))), "",
                      *notes])


# --- The command ---


def parse(argv: Sequence[str]) -> Tuple[EstimateConfig, List[Tuple[str, Union[PretrainingConfig, SquadConfig]]]]:
    """The options of this command, and the programs after -- with theirs. Raises: UserError."""
    calls: List[List[str]] = [[]]
    for word in argv:
        if word == "--":
            calls.append([])
        else:
            calls[-1].append(word)
    config = command_line.parse(EstimateConfig, calls[0], __doc__)
    commands: list = []
    for program, *words in calls[1:]:
        if os.path.basename(program) == "run_pretraining.py":
            found = command_line.parse(PretrainingConfig, [program, *words], "", OLD_NAMES, quiet=True)
            trains = not found.eval_only
        elif os.path.basename(program) == "run_tf_squad.py":
            found = command_line.parse(SquadConfig, [program, *words], "")
            trains = found.do_train
        else:
            raise UserError(f"{program} cannot be estimated: give run_pretraining.py or run_tf_squad.py after --.")
        if not trains:
            raise UserError(f"{program} does not train in this call, and only training can be estimated: correct its "
                            "options.")
        commands.append((program, found))
    if not commands:
        raise UserError("there is no command to estimate: give it after --, as in 'estimate.py -- run_pretraining.py "
                        "--pretrain_tfrecords=DIR'.")
    if len(config.rates) > len(commands):
        raise UserError(f"--sequences_per_second={config.sequences_per_second} has {len(config.rates)} values, and "
                        f"{len(commands)} phase is estimated: give one.")
    return config, commands


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """A new folder, removed at the end, also after SIGINT and SIGTERM. Raises: Interrupted: after one of them."""
    def stop(number, frame):
        for other in files.STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # the folder is being removed
        raise Interrupted(f"stopped by {signal.Signals(number).name}: nothing was trained or written.")

    previous = {number: signal.signal(number, stop) for number in files.STOP_SIGNALS}
    folder = files.temporary_name(os.path.join(tempfile.gettempdir(), "electra"))
    try:
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder, 0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in previous.items():
            signal.signal(number, handler)


def open_phases(config: EstimateConfig, commands: Sequence[tuple], folder: str) -> List[Phase]:
    """Checks the input of all phases. Raises: UserError."""
    phases: List[Phase] = []
    for _, of_phase in commands:
        if isinstance(of_phase, SquadConfig):
            # A card that this machine does not have has memory of its own.
            phases.append(fine_tuning(dataclasses.replace(of_phase, force=of_phase.force or bool(config.rates)),
                                      folder, config.timed_updates))
            continue
        # Phase 2 after a phase 1 that starts from scratch does so too.
        resumes = not phases or bool(commands[0][1].restore_checkpoint)
        phases.append(pretraining(of_phase, folder, config.timed_updates, resumes))
        if not config.rates:
            preflight.check_memory(of_phase, phases[-1].memory, "train_batch_size")
    return phases


def main(argv):
    config, commands = parse(argv)
    if config.estimate_file:
        configuration.check_folder(os.path.dirname(os.path.abspath(config.estimate_file)), "estimate_file")
        if os.path.isdir(config.estimate_file):
            raise UserError(f"--estimate_file={config.estimate_file} is a folder: give a file name in it.")
    with temporary_folder() as folder:
        phases = open_phases(config, commands, folder)
        speeds = paces(config, phases, [program for program, _ in commands])
    print(text_of(config, phases, speeds, commands[0][1].device), flush=True)
    if config.estimate_file:
        os.makedirs(os.path.dirname(os.path.abspath(config.estimate_file)), exist_ok=True)
        files.write_json(config.estimate_file, as_json(config, phases, speeds))


if __name__ == "__main__":
    command_line.run_command(main)
