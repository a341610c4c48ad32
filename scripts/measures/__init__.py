"""The studies' own measurements, beside the probes of the library.

They import the library and of the runner ``grid`` and ``site`` alone, so that a worker or a node loads no more than it
needs.
"""
