"""From the runs of ``scripts/claims2026/stochastic_edge.py`` to its figures, table and verdicts.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
