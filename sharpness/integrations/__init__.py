"""The tracker in other libraries' trainers, and their places for numbers; none of them has to be installed.

They import the tracker in ``sharpness.training``; nothing in the library imports them.
"""
