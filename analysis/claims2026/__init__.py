"""The analyses of ``scripts/claims2026/``, a folder each, as those of older papers one folder up.

Each imports what those do: ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
