"""scripts/launcher.py, and how the wrappers start several workers with stand-ins for Python and for the launchers.

The stand-ins for mpirun and horovodrun start the workers as the real ones do, each with its rank, end the others when
one fails, exit with a status of their own, and kill all workers on a signal. Real workers: tests/test_workers.py.
"""
from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest
from support import STAND_IN, Clone, assert_refused, commands, make_folder, wait_for, write_executable

from configuration import RunFailed
from scripts import launcher

HOROVODRUN = "-m horovod.runner.launch --gloo -np 2 --disable-cache -H localhost:2".split()
MPIRUN = "mpirun -np 2 --allow-run-as-root --tag-output --bind-to none --map-by slot -H localhost:2".split()
HOSTS = "# two machines\nnode-1 slots=8\n\n  node-2.cluster  slots = 8 # the other\n10.0.0.3 slots=4"


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """The tests themselves are not started by a launcher."""
    for name in list(os.environ):
        if name.startswith(("OMPI_", "HOROVOD_", "SLURM_")):
            monkeypatch.delenv(name)


# --- What fits together ---

@pytest.mark.parametrize("options, environment, words", [
    (dict(hostfile="HOSTS"), {}, ["--hostfile", "--num_workers"]),
    (dict(num_workers=2, hostfile="/nowhere"), {}, ["--hostfile=/nowhere", "'host1 slots=8'"]),
    (dict(num_workers=2, hostfile="/"), {}, ["--hostfile=/ ", "'host1 slots=8'"]),
    (dict(num_workers=21, hostfile="HOSTS"), {}, ["HOSTS has 20 slots", "--num_workers=21"]),
    (dict(num_workers=2, hostfile="ODD"), {}, ["ODD", "'a:2'", "'host1 slots=8'"]),
    (dict(num_workers=2, hostfile="HOSTS", cluster=True), {"HOROVOD_SIZE": "2"}, ["--hostfile", "--env=cluster"]),
    (dict(num_workers=2, cluster=True), {}, [
        "OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE", "SLURM_STEP_NUM_TASKS",
        "'srun -n 2 bash scripts/electra.sh --env=cluster'"]),
    (dict(num_workers=2), {"SLURM_STEP_NUM_TASKS": "2"}, ["one of 2 workers", "--env=cluster", "--num_workers=2"]),
    (dict(num_workers=2), {"OMPI_COMM_WORLD_SIZE": "2"}, ["one of 2 workers", "--env=cluster", "--num_workers=2"]),
    (dict(), {"HOROVOD_SIZE": "4"}, ["one of 4 workers", "--env=cluster", "--num_workers=4"]),
])
def test_options_that_contradict_each_other_are_refused(tmp_path, monkeypatch, refuses, options, environment, words):
    files = {"HOSTS": HOSTS, "ODD": "b slots=9\na:2\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    call = {**dict(num_workers=0, hostfile="", cluster=False, dry_run=False, call="electra.sh"), **options}
    text = refuses(launcher.check, *call.values())
    assert all(word in text for word in words), text


def test_what_fits_together_is_accepted(tmp_path, monkeypatch):
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    launcher.check(20, str(hosts), False, False, "electra.sh")
    launcher.check(2, "", True, True, "electra.sh")  # a dry run, not started by a scheduler
    launcher.check(0, "", True, False, "electra.sh")
    for size, number in (("1", 2), ("1", 0)):
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", size)
        launcher.check(number, "", False, False, "electra.sh")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    launcher.check(2, "", True, False, "electra.sh")


@pytest.mark.parametrize("line", ["a:2", "a", "a slots=0", "a slots=", "a slots=2x", "a b slots=2", "a, slots=2"])
def test_a_hostfile_line_of_another_form_is_refused(tmp_path, refuses, line):
    (tmp_path / "hosts").write_text(f"good slots=2 max_slots=4\n{line}\n")
    assert f"'{line}'" in refuses(launcher.read_hostfile, str(tmp_path / "hosts"), 1)


# --- What is started ---

@pytest.fixture
def horovod(monkeypatch):
    """Sets what is found in the interpreter, and whether mpirun is there."""
    def arrange(state, reason="", mpirun=None):
        monkeypatch.setattr(launcher, "horovod_in", lambda python, device: (state, reason))
        monkeypatch.setattr(launcher.shutil, "which", lambda name: mpirun)
    return arrange


def test_mpirun_is_taken_where_horovod_has_mpi_else_horovodrun(horovod, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    horovod("gloo")
    assert launcher.start("cpu", 2, "python") == ["python", *HOROVODRUN]
    assert launcher.start("cpu", 16, "python", str(hosts)) == [
        "python", *HOROVODRUN[:4], "16", "--disable-cache", "-H", "node-1:8,node-2.cluster:8,10.0.0.3:4"]
    horovod("mpi", mpirun="/opt/bin/mpirun")
    assert launcher.start("cpu", 2, "python") == MPIRUN


def test_mpirun_passes_the_environment_to_other_hosts(horovod, tmp_path, monkeypatch):
    horovod("mpi", mpirun="/opt/bin/mpirun")
    given = dict(PYTHONPATH="/lib", HABANA_LOGS="/logs", FI_EFA_USE_DEVICE_RDMA="1", MLX5_SCATTER_TO_CQE="0",
                 https_proxy="p")
    kept_here = dict(HABANA_VISIBLE_DEVICES="all", UNRELATED="1", MYPATH="2")
    for name, value in {**given, **kept_here}.items():
        monkeypatch.setenv(name, value)
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    words = launcher.start("hpu", 16, "python", str(hosts))
    # By its full path, so that Open MPI looks for its parts in the same folder on the other hosts.
    assert words[:11] == ["/opt/bin/mpirun", "-np", "16", *MPIRUN[3:9], "--hostfile", str(hosts)]
    passed = [words[i + 1] for i, word in enumerate(words) if word == "-x"]
    assert {*given, "PATH", "ELECTRA_STATUS_FILE", "ELECTRA_PROGRESS"} <= set(passed)
    assert not set(kept_here) & set(passed) and len(passed) == len(set(passed))


@pytest.mark.parametrize("state, reason, device, words", [
    ("absent", "", "cpu", ["--num_workers=2", "not installed in /my/python", "install_horovod.sh cpu"]),
    ("broken", "no symbol", "gpu", ["/my/python (no symbol)", "install_horovod.sh gpu"]),
    ("broken", "", "cpu", ["/my/python: ", "install_horovod.sh cpu"]),
    ("mpi", "", "hpu", ["--num_workers=2", "mpirun", "openmpi-bin"]),
])
def test_what_is_missing_is_refused_but_not_in_a_dry_run(horovod, refuses, state, reason, device, words):
    horovod(state, reason)
    text = refuses(launcher.start, device, 2, "/my/python")
    assert all(word in text for word in words), text
    planned = launcher.start(device, 2, "/my/python", dry_run=True)
    assert planned == (MPIRUN if device == "hpu" else ["/my/python", *HOROVODRUN])


@pytest.mark.parametrize("content, found", [
    ("def mpi_built(): return True", ("mpi", "")), ("def mpi_built(): return 0", ("gloo", "")),
    ("raise ImportError('no symbol\\nin this file')", ("broken", "no symbol")),
    ("import os; os.abort()", ("broken", "")), ("raise SystemExit(0)", ("broken", "")),
])
def test_horovod_is_loaded_in_another_process_that_says_nothing(tmp_path, monkeypatch, capfd, content, found):
    for folder in ("horovod", "horovod/tensorflow"):
        make_folder(tmp_path / folder)
    (tmp_path / "horovod" / "__init__.py").touch()
    noise = "import sys; print('noise', flush=True); print('noise', file=sys.stderr)\n"
    (tmp_path / "horovod" / "tensorflow" / "__init__.py").write_text(noise + content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python = write_executable(tmp_path / "python", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    assert launcher.horovod_in(python, "cpu") == found
    assert launcher.horovod_in(python, "hpu") == ("mpi", "")
    monkeypatch.delenv("PYTHONPATH")
    assert launcher.horovod_in(python, "cpu") == ("absent", "")
    assert launcher.horovod_in(str(tmp_path / "none"), "cpu")[0] == "broken"
    assert capfd.readouterr() == ("", "")


def test_the_command_line_prints_words_for_the_shell_or_the_error(horovod, capfdbinary):
    horovod("gloo")
    call = ["start", "cpu", "2"]
    assert launcher.main([*call, "/a b/py\udcff'thon", "", ""]) == 0
    printed = os.fsdecode(capfdbinary.readouterr().out)
    assert shlex.split(printed) == ["/a b/py\udcff'thon", *HOROVODRUN]
    horovod("absent")
    assert launcher.main([*call, "p", "", ""]) == 2
    out, err = capfdbinary.readouterr()
    assert len(out.splitlines()) == 1 and b"install_horovod.sh" in out and err == b""
    assert launcher.main([*call, "p", "", "yes"]) == 0


# --- The exit status of all workers ---

MPIRUN_SAYS = "------\nmpirun detected that one or more\n\n  Process name: [[9,1],{}]\n"


@pytest.mark.parametrize("workers, launcher_said, status, stopped, merged, shown", [
    ({}, "", 0, 0, 0, ""),
    ({0: "0", 1: "0"}, "", 0, 0, 0, ""),
    ({0: "75", 1: "2"}, "Process 0 exit with status code 75.", 1, 143, 2, ""),
    ({1: "2"}, "mpirun noticed that process rank 0 with PID 7 on node", 137, 0, 2, ""),
    ({0: "75"}, "Process 1 exit with status code 9.", 1, 0, 75, ""),
    ({0: "75", 1: "75"}, "", 0, 143, 75, ""),
    ({0: "1"}, "a\nProcess 1 exit with status code 9.\nProcess 0 exit with status code 1.\n", 1, 0, 9, "worker 1"),
    ({}, "Process 12 exit with status code 137.", 1, 0, 137, "worker 12"),
    ({1: "1"}, MPIRUN_SAYS.format(3), 1, 0, 1, "worker 3"),
    ({}, "mpirun noticed that process rank 2 with PID 7 on node", 139, 0, 139, "worker 2"),
    ({0: "0"}, "Process 1 exit with status code 1.", 1, 130, 130, ""),
    ({}, "cannot reach node-2", 3, 0, 3, "cannot reach node-2"),
    ({0: "1"}, "cannot reach node-2", 3, 0, 3, ""),
    ({}, "", 143, 143, 143, ""),
    ({0: ""}, "", 1, 0, 1, ""),
])
def test_the_statuses_are_merged(tmp_path, workers, launcher_said, status, stopped, merged, shown):
    for rank, content in workers.items():
        (tmp_path / f"rank.{rank}").write_text(content + "\n")
    if launcher_said:
        (tmp_path / "launcher.err").write_bytes(b"\xff\n")
        (tmp_path / "launcher.out").write_text(launcher_said)
    result, text = launcher.merge_statuses(str(tmp_path), status, "electra.sh", stopped)
    assert result == merged
    if shown.startswith("worker"):
        assert text == f"electra.sh: {shown} was the first to exit, with status {merged}\n"
    else:
        assert shown in text and bool(shown) == bool(text.strip())


def test_a_folder_that_is_gone_leaves_the_launchers_status(tmp_path, capsys):
    assert launcher.main(["status", str(tmp_path / "gone"), "9", "electra.sh"]) == 0
    assert capsys.readouterr() == ("9\n", "")
    (tmp_path / "rank.0").write_text("75\n")
    assert launcher.main(["status", str(tmp_path), "1", "electra.sh", "143"]) == 0
    assert capsys.readouterr() == ("75\n", "")


# --- Hosts that no longer answer ---

def test_a_restart_leaves_out_hosts_that_do_not_answer(tmp_path, monkeypatch):
    hosts, left = tmp_path / "hosts", tmp_path / "left"
    hosts.write_text("localhost slots=2\ngone slots=4\nthere slots=3\n")
    monkeypatch.setattr(launcher, "answers", lambda host: True)
    assert launcher.hosts_left(str(hosts), 9, 2, str(left)) == (9, str(hosts)) and not left.exists()
    monkeypatch.setattr(launcher, "answers", lambda host: host != "gone")
    assert launcher.hosts_left(str(hosts), 9, 5, str(left)) == (5, str(left))
    assert left.read_text() == "localhost slots=2\nthere slots=3\n"
    assert launcher.hosts_left(str(hosts), 4, 2, str(left))[0] == 4
    with pytest.raises(RunFailed, match="gone.*5 workers.*--min_workers=6"):
        launcher.hosts_left(str(hosts), 9, 6, str(left))


# --- The wrappers: stand-ins ---

# Stands in for the interpreter: prints FAKE_HOROVOD when asked for Horovod, and every worker does FAKE_WORKER in bash,
# where `leave STATUS` ends it as run_command does.
FAKE_PYTHON = STAND_IN + r"""
if [[ $1 == -c ]]; then
  [[ $2 != *"horovod.tensorflow"* ]] || echo "a warning"$'\n'"${FAKE_HOROVOD-gloo}"
  exit 0
fi
if [[ $1 == -m ]]; then shift 2; exec LAUNCHER horovodrun "$@"; fi
rank=${OMPI_COMM_WORLD_RANK:-${HOROVOD_RANK:-${SLURM_PROCID:-}}}
leave() { echo "$1" >"$ELECTRA_STATUS_FILE.$rank"; exit "$1"; }
case "$*" in
  *make_sample_data*) echo "rank=$rank $*" >>"$CALLS"; mkdir -p data/sample/demo/squad ;;
  *build_pretraining_dataset*) for word; do case $word in --output_dir=*) mkdir -p "${word#*=}/eval" ;; esac; done ;;
  *) echo "rank=$rank $*" >>"$CALLS"; eval "${FAKE_WORKER:-true}" ;;
esac
"""

FAKE_LAUNCHER = r'''
import os, re, signal, subprocess, sys, threading
kind, words = sys.argv[1], sys.argv[2:]
number = int(words[words.index("-np") + 1])
start = next(i for i, word in enumerate(words) if word.endswith("/python"))
with open(os.environ["CALLS"], "a") as calls:
    calls.write(" ".join([kind, *words[:start]]) + "\n")
lock, ended, workers = threading.Lock(), [], []
tag = "[%d]<%s>:" if kind == "horovodrun" else os.environ.get("FAKE_TAG", "[1,%d]<%s>:")
def kill(*_):
    for worker in workers:
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
def follow(rank, worker, stream, out, name):
    for line in stream:
        with lock:
            out.write(tag % (rank, name) + line)
            out.flush()
def wait(rank, worker):
    code = worker.wait()
    code = 128 - code if code < 0 else code
    ended.append((rank, code))
    if code and kind == "horovodrun":
        with lock:
            print("Process %d exit with status code %d." % (rank, code), flush=True)
    if code and kind == "mpirun":
        with lock:
            sys.stderr.write("------\nmpirun detected that one or more\n\n  Process name: [[9,1],%d]\n" % rank
                             if code < 128 else "mpirun noticed that process rank %d with PID 7 on node\n" % rank)
            sys.stderr.flush()
    if code:
        kill()
for number_of_signal in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number_of_signal, kill)
threads = []
for rank in range(number):
    name = "OMPI_COMM_WORLD" if kind == "mpirun" else "HOROVOD"
    environment = {**os.environ, name + "_RANK": str(rank), name + "_SIZE": str(number)}
    worker = subprocess.Popen(words[start:], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              start_new_session=True)
    workers.append(worker)
    threads += [threading.Thread(target=follow, args=(rank, worker, worker.stdout, sys.stdout, "stdout")),
                threading.Thread(target=follow, args=(rank, worker, worker.stderr, sys.stderr, "stderr"))]
    threads.append(threading.Thread(target=wait, args=(rank, worker)))
for thread in threads:
    thread.start()
for thread in threads:
    while thread.is_alive():
        thread.join(0.05)
failed = [code for rank, code in ended if code]
if failed and kind == "horovodrun":
    raise RuntimeError("Horovod detected that one or more processes exited with non-zero status")
sys.exit(failed[0] if failed else 0)
'''

WRAPPERS = {"electra.sh": ["--phase=1", "--data_dir_p1=/", "--data_dir_p2=/"], "electra_squad.sh": ["--squad_dir=/"]}


@pytest.fixture
def launching(tmp_path):
    """A clone whose Python, mpirun and horovodrun are the stand-ins."""
    clone = Clone(make_folder(tmp_path / "clone"))
    for name in list(clone.environment):
        if name.startswith(("OMPI_", "HOROVOD_", "SLURM_")) or name == "squad_dir":
            del clone.environment[name]
    script = tmp_path / "launcher.py"
    script.write_text(FAKE_LAUNCHER)
    launcher = write_executable(tmp_path / "bin" / "launcher", f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "
                                                               f"{shlex.quote(str(script))} \"$@\"\n")
    write_executable(tmp_path / "bin" / "mpirun", f'#!/bin/sh\nexec {shlex.quote(launcher)} mpirun "$@"\n')
    clone.environment["PATH"] = f"{tmp_path / 'bin'}:{clone.environment['PATH']}"
    clone.environment["PYTHON"] = write_executable(tmp_path / "fake" / "python",
                                                   FAKE_PYTHON.replace("LAUNCHER", shlex.quote(launcher)))
    return clone


def planned(clone, wrapper, *arguments, **environment):
    """The training command of a dry run: what stands before the Python program, and its options."""
    result = clone.call(*WRAPPERS[wrapper], "--dry_run", *arguments, wrapper=wrapper, **environment)
    command = commands(result)[-1]
    program = next(i for i, word in enumerate(command) if word.startswith("run_"))
    return command[:program], command[program + 1:]


# --- The wrappers: what they start ---

@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_dry_run_prints_the_whole_launch(launching, wrapper):
    python = launching.environment["PYTHON"]
    alone, options = planned(launching, wrapper)
    assert alone == [python]
    assert planned(launching, wrapper, "--num_workers=01") == (alone, options)
    two, two_options = planned(launching, wrapper, "--num_workers=2", "--gradient_compression=bf16")
    assert two == [python, *HOROVODRUN, python, "-u"]
    assert set(two_options) ^ set(options) == {"--num_workers=2", "--gradient_compression=bf16"}
    position = [""] * {"electra.sh": 4, "electra_squad.sh": 7}[wrapper]
    mpi, mpi_options = planned(launching, wrapper, *position, "02", FAKE_HOROVOD="mpi")
    assert mpi == [*MPIRUN, python, "-u"]
    assert [option for option in mpi_options if option != "--num_workers=2"] == options != mpi_options
    hpu, hpu_options = planned(launching, wrapper, "--device=hpu", "--num_hpu=2", FAKE_HOROVOD="absent")
    assert hpu == [*MPIRUN, python, "-u"] and "--num_workers=2" in hpu_options


def test_a_dry_run_needs_neither_horovod_nor_mpirun_nor_an_environment(launching):
    path = launching.environment["PATH"].partition(":")[2]
    launch, _ = planned(launching, "electra.sh", "--num_workers=2", PYTHON="", PATH=path)
    assert launch == [".venv/bin/python", *HOROVODRUN, ".venv/bin/python", "-u"]


def test_a_hostfile_belongs_to_the_folder_of_the_call(launching, tmp_path):
    here = make_folder(tmp_path / "here")
    (here / "hosts").write_text("a slots=2\n")
    (here / "lists.json").write_text("{}")
    for wrapper in WRAPPERS:
        words = commands(launching.call(*WRAPPERS[wrapper], "--device=hpu", "--precision=bf16", "--num_hpu=2",
                                        "--hostfile=hosts", "--bf16_config_path=lists.json", "--dry_run", cwd=here,
                                        wrapper=wrapper))[-1]
        assert {str(here / "hosts"), f"--bf16_config_path={here}/lists.json"} <= set(words)
    (launching.folder / "scripts" / "sweep_squad.py").write_text("")
    sweep = launching.call("--checkpoints=/c", "--num_hpu=2", "--hostfile=hosts", "--gradient_compression=fp16",
                           "--squad_dir=/", "--bf16_config_path=lists.json", "--dry_run", cwd=here,
                           wrapper="finetune_ckpts_on_squad.sh")
    words = commands(sweep)[-1]
    assert set(words[words.index("--") + 1:]) == {"--num_workers=2", f"--hostfile={here}/hosts", "--squad_dir=/",
                                                  "--gradient_compression=fp16",
                                                  f"--bf16_config_path={here}/lists.json"}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_mistake_is_one_sentence_and_status_2(launching, wrapper):
    """One of each kind; tests above have the others."""
    (launching.folder / "hosts").write_text("a slots=8\n")
    for arguments, environment, words in (
            (["--num_workers=two"], {}, ["num_workers=two"]),
            (["--env=cloud"], {}, ["env=cloud"]),
            (["--num_workers=9", "--hostfile=hosts"], {}, [f"{launching.folder}/hosts has 8 slots"]),
            (["--num_workers=2", "--env=cluster"], {}, [f"bash scripts/{wrapper} --env=cluster"]),
            (["--num_workers=2"], {"OMPI_COMM_WORLD_SIZE": "2"}, ["one of 2 workers"]),
            (["--num_workers=2"], {"FAKE_HOROVOD": "broken no symbol"}, ["(no symbol)", "install_horovod.sh cpu"])):
        result = launching.call(*WRAPPERS[wrapper], *arguments, wrapper=wrapper, **environment)
        assert_refused(result, wrapper, *words)
    assert launching.recorded() == []


# --- The wrappers: what the workers do ---

LAUNCHERS = pytest.mark.parametrize("horovod", ["gloo", "mpi"])
TELL = 'echo "out $rank"; echo "err $rank" >&2; '


def log_of(clone, wrapper):
    logs = {"electra.sh": "models/base/logs/electra_lamb_pretraining_phase1.log", "electra_squad.sh": "console.log"}
    return clone.folder / "results" / logs[wrapper]


@LAUNCHERS
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_worker_runs_and_its_lines_are_shown_as_they_are(launching, wrapper, horovod):
    told = TELL + r'echo "progress=$ELECTRA_PROGRESS" >&2; printf "10%%\r20%%\n"; leave 0'
    result = launching.call(*WRAPPERS[wrapper], "--num_workers=2", wrapper=wrapper, FAKE_HOROVOD=horovod,
                            FAKE_WORKER=told)
    assert result.returncode == 0, result.stderr
    first, *ranks = launching.recorded()
    assert first.startswith("mpirun -np 2" if horovod == "mpi" else "horovodrun --gloo -np 2")
    assert sorted(call.split()[0] for call in ranks) == ["rank=0", "rank=1"]
    assert all("-u run_" in call and "--num_workers=2" in call for call in ranks)
    assert sorted(result.stderr.splitlines()) == ["err 0", "err 1", "progress=0", "progress=0"]
    log = log_of(launching, wrapper)
    lines = log.read_text().splitlines()
    assert lines[0].startswith("running: ")
    assert {"out 0", "out 1"} < set(result.stdout.splitlines()) and {"out 0", "err 1", "20%"} < set(lines)
    assert not [line for line in lines + result.stdout.splitlines() if "<std" in line]
    assert [path.name for path in log.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("fewest, status", [(2, 0), (3, 1)])
def test_after_a_crash_the_workers_of_hosts_that_answer_resume(launching, tmp_path, fewest, status):
    (launching.folder / "hosts").write_text("a slots=2\ngone slots=1\n")
    write_executable(tmp_path / "bin" / "ssh", "#!/bin/sh\ncase $* in *gone*) exit 255 ;; esac\n")
    crashing = "[[ $* == *num_workers=3* ]] || leave 0; [[ $rank == 2 ]] || sleep 60; exit 9"
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=3", "--hostfile=hosts", "--max_restarts=2",
                            f"--min_workers={fewest}", FAKE_HOROVOD="mpi", FAKE_WORKER=crashing,
                            ELECTRA_RESTART_SECONDS="0")
    assert result.returncode == status, result.stderr
    launches = [call for call in launching.recorded() if call.startswith("mpirun")]
    assert [" -np 3 " in call for call in launches] == [True, False][:2 - status]
    if status:
        assert "gone" in result.stderr and "--min_workers=3" in result.stderr
    else:
        assert " -np 2 " in launches[1] and "hosts_left" in launches[1]
        assert (log_of(launching, "electra.sh").parent / "hosts_left").read_text() == "a slots=2\n"


@LAUNCHERS
@pytest.mark.parametrize("worker, status", [
    ("[[ $rank == 1 ]] && leave 2; sleep 60", 2), ("[[ $rank == 0 ]] && leave 75; sleep 60", 75),
    ("[[ $rank == 1 ]] || sleep 60; echo problem >&2; exit 9", 9), ("[[ $rank == 1 ]] || sleep 60; kill -9 $$", 137)])
def test_the_exit_status_is_the_workers_and_no_traceback_is_shown(launching, horovod, worker, status):
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=2", FAKE_HOROVOD=horovod, FAKE_WORKER=worker)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    *told, last = ["", *(line for line in result.stderr.splitlines() if line != "problem")]
    assert last.startswith("electra.sh: ") != (status == 2)  # a worker has said why
    if status not in (2, 75):
        assert len(told) == 2 and "worker 1" in told[1] and f"status {status}" in told[1]
    else:
        assert len(told) == (status != 2)


def test_a_launcher_that_fails_by_itself_is_heard(launching, tmp_path):
    write_executable(tmp_path / "bin" / "launcher", "#!/bin/sh\necho cannot reach node-2\necho via ssh >&2\nexit 3\n")
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=2")
    assert result.returncode == 3
    assert sorted(result.stderr.splitlines()[:2]) == ["cannot reach node-2", "via ssh"]
    assert "cannot reach node-2" in log_of(launching, "electra.sh").read_text()


STOPPABLE = """exec 2>/dev/null
trap 'trap "" TERM; [[ $rank == 0 ]] || sleep 0.3; echo "saved $rank"; leave 75' TERM
sleep 1000 & echo "ready $rank"; while :; do sleep 0.05; done"""


@pytest.mark.parametrize("wrapper, horovod, number, whole_group", [
    ("electra.sh", "gloo", signal.SIGTERM, False), ("electra.sh", "gloo", signal.SIGINT, True),
    ("electra.sh", "mpi", signal.SIGINT, True), ("electra.sh", "gloo", signal.SIGHUP, True),
    ("electra_squad.sh", "mpi", signal.SIGTERM, False), ("electra_squad.sh", "gloo", signal.SIGINT, True)])
def test_a_signal_reaches_the_workers_and_not_the_launcher(launching, wrapper, horovod, number, whole_group):
    """Also Ctrl-C, which goes to the whole process group of the terminal."""
    process = subprocess.Popen(
        launching.command(*WRAPPERS[wrapper], "--num_workers=2", wrapper=wrapper), cwd=launching.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**launching.environment, "FAKE_HOROVOD": horovod, "FAKE_WORKER": STOPPABLE})
    log = log_of(launching, wrapper)
    wait_for(lambda: log.exists() and log.read_text().count("ready") == 2)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors
    assert "saved 0" in log.read_text()
    assert len(errors.splitlines()) == 1 and errors.startswith(f"{wrapper}: ")


@LAUNCHERS
def test_a_signal_before_there_is_a_worker_ends_the_launcher(launching, tmp_path, horovod):
    ready = tmp_path / "ready"
    write_executable(tmp_path / "bin" / "launcher", f"#!/bin/sh\ntouch {shlex.quote(str(ready))}\nexec sleep 60\n")
    process = launching.start(*WRAPPERS["electra.sh"], "--num_workers=2", FAKE_HOROVOD=horovod)
    wait_for(ready.exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors


# --- The wrappers: started by a scheduler ---

@pytest.fixture
def cluster(launching, tmp_path):
    """The clone, and a `sleep` that is over soon: a wrapper of another rank waits for that of rank 0."""
    write_executable(tmp_path / "bin" / "sleep", '#!/bin/sh\necho "sleep $1" >>"$CALLS"; exec /bin/sleep 0.05\n')
    return launching


@pytest.mark.parametrize("wrapper, rank_name, size_name", [
    ("electra.sh", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("electra_squad.sh", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("electra.sh", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")])
def test_in_a_cluster_only_the_wrapper_of_rank_0_talks_and_makes_data(cluster, wrapper, rank_name, size_name):
    data = ["--phase=1"] if wrapper == "electra.sh" else []
    command = cluster.command(*data, "--env=cluster", "--num_workers=2", wrapper=wrapper)

    def start(rank):
        return subprocess.Popen(command, cwd=cluster.folder, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env={
                                    **cluster.environment, rank_name: str(rank), size_name: "2",
                                    "FAKE_WORKER": "echo unbuffered=$PYTHONUNBUFFERED $rank"})

    second, first = start(1), start(0)
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert outputs[1] == ("unbuffered=1 1\n", "")
    assert "running: " in outputs[0][0] and "finished" in outputs[0][0]
    calls = cluster.recorded()
    assert [call.split()[0] for call in calls if "make_sample_data" in call] == ["rank=0"]
    runs = [call for call in calls if "--num_workers=2" in call]
    assert sorted(call.split()[0] for call in runs) == ["rank=0", "rank=1"]
    assert not [call for call in calls if "-np" in call]
    assert "unbuffered=1 0" in log_of(cluster, wrapper).read_text()
    assert "unbuffered=1 1" not in log_of(cluster, wrapper).read_text()


@pytest.mark.parametrize("status", [2, 75])
def test_in_a_cluster_every_wrapper_ends_with_its_status_and_says_who_it_is(cluster, status):
    for rank, who in (("0", "electra.sh: "), ("1", "electra.sh (worker 1): ")):
        result = cluster.call(*WRAPPERS["electra.sh"], "--env=cluster", HOROVOD_RANK=rank, HOROVOD_SIZE="2",
                              FAKE_WORKER=f"exit {status}")
        assert result.returncode == status
        if status == 2:  # the command has said why
            assert result.stderr == ""
        else:
            assert result.stderr.startswith(who) and len(result.stderr.splitlines()) == 1
    waits = [call for call in cluster.recorded() if call.startswith("sleep")]
    assert waits == ["sleep 3"] * (status != 2)  # rank 0, whose exit ends the others, has spoken by then


def test_one_mpirun_is_one_training(cluster):
    """Open MPI lets each of its processes join once."""
    arguments = ["--env=cluster", "--num_workers=2"]
    for rank in "01":
        result = cluster.call(*arguments, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK=rank)
        assert_refused(result, "--phase=1", "--phase=2")
    assert cluster.call(*arguments, "--dry_run", HOROVOD_SIZE="2", HOROVOD_RANK="0").returncode == 0


@pytest.mark.parametrize("tag, said", [
    ("[1,%d]<%s>:", "  text"), ("[1,%d]<%s>:", "  te[1,0]<stdout>:xt"), ("[prterun-host-77@1,%d]<%s>: ", "  text")])
def test_every_tag_of_open_mpi_is_taken_off(launching, tag, said):
    """Version 4 has them also inside a line that was written in pieces."""
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=2", FAKE_HOROVOD="mpi", FAKE_TAG=tag,
                            FAKE_WORKER=f"echo '{said}'; leave 0")
    assert result.stdout.splitlines().count("  text") == 2
