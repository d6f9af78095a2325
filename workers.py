"""Data-parallel training with Horovod: ranks and collectives.

Each worker runs the same program on its own device and its own part of the data; gradients are averaged with an
all-reduce, and rank 0 writes all files. Horovod is imported only if there is more than one worker. Ranks and sizes are
read from the launcher's environment variables: OMPI_COMM_WORLD_* (mpirun), HOROVOD_* (horovodrun) or SLURM_* (srun).
"""
from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import importlib.util
import os
import socket
import sys
import threading
import time
from typing import Any, Dict, List, Sequence

import numpy as np
import tensorflow as tf

import command_line
import configuration
import slurm
from configuration import DeviceOptions, RunFailed, UserError, in_short, launched


@dataclasses.dataclass(frozen=True)
class Workers:
    """Ranks of this process among all workers and among those of its machine. The default is a single worker."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this is rank 0, which writes files and logs to the console."""
        return self.rank == 0

    def mean(self, tensors: Sequence[tf.Tensor]) -> List[tf.Tensor]:
        """Averages float32 tensors over the workers in one all-reduce; works in eager mode and in a tf.function."""
        return list(tensors)

    def broadcast(self, variables: Sequence[tf.Variable]):
        """Assigns the values of rank 0 to the variables of all workers."""

    def from_chief(self, value: Any) -> Any:
        """Broadcasts the `value` of rank 0 (any picklable object); the argument of other workers is ignored."""
        return value

    def gather(self, value: Any) -> List[Any]:
        """All-gathers `value` (any picklable object): a list in order of rank, on every worker."""
        return [value]

    def sum(self, numbers: Sequence[int]) -> List[int]:
        """Sums each of a few small integers over the workers. Called in every update, so it does not wait for the
        device.
        """
        return list(numbers)

    @contextlib.contextmanager
    def waiting(self):
        """Around what waits for the other workers: if one of them hangs, the process ends after a time."""
        yield

    def compare(self, facts: Dict[str, Any]):
        """Compares `facts` between all workers; every worker calls it with its own.

        Raises: UserError: one has another value than rank 0 has; it names the first such worker, and what differs.
        """
        ours, *others = self.gather((socket.gethostname(), facts))
        for rank, (host, theirs) in enumerate(others, 1):
            for name in sorted({*ours[1], *theirs}):
                expected, found = ours[1].get(name, "none"), theirs.get(name, "none")
                if found != expected:
                    raise UserError(f"the workers differ: {name} is {found} in worker {rank} on {host}, and {expected} "
                                    f"in worker 0 on {ours[0]}: start all workers with the same command, data and "
                                    "software.")

    @contextlib.contextmanager
    def chief_first(self):
        """Runs the block on rank 0 first, then on the other workers, which find the files that rank 0 wrote."""
        if not self.is_chief:
            self.from_chief(None)
        yield
        if self.is_chief:
            self.from_chief(None)


ALONE = Workers()


class HorovodWorkers(Workers):
    """The workers of a Horovod job.

    Args:
        horovod: the module horovod.tensorflow, initialised.
        compression: none, fp16 or bf16, the data type of gradients in the all-reduce.
    """

    def __init__(self, horovod, compression: str = "none"):
        super().__init__(horovod.rank(), horovod.size(), horovod.local_rank(), horovod.local_size())
        object.__setattr__(self, "_horovod", horovod)
        dtypes = {"none": None, "fp16": tf.float16, "bf16": tf.bfloat16}
        object.__setattr__(self, "_compressed_dtype", dtypes[compression])
        object.__setattr__(self, "_watchdog", Watchdog(self.rank))

    def mean(self, tensors):
        tensors = list(tensors)
        if not self._compressed_dtype:
            return self._all_reduce(tensors, self._horovod.Average)
        scale = self._scale(tensors)
        small = [tf.cast(tensor * scale, self._compressed_dtype) for tensor in tensors]
        return [tf.cast(total, tensor.dtype) / (scale * self.size)
                for total, tensor in zip(self._all_reduce(small, self._horovod.Sum), tensors)]

    def _scale(self, tensors):
        """A factor, the same on all workers, that brings the sum over the workers to the upper end of float16's range.

        Horovod adds up in the compressed type and divides afterwards, so that gradients summed over micro-batches and
        workers can exceed 65,504. No element of their sum exceeds the sum of the workers' largest elements. A value
        that is not finite stays so, because infinity times 0 is NaN.
        """
        largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(tensor)) for tensor in tensors]))
        return 32768.0 / tf.maximum(self._horovod.allreduce(largest, op=self._horovod.Sum), 1e-30)

    def _all_reduce(self, tensors, op):
        shapes = [tensor.shape for tensor in tensors]
        if getattr(self._horovod, "hccl_built", lambda: False)():
            # habana-horovod has no grouped all-reduce on the card, and supports bfloat16 only in the plain one:
            # concatenating the tensors keeps it to one all-reduce.
            vector = self._horovod.allreduce(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0),
                                             op=op)
            parts = tf.split(vector, [shape.num_elements() for shape in shapes])
            return [tf.reshape(part, shape) for part, shape in zip(parts, shapes)]
        return self._horovod.grouped_allreduce(tensors, op=op)

    @contextlib.contextmanager
    def waiting(self):
        self._watchdog.since = time.monotonic()
        try:
            yield
        finally:
            self._watchdog.since = None

    def broadcast(self, variables):
        with self.waiting():
            self._horovod.broadcast_variables(variables, root_rank=0)

    # Pickled objects are sent as bytes, a data type that Gaudi cards do not support: these run on the CPU.

    def from_chief(self, value):
        with tf.device("CPU"), self.waiting():
            return self._horovod.broadcast_object(value, root_rank=0)

    def gather(self, value):
        with tf.device("CPU"), self.waiting():
            return self._horovod.allgather_object(value)

    def sum(self, numbers):
        with tf.device("CPU"), self.waiting():
            total = self._horovod.allreduce(tf.constant(list(numbers), tf.int32), op=self._horovod.Sum)
            return [int(number) for number in total.numpy()]


class Watchdog:
    """Ends this process if it waits too long for another worker, which then ends the job.

    Horovod's own stall check does nothing with Gloo: in Horovod 0.28.1 its list of ranks is empty there. A thread can
    end the process although the main thread waits inside Horovod.

    `since` is the time (of time.monotonic) from which on the process waits, or None.
    """

    def __init__(self, rank: int):
        self.rank = rank
        self.since = None
        self.limit = float(os.environ.get("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS") or 0)
        if self.limit > 0:
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            time.sleep(min(1.0, self.limit / 4))
            since = self.since
            if since is not None and time.monotonic() - since > self.limit:
                self._end()

    def _end(self):
        command_line.write_status(self.rank, RunFailed.exit_status)
        if self.rank:  # rank 0 reports, unless it is the one that hangs
            time.sleep(command_line.REPORT_SECONDS)
        print(f"worker {self.rank}: no answer from another worker for {self.limit:.0f} s "
              "(HOROVOD_STALL_SHUTDOWN_TIME_SECONDS); stopping. Saved checkpoints are intact: resume from the latest "
              "one.", file=sys.stderr, flush=True)
        os._exit(RunFailed.exit_status)


def place(num_workers: int, pin_cores: bool = False) -> Workers:
    """Reads this worker's rank from the launcher's environment. Call it before TensorFlow starts its threads.

    Args:
        num_workers: the expected number of workers; 0 accepts the number that the launcher started.
        pin_cores: for training on cpu: pin each worker of this machine to its own share of the cores.
    Raises: UserError: Horovod is not installed, or the number of workers differs from num_workers.
    """
    started = launched("SIZE") or 1
    if launched("SIZE") is None and int(os.environ.get("PMI_SIZE") or 1) > 1:
        raise UserError(f"PMI_SIZE={os.environ['PMI_SIZE']}: the launcher started several processes, but Horovod "
                        "does not support it: use srun, mpirun or horovodrun, or start one process with --num_workers.")
    if num_workers > 1 and started == 1:
        raise UserError(f"--num_workers={num_workers}, but only one process was started: pass --num_workers to "
                        "scripts/electra.sh or scripts/electra_squad.sh, or use srun, mpirun or horovodrun.")
    if num_workers and started not in (1, num_workers):
        raise UserError(f"--num_workers={num_workers}, but the launcher started {started} processes: use the same "
                        "number for both.")
    if started == 1:
        return ALONE
    if importlib.util.find_spec("horovod") is None:
        raise UserError(f"Horovod is not installed, and training with {started} workers requires it: run "
                        "'bash scripts/install_horovod.sh', or use one worker.")
    # Rank 0 may write features or download for minutes while the others wait, and a cold start differs between hosts.
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")
    os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "1800")
    placed = Workers(launched("RANK") or 0, started, launched("LOCAL_RANK") or 0, launched("LOCAL_SIZE") or 1)
    if pin_cores:
        # By default Horovod's background thread wakes up every millisecond, on a core that also computes. 5 ms is
        # faster (`small`, two workers with one core each: 14.9 instead of 12.5 sequences/s).
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "5")
        if hasattr(os, "sched_setaffinity"):
            pin_to_cores(placed.local_rank, placed.local_size)
    return placed


def join(placed: Workers, options: DeviceOptions) -> Workers:
    """Initialises Horovod and compares the workers; call it after the device is open.

    Args:
        placed: the result of `place`.
        options: the configuration of this command.
    Raises: UserError: Horovod cannot be loaded, has another size than the launcher, or does not support the data type;
        or workers differ in software or options.
    """
    if placed.size == 1:
        return placed
    try:
        import horovod.tensorflow as horovod
    except Exception as error:  # ImportError, or another error of its libraries if built for another TensorFlow
        raise unusable(error) from error
    by_gloo = configuration.started_by_srun() and horovod.gloo_built()
    with slurm.rendezvous() if by_gloo else contextlib.nullcontext():
        try:
            horovod.init()
        except Exception as error:
            raise unusable(error) from error
        if horovod.size() != placed.size:
            raise UserError(f"the launcher started {placed.size} processes, but Horovod's size is {horovod.size()}"
                            f"{wrong_size_reason(horovod)}.")
        workers = HorovodWorkers(horovod, options.gradient_compression)
        # Also before the workers disagree on which collective comes next.
        with catch_lost_workers():
            workers.compare({**software(), **settings(options)})
    compression = options.gradient_compression
    if compression != "none":
        try:
            workers.mean([tf.zeros([1])])
        except (TypeError, tf.errors.OpError) as error:
            raise UserError(f"--gradient_compression={compression} is not supported by the installed Horovod: choose "
                            f"{'fp16 or none' if compression == 'bf16' else 'none'}.") from error
    return workers


def unusable(error: Exception) -> UserError:
    return UserError(f"Horovod could not be loaded with TensorFlow {tf.__version__} ({in_short(error)}): rebuild it "
                     "with 'bash scripts/install_horovod.sh'.")


def wrong_size_reason(horovod) -> str:
    if configuration.started_by_srun():
        return ": start the workers with 'srun --mpi=pmix', or use mpirun"
    why = "" if horovod.mpi_built() else " (it was built without MPI and does not work with mpirun)"
    return f"{why}: use horovodrun --gloo, or build Horovod with MPI"


def software() -> Dict[str, str]:
    """What must be the same on all hosts: versions, and a checksum of this project's modules."""
    digest = hashlib.sha256()
    for path in sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(os.path.abspath(__file__))), "*.py"))):
        with open(path, "rb") as file:
            digest.update(os.path.basename(path).encode() + file.read())
    return {"the version of TensorFlow": tf.__version__, "the version of numpy": np.__version__,
            "the checksum of this project's modules": digest.hexdigest()[:12]}


# Options that name files of a host. What these hold is compared instead (`checksum`), or rank 0 alone uses them.
PATHS = ("pretrain_tfrecords", "eval_tfrecords", "vocab_file", "weights_dir", "restore_checkpoint", "results_dir",
         "log_dir", "json_summary", "electra_model", "init_checkpoint", "data_dir", "train_file", "predict_file",
         "cache_dir", "eval_script", "output_dir", "bf16_config_path")


def settings(options: DeviceOptions) -> Dict[str, Any]:
    """The options that must be the same in all workers, and the command that has them."""
    flags = {f"--{name}": value for name, value in dataclasses.asdict(options).items() if name not in PATHS}
    return {"the command": type(options).__name__, **flags}


def checksum(content: Any) -> str:
    """A short checksum of anything that has the same repr everywhere, for `Workers.compare`."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def pin_to_cores(local_rank: int, local_size: int):
    """Pins this process to its share of the CPU cores, unless the launcher did so or there are too few cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == os.cpu_count() and len(cores) >= local_size:
        bounds = [rank * len(cores) // local_size for rank in (local_rank, local_rank + 1)]
        os.sched_setaffinity(0, cores[slice(*bounds)])


@contextlib.contextmanager
def catch_lost_workers():
    """Turns the error that Horovod raises when another worker exits into a RunFailed."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "HorovodInternalError" and not (
                isinstance(error, tf.errors.OpError) and "Horovod" in str(error)):
            raise
        raise RunFailed("another worker exited; stopping. That worker's output gives the reason. Saved checkpoints are "
                        "intact: resume from the latest one.") from error
