"""Shared set-up: one CPU thread per test process, and files that several tests read."""

from __future__ import annotations

import os

# Before NumPy and torch read it: threads that wait for work beside another test process take ten times its time.
os.environ["OMP_NUM_THREADS"] = "1"
# Some containers forbid Python to keep what it compiles. Every program that a test runs would compile the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import gc
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from tests.warm import SHIM, run_warm

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for folder in ("", "claims2026") for path in (ROOT / "scripts" / folder).glob("[!_]*.py"))
"""The scripts, those of studies among them."""
PATIENCE = 900.0
"""Seconds until a test gives up on another process. It ends what hangs and judges no speed: machines may be busy."""

sys.dont_write_bytecode = False
torch.set_num_threads(1)
runpy.run_path(str(SHIM / "sitecustomize.py"))  # for this process; others find it through PYTHONPATH


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that run a study, which take longest: at the end both processes have short ones left.

    Every test in a file that is named after a study's script is of that study.
    """
    studies = tuple(f"test_{script.stem}" for script in SCRIPTS)
    long = {item.path for item in items if item.get_closest_marker("study")}
    for item in items:
        if item.path.stem.startswith(studies):
            item.add_marker("study")
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Spare what is imported by now every further search for garbage: it lives to the end, and is most of all there is.

    The searches are frequent: whatever runs out of memory asks for one. Those that nobody asks for come the less often,
    as most of what a test leaves needs none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded with ``record_property``, of whichever process."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")


def without(what: str) -> NoReturn:
    """Skip a test that cannot be run without something, or fail where everything has to be tested."""
    if os.environ.get("SHARPNESS_TEST_ALL"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def browser() -> None:
    """The needs of a test that opens pages."""
    from tests.browser import CHROMIUM

    if CHROMIUM is None:
        without("no Chromium is installed: apt-get install chromium")


def run_python(
    *arguments: str, environment: dict[str, str] | None = None, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` from the root of the project, with the network forbidden to the data loader.

    It is a process of its own that has torch and the like loaded when it begins; several are the ranks of one program.
    """
    return run_warm(arguments, ROOT, _variables(environment), processes)


def run_cold_python(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the same from nothing, as a user does: for what depends on which libraries are loaded, and when."""
    command, variables = [sys.executable, *arguments], _variables(environment)
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def _variables(environment: dict[str, str] | None) -> dict[str, str]:
    variables = {"SHARPNESS_OFFLINE": "1", "COLUMNS": "120", "PYTHONPATH": str(SHIM)}
    return dict(os.environ) | variables | (environment or {})
