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
from analysis.smith_le2018 import collapse as collapse
from analysis.smith_le2018 import numbers as numbers
from analysis.smith_le2018 import report as study
from analysis.smith_le2018.equation import equation_findings, ridge_ratios
from analysis.smith_le2018.evidence import evidence_findings, minima
from analysis.smith_le2018.numbers import peak_of, rise_over_ends
from sharpness.errors import InputError, RunError
from sharpness.plots.frames import floats, rows_where
from sharpness.training import check_config
from tests.drawings import faults
from tests.study_cases import first_steps, script, site, smoke_once

main: Any = script("smith_le2018")
measure: Any = script("measures.smith_le2018_evidence")

BASE = {"learning_rate": 0.1, "num_train": 1000, "momentum": 0.9}
VALUES = {"learning_rate": (0.05, 0.1, 0.2, 0.4), "num_train": (500, 1000, 2000), "momentum": (0.8, 0.9, 0.95)}
BATCHES = (2, 4, 8, 16, 32, 64, 128)
LOOKS = (100, 200, 400, 800)
SETTINGS: dict[str, Any] = {
    "preset": "planted",
    "seeds": 5,
    "base": {"data": {"name": "made"}},
    "cells": 7, "hidden": 16, "noise": 0.2, "images": 1000, "rate": 0.1, "momentum": 0.9, "looks": LOOKS,
    "ridge": {"examples": 256, "cells": 4, "penalty": 0.1, "time": 400.0},
    "diffusion": {"images": 250, "noise_scale": 6.4, "time": 400.0},
    "evidence": {"classes": [0, 1], "num_train": 200, "draws": 5},
}  # fmt: skip


def planted(
    power: float = 1.0, seeds: int = 5, own: float = 0.0, moved: float = 0.0, lost: tuple[tuple[int, int], ...] = ()
) -> Tables:
    """Return accuracies with a peak at g = 61.5, that is B = 16 in the base setting, times ``speed^(1 - power)``.

    ``own`` are points (pp) that a doubling of the speed, ``rate / (1 - m)``, adds at any noise scale, ``moved`` a
    tenth of those that a momentum adds per unit. ``lost`` are the batches and seeds of the base setting that diverged.
    """
    rng, accuracies = np.random.default_rng(0), []
    settings = [{**BASE, name: value} for name, values in VALUES.items() for value in values]
    for setting in {tuple(each.items()): each for each in settings}.values():
        speed = setting["learning_rate"] / (1 - setting["momentum"])
        times = speed * setting["num_train"] / 1000
        for batch in (*BATCHES, setting["num_train"]):
            away = math.log(batch / (16 * times**power)) if batch < setting["num_train"] else 2.5
            plain = 0.8 - 0.02 * away**2 + 0.01 * (own * math.log2(speed) + moved * 10 * (setting["momentum"] - 0.9))
            for seed in range(seeds):
                diverged = setting == BASE and (batch, seed) in lost
                for updates in LOOKS:
                    value = None if diverged else plain + 0.001 * rng.normal()
                    row = {"batch_size": batch, "seed": seed, "updates": updates, "accuracy": value}
                    accuracies.append({**setting, **row, "train_loss": 0.1, "diverged": diverged})
    return tables_of({"test_accuracy": pd.DataFrame(accuracies)})


def tables_of(measured: dict[str, pd.DataFrame]) -> Tables:
    runs = pd.DataFrame([{"seed": 0, "run_id": "x", "status": "finished", "reason": None}])
    facts = dict.fromkeys(("git_commit", "device", "threads", "data_sha256"), "x")
    return Tables(runs.assign(**facts), measured=measured)


def verdicts(tables: Tables) -> dict[str, str]:
    return {each.claim: each.verdict for each in study.report(tables, SETTINGS).findings}


def verdict(tables: Tables, words: str) -> str:
    rows = collapse.equal_times(tables.rows("test_accuracy"), 1000)
    (found,) = [each.verdict for each in collapse.collapse_findings(rows, "") if words in each.claim]
    return found


def test_planted_slopes_are_found_and_their_verdicts_flip() -> None:
    tables = planted(1.0)
    found = numbers.settings_found(numbers.at_the_end(tables), BASE)
    peaks = numbers.peak_table(found, BASE)
    for name in VALUES:
        slope = numbers.slope_of(found, name)
        assert slope.value == pytest.approx(1, abs=0.05)
        assert slope.lower is not None and slope.upper is not None and slope.lower < 1 < slope.upper
    base = peaks[(peaks["varied"] == "learning_rate") & (peaks["value"] == 0.1)].iloc[0]
    assert base["batch"] == pytest.approx(16, rel=0.05) and base["lower"] < 16 < base["upper"]
    assert base["g"] == pytest.approx(0.1 * (1000 / base["batch"] - 1) / (1 - 0.9))
    times = rows_where(peaks, varied="momentum")
    assert floats(times, "times") == pytest.approx([0.5, 1.0, 2.0])
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
    assert "learning rate 0.4: no peak: the best batch, 128, is" not in text  # the full batch is in the grid
    rate = next(each for each in report.findings if "the learning rate" in each.claim)
    assert rate.verdict == "not testable here" and "of 4 settings have a peak" in rate.why


def test_networks_that_diverged_are_counted_and_their_batch_left_out() -> None:
    tables = planted(lost=((2, 0), (128, 3)))
    report = study.report(tables, SETTINGS)
    text = "\n".join(report.sentences)
    assert "2 of which diverged" in text
    assert "learning rate 0.1: batch 2 (1 of 5 diverged), batch 128 (1 of 5 diverged) left out of the peak." in text
    for name in ("accuracy_vs_batch", "best_batch", "collapse"):
        drawing = report.drawings[name]
        assert not isinstance(drawing, str) and "2 of which diverged" in drawing.caption
    row = rows_where(numbers.accuracy_table(numbers.at_the_end(tables)), batch_size=2, **BASE).iloc[0]
    assert (row["n"], row["diverged"]) == (4, 1)


def test_without_any_measurement_nothing_is_drawn_and_nothing_judged() -> None:
    report = study.report(tables_of({}), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in report.drawings.values())
    assert {each.verdict for each in report.findings} == {"not testable here"}


def test_what_noise_gains_is_paired_with_the_full_batch_of_the_seed() -> None:
    rows = numbers.at_the_end(planted())
    shifted = rows.assign(accuracy=floats(rows, "accuracy") + 0.1 * floats(rows, "seed"))  # seeds differ by 10 points
    table = rows_where(numbers.accuracy_table(shifted), **BASE)
    full, best = rows_where(table, batch_size=1000).iloc[0], rows_where(table, batch_size=16).iloc[0]
    assert full["gain"] == 0 and best["gain"] == pytest.approx(2.0 * 2.5**2, abs=0.3)
    assert best["upper"] - best["lower"] < 1 < best["std"]


def test_the_peak_of_a_parabola_is_exact_and_a_valley_has_none() -> None:
    logs = np.log([4.0, 8, 16, 32, 64])
    curve = 0.8 - 0.03 * (logs - math.log(20)) ** 2
    found = peak_of([4, 8, 16, 32, 64], np.array([curve, curve]))
    assert (found.value, found.lower, found.upper) == tuple(pytest.approx(20) for _ in range(3))
    rising = np.arange(5.0)
    assert peak_of([4, 8, 16, 32, 64], np.array([rising, rising])).lower is None
    # Two seeds whose peaks lie at opposite ends: resamples disagree, so the peak of their mean is none.
    apart = np.array([[9.0, 0, 5, 0, 0], [0.0, 0, 5, 0, 9]])
    assert peak_of([4, 8, 16, 32, 64], apart).lower is None


def test_the_interval_of_a_slope_holds_it_in_19_of_20_studies() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        found = []
        for rate in (0.05, 0.1, 0.2, 0.4):
            away = np.log(np.array(BATCHES) / (160 * rate))
            accuracy = 80 - 2 * away**2 + rng.normal(0, 0.7, (12, len(BATCHES)))
            curve = numbers.Accuracies(list(BATCHES), list(range(12)), accuracy, "")
            found.append(numbers.SweepPoint("learning_rate", rate, {}, curve, peak_of(BATCHES, accuracy)))
        slope = numbers.slope_of(found, "learning_rate")
        assert slope.lower is not None and slope.upper is not None
        held += slope.lower <= 1 <= slope.upper
    assert held >= 52  # of 57 expected, less three standard deviations


def test_the_interval_of_the_lead_of_g_holds_it_in_19_of_20_studies() -> None:
    """The lead's mean over the studies, though noise makes every share smaller; so is a resample's, by more."""
    rng, batches, leads = np.random.default_rng(0), np.array([4.0, 8, 16, 32, 64]), []
    for _ in range(60):
        curves = {}
        for speed in (1.0, 2, 4):
            g = speed * (512 / batches - 1)
            accuracy = 80 - 2 * np.log(g / 40) ** 2 + rng.normal(0, 2, (10, len(batches)))
            curves[f"{speed}"] = collapse.ScaledCurve(g[::-1], batches[::-1], accuracy[:, ::-1], speed, 0.9)
        leads.append(collapse.shares(curves)[1])
    truth = np.mean([each.value for each in leads])
    assert 0.3 < truth < 0.95
    assert all(each.lower < each.value < each.upper for each in leads)
    assert sum(each.lower <= truth <= each.upper for each in leads) >= 52


def test_the_verdicts_on_the_collapse_follow_what_was_planted() -> None:
    """Everything by g; by B; a change with the speed at equal g; and a momentum that does not stand for a rate."""
    assert verdict(planted(), "explains more") == "reproduced"
    assert verdict(planted(0.0), "explains more") == "contradicted"  # the batch size alone decides
    for words in ("up to the best", "beyond the best"):
        assert verdict(planted(), words) == "reproduced"
        assert verdict(planted(own=1.0), words) == "contradicted"
    assert verdict(planted(), "A momentum stands for") == "reproduced"
    assert verdict(planted(moved=1.0), "A momentum stands for") == "contradicted"


def test_equal_times_are_those_that_all_settings_reach() -> None:
    rows = collapse.equal_times(planted().rows("test_accuracy"), 1000)
    times = floats(rows, "updates") * floats(rows, "learning_rate") / (1 - floats(rows, "momentum"))
    assert times == pytest.approx(0.5 * 800)  # all updates of the slowest, rate 0.05 and momentum 0.9
    assert len(rows.groupby(["learning_rate", "momentum"])) == 6
    share = collapse.shares(collapse.curves(rows))[0]
    assert share["g"] > 0.99 > 0.9 > max(share["B"], share["speed"])


def walked(parts: float = 1.0, small: float = 1.0, noise: float = 3.0, flat: float = 0.5, off: float = 1.0) -> Tables:
    """Return walks of SGD beside the equation: ``parts`` and ``small`` are SGD's late loss over the equation's."""
    rng, ridge, network = np.random.default_rng(0), [], []
    for batch, rate, theory in ((None, 0.0, 1.0), (1, 0.02, small), (64, 1.5, parts)):
        for seed in range(16):
            excess = theory * off * math.exp(rng.normal(0, 0.02))
            ridge.append({"batch": batch, "rate": rate, "step": 0.02, "theory": theory, "seed": seed, "excess": excess})
    kinds = [("flow", None, 0.05, 1 / noise, 1 / flat), ("equation", None, 0.05, 1.0, 1.0)]
    kinds += [("sgd", 1, 0.02, small, small), ("sgd", 50, 1.6, parts, 1.0)]
    for kind, batch, step, loss, top in kinds:
        for seed in range(16):
            fact = {"kind": kind, "batch": batch, "step": step, "seed": seed, "diverged": False, "accuracy": 0.6}
            loss_, top_ = (0.3 * loss * math.exp(rng.normal(0, 0.1)), 2 * top * math.exp(rng.normal(0, 0.1)))
            network.append(fact | {"loss": loss_, "top_eigenvalue": top_})
    return tables_of({"ridge_equation": pd.DataFrame(ridge), "network_equation": pd.DataFrame(network)})


@pytest.mark.parametrize(
    ("words", "held", "other"),
    [
        ("equation ends at the excess", {}, {"off": 1.3}),
        ("SGD ends at the excess", {}, {"off": 1.3}),
        ("On ridge regression SGD and its equation agree", {}, {"small": 1.5}),
        ("On ridge regression they part", {"parts": 2.0}, {"parts": 0.97}),
        ("keeps the late training loss up", {}, {"noise": 1.0}),
        ("On a network SGD and its equation agree", {}, {"small": 1.5}),
        ("On a network they part", {"parts": 2.0}, {"parts": 1.0}),
        ("leads to flatter places", {}, {"flat": 1.0}),
        ("equally flat", {}, {"small": 1.5}),
    ],
)
def test_the_verdicts_on_the_equation_follow_what_was_planted(
    words: str, held: dict[str, float], other: dict[str, float]
) -> None:
    for planted_, expected in ((held, "reproduced"), (other, "contradicted")):
        tables = walked(**planted_)
        ridge, network = (tables.measured[name] for name in ("ridge_equation", "network_equation"))
        (found,) = [each.verdict for each in equation_findings(ridge, network, SETTINGS) if words in each.claim]
        assert found == expected


def test_a_walk_that_diverged_is_left_out_with_its_seed() -> None:
    tables = walked(parts=2.0)
    network = tables.measured["network_equation"]
    gone = (network["batch"] == 50) & (network["seed"] < 3)
    network.loc[gone, ["loss", "top_eigenvalue"]] = None
    report = study.report(tables, SETTINGS)
    (table,) = [each for each in report.tables if each.name == "equation_table"]
    assert [row[-1] for row in table.rows] == ["16", "16", "16", "13"]
    assert ridge_ratios(tables.measured["ridge_equation"])["value"].iloc[-1] == pytest.approx(2, rel=0.05)


def test_the_figures_are_readable_at_the_width_of_a_column() -> None:
    tables = planted(seeds=3)
    both = tables_of({**tables.measured, **walked(parts=2.0).measured, "evidence": whole_sweeps()})
    report = study.report(both, SETTINGS)
    for name, drawing in report.drawings.items():
        assert not isinstance(drawing, str), name
        assert faults(drawing.figure) == [] and drawing.figure.get_figwidth() <= 3.35, name


def whole_sweeps() -> pd.DataFrame:
    return swept(0.0, draws=2).assign(train_accuracy=1.0, test_accuracy=0.9)


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


def test_batches_are_those_of_the_same_noise_scales_for_every_number_of_images() -> None:
    assert main.batches_of(250, (1, 4, 400)) == [250, 125, 50, 1]
    preset = main.PRESETS["cpu"]
    for images in preset.train_sizes:
        sizes = main.batches_of(images, preset.ratios)
        assert sizes[0] == images and len(sizes) == len(set(sizes))
    assert len(main.settings_of(preset)) == 9 and main.settings_of(preset)[0] == (0.04, 500, 0.9)


@pytest.mark.study
def test_the_paper_preset_can_begin(tmp_path: Path) -> None:
    preset = main.PRESETS["paper"]
    cells = main.STUDY.cells(preset, 1)
    for cell in cells:
        check_config(cell.config)
    assert len(main.settings_of(preset)) == 12
    (manifest,) = first_steps(cells, tmp_path)
    assert manifest["status"] == "finished" and manifest["step"] == 1


@pytest.mark.study
def test_the_script_runs_writes_everything_and_does_nothing_twice(tmp_path: Path) -> None:
    out, _ = smoke_once("smith_le2018", tmp_path)
    expected = {"accuracy_vs_batch.pdf", "collapse.pdf", "equation.pdf", "evidence.pdf", "best_batch_table.md"}
    expected |= {"equation_table.md", "evidence_table.tex", "runs.csv"}
    assert expected <= {path.name for path in out.iterdir()}
    findings = json.loads((out / "findings.json").read_text())
    assert len(findings) == 20 and all(each["why"] for each in findings)
    table = pd.read_csv(out / "evidence.csv")
    assert set(table["labels"]) == {"informative", "random"} and set(table["draw"]) == {0, 1}
    one = next((tmp_path / "runs" / "measured" / "test_accuracy").iterdir())
    assert {row["updates"] for row in json.loads(one.read_text())["rows"]} == {5, 10}
