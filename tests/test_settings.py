"""One number over several settings covers the mean over settings like them, and says what it lacks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import bisect
from scipy.stats import t

from analysis.statistics.intervals import Interval, p_value, paired_ratio, student
from analysis.statistics.resampling import Floats
from analysis.statistics.settings import over_settings

UNEQUAL = (0.3, 1.0, 3.0, 0.3, 1.0)
"""Standard deviations of the pairs of five settings."""


def studies(between: float, noise: tuple[float, ...], n: int, num: int) -> Floats:
    """Return pairs (studies, settings, pairs) about a mean of 0 that differs by setting."""
    rng, shape = np.random.default_rng(0), (num, len(noise))
    return between * rng.normal(size=(*shape, 1)) + rng.normal(size=(*shape, n)) * np.array(noise)[:, None]


def covered(pairs: Floats) -> float:
    hits = 0
    for study in pairs:
        found = over_settings({str(i): student(each) for i, each in enumerate(study)})
        assert found.lower is not None and found.upper is not None
        hits += found.lower <= 0 <= found.upper
    return hits / len(pairs)


@pytest.mark.parametrize("n", [3, 12])
@pytest.mark.parametrize("between", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("noise", [(1.0,) * 5, UNEQUAL, UNEQUAL[:3]])
def test_the_mean_over_settings_is_covered(noise: tuple[float, ...], between: float, n: int) -> None:
    assert covered(studies(between, noise, n, 400)) >= 0.95 - 0.033  # three standard errors of 400


def hartung_knapp(means: Floats, errors: Floats) -> tuple[float, float]:
    """Return mean and half width with weights by precision: variance between by Paule & Mandel, t of k - 1."""
    k = len(means)

    def excess(between: float) -> float:
        weights = 1 / (errors**2 + between)
        return float(np.sum(weights * (means - np.sum(weights * means) / np.sum(weights)) ** 2)) - (k - 1)

    between = 0.0 if excess(0.0) <= 0 else float(bisect(excess, 0.0, 1e4))  # pyright: ignore[reportArgumentType]
    weights = 1 / (errors**2 + between)
    return float(np.sum(weights * means) / np.sum(weights)), float(t.ppf(0.975, k - 1) / np.sqrt(np.sum(weights)))


def test_weights_told_from_few_pairs_cover_less() -> None:
    """The choice that the docstring of ``over_settings`` speaks of, in the setting that it does worst in."""
    pairs = studies(0.3, UNEQUAL, 5, 1000)
    both = [hartung_knapp(each.mean(1), each.std(1, ddof=1) / np.sqrt(5)) for each in pairs]
    weighted = np.mean([abs(mean) <= half for mean, half in both])
    assert weighted < 0.93 and covered(pairs) > 0.94


def test_pairs_of_all_settings_in_one_heap_cover_less() -> None:
    pairs = studies(1.0, (1.0,) * 5, 8, 400)
    heap = [student(each.ravel()) for each in pairs]
    assert np.mean([(one.lower or 0) <= 0 <= (one.upper or 0) for one in heap]) < 0.75


def test_ratios_are_averaged_as_logarithms_and_two_settings_are_not_at_all() -> None:
    rng = np.random.default_rng(1)
    ratios = {name: paired_ratio(np.ones(4), rng.lognormal(ord(name), 0.1, 4)) for name in "ABC"}
    found = over_settings(ratios, log=True)
    assert found.value == pytest.approx(np.exp(np.mean([np.log(each.value or 0) for each in ratios.values()])))
    assert found.n == 3 and found.free == 2
    assert found.lower is not None and p_value(found, found.lower, log=True) == pytest.approx(0.05)
    first = {name: ratios[name] for name in "AB"}
    assert over_settings(first, log=True) == ratios["A"]
    assert over_settings({}).reason == "no setting was tested"


def test_a_setting_without_an_interval_is_named() -> None:
    known = Interval(1.0, 0.5, 2.0, 5)
    found = over_settings({"A": known, "B": Interval(None, None, None, 0, "no run finished"), "C": known})
    assert found.value is None and found.reason == "B: no run finished"
