"""Atomic writing: files and folders are written under a temporary name beside the target, then renamed.

Only the standard library is used: the wrappers' Python imports this before any environment exists.
"""
from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import signal
import threading
from typing import Iterator

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# --- Files ---


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary name beside `path`; the file written there replaces `path` when the block succeeds.

    The content is flushed to disk before the rename, so a power failure leaves the old file or the new one. After an
    exception the temporary file is removed and `path` is unchanged.
    """
    temporary = f"{path}.tmp{os.getpid()}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_text(path: str, content: str):
    """Writes a UTF-8 text file atomically. Raises: OSError."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)


def write_json(path: str, content: dict):
    """Writes an indented JSON file atomically. Raises: OSError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sync(path: str):
    """Flushes a file, or the names in a folder, to disk: they survive a power failure. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not os.path.isdir(path):  # some file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


# --- Folders ---


@contextlib.contextmanager
def new_folder(path: str, replace: bool = False) -> Iterator[str]:
    """Yields an empty temporary folder, which replaces `path` when the block succeeds.

    After an exception the new folder is removed and `path` is unchanged. SIGINT and SIGTERM wait for the renames;
    if a rename fails, the folder that was being replaced is put back, and after a kill the next call does so. Missing
    parent folders are created, symbolic links are followed.

    Args:
        path: an empty folder there is treated as absent.
        replace: replace a folder that is not empty. Whether its content may be deleted is up to the caller to check.
    Raises: OSError: in particular FileExistsError (a folder that is not empty, without `replace`) and
        NotADirectoryError (a file); at the end of the block too, if another process has created `path` in the meantime.
    """
    path = os.path.realpath(path)
    remove_leftovers(path)
    if os.path.lexists(path) and (not os.path.isdir(path) or not replace and os.listdir(path)):
        code = errno.EEXIST if os.path.isdir(path) else errno.ENOTDIR
        raise OSError(code, os.strerror(code), path)
    temporary = f"{path}.tmp{os.getpid()}"
    new, old = os.path.join(temporary, "new"), os.path.join(temporary, "old")
    try:
        os.makedirs(new)
        yield new
        with blocked_signals():
            if replace and os.path.isdir(path):
                os.rename(path, old)
            os.rename(new, path)  # fails if `path` is a folder that is not empty
    finally:
        _remove_temporary(temporary, path)


def remove_leftovers(path: str):
    """Removes temporary folders that killed processes left beside `path`; puts back a folder they were replacing.

    `new_folder` does so too; call this before checking what is in `path`.
    """
    path = os.path.realpath(path)
    for leftover in glob.glob(glob.escape(path) + ".tmp*"):
        with contextlib.suppress(OSError):  # a file, or another user's
            if set(os.listdir(leftover)) <= {"new", "old"} and not _is_running(leftover[len(path) + len(".tmp"):]):
                _remove_temporary(leftover, path)


def _remove_temporary(temporary: str, path: str):
    old = os.path.join(temporary, "old")
    if os.path.isdir(old) and not os.path.lexists(path):
        os.rename(old, path)
    shutil.rmtree(temporary, ignore_errors=True)


def _is_running(pid: str) -> bool:
    """Whether another process has this id. True if `pid` is not a process id."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, OSError) as error:
        return not isinstance(error, ProcessLookupError)
    return int(pid) != os.getpid()


@contextlib.contextmanager
def blocked_signals():
    """SIGINT and SIGTERM wait for the end of the block. Processes that start in it have them blocked."""
    def wait(number, frame):
        waiting.append(number)

    waiting, handlers = [], {}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if threading.current_thread() is threading.main_thread():
        # A signal that another thread receives (numpy and TensorFlow have some) is handled in this one all the same.
        handlers = {number: signal.signal(number, wait) for number in STOP_SIGNALS
                    if signal.getsignal(number) is not None}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in waiting:
            signal.raise_signal(number)
