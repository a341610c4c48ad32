"""The embedded texts: their content and rights, unseen documents for testing, windows, and what is refused."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.embedded import texts
from sharpness import data
from sharpness.config import DataConfig, RunConfig
from sharpness.data import DATASETS, Split, load_dataset
from sharpness.data.byte_texts import END_OF_DOCUMENT, FILE, read_text, windows
from sharpness.data.sources import load_data, load_test_data
from sharpness.errors import InputError
from sharpness.runs.networks import load_run_data

FOLDER = Path(data.__file__).parent
CONTENTS = {
    "kjv": ("c402363fc1c4e4637065702d580e43db224ee37105847955026278a54e8b30ac", 802, "expired"),
    "jargon": ("4312cf4b6bc0f1abcc4121a206f46546bece54980977680404b2c721f41b5732", 2258, "public domain"),
}
"""SHA-256 of the unpacked text, its documents, and a word of the note on its rights."""


def documents(name: str) -> list[bytes]:
    return lzma.decompress((FOLDER / name / FILE).read_bytes()).split(END_OF_DOCUMENT)


def joined(split: Split) -> bytes:
    """Return the text of consecutive windows: their bytes, and the last target."""
    return bytes(split.inputs.flatten().tolist()) + bytes(split.targets[-1, -1:].tolist())


def test_the_texts_have_their_fixed_content_and_fit_in_a_megabyte() -> None:
    assert set(CONTENTS) == {name for name, info in DATASETS.items() if info.text}
    for name, (sha256, count, rights) in CONTENTS.items():
        content = lzma.decompress((FOLDER / name / FILE).read_bytes())
        assert hashlib.sha256(content).hexdigest() == sha256 and len(documents(name)) == count
        assert content.isascii() and rights in (FOLDER / name / "COPYRIGHT").read_text(encoding="utf-8")
    assert sum((FOLDER / name / FILE).stat().st_size for name in CONTENTS) <= 1_000_000


@pytest.mark.parametrize("name", CONTENTS)
def test_each_tenth_document_tests_and_none_of_it_is_trained_on(name: str) -> None:
    every = documents(name)
    train, test = read_text(FOLDER / name / FILE, 64)
    assert b"\n".join(every[9::10]).startswith(joined(test))
    trained = joined(train)
    assert b"\n".join(document for number, document in enumerate(every, 1) if number % 10).startswith(trained)
    assert not any(document in trained for document in every[9::10])


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("context", [None, 1000])
def test_the_numbers_of_windows_are_those_that_are_known_beforehand(name: str, context: int | None) -> None:
    dataset = load_dataset(name, context=context)
    assert (len(dataset.train), len(dataset.test)) == DATASETS[name].num_examples(context)
    assert dataset.input_shape == (1, 1, context or 128) and dataset.predictions_per_example == (context or 128)
    assert (dataset.num_classes, dataset.source) == (256, "embedded")


def test_a_window_has_for_each_byte_the_one_that_follows() -> None:
    text = bytes(range(256)) + b"end"
    split = windows(text, 7)
    assert len(split) == (len(text) - 1) // 7
    for number, (window, targets) in enumerate(zip(split.inputs[:, 0, 0], split.targets, strict=True)):
        assert bytes(window.tolist()) == text[7 * number : 7 * number + 7]
        assert bytes(targets.tolist()) == text[7 * number + 1 : 7 * number + 8]


def test_a_spec_and_a_config_take_a_context_and_cut() -> None:
    cut = load_data("jargon,context=32", batch_size=5, examples=12)
    assert [tuple(targets.shape) for _, targets in cut.batches] == [(5, 32), (5, 32), (2, 32)]
    test = load_test_data("jargon,context=32", batch_size=500)
    whole = load_dataset("jargon", context=32)
    assert test is not None and torch.equal(torch.cat([y for _, y in test.batches]), whole.test.targets)
    run = load_run_data(RunConfig(data=DataConfig("jargon", num_train=40, num_test=7, context=32, num_validation=3)))
    assert torch.equal(run.train.targets, whole.train.targets[:37]) and len(run.test) == 7
    assert run.held_out is not None and torch.equal(run.held_out.targets, whole.train.targets[37:40])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("kjv", {"context": 0}, "a context from 1 to 273695 bytes for kjv, got 0"),
        ("jargon", {"context": 116418}, "from 1 to 116417 bytes"),
        ("jargon", {"context": 64, "num_train": 10**6}, "num_train from 1 to 16823"),
        ("fashion_mnist_10k", {"context": 64}, r"a text \(kjv, jargon\) alone, got 64 with fashion_mnist_10k"),
    ],
)
def test_what_a_text_cannot_be_cut_into_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_dataset(name, **options)


def test_a_damaged_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / FILE
    for content in (b"", b"text", (FOLDER / "jargon" / FILE).read_bytes()[:-100]):
        file.write_bytes(content)
        with pytest.raises(InputError, match="expected the text that this package came with"):
            read_text(file, 8)


def test_the_build_says_what_is_missing_or_another_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(texts, "TARGET", tmp_path)
    monkeypatch.setattr(texts, "SOURCES", {"no-such-program": "", str(texts.JARGON): ""})
    assert texts.main() == 2 and "apt-get install bible-kjv" in capsys.readouterr().err
    monkeypatch.setattr(texts, "SOURCES", {"echo Ge1:1 In the beginning": "", str(texts.JARGON): ""})
    assert texts.main() == 2 and "expected a text with SHA-256" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_build_takes_chapters_and_entries_apart() -> None:
    bible = "Ge1:1 In\nGe1:2 And\nGe2:1 Thus\nLam1:1 How\nEze1:1 Now\n"
    assert texts.chapters(bible) == ["In\nAnd\n", "Thus\n", "How\n"]
    jargon = "x\n   :a b: n.\n\n   1. “A\n   b”: c.\n\n   :t: n.\n\n   ┌─┐\n\n   :é: v.\n\n   Go.\n"
    assert texts.entries(f"{jargon}\nAppendix A. Hacker Folklore\n   :no: one.\n") == [
        'a b: n.\n1. "A b": c.\n',
        "e: v.\nGo.\n",
    ]
