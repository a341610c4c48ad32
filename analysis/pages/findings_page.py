"""``python -m analysis.pages.findings_page``: FINDINGS.md, and the table of verdicts in
docs/studies.md, from the committed findings.

Of each study it reads ``figures/<study>/<preset>-<n>-seeds/findings.json`` with the most seeds, of the preset ``full``
where the study has one and of ``cpu`` elsewhere. The same files give the same bytes; ``--check`` writes nothing and
fails where a page is out of date.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import tyro

from analysis.pages.found import (
    OLD,
    VERDICTS,
    Found,
    is_fragile,
    load_findings,
    of_paper,
    rates_of_all,
    shown_verdicts,
    standing,
)
from analysis.pages.markdown import plain
from analysis.pages.papers import PAPERS, Paper
from analysis.report.findings import Finding
from analysis.report.numbers import significant
from sharpness.errors import InputError, RunError, run_command
from sharpness.files import write_atomically

MARKERS = ("<!-- verdicts -->", "<!-- /verdicts -->")
NOT_YET = "not rendered yet"
INTRO = """# Findings

What the papers claim and what came of it here, on small networks and data that ship with the package. This page is written by `python -m analysis.pages.findings_page` from the `findings.json` that each study renders; nothing on it is written by hand.

A verdict follows from an interval, a 95 % one unless the number says otherwise (a median with its range), and from the smallest effect of interest, which stands with its reason behind each claim. [docs/studies.md](docs/studies.md#how-is-a-verdict-reached) explains the rules; `judge` and `judge_within` in `analysis/report/verdicts.py` are these:

| verdict | a number lies on one side of a value | a number has a value, or two things agree: it lies in a range |
| --- | --- | --- |
| reproduced | the whole interval lies on the claimed side, the number is at least the smallest effect of interest away, and has the claimed size if there is one | the whole interval lies in the range |
| reproduced in sign only | the whole interval lies on the claimed side, and the number is smaller than that or misses the size | of claims with a sign, such as a slope of 1: the interval excludes 0 and reaches beyond the range |
| inconclusive | the interval reaches both the value and effects of interest | the interval meets the range and reaches beyond it |
| contradicted | the interval excludes every effect of interest on the claimed side: the number lies on the other side, or as good as on the value | the interval misses the range |
| not testable here | there is no interval; the reason says why | there is no interval; the reason says why |

A claim has one verdict. What was measured in several ways or settings is listed below it as variants, which are not counted. A claim over three or more settings rests on their mean.

Of many claims some are reproduced by chance. q is the least false-discovery rate at which a claim would stand among all claims of its study (Benjamini & Hochberg 1995), and beside it among those of all studies. A reproduced claim whose q is above 5 % is fragile, and named.

"Contradicted" says that these runs exclude the claim here, not that it is wrong where the paper tested it. "Not reproduced" stands for either of inconclusive and contradicted in studies that were not rendered again since the two are told apart; these were judged without a smallest effect of interest and have no q. Diverged and missing runs are counted in the captions, and what was left out is named there and under "not testable here".
"""  # noqa: E501 - paragraphs of a page


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


def findings_page(found: Mapping[str, Found], base: Path) -> str:
    """Return FINDINGS.md; its links start from the folder ``base``."""
    rows = [row for paper in PAPERS.values() for row in _verdict_rows(paper, of_paper(paper, found))]
    rates = rates_of_all(found)
    sections = [_section(paper, of_paper(paper, found), rates, base) for paper in PAPERS.values()]
    head = ["paper", "claim", "verdict", "number [95 % interval]"]
    return "\n".join([INTRO, "## All verdicts\n", _table(head, rows), *sections])


def verdict_counts(found: Mapping[str, Found], page: Path, base: Path) -> str:
    """Return the table of counts: how many claims of each paper got which verdict, and what came of its first one.

    It links to the ``page`` of all findings from the folder ``base``.
    """
    rates, shown = rates_of_all(found), shown_verdicts(found)
    rows = []
    for paper in PAPERS.values():
        studies = of_paper(paper, found)
        findings = [finding for each in studies for finding in each.findings]
        counts = Counter(finding.verdict for finding in findings)
        numbers = [str(counts[verdict]) if findings else "–" for verdict in shown]
        stand = standing([rate for each in studies for rate in rates[each.study]], findings)
        first = f"{_stated(findings[0])}: {findings[0].verdict}" if findings else NOT_YET
        rows.append([plain(paper.heading), numbers[0], stand, *numbers[1:], first])
    names = [verdict.removeprefix("reproduced ") for verdict in shown]
    head = ["paper", names[0], "at 5 % FDR", *names[1:], "the first claim, and what came of it"]
    more = (
        "At 5 % FDR: how many of the reproduced would stand with a false-discovery rate of 5 % over all studies, of "
        f"those that have a p value. All claims, with settings, figures and reasons: {_link(page.name, page, base)}."
    )
    return f"{_table(head, rows, right=range(1, len(head) - 1))}\n{more}\n"


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


def _section(paper: Paper, studies: Sequence[Found], rates: Mapping[str, Sequence[float | None]], base: Path) -> str:
    links = [f"[{label}]({address})" for label, address in paper.links]
    parts = [f"## {plain(paper.heading)}\n", f"{', '.join([plain(paper.citation), *links])}.\n"]
    for study in paper.studies:
        if study not in {found.study for found in studies}:
            parts.append(f"{NOT_YET.capitalize()}: `python scripts/{study}.py`.\n")
    for found in studies:
        parts.append(_introduced(found, rates[found.study], base))
        numbered = enumerate(zip(found.findings, rates[found.study], strict=True), start=1)
        parts += [_claim(number, finding, rate, found, base) for number, (finding, rate) in numbered]
    return "\n".join(parts)


def _introduced(found: Found, rates: Sequence[float | None], base: Path) -> str:
    preset, seeds, _ = found.folder.name.split("-")
    folder = _link(found.folder.as_posix(), found.folder, base)
    counts = Counter(finding.verdict for finding in found.findings)
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (*VERDICTS, OLD) if counts[verdict])
    script = f"`python scripts/{found.study}.py`"
    fragile = [plain(each.claim) for each, q in zip(found.findings, rates, strict=True) if is_fragile(each, q)]
    told = f" Fragile: {'; '.join(fragile)}." if fragile else ""
    return f"{script}, preset `{preset}`, {seeds} seeds, {folder}: {len(found.findings)} claims, {counted}.{told}\n"


def _claim(number: int, finding: Finding, rate: float | None, found: Found, base: Path) -> str:
    lines = [
        f"here: {plain(finding.setting)}",
        f"figure: {_figure(finding.figure, found.folder, base)}",
        f"number: {plain(finding.number)}",
        f"verdict: **{finding.verdict}**{': ' if finding.why else ''}{plain(finding.why)}",
        *_more(finding, rate),
    ]
    mark = f"{number}. "
    inner = "".join(f"{' ' * len(mark)}- {line}\n" for line in lines)  # as deep as Markdown wants it below the mark
    return f"{mark}**{plain(finding.claim)}**\n{inner}"


def _more(finding: Finding, rate: float | None) -> list[str]:
    """Return the lines that findings have since their smallest effects of interest are stated."""
    lines = (
        [f"smallest effect of interest, or range of the claim: {plain(finding.smallest_effect)}"]
        if finding.smallest_effect
        else []
    )
    if finding.p is not None and finding.q is not None and rate is not None:
        known = zip(("p", "q", "q over all studies"), (finding.p, finding.q, rate), strict=True)
        lines.append(", ".join(f"{name} = {significant(each, 2)}" for name, each in known))
    if finding.cutoffs:
        told = ", ".join(f"{cutoff}: {verdict}" for cutoff, verdict in finding.cutoffs.items())
        lines.append(f"by the cut-off: {plain(told)}")
    each = [f"{each.name}: {each.number}: {each.verdict}" for each in finding.variants]
    return [*lines, *(f"variant, {plain(text)}" for text in each)]


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
