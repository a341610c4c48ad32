"""The tracker as a callback of Lightning's Trainer. Import it after Lightning, whose callbacks it is then one of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.errors import InputError
from sharpness.training.tracker import Tracker

_LOADED = [sys.modules[name] for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules]
# It comes under two names whose classes differ, so only what the user has loaded can be right.
_Base: Any = _LOADED[0].Callback if _LOADED else object


class SharpnessCallback(_Base):
    """``Trainer(callbacks=[SharpnessCallback(criterion, overhead=0.05)])``: a tracker of ``criterion(module(x), y)``.

    ``options`` are those of :class:`sharpness.training.tracker.Tracker`; rows go to ``track.jsonl`` in the Trainer's
    ``default_root_dir`` unless a ``sink`` is given, and are in ``callback.tracker.rows``. ``training_step`` is not
    called, because it logs: the criterion has to be that of the training, and ``None`` is for modules whose ``forward``
    takes the batch and returns its loss. A clipping by norm of the Trainer is known. For one optimiser.
    """

    def __init__(self, criterion: Callable[[Any, Any], Tensor] | None, **options: Any) -> None:
        super().__init__()
        self.criterion, self.options = criterion, options
        self.tracker: Tracker | None = None
        self._step = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin with the steps from here."""
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"expected one optimizer, got {len(trainer.optimizers)}: use a Tracker for each in the module"
            )
        self.tracker, self._step = None, trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the tracker measure if it is due, once the optimiser has stepped."""
        if self.tracker is None:
            by_norm = getattr(trainer, "gradient_clip_algorithm", None) in (None, "norm")
            clip_norm = (getattr(trainer, "gradient_clip_val", None) or None) if by_norm else None
            options = {"sink": Path(trainer.default_root_dir) / "track.jsonl", "clip_norm": clip_norm}
            self.tracker = Tracker(pl_module, self.criterion, trainer.optimizers[0], **{**options, **self.options})
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.tracker.step(batch, step=self._step, epoch=trainer.current_epoch)
