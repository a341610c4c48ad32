"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

LATEX = {"–": "--", "±": r"$\pm$", "λ_max": r"$\lambda_{\max}$", "φ": r"$\phi$", "ε": r"$\epsilon$", "%": r"\%"}
LATEX |= {"τ": r"$\tau$", "η": r"$\eta$", "×": r"$\times$", "≤": r"$\le$", "√": r"$\surd$"}
LATEX |= {"α": r"$\alpha$", "λ": r"$\lambda$", "σ": r"$\sigma$", "|": "$|$", "<": "$<$", ">": "$>$"}
LATEX |= {"_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def markdown_text(header: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    """Return a table in Markdown with the note below it.

    >>> print(markdown_text(["", "n"], [["SB", "5"]], "Note."), end="")
    |  | n |
    | --- | ---: |
    | SB | 5 |
    <BLANKLINE>
    Note.
    """
    lines = [
        header,
        ["---", *["---:"] * (len(header) - 1)],
        *([cell.replace("|", r"\|") for cell in row] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{note}\n"


def latex_text(header: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    """Return a ``tabular`` for the package booktabs, escaped, with the note as its last line."""
    lines = [" & ".join(map(escaped, line)) + r" \\" for line in rows]
    last = rf"\multicolumn{{{len(header)}}}{{p{{\linewidth}}}}{{\footnotesize {escaped(note)}}}"
    head = " & ".join(map(escaped, header)) + r" \\"
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *lines, r"\bottomrule", last, r"\end{tabular}", ""])


def csv_text(table: pd.DataFrame) -> str:
    """Return the unrounded numbers as CSV; an empty field was not measured or makes no sense."""
    return table.to_csv(index=False, lineterminator="\n")


def escaped(text: str) -> str:
    r"""Return text as LaTeX.

    >>> print(escaped("λ_max [50 %] a_b -3"))
    $\lambda_{\max}$ [50 \%] a\_b $-$3
    """
    symbols = "|".join(re.escape(symbol) for symbol in sorted(LATEX, key=len, reverse=True))
    minus = re.compile(r"(?<!\w)-(?=[\d ])")
    return "$-$".join(re.sub(symbols, lambda match: LATEX[match[0]], part) for part in minus.split(text))


def slug(label: str) -> str:
    """Return a label as part of a file's name.

    >>> slug("C1, 5,000 held out")
    'c1_5_000_held_out'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in label.lower()).split()
    return "_".join(words)
