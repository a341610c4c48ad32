"""The report of a study: figures, tables as text and as numbers, sentences and verdicts, and writing them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.report.findings import Finding, with_discovery_rates
from analysis.report.texts import csv_text, latex_text, markdown_text
from analysis.runs import Place, Tables, load, provenance, runs_csv
from sharpness.plots.save import provenance_json, remove_figure, save_figure, write_all
from sharpness.plots.style import STYLE


@dataclass(frozen=True)
class Drawing:
    """A figure, the numbers drawn in it and its caption."""

    figure: Figure
    numbers: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class TextTable:
    """A table as it is read, with the unrounded numbers behind it."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Report:
    """The result of a study's analysis: drawings by name, or the reason why one cannot be drawn.

    ``sentences`` say what came out, ``checks`` what was run, is missing, or was measured a second time.
    """

    drawings: Mapping[str, Drawing | str] = field(default_factory=dict)
    tables: Sequence[TextTable] = ()
    sentences: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    checks: Sequence[str] = ()


@dataclass(frozen=True)
class Written:
    """The files that were written, and what the terminal shows."""

    files: Sequence[Path]
    tables: Sequence[TextTable]
    sentences: Sequence[str]
    findings: Sequence[Finding]
    checks: Sequence[str]


@dataclass(frozen=True)
class Drawings(Mapping[str, Drawing | str]):
    """Drawings by name, each made when it is asked for first: who wants the verdicts alone waits for none.

    >>> drawings = Drawings({"empty": lambda: "no run finished"})
    >>> drawings["empty"], list(drawings)
    ('no run finished', ['empty'])
    """

    functions: Mapping[str, Callable[[], Drawing | str]]
    made: dict[str, Drawing | str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Drawing | str:
        if name not in self.made:
            with mpl.rc_context(STYLE):
                self.made[name] = self.functions[name]()
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.functions)

    def __len__(self) -> int:
        return len(self.functions)


def write_report(report: Report, out: Path, provenance: Mapping[str, Any]) -> Written:
    """Write every figure, table and verdict into ``out``.

    A figure that cannot be drawn is not written, an older one of that name is removed, and the checks say why.
    """
    names = [*report.drawings, *(table.name for table in report.tables)]
    if len(set(names)) < len(names):
        raise ValueError(f"figures and tables of one name would overwrite each other: {names}")
    files, refusals = [], []
    for name, drawing in report.drawings.items():
        if isinstance(drawing, str):
            remove_figure(out, name)
            refusals.append(f"{name} was not drawn: {drawing}.")
        else:
            files += save_figure(drawing.figure, drawing.numbers, out, name, drawing.caption, provenance)
    for table in report.tables:
        files += save_table(table, out, provenance)
    findings = with_discovery_rates(report.findings)
    if findings:
        verdicts = json.dumps([finding.to_dict() for finding in findings], indent=2, ensure_ascii=False)
        files += write_all(out, {"findings.json": (verdicts + "\n").encode()})
    return Written(files, report.tables, report.sentences, findings, [*report.checks, *refusals])


def render_study(
    report: Callable[[Tables, Mapping[str, Any]], Report],
    places: Iterable[Place],
    measured: Iterable[Path],
    settings: Mapping[str, Any],
    out: Path,
) -> Written:
    """Read the runs of a study and write what ``report(tables, settings)`` returns, and ``runs.csv``, into ``out``.

    Raises :class:`InputError` for damaged run folders.
    """
    tables = load(places, measured)
    return write_study(report(tables, settings), tables, settings, out)


def write_study(report: Report, tables: Tables, settings: Mapping[str, Any], out: Path) -> Written:
    """Write a report with the origin of its numbers, and ``runs.csv`` with every run of the study."""
    written = write_report(report, out, provenance(tables, settings))
    return replace(written, files=[*written.files, *write_all(out, {"runs.csv": runs_csv(tables).encode()})])


def save_table(table: TextTable, out: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write a table as Markdown, LaTeX, CSV (unrounded) and JSON of its origin; return their paths."""
    csv = csv_text(table.numbers).encode()
    contents = {
        ".md": markdown_text(table.header, table.rows, table.caption).encode(),
        ".tex": latex_text(table.header, table.rows, table.caption).encode(),
        ".csv": csv,
        ".json": provenance_json({**provenance, "caption": table.caption}, csv),
    }
    return write_all(out, {f"{table.name}{suffix}": content for suffix, content in contents.items()})
