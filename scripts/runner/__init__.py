"""The one runner of all studies: a grid of runs is trained, measured and rendered, in processes or on a Ray cluster.

Scripts import from here; this folder imports the library and knows no study.
"""
