"""Averages of the weights along training: the running mean of SWA, the exponential one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sharpness.config import AverageConfig


def averages_of(config: AverageConfig) -> dict[str, Average]:
    """Return the averages that a config asks for, by the names of their files without the update; none for ``none``.

    >>> list(averages_of(AverageConfig(kind="ema"))), list(averages_of(AverageConfig("ema", horizons=(10.0, 100.0))))
    (['ema'], ['ema10', 'ema100'])
    """
    if config.kind == "none":
        return {}
    if not config.horizons:
        return {config.kind: Average(config)}
    return {f"ema{h:g}": Average(replace(config, decay=1 - 1 / h)) for h in config.horizons}


class Average:
    r"""The average of a network's parameters; buffers are not averaged, their statistics are recomputed at the end.

    ``swa``: ``w_SWA <- (n w_SWA + w) / (n + 1)`` at the end of each cycle (Izmailov et al. 2018, arXiv 1803.05407,
    Algorithm 1). ``ema``: ``a <- d a + (1 - d) w`` after each update, from the weights at its start. Both in float64,
    so that thousands of small additions lose nothing.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> average = Average(AverageConfig(kind="swa", start=1.0, every=1.0))
    >>> for epoch, value in enumerate([5.0, 1.0, 2.0, 6.0]):
    ...     _ = layer.weight.data.fill_(value)
    ...     average.after_update(layer, before=float(epoch), now=epoch + 1.0)
    >>> average.count, average.weights["weight"].item()          # of the ends of epochs 1, 2, 3 and 4
    (4, 3.5)
    """

    def __init__(self, config: AverageConfig) -> None:
        self.config = config
        self.count = 0
        self.weights: dict[str, Tensor] = {}

    def after_update(self, model: nn.Module, before: float, now: float) -> None:
        """Take in the weights after an update that went from epoch ``before`` to ``now`` (both may be fractions)."""
        config = self.config
        if now < config.start:
            return
        if config.kind == "ema":
            self._move(model, 1.0 if self.count == 0 else 1 - config.decay)
        elif _cycles(now, config) > _cycles(before, config):
            self._move(model, 1 / (self.count + 1))

    @torch.no_grad()
    def _move(self, model: nn.Module, share: float) -> None:
        for name, p in model.named_parameters():
            if self.count == 0:
                self.weights[name] = p.detach().double().clone()
            else:
                self.weights[name].lerp_(p.detach().double(), share)
        self.count += 1

    def state_dict(self) -> dict[str, object]:
        """Return the state that a stopped run goes on from."""
        return {"count": self.count, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, object], device: torch.device) -> None:
        """Go on from a saved state."""
        count, weights = state["count"], state["weights"]
        assert isinstance(count, int) and isinstance(weights, dict)  # as state_dict wrote them
        self.count, self.weights = count, {name: w.to(device) for name, w in weights.items()}


def _cycles(epoch: float, config: AverageConfig) -> int:
    """Return how many ends of cycles have passed, the start of averaging itself being one."""
    return 0 if epoch < config.start else 1 + int((epoch - config.start) / config.every + 1e-9)
