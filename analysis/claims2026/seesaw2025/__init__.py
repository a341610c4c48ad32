"""A growing batch for a part of a learning rate's fall: what Meterez et al. 2025 claim of Seesaw, in small.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
