"""Training: one visible loop and the optimisers it can use."""

from sharpness.training.loop import train
from sharpness.training.optimizers import OPTIMIZERS

__all__ = ["OPTIMIZERS", "train"]
