"""Hidden units that can change places without changing what a network computes, and the order that fits best.

They import the tracing of a network in ``sharpness.symmetries`` and the loss's modes.
"""

from __future__ import annotations

from sharpness.symmetries.permutations.groups import Entry, Group, permuted
from sharpness.symmetries.permutations.matching import Match, match_weights
from sharpness.symmetries.permutations.search import PATTERNS, find_groups

__all__ = ["PATTERNS", "Entry", "Group", "Match", "find_groups", "match_weights", "permuted"]
