"""Keskar et al. 2017: small against large batch, in its sharpness, its accuracy, and under its critics' conditions.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
