"""Flatness and label noise: closed forms against search and autograd, SGD's update, verdicts on planted numbers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.claims2026.label_noise2026 import numbers
from analysis.claims2026.label_noise2026 import report as analysis
from analysis.claims2026.label_noise2026.story import STORY
from analysis.report.findings import Finding
from analysis.report.report import Report
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.training import check_config
from tests.drawings import bar_places, faults
from tests.study_cases import script, smoke_once

study: Any = script("claims2026.label_noise2026")
measure: Any = script("measures.label_noise2026")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def regression() -> Any:
    x = draw(40, 3) @ torch.diag(torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64))
    x = x - x.mean(0)
    noise = draw(40, 2, seed=1) * torch.tensor([3.0, 0.5], dtype=torch.float64)
    return measure.Regression(x, x @ draw(3, 2, seed=2) + noise)


def squared_gradients(of: Any, weights: Any) -> float:
    """The mean over examples of the squared length of the loss's own gradient, by autograd, one example at a time."""
    total = 0.0
    for x, y in zip(of.inputs, of.targets, strict=True):
        leaves = [each.clone().requires_grad_() for each in weights]
        loss = (leaves[0] @ (leaves[1] @ x) - y).square().sum() / 2
        total += sum(float(g.square().sum()) for g in torch.autograd.grad(loss, leaves))
    return total / len(of.inputs)


def hessian(of: Any, weights: Any) -> Tensor:
    """The dense Hessian of the mean loss, by autograd."""
    sizes = [each.numel() for each in weights]

    def loss(flat: Tensor) -> Tensor:
        outer, inner = (part.view_as(each) for part, each in zip(flat.split(sizes), weights, strict=True))
        return (of.inputs @ inner.T @ outer.T - of.targets).square().sum(1).mean() / 2

    dense = torch.autograd.functional.hessian(loss, torch.cat([each.flatten() for each in weights]))
    assert isinstance(dense, Tensor)
    return dense


def minima_nearby(weights: Any, count: int = 20) -> list[Any]:
    """The same function by other weights: U A and A^-1 W for random A near the identity."""
    found = []
    for seed in range(count):
        mix = torch.eye(2, dtype=torch.float64) + 0.3 * draw(2, 2, seed=seed + 5)
        found.append(measure.Factors(weights.outer @ mix, torch.linalg.solve(mix, weights.inner)))
    return found


def test_the_quietest_and_the_flattest_minimum_are_minima_and_no_other_is_less() -> None:
    of = regression()
    quiet, flat = of.quietest(), of.flattest()
    for weights in (quiet, flat):
        torch.testing.assert_close(weights.outer @ weights.inner, of.solution)
    least = squared_gradients(of, quiet)
    c, d = of.fluctuations
    stated = (quiet.inner @ c @ quiet.inner.T).trace() + (quiet.outer.T @ d @ quiet.outer).trace()
    assert float(stated) == pytest.approx(least, rel=1e-9)
    assert all(squared_gradients(of, each) > least for each in minima_nearby(quiet))
    smallest = float(hessian(of, flat).trace())
    assert all(float(hessian(of, each).trace()) > smallest for each in minima_nearby(flat))
    assert float(hessian(of, quiet).trace()) > 1.1 * smallest  # unequal noise: the two differ


def test_at_a_minimum_the_curvature_is_that_of_the_hessian_and_units_that_do_nothing_change_none() -> None:
    of = regression()
    weights = measure.widened(of.quietest(), 4)
    dense = hessian(of, weights)
    expected = [float(dense.trace()), float(torch.linalg.eigvalsh(dense)[-1])]
    assert list(measure.curvature(of.inputs, weights)) == pytest.approx(expected, rel=1e-9)
    assert weights.outer.shape == (2, 4) and weights.inner.shape == (4, 3)


def test_isotropic_noise_that_does_not_go_with_the_inputs_makes_the_quietest_minimum_the_flattest() -> None:
    x = draw(20, 3)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    x, noise = (x - x.mean(0)).repeat_interleave(4, 0), signs.repeat(20, 1)  # every input with every noise
    of = measure.Regression(x, x @ draw(3, 2, seed=2) + noise)
    traces = [measure.curvature(of.inputs, each)[0] for each in (of.quietest(), of.flattest())]
    assert traces[0] == pytest.approx(traces[1], rel=1e-9)


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_an_update_is_a_step_down_the_gradient_of_its_batch(activation: str) -> None:
    of, start = regression(), measure.Factors(draw(2, 2, 4), draw(2, 4, 3, seed=3))
    targets, rates = torch.stack([of.targets, -of.targets]), torch.tensor([0.1, 0.02], dtype=torch.float64)
    for rows in (torch.tensor([[3, 3, 7], [0, 1, 2]]), None):
        *_, (step, found) = measure.train(of.inputs, targets, start, rates, iter([rows]), activation, 1)
        for walk in range(2):
            leaves = [each[walk].clone().requires_grad_() for each in start]
            mine = slice(None) if rows is None else rows[walk]
            hidden = measure.ACTIVATIONS[activation][0](of.inputs[mine] @ leaves[1].T)
            loss = (hidden @ leaves[0].T - targets[walk][mine]).square().sum(1).mean() / 2
            for leaf, g, new in zip(leaves, torch.autograd.grad(loss, leaves), found, strict=True):
                torch.testing.assert_close(new[walk], leaf.detach() - rates[walk] * g)
        assert step == 1


def test_settling_from_moments_is_the_full_batch_s_descent() -> None:
    of, begin = regression(), measure.Factors(draw(2, 2, 4), draw(2, 4, 3, seed=3))
    targets, rates = torch.stack([of.targets, -of.targets]), torch.tensor([0.02, 0.01], dtype=torch.float64)
    found = measure.settled(of.inputs, targets, begin, rates, "linear", 30)
    *_, (_, expected) = measure.train(of.inputs, targets, begin, rates, iter([None] * 30), "linear", 30)
    torch.testing.assert_close(tuple(found), tuple(expected))


IMBALANCES = (1.0, 4.0, 16.0, 64.0)
COMPUTED = dict(zip(IMBALANCES, (1.0, 1.1, 1.4, 2.0), strict=True))
SETTINGS = {"hidden": 4, "examples": 512, "cells": 2, "rate": 0.01, "steps": 1000, "seeds": 4}
SETTINGS |= {"base": {"data": {"name": "fashion_mnist_10k"}}}


def planted(
    *,
    equal: float = 1.0,
    power: float = 1.0,
    rate: float = 1.0,
    batch: float = 1.0,
    sharp: float = 1.0,
    full: float = 0.6,
    loss: float = 1.0,
    tanh: float = 1.5,
) -> Tables:
    """Four seeds whose walks end where theory says, to the ``power``, or in a way that a claim forbids."""
    rng, walked, known = np.random.default_rng(0), list[dict[str, Any]](), list[dict[str, Any]]()
    for seed in range(4):
        for imbalance, over in COMPUTED.items():
            least = {"seed": seed, "imbalance": imbalance}
            known.append(least | dict(zip(numbers.KNOWN[2:], (10.0, 3.0, 10 * over, 3 * over), strict=True)))
            end = 10 * over**power * (equal if imbalance == 1 else 1)
            arms = [("flat", 1, 0.01, end, "linear"), ("sharp", 1, 0.01, end * sharp, "linear")]
            arms += [("flat", 1, 0.02, end * rate, "linear"), ("flat", 2, 0.02, end * batch, "linear")]
            arms += [("random", 1, 0.01, end, "linear"), ("random", 512, 0.01, end * full, "linear")]
            bent = 20 * tanh if imbalance == 64 else 20.0
            arms += [("random", 1, 0.01, bent, "tanh"), ("random", 512, 0.01, 0.9 * bent, "tanh")]
            for start, size, speed, trace, activation in arms:
                fact = least | {"start": start, "batch": size, "rate": speed, "activation": activation}
                first = 10.0 if start == "flat" else 20.0
                for step, value in ((0, first), (1000, trace), (None, trace)):
                    noisy = value * float(np.exp(rng.normal(0, 0.003 if step != 0 else 0)))
                    row = {"step": step, "trace": noisy, "top_eigenvalue": noisy / 3}
                    walked.append(fact | row | {"test_loss": 0.1 * (loss if size == 1 else 1)})
    runs = pd.DataFrame([{"seed": seed, "status": "finished", "reason": None} for seed in range(4)])
    return Tables(runs, measured={"walks": pd.DataFrame(walked), "minima": pd.DataFrame(known)})


def verdict(pattern: str, **other: float) -> str:
    found = find(pattern, findings(**other))
    assert found is not None
    return found.verdict


@functools.cache
def usual() -> Report:
    """Return the report, whose figures are drawn once, where nothing else is planted."""
    return analysis.report(planted(), SETTINGS)


@functools.cache
def findings(**other: float) -> list[Finding]:
    return analysis.findings(numbers.read(planted(**other))[1], SETTINGS)


@pytest.mark.parametrize(
    ("pattern", "other"),
    [
        ("ends at the flattest", {"equal": 1.3}),
        ("flattens a sharp", {"equal": 2.0}),
        ("leaves the flattest", {"power": 0.0}),
        ("as computed", {"power": -1.0, "equal": 1.5}),
        ("The more unequal", {"power": 0.0}),
        ("start does not", {"sharp": 1.3}),
        ("learning rate does not", {"rate": 0.7}),
        ("batch size does not", {"batch": 1.3}),
        ("from random weights", {"full": 1.2}),
        ("generalise alike", {"loss": 1.1}),
        ("tanh", {"tanh": 0.9}),
    ],
)
def test_verdicts_follow_what_is_planted(pattern: str, other: dict[str, float]) -> None:
    assert verdict(pattern) == "reproduced"
    assert verdict(pattern, **other) != "reproduced"


def test_figures_table_and_story_are_whole() -> None:
    result = usual()
    for drawing in result.drawings.values():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("4 of 4 runs finished.")
        for axis in (each for ax in drawing.figure.axes for each in (ax.xaxis, ax.yaxis)):
            low, high = sorted(axis.get_view_interval())
            assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) >= 3
    assert STORY.figure in result.drawings and len(result.tables[0].rows) == len(IMBALANCES)
    assert all(find(point.pattern, result.findings) for point in STORY.points)


def test_no_bar_lies_on_another() -> None:
    drawing = usual().drawings["ends"]
    assert not isinstance(drawing, str)
    places = bar_places(drawing.figure.axes[0])
    assert len(places) == len(set(places)) == 2 * len(IMBALANCES)


def test_without_measurements_nothing_is_claimed() -> None:
    tables = Tables(planted().runs)
    result = analysis.report(tables, SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained_and_begin_with_isotropic_noise() -> None:
    for preset in study.PRESETS.values():
        for cell in study.STUDY.cells(preset, preset.seeds):
            check_config(cell.config)
        assert preset.imbalances[0] == 1 and preset.hidden > len(measure.OUTPUTS)


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Any) -> None:
    out, _ = smoke_once("claims2026.label_noise2026", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"ends.pdf", "way.png", "batches.csv", "ends_table.md", "findings.json", "runs.csv"} <= names
