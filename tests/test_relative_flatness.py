"""Relative flatness against the double sum over dense blocks, and its invariance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.curvature import HessianOperator
from sharpness.errors import InputError
from sharpness.linalg.operators import to_dense
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


class Columns(nn.Module):
    """Linear layers side by side, each on inputs of its own."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.layers), 1)
        return torch.cat([layer(part) for layer, part in zip(self.layers, parts, strict=True)], 1)


def _fill(weight: Tensor, inputs: int) -> None:
    """Draw weights of neurons that are alike and of inputs whose signs take turns: only pairs of neurons count."""
    nn.init.uniform_(weight, 0.5, 1)
    weight.data.transpose(0, inputs)[1::2] *= -1


def stored_both_ways(kind: str) -> tuple[nn.Module, Tensor, nn.Module, Tensor]:
    """Return a layer with its inputs, and the same map of layers that store the weights into a neuron as a row."""
    torch.manual_seed(0)
    x = torch.rand(9, 4, dtype=torch.float64)
    if kind == "Conv1D":
        layer, other = pytest.importorskip("transformers.pytorch_utils").Conv1D(3, 4), nn.Linear(4, 3, bias=False)
        _fill(layer.weight, inputs=0)
        other.weight.data = layer.weight.data.T.clone()
        return layer, x, other, x
    if kind == "Embedding":
        layer, other, tokens = nn.Embedding(5, 3), nn.Linear(5, 3, bias=False), torch.arange(9) % 5
        _fill(layer.weight, inputs=0)
        other.weight.data = layer.weight.data.T.clone()
        return layer, tokens, other, F.one_hot(tokens, 5).double()
    if kind == "ConvTranspose1d":
        layer, other = nn.ConvTranspose1d(2, 3, 2, bias=False), nn.Conv1d(2, 3, 2, padding=1, bias=False)
        _fill(layer.weight, inputs=0)
        other.weight.data = layer.weight.data.transpose(0, 1).flip(2).clone()
        return layer, x.view(9, 2, 2), other, x.view(9, 2, 2)
    options: dict[str, Any] = {"kernel_size": 1, "groups": 2, "bias": False}
    layer = (nn.Conv1d if kind == "groups" else nn.ConvTranspose1d)(4, 6, **options)
    _fill(layer.weight, inputs=int(kind == "groups"))
    other = Columns(*(nn.Linear(2, 3, bias=False) for _ in "12"))
    for one, weight in zip(other.layers, layer.weight.data.chunk(2), strict=True):
        one.weight.data = (weight if kind == "groups" else weight.transpose(0, 1)).squeeze(2).clone()
    return layer, x.unsqueeze(2), other, x


@pytest.mark.parametrize("kind", ["Conv1D", "Embedding", "ConvTranspose1d", "groups", "ConvTranspose1d in groups"])
def test_one_map_has_one_number_however_its_weights_are_stored(kind: str) -> None:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return (output.flatten(1).sum(1) - target).square().mean()

    y = torch.linspace(-1, 1, 9, dtype=torch.float64)
    layer, x, other, same = stored_both_ways(kind)
    loss, reference = (
        Loss(each.double(), criterion, [(inputs, y)], parameters="*weight", dtype=torch.float64)
        for each, inputs in ((layer, x), (other, same))
    )
    assert loss.value(loss.weights) == pytest.approx(reference.value(reference.weights), rel=1e-12)
    exact = sum(by_definition(reference, to_dense(HessianOperator(reference))).values())
    result = RelativeFlatness(num_hvps=320, rtol=1e-3)(loss)
    (row,) = result.layers
    assert abs(row["relative_flatness"] - exact) < 4 * row["standard_error"]
    assert row["standard_error"] < 0.1 * abs(exact)


def test_a_shared_weight_is_read_as_its_first_layer_reads_it() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 5, bias=False))
    model[2].weight = model[0].weight
    loss = Loss(model, F.cross_entropy, [(torch.arange(5), torch.tensor([1, 2, 3, 4, 0]))], dtype=torch.float64)
    w, dense = loss.layout.unflatten(loss.weights)["0.weight"], to_dense(HessianOperator(loss)).view(5, 3, 5, 3)
    exact = float(torch.einsum("is,it,jsjt->", w, w, dense))
    (row,) = RelativeFlatness(num_hvps=320, rtol=1e-3)(loss).layers
    assert abs(row["relative_flatness"] - exact) < 4 * row["standard_error"] < 0.4 * abs(exact)


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
