"""The study runner: what it trains and measures, what it skips, and that no run is lost from the count."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis import runs as tidy
from analysis.report.report import Drawing, Report, TextTable, write_report, write_study
from analysis.report.verdicts import Least, judge
from analysis.statistics.intervals import Interval
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.errors import InputError, RunError, Terminated
from sharpness.probes import DistanceFromStart
from sharpness.runs import RunFolder
from sharpness.training.signals import terminating
from tests.study_cases import do, script

study: Any = script("runner.study")
BASE = RunConfig(
    data=DataConfig(num_train=40, num_test=20, evaluation_batch_size=20),
    model=ModelConfig(name="fc_128_128_128", norm="none"),
    training=TrainingConfig(optimizer="sgd", learning_rate=0.1, batch_size=20, epochs=1),
)


def cell(after: Any = None, **training: Any) -> Any:
    return study.Cell(dict(training), replace(BASE, training=replace(BASE.training, **training)), after)


def squares(site: Any, *, numbers: list[int]) -> Any:
    """Return rows that are known."""
    return [{"x": x, "square": x * x, "runs": len(site.runs)} for x in numbers]


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    return study.StudyFolder(tmp_path / "runs", "cpu", None)


def test_each_run_is_trained_once_and_then_skipped(folder: Any) -> None:
    cells = [cell(seed=0), cell(seed=1), replace(cell(seed=0), labels={"arm": "the same run again"})]
    assert do(folder.training_jobs(cells)) == 2
    assert [folder.status(each) for each in cells] == ["finished"] * 3
    assert folder.training_jobs(cells) == []


def test_a_run_waits_for_the_one_it_starts_from(folder: Any) -> None:
    first = cell(seed=0)
    start = f"{first.config.run_id}/checkpoint-2.safetensors"
    second = cell(first, seed=1, start=start)
    assert (first.wave, second.wave) == (0, 1)
    assert [job.label for job in folder.training_jobs([second, first])] == ["seed 0"]
    do(folder.training_jobs([first]))
    assert do(folder.training_jobs([second])) == 1
    assert RunFolder.open(folder.place(second)).load_weights("x0").keys() > set()
    x0, end = (RunFolder.open(folder.place(c)).load_weights(n) for c, n in ((second, "x0"), (first, "checkpoint-2")))
    assert all((x0[name] == end[name]).all() for name in x0)


def test_a_run_whose_start_diverged_is_missing_and_counted(folder: Any) -> None:
    first = cell(seed=0, learning_rate=1e30, epochs=3)
    second = cell(first, seed=1, start=f"{first.config.run_id}/checkpoint-2.safetensors")
    do(folder.training_jobs([first, second]))
    assert folder.status(first) == "diverged"
    assert folder.training_jobs([first, second]) == []
    tables = tidy.load([(each.labels, folder.place(each)) for each in (first, second)], [])
    assert list(tables.runs["status"]) == ["diverged", "missing"]
    assert tidy.counts(tables) == "0 of 2 runs finished, 1 diverged, 1 missing."
    assert [row["reason"] for row in tidy.refused(tables)][1] == "there is no run folder"


def test_probes_and_tasks_are_done_once_on_runs_that_finished(folder: Any) -> None:
    cells = [cell(seed=0), cell(seed=1, learning_rate=1e30, epochs=3)]
    do(folder.training_jobs(cells))

    def wanted(numbers: list[int]) -> list[Any]:
        knobs = {"numbers": numbers}
        tasks = [study.Task("squares", c.labels, squares, [c], knobs) for c in cells]
        return tasks + [study.Measurement("distance", c, {"distance": DistanceFromStart()}) for c in cells]

    assert do(folder.probing_jobs(wanted([1, 2]))) == 2  # the run that diverged is not measured
    assert folder.probing_jobs(wanted([1, 2])) == []
    assert do(folder.probing_jobs(wanted([3]))) == 1  # other knobs, another measurement
    places = [(each.labels, folder.place(each)) for each in cells]
    tables = tidy.load(places, folder.task_files(wanted([1, 2])))
    rows = tables.rows("squares")
    assert list(rows["square"]) == [1, 4] and set(rows["seed"]) == {0} and set(rows["runs"]) == {1}
    assert set(rows["run_id"]) == {cells[0].config.run_id}
    assert tables.rows("never measured").empty
    (probe,) = tables.probes.to_dict("records")
    assert probe["quantity"] == "distance_from_start" and probe["seed"] == 0 and probe["value"] > 0


def test_rows_measured_on_other_weights_do_not_count(folder: Any) -> None:
    one = cell(seed=0)
    do(folder.training_jobs([one]))
    task = study.Task("squares", one.labels, squares, [one], {"numbers": [1]})
    do(folder.probing_jobs([task]))
    (path,) = folder.task_files([task])
    content = json.loads(path.read_text())
    content["checkpoints"] = {one.config.run_id: "of other weights"}
    path.write_text(json.dumps(content))
    assert tidy.load([(one.labels, folder.place(one))], [path]).rows("squares").empty
    do(folder.probing_jobs([task]))  # they are measured anew
    assert not tidy.load([(one.labels, folder.place(one))], [path]).rows("squares").empty
    assert folder.probing_jobs([task]) == []


def failing_or_ended(folder: Path, number: int, progress: Any) -> None:
    """Fail at once as job 0, and go on until it is ended as any other; a file says that it began."""
    (folder / str(number)).touch()
    if number == 0:
        raise RunError("the first one failed")
    with terminating() as asked_to_stop:
        while not asked_to_stop():
            time.sleep(0.02)
    raise Terminated("asked to stop")


@pytest.mark.slow
def test_after_a_failure_no_worker_begins_another_job(tmp_path: Path) -> None:
    runner = script("runner.workers")
    jobs = [runner.Job(str(number), failing_or_ended, (tmp_path, number)) for number in range(8)]
    with (
        pytest.raises(RunError, match="the first one failed"),
        runner.Workers(2, "cpu", Console(quiet=True)) as workers,
    ):
        workers.run("jobs", jobs)
    begun = {int(path.name) for path in tmp_path.iterdir()}
    assert 0 in begun and begun <= {0, 1, 2}  # 2 may begin before the failure is known


def test_labels_that_would_hide_a_column_are_refused(folder: Any) -> None:
    one = cell(seed=0)
    with pytest.raises(InputError, match="labels that are no columns"):
        tidy.load([({"status": "mine"}, folder.place(one))], [])


def test_a_report_is_written_with_every_run_and_its_verdicts(folder: Any, tmp_path: Path) -> None:
    from analysis.report.findings import Finding
    from sharpness.plots.style import COLUMN, new_figure

    cells = [cell(seed=0), cell(seed=1)]
    do(folder.training_jobs(cells[:1]))
    tables = tidy.load([(each.labels, folder.place(each)) for each in cells], [])
    figure, _ = new_figure(COLUMN, 2.0)
    numbers = tables.runs.filter(["seed", "status"])
    judged = judge(Interval(2.0, 1.5, 2.5, 5, free=4), 1, 1, Least(0.5, "planted"))
    report = Report(
        {"shown": Drawing(figure, numbers, tidy.counts(tables)), "hidden": "there are no data"},
        [TextTable("table", "Title", ["", "n"], [["a|b", "1"]], numbers, "Caption.")],
        ["A sentence."],
        [Finding("claim", "setting", "shown", "2.0 [1.5, 2.5]", *judged), Finding("other", "", "", "", "x", "", p=0.5)],
        ["A check."],
    )
    out = tmp_path / "out"
    out.mkdir()
    (out / "hidden.png").write_text("older")
    rendered = write_study(report, tables, {"seeds": 2}, out)
    assert not (out / "hidden.png").exists()
    assert rendered.sentences == ["A sentence."]
    assert rendered.checks == ["A check.", "hidden was not drawn: there are no data."]
    origin = json.loads((out / "shown.json").read_text())
    assert origin["runs"] == {"finished": 1, "diverged": 0, "missing": 1} and origin["settings"] == {"seeds": 2}
    assert len((out / "runs.csv").read_text().splitlines()) == 3
    finding, _ = json.loads((out / "findings.json").read_text())
    assert finding["verdict"] == "reproduced" and finding["figure"] == "shown"
    assert finding["smallest_effect"] == "0.5: planted" and finding["variants"] == [] and finding["cutoffs"] == {}
    assert finding["p"] == pytest.approx(0.00515) and finding["q"] == pytest.approx(2 * finding["p"], rel=1e-2)
    assert r"a\|b" in (out / "table.md").read_text()
    assert {path.name for path in rendered.files} == {path.name for path in out.iterdir()}


def test_a_figure_and_a_table_of_one_name_are_refused(tmp_path: Path) -> None:
    table = TextTable("front", "Title", ["", "n"], [["a", "1"]], tidy.load([], []).runs, "Caption.")
    with pytest.raises(ValueError, match="overwrite each other"):
        write_report(Report({"front": "there are no data"}, [table]), tmp_path, {})
    assert not list(tmp_path.iterdir())
