"""The benchmarks on their smallest networks: tools agree where they do the same work, and rows become tables."""

from __future__ import annotations

import doctest
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from scripts.benchmarks import (
    curvature,
    curvature_peers,
    curvature_tables,
    device,
    device_networks,
    landscape,
    landscape_peers,
    products,
    report,
    rows,
    tools,
    tracker,
    training,
    training_peers,
)
from scripts.benchmarks.networks import Problem, load_problem, trained
from scripts.benchmarks.rows import Job, Row
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.curvature import HessianOperator
from sharpness.data import Dataset, load_dataset
from sharpness.files import append_jsonl, read_jsonl
from sharpness.landscapes import RandomPlane
from sharpness.landscapes.directions import random_direction
from sharpness.linalg.operators import to_dense
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.probes import GradientNoise
from tests.conftest import ROOT, run_python

DEFAULT_TOOLS = ("ours", "pyhessian", "own-eigsh")
"""Tools of the curvature benchmark that need nothing beyond the default installation."""
BENCHMARKS = {"curvature": curvature, "landscape": landscape, "tracker": tracker, "training": training}


def here(benchmark: Any, runs: Path, done: list[Job]) -> Callable[[Job], Row]:
    """Return the function that measures a job in this process, and notes that it did."""

    def run(job: Job) -> Row:
        done.append(job)
        return rows.row_of(job, runs, benchmark.measure)

    return run


# Rows and reports.


@pytest.mark.parametrize("module", [report, landscape_peers], ids=lambda module: module.__name__)
def test_the_examples_hold(module: Any) -> None:
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_published_rows_give_the_published_tables(name: str, tmp_path: Path) -> None:
    published = ROOT / "figures" / f"benchmark_{name}"
    files = BENCHMARKS[name].render(read_jsonl(published / "results.jsonl"), tmp_path)
    assert {file.suffix for file in files} == {".md", ".csv", ".json", ".pdf", ".png"}
    assert {file.name for file in files} == {file.name for file in published.iterdir()} - {"results.jsonl"}
    for file in files:
        if file.suffix not in (".pdf", ".png"):  # whose bytes depend on the version of Matplotlib
            assert file.read_text() == (published / file.name).read_text()


def test_a_process_of_its_own_gives_its_last_row_or_why_there_is_none(tmp_path: Path) -> None:
    script, job = tmp_path / "script.py", Job("prepare", "MLP", "ours", 200, 3)
    script.write_text(f"""
import json, os, sys
mode, job, runs = sys.argv[1:]
print("news", {rows.ROW_MARK!r} + json.dumps({{"first": 1}}), sep="\\n")
row = json.loads(job) | {{"mode": mode, "runs": runs, "n": os.environ["OMP_NUM_THREADS"]}}
print({rows.ROW_MARK!r} + json.dumps(row))
""")
    assert rows.run_in_process(script, job, tmp_path) == vars(job) | {"mode": "worker", "runs": str(tmp_path), "n": "3"}
    script.write_text("import sys; sys.exit('no such tool')")
    row = rows.run_in_process(script, job, tmp_path)
    assert row == vars(job) | {"reasons": {"value": "its process ended with code 1: no such tool"}, "again": True}


@pytest.mark.slow  # torch is loaded from nothing; how a row comes back, and what is in it, is tested in small
def test_a_process_of_its_own_returns_its_row(tmp_path: Path) -> None:
    row = rows.run_in_process(ROOT / "scripts/benchmarks/curvature.py", Job("prepare", "MLP", "ours", 200, 1), tmp_path)
    assert (row["num_parameters"], row["batch_size"], row["threads"], row["reasons"]) == (1210, 100, 1, {})


def test_read_back_rows_are_of_the_jobs_that_were_kept(tmp_path: Path) -> None:
    job, done = Job("scale", "small", "basis-free", 200, 1), list[Job]()

    def failing(job: Job) -> Row:
        done.append(job)
        return vars(job) | {"reasons": {"value": "not here"}, "again": len(done) == 1}

    for _ in range(3):
        (row,) = rows.measure([job], tmp_path / "rows.jsonl", failing)
        assert rows.job_of(row) == job
    assert len(done) == 2  # again where it says so, and no more
    append_jsonl(tmp_path / "rows.jsonl", vars(job) | {"value": 1.0, "reasons": {}})
    assert rows.measure([job], tmp_path / "rows.jsonl", failing)[0]["value"] == 1.0  # the last one counts


def test_a_network_of_the_study_is_trained_where_nobody_has(tmp_path: Path) -> None:
    config = RunConfig(
        DataConfig(num_train=64, num_test=32),
        ModelConfig(name="f1_small"),
        training=TrainingConfig(epochs=1, batch_size=32),
    )
    first = trained(config, tmp_path)
    manifest, began = first.manifest(), (first.path / "manifest.json").stat().st_mtime_ns
    assert manifest is not None and manifest["status"] == "finished"
    assert trained(config, tmp_path) == first and (first.path / "manifest.json").stat().st_mtime_ns == began


def test_the_two_kinds_of_norms_are_one_function() -> None:
    batches = [(torch.randn(3, *products.SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2]))]
    for norm in ("batch", "frozen"):
        losses = [Loss(model, cross_entropy, batches, norm=norm, dtype=torch.float64) for model in products.both_c1()]
        v = torch.ones_like(losses[0].weights)
        ours, torchs = (loss.without_checks_of_derivatives().hvp(loss.weights, v) for loss in losses)
        torch.testing.assert_close(ours, torchs, rtol=1e-8, atol=1e-10 * float(torchs.abs().max()))


def test_a_missing_peer_is_told() -> None:
    with pytest.raises(tools.NotInstalledError, match=r"pip install -e '.\[benchmark\]'"):
        tools.peer("a_library_that_nobody_wrote")


def test_peak_memory_is_what_the_call_took_beyond_the_start() -> None:
    before = torch.ones(60 << 18)  # 60 MiB that are there already
    _, cost = tools.measured(lambda: torch.ones(40 << 18).sum() + before.sum())
    if tools.resident("VmRSS") is None:
        pytest.skip("this system has no /proc/self/status")
    # Linux counts resident pages in batches per thread, so its numbers are a little off.
    assert cost["peak_bytes"] is None or 39 << 20 <= cost["peak_bytes"] < 48 << 20


# Curvature.


@pytest.mark.slow
def test_the_curvature_benchmark_measures_each_tool_once_against_the_truth(tmp_path: Path) -> None:
    path, done = tmp_path / "results.jsonl", list[Job]()
    options = curvature.Options(
        networks=("MLP",), tools=DEFAULT_TOOLS, parts=("eigenvalue",), threads=1, examples=200, runs=tmp_path
    )
    options.check()
    jobs = [*options.jobs(), Job("starts", "MLP", "+".join(DEFAULT_TOOLS), 200, 1)]
    measured = rows.measure(jobs, path, here(curvature, tmp_path, done))
    assert [job.part for job in done] == ["prepare", "truth", *["eigenvalue"] * len(DEFAULT_TOOLS), "starts"]

    loss = load_problem("MLP", 200, tmp_path).loss(torch.float64)
    largest = float(torch.linalg.eigvalsh(to_dense(HessianOperator(loss)))[-1])
    values = {row["tool"]: row for row in measured if row["part"] == "eigenvalue"}
    truth = next(row for row in measured if row["part"] == "truth")
    assert truth["value"] == pytest.approx(largest, rel=1e-8)
    assert values["ours"]["lower"] <= largest <= values["ours"]["upper"] <= 1.011 * largest
    for tool, lowest in (("ours", 0.99), ("pyhessian", 0.5), ("own-eigsh", 0.99)):
        # All are Rayleigh quotients, so none is above it; PyHessian stops where its value changes little.
        assert lowest * largest <= values[tool]["value"] <= (1 + 1e-5) * largest and values[tool]["num_hvps"] > 1
        assert values[tool]["seconds"] > 0 and values[tool]["hvp_gradients"] > 0
    for entry in measured[-1]["entries"]:
        assert len(entry["value"]) == curvature.NUM_STARTS and len(set(entry["value"])) > 1  # of other starts
    ours, pyhessian, _ = curvature_tables.lines(measured, "ratios")
    assert ours["times_ours"] == [1.0] * curvature.NUM_STARTS and max(ours["error"]) < 1e-2
    assert pyhessian["medians"] == [median(pyhessian["times_ours"])] and pyhessian["networks"] == 1

    assert rows.measure(jobs, path, here(curvature, tmp_path, done)) == measured and len(done) == len(jobs)
    files = curvature.render(measured, tmp_path)
    assert {file.suffix for file in files} == {".md", ".csv", ".json", ".pdf", ".png"}
    provenance = json.loads((tmp_path / "benchmark.json").read_text())
    assert provenance["networks"]["MLP"]["data_sha256"] == loss.data_sha256()


def test_the_cost_of_a_product_is_of_seven_rounds(tmp_path: Path) -> None:
    row = rows.row_of(Job("cost", "MLP", "ours", 40, 1), tmp_path, curvature.measure)
    assert row["reasons"] == {} and row["kept_bytes"] > 0
    assert row["cached_ratio"] == median(row["cached_seconds"]) / median(row["gradient_seconds"])
    assert all(len(row[f"{name}_seconds"]) == 7 for name in ("gradient", "cached", "uncached"))


def test_a_failed_tool_has_a_line_that_says_why(tmp_path: Path) -> None:
    row = rows.row_of(Job("eigenvalue", "MLP", "ours", 1, 1), tmp_path, curvature.measure)
    assert "even number of examples" in row["reasons"]["value"] and not row["again"]
    curvature.render([row], tmp_path)
    line = (tmp_path / "benchmark.md").read_text().splitlines()[-1]
    assert line.startswith(f"| MLP | {curvature_peers.TOOLS['ours'].label} | – |") and "even number of examples" in line


# Landscapes.


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    """Return the network of 1,210 weights on 40 images."""
    return load_problem("MLP", 40, tmp_path)


def works(problem: Problem) -> dict[str, landscape_peers.Work]:
    """Return a line of 25 points and a plane of 5 x 5 at the weights of a problem."""
    w = problem.loss().weights
    u, v = (landscape_peers.even_direction(problem.model, w, seed) for seed in (1, 2))
    line = landscape_peers.line_between(w, w + u, 25)
    return {"line": line, "plane": landscape_peers.plane_around(w, u, v, 0.5, 5)}


def test_ours_has_the_losses_of_bare_forward_passes(problem: Problem) -> None:
    before = problem.loss().weights
    for work in works(problem).values():
        bare = landscape_peers.Bare(problem, work)
        truth = bare()
        assert landscape_peers.ours(problem, work)() == pytest.approx(truth, rel=1e-6)
        assert len(truth) == work.size == 25 and len(set(truth)) > work.size / 2 and bare.seconds > 0
    assert torch.equal(problem.loss().weights, before)


def test_the_plane_of_the_benchmark_is_that_of_our_landscape(problem: Problem) -> None:
    loss = problem.loss()
    result = RandomPlane(num_points=3, span=2.0, normalisation="none", seed=3)(loss, loss.weights)
    u, v = (random_direction(loss, loss.weights, "none", derived_seed(3, i)) for i in (1, 2))
    losses = landscape_peers.ours(problem, landscape_peers.plane_around(loss.weights, u, v, 2.0, 3))()
    assert losses == [value for row in result.curves["train_loss"] for value in row]


@pytest.mark.parametrize("name", ["loss-landscapes", "landscaper"])
def test_a_peer_has_our_losses_where_it_does_the_same_work(problem: Problem, name: str) -> None:
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not installed")
    tool, before = landscape_peers.TOOLS[name], problem.loss().weights
    for shape, work in works(problem).items():
        truth, losses = landscape_peers.ours(problem, work)(), tool.call(problem, work)()
        missing = [number for number, value in enumerate(losses) if value is None]
        # Every second row of the plane of loss-landscapes lies one step aside.
        assert missing == ([9, 19] if name == "loss-landscapes" and shape == "plane" else [])
        found = landscape_peers.difference(losses, truth, tool.noisy_top)
        assert found is not None and found < 1e-4
        wrong = [value + 1 for value in truth if value is not None]
        assert (landscape_peers.difference(losses, wrong, tool.noisy_top) or 0) > 1e-2
    assert torch.equal(problem.loss().weights, before)  # the peers move copies


def test_the_peer_that_rescales_directions_is_seen_on_another_line(problem: Problem) -> None:
    pytest.importorskip("landscaper.compute")
    w, (u,) = problem.loss().weights, works(problem)["line"].directions
    other = landscape_peers.line_between(w, w + u * torch.linspace(0, 3, len(w)), 25)
    losses, truth = landscape_peers.landscaper(problem, other)(), landscape_peers.ours(problem, other)()
    assert (landscape_peers.difference(losses, truth, noisy_top=True) or 0) > 1e-2


def test_a_loop_over_examples_has_our_noise_trace(problem: Problem) -> None:
    measured = GradientNoise(num_hvps=0)(problem.loss()).numbers["noise_trace"].value
    assert landscape.looped_noise_trace(problem) == pytest.approx(measured, rel=1e-5)


def test_the_landscape_benchmark_measures_once_and_renders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(landscape, "PLANE_POINTS", 3)
    path, done = tmp_path / "results.jsonl", list[Job]()
    options = landscape.Options(networks=("MLP",), tools=("ours",), threads=1, examples=200, runs=tmp_path)
    options.check()
    measured = rows.measure(options.jobs(), path, here(landscape, tmp_path, done))
    assert [job.part for job in done] == ["line", "plane", "keskar", "noise"]
    for row, points in zip(measured[:2], (25, 9), strict=True):
        bare, ours = row["entries"]
        assert (bare["tool"], ours["tool"], row["points"]) == ("bare", "ours", points)
        assert ours["throughput"] == pytest.approx(median(bare["seconds"]) / median(ours["seconds"]))
        assert len(bare["seconds"]) == len(ours["seconds"]) == row["repeats"]
        assert ours["difference"] < 1e-6 and ours["num_compared"] == points
    keskar, noise = measured[2:]
    assert keskar["trace"][0] == 0 and keskar["trace"][-1] == pytest.approx(keskar["value"])
    assert len(keskar["trace"]) == keskar["num_gradients"]
    assert keskar["value_within"] == keskar["trace"][14] >= keskar["published_value"]
    assert keskar["trace"][keskar["gradients_to_reach"] - 1] >= keskar["published_value"]
    assert noise["difference"] < 1e-5 and noise["method"] == "vmap" and len(noise["loop_seconds"]) == noise["repeats"]

    assert rows.measure(options.jobs(), path, here(landscape, tmp_path, done)) == measured and len(done) == 4
    files = landscape.render(measured, tmp_path)
    assert {file.suffix for file in files} == {".md", ".csv", ".json", ".pdf", ".png"}
    assert json.loads((tmp_path / "landscape_speed.json").read_text())["caption"].startswith("Examples per")
    assert "bare forward passes" in (tmp_path / "benchmark.md").read_text()


def test_a_missing_peer_is_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "landscaper" else found(name))
    chosen: dict[str, Any] = {"networks": ("MLP",), "parts": ("line",), "tools": ("ours", "landscaper")}
    jobs = list(landscape.Options(**chosen, threads=1, examples=200).jobs())
    assert [job.tool for job in jobs] == ["ours", "landscaper"]
    monkeypatch.setitem(sys.modules, "landscaper.compute", None)
    row = rows.row_of(jobs[1], tmp_path, landscape.measure)
    assert "pip install --no-deps landscaper" in row["reasons"]["value"] and row["again"]


# Training.


@pytest.fixture
def dataset() -> Dataset:
    """Return 60 images to train on."""
    return load_dataset("fashion_mnist_10k", num_train=60, num_test=20)


def test_our_updates_are_those_of_the_barest_loop(dataset: Dataset, tmp_path: Path) -> None:
    # On the same rows both loops must end at the same weights, else their speeds say nothing about each other.
    config = training_peers.config_of("smith_le", 20)
    session = training_peers.session_of(config, dataset, tmp_path / "run")
    same_rows = (chosen for epoch in (1, 2) for chosen in session.epoch_of(epoch)[0].split(20))
    bare = training_peers.bare_updates(config, dataset, 6, same_rows)
    bare()
    training_peers.our_updates(session, 6)()
    for one, other in zip(session.model.parameters(), bare.model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_the_loops_over_a_loader_see_the_same_numbers(dataset: Dataset) -> None:
    config, models = training_peers.config_of("smith_le", 20), []
    for ready in (True, False):
        torch.manual_seed(0)  # of the loader's shuffles
        updates = training_peers.loader_updates(config, dataset, 4, ready)
        updates()
        models.append(updates.model)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_every_part_of_training_gives_a_row_and_the_same_command_measures_nothing_twice(tmp_path: Path) -> None:
    arguments = ["--networks", "smith_le", "--batches", "20", "--examples", "60", "--threads", "1"]
    arguments += ["--parts", "loop", "pages", "checkpoint", "tracking", "--figures", str(tmp_path)]
    first = run_python("scripts/benchmarks/training.py", *arguments)
    assert first.returncode == 0, first.stderr
    measured = read_jsonl(tmp_path / "results.jsonl")
    assert [row["part"] for row in measured] == ["loop", "pages", "checkpoint", "tracking"]
    keys = ("ours / bare", "2 MiB / 4 KiB", "share (%)", "share (%)")
    assert all(row[key] > 0 for row, key in zip(measured, keys, strict=True))
    loop, tracking = measured[0], measured[-1]
    assert loop["ours / bare"] == pytest.approx(median(loop["ours (images/s)"]) / median(loop["bare (images/s)"]))
    assert len(tracking["products"]) == training.ROUNDS and min(tracking["products"]) > 0
    text = (tmp_path / "benchmark.md").read_text()
    assert text.count("smith_le") == 4 and (tmp_path / "throughput.pdf").exists()
    again = run_python("scripts/benchmarks/training.py", *arguments)
    assert again.returncode == 0 and " of 4," not in again.stdout
    refused = run_python("scripts/benchmarks/training.py", *arguments[:4], "--examples", "10")
    assert refused.returncode == 2 and "batches of at most 10" in refused.stderr


# Tracking.


def test_the_tracker_benchmark_compares_two_trainings_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracker, "ROUNDS", 2)
    monkeypatch.setattr(tracker, "TURN", 3)
    jobs = [Job("overhead", name, "12 updates", 64, 1) for name in ("smith_le", "char_transformer")]
    measured = rows.measure(jobs, tmp_path / "results.jsonl", here(tracker, tmp_path, []))
    for row in measured:
        assert row["same bits"] and row["updates"] == 12 and row["reasons"] == {}
        assert all(len(row[name]) == 2 and min(row[name]) > 0 for name in ("with (s)", "without, processor (s)"))
    files = tracker.render(measured, tmp_path)
    text = (tmp_path / "benchmark.md").read_text()
    assert {file.suffix for file in files} == {".md", ".csv", ".json", ".pdf", ".png"}
    assert text.count("smith_le") == 1 + 6 and "critical_sharpness" in text


# Another device.


@pytest.mark.dear
def test_the_device_benchmark_finds_every_path_right_and_tools_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "PATHS", device.PATHS[:-1])  # compiling takes a while
    options = device.Options(size="small", device="cpu", threads=1)
    jobs = [job for job in options.jobs() if job.part == "products" or job.network == "GPT-2"]
    measured = rows.measure(jobs, tmp_path / "results.jsonl", here(device, tmp_path, []))
    checks = [entry for row in measured for entry in row.get("entries", [])]
    assert len(checks) == len(device_networks.NETWORKS) * len(device.PATHS) and all(each["right"] for each in checks)
    found = {row["tool"].partition(",")[0]: row for row in measured if row["part"] == "eigenvalue"}
    assert found["ours"]["lower"] <= found["ours"]["eigenvalue"] <= found["ours"]["upper"]
    for row in found.values():
        assert row.get("eigenvalue", found["ours"]["eigenvalue"]) == pytest.approx(
            found["ours"]["eigenvalue"], rel=0.03
        )
    assert (
        sum(each.numel() for each in device_networks.bottlenecks((3, 4, 6, 3), 64).parameters()) == 25_557_032
    )  # torchvision's
    device.render(measured, tmp_path)
    assert (tmp_path / "benchmark.md").read_text().startswith("# Device benchmark: cpu")


@pytest.mark.slow
def test_the_device_benchmark_compiles_products() -> None:
    row = device.products(rows.Job("products", "BatchNorm on batches", "small on cpu", 24, 1))
    (entry,) = (each for each in row["entries"] if each["path"] == "compiled")
    assert entry["right"] and entry["note"].startswith(("yes", "no: it is slower"))


# Getting going.


@pytest.mark.slow
def test_the_probe_benchmark_prints_its_four_times() -> None:
    pytest.importorskip("torchvision")
    result = run_python("scripts/benchmarks/probe.py", "--repeats", "1", "--gibibytes", "0.01", "--answers", "0")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 6 and "–" not in result.stdout


@pytest.mark.slow
def test_the_records_benchmark_prints_its_two_lines() -> None:
    result = run_python("scripts/benchmarks/records.py", "--repeats", "1", "--records", "50")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 4 and "–" not in result.stdout
