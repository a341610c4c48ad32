"""The Markdown that is written here: text put into it unchanged, links and tables."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
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
