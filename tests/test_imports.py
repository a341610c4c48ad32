"""Imports point one way: config -> data -> model -> loss -> run folder -> trainer or probe -> command; never back."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Each module may import from the lines above its own. Modules of one line do not import each other.
LADDER = (
    ("errors",),
    ("records", "config", "spec", "extras", "request"),
    ("vectors", "noise_scale", "batches", "modes", "environment", "memory", "distributed", "graphs", "homogeneity"),
    ("users_code",),
    ("data", "models", "operators", "weighted", "output_space", "losses", "rescaling", "permutations", "paths"),
    ("flat_network",),
    ("loss", "linalg"),
    ("kept_graphs", "determinism", "runs", "per_example"),
    ("curvature", "guards"),
    ("evidence", "minibatches"),
    ("checkpoints",),
    ("landscapes",),
    ("training", "probes", "plots"),  # the first two meet in the run folder only; plots read records
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LADDER) for name in names}
LIBRARY = sorted(
    path
    for path in (ROOT / "sharpness").rglob("*.py")
    if path.parent != ROOT / "sharpness" or path.name != "__init__.py"
)


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports when it runs, wherever in it; those for type checkers do not count."""
    tree, names = ast.parse(path.read_text()), set()
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def parts_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("sharpness.")} & RANK.keys()


def test_imports_point_down_the_ladder() -> None:
    wrong = []
    for path in LIBRARY:
        own = path.relative_to(ROOT / "sharpness").parts[0].removesuffix(".py")
        names = imported(path)
        upwards = {part for part in parts_of(names) - {own} if RANK[part] >= RANK[own]}
        outside = {name for name in names if name.split(".")[0] in {"analysis", "scripts", "tests"}}
        wrong += [f"{path.relative_to(ROOT)} must not import {name}" for name in sorted(upwards | outside)]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_its_place_on_the_ladder() -> None:
    modules = {
        p.name.removesuffix(".py")
        for p in (ROOT / "sharpness").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert modules - {"__init__"} == set(RANK)


def test_analysis_reads_records_and_nothing_else_of_the_library() -> None:
    wrong = []
    for path in sorted((ROOT / "analysis").rglob("*.py")):
        names = imported(path)
        others = parts_of(names) - {"records", "errors", "plots"}
        torches = {name for name in names if name.split(".")[0] == "torch"}
        wrong += [f"{path.relative_to(ROOT)} must not import {name}" for name in sorted(others | torches)]
    assert not wrong, "\n".join(wrong)


def test_records_and_analysis_load_without_torch() -> None:
    code = "import sharpness.records, analysis.keskar2017, sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(("own", "expected"), [({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")])
def test_large_pages_are_asked_for_unless_the_user_said_otherwise(own: Mapping[str, str], expected: str) -> None:
    code = "import sharpness, os, sys; print('torch' in sys.modules, os.environ['THP_MEM_ALLOC_ENABLE'])"
    around = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=around | dict(own), capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", expected]


def test_only_the_loss_averages_over_data() -> None:
    # Whoever wants a mean over batches asks the Loss: no other module may walk over a loss's batches with weights.
    users = [p.name for p in LIBRARY if "micro_batches()" in p.read_text()]
    assert sorted(users) == ["curvature.py", "kept_graphs.py", "loss.py", "weighted.py"]
