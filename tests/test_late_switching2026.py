"""Late switching: batch sizes update by update, verdicts on planted losses, the smoke form."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims2026.late_switching2026 import numbers
from analysis.claims2026.late_switching2026 import report as analysis
from analysis.claims2026.late_switching2026.story import STORY
from analysis.report.findings import Finding
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.plots.frames import rows_where
from sharpness.training import check_config
from sharpness.training.schedules import batch_size, learning_rate, total_epochs
from tests.drawings import bar_places, faults
from tests.study_cases import script, smoke_once, verdict_of

study: Any = script("claims2026.late_switching2026")
SEEDS, RATES = 5, (0.001, 0.002, 0.004)
SETTINGS: dict[str, Any] = {
    "base": {"model": {"name": "char_transformer_small"}, "data": {"name": "kjv", "context": 16}},
    "windows": 64, "small": 4, "large": 32, "seeds": SEEDS,
}  # fmt: skip
BEST = {"small": 0, "late": 1, "early": 1, "large": 2}
LOSSES = {
    "small": 2.2, "large": 2.3, "early": 2.25, "late": 2.15,
    "catch-up": 2.305, "small, to the switch": 2.8, "large, to the switch": 2.6,
}  # fmt: skip


@functools.cache
def planted(arm: str = "", loss: float = 0.0) -> Tables:
    """Tables of runs at three rates, each way with its best one, and one way changed."""
    rng, runs = np.random.default_rng(0), []
    for name, (place, rate), seed in itertools.product(LOSSES, enumerate(RATES), range(SEEDS)):
        least = loss if name == arm else LOSSES[name]
        found = least + 0.05 * abs(place - BEST.get(name, 2)) + rng.normal(0, 0.002)
        row = {"arm": name, "place": place, "seed": seed, "learning_rate": rate, "status": "finished", "reason": None}
        runs.append(row | {"validation_loss": found + 0.1, "test_loss": found, "step": 100, "examples": 400})
    return Tables(pd.DataFrame(runs))


def found_in(tables: Tables) -> Sequence[Finding]:
    return analysis.findings(numbers.outcomes(tables.runs), SETTINGS)


@functools.cache
def usual() -> Sequence[Finding]:
    """Return the findings where nothing else is planted."""
    return found_in(planted())


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("lower than an early one", {"arm": "early", "loss": 2.1}),
        ("lower than large batches", {"arm": "large", "loss": 2.1}),
        ("lower than small batches", {"arm": "small", "loss": 2.1}),
        ("Fast catch-up", {"arm": "catch-up", "loss": 2.45}),
        ("Fast catch-up", {"arm": "small, to the switch", "loss": 2.61}),
    ],
)
def test_verdicts_follow_what_is_planted(words: str, other: Any) -> None:
    assert verdict_of(usual(), words) == "reproduced"
    assert verdict_of(found_in(planted(**other)), words) in ("contradicted", "inconclusive")


def test_without_a_lead_at_the_switch_there_is_nothing_to_catch_up_with() -> None:
    rows = numbers.outcomes(planted(arm="small, to the switch", loss=2.5).runs)
    assert numbers.left_over(rows).reason == "large batches had no lead at the switch in 5 of 5 seeds"


def test_each_way_has_its_own_rate_and_catch_up_that_of_large_batches() -> None:
    rows = numbers.outcomes(planted().runs)
    own = numbers.at_own_rates(rows)
    assert {arm: set(rows_where(own, arm=arm)["place"]) for arm in BEST} == {arm: {p} for arm, p in BEST.items()}
    assert set(numbers.judged(rows, "small", "large")["place"]) == {2}
    leads = numbers.leads(rows)
    assert np.allclose(leads["at_switch"], 0.2, atol=0.02) and np.allclose(leads["at_end"], 0.005, atol=0.02)


def test_batches_become_large_where_they_should() -> None:
    preset = study.PRESETS["cpu"]
    runs = {cell.labels["arm"]: cell.config for cell in study.cells_of(preset, 1)}
    examples = preset.base.data.num_train - preset.base.data.num_validation
    seen = {}
    for arm, config in runs.items():
        updates, done, sizes = config.budget.updates or 10**9, 0, []
        while len(sizes) < updates and done < preset.windows:
            sizes.append(min(batch_size(config, done / examples), examples - done % examples))
            done += sizes[-1]
        seen[arm] = sizes
        rate = learning_rate(config, 0.9 * done / examples, total_epochs(config, examples), 1000.0)
        assert rate == config.training.learning_rate
    assert [sum(seen[arm]) for arm in study.SWITCHES] == [preset.windows] * 4
    assert set(seen["small"]) == {4} and set(seen["large"]) == {32}
    assert seen["late"] == [4] * 3072 + [32] * 128 and seen["early"] == [4] * 1024 + [32] * 384
    assert seen["catch-up"] == [4] * 256 + [32] * 256 and len(seen["large"]) == 512
    assert seen["small, to the switch"] == [4] * 256 and seen["large, to the switch"] == [32] * 256


def test_figures_and_tables_are_readable_and_the_story_finds_its_claims() -> None:
    result = analysis.report(planted(), SETTINGS)
    for name, drawing in result.drawings.items():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("105 of 105 runs finished."), name
    assert len(result.tables[0].rows) == len(BEST)
    assert STORY.figure in result.drawings and all(find(point.pattern, result.findings) for point in STORY.points)


def test_no_bar_lies_on_another() -> None:
    drawing = analysis.report(planted(), SETTINGS).drawings["rates"]
    assert not isinstance(drawing, str)
    places = bar_places(drawing.figure.axes[0])
    assert len(places) == len(set(places)) == len(BEST) * len(RATES)


def test_without_runs_nothing_is_claimed() -> None:
    result = analysis.report(Tables(planted().runs.assign(status="missing")), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained() -> None:
    assert tuple(study.SWITCHES) == numbers.ARMS
    for preset in study.PRESETS.values():
        assert preset.windows % (2 * preset.large) == 0
        for cell in study.cells_of(preset, 1):
            check_config(cell.config)


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("claims2026.late_switching2026", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"rates.pdf", "catch_up.json", "ways.md", "ways.csv", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 4
