"""Stability of SGD: thresholds against enumerated batches, walks against plain loops, verdicts on planted numbers."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.report.findings import Finding
from analysis.runs import Tables
from analysis.sgd_stability import numbers as numbers
from analysis.sgd_stability import report as analysis
from sharpness.data import load_dataset, random_subset
from sharpness.errors import InputError
from sharpness.training import check_config
from tests.drawings import faults
from tests.study_cases import script, smoke_once, verdict_of

study: Any = script("sgd_stability")
measure: Any = script("measures.sgd_stability")


def inputs(n: int = 6, d: int = 2) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def second_moment_radius(x: np.ndarray, batch: int, rate: float, decay: float) -> float:
    """The spectral radius of E (I - eta A) (x) (I - eta A), by going through every batch there is."""
    n, d = x.shape
    total, count = np.zeros((d * d, d * d)), 0
    for rows in itertools.combinations(range(n), batch):
        step = np.eye(d) - rate * (x[list(rows)].T @ x[list(rows)] / batch + decay * np.eye(d))
        total, count = total + np.kron(step, step), count + 1
    return float(np.abs(np.linalg.eigvals(total / count)).max())


@pytest.mark.parametrize("batch", [1, 2, 4, 6])
@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_the_mean_square_shrinks_just_below_the_threshold_and_grows_just_above(batch: int, decay: float) -> None:
    x = inputs()
    rate = measure.largest_stable_rate(x, batch, decay)
    assert second_moment_radius(x.numpy(), batch, 0.999 * rate, decay) < 1
    assert second_moment_radius(x.numpy(), batch, 1.001 * rate, decay) > 1


def test_in_one_dimension_it_is_the_condition_of_wu_et_al() -> None:
    x = inputs(7, 1)
    curvature = x[:, 0].square()
    a, variance = float(curvature.mean()), float(curvature.var(correction=0))
    for batch in (1, 3, 7):
        p = (7 - batch) / (batch * 6)
        rate = measure.largest_stable_rate(x, batch)
        assert rate == pytest.approx(2 * a / (a**2 + p * variance), rel=1e-10)
        assert (1 - rate * a) ** 2 + rate**2 * p * variance == pytest.approx(1, rel=1e-10)


def test_it_grows_with_the_batch_from_above_ma_et_als_bound_to_two_over_the_top_eigenvalue() -> None:
    x = inputs(12, 3)
    top = float(torch.linalg.eigvalsh(x.T @ x / 12)[-1])
    longest = float(x.square().sum(1).max())
    rates = [measure.largest_stable_rate(x, batch) for batch in range(1, 13)]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(2 / top)
    assert all(rate > 2 * batch / (longest + (batch - 1) * top) for batch, rate in enumerate(rates[:-1], 1))


def test_a_penalty_raises_the_threshold_of_noisy_batches_and_lowers_that_of_the_full_one() -> None:
    x = inputs(7, 1)
    a, variance = float(x.square().mean()), float(x[:, 0].square().var(correction=0))
    assert variance > a**2 > 0  # planted: batch 1 is ruled by noise
    mu = 0.1 * a
    assert measure.largest_stable_rate(x, 1, mu) > measure.largest_stable_rate(x, 1)
    assert measure.largest_stable_rate(x, 1, mu) == pytest.approx(2 * (a + mu) / ((a + mu) ** 2 + variance))
    assert measure.largest_stable_rate(x, 7, mu) == pytest.approx(2 / (a + mu))


def problem(n: int = 6, d: int = 2) -> Any:
    targets = torch.linspace(-1, 1, n, dtype=torch.float64)
    return measure.LeastSquares(inputs(n, d), targets)


def test_batches_are_drawn_without_replacement_and_alike_for_one_seed() -> None:
    drawn = list(measure.batches_without_replacement(5, 3, 40, 2, 7))
    assert all(len(set(row.tolist())) == 3 for rows in drawn for row in rows)
    assert set(torch.cat(drawn).unique().tolist()) == set(range(5))
    again = list(measure.batches_without_replacement(5, 3, 40, 2, 7))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))


def naive(of: Any, drawn: list[Tensor], rate: float, decay: float) -> tuple[float, float, float]:
    """The three numbers of a walk from loops over walks and steps, in NumPy."""
    x, y, steps = of.inputs.numpy(), of.targets.numpy(), len(drawn)
    end = np.linalg.solve(x.T @ x / len(y) + decay * np.eye(2), x.T @ y / len(y))
    ran, fell, counted, growths = 0, 0, 0, []

    def loss(w: np.ndarray) -> float:
        return float(np.mean((x @ w - y) ** 2) / 2 + decay * w @ w / 2)

    for number in range(drawn[0].shape[0]):
        w, other, gone = np.zeros(2), np.ones(2), False
        for step, batch in enumerate(drawn):
            rows = batch[number].numpy()
            before, w = w, w - rate * (x[rows].T @ (x[rows] @ w - y[rows]) / len(rows) + decay * w)
            if step < steps // measure.EARLY and not gone:
                fell, counted = fell + int(loss(w) < loss(before)), counted + 1
            moved = other - rate * (x[rows].T @ (x[rows] @ other) / len(rows) + decay * other)
            if step >= steps // measure.BURN_IN:
                growths.append(math.log(np.linalg.norm(moved) / np.linalg.norm(other)))
            other = moved
            gone = gone or bool(np.linalg.norm(w - end) > measure.RUNS_AWAY * np.linalg.norm(end))
        ran += gone
    return ran / drawn[0].shape[0], fell / counted, sum(growths) / len(growths)


def test_walks_are_those_of_plain_loops() -> None:
    of, drawn = problem(), list(measure.batches_without_replacement(6, 2, 5, 20, 1))
    pairs = [(0.3, 0.0), (0.8, 0.5), (6.0, 0.0)]
    rates, decays = (torch.tensor(each, dtype=torch.float64) for each in zip(*pairs, strict=True))
    found = torch.stack(measure.walk(of, iter(drawn), rates, decays, 20), 1).tolist()
    for (rate, decay), own in zip(pairs, found, strict=True):
        assert own == pytest.approx(naive(of, drawn, rate, decay), rel=1e-9)
    assert found[0][0] == 0 and found[2][0] == 1


def test_the_full_batch_is_gradient_descent() -> None:
    of = problem()
    top = of.top_eigenvalue
    rates = torch.tensor([1.9, 2.2, 1.9], dtype=torch.float64) / top
    decays = torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64) * top
    drawn = measure.batches_without_replacement(6, 6, 1, 200, 0)
    ran, falls, growth = measure.walk(of, drawn, rates, decays, 200)
    assert ran.tolist() == [0, 1, 1] and falls.tolist()[0] == 1 and max(falls.tolist()[1:]) < 1
    assert growth.tolist()[1:] == pytest.approx([math.log(1.2), math.log(1.9 * 1.5 - 1)], rel=1e-6)


CURVATURES = torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=torch.float64)


def leave(batch: int, rates: list[float], walks: int = 400, steps: int = 200) -> Any:
    drawn = measure.batches_without_replacement(4, batch, walks, steps, 5)
    border = 0.1**0.5 / (1 + 0.1**0.5)
    starts = torch.tensor([0.1 * border, 1 - 0.1 * (1 - border)], dtype=torch.float64)
    return measure.escapes(CURVATURES, drawn, torch.tensor(rates, dtype=torch.float64), 0.1, starts.expand(walks, 2))


def test_the_full_batch_leaves_the_sharp_basin_above_two_over_its_curvature_and_not_the_flat_one() -> None:
    left, ended, growth = leave(4, [1.9, 2.2], walks=1)
    assert left.tolist() == [[0, 1], [0, 0]] and ended.tolist() == [[0, 1], [1, 1]]
    expected = [[math.log(0.9), math.log(1.2)], [math.log(0.81), math.log(0.78)]]
    assert growth.tolist() == [pytest.approx(each, rel=1e-9) for each in expected]


def test_below_the_condition_no_more_leave_than_the_maximal_inequality_allows_and_noise_makes_them_leave_above() -> (
    None
):
    rate = measure.largest_stable_rate(CURVATURES.sqrt()[:, None], 1)
    assert rate == pytest.approx(2 / (1 + 1.5))  # mean 1, variance 1.5
    left, ended, growth = leave(1, [rate, 1.9])
    assert left[0, 0] <= 0.01 + 3 * (0.01 / 400) ** 0.5  # (start)^2, and three standard errors
    assert left[0, 1] > 0.5 and ended[0, 1] > 0.5 and left[1].max() == 0
    steps = [math.log(abs(1 - 1.9 * c) or 1e-300) for c in (0.0, 0.0, 1.0, 3.0)]
    assert float(growth[0, 1]) == pytest.approx(sum(steps) / 4, rel=0.05)


@pytest.fixture(scope="module")
def place() -> Any:
    """The part of a site that a measurement asks for: the data, and a random subset of them."""
    data = load_dataset("fashion_mnist_10k")
    return Namespace(dataset=data, subset=lambda split, examples: random_subset(split, examples, 0))


def test_the_problem_is_standardised_and_its_targets_are_centred(place: Any) -> None:
    of = measure.least_squares(place, 200, 2)
    assert of.inputs.shape == (200, 4) and of.inputs.dtype == torch.float64
    torch.testing.assert_close(of.inputs.square().mean(0), torch.ones(4).double())
    assert float(of.targets.mean()) == pytest.approx(0, abs=1e-12) and len(of.targets.unique()) == 2
    brightness, _ = measure.cells_of_images(place, place.dataset.train, 200, 2)
    assert float(brightness.min()) >= 0 and float(brightness.max()) <= 1
    gradient = of.hessian @ of.solution(0.5) - of.inputs.T @ of.targets / 200 + 0.5 * of.solution(0.5)
    assert float(gradient.norm()) < 1e-12


def test_parts_of_images_that_are_all_alike_are_refused(place: Any) -> None:
    with pytest.raises(InputError, match="expected parts of the images that differ"):
        measure.least_squares(place, 3, 28)


# --- the analysis

SEEDS, BATCHES, PENALTIES = 4, (1, 2, 64, 512), (0.0, 0.1)
SETTINGS = {
    "base": {"data": {"name": "fashion_mnist_10k"}},
    "examples": 512, "cells": 4, "walks": 32, "steps": 300, "seeds": SEEDS,
    "flatness": 0.1, "start": 0.1, "basin_walks": 64, "basin_steps": 600,
}  # fmt: skip
GRID = np.geomspace(0.1, 6.0, 80)


@functools.cache
def planted(
    ridge: float = 1.0,
    growth: float = 0.9,
    helps: float = 1.1,
    shift: float = 1.0,
    leaves: float = 1.0,
    below: float = 0.0,
    falls: tuple[float, float] = (0.5, 1.0),
    flat: float = 0.0,
    steadier: float = 0.0,
) -> Tables:
    """Tables of walks that run away at ``ridge`` times the computed rate, which goes as B^growth up to B = 2.

    A penalty moves the computed rate of batch 1 by ``helps`` and that of others by 1 / helps, the measured one by
    ``shift`` times as much, and the share of falling steps by ``steadier``.
    """
    rng = np.random.default_rng(0)
    walks, thresholds, basins = [], [], []
    for seed, batch, penalty in itertools.product(range(SEEDS), BATCHES, PENALTIES):
        plain = math.exp(rng.normal(0, 0.01)) * (0.5 if batch == 1 else 0.5 * 2**growth if batch == 2 else 2.0)
        moved = (helps if batch == 1 else 1 / helps) if penalty else 1.0
        computed, half = plain * moved, plain * moved * ridge * (shift if penalty else 1.0)
        label = {"seed": seed, "batch": batch}
        thresholds.append(label | {"penalty": penalty, "stable_rate": computed, "critical_batch": 20.0})
        for rate in GRID:
            share = 1.0 if rate > half else below
            fact = {"penalty": penalty, "rate": rate, "ran_away": share, "growth": math.log(rate / half)}
            steady = (falls[0] if batch == 1 else falls[1]) + (steadier if penalty else 0) + rng.normal(0, 0.005)
            walks.append(label | fact | {"falls": steady})
            for basin in ("sharp", "flat") if not penalty else ():
                own = plain * leaves if basin == "sharp" else 10 * plain
                out = (1.0 if rate > own else below) if basin == "sharp" else flat
                place = {"basin": basin, "stable_rate": plain if basin == "sharp" else own, "rate": rate, "left": out}
                basins.append(label | place | {"ended_flat": out, "growth": math.log(rate / own)})
    runs = pd.DataFrame([{"seed": seed, "status": "finished", "reason": None} for seed in range(SEEDS)])
    named = {"walks": walks, "thresholds": thresholds, "basins": basins}
    return Tables(runs, measured={name: pd.DataFrame(rows) for name, rows in named.items()})


def found_in(tables: Tables) -> Sequence[Finding]:
    return analysis.findings(*analysis.read(tables), SETTINGS)


@functools.cache
def usual() -> Sequence[Finding]:
    """Return the findings where nothing else is planted."""
    return found_in(planted())


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("no walk runs away", {"below": 0.1}),
        ("by Mulayoff & Michaeli's formula", {"ridge": 1.4}),
        ("linear scaling", {"growth": 0.1}),
        ("lets the rate be larger", {"helps": 0.8}),
        ("moves the largest rate as computed", {"shift": 1.3}),
        ("in a larger share of the early steps", {"falls": (0.9, 0.5)}),
        ("does not help with the second", {"steadier": 0.3}),
        ("out of the sharp basin", {"leaves": 4.0}),
        ("out of the flat one", {"flat": 0.4}),
        ("no walk leaves", {"below": 0.1}),
        ("leave where that condition ends", {"leaves": 2.0}),
        ("eta / B alone decides", {"growth": 0.1}),
    ],
)
def test_verdicts_follow_what_is_planted(words: str, other: Any) -> None:
    assert verdict_of(usual(), words) == "reproduced"
    assert verdict_of(found_in(planted(**other)), words) == "contradicted"


def test_saturation_is_judged_from_the_first_batch_beyond_the_critical_one() -> None:
    tables = planted()
    assert verdict_of(found_in(tables), "saturation") == "reproduced"
    early = tables.measured["thresholds"].assign(critical_batch=1.5)
    measured = {**tables.measured, "thresholds": early}
    assert verdict_of(found_in(Tables(tables.runs, measured=measured)), "saturation") == "contradicted"


def test_planted_rates_are_found() -> None:
    tables = planted(ridge=1.2)
    found = numbers.ridge_rates(tables.measured["walks"], tables.measured["thresholds"])
    assert np.allclose(found["half_rate"] / found["stable_rate"], 1.2, rtol=0.06)  # a step of the grid
    assert np.allclose(found["typical_rate"] / found["stable_rate"], 1.2, rtol=1e-6)
    assert not found["share_below"].to_numpy().any()


def test_figures_and_tables_are_readable_and_count_every_run() -> None:
    result = analysis.report(planted(), SETTINGS)
    assert set(result.drawings) == {"map", "steady", "penalty", "escape"}
    for drawing in result.drawings.values():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("4 of 4 runs finished.")
    assert [len(table.rows) for table in result.tables] == [len(BATCHES)] * 2
    assert "at B = 1 and" in result.sentences[0] and "at B = 512" in result.sentences[0]


def test_without_measurements_nothing_is_claimed() -> None:
    tables = planted()
    result = analysis.report(Tables(tables.runs), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained_and_their_grids_hold_the_thresholds() -> None:
    for preset in study.PRESETS.values():
        for cell in study.STUDY.cells(preset, preset.seeds):
            check_config(cell.config)
        assert preset.penalties[0] == 0 and max(preset.batches) < preset.examples
        assert preset.rates[1] > 2 and preset.basin_rates[1] > 2  # the full batch's


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("sgd_stability", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"map.pdf", "steady.png", "penalty.csv", "escape.json", "ridge.md", "basins.tex", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 13
