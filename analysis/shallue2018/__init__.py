"""Shallue et al. 2018: steps to a goal against the batch size.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
