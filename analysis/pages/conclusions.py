"""The overall conclusions: questions, each answered by the verdicts of claims of one or several studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from analysis.pages.found import VERDICTS, StudyFindings
from analysis.pages.markdown import plain
from analysis.pages.sentences import first_number
from analysis.report.findings import Finding
from analysis.report.numbers import ABSENT
from analysis.report.story import find


@dataclass(frozen=True)
class Question:
    """A question, and the claims that it rests on: ``claims`` whose "reproduced" is a yes, ``against`` it is a no.

    Each is a study, a regular expression found in the claim, and a sentence that says what was measured, true whatever
    the verdict, with {} in place of the number and {name} in place of that of a variant of the claim.
    """

    question: str
    claims: tuple[tuple[str, str, str], ...]
    against: tuple[tuple[str, str, str], ...] = ()


GAP = "keskar2017-headline"
UNKNOWN = "an unknown number"

QUESTIONS = (
    Question(
        "Do sharper minima generalise worse at one training loss?",
        (
            (GAP, "Sharper minima have a lower test accuracy", "lambda_max has a tau of {} with test accuracy"),
            (GAP, "Sharper minima have a higher test loss", "With test loss it is {}"),
            (
                GAP,
                "What noise finds there generalises better",
                "Leaving LB's minimum for a flatter one changes accuracy by {}",
            ),
        ),
        against=(
            (
                "label_noise2026",
                "generalise alike",
                "Of two minima of one function the sharper has {} times the test loss",
            ),
        ),
    ),
    Question(
        "Do large batches generalise worse, in sharper minima?",
        (
            (GAP, "LB generalises worse", "At one training loss LB's test accuracy less SB's is {}"),
            ("keskar2017", "LB generalises worse", "Over four networks it is {}"),
            (GAP, "LB is 1 to 2 orders sharper", "At one training loss LB is {} times as sharp by phi"),
            (GAP, "tuned rates too", "With tuned rates it is {} times"),
        ),
    ),
    Question(
        "Is sharpness a poor guide to generalisation across settings?",
        (
            (
                "andriushchenko2023",
                "correlates weakly with the gap",
                "The adaptive worst case has a tau of {} with the gap",
            ),
            (
                "andriushchenko2023",
                "goes rather with the learning rate",
                "With the learning rate it is larger by {}",
            ),
        ),
    ),
    Question(
        "Do sharper language models lose more?",
        (
            (
                "forgetting2026",
                "Sharper networks lose more at 4 bits",
                "lambda_max has a tau of {} with what rounding to 4 bits costs",
            ),
            (
                "forgetting2026",
                "Sharper networks forget more",
                "With what fine-tuning forgets it is {}, without the cosine schedule {without cosine}",
            ),
        ),
    ),
    Question(
        "Can a rescaling that changes no output change sharpness?",
        (
            ("dinh2017", "Keskar's box moves", "Phi is then {} times as large"),
            ("dinh2017", "Relative flatness does not move", "Relative flatness is {} times as large"),
        ),
    ),
    Question(
        "Can large batches do what small ones do?",
        (
            (
                "smith2018",
                "est accuracy is the same whether",
                "A growing batch for a falling rate changes test accuracy by {}",
            ),
            (
                "large_batch_recipes",
                r"linear \+ warm-up, batch 256",
                "A linear rate with warm-up changes the error by {} pp",
            ),
            ("large_batch_recipes", "You et al. 2017: LARS, batch", "LARS changes it by {} pp"),
            (
                "update_equivalence",
                "end close to one step",
                "Many small steps end apart from one large step by {} of its length",
            ),
        ),
    ),
    Question(
        "Does the gradient noise scale tell how large a batch is useful?",
        (
            ("mccandlish2018", "The predicted best step is right", "Found over predicted best step is {}"),
            ("mccandlish2018", "The mean noise scale until the goal", "B_simple over the critical batch is {}"),
        ),
        against=(
            (
                "mccandlish2018",
                "by branches is tenfold",
                "The batch that branches allow, claimed tenfold, is {} times B_simple",
            ),
            (
                "merrill2025",
                "is far below the critical batch",
                "In a language model, claimed far more, {}",
            ),
        ),
    ),
    Question(
        "Is there a best batch size, in proportion to eta N?",
        (
            ("smith_le2018", "has a peak at a batch size", "The peak of test accuracy rises over the ends by {}"),
            ("smith_le2018", "proportional to the learning rate", "The best batch goes as eta to the power {}"),
            ("smith_le2018", "proportional to the number of training images", "It goes as N to the power {}"),
        ),
    ),
    Question(
        "Does the learning rate limit how sharp a minimum can be?",
        (
            (
                "cohen2021",
                "the eigenvalue then stays at 2 / eta",
                "With full batches lambda_max stays at {} times 2 / eta",
            ),
            ("stochastic_edge", "SGD: batch sharpness settles", "With small ones batch sharpness is {} times 2 / eta"),
            (
                "stochastic_edge",
                "full batch: batch sharpness",
                "With full ones and momentum it is {} times 2 (1 + m) / eta",
            ),
        ),
    ),
    Question(
        "Does averaging weights find wider and better minima?",
        (
            (
                "izmailov2018",
                "lower test error than SGD at the same budget",
                "SWA's test error less SGD's is {}",
            ),
            ("izmailov2018", "SWA is wider: the test error", "SWA's width over SGD's is {}"),
        ),
    ),
)
"""The questions in the order of the page."""


def answered(question: Question, found: Mapping[str, StudyFindings]) -> str:
    """Return a question, its answer, and what was measured with its verdicts, as a line of Markdown."""
    supports, against = (_known(claims, found) for claims in (question.claims, question.against))
    if not supports and not against:
        return f"**{question.question}** Not rendered yet."
    verdicts = [*(each.verdict for _, each in supports), *(turned(each.verdict) for _, each in against)]
    evidence = [
        f"{plain(_with_numbers(said, each))} ({each.verdict.removeprefix('reproduced ')})."
        for said, each in (*supports, *against)
    ]
    return f"**{question.question}** {answer(verdicts)} {' '.join(evidence)}"


def turned(verdict: str) -> str:
    """Return what the verdict on a claim says of its opposite.

    >>> turned("contradicted"), turned("reproduced in sign only"), turned("inconclusive")
    ('reproduced', 'contradicted', 'inconclusive')
    """
    return {**dict.fromkeys(VERDICTS[:2], "contradicted"), "contradicted": "reproduced"}.get(verdict, verdict)


def answer(verdicts: Sequence[str]) -> str:
    """Return what the verdicts say together: yes, no, or how much of it is decided.

    >>> answer(["reproduced", "reproduced in sign only"]), answer(["contradicted"]), answer(["inconclusive"])
    ('Yes, if not always by as much.', 'No.', 'Not decided here.')
    >>> answer(["reproduced", "contradicted"]), answer(["reproduced", "inconclusive"])
    ('Partly yes, partly no.', 'Partly; the rest is not decided.')
    """
    said = set(verdicts)
    holds, fails = said & set(VERDICTS[:2]), "contradicted" in said
    undecided = said - holds - {"contradicted"}
    if holds and fails:
        return "Partly yes, partly no."
    if holds and undecided:
        return "Partly; the rest is not decided."
    if holds:
        return "Yes." if holds == {"reproduced"} else "Yes, if not always by as much."
    if fails:
        return "Partly no; the rest is not decided." if undecided else "No."
    return "Not decided here."


def _with_numbers(said: str, finding: Finding) -> str:
    variants = {variant.name: _known_number(variant.number) for variant in finding.variants}
    unknown = {name: UNKNOWN for _, name, *_ in Formatter().parse(said) if name}
    return said.format(_known_number(finding.number), **unknown | variants)


def _known_number(number: str) -> str:
    return UNKNOWN if number == ABSENT else first_number(number)


def _known(claims: Sequence[tuple[str, str, str]], found: Mapping[str, StudyFindings]) -> list[tuple[str, Finding]]:
    """Return what is said of each claim with its finding; claims of studies without it are left out."""
    each = [(said, find(where, found[study].findings)) for study, where, said in claims if study in found]
    return [(said, finding) for said, finding in each if finding is not None]
