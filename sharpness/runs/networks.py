"""The network that a run folder holds, its data, and the loss it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpness.config import RunConfig
from sharpness.data import Batches, Dataset, Split, load_dataset, random_subset
from sharpness.data.batches import Batch
from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.loss.criteria import Criterion
from sharpness.loss.eval_mode import batch_norms
from sharpness.loss.square_loss import square_loss
from sharpness.machine.environment import derived_seed
from sharpness.models import build_model
from sharpness.runs import RunFolder
from sharpness.vectors import flatten, is_finite

CRITERIA: Mapping[str, Criterion] = {"cross_entropy": cross_entropy, "square": square_loss}
"""The losses that ``training.loss`` may name: in nats, and in the square of the outputs' unit."""


def load_run_data(config: RunConfig, data_dir: Path | None = None) -> Dataset:
    """Return the dataset of a run as its config says: cut, held-out examples apart, training labels with their noise.

    Raises what :func:`sharpness.data.load_dataset` raises.
    """
    data = config.data
    dataset = load_dataset(
        data.name, data_dir=data_dir, num_train=data.num_train, num_test=data.num_test, context=data.context
    )
    return as_configured(config, dataset)


def as_configured(config: RunConfig, dataset: Dataset) -> Dataset:
    """Return a loaded dataset with the held-out examples and the label noise of a config, unless it has them already.

    The noise has a seed of its own, derived from ``training.seed``. Raises :class:`InputError` where the dataset has
    those of another config.
    """
    dataset = dataset.holding_out(config.data.num_validation)
    return dataset.with_label_noise(config.data.label_noise, derived_seed(config.training.seed, "label noise"))


def load_network(run: RunFolder, checkpoint: str, dataset: Dataset, device: torch.device) -> nn.Module:
    """Return the run's network with the weights of one of its checkpoints, such as ``x0``.

    Raises :class:`RunError` when names or shapes of the file are not those of the network, or a weight is not finite.
    """
    config = run.config()
    model = build_model(config.model, dataset.input_shape, dataset.num_classes, config.training.seed)
    state = run.load_weights(checkpoint)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise RunError(
            f"{run.path}/{checkpoint}: expected the weights of {config.model.name}, got others: {first}"
        ) from None
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not is_finite(tensor)]
    if bad:
        raise RunError(f"{run.path}/{checkpoint}: expected finite weights, got NaN or infinity in {', '.join(bad[:3])}")
    return model.to(device)


def load_weights(run: RunFolder, checkpoint: str, dataset: Dataset, device: torch.device) -> Tensor:
    """Return the trainable parameters of one of the run's checkpoints as a flat vector, shape ``(n,)``."""
    return flatten(load_network(run, checkpoint, dataset, device))


def evaluation_batches(config: RunConfig, split: Split) -> list[Batch]:
    """Return a split in evaluation batches, normalised once: evaluations read them again and again."""
    return list(Batches(split, config.data.evaluation_batch_size))


def check_subset(num_examples: int | None) -> None:
    """Raise :class:`InputError` for a subset of fewer than two examples."""
    if num_examples is not None and num_examples < 2:
        raise InputError(f"expected at least 2 examples, got {num_examples}: batch statistics need them")


def subset_batches(config: RunConfig, split: Split, num_examples: int | None, seed: int) -> list[Batch]:
    """Return so many random examples of a split as one batch, or all of it in evaluation batches."""
    if num_examples is None:
        return evaluation_batches(config, split)
    return list(Batches(random_subset(split, num_examples, derived_seed(seed, "subset")), num_examples))


def criterion_of(config: RunConfig, *, training: bool = False) -> Criterion:
    """Return the criterion that a run is evaluated and measured with, or that its updates are for.

    The two differ in ``label_smoothing`` alone, of which only training knows.

    >>> criterion_of(RunConfig()) is cross_entropy
    True
    """
    criterion: Any = CRITERIA[config.training.loss]
    smoothing = config.training.label_smoothing
    return partial(criterion, label_smoothing=smoothing) if training and smoothing else criterion


def network_loss(
    config: RunConfig,
    model: nn.Module,
    batches: Sequence[Batch],
    calibration: Sequence[Batch] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Loss:
    """Return the loss of a run's config over the batches, BatchNorm as the network was built.

    With ``calibration`` the running statistics, of a network that has them, are recomputed on those batches at each
    point: those of the checkpoint belong to its own weights only.
    """
    norms = batch_norms(model)
    norm = "batch" if any(module.running_mean is None for module in norms) else "frozen"
    if calibration is not None and norms and norm == "frozen":
        norm = "recalibrate"
    return Loss(model, criterion_of(config), batches, norm=norm, calibration=calibration, dtype=dtype)
