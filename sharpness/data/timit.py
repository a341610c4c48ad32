"""TIMIT as features of the user's own: the corpus needs a licence (LDC93S1), so nothing of it is downloaded.

The file is ``timit.npz``, written by ``np.savez`` with the arrays ``train_inputs`` and ``test_inputs`` (frames x 360,
any float type, or bytes that are taken as they are) and ``train_targets`` and ``test_targets`` (class numbers 0 to
1972). Any number of frames is taken; Keskar et al. 2017 have 721,329 and 310,621.

Datasets here are bytes, so each feature is stored in 256 steps over its mean +- 4 standard deviations in the training
frames, what lies beyond at the ends: rounding moves it by at most 0.016 standard deviations. Divided by 255, as all
bytes are, it lies in [0, 1] where the authors' features (Appendix A does not say) may have been standardised; the first
BatchNorm takes the difference out again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharpness.data.dataset import Split, check_labels
from sharpness.data.npz_files import read_arrays
from sharpness.errors import InputError

REACH = 4.0
"""Standard deviations of a feature on each side of its mean that bytes are spread over."""
ARRAYS = ("train_inputs", "train_targets", "test_inputs", "test_targets")
BLOCK = 1 << 14  # frames turned into bytes at a time

Array = np.ndarray[Any, Any]


def read_timit(path: Path, shape: tuple[int, int, int], num_classes: int) -> tuple[Split, Split]:
    """Read the training and the test frames (N x 1 x 1 x features) of a user's ``timit.npz``.

    Raises :class:`InputError` naming the file when it is missing or damaged, or an array is not of its form.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: expected the features of TIMIT, got no such file: the corpus needs a licence (LDC93S1); write "
            f"your own features there with np.savez({', '.join(f'{name}=...' for name in ARRAYS)})"
        )
    train_inputs, train_targets, test_inputs, test_targets = read_arrays(path, ARRAYS)
    width = shape[2]
    _check(path, "train", train_inputs, train_targets, width)
    _check(path, "test", test_inputs, test_targets, width)
    if (train_inputs.dtype == np.uint8) != (test_inputs.dtype == np.uint8):
        raise InputError(
            f"{path}: expected train_inputs and test_inputs of one kind, got {train_inputs.dtype} and "
            f"{test_inputs.dtype}: save both as floats or both as bytes"
        )
    low, step = _steps(train_inputs)
    splits = []
    for inputs, targets in ((train_inputs, train_targets), (test_inputs, test_targets)):
        classes = torch.from_numpy(targets.astype(np.int64))
        check_labels(classes, num_classes, path)
        frames = torch.from_numpy(as_bytes(inputs, low, step))
        splits.append(Split(frames.reshape(-1, *shape), classes))
    return splits[0], splits[1]


def _check(path: Path, name: str, inputs: Array, targets: Array, width: int) -> None:
    number_kinds = inputs.dtype.kind == "f" or inputs.dtype == np.uint8
    if not number_kinds or inputs.ndim != 2 or inputs.shape[1] != width or not len(inputs):
        raise InputError(
            f"{path}: expected {name}_inputs of frames x {width} floats or bytes, got {inputs.shape} of "
            f"{inputs.dtype}: save the features of one frame in a row"
        )
    if targets.dtype.kind not in "iu" or targets.shape != inputs.shape[:1] or targets.min() < 0:
        raise InputError(
            f"{path}: expected {name}_targets of {len(inputs)} class numbers from 0, one for each frame, got "
            f"{targets.shape} of {targets.dtype}: save the class of each frame as a whole number"
        )
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        raise InputError(f"{path}: expected finite numbers in {name}_inputs, got NaN or infinity: clean the features")


def _steps(inputs: Array) -> tuple[Array, Array]:
    """Return the value of byte 0 and the length of a step for each feature, from the training frames."""
    mean = inputs.mean(0, dtype=np.float64)
    squares = sum(((inputs[rows] - mean) ** 2).sum(0) for rows in _blocks(len(inputs)))
    std = np.sqrt(squares / len(inputs))
    std = np.where(std > 0, std, 1.0)  # of a feature that is constant every value is the middle byte
    return mean - REACH * std, 2 * REACH * std / 255


def _blocks(frames: int) -> list[slice]:
    """Return the rows to take at a time, so that never the whole set is there in float64."""
    return [slice(first, first + BLOCK) for first in range(0, frames, BLOCK)]


def as_bytes(inputs: Array, low: Array, step: Array) -> Array:
    """Return features as bytes: the nearest of 256 steps from ``low``; bytes stay as they are.

    >>> as_bytes(np.array([[-9.0, 0.0, 1.04]]), np.zeros(3), np.full(3, 0.1))
    array([[ 0,  0, 10]], dtype=uint8)
    """
    if inputs.dtype == np.uint8:
        return inputs
    result = np.empty(inputs.shape, dtype=np.uint8)
    for rows in _blocks(len(inputs)):
        result[rows] = np.clip(np.rint((inputs[rows] - low) / step), 0, 255)
    return result
