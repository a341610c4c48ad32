"""The next step of an optimiser in use, read without changing it: its rates, its next update, its edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.curvature.edges import adam_edge, descent_edge
from sharpness.curvature.preconditioned import adam_preconditioner
from sharpness.errors import InputError
from sharpness.training.signum import Signum
from sharpness.vectors import norm

Edge = tuple[float | None, str]
"""The curvature at the edge of stability, or ``None`` and the reason."""
ZERO_RATE = "the learning rate is 0"


@dataclass(frozen=True)
class Stepping:
    """An optimiser's groups and states for the parameters of a flat vector, in its order.

    ``kind`` is ``sgd``, ``adam`` (AdamW too), ``signum`` or nothing, where the update is taken to be the gradient.
    """

    kind: str
    name: str
    parameters: Mapping[str, nn.Parameter]
    groups: Mapping[str, Mapping[str, Any]]
    optimizer: torch.optim.Optimizer
    clip_norm: float | None

    @classmethod
    def of(
        cls, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], clip_norm: float | None
    ) -> Stepping:
        """Return what an optimiser does to those of these parameters that it has.

        Raises :class:`InputError` for groups without a learning rate and for parameters of another model.
        """
        inner = unwrapped(optimizer)
        by_id = {id(p): group for group in inner.param_groups for p in group["params"]}
        moved = {name: p for name, p in parameters.items() if id(p) in by_id and p.requires_grad}
        if not moved:
            raise InputError(
                "expected an optimizer of this model's parameters, got one of others: build it from model.parameters()"
            )
        groups = {name: by_id[id(p)] for name, p in moved.items()}
        return cls(kind_of(inner), type(inner).__name__, moved, groups, inner, clip_norm)

    @property
    def rate(self) -> float:
        """The largest learning rate of the groups."""
        return max(float(group["lr"]) for group in self.groups.values())

    @property
    def has_one_rate(self) -> bool:
        """Say whether all groups have the same learning rate."""
        return len({float(group["lr"]) for group in self.groups.values()}) == 1

    @property
    def penalty(self) -> float:
        """The weight decay that these optimisers add to the gradient, 0 where it is decoupled or not the same for all.

        It is part of the function whose minimum is looked for, as ``weight_decay`` of a loss.
        """
        groups = self.groups.values()
        decays = {float(group.get("weight_decay", 0.0)) for group in groups}
        coupled = self.kind in ("sgd", "adam") and not any(group.get("decoupled_weight_decay") for group in groups)
        return decays.pop() if coupled and len(decays) == 1 else 0.0

    def next_update(self, gradient: Tensor) -> Tensor:
        """Return d of the step ``w - rate d`` that this gradient would lead to; decoupled weight decay is left out.

        ``gradient`` has the :attr:`penalty`'s in it. Groups with a smaller rate have a smaller part. The gradient is
        clipped as the loop does it, before the optimiser adds the decay.
        """
        if self.clip_norm is not None:
            decay = self.penalty * torch.cat([_flat(p.detach(), gradient) for p in self.parameters.values()])
            of_data = gradient - decay
            gradient = of_data * min(1.0, self.clip_norm / max(norm(of_data), 1e-30)) + decay
        pieces, rate = gradient.split([_reals(p) for p in self.parameters.values()]), self.rate
        updates = list[Tensor]()
        for (name, p), g in zip(self.parameters.items(), pieces, strict=True):
            group, state = self.groups[name], self.optimizer.state.get(p, {})
            d = {"sgd": _sgd, "adam": _adam, "signum": _signum}.get(self.kind, lambda g, *_: g)(g, group, state)
            updates.append(d * (float(group["lr"]) / rate) if rate else d)
        return torch.cat(updates)

    def preconditioner(self, like: Tensor) -> Tensor:
        """Return Adam's diagonal P as one flat vector, infinite for parameters that were never updated.

        Groups with a smaller learning rate have a larger P, in units of the largest rate.
        """
        pieces, rate = list[Tensor](), self.rate
        for name, p in self.parameters.items():
            group, state = self.groups[name], self.optimizer.state.get(p, {})
            share = float(group["lr"]) / rate if rate else 1.0
            if not state or share == 0:
                pieces.append(torch.full((_reals(p),), torch.inf, dtype=like.dtype, device=like.device))
                continue
            (beta1, beta2), second = map(float, group["betas"]), _second_moment(group, state)
            diagonal = adam_preconditioner(
                _flat(second, like), int(state["step"]), beta1=beta1, beta2=beta2, eps=float(group["eps"])
            )
            pieces.append(diagonal / share)
        return torch.cat(pieces)

    def along_update(self) -> Edge:
        """Return the edge of a curvature along the update: ``2 / rate`` whatever the optimiser, if it is known."""
        if not self.kind:
            return None, f"the updates of {self.name} are not known: the direction was the gradient"
        return (2 / self.rate, "") if self.rate else (None, ZERO_RATE)

    def of_hessian(self) -> Edge:
        """Return the largest eigenvalue at which (S)GD is stable: :func:`sharpness.curvature.edges.descent_edge`."""
        if self.kind == "adam":
            return None, "Adam's edge is that of the preconditioned Hessian: preconditioned_sharpness"
        if self.kind != "sgd":
            return None, f"no edge is known for {self.name}"
        if not self.has_one_rate:
            return None, "the groups have different learning rates"
        if not self.rate:
            return None, ZERO_RATE
        group = next(iter(self.groups.values()))
        more = {"nesterov": bool(group["nesterov"]), "dampening": float(group["dampening"])}
        edge = descent_edge(self.rate, float(group["momentum"]), **more)
        why = f"a dampening of {group['dampening']:g} keeps the gradient out of the momentum"
        return edge, why if edge is None else ""

    def of_preconditioned(self) -> Edge:
        """Return the eigenvalue of the preconditioned Hessian at Adam's edge, ``38 / rate`` for beta1 = 0.9."""
        group = next(iter(self.groups.values()))
        return (adam_edge(float(group["betas"][0])) / self.rate, "") if self.rate else (None, ZERO_RATE)

    def of_batches(self) -> Edge:
        """Return the batch sharpness that SGD settles at: ``2 / rate`` (arXiv 2412.20553), known without momentum."""
        edge, why = self.of_hessian()
        group = next(iter(self.groups.values()))
        if edge is not None and group["momentum"]:
            return None, "with momentum it is between 2 (1 - beta) / rate and 2 (1 + beta) / rate, by the batch size"
        return (edge, why) if self.kind == "sgd" else (None, "it is known for SGD alone")


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return torch's own optimiser, from inside a wrapper; refuse what has no learning rate.

    >>> unwrapped(torch.optim.SGD([nn.Parameter(torch.ones(1))])).param_groups[0]["lr"]
    0.001
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        raise InputError(f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}: pass the one that steps")
    for number, group in enumerate(optimizer.param_groups):
        if group.get("lr") is None:
            raise InputError(
                f"expected a learning rate in every group of the optimizer, got none in group {number} of "
                f"{type(optimizer).__name__}: set its lr, the edge of stability depends on it"
            )
    return optimizer


def kind_of(optimizer: torch.optim.Optimizer) -> str:
    """Return ``sgd``, ``adam``, ``signum`` or nothing for what an optimiser's step is known to be.

    >>> kind_of(torch.optim.AdamW([nn.Parameter(torch.ones(1))]))
    'adam'
    """
    if any(group.get("maximize") for group in optimizer.param_groups):
        return ""
    if isinstance(optimizer, torch.optim.SGD):
        return "sgd"
    if isinstance(optimizer, Signum):
        return "signum"
    return "adam" if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) else ""


def _sgd(g: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    """Return the update of SGD, with momentum ``v <- beta v + (1 - dampening) g``, Nesterov ``g + beta v``."""
    if not (beta := float(group["momentum"])):
        return g
    buffer = state.get("momentum_buffer")
    velocity = g if buffer is None else beta * _flat(buffer, g) + (1 - float(group["dampening"])) * g
    return g + beta * velocity if group["nesterov"] else velocity


def _adam(g: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    """Return the update of Adam, ``m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)`` after this gradient."""
    beta1, beta2 = map(float, group["betas"])
    step = int(state["step"]) + 1 if state else 1
    first = (1 - beta1) * g + (beta1 * _flat(state["exp_avg"], g) if state else 0)
    second = (1 - beta2) * g * g + (beta2 * _flat(state["exp_avg_sq"], g) if state else 0)
    if state and group.get("amsgrad"):
        second = torch.maximum(second, _flat(state["max_exp_avg_sq"], g))
    return first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + float(group["eps"]))


def _signum(g: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    """Return the update of Signum, the signs of ``beta m + (1 - beta) g``."""
    beta = float(group["momentum"])
    return ((1 - beta) * g + (beta * _flat(state["average"], g) if state else 0)).sign()


def _second_moment(group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    return state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]


def _flat(tensor: Tensor, like: Tensor) -> Tensor:
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.detach().reshape(-1).to(like)


def _reals(p: Tensor) -> int:
    return p.numel() * (2 if p.is_complex() else 1)
