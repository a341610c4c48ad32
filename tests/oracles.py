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


def dense_hessian(case: Case, model: nn.Module, batches: list[Any], w: Tensor) -> Tensor:
    """Return the n x n Hessian of :func:`whole_loss` at w, all rows at once by reverse over reverse.

    Not ``torch.func.hessian``: its forward-over-reverse gives an asymmetric matrix for BatchNorm on batch statistics
    (torch 2.13; off by 1.8 in a block where finite differences of the gradient confirm the matrix of this function).
    """
    dense = torch.autograd.functional.hessian(whole_loss(case, model, batches), w, vectorize=False)
    assert isinstance(dense, Tensor)
    torch.testing.assert_close(dense, dense.T, rtol=1e-9, atol=1e-11)
    return dense


def matrix_with_eigenvalues(eigenvalues: Tensor, seed: int) -> Tensor:
    """Return a dense symmetric float64 matrix with this spectrum in random orthonormal directions."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))
    return q @ torch.diag(eigenvalues.double()) @ q.T
