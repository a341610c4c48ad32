"""Training: one visible loop and the optimisers it can use."""

from sharpness.training.loop import check_config, train
from sharpness.training.optimizers import OPTIMIZERS

__all__ = ["OPTIMIZERS", "check_config", "train"]
