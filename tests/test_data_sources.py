"""Data by spec: names and options, subsets of every kind of data, and what a user's own function may return."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sharpness.data import Batches, load_dataset
from sharpness.data.dataset import drawn_rows
from sharpness.data.sources import SOURCES, load_test_data
from sharpness.machine.environment import derived_seed
from tests.data_cases import (
    digests,
    load,
    pair,
    random_array,
    refused,
    save_images,
    save_npz,
    save_table,
    save_text,
    save_tokenizer,
)

HERE = "tests.test_data_sources"

# --- functions that a user could write -------------------------------------------------------------------------------


class Items(Dataset[Any]):
    """Eleven items, each with noise of its own at every reading, as augmentation gives."""

    def __init__(self) -> None:
        self.read = list[int]()

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return torch.full((2,), float(index)) + torch.rand(2), index % 3


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter([torch.zeros(2)])


ITEMS = Items()
tensors = pair
not_a_function = 3


def items() -> Items:
    ITEMS.read.clear()
    return ITEMS


def mapping(labels: str = "classes") -> dict[str, Tensor]:
    tokens = torch.arange(11 * 5).view(11, 5)
    return {"input_ids": tokens, "labels": {"classes": torch.arange(11) % 4, "tokens": tokens}[labels]}


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*pair()), batch_size=4)


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*pair()), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1))


def nested() -> list[Any]:
    inputs, targets = pair()
    return [((inputs[:8], inputs[:8] * 2), targets[:8].float()), ((inputs[8:], inputs[8:] * 2), targets[8:].float())]


def made(kind: str) -> Any:
    inputs, targets = pair()
    return {
        "stream": Stream(),
        "number": 7,
        "text": "text",
        "tensors": [inputs, inputs],
        "lengths": (inputs, targets[:5]),
        "empty": (inputs[:0], targets[:0]),
        "not finite": (inputs / 0, targets),
        "negative": (inputs, targets - 1),
        "single": [inputs],
        "no batches": [],
        "empty batch": [(inputs, targets), (inputs[:0], targets[:0])],
        "no tensors": {"input_ids": "abc"},
        "ragged": TensorsOf([inputs[0], inputs[0, :2]]),
        "endless": TensorsOf(None),
    }[kind]


class TensorsOf(Dataset[Any]):
    def __init__(self, given: list[Tensor] | None) -> None:
        self.given = given

    def __len__(self) -> int:
        if self.given is None:
            raise TypeError("no length")
        return len(self.given)

    def __getitem__(self, index: int) -> Tensor:
        assert self.given is not None
        return self.given[index]


# --- every kind of data ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One spec of each kind, with eleven different examples or more."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = save_tokenizer(folder / "tokenizer")
    text = f"{save_text(folder / 'a.txt', 230)},tokenizer={tokenizer},length=20"
    tokens = [[number, 3, 5] for number in range(11)]
    return {
        "built-in": "fashion_mnist_10k",
        "npz": save_npz(folder / "a.npz", x=random_array(11, 5, 6), y=random_array(11) % 4),
        "folder": save_images(folder / "images", {"a": 5, "b": 6}, 4, 5, 3),
        "hf": save_table(folder / "table", {"input_ids": tokens, "label": [0, 1] * 5 + [0]}),
        "text": text,
        "masked text": f"{text},mask=0.15",
        "pair": f"{HERE}:tensors",
        "dict": f"{HERE}:mapping",
        "loader": f"{HERE}:loader",
        "nested": f"{HERE}:nested",
    }


KINDS = ("built-in", "npz", "folder", "hf", "text", "masked text", "pair", "dict", "loader", "nested")


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_is_the_seeded_one_in_the_order_of_the_data(every: dict[str, str], kind: str) -> None:
    whole = load(every[kind])
    hashes, total = digests(whole), whole.facts["examples_total"]
    assert len(set(hashes)) == len(hashes) == total == whole.facts["examples"]
    assert whole.facts["subset_seed"] is None and not any("drawn" in note for note in whole.notes)
    n = total // 2
    state = torch.get_rng_state()
    for seed in (0, 3):
        drawn = load(every[kind], examples=n, seed=seed)
        if kind != "masked text":  # another seed masks other tokens
            assert digests(drawn) == [hashes[i] for i in drawn_rows(total, n, derived_seed(seed, "examples"))]
        assert drawn.notes[0] == f"{n} of {total} examples drawn with seed {seed}"
        assert (drawn.facts["examples"], drawn.facts["examples_total"], drawn.facts["subset_seed"]) == (n, total, seed)
        assert (drawn.num_classes, drawn.input_shape) == (whole.num_classes, whole.input_shape)
        assert json.loads(json.dumps(drawn.facts))["spec"] == every[kind]
    assert torch.equal(torch.get_rng_state(), state)
    if kind == "masked text":
        rows = drawn_rows(total, n, derived_seed(0, "examples"))
        assert digests(load(every[kind], examples=n)) == [hashes[i] for i in rows]
    assert load(every[kind], examples=total).notes == whole.notes
    for number in (0, total + 1):
        refused(every[kind], every[kind], f"from 1 to {total}, got {number}", examples=number)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_the_size_asked_for_and_are_the_same_at_each_reading(every: dict[str, str], kind: str) -> None:
    data, other = load(every[kind], 4), load(every[kind], 100)
    own = {"loader": [4, 4, 3], "nested": [8, 3]}
    total = data.facts["examples_total"]
    sizes = own.get(kind) or [4] * (total // 4) + ([total % 4] if total % 4 else [])
    found = [len(batch["input_ids"] if isinstance(batch, dict) else batch[1]) for batch in data.batches]
    assert found == sizes and len(data.batches) == len(sizes)
    assert data.facts["batch_size"] == (None if kind in own else 4)
    assert digests(data) == digests(data) == digests(other)


# --- names and options -----------------------------------------------------------------------------------------------


def test_built_in_data_are_the_batches_of_the_dataset() -> None:
    known = load_dataset("fashion_mnist_10k")
    for split, text in ((known.train, "fashion_mnist_10k"), (known.test, "fashion_mnist_10k,split=test")):
        data = load(text, 5000)
        assert all(
            torch.equal(x, x1) and torch.equal(y, y1)
            for (x, y), (x1, y1) in zip(data.batches, Batches(split, 5000), strict=True)
        )
        assert (data.num_classes, data.input_shape, data.notes) == (10, (1, 28, 28), ("bytes divided by 255",))
    test = load_test_data("fashion_mnist_10k", batch_size=5000)
    assert test is not None and digests(test) == digests(load("fashion_mnist_10k,split=test"))


def test_only_built_in_data_have_a_test_split(every: dict[str, str]) -> None:
    assert [load_test_data(every[kind], batch_size=5) for kind in KINDS if kind != "built-in"] == [None] * 9


def test_bad_names_and_options_are_refused(every: dict[str, str], tmp_path: Path) -> None:
    refused("cifar-10", "unknown dataset 'cifar-10': expected one of cifar10", "npz:FILE", "package.module:factory")
    refused("data.npz", "unknown dataset 'data.npz'", "npz:FILE")
    refused("fashion_mnist_10k,split=val", "unknown split 'val'")
    refused("fashion_mnist_10k,size=3", "unknown option 'size': expected one of split")
    refused(f"{every['npz']},input=x", "unknown option 'input': expected one of inputs")
    refused(f"{every['folder']},split=train", "unknown option 'split'")
    refused(every["npz"], "batch size of at least 1, got 0", batch_size=0)
    refused(every["npz"], "--data-dir", every["npz"], data_dir=tmp_path)
    for kind in SOURCES:
        refused(f"{kind}:{tmp_path / 'nothing'}", str(tmp_path / "nothing"), "got nothing of that name")
        other = tmp_path if kind in ("npz", "text") else Path(__file__)
        refused(f"{kind}:{other}", str(other), "got a folder" if kind in ("npz", "text") else "got a file")


@pytest.mark.parametrize(("module", "kind"), [("datasets", "hf"), ("transformers", "text")])
def test_a_missing_package_says_what_installs_it(
    every: dict[str, str], monkeypatch: pytest.MonkeyPatch, module: str, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    refused(every[kind], f"expected {module} to be installed", "pip install 'sharpness[hf]'")


# --- a user's own function -------------------------------------------------------------------------------------------


def test_a_dataset_that_changes_is_refused_or_read_once_and_only_where_drawn() -> None:
    refused(f"{HERE}:items", "switch off shuffling, augmentation", "--freeze")
    data = load(f"{HERE}:items", examples=5, freeze=True)
    rows = drawn_rows(11, 5, derived_seed(0, "examples")).tolist()
    assert rows == ITEMS.read
    first, second = ([x for x, _ in data.batches] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.cat(first).floor()[:, 0].tolist() == rows
    assert [len(x) for x in first] == [3, 2] and isinstance(data.batches[0], tuple)
    assert "items read once and kept, as asked" in data.notes and data.input_shape == (2,)


def test_what_is_known_of_a_function_s_data() -> None:
    tensors, classes = load(f"{HERE}:tensors"), load(f"{HERE}:mapping")
    assert (tensors.num_classes, tensors.input_shape, tensors.notes) == (3, (4,), ())
    assert (classes.num_classes, classes.input_shape) == (4, None)
    assert load(f"{HERE}:mapping,labels=tokens").num_classes is None
    refused(f"{HERE}:shuffled", "the loader shuffles")
    batches, regression = load(f"{HERE}:shuffled", freeze=True), load(f"{HERE}:nested")
    assert (batches.num_classes, batches.input_shape) == (3, (4,))
    assert batches.notes == ("3 batches of the factory's own, read and kept",)
    assert (regression.num_classes, regression.input_shape) == (None, None)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("stream", "return a DataLoader of it"),
        ("number", "expected a dataset, a loader, batches or tensors, got int"),
        ("text", "dicts of tensors, lists of dicts or batches of graphs, got str"),
        ("lengths", "got the shapes (11, 4) and (5,)"),
        ("empty", "expected at least one example"),
        ("not finite", "got 44 NaN or infinite ones in the inputs"),
        ("negative", "got the number -1"),
        ("single", "batches of graphs, got list"),
        ("no batches", "expected at least one example"),
        ("empty batch", "expected batches of at least one example"),
        ("no tensors", "expected a batch with a tensor of examples"),
        ("ragged", "items that cannot be stacked"),
        ("endless", "add __len__"),
    ],
)
def test_a_function_that_returns_no_data_is_refused(kind: str, part: str) -> None:
    text = f"{HERE}:made,kind={kind}"
    refused(text, text, part)


def test_a_function_that_cannot_be_called_is_refused() -> None:
    refused(f"{HERE}:nothing", "unknown object 'nothing'")
    refused(f"{HERE}:not_a_function", "expected a function that returns data, got int")
    refused(f"{HERE}:tensors,size=3", "unexpected keyword argument 'size'")
    refused("no_such_module:make", "no_such_module cannot be imported")
