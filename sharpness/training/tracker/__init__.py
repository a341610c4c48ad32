"""A tracker for any training loop, which keeps to a stated share of the loop's time.

It imports the loss and its curvature, and knows neither configs nor run folders.
"""

from sharpness.training.tracker.quantities import QUANTITIES
from sharpness.training.tracker.tracker import Sink, Tracker

__all__ = ["QUANTITIES", "Sink", "Tracker"]
