"""Run many jobs of a study in parallel processes, show how far they are, and lose nothing when killed."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich.console import Console

from sharpness.cli.jobs import Job, Show, call, display
from sharpness.errors import InputError, RunError


class Workers:
    """A pool of processes with one share of the CPU threads each; they end when this process does, however it ends.

    A single worker is this process itself, which has the libraries loaded already. Used as a context: left normally
    it waits for nothing, as every :meth:`run` has waited; left by an exception it ends the running jobs, which
    continue from their run folders the next time.
    """

    def __init__(self, num_workers: int, device: str, console: Console) -> None:
        if num_workers < 1:
            raise InputError(f"expected at least 1 worker, got {num_workers}")
        self.device, self._console = device, console
        # torch then puts large CPU tensors on huge pages: fewer page faults, so faster products.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        self._threads, self._pool = max(1, available_cores() // num_workers), None
        if num_workers == 1:
            return
        context = multiprocessing.get_context("spawn")
        self._reports, self._stopped = context.Queue(), context.Event()
        self._pool = ProcessPoolExecutor(
            num_workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(os.getpid(), self._threads, self._reports, self._stopped),
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None:
            self._stopped.set()  # a worker whose job was ended takes the next one that it was sent already
            for child in multiprocessing.active_children():
                child.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, title: str, jobs: Sequence[Job]) -> None:
        """Run the jobs in their order as workers become free; the first failure is raised at once.

        Raises :class:`RunError` when a worker process was killed, for instance for want of memory.
        """
        if self._pool is None:
            self._run_here(title, jobs)
            return
        labels = {self._pool.submit(_call, job): job.label for job in jobs}
        with display(self._console, title, list(labels.values())) as show:
            waiting = set(labels)
            while waiting:
                done, waiting = wait(waiting, timeout=0.2)
                self._show_reports(show)
                for future in done:
                    _raise_failure(future)
                    show(labels[future], -1, 0)

    def _run_here(self, title: str, jobs: Sequence[Job]) -> None:
        _set_threads(self._threads)
        with display(self._console, title, [job.label for job in jobs]) as show:
            for job in jobs:
                call(job, show)
                show(job.label, -1, 0)

    def _show_reports(self, show: Show) -> None:
        while True:
            try:
                show(*self._reports.get_nowait())
            except queue.Empty:
                return


def _raise_failure(future: Future[None]) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process was killed, perhaps for want of memory: try --workers 1, it goes on"
        ) from error


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_reports: Any = None
_stopped: Any = None


def _start_worker(parent: int, threads: int, reports: Any, stopped: Any) -> None:
    global _reports, _stopped
    _reports, _stopped = reports, stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and ends its workers
    leave_with(parent)
    _set_threads(threads)


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def leave_with(parent: int) -> None:
    """End this process soon after its parent has gone: it holds no run folder and slows nothing down any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(job: Job) -> None:
    if not _stopped.is_set():
        call(job, lambda *report: _reports.put(report))
