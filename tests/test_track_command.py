"""``sharpness track``: the checkpoints of a training in one table, CSV and figure, found and ordered by their steps."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sharpness.checkpoints.series import edge_of_run, find_snapshots, step_of
from sharpness.config import MeasureConfig, ModelConfig, RunConfig, ScheduleConfig, TrainingConfig
from sharpness.config.fields import DataConfig
from sharpness.errors import InputError
from sharpness.plots.frames import rows_where
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import OPTIMIZERS, train
from tests.conftest import run_python
from tests.test_commands import assert_refused

pytestmark = pytest.mark.dear

EXAMPLES = ("--examples", "60")
PROBES = ("--probes", "eigenvalues,norms", *EXAMPLES)
CONFIG = RunConfig(
    data=DataConfig(num_train=60, num_test=20, evaluation_batch_size=60),
    model=ModelConfig(name="f1_small", norm="none"),
    training=TrainingConfig(optimizer="momentum", learning_rate=0.05, momentum=0.5, batch_size=20, epochs=3),
    schedule=ScheduleConfig(kind="linear", final=0.1),
    measure=MeasureConfig(keep_every=1.0),
)


def sharpness(*arguments: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
    result = run_python("-c", "from sharpness.cli import main; main()", *map(str, arguments))
    assert (result.returncode != 0) == fails, result.stderr
    return result


def weights(path: Path, width: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(nn.Linear(3, width).state_dict(), path)
    return path


def trained(folder: Path, config: RunConfig) -> Path:
    train(config, load_run_data(config), RunFolder.create(folder, config), torch.device("cpu"))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that kept a checkpoint of each of its 3 epochs; its rate falls."""
    return trained(tmp_path_factory.mktemp("track") / "run", CONFIG)


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of the run, tracked at once."""
    out = tmp_path_factory.mktemp("whole") / "out"
    sharpness("track", run, *PROBES, "--out", out)
    return pd.read_csv(out / "track.csv")


def test_steps_come_from_what_programs_write_or_from_names(tmp_path: Path) -> None:
    trainer = tmp_path / "out" / "checkpoint-9"
    weights(trainer / "model.safetensors")
    (trainer / "config.json").write_text("{}")
    logged = [{"learning_rate": 0.5, "step": 10}, {"learning_rate": 0.25, "step": 20}, {"loss": 1.0}]
    (trainer / "trainer_state.json").write_text(json.dumps({"global_step": 20, "log_history": logged}))
    network = nn.Linear(3, 4)
    lightnings(tmp_path / "out" / "last1.ckpt", network, torch.optim.SGD(network.parameters(), lr=0.1))
    weights(tmp_path / "out" / "epoch=0-step=3.safetensors")
    (tmp_path / "out" / "notes.txt").write_text("no checkpoint")
    found = find_snapshots([tmp_path / "out"])
    assert [each.step for each in found] == [3, 7, 20]
    assert [each.rate for each in found] == [None, 0.1, 0.25]
    assert [each.edge for each in found] == [None, 20.0, None]  # the Trainer does not say with which optimiser
    assert {each.series for each in found} == {"out"}
    assert step_of(weights(tmp_path / "best.safetensors")) is None


def test_a_trainer_that_saved_its_last_model_too_keeps_its_checkpoints(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder, step in ((out / "checkpoint-10", 10), (out / "checkpoint-20", 20), (out, 25)):
        weights(folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    assert [(each.series, each.step) for each in find_snapshots([out])] == [("out", 10), ("out", 20), ("out", 25)]
    (out / "trainer_state.json").unlink()
    assert [each.step for each in find_snapshots([out])] == [10, 20]


def test_averaged_weights_of_a_run_are_no_checkpoints_of_its_training(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copy(copy / "x0.safetensors", copy / "ema20-64.safetensors")
    assert [each.path.name for each in find_snapshots([copy])] == [each.path.name for each in find_snapshots([run])]


def test_folders_of_one_name_are_series_of_their_own(tmp_path: Path) -> None:
    files = [tmp_path / v / "checkpoints" / f"step={n}.safetensors" for v in ("v0", "v1") for n in (50, 100)]
    found = find_snapshots([weights(file) for file in files])
    assert [(each.series, each.step) for each in found] == [
        ("v0/checkpoints", 50),
        ("v0/checkpoints", 100),
        ("v1/checkpoints", 50),
        ("v1/checkpoints", 100),
    ]


def lightnings(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """Write what Lightning does at step 7."""
    states = {"optimizer_states": [optimizer.state_dict()]}
    torch.save({"state_dict": network.state_dict(), "global_step": 7} | states, path)
    return path


@pytest.mark.parametrize(
    ("optimizer", "edge"),
    [
        (partial(torch.optim.SGD, momentum=0.9), 38.0),
        (partial(torch.optim.SGD, momentum=0.5, nesterov=True), 15.0),
        (partial(torch.optim.SGD, momentum=0.5, dampening=0.5), 60.0),
        (partial(torch.optim.SGD, momentum=0.5, dampening=1.0), None),  # the gradient does not enter the momentum
        (partial(torch.optim.SGD, dampening=0.5), 20.0),  # torch dampens a momentum alone
        (torch.optim.Adam, None),
        (torch.optim.AdamW, None),
        (partial(torch.optim.RMSprop, momentum=0.9), None),
        (torch.optim.Adagrad, None),
    ],
)
def test_an_edge_is_that_of_the_optimiser_which_a_file_holds(
    optimizer: Any, edge: float | None, tmp_path: Path
) -> None:
    network = nn.Linear(3, 4)
    (found,) = find_snapshots([lightnings(tmp_path / "a.ckpt", network, optimizer(network.parameters(), lr=0.1))])
    assert found.rate == 0.1 and found.edge == (None if edge is None else pytest.approx(edge))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_edge_is_known_for_plain_descent_alone(optimizer: str) -> None:
    config = RunConfig(training=TrainingConfig(optimizer=optimizer, momentum=0.5))
    known = {"sgd": 20.0, "momentum": 30.0, "nesterov": 15.0}.get(optimizer)
    assert edge_of_run(0.1, config) == (None if known is None else pytest.approx(known))
    for change in ({"sam_rho": 0.05}, {"clip_norm": 1.0}, {"proximal": 0.1}):
        assert edge_of_run(0.1, replace(config, training=replace(config.training, **change))) is None


def test_a_run_folder_has_its_start_and_every_checkpoint_with_the_rate_of_its_step(run: Path) -> None:
    found = find_snapshots([run])
    assert [each.step for each in found] == [0, 3, 6, 9] and all(each.run == run for each in found)
    rows = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    rates = {row["step"]: row.get("learning_rate") for row in rows}
    assert [each.rate for each in found[1:]] == [rates[3], rates[6], rates[9]]
    assert found[1].edge == pytest.approx(2 * 1.5 / rates[3])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/best.safetensors"], "a step in the name"),
        (["a/w1.safetensors", "a/v1.safetensors"], "one checkpoint for each step"),
        ([], "no checkpoint|got a folder|expected checkpoints"),
    ],
)
def test_what_is_no_series_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    (tmp_path / "a").mkdir()
    paths = [weights(tmp_path / name) for name in names] or [tmp_path / "a"]
    with pytest.raises(InputError, match=words):
        find_snapshots(paths)
    with pytest.raises(InputError, match="expected checkpoints of a training, got none: name"):
        find_snapshots([])


PRICED = """
from sharpness.cli import main, probe
from sharpness.measure.costs import Price

probe.price_of = lambda loss, work, products: Price(forward=100.0, gradient=100.0, product=100.0, example=100.0)
main()
"""
"""A pass takes so long that it is announced."""


def test_a_run_is_tracked_and_only_what_is_new_is_measured_again(run: Path, tmp_path: Path) -> None:
    out, half = tmp_path / "out", tmp_path / "half"
    shutil.copytree(run, half)
    (half / "checkpoint-6.safetensors").unlink()
    sharpness("track", half, *PROBES, "--out", out)
    before = (out / "probes.jsonl").read_text()
    assert pd.read_csv(out / "track.csv")["step"].tolist() == [0, 0, 3, 3, 9, 9]
    result = run_python("-c", PRICED, "track", str(run), *PROBES, "--out", str(out))
    shown = result.stdout
    assert result.returncode == 0 and "2 measures will take about 15.0 min here: 9 products over the data" in shown
    assert "6 more are in probes.jsonl already" in shown
    after = (out / "probes.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == len(before.splitlines()) + 2
    table = pd.read_csv(out / "track.csv")
    assert sorted(set(table["step"])) == [0, 3, 6, 9] and "top_eigenvalue" in shown
    top = table[table["probe"] == "eigenvalues"]
    lower, value, upper = (np.asarray(top[name]) for name in ("lower", "value", "upper"))
    assert np.all(lower <= value) and np.all(value <= upper)
    assert {path.suffix for path in out.glob("track.*")} == {".pdf", ".png", ".csv", ".json"}
    own = sharpness("probe", run, *PROBES, "--out", tmp_path / "own", "--json").stdout
    final: dict[str, Any] = {row["probe"]: row for row in map(json.loads, own.splitlines())}
    assert top[top["step"] == 9]["value"].item() == final["eigenvalues"]["value"]


INTERRUPTED = """
from sharpness.cli import main, track
done, measure_all = [], track.measure_all

def interrupted(*arguments, **options):
    if len(done) == 2:
        raise KeyboardInterrupt
    done.append(measure_all(*arguments, **options))

track.measure_all = interrupted
main()
"""
"""Ctrl-C comes after the second of four checkpoints."""


def test_an_interrupted_track_loses_nothing(run: Path, whole: pd.DataFrame, tmp_path: Path) -> None:
    asked = ("track", run, *PROBES, "--out")
    cut = run_python("-c", INTERRUPTED, *map(str, asked), str(tmp_path / "cut"))
    assert cut.returncode == 130 and "goes on from there" in cut.stderr
    kept = (tmp_path / "cut" / "probes.jsonl").read_text()
    table = pd.read_csv(tmp_path / "cut" / "track.csv")
    assert kept.count("\n") == 4 and table["step"].tolist() == [0, 0, 3, 3], "what was measured is shown at once"
    sharpness(*asked, tmp_path / "cut")
    assert (tmp_path / "cut" / "probes.jsonl").read_text().startswith(kept)
    again = pd.read_csv(tmp_path / "cut" / "track.csv")
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_a_warm_start_takes_fewer_products_and_proves_no_upper_bound(
    run: Path, whole: pd.DataFrame, tmp_path: Path
) -> None:
    sharpness("track", run, "--probes", "eigenvalues", *EXAMPLES, "--warm", "--out", tmp_path / "warm")
    cold, warm = rows_where(whole, probe="eigenvalues"), pd.read_csv(tmp_path / "warm" / "track.csv")
    assert warm["upper"].isna().tolist() == [False, True, True, True] and np.isfinite(np.asarray(cold["upper"])).all()
    assert warm["value"].to_numpy() == pytest.approx(cold["value"].to_numpy(), rel=2e-2)
    assert int(np.sum(np.asarray(warm["num_hvps"])[1:])) < int(np.sum(np.asarray(cold["num_hvps"])[1:]))


@pytest.mark.parametrize("option", [("--warm",), ("--seconds", "9")], ids=lambda option: option[0])
def test_checkpoints_on_ray_are_measured_side_by_side_or_not_at_all(
    run: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    refused = sharpness("track", run, "--ray", "local", *option, "--out", tmp_path / "out", fails=True)
    assert_refused(refused, f"expected --ray without {option[0]}, got both", "side by side")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_nan_is_told_and_the_others_are_measured(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    files = sorted(copy.glob("checkpoint-*.safetensors"), key=lambda file: step_of(file) or 0)
    save_file({name: tensor * float("nan") for name, tensor in load_file(files[1]).items()}, files[1])
    failed = sharpness("track", copy, *PROBES, "--out", tmp_path / "out", fails=True)
    assert failed.returncode == 1 and files[1].name in failed.stderr and "Traceback" not in failed.stderr
    steps = set(pd.read_csv(tmp_path / "out" / "track.csv")["step"])
    assert steps == {0} | {step_of(file) for file in files} - {step_of(files[1])}


def test_checkpoints_of_two_architectures_are_one_clear_line(run: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "other", replace(CONFIG, model=replace(CONFIG.model, name="fc_128_128_128")))
    refused = sharpness("track", run, other, "--probes", "norms", "--out", tmp_path / "out", fails=True)
    assert refused.returncode == 2 and "one architecture" in refused.stderr and "Traceback" not in refused.stderr
