"""The config of a training run: frozen dataclasses, their TOML form, the run id; and the specs of the command line.

Everything may import from here; this folder imports ``sharpness.errors`` and ``sharpness.parsing`` alone.
"""

from sharpness.config.fields import (
    AverageConfig,
    BatchConfig,
    BudgetConfig,
    DataConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)
from sharpness.config.toml import differences, from_dict, from_toml, to_toml

__all__ = [
    "AverageConfig",
    "BatchConfig",
    "BudgetConfig",
    "DataConfig",
    "MeasureConfig",
    "ModelConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "differences",
    "from_dict",
    "from_toml",
    "to_toml",
]
