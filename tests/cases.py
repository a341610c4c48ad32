"""One table of small networks with losses and uneven batches, float64; tests of derivatives run over all of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.loss.square_loss import square_loss


class Tied(nn.Module):
    """One weight used twice, as the embeddings of a language model are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class PartlyUnused(nn.Module):
    """A layer that the output does not depend on, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.frozen = nn.Linear(4, 3), nn.Linear(2, 2), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(torch.tanh(self.frozen(x)))


class OwnLoss(nn.Module):
    """A model with the interface of Hugging Face's: keyword inputs, an output with ``loss`` and ``logits``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 3), nn.Linear(3, 7)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        logits = self.head(torch.tanh(self.embedding(input_ids)))
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return SimpleNamespace(loss=loss, logits=logits)


class Attention(nn.Module):
    """One encoder layer, whose fused attention has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Recurrent(nn.Module):
    """A GRU over the features of an example, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(1, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.unsqueeze(-1))[0][:, -1])


@dataclass(frozen=True)
class Case:
    """Factories of a model and of its data in uneven batches, the criterion and the norm mode."""

    model: Callable[[], nn.Module]
    criterion: Callable[[Any, Any], Tensor] | None
    inputs: tuple[int, ...] = (4,)
    norm: str = "frozen"
    targets: str = "classes"

    def build(self, seed: int = 0) -> tuple[Any, list[Any]]:
        """Return model and batches of 5, 3 and 1 examples (5, 3 and 2 where batch statistics are taken), float64."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.model().double()
            for name, buffer in model.named_buffers():
                if name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
            sizes = (5, 3, 2) if self.norm == "batch" else (5, 3, 1)
            return model, [self.batch(size) for size in sizes]

    def batch(self, size: int) -> Any:
        """Return one random batch."""
        if self.targets == "tokens":
            labels = torch.randint(7, (size, 4))
            labels[torch.rand(size, 4) < 0.4] = -100
            labels[0, 0] = 1
            return {"input_ids": torch.randint(7, (size, 4)), "labels": labels}
        x = torch.randn(size, *self.inputs, dtype=torch.float64)
        if self.targets == "numbers":
            return x, torch.randn(size, 3, dtype=torch.float64)
        if self.targets == "bits":
            return x, torch.randint(2, (size, 3)).double()
        return x, torch.randint(3, (size,))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def with_norm(track: bool) -> nn.Sequential:
    norm = nn.BatchNorm1d(5, track_running_stats=track)
    return nn.Sequential(nn.Linear(4, 5), norm, nn.ReLU(inplace=True), nn.Linear(5, 3))


def conv() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )


def slow_but(fast: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return the cases of a parametrised test, those that are not among the ``fast`` ones marked as slow."""
    parts = ((case, case if isinstance(case, tuple) else (case,)) for case in cases)
    return [case if case in fast else pytest.param(*values, marks=pytest.mark.slow) for case, values in parts]


class_weights = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)

CASES: dict[str, Case] = {
    "mlp": Case(mlp, F.cross_entropy),
    "mlp, mean squared error": Case(mlp, F.mse_loss, targets="numbers"),
    "mlp, square loss": Case(mlp, square_loss),
    "mlp, class weights": Case(mlp, nn.CrossEntropyLoss(weight=class_weights)),
    "mlp, ignored class": Case(mlp, nn.CrossEntropyLoss(ignore_index=2)),
    "mlp, summed": Case(mlp, nn.CrossEntropyLoss(reduction="sum")),
    "mlp, summed squares": Case(mlp, partial(F.mse_loss, reduction="sum"), targets="numbers"),
    "gru": Case(Recurrent, F.cross_entropy),
    "dropout": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)), F.cross_entropy
    ),
    "norm, running statistics": Case(lambda: with_norm(True), F.cross_entropy),
    "norm, batch statistics": Case(lambda: with_norm(False), F.cross_entropy, norm="batch"),
    "norm, batch statistics instead of running": Case(lambda: with_norm(True), F.cross_entropy, norm="batch"),
    "convolution": Case(conv, F.cross_entropy, inputs=(1, 4, 4)),
    "layer norm": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.SiLU(), nn.Linear(5, 3)), F.cross_entropy
    ),
    "attention": Case(Attention, F.cross_entropy, inputs=(3, 4)),
    "tied weights": Case(Tied, F.cross_entropy),
    "unused and frozen": Case(PartlyUnused, F.cross_entropy),
    "own loss over tokens": Case(OwnLoss, None, targets="tokens"),
}
