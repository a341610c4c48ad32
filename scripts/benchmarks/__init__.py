"""Benchmarks of the library against its peers and against the barest code that does the same work.

``curvature``, ``landscape``, ``probe`` and ``training`` are commands, the contenders of each lie in its ``_peers``, and
all share ``rows``, ``report``, ``tools`` and ``networks``. The tests may import these, nothing else does.
"""
