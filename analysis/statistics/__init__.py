"""The statistics of a study: intervals, resampling, fits and rank correlations, on plain arrays.

Nothing here knows a run, a study or a figure.
"""
