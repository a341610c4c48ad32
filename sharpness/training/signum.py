"""Sign descent with momentum (Bernstein et al. 2018), which PyTorch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import Parameter


class Signum(torch.optim.Optimizer):
    r"""Steps by the signs of the averaged gradient: each weight moves by the learning rate.

    Bernstein et al. 2018 (arXiv 1802.04434), Algorithm 2: ``m <- beta m + (1 - beta) g``, ``w <- w - rate sign(m)``,
    here with decoupled weight decay, ``w <- w - rate decay w`` before. With a momentum beta of 0 it is signSGD (their
    Algorithm 1).

    >>> w = Parameter(torch.tensor([1.0, 1.0, 1.0]))
    >>> w.grad = torch.tensor([1e-3, -5.0, 0.0])
    >>> _ = Signum([w], lr=0.25).step()
    >>> w.data
    tensor([0.7500, 1.2500, 1.0000])
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Take a step with the gradients that the parameters have."""
        value = None if closure is None else closure()
        for group in self.param_groups:
            rate, beta = group["lr"], group["momentum"]
            for w in group["params"]:
                if w.grad is not None:
                    average = self.state[w].setdefault("average", torch.zeros_like(w))
                    average.mul_(beta).add_(w.grad, alpha=1 - beta)
                    w.mul_(1 - rate * group["weight_decay"]).sub_(average.sign(), alpha=rate)
        return value
