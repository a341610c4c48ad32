"""``python -m analysis.pages.findings_page``: what the committed findings say, from overview to detail.

It writes FINDINGS.md (conclusions, a figure of all verdicts, a paragraph and a figure per paper), README.md beside the
figures of each study (with all claims), and the table of verdicts in docs/studies.md. Of each study it reads
``figures/<study>/<preset>-<n>-seeds/findings.json`` with the most seeds, of the preset ``full`` where the study has one
and of ``cpu`` elsewhere; ``headline`` counts as a study of its own. The same files give the same bytes, and the figure
is drawn anew where its verdicts changed; ``--check`` writes nothing and fails where one is out of date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from analysis.pages.conclusions import QUESTIONS, answered
from analysis.pages.found import StudyFindings, load_findings, of_paper, rates_of_all
from analysis.pages.markdown import address, link, plain
from analysis.pages.overview import FOLDER, NAME, caption, is_current, save_overview, verdict_rows
from analysis.pages.papers import PAPERS, Paper
from analysis.pages.sentences import by_verdict, first_sentence
from analysis.pages.stories import figure_of, points_of, story_of
from analysis.pages.study_page import PAGE, RULES, study_page
from analysis.pages.verdict_table import NOT_YET, replaced, verdict_counts
from analysis.report.places import script_of
from analysis.report.story import Told
from sharpness.errors import RunError, run_command
from sharpness.files import write_atomically

INTRO = """# Findings

What papers claim about large batches and sharp minima, and what came of it on small networks and data. Each study has a page with every claim, setting and reason.
"""  # noqa: E501 - a paragraph of a page
TERMS = """## Terms

- **SB, LB**: one network trained in small and in large batches. **B**: the batch size. **N**: the number of training images.
- **phi** (their Metric 2.1): by how many per cent the training loss rises at most in a small box around the weights. **Adaptive worst case**: its rise at most where each weight moves in proportion to its size.
- **lambda_max** (λ_max): the largest eigenvalue of the training loss's Hessian. **Relative flatness**: a layer's curvature times its squared weights. **eta**: the learning rate. **m**: momentum.
- **B_simple**: the noise scale of the gradient, its variance over its squared length. **B_crit**: the critical batch, which takes twice the fewest steps to a goal; **branches** from a checkpoint, trainings in several batches, find it too.
- **SWA**: the average of weights along training. **LARS**: a rate per layer.
- **tau**: Kendall's rank correlation. **The gap**: test error less training error. **pp**: percentage points. **a [b, c]**: a number and its 95 % interval.

## Verdicts

*Reproduced*: the interval lies on the claimed side, and the number is large enough to matter. *In sign only*: it is not, or has another size than claimed. *Inconclusive*: the runs are too few to say. *Contradicted*: the interval excludes every effect that would matter here. *Not testable here*: there is no such number."""  # noqa: E501 - paragraphs of a page


@dataclass(frozen=True)
class Options:
    """The places where the findings are read and the pages written."""

    figures: Path = Path("figures")
    """Folder of the rendered studies, each of which gets its page."""
    out: Path = Path("FINDINGS.md")
    """The page of all studies."""
    studies: Path = Path("docs/studies.md")
    """The page whose part between <!-- verdicts --> and <!-- /verdicts --> is replaced."""
    check: bool = False
    """Write nothing, and exit with code 1 if a page is out of date."""


def findings_page(found: Mapping[str, StudyFindings], options: Options) -> str:
    """Return FINDINGS.md."""
    base, rows = options.out.parent, verdict_rows(found)
    lines = "\n".join(f"{number}. {answered(each, found)}" for number, each in enumerate(QUESTIONS, 1))
    picture = address(options.figures / FOLDER / f"{NAME}.png", base)
    overview = f"![All verdicts]({picture})\n\n{plain(caption(rows))}\n" if len(rows) else f"{NOT_YET.capitalize()}.\n"
    rules = f" [The rules]({address(options.studies, base)}#{RULES}) say what matters for each claim.\n"
    sections = [_section(paper, of_paper(paper, found), base) for paper in PAPERS.values()]
    return "\n".join(
        [INTRO, f"## Conclusions\n\n{lines}\n", f"## All verdicts\n\n{overview}", f"{TERMS}{rules}", *sections]
    )


def _section(paper: Paper, studies: list[StudyFindings], base: Path) -> str:
    parts = [f"## {plain(paper.heading)}\n"]
    for study in paper.studies:
        found = next((each for each in studies if each.study == study), None)
        parts.append(_paragraph(found, base) if found else f"{NOT_YET.capitalize()}: `python {script_of(study)}`.\n")
    return "\n".join(parts)


def _paragraph(found: StudyFindings, base: Path) -> str:
    """Return what is claimed, in a sentence, and what came of it, with a figure; the study's page has the rest."""
    story, stem = story_of(found.study), figure_of(found)
    count = len(found.findings)
    all_claims = link(f"{count} claim{'s' if count > 1 else ''}", found.folder / PAGE, base)
    said = [by_verdict(brief(points_of(found))), f"{all_claims}."]
    if story:
        said = [f"*Claim:* {plain(first_sentence(story.claim))}", *said]
    picture = f"\n![{stem}]({address(found.folder / f'{stem}.png', base)})\n" if stem else ""
    return f"{' '.join(said)}\n{picture}"


def brief(points: Sequence[Told]) -> list[Told]:
    """Return the two points of a paragraph: the first, and the first that was tested with another end, else the second.

    A study's page has five to eight of them, and all in its appendix.
    """
    same = {"not testable here", *(each.finding.verdict for each in points[:1])}
    others = [each for each in points[1:] if each.finding.verdict not in same]
    return [*points[:1], *(others or points[1:])[:1]]


def write_pages(options: Options) -> list[Path]:
    """Write what changed and return the paths; with ``check`` raise :class:`RunError` instead."""
    found = load_findings(options.figures)
    part = verdict_counts(found, options.out, options.studies.parent)
    studies = replaced(options.studies.read_text(encoding="utf-8"), part, options.studies)
    pages = {options.out: findings_page(found, options), options.studies: studies}
    rates = rates_of_all(found)
    for paper in PAPERS.values():
        for each in of_paper(paper, found):
            text = study_page(paper, each, rates[each.study], options.out, options.studies)
            pages[each.folder / PAGE] = text
    stale = [path for path, text in pages.items() if not path.exists() or path.read_bytes() != text.encode()]
    outdated = [] if is_current(found, options.figures) else [options.figures / FOLDER / f"{NAME}.png"]
    if options.check and (stale or outdated):
        names = " and ".join(map(str, [*stale, *outdated]))
        raise RunError(f"{names} not up to date with {options.figures}: run python -m analysis.pages.findings_page")
    for path in stale:
        write_atomically(path, pages[path].encode())
    return [*stale, *(save_overview(found, options.figures) if outdated else [])]


def main() -> None:
    """Write the pages and say which changed."""
    options = tyro.cli(Options, prog="python -m analysis.pages.findings_page", description=__doc__)
    changed = write_pages(options)
    print(f"wrote {' and '.join(map(str, changed))}" if changed else "up to date")


if __name__ == "__main__":
    run_command(main)
