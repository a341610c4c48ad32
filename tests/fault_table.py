"""Print how every planted fault is found, as the table of ``docs/numbers.md``: ``python -m tests.fault_table``."""

from __future__ import annotations

import warnings

from tests.fault_cases import FAULTS
from tests.test_self_check import found

SHOWN = 150


def row(name: str) -> str:
    """Return the line of one fault: its name, how it is found, and the beginning of what is said."""
    seen = found(FAULTS[name]) or "not found"
    how, _, said = seen.partition(": ")
    said = " ".join(said.strip("[]'").replace("|", "/").split())
    return f"| {name} | {how} | {said[:SHOWN] + ('...' if len(said) > SHOWN else '')} |"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = [row(name) for name in FAULTS]
    print("| fault | found by | what is said |\n|---|---|---|")
    print("\n".join(rows))
    print(f"\n{sum('not found' not in line for line in rows)} of {len(rows)} faults found")
