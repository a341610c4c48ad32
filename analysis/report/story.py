"""The text of a study for its reader: the claims in plain words, never what came of them.

Numbers and verdicts are taken from the findings when the pages are written, so that no sentence can contradict them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from analysis.report.findings import Finding


@dataclass(frozen=True)
class Point:
    """A claim that is told: the regular expression by which :func:`find` finds it, and the claim in plain words.

    The ``clause`` is one that goes on from "these runs show that", in the present tense, without a full stop, and it
    names what it is about, as any other may stand before it. ``measure`` says in few words what its number is,
    where the clause does not.
    """

    pattern: str
    clause: str
    measure: str = ""


@dataclass(frozen=True)
class Story:
    """The subject of a study, in plain words.

    ``claim`` says what the paper claims, ``figure`` is the stem of the figure that shows most of it, ``points`` are the
    five to eight claims in the table, the most important first, and ``cannot_show`` says what the setting is too small
    or too narrow for, whatever came out. ``beside_the_paper`` says in two to four sentences which figure of the paper
    shows the same, what that one does better and what ours does, or that the paper's was not at hand.
    """

    claim: str
    figure: str
    points: tuple[Point, ...]
    beside_the_paper: str
    cannot_show: str


class Told(NamedTuple):
    """A claim in plain words, and what came of it."""

    clause: str
    measure: str
    finding: Finding


def find(pattern: str, findings: Sequence[Finding]) -> Finding | None:
    """Return the first finding whose claim has the pattern, and without one a variant as "claim: name of the variant".

    >>> from analysis.report.findings import Variant
    >>> other = Variant("on the arc", "+0.6 [+0.5, +0.7]", "reproduced", "")
    >>> line = Finding("the loss rises", "", "", "+0.1 [-0.1, +0.3]", "inconclusive", "", variants=(other,))
    >>> find("loss rises", [line]).verdict, find("rises: on the arc", [line]).verdict, find("error", [line])
    ('inconclusive', 'reproduced', None)
    """
    variants = (
        replace(each, claim=f"{each.claim}: {other.name}", number=other.number, verdict=other.verdict, why=other.why)
        for each in findings
        for other in each.variants
    )
    return next((each for each in (*findings, *variants) if re.search(pattern, each.claim)), None)


def told(points: Sequence[Point], findings: Sequence[Finding]) -> list[Told]:
    """Return the points with the first finding of each; a point that no finding has is left out.

    >>> found = Finding("LB is sharper: phi LB / SB", "", "", "23 [14, 37]", "reproduced", "")
    >>> [each.clause for each in told([Point("LB is", "they are sharper", "phi"), Point("gone", "x", "y")], [found])]
    ['they are sharper']
    """
    firsts = (find(point.pattern, findings) for point in points)
    return [
        Told(point.clause, point.measure, each) for point, each in zip(points, firsts, strict=True) if each is not None
    ]
