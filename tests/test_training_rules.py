"""Optimisers, schedules, averages and budgets against their formulas, in float64."""

from __future__ import annotations

import gc
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from sharpness.data import Dataset, Split, load_dataset
from sharpness.errors import InputError
from sharpness.loss.noise_scale import sgd_noise_scale, two_batch_estimates
from sharpness.models import MODELS, ModelInfo
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import check_config, schedules, train
from sharpness.training.averages import Average
from sharpness.training.loop import forward_backward, next_batch, one_update
from sharpness.training.noise import PieceNorms, RankNorms, square_of_gradient
from sharpness.training.order import Augmentation, TrainingBatch, epoch_order
from sharpness.training.position import Position
from sharpness.training.sam import at_worst_point, fixed_statistics
from sharpness.training.session import Session

CPU = torch.device("cpu")
SMALL = RunConfig(DataConfig(num_train=130, num_test=50, evaluation_batch_size=40), ModelConfig(name="f1_small"))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("fashion_mnist_10k", num_train=130, num_test=50)


def small(**training: Any) -> RunConfig:
    fields: dict[str, Any] = {"batch_size": 32, "epochs": 2} | training
    return replace(SMALL, training=TrainingConfig(**fields))


def trained(folder: Path, dataset: Dataset, config: RunConfig, **options: Any) -> tuple[RunFolder, dict[str, Any]]:
    run = RunFolder.create(folder, config)
    return run, train(config, dataset, run, CPU, **options)


def tiny_network(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, num_classes))


def tiny_session(num_train: int = 7, **training: Any) -> Session:
    """Return a run of a network of 5 inputs and 3 classes in float64, with all the examples in each batch."""
    images = torch.randint(0, 256, (num_train, 1, 1, 5), generator=torch.Generator().manual_seed(1)).byte()
    split = Split(images, torch.arange(num_train) % 3)
    dataset = Dataset(name="tiny", train=split, test=split, num_classes=3, sha256="", source="test")
    config = RunConfig(
        model=ModelConfig(name="tiny", norm="none"),
        training=TrainingConfig(**{"batch_size": num_train, "dtype": "float64", **training}),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", ModelInfo("for tests", tiny_network))
        return Session.open(config, dataset, RunFolder(Path("nowhere")), CPU)


def tiny_batch(session: Session, epoch: int = 1) -> TrainingBatch:
    return next_batch(session, Position(epoch=epoch), len(session.train))


def weights_of(session: Session) -> list[Tensor]:
    return [p.detach().clone() for p in session.parameters]


def gradients(model: nn.Module, data: TrainingBatch) -> list[Tensor]:
    loss = F.cross_entropy(model(data.inputs), data.targets)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def steps(count: int = 3, **training: Any) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Return the weights before each update and after the last, and the gradients there, by our code."""
    session, at = tiny_session(**training), Position()
    weights, slopes = [], []
    for _ in range(count):
        weights.append(weights_of(session))
        slopes.append(gradients(session.model, tiny_batch(session, at.epoch)))
        at = one_update(session, at)
    return [*weights, weights_of(session)], slopes


def follow(weights: list[list[Tensor]], slopes: list[list[Tensor]], rule: Any) -> None:
    """Compare each parameter's path with a rule that maps (w, g, state) to w, one parameter at a time."""
    for index in range(len(weights[0])):
        state: dict[str, Any] = {}
        for step, slope in enumerate(slopes):
            expected = rule(weights[step][index], slope[index], state)
            torch.testing.assert_close(weights[step + 1][index], expected, rtol=1e-12, atol=1e-14)


def test_sgd_momentum_and_nesterov_follow_their_formulas() -> None:
    m, rate, decay = 0.8, 0.1, 0.01
    for name in ("sgd", "momentum", "nesterov"):

        def rule(w: Tensor, g: Tensor, state: dict[str, Any], name: str = name) -> Tensor:
            g = g + decay * w
            if name == "sgd":
                return w - rate * g
            state["v"] = m * state["v"] + g if "v" in state else g
            return w - rate * (g + m * state["v"] if name == "nesterov" else state["v"])

        follow(*steps(optimizer=name, learning_rate=rate, momentum=m, weight_decay=decay), rule)


def test_adam_and_adamw_follow_their_formulas() -> None:
    rate, decay = 0.1, 0.01
    for name in ("adam", "adamw"):

        def rule(w: Tensor, g: Tensor, state: dict[str, Any], name: str = name) -> Tensor:
            if name == "adam":
                g = g + decay * w
            t = state["t"] = state.get("t", 0) + 1
            state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
            state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
            mean, square = state["m"] / (1 - 0.9**t), state["v"] / (1 - 0.999**t)
            kept = w * (1 - rate * decay) if name == "adamw" else w
            return kept - rate * mean / (square.sqrt() + 1e-8)

        follow(*steps(optimizer=name, learning_rate=rate, weight_decay=decay), rule)


def test_lars_follows_its_formula_and_its_step_is_as_long_as_the_weights_allow() -> None:
    m, rate, decay, trust = 0.9, 0.5, 0.01, 0.02

    def rule(w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        if w.ndim > 1:
            g = trust * w.norm() / (g.norm() + decay * w.norm()) * (g + decay * w)
        state["v"] = m * state.get("v", torch.zeros_like(w)) + rate * g
        return w - state["v"]

    follow(*steps(optimizer="lars", learning_rate=rate, momentum=m, weight_decay=decay, trust=trust), rule)
    weights, _ = steps(1, optimizer="lars", learning_rate=rate, momentum=0.0, trust=trust)
    for before, after in zip(*weights, strict=True):
        if before.ndim > 1:
            assert float((after - before).norm()) == pytest.approx(rate * trust * float(before.norm()), rel=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_the_gradient_at_its_worst_point_and_comes_back(adaptive: bool) -> None:
    rho, rate = 0.3, 0.1
    session = tiny_session()
    before, slopes = weights_of(session), gradients(session.model, tiny_batch(session))
    scales = [w.abs() + 0.01 if adaptive and w.ndim > 1 else torch.ones_like(w) for w in before]
    length = torch.sqrt(sum(((t * g) ** 2).sum() for t, g in zip(scales, slopes, strict=True)))  # type: ignore[arg-type]
    with torch.no_grad():
        for p, t, g in zip(session.parameters, scales, slopes, strict=True):
            p.add_(rho * t**2 * g / length)
    there = gradients(session.model, tiny_batch(session))
    (_, after), _ = steps(1, optimizer="sgd", learning_rate=rate, sam_rho=rho, sam_adaptive=adaptive)
    for w, g, new in zip(before, there, after, strict=True):
        torch.testing.assert_close(new, w - rate * g, rtol=1e-12, atol=1e-14)
    for p in session.parameters:
        p.grad = torch.zeros_like(p)
    with at_worst_point(session.parameters, rho, adaptive):  # a gradient of 0 has no worst direction
        assert all(bool(torch.isfinite(p).all()) for p in session.parameters)


def test_conservative_training_stays_near_and_its_inner_steps_are_those_of_the_formula() -> None:
    strength, rate = 0.7, 0.05
    (anchor, after), _ = steps(1, optimizer="sgd", learning_rate=rate, proximal=strength, proximal_steps=3)
    session = tiny_session()
    for _ in range(3):
        slopes = gradients(session.model, tiny_batch(session))
        with torch.no_grad():
            for p, g, at in zip(session.parameters, slopes, anchor, strict=True):
                p.sub_(rate * (g + strength * (p - at)))
    torch.testing.assert_close(weights_of(session), after, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_accumulated_gradients_are_those_of_one_batch(pieces: int) -> None:
    one, cut = (tiny_session(label_smoothing=0.1, accumulate=count) for count in (1, pieces))
    batch = tiny_batch(one)
    whole, parts = forward_backward(one, batch), forward_backward(cut, batch)
    for a, b in zip(one.parameters, cut.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-14)
    assert float(whole.loss) == pytest.approx(float(parts.loss), rel=1e-13) and whole.right == parts.right
    smooth = F.cross_entropy(one.model(batch.inputs), batch.targets, label_smoothing=0.1)
    assert float(whole.loss) == pytest.approx(float(smooth.detach()), rel=1e-13)


def test_the_noise_of_pieces_is_that_of_their_own_gradients() -> None:
    session = tiny_session(accumulate=2)  # pieces of 4 and 3
    session.norm_watch, data = PieceNorms(session.parameters), tiny_batch(session)
    parts = [TrainingBatch(data.inputs[part], data.targets[part]) for part in (slice(4), slice(4, 7))]
    squares = [sum(float((g**2).sum()) for g in gradients(session.model, part)) for part in parts]
    whole = sum(float((g**2).sum()) for g in gradients(session.model, data))
    for _ in range(2):  # what is taken is gone
        norms = forward_backward(session, data).norms
        assert norms is not None
        assert norms.small == pytest.approx(sum(squares) / 2, rel=1e-12)
        assert norms.large == pytest.approx(whole, rel=1e-12)
        assert (norms.small_size, norms.large_size) == (pytest.approx(2 / (1 / 4 + 1 / 3)), 7)
    single = TrainingBatch(data.inputs[:1], data.targets[:1])
    assert forward_backward(session, single).norms is None  # one example is one piece


def test_uneven_pieces_recover_a_planted_noise_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, draws = (1, 7), []
    for _ in range(4000):
        parts = [0.5 + torch.randn(size, 20, generator=generator, dtype=torch.float64) for size in sizes]
        small = sum(float((part.mean(0) ** 2).sum()) for part in parts) / 2
        large = float((torch.cat(parts).mean(0) ** 2).sum())
        draws.append(two_batch_estimates(small, large, 2 / (1 / 1 + 1 / 7), 8))
    for values, truth in zip(torch.tensor(draws, dtype=torch.float64).T, (5.0, 20.0), strict=True):
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 4000**0.5


def test_the_square_of_a_process_is_seen_on_the_way_to_the_average(tmp_path: Path) -> None:
    meeting = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        check_squares_of_one_process()
    finally:
        gc.collect()  # as sharpness.training.processes does, and for its reason
        torch.distributed.destroy_process_group()


def check_squares_of_one_process() -> None:
    session = tiny_session(accumulate=2)
    session.network = nn.parallel.DistributedDataParallel(session.model)
    session.norm_watch = RankNorms(session.network)
    for _ in range(2):  # what is taken is gone
        norms = forward_backward(session, tiny_batch(session)).norms
        square = pytest.approx(square_of_gradient(session.parameters), rel=1e-12)
        assert norms is not None and (norms.small, norms.large) == (square, square)


def test_the_two_batch_estimates_recover_a_planted_noise_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, spread, pieces, size = torch.full((20,), 0.5, dtype=torch.float64), 2.0, 4, 8
    draws = []
    for _ in range(4000):
        parts = mean + spread / size**0.5 * torch.randn(pieces, 20, generator=generator, dtype=torch.float64)
        small_square = float((parts**2).sum(1).mean())
        draws.append(two_batch_estimates(small_square, float((parts.mean(0) ** 2).sum()), size, pieces * size))
    squares, noises = torch.tensor(draws, dtype=torch.float64).T
    for values, truth in ((squares, 5.0), (noises, 80.0)):
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 4000**0.5
    with pytest.raises(InputError, match="below the large one"):
        two_batch_estimates(1.0, 1.0, 4, 4)


def test_long_gradients_are_scaled_down() -> None:
    (before, after), _ = steps(1, optimizer="sgd", learning_rate=1.0, clip_norm=1e-3)
    moved = torch.cat([(a - b).reshape(-1) for a, b in zip(before, after, strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)  # torch adds 1e-6 to the length


def test_a_second_pass_leaves_running_statistics_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double().train()
    inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model(inputs)
    before = {name: b.clone() for name, b in model.named_buffers()}
    with fixed_statistics(model):
        model(inputs + 1)
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())
    model(inputs + 1)
    assert not torch.equal(before["1.running_mean"], dict(model.named_buffers())["1.running_mean"])


def scheduled(**fields: Any) -> RunConfig:
    training = TrainingConfig(learning_rate=0.4, batch_size=10, epochs=10)
    return RunConfig(training=training, schedule=ScheduleConfig(**fields))


def rates(config: RunConfig, epochs: list[float], per_epoch: float = 10.0) -> list[float]:
    return [schedules.learning_rate(config, epoch, 10.0, per_epoch) for epoch in epochs]


def test_learning_rates_follow_their_formulas() -> None:
    assert rates(scheduled(), [0, 5.5, 10]) == [0.4, 0.4, 0.4]
    assert rates(scheduled(kind="steps", milestones=(3.0, 6.0), factor=0.5), [2.9, 3.0, 6.0]) == [0.4, 0.2, 0.1]
    assert rates(scheduled(kind="linear", final=0.1), [0, 5, 10]) == pytest.approx([0.4, 0.4 * 0.55, 0.04])
    assert rates(scheduled(kind="polynomial", power=2.0), [0, 5, 10]) == pytest.approx([0.4, 0.1, 0.0])
    cosine = [0.2 * (1 + math.cos(math.pi * e / 10)) for e in (0, 2.5, 10)]
    assert rates(scheduled(kind="cosine"), [0, 2.5, 10]) == pytest.approx(cosine)


def test_a_cycle_falls_from_near_its_top_to_its_bottom_and_one_of_one_update_is_constant() -> None:
    config = scheduled(kind="cyclic", cycle=0.5, final=0.25)  # 5 updates of 10 an epoch
    cycle = [0.4 * (1 - t + 0.25 * t) for t in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert rates(config, [i / 10 for i in range(10)]) == pytest.approx(cycle + cycle)
    assert rates(scheduled(kind="cyclic", cycle=0.1, final=0.25), [0.0, 0.1, 3.7]) == pytest.approx([0.1] * 3)
    last = [epoch + 156 * 64 / 10_000 for epoch in range(300)]  # the 157th update of each epoch ends a cycle
    assert rates(scheduled(kind="cyclic", final=0.01), last, 10_000 / 64) == pytest.approx([0.004] * 300)


def test_a_cycle_may_end_at_a_rate_of_0(tmp_path: Path, dataset: Dataset) -> None:
    config = replace(small(batch_size=65), schedule=ScheduleConfig(kind="cyclic"))
    run, manifest = trained(tmp_path, dataset, config)
    assert manifest["status"] == "finished"
    assert [(row["learning_rate"], row["g"]) for row in run.log()[1:]] == [(0.0, 0.0)] * 2


def test_warm_up_grows_at_each_update_and_ends_at_the_whole_rate() -> None:
    config = scheduled(warmup=2.0, warmup_from=0.25, kind="steps", milestones=(5.0,), factor=0.5)
    shares = [0.25 + 0.75 * (i + 1) / 20 for i in range(20)]
    assert rates(config, [i / 10 for i in range(20)]) == pytest.approx([0.4 * s for s in shares])
    assert rates(config, [1.9, 2.0, 5.0]) == pytest.approx([0.4, 0.4, 0.2])
    after = scheduled(warmup=2.0, kind="linear")
    assert rates(after, [2.0, 6.0, 10.0]) == pytest.approx([0.4, 0.2, 0.0])  # the decay begins where it ends


def test_scaling_rules_are_relative_to_the_base_batch() -> None:
    for rule, factor in (("none", 1.0), ("linear", 2.5), ("sqrt", 2.5**0.5)):
        config = scheduled(scaling=rule, base_batch=4)
        assert schedules.target_rate(config, 10) == pytest.approx(0.4 * factor)


def test_batch_sizes_grow_until_the_largest_and_then_the_rate_falls_instead() -> None:
    batch_config = BatchConfig(kind="steps", milestones=(2.0, 4.0, 6.0), factor=5.0, largest=1280)
    config = replace(scheduled(), batch=batch_config, training=TrainingConfig(learning_rate=0.4, batch_size=128))
    epochs = [0.0, 2.0, 4.0, 6.0]
    assert [schedules.batch_size(config, e) for e in epochs] == [128, 640, 1280, 1280]
    assert rates(config, epochs) == pytest.approx([0.4, 0.4, 0.4 / 2.5, 0.4 / 12.5])
    # The noise scale falls by the factor at each milestone, however it is done (Smith et al. 2018, section 3).
    noise = [
        sgd_noise_scale(rate, schedules.batch_size(config, e), 10**9)
        for e, rate in zip(epochs, rates(config, epochs), strict=True)
    ]
    assert [a / b for a, b in itertools.pairwise(noise)] == pytest.approx([5.0] * 3, rel=1e-5)


def test_update_counts_are_those_of_the_published_schedules() -> None:
    # Smith et al. 2018, Figure 5: 50,000 examples, steps at 60, 120 and 160 of 200 epochs, at most 5,120 in a batch.
    def updates(first: int, milestones: tuple[float, ...], factor: float, epochs: int) -> int:
        batch_config = BatchConfig(kind="steps", milestones=milestones, factor=factor, largest=5120)
        config = RunConfig(training=TrainingConfig(batch_size=first), batch=batch_config)
        return sum(math.ceil(50_000 / schedules.batch_size(config, float(epoch))) for epoch in range(epochs))

    assert updates(128, (), 5.0, 200) == 391 * 200
    assert updates(128, (60.0, 120.0, 160.0), 5.0, 200) == 60 * 391 + 60 * 79 + 40 * 16 + 40 * 10
    assert updates(640, (60.0, 120.0, 160.0), 5.0, 200) == 60 * 79 + 60 * 16 + 80 * 10


def test_decays_are_stretched_over_the_budget_that_ends_first() -> None:
    config = replace(scheduled(), budget=BudgetConfig(updates=25))
    assert schedules.total_epochs(config, 100) == 2.5
    growing = replace(config, batch=BatchConfig(kind="steps", milestones=(1.0,), factor=2.0))
    assert schedules.total_epochs(growing, 100) == 4.0  # 10 updates of 10, then 15 of 20
    measured = replace(config, batch=BatchConfig(kind="noise_scale"))
    assert schedules.total_epochs(measured, 100) == 10.0  # how long 25 updates take is not known
    examples = replace(scheduled(), budget=BudgetConfig(examples=50))
    assert schedules.total_epochs(examples, 100) == 0.5


def test_averages_are_the_arithmetic_and_the_exponential_mean() -> None:
    model = nn.Linear(3, 2)
    swa, ema = Average(AverageConfig(kind="swa", start=2.0, every=0.5)), Average(AverageConfig(kind="ema", decay=0.9))
    seen, by_hand = [], None
    for step in range(40):
        torch.manual_seed(step)
        model.weight.data.normal_()
        before, now = step / 10, (step + 1) / 10
        swa.after_update(model, before, now)
        ema.after_update(model, before, now)
        if step + 1 in (20, 25, 30, 35, 40):
            seen.append(model.weight.detach().double().clone())
        w = model.weight.detach().double()
        by_hand = w if by_hand is None else 0.9 * by_hand + 0.1 * w
    torch.testing.assert_close(swa.weights["weight"], torch.stack(seen).mean(0), rtol=1e-12, atol=1e-14)
    assert swa.count == 5 and by_hand is not None
    torch.testing.assert_close(ema.weights["weight"], by_hand, rtol=1e-12, atol=1e-14)


def test_images_are_shifted_and_mirrored_by_what_their_position_draws() -> None:
    images = torch.randint(1, 256, (40, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    varied = Augmentation(DataConfig(crop_padding=2, flip=True), 0, 1, 40)
    whole = varied(images, 0)
    torch.testing.assert_close(torch.cat([varied(images[:7], 0), varied(images[7:20], 7)]), whole[:20])
    assert varied.mirrored is not None and 5 < int(varied.mirrored.sum()) < 35
    for i in range(40):
        expected = F.pad(images[i], (2, 2, 2, 2))
        row, column = varied.shifts[i].tolist()
        expected = expected[:, row : row + 5, column : column + 4]
        assert torch.equal(whole[i], expected.flip(2) if varied.mirrored[i] else expected)
    assert set(varied.shifts.flatten().tolist()) == {0, 1, 2, 3, 4}
    other = Augmentation(DataConfig(crop_padding=2, flip=True), 0, 2, 40)
    assert not torch.equal(other(images, 0), whole)
    assert sorted(epoch_order(3, 1, 40).tolist()) == list(range(40))


def test_budgets_end_a_run_where_they_are_used_up(tmp_path: Path, dataset: Dataset) -> None:
    for name, budget, step, ended in (
        ("updates", BudgetConfig(updates=7), 7, "updates"),
        ("examples", BudgetConfig(examples=100), 4, "examples"),
        ("epochs", BudgetConfig(), 10, "epochs"),
    ):
        run, manifest = trained(tmp_path / name, dataset, replace(small(), budget=budget))
        assert (manifest["step"], manifest["ended_by"]) == (step, ended)
        rows = run.log()
        assert rows[-1]["step"] == step and [row["step"] for row in rows] == sorted({row["step"] for row in rows})
        assert rows[-1]["epoch"] == pytest.approx(manifest["epochs_done"])
        assert rows[-1]["g"] == pytest.approx(1e-3 * (130 / 32 - 1))
        assert (run.path / f"checkpoint-{step}.safetensors").exists()


def test_goals_end_a_run_with_the_steps_to_the_result(tmp_path: Path, dataset: Dataset) -> None:
    goal = BudgetConfig(train_loss=0.8, check_every=2)
    run, manifest = trained(tmp_path / "loss", dataset, replace(small(epochs=20), budget=goal))
    assert manifest["ended_by"] == "train_loss" and manifest["reached"] <= 0.8
    assert manifest["steps_to_result"] == manifest["step"] and manifest["step"] % 2 == 0
    assert manifest["final"]["train_loss"] == pytest.approx(manifest["reached"], rel=1e-6)
    earlier, _ = trained(
        tmp_path / "before", dataset, replace(small(epochs=20), budget=BudgetConfig(updates=manifest["step"] - 2))
    )
    final = (earlier.manifest() or {})["final"]
    assert final["train_loss"] > 0.8  # it was not reached at the look before
    held_out = replace(small(epochs=30), data=replace(SMALL.data, num_validation=30), budget=BudgetConfig(error=0.5))
    run, manifest = trained(tmp_path / "error", dataset, held_out)
    assert manifest["ended_by"] == "error" and manifest["reached"] <= 0.5
    assert 1 - manifest["final"]["validation_accuracy"] == pytest.approx(manifest["reached"])
    assert run.log()[-1]["epoch"] < 30


def test_held_out_examples_are_not_among_those_that_a_run_is_measured_on() -> None:
    config = replace(SMALL, data=replace(SMALL.data, num_validation=30))
    cut, whole = load_run_data(config), load_run_data(SMALL)
    assert (len(cut.train), len(whole.train)) == (100, 130) and cut.held_out is not None and whole.held_out is None
    assert torch.equal(torch.cat([cut.train.targets, cut.held_out.targets]), whole.train.targets)
    assert cut.holding_out(30) is cut and cut.sha256 == whole.sha256
    with pytest.raises(InputError, match="expected 20 held-out examples, got a dataset with 30"):
        cut.holding_out(20)


def test_training_ends_when_the_loss_ceases_to_improve(tmp_path: Path, dataset: Dataset) -> None:
    config = replace(small(epochs=50, learning_rate=1e-12), budget=BudgetConfig(patience=3, min_fall=0.01))
    run, manifest = trained(tmp_path / "run", dataset, config)
    assert manifest["ended_by"] == "patience" and run.log()[-1]["epoch"] == 4


def test_averaged_weights_are_written_with_statistics_of_the_data(tmp_path: Path, dataset: Dataset) -> None:
    config = replace(
        small(epochs=3), average=AverageConfig(kind="swa", start=1.0), measure=MeasureConfig(keep_every=1.0)
    )
    config = replace(config, model=replace(config.model, norm="running"))
    run, manifest = trained(tmp_path / "run", dataset, config)
    kept = [run.load_weights(f"checkpoint-{step}") for step in (5, 10, 15)]
    average = run.load_weights(manifest["average"]["name"])
    for name in ("1.weight", "2.bias", "7.weight"):
        mean = torch.stack([weights[name].double() for weights in kept]).mean(0)
        torch.testing.assert_close(average[name].double(), mean, rtol=1e-6, atol=1e-8)
    first = nn.functional.linear(
        dataset.train.inputs.flatten(1).double() / 255, average["1.weight"].double(), average["1.bias"].double()
    )
    torch.testing.assert_close(average["2.running_mean"].double(), first.mean(0), rtol=1e-5, atol=1e-6)
    assert manifest["average"]["averaged"] == 3 and 0 < manifest["average"]["test_accuracy"] < 1


def test_measurements_are_taken_at_their_epochs(tmp_path: Path, dataset: Dataset) -> None:
    names = ("eigenvalue", "noise_scale", "distance")
    config = replace(small(epochs=2), measure=MeasureConfig(names=names, every=0.5, examples=60))
    run, _ = trained(tmp_path / "run", dataset, config, measure=lambda step, w: {"length": float(w.norm())})
    rows = run.measures()
    assert [row["step"] for row in rows] == [3, 5, 8, 10]
    first, last = rows[0], rows[-1]
    assert first["distance_from_start"] < last["distance_from_start"] and last["length"] > 0
    assert last["edge"] == 2000.0 and last["top_eigenvalue"] > 0 and last["top_eigenvalue_hvps"] >= 1
    from sharpness.probes import TopEigenvalues
    from sharpness.runs.networks import evaluation_batches, load_network, network_loss

    model = load_network(run, run.final_checkpoint(), dataset, CPU)
    loss = network_loss(config, model, evaluation_batches(config, dataset.train.first(60)))
    assert last["top_eigenvalue"] == pytest.approx(TopEigenvalues(rtol=1e-3)(loss).value, rel=2e-2)
    assert all(row["noise_scale"] is None or row["noise_scale"] > 0 for row in rows) and "gradient_noise" in last


def test_the_batch_follows_the_measured_noise_scale(tmp_path: Path, dataset: Dataset) -> None:
    measure = MeasureConfig(names=("noise_scale",), every=0.5, examples=60)
    batch_config = BatchConfig(kind="noise_scale", ratio=4.0, every=1.0, largest=60)
    config = replace(small(epochs=3, batch_size=20), measure=measure, batch=batch_config)
    run, _ = trained(tmp_path / "run", dataset, config)
    scales = {row["epoch"]: row["noise_scale"] for row in run.measures()}
    for row in run.log()[2:]:
        simple = scales[row["epoch"] - 1]
        asked = 20 if simple is None else min(60, max(2, round((4.0 * simple) ** 0.5)))
        assert row["batch_size"] == asked


def test_a_warm_start_begins_at_the_weights_of_another_run(tmp_path: Path, dataset: Dataset) -> None:
    first, _ = trained(tmp_path / "first", dataset, small(epochs=1))
    second, _ = trained(tmp_path / "second", dataset, small(epochs=1, start="first/checkpoint-5.safetensors"))
    assert second.load_weights("x0").keys() == first.load_weights("x0").keys()
    assert torch.equal(second.load_weights("x0")["1.weight"], first.load_weights("checkpoint-5")["1.weight"])
    last, _ = trained(tmp_path / "last", dataset, small(epochs=1, start="first"))
    final = first.load_weights(first.final_checkpoint())
    assert torch.equal(last.load_weights("x0")["1.weight"], final["1.weight"])
    with pytest.raises(InputError, match="weights of this network to start from"):
        trained(tmp_path / "third", dataset, small(start="nowhere.safetensors"))


def test_float64_and_autocast_are_what_they_say(tmp_path: Path, dataset: Dataset) -> None:
    double, _ = trained(
        tmp_path / "double",
        dataset,
        small(epochs=1, batch_size=65, optimizer="sgd", learning_rate=0.1, dtype="float64"),
    )
    assert double.load_weights("checkpoint-2")["1.weight"].dtype == torch.float64
    single, _ = trained(
        tmp_path / "single",
        dataset,
        small(epochs=1, batch_size=65, optimizer="sgd", learning_rate=0.1, dtype="float32"),
    )
    low, _ = trained(
        tmp_path / "low",
        dataset,
        small(epochs=1, batch_size=65, optimizer="sgd", learning_rate=0.1, autocast="bfloat16"),
    )
    weights = [run.load_weights("checkpoint-2")["1.weight"].double() for run in (double, single, low)]
    errors = [float((w - weights[0]).norm() / weights[0].norm()) for w in weights[1:]]
    assert errors[0] < 1e-2 and errors[0] < errors[1] < 0.5


def test_tf32_is_on_while_a_run_trains_and_what_it_was_afterwards(tmp_path: Path, dataset: Dataset) -> None:
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv)
    before, seen = [switch.fp32_precision for switch in switches], []

    def look(step: int, w: Tensor) -> None:
        seen.append([switch.fp32_precision for switch in switches])

    trained(tmp_path / "run", dataset, small(epochs=1, tf32=True), measure=look)
    assert seen == [["tf32", "tf32"]] and [switch.fp32_precision for switch in switches] == before


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_weights(tmp_path: Path, dataset: Dataset) -> None:
    weights = []
    for compiled in (False, True):
        config = replace(small(epochs=1, batch_size=65, compile=compiled, dtype="float64"))
        config = replace(config, model=replace(config.model, name="smith_le", norm="none"))
        run, _ = trained(tmp_path / str(compiled), dataset, config)
        weights.append(run.load_weights(run.final_checkpoint()))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": TrainingConfig(optimizer="sdg")}, "unknown optimizer"),
        ({"training": TrainingConfig(accumulate=2)}, "accumulate = 1 with norm = 'batch'"),
        (
            {
                "model": ModelConfig("f1_small", "running", ghost_batch=24),
                "training": TrainingConfig(batch_size=64, accumulate=2),
            },
            "pieces of whole ghost batches of 24, got 32 of 64 examples",
        ),
        ({"training": TrainingConfig(learning_rate=0.0)}, "positive learning_rate"),
        ({"training": TrainingConfig(momentum=1.0)}, "momentum from 0 to below 1"),
        ({"training": TrainingConfig(sam_rho=0.1, proximal=0.1)}, "got both"),
        ({"training": TrainingConfig(epochs=0)}, "got no bound"),
        ({"training": TrainingConfig(batch_size=200)}, "at most the 130"),
        ({"training": TrainingConfig(batch_size=43)}, "batch of 1"),
        (
            {
                "training": TrainingConfig(batch_size=10),
                "batch": BatchConfig(kind="steps", milestones=(1.0,), factor=4.3),
            },
            "batch of 1",
        ),
        ({"training": TrainingConfig(seed=-1)}, "seed from 0"),
        ({"training": TrainingConfig(clip_norm=0.0)}, "positive clip_norm"),
        ({"schedule": ScheduleConfig(milestones=(1.0,))}, "kind = 'steps' with milestones"),
        ({"schedule": ScheduleConfig(warmup=-1.0)}, "schedule.warmup of at least 0"),
        ({"batch": BatchConfig(kind="noise_scale")}, "noise_scale for batch"),
        ({"measure": MeasureConfig(names=("trace",))}, "unknown measure"),
        ({"data": replace(SMALL.data, num_validation=130)}, "beside the 130 held out"),
        ({"average": AverageConfig(decay=1.0)}, "decay from 0 to below 1"),
    ],
)
def test_configs_that_cannot_be_trained_are_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_config(replace(SMALL, **changes))
    assert "\n" not in str(caught.value)
