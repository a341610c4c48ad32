"""Smith and Le 2018: the best batch size, and the Bayesian evidence.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
