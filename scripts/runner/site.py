"""The site of a study's own measurement: the runs with their data and networks, the device, and the progress."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sharpness.config import RunConfig
from sharpness.data import Dataset, Split, random_subset
from sharpness.data.batches import Batch
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.measure.runs import subject_of_run
from sharpness.measure.subject import Subject
from sharpness.runs import RunFolder
from sharpness.runs.networks import evaluation_batches, load_network, load_run_data, load_weights, network_loss


class Checkpoint(NamedTuple):
    """A checkpoint that a run kept, with the updates and epochs before it."""

    step: int
    epoch: float
    name: str


@dataclass(frozen=True)
class Site:
    """The runs that are measured, the device, the folder of the data files, and ``progress(done, total)``.

    What is not said of a run is of the first one. Everything raises what it raises in the library.
    """

    runs: Sequence[RunFolder]
    device: torch.device
    data_dir: Path | None
    progress: Progress

    @property
    def run(self) -> RunFolder:
        """The first run, the only one of most measurements."""
        return self.runs[0]

    @cached_property
    def config(self) -> RunConfig:
        """The config of the run."""
        return self.run.config()

    @cached_property
    def dataset(self) -> Dataset:
        """The run's data on the device."""
        return load_run_data(self.config, self.data_dir).to(self.device)

    def batches(self, split: Split) -> list[Batch]:
        """Return a split in the run's evaluation batches, normalised."""
        return evaluation_batches(self.config, split)

    def network(self, checkpoint: str, run: RunFolder | None = None) -> nn.Module:
        """Return the network of a run at one of its checkpoints, such as ``x0``."""
        return load_network(run or self.run, checkpoint, self.dataset, self.device)

    def weights(self, checkpoint: str, run: RunFolder | None = None) -> Tensor:
        """Return the trainable weights of a run at one of its checkpoints, shape ``(n,)``."""
        return load_weights(run or self.run, checkpoint, self.dataset, self.device)

    def subject(self, num_examples: int | None = None) -> Subject:
        """Return the run's final weights with their training loss, over a random subset of so many examples."""
        return subject_of_run(self.run, device=self.device, num_examples=num_examples, data_dir=self.data_dir)

    def losses(self) -> tuple[Loss, Loss]:
        """Return the losses of the run's final network over its whole training and its whole test set.

        Statistics of BatchNorm are recomputed from the training set at each point.
        """
        model, train = self.network(self.run.final_checkpoint()), self.batches(self.dataset.train)
        test = self.batches(self.dataset.test)
        own, other = (network_loss(self.config, model, batches, calibration=train) for batches in (train, test))
        return own, other

    def subset(self, split: Split, examples: int) -> Split:
        """Return a random subset of a split, the same at all checkpoints of a run, or all of it where it is smaller."""
        return random_subset(split, min(examples, len(split)), derived_seed(self.config.training.seed, "subset"))

    def checkpoints(self) -> list[Checkpoint]:
        """Return the kept checkpoints in the order of their steps; the initial weights, ``x0``, are none of them."""
        return [self.checkpoint(f"checkpoint-{step}") for step in self.run.kept_steps()]

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a checkpoint, or ``x0``, with its step and epoch."""
        facts = json.loads((self.run.path / f"{name}.json").read_text(encoding="utf-8"))
        return Checkpoint(facts["step"], facts["epoch"], name)
