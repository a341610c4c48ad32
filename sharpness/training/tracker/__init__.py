"""A tracker for any training loop, which keeps to a stated share of the loop's time."""

from sharpness.training.tracker.quantities import QUANTITIES
from sharpness.training.tracker.tracker import Sink, Tracker

__all__ = ["QUANTITIES", "Sink", "Tracker"]
