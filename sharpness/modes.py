"""Earlier names for the context that a network is measured in, kept for code that was written against them."""

from sharpness.loss.eval_mode import plain_recurrence as _plain_recurrence
from sharpness.machine.precision import full_precision as _full_precision

__all__ = ["_full_precision", "_plain_recurrence"]
