"""The form of every study's result: figures, tables, sentences and verdicts, and how they are written.

A study's folder imports from here; this folder imports ``analysis.runs``, ``analysis.statistics`` and the plots' style.
"""
