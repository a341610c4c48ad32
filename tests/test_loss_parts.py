"""The loss over parts of its data, and of changed outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.loss import Loss
from tests.cases import CASES
from tests.oracles import merged
from tests.probe_cases import small_network

WHOLE = [name for name, case in CASES.items() if case.norm != "batch"]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_shares_times_parts_add_up_to_the_loss(name: str, size: int) -> None:
    loss = small_network(name)
    parts = list(loss.parts(size))
    assert all(part.num_examples <= size for _, part in parts)
    values = [(share, *part.value_and_grad(loss.weights)) for share, part in parts]
    value, gradient = loss.value_and_grad(loss.weights)
    assert sum(share * part for share, part, _ in values) == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(sum(share * slope for share, _, slope in values), gradient, rtol=1e-10, atol=1e-12)


def test_parts_are_cut_within_batches_and_in_order() -> None:
    loss = small_network()  # batches of 5, 3 and 1
    assert [part.num_examples for _, part in loss.parts(2)] == [2, 2, 1, 2, 1, 1]
    x, _ = merged([batch for _, part in loss.parts(2) for batch in part.batches])
    assert torch.equal(x, merged(list(loss.batches))[0])


def test_bad_parts_and_outputs_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1 example"):
        next(small_network().parts(0))
    with pytest.raises(InputError, match="model's own loss"):
        small_network("own loss over tokens").on_outputs(torch.tanh)


@pytest.mark.parametrize("name", ["mlp", "mlp, class weights", "mlp, ignored class"])
def test_changed_outputs_keep_the_weights_of_the_mean(name: str) -> None:
    case = CASES[name]
    model, batches = case.build()
    criterion = case.criterion
    assert criterion is not None
    loss = Loss(model, criterion, batches, dtype=torch.float64)
    inputs, targets = merged(batches)
    changed = loss.on_outputs(lambda logits: 3 * logits)
    assert changed.value(loss.weights) == pytest.approx(
        float(criterion(3 * model(inputs).detach(), targets)), rel=1e-12
    )
    assert loss.value(loss.weights) == pytest.approx(float(criterion(model(inputs).detach(), targets)), rel=1e-12)


def test_outputs_in_a_structure_are_changed_at_their_logits() -> None:
    class Structured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> object:
            return type("Output", (), {"logits": self.inner(x)})()

    model, x, y = Structured(), torch.ones(2, 4), torch.tensor([0, 2])
    changed = Loss(model, F.cross_entropy, [(x, y)]).on_outputs(lambda logits: 0 * logits)
    assert changed.value(changed.weights) == pytest.approx(1.0986123)
