"""Train one network as its config says, logging every epoch, so that a kill loses a few seconds at most."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpness.batches import Batch
from sharpness.checkpoints.run_folders import evaluation_batches, network_loss
from sharpness.config import RunConfig
from sharpness.data import DATASETS, Dataset, Split, normalise
from sharpness.environment import derived_seed, deterministic, git_commit, versions
from sharpness.errors import InputError, unknown_name
from sharpness.loss import Evaluation
from sharpness.models import build_model, check_model
from sharpness.runs import RunFolder, remove_leftovers
from sharpness.training.optimizers import OPTIMIZERS

Progress = Callable[[int, int], None]
"""Called with the number of epochs done and the number asked for."""

RESUME_SECONDS = 10.0
"""The resume state is written at the end of an epoch, but not more often than this."""


def check_config(config: RunConfig) -> None:
    """Raise :class:`InputError` for a config that cannot be trained, before data are read or anything is written."""
    data, training = config.data, config.training
    if data.name not in DATASETS:
        raise unknown_name("dataset", data.name, DATASETS)
    check_model(config.model)
    if training.optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", training.optimizer, OPTIMIZERS)
    sizes = {
        "num_train": data.num_train,
        "num_test": data.num_test,
        "evaluation_batch_size": data.evaluation_batch_size,
    }
    for name, value in sizes.items() | {("batch_size", training.batch_size), ("epochs", training.epochs)}:
        if value is not None and value < 1:
            raise InputError(f"expected {name} of at least 1, got {value}")
    if not (training.learning_rate > 0 and math.isfinite(training.learning_rate)):
        raise InputError(f"expected a positive learning_rate, got {training.learning_rate}: 1e-3 is usual for Adam")
    if not 0 <= training.seed < 2**63:
        raise InputError(f"expected a seed from 0 to 2^63 - 1, got {training.seed}")
    examples = min(data.num_train or DATASETS[data.name].num_train, DATASETS[data.name].num_train)
    if training.batch_size > examples:
        raise InputError(
            f"expected a batch_size of at most the {examples} training examples, got {training.batch_size}: lower it"
        )
    tests = min(data.num_test or DATASETS[data.name].num_test, DATASETS[data.name].num_test)
    _check_last_batch("batch_size", training.batch_size, examples)
    if config.model.norm == "batch":
        _check_last_batch("evaluation_batch_size", data.evaluation_batch_size, examples)
        _check_last_batch("evaluation_batch_size", data.evaluation_batch_size, tests)


def _check_last_batch(name: str, size: int, examples: int) -> None:
    """Refuse batches of one example, which have no batch statistics."""
    if size == 1 or examples % size == 1:
        raise InputError(
            f"expected batches of at least 2 examples for BatchNorm, got a batch of 1 ({examples} examples in batches "
            f"of {size}): choose another {name}"
        )


def train(
    config: RunConfig,
    dataset: Dataset,
    run: RunFolder,
    device: torch.device,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train to the end of the config's epochs, continuing from where the folder stands, and return the manifest.

    The order of the examples and everything drawn at random is a function of (seed, epoch), so a run that was stopped
    and continued has the same bits as one that was not, on one machine type, device and number of threads. The loss is
    the mean cross-entropy (nats). A non-finite loss ends the run with status ``diverged`` and the step it was seen at.
    """
    check_config(config)
    with run.lock(), deterministic(device):
        manifest = run.manifest() or _train(config, dataset.to(device), run, device, progress)
        remove_leftovers(run)
        return manifest


@dataclass(frozen=True)
class _Position:
    epoch: int
    step: int
    seconds: float


def _train(
    config: RunConfig, dataset: Dataset, run: RunFolder, device: torch.device, progress: Progress | None
) -> dict[str, Any]:
    model = build_model(config.model, dataset.input_shape, dataset.num_classes, config.training.seed).to(device)
    optimizer = OPTIMIZERS[config.training.optimizer](model.parameters(), config.training.learning_rate)
    at = _restore(run, model, optimizer, config, dataset)
    begun = saved = time.perf_counter() - at.seconds
    outcome: dict[str, Any] = {"status": "finished"}
    test = evaluation_batches(config, dataset.test)
    for epoch in range(at.epoch + 1, config.training.epochs + 1):
        steps = _train_epoch(model, optimizer, dataset.train, config, epoch)
        row = _log_row(epoch, at.step, steps, _evaluate(model, test))
        now = time.perf_counter()
        at = _Position(epoch, row["step"], now - begun)
        run.append_log(row | {"seconds": at.seconds})
        if row["train_loss"] is None:
            outcome = {"status": "diverged", "reason": row["reason"]}
            break
        if now - saved > RESUME_SECONDS and epoch < config.training.epochs:
            _save(run, model, optimizer, at)
            saved = now
        if progress is not None:
            progress(epoch, config.training.epochs)
    if outcome["status"] == "finished":
        outcome["final"] = final = _final(model, config, dataset)
        if not all(math.isfinite(value) for value in final.values() if value is not None):
            outcome = {
                "status": "diverged",
                "reason": f"the loss of the final weights was not finite at step {at.step}",
            }
    if outcome["status"] == "finished":
        run.save_weights(f"checkpoint-{at.step}", model.state_dict(), {"step": at.step, "epoch": at.epoch})
    position = {"step": at.step, "epochs_done": at.epoch, "seconds": at.seconds}
    return run.write_manifest(outcome | position | _facts(dataset, device))


def _restore(
    run: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig, dataset: Dataset
) -> _Position:
    """Continue from the resume state if there is one, else write x0 and the row of epoch 0."""
    state = run.load_resume_state()
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        run.truncate_log(state["epoch"] + 1)
        return _Position(state["epoch"], state["step"], state["seconds"])
    run.truncate_log(0)
    run.save_weights("x0", model.state_dict(), {"step": 0, "epoch": 0})
    run.append_log({"epoch": 0, "step": 0} | _final(model, config, dataset) | {"seconds": 0.0})
    return _Position(0, 0, 0.0)


def _save(run: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, at: _Position) -> None:
    run.save_resume_state({"model": model.state_dict(), "optimizer": optimizer.state_dict()} | asdict(at))


@dataclass(frozen=True)
class _Steps:
    """Loss and number of right answers of each step of one epoch, and how many examples each step saw."""

    losses: Tensor
    right: Tensor
    examples: Tensor


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, split: Split, config: RunConfig, epoch: int
) -> _Steps:
    """Make one pass over the examples in this epoch's order."""
    seed = derived_seed(config.training.seed, "epoch", epoch)
    losses, right, examples = [], [], []
    with torch.random.fork_rng(devices=[split.inputs.device] if split.inputs.is_cuda else []):
        torch.manual_seed(seed)  # for what the network itself draws, such as dropout
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).to(split.inputs.device)
        model.train()
        for rows in order.split(config.training.batch_size):
            targets = split.targets[rows]
            logits = model(normalise(split.inputs[rows]))
            loss = cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            right.append((logits.argmax(1) == targets).sum())
            examples.append(len(rows))
    return _Steps(torch.stack(losses).cpu().double(), torch.stack(right).cpu(), torch.tensor(examples))


def _log_row(epoch: int, step: int, steps: _Steps, test: Evaluation) -> dict[str, Any]:
    """Return this epoch's row: training numbers over its own steps, test numbers at its end.

    Where a loss is not finite the numbers are ``None`` and ``reason`` says at which step.
    """
    finite = torch.isfinite(steps.losses)
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    if finite.all() and math.isfinite(test.loss):
        share = steps.examples / steps.examples.sum()
        train = (float(share @ steps.losses.to(share)), int(steps.right.sum()) / int(steps.examples.sum()))
        values = (*train, test.loss, test.accuracy)
        return {"epoch": epoch, "step": step + len(finite)} | dict(zip(names, values, strict=True))
    step += len(finite) if finite.all() else int(finite.int().argmin()) + 1
    return {"epoch": epoch, "step": step} | dict.fromkeys(names) | {"reason": f"the loss was not finite at step {step}"}


def _evaluate(model: nn.Module, batches: Sequence[Batch]) -> Evaluation:
    loss = network_loss(model, batches)
    return loss.evaluate(loss.weights)


def _final(model: nn.Module, config: RunConfig, dataset: Dataset) -> dict[str, float | None]:
    """Return loss and accuracy of these weights over the whole training and test set, in evaluation mode."""
    row = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        evaluation = asdict(_evaluate(model, evaluation_batches(config, split)))
        row |= {f"{name}_{key}": value for key, value in evaluation.items()}
    return row


def _facts(dataset: Dataset, device: torch.device) -> dict[str, Any]:
    return {
        "data_sha256": dataset.sha256,
        "data_source": dataset.source,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git_commit": git_commit(),
        "command": sys.argv,
    }
