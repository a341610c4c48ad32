"""Where a study lies: its script and its analysis, beside the others or in a folder of some years' studies."""

from __future__ import annotations

from importlib.util import find_spec

ROOMS = ("claims2026",)
"""Folders of studies in ``scripts/`` and ``analysis/``, which keep the lists above them short enough to read."""


def analysis_of(study: str) -> str:
    """Return the package with a study's report and story; that of one which is nowhere would lie beside the others.

    >>> analysis_of("dinh2017"), analysis_of("nobody2030")
    ('analysis.dinh2017', 'analysis.nobody2030')
    """
    return ".".join(["analysis", *_room(study), study])


def script_of(study: str) -> str:
    """Return the path of a study's script, which has the place and the name of its analysis.

    >>> script_of("dinh2017")
    'scripts/dinh2017.py'
    """
    return "/".join(["scripts", *_room(study), f"{study}.py"])


def _room(study: str) -> list[str]:
    return [room for room in ROOMS if find_spec(f"analysis.{room}.{study}") is not None][:1]
