"""Data by spec: a built-in name, ``npz:``, ``folder:``, ``hf:`` or ``text:`` with a path, or a user's function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sharpness.config.spec import Spec, parse_spec
from sharpness.data import DATASETS, arrays, check_context, image_folders, load_dataset, saved, texts
from sharpness.data.batches import Batch, batch_length, named_tensors
from sharpness.data.dataset import Batches, Examples
from sharpness.data.factories import load_from_factory
from sharpness.data.options import whole_number
from sharpness.data.scaling import BYTES
from sharpness.data.user_data import DataRequest, Loaded, UserData, require_memory
from sharpness.errors import InputError, unknown_name
from sharpness.machine.memory import bounded_memory, is_out_of_memory

SPLITS = ("train", "test")


@dataclass(frozen=True)
class SourceInfo:
    """One kind of data spec: how it is written, the options it takes, and the function that reads it."""

    usage: str
    description: str
    options: tuple[str, ...]
    load: Callable[[Spec, DataRequest], Loaded]


SOURCES: dict[str, SourceInfo] = {
    "npz": SourceInfo(
        "npz:FILE",
        "two arrays of a file that np.savez wrote; bytes are divided by 255 (inputs=, targets=, scale=, mean=, std=)",
        arrays.OPTIONS,
        arrays.load_npz,
    ),
    "folder": SourceInfo(
        "folder:DIR",
        "images in one folder per class, sorted by name (size=N, channels=1|3, mean=, std=)",
        image_folders.OPTIONS,
        image_folders.load_folder,
    ),
    "hf": SourceInfo(
        "hf:DIR",
        "what save_to_disk of Hugging Face's datasets wrote: tokens, images or numbers (split=, inputs=, targets=)",
        saved.OPTIONS,
        saved.load_saved,
    ),
    "text": SourceInfo(
        "text:FILE",
        "a text cut into pieces of tokens for a language model (tokenizer=DIR, length=128, mask=0.15)",
        texts.OPTIONS,
        texts.load_text,
    ),
}


def load_data(
    text: str,
    *,
    batch_size: int,
    examples: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    tokenizer: Path | None = None,
    freeze: bool = False,
    model: Path | None = None,
) -> UserData:
    """Return the data of a spec in batches of ``batch_size``, or a subset of ``examples`` drawn with ``seed``.

    A subset keeps the order of the data. ``data_dir`` is where a built-in dataset is looked for first; ``tokenizer`` is
    the folder used for ``text:`` where the spec names none, ``model`` that of the network whose pad token fills rows of
    tokens. With ``freeze`` data that change are read once. Raises :class:`InputError` for unknown names and options,
    for files that are missing, damaged or hostile, for more examples than there are, and for numbers that are not
    finite.

    >>> data = load_data("fashion_mnist_10k", batch_size=100, examples=250)
    >>> [len(targets) for _, targets in data.batches], data.num_classes, data.input_shape
    ([100, 100, 50], 10, (1, 28, 28))
    >>> data.notes
    ('250 of 10000 examples drawn with seed 0', 'bytes divided by 255')
    """
    request = DataRequest(text, batch_size, examples, seed, data_dir, tokenizer, freeze, model)
    if parse_spec(text, SOURCES).importable:  # what a user's own function takes is up to the user
        return _load(text, request)
    try:
        with bounded_memory():
            return _load(text, request)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{text}: expected data that the free memory holds, got more: take fewer or smaller examples, or a larger "
            "machine"
        ) from None


def _load(text: str, request: DataRequest) -> UserData:
    batch_size, data_dir = request.batch_size, request.data_dir
    if batch_size < 1:
        raise InputError(f"expected a batch size of at least 1, got {batch_size}: give one such as 100")
    spec = parse_spec(text, SOURCES)
    if spec.kind is None and not spec.importable:
        return _user_data(request, _load_built_in(spec, request))
    if data_dir is not None:
        raise InputError(f"expected --data-dir with a built-in dataset only, got it with {text}: leave it out")
    if spec.kind is None:
        return _user_data(request, load_from_factory(spec, request))
    source = SOURCES[spec.kind]
    spec.checked(source.options)
    return _user_data(request, source.load(spec, request))


def load_test_data(
    text: str, *, batch_size: int, examples: int | None = None, seed: int = 0, data_dir: Path | None = None
) -> UserData | None:
    """Return the test split of a built-in dataset, or a subset of it; ``None`` for the spec of any other data.

    >>> load_test_data("npz:data.npz", batch_size=100) is None
    True
    """
    spec = parse_spec(text, SOURCES)
    if spec.kind is not None or spec.importable:
        return None
    number = examples
    if examples is not None and spec.name in DATASETS:
        number = min(examples, DATASETS[spec.name].num_examples(_context_of(spec))[1])
    context = f",context={spec.options['context']}" if "context" in spec.options else ""
    test = f"{spec.name},split=test{context}"
    return load_data(test, batch_size=batch_size, examples=number, seed=seed, data_dir=data_dir)


def _load_built_in(spec: Spec, request: DataRequest) -> Loaded:
    if spec.name not in DATASETS:
        usages = (source.usage for source in SOURCES.values())
        raise unknown_name("dataset", spec.name, [*DATASETS, *usages, "package.module:factory"])
    name = str(spec.checked(("split", "context")).get("split", "train"))
    if name not in SPLITS:
        raise InputError(f"{spec.text}: {unknown_name('split', name, SPLITS)}")
    dataset = load_dataset(spec.name, data_dir=request.data_dir, context=_context_of(spec))
    part = dataset.train if name == "train" else dataset.test
    return Loaded(request.drawn(part), len(part), dataset.num_classes, scaling=BYTES)


def _context_of(spec: Spec) -> int | None:
    """Return the option ``context`` of a text, checked, ``None`` where it is left out."""
    context = whole_number(spec, "context", 1)
    check_context(spec.name, context)
    return context


def _user_data(request: DataRequest, loaded: Loaded) -> UserData:
    """Cut what was loaded into batches and say what is known of them."""
    _refuse_non_finite(request, loaded)
    batches, notes = _cut(request, loaded), list(loaded.notes)
    number, shape = sum(map(batch_length, batches)), _input_shape(batches[0])
    drawn = number < loaded.total
    if drawn:
        notes.insert(0, f"{number} of {loaded.total} examples drawn with seed {request.seed}")
    if loaded.scaling is not None:
        notes.append(f"{'bytes' if _holds_bytes(loaded) else 'inputs'} {loaded.scaling}")
    facts = {
        "spec": request.spec,
        "examples_total": loaded.total,
        "examples": number,
        "subset_seed": request.seed if drawn else None,
        "batch_size": None if loaded.own_batches else request.batch_size,
    }
    return UserData(request.spec, batches, loaded.num_classes, shape, tuple(notes), facts)


def _cut(request: DataRequest, loaded: Loaded) -> Sequence[Batch]:
    """Return batches that can be read again and again; inputs that are scaled become floats batch by batch."""
    data = loaded.data
    if not isinstance(data, Examples):
        return data
    dtype = torch.promote_types(data.inputs.dtype, torch.float32)
    require_memory(request.spec, min(request.batch_size, len(data)) * data.inputs[0].numel() * dtype.itemsize)
    try:
        return Batches(data, request.batch_size, dtype, loaded.scaling)
    except InputError as error:
        raise InputError(f"{request.spec}: {error}") from error


def _holds_bytes(loaded: Loaded) -> bool:
    return isinstance(loaded.data, Examples) and loaded.data.inputs.dtype == torch.uint8


def _input_shape(batch: Batch) -> tuple[int, ...] | None:
    """Return the shape of one example of a pair of tensors."""
    pair_of_tensors = isinstance(batch, list | tuple) and isinstance(batch[0], Tensor)
    return tuple(batch[0].shape[1:]) if pair_of_tensors else None


def _refuse_non_finite(request: DataRequest, loaded: Loaded) -> None:
    """Refuse NaN and infinite numbers: a mean over data with one of them says nothing."""
    data = loaded.data
    batches = [(data.inputs, data.targets)] if isinstance(data, Examples) else data
    found: Counter[str] = Counter()
    for batch in batches:
        for path, tensor in named_tensors(batch):
            if tensor.is_floating_point():
                found[path] += tensor.numel() - int(tensor.isfinite().sum())
    for path, count in found.items():
        if count:
            name = {"/0": "inputs", "/1": "targets"}.get(path, path.removeprefix("/"))
            raise InputError(
                f"{request.spec}: expected finite numbers, got {count} NaN or infinite ones in the {name}: "
                "clean the data"
            )
