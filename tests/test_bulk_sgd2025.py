"""Learning and the top eigenspace: projections against dense matrices, verdicts on planted branches, the smoke form."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from analysis.claims2026.bulk_sgd2025 import numbers
from analysis.claims2026.bulk_sgd2025 import report as analysis
from analysis.claims2026.bulk_sgd2025.story import STORY
from analysis.report.findings import Finding
from analysis.report.report import Report
from analysis.report.story import find
from analysis.runs import Tables
from sharpness.loss import Loss
from sharpness.loss.square_loss import square_loss
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import check_config
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.vectors import flatten
from tests.drawings import faults
from tests.study_cases import do, first_steps, script, site, smoke_once

study: Any = script("claims2026.bulk_sgd2025")
measure: Any = script("measures.bulk_sgd2025")
SMOKE = study.PRESETS["smoke"]


def small_loss() -> tuple[Loss, Tensor]:
    """A tanh network in float64 over two uneven batches, and its dense Hessian by autograd over all examples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,))
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def value(w: Tensor) -> Tensor:
        pieces = w.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}
        outputs = functional_call(model, named, (x,))
        return (outputs - nn.functional.one_hot(y, 3)).square().sum(1).mean() / 2

    dense = torch.autograd.functional.hessian(value, flatten(model))
    assert isinstance(dense, Tensor)
    return Loss(model, square_loss, [(x[:12], y[:12]), (x[12:], y[12:])], dtype=torch.float64), dense


def test_projections_are_those_of_the_dense_hessian_s_eigenspace() -> None:
    loss, dense = small_loss()
    k, u = 3, torch.randn(len(dense), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(dense)
    top = vectors[:, -k:]
    pairs = measure.Solver(k, 1e-9, 200)(loss)
    torch.testing.assert_close(pairs.eigenvalues, values.flip(0)[:k])
    inside = top @ (top.T @ u)
    torch.testing.assert_close(measure.projected(u, pairs.eigenvectors, "dominant"), inside)
    torch.testing.assert_close(measure.projected(u, pairs.eigenvectors, "bulk"), u - inside)
    gradient = loss.grad(loss.weights)
    expected = float((top.T @ gradient).square().sum() / gradient.square().sum())
    assert measure.seen(loss, pairs)["share"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("optimizer", "rho"), [("momentum", None), ("adam", 0.03)])
def test_the_two_parts_of_an_update_are_the_whole_one_whatever_makes_it(
    optimizer: str, rho: float | None, tmp_path: Path
) -> None:
    arm = study.Arm("", "", 1e-3, 20, 2, 2, 1, optimizer, rho)
    config, moves = study.cell_of(SMOKE, arm, 0).config, dict[str, Tensor]()
    solve = measure.Solver(3, 0.1, 20)
    for kind in ("plain", "dominant", "bulk"):
        run = RunFolder.create(tmp_path / kind, config)
        session = Session.open(config, load_run_data(config), run, torch.device("cpu"))
        before, basis = flatten(session.model), solve(session.loss_over(session.train)).eigenvectors
        assert len(list(measure.walk(session, Position(), kind, solve, 0, 1, 1))) == 1
        moves[kind] = flatten(session.model) - before
    torch.testing.assert_close(moves["dominant"] + moves["bulk"], moves["plain"], atol=1e-6, rtol=1e-3)
    assert measure.share(moves["dominant"], basis) == pytest.approx(1, abs=1e-3)
    assert measure.share(moves["bulk"], basis) < 1e-5 < measure.share(moves["plain"], basis)


def test_branches_begin_at_one_point_and_full_batches_move_along_the_gradient(tmp_path: Path) -> None:
    cell = study.cells_of(SMOKE, 1)[0]
    folder = script("runner.folder").StudyFolder(tmp_path, "cpu", None)
    do(folder.training_jobs([cell]))
    tasks = {task.name: task for task in study.measurements_of(SMOKE, [cell])}
    here = site(folder.place(cell))
    approach, rows = (tasks[name].function(here, **tasks[name].knobs) for name in ("approach", "branches"))
    assert [row["step"] for row in approach] == [0, 2, 4]
    assert [row["kind"] for row in rows[::3]] == list(measure.KINDS) and len(rows) == 12
    assert len({row["loss"] for row in rows if row["step"] == 0}) == 1
    for row in rows:
        assert 0 <= row["share"] <= 1 and (row["kept"] is None) == (row["step"] == 0)
        if row["kind"] == "full batch":
            assert row["update_share"] == pytest.approx(row["share"], abs=1e-3)


ARMS = {arm.name: arm for arm in study.PRESETS["cpu"].arms}
SETTINGS = {"base": {"model": {"name": "small"}, "data": {"name": "made", "num_train": 9}}, "solver": {"k": 3}}
SETTINGS |= {"seeds": 4, "settle": 20}


@functools.cache
def planted(arm: str = "", **changed: float) -> Tables:
    """Four seeds as the paper has them, with numbers of one way to train changed."""
    rng, runs, walked, before = np.random.default_rng(0), [], [], []
    for name, way in ARMS.items():
        own = {"share": 0.95, "dominant": 0.0, "bulk": 1.0, "later": 0.01, "edge": 1.0, "fall": 0.3}
        own["update_share"] = 0.15 if way.method == "Adam" else 0.7
        own |= changed if arm == name else {}
        for seed in range(4):
            labels = {"method": way.method, "arm": name, "learning_rate": way.rate, "batch_size": 50, "seed": seed}
            runs.append(labels | {"status": "finished", "reason": None})
            top = 2 * own["edge"] / way.rate
            for step in range(0, way.before + 1, way.before // 4):
                seen = {"step": step, "loss": 0.2, "share": own["share"], "top_eigenvalue": top}
                before.append(labels | seen)
            parts = {"plain": 1.0, "dominant": own["dominant"], "bulk": own["bulk"]}
            for kind, part in (parts | ({"full batch": 1.0} if way.method == "SGD" else {})).items():
                for step in range(0, way.after + 1, way.after // 8):
                    late = step >= 0.75 * way.after
                    loss = 0.1 * np.exp(-own["fall"] * part * late + rng.normal(0, 0.003))
                    share = own["later"] if kind == "full batch" and step else own["share"]
                    row = {"kind": kind, "step": step, "loss": loss, "share": share + rng.normal(0, 0.01)}
                    row |= {"top_eigenvalue": top, "update_share": own["update_share"] + rng.normal(0, 0.01)}
                    walked.append(labels | row | {"kept": 0.99})
    measured = {"branches": pd.DataFrame(walked), "approach": pd.DataFrame(before)}
    return Tables(pd.DataFrame(runs), measured=measured)


@functools.cache
def usual() -> Report:
    """Return the report, whose figures are drawn once, where nothing else is planted."""
    return analysis.report(planted(), SETTINGS)


@functools.cache
def planted_findings(arm: str = "", **changed: float) -> list[Finding]:
    return findings_of(planted(arm, **changed))


def findings_of(tables: Tables) -> list[Finding]:
    return analysis.findings(numbers.summaries(tables), SETTINGS)


def verdict(findings: list[Finding], pattern: str) -> str:
    found = find(pattern, findings)
    assert found is not None
    return found.verdict


@pytest.mark.parametrize(
    ("pattern", "arm", "column", "value", "expected"),
    [
        ("SGD: the gradient lies", "SGD, B = 50", "share", 0.3, "contradicted"),
        ("SGD: updates within", "SGD, B = 50", "dominant", 0.5, "contradicted"),
        ("SGD: updates without", "SGD, B = 50", "bulk", 0.4, "contradicted"),
        ("gradient descent: updates within", "GD, rate 0.1", "dominant", 1.0, "contradicted"),
        ("momentum: updates without", "momentum, B = 50", "bulk", -0.5, "contradicted"),
        ("Adam: updates without", "Adam, rate 1e-4", "bulk", -2.0, "contradicted"),
        ("Adam: updates without.*: Adam, rate 3e-4$", "Adam, rate 3e-4", "bulk", -2.0, "contradicted"),
        ("SAM: the gradient lies", "SAM, radius 0.03", "share", 0.2, "contradicted"),
        ("noise is the cause", "SGD, B = 50", "later", 0.9, "contradicted"),
        ("here at the edge", "GD, rate 0.1", "edge", 0.5, "contradicted"),
        ("Adam moves more", "Adam, rate 1e-4", "update_share", 0.9, "contradicted"),
        ("SGD: updates within", "SGD, B = 50", "fall", 0.01, "not testable here"),
    ],
)
def test_verdicts_follow_what_is_planted(pattern: str, arm: str, column: str, value: float, expected: str) -> None:
    assert verdict(planted_findings(), pattern) == "reproduced"
    assert verdict(planted_findings(arm, **{column: value}), pattern) == expected


def test_a_branch_that_is_not_finite_has_no_number_and_no_verdict() -> None:
    tables = planted()
    walked = tables.measured["branches"]
    lost = (walked["arm"] == "GD, rate 0.1") & (walked["kind"] == "bulk") & (walked["seed"] == 2)
    broken = walked.assign(loss=walked["loss"].mask(lost & (walked["step"] > 0)))
    found = findings_of(Tables(tables.runs, tables.epochs, tables.tracked, tables.probes, {"branches": broken}))
    assert verdict(found, "gradient descent: updates without") == "not testable here"
    assert verdict(found, "gradient descent: updates within") == "reproduced"


def test_figures_table_and_story_are_whole() -> None:
    result = usual()
    for drawing in result.drawings.values():
        assert not isinstance(drawing, str)
        assert faults(drawing.figure) == [] and drawing.caption.endswith("28 of 28 runs finished.")
    assert "held 0.990 of the last one" in result.sentences[0]
    assert STORY.figure in result.drawings and [row[0] for row in result.tables[0].rows] == list(ARMS)
    assert all(find(point.pattern, result.findings) for point in STORY.points)


def test_what_was_seen_before_ends_as_many_updates_before_the_branches_as_lie_between() -> None:
    drawing = usual().drawings["branches"]
    assert not isinstance(drawing, str)
    for right in drawing.figure.axes[1::2]:
        before, *along = (np.asarray(line.get_xdata()) for line in right.lines)
        assert before.max() == -SETTINGS["settle"] and {line.min() for line in along} == {0}


def test_without_measurements_nothing_is_claimed() -> None:
    result = analysis.report(Tables(planted().runs), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert not result.findings and not result.tables and "no verdict" in result.sentences[0]


def test_presets_can_be_trained_and_every_branch_ends_with_a_measurement(tmp_path: Path) -> None:
    for preset in study.PRESETS.values():
        for cell in study.cells_of(preset, preset.seeds):
            check_config(cell.config)
        for arm in preset.arms:
            assert arm.before % preset.checkpoints == 0 and arm.after >= preset.marks
        assert preset is SMOKE or {arm.method for arm in preset.arms} == set(analysis.METHODS)
    manifests = first_steps(study.cells_of(study.PRESETS["paper"], 1), tmp_path)
    assert {manifest["status"] for manifest in manifests} == {"finished"}


@pytest.mark.study
def test_the_smoke_form_writes_everything_and_then_nothing_again(tmp_path: Path) -> None:
    out, _ = smoke_once("claims2026.bulk_sgd2025", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"falls.pdf", "branches.png", "falls_table.md", "findings.json", "runs.csv"} <= names
