"""Writing safely: atomic files and folders, and the lock that keeps two processes out of one folder.

Files and folders are written under a temporary name beside the target, then renamed. The name has the host, the process
and a number, so that no two writers share one, and so that what a killed process left can be recognized and removed.

Only the standard library is used: the wrappers' Python imports this before any environment exists.
"""
from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import glob
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

PATH_BYTES = 4096  # the longest path on Linux
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# --- Temporary names ---

HOST = re.sub("[^A-Za-z0-9]", "_", socket.gethostname())[:40]
ABANDONED_SECONDS = 24 * 3600  # after which what a process of another host was writing counts as left behind
_TEMPORARY = re.compile(r"(.+)\.tmp-([A-Za-z0-9_]+)-([0-9]+)-([A-Za-z0-9]+)")
_numbers = itertools.count(1)
_in_use = set()  # temporary names of this process


def temporary_name(path: str) -> str:
    """A name beside `path` that no other process or thread uses, on any host."""
    return f"{path}.tmp-{HOST}-{os.getpid()}-{next(_numbers)}"


def is_running(pid: int) -> bool:
    """Whether a process of this host has this id, and has not ended (a zombie has)."""
    try:
        os.kill(pid, 0)
    except (OverflowError, ProcessLookupError):
        return False
    except OSError:  # another user's
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:  # no /proc, or it has just ended
        return not os.path.exists("/proc/self/stat")


def _is_abandoned(path: str) -> bool:
    """Whether `path` is a temporary name whose process has ended; on another host, one unchanged for a day."""
    match = _TEMPORARY.fullmatch(os.path.basename(path))
    if not match or os.path.abspath(path) in _in_use:
        return False
    if match[2] == HOST:
        return int(match[3]) == os.getpid() or not is_running(int(match[3]))
    return time.time() - os.lstat(path).st_mtime > ABANDONED_SECONDS


def remove_junk(*folders: str):
    """Removes what killed processes left in the folders: temporary files, and the wrappers' temporary folders.

    For those who hold the folder's lock. Folders that do not exist are passed over.
    """
    for folder in set(folders):
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):  # another user's, or just removed
                    if not _is_abandoned(path):
                        continue
                    if not os.path.isdir(path) or os.path.islink(path):
                        os.remove(path)
                    elif name.startswith(WRAPPER_FOLDERS):
                        shutil.rmtree(path)


WRAPPER_FOLDERS = ("electra.tmp-", ".workers.tmp-")  # of scripts/environment.sh: named pipes, statuses of workers


# --- Files ---


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary name beside `path`; the file written there replaces `path` when the block succeeds.

    The content is flushed to disk before the rename, so a power failure leaves the old file or the new one. After an
    exception the temporary file is removed and `path` is unchanged.
    """
    temporary = temporary_name(path)
    _in_use.add(os.path.abspath(temporary))
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, temporary):  # writing names no file, opening the temporary one
            error.filename = path
        raise
    finally:
        _in_use.discard(os.path.abspath(temporary))
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_text(path: str, content: str):
    """Writes a UTF-8 text file atomically. Raises: OSError."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)


def write_json(path: str, content: dict):
    """Writes an indented JSON file atomically. Raises: OSError.

    UTF-8 cannot hold a lone surrogate (from a broken JSON escape, or a path that is not UTF-8): it is escaped.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_text(path, re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def open_regular(path: str, mode: str = "r", **options):
    """`open`, for reading. Raises: OSError, also for a FIFO, which may never have a writer, or a device without end."""
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # `open` refuses a directory
        raise OSError(errno.EINVAL, "not a regular file", path)
    return open(path, mode, **options)


def matching(pattern: str) -> List[str]:
    """The path itself if it exists, else the paths that it matches as a glob, sorted.

    Existing folders at its beginning are taken literally: `a[1]/*.txt` finds the files in a folder `a[1]`.
    """
    if len(os.fsencode(pattern)) > PATH_BYTES:  # looking for patterns in it takes time that grows with its square
        return []
    existing = pattern
    while existing and not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if existing == pattern:
        return [pattern] if pattern else []
    return sorted(glob.glob(glob.escape(existing) + pattern[len(existing):]))


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

LONGEST_PATH, DEEPEST_PATH = 3800, 200  # bytes and parts: names of files in it are to fit, and recursion into it


def obstacle(folder: str, replaced: bool = False) -> str:
    """Why `folder` cannot be created or used, as the end of a sentence that begins with it. Empty: it can.

    Args:
        replaced: it is created or replaced as a whole, see `new_folder`.
    """
    try:
        here = os.getcwd()
        path = os.path.realpath(folder)
    except OSError as error:
        return f"cannot be found, because the current folder was removed ({error.strerror})"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid UTF-8, and TensorFlow and other libraries cannot open it"
    if len(os.fsencode(path)) > LONGEST_PATH or path.count(os.sep) > DEEPEST_PATH:
        return "is too long a path"
    existing = path
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        return "is not a directory" if existing == path else f"cannot be written, because {existing} is not a directory"
    if replaced and os.path.ismount(path):
        return "is a mount point, which cannot be replaced"
    if replaced and os.path.commonpath([here, path]) == path:
        return "is or contains the current folder, which cannot be replaced"
    place = os.path.dirname(path) if replaced and existing == path else existing
    if not os.access(place, os.W_OK | os.X_OK):
        return f"cannot be written ({place}: permission denied, or a read-only file system)"
    name_max = os.pathconf(existing, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > name_max for part in path.split(os.sep)):
        return f"has a name of more than {name_max} bytes"
    return ""



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
    _check_target(path, replace)
    temporary = temporary_name(path)
    _in_use.add(temporary)
    try:
        os.makedirs(os.path.join(temporary, "new"))
        yield os.path.join(temporary, "new")
        _move_new(temporary, path, replace)
    finally:
        _in_use.discard(temporary)
        _put_back(temporary, path)
        shutil.rmtree(temporary, ignore_errors=True)


def partial_name(path: str) -> str:
    """The folder of `kept_folder`: hidden, beside `path`."""
    folder, name = os.path.split(os.path.realpath(path))
    return os.path.join(folder, f".{name}.partial")


@contextlib.contextmanager
def kept_folder(path: str, replace: bool = False) -> Iterator[str]:
    """Yields the folder `partial_name(path)`, which stays if the block fails, for the next call to continue.

    The block creates a folder `new` in it, which replaces `path` as in `new_folder`; after that the rest is removed.
    The caller holds a lock, because all calls for one `path` share the folder.

    Args, Raises: see `new_folder`.
    """
    path = os.path.realpath(path)
    remove_leftovers(path)
    _check_target(path, replace)
    temporary = partial_name(path)
    os.makedirs(temporary, exist_ok=True)
    try:
        yield temporary
        _move_new(temporary, path, replace)
    finally:
        _put_back(temporary, path)
    shutil.rmtree(temporary, ignore_errors=True)


def _check_target(path: str, replace: bool):
    if os.path.lexists(path) and (not os.path.isdir(path) or not replace and os.listdir(path)):
        code = errno.EEXIST if os.path.isdir(path) else errno.ENOTDIR
        raise OSError(code, os.strerror(code), path)


def _move_new(temporary: str, path: str, replace: bool):
    with blocked_signals():
        if replace and os.path.isdir(path):
            os.rename(path, os.path.join(temporary, "old"))
        os.rename(os.path.join(temporary, "new"), path)  # fails if `path` is a folder that is not empty


def remove_leftovers(path: str):
    """Removes temporary folders that killed processes left beside `path`; puts back a folder they were replacing.

    `new_folder` and `kept_folder` do so too; call this before checking what is in `path`.
    """
    path = os.path.realpath(path)
    _put_back(partial_name(path), path)
    for leftover in glob.glob(glob.escape(path) + ".tmp-*"):
        with contextlib.suppress(OSError):  # a file, or another user's
            if set(os.listdir(leftover)) <= {"new", "old"} and _is_abandoned(leftover):
                _put_back(leftover, path)
                shutil.rmtree(leftover, ignore_errors=True)


def _put_back(temporary: str, path: str):
    """Puts the replaced folder back, or deletes it if the new one is in its place."""
    old = os.path.join(temporary, "old")
    if os.path.isdir(old) and not os.path.lexists(path):
        os.rename(old, path)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def blocked_signals(in_new_processes: bool = False):
    """SIGINT and SIGTERM wait for the end of the block.

    Args:
        in_new_processes: processes that start in the block have these signals blocked.
    """
    def wait(number, frame):
        waiting.append(number)

    waiting, handlers = [], {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: handler for number, handler in zip(STOP_SIGNALS, map(signal.getsignal, STOP_SIGNALS))
                    if handler is not None}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for number in handlers:
            signal.signal(number, wait)
        # Where a handler can wait, nothing is masked: another thread would receive the signal (numpy and TensorFlow
        # have some), maybe while the handler is put back, and Python drops what it finds no handler for.
        masked = STOP_SIGNALS if in_new_processes else [number for number in STOP_SIGNALS if number not in handlers]
        signal.pthread_sigmask(signal.SIG_BLOCK, masked)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)


# --- Locks ---

HEARTBEAT_SECONDS = 10.0  # between two signs of life of a lock's holder
STALE_SECONDS = 60.0  # a holder on another machine without a sign of life for so long has ended
PATIENCE_SECONDS = 3.0  # a holder that was killed a moment ago may live that long
ORPHAN_SECONDS = 120.0  # the same for a command whose wrapper was killed: it saves, then ends


class Held(Exception):
    """Another process holds the lock. The text says which, where and since when."""


class Holder(NamedTuple):
    """Who holds a lock, as its file says."""

    host: str
    machine: str  # identifies the running kernel, which containers share
    pid: int
    wrapper: str  # see `wrapper_is_gone`
    command: str
    since: str
    id: str

    def __str__(self) -> str:
        return f"{self.command.split(' ')[0]} (process {self.pid} on {self.host}, since {self.since})"

    @classmethod
    def myself(cls) -> Holder:
        return cls(socket.gethostname(), _machine(), os.getpid(), os.environ.get("ELECTRA_WRAPPER", ""),
                   " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]]),
                   datetime.datetime.now().isoformat(" ", "seconds"), secrets.token_hex(8))

    @classmethod
    def read(cls, path: str) -> Optional[Holder]:
        """None where the file is empty or damaged. Raises: OSError."""
        with open(path, encoding="utf-8", errors="replace") as file:
            try:
                return cls(**json.load(file))
            except (RecursionError, TypeError, ValueError):
                return None


UNKNOWN = Holder("", "", 0, "", "", "", "")  # has created the file, and not written its name yet


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return socket.gethostname()


def wrapper_is_gone(wrapper: str) -> bool:
    """Whether a command's wrapper was killed.

    Args:
        wrapper: $ELECTRA_WRAPPER: `<process_space>:<pid>`, or several pids separated by commas where one wrapper was
            started by another. Those of another machine or container are not looked at.
    """
    space, _, pids = wrapper.partition(":")
    return space == process_space() and not all(is_running(int(pid)) for pid in pids.split(",") if pid.isdigit())


def process_space() -> str:
    """Identifies the running kernel and the container: where process ids mean the same."""
    try:
        return f"{_machine()}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return HOST


@contextlib.contextmanager
def hold(path: str, log: Callable[[str], None] = print) -> Iterator[None]:
    """Holds the lock file `path` during the block; the folder of the file must exist.

    The file says who holds it. The kernel's lock on it (flock) ends with the process, also by kill -9, so the next
    start takes over at once. That lock may not reach other machines (NFS, some network file systems), or not exist at
    all: a holder on another machine counts as alive while it touches the file every HEARTBEAT_SECONDS, and is taken
    over after STALE_SECONDS without. A holder that finds that it was taken over (it was suspended) ends at once.

    Raises: Held. OSError: the file cannot be written.
    """
    lock = _Lock(path, log)
    try:
        lock.take()
        yield
    finally:  # also after a signal in `take`
        lock.release()


class _Lock:
    def __init__(self, path: str, log: Callable[[str], None]):
        self.path, self.log = path, log
        self.holder, self._file, self._ended = Holder.myself(), -1, threading.Event()

    def take(self):
        began, first, said = time.monotonic(), None, False
        while True:
            holder, beat = self._try()
            if holder is None:
                break
            first = first or (holder.id, beat)
            if beat is not None:  # on another machine: refused at its next sign of life
                limit, reason = STALE_SECONDS + HEARTBEAT_SECONDS if (holder.id, beat) == first else 0, "may be dead"
            elif wrapper_is_gone(holder.wrapper):
                limit, reason = ORPHAN_SECONDS, "saves and ends, because its wrapper was killed"
            else:
                limit, reason = PATIENCE_SECONDS, ""
            if time.monotonic() - began >= limit:
                raise Held(str(holder) if holder.pid else "a process that has just started")
            if reason and not said:
                self.log(f"waiting for {holder}, which {reason}.")
                said = True
            time.sleep(0.1)
        threading.Thread(target=self._beat, daemon=True).start()

    def _try(self) -> Tuple[Optional[Holder], Optional[float]]:
        """One attempt. Returns: (None, None) where the lock is ours now, else the holder and, where it is not certain
        that it lives, the time of its last sign of life."""
        try:
            file, created = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            try:
                file, created = os.open(self.path, os.O_RDWR), False
            except FileNotFoundError:  # released meanwhile
                if os.path.islink(self.path):
                    raise
                return self._try()
        try:
            with contextlib.suppress(FileNotFoundError):
                found = self._judge(file, created)
                if found == (None, None):
                    self._file, file = file, -1
                return found
            return UNKNOWN, None  # released meanwhile
        except BaseException:
            if created:
                with contextlib.suppress(OSError):
                    os.remove(self.path)
            raise
        finally:
            if file >= 0:
                os.close(file)

    def _judge(self, file: int, created: bool) -> Tuple[Optional[Holder], Optional[float]]:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            return Holder.read(self.path) or UNKNOWN, None
        except OSError:  # a file system without locks
            locked = False
        if not os.path.samestat(os.fstat(file), os.stat(self.path)):
            return UNKNOWN, None
        holder, beat = Holder.read(self.path), os.fstat(file).st_mtime
        if not created and not (locked and holder is None):
            holder = holder or UNKNOWN
            here = holder.machine == self.holder.machine
            if here and not locked and holder.host == self.holder.host and is_running(holder.pid):
                return holder, None
            if not here and self._now() - beat < STALE_SECONDS:
                return holder, beat
            self.log(f"taking over the lock of {holder}, which has ended.")
        if locked or created:
            os.ftruncate(file, 0)
            os.pwrite(file, self._text().encode(), 0)
        else:
            self._replace()
        return (None, None) if Holder.read(self.path) == self.holder else (UNKNOWN, None)

    def _text(self) -> str:
        return json.dumps(self.holder._asdict()) + "\n"

    def _replace(self):
        """Takes over without the kernel's help. Of several processes that do so at once the last one wins."""
        write_text(self.path, self._text())
        time.sleep(1)

    def _now(self) -> float:
        """The time by the clock of the file system, which touches files of all machines."""
        temporary = temporary_name(self.path)
        try:
            with open(temporary, "w") as file:
                return os.fstat(file.fileno()).st_mtime
        finally:
            with contextlib.suppress(OSError):
                os.remove(temporary)

    def _beat(self):
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                holder = Holder.read(self.path)
                if holder not in (None, self.holder) and not self._ended.is_set():
                    sys.stderr.write(f"{self.path} was taken over by {holder} while this process was suspended: it "
                                     "ends without saving.\n")
                    sys.stderr.flush()
                    os._exit(1)
                os.utime(self.path)

    def release(self):
        self._ended.set()
        with contextlib.suppress(OSError):  # the folder may be gone, or its disk
            if Holder.read(self.path) == self.holder:
                os.remove(self.path)
        if self._file >= 0:
            os.close(self._file)
