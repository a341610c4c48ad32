"""Datasets that Hugging Face's library saved: columns, types, filling up, and nothing from outside the folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, DatasetDict, Features, List, Value
from datasets import Dataset as Table
from datasets import Image as ImageFeature
from PIL import Image

from sharpness.data import user_data
from sharpness.measure.points import with_trained
from sharpness.measure.request import ProbeRequest
from sharpness.measure.user_checkpoint import load_user_checkpoint
from tests.conftest import run_python
from tests.data_cases import joined, load, random_array, refused, save_table, save_text, save_tokenizer
from tests.given_cases import seeded
from tests.test_adapters import save_adapter
from tests.test_given import as_request

TOKENS = [[1, 2, 3, 4], [5], [6, 7]]


def encoded(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def with_config(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- tables of tokens ------------------------------------------------------------------------------------------------


def test_tokens_become_dicts_filled_up_to_the_longest(tmp_path: Path) -> None:
    labels = Features(
        {"input_ids": List(Value("int32")), "label": ClassLabel(names=["a", "b", "c"]), "text": Value("string")}
    )
    text = save_table(tmp_path / "t", {"input_ids": TOKENS, "label": [1, 0, 1], "text": ["a", "b", "c"]}, labels)
    data = load(text, 2, model=with_config(tmp_path, pad_token_id=8))
    batch = joined(data)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 8, 8, 8], [6, 7, 8, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0, 1] and set(batch) == {"input_ids", "attention_mask", "labels"}
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert (data.num_classes, data.input_shape, len(data.batches)) == (3, None, 2)
    assert data.notes == (
        "filled up to 4 tokens with token 8, labels there with -100",
        "labels taken from the column label",
        "columns left out: text",
    )
    assert joined(load(f"{text},pad=9"))["input_ids"][1].tolist() == [5, 9, 9, 9]


def test_a_classifier_of_the_last_token_finds_it_in_rows_that_are_filled_up(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    sizes: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 11, "num_labels": 3}
    model = seeded(lambda: GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=10)))
    model.save_pretrained(tmp_path / "base")
    matrices = {"score.lora_A.weight": torch.ones(2, 8), "score.lora_B.weight": torch.zeros(3, 2)}
    named = {f"base_model.model.{name}": tensor for name, tensor in matrices.items()}
    adapter = save_adapter(tmp_path / "adapter", named, base_model_name_or_path="base")
    (adapter / "tokenizer_config.json").write_text("{}")
    data = save_table(tmp_path / "t", {"input_ids": TOKENS, "label": [1, 0, 2]})
    alone = torch.cat([model(input_ids=torch.tensor([row])).logits.detach() for row in TOKENS])
    for folder in ("base", "adapter"):
        request, path = as_request([str(tmp_path / folder), "--data", data], trained_on=data)
        given = load_user_checkpoint(request, path, torch.device("cpu"))
        assert isinstance(request, ProbeRequest)
        trained = with_trained(request, given).subject.trained
        assert trained is not None
        for loss in (given.subject.loss, trained()):
            torch.testing.assert_close(loss.outputs(loss.weights), alone)
        assert "filled up to 4 tokens with token 10, labels there with -100" in given.data.notes


def test_rows_are_filled_with_the_model_s_pad_token_or_not_at_all(tmp_path: Path) -> None:
    text = save_table(tmp_path / "t", {"input_ids": TOKENS, "label": [1, 0, 1], "labels": TOKENS})
    rows = f"{text},targets=label"
    refused(rows, "expected a pad token to fill rows of several lengths with, got none", "add ,pad=N")
    for config, got in (({}, None), ({"pad_token_id": -1}, -1), ({"pad_token_id": 3, "text_config": {}}, None)):
        folder = with_config(tmp_path, **config)
        refused(rows, f"got {got} in {tmp_path / 'config.json'}", "set pad_token_id there", model=folder)
        assert joined(load(text, model=folder))["input_ids"][1].tolist() == [5, 0, 0, 0]
    folder = with_config(tmp_path, pad_token_id=3, text_config={"pad_token_id": 9})
    assert joined(load(rows, model=folder))["input_ids"][1].tolist() == [5, 9, 9, 9]
    assert joined(load(f"{rows},pad=2", model=folder))["input_ids"][1].tolist() == [5, 2, 2, 2]


def test_labels_of_tokens_are_filled_up_with_what_losses_leave_out(tmp_path: Path) -> None:
    mask = [[1] * len(row) for row in TOKENS]
    text = save_table(
        tmp_path / "t", {"input_ids": TOKENS, "labels": TOKENS, "attention_mask": mask, "token_type_ids": mask}
    )
    data = load(text)
    batch = joined(data)
    assert batch["labels"].tolist() == [[1, 2, 3, 4], [5, -100, -100, -100], [6, 7, -100, -100]]
    assert batch["token_type_ids"].tolist() == batch["attention_mask"].tolist() == [[1] * 4, [1, 0, 0, 0], [1, 1, 0, 0]]
    assert data.num_classes is None
    assert torch.equal(joined(load(f"{text},targets=input_ids"))["labels"], batch["labels"])


def test_tokens_of_one_length_get_no_mask_and_floats_are_a_regression(tmp_path: Path) -> None:
    columns = {"input_ids": [[1, 2], [3, 4]], "score": [0.5, 1.5], "many": [[0.0, 1.0], [1.0, 0.0]]}
    text = save_table(tmp_path / "t", columns)
    for name in ("score", "many"):
        data = load(f"{text},targets={name}")
        assert set(joined(data)) == {"input_ids", "labels"} and data.num_classes is None
        assert joined(data)["labels"].tolist() == columns[name]
    refused(text, "usual name for the targets", "none among input_ids, score, many", "add ,targets=NAME")


@pytest.mark.parametrize(
    ("columns", "options", "part"),
    [
        ({"input_ids": TOKENS, "label": [0, 1, 2]}, ",mean=0.5", "unknown option 'mean': expected one of inputs, pad"),
        ({"input_ids": TOKENS, "label": [0, 1, 2]}, ",targets=lable", "unknown column 'lable': expected one of label"),
        (
            {"input_ids": TOKENS, "label": ["a", "b", "c"]},
            "",
            "expected numbers in the column label, got Value('string')",
        ),
        ({"input_ids": TOKENS, "label": [0, None, 2]}, "", "expected a dataset that save_to_disk wrote"),
        ({"input_ids": TOKENS, "label": [0, -1, 2]}, "", "got the number -1"),
        ({"input_ids": TOKENS, "labels": [[1], [2], [3]]}, "", "one entry in labels for each of the input_ids"),
        ({"input_ids": [[1], [], [2]], "label": [0, 1, 2]}, "", "got an empty row"),
        ({"input_ids": ["a b", "c", "d"], "label": [0, 1, 2]}, "", "expected numbers in the column input_ids"),
        ({"input_ids": [[0.5], [1.5]], "label": [0, 1]}, "", "expected whole numbers in input_ids"),
        ({"input_ids": [[[1]], [[2]]], "label": [0, 1]}, "", "expected one sequence in each row of input_ids"),
        ({"input_ids": [], "label": []}, "", "expected a dataset that save_to_disk wrote"),  # which cannot read it
    ],
)
def test_tables_without_usable_tokens_are_refused(
    tmp_path: Path, columns: dict[str, Any], options: str, part: str
) -> None:
    refused(save_table(tmp_path / "t", columns) + options, str(tmp_path / "t"), part)


# --- tables of images and numbers ------------------------------------------------------------------------------------


def test_image_columns_become_bytes(tmp_path: Path) -> None:
    pixels = random_array(4, 6, 5, 3)
    features = Features({"img": ImageFeature(), "label": ClassLabel(num_classes=7)})
    columns = {"img": [{"bytes": encoded(image), "path": None} for image in pixels], "label": [3, 1, 0, 2]}
    text = save_table(tmp_path / "t", columns, features)
    data = load(text)
    x = torch.cat([x for x, _ in data.batches])
    assert torch.equal((x * 255).round().byte(), torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert (data.num_classes, data.input_shape) == (7, (3, 6, 5))
    assert data.notes == ("images decoded to 3 channels of 6 x 5", "bytes divided by 255")
    assert load(f"{text},size=4,channels=1,mean=0.5").input_shape == (1, 4, 4)
    refused(f"{text},pad=1", "unknown option 'pad'")


def test_images_that_are_only_paths_are_not_followed(tmp_path: Path) -> None:
    Image.fromarray(random_array(4, 4)).save(tmp_path / "x.png")
    folder, entry = tmp_path / "t", {"bytes": Value("binary"), "path": Value("string")}
    for place in (str(tmp_path / "x.png"), "https://localhost/x.png"):
        # Saved as what an image column consists of and renamed after that: a real one would take the bytes along.
        features = Features({"image": entry, "label": Value("int64")})
        text = save_table(folder, {"image": [{"bytes": None, "path": place}], "label": [0]}, features)
        info = json.loads((folder / "dataset_info.json").read_text())
        info["features"]["image"] = {"_type": "Image"}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        refused(text, "image 0 of column image: expected its bytes in the dataset")


@pytest.mark.parametrize(
    ("feature", "dtype"),
    [
        (List(List(Value("uint8"))), torch.float32),
        (Array2D((3, 4), "uint8"), torch.float32),
        (List(List(Value("float64"))), torch.float64),
        (List(List(Value("int16"))), torch.int64),
    ],
)
def test_number_columns_keep_their_type(tmp_path: Path, feature: Any, dtype: torch.dtype) -> None:
    numbers = random_array(5, 3, 4, dtype="int64")
    features = Features({"x": feature, "y": Value("bool")})
    data = load(save_table(tmp_path / "t", {"x": numbers.tolist(), "y": [True, False] * 2 + [True]}, features))
    x, y = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    assert x.dtype == dtype and y.tolist() == [1, 0, 1, 0, 1] and data.num_classes == 2
    expected = torch.from_numpy(numbers)
    assert torch.equal(x, expected.float().unsqueeze(1) / 255 if dtype == torch.float32 else expected.to(dtype))


def test_number_columns_of_several_shapes_are_refused(tmp_path: Path) -> None:
    text = save_table(tmp_path / "t", {"x": TOKENS, "y": [0, 1, 2]})
    refused(text, str(tmp_path / "t"), "expected rows of one shape in x")
    refused(f"{text},size=3", "unknown option 'size'")
    whole = save_table(tmp_path / "w", {"x": [[1.0], [2.0], [3.0]], "y": [0, 1, 2]})
    assert load(f"{whole},scale=2").notes == ("inputs divided by 2",)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_splits_are_named(tmp_path: Path) -> None:
    tables = {name: Table.from_dict({"x": [[1.0]] * n, "y": [0] * n}) for name, n in (("train", 3), ("test", 2))}
    DatasetDict(**tables).save_to_disk(tmp_path / "d")
    assert load(f"hf:{tmp_path / 'd'}").facts["examples"] == 3
    assert load(f"hf:{tmp_path / 'd'},split=test").facts["examples"] == 2
    refused(f"hf:{tmp_path / 'd'},split=val", "unknown split 'val': expected one of test, train")
    del tables["train"]
    DatasetDict(**tables).save_to_disk(tmp_path / "o")
    refused(f"hf:{tmp_path / 'o'}", "unknown split 'train': expected one of test", "add ,split=NAME")
    refused(f"hf:{tmp_path / 'd' / 'train'},split=train", "expected no split")


def test_folders_that_are_no_saved_dataset_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(f"hf:{tmp_path / 'empty'}", str(tmp_path / "empty"), "expected a dataset that save_to_disk wrote")
    folder = tmp_path / "t"
    text = save_table(folder, {"x": [[1.0]] * 50, "y": [0] * 50})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    load(text, examples=7)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (arrow,) = folder.glob("*.arrow")
    for path, content in ((arrow, before[arrow][:100]), (arrow, b""), (folder / "state.json", b"[]")):
        path.write_bytes(content)
        refused(text, str(folder), "expected a dataset that save_to_disk wrote")
        path.write_bytes(before[path])


def test_a_table_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = save_table(tmp_path / "t", {"x": np.zeros((256, 1024)).tolist(), "y": [0] * 256})
    monkeypatch.setattr(user_data, "free_memory", lambda device: 2 * 2**20)
    refused(text, str(tmp_path / "t"), "half of the free memory, got 2 MiB")


@pytest.mark.dear
def test_no_socket_is_opened(tmp_path: Path) -> None:
    # In a process of its own, because the libraries read their settings as they are loaded.
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    table = save_table(tmp_path / "t", {"x": [[1.0]] * 3, "y": [0] * 3})
    code = (
        "import socket, sys\n"
        "assert not {'datasets', 'transformers', 'huggingface_hub'} & sys.modules.keys()\n"
        "def refuse(*arguments, **options): sys.exit('a socket was used')\n"
        "socket.socket.__init__ = socket.getaddrinfo = refuse\n"
        "from sharpness.data.sources import load_data\n"
        f"load_data({table!r}, batch_size=3)\n"
        f"load_data({save_text(tmp_path / 'a.txt', 30)!r} + ',tokenizer={tokenizer}', batch_size=3)\n"
        "print('done')"
    )
    result = run_python("-c", code)
    assert result.stdout.strip() == "done", result.stderr
