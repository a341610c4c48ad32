"""Intervals over a random choice, of examples or of drawn targets, and what is said where examples are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.loss import Loss
from sharpness.probes import PROBES
from sharpness.probes.density import SpectralDensity
from sharpness.probes.eigenvalues import TopEigenvalues
from sharpness.probes.fisher_trace import FisherTrace
from sharpness.probes.layers import LayerEigenvalues
from sharpness.probes.methods.random_parts import error_of_trace, mean_over_examples, spread_over
from sharpness.probes.norms import WeightNorms
from sharpness.probes.preconditioned_sharpness import PreconditionedSharpness
from sharpness.probes.trace import Trace
from sharpness.records import ProbeRecord
from tests.matrices import operator_of
from tests.probe_cases import small_network


def linear(x: Tensor, **options: Any) -> Loss:
    """The squared error of a linear layer without bias: its Hessian is 2 x^T x / N whatever the targets."""
    model = nn.Linear(x.shape[1], 1, bias=False)
    batches = list(zip(x.split(60), torch.zeros(len(x), 1).split(60), strict=True))
    return Loss(model, F.mse_loss, batches, dtype=torch.float64, **options)


def drawn(seed: int, number: int, size: int = 20) -> Tensor:
    """Normal examples of covariance diag(2, 1, ..., 1): the Hessian of all there are has 4 at the top, 2 below."""
    x = torch.randn(number, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[:, 0] *= 2**0.5
    return x


COUNTS = [5, pytest.param(200, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("which", "truth"), [("top", 4.0), ("bottom", 2.0)])
def test_the_interval_over_examples_covers_where_the_certificate_does_not(which: Any, truth: float, count: int) -> None:
    covered, certified = 0, 0
    for seed in range(count):
        result = TopEigenvalues(which=which, seed=seed)(linear(drawn(seed, 100)), sampled=True)
        assert result.sampling is not None and result.lower is not None and result.upper is not None
        covered += result.sampling["lower"] <= truth <= result.sampling["upper"]
        certified += result.lower <= truth <= result.upper
    assert covered >= int(stats.binom.ppf(0.001, count, 0.95))
    assert (
        certified <= 0.1 * count
    )  # it is about the 100 examples: the largest of 20 eigenvalues is then too large on average


@pytest.mark.parametrize("count", COUNTS)
def test_the_interval_of_a_trace_over_examples_covers(count: int) -> None:
    covered = certified = 0
    for seed in range(count):
        result = Trace(seed=seed)(linear(drawn(seed, 100)), sampled=True)
        assert result.sampling is not None and result.lower is not None and result.upper is not None
        covered += result.sampling["lower"] <= 2 * 21 <= result.sampling["upper"]
        certified += result.lower <= 42 <= result.upper
    assert covered >= int(stats.binom.ppf(0.001, count, 0.95)) and certified <= 0.5 * count


@pytest.mark.dear
@pytest.mark.parametrize("count", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_the_interval_of_a_trace_covers_where_examples_differ_in_one_direction(count: int) -> None:
    covered = 0
    for seed in range(count):
        sizes = 2 * torch.rand(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        result = Trace(seed=seed)(linear(sizes.expand(64, 50)), sampled=True)
        assert result.sampling is not None
        covered += result.sampling["lower"] <= 2 * 50 * 4 / 3 <= result.sampling["upper"]
    assert covered >= int(stats.binom.ppf(0.001, count, 0.95))


@pytest.mark.dear
@pytest.mark.parametrize("count", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_the_interval_of_a_trace_over_draws_covers_where_they_differ_in_one_direction(count: int) -> None:
    x = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).expand(8, 20)
    truth, covered = 2 * float(x.square().sum(1).mean()), 0
    for seed in range(count):
        result = Trace(matrix="fisher", draws=16, seed=seed)(linear(x))
        assert result.lower is not None and result.upper is not None
        covered += result.lower <= truth <= result.upper
    assert covered >= int(stats.binom.ppf(0.001, count, 0.95))


SIZE = 30
ONES, HALVES = torch.ones(SIZE, dtype=torch.float64), torch.tensor([1.0, -0.8] * (SIZE // 2), dtype=torch.float64)
DIRECTION, EVERY = torch.outer(ONES, ONES) / SIZE, torch.eye(SIZE, dtype=torch.float64) / SIZE
TWO_SIGNS = 2 * torch.outer(HALVES, HALVES) / HALVES.square().sum() - DIRECTION


@pytest.mark.parametrize(
    ("mean", "step", "number"),
    [
        (10 * DIRECTION, DIRECTION, 16),  # one direction, which random vectors see by the square of one number
        (10 * EVERY, DIRECTION, 16),
        (10 * EVERY, EVERY, 16),
        (10 * EVERY, TWO_SIGNS, 16),
        (10 * DIRECTION, DIRECTION, 5),
    ],
)
def test_the_error_of_a_trace_over_parts_covers_whatever_they_differ_in(
    mean: Tensor, step: Tensor, number: int
) -> None:
    count, covered = 150, 0
    for seed in range(count):
        steps = np.random.default_rng(seed).standard_normal(number)  # of the traces, because step has the trace 1
        parts = [operator_of(mean + size * step) for size in steps]
        error, freedom, cost = error_of_trace(parts, np.ones(number), seed)
        assert freedom == number // 2 and 128 <= cost < 128 + number
        covered += abs(steps.mean()) <= stats.t.ppf(0.975, freedom) * error
    assert covered >= int(stats.binom.ppf(0.001, count, 0.94))


@pytest.mark.parametrize("count", COUNTS)
def test_the_interval_of_a_density_over_examples_covers_its_trace(count: int) -> None:
    covered = 0
    for seed in range(count):
        result = SpectralDensity(steps=20, starts=2, seed=seed)(linear(drawn(seed, 100)), sampled=True)
        assert result.sampling is not None and result.num_hvps == 2 * 20 + result.sampling["num_hvps"]
        covered += result.sampling["lower"] <= 42 <= result.sampling["upper"]
    assert covered >= int(stats.binom.ppf(0.001, count, 0.95))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("which", "truth"), [("top", (4.0, 8.0)), ("bottom", (2.0, 2.0))])
@pytest.mark.dear
def test_intervals_of_layers_over_examples_cover_together(which: Any, truth: tuple[float, float], count: int) -> None:
    # Twins that see x and x with a coordinate twice as large: Hessian blocks of top eigenvalues 4 and 8, bottom 2.
    covered = 0
    for seed in range(count):
        result = LayerEigenvalues(k=1, which=which, seed=seed)(Loss(Twins(), *twin_data(seed)), sampled=True)
        layers = [layer.sampling for layer in result.layers.values()]
        ends = [(each["lower"], each["upper"]) for each in layers if each is not None]
        assert len(ends) == 2 and result.sampling is not None
        together = all(low <= at <= high for (low, high), at in zip(ends, truth, strict=True))
        assert all(each is not None and each["confidence"] == pytest.approx(0.975) for each in layers)
        extreme = max if which == "top" else min
        whole = (result.sampling["lower"], result.sampling["upper"])
        assert whole == tuple(extreme(bounds) for bounds in zip(*ends, strict=True))
        covered += together
    assert covered >= int(stats.binom.ppf(0.001, count, 0.95))
    record = LayerEigenvalues(which="both")(small_network(), sampled=True).to_record()
    assert record.sampling is None and "too few" in record.reasons["sampling"]


class Twins(nn.Module):
    """Two linear layers without bias, whose outputs stand side by side: the Hessian has a block for each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 1, bias=False), nn.Linear(10, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x[:, :10]), self.second(x[:, 10:])], 1)


def twin_data(seed: int) -> tuple[Any, Any]:
    """The sum of both outputs' squared errors over 100 examples, of which the second half has a wider coordinate."""
    x = drawn(seed, 100)
    x[:, 10] *= 2
    batches = list(zip(x.split(60), torch.zeros(100, 2).split(60), strict=True))
    return lambda output, y: 2 * F.mse_loss(output.double(), y.double()), batches


@pytest.mark.parametrize("count", COUNTS)
def test_the_interval_of_a_fisher_trace_over_examples_covers(count: int) -> None:
    # g = 2 (w x) x with w the second unit vector: E |g|^2 = 4 (3 + 20), variances 2, 1, ..., 1 and kurtosis 3.
    w = F.one_hot(torch.tensor(1), 20).double()
    covered = 0
    for seed in range(count):
        result = FisherTrace(matrix="empirical_fisher")(linear(drawn(seed, 400)), w, sampled=True)
        assert result.sampling is not None and result.sampling["num_parts"] == 400
        covered += result.sampling["lower"] <= 92.0 <= result.sampling["upper"]
    assert covered >= int(stats.binom.ppf(0.001, count, 0.93))  # the mean of 400 heavy tails is not quite normal


def test_an_exact_mean_has_students_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = mean_over_examples(4.0, values / 4)
    low, high = stats.t.interval(0.95, 3, 4.0, stats.sem(values))
    assert (found["lower"], found["upper"]) == (pytest.approx(low), pytest.approx(high))


def test_a_preconditioner_of_equal_numbers_divides_the_interval_over_examples() -> None:
    loss = linear(drawn(0, 100))
    plain = TopEigenvalues()(loss, sampled=True).sampling
    p = torch.full((20,), 4.0, dtype=torch.float64)
    found = PreconditionedSharpness()(loss, preconditioner=p, sampled=True).sampling
    assert plain is not None and found is not None and found["num_parts"] == plain["num_parts"]
    for name in ("lower", "upper", "held_out", "standard_error"):
        assert found[name] == pytest.approx(plain[name] / 4, rel=1e-2)
    record = PreconditionedSharpness()(small_network(), sampled=True).to_record()
    assert record.sampling is None and "too few" in record.reasons["sampling"]


def test_parts_make_the_interval_by_hand() -> None:
    # Four parts with weights: forms of the vector of the other half inside, of the whole outside.
    random = np.random.default_rng(0)
    parts = [torch.from_numpy(x @ x.T) for x in random.standard_normal((4, 3, 3))]
    weights, u = np.array([0.5, 1.5, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    found = spread_over(
        [operator_of(part) for part in parts], weights, lambda half: (u, 3), u, 9.0, sign=1.0, confidence=0.9
    )
    forms = np.array([float(part[0, 0]) for part in parts])
    means = [np.average(forms[half], weights=weights[half]) for half in (slice(0, 2), slice(2, 4))]
    residuals = weights * (forms - np.repeat(means, 2))
    error = np.sqrt((residuals**2).sum() / (4 * 2))
    assert found.held_out == pytest.approx(np.mean(means)) and found.held_out_standard_error == pytest.approx(error)
    assert found.lower == pytest.approx(np.mean(means) - stats.t.ppf(0.95, 2) * error)
    around = weights * (forms - np.average(forms, weights=weights))
    assert found.upper == pytest.approx(9 + stats.t.ppf(0.95, 3) * np.sqrt((around**2).sum() / (4 * 3)))
    assert found.num_hvps == 4 + 4 + 2 * 3


def test_the_interval_of_drawn_targets_covers_the_exact_matrix() -> None:
    # 8 examples and 64 outputs: one draw has rank 8, and its largest eigenvalue is some 20 times too large.
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 5, generator=random), torch.randn(8, 64, generator=random)
    loss = Loss(nn.Linear(5, 64), F.mse_loss, [(x, y)])
    inputs = torch.cat([x, torch.ones(8, 1)], 1).double()
    truth = float(2 / (8 * 64) * torch.linalg.eigvalsh(inputs.T @ inputs)[-1])
    exact = TopEigenvalues(matrix="fisher", rtol=1e-3)(loss)
    assert exact.value == pytest.approx(truth, rel=1e-3) and exact.to_record().details["targets"] == "closed form"
    for draws in (4, 30):
        result = TopEigenvalues(matrix="fisher", draws=draws)(loss)
        assert result.lower is not None and result.upper is not None and result.value is not None
        assert result.lower <= truth <= result.upper and result.value > 3 * truth
        assert not result.converged and "raise draws" in result.to_record().reasons["converged"]
        assert result.to_record().details["targets"] == f"{draws} draws"
    one = TopEigenvalues(matrix="fisher", draws=1)(loss).to_record()
    assert any("1 draws of the targets" in warning for warning in one.details["warnings"])
    trace = Trace(matrix="fisher", draws=20)(loss)
    assert trace.lower is not None and trace.upper is not None
    assert trace.lower <= 2 / 8 * float((inputs**2).sum()) <= trace.upper and trace.confidence == 0.95


@pytest.mark.parametrize(
    ("options", "loss", "word"),
    [
        ({}, small_network("norm, batch statistics"), "batches as they are"),
        ({}, small_network("mlp, summed squares"), "sums"),
        ({}, small_network(), "too few"),
        ({"which": "magnitude"}, linear(drawn(0, 40)), "either end"),
        ({"basis_free": True}, linear(drawn(0, 40)), "eigenvector"),
    ],
)
def test_where_there_is_no_interval_over_examples_the_record_says_why(
    options: dict[str, Any], loss: Loss, word: str
) -> None:
    record = TopEigenvalues(**options)(loss, sampled=True).to_record()
    assert record.sampling is None and word in record.reasons["sampling"]
    assert "asked for" in TopEigenvalues(**options)(loss).to_record().reasons["sampling"]


def test_few_examples_are_warned_of_and_many_are_not() -> None:
    few, many = linear(drawn(0, 128)), linear(drawn(0, 3000, size=2))
    (warning,) = TopEigenvalues()(few).to_record().details["warnings"]
    assert "128 examples are few" in warning
    for probe in (TopEigenvalues(), Trace()):
        assert "warnings" not in probe(many).to_record().details
    assert "warnings" in PROBES["sam"].probe()(few).to_record().details
    assert "warnings" not in WeightNorms()(few).to_record().details  # no example is looked at
    record = TopEigenvalues()(few, sampled=True).to_record()
    assert ProbeRecord.from_dict(record.to_dict()).sampling == record.sampling
