"""Adam's own preconditioner at a checkpoint, from the state of the optimiser that made it."""

from __future__ import annotations

from pathlib import Path

import torch

from sharpness.checkpoints import MatchReport
from sharpness.checkpoints.optimizer_files import FoundStates, find_states
from sharpness.checkpoints.optimizer_names import moments_by_name
from sharpness.checkpoints.optimizer_states import Moments
from sharpness.checkpoints.wording import naming
from sharpness.curvature.preconditioned import adam_preconditioner
from sharpness.loss import Loss
from sharpness.probes.preconditioned_sharpness import GRADIENTS, Preconditioner


def preconditioner_at(path: Path, loss: Loss, report: MatchReport | None) -> Preconditioner:
    """Return P at the checkpoint at ``path``, as one flat vector of the loss's parameters; without a state, why.

    ``report`` is how its weights fitted the network, ``None`` where they lie in another file.

    Raises :class:`InputError` for a state that is damaged or whose
    parameters are not those of the network.
    """
    found = find_states(path)
    if not found.states:
        return Preconditioner(None, f"{GRADIENTS}: {found.reason}")
    same_file = found.file == path
    with naming(found.file):
        state, moments = moments_by_name(found.states, loss.model, report if same_file else None, loss.layout.names)
    parts = [_diagonal(moments[name]) for name in loss.layout.names]
    return Preconditioner(
        torch.cat(parts), _source(found, state.place, state.step), moments[loss.layout.names[0]].beta1
    )


def _diagonal(moments: Moments) -> torch.Tensor:
    """Return the entries of P for one parameter."""
    v, step = moments.second.detach().reshape(-1).float(), moments.step
    beta2 = moments.beta2 if moments.corrected else 0.0
    beta1 = moments.beta1 if moments.corrected else 0.0
    return adam_preconditioner(v, step, beta1=beta1, beta2=beta2, eps=moments.eps)


def _source(found: FoundStates, place: str, step: int) -> str:
    return f"from the optimiser's state in {found.file.name}{f' ({place})' if place else ''}, step {step}"
