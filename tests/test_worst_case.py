"""Worst-case sharpness and SAM's step: closed forms, Hessians written out, constraints and invariances."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.probes.average_case import AverageCaseSharpness
from sharpness.probes.methods.apgd import BALLS, apgd, checkpoints
from sharpness.probes.methods.perturbations import normalised, scale_of
from sharpness.probes.sam import SamSharpness
from sharpness.probes.worst_case import WorstCaseSharpness
from sharpness.results import Probe
from tests.cases import Case
from tests.oracles import dense_hessian, matrix_with_eigenvalues
from tests.probe_cases import noisy_quadratic, quadratic, small_network
from tests.scaled_networks import relu_network, rescaled

H = torch.tensor([4.0, 1.0, 0.5, 0.25, 2.0, 3.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7, 3.0, -0.5, 0.1], dtype=torch.float64)


def least_squares() -> tuple[Loss, Tensor, Tensor]:
    """Return a linear regression, its exact minimum and its constant dense Hessian (15 x 15)."""
    case = Case(lambda: nn.Linear(4, 3), F.mse_loss, targets="numbers")
    model, batches = case.build()
    loss = Loss(model, F.mse_loss, batches, dtype=torch.float64)
    hessian = dense_hessian(case, model, batches, loss.weights)
    return loss, loss.weights - torch.linalg.solve(hessian, loss.grad(loss.weights)), hessian


@pytest.mark.parametrize("scaling", ["plain", "adaptive", "filter"])
@pytest.mark.parametrize("rho", [1e-3, 0.5])
def test_in_l2_it_is_the_largest_eigenvalue_of_the_scaled_hessian(scaling: str, rho: float) -> None:
    loss, w, hessian = least_squares()
    c = scale_of(loss, w, scaling)
    largest = float(torch.linalg.eigvalsh(c[:, None] * hessian * c)[-1])
    result = WorstCaseSharpness(rho=rho, scaling=scaling, steps=50, num_starts=2)(loss, w)
    assert result.value == pytest.approx(0.5 * rho**2 * largest, rel=1e-6)
    assert result.details()["largest_radius"] == pytest.approx(rho, rel=1e-12)


def test_in_linf_it_comes_close_to_the_best_corner() -> None:
    loss, w, hessian = least_squares()
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=15)), dtype=torch.float64) * 0.1
    best = float(0.5 * ((corners @ hessian) * corners).sum(1).max())
    result = WorstCaseSharpness(rho=0.1, norm="linf", scaling="plain", num_starts=6)(loss, w)
    assert 0.85 * best < result.value <= best * (1 + 1e-12)


@pytest.mark.parametrize("m", [None, 1, 2, 4])
def test_m_sharpness_has_its_closed_form_in_the_linf_ball(m: int | None) -> None:
    # On a part with mean centre c the rise is sum_i h_i (rho |w_i - c_i| + rho^2 / 2), at the corner away from c.
    centres, rho = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.3
    loss = noisy_quadratic(H, W, centres, 5)  # batches of 5 and 4
    parts = [centres] if m is None else [piece for batch in centres.split(5) for piece in batch.split(m)]
    rises = [len(part) / 9 * float((H * (rho * (W - part.mean(0)).abs() + rho**2 / 2)).sum()) for part in parts]
    result = WorstCaseSharpness(rho=rho, norm="linf", scaling="plain", m=m, num_starts=1)(loss)
    assert result.value == pytest.approx(sum(rises), rel=1e-12)
    assert result.details()["num_parts"] == len(parts) and result.num_gradients == 21 * len(parts)
    assert result.loss == pytest.approx(loss.value(W), rel=1e-12)
    sam = SamSharpness(rho=rho, norm="linf", m=m)(loss)
    assert sam.value == pytest.approx(sum(rises), rel=1e-12) and sam.num_gradients == len(parts)


@pytest.mark.parametrize(("scaling", "c"), [("plain", torch.ones_like(W)), ("adaptive", W.abs())])
def test_the_step_of_sam_is_the_formula_and_the_first_step_of_the_worst_case(scaling: str, c: Tensor) -> None:
    loss, rho = quadratic(H, W, offset=1.0), 0.05
    g = H * W
    delta = rho * c**2 * g / (c * g).norm()
    expected = loss.value(W + delta) - loss.value(W)
    sam = SamSharpness(rho=rho, scaling=scaling)(loss)
    assert sam.value == pytest.approx(expected, rel=1e-12) and sam.loss == pytest.approx(loss.value(W))
    one_step = WorstCaseSharpness(rho=rho, scaling=scaling, steps=1, num_starts=1)(loss)
    assert one_step.value == pytest.approx(expected, rel=1e-12) and one_step.num_gradients == 2
    full = WorstCaseSharpness(rho=rho, scaling=scaling)(loss)
    assert full.value >= one_step.value * (1 - 1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_point_lies_in_the_ball_to_rounding(norm: str, dtype: torch.dtype) -> None:
    matrix = matrix_with_eigenvalues(torch.tensor([5.0, -2.0, 1.0, 0.3]), seed=0).to(dtype)
    points = list[Tensor]()

    def objective(u: Tensor) -> tuple[float, Tensor]:
        points.append(u)
        return 0.5 * float(u @ matrix @ u), matrix @ u

    ball, radius = BALLS[norm], 0.7
    start = ball.random(torch.zeros(4), radius, torch.Generator().manual_seed(1)).to(dtype)
    found = apgd(objective, start, ball, radius, 20)
    slack = 4 * torch.finfo(dtype).eps
    assert len(points) == found.num_gradients == 21
    assert all(ball.length(u) <= radius * (1 + slack) for u in points)
    assert found.value == max(0.5 * float(u @ matrix @ u) for u in points)
    assert found.value == 0.5 * float(found.point @ matrix @ found.point)


def test_auto_pgd_halves_its_step_where_it_overshoots() -> None:
    # The maximum lies inside: with a fixed step of two radii the iterates would jump about it for ever.
    top = torch.tensor([0.2, -0.1], dtype=torch.float64)
    found = apgd(
        lambda u: (-float((u - top) @ (u - top)), 2 * (top - u)), torch.zeros(2).double(), BALLS["l2"], 1.0, 60
    )
    assert float((found.point - top).norm()) < 1e-2


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99, 100]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize(("norm", "dimension"), [("l2", 5), ("linf", 5)])
def test_random_starts_are_uniform_in_the_ball(norm: str, dimension: int) -> None:
    generator, ball = torch.Generator().manual_seed(0), BALLS[norm]
    lengths = torch.tensor([ball.length(ball.random(torch.zeros(dimension), 2.0, generator)) for _ in range(2000)])
    shares = (lengths / 2) ** dimension  # uniform in [0, 1] if the points are uniform in the volume
    assert float(shares.max()) <= 1 + 1e-6
    assert abs(float(shares.mean()) - 0.5) < 4 / math.sqrt(12 * 2000)
    assert abs(float((shares < 0.25).float().mean()) - 0.25) < 4 * math.sqrt(0.1875 / 2000)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_only_the_adaptive_ball_stays_under_a_rescaling(norm: str) -> None:
    loss, other = relu_network(), rescaled(relu_network(), 10.0)
    knobs = {"rho": 0.05, "norm": norm}
    adaptive = [WorstCaseSharpness(**knobs, scaling="adaptive")(each).value for each in (loss, other)]
    assert adaptive[1] == pytest.approx(adaptive[0], rel=1e-6)
    filters = [WorstCaseSharpness(**knobs, scaling="filter")(each).value for each in (loss, other)]
    assert filters[1] == pytest.approx(filters[0], rel=1e-6)  # a whole layer is scaled alike, and so are its rows
    plain = [WorstCaseSharpness(**knobs, scaling="plain")(each).value for each in (loss, other)]
    assert plain[1] > 1.5 * plain[0]
    sam = [SamSharpness(rho=0.05, norm=norm, scaling="adaptive")(each).value for each in (loss, other)]
    assert sam[1] == pytest.approx(sam[0], rel=1e-6)


def test_normalised_logits_do_not_see_the_scale_of_the_last_layer() -> None:
    loss = relu_network()
    w = loss.weights.clone()
    pieces = loss.layout.unflatten(w)
    for name in ("2.weight", "2.bias"):
        pieces[name].mul_(7)
    changes = {
        logits: [WorstCaseSharpness(rho=0.05, logits=logits)(loss, at).value for at in (loss.weights, w)]
        for logits in ("plain", "normalised")
    }
    assert changes["normalised"][1] == pytest.approx(changes["normalised"][0], rel=1e-6)
    assert changes["plain"][1] > 1.5 * changes["plain"][0]
    logits = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]], dtype=torch.float64)
    assert normalised(logits).norm(dim=1).tolist() == pytest.approx([1.0, 0.0])
    torch.testing.assert_close(normalised(3 * logits + 5), normalised(logits))


class Transposed(nn.Module):
    """A linear map of each position whose outputs are examples x classes x positions, or x positions x classes."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 3, bias=False, dtype=torch.float64), last

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if self.last else self.layer(x).transpose(1, 2)


def test_logits_are_normalised_over_the_classes_of_each_position() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 7, 4), (12,)))
    y = torch.randint(3, (5, 7), generator=generator)
    model = Transposed(last=False)
    by_position = Loss(model, F.cross_entropy, [(x, y)], dtype=torch.float64)
    flat = Loss(model.layer, F.cross_entropy, [(x.flatten(0, 1), y.flatten())], dtype=torch.float64)
    probe = WorstCaseSharpness(rho=0.05, logits="normalised")
    assert probe(by_position, w).value == pytest.approx(probe(flat, w).value, rel=1e-9)


@pytest.mark.parametrize("probe", [WorstCaseSharpness(logits="normalised"), AverageCaseSharpness(logits="normalised")])
def test_outputs_whose_classes_are_too_few_or_unknown_are_not_normalised(probe: Probe[Any]) -> None:
    x, y = torch.randn(6, 3), torch.ones(6, 1)
    with pytest.raises(InputError, match="2 or more classes in dimension 1, got outputs of shape \\(6, 1\\)"):
        probe(Loss(nn.Linear(3, 1), nn.BCEWithLogitsLoss(), [(x, y)]))
    with pytest.raises(InputError, match="2 or more classes in dimension 1, got outputs of shape \\(6,\\)"):
        probe(Loss(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), nn.BCEWithLogitsLoss(), [(x, y[:, 0])]))

    def over_positions(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    positions = (torch.randn(5, 7, 4, dtype=torch.float64), torch.randint(3, (5, 7)))
    with pytest.raises(InputError, match=r"N x classes x \.\.\. for cross_entropy, got shape \(5, 7, 3\)"):
        probe(Loss(Transposed(last=True), over_positions, [positions], dtype=torch.float64))


def test_scales_are_sizes_and_lengths_of_rows() -> None:
    loss = Loss(
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten()), F.mse_loss, [(torch.ones(1, 1, 2, 2), torch.ones(1, 2))]
    )
    w = torch.tensor([1.0, -2.0, 2.0, 4.0, 3.0, 0.0, 0.0, -4.0, -0.5, 0.0])
    assert scale_of(loss, w, "plain").tolist() == [1.0] * 10
    assert scale_of(loss, w, "adaptive").tolist() == [1, 2, 2, 4, 3, 0, 0, 4, 0.5, 0]
    assert scale_of(loss, w, "filter").tolist() == [5, 5, 5, 5, 5, 5, 5, 5, 0.5, 0]


def test_a_minimum_needs_a_random_start_and_a_hill_top_gives_zero() -> None:
    loss = quadratic(H, torch.zeros(6, dtype=torch.float64))
    one, two = (WorstCaseSharpness(rho=0.1, scaling="plain", num_starts=n)(loss) for n in (1, 2))
    assert one.value == 0.0 and two.value == pytest.approx(0.5 * 0.01 * 4.0, rel=0.02)
    assert two.details()["rise_by_start"][0] == 0.0
    top = WorstCaseSharpness(rho=0.1, scaling="plain")(quadratic(-H, torch.zeros(6, dtype=torch.float64)))
    assert top.value == 0.0 and top.lower == 0.0 and "below only" in top.reasons["upper"]


def test_records_are_plain_and_reproducible() -> None:
    loss, reports = small_network(), list[tuple[int, int]]()
    probe = WorstCaseSharpness(rho=0.1, m=4, seed=3)
    first = probe(loss, progress=lambda done, total: reports.append((done, total)))
    assert first.value == probe(loss).value
    assert reports == [(done, first.num_gradients) for done in range(1, first.num_gradients + 1)]
    record = json.loads(json.dumps(first.to_record().to_dict(), allow_nan=False))
    assert record["details"]["num_parts"] == 4 and record["seed"] == 3 and "at least" in str(first)
    sam = SamSharpness(m=4)(loss)
    json.dumps(sam.to_record().to_dict(), allow_nan=False)
    assert "one step of SAM" in str(sam) and sam.to_record().details["num_parts"] == 4


@pytest.mark.parametrize("name", ["norm, batch statistics", "tied weights", "own loss over tokens", "mlp, summed"])
def test_it_works_on_other_networks_in_single_precision(name: str) -> None:
    values = [
        WorstCaseSharpness(rho=0.05)(small_network(name, dtype)).value for dtype in (torch.float32, torch.float64)
    ]
    assert values[0] > 0 and values[0] == pytest.approx(values[1], rel=1e-2)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (WorstCaseSharpness(rho=0.0), "positive rho"),
        (WorstCaseSharpness(norm="l1"), "unknown norm 'l1': expected one of"),
        (WorstCaseSharpness(scaling="asam"), "unknown scaling 'asam'"),
        (WorstCaseSharpness(logits="normalized"), "unknown logits 'normalized': expected one of normalised"),
        (WorstCaseSharpness(m=0), "at least 1 example"),
        (WorstCaseSharpness(steps=0), "at least 1 step"),
        (WorstCaseSharpness(num_starts=0), "at least 1 step and 1 start"),
        (SamSharpness(rho=-1.0), "positive rho"),
        (SamSharpness(m=0), "at least 1 example"),
        (SamSharpness(norm="max"), "unknown norm 'max'"),
    ],
)
def test_bad_knobs_are_refused(probe: WorstCaseSharpness | SamSharpness, message: str) -> None:
    with pytest.raises(InputError, match=message):
        probe(small_network())


@pytest.mark.parametrize("probe", [WorstCaseSharpness(rho=3.0, scaling="plain"), SamSharpness(rho=3.0)])
def test_an_infinite_loss_is_an_error_of_one_line(probe: WorstCaseSharpness | SamSharpness) -> None:
    for h, w in ((H, 1e200), (1e307 * H, 1.0)):  # at the weights already, and only away from them
        with pytest.raises(RunError, match=r"expected a finite loss .*, got .*inf: ") as caught:
            probe(quadratic(h, torch.full((6,), w, dtype=torch.float64)))
        assert "\n" not in str(caught.value)
