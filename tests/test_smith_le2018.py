"""Smith & Le 2018: planted peaks and slopes are found, the evidence is exact, and the script does what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

from analysis.runs import Tables
from analysis.smith_le2018 import numbers as numbers
from analysis.smith_le2018 import report as study
from analysis.smith_le2018.evidence import evidence_findings, minima
from analysis.smith_le2018.numbers import peak_of, rise_over_ends
from sharpness.errors import InputError, RunError
from sharpness.plots.frames import floats, rows_where
from sharpness.training import check_config
from tests.study_cases import first_steps, script, site, smoke_once

main: Any = script("smith_le2018")
measure: Any = script("measures.smith_le2018")

BASE = {"learning_rate": 0.1, "num_train": 1000, "momentum": 0.9}
VALUES = {"learning_rate": (0.05, 0.1, 0.2, 0.4), "num_train": (500, 1000, 2000), "momentum": (0.8, 0.9, 0.95)}
BATCHES = (2, 4, 8, 16, 32, 64, 128)
SETTINGS: dict[str, Any] = {
    "preset": "planted",
    "seeds": 5,
    "batches": [128],
    "more": [512],
    "base": {
        "data": {"name": "made", "num_train": 1000},
        "training": {"learning_rate": 0.1, "momentum": 0.9},
        "budget": {"updates": 100},
    },
    "evidence": {"classes": [0, 1], "num_train": 200, "draws": 5},
}


def planted(power: float = 1.0, seeds: int = 5, status: dict[tuple[int, int], str] | None = None) -> Tables:
    """Return accuracies with a peak at ``16 (rate/0.1)^power (N/1000)^power (0.1/(1-m))^power`` and little noise.

    ``status`` holds by batch and seed what became of the runs of the base setting that did not finish.
    """
    rng, runs, accuracies = np.random.default_rng(0), [], []
    settings = [{**BASE, name: value} for name, values in VALUES.items() for value in values]
    for setting in {tuple(each.items()): each for each in settings}.values():
        scale = setting["learning_rate"] / 0.1 * setting["num_train"] / 1000 * 0.1 / (1 - setting["momentum"])
        for batch in BATCHES:
            for seed in range(seeds):
                labels = {**setting, "batch_size": batch, "seed": seed}
                ended = (status or {}).get((batch, seed), "finished") if setting == BASE else "finished"
                runs.append({**labels, "run_id": "x", "status": ended, "reason": None})
                if ended == "finished":
                    away = math.log(batch / (16 * scale**power))
                    accuracy = 0.8 - 0.02 * away**2 + 0.001 * rng.normal()
                    accuracies.append({**labels, "accuracy": accuracy})
    table = pd.DataFrame(runs).assign(**dict.fromkeys(("git_commit", "device", "threads", "data_sha256"), "x"))
    empty = pd.DataFrame()
    return Tables(table, empty, empty, empty, {"test_accuracy": pd.DataFrame(accuracies)})


def verdicts(tables: Tables) -> dict[str, str]:
    return {each.claim: each.verdict for each in study.report(tables, SETTINGS).findings}


def test_planted_slopes_are_found_and_their_verdicts_flip() -> None:
    tables = planted(1.0)
    found = numbers.settings_found(tables, BASE)
    peaks, optima = numbers.peak_table(found), numbers.optimum_table(found)
    for name in VALUES:
        slope = numbers.slope_of(peaks, optima, name)
        assert slope.value == pytest.approx(1, abs=0.05)
        assert slope.lower is not None and slope.upper is not None and slope.lower < 1 < slope.upper
    base = peaks[(peaks["varied"] == "learning_rate") & (peaks["value"] == 0.1)].iloc[0]
    assert base["batch"] == pytest.approx(16, rel=0.05) and base["lower"] < 16 < base["upper"]
    assert base["g"] == pytest.approx(0.1 * (1000 / base["batch"] - 1) / (1 - 0.9))
    # Two points below the best, on a parabola of 0.02 in log B, lie a factor of e below the peak.
    onset = numbers.onset_table(found)
    assert numbers.onset_slope(onset, "learning_rate").value == pytest.approx(1, abs=0.15)
    held, missed = verdicts(tables), verdicts(planted(0.2))
    slopes = [claim for claim in held if "proportional" in claim]
    assert [held[claim] for claim in slopes] == ["reproduced"] * 3
    assert [missed[claim] for claim in slopes] == ["contradicted"] * 3
    assert next(v for claim, v in held.items() if "has a peak" in claim) == "reproduced"


def test_a_peak_at_the_end_of_the_grid_is_none_and_is_named() -> None:
    tables = planted(4.0)  # the best batch at the rates 0.05 and 0.4 would be 1 and 4096
    report = study.report(tables, SETTINGS)
    text = "\n".join(report.sentences)
    assert "learning rate 0.05: no peak: the best batch, 2, is the smallest tried; not in the slope." in text
    assert "learning rate 0.4: no peak: the best batch, 128, is the largest tried; not in the slope." in text
    rate = next(each for each in report.findings if "the learning rate" in each.claim)
    assert rate.verdict == "not testable here" and "of 4 settings have a peak" in rate.why


def test_runs_that_did_not_finish_are_counted_and_their_batch_left_out() -> None:
    tables = planted(status={(2, 0): "diverged", (128, 3): "missing"})
    report = study.report(tables, SETTINGS)
    text = "\n".join(report.sentences)
    assert "1 diverged, 1 missing" in text
    assert "learning rate 0.1: batch 2 (4 of 5 seeds), batch 128 (4 of 5 seeds) left out of the peak." in text
    for drawing in report.drawings.values():
        assert isinstance(drawing, str) or "1 diverged, 1 missing" in drawing.caption
    assert "1 diverged, 1 missing" in report.tables[0].caption
    rows = numbers.accuracy_table(tables)
    row = rows_where(rows, batch_size=2, **BASE).iloc[0]
    assert (row["n"], row["diverged"]) == (4, 1)


def test_without_any_measured_run_nothing_is_drawn_and_nothing_judged() -> None:
    empty = pd.DataFrame()
    tables = Tables(planted().runs.assign(status="missing"), empty, empty, empty, {})
    report = study.report(tables, SETTINGS)
    assert all(isinstance(drawing, str) for drawing in report.drawings.values())
    assert {each.verdict for each in report.findings} == {"not testable here"}


def test_the_peak_of_a_parabola_is_exact_and_a_valley_has_none() -> None:
    logs = np.log([4.0, 8, 16, 32, 64])
    curve = 0.8 - 0.03 * (logs - math.log(20)) ** 2
    found = peak_of([4, 8, 16, 32, 64], np.array([curve, curve]), [3, 7])
    assert found.batch.value == pytest.approx(20) and found.by_seed == {3: pytest.approx(20), 7: pytest.approx(20)}
    assert (found.batch.lower, found.batch.upper) == (pytest.approx(20), pytest.approx(20))
    rising = np.arange(5.0)
    assert not peak_of([4, 8, 16, 32, 64], np.array([rising, rising]), [0, 1]).found
    # Two seeds whose peaks lie at opposite ends: resamples disagree, so the peak of their mean is none.
    apart = np.array([[9.0, 0, 5, 0, 0], [0.0, 0, 5, 0, 9]])
    assert not peak_of([4, 8, 16, 32, 64], apart, [0, 1]).found


def test_noise_alone_does_not_rise_over_the_ends() -> None:
    """The best batch is chosen by the other seeds, so that pure noise has no rise: the plain best would have one."""
    rng = np.random.default_rng(1)
    rises = [rise_over_ends(rng.normal(size=(5, 7))) for _ in range(300)]
    values = [each.value for each in rises if each.value is not None]
    assert np.mean(values) < 0  # over the better of two ends
    assert np.mean([each.lower is not None and each.lower > 0 for each in rises]) < 0.03


def swept(shift: float, random_gain: float = 0.0, draws: int = 5) -> pd.DataFrame:
    """Return sweeps whose best evidence lies ``shift`` decades above the lowest test loss."""
    rows = []
    for draw in range(draws):
        jitter = 0.02 * (draw - 2)
        for at in np.linspace(-4, 4, 33):
            true = {"log_evidence_ratio": (at - shift - jitter) ** 2 - 50, "test_loss": 0.1 + at**2 / 100}
            wrong = {"log_evidence_ratio": 5 - (at + 4) - random_gain * (at > 3.9) * 5, "test_loss": 1 - at / 10}
            for labels, row in (("informative", true), ("random", wrong)):
                rows.append({"labels": labels, "draw": draw, "strength": 10**at, **row})
    return pd.DataFrame(rows)


def evidence_verdicts(table: pd.DataFrame) -> list[str]:
    return [each.verdict for each in evidence_findings(minima(table), SETTINGS)]


def test_the_verdicts_on_the_evidence_follow_what_was_planted() -> None:
    assert evidence_verdicts(swept(0.0, random_gain=1.0)) == [
        "reproduced",
        "reproduced",
        "contradicted",  # planted: random labels gain 3 nats at the largest strength
    ]
    level = swept(0.0).assign(log_evidence_ratio=lambda t: t["log_evidence_ratio"] + 10 * (t["labels"] == "random"))
    assert evidence_verdicts(level)[2] == "reproduced"
    assert evidence_verdicts(swept(2.0))[0] == "contradicted"
    edge = minima(swept(9.0))
    assert np.isnan(floats(rows_where(edge, labels="informative"), "decades_apart")).all()
    assert evidence_verdicts(swept(9.0))[0] == "not testable here"


def small_problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((8, 12)), rng.choice([-1.0, 1.0], 8)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_the_evidence_is_that_of_the_whole_space_by_automatic_differentiation(strength: float) -> None:
    """More weights than images: the span that it is solved in must lose nothing."""
    features, signs = small_problem()
    x, y = (torch.tensor(each, dtype=torch.float64) for each in (features, signs))

    def whole(w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(-y * (x @ w)).sum() + strength * (w @ w) / 2

    def both(w: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(w, requires_grad=True)
        value = whole(point)
        value.backward()
        assert point.grad is not None
        return value.item(), point.grad.numpy()

    best = minimize(both, np.zeros(12), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    hessian = torch.autograd.functional.hessian(whole, torch.tensor(best.x))
    assert isinstance(hessian, torch.Tensor)
    occam = float(torch.log(torch.linalg.eigvalsh(hessian) / strength).sum() / 2)
    (row,) = measure.sweep(features, signs, features, signs, np.array([strength]))
    assert row["cost"] == pytest.approx(best.fun, abs=1e-8)
    assert row["occam"] == pytest.approx(occam, abs=1e-5)
    assert row["log_evidence_ratio"] == pytest.approx(best.fun + occam - 8 * math.log(2), abs=1e-5)
    margins = signs * (features @ best.x)
    assert row["train_accuracy"] == np.mean(margins > 0)
    assert row["test_loss"] == pytest.approx(float(np.mean(np.log1p(np.exp(-margins)))), abs=1e-5)


def test_a_prior_that_leaves_nothing_to_learn_is_the_null_model() -> None:
    features, signs = small_problem()
    (row,) = measure.sweep(features, signs, features, signs, np.array([1e12]))
    assert row["log_evidence_ratio"] == pytest.approx(0, abs=1e-9)


def test_one_image_has_the_evidence_of_the_closed_form() -> None:
    """With x = (a,) and label 1: w solves ``strength w = a / (1 + exp(a w))``, and there is one eigenvalue."""
    a, strength = 2.0, 0.5
    w = 0.0
    for _ in range(200):  # bisection would do; this contracts, as a^2 / (4 strength) < 3 is damped by half
        w = 0.5 * w + 0.5 * a / (1 + math.exp(a * w)) / strength
    p = 1 / (1 + math.exp(a * w))
    expected = math.log1p(math.exp(-a * w)) + strength * w * w / 2
    expected += 0.5 * math.log1p(a * a * p * (1 - p) / strength) - math.log(2)
    (row,) = measure.sweep(np.array([[a]]), np.array([1.0]), np.array([[a]]), np.array([1.0]), np.array([strength]))
    assert row["log_evidence_ratio"] == pytest.approx(expected, abs=1e-9)


def test_separable_images_are_fitted_and_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features, signs = small_problem()
    (row,) = measure.sweep(features, signs, features, signs, np.array([1e-8]))
    assert row["train_accuracy"] == 1.0 and row["cost"] < 0.01
    data = measure.load_dataset("fashion_mnist_10k", num_train=50)
    with pytest.raises(InputError, match="images of classes"):
        measure.two_classes(data.train, [0, 1], 51, np.random.default_rng(0))
    monkeypatch.setattr(measure, "MAX_STEPS", 1)
    with pytest.raises(RunError, match="to converge"):
        measure.fitted(features, signs, 1e-3, np.zeros(12))


def test_both_kinds_of_labels_are_measured_the_same_each_time() -> None:
    knobs: dict[str, Any] = {"dataset": "fashion_mnist_10k", "classes": [0, 1], "num_train": 30}
    knobs |= {"lowest": 0.1, "highest": 10.0, "per_decade": 1}
    rows, again, other = (measure.evidence(site(), **knobs, draw=s) for s in (0, 0, 1))
    assert rows == again != other
    assert [row["labels"] for row in rows] == ["informative"] * 3 + ["random"] * 3
    assert [row["strength"] for row in rows[:3]] == pytest.approx([10, 1, 0.1])
    assert rows[1]["test_accuracy"] > 0.9 and abs(rows[4]["test_accuracy"] - 0.5) < 0.05


@pytest.mark.study
def test_the_paper_preset_can_be_trained(tmp_path: Path) -> None:
    preset = main.PRESETS["paper"]
    cells = main.cells_of(preset, 1)
    for cell in cells:
        check_config(cell.config)
    assert len(cells) == len({cell.config.run_id for cell in cells}) == 12 * 11 - 2  # N = 500 has no batch above it
    (manifest,) = first_steps(cells, tmp_path)
    assert manifest["status"] == "finished" and manifest["step"] == 1


@pytest.mark.study
def test_the_script_runs_writes_everything_and_does_nothing_twice(tmp_path: Path) -> None:
    out, _ = smoke_once("smith_le2018", tmp_path)
    expected = {"accuracy_vs_batch.pdf", "evidence.pdf", "best_batch_table.md", "evidence_table.tex", "runs.csv"}
    assert expected <= {path.name for path in out.iterdir()}
    findings = json.loads((out / "findings.json").read_text())
    assert len(findings) == 7 and all(each["why"] for each in findings)
    table = pd.read_csv(out / "evidence.csv")
    assert set(table["labels"]) == {"informative", "random"} and set(table["draw"]) == {0, 1}
    one = next((tmp_path / "runs" / "measured" / "test_accuracy").iterdir())
    assert json.loads(one.read_text())["rows"][0]["num_test"] == 500
