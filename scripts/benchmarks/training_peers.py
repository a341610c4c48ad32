"""The contenders of the training benchmark: our loop, the barest one, and loops over torch's DataLoader."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from sharpness.config import ModelConfig, RunConfig, TrainingConfig
from sharpness.data import Dataset, normalise
from sharpness.models import MODELS, build_model
from sharpness.runs import RunFolder
from sharpness.training.log import log_start
from sharpness.training.loop import after_update, one_update
from sharpness.training.session import Session

CPU = torch.device("cpu")


def session_of(config: RunConfig, dataset: Dataset, folder: Path, device: torch.device = CPU) -> Session:
    """Return a run that has begun, in a folder of its own."""
    session = Session.open(config, dataset, RunFolder.create(folder, config), device)
    log_start(session, session.restore())
    session.network.train()
    return session


def config_of(network: str, batch_size: int) -> RunConfig:
    """Return the config of a network, with its norms if it has any, with the optimiser of the Keskar study."""
    model = ModelConfig(name=network, norm="batch" if "batch" in MODELS[network].norms else "none")
    return RunConfig(model=model, training=TrainingConfig(batch_size=batch_size, epochs=10_000))


def our_updates(session: Session, count: int) -> Callable[[], None]:
    """Return a function that makes so many of our updates, going on from where its last call ended."""
    at = session.restore()

    def run() -> None:
        nonlocal at
        for _ in range(count):
            before, at = at, one_update(session, at)
            if at.epoch == before.epoch:
                after_update(session, before, at, None)
            else:
                session.sums.clear()  # the evaluation at the end of the epoch is in no contender

    return run


class Updates:
    """So many updates of a new network on the next of these batches, and nothing else."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        batches: Iterator[tuple[Tensor, Tensor]],
        count: int,
        device: torch.device = CPU,
    ) -> None:
        self.batches, self.count = batches, count
        self.model = build_model(config.model, dataset.input_shape, dataset.num_classes, 0).train().to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)

    def __call__(self) -> None:
        for inputs, targets in itertools.islice(self.batches, self.count):
            loss = cross_entropy(self.model(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def bare_updates(
    config: RunConfig,
    dataset: Dataset,
    count: int,
    rows: Iterator[Tensor] | None = None,
    device: torch.device = CPU,
) -> Updates:
    """Return the barest loop: rows, network, loss, gradient, step; no log, no checkpoint.

    ``rows`` are those of each batch, by default drawn anew in every epoch.
    """
    images, targets = dataset.train.inputs, dataset.train.targets
    rows = rows or _endless_rows(len(targets), config.training.batch_size)
    pieces = ((normalise(images[chosen]), targets[chosen]) for chosen in rows)
    return Updates(config, dataset, pieces, count, device)


def _endless_rows(examples: int, size: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(examples)[: examples // size * size].split(size)


class _ImageByImage(TorchDataset[Any]):
    """Bytes that become numbers one image at a time, as the usual transforms of datasets do it."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return normalise(self.images[row]), self.targets[row]


def loader_updates(config: RunConfig, dataset: Dataset, count: int, ready: bool) -> Updates:
    """Return the usual loop over a DataLoader that shuffles, in this process, over numbers ``ready`` beforehand or not.

    What is not ready becomes numbers image by image.
    """
    images, targets = dataset.train.inputs, dataset.train.targets
    pairs = TensorDataset(normalise(images), targets) if ready else _ImageByImage(images, targets)
    loader = DataLoader(pairs, batch_size=config.training.batch_size, shuffle=True, drop_last=True)
    return Updates(config, dataset, itertools.chain.from_iterable(itertools.repeat(loader)), count)
