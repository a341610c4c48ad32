"""Probes by name: one question about a minimum per file, each a frozen dataclass of knobs that is called on a loss.

They import the loss, curvature, ``linalg`` and landscapes, and know neither run folders nor training.
"""

from __future__ import annotations

from typing import Any

from sharpness.landscapes.interpolation import Interpolation
from sharpness.probes.adaptive_radius import AdaptiveRadius
from sharpness.probes.average_case import AverageCaseSharpness
from sharpness.probes.batch_sharpness import BatchSharpness
from sharpness.probes.critical_sharpness import CriticalSharpness
from sharpness.probes.density import SpectralDensity
from sharpness.probes.diagonal import Diagonal
from sharpness.probes.directional_sharpness import DirectionalSharpness
from sharpness.probes.distance import DistanceFromStart
from sharpness.probes.drift import Drift
from sharpness.probes.eigenvalues import TopEigenvalues
from sharpness.probes.fisher_rao import FisherRaoNorm
from sharpness.probes.fisher_trace import FisherTrace
from sharpness.probes.generalised_sharpness import GeneralisedSharpness
from sharpness.probes.geodesic_sharpness import GeodesicSharpness
from sharpness.probes.gradient_noise import GradientNoise
from sharpness.probes.interaction import Interaction
from sharpness.probes.keskar_maximum import KeskarMaximum
from sharpness.probes.keskar_sharpness import KeskarSharpness
from sharpness.probes.layers import LayerEigenvalues
from sharpness.probes.learning_coefficient import LearningCoefficient
from sharpness.probes.norms import WeightNorms
from sharpness.probes.occam import OccamFactor
from sharpness.probes.pac_bayes import PacBayesSigma
from sharpness.probes.preconditioned_noise import PreconditionedNoise
from sharpness.probes.preconditioned_sharpness import PreconditionedSharpness
from sharpness.probes.pyhessian_check import PyHessianCheck
from sharpness.probes.relative_flatness import RelativeFlatness
from sharpness.probes.rounding import Rounding
from sharpness.probes.sam import SamSharpness
from sharpness.probes.trace import Trace
from sharpness.probes.worst_case import WorstCaseSharpness
from sharpness.results import Probe, ProbeInfo

PROBES: dict[str, ProbeInfo] = {
    "eigenvalues": ProbeInfo(TopEigenvalues, ("w",), "top Hessian eigenvalues by Lanczos, with a proven interval"),
    "layers": ProbeInfo(LayerEigenvalues, ("w",), "extreme eigenvalues of each layer's block of the Hessian"),
    "density": ProbeInfo(SpectralDensity, ("w",), "spectral density, negative eigenvalues and effective rank"),
    "trace": ProbeInfo(Trace, ("w",), "trace of the Hessian with a standard error"),
    "diagonal": ProbeInfo(Diagonal, ("w",), "diagonal of the Hessian, exact or with standard errors, by layer"),
    "keskar": ProbeInfo(KeskarSharpness, ("w",), "Metric 2.1 of Keskar et al. 2017: largest loss rise in a small box"),
    "keskar_maximum": ProbeInfo(KeskarMaximum, ("w",), "Metric 2.1 with its maximum climbed until it stops growing"),
    "worst_case": ProbeInfo(
        WorstCaseSharpness, ("w",), "largest loss rise in an l2 or linf ball: plain, adaptive or by filters"
    ),
    "geodesic_sharpness": ProbeInfo(
        GeodesicSharpness, ("w",), "largest loss rise along geodesics that do not see attention's symmetry"
    ),
    "sam": ProbeInfo(SamSharpness, ("w",), "loss rise after one step of SAM"),
    "average_case": ProbeInfo(
        AverageCaseSharpness, ("w",), "mean loss rise under Gaussian noise, with a standard error"
    ),
    "critical_sharpness": ProbeInfo(
        CriticalSharpness, ("w",), "2 over the smallest step along the gradient that raises the loss"
    ),
    "directional_sharpness": ProbeInfo(DirectionalSharpness, ("w",), "curvature over slope along the gradient"),
    "batch_sharpness": ProbeInfo(BatchSharpness, ("w",), "curvature of random batches along their own gradients"),
    "interaction": ProbeInfo(
        Interaction, ("w",), "curvature of the whole loss along the gradients of random batches: GNI or IAS"
    ),
    "pac_bayes": ProbeInfo(
        PacBayesSigma, ("w",), "largest Gaussian noise in the weights for a stated rise of the loss"
    ),
    "adaptive_radius": ProbeInfo(
        AdaptiveRadius, ("w",), "largest relative change of all weights for a stated rise of the loss"
    ),
    "rounding": ProbeInfo(
        Rounding, ("w",), "loss rise under rounding to few bits: expected, along the rounding, and measured"
    ),
    "drift": ProbeInfo(Drift, ("w",), "loss rise under drift of the weights: by the curvature, and measured"),
    "learning_coefficient": ProbeInfo(LearningCoefficient, ("w",), "local learning coefficient by Langevin dynamics"),
    "relative_flatness": ProbeInfo(RelativeFlatness, ("w",), "relative flatness of each layer (Petzka et al. 2021)"),
    "norms": ProbeInfo(WeightNorms, ("w",), "l2 and spectral norms of the weights"),
    "occam": ProbeInfo(OccamFactor, ("w",), "Occam factor of Smith and Le from the spectral density"),
    "fisher_trace": ProbeInfo(FisherTrace, ("w",), "trace of the Fisher matrix"),
    "fisher_rao_norm": ProbeInfo(FisherRaoNorm, ("w",), "size of the weights in the metric of the Fisher matrix"),
    "preconditioned_sharpness": ProbeInfo(
        PreconditionedSharpness, ("w",), "top eigenvalue of the Hessian as Adam sees it"
    ),
    "generalised_sharpness": ProbeInfo(
        GeneralisedSharpness, ("w",), "largest curvature as sign descent or Muon sees it, from below"
    ),
    "gradient_noise": ProbeInfo(
        GradientNoise, ("w",), "gradient noise scale B_simple and B_noise, best step by batch size"
    ),
    "preconditioned_noise": ProbeInfo(PreconditionedNoise, ("w",), "gradient noise scale as Adam sees it"),
    "distance": ProbeInfo(DistanceFromStart, ("w", "x0"), "distance of the weights from where training started"),
    "interpolation": ProbeInfo(Interpolation, ("w", "other"), "loss and accuracy on the line to another checkpoint"),
    "pyhessian": ProbeInfo(PyHessianCheck, ("w",), "cross-check of the top eigenvalue by PyHessian"),
}

QUICK: dict[str, Probe[Any]] = {
    "norms": WeightNorms(),
    "distance": DistanceFromStart(),
    "critical_sharpness": CriticalSharpness(checks=4),
    "gradient_noise": GradientNoise(num_hvps=0),  # the noise scale alone: what needs H takes a product an example
    "eigenvalues": TopEigenvalues(),
    "keskar": KeskarSharpness(),
    "worst_case": WorstCaseSharpness(num_starts=1, steps=10),  # adaptive: no rescaling of the weights moves it
    "trace": Trace(method="krylov", rtol=0.1, num_hvps=20),  # 8 of them are those of the eigenvalue
}
"""A first answer: each as cheap as it can be and still say how sure it is."""
