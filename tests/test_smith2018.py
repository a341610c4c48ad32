"""Smith et al. 2018: updates as the paper's arithmetic has them, planted differences judged, and the script at work."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.runs import Tables
from analysis.smith2018 import report as study
from analysis.smith2018.numbers import fall_of, final_table, phase_table, planned_updates
from sharpness.loss.noise_scale import sgd_noise_scale
from sharpness.training import check_config, schedules
from tests.drawings import faults
from tests.study_cases import first_steps, script, smoke_once

main: Any = script("smith2018")


def settings_of(name: str, seeds: int = 5) -> dict[str, Any]:
    return {"preset": name, "seeds": seeds, **json.loads(json.dumps(asdict(main.PRESETS[name]), default=str))}


SETTINGS = settings_of("cpu")
ARMS = list(SETTINGS["arms"])


def planted(
    loss: dict[str, float] | None = None,
    accuracy: dict[str, float] | None = None,
    ended: dict[tuple[str, str, int], str] | None = None,
) -> Tables:
    """Return runs whose training loss falls from 1 by 0.4 over the epochs, and what is planted on top for a schedule.

    ``loss`` is added after the first milestone (nats), ``accuracy`` to the final accuracy (share of 1).
    """
    rng, runs, epochs = np.random.default_rng(0), [], []
    first, last = SETTINGS["milestones"][0], SETTINGS["base"]["training"]["epochs"]
    for optimizer in SETTINGS["rates"]:
        for name, arm in SETTINGS["arms"].items():
            if optimizer != "momentum" and name not in main.EVERY_OPTIMIZER:
                continue
            for seed in range(5):
                status = (ended or {}).get((optimizer, name, seed), "finished")
                labels = {"arm": name, "optimizer": optimizer, "seed": seed}
                row = labels | {"run_id": f"{optimizer}-{name}-{seed}", "status": status, "reason": None}
                finished = {
                    "step": planned_updates(arm, SETTINGS),
                    "train_loss": 0.5 + 0.01 * rng.normal(),
                    "test_accuracy": 0.85 + (accuracy or {}).get(name, 0.0) + 0.001 * rng.normal(),
                }
                nothing = dict.fromkeys(finished)
                runs.append(row | (finished if status == "finished" else nothing))
                if status != "missing":
                    for epoch in range(1, last + 1):
                        more = (loss or {}).get(name, 0.0) if epoch > first else 0.0
                        value = 1 - 0.4 * max(0, epoch - first) / (last - first) + more + 0.002 * rng.normal()
                        curves = {"epoch": epoch, "step": 10 * epoch, "train_loss": value, "test_accuracy": 0.8}
                        epochs.append(labels | {"status": status, "learning_rate": 0.1, "batch_size": 32} | curves)
    table = pd.DataFrame(runs).assign(**dict.fromkeys(("git_commit", "device", "threads", "data_sha256"), "x"))
    return Tables(table, pd.DataFrame(epochs), pd.DataFrame(), pd.DataFrame(), {})


ALIKE: dict[str, Any] = {
    "loss": {"constant": 0.3, "batch x2": 0.1, "batch x25": -0.1},
    "accuracy": {"larger momentum": -0.01},
}


def verdicts(tables: Tables) -> dict[str, str]:
    return {each.claim: each.verdict for each in study.report(tables, SETTINGS).findings}


def test_the_paper_presets_updates_are_those_of_the_papers_table() -> None:
    """Counted from the configs epoch by epoch, and by the analysis from the arms."""
    preset, settings = main.PRESETS["paper"], settings_of("paper")
    counted = {}
    for name, arm in preset.arms.items():
        config = main.config_of(preset, arm, "momentum", 0)
        sizes = [schedules.batch_size(config, epoch) for epoch in range(config.training.epochs)]
        counted[name] = sum(-(-50_000 // size) for size in sizes)
        assert counted[name] == planned_updates(settings["arms"][name], settings)
    assert counted["decaying"] == 391 * 200 == 78_200  # the paper: about 80,000
    assert counted["increasing"] == 391 * 60 + 79 * 60 + 16 * 40 + 10 * 40 == 29_240  # about 29,000
    assert counted["hybrid"] == 391 * 60 + 79 * 140
    assert counted["larger rate"] == 79 * 60 + 16 * 60 + 10 * 80 == 6_500  # fewer than 6,500, last batches left out
    assert counted["larger momentum"] == 16 * 60 + 10 * 140 == 2_360  # fewer than 2,500


@pytest.mark.parametrize("name", ["cpu", "paper"])
def test_the_schedules_have_one_noise_scale_at_every_epoch(name: str) -> None:
    preset = main.PRESETS[name]
    total, base = preset.base.data.num_train, preset.base.training
    assert preset.largest * 10 <= total * 1.03  # a tenth of the training set; the paper rounds it to 5120

    def scales(arm: str) -> list[float]:
        config = main.config_of(preset, preset.arms[arm], "momentum", 0)
        each = []
        for epoch in range(base.epochs):
            size = schedules.batch_size(config, epoch)
            rate = schedules.learning_rate(config, epoch, base.epochs, total / size)
            # Of N / B, not N / B - 1: the approximation that the rule rests on.
            each.append(
                sgd_noise_scale(rate, size, total, config.training.momentum) * (total / size) / (total / size - 1)
            )
        return each

    for arm in ("hybrid", "increasing", "larger rate"):
        assert scales(arm) == pytest.approx(scales("decaying"))
    # 0.98 keeps the scale too until its batch is the largest from the first milestone on, as the rate then falls.
    assert scales("larger momentum") == pytest.approx(scales("decaying"))
    assert scales("constant") == pytest.approx([scales("decaying")[0]] * base.epochs)
    # By the end 8 and 15,625 times less noise instead of 125.
    slow, right, fast = (scales(arm)[-1] / scales(arm)[0] for arm in ("batch x2", "decaying", "batch x25"))
    assert (slow, right, fast) == pytest.approx((1 / 8, 1 / 125, 25**-3.0))


COINCIDE = "A decaying rate and a growing batch have one training loss against epochs, over the optimisers"
EQUAL = "Test accuracy is the same whether the rate decays or the batch grows, over the optimisers"


def test_planted_agreement_is_found_and_planted_differences_flip_the_verdicts() -> None:
    same = verdicts(planted(**ALIKE))
    assert set(same.values()) == {"reproduced"} and len(same) == 8, same
    apart = verdicts(
        planted(loss={"increasing": 0.1, "constant": 0.0}, accuracy={"increasing": -0.02, "larger rate": 0.02})
    )
    (updates,) = [claim for claim in same if "fewer updates for the same epochs" in claim]
    assert apart.pop(updates) == "reproduced"
    assert set(apart.values()) == {"contradicted"}, apart
    small = verdicts(planted(**{**ALIKE, "accuracy": {"larger momentum": -0.003}}))
    assert [v for claim, v in small.items() if "lose test accuracy" in claim] == ["reproduced in sign only"]


def test_a_curve_that_crosses_the_other_leaves_it() -> None:
    tables, (first, _, last) = planted(loss={"constant": 0.3, "batch x25": -0.1}), SETTINGS["milestones"]
    of, epochs = tables.epochs["arm"].eq("batch x2"), tables.epochs["epoch"]
    early, late = of & epochs.gt(first) & epochs.le(last), of & epochs.gt(last)
    shift = 0.1 * early / early.sum() - 0.1 * late / late.sum()
    tables.epochs["train_loss"] += shift * max(early.sum(), late.sum())
    (found,) = [each for each in study.report(tables, SETTINGS).findings if "grows by 2 the" in each.claim]
    assert found.verdict == "reproduced"
    assert {each.name: each.verdict for each in found.variants}["all epochs"] == "contradicted"


def test_each_optimiser_is_a_setting_and_what_shares_its_runs_a_variant() -> None:
    report = study.report(planted(loss={"hybrid": 0.1, "constant": 0.3}, accuracy={"hybrid": -0.02}), SETTINGS)
    found = {each.claim: each for each in report.findings}
    assert (found[COINCIDE].verdict, found[EQUAL].verdict) == ("reproduced", "reproduced")
    for claim, others in ((COINCIDE, 4 + 4 + 4 * 3), (EQUAL, 4 + 4)):
        said = {each.name: each.verdict for each in found[claim].variants}
        assert len(said) == others and found[claim].number.startswith("mean over 4: ")
        assert {name for name, verdict in said.items() if verdict != "reproduced"} == {
            f"{name}, hybrid" for name in ("momentum", "Nesterov's momentum", "plain SGD", "Adam")
        }
    assert list(found[COINCIDE].cutoffs) == [f"-{each} to {each} of the fall" for each in (0.1, 0.05, 0.2)]


def test_differences_are_paired_by_seed_and_the_last_phase_is_that_of_all_epochs() -> None:
    tables = planted(loss={"hybrid": 0.02})
    assert fall_of(tables, "momentum", SETTINGS) == pytest.approx(0.4, abs=0.01)
    phases = phase_table(tables, SETTINGS)
    rows = phases[(phases["arm"] == "hybrid") & (phases["optimizer"] == "momentum")]
    first, last = SETTINGS["milestones"][0], SETTINGS["base"]["training"]["epochs"]
    assert list(rows["after"]) == [*SETTINGS["milestones"], first] and list(rows["n"]) == [5, 5, 5, 5]
    assert list(rows["until"]) == [*SETTINGS["milestones"][1:], last, last]
    assert np.allclose(rows["difference"], 0.02, atol=0.003)


def test_runs_that_did_not_finish_are_counted_and_shown() -> None:
    lost = {("momentum", "hybrid", 0): "diverged", ("sgd", "increasing", 4): "missing"}
    tables = planted(**ALIKE, ended=lost)
    report = study.report(tables, SETTINGS)
    assert "1 diverged, 1 missing" in report.sentences[0]
    assert "momentum, hybrid: 4 of 5 runs finished." in report.sentences
    assert "sgd, increasing: 4 of 5 runs finished." in report.sentences
    for drawing in report.drawings.values():
        assert not isinstance(drawing, str) and "1 diverged, 1 missing" in drawing.caption
        assert faults(drawing.figure) == []
    final = final_table(tables, SETTINGS)
    row = final[(final["optimizer"] == "momentum") & (final["arm"] == "hybrid")].iloc[0]
    assert (row["n"], row["runs"]) == (4, 5)


def test_updates_that_are_not_the_planned_ones_are_said() -> None:
    tables = planted(**ALIKE)
    off = tables.runs["step"] + (tables.runs["arm"] == "hybrid") * 1
    tables = Tables(tables.runs.assign(step=off), tables.epochs, tables.tracked, tables.probes, {})
    assert "The updates of 13 of 17 schedules are as planned." in study.report(tables, SETTINGS).sentences


def test_without_runs_nothing_is_drawn_and_nothing_judged() -> None:
    tables = planted(ended={(o, a, s): "missing" for o in SETTINGS["rates"] for a in ARMS for s in range(5)})
    none = Tables(tables.runs, planted().epochs.iloc[:0], tables.tracked, tables.probes, {})
    report = study.report(none, SETTINGS)
    assert all(isinstance(drawing, str) for drawing in report.drawings.values())
    assert {each.verdict for each in report.findings} == {"not testable here"}


def small(cell: Any) -> Any:
    """Return a cell of four images at a time."""
    config = cell.config
    model, training = replace(config.model, ghost_batch=4), replace(config.training, batch_size=4)
    return replace(cell, config=replace(config, model=model, training=training))


@pytest.mark.study
def test_the_paper_preset_is_valid() -> None:
    cells = main.cells_of(main.PRESETS["paper"], 1)
    for cell in cells:
        check_config(cell.config)
    assert len(cells) == 8 + 3 * 3


@pytest.mark.slow  # training and the network are tested in small
def test_the_paper_preset_can_be_trained(tmp_path: Path) -> None:
    cells = main.cells_of(main.PRESETS["paper"], 1)
    # Four images and ghost batches of four: a step with 128 takes seconds. The smoke form has other optimisers too.
    chosen = [cell for cell in cells if cell.labels["arm"] == "decaying" and cell.labels["optimizer"] == "momentum"]
    (manifest,) = first_steps(map(small, chosen), tmp_path)
    assert manifest["status"] == "finished" and manifest["step"] == 1


@pytest.mark.study
def test_the_script_runs_writes_everything_and_does_nothing_twice(tmp_path: Path) -> None:
    out, _ = smoke_once("smith2018", tmp_path)
    names = ("schedules", "training_loss", "test_accuracy", "controls", "fewer_updates", "updates")
    assert {f"{name}.csv" for name in names} | {"updates.tex", "runs.csv"} <= {path.name for path in out.iterdir()}
    findings = json.loads((out / "findings.json").read_text())
    assert len(findings) == 2 + 6
    table = pd.read_csv(out / "updates.csv")
    assert list(table["updates"]) == list(table["planned"])
