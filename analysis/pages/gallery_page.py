"""The gallery as one HTML page: pure functions from what was read to text, everything of the files' escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from analysis.pages.gallery_style import SCRIPT, STYLE
from analysis.pages.markdown import html_of
from analysis.pages.papers import paper_of

if TYPE_CHECKING:
    from analysis.pages.gallery import Item, Numbers, Rendering
    from analysis.report.findings import Finding

ROWS = 200
"""Rows of a CSV that are shown; the download has all."""
SCALE = 1.4 * 96 / 300
"""CSS pixels per pixel of a figure, which has 300 to the inch: all figures 1.4 times as large as in print."""


def gallery_page(renderings: Sequence[Rendering]) -> str:
    """Return the page: contents, then a section per study with its renderings, verdicts, figures and tables."""
    studies = [(study, [*group]) for study, group in groupby(renderings, lambda each: each.place.split("/")[0])]
    figures = sum(item.image is not None for rendering in renderings for item in rendering.items)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sections = "\n".join(_study(study, group) for study, group in studies)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Gallery of figures</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>Gallery of figures</h1>
<p>{figures} figures of {_counted(len(studies), "study", "studies")}, each with its caption, the numbers drawn in it and their origin. Vector versions (PDF) and tables for LaTeX lie beside the files named here.</p>
<p class="filter" hidden><label>Show what mentions <input type="search" id="filter" autocomplete="off"></label> <output id="shown" for="filter"></output></p>
</header>
<nav aria-label="Contents">
<h2>Contents</h2>
{_contents(studies)}
</nav>
<main>
{sections}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""  # noqa: E501 - paragraphs of a page


def _contents(studies: Sequence[tuple[str, Sequence[Rendering]]]) -> str:
    entries = []
    for study, renderings in studies:
        inner = "".join(
            f"<li>{_link(rendering.place, rendering.place)}: "
            f"{', '.join(_link(f'{rendering.place}/{item.name}', item.name) for item in rendering.items)}</li>"
            for rendering in renderings
        )
        entries.append(f"<li>{_link(study, _title(study), 'study')}<ul>{inner}</ul></li>")
    return f"<ul>{''.join(entries)}</ul>"


def _study(study: str, renderings: Sequence[Rendering]) -> str:
    paper = paper_of(study)
    cited = ""
    if paper is not None:
        links = [f'<a href="{escape(address)}">{escape(label)}</a>' for label, address in paper.links]
        cited = f"<p>{', '.join([escape(paper.citation), *links])}.</p>\n"
    inner = "\n".join(map(_rendering, renderings))
    return f'<section id="{_id(study, "study")}">\n<h2>{escape(_title(study))}</h2>\n{cited}{inner}\n</section>'


def _rendering(rendering: Rendering) -> str:
    parts = [f'<section class="rendering" id="{_id(rendering.place)}">', f"<h3>{escape(rendering.place)}</h3>"]
    if rendering.findings:
        parts.append(_findings(rendering))
    parts += [_item(item, rendering.place) for item in rendering.items]
    if rendering.origin:
        parts.append(_origin("Origin of everything in this folder", rendering.origin))
    return "\n".join([*parts, "</section>"])


def _findings(rendering: Rendering) -> str:
    there = {item.name for item in rendering.items}
    counts = Counter(finding.verdict for finding in rendering.findings)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    rows = "".join(_finding(finding, rendering.place, there) for finding in rendering.findings)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("claim", "number", "verdict", "why", "here", "figure"))
    table = f'<div class="wide"><table class="words"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    claims = _counted(len(rendering.findings), "claim", "claims")
    return f"<details open><summary>{claims}: {escape(counted)}</summary>{table}</details>"


def _finding(finding: Finding, place: str, there: set[str]) -> str:
    known = finding.figure in there
    figure = _link(f"{place}/{finding.figure}", finding.figure) if known else escape(finding.figure)
    verdict = f'<td class="{finding.verdict.replace(" ", "-")}"><strong>{escape(finding.verdict)}</strong></td>'
    cells = [escape(finding.claim), escape(finding.number), None, escape(finding.why), escape(finding.setting), figure]
    return f"<tr>{''.join(verdict if cell is None else f'<td>{cell}</td>' for cell in cells)}</tr>"


def _item(item: Item, place: str) -> str:
    path = f"{place}/{item.name}"
    parts = [f'<figure id="{_id(path)}">', f"<h4>{escape(item.name)}</h4>"]
    parts += [f'<p class="flaw" role="note">{escape(flaw)}.</p>' for flaw in item.flaws]
    if item.image is not None:
        source = f"data:image/png;base64,{base64.b64encode(item.image).decode()}"
        width, height = (round(SCALE * pixels) for pixels in struct.unpack(">II", item.image[16:24]))
        alt = escape(item.caption or item.name)
        parts.append(f'<img width="{width}" height="{height}" alt="{alt}" src="{source}">')
    if item.markdown:
        parts.append(html_of(item.markdown, 5))
    if item.caption and (item.image is not None or not item.markdown):  # a table's Markdown ends with its caption
        parts.append(f"<figcaption>{escape(item.caption)}</figcaption>")
    if item.numbers is not None:
        parts.append(_numbers(item.numbers, path))
    if item.origin:
        parts.append(_origin("Origin of this one alone", item.origin))
    return "\n".join([*parts, "</figure>"])


def _numbers(numbers: Numbers, path: str) -> str:
    count = len(numbers.rows)
    said = _counted(count, "row", "rows") + (f", the first {ROWS} shown" if count > ROWS else "")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in numbers.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(v)}</td>' for v in row)}</tr>\n" for row in numbers.rows[:ROWS])
    table = f'<div class="wide data"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'
    address = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(numbers.content).decode()}"
    file = escape(path.rpartition("/")[2])
    link = f'<a download="{file}.csv" href="{address}">Download {file}.csv</a>'
    return f"<details><summary>Numbers: {said}</summary><p>{link}</p>{table}</details>"


def _origin(title: str, origin: Mapping[str, Any]) -> str:
    text = json.dumps(origin, indent=1, sort_keys=True, ensure_ascii=False)
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"


def _title(study: str) -> str:
    paper = paper_of(study)
    return study.replace("_", " ") if paper is None else f"{paper.heading} ({study})"


def _id(path: str, kind: str = "at") -> str:
    """Return the anchor of a place: two places never share one, whatever their names.

    >>> _id("a b/c"), _id("keskar2017", "study")
    ('at:a%20b/c', 'study:keskar2017')
    """
    return f"{kind}:{quote(path)}"


def _link(path: str, label: str, kind: str = "at") -> str:
    return f'<a href="#{_id(path, kind)}">{escape(label)}</a>'


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
