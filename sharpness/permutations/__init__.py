"""Which hidden units of a network can change places without changing what it computes, and which order fits best."""

from __future__ import annotations

from sharpness.permutations.groups import Entry, Group, permuted
from sharpness.permutations.matching import Match, match_weights
from sharpness.permutations.search import PATTERNS, find_groups

__all__ = ["PATTERNS", "Entry", "Group", "Match", "find_groups", "match_weights", "permuted"]
