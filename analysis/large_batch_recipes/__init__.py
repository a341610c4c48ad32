"""Recipes for large batches: scaling rules, warm-up, LARS, ghost norms, many workers.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
