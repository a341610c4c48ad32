"""Curves with trained bends: a ring-shaped valley, torch's own SGD through autograd, resuming to the bit, networks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.landscapes import bends
from sharpness.landscapes.bends import drawn_t
from sharpness.landscapes.connectivity import ConnectivityResult, ModeConnectivity
from sharpness.landscapes.evaluations import PointsMissing
from sharpness.landscapes.paths import CURVES, linear
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from tests.cases import CASES
from tests.probe_cases import quadratic, small_network

pytestmark = pytest.mark.dear

SLOW = pytest.mark.slow
TO_CONVERGE: dict[str, Any] = {"learning_rate": 0.05, "weight_decay": 0.0}


def recalibrated(name: str) -> Loss:
    """Return the loss of a network of the table with statistics recomputed at each point, on batches of 5, 3 and 2."""
    case = replace(CASES[name], norm="batch")
    model, batches = case.build()
    return Loss(model, case.criterion, batches, norm="recalibrate", dtype=torch.float64)


NETWORKS: dict[str, Callable[[], Loss]] = {
    "mlp": lambda: small_network("mlp"),
    "norm": lambda: small_network("norm, running statistics"),
    "convolution, recalibrated": lambda: recalibrated("convolution"),
}


def ring() -> tuple[Loss, Tensor, Tensor]:
    """Return ``(|w|^2 - 1)^2`` in three dimensions, whose minima are a sphere, and two nearly opposite ones."""

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return (output.square().sum() - 1) ** 2

    w_0, w_1 = torch.eye(3, dtype=torch.float64)[0], torch.tensor([-0.8, 0.6, 0.0], dtype=torch.float64)
    return Loss(quadratic(w_0, w_0).model, criterion, [(torch.ones(1, 3), torch.zeros(1))], dtype=w_0.dtype), w_0, w_1


def two_points(loss: Loss, far: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(len(loss.weights), generator=generator, dtype=torch.float64).to(loss.weights)
    return loss.weights, loss.weights + far * noise


def same(a: ConnectivityResult, b: ConnectivityResult) -> bool:
    return a.to_record().details == b.to_record().details and torch.equal(a.bends, b.bends) and a.value == b.value


@pytest.mark.parametrize(
    ("curve", "num_bends", "share"), [("bezier", 1, 0.02), ("bezier", 3, 1e-4), ("chain", 3, 0.02)]
)
def test_minima_on_a_ring_are_connected_along_it_and_not_across(curve: str, num_bends: int, share: float) -> None:
    loss, w_0, w_1 = ring()
    result = ModeConnectivity(curve=curve, num_bends=num_bends, num_steps=250, **TO_CONVERGE)(loss, w_0, w_1)
    squares = [1 - 3.6 * t * (1 - t) for t in result.ts]  # |w|^2 on the line, whose ends have the cosine -0.8
    assert result.line["train_loss"] == pytest.approx([(square - 1) ** 2 for square in squares], abs=1e-12)
    assert result.value is not None and result.line_barrier is not None
    np.testing.assert_allclose(result.line_barrier, max((square - 1) ** 2 for square in squares), rtol=1e-12)
    assert 0 < result.value < share * result.line_barrier
    angle = np.arccos(-0.8)
    assert result.line_length == pytest.approx(2 * np.sin(angle / 2)) and result.length == pytest.approx(
        angle, rel=0.03
    )
    path = CURVES[curve](w_0, list(result.bends), w_1)
    assert result.curves["train_loss"] == [loss.value(path(t)) for t in result.ts]


@pytest.mark.parametrize("curve", [each if each == "bezier" else pytest.param(each, marks=SLOW) for each in CURVES])
def test_one_bend_goes_where_the_mean_over_t_is_smallest(curve: str) -> None:
    loss, w_0, w_1 = ring()
    t, ends = np.linspace(0, 1, 401)[:, None], (w_0.numpy()[:2], w_1.numpy()[:2])

    def mean(bend: np.ndarray) -> float:
        if curve == "bezier":
            points = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * bend + t**2 * ends[1]
        else:
            halves = ends[0] + 2 * t * (bend - ends[0]), bend + (2 * t - 1) * (ends[1] - bend)
            points = np.where(t < 0.5, *halves)
        return float(np.mean((np.square(points).sum(1) - 1) ** 2))

    best = minimize(mean, np.array([0.5, 1.5]), tol=1e-10).x
    gentle = ModeConnectivity(curve=curve, num_steps=1200, learning_rate=0.05, momentum=0.0, weight_decay=0.0)
    np.testing.assert_allclose(gentle(loss, w_0, w_1).bends[0], [*best, 0.0], atol=0.02)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("name", ["mlp", "norm", "convolution, recalibrated"])
def test_steps_are_those_of_torch_with_derivatives_through_the_path(name: str, curve: str) -> None:
    loss = NETWORKS[name]()
    w_0, w_1 = two_points(loss)
    knobs = ModeConnectivity(
        curve=curve, num_bends=2, num_steps=5, batch_size=4, learning_rate=0.1, momentum=0.8, weight_decay=0.05, seed=3
    )
    start = torch.stack([linear(w_0, w_1)(1 / 3), linear(w_0, w_1)(2 / 3)])
    training = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([training], lr=0.1, momentum=0.8)
    inputs, targets = (torch.cat(parts) for parts in zip(*loss.batches, strict=True))
    losses = []
    for step in range(1, 6):
        w = CURVES[curve](w_0, list(training), w_1)(drawn_t(3, step))
        rows = Minibatches(loss, 4).rows(3, "connectivity", step)
        loss.model.train(loss.norm == "recalibrate")
        buffers = {name: buffer.clone() for name, buffer in loss.model.named_buffers()}
        output = functional_call(loss.model, {**loss.layout.unflatten(w), **buffers}, (inputs[rows],))
        value = F.cross_entropy(output, targets[rows])
        losses.append(float(value.detach()))
        optimizer.zero_grad()
        (value + 0.05 / 2 * w.square().sum()).backward()
        optimizer.param_groups[0]["lr"] = 0.1 * np.interp(step / 5, [0, 0.5, 0.9, 1], [1, 1, 0.01, 0.01])
        optimizer.step()
    loss.model.eval()
    result = knobs(loss, w_0, w_1)
    torch.testing.assert_close(result.bends, training.detach(), rtol=1e-11, atol=1e-13)
    assert float((result.bends - start).abs().amax(1).min()) > 0.01
    assert result.training["training_losses"] == pytest.approx(losses, rel=1e-12)
    assert result.training["training_norm"] == ("batch" if loss.norm == "recalibrate" else "frozen")


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("name", [*NETWORKS, "own loss over tokens"])
def test_networks_of_all_kinds_begin_and_end_at_their_checkpoints(name: str, curve: str) -> None:
    loss = NETWORKS[name]() if name in NETWORKS else small_network(name)
    w_0, w_1 = two_points(loss)
    knobs = ModeConnectivity(curve=curve, num_steps=5, num_points=4, learning_rate=0.1)
    result = knobs(loss, w_0, w_1, test_loss=small_network("mlp") if name == "mlp" else None)
    path = CURVES[curve](w_0, list(result.bends), w_1)
    assert torch.equal(path(0.0), w_0) and torch.equal(path(1.0), w_1)
    for place, w in ((0, w_0), (-1, w_1)):
        point = loss.evaluate(w)
        for losses in (result.curves, result.line):
            assert losses["train_loss"][place] == point.loss and losses["train_accuracy"][place] == point.accuracy
            assert losses["test_loss"] is None if name != "mlp" else losses["test_loss"][place] == point.loss
    assert result.line["train_loss"][1] == loss.value(linear(w_0, w_1)(result.ts[1]))
    assert result.line["train_loss"][1] != result.curves["train_loss"][1] == loss.value(path(result.ts[1]))
    row = result.to_record().to_dict()
    assert (
        row["value"] is not None and row["norm"] == loss.norm and row["num_gradients"] == row["details"]["steps"] == 5
    )
    assert row["details"]["curve"] == curve and row["details"]["bends"] == 1 and len(row["details"]["ts"]) == 4
    assert row["num_forwards"] == (12 if name == "mlp" else 6)


def test_a_training_that_is_left_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    loss = NETWORKS["mlp"]()
    points, knobs = two_points(loss), ModeConnectivity(num_steps=20, num_points=5, batch_size=3, num_bends=2)
    seen: list[tuple[int, int]] = []
    whole = knobs(loss, *points, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 28) for done in range(1, 29)]
    for left_after in (1, 7, 20, 23):

        def leave(done: int, total: int, left_after: int = left_after) -> None:
            if done == left_after:
                raise KeyboardInterrupt

        folder = tmp_path / str(left_after)
        with pytest.raises(KeyboardInterrupt):
            knobs(loss, *points, resume=folder, progress=leave)
        seen.clear()
        again = knobs(loss, *points, resume=folder, progress=lambda done, total: seen.append((done, total)))
        assert same(again, whole) and seen[0] == (min(left_after, 20) + 1, 28)


def test_a_killed_training_goes_on_from_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bends, "SAVE_EVERY", 3)
    loss = NETWORKS["mlp"]()
    points, knobs = two_points(loss), ModeConnectivity(num_steps=10, num_points=3, batch_size=3)

    def copied(done: int, total: int) -> None:  # what is on disk while step 9 has not begun, as a kill leaves it
        if done == 8:
            shutil.copytree(tmp_path / "a", tmp_path / "killed")

    whole = knobs(loss, *points, resume=tmp_path / "a", progress=copied)
    steps: list[int] = []
    again = knobs(loss, *points, resume=tmp_path / "killed", progress=lambda done, _: steps.append(done))
    assert steps[0] == 7 and same(again, whole)
    steps.clear()
    finer = replace(knobs, num_points=5)(loss, *points, resume=tmp_path / "a", progress=lambda n, _: steps.append(n))
    assert steps[0] == 11 and torch.equal(finer.bends, whole.bends)  # the training is not done again


def test_another_training_or_a_damaged_file_is_not_gone_on_from(tmp_path: Path) -> None:
    loss = NETWORKS["mlp"]()
    w_0, w_1 = two_points(loss)
    knobs = ModeConnectivity(num_steps=4, num_points=3, batch_size=3)
    first = knobs(loss, w_0, w_1, resume=tmp_path)
    others = [replace(knobs, seed=1), replace(knobs, learning_rate=0.1), replace(knobs, curve="chain")]
    for other in others:
        assert same(other(loss, w_0, w_1, resume=tmp_path), fresh := other(loss, w_0, w_1))
        assert not torch.equal(fresh.bends, first.bends)
    assert same(knobs(loss, w_1, w_0, resume=tmp_path), knobs(loss, w_1, w_0))
    for file in tmp_path.glob("bends-*"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="a damaged file: delete it"):
        knobs(loss, w_0, w_1, resume=tmp_path)


def test_parts_put_one_curve_together(tmp_path: Path) -> None:
    loss = NETWORKS["convolution, recalibrated"]()
    points, knobs = two_points(loss), ModeConnectivity(num_steps=3, num_points=4)
    with pytest.raises(PointsMissing, match="3 of 6 points"):
        knobs(loss, *points, resume=tmp_path, part=(0, 2))
    seen: list[tuple[int, int]] = []
    result = knobs(loss, *points, resume=tmp_path, part=(1, 2), progress=lambda *args: seen.append(args))
    assert seen == [(4, 6), (5, 6), (6, 6)] and same(result, knobs(loss, *points))


def test_a_training_that_diverges_has_no_value_but_a_reason(tmp_path: Path) -> None:
    loss, w_0, w_1 = ring()
    knobs = ModeConnectivity(num_steps=50, learning_rate=1e3, num_points=5)
    for _ in range(2):
        result = knobs(loss, w_0, w_1, resume=tmp_path)
        row = result.to_record().to_dict()
        assert row["value"] is None and row["details"]["steps"] == row["num_gradients"] - 1 < 50
        assert re.search(r"training loss is (inf|nan) at step \d+ of 50: use a smaller", row["reasons"]["value"])
        assert np.isfinite(result.training["training_losses"]).all() and row["details"]["line_barrier"] is not None


def test_a_loss_that_is_not_finite_somewhere_on_a_path_leaves_it_without_a_barrier() -> None:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return torch.where(output[0, 0].abs() < 0.3, torch.inf, output.square().sum())

    loss, w_0, w_1 = ring()
    walled = Loss(loss.model, criterion, loss.batches, dtype=torch.float64)
    seed = next(seed for seed in range(99) if abs(1 - 1.8 * drawn_t(seed, 1)) > 0.3)  # a step outside the wall
    result = ModeConnectivity(num_steps=1, num_points=9, seed=seed)(walled, w_0, w_1)
    row = result.to_record().to_dict()
    assert row["value"] is None and row["details"]["line_barrier"] is None
    assert "point of the curve" in row["reasons"]["value"] and "line" in row["reasons"]["details.line_barrier"]


def test_seeds_reproduce() -> None:
    loss = NETWORKS["mlp"]()
    points = two_points(loss)
    a, again, b = (ModeConnectivity(num_steps=5, num_points=3, batch_size=2, seed=s)(loss, *points) for s in (0, 0, 1))
    assert same(a, again) and not torch.equal(a.bends, b.bends)


def test_losses_of_a_long_training_are_thinned_and_not_smoothed() -> None:
    loss, w_0, w_1 = ring()
    knobs = ModeConnectivity(num_steps=450, num_points=3)
    short, whole = (replace(knobs, num_steps=n)(loss, w_0, w_1).training for n in (150, 450))
    assert whole["training_steps"] == list(range(1, 451, 3)) and short["training_steps"] == list(range(1, 151))
    # Before the rate of either goes down they are one training.
    assert whole["training_losses"][:25] == short["training_losses"][:75:3]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"curve": "arc"}, "unknown curve 'arc': expected one of"),
        ({"num_bends": 0}, "at least 1 bend and 1 step, got 0 and"),
        ({"num_steps": 0}, "at least 1 bend and 1 step, got 1 and 0"),
        ({"learning_rate": float("nan")}, "a positive learning_rate"),
        ({"momentum": 1.0}, "a momentum from 0 to below 1"),
        ({"weight_decay": -1.0}, "a weight_decay of at least 0"),
        ({"num_points": 1}, "at least 2 points along the curve, got 1"),
        ({"batch_size": 10}, "a batch size from 1 to 9, got 10"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(knobs: dict[str, Any], message: str) -> None:
    loss = NETWORKS["mlp"]()
    with pytest.raises(InputError, match=message):
        ModeConnectivity(**knobs)(loss, *two_points(loss))


def test_checkpoints_of_other_shapes_are_refused() -> None:
    loss = NETWORKS["mlp"]()
    with pytest.raises(InputError, match=r"shape \(43,\), got \(42,\)"):
        ModeConnectivity()(loss, loss.weights, loss.weights[1:])
