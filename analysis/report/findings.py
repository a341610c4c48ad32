"""The findings of a study: each claim with its number, its verdict and the p value that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from analysis.report.numbers import significant
from analysis.report.verdicts import Judged
from analysis.statistics.intervals import Interval
from analysis.statistics.multiplicity import discovery_rates
from analysis.statistics.settings import FEWEST, over_settings


@dataclass(frozen=True)
class Variant:
    """The same claim measured in another way or setting, with what would be said of it alone; it has no vote."""

    name: str
    number: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Finding:
    """One claim of a paper and what came of it here.

    ``setting`` says on what it was tested, ``figure`` is the stem of the figure or table that shows it, ``number`` the
    number with its interval as text, ``why`` what the verdict rests on or what keeps it from being better, and
    ``smallest_effect`` the smallest effect of interest with its reason. ``p`` is described in
    :class:`analysis.report.verdicts.Judged`, and ``q`` the least false-discovery rate at which it would stand among the
    claims of its study. ``variants`` are the same claim measured otherwise, ``cutoffs`` the verdicts of other cut-offs.
    """

    claim: str
    setting: str
    figure: str
    number: str
    verdict: str
    why: str
    smallest_effect: str = ""
    p: float | None = None
    cutoffs: Mapping[str, str] = field(default_factory=dict)
    q: float | None = None
    variants: tuple[Variant, ...] = ()

    @property
    def line(self) -> str:
        """The finding as one line of a terminal."""
        return f"{self.claim}: {self.number}: {self.verdict} ({self.why})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, p and q to three digits."""
        rounded = {name: None if x is None else float(significant(x, 3)) for name, x in (("p", self.p), ("q", self.q))}
        return asdict(self) | rounded


def variants(
    intervals: Mapping[str, Interval], text: Callable[[Interval], str], rule: Callable[[Interval], Judged]
) -> tuple[Variant, ...]:
    """Return what the rule of a claim says of each interval alone, by name; ``text`` shows its number."""
    return tuple(Variant(name, text(each), *rule(each)[:2]) for name, each in intervals.items())


def over_all(
    claim: str,
    setting: str,
    figure: str,
    intervals: Mapping[str, Interval],
    text: Callable[[Interval], str],
    rule: Callable[[Interval], Judged],
    *,
    log: bool = False,
) -> Finding:
    """Return the finding on a claim that was tested in several settings, each of which is a variant.

    It rests on their mean, with ``log`` on that of logarithms, and where they are fewer than three on the first
    (:func:`analysis.statistics.settings.over_settings`).
    """
    found = over_settings(intervals, log=log)
    of = f"mean over {len(intervals)}: " if len(intervals) >= FEWEST else f"{next(iter(intervals), 'none')}: "
    number = f"{of if len(intervals) > 1 else ''}{text(found)}"
    return Finding(claim, setting, figure, number, *rule(found), variants=variants(intervals, text, rule))


def with_variants(finding: Finding, *more: Variant) -> Finding:
    """Return a finding with more variants."""
    return replace(finding, variants=(*finding.variants, *more))


def with_discovery_rates(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of a study with their ``q``."""
    rates = discovery_rates([each.p for each in findings])
    return [replace(each, q=q) for each, q in zip(findings, rates, strict=True)]
