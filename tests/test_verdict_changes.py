"""The page of changed verdicts: it is that of the committed findings, and a reason is never one of another verdict."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.pages.found import VERDICTS, StudyFindings, load_findings
from analysis.pages.verdict_changes import Former, changes_page, load_former, now
from analysis.report.findings import Finding, Variant
from sharpness.errors import InputError
from tests.conftest import ROOT, run_python

OTHER = Variant("on the arc", "2 [1, 3]", "reproduced", "it lies above 0")
RISES = Finding("The loss rises on the line", "a net", "line", "1 [0, 2]", "inconclusive", "", variants=(OTHER,))
SAME = Former("The loss rises on the line", "1 [-1, 3]", "inconclusive")
TURNED = replace(SAME, verdict="not reproduced", became="inconclusive", why="The interval reaches both.")
ON_THE_ARC = Former("The loss rises on the arc", "2 [1, 3]", "reproduced", today="rises .*: on the arc$")


def page_of(*former: Former) -> str:
    return changes_page({"cohen2021": former}, {"cohen2021": StudyFindings("cohen2021", Path(), (RISES,))})


def test_the_committed_page_is_that_of_the_committed_findings() -> None:
    former, found = load_former(), load_findings(ROOT / "figures")
    page = changes_page(former, found)
    assert (ROOT / "docs" / "verdict_changes.md").read_text() == page, "python -m analysis.pages.verdict_changes"
    counts = Counter(each.verdict for rows in former.values() for each in rows)
    assert {*counts} == {"reproduced", "reproduced in sign only", "not reproduced", "not testable here"}
    became = [each.became for rows in former.values() for each in rows if each.became]
    assert {*became} <= {*VERDICTS} and len(became) >= counts["not reproduced"], "that verdict is none of today's"
    assert len(re.findall(r"^\| (?!claim |---)", page, re.MULTILINE)) == len(became)
    assert f"Of {counts.total()} claims {len(became)} have another verdict today" in page


def test_a_verdict_that_turned_stands_with_both_numbers_and_its_reason() -> None:
    page = page_of(TURNED, ON_THE_ARC, replace(SAME, claim="Another", today="on the line"))
    row = "| not reproduced: 1 [-1, 3] | inconclusive: 1 [0, 2] | The interval reaches both. |"
    assert (
        f"## Cohen et al. 2021\n\n| claim | then | today | why |\n| --- | --- | --- | --- |\n| {RISES.claim} {row}"
        in page
    )
    assert "Of 3 claims 1 have another verdict today." in page and "1 became variants" in page
    assert page.endswith("\nBecame variants, with the verdict that they had:\n\n- The loss rises on the arc\n")
    lost = replace(ON_THE_ARC, verdict="not reproduced", became="reproduced", why="Longer.")
    assert "| not reproduced: 2 [1, 3] | reproduced, a variant: 2 [1, 3] | Longer. |" in page_of(lost)
    assert "##" not in page_of(SAME)


@pytest.mark.parametrize(
    ("former", "said"),
    [
        (replace(SAME, claim="The error rises"), "a claim of today for 'The error rises', got none"),
        (replace(SAME, verdict="reproduced"), "a reason for 'inconclusive' of .* got one for 'no change'"),
        (replace(TURNED, became="contradicted"), "got one for 'contradicted'"),
        (replace(TURNED, why=""), "a reason for 'inconclusive'"),
        (replace(SAME, became="inconclusive", why="It was so before."), "a reason for 'no change'"),
    ],
)
def test_a_change_without_its_own_reason_is_refused(former: Former, said: str) -> None:
    with pytest.raises(InputError, match=said):
        now(former, (RISES,))


def test_the_command(tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", str(ROOT / "figures")
    command = ("-m", "analysis.pages.verdict_changes", "--figures", figures, "--out", str(page))
    stale = run_python(*command, "--check")
    assert stale.returncode == 1 and stale.stderr.startswith("error: ") and not page.exists()
    assert run_python(*command).returncode == 0 and run_python(*command, "--check").returncode == 0
    assert page.read_bytes() == (ROOT / "docs" / "verdict_changes.md").read_bytes()
