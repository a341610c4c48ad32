"""Keskar et al. 2017: planted results judged, own measurements against closed forms, the script at work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from analysis.keskar2017.comparisons import comparisons, tuned
from analysis.keskar2017.findings import findings
from analysis.keskar2017.numbers import results_of
from analysis.keskar2017.report import report
from analysis.report.findings import Finding
from sharpness.config import DataConfig, MeasureConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.models import build_model
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import check_config, schedules, train
from sharpness.training.checks import examples_of
from tests.keskar2017_cases import CELLS, SETTINGS, Plant, main, phi_as_in_the_paper, planted
from tests.study_cases import first_steps, script, site

measure: Any = script("measures.keskar2017")
arms: Any = script("grids.keskar2017")


FOUND: dict[str, list[Finding]] = {}


def found_of(plant: Plant) -> list[Finding]:
    """Return the findings of what is planted, which are made once of the same."""
    if (key := repr(plant)) not in FOUND:
        FOUND[key] = findings(results_of(planted(plant), SETTINGS), "full")
    return FOUND[key]


def verdicts(plant: Plant) -> dict[str, str]:
    """Return the verdict on every claim, and on every variant by its claim and name."""
    found = found_of(plant)
    variants = {f"{each.claim} | {one.name}": one.verdict for each in found for one in each.variants}
    return {each.claim: each.verdict for each in found} | variants


@pytest.fixture(scope="module")
def paper() -> dict[str, str]:
    return verdicts(Plant())


def one(found: dict[str, str], *words: str) -> str:
    """Return the verdict on the only claim with these words, or on the only variant where no claim has them."""
    claims = {claim: verdict for claim, verdict in found.items() if all(word in claim for word in words)}
    (verdict,) = {each for claim, each in claims.items() if "|" not in claim} or set(claims.values())
    return verdict


def test_planted_as_in_the_paper_every_claim_is_reproduced(paper: dict[str, str]) -> None:
    others = {claim: verdict for claim, verdict in paper.items() if verdict != "reproduced" and "|" not in claim}
    # LB with another rate is as bad as without, and TIMIT is not there.
    assert set(others.values()) == {"contradicted", "not testable here"}
    assert all("Critics" in claim for claim, verdict in others.items() if verdict == "contradicted")
    assert [claim for claim, verdict in others.items() if verdict == "not testable here"] == [
        "The same holds for F2 on TIMIT"
    ]
    for condition, verdict in (("tuned rates", "reproduced"), ("linear rate", "contradicted")):
        assert one(paper, "Critics", condition) == verdict


def alike(labels: Any) -> float:
    return 10.0


def equal(labels: Any) -> float:
    return 0.85


def better_from_the_start(labels: Any) -> float:
    return 0.86 if (labels["role"], labels["arm"]) == ("LB", "base") else 0.85


def slightly(labels: Any) -> float:
    return 10.0 if labels["role"] == "SB" else 20.0


def upside_down(labels: Any) -> float:
    return 1000 / phi_as_in_the_paper(labels)


OTHER_WAY = Plant(far={"SB": 20.0, "LB": 10.0}, width={"SB": 10.0, "LB": 1.0}, growth={"SB": 1.0, "LB": -0.5})
"""Distances, widths and growth at once: each turns claims of its own, and none of the others'."""


@pytest.mark.parametrize(
    ("plant", "words", "verdict"),
    [
        (Plant(phi=slightly), ("1 to 2 orders", "full space, epsilon 0.001, as published"), "reproduced in sign only"),
        (
            Plant(phi=upside_down),
            ("1 to 2 orders", "| narrow F1, the full space, epsilon 0.0005, climb"),
            "contradicted",
        ),
        (Plant(phi=alike), ("1 to 2 orders", "| F1, 100 random dimensions, epsilon 0.001, as pub"), "contradicted"),
        (Plant(phi=upside_down), ("slope of log phi on log B",), "contradicted"),
        (Plant(phi=upside_down), ("Warm starts give flatter",), "contradicted"),
        (Plant(phi=upside_down), ("LB stays sharp with augmentation",), "contradicted"),
        (Plant(phi=upside_down), ("LB stays sharp with conservative",), "contradicted"),
        (Plant(phi=upside_down), ("LB stays sharp with robust",), "contradicted"),
        (Plant(phi=upside_down), ("A batch that grows",), "contradicted"),
        (Plant(phi=upside_down), ("LB is sharper with equal training loss",), "contradicted"),
        (Plant(phi=upside_down), ("LB is sharper", "| equal updates, same rate"), "contradicted"),
        (Plant(accuracy=better_from_the_start), ("LB generalises worse",), "contradicted"),
        (Plant(accuracy=equal), ("falls beyond a threshold",), "contradicted"),
        (Plant(accuracy=equal), ("sharpness grows less",), "not testable here"),
        (Plant(accuracy=better_from_the_start), ("Warm starts improve LB",), "contradicted"),
        (Plant(accuracy=equal), ("Critics", "tuned rates"), "not testable here"),
        (OTHER_WAY, ("as far from its start",), "contradicted"),
        (OTHER_WAY, ("straight line",), "contradicted"),
        (OTHER_WAY, ("on the arc",), "contradicted"),
        (OTHER_WAY, ("LB grows sharper",), "contradicted"),
        (OTHER_WAY, ("SB ends flatter",), "contradicted"),
        (OTHER_WAY, ("lowest training loss",), "contradicted"),
        (Plant(ended_by="epochs"), ("equal training loss LB is worse",), "not testable here"),
    ],
)
def test_the_verdict_turns_with_what_is_planted(
    plant: Plant, words: tuple[str, ...], verdict: str, paper: dict[str, str]
) -> None:
    assert one(verdicts(plant), *words) == verdict != one(paper, *words)


def test_a_claim_of_two_networks_is_that_of_the_first_and_the_others_are_variants() -> None:
    def accuracy(labels: Any) -> float:
        return 0.85 - 0.02 * (labels["role"] == "LB" and labels["network"] == "F1")

    two = SETTINGS | {"pairs": SETTINGS["pairs"][:1]}
    cells = [cell for cell in CELLS if cell.labels["network"] in ("F1", "narrow F1")]
    first, sharp, *_ = findings(results_of(planted(Plant(accuracy=accuracy), cells=cells), two), "full")
    assert first.verdict == "reproduced" and first.number.startswith("F1: -2")
    assert {each.name: each.verdict for each in first.variants} == {"F1": "reproduced", "narrow F1": "contradicted"}
    # Two networks in the full space, and each other box, space and search that was measured of them.
    assert len(sharp.variants) == 2 + (4 - 1) + (8 - 1) and sharp.smallest_effect.startswith("a factor of 1.5: ")


def test_a_claim_of_four_networks_is_that_of_their_mean() -> None:
    def accuracy(labels: Any) -> float:
        worse = {"F1": 0.01, "clean MLP": 0.02, "noisy CNN": 0.03, "narrow F1": 0.02}[labels["network"]]
        return 0.85 - worse * (labels["role"] == "LB")

    first, *_ = findings(results_of(planted(Plant(accuracy=accuracy)), SETTINGS), "full")
    assert first.number.startswith("mean over 4: -2.0 [-3.3, -0.7] pp")  # t of 3 degrees of freedom: 3.18 x 0.41
    assert first.verdict == "reproduced" and len(first.variants) == 4


def test_critics_say_what_half_and_twice_their_cut_off_would_give() -> None:
    def accuracy(labels: Any) -> float:
        lost = {"base": 0.02, "linear rate": 0.007}.get(labels["arm"], 0.0)
        return 0.85 - lost * (labels["role"] == "LB")

    made = findings(results_of(planted(Plant(accuracy=accuracy)), SETTINGS), "full")
    (linear,) = [each for each in made if "linear rate LB is worse by no more" in each.claim]
    assert linear.cutoffs == {
        "-0.5 pp or more": "contradicted",
        "-0.25 pp or more": "contradicted",
        "-1 pp or more": "reproduced",
    }
    without_gap = found_of(Plant(accuracy=equal))
    assert all(each.cutoffs == {} for each in without_gap if each.claim.startswith("Critics"))


def test_an_accuracy_that_is_lost_in_noise_is_inconclusive_and_no_gap_leaves_critics_nothing_to_close() -> None:
    def accuracy(labels: Any) -> float:
        noise = {0: 0.02, 1: -0.02, 2: 0.01, 3: -0.015, 4: 0.0}[labels["seed"]]
        network = {"F1": 0.012, "clean MLP": -0.004, "noisy CNN": -0.015, "narrow F1": 0.0}[labels["network"]]
        return 0.85 + (noise + network - 0.005 if labels["role"] == "LB" else 0.0)

    found = verdicts(Plant(accuracy=accuracy))
    assert one(found, "LB generalises worse") == "inconclusive"
    assert one(found, "Critics", "linear rate") == "not testable here"
    assert one(found, "falls beyond a threshold") in ("inconclusive", "contradicted")


OF_FIRST = ("training_curves", "accuracy_vs_sharpness", "pairs", "pairs_table")


def test_runs_that_diverged_or_are_missing_are_counted_everywhere() -> None:
    def status(labels: Any) -> str:
        kinds = {("LB", "linear rate"): "diverged", ("LB", "rate"): "missing"}
        return kinds.get((labels["role"], labels["arm"]), "finished") if labels["seed"] == 3 else "finished"

    made = report(planted(Plant(status=status)), SETTINGS)
    told = f"{len(CELLS) - 4} of {len(CELLS)} runs finished, 1 diverged, 3 missing."
    assert told in made.checks
    assert "narrow F1, LB, linear rate, seed 3 diverged: planted." in made.checks
    captions = {name: drawn.caption for name, drawn in made.drawings.items() if not isinstance(drawn, str)}
    captions |= {table.name: table.caption for table in made.tables}
    assert len(captions) == len(made.drawings) + 6
    of_first = "5 of 5 SB runs (batch 64) finished; 5 of 5 LB runs (batch 1000) finished."
    for name, caption in captions.items():
        assert caption.endswith(of_first if name in OF_FIRST else told)
    (critics,) = [table for table in made.tables if table.name == "critics_table"]
    lines = {row[0]: row for row in critics.rows}
    assert lines["equal epochs, linear rate"][-1] == "4"
    # No rate of LB beside the paper's has all its runs.
    assert "LB at 0.001" in critics.caption and "without 0.002, 0.004, 0.008 (runs missing)" in critics.caption


def test_a_study_without_runs_says_so_and_judges_nothing() -> None:
    made = report(planted(Plant(status=lambda labels: "missing")), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in made.drawings.values())
    assert {finding.verdict for finding in made.findings} == {"not testable here"}


def test_runs_that_did_not_reach_the_loss_are_named_and_left_out() -> None:
    results = results_of(planted(Plant(ended_by="epochs")), SETTINGS)
    *_, last = comparisons(results)
    assert last.name == "equal training loss" and last.small.empty
    assert last.note == "runs that did not reach the loss, left out: 10"


def test_the_rate_is_tuned_on_held_out_examples_and_only_where_every_run_finished() -> None:
    runs = pd.DataFrame({"learning_rate": [r for r in (1.0, 2.0, 4.0, 8.0) for _ in range(2)], "seed": [0, 1] * 4})
    done = runs.assign(
        validation_accuracy=[50.0, 50.0, 70.0, 72.0, 60.0, 60.0, 99.0, 99.0],
        test_accuracy=[90.0, 90.0, 10.0, 10.0, 95.0, 95.0, 99.0, 99.0],
    )
    found = tuned(runs, done.head(7))  # the second run at 8 is missing
    assert found is not None
    assert (found.rate, found.at_edge, found.refused) == (2.0, False, (8.0,))
    edge = tuned(runs, done)
    assert edge is not None and edge.rate == 8.0 and edge.at_edge
    assert tuned(runs, done.head(0)) is None


# --- the study's own measurements ------------------------------------------------------------------------------------


def test_slices_through_a_quadratic_are_its_values() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    data = [(torch.eye(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))]
    loss = Loss(model, nn.functional.mse_loss, data, dtype=torch.float64)  # |w|^2 / 2
    small, large = torch.tensor([0.0, 0.0]).double(), torch.tensor([3.0, 4.0]).double()
    losses = {"train_loss": loss, "test_loss": loss}
    rows = measure.slices_between(small, large, losses, 5, lambda done, total: None)
    assert [row["role"] for row in rows] == ["SB"] * 5 + ["LB"] * 5
    for row in rows:
        t, centre = row["distance"], 0.0 if row["role"] == "SB" else 5.0
        assert row["length"] == 5.0 and -1.0 <= t <= 1.0
        assert row["train_loss"] == pytest.approx((centre + t) ** 2 / 2, abs=1e-12)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A short run with a checkpoint of every epoch."""
    config = RunConfig(
        data=DataConfig(num_train=60, num_test=20, evaluation_batch_size=30),
        model=ModelConfig(name="f1_narrow"),
        training=TrainingConfig(batch_size=20, epochs=2),
        measure=MeasureConfig(keep_every=1.0),
    )
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / config.run_id, config)
    train(config, load_run_data(config), run, torch.device("cpu"))
    return run


def test_sharpness_along_training_is_that_of_the_kept_weights(kept: RunFolder) -> None:
    options: dict[str, Any] = {"epochs": [1, 2], "subspace": 3}
    rows = measure.along_training(site(kept.path), **options)
    assert [row["epoch"] for row in rows] == [1, 2]
    config, images = kept.config(), load_run_data(kept.config()).train
    for row, step in zip(rows, (3, 6), strict=True):
        model = build_model(config.model, (1, 28, 28), 10, 0)
        model.load_state_dict(safetensors.torch.load_file(kept.path / f"checkpoint-{step}.safetensors"))
        halves = [slice(0, 30), slice(30, 60)]  # BatchNorm takes the statistics of each evaluation batch
        by_hand = [cross_entropy(model(images.inputs[half] / 255.0), images.targets[half]) for half in halves]
        assert row["loss"] == pytest.approx(sum(float(value.detach()) for value in by_hand) / 2, rel=1e-5)
        assert row["phi"] >= 0
    assert rows[0]["phi"] != rows[1]["phi"]


def test_an_epoch_without_a_checkpoint_is_refused(kept: RunFolder) -> None:
    with pytest.raises(InputError, match="expected a checkpoint of epoch 7"):
        measure.along_training(site(kept.path), epochs=[7], subspace=3)


# --- the runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(main.PRESETS))
def test_every_run_of_a_preset_can_be_trained_and_is_there_once(name: str) -> None:
    cells = main.cells_of(main.PRESETS[name], 2)
    for cell in cells:
        check_config(cell.config)
    assert len({cell.config.run_id for cell in cells}) == len(cells)


def test_runs_measured_long_ago_are_found_again() -> None:
    first = [cell.config.run_id for cell in CELLS if cell.labels["network"] == "F1"]
    assert first[:2] == ["f1-fashion_mnist_10k-b64-s0-44136fa3", "f1-fashion_mnist_10k-b1000-s0-ed5e6abb"]


def test_the_main_job_measures_nothing_but_its_pairs() -> None:
    preset = main.PRESETS["cpu"]
    wanted = list(main.measurements(preset, main.cells_of(preset, 2)))
    counts = Counter(name for each in wanted for name in each.probes)
    curvatures = dict.fromkeys(("eigenvalues", "trace", "worst_case", "keskar", "distance"), 4)
    assert counts == curvatures | {"interpolation": 2, "pyhessian": 2}


def test_arms_differ_from_the_pair_in_what_they_are_named_after() -> None:
    cells = {(c.labels["role"], c.labels["arm"]): c for c in CELLS if c.labels["network"] == "narrow F1"}
    case = main.PRESETS["full"].arms
    examples, small, large = examples_of(case.base)[0], cells["SB", "base"].config, cells["LB", "base"].config
    assert (examples, small.training.batch_size, large.training.batch_size) == (5000, 32, 500)
    updates = 157 * 30
    for arm in ("equal updates", "equal updates, sqrt rate"):
        config = cells["LB", arm].config
        assert config.budget.updates == updates and config.training.epochs == 0
        assert config.training.batch_size == 500
    rates = {arm: schedules.target_rate(cells["LB", f"{arm} rate"].config, 500) for arm in ("linear", "sqrt")}
    assert rates["linear"] == pytest.approx(1e-3 * 500 / 32) and rates["sqrt"] == pytest.approx(
        1e-3 * np.sqrt(500 / 32)
    )
    growing = cells["LB", "growing batch"].config
    sizes = [schedules.batch_size(growing, epoch) for epoch in (0, 7.4, 7.5, 15, 22.5, 29.9)]
    assert sizes == [32, 32, 80, 200, 500, 500]
    assert all(schedules.learning_rate(growing, epoch, 30, 10) == pytest.approx(1e-3) for epoch in (0, 10, 29))
    held_out = {c.config.data.num_validation for c in CELLS if c.labels["network"] == "narrow F1"}
    assert held_out == {1000}


def test_warm_starts_begin_at_the_end_of_an_epoch_of_sb() -> None:
    warm = [c for c in CELLS if c.labels["arm"] == "warm start" and c.labels["seed"] == 2]
    assert [c.labels["warm_epochs"] for c in warm] == arms.spaced(30, 6) and warm[-1].labels["warm_epochs"] == 30
    for cell in warm:
        folder, file = str(cell.config.training.start).split("/")
        assert folder == cell.after.config.run_id and cell.after.labels["role"] == "SB"
        assert file == f"checkpoint-{157 * cell.labels['warm_epochs']}.safetensors"


def test_batch_sizes_that_leave_one_example_or_exceed_the_data_are_left_out() -> None:
    case = main.PRESETS["smoke"].arms
    ranges = arms.Ranges(batches=(0.5, 2.0, 5.0, 9.95, 20.0))
    assert arms.batch_sizes(case, ranges) == [10, 40]  # 100 is LB, 199 leaves one of 200, 400 are too many


@pytest.mark.study
def test_the_papers_networks_make_their_first_steps(tmp_path: Path) -> None:
    cells = [c for c in main.cells_of(main.PRESETS["paper"], 1) if c.config.model.name in ("f1", "c1")]
    small = [c for c in cells if c.config.training.batch_size == 256 and c.labels["arm"] == "base"]
    assert {m["status"] for m in first_steps(small, tmp_path)} == {"finished"}
