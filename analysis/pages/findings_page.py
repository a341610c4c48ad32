"""``python -m analysis.pages.findings_page``: FINDINGS.md, and the table of verdicts in
docs/studies.md, from the committed findings.

Of each study it reads ``figures/<study>/<preset>-<n>-seeds/findings.json`` with the most seeds, of the preset ``full``
where the study has one and of ``cpu`` elsewhere. The same files give the same bytes; ``--check`` writes nothing and
fails where a page is out of date.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import tyro

from analysis.pages.markdown import plain
from analysis.pages.papers import PAPERS, Paper, paper_of
from analysis.report.verdicts import Finding, Verdict
from sharpness.errors import InputError, RunError, run_command
from sharpness.files import write_atomically

MARKERS = ("<!-- verdicts -->", "<!-- /verdicts -->")
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NOT_YET = "not rendered yet"
RENDERING = re.compile(r"(?P<preset>cpu|full)-(?P<seeds>\d+)-seeds")
INTRO = """# Findings

What the papers claim and what came of it here, on small networks and data that ship with the package. This page is written by `python -m analysis.pages.findings_page` from the `findings.json` that each study renders; nothing on it is written by hand.

A verdict follows from an interval, a 95 % one unless the number says otherwise (a median with its range), by a rule fixed in the code before the results were seen, but for claims that say otherwise. Most follow from one of two, `judge` and `judge_value` in `analysis/report/verdicts.py`; for a claim that two things agree to a factor, a ratio that is not within is not reproduced (`judge_within`), since agreement has no sign:

| verdict | a number lies on one side of a value | a number lies between two values |
| --- | --- | --- |
| reproduced | the whole interval lies on the claimed side, and the number has the claimed size if there is one | the whole interval lies between them |
| reproduced in sign only | it lies on the claimed side and misses the claimed size | it meets the range without lying within it, and does not reach 0 if the range does not |
| not reproduced | it reaches the value, or lies on the other side | it misses the range, or reaches 0 where the range does not |
| not testable here | there is no interval; the reason says why | there is no interval; the reason says why |

A claim that things are equal, or one no worse than another, is reproduced where the whole interval lies within a margin that is stated (`analysis/report/verdicts.py`). A claim about every one of several has the worst of their verdicts. What a verdict rests on, and which limits it had, stands behind it.

"Not reproduced" says that these runs do not show the claim, not that it is wrong where the paper tested it. Diverged and missing runs are counted in the captions, and what was left out is named there and under "not testable here".
"""  # noqa: E501 - paragraphs of a page


@dataclass(frozen=True)
class Found:
    """The findings of one study and the folder they lie in with their figures."""

    study: str
    folder: Path
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Options:
    """Where the findings are read and the pages written."""

    figures: Path = Path("figures")
    """Folder of the rendered studies."""
    out: Path = Path("FINDINGS.md")
    """The page of all findings."""
    studies: Path = Path("docs/studies.md")
    """The page whose part between <!-- verdicts --> and <!-- /verdicts --> is replaced."""
    check: bool = False
    """Write nothing, and exit with code 1 if a page is out of date."""


def read_findings(path: Path) -> tuple[Finding, ...]:
    """Return the findings of a file; raises :class:`InputError` for one that is damaged or of another form."""
    try:
        found = tuple(Finding(**row) for row in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"expected findings in {path}, got {error}: render the study again") from error
    unknown = {finding.verdict for finding in found} - set(VERDICTS)
    if unknown or not all(isinstance(value, str) for finding in found for value in finding.to_dict().values()):
        raise InputError(f"expected verdicts of {', '.join(VERDICTS)} as text in {path}: render the study again")
    return found


def load_findings(figures: Path) -> dict[str, Found]:
    """Return the findings by study: of each the rendering on CPUs with the widest preset and the most seeds.

    Raises :class:`InputError` for no folder, a damaged file, and a study that no paper names, which would be lost.
    """
    if not figures.is_dir():
        raise InputError(f"expected a folder of rendered studies, got {figures}: name it with --figures")
    best: dict[str, tuple[int, int, Path]] = {}
    for path in sorted(figures.glob("*/*-seeds/findings.json")):
        if rendering := RENDERING.fullmatch(path.parent.name):
            study, width = path.parent.parent.name, ("cpu", "full").index(rendering["preset"])
            best[study] = max(best.get(study, (0, 0, path)), (width, int(rendering["seeds"]), path))
    if lost := [study for study in best if paper_of(study) is None]:
        raise InputError(
            f"expected studies that a paper names, got {', '.join(lost)}: add them to analysis/pages/papers.py"
        )
    return {study: Found(study, path.parent, read_findings(path)) for study, (*_, path) in best.items()}


def of_paper(paper: Paper, found: Mapping[str, Found]) -> list[Found]:
    """Return what the studies of a paper found, those without findings left out."""
    return [found[study] for study in paper.studies if study in found and found[study].findings]


def findings_page(found: Mapping[str, Found], base: Path) -> str:
    """Return FINDINGS.md; its links start from the folder ``base``."""
    rows = [row for paper in PAPERS.values() for row in _verdict_rows(paper, of_paper(paper, found))]
    sections = [_section(paper, of_paper(paper, found), base) for paper in PAPERS.values()]
    head = ["paper", "claim", "verdict", "number [95 % interval]"]
    return "\n".join([INTRO, "## All verdicts\n", _table(head, rows), *sections])


def verdict_counts(found: Mapping[str, Found], page: Path, base: Path) -> str:
    """Return the table of counts: how many claims of each paper got which verdict, and what came of its first one.

    It links to the ``page`` of all findings from the folder ``base``.
    """
    rows = []
    for paper in PAPERS.values():
        findings = [finding for each in of_paper(paper, found) for finding in each.findings]
        counts = Counter(finding.verdict for finding in findings)
        numbers = [str(counts[verdict]) if findings else "–" for verdict in VERDICTS]
        first = f"{_stated(findings[0])}: {findings[0].verdict}" if findings else NOT_YET
        rows.append([plain(paper.heading), *numbers, first])
    head = ["paper", "reproduced", "in sign only", "not", "not testable here", "the first claim, and what came of it"]
    more = f"All claims, with settings, figures and reasons: {_link(page.name, page, base)}."
    return f"{_table(head, rows, right=range(1, 5))}\n{more}\n"


def replaced(text: str, part: str, path: Path) -> str:
    """Return a text with what stands between its markers replaced; raises :class:`InputError` without them."""
    start, end = MARKERS
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise InputError(f"expected one {start} and after it one {end} in {path}, got others: put them where the "
                         "table of verdicts belongs")  # fmt: skip
    before, _, rest = text.partition(start)
    return f"{before}{start}\n\n{part}\n{end}{rest.partition(end)[2]}"


def write_pages(options: Options) -> list[Path]:
    """Write the pages that changed and return their paths; with ``check`` raise :class:`RunError` instead."""
    found = load_findings(options.figures)
    part = verdict_counts(found, options.out, options.studies.parent)
    studies = replaced(options.studies.read_text(encoding="utf-8"), part, options.studies)
    pages = {options.out: findings_page(found, options.out.parent), options.studies: studies}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_bytes() != text.encode()]
    if options.check and stale:
        names = " and ".join(map(str, stale))
        raise RunError(f"{names} not up to date with {options.figures}: run python -m analysis.pages.findings_page")
    for path in stale:
        write_atomically(path, pages[path].encode())
    return stale


def _verdict_rows(paper: Paper, studies: Sequence[Found]) -> list[list[str]]:
    rows = [
        [plain(paper.heading), plain(finding.claim), finding.verdict, plain(finding.number)]
        for found in studies
        for finding in found.findings
    ]
    return rows or [[plain(paper.heading), "–", NOT_YET, "–"]]


def _section(paper: Paper, studies: Sequence[Found], base: Path) -> str:
    links = [f"[{label}]({address})" for label, address in paper.links]
    parts = [f"## {plain(paper.heading)}\n", f"{', '.join([plain(paper.citation), *links])}.\n"]
    for study in paper.studies:
        if study not in {found.study for found in studies}:
            parts.append(f"{NOT_YET.capitalize()}: `python scripts/{study}.py`.\n")
    for found in studies:
        parts.append(_introduced(found, base))
        parts += [_claim(number, finding, found, base) for number, finding in enumerate(found.findings, start=1)]
    return "\n".join(parts)


def _introduced(found: Found, base: Path) -> str:
    preset, seeds, _ = found.folder.name.split("-")
    folder = _link(found.folder.as_posix(), found.folder, base)
    counts = Counter(finding.verdict for finding in found.findings)
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    script = f"`python scripts/{found.study}.py`"
    return f"{script}, preset `{preset}`, {seeds} seeds, {folder}: {len(found.findings)} claims, {counted}.\n"


def _claim(number: int, finding: Finding, found: Found, base: Path) -> str:
    lines = [
        f"here: {plain(finding.setting)}",
        f"figure: {_figure(finding.figure, found.folder, base)}",
        f"number: {plain(finding.number)}",
        f"verdict: **{finding.verdict}**{': ' if finding.why else ''}{plain(finding.why)}",
    ]
    mark = f"{number}. "
    inner = "".join(f"{' ' * len(mark)}- {line}\n" for line in lines)  # as deep as Markdown wants it below the mark
    return f"{mark}**{plain(finding.claim)}**\n{inner}"


def _figure(name: str, folder: Path, base: Path) -> str:
    for suffix in (".png", ".md"):
        if (folder / f"{name}{suffix}").exists():
            return _link(name, folder / f"{name}{suffix}", base)
    return f"{plain(name)} (not drawn)" if name else "none"


def _link(label: str, target: Path, base: Path) -> str:
    return f"[{plain(label)}]({quote(Path(os.path.relpath(target, base)).as_posix())})"


def _stated(finding: Finding) -> str:
    return f"{plain(finding.claim)} ({plain(finding.number)})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    rule = ["---:" if number in right else "---" for number in range(len(header))]
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *rows])


def main() -> None:
    """Write the pages and say which changed."""
    options = tyro.cli(Options, prog="python -m analysis.pages.findings_page", description=__doc__)
    changed = write_pages(options)
    print(f"wrote {' and '.join(map(str, changed))}" if changed else "up to date")


if __name__ == "__main__":
    run_command(main)
