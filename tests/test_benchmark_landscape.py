"""The landscape benchmark on its smallest network: the tools agree where they do the same work."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpness.landscapes import RandomPlane
from sharpness.landscapes.directions import random_direction
from sharpness.machine.environment import derived_seed
from tests.conftest import ROOT, run_python

PEERS = {"loss-landscapes": "loss_landscapes", "landscaper": "landscaper"}


def script(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """Import one of the benchmark's files."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module(name)


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the network of 1,210 weights on 40 images."""
    return script(monkeypatch, "scripts.benchmarks.networks").load_problem("MLP", 40, tmp_path)


def works(problem: Any) -> tuple[Any, Any]:
    """Return a line of 25 points and a plane of 5 x 5 at the weights of a problem."""
    work = importlib.import_module("scripts.benchmarks.landscape_work")
    w = problem.loss().weights
    u, v = (work.even_direction(problem.model, w, seed) for seed in (1, 2))
    return work.Line(w, w + u, 25), work.Grid(w, u, v, 0.5, 5)


def test_ours_has_the_losses_of_bare_forward_passes(problem: Any) -> None:
    peers, work = (importlib.import_module(f"scripts.benchmarks.landscape_{name}") for name in ("peers", "work"))
    before = problem.loss().weights
    for each in works(problem):
        bare = work.Bare(problem, each)
        truth = bare()
        assert peers.ours(problem, each)() == pytest.approx(truth, rel=1e-6)
        assert len(truth) == each.size and len(set(truth)) > each.size / 2 and bare.seconds > 0
    assert torch.equal(problem.loss().weights, before)


def test_the_plane_of_the_benchmark_is_that_of_our_landscape(problem: Any) -> None:
    _, grid = works(problem)
    loss = problem.loss()
    result = RandomPlane(num_points=3, span=2.0, normalisation="none", seed=3)(loss, grid.w)
    u, v = (random_direction(loss, grid.w, "none", derived_seed(3, i)) for i in (1, 2))
    same = type(grid)(grid.w, u, v, 2.0, 3)
    losses = importlib.import_module("scripts.benchmarks.landscape_peers").ours(problem, same)()
    assert losses == [value for row in result.curves["train_loss"] for value in row]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_has_our_losses_where_it_does_the_same_work(problem: Any, name: str) -> None:
    if importlib.util.find_spec(PEERS[name]) is None:
        pytest.skip(f"{name} is not installed")
    peers = importlib.import_module("scripts.benchmarks.landscape_peers")
    tool, before = peers.TOOLS[name], problem.loss().weights
    for each in works(problem):
        truth, losses = peers.ours(problem, each)(), tool.prepare(problem, each)()
        missing = [number for number, value in enumerate(losses) if value is None]
        # Every second row of the plane of loss-landscapes lies one step aside.
        assert missing == ([9, 19] if name == "loss-landscapes" and each.size == 25 and each.count == 5 else [])
        found = peers.difference(losses, truth, tool.noisy_top)
        assert found is not None and found < 1e-4
        assert peers.difference(losses, [value + 1 for value in truth], tool.noisy_top) > 1e-2
    assert torch.equal(problem.loss().weights, before)  # the peers move copies


def test_the_peer_that_rescales_directions_is_seen_on_another_line(problem: Any) -> None:
    pytest.importorskip("landscaper.compute")
    peers = importlib.import_module("scripts.benchmarks.landscape_peers")
    line, _ = works(problem)
    direction = (line.w_1 - line.w_0) * torch.linspace(0, 3, len(line.w_0))
    other = type(line)(line.w_0, line.w_0 + direction, 25)
    losses, truth = peers.landscaper(problem, other)(), peers.ours(problem, other)()
    assert peers.difference(losses, truth, noisy_top=True) > 1e-2


def test_a_loop_over_examples_has_our_noise_trace(problem: Any) -> None:
    parts = importlib.import_module("scripts.benchmarks.landscape_parts")
    measured = parts.GradientNoise(num_hvps=0)(problem.loss()).numbers["noise_trace"].value
    assert parts.looped_noise_trace(problem) == pytest.approx(measured, rel=1e-5)


def test_the_benchmark_measures_once_and_renders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark, parts = (script(monkeypatch, f"scripts.benchmarks.landscape{name}") for name in ("", "_parts"))
    kept = importlib.import_module("scripts.benchmarks.rows")
    done = []

    def here(script: Path, job: Any, runs: Path) -> dict[str, Any]:
        done.append(job.part)
        return asdict(job) | parts.run_job(job, runs)

    monkeypatch.setattr(kept, "run_in_process", here)
    monkeypatch.setattr(parts, "PLANE_POINTS", 3)
    options = benchmark.Options(
        networks=("MLP",), tools=("ours",), threads=1, examples=200, runs=tmp_path / "r", figures=tmp_path / "f"
    )
    benchmark.check_options(options)
    options.figures.mkdir()
    rows = kept.measure(Path(), benchmark.jobs_of(options), options.runs, options.figures / "results.jsonl")
    assert done == ["line", "plane", "keskar", "noise"]
    for row, points in zip(rows[:2], (25, 9), strict=True):
        bare, ours = row["entries"]
        assert (bare["tool"], ours["tool"], row["points"]) == ("bare", "ours", points)
        assert ours["throughput"] == pytest.approx(bare["seconds"] / ours["seconds"])
        assert ours["difference"] < 1e-6 and ours["num_compared"] == points
    keskar, noise = rows[2:]
    assert keskar["trace"][0] == 0 and keskar["trace"][-1] == pytest.approx(keskar["value"])
    assert len(keskar["trace"]) == keskar["num_gradients"]
    assert keskar["value_within"] == keskar["trace"][14] >= keskar["published_value"]
    assert keskar["trace"][keskar["gradients_to_reach"] - 1] >= keskar["published_value"]
    assert noise["difference"] < 1e-5 and noise["method"] == "vmap"

    assert (
        kept.measure(Path(), benchmark.jobs_of(options), options.runs, options.figures / "results.jsonl") == rows
        and len(done) == 4
    )
    files = importlib.import_module("scripts.benchmarks.landscape_report").render(rows, options.figures)
    assert {file.suffix for file in files} == {".md", ".csv", ".json", ".pdf", ".png"}
    assert json.loads((options.figures / "landscape_speed.json").read_text())["caption"].startswith("Examples per")
    assert "bare forward passes" in (options.figures / "benchmark.md").read_text()


def test_a_missing_peer_is_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark, parts = (script(monkeypatch, f"scripts.benchmarks.landscape{name}") for name in ("", "_parts"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "landscaper" else found(name))
    tried: dict[str, Any] = {"parts": ("line",), "tools": ("ours", "landscaper"), "threads": 1, "examples": 200}
    options = benchmark.Options(networks=("MLP",), **tried)
    jobs = list(benchmark.jobs_of(options))
    assert [job.tool for job in jobs] == ["ours", "landscaper"]
    monkeypatch.setitem(sys.modules, "landscaper.compute", None)
    tools = importlib.import_module("scripts.benchmarks.tools")
    with pytest.raises(tools.NotInstalledError, match="pip install --no-deps landscaper"):
        parts.run_job(jobs[1], tmp_path)


def test_missing_runs_are_told(tmp_path: Path) -> None:
    where = ("--runs", str(tmp_path), "--figures", str(tmp_path / "out"))
    result = run_python("scripts/benchmarks/landscape.py", "--networks", "LB", *where)
    assert result.returncode == 2 and "make reproduce" in result.stderr and not (tmp_path / "out").exists()
