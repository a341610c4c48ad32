"""Planted grids of runs: is the granulated tau the one of the paper, and does it say what it left out?"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from analysis.statistics.granulated import granulated_tau, psi_interval, tau_b
from analysis.statistics.rank_correlation import kendall_tau
from sharpness.errors import InputError

HYPERS = ("lr", "batch", "width")


def grid(levels: int = 3, hypers: tuple[str, ...] = HYPERS, seeds: int = 1) -> pd.DataFrame:
    rows = product(*[range(levels)] * len(hypers), range(seeds))
    return pd.DataFrame(rows, columns=pd.Index([*hypers, "seed"]))


def test_a_hand_computed_table() -> None:
    runs = pd.DataFrame(
        {
            "lr": [1, 2, 3, 1, 2, 3],
            "aug": [False, False, False, True, True, True],
            "m": [1.0, 2.0, 3.0, 2.0, 5.0, 3.0],
            "gap": [1.0, 3.0, 2.0, 0.0, 1.0, 2.0],
        }
    )
    found = granulated_tau(runs, "m", "gap", ["lr", "aug"])
    # lr: both groups have two pairs in agreement and one against, (2 - 1) / 3. aug: m rises in the first two and stays
    # in the third, which has no tau; gap falls in both of them.
    assert found.by_hyper["lr"].value == pytest.approx(1 / 3) and found.by_hyper["lr"].n == 2
    assert found.by_hyper["aug"].value == -1 and found.by_hyper["aug"].n == 2
    assert found.constant == {"lr": 0, "aug": 1}
    assert found.mean.value == pytest.approx((1 / 3 - 1) / 2) and found.mean.n == 2
    assert found.overall == kendall_tau(runs["m"], runs["gap"]) and found.left_out == 0


def test_a_measure_that_follows_one_hyper_parameter_only() -> None:
    runs = grid(levels=2)
    runs["gap"] = 4 * runs["lr"] + 2 * runs["batch"] + runs["width"]
    # Up with batch in half of the groups and down in the others, the same for width: no relation on average.
    runs["m"] = 10.0 * runs["lr"] + runs["batch"] * (1 - 2 * runs["width"]) + 0.1 * runs["width"] * (1 - 2 * runs["lr"])
    psi = granulated_tau(runs, "m", "gap", HYPERS).by_hyper
    assert psi["lr"].value == 1
    assert psi["batch"].value == 0
    assert psi["lr"].upper == 1 and psi["lr"].lower == pytest.approx(2 * 0.025 ** (1 / 4) - 1, abs=0.03)
    assert psi["batch"].lower == -1 and psi["batch"].upper == 1  # 4 groups, two of them against the others
    noise = grid(levels=4)
    noise["gap"] = 100 * noise["lr"] + np.random.default_rng(0).permutation(len(noise))
    noise["m"] = 1000 * noise["lr"] + np.random.default_rng(1).permutation(len(noise))
    found = granulated_tau(noise, "m", "gap", HYPERS)
    assert found.by_hyper["lr"].value == 1
    for name in ("batch", "width"):
        interval = found.by_hyper[name]
        assert interval.lower is not None and interval.upper is not None
        assert interval.lower < 0 < interval.upper
    assert found.mean.value == pytest.approx(sum(psi.value or 0 for psi in found.by_hyper.values()) / 3)


def test_a_measure_blind_to_a_hyper_parameter_has_no_psi_for_it() -> None:
    runs = grid()
    runs["gap"] = 9 * runs["lr"] + 3 * runs["batch"] + runs["width"]
    runs["m"] = runs["lr"]
    found = granulated_tau(runs, "m", "gap", HYPERS)
    assert found.constant == {"lr": 0, "batch": 9, "width": 9}
    assert found.by_hyper["batch"].value is None
    assert found.by_hyper["batch"].reason == "one series is constant in every group"
    assert found.mean.value == 1 and found.mean.n == 1
    assert found.mean.reason == "without batch, width: no psi"
    blind = granulated_tau(runs.assign(m=1.0), "m", "gap", HYPERS)
    assert blind.mean.value is None and blind.mean.reason == "no hyper-parameter has a psi"
    assert blind.overall.reason == "one series is constant"


def test_monotone_maps_change_nothing_and_falling_ones_the_sign() -> None:
    runs = grid()
    rng = np.random.default_rng(0)
    runs["m"], runs["gap"] = rng.uniform(1, 9, len(runs)), rng.standard_normal(len(runs))
    plain = granulated_tau(runs, "m", "gap", HYPERS)
    assert granulated_tau(runs.assign(m=np.exp(runs["m"]) - 5), "m", "gap", HYPERS) == plain
    assert granulated_tau(runs.assign(gap=runs["gap"] ** 3), "m", "gap", HYPERS) == plain
    assert granulated_tau(runs.sample(frac=1, random_state=0), "m", "gap", HYPERS).mean.value == pytest.approx(
        plain.mean.value
    )
    falling = granulated_tau(runs.assign(m=1 / runs["m"]), "m", "gap", HYPERS)
    assert falling.mean.value == pytest.approx(-(plain.mean.value or 0))


def test_seeds_are_averaged_or_varied() -> None:
    runs = grid(levels=2, hypers=("lr", "batch"), seeds=3)
    rng = np.random.default_rng(0)
    runs["m"] = runs["lr"] + 0.01 * rng.standard_normal(len(runs))
    runs["gap"] = runs["lr"] + 0.01 * rng.standard_normal(len(runs))
    means = pd.DataFrame(runs.groupby(["lr", "batch"])[["m", "gap"]].mean()).reset_index()
    averaged = granulated_tau(runs, "m", "gap", ["lr", "batch"], average=["seed"])
    assert averaged == granulated_tau(means, "m", "gap", ["lr", "batch"])
    assert averaged.by_hyper["lr"].n == 2
    varied = granulated_tau(runs, "m", "gap", ["lr", "batch", "seed"])
    assert varied.by_hyper["lr"].n == 2 * 3 and varied.by_hyper["seed"].n == 4
    assert varied.overall.n == 12
    with pytest.raises(InputError, match=r"expected one run per setting of \['lr', 'batch'\], got 8 more: name what"):
        granulated_tau(runs, "m", "gap", ["lr", "batch"])
    with pytest.raises(InputError, match=r"got none for \['depth'\]"):
        granulated_tau(runs, "m", "gap", ["lr", "depth"])


def test_diverged_runs_are_left_out_and_counted() -> None:
    runs = grid().astype({"lr": object})
    runs.loc[runs["lr"] == 0, "lr"] = None  # a setting without a value is a setting too
    runs["m"] = runs["gap"] = np.arange(27.0)
    runs.loc[0, "m"] = np.nan
    runs.loc[[13, 14], "gap"] = np.inf
    found = granulated_tau(runs, "m", "gap", HYPERS)
    assert found.left_out == 3 and found.overall.n == 24
    # Run 12 alone is left of its group along width; of the others at least two are.
    assert found.constant == {"lr": 0, "batch": 0, "width": 1}
    assert {psi.value for psi in found.by_hyper.values()} == {1.0}
    averaged = granulated_tau(runs, "m", "gap", ["lr", "batch"], average=["width"])
    assert averaged.left_out == 3 and averaged.overall.n == 9


def test_one_group_has_no_interval_and_psi_then_neither() -> None:
    runs = pd.DataFrame({"lr": [1, 2, 3, 4], "m": [1, 2, 4, 3], "gap": [1, 2, 3, 4]})
    found = granulated_tau(runs, "m", "gap", ["lr"])
    assert found.by_hyper["lr"].value == pytest.approx(2 / 3)
    assert found.by_hyper["lr"].reason == "an interval needs at least 2 groups"
    assert found.mean.value == pytest.approx(2 / 3) and found.mean.reason == "a psi has no interval"


def test_tau_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, y = rng.integers(4, size=6).astype(float), rng.integers(4, size=6).astype(float)
        expected: Any = kendalltau(x, y)
        assert tau_b(x, y) == pytest.approx(float(expected.statistic), nan_ok=True)
    assert np.isnan(tau_b(np.ones(1), np.ones(1)))


@pytest.mark.parametrize("num_groups", [5, 20])
def test_psi_covers_the_truth_of_groups_that_differ(num_groups: int) -> None:
    """Groups of two runs that agree with probability 0.8, so that psi is 0.6 in the mean over all grids."""
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        taus = np.where(rng.random(num_groups) < 0.8, 1.0, -1.0)
        psi, _ = psi_interval(taus, rng)
        assert psi.lower is not None and psi.upper is not None
        assert -1 <= psi.lower <= np.mean(taus) <= psi.upper <= 1
        covered.append(psi.lower <= 0.6 <= psi.upper)
    assert 0.85 <= np.mean(covered) <= 1


def test_thousands_of_runs_fit_in_memory() -> None:
    rng = np.random.default_rng(0)
    runs = grid(levels=3, hypers=("a", "b", "c", "d", "e", "f"))
    runs["m"], runs["gap"] = rng.standard_normal((2, len(runs)))
    found = granulated_tau(runs, "m", "gap", ["a", "b", "c", "d", "e", "f"])
    assert found.overall.n == 729 and found.mean.n == 6
