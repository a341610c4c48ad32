"""Update equivalence: walks against dense Hessians, noise against its definition, verdicts on planted numbers."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis.runs import Tables
from analysis.update_equivalence import numbers as numbers
from analysis.update_equivalence import report as analysis
from sharpness.errors import InputError
from sharpness.training import check_config, train
from sharpness.vectors import flatten
from tests.study_cases import first_steps, script, site, smoke_once

study: Any = script("update_equivalence")
measure: Any = script("measures.update_equivalence")
walks: Any = script("measures.update_equivalence_walks")


def small_network(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, torch.randn(8, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def example_loss(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    """The loss of one batch as a function of the flat vector, cut by hand."""
    named = [(name, p.shape) for name, p in model.named_parameters()]

    def value(w: Tensor) -> Tensor:
        parts = torch.split(w, [shape.numel() for _, shape in named])
        tensors = {name: part.view(shape) for (name, shape), part in zip(named, parts, strict=True)}
        return cross_entropy(torch.func.functional_call(model, tensors, (x,)), y)

    return value


@pytest.mark.parametrize("small", [1, 2])
def test_end_points_are_those_of_plain_sgd(small: int) -> None:
    model, x, y = small_network()
    rate, start = 0.3, flatten(model)
    found = walks.relative_distances(model, x, y, rate, [4, 8], small)
    assert torch.equal(flatten(model), start)
    for B, (apart, length) in found.items():
        ends = []
        for size, step in ((small, rate), (B, rate * B / small)):
            other, _, _ = small_network()
            sgd = torch.optim.SGD(other.parameters(), lr=step)
            for first in range(0, B, size):
                sgd.zero_grad()
                cross_entropy(other(x[first : first + size]), y[first : first + size]).backward()
                sgd.step()
            ends.append(flatten(other))
        assert length == pytest.approx(float((ends[1] - start).norm()), rel=1e-12)
        assert apart == pytest.approx(float((ends[0] - ends[1]).norm()) / length, rel=1e-9)


def test_the_first_order_is_the_sum_of_each_hessian_times_the_gradients_before() -> None:
    model, x, y = small_network()
    w, rate, moved = flatten(model), 1e-5, torch.zeros(len(flatten(model)), dtype=torch.float64)
    expected, total = torch.zeros_like(moved), torch.zeros_like(moved)
    for i in range(8):
        loss = example_loss(model, x[i : i + 1], y[i : i + 1])
        hessian: Any = torch.autograd.functional.hessian(loss, w)
        expected += hessian @ total
        total += torch.func.grad(loss)(w)
    apart, _ = walks.relative_distances(model, x, y, rate, [8])[8]
    assert apart == pytest.approx(rate * float(expected.norm() / total.norm()), rel=1e-3)


def test_equal_examples_are_apart_by_half_the_rate_times_the_curvature_along_the_gradient() -> None:
    model, x, y = small_network()
    x, y = x[:1].expand(8, 3), y[:1].expand(8)
    loss, w, rate = example_loss(model, x[:1], y[:1]), flatten(model), 1e-5
    gradient = torch.func.grad(loss)(w)
    hessian: Any = torch.autograd.functional.hessian(loss, w)
    along, largest = float((hessian @ gradient).norm() / gradient.norm()), float(torch.linalg.eigvalsh(hessian)[-1])
    apart, length = walks.relative_distances(model, x, y, rate, [8])[8]
    assert length == pytest.approx(8 * rate * float(gradient.norm()), rel=1e-12)
    assert apart == pytest.approx(rate * 7 / 2 * along, rel=1e-3)
    assert apart <= rate * 7 / 2 * largest * 1.001


def test_a_step_has_the_decay_of_its_run_and_weights_come_back() -> None:
    model = nn.Linear(1, 2, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])
    with walks.back_after(model):
        walks.descend(model, x, y, rate=0.1, decay=0.5)
        # softmax is 1/2 each: gradients -1/2 and 1/2, and 0.5 * 2 of the decay
        assert model.weight.flatten().tolist() == pytest.approx([2 - 0.1 * 0.5, 2 - 0.1 * 1.5])
    assert model.weight.flatten().tolist() == [2.0, 2.0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of one small run of the smoke form, with its config and checkpoints."""
    cell = study.cells_of(study.PRESETS["smoke"], 1)[0]
    folder = tmp_path_factory.mktemp("equivalence")
    from sharpness.runs import RunFolder
    from sharpness.runs.networks import load_run_data

    place = RunFolder.create(folder / "run", cell.config)
    train(cell.config, load_run_data(cell.config), place, torch.device("cpu"))
    return place.path, study.checkpoints(study.PRESETS["smoke"], cell)


def call(function: Any, run: Any, **knobs: Any) -> list[dict[str, Any]]:
    return function(site(run[0]), steps=run[1], **knobs)


def test_the_variance_is_the_trace_over_the_batch_size(run: Any) -> None:
    rows = call(measure.variances, run, batches=[8], draws=200)
    assert [(row["checkpoint"], row["large_batch"]) for row in rows[:2]] == [(0, 1), (0, 8)]
    place = next(measure.places(site(run[0]), [0]))
    whole = example_loss(place.model, place.inputs, place.targets)
    gradient = torch.func.grad(whole)(flatten(place.model))
    singles = [
        torch.func.grad(example_loss(place.model, place.inputs[i : i + 1], place.targets[i : i + 1]))(
            flatten(place.model)
        )
        for i in range(len(place.targets))
    ]
    trace = float((torch.stack(singles) - gradient).square().sum(1).mean())
    assert rows[0]["variance"] == pytest.approx(trace, rel=1e-9)
    assert rows[0]["gradient_square"] == pytest.approx(float(gradient.square().sum()), rel=1e-9)
    assert rows[1]["variance"] == pytest.approx(trace / 8, rel=0.15)  # 200 draws


def test_curvatures_are_those_of_the_whole_training_set(run: Any) -> None:
    (first, *_) = call(measure.curvatures, run)
    place = next(measure.places(site(run[0]), [0]))
    loss = example_loss(place.model, place.inputs, place.targets)
    w = flatten(place.model)
    gradient = torch.func.grad(loss)(w)
    ahead = torch.func.jvp(torch.func.grad(loss), (w,), (gradient,))[1]
    assert first["loss"] == pytest.approx(float(loss(w)), rel=1e-9)
    assert first["along_gradient"] == pytest.approx(float(ahead.norm() / gradient.norm()), rel=1e-6)
    assert first["converged"] and first["top_eigenvalue"] >= 0.99 * first["along_gradient"]


def test_the_loss_falls_at_every_small_step_and_at_few_that_are_too_long(run: Any) -> None:
    good, bad = (call(measure.falls, run, rate=rate, batch=100, updates=6)[0] for rate in (1e-3, 50.0))
    assert good["share"] == 1 and bad["share"] <= 0.5
    place = next(measure.places(site(run[0]), [0]))
    assert good["norm"] == pytest.approx(float(flatten(place.model).norm()), rel=1e-12)


def test_a_walk_that_leaves_the_numbers_has_no_distance(run: Any) -> None:
    knobs: dict[str, Any] = {"batches": [16], "small": 2, "draws": 1}
    rows = call(measure.distances, run, rates=[1e-3, 1e200], **knobs)
    assert [row["distance"] is None for row in rows[:2]] == [False, True]
    json.dumps(rows, allow_nan=False)


def test_networks_with_batch_norm_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from sharpness.config import ModelConfig
    from sharpness.runs import RunFolder
    from sharpness.runs.networks import load_run_data

    base = study.PRESETS["smoke"].base
    training = replace(base.training, epochs=1, batch_size=64)
    config = replace(base, model=ModelConfig(name="f1_small", norm="running"), training=training)
    train(config, load_run_data(config), RunFolder.create(tmp_path / "run", config), torch.device("cpu"))
    with pytest.raises(InputError, match="without BatchNorm"):
        next(measure.places(site(tmp_path / "run"), [0]))


# --- the analysis on planted numbers


SETTINGS = asdict(study.PRESETS["cpu"])
ARMS = ("SB", "SB + L2", "LB", "LB + L2")


def planted(
    rate: float = 1.0, batch: float = 1.0, noise: float = -1.0, falls: tuple[float, float] = (0.5, 0.9)
) -> Tables:
    """Five seeds whose distances are 0.4 * 2^seed-ish * (product to given exponents), and whose noise has a slope."""
    rng = np.random.default_rng(0)
    apart, curved, spread, fell = [], [], [], []
    eta = SETTINGS["base"]["training"]["learning_rate"]
    for seed in range(5):
        for number, stage in enumerate(SETTINGS["stages"]):
            key, lam = {"arm": "SB", "seed": seed, "checkpoint": 2048 * stage}, 10.0 * (1 + number)
            numbers_here = {"top_eigenvalue": lam, "along_gradient": lam / 2, "gradient_square": 4.0}
            curved.append(key | numbers_here | {"loss": 1.0, "converged": True})
            spread += [
                key
                | {"large_batch": B, "variance": 8.0 * B**noise * math.exp(0.02 * rng.normal()), "gradient_square": 4.0}
                for B in (1, *SETTINGS["batches"])
            ]
            for share in SETTINGS["rates"]:
                for B in SETTINGS["batches"]:
                    value = 0.4 * (share * eta * lam) ** rate * B**batch * math.exp(0.02 * rng.normal())
                    fact = {"draw": 0, "rate": share * eta, "large_batch": B, "distance": value, "large_step": 1.0}
                    apart.append(key | fact)
            for arm in ARMS:
                low = falls[arm.startswith("LB")] + 0.01 * rng.normal()
                length = 10 * (1 + 0.1 * number * (0.5 if "L2" in arm else 1)) + 0.01 * rng.normal()
                steps = stage * (2048 if arm.startswith("SB") else 32)
                row = {"arm": arm, "seed": seed, "checkpoint": steps, "share": low, "norm": length, "loss": 1.0}
                fell.append(row | {"updates": 64})
    runs = [{"arm": arm, "seed": seed, "status": "finished"} for arm in ARMS for seed in range(5)]
    runs[-1]["status"], runs[-2]["status"] = "diverged", "missing"
    measured = {"distances": apart, "curvatures": curved, "variances": spread, "falls": fell}
    empty = pd.DataFrame()
    return Tables(
        pd.DataFrame(runs), empty, empty, empty, {name: pd.DataFrame(rows) for name, rows in measured.items()}
    )


def verdicts(tables: Tables) -> dict[str, str]:
    """Each finding's verdict by its claim."""
    found = analysis.findings(analysis.staged(tables, SETTINGS), SETTINGS)
    return {finding.claim: finding.verdict for finding in found}


@functools.cache
def usual() -> dict[str, str]:
    """Return the verdicts where nothing else is planted."""
    return verdicts(planted())


def verdict(found: dict[str, str], words: str) -> str:
    (one,) = [value for claim, value in found.items() if words in claim]
    return one


def test_planted_slopes_are_found_and_flip_the_verdicts() -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("in proportion to the rate", {"rate": 0.4}),
        ("in proportion to B", {"batch": 0.5}),
        ("variance sigma^2 / B", {"noise": -0.6}),
        ("second sense of stability", {"falls": (0.9, 0.5)}),
    ]
    for words, other in cases:
        assert verdict(usual(), words) == "reproduced", words
        assert verdict(verdicts(planted(**other)), words) == "contradicted", words


def test_planted_slopes_are_recovered_within_their_intervals() -> None:
    apart = analysis.staged(planted(rate=0.8, batch=0.6), SETTINGS)["distances"]
    near = apart.loc[apart["product"] <= 0.5]
    found = numbers.slope_within(near, "rate", "distance", ["seed", "stage", "large_batch", "draw"])
    assert found.value == pytest.approx(0.8, abs=0.02) and found.n == 5
    found = numbers.slope_within(near, "large_batch", "distance", ["seed", "stage", "rate", "draw"])
    assert found.value == pytest.approx(0.6, abs=0.02)


def test_the_threshold_is_where_the_planted_distance_passes_a_tenth() -> None:
    apart = analysis.staged(planted(), SETTINGS)["distances"]
    found, sentence = numbers.crossings(apart, 0.1), analysis.answer(apart, SETTINGS)
    # distance = 0.4 * product, so it passes 0.1 at a product of 0.25, whatever the stage and B
    inside = found["product"].dropna()
    assert len(inside) > 20 and inside.between(0.23, 0.27).all()
    assert "within 10 %" in sentence and "below 0.2" in sentence
    assert verdict(usual(), "end close to") == "contradicted"  # 0.4 * 0.064 * 10 and more at the training's rates


def test_the_two_senses_of_stability_are_told_apart() -> None:
    found = usual()
    assert [value for claim, value in found.items() if "L2 penalty holds" in claim] == ["reproduced"]
    assert [value for claim, value in found.items() if "does not help" in claim] == ["reproduced"]
    assert verdict(found, "weights grow alike") == "reproduced"


def test_what_was_not_measured_is_said_and_not_drawn() -> None:
    full = planted()
    empty = Tables(full.runs, full.epochs, full.tracked, full.probes, {})
    report = analysis.report(empty, SETTINGS)
    assert {finding.verdict for finding in report.findings} == {"not testable here"}
    assert all(isinstance(drawing, str) for drawing in report.drawings.values())
    (table,) = report.tables
    assert "18 of 20 runs finished, 1 diverged, 1 missing." in table.caption


def test_distances_that_are_not_finite_are_counted() -> None:
    tables = planted()
    distances = tables.measured["distances"]
    distances.loc[0, "distance"] = None
    (table,) = analysis.report(tables, SETTINGS).tables
    assert f"1 of {len(distances)} distances are not finite" in table.caption


# --- the script


def test_every_preset_can_be_trained() -> None:
    for preset in study.PRESETS.values():
        for cell in study.cells_of(preset, preset.seeds):
            check_config(cell.config)
        small, *_, large = study.cells_of(preset, 1)
        assert preset.large_batch % small.config.training.batch_size == 0
        assert all(size % small.config.training.batch_size == 0 for size in preset.batches)
        ratio = large.config.training.learning_rate / small.config.training.learning_rate
        assert ratio == preset.large_batch / small.config.training.batch_size
        assert preset.stages[0] == 0 and preset.stages[-1] == preset.base.training.epochs


@pytest.mark.study
def test_the_paper_preset_makes_its_first_step(tmp_path: Path) -> None:
    manifests = first_steps(study.cells_of(study.PRESETS["paper"], 1), tmp_path)
    assert [manifest["status"] for manifest in manifests] == ["finished"]


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("update_equivalence", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"distance.pdf", "variance.png", "stability.csv", "stages.md", "findings.json", "runs.csv"} <= names
    assert len(json.loads((out / "findings.json").read_text())) == 8
