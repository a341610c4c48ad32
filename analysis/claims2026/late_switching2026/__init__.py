"""When to switch to large batches: what Wang et al. 2026 claim, in small.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
