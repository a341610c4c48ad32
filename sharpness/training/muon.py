"""Muon for the matrices inside a network, and AdamW for all else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter


def hidden_matrices(model: nn.Module) -> list[Parameter]:
    """Return the weights of all linear layers but the last one: neither embeddings nor what gives the outputs.

    Where an embedding gives the outputs (tied ones), the last linear layer is inside the network too.

    >>> [tuple(p.shape) for p in hidden_matrices(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))]
    [(3, 4)]
    """
    layers = (module for module in model.modules() if isinstance(module, nn.Linear))
    weights = [weight for layer in layers if isinstance(weight := layer.weight, Parameter)]
    return weights if getattr(model, "logits", model) is None else weights[:-1]


class MuonAdamW(torch.optim.Optimizer):
    r"""Muon for ``matrices``, AdamW for ``others``, with one learning rate and one weight decay.

    Muon (Jordan et al. 2024) steps along the nearest orthogonal matrix of its momentum, ``U V^T`` for ``U S V^T``,
    which five iterations of Newton and Schulz approximate in bfloat16 (``torch.optim.Muon``); with the factor
    ``0.2 sqrt(max(rows, columns))`` its entries are as large as those of AdamW's steps (Liu et al. 2025, arXiv
    2502.16982, section 2).

    >>> w = Parameter(torch.eye(2))
    >>> w.grad = torch.tensor([[0.0, 5.0], [1.0, 0.0]])
    >>> _ = MuonAdamW([w], [], lr=1.0).step()
    >>> (torch.eye(2) - w.data).round(decimals=1)      # about 0.2 sqrt(2) along each singular vector
    tensor([[0.0000, 0.2000],
            [0.2000, 0.0000]])
    """

    def __init__(
        self,
        matrices: Iterable[Parameter],
        others: Iterable[Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        matrices, others = list(matrices), list(others)
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if matrices:
            self.parts["muon"] = torch.optim.Muon(
                matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        if others:
            self.parts["adamw"] = torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        super().__init__([{"params": matrices + others}], {"lr": lr})
        self._join()

    def _join(self) -> None:
        """Show the parts' own groups as those of the whole: who sets a rate there sets it in the part."""
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Take a step with the gradients that the parameters have."""
        value = None if closure is None else closure()
        for part in self.parts.values():
            part.step()
        return value

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both parts."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the states of both parts."""
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._join()
