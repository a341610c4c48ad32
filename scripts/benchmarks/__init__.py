"""Benchmarks of the library against its peers and against the barest code that does the same work.

The commands are named in ``docs/benchmarks.md``; the contenders of three lie in their ``_peers``, and they share
``rows``, ``report``, ``tools`` and ``networks``. They import the library and the runner; only tests import them.
"""
