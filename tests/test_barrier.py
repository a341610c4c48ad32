"""The barrier between two checkpoints, plain and after matching, against closed forms and permuted copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.landscapes.barrier import Barrier
from sharpness.landscapes.interpolation import Interpolation
from sharpness.loss import Loss
from sharpness.symmetries.permutations import find_groups, permuted
from tests.cases import CASES, PartlyUnused, mlp
from tests.test_permutations import Residual, ThirdPower, vgg

NETWORKS = {"mlp": (mlp, (4,)), "vgg": (vgg, (1, 4, 4)), "residual": (Residual, (1, 4, 4))}
LISTS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def build(
    name: str, norm: str = "recalibrate", dtype: torch.dtype = torch.float64
) -> tuple[Loss, Loss, Tensor, Tensor]:
    """Return train and test loss, a solution of large weights, and the same one with its units in other places."""
    make, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    model = make()
    inputs = [torch.randn(n, *shape, generator=generator).to(dtype) for n in (6, 4)]
    batches: list[Any] = [(x, torch.zeros(len(x), dtype=torch.long)) for x in inputs]
    guess = Loss(model, F.cross_entropy, batches, norm=norm, dtype=dtype)
    w = 3 * torch.randn(guess.layout.size, generator=generator).to(dtype)
    labels = guess.outputs(w).argmax(1).split([6, 4])  # a solution: what it says itself is right
    batches = list(zip(inputs, labels, strict=True))
    train, test = (Loss(model, F.cross_entropy, [b], norm=norm, calibration=batches, dtype=dtype) for b in batches)
    tensors = train.layout.unflatten(w)
    for group in find_groups(model, (inputs[0].float(),)):
        tensors = tensors | permuted(tensors, group, torch.arange(group.size).roll(1))
    return train, test, w, torch.cat([tensors[name].reshape(-1) for name in train.layout.names])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_permuted_copy_has_a_barrier_that_matching_removes(name: str, dtype: torch.dtype) -> None:
    train, test, w, other = build(name, dtype=dtype)
    result = Barrier(num_points=5)(train, w, other, test_loss=test)
    matched, matching, plain = result.matched, result.matching, result.plain
    assert matched is not None and matching is not None and result.value is not None
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert result.value > 100 * tolerance and plain["length"] > 1
    assert matched["length"] == 0 and matched["barrier"] <= tolerance and matched["test_barrier"] <= tolerance
    assert matched["train_loss"] == pytest.approx([train.value(w)] * 5, rel=tolerance)
    assert matching["objective_after"] == pytest.approx(float(w.double().square().sum()))
    assert matching["objective_before"] == pytest.approx(float(w.double() @ other.double()))
    assert matching["moved"] == matching["units"] and matching["output_change"] <= tolerance
    assert result.matched_barrier == matched["barrier"] and result.reasons == {}


def test_both_lines_are_those_of_interpolation() -> None:
    train, test, w, other = build("vgg")
    other = other + 0.1 * torch.randn(other.shape, generator=torch.Generator().manual_seed(1), dtype=other.dtype)
    result = Barrier(num_points=5)(train, w, other, test_loss=test)
    line = Interpolation(num_points=5, start=0.0, stop=1.0)(train, w, other, test_loss=test)
    assert {name: result.plain[name] for name in ("alphas", "length", *LISTS)} == {
        name: getattr(line, name) for name in ("alphas", "length", *LISTS)
    }
    assert result.value == line.value and result.num_forwards == 20
    assert result.matched is not None
    # The same function at both ends, and a shorter way between them.
    for name in LISTS:
        ends = [result.matched[name][0], result.matched[name][-1]]
        assert ends == pytest.approx([result.plain[name][0], result.plain[name][-1]], rel=1e-10)
    assert result.matched["length"] < 0.5 * result.plain["length"]
    squares = result.plain["length"] ** 2 - result.matched["length"] ** 2
    assert result.matching is not None
    gained = result.matching["objective_after"] - result.matching["objective_before"]
    assert squares == pytest.approx(2 * gained)  # |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>


def test_ends_are_the_checkpoints_to_the_bit() -> None:
    train, _, w, other = build("mlp")
    result = Barrier(num_points=3)(train, w, other)
    assert result.plain["train_loss"][0] == train.value(w) and result.plain["train_loss"][-1] == train.value(other)
    seen: list[Tensor] = []

    class Recording(Loss):
        def evaluate(self, w: Tensor) -> Any:
            seen.append(w)
            return super().evaluate(w)

    recording = Recording(train.model, F.cross_entropy, train.batches, dtype=w.dtype)
    recording.self_check()
    seen.clear()
    Barrier(num_points=3, match=False)(recording, w, other)
    assert torch.equal(seen[0], w) and torch.equal(seen[2], other) and len(seen) == 3


def test_no_barrier_from_a_checkpoint_to_itself() -> None:
    train, test, w, _ = build("residual")
    result = Barrier(num_points=4)(train, w, w, test_loss=test)
    assert result.matched is not None and result.matching is not None
    for line in (result.plain, result.matched):
        assert (line["length"], line["barrier"]) == (0, pytest.approx(0, abs=1e-14))
    assert result.matching["moved"] == 0 and result.matching["objective_before"] == result.matching["objective_after"]


def test_on_a_quadratic_the_middle_is_an_eighth_of_the_curvature_below_the_chord() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 3, generator=generator).double(), torch.randn(9, 1, generator=generator).double()
    loss = Loss(nn.Linear(3, 1, bias=False), F.mse_loss, [(x, y)], dtype=torch.float64)
    a, b = torch.randn(3, generator=generator).double(), torch.randn(3, generator=generator).double()
    result = Barrier(num_points=3)(loss, a, b)
    first, middle, last = result.plain["train_loss"]
    hessian = 2 * x.T @ x / 9
    assert middle - (first + last) / 2 == pytest.approx(-float((a - b) @ hessian @ (a - b)) / 8, rel=1e-12)
    assert result.value == 0  # at the ends, as the rest is below
    assert result.matched is None and "no hidden units were found" in result.reasons["matched"]
    assert "linear or convolution layers" in result.reasons["matched"] and result.matched_barrier is None


def test_a_barrier_by_hand() -> None:
    # f(x) = a2 relu(a1 x) + b2 relu(b1 x) at x = 1: (1, 0) and (0, 1) in each give 1, their middle 1/2.
    loss = Loss(
        nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)),
        F.mse_loss,
        [(torch.ones(1, 1), torch.ones(1, 1))],
    )
    one, two = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    result = Barrier(num_points=3)(loss, one, two)
    assert result.plain["train_loss"] == [0.0, 0.25, 0.0] and result.value == 0.25
    assert result.matched is not None and result.matched["train_loss"] == [0.0, 0.0, 0.0]
    assert result.matching is not None and result.matching["moved"] == 2


def test_a_record_has_both_lines_and_reasons_for_what_is_missing() -> None:
    train, _, w, other = build("vgg")
    details = (row := Barrier(num_points=3)(train, w, other).to_record().to_dict())["details"]
    assert set(details) == {"plain", "matched", "matching", "matched_barrier", "warnings"}  # of few examples
    for line in (details["plain"], details["matched"]):
        assert set(line) == {"alphas", *LISTS, "barrier", "test_barrier", "length"}
        assert line["alphas"] == [0.0, 0.5, 1.0] and line["test_loss"] is None and line["test_barrier"] is None
    assert row["value"] == details["plain"]["barrier"] and row["seed"] == 0
    row = Barrier(num_points=3, match=False)(train, w, other).to_record().to_dict()
    assert row["details"]["matched"] is None and "match=False" in row["reasons"]["matched"]
    assert row["num_forwards"] == 3


def test_seeds_are_reproducible_and_only_matter_for_matching() -> None:
    train, _, w, _ = build("vgg")
    other = torch.randn(w.shape, generator=torch.Generator().manual_seed(7), dtype=w.dtype)
    one, again, different = (Barrier(num_points=3, seed=seed)(train, w, other) for seed in (3, 3, 4))
    assert (one.plain, one.matched, one.matching) == (again.plain, again.matched, again.matching)
    assert one.plain == different.plain


def test_frozen_statistics_are_those_of_the_losss_network_on_both_lines() -> None:
    train, _, w, other = build("vgg", norm="frozen")
    statistics = {
        name: torch.rand(b.shape, dtype=torch.float64) + 0.5
        for name, b in train.model.named_buffers()
        if b.is_floating_point()
    }
    loss = train.with_tensors(statistics)
    result = Barrier(num_points=2)(loss, w, other)
    assert result.matched is not None
    assert result.plain["train_loss"] == [loss.value(w), loss.value(other)]
    assert result.matched["train_loss"] == [loss.value(w)] * 2  # the permuted weights are w, the statistics stay


def test_a_batch_norm_that_keeps_no_statistics_is_matched_too() -> None:
    case = CASES["norm, batch statistics"]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, norm="batch", dtype=torch.float64)
    tensors = loss.layout.unflatten(loss.weights)
    (group,) = find_groups(model, batches[0])
    tensors = tensors | permuted(tensors, group, torch.tensor([1, 2, 0, 4, 3]))
    result = Barrier(num_points=3)(loss, loss.weights, torch.cat([tensors[n].reshape(-1) for n in loss.layout.names]))
    assert result.matched is not None and result.matched["length"] == 0


def test_layers_that_do_not_keep_their_function_are_not_reported_as_matched() -> None:
    class Ranked(nn.Tanh):
        """An activation that breaks the order of its units where no graph shows it."""

    model = nn.Sequential(nn.Linear(4, 5), Ranked(), nn.Linear(5, 3))
    model[1].__dict__["forward"] = lambda x: torch.tanh(x) * torch.arange(1.0, 6.0)
    loss = Loss(model, F.cross_entropy, [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))])
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(loss.layout.size, generator=generator) for _ in "12")
    result = Barrier(num_points=3)(loss, a, b)
    assert result.matched is None and result.value is not None
    assert "outputs of the second network change by" in result.reasons["matched"]
    assert result.matching is not None and result.matching["output_change"] > 1e-3


def test_weights_that_cannot_be_matched_leave_the_plain_line() -> None:
    train, _, w, other = build("mlp")
    result = Barrier(num_points=3)(train, w, torch.full_like(other, float("nan")))
    row = result.to_record().to_dict()
    assert row["value"] is None and "value" in row["reasons"] and "NaN" in row["reasons"]["matched"]
    model = PartlyUnused()
    batch = (torch.randn(3, 4), torch.tensor([0, 1, 2]))
    loss = Loss(model, F.cross_entropy, [batch])
    assert "not measured" in Barrier(num_points=2)(loss, loss.weights, loss.weights).reasons["matched"]
    odd = nn.Sequential(nn.Linear(4, 5), ThirdPower(5, 3))
    loss = Loss(odd, F.cross_entropy, [batch])
    assert "no hidden units" in Barrier(num_points=2)(loss, loss.weights, loss.weights).reasons["matched"]


@pytest.mark.parametrize("wall", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_between_the_ends_leaves_no_barrier_but_a_reason(wall: float) -> None:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return torch.where((output.mean() - 0.5).abs() < 0.2, wall, (output - target).square().mean())

    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    loss = Loss(network, criterion, [(torch.ones(1, 1), torch.ones(1, 1))])
    one, two = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])  # the middle gives 1/2
    row = Barrier(num_points=5)(loss, one, two, test_loss=loss).to_record().to_dict()
    assert row["value"] is None and row["details"]["plain"]["train_loss"][2] is None
    places = ("value", "details.plain.barrier", "details.plain.test_barrier")
    assert all("not finite at every point" in row["reasons"][place] for place in places)
    assert row["details"]["matched_barrier"] == 0 and "details.matched_barrier" not in row["reasons"]
    line = Interpolation(num_points=5, start=0.0, stop=1.0)(loss, one, two).to_record().to_dict()
    assert line["value"] is None and "not finite at every point" in line["reasons"]["value"]
    part = Interpolation(num_points=5, start=0.5, stop=1.5)(loss, one, two).to_record()
    assert part.value is None and part.reasons["value"] == "the grid lacks alpha = 0 or 1"


def test_points_on_disk_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _, w, other = build("vgg")
    barrier = Barrier(num_points=3)
    whole = barrier(train, w, other, resume=tmp_path)
    monkeypatch.setattr(Loss, "evaluate", lambda self, w: pytest.fail("measured again"))
    again = barrier(train, w, other, resume=tmp_path)
    assert (whole.plain, whole.matched) == (again.plain, again.matched)


def test_bad_points_and_knobs_are_refused() -> None:
    train, _, w, other = build("mlp")
    with pytest.raises(InputError, match="at least 2 points"):
        Barrier(num_points=1)(train, w, other)
    with pytest.raises(InputError, match="expected points of shape"):
        Barrier()(train, w, other[1:])
