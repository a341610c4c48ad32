"""Training: one visible loop, and a file for each thing that the large-batch literature varies.

It meets the probes in the run folder alone; curvature that is measured while the weights move comes from ``curvature``.
"""

from sharpness.errors import Terminated
from sharpness.training.checks import check_config
from sharpness.training.loop import train
from sharpness.training.measures import MEASURES
from sharpness.training.optimizers import OPTIMIZERS

__all__ = ["MEASURES", "OPTIMIZERS", "Terminated", "check_config", "train"]
