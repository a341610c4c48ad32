"""The study of Keskar et al. in its smoke form, as a user runs it: once, again, and killed on its way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from sharpness.files import read_jsonl
from tests.conftest import PATIENCE, ROOT, SHIM, run_python
from tests.oracles import assert_alike
from tests.study_cases import left_to_do

pytestmark = pytest.mark.study


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, run once: ``runs``, ``figures``, ``output.txt``."""
    folder = tmp_path_factory.mktemp("smoke")
    arguments = f"--preset smoke --seeds 1 --runs {folder / 'runs'} --figures {folder / 'figures'}"
    # The README's command in this environment: -o says that the set-up of .venv is not to be made again.
    command = [
        "make",
        "--no-print-directory",
        "-o",
        ".venv/installed",
        "reproduce",
        f"BIN={Path(sys.executable).parent}",
        f"ARGS={arguments}",
    ]
    # Without the variables of a `make test` around it, which would speak up in the output.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment["PYTHONPATH"] = str(SHIM)
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 0, result.stderr
    (folder / "output.txt").write_text(result.stdout)
    return folder


def test_the_study_runs_from_end_to_end(smoke: Path) -> None:
    output = (smoke / "output.txt").read_text()
    assert "scripts/keskar2017.py --preset smoke" in output  # make shows what it runs
    assert "λ_max" in output and "PyHessian" in output and "agreement" in output
    assert re.search(r"train \d+ s, probe \d+ s, render \d+ s; \d+ s in all\s*$", output)
    files = list((smoke / "runs").glob("*/probes.jsonl"))
    assert len(files) == 24
    probes = Counter(record["probe"] for path in files for record in read_jsonl(path))
    assert probes == {
        **dict.fromkeys(("eigenvalues", "trace", "worst_case"), 2),
        "keskar": 24 + 2,  # the pair in random dimensions too
        "keskar_maximum": 4,
        "distance": 24,
        "fisher_rao_norm": 24,
        "interpolation": 2,
        "pyhessian": 2,
    }


@pytest.mark.slow  # the smoke forms of the other studies are run again too, and its figures are drawn twice elsewhere
def test_the_study_again_does_nothing_twice(smoke: Path) -> None:
    arguments = [
        "--preset",
        "smoke",
        "--seeds",
        "1",
        "--runs",
        str(smoke / "runs"),
        "--figures",
        str(smoke / "figures"),
    ]
    before = {path: path.read_bytes() for path in smoke.rglob("*") if path.is_file() and path.name != ".lock"}
    result = run_python("scripts/keskar2017.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert "train: " not in result.stdout and "probe: " not in result.stdout
    after = {path: path.read_bytes() for path in before}
    assert {path for path in before if before[path] != after[path]} == set()


@pytest.mark.slow  # that training and probes survive kills is tested by itself, too
def test_a_killed_study_goes_on_and_ends_with_the_same_records(smoke: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "scripts/keskar2017.py",
        "--preset",
        "smoke",
        "--seeds",
        "1",
        "--workers",
        "2",
        "--runs",
        str(tmp_path / "runs"),
        "--figures",
        str(tmp_path / "figures"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for begun in ("*/x0.safetensors", "*/checkpoint-*.safetensors", "*/probes.jsonl"):  # while it trains and probes
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            while not list((tmp_path / "runs").glob(begun)):
                assert process.poll() is None
                time.sleep(0.02)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=PATIENCE, check=False).returncode == 0
    for path in sorted((smoke / "runs").glob("*/probes.jsonl")):
        again = read_jsonl(tmp_path / "runs" / path.parent.name / "probes.jsonl")
        ours, theirs = ({(r["probe"], json.dumps(r["knobs"])): r for r in rows} for rows in (again, read_jsonl(path)))
        assert len(ours) == len(again)  # none doubled
        assert ours.keys() == theirs.keys()
        for key, record in ours.items():
            assert_alike(record, theirs[key], rtol=0)


def test_the_smoke_form_shows_every_figure_table_and_verdict(smoke: Path) -> None:
    out = smoke / "figures" / "smoke-1-seeds"
    figures = [
        "training_curves",
        "pairs",
        "line_small_f1",
        "accuracy_vs_sharpness",
        "sketch",
        "surfaces_small_f1",
        "accuracy_curves",
        "arc_small_f1",
    ]
    figures += ["batch_size", "warm_start", "along_training", "remedies", "critics", "conditions", "escape"]
    tables = ["pairs_table", "table2_accuracies", "table3_sharpness", "table4_subspace"]
    tables += ["remedies_table", "critics_table"]
    written = {f"{name}.{suffix}" for name in figures for suffix in ("pdf", "png", "csv", "json")}
    written |= {f"{name}.{suffix}" for name in tables for suffix in ("md", "tex", "csv", "json")}
    assert {path.name for path in out.iterdir()} == {*written, "findings.json", "runs.csv"}
    found = json.loads((out / "findings.json").read_text())
    assert {each["figure"] for each in found} <= {*figures, *tables}
    assert found[-1]["number"] == "not run" and "TIMIT is licensed" in found[-1]["why"]
    assert left_to_do("keskar2017", smoke) == []
    runs = pd.read_csv(out / "runs.csv")
    assert set(runs["status"]) == {"finished"} and len(runs) == 24
