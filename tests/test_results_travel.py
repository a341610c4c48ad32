"""Results outside of the process that measured them: in notebooks, tables, reports and model cards."""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import sharpness as sh
from sharpness.cli.collect import run_collect
from sharpness.cli.options import Collect, Report
from sharpness.cli.report import run_report
from sharpness.errors import InputError
from sharpness.files import append_jsonl
from sharpness.measure.stress import stress_test
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.records.checkpoints import by_checkpoint
from sharpness.records.remarks import of_checkpoint, of_comparison
from sharpness.records.tables import html_table, markdown_table, tidy_rows
from sharpness.results import ProbeResult
from tests.browser import IMAGES, needs_browser, visit, with_script
from tests.probe_cases import shows_itself, small_network
from tests.test_invariance import rectified

pytestmark = pytest.mark.dear

EVIL = "<script>alert(1)</script>|*"


@pytest.fixture(scope="module")
def results() -> dict[str, ProbeResult]:
    loss = small_network()
    names = ("norms", "eigenvalues", "trace", "worst_case", "gradient_noise", "density")
    return {name: PROBES[name].probe()(loss) for name in names}


def saved(folder: Path, results: dict[str, ProbeResult], factors: tuple[float, ...] = (1.0,)) -> Path:
    """Write the results as those of as many checkpoints, their values times a factor."""
    folder.mkdir(parents=True)
    for i, factor in enumerate(factors):
        for result in results.values():
            record = result.to_record(f"{i}" * 64)
            at = {"checkpoint": {"path": f"runs/{i}/w.pt"}, "at_checkpoint": {"loss": 0.5, "accuracy": 0.75}}
            scaled = {end: factor * getattr(record, end) for end in ("value", "lower", "upper") if getattr(record, end)}
            append_jsonl(folder / "probes.jsonl", replace(record, details={**record.details, **at}, **scaled).to_dict())
    return folder


# --- in a session ---


def test_results_and_losses_say_what_they_are_on_one_short_line(results: dict[str, ProbeResult]) -> None:
    for result in results.values():
        shows_itself(result)
    top = results["eigenvalues"]
    assert f"{top.value:.5g} [{top.lower:.5g}, {top.upper:.5g}] at 99 %, {top.num_hvps} HVPs" in repr(top)
    loss = small_network()
    assert f"{loss.layout.size:,} parameters" in repr(loss) and f"{loss.num_examples} examples" in repr(loss)
    assert loss._repr_html_().count("<tr>") == 4


def test_no_kind_of_result_shows_itself_in_a_way_of_its_own() -> None:
    """The results of all probes and landscapes are made, and looked at, where the page of their fields is tested."""

    def kinds(base: type[ProbeResult]) -> set[type[ProbeResult]]:
        return {base}.union(*map(kinds, base.__subclasses__()))

    found = {kind for kind in kinds(ProbeResult) if kind.__module__.startswith("sharpness.")}
    assert len(found) > len(PROBES)
    for name in ("__repr__", "_repr_html_", "to_frame"):
        assert {kind.__name__ for kind in found if getattr(kind, name) is not getattr(ProbeResult, name)} == set()


def test_a_record_that_was_read_shows_itself_as_its_result_does(results: dict[str, ProbeResult]) -> None:
    for result in results.values():
        record = ProbeRecord.from_dict(result.to_record().to_dict())
        assert repr(record).partition(":")[2] == repr(result).partition(":")[2] and record.probe == result.probe
        assert record._repr_html_() == result._repr_html_()
        assert record.to_frame().equals(result.to_frame())


def test_a_stress_test_shows_itself_as_a_table() -> None:
    rows = stress_test(rectified(), {"norms": sh.WeightNorms(), "sam": sh.SamSharpness(scaling="adaptive")})
    norms, rise = rows
    assert (norms.moved, rise.moved) == (True, False) and repr(rows) == "<StressRows: 1 of 2 measures moved>"
    before, after = norms.before.value, norms.after.value
    assert before is not None and after is not None
    assert repr(norms).startswith(
        f"<StressRow: weight_norm {before:.5g} -> {after:.5g}, values differ by more than 0.01"
    )
    html, table = rows._repr_html_(), rows.to_frame()
    assert html.count("<tr>") == 3 and f">{after / before:.4g}</td>" in html and "0 -&gt; 2, alpha = 4" in html
    assert table["moved"].tolist() == [True, False] and table["value_after"].tolist() == [after, rise.after.value]


def test_an_advice_shows_itself_as_a_table() -> None:
    found = sh.advise(rectified(), optimizer="sgd", batch_size=4, learning_rate=0.1)
    assert repr(found) == f"<Advice: {str(found).partition(';')[0]}>" and len(repr(found)) < 160
    html, table = found._repr_html_(), found.to_frame()
    assert html.count("<tr>") == 1 + len(found.choices) and "perfect scaling *" in html and "interval 95 %" in html
    assert table["name"].tolist() == [choice.name for choice in found.choices]
    assert table["batch_size"].tolist() == [choice.batch_size for choice in found.choices]
    assert table["learning_rate"].tolist()[0] == 0.1 and table["beta2"].isna().all()


def test_a_table_in_a_notebook_has_a_line_for_each_number_and_runs_nothing(results: dict[str, ProbeResult]) -> None:
    html = results["eigenvalues"]._repr_html_()
    assert html.count("<tr>") == 2 and f"{results['eigenvalues'].value:.5g}" in html
    record = ProbeRecord(probe="p", quantity=EVIL, value=1.0)
    assert "<script>" not in html_table([record], caption=EVIL)
    assert markdown_table([record]).splitlines()[2].startswith("| &lt;script>alert(1)&lt;/script>\\|\\* | 1 |")


def test_a_frame_has_a_row_for_each_number() -> None:
    result = sh.TopEigenvalues(k=2, which="both")(small_network())
    table = result.to_frame()
    assert table["quantity"].tolist() == [f"{end}_eigenvalue {i}" for end in ("top", "bottom") for i in (1, 2)]
    assert table["value"].tolist() == result.eigenvalues.tolist() and table["index"].tolist() == [0, 1, 2, 3]
    assert table["num_hvps"].tolist()[0] == result.num_hvps and table["num_hvps"].isna().tolist()[1:] == [True] * 3
    assert bool((table["lower"] <= table["value"]).all()) and table["confidence"].tolist() == [0.99] * 4


class Shell(ModuleType):
    """A notebook: it keeps what it was asked to show."""

    def __init__(self) -> None:
        super().__init__("IPython")
        self.shown: list[str] = []
        self.display = ModuleType("IPython.display")
        self.display.display = self.show  # type: ignore[attr-defined]

    def get_ipython(self) -> Any:
        return SimpleNamespace(kernel=True)

    def show(self, thing: Any, display_id: bool) -> Any:
        assert display_id
        self.shown.append(thing._repr_html_())
        return SimpleNamespace(update=lambda thing: self.shown.append(thing._repr_html_()))


def test_a_bar_moves_in_a_notebook_and_is_silent_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The notebook is made up: it says what the bar asks IPython for, not how a browser draws it."""
    bar = sh.ProgressBar("top")
    sh.TopEigenvalues()(small_network(), progress=bar)
    assert 0 < bar.done == bar.total < sh.TopEigenvalues().num_hvps and capsys.readouterr() == ("", "")
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shell.display)
    bar = sh.ProgressBar(EVIL)
    bar(1, 4)
    bar(4, 4)
    assert [re.findall(r'value="(\d)" max="4"', each) for each in shell.shown] == [["1"], ["4"]]
    assert "<script>" not in shell.shown[0]
    monkeypatch.delitem(sys.modules, "IPython")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sh.ProgressBar("top")(3, 3)
    assert re.fullmatch(r"\r\[#{30}\] top 3 of 3, [\d.]+ s\n", capsys.readouterr().err)


# --- over many folders ---


def test_collect_writes_one_table_over_all_folders(results: dict[str, ProbeResult], tmp_path: Path) -> None:
    for name, factors in (("a", (1.0,)), ("b/c", (1.0, 2.0))):
        saved(tmp_path / "out" / name, results, factors)
    run_collect(Collect((tmp_path / "out",), csv=tmp_path / "t" / "all.csv", parquet=tmp_path / "all.parquet"))
    with open(tmp_path / "t" / "all.csv") as stream:
        rows = list(csv.DictReader(stream))
    each = tidy_rows(result.to_record() for result in results.values())
    assert len(rows) == 3 * len(each)
    assert {(row["folder"][-3:], row["checkpoint"]) for row in rows} == {
        ("t/a", "runs/0/w.pt"),
        ("b/c", "runs/0/w.pt"),
        ("b/c", "runs/1/w.pt"),
    }
    assert [float(row["value"]) for row in rows[: len(each)]] == [row["value"] for row in each]
    assert {row["accuracy"] for row in rows} == {"0.75"}
    table = pd.read_parquet(tmp_path / "all.parquet")
    assert table["value"].tolist() == [float(row["value"]) for row in rows]


def test_collect_refuses_what_it_cannot_do(results: dict[str, ProbeResult], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command, said in (
        (Collect((tmp_path,)), "expected --csv FILE or --parquet FILE, got neither"),
        (Collect((tmp_path / "empty",), csv=tmp_path / "t.csv"), "expected a folder with results"),
        (Collect((tmp_path / "none",), csv=tmp_path / "t.csv"), "expected a folder with results"),
    ):
        with pytest.raises(InputError, match=said):
            run_collect(command)
    with open(saved(tmp_path / "bad", results) / "probes.jsonl", "a") as stream:
        stream.write("[]\n")
    with pytest.raises(InputError, match=r"probes.jsonl"):
        run_collect(Collect((tmp_path / "bad",), csv=tmp_path / "t.csv"))
    assert not (tmp_path / "t.csv").exists()


# --- a page and a model card ---


def test_a_report_is_one_file_that_loads_nothing(results: dict[str, ProbeResult], tmp_path: Path) -> None:
    folder = saved(tmp_path / "one", results)
    run_report(Report(folder))
    html = (folder / "report.html").read_text()
    for section in ("What was measured", "What to make of it", "Numbers", "Figures", "Provenance"):
        assert f"<h2>{section}</h2>" in html
    assert not re.findall(r'(?:src|href)="(?!data:image/png)', html) and "<script" not in html
    assert html.count("<figure>") >= 4 and "loss 0.5, accuracy 75 %" in html
    top = results["eigenvalues"]
    assert top.value is not None and f"{top.value:.5g}" in html and f"= {2 / top.value:.3g}." in html
    again = tmp_path / "again"
    run_report(Report(folder, out=again))
    assert (again / "report.html").read_text() == html
    card = (folder / "model_card.md").read_text()
    assert f"| top_eigenvalue | {top.value:.5g} |" in card and f"`{'0' * 64}`" in card


def test_a_report_of_two_says_what_is_sharper_by_which_measures(
    results: dict[str, ProbeResult], tmp_path: Path
) -> None:
    folder = saved(tmp_path / "two", results, (1.0, 4.0))
    saved(folder / "track", results)  # what lies below is another report
    run_report(Report(folder))
    html = (folder / "report.html").read_text()
    assert "1/w.pt is sharper in" in html and "top eigenvalue sharper" in html
    many = saved(tmp_path / "many", results, (1.0, 1.0, 1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"1 to 4 checkpoints .*got 5: take sharpness collect"):
        run_report(Report(many))
    with pytest.raises(InputError, match="the results of one folder, got 3 below"):
        run_report(Report(tmp_path))
    assert not (many / "report.html").exists()


def test_two_sets_of_weights_of_one_file_are_two_checkpoints(tmp_path: Path) -> None:
    for reading, value in (("model", 10.0), ("model_ema", 2.0)):
        at = {"checkpoint": {"path": "runs/w.pt", "reading": reading}}
        record = number("eigenvalues", value, checkpoint_sha256="0" * 64, details=at)
        append_jsonl(tmp_path / "probes.jsonl", record.to_dict())
    found = by_checkpoint(tmp_path)
    values = {name: records["eigenvalues"].value for name, records in found.items()}
    assert values == {"w.pt [model]": 10.0, "w.pt [model_ema]": 2.0}


def number(probe: str, value: float | None, **fields: Any) -> ProbeRecord:
    return ProbeRecord(probe=probe, quantity=probe, value=value, **fields)


def test_remarks_claim_no_more_than_the_intervals() -> None:
    first = {"trace": number("trace", 2.0, lower=1.0, upper=3.0), "pac_bayes": number("pac_bayes", 1.0)}
    for lower, said in ((2.5, "sharper in 0, flatter in 0"), (3.5, "sharper in 1, flatter in 0")):
        second = {"trace": number("trace", 4.0, lower=lower, upper=5.0)}
        (text, missing) = of_comparison(("A", first), ("B", second))
        assert said in text and "No measure was taken that a rescaling leaves alone" in missing
    flatter = {"pac_bayes": number("pac_bayes", 3.0)}
    assert "flatter in 1" in of_comparison(("A", first), ("B", flatter))[0]
    adaptive = {"scaling": "adaptive"}
    first["worst_case"] = number("worst_case", 1.0, knobs=adaptive)
    second = {
        "trace": number("trace", 9.0, lower=8.0, upper=10.0),
        "worst_case": number("worst_case", 0.5, knobs=adaptive),
    }
    assert of_comparison(("A", first), ("B", second))[-1].startswith("The two kinds disagree")
    noise = number("gradient_noise", 5.0, lower=4.0)
    assert "is not known beyond being at least 4 examples" in of_checkpoint({"gradient_noise": noise})[0]
    saddle = number("density", None, details={"smallest_node": -0.5, "largest_node": 1.0}, reasons={"value": "why"})
    assert [text[:42] for text in of_checkpoint({"density": saddle})] == [
        "There is a direction of curvature -0.5 or ",
        "density has no value: why.",
    ]
    fisher = number("eigenvalues", 4.0, knobs={"matrix": "fisher"}, converged=False)
    assert of_checkpoint({"eigenvalues": fisher}) == ["Not converged, so taken with care: eigenvalues."]


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_the_report_without_a_word(results: dict[str, ProbeResult], tmp_path: Path) -> None:
    folder = saved(tmp_path / "two", results, (1.0, 4.0))
    run_report(Report(folder))
    page = with_script(folder / "report.html", IMAGES, folder / "looked_at.html")
    dom, said = visit(page, "--dump-dom", "--window-size=400,800")
    (widths,) = re.findall(r"<title>images ([\d ]+)</title>", dom)
    assert said == [] and dom.count("<figure>") == len(widths.split()) >= 4 and "0" not in widths.split()
