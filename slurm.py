"""Workers that Slurm's srun starts: how they find each other over Gloo.

mpirun and horovodrun tell Horovod's workers their ranks and where to meet. srun does the former, with variables of its
own (`configuration.launched`). Here rank 0 serves Horovod's address book on its host while the workers connect, at a
port that all of them derive from the numbers of the job and the step.
"""
from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time

from configuration import UserError, launched, srun_tasks_per_node


def first_host(nodes: str) -> str:
    """The first host of a list like 'gpu[007-9,12],cpu3': gpu007."""
    return re.sub(r"\[([0-9]+)[^]]*\]", r"\1", nodes).split(",")[0]


def meeting_point():
    """Host and port of rank 0's address book. The user's HOROVOD_GLOO_RENDEZVOUS_ADDR and _PORT take precedence."""
    host = first_host(os.environ["SLURM_STEP_NODELIST"]) if len(srun_tasks_per_node()) > 1 else "127.0.0.1"
    numbers = [int(os.environ.get(name) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    port = 20000 + (100 * numbers[0] + numbers[1]) % 10000  # below the ports of outgoing connections (from 32768)
    return (os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR") or host,
            int(os.environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT") or port))


def horovod_variables() -> dict:
    """Ranks as horovodrun gives them. The cross ranks number the hosts that have a worker of this local rank."""
    counts, host, local_rank = srun_tasks_per_node(), int(os.environ["SLURM_NODEID"]), launched("LOCAL_RANK")
    return {"HOROVOD_RANK": launched("RANK"), "HOROVOD_SIZE": launched("SIZE"), "HOROVOD_LOCAL_RANK": local_rank,
            "HOROVOD_LOCAL_SIZE": counts[host],
            "HOROVOD_CROSS_RANK": sum(count > local_rank for count in counts[:host]),
            "HOROVOD_CROSS_SIZE": sum(count > local_rank for count in counts),
            "HOROVOD_HOSTNAME": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}


def interface_towards(address: str) -> str:
    """The network interface from which this host reaches an address, or "" if that is not known."""
    import psutil  # a requirement of Horovod
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((address, 9))
        own = probe.getsockname()[0]
    return next((name for name, addresses in psutil.net_if_addrs().items()
                 if own in [address.address for address in addresses]), "")


@contextlib.contextmanager
def rendezvous():
    """Around Horovod's initialisation and a first collective: sets its variables, and serves the address book.

    Raises: UserError: rank 0's host is unknown or cannot be reached, or its port is in use.
    """
    host, port = meeting_point()
    where = (f"{host}:{port}, where worker 0 lets the workers find each other (HOROVOD_GLOO_RENDEZVOUS_ADDR and "
             "HOROVOD_GLOO_RENDEZVOUS_PORT change that)")
    server = serve(port, where) if launched("RANK") == 0 else None
    try:
        address = socket.gethostbyname(host)
        if server is None:
            await_server(address, port, float(os.environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS") or 30))
        interface = interface_towards(address)
    except OSError as error:
        raise UserError(f"worker {launched('RANK')} cannot reach {where}: {error}.") from error
    if interface:
        os.environ.setdefault("HOROVOD_GLOO_IFACE", interface)
    os.environ.update({name: str(value) for name, value in horovod_variables().items()},
                      HOROVOD_GLOO_RENDEZVOUS_ADDR=address, HOROVOD_GLOO_RENDEZVOUS_PORT=str(port))
    try:
        yield
    finally:
        if server:  # the next training of this job step uses the same port
            server.shutdown()
            server.server_close()


def serve(port: int, where: str):
    """Starts Horovod's key-value server in a thread. Raises: UserError: the port is in use."""
    from horovod.runner.http.http_server import KVStoreHandler, RendezvousHTTPServer

    class Handler(KVStoreHandler):
        def do_DELETE(self):  # sent by each worker that has connected, while others may still read
            self.send_status_code(200)

    try:
        server = RendezvousHTTPServer(("", port), Handler, False)
    except OSError as error:
        raise UserError(f"worker 0 cannot listen at {where}: {error.strerror}.") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def await_server(address: str, port: int, seconds: float):
    """Waits until something listens there: rank 0 may start later. Raises: OSError: nothing does after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=seconds).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
