"""``sharpness stress``: the table and figure of measures before and after a rescaling, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sharpness.files import read_jsonl
from sharpness.plots.stress import stress_figure, stress_rows
from tests.drawings import faults
from tests.given_cases import images, mlp, seeded
from tests.test_commands import assert_refused, sharpness


def relu_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    data, *_ = images(tmp_path, 1, 8)
    torch.save(seeded(relu_mlp).state_dict(), tmp_path / "w.pt")
    model = ["--model", "tests.test_stress_command:relu_mlp"]
    return [str(tmp_path / "w.pt"), *model, "--data", data, "--out", str(tmp_path / "out")]


@pytest.mark.dear
def test_measures_before_and_after_and_again(files: list[str], tmp_path: Path) -> None:
    first = sharpness("stress", *files, "--probes", "eigenvalues,keskar")
    assert first.returncode == 0 and first.stdout.count("moved") >= 3, first.stderr
    rows = read_jsonl(tmp_path / "out" / "stress.jsonl")
    assert [row["moved"] for row in rows] == [True, True] and rows[0]["kind"] == "pair"
    assert rows[0]["before"]["value"] < rows[0]["after"]["value"] and rows[0]["key"]["rescaling"] == "1 -> 3"
    for suffix in ("pdf", "png", "csv", "json"):
        assert (tmp_path / "out" / f"stress.{suffix}").stat().st_size > 100
    again = sharpness("stress", *files, "--probes", "eigenvalues,keskar", "--json")
    assert [json.loads(line) for line in again.stdout.splitlines()] == rows
    assert read_jsonl(tmp_path / "out" / "stress.jsonl") == rows


@pytest.mark.slow
def test_rescalings_are_listed_and_bad_ones_refused(files: list[str], tmp_path: Path) -> None:
    assert "pair  1 -> 3" in sharpness("stress", *files, "--rescaling", "list").stdout
    assert_refused_last(sharpness("stress", *files, "--rescaling", "1 -> 2"), "unknown rescaling", "1 -> 3")
    assert_refused_last(sharpness("stress", *files, "--alpha", "1"), "alpha")
    torch.save(seeded(mlp).state_dict(), tmp_path / "tanh.pt")  # tanh lets no factor through
    other = [str(tmp_path / "tanh.pt"), "--model", "tests.given_cases:mlp", *files[3:]]
    assert_refused_last(sharpness("stress", *other), "looked for", "ReLU")
    assert not (tmp_path / "out").exists()


def assert_refused_last(result: object, *words: str) -> None:
    """Check the last line alone: random networks come with a warning that they are no better than a guess."""
    from subprocess import CompletedProcess

    assert isinstance(result, CompletedProcess)
    result.stderr = "".join(line for line in result.stderr.splitlines(True) if not line.startswith("warning: "))
    assert_refused(result, *words)


def test_the_figure_shows_every_measure_with_its_ratio() -> None:
    def row(name: str, before: float | None, after: float | None, moved: bool | None) -> dict[str, object]:
        key = {"rescaling": "1 -> 3", "alpha": 4.0}
        sides = {when: {"quantity": name, "value": value} for when, value in (("before", before), ("after", after))}
        return {"key": key, "moved": moved, **sides}

    rows = [
        row("top_eigenvalue", 2.0, 8.0, True),
        row("distance", 1.0, 1.0, False),
        row("trace", -1.0, 3.0, True),
        row("noise", None, 1.0, None),
    ]
    table = stress_rows(rows)
    np.testing.assert_allclose(table["ratio"], [4.0, 1.0, np.nan, np.nan])
    assert faults(stress_figure(table)) == []
