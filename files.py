"""Files and folders that are whole or absent: written under a temporary name beside the target, then renamed.

Only the standard library is used: the wrappers' Python reads this before any environment exists.
"""
from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import signal
from typing import Iterator

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# --- Files ---



@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary name beside `path`; the file written there takes the place of `path` when the block succeeds.

    The content is on the disk before the rename, so that a power cut leaves the old file or the new one. After an
    exception the temporary file is gone and `path` is unchanged.
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
    """Writes a UTF-8 text file as a whole. Raises: OSError."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)


def write_json(path: str, content: dict):
    """Writes an indented JSON file as a whole. Raises: OSError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# --- Folders ---


@contextlib.contextmanager
def new_folder(path: str, replace: bool = False) -> Iterator[str]:
    """Yields an empty folder beside `path`, which takes the place of `path` when the block succeeds.

    After an exception the new folder is removed and `path` is unchanged. SIGINT and SIGTERM wait during the renames;
    where one is interrupted all the same (a signal that another thread takes, a full disk), the folder that was being
    replaced is put back, by this call or, after a kill, by the next one. Missing parents are created and symbolic links
    followed.

    Args:
        path: may be an empty folder, which counts as none.
        replace: replace a folder that is not empty. What is in it is up to the caller to check.
    Raises: OSError: among them FileExistsError, also at the end of the block (not an empty folder, and not `replace`),
        and NotADirectoryError (a file).
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
            os.rename(new, path)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY and error.filename2 == path:  # another process made it meanwhile
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
        raise
    finally:
        _remove_temporary(temporary, path)


def remove_leftovers(path: str):
    """Removes what killed processes left of `new_folder(path)`, and puts back a folder that they were replacing.

    `new_folder` does so itself; call it before checking what is in `path`.
    """
    path = os.path.realpath(path)
    for leftover in glob.glob(glob.escape(path) + ".tmp*"):
        is_ours = os.path.isdir(leftover) and set(os.listdir(leftover)) <= {"new", "old"}
        if is_ours and not _is_running(leftover[len(path) + len(".tmp"):]):
            _remove_temporary(leftover, path)


def _remove_temporary(temporary: str, path: str):
    old = os.path.join(temporary, "old")
    if os.path.isdir(old) and not os.path.lexists(path):
        os.rename(old, path)
    shutil.rmtree(temporary, ignore_errors=True)


def _is_running(pid: str) -> bool:
    """Whether another process has this id; True for what is not an id."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, OSError) as error:
        return not isinstance(error, ProcessLookupError)
    return int(pid) != os.getpid()


@contextlib.contextmanager
def blocked_signals():
    """SIGINT and SIGTERM are delivered to this thread after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
