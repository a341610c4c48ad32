"""The edge of stochastic stability: verdicts and figures on planted runs, the grid, the smoke form."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims2026.stochastic_edge import report as analysis
from analysis.claims2026.stochastic_edge.numbers import settled
from analysis.claims2026.stochastic_edge.story import STORY
from analysis.report.report import Report
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.training import check_config
from tests.drawings import faults
from tests.study_cases import script, smoke_once

study: Any = script("claims2026.stochastic_edge")
SETTINGS = {"seeds": 4, "data": {"num_train": 100, "name": "made"}}
ARMS = {0.0: ((0.14, 0.2), (16, 64)), 0.5: ((0.075, 0.105), (16, 100)), 0.9: ((0.02,), (16,))}


def planted(sgd: float = 1.0, low: float = 1.0, up: float = 1.0, top: float = 0.8, small: float = 0.8) -> Tables:
    """Four seeds that settle at the plateaus, or so many times as high; eigenvalues at ``top``, lower if small."""
    runs, tracked, sharpness, rng = [], [], [], np.random.default_rng(0)
    for momentum, (rates, sizes) in ARMS.items():
        for rate, size, seed in itertools.product(rates, sizes, range(4)):
            labels = {"momentum": momentum, "learning_rate": rate, "batch_size": size, "seed": seed}
            labels |= {"run_id": f"{momentum}-{rate}-{size}-{seed}", "status": "finished"}
            runs.append(labels)
            level = sgd if not momentum else up * (1 + momentum) if size == 100 else low * (1 - momentum)
            for step in range(10, 210, 10):
                rise = min(1.0, step / 80) * float(np.exp(rng.normal(0, 0.02)))
                place = labels | {"step": step, "epoch": step / 10}
                own = top * (small if size == 16 else 1)
                tracked.append(place | {"top_eigenvalue": own * rise * 2 / rate})
                both = dict.fromkeys(("batch_sharpness", "mean_over_means"), level * rise * 2 / rate)
                sharpness.append(place | both)
    empty = pd.DataFrame()
    made = {"batch_sharpness": pd.DataFrame(sharpness)}
    return Tables(pd.DataFrame(runs), empty, pd.DataFrame(tracked), empty, made)


@functools.cache
def usual() -> Report:
    """Return the report, whose figures are drawn once, where nothing else is planted."""
    return analysis.report(planted(), SETTINGS)


@pytest.mark.parametrize(
    ("pattern", "other", "verdict"),
    [
        ("SGD: batch sharpness", {"sgd": 0.6}, "contradicted"),
        ("SGD: the eigenvalue stays", {"top": 1.5, "small": 1.0}, "contradicted"),
        ("lower for smaller", {"small": 1.0}, "contradicted"),
        ("below batch sharpness", {"top": 1.5, "small": 1.0}, "contradicted"),
        ("small batches: batch", {"low": 1.5}, "contradicted"),
        ("full batch: batch", {"up": 0.5}, "contradicted"),
        ("rises with the batch", {"up": 0.3}, "contradicted"),
    ],
)
def test_verdicts_follow_what_is_planted(pattern: str, other: dict[str, float], verdict: str) -> None:
    for report, expected in ((usual(), "reproduced"), (analysis.report(planted(**other), SETTINGS), verdict)):
        found = find(pattern, report.findings)
        # Of two rates the first one is the claim's; with three settings or more their mean is.
        assert found is not None and found.verdict == expected


def test_medians_are_those_of_the_second_half_in_units_of_each_plateau() -> None:
    found = settled(planted())
    at = found.set_index("momentum")
    np.testing.assert_allclose(at.loc[0.9, "over_lower"], 1.0, rtol=0.03)
    np.testing.assert_allclose(found[found["batch_size"] == 100]["over_upper"], 1.0, rtol=0.03)
    np.testing.assert_allclose(at.loc[0.0, "batch"], 1.0, rtol=0.03)
    np.testing.assert_allclose(at.loc[0.9, "top_over_batch"], 0.8 * 0.8 / 0.1, rtol=0.03)


def test_figures_table_and_story_are_whole() -> None:
    result = usual()
    for drawing in result.drawings.values():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("36 of 36 runs finished.")
    assert STORY.figure in result.drawings and len(result.tables[0].rows) == 9
    assert all(find(point.pattern, result.findings) for point in STORY.points)


def test_without_runs_nothing_is_claimed() -> None:
    tables = planted()
    none = pd.DataFrame()
    missing = Tables(tables.runs.assign(status="missing"), none, tables.tracked.head(0), none, {})
    result = analysis.report(missing, SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values()) and not result.findings


def test_every_run_can_be_trained_and_is_measured_often_enough() -> None:
    for preset in study.PRESETS.values():
        for cell in study.cells_of(preset, preset.seeds):
            check_config(cell.config)
            assert cell.config.training.epochs / cell.config.measure.every >= 8  # four in the second half


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("claims2026.stochastic_edge", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"plateaus.pdf", "histories.png", "plateau_table.md", "findings.json", "runs.csv"} <= names
