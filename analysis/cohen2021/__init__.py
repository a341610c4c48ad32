"""Cohen et al. 2021: the edge of stability.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
