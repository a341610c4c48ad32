"""Does sharpness go with generalisation: planted conditions, and the numbers and figure that come of them."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import kendalltau

from analysis.keskar2017 import arm_figures, captions
from analysis.keskar2017.association import GROUPS, MEASURES, OUTCOMES, association, changes, short_of_the_goal
from analysis.keskar2017.findings import of_conditions, of_remedies
from analysis.keskar2017.numbers import results_of
from sharpness.plots import style
from sharpness.plots.frames import floats, rows_where
from sharpness.training.checks import examples_of
from tests.drawings import faults
from tests.keskar2017_cases import Plant, main, planted, settings_of
from tests.study_cases import script

SETTINGS = settings_of("headline")
CELLS = main.cells_of(main.PRESETS["headline"], 4)


def results(of: float = 1.0, at: float = 0.0, **plants: Any) -> Any:
    """Return planted results in which log phi differs by condition, and accuracy falls by ``of`` points per unit."""
    conditions = sorted({_key(cell.labels) for cell in CELLS})
    heights = dict(zip(conditions, np.random.default_rng(1).permutation(len(conditions)) / 10, strict=True))

    def height(labels: Any) -> float:
        small = labels["role"] == "SB" and labels["arm"] in ("base", "label noise")
        return 0.0 if small else 0.1 + heights[_key(labels)]

    plant = Plant(
        phi=lambda labels: float(np.exp(height(labels))),
        accuracy=lambda labels: 0.8 - 0.01 * (of * height(labels) + at * labels["seed"]),
        **plants,
    )
    return results_of(planted(plant, "headline", CELLS), SETTINGS)


def _key(labels: Any) -> tuple[str, ...]:
    return tuple(f"{name}={labels[name]}" for name in labels if name != "seed")


def test_every_run_is_held_against_sb_of_its_seed_and_its_noise() -> None:
    table = changes(results())
    assert set(table["group"]) == set(GROUPS)
    references = sum(cell.labels["role"] == "SB" and cell.labels["arm"] in ("base", "label noise") for cell in CELLS)
    further = sum(cell.labels["arm"] in ("from SB", "from LB") for cell in CELLS)
    assert further == 4 * 4 and len(table) == len(CELLS) - references - further
    assert len(set(table["condition"])) * 4 == len(table)  # each in every seed, and no two under one name
    # 0.1 + height, but for the noise of a tenth on the logarithm of each planted sharpness.
    x, y = floats(table, "phi"), floats(table, "test_accuracy")
    assert x.min() > -0.3 and np.corrcoef(x, y)[0, 1] < -0.9


def test_a_tau_is_the_mean_of_those_of_the_seeds() -> None:
    table = changes(results())
    found = association(table, "phi", "test_accuracy")
    pairs = [(floats(rows, "phi"), floats(rows, "test_accuracy")) for _, rows in table.groupby("seed")]
    by_hand = [np.asarray(kendalltau(*each))[0] for each in pairs]
    assert found.value == pytest.approx(np.mean(by_hand)) and found.n == 4
    few = table.groupby("seed").head(3)
    assert association(few, "phi", "test_accuracy").reason == "no seed has 4 conditions with both"


@pytest.mark.parametrize(("of", "verdict"), [(1.0, "reproduced"), (-1.0, "contradicted")])
def test_the_verdict_on_accuracy_turns_with_what_is_planted(of: float, verdict: str) -> None:
    worse, *_ = of_conditions(results(of))
    assert worse.verdict == verdict and [each.name for each in worse.variants] == list(MEASURES.values())[1:]


def test_runs_above_the_training_loss_asked_for_are_left_out_and_named() -> None:
    # Augmentation never gets there, and neither does SB of the first seed, which the others of its seed need.
    def ended_at(labels: Any) -> float:
        base = labels["arm"] == "base" and labels["role"] == "SB" and labels["seed"] == 0
        return 0.02 if base or labels["arm"] == "augmentation" else 0.01

    found = results(ended_at=ended_at)
    table = changes(found)
    assert not any("augmentation" in condition for condition in table["condition"])
    assert set(table[table["seed"] == 0]["group"]) == {"label noise"}
    named = short_of_the_goal(found)
    assert named == sorted([*4 * ["LB, augmentation"], *4 * ["SB, augmentation"], "SB, base"])
    assert "LB, augmentation (4); SB, augmentation (4); SB, base (1). " in captions.conditions(found)
    assert "Left out" not in captions.conditions(results())
    augmented, *_, growing = of_remedies(found)
    assert augmented.setting.endswith(
        ", to a training loss of 0.01 or for 300 epochs with adam; these end at 0.02 nats"
    )
    assert growing.setting == found.networks["MLP"]


@pytest.mark.parametrize(("factor", "verdict"), [(0.25, "reproduced"), (4.0, "contradicted")])
def test_noise_that_flattens_is_held_against_training_on_without_it(factor: float, verdict: str) -> None:
    def phi(labels: Any) -> float:
        noisy, sharp = labels["role"] == "SB", labels["arm"] == "from LB"
        return 100.0 * (factor if noisy else 1.0) / (1 if sharp else 50)

    planted_phi = results_of(planted(Plant(phi=phi), "headline", CELLS), SETTINGS)
    *_, flatter, better, back = of_conditions(planted_phi)
    assert {each.figure for each in (flatter, better, back)} == {"escape"}
    assert {each.setting.partition("; ")[2] for each in (flatter, better, back)} == {
        "SB and LB go on for 40 epochs of adam from where each ended, whatever the training loss"
    }
    assert flatter.claim.startswith("Noise pushes") and flatter.verdict == verdict
    assert better.claim.startswith("What noise finds")
    assert back.claim.startswith("Without noise") and back.verdict == verdict


def test_the_figure_has_a_panel_for_each_measure_and_outcome() -> None:
    with mpl.rc_context(style.STYLE):
        figure = arm_figures.conditions(changes(results()))
    assert len(figure.axes) == len(MEASURES) * len(OUTCOMES)
    assert faults(figure) == []


def test_training_goes_on_from_the_last_weights_of_both_without_a_goal() -> None:
    cells = {(cell.labels["role"], cell.labels["arm"]): cell for cell in CELLS if cell.labels["seed"] == 0}
    for start in ("SB", "LB"):
        solution = cells[start, "base"]
        assert solution.config.budget.train_loss == 0.01 and solution.config.measure.keep_every == 10
        for role, size in (("SB", 32), ("LB", 250)):
            cell = cells[role, f"from {start}"]
            assert cell.after is not None and cell.after.config.run_id == solution.config.run_id
            training = cell.config.training
            assert (training.start, training.batch_size, training.epochs) == (solution.config.run_id, size, 40)
            assert cell.config.budget.train_loss is None
    assert script("grids.keskar2017").Ranges().sharp_starts is False


def test_what_a_goal_ends_is_equal_in_nothing_else() -> None:
    arms = {cell.labels["arm"] for cell in CELLS}
    assert not arms & {"equal updates", "equal updates, sqrt rate", "equal loss"} and "linear rate" in arms
    warm = [cell.labels["warm_epochs"] for cell in CELLS if cell.labels["arm"] == "warm start"]
    assert sorted(set(warm)) == [10, 20, 40]


def test_conditions_measured_one_way_alone_are_no_finding() -> None:
    bare = results_of(planted(Plant()), settings_of("full"))
    assert list(of_conditions(bare)) == []
    measured = floats(rows_where(changes(bare), group="batch size"), "fisher_rao_norm")
    assert len(measured) and np.isnan(measured).all()


def test_no_preset_asks_for_more_examples_than_it_trains_on() -> None:
    for preset in main.PRESETS.values():
        assert all(preset.check_examples <= examples_of(cell.config)[0] for cell in main.cells_of(preset, 1))
