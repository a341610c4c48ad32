"""Spectral algorithms that know a matrix only through its product with vectors."""
