"""Forgetting and rounding: the target loss on planted ways, verdicts on planted networks, the smoke form."""

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

from analysis.claims2026.forgetting2026 import numbers
from analysis.claims2026.forgetting2026 import report as analysis
from analysis.claims2026.forgetting2026.story import STORY
from analysis.report.findings import Finding
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.plots.frames import floats, rows_if, rows_where
from sharpness.training import check_config
from tests.drawings import faults
from tests.study_cases import script, smoke_once, verdict_of

study: Any = script("claims2026.forgetting2026")
SEEDS, STEPS, BITS = 5, 9, (8, 4, 3)
SETTINGS: dict[str, Any] = {
    "base": {"model": {"name": "char_transformer"}, "data": {"name": "kjv", "num_train": 64, "context": 16}},
    "second": {"name": "jargon"}, "updates": 100, "seeds": SEEDS, "bits": list(BITS),
    "target": 2.5, "other_targets": [2.7],
}  # fmt: skip
PLANTED: dict[str, dict[str, float]] = {
    "constant": {"sharp": 10, "rise": 0.010, "forgets": 0.5, "before": 2.00, "second": 2.20},
    "average": {"sharp": 11, "rise": 0.012, "forgets": 0.55, "before": 1.96, "second": 2.21},
    "SAM": {"sharp": 13, "rise": 0.015, "forgets": 0.6, "before": 1.96, "second": 2.22},
    "WSD": {"sharp": 20, "rise": 0.030, "forgets": 0.8, "before": 1.95, "second": 2.24},
    "cosine": {"sharp": 30, "rise": 0.040, "forgets": 1.0, "before": 1.94, "second": 2.26},
}


@functools.cache
def planted(
    arm: str = "", inside: float = 1.0, expected: float = 1.0, drifted: float = 1.0, **changed: float
) -> Tables:
    """Tables of networks as ``PLANTED``, one arm changed, the measured rise ``expected`` times the expected one.

    That under drift is ``drifted`` times the expected one, and in the sharpest direction half of it. A share of
    roundings is ``inside`` its interval. The loss on the second text falls from 3 in a straight line.
    """
    rng = np.random.default_rng(0)
    curvature, path = [], []
    for seed, name in itertools.product(range(SEEDS), PLANTED):
        facts = PLANTED[name] | (changed if name == arm else {})
        facts = {key: value * math.exp(rng.normal(0, 0.002)) for key, value in facts.items()}
        label = {"arm": name, "seed": seed}
        rows = []
        for bits, factor in zip(BITS, (0.01, 1.0, 5.0), strict=True):
            measured = factor * facts["rise"]
            far = 1.0 if rng.random() < inside else 0.01
            ends = {"single_lower": 0.5 * measured * far, "single_upper": 2 * measured * far}
            rows.append(
                {"bits": bits, "expected": measured / expected, "quadratic": measured, **ends, "measured": measured}
            )
        values = {
            "loss": 1.9,
            "top_eigenvalue": facts["sharp"],
            "critical_sharpness": 5.0 + seed,
            "moved": 0.05,
        }
        curvature += [label | {"measure": key, "value": value} for key, value in values.items()]
        record = {"details": {"rows": rows}}
        curvature.append(label | {"measure": "rounding", "value": rows[-1]["expected"], "record": record})
        drift = [
            {"direction": "random", "quadratic": 0.1, "quadratic_there": 0.2, "measured": 0.1 * drifted},
            {"direction": "sharpest", "quadratic": 2.0, "measured": 1.0},
        ]
        curvature.append(label | {"measure": "drift", "value": 0.1, "record": {"details": {"rows": drift}}})
        for step in range(STEPS):
            # At the target, 2.5, the first text has risen by what is planted.
            share = step / (STEPS - 1)
            second = 3 - share * (3 - facts["second"])
            first = facts["before"] + facts["forgets"] * (3 - second) / (3 - SETTINGS["target"])
            path.append(label | {"step": step, "first_loss": first, "second_loss": second})
    return tables_of({"curvature": pd.DataFrame(curvature), "path": pd.DataFrame(path)})


def tables_of(measured: dict[str, pd.DataFrame]) -> Tables:
    runs = pd.DataFrame([{"seed": seed, "status": "finished", "reason": None} for seed in range(SEEDS)])
    return Tables(runs, measured=measured)


def networks_of(tables: Tables) -> pd.DataFrame:
    read = [tables.rows(name, *columns) for name, columns in numbers.COLUMNS.items()]
    return numbers.networks(read[0], read[1], SETTINGS)


def found_in(tables: Tables) -> Sequence[Finding]:
    return analysis.findings(networks_of(tables), SETTINGS)


@functools.cache
def usual() -> Sequence[Finding]:
    """Return the findings where nothing else is planted."""
    return found_in(planted())


def test_planted_damages_are_found() -> None:
    rows = networks_of(planted())
    for arm, facts in PLANTED.items():
        means = {str(name): floats(rows_where(rows, arm=arm), str(name)).mean() for name in rows if name != "arm"}
        assert means["forgetting"] == pytest.approx(facts["forgets"], rel=0.01)
        assert means["forgetting_at_2.7"] == pytest.approx(0.6 * facts["forgets"], rel=0.01)
        assert means["measured_4"] == pytest.approx(facts["rise"], rel=0.01)
        assert means["second"] == pytest.approx(facts["second"], rel=0.01)
        assert (means["moved"], means["expected_drift"], means["measured_sharpest"]) == pytest.approx((0.05, 0.1, 1))


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("Decay lowers the loss", {"arm": "WSD", "before": 2.1}),
        ("Decay leads to sharper", {"arm": "WSD", "sharp": 8.0}),
        ("Decay raises the error", {"arm": "WSD", "rise": 0.008}),
        ("Decay makes it forget more", {"arm": "WSD", "forgets": 0.4}),
        ("learnt less well", {"arm": "WSD", "second": 2.1}),
        ("Averages withstand", {"arm": "average", "rise": 0.04}),
        ("SAM leads to flatter", {"arm": "SAM", "sharp": 25.0}),
        ("SAM lowers the error", {"arm": "SAM", "rise": 0.03}),
        ("SAM forgets less", {"arm": "SAM", "forgets": 0.9}),
        ("A shorter decay forgets less", {"arm": "cosine", "forgets": 0.7}),
        ("The expected rise is the measured one", {"expected": 2.0}),
        ("one rounding with independent errors", {"inside": 0.0}),
        ("rise under a drift in random directions", {"drifted": 2.0}),
    ],
)
def test_verdicts_follow_what_is_planted(words: str, other: Any) -> None:
    assert verdict_of(usual(), words) == "reproduced"
    assert verdict_of(found_in(planted(**other)), words) == "contradicted"


def test_damages_that_follow_no_sharpness_are_not_said_to() -> None:
    for words in ("Sharper networks lose more", "Sharper networks forget more"):
        assert verdict_of(usual(), words) == "reproduced"
    tables = planted()
    turned = tables.measured["curvature"].copy()
    is_top = turned["measure"] == "top_eigenvalue"
    turned.loc[is_top, "value"] = 1 / turned.loc[is_top, "value"]
    found = found_in(tables_of({**tables.measured, "curvature": turned}))
    for words in ("Sharper networks lose more", "Sharper networks forget more"):
        assert verdict_of(found, words) == "contradicted"


def test_the_drift_of_the_directions_that_were_measured_and_of_the_sharpest_are_variants() -> None:
    rows = networks_of(planted())
    (found,) = [each for each in analysis.findings(rows, SETTINGS) if "drift" in each.claim]
    assert [(each.number, each.verdict) for each in found.variants] == [("0.50", "contradicted")] * 2
    older = networks_of(
        tables_of(
            {
                name: rows_if(t, t["measure"] != "drift") if name == "curvature" else t
                for name, t in planted().measured.items()
            }
        )
    )
    assert analysis.drifted(older, SETTINGS).verdict == "not testable here"


def test_an_association_that_one_arm_makes_is_told_without_it() -> None:
    def told(findings: Sequence[Finding]) -> tuple[str, str]:
        (found,) = [each for each in findings if "Sharper networks forget" in each.claim]
        (without,) = [each for each in found.variants if each.name == "without cosine"]
        return found.verdict, without.verdict

    assert told(usual()) == ("reproduced", "reproduced")
    assert told(found_in(planted(arm="cosine", sharp=1.0))) == ("reproduced in sign only", "reproduced")
    tables = planted()
    turned = tables.measured["curvature"].copy()
    others = (turned["measure"] == "top_eigenvalue") & (turned["arm"] != "cosine")
    turned.loc[others, "value"] = 1 / turned.loc[others, "value"]
    assert told(found_in(tables_of({**tables.measured, "curvature": turned})))[1] == "contradicted"


def test_rises_that_log_axes_cannot_show_are_counted() -> None:
    rows = networks_of(planted())
    rows.loc[[0, 3], "measured_8"] *= -1
    rows.loc[4, "expected_drift"] = 0.0
    drawn = analysis.predicted_figure(rows, BITS, "")
    assert not isinstance(drawn, str) and len(drawn.numbers) == 4 * len(rows)
    assert f"3 of {4 * len(rows)} rises are not positive and not drawn (8 bits: 2, drift: 1)." in drawn.caption
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == ["8 bits", "4 bits", "3 bits", "drift"]


def test_a_seed_that_never_came_to_the_target_leaves_no_verdict() -> None:
    tables = planted()
    path = tables.measured["path"]
    never = (path["arm"] == "WSD") & (path["seed"] == 2) & (path["second_loss"] < 2.6)
    tables = tables_of({**tables.measured, "path": rows_if(path, ~never)})
    (found,) = [f for f in analysis.findings(networks_of(tables), SETTINGS) if "Decay makes it forget" in f.claim]
    assert found.verdict == "not testable here" and found.why == "1 of 5 seeds have no number"


def test_figures_and_tables_are_readable_and_the_story_finds_its_claims() -> None:
    result = analysis.report(planted(), SETTINGS)
    for name, drawing in result.drawings.items():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("5 of 5 runs finished."), name
    assert [len(table.rows) for table in result.tables] == [len(PLANTED), len(analysis.MEASURES)]
    assert STORY.figure in result.drawings and set(numbers.ARMS) == set(PLANTED) == set(study.ARMS)
    assert all(find(point.pattern, result.findings) for point in STORY.points)


def test_without_measurements_nothing_is_claimed() -> None:
    result = analysis.report(tables_of({}), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained_and_their_ends_begin_from_the_same_weights() -> None:
    for preset in study.PRESETS.values():
        cells = study.cells_of(preset, 1)
        for cell in cells:
            check_config(cell.config)
        runs = {(cell.labels["arm"], cell.labels["text"]): cell for cell in cells}
        begin = runs["beginning", "first"].config
        for arm in ("constant", "WSD", "SAM"):
            end = runs[arm, "first"].config
            assert end.training.start == begin.run_id and end.budget.updates is not None
            assert (begin.budget.updates or 0) + end.budget.updates == preset.updates
        assert runs["cosine", "first"].config.budget.updates == preset.updates
        average = runs["average", "second"].config.training.start
        assert average == f"{runs['constant', 'first'].config.run_id}/ema-{end.budget.updates}.safetensors"


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("claims2026.forgetting2026", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"damage.pdf", "path.png", "predicted.csv", "networks.md", "taus.tex", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 15
    networks = pd.read_csv(out / "networks.csv")
    assert (floats(rows_where(networks, quantity="moved"), "mean") > 0).all()
    predicted = pd.read_csv(out / "predicted.csv")
    assert np.isfinite(floats(rows_where(predicted, change="drift"), "measured")).all()
