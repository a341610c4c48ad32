"""Relative flatness of Petzka et al. 2021: how flat each layer is, relative to its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.curvature import HessianOperator
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.sampled_mean import SampledMean, sampled_mean
from sharpness.results import MERGED, Probe, ProbeResult
from sharpness.symmetries.permutations.operations import CONVOLUTIONS, TRANSPOSED

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, kw_only=True)
class RelativeFlatnessResult(ProbeResult):
    """The sum over all weight matrices as ``value`` with its interval; each matrix's own in ``layers``."""

    layers: list[dict[str, Any]]
    mean: SampledMean = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        assert self.value is not None
        parts = ", ".join(f"{layer['name']} {layer['relative_flatness']:.4g}" for layer in self.layers[-4:])
        more = f"{len(self.layers) - 4} more, " if len(self.layers) > 4 else ""
        return (
            f"{self.value:.5g} in [{self.lower:.5g}, {self.upper:.5g}] over all layers ({more}{parts}), "
            f"{self.num_hvps} HVPs, {self.seconds:.1f} s{'' if self.converged else ', NOT converged'}"
        )


@dataclass(frozen=True)
class RelativeFlatness(Probe[RelativeFlatnessResult]):
    """``kappa(W) = sum_{s,s'} <w_s, w_s'> tr H_{s,s'}`` for each weight W with rows w_s, H_{s,s'} their Hessian blocks.

    Petzka et al. 2021 (arXiv 2001.00939), who take one layer, the last ones; here all parameters with rows are
    measured: fully connected layers, and convolutions with their filters as rows. A row is what goes into one neuron,
    however it is stored (:func:`by_neuron`); neurons of two groups of a convolution, which see different inputs, make
    no pair. An embedding is the linear layer of one-hot tokens that it is, with a row for each entry of its vectors. A
    weight that layers share is read as the first of them reads it. It does not change where a layer, or single rows of
    it, are rescaled and the next layer undoes that; the next layer's own does not where all rows are rescaled alike.
    ``value`` is the sum over all of them, which is not in the paper. Small is flat; it is negative where the loss
    curves down.

    With S the root of ``W W^T`` it is the trace of ``S H S``, sampled with random signs Z of the shape of W: one
    product with ``S Z`` of all layers at once serves them all (Hutchinson 1990): terms between layers average out.
    Stops when the half width of the sum is at most ``rtol`` times it; ``num_hvps`` is the ceiling.

    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.ones_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> result = RelativeFlatness()(loss)
    >>> result.lower < 2 * 50 < result.upper                   # |w|^2 tr(2 x x^T)
    True
    """

    name = "relative_flatness"

    rtol: float = 5e-2
    confidence: float = 0.95
    num_hvps: int = 320
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> RelativeFlatnessResult:
        """Measure at ``w``; :class:`InputError` where no parameter has rows."""
        draws = _Draws(loss, w, self.seed)
        mean = sampled_mean(draws, most=self.num_hvps, rtol=self.rtol, confidence=self.confidence, progress=progress)
        return RelativeFlatnessResult(
            **mean.fields(),
            num_hvps=mean.num_drawn,
            seed=self.seed,
            hvp_backend=draws.operator.backend,
            layers=draws.layers(),
            mean=mean,
        )


class _Draws:
    """One random product after the other; keeps what each gives for every weight matrix."""

    def __init__(self, loss: Loss, x: Tensor, seed: int) -> None:
        pieces = loss.layout.unflatten(x)
        self.names = [name for name, piece in pieces.items() if piece.ndim >= 2]
        if not self.names:
            raise InputError(f"expected a parameter with rows, got {', '.join(pieces)}: measure a layer with weights")
        self.loss, self.seed, self.operator = loss, seed, HessianOperator(loss, x)
        self.layers_of = _layers_of(loss.model)
        self.roots = {name: root_of_gram(self._rows(name, pieces[name]).flatten(2)) for name in self.names}
        self.made = list[dict[str, float]]()

    def __call__(self, index: int) -> float:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "relative_flatness", index))
        v = torch.zeros_like(self.operator.w)
        parts = self.loss.layout.unflatten(v)
        for name in self.names:
            signs = torch.randint(2, parts[name].shape, generator=generator).mul_(2).sub_(1).to(v)
            rows = self._rows(name, signs)
            self._rows(name, parts[name]).copy_((self.roots[name] @ rows.flatten(2)).view(rows.shape))
        products = self.loss.layout.unflatten(self.operator.matvec(v))
        self.made.append({name: float((parts[name] * products[name]).sum(dtype=torch.float64)) for name in self.names})
        return sum(self.made[-1].values())

    def _rows(self, name: str, piece: Tensor) -> Tensor:
        return by_neuron(self.layers_of.get(name), piece)

    def layers(self) -> list[dict[str, Any]]:
        """Return the mean and its standard error for each weight matrix, in the order of the network."""
        rows = []
        for name in self.names:
            values = torch.tensor([made[name] for made in self.made], dtype=torch.float64)
            error = float(values.std() / len(values) ** 0.5)
            rows.append({"name": name, "relative_flatness": float(values.mean()), "standard_error": error})
        return rows


def by_neuron(layer: nn.Module | None, weight: Tensor) -> Tensor:
    """Return a view of the weight of a layer, (groups, neurons of each, ...), with what goes into each neuron.

    Embeddings, transposed convolutions and Transformers' Conv1D store it the other way round, inputs first.

    >>> by_neuron(nn.ConvTranspose2d(4, 6, 3, groups=2), torch.zeros(4, 3, 3, 3)).shape
    torch.Size([2, 3, 2, 3, 3])
    """
    groups = layer.groups if isinstance(layer, CONVOLUTIONS + TRANSPOSED) else 1
    rows = weight.unflatten(0, (groups, -1))
    inputs_first = isinstance(layer, TRANSPOSED + EMBEDDINGS) or type(layer).__name__ == "Conv1D"
    return rows.transpose(1, 2) if inputs_first else rows


def _layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the first layer whose ``weight`` each parameter is, by the parameter's name."""
    layers: dict[int, nn.Module] = {}
    for layer in model.modules():
        if (weight := dict(layer.named_parameters(recurse=False)).get("weight")) is not None:
            layers.setdefault(id(weight), layer)
    return {name: layers[id(weight)] for name, weight in model.named_parameters() if id(weight) in layers}


def root_of_gram(rows: Tensor) -> Tensor:
    """Return the symmetric root of ``W W^T``, shape (..., m, m), for rows W of shape (..., m, d), by singular values.

    >>> root_of_gram(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor([[3., 0.],
            [0., 4.]])
    """
    u, values, _ = torch.linalg.svd(rows, full_matrices=False)
    return (u * values.unsqueeze(-2)) @ u.mT
