"""Benchmarks of the library against its peers and against the barest code that does the same work.

``curvature``, ``landscape``, ``probe`` and ``training`` are commands, and the other files are what they share: nothing
outside this folder but the tests imports any of it, and it imports nothing of ``scripts`` but ``workers``.
"""
