"""files.py: files and folders that are whole or absent, whatever interrupts the writing."""
from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

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


def test_temporary_files_of_processes_that_are_gone_are_removed(tmp_path, dead_pid):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    for name in ("a.json", f"a.json.tmp{dead_pid}", f"b.json.tmp{os.getpid()}", f"c.tmp{os.getppid()}", "d.tmpfile"):
        (folder / name).write_text(name)
    files.remove_temporaries(str(folder))
    assert sorted(os.listdir(folder)) == ["a.json", f"c.tmp{os.getppid()}", "d.tmpfile"]


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


# --- Folders ---

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


def test_only_leftovers_of_dead_processes_are_removed(target, dead_pid):
    folder = target.parent
    kept = [f"out.tmp{os.getppid()}/new/file", f"out.tmp{dead_pid}0000000000000000000/new/file", "out.tmp/new/file",
            "out.tmpx/new/file", f"other.tmp{dead_pid}/new/file"]
    for name in [*kept, f"out.tmp{dead_pid}/new/file", f"out.tmp{os.getpid()}/old/file"]:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("")
    write_folder(target, replace=True)
    assert sorted(content(folder)) == sorted([*kept, "out/file"])
    (folder / f"out.tmp{dead_pid}1").write_text("a file")
    foreign = folder / f"out.tmp{dead_pid}" / "thesis.txt"  # a folder of this name that new_folder did not make
    foreign.parent.mkdir()
    foreign.write_text("mine")
    files.remove_leftovers(str(target))
    assert foreign.exists()


def test_only_the_standard_library_is_imported():
    code = "import sys, files; sys.exit(bool({'numpy', 'absl', 'configuration'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(files.__file__), check=True)
