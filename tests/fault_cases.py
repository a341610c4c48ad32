"""Faults that people bring, planted one by one: data that move, means that are another, derivatives that are none.

Each builds a loss and says how the self-check finds it: ``refused`` when it is made or at the first gradient,
``counted`` (the right count is found, whatever the split), ``differences`` (products go over to finite differences),
or ``said`` (a warning in every record).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from sharpness.loss import Loss
from tests.cases import mlp


def data(seed: int = 0, number: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 4, generator=generator), torch.arange(number) % 3


X, Y = data()
PARTS = [(X[:6], Y[:6]), (X[6:], Y[6:])]


class Reading(Dataset[Any]):
    """A dataset whose items go through a function of their inputs and targets."""

    def __init__(self, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.change = change

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.change(X[i], Y[i])


def reading(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> DataLoader[Any]:
    return DataLoader(Reading(change), batch_size=5)


class Passes:
    """Batches that are a function of the number of the pass."""

    def __init__(self, batches: Callable[[int], list[Any]]) -> None:
        self.batches, self.count = batches, itertools.count()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches(next(self.count)))


def growing() -> DataLoader[Any]:
    stored = X.clone()

    class InPlace(Dataset[Any]):
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            stored[i] *= 1.1
            return stored[i].clone(), Y[i]

    return DataLoader(InPlace(), batch_size=5)


class Wrapped(nn.Module):
    """The small network with its outputs, or its inputs, changed by a function."""

    def __init__(self, after: Callable[[Tensor], Any] = lambda z: z, before: Callable[[Tensor], Tensor] = lambda x: x):
        super().__init__()
        self.inner, self.after, self.before = mlp(), after, before

    def forward(self, x: Tensor) -> Any:
        return self.after(self.inner(self.before(x)))


class Layered(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 5), nn.Linear(5, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def counting() -> nn.Module:
    calls = itertools.count(1)
    return Wrapped(lambda z: z * next(calls))


def without_gradients(x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    return x


class NoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def normalised_by_hand(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / z.std(0)


def contrastive(z: Tensor, _: Tensor) -> Tensor:
    z = F.normalize(z, dim=1)
    return F.cross_entropy(z @ z.T / 0.5, torch.arange(len(z)).roll(1))


def dice(z: Tensor, y: Tensor) -> Tensor:
    p, t = z.softmax(1), F.one_hot(y, 3).to(z)
    return 1 - (2 * (p * t).sum(0) / (p.sum(0) + t.sum(0))).mean()


class Cube(torch.autograd.Function):
    """x^3 whose backward pass holds its slope as a constant: right gradients, a wrong second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = 3 * x.detach() ** 2
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.slope


class Once(torch.autograd.Function):
    """tanh that can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return grads[0] * (1 - y * y)


class Doubled(torch.autograd.Function):
    """The identity with twice its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


class Reversed(Doubled):
    """The identity with the opposite derivative, as for adversarial training of domains."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


def rounded(x: Tensor) -> Tensor:
    return x + (torch.round(4 * x) / 4 - x).detach()


class Pairs(nn.Module):
    """The distance of two embeddings, of which one pair is equal: its second derivative at 0 is NaN by autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(4, 3)

    def forward(self, ab: Tensor) -> Tensor:
        return (self.embedding(ab[:, 0]) - self.embedding(ab[:, 1])).norm(dim=1)


def pairs() -> list[Any]:
    ab = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(0))
    ab[0, 1] = ab[0, 0]
    return [(ab, torch.rand(8, generator=torch.Generator().manual_seed(1)))]


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3))


class Detector(nn.Module):
    """A model whose own loss is divided by the boxes in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, pixels: Tensor, labels: list[dict[str, Tensor]]) -> Any:
        rows = zip(self.layer(pixels), labels, strict=True)
        total = torch.stack([((row - label["boxes"]) ** 2).sum() for row, label in rows]).sum()
        return SimpleNamespace(loss=total / sum(len(label["boxes"]) for label in labels))


BOXES = [{"boxes": torch.randn(n, 4, generator=torch.Generator().manual_seed(n))} for n in (1, 3, 1, 2, 4)]
DETECTED = [{"pixels": X[:2], "labels": BOXES[:2]}, {"pixels": X[2:5], "labels": BOXES[2:]}]


class Focal(nn.Module):
    """A focal loss with a void class of its own."""

    ignore_index = 2

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        terms = F.cross_entropy(z, y, ignore_index=2, reduction="none")
        return ((1 - torch.exp(-terms)) ** 2 * terms)[y != 2].mean()


POWERS = torch.tensor([-100, -90, -100, -70, -60, -100, -95, -80, -75])
SIGNALS = [(X[:4], POWERS[:4]), (X[4:], POWERS[4:])]


class PerSequence(nn.Module):
    """A model whose own loss averages over sequences, whatever their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 9)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        losses = [F.cross_entropy(self.table(i), y) for i, y in zip(input_ids, labels, strict=True)]
        return {"loss": torch.stack(losses).mean()}


TOKENS = torch.randint(9, (5, 4), generator=torch.Generator().manual_seed(0))
LABELS = torch.where(torch.arange(4) > torch.arange(5)[:, None], -100, TOKENS)
TEXTS = [{"input_ids": TOKENS[:2], "labels": LABELS[:2]}, {"input_ids": TOKENS[2:], "labels": LABELS[2:]}]


def one_output() -> nn.Module:
    return nn.Sequential(mlp(), nn.Linear(3, 1))


def hidden(**keywords: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, y: F.cross_entropy(z, y, **keywords)


@dataclass(frozen=True)
class Fault:
    """The loss with its fault, how it is found, and words of what is said."""

    build: Callable[[], Loss]
    found: str
    words: str = ""


def _moving(batches: Callable[[], Any], words: str) -> Fault:
    return Fault(lambda: Loss(mlp(), F.cross_entropy, batches()), "refused", words)


def _random(model: Callable[[], nn.Module], words: str, criterion: Any = F.cross_entropy) -> Fault:
    return Fault(lambda: Loss(model(), criterion, PARTS), "refused", words)


def _mean(criterion: Any, words: str, batches: list[Any] = PARTS, model: Callable[[], nn.Module] = mlp) -> Fault:
    return Fault(lambda: Loss(model(), criterion, batches), "refused", words)


def _counted(model: Callable[[], nn.Module], criterion: Any, batches: list[Any]) -> Fault:
    return Fault(lambda: Loss(model(), criterion, batches), "counted")


def _derivative(model: Callable[[], nn.Module], found: str, words: str, criterion: Any = F.cross_entropy) -> Fault:
    return Fault(lambda: Loss(model(), criterion, PARTS), found, words)


def _loader(**options: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(TensorDataset(X, Y), batch_size=4, **options)


def masked_by_chance(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x * (torch.rand(4) > 0.2), y


FAULTS: dict[str, Fault] = {
    "a loader that shuffles": _moving(_loader(shuffle=True), "shuffles"),
    "a loader that samples": _moving(_loader(sampler=WeightedRandomSampler([1.0] * 9, 9)), "shuffles"),
    "a loader that drops a batch": _moving(_loader(drop_last=True), "drop_last"),
    "an order of one's own": _moving(lambda: Passes(lambda n: PARTS[:: (-1) ** n]), "shuffles"),
    "a generator": _moving(lambda: (batch for batch in PARTS), "generator"),
    "fewer batches later": _moving(lambda: Passes(lambda n: PARTS[: 2 - n % 2]), "2 and then 1"),
    "noise by torch": _moving(lambda: reading(lambda x, y: (x + torch.randn(4), y)), "/0"),
    "noise by NumPy": _moving(lambda: reading(lambda x, y: (x + np.random.rand(), y)), "/0"),  # noqa: NPY002
    "noise by Python": _moving(lambda: reading(lambda x, y: (x * random.random(), y)), "/0"),
    "random masks": _moving(lambda: reading(masked_by_chance), "masks"),
    "labels that change": _moving(lambda: Passes(lambda n: [(X, (Y + n) % 3)]), "/1"),
    "scaling in place at every read": _moving(growing, "/0"),
    "dropout that is always on": _random(lambda: Wrapped(before=lambda x: F.dropout(x, 0.5)), "bernoulli"),
    "sampling in the forward pass": _random(lambda: Wrapped(lambda z: z + torch.randn_like(z)), "randn"),
    "NumPy's numbers in the forward pass": _random(
        lambda: Wrapped(lambda z: z + np.random.rand()),  # noqa: NPY002
        "changes between two passes",
    ),
    "a network that counts its calls": _random(counting, "changes between two passes"),
    "a criterion that draws": _random(mlp, "rand", lambda z, y: F.cross_entropy(z, y) * (1 + torch.rand(()))),
    "an ignored class inside a lambda": _mean(hidden(ignore_index=0), "count="),
    "class weights inside a lambda": _mean(hidden(weight=torch.tensor([0.1, 1.0, 5.0]).double()), "count="),
    "a sum inside a lambda": _mean(hidden(reduction="sum"), "adds up"),
    "a contrastive loss": _mean(contrastive, "coupled=True"),
    "a Dice loss": _mean(dice, "coupled=True"),
    "batch statistics by hand": _mean(F.cross_entropy, "coupled=True", model=lambda: Wrapped(normalised_by_hand)),
    "a declared count that is wrong": Fault(
        lambda: Loss(mlp(), nn.CrossEntropyLoss(ignore_index=0), PARTS, count=lambda batch: len(batch[1])),
        "refused",
        "count=",
    ),
    "targets without their dimension": _mean(F.mse_loss, "shape of the outputs", [(X, X[:, 0])], one_output),
    "targets paired by a lambda": _mean(
        lambda z, t: (z - t).square().mean(),
        "pairs each",
        [(X, X[:, 0])],
        lambda: nn.Sequential(mlp(), nn.Linear(3, 1)),
    ),
    "-100 as a number": _counted(
        lambda: nn.Sequential(mlp(), nn.Linear(3, 1), nn.Flatten(0)), lambda z, t: F.mse_loss(z, t.to(z)), SIGNALS
    ),
    "a loss divided by boxes": _counted(Detector, None, DETECTED),
    "a void class of the criterion's own": _counted(mlp, Focal(), PARTS),
    "a mean over sequences": _counted(PerSequence, None, TEXTS),
    "batchmean": _counted(
        lambda: nn.Sequential(mlp(), nn.LogSoftmax(1)),
        nn.KLDivLoss(reduction="batchmean"),
        [(x, x[:, :3].softmax(1)) for x, _ in PARTS],
    ),
    "no_grad": _derivative(NoGrad, "refused", "does not reach"),
    "gradients left off": _derivative(lambda: Wrapped(without_gradients), "refused", "does not reach"),
    "a round trip through NumPy": _derivative(
        lambda: Wrapped(lambda z: torch.from_numpy(z.detach().numpy())), "refused", "does not reach"
    ),
    "a number instead of a tensor": _derivative(
        mlp, "refused", "does not reach", lambda z, y: torch.tensor(F.cross_entropy(z, y).item())
    ),
    "a slope kept as a constant": _derivative(lambda: Layered(Cube.apply), "differences", "wrong by autograd"),
    "weight_norm": _derivative(weight_normed, "differences", "wrong by autograd"),
    "a norm at 0": Fault(lambda: Loss(Pairs(), F.mse_loss, pairs()), "differences", "NaN"),
    "once_differentiable": _derivative(lambda: Layered(Once.apply), "differences", "missing"),
    "a derivative that is twice as large": _derivative(lambda: Layered(Doubled.apply), "said", "not the derivative"),
    "a derivative turned round": _derivative(lambda: Layered(Reversed.apply), "said", "not the derivative"),
    "a straight-through estimator": _derivative(lambda: Layered(rounded), "said", "not the derivative"),
    "a detach in the middle": _derivative(
        lambda: Layered(lambda x: torch.tanh(x) * x.detach()), "said", "not the derivative"
    ),
    "a target made of the outputs": _derivative(
        mlp, "said", "not the derivative", lambda z, y: (z - z.roll(1, 1).detach()).square().mean()
    ),
}
