"""This machine's part of a job: torch's elastic agent, which starts the processes and starts them again.

All nodes meet at the endpoint (torch's c10d rendezvous), get their ranks and start. What happens then:

- A process fails: its agent ends the others of its node, and those of other nodes fail in their next collective
  operation. All agents meet again and start all processes, which continue from the newest checkpoint.
- A node is lost, its agent and processes with it: the others' processes fail as above. A node that sends no sign of
  life for 15 s is struck off (`_RENDEZVOUS`; the clocks of the nodes must agree to a few seconds), and the rest wait
  `join_minutes` for one to take its place.
- The endpoint's node is lost: the others' agents end, for the rendezvous is gone, and new ones wait for another.
- The network fails between nodes: after `heartbeat_seconds` they end their processes, and meet again when they can.
- A node gives up: it says why in the run's folder and closes the rendezvous, and the others give up too.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from torch.distributed import DistError, DistNetworkError, TCPStore  # type: ignore[attr-defined]  # torch does not list it
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import LogsDest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from model.job import Job
from model.launching.ranks import RankLogs, last_line
from model.launching.runtime import LocalLaunch, RuntimeSettings, TorchrunLaunch
from model.launching.signals import PAUSED, STARTED, TIME_LIMIT
from model.launching.supervise import Signals, Watch, tell
from stages.errors import UserError
from stages.files import read_json, write_json

WORKER = ("-W", "ignore", "-m", "model.launching.process")
"""Python's arguments for one process; the run's folder follows them."""
_FAILED = "failed.json"
"""File in the run's folder by which a node that gives up says `why`; a node that loses the rendezvous closes it too."""
_RENDEZVOUS = {"keep_alive_interval": 5, "keep_alive_max_attempt": 3, "join_timeout": 600, "read_timeout": 30}
"""Seconds between a node's signs of life, and how many may fail; torch's own, because every node writes the state of
the rendezvous, and more of them would slow a large one. Seconds to meet, and of one try to connect or to read."""
_LEAVE_SECONDS = 1.0
"""How much longer the endpoint's store lives than its agent, for the others to take their leave; and how long they
give a node that leaves to say why."""


def run(
    job: Job,
    runtime: RuntimeSettings,
    launch: LocalLaunch | TorchrunLaunch,
    folder: Path,
    worker: Sequence[str] = WORKER,
) -> bool:
    """Run this node's processes to the end of the job in `folder`, continuing what is there.

    Args:
        job: The job.
        runtime: How it is carried out, but for:
        launch: With which nodes.
        folder: The run's folder, which all nodes share.
        worker: Python's arguments for one process.

    Returns:
        Whether rank 0 was here at the end.

    Raises:
        KeyboardInterrupt: This or another node was told to stop.
        UserError: The job failed or reached its time limit, or the nodes did not meet.
    """
    node = _Node(job, runtime, launch, folder)
    os.environ.update(_environment(job))
    for left in (PAUSED, _FAILED):
        (folder / left).unlink(missing_ok=True)
    try:
        with node.signals.handled(), contextlib.closing(node.logs), node.watch.watching():
            results = node.run([*worker, str(folder)])
    except SignalException:
        raise KeyboardInterrupt from None
    require_finished(folder)
    return 0 in results


def require_finished(folder: Path) -> None:
    """Raise if the processes of the run in `folder` saved a checkpoint and ended before the last step.

    Raises:
        KeyboardInterrupt: They were told to by a signal.
        UserError: They had reached the time limit.
    """
    if (folder / PAUSED).exists():
        paused = read_json(folder / PAUSED)
        if paused["reason"] != TIME_LIMIT:
            raise KeyboardInterrupt
        raise UserError(
            f"time limit reached at step {paused['step']} (runtime.time_limit_minutes); "
            "run `dvc repro pretrain` again to continue"
        )


def _config(job: Job, launch: LocalLaunch | TorchrunLaunch) -> LaunchConfig:
    world_size = job.pretrain.layout.world_size
    nodes = launch.nodes if isinstance(launch, TorchrunLaunch) else 1
    if world_size % nodes:
        raise UserError(
            f"pretrain.layout makes {world_size} processes, which runtime.launch.nodes = {nodes} nodes cannot share "
            "equally; change one of them"
        )
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=world_size // nodes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        rdzv_configs=_RENDEZVOUS,
        run_id=job.fingerprint(),
        max_restarts=launch.max_restarts,
        monitor_interval=0.1,
        local_addr="localhost",
        signals_to_handle="SIGQUIT",  # the others are ours
    )
    if isinstance(launch, LocalLaunch):
        return config
    # The host is told apart here, so that it can outlive its agent.
    rendezvous = {**_RENDEZVOUS, "join_timeout": 60 * launch.join_minutes, "is_host": "false"}
    address = _use_network_of(launch.endpoint)
    return replace(config, rdzv_endpoint=launch.endpoint, rdzv_configs=rendezvous, local_addr=address)


def _use_network_of(endpoint: str) -> str:
    """Let processes reach each other where they reach the endpoint, and return where the others find this node.

    A node's own name, which torch and gloo would take, often means 127.0.1.1 or nothing to other nodes.
    """
    host, port = _host_and_port(endpoint)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))  # sends nothing
        except OSError as error:
            raise UserError(f"runtime.launch.endpoint '{endpoint}' cannot be reached: {error}; correct it") from None
        own, peer = str(probe.getsockname()[0]), probe.getpeername()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if own in [address.address for address in addresses]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    return host if own == peer or own.startswith("127.") else own


def _host_and_port(endpoint: str) -> tuple[str, int]:
    host, port = endpoint.rsplit(":", 1)
    return host, int(port)


@contextlib.contextmanager
def _rendezvous(config: LaunchConfig) -> Iterator[None]:
    """Host the rendezvous of several nodes if this is the endpoint's, and a moment longer than the others need it."""
    host, port = _host_and_port(config.rdzv_endpoint)
    store = None
    if port and config.local_addr == host:
        with contextlib.suppress(DistNetworkError):  # another stage of this machine hosts it, as in a test
            store = TCPStore(host, port, is_master=True, wait_for_workers=False)
    try:
        yield
    finally:
        if store:
            time.sleep(_LEAVE_SECONDS)


def _environment(job: Job) -> dict[str, str]:
    """Return what a process must find in its environment, most of it before it imports torch."""
    threads = str(job.pretrain.num_threads)
    columns, lines = shutil.get_terminal_size()
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic GEMMs on CUDA
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # Megatron-Core's order of communication and GEMMs
        "DVC_NO_ANALYTICS": "1",  # DVCLive must not call home from a training process
        "HF_HUB_OFFLINE": "1",  # nor may transformers and lm-eval look for what is not on this machine
        "HF_DATASETS_OFFLINE": "1",
        STARTED: str(time.monotonic()),
        **({"COLUMNS": str(columns), "LINES": str(lines)} if sys.stderr.isatty() else {}),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # _Starts makes one
    }


class _Starts(RankLogs):
    """Also makes, at each start, the store in which the processes find each other.

    Torch 2.13 has two ways, and each fails at times. The agent's own store lives on from start to start: restarted
    processes find the addresses of dead ones in it, and nodes that stay do not learn of a new first node's. Or rank 0
    makes one, seconds after the agent has chosen its port, which any connection on the machine may then have.
    """

    _store: TCPStore | None = None

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Prepare a start; called by torch with the environments of the processes."""
        self._store = None
        for env in envs.values():
            env["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            if env["RANK"] == "0":
                port = int(env["MASTER_PORT"])
                self._store = TCPStore(env["MASTER_ADDR"], port, is_master=True, wait_for_workers=False)
        return super().reify(envs)


class _Node:
    """The agents of this node, one after another, and what goes with them."""

    def __init__(self, job: Job, runtime: RuntimeSettings, launch: LocalLaunch | TorchrunLaunch, folder: Path) -> None:
        self._folder = folder
        self._config = _config(job, launch)
        self.logs, self.signals = _Starts(folder / "ranks"), Signals()
        world_size = job.pretrain.layout.world_size
        self.watch = Watch(folder, world_size, runtime.heartbeat_seconds, self.logs, self.signals)

    def run(self, command: list[str]) -> dict[int, Any]:
        """Run agents until one ends other than by losing the rendezvous; return what it says of each rank here."""
        config = self._config
        losses, waiting_since = 0, time.monotonic()
        while True:
            starts = self.logs.starts
            try:
                with _rendezvous(config):
                    return self._run_agent(command, config.max_restarts - losses)
            except RendezvousTimeoutError:
                raise UserError(
                    f"{config.min_nodes} nodes did not meet at '{config.rdzv_endpoint}' within "
                    f"{config.rdzv_configs['join_timeout'] // 60} minutes; start the stage on all of them, or change "
                    "runtime.launch"
                ) from None
            except (RendezvousConnectionError, RendezvousClosedError, DistError):
                time.sleep(_LEAVE_SECONDS)
            if (self._folder / _FAILED).exists():
                raise UserError(f"training stopped on another node: {read_json(self._folder / _FAILED)['why']}")
            if self.logs.starts > starts:
                losses, waiting_since = losses + 1, time.monotonic()
                tell(f"the rendezvous at '{config.rdzv_endpoint}' is lost; waiting for another")
            if losses > config.max_restarts or time.monotonic() - waiting_since > config.rdzv_configs["join_timeout"]:
                raise UserError(
                    f"there is no rendezvous at '{config.rdzv_endpoint}'; start the stage there too, or correct "
                    "runtime.launch.endpoint"
                )

    def _run_agent(self, command: list[str], max_restarts: int) -> dict[int, Any]:
        config = replace(self._config, max_restarts=max_restarts, logs_specs=self.logs)
        try:
            results: dict[int, Any] = elastic_launch(config, sys.executable)(*command)
            return results
        except ChildFailedError as error:
            if self.signals.first:
                raise KeyboardInterrupt from None
            why = self.watch.found or _why(error, self.logs)
            write_json(self._folder / _FAILED, {"why": why})
            raise UserError(
                f"training stopped: {why}. `dvc repro pretrain` continues from the newest checkpoint in "
                f"'{self._folder}'."
            ) from None


def _why(error: ChildFailedError, logs: RankLogs) -> str:
    """Return which rank failed first and how."""
    rank, failure = min(error.failures.items(), key=lambda item: _when(item[1]))
    log = logs.paths[failure.local_rank]
    message = failure.message["message"] if isinstance(failure.message, dict) else failure.message
    if failure.exitcode > 0 and not Path(failure.error_file).exists():
        message = last_line(log)
    if failure.exitcode == -signal.SIGKILL:
        message = f"{message}, as the kernel does when memory runs out"
    return f"rank {rank} ended with exit code {failure.exitcode}: {' '.join(str(message).split())}; its log is '{log}'"


def _when(failure: ProcessFailure) -> tuple[float, float]:
    """Return a key that is least for the failure that caused the others.

    An exception's time is its own, in seconds, and its file's tells which of them was first within one. A death by a
    signal is dated when the agent sees it, a moment after those that it caused among its peers.
    """
    error_file = Path(failure.error_file)
    if error_file.exists():
        return failure.timestamp, error_file.stat().st_mtime
    return failure.timestamp - (0 if failure.exitcode == -signal.SIGTERM else 2), 0
