"""The verdicts of all studies as one figure: a mark for each claim, whose shape and colour are its verdict."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.lines import Line2D

from analysis.pages.found import StudyFindings, of_paper
from analysis.pages.papers import PAPERS
from analysis.report.texts import csv_text
from sharpness.plots.save import SUFFIXES, rendered_with, save_figure
from sharpness.plots.style import COLUMN, STYLE, new_figure

FOLDER, NAME = "findings", "verdicts"
"""Where the figure lies below the folder of figures, and its stem."""
MARKS: dict[str, dict[str, Any]] = {
    "reproduced": {"marker": "o", "color": "#0173b2"},
    "reproduced in sign only": {"marker": "o", "fillstyle": "left", "color": "#0173b2", "markerfacecoloralt": "white"},
    "inconclusive": {"marker": "s", "color": "#949494", "markerfacecolor": "white"},
    "contradicted": {"marker": "X", "color": "#b33c00", "markersize": 6.0, "markeredgewidth": 0.0},
    "not testable here": {"marker": "_", "color": "#555555", "markeredgewidth": 1.0},
}
"""How a verdict is drawn: in grey the shapes are told apart by how they are filled."""
SIZE = 5.0
"""Points across a mark."""
PER_LINE, LABEL = 15, 24
"""Marks on one line of a paper, and characters on one line of its name."""
LINE, ROOM = 0.135, 0.85
"""Inches of a line of marks, and inches for the legend below all of them."""


def verdict_rows(found: Mapping[str, StudyFindings]) -> pd.DataFrame:
    """Return a row per claim: its paper, its study, its number there from 1, the claim and the verdict."""
    rows = [
        (paper.heading, each.study, number, finding.claim, finding.verdict)
        for paper in PAPERS.values()
        for each in of_paper(paper, found)
        for number, finding in enumerate(each.findings, start=1)
    ]
    return pd.DataFrame(rows, columns=["paper", "study", "number", "claim", "verdict"])


def is_current(found: Mapping[str, StudyFindings], figures: Path) -> bool:
    """Return whether the figure is there and was drawn from these verdicts; there is none of no verdict."""
    rows, files = verdict_rows(found), [figures / FOLDER / f"{NAME}{suffix}" for suffix in SUFFIXES]
    there = all(path.exists() for path in files)
    return rows.empty or (there and (figures / FOLDER / f"{NAME}.csv").read_bytes() == csv_text(rows).encode())


def caption(rows: pd.DataFrame) -> str:
    """Return the caption of the figure."""
    papers = rows["paper"].nunique()
    return f"The verdicts on all {len(rows)} claims of {papers} papers or groups of papers, a mark for each."


def save_overview(found: Mapping[str, StudyFindings], figures: Path) -> list[Path]:
    """Draw and write the figure with its numbers, and return their paths."""
    rows = verdict_rows(found)
    with mpl.rc_context(STYLE):
        figure = _drawn(rows)
        return save_figure(figure, rows, figures / FOLDER, NAME, caption(rows), {"versions": rendered_with()})


def _drawn(rows: pd.DataFrame) -> Any:
    papers = {str(name): [*own["verdict"]] for name, own in rows.groupby("paper", sort=False)}
    labels = {name: textwrap.wrap(name, LABEL) for name in papers}
    lines = {name: max(-(-len(own) // PER_LINE), len(labels[name])) + 0.45 for name, own in papers.items()}
    figure, axes = new_figure(COLUMN, LINE * sum(lines.values()) + ROOM)
    ax, top, ticks = axes[0, 0], 0.0, []
    for name, verdicts in papers.items():
        middle = top + (lines[name] - 0.45) / 2 - 0.5
        first = middle - (-(-len(verdicts) // PER_LINE) - 1) / 2
        for verdict, places in _places(verdicts):
            x, y = zip(*places, strict=True)
            ax.plot(x, [first + line for line in y], linestyle="", **_look(verdict))
        ticks.append((middle, "\n".join(labels[name])))
        top += lines[name]
        ax.axhline(top - 0.725, color="0.85", linewidth=0.5)
    ax.set(xlim=(-0.7, PER_LINE - 0.3), ylim=(top - 0.725, -0.8), xticks=[])
    ax.set_yticks(*map(list, zip(*ticks, strict=True)))
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    counts = Counter(rows["verdict"])
    handles = [_handle(verdict, counts[verdict]) for verdict in MARKS]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handletextpad=0.3, columnspacing=1.0)
    return figure


def _places(verdicts: Sequence[str]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield each verdict with the columns and lines of its marks."""
    ordered = sorted(verdicts, key=[*MARKS].index)
    for verdict in dict.fromkeys(ordered):
        numbers = [number for number, each in enumerate(ordered) if each == verdict]
        yield verdict, [(number % PER_LINE, number // PER_LINE) for number in numbers]


def _handle(verdict: str, count: int) -> Line2D:
    return Line2D([], [], linestyle="", label=f"{verdict} ({count})", **_look(verdict))


def _look(verdict: str) -> dict[str, Any]:
    return {"markersize": SIZE} | MARKS[verdict]
