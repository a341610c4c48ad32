"""The studies' own measurements, beside the probes of the library.

They import the library and nothing of the runner, so that a worker or a node loads no more than it needs.
"""
