"""SGD and its equation side by side: against torch.optim.SGD, enumerated batches, and closed forms."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpness.data import load_dataset
from sharpness.errors import InputError
from tests.study_cases import script

walks: Any = script("measures.descent_and_diffusion")
cells: Any = script("measures.cells")
networks: Any = script("measures.smith_le2018_networks")
equation: Any = script("measures.smith_le2018_equation")
ridge: Any = script("measures.sgd_stability")


def place() -> Any:
    config = Namespace(data=Namespace(name="fashion_mnist_10k"))
    return Namespace(config=config, data_dir=None, device=torch.device("cpu"), progress=lambda done, total: None)


def linear(n: int = 5, d: int = 2) -> tuple[Any, Tensor]:
    """Least squares of one copy, and the gradients of its examples at the weights 0, shape (n, d)."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((n, d), (1, n)))
    problem = walks.Problem(lambda w, a, b: (torch.bmm(a, w[0][..., None])[..., 0] - b) ** 2 / 2, x, y)
    return problem, -y[0][:, None] * x


def test_sgd_with_momentum_is_that_of_torch_on_the_same_batches() -> None:
    """Two copies with their own labels, against two networks trained alone by torch.optim.SGD."""
    seeds, batch, steps = [3, 4], 7, 6
    problem = networks.problem_of(place(), 20, 4, 0.5, seeds)
    start = networks.first_weights(place(), 4, 5, seeds)
    generator = torch.Generator().manual_seed(9)
    rows = [torch.rand(2, 20, generator=generator).topk(batch, dim=1).indices for _ in range(steps)]
    *_, weights = walks.descent(problem, start, batch, 0.1, steps, 9, momentum=0.9)
    for copy_, seed in enumerate(seeds):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 10))
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for each in rows:
            optimiser.zero_grad()
            x, y = problem.inputs[each[copy_]], problem.targets[copy_][each[copy_]]
            cross_entropy(net(x), y).backward()
            optimiser.step()
        for ours, theirs in zip(weights, net.parameters(), strict=True):
            torch.testing.assert_close(ours[copy_].detach(), theirs.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_noise_of_the_equation_has_the_covariance_of_batches_whatever_the_step(batch: int) -> None:
    """Over one eta of time: that of all batches there are, against that of the shares, which is linear in xi."""
    _, slopes = linear()
    n, rate, step = 5, 0.3, 0.05
    means = np.array([slopes[list(rows)].mean(0).numpy() for rows in itertools.combinations(range(n), batch)])
    of_batches = rate**2 * np.cov(means.T, bias=True)
    scale = rate * (n / batch - 1)
    drawn = walks.shares(scale, step, (200_000, n), torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(drawn.sum(1), torch.ones(200_000).double(), rtol=1e-4, atol=1e-4)  # the drift is exact
    of_steps = rate / step * np.cov((step * drawn @ slopes).numpy().T)
    assert of_steps == pytest.approx(of_batches, rel=0.03, abs=1e-4)


def test_a_step_of_the_equation_is_a_sum_of_the_gradients_of_the_examples_with_those_shares() -> None:
    problem, slopes = linear()
    start = [torch.zeros(1, 2, dtype=torch.float64)]
    (weights,) = next(walks.diffusion(problem, start, 2.0, 0.1, 1, seed=5))
    drawn = walks.shares(2.0, 0.1, (1, 5), torch.Generator().manual_seed(5)).double()
    torch.testing.assert_close(weights.detach(), -0.1 * drawn @ slopes)
    assert not start[0].any()  # what was given is not changed


def test_without_noise_both_are_gradient_descent() -> None:
    problem, slopes = linear()
    start, expected = [torch.zeros(1, 2, dtype=torch.float64)], -0.1 * slopes.mean(0)
    for walk in (walks.descent(problem, start, 5, 0.1, 1, 0), walks.diffusion(problem, start, 0.0, 0.1, 1, 0)):
        torch.testing.assert_close(next(walk)[0][0].detach(), expected)


def second_moment(x: np.ndarray, y: np.ndarray, decay: float, batch: int, rate: float) -> np.ndarray:
    """The stationary second moment of SGD's distance from the solution, by repeating its update over all batches."""
    n, d = x.shape
    solution = np.linalg.solve(x.T @ x / n + decay * np.eye(d), x.T @ y / n)
    maps, pushes = [], []
    for rows in map(list, itertools.combinations(range(n), batch)):
        hessian = x[rows].T @ x[rows] / batch + decay * np.eye(d)
        maps.append(np.eye(d) - rate * hessian)
        pushes.append(rate * (x[rows].T @ y[rows] / batch - hessian @ solution))
    moment = np.zeros((d, d))
    for _ in range(1500):
        moment = np.mean([a @ moment @ a.T + np.outer(b, b) for a, b in zip(maps, pushes, strict=True)], axis=0)
    return moment


@pytest.mark.parametrize(("batch", "rate"), [(1, 0.05), (2, 0.2), (4, 0.5)])
def test_the_closed_form_of_sgd_is_what_all_batches_do(batch: int, rate: float) -> None:
    problem, _ = linear()
    x, y, decay = problem.inputs.numpy(), problem.targets[0].numpy(), 0.2
    shifted = x.T @ x / 5 + decay * np.eye(2)
    expected = np.sum(shifted * second_moment(x, y, decay, batch, rate)) / 2
    found = equation.stationary_excess(
        ridge.LeastSquares(problem.inputs, problem.targets[0]), decay, rate * ridge.noise_share(5, batch), rate
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_closed_form_of_the_equation_is_the_limit_of_sgd_at_one_noise_scale() -> None:
    problem, _ = linear()
    of = ridge.LeastSquares(problem.inputs, problem.targets[0])
    limit = equation.stationary_excess(of, 0.2, 0.05, 0.0)
    errors = [equation.stationary_excess(of, 0.2, 0.05, rate) / limit - 1 for rate in (0.02, 0.04)]
    assert errors[1] == pytest.approx(2 * errors[0], rel=0.05) and 0 < errors[0] < 0.05


def test_walks_on_ridge_regression_end_at_the_closed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    of = ridge.LeastSquares(*((each[0] if each.ndim == 2 and len(each) == 1 else each) for each in _small()))
    monkeypatch.setattr(equation, "least_squares", lambda site, examples, cells: of)
    knobs = {"examples": 8, "cells": 1, "penalty": 0.5, "noise": 0.1, "batches": [1, 4], "step": 0.05, "time": 80}
    rows = equation.ridge_equation(place(), **knobs, seeds=list(range(60)))
    for batch in (None, 1, 4):
        own = [row for row in rows if row["batch"] == batch]
        assert np.mean([row["excess"] for row in own]) == pytest.approx(own[0]["theory"], rel=0.08)
    assert [row["rate"] for row in rows[::60]] == pytest.approx([0, 0.1, 0.7])  # g / (n / B - 1)


def _small() -> tuple[Tensor, Tensor]:
    problem, _ = linear(8, 2)
    return problem.inputs, problem.targets


def test_networks_are_measured_as_modules_are() -> None:
    """Accuracy, loss and lambda_max of stacked weights against a module of torch and its Hessian."""
    seeds = [0, 1]
    problem = networks.problem_of(place(), 12, 2, 0.2, seeds)
    weights = networks.first_weights(place(), 2, 3, seeds)
    tests = networks.scaled_tests(place(), 12, 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10))
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), weights, strict=True):
            parameter.copy_(value[1])
    logits = net(tests[0])
    assert float(networks.accuracies(weights, *tests)[1]) == pytest.approx(
        float((logits.argmax(1) == tests[1]).double().mean())
    )
    assert float(problem.loss(weights)[1]) == pytest.approx(
        float(cross_entropy(net(problem.inputs), problem.targets[1]).detach()), rel=1e-5
    )
    parameters = dict(copy.deepcopy(net).named_parameters())
    flat = torch.cat([each.detach().flatten() for each in parameters.values()]).double()

    def loss(w: Tensor) -> Tensor:
        parts = w.split([each.numel() for each in parameters.values()])
        named = {n: p.view(q.shape) for (n, q), p in zip(parameters.items(), parts, strict=True)}
        return cross_entropy(torch.func.functional_call(net, named, (problem.inputs.double(),)), problem.targets[1])

    hessian = torch.autograd.functional.hessian(loss, flat)
    assert isinstance(hessian, Tensor)
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    assert equation.top_of(problem, weights, 1) == pytest.approx(top, rel=0.02)


def test_images_are_scaled_as_the_training_images_are_and_parts_that_do_not_fit_are_refused() -> None:
    data = load_dataset("fashion_mnist_10k", num_train=30, num_test=10)
    own, tests = (cells.scaled(split, 7, data.train) for split in (data.train, data.test))
    assert float(own.mean(0).abs().max()) < 1e-5 and own.shape == (30, 49) and tests.shape == (10, 49)
    raw = data.test.inputs[3, 0, :4, :4].double().mean() / 255
    mean = data.train.inputs[:, 0, :4, :4].double().mean() / 255
    spread = cells.parts_of(data.train, 7).std()
    assert float(tests[3, 0]) == pytest.approx(float((raw - mean) / spread), rel=1e-4)
    with pytest.raises(InputError, match="expected a divisor of 28 as cells, got 5"):
        cells.scaled(data.train, 5, data.train)


def test_a_network_that_runs_away_has_no_accuracy_and_the_measurement_is_the_same_each_time() -> None:
    knobs: dict[str, Any] = {"images": 20, "cells": 4, "hidden": 4, "noise": 0.2, "momentum": 0.9, "batch": 5}
    knobs |= {"looks": [3, 30], "seeds": [0, 1]}
    rows, again = (networks.accuracy_after(place(), rate=0.1, **knobs) for _ in range(2))
    assert rows == again and [(row["updates"], row["seed"]) for row in rows] == [(3, 0), (3, 1), (30, 0), (30, 1)]
    assert all(0 < row["accuracy"] < 1 and row["train_loss"] > 0 and not row["diverged"] for row in rows)
    lost = networks.accuracy_after(place(), rate=1e12, **knobs)
    assert [row["diverged"] for row in lost[2:]] == [True, True]
    assert all(row["accuracy"] is None and row["train_loss"] is None for row in lost[2:])
