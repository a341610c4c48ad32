"""The studies' own measurements, beside the probes of the library.

They import the library, the studies' grids and of the runner ``grid`` and ``site`` alone, so that a worker loads no
more than it needs; ``advised_batch``, a command, also reads two studies' tables.
"""
