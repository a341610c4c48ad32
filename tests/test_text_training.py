"""Language models in the trainer: a loss for each byte, their optimisers and schedules, stops, processes, probes."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.config import (
    AverageConfig,
    BudgetConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)
from sharpness.errors import InputError, Terminated
from sharpness.measure.request import Request
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.models.transformer import character_transformer
from sharpness.probes import TopEigenvalues
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_network, load_run_data
from sharpness.training import check_config, loop, schedules, train
from sharpness.training.averages import averages_of
from sharpness.training.muon import MuonAdamW, hidden_matrices
from sharpness.training.optimizers import OPTIMIZERS, set_rates
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.vectors import flatten
from tests.oracles import dense_hessian
from tests.reliability_cases import CPU, outcome
from tests.reliability_cases import TEXT as CONFIG

pytestmark = pytest.mark.dear


def with_training(config: RunConfig = CONFIG, **changes: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **changes))


def trained(folder: Path, config: RunConfig = CONFIG) -> RunFolder:
    run = RunFolder.create(folder, config)
    train(config, load_run_data(config), run, CPU)
    return run


def session_of(config: RunConfig) -> Session:
    return Session.open(config, load_run_data(config), RunFolder(Path("nowhere")), CPU)


# What a step is.


def test_the_loss_is_the_mean_over_bytes_and_the_accuracy_is_of_bytes(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", with_training(epochs=1, batch_size=19, learning_rate=1e-12))
    data = load_run_data(run.config())
    model, log = load_network(run, "x0", data, CPU).double(), run.log()
    losses, right = [], []
    with torch.no_grad():
        for window, targets in zip(data.test.inputs.flatten(1), data.test.targets, strict=True):
            logits = model(window[None].long())[0].T
            losses += [-float(logits[place].log_softmax(0)[target]) for place, target in enumerate(targets.tolist())]
            right += (logits.argmax(1) == targets).tolist()
    assert log[0]["test_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5) and len(losses) == 7 * 12
    assert log[0]["test_accuracy"] == sum(right) / len(right)
    # The epoch's own row is of the same weights, one batch of all: what evaluation says, to the rounding of the rate.
    assert log[1]["train_loss"] == pytest.approx(log[0]["train_loss"], rel=1e-5)
    assert log[1]["train_accuracy"] == pytest.approx(log[0]["train_accuracy"], abs=1e-9)


def test_the_second_moment_remembers_the_same_text_at_every_batch_size() -> None:
    for size, tokens in ((2, 24), (8, 96)):
        session = session_of(with_training(batch_size=size))
        loop.one_update(session, Position())
        beta2 = session.optimizer.param_groups[0]["betas"][1]
        assert beta2 ** (500 / tokens) == pytest.approx(0.5, rel=1e-12)
    # Marek et al. 2025: 0.95 at 512 sequences is 0.9999 at one.
    half_life = 512 * math.log(0.5) / math.log(0.95)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    set_rates(optimizer, TrainingConfig(beta2_half_life=half_life), 0.1, 1)
    assert optimizer.param_groups[0]["betas"] == (0.9, pytest.approx(0.95 ** (1 / 512), rel=1e-12))
    last = session_of(CONFIG)
    loop.one_update(last, Position(seen=16))  # the 3 windows that are left: the scheduled batch counts
    assert last.optimizer.param_groups[0]["betas"][1] == 2 ** (-96 / 500)


def gradient_steps(config: RunConfig, count: int) -> tuple[Session, list[list[Tensor]], list[list[Tensor]]]:
    """Return a session after so many updates, the weights before each and after the last, and the gradients."""
    session, at = session_of(with_training(config, dtype="float64")), Position()
    weights, gradients = [], []
    for _ in range(count):
        weights.append([p.detach().clone() for p in session.parameters])
        at = loop.one_update(session, at)
        gradients.append([p.grad.clone() for p in session.parameters if p.grad is not None])
    return session, [*weights, [p.detach().clone() for p in session.parameters]], gradients


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_signum_follows_its_formula(momentum: float) -> None:
    rate, decay = 0.01, 0.1
    config = with_training(
        replace(CONFIG, schedule=ScheduleConfig()),
        optimizer="signum",
        momentum=momentum,
        learning_rate=rate,
        weight_decay=decay,
        beta2_half_life=None,
    )
    _, weights, gradients = gradient_steps(config, 3)
    for i in range(len(weights[0])):
        m = torch.zeros_like(weights[0][i])
        for w, g, after in zip(weights, gradients, weights[1:], strict=False):
            m = momentum * m + (1 - momentum) * g[i]
            torch.testing.assert_close(after[i], w[i] - rate * (decay * w[i] + m.sign()), rtol=1e-12, atol=1e-14)


def test_muon_steps_along_the_nearest_orthogonal_matrix_and_adamw_takes_the_rest() -> None:
    # Newton and Schulz's five steps leave singular values between 0.68 and 1.13: the step has the singular vectors of
    # the momentum, and lengths of about 1 along each that is not lost in bfloat16.
    rate, decay, mu = 0.02, 0.1, 0.9
    changes: dict[str, Any] = {"learning_rate": rate, "momentum": mu, "weight_decay": decay, "beta2_half_life": None}
    config = with_training(replace(CONFIG, schedule=ScheduleConfig()), optimizer="muon", **changes)
    session, weights, gradients = gradient_steps(config, 2)
    chosen = {id(p) for p in hidden_matrices(session.model)}
    names = [name for name, p in session.model.named_parameters() if id(p) in chosen]
    assert len(names) == 4 and not any("characters" in name or "logits" in name for name in names)
    for i, p in enumerate(session.parameters):
        (g1, g2), w1, w2 = (gradients[0][i], gradients[1][i]), weights[1][i], weights[2][i]
        if id(p) in chosen:
            v = 0.0 + mu * (mu * g1 * (1 - mu) + (1 - mu) * g2) + (1 - mu) * g2  # Nesterov, averaged
            u, s, vh = torch.linalg.svd(v, full_matrices=False)
            step = (w1 * (1 - rate * decay) - w2) / (rate * 0.2 * max(p.shape) ** 0.5)
            strong = s > 0.2 * s[0]  # the others are raised to 1 by more steps than five
            inside = u.T @ step @ vh.T
            lengths, rest = inside.diagonal()[strong], inside - torch.diag(inside.diagonal())
            assert int(strong.sum()) >= 2 and bool(((lengths > 0.65) & (lengths < 1.2)).all())
            assert float(rest[strong][:, strong].abs().max()) < 0.1
        else:
            m, second = 0.1 * (0.9 * g1 + g2) / (1 - 0.9**2), 0.001 * (0.999 * g1**2 + g2**2) / (1 - 0.999**2)
            wanted = w1 * (1 - rate * decay) - rate * m / (second.sqrt() + 1e-8)
            torch.testing.assert_close(w2, wanted, rtol=1e-9, atol=1e-12)


def test_muon_sets_rates_in_both_parts_also_after_a_stop() -> None:
    w, b = nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))
    one, other = (MuonAdamW([w], [b], lr=0.1) for _ in range(2))
    other.load_state_dict(one.state_dict())
    for optimizer in (one, other):
        set_rates(optimizer, TrainingConfig(beta2_half_life=10.0), 0.25, 10)
        assert [part.param_groups[0]["lr"] for part in optimizer.parts.values()] == [0.25, 0.25]
        assert optimizer.parts["adamw"].param_groups[0]["betas"] == (0.9, 0.5)
    assert hidden_matrices(character_transformer(32, 1, tied=True)((1, 1, 4), 256, "rms"))[-1].shape == (32, 128)


def test_warm_up_stable_decay_is_flat_between_its_two_lines() -> None:
    config = replace(
        with_training(learning_rate=0.4, epochs=10),
        schedule=ScheduleConfig(kind="wsd", warmup=1.0, decay=0.25, final=0.1),
    )
    rates = [schedules.learning_rate(config, epoch, 10.0, 10.0) for epoch in (0.0, 0.9, 1.0, 7.5, 8.75, 10.0)]
    assert rates == pytest.approx([0.04, 0.4, 0.4, 0.4, 0.4 * 0.55, 0.04])


def test_averages_of_several_horizons_are_those_of_one_each(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    for horizon in (2.0, 5.0):
        alone = replace(CONFIG, average=AverageConfig(kind="ema", decay=1 - 1 / horizon))
        name = f"ema{horizon:g}"
        account, manifest = (run.manifest() or {})["averages"][name], trained(tmp_path / name, alone).manifest() or {}
        ours, theirs = run.load_weights(account["name"]), RunFolder(tmp_path / name).load_weights("ema-9")
        assert account["name"] == f"{name}-9" and all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert {k: v for k, v in account.items() if k != "name"} == {
            k: v for k, v in manifest["average"].items() if k != "name"
        }
    assert set(averages_of(CONFIG.average)) == {"ema2", "ema5"}


# What happens to a run.


OPTIMISERS = {
    "adamw": {},
    "muon": {"momentum": 0.95},
    "signum": {"beta2_half_life": None, "learning_rate": 1e-3},
}


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("adamw", range(1, 9)),  # after each of its updates in turn
        ("muon", (2, 7)),
        ("signum", (2, 7)),
        pytest.param("muon", range(1, 9), marks=pytest.mark.slow),
        pytest.param("signum", range(1, 9), marks=pytest.mark.slow),
    ],
)
def test_stopped_after_any_update_it_ends_with_the_same_bits(
    name: str, stops: Sequence[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_training(optimizer=name, **OPTIMISERS[name])
    measured = MeasureConfig(names=("noise_scale", "distance"), every=0.7, keep_every=1.0, examples=6)
    config = replace(config, measure=measured)
    whole, real = outcome(trained(tmp_path / "whole", config)), loop.one_update
    assert whole["status"] == "finished" and whole["step"] == 9
    monkeypatch.setattr(loop, "RESUME_SECONDS", math.inf)

    def terminating(session: Session, at: Position) -> Position:
        if at.update + 1 in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(session, at)

    for _ in stops:
        monkeypatch.setattr(loop, "one_update", terminating)
        with pytest.raises(Terminated):
            trained(tmp_path / "stopped", config)
    monkeypatch.setattr(loop, "one_update", real)
    assert outcome(trained(tmp_path / "stopped", config)) == whole


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_tracker_measures_a_text_and_changes_no_bit(name: str, tmp_path: Path) -> None:
    config = with_training(optimizer=name, epochs=0, **OPTIMISERS[name])
    config = replace(config, budget=BudgetConfig(updates=14))
    tracked = replace(config, measure=MeasureConfig(overhead=1.0, quantities=("critical_sharpness", "noise_scale")))
    runs = [trained(tmp_path / str(each is tracked), each) for each in (config, tracked)]
    weights = [run.load_weights(run.final_checkpoint()) for run in runs]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
    assert all("error" not in row for row in runs[1].measures())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": replace(CONFIG.data, label_noise=0.1)}, "data of classes for label_noise, got the text jargon"),
        ({"data": replace(CONFIG.data, flip=True)}, "data of classes for flip"),
        ({"training": replace(CONFIG.training, loss="square")}, "data of classes for loss = 'square'"),
        ({"training": replace(CONFIG.training, optimizer="signum")}, "one of adam, adamw, muon with beta2_half_life"),
        ({"training": replace(CONFIG.training, beta2=1.0)}, "beta2 from 0 to below 1"),
        ({"schedule": ScheduleConfig(kind="wsd", decay=0.0)}, "schedule.decay above 0 and up to 1"),
        ({"average": AverageConfig(kind="swa", horizons=(5.0,))}, "average.kind = 'ema' and average.horizons"),
        ({"average": AverageConfig(kind="ema", horizons=(0.5,))}, "of at least 1 update"),
        ({"data": replace(CONFIG.data, context=0)}, "a context from 1 to"),
        ({"data": replace(CONFIG.data, name="fashion_mnist_10k")}, "a context with a text"),
    ],
)
def test_what_does_not_go_with_a_text_is_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_config(replace(CONFIG, **changes))
    assert "\n" not in str(caught.value)
    assert set(OPTIMIZERS) >= set(OPTIMISERS)


# What is measured of it.


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_certified_eigenvalue_of_a_run_is_that_of_the_dense_hessian(tmp_path: Path, norm: Any) -> None:
    run = trained(tmp_path / "run", replace(CONFIG, model=ModelConfig("char_transformer_small", norm)))
    some = "blocks.0.norm1.*,norm.*,blocks.*.mlp.2.bias"  # few enough that their matrix can be written out
    loss = load_user_checkpoint(Request(parameters=some, dtype="float64", batch_size=5), run.path, CPU).subject.loss
    data = load_run_data(run.config())
    model = load_network(run, run.final_checkpoint(), data, CPU).double()
    for name, p in model.named_parameters():
        p.requires_grad_(name in loss.layout.names)
    case: Any = SimpleNamespace(criterion=F.cross_entropy, norm="frozen")
    batch = (data.train.inputs.double() / 255, data.train.targets)
    truth = torch.linalg.eigvalsh(dense_hessian(case, model, [batch], flatten(model)))
    result = TopEigenvalues(k=1, rtol=1e-6, confidence=0.999)(loss)
    assert 90 < len(truth) < 170 and result.value == pytest.approx(float(truth[-1]), rel=1e-6)
    assert result.lower is not None and result.upper is not None and result.confidence == 0.999
    assert result.lower <= float(truth[-1]) * (1 + 1e-9) and float(truth[-1]) <= result.upper * (1 + 1e-9)
