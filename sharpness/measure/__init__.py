"""From a request to a measured record: what a user or a study names, its guards, and the measuring itself.

It joins checkpoints, data and models with probes and landscapes; only the command line and the scripts stand above it.
"""
