"""Relative flatness against the double sum over dense blocks, and its invariance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.probes.relative_flatness import RelativeFlatness, root_of_gram
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import quadratic, small_network


def by_definition(loss: Loss, dense: Tensor) -> dict[str, float]:
    """Return the sum over pairs of rows, block by block."""
    found, at = {}, 0
    for name, piece in loss.layout.unflatten(loss.weights).items():
        if piece.ndim >= 2:
            rows, d = piece.flatten(1), piece[0].numel()
            found[name] = 0.0
            for s, one in enumerate(rows):
                for t, two in enumerate(rows):
                    block = dense[at + s * d : at + (s + 1) * d, at + t * d : at + (t + 1) * d]
                    found[name] += float(one @ two * block.trace())
        at += piece.numel()
    return found


@pytest.mark.parametrize(
    "name", [pytest.param("mlp", marks=pytest.mark.slow), "convolution", "mlp, mean squared error"]
)
def test_it_is_the_sum_over_pairs_of_rows(name: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    exact = by_definition(loss, dense_hessian(case, model, batches, loss.weights))
    result = RelativeFlatness(num_hvps=320, rtol=1e-3)(loss)
    assert result.lower is not None and result.upper is not None
    assert result.lower <= sum(exact.values()) <= result.upper
    assert [layer["name"] for layer in result.layers] == list(exact)
    for layer in result.layers:
        assert abs(layer["relative_flatness"] - exact[layer["name"]]) < 4 * layer["standard_error"]
    assert result.value == pytest.approx(sum(layer["relative_flatness"] for layer in result.layers))
    assert not result.converged and "rtol" in result.reasons["converged"]


def test_it_does_not_see_a_rescaling_that_keeps_the_function() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randint(3, (9,))
    loss = Loss(model, F.cross_entropy, [(x, y)], dtype=torch.float64)
    first, second = loss.layout.unflatten(loss.weights).values()

    def rescaled(alpha: Tensor) -> Tensor:
        w = torch.cat([(alpha[:, None] * first).flatten(), (second / alpha).flatten()])
        assert loss.value(w) == pytest.approx(loss.value(loss.weights), rel=1e-12)
        return w

    # One factor for all neurons: the same random signs give the same numbers for both layers.
    before = RelativeFlatness(num_hvps=10)(loss)
    after = RelativeFlatness(num_hvps=10)(loss, rescaled(torch.full((5,), 10.0, dtype=torch.float64)))
    for one, two in zip(before.layers, after.layers, strict=True):
        assert two["relative_flatness"] == pytest.approx(one["relative_flatness"], rel=1e-9)
    # One factor for each neuron: the layer of these neurons keeps its value, up to the sampling.
    alpha = torch.tensor([10.0, 0.1, 3.0, 1.0, 0.5], dtype=torch.float64)
    probe = RelativeFlatness(num_hvps=640, rtol=1e-3)
    one, two = probe(loss).layers[0], probe(loss, rescaled(alpha)).layers[0]
    spread = (one["standard_error"] ** 2 + two["standard_error"] ** 2) ** 0.5
    assert abs(one["relative_flatness"] - two["relative_flatness"]) < 4 * spread
    assert spread < 0.5 * abs(one["relative_flatness"])


def test_the_root_squares_to_the_gram_matrix_for_every_shape() -> None:
    for shape in ((5, 3), (3, 5), (1, 4), (4, 1)):
        rows = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        root = root_of_gram(rows)
        torch.testing.assert_close(root @ root, rows @ rows.T)
        torch.testing.assert_close(root, root.T)


def test_vectors_alone_have_no_rows() -> None:
    with pytest.raises(InputError, match="with rows"):
        RelativeFlatness()(quadratic(torch.ones(3), torch.ones(3)))


def test_the_seed_decides() -> None:
    values = [RelativeFlatness(num_hvps=10, seed=seed)(small_network()).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
