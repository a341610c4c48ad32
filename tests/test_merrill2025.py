"""The critical batch along training: rule, batches update by update, verdicts on planted numbers, the smoke form."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims2026.merrill2025 import numbers
from analysis.claims2026.merrill2025 import report as analysis
from analysis.claims2026.merrill2025.story import STORY
from analysis.report.report import Report
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.training import check_config
from sharpness.training.schedules import batch_size, learning_rate, total_epochs
from tests.drawings import bar_places, faults
from tests.study_cases import script, smoke_once, verdict_of

study: Any = script("claims2026.merrill2025")
measures: Any = script("measures.merrill2025")
SEEDS, PLACES = 5, (100, 200, 400, 800)
SETTINGS: dict[str, Any] = {
    "base": {
        "model": {"name": "char_transformer_small"},
        "data": {"name": "kjv", "context": 16},
        "training": {"batch_size": 4},
    },
    "windows": 800, "window": 400, "factors": [1, 2, 4, 8, 16, 32], "doublings": [250, 500], "seeds": SEEDS,
    "tolerance": 0.01, "other_tolerances": [0.005, 0.02],
}  # fmt: skip
CRITICAL = (4, 16, 64, 64)
NOISE = (0.02, 0.1, 0.4, 0.5)
LOSSES = {"small": 2.1, "warm-up": 2.105, "large": 2.2}
STEPS = {"small": 200, "warm-up": 110, "large": 50}


@functools.cache
def planted(
    critical: tuple[int, ...] = CRITICAL, noise: tuple[float, ...] = NOISE, arm: str = "", loss: float = 0.0
) -> Tables:
    """Tables with one critical batch for all seeds at each checkpoint, and noise scales that spread by a tenth."""
    rng, branches, scales, runs = np.random.default_rng(0), [], [], []
    for seed, (place, batch, scale) in itertools.product(range(SEEDS), zip(PLACES, critical, noise, strict=True)):
        at = {"seed": seed, "step": place // 4, "windows": place}
        losses = {str(4 * k): [2.0 + 0.05 * (4 * k > batch)] for k in SETTINGS["factors"]}
        for by, tolerance in itertools.product(("held out", "smoothed"), (0.01, 0.005, 0.02)):
            row = at | {"by": by, "tolerance": tolerance, "critical": batch, "open": batch == 128, "losses": losses}
            branches.append(row)
        for geometry in ("Euclidean", "Adam's"):
            value = scale * np.exp(rng.normal(0, 0.1))
            scales.append(at | {"geometry": geometry, "value": value, "lower": None, "upper": None, "loss": 2.2})
    for name, seed in itertools.product(LOSSES, range(SEEDS)):
        row = {"arm": name, "seed": seed, "status": "finished", "reason": None, "step": STEPS[name]}
        found = (loss if name == arm else LOSSES[name]) + rng.normal(0, 0.003)
        runs.append(row | {"learning_rate": 0.1, "batch_size": 4, "validation_loss": found, "test_loss": found})
    return Tables(pd.DataFrame(runs), measured={"branches": pd.DataFrame(branches), "noise": pd.DataFrame(scales)})


@functools.cache
def usual() -> Report:
    """Return the report, whose figures are drawn once, where nothing else is planted."""
    return analysis.report(planted(), SETTINGS)


@pytest.mark.parametrize(
    ("words", "other", "expected"),
    [
        ("grows in training", {"critical": (64, 64, 64, 64)}, "contradicted"),
        ("levels off", {"critical": (4, 8, 16, 64)}, "contradicted"),
        ("levels off", {"critical": (4, 16, 128, 128)}, "not testable here"),
        ("levels off", {"critical": (4, 4, 4, 4)}, "not testable here"),
        ("far below", {"noise": (0.8, 3.0, 10.0, 12.0)}, "reproduced in sign only"),
        ("far below", {"noise": (4.0, 16.0, 64.0, 64.0)}, "contradicted"),
        ("goes with the noise scale", {"noise": (0.5, 0.3, 0.1, 0.02)}, "contradicted"),
        ("loss of small batches", {"arm": "warm-up", "loss": 2.2}, "contradicted"),
        ("from the start", {"arm": "large", "loss": 2.1}, "contradicted"),
    ],
)
def test_verdicts_follow_what_is_planted(words: str, other: Any, expected: str) -> None:
    assert verdict_of(usual().findings, words) == "reproduced"
    assert verdict_of(analysis.report(planted(**other), SETTINGS).findings, words) == expected


def test_where_a_number_is_missing_or_open_no_seed_is_left_out() -> None:
    rows = numbers.criticals(planted(critical=(4, 16, 128, 64)).measured["branches"], 0.01)
    assert numbers.last_growth(rows).reason == (
        "it may lie beyond the batches tried at the last two checkpoints in 5 of 5 seeds"
    )
    noise = numbers.noise_by(planted().measured["noise"], "Euclidean").copy()
    noise.loc[noise.index[0], "value"] = np.nan
    assert numbers.over_noise(rows, noise).reason == "1 of 5 seeds have a number that is missing or not positive"


def test_the_rule_takes_the_largest_batch_that_is_as_good_as_all_smaller_ones() -> None:
    losses = {1: [2.0, 2.0], 2: [2.03, 2.05], 4: [2.0, 2.01], 8: [2.1, 2.0]}
    found = [measures.ruled(losses, tolerance, 4) for tolerance in (0.01, 0.001, 0.06)]
    assert [(each["critical"], each["open"]) for each in found] == [(16, False), (4, False), (32, True)]
    assert found[0]["losses"]["32"] == [2.1, 2.0]
    assert measures.ruled({1: [None], 2: [2.0]}, 0.01, 4)["critical"] is None


def test_batch_and_rate_go_by_the_rule() -> None:
    preset = study.PRESETS["cpu"]
    examples = preset.base.data.num_train - preset.base.data.num_validation
    seen: dict[str, list[int]] = {}
    for cell in study.cells_of(preset, 1):
        config, done, sizes = cell.config, 0, []
        total = total_epochs(config, examples)
        while done < preset.windows:
            size = batch_size(config, done / examples)
            if done > preset.warmup * 16:
                rate = learning_rate(config, done / examples, total, examples / config.training.batch_size)
                assert rate == pytest.approx(2e-3 * (size / 4) ** 0.5)
            sizes.append(size)
            done += size
        seen[cell.labels["arm"]] = sizes
        assert sum(sizes) == preset.windows
    assert set(seen["small"]) == {4} and set(seen["large"]) == {16}
    assert seen["warm-up"] == [4] * 1280 + [8] * 512 + [16] * 448


def test_figures_and_tables_are_readable_and_the_story_finds_its_claims() -> None:
    result = usual()
    for name, drawing in result.drawings.items():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("15 of 15 runs finished."), name
    assert [len(table.rows) for table in result.tables] == [len(PLACES), len(LOSSES)]
    assert result.sentences == [
        "Of 20 critical batches 5 are the smallest batch tried, so that they may be smaller, and 0 the largest, so "
        "that they may be larger.",
        "The warm-up doubles after 250 windows; the critical batch after 200 is more than twice its batch for 5 of 5 "
        "seeds.",
        "The warm-up doubles after 500 windows; the critical batch after 400 is more than twice its batch for 5 of 5 "
        "seeds.",
    ]
    assert STORY.figure in result.drawings and all(find(point.pattern, result.findings) for point in STORY.points)


def test_where_the_critical_batch_is_the_largest_tried_its_mark_is_open_and_the_caption_counts() -> None:
    tables = planted(critical=(4, 16, 64, 128))
    branches = tables.measured["branches"]
    first = (branches["seed"] == 0) & (branches["windows"] == 400)
    rows = branches.assign(
        critical=branches["critical"].mask(first, 128),
        open=branches["open"] | first,
    )
    result = analysis.report(replace(tables, measured={**tables.measured, "branches": rows}), SETTINGS)
    drawing = result.drawings["critical"]
    assert not isinstance(drawing, str) and faults(drawing.figure) == []
    assert "may be larger (1 of 5 after 400, 5 of 5 after 800)." in drawing.caption
    (ax,) = drawing.figure.axes
    (marks,) = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    closed = ax.lines[0]
    np.testing.assert_allclose(np.asarray(marks.get_xydata()), np.asarray(closed.get_xydata())[-2:])
    assert marks.get_color() == closed.get_color()
    other = usual().drawings["critical"]
    assert not isinstance(other, str) and "Open" not in other.caption
    assert not [line for line in other.figure.axes[0].lines if line.get_markerfacecolor() == "white"]


def test_no_bar_lies_on_another() -> None:
    drawing = usual().drawings["critical"]
    assert not isinstance(drawing, str)
    places = bar_places(drawing.figure.axes[0])
    assert len(places) == len(set(places)) == 3 * len(PLACES)


def test_without_runs_nothing_is_claimed() -> None:
    result = analysis.report(Tables(planted().runs.assign(status="missing")), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained_and_keep_what_is_measured() -> None:
    assert study.ARMS == numbers.ARMS
    for name, preset in study.PRESETS.items():
        size = preset.base.training.batch_size
        assert all(at % preset.checkpoints[0] == 0 for at in preset.checkpoints)
        assert preset.checkpoints[0] % size == 0 and preset.checkpoints[-1] == preset.windows
        assert name == "smoke" or preset.window >= 50 * size * max(preset.factors)
        for cell in study.cells_of(preset, 1):
            check_config(cell.config)


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("claims2026.merrill2025", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"critical.pdf", "branches.png", "updates.json", "checkpoints.md", "arms.csv", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 6
    (rows, *_) = [json.loads(p.read_text())["rows"] for p in (tmp_path / "runs" / "measured" / "branches").iterdir()]
    assert {row["by"] for row in rows} == {"held out", "smoothed"} and len(rows) == 6
