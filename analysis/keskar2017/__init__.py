"""The figures, tables and verdicts of Keskar et al. 2017."""
