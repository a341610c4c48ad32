"""A run small enough to be broken off hundreds of times, and a process that kills its children while they train it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.cli import run_command
from sharpness.config import (
    AverageConfig,
    BatchConfig,
    BudgetConfig,
    DataConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)
from sharpness.data import Dataset, load_dataset
from sharpness.models import MODELS, ModelInfo
from sharpness.runs import RunFolder, sha256_file
from sharpness.training import loop, train

CPU = torch.device("cpu")
CONFIG = RunConfig(
    data=DataConfig(num_train=66, num_test=20, evaluation_batch_size=33, crop_padding=2, flip=True, label_noise=0.3),
    model=ModelConfig(name="small", norm="running"),
    training=TrainingConfig(
        optimizer="momentum", learning_rate=0.1, batch_size=16, epochs=3, weight_decay=1e-3, loss="square"
    ),
    schedule=ScheduleConfig(kind="cosine"),
    batch=BatchConfig(kind="steps", milestones=(1.0,), factor=2.0),  # 16, 16, 16, 16, 2 and then 32, 32, 2
    average=AverageConfig(kind="ema", decay=0.7),
    measure=MeasureConfig(names=("eigenvalue", "noise_scale", "distance"), every=0.5, keep_every=1.0),
)
UPDATES = 5 + 3 + 3
TEXT = RunConfig(
    data=DataConfig("jargon", num_train=22, num_test=7, context=12, evaluation_batch_size=9, num_validation=3),
    model=ModelConfig("char_transformer_small", "rms"),
    training=TrainingConfig(optimizer="adamw", learning_rate=3e-3, batch_size=8, epochs=3, beta2_half_life=500.0),
    schedule=ScheduleConfig(kind="wsd", warmup=0.5, decay=0.4),
    average=AverageConfig(kind="ema", horizons=(2.0, 5.0)),
)
"""A language model: 19 windows for training in batches of 8, 8 and 3."""
CONFIGS = {"images": CONFIG, "text": replace(TEXT, training=replace(TEXT.training, optimizer="muon"))}


def small(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Module:
    """Return a network that has whatever a stopped run could lose: buffers, and draws of its own."""
    layers = (nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, num_classes))
    return nn.Sequential(nn.Flatten(), *layers)


def trained(folder: Path, config: RunConfig = CONFIG) -> RunFolder:
    """Train in a folder, or go on there."""
    run = RunFolder.create(folder, config)
    train(config, examples(config), run, CPU)
    return run


def examples(config: RunConfig) -> Dataset:
    """Return the data of a config."""
    data = config.data
    return load_dataset(data.name, num_train=data.num_train, num_test=data.num_test, context=data.context)


def outcome(run: RunFolder) -> dict[str, Any]:
    """Return all that a run leaves but its times and where it was called from: exact, so that == means same bits."""
    manifest = run.manifest() or {}
    rows = {"log": run.log(), "measures": run.measures()}
    logs = {name: [{k: v for k, v in row.items() if k != "seconds"} for row in each] for name, each in rows.items()}
    weights = {path.name: sha256_file(path) for path in run.path.glob("*.safetensors")}
    facts = {key: manifest.get(key) for key in ("status", "step", "examples", "final", "average", "averages")}
    return {**logs, **facts, "weights": weights, "names": {p.name for p in run.path.iterdir()}}


def with_small() -> None:
    """Put the small network among those of the library, in this process."""
    MODELS["small"] = ModelInfo("for tests", small)


def _in_a_child(work: Callable[[], object], killed_after: float | None = None) -> bool:
    """Do the work in a forked process, killed after some seconds; say whether it was killed before its end."""
    if not (child := os.fork()):
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def _kill_again_and_again(folder: Path, config: RunConfig, kills: int) -> None:
    """Train one run undisturbed, in ``whole``, and one that is killed at so many random moments, in ``killed``."""
    draw, data = random.Random(kills), examples(config)

    def work(name: str, config: RunConfig = config) -> Callable[[], object]:
        return lambda: train(config, data, RunFolder.create(folder / name, config), CPU)

    def seconds(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        _in_a_child(work)
        return time.perf_counter() - started

    short = replace(config, budget=BudgetConfig(updates=1))
    work("warm", short)()  # so that the children find everything imported
    start = seconds(work("start", short))
    # On average long enough for a start and for half of its share of the updates: the last kill finds work to do.
    longest = 2 * start + 0.7 * seconds(work("whole")) / kills
    count = 0
    while count < kills:
        before = shutil.copytree(folder / "killed", folder / "before") if count else None
        if _in_a_child(work("killed"), draw.uniform(0, longest)):
            count += 1
        else:  # It came to its end first, the machine being faster than when it was timed: the kill is tried again.
            shutil.rmtree(folder / "killed")
            if before:
                before.rename(folder / "killed")
            longest /= 2
        shutil.rmtree(folder / "before", ignore_errors=True)
    state = RunFolder(folder / "killed").load_resume_state()
    print(count, state["at"]["update"] if state else 0)
    _in_a_child(work("killed"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with_small()
    loop.RESUME_SECONDS = 0.0
    place, epochs, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    config = CONFIGS[sys.argv[4] if len(sys.argv) > 4 else "images"]
    longer = replace(config, training=replace(config.training, epochs=epochs))
    if number:
        _kill_again_and_again(place, longer, number)
    else:
        run_command(lambda: (trained(place, longer), None)[1])
