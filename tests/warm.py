"""A Python with the large libraries loaded, of which every program that a test runs becomes a fork.

To load torch takes longer than most commands do. A fork has it, and is otherwise a process like any other: it loads the
project's own modules anew and runs a file, a module or a text as ``__main__`` with its own arguments, variables and
output. What depends on how libraries are loaded takes a Python of its own: :func:`tests.conftest.run_cold_python`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SHIM = Path(__file__).parent / "shim"
LIBRARIES = ("torch._dynamo", "scipy.optimize", "scipy.stats", "matplotlib.pyplot", "seaborn", "rich.progress", "tyro")


def run_warm(
    arguments: tuple[str, ...], folder: Path, environment: dict[str, str], processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` from a folder in a fork of the warm Python, which the first call starts.

    Several ``processes`` are the ranks of one program, as of torchrun.
    """
    python = _python(folder)
    assert python.stdin is not None and python.stdout is not None
    with tempfile.TemporaryDirectory() as place:
        output = [Path(place, name) for name in ("stdout", "stderr")]
        for file in output:
            file.touch()
        request = {"arguments": arguments, "environment": environment, "output": list(map(str, output))}
        request |= {"processes": processes}
        try:
            print(json.dumps(request), file=python.stdin, flush=True)
            code = int(python.stdout.readline())
        except BaseException:  # a test out of time, say: the late answer would be taken for that to the next request
            _python.cache_clear()
            os.killpg(python.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in output))


@functools.cache
def _python(folder: Path) -> subprocess.Popen[str]:
    pipe, variables = subprocess.PIPE, os.environ | {"PYTHONPATH": str(SHIM)}
    command = [sys.executable, __file__]
    python = subprocess.Popen(
        command, cwd=folder, env=variables, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    )
    if hasattr(os, "sched_setaffinity"):  # so that a study shares its work among the threads of one core, not of all
        cores, number = sorted(os.sched_getaffinity(0)), os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        os.sched_setaffinity(python.pid, {cores[int(number) % len(cores)]})
    atexit.register(python.communicate)  # which closes its input, and so ends it
    return python


def serve() -> None:
    """Run a program for every line of the standard input and print its exit code."""
    fork = multiprocessing.get_context("fork")
    gc.freeze()  # the libraries stay shared with the forks, which would copy them to look for garbage
    for line in sys.stdin:
        request = json.loads(line)
        variables = of_ranks(request["processes"]) if request["processes"] > 1 else [{}]
        requests = [request | {"environment": request["environment"] | each} for each in variables]
        programs = [fork.Process(target=become, args=(each,)) for each in requests]
        for program in programs:
            program.start()
        print(joined(programs), flush=True)


def of_ranks(number: int) -> list[dict[str, str]]:
    """Return the variables by which torchrun tells the processes of a program of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"TORCHELASTIC_RUN_ID": "none"} | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(number))
    return [shared | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(number)]


def joined(programs: Sequence[BaseProcess]) -> int:
    """Return 0 when all have ended well, or the first other exit code, which ends the rest."""
    running = {program.sentinel: program for program in programs}
    while running:
        ended = [running.pop(sentinel) for sentinel in connection.wait(list(running)) if isinstance(sentinel, int)]
        for program in ended:
            program.join()
        if failed := [program.exitcode for program in ended if program.exitcode]:
            for program in running.values():
                program.kill()
                program.join()
            return failed[0]
    return 0


def become(request: dict[str, Any]) -> None:
    """Run a program in this process, as ``python *arguments`` would, with its output in files."""
    for number, file in enumerate(request["output"], 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    kind, *arguments = request["arguments"]
    while kind == "-W":
        warnings.simplefilter(arguments[0])
        kind, *arguments = arguments[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(kind)) if kind[0] != "-" else os.getcwd() if kind == "-m" else ""
    name, sys.argv = (kind, [kind, *arguments]) if kind[0] != "-" else (arguments[0], [kind, *arguments[1:]])
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(name, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(name, run_name="__main__")


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    serve()
