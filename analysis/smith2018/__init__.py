"""Smith et al. 2018: a growing batch in place of a decaying learning rate.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
