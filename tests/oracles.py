"""Independent answers: the loss written out once more without batches of its own, and the dense Hessian of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.cases import Case


def whole_loss(case: Case, model: nn.Module, batches: list[Any]) -> Callable[[Tensor], Tensor]:
    """Return w -> mean loss, from one batch of all the data; with batch statistics, the mean over the given batches.

    It shares no code with ``Loss``: parameters are cut out of w by hand and the criterion averages by itself. It sees
    wrong weights of uneven batches, wrong modes and wrong layouts; a wrong criterion it would not see.
    """
    names = [(name, p.shape) for name, p in model.named_parameters() if p.requires_grad]
    model.eval()
    if case.norm == "batch":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.track_running_stats, module.running_mean, module.running_var = False, None, None

    def value(w: Tensor) -> Tensor:
        parameters, at = {}, 0
        for name, shape in names:
            parameters[name] = w[at : at + shape.numel()].view(shape)
            at += shape.numel()
        with sdpa_kernel(SDPBackend.MATH):
            if case.criterion is None:
                return functional_call(model, parameters, (), merged(batches)).loss
            if case.norm == "batch":
                total = sum(len(y) for _, y in batches)
                parts = [
                    len(y) / total * case.criterion(functional_call(model, parameters, (x,)), y) for x, y in batches
                ]
                return torch.stack(parts).sum()
            x, y = merged(batches)
            return case.criterion(functional_call(model, parameters, (x,)), y)

    return value


def merged(batches: list[Any]) -> Any:
    """Return all batches as one."""
    if isinstance(batches[0], dict):
        return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def directions(size: int, count: int = 6) -> Tensor:
    """Return random float64 directions, ``(size, count)``, on which two matrices differ wherever an entry does.

    That is almost surely, and so a few products tell as much as all columns do.
    """
    return torch.randn(size, count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def dense_hessian(case: Case, model: nn.Module, batches: list[Any], w: Tensor) -> Tensor:
    """Return the n x n Hessian of :func:`whole_loss` at w, all rows at once by reverse over reverse.

    Not ``torch.func.hessian``: its forward-over-reverse gives an asymmetric matrix for BatchNorm on batch statistics
    (torch 2.13; off by 1.8 in a block where finite differences of the gradient confirm the matrix of this function).
    """
    dense = torch.autograd.functional.hessian(whole_loss(case, model, batches), w, vectorize=False)
    assert isinstance(dense, Tensor)
    torch.testing.assert_close(dense, dense.T, rtol=1e-9, atol=1e-11)
    return dense


def hessian_times(case: Case, model: nn.Module, batches: list[Any], w: Tensor, V: Tensor) -> Tensor:
    """Return ``dense_hessian(...) @ V`` by reverse over reverse too: a pass for each column of V."""
    leaf = w.detach().clone().requires_grad_()
    value = whole_loss(case, model, batches)(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    columns = [torch.autograd.grad(gradient, leaf, v, retain_graph=True, materialize_grads=True)[0] for v in V.T]
    return torch.stack(columns, dim=1)


def matrix_with_eigenvalues(eigenvalues: Tensor, seed: int) -> Tensor:
    """Return a dense symmetric float64 matrix with this spectrum in random orthonormal directions."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))
    return q @ torch.diag(eigenvalues.double()) @ q.T


def _outputs(case: Case, model: nn.Module, batch: Any) -> Callable[[Tensor], Tensor]:
    """Return w -> outputs on one batch, sharing no code with ``Loss``; call :func:`whole_loss` first for the norms."""
    names = [(name, p.shape) for name, p in model.named_parameters() if p.requires_grad]

    def outputs(w: Tensor) -> Tensor:
        pieces = torch.split(w, [shape.numel() for _, shape in names])
        parameters = {name: piece.view(shape) for (name, shape), piece in zip(names, pieces, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(model, parameters, (batch[0],))

    return outputs


def dense_gauss_newton(case: Case, model: nn.Module, batches: list[Any], w: Tensor) -> Tensor:
    """Return ``J^T H J`` from the whole Jacobian and the criterion's Hessian, batch by batch only for batch norms."""
    whole_loss(case, model, batches)
    criterion = case.criterion
    assert criterion is not None
    parts = batches if case.norm == "batch" else [merged(batches)]
    total, dense = sum(len(y) for _, y in parts), torch.zeros(len(w), len(w), dtype=w.dtype)
    for x, y in parts:
        outputs = _outputs(case, model, (x, y))
        z = outputs(w).detach()
        J = torch.autograd.functional.jacobian(outputs, w)
        H = torch.autograd.functional.hessian(lambda flat, z=z, y=y: criterion(flat.view_as(z), y), z.flatten())
        assert isinstance(J, Tensor) and isinstance(H, Tensor)
        J = J.reshape(-1, len(w))
        dense += len(y) / total * J.T @ H @ J
    return dense


def dense_empirical_fisher(case: Case, model: nn.Module, batches: list[Any], w: Tensor) -> Tensor:
    """Return ``sum_n g_n g_n^T / sum_n c_n`` with g_n the gradient of one example's summed loss."""
    whole_loss(case, model, batches)
    x, y = merged(batches)
    criterion = case.criterion
    assert criterion is not None
    weight, ignored = getattr(case.criterion, "weight", None), getattr(case.criterion, "ignore_index", None)
    dense, total = torch.zeros(len(w), len(w), dtype=w.dtype), 0.0
    for n in range(len(x)):
        count = 1.0 if weight is None else float(weight[y[n]])
        if ignored is not None and int(y[n]) == ignored:
            continue
        leaf = w.clone().requires_grad_()
        value = count * criterion(_outputs(case, model, (x[n : n + 1], None))(leaf), y[n : n + 1])
        (g,) = torch.autograd.grad(value, leaf, materialize_grads=True)
        dense, total = dense + torch.outer(g, g), total + count
    return dense / total


# What differs between any two runs: where and how fast it was measured.
CONDITIONS = {"seconds", "peak_memory", "threads", "versions", "kept_bytes"}


def assert_alike(one: Any, two: Any, rtol: float, where: str = "record") -> None:
    """Compare two records as plain types: numbers to ``rtol``, everything else exactly, the conditions not at all."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one.keys() - CONDITIONS:
            assert_alike(one[key], two[key], rtol, f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_alike(a, b, rtol, f"{where}[{i}]")
    elif isinstance(one, float) and isinstance(two, float):
        assert abs(one - two) <= rtol * max(abs(one), abs(two)) + 1e-3 * rtol, f"{where}: {one} {two}"
    else:
        assert one == two, where
