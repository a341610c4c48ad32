"""The last lines that a study prints: where its files lie, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console


def show_files(console: Console, files: Iterable[Path]) -> None:
    """Print where the figures and tables lie, one line each whatever its formats."""
    console.print("\nFigures (PDF, PNG, CSV, provenance JSON):", highlight=False)
    for path in files:
        if path.suffix in {".pdf", ".md"}:
            console.print(f"  {path}", highlight=False, soft_wrap=True)


def show_times(console: Console, spent: Mapping[str, float]) -> None:
    """Print the seconds of each stage and of all of them."""
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
    console.print(f"\n{times}; {sum(spent.values()):.0f} s in all", highlight=False)
