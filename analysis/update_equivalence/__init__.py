"""A larger batch in place of a smaller learning rate.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
