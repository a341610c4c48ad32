"""Small batches of language: rates chosen without the judged seed, verdicts on planted losses, the smoke form."""

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
import torch

from analysis.claims2026.marek2025 import numbers
from analysis.claims2026.marek2025 import report as analysis
from analysis.claims2026.marek2025.story import STORY
from analysis.pages.found import load_findings
from analysis.report.findings import Finding
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.plots.frames import records, rows_where
from sharpness.training import check_config
from sharpness.training.optimizers import set_rates
from tests.conftest import ROOT
from tests.drawings import bar_places, faults
from tests.study_cases import script, smoke_once, verdict_of

study: Any = script("claims2026.marek2025")
SEEDS, BATCHES, BEST, RATE = 5, (1, 8, 64), 2, 0.00025
SETTINGS: dict[str, Any] = {
    "base": {"model": {"name": "char_transformer_small"}, "data": {"name": "kjv", "context": 16}},
    "windows": 64, "batches": list(BATCHES), "seeds": SEEDS,
}  # fmt: skip
LOSSES = {numbers.HELD: (2.2, 2.2, 2.3), numbers.FIXED: (2.4, 2.3, 2.3), numbers.SGD: (2.22, 2.4, 2.9)}
CURVES = {1: 0.02, 8: 0.03, 64: 0.1}


@functools.cache
def planted(way: str = "", batch: int = 0, loss: float = 0.0, curve: float | None = None) -> Tables:
    """Tables of runs whose losses are parabolas over the grid of rates, one of them changed."""
    rng, runs = np.random.default_rng(0), []
    for name, (place_of, size) in itertools.product(LOSSES, enumerate(BATCHES)):
        least, steep = LOSSES[name][place_of], CURVES[size]
        if (name, size) == (way, batch):
            least, steep = loss or least, steep if curve is None else curve
        for place, seed in itertools.product(range(5), range(SEEDS)):
            found = least + steep * (place - BEST) ** 2 + rng.normal(0, 0.002)
            row = {
                "way": name,
                "batch": size,
                "place": place,
                "seed": seed,
                "learning_rate": RATE * size**0.5 * 2**place,
            }
            row |= {"validation_loss": found + 0.1, "test_loss": found, "status": "finished", "reason": None}
            runs.append(row)
    return Tables(pd.DataFrame(runs))


def best_of(tables: Tables) -> pd.DataFrame:
    return numbers.tuned(numbers.outcomes(tables.runs))


def found_in(tables: Tables) -> Sequence[Finding]:
    return analysis.findings(best_of(tables), SETTINGS)


@functools.cache
def usual() -> Sequence[Finding]:
    """Return the findings where nothing else is planted."""
    return found_in(planted())


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("Holding the half-life", {"way": numbers.HELD, "batch": 1, "loss": 2.5}),
        ("as good as large ones", {"way": numbers.HELD, "batch": 64, "loss": 2.1}),
        ("less sensitive to the rate", {"way": numbers.HELD, "batch": 64, "curve": 0.01}),
        ("is close to AdamW", {"way": numbers.SGD, "batch": 1, "loss": 2.5}),
        ("gap between SGD and AdamW grows", {"way": numbers.SGD, "batch": 64, "loss": 2.3}),
    ],
)
def test_verdicts_follow_what_is_planted(words: str, other: Any) -> None:
    assert verdict_of(usual(), words) == "reproduced"
    assert verdict_of(found_in(planted(**other)), words) == "contradicted"


def test_the_rate_of_a_seed_is_chosen_without_it_and_judged_on_its_test_text() -> None:
    tables = planted()
    runs = tables.runs.copy()
    cell = (runs["way"] == numbers.SGD) & (runs["batch"] == 8)
    lucky = cell & (runs["seed"] == 3) & (runs["place"] == 0)
    runs.loc[lucky, "validation_loss"] = 0.0  # would be its own choice, and drags the choice of the others
    runs.loc[lucky, "test_loss"] = 1.0
    best = numbers.tuned(numbers.outcomes(runs))
    own = {row["seed"]: row for row in records(rows_where(best, way=numbers.SGD, batch=8))}
    assert own[3]["learning_rate"] == RATE * 8**0.5 * 2**BEST and own[3]["test_loss"] > 2
    assert own[0]["learning_rate"] == RATE * 8**0.5 and own[0]["edge"] and not own[3]["edge"]
    assert own[3]["beside"] == pytest.approx(CURVES[8], abs=0.01)


def test_what_diverged_counts_as_a_guess() -> None:
    runs = planted().runs.copy()
    runs.loc[(runs["place"] == 3), ["status", "test_loss", "validation_loss"]] = ["diverged", None, None]
    rows = numbers.outcomes(runs)
    assert len(rows) == len(runs) and set(rows["test_loss"][rows["place"] == 3]) == {math.log(256)}
    assert verdict_of(found_in(Tables(runs)), "as good as large ones") == "reproduced"


def test_figures_and_tables_are_readable_and_the_story_finds_its_claims() -> None:
    result = analysis.report(planted(), SETTINGS)
    for name, drawing in result.drawings.items():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("225 of 225 runs finished."), name
    assert len(result.tables[0].rows) == len(LOSSES) * len(BATCHES)
    assert result.sentences == ["The chosen rate is at an end of its grid in 0 of 45 choices."]
    assert STORY.figure in result.drawings and all(find(point.pattern, result.findings) for point in STORY.points)


def test_a_rate_at_which_a_run_diverged_has_a_cross_at_the_edge_and_does_not_set_the_axis() -> None:
    runs = planted().runs.copy()
    lost = (runs["way"] == numbers.SGD) & (runs["batch"] == 64) & (runs["place"] == 4) & (runs["seed"] == 1)
    runs.loc[lost, ["status", "test_loss", "validation_loss"]] = ["diverged", None, None]
    (cell,) = records(rows_where(numbers.means_by_rate(numbers.outcomes(runs)), guesses=1))
    assert (cell["way"], cell["batch"]) == (numbers.SGD, 64)
    drawing = analysis.report(Tables(runs), SETTINGS).drawings["rates"]
    assert not isinstance(drawing, str) and faults(drawing.figure) == []
    panels = dict(zip((numbers.HELD, numbers.FIXED, numbers.SGD), drawing.figure.axes, strict=True))
    crosses = {way: [line for line in ax.lines if line.get_marker() == "x"] for way, ax in panels.items()}
    assert [len(each) for each in crosses.values()] == [0, 0, 1]
    assert np.asarray(crosses[numbers.SGD][0].get_xydata()).tolist() == [[cell["learning_rate"], 1.0]]
    for way, ax in panels.items():
        highest = LOSSES[way][-1] + 4 * CURVES[64]  # at the ends of the grid of the largest batch
        assert highest < ax.get_ylim()[1] < highest + 0.2


def test_a_verdict_at_the_end_of_a_grid_says_so_and_the_story_counts_it_as_the_page_does() -> None:
    runs = planted().runs.copy()
    runs.loc[(runs["way"] == numbers.SGD) & (runs["batch"] == 1) & (runs["place"] == 4), "validation_loss"] = 0.0
    close, grows = found_in(Tables(runs))[-2:]
    told = "; the rate of SGD at batch 1 is at an end of those tried for 5 of 5 seeds"
    assert close.why.endswith(told) and grows.why.endswith(told)
    assert not any("at an end" in each.why for each in usual())
    rows = pd.read_csv(load_findings(ROOT / "figures")["marek2025"].folder / "losses.csv")
    own = rows_where(rows, way=numbers.SGD, batch=1)
    largest = max(study.PRESETS["cpu"].rates[numbers.SGD].at(1))
    assert f"for {sum(own['learning_rate'] == largest)} of {len(own)} seeds" in STORY.cannot_show


def test_no_bar_lies_on_another() -> None:
    drawing = analysis.report(planted(), SETTINGS).drawings["losses"]
    assert not isinstance(drawing, str)
    places = bar_places(drawing.figure.axes[0])
    assert len(places) == len(set(places)) == len(LOSSES) * len(BATCHES)


def test_without_runs_nothing_is_claimed() -> None:
    runs = planted().runs.assign(status="missing")
    result = analysis.report(Tables(runs), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained_and_the_rule_is_the_paper_s() -> None:
    names = (study.HELD, study.FIXED, study.SGD)
    assert names == (numbers.HELD, numbers.FIXED, numbers.SGD)
    for preset in study.PRESETS.values():
        assert set(preset.rates) == set(names)
        for cell in study.cells_of(preset, 1):
            check_config(cell.config)
            training, batch = cell.config.training, cell.config.training.batch_size
            if cell.labels["way"] == study.HELD:  # beta2' = beta2^(B' / B)
                optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
                set_rates(optimizer, training, 1.0, batch * (cell.config.data.context or 0))
                assert optimizer.param_groups[0]["betas"][1] == pytest.approx(
                    preset.beta2 ** (batch / max(preset.batches))
                )


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("claims2026.marek2025", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"losses.pdf", "rates.png", "tuned.md", "tuned.csv", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 5
