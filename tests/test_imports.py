"""Imports point one way: config -> data -> model -> loss -> run folder -> trainer or probe -> command; never back."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_cold_python, run_python

# Each module may import from the lines above its own. Modules of one line do not import each other.
LADDER = (
    ("errors",),
    ("parsing",),
    ("config",),
    ("machine", "files"),
    ("records", "vectors"),
    ("data", "models"),
    ("loss", "linalg"),
    ("curvature", "symmetries", "runs", "modes"),
    ("results", "checkpoints"),
    ("landscapes",),
    ("training", "probes", "plots"),  # the first two meet in the run folder only; plots read records
    ("measure", "integrations"),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LADDER) for name in names}
LIBRARY = sorted(
    path
    for path in (ROOT / "sharpness").rglob("*.py")
    if path.parent != ROOT / "sharpness" or path.name != "__init__.py"
)


@functools.cache
def read(path: Path) -> tuple[frozenset[str], dict[str, int]]:
    """Return what :func:`imported` does, and how many lines each function of a file goes on after its first."""
    tree, names, lines = ast.parse(path.read_text()), set(), {}
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            lines[node.name] = max((node.end_lineno or 0) - node.lineno, lines.get(node.name, 0))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names), lines


def imported(path: Path) -> frozenset[str]:
    """Return the modules that a file imports when it runs, wherever in it; those for type checkers do not count."""
    return read(path)[0]


def parts_of(names: Iterable[str]) -> set[str]:
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


# Beside the library, and itself: what a folder outside it may import.
STUDY = {"analysis.runs", "analysis.report", "analysis.statistics"}
OUTSIDE: dict[str, set[str]] = {
    "analysis/statistics": set(),
    "analysis/report": {"analysis.runs", "analysis.statistics"},
    "analysis/pages": {"analysis.report", "analysis.statistics"},
    "scripts/runner": {"analysis.report"},
    "scripts/grids": {"scripts.runner", "analysis.large_batch_recipes"},
    "scripts/measures": {"scripts.runner", "scripts.grids", "analysis.mccandlish2018", "analysis.statistics"},
    "scripts/claims2026": {"scripts.runner", "scripts.grids", "scripts.measures"},
    "scripts/benchmarks": {"scripts.runner"},
    "scripts/embedded": set(),
}


def test_folders_outside_the_library_import_what_they_may_and_no_study_another() -> None:
    """Of the library's own folders the ladder says it."""
    paths = [path for root in ("analysis", "scripts") for path in ROOT.glob(f"{root}/*/**/*.py")]
    wrong = []
    for path in sorted(paths):
        folder = path.parent.relative_to(ROOT).as_posix()
        roots = [f"{each}." for each in (folder.replace("/", "."), *OUTSIDE.get(folder, STUDY))]
        names = {name for name in imported(path) if name.startswith(("analysis.", "scripts."))}
        others = sorted(name for name in names if not f"{name}.".startswith(tuple(roots)))
        wrong += [f"{path.relative_to(ROOT)} must not import {name}" for name in others]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("root", ["sharpness", "analysis", "scripts"])
def test_each_folder_says_what_lives_there_and_what_may_be_imported(root: str) -> None:
    for path in (ROOT / root).rglob("__init__.py"):
        said = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n>>>")[0]
        first, _, second = said.partition("\n\n")
        assert first.rstrip().endswith((".", "?")) and second.rstrip().endswith((".", ":")), path


def test_every_study_has_the_same_four_modules() -> None:
    """``docs/extend.md`` says what they are for; other folders of the analysis are those that OUTSIDE names."""
    folders = {path.parent for path in (ROOT / "analysis").glob("**/*.py")} - {ROOT / "analysis"}
    studies = [path for path in folders if path.relative_to(ROOT).as_posix() not in {*OUTSIDE, "analysis/claims2026"}]
    assert len(studies) >= 19
    for study in studies:
        assert {f"{name}.py" for name in ("numbers", "figures", "report", "story")} <= set(os.listdir(study)), study


@pytest.mark.parametrize(("root", "most"), [("sharpness", 26), ("analysis", 18), ("scripts", 20)])
def test_a_folder_can_be_read_at_a_glance_and_a_function_on_a_screen(root: str, most: int) -> None:
    assert len([path for path in (ROOT / root).iterdir() if path.name != "__pycache__"]) <= most
    for path in (ROOT / root).rglob("*.py"):
        for name, lines in read(path)[1].items():
            assert lines < 60, f"{path}: {name} is longer than 60 lines"


def test_analysis_reads_records_and_nothing_else_of_the_library() -> None:
    wrong = []
    for path in sorted((ROOT / "analysis").rglob("*.py")):
        names = imported(path)
        others = parts_of(names) - {"records", "files", "parsing", "errors", "plots"}
        torches = {name for name in names if name.split(".")[0] == "torch"}
        wrong += [f"{path.relative_to(ROOT)} must not import {name}" for name in sorted(others | torches)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.dear
def test_records_and_analysis_load_without_torch() -> None:
    code = "import sharpness.records, sharpness.files, analysis.keskar2017.report, sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


STATE = """
import json, os, signal, sys, threading, warnings
os.environ.pop("THP_MEM_ALLOC_ENABLE", None)
import matplotlib, scipy.sparse, scipy.special, torch

def state():
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    return {
        "environment": dict(os.environ),
        "deterministic": [torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark],
        "precision": [torch.get_float32_matmul_precision(), cuda.matmul.allow_tf32, cudnn.allow_tf32],
        "mkldnn": [mkldnn.enabled, mkldnn.allow_tf32],
        "autograd": [torch.is_grad_enabled(), torch.is_anomaly_enabled()],
        "defaults": [str(torch.get_default_dtype()), str(torch.get_default_device())],
        "torch's threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch's draws": torch.get_rng_state().tolist(),
        "threads": [thread.name for thread in threading.enumerate()],
        "warnings": [str(each) for each in warnings.filters],
        "signals": {str(number): str(signal.getsignal(number)) for number in signal.valid_signals()},
        "matplotlib": {name: str(value) for name, value in dict.items(matplotlib.rcParams)},
    }

states = [state()]
import sharpness
states.append(state())
names = [getattr(sharpness, name) for name in sharpness.__all__]
states.append(state())
print(len(names), json.dumps([[key for key in states[0] if each[key] != states[0][key]] for each in states[1:]]))
"""


def test_importing_the_library_changes_nothing_in_its_users_process() -> None:
    # What torch, scipy and matplotlib change when they are imported is theirs, and is there before.
    result = run_python("-c", STATE)
    assert result.returncode == 0, result.stderr
    count, changed = result.stdout.split(maxsplit=1)
    assert int(count) > 40 and json.loads(changed) == [[], []]


def test_the_library_loads_without_torch() -> None:
    result = run_cold_python("-c", "import sharpness, sys; print('torch' in sys.modules)")
    assert result.stdout.strip() == "False"


TRAIN = """
import os, sys
sys.argv = ["sharpness", "train", "nowhere.toml", "--out", "nowhere"]
from sharpness.cli import main
before = os.environ.get("THP_MEM_ALLOC_ENABLE")
try:
    main()
except SystemExit as end:
    code = end.code
import torch
tensors = [torch.empty(3 << 20, dtype=torch.uint8) for _ in range(8)]
whole_pages = all(tensor.data_ptr() % 4096 == 0 for tensor in tensors)
print(code, before, os.environ["THP_MEM_ALLOC_ENABLE"], whole_pages)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have the pages")
@pytest.mark.parametrize(("own", "expected"), [("", "2 None 1 True"), ("0", "2 0 0 False")])
def test_training_asks_for_large_pages_unless_the_user_said_otherwise(own: str, expected: str) -> None:
    code = f"import os; os.environ.pop('THP_MEM_ALLOC_ENABLE', None); own = {own!r}\n"
    code += "if own: os.environ['THP_MEM_ALLOC_ENABLE'] = own\n"
    result = run_python("-c", code + TRAIN)  # such tensors begin at a page where torch has read the switch
    assert result.stdout.strip() == expected, result.stderr


def test_only_the_loss_averages_over_data() -> None:
    # Whoever wants a mean over batches asks the Loss: no other module may walk over a loss's batches with weights.
    users = [p.name for p in LIBRARY if "micro_batches()" in p.read_text()]
    assert sorted(users) == ["kept_graphs.py", "loss.py", "matrices.py", "shares.py"]
