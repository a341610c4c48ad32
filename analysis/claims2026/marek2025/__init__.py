"""Small batches in the training of language models: what Marek et al. 2025 claim, in small.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
