"""Helpers of the tests of data by spec: small data of every kind, and what an error must look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sharpness.data.digests import example_digests
from sharpness.data.sources import load_data
from sharpness.data.user_data import UserData
from sharpness.errors import InputError


def load(text: str, batch_size: int = 3, **options: Any) -> UserData:
    return load_data(text, batch_size=batch_size, **options)


def refused(text: str, *parts: str, **options: Any) -> None:
    """The data are refused in one line that holds every part."""
    with pytest.raises(InputError) as error:
        load(text, **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def digests(data: UserData) -> list[bytes]:
    """Return the hash of each example, in order."""
    joined = example_digests(data.batches)
    return [joined[i : i + 32] for i in range(0, len(joined), 32)]


def joined(data: UserData) -> dict[str, torch.Tensor]:
    """Return all batches of dicts as one."""
    batches = list(data.batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def random_array(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def save_npz(path: Path, **arrays: Any) -> str:
    """Write arrays and return the spec of the file."""
    np.savez(path, **arrays)
    return f"npz:{path}"


def save_images(folder: Path, counts: dict[str, int], *shape: int) -> str:
    """Write random PNG images, so many in each class folder, and return the spec of the folder."""
    for seed, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(random_array(count, *shape, seed=seed)):
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def save_tokenizer(folder: Path, *, mask_token: str | None = "[MASK]") -> Path:
    """Write a tokenizer that knows the words ``w0`` to ``w49`` and return its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[MASK]", "[SEP]", *(f"w{number}" for number in range(50))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]"} | ({"mask_token": mask_token} if mask_token else {})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def save_text(path: Path, words: int) -> str:
    numbers = np.random.default_rng(0).integers(0, 50, words)
    path.write_text(" ".join(f"w{number}" for number in numbers), encoding="utf-8")
    return f"text:{path}"


def save_table(folder: Path, columns: dict[str, Any], features: Any = None) -> str:
    from datasets import Dataset

    Dataset.from_dict(columns, features=features).save_to_disk(folder)
    return f"hf:{folder}"


def pair(n: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3
