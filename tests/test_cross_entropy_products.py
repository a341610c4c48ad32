"""The closed form of cross-entropy in the space of the outputs, against its second derivative."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.curvature.likelihoods import hessian_by_outputs, kind_of
from sharpness.curvature.output_space import criterion_hessian

CROSS_ENTROPIES = {
    "plain": F.cross_entropy,
    "ignored": partial(F.cross_entropy, ignore_index=2),
    "weights": nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)),
    "smoothed": partial(F.cross_entropy, label_smoothing=0.1),
    "sum": nn.CrossEntropyLoss(reduction="sum", ignore_index=0),
    "weights and smoothed": partial(
        F.cross_entropy, label_smoothing=0.1, weight=torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
@pytest.mark.parametrize("shape", [(7, 4), (3, 4, 5)])
def test_the_closed_form_of_cross_entropy_is_its_second_derivative(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    outputs, t = torch.randn(2, *shape, dtype=torch.float64)
    labels = torch.randint(4, (shape[0], *shape[2:]))
    labels[0] = -100 if name in ("plain", "weights", "smoothed") else labels[0]
    for targets in (labels, torch.rand(shape, dtype=torch.float64).softmax(1)):
        if targets.is_floating_point() and name in ("ignored", "sum"):
            continue  # torch refuses an ignored class among probabilities
        wanted = criterion_hessian(CROSS_ENTROPIES[name], outputs, targets)(t)
        found = hessian_by_outputs(CROSS_ENTROPIES[name], outputs, targets)(t)
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-15)


def test_products_of_cross_entropy_keep_no_second_copy_of_the_outputs() -> None:
    outputs, targets = torch.randn(64, 1000), torch.randint(1000, (64,))
    product, kept = hessian_by_outputs(F.cross_entropy, outputs, targets), []
    for cell in product.__closure__ or ():
        content = cell.cell_contents
        if isinstance(content, torch.Tensor) and content.data_ptr() != outputs.data_ptr():
            kept.append(content.numel())
    assert sum(kept) <= 64


class Focal(nn.CrossEntropyLoss):
    """A loss of its own, derived from torch's for its options."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        terms = F.cross_entropy(input, target, reduction="none")
        return ((1 - torch.exp(-terms)) ** 2 * terms).mean()


class Renamed(nn.CrossEntropyLoss):
    """The same loss under another name."""


def test_a_loss_that_is_only_derived_from_torchs_is_differentiated_itself() -> None:
    torch.manual_seed(0)
    outputs, t = torch.randn(2, 7, 4, dtype=torch.float64)
    labels = torch.randint(4, (7,))
    wanted = torch.autograd.functional.hvp(lambda z: Focal()(z, labels), outputs, t)[1]
    assert torch.allclose(hessian_by_outputs(Focal(), outputs, labels)(t), wanted, rtol=1e-12, atol=1e-15)  # pyright: ignore[reportArgumentType]
    assert kind_of(Focal())[0] == "" and kind_of(Renamed())[0] == "cross_entropy"
