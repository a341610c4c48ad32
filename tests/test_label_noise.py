"""Labels replaced at random: how many, which, and that every reader of a run sees those that it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.runner.site import Site
from sharpness.cli.options import Probe
from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.data import load_dataset, normalise
from sharpness.data.dataset import hash_splits
from sharpness.data.digests import data_sha256
from sharpness.data.label_noise import with_random_labels
from sharpness.errors import InputError
from sharpness.measure.runs import probe_run
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.probes import DistanceFromStart
from sharpness.runs import RunFolder, sha256_file
from sharpness.runs.networks import evaluation_batches, load_network, load_run_data
from sharpness.training import loop, train
from sharpness.training.session import Session

CPU = torch.device("cpu")
DATA = DataConfig(num_train=160, num_test=50, num_validation=30, evaluation_batch_size=40, label_noise=0.4)
CONFIG = RunConfig(DATA, ModelConfig(name="f1_small"), training=TrainingConfig(batch_size=32, epochs=3))


def with_training(config: RunConfig = CONFIG, **changes: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **changes))


def labels(config: RunConfig) -> Tensor:
    return load_run_data(config).train.targets


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was given its data whole and clean: it adds the noise itself."""
    folder = RunFolder.create(tmp_path_factory.mktemp("noisy") / "run", CONFIG)
    train(CONFIG, load_dataset("fashion_mnist_10k", num_train=160, num_test=50), folder, CPU)
    return folder


def test_labels_are_replaced_as_often_and_as_evenly_as_they_should_be() -> None:
    n, classes, share = 100_000, 10, 0.3
    targets = torch.arange(n) % classes
    for each in range(3):
        noisy = with_random_labels(targets, classes, share, seed=each)
        wrong = noisy != targets  # share * 9/10 of them: a drawn label is right once in ten
        deviation = (share * 0.9 * (1 - share * 0.9) / n) ** 0.5
        assert abs(float(wrong.double().mean()) - 0.27) < 5 * deviation
        shifts = torch.bincount((noisy - targets)[wrong] % classes, minlength=classes)[1:]
        expected = int(wrong.sum()) / 9
        assert float(((shifts - expected) ** 2 / expected).sum()) < 8 + 5 * 16**0.5  # chi squared of 8 degrees
    assert torch.equal(with_random_labels(targets, classes, 0.0, seed=0), targets)
    every = with_random_labels(targets, classes, 1.0, seed=0)
    assert abs(float((every == targets).double().mean()) - 0.1) < 5 * (0.09 / n) ** 0.5


def test_noise_belongs_to_the_seed_and_grows_with_its_share() -> None:
    clean, noisy = labels(replace(CONFIG, data=replace(DATA, label_noise=0.0))), labels(CONFIG)
    assert torch.equal(clean, load_dataset("fashion_mnist_10k", num_train=130).train.targets)
    assert 20 < int((noisy != clean).sum()) < 75  # 47 of 130 on average
    paired = with_training(batch_size=130, epochs=9, optimizer="sgd", learning_rate=0.5)
    assert torch.equal(labels(paired), noisy) and not torch.equal(labels(with_training(seed=1)), noisy)
    more = labels(replace(CONFIG, data=replace(DATA, label_noise=0.8)))
    assert torch.equal(more[noisy != clean], noisy[noisy != clean]) and int((more != clean).sum()) > 75


def test_held_out_and_test_labels_stay_and_the_hash_tells_noise() -> None:
    clean, noisy = load_run_data(replace(CONFIG, data=replace(DATA, label_noise=0.0))), load_run_data(CONFIG)
    assert clean.held_out is not None and noisy.held_out is not None
    assert torch.equal(clean.held_out.targets, noisy.held_out.targets)
    assert torch.equal(clean.test.targets, noisy.test.targets)
    whole = load_dataset("fashion_mnist_10k", num_train=160, num_test=50).train
    whole = replace(whole, targets=torch.cat([noisy.train.targets, noisy.held_out.targets]))
    assert noisy.sha256 == hash_splits(whole, noisy.test) != clean.sha256
    assert len({clean.sha256, noisy.sha256, load_run_data(with_training(seed=1)).sha256}) == 3


def test_a_dataset_with_other_noise_is_refused() -> None:
    noisy = load_run_data(CONFIG)
    assert noisy.label_noise is not None
    share, seed = noisy.label_noise
    assert noisy.with_label_noise(share, seed) is noisy and share == 0.4
    for other in (with_training(seed=1), replace(CONFIG, data=replace(DATA, label_noise=0.0))):
        with pytest.raises(InputError, match="expected a dataset without label noise"):
            Session.open(other, noisy, RunFolder(Path("nowhere")), CPU)
    uncut = load_run_data(replace(CONFIG, data=replace(DATA, num_validation=0)))
    with pytest.raises(InputError, match="got a dataset with 0 and label noise: give the whole one"):
        Session.open(CONFIG, uncut, RunFolder(Path("nowhere")), CPU)


def test_every_door_to_a_run_shows_the_labels_that_it_was_trained_on(run: RunFolder) -> None:
    noisy = load_run_data(CONFIG)
    opened = Session.open(CONFIG, noisy, run, CPU)
    site = Site([run], CPU, None, lambda done, total: None)
    request = Probe(checkpoint=run.path, out=None)
    batches = {
        "trainer": evaluation_batches(CONFIG, opened.train),
        "measures while training": evaluation_batches(CONFIG, opened.measured),
        "study": site.batches(site.dataset.train),
        "study's subject": list(site.subject().loss.batches),
        "study's losses": list(site.losses()[0].batches),
        "command": list(load_user_checkpoint(request, run.path, CPU).subject.loss.batches),
    }
    for name, each in batches.items():
        assert torch.equal(torch.cat([targets for _, targets in each]), noisy.train.targets), name
    (record,) = probe_run(run, {"distance": DistanceFromStart()}, device=CPU)
    assert record.data_sha256 == data_sha256(batches["trainer"])
    assert (run.manifest() or {})["data_sha256"] == noisy.sha256
    assert torch.equal(torch.cat([y for _, y in site.losses()[1].batches]), site.dataset.test.targets)


def test_the_final_numbers_are_those_of_the_noisy_labels(run: RunFolder) -> None:
    noisy, final = load_run_data(CONFIG), (run.manifest() or {})["final"]
    model = load_network(run, run.final_checkpoint(), noisy, CPU)
    with torch.no_grad():
        outputs = torch.cat([model(normalise(part)) for part in noisy.train.inputs.split(40)])
    assert final["train_loss"] == pytest.approx(float(F.cross_entropy(outputs, noisy.train.targets)), rel=1e-5)
    assert final["train_accuracy"] == pytest.approx(float((outputs.argmax(1) == noisy.train.targets).double().mean()))


def test_whether_the_data_come_clean_or_noisy_the_weights_are_the_same(run: RunFolder, tmp_path: Path) -> None:
    again = RunFolder.create(tmp_path / "again", CONFIG)
    train(CONFIG, load_run_data(CONFIG), again, CPU)
    assert again.final_sha256() == run.final_sha256()
    clean = replace(CONFIG, data=replace(DATA, label_noise=0.0))
    other = RunFolder.create(tmp_path / "clean", clean)
    train(clean, load_run_data(clean), other, CPU)
    assert other.final_sha256() != run.final_sha256()
    assert sha256_file(other.path / "x0.safetensors") == sha256_file(run.path / "x0.safetensors")


def test_a_stopped_run_goes_on_with_the_same_labels(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    again = RunFolder.create(tmp_path / "again", CONFIG)

    def stop(done: int, _: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, load_run_data(CONFIG), again, CPU, stop)
    train(CONFIG, load_dataset("fashion_mnist_10k", num_train=160, num_test=50), again, CPU)
    assert again.final_sha256() == run.final_sha256()


def test_a_training_loss_to_reach_is_that_of_the_noisy_labels(tmp_path: Path) -> None:
    # Every label is drawn: nothing but memorising them reaches the goal.
    data, model = replace(DATA, label_noise=1.0), ModelConfig("fc_128_128_128", norm="none")
    config = replace(with_training(epochs=100), data=data, model=model, budget=BudgetConfig(train_loss=0.3))
    folder = RunFolder.create(tmp_path / "run", config)
    manifest = train(config, load_run_data(config), folder, CPU)
    assert manifest["ended_by"] == "train_loss" and manifest["final"]["train_loss"] <= 0.3
    assert manifest["final"]["train_accuracy"] > 0.9 > 0.3 > manifest["final"]["test_accuracy"]
