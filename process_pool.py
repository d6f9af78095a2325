"""Worker processes of the commands that make data: progress, signals and failures.

TensorFlow is not imported: a worker starts in a fraction of a second.
"""
from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from typing import Any, Callable, Dict, Sequence

import tqdm

import files
from configuration import Interrupted, RunFailed, UserError

LOG_SECONDS = 30  # between progress lines if the output is not a terminal
CONTINUE = "run the same command again to continue"


def stop_on_signals(way_out: str = CONTINUE):
    """Makes the first Ctrl-C or SIGTERM raise `Interrupted`; later ones are ignored."""
    def stop(number, frame):
        for other in files.STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(f"stopped by {signal.Signals(number).name}: {way_out}.")

    for number in files.STOP_SIGNALS:
        signal.signal(number, stop)


def end_with_parent():
    """Lets this worker end when its parent does: the workers of a killed parent would wait forever."""
    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def begin_worker():
    """Sets up a worker process. It starts with SIGINT and SIGTERM blocked; SIGINT is left to the parent."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def run_tasks(function: Callable[[int], Any], tasks: Sequence[int], sizes: Sequence[int], processes: int,
              start_worker: Callable, arguments: tuple, what: str) -> Dict[int, Any]:
    """Calls `function` with each of `tasks` in worker processes and shows the progress.

    Args:
        tasks: numbers of the tasks, one or more; each is picklable, as are `arguments` and what `function` returns.
        sizes: bytes of the tasks by number; those not in `tasks` have finished before.
        start_worker: called as `start_worker(*arguments, done)` in each worker. `function` may count up `done[number]`.
        what: name of the work, for the progress bar.
    Returns: what `function` returned, by number.
    Raises: RunFailed: a worker failed; UserError, OSError: as in a worker.
    """
    context = multiprocessing.get_context("spawn")  # fork is unsafe with the threads of a progress bar
    done = context.RawArray("q", len(sizes))  # one writer each: no lock that a killed worker could hold
    for number in set(range(len(sizes))).difference(tasks):
        done[number] = sizes[number]
    total, initial = sum(sizes), sum(done)
    pool = concurrent.futures.ProcessPoolExecutor(min(processes, len(tasks)), context, start_worker,
                                                  (*arguments, done))
    bar = tqdm.tqdm(total=total, initial=initial, unit="B", unit_scale=True, desc=what, disable=None)
    start_time = log_time = time.monotonic()
    try:
        with files.blocked_signals(in_new_processes=True):  # they start here
            futures = {pool.submit(function, number): number for number in tasks}
        waiting = set(futures)
        while waiting:
            ended, waiting = concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_EXCEPTION)
            for future in ended:
                future.result()
                done[futures[future]] = sizes[futures[future]]
            now = sum(map(min, done, sizes))
            bar.update(now - bar.n)
            if bar.disable and time.monotonic() > log_time + LOG_SECONDS:
                log_time = time.monotonic()
                print(bar.format_meter(now, total, log_time - start_time, 0, what, unit="B", unit_scale=True,
                                       initial=initial), flush=True)
        return {number: future.result() for future, number in futures.items()}
    except (UserError, OSError, Interrupted):
        raise
    except concurrent.futures.BrokenExecutor as error:
        raise RunFailed(f"a worker process was killed (if memory ran out, use fewer --num_processes): {CONTINUE}.") \
            from error
    except Exception as error:
        raise RunFailed(f"a worker failed ({type(error).__name__}: {error}): {CONTINUE}.") from error
    finally:
        bar.close()
        for process in multiprocessing.active_children():  # idle, or still working although another has failed
            process.terminate()
        pool.shutdown()
