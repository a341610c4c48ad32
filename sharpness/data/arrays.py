"""Arrays as examples: which axis is which, what the types mean, and the ``npz:`` data that come so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.config.spec import Spec
from sharpness.data.dataset import Examples
from sharpness.data.npz_files import array_names, read_arrays
from sharpness.data.options import file_of, scaling_of
from sharpness.data.user_data import DataRequest, Loaded, count_classes
from sharpness.errors import InputError

OPTIONS = ("inputs", "targets", "scale", "mean", "std")
INPUT_NAMES = ("x", "X", "inputs", "images", "data", "x_train")
TARGET_NAMES = ("y", "targets", "labels", "y_train")
CHANNELS = (1, 3, 4)


def load_npz(spec: Spec, request: DataRequest) -> Loaded:
    """Read ``npz:FILE``: two arrays of a file, whose names are guessed where only one has a usual name.

    Raises :class:`InputError` for a damaged file, names that cannot be guessed, and arrays that are no examples.
    """
    path = file_of(spec)
    names = array_names(path)
    chosen = [choose(spec, "inputs", names, INPUT_NAMES), choose(spec, "targets", names, TARGET_NAMES)]
    inputs, targets = read_arrays(path, chosen, widened=chosen[1:])
    if inputs.ndim == 0 or inputs.shape[:1] != targets.shape[:1]:
        raise InputError(
            f"{spec.text}: expected one row of inputs and one of targets for each example, got the shapes "
            f"{inputs.shape} and {targets.shape}: give arrays that belong together"
        )
    rows = request.rows(len(targets))
    return from_arrays(spec, rows, inputs if len(rows) == len(inputs) else inputs[rows.numpy()], targets)


def choose(spec: Spec, option: str, names: Sequence[str], usual: Sequence[str]) -> str:
    """Return the array or column that an option names, or the only one of a usual name.

    >>> choose(Spec("npz:a.npz", "npz", "a.npz"), "inputs", ["x", "y", "z"], INPUT_NAMES)
    'x'
    """
    if spec.options.get(option) is not None:
        return str(spec.options[option])
    found = [name for name in names if name in usual]
    if len(found) != 1:
        got = f"several, {', '.join(found)}" if found else f"none among {', '.join(names[:20]) or 'nothing'}"
        raise InputError(f"{spec.text}: expected one usual name for the {option}, got {got}: add ,{option}=NAME")
    return found[0]


def from_arrays(
    spec: Spec,
    rows: Tensor,
    inputs: np.ndarray[Any, Any],
    targets: np.ndarray[Any, Any],
    num_classes: int | None = None,
) -> Loaded:
    """Return the inputs of the examples ``rows`` and the targets of all examples as the ones asked for.

    Bytes are divided by 255 unless the options say otherwise, and images of N x H x W or N x H x W x C bytes become
    N x C x H x W; other numbers stay as they are unless the options scale them. Targets that are whole numbers or truth
    values are class numbers, at least ``num_classes`` of them. Raises :class:`InputError` for other types.
    """
    classes, target_notes = _target_tensor(spec, targets)
    if not classes.is_floating_point():
        at_least = 2 if targets.dtype == bool else num_classes or 1
        num_classes = max(count_classes(classes, spec.text) or 0, at_least)
    numbers, image_notes = channels_first(_input_tensor(spec, inputs))
    scaling = scaling_of(spec, 255.0 if numbers.dtype == torch.uint8 else 1.0)
    notes = (*image_notes, *target_notes)
    return Loaded(Examples(numbers, classes[rows]), len(targets), num_classes, notes, scaling)


def channels_first(images: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Return bytes that are images by their shape as N x C x H x W, and what was done; all else as it is.

    >>> channels_first(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))[0].shape
    torch.Size([2, 3, 8, 8])
    """
    if images.dtype != torch.uint8:
        return images, ()
    if images.dim() == 3:
        return images.unsqueeze(1), ("N x H x W bytes taken as images of one channel",)
    if images.dim() == 4 and images.shape[3] in CHANNELS and images.shape[1] not in CHANNELS:
        return images.permute(0, 3, 1, 2), ("N x H x W x C bytes taken as images, channels moved to the front",)
    return images, ()


def _input_tensor(spec: Spec, inputs: np.ndarray[Any, Any]) -> Tensor:
    """Return bytes and floats in their own type, and other whole numbers, such as those of tokens, as int64."""
    kind, size = inputs.dtype.kind, inputs.dtype.itemsize
    if kind in "iu":
        return torch.from_numpy(inputs if inputs.dtype == np.uint8 else inputs.astype(np.int64, copy=False))
    if kind == "f" and size <= 8:
        return torch.from_numpy(inputs)
    raise InputError(
        f"{spec.text}: expected inputs of bytes, whole numbers or floats up to 64 bits, got {inputs.dtype}: "
        "save them with astype, as in x.astype('float32')"
    )


def _target_tensor(spec: Spec, targets: np.ndarray[Any, Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Return class numbers as int64 and regression targets as floats."""
    kind, size = targets.dtype.kind, targets.dtype.itemsize
    if kind == "f" and size <= 8:
        return torch.from_numpy(targets), ()
    if kind not in "iub":
        raise InputError(
            f"{spec.text}: expected targets that are class numbers or floats up to 64 bits, got {targets.dtype}: "
            "save them with astype, as in y.astype('int64')"
        )
    classes = torch.from_numpy(targets.astype(np.int64, copy=False))
    if classes.shape[1:] == (1,):  # a column of class numbers, as Keras saves them
        return classes.squeeze(1), ("targets of N x 1 taken as N class numbers",)
    return classes, ()
