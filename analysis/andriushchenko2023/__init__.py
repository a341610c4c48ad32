"""Andriushchenko et al. 2023: which of many measures goes with the generalisation gap.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
