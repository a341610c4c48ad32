"""Training: one visible loop, and one file for each thing that the large-batch literature varies."""

from sharpness.errors import Terminated
from sharpness.training.checks import check_config
from sharpness.training.loop import train
from sharpness.training.measures import MEASURES
from sharpness.training.optimizers import OPTIMIZERS
from sharpness.training.together import check_together, group_together, train_together

__all__ = [
    "MEASURES",
    "OPTIMIZERS",
    "Terminated",
    "check_config",
    "check_together",
    "group_together",
    "train",
    "train_together",
]
