"""The critical batch of a language model along its training: what Merrill et al. 2025 claim, in small.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
