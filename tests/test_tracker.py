"""The tracker: its numbers against dense matrices and the optimisers' own steps, its budget, what it leaves alone."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sharpness as sh
from sharpness.files import read_jsonl
from sharpness.machine.random_states import seed_everything
from sharpness.training.signum import Signum
from sharpness.training.tracker import QUANTITIES, clock, plan, quantities
from sharpness.training.tracker import tracker as module
from sharpness.training.tracker.stepping import Stepping
from tests.alive import tensors_from_here
from tests.conftest import run_python

Batch = tuple[Tensor, Tensor]


class Time:
    """A clock that stands still but for what a test says has passed."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of the trackers in a test: measurements take no time unless the test lets it pass.

    With an overhead of 1 they are then made at every step, once a first guess of their cost is paid for.
    """
    now = Time()
    monkeypatch.setattr(clock, "time", now)
    return now


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))


def plain(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch_of(number: int, size: int = 12, width: int = 6, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(size, width, generator=generator, dtype=dtype)
    return inputs, torch.randint(3, (size,), generator=generator)


SGD = torch.optim.SGD
ADAM = torch.optim.Adam
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "dampened": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "dampening alone": lambda p: SGD(p, lr=0.1, dampening=0.5),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "decayed": lambda p: SGD(p, lr=0.1, momentum=0.5, weight_decay=0.1),
    "adam": lambda p: ADAM(p, lr=1e-2),
    "adam decayed": lambda p: ADAM(p, lr=1e-2, weight_decay=0.1),
    "amsgrad": lambda p: ADAM(p, lr=1e-2, amsgrad=True, betas=(0.8, 0.9)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0, eps=1e-3),
    "signum": lambda p: Signum(p, lr=1e-2, momentum=0.7),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[..., object], steps: int = 40) -> None:
    model.train()
    for number in range(steps):
        inputs, targets = batch_of(number)
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        random.random()  # a loop that draws from all generators
        np.random.rand()  # noqa: NPY002
        step(inputs, targets)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    grads = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    states = {
        f"{number} {name}": value
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    flags = torch.tensor([module.training for module in model.modules()])
    draws = torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])  # noqa: NPY002
    return {**model.state_dict(), **grads, **states, "flags": flags, "draws": draws, "count": len(optimizer.state)}


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_training_has_the_same_bits_with_a_tracker_and_without(name: str, time: Time) -> None:
    states, rows = [], list[dict[str, Any]]()
    for tracked in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        seed_everything(1)
        tracker = sh.Tracker(model, cross_entropy, optimizer, overhead=1, sink=rows.append)

        def step(*batch: Tensor, tracker: sh.Tracker = tracker, tracked: bool = tracked) -> None:
            time.now += 1.0
            if tracked:
                tracker.step(*batch)

        train(model, optimizer, step)
        states.append(state_of(model, optimizer))
    assert {key.removesuffix("_reason") for row in rows for key in row} >= set(QUANTITIES) - (
        set() if name == "adam" else {"preconditioned_sharpness"}
    )
    assert all(torch.equal(torch.as_tensor(states[0][key]), torch.as_tensor(states[1][key])) for key in states[0])
    assert states[0].keys() == states[1].keys()
    assert all(row[key] is not None or f"{key}_reason" in row for row in rows for key in row)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_update_is_the_step_that_the_optimiser_takes(name: str) -> None:
    model = plain()
    optimizer = OPTIMIZERS[name]([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 3e-3}])
    for number in range(4):
        batch = batch_of(number, width=4, dtype=torch.float64)
        parameters = dict(model.named_parameters())
        stepping = Stepping.of(optimizer, parameters, None)
        loss = sh.Loss(model, cross_entropy, [batch], weight_decay=stepping.penalty, dtype=torch.float64)
        before, update = loss.weights, stepping.next_update(loss.grad(loss.weights))
        optimizer.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
        assert stepping.rate == max(group["lr"] for group in optimizer.param_groups)
        assert torch.allclose((before - sh.flatten(model)) / stepping.rate, update, rtol=1e-9, atol=1e-12)


def test_a_clipped_gradient_gives_the_clipped_step() -> None:
    model = plain()
    optimizer, batch = SGD(model.parameters(), lr=0.1), batch_of(0, width=4, dtype=torch.float64)
    loss = sh.Loss(model, cross_entropy, [batch], dtype=torch.float64)
    update = Stepping.of(optimizer, dict(model.named_parameters()), 0.01).next_update(loss.grad(loss.weights))
    assert float(update.norm()) == pytest.approx(0.01)


def dense_hessian(model: nn.Module, batch: Batch) -> Tensor:
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def value(w: Tensor) -> Tensor:
        pieces = w.split([shape.numel() for shape in shapes])
        named = {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        return cross_entropy(torch.func.functional_call(model, named, (batch[0],)), batch[1])

    return torch.autograd.functional.hessian(value, sh.flatten(model))  # pyright: ignore[reportReturnType]


def stand_still(tracker: sh.Tracker, time: Time, batch: Batch, steps: int = 60) -> None:
    for _ in range(steps):
        time.now += 1.0
        tracker.step(*batch)


def tracked(optimizer_of: Callable[[Any], torch.optim.Optimizer], time: Time, **options: Any) -> tuple[Any, ...]:
    """Return the last row of each quantity along a training that stands still, with its model and optimiser."""
    model = plain()
    optimizer, batch = optimizer_of(model.parameters()), batch_of(7, size=48, width=4, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    tracker, rows = (
        sh.Tracker(model, cross_entropy, optimizer, overhead=1, sink=None, **options),
        dict[str, dict[str, Any]](),
    )
    for _ in range(60):
        time.now += 1.0
        row = tracker.step(*batch)
        if row is not None:
            rows |= {name: row for name in row if name in QUANTITIES}
    return model, optimizer, batch, rows


def test_the_numbers_are_those_of_dense_matrices(time: Time) -> None:
    model, optimizer, batch, rows = tracked(OPTIMIZERS["amsgrad"], time)
    hessian = dense_hessian(model, batch)
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    found = rows["top_eigenvalue"]
    assert found["examples"] == 192 and found["top_eigenvalue"] == pytest.approx(top, rel=0.02)  # of equal batches
    assert found["top_eigenvalue"] <= top * (1 + 1e-9) and found["top_eigenvalue_residual"] <= 0.1 * top

    state = [optimizer.state[p] for p in model.parameters()]
    v = torch.cat([each["max_exp_avg_sq"].flatten() for each in state])
    step = int(state[0]["step"])
    p = (1 - 0.8**step) * ((v / (1 - 0.9**step)).sqrt() + 1e-8)
    preconditioned = float(torch.linalg.eigvalsh(hessian / (p.sqrt()[:, None] * p.sqrt()))[-1])
    row = rows["preconditioned_sharpness"]
    assert row["preconditioned_sharpness"] == pytest.approx(preconditioned, rel=0.02)
    edge = 2 * (1 + 0.8) / (1 - 0.8) / 1e-2
    assert row["preconditioned_sharpness_to_edge"] == pytest.approx(row["preconditioned_sharpness"] / edge)

    loss = sh.Loss(model, cross_entropy, [batch], dtype=torch.float64)
    g = loss.grad(loss.weights)
    d = Stepping.of(optimizer, dict(model.named_parameters()), None).next_update(g)
    along = rows["directional_sharpness"]
    assert along["directional_sharpness"] == pytest.approx(float(d @ hessian @ d / (d @ g)))
    assert along["directional_sharpness_to_edge"] == pytest.approx(along["directional_sharpness"] * 1e-2 / 2)
    assert rows["batch_sharpness"]["batch_sharpness"] == pytest.approx(float(g @ hessian @ g / (g @ g)))

    halves = [cross_entropy(model(x), y) for x, y in zip(batch[0].split(24), batch[1].split(24), strict=True)]
    small = [torch.cat([p.flatten() for p in torch.autograd.grad(half, list(model.parameters()))]) for half in halves]
    noise = (sum(float(each @ each) for each in small) / 2 - float(g @ g)) / (1 / 24 - 1 / 48)
    assert rows["noise_scale"]["gradient_noise"] == pytest.approx(noise)
    critical = sh.CriticalSharpness(tol=1e-4)(loss, update=d).value
    assert rows["critical_sharpness"]["critical_sharpness"] == pytest.approx(critical, rel=1 / 16)
    assert all(row["learning_rate"] == 1e-2 and row["overhead"] == 0 for row in rows.values())


EDGES = {"sgd": 2.0, "momentum": 3.8, "dampened": 7.6, "dampening alone": 2.0, "nesterov": 3.8 / 2.8}


@pytest.mark.parametrize(("name", "edge"), EDGES.items())
def test_a_quadratic_is_stable_up_to_the_edge_of_its_optimiser(name: str, edge: float) -> None:
    # The sharpest direction of a quadratic decays below the edge of the rule and grows above it.
    grows = []
    for factor in (0.95, 1.05):
        w = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = OPTIMIZERS[name]([w])
        found, why = Stepping.of(optimizer, {"w": w}, None).of_hessian()
        assert found is not None and found == pytest.approx(edge / 0.1) and not why
        for _ in range(400):
            optimizer.zero_grad()
            (factor * found / 2 * w.square().sum()).backward()
            optimizer.step()
        grows.append(abs(float(w.detach())) > 1)
    assert grows == [False, True]


def test_a_ratio_that_is_not_known_has_its_reason(time: Time) -> None:
    *_, rows = tracked(lambda p: torch.optim.RMSprop(p, lr=1e-4), time)
    assert "preconditioned_sharpness" not in rows
    for name, word in (("top_eigenvalue", "RMSprop"), ("critical_sharpness", "RMSprop"), ("batch_sharpness", "SGD")):
        assert rows[name][name] > 0
        assert rows[name][f"{name}_to_edge"] is None and word in rows[name][f"{name}_to_edge_reason"]
    *_, rows = tracked(lambda p: SGD(p, lr=0.0), time, quantities=["top_eigenvalue", "critical_sharpness"])
    assert all("rate is 0" in row[f"{name}_to_edge_reason"] for name, row in rows.items()) and len(rows) == 2
    *_, rows = tracked(lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=1.0), time, quantities=["top_eigenvalue"])
    assert "a dampening of 1" in rows["top_eigenvalue"]["top_eigenvalue_to_edge_reason"]
    *_, rows = tracked(OPTIMIZERS["momentum"], time, quantities=["batch_sharpness"])
    assert "by the batch size" in rows["batch_sharpness"]["batch_sharpness_to_edge_reason"]


def costing(time: Time, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str, int], float]) -> None:
    """Let every quantity take what a function of its name and examples says, and nothing else."""

    def costly(name: str) -> Callable[[quantities.Point], dict[str, Any]]:
        def measure(at: quantities.Point) -> dict[str, Any]:
            time.now += seconds(name, at.loss.num_examples)
            return {name: 1.0}

        return measure

    known = {name: replace(each, measure=costly(name)) for name, each in QUANTITIES.items()}
    for place in (plan, module):
        monkeypatch.setattr(place, "QUANTITIES", known)


@pytest.mark.parametrize("overhead", [0.01, 0.05, 0.2])
def test_it_spends_what_was_asked_for_and_no_more(overhead: float, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {name: 3.0 + number for number, name in enumerate(QUANTITIES)}
    costing(time, monkeypatch, lambda name, _: costs[name])
    model = plain(torch.float32)
    tracker = sh.Tracker(model, cross_entropy, ADAM(model.parameters()), overhead=overhead, sink=None)
    for _ in range(5000):
        time.now += 1.0
        tracker.step(*batch_of(0, width=4))
    spent, trained = tracker.clock.spent, tracker.clock.trained
    assert trained == 5000 - clock.WARM_UP - 1
    assert overhead * trained - max(costs.values()) < spent <= overhead * trained
    assert all(row["overhead"] <= overhead for row in tracker.rows[len(QUANTITIES) :])  # their costs are known by then
    turns = [next(name for name in QUANTITIES if name in row) for row in tracker.rows]
    assert turns == [list(QUANTITIES)[i % len(QUANTITIES)] for i in range(len(turns))]


def test_a_loop_can_say_that_it_did_something_else(time: Time) -> None:
    model = plain(torch.float32)
    tracker = sh.Tracker(model, cross_entropy, SGD(model.parameters(), lr=0.1), sink=None)
    stand_still(tracker, time, batch_of(0, width=4), 10)
    time.now += 0.5
    tracker.clock.resume()
    stand_still(tracker, time, batch_of(0, width=4), 10)
    assert tracker.clock.trained == 20 - clock.WARM_UP - 1


def test_the_first_steps_and_pauses_buy_nothing(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    costing(time, monkeypatch, lambda *_: 1.0)
    model = plain(torch.float32)
    tracker = sh.Tracker(model, cross_entropy, SGD(model.parameters(), lr=0.1), sink=None)
    for number in range(100):
        time.now += 1000.0 if number < clock.WARM_UP or number == 60 else 1.0
        tracker.step(*batch_of(0, width=4))
    assert tracker.clock.trained == pytest.approx(100 - clock.WARM_UP - 1)
    assert len(tracker.rows) <= 4


@pytest.mark.parametrize(("a_example", "share"), [(1e-3, 4.0), (0.05, 0.5), (1.0, 0.125)])
def test_costly_quantities_get_a_share_of_the_batch(
    a_example: float, share: float, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    costing(time, monkeypatch, lambda name, examples: a_example * examples)
    model = plain(torch.float32)
    options: dict[str, Any] = {"quantities": ["top_eigenvalue", "critical_sharpness"], "overhead": 0.5, "sink": None}
    tracker = sh.Tracker(model, cross_entropy, SGD(model.parameters(), lr=0.1), **options)
    for _ in range(3000):
        time.now += 0.5
        tracker.step(*batch_of(0, size=400, width=4))
    kept, current = ([row["examples"] for row in tracker.rows if name in row] for name in options["quantities"])
    assert kept[0] == current[0] == 100 and kept[-1] == 400 * share and current[-1] == 400 * min(share, 1)
    rounds = [b["step"] - a["step"] for a, b in zip(tracker.rows[-5:], tracker.rows[-3:], strict=False)]
    assert share == 0.125 or max(rounds) <= 2 * plan.PERIOD


def test_no_graph_outlives_a_measurement(time: Time) -> None:
    model = network()
    optimizer = ADAM(model.parameters())
    tracker, counts = sh.Tracker(model, cross_entropy, optimizer, overhead=1, sink=None), list[int]()

    def step(*batch: Tensor) -> None:
        time.now += 1.0
        tracker.step(*batch)

    def counted(*batch: Tensor) -> None:
        step(*batch)
        counts.append(len(tensors()))

    train(model, optimizer, step, 20)
    tensors = tensors_from_here()
    gc.disable()
    try:
        train(model, optimizer, counted, 20)
    finally:
        gc.enable()
    names = len({name for row in tracker.rows for name in row if name in QUANTITIES})
    assert counts[-1] == counts[-1 - names] == counts[-1 - 2 * names]  # without a search for garbage


def test_a_measurement_that_fails_is_a_row_with_the_reason(time: Time, tmp_path: Path) -> None:
    model = plain(torch.float32)
    optimizer, failing = SGD(model.parameters(), lr=0.1), False

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        if failing:
            raise KeyError("no such thing")
        return cross_entropy(output, target)

    path = tmp_path / "new" / "track.jsonl"
    tracker = sh.Tracker(model, criterion, optimizer, overhead=1, sink=path)
    for number in range(40):
        failing = 20 < number < 30
        if number == 30:
            nn.init.constant_(model[0].weight, float("nan"))  # pyright: ignore[reportArgumentType]
        time.now += 1.0
        tracker.step(*batch_of(0, width=4))
    rows = read_jsonl(path)
    assert rows == tracker.rows and len(rows) > 15
    reasons = {reason for row in rows for key, reason in row.items() if key.endswith("sharpness_reason")}
    assert "KeyError: 'no such thing'" in reasons and any("NaN" in reason for reason in reasons)


class OwnLoss(nn.Module):
    """A model that takes named inputs and returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": cross_entropy(self.layer(inputs), labels)}


def test_a_batch_may_be_a_dict_that_the_loop_fills_anew(time: Time) -> None:
    model = OwnLoss()
    inputs, labels = batch_of(0, width=4)
    batch = {"inputs": inputs.clone(), "labels": labels}
    optimizer = SGD(model.parameters(), lr=0.1)
    tracker = sh.Tracker(model, None, optimizer, overhead=1, quantities=["top_eigenvalue"], sink=None)
    for _ in range(40):
        time.now += 1.0
        tracker.step(batch)
    batch["inputs"].zero_()
    time.now += 1.0
    row = tracker.step(batch, step=1234, tokens=5)
    copies = [{"inputs": inputs, "labels": labels}] * 4
    assert row is not None and row["step"] == 1234 and row["tokens"] == 5 and row["examples"] == 48
    value = sh.TopEigenvalues()(sh.Loss(model, None, copies)).value
    assert row["top_eigenvalue"] == pytest.approx(value, rel=0.02)  # of the examples as they were


def test_a_compiled_or_wrapped_network_and_a_frozen_part_are_seen_through(time: Time) -> None:
    model = plain(torch.float32)
    model[0].requires_grad_(False)
    wrapped = nn.DataParallel(model)
    optimizer = SGD(model[2].parameters(), lr=0.1)
    tracker = sh.Tracker(wrapped, cross_entropy, optimizer, overhead=1, quantities="top_eigenvalue", sink=None)
    for number in range(60):
        if number == 50:  # unfrozen, as fine-tuning does
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters())})
        time.now += 1.0
        tracker.step(*batch_of(0, width=4))
    before, after = tracker.rows[5]["top_eigenvalue"], tracker.rows[-1]["top_eigenvalue"]
    loss = sh.Loss(model, cross_entropy, [batch_of(0, width=4)])
    assert before == pytest.approx(sh.TopEigenvalues()(loss.restricted("2.*")).value, rel=0.02)
    assert after == pytest.approx(sh.TopEigenvalues()(loss).value, rel=0.02)


def without_rate() -> torch.optim.Optimizer:
    optimizer = SGD(plain(torch.float32).parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    return optimizer


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "no rate": ({"optimizer": without_rate}, "expected a learning rate in every group of the optimizer, got none"),
    "no optimiser": ({"optimizer": lambda: None}, "expected a torch.optim.Optimizer, got NoneType"),
    "another model": ({"optimizer": lambda: SGD(network().parameters())}, "an optimizer of this model's parameters"),
    "overhead": ({"overhead": 5}, "expected an overhead above 0 and up to 1, got 5: 0.05"),
    "quantity": ({"quantities": ["sharpness"]}, "unknown quantity 'sharpness': expected one of"),
    "nothing": ({"quantities": []}, "expected at least one quantity"),
    "not Adam": ({"quantities": ["preconditioned_sharpness"]}, "expected Adam or AdamW for preconditioned_sharpness"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str) -> None:
    given, message = BAD[case]
    model = plain(torch.float32)
    optimizer = given.get("optimizer", lambda: SGD(model.parameters(), lr=0.1))()
    options = {name: value for name, value in given.items() if name != "optimizer"}
    with pytest.raises(sh.InputError, match=message.replace(".", r"\.")) as error:
        sh.Tracker(model, cross_entropy, optimizer, sink=None, **options)
    assert "\n" not in str(error.value)


def test_parameters_that_change_their_shapes_are_refused(time: Time) -> None:
    model = plain(torch.float32)
    tracker = sh.Tracker(model, cross_entropy, SGD(model.parameters(), lr=0.1), overhead=1, sink=None)
    stand_still(tracker, time, batch_of(0, width=4))
    model[2] = nn.Linear(5, 7)
    time.now += 1.0
    with pytest.raises(sh.InputError, match=r"shapes stay, got \(7, 5\) for 2\.weight, which was \(3, 5\): make a new"):
        tracker.step(*batch_of(0, width=4))


def test_a_loss_that_is_none_is_refused_when_it_is_first_looked_at(time: Time) -> None:
    model = plain(torch.float32)
    criterion = nn.CrossEntropyLoss(reduction="none")
    tracker = sh.Tracker(model, criterion, SGD(model.parameters(), lr=0.1), overhead=1, sink=None)
    with pytest.raises(sh.InputError, match="expected a criterion that averages"):
        stand_still(tracker, time, batch_of(0, width=4))


PROCESSES = """
import torch, torch.distributed as dist
import sharpness as sh
dist.init_process_group("gloo")
model = torch.nn.Linear(4, 3)
network = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
tracker = sh.Tracker(network, torch.nn.functional.cross_entropy, optimizer, overhead=1.0, sink=None)
generator = torch.Generator().manual_seed(dist.get_rank())
for _ in range(80):
    x, y = torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()
    tracker.step(x, y)
print("process", dist.get_rank(), len(tracker.rows) > 0)
dist.destroy_process_group()
"""


def test_of_several_processes_the_first_one_measures() -> None:
    result = run_python("-c", PROCESSES, processes=2)
    assert result.returncode == 0, result.stderr
    assert "process 0 True" in result.stdout and "process 1 False" in result.stdout


def test_a_clipped_gradient_is_clipped_before_the_decay_is_added() -> None:
    for name in ("decayed", "adam decayed"):
        model = plain()
        nn.init.constant_(model[0].weight, 3.0)  # pyright: ignore[reportArgumentType]
        optimizer, batch = OPTIMIZERS[name](model.parameters()), batch_of(0, width=4, dtype=torch.float64)
        stepping = Stepping.of(optimizer, dict(model.named_parameters()), 0.1)
        loss = sh.Loss(model, cross_entropy, [batch], weight_decay=stepping.penalty, dtype=torch.float64)
        before, update = loss.weights, stepping.next_update(loss.grad(loss.weights))
        cross_entropy(model(batch[0]), batch[1]).backward()
        assert float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)) > 0.1
        optimizer.step()
        step = (before - sh.flatten(model)) / stepping.rate
        assert float((step - update).norm()) < 1e-5 * float(step.norm())  # torch adds 1e-6 to the length


def test_facts_of_a_diverging_loop_are_plain_numbers_with_reasons(time: Time, tmp_path: Path) -> None:
    model = plain(torch.float32)
    path = tmp_path / "track.jsonl"
    tracker = sh.Tracker(model, cross_entropy, SGD(model.parameters(), lr=0.1), overhead=1, sink=path)
    for number in range(60):
        batch = batch_of(0, width=4)
        time.now += 1.0
        lost = cross_entropy(model(batch[0]), batch[1]) * float("nan" if number > 30 else 1)
        tracker.step(*batch, step=np.int64(number), loss=lost)
    rows = read_jsonl(path)
    assert rows == tracker.rows and {type(row["loss"]) for row in rows} == {float, type(None)}
    assert {row.get("loss_reason") for row in rows} == {None, "it is not finite"}
    time.now += 20.0
    with pytest.raises(sh.InputError, match="one number or a word for loss"):
        tracker.step(*batch_of(0, width=4), loss=torch.ones(2))


def test_one_infinite_gradient_leaves_the_noise_scale_as_it_was(time: Time) -> None:
    model = plain(torch.float32)
    optimizer = SGD(model.parameters(), lr=0.1)
    tracker = sh.Tracker(model, cross_entropy, optimizer, overhead=1, sink=None, quantities=["noise_scale"])
    for number in range(40):
        x, y = batch_of(number, width=4)
        time.now += 1.0
        tracker.step(torch.full_like(x, torch.inf) if number == 20 else x, y)
    (bad,) = [row for row in tracker.rows if row["step"] == 21]
    assert bad["noise_scale"] is None and "not finite" in bad["noise_scale_reason"]
    assert all(row["gradient_noise"] > 0 for row in tracker.rows if row is not bad)


def test_a_short_batch_does_not_shorten_the_kept_examples(time: Time) -> None:
    model = plain(torch.float32)
    optimizer = SGD(model.parameters(), lr=0.1)
    tracker = sh.Tracker(model, cross_entropy, optimizer, overhead=1, sink=None, quantities=["top_eigenvalue"])
    for number in range(60):
        time.now += 1.0
        tracker.step(*batch_of(number, size=64 if number % 2 == 0 else 2, width=4))
    assert min(row["examples"] for row in tracker.rows) >= 32


def test_a_changed_decay_and_frozen_batch_norms_are_seen(time: Time) -> None:
    model = network()
    model[3].p = 0.0  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    tracker = sh.Tracker(model, cross_entropy, optimizer, overhead=1, sink=None)
    batch = batch_of(0)
    for decay, frozen in ((0.1, False), (0.5, False), (0.5, True)):
        optimizer.param_groups[0]["weight_decay"] = decay
        model.train(not frozen)
        for _ in range(30):
            time.now += 1.0
            tracker.step(*batch)
        w = sh.flatten(model)
        gradient = torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), list(model.parameters()))
        expected = torch.cat([g.flatten() for g in gradient]) + decay * w
        row = next(row for row in reversed(tracker.rows) if "directional_sharpness" in row)
        assert row["directional_sharpness"] is not None
        loss = tracker._loss_now().over([batch])
        assert torch.allclose(loss.grad(loss.weights), expected, atol=1e-5)
