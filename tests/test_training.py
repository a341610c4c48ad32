"""The training loop and the run folder: the formula of a step, resume without a trace, divergence, damage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig, to_toml
from sharpness.data import Dataset, load_dataset, normalise
from sharpness.errors import InputError, RunError
from sharpness.machine.environment import choose_device, derived_seed
from sharpness.machine.precision import subnormals_as_zero
from sharpness.measure.recorded import missing_probes
from sharpness.measure.runs import probe_run
from sharpness.models import MODELS, ModelInfo, build_model
from sharpness.probes import DistanceFromStart, Interpolation, TopEigenvalues
from sharpness.runs import RunFolder, sha256_file
from sharpness.runs.networks import evaluation_batches, load_network, load_weights, network_loss
from sharpness.training import loop, train
from sharpness.training.optimizers import OPTIMIZERS
from sharpness.vectors import flatten
from tests.conftest import PATIENCE, ROOT

CPU = torch.device("cpu")
CONFIG = RunConfig(
    data=DataConfig(num_train=130, num_test=50, evaluation_batch_size=40),
    model=ModelConfig(name="f1_small"),
    training=TrainingConfig(batch_size=32, epochs=4),
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("fashion_mnist_10k", num_train=130, num_test=50)


def trained(folder: Path, dataset: Dataset, config: RunConfig = CONFIG) -> RunFolder:
    run = RunFolder.create(folder, config)
    train(config, dataset, run, CPU)
    return run


def outcome(run: RunFolder) -> tuple[str, list[dict[str, object]]]:
    """Return the hash of the final weights and the log without its times."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in run.log()]
    return sha256_file(run.path / f"{run.final_checkpoint()}.safetensors"), rows


def test_a_step_of_adam_and_of_sgd_follow_their_formulas(tmp_path: Path, dataset: Dataset) -> None:
    for name in ("sgd", "adam"):
        config = replace(
            CONFIG, training=replace(CONFIG.training, optimizer=name, batch_size=130, epochs=1, learning_rate=0.01)
        )
        run = trained(tmp_path / name, dataset, config)
        model = load_network(run, "x0", dataset, CPU).train()
        order = torch.randperm(130, generator=torch.Generator().manual_seed(derived_seed(0, "epoch", 1)))
        F.cross_entropy(model(normalise(dataset.train.inputs[order])), dataset.train.targets[order]).backward()
        g = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        # The first step of Adam: both moments are corrected to g and g^2.
        step = g if name == "sgd" else g / (g.abs() + 1e-8)
        ours = load_weights(run, run.final_checkpoint(), dataset, CPU)
        torch.testing.assert_close(ours, flatten(model) - 0.01 * step, rtol=1e-4, atol=1e-6)


def test_the_smallest_numbers_are_zero_in_a_step_and_nowhere_else(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments that shrink below the normal numbers cost a step many times its price, and change no weight."""

    def smallest() -> float:
        return float(torch.tensor(1e-30) * 1e-10)

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(smallest())
            return super().step(closure)

    seen: list[float] = []
    monkeypatch.setitem(OPTIMIZERS, "sgd", lambda model, config: Watched(model.parameters(), lr=0.01))
    trained(tmp_path / "run", dataset, replace(CONFIG, training=replace(CONFIG.training, optimizer="sgd", epochs=1)))
    assert set(seen) == {0.0} and smallest() > 0
    with subnormals_as_zero():
        with subnormals_as_zero():
            assert smallest() == 0
        assert smallest() == 0, "what the caller has chosen is put back"
    assert smallest() > 0


def test_the_run_folder_holds_what_it_promises(tmp_path: Path, dataset: Dataset) -> None:
    run = trained(tmp_path / "run", dataset)
    manifest = run.manifest()
    assert manifest is not None and manifest["status"] == "finished"
    names = {p.name for p in run.path.iterdir()} - {".lock"}
    step = 4 * 5  # 130 examples in batches of 32: four whole ones and one of 2
    assert names == {
        "config.toml",
        "manifest.json",
        "train.jsonl",
        "x0.safetensors",
        "x0.json",
        f"checkpoint-{step}.safetensors",
        f"checkpoint-{step}.json",
    }
    assert manifest["files"] == {name: sha256_file(run.path / name) for name in names - {"manifest.json"}}
    assert [(row["epoch"], row["step"]) for row in run.log()] == [(e, 5 * e) for e in range(5)]
    model = load_network(run, run.final_checkpoint(), dataset, CPU)
    final = network_loss(CONFIG, model, evaluation_batches(CONFIG, dataset.test))
    assert manifest["final"]["test_loss"] == run.log()[-1]["test_loss"] == final.evaluate(final.weights).loss
    assert manifest["data_sha256"] == dataset.sha256


def test_the_logged_training_loss_is_the_mean_over_the_examples_of_the_epoch(tmp_path: Path, dataset: Dataset) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, learning_rate=1e-30, epochs=1))
    run = trained(tmp_path / "run", dataset, config)
    model = load_network(run, "x0", dataset, CPU).train()
    order = torch.randperm(130, generator=torch.Generator().manual_seed(derived_seed(0, "epoch", 1)))
    total = 0.0
    for rows in order.split(32):  # the weights do not move, so each step's loss is that of x0 on its batch
        loss = F.cross_entropy(model(normalise(dataset.train.inputs[rows])), dataset.train.targets[rows])
        total += len(rows) * float(loss.detach())
    assert run.log()[1]["train_loss"] == pytest.approx(total / 130, rel=1e-5)


def test_the_test_set_is_looked_at_as_often_as_asked_and_changes_no_weights(tmp_path: Path, dataset: Dataset) -> None:
    every = trained(tmp_path / "every", dataset, replace(CONFIG, budget=BudgetConfig(updates=18)))
    rarely = replace(CONFIG, budget=BudgetConfig(updates=18), measure=replace(CONFIG.measure, test_every=2.0))
    run = trained(tmp_path / "rarely", dataset, rarely)
    rows = [(row["epoch"], row["test_loss"]) for row in run.log()]
    tested = [(row["epoch"], row["test_loss"] if row["epoch"] % 2 != 1 else None) for row in every.log()]
    assert rows == tested and [epoch for epoch, loss in rows if loss is None] == [1, 3]  # and where the budget cuts
    assert outcome(run)[0] == outcome(every)[0]  # the same weights


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path: Path, dataset: Dataset) -> None:
    first, again = (outcome(trained(tmp_path / name, dataset)) for name in ("a", "b"))
    assert first == again
    other = replace(CONFIG, training=replace(CONFIG.training, seed=1))
    assert outcome(trained(tmp_path / "c", dataset, other)) != first
    large = replace(CONFIG, training=replace(CONFIG.training, batch_size=65))
    x0 = [sha256_file(tmp_path / name / "x0.safetensors") for name in ("a", "c")]
    trained(tmp_path / "d", dataset, large)
    assert sha256_file(tmp_path / "d" / "x0.safetensors") == x0[0] != x0[1]  # a pair starts from the same weights


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> tuple[str, list[dict[str, object]]]:
    """What the run leaves when nothing happens to it."""
    return outcome(trained(tmp_path_factory.mktemp("whole") / "run", dataset))


@pytest.mark.parametrize("epoch", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_stopped_and_continued_equals_never_stopped(
    tmp_path: Path, dataset: Dataset, whole: object, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)

    def stop(done: int, _: int) -> None:
        if done == epoch:
            raise Stop

    run = RunFolder.create(tmp_path / "stopped", CONFIG)
    with pytest.raises(Stop):
        train(CONFIG, dataset, run, CPU, stop)
    run.append_log({"epoch": 99, "step": 0})  # a row that the resume state does not know, as after a kill
    with open(run.path / "train.jsonl", "a") as stream:
        stream.write('{"epoch": 100, "st')
    train(CONFIG, dataset, run, CPU)
    assert outcome(run) == whole


def test_resume_without_the_optimizer_state_is_noticed(
    tmp_path: Path, dataset: Dataset, whole: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control of the test above: what it compares does depend on the state that is carried over.
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    run = RunFolder.create(tmp_path / "stopped", CONFIG)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        train(CONFIG, dataset, run, CPU, stop)
    state = run.load_resume_state()
    assert state is not None
    state["optimizer"]["state"] = {}
    run.save_resume_state(state)
    train(CONFIG, dataset, run, CPU)
    assert outcome(run) != whole


DEADLY = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from sharpness.training import loop
loop.RESUME_SECONDS = 0.0
calls, (at, before) = 0, map(int, sys.argv[1:3])
def deadly(real):
    def call(*arguments):
        global calls
        calls += 1
        if calls == at and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments)
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
sys.argv = ["sharpness", "train", sys.argv[3], "--out", sys.argv[4], "--device", "cpu"]
from sharpness.cli import main
main()
"""


@pytest.mark.slow  # every write of a smaller run is broken off in test_reliability.py
def test_killed_at_its_writes_it_ends_with_the_same_bits(tmp_path: Path, whole: object) -> None:
    config, out = tmp_path / "run.toml", tmp_path / "killed"
    config.write_text(to_toml(CONFIG))
    # SIGKILL just before or just after the n-th fsync or replace: of the config, x0, log, resume state, final weights.
    for at, before in ((1, 1), (2, 0), (5, 1), (9, 0), (13, 1), (14, 0), (7, 1)):
        command = [sys.executable, "-c", DEADLY, str(at), str(before), str(config), str(out)]
        killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = [sys.executable, "-c", DEADLY, "0", "0", str(config), str(out)]
    assert subprocess.run(last, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False).returncode == 0
    assert outcome(RunFolder.open(out)) == whole
    assert not list(out.glob(".*.tmp"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path, dataset: Dataset) -> None:
    run = trained(tmp_path / "run", dataset)
    before = {p.name: p.stat().st_mtime_ns for p in run.path.iterdir()}
    assert train(CONFIG, dataset, run, CPU) == run.manifest()
    assert {p.name: p.stat().st_mtime_ns for p in run.path.iterdir()} == before | {
        ".lock": (run.path / ".lock").stat().st_mtime_ns
    }


def test_interpolation_between_runs_with_running_statistics_recomputes_them(tmp_path: Path, dataset: Dataset) -> None:
    config = replace(CONFIG, model=ModelConfig(name="f1_small", norm="running"))
    other = replace(config, training=replace(config.training, batch_size=65))
    runs = [trained(tmp_path / name, dataset, each) for name, each in (("sb", config), ("lb", other))]
    probe = {"interpolation": Interpolation(num_points=4)}
    (record,) = probe_run(runs[0], probe, device=CPU, other=runs[1])
    assert record.norm == "recalibrate" and record.details["subset"] is None
    for alpha, run in ((0.0, runs[0]), (1.0, runs[1])):
        model = load_network(run, run.final_checkpoint(), dataset, CPU)  # each end with its own network
        for name, split in (("train", dataset.train), ("test", dataset.test)):
            calibration = evaluation_batches(config, dataset.train)
            own = network_loss(config, model, evaluation_batches(config, split), calibration=calibration)
            at = record.details["alphas"].index(alpha)
            assert record.details[f"{name}_loss"][at] == pytest.approx(own.value(own.weights), rel=1e-6)
    assert probe_run(runs[0], probe, device=CPU, other=runs[1]) == []  # recorded, so not measured again


def test_a_subset_is_another_measurement_than_the_whole(tmp_path: Path, dataset: Dataset) -> None:
    run = trained(tmp_path / "run", dataset)
    probe = {"distance": DistanceFromStart()}
    sizes = []
    for num_examples in (None, 130, 100, None, 130):
        sizes += [record.num_examples for record in probe_run(run, probe, device=CPU, num_examples=num_examples)]
    assert sizes == [130, 130, 100]
    assert [record.details["subset"] for record in run.records()] == [None, 130, 100]
    assert [record.batch_sizes for record in run.records()] == [(40, 10), (130,), (100,)]
    with pytest.raises(InputError, match="at least 2 examples"):
        probe_run(run, probe, device=CPU, num_examples=1)


def test_a_solve_that_time_cut_short_is_measured_again(tmp_path: Path, dataset: Dataset) -> None:
    run, probe = trained(tmp_path / "run", dataset), {"eigenvalues": TopEigenvalues(k=1, seconds=1e-9)}
    whole = {"eigenvalues": TopEigenvalues(k=1)}
    (record,) = probe_run(run, probe, device=CPU)
    assert record.details["stopped_by"] == "seconds" and list(missing_probes(run, whole)) == ["eigenvalues"]
    (record,) = probe_run(run, whole, device=CPU)
    assert (
        record.details["stopped_by"] != "seconds" and not missing_probes(run, whole) and not missing_probes(run, probe)
    )


def test_damaged_files_of_a_run_are_named(tmp_path: Path, dataset: Dataset) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (run.path / "resume.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"resume\.pt is damaged"):
        train(CONFIG, dataset, run, CPU)
    (run.path / "resume.pt").unlink()
    train(CONFIG, dataset, run, CPU)
    (run.path / "resume.pt").write_bytes(b"left by a kill")
    train(CONFIG, dataset, run, CPU)
    assert not (run.path / "resume.pt").exists()
    for content in ("{", "[1]", "{}"):
        (run.path / "manifest.json").write_text(content)
        with pytest.raises(RunError, match=r"manifest\.json is damaged"):
            run.final_checkpoint()
    for content in ("[1]\n", '{"probe": "x"}\n'):
        (run.path / "probes.jsonl").write_text(content)
        with pytest.raises(InputError):
            run.records()


def test_divergence_is_recorded_with_its_step(tmp_path: Path, dataset: Dataset) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, optimizer="sgd", learning_rate=1e38))
    run = trained(tmp_path / "run", dataset, config)
    manifest = run.manifest()
    assert manifest is not None and manifest["status"] == "diverged"
    assert 1 <= manifest["step"] <= 5 and f"step {manifest['step']}" in manifest["reason"]
    assert run.log()[-1]["train_loss"] is None and run.log()[-1]["reason"] == manifest["reason"]
    json.dumps(run.log(), allow_nan=False)
    assert not list(run.path.glob("checkpoint-*"))
    with pytest.raises(InputError, match="diverged"):
        run.final_checkpoint()


def test_a_folder_of_another_config_is_refused_with_the_difference(tmp_path: Path, dataset: Dataset) -> None:
    trained(tmp_path / "run", dataset)
    other = replace(CONFIG, training=replace(CONFIG.training, batch_size=16))
    with pytest.raises(InputError, match=r"training.batch_size: 32 != 16"):
        RunFolder.create(tmp_path / "run", other)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="other files"):
        RunFolder.create(tmp_path / "notes", CONFIG)
    with pytest.raises(InputError, match=r"no config\.toml"):
        RunFolder.open(tmp_path / "notes")


def test_a_flipped_byte_in_the_weights_is_found(tmp_path: Path, dataset: Dataset) -> None:
    run = trained(tmp_path / "run", dataset)
    path = run.path / "x0.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        run.load_weights("x0")
    path.unlink()
    with pytest.raises(RunError, match="expected weights"):
        run.load_weights("x0")


def test_two_processes_on_one_folder(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    monkeypatch.setattr("sharpness.runs.folder.LOCK_SECONDS", 0.1)
    lock = str(run.path / ".lock")
    code = (
        f"from filelock import FileLock; import time; lock = FileLock({lock!r}); lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process"):
            train(CONFIG, dataset, run, CPU)
        os.kill(holder.pid, signal.SIGKILL)
    assert train(CONFIG, dataset, run, CPU)["status"] == "finished"  # a killed holder's lock is free


def test_models_are_counted_and_seeded() -> None:
    model = build_model(ModelConfig(), (1, 28, 28), 10, seed=0)
    weights = 784 * 512 + 4 * 512 * 512 + 512 * 10
    assert len(flatten(model)) == weights + (5 * 512 + 10) + 2 * 5 * 512
    state = torch.get_rng_state()
    same, other = (flatten(build_model(ModelConfig(), (1, 28, 28), 10, seed=seed)) for seed in (0, 1))
    assert torch.equal(flatten(model), same) and not torch.equal(same, other)
    assert torch.equal(state, torch.get_rng_state())
    running = build_model(ModelConfig(norm="running"), (1, 28, 28), 10, seed=0)
    assert sum(b.numel() for b in running.buffers()) == 5 * (2 * 512 + 1) and not list(model.buffers())
    assert torch.equal(flatten(running), same)
    assert all(isinstance(info, ModelInfo) for info in MODELS.values())


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        choose_device(name)
