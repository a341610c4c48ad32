"""The tools of the curvature benchmark, ours and its peers, each called as its own documentation has it."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from scripts.benchmarks.networks import Problem
from scripts.benchmarks.tools import Counted, Tool, peer
from sharpness.curvature import HessianOperator
from sharpness.data.batches import Batch
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.probes import TopEigenvalues

SEED = 0
SOLVE: Any = eigsh  # SciPy declares its tol as an integer
ADAPTER = {"adapter": "the dict batches were turned into pairs (tokens, next tokens) by the benchmark"}
Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Answer:
    """A tool's answer on the top eigenvalue; ``converged`` is by the tool's own rule, ``None`` if it tells nothing."""

    value: float
    num_hvps: int
    converged: bool | None
    lower: float | None = None
    upper: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)


def certified(loss: Loss, rtol: float = 1e-2, seed: int = SEED, **knobs: Any) -> Answer:
    """Return the top eigenvalue of our Lanczos with its interval at 99 %."""
    result = TopEigenvalues(rtol=rtol, confidence=0.99, seed=seed, **knobs)(loss)
    return Answer(result.value or 0.0, result.num_hvps, result.converged, result.lower, result.upper)


def ours(problem: Problem, seed: int = SEED) -> Answer:
    """Return the eigenvalue of our Lanczos, certified to 1 % at 99 %."""
    return certified(problem.loss(), seed=seed)


def ours_unproven(problem: Problem) -> Answer:
    """Return the eigenvalue of our Lanczos, stopped at a residual of 1 %: a lower bound, and nothing proven above."""
    return certified(problem.loss(), stop_on="residual")


def pyhessian(problem: Problem, seed: int = SEED, tol: float = 1e-3, max_iterations: int = 100) -> Answer:
    """Return PyHessian's power iteration with its default knobs (Yao et al. 2020)."""
    measure = _pyhessian(problem, seed)
    values, _ = measure.eigenvalues(maxIter=max_iterations, tol=tol, top_n=1)
    calls = measure.dataloader_hv_product.calls
    reasons = {"converged": "it reports none: it stopped before its ceiling"} | _adapter(problem)
    return Answer(float(values[0]), calls, calls < max_iterations, reasons=reasons)


def eigenthings_lanczos(problem: Problem, k: int) -> Answer:
    """Return the first of ``k`` eigenvalues by the Lanczos of hessian-eigenthings, which takes ``2 k`` steps.

    The default is 10.
    """
    operator = _eigenthings_operator(problem)
    result = peer("hessian_eigenthings").lanczos(operator, k=min(k, operator.size - 1), seed=SEED)
    return Answer(float(result.eigenvalues[0]), operator.matvec.calls, bool(result.converged[0]))


def eigenthings_power(problem: Problem) -> Answer:
    """Return the power iteration of hessian-eigenthings with tol 1e-2, of the change and of the residual."""
    operator = _eigenthings_operator(problem)
    result = peer("hessian_eigenthings").deflated_power_iteration(operator, k=1, tol=1e-2, seed=SEED)
    return Answer(float(result.eigenvalues[0]), operator.matvec.calls, bool(result.converged[0]))


def curvlinops_eigsh(problem: Problem) -> Answer:
    """Return SciPy's eigsh (largest algebraic, tol 1e-2) on the HessianLinearOperator of curvlinops.

    Its constructor checks with two products and two gradients that the data are the same each time: counted, too.
    """
    model, _, batches = as_pairs(problem)
    kind = peer("curvlinops").HessianLinearOperator
    counted = Counted(kind._matmat)

    class CountingOperator(kind):
        def _matmat(self, M: list[Tensor]) -> list[Tensor]:
            return counted(self, M)

    operator = CountingOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), batches)
    return _largest(operator.to_scipy(dtype=np.float32), counted, SEED, _adapter(problem))


def own_eigsh(problem: Problem, seed: int = SEED) -> Answer:
    """Return SciPy's eigsh (largest algebraic, tol 1e-2) on our own Hessian: our products, their algorithm."""
    operator = HessianOperator(problem.loss())

    def product(v: NDArray[np.float32]) -> NDArray[np.float32]:
        return operator.matvec(torch.from_numpy(v.reshape(-1).astype(np.float32))).numpy()

    counted: Any = Counted(product)
    shape = (operator.size, operator.size)
    return _largest(LinearOperator(shape, matvec=counted, dtype=np.float32), counted, seed, {})  # pyright: ignore[reportCallIssue]


TOOLS = {
    "ours": Tool("sharpness, certified 1 % at 99 %", ours, "sharpness"),
    "ours-residual": Tool("sharpness, residual 1 %, upper end not proven", ours_unproven, "sharpness"),
    "pyhessian": Tool("PyHessian, power iteration, tol 1e-3", pyhessian, "pyhessian"),
    "eigenthings-lanczos": Tool(
        "hessian-eigenthings, Lanczos, k = 1", functools.partial(eigenthings_lanczos, k=1), "hessian-eigenthings"
    ),
    "eigenthings-lanczos-10": Tool(
        "hessian-eigenthings, Lanczos, k = 10", functools.partial(eigenthings_lanczos, k=10), "hessian-eigenthings"
    ),
    "eigenthings-power": Tool("hessian-eigenthings, power, tol 1e-2", eigenthings_power, "hessian-eigenthings"),
    "curvlinops-eigsh": Tool("curvlinops, SciPy eigsh, tol 1e-2", curvlinops_eigsh, "curvlinops-for-pytorch"),
    "own-eigsh": Tool("our operator, SciPy eigsh, tol 1e-2", own_eigsh, "scipy"),
}
SEEDED = ("ours", "pyhessian", "own-eigsh")
"""The tools that are also called from several random starts: how many products a start takes is luck in part."""


class _NextToken(nn.Module):
    """A causal language model as a function from tokens to the logits of the tokens that follow, one row each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits[:, :-1].flatten(0, 1)


def as_pairs(problem: Problem) -> tuple[nn.Module, Callable[[Any, Any], Tensor], list[Batch]]:
    """Return network, criterion and pairs of the same mean loss, for tools that know no dict batches."""
    if problem.criterion is not None:
        return problem.model, problem.criterion, list(problem.batches)
    pairs = [(batch["input_ids"], batch["labels"][:, 1:].flatten()) for batch in problem.batches]
    return _NextToken(problem.model), nn.CrossEntropyLoss(), pairs


def _adapter(problem: Problem) -> dict[str, str]:
    return ADAPTER if problem.criterion is None else {}


def _pyhessian(problem: Problem, seed: int) -> Any:
    """Return PyHessian's object over all batches, with its product counted."""
    model, criterion, batches = as_pairs(problem)
    warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
    torch.manual_seed(derived_seed(seed, "benchmark", "pyhessian"))
    measure = peer("pyhessian").hessian(model, criterion, dataloader=batches, cuda=False)
    measure.dataloader_hv_product = Counted(measure.dataloader_hv_product)
    return measure


def _eigenthings_operator(problem: Problem) -> Any:
    """Return the Hessian of hessian-eigenthings, whose mean over batches has no weights: ours are of equal size."""
    library = peer("hessian_eigenthings")
    own = problem.criterion is None
    function = library.hf_lm_loss() if own else library.supervised_loss(problem.criterion)
    operator = library.HessianOperator(problem.model, list(problem.batches), function)
    operator.matvec = Counted(operator.matvec)
    return operator


def _largest(operator: Any, counted: Counted, seed: int, reasons: dict[str, str]) -> Answer:
    """Return SciPy's largest algebraic eigenvalue with tol 1e-2, and the products that ``counted`` has seen."""
    rng = np.random.default_rng(derived_seed(seed, "benchmark", "eigsh"))
    start = rng.standard_normal(operator.shape[0]).astype(np.float32)
    try:
        values = SOLVE(operator, k=1, which="LA", tol=1e-2, v0=start, return_eigenvectors=False)
    except ArpackNoConvergence as error:
        if len(error.eigenvalues) == 0:
            raise
        reasons = {"converged": " ".join(str(error).split())} | reasons
        return Answer(float(error.eigenvalues[0]), counted.calls, False, reasons=reasons)
    return Answer(float(values[0]), counted.calls, True, reasons=reasons)


# PyHessian's trace and density, for the comparison of estimators.


def pyhessian_trace(problem: Problem, seed: int, max_iterations: int = 100, tol: float = 1e-3) -> tuple[float, int]:
    """Return PyHessian's trace (by default at most 100 products, tol 1e-3) and the number of its products."""
    samples = _pyhessian(problem, seed).trace(maxIter=max_iterations, tol=tol)
    return float(np.mean(samples)), len(samples)


def pyhessian_density(problem: Problem, seed: int, starts: int = 1) -> tuple[Arrays, int]:
    """Return nodes and weights of PyHessian's density and its products, by default those of 100 steps and 1 start."""
    measure = _pyhessian(problem, seed)
    nodes, weights = measure.density(n_v=starts)
    return (np.ravel(np.array(nodes, float)), np.ravel(np.array(weights, float))), measure.dataloader_hv_product.calls


@contextlib.contextmanager
def with_torch_eig() -> Iterator[None]:
    """Give PyHessian the ``torch.eig`` that torch has removed: real and imaginary parts, and real eigenvectors."""

    def eig(matrix: Tensor, eigenvectors: bool = False) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eig(matrix)
        return torch.view_as_real(values), vectors.real

    namespace: Any = sys.modules["torch"]
    removed = namespace.eig
    namespace.eig = eig
    try:
        yield
    finally:
        namespace.eig = removed
