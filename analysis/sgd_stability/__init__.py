"""The largest stable learning rate of SGD on least squares and between two basins, measured and computed.

The study's own tables, figures and verdicts, on ``analysis.runs``, ``analysis.report`` and ``analysis.statistics``.
"""
