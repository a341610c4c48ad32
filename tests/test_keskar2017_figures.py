"""The figures of planted results of Keskar et al.: each draws what was measured, and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.keskar2017.numbers import going_on, how_it_goes_on, results_of
from analysis.keskar2017.report import report
from analysis.report.report import Drawing
from sharpness.plots.frames import floats, rows_if
from sharpness.plots.style import COLUMN
from tests.drawings import faults
from tests.keskar2017_cases import Plant, main, planted, settings_of

SETTINGS = settings_of("headline")
CELLS = main.cells_of(main.PRESETS["headline"], 3)
ALL = {
    "pairs",
    "training_curves",
    "line_mlp",
    "accuracy_vs_sharpness",
    "sketch",
    "surfaces_mlp",
    "accuracy_curves",
    "arc_mlp",
    "batch_size",
    "warm_start",
    "along_training",
    "remedies",
    "critics",
    "conditions",
    "escape",
}


@functools.cache
def reported(test_curves: bool = True, **plants: Any) -> Mapping[str, Drawing | str]:
    """Return the figures, drawn when asked for; without ``test_curves`` the test set was seen before training alone."""
    tables = planted(Plant(**plants), "headline", CELLS)
    if not test_curves:
        later = floats(tables.epochs, "epoch") > 0
        blank = {name: np.where(later, np.nan, floats(tables.epochs, name)) for name in ("test_loss", "test_accuracy")}
        tables = replace(tables, epochs=tables.epochs.assign(**blank))
    return report(tables, SETTINGS).drawings


def drawn(name: str, **plants: Any) -> Drawing:
    """Return a figure that can be drawn."""
    drawing = reported(**plants)[name]
    assert isinstance(drawing, Drawing), drawing
    return drawing


def test_every_figure_fits_a_column_and_has_no_faults() -> None:
    drawings = {name: drawing for name, drawing in reported().items() if isinstance(drawing, Drawing)}
    assert set(drawings) == ALL
    for name, drawing in drawings.items():
        assert faults(drawing.figure) == [], name
        assert drawing.figure.get_figwidth() == COLUMN or name == "training_curves"


def test_without_curves_of_the_test_set_none_is_drawn_named_or_told() -> None:
    panels = {"training_curves": (4, 2), "accuracy_curves": (1, 1), "warm_start": (2, 2)}
    measured = {name: drawn(name) for name in panels}
    drawings = {name: drawn(name, test_curves=False) for name in panels}
    for name, numbers in panels.items():
        assert faults(drawings[name].figure) == []
        assert tuple(len(each[name].figure.axes) for each in (measured, drawings)) == numbers
        assert "measured at the end alone" in drawings[name].caption
        assert "measured at the end alone" not in measured[name].caption
    entries = {
        name: [[text.get_text() for text in each[name].figure.legends[0].get_texts()] for each in (measured, drawings)]
        for name in ("accuracy_curves", "warm_start")
    }
    roles = ["small batch (SB)", "large batch (LB)"]
    assert entries == {
        "accuracy_curves": [[*roles, "train", "test"], roles],
        "warm_start": [["SB, at that epoch", "LB started from it", "LB from x0"], ["LB started from it", "LB from x0"]],
    }
    assert set(drawings["warm_start"].numbers["role"]) == {"LB"}


def test_training_that_goes_on_is_drawn_from_each_minimum_with_its_time() -> None:
    def phi(labels: Any) -> float:
        return {"base": 100.0, "from LB": 50.0, "from SB": 20.0}.get(labels["arm"], 10.0)

    found = results_of(planted(Plant(phi=phi), "headline", CELLS), SETTINGS)
    table = going_on(found)
    means = table.groupby(["minimum", "after"])["phi"].agg(lambda x: float(np.exp(np.mean(np.log(x)))))
    assert dict(means.round(-1)) == pytest.approx(
        {("LB", ""): 100, ("LB", "SB"): 50, ("LB", "LB"): 50, ("SB", ""): 100, ("SB", "SB"): 20, ("SB", "LB"): 20}
    )
    assert "40 epochs of adam from where each ended" in how_it_goes_on(found)
    drawing = drawn("escape", phi=phi)
    assert "go on for 40 epochs" in drawing.caption and "to a training loss" not in drawing.caption
    # A minimum from which nothing went on is left out.
    runs = found.done
    gone = replace(
        found, done=rows_if(runs, (runs["arm"] != "from SB") & ((runs["arm"] != "from LB") | (runs["seed"] > 0)))
    )
    assert set(going_on(gone)["minimum"]) == {"LB"} and set(going_on(gone)["seed"]) == {1, 2}


def test_the_critics_are_told_why_neither_epochs_nor_updates_are_equal() -> None:
    assert "Equal epochs and equal updates are conditions of the preset full" in drawn("critics").caption


def test_remedies_that_end_above_the_training_loss_say_so() -> None:
    def ended_at(labels: Any) -> float:
        return 0.2 if labels["arm"] == "augmentation" else 0.009

    caption = drawn("remedies", ended_at=ended_at).caption
    assert "With augmentation 6 of 6 runs end above the training loss asked for, at 0.2 nats." in caption
    assert "end above" not in drawn("remedies").caption
