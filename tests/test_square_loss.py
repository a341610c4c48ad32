"""The square loss: its formula, its curvature in closed form, and that it is trained on and measured by every door."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from scripts.runner.site import Site
from sharpness.cli.options import Probe
from sharpness.config import BudgetConfig, DataConfig, MeasureConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.curvature import curvature_operator
from sharpness.errors import InputError
from sharpness.linalg.operators import to_dense
from sharpness.loss import Loss
from sharpness.loss.criteria import load_loss
from sharpness.loss.square_loss import square_loss
from sharpness.measure.runs import probe_run
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.models import MODELS, ModelInfo
from sharpness.probes import TopEigenvalues
from sharpness.runs import RunFolder
from sharpness.runs.networks import criterion_of, load_network, load_run_data
from sharpness.training import train

CPU = torch.device("cpu")
CONFIG = RunConfig(
    data=DataConfig(num_train=120, num_test=40, evaluation_batch_size=50),
    model=ModelConfig(name="linear", norm="none"),
    training=TrainingConfig(loss="square", optimizer="sgd", learning_rate=0.01, batch_size=120, epochs=3),
    measure=MeasureConfig(names=("eigenvalue",), examples=0),
)


def linear(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes, bias=False))


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "linear", ModelInfo("for tests", linear))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "linear", ModelInfo("for tests", linear))
        folder = RunFolder.create(tmp_path_factory.mktemp("square") / "run", CONFIG)
        train(CONFIG, load_run_data(CONFIG), folder, CPU)
        return folder


def numbers() -> tuple[Tensor, Tensor]:
    """Return the training inputs (N x 784, float64) and the one-hot vectors of their classes."""
    split = load_run_data(CONFIG).train
    return split.inputs.flatten(1).double() / 255, F.one_hot(split.targets, 10).double()


def made(n: int = 9, inputs: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, inputs, dtype=torch.float64, generator=generator), torch.arange(n) % classes


def test_it_is_half_the_sum_over_classes_on_average_over_examples() -> None:
    outputs, targets = made(inputs=3)
    by_hand = sum(
        (float(f) - (k == y)) ** 2 / 2
        for row, y in zip(outputs, targets.tolist(), strict=True)
        for k, f in enumerate(row)
    )
    assert float(square_loss(outputs, targets)) == pytest.approx(by_hand / 9, rel=1e-14)
    one_hot = F.one_hot(targets, 3).double()
    assert float(square_loss(outputs, one_hot)) == pytest.approx(by_hand / 9, rel=1e-14)
    assert float(square_loss(outputs, targets)) == pytest.approx(3 / 2 * float(F.mse_loss(outputs, one_hot)), rel=1e-14)
    each = vmap(grad(lambda z, y: square_loss(z[None], y[None])))(outputs, targets)
    torch.testing.assert_close(each, outputs - one_hot, rtol=1e-14, atol=0)


def test_shapes_and_labels_that_it_has_no_meaning_for_are_refused() -> None:
    x, y = made()
    for outputs, targets in ((x, y[:5]), (torch.zeros(2, 3, 3), torch.zeros(2, 3).long()), (x, x[:, :1]), (x[:, 0], y)):
        with pytest.raises(InputError, match="expected N x K outputs with N class numbers"):
            square_loss(outputs, targets)
    for label in (3, -1, -100):  # it leaves no label out
        with pytest.raises(InputError, match=f"expected labels from 0 to 2 for 3 outputs, got {min(label, 0)} to"):
            Loss(nn.Linear(4, 3), square_loss, [(x, torch.where(y == 2, label, y))], dtype=torch.float64)


def test_the_curvature_of_a_linear_network_is_the_second_moment_of_its_inputs() -> None:
    x, y = made(classes=3)
    loss = Loss(nn.Linear(4, 3, bias=False), square_loss, [(x[:5], y[:5]), (x[5:], y[5:])], dtype=torch.float64)
    expected = torch.kron(torch.eye(3, dtype=torch.float64), x.T @ x / len(x))
    for matrix in ("hessian", "gauss_newton", "fisher"):
        dense = to_dense(curvature_operator(matrix, loss))
        torch.testing.assert_close(dense, expected, rtol=1e-12, atol=1e-14, msg=matrix)
    found = TopEigenvalues(k=1, rtol=1e-6)(loss)
    assert found.lower is not None and found.upper is not None
    top = float(torch.linalg.eigvalsh(x.T @ x / len(x))[-1])
    assert found.lower - 1e-12 <= top <= found.upper + 1e-12


def test_full_batch_training_is_gradient_descent_on_least_squares(run: RunFolder) -> None:
    x, onehot = numbers()
    w = run.load_weights("x0")["1.weight"].double()
    for _ in range(3):
        w = w - 0.01 * (x @ w.T - onehot).T @ x / len(x)
    ours = run.load_weights(run.final_checkpoint())["1.weight"].double()
    torch.testing.assert_close(ours, w, rtol=1e-4, atol=1e-6)
    final = (run.manifest() or {})["final"]
    assert final["train_loss"] == pytest.approx(float((x @ w.T - onehot).square().sum() / 2 / len(x)), rel=1e-5)
    assert final["train_loss"] == pytest.approx(run.log()[-1]["train_loss"], rel=0.2)  # an update apart


def test_every_door_measures_the_loss_that_was_trained_on(run: RunFolder) -> None:
    x, _ = numbers()
    top = float(torch.linalg.eigvalsh(x.T @ x / len(x))[-1])
    assert [row["top_eigenvalue"] for row in run.measures()] == pytest.approx([top] * 3, rel=1e-2)
    (record,) = probe_run(run, {"eigenvalues": TopEigenvalues(k=1)}, device=CPU)
    assert record.lower is not None and record.upper is not None and record.details["criterion"] == "square"
    assert record.lower * (1 - 1e-5) <= top <= record.upper * (1 + 1e-5) and record.upper < 1.05 * top
    final = (run.manifest() or {})["final"]
    site, command = Site([run], CPU, None, lambda done, total: None), Probe(checkpoint=run.path, out=None)
    found = load_user_checkpoint(command, run.path, CPU)
    on_train, on_test = site.losses()
    losses = {"study": on_train, "study's subject": site.subject().loss, "command": found.subject.loss}
    for name, loss in losses.items():
        assert loss.value(loss.weights) == pytest.approx(final["train_loss"], rel=1e-6), name
    assert on_test.value(on_test.weights) == pytest.approx(final["test_loss"], rel=1e-6)
    assert found.loss_name == "square" == found.subject.details["criterion"]
    other = load_user_checkpoint(replace(command, loss="cross_entropy"), run.path, CPU)
    assert other.loss_name == "cross_entropy" and abs(other.checked.evaluation.loss - final["train_loss"]) > 0.1


def test_the_loss_of_a_run_is_for_class_numbers_alone() -> None:
    x, y = made()
    assert load_loss(None, (x, y), "square")[0] == "square" == load_loss("square", (x, y))[0]
    assert load_loss(None, (x, x), "square")[0] == "mse" and load_loss(None, (x, y))[0] == "cross_entropy"


def test_smoothing_is_of_training_alone() -> None:
    x, y = made(inputs=3)
    config = RunConfig(training=TrainingConfig(label_smoothing=0.2))
    smooth, plain = criterion_of(config, training=True)(x, y), criterion_of(config)(x, y)
    assert torch.equal(smooth, F.cross_entropy(x, y, label_smoothing=0.2)) and torch.equal(plain, F.cross_entropy(x, y))


def test_a_training_loss_to_reach_and_a_stop_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpness.training.loop.RESUME_SECONDS", 0.0)
    training: dict[str, Any] = {"batch_size": 40, "epochs": 40, "learning_rate": 0.02, "momentum": 0.5}
    config = replace(
        CONFIG,
        data=replace(CONFIG.data, label_noise=0.2),
        training=replace(CONFIG.training, optimizer="momentum", **training),
        budget=BudgetConfig(train_loss=0.38),
    )

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    whole, stopped = (RunFolder.create(tmp_path / name, config) for name in ("whole", "stopped"))
    manifest = train(config, load_run_data(config), whole, CPU)
    with pytest.raises(KeyboardInterrupt):
        train(config, load_run_data(config), stopped, CPU, stop)
    train(config, load_run_data(config), stopped, CPU)
    assert manifest["ended_by"] == "train_loss" and manifest["step"] > 2 * 3
    assert whole.final_sha256() == stopped.final_sha256()
    dataset = load_run_data(config)
    model = load_network(whole, whole.final_checkpoint(), dataset, CPU)
    with torch.no_grad():
        value = square_loss(model(dataset.train.inputs / 255), dataset.train.targets)
    assert float(value) == pytest.approx(manifest["reached"], rel=1e-5) and float(value) <= 0.38
