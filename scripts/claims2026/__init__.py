"""Scripts on claims of 2025 and 2026, each as those of older papers one folder up.

They import the runner, the measurements and the library's configs.
"""
