"""``python -m analysis.pages.gallery``: all figures on one HTML page that needs no network and no other file.

It walks a folder of renderings: NAME.png with NAME.json (caption, origin, hash of the numbers) and NAME.csv is a
figure, NAME.md a table, and a CSV with neither is shown by itself; verdicts come from findings.json. A figure whose CSV
is not the one that it was drawn from is marked. The same files give the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from analysis.pages.found import read_findings
from analysis.pages.gallery_page import gallery_page
from analysis.pages.papers import PAPERS
from analysis.report.findings import Finding
from sharpness.errors import InputError, run_command
from sharpness.files import write_atomically

LARGE = 40_000_000
"""Bytes above which the command says that the page is large."""
PNG = b"\x89PNG\r\n\x1a\n"
FACTS = ("caption", "csv_sha256", "schema")
"""Keys of the JSON beside a figure that the page shows elsewhere or that say nothing to a reader."""


@dataclass(frozen=True)
class Numbers:
    """A CSV file: its bytes, its header and its rows as they are written."""

    content: bytes
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Item:
    """A figure (``image``), a table (``markdown``) or numbers alone, with what is wrong with them (``flaws``)."""

    name: str
    caption: str = ""
    image: bytes | None = None
    markdown: str = ""
    numbers: Numbers | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rendering:
    """A folder of figures: its place below the root, what lies in it, and the origin that all of it shares."""

    place: str
    items: Sequence[Item]
    findings: Sequence[Finding]
    origin: Mapping[str, Any]


def load_gallery(figures: Path) -> list[Rendering]:
    """Return every folder with figures, tables or numbers: the papers' studies in their order, then the others.

    Raises :class:`InputError` where there is none.
    """
    if not figures.is_dir():
        raise InputError(f"expected a folder of figures, got {figures}: render a study or name one with --figures")
    folders = [figures, *(path for path in figures.rglob("*") if path.is_dir())]
    found = [load_rendering(folder, figures) for folder in folders]
    found = [rendering for rendering in found if rendering.items]
    if not any(item.image is not None for rendering in found for item in rendering.items):
        raise InputError(f"expected figures (PNG) in {figures}, got none: render a study or name others with --figures")
    studies = [study for paper in PAPERS.values() for study in paper.studies]
    order = {study: number for number, study in enumerate(studies)}
    return sorted(found, key=lambda each: (order.get(each.place.split("/")[0], len(order)), each.place))


def load_rendering(folder: Path, root: Path) -> Rendering:
    """Return what lies in one folder, hidden files and folders below it left out."""
    seen = [path for path in folder.iterdir() if path.suffix in (".png", ".md", ".csv") and _seen(path)]
    names = sorted({path.stem for path in seen})
    items = [load_item(folder, name) for name in names]
    items.sort(key=lambda item: (item.image is None, not item.markdown, item.name))
    shared = common(item.origin for item in items if item.origin)
    items = [_without(item, shared) for item in items]
    findings = folder / "findings.json"
    place = folder.relative_to(root).as_posix()
    return Rendering(place, items, read_findings(findings) if findings.exists() else (), shared)


def load_item(folder: Path, name: str) -> Item:
    """Return a figure, table or CSV by the stem of its files, and what is wrong with them.

    A figure without the JSON or the CSV beside it is shown all the same, and marked, as is one whose CSV has another
    SHA-256 than the JSON says.
    """
    content = {suffix: _bytes(folder / f"{name}{suffix}") for suffix in (".png", ".md", ".csv", ".json")}
    image, numbers, flaws = content[".png"], content[".csv"], []
    facts, flaw = _facts(content[".json"])
    drawn = image is not None or "csv_sha256" in facts
    if image is not None and not (image.startswith(PNG) and len(image) > 24):
        image, flaws = None, [f"{name}.png is not a PNG file"]
    if drawn and flaw:
        flaws.append(f"{name}.json {flaw}: the origin of the numbers is not known")
    if drawn and numbers is None:
        flaws.append(f"{name}.csv is missing: the numbers behind this are not here")
    elif drawn and not flaw and facts.get("csv_sha256") != hashlib.sha256(numbers or b"").hexdigest():
        flaws.append(f"{name}.csv is not the file that this was rendered from (its SHA-256 differs)")
    return Item(
        name,
        str(facts.get("caption", "")),
        image,
        (content[".md"] or b"").decode(errors="replace"),
        None if numbers is None else _read_csv(numbers),
        {key: value for key, value in facts.items() if key not in FACTS} if drawn or content[".md"] else {},
        tuple(flaws),
    )


def common(origins: Any) -> dict[str, Any]:
    """Return the keys on which two or more mappings all agree.

    >>> common([{"a": 1, "b": 2}, {"a": 1, "b": 3}]), common([{"a": 1}])
    ({'a': 1}, {})
    """
    first, *rest = [*origins] or [{}]
    return {key: value for key, value in first.items() if rest and all(_has(each, key, value) for each in rest)}


def _has(origin: Mapping[str, Any], key: str, value: Any) -> bool:
    return key in origin and origin[key] == value


def _without(item: Item, shared: Mapping[str, Any]) -> Item:
    own = {key: value for key, value in item.origin.items() if key not in shared}
    return Item(**{**vars(item), "origin": own})


def _seen(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name != "README.md"  # which shows the figures


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _facts(content: bytes | None) -> tuple[dict[str, Any], str]:
    """Return what the JSON beside a figure says, or what is wrong with it."""
    if content is None:
        return {}, "is missing"
    try:
        facts = json.loads(content)
    except ValueError:
        return {}, "is damaged"
    return (facts, "") if isinstance(facts, dict) else ({}, "is damaged")


def _read_csv(content: bytes) -> Numbers:
    header, *rows = [*csv.reader(io.StringIO(content.decode(errors="replace"), newline=""))] or [[]]
    return Numbers(content, header, rows)


@dataclass(frozen=True)
class Options:
    """Where the figures lie and the page goes."""

    figures: Path = Path("figures")
    """Folder of figures, walked through."""
    out: Path = Path("gallery.html")
    """The page."""


def write_gallery(options: Options) -> str:
    """Write the page and return a line that says what is on it."""
    renderings = load_gallery(options.figures)
    content = gallery_page(renderings).encode()
    write_atomically(options.out, content)
    items = [item for rendering in renderings for item in rendering.items]
    figures, flawed = sum(item.image is not None for item in items), sum(bool(item.flaws) for item in items)
    warning = ": large for a browser" if len(content) > LARGE else ""
    marked = f", {flawed} marked as not what they say" if flawed else ""
    return (
        f"{options.out}: {figures} figures of {len(renderings)} folders{marked}; {len(content) / 1e6:.1f} MB{warning}"
    )


def main() -> None:
    """Write the page and say where."""
    print(write_gallery(tyro.cli(Options, prog="python -m analysis.pages.gallery", description=__doc__)))


if __name__ == "__main__":
    run_command(main)
