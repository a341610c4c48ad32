"""``make test`` with programs that only say that they were called: what runs, in which order, and what is reported."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, ROOT

STUB = '#!/bin/sh\necho "$(basename "$0") $*"\ncase "$FAILING" in *"$(basename "$0") $1"*) exit 1;; esac\n'


def make_test(folder: Path, *settings: str, failing: str = "") -> tuple[int, list[str]]:
    """Return the exit code of ``make test`` and its lines, with stubs in the place of the environment's programs."""
    for name in ("python", "ruff"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    command = ["make", "--no-print-directory", "-o", ".venv/installed-test", "test", f"BIN={folder}", *settings]
    around = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "FAST", "ARGS"))
    }
    environment = around | {"FAILING": failing}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    return result.returncode, result.stdout.splitlines()


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("", "make test: passed"),
        ("python -m", "make test: failed: tests"),
        ("ruff check", "make test: failed: lint"),
        ("python -m, ruff format", "make test: failed: tests format"),
    ],
)
def test_lint_comes_after_the_tests_and_both_are_reported(tmp_path: Path, failing: str, said: str) -> None:
    code, lines = make_test(tmp_path, "ARGS=-x", failing=failing)
    assert (code == 0) == (not failing)
    assert lines == [
        "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -x",
        "ruff check .",
        "ruff format --check .",
        said,
    ]


def test_the_fast_form_leaves_the_smoke_forms_of_studies_out(tmp_path: Path) -> None:
    code, (tests, *_) = make_test(tmp_path, "FAST=1")
    assert code == 0 and tests.endswith("reorder -m not slow and not study and not dear")
