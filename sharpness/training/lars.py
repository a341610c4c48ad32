"""Layer-wise adaptive rate scaling (You et al. 2017), which PyTorch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class Lars(torch.optim.Optimizer):
    r"""SGD with momentum in which each layer's step is as long as its weights, times a trust coefficient.

    You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Algorithm 1, with the rate inside the momentum as there:
    ``lambda = trust |w| / (|g| + beta |w|)``, ``v <- m v + rate lambda (g + beta w)``, ``w <- w - v``, beta the weight
    decay. Parameters with a single axis, biases and those of norms, have lambda = 1 and no decay, as is usual; so
    has a layer whose weights or gradient are 0. With m = beta = 0 a layer's step has the length ``rate trust |w|``,
    whatever the gradient.

    >>> w = Parameter(torch.tensor([[3.0, 4.0]]))
    >>> w.grad = torch.tensor([[0.0, 100.0]])
    >>> _ = Lars([w], lr=1.0, momentum=0.0, trust=0.1).step()
    >>> w.data                                          # |w| = 5, so a step of 0.5 along g / |g|
    tensor([[3.0000, 3.5000]])
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Take a step with the gradients that the parameters have."""
        value = None if closure is None else closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._move(w, w.grad, group)
        return value

    def _move(self, w: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        update = gradient
        if w.ndim > 1:
            length, slope = torch.linalg.vector_norm(w), torch.linalg.vector_norm(gradient)
            scale = group["trust"] * length / (slope + group["weight_decay"] * length)
            update = gradient + group["weight_decay"] * w
            update = update * torch.where((length > 0) & (slope > 0), scale, torch.ones_like(scale))
        velocity = self.state[w].setdefault("velocity", torch.zeros_like(w))
        velocity.mul_(group["momentum"]).add_(update, alpha=group["lr"])
        w.sub_(velocity)
