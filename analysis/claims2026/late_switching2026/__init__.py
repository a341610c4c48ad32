"""The time to switch to large batches, as Wang et al. 2026 claim it, in small.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
