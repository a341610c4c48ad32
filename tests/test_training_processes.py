"""Training under torchrun: one, two and three processes give the same weights, logs and measurements."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpness.config import (
    AverageConfig,
    BudgetConfig,
    DataConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    to_toml,
)
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import train
from tests.conftest import ROOT, run_python

CONFIG = RunConfig(
    data=DataConfig(num_train=130, num_test=50, evaluation_batch_size=20, crop_padding=2, flip=True, label_noise=0.3),
    model=ModelConfig(name="fc_128_128_128", norm="none"),
    training=TrainingConfig(optimizer="momentum", learning_rate=0.02, batch_size=33, epochs=2),
    average=AverageConfig(kind="ema", decay=0.5),
    measure=MeasureConfig(names=("distance",), every=0.5),
)


PATIENT = replace(CONFIG, training=replace(CONFIG.training, epochs=3), budget=BudgetConfig(patience=1))
TEXT = replace(
    CONFIG,
    data=DataConfig("kjv", num_train=21, num_test=9, context=12, evaluation_batch_size=5),
    model=ModelConfig("char_transformer_small", "layer"),
    training=TrainingConfig(optimizer="adamw", learning_rate=3e-3, batch_size=8, epochs=2, beta2_half_life=500.0),
)


def command_line(folder: Path, config: RunConfig, processes: int, name: str = "run") -> list[str]:
    """Return the arguments of Python that train a config, with torchrun for several processes."""
    file = folder / f"{name}.toml"
    file.write_text(to_toml(config))
    code = ["-c", "from sharpness.cli import main; main()"]
    if processes > 1:
        script = folder / "train.py"
        script.write_text("from sharpness.cli import main; main()\n")
        code = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(script)]
    return [*code, "train", str(file), "--out", str(folder / name), "--device", "cpu"]


def run(
    folder: Path, config: RunConfig, processes: int, name: str = "run", *, torchrun: bool = True
) -> subprocess.CompletedProcess[str]:
    """Train a config in several processes, of torchrun or, which takes less time to begin, forks."""
    arguments = command_line(folder, config, processes if torchrun else 1, name)
    # For the programs of a folder of their own.
    return run_python(*arguments, environment={"PYTHONPATH": str(ROOT)}, processes=1 if torchrun else processes)


def trained(folder: Path, config: RunConfig, processes: int, *, torchrun: bool = True) -> RunFolder:
    folder.mkdir()
    result = run(folder, config, processes, torchrun=torchrun)
    assert result.returncode == 0, result.stderr[-3000:]
    return RunFolder.open(folder / "run")


def here(folder: Path, config: RunConfig) -> RunFolder:
    """Train a config in this process."""
    alone = RunFolder.create(folder, config)
    train(config, load_run_data(config), alone, torch.device("cpu"))
    return alone


def assert_same(one: RunFolder, several: RunFolder, rtol: float) -> None:
    names = [one.final_checkpoint(), "x0", (one.manifest() or {})["average"]["name"]]
    for name in names:
        ours, theirs = one.load_weights(name), several.load_weights(name)
        for key, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[key], rtol=rtol, atol=rtol * float(tensor.abs().max()))
    for rows, others in ((one.log(), several.log()), (one.measures(), several.measures())):
        assert len(rows) == len(others) > 2
        for row, other in zip(rows, others, strict=True):
            assert row.keys() == other.keys()
            numbers: dict[str, Any] = {key: value for key, value in row.items() if key != "seconds"}
            for key, value in numbers.items():
                wanted = pytest.approx(value, rel=100 * rtol, abs=1e-12) if isinstance(value, float) else value
                assert other[key] == wanted, key


@pytest.mark.parametrize(
    ("config", "dtype", "processes", "rtol", "torchrun"),
    [
        (CONFIG, "float64", 2, 1e-10, False),
        (PATIENT, "float64", 2, 1e-10, False),  # all end at the same epoch, or would wait for each other
        (TEXT, "float64", 2, 1e-8, False),  # Adam's step is about the sign of a gradient that may be rounding
        pytest.param(CONFIG, "float64", 2, 1e-10, True, marks=pytest.mark.slow),
        pytest.param(CONFIG, "float32", 2, 1e-5, True, marks=pytest.mark.slow),
        pytest.param(CONFIG, "float64", 3, 1e-10, True, marks=pytest.mark.slow),
        pytest.param(CONFIG, "float32", 3, 1e-5, True, marks=pytest.mark.slow),
        pytest.param(TEXT, "float64", 2, 1e-8, True, marks=pytest.mark.slow),
    ],
)
def test_processes_share_a_batch_and_end_with_the_weights_of_one(
    config: RunConfig, dtype: Any, processes: int, rtol: float, torchrun: bool, tmp_path: Path
) -> None:
    config = replace(config, training=replace(config.training, dtype=dtype))
    alone, together = here(tmp_path / "1", config), trained(tmp_path / "several", config, processes, torchrun=torchrun)
    manifest = together.manifest() or {}
    assert manifest["processes"] == processes and (alone.manifest() or {})["processes"] == 1
    assert_same(alone, together, rtol)


@pytest.mark.slow
def test_the_noise_scale_of_shares_is_that_of_as_many_pieces(tmp_path: Path) -> None:
    # 36, 36, 36, 24 examples: the shares of two processes hold the examples of two accumulated pieces.
    config = replace(
        CONFIG,
        data=replace(CONFIG.data, num_train=132),
        training=replace(CONFIG.training, dtype="float64", batch_size=36),
        measure=MeasureConfig(names=("noise_scale",), every=0.5),
    )
    pieces = replace(config, training=replace(config.training, accumulate=2))
    assert_same(trained(tmp_path / "pieces", pieces, 1), trained(tmp_path / "shares", config, 2), 1e-10)


@pytest.mark.slow
def test_ghost_batches_are_the_same_whatever_the_number_of_processes(tmp_path: Path) -> None:
    # 32 examples are two ghost batches for each of two processes; the last batch of 128 = 4 x 32 is whole too.
    config = replace(
        CONFIG,
        data=replace(CONFIG.data, num_train=128),
        model=ModelConfig(name="f1", norm="running", ghost_batch=8),
        training=replace(CONFIG.training, dtype="float64", batch_size=32),
    )
    weights = [trained(tmp_path / str(n), config, n).load_weights("checkpoint-8") for n in (1, 2)]
    for key, tensor in weights[0].items():
        if "running" not in key and "tracked" not in key:  # each process sees its own ghost batches
            torch.testing.assert_close(tensor, weights[1][key], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_killed_processes_go_on_from_the_saved_state_with_the_same_bits(tmp_path: Path) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, epochs=10, dtype="float64"))
    whole = trained(tmp_path / "whole", config, 2)
    folder = tmp_path / "killed"
    folder.mkdir()
    hurry = "from sharpness.training import loop; loop.RESUME_SECONDS = 0.0; from sharpness.cli import main; main()\n"
    command = [sys.executable, *command_line(folder, config, 2)]
    (folder / "train.py").write_text(hurry)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        while not (folder / "run" / "resume.pt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
    assert process.returncode != 0 and not (folder / "run" / "manifest.json").exists()
    assert run(folder, config, 2).returncode == 0
    ours, theirs = (each.load_weights(whole.final_checkpoint()) for each in (whole, RunFolder.open(folder / "run")))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_batches_too_small_for_the_processes_are_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, batch_size=43))  # 130 = 3 x 43 + 1
    result = run(tmp_path, config, 2, torchrun=False)
    assert result.returncode != 0 and "for each of 2 processes" in result.stderr
    assert "error: expected at least one example" in result.stderr


def test_a_synchronised_norm_needs_a_gpu(tmp_path: Path) -> None:
    config = replace(CONFIG, model=ModelConfig(synchronised=True))
    result = run(tmp_path, replace(config, training=replace(config.training, batch_size=65)), 1)
    assert result.returncode == 2 and "expected a CUDA device with model.synchronised" in result.stderr
