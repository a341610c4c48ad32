"""McCandlish et al. 2018: the gradient noise scale and the critical batch size.

``results`` works out once what figures, tables and verdicts share; ``batch_figures`` are those of critical batch sizes.
The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
