"""Dinh et al. 2017: rescaled weights of an unchanged function.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
