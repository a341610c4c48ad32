"""``python -m analysis.pages.verdict_changes``: docs/verdict_changes.md, whose verdicts changed and why.

``former_verdicts.json`` beside this file has the claims, numbers and verdicts of the first renderings and, of each that
changed, a reason that is written by hand for the verdict of today; the numbers of today are those of the committed
findings. ``--check`` writes nothing and fails where the page is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

from analysis.pages.found import StudyFindings, load_findings
from analysis.pages.markdown import plain, table
from analysis.pages.papers import PAPERS
from analysis.report.findings import Finding
from analysis.report.story import find
from sharpness.errors import InputError, RunError, run_command
from sharpness.files import write_atomically

FORMER = Path(__file__).with_name("former_verdicts.json")
INTRO = """# Which verdicts changed, and why?

The first renderings of {studies} studies judged by a rule that knew no "inconclusive" and no "contradicted": both were "not reproduced". Most studies were then run again in settings that can show what is claimed. Of {claims} claims {changed} have another verdict today. Of the others, whose numbers may be others too, {variants} became variants: one claim has one verdict, and what shares its runs, or is one of its settings, stands beside it without a vote. [How is a verdict reached?](studies.md#how-is-a-verdict-reached) has the rules of today. What is not listed here, such as the studies that came later, had no verdict before. `python -m analysis.pages.verdict_changes` writes this page.
"""  # noqa: E501 - a paragraph of a page


@dataclass(frozen=True)
class Options:
    """The places where the findings are read and the page written."""

    figures: Path = Path("figures")
    """Folder of the rendered studies."""
    out: Path = Path("docs/verdict_changes.md")
    """The page."""
    check: bool = False
    """Write nothing, and fail where the page is out of date."""


@dataclass(frozen=True)
class Former:
    """A claim of the first renderings, its number and its verdict there.

    ``today`` is the regular expression by which :func:`find` finds the claim of today, empty where its words are the
    same. ``became`` is the verdict of today that the reason ``why`` is about; both are empty where it is the same.
    """

    claim: str
    number: str
    verdict: str
    today: str = ""
    became: str = ""
    why: str = ""


class Now(NamedTuple):
    """A claim of the first renderings, and the claim or the variant that stands for it today."""

    former: Former
    finding: Finding
    is_variant: bool


def load_former(path: Path = FORMER) -> dict[str, tuple[Former, ...]]:
    """Return the claims of the first renderings by study."""
    return {study: tuple(Former(**row) for row in rows) for study, rows in json.loads(path.read_text("utf-8")).items()}


def now(former: Former, findings: Sequence[Finding]) -> Now:
    """Return what stands for a claim today among the findings of its study.

    Raises :class:`InputError` where nothing does, and for a reason that is missing or about another verdict.
    """
    finding = find(former.today or f"^{re.escape(former.claim)}$", findings)
    if finding is None:
        raise InputError(f"expected a claim of today for {former.claim!r}, got none: name it in {FORMER.name}")
    became = finding.verdict if finding.verdict != former.verdict else ""
    if became != former.became or bool(became) != bool(former.why):
        raise InputError(
            f"expected a reason for {became or 'no change'!r} of {former.claim!r}, got one for "
            f"{former.became or 'no change'!r}: write it in {FORMER.name}"
        )
    return Now(former, finding, finding.claim not in {each.claim for each in findings})


def changes_page(former: Mapping[str, Sequence[Former]], found: Mapping[str, StudyFindings]) -> str:
    """Return the page: for each paper a table of the verdicts that changed, and the claims that became variants."""
    today = {study: [now(each, found[study].findings) for each in rows] for study, rows in former.items()}
    every = [each for rows in today.values() for each in rows]
    counts = {
        "studies": len(today),
        "claims": len(every),
        "changed": sum(bool(each.former.became) for each in every),
        "variants": sum(_only_lost_its_vote(each) for each in every),
    }
    return "\n".join([INTRO.format(**counts), *_sections(today)])


def _sections(today: Mapping[str, Sequence[Now]]) -> Iterator[str]:
    for study, paper in PAPERS.items():
        rows = [_row(each) for each in today.get(study, ()) if each.former.became]
        variants = [f"- {plain(each.former.claim)}" for each in today.get(study, ()) if _only_lost_its_vote(each)]
        listed = ["Became variants, with the verdict that they had:\n", *variants, ""] if variants else []
        changed = [table(["claim", "then", "today", "why"], rows)] if rows else []
        if rows or variants:
            yield "\n".join([f"## {plain(paper.heading)}\n", *changed, *listed])


def _only_lost_its_vote(each: Now) -> bool:
    return each.is_variant and not each.former.became


def _row(each: Now) -> list[str]:
    former, finding, is_variant = each
    today = f"{finding.verdict}{', a variant' if is_variant else ''}: {finding.number}"
    return [plain(text) for text in (former.claim, f"{former.verdict}: {former.number}", today, former.why)]


def main() -> None:
    """Write the page, or check it."""
    options = tyro.cli(Options, prog="python -m analysis.pages.verdict_changes", description=__doc__)
    page = changes_page(load_former(), load_findings(options.figures))
    if not options.check:
        write_atomically(options.out, page.encode())
    elif not options.out.exists() or options.out.read_text(encoding="utf-8") != page:
        raise RunError(f"{options.out} is out of date: python -m analysis.pages.verdict_changes")


if __name__ == "__main__":
    run_command(main)
