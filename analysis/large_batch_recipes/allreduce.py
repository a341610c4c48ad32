"""Time on many workers: a model of a data-parallel step whose gradients meet in a ring or on a 2D torus."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sharpness.errors import InputError


@dataclass(frozen=True)
class Cluster:
    """The speed of a worker and its links; all numbers are assumptions that stand beside every result.

    A message of s bytes takes ``latency + s / bandwidth`` seconds, and a worker sends one while it receives another.
    Nothing overlaps with anything else: neither the gradients of one layer with the backward pass of the next, nor
    reading the data with computing, so the times are those of a plain implementation.
    """

    seconds_per_example: float
    """Forward and backward pass of one example on one worker."""
    seconds_per_step: float
    """The part of a step that does not depend on the share of the batch, such as the update of the weights."""
    bandwidth: float
    """Bytes per second and direction."""
    latency: float
    """Seconds per message."""
    bytes_per_number: int = 4
    """The bytes of a gradient that is sent, for each parameter."""

    def __str__(self) -> str:
        return (
            f"{1e6 * self.seconds_per_example:g} us per example, {1e6 * self.seconds_per_step:g} us per step, links of "
            f"{self.bandwidth / 1e9:g} GB/s and {1e6 * self.latency:g} us, {self.bytes_per_number} bytes per number"
        )


def ring_seconds(size: float, workers: int, cluster: Cluster) -> float:
    """Return the seconds in which a ring of p workers adds up vectors of n = ``size`` bytes so that all have the sum.

    ``2 (p - 1) / p n / bandwidth + 2 (p - 1) latency``: p - 1 messages of n / p bytes scatter the sum and as many
    gather it (Patarasuk and Yuan 2009, J. Parallel Distrib. Comput. 69).

    >>> ring_seconds(8e9, 2, Cluster(0, 0, bandwidth=1e9, latency=0.5))
    9.0
    """
    _check_workers(workers)
    steps = 2 * (workers - 1)
    return steps * (cluster.latency + size / workers / cluster.bandwidth)


def torus_shape(workers: int) -> tuple[int, int]:
    """Return columns and rows of the torus that is nearest to a square, at least as many columns as rows.

    >>> torus_shape(4096), torus_shape(2048), torus_shape(7)
    ((64, 64), (64, 32), (7, 1))
    """
    _check_workers(workers)
    rows = next(side for side in range(math.isqrt(workers), 0, -1) if workers % side == 0)
    return workers // rows, rows


def torus_seconds(size: float, workers: int, cluster: Cluster) -> float:
    """Return the seconds of the 2D-torus all-reduce of n = ``size`` bytes over p = x y workers, x columns and y rows.

    Mikami et al. 2018 (arXiv 1811.05233): the rows scatter the sum in rings of x, the columns add up their share, n / x
    bytes, in rings of y, and the rows gather: ``2 (x - 1) (latency + n / (x bandwidth)) + 2 (y - 1) (latency +
    n / (x y bandwidth))``. It moves as many bytes as one ring of all, in ``2 (x + y - 2)`` messages where that needs
    ``2 (p - 1)``.

    >>> torus_seconds(4e9, 4, Cluster(0, 0, bandwidth=1e9, latency=0.5))
    8.0
    """
    columns, rows = torus_shape(workers)
    return ring_seconds(size, columns, cluster) + ring_seconds(size / columns, rows, cluster)


ALLREDUCE: Mapping[str, Callable[[float, int, Cluster], float]] = {"ring": ring_seconds, "2D torus": torus_seconds}
"""Seconds for a number of bytes on so many workers, by the name of the topology."""


def step_seconds(topology: str, batch: int, workers: int, parameters: int, cluster: Cluster) -> float:
    """Return the seconds of one step of a batch shared by the workers; those beyond one per example are idle.

    ``seconds_per_step + ceil(B / p) seconds_per_example + allreduce(parameters bytes_per_number, p)``

    >>> step_seconds("ring", 8, 16, 10, Cluster(seconds_per_example=1.0, seconds_per_step=2.0, bandwidth=1, latency=0))
    73.0
    """
    _check_workers(workers)
    used = min(workers, batch)
    compute = cluster.seconds_per_step + math.ceil(batch / used) * cluster.seconds_per_example
    return compute + ALLREDUCE[topology](parameters * cluster.bytes_per_number, used, cluster)


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise InputError(f"expected at least 1 worker, got {workers}: correct the number")
