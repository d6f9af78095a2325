"""Several workers on one training: which one this process is, and what they exchange (Horovod).

Every worker runs the same program on its own device and its own part of the data; gradients are averaged, rank 0 writes
files. Horovod is only imported where there is more than one worker. The launcher (mpirun, horovodrun, a scheduler) says
who is who in OMPI_COMM_WORLD_* or HOROVOD_*.
"""
from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from typing import Any, List, Sequence

import tensorflow as tf

from configuration import RunFailed, UserError, launched


@dataclasses.dataclass(frozen=True)
class Workers:
    """`rank` of `size` processes, `local_rank` of `local_size` on this machine. By itself: one worker."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes files and talks."""
        return self.rank == 0

    def mean(self, tensors: Sequence[tf.Tensor]) -> List[tf.Tensor]:
        """The workers' means of float32 tensors, in one exchange; inside a traced function or not."""
        return list(tensors)

    def broadcast(self, variables: Sequence[tf.Variable]):
        """Gives every worker rank 0's values."""

    def from_chief(self, value: Any) -> Any:
        """Rank 0's `value` (anything that pickles), at every worker. What others pass is ignored."""
        return value

    def gather(self, value: Any) -> List[Any]:
        """Every worker's `value` (anything that pickles) in the order of ranks, at every worker."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Whether any worker says so. Asked before every update, so it does not wait for the device."""
        return flag

    @contextlib.contextmanager
    def chief_first(self):
        """Rank 0 runs the block alone, then the others do, who find the files it wrote."""
        if not self.is_chief:
            self.from_chief(None)
        yield
        if self.is_chief:
            self.from_chief(None)


ALONE = Workers()


class HorovodWorkers(Workers):
    """Args: compression: none, fp16 or bf16, the type in which gradients travel."""

    def __init__(self, horovod, compression: str = "none"):
        super().__init__(horovod.rank(), horovod.size(), horovod.local_rank(), horovod.local_size())
        object.__setattr__(self, "_horovod", horovod)
        object.__setattr__(self, "_travels_as", {"none": None, "fp16": tf.float16, "bf16": tf.bfloat16}[compression])

    def mean(self, tensors):
        tensors = list(tensors)
        kinds, shapes = [tensor.dtype for tensor in tensors], [tensor.shape for tensor in tensors]
        if self._travels_as:
            tensors = [tf.cast(tensor, self._travels_as) for tensor in tensors]
        if getattr(self._horovod, "hccl_built", lambda: False)():
            # Of the two exchanges habana-horovod has only the plain one on the card (and only that one in bfloat16):
            # one vector, so that it is still one exchange.
            vector = self._horovod.allreduce(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0),
                                             op=self._horovod.Average)
            parts = tf.split(vector, [shape.num_elements() for shape in shapes])
            means = [tf.reshape(part, shape) for part, shape in zip(parts, shapes)]
        else:
            means = self._horovod.grouped_allreduce(tensors, op=self._horovod.Average)
        return [tf.cast(mean, kind) for mean, kind in zip(means, kinds)]

    def broadcast(self, variables):
        self._horovod.broadcast_variables(variables, root_rank=0)

    # What is pickled travels as bytes, which a Gaudi card has no type for.

    def from_chief(self, value):
        with tf.device("CPU"):
            return self._horovod.broadcast_object(value, root_rank=0)

    def gather(self, value):
        with tf.device("CPU"):
            return self._horovod.allgather_object(value)

    def any(self, flag):
        with tf.device("CPU"):
            return int(self._horovod.allreduce(tf.constant(int(flag)), op=self._horovod.Sum)) > 0


def place(num_workers: int, pin_cores: bool = False) -> Workers:
    """This process among the others, as the launcher says. Call it before TensorFlow makes its threads.

    Args:
        num_workers: how many there should be; 0 takes what the launcher started.
        pin_cores: they compute on the processor: give each of this machine its share of the cores.
    Raises: UserError: Horovod is missing, or the workers are not as many as asked for.
    """
    started = launched("SIZE") or 1
    others = [name for name in ("SLURM_STEP_NUM_TASKS", "PMI_SIZE") if int(os.environ.get(name) or 1) > 1]
    if launched("SIZE") is None and others:
        raise UserError(f"{others[0]}={os.environ[others[0]]} says that this process is one of several, which Horovod "
                        "does not learn from that launcher: start them with mpirun, or one of them with --num_workers.")
    if num_workers > 1 and started == 1:
        raise UserError(f"--num_workers={num_workers}, but this process was started alone: give num_workers to "
                        "scripts/electra.sh or scripts/electra_squad.sh, or start it under mpirun or horovodrun.")
    if num_workers and started not in (1, num_workers):
        raise UserError(f"--num_workers={num_workers}, but the launcher started {started} processes: give both the "
                        "same number.")
    if started == 1:
        return ALONE
    if importlib.util.find_spec("horovod") is None:
        raise UserError(f"{started} workers need Horovod, which is not installed: run "
                        "'bash scripts/install_horovod.sh', or use one worker.")
    placed = Workers(launched("RANK") or 0, started, launched("LOCAL_RANK") or 0, launched("LOCAL_SIZE") or 1)
    if pin_cores:
        # Horovod's thread looks for work every millisecond by default, on the core that computes: that took a seventh
        # of it (`small`, two workers of one core: 12.5 sequences/s, 14.9 with 5 ms).
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "5")
        if hasattr(os, "sched_setaffinity"):
            pin_to_cores(placed.local_rank, placed.local_size)
    return placed


def join(placed: Workers, compression: str = "none") -> Workers:
    """Joins the others through Horovod; call it after the device is open.

    Args: compression: see `HorovodWorkers`.
    Raises: UserError: Horovod was built for something else, counts others than the launcher, or lacks the type.
    """
    if placed.size == 1:
        return placed
    try:
        import horovod.tensorflow as horovod
        horovod.init()
    except Exception as error:  # ImportError, or what its libraries raise when built for another TensorFlow
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Horovod does not load with TensorFlow {tf.__version__} ({reason}): build it again with "
                        "'bash scripts/install_horovod.sh'.") from error
    if horovod.size() != placed.size:
        why = "" if horovod.mpi_built() else " (it is built without MPI and cannot join what mpirun starts)"
        raise UserError(f"the launcher started {placed.size} processes, but Horovod counts {horovod.size()}{why}: use "
                        "horovodrun --gloo, or build Horovod with MPI.")
    workers = HorovodWorkers(horovod, compression)
    if compression != "none":
        try:
            workers.mean([tf.zeros([1])])
        except (TypeError, tf.errors.OpError) as error:
            raise UserError(f"--gradient_compression={compression}: this Horovod cannot exchange that type; choose "
                            f"{'fp16 or none' if compression == 'bf16' else 'none'}.") from error
    return workers


def pin_to_cores(local_rank: int, local_size: int):
    """Keeps this process on its share of the cores, unless the launcher has bound it already or there are too few."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == os.cpu_count() and len(cores) >= local_size:
        bounds = [rank * len(cores) // local_size for rank in (local_rank, local_rank + 1)]
        os.sched_setaffinity(0, cores[slice(*bounds)])


@contextlib.contextmanager
def catch_lost_workers():
    """Turns what Horovod raises when another worker is gone into one sentence."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "HorovodInternalError" and not (
                isinstance(error, tf.errors.OpError) and "Horovod" in str(error)):
            raise
        raise RunFailed("another worker has ended, so this one ends too; the reason is in that worker's output. The "
                        "checkpoints are whole: resume from the last one.") from error
