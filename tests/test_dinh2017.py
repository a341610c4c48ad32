"""Dinh et al. 2017: rescaled Hessians against dense ones, planted measures judged, and the script at work."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analysis.dinh2017.numbers import (
    COLUMNS,
    MEASURES,
    area_growth,
    end_slopes,
    low_area,
    predictions,
    reversals,
    spread,
    with_ratios,
)
from analysis.dinh2017.report import findings, report
from analysis.runs import Tables
from sharpness.config import RunConfig
from sharpness.data import load_dataset, random_subset
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.symmetries.rescaling import Rescaling, find_rescalings
from sharpness.training import check_config, train
from tests.cases import Case
from tests.drawings import faults
from tests.oracles import dense_hessian
from tests.study_cases import first_steps, script, site, smoke_once

measure: Any = script("measures.dinh2017")
main: Any = script("dinh2017")
PAIRS = 2
ALPHAS = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, 16.0, 64.0)
MLP, NORMED = "ReLU network", "BatchNorm network"


def small(kind: str) -> tuple[Loss, Rescaling]:
    """Return a loss in float64 of 12 examples and its first rescaling of a kind."""
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(5)] if kind == "norm" else []
    model = nn.Sequential(nn.Linear(4, 5), *norm, nn.ReLU(), nn.Linear(5, 3)).double()
    for module in model:
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean, module.running_var = torch.randn(5).double(), 1 + torch.rand(5).double()
    batch = (torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3)
    loss = Loss(model, F.cross_entropy, [batch], dtype=torch.float64)
    return loss, next(group for group in find_rescalings(model) if group.kind == kind)


def dense(loss: Loss) -> torch.Tensor:
    """Return the Hessian of a loss at its own weights by an oracle that shares no code with it."""
    model = copy.deepcopy(loss.model)
    model.load_state_dict(loss.tensors(loss.weights))
    return dense_hessian(Case(lambda: model, F.cross_entropy), model, list(loss.batches), loss.weights)


@pytest.fixture(params=["pair", "norm"])
def given(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Loss, Rescaling]:
    """The small loss, which the study's own measurements get in place of a run's."""
    loss, rescaling = small(request.param)
    monkeypatch.setattr(measure, "rescalable", lambda *_: (loss, rescaling))
    return loss, rescaling


def call(function: Callable[..., Any], **knobs: Any) -> pd.DataFrame:
    """Return the rows of a measurement as a table."""
    rows = function(site(), **knobs)
    json.dumps(rows, allow_nan=False)  # as they are written
    return pd.DataFrame(rows)


def test_the_image_has_the_hessian_d_h_d_and_the_same_outputs(given: tuple[Loss, Rescaling]) -> None:
    loss, rescaling = given
    other = measure.image(loss, rescaling, 8.0)
    d = 1 / rescaling.factors(loss.layout, 8.0)
    before, after = dense(loss), dense(other)
    torch.testing.assert_close(after, d[:, None] * before * d)
    signs = [
        tuple(int((torch.sign(values[values.abs() > 1e-9]) == s).sum()) for s in (-1, 1))
        for values in map(torch.linalg.eigvalsh, (before, after))
    ]
    assert signs[0] == signs[1]  # Sylvester: rescaling changes no sign
    torch.testing.assert_close(other.outputs(other.weights), loss.outputs(loss.weights))


def test_blocks_are_those_of_the_dense_hessian_and_predict_the_rescaled_one(given: tuple[Loss, Rescaling]) -> None:
    loss, rescaling = given
    hessian, factors = dense(loss), rescaling.factors(loss.layout, 2.0)
    rows = call(measure.blocks, kind=rescaling.kind, examples=12, products=100)
    assert set(rows["power"]) == ({-1, 0, 1} if rescaling.kind == "pair" else {0, 1})
    for row in rows.to_dict("records"):
        own = factors == 2.0 ** row["power"]
        block = hessian[own][:, own]
        assert row["weights"] == int(own.sum())
        assert row["top_eigenvalue"] == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]), rel=1e-2)
        assert row["trace"] == pytest.approx(float(block.trace()), rel=6e-2)
    run = {"network": "a", "role": "SB", "seed": 0}
    expected = predictions(rows.assign(**run), pd.DataFrame([run | {"alpha": 32.0}])).iloc[0]
    after = dense(measure.image(loss, rescaling, 32.0))
    assert expected["sum"] == pytest.approx(float(after.trace()), rel=6e-2)
    top = float(torch.linalg.eigvalsh(after)[-1])
    assert expected["bound"] <= 1.01 * top
    if rescaling.kind == "pair":
        assert expected["bound"] == pytest.approx(top, rel=2e-2)


def test_measures_move_as_the_table_says(given: tuple[Loss, Rescaling]) -> None:
    rescaling = given[1]
    names = list(measure.probes_of(60))
    assert names == list(MEASURES)
    rows = call(measure.measures, kind=rescaling.kind, names=names, alphas=[1 / 8, 8.0], examples=12, products=60)
    table = with_ratios(rows.assign(network="a", role="SB", seed=0))
    assert set(table["alpha"]) == {1 / 8, 1.0, 8.0}
    assert table.loc[table["measure"] == "outputs", "value"].max() < 1e-12
    for name, (_, moves) in MEASURES.items():
        own = table.loc[(table["measure"] == name) & (table["alpha"] != 1)]
        assert any(own["moved"]) == moves, name
        if not moves:
            np.testing.assert_allclose(own["ratio"].dropna(), 1, rtol=1e-6, err_msg=name)


def test_the_ball_holds_the_constant_network(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, rescaling = small("pair")
    monkeypatch.setattr(measure, "rescalable", lambda *_: (loss, rescaling))
    (row,) = call(measure.constant_network, epsilon=0.05, examples=12).to_dict("records")
    first = torch.cat([loss.model[0].weight.flatten(), loss.model[0].bias])  # pyright: ignore
    constant = F.cross_entropy(loss.model[2].bias.detach().expand(12, 3), torch.arange(12) % 3)  # pyright: ignore
    assert row["alpha"] == pytest.approx(0.05 / float(first.detach().norm()))
    assert row["distance"] == pytest.approx(0.05) and row["outputs"] < 1e-12
    assert row["constant_loss"] == pytest.approx(float(constant))
    assert row["loss"] < loss.value(loss.weights) + row["found_rise"]


def test_a_network_without_the_rescaling_is_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", RunConfig())
    place = Namespace(run=run, subject=lambda examples: Namespace(loss=small("pair")[0]))
    with pytest.raises(InputError, match="kind 'norm'"):
        measure.rescalable(place, "norm", 10)


def planted(
    change: Callable[[str, float, str], float] | None = None, outputs: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return measures, blocks and balls of pairs whose blocks are known, LB twice as sharp as SB.

    The Hessian is of blocks alone, 4 and 1 times a run's size, so that all of it is known. ``change`` multiplies a
    measure, by its name, alpha and role.
    """
    rows, blocks, balls = [], [], []
    for network, last in ((MLP, -1), (NORMED, 0)):
        for role in ("SB", "LB"):
            for seed in range(PAIRS):
                run = {"network": network, "role": role, "seed": seed}
                size = (1 + role.count("L")) * (1 + 0.02 * seed)
                for power, top in ((1, 4 * size), (last, size)):
                    blocks.append(run | {"power": power, "weights": 9, "top_eigenvalue": top, "trace": 3 * top})
                balls.append(run | {"epsilon": 0.05, "distance": 0.05, "loss": 0.1, "constant_loss": 2.3})
                balls[-1] |= {"found_rise": 0.5}
                for alpha in ALPHAS:
                    tops = np.array([4 * size * alpha**-2, size * alpha ** (-2 * last)])
                    values = dict.fromkeys(MEASURES, size) | {"top_eigenvalue": tops.max(), "trace": 3 * tops.sum()}
                    values |= {
                        name: size * (alpha + 1 / alpha)
                        for name, (_, moves) in MEASURES.items()
                        if moves and name not in ("top_eigenvalue", "trace")
                    }
                    for name, value in values.items():
                        value *= 1.0 if change is None or alpha == 1 else change(name, alpha, role)
                        moved = None if alpha == 1 else MEASURES[name][1]
                        rows.append(run | {"measure": name, "alpha": alpha, "value": value, "moved": moved})
                    rows.append(run | {"measure": "outputs", "alpha": alpha, "value": outputs, "moved": None})
    table = pd.DataFrame(rows).assign(reason=None)
    return table, pd.DataFrame(blocks), pd.DataFrame(balls)


def verdicts(*tables: pd.DataFrame) -> dict[str, str]:
    measures, blocks, balls = tables
    table = with_ratios(measures)
    found = findings(table, predictions(blocks, table), balls, pd.DataFrame(columns=pd.Index(COLUMNS["two_weights"])))
    return {f"{each.claim}; {each.setting}": each.verdict for each in found}


def failing(change: Callable[[str, float, str], float] | None = None, outputs: float = 0.0) -> list[str]:
    """Return the claims that are not reproduced where something is planted, that of the volume left out."""
    found = verdicts(*planted(change, outputs))
    return [claim for claim, verdict in found.items() if verdict != "reproduced" and "volume" not in claim]


def test_planted_identities_are_reproduced_and_their_slopes_recovered() -> None:
    measures, blocks, balls = planted()
    assert failing() == []
    assert list(verdicts(measures, blocks, balls).values()).count("not testable here") == 1
    for network, far in ((MLP, 2.0), (NORMED, 0.0)):
        own = measures.loc[measures["network"] == network]
        np.testing.assert_allclose(end_slopes(own, "top_eigenvalue", -1), -2.0)
        np.testing.assert_allclose(end_slopes(own, "top_eigenvalue", 1), far, atol=1e-12)
    pairs = reversals(measures.loc[measures["network"] == MLP], "top_eigenvalue")
    np.testing.assert_allclose(pairs["order"], 2.0)
    np.testing.assert_allclose(pairs["factor"], 4 * 64**2 / 8)


@pytest.mark.parametrize(
    ("change", "claims"),
    [
        (lambda name, alpha, role: 1.5 if name == "adaptive_box" and alpha == 64 else 1.0, ["adaptive box does not"]),
        (lambda name, alpha, role: 3.0 if name == "relative_flatness" and role == "SB" else 1.0, ["relative", "order"]),
        (lambda name, alpha, role: alpha**-0.5 if name == "top_eigenvalue" else 1.0,
         ["at or above", "small α", "large α", "large α"]),
        (lambda name, alpha, role: 0.7 if name == "trace" else 1.0, ["trace"]),
        (lambda name, alpha, role: 2 / (alpha + 1 / alpha) if name == "keskar_box" else 1.0, ["Keskar's box moves"]),
    ],
)  # fmt: skip
def test_verdicts_flip_with_what_is_planted(change: Any, claims: list[str]) -> None:
    found = failing(change)
    for claim in claims:
        assert any(claim.lower() in each.lower() for each in found), (claim, found)
    assert len(found) <= 1 + len(claims)


def test_outputs_that_change_and_orders_that_stay_are_said() -> None:
    assert any("changes no output" in claim for claim in failing(outputs=1e-3))
    measures, blocks, balls = planted()
    still = measures.assign(value=np.where(measures["measure"] == "top_eigenvalue", 1.0, measures["value"]))
    still.loc[(still["role"] == "LB") & (still["measure"] == "top_eigenvalue"), "value"] = 2.0
    found = verdicts(still, blocks, balls)
    assert next(v for c, v in found.items() if c.startswith("Some α")) == "contradicted"
    outside = verdicts(measures, blocks, balls.assign(distance=1.0))
    assert next(v for c, v in outside.items() if c.startswith("T_α makes")) == "not testable here"


def tables_of(*tables: pd.DataFrame) -> Tables:
    labels = [{"network": n, "role": r, "seed": s} for n in (MLP, NORMED) for r in ("SB", "LB") for s in range(PAIRS)]
    status = ["diverged", "missing", *["finished"] * (len(labels) - 2)]
    runs = pd.DataFrame([label | {"status": s, "reason": s} for label, s in zip(labels, status, strict=True)])
    names = ("measures", "blocks", "constant_network", "two_weights")
    return Tables(runs, measured=dict(zip(names, tables, strict=False)))


def test_figures_and_tables_show_every_measure_and_count_every_run() -> None:
    measures, *others = planted()
    measures.loc[3, ["value", "reason"]] = [math.nan, "the loss was not finite"]
    result = report(tables_of(measures, *others, planted_areas(1.0)), {})
    names = {"curvature", "measures_relu_network", "measures_batchnorm_network", "volume"}
    assert set(result.drawings) == names
    for drawing in result.drawings.values():
        assert not isinstance(drawing, str)
        assert drawing.caption.endswith("6 of 8 runs finished, 1 diverged, 1 missing.")
        assert faults(drawing.figure) == []
    assert [len(table.rows) for table in result.tables] == [len(MEASURES)] * 2
    top = result.tables[0].rows[0]
    assert top[3:5] == ["24 of 24", "yes"] and top[6] == "2 of 2"
    assert any("the loss was not finite" in sentence for sentence in result.sentences)
    assert all("6 of 8" in table.caption for table in result.tables)


def test_without_measurements_there_are_reasons_and_nothing_is_claimed() -> None:
    result = report(tables_of(*[pd.DataFrame()] * 3), {})
    assert all(isinstance(drawing, str) for drawing in result.drawings.values()) and not result.tables
    assert {finding.verdict for finding in result.findings} == {"not testable here"}


RADII = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


def planted_areas(growth: float) -> pd.DataFrame:
    """Areas that grow with the logarithm of the radius by a multiple of what the closed form says."""
    rows = [
        {
            "network": MLP,
            "role": "SB",
            "seed": seed,
            "radius": radius,
            "rise": 0.05,
            "hits": 2000,
            "area": (1 + 0.01 * seed) * growth * float(low_area(radius, 0.05)),
        }
        for seed in range(PAIRS)
        for radius in RADII
    ]
    return pd.DataFrame(rows)


def test_the_area_of_low_loss_is_that_of_a_grid() -> None:
    edges = np.linspace(0, 4, 2001)
    middle = (edges[1:] + edges[:-1]) / 2
    w1, w2 = np.meshgrid(middle, middle)
    for radius in (2.0, 4.0):
        inside = (np.abs(w1 * w2 - 1) < 0.3) & (w1**2 + w2**2 < radius**2)
        assert inside.sum() * (4 / 2000) ** 2 == pytest.approx(float(low_area(radius, 0.09)), rel=2e-3)


def test_two_weights_have_the_area_of_the_closed_form_on_any_images() -> None:
    data = load_dataset("fashion_mnist_10k")
    config = RunConfig()
    place = Namespace(dataset=data, config=config, subset=lambda split, examples: random_subset(split, examples, 0))
    rows = measure.two_weights(place, examples=60, rise=0.05, radii=RADII, draws=2**16)
    assert [row["radius"] for row in rows] == list(RADII)
    for row in rows:
        assert row["hits"] > 100
        assert row["area"] == pytest.approx(float(low_area(row["radius"], 0.05)), rel=4 / row["hits"] ** 0.5)


@pytest.mark.parametrize(("growth", "expected"), [(1.0, "reproduced"), (0.5, "contradicted")])
def test_an_area_that_grows_without_bound_is_told_from_one_that_grows_less(growth: float, expected: str) -> None:
    areas = planted_areas(growth)
    assert area_growth(areas) == pytest.approx([growth, 1.01 * growth], rel=0.02)
    measures, blocks, balls = planted()
    table = with_ratios(measures)
    found = findings(table, predictions(blocks, table), balls, areas)
    assert [each.verdict for each in found if "Theorem 2" in each.claim] == [expected]


def test_the_range_is_that_of_what_is_finite() -> None:
    assert spread([2.0, math.nan, 4.0, 3.0]).upper == 4.0
    assert spread([math.nan]).reason == "no run has the number"


@pytest.mark.study
def test_smoke_form_runs_and_does_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("dinh2017", tmp_path)
    written = {path.name for path in out.iterdir()}
    assert {"curvature.pdf", "measures_relu_network.png", "moved_relu_network.tex", "findings.json"} <= written
    found = {each["claim"]: each for each in json.loads((out / "findings.json").read_text())}
    for name in ("Fisher-Rao norm does not", "Worst case, adaptive box does not", "The rescaling changes no output"):
        assert next(f for claim, f in found.items() if claim.startswith(name))["verdict"] == "reproduced"


def test_the_batch_norm_network_of_the_presets_is_rescaled_exactly(tmp_path: Path) -> None:
    preset = main.PRESETS["cpu"]
    cell = next(each for each in main.cells_of(preset, 1) if each.labels["network"] == NORMED)
    data = replace(cell.config.data, num_train=64, num_test=20)
    short = replace(cell.config, data=data, training=replace(cell.config.training, epochs=1))
    train(short, load_run_data(short), RunFolder.create(tmp_path / "run", short), torch.device("cpu"))
    loss, rescaling = measure.rescalable(site(tmp_path / "run"), "norm", 32)
    for alpha in preset.arms[NORMED].alphas:
        other = measure.image(loss, rescaling, alpha)
        assert measure.output_change(loss, loss.weights, other, other.weights) < 1e-5


@pytest.mark.study
def test_presets_are_valid_and_the_paper_ones_begin(tmp_path: Path) -> None:
    for preset in main.PRESETS.values():
        cells = main.cells_of(preset, preset.seeds)
        for cell in cells:
            check_config(cell.config)
        assert {cell.labels["role"] for cell in cells} == {"SB", "LB"}
    paper = main.PRESETS["paper"]
    assert "never run" in paper.about
    for cell in (each for each in main.cells_of(paper, 1) if each.labels["role"] == "SB"):
        (manifest,) = first_steps([cell], tmp_path / cell.labels["network"])
        assert manifest["status"] == "finished" and manifest["step"] == 1
