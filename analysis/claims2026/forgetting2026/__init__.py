"""Sharpness of a language model, and what rounding and a second text cost it, in five ways to end its training.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
