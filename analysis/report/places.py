"""The places of a study's script and analysis, beside the others or in a folder of some years' studies.

A preset that asks a question of its own counts as a study with its own story: ``<script>-<preset>``.
"""

from __future__ import annotations

from importlib.util import find_spec

ROOMS = ("claims2026",)
"""Folders of studies in ``scripts/`` and ``analysis/``, which keep the lists above them short enough to read."""


def name_of(study: str) -> str:
    """Return the name of a study's script and of its analysis.

    >>> name_of("keskar2017-headline")
    'keskar2017'
    """
    return study.partition("-")[0]


def analysis_of(study: str) -> str:
    """Return the package with a study's report and story; that of one which is nowhere would lie beside the others.

    >>> analysis_of("dinh2017"), analysis_of("nobody2030")
    ('analysis.dinh2017', 'analysis.nobody2030')
    """
    return ".".join(["analysis", *_room(study), name_of(study)])


def story_module(study: str) -> str:
    """Return the module of a study's story, which need not be there.

    >>> story_module("dinh2017"), story_module("keskar2017-headline")
    ('analysis.dinh2017.story', 'analysis.keskar2017.headline_story')
    """
    _, _, preset = study.partition("-")
    return f"{analysis_of(study)}.{f'{preset}_story' if preset else 'story'}"


def script_of(study: str) -> str:
    """Return the path of a study's script, which has the place and the name of its analysis.

    >>> script_of("dinh2017")
    'scripts/dinh2017.py'
    """
    return "/".join(["scripts", *_room(study), f"{name_of(study)}.py"])


def _room(study: str) -> list[str]:
    return [room for room in ROOMS if find_spec(f"analysis.{room}.{name_of(study)}") is not None][:1]
