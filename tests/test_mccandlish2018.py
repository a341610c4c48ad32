"""McCandlish et al. 2018: the analysis on planted numbers, its measurements against closed forms, and a smoke run."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.mccandlish2018 import report as analysis
from analysis.mccandlish2018.findings import findings
from analysis.mccandlish2018.numbers import (
    front,
    predicted,
    run_average,
    saturations,
    searched,
    too_fast,
    tuned,
    tuned_branches,
    typical,
    windows,
)
from analysis.mccandlish2018.results import results_of
from analysis.runs import Tables
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.probes.gradient_noise import GradientNoise
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_network, load_run_data
from sharpness.training import check_config, train
from sharpness.training.order import epoch_order
from sharpness.vectors import flatten
from tests.study_cases import first_steps, script, site, smoke_once

study: Any = script("mccandlish2018")
measure: Any = script("measures.mccandlish2018")
descent: Any = script("measures.mccandlish2018_branches")
PRESETS = study.PRESETS
SEEDS = range(5)
H = torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64)


def planted_noise(rng: Any, level: float, drift: float, growth: float, slope: float, sizes: float) -> pd.DataFrame:
    """Return noise of base runs that drift with the loss and grow, of cooled ones with a slope, of two sizes."""
    rows = []

    def row(scale: float, **labels: Any) -> None:
        trace = 50.0
        square = (1 - 1 / 5000) * trace / (scale * np.exp(0.05 * rng.standard_normal()))
        rows.append({"noise_trace": trace, "square": square, "num_train": 5000, **labels})

    for seed in SEEDS:
        for epoch, loss in ((0, 2.3), (0.5, 1.0), (1.5, 0.7), (2.5, 0.4), (9.5, 0.1), (10.5, 0.015), (11.5, 0.012)):
            ends = {0: 6 * level, 10.5: growth * level, 11.5: growth * level}
            scale = ends[epoch] if epoch in ends else level * loss**-drift
            row(scale, arm="along", seed=seed, epoch=epoch, step=int(100 * epoch), loss=loss, run_id=f"along-{seed}")
        for knob, k in (("none", 1), ("rate", 2), ("rate", 8), ("batch", 2), ("batch", 8)):
            row(30.0 * k**slope, arm="cooled", seed=seed, run_id=f"cooled-{knob}-{k}-{seed}")
        for arm, cases in (("data", ("2000", "10000")), ("width", PRESETS["cpu"].widths)):
            for case, ratio in zip(cases, (1.0, sizes), strict=True):
                row(80.0 * ratio, arm=arm, case=case, seed=seed, run_id=f"{arm}-{case}-{seed}")
    return pd.DataFrame(rows)


def planted_runs(rng: Any, bend: float, reach: float) -> pd.DataFrame:
    """Return runs of a front with S_min = 200 and E_min = 8000 at a rate of 0.2, reaching to ``reach``; cooled ones."""
    rows: list[dict[str, Any]] = []
    for seed, size in itertools.product(SEEDS, (4, 16, 64, 256)):
        fitted = (200 + 8000 / size) * np.exp(0.02 * rng.standard_normal() + bend * (-1) ** int(np.log2(size) / 2))
        for rate in (0.1, 0.2, 0.4, 0.8, 1.6):
            steps = fitted * (1 + np.log2(rate / 0.2) ** 2) if rate <= reach else None
            status = "diverged" if rate == 1.6 and seed == 0 else "finished"
            shared = {"arm": "front", "seed": seed, "batch_size": size, "learning_rate": rate, "status": status}
            rows.append({**shared, "steps_to_result": steps, "run_id": f"front-{seed}-{size}-{rate}", "reason": None})
    for seed, (knob, k) in itertools.product(SEEDS, (("none", 1), *itertools.product(("rate", "batch"), (2, 8)))):
        sizes = {"batch_size": 2 * (k if knob == "batch" else 1), "learning_rate": 0.02 / (k if knob == "rate" else 1)}
        shared = {"arm": "cooled", "knob": knob, "factor": k, "seed": seed, "status": "finished", "reason": None}
        rows.append({**shared, **sizes, "steps_to_result": None, "run_id": f"cooled-{knob}-{k}-{seed}"})
    lost = {"arm": "along", "seed": 99, "status": "missing", "reason": "there is no run folder", "run_id": "lost"}
    return pd.DataFrame([*rows, lost])


def planted_search(rng: Any, stretch: float, warp: float, depth: float, ease: float, power: float) -> pd.DataFrame:
    """Return line searches with the best step and fall a ratio and a power off the predicted, and easier beyond."""
    rows = []
    for seed, size in itertools.product(SEEDS, (4, 64, 1024)):
        square, along, noise, count = 1.0, 8.0, 400.0, 1000
        felt = along + (1 - 1 / count) * noise / size
        rates = (2.0 ** np.arange(-3, 8, 0.5)) / felt
        # With a power, the best step is the predicted one at B = 64 and grows as that power from there.
        bent = (size / 64) ** power * felt / (along + (1 - 1 / count) * noise / 64) if power else 1.0
        unit = rates * felt / (stretch * (felt / along) ** warp * bent)
        change = depth * (felt / along) ** warp / felt * (unit**2 / 2 - unit) * np.where(unit > 2.5, ease, 1.0)
        changes = [list(change * np.exp(0.1 * rng.standard_normal())) for _ in range(16)]
        moments = {"gradient_square": square, "noise_trace": 0.0, "noise_curvature": noise}
        moments["gradient_curvature"] = along - noise / count  # of the distribution; the examples' own is along
        shared = {"seed": seed, "epoch": 0.5, "batch_size": size, "loss": 1.0, "examples": count, **moments}
        rows.append({**shared, "rates": list(rates), "changes": changes})
    return pd.DataFrame(rows)


def planted_branches(rng: Any, sizes: dict[float, float]) -> pd.DataFrame:
    """Return branches with 40 steps at least and a critical batch size for each epoch, at the second of three rates."""
    rows = []
    for seed, (epoch, critical), size in itertools.product(SEEDS, sizes.items(), (8, 32, 128, 512)):
        steps = 40 * (1 + critical / size) * np.exp(0.02 * rng.standard_normal())
        for factor, much in ((0.5, 1.5), (1.0, 1.0), (2.0, None)):
            shared = {"seed": seed, "epoch": epoch, "batch_size": size, "rate": factor * 0.1, "most": 10**4}
            shared |= {"loss": 0.5, "square": 1.0, "noise_trace": 20.0 * epoch / 0.5, "num_train": 10**9}
            rows.append({**shared, "steps": much and much * steps})
    return pd.DataFrame(rows)


def planted(**changes: Any) -> tuple[Tables, dict[str, Any]]:
    """Return what a study finds where every claim holds, but for what is changed."""
    rng = np.random.default_rng(0)
    noise = {"level": 20.0, "drift": 0.5, "growth": 16.0, "slope": 1.0, "sizes": 1.1}
    search = {"stretch": 1.0, "warp": 0.0, "depth": 1.0, "ease": 1.0, "power": 0.0}
    runs, rest = {"bend": 0.0, "reach": 0.4}, {"hard": 4.0, "critical": {0.5: 400.0, 2.5: 1600.0}}
    noise, search, runs, rest = (
        {k: changes.get(k, x) for k, x in each.items()} for each in (noise, search, runs, rest)
    )
    tasks = [
        {"seed": seed, "task": task, "square": 1.0, "noise_trace": scale, "num_train": 10**6, "loss": 0.3}
        for seed, (task, scale) in itertools.product(SEEDS, (("easy", 10.0), ("hard", 10.0 * rest["hard"])))
    ]
    measured = {
        "noise": planted_noise(rng, **noise),
        "line_search": planted_search(rng, **search),
        "branches": planted_branches(rng, rest["critical"]),
        "two_classes": pd.DataFrame(tasks),
    }
    settings = json.loads(json.dumps(asdict(PRESETS["cpu"])))
    return Tables(planted_runs(rng, **runs), measured=measured), settings


FOUND: dict[str, dict[str, str]] = {}


def verdicts(**changes: Any) -> dict[str, str]:
    """Return the verdicts by claim, which are made once of what is planted."""
    if (key := repr(changes)) not in FOUND:
        FOUND[key] = {finding.claim: finding.verdict for finding in findings(results_of(*planted(**changes)))}
    return FOUND[key]


CHANGES = {
    "tenfold or more from": ({"growth": 3.0}, "reproduced in sign only"),
    "as the loss falls": ({"drift": -1.0, "growth": 0.1}, "contradicted"),
    "The best step saturates": ({"warp": 0.8}, "contradicted"),
    "loss at the best step saturates": ({"warp": 0.8}, "contradicted"),
    "rather than a power": ({"power": 0.5}, "contradicted"),
    "predicts the best step": ({"warp": 0.8}, "contradicted"),
    "predicted best step is right": ({"stretch": 3.0}, "contradicted"),
    "predicts the fall": ({"warp": 0.8}, "contradicted"),
    "predicted fall of the loss": ({"depth": 3.0}, "contradicted"),
    "raises the loss": ({"ease": 0.0}, "contradicted"),
    "do not reach the goal": ({"reach": 1.6}, "contradicted"),
    "on a hyperbola": ({"bend": 0.4}, "contradicted"),
    "predicts the critical batch size": ({"level": 0.2}, "contradicted"),
    "inverse learning rate": ({"slope": 0.3}, "contradicted"),
    "proportional to the batch size": ({"slope": 0.3}, "contradicted"),
    "size of the data set": ({"sizes": 5.0}, "contradicted"),
    "size of the network": ({"sizes": 5.0}, "contradicted"),
    "harder task": ({"hard": 0.5}, "contradicted"),
    "measured by branches grows": ({"critical": {0.5: 400.0, 2.5: 400.0}}, "contradicted"),
    "tenfold the noise scale or more": ({"critical": {0.5: 40.0, 2.5: 160.0}}, "contradicted"),
}
"""What is changed of the planted numbers, and what becomes of the claim with these words."""


@pytest.mark.parametrize("words", CHANGES)
def test_a_verdict_flips_with_what_is_planted(words: str) -> None:
    changes, changed = CHANGES[words]
    before, after = verdicts(), verdicts(**changes)
    assert len(before) == len(CHANGES)
    (claim,) = [each for each in before if words in each]
    assert before[claim] == "reproduced"
    assert after[claim] == changed


def test_planted_numbers_are_recovered() -> None:
    results = results_of(*planted())
    assert results.fit.s_min.value == pytest.approx(200, rel=0.05)
    assert results.fit.b_crit.value == pytest.approx(40, rel=0.1)
    assert results.fit.b_crit.lower is not None and results.fit.b_crit.lower < 40 < (results.fit.b_crit.upper or 0)
    assert list(results.tuned["learning_rate"]) == [0.2] * 4 and set(results.tuned["at_edge"]) == {False}
    assert list(results.tuned["reached"]) == [15] * 4 and list(results.tuned["diverged"]) == [1] * 4
    np.testing.assert_allclose(results.search["rate"], results.search["predicted_rate"], rtol=0.01)
    np.testing.assert_allclose(results.search["fall"], results.search["predicted_fall"], rtol=0.2)
    assert set(results.branches["rate"]) == {0.1} and set(results.branches["at_edge"]) == {False}
    assert [fit.b_crit.value for fit in results.branch_fits.values()] == pytest.approx([400, 1600], rel=0.1)
    assert list(results.windows[results.windows["seed"] == 0]["window"]) == [6, 5, 3, 0]
    np.testing.assert_allclose(results.saturation["rate_scale"], results.saturation["direct"], rtol=0.05)
    np.testing.assert_allclose(results.saturation["largest_rate"], 1 / 8.0, rtol=0.05)


def test_captions_count_every_run_and_every_figure_is_drawn(tmp_path: Path) -> None:
    tables, settings = planted()
    report = analysis.report(tables, settings)
    assert set(report.drawings) == {
        "noise_scale",
        "line_search",
        "front",
        "temperature",
        "comparisons",
        "branches",
        "saturation",
    }
    for name, drawing in report.drawings.items():
        assert not isinstance(drawing, str), name
        assert "4 diverged, 1 missing" in drawing.caption, name
        assert len(drawing.numbers)
    assert "lost did not finish: there is no run folder." in report.sentences
    assert all("4 diverged, 1 missing" in table.caption for table in report.tables)


def test_a_study_without_measurements_says_so_instead_of_drawing() -> None:
    tables, settings = planted()
    bare = replace(tables, runs=tables.runs[tables.runs["arm"] == "along"], measured={})
    report = analysis.report(bare, settings)
    assert all(isinstance(drawing, str) for drawing in report.drawings.values())
    assert {finding.verdict for finding in report.findings} == {"not testable here"}


def test_the_best_rate_is_the_one_that_most_seeds_reach_the_goal_at() -> None:
    rows = [
        {"batch_size": 8, "learning_rate": rate, "seed": seed, "steps_to_result": steps, "status": "finished"}
        for rate, each in ((0.1, (90, 110)), (0.2, (50, None)), (0.4, (None, None)))
        for seed, steps in enumerate(each)
    ]
    runs = pd.DataFrame(rows)
    (best,) = tuned(runs).to_dict("records")
    assert best["learning_rate"] == 0.1 and best["at_edge"] and best["seeds"] == 2 and best["reached"] == 3
    assert best["steps"] == pytest.approx((90 * 110) ** 0.5) and best["examples"] == pytest.approx(8 * best["steps"])
    assert list(front(runs)["steps_to_result"]) == [90, 110]
    assert list(too_fast(runs)["share"]) == [0.5, 1.0]  # at 0.2 and 0.4, of the two seeds


def test_the_mean_until_the_goal_is_cut_where_the_loss_meets_it() -> None:
    rows = pd.DataFrame({"seed": 3, "step": [20, 0, 10], "loss": [0.2, 1.0, 0.6], "noise_scale": [30.0, 10.0, 20.0]})
    # The goal of 0.4 is met at step 15, where the scale is 25: (10 * 15 + 5 * 22.5) / 15.
    assert run_average(rows, 0.4) == {3: pytest.approx(17.5)}
    assert run_average(rows, 0.1) == {} and run_average(rows, 2.0) == {}


def test_a_window_averages_numerator_and_denominator_apart() -> None:
    shared = {"seed": 3, "num_train": 10**9}
    rows = pd.DataFrame(
        [
            {"loss": 0.10, "noise_trace": 6.0, "square": 1.0, **shared},
            {"loss": 0.19, "noise_trace": 2.0, "square": 3.0, **shared},
            {"loss": 0.20, "noise_trace": 9.0, "square": 3.0, **shared},
            {"loss": 0.40, "noise_trace": 5.0, "square": 1.0, **shared},  # at the last edge: in no window
            {"loss": 0.05, "noise_trace": 5.0, "square": 1.0, **shared},
        ]
    )
    low, high = windows(rows, [0.1, 0.2, 0.4]).to_dict("records")
    assert low["noise_scale"] == pytest.approx(2.0)  # (6 + 2) / (1 + 3), where the mean of the ratios is 3.3
    assert low["checkpoints"] == 2 and low["low"] == 0.1 and low["loss"] == pytest.approx((0.10 * 0.19) ** 0.5)
    assert high["noise_scale"] == pytest.approx(3.0) and high["window"] == 1


def saturating(values: Any, sizes: Any) -> dict[str, Any]:
    shared = {"seed": 0, "epoch": 1.5, "curved_noise_scale": 50.0}
    rows = [{**shared, "batch_size": b, "rate": v, "fall": v} for b, v in zip(sizes, values, strict=True)]
    (found,) = saturations(pd.DataFrame(rows)).to_dict("records")
    return found


def test_the_bend_and_the_ceiling_of_planted_best_steps_are_found() -> None:
    sizes = np.array([4.0, 16.0, 64.0, 256.0, 1024.0])
    found = saturating(0.3 / (1 + 40 / sizes), sizes)
    assert found["largest_rate"] == pytest.approx(0.3) and found["rate_scale"] == pytest.approx(40.0)
    assert found["rate_misfit"] < 1e-6 and found["direct"] == 50.0


def test_steps_that_grow_as_a_power_are_nearer_to_one_and_too_few_have_no_law() -> None:
    sizes = np.array([4.0, 16.0, 64.0, 256.0, 1024.0])
    assert saturating(0.01 * sizes**0.5 * np.array([1.01, 0.99, 1.0, 0.99, 1.01]), sizes)["rate_misfit"] > 5
    lost = saturating([0.1, 0.2, np.nan, -1.0, np.nan], sizes)
    assert np.isnan([lost["largest_rate"], lost["rate_scale"], lost["rate_misfit"]]).all()


def test_the_best_rate_of_a_branch_is_the_one_with_the_fewest_steps() -> None:
    rows = [
        {"seed": 1, "epoch": 0.9, "batch_size": size, "rate": rate, "steps": steps, "loss": 0.5, "noise_scale": 7.0}
        for size, each in ((8, (30, 20, None)), (32, (9, None, None)), (128, (None, None, None)))
        for rate, steps in zip((0.1, 0.2, 0.4), each, strict=True)
    ]
    table = tuned_branches(pd.DataFrame(rows))
    assert list(table["steps"])[:2] == [20, 9] and np.isnan(table["steps"].iloc[2])
    assert list(table["rate"])[:2] == [0.2, 0.1] and list(table["at_edge"])[:2] == [False, True]


class Difference(nn.Module):
    """``w - x``, with :func:`bowl` a loss of the Hessian H."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w - x


def bowl(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (H * output**2).sum(1).mean()


def quadratic(count: int) -> tuple[Loss, Tensor]:
    x = 1 + torch.randn(count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Loss(Difference(), bowl, [(x, x)], dtype=torch.float64), x


def test_steps_of_random_batches_on_a_quadratic_are_those_of_the_closed_form() -> None:
    loss, x = quadratic(30)
    rates = [0.05, 0.2, 0.8]
    changes = np.array(measure.step_changes(loss, 3, rates, 300, seed=1))
    gradients = -H * x
    g, deviations = gradients.mean(0), gradients - gradients.mean(0)
    noise = float((deviations**2 * H).sum(1).mean()) / 3
    for column, rate in enumerate(rates):
        exact = -rate * float(g @ g) + rate**2 / 2 * (float(g @ (H * g)) + noise)
        error = changes[:, column].std() / 300**0.5
        assert abs(changes[:, column].mean() - exact) < 4 * error


def test_the_prediction_is_the_best_step_of_the_closed_form() -> None:
    loss, x = quadratic(30)
    gradients = -H * x
    g, deviations = gradients.mean(0), gradients - gradients.mean(0)
    numbers = GradientNoise(num_hvps=30)(loss).numbers
    row = {name: numbers[name].value for name in measure.MOMENTS}
    table = predicted(pd.DataFrame([row | {"examples": 30, "batch_size": 5}]))
    felt = float(g @ (H * g)) + float((deviations**2 * H).sum(1).mean()) / 5
    assert table["predicted_rate"].iloc[0] == pytest.approx(float(g @ g) / felt, rel=1e-9)
    assert table["predicted_fall"].iloc[0] == pytest.approx(float(g @ g) ** 2 / 2 / felt, rel=1e-9)


def test_a_best_step_outside_the_grid_is_not_made_up() -> None:
    falling = pd.DataFrame([{"rates": [1.0, 2.0, 4.0], "changes": [[-1.0, -2.0, -3.0], [-1.0, -2.0, None]]}])
    rising = pd.DataFrame([{"rates": [1.0, 2.0, 4.0], "changes": [[1.0, 2.0, 3.0]]}])
    none = pd.DataFrame([{"rates": [], "changes": []}])
    assert all(np.isnan(searched(table)["rate"].iloc[0]) for table in (rising, none))
    assert np.isnan(searched(falling)["fall_lower"].iloc[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run to a low loss of the smoke form."""
    config = study.cells_of(PRESETS["smoke"], 1)[0].config
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / config.run_id, config)
    train(config, load_run_data(config), run, torch.device("cpu"))
    return run


def test_the_noise_of_a_checkpoint_is_that_of_its_single_gradients(trained: RunFolder) -> None:
    knobs = {"epochs": [0.9], "band": None, "examples": 200}
    (row,) = measure.noise_scales(site(trained.path), **knobs)
    dataset = load_run_data(trained.config())
    model = load_network(
        trained, measure.checkpoint_at(site(trained.path), 0.9).name, dataset, torch.device("cpu")
    ).double()
    gradients = []
    for image, label in zip(dataset.train.inputs, dataset.train.targets, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None].double() / 255), label[None]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    stacked = torch.stack(gradients)
    assert row["square"] == pytest.approx(float(stacked.mean(0).square().sum()), rel=1e-4)
    assert row["noise_trace"] == pytest.approx(float(stacked.var(0).sum()), rel=1e-4)
    assert row["num_train"] == 200 and row["epoch"] == pytest.approx(0.9)


def test_only_checkpoints_within_the_band_are_measured(trained: RunFolder) -> None:
    def epochs(band: list[float]) -> list[float]:
        knobs = {"epochs": None, "band": band, "examples": 20}
        rows = measure.noise_scales(site(trained.path), **knobs)
        return [row["epoch"] for row in rows]

    every = epochs([0.0, 10.0])
    assert every == sorted(every) and every[0] == 0 and every[1] == pytest.approx(0.9, abs=0.05)
    assert epochs([0.0, 0.1]) == []


def test_a_checkpoint_that_was_not_kept_is_refused(trained: RunFolder) -> None:
    with pytest.raises(InputError, match=r"expected a checkpoint of epoch 0\.6, got those of 0, 0\.9"):
        measure.checkpoint_at(site(trained.path), 0.6)


def test_descent_is_the_training_loop(trained: RunFolder) -> None:
    config, dataset = trained.config(), load_run_data(trained.config())
    model = load_network(trained, "x0", dataset, torch.device("cpu"))
    orders = (epoch_order(0, epoch, 200) for epoch in itertools.count(1))
    steps = descent.descend(model, dataset.train, orders, 20, config.training.learning_rate)
    losses = list(itertools.islice(steps, 27))
    later = load_network(trained, "checkpoint-27", dataset, torch.device("cpu"))
    torch.testing.assert_close(flatten(model), flatten(later), rtol=1e-4, atol=1e-6)
    assert np.mean(losses[10:20]) == pytest.approx(trained.log()[2]["train_loss"], rel=1e-4)


def test_a_branch_stops_at_its_target_or_where_another_rate_was_faster(trained: RunFolder) -> None:
    knobs = {"epoch": 0.9, "batch_sizes": [8, 40], "most": [400, 400], "growth": 1.1, "examples": 200, "share": 0.8}
    knobs |= {"settle": {"updates": 2, "batch_size": 50, "rate": 0.01}, "noise_examples": 100}
    rows = descent.branches(site(trained.path), rates=[[0.05, 1e-9, 0.05], [1e9]], **knobs)
    fast, slow, again, lost = rows
    assert fast["steps"] == again["steps"] and 0 < fast["steps"] < 400
    assert slow["steps"] is None and slow["most"] == fast["steps"] and lost["steps"] is None
    assert {row["step"] for row in rows} == {measure.checkpoint_at(site(trained.path), 0.9).step}


def test_steps_are_counted_to_the_first_look_at_or_below_the_target() -> None:
    made: list[int] = []
    updates = (made.append(k) for k in itertools.count())
    # Looks after 1, 2, 3, 5, 8, 12 updates; the loss after n of them is 1 / n.
    assert descent.steps_to(0.15, updates, lambda: 1 / len(made), 100, 1.5) == 8
    made.clear()
    assert descent.steps_to(0.001, updates, lambda: 1 / len(made), 10, 1.5) is None and len(made) == 10
    made.clear()
    assert descent.steps_to(0.5, updates, lambda: float("nan"), 10, 1.5) is None and len(made) == 1


def test_tasks_have_only_their_classes(trained: RunFolder) -> None:
    dataset = load_run_data(trained.config())
    split = descent.of_classes(dataset.train, [1, 9])
    assert set(split.targets.tolist()) == {1, 9}
    assert len(split) == int(((dataset.train.targets == 1) | (dataset.train.targets == 9)).sum())
    task = {"band": [0.0, 9.0], "rate": 0.1, "batch_size": 16, "looks": 3, "growth": 2.0, "examples": 30}
    rows = descent.two_classes(site(trained.path), classes=[1, 9], **task)
    assert [row["step"] for row in rows] == [1, 3, 7] and {row["num_train"] for row in rows} == {len(split)}


def test_equal_means_over_checkpoints() -> None:
    rows = pd.DataFrame({"seed": [0, 0, 1], "case": "a", "noise_scale": [2.0, 8.0, 3.0]})
    assert list(typical(rows, ["seed", "case"])["noise_scale"]) == pytest.approx([4.0, 3.0])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_run_of_every_preset_can_be_trained(name: str) -> None:
    cells = study.cells_of(PRESETS[name], 1)
    for cell in cells:
        check_config(cell.config)
    wanted = list(study.measurements(PRESETS[name], cells))
    assert {each.name for each in wanted} == {"noise", "line_search", "branches", "two_classes"}


@pytest.mark.study
def test_the_paper_preset_makes_its_first_steps(tmp_path: Path) -> None:
    manifests = first_steps(study.cells_of(PRESETS["paper"], 1), tmp_path)
    assert len(manifests) == 3 and {manifest["status"] for manifest in manifests} == {"finished"}


@pytest.mark.study
def test_a_smoke_run_writes_everything_and_is_not_done_twice(tmp_path: Path) -> None:
    out, _ = smoke_once("mccandlish2018", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"noise_scale.pdf", "front_table.md", "batch_sizes.md", "findings.json", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 20
