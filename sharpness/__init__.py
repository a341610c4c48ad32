"""How flat or sharp is the minimum a network sits in, and does that go with how well it generalises?

Its public names are loaded when they are first used; a folder imports only from those below it in
``tests/test_imports.py``, where ``errors`` is the lowest and ``cli`` the highest.

>>> import sharpness as sh
>>> sh.TopEigenvalues(k=1, rtol=1e-2, confidence=0.99).k
1
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpness.curvature import FisherOperator as FisherOperator
    from sharpness.curvature import GaussNewtonOperator as GaussNewtonOperator
    from sharpness.curvature import HessianOperator as HessianOperator
    from sharpness.data import Batches as Batches
    from sharpness.data import load_dataset as load_dataset
    from sharpness.errors import InputError as InputError
    from sharpness.errors import RunError as RunError
    from sharpness.landscapes import Barrier as Barrier
    from sharpness.landscapes import EigenPlane as EigenPlane
    from sharpness.landscapes import Interpolation as Interpolation
    from sharpness.landscapes import ModeConnectivity as ModeConnectivity
    from sharpness.landscapes import RandomPlane as RandomPlane
    from sharpness.landscapes import RandomRays as RandomRays
    from sharpness.landscapes import ThreePointPlane as ThreePointPlane
    from sharpness.landscapes import TrajectoryPlane as TrajectoryPlane
    from sharpness.linalg.operators import FunctionOperator as FunctionOperator
    from sharpness.linalg.operators import scaled as scaled
    from sharpness.linalg.operators import shifted as shifted
    from sharpness.linalg.operators import to_dense as to_dense
    from sharpness.loss import Loss as Loss
    from sharpness.machine.progress import ProgressBar as ProgressBar
    from sharpness.measure.advise import advise as advise
    from sharpness.probes import AdaptiveRadius as AdaptiveRadius
    from sharpness.probes import AverageCaseSharpness as AverageCaseSharpness
    from sharpness.probes import BatchSharpness as BatchSharpness
    from sharpness.probes import CriticalSharpness as CriticalSharpness
    from sharpness.probes import Diagonal as Diagonal
    from sharpness.probes import DirectionalSharpness as DirectionalSharpness
    from sharpness.probes import DistanceFromStart as DistanceFromStart
    from sharpness.probes import Drift as Drift
    from sharpness.probes import FisherRaoNorm as FisherRaoNorm
    from sharpness.probes import FisherTrace as FisherTrace
    from sharpness.probes import GeneralisedSharpness as GeneralisedSharpness
    from sharpness.probes import GeodesicSharpness as GeodesicSharpness
    from sharpness.probes import GradientNoise as GradientNoise
    from sharpness.probes import Interaction as Interaction
    from sharpness.probes import KeskarMaximum as KeskarMaximum
    from sharpness.probes import KeskarSharpness as KeskarSharpness
    from sharpness.probes import LayerEigenvalues as LayerEigenvalues
    from sharpness.probes import LearningCoefficient as LearningCoefficient
    from sharpness.probes import OccamFactor as OccamFactor
    from sharpness.probes import PacBayesSigma as PacBayesSigma
    from sharpness.probes import PreconditionedNoise as PreconditionedNoise
    from sharpness.probes import PreconditionedSharpness as PreconditionedSharpness
    from sharpness.probes import PyHessianCheck as PyHessianCheck
    from sharpness.probes import RelativeFlatness as RelativeFlatness
    from sharpness.probes import Rounding as Rounding
    from sharpness.probes import SamSharpness as SamSharpness
    from sharpness.probes import SpectralDensity as SpectralDensity
    from sharpness.probes import TopEigenvalues as TopEigenvalues
    from sharpness.probes import Trace as Trace
    from sharpness.probes import WeightNorms as WeightNorms
    from sharpness.probes import WorstCaseSharpness as WorstCaseSharpness
    from sharpness.training.tracker import Tracker as Tracker
    from sharpness.vectors import flatten as flatten


def _homes() -> dict[str, str]:
    """Return the module of each public name, as the imports above have it, which only type checkers follow."""
    imports = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module is not None and node.module.startswith("sharpness.")]
    return {name.name: str(node.module) for node in ours for name in node.names}


# Loaded at first use, so that reading records does not load torch.
_HOMES = _homes()
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sharpness' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
