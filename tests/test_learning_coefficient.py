"""The local learning coefficient against closed forms: Gaussian targets, the step's bias, a degenerate minimum."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.linalg.density import spectral_density
from sharpness.linalg.operators import FunctionOperator
from sharpness.probes.learning_coefficient import LearningCoefficient
from sharpness.probes.methods.langevin import Tempered, langevin_losses, split_r_hat
from sharpness.probes.methods.spectral_sums import spectral_sum
from tests.probe_cases import noisy_quadratic, quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
W = torch.zeros(5, dtype=torch.float64)


def losses_of(function: object, n: int, target: Tempered, step: float, num_steps: int, seed: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_steps, n, generator=generator, dtype=torch.float64)
    centre = torch.zeros(n, dtype=torch.float64)
    return langevin_losses(function, centre, target, step, num_steps, lambda t: noise[t])[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.2, 2.0])
def test_chains_on_a_quadratic_have_the_stationary_law_of_their_step(share: float) -> None:
    # One chain of 200 independent copies of each direction: at step = share / a_max the bias is large and known.
    h, target = H[:4].repeat(200), Tempered(nbeta=50.0, localization=5.0)
    step = share / (50.0 * 4.0 + 5.0)

    def value_and_grad(w: Tensor, t: int) -> tuple[float, Tensor]:
        return 0.5 * float(h @ w**2), h * w

    rises = losses_of(value_and_grad, len(h), target, step, 1200)[400:]
    exact = 200 * float(target.gaussian(H[:4].numpy(), step).sum())
    assert 50.0 * rises.mean() == pytest.approx(exact, rel=0.02)
    unbiased = 200 * float(target.gaussian(H[:4].numpy()).sum())
    assert (abs(exact / unbiased - 1) < 0.05) is (share == 0.2)


def test_a_degenerate_minimum_counts_less_than_a_regular_one() -> None:
    # L = w^4: exactly 1/4 for each direction at any temperature, against 1/2 for a regular one.
    def quartic(w: Tensor, t: int) -> tuple[float, Tensor]:
        return float((w**4).sum()), 4 * w**3

    rises = losses_of(quartic, 400, Tempered(nbeta=20.0, localization=0.0), 0.002, 6000)[2000:]
    assert 20.0 * rises.mean() / 400 == pytest.approx(0.25, rel=0.04)


def test_the_probe_agrees_with_its_own_gaussian_check() -> None:
    # Four independent copies of each direction: a draw tells as much as four of one copy.
    probe = LearningCoefficient(nbeta=50.0, localization=50.0, burn_in=100, num_draws=200)
    result = probe(quadratic(H.repeat(4), W.repeat(4), offset=2.0))
    exact = 4 * float(Tempered(50.0, 50.0).gaussian(H.numpy()).sum())
    assert result.gaussian is not None and result.gaussian_at_step is not None and result.value is not None
    assert result.gaussian.lower is not None
    assert result.gaussian.lower - 1e-9 <= exact <= result.gaussian.upper + 1e-9
    assert result.largest_eigenvalue == pytest.approx(4.0) and result.step == pytest.approx(0.2 / 250)
    assert result.value == pytest.approx(exact, rel=0.25)
    assert result.lower is not None and result.upper is not None and result.lower < result.value < result.upper
    assert result.r_hat is not None and result.converged == (result.r_hat < 1.1)
    assert result.num_gradients == 4 * 300 and len(result.chains) == 4
    assert result.value == pytest.approx(np.mean(result.chains))
    assert 50.0 * (result.trace_of_losses[100:].mean() - 2.0) == pytest.approx(result.value)


def test_chains_that_have_not_left_the_minimum_have_no_interval() -> None:
    # Forty directions are 900 times as flat as ten: the chains agree, each short of the coefficient by as much.
    h, w = torch.tensor([900.0, 1.0, 1.0, 1.0, 1.0]).double().repeat(10), torch.zeros(50, dtype=torch.float64)
    exact = float(Tempered(263.0, 100.0).gaussian(h.numpy()).sum())
    result = LearningCoefficient(nbeta=263.0)(quadratic(h, w))
    assert result.r_hat is not None and result.r_hat < 1.1
    assert result.value is not None and max(result.chains) < 0.5 * exact
    assert result.converged is False and result.lower is result.upper is result.confidence is None
    assert result.relaxed == pytest.approx(1 - math.exp(-200 * result.step * 363), abs=1e-3)
    assert result.reasons["lower"] == result.reasons["converged"] and "in [" not in str(result)
    assert result.to_record().to_dict()["reasons"]["upper"] == result.reasons["upper"]


def test_the_burn_in_that_a_reason_names_is_enough() -> None:
    h, w = torch.tensor([20.0, 1.0, 1.0, 1.0, 1.0]).double().repeat(10), torch.zeros(50, dtype=torch.float64)
    probe = LearningCoefficient(nbeta=100.0, localization=10.0, burn_in=100)
    short = probe(quadratic(h, w))
    needed = int(short.reasons["upper"].rpartition(" ")[2])
    assert needed == pytest.approx(3 / (short.step * 110), rel=0.01)
    result = replace(probe, burn_in=needed)(quadratic(h, w))
    assert short.lower is None and result.relaxed >= 0.95 and result.lower is not None and result.upper is not None
    assert result.lower <= float(Tempered(100.0, 10.0).gaussian(h.numpy()).sum()) <= result.upper


@pytest.mark.parametrize("burn_in", [15, 40])
def test_the_interval_holds_the_bias_of_the_step_and_of_the_start(burn_in: int) -> None:
    # Of 4000 equal directions the mean is sharp: the step makes it 1 / 0.95 of what it is, the start a little less.
    loss = quadratic(torch.ones(4000, dtype=torch.float64), torch.zeros(4000, dtype=torch.float64))
    exact = 2000 * 100 / 101
    result = LearningCoefficient(nbeta=100.0, localization=1.0, burn_in=burn_in, num_draws=8)(loss)
    assert result.lower is not None and result.upper is not None and min(result.chains) > exact
    assert result.lower <= exact <= result.upper and result.upper - result.lower < 0.2 * exact


@pytest.mark.parametrize(
    ("knobs", "why"),
    [({"step": 0.5}, "steps of 0.5 are too large for a curvature of 10"),
     ({"localization": 0.0, "step": 0.1}, "nothing holds chains along a curvature of 0: raise localization above 0")],
)  # fmt: skip
def test_knobs_with_which_no_burn_in_is_enough_are_named(knobs: dict[str, float], why: str) -> None:
    h = torch.tensor([10.0, 0.0], dtype=torch.float64)
    probe = LearningCoefficient(nbeta=1.0, **{"localization": 1.0, "burn_in": 10, "num_draws": 4, **knobs})  # type: ignore[arg-type]
    result = probe(quadratic(h, torch.zeros(2, dtype=torch.float64)))
    assert result.lower is None and result.reasons["converged"].startswith(why)


def test_random_batches_are_compared_with_the_same_batch_at_the_centre() -> None:
    # With a tiny step the chain stays at w*: without the comparison the spread of the batch losses would be the answer.
    centres = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = noisy_quadratic(H, centres.mean(0), centres, 3)
    probe = LearningCoefficient(batch_size=2, step=1e-14, num_draws=20, burn_in=0)
    result = probe(loss)
    assert result.value is not None and abs(result.value) < 1e-4 and result.num_forwards == 1 + 4 * 20
    whole = LearningCoefficient(batch_size=8, step=1e-14, num_draws=20, burn_in=0)(loss)
    assert whole.num_forwards == 1 and whole.target.nbeta == pytest.approx(8 / math.log(8))


def test_a_point_that_is_no_minimum_has_a_negative_coefficient() -> None:
    result = LearningCoefficient(nbeta=1.0, localization=0.1, burn_in=50, num_draws=50, step=0.1)(quadratic(-H, W + 3))
    assert result.value is not None and result.value < 0
    assert result.converged is False and result.lower is None and result.relaxed == 0
    assert result.reasons["lower"] == "nothing holds chains along a curvature of -4: raise localization above 4"
    assert result.gaussian is None  # exp(nbeta h w^2 / 2) has no finite integral


def test_a_chain_that_diverges_has_no_value_but_a_reason() -> None:
    result = LearningCoefficient(nbeta=50.0, step=1.0, num_draws=300)(quadratic(H, W + 1))
    assert result.value is None and "diverged" in result.reasons["value"] and result.gaussian_at_step is None
    assert result.to_record().to_dict()["lower"] is None and "none: chain 0 diverged" in str(result)


def test_the_seed_decides() -> None:
    loss = small_network()
    values = [LearningCoefficient(num_draws=5, burn_in=2, batch_size=3, seed=seed)(loss).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"num_chains": 1}, "num_chains"), ({"num_draws": 3}, "num_draws"), ({"burn_in": -1}, "burn_in"),
     ({"nbeta": 0.0}, "nbeta"), ({"nbeta": None}, "2 examples"), ({"localization": -1.0}, "localization"),
     ({"step": 0.0}, "step"), ({"confidence": 2.0}, "confidence"), ({"batch_size": 2}, "from 1 to 1")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LearningCoefficient(**{"nbeta": 1.0, "burn_in": 0, "num_draws": 4, **knobs})(quadratic(H, W))  # type: ignore[arg-type]


def test_an_infinite_loss_is_an_error() -> None:
    with pytest.raises(RunError, match="finite loss"):
        LearningCoefficient(nbeta=1.0)(quadratic(H, W + 1e200))


def test_r_hat_sees_chains_that_disagree_or_drift() -> None:
    random = np.random.default_rng(0).standard_normal((4, 500))
    assert split_r_hat(random) < 1.02
    assert split_r_hat(random + np.arange(4)[:, None]) > 1.2
    assert split_r_hat(random + np.linspace(0, 3, 500)) > 1.2
    assert split_r_hat(np.repeat([[1.0], [2.0]], 4, axis=1)) == math.inf


def test_spectral_sums_are_exact_for_full_quadratures_and_cover_otherwise() -> None:
    eigenvalues = torch.linspace(0.1, 3, 300, dtype=torch.float64)
    operator = FunctionOperator(lambda v: eigenvalues * v, 300, torch.float64)
    exact, held = float(eigenvalues.log().sum()), 0
    for seed in range(40):
        total = spectral_sum(spectral_density(operator, steps=25, starts=3, seed=seed), np.log, 0.9, 0.1)
        held += total.lower is not None and total.lower <= exact <= total.upper
    assert held >= 0.9 * 40 - 3 * math.sqrt(40 * 0.09)
