"""Planted results of ``scripts/keskar2017.py``: tables as a study would leave them, with known numbers in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs import LOSSES, PROBE_FIELDS, Tables, with_columns
from tests.landscape_records import plane
from tests.study_cases import script

main: Any = script("keskar2017")
Labels = Mapping[str, Any]
ALPHAS = [round(-1 + 0.125 * k, 12) for k in range(25)]


def settings_of(name: str) -> dict[str, Any]:
    """Return a preset as the runner hands it to the rendering."""
    return {"preset": name, "seeds": 5, **json.loads(json.dumps(asdict(main.PRESETS[name]), default=str))}


SETTINGS = settings_of("full")
CELLS = main.cells_of(main.PRESETS["full"], 5)


def phi_as_in_the_paper(labels: Labels) -> float:
    """Return sharpness in per cent as the paper and its remedies have it."""
    if labels["arm"] == "batch":
        return 5.0 * 30 ** (np.log(min(labels["batch_size"], 256) / 32) / np.log(8))  # LB is beyond 256
    if labels["arm"] == "growing batch":
        return 10.0
    if labels["arm"] == "warm start":
        return 100.0 / labels["warm_epochs"]
    return 5.0 if labels["role"] == "SB" else 150.0


def accuracy_as_in_the_paper(labels: Labels) -> float:
    """Return the test accuracy: LB worse unless its rate is tuned or it makes as many updates, falling from 256 on."""
    if labels["arm"] == "batch":
        return 0.85 - 0.02 * max(0.0, np.log2(labels["batch_size"] / 256))
    cured = labels["arm"] in ("equal updates", "warm start") or labels.get("learning_rate") == 4e-3
    return 0.85 if labels["role"] == "SB" or cured else 0.83


@dataclass(frozen=True)
class Plant:
    """Planted numbers: sharpness, accuracy and the way a run ended by its labels, sharpness along training by loss."""

    phi: Callable[[Labels], float] = phi_as_in_the_paper
    accuracy: Callable[[Labels], float] = accuracy_as_in_the_paper
    status: Callable[[Labels], str] = lambda labels: "finished"
    far: Mapping[str, float] | None = None
    growth: Mapping[str, float] | None = None
    """The exponent of 1 / loss in sharpness along training, by role."""
    width: Mapping[str, float] | None = None
    """The rise of the loss per squared alpha beside a solution, by role."""
    ended_by: str = "train_loss"
    ended_at: Callable[[Labels], float] = lambda labels: 0.009
    """The training loss where one is the goal."""


def planted(plant: Plant, preset: str = "full", cells: Sequence[Any] = CELLS) -> Tables:
    """Return the tables of the study of a preset with these cells, small noise on everything that is planted."""
    rng = np.random.default_rng(0)
    runs, epochs, probes = [], [], []
    tables: dict[str, list[dict[str, Any]]] = {"along_training": [], "slices": [], "surfaces": []}
    varied = main.PRESETS[preset].arms.label
    for number, cell in enumerate(cells):
        labels, status = dict(cell.labels), plant.status(cell.labels)
        shared = labels | {"run_id": f"run-{number}", "status": status}
        runs.append(shared | _run(cell, plant, status, rng))
        if status != "missing":
            epochs += [shared | row for row in _epochs(cell)]
        if status == "finished":
            probes += [shared | row for row in _probes(cell, plant, rng)]
            beside = _beside(cell, plant, rng) if main.PRESETS[preset].beside else []
            probes += [shared | row for row in beside]
        if status == "finished" and labels["arm"] == "base" and labels["network"] == varied:
            tables["along_training"] += [labels | row for row in _along(labels["role"], plant, rng)]
        if status == "finished" and labels["arm"] == "base":
            tables["slices"] += [labels | row for row in _slice(labels["role"], plant)]
            if labels["seed"] == 0:
                tables["surfaces"].append(labels | {"record": plane(test=False).to_dict()})
    columns = [*cells[0].labels, "run_id", "status"]
    return Tables(
        pd.DataFrame(runs),
        with_columns(pd.DataFrame(epochs), [*columns, "epoch", "step", *LOSSES]),
        pd.DataFrame(),
        with_columns(pd.DataFrame(probes), [*columns, "probe", "quantity", *PROBE_FIELDS]),
        {name: pd.DataFrame(rows) for name, rows in tables.items()},
    )


def _run(cell: Any, plant: Plant, status: str, rng: np.random.Generator) -> dict[str, Any]:
    training = cell.config.training
    row = {"reason": None if status == "finished" else "planted", "learning_rate": training.learning_rate}
    row |= {"batch_size": training.batch_size, "epochs": training.epochs, "optimizer": training.optimizer}
    row |= {**dict.fromkeys(("git_commit", "device", "threads", "data_sha256"), "x")}
    accuracy = plant.accuracy(cell.labels) + 0.0005 * rng.normal()
    ended = {"step": 100, "ended_by": plant.ended_by if cell.labels["arm"] == "equal loss" else "epochs"}
    goal = cell.config.budget.train_loss
    reached = plant.ended_at(cell.labels) if goal is not None else 0.05
    ended |= {"train_loss": reached, "train_accuracy": 0.99, "test_loss": 0.5, "test_accuracy": accuracy}
    ended |= {"validation_accuracy": accuracy if cell.labels["network"] == "narrow F1" else None}
    return row | (ended if status == "finished" else dict.fromkeys(ended))


def _epochs(cell: Any) -> list[dict[str, Any]]:
    curve = [{"epoch": 0, "step": 0, "train_loss": 2.3, "test_loss": 2.3, "train_accuracy": 0.1, "test_accuracy": 0.1}]
    for epoch in range(1, 31):
        row = {"epoch": epoch, "step": epoch, "learning_rate": cell.config.training.learning_rate}
        row |= {"train_loss": 1 / epoch, "test_loss": 0.5 + 1 / epoch}
        curve.append(row | {"train_accuracy": 1 - 0.3 / epoch, "test_accuracy": 0.85 - 0.2 / epoch})
    return curve if cell.labels["arm"] == "base" else curve[-1:]


def _probes(cell: Any, plant: Plant, rng: np.random.Generator) -> list[dict[str, Any]]:
    labels, phi = cell.labels, plant.phi(cell.labels) * np.exp(0.1 * rng.normal())
    far = (plant.far or {"SB": 50.0, "LB": 10.0}).get(labels["role"], 20.0) * (1 + 0.01 * rng.normal())
    rows = [{"probe": "distance", "quantity": "distance_from_start", "value": far, "knobs": {}, "details": {}}]
    second = {"epsilon": 5e-4, "phi": phi / 4} if labels["arm"] == "base" else None
    found = {"epsilon": 1e-3, "second": second}
    rows.append({"probe": "keskar", "quantity": "keskar_sharpness", "value": phi, "knobs": {}, "details": found})
    if labels["arm"] == "base":
        interval = {"lower": phi / 10, "upper": phi / 9.9, "confidence": 0.99}
        top = {"probe": "eigenvalues", "quantity": "top_eigenvalue", "value": phi / 10, **interval}
        trace = {"probe": "trace", "quantity": "trace", "value": phi}
        worst = {"probe": "worst_case", "quantity": "worst_case_sharpness", "value": 0.01}
        rows += [*_of_solutions(labels, phi), *(each | {"knobs": {}, "details": {}} for each in (top, trace, worst))]
    if labels["arm"] == "base" and labels["role"] == "SB":
        rows += [_curve(path, plant, rng) for path in ("line", "arc")]
    return [row | {"converged": True} for row in rows]


def _beside(cell: Any, plant: Plant, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the further measures of a condition, all alike but for their noise."""
    names = {"eigenvalues": "top_eigenvalue", "worst_case": "worst_case_sharpness"}
    names |= {"fisher_rao_norm": "fisher_rao_norm"}
    shared = {"knobs": {}, "details": {}, "converged": True}
    values = {name: plant.phi(cell.labels) * np.exp(0.1 * rng.normal()) for name in names}
    return [shared | {"probe": name, "quantity": quantity, "value": values[name]} for name, quantity in names.items()]


def _of_solutions(labels: Labels, phi: float) -> list[dict[str, Any]]:
    knobs = {"subspace": 100}
    second = {"epsilon": 5e-4, "phi": phi / 40}
    details: dict[str, Any] = {"epsilon": 1e-3, "second": second}
    name = "keskar_subspace_sharpness"
    rows = [{"probe": "keskar", "quantity": name, "value": phi / 10, "knobs": knobs, "details": details}]
    if labels["network"] == "narrow F1":
        for space, share in (({}, 1.1), (knobs, 0.11)):
            boxes = [{"epsilon": e, "phi": share * phi * f} for e, f in ((1e-3, 1.0), (5e-4, 0.25))]
            shared = {"probe": "keskar_maximum", "quantity": f"keskar_maximum {space}", "value": boxes[0]["phi"]}
            rows.append(shared | {"knobs": space, "details": {"boxes": boxes}})
    return rows


def _curve(path: str, plant: Plant, rng: np.random.Generator) -> dict[str, Any]:
    width = plant.width or {"SB": 1.0, "LB": 10.0}
    # The smaller of two parabolas around the solutions, so that the rise of each is its own.
    loss = [min(width["SB"] * a**2, width["LB"] * (a - 1) ** 2) + 0.01 + 1e-4 * abs(rng.normal()) for a in ALPHAS]
    flat = [0.9] * len(ALPHAS)
    details = {"alphas": ALPHAS, "train_loss": loss, "test_loss": [1.2 * x for x in loss], "path": path}
    details |= {"train_accuracy": flat, "test_accuracy": flat}
    return {"probe": "interpolation", "quantity": "loss_barrier", "value": 1.0, "knobs": {}, "details": details}


def _along(role: str, plant: Plant, rng: np.random.Generator) -> list[dict[str, Any]]:
    power = (plant.growth or {"SB": -0.5, "LB": 1.0})[role]
    rows = []
    for epoch in (1, 2, 3, 5, 10, 17, 30):
        loss = 1.0 / epoch
        rows.append({"epoch": epoch, "loss": loss, "phi": 10 * loss**-power * np.exp(0.02 * rng.normal())})
    return rows


def _slice(role: str, plant: Plant) -> list[dict[str, Any]]:
    width = (plant.width or {"SB": 1.0, "LB": 10.0})[role]
    points = [k - 7.0 for k in range(15)]
    losses = [{"train_loss": 0.01 + width * (t - 1) ** 2, "test_loss": 0.5 + width * t**2} for t in points]
    return [{"distance": t, "length": 35.0} | loss for t, loss in zip(points, losses, strict=True)]
