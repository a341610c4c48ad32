"""The L2 penalty of a request: a number, or what the config of a run folder says it was trained with."""

from __future__ import annotations

from sharpness.errors import InputError
from sharpness.runs import RunFolder

OF_CONFIG = "config"


def weight_decay_of(text: str | None, run: RunFolder | None) -> float:
    """Return the factor mu of the penalty ``(mu / 2) |w|^2`` that was asked for, 0 where none was.

    Raises :class:`InputError` for a text that is no number, and for ``config`` without a run folder or where the
    optimiser decays weights beside the gradient: what AdamW settles at is no minimum of loss plus penalty.

    >>> weight_decay_of("1e-4", None), weight_decay_of(None, None)
    (0.0001, 0.0)
    """
    if text is None:
        return 0.0
    if text != OF_CONFIG:
        try:
            return float(text)
        except ValueError:
            raise InputError(
                f"expected --weight-decay of a number or 'config', got {text!r}: give the factor, such as 1e-4"
            ) from None
    if run is None:
        raise InputError("expected a run folder for --weight-decay config, got another checkpoint: give the number")
    training = run.config().training
    if training.optimizer == "adamw" and training.weight_decay:
        raise InputError(
            "expected an optimiser whose weight_decay is an L2 penalty for --weight-decay config, got adamw, which "
            "decays weights beside the gradient: leave the option out, or give a number for another function on purpose"
        )
    return training.weight_decay
