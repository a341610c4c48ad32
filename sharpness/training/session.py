"""Everything that belongs to a run while it trains: the network, its optimiser, its averages, and the saved state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sharpness.config import RunConfig
from sharpness.data import Dataset, Split
from sharpness.errors import InputError
from sharpness.loss import Evaluation, Loss
from sharpness.loss.criteria import Criterion
from sharpness.machine.distributed import from_all_ranks, is_distributed, num_ranks, on_all_ranks, rank
from sharpness.models import build_model
from sharpness.runs import RunFolder
from sharpness.runs.networks import as_configured, criterion_of, evaluation_batches, network_loss
from sharpness.training import schedules
from sharpness.training.averages import Average, averages_of
from sharpness.training.checks import check_processes
from sharpness.training.measures import Measures
from sharpness.training.noise import NormWatch, PieceNorms, RankNorms
from sharpness.training.optimizers import OPTIMIZERS
from sharpness.training.order import Augmentation, epoch_order, varies
from sharpness.training.position import EpochSums, Position
from sharpness.training.tracker import Tracker
from sharpness.vectors import flatten


@dataclass
class Session:
    """One run in progress; ``network`` is ``model``, or the wrapper that compiles it or averages its gradients."""

    config: RunConfig
    dataset: Dataset
    run: RunFolder
    device: torch.device
    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    norm_watch: NormWatch
    train: Split
    held_out: Split
    measures: Measures
    averages: dict[str, Average]
    tracker: Tracker | None = None
    sums: EpochSums = field(default_factory=EpochSums)
    _losses: dict[int, tuple[Split, Loss]] = field(default_factory=dict, init=False, repr=False)
    _epoch: tuple[int, Tensor, Augmentation | None] | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(cls, config: RunConfig, dataset: Dataset, run: RunFolder, device: torch.device) -> Session:
        """Return a run at its initial weights; :class:`InputError` where it cannot be on this machine."""
        dataset = as_configured(config, dataset)
        check_processes(config, len(dataset.train), device)
        training = config.training
        model = build_model(config.model, dataset.input_shape, dataset.num_classes, training.seed)
        model = model.to(device, getattr(torch, training.dtype))
        if config.model.synchronised:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if training.start is not None:
            _load_start(model, run, training.start)
        network: nn.Module = DistributedDataParallel(model) if is_distributed() else model
        norm_watch = _norm_watch(config, network)
        if training.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        optimizer = OPTIMIZERS[training.optimizer](model, training)
        return cls(
            config=config,
            dataset=dataset,
            run=run,
            device=device,
            model=model,
            network=network,
            optimizer=optimizer,
            norm_watch=norm_watch,
            train=dataset.train,
            held_out=dataset.held_out or dataset.test,
            measures=Measures(config.measure.names, flatten(model)),
            averages=averages_of(config.average),
            tracker=_tracker(config, model, optimizer, run),
        )

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimiser moves."""
        return list(self.model.parameters())

    @functools.cached_property
    def measured(self) -> Split:
        """The training examples that the measurements of the config are taken on."""
        return self.train.first(min(self.config.measure.examples, len(self.train)) or None)

    @functools.cached_property
    def total_epochs(self) -> float:
        """The most epochs that the budgets allow."""
        return schedules.total_epochs(self.config, len(self.train))

    def rate(self, epoch: float) -> float:
        """Return the learning rate at an epoch."""
        updates = len(self.train) / schedules.batch_size(self.config, epoch)
        return schedules.learning_rate(self.config, epoch, self.total_epochs, updates)

    @functools.cached_property
    def criterion(self) -> Criterion:
        """The criterion that the updates are for."""
        return criterion_of(self.config, training=True)

    def epoch_of(self, epoch: int) -> tuple[Tensor, Augmentation | None]:
        """Return the order of an epoch's examples, on the device, and the variation of their images, if any."""
        if self._epoch is None or self._epoch[0] != epoch:
            seed, data, count = self.config.training.seed, self.config.data, len(self.train)
            varied = Augmentation(data, seed, epoch, count, self.device) if varies(data) else None
            self._epoch = (epoch, epoch_order(seed, epoch, count).to(self.device), varied)
        return self._epoch[1:]

    def loss_over(self, split: Split, model: nn.Module | None = None) -> Loss:
        """Return the loss of the present weights, or a ``model``'s, over a split: over this process's share of batches.

        Processes share whole evaluation batches, so that batch statistics are those of one process. The loss of a split
        is made, and looked at, once.
        """
        if id(split) not in self._losses:  # with the split, so that no other one gets its number
            batches = evaluation_batches(self.config, split)[rank() :: num_ranks()]
            dtype = getattr(torch, self.config.training.dtype)
            self._losses[id(split)] = split, network_loss(self.config, self.model, batches, dtype=dtype)
        model = model or self.model
        values = dict(model.named_parameters()) | dict(model.named_buffers())
        return self._losses[id(split)][1].with_tensors({name: value.detach() for name, value in values.items()})

    def evaluate(self, split: Split, model: nn.Module | None = None) -> Evaluation:
        """Return loss and accuracy over a split, in evaluation mode."""
        loss = self.loss_over(split, model)
        return loss.evaluate(loss.weights)

    def evaluate_all(self, model: nn.Module | None = None) -> dict[str, float | None]:
        """Return loss and accuracy over the whole training, test and held-out examples, by their names."""
        splits = {"train": self.train, "test": self.dataset.test}
        if self.config.data.num_validation:
            splits["validation"] = self.held_out
        evaluations = {name: asdict(self.evaluate(split, model)) for name, split in splits.items()}
        return {f"{name}_{key}": value for name, numbers in evaluations.items() for key, value in numbers.items()}

    def restore(self) -> Position:
        """Go on from the saved state if there is one, else write x0 and begin."""
        state = from_all_ranks(self.run.load_resume_state() if rank() == 0 else None)[0]
        if state is None:
            self.write(lambda: self._truncate(0, 0))
            self.write(lambda: self.run.save_weights("x0", self.model.state_dict(), {"step": 0, "epoch": 0}))
            return Position()
        if "distance" in self.config.measure.names:  # from where it started, not from where this version would
            self.model.load_state_dict(self.run.load_weights("x0"))
            self.measures.start = flatten(self.model)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        saved = state["average"]
        for name, average in self.averages.items():
            average.load_state_dict(saved.get(name, saved), self.device)  # an older version kept one, without its name
        self.measures.load_state_dict(state["measures"])
        self.sums.load_state_dict(state["sums"], self.device)
        at = Position.from_state(state["at"])
        self.write(lambda: self._truncate(at.log_rows, at.measure_rows))
        return at

    def _truncate(self, log_rows: int, measure_rows: int) -> None:
        self.run.truncate_log(log_rows)
        self.run.truncate_log(measure_rows, "measures.jsonl")

    def keep(self, update: int, facts: Mapping[str, Any]) -> None:
        """Write the weights as a checkpoint, and the optimiser's state beside them where the config asks for it."""
        if self.config.measure.keep_optimizer:
            self.write(lambda: self.run.save_optimizer(update, self.optimizer.state_dict()))
        state = self.model.state_dict()
        self.write(lambda: self.run.save_weights(f"checkpoint-{update}", state, facts))

    def write(self, work: Callable[[], Any]) -> None:
        """Do the work of writing on the first process alone; where it fails, all fail."""
        on_all_ranks(lambda: work() if rank() == 0 else None)

    def save(self, at: Position) -> None:
        """Write everything that the run needs to go on after this update with the same bits."""
        self.sums.gather()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": {name: average.state_dict() for name, average in self.averages.items()},
            "measures": self.measures.state_dict(),
            "sums": self.sums.state_dict(),
            "at": asdict(at),
        }
        self.sums.count_once()
        self.write(lambda: self.run.save_resume_state(state))


def _norm_watch(config: RunConfig, network: nn.Module) -> NormWatch:
    """Return the observer of gradients for the noise scale: of the processes' shares of a batch, or of its pieces.

    Where there are neither, random batches are measured instead, between updates.
    """
    if "noise_scale" not in config.measure.names:
        return NormWatch()
    if isinstance(network, DistributedDataParallel):
        return RankNorms(network)
    return PieceNorms(list(network.parameters())) if config.training.accumulate > 1 else NormWatch()


def _tracker(config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer, run: RunFolder) -> Tracker | None:
    """Return the tracker that the config asks for, of the criterion that the updates are for; it begins afresh."""
    if not config.measure.overhead:
        return None
    return Tracker(
        model,
        criterion_of(config, training=True),
        optimizer,
        overhead=config.measure.overhead,
        quantities=config.measure.quantities or None,
        sink=run.append_measure,
        clip_norm=config.training.clip_norm,
    )


def _load_start(model: nn.Module, run: RunFolder, start: str) -> None:
    """Put the weights of another file, or the last ones of another run, into a network.

    Raises :class:`InputError` where they are not there or do not fit.
    """
    path = run.path.parent / start
    if path.is_dir():
        path /= f"{RunFolder.open(path).final_checkpoint()}.safetensors"
    try:
        model.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"expected weights of this network to start from in {path}, got: {reason}") from error
