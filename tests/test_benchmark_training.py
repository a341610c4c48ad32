"""The training benchmark on a small network: its contenders do the same work, and every row reaches the tables."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpness.data import load_dataset
from tests.conftest import ROOT, run_python


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the benchmark's contenders."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("scripts.benchmarks.training_loops")


@pytest.fixture
def made(loops: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """Return the networks that the contenders make, as they make them."""
    networks, make = [], loops._model_and_adam

    def keeping(config: Any, dataset: Any) -> Any:
        model, optimizer = make(config, dataset)
        networks.append(model)
        return model, optimizer

    monkeypatch.setattr(loops, "_model_and_adam", keeping)
    return networks


def test_our_updates_are_those_of_the_barest_loop(
    loops: Any, made: list[torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the same rows both loops must end at the same weights, else their speeds say nothing about each other.
    dataset = load_dataset("fashion_mnist_10k", num_train=60, num_test=20)
    config = loops.config_of("smith_le", 20)
    session = loops.session_of(config, dataset, tmp_path / "run")
    orders = iter([session.epoch_of(epoch)[0] for epoch in (1, 2)])

    def same_rows(examples: int, size: int) -> Any:
        for order in orders:
            yield from order[: examples // size * size].split(size)

    monkeypatch.setattr(loops, "_endless_rows", same_rows)
    loops.bare_updates(config, dataset, 6)()
    loops.our_updates(session, 6)()
    for ours, bare in zip(session.model.parameters(), made[0].parameters(), strict=True):
        assert torch.allclose(ours, bare, rtol=1e-5, atol=1e-7)


def test_the_loops_over_a_loader_see_the_same_numbers(loops: Any, made: list[torch.nn.Module]) -> None:
    dataset = load_dataset("fashion_mnist_10k", num_train=60, num_test=20)
    for ready in (True, False):
        torch.manual_seed(0)  # of the loader's shuffles
        loops.loader_updates(loops.config_of("smith_le", 20), dataset, 4, ready)()
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_every_part_gives_a_row_and_the_same_command_measures_nothing_twice(tmp_path: Path) -> None:
    arguments = ["--networks", "smith_le", "--batches", "20", "--examples", "60", "--threads", "1"]
    arguments += ["--parts", "loop", "pages", "checkpoint", "tracking", "--figures", str(tmp_path)]
    first = run_python("scripts/benchmarks/training.py", *arguments)
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["part"] for row in rows] == ["loop", "pages", "checkpoint", "tracking"]
    keys = ("ours / bare", "2 MiB / 4 KiB", "share (%)", "products")
    assert all(row[key] > 0 for row, key in zip(rows, keys, strict=True))
    assert rows[0]["ours / bare"] == pytest.approx(rows[0]["ours (images/s)"] / rows[0]["bare (images/s)"])
    text = (tmp_path / "benchmark.md").read_text()
    assert text.count("smith_le") == 4 and (tmp_path / "throughput.pdf").exists()
    again = run_python("scripts/benchmarks/training.py", *arguments)
    assert again.returncode == 0 and " of 4," not in again.stdout
    refused = run_python(
        "scripts/benchmarks/training.py", *arguments[:4], "--examples", "10", "--figures", str(tmp_path)
    )
    assert refused.returncode == 2 and "batches of at most 10" in refused.stderr
