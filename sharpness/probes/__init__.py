"""Probes by name: one question about a minimum per file, each a frozen dataclass of knobs that is called on a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sharpness.probes.density import SpectralDensity
from sharpness.probes.distance import DistanceFromStart
from sharpness.probes.eigenvalues import TopEigenvalues
from sharpness.probes.interpolation import LinearInterpolation
from sharpness.probes.keskar_sharpness import KeskarSharpness
from sharpness.probes.layers import LayerEigenvalues
from sharpness.probes.pyhessian_check import PyHessianCheck
from sharpness.probes.trace import Trace

__all__ = [
    "PROBES",
    "DistanceFromStart",
    "KeskarSharpness",
    "LayerEigenvalues",
    "LinearInterpolation",
    "ProbeInfo",
    "PyHessianCheck",
    "SpectralDensity",
    "TopEigenvalues",
    "Trace",
]


@dataclass(frozen=True)
class ProbeInfo:
    """One row of ``sharpness probes``: the class, the points it is called with, and what it asks."""

    probe: type[Any]
    points: tuple[str, ...]
    description: str


PROBES: dict[str, ProbeInfo] = {
    "eigenvalues": ProbeInfo(TopEigenvalues, ("w",), "top Hessian eigenvalues by Lanczos, with a proven interval"),
    "layers": ProbeInfo(LayerEigenvalues, ("w",), "extreme eigenvalues of each layer's block of the Hessian"),
    "density": ProbeInfo(SpectralDensity, ("w",), "spectral density, negative eigenvalues and effective rank"),
    "trace": ProbeInfo(Trace, ("w",), "trace of the Hessian with a standard error"),
    "keskar": ProbeInfo(KeskarSharpness, ("w",), "Metric 2.1 of Keskar et al. 2017: largest loss rise in a small box"),
    "distance": ProbeInfo(DistanceFromStart, ("w", "x0"), "distance of the weights from where training started"),
    "interpolation": ProbeInfo(
        LinearInterpolation, ("w", "other"), "loss and accuracy on the line to another checkpoint"
    ),
    "pyhessian": ProbeInfo(PyHessianCheck, ("w",), "cross-check of the top eigenvalue by PyHessian"),
}
