"""A mean over random batches: what batch sharpness and the gradient-noise interaction share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sharpness.loss.minibatches import Minibatches
from sharpness.machine.progress import Progress
from sharpness.probes.methods.sampled_mean import SampledMean, sampled_mean
from sharpness.results import MERGED, ProbeResult


@dataclass(frozen=True, kw_only=True)
class BatchMeanResult(ProbeResult):
    """The mean over random batches as ``value`` with its interval; ``mean`` is ``None`` where one batch is all."""

    mean: SampledMean | None = field(repr=False, metadata=MERGED)
    batch_size: int

    def __str__(self) -> str:
        cost = f"{self.num_hvps} batches of {self.batch_size}, {self.seconds:.1f} s"
        if self.value is None:
            return f"none: {self.reasons['value']}, {cost}"
        sure = f" at {100 * self.knobs['confidence']:g} %"
        interval = "" if self.lower is None else f" in [{self.lower:.5g}, {self.upper:.5g}]{sure}"
        return f"{self.value:.5g}{interval}, {cost}{'' if self.converged else ', NOT converged'}"


def mean_over_batches(
    term: Callable[[int], float | None],
    batches: Minibatches,
    *,
    most: int,
    rtol: float,
    confidence: float,
    progress: Progress | None,
) -> dict[str, Any]:
    """Return the fields of a result: the mean of ``term`` over random batches, or its value where there is one batch.

    ``term(i)`` is of the i-th random batch, ``None`` where that has no value; the mean stops as
    :func:`sharpness.probes.methods.sampled_mean.sampled_mean` does.
    """
    if batches.size < batches.total:
        mean = sampled_mean(term, most=most, rtol=rtol, confidence=confidence, progress=progress)
        return {"batch_size": batches.size, "mean": mean, **mean.fields()}
    whole = term(0)
    reasons = dict.fromkeys(["lower", "upper", "confidence"], "there is one batch of all the data")
    reasons |= {} if whole is not None else {"value": "the gradient is zero"}
    found = {"value": whole, "converged": whole is not None, "reasons": reasons}
    return {"batch_size": batches.size, "mean": None, **found}
