"""McCandlish et al. 2018: the gradient noise scale and the critical batch size.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
