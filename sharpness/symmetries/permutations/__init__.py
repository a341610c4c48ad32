"""Which hidden units of a network can change places without changing what it computes, and which order fits best."""

from __future__ import annotations

from sharpness.symmetries.permutations.groups import Entry, Group, permuted
from sharpness.symmetries.permutations.matching import Match, match_weights
from sharpness.symmetries.permutations.search import PATTERNS, find_groups

__all__ = ["PATTERNS", "Entry", "Group", "Match", "find_groups", "match_weights", "permuted"]
