"""A cross-check: the top eigenvalue by PyHessian beside ours, on the same data."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.data.batches import cast
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.eval_mode import batch_norms
from sharpness.machine.distributed import from_all_ranks
from sharpness.machine.progress import Progress
from sharpness.probes.eigenvalues import TopEigenvalues
from sharpness.results import Probe, ProbeResult
from sharpness.vectors import assign


@dataclass(frozen=True, kw_only=True)
class PyHessianResult(ProbeResult):
    """PyHessian's eigenvalue as ``value``, ours and its interval, and whether the two agree."""

    ours: float
    ours_lower: float
    ours_upper: float
    relative_difference: float
    agree: bool

    def __str__(self) -> str:
        verdict = "agreement" if self.agree else "DISAGREEMENT"
        return (
            f"{verdict}: PyHessian {self.value:.5g}, "
            f"ours {self.ours:.5g} in [{self.ours_lower:.5g}, {self.ours_upper:.5g}] "
            f"on {self.evidence.num_examples} examples, relative difference {self.relative_difference:.1e}"
        )


@dataclass(frozen=True)
class PyHessianCheck(Probe[PyHessianResult]):
    """The top eigenvalue by PyHessian's power iteration (Yao et al. 2020) and by ours, on the same loss.

    Power iteration finds the eigenvalue of largest magnitude and stops when two iterates differ by a relative ``tol``,
    which is not an error bound, so the two count as agreeing when they differ by at most ``agreement`` relatively.

    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch])
    >>> PyHessianCheck()(loss).agree
    True
    """

    name = "pyhessian"

    tol: float = 1e-3
    max_iterations: int = 100
    agreement: float = 0.02
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> PyHessianResult:
        """Measure at ``w``; the loss needs a criterion and pairs (inputs, targets)."""
        if loss.criterion is None:
            raise InputError("expected a criterion for PyHessian, got a model with its own loss: it takes pairs only")
        w = loss.point(loss.weights if w is None else w)
        ours = TopEigenvalues(rtol=1e-3, seed=self.seed)(loss, w, progress=progress)
        theirs = self._pyhessian(loss, w) + loss.weight_decay  # PyHessian knows no penalty
        difference = abs(theirs - ours.eigenvalues[0].item()) / max(abs(ours.eigenvalues[0].item()), 1e-300)
        assert ours.lower is not None and ours.upper is not None
        return PyHessianResult(
            quantity="top_eigenvalue_pyhessian",
            value=theirs,
            reasons={
                "residual": "PyHessian reports none",
                "num_hvps": "ours only: PyHessian does not count its products",
            },
            num_hvps=ours.num_hvps,
            seed=self.seed,
            hvp_backend="exact",
            ours=ours.eigenvalues[0].item(),
            ours_lower=ours.lower,
            ours_upper=ours.upper,
            relative_difference=difference,
            agree=difference <= self.agreement,
        )

    def _pyhessian(self, loss: Loss, w: Tensor) -> float:
        from pyhessian import hessian  # its import takes a while, and only this function needs it

        # PyHessian leaves gradients on the model and switches it to evaluation mode: it gets a copy.
        model = copy.deepcopy(loss.model).to(dtype=loss.dtype)
        assign(model, w)
        for module in batch_norms(model) if loss.norm == "batch" else ():
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
        shards = from_all_ranks(list(loss.batches))  # every process gets all the data: PyHessian knows no shards
        batches = [cast(batch, loss.device, loss.dtype) for shard in shards for batch in shard]
        data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
        devices = [loss.device] if loss.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
            torch.manual_seed(self.seed)
            values, _ = hessian(model, loss.criterion, **data, cuda=loss.device.type == "cuda").eigenvalues(
                maxIter=self.max_iterations, tol=self.tol, top_n=1
            )
        return float(values[0])
