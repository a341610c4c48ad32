"""Sentences about results: each is chosen by the verdict, and its number is that of the finding."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.pages.markdown import plain
from analysis.report.story import Told

OPENINGS = {
    "reproduced": ("These runs show", "that", "and"),
    "reproduced in sign only": ("They show in direction, but not in the size that is claimed,", "that", "and"),
    "inconclusive": ("They leave open", "whether", "and"),
    "contradicted": ("They contradict the claim", "that", "and"),
    "not testable here": ("They cannot test", "whether", "or"),
}
"""How a sentence about claims of a verdict begins, what each claim begins with, and what stands before the last."""
INTERVAL = re.compile(r"\S+ \[[^\]]*\](?: (?:pp|nats|decades)\b)?")
"""A number with its interval and its unit."""
BARE = re.compile(r"\S+(?=, )")
"""A number without an interval, before what is said of it."""


def first_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence.

    >>> first_sentence("B grows. It stops at N.")
    'B grows.'
    """
    return f"{text.partition('. ')[0].removesuffix('.')}."


def first_number(number: str) -> str:
    """Return the number of a finding with its interval alone; of several the first with its name, and an ellipsis.

    >>> first_number("found / predicted = 1.2 [0.93, 1.5]")
    '1.2 [0.93, 1.5]'
    >>> first_number("slope FC SGD -0.85 [-0.93, -0.76]; FC momentum -0.93 [-1.11, -0.74]")
    'slope FC SGD -0.85 [-0.93, -0.76], …'
    >>> first_number("1.000, median and range, n = 20")
    '1.000'
    >>> first_number("9390 against 3522, 2.7 times as many")
    '9390 against 3522, 2.7 times as many'
    """
    first, *others = [*INTERVAL.finditer(number)] or [BARE.match(number)]
    if first is None:
        return number
    return f"{number[: first.end()]}, …" if others else first[0]


def sentences(points: Sequence[Told]) -> str:
    """Return a sentence for each verdict that the points have.

    >>> from analysis.report.findings import Finding
    >>> found = [Finding("", "", "", number, "reproduced", "") for number in ("2 [1, 3]", "5 [4, 6]")]
    >>> sentences([Told("x rises", "end over start", found[0]), Told("y falls", "", found[1])])
    'These runs show that x rises, and that y falls.'
    """
    result = []
    for verdict, (opening, joint, last) in OPENINGS.items():
        own = [each for each in points if each.finding.verdict == verdict]
        clauses = [f"{joint} {plain(each.clause)}" for each in own]
        if clauses:
            result.append(f"{opening} {_joined(clauses, last)}.")
    text = " ".join(result)
    return text.replace("They", "These runs", 1) if text.startswith("They") else text


def by_verdict(points: Sequence[Told]) -> str:
    """Return each point behind the word for its verdict, with its number.

    >>> from analysis.report.findings import Finding
    >>> by_verdict([Told("x rises", "end over start", Finding("", "", "", "2 [1, 3]", "reproduced", ""))])
    '*Reproduced:* x rises (end over start: 2 [1, 3]).'
    """
    words = (each.finding.verdict.removeprefix("reproduced ").capitalize() for each in points)
    return " ".join(f"*{word}:* {plain(each.clause)}{_number(each)}." for word, each in zip(words, points, strict=True))


def _number(point: Told) -> str:
    known = point.finding.verdict != "not testable here"
    named = f"{point.measure}: " if point.measure else ""
    return f" ({plain(named + first_number(point.finding.number))})" if known else ""


def _joined(clauses: Sequence[str], word: str) -> str:
    """Return a list in words.

    >>> _joined(["that a", "that b", "that c"], "and")
    'that a, that b, and that c'
    """
    *rest, last = clauses
    return f"{', '.join(rest)}, {word} {last}" if rest else last
