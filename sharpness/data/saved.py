"""Datasets that Hugging Face's ``datasets`` wrote with ``save_to_disk``, ``hf:DIR``; no script and no network."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.config.spec import Spec
from sharpness.data.arrays import INPUT_NAMES, TARGET_NAMES, choose, from_arrays
from sharpness.data.batches import IGNORED, split
from sharpness.data.images import Picture, decode_images
from sharpness.data.options import channels_of, folder_of, whole_number
from sharpness.data.user_data import DataRequest, Loaded, count_classes, require_memory
from sharpness.errors import InputError, unknown_name
from sharpness.machine.extras import extra, offline
from sharpness.parsing import parse_object, read_bounded, read_object, shown_value

COLUMN_OPTIONS = ("split", "inputs", "targets")
TOKEN_OPTIONS = (*COLUMN_OPTIONS, "pad")
NUMBER_OPTIONS = (*COLUMN_OPTIONS, "scale", "mean", "std")
IMAGE_OPTIONS = (*NUMBER_OPTIONS, "size", "channels")
OPTIONS = (*IMAGE_OPTIONS, "pad")
INPUT_COLUMNS = (*INPUT_NAMES, "image", "img", "pixel_values")
TARGET_COLUMNS = (*TARGET_NAMES, "label")
BYTES_PER_ROW = 100  # of a row's number and of the objects around its entries
FORMATS = (None, "python", "numpy", "torch", "arrow", "pandas")  # that a table was last looked at with
SEQUENCES = ("input_ids", "attention_mask", "token_type_ids")


def load_saved(spec: Spec, request: DataRequest) -> Loaded:
    """Read ``hf:DIR``: tokens as dicts of tensors, an image or number column with a target column as pairs.

    Raises :class:`InputError` without the package, for a folder that ``save_to_disk`` did not write, and for columns
    that hold no numbers.
    """
    folder = str(folder_of(spec).resolve())
    _check_states(Path(folder))
    with offline(), _readable(spec):
        datasets = extra("datasets", "hf")
        table = _split(spec, datasets.load_from_disk(folder), datasets.DatasetDict).with_format(None)
        if "input_ids" in table.column_names and spec.options.get("inputs", "input_ids") == "input_ids":
            return _tokens(spec, request, table)
        return _pairs(spec, request, table, datasets.Image)


def _check_states(folder: Path) -> None:
    """Raise :class:`InputError` where the files that say what a folder holds lead out of it or set more than that."""
    listing, tables = folder / "dataset_dict.json", [folder]
    if listing.is_file():
        names = _json(listing).get("splits")
        tables = [folder / _inside(listing, name) for name in (names if isinstance(names, list) else [])]
    for state in (table / "state.json" for table in tables if (table / "state.json").is_file()):
        content = _json(state)
        files = content.get("_data_files")
        for file in files if isinstance(files, list) else []:
            _inside(state, file.get("filename") if isinstance(file, dict) else file)
        kind, options = content.get("_format_type"), content.get("_format_kwargs")
        if kind not in FORMATS or options:
            raise InputError(
                f"{state}: expected a table without a format of its own, got {shown_value(kind)} with "
                f"{shown_value(options)}: save it again after with_format(None)"
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        return parse_object(read_bounded(path, "a dataset's state"), "a dataset's state")
    except InputError as error:
        raise InputError(f"{path}: expected a dataset that save_to_disk wrote, but {error}") from error


def _inside(path: Path, name: Any) -> str:
    if not isinstance(name, str) or name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name:
        raise InputError(f"{path}: expected names in the same folder, got {shown_value(name)}: write the dataset again")
    return name


def _split(spec: Spec, saved: Any, several: type) -> Any:
    """Return the table to read: the only one, or the one that ``split`` names."""
    name = spec.options.get("split")
    if isinstance(saved, several):
        if (name or "train") not in saved:
            raise InputError(f"{spec.text}: {unknown_name('split', str(name or 'train'), saved)}: add ,split=NAME")
        return saved[name or "train"]
    if name is not None:
        raise InputError(f"{spec.text}: expected no split, for the folder holds one table: leave ,split={name} out")
    return saved


def _pairs(spec: Spec, request: DataRequest, table: Any, image_type: type) -> Loaded:
    """Return a column of images or numbers and one of targets."""
    names = table.column_names
    source = _known(spec, names, choose(spec, "inputs", names, INPUT_COLUMNS))
    target = _known(spec, names, choose(spec, "targets", names, TARGET_COLUMNS))
    rows, holds_images = request.rows(len(table)), isinstance(table.features[source], image_type)
    spec.checked(IMAGE_OPTIONS if holds_images else NUMBER_OPTIONS)
    if holds_images:
        stored = table.select_columns([source]).cast_column(source, image_type(decode=False))
        pictures = [
            Picture(f"{spec.text}: image {row}", partial(_encoded, stored, row, source)) for row in rows.tolist()
        ]
        size, channels = whole_number(spec, "size", 1), channels_of(spec)
        images, notes = decode_images(spec.text, pictures, size, channels)
        inputs = images.numpy()
    else:
        inputs, notes = _stacked(spec, table, source, rows.tolist()), ()
    targets = _stacked(spec, table, target, range(len(table)))
    loaded = from_arrays(spec, rows, inputs, targets, getattr(table.features[target], "num_classes", None))
    return Loaded(loaded.data, loaded.total, loaded.num_classes, (*notes, *loaded.notes), loaded.scaling)


def _encoded(stored: Any, row: int, column: str) -> io.BytesIO:
    """Open an image as it was saved; one that is only a path or an address is not followed."""
    content = stored[row][column]["bytes"]
    if content is None:
        raise InputError(
            f"image {row} of column {column}: expected its bytes in the dataset, got a path or nothing: "
            "save it again with the images embedded"
        )
    return io.BytesIO(content)


def _tokens(spec: Spec, request: DataRequest, table: Any) -> Loaded:
    """Return tokens and labels in the layout of Hugging Face's models, filled up to the longest example drawn."""
    spec.checked(TOKEN_OPTIONS)
    names, rows = table.column_names, request.rows(len(table)).tolist()
    usual = [name for name in ("labels", "label") if name in names]
    target = _known(spec, names, choose(spec, "targets", names, usual[:1]))
    columns = {name: _ragged(spec, table, name, rows) for name in SEQUENCES if name in names}
    lengths = [len(row) for row in columns["input_ids"]]
    if min(lengths) == 0:
        raise InputError(
            f"{spec.text}: expected at least one token in each row of input_ids, got an empty row: drop it"
        )
    require_memory(spec.text, 8 * len(rows) * max(lengths) * (len(columns) + 2))
    filled = min(lengths) < max(lengths)
    if filled:
        columns.setdefault("attention_mask", [np.ones(length, np.int64) for length in lengths])
    labels, num_classes = _labels(spec, table, target, rows, lengths)
    pad = whole_number(spec, "pad", 0)
    if filled and pad is None:
        pad = _pad_token(spec, request.model, for_each=labels.ndim > 1 and not labels.is_floating_point())
    fill = {"input_ids": pad or 0}
    batch = {name: _filled(spec, name, column, lengths, fill.get(name, 0)) for name, column in columns.items()}
    batch["labels"] = labels
    unused = [name for name in names if name not in (*SEQUENCES, target)]
    notes = [f"filled up to {max(lengths)} tokens with token {pad}, labels there with {IGNORED}"] if filled else []
    notes += [f"labels taken from the column {target}"] if target != "labels" else []
    notes += [f"columns left out: {', '.join(unused)}"] if unused else []
    return Loaded(split(batch, request.batch_size), len(table), num_classes, tuple(notes))


def _pad_token(spec: Spec, model: Path | None, *, for_each: bool) -> int:
    """Return the token that rows are filled up with: the pad token of the model in a folder, by its ``config.json``.

    Without one it is 0 where there are labels ``for_each`` token, since masks and labels leave out what is filled.
    Raises :class:`InputError` elsewhere: classifiers of the last token find it by the pad token.
    """
    got, cure = "none", "add ,pad=N with the one of the training"
    if model is not None and (file := model / "config.json").is_file():
        config = read_object(file, "a config")
        text = config.get("text_config", config)
        pad = text.get("pad_token_id") if isinstance(text, dict) else None
        if type(pad) is int and pad >= 0:
            return pad
        got, cure = f"{shown_value(pad)} in {file}", "set pad_token_id there, in its text_config if any"
    if for_each:
        return 0
    raise InputError(f"{spec.text}: expected a pad token to fill rows of several lengths with, got {got}: {cure}")


def _labels(
    spec: Spec, table: Any, column: str, rows: Sequence[int], lengths: Sequence[int]
) -> tuple[Tensor, int | None]:
    """Return one label for each token, or one (or a row of floats) for each example, and the number of classes."""
    feature = table.features[column]
    dtype = _dtype(spec, column, feature)
    if hasattr(feature, "feature") and dtype.kind in "iub":
        return _filled(spec, column, _ragged(spec, table, column, rows), lengths, IGNORED), None
    everything = torch.from_numpy(_stacked(spec, table, column, range(len(table))))
    labels = everything if everything.is_floating_point() else everything.long()
    num_classes = count_classes(labels, spec.text)
    if num_classes is not None:
        num_classes = max(num_classes, getattr(feature, "num_classes", None) or 0)
    return labels[torch.tensor(rows)], num_classes


def _ragged(spec: Spec, table: Any, column: str, rows: Sequence[int]) -> list[np.ndarray[Any, Any]]:
    """Return a column of whole-number sequences, one array for each row."""
    feature = table.features[column]
    if _dtype(spec, column, feature).kind not in "iub":
        raise InputError(f"{spec.text}: expected whole numbers in {column}, got {feature}: tokenise the texts first")
    stored = table.data.column(column).nbytes * 8 // _dtype(spec, column, feature).itemsize
    require_memory(spec.text, (stored // len(table) + BYTES_PER_ROW) * len(rows))
    found = [np.asarray(row) for row in _formatted(table, column, np.dtype(np.int64), rows)]
    if any(row.ndim != 1 for row in found):
        raise InputError(f"{spec.text}: expected one sequence in each row of {column}, got another shape: flatten it")
    return found


def _stacked(spec: Spec, table: Any, column: str, rows: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return a column of numbers, or of arrays of one shape, as one array of its own type."""
    dtype = _dtype(spec, column, table.features[column])
    require_memory(spec.text, (table.data.column(column).nbytes // len(table) + BYTES_PER_ROW) * len(rows))
    array = np.asarray(_formatted(table, column, dtype, rows))
    if array.dtype == object:
        raise InputError(f"{spec.text}: expected rows of one shape in {column}, got several: bring them to one first")
    return np.require(array, requirements="W")  # a view of the mapped file is not writable, which torch warns of


def _formatted(table: Any, column: str, dtype: np.dtype[Any], rows: Sequence[int]) -> Any:
    with np.errstate(invalid="raise"):  # a missing number would become another one
        return table.select_columns([column]).with_format("numpy", dtype=dtype)[list(rows)][column]


def _dtype(spec: Spec, column: str, feature: Any) -> np.dtype[Any]:
    """Return the type of a column's numbers, whatever they are nested in."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    try:
        return np.dtype(feature.dtype)
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{spec.text}: expected numbers in the column {column}, got {feature}: "
            "name others with ,inputs=COLUMN,targets=COLUMN or turn it into numbers first"
        ) from error


def _filled(spec: Spec, name: str, rows: Sequence[np.ndarray[Any, Any]], lengths: Sequence[int], fill: int) -> Tensor:
    """Return sequences as one tensor, the ends of short ones filled."""
    if [len(row) for row in rows] != list(lengths):
        raise InputError(f"{spec.text}: expected one entry in {name} for each of the input_ids, got other lengths")
    filled = torch.full((len(rows), max(lengths)), fill, dtype=torch.int64)
    for line, row in zip(filled, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    return filled


def _known(spec: Spec, names: Sequence[str], name: str) -> str:
    if name not in names:
        raise InputError(f"{spec.text}: {unknown_name('column', name, names)}")
    return name


@contextlib.contextmanager
def _readable(spec: Spec) -> Iterator[None]:
    """Turn whatever ``datasets`` raises for a folder of another kind or for damaged tables into one line."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(
            f"{spec.name}: expected a dataset that save_to_disk wrote, got {type(error).__name__} ({problem}): "
            "write it again"
        ) from error
