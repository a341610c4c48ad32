"""The search for extreme eigenpairs: a Lanczos run, and runs beside the vectors it locked to see what it missed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpness.linalg.basis import random_direction, rotate
from sharpness.linalg.certificates import (
    Polynomials,
    coupled_bounds,
    refutes_its_start,
    share_of_attempt,
    upper_bound,
)
from sharpness.linalg.eigenpairs import Selection, StopOn, Which, select
from sharpness.linalg.krylov import Krylov
from sharpness.linalg.operators import SymmetricOperator
from sharpness.machine.environment import derived_seed


@dataclass(frozen=True)
class SolverKnobs:
    """The request to a search; see :func:`sharpness.linalg.lanczos.extreme_eigenpairs`."""

    k: int
    which: Which
    rtol: float
    confidence: float
    stop_on: StopOn
    max_basis: int | None
    seed: int
    random: bool  # whether the start is, so that bounds hold

    @property
    def num_ends(self) -> int:
        """The number of ends of the spectrum that are bounded."""
        return 1 if self.which in ("top", "bottom") else 2

    @property
    def num_wanted(self) -> int:
        """The number of eigenvalues asked for."""
        return 2 * self.k if self.which == "both" else self.k

    @property
    def verifies(self) -> bool:
        """Return whether there are eigenvalues beside the outermost, which one start can miss."""
        return self.k > 1 and self.stop_on == "interval" and self.random


@dataclass(frozen=True, eq=False)
class RitzPairs:
    """The wanted Ritz pairs of the locked vectors and the basis together, residuals without rounding."""

    selection: Selection
    values: np.ndarray  # (w,)
    coefficients: np.ndarray  # (|V| + m, w)
    residuals: np.ndarray  # (w,)
    tail: float  # the part of `coupling` that the present run can still reduce
    coupling: float  # bound of ||A Y - Y diag(values)|| for all w vectors Y


class End:
    """Upper bounds of the ``count`` largest eigenvalues of A, or of -A for the bottom of the spectrum.

    Each is the least of all that were proven. They hold together unless a start was an unlucky one. Where a Ritz value
    is beyond a bound that is what happened, and all bounds are forgotten (:meth:`refute`, after every product, proven
    or not). That cannot cost coverage, for they were wrong. A run that refutes its own start proves nothing further,
    nor does one whose bound is below a Ritz value of an earlier run.
    """

    def __init__(self, count: int) -> None:
        self.bounds = np.full(count, math.inf)
        self.beside = math.inf  # of the largest eigenvalue of C, by the present run
        self.void = False  # whether the present run has refuted its start
        self.refuted = False  # whether any were ever forgotten
        self.seen = -math.inf  # the largest Ritz value of all runs: the largest eigenvalue of A is not below it

    def begin(self) -> None:
        """Forget the present run, but not what it proved."""
        self.beside, self.void = math.inf, False

    def refute(self, values: np.ndarray, slack: float) -> None:
        """Forget all bounds if one of the largest Ritz ``values`` of A, descending, is beyond its own by ``slack``."""
        self.seen = max([self.seen, *values[:1].tolist()])
        if np.any(values > self.bounds[: len(values)] + slack):
            self._forget()

    def _forget(self) -> None:
        self.bounds[:] = self.beside = math.inf
        self.refuted = True

    def tighten(
        self,
        polynomials: Polynomials,
        size: int,
        level: float,
        values: np.ndarray,
        num_top: int,
        coupling: float,
        slack: float,
    ) -> None:
        """Take the present bound of C, and what it means beside locked ``values``, ``num_top`` of them of this end."""
        if not self.void:
            self.void = polynomials.largest_root > self.beside + slack
            self.void |= refutes_its_start(polynomials, size, level, slack)
            self.beside = min(self.beside, upper_bound(polynomials, size, level))
            new = coupled_bounds(values, num_top, self.beside, coupling, len(self.bounds))
            self.void |= self.seen > new[0] + slack
            if self.void:
                self._forget()
            else:
                self.bounds = np.minimum(self.bounds, new)


class EigenpairSearch:
    """Lanczos from one start, then from random starts beside the locked vectors V, with bounds on all of it.

    A run locks its wanted Ritz vectors once their residuals are small against ``rtol``. The next run, in the complement
    of V and from a new random start, bounds what V leaves (:func:`upper_bound` for ``C``, in R^(n - |V|), the start
    being independent of V), and with that every eigenvalue (:func:`coupled_bounds`). If it finds an eigenvalue beyond
    those locked, the best of both are locked in their place and one more run looks beside them: each run can add
    another copy of a multiple eigenvalue. Run i has the share ``2^-i`` (i = 1, 2, ...) of ``1 - confidence``, halved
    where both ends are bounded. One eigenvalue per end needs a second run only where the first refutes its start, which
    happens with its share of ``1 - confidence`` at most: then a run starts afresh, and run i has its
    :func:`share_of_attempt`. All shares together are 1, so bounds of all runs hold together, however many there were.
    """

    def __init__(self, operator: SymmetricOperator, knobs: SolverKnobs, start: Tensor | None) -> None:
        self.operator, self.knobs = operator, knobs
        self.vectors: list[Tensor] = []
        self.locked: RitzPairs | None = None
        self.num_products = self.num_restarts = self.num_starts = self.num_runs = 0
        self.scale = self.past_defect = 0.0
        self.exact = False  # whether locked vectors and basis span the whole space
        self.top, self.bottom = End(knobs.k + 1), End(knobs.k + 1)
        self.run = self._begin(start)

    def _begin(self, start: Tensor | None = None) -> Krylov:
        if start is None:
            stream = derived_seed(self.knobs.seed, "lanczos", "start", self.num_starts)
            start = random_direction(self.operator, stream, self.vectors)
            self.num_starts += 1
        self.num_runs += 1
        self.began = self.num_products
        self.top.begin()
        self.bottom.begin()
        seed = derived_seed(self.knobs.seed, "lanczos", "run", self.num_runs)
        return Krylov(self.operator, start, self.vectors, seed)

    @property
    def coupling(self) -> float:
        """A bound of ||A V - V diag(values)||."""
        return self.locked.coupling if self.locked else 0.0

    @property
    def defect(self) -> float:
        """The defects of all runs; couplings to V that are larger than its residuals allow are one."""
        excess = max(0.0, float(np.linalg.norm(self.run.crossings)) - self.coupling)
        return math.hypot(self.past_defect, self.run.defect, excess)

    @property
    def slack(self) -> float:
        """Return how far rounding, asymmetry and the operator's own error can move a Ritz value or a bound."""
        num_cycles = self.num_runs + self.num_restarts  # each but the first began with a rotation
        rounding = 8 * torch.finfo(self.operator.dtype).eps * num_cycles * self.scale
        return self.defect + rounding + self.operator.error

    def advance(self) -> RitzPairs:
        """Make one product, after a restart where the basis is full; forget refuted bounds and tighten the others."""
        if len(self.vectors) + len(self.run.basis) == self.knobs.max_basis:
            self._restart()
        self.run.step()
        self.num_products += 1
        self.scale, self.exact = max(self.scale, self.run.scale), self.run.spans_everything
        pairs = self.pairs()
        top, slack = pairs.selection.is_top, self.slack
        self.top.refute(np.sort(pairs.values[top])[::-1], slack)
        self.bottom.refute(np.sort(-pairs.values[~top])[::-1], slack)
        if self.knobs.random and self.run.proven:
            self._tighten()
        return pairs

    def _restart(self) -> None:
        """Keep the wanted Ritz vectors and half of the others, from the ends that matter."""
        assert self.knobs.max_basis is not None
        room = self.knobs.max_basis - len(self.vectors)
        which: str = self.knobs.which
        if self.vectors:  # what is wanted is locked: this run is about the ends of the rest
            which = "both" if which == "magnitude" else which
        wanted = select(self.run.ritz()[0], which, 1 if self.vectors else self.knobs.k)
        spare = min((room - len(wanted.indices)) // 2, room - 1 - len(wanted.indices))
        top, kept = (
            wanted.num_top + {"top": spare, "bottom": 0}.get(which, (spare + 1) // 2),
            len(wanted.indices) + spare,
        )
        if which in ("both", "magnitude"):  # an end of which nothing is kept would never be found: its bound stays open
            top = min(max(top, 1), kept - 1)
        bottom = kept - top
        m = len(self.run.basis)
        self.run.restart(np.concatenate([np.arange(top), np.arange(m - bottom, m)]))
        self.num_restarts += 1

    def _tighten(self) -> None:
        """Bound the ends of C by this run, and by that the eigenvalues of A."""
        knobs, size, polynomials = self.knobs, self.operator.size - len(self.vectors), self.run.polynomials()
        share = 0.5**self.num_runs if knobs.verifies else share_of_attempt(self.num_runs)
        level = (1 - knobs.confidence) / knobs.num_ends * share
        values = self.locked.values if self.locked else np.zeros(0)
        top, bottom = (self.locked.selection.num_top, self.locked.selection.num_bottom) if self.locked else (0, 0)
        slack = self.slack
        if knobs.which != "bottom":
            self.top.tighten(polynomials, size, level, values, top, self.coupling, slack)
        if knobs.which != "top":
            self.bottom.tighten(polynomials.mirrored(), size, level, -values, bottom, self.coupling, slack)

    def pairs(self) -> RitzPairs:
        """Return the wanted Ritz pairs of ``[V, Q]``, whose matrix is ``[[diag, V^T A Q], [., T]]``."""
        values, vectors = self.run.ritz()
        if self.locked:
            crossings = self.run.crossings
            H = np.block([[np.diag(self.locked.values), crossings], [crossings.T, self.run.matrix()]])
            values, vectors = (x[..., ::-1] for x in np.linalg.eigh(H))
        selection = select(values, self.knobs.which, self.knobs.k)
        vectors = vectors[:, selection.indices]
        own = np.abs(self.run.betas[-1] * vectors[-1])
        tail = float(np.linalg.norm(own))
        residuals = own + self.coupling * np.linalg.norm(vectors[: len(self.vectors)], axis=0)
        return RitzPairs(selection, values[selection.indices], vectors, residuals, tail, self.coupling + tail)

    def improves(self, pairs: RitzPairs) -> bool:
        """Return whether these pairs are beyond the locked ones by more than the interval forgives."""
        if self.locked is None:
            return True
        old, new = self.locked.values, pairs.values
        if self.knobs.which == "magnitude":
            gain = np.abs(new) - np.abs(old)
        else:
            gain = np.where(pairs.selection.is_top, new - old, old - new)
        return bool(np.any(gain > np.maximum(self.knobs.rtol / 4 * np.abs(old), self.slack)))

    def settled(self, pairs: RitzPairs) -> bool:
        """Return whether the pairs are good enough to lock: residuals of all runs together at most ``rtol / 4``."""
        allowed = self.knobs.rtol / 4 * 0.5**self.num_runs * float(np.abs(pairs.values).min())
        rounding = 8 * torch.finfo(self.operator.dtype).eps * self.scale
        return len(pairs.values) == self.knobs.num_wanted and pairs.tail <= max(allowed, rounding)

    def gather(self, pairs: RitzPairs) -> None:
        """Make the Ritz vectors of these pairs the locked vectors, in the memory of the basis."""
        vectors = self.vectors + self.run.basis
        self.past_defect = self.defect
        self.run.defect, self.run.crossings = 0.0, np.zeros((0, 0))  # they are part of it now
        self.run.release()
        rotate(vectors, pairs.coefficients)
        self.vectors, self.locked = vectors, pairs

    def lock(self, pairs: RitzPairs) -> None:
        """Lock these pairs and begin a run beside them."""
        self.gather(pairs)
        self.run = self._begin()

    def spent(self, pairs: RitzPairs) -> bool:
        """Return whether an end has no bound, the present run will prove none, and it finds nothing to lock either."""
        if not self.knobs.random or self.exact or (self.knobs.verifies and self.improves(pairs)):
            return False
        ends = {"top": [self.top], "bottom": [self.bottom]}.get(self.knobs.which, [self.top, self.bottom])
        return any(math.isinf(end.bounds[0]) and (end.void or not self.run.proven) for end in ends)

    def start_afresh(self) -> None:
        """Let go of the present basis and begin a run from a new random start beside the same locked vectors."""
        self.past_defect = self.defect
        self.run.release()
        self.run = self._begin()

    def finish(self, pairs: RitzPairs) -> Tensor:
        """Return the Ritz vectors of these pairs, shape ``(w, n)``, and let go of all others; no product after that."""
        if pairs is not self.locked:
            self.gather(pairs)
        self.run.release()
        vectors = torch.stack(self.vectors)
        self.vectors.clear()
        return vectors
