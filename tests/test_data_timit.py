"""TIMIT as a user's own features: the exact file, what becomes of the numbers, every damage, and F2's first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.data import load_dataset, normalise
from sharpness.data.timit import REACH
from sharpness.errors import InputError
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import check_config, train

Arrays = dict[str, np.ndarray[Any, Any]]


def arrays(**others: Any) -> Arrays:
    """Return features of frames, each with a mean and a scale of its own, and classes up to the last."""
    rng = np.random.default_rng(0)
    scale, mean = rng.uniform(0.01, 100, 360), rng.normal(size=360) * 50
    made = {
        "train_inputs": (mean + scale * rng.normal(size=(300, 360))).astype(np.float32),
        "train_targets": rng.integers(0, 1973, 300).astype(np.int32),
        "test_inputs": (mean + scale * rng.normal(size=(50, 360))).astype(np.float32),
        "test_targets": np.full(50, 1972),
    }
    return made | others


def folder(path: Path, made: Arrays) -> Path:
    np.savez(path / "timit.npz", **made)  # type: ignore[arg-type]
    return path


def test_features_become_bytes_that_are_off_by_less_than_two_hundredths_of_their_spread(tmp_path: Path) -> None:
    made = arrays()
    dataset = load_dataset("timit", data_dir=folder(tmp_path, made))
    assert (len(dataset.train), len(dataset.test), dataset.input_shape, dataset.num_classes) == (
        300,
        50,
        (1, 1, 360),
        1973,
    )
    assert dataset.train.inputs.dtype == torch.uint8 and dataset.source == f"data-dir {tmp_path}"
    assert torch.equal(dataset.train.targets, torch.from_numpy(made["train_targets"].astype(np.int64)))
    mean, std = made["train_inputs"].astype(float).mean(0), made["train_inputs"].astype(float).std(0)
    for name in ("train", "test"):
        numbers = normalise(getattr(dataset, name).inputs, torch.float64).numpy().reshape(-1, 360)
        back = mean + std * REACH * (2 * numbers - 1)
        inside = np.abs(made[f"{name}_inputs"] - mean) < REACH * std
        assert inside.mean() > 0.999
        assert np.abs((back - made[f"{name}_inputs"]) / std)[inside].max() < 0.5 * 2 * REACH / 255 + 1e-5 < 0.02


def test_what_lies_beyond_the_reach_is_put_at_its_end_and_constants_in_the_middle(tmp_path: Path) -> None:
    made = arrays()
    made["test_inputs"][:, 7] = 1e6
    made["test_inputs"][:, 8] = -1e6
    made["train_inputs"][:, 9] = made["test_inputs"][:, 9] = 3.0
    pixels = load_dataset("timit", data_dir=folder(tmp_path, made)).test.inputs.reshape(50, 360)
    assert set(pixels[:, 7].tolist()) == {255} and set(pixels[:, 8].tolist()) == {0}
    assert set(pixels[:, 9].tolist()) <= {127, 128}


def test_bytes_are_taken_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 360), dtype=np.uint8)
    dataset = load_dataset(
        "timit", data_dir=folder(tmp_path, arrays(train_inputs=pixels, test_inputs=pixels[:50])), num_train=100
    )
    assert np.array_equal(dataset.train.inputs.numpy().reshape(-1, 360), pixels[:100])


@pytest.mark.parametrize(
    ("others", "parts"),
    [
        ({"train_inputs": np.zeros((300, 39), np.float32)}, ("frames x 360", "(300, 39)")),
        ({"train_inputs": np.zeros((300, 360), np.int64)}, ("floats or bytes", "int64")),
        (
            {"test_inputs": np.zeros((0, 360), np.float32), "test_targets": np.zeros(0, int)},
            ("test_inputs", "(0, 360)"),
        ),
        ({"test_inputs": np.zeros((50, 360), np.uint8)}, ("of one kind", "float32 and uint8")),
        ({"test_targets": np.zeros(49, int)}, ("test_targets of 50", "(49,)")),
        ({"train_targets": np.zeros(300)}, ("train_targets of 300 class numbers", "float64")),
        ({"train_targets": np.full(300, -1)}, ("class numbers from 0",)),
        ({"train_targets": np.full(300, 1973)}, ("labels from 0 to 1972", "1973")),
        ({"train_inputs": np.full((300, 360), np.nan, np.float32)}, ("finite numbers in train_inputs",)),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path: Path, others: Arrays, parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        load_dataset("timit", data_dir=folder(tmp_path, arrays(**others)))
    message = str(error.value)
    assert "\n" not in message and "timit.npz" in message
    assert all(part in message for part in parts), message


def test_without_the_file_the_licence_and_the_cure_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected --data-dir with timit\.npz for timit, got none: it is licensed"):
        load_dataset("timit")
    with pytest.raises(InputError, match=r"LDC93S1.*np\.savez\(train_inputs=\.\.\., train_targets="):
        load_dataset("timit", data_dir=tmp_path)
    made = arrays()
    del made["test_targets"]
    with pytest.raises(InputError, match="test_targets"):
        load_dataset("timit", data_dir=folder(tmp_path, made))


def test_f2_makes_its_first_step_on_the_users_features(tmp_path: Path) -> None:
    config = RunConfig(
        data=DataConfig(name="timit", num_train=64, num_test=20, evaluation_batch_size=64),
        model=ModelConfig(name="f2"),
        training=TrainingConfig(batch_size=64),
        budget=BudgetConfig(updates=1),
    )
    check_config(config)
    dataset = load_run_data(config, folder(tmp_path, arrays()))
    run = RunFolder.create(tmp_path / "run", config)
    manifest = train(config, dataset, run, torch.device("cpu"))
    assert manifest["status"] == "finished" and manifest["step"] == 1
    assert run.log()[0]["train_loss"] == pytest.approx(np.log(1973), rel=0.1)  # before training: that of a guess
