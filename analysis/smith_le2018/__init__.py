"""Smith and Le 2018: the best batch size, and the Bayesian evidence.

``evidence`` holds the second subject whole: its numbers, figure, table and verdicts.
The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
