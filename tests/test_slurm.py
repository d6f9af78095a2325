"""slurm.py: ranks and the meeting point of workers that srun starts, and real processes with srun's variables.

scripts/check_slurm.sh does the same with a Slurm of one node.
"""
from __future__ import annotations

import importlib.util
import os
import pathlib
import socket
import subprocess
import sys

import pytest

import configuration
import slurm
import workers

ROOT = pathlib.Path(__file__).parent.parent


def variables(rank, tasks="2", nodes="localhost", node=0, local_rank=None, size=2, job=7):
    """The variables of srun that are read here."""
    return {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(size), "SLURM_STEP_TASKS_PER_NODE": tasks,
            "SLURM_STEP_NODELIST": nodes, "SLURM_NODEID": str(node), "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": "0",
            "SLURM_LOCALID": str(rank if local_rank is None else local_rank), "SLURMD_NODENAME": f"node{node}"}


@pytest.fixture
def started(monkeypatch):
    """Sets the variables of srun, and no others of launchers."""
    def set_variables(*args, **kwargs):
        for name in list(os.environ):
            if name.startswith(("OMPI_", "HOROVOD_", "SLURM", "PMI")):
                monkeypatch.delenv(name)
        for name, value in variables(*args, **kwargs).items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_ranks_come_from_srun(started, monkeypatch):
    started(5, "2(x2),3", node=2, local_rank=1, size=7)
    assert [configuration.launched(word) for word in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")] == [5, 7, 1, 3]
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: True)
    placed = workers.place(7)
    assert (placed.rank, placed.size, placed.local_rank, placed.local_size) == (5, 7, 1, 3)


@pytest.mark.parametrize("others, rank", [
    ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, 3), ({"HOROVOD_SIZE": "4", "HOROVOD_RANK": "2"}, 2),
    ({"SLURM_STEP_NUM_TASKS": "1"}, None), ({"SLURM_STEP_NUM_TASKS": ""}, None)])
def test_launchers_inside_an_allocation_are_not_taken_for_srun(started, monkeypatch, others, rank):
    """mpirun starts its helpers with srun, and the shell of a batch job or of salloc is a single process."""
    started(1)
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert not configuration.started_by_srun() and configuration.launched("RANK") == rank


@pytest.mark.parametrize("nodes, first", [
    ("vm", "vm"), ("gpu[007-9,12],cpu3", "gpu007"), ("a-1,b[2-3]", "a-1"), ("rack[2-3]n[05-06]", "rack2n05")])
def test_the_first_host_of_a_list(nodes, first):
    assert slurm.first_host(nodes) == first


def test_workers_meet_at_rank_0_at_a_port_of_their_own_step(started, monkeypatch):
    started(3, "2(x2)", "node[4-5]", node=1, local_rank=1, size=4)
    host, port = slurm.meeting_point()
    assert host == "node4" and 20000 <= port < 30000
    started(3, "2(x2)", "node[4-5]", node=1, local_rank=1, size=4, job=8)
    assert slurm.meeting_point()[1] != port
    started(1, "4", size=4)
    assert slurm.meeting_point()[0] == "127.0.0.1"
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "10.0.0.1")
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_PORT", "99")
    assert slurm.meeting_point() == ("10.0.0.1", 99)


@pytest.mark.parametrize("node, local_rank, cross", [(0, 0, (0, 3)), (2, 0, (2, 3)), (2, 1, (1, 2)), (2, 2, (0, 1))])
def test_cross_ranks_number_the_hosts_that_have_the_local_rank(started, node, local_rank, cross):
    started(0, "2,1,3", "n[1-3]", node, local_rank, size=6)
    found = slurm.horovod_variables()
    assert (found["HOROVOD_CROSS_RANK"], found["HOROVOD_CROSS_SIZE"]) == cross
    assert found["HOROVOD_LOCAL_SIZE"] == [2, 1, 3][node] and found["HOROVOD_HOSTNAME"] == f"node{node}"


@pytest.fixture
def port():
    """A port where something listens that is not ours."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_in_use_and_a_host_that_is_not_there_are_refused(started, monkeypatch, refuses, port):
    pytest.importorskip("horovod", reason="Horovod is not installed: bash scripts/install_horovod.sh")
    started(0)
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_PORT", str(port))
    text = refuses(slurm.rendezvous().__enter__)
    assert f":{port}" in text and "HOROVOD_GLOO_RENDEZVOUS_PORT" in text
    started(1)
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "no-such-host.invalid")
    text = refuses(slurm.rendezvous().__enter__)
    assert "worker 1" in text and "no-such-host.invalid" in text and "HOROVOD_GLOO_RENDEZVOUS_ADDR" in text


def test_waiting_for_rank_0_ends(started, monkeypatch, refuses):
    started(1)
    with socket.socket() as free:
        free.bind(("", 0))
        monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "0.3")
    assert "worker 1 cannot reach 127.0.0.1:" in refuses(slurm.rendezvous().__enter__)


def test_pmi_alone_is_refused(started, monkeypatch, refuses):
    """mpiexec of MPICH: eight separate trainings would write to one folder."""
    started(0)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("PMI_SIZE", "8")
    assert "PMI_SIZE=8" in refuses(workers.place, 0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")  # srun --mpi=pmi2
    assert configuration.launched("SIZE") == 8


PROGRAM = """
import time, configuration, workers
if configuration.launched("RANK") == 0: time.sleep(0.5)
joined = workers.join(workers.place(3), configuration.DeviceOptions())
assert (joined.rank, joined.size) == (configuration.launched("RANK"), 3), joined
print("ranks", joined.gather(joined.rank), "local", joined.gather((joined.local_rank, joined.local_size)))
"""


@pytest.mark.skipif(importlib.util.find_spec("horovod") is None,
                    reason="Horovod is not installed: bash scripts/install_horovod.sh")
def test_processes_with_the_variables_of_srun_become_workers():
    """Of two hosts, and rank 0 is late."""
    places = [dict(node=0, local_rank=0), dict(node=0, local_rank=1), dict(node=1, local_rank=0)]
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("OMPI_", "HOROVOD_", "SLURM", "PMI"))}
    processes = [subprocess.Popen(
        [sys.executable, "-c", PROGRAM], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env={**environment, **variables(rank, "2,1", "localhost,other", size=3, job=os.getpid(), **place)})
        for rank, place in enumerate(places)]
    for process in processes:
        output, errors = process.communicate(timeout=100)
        assert "ranks [0, 1, 2] local [(0, 2), (1, 2), (0, 1)]" in output, errors
        assert process.returncode == 0
