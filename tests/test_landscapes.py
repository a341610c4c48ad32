"""Lines, rays and planes: closed forms on quadratics, end points and marks, invariances, and grids that are resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.files import append_jsonl, read_jsonl
from sharpness.landscapes import (
    LANDSCAPES,
    EigenPlane,
    Interpolation,
    RandomPlane,
    RandomRays,
    ThreePointPlane,
    TrajectoryPlane,
)
from sharpness.landscapes.directions import filter_normalised, frame_through, principal_frame, random_direction
from sharpness.landscapes.evaluations import PointsMissing, Sampling, evaluate_points
from sharpness.loss import Loss
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5, 0.1, 2.0, 3.0], dtype=torch.float64)
W = torch.tensor([0.3, -1.0, 0.7, 2.0, -0.5, 0.1], dtype=torch.float64)


def vector(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counting(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets an entry for each evaluation of a loss."""
    calls, evaluate = [], loss.evaluate

    def counted(w: Tensor) -> Any:
        calls.append(1)
        return evaluate(w)

    monkeypatch.setattr(loss, "evaluate", counted)
    return calls


def test_a_plane_of_a_quadratic_is_the_quadratic() -> None:
    loss = quadratic(H, W)
    result = RandomPlane(num_points=5, span=2.0, normalisation="none")(loss, W)
    u, v = (random_direction(loss, W, "none", seed) for seed in _direction_seeds())
    for y, row in zip(result.ys, result.curves["train_loss"], strict=True):
        for x, value in zip(result.xs, row, strict=True):
            assert value == pytest.approx(0.5 * float((H * (W + x * u + y * v) ** 2).sum()), rel=1e-12)
    middle = result.curves["train_loss"][2][2]
    assert result.xs[2] == result.ys[2] == 0.0 and middle == loss.value(W) == result.marks[0]["train_loss"]
    assert result.value == max(map(max, result.curves["train_loss"])) - middle
    assert result.facts["cosine"] == pytest.approx(float(u @ v), abs=1e-15)


def _direction_seeds() -> list[int]:
    from sharpness.machine.environment import derived_seed

    return [derived_seed(0, i) for i in (1, 2)]


def test_the_plane_of_the_top_eigenvectors_has_their_curvatures() -> None:
    result = EigenPlane(num_points=3, span=0.5)(quadratic(H, 0 * W), 0 * W)
    assert result.facts["eigenvalues"] == pytest.approx([4.0, 3.0])
    exact = [[0.5 * (4 * x**2 + 3 * y**2) for x in result.xs] for y in result.ys]
    np.testing.assert_allclose(result.curves["train_loss"], exact, atol=1e-14)


def test_near_the_checkpoint_the_plane_has_the_curvature_of_the_dense_hessian() -> None:
    case = CASES["norm, running statistics"]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(case, model, batches, loss.weights))
    result = EigenPlane(num_points=3, span=1e-3, rtol=1e-8)(loss, loss.weights)
    assert result.facts["eigenvalues"] == pytest.approx(eigenvalues[-2:].flip(0).tolist(), rel=1e-8)
    losses = np.array(result.curves["train_loss"])
    along = [losses[1], losses[:, 1]]
    curvatures = [(line[0] - 2 * line[1] + line[2]) / 1e-6 for line in along]
    assert curvatures == pytest.approx(result.facts["eigenvalues"], rel=1e-3)


def test_the_plane_through_three_checkpoints_holds_them_with_their_own_losses() -> None:
    loss, test = small_network(), small_network()
    points = [loss.weights + 0.3 * vector(len(loss.weights), seed) for seed in (1, 2, 3)]
    result = ThreePointPlane(num_points=4)(loss, *points, test_loss=test, names=("a", "b", "c"))
    frame = frame_through(*points)
    assert abs(frame.cosine) < 1e-14 and float(frame.u.norm()) == pytest.approx(1, rel=1e-14)
    for name, point, mark in zip("abc", points, result.marks, strict=True):
        assert mark["name"] == name and mark["distance"] < 1e-13
        assert mark["train_loss"] == mark["test_loss"] == loss.value(point)
        assert loss.value(frame.at(mark["x"], mark["y"])) == pytest.approx(mark["train_loss"], rel=1e-12)
        assert result.xs[0] < mark["x"] < result.xs[-1] and result.ys[0] < mark["y"] < result.ys[-1]
    assert (result.marks[0]["x"], result.marks[0]["y"]) == (0, 0)
    assert result.marks[1]["x"] == pytest.approx(float((points[1] - points[0]).norm()))
    assert result.curves["test_loss"] == result.curves["train_loss"]


def test_a_trajectory_is_projected_on_its_principal_components() -> None:
    loss = quadratic(H, W)
    points = [W + (5 - i) * vector(6, 1) + 0.5 * vector(6, 10 + i) for i in range(5)]
    result = TrajectoryPlane(num_points=3)(loss, W, *points)
    differences = torch.stack(points) - W
    _, singular, axes = torch.linalg.svd(differences, full_matrices=False)
    shares = (singular**2 / (singular**2).sum())[:2]
    assert result.facts["explained_variance"] == pytest.approx(shares.tolist(), rel=1e-10)
    assert result.trajectory is not None and len(result.trajectory) == 6
    for step, difference in zip(result.trajectory, differences, strict=False):
        assert [abs(step["x"]), abs(step["y"])] == pytest.approx((axes[:2] @ difference).abs().tolist(), rel=1e-9)
        rest = float(difference @ difference) - step["x"] ** 2 - step["y"] ** 2
        assert step["distance"] ** 2 == pytest.approx(rest, rel=1e-9)
    assert result.trajectory[0]["train_loss"] == loss.value(points[0])
    last = result.trajectory[-1]
    assert (last["x"], last["y"], last["distance"]) == (0, 0, 0)


def test_a_trajectory_in_a_plane_is_at_no_distance_from_it() -> None:
    u, v = vector(6, 1), vector(6, 2)
    points = [W + a * u + b * v for a, b in ((3.0, 1.0), (2.0, -1.0), (1.0, 0.5))]
    frame, shares = principal_frame(W, points)
    assert sum(shares) == pytest.approx(1, rel=1e-12)
    assert max(frame.coordinates(point)[2] for point in points) < 1e-13


def test_rays_of_an_isotropic_quadratic_all_rise_alike() -> None:
    loss = quadratic(torch.full((6,), 3.0, dtype=torch.float64), 0 * W)
    result = RandomRays(num_rays=4, num_points=5, length=2.0)(loss, 0 * W)
    assert result.curves["train_loss"] == [pytest.approx([1.5 * t**2 for t in result.distances])] * 4
    assert result.value == pytest.approx(6.0) and result.standard_error == pytest.approx(0, abs=1e-12)
    assert result.num_forwards == 1 + 4 * 4


def test_the_mean_rise_over_rays_is_the_trace_over_the_number_of_weights() -> None:
    result = RandomRays(num_rays=400, num_points=2, length=1.0)(quadratic(H, 0 * W), 0 * W)
    assert result.value is not None and result.standard_error is not None
    assert abs(result.value - float(H.sum()) / 12) < 4 * result.standard_error < 0.1


def test_rays_of_a_seed_go_the_same_ways_from_every_checkpoint() -> None:
    loss, knobs = small_network(), RandomRays(num_rays=2, num_points=3, length=0.1)
    a, again, other = (knobs(loss, loss.weights + shift).curves["train_loss"] for shift in (0.0, 0.0, 0.1))
    assert a == again != other
    shifted = RandomRays(num_rays=2, num_points=3, length=0.1, seed=1)(loss, loss.weights).curves["train_loss"]
    assert shifted[0][0] == a[0][0] and shifted[0][1] != a[0][1]


class Pair(nn.Module):
    """Two linear layers around a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


def test_filter_normalised_planes_do_not_move_under_a_rescaling_that_keeps_the_function_and_plain_ones_do() -> None:
    torch.manual_seed(0)
    model = Pair().double()
    batches = [(vector(35, 5).view(7, 5), torch.arange(7) % 3)]
    loss = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    alpha = {"first.weight": 8.0, "first.bias": 8.0, "second.weight": 0.125}
    tensors = loss.tensors(loss.weights)
    moved = loss.with_tensors({name: factor * tensors[name] for name, factor in alpha.items()}).weights
    assert loss.value(moved) == pytest.approx(loss.value(loss.weights), rel=1e-14)
    for normalisation, same in (("filter", True), ("none", False)):
        plane = RandomPlane(num_points=3, normalisation=normalisation)
        before, after = (np.array(plane(loss, w).curves["train_loss"]) for w in (loss.weights, moved))
        assert np.allclose(before, after, rtol=1e-12) == same


def test_filters_of_a_normalised_direction_are_as_long_as_those_of_the_weights() -> None:
    loss = small_network("norm, running statistics")
    d = filter_normalised(loss, vector(len(loss.weights), 4), loss.weights)
    weights = loss.layout.unflatten(loss.weights)
    assert {piece.ndim for piece in weights.values()} > {1}
    for name, piece in loss.layout.unflatten(d).items():
        if piece.ndim == 1:
            assert not piece.any()
        else:
            torch.testing.assert_close(piece.flatten(1).norm(dim=1), weights[name].flatten(1).norm(dim=1))


@pytest.mark.parametrize("name", ["norm, batch statistics", "norm, running statistics", "attention", "tied weights"])
def test_every_landscape_runs_on_networks_of_all_kinds_and_says_how_norms_were_taken(name: str) -> None:
    case = CASES[name]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64)
    for kind, info in LANDSCAPES.items():
        others = [loss.weights + 0.1 * vector(len(loss.weights), i) for i in range(3)]
        count = {"other": 1, "third": 2, "trajectory": 3}.get(info.points[-1], 0)
        small = {"connectivity": {"num_steps": 2}}.get(kind, {})
        record = info.probe(num_points=4, **small)(loss, loss.weights, *others[:count]).to_record()
        assert record.probe == kind and record.norm == case.norm and record.to_dict()["value"] is not None


def test_a_batch_too_small_for_statistics_of_its_own_is_refused() -> None:
    loss = small_network("norm, running statistics").with_norm("recalibrate")
    with pytest.raises(InputError, match="two values per channel in each batch"):
        RandomPlane(num_points=2)(loss, loss.weights)


def test_statistics_are_recomputed_at_each_point() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    batches = [(vector(12, 7).view(4, 3), torch.tensor([0, 1, 1, 0])), (vector(6, 8).view(2, 3), torch.tensor([1, 0]))]
    frozen = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    loss = frozen.with_norm("recalibrate")
    result = EigenPlane(num_points=3)(loss, loss.weights)
    assert result.evidence.norm == "recalibrate" and result.curves["train_loss"][1][1] == loss.value(loss.weights)
    fixed = EigenPlane(num_points=3)(loss.with_fixed_statistics(loss.weights), loss.weights)
    assert fixed.facts["eigenvalues"] == pytest.approx(result.facts["eigenvalues"], rel=1e-9)
    assert fixed.curves["train_loss"][1][1] == pytest.approx(result.curves["train_loss"][1][1], rel=1e-12)
    assert fixed.curves["train_loss"][0][0] != pytest.approx(result.curves["train_loss"][0][0], rel=1e-6)
    assert frozen.value(frozen.weights) != pytest.approx(loss.value(loss.weights), rel=1e-3)


def test_a_loss_that_is_not_finite_stays_so(tmp_path: Path) -> None:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return torch.where(output.sum() > 1.5, torch.inf, output.square().sum())

    loss = Loss(quadratic(H, 0 * W).model, criterion, [(torch.ones(1, 6), torch.zeros(1))], dtype=torch.float64)
    plane = RandomPlane(num_points=5, span=3.0, normalisation="none")
    result, again = (plane(loss, 0 * W, resume=tmp_path) for _ in range(2))
    losses = np.array(result.curves["train_loss"])
    assert np.isinf(losses).any() and np.isfinite(losses).any()
    assert result.value == losses[np.isfinite(losses)].max() and again.curves == result.curves
    row = result.to_record().to_dict()
    at = tuple(np.argwhere(np.isinf(losses))[0])
    assert row["details"]["train_loss"][at[0]][at[1]] is None
    assert row["reasons"][f"details.train_loss[{at[0]}][{at[1]}]"] == "inf is not finite"
    from_there = plane(loss, torch.ones(6, dtype=torch.float64))
    assert from_there.value is None and "not finite" in from_there.reasons["value"]


def test_a_grid_goes_on_from_the_cells_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = small_network()
    calls = counting(loss, monkeypatch)
    plane, whole = RandomPlane(num_points=4), RandomPlane(num_points=4)(loss, loss.weights)

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plane(loss, loss.weights, resume=tmp_path, progress=stop)
    (file,) = tmp_path.iterdir()
    with file.open("ab") as stream:
        stream.write(b'{"of": "half a li')  # as a kill leaves it
    calls.clear()
    result = plane(loss, loss.weights, resume=tmp_path)
    assert len(calls) == 17 - 7 and result.curves == whole.curves and result.marks == whole.marks
    for other in (RandomPlane(num_points=4, seed=1), RandomPlane(num_points=4, span=0.5)):
        calls.clear()
        other(loss, loss.weights, resume=tmp_path)
        assert len(calls) == 17  # cells of another landscape are not its own


def test_a_grid_is_split_over_processes_and_the_one_that_finds_all_puts_it_together(tmp_path: Path) -> None:
    loss, plane = small_network(), RandomPlane(num_points=4)
    for part in ((0, 3), (2, 3)):
        with pytest.raises(PointsMissing, match="of 17 points are not there yet"):
            plane(loss, loss.weights, resume=tmp_path, part=part)
    result = plane(loss, loss.weights, resume=tmp_path, part=(1, 3))
    assert result.curves == plane(loss, loss.weights).curves
    rows = [read_jsonl(path) for path in sorted(tmp_path.iterdir())]
    assert [[row["cell"] % 3 for row in part] for part in rows] == [[0] * 6, [1] * 6, [2] * 5]


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b'{"cell"', b"cell"),  # a line that is no JSON
        (b'"accuracy": 0', b'"accuracy": 1'),
        (b'"cell": 1', b'"cell": 0'),
        (b'"loss": "', b'"loss": "9'),
        (b'"train": {', b'"train": {"a": ' + b"[" * 5000 + b"]" * 5000 + b","),
    ],
)
def test_a_cell_that_was_damaged_or_edited_is_measured_again(
    was: bytes, becomes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, plane = small_network(), RandomPlane(num_points=2)
    expected = plane(loss, loss.weights, resume=tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    file.write_bytes(before.replace(was, becomes, 1))
    assert file.read_bytes() != before
    calls = counting(loss, monkeypatch)
    for measured in (1, 0):
        assert plane(loss, loss.weights, resume=tmp_path).curves == expected.curves
        assert len(calls) == measured
        calls.clear()


def test_cells_keep_every_digit(tmp_path: Path) -> None:
    loss = small_network()
    points = [loss.weights + 0.1 * vector(len(loss.weights), seed) for seed in range(3)]
    first = evaluate_points(loss, points.__getitem__, 3, Sampling(resume=tmp_path))
    assert evaluate_points(loss, points.__getitem__, 3, Sampling(resume=tmp_path)) == first
    append_jsonl(next(tmp_path.iterdir()), {"of": "another", "cell": 0, "train": {}, "test": None})
    assert evaluate_points(loss, points.__getitem__, 3, Sampling(resume=tmp_path)) == first
    assert all(math.isfinite(cell.loss) for cell in first.train)


@pytest.mark.parametrize(
    ("landscape", "points", "words"),
    [
        (RandomPlane(num_points=1), [W], "at least 2 points"),
        (RandomPlane(span=0.0, normalisation="none"), [W], "positive span"),
        (RandomPlane(normalisation="filters"), [W], "filters"),
        (RandomPlane(), [W], "use normalisation 'none'"),  # its weights are one vector
        (EigenPlane(span=-1.0), [W], "positive span"),
        (RandomPlane(num_points=10**11, normalisation="none"), [W], "at most 1000000 as num_points, got 100000000000"),
        (RandomPlane(num_points=1001, normalisation="none"), [W], "at most 1000000 points, got 100200"),
        (Interpolation(num_points=10**30), [W, H], "at most 1000000 as num_points"),
        (RandomRays(num_rays=10**11), [W], "at most 1000000 as num_rays"),
        (RandomRays(num_rays=0), [W], "at least 1 ray"),
        (RandomRays(length=0.0), [W], "positive length"),
        (ThreePointPlane(), [W, W, H], "the points are the same"),
        (ThreePointPlane(), [W, H, 2 * H - W], "on one line"),
        (ThreePointPlane(), [W, H, H[:5]], "of one network"),
        (ThreePointPlane(margin=-1.0), [W, H, 0 * H], "margin"),
        (TrajectoryPlane(), [W, H], "on one line"),
        (TrajectoryPlane(), [W, H, 2 * H - W], "on one line"),
    ],
)
def test_bad_landscapes_are_one_line(landscape: Any, points: list[Tensor], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        landscape(quadratic(H, W), *points)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [(2, 2), (-1, 2)])
def test_a_part_that_there_is_not_is_refused(part: tuple[int, int], tmp_path: Path) -> None:
    loss = small_network()
    with pytest.raises(InputError, match="expected a part from 1 to 2"):
        RandomPlane(num_points=2)(loss, loss.weights, resume=tmp_path, part=part)
    with pytest.raises(InputError, match="folder"):
        RandomPlane(num_points=2)(loss, loss.weights, part=(0, 2))
