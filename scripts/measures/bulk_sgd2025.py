r"""The measurements of `bulk_sgd2025.py`: branches whose updates are projected, and the gradient's share in a subspace.

With V, shape (k, n), the orthonormal eigenvectors of the k largest eigenvalues of the Hessian of the whole training
loss and P = V'V, an update u of any optimiser becomes ``P u`` ("dominant") or ``u - P u`` ("bulk"). The share of a
vector v is ``|P v|^2 / |v|^2``, from 0 to 1 and k / n for a random one; its root is the chi_k of Song et al. 2025.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from scripts.measures.cohen2021 import losses
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.curvature import HessianOperator
from sharpness.errors import InputError, RunError
from sharpness.linalg.eigenpairs import Eigenpairs
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.loss import Loss
from sharpness.runs.networks import network_loss
from sharpness.training.branches import FIRST_BRANCH_EPOCH, Plan, branching
from sharpness.training.loop import one_update
from sharpness.training.position import EpochSums, Position
from sharpness.training.session import Session
from sharpness.vectors import assign, flatten

KINDS = ("plain", "dominant", "bulk", "full batch")
"""What an update of a branch is: the optimiser's, its part in the top eigenspace, the rest, or of all examples."""


@dataclass(frozen=True)
class Solver:
    """The search for the top eigenspace: its dimension, its relative residuals, and its products."""

    k: int
    rtol: float
    num_hvps: int

    def __call__(self, loss: Loss) -> Eigenpairs:
        """Return the eigenpairs of the k largest eigenvalues of the Hessian at the loss's weights."""
        operator = HessianOperator(loss)
        return extreme_eigenpairs(
            operator, self.k, stop_on="residual", rtol=self.rtol, num_products=min(self.num_hvps, operator.size)
        )


def projected(update: Tensor, basis: Tensor, kind: str) -> Tensor:
    """Return the part of an update (n,) in the space of the rows of an orthonormal basis (k, n), or the rest of it.

    >>> basis = torch.tensor([[1.0, 0.0, 0.0]])
    >>> [projected(torch.tensor([3.0, 4.0, 5.0]), basis, kind).tolist() for kind in ("dominant", "bulk", "plain")]
    [[3.0, 0.0, 0.0], [0.0, 4.0, 5.0], [3.0, 4.0, 5.0]]
    """
    if kind not in ("dominant", "bulk"):
        return update
    inside = basis.T @ (basis @ update)
    return inside if kind == "dominant" else update - inside


def share(v: Tensor, basis: Tensor) -> float | None:
    """Return the share of a vector in the space of a basis, ``None`` where the vector is zero or not finite.

    >>> round(share(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0]])), 6)
    0.36
    """
    whole = float(v.double().square().sum())
    return float((basis @ v).double().square().sum()) / whole if 0 < whole < float("inf") else None


def approach(site: Site, *, k: int, rtol: float, num_hvps: int) -> Rows:
    """Return at each checkpoint of a run, and at its start, loss, top eigenvalue and the gradient's share."""
    solve, rows = Solver(k, rtol, num_hvps), Rows()
    first = network_loss(site.config, site.network("x0"), site.batches(site.dataset.train))
    for step, loss in ((0, first), *((checkpoint.step, loss) for checkpoint, loss in losses(site))):
        rows.append({"step": step} | seen(loss, solve(loss)))
    return rows


def seen(loss: Loss, pairs: Eigenpairs) -> dict[str, Any]:
    """Return the loss at its weights, the gradient's share in the top eigenspace and the largest eigenvalue."""
    assert pairs.eigenvectors is not None  # this solver keeps its basis
    value, gradient = loss.value_and_grad(loss.weights)
    found = {"loss": float(value), "share": share(gradient, pairs.eigenvectors)}
    return found | {"top_eigenvalue": float(pairs.eigenvalues[0]), "converged": pairs.converged}


def branches(
    site: Site,
    *,
    kinds: Sequence[str],
    k: int,
    rtol: float,
    num_hvps: int,
    settle: int,
    updates: int,
    every: int,
    marks: int,
) -> Rows:
    """Return what is seen along branches of each kind, which go on from the end of a run for so many updates.

    All begin at the same weights, with the same state of the optimiser: that after ``settle`` updates more, which the
    run's file of weights does not hold. All see the same examples in the same order, and one rate. The eigenspace is
    found anew every so many updates of a projected branch, and at each of ``marks`` of any. A row has what
    :func:`seen` has, the share of the update that follows before it is projected (``update_share``), and how much of
    the present space the last one still held, on average since the last mark (``kept``; ``None`` where there is none).
    A branch ends with a row without numbers where its weights are not finite.
    """
    final, examples = site.run.final_checkpoint(), len(site.dataset.train)
    training, rows = site.config.training, Rows()
    plan = Plan(training.batch_size, training.learning_rate, training.beta2_half_life, 0, examples)
    with branching(site.run, final, plan, site.dataset, site.device) as session:
        config, at = session.config, Position(epoch=FIRST_BRANCH_EPOCH)
        for _ in range(settle):
            at = one_update(session, at)
        weights, state = flatten(session.model), copy.deepcopy(session.optimizer.state_dict())
        for number, kind in enumerate(kinds):
            size = examples if kind == "full batch" else training.batch_size
            session.config = replace(config, training=replace(config.training, batch_size=size))
            session.sums = EpochSums()
            assign(session.model, weights)
            session.optimizer.load_state_dict(copy.deepcopy(state))  # it goes on in the tensors that it is given
            begin = replace(at, epoch=FIRST_BRANCH_EPOCH + settle + 1, seen=0)
            walked = walk(session, begin, kind, Solver(k, rtol, num_hvps), updates, every, updates // marks)
            rows += [{"kind": kind} | row for row in walked]
            site.progress(number + 1, len(kinds))
    return rows


def walk(
    session: Session, at: Position, kind: str, solve: Solver, updates: int, every: int, mark: int
) -> Iterator[dict[str, Any]]:
    """Make the updates of one branch in place and yield a row at every ``mark`` of them, the first and the last too."""
    basis: Tensor | None = None
    kept: list[float] = []
    for step in range(updates + 1):
        due = step % mark == 0 or step == updates
        row: dict[str, Any] = {}
        if due or (kind in ("dominant", "bulk") and step % every == 0):
            try:
                loss = session.loss_over(session.train)
                pairs = solve(loss)
                row = seen(loss, pairs) if due else {}
            except (InputError, RunError) as error:  # weights or loss are not finite
                yield {"step": step, "loss": None, "reason": str(error)}
                return
            before, basis = basis, pairs.eigenvectors
            kept += [] if before is None or basis is None else [_kept(before, basis)]
        assert basis is not None  # the first step is a mark
        weights = flatten(session.model)
        at = one_update(session, at)
        update = flatten(session.model) - weights
        assign(session.model, weights + projected(update, basis, kind))
        if due:
            mean = sum(kept) / len(kept) if kept else None
            yield {"step": step, "kept": mean, "update_share": share(update, basis)} | row
            kept = []


def _kept(before: Tensor, basis: Tensor) -> float:
    """Return the mean share of the vectors of a basis in the space of another."""
    return float((before @ basis.T).square().sum()) / len(basis)
