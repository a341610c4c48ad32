"""Extreme eigenvalues of each layer's diagonal block of a curvature matrix."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.curvature import per_layer
from sharpness.errors import InputError
from sharpness.linalg.eigenpairs import Which
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.eigenvalues import EigenvaluesResult, TopEigenvalues
from sharpness.probes.methods.random_parts import CONFIDENCE, NUM_PARTS
from sharpness.probes.methods.spectra import CurvatureProbe
from sharpness.results import ProbeResult

WHY_NO_RESIDUAL = {"residual": "each layer has its own: see details"}


@dataclass(frozen=True, kw_only=True)
class LayersResult(ProbeResult):
    """The eigenvalues of every layer by its name; ``value`` is the largest of all (the smallest for ``bottom``).

    Its interval is from the largest lower to the largest upper bound, at the confidence of all layers together.
    """

    layers: Mapping[str, EigenvaluesResult] = field(repr=False)
    kinds: Mapping[str, str | None] = field(repr=False)
    """The class of each layer's module by the layer's name, ``None`` for one of the whole network."""

    def details(self) -> dict[str, Any]:
        """Return for each layer its name, kind, size, eigenvalues with intervals, and cost."""
        return {
            "layers": [
                {
                    "name": name,
                    "kind": self.kinds[name],
                    "size": result.evidence.parameters["count"],
                    **result.details(),
                    "num_hvps": result.num_hvps,
                    "sampling": result.sampling,
                }
                for name, result in self.layers.items()
            ]
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {result.value:.4g}" for name, result in self.layers.items())
        return f"{parts}, {self.num_hvps} HVPs, {self.seconds:.1f} s{'' if self.converged else ', NOT converged'}"


@dataclass(frozen=True, kw_only=True)
class LayerEigenvalues(CurvatureProbe[LayersResult]):
    """The k extreme eigenvalues of each layer's own block, the other layers held fixed; see :class:`TopEigenvalues`.

    A layer is a module that owns parameters. By Cauchy interlacing no block has an eigenvalue above the whole matrix's
    largest or below its smallest. All intervals hold together with probability ``confidence``. Layers with fewer
    parameters than eigenvalues asked for give as many as they have at that end.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Sequential(torch.nn.Linear(2, 1)), torch.nn.functional.mse_loss, [batch])
    >>> round(LayerEigenvalues(k=1)(loss).value, 3)        # 2 (|x|^2 + 1)
    52.0
    """

    name = "layers"

    k: int = 1
    which: Which = "top"
    rtol: float = 1e-2
    confidence: float = 0.99
    num_hvps: int = 100

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        sampled: bool = False,
        resume: Path | None = None,
        progress: Progress | None = None,
    ) -> LayersResult:
        """Measure at ``w``; ``num_hvps`` is the ceiling for each layer.

        ``sampled`` says that the examples are a random sample: each layer then has an interval over their choice, and
        all of these hold together at 95 %. ``resume`` is a folder for the products of all layers: a solve that was
        killed goes on from there.
        """
        started = time.perf_counter()
        self.check_seconds()
        if self.which == "magnitude":
            raise InputError("expected which='top', 'bottom' or 'both' for layers, got 'magnitude': use 'both'")
        parts, results = per_layer(loss, w), dict[str, EigenvaluesResult]()
        for name, part in parts.items():
            k = min(self.k, max(1, part.layout.size // (2 if self.which == "both" else 1)))
            which: Which = "top" if part.layout.size == 1 else self.which
            probe = TopEigenvalues(**self._shared(started, len(parts)), k=k, which=which)
            folder = None if resume is None else resume / name
            level = 1 - (1 - CONFIDENCE) / len(parts)
            results[name] = probe(part, sampled=sampled, sampling_confidence=level, resume=folder, progress=progress)
        extreme = min if self.which == "bottom" else max
        lowers, uppers = ([getattr(result, end) for result in results.values()] for end in ("lower", "upper"))
        backends = {result.hvp_backend for result in results.values()}
        return LayersResult(
            quantity=self.quantity("layer_eigenvalue"),
            value=extreme(float(result.eigenvalues[0]) for result in results.values()),
            lower=None if None in lowers else extreme(lowers),
            upper=None if None in uppers else extreme(uppers),
            confidence=self.confidence,
            converged=all(result.converged for result in results.values()),
            num_hvps=sum(result.num_hvps for result in results.values()),
            seed=self.seed,
            hvp_backend="finite_difference" if "finite_difference" in backends else "exact",
            **self._over_examples(results, sampled),
            layers=results,
            kinds=_kinds(loss, results),
        )

    def _over_examples(self, results: Mapping[str, EigenvaluesResult], sampled: bool) -> dict[str, Any]:
        """Return the interval of the extreme of all layers over the choice of examples, or why there is none."""
        if not sampled:
            return {"reasons": WHY_NO_RESIDUAL}
        found = [result.sampling for result in results.values() if result.sampling is not None]
        if len(found) < len(results):
            why = next(result.reasons["sampling"] for result in results.values() if result.sampling is None)
            return {"reasons": WHY_NO_RESIDUAL | {"sampling": why}}
        extreme = min if self.which == "bottom" else max
        ends = {end: extreme(each[end] for each in found) for end in ("lower", "upper")}
        cost = sum(each["num_hvps"] for each in found)
        joint = {"confidence": CONFIDENCE, "num_parts": NUM_PARTS, "num_hvps": cost}
        return {"reasons": WHY_NO_RESIDUAL, "sampling": ends | joint}

    def _shared(self, started: float, num_layers: int) -> dict[str, Any]:
        """Return the knobs that go to every layer; together their intervals have the confidence asked for.

        What is left of ``seconds`` bounds the next layer.
        """
        names = {f.name for f in fields(TopEigenvalues)} & {f.name for f in fields(self)} - {"k", "which"}
        shared = {name: getattr(self, name) for name in names}
        shared["confidence"] = 1 - (1 - self.confidence) / num_layers
        if self.seconds is not None:
            shared["seconds"] = max(self.seconds - (time.perf_counter() - started), 1e-3)
        return shared


def _kinds(loss: Loss, layers: Iterable[str]) -> dict[str, str | None]:
    modules = dict(loss.model.named_modules())
    return {name: type(modules[name]).__name__ if name in modules else None for name in layers}
