"""The runs that studies of small language models start from: a character transformer on windows of one text."""

from __future__ import annotations

from dataclasses import replace

from sharpness.config import DataConfig, MeasureConfig, ModelConfig, RunConfig, TrainingConfig


def text_run(training: TrainingConfig) -> RunConfig:
    """Return the transformer on half a megabyte of kjv in windows of 64 bytes; it is tested at the end alone."""
    data = DataConfig(
        name="kjv", context=64, num_train=8448, num_validation=256, num_test=512, evaluation_batch_size=256
    )
    return RunConfig(
        data, ModelConfig("char_transformer_small", "layer"), training, measure=MeasureConfig(test_every=100.0)
    )


def trial(run: RunConfig, windows: int) -> RunConfig:
    """Return the same on so few windows of 16 bytes to train on that it takes seconds."""
    data = replace(run.data, context=16, num_train=windows + 8, num_validation=8, num_test=8, evaluation_batch_size=32)
    return replace(run, data=data)


def epochs_of(run: RunConfig, windows: float) -> float:
    """Return in how many epochs a run sees so many windows; held-out ones are none of an epoch's.

    >>> epochs_of(text_run(TrainingConfig()), 16_384)
    2.0
    """
    return windows / ((run.data.num_train or 0) - run.data.num_validation)
