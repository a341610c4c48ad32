"""The Markdown that is written here, to and fro: text put into it unchanged, links and tables, and as HTML."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

SPECIAL = re.compile(r"[\\`*~$|<>]|\[(?=[^\]]*\]\()|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|\](?=\()")
"""What Markdown (with GitHub's tables, mathematics and strike-through) does not show as it stands."""


def plain(text: str) -> str:
    r"""Return a text as one line of Markdown, or one cell of a table, that shows it unchanged.

    >>> print(plain("box ε(|x| + 1) of lambda_max, [1, 2]"))
    box ε(\|x\| + 1) of lambda_max, [1, 2]
    """
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def address(target: Path, base: Path) -> str:
    """Return the address of a file in a page that lies in the folder ``base``."""
    return quote(Path(os.path.relpath(target, base)).as_posix())


def link(label: str, target: Path, base: Path) -> str:
    """Return a link to a file from a page that lies in the folder ``base``.

    >>> print(link("all", Path("figures/a b.png"), Path("docs")))
    [all](../figures/a%20b.png)
    """
    return f"[{plain(label)}]({address(target, base)})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a table of cells that are Markdown already; the columns ``right`` are set flush right."""
    rule = ["---:" if number in right else "---" for number in range(len(header))]
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *rows])


def html_of(text: str, level: int = 4) -> str:
    """Return headings, tables and paragraphs of Markdown as HTML, everything in them escaped.

    Headings start at ``<h{level}>``. Inside a line, backticks and double stars alone are understood.

    >>> print(html_of("# A `b`\\n\\n| x | n |\\n| --- | ---: |\\n| 1 < 2 | 5 |\\n", 3))
    <h3>A <code>b</code></h3>
    <div class="wide"><table><thead><tr><th>x</th>...<td>1 &lt; 2</td><td class="n">5</td></tr></tbody></table></div>
    """
    blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]
    return "\n".join(_block(block.strip("\n").splitlines(), level) for block in blocks)


def _block(lines: list[str], level: int) -> str:
    if lines[0].startswith("|") and len(lines) > 1 and set(lines[1]) <= set("|-: "):
        return _table(lines)
    heading = re.fullmatch(r"(#+) +(.*)", lines[0])
    if heading is None:
        return f"<p>{_inline(' '.join(lines))}</p>"
    depth = min(level + len(heading[1]) - 1, 6)
    rest = f"\n{_block(lines[1:], level)}" if len(lines) > 1 else ""
    return f"<h{depth}>{_inline(heading[2])}</h{depth}>{rest}"


def _table(lines: list[str]) -> str:
    header, rule, *rows = map(_cells, lines)
    classes = [' class="n"' if cell.endswith(":") else "" for cell in rule]
    head = "".join(f"<th{of}>{_inline(cell)}</th>" for cell, of in zip(header, classes, strict=False))
    body = "".join(
        f"<tr>{''.join(f'<td{of}>{_inline(cell)}</td>' for cell, of in zip(row, classes, strict=False))}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
