"""The loss in two dimensions: random directions, top eigenvectors, three checkpoints, or a training trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sharpness.curvature import HessianOperator, remembering
from sharpness.errors import InputError
from sharpness.landscapes.directions import Frame, frame_through, principal_frame, random_direction
from sharpness.landscapes.evaluations import Sampling
from sharpness.landscapes.grid import Plane, PlaneLandscape, PlaneResult, measure_plane
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed

DISTANCE = "distance in weight space"


@dataclass(frozen=True, kw_only=True)
class RandomPlane(PlaneLandscape):
    """Loss and accuracy at ``w + x d_1 + y d_2`` for two random directions, ``x`` and ``y`` in [-span, span].

    With ``normalisation='filter'`` each filter of a direction is as long as that of the weights, vectors stay as they
    are (:func:`sharpness.landscapes.directions.filter_normalised`): Li et al. 2018 (arXiv 1712.09913), section 4, whose
    pictures are 51 x 51 on [-1, 1]. With ``none`` the directions have length 1 and the axes are distances. Gaussian
    directions are at right angles only nearly; the record has the cosine. The statistics of BatchNorm are the ``norm``
    mode of the loss.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.eye(2), torch.zeros(2, 1))])
    >>> result = RandomPlane(num_points=3, normalisation="none")(loss, torch.tensor([0.0, 0.0]))
    >>> result.curves["train_loss"][1][1], result.marks[0]["train_loss"]
    (0.0, 0.0)
    """

    span: float = 1.0
    normalisation: str = "filter"
    seed: int = 0

    name = "random_plane"

    def check(self) -> None:
        """Raise :class:`InputError` for a grid or a span that is none."""
        super().check()
        _check_span(self.span)

    def sample(self, loss: Loss, sampling: Sampling, w: Tensor) -> PlaneResult:
        """Return the plane of two random directions."""
        u, v = (random_direction(loss, w, self.normalisation, derived_seed(self.seed, i)) for i in (1, 2))
        unit = "filter lengths" if self.normalisation == "filter" else DISTANCE
        plane = Plane(
            frame=Frame(w, u, v),
            x_range=(-self.span, self.span),
            y_range=(-self.span, self.span),
            axes=[("first random direction", unit), ("second random direction", unit)],
            marks=[(_name(sampling), w)],
            facts={"normalisation": self.normalisation},
        )
        return measure_plane(self, loss, sampling, plane)


@dataclass(frozen=True, kw_only=True)
class EigenPlane(PlaneLandscape):
    """Loss and accuracy in the plane of the Hessian's top two eigenvectors, ``x`` and ``y`` distances in [-span, span].

    The eigenvectors are those of ``rtol`` and ``num_hvps`` as in :class:`sharpness.probes.TopEigenvalues`, ended by
    their residuals; their products are kept under ``resume`` too. Near the checkpoint the loss is ``L + g^T d +
    (lambda_1 x^2 + lambda_2 y^2) / 2``. Where the loss recomputes the statistics of BatchNorm at each point, which
    defines no derivative, the Hessian is that with the statistics at ``w`` held fixed.
    """

    span: float = 1.0
    rtol: float = 1e-2
    num_hvps: int = 200
    seed: int = 0

    name = "eigen_plane"

    def check(self) -> None:
        """Raise :class:`InputError` for a grid or a span that is none."""
        super().check()
        _check_span(self.span)

    def sample(self, loss: Loss, sampling: Sampling, w: Tensor) -> PlaneResult:
        """Return the plane of the eigenvectors, and what they cost."""
        operator = HessianOperator(loss.with_fixed_statistics(w), w)
        product = remembering(operator, None if sampling.resume is None else sampling.resume / "products")
        knobs: dict[str, Any] = {"rtol": self.rtol, "num_products": self.num_hvps, "seed": self.seed}
        pairs = extreme_eigenpairs(product, 2, stop_on="residual", **knobs)
        assert pairs.eigenvectors is not None  # this solver keeps its basis
        first, second = pairs.eigenvectors.to(w.dtype)
        eigenvalues, residuals = pairs.eigenvalues.tolist(), pairs.residuals.tolist()
        plane = Plane(
            frame=Frame(w, first, second),
            x_range=(-self.span, self.span),
            y_range=(-self.span, self.span),
            axes=[("first eigenvector", DISTANCE), ("second eigenvector", DISTANCE)],
            marks=[(_name(sampling), w)],
            facts={"eigenvalues": eigenvalues, "residuals": residuals, "normalisation": "none"},
        )
        result = measure_plane(self, loss, sampling, plane)
        costs: dict[str, Any] = {"num_hvps": pairs.num_products, "hvp_backend": operator.backend}
        return replace(result, **costs, converged=pairs.converged)


@dataclass(frozen=True, kw_only=True)
class ThreePointPlane(PlaneLandscape):
    """Loss and accuracy in the plane through three checkpoints, coordinates as distances from the first.

    Garipov et al. 2018 (arXiv 1802.10026), section 3, and Izmailov et al. 2018 (arXiv 1803.05407), Figure 3, where the
    three are solutions of SGD and SWA. The range is the smallest that holds all three, and ``margin`` of it on each
    side. Each is marked with its own loss.
    """

    margin: float = 0.25

    name = "three_point_plane"

    def sample(self, loss: Loss, sampling: Sampling, w: Tensor, second: Tensor, third: Tensor) -> PlaneResult:
        """Return the plane through the points."""
        points, names = (w, second, third), sampling.names or ("first", "second", "third")
        frame = frame_through(*points)
        x_range, y_range = _ranges(frame, points, self.margin)
        plane = Plane(
            frame=frame,
            x_range=x_range,
            y_range=y_range,
            axes=[(f"towards {names[1]}", DISTANCE), (f"towards {names[2]}, at right angles", DISTANCE)],
            marks=list(zip(names, points, strict=True)),
            facts={"normalisation": "none"},
        )
        return measure_plane(self, loss, sampling, plane)


@dataclass(frozen=True, kw_only=True)
class TrajectoryPlane(PlaneLandscape):
    """Loss and accuracy in the plane of the first two principal components of a training trajectory.

    The components are of the differences to the final weights, not to their mean: Li et al. 2018 (arXiv 1712.09913),
    section 7.2; the record has their shares of the variance. The trajectory is drawn by its projections; each of its
    points has its own loss and its distance from the plane beside them. The range is the smallest that holds all
    projections, and ``margin`` of it on each side. The first point is the end of the training, the others come in its
    order.
    """

    margin: float = 0.25

    name = "trajectory_plane"

    def sample(self, loss: Loss, sampling: Sampling, w: Tensor, *trajectory: Tensor) -> PlaneResult:
        """Return the plane of the trajectory."""
        names = sampling.names or ("final", *map(str, range(1, len(trajectory) + 1)))
        frame, shares = principal_frame(w, trajectory)
        x_range, y_range = _ranges(frame, [w, *trajectory], self.margin)
        plane = Plane(
            frame=frame,
            x_range=x_range,
            y_range=y_range,
            axes=[(f"principal component {i} ({100 * share:.1f} %)", DISTANCE) for i, share in enumerate(shares, 1)],
            marks=[(names[0], w)],
            trajectory=[*zip(names[1:], trajectory, strict=True), (names[0], w)],
            facts={"explained_variance": shares, "normalisation": "none"},
        )
        return measure_plane(self, loss, sampling, plane)


def _name(sampling: Sampling) -> str:
    """Return the name of the checkpoint in the middle of a plane."""
    return sampling.names[0] if sampling.names else "checkpoint"


def _check_span(span: float) -> None:
    if not span > 0:
        raise InputError(f"expected a positive span, got {span}: 1 is usual")


def _ranges(frame: Frame, points: Sequence[Tensor], margin: float) -> list[tuple[float, float]]:
    """Return the ranges of both coordinates that hold all points, widened by a share of the longer one on each side."""
    if not margin >= 0:
        raise InputError(f"expected a margin that is not negative, got {margin}: 0.25 is usual")
    coordinates = [frame.coordinates(point)[:2] for point in points]
    ranges = [(min(values), max(values)) for values in zip(*coordinates, strict=True)]
    pad = margin * max(high - low for low, high in ranges)
    return [(low - pad, high + pad) for low, high in ranges]
