"""The page of a study beside its figures: what is claimed, what was learned, and in an appendix every claim."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from analysis.pages.found import VERDICTS, StudyFindings, is_fragile
from analysis.pages.markdown import address, link, plain, table
from analysis.pages.papers import Paper
from analysis.pages.sentences import sentences
from analysis.pages.stories import figure_of, points_of, story_of
from analysis.report.findings import Finding
from analysis.report.numbers import significant
from analysis.report.places import script_of

PAGE = "README.md"
RULES = "how-is-a-verdict-reached"
"""The heading, as an address, below which the rules of verdicts are."""
MORE_TERMS = "which-terms-do-the-pages-use"
"""That below which the terms are that the page of all findings does not use."""


def study_page(paper: Paper, found: StudyFindings, rates: Sequence[float | None], out: Path, studies: Path) -> str:
    """Return the page of a study; ``rates`` are q of its findings over all studies.

    It links to ``out``, the page of the findings, and to ``studies``, where the rules of verdicts are.
    """
    story, points = story_of(found.study), points_of(found)
    preset, seeds, _ = found.folder.name.split("-")
    command = f"`python {script_of(found.study)} --preset {preset} --seeds {seeds}`"
    head = ["claim", "what is measured", "number [95 % interval]", "verdict"]
    rows = [[plain(clause), plain(measure), plain(each.number), each.verdict] for clause, measure, each in points]
    parts = [
        f"# {plain(paper.heading)}\n",
        f"{cited(paper)}. Rendered by {command}; all papers are in {link(out.name, out, found.folder)}, which defines "
        f"the terms, but for [those of the pages]({address(studies, found.folder)}#{MORE_TERMS}).\n",
        *([f"## What is claimed\n\n{plain(story.claim)}\n"] if story else []),
        "## What came of it\n",
        *_figure(figure_of(found), found.folder),
        table(head, rows),
        f"## What was learned\n\n{sentences(points)}\n",
        *([f"## Beside the paper's figure\n\n{plain(story.beside_the_paper)}\n"] if story else []),
        *([f"## What this setting cannot show\n\n{plain(story.cannot_show)}\n"] if story else []),
        f"## All claims\n\n{_counted(found.findings, rates)} "
        f"[How is a verdict reached?]({address(studies, found.folder)}#{RULES})\n",
        *(
            _claim(number, *each, found.folder)
            for number, each in enumerate(zip(found.findings, rates, strict=True), 1)
        ),
    ]
    return "\n".join(parts)


def cited(paper: Paper) -> str:
    """Return a paper's citation with its links."""
    return ", ".join([plain(paper.citation), *(f"[{label}]({address})" for label, address in paper.links)])


def _figure(stem: str | None, folder: Path) -> list[str]:
    """Return a figure as a picture with its caption below it."""
    if stem is None:
        return []
    facts = folder / f"{stem}.json"
    caption = plain(json.loads(facts.read_text(encoding="utf-8"))["caption"]) if facts.exists() else plain(stem)
    return [f"![{plain(stem)}]({stem}.png)\n", f"{caption}\n"]


def _counted(findings: Sequence[Finding], rates: Sequence[float | None]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    fragile = [plain(each.claim) for each, q in zip(findings, rates, strict=True) if is_fragile(each, q)]
    told = f" Fragile: {'; '.join(fragile)}." if fragile else ""
    return f"{len(findings)} claims, {counted}.{told}"


def _claim(number: int, finding: Finding, rate: float | None, folder: Path) -> str:
    lines = [
        f"here: {plain(finding.setting)}",
        f"figure: {_shown_in(finding.figure, folder)}",
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


def _shown_in(name: str, folder: Path) -> str:
    for suffix in (".png", ".md"):
        if (folder / f"{name}{suffix}").exists():
            return link(name, folder / f"{name}{suffix}", folder)
    return f"{plain(name)} (not drawn)" if name else "none"
