"""The parts of the training benchmark: each measures one network at one batch size and returns a row."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import Job, Row
from benchmark_tools import interleaved, seconds_of
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sharpness.config import MeasureConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.data import Dataset, load_dataset, normalise
from sharpness.models import MODELS, build_model
from sharpness.runs import RunFolder
from sharpness.training import train
from sharpness.training.ends import after_update, begin
from sharpness.training.loop import one_update
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.training.together import train_together

CPU = torch.device("cpu")
ROUNDS = 5
"""Rounds of every contender, in turns; medians are reported."""
WINDOW_SECONDS = 1.5
"""Rounds are about so long, and at least two updates."""
TRACKED = 2000
"""Examples of the top eigenvalue."""
SEEDS = 8
"""Runs that are trained as one."""


def session_of(config: RunConfig, dataset: Dataset, folder: Path) -> Session:
    """Return a run that has begun, in a folder of its own."""
    session = Session.open(config, dataset, RunFolder.create(folder, config), CPU)
    begin(session, session.restore())
    session.network.train()
    return session


def config_of(network: str, batch_size: int, **training: Any) -> RunConfig:
    """Return the config of a network, with its norms if it has any, with the optimiser of the Keskar study."""
    model = ModelConfig(name=network, norm="batch" if "batch" in MODELS[network].norms else "none")
    return RunConfig(model=model, training=TrainingConfig(batch_size=batch_size, epochs=10_000, **training))


def our_updates(session: Session, count: int) -> Callable[[], None]:
    """Return what makes so many of our updates, going on from where the last call ended."""
    place = [session.restore()]

    def run() -> None:
        for _ in range(count):
            before, place[0] = place[0], one_update(session, place[0])
            if place[0].epoch == before.epoch:
                after_update(session, before, place[0], None)
            else:
                session.sums.clear()  # the evaluation at the end of the epoch is in no contender

    return run


def bare_updates(config: RunConfig, dataset: Dataset, count: int) -> Callable[[], None]:
    """Return the barest loop: rows, network, loss, gradient, step; no log, no checkpoint."""
    model, optimizer = _model_and_adam(config, dataset)
    size, images, targets = config.training.batch_size, dataset.train.inputs, dataset.train.targets
    rows = _endless_rows(len(targets), size)

    def run() -> None:
        for _ in range(count):
            chosen = next(rows)
            loss = cross_entropy(model(normalise(images[chosen])), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def loader_updates(config: RunConfig, dataset: Dataset, count: int) -> Callable[[], None]:
    """Return the usual loop over a DataLoader that shuffles, in this process, images as numbers beforehand."""
    model, optimizer = _model_and_adam(config, dataset)
    pairs = TensorDataset(normalise(dataset.train.inputs), dataset.train.targets)
    loader = DataLoader(pairs, batch_size=config.training.batch_size, shuffle=True, drop_last=True)

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches = endless()

    def run() -> None:
        for _ in range(count):
            inputs, targets = next(batches)
            loss = cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _model_and_adam(config: RunConfig, dataset: Dataset) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = build_model(config.model, dataset.input_shape, dataset.num_classes, 0).train()
    return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def _endless_rows(examples: int, size: int) -> Iterator[torch.Tensor]:
    while True:
        yield from torch.randperm(examples)[: examples // size * size].split(size)


def loop(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return images per second of the three loops."""
    size = batch_of(job)
    config = config_of(job.network, size)
    count = max(2, round(WINDOW_SECONDS / (seconds_of(bare_updates(config, dataset, 2)) / 2)))
    calls = {
        "ours": our_updates(session_of(config, dataset, folder / "run"), count),
        "bare": bare_updates(config, dataset, count),
        "loader": loader_updates(config, dataset, count),
    }
    for call in calls.values():
        call()  # the first touch
    rates = {name: count * size / seconds for name, seconds in interleaved(calls, ROUNDS).items()}
    return {
        **{"batch": size, "ours (images/s)": rates["ours"], "bare (images/s)": rates["bare"]},
        **{"DataLoader (images/s)": rates["loader"], "ours / bare": rates["ours"] / rates["bare"]},
        "ours / DataLoader": rates["ours"] / rates["loader"],
    }


def checkpoint(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return what writing everything that a run needs to go on costs beside an epoch of updates."""
    size = batch_of(job)
    session = session_of(config_of(job.network, size), dataset, folder / "run")
    epoch = our_updates(session, -(-len(dataset.train) // size))
    epoch()
    calls = {"epoch": epoch, "save": lambda: session.save(Position(update=1, log_rows=1))}
    seconds = interleaved(calls, ROUNDS)
    share = 100 * seconds["save"] / seconds["epoch"]
    return {"batch": size, "epoch (s)": seconds["epoch"], "save (s)": seconds["save"], "share (%)": share}


def tracking(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return what the top eigenvalue once an epoch costs beside the epoch's updates."""
    size = batch_of(job)
    config = replace(config_of(job.network, size), measure=MeasureConfig(names=("eigenvalue",), examples=TRACKED))
    session = session_of(config, dataset, folder / "run")
    epoch = our_updates(session, -(-len(dataset.train) // size))
    split = session.train.first(min(TRACKED, len(session.train)))
    epochs, solves, products = [], [], []
    for number in range(ROUNDS + 1):
        took = seconds_of(epoch)
        started = time.perf_counter()
        row = session.measures(session.loss_over(split), 1e-3)
        if number:  # the first solve starts at random
            epochs.append(took)
            solves.append(time.perf_counter() - started)
            products.append(row["top_eigenvalue_hvps"])
    one, solve, count = (sorted(each)[len(each) // 2] for each in (epochs, solves, products))
    return {"batch": size, "epoch (s)": one, "solve (s)": solve, "products": count, "share (%)": 100 * solve / one}


def together(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return the seconds of runs of several seeds trained as one against as many runs one after the other."""
    size = batch_of(job)
    model = ModelConfig(name=job.network, norm="none")
    training = TrainingConfig(batch_size=size, epochs=1, vectorised=True)
    configs = [RunConfig(model=model, training=replace(training, seed=seed)) for seed in range(SEEDS)]
    runs = [RunFolder.create(folder / f"as-one-{config.training.seed}", config) for config in configs]
    as_one = seconds_of(lambda: train_together(configs, dataset, runs, CPU))

    def alone() -> None:
        for config in configs:
            train(config, dataset, RunFolder.create(folder / f"alone-{config.training.seed}", config), CPU)

    seconds = seconds_of(alone)
    return {
        **{"batch": size, f"{SEEDS} as one (s)": as_one, f"{SEEDS} alone (s)": seconds},
        "alone / as one": seconds / as_one,
    }


PARTS: dict[str, Callable[[Job, Dataset, Path], Row]] = {
    "loop": loop,
    "checkpoint": checkpoint,
    "tracking": tracking,
    "together": together,
}


def batch_of(job: Job) -> int:
    """Return the batch size that a job's tool names: ``B = 256``."""
    return int(job.tool.removeprefix("B = "))


def run_job(job: Job, runs: Path) -> Row:
    """Do one part in this process, in a folder that goes with it."""
    torch.set_num_threads(job.threads)
    dataset = load_dataset("fashion_mnist_10k", num_train=job.examples)
    with tempfile.TemporaryDirectory() as name:
        return PARTS[job.part](job, dataset, Path(name))
