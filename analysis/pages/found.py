"""The committed findings: read and checked, chosen by rendering, with their false-discovery rates over all studies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from analysis.pages.papers import Paper, paper_of
from analysis.report.findings import Finding, Variant
from analysis.report.verdicts import Verdict
from analysis.statistics.multiplicity import discovery_rates
from sharpness.errors import InputError

VERDICTS: tuple[str, ...] = get_args(Verdict)
DISCOVERY_RATE = 0.05
"""The share of false ones that may be among the claims that stand."""
RENDERING = re.compile(r"(?P<preset>cpu|full|headline)-(?P<seeds>\d+)-seeds")
OWN_QUESTION = ("headline",)
"""Presets that ask a question of their own, beside that of the paper, and count as studies of their own."""


@dataclass(frozen=True)
class StudyFindings:
    """The findings of one study and the folder they lie in with their figures."""

    study: str
    folder: Path
    findings: tuple[Finding, ...]


def read_findings(path: Path) -> tuple[Finding, ...]:
    """Return the findings of a file; raises :class:`InputError` for one that is damaged or of another form."""
    try:
        found = tuple(_finding(row) for row in json.loads(path.read_text(encoding="utf-8")))
        right = all(map(_is_right, found))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"expected findings in {path}, got {error}: render the study again") from error
    if not right:
        raise InputError(f"expected verdicts of {', '.join(VERDICTS)} as text in {path}: render the study again")
    return found


def _finding(row: Mapping[str, Any]) -> Finding:
    return Finding(**{**row, "variants": tuple(Variant(**each) for each in row.get("variants", ()))})


def _is_right(finding: Finding) -> bool:
    """Return whether verdicts are known ones, texts are texts and rates are numbers or none."""
    said = {finding.verdict, *(each.verdict for each in finding.variants), *finding.cutoffs.values()}
    texts = [finding.claim, finding.setting, finding.figure, finding.number, finding.why, finding.smallest_effect]
    texts += [text for each in finding.variants for text in asdict(each).values()]
    rates = [rate for rate in (finding.p, finding.q) if rate is not None]
    return (
        said <= {*VERDICTS}
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(rate, float | int) for rate in rates)
    )


def load_findings(figures: Path) -> dict[str, StudyFindings]:
    """Return the findings by study: of each the rendering on CPUs with the widest preset and the most seeds.

    Raises :class:`InputError` for no folder, a damaged file, and a study that no paper names, which would be lost.
    """
    if not figures.is_dir():
        raise InputError(f"expected a folder of rendered studies, got {figures}: name it with --figures")
    best: dict[str, tuple[int, int, Path]] = {}
    for path in sorted(figures.glob("*/*-seeds/findings.json")):
        if rendering := RENDERING.fullmatch(path.parent.name):
            study, preset = path.parent.parent.name, rendering["preset"]
            study, width = f"{study}-{preset}" if preset in OWN_QUESTION else study, preset == "full"
            best[study] = max(best.get(study, (0, 0, path)), (width, int(rendering["seeds"]), path))
    if lost := [study for study in best if paper_of(study) is None]:
        raise InputError(
            f"expected studies that a paper names, got {', '.join(lost)}: add them to analysis/pages/papers.py"
        )
    return {study: StudyFindings(study, path.parent, read_findings(path)) for study, (*_, path) in best.items()}


def of_paper(paper: Paper, found: Mapping[str, StudyFindings]) -> list[StudyFindings]:
    """Return what the studies of a paper found, those without findings left out."""
    return [found[study] for study in paper.studies if study in found and found[study].findings]


def rates_of_all(found: Mapping[str, StudyFindings]) -> dict[str, list[float | None]]:
    """Return q of each finding among those of all studies, by study."""
    rates = iter(discovery_rates([finding.p for each in found.values() for finding in each.findings]))
    return {study: [next(rates) for _ in each.findings] for study, each in found.items()}


def standing(rates: Sequence[float | None], findings: Sequence[Finding]) -> str:
    """Return how many of the reproduced claims stand at the false-discovery rate, of those that have a p value.

    >>> standing([0.01, 0.2, None], [Finding("", "", "", "", "reproduced", "")] * 3)
    '1 of 2'
    """
    known = [q for q, each in zip(rates, findings, strict=True) if each.verdict == "reproduced" and q is not None]
    return f"{sum(q <= DISCOVERY_RATE for q in known)} of {len(known)}" if known else "–"


def is_fragile(finding: Finding, rate: float | None) -> bool:
    """Return whether a claim is reproduced but would not stand among its study's, or among all, at 5 %."""
    rates = [each for each in (finding.q, rate) if each is not None]
    return finding.verdict == "reproduced" and any(each > DISCOVERY_RATE for each in rates)
