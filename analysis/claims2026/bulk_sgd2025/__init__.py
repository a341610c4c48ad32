"""From the runs of ``scripts/claims2026/bulk_sgd2025.py`` to its figures, table and verdicts.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
