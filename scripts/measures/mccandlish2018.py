"""What the study of McCandlish et al. 2018 measures at the checkpoints of a run: noise scales and line searches.

Batches of line searches are drawn with replacement, so that ``Cov(G_B) = Sigma / B`` holds exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpness.data import Dataset, Split, normalise, random_subset
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.probes.gradient_noise import GradientNoise
from sharpness.runs import RunFolder
from sharpness.runs.networks import evaluation_batches, load_network, load_run_data, network_loss
from sharpness.vectors import norm

Rows = list[dict[str, Any]]
Progress = Callable[[int, int], None]
MOMENTS = ("gradient_square", "noise_trace", "gradient_curvature", "noise_curvature")


def noise_scales(
    folders: Sequence[Path],
    device: torch.device,
    data_dir: Path | None,
    progress: Progress,
    *,
    epochs: Sequence[float] | None,
    band: Sequence[float] | None,
    examples: int,
) -> Rows:
    """Return the noise of the gradient of one run at its checkpoints of these epochs, ``None`` for all but the first.

    With ``band`` only at those whose loss lies between these. The gradient (``square``) and the loss are those of the
    whole training set, which is what the run descends, without error; the covariance is estimated from ``examples``
    drawn from it (``noise_trace``, with a 95 % interval).
    """
    run = RunFolder.open(folders[0])
    config = run.config()
    dataset = load_run_data(config, data_dir).to(device)
    count, batches = len(dataset.train), evaluation_batches(config, dataset.train)
    names = kept(run)[1:] if epochs is None else [checkpoint_at(run, epoch, count) for epoch in epochs]
    rows = []
    for number, name in enumerate(names, 1):
        loss = subset_loss(run, name, dataset, examples, device)
        whole = loss.over(batches)
        if band is None or band[0] <= whole.value(whole.weights) <= band[1]:
            rows.append(place_of(run, name) | noise_of(whole, loss))
        progress(number, len(names))
    return rows


def noise_of(whole: Loss, subset: Loss) -> dict[str, Any]:
    """Return loss and squared gradient of the whole training set and the trace of Sigma from a subset of it."""
    value, gradient = whole.value_and_grad(whole.weights)
    trace = GradientNoise(num_hvps=0, batch_sizes=())(subset).numbers["noise_trace"]
    row = {"loss": value, "square": norm(gradient) ** 2, "num_train": whole.num_examples}
    return row | {"noise_trace": trace.value, "noise_trace_lower": trace.lower, "noise_trace_upper": trace.upper}


def line_search(
    folders: Sequence[Path],
    device: torch.device,
    data_dir: Path | None,
    progress: Progress,
    *,
    epoch: float,
    examples: int,
    num_hvps: int,
    batch_sizes: Sequence[int],
    batches: int,
    octaves: tuple[float, float],
    per_octave: int,
) -> Rows:
    """Return for each batch size by how much steps ``w - rate G_B`` of random batches change the loss, batch by batch.

    The loss is over ``examples`` of the training set, from which the ``batches`` are drawn with replacement; the rates
    lie around the one that equation 2.6 predicts, ``octaves`` below and above, ``per_octave`` to each factor of 2.
    Beside them stand the moments that the prediction is made of.
    """
    run = RunFolder.open(folders[0])
    dataset = load_run_data(run.config(), data_dir).to(device)
    name = checkpoint_at(run, epoch, len(dataset.train))
    loss = subset_loss(run, name, dataset, examples, device)
    result = GradientNoise(num_hvps=num_hvps, batch_sizes=tuple(batch_sizes))(loss)
    shared = place_of(run, name) | {"loss": loss.value(loss.weights), "examples": loss.num_examples}
    shared |= {name: result.numbers[name].value for name in MOMENTS}
    grid = 2.0 ** (torch.arange(octaves[0] * per_octave, octaves[1] * per_octave + 1, dtype=torch.float64) / per_octave)
    rows = []
    for number, (size, predicted) in enumerate(zip(batch_sizes, result.by_batch_size, strict=True), 1):
        centre = predicted["step"]["value"]
        rates = (grid * centre).tolist() if centre is not None else []
        seed = derived_seed(run.config().training.seed, "line search", epoch, size)
        changes = step_changes(loss, size, rates, batches, seed) if rates else []
        predictions = {f"predicted_{key}": predicted["step"][key] for key in ("value", "lower", "upper")}
        rows.append(shared | predictions | {"batch_size": size, "rates": rates, "changes": changes})
        progress(number, len(batch_sizes))
    return rows


def step_changes(loss: Loss, size: int, rates: Sequence[float], batches: int, seed: int) -> list[list[float]]:
    """Return ``L(w - rate G_B) - L(w)`` for each random batch (rows) and rate (columns), at the loss's own weights."""
    w, before = loss.weights, loss.value(loss.weights)
    inputs, targets = (torch.cat(parts) for parts in zip(*loss.batches, strict=True))
    generator = torch.Generator().manual_seed(seed)
    changes = []
    for _ in range(batches):
        rows = torch.randint(len(targets), (size,), generator=generator).to(targets.device)
        gradient = loss.over([(inputs[rows], targets[rows])]).grad(w)
        changes.append([finite(loss.value(w - rate * gradient) - before) for rate in rates])
    return changes


def subset_loss(run: RunFolder, name: str, dataset: Dataset, examples: int, device: torch.device) -> Loss:
    """Return the loss at a checkpoint over a subset of the training set, the same at all checkpoints of a run."""
    seed = derived_seed(run.config().training.seed, "subset")
    split = random_subset(dataset.train, min(examples, len(dataset.train)), seed)
    return network_loss(load_network(run, name, dataset, device), [one_batch(split)])


def one_batch(split: Split) -> tuple[Tensor, Tensor]:
    return normalise(split.inputs, torch.float32), split.targets


def checkpoint_at(run: RunFolder, epoch: float, num_train: int) -> str:
    """Return the name of the run's checkpoint of an epoch, to one batch; :class:`InputError` where none was kept."""
    there = {name: place_of(run, name)["epoch"] for name in kept(run)}
    name = min(there, key=lambda each: abs(there[each] - epoch))
    if abs(there[name] - epoch) > run.config().training.batch_size / num_train + 1e-9:
        found = ", ".join(f"{value:.3g}" for value in there.values())
        raise InputError(f"{run.path}: expected a checkpoint of epoch {epoch:g}, got those of {found}: keep it too")
    return name


def kept(run: RunFolder) -> list[str]:
    """Return the names of the run's checkpoints in the order of their steps, the initial weights first."""
    names = [path.stem for path in run.path.glob("checkpoint-*.safetensors")]
    return ["x0", *sorted(names, key=lambda name: place_of(run, name)["step"])]


def place_of(run: RunFolder, name: str) -> dict[str, Any]:
    """Return step and epoch of a checkpoint."""
    facts = json.loads((run.path / f"{name}.json").read_text(encoding="utf-8"))
    return {"step": facts["step"], "epoch": facts["epoch"]}


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
