"""Run jobs on a Ray cluster: one task for each, begun again when its worker or its node is lost."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sharpness.cli.jobs import Job, Show, call, display
from sharpness.errors import InputError, RunError
from sharpness.machine.extras import extra
from sharpness.runs import folder as run_folder

if TYPE_CHECKING:
    from typing import Self

RETRIES = 3
"""A job whose worker or node was lost is begun again this often; each time it goes on from its run folder."""

LEASE_SECONDS = 120.0
"""A job waits this long for the lock of its run folder: on a network disk the lock of a lost node may outlive it."""

MARK = ".ray-"
"""Beginning of the name of a file by which a node sees that the folder of the runs is the driver's."""

REPORT_SECONDS = 1.0
"""A job says how far it is at most this often."""

ANSWER_SECONDS = 10.0
"""The address of a cluster must answer within this time."""

TOKEN = Path.home() / ".ray" / "auth_token"
"""Where Ray keeps the token of a cluster."""

CHECKOUT = str(Path(__file__).resolve().parents[2])
"""The nodes import from this folder."""


class RayWorkers:
    """Workers on Ray, of the interface of those in processes: ``local`` starts one on this machine, else it is
    an address.

    As many jobs run at once as there is room for, at most ``num_workers``. Each gets a CPU, with ``num_workers`` its
    share of them, and with ``device`` ``cuda`` a GPU and the CPUs beside it; ``auto`` is ``cuda`` where a node has a
    GPU. ``shared`` is the folder of the results, which all nodes must see under the same path: a job on a node that
    does not see it fails at once.

    Raises :class:`InputError` without Ray, for an address at which no cluster answers, and for a device it lacks.
    """

    def __init__(self, address: str, num_workers: int | None, device: str, shared: Path, console: Console) -> None:
        if num_workers is not None and num_workers < 1:
            raise InputError(f"expected at least 1 worker, got {num_workers}")
        self._ray, self._console = _connect(address), console
        self._most = math.inf if num_workers is None else num_workers
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.device = _device(device, any(node.get("GPU") for node in nodes))
            self._share = share(nodes, num_workers, self.device == "cuda")
            shared.mkdir(parents=True, exist_ok=True)
            for old in shared.glob(f"{MARK}*"):  # of drivers that were killed
                if time.time() - old.stat().st_mtime > 86400:
                    old.unlink(missing_ok=True)
            self._mark = shared / f"{MARK}{uuid.uuid4().hex}"
            self._mark.touch()
            # It holds no resources and starts again wherever it is lost, so that no report can end a run.
            self._reports = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Reports).remote()
        except BaseException:
            self._ray.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._mark.unlink()
        self._ray.shutdown()  # ends the tasks of this driver, which go on from their run folders the next time

    def run(self, title: str, jobs: Sequence[Job]) -> None:
        """Run the jobs as the cluster has room for them; the first failure is raised at once.

        Raises :class:`RunError` when a job's worker was lost more than :data:`RETRIES` times.
        """
        task = self._ray.remote(_do).options(**self._share, max_retries=RETRIES)
        pending, running = list(reversed(jobs)), dict[Any, Job]()
        with display(self._console, title, [job.label for job in jobs]) as show:
            while pending or running:
                while pending and len(running) < self._most:
                    job = pending.pop()
                    running[task.remote(job, self._mark, self._reports)] = job
                done, _ = self._ray.wait(list(running), num_returns=1, timeout=0.2)
                for report in self._ray.get(self._reports.take.remote()):
                    show(*report)
                for reference in done:
                    job = running.pop(reference)
                    self._raise_failure(reference, job)
                    show(job.label, -1, 0)

    def _raise_failure(self, reference: Any, job: Job) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else RunError(f"{job.label} failed: {cause}")) from None
        except errors.RayError as error:
            reason = " ".join(str(error).split())[:200]
            lost = (
                errors.WorkerCrashedError,
                errors.NodeDiedError,
                errors.LocalRayletDiedError,
                errors.OutOfMemoryError,
            )
            what = f"lost its worker {RETRIES + 1} times" if isinstance(error, lost) else "failed on Ray"
            raise RunError(
                f"{job.label} {what} ({reason}): the same command goes on from its run folder, with fewer --workers "
                "if memory was short"
            ) from None


def share(nodes: Iterable[dict[str, float]], num_workers: int | None, gpu: bool) -> dict[str, float]:
    """Return the CPUs and GPUs of one job on nodes of these resources: as many that so many jobs fit at once.

    >>> share([{"CPU": 8.0}, {"CPU": 4.0}], 2, gpu=False)
    {'num_cpus': 4}
    >>> share([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], None, gpu=True)
    {'num_cpus': 4, 'num_gpus': 1}
    """
    fitting = [node for node in nodes if node.get("GPU" if gpu else "CPU", 0) >= 1]
    if gpu:
        return {"num_cpus": max(1, min(int(node.get("CPU", 0) / node["GPU"]) for node in fitting)), "num_gpus": 1}
    if num_workers is None:
        return {"num_cpus": 1}
    cores = [int(node["CPU"]) for node in fitting]
    shares = range(max(cores, default=1), 1, -1)
    return {"num_cpus": next((each for each in shares if sum(core // each for core in cores) >= num_workers), 1)}


def _connect(address: str) -> Any:
    """Return the module ``ray``, connected; its workers import from this checkout and keep their output in its logs."""
    if address != "local" and TOKEN.exists():
        # `ray start` asks for the token where one lies there; a program that joins has to be told to show it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray = extra("ray", "ray")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what is to come: a warning otherwise
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # they have a count of their own, without end
    # As in workers.py, torch then puts large CPU tensors on huge pages.
    environment = {"PYTHONPATH": CHECKOUT, "THP_MEM_ALLOC_ENABLE": "1"}
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _answers(address)
        ray.init(
            address,
            runtime_env={"env_vars": environment},
            log_to_driver=False,
            logging_level="ERROR",
            **options,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"expected local or the address of a Ray cluster for --ray, such as auto on one of its nodes or "
            f"HOST:6379, got {address} ({reason}): start one with `ray start --head`"
        ) from None
    return ray


def _answers(address: str) -> None:
    """Raise :class:`OSError` where nothing listens at HOST:PORT, which Ray would try for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()


def _device(name: str, gpus: bool) -> str:
    """Return the device of the tasks, which the cluster decides and not this machine."""
    if name == "auto":
        return "cuda" if gpus else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"expected auto, cpu or cuda with --ray, got {name!r}: Ray chooses which GPU each run gets")
    if name == "cuda" and not gpus:
        raise InputError("expected a Ray cluster with a GPU for --device cuda, got one without: use --device auto")
    return name


class _Reports:
    """An actor that holds the latest reports of the jobs."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, int, int]] = []

    def put(self, *report: Any) -> None:
        self._waiting.append(report)

    def take(self) -> list[tuple[str, int, int]]:
        waiting, self._waiting = self._waiting, []
        return waiting


def _do(job: Job, mark: Path, reports: Any) -> None:
    """Do a job (on a node); what it reports is not waited for, so a lost report loses nothing else."""
    import ray
    import torch

    if not mark.exists():
        raise InputError(
            f"expected the folder {mark.parent} on {socket.gethostname()}, got none or another one: it must lie on a "
            "path that all nodes see"
        )
    run_folder.LOCK_SECONDS = LEASE_SECONDS
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    call(job, _seldom(lambda *report: reports.put.remote(*report)))


def _seldom(report: Callable[..., object]) -> Show:
    last = 0.0

    def show(label: str, done: int, total: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= REPORT_SECONDS or not total:
            last = now
            report(label, done, total)

    return show
