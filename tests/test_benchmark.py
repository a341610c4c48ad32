"""The curvature benchmark on its smallest network, with the tools of the default installation."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpness.operators import to_dense
from sharpness.records import append_jsonl, read_jsonl
from tests.conftest import ROOT, run_python

TOOLS = ("ours", "pyhessian", "own-eigsh")


def script(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """Import one of the benchmark's files."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module(name)


@pytest.mark.slow
def test_the_benchmark_measures_each_tool_once_against_the_truth(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark = script(monkeypatch, "scripts.benchmarks.curvature")
    networks, parts, kept = (
        importlib.import_module(f"scripts.benchmarks.{name}") for name in ("networks", "curvature_parts", "rows")
    )
    done = []

    def here(script: Path, job: Any, runs: Path) -> dict[str, Any]:
        done.append(job.tool)
        return asdict(job) | parts.run_job(job, runs)

    monkeypatch.setattr(kept, "run_in_process", here)
    settings: dict[str, Any] = {"runs": tmp_path / "runs", "figures": tmp_path / "figures"}
    monkeypatch.setitem(benchmark.BATCH_OF, "MLP", 100)  # other starts are for the networks of the study, not here
    monkeypatch.setattr(benchmark, "study_run", lambda network, runs: None)
    monkeypatch.setattr(networks, "BATCH_OF", {})
    options = benchmark.Options(
        networks=("MLP",), tools=TOOLS, parts=("eigenvalue", "starts"), threads=1, examples=200, **settings
    )
    benchmark.check_options(options)
    options.figures.mkdir()
    rows = kept.measure(Path(), benchmark.jobs_of(options), options.runs, options.figures / "results.jsonl")
    assert done == ["ours", "ours", *TOOLS, *TOOLS]  # the preparation and the truth come first

    loss = networks.load_problem("MLP", 200, options.runs).loss(torch.float64)
    largest = float(torch.linalg.eigvalsh(to_dense(parts.peers.our_operator(loss)))[-1])
    values = {row["tool"]: row for row in rows if row["part"] == "eigenvalue"}
    truth = next(row for row in rows if row["part"] == "truth")
    assert truth["value"] == pytest.approx(largest, rel=1e-8)
    assert values["ours"]["lower"] <= largest <= values["ours"]["upper"] <= 1.011 * largest
    for tool, lowest in (("ours", 0.99), ("pyhessian", 0.5), ("own-eigsh", 0.99)):
        # All are Rayleigh quotients, so none is above it; PyHessian stops where its value changes little.
        assert lowest * largest <= values[tool]["value"] <= (1 + 1e-5) * largest and values[tool]["num_hvps"] > 1
        assert values[tool]["seconds"] > 0 and values[tool]["hvp_gradients"] > 0

    starts = {row["tool"]: row["starts"] for row in rows if row["part"] == "starts"}
    for tool in TOOLS:
        assert len(starts[tool]) == parts.NUM_STARTS
        assert len({start["value"] for start in starts[tool]}) > 1  # the starts are not one and the same

    assert (
        kept.measure(Path(), benchmark.jobs_of(options), options.runs, options.figures / "results.jsonl") == rows
        and len(done) == 8
    )
    files = importlib.import_module("scripts.benchmarks.curvature_report").render(rows, options.figures)
    assert {file.suffix for file in files} == {".md", ".csv", ".json", ".pdf", ".png"}
    provenance = json.loads((options.figures / "benchmark.json").read_text())
    assert provenance["networks"]["MLP"]["data_sha256"] == loss.data_sha256()


def test_a_process_of_its_own_returns_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = script(monkeypatch, "scripts.benchmarks.rows")
    job = kept.Job("prepare", "MLP", "ours", 200, 1)
    row = kept.run_in_process(ROOT / "scripts" / "benchmarks" / "curvature.py", job, tmp_path)
    assert (row["num_parameters"], row["batch_size"], row["threads"]) == (1210, 100, 1)


def test_a_missing_peer_and_missing_runs_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools = script(monkeypatch, "scripts.benchmarks.tools")
    with pytest.raises(tools.NotInstalledError, match=r"pip install -e '.\[benchmark\]'"):
        tools.peer("a_library_that_nobody_wrote")
    result = run_python("scripts/benchmarks/curvature.py", "--runs", str(tmp_path), "--figures", str(tmp_path / "out"))
    assert result.returncode == 2 and "make reproduce" in result.stderr and not (tmp_path / "out").exists()


def test_peak_memory_is_what_the_call_took_beyond_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = script(monkeypatch, "scripts.benchmarks.tools")
    before = torch.ones(60 << 18)  # 60 MiB that are there already
    _, cost = tools.measured(lambda: torch.ones(40 << 18).sum() + before.sum())
    if tools.resident("VmRSS") is None:
        pytest.skip("this system has no /proc/self/status")
    # Linux counts resident pages in batches per thread, so its numbers are a little off.
    assert cost.peak_bytes is None or 39 << 20 <= cost.peak_bytes < 48 << 20


def test_read_back_rows_are_the_appended_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = script(monkeypatch, "scripts.benchmarks.rows")
    job = rows.Job("scale", "small", "basis-free", 200, 1)
    append_jsonl(tmp_path / "rows.jsonl", asdict(job))
    assert rows.key(read_jsonl(tmp_path / "rows.jsonl")[0]) == rows.key(asdict(job))
