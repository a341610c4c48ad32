"""The loss barrier on the line between two minima, before and after the second one's hidden units are matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data.batches import cast, split
from sharpness.errors import InputError
from sharpness.landscapes.evaluations import Sampling
from sharpness.landscapes.interpolation import NO_BARRIER, barrier
from sharpness.landscapes.landscape import Landscape
from sharpness.landscapes.paths import linear
from sharpness.loss import Loss
from sharpness.machine.distributed import from_all_ranks
from sharpness.results import ProbeResult
from sharpness.symmetries.permutations import PATTERNS, Group, Match, find_groups, match_weights, permuted
from sharpness.vectors import is_finite, norm

TOLERANCE = {torch.float64: 1e-10}
"""By how much of the largest output the second network's outputs may differ after matching."""
SINGLE_TOLERANCE = 1e-5  # and in every other dtype


@dataclass(frozen=True, kw_only=True)
class BarrierResult(ProbeResult):
    """Both lines; ``value`` is the barrier of the train loss on the plain one, ``matched_barrier`` on the other."""

    plain: dict[str, Any]
    matched: dict[str, Any] | None
    matching: dict[str, Any] | None

    @property
    def matched_barrier(self) -> float | None:
        """The barrier of the train loss after matching."""
        return None if self.matched is None else self.matched["barrier"]

    def details(self) -> dict[str, Any]:
        """Return loss and accuracy along both lines, and what the matching did."""
        return super().details() | {"matched_barrier": self.matched_barrier}

    def __str__(self) -> str:
        plain, after = ("unknown" if b is None else f"{b:.4g}" for b in (self.value, self.matched_barrier))
        return f"barrier {plain}, after matching {after}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Barrier(Landscape[BarrierResult]):
    """Linear mode connectivity: the loss between two checkpoints above the chord of their own losses, on [0, 1].

    ``max over alpha of L((1 - alpha) w_0 + alpha w_1) - ((1 - alpha) L(w_0) + alpha L(w_1))``, Frankle et al. 2020
    (arXiv 1912.05671) with the chord of Entezari et al. 2022 (arXiv 2110.06296); it is never negative, because the ends
    count. With ``match`` it is measured once more after the hidden units of w_1 were permuted to be most like those of
    w_0 (:func:`sharpness.symmetries.permutations.match_weights`; ``seed`` is for the order in which layers are
    matched), which leaves the function of w_1 as it is. That is checked on the first batch, and a line that fails is
    not reported: the plain one is, and ``reasons["matched"]`` says why.

    The statistics of BatchNorm on the line are the ``norm`` mode of the loss. A checkpoint here is a flat vector, which
    has no statistics: with ``norm='frozen'`` those of the loss's own network are used on both lines and at both ends,
    in the order that they have, so that L at alpha = 1 is not the second network's own, and the matched line ends at
    another loss than the plain one. Use ``recalibrate`` or ``batch`` there. The check permutes the same statistics with
    the rest.

    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.full((1, 1), 5.0))])
    >>> one, same = torch.tensor([1.0, 2.0, 1.0, 2.0, 0.0]), torch.tensor([2.0, 1.0, 2.0, 1.0, 0.0])
    >>> result = Barrier(num_points=5)(loss, one, same)
    >>> result.value, result.matched_barrier, result.matching["moved"]
    (0.25, 0.0, 2)
    """

    num_points: int = 25
    seed: int = 0
    match: bool = True

    name = "barrier"

    def check(self) -> None:
        """Raise :class:`InputError` for a line of fewer than two points."""
        if self.num_points < 2:
            raise InputError(f"expected at least 2 points on the line, got {self.num_points}: 25 is usual")

    def sample(self, loss: Loss, sampling: Sampling, w_0: Tensor, w_1: Tensor) -> BarrierResult:
        """Return the plain line, the line after matching if there is one, and what the matching did."""
        ends, matching, reasons = [w_1], None, {"matched": "not asked for: match=False"}
        if self.match:
            end, matching, reasons = _matched(loss, w_0, w_1, self.seed)
            ends += [] if end is None else [end]
        alphas = np.linspace(0, 1, self.num_points).tolist()
        paths = [linear(w_0, end) for end in ends]

        def point(number: int) -> Tensor:
            line, step = divmod(number, self.num_points)
            return paths[line](alphas[step])

        found = self.evaluate(loss, point, len(ends) * self.num_points, sampling)
        plain, *rest = (
            _line(alphas, found.curves(i * self.num_points, (i + 1) * self.num_points), norm(end - w_0))
            for i, end in enumerate(ends)
        )
        return BarrierResult(
            quantity="loss_barrier",
            value=plain["barrier"],
            reasons=reasons | _missing(dict(zip(("plain", "matched"), [plain, *rest], strict=False))),
            num_forwards=found.num_forwards,
            plain=plain,
            matched=rest[0] if rest else None,
            matching=matching,
            seed=self.seed,
        )


def _line(alphas: list[float], curves: dict[str, Any], length: float) -> dict[str, Any]:
    """Return the curves of one line with their barriers and its length."""
    test = curves["test_loss"]
    barriers = {
        "barrier": barrier(alphas, curves["train_loss"]),
        "test_barrier": None if test is None else barrier(alphas, test),
    }
    return {"alphas": alphas, **curves, **barriers, "length": length}


def _missing(lines: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return why barriers are missing where there are losses, under each place in the record."""
    losses = {"barrier": "train_loss", "test_barrier": "test_loss"}
    places = [
        f"details.{name}.{key}"
        for name, line in lines.items()
        for key in losses
        if line[key] is None and line[losses[key]] is not None
    ]
    again = {"details.plain.barrier": "value", "details.matched.barrier": "details.matched_barrier"}
    return dict.fromkeys([*places, *(again[place] for place in places if place in again)], NO_BARRIER)


def _matched(
    loss: Loss, w_0: Tensor, w_1: Tensor, seed: int
) -> tuple[Tensor | None, dict[str, Any] | None, dict[str, str]]:
    """Return ``w_1`` after matching, the facts, and no reason; or no point and why there is none."""
    if not (is_finite(w_0) and is_finite(w_1)):
        return None, None, {"matched": "weights that hold NaN or infinity cannot be matched"}
    groups, reason = _usable_groups(loss)
    if reason:
        return None, None, {"matched": reason}
    match = match_weights(loss.layout.unflatten(w_0), loss.layout.unflatten(w_1), groups, seed=seed)
    change, tolerance = _output_change(loss, w_1, groups, match), TOLERANCE.get(loss.dtype, SINGLE_TOLERANCE)
    facts = {
        "groups": len(groups),
        "units": sum(group.size for group in groups),
        "moved": match.moved,
        "sweeps": match.sweeps,
        "converged": match.converged,
        "objective_before": match.before,
        "objective_after": match.after,
        "output_change": change,
    }
    if not change <= tolerance:
        reason = (
            f"the outputs of the second network change by {change:.1g} of the largest when its units are permuted, "
            f"more than {tolerance:g}: a layer is not what its type says, or rounding is large"
        )
        return None, facts, {"matched": reason}
    return torch.cat([match.tensors[name].reshape(-1) for name in loss.layout.names]), facts, {}


def _usable_groups(loss: Loss) -> tuple[list[Group], str]:
    """Return the groups of units all of whose weights are measured, and if there is none why."""
    first = split(_first_batch(loss), 2)[0]  # two examples, of which any network takes a variance
    dtype = next(loss.model.parameters()).dtype
    found = find_groups(loss.model, cast(first, loss.device, dtype))
    movable = {*loss.layout.names, *(name for name, _ in loss.model.named_buffers())}
    usable = [group for group in found if all(entry.tensor in movable for entry in group.entries)]
    if not found:
        return [], f"no hidden units were found that can be permuted: looked for {PATTERNS}"
    return usable, "" if usable else "the units that were found have weights which are not measured: measure all"


def _output_change(loss: Loss, w_1: Tensor, groups: Sequence[Group], match: Match) -> float:
    """Return the largest change of the second network's outputs on the first batch, over the largest output."""
    # Any statistics do for a comparison, and those at w_1 would take a pass over all the data.
    plain = loss.with_norm("frozen") if loss.norm == "recalibrate" else loss
    plain = plain.over([_first_batch(loss)])
    tensors = plain.tensors(w_1)
    for group, order in zip(groups, match.permutations, strict=True):
        tensors |= permuted(tensors, group, order)
    other = plain.with_tensors(tensors)
    one, two = plain.outputs(w_1), other.outputs(other.weights)
    largest, difference = float(one.abs().max()), float((two - one).abs().max())
    return difference / largest if largest else difference


def _first_batch(loss: Loss) -> Any:
    """Return the first batch that any process has: a shard may be empty."""
    return next(batch for batch in from_all_ranks(next(iter(loss.batches), None)) if batch is not None)
