"""Planted values of the threshold of the accuracy and of the numbers of curves are found again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.keskar2017.curves import at_equal_loss, from_solution, over_training, rises, slope_changes
from analysis.statistics.threshold import threshold

# --- the threshold ---------------------------------------------------------------------------------------------------


def curves_of(rng: np.random.Generator, seeds: int, bend: float | None, noise: float = 0.3) -> Any:
    batches = 2.0 ** np.arange(4, 12)
    fall = np.zeros(8) if bend is None else np.maximum(0, np.log2(batches / bend))
    return batches, 85 - fall + noise * rng.normal(size=(seeds, 8))


def test_a_planted_threshold_is_found_with_intervals_that_hold_it() -> None:
    rng, where, falls = np.random.default_rng(0), [], []
    for _ in range(60):
        found = threshold(*curves_of(rng, 5, 200.0), seed=1)
        assert found.p is not None and found.p < 0.05
        where.append(found.batch.lower <= 200 <= found.batch.upper)  # type: ignore[operator]
        falls.append(found.fall.lower <= 1 <= found.fall.upper)  # type: ignore[operator]
    assert np.mean(where) >= 0.88 and np.mean(falls) >= 0.88


def test_without_a_fall_a_threshold_is_seen_in_about_one_of_twenty() -> None:
    rng = np.random.default_rng(0)
    seen = [threshold(*curves_of(rng, 5, None)).batch.value is not None for _ in range(200)]
    assert np.mean(seen) <= 0.09


def test_a_rising_accuracy_and_too_few_runs_have_no_threshold() -> None:
    batches = [16.0, 32.0, 64.0, 128.0]
    rising = threshold(batches, [[1, 2, 3, 4], [1, 2, 3, 4.1], [1, 2.1, 3, 4]])
    assert rising.batch.value is None and "no fall" in str(rising.batch.reason) and rising.p == 1.0
    assert threshold(batches, [[4, 3, 2, 1]]).p is None
    assert threshold(batches[:3], [[4, 3, 2]] * 5).p is None
    assert threshold([], np.zeros((0, 0))).p is None
    holes = [[4, 4, 4, 1], [4, 4, 4, float("nan")], [4, 4.1, 4, 1], [4.1, 4, 4, 1]]
    assert threshold(batches, holes).batch.n == 3


# --- curves ----------------------------------------------------------------------------------------------------------


def test_rises_beside_solutions_are_those_of_parabolas() -> None:
    alpha = np.round(np.linspace(-1, 2, 25), 12)
    rows = []
    for seed in (0, 1):
        loss = np.where(alpha < 0.5, 2 * alpha**2, 3 * (alpha - 1) ** 2 + 0.5)
        rows.append(pd.DataFrame({"seed": seed, "alpha": alpha, "train_loss": loss}))
    rows[1].loc[7, "train_loss"] = np.nan  # alpha = -0.125 of seed 1
    small, large = rises(pd.concat(rows))
    np.testing.assert_allclose([small, large], [[2 / 64], [3 / 64]], rtol=1e-12)
    zoom = pd.DataFrame({"seed": 0, "alpha": [-0.05, 0.05, 0.95, 1.05], "train_loss": 9.9})
    np.testing.assert_allclose(np.ravel(rises(pd.concat([rows[0], zoom]))), [2 / 64, 3 / 64], rtol=1e-12)


def test_sharpness_at_equal_loss_is_read_off_power_laws() -> None:
    loss = {"SB": np.array([1.0, 0.3, 0.1]), "LB": np.array([0.9, 0.2, 0.01])}
    power = {"SB": 0.5, "LB": -1.0}
    rows = [
        {"role": role, "seed": 0, "epoch": epoch, "loss": x, "phi": 7 * x ** power[role]}
        for role in loss
        for epoch, x in enumerate(loss[role], 1)
    ]
    small, large = at_equal_loss(pd.DataFrame(rows))
    np.testing.assert_allclose([small[0], large[0]], [7 * 0.1**0.5, 7 / 0.1], rtol=1e-12)
    change = over_training(pd.DataFrame(rows), "LB")
    assert change.value == pytest.approx(0.9 / 0.01) and change.n == 1


def test_slopes_change_where_they_are_planted_to() -> None:
    sizes = np.array([16, 32, 64, 128, 256, 512])
    phi = np.where(sizes <= 64, sizes / 16.0, 4.0 * (sizes / 64) ** 0.25)
    rows = pd.DataFrame({"seed": 0, "batch_size": sizes, "phi": phi})
    (change,) = slope_changes(rows, 64.0)
    assert change == pytest.approx(-0.75)
    assert np.isnan(slope_changes(rows, 500.0)[0])  # one size beyond


def test_slices_rise_from_their_solution() -> None:
    rows = pd.DataFrame({"distance": [-1.0, 0.0, 1.0], "train_loss": [3.0, 2.0, 1.0], "test_loss": [0.0, 1.0, 2.0]})
    table = from_solution(rows.assign(network="F1", seed=0, role="SB", length=4.0))
    assert list(table["share"]) == [-0.25, 0.0, 0.25] and list(table["rise"]) == [1.0, 0.0, -1.0]
