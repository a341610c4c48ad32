"""Spectral algorithms that know a matrix only through its product with vectors.

Curvature and all above it import from here; this folder knows vectors and files, and neither losses nor networks.
"""
