"""Which layers are sharp? Extreme eigenvalues of each layer's diagonal block of a curvature matrix."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor

from sharpness.curvature import per_layer
from sharpness.linalg.eigenpairs import Which
from sharpness.loss import Loss
from sharpness.probes.eigenvalues import EigenvaluesResult, TopEigenvalues
from sharpness.probes.evidence import Evidence, ProbeResult, Progress
from sharpness.probes.spectra import CurvatureProbe


@dataclass(frozen=True, kw_only=True)
class LayersResult(ProbeResult):
    """The eigenvalues of every layer by its name; ``value`` is the largest of all, with the interval of that layer."""

    layers: Mapping[str, EigenvaluesResult] = field(repr=False)

    def details(self) -> dict[str, Any]:
        """Return for each layer its name, size, eigenvalues with intervals, and cost."""
        return {
            "layers": [
                {
                    "name": name,
                    "size": result.evidence.parameters["count"],
                    **result.details(),
                    "num_hvps": result.num_hvps,
                }
                for name, result in self.layers.items()
            ]
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {result.value:.4g}" for name, result in self.layers.items())
        return f"{parts}, {self.num_hvps} HVPs, {self.seconds:.1f} s{'' if self.converged else ', NOT converged'}"


@dataclass(frozen=True, kw_only=True)
class LayerEigenvalues(CurvatureProbe):
    """The k extreme eigenvalues of each layer's own block, the other layers held fixed; see :class:`TopEigenvalues`.

    A layer is a module that owns parameters. By Cauchy interlacing no block has an eigenvalue above the whole matrix's
    largest or below its smallest. Layers with fewer than 2 k parameters give as many as they have.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Sequential(torch.nn.Linear(2, 1)), torch.nn.functional.mse_loss, [batch])
    >>> round(LayerEigenvalues(k=1)(loss).value, 3)        # 2 (|x|^2 + 1)
    52.0
    """

    k: int = 3
    which: Which = "both"
    rtol: float = 1e-2
    confidence: float = 0.99
    num_hvps: int = 100

    def __call__(self, loss: Loss, w: Tensor | None = None, *, progress: Progress | None = None) -> LayersResult:
        """Measure at ``w``, or at the loss's own weights; ``num_hvps`` is the ceiling for each layer."""
        started = time.perf_counter()
        results: dict[str, EigenvaluesResult] = {}
        for name, part in per_layer(loss, w).items():
            ends = 2 if self.which == "both" else 1
            k = min(self.k, max(1, part.layout.size // ends))
            which: Which = "top" if part.layout.size == 1 else self.which
            results[name] = TopEigenvalues(**self._shared(started), k=k, which=which)(part, progress=progress)
        sharpest = max(results.values(), key=lambda result: result.value or 0.0)
        return LayersResult(
            probe="layers",
            quantity=self.quantity("layer_eigenvalue"),
            knobs=asdict(self),
            value=sharpest.value,
            lower=sharpest.lower,
            upper=sharpest.upper,
            confidence=sharpest.confidence,
            residual=sharpest.residual,
            converged=all(result.converged for result in results.values()),
            num_hvps=sum(result.num_hvps for result in results.values()),
            seed=self.seed,
            hvp_backend=sharpest.hvp_backend,
            evidence=Evidence.collect(loss, started),
            layers=results,
        )

    def _shared(self, started: float) -> dict[str, Any]:
        """Return the knobs that go to every layer; what is left of ``seconds`` bounds the next one."""
        names = {f.name for f in fields(TopEigenvalues)} & {f.name for f in fields(self)} - {"k", "which", "seconds"}
        left = None if self.seconds is None else max(self.seconds - (time.perf_counter() - started), 1e-3)
        return {name: getattr(self, name) for name in names} | {"seconds": left}
