"""The pages of figures for the site: all that was rendered is on them, and what is not what it says is marked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis.pages.figure_pages import flaws, renderings, write_figure_pages
from analysis.report.report import TextTable, save_table
from sharpness.errors import InputError
from sharpness.plots.save import save_figure
from tests.conftest import ROOT
from tests.test_findings import frame_of

NASTY = "<script>alert(1)</script> [a](b) |x| *y* `z` _w_ $1 λ"


def add_figure(folder: Path, name: str, caption: str = "A caption.") -> None:
    figure = Figure(figsize=(1, 1))
    figure.text(0.1, 0.5, name)
    save_figure(figure, frame_of(x=range(3)), folder, name, caption, {"schema": 1})


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """Two studies and a folder of another kind: figures, a table, a page of a study."""
    root = tmp_path / "figures"
    first = root / "izmailov2018" / "cpu-5-seeds"
    add_figure(first, "long")
    add_figure(first, "nasty", NASTY)
    save_table(TextTable("table", "T", ["", "n"], [["a", "5"]], frame_of(n=[5.1]), "The note."), first, {})
    (first / "README.md").write_text("# The study\n")
    add_figure(root / "keskar2017" / "cpu-5-seeds", "only")
    add_figure(root / "another" / "deep", "deep one")
    return root


def test_every_rendering_has_a_page_with_its_figures_captions_and_files(figures: Path) -> None:
    out = figures.parent / "docs" / "figures"
    names = write_figure_pages(figures, out)
    assert names == ["keskar2017-cpu-5-seeds", "izmailov2018-cpu-5-seeds", "another-deep"]  # papers in their order
    page = (out / "izmailov2018-cpu-5-seeds.md").read_text()
    place = "../../figures/izmailov2018/cpu-5-seeds"
    assert page.startswith("# Izmailov et al. 2018: cpu-5-seeds\n") and f"]({place}/README.md)" in page
    assert re.findall(r"!\[\w+\]\((.*)\)", page) == [f"{place}/long.png", f"{place}/nasty.png"]
    for kind in ("csv", "pdf", "json"):
        assert page.count(f"({place}/long.{kind})") == 1
    assert f"- [table]({place}/table.md)\n" in page
    assert "A caption." in page and "<script>" not in page.replace("\\<script\\>", "") and "**" not in page
    targets = [target for target in re.findall(r"\]\((\.\./[^)]*)\)", page) if not (out / target).exists()]
    assert targets == []


FLAWS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other numbers": (lambda p: p.with_suffix(".csv").write_text("x\n1\n"), "only.csv is not the file"),
    "no numbers": (lambda p: p.with_suffix(".csv").unlink(), "only.csv is missing"),
    "no origin": (lambda p: p.with_suffix(".json").unlink(), "only.json is missing"),
    "damaged origin": (lambda p: p.with_suffix(".json").write_text("{"), "only.json is missing or damaged"),
    "origin of no form": (lambda p: p.with_suffix(".json").write_text("[]"), "only.json is missing or damaged"),
    "no hash": (lambda p: p.with_suffix(".json").write_text(json.dumps({})), "only.json is missing or damaged"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_a_figure_that_is_not_what_it_says_is_marked(figures: Path, name: str) -> None:
    spoil, expected = FLAWS[name]
    spoil(figures / "keskar2017" / "cpu-5-seeds" / "only.png")
    write_figure_pages(figures, figures.parent / "out")
    page = (figures.parent / "out" / "keskar2017-cpu-5-seeds.md").read_text()
    assert f"## only (**{expected}" in page


def test_a_table_of_other_numbers_is_marked(figures: Path) -> None:
    (figures / "izmailov2018" / "cpu-5-seeds" / "table.csv").write_text("n\n6\n")
    write_figure_pages(figures, figures.parent / "out")
    page = (figures.parent / "out" / "izmailov2018-cpu-5-seeds.md").read_text()
    assert "(**table.csv is not the file that this was rendered from" in page


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected figures"):
        renderings(tmp_path)


def test_the_committed_figures_are_what_they_say() -> None:
    files = [*(ROOT / "figures").rglob("*.png"), *(ROOT / "figures").rglob("*_table.md")]
    assert len(files) > 80
    assert {path.name: found for path in files if (found := flaws(path))} == {}
