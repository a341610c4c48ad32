"""The same matrices and eigenvalues by curvlinops and SciPy, on uneven batches in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from curvlinops import EFLinearOperator, GGNLinearOperator, HessianLinearOperator
from scipy.sparse.linalg import eigsh
from torch import nn

from sharpness.curvature import FisherOperator, GaussNewtonOperator, HessianOperator
from sharpness.linalg.operators import SymmetricOperator
from sharpness.loss import Loss
from sharpness.probes import TopEigenvalues
from tests.cases import CASES, slow_but

CRITERIA = {
    "mlp": nn.CrossEntropyLoss(),
    "mlp, mean squared error": nn.MSELoss(),
    "convolution": nn.CrossEntropyLoss(),
    "tied weights": nn.CrossEntropyLoss(),
    "gru": nn.CrossEntropyLoss(),
}
OURS: dict[str, Any] = {
    "hessian": (HessianLinearOperator, HessianOperator),
    "gauss_newton": (GGNLinearOperator, GaussNewtonOperator),
    "empirical_fisher": (EFLinearOperator, lambda loss: FisherOperator(loss, seed=None)),
}


def both(name: str, matrix: str) -> tuple[Any, SymmetricOperator]:
    """Return their operator and ours on the same network in evaluation mode."""
    model, batches = CASES[name].build()
    model.eval()
    theirs, ours = OURS[matrix]
    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = theirs(model, CRITERIA[name], parameters, batches).to_scipy(dtype=np.float64)
    return operator, ours(Loss(model, CRITERIA[name], batches, dtype=torch.float64))


@pytest.mark.parametrize("matrix", OURS)
@pytest.mark.parametrize("name", CRITERIA)
def test_products_agree_with_curvlinops(name: str, matrix: str) -> None:
    theirs, ours = both(name, matrix)
    v = np.random.default_rng(0).standard_normal(ours.size)
    # Of a mean over 3 outputs they take gradients of the sum, squared, over 3: three times the square of the mean's.
    scale = 3 if matrix == "empirical_fisher" and name == "mlp, mean squared error" else 1
    np.testing.assert_allclose(scale * ours.matvec(torch.from_numpy(v)).numpy(), theirs @ v, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", slow_but(("mlp", "gru"), CRITERIA))
def test_eigenvalues_agree_with_scipy_on_curvlinops(name: str) -> None:
    theirs, ours = both(name, "hessian")
    assert isinstance(ours, HessianOperator)
    solve: Any = eigsh
    largest = np.sort(solve(theirs, k=3, which="LA", tol=1e-8, return_eigenvectors=False))[::-1]
    result = TopEigenvalues(k=3, rtol=1e-6)(ours.loss)
    np.testing.assert_allclose(result.eigenvalues.numpy(), largest, rtol=1e-6)
