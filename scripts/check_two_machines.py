"""Long check: workers on two machines, one of which loses power.

    apt-get install openssh-server iproute2
    PYTHON=/path/to/python python3 scripts/check_two_machines.py

The two machines are namespaces of this one: each has its own host name, processes, network address with an sshd, and
temporary folder; the repository is shared. scripts/electra.sh runs on the first with --hostfile, and starts the workers
with Horovod's own launcher, or with mpirun where the Horovod of $PYTHON was built with MPI. Shows: a job of both; a job
whose second machine is cut off, which ends; and its checkpoint resumed on the first machine alone. Needs root. Takes a
few minutes. DATASET_P1 names other shards than the samples. Exit status 0: all of it worked, or the check was skipped.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADDRESSES = {"machine-a": "10.77.0.1", "machine-b": "10.77.0.2"}
PYTHON = os.environ.get("PYTHON") or str(ROOT / ".venv" / "bin" / "python")
TIMEOUT = 20  # seconds without an answer until the job ends; by default minutes

# The first process of a machine, in bash: FOLDER NAME ADDRESS. The network card is put in from outside.
MACHINE = """set -e
hostname "$2"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/ssh_config" /etc/ssh/ssh_config
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip address add "$3/24" dev eth0
ip link set eth0 up
exec /usr/sbin/sshd -D -e -f "$1/sshd_config" -o ListenAddress="$3"
"""


def missing() -> str:
    """Why the check cannot run here, or ""."""
    if os.geteuid() != 0:
        return "only root can create namespaces"
    for program in ("unshare", "nsenter", "ip", "ssh", "ssh-keygen", "/usr/sbin/sshd"):
        if not shutil.which(program):
            return f"{program} is not installed: run 'apt-get install openssh-server iproute2'"
    if subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"]).returncode:
        return "this system does not allow namespaces"
    if subprocess.run([PYTHON, "-c", "import horovod"], stderr=subprocess.DEVNULL).returncode:
        return f"{PYTHON} has no Horovod: run 'bash scripts/install_horovod.sh'"
    return ""


class Machines:
    """Both machines. `folder` is shared; everything under <folder>/tmp is a machine's own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.processes = {}  # name -> the process outside of the machine that started it
        self.first = {}  # name -> process id of the machine's first process
        self._write_files()
        for name, address in ADDRESSES.items():
            log = open(folder / f"{name}.log", "w", encoding="utf-8")
            self.processes[name] = subprocess.Popen(
                ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "bash", "-c", MACHINE, "machine", str(folder), name, address], stdout=log, stderr=log)
            self.first[name] = self._child_of(self.processes[name].pid)
        a, b = (str(pid) for pid in self.first.values())
        subprocess.run(["ip", "link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b],
                       check=True)
        for name in ADDRESSES:
            self._await_ssh(name)

    def _write_files(self):
        (self.folder / "tmp").mkdir()
        os.makedirs("/run/sshd", exist_ok=True)
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        (self.folder / "hosts").write_text(hosts)
        (self.folder / "ssh_config").write_text(f"IdentityFile {self.folder}/key\nUserKnownHostsFile /dev/null\n"
                                                "StrictHostKeyChecking no\nLogLevel ERROR\n")
        (self.folder / "sshd_config").write_text(
            f"HostKey {self.folder}/host_key\nAuthorizedKeysFile {self.folder}/key.pub\nPidFile none\nStrictModes no\n"
            "PermitRootLogin yes\nUsePAM no\nPasswordAuthentication no\n")
        (self.folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in ADDRESSES))

    @staticmethod
    def _child_of(pid: int) -> int:
        for _ in range(200):
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
            time.sleep(0.05)
        raise SystemExit("unshare started nothing")

    def _await_ssh(self, name: str):
        for _ in range(100):
            if not subprocess.run(self.inside("machine-a", "ssh", name, "hostname"), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL).returncode:
                return
            time.sleep(0.2)
        raise SystemExit(f"{name} does not answer: see {self.folder}/{name}.log")

    def inside(self, name: str, *command: str) -> list:
        """The words that run a command on a machine."""
        return ["nsenter", "--target", str(self.first[name]), "--net", "--mount", "--uts", "--ipc", "--pid",
                f"--wd={ROOT}", *command]

    def cut_off(self, name: str):
        """Power cut: nothing leaves the machine any more, then everything on it is gone."""
        subprocess.run(self.inside(name, "ip", "link", "set", "eth0", "down"), check=True)
        os.kill(self.first[name], signal.SIGKILL)
        self.processes[name].wait()

    def end(self):
        for process in self.processes.values():
            process.kill()  # its machine ends with it (--kill-child)
            process.wait()


class Check:
    """The steps. Each runs the wrapper on the first machine and prints what it showed."""

    def __init__(self, machines: Machines):
        self.machines = machines
        self.results = machines.folder / "results"

    def start(self, name: str, *options: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHON": PYTHON, "TMPDIR": str(self.machines.folder / "tmp"),
                       "HOROVOD_GLOO_TIMEOUT_SECONDS": str(TIMEOUT),
                       "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(TIMEOUT),
                       "HOROVOD_STALL_CHECK_TIME_SECONDS": str(TIMEOUT),
                       "OMPI_MCA_btl_tcp_if_include": "10.77.0.0/24", "OMPI_MCA_oob_tcp_if_include": "10.77.0.0/24",
                       # mpirun itself misses a machine after TIMEOUT seconds, in place of 480.
                       "OMPI_MCA_oob_tcp_keepalive_time": str(TIMEOUT // 2),
                       "OMPI_MCA_oob_tcp_keepalive_intvl": str(TIMEOUT // 4),
                       "OMPI_MCA_oob_tcp_keepalive_probes": "2"}
        command = ["bash", "scripts/electra.sh", "cpu", "--phase=1", "--electra_model=tiny", f"--model_name={name}",
                   f"--results_dir={self.results}", "--save_checkpoint_steps=5", "--warmup_steps_p1=2", *options]
        print(f"\n{name}: {' '.join(command)}", flush=True)
        self.log = open(self.machines.folder / f"{name}.log", "a", encoding="utf-8")
        return subprocess.Popen(self.machines.inside("machine-a", *command), env=environment, stdout=self.log,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def log_of(self, name: str) -> str:
        return (self.machines.folder / f"{name}.log").read_text(encoding="utf-8")

    def show(self, name: str, *patterns: str):
        text = self.log_of(name)
        for pattern in patterns:
            found = re.search(f"^.*?{pattern}.*$", text, re.MULTILINE)
            if not found:
                raise SystemExit(f"{text[-3000:]}\nFAILED: no line of {name}.log matches {pattern!r}")
            print(f"  {found[0]}"[:200], flush=True)

    def run(self):
        both = ["--num_workers=2", f"--hostfile={self.machines.folder / 'hostfile'}"]
        job = self.start("both", *both, "--train_steps_p1=20")
        status = job.wait(timeout=300)
        self.expect("both", status == 0, f"status {status}, not 0")
        self.show("both", "running: .*(-H machine|--hostfile)", "sequences .* an update", "phase 1 is finished: 20")

        job = self.start("cut", *both, "--train_steps_p1=5000")
        while "ckpt-10." not in self.log_of("cut"):
            self.expect("cut", job.poll() is None, "ended before its tenth update")
            time.sleep(0.1)
        cut = time.monotonic()
        self.machines.cut_off("machine-b")
        try:
            status = job.wait(timeout=120)
        except subprocess.TimeoutExpired:
            job.kill()
            raise SystemExit(f"{self.log_of('cut')[-3000:]}\nFAILED: the job still runs 120 s after the cut") from None
        self.expect("cut", status not in (0, 2, 75), f"status {status}")
        print(f"  machine-b was cut off; the job ended {time.monotonic() - cut:.0f} s later with status {status}")
        self.show("cut", "(another worker exited|no answer from another worker|lost communication)",
                  "electra.sh: phase 1 ended")

        newest = max(int(path.stem.split("-")[1]) for path in self.results.glob("models/cut/checkpoints/ckpt-*.index"))
        job = self.start("cut", "--resume_training=true", f"--train_steps_p1={newest + 10}")
        status = job.wait(timeout=300)
        self.expect("cut", status == 0, f"status {status}, not 0")
        self.show("cut", f"resuming from .* at step {newest}", "note: 2 workers wrote",
                  f"phase 1 is finished: {newest + 10}")

    def expect(self, name: str, condition: bool, problem: str):
        if not condition:
            raise SystemExit(f"{self.log_of(name)[-3000:]}\nFAILED: {name}: {problem}")


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    reason = missing()
    if reason:
        print(f"check_two_machines.py: skipped: {reason}")
        return 0
    folder = pathlib.Path(tempfile.mkdtemp(prefix="two_machines."))
    machines = None
    try:
        machines = Machines(folder)
        Check(machines).run()
    except BaseException:
        print(f"check_two_machines.py: logs are in {folder}", file=sys.stderr)
        raise
    finally:
        if machines:
            machines.end()
    shutil.rmtree(folder)
    print("\ncheck_two_machines.py: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
