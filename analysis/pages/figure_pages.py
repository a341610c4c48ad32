"""All figures of each rendering on one page of the site, with their captions, numbers and origin.

It walks a folder of renderings: NAME.png with NAME.json (caption, origin, hash of the numbers), NAME.csv and NAME.pdf
is a figure, NAME.md a table, and README.md the page of the study. A figure whose CSV is not the one that it was drawn
from is marked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from analysis.pages.markdown import address, link, plain
from analysis.pages.papers import PAPERS, paper_of
from sharpness.errors import InputError
from sharpness.files import write_atomically

KINDS = {".csv": "numbers (CSV)", ".pdf": "for print (PDF)", ".json": "origin (JSON)"}
"""What lies beside a picture, and what it is to a reader."""


def renderings(figures: Path) -> list[Path]:
    """Return every folder with figures below one: those of the papers' studies in their order, then the others.

    Raises :class:`InputError` where there is none.
    """
    found = {path.parent for path in figures.rglob("*.png") if not path.name.startswith(".")}
    if not found:
        raise InputError(f"expected figures (PNG) in {figures}, got none: render a study first")
    studies = [study for paper in PAPERS.values() for study in paper.studies]
    order = {study: number for number, study in enumerate(studies)}

    def place(folder: Path) -> tuple[int, str]:
        name = folder.relative_to(figures).as_posix()
        return order.get(name.split("/")[0], len(order)), name

    return sorted(found, key=place)


def write_figure_pages(figures: Path, out: Path) -> list[str]:
    """Write a page of Markdown for every rendering to the folder ``out`` and return their names, without ``.md``."""
    out.mkdir(parents=True, exist_ok=True)
    folders = renderings(figures)
    names = ["-".join(folder.relative_to(figures).parts) or "all" for folder in folders]
    for name, folder in zip(names, folders, strict=True):
        write_atomically(out / f"{name}.md", figure_page(folder, figures, out).encode())
    return names


def figure_page(folder: Path, figures: Path, out: Path) -> str:
    """Return the page of one rendering, to lie in the folder ``out``."""
    paper = paper_of(folder.relative_to(figures).parts[0]) if folder != figures else None
    place = folder.relative_to(figures).as_posix()
    parts = [f"# {plain(f'{paper.heading}: {folder.name}' if paper else place)}\n"]
    page = folder / "README.md"
    if page.exists():
        parts.append(f"{link('Claims, findings and verdicts', page, out)} of this rendering.\n")
    parts += [_figure(path, out) for path in sorted(folder.glob("*.png"))]
    tables = sorted(path for path in folder.glob("*.md") if path != page)
    if tables:
        listed = "".join(f"- {link(path.stem, path, out)}{_marked(flaws(path))}\n" for path in tables)
        parts.append(f"## Tables\n\n{listed}")
    return "\n".join(parts)


def flaws(path: Path) -> Sequence[str]:
    """Return what is wrong with a figure or table: its origin is not known, or its numbers are not those drawn."""
    beside, numbers = path.with_suffix(".json"), path.with_suffix(".csv")
    if path.suffix == ".md" and not beside.exists():
        return ()  # a page of a benchmark, which is no table
    try:
        drawn_from = json.loads(beside.read_bytes())["csv_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return (f"{beside.name} is missing or damaged: the origin of the numbers is not known",)
    if not numbers.exists():
        return (f"{numbers.name} is missing: the numbers behind this are not here",)
    if drawn_from != hashlib.sha256(numbers.read_bytes()).hexdigest():
        return (f"{numbers.name} is not the file that this was rendered from (its SHA-256 differs)",)
    return ()


def _figure(path: Path, out: Path) -> str:
    wrong = flaws(path)
    beside = path.with_suffix(".json")
    caption = "" if wrong else plain(json.loads(beside.read_bytes()).get("caption", ""))
    there = [(path.with_suffix(suffix), kind) for suffix, kind in KINDS.items() if path.with_suffix(suffix).exists()]
    files = ", ".join(link(kind, each, out) for each, kind in there)
    picture = f"![{plain(path.stem)}]({address(path, out)})"
    return f"## {plain(path.stem)}{_marked(wrong)}\n\n{picture}\n\n{caption}\n\n{files}\n"


def _marked(wrong: Sequence[str]) -> str:
    return f" (**{plain(wrong[0])}**)" if wrong else ""
