"""Several workers: hostfiles, the choice of mpirun or horovodrun, and the exit status of all workers together.

    python scripts/launcher.py start DEVICE NUMBER_OF_WORKERS PYTHON HOSTFILE DRY_RUN
    python scripts/launcher.py status FOLDER STATUS WRAPPER [STOPPED]
    python scripts/launcher.py answering HOSTFILE NUMBER_OF_WORKERS FEWEST FILE

scripts/environment.sh and scripts/restarts.sh call these; scripts/plans.py calls `check`. `start` prints the words
that go before the training command, quoted for the shell, or an error of one sentence with exit status 2; HOSTFILE and
DRY_RUN may be empty. `status` prints the merged exit status. `answering` prints the number of workers and the hostfile
for a restart. Only the standard library is used: any Python 3.8 or newer runs this, with or without the packages.
"""
from __future__ import annotations

import concurrent.futures
import glob
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import files  # noqa: E402
from configuration import RunFailed, UserError, launched  # noqa: E402

# --- What fits together ---

def check(num_workers: int, hostfile: str, cluster: bool, dry_run: bool, call: str):
    """Checks the options about workers against each other, the environment and the hostfile.

    Args:
        num_workers: 0 and 1 both mean one worker without a launcher.
        hostfile: path, or empty.
        cluster: a scheduler starts the wrapper once per worker (--env=cluster).
        dry_run: the launcher's environment variables are not required.
        call: file name of the wrapper, for the messages.
    Raises: UserError naming the option.
    """
    size = launched("SIZE")
    if cluster:
        if hostfile:
            raise UserError("--hostfile cannot be combined with --env=cluster, where the scheduler chooses the hosts: "
                            "leave one of them out.")
        if num_workers > 1 and size is None and not dry_run:
            raise UserError("--env=cluster means one wrapper process per worker, but none of OMPI_COMM_WORLD_SIZE, "
                            "HOROVOD_SIZE and SLURM_STEP_NUM_TASKS is set: start them with srun or mpirun, as in 'srun "
                            f"-n {num_workers} bash scripts/{call} --env=cluster', or leave out --env=cluster.")
        return
    if size not in (None, 1):
        raise UserError(f"this wrapper was started as one of {size} workers: add --env=cluster, or start it once with "
                        f"--num_workers={size}.")
    if hostfile:
        if num_workers <= 1:
            raise UserError("--hostfile lists the hosts of several workers: set their number with --num_workers.")
        read_hostfile(hostfile, num_workers)


def read_hostfile(path: str, num_workers: int):
    """Returns [(host, slots), ...] from lines like 'host1 slots=8'; # starts a comment.

    Raises: UserError: unreadable, a line of another form, or fewer slots than workers.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UserError(f"--hostfile={path} cannot be read ({error.strerror}): name a file with lines like "
                        "'host1 slots=8'.") from error
    hosts = []
    for line in lines:
        content = line.partition("#")[0].strip()
        match = re.fullmatch(r"([A-Za-z0-9._-]+)[ \t]+slots[ \t]*=[ \t]*([1-9][0-9]*)([ \t].*)?", content)
        if match:
            hosts.append((match[1], int(match[2])))
        elif content:
            raise UserError(f"--hostfile={path} has the line '{line}': each line must be like 'host1 slots=8'.")
    slots = sum(slots for _, slots in hosts)
    if slots < num_workers:
        raise UserError(f"--hostfile={path} has {slots} slots, but --num_workers={num_workers} needs as many: add "
                        "hosts to it, or lower --num_workers.")
    return hosts


# --- Starting ---

# Run by the interpreter that will train. Prints absent, broken and the reason, mpi, or gloo. habana-horovod, for hpu,
# is always built with MPI and only loads where the card is.
HOROVOD_CODE = """import importlib.util, sys
if importlib.util.find_spec("horovod") is None:
    found = "absent"
elif sys.argv[1] == "hpu":
    found = "mpi"
else:
    try:
        import horovod.tensorflow as horovod
        found = "mpi" if horovod.mpi_built() else "gloo"
    except Exception as error:
        found = "broken " + (str(error).splitlines() or [type(error).__name__])[0]
print(found)"""

# Environment variables that mpirun passes to other hosts. Which cards they see is decided there (*_VISIBLE_*).
PASSED = re.compile(r"(PATH|LD_LIBRARY_PATH|LD_PRELOAD|(PYTHON|ELECTRA_|TF_|XLA_|OMP_|KMP_|HABANA_|HCCL_|HCL_|SYN|GC_|"
                    r"NCCL_|HOROVOD_|HF_|FI_|RDMAV_|MLX5_|UCX_).*|.*_(proxy|PROXY))")


def horovod_in(python: str, device: str):
    """Returns the state of Horovod in an interpreter (absent, broken, mpi or gloo) and the reason if it is broken."""
    try:
        answer = subprocess.run([python, "-c", HOROVOD_CODE, device], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    except OSError as error:  # in a dry run .venv may not exist yet
        return "broken", error.strerror
    said = answer.stdout.decode(errors="replace").splitlines()  # the last line: an import may print others before
    state, _, reason = said[-1].partition(" ") if said else ("", "", "")
    return (state, reason) if state in ("absent", "mpi", "gloo") else ("broken", reason)


def start(device: str, num_workers: int, python: str, hostfile: str = "", dry_run: bool = False):
    """Returns the words that start `num_workers` copies of the command after them.

    A dry run does not require Horovod or mpirun.

    Raises: UserError: Horovod is missing or does not load in `python`, or mpirun is missing.
    """
    state, reason = horovod_in(python, device)
    build = f"bash scripts/install_horovod.sh {device}"
    if state == "absent" and not dry_run:
        raise UserError(f"--num_workers={num_workers} needs Horovod, which is not installed in {python}: run "
                        f"'{build}', or use one worker.")
    if state == "broken" and not dry_run:
        raise UserError(f"Horovod does not load in {python}{f' ({reason})' if reason else ''}: rebuild it with "
                        f"'{build}', or use one worker.")
    if device == "hpu" or state == "mpi":
        return mpirun(num_workers, hostfile, dry_run)
    hosts = read_hostfile(hostfile, num_workers) if hostfile else [("localhost", num_workers)]
    return [python, "-m", "horovod.runner.launch", "--gloo", "-np", str(num_workers), "--disable-cache", "-H",
            ",".join(f"{host}:{slots}" for host, slots in hosts)]


def mpirun(num_workers: int, hostfile: str, dry_run: bool):
    found = shutil.which("mpirun")
    if not found and not dry_run:
        raise UserError(f"--num_workers={num_workers} needs mpirun, which is not on PATH: install Open MPI ('apt-get "
                        "install openmpi-bin' on Debian), or use one worker.")
    # Workers keep all cores of their host; Python shares them out where that helps.
    words = ["mpirun", "-np", str(num_workers), "--allow-run-as-root", "--tag-output", "--bind-to", "none", "--map-by",
             "slot"]
    if not hostfile:
        return [*words, "-H", f"localhost:{num_workers}"]
    words[0] = found or "mpirun"  # by its full path mpirun finds its helpers on the other hosts without their PATH
    words += ["--hostfile", hostfile]
    names = {name for name in os.environ if PASSED.fullmatch(name) and "_VISIBLE_" not in name}
    for name in sorted(names | {"ELECTRA_STATUS_FILE", "ELECTRA_PROGRESS"}):  # these two are set when the workers start
        words += ["-x", name]
    return words


# --- Hosts that no longer answer ---

def hosts_left(hostfile: str, num_workers: int, min_workers: int, path: str):
    """The number of workers, and the hostfile, for a restart on the hosts that answer ssh.

    Args:
        path: where the hostfile is written if some do not.
    Raises: RunFailed: fewer than `min_workers` slots are left.
    """
    hosts = read_hostfile(hostfile, num_workers)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answer = list(pool.map(answers, [host for host, _ in hosts]))
    left = [entry for entry, there in zip(hosts, answer) if there]
    if left == hosts:
        return num_workers, hostfile
    number = min(num_workers, sum(slots for _, slots in left))
    gone = ", ".join(host for (host, _), there in zip(hosts, answer) if not there)
    if number < min_workers:
        raise RunFailed(f"{gone} did not answer, which leaves {number} workers, fewer than "
                        f"--min_workers={min_workers}: start it again when the hosts are back.")
    files.write_text(path, "".join(f"{host} slots={slots}\n" for host, slots in left))
    return number, path


def answers(host: str) -> bool:
    if host in ("localhost", "127.0.0.1", socket.gethostname()):
        return True
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", host, "true"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


# --- The end ---

def merge_statuses(folder: str, status: int, wrapper: str, stopped: int = 0):
    """Turns the launcher's exit status into that of the workers.

    That is 2 where a worker exited with 2, else 75 where one did, else the status of the first worker that failed.

    Args:
        folder: `rank.<n>` holds the exit status of worker n, where it could write one; `launcher.*` what the launcher
            printed itself. Any of them may be missing.
        status: the launcher's own exit status.
        wrapper: name of the wrapper, for the message.
        stopped: exit status of a signal that stopped the wrapper, or 0.
    Returns: the exit status, and the text to show the user or "".
    """
    statuses = read_all(os.path.join(folder, "rank.*")).split()
    for common in (2, 75):
        if str(common) in statuses:
            return common, ""
    if status == 0 or stopped:
        return (stopped if status else 0), ""
    launcher = read_all(os.path.join(folder, "launcher.*"))
    first = re.search(r"^(?:Process (?P<horovodrun>\d+) exit with status code (?P<code>\d+)\.$"
                      r"|mpirun noticed that process rank (?P<killed>\d+) "
                      r"| *Process name: \[.*,(?P<mpirun>\d+)\]$)", launcher, re.MULTILINE)
    if first:
        status = int(first["code"] or status)
        rank = first["horovodrun"] or first["killed"] or first["mpirun"]
        return status, f"{wrapper}: worker {rank} was the first to exit, with status {status}\n"
    return status, "" if statuses else launcher  # without any worker's status the launcher itself failed


def read_all(pattern: str) -> str:
    text = ""
    for path in sorted(glob.glob(pattern)):
        with open(path, encoding="utf-8", errors="replace") as file:
            text += file.read()
    return text


# --- Command lines ---

def main(argv) -> int:
    action, *arguments = argv
    if action == "status":
        folder, status, wrapper, *stopped = arguments
        merged, text = merge_statuses(folder, int(status), wrapper, *map(int, stopped))
        sys.stderr.write(text)
        print(merged)
        return 0
    if action == "answering":
        hostfile, number, fewest, path = arguments
        try:
            print(" ".join(shlex.quote(str(word)) for word in hosts_left(hostfile, int(number), int(fewest), path)))
        except (UserError, RunFailed) as error:
            print(error)
            return error.exit_status
        return 0
    device, number, python, hostfile, dry_run = arguments
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the wrapper: no traceback
    try:
        words = start(device, int(number), python, hostfile, bool(dry_run))
    except UserError as error:
        print(error)
        return 2
    sys.stdout.buffer.write(os.fsencode(" ".join(map(shlex.quote, words)) + "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
