"""Runs trained together: equal to their single runs, resumed with the same bits, and what is refused."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
from sharpness.data import Dataset
from sharpness.errors import InputError
from sharpness.models import MODELS, ModelInfo
from sharpness.models.layers import batch_norm_1d, batch_norm_2d
from sharpness.runs import RESUME, RunFolder, sha256_file
from sharpness.training import OPTIMIZERS, Terminated, group_together, loop, train, train_together
from tests.reliability_cases import examples, outcome

CPU = torch.device("cpu")
CONFIG = RunConfig(
    data=DataConfig(num_train=66, num_test=20, evaluation_batch_size=33, crop_padding=2, flip=True),
    model=ModelConfig(name="narrow", norm="running"),
    training=TrainingConfig(
        **{"optimizer": "momentum", "learning_rate": 0.1, "batch_size": 16, "epochs": 2, "weight_decay": 1e-3},
        **{"label_smoothing": 0.1, "clip_norm": 1.0, "dtype": "float64", "vectorised": True},
    ),
    schedule=ScheduleConfig(kind="cosine", warmup=0.5),
    batch=BatchConfig(kind="steps", milestones=(1.0,), factor=2.0),  # 16, 16, 16, 16, 2 and then 32, 32, 2
    average=AverageConfig(kind="ema", decay=0.7),
    measure=MeasureConfig(names=("eigenvalue", "noise_scale", "distance"), every=1.0, keep_every=1.0),
)
RATES = {"adam": 0.001, "adamw": 0.001, "lars": 1.0}


class Narrow(nn.Sequential):
    """A network with running statistics, and no weights whose gradient is rounding errors alone."""

    def __init__(self, classes: int, norm: str, *more: nn.Module) -> None:
        first, last = nn.Linear(784, 8, bias=False), nn.Linear(8, classes)
        super().__init__(nn.Flatten(), first, batch_norm_1d(8, norm), nn.ReLU(inplace=True), *more, last)


class Convolutions(nn.Sequential):
    """Two convolutions with norms between them."""

    def __init__(self, classes: int, norm: str) -> None:
        first, second = nn.Conv2d(1, 3, 5, stride=3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
        norms = batch_norm_2d(3, norm), batch_norm_2d(4, norm)
        last = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes)
        super().__init__(first, norms[0], nn.ReLU(), nn.MaxPool2d(2), second, norms[1], nn.ReLU(), *last)


class Undecided(nn.Module):
    """A network whose layers depend on its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


@pytest.fixture(autouse=True, scope="module")
def networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "narrow", ModelInfo("for tests", lambda shape, classes, norm: Narrow(classes, norm)))
        patch.setitem(MODELS, "conv", ModelInfo("for tests", lambda shape, classes, norm: Convolutions(classes, norm)))
        dropout = ModelInfo("for tests", lambda shape, classes, norm: Narrow(classes, norm, nn.Dropout(0.2)))
        patch.setitem(MODELS, "dropout", dropout)
        patch.setitem(MODELS, "undecided", ModelInfo("for tests", lambda shape, classes, norm: Undecided()))
        yield


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return examples(CONFIG)


def trio(config: RunConfig = CONFIG, **training: Any) -> list[RunConfig]:
    """Return three configs that differ in all that may differ."""
    training = {"learning_rate": RATES.get(training.get("optimizer", ""), 0.1)} | training
    base = replace(config.training, **training)
    changes = ({}, {"seed": 1, "learning_rate": 0.5 * base.learning_rate}, {"seed": 2, "momentum": 0.5})
    return [replace(config, training=replace(base, **change)) for change in changes]


def together(folder: Path, dataset: Dataset, configs: Sequence[RunConfig], **options: Any) -> list[RunFolder]:
    """Train configs together, or go on, and return their folders."""
    runs = [RunFolder.create(folder / str(number), config) for number, config in enumerate(configs)]
    manifests = train_together(configs, dataset, runs, CPU, **options)
    assert manifests == [run.manifest() for run in runs]
    return runs


def single(folder: Path, dataset: Dataset, config: RunConfig) -> RunFolder:
    run = RunFolder.create(folder, config)
    train(config, dataset, run, CPU)
    return run


def assert_close(ours: Any, theirs: Any, tolerance: float, path: str = "") -> None:
    """Compare trees of plain types, numbers relative to 1 or their own size."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), path
        for key in theirs:
            assert_close(ours[key], theirs[key], tolerance, f"{path}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), path
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(our, their, tolerance, f"{path}[{number}]")
    elif isinstance(theirs, float):
        assert math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=tolerance), (path, ours, theirs)
    else:
        assert ours == theirs, path


def assert_same_run(ours: RunFolder, theirs: RunFolder, tolerance: float) -> None:
    """Compare all that two runs left: weights and buffers, logs, measurements, the facts of the manifest."""
    mine, other = outcome(ours), outcome(theirs)
    for name in mine.pop("weights").keys() | other.pop("weights").keys():
        states = [run.load_weights(name.removesuffix(".safetensors")) for run in (ours, theirs)]
        assert states[0].keys() == states[1].keys()
        for key, tensor in states[0].items():
            torch.testing.assert_close(tensor, states[1][key], rtol=tolerance, atol=tolerance, msg=f"{name}: {key}")
    assert_close(mine, other, tolerance)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_each_run_equals_its_single_run(tmp_path: Path, dataset: Dataset, optimizer: str) -> None:
    configs = trio(optimizer=optimizer)
    for number, run in enumerate(together(tmp_path, dataset, configs)):
        assert_same_run(run, single(tmp_path / f"single{number}", dataset, configs[number]), 1e-10)
        assert (run.manifest() or {})["trained_together"] == 3
    finals = [run.load_weights(run.final_checkpoint())["1.weight"] for run in map(RunFolder.open, folders(tmp_path))]
    assert not torch.equal(finals[0], finals[1]) and not torch.equal(finals[0], finals[2])


def folders(folder: Path) -> list[Path]:
    return [folder / str(number) for number in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_in_float32_they_are_equal_to_its_rounding(tmp_path: Path, dataset: Dataset, optimizer: str) -> None:
    plain = replace(CONFIG, measure=MeasureConfig(), average=AverageConfig(kind="swa"))
    configs = trio(plain, optimizer=optimizer, dtype="float32")
    for number, run in enumerate(together(tmp_path, dataset, configs)):
        assert_same_run(run, single(tmp_path / f"single{number}", dataset, configs[number]), 1e-5)


MODEL_CONFIGS = {
    "running": ModelConfig(name="conv", norm="running"),
    "batch": ModelConfig(name="conv", norm="batch"),
    "ghost": ModelConfig(name="conv", norm="running", ghost_batch=5),
    "resnet8": ModelConfig(name="resnet8", norm="none"),
    "plain": ModelConfig(name="fc_128_128_128", norm="none"),
}


@pytest.mark.parametrize("name", list(MODEL_CONFIGS))
def test_networks_of_many_kinds_can_be_stacked(tmp_path: Path, dataset: Dataset, name: str) -> None:
    plain = replace(CONFIG, model=MODEL_CONFIGS[name], measure=MeasureConfig(), average=AverageConfig())
    configs = trio(plain, epochs=1)[1:]
    for number, run in enumerate(together(tmp_path, dataset, configs)):
        assert_same_run(run, single(tmp_path / f"single{number}", dataset, configs[number]), 1e-10)


class Stop(Exception):
    pass


def stopped_at(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let the ``number``-th call of a method of run folders, from 1, raise after its work."""
    real, calls = getattr(RunFolder, name), [0]

    def call(*arguments: Any) -> Any:
        result = real(*arguments)
        calls[0] += 1
        if calls[0] == number:
            raise Stop
        return result

    patch.setattr(RunFolder, name, call)


# 3 saves at the start and after each of 7 updates; 3 rows of the log at the start and at each of 2 ends of epochs.
@pytest.mark.parametrize(
    ("name", "number"),
    [("save_resume_state", at) for at in (1, 3, 5, 9, 13, 18, 24)]
    + [("append_log", 2), ("append_log", 5), ("append_log", 8), ("write_manifest", 1), ("write_manifest", 2)],
)
def test_stopped_anywhere_and_called_again_the_bits_are_the_same(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, undisturbed: list[Any], name: str, number: int
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(patch, name, number)
        with pytest.raises(Stop):
            together(tmp_path, dataset, trio())
    assert [outcome(run) for run in together(tmp_path, dataset, trio())] == undisturbed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> list[Any]:
    return [outcome(run) for run in together(tmp_path_factory.mktemp("undisturbed"), dataset, trio())]


@pytest.mark.parametrize("lost", ["model", "optimizer", "average", "sums", "at"])
def test_a_lost_piece_of_one_runs_state_is_noticed_there_alone(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, undisturbed: list[Any], lost: str
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(patch, "save_resume_state", 9)  # after 2 updates of all
        with pytest.raises(Stop):
            together(tmp_path, dataset, trio())
    run = RunFolder.open(tmp_path / "1")
    state = run.load_resume_state() or {}
    fresh = {
        "model": {name: torch.zeros_like(value) for name, value in state["model"].items()},
        "optimizer": state["optimizer"] | {"state": {}},
        "average": {"count": 0, "weights": {}},
        "sums": {"losses": torch.zeros(0), "right": torch.zeros(0), "sizes": []},
        "at": state["at"] | {"update": 0, "seen": 0, "examples": 0},
    }
    RunFolder.open(tmp_path / "1").save_resume_state(
        {k: v for k, v in state.items() if k != "config"} | {lost: fresh[lost]}
    )
    ours = [outcome(run) for run in together(tmp_path, dataset, trio())]
    assert [mine == theirs for mine, theirs in zip(ours, undisturbed, strict=True)] == [True, False, True]


def test_a_saved_state_holds_one_run_and_not_the_stack(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    stopped_at(monkeypatch, "save_resume_state", 6)
    with pytest.raises(Stop):
        together(tmp_path, dataset, trio())
    state = RunFolder.open(tmp_path / "0").load_resume_state() or {}
    numbers = sum(value.numel() for value in state["model"].values())
    # Weights, velocities and averages, and less than one more such vector for everything else.
    assert (tmp_path / "0" / RESUME).stat().st_size < 8 * 4 * numbers + 10_000


def test_sigterm_saves_all_and_the_same_call_goes_on(tmp_path: Path, dataset: Dataset, undisturbed: list[Any]) -> None:
    with pytest.raises(Terminated) as raised:
        together(tmp_path, dataset, trio(), progress=lambda done, total: os.kill(os.getpid(), signal.SIGTERM))
    assert "3 runs stopped after update 6" in raised.value.message and "\n" not in raised.value.message
    seen: list[tuple[int, int]] = []
    runs = together(tmp_path, dataset, trio(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2)] and [outcome(run) for run in runs] == undisturbed


def test_a_run_that_diverges_disturbs_no_other(tmp_path: Path, dataset: Dataset, undisturbed: list[Any]) -> None:
    configs = trio()
    wild = replace(configs[1], training=replace(configs[1].training, learning_rate=1e300, clip_norm=1.0))
    runs = together(tmp_path, dataset, [configs[0], wild, configs[2]])
    alone = single(tmp_path / "single", dataset, wild)
    ours, theirs = runs[1].manifest(), alone.manifest()
    assert ours is not None and theirs is not None and ours["status"] == theirs["status"] == "diverged"
    assert ours["step"] == theirs["step"] and ours["reason"] == theirs["reason"]
    assert_close(outcome(runs[1])["log"], outcome(alone)["log"], 1e-10)
    assert [outcome(run) for run in (runs[0], runs[2])] == [undisturbed[0], undisturbed[2]]


def test_stopped_where_one_diverges_the_bits_are_the_same(
    tmp_path: Path, dataset: Dataset, undisturbed: list[Any]
) -> None:
    configs = trio()
    configs[1] = replace(configs[1], training=replace(configs[1].training, learning_rate=1e300))
    for name, number in (("write_manifest", 1), ("save_resume_state", 4), ("save_resume_state", 5)):
        with pytest.MonkeyPatch.context() as patch:
            stopped_at(patch, name, number)
            with pytest.raises(Stop):
                together(tmp_path / f"{name}{number}", dataset, configs)
        runs = together(tmp_path / f"{name}{number}", dataset, configs)
        assert [outcome(run) for run in (runs[0], runs[2])] == [undisturbed[0], undisturbed[2]]
        assert not list((tmp_path / f"{name}{number}").glob(f"*/{RESUME}"))


def test_finished_runs_are_skipped(tmp_path: Path, dataset: Dataset) -> None:
    configs = trio()
    first = single(tmp_path / "0", dataset, configs[0])
    before = {path.name: sha256_file(path) for path in first.path.iterdir() if path.suffix}
    runs = together(tmp_path, dataset, configs)
    assert {path.name: sha256_file(path) for path in first.path.iterdir() if path.suffix} == before
    assert (runs[1].manifest() or {})["trained_together"] == 2
    assert_same_run(runs[1], single(tmp_path / "single", dataset, configs[1]), 1e-10)


def test_one_alone_is_trained_as_a_single_run(tmp_path: Path, dataset: Dataset) -> None:
    plain = replace(CONFIG, training=replace(CONFIG.training, vectorised=False))
    whole = single(tmp_path / "plain", dataset, plain)
    assert outcome(single(tmp_path / "single", dataset, CONFIG)) == outcome(whole)
    assert outcome(together(tmp_path, dataset, [CONFIG])[0]) == outcome(whole)


def test_groups_are_of_configs_that_ask_and_differ_in_what_may_differ() -> None:
    first, plain = trio(), trio(vectorised=False)
    larger = [replace(config, training=replace(config.training, batch_size=32)) for config in first]
    assert group_together([first[0], *plain, larger[0], *first[1:], *larger[1:]]) == [
        *[first, [plain[0]], [plain[1]], [plain[2]]],
        larger,
    ]
    assert group_together([]) == []


def changed(table: str, **fields: Any) -> list[RunConfig]:
    return [replace(config, **{table: replace(getattr(config, table), **fields)}) for config in trio()]


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ([], "vectorised = true"),
        (trio(vectorised=False), "vectorised = true"),
        ([*trio()[:2], *trio(batch_size=32)[2:]], r"training\.batch_size: 16 != 32"),
        ([CONFIG, replace(CONFIG, data=replace(CONFIG.data, flip=False))], r"data\.flip: True != False"),
        ([*trio(), trio()[1]], "twice"),
        (trio(compile=True), r"training\.compile \(what is compiled"),
        (trio(autocast="bfloat16"), r"training\.autocast \(.* 8 bits"),
        (trio(tf32=True), r"training\.tf32 \(.* 11 bits"),
        (changed("training", accumulate=2, sam_rho=0.1), r"accumulate = 1|training\.accumulate"),
        (trio(sam_rho=0.1), r"training\.sam_rho \("),
        (trio(proximal=0.1), r"training\.proximal \("),
        (changed("model", synchronised=True), r"model\.synchronised \("),
        (changed("batch", kind="noise_scale", milestones=()), r"batch\.kind \(batches"),
        (changed("budget", train_loss=0.1), r"budget\.train_loss \(runs would end"),
        (changed("budget", error=0.1, patience=3), r"budget\.error .*budget\.patience \(runs would end"),
    ],
)
def test_what_cannot_be_trained_together_is_one_line(
    tmp_path: Path, dataset: Dataset, configs: list[RunConfig], words: str
) -> None:
    with pytest.raises(InputError, match=words) as raised:
        train_together(configs, dataset, [RunFolder(tmp_path / str(i)) for i in range(len(configs))], CPU)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_pieces_of_batches_are_refused_with_their_reason() -> None:
    ghosts = replace(CONFIG, model=ModelConfig(name="narrow", norm="none"))
    with pytest.raises(InputError, match=r"training\.accumulate \(it saves"):
        train_together(trio(ghosts, accumulate=2), None, [], CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "words"), [("dropout", "random"), ("undecided", "vmap")])
def test_networks_that_cannot_be_mapped_are_refused_before_anything_is_written(
    tmp_path: Path, dataset: Dataset, name: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as raised:
        together(tmp_path, dataset, changed("model", name=name))
    assert "\n" not in str(raised.value)
    assert {path.name for path in tmp_path.glob("*/*")} <= {"config.toml", ".lock"}


def test_each_config_needs_its_folder(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="each of 3 configs, got 1"):
        train_together(trio(), dataset, [RunFolder(tmp_path)], CPU)


def test_a_budget_of_updates_ends_all_at_once(tmp_path: Path, dataset: Dataset) -> None:
    configs = [replace(config, budget=BudgetConfig(updates=3)) for config in trio()]
    runs = together(tmp_path, dataset, configs)
    assert [(run.manifest() or {})["step"] for run in runs] == [3, 3, 3]
    assert_same_run(runs[2], single(tmp_path / "single", dataset, configs[2]), 1e-10)
