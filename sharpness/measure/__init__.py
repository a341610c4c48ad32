"""The way from a request to a measured record: the subject of a user or a study, its guards, and the measuring.

It joins checkpoints, data and models with probes and landscapes; only the command line and the scripts stand above it.
"""
