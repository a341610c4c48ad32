"""The tracker as a callback of Hugging Face's Trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sharpness.errors import InputError
from sharpness.training.tracker import Tracker

_Base: Any = object
with contextlib.suppress(ImportError, RuntimeError):  # an installed one that does not load is none
    from transformers import TrainerCallback as _Base

NO_INPUTS = ("num_items_in_batch",)
"""What the Trainer passes beside the batch: how many labels all batches of an update count, which is no mean of one."""


class SharpnessCallback(_Base):
    """``Trainer(..., callbacks=[SharpnessCallback(overhead=0.05)])``: a tracker of the model's own loss.

    ``options`` are those of :class:`sharpness.training.tracker.Tracker`; rows go to ``track.jsonl`` in the Trainer's
    ``output_dir`` unless a ``sink`` is given, and are in ``callback.tracker.rows``. The batch is what the model was
    last called with while it trained, seen by a hook; where batches are accumulated it is the last of an update. A
    ``criterion(output, labels)`` is for models without a loss of their own. The Trainer's ``max_grad_norm`` is known.
    Under its mixed precision the network computes as the Trainer made it.
    """

    def __init__(self, criterion: Callable[[Any, Any], Tensor] | None = None, **options: Any) -> None:
        self.criterion, self.options = criterion, options
        self.tracker: Tracker | None = None
        self._batch: dict[str, Any] | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Begin to look at what the model is called with."""
        self.tracker = None
        if self._hook is not None:  # of a training that was interrupted
            self._hook.remove()
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Let the tracker measure if it is due."""
        if self._batch is None:
            raise InputError(
                "expected a model that the Trainer calls with named inputs, got none: use sharpness.Tracker in a loop"
            )
        if self.tracker is None:
            options = {"sink": Path(args.output_dir) / "track.jsonl", "clip_norm": args.max_grad_norm or None}
            self.tracker = Tracker(model, self.criterion, optimizer, **{**options, **self.options})
        self.tracker.step(self._batch, step=state.global_step, epoch=state.epoch)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the hook away."""
        self._hook.remove()
        self._batch = None

    def _see(self, model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        if model.training and inputs:  # neither evaluation nor the tracker's own passes
            self._batch = {name: value for name, value in inputs.items() if name not in NO_INPUTS}
