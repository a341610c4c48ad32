"""The advice on a batch size: planted noise in Adam's geometry, the rules, branches against loops, the command."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sharpness.config import DataConfig, MeasureConfig, ModelConfig, RunConfig, ScheduleConfig, TrainingConfig
from sharpness.data import normalise
from sharpness.errors import InputError
from sharpness.files import read_jsonl
from sharpness.measure.advise import advice_of, advise, settings_of
from sharpness.measure.batch_rules import ADAMS, BRANCHED, CRITICAL, EUCLIDEAN, OURS, PERFECT, Advice, Settings, advice
from sharpness.measure.critical_batch import AT_LEAST, AT_MOST, Branches, Largest, branched_batch, largest_within
from sharpness.probes import GradientNoise, PreconditionedNoise
from sharpness.probes.methods.noise_statistics import Measured
from sharpness.records import ProbeRecord
from sharpness.records.glossary import EVERYWHERE, OF_ADVICE, described
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_network, load_run_data, network_loss
from sharpness.training import train
from sharpness.training.branches import FIRST_BRANCH_EPOCH, Plan, train_branch
from sharpness.training.order import epoch_order
from tests.conftest import ROOT
from tests.study_cases import script
from tests.test_commands import assert_refused, sharpness
from tests.test_gradient_noise import CENTRE, SPREAD, H, planted
from tests.test_records_page import keys_of

P = torch.tensor([4.0, 0.5, 2.0, 10.0], dtype=torch.float64)
TRUTH = {
    "gradient_square": float((H * CENTRE).square().div(P).sum()),
    "noise_trace": float((H * SPREAD).square().div(P).sum()),
}
SCALE = TRUTH["noise_trace"] / TRUTH["gradient_square"]
CONFIG = RunConfig(
    data=DataConfig(num_train=90, num_test=20, evaluation_batch_size=90),
    model=ModelConfig(name="fc_128_128_128", norm="none"),
    training=TrainingConfig(optimizer="sgd", learning_rate=0.05, batch_size=10, epochs=2, dtype="float64"),
    measure=MeasureConfig(keep_every=1.0, keep_optimizer=True),
)


def test_planted_noise_in_the_geometry_of_p_is_recovered_without_bias() -> None:
    # From both sides of the minimum, where what is linear in the noise cancels.
    losses, probe = [planted(40, seed) for seed in range(20)], PreconditionedNoise()
    results = [[probe(loss, side * CENTRE, preconditioner=P) for side in (0, 2)] for loss in losses]
    for name, truth in TRUTH.items():
        values = np.array([[result.numbers[name].value for result in sides] for sides in results]).mean(1)
        error = values.std(ddof=1) / len(values) ** 0.5
        assert abs(values.mean() - truth) < 3.5 * error < 0.7 * truth, name
    # With P = 1 it is the Euclidean one, to rounding.
    loss = planted(40, 0)
    plain, own = GradientNoise(num_hvps=0)(loss), PreconditionedNoise()(loss, preconditioner=torch.ones_like(P))
    assert (own.value, own.lower, own.upper) == pytest.approx((plain.value, plain.lower, plain.upper), rel=1e-12)


def test_intervals_hold_the_planted_scale_as_often_as_they_say() -> None:
    held, num = 0, 50
    for seed in range(num):
        result = PreconditionedNoise(confidence=0.9)(planted(60, seed), preconditioner=P)
        lower = -math.inf if result.lower is None else result.lower
        held += lower <= SCALE <= (math.inf if result.upper is None else result.upper)
    assert 0.9 * num - 3 * math.sqrt(num * 0.09) <= held < num


@pytest.mark.parametrize("sizes", [(), (20, 13, 7)])
def test_it_is_the_ratio_of_the_dense_gradients(sizes: tuple[int, ...]) -> None:
    loss = planted(40, 3, sizes)
    gradients = torch.cat([H * (loss.weights - x) for x, _ in loss.batches])
    mean, covariance = gradients.mean(0), torch.cov(gradients.T)
    noise = float((covariance.diagonal() / P).sum())
    square = float((mean**2 / P).sum()) - noise / 40
    result = PreconditionedNoise()(loss, preconditioner=P)
    assert result.value == pytest.approx(noise / square, rel=1e-10)
    # Without a state P is that of the mean squared gradient of batches, here of single examples.
    result = PreconditionedNoise(batch_size=40, num_batches=1)(loss)
    p = mean.abs() + 1e-8
    noise = float((covariance.diagonal() / p).sum())
    assert result.value == pytest.approx(noise / (float((mean**2 / p).sum()) - noise / 40), rel=1e-9)
    assert result.preconditioner_source == "from gradients at these weights"


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"source": "state"}, "source 'gradients'"),
        ({"eps": 0.0}, "positive eps"),
        ({"num_batches": 0}, "1 batch"),
    ],
)
def test_bad_knobs_are_one_line(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PreconditionedNoise(**knobs)(planted(10, 0))


def test_advice_on_a_planted_loss_covers_what_the_law_says_of_the_true_scale() -> None:
    truth = float((H * SPREAD).square().sum() / (H * CENTRE).square().sum())
    loss = planted(4000, 1)
    found = advise(loss, optimizer="sgd", batch_size=2, learning_rate=0.01, overhead=1.5)
    best = found.chosen
    assert best.lower is not None and best.upper is not None and best.batch_size is not None
    assert best.lower <= 1.5 * truth <= best.upper < 2 * best.lower
    assert 1.5 * truth - 1 <= best.upper and best.batch_size <= best.upper
    adam = advise(loss, optimizer="adamw", batch_size=2, learning_rate=0.01, beta2=0.99, preconditioner=P, overhead=1.5)
    assert adam.noise_scales[ADAMS].value == pytest.approx(SCALE, rel=0.2)
    assert adam.chosen.batch_size == best.batch_size and adam.noise_scales[EUCLIDEAN] == found.noise_scales[EUCLIDEAN]
    with pytest.raises(InputError, match="run folder for branches"):
        advise(loss, optimizer="sgd", branches=Branches())


def choices(found: Advice) -> dict[str, Any]:
    return {choice.name: choice for choice in found.choices}


def test_the_rules_are_those_of_the_papers() -> None:
    settings = Settings(optimizer="adamw", batch_size=16, learning_rate=0.004, beta2=0.95, tokens=64, warmup=320)
    scales = {EUCLIDEAN: Measured(640.0, 320.0, 1280.0), ADAMS: Measured(50.0, 40.0, 60.0)}
    perfect = choices(advice(settings, scales))[PERFECT]
    # A tenth of the noise scale; there E / E_min = 1 + B / B_noise is 1.1.
    assert (perfect.batch_size, perfect.lower, perfect.upper) == (64, 32.0, 128.0)
    assert perfect.examples == pytest.approx(1.1) and perfect.updates == pytest.approx(11)
    assert perfect.learning_rate == pytest.approx(0.008) and perfect.warmup_updates == 5
    # The second moment halves after as many tokens: beta2'^(tokens / (B' tokens per example)) = 1/2 for both.
    assert settings.half_life is not None and perfect.beta2 == pytest.approx(0.95**4)
    assert perfect.beta2 ** (settings.half_life / (64 * 64)) == pytest.approx(0.5)
    sgd = choices(advice(replace(settings, optimizer="momentum", beta2=None), scales))[CRITICAL]
    assert sgd.batch_size == 640 and sgd.learning_rate == pytest.approx(0.004 * 640 / 16)
    assert sgd.beta2 is None and sgd.reasons["beta2"]
    assert sgd.examples == sgd.updates == pytest.approx(2)


def test_what_the_studies_found_of_the_noise_scale_is_said_as_they_found_it() -> None:
    findings = json.loads((ROOT / "figures" / "merrill2025" / "cpu-5-seeds" / "findings.json").read_text())
    verdicts = {EUCLIDEAN: ["inconclusive", "reproduced"], ADAMS: ["contradicted", "contradicted"]}
    for geometry, variant in ((EUCLIDEAN, None), (ADAMS, "in Adam's geometry")):
        came = list[str]()
        for claim, said in zip(
            ("The noise scale is far below", "goes with the noise scale"), OURS[geometry], strict=True
        ):
            (found,) = (each for each in findings if claim in each["claim"])
            (row,) = [found] if variant is None else [each for each in found["variants"] if each["name"] == variant]
            assert row["number"].removeprefix("= ").partition(", n = ")[0] == said
            came.append(row["verdict"])
        assert came == verdicts[geometry]
    adamw = Settings(optimizer="adamw", batch_size=8)
    alone = advice(adamw, {EUCLIDEAN: Measured(40.0, 30.0, 50.0)})
    assert all(each in alone.rests_on["which noise scale"] for numbers in OURS.values() for each in numbers)
    (critical,) = [line for line in alone.unknown if line.startswith("the critical batch")]
    assert "2505.23971" in critical and OURS[EUCLIDEAN][0] in critical and "leaves that open" in critical
    assert "which noise scale" not in advice(replace(adamw, optimizer="sgd"), alone.noise_scales).rests_on


def test_what_cannot_be_had_is_null_with_its_reason() -> None:
    settings = Settings(optimizer="sgd", batch_size=8)
    below = advice(settings, {"Euclidean": Measured(None, 30.0, None, "|G|^2 cannot be told from 0")})
    best = below.chosen
    assert best.batch_size is None and best.reasons["batch_size"].startswith("|G|^2 cannot be told from 0; at least 3")
    assert str(below).startswith("no batch size: |G|^2")
    open_ended = advice(settings, {"Euclidean": Measured(100.0, 30.0, None, "|G|^2 cannot be told from 0")}).chosen
    assert open_ended.batch_size == 10 and open_ended.upper is None and open_ended.reasons["upper"]
    assert open_ended.learning_rate is None and open_ended.reasons["learning_rate"]
    impossible: tuple[dict[str, Any], ...] = ({"batch_size": 0}, {"learning_rate": -1.0}, {"beta2": 1.0})
    for wrong in impossible:
        with pytest.raises(InputError, match="expected"):
            Settings(**wrong)


def test_the_largest_branch_is_told_with_its_error_bars() -> None:
    def losses(*means: float, spread: float) -> dict[int, list[float | None]]:
        shared, own = torch.randn(5), torch.tensor([-1.0, 0.5, 1.0, -1.0, 0.5]) * spread
        return {2**i: (shared + mean + own.roll(i)).tolist() for i, mean in enumerate(means)}

    # What the orders have in common is no error: 4 is within, 8 is not, whatever it is.
    assert largest_within(losses(1.0, 1.0, 1.005, 1.1, spread=1e-4), 0.01, 0.95) == Largest(4, 4, 8)
    wide = largest_within(losses(1.0, 1.0, 1.005, 1.02, spread=0.01), 0.01, 0.95)
    assert (wide.value, wide.lower, wide.upper) == (4, None, None) and "not excluded" in wide.reasons["upper"]
    # A small branch that is worse than a larger one does not end the search.
    assert largest_within(losses(1.0, 1.1, 1.0, spread=0.0), 0.01, 0.95).value == 4
    burst = {1: [1.0, 1.1], 2: [1.0, None]}
    told = largest_within(burst, 0.01, 0.95)
    assert (told.value, told.lower, told.upper) == (1, None, 2) and "no smaller" in told.reasons["lower"]
    assert largest_within({1: [None, 1.0], 2: [1.0, 1.0]}, 0.01, 0.95).value is None
    assert largest_within({1: [1.0], 2: [1.0]}, 0.01, 0.95).lower is None


@pytest.mark.parametrize(
    ("critical", "value", "bound"), [(4, 4, ""), (16, 16, ""), (1, 2, AT_MOST), (2, 2, AT_MOST), (1000, 32, AT_LEAST)]
)
def test_a_critical_batch_at_an_end_of_those_tried_is_a_bound(critical: int, value: int, bound: str) -> None:
    tried = (2, 4, 8, 16, 32)
    wobble = (0.0, 1e-4, -1e-4)
    losses = {k: [2 + 0.1 * max(0, math.log2(k / critical)) + order for order in wobble] for k in tried}
    for orders in (1, 3):
        found = largest_within({k: each[:orders] for k, each in losses.items()}, 0.01, 0.95)
        assert (found.value, found.bound) == (value, bound)
        assert ("no smaller batch was compared" in found.reasons.get("lower", "")) == (bound == AT_MOST)
        assert ("as good as all smaller ones" in found.reasons.get("upper", "")) == (bound == AT_LEAST)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Two finished runs that kept a checkpoint and the optimiser's state after each epoch."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name in ("sgd", "adamw"):
        training = replace(CONFIG.training, optimizer=name, learning_rate=0.05 if name == "sgd" else 0.002, beta2=0.97)
        config = replace(CONFIG, training=training)
        found[name] = RunFolder.create(folder / name, config)
        train(config, load_run_data(config), found[name], torch.device("cpu"))
    return found


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_branch_is_a_plain_loop_from_the_checkpoint_and_its_state(runs: dict[str, RunFolder], name: str) -> None:
    run, rate, size = runs[name], 0.003, 20
    config, dataset = run.config(), load_run_data(run.config())
    files = {path.name: path.read_bytes() for path in run.path.iterdir()}
    settings = settings_of(run, "checkpoint-9")
    plan = Plan(size, rate, settings.half_life, 0, 180)
    state = run.load_optimizer(9)
    found = train_branch(run, "checkpoint-9", dataset, plan, dataset.train, torch.device("cpu"), state)

    model = load_network(run, "checkpoint-9", dataset, torch.device("cpu")).double()
    betas = (0.9, 0.97**2)  # twice the batch: the half-life in examples is kept
    options: dict[str, Any] = {"sgd": {}, "adamw": {"betas": betas, "weight_decay": 0.0}}
    optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name](model.parameters(), lr=rate, **options[name])
    assert state is not None
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group |= {"lr": rate, **options[name]}
    smooth = math.nan
    for epoch in (FIRST_BRANCH_EPOCH, FIRST_BRANCH_EPOCH + 1):
        for rows in epoch_order(config.training.seed, epoch, 90).split(size):
            optimizer.zero_grad()
            inputs = normalise(dataset.train.inputs[rows], torch.float64)
            value = cross_entropy(model(inputs), dataset.train.targets[rows])
            value.backward()
            optimizer.step()
            smooth = value.item() if math.isnan(smooth) else (smooth + value.item()) / 2
    batch = (normalise(dataset.train.inputs, torch.float64), dataset.train.targets)
    loss = network_loss(config, model, [batch], dtype=torch.float64)
    assert found.pop("smoothed") == pytest.approx(smooth, rel=1e-6)
    assert found == {"updates": 10, "examples": 180, "loss": pytest.approx(loss.value(loss.weights), rel=1e-6)}
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == files


@cache
def measured_noise() -> ProbeRecord:
    return GradientNoise()(planted(4000, 1)).to_record()


@pytest.mark.parametrize(("rises", "bound"), [((0.0, 0.1), AT_MOST), ((0.0, 0.0), AT_LEAST), ((0.0, 0.0, 0.1), "")])
def test_the_smallest_branch_is_not_advised_as_nothing_smaller_was_compared(
    runs: dict[str, RunFolder], monkeypatch: pytest.MonkeyPatch, rises: tuple[float, ...], bound: str
) -> None:
    knobs, settings = Branches(factors=(1, 2, 4)[: len(rises)], orders=3), settings_of(runs["sgd"], "checkpoint-9")

    def planted_branch(run: RunFolder, checkpoint: str, dataset: Any, plan: Plan, *rest: Any) -> dict[str, Any]:
        loss = 2 + rises[knobs.factors.index(plan.batch_size // 10)] + 1e-4 * plan.order
        return {"updates": 9, "examples": plan.window, "loss": loss, "smoothed": loss}

    monkeypatch.setattr("sharpness.measure.critical_batch.train_branch", planted_branch)
    record = branched_batch(runs["sgd"], "checkpoint-9", settings, knobs, None, device=torch.device("cpu"))
    assert record is not None
    found = advice_of([measured_noise(), record], settings, 0.1, 0.95)
    branched = choices(found)[BRANCHED]
    if bound == AT_MOST:
        assert record.value is None and record.upper == 20 and branched.batch_size is None
        assert "at most 10, the smallest batch tried" in branched.reasons["batch_size"]
        assert found.chosen.name == PERFECT
    else:
        assert found.chosen is branched and record.value == branched.batch_size == 20
        assert (record.upper, "as good as all" in branched.reasons.get("upper", "")) == (
            (None, True) if bound == AT_LEAST else (40, False)
        )


def test_settings_are_those_of_the_run_at_its_checkpoint(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    assert settings_of(runs["adamw"], "checkpoint-9") == Settings(
        optimizer="adamw", batch_size=10, learning_rate=0.002, beta2=0.97
    )
    config = replace(CONFIG, schedule=ScheduleConfig(kind="linear", warmup=0.5))
    run = RunFolder.create(tmp_path / "decayed", config)
    train(config, load_run_data(config), run, torch.device("cpu"))
    ended = settings_of(run, run.final_checkpoint())
    assert ended.warmup == 45 and ended.learning_rate is not None and ended.learning_rate < 0.1 * 0.05
    with pytest.raises(InputError, match="give an earlier one with --step"):
        advise(run.path, examples=30, branches=Branches(factors=(1, 2)))


def test_branches_that_do_not_fit_are_refused(runs: dict[str, RunFolder]) -> None:
    def ask(**knobs: Any) -> None:
        settings = settings_of(runs["sgd"], "checkpoint-9")
        branched_batch(runs["sgd"], "checkpoint-9", settings, Branches(**knobs), None, device=torch.device("cpu"))

    for knobs, words in (
        ({"factors": (1, 16)}, "at most the 90 training examples"),
        ({"factors": (1, 2), "window": 100}, "window of at least 160"),
        ({"factors": (2,)}, "two or more ascending"),
        ({"orders": 0}, "at least 1 order"),
        ({"tolerance": -1.0}, "tolerance of at least 0"),
    ):
        with pytest.raises(InputError, match=words):
            ask(**knobs)


@pytest.mark.dear
def test_the_command_prints_what_the_records_hold_and_finds_them_again(
    runs: dict[str, RunFolder], tmp_path: Path
) -> None:
    run, out = runs["adamw"].path, tmp_path / "out"
    options = [str(run), "--examples", "60", "--step", "9", "--branches", "1", "2", "--orders", "2"]
    options += ["--tolerance", "1", "--out", str(out)]  # nats: any branch is as good
    first = sharpness("advise", *options)
    assert first.returncode == 0, first.stderr
    records = read_jsonl(out / "probes.jsonl")
    assert [record["probe"] for record in records] == ["gradient_noise", "preconditioned_noise", "branches", "advice"]
    noise, own, branches, advised = records
    assert f"{noise['value']:.3g}" in first.stdout and f"{own['value']:.3g}" in first.stdout
    assert own["details"]["preconditioner_source"].startswith("from the optimiser's state in optimizer-9.pt")
    assert branches["details"]["optimizer_state"] == "as it was kept" and len(branches["details"]["rows"]) == 4
    assert advised["value"] == branches["value"] == 20 and advised["details"]["advised"] == "branches"
    assert "branches: no upper end: the largest branch, 2 times the batch, is as good as all smaller" in first.stdout
    for record in (branches, advised):
        words = OF_ADVICE[record["probe"]]
        found = set(keys_of(record["details"]))
        assert {key for key in found if not described(key, words | EVERYWHERE)} == set()
        assert {key for key in words if not any(described(each, {key: ""}) for each in found)} == set()
    with open(out / "advice.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["as it is", "perfect scaling", "noise scale", "branches"]
    assert "not known: seconds per update" in first.stdout and "paper rule" in first.stdout
    again = sharpness("advise", *options, "--json")
    assert [json.loads(line)["value"] for line in again.stdout.splitlines()] == [record["value"] for record in records]
    assert read_jsonl(out / "probes.jsonl") == records


def test_bad_input_of_the_command_is_one_line(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    run, out = str(runs["sgd"].path), ["--out", str(tmp_path / "out")]
    file = [str(runs["sgd"].path / "checkpoint-9.safetensors"), "--model", "fc_128_128_128,norm=none", "--data"]
    file += ["fashion_mnist_10k", "--examples", "40", *out]
    for arguments, words in (
        ([run, "--step", "7", *out], "those of [9, 18]"),
        ([*file, "--optimizer", "sgd"], "--batch N"),
        ([*file, "--branches", "1", "2"], "run folder of the trainer with --branches"),
        ([run, "--overhead", "0", "--examples", "30", *out], "positive overhead"),
    ):
        assert_refused(sharpness("advise", *arguments), words)


def test_the_batch_advised_costs_what_the_committed_curve_says() -> None:
    compared: Any = script("measures.advised_batch")
    fewest, least, critical = compared.fitted()
    assert least / fewest == pytest.approx(critical)
    initial, along = compared.compared()
    # The mean until the goal is the study's predictor; the scale at the start is too large for what follows.
    assert 0.05 <= along["overhead"] <= 0.2 and along["overhead"] < initial["overhead"] < 0.5
    for size, measured, predicted in compared.measured_and_predicted():
        assert measured == pytest.approx(predicted, rel=0.35), size


def test_workloads_that_lie_on_the_law_cost_what_it_says(tmp_path: Path) -> None:
    compared: Any = script("measures.advised_batch")
    sizes, critical = (1, 4, 16, 64, 256), 160.0
    steps = ["workload,batch_size,steps,effective_rate"]
    steps += [f"planted,{b},{1000 * (1 + critical / b)},{0.01 * (b if b <= 16 else 16)}" for b in sizes]
    (tmp_path / "steps.csv").write_text("\n".join(steps))
    ends = {"noise scale": "160,120,200", "critical batch": "160,150,170"}
    rows = ["workload,what,value,lower,upper", *(f"planted,{what},{numbers}" for what, numbers in ends.items())]
    (tmp_path / "workloads.csv").write_text("\n".join(rows))
    settings = {"settings": {"workloads": {"planted": {"optimizer": "momentum"}}}}
    (tmp_path / "steps.json").write_text(json.dumps(settings))
    (row,) = compared.searched(tmp_path)
    assert row["batch_size"] == 16 and row["overhead"] == pytest.approx(0.1)
    # The smallest batch tried is not that of no costs: (1 + 16 / 160) / (1 + 1 / 160).
    assert row["measured"] == pytest.approx(1.1 / (1 + 1 / 160) - 1)
    assert row["rate_advised"] == pytest.approx(1) and row["rate_noise"] == pytest.approx(4)


def test_the_batches_advised_for_the_searched_workloads_cost_what_the_page_says() -> None:
    compared: Any = script("measures.advised_batch")
    rows = {row["workload"]: row for row in compared.searched()}
    costs = [round(100 * row["overhead"]) for row in rows.values()]
    measured = [round(100 * row["measured"]) for row in rows.values() if row["measured"] is not None]
    rates = {name: [r[name] for r in rows.values() if r[name] is not None] for name in ("rate_advised", "rate_noise")}
    text = (ROOT / "docs" / "batch_size.md").read_text()
    assert f"by the curves {min(costs)} to {max(costs)} % more examples" in text
    assert f"{min(measured)} to {max(measured)} % by the searches themselves" in text
    for each in rates.values():
        assert f"{min(each):.2g} to {max(each):.2g} times" in text
    transformer = rows["transformer Nesterov"]
    assert transformer["measured"] is None
    assert f"For the transformer it is {transformer['batch_size']}, {costs[-1]} % by the curve" in text
