"""How the wrappers start several workers, with stand-ins for Python and for the launchers.

The stand-ins for mpirun and horovodrun start the workers as these do, each with its rank, end the others when one ends
badly, end with a status of their own, and kill all of them at a signal. Real workers: tests/test_workers.py.
"""
from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest
from support import STAND_IN, Clone, assert_refused, commands, make_folder, wait_for, write_executable

# Stands in for the interpreter: says FAKE_HOROVOD when asked for Horovod, and every worker does FAKE_WORKER in bash,
# where `leave STATUS` ends it as run_command does.
FAKE_PYTHON = STAND_IN + r"""
if [[ $1 == -c ]]; then
  [[ $2 != *"horovod.tensorflow"* ]] || echo "a warning"$'\n'"${FAKE_HOROVOD-gloo}"
  exit 0
fi
if [[ $1 == -m ]]; then shift 2; exec LAUNCHER horovodrun "$@"; fi
rank=${OMPI_COMM_WORLD_RANK:-${HOROVOD_RANK:-}}
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
HOROVODRUN = "-m horovod.runner.launch --gloo -np 2 --disable-cache -H localhost:2".split()
MPIRUN = "mpirun -np 2 --allow-run-as-root --tag-output --bind-to none --map-by slot -H localhost:2".split()


@pytest.fixture
def launching(tmp_path):
    """A clone whose Python, mpirun and horovodrun are the stand-ins."""
    clone = Clone(make_folder(tmp_path / "clone"))
    for name in list(clone.environment):
        if name.startswith(("OMPI_", "HOROVOD_")) or name == "squad_dir":
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


# --- What is started ---

@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_dry_run_prints_the_whole_launch(launching, wrapper):
    python = launching.environment["PYTHON"]
    alone, options = planned(launching, wrapper)
    assert alone == [python]
    for one in ("0", "1", "01"):
        assert planned(launching, wrapper, f"--num_workers={one}") == (alone, options)
    two, two_options = planned(launching, wrapper, "--num_workers=2")
    assert two == [python, *HOROVODRUN, python, "-u"]
    assert [option for option in two_options if option != "--num_workers=2"] == options != two_options
    for same in ("--num_hpu=2", "--num-workers=02"):
        assert planned(launching, wrapper, same) == (two, two_options)
    assert planned(launching, wrapper, "--num_workers=2", FAKE_HOROVOD="mpi")[0] == [*MPIRUN, python, "-u"]
    hpu, hpu_options = planned(launching, wrapper, "--device=hpu", "--num_workers=2")
    assert hpu == [*MPIRUN, python, "-u"] and "--num_workers=2" in hpu_options
    compressed = planned(launching, wrapper, "--num_workers=2", "--gradient_compression=bf16")[1]
    assert set(compressed) - set(options) == {"--num_workers=2", "--gradient_compression=bf16"}
    assert planned(launching, wrapper, "--gradient_compression=none")[1] == options


def test_the_fifth_position_of_electra_and_the_eighth_of_electra_squad_are_the_workers(launching):
    by_position = {"electra.sh": [""] * 4 + ["2"], "electra_squad.sh": [""] * 7 + ["2"]}
    for wrapper, values in by_position.items():
        assert planned(launching, wrapper, *values) == planned(launching, wrapper, "--num_workers=2")


def test_a_dry_run_needs_neither_horovod_nor_mpirun(launching):
    path = launching.environment["PATH"].partition(":")[2]
    assert planned(launching, "electra.sh", "--num_workers=2", FAKE_HOROVOD="absent")[0][1:3] == [
        "-m", "horovod.runner.launch"]
    assert planned(launching, "electra.sh", "hpu", "--num_workers=2", PATH=path)[0][0] == "mpirun"


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_several_hosts(launching, wrapper):
    hosts = launching.folder / "hosts"
    hosts.write_text("# two machines\nnode-1 slots=8\n\n  node-2.cluster  slots = 8 # the other\n10.0.0.3 slots=4")
    several = ["--num_workers=16", "--hostfile=hosts"]
    assert planned(launching, wrapper, *several)[0][1:8] == [
        *HOROVODRUN[:4], "16", "--disable-cache", "-H"]
    assert "node-1:8,node-2.cluster:8,10.0.0.3:4" in planned(launching, wrapper, *several)[0]
    launch, _ = planned(launching, wrapper, *several, "--device=hpu", PYTHONPATH="/lib", HABANA_LOGS="/logs",
                        HABANA_VISIBLE_DEVICES="all", UNRELATED="1", FI_EFA_USE_DEVICE_RDMA="1",
                        MLX5_SCATTER_TO_CQE="0")
    assert os.path.isabs(launch[0])  # so that Open MPI looks for its parts in the same folder of the other hosts
    assert [os.path.basename(launch[0]), *launch[1:9]] == ["mpirun", "-np", "16", *MPIRUN[3:9]]
    assert launch[9:11] == ["--hostfile", str(hosts)]
    passed = {launch[i + 1] for i, word in enumerate(launch) if word == "-x"}
    assert {"PATH", "PYTHONPATH", "HABANA_LOGS", "ELECTRA_STATUS_FILE", "ELECTRA_PROGRESS", "FI_EFA_USE_DEVICE_RDMA",
            "MLX5_SCATTER_TO_CQE"} <= passed
    assert not {"HABANA_VISIBLE_DEVICES", "UNRELATED"} & passed


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
@pytest.mark.parametrize("arguments, environment, words", [
    (["--num_workers=two"], {}, ["num_workers=two must be a whole number"]),
    (["--num_workers=-2"], {}, ["num_workers=-2 must be a whole number"]),
    (["--num_workers=2"], {"FAKE_HOROVOD": "absent"}, ["Horovod", "not installed", "install_horovod.sh cpu"]),
    (["--num_workers=2"], {"FAKE_HOROVOD": "broken no symbol"}, ["(no symbol)", "install_horovod.sh cpu"]),
    (["--num_workers=2"], {"FAKE_HOROVOD": ""}, ["Horovod does not load in", "install_horovod.sh cpu"]),
    (["--gradient_compression=int8"], {}, ["gradient_compression=int8 is unknown: choose one of none fp16 bf16"]),
    (["--env=cloud"], {}, ["env=cloud is unknown"]),
    (["--hostfile=hosts"], {}, ["name their number with --num_workers"]),
    (["--num_workers=2", "--hostfile=nowhere"], {}, ["/nowhere is no file"]),
    (["--num_workers=9", "--hostfile=hosts"], {}, ["hosts has 8 slots, and num_workers=9"]),
    (["--num_workers=2", "--hostfile=odd"], {}, ["has the line 'a:2': each must be like 'host1 slots=8'"]),
    (["--num_workers=2", "--hostfile=hosts", "--env=cluster"], {}, ["hostfile cannot go with env=cluster"]),
    (["--num_workers=2", "--env=cluster"], {}, ["mpirun -np 2 bash scripts/", "leave env out"]),
    (["--num_workers=2"], {"OMPI_COMM_WORLD_SIZE": "2"}, ["one of 2 workers: add --env=cluster"]),
    ([], {"HOROVOD_SIZE": "4", "HOROVOD_RANK": "0"}, ["one of 4 workers: add --env=cluster"]),
])
def test_a_mistake_is_one_sentence_and_status_2(launching, wrapper, arguments, environment, words):
    (launching.folder / "hosts").write_text("a slots=8\n")
    (launching.folder / "odd").write_text("a:2\n")
    arguments = [*WRAPPERS[wrapper], "--learning_rate=1e-4" if "squad" in wrapper else "--seed=1", *arguments]
    assert_refused(launching.call(*arguments, wrapper=wrapper, **environment), *words)
    assert launching.recorded() == []


def test_mpirun_that_is_not_there_is_refused(launching, tmp_path):
    """Where this machine has one, every folder of PATH with it is left out."""
    folders = [folder for folder in launching.environment["PATH"].split(":")
               if not os.path.exists(os.path.join(folder, "mpirun"))]
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=2", FAKE_HOROVOD="mpi", PATH=":".join(folders))
    assert_refused(result, "mpirun, which is not there", "Open MPI")


# --- What they do ---

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


@LAUNCHERS
@pytest.mark.parametrize("worker, status, words", [
    ("leave 2", 2, "ended with status 2"),
    ("[[ $rank == 1 ]] && leave 2; sleep 60", 2, "ended with status 2"),
    ("leave 75", 75, "goes on"),
    ("[[ $rank == 0 ]] && leave 75; sleep 60", 75, "goes on"),
    ("[[ $rank == 1 ]] || sleep 60; echo problem >&2; leave 1", 1, "ended with status 1"),
    ("[[ $rank == 1 ]] || sleep 60; echo problem >&2; exit 9", 9, "ended with status 9"),
    ("[[ $rank == 1 ]] || sleep 60; kill -9 $$", 137, "ended with status 137"),
])
def test_the_exit_status_is_the_workers_and_no_traceback_is_shown(launching, horovod, worker, status, words):
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=2", FAKE_HOROVOD=horovod, FAKE_WORKER=worker)
    assert result.returncode == status, result.stderr
    assert words in result.stderr.splitlines()[-1]
    told = [line for line in result.stderr.splitlines()[:-1] if line != "problem"]
    assert "Traceback" not in result.stdout + result.stderr
    if status not in (2, 75):
        assert told == [f"electra.sh: worker 1 was the first to end, with status {status}"]
    else:
        assert told == []


def test_a_launcher_that_fails_by_itself_is_heard(launching, tmp_path):
    write_executable(tmp_path / "bin" / "launcher", "#!/bin/sh\necho cannot reach node-2\necho via ssh >&2\nexit 3\n")
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=2")
    assert result.returncode == 3
    assert sorted(result.stderr.splitlines()[:2]) == ["cannot reach node-2", "via ssh"]
    assert "cannot reach node-2" in log_of(launching, "electra.sh").read_text()


STOPPABLE = """exec 2>/dev/null
trap 'trap "" TERM; [[ $rank == 0 ]] || sleep 0.3; echo "saved $rank"; leave 75' TERM
sleep 1000 & echo "ready $rank"; while :; do sleep 0.05; done"""


@LAUNCHERS
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("number, whole_group", [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGHUP, True)])
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
    assert len(errors.splitlines()) == 1 and "goes on" in errors


@LAUNCHERS
def test_a_signal_before_there_is_a_worker_ends_the_launcher(launching, tmp_path, horovod):
    ready = tmp_path / "ready"
    write_executable(tmp_path / "bin" / "launcher", f"#!/bin/sh\ntouch {shlex.quote(str(ready))}\nexec sleep 60\n")
    process = launching.start(*WRAPPERS["electra.sh"], "--num_workers=2", FAKE_HOROVOD=horovod)
    wait_for(ready.exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors


# --- Started by a scheduler ---

@pytest.mark.parametrize("names", ["OMPI_COMM_WORLD", "HOROVOD"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_in_a_cluster_only_the_wrapper_of_rank_0_talks_and_makes_data(launching, wrapper, names):
    data = ["--phase=1"] if wrapper == "electra.sh" else ["--learning_rate=1e-4"]
    command = launching.command(*data, "--env=cluster", "--num_workers=2", wrapper=wrapper)

    def start(rank):
        return subprocess.Popen(command, cwd=launching.folder, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env={
                                    **launching.environment, f"{names}_RANK": str(rank), f"{names}_SIZE": "2",
                                    "FAKE_WORKER": "echo unbuffered=$PYTHONUNBUFFERED $rank"})

    second, first = start(1), start(0)
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert outputs[1] == ("unbuffered=1 1\n", "")
    assert "running: " in outputs[0][0] and "finished" in outputs[0][0]
    calls = launching.recorded()
    assert [call.split()[0] for call in calls if "make_sample_data" in call] == ["rank=0"]
    runs = [call for call in calls if "--num_workers=2" in call]
    assert sorted(call.split()[0] for call in runs) == ["rank=0", "rank=1"]
    assert not [call for call in calls if "-np" in call]
    assert "unbuffered=1 0" in log_of(launching, wrapper).read_text()
    assert "unbuffered=1 1" not in log_of(launching, wrapper).read_text()


@pytest.mark.parametrize("status", [2, 75])
def test_in_a_cluster_every_wrapper_ends_with_its_status_and_says_who_it_is(launching, status):
    for rank, who in (("0", "electra.sh: "), ("1", "electra.sh (worker 1): ")):
        result = launching.call(*WRAPPERS["electra.sh"], "--env=cluster", HOROVOD_RANK=rank, HOROVOD_SIZE="2",
                                FAKE_WORKER=f"exit {status}")
        assert result.returncode == status
        assert result.stderr.startswith(who) and len(result.stderr.splitlines()) == 1


def test_one_mpirun_is_one_training(launching):
    """Open MPI lets each of its processes join once."""
    arguments = ["--env=cluster", "--num_workers=2"]
    for rank in "01":
        result = launching.call(*arguments, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK=rank)
        assert_refused(result, "--phase=1, and after that with --phase=2")
    assert launching.call(*arguments, "--dry_run", HOROVOD_SIZE="2", HOROVOD_RANK="0").returncode == 0


@pytest.mark.parametrize("tag, said", [
    ("[1,%d]<%s>:", "  text"), ("[1,%d]<%s>:", "  te[1,0]<stdout>:xt"), ("[prterun-host-77@1,%d]<%s>: ", "  text")])
def test_every_tag_of_open_mpi_is_taken_off(launching, tag, said):
    """Version 4 has them also inside a line that was written in pieces."""
    result = launching.call(*WRAPPERS["electra.sh"], "--num_workers=2", FAKE_HOROVOD="mpi", FAKE_TAG=tag,
                            FAKE_WORKER=f"echo '{said}'; leave 0")
    assert result.stdout.splitlines().count("  text") == 2
