"""The stories of the studies, each of which lies beside the study's report."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from analysis.pages.found import StudyFindings
from analysis.report.places import analysis_of, story_module
from analysis.report.story import Story, Told, told


def story_of(study: str) -> Story | None:
    """Return what a study is about in plain words; ``None`` where nobody has written it.

    >>> story_of("dinh2017").figure
    'curvature'
    """
    there = find_spec(analysis_of(study)) is not None and find_spec(story_module(study)) is not None
    return import_module(story_module(study)).STORY if there else None


def points_of(found: StudyFindings) -> list[Told]:
    """Return the claims of a study that are told, in plain words; in its own words those of one without a story."""
    story = story_of(found.study)
    return told(story.points, found.findings) if story else [Told(each.claim, "", each) for each in found.findings]


def figure_of(found: StudyFindings) -> str | None:
    """Return the stem of the study's figure: that of its story, and without it the first that a claim names."""
    story = story_of(found.study)
    names = [story.figure] if story else []
    names += [finding.figure for finding in found.findings]
    return next((name for name in names if name and (found.folder / f"{name}.png").exists()), None)
