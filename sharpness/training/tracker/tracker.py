"""Curvature along any training loop, at a stated share of its time."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharpness.data.batches import Batch, batch_length, copied, split
from sharpness.errors import InputError, reason_of, unknown_name
from sharpness.files import append_jsonl
from sharpness.loss import Loss
from sharpness.loss.eval_mode import batch_norms
from sharpness.machine.distributed import locally, rank
from sharpness.training.tracker.clock import Clock
from sharpness.training.tracker.plan import LARGEST_SHARE, Plan
from sharpness.training.tracker.quantities import QUANTITIES, Memory, Point, Row
from sharpness.training.tracker.stepping import Stepping, kind_of, unwrapped

Sink = Callable[[Row], object]
"""Takes each row as it is measured: flat, with ``step`` and plain numbers, words, and ``None``."""


class Tracker:
    """Measures curvature while a network trains, at no more than the share ``overhead`` of the training's time.

    It times the training's steps and itself, and decides how often and on how many examples it measures: the
    ``quantities``, by default all that suit the optimiser, take turns, and the next one waits until its cost is paid
    for. Each is one row, with the number of examples, its seconds, the overhead so far, and as ``..._to_edge`` its
    share of the edge of stability (``rate lambda / 2`` for SGD); a row goes to ``sink``, a file of JSON Lines or a
    function (:mod:`sharpness.integrations.sinks`), and to ``rows``. ``clip_norm`` is what the loop clips gradients to.
    Training has the same bits with a tracker and without. ``docs/track.md`` says what each quantity is, of which
    examples, and what it proves.

    Raises :class:`InputError` for an overhead that is no share, unknown quantities, an optimiser of another model or
    without a learning rate, and later for parameters whose shapes change.

    >>> model = nn.Linear(2, 1)
    >>> tracker = Tracker(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), sink=None)
    >>> tracker.step(torch.zeros(4, 2), torch.zeros(4, 1))     # after each optimizer.step(): a row, or nothing yet
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Any, Any], Tensor] | None,
        optimizer: torch.optim.Optimizer,
        *,
        overhead: float = 0.05,
        quantities: Sequence[str] | None = None,
        sink: Sink | str | Path | None = "track.jsonl",
        clip_norm: float | None = None,
    ) -> None:
        if not 0 < overhead <= 1:
            raise InputError(f"expected an overhead above 0 and up to 1, got {overhead}: 0.05 is a twentieth")
        self.model, self.criterion, self.optimizer, self.clip_norm = inner_model(model), criterion, optimizer, clip_norm
        self.clock = Clock(overhead)
        self._plan = Plan(_chosen(quantities, optimizer), self.clock)
        self._sink = jsonl(sink) if isinstance(sink, str | Path) else sink
        self._shapes = self._shapes_now()
        self._stepping()  # refuses what is not this model's, or has no rate
        self._kept, self._memory = list[Batch](), Memory()
        self._keeps = True
        self._loss: Loss | None = None
        self.rows = list[Row]()

    def step(self, *batch: Any, **facts: Any) -> Row | None:
        """Call this after each step of the optimiser with the batch: inputs and targets, or the batch as it is.

        Returns the row where something was measured. ``facts`` stand in it: ``step``, which is by default the number of
        the call, and whatever else is known, such as ``epoch`` or ``loss``: words and single numbers, also of tensors.

        Raises :class:`InputError` for facts that are neither.
        """
        self.clock.arrive()
        try:
            if (self._keeps or self._plan.may_be_paid_for()) and rank() == 0:  # most steps end here
                with locally():
                    return self._measure_if_due(batch[0] if len(batch) == 1 else batch, _plain_facts(facts))
            return None
        finally:
            self.clock.leave()

    def _measure_if_due(self, batch: Batch, facts: Row) -> Row | None:
        if self._keeps:
            self._kept.append(copied(batch))
            self._keeps = len(self._kept) < LARGEST_SHARE
        name, plan = self._plan.next, self._plan
        examples = plan.examples(name, batch_length(self._kept[0] if QUANTITIES[name].kept else batch))
        if not plan.is_paid_for(examples):
            return None
        device = next(self.model.parameters()).device
        self.clock.settle(device)
        row, examples = self._row(name, batch, examples)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds = self.clock.now
        plan.done(seconds, examples)
        row = {"step": self.clock.calls, **facts, **row, "learning_rate": self._stepping().rate, "examples": examples}
        row |= {"seconds": seconds, "step_seconds": self.clock.step_seconds}
        row["overhead"] = (self.clock.spent + seconds) / self.clock.trained
        row = _finite(row)
        self.rows.append(row)
        if self._sink is not None:
            self._sink(row)
        return row

    def _row(self, name: str, batch: Batch, examples: int) -> tuple[Row, int]:
        """Return what one quantity is, or why it cannot be had, and on how many examples it was measured."""
        loss = self._loss_now()
        batches = self._kept if QUANTITIES[name].kept else [batch]
        may_be_cut = loss.divisible or loss.norm == "batch"
        batches = _first(batches, examples) if may_be_cut else batches[:1]
        try:
            point = Point(loss.over(batches), batches[0], self._stepping(), self._memory)
            row = QUANTITIES[name].measure(point)
        except Exception as error:  # training goes on, whatever a measurement meets: diverging weights, no memory
            row = {name: None, f"{name}_reason": reason_of(error)}
        return row, sum(map(batch_length, batches))

    def _loss_now(self) -> Loss:
        """Return the loss at the present weights; the first time model, criterion and data are looked at."""
        if (now := self._shapes_now()) != self._shapes:
            changed = next(n for n in {**self._shapes, **now} if self._shapes.get(n) != now.get(n))
            raise InputError(
                f"expected parameters whose shapes stay, got {_shape(now.get(changed))} for {changed}, which was "
                f"{_shape(self._shapes.get(changed))}: make a new Tracker for the changed network"
            )
        stepping = self._stepping()
        if self._loss is None or self._loss.layout.names != tuple(stepping.parameters):
            self._loss, self._memory = self._new_loss(stepping), Memory()
        elif (self._loss.norm, self._loss.weight_decay) != (self._norm_now(), stepping.penalty):
            self._loss = self._new_loss(stepping)
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return self._loss.with_tensors({name: tensor.detach() for name, tensor in tensors.items()})

    def _new_loss(self, stepping: Stepping) -> Loss:
        names, parameters = list(stepping.parameters), stepping.parameters.values()
        loss = Loss(
            self.model,
            self.criterion,
            [max(self._kept, key=batch_length)],
            parameters=[glob.escape(name) for name in names],
            norm=self._norm_now(),
            weight_decay=stepping.penalty,
            dtype=torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32,
        )
        return loss.without_checks_of_derivatives()

    def _norm_now(self) -> Literal["batch", "frozen"]:
        return "batch" if any(module.training for module in batch_norms(self.model)) else "frozen"

    def _stepping(self) -> Stepping:
        return Stepping.of(self.optimizer, dict(self.model.named_parameters()), self.clip_norm)

    def _shapes_now(self) -> Mapping[str, torch.Size]:
        return {name: p.shape for name, p in self.model.named_parameters()}


def jsonl(path: str | Path) -> Sink:
    """Return the sink that appends each row as a line of JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return lambda row: append_jsonl(path, row, sync=False)


def inner_model(model: nn.Module) -> nn.Module:
    """Return the network inside of what compiles it or averages its gradients."""
    while type(model).__name__ in ("OptimizedModule", "DistributedDataParallel", "DataParallel"):
        model = getattr(model, "_orig_mod", None) or model.module  # type: ignore[assignment]
    return model


def _chosen(quantities: Sequence[str] | None, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of what is to be measured: those asked for, or those that suit the optimiser."""
    adam = kind_of(unwrapped(optimizer)) == "adam"
    if quantities is None:
        return [name for name in QUANTITIES if adam or name != "preconditioned_sharpness"]
    names = [quantities] if isinstance(quantities, str) else list(dict.fromkeys(quantities))
    if not names:
        raise InputError("expected at least one quantity, got none: leave quantities out for all that suit")
    for name in names:
        if name not in QUANTITIES:
            raise unknown_name("quantity", name, QUANTITIES)
    if "preconditioned_sharpness" in names and not adam:
        raise InputError(
            f"expected Adam or AdamW for preconditioned_sharpness, got {type(unwrapped(optimizer)).__name__}: "
            "leave that quantity out"
        )
    return names


def _first(batches: Sequence[Batch], examples: int) -> list[Batch]:
    """Return the first so many examples of some batches, or all that there are."""
    chosen = list[Batch]()
    for batch in batches:
        if examples > 0:
            chosen.append(split(batch, examples)[0])
            examples -= batch_length(batch)
    return chosen


def _plain_facts(facts: Row) -> Row:
    """Return facts as words and numbers: those in a tensor would keep its graph, and JSON has neither them nor NumPy's.

    >>> _plain_facts({"loss": torch.ones(1), "epoch": 2, "part": "a"})
    {'loss': 1.0, 'epoch': 2, 'part': 'a'}
    """
    plain = Row()
    for name, value in facts.items():
        plain[name] = value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value
        if not isinstance(plain[name], str | int | float | None):
            raise InputError(
                f"expected one number or a word for {name}, got {type(value).__name__}: pass one of its numbers"
            )
    return plain


def _finite(row: Row) -> Row:
    """Return a row without NaN and infinity: ``None`` and the reason instead."""
    bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return row | dict.fromkeys(bad) | {f"{name}_reason": "it is not finite" for name in bad}


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))
