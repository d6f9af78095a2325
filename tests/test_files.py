"""files.py: files and folders that are whole or absent, whatever interrupts the writing."""
from __future__ import annotations

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

import files


def content(folder: pathlib.Path) -> dict:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_folder(path, text="new", **options):
    with files.new_folder(str(path), **options) as folder:
        assert os.listdir(folder) == []
        (pathlib.Path(folder) / "file").write_text(text)


@pytest.fixture
def target(tmp_path):
    """A folder with a file in it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("old")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# --- Files ---

def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.json"
    files.write_json(str(path), {"a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é"\n}\n'
    with pytest.raises(ZeroDivisionError):
        with files.replacing(str(path)) as temporary:
            pathlib.Path(temporary).write_text("half")
            raise ZeroDivisionError
    with pytest.raises(FileNotFoundError):
        files.write_text(str(tmp_path / "nowhere" / "file"), "")
    assert content(tmp_path) == {"file.json": '{\n  "a": "é"\n}\n'}
    files.write_text(str(path), "new")
    assert content(tmp_path) == {"file.json": "new"}


def test_paths_that_exist_are_not_read_as_globs(tmp_path, monkeypatch):
    for name in ("a[1]/x.txt", "a[1]/[y].txt", "a1/x.txt", "b*/x", "bc/x", "d\\e/x", "f?"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    for pattern, found in [("a[1]/x.txt", ["a[1]/x.txt"]), ("a[1]/*.txt", ["a[1]/[y].txt", "a[1]/x.txt"]),
                           ("a[12]/*", ["a1/x.txt"]), ("b*/x", ["b*/x"]), ("?c/*", ["bc/x"]), ("d\\e/*", ["d\\e/x"]),
                           ("f?", ["f?"]), ("a[1]/none*", []), ("none", []), ("", []), ("b*", ["b*"])]:
        assert files.matching(pattern) == found, pattern
        assert not pattern or files.matching(f"{tmp_path}/{pattern}") == [f"{tmp_path}/{path}" for path in found]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   OSError(errno.ENOSPC, "No space left on device", "its temporary name")])
def test_a_file_that_cannot_be_written_is_named_by_its_error(error, tmp_path, monkeypatch):
    path = str(tmp_path / "results.json")
    monkeypatch.setattr(files, "temporary_name", lambda _: "its temporary name")

    def full(*_, **__):
        raise error

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError) as caught:
        files.write_json(path, {})
    monkeypatch.undo()
    assert caught.value.filename == path and caught.value.errno == errno.ENOSPC and not os.listdir(tmp_path)


# --- Folders ---


@pytest.mark.parametrize("folder, replaced, part", [
    ("/", True, "mount point"), ("/", False, ""), (".", True, "current folder"), (".", False, ""),
    ("..", True, "current folder"), ("new/a", True, ""), ("sub", True, ""), ("file", False, "not a directory"),
    ("file/x/y", False, "not a directory"), ("loop", False, "not a directory"), ("broken", True, ""),
    ("x/" * 1000, False, "too long"), ("\udcff", True, "UTF-8"), ("\udcff", False, "UTF-8"), ("\u3042", True, ""),
])
def test_obstacles_to_a_folder_are_named(folder, replaced, part, tmp_path, monkeypatch):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "file").write_text("")
    os.symlink("loop", "loop")
    os.symlink("none", "broken")
    said = files.obstacle(folder, replaced)
    assert part in said and bool(said) == bool(part)


def test_a_current_folder_that_was_removed_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    assert "current folder was removed" in files.obstacle("x")
    monkeypatch.chdir(tmp_path)


def test_a_folder_appears_when_the_block_succeeds(tmp_path):
    path = tmp_path / "parent" / "out"
    with files.new_folder(f"{path}/") as folder:
        (pathlib.Path(folder) / "file").write_text("1")
        assert not path.exists()
    assert content(tmp_path) == {"parent/out/file": "1"} and os.listdir(path.parent) == ["out"]


def test_an_empty_folder_counts_as_none(tmp_path):
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out")
    assert content(tmp_path) == {"out/file": "new"} and os.listdir(tmp_path) == ["out"]


def test_a_folder_is_replaced_only_where_asked_and_a_file_never(target):
    with pytest.raises(FileExistsError) as caught:
        write_folder(target)
    assert caught.value.filename == str(target) and content(target) == {"mine": "old"}
    write_folder(target, replace=True)
    assert content(target) == {"file": "new"} and os.listdir(target.parent) == ["out"]
    for replace in (False, True):
        with pytest.raises(NotADirectoryError):
            write_folder(target / "file", replace=replace)
    assert content(target) == {"file": "new"} and os.listdir(target.parent) == ["out"]


def test_a_folder_that_another_process_made_meanwhile_is_kept(tmp_path):
    with pytest.raises(OSError, match="not empty|exists"):
        with files.new_folder(str(tmp_path / "out")):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("1")
    assert content(tmp_path) == {"out/theirs": "1"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_is_followed(target):
    link = target.parent / "link"
    link.symlink_to(target)
    write_folder(link, replace=True)
    assert link.is_symlink() and content(target) == {"file": "new"}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("replace", [False, True])
def test_an_exception_leaves_everything_as_it_was(target, replace, error):
    path = target if replace else target.parent / "other"
    with pytest.raises(error):
        with files.new_folder(str(path), replace=replace) as folder:
            (pathlib.Path(folder) / "file").write_text("half")
            raise error
    assert content(target.parent) == {"out/mine": "old"} and os.listdir(target.parent) == ["out"]


def test_an_interrupted_rename_puts_the_old_folder_back(target, monkeypatch):
    def rename(source, destination, rename=os.rename):
        if destination == str(target) and os.path.basename(source) == "new":
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write_folder(target, replace=True)
    assert content(target.parent) == {"out/mine": "old"} and os.listdir(target.parent) == ["out"]


# Between the two renames the process, which has another thread that can take it, sends itself a signal.
SIGNALLED = """
import os, sys, threading, time
import files
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
rename = os.rename
def signalled_rename(source, destination):
    rename(source, destination)
    if destination.endswith("old"):
        os.kill(os.getpid(), int(sys.argv[2]))
os.rename = signalled_rename
with files.new_folder(sys.argv[1], replace=True) as folder:
    open(os.path.join(folder, "file"), "w").close()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_wait_for_the_renames_and_a_kill_is_repaired_by_the_next_call(target, number):
    process = subprocess.run([sys.executable, "-c", SIGNALLED, str(target), str(int(number))],
                             stderr=subprocess.DEVNULL, cwd=os.path.dirname(files.__file__))
    assert process.returncode == -number
    if number != signal.SIGKILL:
        assert content(target) == {"file": ""}
        files.remove_leftovers(str(target))  # SIGTERM ends a process without a handler before it can tidy up
    else:
        assert not target.exists()
        with pytest.raises(FileExistsError):  # the old folder is back before anything is decided
            write_folder(target)
        assert content(target) == {"mine": "old"}
    assert os.listdir(target.parent) == ["out"]


def test_a_kept_folder_stays_after_a_failure_and_continues(target):
    kept = target.parent / ".out.partial"
    with pytest.raises(FileExistsError):
        with files.kept_folder(str(target)):
            pass
    with pytest.raises(ZeroDivisionError):
        with files.kept_folder(str(target), replace=True) as folder:
            assert folder == str(kept) == files.partial_name(str(target))
            (kept / "new").mkdir()
            (kept / "new" / "file").write_text("new")
            raise ZeroDivisionError
    assert content(target.parent) == {"out/mine": "old", ".out.partial/new/file": "new"}
    with files.kept_folder(str(target), replace=True) as folder:
        (kept / "state").write_text("of the work, not of the result")
    assert content(target.parent) == {"out/file": "new"} and os.listdir(target.parent) == ["out"]


@pytest.mark.parametrize("done", [False, True])
def test_a_kept_folder_that_was_killed_between_its_renames_is_repaired(target, done):
    kept = target.parent / ".out.partial"
    (kept / "new").mkdir(parents=True)
    target.rename(kept / "old")
    if done:
        (kept / "new").rename(target)
    files.remove_leftovers(str(target))
    assert content(target.parent) == ({} if done else {"out/mine": "old"})
    assert os.listdir(kept) == ([] if done else ["new"])


def test_only_leftovers_of_dead_processes_are_removed(target, dead_pid):
    folder, mark = target.parent, f"out.tmp-{files.HOST}"
    kept = [f"{mark}-{os.getppid()}-1/new/file", "out.tmp/new/file", f"{mark}-x-1/new/file",
            f"out.tmp-elsewhere-{dead_pid}-1/new/file", f"other.tmp-{files.HOST}-{dead_pid}-1/new/file"]
    old = f"out.tmp-elsewhere-{os.getppid()}-2"
    for name in [*kept, f"{mark}-{dead_pid}-1/new/file", f"{mark}-{dead_pid}0000000000000000000-1/new/file",
                 f"{mark}-{os.getpid()}-99/old/file", f"{old}/new/file"]:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("")
    os.utime(folder / old, (0, 0))
    write_folder(target, replace=True)
    assert sorted(content(folder)) == sorted([*kept, "out/file"])
    (folder / f"{mark}-{dead_pid}-2").write_text("a file")
    foreign = folder / f"{mark}-{dead_pid}-3" / "thesis.txt"  # a folder of this name that new_folder did not make
    foreign.parent.mkdir()
    foreign.write_text("mine")
    files.remove_leftovers(str(target))
    assert foreign.exists()


def test_temporary_names_are_unique_to_host_process_and_writer(tmp_path, monkeypatch):
    path = str(tmp_path / "file")
    with files.replacing(path) as outer, files.replacing(path) as inner:
        assert outer != inner
        monkeypatch.setattr(files, "HOST", "elsewhere")
        assert not {outer, inner} & {files.temporary_name(path)}
        for temporary in (inner, outer):
            pathlib.Path(temporary).write_text("")
    assert os.listdir(tmp_path) == ["file"]


def test_junk_of_dead_processes_is_removed_and_nothing_else(tmp_path, dead_pid):
    mark, here = f"tmp-{files.HOST}-{dead_pid}-1", tmp_path
    for name in (f"squad.npz.{mark}", f"vocab.txt.{mark}", f"curves.png.{mark}",
                 f"a.tmp-elsewhere-{os.getppid()}-1", f"old.tmp-elsewhere-{os.getppid()}-1",
                 f"b.tmp-{files.HOST}-{os.getppid()}-1", "mine.tmp", "notes.tmp-1"):
        (here / name).write_text("")
    os.utime(here / f"old.tmp-elsewhere-{os.getppid()}-1", (0, 0))
    for name in (f"electra.tmp-{files.HOST}-{dead_pid}-aB3", f".workers.tmp-{files.HOST}-{dead_pid}-aB3",
                 f"thesis.{mark}", f"electra.tmp-{files.HOST}-{os.getppid()}-aB3"):
        (here / name).mkdir()
        (here / name / "file").write_text("")
    with files.replacing(str(here / "running")) as temporary:
        pathlib.Path(temporary).write_text("")
        files.remove_junk(str(here), str(here / "missing"))
    assert sorted(os.listdir(here)) == sorted([
        f"a.tmp-elsewhere-{os.getppid()}-1", f"b.tmp-{files.HOST}-{os.getppid()}-1", "mine.tmp", "notes.tmp-1",
        f"thesis.{mark}", f"electra.tmp-{files.HOST}-{os.getppid()}-aB3", "running"])


# --- Locks ---

HOLDER = """
import sys, time
import files
with files.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Holding:
    """A process that holds a lock until it is released or killed."""

    def __init__(self, path, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=os.path.dirname(files.__file__), env={**os.environ, **environment})
        assert self.process.stdout.readline() == "held\n"

    def end(self, number=None):
        if number:
            self.process.send_signal(number)
        else:
            self.process.stdin.write("\n")
        self.process.communicate(timeout=20)


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0.3)
    return tmp_path / ".lock"


@pytest.fixture
def no_flock(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)


def take(lock) -> list:
    """Takes and releases it. Returns: what was logged."""
    lines = []
    with files.hold(str(lock), lines.append):
        assert files.Holder.read(str(lock)).pid == os.getpid()
    assert not lock.exists()
    return lines


def write_holder(lock, **changes):
    """A holder on another machine, unless `changes` say otherwise."""
    other = dict(host="elsewhere", machine="another", pid=4711, command="run_pretraining.py --seed=1", id="x")
    lock.write_text(json.dumps({**files.Holder.myself()._asdict(), **other, **changes}))


@pytest.mark.parametrize("kernel", [True, False])
def test_a_second_process_is_refused_and_told_who_holds_the_lock(lock, kernel, request):
    if not kernel:
        request.getfixturevalue("no_flock")
    holding = Holding(lock)
    with pytest.raises(files.Held) as caught:
        take(lock)
    for word in (str(holding.process.pid), files.socket.gethostname(), files.Holder.read(str(lock)).since):
        assert word in str(caught.value)
    holding.end()
    assert take(lock) == []


@pytest.mark.parametrize("kernel", [True, False])
def test_a_killed_holder_is_taken_over_at_once_with_a_line(lock, kernel, request):
    if not kernel:
        request.getfixturevalue("no_flock")
    holding = Holding(lock)
    holding.end(signal.SIGKILL)
    assert lock.exists()
    lines = take(lock)
    assert len(lines) == 1 and str(holding.process.pid) in lines[0]


def test_a_holder_that_is_just_dying_is_waited_for(lock, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 20)
    holding = Holding(lock)
    timer = threading.Timer(0.5, holding.process.kill)
    timer.start()
    take(lock)
    holding.end(signal.SIGKILL)


def test_a_holder_whose_wrapper_was_killed_is_given_time_to_save(lock, dead_pid):
    holding = Holding(lock, ELECTRA_WRAPPER=f"{files.process_space()}:{os.getpid()},{dead_pid}")
    timer = threading.Timer(1, holding.process.kill)  # later than the patience of the fixture
    timer.start()
    assert any("wrapper was killed" in line for line in take(lock))
    holding.end(signal.SIGKILL)


def test_a_killed_wrapper_is_noticed_anywhere_in_the_chain_and_on_this_host_alone(dead_pid):
    assert files.wrapper_is_gone(f"{files.process_space()}:{dead_pid}")
    assert files.wrapper_is_gone(f"{files.process_space()}:{os.getpid()},{dead_pid}")
    assert not files.wrapper_is_gone(f"{files.process_space()}:{os.getpid()},{os.getppid()}")
    assert not files.wrapper_is_gone(f"elsewhere:{dead_pid}") and not files.wrapper_is_gone("")


@pytest.mark.parametrize("kernel", [True, False])
def test_a_holder_on_another_machine_lives_while_it_touches_the_file(lock, kernel, request, monkeypatch):
    if not kernel:
        request.getfixturevalue("no_flock")
    write_holder(lock)
    beating = threading.Event()

    def beat():
        while not beating.wait(0.2):
            os.utime(lock)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(files.Held, match="4711 on elsewhere"):
        take(lock)
    beating.set()
    thread.join()
    monkeypatch.setattr(files, "STALE_SECONDS", 1.0)
    lines = take(lock)
    assert "waiting" in lines[0] and "taking over" in lines[-1]


def test_a_machine_that_was_off_for_long_is_not_waited_for(lock):
    write_holder(lock)
    os.utime(lock, (0, 0))
    lines = take(lock)
    assert len(lines) == 1 and "taking over" in lines[0]


def test_another_container_of_this_machine_is_seen_by_the_kernel_s_lock(lock):
    write_holder(lock, machine=files.Holder.myself().machine)
    assert len(take(lock)) == 1


@pytest.mark.parametrize("text", ["", "half a li", "[1]", "{}"])
def test_a_damaged_lock_file_does_not_keep_anyone_out(lock, text, monkeypatch):
    lock.write_text(text)
    take(lock)
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "")))
    lock.write_text(text)
    os.utime(lock, (0, 0))
    take(lock)


def test_a_suspended_holder_that_was_taken_over_ends_without_saving(lock):
    code = HOLDER.replace("import files", "import files; files.HEARTBEAT_SECONDS = 0.1")
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=os.path.dirname(files.__file__))
    assert process.stdout.readline() == "held\n"
    write_holder(lock)
    assert process.wait(timeout=20) == 1 and lock.exists()
    assert "4711" in process.communicate()[1]


def test_of_many_that_start_at_once_one_holds_the_lock_at_a_time(tmp_path):
    """Each adds a line and takes it away: two at once would see two lines."""
    code = """
import sys, time
import files
files.PATIENCE_SECONDS = 60
for _ in range(5):
    with files.hold(sys.argv[1], log=lambda line: None):
        with open(sys.argv[2], "x"):
            time.sleep(0.005)
        files.os.remove(sys.argv[2])
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / ".lock"), str(tmp_path / "inside")]
    processes = [subprocess.Popen(arguments, cwd=os.path.dirname(files.__file__)) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert os.listdir(tmp_path) == []


def test_only_the_standard_library_is_imported():
    code = "import sys, files; sys.exit(bool({'numpy', 'absl', 'configuration'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(files.__file__), check=True)


def test_a_signal_while_the_lock_is_taken_leaves_none(tmp_path, monkeypatch):
    def interrupt(self, file, created):
        raise KeyboardInterrupt

    monkeypatch.setattr(files._Lock, "_judge", interrupt)
    with pytest.raises(KeyboardInterrupt), files.hold(str(tmp_path / ".lock")):
        pass
    assert not os.listdir(tmp_path)
    (tmp_path / ".lock").write_text("another's")
    with pytest.raises(KeyboardInterrupt), files.hold(str(tmp_path / ".lock")):
        pass
    assert os.listdir(tmp_path) == [".lock"]


def test_a_pattern_longer_than_a_path_matches_nothing_at_once():
    assert files.matching("[" * 1_000_000) == []  # took minutes


def test_a_lock_that_is_a_broken_link_is_an_error(tmp_path):
    os.symlink("nowhere", tmp_path / ".lock")
    with pytest.raises(FileNotFoundError), files.hold(str(tmp_path / ".lock")):
        pass
