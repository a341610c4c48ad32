"""The page of findings: what was planted is on it, the committed pages are up to date, bad files are refused."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analysis.pages.conclusions import QUESTIONS, Question, answered
from analysis.pages.findings_page import Options, write_pages
from analysis.pages.found import VERDICTS, StudyFindings, load_findings
from analysis.pages.markdown import plain
from analysis.pages.overview import MARKS, is_current, save_overview, verdict_rows
from analysis.pages.papers import PAPERS, paper_of
from analysis.pages.sentences import OPENINGS, by_verdict, first_sentence, sentences
from analysis.pages.stories import figure_of, points_of, story_of
from analysis.pages.verdict_table import MARKERS
from analysis.report.findings import Finding, Variant
from analysis.report.places import name_of
from analysis.report.story import Told, find
from sharpness.errors import InputError, RunError
from tests.conftest import ROOT, SCRIPTS, run_python

MarkdownIt = pytest.importorskip("markdown_it").MarkdownIt  # comes with rich
RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
AWKWARD = "box ε(|x| + 1) of a_b, *x*, `y`, [1, 2](n), ~~3~~, <b>, &amp; \\ and _z_"
CLAIM = Finding("It falls", "a net, 5 seeds", "curve", "2.0 [1.5, 2.5]", "reproduced", "the interval lies above 1")
DETAIL = "izmailov2018/cpu-10-seeds"


def frame_of(**columns: Iterable[Any]) -> pd.DataFrame:
    """Return a data frame of columns."""
    return pd.DataFrame({name: list(values) for name, values in columns.items()})


def write_findings(folder: Path, findings: Sequence[Finding]) -> None:
    """Write the findings of a rendering as a study does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "findings.json").write_text(json.dumps([finding.to_dict() for finding in findings], ensure_ascii=False))


@pytest.fixture
def place(tmp_path: Path) -> Options:
    """Two studies of which one was rendered several times, and a page with markers."""
    figures = tmp_path / "figures"
    study = figures / "izmailov2018"
    kept = [CLAIM, Finding(AWKWARD, AWKWARD, "gone", "– | –", "not testable here", AWKWARD)]
    write_findings(study / "cpu-10-seeds", kept)
    (study / "cpu-10-seeds" / "curve.png").write_bytes(b"")
    for other in ("cpu-2-seeds", "cpu-9-seeds", "smoke-99-seeds", "paper-20-seeds", "cpu-x-seeds"):
        write_findings(study / other, [replace(CLAIM, claim=f"from {other}")])
    write_findings(figures / "keskar2017" / "cpu-9-seeds", [replace(CLAIM, claim="from cpu-9-seeds")])
    write_findings(figures / "keskar2017" / "full-5-seeds", [replace(CLAIM, verdict="inconclusive")] * 2)
    page = tmp_path / "docs" / "studies.md"
    page.parent.mkdir()
    page.write_text(f"# Before\n\n{MARKERS[0]}\nold\n{MARKERS[1]}\n\nAfter.\n")
    return Options(figures, tmp_path / "FINDINGS.md", page)


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a page as an independent renderer sees them: rows of cells as plain text."""
    result: list[list[list[str]]] = []
    inside = False
    for token in RENDERER.parse(text):
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            result += [[]] if inside else []
        elif token.type == "tr_open":
            result[-1].append([])
        elif token.type == "inline" and inside:
            result[-1][-1].append(shown(token.children))
    return result


def shown(tokens: Any) -> str:
    """Return the text that a reader sees, with what is not plain text in angle brackets."""
    return "".join(
        t.content if t.type == "text" else {"softbreak": " ", "text_special": t.content}.get(t.type, f"<{t.type}>")
        for t in tokens
    )


def test_every_claim_of_the_rendering_with_the_most_seeds_is_on_the_page_beside_its_figures(place: Options) -> None:
    written = write_pages(place)
    pages = [place.figures / DETAIL / "README.md", place.figures / "keskar2017" / "full-5-seeds" / "README.md"]
    assert {path for path in written if path.suffix == ".md"} == {place.out, place.studies, *pages}
    assert sorted(place.figures.rglob("README.md")) == sorted(pages), "other renderings get no page"
    page = pages[0].read_text()
    assert "# Izmailov et al. 2018\n" in page and "from cpu" not in page and "--preset cpu --seeds 10" in page
    assert "[arXiv 1803.05407](https://arxiv.org/abs/1803.05407)" in page
    assert "2 claims, 1 reproduced, 1 not testable here" in page
    assert "1. **It falls**\n" in page and f"2. **{plain(AWKWARD)}**\n" in page
    assert "figure: [curve](curve.png)" in page and "figure: gone (not drawn)" in page
    assert "verdict: **reproduced**: the interval lies above 1" in page and "here: a net, 5 seeds" in page
    assert "[FINDINGS.md](../../../FINDINGS.md)" in page and "(../../../docs/studies.md#how-is-a-verdict" in page


def test_the_page_of_all_papers_begins_with_conclusions_and_links_to_each_study(place: Options) -> None:
    write_pages(place)
    page = place.out.read_text()
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    first = ["Conclusions", "All verdicts", "Terms", "Verdicts"]
    assert headings == [*first, *(plain(paper.heading) for paper in PAPERS.values())]
    assert "![All verdicts](figures/findings/verdicts.png)" in page and "Not rendered yet: `python scripts/coh" in page
    section = page.partition("## Izmailov et al. 2018\n")[2].partition("\n## ")[0]
    story = story_of("izmailov2018")
    assert story is not None and plain(first_sentence(story.claim)) in section
    assert f"[2 claims](figures/{DETAIL}/README.md)." in section
    assert f"![curve](figures/{DETAIL}/curve.png)" in section, "the story's figure is not there, the claim's own is"


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_sentence_follows_its_verdict(verdict: str) -> None:
    """A sentence asserts a clause only where it is reproduced; the number is that of the finding, nowhere else."""
    points = [Told("x grows", "end over start", replace(CLAIM, verdict=verdict))]
    said, brief = sentences(points), by_verdict(points)
    assert ("runs show that x grows" in said) == (verdict == "reproduced") == brief.startswith("*Reproduced:* x grows")
    assert ("2.0 [1.5, 2.5]" in brief) == (verdict != "not testable here")
    assert said.startswith("These runs ") and said.endswith(".") and "x grows" in said


def test_verdicts_are_told_in_their_order_and_none_is_lost() -> None:
    assert [*OPENINGS] == [*MARKS] == [*VERDICTS]
    points = [Told(f"c{number} holds", "", replace(CLAIM, verdict=each)) for number, each in enumerate(OPENINGS)]
    said = sentences([*reversed(points), *points])
    assert re.findall(r"c(\d)", said) == [digit for digit in "01234" for _ in range(2)]


def test_a_question_is_answered_by_the_verdicts_of_its_claims(place: Options) -> None:
    def of(*verdicts: str) -> str:
        claims = ("SWA has a lower test error than SGD at the same budget", "SWA is wider: the test error by 5 pp")
        found = [replace(CLAIM, claim=claim, verdict=each) for claim, each in zip(claims, verdicts, strict=False)]
        return answered(QUESTIONS[-1], {"izmailov2018": StudyFindings("izmailov2018", place.figures, tuple(found))})

    assert "better minima?** Yes. SWA's test error less SGD's is 2.0 [1.5, 2.5] (reproduced)." in of("reproduced")
    assert "Partly yes, partly no." in of("reproduced", "contradicted")
    assert "Not decided here." in of("inconclusive", "not testable here")
    assert "** No." in of("contradicted", "contradicted") and "Not rendered yet." in of()


def test_a_claim_against_a_question_answers_it_with_no_where_it_is_reproduced(place: Options) -> None:
    question = Question(
        "Is it so?", (("a", "It falls", "It falls by {}"),), against=(("a", "It rises", "It rises by {}"),)
    )

    def of(falls: str, rises: str) -> str:
        found = (replace(CLAIM, verdict=falls), replace(CLAIM, claim="It rises", verdict=rises))
        return answered(question, {"a": StudyFindings("a", place.figures, found)}).replace("2.0 [1.5, 2.5]", "2")

    assert of("inconclusive", "contradicted").startswith("**Is it so?** Partly; the rest is not decided. It falls by 2")
    assert of("reproduced", "contradicted").endswith(
        "** Yes. It falls by 2 (reproduced). It rises by 2 (contradicted)."
    )
    assert "** No." in of("contradicted", "reproduced in sign only")
    assert "** Partly yes, partly no." in of("reproduced", "reproduced")


def test_a_conclusion_gives_the_numbers_of_variants_by_their_names(place: Options) -> None:
    question = Question("Is it so?", (("a", "falls", "It falls by {}, and by {in a box} in a box"),))
    found = replace(CLAIM, variants=(Variant("in a box", "3 [2, 4]", "contradicted", "it lies above"),))
    for each, told in ((found, "3 [2, 4]"), (CLAIM, "an unknown number")):
        text = answered(question, {"a": StudyFindings("a", place.figures, (each,))})
        assert f"It falls by 2.0 [1.5, 2.5], and by {told} in a box (" in text


def test_a_claim_that_became_a_variant_is_found() -> None:
    other = Variant("in a box", "3 [2, 4]", "contradicted", "it lies above")
    found = find("falls: in a box$", [CLAIM, replace(CLAIM, variants=(other,))])
    assert found is not None and (found.number, found.verdict) == ("3 [2, 4]", "contradicted")


def test_the_overview_has_a_mark_for_each_claim_and_is_drawn_anew_when_a_verdict_turns(tmp_path: Path) -> None:
    many = tuple(replace(CLAIM, verdict=verdict) for verdict in VERDICTS for _ in range(4))
    found = {"cohen2021": StudyFindings("cohen2021", tmp_path, many)}
    rows = verdict_rows(found)
    assert len(rows) == 20 and [*rows["number"]] == [*range(1, 21)] and {*rows["paper"]} == {"Cohen et al. 2021"}
    assert not is_current(found, tmp_path)
    assert {path.suffix for path in save_overview(found, tmp_path)} == {".pdf", ".png", ".csv", ".json"}
    assert is_current(found, tmp_path)
    turned = (replace(many[0], verdict="contradicted"), *many[1:])
    assert not is_current({"cohen2021": replace(found["cohen2021"], findings=turned)}, tmp_path)


def test_the_page_of_studies_counts_verdicts_and_keeps_the_rest(place: Options) -> None:
    write_pages(place)
    text = place.studies.read_text()
    assert text.startswith(f"# Before\n\n{MARKERS[0]}\n") and text.endswith(f"{MARKERS[1]}\n\nAfter.\n")
    (rows,) = tables(text)
    assert len(rows) == 1 + len(PAPERS) and "old" not in text and "[FINDINGS.md](../FINDINGS.md)" in text
    first = ["It falls (2.0 [1.5, 2.5]): inconclusive"]
    assert rows[2] == ["Keskar et al. 2017", "0", "–", "0", "2", "0", "0", *first]
    assert ["Izmailov et al. 2018", "1", "–", "0", "0", "0", "1", "It falls (2.0 [1.5, 2.5]): reproduced"] in rows
    assert rows[-1][1:] == [*["–"] * 6, "not rendered yet"]
    write_findings(place.figures / "keskar2017" / "full-5-seeds", [replace(CLAIM, verdict="contradicted")])
    write_pages(place)
    (rows,) = tables(place.studies.read_text())
    columns = ["paper", "reproduced", "at 5 % FDR", "in sign only", "inconclusive", "contradicted", "not testable here"]
    assert rows[0][:-1] == columns and rows[2][:-1] == ["Keskar et al. 2017", "0", "–", "0", "0", "1", "0"]


NEW = replace(
    CLAIM,
    smallest_effect="0.5: a second seed moves as much",
    p=0.03,
    q=0.04,
    variants=(Variant(AWKWARD, "1 [0, 2]", "inconclusive", "the interval reaches 0"),),
    cutoffs={"0.1": "contradicted", "0.2": "reproduced"},
)


def test_what_a_verdict_rests_on_and_its_variants_stand_behind_it(place: Options) -> None:
    others = [replace(NEW, claim=f"claim {number}", p=p) for number, p in enumerate((0.001, 0.2))]
    write_findings(place.figures / DETAIL, [NEW, *others])
    write_pages(place)
    page = (place.figures / DETAIL / "README.md").read_text()
    assert "or range of the claim: 0.5: a second seed moves as much" in page
    assert "by the cut-off: 0.1: contradicted" in page
    assert f"variant, {plain(f'{AWKWARD}: 1 [0, 2]: inconclusive')}" in page
    # Of three p values .001, .03 and .2 q is .003, .045 and .2.
    assert "p = 0.030, q = 0.040, q over all studies = 0.045" in page
    assert "3 claims, 3 reproduced. Fragile: claim 1." in page
    (rows,) = tables(place.studies.read_text())
    assert ["Izmailov et al. 2018", "3", "2 of 3"] in [row[:3] for row in rows]


def test_a_verdict_that_turns_makes_the_pages_stale_and_writing_them_mends_it(place: Options) -> None:
    write_pages(place)
    check, detail = replace(place, check=True), place.figures / DETAIL / "README.md"
    assert write_pages(check) == write_pages(place) == []
    write_findings(place.figures / DETAIL, [replace(CLAIM, verdict="contradicted", why="it reaches 1")])
    before = [path.read_bytes() for path in (place.out, place.studies, detail)]
    with pytest.raises(RunError, match=r"FINDINGS.md and .*studies.md and .*README.md and .*verdicts.png not up to"):
        write_pages(check)
    assert [path.read_bytes() for path in (place.out, place.studies, detail)] == before
    assert write_pages(place)[:3] == [place.out, place.studies, detail]
    assert "verdict: **contradicted**: it reaches 1" in detail.read_text()
    write_findings(place.figures / DETAIL, [replace(CLAIM, verdict="contradicted", why="other words")])
    assert write_pages(place) == [detail], "the reason stands in the appendix alone"


DAMAGED = {
    "no JSON": "{",
    "no list": "5",
    "a field too few": '[{"claim": "x"}]',
    "another verdict": json.dumps([{**CLAIM.to_dict(), "verdict": "splendid"}]),
    "a number for a text": json.dumps([{**CLAIM.to_dict(), "number": 5}]),
    "a text for a number": json.dumps([{**CLAIM.to_dict(), "p": "small"}]),
    "a variant of another form": json.dumps([{**CLAIM.to_dict(), "variants": [{"name": "x"}]}]),
    "a cut-off with another verdict": json.dumps([{**CLAIM.to_dict(), "cutoffs": {"0.1": "splendid"}}]),
    "cut-offs in a list": json.dumps([{**CLAIM.to_dict(), "cutoffs": ["0.1"]}]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_findings_are_refused(place: Options, name: str) -> None:
    (place.figures / "izmailov2018" / "cpu-10-seeds" / "findings.json").write_text(DAMAGED[name])
    with pytest.raises(InputError, match=r"izmailov2018.*render the study again"):
        write_pages(place)
    assert not place.out.exists()


@pytest.mark.parametrize("text", ["", MARKERS[0], MARKERS[1] + MARKERS[0], "".join(MARKERS) * 2])
def test_a_page_without_its_markers_is_refused_and_nothing_written(place: Options, text: str) -> None:
    place.studies.write_text(text)
    with pytest.raises(InputError, match="expected one <!-- verdicts -->"):
        write_pages(place)
    assert not place.out.exists() and place.studies.read_text() == text


def test_a_study_of_no_paper_is_not_lost(place: Options) -> None:
    write_findings(place.figures / "nobody2030" / "cpu-5-seeds", [CLAIM])
    with pytest.raises(InputError, match=r"got nobody2030: add them to analysis/pages/papers\.py"):
        load_findings(place.figures)


def test_the_command(place: Options) -> None:
    places = ["--figures", str(place.figures), "--out", str(place.out), "--studies", str(place.studies)]
    codes = [
        run_python("-m", "analysis.pages.findings_page", *places, *more) for more in (["--check"], [], ["--check"])
    ]
    assert [done.returncode for done in codes] == [1, 0, 0]
    assert codes[0].stderr.startswith("error: ") and codes[0].stderr.count("\n") == 1
    assert codes[2].stdout == "up to date\n"
    done = run_python("-m", "analysis.pages.findings_page", "--figures", "nowhere", *places[2:])
    assert done.returncode == 2 and done.stderr.startswith("error: expected a folder") and done.stderr.count("\n") == 1


def test_the_committed_pages_are_up_to_date_and_the_first_is_short() -> None:
    committed = Options(ROOT / "figures", ROOT / "FINDINGS.md", ROOT / "docs" / "studies.md", check=True)
    assert write_pages(committed) == []
    assert len((ROOT / "FINDINGS.md").read_bytes()) <= 15_000


COMMITTED = load_findings(ROOT / "figures")
ABBREVIATION = re.compile(r"\b(?:[A-Z]\w*_\w+|\w+_max|worst_\w+|[A-Z]{2,}|[A-Z]\d)\b")
KNOWN = {"sgd", "l2", "cifar", "mnist", "timit", "llm", "iclr", "icml", "jmlr", "uai", "readme", "folder", "λ_max"}
KNOWN |= {"h_kk", "t_α"}
"""Data, venues, what every reader knows, another letter for a term, and what its own sentence explains."""


def test_every_number_lies_in_its_interval() -> None:
    """Resamples can be off to one side of the value of which they tell, as of a maximum or a share of variance."""
    value = r"([-+]?\d[\d.]*(?:e[-+]?\d+)?)"
    printed = re.compile(rf"{value} \[{value}, {value}\]")
    told = [
        (study, name, tuple(map(float, found)))
        for study, each in COMMITTED.items()
        for finding in each.findings
        for name, number in [(finding.claim, finding.number), *((x.name, x.number) for x in finding.variants)]
        for found in printed.findall(number)
    ]
    assert len(told) > 400
    assert [each for each in told if not each[2][1] <= each[2][0] <= each[2][2]] == []


def terms(text: str, heading: str) -> list[str]:
    """Return the terms that a page defines below a heading, which stand in bold."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [term for bold in re.findall(r"\*\*(.+?)\*\*", section) for term in bold.lower().split(", ")]


def test_each_term_is_defined_once_and_each_abbreviation_is_a_term() -> None:
    """FINDINGS.md defines its own; docs/studies.md those that only the pages of studies use."""
    page = (ROOT / "FINDINGS.md").read_text()
    own, more = terms(page, "Terms"), terms((ROOT / "docs" / "studies.md").read_text(), "Which terms do the pages use?")
    assert len(own) > 15 and len(more) > 10 and len({*own, *more}) == len(own) + len(more)
    texts = {path: path.read_text() for path in (each.folder / "README.md" for each in COMMITTED.values())}
    for path, text in {ROOT / "FINDINGS.md": page, **texts}.items():
        said = re.sub(r"!?\[[^\]]*\]\([^)]*\)|`[^`]*`|^#.*$", "", text, flags=re.MULTILINE)  # no names of files
        used = {each.lower() for each in ABBREVIATION.findall(said.replace("\\", ""))} - KNOWN
        assert used <= ({*own} if text == page else {*own, *more}), path
    for each in ("adaptive worst case", "relative flatness", "branches"):
        assert each in own and each in page.partition("## Terms")[0].lower()
    everything = "".join(texts.values()).lower()
    assert [each for each in more if each not in everything] == [], "no term is left that no page uses"


@pytest.mark.parametrize("study", COMMITTED)
def test_every_study_has_a_story_of_its_claims(study: str) -> None:
    """A new study needs analysis/<study>/story.py; claims that were renamed need other patterns there."""
    story, found = story_of(study), COMMITTED[study]
    assert story is not None, f"write analysis/{study}/story.py"
    assert min(5, len(found.findings)) <= len(points_of(found)) <= 8, "claims in the table"
    assert all(find(each.pattern, found.findings) for each in story.points[:3]), "claims of the paragraph"
    assert figure_of(found) == story.figure
    beside = story.beside_the_paper
    assert 2 <= len(re.findall(r"\.(?: |$)", beside)) <= 5 and "Ours " in beside, "the paper's figure, and ours"
    assert re.search(r"paper|Figure \d", first_sentence(beside)), (
        "which figure of the paper, or that it was not at hand"
    )
    page = (found.folder / "README.md").read_text()
    assert f"## Beside the paper's figure\n\n{plain(beside)}\n" in page
    others = [story_of(each) for each in COMMITTED if each != study]
    assert beside not in [each.beside_the_paper for each in others if each], "each study compares its own figure"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_to_expect_is_what_came(script: Path) -> None:
    """A script's text counts the claims as the committed findings do, and how many of them were reproduced."""
    text = " ".join((ast.get_docstring(ast.parse(script.read_text())) or "").split())
    told = re.findall(r"(?:(\d+) of )?(\d+) claims:? (?:(\d+) (?:are )?reproduced)?", text)
    count = {
        (len(found.findings), sum(each.verdict == "reproduced" for each in found.findings))
        for study, found in COMMITTED.items()
        if study.removesuffix("-headline") == script.stem
    }
    for some, claims, reproduced in told:
        assert (int(claims), int(some or reproduced or claims)) in count
    assert told or not count


def test_the_claims_behind_the_conclusions_are_there() -> None:
    assert len(QUESTIONS) == 10
    for question in QUESTIONS:
        for study, pattern, said in (*question.claims, *question.against):
            finding = find(pattern, COMMITTED[study].findings)
            assert finding is not None, f"no claim of {study} has {pattern}"
            assert said.count("{}") == 1
            assert set(re.findall(r"{([^{}]+)}", said)) <= {variant.name for variant in finding.variants}


def test_every_study_has_its_paper_and_cites_it() -> None:
    """The numbers on arXiv are those that the scripts' own texts give."""
    scripts = {path.stem: path.read_text() for path in SCRIPTS}
    studies = {name for name, text in scripts.items() if re.search(r"^STUDY = Study\(", text, re.MULTILINE)}
    assert studies == {name_of(study) for paper in PAPERS.values() for study in paper.studies}
    for paper in PAPERS.values():
        told = "".join(scripts[name_of(study)] for study in paper.studies)
        assert [number for number in paper.arxiv if number not in told] == []
    assert paper_of("spectra") is None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # nothing here judges speed
@example("__0__")
@given(st.text(st.characters(blacklist_categories=["C", "Z"]) | st.sampled_from(" |\\`*_[]()~<>&#$a1"), max_size=30))
def test_a_text_put_into_markdown_is_read_as_it_was(text: str) -> None:
    words = " ".join(text.split())
    (cells,) = tables(f"| a | b |\n| --- | --- |\n| x {plain(text)} x | y |\n")
    assert cells[1] == [f"x {words} x", "y"]
    (inline,) = [token for token in RENDERER.parse(f"x {plain(text)} x\n") if token.type == "inline"]
    assert shown(inline.children) == f"x {words} x"
