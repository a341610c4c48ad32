"""Seesaw: the shares of a cosine, the schedules update by update, verdicts on planted losses, the smoke form."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims2026.seesaw2025 import numbers
from analysis.claims2026.seesaw2025 import report as analysis
from analysis.claims2026.seesaw2025.story import STORY
from analysis.pages.found import load_findings
from analysis.report.findings import Finding
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.plots.frames import rows_where
from sharpness.training import check_config
from sharpness.training.schedules import batch_size, learning_rate, total_epochs
from tests.conftest import ROOT
from tests.drawings import bar_places, faults
from tests.study_cases import script, smoke_once, verdict_of

study: Any = script("claims2026.seesaw2025")
SEEDS, RATES, BEST = 5, (0.001, 0.002, 0.004), 1
SETTINGS: dict[str, Any] = {
    "base": {
        "model": {"name": "char_transformer_small"},
        "data": {"name": "kjv", "context": 16},
        "training": {"batch_size": 4},
    },
    "windows": 64, "steps": 3, "seeds": SEEDS,
}  # fmt: skip
LOSSES = {"constant": 2.2, "halved": 2.1, "Seesaw": 2.105, "control": 2.2}
STEPS = {"constant": 1000, "halved": 1000, "Seesaw": 640, "control": 550}


@functools.cache
def planted(arm: str = "", loss: float = 0.0, steps: int = 0) -> Tables:
    """Tables of runs at three rates of which the second is the best, one schedule changed."""
    rng, runs = np.random.default_rng(0), []
    for name, (place, rate), seed in itertools.product(LOSSES, enumerate(RATES), range(SEEDS)):
        changed = name == arm
        found = (loss if changed and loss else LOSSES[name]) + 0.05 * (place != BEST) + rng.normal(0, 0.003)
        row = {"arm": name, "place": place, "seed": seed, "learning_rate": rate, "status": "finished", "reason": None}
        count = steps if changed and steps else STEPS[name]
        runs.append(row | {"validation_loss": found + 0.1, "test_loss": found, "step": count})
    return Tables(pd.DataFrame(runs))


def found_in(tables: Tables) -> Sequence[Finding]:
    return analysis.findings(numbers.judged(numbers.outcomes(tables.runs)), SETTINGS)


@functools.cache
def usual() -> Sequence[Finding]:
    """Return the findings where nothing else is planted."""
    return found_in(planted())


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("Seesaw ends at the loss of halving", {"arm": "Seesaw", "loss": 2.2}),
        ("fewer updates", {"arm": "Seesaw", "steps": 800}),
        ("Halving lowers the loss", {"arm": "halved", "loss": 2.25}),
        ("the loss is not kept", {"arm": "control", "loss": 2.1}),
    ],
)
def test_verdicts_follow_what_is_planted(words: str, other: Any) -> None:
    assert verdict_of(usual(), words) == "reproduced"
    assert verdict_of(found_in(planted(**other)), words) == "contradicted"


def test_the_rate_is_that_of_the_other_seeds_halved_runs() -> None:
    runs = planted().runs.copy()
    lucky = (runs["arm"] == "halved") & (runs["seed"] == 2) & (runs["place"] == 0)
    runs.loc[lucky, "validation_loss"] = 0.0
    chosen = numbers.judged(numbers.outcomes(runs))
    assert set(rows_where(chosen, seed=2)["place"]) == {BEST} and set(rows_where(chosen, seed=0)["place"]) == {0}
    assert len(chosen) == SEEDS * len(LOSSES) and numbers.edges(numbers.outcomes(runs), chosen) == SEEDS - 1


def test_the_story_counts_the_seeds_at_the_end_of_the_grid_as_the_committed_runs_do() -> None:
    rows = pd.read_csv(load_findings(ROOT / "figures")["seesaw2025"].folder / "updates.csv")
    at_end = rows_where(rows, learning_rate=max(study.PRESETS["cpu"].rates))["seed"].nunique()
    assert f"for {at_end} of {rows['seed'].nunique()} seeds" in STORY.cannot_show


def test_schedules_step_where_a_cosine_halves_and_keep_the_rule() -> None:
    preset = study.PRESETS["cpu"]
    shares = study.halvings(3)
    assert [(1 + math.cos(math.pi * share)) / 2 for share in shares] == pytest.approx([0.5, 0.25, 0.125])
    for arm, (of_rate, of_batch) in study.ARMS.items():
        assert arm == "constant" or of_rate / of_batch**0.5 == pytest.approx(0.5)  # the line of Seesaw
        config = study.config_of(preset, arm, 0.01, 0)
        examples = config.data.num_train - config.data.num_validation
        total = total_epochs(config, examples)
        for k, share in enumerate(shares, 1):
            epoch = (share + 1e-6) * total
            assert learning_rate(config, epoch, total, 1000.0) == pytest.approx(0.01 * of_rate**k)
            assert batch_size(config, epoch) == round(4 * of_batch**k)


def test_seesaw_spares_what_the_abstract_says() -> None:
    """With ever more steps the updates come to the mean of the root of a cosine's rate, 2 / pi."""
    shares = [0.0, *study.halvings(20), 1.0]
    updates = sum((after - before) / 2**k for k, (before, after) in enumerate(itertools.pairwise(shares)))
    assert 1 - updates == pytest.approx(1 - 2 / math.pi, abs=0.02) and abs(1 - 2 / math.pi - 0.36) < 0.005


def test_figures_and_tables_are_readable_and_the_story_finds_its_claims() -> None:
    result = analysis.report(planted(), SETTINGS)
    for name, drawing in result.drawings.items():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("60 of 60 runs finished."), name
    assert len(result.tables[0].rows) == len(LOSSES)
    assert result.sentences == ["The chosen rate is at an end of its grid for 0 of 5 seeds."]
    assert STORY.figure in result.drawings and all(find(point.pattern, result.findings) for point in STORY.points)


def test_no_bar_lies_on_another() -> None:
    drawing = analysis.report(planted(), SETTINGS).drawings["rates"]
    assert not isinstance(drawing, str)
    places = bar_places(drawing.figure.axes[0])
    assert len(places) == len(set(places)) == len(LOSSES) * len(RATES)


def test_without_runs_nothing_is_claimed() -> None:
    result = analysis.report(Tables(planted().runs.assign(status="missing")), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained() -> None:
    assert tuple(study.ARMS) == numbers.ARMS == tuple(LOSSES)
    for preset in study.PRESETS.values():
        for cell in study.cells_of(preset, 1):
            check_config(cell.config)


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("claims2026.seesaw2025", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"updates.pdf", "rates.png", "schedules.md", "schedules.csv", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 4
