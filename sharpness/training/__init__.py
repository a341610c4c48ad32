"""Training: one visible loop, and one file for each thing that the large-batch literature varies."""

from sharpness.errors import Terminated
from sharpness.training.checks import check_config
from sharpness.training.loop import train
from sharpness.training.measures import MEASURES
from sharpness.training.optimizers import OPTIMIZERS

__all__ = ["MEASURES", "OPTIMIZERS", "Terminated", "check_config", "train"]
