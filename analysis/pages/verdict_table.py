"""The table of verdicts in docs/studies.md: how many claims of each paper got which verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from analysis.pages.found import VERDICTS, StudyFindings, of_paper, rates_of_all, standing
from analysis.pages.markdown import link, plain, table
from analysis.pages.papers import PAPERS
from sharpness.errors import InputError

MARKERS = ("<!-- verdicts -->", "<!-- /verdicts -->")
NOT_YET = "not rendered yet"


def verdict_counts(found: Mapping[str, StudyFindings], page: Path, base: Path) -> str:
    """Return the table of counts: how many claims of each paper got which verdict, and what came of its first one.

    It links to the ``page`` of the findings from the folder ``base``.
    """
    rates = rates_of_all(found)
    rows = []
    for paper in PAPERS.values():
        studies = of_paper(paper, found)
        findings = [finding for each in studies for finding in each.findings]
        counts = Counter(finding.verdict for finding in findings)
        numbers = [str(counts[verdict]) if findings else "–" for verdict in VERDICTS]
        stand = standing([rate for each in studies for rate in rates[each.study]], findings)
        first = NOT_YET
        if findings:
            first = f"{plain(findings[0].claim)} ({plain(findings[0].number)}): {findings[0].verdict}"
        rows.append([plain(paper.heading), numbers[0], stand, *numbers[1:], first])
    names = [verdict.removeprefix("reproduced ") for verdict in VERDICTS]
    head = ["paper", names[0], "at 5 % FDR", *names[1:], "the first claim, and what came of it"]
    more = (
        "At 5 % FDR: how many of the reproduced would stand with a false-discovery rate of 5 % over all studies, of "
        f"those that have a p value. What the claims are and what came of them: {link(page.name, page, base)}, which "
        "leads to all claims of each study with settings, figures and reasons."
    )
    return f"{table(head, rows, right=range(1, len(head) - 1))}\n{more}\n"


def replaced(text: str, part: str, path: Path) -> str:
    """Return a text with what stands between its markers replaced; raises :class:`InputError` without them."""
    start, end = MARKERS
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise InputError(
            f"expected one {start} and after it one {end} in {path}, got others: put them where the "
            "table of verdicts belongs"
        )
    before, _, rest = text.partition(start)
    return f"{before}{start}\n\n{part}\n{end}{rest.partition(end)[2]}"
