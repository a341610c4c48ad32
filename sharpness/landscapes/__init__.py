"""Landscapes by name: loss and accuracy on lines, rays, planes and curves, each a frozen dataclass of knobs.

Probes, training and measurements import from here; this folder stands on the loss, curvature and symmetries.
"""

from __future__ import annotations

from sharpness.landscapes.barrier import Barrier
from sharpness.landscapes.connectivity import ModeConnectivity
from sharpness.landscapes.interpolation import Interpolation
from sharpness.landscapes.planes import EigenPlane, RandomPlane, ThreePointPlane, TrajectoryPlane
from sharpness.landscapes.rays import RandomRays
from sharpness.results import ProbeInfo

__all__ = [
    "LANDSCAPES",
    "Barrier",
    "EigenPlane",
    "Interpolation",
    "ModeConnectivity",
    "RandomPlane",
    "RandomRays",
    "ThreePointPlane",
    "TrajectoryPlane",
]

LANDSCAPES: dict[str, ProbeInfo] = {
    "interpolation": ProbeInfo(
        Interpolation, ("w", "other"), "the straight line, or the arc, through two checkpoints: loss and accuracy"
    ),
    "barrier": ProbeInfo(
        Barrier, ("w", "other"), "the barrier on that line, plainly and after matching hidden units (Git Re-Basin)"
    ),
    "connectivity": ProbeInfo(
        ModeConnectivity, ("w", "other"), "a Bezier curve or chain of low loss trained between two checkpoints"
    ),
    "rays": ProbeInfo(RandomRays, ("w",), "random rays from a checkpoint: how wide it is"),
    "random_plane": ProbeInfo(
        RandomPlane, ("w",), "two random directions, plain or normalised by filters (Li et al. 2018)"
    ),
    "eigen_plane": ProbeInfo(EigenPlane, ("w",), "the plane of the top two Hessian eigenvectors"),
    "three_point_plane": ProbeInfo(
        ThreePointPlane, ("w", "other", "third"), "the plane through three checkpoints (Garipov et al. 2018)"
    ),
    "trajectory_plane": ProbeInfo(
        TrajectoryPlane, ("w", "trajectory"), "the plane of the first two principal components of a training trajectory"
    ),
}
"""Every landscape, by the name that its records have."""
